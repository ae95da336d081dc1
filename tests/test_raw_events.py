"""Logs that no command wrote: events appended by hand, or imported, in any order. Whoever reads one gets an answer or a code."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from store_testing import ALICE, BOB, CAROL, ROBOT, quick_folder
from typer.testing import CliRunner

from nexus_attest.cli.app import app
from nexus_attest.server.actors import BoundActor
from nexus_attest.server.documents import KINDS
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.task_outcomes import approval_outcome, execution_outcome
from nexus_control.errors import CannotApprove
from nexus_control.events import Actor, EventType
from nexus_control.evidence import examine
from nexus_control.identity import NO_TRUST
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

Raw = tuple[EventType, dict[str, Any], Actor]

PAYLOADS: dict[EventType, list[dict[str, Any]]] = {
    EventType.DECISION_CREATED: [{}, {"goal": "g", "plan": None, "requested_mode": "apply", "labels": []}],
    EventType.POLICY_ATTACHED: [{"min_approvals": 1, "allowed_modes": ["dry_run", "apply"]}, {"min_approvals": 2, "template_name": "t"}],
    EventType.APPROVAL_GRANTED: [{}, {"expires_at": "2020-01-01T00:00:00+00:00"}, {"assurance": "asserted", "comment": "c"}],
    EventType.APPROVAL_REVOKED: [{}, {"reason": "r"}],
    EventType.EXECUTION_REQUESTED: [{}, {"adapter_id": "ad", "dry_run": True}, {"adapter_id": "ad", "dry_run": False}],
    EventType.EXECUTION_STARTED: [{}, {"router_request_digest": "abc"}],
    EventType.EXECUTION_COMPLETED: [{}, {"run_id": "r", "response_digest": "x", "steps_executed": 1}],
    EventType.EXECUTION_FAILED: [{}, {"error_code": "E", "error_message": "m", "run_id": "r"}, {"error_code": "EXECUTION_ABANDONED"}],
    EventType.TEMPLATE_CREATED: [{}],
}
"""Of each kind the least that a store takes, and what commands write."""

STARTED_ALONE: list[Raw] = [(EventType.EXECUTION_STARTED, {"router_request_digest": "abc"}, ALICE)]
COMPLETED_ALONE: list[Raw] = [(EventType.EXECUTION_COMPLETED, {"run_id": "r", "response_digest": "x"}, ALICE)]

COMMANDS = [
    ["status", "d"],
    ["inspect", "d"],
    ["inspect", "d", "--markdown"],
    ["list"],
    ["bundle", "export", "d", "-o", "-"],
    ["audit", "export", "d", "-o", "-"],
    ["case", "export", "d", "-o", "-"],
    ["log", "verify"],
    ["recover", "d", "--force"],
    ["revoke", "d"],
    ["approve", "d"],
]
"""The last three also write; they read the decision before that."""

EVENTS: list[Raw] = [(kind, payload, actor) for kind, payloads in PAYLOADS.items() for payload in payloads for actor in (ALICE, BOB, ROBOT)]

logs = st.lists(st.sampled_from(EVENTS), max_size=6)


def append(store: DecisionStore, events: list[Raw]) -> None:
    """The decision `d` of these events."""
    store.create_decision("d")
    for kind, payload, actor in events:
        store.append_event("d", kind, actor, payload)


def test_every_kind_of_event_is_tried() -> None:
    assert list(PAYLOADS) == list(EventType)


@settings(max_examples=100)
@example(STARTED_ALONE)
@example(COMPLETED_ALONE)
@given(logs)
def test_every_tool_reads_a_log_of_any_events(events: list[Raw]) -> None:
    with DecisionStore() as store:
        append(store, events)
        tools = NexusControlTools(store)
        assert tools.status("d", include_events=True).success
        assert tools.inspect("d", include_events=True).success
        assert tools.list_requests().data["requests"][0]["request_id"] == "d"
        assert tools.export_audit_record("d").success
        bundle, package = tools.export_bundle("d"), tools.export_audit_package("d")
        assert bundle.success
        assert package.code in (None, "NO_ROUTER_LINK")
        for document in (bundle.data["bundle"], *([package.data["package"]] if package.success else [])):
            assert len(examine(document).layers) == 6
        other = NexusControlTools()
        assert other.import_bundle(bundle.data["bundle"]).success
        assert other.inspect("d").data["decision"] == tools.inspect("d").data["decision"]
        recovered = tools.recover_execution("d", CAROL)
        assert recovered.code in (None, "NOTHING_TO_RECOVER")
        assert recovered.success is (tools.status("d").data["state"] == "failed" and recovered.code is None)


@settings(max_examples=50)
@example(STARTED_ALONE)
@example(COMPLETED_ALONE)
@given(logs)
def test_the_server_reads_a_log_of_any_events(events: list[Raw]) -> None:
    with DecisionStore() as store:
        append(store, events)
        tools = NexusControlTools(store)
        for name in ("decision", "timeline", "bundle"):
            assert KINDS[name].read(tools, "d")
        stored = store.get_events("d")
        for seen in range(1, len(stored)):
            approval_outcome("d", stored, seen, "carol", NO_TRUST)
            execution_outcome("d", stored, stored[seen].event_id)
        asker = HumanAsker(tools=tools)
        who = BoundActor(actor=CAROL, assurance="asserted", channel="c")
        if tools.status("d").data["state"] in ("pending_approval", "approved"):
            assert asker.question({"request_id": "d"}, who)[0].startswith("Approve this action as human carol?\n")
        else:
            with pytest.raises(CannotApprove):
                asker.question({"request_id": "d"}, who)


@settings(max_examples=15)
@example(STARTED_ALONE)
@example(COMPLETED_ALONE)
@given(logs)
def test_every_command_reads_a_log_of_any_events(events: list[Raw]) -> None:
    with quick_folder() as folder:
        with DecisionStore(folder / "raw.db") as store:
            append(store, events)
        for command in COMMANDS:
            for more in ([], ["--json"]):
                outcome = run(folder, *command, *more)
                assert outcome in (0, 2), (command, more)


def run(folder: Path, *arguments: str) -> int:
    """The exit code of a command in this process; 1 is an unexpected error."""
    settings = {"NEXUS_ATTEST_DB": str(folder / "raw.db"), "NEXUS_ATTEST_ACTOR": "carol", "XDG_CONFIG_HOME": str(folder)}
    done = CliRunner().invoke(app, arguments, env=settings)
    assert "INTERNAL" not in done.output, (arguments, done.output)
    return done.exit_code
