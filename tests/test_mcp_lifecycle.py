"""How a serving process begins and ends, and that only the protocol is on its standard output."""

import json
import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import httpx2
import pytest
from cli_testing import ROOT, program
from mcp_testing import ADAPTER, ALICE, HELLO, events_of, http_server, lines, server_command, server_environment

from nexus_attest.server import logs
from nexus_attest.server.http import parse_address
from nexus_attest.server.lifecycle import run_until_signal
from nexus_attest.server.service import Service
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

SECONDS_TO_LEAVE = 0.1
BUDGET = 1.3
"""Of processor time. The benchmark measures the time that a client waits, against a server that does nothing."""

SLACK = 5.0
"""For a machine that is busy with other tests; the benchmark measures without it. What must not be waited for takes thirty, or for ever."""


@pytest.fixture
def approved(tmp_path: Path) -> str:
    """A decision that may be applied."""
    with DecisionStore(tmp_path / "decisions.db") as store:
        tools = NexusControlTools(store)
        request_id: str = tools.request("Run", ALICE, "apply", '[{"tool": "t", "method": "m"}]').data["request_id"]
        tools.approve(request_id, ALICE)
        return request_id


def test_a_client_that_closes_its_end_ends_the_server_with_exit_code_0(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        code, rest, errors = server.end()
    assert (code, rest) == (0, [])
    assert [json.loads(line)["method"] for line in errors.splitlines()] == ["initialize"]
    assert not (tmp_path / "decisions.db-wal").exists()  # the last connection was closed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_a_server_on_standard_streams_at_once(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with lines(tmp_path) as server:
        server.begin()
        server.call(1, "request", goal="g", actor=ALICE)
        assert server.receive()["id"] == 1
        began = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(60) == code
        assert time.monotonic() - began < SECONDS_TO_LEAVE + SLACK
    assert not (tmp_path / "decisions.db-wal").exists()
    assert list(events_of(tmp_path).values()) == [["DECISION_CREATED", "POLICY_ATTACHED"]]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_a_server_on_http_at_once_although_clients_are_connected(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with http_server(tmp_path) as (url, process), httpx2.Client() as client:
        assert client.get(url, headers={"accept": "text/event-stream"}).status_code == 400
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == code
        assert time.monotonic() - began < SECONDS_TO_LEAVE + SLACK
    assert not (tmp_path / "decisions.db-wal").exists()


LONG_MOMENT = "from nexus_attest.server import lifecycle; lifecycle._SECONDS = 30.0"
"""A busy machine needs more than the moment in which an execution that was stopped can be recorded."""


def test_a_signal_stops_the_program_of_an_execution_and_records_that_it_was_stopped(tmp_path: Path, approved: str) -> None:
    adapters = program(tmp_path, "time.sleep(60)")
    (tmp_path / "sitecustomize.py").write_text(LONG_MOMENT)
    path = os.pathsep.join([str(tmp_path), server_environment(tmp_path)["PYTHONPATH"]])
    with lines(tmp_path, "--adapters", str(adapters), environment={"PYTHONPATH": path}) as server:
        server.begin()
        server.call(1, "execute", request_id=approved, adapter_id=ADAPTER, actor=ALICE)
        pid = int(wait_for(tmp_path / "ran"))
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert not running(pid)
    assert events_of(tmp_path)[approved][-1] == "EXECUTION_FAILED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_neither_a_write_that_waits_nor_a_log_that_nobody_reads_delays_the_end(tmp_path: Path, number: signal.Signals) -> None:
    with lines(tmp_path, "--log-level", "debug") as server, closing(sqlite3.connect(tmp_path / "decisions.db")) as other:
        server.begin()
        for request in range(1, 80):  # the log has more than a pipe holds
            server.send({"id": request, "method": "x" * 990})
        assert [server.receive()["id"] for _ in range(1, 80)] == list(range(1, 80))
        other.execute("BEGIN IMMEDIATE")
        server.call(1_000, "request", goal="g", actor=ALICE)
        server.call(1_001, "template.list")
        assert server.receive()["id"] == 1_001
        began = time.monotonic()
        server.process.send_signal(number)
        server.process.wait(60)
        assert time.monotonic() - began < SECONDS_TO_LEAVE + SLACK
    assert events_of(tmp_path) == {}


class _Left(BaseException):
    """Instead of the end of the process."""


@pytest.mark.parametrize("writes", [False, True])
def test_grace_and_last_words_share_one_deadline(writes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The durations that are allowed, whatever the machine makes of them."""
    allowed: list[float] = []
    closed: list[bool] = []

    class Log(logging.Handler):
        def flush(self, seconds: float = 0) -> None:
            allowed.append(seconds)

    def leave(code: int) -> None:
        raise _Left(code)

    async def serve() -> None:
        if writes:
            await service.store_threads.acquire_on_behalf_of(object())
        await anyio.sleep(0.1)  # until signals are waited for
        began.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep_forever()

    monkeypatch.setattr(os, "_exit", leave)
    with DecisionStore() as store:
        service = Service(tools=NexusControlTools(store))
        began: list[float] = []
        with pytest.raises(BaseExceptionGroup) as caught:
            run_until_signal(service, serve, cast("Any", Log()), lambda: closed.append(True))
        took = time.monotonic() - began[0]
    assert caught.group_contains(_Left)
    assert closed == ([] if writes else [True]), "not under a thread that uses the store"
    assert 0.004 < allowed[0] <= (0.005 if writes else 0.07)
    assert took >= 0.07 if writes else took < 0.07 + SLACK


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_signal_ends_a_server_for_which_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[float] = []
    left: list[int] = []

    class Log(logging.Handler):
        def flush(self, seconds: float = 0) -> None:
            flushed.append(seconds)

    def leave(code: int) -> None:
        left.append(code)
        raise _Left

    async def serve() -> None:
        await anyio.sleep(0.1)  # until signals are waited for
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        os.kill(os.getpid(), signal.SIGTERM)
        await anyio.sleep_forever()

    monkeypatch.setattr(os, "_exit", leave)
    with DecisionStore() as store, pytest.raises(BaseExceptionGroup) as caught:
        run_until_signal(Service(tools=NexusControlTools(store)), serve, cast("Any", Log()), lambda: None)
    assert caught.group_contains(_Left)
    assert (left, len(flushed)) == ([0], 1)


def test_a_client_that_leaves_during_an_execution_does_not_end_it(tmp_path: Path, approved: str) -> None:
    adapters = program(tmp_path, "time.sleep(1)")
    with lines(tmp_path, "--adapters", str(adapters)) as server:
        server.begin()
        server.call(1, "execute", request_id=approved, adapter_id=ADAPTER, actor=ALICE)
        wait_for(tmp_path / "ran")
        code, _, _ = server.end()
    assert code == 0
    assert events_of(tmp_path)[approved][-1] == "EXECUTION_COMPLETED"


def test_an_execution_delays_no_other_call(tmp_path: Path, approved: str) -> None:
    go = tmp_path / "go"
    adapters = program(tmp_path, f"while not os.path.exists({str(go)!r}): time.sleep(0.02)")
    with lines(tmp_path, "--adapters", str(adapters)) as server:
        server.begin()
        server.call(1, "execute", request_id=approved, adapter_id=ADAPTER, actor=ALICE)
        wait_for(tmp_path / "ran")
        server.call(2, "status", request_id=approved)
        server.call(3, "request", goal="g", actor=ALICE)
        assert {server.receive()["id"] for _ in range(2)} == {2, 3}
        go.touch()
        assert server.receive()["id"] == 1


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path.read_text()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


CHATTER = """
import os, sys, threading, time

def is_served():
    return "nexus_attest.server.stdio" in sys.modules and os.readlink("/proc/self/fd/1") == os.readlink("/proc/self/fd/2")

def chatter():
    while not os.path.exists("quiet"):
        if is_served():
            print("chatter", flush=True)
            os.write(1, b"chatter\\n")
            with open("began", "w") as file:
                file.write("yes\\n")
        time.sleep(0.005)
    with open("ended", "w") as file:
        file.write("yes\\n")

threading.Thread(target=chatter, daemon=True).start()
"""
"""Prints while the server serves, until it is told to stop, so that no speed of the machine makes it too early or too late."""


def test_what_others_print_does_not_reach_the_wire(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CHATTER)
    path = os.pathsep.join([str(tmp_path), server_environment(tmp_path)["PYTHONPATH"]])
    with lines(tmp_path, environment={"PYTHONPATH": path}) as server:
        server.begin()
        wait_for(tmp_path / "began")
        for number in range(1, 30):
            server.call(number, "template.list")
            assert server.receive()["id"] == number
        (tmp_path / "quiet").touch()
        wait_for(tmp_path / "ended")
        code, rest, errors = server.end()
    assert (code, rest) == (0, [])
    assert "chatter" in errors


def test_logs_are_json_lines_with_the_id_of_their_request(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        server.call(7, "status", request_id="nobody")
        assert server.receive()["id"] == 7
        _, _, errors = server.end()
    (line,) = [found for found in map(json.loads, errors.splitlines()) if found["method"] == "tools/call"]
    assert (line["request_id"], line["tool"], line["outcome"], line["code"], line["level"]) == (
        7,
        "nexus-attest.status",
        "error",
        "DECISION_NOT_FOUND",
        "info",
    )


def test_a_line_of_the_log_is_short_and_plain_whatever_a_client_sends(tmp_path: Path) -> None:
    long = "x" * 5_000_000
    escapes = "\x1b[2J\u009b2J\u2028\u202e\n"
    with lines(tmp_path, "--log-level", "debug") as server:
        server.begin()
        asked: list[tuple[object, str, dict[str, Any]]] = [
            (long, "tools/list", {}),
            (escapes, "tools/list", {}),
            (10**400, "tools/list", {}),
            (1, long, {}),
            (2, escapes, {}),
            (3, "tools/call", {"name": long}),
            (4, "tools/call", {"name": escapes}),
            (5, "tools/call", {"name": "nexus-attest.status", "arguments": {"request_id": escapes + long[:60_000]}}),
        ]
        for request_id, method, params in asked:
            server.send({"id": request_id, "method": method, "params": params})
            assert server.receive()["id"] == request_id
        code, _, errors = server.end()
    assert code == 0
    found = errors.splitlines()
    assert all(line.isascii() and line.isprintable() and len(line) < 8_192 for line in found)
    requests = [line for line in map(json.loads, found) if line["message"] == "request"]
    assert len(requests) >= len(asked)
    assert requests[1]["request_id"] == f"{long[:960]} ... (5000000 characters)"
    assert requests[2]["request_id"] == escapes
    assert requests[3]["request_id"] == "an integer of 1329 bits"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)  # which ends a write that waits
    os.close(writing)


RECORD = logging.LogRecord("nexus_attest", logging.INFO, "", 0, "the last", None, None)


def test_the_last_line_is_waited_for_where_somebody_reads_and_the_thread_has_no_turn(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(descriptor: int, data: bytes) -> int:
        time.sleep(0.2)
        return os.write(descriptor, data)

    monkeypatch.setattr(logs, "os", SimpleNamespace(write=late))
    monkeypatch.setattr(logs, "_BUSY_SECONDS", 60)
    log = logs.StderrLog(pipe[1])
    log.emit(RECORD)
    log.flush(0.005)
    assert json.loads(os.read(pipe[0], 10_000))["message"] == "the last"


def test_the_last_line_is_waited_for_where_no_thread_is_to_be_had(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    log = logs.StderrLog(pipe[1])
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    log.emit(RECORD)
    log.flush(60)
    assert json.loads(os.read(pipe[0], 10_000))["message"] == "the last"


def test_nobody_is_waited_for_who_does_not_read_the_last_line(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, b" " * 512):
            pass
    os.set_blocking(writing, True)
    monkeypatch.setattr(logs, "_BUSY_SECONDS", 1_000)
    log = logs.StderrLog(writing)
    log.emit(RECORD)
    log.flush(0.005)  # it returns
    assert os.read(reading, 1_000_000).isspace()


def test_nobody_needs_to_read_the_logs(tmp_path: Path) -> None:
    with lines(tmp_path, "--log-level", "debug") as server:
        server.begin()
        for number in range(1, 3_000):  # more than a pipe holds
            server.call(number, "nothing" + "x" * 180)
            assert server.receive()["id"] == number


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--http", "8731"], "is no address"),
        (["--http", "127.0.0.1:port"], "is no address"),
        (["--http", "127.0.0.1:70000"], "is no address"),
        pytest.param(["--http", "127.0.0.1:" + "9" * 5000], "is no address", id="more digits than int() reads"),
        (["--http", "::1:8731"], "is no address"),
        (["--http", "0.0.0.0:0"], "can be reached from outside"),
        (["--http", "[::]:0"], "can be reached from outside"),
        (["--tools", "status,nothing"], "there is no tool nothing"),
        (["--tools", ","], "leave no tool"),
        (["--read-only", "--tools", "approve"], "leave no tool"),
        (["--adapters", "nothing.toml"], "nothing.toml"),
    ],
)
def test_options_that_cannot_work_are_told_before_anything_is_served(tmp_path: Path, options: list[str], text: str) -> None:
    done = subprocess.run(
        server_command(*options), env=server_environment(tmp_path), cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert text in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_port_that_is_taken_is_an_error_and_not_a_traceback(tmp_path: Path) -> None:
    with http_server(tmp_path) as (url, _):
        address = url.removeprefix("http://").removesuffix("/mcp")
        done = subprocess.run(
            server_command("--http", address), env=server_environment(tmp_path), cwd=tmp_path, capture_output=True, check=False
        )
    assert (done.returncode, done.stdout) == (2, b"")
    assert "cannot listen" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_the_tools_can_be_listed_with_underscores_by_an_environment_variable(tmp_path: Path) -> None:
    with lines(tmp_path, environment={"NEXUS_ATTEST_TOOL_NAMES": "underscore"}) as server:
        server.begin()
        server.send({"id": 1, "method": "tools/list"})
        assert server.receive()["result"]["tools"][0]["name"] == "nexus_attest_request"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--tools", "approver"], ["status", "inspect", "approve", "revoke_approval"]),
        (["--tools", "approver,template.list"], ["status", "inspect", "template.list", "approve", "revoke_approval"]),
    ],
)
def test_a_server_for_approvers_offers_what_they_need(tmp_path: Path, options: list[str], names: list[str]) -> None:
    with lines(tmp_path, *options) as server:
        server.begin()
        server.send({"id": 1, "method": "tools/list"})
        assert {tool["name"] for tool in server.receive()["result"]["tools"]} == {f"nexus-attest.{name}" for name in names}
        server.call(2, "execute", request_id="x", adapter_id="y", actor=ALICE)
        assert server.receive()["error"]["code"] == -32602


def processor_seconds(command: list[str], folder: Path, said: bytes = b"") -> tuple[float, bytes]:
    """What a program costs the processor from its start to its end, which other programs hardly disturb, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=server_environment(folder), cwd=folder, input=said, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_to_start_and_list_the_tools_costs_little_more_than_to_load_the_sdk(tmp_path: Path) -> None:
    messages = (
        {"id": 0, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 1, "method": "tools/list"},
    )
    said = b"".join(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages)
    sdk = [sys.executable, "-W", "error", "-c", "import mcp.server, mcp.server.stdio"]
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(3):
        seconds, printed = processor_seconds(server_command("--log-level", "warning"), tmp_path, said)
        assert len(json.loads(printed.splitlines()[-1])["result"]["tools"]) == 11
        ours.append(seconds)
        floor.append(processor_seconds(sdk, tmp_path)[0])
    assert min(ours) < BUDGET * min(floor), (ours, floor)


def test_a_read_only_server_does_not_create_a_store(tmp_path: Path) -> None:
    done = subprocess.run(server_command("--read-only"), env=server_environment(tmp_path), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2
    assert "STORE_NOT_FOUND" in done.stderr.decode()
    assert not (tmp_path / "decisions.db").exists()


@pytest.mark.parametrize("content", ["", "older", "another program's"], ids=["empty", "older", "foreign"])
def test_a_read_only_server_writes_nothing_into_a_file_that_is_no_store(tmp_path: Path, content: str) -> None:
    path = tmp_path / "decisions.db"
    path.touch()
    if content == "older":
        with DecisionStore(path):
            pass
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA user_version = 0")
    elif content:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE t (n)")
    before = path.read_bytes()
    done = subprocess.run(server_command("--read-only"), env=server_environment(tmp_path), cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    said = "was not made by nexus-attest" if content.startswith("another") else "there is no store of this release in this file"
    assert said in done.stderr.decode()
    assert ("SCHEMA_MISSING" in done.stderr.decode()) is not content.startswith("another")
    assert path.read_bytes() == before


def test_a_read_only_server_reads_what_others_write_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "decisions.db"
    with DecisionStore(path):
        pass
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = DELETE")  # as a copy may have it: even this is left alone
    before = path.read_bytes()
    with lines(tmp_path, "--read-only") as server:
        server.begin()
        server.call(1, "template.list")
        assert server.receive()["result"]["structuredContent"]["templates"] == []
        assert path.read_bytes() == before
        with DecisionStore(path) as store:
            request_id = NexusControlTools(store).request("g", ALICE).data["request_id"]
        server.call(2, "status", request_id=request_id)
        assert server.receive()["result"]["structuredContent"]["event_count"] == 2
        assert server.end()[0] == 0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with http_server(tmp_path_factory.mktemp("http")) as (url, _):
        yield url


HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"content-type": "text/plain"}, 400),
    ],
)
def test_a_web_page_cannot_reach_the_server(served: str, headers: dict[str, str], status: int) -> None:
    assert httpx2.post(served, json=INITIALIZE, headers={**HEADERS, **headers}).status_code == status


@pytest.mark.parametrize("header", ["Forwarded", "Via", "X-Forwarded-For", "x-forwarded-proto", "X-Real-IP"])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_without_tokens_nobody_is_served_through_a_proxy(served: str, header: str, method: str) -> None:
    found = httpx2.request(method, served, json=INITIALIZE, headers={**HEADERS, header: "for=192.0.2.1"})
    assert (found.status_code, found.json()["error"]["code"]) == (403, -32600)
    assert f"it came through a proxy ({header.lower()}), and without tokens only this machine is served" in found.text


def test_a_name_is_this_machine_only_if_it_stands_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_address("localhost:0").is_loopback
    stands_for: list[str] = []

    def resolve(*_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if not stands_for:
            raise OSError
        return [(0, 0, 0, "", (number, 0)) for number in stands_for]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    for found, local in (([], False), (["127.0.0.1", "192.0.2.1"], False), (["::2"], False), (["::1", "127.0.0.1"], True)):
        stands_for[:] = found
        assert parse_address("localhost:0").is_loopback is local


def test_importing_the_command_line_loads_neither_the_server_nor_the_sdk() -> None:
    code = "import nexus_attest.cli.app, sys; print({'mcp', 'anyio', 'pydantic', 'nexus_attest.server'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_host_that_refuses_dots_is_warned_of_in_the_log(tmp_path: Path) -> None:
    with lines(tmp_path, "--log-level", "warning") as server:
        server.send({"id": 0, "method": "initialize", "params": {**HELLO, "clientInfo": {"name": "claude-ai", "version": "1"}}})
        assert server.receive()["id"] == 0
        server.send({"method": "notifications/initialized"})
        server.send({"id": 1, "method": "tools/list"})
        assert server.receive()["id"] == 1
        _, _, errors = server.end()
    (line,) = map(json.loads, errors.splitlines())
    assert (line["level"], "--tool-names underscore" in line["message"]) == ("warning", True)
