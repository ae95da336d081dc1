"""Tells subscribers when a decision changes, whoever changed it: this server, the command line, another process on the same store.

While somebody watches, the store is asked twice a second how long each watched decision's history is, and at once after a call of ours
that may have written. Without subscribers nothing is asked. How much can be watched is bounded, a store that cannot be read for a while
is asked again, and a subscriber that takes no messages delays the others once.
"""

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp.types import (
    INVALID_PARAMS,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from nexus_attest.server.documents import parse_uri
from nexus_attest.server.results import protocol_error, safe_text
from nexus_attest.server.service import Service
from nexus_control.errors import NexusError

__all__ = ["Watch"]

_SECONDS = 0.5
_MOST_SUBSCRIPTIONS = 1_024
_MOST_URIS = 1_024
"""Of one stream."""

_MOST_WATCHED = 10_000
"""Decisions, for all subscribers; to ask for so many takes some 50 ms."""

_DELIVERY_SECONDS = 1.0

_log = logging.getLogger("nexus_attest.server")

Tip = tuple[int, int]
"""Generation and number of events: moves forward with every change of a decision."""


class Watch:
    """The subscriptions of one server, in both eras: `subscriptions/listen` of 2026-07-28, `resources/subscribe` before."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bus = InMemorySubscriptionBus()
        self._listener = ListenHandler(self._bus, max_subscriptions=_MOST_SUBSCRIPTIONS)
        self._uris: dict[str, Counter[str]] = {}
        self._tips: dict[str, Tip | None] = {}
        self._list_watchers = 0
        self._newest: str | None = None
        self._sessions: dict[tuple[int, str], ServerSession] = {}
        self._wakes: set[anyio.Event] = set()  # one for each time that this server is being run
        service.changed = self.look_now

    def look_now(self) -> None:
        """Do not wait for the next turn: something was written, or somebody began to watch."""
        for wake in self._wakes:
            wake.set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Watches while the block is open."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            yield
            self._listener.close()
            tasks.cancel_scope.cancel()

    async def listen(self, context: ServerRequestContext[Any], params: SubscriptionsListenRequestParams) -> SubscriptionsListenResult:
        """One stream of changes, until the client leaves."""
        wanted = params.notifications
        uris = list(wanted.resource_subscriptions or ())
        lists = bool(wanted.resources_list_changed)
        self._make_room(uris)
        try:
            await self._begin(uris, lists=lists)
            return await self._listener(context, params)
        finally:
            self._end(uris, lists=lists)

    async def subscribe(self, context: ServerRequestContext[Any], params: SubscribeRequestParams) -> EmptyResult:
        """The handshake era's way: updates of one resource, on the connection, until it ends."""
        # The SDK names no other handle on what lasts from request to request, and ends with the connection.
        connection = context.session._connection  # pyright: ignore[reportPrivateUsage]
        key = (id(connection), params.uri)
        if parse_uri(params.uri) is None:
            raise MCPError(INVALID_PARAMS, f"Unknown resource: {safe_text(params.uri)[:200]}")
        if key not in self._sessions:
            if len(self._sessions) >= _MOST_SUBSCRIPTIONS:
                raise MCPError(INVALID_PARAMS, "Too many subscriptions")
            self._make_room([params.uri])
            self._sessions[key] = context.session
            connection.exit_stack.callback(self._forget, key)
            try:
                await self._begin([params.uri], lists=False)
            except BaseException:
                self._forget(key)
                raise
        return EmptyResult()

    async def unsubscribe(self, context: ServerRequestContext[Any], params: UnsubscribeRequestParams) -> EmptyResult:
        """Ends what `subscribe` began; nothing happens when there is nothing to end."""
        self._forget((id(context.session._connection), params.uri))  # pyright: ignore[reportPrivateUsage]
        return EmptyResult()

    def _forget(self, key: tuple[int, str]) -> None:
        if self._sessions.pop(key, None) is not None:
            self._end([key[1]], lists=False)

    def _make_room(self, uris: list[str]) -> None:
        """Refuse what would be too much to ask the store for twice a second."""
        if len(uris) > _MOST_URIS or len(self._uris) + len(uris) > _MOST_WATCHED:
            raise MCPError(INVALID_PARAMS, "Too many subscriptions")

    async def _begin(self, uris: list[str], *, lists: bool) -> None:
        """Count somebody in, which `_end` takes back, also when this fails. What happens from here on will be told."""
        self._list_watchers += lists
        for uri in uris:
            if (found := parse_uri(uri)) is not None and found[0].variable == "decision_id":
                self._uris.setdefault(found[1], Counter())[uri] += 1
        unknown = [decision_id for decision_id in self._uris if decision_id not in self._tips]
        if unknown or lists:
            try:
                tips, newest = await self._read(unknown)
            except NexusError as error:
                raise protocol_error(error.code, error.describe()) from None
            known = {decision_id: tip for decision_id, tip in tips.items() if decision_id in self._uris}  # and not left meanwhile
            self._tips = {**known, **self._tips}
            self._newest = self._newest if self._list_watchers > 1 else newest
        self.look_now()

    def _end(self, uris: list[str], *, lists: bool) -> None:
        self._list_watchers -= lists
        for uri in uris:
            found = parse_uri(uri)
            if found is not None and (counted := self._uris.get(found[1])) is not None:
                counted[uri] -= 1
                if counted[uri] <= 0:
                    del counted[uri]
                if not counted:
                    del self._uris[found[1]]
                    self._tips.pop(found[1], None)

    async def _run(self) -> None:
        wake = anyio.Event()
        failed = False
        try:
            while True:
                self._wakes.add(wake)
                with anyio.move_on_after(_SECONDS if self._watched else None):
                    await wake.wait()
                self._wakes.remove(wake)
                wake = anyio.Event()
                if not self._watched:
                    continue
                try:
                    await self._look()
                    failed = False
                except (NexusError, RuntimeError) as error:  # a store that is locked, or being replaced; a system without more threads
                    if not failed:
                        code = error.code if isinstance(error, NexusError) else type(error).__name__
                        _log.warning("subscribers cannot be told of changes", extra={"facts": {"code": code, "problem": str(error)}})
                    failed = True
        finally:
            self._wakes.discard(wake)

    @property
    def _watched(self) -> bool:
        return bool(self._uris or self._list_watchers)

    async def _look(self) -> None:
        tips, newest = await self._read(list(self._uris))
        for decision_id, tip in tips.items():
            if decision_id in self._tips and self._tips[decision_id] != tip:
                self._tips[decision_id] = tip
                for uri in list(self._uris.get(decision_id, ())):
                    await self._publish(uri)
        if newest != self._newest:
            self._newest = newest
            if self._list_watchers:
                await self._bus.publish(ResourcesListChanged())

    async def _publish(self, uri: str) -> None:
        await self._bus.publish(ResourceUpdated(uri=uri))
        for key, session in list(self._sessions.items()):
            if key[1] == uri and not await self._delivered(session, uri):
                self._forget(key)

    async def _delivered(self, session: ServerSession, uri: str) -> bool:
        """Whether a subscriber of the handshake era could be told."""
        with anyio.move_on_after(_DELIVERY_SECONDS) as attempt:
            try:
                await session.send_resource_updated(uri)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return False
        return not attempt.cancelled_caught

    async def _read(self, decision_ids: list[str]) -> tuple[dict[str, Tip | None], str | None]:
        store = self._service.tools.store

        def read() -> tuple[dict[str, Tip | None], str | None]:
            tips: dict[str, Tip | None] = {}
            for decision_id in decision_ids:
                last = store.list_generations(decision_id)[-1:]
                tips[decision_id] = (last[0]["generation"], last[0]["event_count"]) if last else None
            page = store.decision_page(1, 0)
            return tips, page[0][0] if page else None

        return await anyio.to_thread.run_sync(read, limiter=self._service.store_threads)
