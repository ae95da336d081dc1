"""The last rung: what happens to every message, whatever its handler does. A bug is logged whole and told by its number only."""

import logging
import secrets
from typing import Any

import anyio
from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.server.context import CallNext, HandlerResult
from mcp.types import INTERNAL_ERROR
from pydantic import ValidationError

from nexus_attest.server.client_logs import ClientLogs
from nexus_attest.server.logs import bounded, current_request
from nexus_attest.server.results import ERROR_KEY

__all__ = ["Guard"]

_log = logging.getLogger("nexus_attest.server")


class Guard:
    """Logs each request with its id, its duration and its outcome; keeps the texts of unforeseen exceptions off the wire."""

    def __init__(self, client_logs: ClientLogs) -> None:
        self._client_logs = client_logs

    async def __call__(self, ctx: ServerRequestContext[Any], call_next: CallNext) -> HandlerResult:
        """Middleware of the SDK's server."""
        outer = current_request.set(ctx.request_id)
        try:
            return await self._logged(ctx, call_next)
        finally:
            current_request.reset(outer)

    async def _logged(self, context: ServerRequestContext[Any], call_next: CallNext) -> HandlerResult:
        if context.request_id is None or not (_log.isEnabledFor(logging.INFO) or self._client_logs.wants(context, "emergency")):
            return await self._guarded(context, call_next)
        began = anyio.current_time()
        outcome, code = "cancelled", None
        facts: dict[str, Any] = {}
        try:
            result = await self._guarded(context, call_next)
            outcome, code = _outcome(result)
        except MCPError as error:
            outcome, code = "refused", error.error.code
            raise
        except ValidationError:
            outcome = "malformed"
            raise
        finally:
            facts = _facts(context, anyio.current_time() - began, outcome, code)
            _log.info("request", extra={"facts": facts})
        await self._client_logs.tell(context, "info" if outcome == "ok" else "warning", facts)
        return result

    async def _guarded(self, context: ServerRequestContext[Any], call_next: CallNext) -> HandlerResult:
        try:
            return await call_next(context)
        except (MCPError, ValidationError):
            raise
        except Exception as error:  # a bug: known here for the last time
            number = secrets.token_hex(4)
            _log.exception("bug %s", number, extra={"facts": {"bug": number, "method": context.method}})
            raise MCPError(INTERNAL_ERROR, f"Internal error {number}; the server's log says where") from error


def _facts(context: ServerRequestContext[Any], seconds: float, outcome: str, code: str | int | None) -> dict[str, Any]:
    facts = {
        "method": context.method,
        "request_id": context.request_id,
        "tool": _tool(context),
        "ms": round(seconds * 1000, 3),
        "outcome": outcome,
        "code": code,
    }
    return {key: bounded(value) for key, value in facts.items() if value is not None}


def _outcome(result: HandlerResult) -> tuple[str, str | None]:
    match result:
        case {"isError": True, "_meta": {**meta}}:
            return "error", meta.get(ERROR_KEY, {}).get("code")
        case _:
            return "ok", None


def _tool(context: ServerRequestContext[Any]) -> str | None:
    name = (context.params or {}).get("name")
    return name[:200] if isinstance(name, str) else None
