"""What an execution will run, and through which adapter, or why it will not: settled before the first side effect, in either router."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from nexus_attest.routers.adapter import Adapter
from nexus_attest.routers.errors import CallRefused
from nexus_attest.routers.run_request import RunRequest
from nexus_attest.routers.steps import Problem, line
from nexus_control.errors import InputError, InvalidPlan
from nexus_control.plan import DefaultCall, Plan, parse_plan

__all__ = ["Resolution", "adapters_by_id", "objection", "resolve"]


class _Capable(Protocol):
    @property
    def capabilities(self) -> frozenset[str]: ...


A = TypeVar("A", bound=_Capable)


@dataclass(frozen=True, slots=True)
class Resolution(Generic[A]):
    """`adapter` is None when none was selected; the plan has no steps when it could not be read."""

    adapter: A | None
    plan: Plan
    refusal: Problem | None


def adapters_by_id(adapters: Iterable[Adapter]) -> dict[str, Adapter]:
    """Adapters by the names that executions use. Raises InputError for two of one id."""
    found: dict[str, Adapter] = {}
    for adapter in adapters:
        if adapter.adapter_id in found:
            raise InputError(f"two adapters have the id {adapter.adapter_id!r}")
        found[adapter.adapter_id] = adapter
    return found


def resolve(
    request: RunRequest, adapter: A | None, default_call: DefaultCall | None, objection: Callable[[A, Plan], Problem | None]
) -> Resolution[A]:
    """What will be run, or why not. Touches nothing outside.

    `adapter` is the one of the request, None when there is none of that id; `objection` is asked last, when all else is right.
    """
    plan, refusal = Plan(()), None
    try:
        plan = parse_plan(request.plan, goal=request.goal, default_call=default_call)
    except InvalidPlan as problem:
        refusal = _refused(problem.code, str(problem))
    if adapter is None:
        return Resolution(None, plan, _not_selected("UNKNOWN_ADAPTER", f"no adapter has the id {request.adapter_id!r:.300}"))
    needed = {*request.require_capabilities} if request.dry_run else {*request.require_capabilities, "apply"}
    if missing := sorted(needed - adapter.capabilities):
        return Resolution(None, plan, _not_selected("CAPABILITY_MISSING", f"the adapter lacks {', '.join(missing):.300}"))
    if request.max_steps is not None and len(plan.steps) > request.max_steps:
        refusal = _too_many(len(plan.steps), request.max_steps)
    return Resolution(adapter, plan, refusal or objection(adapter, plan))


def objection(adapter: Adapter, plan: Plan, *, dry_run: bool) -> Problem | None:
    """What one of our adapters has against a plan."""
    try:
        for step in plan.steps:
            adapter.check(step)
        if not dry_run:
            adapter.preflight(plan.steps)
    except CallRefused as refusal:
        return _refused(refusal.code, str(refusal))
    except Exception as bug:  # foreign code; the run must fail, not the process
        return _refused("UNKNOWN_ERROR", f"the adapter raised {type(bug).__name__} when it was asked about the plan")
    return None


def _not_selected(code: str, message: str) -> Problem:
    return Problem(code, message, {"reason": "dispatch_selection_failed", "error_code": code, "message": message, "details": {}})


def _too_many(steps: int, limit: int) -> Problem:
    payload: dict[str, object] = {"reason": "max_steps_exceeded", "max_steps": limit, "plan_steps": steps}
    return Problem("MAX_STEPS_EXCEEDED", f"the plan has {steps} steps, the policy allows {limit}", payload)


def _refused(code: str, message: str) -> Problem:
    message = line(message)
    return Problem(code, message, {"reason": "refused", "error_code": code, "message": message})
