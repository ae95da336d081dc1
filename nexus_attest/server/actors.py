"""Who acts in a call. A name in a tool argument proves nothing, so where it comes from is decided here, once, and recorded.

An `ActorSource` is asked before every call that writes. It takes the name from the argument (`ArgumentActor`, the local default), or
binds it to something that the model cannot write: the server's configuration, or a verified token.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mcp.server import ServerRequestContext

from nexus_attest.server.callers import actor_of, current_token, subject_of
from nexus_attest.server.errors import ActorMismatch
from nexus_attest.trust import Rule, SelfApproval
from nexus_control.errors import InvalidActor
from nexus_control.events import Actor, parse_actor
from nexus_control.identity import Act, Assurance, Trust, parse_envelope

__all__ = ["ActorSource", "ArgumentActor", "BoundActor", "ConfigActor", "FourEyes", "TokenActor", "signed_arguments"]

_SELF_APPROVAL = Rule(actions=frozenset({"approve"}), self_approval=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundActor:
    """Who acts, how that is known, and through which channel it came (such as `mcp-http`); all of it goes into the event.

    `signature` is the DSSE envelope of a signed statement (`nexus_control.identity`), where there is one. `unchanged`, where a person was
    asked, is called inside the transaction that records the act, and raises a NexusError where that is not what was shown. `recorded` is
    called once what this actor does is in the store.
    """

    actor: Actor
    assurance: Assurance
    channel: str
    signature: Mapping[str, Any] | str | None = None
    unchanged: Callable[[], None] | None = None
    recorded: Callable[[], None] = lambda: None

    def identity(self) -> dict[str, Any]:
        """The keywords of `NexusControlTools` that say how the actor was established."""
        given = {"assurance": self.assurance, "channel": self.channel}
        return given if self.signature is None else {**given, "signature": self.signature}


class ActorSource(Protocol):
    """Turns the context of a call and its `actor` argument into the actor that is recorded.

    Asked in the event loop, where `mcp.server.auth.middleware.auth_context.get_access_token()` gives the caller's token.
    """

    @property
    def needs_argument(self) -> bool:
        """Whether callers must give `actor`; otherwise the listed schemas make it optional."""
        ...

    def bind(self, context: ServerRequestContext[Any], argument: Mapping[str, Any] | None) -> BoundActor:
        """Who acts. `argument` has passed the schema; None when it was left out. Raises a NexusError to refuse the call."""
        ...


@dataclass(frozen=True, slots=True)
class ArgumentActor:
    """Believes the argument and says so: the name is `asserted`."""

    needs_argument: bool = True

    def bind(self, context: ServerRequestContext[Any], argument: Mapping[str, Any] | None) -> BoundActor:
        """The actor of the argument. Raises InvalidActor without one."""
        if argument is None:
            raise InvalidActor("actor is missing")
        return BoundActor(actor=parse_actor(argument), assurance="asserted", channel=_channel(context))


@dataclass(frozen=True, slots=True)
class ConfigActor:
    """Always the one whom the operator configured, who vouches for it: the name is `authenticated`."""

    actor: Actor
    needs_argument: bool = False

    def bind(self, context: ServerRequestContext[Any], argument: Mapping[str, Any] | None) -> BoundActor:
        """The configured actor. Raises ActorMismatch when the argument names another."""
        return _bound(context, self.actor, argument)


@dataclass(frozen=True, slots=True)
class TokenActor:
    """The one to whom the request's token was issued, as `issuer#subject`: the name is `authenticated`."""

    needs_argument: bool = False

    def bind(self, context: ServerRequestContext[Any], argument: Mapping[str, Any] | None) -> BoundActor:
        """The token's subject. Raises NotAuthenticated without a token, ActorMismatch when the argument names another."""
        return _bound(context, actor_of(current_token()), argument)


def _bound(context: ServerRequestContext[Any], actor: Actor, argument: Mapping[str, Any] | None) -> BoundActor:
    if argument is not None and parse_actor(argument) != actor:
        raise ActorMismatch(f"you act as {actor.type} {actor.id} here, and the argument actor names somebody else")
    return BoundActor(actor=actor, assurance="authenticated", channel=_channel(context))


def _channel(context: ServerRequestContext[Any]) -> str:
    return "mcp" if context.request is None else "mcp-http"


def signed_arguments(
    context: ServerRequestContext[Any], arguments: Mapping[str, Any], parameters: Collection[str]
) -> tuple[BoundActor, dict[str, Any]]:
    """Who signed, and the arguments with what the signed statement says where they say nothing, as far as the tool has `parameters` for it.

    Whoever brings an envelope is only its carrier: the signature, once a trust policy has verified it, says more than any token.
    Contradictions between statement and arguments are the engine's matter. Raises InvalidEnvelope.
    """
    envelope: Mapping[str, Any] | str = arguments["signature"]
    said = parse_envelope(envelope).statement
    actor = said.actor if arguments.get("actor") is None else parse_actor(arguments["actor"])
    stated = {"comment": said.comment, "expires_at": said.expires_at, "reason": said.comment or ""}
    given = {name: value for name, value in arguments.items() if value is not None and name != "signature"}
    filled = {name: value for name, value in stated.items() if name in parameters}
    return BoundActor(actor=actor, assurance="signed", channel=_channel(context), signature=envelope), {**filled, **given}


@dataclass(frozen=True, slots=True)
class FourEyes:
    """Believes what `trust` believes, but no approval by the one who requested.

    The engine asks inside the transaction that records an approval, and again whenever approvals are counted: one that came in by
    another way, such as the command line, does not count here either. The subject of a token is taken for the one who has that name
    elsewhere: `https://login.example#alice` does not approve what `alice` requested. Who has two names is not known here.
    """

    trust: Trust

    def judge(self, act: Act) -> None:
        """Raise SelfApproval, or what `trust` raises."""
        if _SELF_APPROVAL.holds_for(act):
            _SELF_APPROVAL.judge(act)
            if act.requester is not None and subject_of(act.requester) == subject_of(act.actor):
                raise SelfApproval(f"{act.actor.id} has the name of {act.requester.id}, who requested this; somebody else may approve it")
        self.trust.judge(act)
