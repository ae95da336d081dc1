"""Eight processes at once on one decision: nothing is lost, nothing is doubled, and who comes too late is told so by name."""

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_control.errors import ConcurrencyError
from nexus_control.events import Actor, EventType
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

PROCESSES = 8
ROOT = Path(__file__).resolve().parent.parent


def human(name: str) -> Actor:
    return Actor(type="human", id=name)


class CountingRouter:
    """Leaves one line in a file per run; O_APPEND keeps the lines of several processes apart."""

    def __init__(self, path: str) -> None:
        self.path = path

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"ran\n")
        os.close(descriptor)
        time.sleep(0.05)
        return {"run_id": f"run-{os.getpid()}", "steps_executed": 1}


# What each process does: (database, decision, number of the process) -> one code per call, "ok" for success.


def approve_as_oneself(path: str, decision_id: str, number: int) -> list[str]:
    with DecisionStore(path) as store:
        return [NexusControlTools(store).approve(decision_id, human(f"a{number}")).code or "ok"]


def approve_as_the_same(path: str, decision_id: str, number: int) -> list[str]:
    del number
    with DecisionStore(path) as store:
        return [NexusControlTools(store).approve(decision_id, human("same")).code or "ok"]


def execute_three_times(path: str, decision_id: str, number: int) -> list[str]:
    with DecisionStore(path) as store:
        tools, router = NexusControlTools(store), CountingRouter(path + ".runs")
        return [tools.execute(decision_id, "ad", human(f"a{number}"), router).code or "ok" for _ in range(3)]


def append_ten_each(path: str, decision_id: str, number: int) -> list[str]:
    with DecisionStore(path) as store:
        for call in range(10):
            store.append_event(decision_id, EventType.APPROVAL_GRANTED, human(f"a{number}"), {"expires_at": None, "comment": str(call)})
    return ["ok"] * 10


def append_at_one_place(path: str, decision_id: str, number: int) -> list[str]:
    with DecisionStore(path) as store:
        try:
            store.append_event(decision_id, EventType.APPROVAL_GRANTED, human(f"a{number}"), {"expires_at": None}, expected_seq=2)
        except ConcurrencyError as error:
            return [error.code]
    return ["ok"]


def open_a_new_file(path: str, decision_id: str, number: int) -> list[str]:
    with DecisionStore(path + ".new") as store:
        store.create_decision(f"{decision_id}-{number}")
    return ["ok"]


def append_for_a_second(path: str, decision_id: str, number: int) -> list[str]:
    calls, end = 0, math.inf
    with DecisionStore(path) as store:
        while time.monotonic() < end:
            end = end if calls else time.monotonic() + 1  # from here on, however long it took to get here
            store.append_event(decision_id, EventType.APPROVAL_GRANTED, human(f"a{number}"), {"expires_at": None})
            calls += 1
    return [f"a{number}"] * calls


def _take_part(work: Callable[[str, str, int], list[str]], path: str, decision_id: str, number: int, gate: Any, results: Any) -> None:
    gate.wait(200)
    results.put(work(path, decision_id, number))


def race(work: Callable[[str, str, int], list[str]], path: Path, decision_id: str, method: str) -> Counter[str]:
    """All codes that the processes got, counted."""
    context: Any = multiprocessing.get_context(method)
    gate, results = context.Barrier(PROCESSES), context.Queue()
    children = [
        context.Process(target=_take_part, args=(work, str(path), decision_id, number, gate, results)) for number in range(PROCESSES)
    ]
    for child in children:
        child.start()
    codes = Counter(code for _ in children for code in results.get(timeout=250))
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    return codes


@pytest.fixture(params=["fork", "spawn"])
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def prepared(path: Path, approvals: int = 0, needed: int = 1) -> str:
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        decision_id: str = tools.request("g", human("alice"), mode="apply", min_approvals=needed).data["request_id"]
        for number in range(approvals):
            assert tools.approve(decision_id, human(f"b{number}")).success
    return decision_id


def events_of(path: Path, decision_id: str) -> list[tuple[str, str]]:
    """(type, actor id) of every event, after the whole store was verified."""
    with DecisionStore(path) as store:
        verification = store.verify_log()
        assert verification.ok, verification.errors
        events = store.get_events(decision_id)
        assert [event.seq for event in events] == list(range(len(events)))
        return [(event.event_type.value, event.actor["id"]) for event in events]


def test_every_one_of_eight_approvers_is_counted_once(tmp_path: Path, method: str) -> None:
    path = tmp_path / "s.db"
    decision_id = prepared(path, needed=8)
    assert race(approve_as_oneself, path, decision_id, method) == {"ok": 8}
    approvals = [actor for event_type, actor in events_of(path, decision_id) if event_type == "APPROVAL_GRANTED"]
    assert sorted(approvals) == [f"a{number}" for number in range(8)]


def test_one_approver_in_eight_places_approves_once(tmp_path: Path, method: str) -> None:
    path = tmp_path / "s.db"
    decision_id = prepared(path)
    assert race(approve_as_the_same, path, decision_id, method) == {"ok": 1, "ALREADY_APPROVED": 7}
    assert events_of(path, decision_id).count(("APPROVAL_GRANTED", "same")) == 1


def test_of_eight_executors_exactly_one_runs_the_router(tmp_path: Path, method: str) -> None:
    path = tmp_path / "s.db"
    decision_id = prepared(path, approvals=1)
    codes = race(execute_three_times, path, decision_id, method)
    assert codes["ok"] == 1
    assert set(codes) <= {"ok", "EXECUTION_IN_PROGRESS", "ALREADY_EXECUTED"}
    assert codes.total() == 24
    assert Path(f"{path}.runs").read_text() == "ran\n"
    kinds = Counter(event_type for event_type, _ in events_of(path, decision_id))
    assert (kinds["EXECUTION_REQUESTED"], kinds["EXECUTION_STARTED"], kinds["EXECUTION_COMPLETED"]) == (1, 1, 1)


def test_eight_writers_append_all_their_events(tmp_path: Path, method: str) -> None:
    path = tmp_path / "s.db"
    decision_id = prepared(path)
    assert race(append_ten_each, path, decision_id, method) == {"ok": 80}
    assert Counter(actor for _, actor in events_of(path, decision_id)[2:]) == {f"a{number}": 10 for number in range(8)}


def test_of_eight_writers_without_a_pause_none_is_kept_out(tmp_path: Path) -> None:
    """SQLite's own waiting lets the fastest of them have a hundred times as many turns as the slowest, and more."""
    path = tmp_path / "s.db"
    decision_id = prepared(path)
    turns = race(append_for_a_second, path, decision_id, "spawn")
    assert len(turns) == PROCESSES
    assert min(turns.values()) * 40 > max(turns.values())
    assert len(events_of(path, decision_id)) == turns.total() + 2


def test_of_eight_writers_that_expect_one_place_one_gets_it(tmp_path: Path, method: str) -> None:
    path = tmp_path / "s.db"
    decision_id = prepared(path)
    assert race(append_at_one_place, path, decision_id, method) == {"ok": 1, "CONCURRENT_MODIFICATION": 7}
    assert len(events_of(path, decision_id)) == 3


def test_eight_processes_may_open_a_new_file_at_once(tmp_path: Path, method: str) -> None:
    path = tmp_path / "s.db"
    assert race(open_a_new_file, path, "d", method) == {"ok": 8}
    with DecisionStore(f"{path}.new") as store:
        assert len(store.list_decisions()) == 8
        assert store.verify_log().ok


STREAM = """
import json, sys
from nexus_control.tool import NexusControlTools
tools = NexusControlTools(db_path=sys.argv[1])
while True:
    decision = tools.request("g", {"type": "human", "id": "alice"}, min_approvals=1).data["request_id"]
    print(json.dumps([decision, 2]), flush=True)
    assert tools.approve(decision, {"type": "human", "id": "bob"}).success
    print(json.dumps([decision, 3]), flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.2])
def test_a_killed_writer_loses_nothing_that_it_acknowledged_and_leaves_nothing_half_done(tmp_path: Path, delay: float) -> None:
    path = tmp_path / "s.db"
    command = [sys.executable, "-c", STREAM, str(path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    lines = [first, *child.stdout.read().splitlines(keepends=True)]
    child.stdout.close()
    child.wait(60)
    acknowledged: dict[str, int] = dict(json.loads(line) for line in lines if line.endswith(b"\n"))
    with DecisionStore(path) as store:
        verification = store.verify_log()
        assert verification.ok, verification.errors
        stored = {decision_id: len(store.get_events(decision_id)) for decision_id, _ in store.list_decisions(limit=1_000_000)}
    assert all(stored[decision_id] >= events for decision_id, events in acknowledged.items())
    assert set(stored.values()) <= {2, 3}
    assert len(stored) - len(acknowledged) <= 1
