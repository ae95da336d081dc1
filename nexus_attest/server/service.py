"""Tool calls carried out: arguments checked, actor bound, the engine called where it blocks nobody, the result shaped.

Reads that are known to be short, and have to wait for nobody, work in the event loop; what writes or may take longer in worker threads;
executions in threads of their own, so that a run of an hour delays nobody. A call that has begun to write is finished even when its caller
is gone or cancels: cancellation reaches it before it starts, or after it has been committed, never between.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any, Protocol

import anyio
import anyio.to_thread
from mcp.server import ServerRequestContext
from mcp.types import CallToolRequestParams, InputRequiredResult

from nexus_attest.routers import UnknownAdapter
from nexus_attest.server.actors import ActorSource, ArgumentActor, BoundActor, signed_arguments
from nexus_attest.server.callers import is_allowed, require_scope
from nexus_attest.server.claims import announced
from nexus_attest.server.documents import JSON, KINDS
from nexus_attest.server.errors import ApprovalPending, HumanRequired, RouterMissing
from nexus_attest.server.names import NameStyle, spellings
from nexus_attest.server.progress import RunProgress
from nexus_attest.server.registry import TOOLS, ToolSpec
from nexus_attest.server.results import INLINE_LIMIT, compact, digest_of, failure, linked, refusal, success
from nexus_attest.server.schemas import SIGNATURE_SCHEMA, ArgumentCheck
from nexus_control.errors import NexusError, StoreBusy
from nexus_control.tool import NexusControlTools, RouterProtocol, ToolResult

__all__ = ["PROFILES", "Asker", "CallHandler", "Deferral", "Service", "ServiceOptions", "Waiting"]

_STORE_THREADS = 8
_RUNS = 16
_SHORT_SECONDS = 0.005
"""Of processor time: what a read may take in the event loop. Replaying 200 events takes some 3 ms, a plan of 1 MiB a hundred times that."""

_SHORT_CHARACTERS = INLINE_LIMIT // 4
_MOST_SHORT = 4_096

_LONG = {"bundle", "canonical_json", "events", "package", "rendered", "timeline"}
"""Keys of results whose values are in the linked document, or made from it."""

_SHAPING = {"include_template_snapshot", "include_router_link", "embed_router_bundle", "router_bundle", "router_bundle_digest"}
"""Arguments that change the document, and not only how much of it is shown."""

Result = dict[str, Any] | InputRequiredResult

PROFILES: Mapping[str, frozenset[str]] = {"approver": frozenset({"status", "inspect", "approve", "revoke_approval"})}
"""Sets of tools for one kind of work, by the name that an allow-list may use for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """Which tools there are and how they are called. `tools` is an allow-list in any spelling, or of profiles; `read_only` wins over it."""

    tool_names: NameStyle = "dotted"
    extra_tools: bool = False
    read_only: bool = False
    tools: frozenset[str] | None = None

    def selected(self) -> tuple[ToolSpec, ...]:
        """The tools that are listed and may be called, in the order of the table."""
        return tuple(spec for spec in TOOLS if self._offers(spec))

    def unknown(self) -> list[str]:
        """Names of the allow-list that no tool has."""
        known = {name for spec in TOOLS for name in (spec.short, *spellings(spec.short))}
        return sorted((self.tools or frozenset()) - known - PROFILES.keys())

    def _offers(self, spec: ToolSpec) -> bool:
        if self.read_only and not spec.read_only:
            return False
        if self.tools is None:
            return self.extra_tools or not spec.extra
        in_profiles = (profile for name, profile in PROFILES.items() if name in self.tools)
        return not self.tools.isdisjoint((spec.short, *spellings(spec.short))) or any(spec.short in profile for profile in in_profiles)


class Asker(Protocol):
    """Asks a person through the client before an approval is recorded."""

    async def ask(
        self, context: ServerRequestContext[Any], params: CallToolRequestParams, arguments: Mapping[str, Any], who: BoundActor
    ) -> BoundActor | InputRequiredResult:
        """The actor as established by the answer, or the question for the client. Raises a NexusError when there is no yes."""
        ...


class Waiting(Protocol):
    """Answers an approval that a person has to give, and whom the client could not ask in a form."""

    async def waiting(self, context: ServerRequestContext[Any], arguments: Mapping[str, Any], who: BoundActor) -> dict[str, Any] | None:
        """What the client gets, None when it is to be told as ever. Raises a NexusError to refuse the call."""
        ...


class Deferral(Waiting, Protocol):
    """Answers calls that take longer than somebody waits with tasks; None where a call is to be answered as ever."""

    async def executing(
        self, context: ServerRequestContext[Any], arguments: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """The answer of an execution, or a task for it; `answer` executes, in a thread."""
        ...


@dataclass(kw_only=True)
class Service:
    """One store behind the tools. `router` runs what is approved; without one, `execute` is refused.

    `adapters` are the ids that the router knows (None: whatever it says); `stop_runs` asks its runs under way to end. With `needs_token`
    only what the scopes of the caller's token allow is listed and done; with `takes_signatures` acts may bring a signed statement, which
    the trust of `tools` must be able to verify. `task_folder` is where tasks are kept beside the store; without one there are none.
    `approval_card` lets people answer on cards, where clients show them. `build_server` makes `deferral` and `cards` of these.
    """

    tools: NexusControlTools
    router: RouterProtocol | None = None
    adapters: tuple[str, ...] | None = None
    stop_runs: Callable[[], None] = lambda: None
    options: ServiceOptions = field(default_factory=ServiceOptions)
    actors: ActorSource = field(default_factory=ArgumentActor)
    asker: Asker | None = None
    needs_token: bool = False
    takes_signatures: bool = False
    task_folder: Path | None = None
    approval_card: bool = False
    cards: Waiting | None = None
    deferral: Deferral | None = None
    changed: Callable[[], None] = lambda: None
    """Called in the event loop after every call that may have written."""

    def __post_init__(self) -> None:
        self._short: dict[str, None] = {}

    @cached_property
    def handlers(self) -> Mapping[str, "CallHandler"]:
        """What answers a call, by every name that it may use."""
        made = [CallHandler(self, spec) for spec in self.options.selected()]
        return {name: handler for handler in made for name in spellings(handler.spec.short)}

    @cached_property
    def store_threads(self) -> anyio.CapacityLimiter:
        """How many calls may work on the store at once."""
        return anyio.CapacityLimiter(_STORE_THREADS)

    @cached_property
    def run_threads(self) -> anyio.CapacityLimiter:
        """How many executions may be under way at once."""
        return anyio.CapacityLimiter(_RUNS)

    def is_short(self, decision_id: str) -> bool:
        """Whether a decision, when somebody last looked, was one to read in the event loop."""
        return decision_id in self._short

    def note(self, decision_id: str, *, short: bool) -> None:
        """Remember for `is_short` what it was to read a decision. In the event loop."""
        if not short:
            self._short.pop(decision_id, None)
        elif decision_id not in self._short:
            if len(self._short) >= _MOST_SHORT:
                del self._short[next(iter(self._short))]
            self._short[decision_id] = None

    def execute(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Run an approved decision through the router. Raises RouterMissing and UnknownAdapter before anything is written."""
        if self.router is None:
            raise RouterMissing("this server runs nothing: it was started without adapters")
        adapter_id = arguments["adapter_id"]
        if self.adapters is not None and adapter_id not in self.adapters:
            raise UnknownAdapter(f"there is no adapter {adapter_id!r:.200}; there are {', '.join(self.adapters)}")
        return self.tools.execute(**arguments, router=announced(self.router))

    def undivided(self, act: Callable[[], ToolResult]) -> ToolResult:
        """What `act` does, in one transaction with all that it looks at before; nothing is recorded where it fails or raises."""
        try:
            with self.tools.store.transaction():
                result = act()
                if not result.success:  # what has failed in here has undone the whole block
                    raise _Undone(result)
                return result
        except _Undone as undone:
            return undone.result


class _Undone(Exception):
    """Leaves a transaction without a commit."""

    def __init__(self, result: ToolResult) -> None:
        super().__init__()
        self.result = result


class CallHandler:
    """Answers the calls of one tool."""

    def __init__(self, service: Service, spec: ToolSpec) -> None:
        self.spec = spec
        self._service = service
        self._check = ArgumentCheck(self.accepted_schema())
        method: Callable[..., ToolResult] = getattr(service.tools, spec.method)
        self._perform: Callable[[Mapping[str, Any]], ToolResult] = (
            service.execute if spec.short == "execute" else lambda arguments: method(**arguments)
        )

    def accepted_schema(self) -> Mapping[str, Any]:
        """The input schema; `actor` is optional where it comes from elsewhere, `signature` is there where it can be verified."""
        schema = self.spec.input_schema
        if self.spec.records_identity and self._service.takes_signatures:
            schema = {**schema, "properties": {**schema["properties"], "signature": SIGNATURE_SCHEMA}}
        if not self.spec.acts or self._service.actors.needs_argument:
            return schema
        return {**schema, "required": [name for name in schema["required"] if name != "actor"]}

    def is_allowed(self) -> bool:
        """Whether the caller's token, where one is needed, lets it use this tool."""
        return not self._service.needs_token or is_allowed(self.spec.scope)

    async def __call__(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> Result:
        """The answer to a call: a result, an error result, or a question for the client's user."""
        arguments, who = params.arguments or {}, None
        try:
            if self._service.needs_token:
                require_scope(self.spec.scope)
            self._check(arguments)
            if self.spec.acts:
                if arguments.get("signature") is not None:
                    who, arguments = signed_arguments(context, arguments, self.spec.input_schema["properties"])
                else:
                    who = self._service.actors.bind(context, arguments.get("actor"))
                if self.spec.short == "approve" and self._service.asker is not None and who.signature is None:
                    asked = await self._asked(self._service.asker, context, params, arguments, who)
                    if not isinstance(asked, BoundActor):
                        return asked
                    who = asked
                arguments = {**arguments, "actor": who.actor, **(who.identity() if self.spec.records_identity else {})}
        except NexusError as error:
            return refusal(error)
        answer = await self._done(context, arguments, None if who is None else who.unchanged)
        if who is not None and "isError" not in answer:
            who.recorded()
        return answer

    async def _asked(
        self,
        asker: Asker,
        context: ServerRequestContext[Any],
        params: CallToolRequestParams,
        arguments: Mapping[str, Any],
        who: BoundActor,
    ) -> BoundActor | Result:
        """Who approves, as a person confirmed it; the question, or a card or a task where nobody can be asked now."""
        try:
            return await asker.ask(context, params, arguments, who)
        except (HumanRequired, ApprovalPending):
            for channel in (self._service.cards, self._service.deferral):
                if channel is not None and (found := await channel.waiting(context, arguments, who)) is not None:
                    return found
            raise

    async def _done(
        self, context: ServerRequestContext[Any], arguments: Mapping[str, Any], unchanged: Callable[[], None] | None
    ) -> dict[str, Any]:
        if self.spec.place == "run":
            return await self._run(context, arguments)
        if self.spec.place == "loop":
            return await self._read(arguments)
        try:
            return await anyio.to_thread.run_sync(self._answer, arguments, unchanged, limiter=self._service.store_threads)
        finally:
            if not self.spec.read_only:
                self._service.changed()

    async def _read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of a read, made in the event loop where that is known to be short, and waits for nobody."""
        began, answer = perf_counter(), None
        if self._service.is_short(arguments["request_id"]):
            answer = self._at_once(arguments)
        # To ask for processor time is a system call. A read that was interrupted here is measured by it the next time, in a thread.
        seconds = perf_counter() - began
        if answer is None:
            answer, seconds = await anyio.to_thread.run_sync(self._measured, arguments, limiter=self._service.store_threads)
        self._service.note(arguments["request_id"], short=seconds <= _SHORT_SECONDS and _is_small(answer))
        return answer

    def _at_once(self, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer of a read that is short; None where it is not after all, or would have to wait for somebody. In the event loop."""
        block = self._service.tools.store.at_once()
        if block is None:
            return None
        with block:
            result = self._perform(arguments)
        if not result.success:
            return None if result.code == StoreBusy.code else failure(result.code or NexusError.code, result.error or "")
        text = compact(result.data)
        return success(result.data, text) if len(text) <= _SHORT_CHARACTERS else None

    def _measured(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """The answer, and the processor time that it took: of this thread, so that it says the same on a busy machine."""
        began = thread_time()
        return self._answer(arguments), thread_time() - began

    async def _run(self, context: ServerRequestContext[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """An execution, with a sign of life each second for a client that wants progress, unless it takes a task."""
        deferral = self._service.deferral
        if deferral is not None and (deferred := await deferral.executing(context, arguments, self._answer)) is not None:
            return deferred
        answers: list[dict[str, Any]] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(RunProgress().report, context, arguments["adapter_id"])
            try:
                answers.append(await anyio.to_thread.run_sync(self._answer, arguments, limiter=self._service.run_threads))
            finally:
                tasks.cancel_scope.cancel()
                self._service.changed()
        return answers[0]

    def _answer(self, arguments: Mapping[str, Any], unchanged: Callable[[], None] | None = None) -> dict[str, Any]:
        """The engine's result on the wire. In a thread for tools that work there.

        `unchanged` is called before, with nothing committed between it and the act.
        """

        def act() -> ToolResult:
            if unchanged is not None:
                unchanged()
            return self._perform(arguments)

        try:
            result = act() if unchanged is None else self._service.undivided(act)
        except NexusError as error:
            return refusal(error)
        if not result.success:
            return failure(result.code or NexusError.code, result.error or "")
        text = compact(result.data)
        if len(text) <= _SHORT_CHARACTERS or len(text.encode()) <= INLINE_LIMIT:
            return success(result.data, text)
        return self._shortened(arguments, result.data) or success(result.data, text)

    def _shortened(self, arguments: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any] | None:
        """A large result with a link in the place of its document; None where no resource holds the same document."""
        spec = self.spec
        properties = spec.input_schema["properties"]
        if spec.document is None or any(arguments[name] != properties[name].get("default") for name in arguments.keys() & _SHAPING):
            return None
        kind = KINDS[spec.document]
        decision_id = arguments[spec.input_schema["required"][0]]
        text = kind.read(self._service.tools, decision_id)
        resource = {"uri": kind.uri(decision_id), "mime_type": JSON, "size": len(text.encode()), "digest": digest_of(text)}
        return linked({key: value for key, value in data.items() if key not in _LONG}, resource, kind.name)


def _is_small(answer: Mapping[str, Any]) -> bool:
    """Whether a successful answer has its whole result in it, and little of that."""
    blocks = answer["content"]
    return "structuredContent" in answer and len(blocks) == 1 and len(blocks[0]["text"]) <= _SHORT_CHARACTERS
