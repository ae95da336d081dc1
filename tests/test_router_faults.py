"""Whatever happens to a run or its process: what is known is on the record, what is not is called unknown, and nothing runs twice."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from router_testing import FakeAdapter, counted_ids, shell_tool, step

from nexus_attest.routers import (
    AdapterSession,
    CallFailed,
    CallLimit,
    CallOutcome,
    CallRefused,
    CallResult,
    RunEngine,
    RunFailed,
    RunNotFinished,
    Step,
)
from nexus_attest.routers import run_lock as run_lock_module
from nexus_attest.routers.run_store import EventRow
from nexus_control.errors import InputError, StoreError, StoreFull
from nexus_control.flight_record import RunEvent

ROOT = Path(__file__).parents[1]
TWO = '[{"tool": "keys", "method": "list"}, {"tool": "keys", "method": "rotate"}]'
THREE = '{"steps": [{"tool": "a", "method": "b"}, {"tool": "a", "method": "c"}, {"tool": "a", "method": "d"}], "on_error": "continue"}'

HOST = """
import sys
from router_testing import shell_tool
from nexus_attest.routers import RunEngine, load_adapters
with RunEngine(load_adapters("adapters.toml"), db_path="runs.db") as engine:
    engine.run(goal="g", adapter_id="subprocess:tool", dry_run=False, plan='[{"tool": "keys", "method": "list"}]')
    print("done")
"""


def run(engine: RunEngine, plan: str = TWO, **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"goal": "g", "adapter_id": "fake", "dry_run": False, "plan": plan, **more}
    return engine.run(**arguments)


def failed(engine: RunEngine, plan: str = TWO, **more: Any) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        run(engine, plan, **more)
    return caught.value


def events_of(engine: RunEngine, run_id: str | None) -> list[dict[str, Any]]:
    assert run_id is not None
    return engine.flight_record(run_id)["events"]


def told(events: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """The events after the request, each with its step, or its reason."""
    start = next(number for number, event in enumerate(events) if event["type"] == "REQUEST_RECORDED")
    return [(event["type"], event["payload"].get("step_id") or event["payload"].get("reason")) for event in events[start + 1 :]]


def outcomes(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["payload"]["error_code"], event["payload"]["outcome"]) for event in events if event["type"] == "TOOL_CALL_FAILED"]


def fail(code: str, outcome: CallOutcome, message: str = "no") -> Callable[[], Any]:
    def answer() -> Any:
        raise CallFailed(code, message, outcome=outcome)

    return answer


# A process that dies.


@pytest.fixture
def host(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, in the middle of a call of its run."""
    shell_tool(tmp_path, "echo $$ > pid; sleep 300")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, "-c", HOST], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    with suppress(ProcessLookupError):  # on Linux the guardian was faster
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def stored_runs(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        return connection.execute("SELECT run_id, status FROM runs").fetchall()


def test_a_run_whose_process_was_killed_in_a_call_is_closed_with_an_unknown_outcome(tmp_path: Path, host: subprocess.Popen[str]) -> None:
    host.kill()
    host.wait()
    ((run_id, status),) = stored_runs(tmp_path)
    assert status == "RUNNING"
    assert len(list(tmp_path.glob("*.lock"))) == 1
    with RunEngine([], db_path=tmp_path / "runs.db") as engine:
        assert engine.recovered == (run_id,)
        record = engine.flight_record(run_id)
    assert told(record["events"]) == [
        ("STEP_STARTED", "s1"),
        ("TOOL_CALL_REQUESTED", "s1"),
        ("TOOL_CALL_FAILED", "s1"),
        ("STEP_COMPLETED", "s1"),
        ("PROVENANCE_EMITTED", None),
        ("RUN_FAILED", "s1"),
    ]
    assert outcomes(record["events"]) == [("INTERRUPTED", "unknown")]
    assert record["events"][-1]["payload"] == {"reason": "interrupted", "step_id": "s1"}
    assert (record["run"]["status"], record["response"]["status"]) == ("FAILED", "failed")
    assert list(tmp_path.glob("*.lock")) == []


def test_a_run_is_closed_once(tmp_path: Path, host: subprocess.Popen[str]) -> None:
    host.kill()
    host.wait()
    with RunEngine([], db_path=tmp_path / "runs.db") as first, RunEngine([], db_path=tmp_path / "runs.db") as second:
        assert (len(first.recovered), second.recovered) == (1, ())


def test_a_run_whose_process_lives_is_left_alone(tmp_path: Path, host: subprocess.Popen[str]) -> None:
    with RunEngine([], db_path=tmp_path / "runs.db") as engine:
        assert engine.recovered == ()
        ((run_id, status),) = stored_runs(tmp_path)
        assert status == "RUNNING"
        with pytest.raises(RunNotFinished):
            engine.flight_record(run_id)
    assert host.poll() is None


def test_a_run_of_another_program_is_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    RunEngine([], db_path=path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO runs VALUES ('theirs', 'apply', 'g', 'RUNNING', '2026-01-01T00:00:00.000Z')")
        connection.execute("INSERT INTO events VALUES ('e', 'theirs', 0, 'RUN_STARTED', '{}', '2026-01-01T00:00:00.000Z')")
    with RunEngine([], db_path=path) as engine:
        assert engine.recovered == ()
    assert stored_runs(tmp_path) == [("theirs", "RUNNING")]


def test_a_hostile_run_id_in_the_file_names_no_other_file(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path, victim = folder / "runs.db", tmp_path / "victim.lock"
    victim.write_text("not ours")
    with RunEngine([FakeAdapter()], db_path=path) as engine:
        run(engine)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO runs VALUES ('/../../victim', 'apply', 'g', 'RUNNING', '2026-01-01T00:00:00.000Z')")
        for seq, kind in enumerate(("RUN_STARTED", "PLAN_CREATED", "REQUEST_RECORDED")):
            payload: dict[str, object] = {"plan": [], "adapter_id": "x", "max_steps": None, "require_capabilities": []}
            row = (f"x{seq}", "/../../victim", seq, kind, json.dumps(payload), "2026-01-01T00:00:00.000Z")
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
    with RunEngine([], db_path=path) as engine:
        assert engine.recovered == ("/../../victim",)
    assert victim.read_text() == "not ours"


def test_a_run_that_was_edited_beyond_understanding_keeps_nobody_from_running(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    RunEngine([], db_path=path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO runs VALUES ('odd', 'apply', 'g', 'RUNNING', '2026-01-01T00:00:00.000Z')")
        connection.execute("INSERT INTO events VALUES ('e', 'odd', 0, 'REQUEST_RECORDED', '{\"x\": 1}', '2026-01-01T00:00:00.000Z')")
    with RunEngine([FakeAdapter()], db_path=path) as engine:
        assert engine.recovered == ()
        assert run(engine)["status"] == "completed"
    assert ("odd", "RUNNING") in stored_runs(tmp_path)


def test_where_nobody_can_tell_the_dead_from_the_slow_nothing_is_closed(
    tmp_path: Path, host: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.kill()
    host.wait()
    monkeypatch.setattr(run_lock_module.sys, "platform", "win32")
    with RunEngine([], db_path=tmp_path / "runs.db") as engine:
        assert engine.recovered == ()


def test_two_processes_run_on_one_file_at_once(tmp_path: Path) -> None:
    shell_tool(tmp_path, "sleep 0.2; echo '{}'")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    processes = [
        subprocess.Popen([sys.executable, "-c", HOST], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["done\n"] * 3
    assert [status for _, status in stored_runs(tmp_path)] == ["COMPLETED"] * 3
    with RunEngine([], db_path=tmp_path / "runs.db") as engine:
        for run_id, _ in stored_runs(tmp_path):
            events = events_of(engine, run_id)
            assert [event["seq"] for event in events] == list(range(10))
            assert {event["run_id"] for event in events} == {run_id}


def test_a_run_is_alive_under_every_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "current.db").symlink_to("runs.db")
    closed: list[object] = []

    def look() -> dict[str, Any]:
        with RunEngine([], db_path=tmp_path / "current.db") as another:
            closed.append(list(another.recovered))
        return {}

    with RunEngine([FakeAdapter(look)], db_path=tmp_path / "runs.db") as engine:
        engine.run(goal="g", adapter_id="fake", dry_run=False, plan='[{"tool": "t", "method": "m"}]')
    assert closed == [[]]


# A disk that is full.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in which no file grows beyond 300 kB; the run database exists there."""
    path = tmp_path / "runs.db"
    RunEngine([], db_path=path).close()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    yield path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_result_that_the_disk_cannot_take_fails_the_run_and_says_what_is_known(small_disk: Path) -> None:
    fake = FakeAdapter(lambda: {"text": "x" * 400_000})
    with RunEngine([fake], db_path=small_disk, new_id=counted_ids()) as engine:
        failure = failed(engine)
    assert failure.run_id == "id-0"
    assert issubclass(type(failure.__cause__), StoreError)
    assert failure.code == failure.__cause__.code  # type: ignore[union-attr]
    assert str(failure).startswith("the run could not be recorded: ")
    assert len(fake.calls) == 1  # nothing goes on without a record
    assert "known, but not recorded: TOOL_CALL_SUCCEEDED of s1" in str(failure)
    assert failure.response is None
    assert list(small_disk.parent.glob("*.lock")) == []


def test_after_the_disk_has_room_again_the_run_is_closed_as_unknown(small_disk: Path) -> None:
    with RunEngine([FakeAdapter(lambda: {"text": "x" * 400_000})], db_path=small_disk) as engine:
        run_id = failed(engine).run_id
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with RunEngine([], db_path=small_disk) as engine:
        assert engine.recovered == (run_id,)
        events = events_of(engine, run_id)
    assert outcomes(events) == [("INTERRUPTED", "unknown")]


def test_a_run_that_the_disk_cannot_take_at_all_does_not_happen(small_disk: Path) -> None:
    fake = FakeAdapter()
    with RunEngine([fake], db_path=small_disk) as engine, pytest.raises(StoreError):
        run(engine, goal="g" * 400_000)
    assert fake.calls == []
    assert fake.opened == 0
    assert stored_runs(small_disk.parent) == []


def test_a_store_that_fails_for_a_moment_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeAdapter()
    with RunEngine([fake], db_path=tmp_path / "runs.db") as engine:
        failing_once(engine, monkeypatch, 2, StoreFull("no room"))
        failure = failed(engine)
        assert (failure.code, str(failure)) == ("STORE_FULL", "the run could not be recorded: no room")
        events = events_of(engine, failure.run_id)
    # The second request was not stored, so that call was never made, and is not on the record.
    assert len(fake.calls) == 1
    assert told(events) == [
        ("STEP_STARTED", "s1"),
        ("TOOL_CALL_REQUESTED", "s1"),
        ("TOOL_CALL_SUCCEEDED", "s1"),
        ("STEP_COMPLETED", "s1"),
        ("STEP_STARTED", "s2"),
        ("STEP_COMPLETED", "s2"),
        ("PROVENANCE_EMITTED", None),
        ("RUN_FAILED", "s2"),
    ]
    assert failure.response is not None
    assert failure.response["status"] == "failed"


def failing_once(engine: RunEngine, monkeypatch: pytest.MonkeyPatch, number: int, problem: BaseException, *, after: bool = False) -> None:
    """Let the `number`-th commit of a run after its first fail, before or after it was made."""
    append = engine._store.append  # pyright: ignore[reportPrivateUsage] - a disk is hard to fill at the right moment
    left = [number]

    def once(events: list[EventRow], status: str | None = None) -> None:
        left[0] -= 1
        if left[0] == 0 and not after:
            raise problem
        append(events, status)
        if left[0] == 0:
            raise problem

    monkeypatch.setattr(engine._store, "append", once)  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("problem", [StoreFull("no room"), KeyboardInterrupt()])
def test_whichever_commit_fails_or_is_interrupted_the_record_and_the_response_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool, problem: BaseException
) -> None:
    fake = FakeAdapter()
    with RunEngine([fake], db_path=tmp_path / "runs.db", new_id=counted_ids()) as engine:
        failing_once(engine, monkeypatch, number, problem, after=after)
        with pytest.raises((RunFailed, KeyboardInterrupt)) as caught:
            run(engine)
        record = engine.flight_record("id-0")
        assert vars(caught.value)["response"] == record["response"]
    events = record["events"]
    assert [event["seq"] for event in events] == list(range(len(events)))
    ends = [event["type"] for event in events if event["type"] in ("RUN_COMPLETED", "RUN_FAILED")]
    assert ends == [events[-1]["type"]]
    assert record["run"]["status"] == events[-1]["type"].removeprefix("RUN_")
    requested = [event for event in events if event["type"] == "TOOL_CALL_REQUESTED"]
    results = [event for event in events if event["type"] in ("TOOL_CALL_SUCCEEDED", "TOOL_CALL_FAILED")]
    assert len(requested) == len(results) >= len(fake.calls)
    known = [event for event in results if event["type"] == "TOOL_CALL_SUCCEEDED"]
    assert len(known) == len(fake.calls)


def test_a_bug_that_cannot_be_recorded_still_tells_its_run(tmp_path: Path) -> None:
    def answer() -> Any:
        engine.close()
        raise ZeroDivisionError

    with RunEngine([FakeAdapter(answer)], db_path=tmp_path / "runs.db", new_id=counted_ids()) as engine:
        failure = failed(engine)
    assert (failure.code, failure.run_id, failure.response) == ("UNKNOWN_ERROR", "id-0", None)


# Interruptions, cancellation, time.


def test_an_interrupted_call_is_unknown_and_the_interruption_tells_the_run(tmp_path: Path) -> None:
    def answer() -> Any:
        raise KeyboardInterrupt

    fake = FakeAdapter(answer)
    with RunEngine([fake], db_path=tmp_path / "runs.db", new_id=counted_ids()) as engine:
        with pytest.raises(KeyboardInterrupt) as caught:
            run(engine)
        assert (vars(caught.value)["run_id"], vars(caught.value)["response"]["status"]) == ("id-0", "failed")
        assert outcomes(events_of(engine, "id-0")) == [("INTERRUPTED", "unknown")]
    assert (fake.opened, fake.closed) == (1, 1)


def test_an_interruption_outside_of_a_call_ends_the_run_and_leaves_nothing_unknown(tmp_path: Path) -> None:
    def watch(event: RunEvent) -> None:
        if event["type"] == "REQUEST_RECORDED":
            raise KeyboardInterrupt

    fake = FakeAdapter()
    with RunEngine([fake], db_path=tmp_path / "runs.db", new_id=counted_ids(), watch=watch) as engine:
        with pytest.raises(KeyboardInterrupt):
            run(engine)
        events = events_of(engine, "id-0")
    assert told(events) == [("PROVENANCE_EMITTED", None), ("RUN_FAILED", "interrupted")]
    assert (fake.calls, fake.opened) == ([], 0)


def test_a_cancelled_run_makes_no_further_call(tmp_path: Path) -> None:
    def answer() -> Any:
        assert engine.cancel(fake.calls[0].identity.run_id)
        return {}

    fake = FakeAdapter(answer)
    with RunEngine([fake], db_path=tmp_path / "runs.db") as engine:
        failure = failed(engine)
        assert (failure.code, str(failure)) == ("CANCELLED", "the run was cancelled")
        assert told(events_of(engine, failure.run_id))[-3:] == [
            ("STEP_COMPLETED", "s1"),
            ("PROVENANCE_EMITTED", None),
            ("RUN_FAILED", "cancelled"),
        ]
        assert not engine.cancel(str(failure.run_id))
    assert len(fake.calls) == 1


def test_a_run_that_was_cancelled_after_a_failed_step_says_both(tmp_path: Path) -> None:
    def answer() -> Any:
        if len(fake.calls) > 1:
            assert engine.cancel(fake.calls[0].identity.run_id)
            return {}
        raise CallFailed("TOOL_ERROR", "no", outcome=CallOutcome.FAILED)

    fake = FakeAdapter(answer)
    with RunEngine([fake], db_path=tmp_path / "runs.db") as engine:
        failure = failed(engine, THREE)
        assert (failure.code, str(failure)) == ("TOOL_ERROR", "step s1: no")
        assert events_of(engine, failure.run_id)[-1]["payload"] == {"outcome": "error", "reason": "cancelled"}
    assert len(fake.calls) == 2


def test_a_call_under_way_is_stopped_when_its_run_is_cancelled(tmp_path: Path) -> None:
    seen: list[RunEvent] = []
    tool = shell_tool(tmp_path, "echo > began; sleep 300")
    with RunEngine([tool], db_path=tmp_path / "runs.db", watch=seen.append) as engine:

        def cancel() -> None:
            while not (tmp_path / "began").exists():
                time.sleep(0.01)
            engine.cancel(seen[0]["run_id"])

        thread = threading.Thread(target=cancel)
        thread.start()
        start = time.monotonic()
        failure = failed(engine, adapter_id="subprocess:tool")
        thread.join()
        assert time.monotonic() - start < 60
        assert failure.code == "CANCELLED"
        assert outcomes(events_of(engine, failure.run_id)) == [("CANCELLED", "unknown")]


def test_the_time_for_a_run_limits_its_calls_and_its_steps(tmp_path: Path) -> None:
    tool = shell_tool(tmp_path, 'test "$3" = list && sleep 0.4; test "$3" = rotate && sleep 300; echo "{}"')
    with RunEngine([tool], db_path=tmp_path / "runs.db", run_timeout_s=3.0) as engine:
        start = time.monotonic()
        failure = failed(engine, adapter_id="subprocess:tool")
        assert time.monotonic() - start < 60
        assert (failure.code, str(failure)) == ("TIMEOUT", "step s2: Not done in time")
        assert outcomes(events_of(engine, failure.run_id)) == [("TIMEOUT", "unknown")]


def test_no_step_begins_after_the_time_for_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)

    def answer() -> Any:
        nonlocal now
        now += 0.06
        return {}

    fake = FakeAdapter(answer)
    with RunEngine([fake], db_path=tmp_path / "runs.db", run_timeout_s=0.05) as engine:
        failure = failed(engine)
        assert failure.code == "RUN_TIMEOUT"
        assert events_of(engine, failure.run_id)[-1]["payload"] == {"reason": "run_timeout"}
    assert len(fake.calls) == 1


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="run_timeout_s"):
        RunEngine([], run_timeout_s=seconds)


# Outcomes.


def test_a_plan_may_go_on_after_a_failed_step(tmp_path: Path) -> None:
    tool = shell_tool(tmp_path, 'echo "$3" >> made; test "$3" != b && echo "{}"')
    with RunEngine([tool], db_path=tmp_path / "runs.db") as engine:
        failure = failed(engine, THREE, adapter_id="subprocess:tool")
        events = events_of(engine, failure.run_id)
    assert (tmp_path / "made").read_text().split() == ["b", "c", "d"]
    assert (failure.code, str(failure)) == ("NONZERO_EXIT", "step s1: Command exited with code 1")
    assert [event["payload"]["status"] for event in events if event["type"] == "STEP_COMPLETED"] == ["error", "ok", "ok"]
    assert events[-1]["payload"] == {"outcome": "error"}
    assert failure.response is not None
    assert failure.response["steps_executed"] == 3


@pytest.mark.parametrize(
    ("code", "outcome", "calls"),
    [
        ("TIMEOUT", CallOutcome.UNKNOWN, 2),
        ("CONNECTION_LOST", CallOutcome.UNKNOWN, 2),
        ("CONNECTION_FAILED", CallOutcome.NOT_SENT, 2),
        ("HTTP_ERROR", CallOutcome.UNKNOWN, 2),
        ("HTTP_ERROR", CallOutcome.FAILED, 1),
        ("TOOL_ERROR", CallOutcome.FAILED, 1),
        ("CANCELLED", CallOutcome.UNKNOWN, 1),
        ("OUTPUT_TOO_LARGE", CallOutcome.UNKNOWN, 1),
        ("ANYTHING", CallOutcome.UNKNOWN, 1),
    ],
)
def test_only_what_is_uncertain_is_tried_again_and_only_on_an_idempotent_adapter(code: str, outcome: CallOutcome, calls: int) -> None:
    for idempotent, expected in ((True, calls), (False, 1)):
        fake = FakeAdapter(fail(code, outcome), idempotent=idempotent)
        with RunEngine([fake]) as engine:
            failure = failed(engine)
            assert failure.code == code
            assert outcomes(events_of(engine, failure.run_id)) == [(code, outcome.value)] * expected
        assert len(fake.calls) == expected


def test_a_refusal_at_the_call_is_a_call_that_was_not_sent() -> None:
    def answer() -> Any:
        raise CallRefused("SECRET_MISSING", "the variable KMS_TOKEN is not set")

    with RunEngine([FakeAdapter(answer)]) as engine:
        assert outcomes(events_of(engine, failed(engine).run_id)) == [("SECRET_MISSING", "not_sent")]


def test_what_was_taken_out_of_an_output_is_listed() -> None:
    fake = FakeAdapter(lambda: CallResult(output={"token": "[removed]", "n": 1}, redacted=("/token",)))
    with RunEngine([fake]) as engine:
        events = events_of(engine, run(engine, '[{"tool": "a", "method": "b"}]')["run_id"])
    noted = next(event["payload"] for event in events if event["type"] == "TOOL_CALL_SUCCEEDED")
    assert (noted["output"], noted["redacted"]) == ({"token": "[removed]", "n": 1, "adapter_id": "fake"}, ["/token"])


def test_a_message_is_recorded_as_one_printable_line_of_bounded_length() -> None:
    message = "two\nlines\x1b[31m\ud800 " + "x" * 10_000
    with RunEngine([FakeAdapter(fail("TOOL_ERROR", CallOutcome.FAILED, message))]) as engine:
        failure = failed(engine)
        events = events_of(engine, failure.run_id)
    recorded = next(event["payload"]["message"] for event in events if event["type"] == "TOOL_CALL_FAILED")
    assert recorded.startswith("two lines [31m xxx")
    assert len(recorded) == 500
    assert len(str(failure)) < 520


# Adapters that misbehave before the first call.


class Misbehaving(FakeAdapter):
    """Raises where it is told to."""

    def __init__(self, where: str, problem: Exception) -> None:
        super().__init__()
        self.where, self.problem = where, problem

    def check(self, step: Step) -> None:
        if self.where == "check":
            raise self.problem
        super().check(step)

    def preflight(self, steps: Any) -> None:
        if self.where == "preflight":
            raise self.problem
        super().preflight(steps)

    def open(self, steps: Any, limit: CallLimit) -> AdapterSession:
        if self.where == "open":
            raise self.problem
        return super().open(steps, limit)


@pytest.mark.parametrize("where", ["check", "preflight", "open"])
@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (CallRefused("TOOLS_CHANGED", "the tool is not the approved one"), "TOOLS_CHANGED"),
        (RuntimeError("password=hunter2"), "UNKNOWN_ERROR"),
    ],
)
def test_an_adapter_that_objects_or_breaks_before_the_first_call_fails_the_run_on_the_record(
    where: str, problem: Exception, code: str
) -> None:
    fake = Misbehaving(where, problem)
    with RunEngine([fake]) as engine:
        failure = failed(engine)
        record = engine.flight_record(str(failure.run_id))
    assert failure.code == code
    assert told(record["events"])[-1][0] == "RUN_FAILED"
    assert "hunter2" not in str(failure) + json.dumps(record)
    assert (fake.calls, fake.opened) == ([], 0)


def test_a_session_that_cannot_be_opened_fails_the_run_without_a_call() -> None:
    problem = CallFailed("CONNECTION_FAILED", "no server", outcome=CallOutcome.NOT_SENT)
    with RunEngine([Misbehaving("open", problem)]) as engine:
        failure = failed(engine)
        last = events_of(engine, failure.run_id)[-1]
    assert (failure.code, str(failure)) == ("CONNECTION_FAILED", "no server")
    assert last["payload"] == {"reason": "adapter_not_opened", "error_code": "CONNECTION_FAILED", "message": "no server"}


def test_a_run_has_one_session_that_is_closed_whatever_happens() -> None:
    def bug() -> Any:
        raise ZeroDivisionError

    for answer in (fail("TOOL_ERROR", CallOutcome.FAILED), bug):
        fake = FakeAdapter(answer)
        with RunEngine([fake]) as engine:
            failed(engine)
        assert (fake.opened, fake.closed) == (1, 1)
    fake = FakeAdapter()
    with RunEngine([fake]) as engine:
        run(engine, dry_run=True)
        assert fake.opened == 0
        run(engine)
    assert (fake.opened, fake.closed) == (1, 1)


def test_a_session_that_cannot_be_closed_changes_nothing_about_its_calls() -> None:
    class Stuck(FakeAdapter):
        def close(self) -> None:
            raise OSError("the server is gone")

    with RunEngine([Stuck()]) as engine:
        assert run(engine)["status"] == "completed"


def test_whoever_watches_sees_each_event_after_its_commit_and_cannot_end_the_run(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def watch(event: RunEvent) -> None:
        with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
            stored = connection.execute("SELECT 1 FROM events WHERE event_id = ?", (event["event_id"],)).fetchone()
        seen.append((event["type"], stored is not None))
        raise ValueError("a watcher that breaks")

    with RunEngine([FakeAdapter()], db_path=tmp_path / "runs.db", watch=watch) as engine:
        run_id = run(engine)["run_id"]
        assert seen == [(event["type"], True) for event in events_of(engine, run_id)]


def test_the_same_plan_text_is_the_same_run_each_time() -> None:
    with RunEngine([FakeAdapter()]) as engine:
        plans = [events_of(engine, run(engine)["run_id"])[2]["payload"] for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0]["plan"][0] == step("keys", "list").to_dict()


@pytest.mark.parametrize("name", ["..", ".", "a/b", "?x=1", "--flag", "-x", "a b", "%2e%2e", "a\n"])
def test_a_name_that_is_more_than_a_name_is_refused_on_the_record(tmp_path: Path, name: str) -> None:
    with RunEngine([shell_tool(tmp_path, "touch called; echo '{}'")]) as engine:
        for tool, method in ((name, "list"), ("keys", name)):
            failure = failed(engine, json.dumps([{"tool": tool, "method": method}]), adapter_id="subprocess:tool")
            assert failure.code == "INVALID_NAME"
    assert not (tmp_path / "called").exists()
