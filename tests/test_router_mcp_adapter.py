"""An MCP adapter survives its server: every end of a call is told truthfully, nothing is called twice, nothing leaks or stays behind."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from router_testing import LimitAfter, ends_soon, is_running, step, written

from nexus_attest.routers import (
    Adapter,
    Call,
    CallFailed,
    CallIdentity,
    CallLimit,
    CallOutcome,
    CallRefused,
    CallResult,
    McpAdapter,
    RunEngine,
    RunFailed,
    mcp_adapter,
    parse_adapters,
)

SERVER = Path(__file__).resolve().parent / "mcp_server.py"

TOKEN = "hunter2-hunter2-hunter2"


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing of a server gets to our own outputs, and no thread stays behind."""
    before = set(threading.enumerate())
    yield
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert set(threading.enumerate()) == before


def server(folder: Path, mode: str = "legacy", **keys: object) -> McpAdapter:
    """The adapter of the hostile server."""
    command = {"command": sys.executable, "args": ["-S", str(SERVER), str(folder), mode]}
    entry = {"id": "mcp:hostile", "kind": "mcp", **command, "allow": ["s/*"], "timeout_s": 60, **keys}
    (adapter,) = parse_adapters({"adapters": [entry]}, base_dir=folder)
    assert isinstance(adapter, McpAdapter)
    return adapter


def limit(seconds: float = 60.0) -> CallLimit:
    return CallLimit(time.monotonic() + seconds)


class Run:
    """One session, and what was called in it."""

    def __init__(self, adapter: McpAdapter, folder: Path, *needed: str) -> None:
        self.folder = folder
        self.session = adapter.open([step("s", name) for name in needed], limit())

    def call(self, tool: str, args: Mapping[str, object] | None = None, until: CallLimit | None = None) -> CallResult:
        identity = CallIdentity(run_id="run-1", step_id="s1", execution_id="evt-4")
        return self.session.call(Call(step=step("s", tool, args or {}), identity=identity, limit=until or limit()))

    def failure(self, tool: str, args: Mapping[str, object] | None = None, until: CallLimit | None = None) -> CallFailed:
        with pytest.raises(CallFailed) as caught:
            self.call(tool, args, until)
        return caught.value

    def calls(self) -> list[str]:
        """The names of the tools that the server was asked for, in order."""
        path = self.folder / "calls"
        return [json.loads(line)["name"] for line in path.read_text().splitlines()] if path.exists() else []


Open = Callable[..., Run]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    runs: list[Run] = []

    def open_run(*needed: str, mode: str = "legacy", **keys: object) -> Run:
        runs.append(Run(server(tmp_path, mode, **keys), tmp_path, *needed))
        return runs[-1]

    yield open_run
    for run in runs:
        run.session.close()
        run.session.close()  # again: nothing


# What works.


@pytest.mark.parametrize("mode", ["legacy", "modern"])
def test_a_call_gives_content_and_structured_content_and_carries_the_idempotency_key(opened: Open, mode: str) -> None:
    run = opened("echo", mode=mode)
    result = run.call("echo", {"a": [1, None, "\u00e9"]})
    assert result.redacted == ()
    assert result.output["content"] == [{"type": "text", "text": "done"}]
    params = result.output["structuredContent"]["params"]
    assert (params["name"], params["arguments"]) == ("echo", {"a": [1, None, "\u00e9"]})
    assert params["_meta"]["nexus-attest/idempotency-key"] == "run-1/s1"
    assert params["_meta"]["nexus-attest/execution-id"] == "evt-4"
    assert run.session.details["protocol"] == ("2026-07-28" if mode == "modern" else "2025-11-25")
    assert str(run.session.details["tools_digest"]).startswith("sha256:")


def test_one_session_serves_a_run(opened: Open) -> None:
    run = opened("echo")
    for number in range(20):
        assert run.call("echo", {"n": number}).output["structuredContent"]["params"]["arguments"] == {"n": number}
    assert run.calls() == ["echo"] * 20


def test_sessions_of_two_threads_do_not_disturb_each_other(opened: Open) -> None:
    runs = [opened("echo"), opened("echo")]
    found: list[object] = []

    def work(number: int) -> None:
        found.extend(runs[number].call("echo", {"n": number}).output["structuredContent"]["params"]["arguments"]["n"] for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == [0] * 20 + [1] * 20


def test_a_session_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    async def inside() -> object:
        run = Run(server(tmp_path), tmp_path, "echo")
        try:
            return run.call("echo").output["content"]
        finally:
            run.session.close()

    assert asyncio.run(inside()) == [{"type": "text", "text": "done"}]


def test_the_environment_is_what_the_file_names(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    assert str(opened("refuse").failure("refuse")) == "The tool reported an error: no such key: ?"


# What a server answers.


def test_an_error_of_a_tool_is_a_certain_failure(opened: Open) -> None:
    problem = opened("refuse").failure("refuse")
    assert (problem.code, problem.outcome) == ("TOOL_ERROR", CallOutcome.FAILED)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        *((-32601, "failed"), (-32602, "failed")),
        *((-32603, "unknown"), (-32000, "unknown"), (-32001, "unknown"), (-32700, "unknown"), (1, "unknown")),
    ],
)
def test_a_protocol_error_is_certain_only_when_it_comes_before_the_work(opened: Open, code: int, outcome: str) -> None:
    problem = opened("protocol_error").failure("protocol_error", {"code": code})
    assert problem.outcome == outcome
    assert problem.code == ("CONNECTION_LOST" if code == -32000 else "MCP_ERROR")


@pytest.mark.parametrize("tool", ["nan", "no_result", "typed"])
def test_an_answer_that_cannot_be_recorded_is_no_output(opened: Open, tool: str) -> None:
    run = opened(tool)
    problem = run.failure(tool, {"n": "no integer"})
    assert (problem.code, problem.outcome) == ("INVALID_OUTPUT", CallOutcome.UNKNOWN)
    assert "secret words" not in str(problem)
    assert run.calls() == [tool]


def test_an_answer_that_keeps_its_schema_is_an_output(opened: Open) -> None:
    assert opened("typed").call("typed", {"n": 1}).output["structuredContent"] == {"n": 1}


@pytest.mark.parametrize("tool", ["pattern", "doubling"])
def test_no_schema_of_a_server_keeps_us_busy(opened: Open, tool: str) -> None:
    run = opened(tool)
    assert run.call(tool).output["structuredContent"]
    assert run.calls() == [tool]


def test_a_number_of_thousands_of_digits_is_no_output(opened: Open) -> None:
    problem = opened("digits").failure("digits")
    assert (problem.code, problem.outcome) == ("INVALID_OUTPUT", CallOutcome.UNKNOWN)


@pytest.mark.parametrize("tool", ["half", "two", "bad_utf8"])
def test_a_line_that_is_no_message_ends_the_connection_and_leaves_the_outcome_open(opened: Open, tool: str) -> None:
    run = opened(tool)
    problem = run.failure(tool)
    assert (problem.code, problem.outcome) == ("INVALID_OUTPUT", CallOutcome.UNKNOWN)
    assert run.calls() == [tool]


def test_what_a_server_prints_by_mistake_does_not_matter(opened: Open) -> None:
    assert opened("noise").call("noise").output["content"] == [{"type": "text", "text": "done"}]


def test_fifty_megabytes_in_one_message_are_not_read(opened: Open) -> None:
    run = opened("flood")
    problem = run.failure("flood")
    assert (problem.code, problem.outcome) == ("OUTPUT_TOO_LARGE", CallOutcome.UNKNOWN)
    assert run.calls() == ["flood"]


def test_an_answer_above_the_limit_is_no_output(opened: Open) -> None:
    problem = opened("large", max_output_bytes=1_000_000).failure("large")
    assert (problem.code, problem.outcome) == ("OUTPUT_TOO_LARGE", CallOutcome.UNKNOWN)


def test_fifty_megabytes_of_standard_error_disturb_nothing(opened: Open) -> None:
    assert opened("flood_errors").call("flood_errors").output["content"] == [{"type": "text", "text": "done"}]


# Nobody is asked.


@pytest.mark.parametrize(("tool", "answer"), [("elicit", '"action": "decline"'), ("sample", "not supported"), ("roots", "not supported")])
def test_a_question_of_the_server_is_declined(opened: Open, tool: str, answer: str) -> None:
    assert answer in opened(tool).call(tool).output["content"][0]["text"]


def test_a_server_that_asks_without_end_and_reads_no_answer_is_given_up(opened: Open) -> None:
    run = opened("question_on")
    problem = run.failure("question_on")
    assert (problem.code, problem.outcome) == ("OUTPUT_TOO_LARGE", CallOutcome.UNKNOWN)
    assert run.calls() == ["question_on"]


def test_a_question_instead_of_an_answer_ends_the_call_and_it_is_not_made_again(opened: Open) -> None:
    run = opened("need_input", mode="modern")
    problem = run.failure("need_input")
    assert (problem.code, problem.outcome) == ("INPUT_REQUIRED", CallOutcome.FAILED)
    assert run.calls() == ["need_input"]


# The end of time, of the connection, of the server.


@pytest.mark.parametrize("tool", ["hang", "slow"])
def test_a_call_ends_at_its_limit_and_nobody_knows_what_it_did(opened: Open, tool: str) -> None:
    run = opened(tool)
    began = time.monotonic()
    problem = run.failure(tool, {"seconds": 300}, LimitAfter(lambda: written(run.folder / "calls"), 0.5))
    assert time.monotonic() - began < 100
    assert (problem.code, problem.outcome) == ("TIMEOUT", CallOutcome.UNKNOWN)
    assert run.calls() == [tool]


def test_the_session_outlives_a_call_that_took_too_long(opened: Open) -> None:
    run = opened("slow", "echo")
    assert run.failure("slow", {"seconds": 1}, limit(0.3)).code == "TIMEOUT"
    assert run.call("echo").output["content"] == [{"type": "text", "text": "done"}]
    assert run.calls() == ["slow", "echo"]


def test_a_cancelled_run_ends_its_call(opened: Open) -> None:
    run = opened("slow")
    until = limit(100)

    def cancel() -> None:
        while not written(run.folder / "calls"):
            time.sleep(0.01)
        until.cancelled.set()

    threading.Thread(target=cancel).start()
    call = Call(step=step("s", "slow", {"seconds": 300}), identity=CallIdentity(run_id="r", step_id="s", execution_id=None), limit=until)
    began = time.monotonic()
    with pytest.raises(CallFailed) as caught:
        run.session.call(call)
    assert time.monotonic() - began < 60
    assert (caught.value.code, caught.value.outcome) == ("CANCELLED", CallOutcome.UNKNOWN)


@pytest.mark.parametrize("tool", ["die", "mute", "die_and_leave_a_child"])
def test_a_server_that_goes_away_leaves_the_outcome_open(opened: Open, tool: str) -> None:
    run = opened(tool)
    began = time.monotonic()
    problem = run.failure(tool, until=limit(100))
    assert time.monotonic() - began < 60
    assert (problem.code, problem.outcome) == ("CONNECTION_LOST", CallOutcome.UNKNOWN)
    assert run.calls() == [tool]


def test_after_a_lost_connection_the_next_call_gets_a_new_one(opened: Open) -> None:
    run = opened("die_once")
    assert run.failure("die_once").code == "CONNECTION_LOST"
    assert run.call("die_once").output["content"] == [{"type": "text", "text": "done"}]
    assert run.calls() == ["die_once", "die_once"]  # the second one is the caller's decision


def test_an_engine_does_not_call_again_what_may_have_happened(tmp_path: Path) -> None:
    with RunEngine([server(tmp_path)]) as engine, pytest.raises(RunFailed) as caught:
        engine.run(goal="g", adapter_id="mcp:hostile", dry_run=False, plan='[{"tool": "s", "method": "die_once"}]')
    assert caught.value.code == "CONNECTION_LOST"
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_an_engine_calls_again_when_the_adapter_is_idempotent(tmp_path: Path) -> None:
    with RunEngine([server(tmp_path, idempotent=True)]) as engine:
        response = engine.run(goal="g", adapter_id="mcp:hostile", dry_run=False, plan='[{"tool": "s", "method": "die_once"}]')
    assert response["status"] == "completed"
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert len({call["_meta"]["nexus-attest/idempotency-key"] for call in calls}) == 1
    assert len(calls) == 2


# What the record says about the server.


def described(engine: RunEngine, run_id: str) -> list[dict[str, Any]]:
    """What was recorded of the server, in order."""
    events = engine.flight_record(run_id)["events"]
    return [event["payload"]["session"] for event in events if event["type"] == "SESSION_OPENED"]


def test_a_run_records_which_server_answered_and_which_tools_it_had(tmp_path: Path) -> None:
    adapter = server(tmp_path)
    with RunEngine([adapter]) as engine:
        response = engine.run(goal="g", adapter_id="mcp:hostile", dry_run=False, plan='[{"tool": "s", "method": "echo"}]')
        (session,) = described(engine, response["run_id"])
        types = [event["type"] for event in engine.flight_record(response["run_id"])["events"]]
        rehearsed = engine.run(goal="g", adapter_id="mcp:hostile", dry_run=True, plan='[{"tool": "s", "method": "echo"}]')
        assert described(engine, rehearsed["run_id"]) == []
    digest = adapter.survey(limit()).details["tools_digest"]
    assert session == {"server": "hostile", "version": "0.1", "protocol": "2025-11-25", "tools_digest": digest}
    assert types.index("SESSION_OPENED") < types.index("STEP_STARTED")


def test_a_run_whose_server_was_lost_records_the_next_one_too(tmp_path: Path) -> None:
    with RunEngine([server(tmp_path, idempotent=True)]) as engine:
        response = engine.run(goal="g", adapter_id="mcp:hostile", dry_run=False, plan='[{"tool": "s", "method": "die_once"}]')
        assert [session["version"] for session in described(engine, response["run_id"])] == ["0.1", "0.2"]


def test_what_a_server_says_about_itself_is_bounded_printable_and_free_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    with RunEngine([server(tmp_path, "boasting", pass_env=["API_TOKEN"])]) as engine:
        response = engine.run(goal="g", adapter_id="mcp:hostile", dry_run=False, plan='[{"tool": "s", "method": "echo"}]')
        (session,) = described(engine, response["run_id"])
        assert TOKEN not in json.dumps(engine.flight_record(response["run_id"]))
    assert len(session["version"]) == 200
    assert session["version"].isprintable()
    assert session["version"].startswith("[2J [redacted")


# Nothing stays behind.


def test_a_server_that_ignores_the_end_is_killed_with_its_children(tmp_path: Path) -> None:
    run = Run(server(tmp_path, "stubborn"), tmp_path, "echo")
    child = int((tmp_path / "child").read_text())
    assert is_running(child)
    began = time.monotonic()
    run.session.close()
    assert time.monotonic() - began < 60
    assert ends_soon(child)


@pytest.mark.parametrize("tool", ["hang", "die_and_leave_a_child"])
def test_what_a_tool_started_ends_with_the_session(tmp_path: Path, tool: str) -> None:
    run = Run(server(tmp_path), tmp_path, tool)
    try:
        child = tmp_path / "child"
        run.failure(tool, until=LimitAfter(lambda: child.exists() and child.read_text() != "", 0.5))
    finally:
        run.session.close()
    assert ends_soon(int((tmp_path / "child").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_process_that_left_the_group_ends_with_the_session(tmp_path: Path) -> None:
    run = Run(server(tmp_path, "escape"), tmp_path, "echo")
    assert is_running(int((tmp_path / "child").read_text()))
    began = time.monotonic()
    run.session.close()
    assert time.monotonic() - began < 60
    assert ends_soon(int((tmp_path / "child").read_text()))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("mode", ["stubborn", "escape"])
def test_when_we_are_killed_by_force_the_server_ends_with_its_children(tmp_path: Path, mode: str) -> None:
    host = f"""
import sys, time
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
from test_router_mcp_adapter import Run, server
Run(server(Path({str(tmp_path)!r}), {mode!r}), Path({str(tmp_path)!r}), "echo")
print("open", flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(SERVER.parent.parent)}
    with subprocess.Popen([sys.executable, "-c", host], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        child = int((tmp_path / "child").read_text())
        assert is_running(child)
        process.kill()
    assert ends_soon(child)


def started_servers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of every server that is started from now on."""
    found: list[int] = []
    start = mcp_adapter.start_process

    def noted(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        found.append(process.pid)
        return process

    monkeypatch.setattr(mcp_adapter, "start_process", noted)
    return found


def test_a_session_that_is_given_up_before_it_began_leaves_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = started_servers(monkeypatch)
    with pytest.raises(CallFailed, match="Not done in time"):
        server(tmp_path, "stubborn").open([step("s", "echo")], CallLimit(time.monotonic() + 0.0001))
    for pid in pids:
        assert ends_soon(pid)


def test_a_missing_sdk_leaves_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = started_servers(monkeypatch)
    monkeypatch.setitem(sys.modules, "nexus_attest.routers.clients.mcp_session", None)
    with pytest.raises(ImportError):
        server(tmp_path, "stubborn").open([step("s", "echo")], limit())
    (pid,) = pids
    assert ends_soon(pid)


def test_an_interruption_ends_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(server(tmp_path), tmp_path, "hang")

    def interrupted(_self: CallLimit) -> float:
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            raise KeyboardInterrupt
        return 0.01

    with monkeypatch.context() as patch:
        patch.setattr(CallLimit, "remaining", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.call("hang")
    run.session.close()
    assert ends_soon(int((tmp_path / "child").read_text()))


# Before the first call.


def refusal(adapter: Adapter, *needed: str, seconds: float = 60.0) -> CallRefused | CallFailed:
    with pytest.raises((CallRefused, CallFailed)) as caught:
        adapter.open([step("s", name) for name in needed], limit(seconds))
    return caught.value


def test_a_tool_that_the_server_does_not_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    problem = refusal(server(tmp_path), "echo", "rotate")
    assert (problem.code, str(problem)) == ("UNKNOWN_TOOL", "the server of adapter mcp:hostile has no tool 'rotate'")
    assert not (tmp_path / "calls").exists()


def test_a_tool_on_a_later_page_exists(opened: Open) -> None:
    assert opened("typed").call("typed", {"n": 1}).redacted == ()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("exit", "ImportError: no module named tools"),
        ("endless", "does not end"),
        ("twice", "lists a tool twice"),
        ("verbose", "in more than 16 MiB"),
    ],
)
def test_a_server_without_a_usable_session_is_a_failed_connection(tmp_path: Path, mode: str, words: str) -> None:
    problem = refusal(server(tmp_path, mode), "echo")
    assert isinstance(problem, CallFailed)
    assert (problem.code, problem.outcome) == ("CONNECTION_FAILED", CallOutcome.NOT_SENT)
    assert words in str(problem)


def test_a_silent_server_is_given_up_at_the_start_limit_and_killed(tmp_path: Path) -> None:
    began = time.monotonic()
    problem = refusal(server(tmp_path, "silent", start_timeout_s=0.5), "echo")
    assert time.monotonic() - began < 50
    assert isinstance(problem, CallFailed)
    assert (problem.code, problem.outcome) == ("TIMEOUT", CallOutcome.NOT_SENT)


def test_the_rest_of_the_run_limits_the_start_too(tmp_path: Path) -> None:
    assert refusal(server(tmp_path, "silent"), "echo", seconds=0.3).code == "TIMEOUT"


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"command": "/no/such/program"}, "COMMAND_NOT_FOUND"),
        ({"command": "/etc/passwd"}, "PERMISSION_DENIED"),
        ({"cwd": "x"}, "CWD_NOT_FOUND"),
    ],
)
def test_a_server_that_cannot_be_started_is_named(tmp_path: Path, keys: dict[str, Any], code: str) -> None:
    problem = refusal(server(tmp_path, **keys), "echo")
    assert isinstance(problem, CallFailed)
    assert (problem.code, problem.outcome) == (code, CallOutcome.NOT_SENT)


def test_what_is_missing_on_the_spot_is_found_by_the_preflight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_TOKEN", raising=False)
    missing: list[tuple[dict[str, Any], str]] = [({"pass_env": ["API_TOKEN"]}, "ENV_INVALID"), ({"cwd": "x"}, "CWD_NOT_FOUND")]
    for keys, code in missing:
        with pytest.raises(CallRefused) as caught:
            server(tmp_path, **keys).preflight([step("s", "echo")])
        assert caught.value.code == code


# Pins.


def test_a_survey_tells_the_digest_to_pin_and_calls_nothing(tmp_path: Path) -> None:
    survey = server(tmp_path, allow=["s/echo", "s/refuse"]).survey(limit())
    assert sorted(survey.definitions) == ["echo", "refuse"]
    assert survey.definitions["echo"] == {"name": "echo", "description": "Does echo.", "inputSchema": {"type": "object"}}
    assert (survey.details["server"], survey.details["version"]) == ("hostile", "0.1")
    pinned = server(tmp_path, allow=["s/echo", "s/refuse"], tools_digest=survey.details["tools_digest"])
    pinned.open([step("s", "echo")], limit()).close()
    assert not (tmp_path / "calls").exists()


def test_a_tool_that_changed_after_it_was_pinned_stops_the_run_before_the_first_call(tmp_path: Path) -> None:
    digest = server(tmp_path).survey(limit()).details["tools_digest"]
    (tmp_path / "changed").write_text("")
    problem = refusal(server(tmp_path, tools_digest=digest), "refuse", "echo")
    assert problem.code == "TOOL_DEFINITION_CHANGED"
    assert str(digest) in str(problem)
    assert not (tmp_path / "calls").exists()


def test_a_change_of_a_tool_that_is_not_allowed_does_not_matter(tmp_path: Path) -> None:
    digest = server(tmp_path, allow=["s/refuse"]).survey(limit()).details["tools_digest"]
    (tmp_path / "changed").write_text("")
    server(tmp_path, allow=["s/refuse"], tools_digest=digest).open([step("s", "refuse")], limit()).close()


@pytest.mark.parametrize("mode", ["legacy", "announcing", "ending", "unwilling"])
def test_a_tool_that_changes_during_the_run_is_not_called(opened: Open, mode: str) -> None:
    run = opened("change", "echo", mode=mode)
    assert run.call("change").output["content"] == [{"type": "text", "text": "changed"}]
    for _ in range(2):
        problem = run.failure("echo")
        assert (problem.code, problem.outcome) == ("TOOL_DEFINITION_CHANGED", CallOutcome.NOT_SENT)
    assert run.calls() == ["change"]


def test_a_new_connection_must_offer_the_same_tools(opened: Open, tmp_path: Path) -> None:
    run = opened("die_once", "echo")
    assert run.failure("die_once").code == "CONNECTION_LOST"
    (tmp_path / "changed").write_text("")
    for _ in range(2):  # a plan may go on after a failed step
        problem = run.failure("die_once")
        assert (problem.code, problem.outcome) == ("TOOL_DEFINITION_CHANGED", CallOutcome.NOT_SENT)
    assert run.calls() == ["die_once"]


def test_a_new_connection_must_have_the_pinned_digest_again_each_time(opened: Open, tmp_path: Path) -> None:
    digest = server(tmp_path).survey(limit()).details["tools_digest"]
    run = opened("die_once", "echo", tools_digest=digest)
    assert run.failure("die_once").code == "CONNECTION_LOST"
    (tmp_path / "changed").write_text("")
    for _ in range(2):
        problem = run.failure("die_once")
        assert (problem.code, problem.outcome) == ("TOOL_DEFINITION_CHANGED", CallOutcome.NOT_SENT)
    (tmp_path / "changed").unlink()
    assert run.call("die_once").output["content"] == [{"type": "text", "text": "done"}]
    assert run.calls() == ["die_once", "die_once"]


# Secrets.


def test_a_secret_gets_to_the_server_and_comes_back_as_a_mark(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    monkeypatch.setenv("PIN", "swordfish-1")
    run = opened("secret", pass_env=["API_TOKEN"], secrets={"pin": "env:PIN"})
    result = run.call("secret", {"pin": {"$secret": "pin"}})
    assert json.loads((run.folder / "calls").read_text())["arguments"] == {"pin": "swordfish-1"}
    assert result.output == {
        "content": [{"type": "text", "text": "I was given [redacted:secret API_TOKEN] and {'pin': '[redacted:secret pin]'}"}],
        "structuredContent": {"[redacted:secret API_TOKEN]": ["[redacted:secret API_TOKEN]"]},
    }
    assert result.redacted == (
        "/content/0/text",
        "/structuredContent/[redacted:secret API_TOKEN]",
        "/structuredContent/[redacted:secret API_TOKEN]/0",
    )


@pytest.mark.parametrize(("tool", "args"), [("refuse", {}), ("protocol_error", {"code": -32602}), ("die", {})])
def test_a_secret_in_the_message_of_a_failure_is_a_mark(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tool: str, args: dict[str, Any]
) -> None:
    monkeypatch.setenv("API_TOKEN", TOKEN)
    problem = opened(tool, pass_env=["API_TOKEN"]).failure(tool, args)
    assert TOKEN not in str(problem)
    assert "[redacted:secret API_TOKEN]" in str(problem)
