"""What a decision must satisfy before it runs, and the judgement of one execution request against it.

Pure values. A policy is understood completely or refused: the one leniency, that of `Policy.from_dict`, is stated there. A valid
result says that this request satisfies this policy, not that the decision may run: whether it ran already is the lifecycle's matter.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from nexus_control.errors import InvalidPolicy, brief

__all__ = ["POLICY_FIELDS", "Policy", "PolicyValidationResult", "validate_execution_request"]

POLICY_FIELDS = ("min_approvals", "allowed_modes", "require_adapter_capabilities", "max_steps", "labels")
"""The keys of `Policy.to_dict()`, in the order of the constructor."""

_MODES = ("dry_run", "apply")
_tuple: Callable[[Any], tuple[Any, ...]] = tuple


@dataclass(frozen=True, init=False)
class Policy:
    """How many approvals, which modes and which adapter capabilities an execution needs.

    `max_steps` bounds the router's run, None leaves it unbounded. `labels` describe; nothing is judged by them and the router never
    sees them. Sequences may be given as lists and are kept as tuples. Raises InvalidPolicy for a value of the wrong type (`True`
    and `2.0` are no integers here, `"apply"` is no sequence), for less than one approval or step, and for no or unknown modes.
    """

    min_approvals: int
    allowed_modes: tuple[str, ...]
    require_adapter_capabilities: tuple[str, ...]
    max_steps: int | None
    labels: tuple[str, ...]

    # Written out, because a generated constructor would declare to type checkers that lists are refused.
    def __init__(
        self,
        min_approvals: int = 1,
        allowed_modes: Sequence[str] = ("dry_run",),
        require_adapter_capabilities: Sequence[str] = (),
        max_steps: int | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        keep = object.__setattr__  # what `self` itself refuses, being frozen
        keep(self, "min_approvals", _positive("min_approvals", min_approvals))
        keep(self, "allowed_modes", _modes(allowed_modes))
        keep(self, "require_adapter_capabilities", _texts("require_adapter_capabilities", require_adapter_capabilities))
        keep(self, "max_steps", None if max_steps is None else _positive("max_steps", max_steps))
        keep(self, "labels", _texts("labels", labels))

    def allows_mode(self, mode: str) -> bool:
        """Whether an execution in `mode` is permitted."""
        return mode in self.allowed_modes

    def to_dict(self) -> dict[str, Any]:
        """JSON data under the five field names; sequences as lists."""
        return {
            "min_approvals": self.min_approvals,
            "allowed_modes": list(self.allowed_modes),
            "require_adapter_capabilities": list(self.require_adapter_capabilities),
            "max_steps": self.max_steps,
            "labels": list(self.labels),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Policy":
        """The policy of stored data; other keys are ignored.

        A missing key takes the default, and so does anything but a list (or tuple) where a list belongs; numbers and numerals are
        converted with `int`. Raises InvalidPolicy for everything else that the constructor refuses.
        """
        fields = _mapping(data)
        return cls(
            min_approvals=_integer("min_approvals", fields.get("min_approvals", 1)),
            allowed_modes=_listed(fields.get("allowed_modes"), ("dry_run",)),
            require_adapter_capabilities=_listed(fields.get("require_adapter_capabilities"), ()),
            max_steps=None if fields.get("max_steps") is None else _integer("max_steps", fields["max_steps"]),
            labels=_listed(fields.get("labels"), ()),
        )

    def compile_to_router_request(self, goal: str, plan: str | None, adapter_id: str, dry_run: bool) -> dict[str, Any]:
        """What the router is asked to run; its content digest is the router request digest.

        The composition is frozen: `plan` and `max_steps` only when not None, `require_capabilities` only when there are any, in
        policy order.
        """
        request: dict[str, Any] = {"goal": goal, "adapter_id": adapter_id, "dry_run": dry_run}
        if plan is not None:
            request["plan"] = plan
        if self.max_steps is not None:
            request["max_steps"] = self.max_steps
        if self.require_adapter_capabilities:
            request["require_capabilities"] = list(self.require_adapter_capabilities)
        return request


@dataclass
class PolicyValidationResult:
    """Outcome of `validate_execution_request`: true in a condition when `valid`; otherwise `errors` has one text per problem."""

    valid: bool
    errors: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        return self.valid


def validate_execution_request(
    policy: Policy, mode: str, approval_count: int, adapter_capabilities: Collection[str] | None = None
) -> PolicyValidationResult:
    """Judge an execution in `mode` under `approval_count` active approvals by an adapter with these capabilities.

    Every problem is reported, in the order mode, approvals, capabilities. Capabilities of None are unknown and not judged; an empty
    set is known to hold nothing.
    """
    errors: list[str] = []
    if not policy.allows_mode(mode):
        errors.append(f"Mode '{mode}' is not allowed by the policy (allowed: {', '.join(policy.allowed_modes)})")
    if approval_count < policy.min_approvals:
        errors.append(f"Insufficient approvals: {approval_count} of {policy.min_approvals}")
    if adapter_capabilities is not None and (missing := set(policy.require_adapter_capabilities).difference(adapter_capabilities)):
        errors.append(f"Adapter is missing required capabilities: {', '.join(sorted(missing))}")
    return PolicyValidationResult(valid=not errors, errors=errors)


def _positive(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidPolicy(f"{name} must be an integer, got {type(value).__name__}")
    if value < 1:
        raise InvalidPolicy(f"{name} must be at least 1")
    return int(value)


def _modes(value: object) -> tuple[str, ...]:
    modes: Any = _items("allowed_modes", value)
    if not modes:
        raise InvalidPolicy("allowed_modes cannot be empty")
    for mode in modes:
        if not isinstance(mode, str) or mode not in _MODES:
            raise InvalidPolicy(f"Invalid mode in allowed_modes: {brief(mode)} (known: {', '.join(_MODES)})")
    return modes


def _texts(name: str, value: object) -> tuple[str, ...]:
    items: Any = _items(name, value)
    for item in items:
        if not isinstance(item, str):
            raise InvalidPolicy(f"{name} must contain only strings, got {type(item).__name__}")
        if not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                raise InvalidPolicy(f"{name} must not contain lone surrogates") from None
    return items


def _items(name: str, value: object) -> tuple[Any, ...]:
    """The members of a list or tuple; a string is a sequence of letters to Python, but never meant as one here."""
    if not isinstance(value, (list, tuple)):
        raise InvalidPolicy(f"{name} must be a list of strings, got {type(value).__name__}")
    return _tuple(value)


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, (dict, Mapping)):  # the former is asked for much sooner
        raise InvalidPolicy(f"a policy must be an object, got {type(value).__name__}")
    return cast("Mapping[str, Any]", value)


def _listed(value: object, default: Sequence[str]) -> Sequence[str]:
    return cast("Sequence[str]", value) if isinstance(value, (list, tuple)) else default


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise InvalidPolicy(f"{name} must be a number, got {type(value).__name__}")
    try:
        return int(value)
    except (ValueError, OverflowError):
        raise InvalidPolicy(f"{name} must be a finite number") from None
