"""What every adapter is to the run engine: something with declared powers that makes one call at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nexus_attest.routers.plan import DefaultCall

__all__ = ["Adapter", "CallIdentity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallIdentity:
    """Which call this is. A tool that remembers the idempotency key can recognise a repeated call."""

    run_id: str
    step_id: str
    execution_id: str | None

    @property
    def idempotency_key(self) -> str:
        """`<run id>/<step id>`, equal for every attempt at the same step."""
        return f"{self.run_id}/{self.step_id}"


class Adapter(Protocol):
    """Implementations are safe to call from several threads at once."""

    @property
    def adapter_id(self) -> str:
        """The exact name that executions use; free text."""
        ...

    @property
    def adapter_kind(self) -> str:
        """`subprocess`."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """Out of `dry_run`, `apply`, `timeout` and `external`."""
        ...

    @property
    def default_call(self) -> DefaultCall | None:
        """The call for a plan without steps; None: such a plan is refused."""
        ...

    @property
    def idempotent(self) -> bool:
        """Whether a call whose outcome is unknown may be repeated."""
        ...

    @property
    def definition_digest(self) -> str:
        """`sha256:` digest of the adapter's definition, which holds no secrets: an auditor sees which command it was."""
        ...

    def check(self, tool: str, method: str) -> None:
        """Raises CallRefused unless this call may be made. Touches nothing outside."""
        ...

    def preflight(self) -> None:
        """Raises CallRefused when no call can be made here and now. Starts nothing."""
        ...

    def call(self, tool: str, method: str, args: Mapping[str, object], identity: CallIdentity) -> dict[str, Any]:
        """The tool's output, one JSON object. Raises CallFailed when the call did not succeed."""
        ...
