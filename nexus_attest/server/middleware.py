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

from nexus_attest.server.results import ERROR_KEY

__all__ = ["Guard"]

_log = logging.getLogger("nexus_attest.server")


class Guard:
    """Logs each request with its id, its duration and its outcome; keeps the texts of unforeseen exceptions off the wire."""

    async def __call__(self, ctx: ServerRequestContext[Any], call_next: CallNext) -> HandlerResult:
        """Middleware of the SDK's server."""
        context = ctx  # the SDK's name of the parameter, which it demands
        if context.request_id is None or not _log.isEnabledFor(logging.INFO):
            return await self._guarded(context, call_next)
        began = anyio.current_time()
        outcome, code = "cancelled", None
        try:
            result = await self._guarded(context, call_next)
            outcome, code = _outcome(result)
            return result
        except MCPError as error:
            outcome, code = "refused", error.error.code
            raise
        except ValidationError:
            outcome = "malformed"
            raise
        finally:
            facts = {
                "method": context.method,
                "request_id": context.request_id,
                "tool": _tool(context),
                "ms": round((anyio.current_time() - began) * 1000, 3),
                "outcome": outcome,
                "code": code,
            }
            _log.info("request", extra={"facts": {key: value for key, value in facts.items() if value is not None}})

    async def _guarded(self, context: ServerRequestContext[Any], call_next: CallNext) -> HandlerResult:
        try:
            return await call_next(context)
        except (MCPError, ValidationError):
            raise
        except Exception as error:  # a bug: known here for the last time
            number = secrets.token_hex(4)
            _log.exception("bug %s", number, extra={"facts": {"bug": number, "request_id": context.request_id, "method": context.method}})
            raise MCPError(INTERNAL_ERROR, f"Internal error {number}; the server's log says where") from error


def _outcome(result: HandlerResult) -> tuple[str, str | None]:
    match result:
        case {"isError": True, "_meta": {**meta}}:
            return "error", meta.get(ERROR_KEY, {}).get("code")
        case _:
            return "ok", None


def _tool(context: ServerRequestContext[Any]) -> str | None:
    name = (context.params or {}).get("name")
    return name[:200] if isinstance(name, str) else None
