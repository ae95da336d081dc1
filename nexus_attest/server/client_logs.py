"""What a client hears of the log about its own requests, through the protocol, when it asks for that.

On a connection of the handshake era it asks with `logging/setLevel`, and hears nothing before; in the stateless era each request asks in
its `_meta`. There is one message for each request that was answered, before the answer and on the same stream: method, tool, duration,
outcome. The protocol deprecates this since 2026-07-28; what operators read is standard error (`nexus_attest.server.logs`).
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_args

import anyio
from mcp.server import ServerRequestContext
from mcp.server.connection import allowed_log_levels
from mcp.types import EmptyResult, LoggingLevel, LoggingMessageNotification, LoggingMessageNotificationParams, SetLevelRequestParams
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

__all__ = ["ClientLogs"]

_LEVELS: tuple[LoggingLevel, ...] = get_args(LoggingLevel)
"""From the least to the most severe."""


class ClientLogs:
    """The levels that connections asked for."""

    def __init__(self) -> None:
        self._levels: dict[int, LoggingLevel] = {}

    async def set_level(self, context: ServerRequestContext[Any], params: SetLevelRequestParams) -> EmptyResult:
        """`logging/setLevel`: messages of this level and above, until the connection ends."""
        connection = context.session._connection  # pyright: ignore[reportPrivateUsage] - the SDK names no other handle on what lasts
        if id(connection) not in self._levels:
            connection.exit_stack.callback(self._levels.pop, id(connection), None)
        self._levels[id(connection)] = params.level
        return EmptyResult()

    def wants(self, context: ServerRequestContext[Any], level: LoggingLevel) -> bool:
        """Whether whoever made this request asked for messages of this level."""
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return level in allowed_log_levels(context.protocol_version, context.meta)
        chosen = self._levels.get(id(context.session._connection)) if self._levels else None  # pyright: ignore[reportPrivateUsage]
        return chosen is not None and _LEVELS.index(level) >= _LEVELS.index(chosen)

    async def tell(self, context: ServerRequestContext[Any], level: LoggingLevel, facts: Mapping[str, Any]) -> None:
        """Send one message to whoever made this request, if it was asked for."""
        if not self.wants(context, level):
            return
        params = LoggingMessageNotificationParams(level=level, logger="nexus_attest.server", data=dict(facts))
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # whose answer cannot be delivered either
            await context.session.send_notification(LoggingMessageNotification(params=params), context.request_id)
