"""The record of a run is judged by eleven checks: what each of them notices, and that no other one does."""

import copy
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from evidence_testing import vector
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_control.audit_package import AuditPackage, router_run_digest
from nexus_control.flight_checks import FLIGHT_CHECKS, FlightOutcome, FlightReport, verify_flight_record
from nexus_control.flight_shape import misplaced_events, unfounded_results
from nexus_control.integrity import content_digest

Package = dict[str, Any]
Edit = Callable[[Package], None]

EMBEDDED = "router-audit-package-embedded.json"
FAILED = "router-audit-package-failed-embedded.json"


def named(report: FlightReport, outcome: FlightOutcome) -> list[str]:
    return [check.name for check in report.checks if check.outcome is outcome]


def failing(package: Package) -> list[str]:
    report = verify_flight_record(package)
    assert [check.name for check in report.checks] == list(FLIGHT_CHECKS)
    return named(report, FlightOutcome.FAIL)


def record(package: Package) -> dict[str, Any]:
    return package["router"]["bundle"]


def payload(package: Package, kind: str, number: int = 0) -> dict[str, Any]:
    return [event["payload"] for event in record(package)["events"] if event["type"] == kind][number]


def control(package: Package, kind: str) -> dict[str, Any]:
    return next(event["payload"] for event in package["control_bundle"]["events"] if event["type"] == kind)


def rehash(package: Package) -> None:
    """Make every digest inside the record fit its content."""
    bundle = record(package)
    bundle["digests"]["sha256"] = digest = router_run_digest(bundle)
    bundle["response"]["run_bundle_digest"] = f"sha256:{digest}"
    bundle["integrity"]["canonical_digest"] = f"sha256:{content_digest(bundle['response'])}"


def relink(package: Package) -> None:
    """The same, and the decision with it: as one would who can rewrite everything but wants to keep what was approved."""
    rehash(package)
    digest = record(package)["integrity"]["canonical_digest"]
    package["control_bundle"]["router_link"]["router_result_digest"] = digest
    control(package, "EXECUTION_COMPLETED")["response_digest"] = digest.removeprefix("sha256:")


def renumber(package: Package) -> None:
    for number, event in enumerate(record(package)["events"]):
        event["seq"] = number


def change_output(package: Package) -> None:
    payload(package, "TOOL_CALL_SUCCEEDED")["output"]["forged"] = True


def test_the_eleven_checks_have_these_names_in_this_order() -> None:
    assert FLIGHT_CHECKS == (
        "run_digest",
        "response_digest",
        "response_binds_run",
        "result_link",
        "run_id",
        "seq",
        "shape",
        "row",
        "request_digest",
        "approved_executed",
        "provenance",
    )


@pytest.mark.parametrize("name", [EMBEDDED, FAILED])
def test_a_genuine_record_passes_every_check_in_every_form(name: str) -> None:
    package = vector(name)
    for form in (package, json.dumps(package), json.dumps(package).encode(), AuditPackage.from_dict(package)):
        report = verify_flight_record(form, strict=True)
        assert [(check.outcome, check.detail) for check in report.checks] == [(FlightOutcome.PASS, None)] * 11
        assert (report.ok, report.outcome) == (True, FlightOutcome.PASS)


def test_the_published_forgery_fails_these_three_checks() -> None:
    assert failing(vector("router-audit-package-embedded-tampered.json")) == ["run_digest", "response_binds_run", "provenance"]


# The manipulations that come with the vectors, and the checks that notice them.


def only_exported_at(package: Package) -> None:
    record(package)["exported_at"] = "1999-01-01T00:00:00.000Z"


def output_and_run_digest(package: Package) -> None:
    change_output(package)
    record(package)["digests"]["sha256"] = router_run_digest(record(package))


def output_and_every_digest(package: Package) -> None:
    change_output(package)
    rehash(package)


def flip_status(package: Package) -> None:
    record(package)["response"]["status"] = "failed"


def foreign_run(package: Package) -> None:
    other = vector("router-bundle.json")
    record(package).update({name: other[name] for name in ("run", "events", "digests")})


def cut_a_call(package: Package) -> None:
    events = record(package)["events"]
    first = next(number for number, event in enumerate(events) if event["type"] == "TOOL_CALL_REQUESTED")
    del events[first : first + 2]
    renumber(package)
    rehash(package)


@pytest.mark.parametrize(
    ("edit", "failed"),
    [
        (only_exported_at, []),
        (change_output, ["run_digest", "response_binds_run", "provenance"]),
        (output_and_run_digest, ["response_binds_run", "provenance"]),
        (output_and_every_digest, ["result_link", "provenance"]),
        (flip_status, ["response_digest"]),
        (foreign_run, ["response_binds_run", "run_id", "approved_executed", "provenance"]),
        (cut_a_call, ["result_link", "provenance"]),
    ],
)
def test_each_published_manipulation_fails_exactly_these_checks(edit: Edit, failed: list[str]) -> None:
    package = vector(EMBEDDED)
    edit(package)
    assert failing(package) == failed


def test_a_record_without_its_run_is_malformed() -> None:
    package = vector(EMBEDDED)
    for name in ("run", "events", "digests"):
        del record(package)[name]
    assert failing(package) == ["run_digest", "response_binds_run", "run_id", "seq", "shape", "row", "approved_executed", "provenance"]
    assert {check.detail for check in verify_flight_record(package).checks} == {None, "malformed: run, events, digests missing"}


def test_a_record_hollowed_out_to_its_integrity_is_malformed() -> None:
    package = vector(EMBEDDED)
    package["router"]["bundle"] = {"integrity": record(package)["integrity"]}
    assert set(failing(package)) >= {"run_digest", "seq", "shape", "row", "provenance"}


# One thing changed, and every digest recomputed, in the record and in the decision: what remains is sense.


def nothing(_package: Package) -> None:
    return None


def other_run_id_in_the_record(package: Package) -> None:
    record(package)["run_id"] = "other"


def other_run_id_in_an_event(package: Package) -> None:
    record(package)["events"][3]["run_id"] = "other"


def skip_a_number(package: Package) -> None:
    record(package)["events"][-1]["seq"] += 1


def number_is_a_truth(package: Package) -> None:
    record(package)["events"][1]["seq"] = True


def same_event_id(package: Package) -> None:
    record(package)["events"][2]["event_id"] = record(package)["events"][3]["event_id"]


def no_beginning(package: Package) -> None:
    del record(package)["events"][0]
    renumber(package)


def no_end(package: Package) -> None:
    del record(package)["events"][-1]


def two_ends(package: Package) -> None:
    events = record(package)["events"]
    events.insert(4, {**events[-1], "event_id": "another"})
    renumber(package)


def result_twice(package: Package) -> None:
    events = record(package)["events"]
    number = next(number for number, event in enumerate(events) if event["type"] == "TOOL_CALL_SUCCEEDED")
    events.insert(number, {**events[number], "event_id": "another"})
    renumber(package)


def call_outside_its_step(package: Package) -> None:
    events = record(package)["events"]
    number = next(number for number, event in enumerate(events) if event["type"] == "STEP_STARTED")
    events[number], events[number + 1] = events[number + 1], events[number]
    renumber(package)


def step_that_failed_but_says_ok(package: Package) -> None:
    payload(package, "STEP_COMPLETED")["status"] = "error"


def call_without_a_result(package: Package) -> None:
    events = record(package)["events"]
    events.remove(next(event for event in events if event["type"] == "TOOL_CALL_SUCCEEDED"))
    renumber(package)


def another_goal_in_the_row(package: Package) -> None:
    record(package)["run"]["goal"] = "another"


def another_goal_throughout(package: Package) -> None:
    record(package)["run"]["goal"] = payload(package, "RUN_STARTED")["goal"] = "another"


def another_mode_throughout(package: Package) -> None:
    record(package)["run"]["mode"] = payload(package, "RUN_STARTED")["mode"] = "dry_run"


def failed_row_of_a_completed_run(package: Package) -> None:
    record(package)["run"]["status"] = "FAILED"


def another_adapter(package: Package) -> None:
    payload(package, "DISPATCH_SELECTED")["adapter_id"] = "another"


def another_adapter_called(package: Package) -> None:
    payload(package, "TOOL_CALL_REQUESTED")["adapter_id"] = "another"


def lacking_a_capability(package: Package) -> None:
    payload(package, "DISPATCH_SELECTED")["capabilities"] = ["apply"]


def no_adapter_selected(package: Package) -> None:
    events = record(package)["events"]
    events.remove(next(event for event in events if event["type"] == "DISPATCH_SELECTED"))
    renumber(package)


def no_plan(package: Package) -> None:
    events = record(package)["events"]
    events.remove(next(event for event in events if event["type"] == "PLAN_CREATED"))
    renumber(package)


def another_plan(package: Package) -> None:
    payload(package, "PLAN_CREATED")["plan"][0]["call"]["args"]["extra"] = 1


def another_call_than_planned(package: Package) -> None:
    payload(package, "TOOL_CALL_REQUESTED")["call"]["args"]["extra"] = 1


def truth_for_a_number(package: Package) -> None:
    """1 == True for Python, and for no tool."""
    payload(package, "TOOL_CALL_REQUESTED")["call"]["args"] = {"n": True}
    payload(package, "PLAN_CREATED")["plan"][0]["call"]["args"] = {"n": True}
    plan = json.loads(control(package, "DECISION_CREATED")["plan"])
    plan[0]["args"] = {"n": 1}
    control(package, "DECISION_CREATED")["plan"] = json.dumps(plan)


def another_step_first(package: Package) -> None:
    for event in record(package)["events"]:
        if event["payload"].get("step_id") == "s1":
            event["payload"]["step_id"] = "s9"


def simulated_result_of_a_real_run(package: Package) -> None:
    payload(package, "TOOL_CALL_SUCCEEDED")["simulated"] = True


def response_of_a_failure(package: Package) -> None:
    record(package)["response"]["status"] = "failed"


def response_of_a_rehearsal(package: Package) -> None:
    record(package)["response"]["mode"] = "dry_run"


def response_of_another_adapter(package: Package) -> None:
    record(package)["response"]["adapter_id"] = "another"


def response_that_says_less(package: Package) -> None:
    for name in ("status", "mode", "adapter_id"):
        del record(package)["response"][name]


def miscounted_steps(package: Package) -> None:
    record(package)["response"]["steps_executed"] = 1


def counted_in_fractions(package: Package) -> None:
    record(package)["response"]["steps_executed"] = float(len(steps_done(package)))


def miscounted_by_the_decision(package: Package) -> None:
    control(package, "EXECUTION_COMPLETED")["steps_executed"] = 9


def fewer_steps_allowed(package: Package) -> None:
    control(package, "POLICY_ATTACHED")["max_steps"] = 1


def provenance_of_another_run(package: Package) -> None:
    payload(package, "PROVENANCE_EMITTED")["provenance"]["records"][0]["digests"][0]["artifact_id"] = "run:other"


def two_provenances(package: Package) -> None:
    events = record(package)["events"]
    events.insert(-1, {**events[-2], "event_id": "another"})
    renumber(package)


def completed_without_its_last_step(package: Package) -> None:
    events = record(package)["events"]
    last = steps_done(package)[-1]["step_id"]
    events[:] = [event for event in events if event["payload"].get("step_id") != last]
    renumber(package)
    record(package)["response"]["steps_executed"] = 1
    control(package, "EXECUTION_COMPLETED")["steps_executed"] = 1


def completed_after_a_failure(package: Package) -> None:
    last = [event for event in record(package)["events"] if event["type"] == "TOOL_CALL_SUCCEEDED"][-1]
    last["type"] = "TOOL_CALL_FAILED"
    next(done for done in steps_done(package) if done["step_id"] == last["payload"]["step_id"])["status"] = "error"


def steps_done(package: Package) -> list[dict[str, Any]]:
    return [event["payload"] for event in record(package)["events"] if event["type"] == "STEP_COMPLETED"]


def completed_only_for_the_decision(package: Package) -> None:
    record(package)["events"][-1].update(type="RUN_FAILED", payload={"outcome": "error"})
    record(package)["run"]["status"] = "FAILED"


@pytest.mark.parametrize(
    ("edit", "failed"),
    [
        (nothing, []),
        (completed_without_its_last_step, ["approved_executed", "provenance"]),
        (completed_after_a_failure, ["shape", "provenance"]),
        (completed_only_for_the_decision, ["response_binds_run", "shape", "approved_executed"]),
        (other_run_id_in_the_record, ["run_id"]),
        (other_run_id_in_an_event, ["run_id"]),
        (skip_a_number, ["seq"]),
        (number_is_a_truth, ["response_binds_run", "run_id", "seq", "shape", "row", "request_digest", "approved_executed", "provenance"]),
        (same_event_id, ["seq"]),
        (no_beginning, ["shape", "row"]),
        (no_end, ["shape", "row"]),
        (two_ends, ["shape"]),
        (result_twice, ["shape"]),
        (call_outside_its_step, ["shape"]),
        (step_that_failed_but_says_ok, ["shape", "provenance"]),
        (call_without_a_result, ["shape", "provenance"]),
        (another_goal_in_the_row, ["row", "approved_executed"]),
        (another_goal_throughout, ["approved_executed"]),
        (another_mode_throughout, ["response_binds_run", "approved_executed"]),
        (failed_row_of_a_completed_run, ["response_binds_run", "row"]),
        (another_adapter, ["response_binds_run", "approved_executed"]),
        (another_adapter_called, ["approved_executed"]),
        (lacking_a_capability, ["approved_executed"]),
        (no_adapter_selected, ["response_binds_run", "approved_executed"]),
        (no_plan, ["approved_executed"]),
        (another_plan, ["approved_executed"]),
        (another_call_than_planned, ["approved_executed"]),
        (truth_for_a_number, ["request_digest", "approved_executed", "provenance"]),
        (another_step_first, ["approved_executed", "provenance"]),
        (simulated_result_of_a_real_run, ["approved_executed"]),
        (response_of_a_failure, ["response_binds_run"]),
        (response_of_a_rehearsal, ["response_binds_run"]),
        (response_of_another_adapter, ["response_binds_run"]),
        (response_that_says_less, []),
        (miscounted_steps, ["approved_executed"]),
        (counted_in_fractions, ["approved_executed"]),
        (miscounted_by_the_decision, ["approved_executed"]),
        (fewer_steps_allowed, ["request_digest", "approved_executed", "provenance"]),
        (provenance_of_another_run, ["provenance"]),
        (two_provenances, ["provenance"]),
    ],
)
def test_what_makes_no_sense_is_found_though_every_digest_fits(edit: Edit, failed: list[str]) -> None:
    package = vector(EMBEDDED)
    edit(package)
    relink(package)
    assert failing(package) == failed


def test_a_gap_in_the_numbers_is_told_with_both() -> None:
    package = vector(EMBEDDED)
    skip_a_number(package)
    last = len(record(package)["events"]) - 1
    (check,) = (check for check in verify_flight_record(package).checks if check.name == "seq")
    assert (check.detail, check.expected, check.actual) == ("seq does not count the events from 0", str(last), str(last + 1))


def test_another_result_digest_in_the_link_or_in_the_execution_is_found() -> None:
    for place in ("link", "execution"):
        package = vector(EMBEDDED)
        if place == "link":
            package["control_bundle"]["router_link"]["router_result_digest"] = "sha256:" + "0" * 64
        else:
            control(package, "EXECUTION_COMPLETED")["response_digest"] = "0" * 64
        assert failing(package) == ["result_link"]


def test_the_digest_of_a_failed_execution_is_that_of_its_event() -> None:
    package = vector(FAILED)
    control(package, "EXECUTION_FAILED")["response_digest"] = "0" * 64
    assert failing(package) == ["result_link"]


def test_another_request_digest_is_found_wherever_it_stands() -> None:
    package = vector(EMBEDDED)
    package["control_bundle"]["router_link"]["router_request_digest"] = "sha256:" + "0" * 64
    assert failing(package) == ["request_digest"]
    package = vector(EMBEDDED)
    control(package, "EXECUTION_STARTED")["router_request_digest"] = "0" * 64
    assert failing(package) == ["request_digest"]


def test_a_changed_plan_in_the_decision_is_found() -> None:
    package = vector(EMBEDDED)
    plan = json.loads(control(package, "DECISION_CREATED")["plan"])
    control(package, "DECISION_CREATED")["plan"] = json.dumps(plan[:1])
    assert failing(package) == ["request_digest", "approved_executed", "provenance"]


# What cannot be judged is neither right nor wrong.


def test_a_bare_run_bundle_has_no_response_to_judge() -> None:
    package = vector(EMBEDDED)
    bundle = record(package)
    del bundle["response"]
    report = verify_flight_record(package)
    assert named(report, FlightOutcome.NOT_VERIFIABLE) == ["response_digest", "response_binds_run"]
    assert named(report, FlightOutcome.FAIL) == []
    assert (report.outcome, report.ok) == (FlightOutcome.NOT_VERIFIABLE, True)
    assert not verify_flight_record(package, strict=True).ok


def test_only_a_run_that_was_broken_off_may_lack_its_provenance() -> None:
    package = vector(EMBEDDED)
    del record(package)["events"][-2]
    assert outcome_of(package, "provenance") == ("FAIL", "the run has no provenance record")
    record(package)["events"][-1] |= {"type": "RUN_FAILED", "payload": {"reason": "bug_error", "step_id": "s2"}}
    assert outcome_of(package, "provenance") == ("NOT_VERIFIABLE", "the run has no provenance record")
    record(package)["events"].insert(3, {**record(package)["events"][0], "type": "REQUEST_RECORDED", "payload": {}})
    assert outcome_of(package, "provenance")[0] == "FAIL"  # our own router writes it at every end


def test_a_record_of_another_form_is_not_judged() -> None:
    package = vector(EMBEDDED)
    package["router"]["bundle"] = {"run_id": record(package)["run_id"], "integrity": record(package)["integrity"], "log": "x"}
    report = verify_flight_record(package)
    assert named(report, FlightOutcome.FAIL) == []
    assert named(report, FlightOutcome.PASS) == ["result_link", "request_digest"]


def test_a_reference_holds_nothing_to_judge() -> None:
    package = vector(EMBEDDED)
    digest = record(package)["integrity"]["canonical_digest"]
    package["router"] = {"mode": "reference", "ref": {"run_id": "r", "digest": digest}}
    report = verify_flight_record(package)
    assert named(report, FlightOutcome.NOT_VERIFIABLE) == list(FLIGHT_CHECKS)


def test_a_call_of_an_interrupted_run_may_lack_its_result_and_is_then_unknown() -> None:
    package = vector(EMBEDDED)
    events = record(package)["events"]
    last = max(number for number, event in enumerate(events) if event["type"] == "TOOL_CALL_REQUESTED")
    record(package)["events"] = [*events[: last + 1], {**events[-1], "type": "RUN_FAILED", "payload": {"reason": "interrupted"}}]
    record(package)["run"]["status"] = "FAILED"
    record(package)["response"]["status"] = "failed"
    renumber(package)
    relink(package)
    ended = next(event for event in package["control_bundle"]["events"] if event["type"] == "EXECUTION_COMPLETED")
    failure = {"error_code": "EXECUTION_INTERRUPTED", "error_message": "", "run_id": ended["payload"]["run_id"]}
    ended.update(type="EXECUTION_FAILED", payload={**failure, "response_digest": ended["payload"]["response_digest"]})
    package["control_bundle"]["router_link"]["router_result_digest"] = None
    report = verify_flight_record(package)
    assert named(report, FlightOutcome.FAIL) == []
    assert named(report, FlightOutcome.NOT_VERIFIABLE) == ["shape", "provenance"]


def test_unknown_event_types_and_members_of_another_router_are_allowed() -> None:
    package = vector(EMBEDDED)
    events = record(package)["events"]
    events.insert(5, {**events[5], "event_id": "new", "type": "NOTED", "payload": {"anything": 1}, "more": 2})
    renumber(package)
    relink(package)
    for part in (record(package), record(package)["digests"], record(package)["integrity"]):
        part["extra"] = "x"
    assert failing(package) == []


def test_nan_of_a_foreign_run_is_hashed_as_it_was_written() -> None:
    package = vector(EMBEDDED)
    payload(package, "TOOL_CALL_SUCCEEDED")["output"]["n"] = float("nan")
    record(package)["digests"]["sha256"] = router_run_digest(record(package))
    assert failing(package) == ["response_binds_run", "provenance"]


# Evidence is hostile.


def test_a_package_that_cannot_be_read_fails_every_check() -> None:
    for package in ("{", b"\xff", "[]", "{}", {}, {"router": 1}):
        report = verify_flight_record(cast("Any", package))
        assert named(report, FlightOutcome.FAIL) == list(FLIGHT_CHECKS)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at]
    members = enumerate(cast("list[Any]", value)) if isinstance(value, list) else ()
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value).items()
    for key, member in members:
        found += places(member, (*at, key))
    return found


PLACES = places(vector(EMBEDDED)["router"]["bundle"])[1:]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PLACES), ANYTHING)
def test_whatever_stands_anywhere_in_a_record_is_judged_and_never_raises(place: tuple[Any, ...], value: Any) -> None:
    package = vector(EMBEDDED)
    target: Any = record(package)
    for key in place[:-1]:
        target = target[key]
    before = copy.deepcopy(target[place[-1]])
    target[place[-1]] = value
    report = verify_flight_record(package)
    assert [check.name for check in report.checks] == list(FLIGHT_CHECKS)
    covered = place[0] in ("run", "events", "response", "digests", "run_id")
    if covered and json.dumps(before) != json.dumps(value):
        assert report.outcome is FlightOutcome.FAIL


def test_a_report_is_json_data_that_says_what_differs() -> None:
    package = vector(EMBEDDED)
    flip_status(package)
    data = verify_flight_record(package).to_dict()
    assert (data["ok"], data["outcome"], len(data["checks"])) == (False, "FAIL", 11)
    assert data["checks"][0] == {"name": "run_digest", "outcome": "PASS"}
    assert set(data["checks"][1]) == {"name", "outcome", "detail", "expected", "actual"}
    assert json.loads(json.dumps(data)) == data


# -- what is not there


def outcome_of(package: Package, name: str) -> tuple[str, str | None]:
    check = next(check for check in verify_flight_record(package).checks if check.name == name)
    return check.outcome.value, check.detail


def without_digests_in_the_decision(package: Package) -> Package:
    link = package["control_bundle"]["router_link"]
    for name in ("router_result_digest", "router_request_digest"):
        link.pop(name, None)
    control(package, "EXECUTION_STARTED").pop("router_request_digest", None)
    control(package, "EXECUTION_COMPLETED").pop("response_digest", None)
    return package


def without_events(package: Package, *kinds: str) -> Package:
    events = record(package)["events"]
    events[:] = [event for event in events if kinds and event["type"] not in kinds]
    return package


def test_a_failed_step_ends_the_run_of_our_own_router_and_none_of_nexus_router() -> None:
    """Of the two steps in this record of nexus-router the first failed."""
    request: dict[str, object] = {
        "type": "REQUEST_RECORDED",
        "payload": {"adapter_id": payload(vector(FAILED), "DISPATCH_SELECTED")["adapter_id"]},
    }
    package = vector(FAILED)
    record(package)["events"].insert(3, {**record(package)["events"][3], **request})
    assert outcome_of(package, "approved_executed") == ("FAIL", "a step was started after one that failed, and the plan says to stop there")
    cut = vector(FAILED)
    del record(cut)["events"][7:-2]
    del record(cut)["response"]["steps_executed"]
    early = "the run ended without a reason before all of its plan was begun"
    assert early in str(outcome_of(cut, "approved_executed")[1])
    record(cut)["events"].insert(3, {**record(cut)["events"][3], **request})
    assert early not in str(outcome_of(cut, "approved_executed")[1])
    record(cut)["events"][-1]["payload"] = {"reason": "bug_error"}
    del record(cut)["events"][3]
    assert early not in str(outcome_of(cut, "approved_executed")[1])


def test_a_decision_that_holds_no_digests_leaves_their_checks_open() -> None:
    package = without_digests_in_the_decision(vector(EMBEDDED))
    assert outcome_of(package, "result_link") == ("NOT_VERIFIABLE", "the decision does not hold the digest of what the router returned")
    assert outcome_of(package, "request_digest")[0] == "NOT_VERIFIABLE"
    record(package)["events"] = "none"
    assert outcome_of(package, "request_digest")[0] == "NOT_VERIFIABLE"


def test_a_bare_run_bundle_names_its_run_once() -> None:
    package = vector(EMBEDDED)
    for name in ("response", "run_id"):
        del record(package)[name]
    assert outcome_of(package, "run_id") == ("PASS", None)


def test_a_run_without_events_says_so() -> None:
    package = without_events(vector(EMBEDDED))
    assert outcome_of(package, "row") == ("FAIL", "there are no events")
    assert "no event" in str(next(check.actual for check in verify_flight_record(package).checks if check.name == "shape"))
    assert outcome_of(package, "approved_executed")[0] == "FAIL"


def test_an_interrupted_call_has_an_unknown_outcome() -> None:
    package = without_events(vector(EMBEDDED), "TOOL_CALL_SUCCEEDED", "STEP_COMPLETED")
    events = record(package)["events"]
    last = next(place for place, event in enumerate(events) if event["type"] == "TOOL_CALL_REQUESTED")
    events[last + 1 : -1] = [event for event in events[last + 1 : -1] if event["type"] == "PROVENANCE_EMITTED"]
    events[-1] |= {"type": "RUN_FAILED", "payload": {"reason": "interrupted"}}
    assert outcome_of(package, "shape") == (
        "NOT_VERIFIABLE",
        "the last call has no result, because the run was interrupted: its outcome is unknown",
    )


def test_a_run_without_a_selected_adapter_or_a_plan_started_nothing() -> None:
    package = without_events(vector(EMBEDDED), "DISPATCH_SELECTED", "PLAN_CREATED")
    details = str(outcome_of(package, "approved_executed")[1])
    assert "steps were started, but no adapter was selected" in details
    assert "steps were started, but no plan was recorded" in details
    quiet = without_events(package, "STEP_STARTED", "STEP_COMPLETED", "TOOL_CALL_REQUESTED", "TOOL_CALL_SUCCEEDED")
    details = str(outcome_of(quiet, "approved_executed")[1])
    assert "no adapter was selected" not in details
    assert "no plan was recorded" not in details


def test_a_call_that_never_ended_and_a_response_that_binds_nothing_are_told() -> None:
    package = without_events(vector(EMBEDDED), "TOOL_CALL_SUCCEEDED", "STEP_COMPLETED")
    assert "the last call has no result" in str(outcome_of(package, "shape")[1])
    del record(package)["response"]["run_bundle_digest"]
    assert outcome_of(package, "response_binds_run") == ("NOT_VERIFIABLE", "response does not name the digest of the run")


def test_a_decision_that_was_never_executed_and_two_plans_are_malformed() -> None:
    package = vector(EMBEDDED)
    del package["control_bundle"]["events"][3:]
    assert outcome_of(package, "request_digest") == ("FAIL", "the decision was never executed")
    twice = vector(EMBEDDED)
    plan = next(event for event in record(twice)["events"] if event["type"] == "PLAN_CREATED")
    record(twice)["events"].insert(2, copy.deepcopy(plan))
    assert "there must be one PLAN_CREATED" in str(outcome_of(twice, "approved_executed")[1])


def test_a_record_without_its_digest_is_linked_to_nothing() -> None:
    package = vector(EMBEDDED)
    del record(package)["integrity"]["canonical_digest"]
    assert outcome_of(package, "result_link") == ("FAIL", "the record has no integrity.canonical_digest")


@pytest.mark.parametrize("response", [[], "completed", 1, None])
def test_a_response_that_is_no_object_fails_and_ends_nothing(response: object) -> None:
    package = vector(EMBEDDED)
    record(package)["response"] = response
    report = verify_flight_record(package)
    assert not report.ok
    assert "response is no object" in " ".join(check.detail or "" for check in report.checks if check.outcome is FlightOutcome.FAIL)


# -- the order of events


def run_of(*kinds: str, last: str = "RUN_COMPLETED", **ends: object) -> list[dict[str, Any]]:
    """Events of a run of one step `s`; `R`, `+` and `-` are a request, a success and a failure whose outcome nobody knows."""
    payloads: dict[str, dict[str, Any]] = {
        "STEP_COMPLETED": {"step_id": "s", "status": "ok"},
        "-": {"step_id": "s", "error_code": "TIMEOUT", "outcome": "unknown"},
    }
    names = {"R": "TOOL_CALL_REQUESTED", "+": "TOOL_CALL_SUCCEEDED", "-": "TOOL_CALL_FAILED"}
    told: list[tuple[str, dict[str, Any]]] = [(names.get(kind, kind), payloads.get(kind, {"step_id": "s"})) for kind in kinds]
    told = [("RUN_STARTED", {}), *told, (last, ends or {"outcome": "ok"})]
    return [{"seq": seq, "type": kind, "payload": dict(payload)} for seq, (kind, payload) in enumerate(told)]


def order(*kinds: str, last: str = "RUN_COMPLETED", **ends: object) -> list[str]:
    return [finding.detail for finding in misplaced_events(run_of(*kinds, last=last, **ends))]


def test_a_step_has_one_call_and_a_second_only_after_a_failure_that_may_be_tried_again() -> None:
    begin, end = "STEP_STARTED", "STEP_COMPLETED"
    assert order(begin, "R", "+", end) == order(begin, "R", "-", "R", "+", end) == []
    again = "a call is requested again after a result that is certain, on an adapter that is not idempotent, or for the third time"
    assert order(begin, "R", "+", "R", "+", end) == [f"event 4: {again}"]
    assert order(begin, "R", "-", "R", "-", "R", "+", end) == [f"event 6: {again}"]
    for name, value in (("outcome", "failed"), ("error_code", "NONZERO_EXIT")):
        events = run_of(begin, "R", "-", "R", "+", end)
        events[3]["payload"][name] = value
        assert [finding.detail for finding in misplaced_events(events)] == [f"event 4: {again}"]


def test_a_second_call_needs_an_adapter_that_was_recorded_as_idempotent_where_that_was_recorded() -> None:
    events = run_of("REQUEST_RECORDED", "STEP_STARTED", "R", "-", "R", "+", "STEP_COMPLETED")
    for value, found in ((True, 0), (False, 1), (None, 1), (1, 1)):
        events[1]["payload"]["idempotent"] = value
        assert len(list(misplaced_events(events))) == found


def test_a_run_that_our_own_router_recorded_has_the_request() -> None:
    call = ("STEP_STARTED", "R", "+", "STEP_COMPLETED")
    for opening, recorded_by, missing in (
        (("PLAN_CREATED", "REQUEST_RECORDED"), "nexus-attest", False),
        (("PLAN_CREATED",), "nexus-attest", True),
        ((), "nexus-attest", True),
        (("PLAN_CREATED",), "another", False),
        (("PLAN_CREATED",), None, False),
    ):
        events = run_of(*opening, *call)
        events[0]["payload"] = {} if recorded_by is None else {"recorded_by": recorded_by}
        found = [finding.detail for finding in misplaced_events(events)]
        assert found == (["our own router recorded the run, but REQUEST_RECORDED, which it always writes, is missing"] if missing else [])


def test_a_run_ends_in_the_step_that_was_started_last() -> None:
    call = ("STEP_STARTED", "R", "+", "STEP_COMPLETED")
    assert order(*call, last="RUN_FAILED", reason="bug_error", step_id="s") == []
    another = "the run ended in another step than the one that was started last"
    for steps in (call, ()):
        assert order(*steps, last="RUN_FAILED", reason="bug_error", step_id="s2") == [another]


def test_what_opens_a_run_comes_once_in_its_order_and_before_the_first_step() -> None:
    assert order("DISPATCH_SELECTED", "PLAN_CREATED", "REQUEST_RECORDED") == []
    assert order("PLAN_CREATED", "DISPATCH_SELECTED") == ["event 2: DISPATCH_SELECTED in the middle of the run"]
    assert order("PLAN_CREATED", "PLAN_CREATED") == ["event 2: PLAN_CREATED in the middle of the run"]
    assert order("STEP_STARTED", "R", "+", "STEP_COMPLETED", "PLAN_CREATED") == ["event 5: PLAN_CREATED in the middle of the run"]
    assert order("PROVENANCE_EMITTED", "PLAN_CREATED") == ["event 2: PLAN_CREATED in the middle of the run"]
    assert order("RUN_STARTED") == ["event 1: RUN_STARTED in the middle of the run"]


def test_after_the_provenance_of_a_run_nothing_is_done() -> None:
    call = ("STEP_STARTED", "R", "+", "STEP_COMPLETED")
    assert order(*call, "PROVENANCE_EMITTED", "NOTED") == []
    assert order("PROVENANCE_EMITTED", *call) == [
        f"event {number}: {kind} after the provenance of the run"
        for number, kind in ((2, "STEP_STARTED"), (3, "TOOL_CALL_REQUESTED"), (4, "TOOL_CALL_SUCCEEDED"), (5, "STEP_COMPLETED"))
    ]
    assert order(*call[:3], "PROVENANCE_EMITTED", call[3])[0] == "event 4: provenance is given inside a step"


def test_a_run_fails_for_a_reason() -> None:
    call = ("STEP_STARTED", "R", "+", "STEP_COMPLETED")
    assert order(*call, last="RUN_FAILED", reason="cancelled") == []
    assert order(*call, last="RUN_FAILED", outcome="error") == ["the run failed, but no step of it did, and no reason is given"]
    announced = run_of("RUN_FAILED", *call, last="RUN_FAILED", outcome="error")
    announced[1]["payload"] = {"reason": "max_steps_exceeded"}
    assert list(misplaced_events(announced)) == []
    late = run_of(*call, "RUN_FAILED", last="RUN_FAILED", outcome="error")
    late[5]["payload"] = {"reason": "max_steps_exceeded"}
    assert "event 5: RUN_FAILED in the middle of the run" in [finding.detail for finding in misplaced_events(late)]


def test_the_status_of_a_step_is_one_of_two() -> None:
    events = run_of("STEP_STARTED", "STEP_COMPLETED")
    events[2]["payload"]["status"] = "perhaps"
    assert next(misplaced_events(events)).detail == "event 2: the status of the step is not that of its last call"


def test_a_step_without_a_call_has_no_result_unless_the_run_was_broken_off_there() -> None:
    assert [finding.detail for finding in unfounded_results(run_of("STEP_STARTED", "STEP_COMPLETED"))] == [
        "step s is completed, but no call of it is on the record"
    ]
    broken = run_of("STEP_STARTED", "STEP_COMPLETED", last="RUN_FAILED", reason="interrupted")
    broken[2]["payload"]["status"] = "error"
    assert list(unfounded_results(broken)) == []
    broken[-1]["payload"] = {"reason": "record_interrupted"}
    assert list(unfounded_results(broken)) == []
    for other in ({"outcome": "error"}, {"reason": "unexpected_exception", "step_id": "s"}, {"reason": ["interrupted"]}):
        broken[-1]["payload"] = other
        assert len(list(unfounded_results(broken))) == 1
    later = run_of("STEP_STARTED", "STEP_COMPLETED", "STEP_STARTED", "R", "+", "STEP_COMPLETED", last="RUN_FAILED", reason="interrupted")
    later[2]["payload"]["status"] = "error"
    assert len(list(unfounded_results(later))) == 1


def test_a_call_by_another_adapter_or_with_other_powers_is_found() -> None:
    for kind in ("DISPATCH_SELECTED", "TOOL_CALL_REQUESTED", "TOOL_CALL_SUCCEEDED"):
        package = vector(EMBEDDED)
        del payload(package, kind)["adapter_id"]
        assert f"{kind} names another adapter than the execution" in str(outcome_of(package, "approved_executed")[1])
    package = vector(EMBEDDED)
    payload(package, "TOOL_CALL_REQUESTED")["adapter_capabilities"] = []
    assert "other capabilities" in str(outcome_of(package, "approved_executed")[1])


def test_a_truth_is_no_number_of_steps_and_no_capability() -> None:
    """1 == True for Python."""
    package = vector(EMBEDDED)
    events = record(package)["events"]
    started = [event for event in events if event["type"] == "STEP_STARTED"]
    events[:] = [event for event in events if event not in started[1:]]
    for told, problem in ((1, False), (True, True), (1.0, True), ("1", True)):
        record(package)["response"]["steps_executed"] = told
        detail = str(outcome_of(package, "approved_executed")[1])
        assert ("response counts other steps than were started" in detail) is problem, told
    package = vector(EMBEDDED)
    for event in record(package)["events"]:
        if event["type"] in ("DISPATCH_SELECTED", "TOOL_CALL_REQUESTED"):
            name = "capabilities" if event["type"] == "DISPATCH_SELECTED" else "adapter_capabilities"
            event["payload"][name] = [*event["payload"][name], 1]
    assert "other capabilities" not in str(outcome_of(package, "approved_executed")[1])
    payload(package, "TOOL_CALL_REQUESTED")["adapter_capabilities"][-1] = True
    assert "other capabilities" in str(outcome_of(package, "approved_executed")[1])


def test_a_record_of_our_own_router_has_no_other_members_and_need_not_have_them_all() -> None:
    package = vector(EMBEDDED)
    record(package)["events"][0]["payload"]["recorded_by"] = "nexus-attest"
    record(package)["provenance"] = {"anything": 1}
    record(package).pop("integrity", None)
    missing = "our own router recorded the run, but REQUEST_RECORDED, which it always writes, is missing"
    assert outcome_of(package, "shape") == ("FAIL", missing)
    record(package)["note"] = "approved by the board"
    record(package)["digests"]["other"] = ""
    added = (
        "the record has a member 'note', which the format does not have and no digest covers; "
        "the record.digests has a member 'other', which the format does not have and no digest covers"
    )
    assert outcome_of(package, "shape") == ("FAIL", f"{missing}; {added}")
    del record(package)["events"][0]["payload"]["recorded_by"]
    assert outcome_of(package, "shape") == ("PASS", None)
