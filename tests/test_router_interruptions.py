"""Signals at any moment of an execution: no tool is left running, no run without its end, and no decision that waits for one."""

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from router_testing import FakeAdapter, adapter_file, ends_soon, is_running

from nexus_attest.routers import RunEngine, RunFailed, RunRecords, StopSignals, Terminated
from nexus_attest.routers import engine as engine_module
from nexus_control.flight_checks import verify_flight_record
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

ROOT = Path(__file__).resolve().parent.parent

ALICE = {"type": "human", "id": "alice"}

PLAN = '[{"tool": "t", "method": "m"}, {"tool": "t", "method": "m"}]'

TOOL = "echo $$ >> pids; sleep 300 & echo $! >> pids; sleep 0.05; echo '{}'"

# Forks once per moment, so that a try costs no start of Python; each child is the whole command, from its beginning to its end.
HOST = """
import os, random, signal, sys, time
from nexus_attest.cli import main
import nexus_attest.cli.app, nexus_attest.cli.running, nexus_attest.cli.signing, nexus_attest.cli.session, nexus_attest.cli.screen

random.seed(7)
numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until a child is on its way, whenever this machine lets it
duration = None  # of the first command, which is left in peace
for place, request_id in enumerate(sys.argv[1:]):
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        except KeyboardInterrupt:
            os._exit(130)
        sys.argv = ["nexus-attest", "execute", request_id, "tool", "--adapters", "adapters.toml", "--actor", "alice", "--db", "store.db"]
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        os._exit(code)
    if duration is not None:
        time.sleep(random.uniform(0, duration))
        for _ in range(random.choice([1, 1, 2, 3])):
            os.kill(child, numbers[place % 3])  # at worst it has ended and nobody has asked for its exit code yet
            time.sleep(random.uniform(0, 0.02))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    duration = duration or time.monotonic() - began
"""


def started(folder: Path) -> list[int]:
    """The processes that were ever started as tools."""
    path = folder / "pids"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def approved(tools: NexusControlTools) -> str:
    request_id: str = tools.request("Run the tool", ALICE, "apply", PLAN).data["request_id"]
    assert tools.approve(request_id, ALICE).success
    return request_id


def make_tool(folder: Path, script: str = TOOL) -> Path:
    (folder / "tool.sh").write_text(script)
    return adapter_file(folder, id="tool", allow=["t/m"])


def test_whenever_a_command_is_told_to_end_everything_is_recorded_and_nothing_goes_on(tmp_path: Path) -> None:
    make_tool(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with DecisionStore(tmp_path / "store.db") as store:
        tools = NexusControlTools(store)
        requests = [approved(tools) for _ in range(24)]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", HOST, *requests],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TMPDIR": str(temporary)},
            cwd=tmp_path,
            capture_output=True,
            timeout=280,
            check=True,
        )
        assert time.monotonic() - began < 250
        codes = [int(line) for line in done.stdout.split()]
        assert codes[0] == 0
        assert set(codes) <= {0, 130, 143, 129, -15, -1}, codes  # minus: before it listened, or after
        for pid in started(tmp_path):
            assert not is_running(pid)
        assert list(temporary.iterdir()) == []
        states = {request_id: tools.status(request_id).data for request_id in requests}
        assert {status["state"] for status in states.values()} <= {"approved", "failed", "completed"}
        with RunRecords(tmp_path / "store.db.runs") as records:
            runs = records.runs(limit=100)
            assert {run.run["status"] for run in runs} <= {"COMPLETED", "FAILED"}
            executed = [request_id for request_id, status in states.items() if status["state"] != "approved"]
            assert len(runs) == len(executed)
            ends = Counter((run.run["status"], run.error_code) for run in runs)
            assert set(ends) <= {("COMPLETED", None), ("FAILED", "CANCELLED"), ("FAILED", "cancelled")}, ends
            judge = NexusControlTools(store, flight_records=records)
            for request_id in executed:
                package = judge.export_audit_package(request_id, embed_router_bundle=True, render=False).data["package"]
                assert verify_flight_record(package, strict=True).ok
                completed = package["router"]["bundle"]["run"]["status"] == "COMPLETED"
                assert completed is (states[request_id]["state"] == "completed")


def in_a_process(folder: Path, body: str) -> subprocess.Popen[bytes]:
    """A program that has an engine over the tool of the folder, and an approved decision."""
    host = f"""
import os, signal, sys, threading, time
from nexus_attest.routers import RunEngine, StopSignals, load_adapters
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools
tools = NexusControlTools(db_path="store.db")
alice = {ALICE!r}
request_id = tools.request("Run the tool", alice, "apply", {PLAN!r}).data["request_id"]
tools.approve(request_id, alice)
with RunEngine(load_adapters("adapters.toml"), db_path="runs.db") as router:
    {body}
"""
    return subprocess.Popen([sys.executable, "-c", host], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)


def wait_for_tool(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while len(started(folder)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code", "body"),
    [
        (signal.SIGINT, -signal.SIGINT, "tools.execute(request_id, 'tool', alice, router)"),
        (signal.SIGTERM, 143, "with StopSignals(router.stop): tools.execute(request_id, 'tool', alice, router)"),
        (signal.SIGHUP, 129, "with StopSignals(router.stop): tools.execute(request_id, 'tool', alice, router)"),
    ],
)
def test_a_program_that_uses_the_library_ends_the_same_way(tmp_path: Path, number: signal.Signals, code: int, body: str) -> None:
    make_tool(tmp_path, TOOL.replace("sleep 0.05", "sleep 300"))
    process = in_a_process(tmp_path, body)
    wait_for_tool(tmp_path)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    for pid in started(tmp_path):
        assert ends_soon(pid)
    with RunRecords(tmp_path / "runs.db") as records:
        (run,) = records.runs()
    assert (run.run["status"], run.error_code, run.unknown, run.steps_executed) == ("FAILED", "CANCELLED", 1, 1)
    tools = NexusControlTools(db_path=tmp_path / "store.db")
    (found,) = tools.list_requests().data["requests"]
    assert found["state"] == "failed"
    tools.store.close()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a run was told of Ctrl-C, which a thread does."""
    event, deferred = threading.Event(), engine_module.ctrl_c_deferred

    def heard(stop: Callable[[], object]) -> AbstractContextManager[None]:
        return deferred(lambda: (stop(), event.set()))

    monkeypatch.setattr(engine_module, "ctrl_c_deferred", heard)
    return event


class Pressed:
    """The answer of a tool during whose call somebody presses Ctrl-C, more than once: when the run was told of it, or after `seconds`."""

    def __init__(self, told: threading.Event, seconds: float = 60) -> None:
        self.told, self.seconds = told, seconds

    def __call__(self) -> dict[str, Any]:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        self.told.wait(self.seconds)
        return {"done": True}


def test_ctrl_c_is_raised_when_the_run_has_ended_and_tells_of_it(told: threading.Event) -> None:
    adapter = FakeAdapter(Pressed(told))
    with RunEngine([adapter]) as engine:
        with pytest.raises(KeyboardInterrupt) as caught:
            engine.run(goal="g", adapter_id="fake", dry_run=False, plan=PLAN)
        carried = vars(caught.value)
        assert carried["response"]["status"] == "failed"
        assert engine.flight_record(carried["run_id"])["response"] == carried["response"]
    assert len(adapter.calls) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_comes_too_late_does_not_make_a_completed_run_a_failed_decision(tmp_path: Path, told: threading.Event) -> None:
    one = '[{"tool": "t", "method": "m"}]'
    tools = NexusControlTools(db_path=tmp_path / "store.db")
    with RunEngine([FakeAdapter(Pressed(told))]) as engine:
        request_id = tools.request("g", ALICE, "apply", one).data["request_id"]
        tools.approve(request_id, ALICE)
        with pytest.raises(KeyboardInterrupt):
            tools.execute(request_id, "fake", ALICE, engine)
        assert tools.status(request_id).data["state"] == "completed"
        package = NexusControlTools(tools.store, flight_records=engine).export_audit_package(request_id, embed_router_bundle=True)
        assert verify_flight_record(package.data["package"], strict=True).ok
    tools.store.close()


def test_ctrl_c_before_the_first_call_leaves_none_to_be_made(monkeypatch: pytest.MonkeyPatch, told: threading.Event) -> None:
    fake = FakeAdapter(lambda: {})
    with RunEngine([fake]) as engine:
        lock = engine._store.lock  # pyright: ignore[reportPrivateUsage]

        def interrupted(run_id: str) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            assert told.wait(60)
            return lock(run_id)

        monkeypatch.setattr(engine._store, "lock", interrupted)  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(KeyboardInterrupt):
            engine.run(goal="g", adapter_id="fake", dry_run=False, plan=PLAN)
    assert fake.calls == []


def test_whoever_handles_ctrl_c_otherwise_is_left_alone(told: threading.Event) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with RunEngine([FakeAdapter(Pressed(told, 0.05))]) as engine:
            assert engine.run(goal="g", adapter_id="fake", dry_run=False, plan=PLAN)["status"] == "completed"
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(heard) == 6


def test_an_engine_that_was_stopped_makes_no_call_any_more() -> None:
    adapter = FakeAdapter()
    with RunEngine([adapter]) as engine:
        engine.stop()
        with pytest.raises(RunFailed) as caught:
            engine.run(goal="g", adapter_id="fake", dry_run=False, plan=PLAN)
        assert (caught.value.code, caught.value.response is not None) == ("CANCELLED", True)
    assert (adapter.calls, adapter.opened) == ([], 0)


def test_signals_stop_once_and_raise_at_the_end_and_what_was_ignored_stays_so() -> None:
    stopped = threading.Semaphore(0)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        signals = StopSignals(stopped.release)

        def work() -> None:
            with signals:
                signal.raise_signal(signal.SIGHUP)
                assert signals.number is None
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGINT)
                raise ValueError("of the work")

        with pytest.raises(Terminated) as caught:
            work()
        assert signals.number == signal.SIGTERM
        assert (caught.value.code, str(caught.value)) == (143, "The executing process was ended by SIGTERM")
        assert isinstance(caught.value.__context__, ValueError)
        assert stopped.acquire(timeout=60)
        assert not stopped.acquire(timeout=0.05)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_without_a_thread_to_be_had_no_signal_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(_thread, "start_new_thread", no_thread)
    with pytest.raises(RuntimeError), StopSignals(lambda: None):
        raise AssertionError("not reached")
    assert [signal.getsignal(number) for number in numbers] == before
    with RunEngine([FakeAdapter()]) as engine:  # runs go on; Ctrl-C then raises as always
        run_id = engine.run(goal="g", adapter_id="fake", dry_run=False, plan='[{"tool": "t", "method": "m"}]')["run_id"]
        assert engine.flight_record(run_id)["run"]["status"] == "COMPLETED"


def test_a_thread_is_there_before_a_signal_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()

    def work() -> None:
        with StopSignals(stopped.set):
            monkeypatch.setattr(_thread, "start_new_thread", no_thread)
            signal.raise_signal(signal.SIGINT)
            assert stopped.wait(60)

    with pytest.raises(KeyboardInterrupt):
        work()


def test_a_signal_that_cannot_be_handled_leaves_none_half_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    before, ended, start = signal.getsignal(signal.SIGTERM), threading.Event(), _thread.start_new_thread

    def noted(work: Callable[[], object], args: tuple[()]) -> int:
        return start(lambda: (work(*args), ended.set()), ())

    monkeypatch.setattr(_thread, "start_new_thread", noted)
    with pytest.raises((OSError, ValueError)), StopSignals(lambda: None, (signal.SIGTERM, signal.SIGKILL)):
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGTERM) is before
    assert ended.wait(60)


def test_outside_of_the_main_thread_signals_are_not_touched() -> None:
    found: list[object] = []

    def work() -> None:
        with StopSignals(lambda: None):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
