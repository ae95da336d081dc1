"""What blocks a decision, how far it is, and its timeline."""

from dataclasses import FrozenInstanceError, fields, replace
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from history_testing import EARLIER, FAILED, LATER, NOON, T0, Item, decide, event, execution, grant, policy, revoke
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.decision import Approval, Decision, DecisionState
from nexus_control.errors import InputError
from nexus_control.events import Actor, EventType
from nexus_control.lifecycle import (
    DEFAULT_TIMELINE_LIMIT,
    BlockingCode,
    BlockingReason,
    Lifecycle,
    LifecycleEntry,
    LifecycleProgress,
    TimelineCategory,
    compute_blocking_reasons,
    compute_lifecycle,
    compute_progress,
    compute_timeline,
)
from nexus_control.policy import Policy

PAST = "2000-01-01T00:00:00+00:00"


def created(mode: str | None = "dry_run") -> Item:
    return EventType.DECISION_CREATED, {"goal": "g", "plan": None, "requested_mode": mode, "labels": []}, "alice"


CREATED = created()
REQUESTED = execution(EventType.EXECUTION_REQUESTED, adapter_id="ad", dry_run=True)
STARTED = execution(EventType.EXECUTION_STARTED, router_request_digest="abc")
COMPLETED = execution(EventType.EXECUTION_COMPLETED, run_id="run-1", response_digest="def", steps_executed=3)


def reasons(decision: Decision, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(reason.code, reason.details) for reason in compute_blocking_reasons(decision, **more)]


def summaries(decision: Decision) -> list[str]:
    return [entry.summary for entry in compute_timeline(decision)]


def thresholds(decision: Decision) -> list[int]:
    return [entry.seq for entry in compute_timeline(decision) if entry.event_type == "THRESHOLD_MET"]


# What was published


def test_the_fields_come_in_the_published_order() -> None:
    def names(cls: Any) -> list[str]:
        return [field.name for field in fields(cls)]

    assert names(BlockingReason) == ["code", "message", "details"]
    assert names(LifecycleEntry) == ["ts", "category", "label", "summary", "actor", "event_type", "seq"]
    assert names(LifecycleProgress) == [
        "approvals_current",
        "approvals_required",
        "ready_to_execute",
        "has_executed",
        "execution_outcome",
    ]
    assert names(Lifecycle) == ["state", "blocking_reasons", "progress", "timeline", "timeline_total", "timeline_truncated"]


def test_the_vocabularies_are_published() -> None:
    assert get_args(BlockingCode) == (
        "NO_POLICY",
        "ALREADY_EXECUTED",
        "EXECUTION_FAILED",
        "EXECUTION_IN_PROGRESS",
        "MODE_NOT_ALLOWED",
        "MISSING_CAPABILITIES",
        "APPROVAL_EXPIRED",
        "MISSING_APPROVALS",
    )
    assert get_args(TimelineCategory) == ("decision", "policy", "approval", "execution")
    assert DEFAULT_TIMELINE_LIMIT == 20


def test_the_documentation_names_the_five_codes_in_the_order_of_the_ladder() -> None:
    text = compute_blocking_reasons.__doc__ or ""
    places = [text.index(code) for code in ("NO_POLICY", "ALREADY_EXECUTED", "EXECUTION_FAILED", "APPROVAL_EXPIRED", "MISSING_APPROVALS")]
    assert places == sorted(places)


@pytest.mark.parametrize("kind", [BlockingReason, LifecycleEntry, LifecycleProgress, Lifecycle])
def test_views_cannot_be_changed(kind: Any) -> None:
    names = [field.name for field in fields(kind)]
    view = kind(*names)
    with pytest.raises(FrozenInstanceError):
        setattr(view, names[0], None)


# Blocking reasons


def test_without_policy_nothing_else_is_looked_for() -> None:
    assert compute_blocking_reasons(decide(CREATED, COMPLETED)) == [BlockingReason("NO_POLICY", "Decision has no policy attached", {})]


def test_a_completed_decision_is_blocked_by_its_run() -> None:
    assert reasons(decide(CREATED, policy(), grant("bob"), REQUESTED, STARTED, COMPLETED)) == [("ALREADY_EXECUTED", {"run_id": "run-1"})]
    assert reasons(decide(CREATED, policy(5), COMPLETED)) == [("ALREADY_EXECUTED", {"run_id": None})]


def test_a_failed_decision_is_blocked_by_its_error() -> None:
    reason = compute_blocking_reasons(decide(CREATED, policy(5), REQUESTED, STARTED, FAILED))
    details = {"error_code": "ROUTER_ERROR", "error_message": "boom"}
    assert reason == [BlockingReason("EXECUTION_FAILED", "Execution failed: boom", details)]


def test_a_failure_without_record_blocks_without_details() -> None:
    reason = compute_blocking_reasons(decide(policy(), FAILED))
    assert reason == [BlockingReason("EXECUTION_FAILED", "Execution failed", {"error_code": None, "error_message": None})]


def test_missing_approvals_are_counted() -> None:
    one = compute_blocking_reasons(decide(CREATED, policy(2), grant("bob")))
    assert one == [BlockingReason("MISSING_APPROVALS", "Missing 1 approval", {"required": 2, "current": 1, "missing": 1})]
    two = compute_blocking_reasons(decide(CREATED, policy(2), grant("bob"), revoke("bob")))
    assert two == [BlockingReason("MISSING_APPROVALS", "Missing 2 approvals", {"required": 2, "current": 0, "missing": 2})]


def test_enough_approvals_of_which_some_expired_are_told_apart_from_too_few() -> None:
    details = {"expired_count": 1, "current_valid": 1, "required": 2}
    expired = compute_blocking_reasons(decide(CREATED, policy(2), grant("bob", EARLIER), grant("carol", LATER)))
    assert expired == [BlockingReason("APPROVAL_EXPIRED", "1 approval expired; 1 of 2 still valid", details)]
    both = compute_blocking_reasons(decide(CREATED, policy(2), grant("bob", EARLIER), grant("carol", EARLIER)))
    assert both[0].message == "2 approvals expired; 0 of 2 still valid"


@pytest.mark.parametrize(
    "items",
    [
        [grant("bob", EARLIER)],
        [grant("bob", EARLIER), grant("carol"), revoke("bob")],
        [grant("bob", EARLIER), grant("carol", EARLIER), revoke("carol")],
        [grant("bob"), grant("carol"), revoke("carol")],
    ],
)
def test_expiry_is_not_the_reason_when_there_never_were_enough_unrevoked_approvals(items: list[Item]) -> None:
    assert [code for code, _ in reasons(decide(CREATED, policy(2), *items))] == ["MISSING_APPROVALS"]


def test_an_expired_approval_that_is_not_needed_does_not_block() -> None:
    assert reasons(decide(CREATED, policy(1), grant("bob", EARLIER), grant("carol"))) == []


def test_an_executable_decision_is_not_blocked() -> None:
    assert reasons(decide(CREATED, policy(2), grant("bob"), grant("system:ci"))) == []


def test_a_running_execution_blocks() -> None:
    decision = decide(CREATED, policy(), grant("bob"), REQUESTED, STARTED)
    assert compute_blocking_reasons(decision) == [BlockingReason("EXECUTION_IN_PROGRESS", "An execution is in progress", {})]


def test_a_mode_outside_the_policy_blocks() -> None:
    decision = decide(created("apply"), policy(modes=("dry_run",)), grant("bob"))
    assert reasons(decision) == [("MODE_NOT_ALLOWED", {"mode": "apply", "allowed_modes": ["dry_run"]})]


def test_no_requested_mode_is_no_violation() -> None:
    assert reasons(decide(created(None), policy(1, ("apply",)), grant("bob"))) == []


def test_capabilities_are_judged_only_when_they_are_known() -> None:
    decision = decide(CREATED, policy(require_adapter_capabilities=["z", "a", "m"]), grant("bob"))
    assert reasons(decision) == []
    assert reasons(decision, adapter_capabilities={"m"}) == [("MISSING_CAPABILITIES", {"missing": ["a", "z"]})]
    assert reasons(decision, adapter_capabilities=set()) == [("MISSING_CAPABILITIES", {"missing": ["a", "m", "z"]})]
    assert reasons(decision, adapter_capabilities={"a", "m", "z", "more"}) == []


def test_violations_come_between_the_execution_and_the_approvals() -> None:
    decision = decide(created("apply"), policy(1, ("dry_run",), require_adapter_capabilities=["a"]), REQUESTED, STARTED)
    codes = [code for code, _ in reasons(decision, adapter_capabilities=set())]
    assert codes == ["EXECUTION_IN_PROGRESS", "MODE_NOT_ALLOWED", "MISSING_CAPABILITIES", "MISSING_APPROVALS"]


def test_reasons_are_judged_at_the_given_instant() -> None:
    decision = decide(CREATED, policy(), grant("bob", LATER))
    assert reasons(decision) == []
    assert reasons(decision, at=NOON + timedelta(hours=2))[0][0] == "APPROVAL_EXPIRED"


def test_a_reason_is_given_as_data_that_can_be_edited() -> None:
    reason = compute_blocking_reasons(decide(CREATED, policy(2)))[0]
    data = reason.to_dict()
    assert data == {
        "code": "MISSING_APPROVALS",
        "message": "Missing 2 approvals",
        "details": {"required": 2, "current": 0, "missing": 2},
    }
    data["details"]["required"] = 0
    assert reason.details["required"] == 2


# Progress


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([CREATED], LifecycleProgress(0, 1, False, False, None)),
        ([CREATED, grant("bob")], LifecycleProgress(1, 1, False, False, None)),
        ([CREATED, policy(2), grant("bob"), grant("carol", EARLIER)], LifecycleProgress(1, 2, False, False, None)),
        ([CREATED, policy(2), grant("bob"), grant("carol", LATER)], LifecycleProgress(2, 2, True, False, None)),
        ([CREATED, policy(), grant("bob"), REQUESTED], LifecycleProgress(1, 1, True, False, None)),
        ([CREATED, policy(), grant("bob"), REQUESTED, STARTED], LifecycleProgress(1, 1, False, True, "pending")),
        ([CREATED, policy(), grant("bob"), REQUESTED, STARTED, COMPLETED], LifecycleProgress(1, 1, False, True, "success")),
        ([CREATED, policy(), grant("bob"), REQUESTED, STARTED, FAILED], LifecycleProgress(1, 1, False, True, "failed")),
    ],
)
def test_progress_follows_the_events(items: list[Item], expected: LifecycleProgress) -> None:
    assert compute_progress(decide(*items)) == expected


def test_progress_is_judged_at_the_given_instant() -> None:
    decision = decide(CREATED, policy(), grant("bob", LATER))
    assert compute_progress(decision).ready_to_execute
    assert not compute_progress(decision, at=NOON + timedelta(hours=1)).ready_to_execute


def test_progress_as_data_has_the_fraction_too() -> None:
    assert compute_progress(decide(CREATED, policy(3), grant("bob"))).to_dict() == {
        "approvals_current": 1,
        "approvals_required": 3,
        "approvals": "1/3",
        "ready_to_execute": False,
        "has_executed": False,
        "execution_outcome": None,
    }


# Timeline


def test_every_event_has_one_line() -> None:
    decision = decide(
        CREATED,
        policy(3, template_name="safe"),
        grant("bob", comment="looks good"),
        grant("system:ci"),
        revoke("bob", "wrong key"),
        revoke("system:ci"),
        REQUESTED,
        STARTED,
        COMPLETED,
        FAILED,
        (EventType.TEMPLATE_CREATED, {}, "alice"),
    )
    assert [(e.seq, e.category, e.label, e.summary, e.actor, e.event_type) for e in compute_timeline(decision)] == [
        (0, "decision", "created", "Decision created", "alice", "DECISION_CREATED"),
        (1, "policy", "policy", 'Policy attached from template "safe"', "alice", "POLICY_ATTACHED"),
        (2, "approval", "approved", 'Approved by bob: "looks good"', "bob", "APPROVAL_GRANTED"),
        (3, "approval", "approved", "Approved by system:ci", "system:ci", "APPROVAL_GRANTED"),
        (4, "approval", "revoked", 'Approval of bob revoked: "wrong key"', "bob", "APPROVAL_REVOKED"),
        (5, "approval", "revoked", "Approval of system:ci revoked", "system:ci", "APPROVAL_REVOKED"),
        (6, "execution", "requested", "Execution requested: dry-run with ad", "system:nexus-control", "EXECUTION_REQUESTED"),
        (7, "execution", "started", "Execution started", "system:nexus-control", "EXECUTION_STARTED"),
        (8, "execution", "completed", "Execution completed (3 steps)", "system:nexus-control", "EXECUTION_COMPLETED"),
        (9, "execution", "failed", "Execution failed: boom", "system:nexus-control", "EXECUTION_FAILED"),
    ]
    assert compute_timeline(decision)[1].ts == "2025-01-01T00:01:00+00:00"


def test_an_entry_is_given_as_data() -> None:
    assert compute_timeline(decide(CREATED))[0].to_dict() == {
        "ts": "2025-01-01T00:00:00+00:00",
        "category": "decision",
        "label": "created",
        "summary": "Decision created",
        "actor": "alice",
        "event_type": "DECISION_CREATED",
        "seq": 0,
    }


def test_a_policy_without_template_is_just_attached() -> None:
    assert summaries(decide(policy())) == ["Policy attached"]


def test_a_real_run_is_called_apply() -> None:
    requested = execution(EventType.EXECUTION_REQUESTED, adapter_id="ad", dry_run=False)
    assert summaries(decide(requested)) == ["Execution requested: apply with ad"]


@pytest.mark.parametrize(
    ("steps", "summary"), [(None, "Execution completed"), (0, "Execution completed"), (1, "Execution completed (1 steps)")]
)
def test_steps_are_told_when_there_were_any(steps: int | None, summary: str) -> None:
    assert summaries(decide(execution(EventType.EXECUTION_COMPLETED, run_id="r", steps_executed=steps))) == [summary]


@pytest.mark.parametrize(
    ("message", "summary"),
    [
        (None, "Execution failed"),
        ("", "Execution failed"),
        ("x" * 50, "Execution failed: " + "x" * 50),
        ("x" * 51, "Execution failed: " + "x" * 47 + "..."),
    ],
)
def test_a_long_error_is_cut_to_fifty_characters(message: str | None, summary: str) -> None:
    assert summaries(decide(execution(EventType.EXECUTION_FAILED, error_message=message))) == [summary]


def test_the_grant_that_suffices_is_followed_by_the_threshold() -> None:
    decision = decide(CREATED, policy(2), grant("bob"), grant("carol"), grant("dave"))
    entries = compute_timeline(decision)
    assert [entry.event_type for entry in entries[3:5]] == ["APPROVAL_GRANTED", "THRESHOLD_MET"]
    ts = "2025-01-01T00:03:00+00:00"
    assert entries[4] == LifecycleEntry(ts, "decision", "approved", "Approval threshold met (2/2)", None, "THRESHOLD_MET", 3)
    assert len(entries) == 6


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([policy(1)], []),
        ([policy(1), grant("bob")], [1]),
        ([policy(2), grant("bob"), grant("bob")], []),
        ([policy(2), grant("bob"), revoke("bob"), grant("carol")], []),
        ([policy(2), grant("bob"), revoke("bob"), grant("carol"), grant("bob")], [4]),
        ([policy(2), grant("bob"), revoke("carol"), grant("carol")], [3]),
        ([policy(1), grant("bob"), revoke("bob"), grant("bob")], [1]),
        ([grant("bob"), grant("carol"), policy(2)], [1]),
        ([policy(2), grant("bob"), grant("carol", PAST)], []),
        ([policy(2), grant("carol", PAST), revoke("carol"), grant("bob"), grant("dave")], [4]),
        ([policy(2), grant("bob"), grant("bob", PAST), grant("carol")], []),
        ([policy(2), grant("bob", EARLIER), grant("carol", EARLIER)], [2]),
        ([grant("bob"), grant("carol")], []),
    ],
)
def test_the_threshold_is_met_once_by_different_actors_with_live_approvals(items: list[Item], expected: list[int]) -> None:
    assert thresholds(decide(*items)) == expected


def test_an_approval_given_at_the_instant_of_its_expiry_never_counted() -> None:
    assert thresholds(decide(policy(1), grant("bob", "2025-01-01T00:01:00+00:00"))) == []
    assert thresholds(decide(policy(1), grant("bob", "2025-01-01T00:01:00.000001+00:00"))) == [1]


def test_entries_are_in_the_order_of_seq() -> None:
    events = [event(2, *grant("bob")), event(0, *CREATED), event(1, *policy())]
    entries = compute_timeline(Decision.replay("d", events, as_of=NOON))
    assert [(entry.seq, entry.event_type) for entry in entries] == [
        (0, "DECISION_CREATED"),
        (1, "POLICY_ATTACHED"),
        (2, "APPROVAL_GRANTED"),
        (2, "THRESHOLD_MET"),
    ]


ITEMS = st.lists(
    st.builds(grant, st.sampled_from("abcd"), st.sampled_from([None, PAST, EARLIER, LATER]))
    | st.builds(revoke, st.sampled_from("abcd"))
    | st.builds(policy, st.integers(1, 3))
    | st.sampled_from([CREATED, REQUESTED, STARTED, COMPLETED, FAILED]),
    max_size=25,
)


@given(ITEMS)
def test_a_timeline_has_the_events_in_order_and_at_most_one_threshold(items: list[Item]) -> None:
    decision = decide(*items)
    entries = compute_timeline(decision)
    real = [entry for entry in entries if entry.event_type != "THRESHOLD_MET"]
    assert [entry.seq for entry in real] == list(range(len(items)))
    assert len(entries) - len(real) <= 1
    assert [entry.seq for entry in entries] == sorted(entry.seq for entry in entries)


@given(ITEMS)
def test_a_decision_is_blocked_exactly_when_it_is_not_ready(items: list[Item]) -> None:
    lifecycle = compute_lifecycle(decide(*items))
    assert lifecycle.progress.ready_to_execute is not lifecycle.is_blocked


# The whole lifecycle


def long_history() -> Decision:
    turns = [item for n in range(15) for item in (grant(f"actor-{n}"), revoke(f"actor-{n}"))]
    return decide(CREATED, policy(2), *turns)


def test_a_lifecycle_is_the_three_views_together() -> None:
    decision = decide(CREATED, policy(2), grant("bob"))
    lifecycle = compute_lifecycle(decision)
    assert lifecycle == Lifecycle(
        state="pending_approval",
        blocking_reasons=compute_blocking_reasons(decision),
        progress=compute_progress(decision),
        timeline=compute_timeline(decision),
        timeline_total=3,
        timeline_truncated=False,
    )
    assert lifecycle.is_blocked


def test_a_lifecycle_as_data_has_plain_parts() -> None:
    data = compute_lifecycle(decide(CREATED, policy(1), grant("bob"))).to_dict()
    assert data.pop("progress")["approvals"] == "1/1"
    assert [entry["event_type"] for entry in data.pop("timeline")] == [
        "DECISION_CREATED",
        "POLICY_ATTACHED",
        "APPROVAL_GRANTED",
        "THRESHOLD_MET",
    ]
    assert data == {
        "state": "approved",
        "is_blocked": False,
        "blocking_reasons": [],
        "timeline_total": 4,
        "timeline_truncated": False,
    }
    assert compute_lifecycle(decide(CREATED)).to_dict()["blocking_reasons"][0]["code"] == "NO_POLICY"


def test_a_long_timeline_keeps_its_last_twenty_entries() -> None:
    lifecycle = compute_lifecycle(long_history())
    assert [entry.seq for entry in lifecycle.timeline] == list(range(12, 32))
    assert (lifecycle.timeline_total, lifecycle.timeline_truncated) == (32, True)


@pytest.mark.parametrize("limit", [0, 1, 5, 31])
def test_the_limit_may_be_given_by_name_or_in_second_place(limit: int) -> None:
    named, placed = compute_lifecycle(long_history(), timeline_limit=limit), compute_lifecycle(long_history(), limit)
    assert named == placed
    assert [entry.seq for entry in named.timeline] == list(range(32 - limit, 32))
    assert named.timeline_truncated
    assert named.timeline_total == 32


@pytest.mark.parametrize("limit", [None, 32, 10**9])
def test_a_generous_limit_keeps_everything(limit: int | None) -> None:
    lifecycle = compute_lifecycle(long_history(), timeline_limit=limit)
    assert len(lifecycle.timeline) == lifecycle.timeline_total == 32
    assert not lifecycle.timeline_truncated


@pytest.mark.parametrize("limit", [-1, True, 1.0, "5"])
def test_a_limit_that_is_none_is_refused(limit: Any) -> None:
    with pytest.raises(InputError, match="timeline_limit"):
        compute_lifecycle(long_history(), timeline_limit=limit)


@pytest.mark.parametrize("limit", [-1, False])
def test_a_limit_in_second_place_is_checked_too(limit: int) -> None:
    with pytest.raises(ValueError, match="timeline_limit"):
        compute_lifecycle(long_history(), limit)


def test_given_events_replace_those_of_the_decision() -> None:
    events = decide(CREATED, policy(2), grant("bob"), grant("carol")).events
    assert compute_lifecycle(Decision("d"), events, Policy(9)) == compute_lifecycle(Decision.replay("d", events))
    assert compute_lifecycle(decide(CREATED, policy(2)), []).state == "draft"


def test_a_given_policy_stands_in_when_none_was_attached() -> None:
    decision = decide(CREATED, grant("bob"))
    events = decision.events
    approved = compute_lifecycle(decision, events, Policy(1))
    assert (approved.state, approved.blocking_reasons, approved.progress.ready_to_execute) == ("approved", [], True)
    assert approved.timeline[-1].event_type == "THRESHOLD_MET"
    pending = compute_lifecycle(decision, None, Policy(2))
    assert (pending.state, pending.progress.approvals_required) == ("pending_approval", 2)
    assert pending.blocking_reasons[0].code == "MISSING_APPROVALS"
    assert (decision.policy, decision.state) == (None, DecisionState.DRAFT)


def test_a_given_policy_does_not_undo_an_execution() -> None:
    assert compute_lifecycle(decide(CREATED, REQUESTED, STARTED, COMPLETED), policy=Policy(1)).state == "completed"


def test_the_whole_lifecycle_is_judged_at_one_instant() -> None:
    decision = decide(CREATED, policy(), grant("bob", LATER))
    late = NOON + timedelta(hours=2)
    assert compute_lifecycle(decision, at=late).blocking_reasons[0].code == "APPROVAL_EXPIRED"
    assert compute_lifecycle(decision, decision.events, at=late).state == "pending_approval"
    bare = decide(CREATED, grant("bob", LATER))
    assert compute_lifecycle(bare, policy=Policy(1), at=late).state == "pending_approval"


def test_without_a_given_instant_the_clock_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[datetime] = []

    def clock() -> datetime:
        asked.append(NOON + timedelta(days=len(asked)))
        return asked[-1]

    monkeypatch.setattr("nexus_control.decision.utc_now", clock)
    live = replace(decide(CREATED, policy(), grant("bob", LATER)), as_of=None)
    lifecycle = compute_lifecycle(live, live.events)
    assert (lifecycle.state, lifecycle.progress.approvals_current, lifecycle.blocking_reasons) == ("approved", 1, [])
    assert len(asked) == 1


def test_capabilities_reach_the_reasons() -> None:
    decision = decide(CREATED, policy(require_adapter_capabilities=["a"]), grant("bob"))
    assert compute_lifecycle(decision, adapter_capabilities=set()).blocking_reasons[0].code == "MISSING_CAPABILITIES"


def test_a_decision_without_events_has_an_empty_timeline() -> None:
    approvals = {"bob": Approval(Actor(type="human", id="bob"), T0)}
    decision = Decision("d", state=DecisionState.APPROVED, policy=Policy(1), approvals=approvals)
    lifecycle = compute_lifecycle(decision)
    assert (lifecycle.timeline, lifecycle.timeline_total, lifecycle.is_blocked) == ([], 0, False)
