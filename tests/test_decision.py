"""Replay of events into a decision, judged at one instant."""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from history_testing import FAILED, NOON, T0, Item, event, execution, grant, history, policy, revoke
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.decision import Approval, Decision, DecisionState, ExecutionRecord, Past, TemplateRef, without_later_approvals
from nexus_control.errors import DecisionNotFound, InputError, MalformedEvent, SignatureReplayed
from nexus_control.events import Actor, EventType, StoredEvent, utc_now
from nexus_control.identity import ASSERTED, NO_TRUST
from nexus_control.policy import Policy

NEVER = "9999-01-01T00:00:00+00:00"
LONG_AGO = "2000-01-01T00:00:00+00:00"


def created(**more: Any) -> Item:
    payload = {"goal": "rotate keys", "plan": "one by one", "requested_mode": "apply", "labels": ["prod"], **more}
    return EventType.DECISION_CREATED, payload, "alice"


CREATED = created()
REQUESTED = execution(EventType.EXECUTION_REQUESTED, adapter_id="ad", dry_run=False)
STARTED = execution(EventType.EXECUTION_STARTED, router_request_digest="abc")
COMPLETED = execution(EventType.EXECUTION_COMPLETED, run_id="run-1", response_digest="def456", steps_executed=0)


class Memory:
    """A store of one decision, `d`."""

    def __init__(self, events: Sequence[StoredEvent]) -> None:
        self.events = events

    def get_events(self, decision_id: str) -> Sequence[StoredEvent]:
        if decision_id != "d":
            raise DecisionNotFound(decision_id)
        return self.events


# What was published


def test_the_fields_come_in_the_published_order() -> None:
    assert [field.name for field in fields(Approval)][:7] == [
        "actor",
        "granted_at",
        "expires_at",
        "comment",
        "revoked",
        "revoked_at",
        "revoke_reason",
    ]
    assert [field.name for field in fields(ExecutionRecord)] == [
        "adapter_id",
        "dry_run",
        "requested_at",
        "started_at",
        "completed_at",
        "run_id",
        "request_digest",
        "response_digest",
        "steps_executed",
        "error_code",
        "error_message",
    ]
    assert [field.name for field in fields(TemplateRef)] == ["name", "digest", "snapshot", "overrides_applied"]
    assert [field.name for field in fields(Decision)][:11] == [
        "decision_id",
        "state",
        "goal",
        "plan",
        "requested_mode",
        "labels",
        "policy",
        "template_ref",
        "approvals",
        "executions",
        "events",
    ]


def test_a_decision_with_an_id_alone_is_an_empty_draft() -> None:
    decision = Decision(decision_id="x")
    assert decision.to_dict() == {
        "decision_id": "x",
        "state": "draft",
        "goal": None,
        "plan": None,
        "requested_mode": None,
        "labels": [],
        "policy": None,
        "active_approvals": 0,
        "total_approvals": 0,
        "is_approved": False,
        "executions": [],
        "event_count": 0,
    }
    assert decision.latest_execution is None
    assert decision.latest_run_id is None
    assert decision == Decision.replay("x", [])


def test_every_kind_of_event_can_be_replayed() -> None:
    payloads: dict[EventType, dict[str, Any]] = {EventType.EXECUTION_REQUESTED: {"adapter_id": "ad", "dry_run": True}}
    for kind in EventType:
        assert len(Decision.replay("d", [event(0, kind, payloads.get(kind))]).events) == 1


# The state machine


def test_creation_sets_the_action_and_makes_a_draft() -> None:
    labels = ["prod"]
    decision = Decision.replay("d", [event(0, *created(labels=labels))])
    assert (decision.goal, decision.plan, decision.requested_mode) == ("rotate keys", "one by one", "apply")
    assert decision.labels == ["prod"]
    assert decision.labels is not labels
    assert decision.state is DecisionState.DRAFT


def test_creation_without_values_leaves_them_unset() -> None:
    decision = Decision.replay("d", [event(0, EventType.DECISION_CREATED)])
    assert (decision.goal, decision.plan, decision.requested_mode, decision.labels) == (None, None, None, [])


def test_labels_may_be_a_tuple_in_an_event_that_was_never_stored() -> None:
    assert Decision.replay("d", [event(0, EventType.DECISION_CREATED, {"labels": ("a", "b")})]).labels == ["a", "b"]


def test_a_policy_makes_the_decision_pending() -> None:
    decision = Decision.replay("d", history(CREATED, policy(2, max_steps=5)))
    assert decision.state is DecisionState.PENDING_APPROVAL
    assert decision.policy == Policy(2, ("dry_run", "apply"), max_steps=5)
    assert decision.template_ref is None


def test_a_policy_from_a_template_names_it() -> None:
    snapshot = {"template_name": "safe"}
    attached = policy(1, template_name="safe", template_digest="abc", template_snapshot=snapshot, overrides_applied={"labels": ["x"]})
    decision = Decision.replay("d", history(CREATED, attached))
    assert decision.template_ref == TemplateRef("safe", "abc", snapshot, {"labels": ["x"]})
    assert decision.to_dict()["template"] == {"name": "safe", "digest": "abc", "overrides_applied": {"labels": ["x"]}}


def test_a_template_that_is_only_named_has_nothing_else() -> None:
    assert Decision.replay("d", history(policy(template_name="safe"))).template_ref == TemplateRef("safe", "", {}, {})


def test_an_empty_template_name_is_no_template() -> None:
    assert Decision.replay("d", history(policy(template_name=""))).template_ref is None


def test_a_later_policy_without_template_is_from_no_template() -> None:
    assert Decision.replay("d", history(policy(template_name="safe"), policy(2))).template_ref is None


def test_a_grant_is_kept_with_its_time_expiry_and_comment() -> None:
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob", "2030-01-01T02:00:00+02:00", comment="fine")))
    assert decision.approvals == {
        "bob": Approval(
            actor=Actor(type="human", id="bob"),
            granted_at=T0 + timedelta(minutes=2),
            expires_at=datetime(2030, 1, 1, tzinfo=UTC),
            comment="fine",
        )
    }
    assert decision.approvals["bob"].seq == 2


def test_a_stored_expiry_without_offset_is_read_as_utc() -> None:
    decision = Decision.replay("d", history(grant("bob", "2030-01-01T00:00:00")))
    assert decision.approvals["bob"].expires_at == datetime(2030, 1, 1, tzinfo=UTC)


def test_the_place_of_a_grant_is_no_part_of_the_approval() -> None:
    actor = Actor(type="human", id="bob")
    assert Approval(actor, T0, seq=1) == Approval(actor, T0, seq=2)
    assert repr(Approval(actor, T0, seq=1)) == repr(Approval(actor, T0))


def test_the_instant_of_judgement_is_no_part_of_the_decision() -> None:
    assert Decision("d", as_of=NOON) == Decision("d")
    assert repr(Decision("d", as_of=NOON)) == repr(Decision("d"))


def test_enough_grants_approve_and_one_actor_counts_once() -> None:
    events = history(CREATED, policy(2), grant("alice"), grant("alice"), grant("bob"))
    assert [Decision.replay("d", events[:n]).state for n in range(6)] == ["draft", "draft", *["pending_approval"] * 3, "approved"]


def test_a_revocation_takes_the_approval_back_and_says_why() -> None:
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob"), revoke("bob", "wrong key")))
    approval = decision.approvals["bob"]
    assert (approval.revoked, approval.revoked_at, approval.revoke_reason) == (True, T0 + timedelta(minutes=3), "wrong key")
    assert decision.state is DecisionState.PENDING_APPROVAL
    assert decision.active_approval_count == 0
    assert decision.to_dict()["total_approvals"] == 1


def test_a_revocation_by_somebody_who_never_approved_is_ignored() -> None:
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob"), revoke("carol")))
    assert decision.state is DecisionState.APPROVED
    assert set(decision.approvals) == {"bob"}


def test_a_new_grant_replaces_a_revoked_one() -> None:
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob"), revoke("bob"), grant("bob")))
    assert decision.approvals["bob"] == Approval(Actor(type="human", id="bob"), T0 + timedelta(minutes=4))
    assert decision.state is DecisionState.APPROVED


def test_a_policy_after_the_approvals_leaves_the_decision_pending_until_the_next_of_them() -> None:
    events = history(CREATED, grant("bob"), policy(), REQUESTED, revoke("carol"))
    assert Decision.replay("d", events[:4]).state is DecisionState.PENDING_APPROVAL
    assert Decision.replay("d", events).state is DecisionState.APPROVED


def test_a_complete_execution_fills_its_record() -> None:
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob"), REQUESTED, STARTED, COMPLETED))
    record = ExecutionRecord(
        adapter_id="ad",
        dry_run=False,
        requested_at=T0 + timedelta(minutes=3),
        started_at=T0 + timedelta(minutes=4),
        completed_at=T0 + timedelta(minutes=5),
        run_id="run-1",
        request_digest="abc",
        response_digest="def456",
        steps_executed=0,
    )
    assert decision.executions == [record]
    assert decision.latest_execution is decision.executions[-1]
    assert decision.latest_run_id == "run-1"
    assert decision.state is DecisionState.COMPLETED
    assert decision.to_dict()["executions"] == [
        {
            "adapter_id": "ad",
            "dry_run": False,
            "requested_at": "2025-01-01T00:03:00+00:00",
            "started_at": "2025-01-01T00:04:00+00:00",
            "completed_at": "2025-01-01T00:05:00+00:00",
            "run_id": "run-1",
            "steps_executed": 0,
            "error_code": None,
            "error_message": None,
        }
    ]


def test_a_request_alone_changes_no_state() -> None:
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob"), REQUESTED))
    assert decision.state is DecisionState.APPROVED
    assert decision.to_dict()["executions"][0]["started_at"] is None


def test_a_failure_keeps_what_links_it_to_the_router() -> None:
    failed = execution(EventType.EXECUTION_FAILED, error_code="TIMEOUT", error_message="late", run_id="run-2", response_digest="aa")
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob"), REQUESTED, STARTED, failed))
    record = decision.executions[0]
    assert decision.state is DecisionState.FAILED
    assert (record.error_code, record.error_message, record.run_id, record.response_digest) == ("TIMEOUT", "late", "run-2", "aa")
    assert record.completed_at == T0 + timedelta(minutes=5)


def test_a_failure_without_code_cannot_be_taken_for_a_success() -> None:
    decision = Decision.replay("d", history(policy(), REQUESTED, STARTED, execution(EventType.EXECUTION_FAILED)))
    assert decision.executions[0].error_code == "UNKNOWN"
    assert decision.executions[0].error_message is None


def test_a_run_that_reports_after_it_was_given_up_is_no_failure_any_more() -> None:
    decision = Decision.replay("d", history(policy(), REQUESTED, STARTED, FAILED, COMPLETED))
    record = decision.executions[0]
    assert decision.state is DecisionState.COMPLETED
    assert (record.error_code, record.error_message, record.run_id) == (None, None, "run-1")


@pytest.mark.parametrize(("last", "state"), [(STARTED, "executing"), (COMPLETED, "completed"), (FAILED, "failed")])
def test_an_execution_event_without_request_changes_the_state_and_makes_no_record(last: Item, state: str) -> None:
    decision = Decision.replay("d", history(last))
    assert decision.state == state
    assert decision.executions == []


@pytest.mark.parametrize("last", [STARTED, COMPLETED, FAILED])
def test_approvals_do_not_move_a_decision_that_executes_or_ended(last: Item) -> None:
    before = Decision.replay("d", history(CREATED, policy(), grant("bob"), REQUESTED, last))
    after = Decision.replay("d", history(CREATED, policy(), grant("bob"), REQUESTED, last, revoke("bob"), grant("carol")))
    assert after.state is before.state
    assert set(after.approvals) == {"bob", "carol"}


def test_approvals_do_not_move_a_draft() -> None:
    assert Decision.replay("d", history(CREATED, grant("bob"))).state is DecisionState.DRAFT


def test_only_the_latest_execution_is_filled() -> None:
    decision = Decision.replay("d", history(policy(), REQUESTED, STARTED, FAILED, REQUESTED, STARTED, COMPLETED))
    assert [record.error_code for record in decision.executions] == ["ROUTER_ERROR", None]
    assert [record.run_id for record in decision.executions] == [None, "run-1"]


def test_events_may_be_applied_one_by_one() -> None:
    decision, states = Decision("d", as_of=NOON), list[str]()
    for one in history(CREATED, policy(), grant("bob"), revoke("bob"), grant("bob"), REQUESTED, STARTED, FAILED, STARTED, COMPLETED):
        decision.apply_event(one)
        states.append(decision.state.value)
    assert states == [
        "draft",
        "pending_approval",
        "approved",
        "pending_approval",
        "approved",
        "approved",
        "executing",
        "failed",
        "executing",
        "completed",
    ]
    assert len(decision.events) == 10


# Equality of replay with one event at a time


class Model:
    """The state machine once more, read off its table, judging the approvals after every single event."""

    def __init__(self, at: datetime) -> None:
        self.at, self.state, self.needed = at, "draft", 0
        self.expiries: dict[str, datetime | None] = {}
        self.executions = 0

    def feed(self, event: StoredEvent) -> None:
        who = event.actor["id"]
        match event.event_type.value:
            case "DECISION_CREATED":
                self.state = "draft"
            case "POLICY_ATTACHED":
                self.needed, self.state = event.payload["min_approvals"], "pending_approval"
            case "APPROVAL_GRANTED":
                text = event.payload["expires_at"]
                self.expiries[who] = text and datetime.fromisoformat(text)
                self.judge()
            case "APPROVAL_REVOKED":
                self.expiries.pop(who, None)
                self.judge()
            case "EXECUTION_REQUESTED":
                self.executions += 1
            case "EXECUTION_STARTED":
                self.state = "executing"
            case "EXECUTION_COMPLETED":
                self.state = "completed"
            case "EXECUTION_FAILED":
                self.state = "failed"
            case _:
                pass

    def active(self) -> int:
        return sum(expiry is None or expiry > self.at for expiry in self.expiries.values())

    def judge(self) -> None:
        if self.state in ("pending_approval", "approved"):
            self.state = "approved" if self.active() >= self.needed else "pending_approval"


EXPIRIES = st.sampled_from([None, LONG_AGO, NOON.isoformat(), (NOON + timedelta(microseconds=1)).isoformat(), NEVER])
ACTORS = st.sampled_from(["alice", "bob", "carol", "dave"])
ITEMS = (
    st.builds(grant, ACTORS, EXPIRIES)
    | st.builds(revoke, ACTORS)
    | st.builds(policy, st.integers(1, 3))
    | st.sampled_from([CREATED, REQUESTED, STARTED, COMPLETED, FAILED, (EventType.TEMPLATE_CREATED, {}, "alice")])
)
HISTORIES = st.lists(ITEMS, max_size=30).map(lambda items: history(*items))


@given(HISTORIES)
def test_replay_equals_applying_one_event_at_a_time(events: list[StoredEvent]) -> None:
    eager = Decision("d", as_of=NOON)
    for one in events:
        eager.apply_event(one)
    assert Decision.replay("d", events, as_of=NOON) == eager


@given(HISTORIES)
def test_replay_follows_the_table_of_transitions(events: list[StoredEvent]) -> None:
    model = Model(NOON)
    for one in events:
        model.feed(one)
    decision = Decision.replay("d", events, as_of=NOON)
    assert (decision.state.value, decision.active_approval_count, len(decision.executions)) == (
        model.state,
        model.active(),
        model.executions,
    )


@given(HISTORIES, st.integers(0, 30))
def test_a_replayed_decision_can_be_continued_event_by_event(events: list[StoredEvent], cut: int) -> None:
    continued = Decision.replay("d", events[:cut], as_of=NOON)
    for one in events[cut:]:
        continued.apply_event(one)
    assert continued == Decision.replay("d", events, as_of=NOON)


@given(HISTORIES)
def test_two_loads_of_an_unchanged_decision_are_equal(events: list[StoredEvent]) -> None:
    store = Memory(events)
    first, second = Decision.load(store, "d", as_of=NOON), Decision.load(store, "d", as_of=NOON)
    assert first.to_dict() == second.to_dict()
    assert first == second


def test_replay_leaves_the_given_list_alone() -> None:
    events = history(CREATED)
    decision = Decision.replay("d", events)
    decision.apply_event(event(1, *policy()))
    assert len(events) == 1
    assert len(decision.events) == 2


# Time


def test_an_approval_counts_until_the_instant_of_its_expiry() -> None:
    events = history(CREATED, policy(), grant("bob", NOON.isoformat()))
    just_before = Decision.replay("d", events, as_of=NOON - timedelta(microseconds=1))
    assert (just_before.state, just_before.active_approval_count) == (DecisionState.APPROVED, 1)
    at_noon = Decision.replay("d", events, as_of=NOON)
    assert (at_noon.state, at_noon.active_approval_count) == (DecisionState.PENDING_APPROVAL, 0)
    assert at_noon.to_dict()["total_approvals"] == 1


def test_without_an_instant_expiry_is_judged_now() -> None:
    assert Decision.replay("d", history(policy(), grant("bob", NEVER))).is_approved
    assert not Decision.replay("d", history(policy(), grant("bob", LONG_AGO))).is_approved


def test_an_approval_stops_counting_while_the_object_lives() -> None:
    decision = Decision.replay("d", history(policy(), grant("bob", NEVER)))
    assert decision.is_approved
    decision.approvals["bob"].expires_at = utc_now() - timedelta(seconds=1)
    assert not decision.is_approved
    assert decision.to_dict()["is_approved"] is False


def test_current_approvals_are_those_that_count_at_the_instant() -> None:
    decision = Decision.replay("d", history(policy(), grant("a"), grant("b", NOON.isoformat()), grant("c"), revoke("c")))
    assert [one.actor["id"] for one in decision.current_approvals(NOON - timedelta(seconds=1))] == ["a", "b"]
    assert [one.actor["id"] for one in decision.current_approvals(NOON)] == ["a"]


def test_the_instant_of_judgement_is_the_given_one_or_now() -> None:
    assert Decision("d", as_of=NOON).judged_at() == NOON
    before = utc_now()
    assert before <= Decision("d").judged_at() <= utc_now()


def test_a_naive_instant_is_refused() -> None:
    with pytest.raises(InputError, match="timezone-aware"):
        Decision.replay("d", [], as_of=datetime(2025, 1, 1))


def test_without_policy_nothing_is_approved() -> None:
    assert not Decision.replay("d", history(CREATED, grant("bob"))).is_approved


# The action


def test_the_action_was_last_defined_by_creation_or_policy() -> None:
    events = history(CREATED, policy(), grant("bob"), policy(2), grant("carol"), REQUESTED)
    assert [Decision.replay("d", events[:n]).action_seq for n in range(7)] == [-1, 0, 1, 1, 3, 3, 3]


def test_only_approvals_given_after_the_last_change_are_for_the_action() -> None:
    decision = Decision.replay("d", history(CREATED, policy(), grant("bob"), policy(2), grant("carol"), grant("dave", LONG_AGO)))
    assert decision.active_approval_count == 2
    assert decision.approved_action_count == 1
    decision.apply_event(event(6, *grant("bob")))
    assert decision.approved_action_count == 2


def test_an_approval_without_event_was_given_for_no_known_action() -> None:
    approval = Approval(Actor(type="human", id="bob"), T0)
    decision = Decision("d", approvals={"bob": approval}, as_of=NOON)
    assert approval.seq == -1
    assert decision.active_approval_count == 1
    assert decision.approved_action_count == 0


def test_the_digest_of_the_action_is_frozen() -> None:
    decision = Decision.replay("d", history(CREATED, policy(2, template_name="safe", template_digest="ab", overrides_applied={"x": 1})))
    # Raw SHA-256 of {"goal":"rotate keys","labels":["prod"],"plan":"one by one","policy":{"allowed_modes":["dry_run","apply"],
    # "labels":[],"max_steps":null,"min_approvals":2,"require_adapter_capabilities":[]},"requested_mode":"apply",
    # "template":{"digest":"ab","name":"safe"}} as one line, computed with sha256sum.
    assert decision.action_digest == "33402ffa9fe9381e708207bf1a10d568448ff3aa7177ae61bfc33458f4d296b3"
    # The same of {"goal":null,"labels":[],"plan":null,"policy":null,"requested_mode":null,"template":null}.
    assert Decision("x").action_digest == "25c0e3bb491a9351f026e600de3a9600d44eec8dcf4cfb9db1c74d67ead87067"


def test_approvals_and_executions_do_not_change_the_action() -> None:
    before = Decision.replay("d", history(CREATED, policy()))
    after = Decision.replay("other", history(CREATED, policy(), grant("bob"), REQUESTED, STARTED, COMPLETED))
    assert after.action_digest == before.action_digest


@pytest.mark.parametrize(
    "change",
    [
        created(goal="delete keys"),
        created(plan=None),
        created(requested_mode="dry_run"),
        created(labels=[]),
        policy(2),
        policy(1, max_steps=1),
        policy(1, template_name="safe"),
    ],
)
def test_whatever_approvers_see_changes_the_action(change: Item) -> None:
    events = history(CREATED, policy())
    assert Decision.replay("d", [*events, event(2, *change)]).action_digest != Decision.replay("d", events).action_digest


def test_an_action_that_has_no_bytes_has_no_digest() -> None:
    decision = Decision.replay("d", [event(0, EventType.DECISION_CREATED, {"goal": "\ud800"})])
    with pytest.raises(MalformedEvent, match="no digest"):
        _ = decision.action_digest


# Isolation


def test_editing_the_dict_leaves_the_decision_alone() -> None:
    attached = policy(template_name="safe", overrides_applied={"labels": ["x"], "min_approvals": 3})
    decision = Decision.replay("d", history(CREATED, attached))
    before = decision.to_dict()
    edited = decision.to_dict()
    edited["labels"].append("y")
    edited["policy"]["labels"].append("y")
    edited["template"]["overrides_applied"]["labels"].append("y")
    edited["template"]["overrides_applied"]["min_approvals"] = 0
    assert decision.to_dict() == before


def test_a_decision_can_be_edited_in_place() -> None:
    decision = Decision.replay("d", history(CREATED, policy(2), grant("bob")))
    decision.policy = Policy(1)
    decision.goal = "other"
    assert decision.is_approved
    assert decision.to_dict()["goal"] == "other"


# Histories that cannot be understood


@pytest.mark.parametrize(
    ("payload", "adapter_id", "dry_run"),
    [({}, "", False), ({"adapter_id": "ad"}, "ad", False), ({"adapter_id": None, "dry_run": True}, "", True)],
)
def test_an_execution_request_that_does_not_say_that_it_is_a_rehearsal_is_the_real_thing(
    payload: dict[str, Any], adapter_id: str, dry_run: bool
) -> None:
    decision = Decision.replay("d", history(execution(EventType.EXECUTION_REQUESTED, **payload)))
    assert (decision.executions[0].adapter_id, decision.executions[0].dry_run) == (adapter_id, dry_run)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (EventType.DECISION_CREATED, {"goal": 1}),
        (EventType.DECISION_CREATED, {"plan": ["a"]}),
        (EventType.DECISION_CREATED, {"requested_mode": True}),
        (EventType.DECISION_CREATED, {"labels": "prod"}),
        (EventType.DECISION_CREATED, {"labels": ["prod", 1]}),
        (EventType.DECISION_CREATED, {"labels": {"prod": 1}}),
        (EventType.POLICY_ATTACHED, {"min_approvals": "x"}),
        (EventType.POLICY_ATTACHED, {"min_approvals": 0}),
        (EventType.POLICY_ATTACHED, {"allowed_modes": ["force"]}),
        (EventType.POLICY_ATTACHED, {"template_name": 1}),
        (EventType.POLICY_ATTACHED, {"template_name": "t", "template_digest": 1}),
        (EventType.POLICY_ATTACHED, {"template_name": "t", "template_snapshot": []}),
        (EventType.POLICY_ATTACHED, {"template_name": "t", "overrides_applied": "x"}),
        (EventType.APPROVAL_GRANTED, {"expires_at": "soon"}),
        (EventType.APPROVAL_GRANTED, {"expires_at": ""}),
        (EventType.APPROVAL_GRANTED, {"expires_at": 1735689600}),
        (EventType.APPROVAL_GRANTED, {"expires_at": False}),
        (EventType.APPROVAL_GRANTED, {"expires_at": "0001-01-01T00:00:00+14:00"}),
        (EventType.APPROVAL_GRANTED, {"comment": {"text": "fine"}}),
        (EventType.APPROVAL_REVOKED, {"reason": 1}),
        (EventType.EXECUTION_REQUESTED, {"adapter_id": 7, "dry_run": True}),
        (EventType.EXECUTION_REQUESTED, {"adapter_id": "ad", "dry_run": 0}),
        (EventType.EXECUTION_REQUESTED, {"adapter_id": "ad", "dry_run": "false"}),
        (EventType.EXECUTION_STARTED, {"router_request_digest": 1}),
        (EventType.EXECUTION_COMPLETED, {"run_id": 1}),
        (EventType.EXECUTION_COMPLETED, {"response_digest": []}),
        (EventType.EXECUTION_COMPLETED, {"steps_executed": "3"}),
        (EventType.EXECUTION_COMPLETED, {"steps_executed": 3.0}),
        (EventType.EXECUTION_COMPLETED, {"steps_executed": True}),
        (EventType.EXECUTION_FAILED, {"error_code": 1}),
        (EventType.EXECUTION_FAILED, {"error_message": ["boom"]}),
        (EventType.EXECUTION_FAILED, {"run_id": 1}),
        (EventType.EXECUTION_FAILED, {"response_digest": 1}),
    ],
)
def test_a_payload_that_cannot_be_understood_ends_the_replay_and_changes_nothing(kind: EventType, payload: dict[str, Any]) -> None:
    events = history(CREATED, policy(), grant("alice"), REQUESTED)
    bad = event(4, kind, payload)
    with pytest.raises(MalformedEvent, match=rf"^event 4 \({kind.value}\): "):
        Decision.replay("d", [*events, bad])
    decision = Decision.replay("d", events, as_of=NOON)
    with pytest.raises(MalformedEvent):
        decision.apply_event(bad)
    assert decision == Decision.replay("d", events, as_of=NOON)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.sampled_from([NEVER, "apply"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = (
    "goal plan requested_mode labels min_approvals allowed_modes require_adapter_capabilities max_steps template_name template_digest "
    "template_snapshot overrides_applied expires_at comment reason adapter_id dry_run router_request_digest run_id response_digest "
    "steps_executed error_code error_message"
)


@given(
    st.lists(st.tuples(st.sampled_from(EventType), st.dictionaries(st.sampled_from(KEYS.split()), JSON, max_size=6), ACTORS), max_size=4)
)
def test_any_payload_is_replayed_or_refused_by_name(items: list[Item]) -> None:
    try:
        decision = Decision.replay("d", history(*items))
    except MalformedEvent:
        return
    assert decision.to_dict()["event_count"] == len(items)


# Loading


def test_an_unknown_decision_cannot_be_loaded() -> None:
    with pytest.raises(ValueError, match="Decision not found: nope"):
        Decision.load(Memory([]), "nope")


def test_a_load_replays_what_the_store_holds() -> None:
    events = history(CREATED, policy(), grant("bob"))
    assert Decision.load(Memory(events), "d", as_of=NOON) == Decision.replay("d", events, as_of=NOON)


def test_many_actors_may_approve_and_revoke_in_turn() -> None:
    turns = [item for n in range(40) for item in (grant(f"actor-{n % 7}"), revoke(f"actor-{n % 7}"))]
    decision = Decision.replay("d", history(CREATED, policy(1), *turns, grant("bob")))
    assert decision.state is DecisionState.APPROVED
    assert decision.to_dict()["total_approvals"] == 8


# What counts besides the events


def test_what_a_replay_needs_besides_the_events_is_said_by_name() -> None:
    replay: Any = Decision.replay
    load: Any = Decision.load
    with pytest.raises(TypeError):
        replay("d", history(CREATED), NOON)
    with pytest.raises(TypeError):
        load(Memory(history(CREATED)), "d", NOON)


def test_more_approvals_than_needed_suffice() -> None:
    for needed, given_ in ((1, 3), (300, 300)):
        grants = [grant(f"approver-{number}", NEVER) for number in range(given_)]
        assert Decision.replay("d", history(CREATED, policy(needed), *grants), as_of=NOON).is_approved


def test_the_latest_of_several_runs_is_the_last_one() -> None:
    again = execution(EventType.EXECUTION_COMPLETED, run_id="run-2", response_digest="def457", steps_executed=0)
    decided = Decision.replay("d", history(CREATED, policy(), REQUESTED, STARTED, COMPLETED, REQUESTED, STARTED, again), as_of=NOON)
    assert decided.latest_run_id == "run-2"


def test_approvals_dated_after_the_run_are_left_out_and_nothing_else_is() -> None:
    events = history(CREATED, policy(), grant("bob"), grant("carol"), revoke("bob"), REQUESTED)
    kept = without_later_approvals(events, T0 + timedelta(minutes=2))
    assert [event.seq for event in kept] == [0, 1, 2, 4, 5]
    assert without_later_approvals(events, T0 + timedelta(minutes=3)) == events
    assert [event.seq for event in without_later_approvals(events, T0)] == [0, 1, 4, 5]


def test_who_is_to_be_believed_is_asked_with_the_labels_of_request_and_policy() -> None:
    bare = Decision.replay("d", history(CREATED), as_of=NOON)
    ruled = Decision.replay("d", history(CREATED, policy(labels=["rule"])), as_of=NOON)
    asked = [decided.act("approve", Actor(type="human", id="bob"), ASSERTED, NOON) for decided in (bare, ruled)]
    assert [act.labels for act in asked] == [frozenset({"prod"}), frozenset({"prod", "rule"})]
    assert asked[0].requester == Actor(type="human", id="alice")


@pytest.mark.parametrize(("earlier", "imported"), [(None, False), (Past(), False), (Past(imported=1), True), (Past(imported=2), True)])
def test_who_is_to_be_believed_is_asked_whether_the_decision_came_from_elsewhere(earlier: Past | None, imported: bool) -> None:
    decided = Decision.replay("d", history(CREATED), as_of=NOON)
    decided.earlier = earlier
    assert decided.act("approve", Actor(type="human", id="bob"), ASSERTED, NOON).imported is imported


def test_a_decision_is_what_its_events_make_of_it_and_not_who_looks_at_it() -> None:
    events = history(CREATED, policy(), grant("bob", NEVER))
    one, other = (Decision.replay("d", events, as_of=NOON) for _ in range(2))
    other.trust, other.requester, other.earlier = NO_TRUST, None, Past(imported=1)
    other.said.used.add(b"x")
    assert one == other
    assert "as_of" not in repr(one)
    for name in ("trust", "requester", "said", "earlier", "identity", "mismatch"):
        assert f" {name}=" not in repr(one)


def test_approvals_are_compared_by_what_was_approved_and_not_by_what_is_thought_of_it() -> None:
    (approval,) = Decision.replay("d", history(CREATED, policy(), grant("bob", NEVER)), as_of=NOON).approvals.values()
    doubted = replace(approval, mismatch=SignatureReplayed("again"))
    assert approval == doubted
    assert "again" not in repr(doubted)
