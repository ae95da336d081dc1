"""The example of an MCP server, used as decisions would use it: started for a run, and behind a URL."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_testing import CommandLine
from http_server import answer, raw, service
from router_testing import call, step

from nexus_attest.routers import (
    CallFailed,
    CallLimit,
    CallOutcome,
    CallRefused,
    McpAdapter,
    RunEngine,
    RunFailed,
    load_adapters,
    parse_adapters,
)

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "keyregistry"

FINGERPRINT = "sha256:" + "ab" * 32
PUBLISH = {"name": "release.example", "fingerprint": FINGERPRINT}

SERVE = """
import socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import uvicorn
from server import build
app = build(Path(sys.argv[2])).streamable_http_app()
uvicorn.Server(uvicorn.Config(app)).run(sockets=[socket.socket(fileno=int(sys.argv[3]))])
"""


def started(folder: Path, **keys: object) -> McpAdapter:
    """The adapter of the example file, with this Python and a registry in a folder of the test."""
    (example,) = load_adapters(EXAMPLE / "adapters.toml")
    entry = {
        "id": example.adapter_id,
        "kind": "mcp",
        "command": sys.executable,
        "args": [str(EXAMPLE / "server.py"), str(folder / "registry.json")],
    }
    (adapter,) = parse_adapters({"adapters": [{**entry, "allow": list(example.settings.allow), **keys}]}, base_dir=folder)
    assert isinstance(adapter, McpAdapter)
    return adapter


def behind(url: str, **keys: object) -> McpAdapter:
    """The adapter of a server behind a URL."""
    (adapter,) = parse_adapters(
        {"adapters": [{"id": "mcp:url", "kind": "mcp", "url": url, "allow": ["registry/*"], **keys}]}, base_dir=Path("/")
    )
    assert isinstance(adapter, McpAdapter)
    return adapter


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example behind a URL. It is given a socket that listens already, so nobody comes too early and nobody else gets the port."""
    registry = tmp_path_factory.mktemp("registry") / "registry.json"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, number = listener.getsockname()[1], listener.fileno()
        command = [sys.executable, "-c", SERVE, str(EXAMPLE), str(registry), str(number)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[number])
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        server.wait()


def test_a_plan_publishes_and_looks_up(tmp_path: Path) -> None:
    plan = json.dumps(
        [
            {"tool": "registry", "method": "publish", "args": PUBLISH},
            {"tool": "registry", "method": "lookup", "args": {"name": "release.example"}},
        ]
    )
    with RunEngine([started(tmp_path)]) as engine:
        arguments = {"goal": "publish the key", "adapter_id": "mcp:keyregistry", "plan": plan}
        assert engine.run(**arguments, dry_run=True)["steps_executed"] == 2  # pyright: ignore[reportArgumentType]
        assert not (tmp_path / "registry.json").exists()
        response = engine.run(**arguments, dry_run=False)  # pyright: ignore[reportArgumentType]
        events = engine.flight_record(response["run_id"])["events"]
    outputs = [event["payload"]["output"] for event in events if event["type"] == "TOOL_CALL_SUCCEEDED"]
    assert [output["structuredContent"] for output in outputs] == [{**PUBLISH, "revision": 1}] * 2
    assert json.loads((tmp_path / "registry.json").read_text()) == {"release.example": {**PUBLISH, "revision": 1}}


def test_arguments_that_the_tool_does_not_take_are_its_error(tmp_path: Path) -> None:
    plan = json.dumps([{"tool": "registry", "method": "publish", "args": {"name": "x", "fingerprint": "abc"}}])
    with RunEngine([started(tmp_path)]) as engine, pytest.raises(RunFailed) as caught:
        engine.run(goal="g", adapter_id="mcp:keyregistry", dry_run=False, plan=plan)
    assert caught.value.code == "TOOL_ERROR"
    assert not (tmp_path / "registry.json").exists()


def test_the_example_allows_its_two_tools(tmp_path: Path) -> None:
    with pytest.raises(CallRefused) as caught:
        started(tmp_path).check(step("registry", "destroy"))
    assert caught.value.code == "CALL_NOT_ALLOWED"


def test_the_same_server_behind_a_url_answers_the_same(url: str) -> None:
    assert call(behind(url), "registry", "publish", PUBLISH)["structuredContent"] == {**PUBLISH, "revision": 1}
    assert call(behind(url), "registry", "lookup", {"name": "release.example"})["structuredContent"]["fingerprint"] == FINGERPRINT


def test_the_pin_of_a_server_does_not_depend_on_how_it_is_reached(url: str, tmp_path: Path) -> None:
    until = CallLimit(time.monotonic() + 100)
    digest = started(tmp_path).survey(until).details["tools_digest"]
    behind(url, tools_digest=digest).open([step("registry", "lookup")], until).close()
    with pytest.raises(CallRefused) as caught:
        behind(url, tools_digest="sha256:" + "0" * 64).open([step("registry", "lookup")], until)
    assert caught.value.code == "TOOL_DEFINITION_CHANGED"


def test_a_survey_tells_an_operator_what_to_pin_and_what_the_tools_say(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path, actor=None)
    path = tmp_path / "adapters.json"
    keys = {"command": sys.executable, "args": [str(EXAMPLE / "server.py"), "registry.json"], "allow": ["registry/*"]}
    path.write_text(json.dumps({"adapters": [{"id": "mcp:keyregistry", "kind": "mcp", **keys}]}))
    told = cli.run("adapters", "survey", str(path), "mcp:keyregistry")
    first, *tools, pin = told.out.splitlines()
    assert first == "keyregistry 1.0.0, MCP 2026-07-28"
    assert tools == [
        "  lookup: Tell the fingerprint that is published for a name.",
        "  publish: Publish the fingerprint of a key under a name, in the place of the former one.",
    ]
    found = cli.json("adapters", "survey", str(path), "mcp:keyregistry")
    assert pin == f'tools_digest = "{found["tools_digest"]}"'
    assert found["tools"]["publish"]["annotations"]["destructiveHint"] is True
    assert cli.json("adapters", "survey", str(path), "mcp:other", code=2)["code"] == "UNKNOWN_ADAPTER"
    assert not (tmp_path / "registry.json").exists()


def failure(adapter: McpAdapter, seconds: float = 60.0) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        adapter.open([step("registry", "lookup")], CallLimit(time.monotonic() + seconds))
    assert caught.value.outcome == CallOutcome.NOT_SENT
    return caught.value


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
def test_a_server_that_redirects_to_another_one_is_not_followed(status: str) -> None:
    with service(answer(b"{}")) as inner, service(answer(b"{}", status, f"Location: http://127.0.0.1:{inner.port}/mcp")) as found:
        assert failure(behind(found.url)).code == "CONNECTION_FAILED"
    assert inner.requests == []


def test_a_server_that_announces_three_gigabytes_is_cut_off() -> None:
    body = raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3221225472\r\n\r\n" + b"x" * 10_000_000)
    with service(body) as found:
        assert failure(behind(found.url)).code == "OUTPUT_TOO_LARGE"


def test_a_server_that_drips_is_given_up_at_the_start_limit() -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b":\n")
            time.sleep(0.05)

    with service(drip) as found:
        began = time.monotonic()
        assert failure(behind(found.url, start_timeout_s=0.5)).code == "TIMEOUT"
        assert time.monotonic() - began < 40


def test_a_server_that_is_not_there_or_not_allowed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(behind("http://127.0.0.1:1/mcp")).code == "CONNECTION_FAILED"

    def getaddrinfo(_host: object, port: object, *_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.5", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert failure(behind("https://mcp.example/mcp")).code == "ADDRESS_NOT_ALLOWED"
