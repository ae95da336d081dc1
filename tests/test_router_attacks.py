"""Each attack on a run, through the engine: told truthfully on the record, made once at most, nothing leaked, nothing left running.

The tests of each adapter look closer; here every attack ends in the same questions to the record.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_server import raw, service
from router_testing import LimitAfter, adapter_file, is_running

from nexus_attest.routers import Adapter, CallLimit, RunEngine, RunFailed, load_adapters, parse_adapters
from nexus_control.flight_shape import misplaced_events, unfounded_results

SECRET = "hunter2-hunter2/+hunter2"
HEADER = f"Bearer {SECRET}"

GREETING = """
import json, os, sys, time
open("made", "a").write("x")
secret = os.environ["API_TOKEN"]
os.write(2, ("using " + secret + " " + json.dumps(secret).replace("/", "\\\\/") + "\\n").encode())
"""
"""A tool that counts its calls and tells its secret to its error output."""

COMMANDS: dict[str, tuple[str, str, str]] = {
    # What the tool does, and the code and outcome that the record must tell.
    "50 MB of output": ("sys.stdout.write('{\"a\": \"' + 'x' * 52_428_800)", "OUTPUT_TOO_LARGE", "unknown"),
    "50 MB of errors": ("sys.stderr.write('x' * 52_428_800); print('{}')", "OUTPUT_TOO_LARGE", "unknown"),
    "hangs": ("time.sleep(300)", "TIMEOUT", "unknown"),
    "hangs, forks and detaches": ("os.fork() or (os.setsid(), os.fork() and os._exit(0)); time.sleep(300)", "TIMEOUT", "unknown"),
    "closes its pipes": ("os.close(1); os.close(2); time.sleep(300)", "TIMEOUT", "unknown"),
    "prints NaN": ("print('{\"a\": NaN}')", "INVALID_JSON_OUTPUT", "unknown"),
    "prints half an object": ('print(\'{"a": "\' + secret)', "INVALID_JSON_OUTPUT", "unknown"),
    "prints two objects": ("print('{} {}')", "INVALID_JSON_OUTPUT", "unknown"),
    "prints invalid UTF-8": ('os.write(1, b\'{"a": "\\xff"}\')', "INVALID_JSON_OUTPUT", "unknown"),
    "prints half a character": ('print(\'{"a": "\\\\ud800"}\')', "INVALID_JSON_OUTPUT", "unknown"),
    "prints a duplicate key": (
        "print(json.dumps({secret: 1})[:-1] + ', ' + json.dumps(secret) + ': 2}')",
        "INVALID_JSON_OUTPUT",
        "unknown",
    ),
    "kills itself": ("os.kill(os.getpid(), 9)", "NONZERO_EXIT", "unknown"),
    "fails and tells its secret": ("sys.exit(3)", "NONZERO_EXIT", "failed"),
}


def failed(adapter: Adapter, method: str = "go", args: dict[str, object] | None = None) -> tuple[RunFailed, list[dict[str, Any]]]:
    """How a run of one call ends, and its events. The record must make sense, and hold nothing of the secret."""
    plan = json.dumps([{"tool": "t", "method": method, "args": args or {}}, {"tool": "t", "method": "never"}])
    with RunEngine([adapter]) as engine:
        with pytest.raises(RunFailed) as caught:
            engine.run(goal="g", adapter_id=adapter.adapter_id, dry_run=False, plan=plan)
        assert caught.value.run_id is not None
        record = engine.flight_record(caught.value.run_id)
    events: list[dict[str, Any]] = record["events"]
    assert record["run"]["status"] == "FAILED"
    assert [*misplaced_events(events), *unfounded_results(events)] == []
    assert "hunter2" not in json.dumps(record) + str(caught.value)
    return caught.value, events


def told(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Code and outcome of each call on the record; every one of them failed."""
    failures = [event["payload"] for event in events if event["type"] == "TOOL_CALL_FAILED"]
    assert len(failures) == sum(event["type"] == "TOOL_CALL_REQUESTED" for event in events)
    return [(failure["error_code"], failure["outcome"]) for failure in failures]


@pytest.mark.parametrize("attack", sorted(COMMANDS))
def test_whatever_a_program_does_is_on_the_record_and_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    script, code, outcome = COMMANDS[attack]
    monkeypatch.setenv("API_TOKEN", SECRET)
    (tmp_path / "tool.py").write_text(GREETING + script + "\n", encoding="utf-8")
    (adapter,) = load_adapters(adapter_file(tmp_path, command=[sys.executable, "-S", "tool.py"], pass_env=["API_TOKEN"]))
    if code == "TIMEOUT":
        made = tmp_path / "made"

        def limited(_: float, cancelled: threading.Event) -> CallLimit:
            return LimitAfter(lambda: made.exists() and made.read_text() == "x", 0.5, cancelled)

        monkeypatch.setattr("nexus_attest.routers.steps.CallLimit", limited)
    failure, events = failed(adapter)
    assert failure.code == code
    assert told(events) == [(code, outcome)]
    assert (tmp_path / "made").read_text() == "x"
    assert running_in(tmp_path) == []


def running_in(folder: Path) -> list[int]:
    """The processes that work in a folder, on systems that tell."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if is_running(int(entry.name)) and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b" ")
        time.sleep(0.05)


SERVICES: dict[str, tuple[Callable[[socket.socket], None], str, str]] = {
    "redirects to this host": (
        raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
        "HTTP_ERROR",
        "unknown",
    ),
    "drips": (drip, "TIMEOUT", "unknown"),
    "announces 3 GB": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000000\r\n\r\n{"), "OUTPUT_TOO_LARGE", "unknown"),
    "hangs up": (raw(b""), "CONNECTION_LOST", "unknown"),
    "answers with its secret": (
        raw(f"HTTP/1.1 200 {SECRET}\r\nX: {SECRET}\r\nContent-Length: 24\r\n\r\n{SECRET}".encode()),
        "INVALID_JSON",
        "unknown",
    ),
    "refuses with its secret": (raw(f"HTTP/1.1 403 {SECRET}\r\nContent-Length: 24\r\n\r\n{SECRET}".encode()), "HTTP_ERROR", "failed"),
}


@pytest.mark.parametrize("attack", sorted(SERVICES))
def test_whatever_a_service_does_is_on_the_record_and_happens_once(monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    script, code, outcome = SERVICES[attack]
    monkeypatch.setenv("API_AUTHORIZATION", HEADER)
    entry = {"id": "http:service", "kind": "http", "allow": ["*/*"], "headers_env": {"Authorization": "API_AUTHORIZATION"}}
    with service(script) as found:
        (adapter,) = parse_adapters(
            {"adapters": [{**entry, "base_url": found.url, "timeout_s": 1.5 if code == "TIMEOUT" else 30}]}, base_dir=Path("/")
        )
        failure, events = failed(adapter)
    assert failure.code == code
    assert told(events) == [(code, outcome)]
    assert len(found.requests) == 1


SERVERS: dict[str, tuple[str, str]] = {
    # The tool of tests/mcp_server.py, and what the record must tell. Only the present protocol lets a server ask back in its answer.
    "die": ("CONNECTION_LOST", "unknown"),
    "die_and_leave_a_child": ("CONNECTION_LOST", "unknown"),
    "hang": ("TIMEOUT", "unknown"),
    "flood": ("OUTPUT_TOO_LARGE", "unknown"),
    "half": ("INVALID_OUTPUT", "unknown"),
    "nan": ("INVALID_OUTPUT", "unknown"),
    "need_input": ("INPUT_REQUIRED", "failed"),
    "refuse": ("TOOL_ERROR", "failed"),
}


@pytest.mark.parametrize("attack", sorted(SERVERS))
def test_whatever_a_server_does_is_on_the_record_and_happens_once(tmp_path: Path, attack: str) -> None:
    code, outcome = SERVERS[attack]
    mode = "modern" if code == "INPUT_REQUIRED" else "legacy"
    command = {"command": sys.executable, "args": ["-S", str(Path(__file__).resolve().parent / "mcp_server.py"), str(tmp_path), mode]}
    entry = {"id": "mcp:hostile", "kind": "mcp", **command, "allow": ["t/*"], "timeout_s": 3 if code == "TIMEOUT" else 20}
    (adapter,) = parse_adapters({"adapters": [entry]}, base_dir=tmp_path)
    plan = json.dumps([{"tool": "t", "method": attack}, {"tool": "t", "method": "echo"}])
    with RunEngine([adapter]) as engine:
        with pytest.raises(RunFailed) as caught:
            engine.run(goal="g", adapter_id="mcp:hostile", dry_run=False, plan=plan)
        assert caught.value.run_id is not None
        events: list[dict[str, Any]] = engine.flight_record(caught.value.run_id)["events"]
    assert caught.value.code == code
    assert told(events) == [(code, outcome)]
    assert [*misplaced_events(events), *unfounded_results(events)] == []
    assert [json.loads(line)["name"] for line in (tmp_path / "calls").read_text().splitlines()] == [attack]
    child = tmp_path / "child"
    assert not (child.exists() and is_running(int(child.read_text())))


@pytest.mark.parametrize(("tool", "method"), [("--flag", "go"), ("..", "go"), ("a/b", "go"), ("t", "?x=1"), ("t", "-h"), ("t", "go\n")])
@pytest.mark.parametrize("kind", ["subprocess", "http", "mcp"])
def test_a_name_that_is_more_than_a_name_starts_nothing(tmp_path: Path, kind: str, tool: str, method: str) -> None:
    entries: dict[str, dict[str, object]] = {
        "subprocess": {"command": ["/usr/bin/touch", "made"]},
        "http": {"base_url": "http://127.0.0.1:9/"},
        "mcp": {"command": "/usr/bin/touch", "args": ["made"]},
    }
    entry = {"id": "adapter", "kind": kind, "allow": ["*/*"], **entries[kind]}
    (adapter,) = parse_adapters({"adapters": [entry]}, base_dir=tmp_path)
    with RunEngine([adapter]) as engine:
        with pytest.raises(RunFailed) as caught:
            engine.run(goal="g", adapter_id="adapter", dry_run=False, plan=json.dumps([{"tool": tool, "method": method}]))
        assert caught.value.run_id is not None
        kinds = [event["type"] for event in engine.flight_record(caught.value.run_id)["events"]]
    assert caught.value.code == "INVALID_NAME"
    assert "TOOL_CALL_REQUESTED" not in kinds
    assert not (tmp_path / "made").exists()
