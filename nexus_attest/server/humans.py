"""A person decides: the question that the client puts to its user before an approval is recorded.

A client that declared form elicitation is asked, by a request of ours in the handshake era, by an `InputRequiredResult` in the stateless
one. For others there may be a page on this machine, which a client may open for its user; a call waits for it a few seconds and then says
APPROVAL_PENDING. Whatever else happens is HUMAN_REQUIRED with the command that does the same at a terminal: no client is waited for
without end, and no approval comes out of silence. What an answer proves is that the client's process gave it (`elicitation`), or somebody
at this machine (`page`); the event says so, with the digest of the question, and claims no more.
"""

import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any, cast

import anyio
import anyio.to_thread
from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.types import (
    CallToolRequestParams,
    ElicitationCapability,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
)
from pydantic import ValidationError

from nexus_attest.server.actors import BoundActor
from nexus_attest.server.errors import ApprovalPending, HumanDeclined, HumanRequired
from nexus_attest.server.page import ApprovalPage
from nexus_attest.server.tasks import takes_tasks
from nexus_control.decision import Decision
from nexus_control.errors import ActionChanged, NexusError, StoreError
from nexus_control.events import Actor, EventType, parse_expires_at
from nexus_control.identity import parse_identity
from nexus_control.judgement import judge_approval, judge_identity
from nexus_control.markdown import printable
from nexus_control.past import past_of
from nexus_control.tool import NexusControlTools

__all__ = [
    "ANSWER_SCHEMA",
    "ANSWER_SECONDS",
    "PAGE_SECONDS",
    "QUESTION",
    "HumanAsker",
    "client_name",
    "confirmed",
    "form_answer",
    "form_channel",
    "form_request",
    "shows_forms",
]

QUESTION = "approval"
"""Key of the question among the input requests of a result."""

ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"approve": {"type": "boolean", "title": "I approve this action", "description": "Leave it off to refuse."}},
    "required": ["approve"],
}

ANSWER_SECONDS = 300.0
"""How long a person may take in the handshake era, where the call waits meanwhile."""

PAGE_SECONDS = 5.0
"""How long a call waits for somebody who is looking at the page."""

_STATELESS = "2026-07-28"
_MOST_SHOWN = 2_000
_MOST_NAME = 60
_APPROVAL_ACTS = (EventType.APPROVAL_GRANTED, EventType.APPROVAL_REVOKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanAsker:
    """Has approvals confirmed by a person at the client: those of people, and with `systems` those of systems too.

    `options` are what the command in the text needs to reach the same store, such as ` --db FILE`. `limiter` bounds the threads that
    read the store. `page` is for people whose client shows no forms.
    """

    tools: NexusControlTools
    limiter: anyio.CapacityLimiter | None = None
    options: str = ""
    systems: bool = False
    seconds: float = ANSWER_SECONDS
    page: ApprovalPage | None = None
    page_seconds: float = PAGE_SECONDS

    async def ask(
        self, context: ServerRequestContext[Any], params: CallToolRequestParams, arguments: Mapping[str, Any], who: BoundActor
    ) -> BoundActor | InputRequiredResult:
        """The actor, once a person said yes; or the question, in the stateless era.

        Raises HumanDeclined after a no, HumanRequired when nobody could be asked or nobody answered, ApprovalPending while the page waits
        for an answer, and what an approval would raise anyway: nobody is asked for what would be refused.
        """
        if who.actor.type == "system" and not self.systems:
            return who
        question, state = await anyio.to_thread.run_sync(self.question, arguments, who, limiter=self.limiter)
        command = self.command(arguments, who)
        if shows_forms(context):
            said, channel = await self._by_form(context, params, question, state, command), form_channel(context)
        elif self.page is not None:
            wanted = partial(self._is_wanted, arguments, who, state)
            said, channel = await self._by_page(context, params, question, state, command, wanted), "page"
            who = replace(who, recorded=partial(self.page.close, state))
            if said is False:
                self.page.refused(state)
        else:
            raise HumanRequired(f"this client cannot ask its user, so {who.actor.id} has to run", command)
        if isinstance(said, InputRequiredResult):
            return said
        if not said:
            raise HumanDeclined(f"{who.actor.id} was asked and did not approve")
        return replace(confirmed(who, channel, question), unchanged=partial(self.require_unchanged, arguments, who, state))

    async def _by_form(
        self, context: ServerRequestContext[Any], params: CallToolRequestParams, question: str, state: str, command: str
    ) -> bool | InputRequiredResult:
        """What a person answered in a form of the client; or the question, in the stateless era. Raises HumanRequired for no answer."""
        if context.protocol_version < _STATELESS:
            session = context.session
            answer = await self._asked(lambda: session.elicit_form(question, ANSWER_SCHEMA, context.request_id), command)
        else:
            found = _answered(params, state)
            if found is None:
                return InputRequiredResult(input_requests={QUESTION: form_request(question)}, request_state=state)
            answer = found
        said = form_answer(answer)
        if said is None:
            raise HumanRequired("the question was closed without an answer; run", command)
        return said

    async def _by_page(
        self,
        context: ServerRequestContext[Any],
        params: CallToolRequestParams,
        question: str,
        state: str,
        command: str,
        wanted: Callable[[], bool],
    ) -> bool | InputRequiredResult:
        """What a person answered on the page, which the client may open; or the request to open it, in the stateless era.

        Raises ApprovalPending while nobody has answered there: no call is held open for a person. HumanRequired when the page has no room.
        """
        page = cast("ApprovalPage", self.page)
        if (said := await page.answer(state)) is not None:
            return said
        url, opened = page.address_of(state, question, None if takes_tasks(context) else "", wanted=wanted), None
        if url is None:
            raise HumanRequired("too many questions wait for answers already, so ask this one at a terminal", command)
        if _opens_pages(context):
            line = question.partition("\n")[0]
            if context.protocol_version < _STATELESS:
                session, name = context.session, url.rpartition("/")[2]
                opened = await self._asked(lambda: session.elicit_url(line, url, name, context.request_id), command)
            elif (opened := _answered(params, state)) is None:
                link = ElicitRequestURLParams(message=line, url=url, elicitation_id=url.rpartition("/")[2])
                return InputRequiredResult(input_requests={QUESTION: ElicitRequest(params=link)}, request_state=state)
        if opened is not None and opened.action == "decline":
            return False
        if opened is not None and opened.action == "accept":  # which says that the page was opened, and no more
            said = await page.answer(state, self.page_seconds)
        if said is None:
            raise ApprovalPending("nobody has answered yet", url, command)
        return said

    def command(self, arguments: Mapping[str, Any], who: BoundActor) -> str:
        """What does the same at a terminal."""
        given = "".join(
            f" {option} {shlex.quote(arguments[name])}"
            for option, name in (("--comment", "comment"), ("--expires-at", "expires_at"))
            if arguments.get(name) is not None
        )
        return f"nexus-attest approve {shlex.quote(arguments['request_id'])} --actor {_named(who.actor)}{given}{self.options}"

    def question(self, arguments: Mapping[str, Any], who: BoundActor) -> tuple[str, str]:
        """What the person reads, and the state that an answer must come back with. Text of others cannot break its lines.

        The state is that of every word that would be recorded, shown or not. It counts what the actor has approved and revoked here: a yes
        is good for one approval, not for another one after that. Raises what an approval would raise anyway.
        """
        expiry = parse_expires_at(arguments.get("expires_at"))
        now = self.tools.store.clock()
        decision = Decision.load(self.tools.store, arguments["request_id"], as_of=now, trust=self.tools.trust)
        decision.earlier = past_of(self.tools.store, decision.decision_id)
        judge_identity(decision, "approve", who.actor, parse_identity(who.assurance, who.channel, None), now, self.tools.trust)
        judge_approval(decision, who.actor.id, now)
        policy, requester = decision.policy, decision.requester
        needed = "no policy" if policy is None else f"approvals needed: {policy.min_approvals}"
        named = "unknown" if requester is None else f"{requester.type} {printable(requester.id)}"
        comment = arguments.get("comment")
        imported = decision.earlier.imported

        def worded(options: str) -> str:
            whole = printable(f"`nexus-attest status {shlex.quote(decision.decision_id)} --json{options}` shows all of it")
            lines = [
                f"Approve this action as {who.actor.type} {printable(who.actor.id)}?",
                f"Goal: {_shown(decision.goal, whole)}",
                f"Mode: {decision.requested_mode} ({needed})",
                f"Plan: {_shown(decision.plan, whole)}",
                f"Requested by: {named}{' (so another system says)' if imported else ''}",
                f"Until: {'for good' if expiry is None else expiry.isoformat()}",
                *([] if comment is None else [f"Comment: {_shown(comment, 'it is recorded whole in your name')}"]),
                f"Decision: {printable(decision.decision_id)}, action sha256:{decision.action_digest}",
            ]
            return "\n".join(lines)

        generation, _ = self.tools.store.origin(decision.decision_id)
        acts = sum(event.event_type in _APPROVAL_ACTS and event.actor["id"] == who.actor.id for event in decision.events)
        # Servers of one store may have been given different names for it, and take each other's answers.
        words = _digest("\n".join([worded(""), "" if comment is None else printable(comment)]))
        return worded(self.options), f"{words} {generation}.{acts}"

    def require_unchanged(self, arguments: Mapping[str, Any], who: BoundActor, state: str) -> None:
        """Raise ActionChanged unless a yes to the question with this state is still good: in the transaction that records it.

        While a person reads, anything can happen: an import in the place of the decision, an approval, and its revocation. `who` is the
        actor that the question was made for. Raises what an approval would, too.
        """
        if self.question(arguments, who)[1] != state:
            raise ActionChanged("what is asked was changed since it was shown")

    def _is_wanted(self, arguments: Mapping[str, Any], who: BoundActor, state: str) -> bool:
        """The same, for somebody who is about to answer; a store that cannot be read now may be read when the answer is recorded."""
        try:
            self.require_unchanged(arguments, who, state)
        except StoreError:
            return True
        except NexusError:
            return False
        return True

    async def _asked(self, question: Callable[[], Awaitable[ElicitResult]], command: str) -> ElicitResult:
        """The answer of a client of the handshake era."""
        try:
            with anyio.fail_after(self.seconds):
                return await question()
        except TimeoutError:
            problem = f"nobody answered within {self.seconds:g} seconds"
        except ValidationError:
            problem = "the client's answer cannot be understood"
        except MCPError as error:
            problem = f"the client did not ask its user ({error.error.code})"
        raise HumanRequired(f"{problem}; run", command)


def form_request(question: str) -> ElicitRequest:
    """The question as a form."""
    return ElicitRequest(params=ElicitRequestFormParams(message=question, requested_schema=ANSWER_SCHEMA))


def form_answer(answer: ElicitResult) -> bool | None:
    """Whether somebody said yes in the form, None when it was closed."""
    if answer.action == "cancel":
        return None
    return answer.action == "accept" and (answer.content or {}).get("approve") is True


def form_channel(context: ServerRequestContext[Any]) -> str:
    """How an answer in a form came, for the event: name and version are what the client gave itself."""
    return f"elicitation {client_name(context)}"


def confirmed(who: BoundActor, channel: str, question: str) -> BoundActor:
    """Who acts, after a yes that came through `channel` to this question."""
    return replace(who, channel=f"{who.channel} {channel} {_digest(question)}")


def shows_forms(context: ServerRequestContext[Any]) -> bool:
    """Whether the client declared that it shows forms; an empty declaration means forms."""
    asks = _elicitation(context)
    return asks is not None and (asks.form is not None or asks.url is None)


def _opens_pages(context: ServerRequestContext[Any]) -> bool:
    """Whether the client declared that it opens addresses for its user."""
    asks = _elicitation(context)
    return asks is not None and asks.url is not None


def _elicitation(context: ServerRequestContext[Any]) -> ElicitationCapability | None:
    capabilities = context.session.client_capabilities
    return None if capabilities is None else capabilities.elicitation


def _answered(params: CallToolRequestParams, state: str) -> ElicitResult | None:
    """The answer that came with a call, None unless it is one to this very question."""
    answer = (params.input_responses or {}).get(QUESTION)
    return answer if isinstance(answer, ElicitResult) and params.request_state == state else None


def _digest(question: str) -> str:
    return "sha256:" + sha256(question.encode()).hexdigest()


def _shown(text: str | None, where: str) -> str:
    """A text of others on one line. Of a long one the beginning, how much that leaves out, and `where` all of it is."""
    if text is None:
        return "none"
    left_out = len(text) - _MOST_SHOWN
    cut = printable(text[:_MOST_SHOWN])
    return cut if left_out <= 0 else f"{cut} ... ({left_out} of {len(text)} characters are left out here: {where})"


def _named(actor: Actor) -> str:
    return shlex.quote(f"{actor.type}:{actor.id}")


def client_name(context: ServerRequestContext[Any]) -> str:
    """Name and version that the client gave itself."""
    given = context.session.client_params
    return "unknown" if given is None else "_".join(printable(f"{given.client_info.name}/{given.client_info.version}").split())[:_MOST_NAME]
