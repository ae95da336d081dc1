"""Who acts in a call. A name in a tool argument proves nothing, so where it comes from is decided here, once, and recorded.

An `ActorSource` is asked before every call that writes. It takes the name from the argument (`ArgumentActor`, the local default), or
binds it to something that the model cannot write: the server's configuration, or a verified token.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mcp.server import ServerRequestContext

from nexus_control.errors import InvalidActor
from nexus_control.events import Actor, parse_actor
from nexus_control.identity import Assurance

__all__ = ["ActorSource", "ArgumentActor", "BoundActor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundActor:
    """Who acts, how that is known, and through which channel it came (such as `mcp-http`); all of it goes into the event.

    `signature` is the DSSE envelope of a signed statement (`nexus_control.identity`), where there is one.
    """

    actor: Actor
    assurance: Assurance
    channel: str
    signature: Mapping[str, Any] | str | None = None

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
        return BoundActor(actor=parse_actor(argument), assurance="asserted", channel="mcp" if context.request is None else "mcp-http")
