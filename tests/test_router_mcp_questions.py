"""A server that asks back without end is given up: nothing of the call is made twice, and nothing piles up."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCResponse
from router_testing import step

from nexus_attest.routers import Adapter, Call, CallFailed, CallIdentity, CallLimit, CallOutcome, CallResult, parse_adapters
from nexus_attest.routers.clients.mcp_outbox import Outbox

SERVER = Path(__file__).resolve().parent / "mcp_http_server.py"

Asked = Callable[[str, Mapping[str, object]], CallResult]


@contextmanager
def server(folder: Path, *mode: str) -> Generator[Adapter]:
    """The adapter of a server that runs in a process of its own."""
    process = subprocess.Popen([sys.executable, "-S", str(SERVER), str(folder), *mode], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        (adapter,) = parse_adapters({"adapters": [{"id": "mcp:asking", "kind": "mcp", "url": url, "allow": ["s/*"]}]}, base_dir=folder)
        yield adapter
    finally:
        process.kill()
        process.communicate()


def limit() -> CallLimit:
    return CallLimit(time.monotonic() + 100)


def called(folder: Path, name: str) -> int:
    """How often the server got a request for a method or a tool."""
    return [json.loads(line)["name"] for line in (folder / "calls").read_text().splitlines()].count(name)


@contextmanager
def session(adapter: Adapter) -> Generator[Asked]:
    """Calls in one session; no thread of it stays behind."""
    before = set(threading.enumerate())
    opened = adapter.open([step("s", "question_on")], limit())

    def asked(tool: str, args: Mapping[str, object]) -> CallResult:
        identity = CallIdentity(run_id="run-1", step_id="s1", execution_id=None)
        return opened.call(Call(step=step("s", tool, args), identity=identity, limit=limit()))

    try:
        yield asked
    finally:
        opened.close()
        assert set(threading.enumerate()) == before


@pytest.mark.parametrize("method", ["ping", "elicitation/create", "sampling/createMessage"])
def test_a_server_behind_a_url_that_asks_without_end_and_takes_no_answer_is_given_up(tmp_path: Path, method: str) -> None:
    with server(tmp_path) as adapter, session(adapter) as asked:
        with pytest.raises(CallFailed) as caught:
            asked("question_on", {"asks": method})
        assert (caught.value.code, caught.value.outcome) == ("OUTPUT_TOO_LARGE", CallOutcome.UNKNOWN)
        assert asked("echo", {}).output["content"][0]["text"] == "done"  # in a new session
    assert called(tmp_path, "question_on") == 1
    assert called(tmp_path, "initialize") == 2


def test_a_server_that_asks_without_end_before_it_lists_its_tools_is_given_up(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with server(tmp_path, "starting") as adapter:
        with pytest.raises(CallFailed) as caught:
            adapter.open([step("s", "question_on")], limit())
        assert (caught.value.code, caught.value.outcome) == ("OUTPUT_TOO_LARGE", CallOutcome.NOT_SENT)
    assert set(threading.enumerate()) == before


def answers(number: int, digits: int) -> list[SessionMessage]:
    """Answers to questions whose names have so many digits."""
    return [SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=f"{n:0{digits}}", result={})) for n in range(number)]


async def sent(outbox: Outbox, messages: list[SessionMessage]) -> int:
    """How many of the messages could be sent."""
    for number, message in enumerate(messages):
        try:
            await outbox.send(message)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return number
    return len(messages)


@pytest.mark.parametrize(("digits", "kept"), [(1, 1001), (100_000, 11)], ids=["many", "large"])
def test_what_waits_for_a_server_is_bounded_in_number_and_in_size(digits: int, kept: int) -> None:
    given_up: list[bool] = []

    async def fill() -> None:
        outbox = Outbox(lambda: given_up.append(True), most_bytes=1_000_000)
        assert await sent(outbox, answers(1200, digits)) == kept
        assert await sent(outbox, answers(1, 1)) == 0
        outbox.close()

    anyio.run(fill)
    assert given_up == [True]  # for the last one, and only once


def test_what_a_server_takes_does_not_count_and_the_order_stays() -> None:
    async def pass_through() -> None:
        outbox = Outbox(pytest.fail, most_bytes=1000)
        for message in answers(3000, 500):
            assert await sent(outbox, [message, message]) == 2
            for _ in range(2):
                taken, text = await anext(outbox)
                assert taken is message
                assert JSONRPCResponse.model_validate_json(text) == message.message
        assert await sent(outbox, answers(2, 1)) == 2
        await outbox.aclose()
        assert [json.loads(text)["id"] async for _, text in outbox] == ["0", "1"]
        outbox.close()

    anyio.run(pass_through)
