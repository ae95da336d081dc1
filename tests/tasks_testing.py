"""A client that takes tasks, as `mcp` lets one be written: it claims the result type `task`, and has requests of its own."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import anyio
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict

from nexus_attest.server.tasks import EXTENSION

__all__ = ["Tasks", "cancel", "deferred", "finished", "get", "update"]


class CreatedTask(Result):
    """What a call is answered with in the place of a result."""

    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = "task"


class Tasks(ClientExtension):
    """For `Client(extensions=[Tasks()])`."""

    identifier = EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=_never)]


async def _never(_: CreatedTask, context: ClaimContext) -> CallToolResult:
    raise AssertionError(context.tool_name)


class _Params(RequestParams):
    task_id: str
    input_responses: dict[str, Any] | None = None


class _Get(Request[_Params, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    name_param: ClassVar[str | None] = "taskId"


class _Update(Request[_Params, Literal["tasks/update"]]):
    method: Literal["tasks/update"] = "tasks/update"
    name_param: ClassVar[str | None] = "taskId"


class _Cancel(Request[_Params, Literal["tasks/cancel"]]):
    method: Literal["tasks/cancel"] = "tasks/cancel"
    name_param: ClassVar[str | None] = "taskId"


class _Anything(Result):
    model_config = ConfigDict(extra="allow")


def _dumped(result: Result) -> dict[str, Any]:
    found = result.model_dump(by_alias=True, mode="json", exclude_none=True)
    found.get("_meta", {}).pop("io.modelcontextprotocol/serverInfo", None)
    return {name: value for name, value in found.items() if name != "_meta" or value}


async def deferred(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """The task in the place of a call's result."""
    result = await client.session.call_tool(f"nexus-attest.{tool}", arguments, allow_claimed=True)
    assert isinstance(result, CreatedTask), result
    return _dumped(result)


async def get(client: Client, task_id: str) -> dict[str, Any]:
    return _dumped(await client.session.send_request(_Get(params=_Params(task_id=task_id)), _Anything))


async def update(client: Client, task_id: str, responses: Any) -> dict[str, Any]:
    return _dumped(await client.session.send_request(_Update(params=_Params(task_id=task_id, input_responses=responses)), _Anything))


async def cancel(client: Client, task_id: str) -> dict[str, Any]:
    return _dumped(await client.session.send_request(_Cancel(params=_Params(task_id=task_id)), _Anything))


async def finished(client: Client, task_id: str) -> dict[str, Any]:
    """The task when it has ended."""
    with anyio.fail_after(60):
        while (found := await get(client, task_id))["status"] not in ("completed", "failed", "cancelled"):
            await anyio.sleep(0.05)
    return found
