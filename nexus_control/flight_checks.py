"""Is the embedded record of a run true to itself, and is it of the run that the decision allowed?

    decision events -> response digest -> response -> run_bundle_digest -> run and events

Eleven checks, all of them always run, each with one of three outcomes: PASS, FAIL, or NOT_VERIFIABLE when the record does not hold what
the check needs (a bare run bundle has no `response`, for example). What cannot be judged is never a PASS. The record may come from the
built-in router or from nexus-router; both write run bundles of version 0.3.

What the checks cannot show: that the router told the truth about the outside world when it wrote the record.
"""

import marshal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import zip_longest
from typing import Any, cast

from nexus_control.audit_package import AuditPackage
from nexus_control.bundle_checks import stray_findings
from nexus_control.errors import MalformedBundle, NexusError
from nexus_control.flight_record import NAMING_THE_ADAPTER, NO_ADAPTER, RECORD_MEMBERS, RECORDED_BY, provenance_digest, results_of
from nexus_control.flight_shape import misplaced_events, unfounded_results
from nexus_control.flight_subject import Lacking, Malformed, Subject
from nexus_control.integrity import content_digest, digests_equal, prefixed
from nexus_control.json_data import object_of, parse_json
from nexus_control.router_record import router_text, stated_digest
from nexus_control.verification import Finding

__all__ = ["FLIGHT_CHECKS", "FlightCheck", "FlightOutcome", "FlightReport", "verify_flight_record"]


class FlightOutcome(StrEnum):
    """What is known: that it holds, that it does not, or nothing."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_VERIFIABLE = "NOT_VERIFIABLE"


@dataclass(frozen=True, slots=True)
class FlightCheck:
    """One check; `expected` and `actual` say what differed first, `detail` all that was found, or what was missing."""

    name: str
    outcome: FlightOutcome
    detail: str | None = None
    expected: str | None = None
    actual: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`name` and `outcome`, and the other members that are not None."""
        data: dict[str, Any] = {"name": self.name, "outcome": self.outcome.value}
        members = {"detail": self.detail, "expected": self.expected, "actual": self.actual}
        return {**data, **{key: value for key, value in members.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class FlightReport:
    """All eleven checks in their order."""

    checks: tuple[FlightCheck, ...]
    strict: bool = False

    @property
    def outcome(self) -> FlightOutcome:
        """FAIL when a check failed, NOT_VERIFIABLE when none did and one could not be judged, PASS otherwise."""
        found = {check.outcome for check in self.checks}
        return next((outcome for outcome in (FlightOutcome.FAIL, FlightOutcome.NOT_VERIFIABLE) if outcome in found), FlightOutcome.PASS)

    @property
    def ok(self) -> bool:
        """Whether nothing failed; when `strict`, whether everything passed."""
        return self.outcome is FlightOutcome.PASS or (self.outcome is FlightOutcome.NOT_VERIFIABLE and not self.strict)

    def to_dict(self) -> dict[str, Any]:
        """`ok`, `outcome` and `checks`."""
        return {"ok": self.ok, "outcome": self.outcome.value, "checks": [check.to_dict() for check in self.checks]}


def verify_flight_record(package: AuditPackage | dict[str, Any] | str | bytes, *, strict: bool = False) -> FlightReport:
    """Run every check over the record embedded in an audit package, its dict form or its JSON text.

    In a package that cannot be read every check fails; in reference mode, where there is no record, none is verifiable. Nothing is
    raised for bad evidence. `strict` counts what is not verifiable as a failure.
    """
    if not isinstance(package, AuditPackage):
        try:
            package = AuditPackage.from_dict(object_of(parse_json(package) if isinstance(package, (str, bytes)) else package, "package"))
        except MalformedBundle as error:
            return _all(FlightOutcome.FAIL, f"the package cannot be read: {error}", strict=strict)
    if package.router.bundle is None:
        return _all(FlightOutcome.NOT_VERIFIABLE, "the package holds no record of the run, only a reference to it", strict=strict)
    return judge_flight_record(Subject(package, package.router.bundle), strict=strict)


def judge_flight_record(subject: Subject, *, strict: bool = False) -> FlightReport:
    """`verify_flight_record` for a package that was taken apart."""
    return FlightReport(tuple(_judge(name, partial(function, subject)) for name, function in _CHECKS), strict)


def _run_digest(subject: Subject) -> Iterator[Finding]:
    actual = subject.run_digest
    digests: object = subject.record["digests"]
    stated: object = cast("dict[str, object]", digests).get("sha256") if isinstance(digests, dict) else None
    if stated != actual:
        yield Finding("digests.sha256 is not the digest of run and events", str(stated), actual)


def _response_digest(subject: Subject) -> Iterator[Finding]:
    stated, actual = stated_digest(subject.record), prefixed(content_digest(subject.response))
    if not digests_equal(stated, actual):
        yield Finding("integrity.canonical_digest is not the digest of response", stated, actual)


def _response_binds_run(subject: Subject) -> Iterator[Finding]:
    bound, actual = subject.response.get("run_bundle_digest"), prefixed(subject.run_digest)
    if bound is None:
        yield Finding("response does not name the digest of the run", fails=False)
    elif bound != actual:
        yield Finding("response.run_bundle_digest is not the digest of run and events", str(bound), actual)
    if digests_equal(stated_digest(subject.record), content_digest(subject.response)):  # else it is said already that it was changed
        yield from _contradictions(subject)


def _contradictions(subject: Subject) -> Iterator[Finding]:
    """Of what else a response says of its run, whatever the run does not bear out. A member that it lacks says nothing."""
    named = (payload.get("adapter_id") for kind in NAMING_THE_ADAPTER for payload in subject.of_type(kind))
    ran = {
        "status": subject.run["status"].lower(),
        "mode": subject.run["mode"],
        "adapter_id": next(named, NO_ADAPTER),
    }
    for name, found in ran.items():
        if name in subject.response and subject.response[name] != found:
            yield Finding(f"response.{name} is not that of the run", f"{found!s:.200}", f"{subject.response[name]!s:.200}")


def _result_link(subject: Subject) -> Iterator[Finding]:
    stated = stated_digest(subject.record)
    if stated is None:
        yield Finding("the record has no integrity.canonical_digest")
        return
    known = {
        "the result digest of router_link": subject.package.control_bundle.router_link.router_result_digest,
        "the response digest of the latest execution": subject.execution.response_digest,
    }
    if not any(known.values()):
        yield Finding("the decision does not hold the digest of what the router returned", fails=False)
    for where, digest in known.items():
        if digest is not None and not digests_equal(stated, digest):
            yield Finding(f"integrity.canonical_digest is not {where}", digest, stated)


def _run_id(subject: Subject) -> Iterator[Finding]:
    run_id = subject.run["run_id"]
    said: dict[str, object] = {"router_link": subject.package.control_bundle.router_link.run_id}
    if "run_id" in subject.record or "response" in subject.record:
        said["the record"] = subject.record.get("run_id")
    if "response" in subject.record:
        said["response"] = subject.response.get("run_id")
    for where, value in said.items():
        if value != run_id:
            yield Finding(f"{where} names another run than the run row", run_id, str(value))
    if {event["run_id"] for event in subject.events} <= {run_id}:
        return
    stray = next(event for event in subject.events if event["run_id"] != run_id)
    yield Finding(f"event {stray['seq']} is of another run", run_id, stray["run_id"])


def _seq(subject: Subject) -> Iterator[Finding]:
    events = subject.events
    told = [event["seq"] for event in events]
    if told != list(range(len(told))):
        number, wrong = next((number, seq) for number, seq in enumerate(told) if seq != number)
        yield Finding("seq does not count the events from 0", str(number), f"{wrong!s:.40}")
    if len({event["event_id"] for event in events}) != len(events):
        yield Finding("two events have the same event_id")


def _shape(subject: Subject) -> Iterator[Finding]:
    yield from misplaced_events(subject.events)
    yield from _stray_members(subject)


def _stray_members(subject: Subject) -> Iterator[Finding]:
    """What a record of our own router has beside the members that it is made of: no digest covers it, so anybody could have put it there.

    Records of other routers may have more, as nexus-router allows; who began the run is under the digest of its events.
    """
    if not subject.events or subject.events[0]["payload"].get("recorded_by") != RECORDED_BY:
        return
    for path, known in RECORD_MEMBERS.items():
        part: object = subject.record.get(path) if path else subject.record
        if isinstance(part, dict):
            yield from stray_findings(f"the record.{path}" if path else "the record", cast("dict[str, object]", part), known)


def _row(subject: Subject) -> Iterator[Finding]:
    run = subject.run
    if not subject.events:
        yield Finding("there are no events")
        return
    first, last = subject.events[0], subject.events[-1]
    for name in ("mode", "goal"):
        if first["payload"].get(name) != run[name]:
            yield Finding(f"run.{name} is not that of RUN_STARTED", str(first["payload"].get(name)), run[name])
    status = last["type"].removeprefix("RUN_")
    if run["status"] != status:
        yield Finding("run.status is not that of the last event", status, run["status"])


def _request_digest(subject: Subject) -> Iterator[Finding]:
    decision, execution = subject.decision, subject.execution
    compiled = subject.policy.compile_to_router_request(decision.goal or "", decision.plan, execution.adapter_id, execution.dry_run)
    actual = content_digest(compiled)
    stated: dict[str, object] = {
        "router_link": subject.package.control_bundle.router_link.router_request_digest,
        "EXECUTION_STARTED": execution.request_digest,
    }
    if not any(stated.values()):
        yield Finding("the decision does not hold the digest of what the router was asked", fails=False)
    if isinstance(subject.record.get("events"), list):
        stated["REQUEST_RECORDED"] = next((payload.get("request_digest") for payload in subject.of_type("REQUEST_RECORDED")), None)
    for where, digest in stated.items():
        if digest is not None and not digests_equal(digest, actual):
            yield Finding(f"the request digest of {where} is not that of the approved action", prefixed(actual), str(digest))


def _approved_executed(subject: Subject) -> Iterator[Finding]:
    decision, execution, run = subject.decision, subject.execution, subject.run
    mode = "dry_run" if execution.dry_run else "apply"
    for name, approved, ran in (("goal", decision.goal or "", run["goal"]), ("mode", mode, run["mode"])):
        if ran != approved:
            yield Finding(f"the {name} of the run is not the approved one", approved, ran)
    if execution.error_code is None and subject.end == "RUN_FAILED":
        yield Finding("the decision counts as completed a run that failed", "RUN_COMPLETED", "RUN_FAILED")
    yield from _adapter_findings(subject)
    started = len(subject.of_type("STEP_STARTED"))
    limit = subject.policy.max_steps
    if limit is not None and started > limit:
        yield Finding("more steps were started than the policy allows", str(limit), str(started))
    told = subject.response.get("steps_executed") if "response" in subject.record else None
    counts = {"response": told, "the decision": execution.steps_executed}
    for where, count in counts.items():
        if count is not None and not _same(count, started):
            yield Finding(f"{where} counts other steps than were started", str(started), f"{count!r:.40}")
    yield from _plan_findings(subject, started)


def _adapter_findings(subject: Subject) -> Iterator[Finding]:
    approved = subject.execution.adapter_id
    for kind in ("DISPATCH_SELECTED", "REQUEST_RECORDED", "TOOL_CALL_REQUESTED", "TOOL_CALL_SUCCEEDED", "TOOL_CALL_FAILED"):
        others = [payload for payload in subject.of_type(kind) if payload.get("adapter_id") != approved]
        if others:
            yield Finding(f"{kind} names another adapter than the execution", approved, str(others[0].get("adapter_id")))
    selected = next(iter(subject.of_type("DISPATCH_SELECTED")), None)
    if selected is None:
        if subject.of_type("STEP_STARTED"):
            yield Finding("steps were started, but no adapter was selected")
        return
    capabilities: object = selected.get("capabilities")
    if not all(_same(payload.get("adapter_capabilities"), capabilities) for payload in subject.of_type("TOOL_CALL_REQUESTED")):
        yield Finding("a call was requested with other capabilities than those of the selected adapter")
    has = cast("list[object]", capabilities) if isinstance(capabilities, list) else ()
    if missing := sorted(name for name in set(subject.policy.require_adapter_capabilities) if name not in has):
        yield Finding("the adapter lacked required capabilities", ", ".join(missing))


def _plan_findings(subject: Subject, started: int) -> Iterator[Finding]:
    """The recorded plan is the approved one, what was called is what the plan says, and a completed run left nothing of it out."""
    recorded = subject.recorded_plan
    if recorded is None:
        if started:
            yield Finding("steps were started, but no plan was recorded")
        return
    approved = subject.approved_plan
    if not _same(approved, recorded):
        yield Finding("the plan of the run is not the approved one", router_text(approved)[:200], router_text(recorded)[:200])
        return
    planned = [step["step_id"] for step in approved]
    begun = [payload.get("step_id") for payload in subject.of_type("STEP_STARTED")]
    if begun != planned[: len(begun)]:
        other = next(step for step, due in zip_longest(begun, planned) if step != due)
        yield Finding("a step was started that is not the next one of the plan", None, str(other))
        return
    if len(begun) < len(planned) and not _may_end(subject):
        yield Finding("the run ended without a reason before all of its plan was begun", str(len(planned)), str(len(begun)))
    statuses = [payload.get("status") for payload in subject.of_type("STEP_COMPLETED")]
    if _stops_at_failure(subject) and "error" in statuses and len(begun) > statuses.index("error") + 1:
        yield Finding("a step was started after one that failed, and the plan says to stop there")
    yield from _call_findings(subject, dict(zip(planned, approved, strict=True)))
    if any(payload.get("simulated") is not subject.execution.dry_run for payload in subject.of_type("TOOL_CALL_SUCCEEDED")):
        yield Finding("a result is simulated exactly in a dry run")


def _may_end(subject: Subject) -> bool:
    """Whether a run may end before all of its plan was begun: for a reason that it gives, or after a failed step that stops it."""
    if "reason" in subject.events[-1]["payload"]:
        return True
    done = subject.of_type("STEP_COMPLETED")
    return _stops_at_failure(subject) and bool(done) and done[-1].get("status") == "error"


def _stops_at_failure(subject: Subject) -> bool:
    """Whether a failed step ends the run. It never does in nexus-router, which writes no REQUEST_RECORDED."""
    return bool(subject.of_type("REQUEST_RECORDED")) and subject.plan.on_error == "stop"


def _call_findings(subject: Subject, steps: Mapping[object, Mapping[str, object]]) -> Iterator[Finding]:
    """Each call is that of the step that it names; that this one was open is a matter of shape."""
    requests = subject.of_type("TOOL_CALL_REQUESTED")
    calls = [payload.get("call") for payload in requests]
    due = [steps.get(payload.get("step_id"), _NO_STEP).get("call") for payload in requests]
    if not _same(due, calls):
        expected, actual = next((one, other) for one, other in zip(due, calls, strict=True) if not _same(one, other))
        yield Finding("a call is not that of its step in the plan", router_text(expected)[:200], router_text(actual)[:200])


def _same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same. They need more than `==`: 1 == True == 1.0 for Python, and for no tool.

    marshal (in version 2, which has no references) tells types apart three times as fast as JSON, but also members in another order.
    """
    return marshal.dumps(one, 2) == marshal.dumps(other, 2) or (one == other and router_text(one) == router_text(other))


_NO_STEP: Mapping[str, object] = {}


def _provenance(subject: Subject) -> Iterator[Finding]:
    yield from unfounded_results(subject.events)
    emitted = [payload.get("provenance") for payload in subject.of_type("PROVENANCE_EMITTED")]
    if not emitted:
        # nexus-router writes none after a bug in an adapter, and when it could select none: then the last event gives a reason.
        broken_off = bool(subject.events) and "reason" in subject.events[-1]["payload"] and not subject.of_type("REQUEST_RECORDED")
        yield Finding("the run has no provenance record", fails=not broken_off)
        return
    match emitted:
        case [{"records": [{"digests": [{"artifact_id": str(artifact), "alg": "sha256", "value": str(value)}]}]}]:
            pass
        case _:
            yield Finding("there must be one provenance record with one SHA-256")
            return
    about = f"run:{subject.run['run_id']}"
    if artifact != about:
        yield Finding("the provenance record is of something else", about, artifact)
    actual = provenance_digest(subject.request, results_of(subject.events, simulated=subject.execution.dry_run))
    if value != actual:
        yield Finding("the provenance digest is not that of the approved request and the recorded results", value, actual)


_CHECKS: tuple[tuple[str, Callable[[Subject], Iterator[Finding]]], ...] = (
    ("run_digest", _run_digest),
    ("response_digest", _response_digest),
    ("response_binds_run", _response_binds_run),
    ("result_link", _result_link),
    ("run_id", _run_id),
    ("seq", _seq),
    ("shape", _shape),
    ("row", _row),
    ("request_digest", _request_digest),
    ("approved_executed", _approved_executed),
    ("provenance", _provenance),
)

FLIGHT_CHECKS = tuple(name for name, _ in _CHECKS)
"""The names of the checks, in their order."""


def _judge(name: str, findings: Callable[[], Iterator[Finding]]) -> FlightCheck:
    found: list[Finding] = []
    try:
        for finding in findings():
            found.append(finding)
    except Lacking as lack:
        found.append(Finding(str(lack), fails=False))
    except Malformed as problem:
        found.append(Finding(str(problem)))
    except (LookupError, ValueError, TypeError, RecursionError, NexusError) as problem:  # the content is not what it is said to be
        found.append(Finding(f"cannot be computed: {problem}"))
    detail = "; ".join(finding.detail for finding in found) or None
    first = next((finding for finding in found if finding.fails), None)
    if first is not None:
        return FlightCheck(name, FlightOutcome.FAIL, detail, first.expected, first.actual)
    return FlightCheck(name, FlightOutcome.NOT_VERIFIABLE if found else FlightOutcome.PASS, detail)


def _all(outcome: FlightOutcome, detail: str, *, strict: bool) -> FlightReport:
    return FlightReport(tuple(FlightCheck(name, outcome, detail) for name in FLIGHT_CHECKS), strict)
