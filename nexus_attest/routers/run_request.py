"""What the governance side asks a router to run, checked, and its digest."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from nexus_control.errors import InputError
from nexus_control.events import require_text
from nexus_control.integrity import content_digest, prefixed

__all__ = ["RunRequest"]

_EXECUTION_ID = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")
"""It becomes an environment variable of the tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The arguments of `run`. `max_steps` None: no limit. `execution_id` None: the caller named no execution."""

    goal: str
    adapter_id: str
    dry_run: bool
    plan: str | None
    max_steps: int | None
    require_capabilities: tuple[str, ...]
    execution_id: str | None

    @classmethod
    def parse(
        cls,
        *,
        goal: object,
        adapter_id: object,
        dry_run: object,
        plan: object,
        max_steps: object,
        require_capabilities: object,
        execution_id: object,
    ) -> "RunRequest":
        """Raises InputError for a wrong type, an empty goal or adapter id, and text that UTF-8 cannot express."""
        if not isinstance(dry_run, bool):
            raise InputError(f"dry_run must be true or false, got {type(dry_run).__name__}")
        if max_steps is not None and (not isinstance(max_steps, int) or isinstance(max_steps, bool) or max_steps < 1):
            raise InputError("max_steps must be an integer of at least 1, or None")
        if not isinstance(require_capabilities, list | tuple | None):
            raise InputError("require_capabilities must be a list of strings, or None")
        capabilities = cast("Sequence[object]", require_capabilities or ())
        if execution_id is not None and not _EXECUTION_ID.fullmatch(require_text(execution_id, "execution_id")):
            raise InputError("execution_id must have 1 to 1024 characters and no control characters")
        return cls(
            goal=_filled(goal, "goal"),
            adapter_id=_filled(adapter_id, "adapter_id"),
            dry_run=dry_run,
            plan=None if plan is None else require_text(plan, "plan"),
            max_steps=max_steps,
            require_capabilities=tuple(require_text(name, "require_capabilities") for name in capabilities),
            execution_id=None if execution_id is None else require_text(execution_id, "execution_id"),
        )

    @property
    def mode(self) -> str:
        """`dry_run` or `apply`."""
        return "dry_run" if self.dry_run else "apply"

    def governance_digest(self) -> str:
        """The decision's router request digest, `sha256:` form: equal to the one in its EXECUTION_STARTED event."""
        compiled: dict[str, object] = {"goal": self.goal, "adapter_id": self.adapter_id, "dry_run": self.dry_run}
        if self.plan is not None:
            compiled["plan"] = self.plan
        if self.max_steps is not None:
            compiled["max_steps"] = self.max_steps
        if self.require_capabilities:
            compiled["require_capabilities"] = list(self.require_capabilities)
        return prefixed(content_digest(compiled))


def _filled(value: object, name: str) -> str:
    text = require_text(value, name)
    if not text:
        raise InputError(f"{name} must not be empty")
    return text
