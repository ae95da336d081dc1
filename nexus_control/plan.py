"""A decision's plan string as steps: a pure function, so that a verifier can compare what was approved with what ran.

The same string always gives the same steps. What is not understood completely is refused, never dropped.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

from nexus_control.errors import InvalidPlan, PlanNotExecutable
from nexus_control.run_json import UnsafeJson, read_json

__all__ = ["DefaultCall", "Plan", "Step", "parse_plan"]

_STEP_ID = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
"""Step ids become part of the idempotency key, which travels in environment variables and headers."""

_CALL_KEYS = ("tool", "method", "args")
_SHORT_KEYS = ("step_id", "intent", *_CALL_KEYS)
_FULL_KEYS = ("step_id", "intent", "call", "expected_output_pointer")


class DefaultCall(NamedTuple):
    """The call that an adapter makes for a plan that holds no steps."""

    tool: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One call of a plan. `intent` and `expected_output_pointer` are recorded for people and verifiers; neither changes what is run."""

    step_id: str
    intent: str
    tool: str
    method: str
    args: Mapping[str, object]
    expected_output_pointer: str | None = None

    def to_dict(self) -> dict[str, object]:
        """The full form of the step, as run records hold it; the pointer only when given."""
        data: dict[str, object] = {
            "call": {"args": dict(self.args), "method": self.method, "tool": self.tool},
            "intent": self.intent,
            "step_id": self.step_id,
        }
        if self.expected_output_pointer is not None:
            data["expected_output_pointer"] = self.expected_output_pointer
        return data


class Plan(NamedTuple):
    """What a plan string means: at least one step, and whether a failed one ends the run."""

    steps: tuple[Step, ...]
    on_error: Literal["stop", "continue"] = "stop"


def parse_plan(plan: str | None, *, goal: str, default_call: DefaultCall | None = None) -> Plan:
    """The steps of a plan, and what follows a failed one.

    A JSON list of steps, or `{"steps": [...], "on_error"?: "stop" | "continue"}`. A step is `{tool, method, args?, intent?, step_id?}` or
    the full form `{step_id?, intent?, call: {tool, method, args?}, expected_output_pointer?}`; absent `args` are `{}`, an absent `intent`
    is `""`, the absent `step_id` of the n-th step is `s<n>`. Anything else, prose above all, is one default call with args `{goal, plan}`
    (without `plan` when it is None).

    Raises PlanNotExecutable when there are no steps and no default call, or an empty list of steps; InvalidPlan for everything in
    a list of steps that is unknown, missing, of the wrong type or ambiguous, and for a `step_id` that occurs twice.
    """
    listed = _listed_steps(plan)
    if listed is None:
        if default_call is None:
            raise PlanNotExecutable("the plan is no JSON list of steps, and the adapter declares no default_call for other plans")
        args = {"goal": goal} if plan is None else {"goal": goal, "plan": plan}
        return Plan((Step(step_id="s1", intent="", tool=default_call.tool, method=default_call.method, args=args),))
    found, on_error = listed
    if not found:
        raise PlanNotExecutable("the plan is an empty list of steps")
    steps = tuple(_parse_step(item, number) for number, item in enumerate(found, 1))
    seen: set[str] = set()
    for step in steps:
        if step.step_id in seen:
            raise InvalidPlan(f"step_id {step.step_id!r} occurs twice")
        seen.add(step.step_id)
    return Plan(steps, on_error)


def _listed_steps(plan: str | None) -> tuple[list[object], Literal["stop", "continue"]] | None:
    """The members of the list of steps, and `on_error`; None when the plan is no JSON list or object."""
    if plan is None or not plan.lstrip(" \t\n\r").startswith(("[", "{")):
        return None
    try:
        value = read_json(plan)
    except json.JSONDecodeError:
        return None
    except UnsafeJson as problem:
        raise InvalidPlan(f"the plan: {problem}") from None
    if isinstance(value, list):
        return cast("list[object]", value), "stop"
    data = _object(value, "the plan", ("steps", "on_error"))
    steps, on_error = data.get("steps"), data.get("on_error", "stop")
    if not isinstance(steps, list):
        raise InvalidPlan('the plan must be a list of steps, or an object {"steps": [...]}')
    if on_error not in ("stop", "continue"):
        raise InvalidPlan("the plan: on_error must be 'stop' or 'continue'")
    return cast("list[object]", steps), on_error


def _parse_step(item: object, number: int) -> Step:
    try:
        return _step(item, number)
    except InvalidPlan as problem:
        raise InvalidPlan(f"step {number}{problem}") from None


def _step(item: object, number: int) -> Step:
    """The messages of what it raises continue `step <number>`."""
    full = isinstance(item, dict) and "call" in item
    data = _object(cast("object", item), "", _FULL_KEYS if full else _SHORT_KEYS)
    call = _object(data["call"], ": call", _CALL_KEYS) if full else data
    args = call.get("args", {})
    if not isinstance(args, dict):
        raise InvalidPlan(": args must be an object")
    step_id = _text(data["step_id"], ": step_id") if "step_id" in data else f"s{number}"
    if not _STEP_ID.fullmatch(step_id):
        raise InvalidPlan(": step_id must have 1 to 128 characters and no control characters")
    pointer = _text(data["expected_output_pointer"], ": expected_output_pointer") if "expected_output_pointer" in data else None
    return Step(
        step_id=step_id,
        intent=_text(data.get("intent", ""), ": intent"),
        tool=_name(call.get("tool"), ": tool"),
        method=_name(call.get("method"), ": method"),
        args=cast("dict[str, object]", args),
        expected_output_pointer=pointer,
    )


def _object(value: object, where: str, known: Collection[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidPlan(f"{where} must be an object")
    data = cast("dict[str, object]", value)
    for key in data:
        if key not in known:
            raise InvalidPlan(f"{where} has the unknown key {key[:100]!r}; known are {', '.join(known)}")
    return data


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidPlan(f"{where} must be a string")
    return value


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidPlan(f"{where} must be a non-empty string")
    return value
