"""What the tasks of approvals and of executions have in common: whose they are, what they stand for, and the shape that clients see."""

import logging
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

from nexus_attest.server.callers import owner
from nexus_attest.server.results import protocol_error, safe_text
from nexus_attest.server.task_folder import TTL, Ending, Handle
from nexus_attest.server.task_outcomes import Outcome
from nexus_attest.server.tasks import Task
from nexus_control.errors import NexusError

if TYPE_CHECKING:
    from nexus_attest.server.service import Service

__all__ = ["TaskFrame", "new_number"]

_TTL_MS = TTL // timedelta(milliseconds=1)
_NUMBER_BYTES = 16

_log = logging.getLogger("nexus_attest.server")

T = TypeVar("T")


def new_number() -> str:
    """A number for a task that nobody guesses."""
    return secrets.token_hex(_NUMBER_BYTES)


class TaskFrame:
    """Makes and shows the tasks of one service."""

    def __init__(self, service: "Service") -> None:
        self._service = service

    def owner(self) -> str:
        """Whose the tasks of the call under way are. Raises what `callers.owner` raises."""
        return owner(needed=self._service.needs_token)

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do what reads or writes files. Raises MCPError for what the store cannot do at the moment."""
        try:
            return await anyio.to_thread.run_sync(work, *arguments, limiter=self._service.store_threads)
        except NexusError as error:
            raise protocol_error(error.code, error.describe()) from None

    @staticmethod
    def warn(problem: NexusError) -> None:
        """Say in the log that a call goes on without a task."""
        _log.warning("tasks cannot be kept", extra={"facts": {"code": problem.code, "problem": safe_text(str(problem))}})

    def handle(self, kind: Any, decision_id: str, facts: Mapping[str, Any], number: str | None = None) -> Handle:
        """What a new task stands for, made now; `number` names it, and its lock."""
        now = self._service.tools.store.clock()
        return Handle(kind=kind, decision_id=decision_id, created_at=_to_milliseconds(now), number=number or new_number(), facts=facts)

    @staticmethod
    def task(text: str, handle: Handle, poll_ms: int, *, at: datetime | None = None, **facts: Any) -> Task:
        """What a client sees of a task; `at` is when it last changed, if it has since it was made."""
        since = handle.created_at
        return Task(task_id=text, created_at=since, updated_at=at or since, ttl_ms=_TTL_MS, poll_ms=poll_ms, **facts)

    def ended(self, text: str, handle: Handle, poll_ms: int, end: Outcome | Ending) -> Task:
        """A task that is over: with a result, or cancelled."""
        if end.result is None:
            message = "it is not waited for any more; status tells whether it was approved since"
            return self.task(text, handle, poll_ms, at=end.at, status="cancelled", message=message)
        return self.task(text, handle, poll_ms, at=end.at, status="completed", result=end.result)


def _to_milliseconds(time: datetime) -> datetime:
    """As precise as a handle tells it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)
