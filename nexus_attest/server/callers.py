"""Who sent the request that is being answered, and what that caller may do: what a verified token says, in the terms of this server."""

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken

from nexus_attest.server.errors import NotAuthenticated, ScopeMissing
from nexus_attest.server.registry import Scope
from nexus_control.events import Actor

__all__ = ["SCOPES", "actor_of", "current_token", "is_allowed", "owner", "require_scope", "subject_of"]

SCOPES: tuple[Scope, ...] = ("read", "request", "approve", "execute", "admin")
"""What a token may allow. None of them implies another; `read` is needed for everything."""


def current_token() -> AccessToken:
    """The verified token of the request that is being answered. Raises NotAuthenticated without one."""
    token = get_access_token()
    if token is None:
        raise NotAuthenticated("the request carries no token")
    return token


def actor_of(token: AccessToken) -> Actor:
    """`issuer#subject`: a system when the token was issued to the client itself (RFC 9068 section 2.2), a person otherwise."""
    issuer = (token.claims or {})["iss"]
    return Actor(type="system" if token.subject == token.client_id else "human", id=f"{issuer}#{token.subject}")


def owner(*, needed: bool) -> str:
    """Who owns what this caller begins: its token's subject, where tokens are `needed`, otherwise everybody who reaches the server."""
    if not needed:
        return ""
    actor = actor_of(current_token())
    return f"{actor['type']}:{actor['id']}"


def subject_of(actor: Actor) -> str:
    """The name of an actor without the issuer of the token that it came from; an issuer has no `#` (RFC 8414 section 2)."""
    issuer, _, subject = actor.id.partition("#")
    return subject if issuer.startswith(("https://", "http://")) and subject else actor.id


def is_allowed(scope: Scope) -> bool:
    """Whether the token of this request has the scope."""
    return scope in current_token().scopes


def require_scope(scope: Scope) -> None:
    """Raise ScopeMissing unless the token of this request has the scope."""
    if not is_allowed(scope):
        raise ScopeMissing(f"the token lacks the scope {scope}")
