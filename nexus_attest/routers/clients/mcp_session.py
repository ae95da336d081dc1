"""A session with a downstream MCP server: the one module that uses the client of the SDK (`mcp` 2.x). Imported when a session is opened.

One task owns the session: it enters the client, lists the tools, waits, and leaves, because cancel scopes must be left where they were
entered. Calls come from other tasks. Every way in which the SDK can fail becomes a CallFailed here.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, cast

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.subscriptions import Subscription, SubscriptionLost
from mcp.types import (
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
    Implementation,
    InputRequiredResult,
    RequestParamsMeta,
    TextContent,
    Tool,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from nexus_attest.routers.clients.output_schema import fits
from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_attest.routers.settings import McpSettings
from nexus_control import __version__
from nexus_control.integrity import content_digest, prefixed

__all__ = ["Answer", "Downstream", "Way", "tool_definition"]

for _name in ("client", "mcp"):
    # The SDK logs what servers send, which may hold secrets. Without any configured logging, Python would print that to standard error.
    logging.getLogger(_name).addHandler(logging.NullHandler())

_LOG = logging.getLogger(__name__)

_RESULT: TypeAdapter[CallToolResult | InputRequiredResult] = TypeAdapter(CallToolResult | InputRequiredResult)

_MOST_PAGES = 100
_MOST_DEFINITION_MIB = 16

_CONNECTION_CLOSED = -32000
_REFUSED = frozenset({-32601, -32602, -32020, -32021})
"""JSON-RPC errors that come before any work: unknown method, invalid parameters, header mismatch, missing capability of the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tool answered. `text` is that of all its text blocks."""

    is_error: bool
    text: str
    output: dict[str, Any]


class Way(Protocol):
    """How a server is reached. Used once."""

    problem: str | None
    """Why the connection was given up: OUTPUT_TOO_LARGE or INVALID_OUTPUT; None while it was not, and when the server left."""

    def connect(self) -> AbstractAsyncContextManager[Any]:
        """The transport of a client."""
        ...

    def errors(self) -> str:
        """The end of what the server wrote to its standard error."""
        ...

    def discard(self) -> None:
        """End what was started for a connection, also for one that was never made."""
        ...


class Downstream:
    """One session with one server. Lives in one event loop; only `errors` and the attributes may be used from other threads."""

    def __init__(self, settings: McpSettings, way: Way) -> None:
        self.outcome = CallOutcome.NOT_SENT
        """What is certain about the call under way if it ends now."""
        self.lost = False
        """Whether no more calls can be made in this session."""
        self.definitions: dict[str, dict[str, object]] = {}
        """The definitions of the allowed tools, by name."""
        self.tools_digest = ""
        self.details: dict[str, str] = {}

        self._settings = settings
        self._way = way
        self._client: Client | None = None
        self._changed = False
        self._unannounced = False
        """Whether the server said that its tools may change, and does not tell when."""
        self._failure: CallFailed | None = None
        self._scope: anyio.CancelScope | None = None
        self._settled = asyncio.Event()
        self._leave = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None

    def errors(self) -> str:
        """The end of what the server wrote to its standard error."""
        return self._way.errors()

    async def start(self) -> None:
        """Start the session and list the tools. Raises CallFailed with the outcome `not_sent`. `stop` must follow in any case."""
        self._owner = asyncio.create_task(self._own())
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure
        if self._client is None:
            await self._owner  # raises what was not expected

    async def stop(self) -> None:
        """End the session."""
        if self._owner is not None:
            self._leave.set()
            if self._client is None and self._scope is not None:
                self._scope.cancel()
            await asyncio.wait((self._owner,))
        self._way.discard()

    async def call(self, tool: str, args: Mapping[str, object], meta: dict[str, Any]) -> Answer:
        """Call a tool. Raises CallFailed for everything but an answer of the tool."""
        self.outcome = CallOutcome.NOT_SENT
        client = self._client
        if client is None:
            raise _no_session("it was not started")
        if self._changed or self._unannounced:
            await self._look_again(client)
        self.outcome = CallOutcome.UNKNOWN
        try:
            # Not `session.call_tool`, which would run whatever regular expressions the server put into its schema.
            params = CallToolRequestParams(name=tool, arguments=dict(args), _meta=cast("RequestParamsMeta", meta))
            result = await client.session.send_request(CallToolRequest(params=params), _RESULT)
        except MCPError as problem:
            raise self._call_failure(problem) from None
        except (RuntimeError, ValidationError):  # the SDK's words hold the answer itself
            raise _not_as_declared() from None
        if isinstance(result, InputRequiredResult):
            message = "The server asked for input, and nobody may be asked after the approval"
            raise CallFailed("INPUT_REQUIRED", message, outcome=CallOutcome.FAILED)
        schema = self.definitions.get(tool, {}).get("outputSchema")
        if isinstance(schema, dict) and not result.is_error and not fits(result.structured_content, cast("dict[str, Any]", schema)):
            raise _not_as_declared()
        return _answer(result)

    def require_same(self, former: Mapping[str, Mapping[str, object]]) -> None:
        """Raise CallFailed with TOOL_DEFINITION_CHANGED unless the allowed tools are what they were; nothing was sent."""
        if self.definitions != former:
            message = "The server changed the definitions of its tools during the run"
            raise CallFailed("TOOL_DEFINITION_CHANGED", message, outcome=CallOutcome.NOT_SENT)

    async def _own(self) -> None:
        """The session from its beginning to its end, in one task."""
        try:
            with anyio.CancelScope() as self._scope:
                async with Client(
                    self._way.connect(),
                    cache=None,
                    client_info=Implementation(name="nexus-attest", version=__version__),
                    elicitation_callback=_decline,
                    message_handler=self._heard,
                ) as client:
                    if client.protocol_version in MODERN_PROTOCOL_VERSIONS and _announces(client):
                        await self._listen(client)
                    else:
                        await self._serve(client)
        except (CallFailed, MCPError, ValidationError, httpx2.HTTPError, OSError, RuntimeError, BaseExceptionGroup) as problem:
            self._failure = self._start_failure(problem)
        finally:
            self.lost = True
            self._settled.set()

    async def _serve(self, client: Client) -> None:
        """List the tools, and be there for calls until the end."""
        await self._look(client)
        self.details = _details(client)
        self._client = client
        self._settled.set()
        await self._leave.wait()

    async def _listen(self, client: Client) -> None:
        """`_serve`, with a subscription to changes of the tools, made before they are listed: without one the server tells nothing.

        Where it does not grant one, or ends it, it is asked before each call.
        """
        async with AsyncExitStack() as stack:
            try:
                changes = await stack.enter_async_context(client.listen(tools_list_changed=True))
            except (MCPError, SubscriptionLost):
                self._unannounced = True
            else:
                self._unannounced = not changes.honored.tools_list_changed
                tasks = await stack.enter_async_context(anyio.create_task_group())
                stack.callback(tasks.cancel_scope.cancel)
                tasks.start_soon(self._hear_of, changes)
            await self._serve(client)

    async def _hear_of(self, changes: Subscription) -> None:
        try:
            async for _ in changes:
                self._changed = True
        except SubscriptionLost:
            _LOG.info("an MCP server broke off the subscription to changes of its tools")
        self._unannounced = True

    async def _heard(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._changed = True

    async def _look(self, client: Client) -> None:
        """List the tools, all pages, and keep the definitions of those that may be called."""
        found: dict[str, dict[str, object]] = {}
        size = 0
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                if tool.name in found:
                    raise _no_session("the server lists a tool twice")
                found[tool.name] = tool_definition(tool)
                size += len(tool.model_dump_json())
                if size > _MOST_DEFINITION_MIB * 1024 * 1024:
                    raise _no_session(f"the server describes its tools in more than {_MOST_DEFINITION_MIB} MiB")
            cursor = page.next_cursor
            if cursor is None:
                break
        else:
            raise _no_session("the server's list of tools does not end")
        self.definitions = {name: definition for name, definition in found.items() if _allowed(name, self._settings.allow)}
        try:
            self.tools_digest = prefixed(content_digest([self.definitions[name] for name in sorted(self.definitions)]))
        except (TypeError, ValueError):
            raise _no_session("the server's definitions of tools cannot be hashed") from None

    async def _look_again(self, client: Client) -> None:
        former, self._changed = self.definitions, False
        try:
            await self._look(client)
        except (CallFailed, MCPError, ValidationError):
            self._changed = True
            raise CallFailed(
                "CONNECTION_FAILED", "The server changed its tools and does not list them", outcome=CallOutcome.NOT_SENT
            ) from None
        try:
            self.require_same(former)
        except CallFailed:
            self.definitions, self._changed = former, True
            raise

    def _call_failure(self, problem: MCPError) -> CallFailed:
        if self._way.problem is not None or problem.code == _CONNECTION_CLOSED:
            self.lost = True
            code = self._way.problem or "CONNECTION_LOST"
            return CallFailed(code, _GIVEN_UP.get(code, "The connection to the server was lost"), outcome=CallOutcome.UNKNOWN)
        outcome = CallOutcome.FAILED if problem.code in _REFUSED else CallOutcome.UNKNOWN
        return CallFailed("MCP_ERROR", f"The server answered with error {problem.code}: {problem.message}", outcome=outcome)

    def _start_failure(self, problem: BaseException) -> CallFailed:
        """Why there is no session, in the words of its innermost reason."""
        leaves = list(_leaves(problem))
        for leaf in leaves:
            if isinstance(leaf, CallFailed):
                return CallFailed(leaf.code, str(leaf), outcome=CallOutcome.NOT_SENT)
        if self._way.problem is not None:
            return CallFailed(self._way.problem, _GIVEN_UP[self._way.problem], outcome=CallOutcome.NOT_SENT)
        if isinstance(leaves[0], MCPError) and leaves[0].code != _CONNECTION_CLOSED:
            return _no_session(f"the server answered with error {leaves[0].code}: {leaves[0].message}")
        return _no_session("the server ended or closed the connection" if isinstance(leaves[0], MCPError) else type(leaves[0]).__name__)


_GIVEN_UP = {
    "INVALID_OUTPUT": "The server wrote something that is no message",
    "OUTPUT_TOO_LARGE": "The server wrote a message that is too large, or asked too much without reading the answers",
}


def tool_definition(tool: Tool) -> dict[str, object]:
    """What a tool is: everything about it that a person or a model reads before calling it. This is what is hashed and compared."""
    definition: dict[str, object] = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "outputSchema": tool.output_schema,
        "annotations": None if tool.annotations is None else tool.annotations.model_dump(by_alias=True, exclude_none=True),
    }
    return {key: value for key, value in definition.items() if value is not None}


def _allowed(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern.partition("/")[2]) for pattern in patterns)


def _announces(client: Client) -> bool:
    """Whether the server says that its tools may change while it runs."""
    tools = client.server_capabilities.tools
    return tools is not None and bool(tools.list_changed)


def _details(client: Client) -> dict[str, str]:
    server = client.server_info
    named = {} if server is None else {"server": server.name, "version": server.version}
    return {**named, "protocol": client.protocol_version}


def _answer(result: CallToolResult) -> Answer:
    output: dict[str, Any] = {"content": [block.model_dump(by_alias=True, mode="json", exclude_none=True) for block in result.content]}
    if result.structured_content is not None:
        output["structuredContent"] = result.structured_content
    text = " ".join(block.text for block in result.content if isinstance(block, TextContent))
    return Answer(is_error=bool(result.is_error), text=text, output=output)


async def _decline(context: object, params: object) -> ElicitResult:  # noqa: ARG001 - every question gets the same answer
    """Nobody may be asked after the approval: what people agreed to is the plan."""
    return ElicitResult(action="decline")


def _leaves(problem: BaseException) -> Iterator[BaseException]:
    if isinstance(problem, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", problem).exceptions:
            yield from _leaves(inner)
    else:
        yield problem


def _not_as_declared() -> CallFailed:
    return CallFailed("INVALID_OUTPUT", "The server's answer is not what it declares", outcome=CallOutcome.UNKNOWN)


def _no_session(reason: str) -> CallFailed:
    return CallFailed("CONNECTION_FAILED", f"No session with the MCP server: {reason}", outcome=CallOutcome.NOT_SENT)
