"""What clients hear of the server's own trouble: the code and what to do, and nothing about the machine, which the log tells."""

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.types import PromptReference, ResourceTemplateReference
from mcp_testing import ALICE, BOB, CONNECTIONS, answer, connected, error_of, in_process, lines
from tasks_testing import Tasks, cancel, deferred, get, update

from nexus_attest.server.advice import next_step
from nexus_attest.server.app import build_server
from nexus_attest.server.discretion import FAULTS, RETRYABLE
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.results import failure, protocol_error
from nexus_control.errors import NexusError, StoreBusy, StoreError, StoreUnreadable

pytestmark = pytest.mark.anyio

NOT_TOOLS: dict[str, Callable[[Client, str], Awaitable[Any]]] = {
    "the list of resources": lambda client, _: client.list_resources(),
    "a resource": lambda client, request_id: client.read_resource(f"nexus://decisions/{request_id}"),
    "a timeline": lambda client, request_id: client.read_resource(f"nexus://decisions/{request_id}/timeline"),
    "a prompt": lambda client, request_id: client.get_prompt("review_decision", {"request_id": request_id}),
    "a completed id": lambda client, _: client.complete(PromptReference(name="review_decision"), {"name": "request_id", "value": ""}),
    "a completed name": lambda client, _: client.complete(
        ResourceTemplateReference(uri="nexus://templates/{name}"), {"name": "name", "value": ""}
    ),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_where_the_store_is_stays_on_the_machine(connection: str, tmp_path: Path) -> None:
    async with connected(connection, tmp_path, quiet=False) as client:
        request_id = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
        (tmp_path / "decisions.db").rename(tmp_path / "elsewhere.db")
        for tool, arguments in (
            ("status", {"request_id": request_id}),
            ("inspect", {"decision_id": request_id}),
            ("export_bundle", {"decision_id": request_id}),
            ("template.list", {}),
            ("list", {}),
            ("request", {"goal": "g", "actor": ALICE}),
            ("approve", {"request_id": request_id, "actor": ALICE}),
        ):
            error = await error_of(client, tool, **arguments)
            assert error["text"] == "STORE_ERROR: the store cannot do this now. Tell the operator; calling again does not help."
            assert str(tmp_path) not in json.dumps(error)
        for name, ask in NOT_TOOLS.items():
            with pytest.raises(MCPError) as caught:
                await ask(client, request_id)
            error = caught.value.error
            assert (error.code, error.data["code"], "retryable" in error.data) == (-32603, "STORE_ERROR", False), name
            assert error.message == "STORE_ERROR: the store cannot do this now. Tell the operator; calling again does not help."
            assert "decisions.db" not in caught.value.error.model_dump_json()
        (tmp_path / "elsewhere.db").rename(tmp_path / "decisions.db")
        assert (await answer(client, "status", request_id=request_id))["event_count"] == 2


def test_the_log_says_where_the_store_is_and_for_which_request(tmp_path: Path) -> None:
    with lines(tmp_path, "--log-level", "warning") as server:
        server.begin()
        (tmp_path / "decisions.db").rename(tmp_path / "elsewhere.db")
        server.call(7, "inspect", decision_id="x")
        assert server.receive()["id"] == 7
        line = json.loads(server.stderr.readline())
    assert (line["level"], line["request_id"], line["code"]) == ("warning", 7, "STORE_ERROR")
    assert f"{tmp_path}/decisions.db: the file was removed or replaced" in line["problem"]


@pytest.mark.parametrize("name", NOT_TOOLS)
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_what_can_be_asked_again_is_told_as_such(tmp_path: Path, mode: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In process: a store that is busy for half a minute cannot be had at will."""

    def busy(*_: object, **__: object) -> Any:
        raise StoreBusy(f"{tmp_path}/decisions.db: database is locked")

    with in_process(tmp_path) as service:
        async with Client(build_server(service), mode=mode) as client:
            request_id = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
            template_store = service.tools.template_store
            for method in ("snapshot", "get_events", "decision_page", "list_generations", "history", "get_events_of"):
                monkeypatch.setattr(service.tools.store, method, busy)
            monkeypatch.setattr(template_store, "list_templates", busy)
            with pytest.raises(MCPError) as caught:
                await NOT_TOOLS[name](client, request_id)
            assert (caught.value.error.code, caught.value.error.message) == (-32603, "STORE_BUSY: the store is busy. Try again.")
            assert caught.value.error.data["retryable"] is True
            error = await error_of(client, "status", request_id=request_id)
            assert (error["code"], error["retryable"], error["text"]) == ("STORE_BUSY", True, "STORE_BUSY: the store is busy. Try again.")


async def answer_nothing(client: Client, task_id: str) -> Any:
    return await update(client, task_id, {"x": {"action": "decline"}})


@pytest.mark.parametrize("method", [get, cancel, answer_nothing], ids=["get", "cancel", "update"])
async def test_the_methods_of_tasks_are_as_discreet(
    method: Callable[[Client, str], Awaitable[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> Any:
        raise StoreBusy(f"{tmp_path}/decisions.db: database is locked")

    with in_process(tmp_path) as service:
        service.asker = HumanAsker(tools=service.tools, limiter=service.store_threads, systems=True)
        async with Client(build_server(service), extensions=[Tasks()]) as client:
            request_id = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
            task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
            (tmp_path / "decisions.db").rename(tmp_path / "elsewhere.db")
            with pytest.raises(MCPError) as gone:
                await method(client, task_id)
            (tmp_path / "elsewhere.db").rename(tmp_path / "decisions.db")
            monkeypatch.setattr(service.tools.store, "get_events", busy)
            with pytest.raises(MCPError) as locked:
                await method(client, task_id)
    error = gone.value.error
    assert (error.code, error.data) == (-32603, {"code": "STORE_ERROR"})
    assert error.message == "STORE_ERROR: the store cannot do this now. Tell the operator; calling again does not help."
    error = locked.value.error
    assert (error.code, error.data) == (-32603, {"code": "STORE_BUSY", "retryable": True})
    assert error.message == "STORE_BUSY: the store is busy. Try again."


def codes_of(kind: type[NexusError]) -> set[str]:
    return {kind.code}.union(*(codes_of(child) for child in kind.__subclasses__()))


def test_no_error_of_the_store_is_told_in_its_own_words(caplog: pytest.LogCaptureFixture) -> None:
    assert codes_of(StoreError) <= FAULTS.keys()
    assert FAULTS.keys() >= RETRYABLE
    for code in FAULTS:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nexus_attest.server"):
            answers = [json.dumps(failure(code, f"{code}: /var/secret.db: broken")), protocol_error(code, "/var/secret.db: broken")]
        assert all("secret" not in str(said) and next_step(code) in str(said) for said in answers), code
        assert [record.__dict__["facts"]["problem"] for record in caplog.records] == ["/var/secret.db: broken"] * 2


def test_what_the_caller_did_wrong_is_told_in_full() -> None:
    error = protocol_error("DECISION_NOT_FOUND", "DECISION_NOT_FOUND: Decision not found: x", uri="nexus://decisions/x").error
    assert (error.code, error.data) == (-32602, {"code": "DECISION_NOT_FOUND", "uri": "nexus://decisions/x"})
    assert error.message == "DECISION_NOT_FOUND: Decision not found: x. Use the request_id that request returned."
    assert protocol_error("EVENT_UNREADABLE", "EVENT_UNREADABLE: x").error.code == -32603


def test_a_run_whose_end_was_not_recorded_is_named_without_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    problem = StoreUnreadable("/var/secret.db: broken")
    text = f"OUTCOME_NOT_RECORDED: Run r-1 ended (EXECUTION_COMPLETED) but could not be recorded: {problem}. More."
    message = failure("OUTCOME_NOT_RECORDED", text)["_meta"]["io.github.nexus-attest/error"]["message"]
    assert message == "Run r-1 ended (EXECUTION_COMPLETED) but could not be recorded"
    assert "secret" in caplog.records[0].__dict__["facts"]["problem"]
