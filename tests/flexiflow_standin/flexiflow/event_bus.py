"""Subscriptions by event name."""

from collections.abc import Awaitable, Callable
from typing import Any

Handler = Callable[[Any], Awaitable[Any]]


class EventBus:
    def __init__(self) -> None:
        self._handlers: dict[str, list[tuple[int, str, Handler]]] = {}

    async def subscribe(self, event: str, component_name: str, handler: Handler, priority: int = 3) -> tuple[str, Handler]:
        self._handlers.setdefault(event, []).append((priority, component_name, handler))
        self._handlers[event].sort(key=lambda found: found[0])
        return event, handler

    async def publish(self, event: str, data: Any, *, on_error: str = "continue") -> None:
        """What handlers return is dropped."""
        for _, name, handler in list(self._handlers.get(event, [])):
            try:
                await handler(data)
            except Exception as problem:
                if on_error == "raise":
                    raise
                if event != "event.handler.failed":
                    told = {"event_name": event, "component_name": name, "exception": problem}
                    await self.publish("event.handler.failed", told)
