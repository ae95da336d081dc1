"""What every adapter is to the run engine: declared powers, a check before the run, and one session per run that makes its calls.

    check      may this call be made at all? Pure; asked for every step, in dry runs too
    preflight  is everything there that the calls need (variables, secrets, folders)? Local; starts and contacts nothing
    open       one session for the whole run; may start a program or a connection, calls no tool
    call       one call, within its limit; the engine has put it on the record before
    close      always, whatever happened

A call ends in one of three ways: it returns a CallResult; it raises CallFailed with the outcome `failed` (or `not_sent`), and then it is
certain that it did not succeed; or it raises CallFailed with the outcome `unknown`, and nobody knows how much of its work was done.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_control.plan import DefaultCall, Step

__all__ = ["Adapter", "AdapterSession", "Call", "CallIdentity", "CallLimit", "CallResult"]


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


@dataclass(frozen=True, slots=True)
class CallLimit:
    """Until when something may take, and whether somebody wants it to end now.

    `deadline` is a reading of `time.monotonic`. Whoever waits looks at `cancelled` at least every tenth of a second.
    """

    deadline: float
    cancelled: threading.Event = field(default_factory=threading.Event)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline - time.monotonic())

    def require(self, outcome: CallOutcome) -> None:
        """Raise CallFailed with TIMEOUT or CANCELLED, and this outcome, when the time is over or the end was asked for."""
        if self.cancelled.is_set():
            raise CallFailed("CANCELLED", "The run was cancelled", outcome=outcome)
        if time.monotonic() >= self.deadline:
            raise CallFailed("TIMEOUT", "Not done in time", outcome=outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. The args of `step` are those of the plan: secret references in them are resolved by the adapter, as late as possible."""

    step: Step
    identity: CallIdentity
    limit: CallLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult:
    """What a call answered: one JSON object, with marks where something was taken out.

    `redacted` names those places as JSON pointers (RFC 6901) into `output`; the record lists them.
    """

    output: Mapping[str, Any]
    redacted: tuple[str, ...] = ()


class AdapterSession(Protocol):
    """The calls of one run, one at a time, all from the thread that opened it."""

    @property
    def details(self) -> Mapping[str, object]:
        """What the other side said about itself, to be recorded: bounded, printable, free of secrets. Empty where it says nothing.

        Another object after a call, if another one has answered since.
        """
        ...

    def call(self, call: Call) -> CallResult:
        """Make the call within `call.limit`.

        Raises CallFailed when it did not succeed; its message is bounded, printable and free of secrets, for it is recorded. Any other
        exception is a bug of the adapter. After an interruption (KeyboardInterrupt) nothing of the call goes on.
        """
        ...

    def close(self) -> None:
        """End what `open` started, in bounded time. Raises nothing; closing again does nothing."""
        ...


class Adapter(Protocol):
    """Implementations are safe to use from several threads at once; each run opens a session of its own."""

    @property
    def adapter_id(self) -> str:
        """The exact name that executions use; free text."""
        ...

    @property
    def adapter_kind(self) -> str:
        """`subprocess`, `mcp` or `http`."""
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
    def timeout_s(self) -> float:
        """Seconds that one call may take; the run's deadline may leave it less."""
        ...

    @property
    def definition_digest(self) -> str:
        """`sha256:` digest of the adapter's definition, which holds no secrets: an auditor sees which command it was."""
        ...

    def check(self, step: Step) -> None:
        """Raises CallRefused unless this call may be made. Touches nothing outside."""
        ...

    def preflight(self, steps: Sequence[Step]) -> None:
        """Raises CallRefused when these calls cannot be made here and now. Starts and contacts nothing."""
        ...

    def open(self, steps: Sequence[Step], limit: CallLimit) -> AdapterSession:
        """The session for a run of these steps.

        Raises CallRefused when a step cannot be called in it (no such tool, changed tool), CallFailed with the outcome `not_sent` when it
        cannot be opened within `limit`. Then nothing is left running.
        """
        ...
