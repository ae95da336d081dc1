"""Whoever rewrites the events of a run, and every digest with them: what the eleven checks notice, and the list of what they do not.

Each genuine record is changed in every way of a kind: each event removed, each one doubled, each two exchanged. Afterwards everything that
is computed from the events is computed again, in the record and in the decision. What is left to notice is sense alone; against such a
forger stands what the decision was covered by elsewhere (a signature, a checkpoint, a ledger).
"""

import copy
import json
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from evidence_testing import vector
from router_testing import FakeAdapter

from nexus_attest.routers import CallFailed, CallOutcome, RunEngine
from nexus_control.audit_package import AuditPackage, router_run_digest
from nexus_control.errors import NexusError
from nexus_control.flight_checks import FlightOutcome, verify_flight_record
from nexus_control.flight_record import provenance_digest, results_of
from nexus_control.flight_subject import Malformed, Subject
from nexus_control.integrity import content_digest
from nexus_control.tool import NexusControlTools

Package = dict[str, Any]
Events = list[dict[str, Any]]

ALICE = {"type": "human", "id": "alice"}
BOB = {"type": "human", "id": "bob"}
STEPS = [{"tool": "t", "method": "a", "args": {"n": 1}}, {"tool": "t", "method": "b"}, {"tool": "t", "method": "a"}]


def events_of(package: Package) -> Events:
    return package["router"]["bundle"]["events"]


def consistent(package: Package) -> Package:
    """Everything that follows from the events computed again."""
    record = package["router"]["bundle"]
    events = events_of(package)
    identifiers: set[str] = set()
    for number, event in enumerate(events):
        event["seq"] = number
        if event["event_id"] in identifiers:
            event["event_id"] = f"00000000-0000-4000-8000-{number:012d}"
        identifiers.add(event["event_id"])
    started = sum(event["type"] == "STEP_STARTED" for event in events)
    record["response"]["steps_executed"] = started
    payloads = [event["payload"] for event in package["control_bundle"]["events"]]
    (ended,) = (payload for payload in payloads if "response_digest" in payload)
    if "steps_executed" in ended:
        ended["steps_executed"] = started
    subject = Subject(AuditPackage.from_dict(package), record)
    try:
        value = provenance_digest(subject.request, results_of(events, simulated=subject.execution.dry_run))
    except (NexusError, Malformed, LookupError):
        value = None  # there is no plan, or no output: nothing to compute
    for event in events:
        if event["type"] == "PROVENANCE_EMITTED" and value is not None:
            event["payload"]["provenance"]["records"][0]["digests"][0]["value"] = value
    record["digests"]["sha256"] = digest = router_run_digest(record)
    record["response"]["run_bundle_digest"] = f"sha256:{digest}"
    record["integrity"]["canonical_digest"] = result = f"sha256:{content_digest(record['response'])}"
    ended["response_digest"] = result.removeprefix("sha256:")
    if package["control_bundle"]["router_link"].get("router_result_digest") is not None:
        package["control_bundle"]["router_link"]["router_result_digest"] = result
    return package


def made(
    plan: object, *answers: dict[str, object] | Exception, dry_run: bool = False, idempotent: bool = False, cancel: bool = False
) -> Package:
    """The package of a decision that our own router ran, against a tool that gives these answers; `cancel`: the run ends after the last."""
    left = list(answers)

    def answer() -> dict[str, object]:
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        if cancel and not left:
            engine.cancel_all()
        return given

    tools = NexusControlTools()
    with RunEngine([FakeAdapter(answer, idempotent=idempotent)]) as engine:
        request = tools.request("g", ALICE, mode="apply", plan=json.dumps(plan), max_steps=5, allowed_modes=["dry_run", "apply"])
        request_id = request.data["request_id"]
        tools.approve(request_id, BOB)
        tools.execute(request_id, "fake", ALICE, engine, dry_run=dry_run)
        run_id = tools.inspect(request_id).data["execution"]["run_id"]
        exported = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=engine.flight_record(run_id))
    tools.store.close()
    return json.loads(json.dumps(exported.data["package"]))


LOST = CallFailed("TIMEOUT", "late", outcome=CallOutcome.UNKNOWN)
REFUSED = CallFailed("TOOL_ERROR", "no", outcome=CallOutcome.FAILED)

RECORDS: dict[str, Package] = {
    "nexus-router, completed": vector("router-audit-package-embedded.json"),
    "nexus-router, failed": vector("router-audit-package-failed-embedded.json"),
    "completed": made(STEPS, {"n": 1}, {"n": 2}, {"n": 3}),
    "dry run": made(STEPS, dry_run=True),
    "failed": made(STEPS, {"n": 1}, REFUSED),
    "went on": made({"steps": STEPS, "on_error": "continue"}, {"n": 1}, REFUSED, {"n": 3}),
    "tried again": made(STEPS[:2], {"n": 1}, LOST, {"n": 2}, idempotent=True),
    "lost": made(STEPS[:2], {"n": 1}, LOST),
    "broken": made(STEPS, {"n": 1}, RuntimeError("a bug of the adapter")),
    "cancelled": made(STEPS, {"n": 1}, {"n": 2}, cancel=True),
}


def removals(events: Events) -> Iterator[tuple[str, Events]]:
    for number, event in enumerate(events):
        yield f"without {event['type']} ({number})", events[:number] + events[number + 1 :]


def doublings(events: Events) -> Iterator[tuple[str, Events]]:
    for number, event in enumerate(events):
        yield f"{event['type']} twice ({number})", [*events[: number + 1], copy.deepcopy(event), *events[number + 1 :]]
    calls = [number for number, event in enumerate(events) if event["type"] == "TOOL_CALL_REQUESTED"]
    for number in calls:
        yield f"call twice ({number})", [*events[: number + 2], *copy.deepcopy(events[number : number + 2]), *events[number + 2 :]]


def exchanges(events: Events) -> Iterator[tuple[str, Events]]:
    for one, other in combinations(range(len(events)), 2):
        changed = list(events)
        changed[one], changed[other] = changed[other], changed[one]
        if any(events[one][key] != events[other][key] for key in ("type", "payload")):
            yield f"{events[one]['type']} for {events[other]['type']} ({one}, {other})", changed


def cuts(events: Events) -> Iterator[tuple[str, Events]]:
    """More than one event at once."""
    calls = [event for event in events if not event["type"].startswith("TOOL_CALL_")]
    yield "without any call", calls
    starts = [number for number, event in enumerate(events) if event["type"] == "STEP_STARTED"]
    ends = [number for number, event in enumerate(events) if event["type"] == "STEP_COMPLETED"]
    for start, end in zip(starts, ends, strict=True):
        yield f"without a step ({start})", events[:start] + events[end + 1 :]
        yield f"without the calls of a step ({start})", events[: start + 1] + events[end:]
        yield f"a step twice ({start})", [*events[: end + 1], *copy.deepcopy(events[start : end + 1]), *events[end + 1 :]]


NOT_NOTICED: dict[str, set[str]] = {
    # A run may be cancelled between any two steps, and nothing tells how many there were.
    "cancelled": {"without a step (8)"},
}
"""Changes that leave what some honest run leaves behind; docs/router.md lists them."""


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_removed_doubled_or_exchanged_event_is_noticed_though_every_digest_fits(name: str) -> None:
    genuine = RECORDS[name]
    assert verify_flight_record(consistent(copy.deepcopy(genuine)), strict=True).outcome is FlightOutcome.PASS
    passed: set[str] = set()
    tried = 0
    for kind in (removals, doublings, exchanges, cuts):
        for what, events in kind(events_of(genuine)):
            package = copy.deepcopy(genuine)
            package["router"]["bundle"]["events"] = copy.deepcopy(events)
            tried += 1
            if verify_flight_record(consistent(package)).outcome is not FlightOutcome.FAIL:
                passed.add(what)
    assert tried > 80
    assert passed == NOT_NOTICED.get(name, set())


def failing(package: Package) -> dict[str, str]:
    report = verify_flight_record(consistent(package))
    return {check.name: check.detail or "" for check in report.checks if check.outcome is FlightOutcome.FAIL}


def without(name: str, *kinds: str) -> Package:
    package = copy.deepcopy(RECORDS[name])
    package["router"]["bundle"]["events"] = [event for event in events_of(package) if event["type"] not in kinds]
    return package


@pytest.mark.parametrize("name", ["completed", "dry run", "failed", "went on", "tried again", "lost", "broken", "cancelled"])
def test_a_record_of_our_own_router_without_what_was_asked_of_it_has_the_wrong_shape(name: str) -> None:
    missing = "our own router recorded the run, but REQUEST_RECORDED, which it always writes, is missing"
    assert missing in failing(without(name, "REQUEST_RECORDED"))["shape"]


def test_steps_that_were_cut_off_after_a_failed_one_are_missed_where_nexus_router_goes_on() -> None:
    package = copy.deepcopy(RECORDS["nexus-router, failed"])
    events = events_of(package)
    del events[7:-2]
    assert failing(package) == {"approved_executed": "the run ended without a reason before all of its plan was begun"}
    assert failing(copy.deepcopy(RECORDS["failed"])) == {}  # ours stops there


def test_our_own_router_begins_no_step_after_a_failed_one_that_ends_the_run() -> None:
    package = copy.deepcopy(RECORDS["went on"])
    plan = package["control_bundle"]["events"][0]["payload"]
    plan["plan"] = json.dumps(STEPS)
    found = failing(package)
    assert found["approved_executed"] == "a step was started after one that failed, and the plan says to stop there"


def test_an_uncertain_call_is_made_twice_only_on_an_adapter_that_was_recorded_as_idempotent() -> None:
    noted = next(event["payload"] for event in events_of(RECORDS["tried again"]) if event["type"] == "REQUEST_RECORDED")
    assert noted["idempotent"] is True
    again = "a call is requested again after a result that is certain, on an adapter that is not idempotent, or for the third time"
    for value in (False, None, "yes", 1):
        package = copy.deepcopy(RECORDS["tried again"])
        next(event["payload"] for event in events_of(package) if event["type"] == "REQUEST_RECORDED")["idempotent"] = value
        assert failing(package) == {"shape": f"event 11: {again}"}
    package = copy.deepcopy(RECORDS["tried again"])
    del next(event["payload"] for event in events_of(package) if event["type"] == "REQUEST_RECORDED")["idempotent"]
    assert failing(package) == {}  # nothing says what it was


def test_a_run_ends_in_the_step_that_was_started_last() -> None:
    package = copy.deepcopy(RECORDS["broken"])
    events = events_of(package)
    start = max(number for number, event in enumerate(events) if event["type"] == "STEP_STARTED")
    del events[start:-2]
    assert failing(package) == {"shape": "the run ended in another step than the one that was started last"}
