"""An audit package and the record in it, taken apart for the checks of `nexus_control.flight_checks`. Nothing is judged here."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

from nexus_control.audit_package import AuditPackage
from nexus_control.bundle_checks import replay_bundle
from nexus_control.decision import Decision, ExecutionRecord
from nexus_control.errors import InvalidPlan
from nexus_control.flight_record import router_request
from nexus_control.plan import DefaultCall, Plan, parse_plan
from nexus_control.policy import Policy
from nexus_control.router_record import router_run_digest

__all__ = ["Lacking", "Malformed", "Subject"]


class Lacking(Exception):
    """The record is of a form that does not hold what a check needs."""


class Malformed(Exception):
    """The record should hold what a check needs, and does not."""


class Subject:
    """The parts of a package that the checks read, taken out and recomputed once, when they are first needed.

    Each property raises Lacking, Malformed or an error of the engine when its part is not there. `decision` is what the events make, where
    they were replayed before.
    """

    def __init__(self, package: AuditPackage, record: dict[str, Any], decision: Decision | None = None) -> None:
        self.package = package
        self.record = record
        if decision is not None:
            self.decision = decision

    @cached_property
    def run(self) -> dict[str, Any]:
        """The run row."""
        self._require_bundle()
        run: object = self.record["run"]
        fields = ("run_id", "mode", "goal", "status")
        if not isinstance(run, dict) or not all(isinstance(cast("dict[str, Any]", run).get(name), str) for name in fields):
            raise Malformed(f"run must be an object with the texts {', '.join(fields)}")
        return cast("dict[str, Any]", run)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The events, each of the right shape."""
        self._require_bundle()
        events: object = self.record["events"]
        if not isinstance(events, list):
            raise Malformed("events must be a list")
        for number, fields in enumerate(cast("list[dict[str, object]]", events)):  # what it is said to be
            if type(fields) is not dict:
                raise Malformed(f"event {number} is no object")
            try:
                fits = type(fields["seq"]) is int and type(fields["payload"]) is dict
                fits = fits and type(fields["event_id"]) is str and type(fields["run_id"]) is str and type(fields["type"]) is str
            except KeyError:
                fits = False
            if not fits:
                raise Malformed(f"event {number} needs the texts event_id, run_id and type, the integer seq and the object payload")
        return cast("list[dict[str, Any]]", events)

    @cached_property
    def payloads(self) -> dict[str, list[dict[str, Any]]]:
        """The payloads of the events, by type."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in self.events:
            found[event["type"]].append(event["payload"])
        return found

    @property
    def end(self) -> str | None:
        """The type of the last event, None without events."""
        return self.events[-1]["type"] if self.events else None

    @cached_property
    def run_digest(self) -> str:
        """The digest of run and events, recomputed; raw."""
        self._require_bundle()
        return router_run_digest(self.record)

    @cached_property
    def response(self) -> dict[str, Any]:
        """What the router returned."""
        if "response" not in self.record:
            raise Lacking("the record holds no response of the router")
        response: object = self.record["response"]
        if not isinstance(response, dict):
            raise Malformed("response is no object")
        return cast("dict[str, Any]", response)

    @cached_property
    def decision(self) -> Decision:
        """The decision, replayed from the control bundle."""
        bundle = self.package.control_bundle
        return replay_bundle(bundle.decision.decision_id, sorted(bundle.events, key=lambda event: event.seq))

    @cached_property
    def execution(self) -> ExecutionRecord:
        """The execution that the package is about: the latest."""
        execution = self.decision.latest_execution
        if execution is None:
            raise Malformed("the decision was never executed")
        return execution

    @cached_property
    def policy(self) -> Policy:
        """The decision's policy."""
        if self.decision.policy is None:
            raise Malformed("the decision has no policy")
        return self.decision.policy

    @cached_property
    def recorded_plan(self) -> list[Any] | None:
        """The steps of PLAN_CREATED, None without that event."""
        plans: list[object] = [payload.get("plan") for payload in self.of_type("PLAN_CREATED")]
        if not plans:
            return None
        if len(plans) > 1 or not isinstance(plans[0], list):
            raise Malformed("there must be one PLAN_CREATED, with a list of steps")
        return cast("list[Any]", plans[0])

    @cached_property
    def plan(self) -> Plan:
        """What the approved plan string means; a plan without steps when no router could run it.

        For a plan without steps the call is the adapter's default one. The decision does not name it, so tool and method are those of
        the record; that it was given exactly the approved goal and plan is what can be compared.
        """
        call = _default_call(self.recorded_plan)
        try:
            return parse_plan(self.decision.plan, goal=self.decision.goal or "", default_call=call)
        except InvalidPlan:
            return Plan((), "stop")

    @cached_property
    def approved_plan(self) -> list[dict[str, object]]:
        """The steps of the approved plan in full form."""
        return [step.to_dict() for step in self.plan.steps]

    @cached_property
    def request(self) -> dict[str, object]:
        """What was approved, as the run request whose digest the provenance of the run holds."""
        return router_request(
            goal=self.decision.goal or "",
            adapter_id=self.execution.adapter_id,
            dry_run=self.execution.dry_run,
            max_steps=self.policy.max_steps,
            require_capabilities=self.policy.require_adapter_capabilities,
            plan=self.approved_plan,
        )

    def of_type(self, event_type: str) -> Sequence[dict[str, Any]]:
        """The payloads of the events of one type."""
        return self.payloads.get(event_type, ())

    def _require_bundle(self) -> None:
        """Raise unless the record has the parts of a run bundle. A hollowed one is malformed; only an altogether other form is not."""
        missing = [name for name in ("run", "events", "digests") if name not in self.record]
        if not missing:
            return
        ours = len(missing) < 3 or "response" in self.record or "run_id" not in self.record
        raise Malformed(f"malformed: {', '.join(missing)} missing") if ours else Lacking("the record is of an unknown form")


def _default_call(recorded: Sequence[object] | None) -> DefaultCall | None:
    match recorded:
        case [{"call": {"tool": str(tool), "method": str(method)}}]:
            return DefaultCall(tool, method)
        case _:
            return None
