"""Two processes on one store, one of which stands still at each of its steps while the other does all of its work.

So every way is tried in which one command can fall into the middle of another one. Where the first one holds the write lock, the other
waits, gives up and says so. After both: the log verifies, at most one execution ran, and what each process was told is so.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fault_testing import Ended, in_process, library, lines_of, snapshots, state_of, steps_of
from store_testing import ALICE, BOB, CAROL, quick_folder

from nexus_control import sqlite
from nexus_control.events import EventType
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else every third one; `make faults` stands still at all of them."""


class Router:
    """Leaves one line in a file per run."""

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        with Path("ran").open("a") as file:
            file.write("ran\n")
        return {"run_id": f"run-{os.getpid()}", "steps_executed": 1}


Act = Callable[[NexusControlTools, str], ToolResult]


def execute(tools: NexusControlTools, name: str) -> ToolResult:
    return tools.execute(name, "ad", CAROL, Router())


def retry(tools: NexusControlTools, name: str) -> ToolResult:
    return tools.execute(name, "ad", CAROL, Router(), retry=True)


def approve(tools: NexusControlTools, name: str) -> ToolResult:
    return tools.approve(name, CAROL)


def revoke(tools: NexusControlTools, name: str) -> ToolResult:
    return tools.revoke_approval(name, ALICE)


def recover(tools: NexusControlTools, name: str) -> ToolResult:
    return tools.recover_execution(name, BOB)


def make_template(tools: NexusControlTools, _: str) -> ToolResult:
    return tools.template_create("t", ALICE)


def take_in(tools: NexusControlTools, _: str) -> ToolResult:
    return tools.import_bundle(Path("bundle.json").read_text())


def take_in_over(tools: NexusControlTools, name: str) -> ToolResult:
    bundle = tools.export_bundle(name).data["bundle"]
    return tools.import_bundle(bundle, conflict_mode="overwrite")


BUSY = "STORE_BUSY"
EXECUTION = [EventType.EXECUTION_REQUESTED, EventType.EXECUTION_STARTED, EventType.EXECUTION_COMPLETED]


@dataclass(frozen=True)
class Pair:
    """`first` stands still; `second` falls into it. What the two may be told, as pairs of codes (None: done), without busy stores."""

    first: Act
    second: Act
    told: frozenset[tuple[str | None, str | None]]
    approvals: int = 1
    executing: bool = False
    runs: tuple[int, ...] = (0, 1)


def pairs(*told: tuple[str | None, str | None]) -> frozenset[tuple[str | None, str | None]]:
    return frozenset(told)


PAIRS = {
    "execute, execute": Pair(
        execute,
        execute,
        pairs((None, "EXECUTION_IN_PROGRESS"), (None, "ALREADY_EXECUTED"), ("ALREADY_EXECUTED", None)),
        runs=(1,),
    ),
    "execute, revoke": Pair(execute, revoke, pairs((None, "CANNOT_REVOKE"), ("POLICY_VALIDATION_FAILED", None))),
    "revoke, execute": Pair(revoke, execute, pairs((None, "POLICY_VALIDATION_FAILED"), ("CANNOT_REVOKE", None))),
    "execute, recover": Pair(
        execute, recover, pairs((None, "NOTHING_TO_RECOVER"), (None, None)), runs=(1,)
    ),  # what is known late is still what happened
    "recover, retry": Pair(recover, retry, pairs((None, None), (None, "EXECUTION_IN_PROGRESS")), executing=True),
    "approve, approve": Pair(approve, approve, pairs((None, "ALREADY_APPROVED"), ("ALREADY_APPROVED", None)), runs=(0,)),
    "approve, execute": Pair(approve, execute, pairs((None, "POLICY_VALIDATION_FAILED"), (None, None)), approvals=0),
    "template, template": Pair(
        make_template, make_template, pairs((None, "TEMPLATE_ALREADY_EXISTS"), ("TEMPLATE_ALREADY_EXISTS", None)), runs=(0,)
    ),
    "import, import": Pair(take_in, take_in, pairs((None, "DECISION_EXISTS"), ("DECISION_EXISTS", None)), runs=(0,)),
    "execute, import over it": Pair(
        execute,
        take_in_over,
        pairs(
            (None, None),
            # The decision was replaced: by one whose approvals are of another system, or while it ran.
            ("POLICY_VALIDATION_FAILED", None),
            ("EXECUTION_SUPERSEDED", None),
        ),
    ),
}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    with quick_folder() as folder:
        (folder / "at").mkdir()
        yield folder / "at"


def prepared(folder: Path, pair: Pair) -> str:
    with DecisionStore(folder / "s.db") as store:
        tools = NexusControlTools(store)
        name: str = tools.request("g", ALICE, mode="apply").data["request_id"]
        if pair.approvals:
            assert tools.approve(name, ALICE).success
        other = DecisionStore()
        foreign = NexusControlTools(other)
        bundle = foreign.export_bundle(foreign.request("imported", BOB).data["request_id"]).data["canonical_json"]
        (folder / "bundle.json").write_text(bundle)
        other.close()
        if pair.executing:
            store.append_event(name, EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": False})
            store.append_event(name, EventType.EXECUTION_STARTED, ALICE, {})
    return name


def code_of(ended: Ended) -> str | None:
    """What a process was told. Whoever waited in vain reads the same advice, whatever the command calls it."""
    code, text = ended.refusal, str(ended.document.get("error"))
    if code in (BUSY, "IMPORT_ATOMICITY_FAILED"):
        assert "another process holds the write lock; try again" in text
        return BUSY
    return code


def work_of(act: Act, name: str) -> Callable[[], object]:
    def work() -> Mapping[str, Any]:
        with DecisionStore("s.db") as store:
            result = act(NexusControlTools(store), name)
        return {"code": result.code, "error": result.error}

    return library(work)


@pytest.mark.parametrize("which", PAIRS)
def test_a_command_that_falls_into_another_one_changes_nothing_that_was_told(place: Path, which: str) -> None:
    pair = PAIRS[which]
    name = prepared(place, pair)
    first, second = work_of(pair.first, name), work_of(pair.second, name)
    before = state_of(place / "s.db")
    with closing(snapshots(place)) as copies:
        steps = range(len(steps_of(next(copies), first).steps))
    seen: set[tuple[str | None, str | None]] = set()
    for number, copy in zip(steps if EVERY_STEP else steps[::3], snapshots(place), strict=False):

        def meanwhile(copy: Path = copy) -> Ended:
            return in_process(copy, second)

        ended = in_process(copy, first, pause_at=number, meanwhile=meanwhile)
        assert ended.meanwhile is not None, ended
        told = (code_of(ended), code_of(ended.meanwhile))
        seen.add(told)
        where = f"{which}, at step {number} of {len(steps)}: {told}"
        assert BUSY in told or told in pair.told, (where, ended)
        found = state_of(copy / "s.db")
        runs = len(lines_of(copy / "ran"))
        assert runs in pair.runs or (BUSY in told and runs == 0), where
        completed = [event for events in found.decisions.values() for event in events].count(EventType.EXECUTION_COMPLETED)
        assert completed <= runs, where
        if told == (None, None) and which == "execute, recover":
            assert found.decisions[name][-1] is EventType.EXECUTION_COMPLETED
        if told[0] is None and pair.first is not pair.second:
            assert found.facts > before.facts, where
    assert {told for told in seen if BUSY not in told} == pair.told, seen
    assert any(BUSY in told for told in seen)
