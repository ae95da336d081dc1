"""Who acts through a server, who may connect to it, and who confirms approvals: what the options of `serve` make of that."""

import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nexus_attest.cli.session import Session
from nexus_attest.server.actors import ActorSource, ArgumentActor, ConfigActor, FourEyes, TokenActor
from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.http import HttpAddress, listen
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.page import ApprovalPage
from nexus_attest.server.service import Service
from nexus_control.tool import NexusControlTools

if TYPE_CHECKING:
    from nexus_attest.server.tokens import TokenAccess

__all__ = ["ActorSourceName", "HumanApproval", "IdentityOptions"]

ActorSourceName = Literal["argument", "config", "token"]
HumanApproval = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityOptions:
    """The options as they were given; `actor_source` None is `token` where tokens are asked for, `argument` otherwise.

    `human_approval` `auto` asks a person for the approvals of people whose names are bound, and for none when names are only asserted.
    """

    actor_source: ActorSourceName | None = None
    actor: str | None = None
    allow_self_approval: bool = False
    human_approval: HumanApproval = "auto"
    approval_page: bool = False
    approval_card: bool = False
    issuer: str | None = None
    audience: str | None = None
    jwks: str | None = None

    def access(self, address: HttpAddress | None) -> "TokenAccess | None":
        """Whose tokens are taken, None without authentication. Raises ServerConfigError for options that do not go together."""
        given = (self.issuer, self.audience, self.jwks)
        if not any(given):
            return None
        if self.issuer is None or self.audience is None or self.jwks is None:
            raise ServerConfigError("--issuer, --audience and --jwks belong together: whose tokens, for which server, by which keys")
        if address is None:
            raise ServerConfigError("tokens come with HTTP requests: give --http, or leave --issuer, --audience and --jwks out")
        from nexus_attest.server.tokens import KeySet, TokenAccess  # with PyJWT and httpx, which other servers do without

        return TokenAccess(self.issuer, self.audience, KeySet(self.jwks))

    def source(self, session: Session, address: HttpAddress | None, access: "TokenAccess | None") -> ActorSource:
        """Where the actor comes from. Raises ServerConfigError where it would prove nothing, ActorMissing without a name."""
        kind = self.actor_source or ("argument" if access is None else "token")
        if kind != "config" and self.actor is not None:
            raise ServerConfigError("--actor is for --actor-source config")
        if kind == "argument":
            return ArgumentActor()
        if kind == "config":
            if address is not None:
                raise ServerConfigError("over HTTP whoever connects would act in the configured name; use --actor-source token")
            return ConfigActor(session.actor(self.actor))
        if access is None:
            raise ServerConfigError("--actor-source token needs --http, --issuer, --audience and --jwks")
        return TokenActor()

    def tools(self, session: Session, source: ActorSource) -> NexusControlTools:
        """The tools over the session's store. Where actors are bound, nobody approves what he requested, unless that was allowed."""
        tools = session.tools
        if not source.needs_argument and not self.allow_self_approval:
            tools.trust = FourEyes(tools.trust)
        return tools

    def ask_people(self, session: Session, service: Service, address: HttpAddress | None, opened: ExitStack) -> ApprovalPage | None:
        """Have approvals confirmed by people, as far as that was asked for; the page, which is to be served, where one was asked for.

        Raises ServerConfigError for a page or cards that nobody would see.
        """
        if self.human_approval == "never" or (self.human_approval == "auto" and service.actors.needs_argument):
            if self.approval_page:
                raise ServerConfigError("--approval-page is for approvals that people confirm: give --human-approval always")
            if self.approval_card:
                raise ServerConfigError("--approval-card is for approvals that people confirm: give --human-approval always")
            return None
        # Who is on this machine may know where the store is; who is elsewhere has to know anyway to run the command. An address does not
        # tell: with tokens clients can be anywhere, behind a proxy on this machine; without, a request through a proxy is refused.
        local = address is None or (address.is_loopback and not service.needs_token)
        page = None
        if self.approval_page:
            if not local:
                raise ServerConfigError("--approval-page is for people at this machine, and clients with tokens may be anywhere")
            page = ApprovalPage(opened.enter_context(listen(HttpAddress("127.0.0.1", 0))), limiter=service.store_threads)
        service.approval_card = self.approval_card
        service.asker = HumanAsker(
            tools=service.tools,
            limiter=service.store_threads,
            options=f" {shlex.join(session.store_options())}" if local else "",
            systems=self.human_approval == "always",
            page=page,
        )
        return page
