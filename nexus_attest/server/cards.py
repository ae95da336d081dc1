"""Approvals on a card: a small document that hosts with the extension MCP Apps, `io.modelcontextprotocol/ui`, show beside a tool's result.

Only where the operator wants it: a card answers by a tool call of the same client, which no server can tell from a call of its model.
What stands between them is a ticket in `_meta` of the result, which hosts give to the card and, by their convention, not to the model,
and a tool that they are told to keep from it. So an answer proves that the client's process gave it, as elicitation does, and had what only
the card should get. The event says `app`, with the digest of what the card showed; its assurance is that of any call of this client.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.types import INVALID_PARAMS, CallToolRequestParams, ReadResourceResult, TextResourceContents, Tool, ToolAnnotations

from nexus_attest.server.actors import BoundActor
from nexus_attest.server.callers import owner, require_scope
from nexus_attest.server.card_page import CARD_HTML
from nexus_attest.server.discretion import FAULTS
from nexus_attest.server.errors import HumanDeclined, HumanRequired
from nexus_attest.server.humans import HumanAsker, client_name, confirmed, shows_forms
from nexus_attest.server.names import canonical_name, listed_name, spellings
from nexus_attest.server.outputs import OUTPUTS
from nexus_attest.server.results import CANONICAL_KEY, ERROR_KEY, compact, failure, refusal, success
from nexus_attest.server.schemas import ArgumentCheck
from nexus_control.decision import Decision
from nexus_control.errors import ActionChanged, InvalidPlan, NexusError, PlanNotExecutable
from nexus_control.events import EventType
from nexus_control.integrity import content_digest
from nexus_control.markdown import printable
from nexus_control.plan import parse_plan
from nexus_control.tool import ToolResult

if TYPE_CHECKING:
    from nexus_attest.server.service import Service

__all__ = ["CARD_KEY", "CARD_URI", "EXTENSION", "ApprovalCards", "takes_cards"]

EXTENSION = "io.modelcontextprotocol/ui"
CARD_URI = "ui://nexus-attest/approval.html"
CARD_KEY = "io.github.nexus-attest/card"
"""Key in `_meta` of a result: `title`, `facts` (pairs of texts), `tool` and `ticket`, with which the card answers."""

OPEN_SECONDS = 600.0

_MIME_TYPE = "text/html;profile=mcp-app"
_SHORT = "answer_approval"
_MOST_OPEN = 256
_MOST_STEPS = 20
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"ticket": {"type": "string", "maxLength": 64}, "approve": {"type": "boolean"}},
    "required": ["ticket", "approve"],
    "additionalProperties": False,
}


@dataclass(kw_only=True)
class _Ticket:
    """What one card asks. `state` says exactly what an answer is good for; `no` is a refusal that the model was not told of yet."""

    owner: str
    state: str
    arguments: Mapping[str, Any]
    until: float
    no: bool = False


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a card shows, as lines, and what an answer to it is good for."""

    facts: Sequence[tuple[str, str]]
    text: str
    state: str


def takes_cards(context: ServerRequestContext[Any]) -> bool:
    """Whether the client declared that it shows documents of this kind."""
    capabilities = context.session.client_capabilities
    declared = None if capabilities is None else (capabilities.extensions or {}).get(EXTENSION)
    kinds = None if declared is None else declared.get("mimeTypes")
    return isinstance(kinds, list) and _MIME_TYPE in kinds


class ApprovalCards:
    """The cards of one service whose approvals are confirmed by people. What is open is in memory: after a restart it is asked again."""

    def __init__(self, service: "Service", asker: HumanAsker, *, seconds: float = OPEN_SECONDS) -> None:
        self._service = service
        self._asker = asker
        self._seconds = seconds
        self._tickets: dict[str, _Ticket] = {}
        self._check = ArgumentCheck(_SCHEMA)
        self.names = frozenset(spellings(_SHORT))

    # -- what such clients get to see ---------------------------------------------------------------------------------------------

    def listed(self, tools: Sequence[Tool]) -> list[Tool]:
        """The tools for a client that shows cards: `approve` is linked to the card, and there is one more, for the card alone."""
        link = {"ui": {"resourceUri": CARD_URI, "visibility": ["model", "app"]}, "ui/resourceUri": CARD_URI}
        approve = canonical_name("approve")
        found = [
            tool.model_copy(update={"meta": {**(tool.meta or {}), **link}}) if (tool.meta or {}).get(CANONICAL_KEY) == approve else tool
            for tool in tools
        ]
        if all(new is old for new, old in zip(found, tools, strict=True)):
            return found  # the caller may not approve
        return [*found, self._answer_tool()]

    def _answer_tool(self) -> Tool:
        return Tool(
            name=listed_name(_SHORT, self._service.options.tool_names),
            title="Answer on the card",
            description="For the approval card alone: what the user answered there.",
            input_schema=dict(_SCHEMA),
            output_schema=dict(OUTPUTS["approve"]),
            annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False),
            _meta={"ui": {"visibility": ["app"]}, CANONICAL_KEY: canonical_name(_SHORT)},
        )

    @staticmethod
    def document() -> ReadResourceResult:
        """The card. It asks for no origins and no powers."""
        content = TextResourceContents(uri=CARD_URI, mime_type=_MIME_TYPE, text=CARD_HTML, _meta={"ui": {"csp": {}, "prefersBorder": True}})
        return ReadResourceResult(contents=[content])

    # -- asking and answering -----------------------------------------------------------------------------------------------------

    async def waiting(self, context: ServerRequestContext[Any], arguments: Mapping[str, Any], who: BoundActor) -> dict[str, Any] | None:
        """The refusal of an approval that a person has to give, with a card for it; None for a client that shows none, or forms.

        Raises HumanDeclined, once, after somebody said no on the card, and what an approval would raise.
        """
        if not takes_cards(context) or shows_forms(context):
            return None
        shown = await self._shown(arguments, who)
        mine = owner(needed=self._service.needs_token)
        found = self._ticket(shown.state, mine, arguments)
        if found is None:
            return None
        name, ticket = found
        if ticket.no:
            del self._tickets[name]
            raise HumanDeclined(f"{who.actor.id} was asked and did not approve")
        problem = f"{who.actor.id} can answer on the card that is shown with this result, or run"
        told = refusal(HumanRequired(problem, self._asker.command(arguments, who)))
        tool = listed_name(_SHORT, self._service.options.tool_names)
        card = {"title": shown.facts[0][1], "facts": [list(fact) for fact in shown.facts[1:]], "tool": tool, "ticket": name}
        return {**told, "_meta": {**told["_meta"], CARD_KEY: card}}

    async def answer(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> dict[str, Any]:
        """The approval's result, or an error result, for the card. Raises MCPError -32602 for what is no open ticket of this caller's."""
        arguments = params.arguments or {}
        try:
            if self._service.needs_token:
                require_scope("approve")
            self._check(arguments)
            self._forget()
            ticket = self._tickets.get(arguments["ticket"])
            if ticket is None or ticket.no or ticket.owner != owner(needed=self._service.needs_token):
                raise MCPError(INVALID_PARAMS, "This card was answered, or is out of date: ask for the approval again")
        except NexusError as error:
            return refusal(error)
        del self._tickets[arguments["ticket"]]  # one ticket, one answer
        answered = False
        try:
            result = await self._answered(context, ticket, yes=arguments["approve"])
            answered = not ticket.no and _code(result) not in FAULTS
        finally:
            if not answered:  # what was not recorded can be said again, and a refusal has yet to be told
                self._tickets[arguments["ticket"]] = ticket
        return result

    async def _answered(self, context: ServerRequestContext[Any], ticket: _Ticket, *, yes: bool) -> dict[str, Any]:
        """What comes of an answer to a question, if it is still the one that was shown."""
        try:
            who = self._service.actors.bind(context, ticket.arguments.get("actor"))
            if not yes:
                await anyio.to_thread.run_sync(self._unchanged, ticket, who, limiter=self._service.store_threads)
                ticket.no = True
                raise HumanDeclined(f"{who.actor.id} was asked and did not approve")
            approve = partial(self._approve, ticket, who, f"app {client_name(context)}")
            try:
                result = await anyio.to_thread.run_sync(self._service.undivided, approve, limiter=self._service.store_threads)
            finally:
                self._service.changed()
        except NexusError as error:
            return refusal(error)
        return success(result.data, compact(result.data)) if result.success else failure(result.code or "", result.error or "")

    def _unchanged(self, ticket: _Ticket, who: BoundActor) -> _Shown:
        """What the card shows. Raises ActionChanged when that is not what it showed."""
        shown = self._facts(ticket.arguments, who)
        if shown.state != ticket.state:
            raise ActionChanged("what is asked was changed since the card was made")
        return shown

    def _approve(self, ticket: _Ticket, who: BoundActor, channel: str) -> ToolResult:
        """Record a yes to what the card shows; in a transaction."""
        given = {name: ticket.arguments.get(name) for name in ("request_id", "comment", "expires_at")}
        who = confirmed(who, channel, self._unchanged(ticket, who).text)
        return self._service.tools.approve(**given, actor=who.actor, **who.identity())

    def _ticket(self, state: str, mine: str, arguments: Mapping[str, Any]) -> tuple[str, _Ticket] | None:
        """The open question with this state, or a new one.

        Where there is no room it takes the place of this caller's oldest; None without one, because nobody pushes out what others ask.
        """
        self._forget()
        own = {name: ticket for name, ticket in self._tickets.items() if ticket.owner == mine}
        for name, ticket in own.items():
            if ticket.state == state:
                return name, ticket
        if len(self._tickets) >= _MOST_OPEN:
            if not own:
                return None
            del self._tickets[next(iter(own))]
        name = secrets.token_urlsafe(24)
        ticket = self._tickets[name] = _Ticket(
            owner=mine, state=state, arguments=dict(arguments), until=anyio.current_time() + self._seconds
        )
        return name, ticket

    def _forget(self) -> None:
        now = anyio.current_time()
        self._tickets = {name: ticket for name, ticket in self._tickets.items() if ticket.until > now}

    async def _shown(self, arguments: Mapping[str, Any], who: BoundActor) -> _Shown:
        return await anyio.to_thread.run_sync(self._facts, arguments, who, limiter=self._service.store_threads)

    def _facts(self, arguments: Mapping[str, Any], who: BoundActor) -> _Shown:
        """The question as every channel puts it, and what there is room for on a card. Raises what an approval would."""
        question, state = self._asker.question(arguments, who)
        first, *lines = question.split("\n")
        facts = [("Question", first), *((label, value) for label, _, value in (line.partition(": ") for line in lines))]
        decision = Decision.load(self._service.tools.store, arguments["request_id"])
        facts += [*_steps(decision.plan), *_policy(decision), *_told(decision), ("Your identity is", who.assurance)]
        text = "\n".join(f"{label}: {value}" for label, value in facts)
        return _Shown(facts, text, f"sha256:{sha256(text.encode()).hexdigest()} {state}")


def _code(result: Mapping[str, Any]) -> str | None:
    return result.get("_meta", {}).get(ERROR_KEY, {}).get("code")


def _steps(plan: str | None) -> list[tuple[str, str]]:
    """What would be called, where the plan says so in steps, with the digest of the arguments."""
    try:
        steps = parse_plan(plan, goal="").steps
    except (InvalidPlan, PlanNotExecutable):
        return []
    shown = [
        (f"Step {number}", f"{printable(step.tool)}/{printable(step.method)}, arguments sha256:{content_digest(dict(step.args))}")
        for number, step in enumerate(steps[:_MOST_STEPS], 1)
    ]
    return shown if len(steps) <= _MOST_STEPS else [*shown, ("And", f"{len(steps) - _MOST_STEPS} more steps; read them with inspect")]


def _policy(decision: Decision) -> list[tuple[str, str]]:
    policy = decision.policy
    if policy is None:
        return []
    words = [
        f"modes {', '.join(policy.allowed_modes)}",
        "any number of steps" if policy.max_steps is None else f"at most {policy.max_steps} steps",
        *(f"needs {name}" for name in policy.require_adapter_capabilities),
        *(f"label {name}" for name in policy.labels),
    ]
    return [("Policy", printable("; ".join(words)))]


def _told(decision: Decision) -> list[tuple[str, str]]:
    """How it was established who asked, as far as the event says."""
    asked = [event.payload for event in decision.events if event.event_type is EventType.DECISION_CREATED]
    assurance, channel = (asked[-1].get("assurance"), asked[-1].get("channel")) if asked else (None, None)
    return [] if assurance is None else [("Asked", printable(f"{assurance}, through {channel or 'an unknown channel'}"))]
