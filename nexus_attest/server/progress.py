"""How far an execution is, from the router's thread to the client that waits for it."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.server import ServerRequestContext

from nexus_control.flight_record import RunEvent

__all__ = ["RunProgress", "follow_run"]

_SECONDS = 1.0

_followed: ContextVar["RunProgress | None"] = ContextVar("_followed", default=None)


@dataclass
class RunProgress:
    """One execution under way. Made in the call's task; the worker thread, which has a copy of its context, finds it there."""

    steps: int | None = None
    begun: int = 0

    def __post_init__(self) -> None:
        _followed.set(self)

    async def report(self, context: ServerRequestContext[Any], adapter_id: str) -> None:
        """Tell the client each second, until cancelled, if it asked for it. The number is seconds: it must grow with every message."""
        seconds = 0
        while True:
            await context.session.report_progress(seconds, message=self.message(adapter_id, seconds))
            await anyio.sleep(_SECONDS)
            seconds += 1

    def message(self, adapter_id: str, seconds: int) -> str:
        """Which step is under way, for people."""
        if not self.begun:
            return f"{adapter_id}: starting"
        return f"{adapter_id}: step {self.begun} of {self.steps}, {seconds} s"


def follow_run(event: RunEvent) -> None:
    """The `watch` of a run engine whose runs are executed by this server."""
    progress = _followed.get()
    if progress is None:
        return
    if event["type"] == "PLAN_CREATED":
        progress.steps = len(event["payload"]["plan"])
    elif event["type"] == "STEP_STARTED":
        progress.begun += 1
