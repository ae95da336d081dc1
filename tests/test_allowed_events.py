"""Histories that no store writes: each rule of the writer broken in a package in which every digest fits, and the check that notices it."""

import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from evidence_testing import new_store
from forging import approval, rebuilt
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nexus_control.audit_export import export_audit_package
from nexus_control.bundle import BundleEvent
from nexus_control.bundle_checks import replay_bundle
from nexus_control.evidence import EvidenceReport, examine
from nexus_control.export import export_decision
from nexus_control.integrity import content_digest
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

ALICE = {"type": "human", "id": "alice"}
BOB = {"type": "human", "id": "bob"}
CAROL = {"type": "human", "id": "carol"}
SYSTEM = {"type": "system", "id": "nexus-control"}

Events = list[dict[str, Any]]
Change = Callable[[Events], object]


class Router:
    """Succeeds, or fails as often as it is told."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = list(outcomes)

    def run(self, **_: object) -> dict[str, Any]:
        outcome = self.outcomes.pop(0) if self.outcomes else "done"
        if outcome == "fail":
            raise RuntimeError("it failed")
        return {"run_id": "run-1", "steps_executed": 2}

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        del adapter_id
        return None


def genuine() -> dict[str, Any]:
    """Made by the tools from a template: alice asked, bob approved, carol ran it. Six events."""
    with new_store() as store:
        tools = NexusControlTools(store)
        assert tools.template_create("prod", ALICE, "for keys", 2, ["apply", "dry_run"], max_steps=5, labels=["ops"]).success
        made = tools.request("rotate keys", ALICE, mode="apply", template_name="prod", min_approvals=1)
        assert tools.approve(made.data["request_id"], BOB, "fine", datetime(2027, 1, 1, tzinfo=UTC)).success
        assert tools.execute(made.data["request_id"], "subprocess:keytool", CAROL, Router()).success
        return export_audit_package(store, made.data["request_id"]).to_dict()["package"]


GENUINE = genuine()
CREATED, POLICY, APPROVAL, REQUESTED, STARTED, ENDED = range(6)


def recompiled(package: dict[str, Any]) -> None:
    """Every start asks for what had been approved, whatever that is now."""
    control = package["control_bundle"]
    name = control["decision"]["decision_id"]
    for place, event in enumerate(control["events"]):
        if event["type"] == "EXECUTION_STARTED":
            told = [
                BundleEvent(f"evt_{name}_{seq}", name, seq, one["type"], one["payload"], one["ts"], one["actor"], "")
                for seq, one in enumerate(control["events"][:place])
            ]
            decision = replay_bundle(name, told)
            if decision.policy is not None and decision.latest_execution is not None:
                run = decision.latest_execution
                asked = decision.policy.compile_to_router_request(decision.goal or "", decision.plan, run.adapter_id, run.dry_run)
                event["payload"]["router_request_digest"] = content_digest(asked)


def retold(package: dict[str, Any]) -> None:
    """The template section is that of the events."""
    control = package["control_bundle"]
    attached = [event["payload"] for event in control["events"] if event["type"] == "POLICY_ATTACHED"]
    last: dict[str, Any] = attached[-1] if attached else {}
    control["template_snapshot"] = {"present": False}
    if last.get("template_name"):
        control["template_snapshot"] = {
            "present": True,
            "name": last["template_name"],
            "digest": f"sha256:{last['template_digest']}",
            "snapshot": last["template_snapshot"] or {},
            "overrides": last["overrides_applied"] or None,
        }


def forged(change: Change) -> dict[str, Any]:
    """The genuine package with its events changed, and everything that follows from them recomputed."""
    package = copy.deepcopy(GENUINE)
    events = package["control_bundle"]["events"]
    change(events)
    recompiled(package)
    retold(package)
    ends = [event["payload"].get("run_id") for event in events if event["type"] in ("EXECUTION_COMPLETED", "EXECUTION_FAILED")]
    if ends and isinstance(ends[-1], str):
        package["router"]["ref"]["run_id"] = ends[-1]
    return rebuilt(package)


def failures(report: EvidenceReport) -> dict[str, list[str]]:
    """The checks that fail, by layer."""
    found = {layer.name.value: [check.name for check in layer.checks if not check.ok] for layer in report.layers}
    return {name: checks for name, checks in found.items() if checks}


def moment(seconds: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()


def at(event: dict[str, Any], seconds: float) -> str:
    return (datetime.fromisoformat(event["ts"]) + timedelta(seconds=seconds)).isoformat()


def put(place: int, **payload: Any) -> Change:
    """Members of the payload of the event at this place."""
    return lambda events: events[place]["payload"].update(payload)


def by(place: int, who: dict[str, str]) -> Change:
    return lambda events: events[place].update(actor=who)


def insert(place: int, kind: str, who: dict[str, str], **payload: Any) -> Change:
    """One more event, dated like the one before it."""
    return lambda events: events.insert(
        place, {"type": kind, "ts": events[max(0, place - 1)]["ts"], "actor": dict(who), "payload": dict(payload)}
    )


def all_of(*changes: Change) -> Change:
    def change(events: Events) -> None:
        for one in changes:
            one(events)

    return change


def again(place: int, to: int) -> Change:
    return lambda events: events.insert(to, copy.deepcopy(events[place]))


def failed_run(events: Events) -> None:
    events[ENDED] |= {"type": "EXECUTION_FAILED", "payload": {"error_code": "X", "error_message": "", "run_id": "run-1"}}


def abandoned(events: Events) -> None:
    payload = {"error_code": "EXECUTION_ABANDONED", "error_message": "", "run_id": "run-1"}
    events[ENDED] |= {"type": "EXECUTION_FAILED", "payload": payload, "actor": CAROL}


GRANT = {"expires_at": None}
REVOKE = {"reason": "no"}
SNAPSHOT: dict[str, Any] = GENUINE["control_bundle"]["events"][POLICY]["payload"]["template_snapshot"]

NEVER_WRITTEN: dict[str, Change] = {
    "a policy before the creation": lambda events: events.insert(0, events.pop(POLICY)),
    "an approval before the creation": insert(0, "APPROVAL_GRANTED", BOB, **GRANT),
    "an event of a template's log": insert(POLICY, "TEMPLATE_CREATED", ALICE),
    "an empty goal": put(CREATED, goal=""),
    "no goal": lambda events: events[CREATED]["payload"].pop("goal"),
    "a creation while a run is under way": all_of(again(CREATED, ENDED), again(POLICY, ENDED + 1)),
    "a policy while a run is under way": again(POLICY, ENDED),
    "a requested mode that the policy forbids": put(CREATED, requested_mode="other"),
    "a number of approvals as text": put(POLICY, min_approvals="1"),
    "a number of approvals that is none": put(POLICY, min_approvals=1.5),
    "labels that are no list": put(POLICY, labels="ops"),
    "steps as a number with a point": put(POLICY, max_steps=5.0),
    "another value than the template and what was overridden": put(POLICY, max_steps=6),
    "a policy of fewer approvals than its template, without saying so": put(POLICY, overrides_applied={}),
    "an override that is not in force": put(POLICY, overrides_applied={"min_approvals": 2}),
    "an override of something else": put(POLICY, overrides_applied={"min_approvals": 1, "template_description": "x"}),
    "the snapshot of another template": put(POLICY, template_snapshot={**SNAPSHOT, "template_name": "other"}),
    "a snapshot with other values": put(POLICY, template_snapshot={**SNAPSHOT, "labels": []}),
    "a snapshot with true for one": put(POLICY, template_snapshot={**SNAPSHOT, "max_steps": True}, max_steps=1),
    "no snapshot": put(POLICY, template_snapshot=None),
    "a template digest that is none": put(POLICY, template_digest="abc"),
    "a template digest with its prefix": put(POLICY, template_digest="sha256:" + "0" * 64),
    "a template without a name": put(POLICY, template_name=""),
    "an approval of a draft": insert(POLICY, "APPROVAL_GRANTED", CAROL, **GRANT),
    "an approval while a run is under way": insert(ENDED, "APPROVAL_GRANTED", CAROL, **GRANT),
    "an approval after the run": insert(ENDED + 1, "APPROVAL_GRANTED", CAROL, **GRANT),
    "an approval after a failed run": all_of(failed_run, insert(ENDED + 1, "APPROVAL_GRANTED", CAROL, **GRANT)),
    "an empty comment": put(APPROVAL, comment=""),
    "an expiry in another spelling": put(APPROVAL, expires_at="2027-01-01T00:00:00Z"),
    "an expiry elsewhere": put(APPROVAL, expires_at="2027-01-01T01:00:00+01:00"),
    "an expiry without offset": put(APPROVAL, expires_at="2027-01-01T00:00:00"),
    "an expiry with zeros after the second": put(APPROVAL, expires_at="2027-01-01T00:00:00.000000+00:00"),
    "an expiry in thousandths": put(APPROVAL, expires_at="2027-01-01T00:00:00.500+00:00"),
    "an expiry that is a date": put(APPROVAL, expires_at="2027-01-01"),
    "an expiry of a week": put(APPROVAL, expires_at="2027-W01-1T00:00:00+00:00"),
    "a revocation between request and start": insert(STARTED, "APPROVAL_REVOKED", BOB, **REVOKE),
    "an approval between request and start": insert(STARTED, "APPROVAL_GRANTED", CAROL, **GRANT),
    "a revocation while a run is under way": insert(ENDED, "APPROVAL_REVOKED", BOB, **REVOKE),
    "a revocation after the run": insert(ENDED + 1, "APPROVAL_REVOKED", BOB, **REVOKE),
    "a revocation of nothing": insert(APPROVAL, "APPROVAL_REVOKED", BOB, **REVOKE),
    "a revocation of what was revoked": all_of(
        failed_run, insert(ENDED + 1, "APPROVAL_REVOKED", BOB, **REVOKE), insert(ENDED + 2, "APPROVAL_REVOKED", BOB, **REVOKE)
    ),
    "a run through nothing": put(REQUESTED, adapter_id=""),
    "a run that ends without a start": lambda events: events.pop(STARTED),
    "a start before its request": lambda events: events[STARTED].update(ts=at(events[REQUESTED], -0.000001)),
    "a start by a person": by(STARTED, CAROL),
    "an end by a person": by(ENDED, CAROL),
    "a failure by a person": all_of(failed_run, by(ENDED, CAROL)),
    "a failure by a system of the same type": all_of(failed_run, by(ENDED, {"type": "system", "id": "other"})),
    "a run without id": put(ENDED, run_id=""),
    "less than no steps": put(ENDED, steps_executed=-1),
    "a failure without code": all_of(failed_run, put(ENDED, error_code="")),
    "an abandonment of what a person had abandoned": all_of(abandoned, again(ENDED, ENDED + 1)),
}


@pytest.mark.parametrize("name", NEVER_WRITTEN)
def test_a_history_that_no_store_writes_fails_by_name(name: str) -> None:
    report = examine(forged(NEVER_WRITTEN[name]))
    assert failures(report) == {"authorization": ["allowed_events"]}


ELSEWHERE: dict[str, tuple[Change, list[str]]] = {
    "an approval that expired between request and start": (
        lambda events: (
            events[APPROVAL]["payload"].update(expires_at=at(events[REQUESTED], 0.5)),
            [event.update(ts=at(event, 1)) for event in events[STARTED:]],
        ),
        ["policy_satisfied"],
    ),
    "an end before the start": (lambda events: events.insert(STARTED, events.pop(ENDED)), ["history"]),
    "a start after the end": (again(STARTED, ENDED + 1), ["history"]),
    "a second end": (again(ENDED, ENDED + 1), ["history"]),
    "a second start": (again(STARTED, STARTED + 1), ["history"]),
    "a start without request": (lambda events: events.pop(REQUESTED), ["history"]),
    "a second run while one is under way": (again(REQUESTED, ENDED), ["history"]),
    "a second run of one authorization": (lambda events: events.extend(copy.deepcopy(events[REQUESTED:])), ["policy_satisfied"]),
    "a run without approvals": (lambda events: events.pop(APPROVAL), ["policy_satisfied"]),
    "an approval that is dated after the run": (
        lambda events: events[APPROVAL].update(ts=at(events[ENDED], 1)),
        ["policy_satisfied"],
    ),
    "an approval that was revoked": (insert(REQUESTED, "APPROVAL_REVOKED", BOB, **REVOKE), ["policy_satisfied"]),
    "approvals of an action that was changed": (again(POLICY, REQUESTED), ["policy_satisfied"]),
    "one approver for two": (
        all_of(put(POLICY, min_approvals=2, overrides_applied={}), insert(REQUESTED, "APPROVAL_GRANTED", BOB, **GRANT)),
        ["policy_satisfied"],
    ),
    "an actor of no known type": (by(APPROVAL, {"type": "robot", "id": "bob"}), ["history"]),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_another_check_notices_is_left_to_it(name: str) -> None:
    change, expected = ELSEWHERE[name]
    try:
        package = forged(change)
    except ValueError:  # what does not replay cannot be made to fit
        package = copy.deepcopy(GENUINE)
        change(package["control_bundle"]["events"])
    layers = failures(examine(package))
    assert layers["authorization"] == expected


SECTIONS: list[tuple[str, Any]] = [
    ("decision.created_at", moment(-1)),
    ("decision.created_at", "x"),
    ("template_snapshot.name", "other"),
    ("template_snapshot.digest", "sha256:" + "0" * 64),
    ("template_snapshot.digest", None),
    ("template_snapshot.snapshot.max_steps", 6),
    ("template_snapshot.snapshot", None),
    ("template_snapshot.overrides", None),
    ("template_snapshot.overrides", {"min_approvals": True}),
]


@pytest.mark.parametrize(("place", "value"), SECTIONS)
def test_a_section_that_tells_something_else_than_the_events_fails(place: str, value: Any) -> None:
    package = copy.deepcopy(GENUINE)
    *parents, last = place.split(".")
    target: Any = package["control_bundle"]
    for part in parents:
        target = target[part]
    target[last] = value
    control = rebuilt(package)
    if place == "decision.created_at":  # which rebuilding puts right
        control["control_bundle"]["decision"]["created_at"] = value
        assert "told_by_events" in failures(examine(control))["authorization"]
    else:
        assert failures(examine(control)) == {"authorization": ["told_by_events"]}


def test_a_template_beside_a_policy_that_names_none_fails_and_none_beside_one_that_does_is_a_way_to_export() -> None:
    without = copy.deepcopy(GENUINE)
    without["control_bundle"]["template_snapshot"] = {"present": False}
    assert failures(examine(rebuilt(without))) == {}

    def no_template(events: Events) -> None:
        for member in ("template_name", "template_digest", "template_snapshot", "overrides_applied"):
            del events[POLICY]["payload"][member]

    bare = forged(no_template)
    assert failures(examine(bare)) == {}
    bare["control_bundle"]["template_snapshot"] = GENUINE["control_bundle"]["template_snapshot"]
    assert failures(examine(rebuilt(bare))) == {"authorization": ["told_by_events"]}


def test_a_bundle_without_events_has_no_time_to_compare() -> None:
    with new_store() as store:
        report = examine(export_decision(store, store.create_decision()).to_dict()["bundle"])
    assert failures(report) == {}


def test_the_genuine_package_passes() -> None:
    report = examine(GENUINE)
    assert failures(report) == {}
    assert [check.detail for check in report.layers[1].checks[:3]] == [None, None, None]


def test_the_adapter_of_a_run_is_named_since_no_approval_covers_it() -> None:
    (adapter,) = [check.detail for check in examine(GENUINE).layers[1].checks if check.name == "approved_action"]
    assert adapter == "the adapter ('subprocess:keytool') was chosen by who asked for the run, approvals do not cover it"
    other = forged(put(REQUESTED, adapter_id="another\n"))
    assert told(other, "approved_action").startswith("the adapter ('another\\n') was chosen")

    def many(events: Events) -> None:
        """Eleven failed runs through as many adapters before the one that succeeds."""
        ended = {**events[ENDED], "type": "EXECUTION_FAILED", "payload": {"error_code": "X"}}
        runs = [(copy.deepcopy(events[REQUESTED]), copy.deepcopy(events[STARTED]), copy.deepcopy(ended)) for _ in range(11)]
        for number, (requested, _, _) in enumerate(runs):
            requested["payload"]["adapter_id"] = f"a{number}"
        events[REQUESTED:REQUESTED] = [event for run in runs for event in run]

    assert "'a9' and 2 more)" in told(forged(many), "approved_action")


def told(package: dict[str, Any], name: str) -> str:
    (check,) = (check for check in examine(package).layers[1].checks if check.name == name)
    assert check.ok
    return str(check.detail)


def test_times_that_go_back_between_commands_are_a_remark() -> None:
    def set_back(events: Events) -> None:
        events[CREATED]["ts"] = events[POLICY]["ts"] = moment(10_000)
        events[ENDED]["ts"] = moment(-10_000)

    assert told(forged(set_back), "allowed_events") == (
        "events 2, 5 are dated before the ones before them: a clock was set back, or the clocks of several hosts differ"
    )


def same_policy(events: Events) -> None:
    events[REQUESTED]["payload"] = copy.deepcopy(events[POLICY]["payload"])


def test_an_action_that_is_defined_anew_is_a_remark_when_it_was_approved_again() -> None:
    change = all_of(insert(REQUESTED, "POLICY_ATTACHED", ALICE), insert(REQUESTED + 1, "APPROVAL_GRANTED", CAROL, **GRANT))
    assert told(forged(all_of(change, same_policy)), "allowed_events") == "events 3 define the action anew, which no command does"


def test_of_many_faults_ten_are_told() -> None:
    many: Change = lambda events: events.extend(  # noqa: E731
        {**approval(f"actor-{number}", events[ENDED]["ts"])} for number in range(50)
    )
    report = examine(forged(many))
    (check,) = (check for check in report.layers[1].checks if not check.ok)
    assert str(check.detail).count("approves a decision that is completed") == 10

    def back_and_forth(events: Events) -> None:
        events[REQUESTED:REQUESTED] = [approval(f"actor-{number}", moment(number % 2)) for number in range(30)]

    assert "and 5 more are dated before" in told(forged(back_and_forth), "allowed_events")


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_expiry_as_it_is_written_passes(until: datetime) -> None:
    report = examine(forged(put(APPROVAL, expires_at=until.isoformat())))
    assert failures(report) in ({}, {"authorization": ["policy_satisfied"]})


# -- what stores write passes, whatever their clocks say


COMMANDS = st.sampled_from(["approve", "revoke", "run", "rehearse", "fail", "die", "recover", "late"])


class Lost(BaseException):
    """The process that runs it dies: nothing is recorded."""


@example(1, False, [("approve", BOB, 0, True), ("fail", BOB, 0, False), ("revoke", BOB, -90, False), ("run", BOB, 0, False)])
@example(1, False, [("approve", BOB, 0, True), ("rehearse", BOB, -1, False), ("run", BOB, 9, False), ("approve", CAROL, 0, False)])
@example(1, False, [("approve", BOB, 0, False), ("late", BOB, 1, False), ("revoke", BOB, 1, False), ("approve", CAROL, 1, False)])
@example(1, True, [("approve", BOB, 0, False), ("late", BOB, 2, False), ("run", BOB, 1, False), ("revoke", BOB, 1, False)])
@example(1, True, [("approve", BOB, 0, False), ("die", BOB, 2, False), ("revoke", BOB, 0, False), ("recover", BOB, -9, False)])
@example(2, False, [("approve", BOB, 0, True), ("approve", BOB, 61, False), ("revoke", BOB, 0, False), ("approve", BOB, 9, False)])
@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 2),
    st.booleans(),
    st.lists(st.tuples(COMMANDS, st.sampled_from([ALICE, BOB, CAROL]), st.integers(-50, 100), st.booleans()), max_size=14),
)
def test_what_a_store_with_a_stepping_clock_writes_is_never_failed(
    needed: int, rehearsed: bool, commands: list[tuple[str, dict[str, str], int, bool]]
) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]

    def clock() -> datetime:
        now[0] += timedelta(microseconds=1)
        return now[0]

    with DecisionStore(clock=clock) as store:
        tools = NexusControlTools(store)
        assert tools.template_create("t", ALICE, min_approvals=3, allowed_modes=["apply", "dry_run"]).success
        mode = "dry_run" if rehearsed else "apply"
        name = tools.request("g", ALICE, mode=mode, template_name="t", min_approvals=needed).data["request_id"]
        for command, who, step, expires in commands:
            now[0] += timedelta(seconds=step)
            if command == "approve":
                tools.approve(name, who, expires_at=now[0] + timedelta(seconds=60) if expires else None)
            elif command == "revoke":
                tools.revoke_approval(name, who)
            elif command == "recover":
                tools.recover_execution(name, who)
            elif command in ("run", "rehearse", "fail"):
                tools.execute(name, "a", who, Router("fail" if command == "fail" else "done"), dry_run=command == "rehearse", retry=True)
            elif command == "late":
                _report_after_recovery(tools, name, who, step)
            else:
                _die(tools, name, who)
        report = examine(export_decision(store, name).to_dict()["bundle"])
    assert failures(report) == {}


def _report_after_recovery(tools: NexusControlTools, name: str, who: dict[str, str], step: int) -> None:
    """An execution that is given up while it runs, and reports after all."""

    class Late(Router):
        def run(self, **_: object) -> dict[str, Any]:
            assert tools.recover_execution(name, who).success
            if step % 2:
                raise RuntimeError("too late")
            return {"run_id": "late", "steps_executed": 0}

    tools.execute(name, "a", who, Late(), retry=True)


def _die(tools: NexusControlTools, name: str, who: dict[str, str]) -> None:
    """The claim is written, the outcome is not."""
    store = tools.store
    written = store.append_event

    def refuse(*_: Any, **__: Any) -> Any:
        raise Lost

    store.append_event = refuse  # type: ignore[method-assign]
    try:
        tools.execute(name, "a", who, Router(), retry=True)
    except Lost:
        pass
    finally:
        store.append_event = written  # type: ignore[method-assign]
