"""The tasks extension of the protocol, `io.modelcontextprotocol/tasks` (SEP-2663): a call that is answered later, by a handle.

A client that declared the extension may get a task in the place of a result, and asks for it with `tasks/get` until it has ended. The
extension belongs to the stateless era: a client of the handshake era never gets a task, and these methods do not exist for it. What tasks
there are, and what they mean, is a `TaskSource`'s matter; this module is what they look like on the wire.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, cast

from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp.types import HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY, RequestParams
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, StrictStr
from starlette.requests import Request

__all__ = ["EXTENSION", "Task", "TaskSource", "offer_tasks", "require_tasks", "takes_tasks"]

EXTENSION = "io.modelcontextprotocol/tasks"

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]

_MOST_ID_CHARACTERS = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as it stands.

    `result` of a completed one is what the call would have returned, an error result included; `error` of a failed one is a JSON-RPC error
    object; `input_requests` of one that waits for input are requests by key. `ttl_ms` counts from `created_at`; None is for good.
    """

    task_id: str
    status: TaskStatus
    created_at: datetime
    updated_at: datetime
    ttl_ms: int | None
    poll_ms: int
    message: str | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    input_requests: Mapping[str, Any] | None = None
    meta: Mapping[str, Any] | None = None

    def created(self) -> dict[str, Any]:
        """What `tools/call` answers in the place of a result."""
        return {"resultType": "task", **self._base()}

    def detailed(self) -> dict[str, Any]:
        """What `tasks/get` answers."""
        members = {"result": self.result, "error": self.error, "inputRequests": self.input_requests}
        return {"resultType": "complete", **self._base(), **{name: value for name, value in members.items() if value is not None}}

    def _base(self) -> dict[str, Any]:
        more = {"statusMessage": self.message, "_meta": self.meta}
        return {
            "taskId": self.task_id,
            "status": self.status,
            "createdAt": self.created_at.isoformat(),
            "lastUpdatedAt": self.updated_at.isoformat(),
            "ttlMs": self.ttl_ms,
            "pollIntervalMs": self.poll_ms,
            **{name: value for name, value in more.items() if value is not None},
        }


class TaskSource(Protocol):
    """The tasks that a server has. A task that does not exist for this caller is None, or False, whatever the reason."""

    async def get(self, context: ServerRequestContext[Any], task_id: str, /) -> Task | None:
        """The task as it stands."""
        ...

    async def update(self, context: ServerRequestContext[Any], task_id: str, responses: Mapping[str, Any], /) -> bool:
        """Take answers to input requests by their keys. Raises MCPError for those that are not taken, so that none gets lost in silence."""
        ...

    async def cancel(self, context: ServerRequestContext[Any], task_id: str, /) -> bool:
        """Take notice that the caller wants no more of it; one that has ended, or that cannot be stopped, stays what it is."""
        ...


class _TaskParams(RequestParams):
    task_id: StrictStr


class _UpdateParams(_TaskParams):
    input_responses: dict[str, Any]


def takes_tasks(context: ServerRequestContext[Any]) -> bool:
    """Whether whoever made this request declared the extension, in an era that has it."""
    capabilities = context.session.client_capabilities
    declared = None if capabilities is None else capabilities.extensions
    return context.protocol_version in MODERN_PROTOCOL_VERSIONS and EXTENSION in (declared or {})


def require_tasks(context: ServerRequestContext[Any]) -> None:
    """Raise MCPError -32021, which names the extension, unless `takes_tasks`."""
    if not takes_tasks(context):
        needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, f"The client did not declare {EXTENSION}, which this needs", needed)


def offer_tasks(server: Server[Any], source: TaskSource) -> None:
    """Announce the extension and answer its methods."""

    async def get(context: ServerRequestContext[Any], params: _TaskParams) -> dict[str, Any]:
        _check(context, params)
        task = await source.get(context, params.task_id)
        if task is None:
            raise _unknown()
        return task.detailed()

    async def update(context: ServerRequestContext[Any], params: _UpdateParams) -> dict[str, Any]:
        _check(context, params)
        if not await source.update(context, params.task_id, params.input_responses):
            raise _unknown()
        return {"resultType": "complete"}

    async def cancel(context: ServerRequestContext[Any], params: _TaskParams) -> dict[str, Any]:
        _check(context, params)
        if not await source.cancel(context, params.task_id):
            raise _unknown()
        return {"resultType": "complete"}

    server.extensions[EXTENSION] = {}
    for method, model, handler in (
        ("tasks/get", _TaskParams, get),
        ("tasks/update", _UpdateParams, update),
        ("tasks/cancel", _TaskParams, cancel),
    ):
        server.add_request_handler(method, cast("type[BaseModel]", model), cast("Any", handler))


def _check(context: ServerRequestContext[Any], params: _TaskParams) -> None:
    """Refuse what the extension does not allow, before anything is looked for."""
    if context.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(METHOD_NOT_FOUND, "Method not found", context.method)
    require_tasks(context)
    # Over HTTP the id is in a header too, for whoever routes by it (SEP-2243); routing by one id and acting on another must not be.
    request: object = context.request
    if isinstance(request, Request) and decode_header_value(request.headers.get(MCP_NAME_HEADER)) != params.task_id:
        raise MCPError(HEADER_MISMATCH, f"{MCP_NAME_HEADER} header does not match the request body's 'taskId' parameter")
    if len(params.task_id) > _MOST_ID_CHARACTERS:
        raise _unknown()


def _unknown() -> MCPError:
    """Without the id: what was guessed, is somebody else's, or was forgotten is the same."""
    return MCPError(INVALID_PARAMS, "Unknown task")
