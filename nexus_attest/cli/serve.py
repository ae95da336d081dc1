"""The command that serves the tools over MCP: serve."""

import gc
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nexus_attest.cli.command import ActorOption, RunsOption, command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]

_Http = Annotated[
    str | None,
    typer.Option(
        "--http", metavar="HOST:PORT", help="Serve streamable HTTP at /mcp instead of standard input and output.", show_default=False
    ),
]
_Adapters = Annotated[
    Path | None,
    typer.Option("--adapters", metavar="FILE", help="The adapter file, without which nothing can be executed.", show_default=False),
]
_ToolNames = Annotated[
    Literal["dotted", "underscore"],
    typer.Option(envvar="NEXUS_ATTEST_TOOL_NAMES", help="How tools are listed; some hosts refuse dots. Calls may use either."),
]
_Tools = Annotated[
    str | None,
    typer.Option(
        "--tools",
        metavar="NAME,NAME",
        help="Offer these tools only; approver: those that approving takes.",
        show_default="the eleven published ones",
    ),
]
_ExtraTools = Annotated[bool, typer.Option("--extra-tools", help="Offer revoke_approval, list and recover too.")]
_ReadOnly = Annotated[bool, typer.Option("--read-only", help="Offer only tools that change nothing.")]
_ActorSource = Annotated[
    Literal["argument", "config", "token"] | None,
    typer.Option(
        help="Who acts: whom the call names, the configured actor, or whom the token was issued to.",
        show_default="token with --issuer, argument without",
    ),
]
_AllowSelfApproval = Annotated[
    bool, typer.Option("--allow-self-approval", help="With a bound actor: let it approve what it requested itself.")
]
_HumanApproval = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(help="Which approvals a person must confirm at the client: auto means those of people whose names are bound."),
]
_ApprovalPage = Annotated[
    bool, typer.Option("--approval-page", help="Where the client shows no forms, let people confirm on a page of this machine.")
]
_ApprovalCard = Annotated[bool, typer.Option("--approval-card", help="Where the client shows cards (MCP Apps), let people confirm on one.")]
_Issuer = Annotated[str | None, typer.Option(metavar="URL", help="With --http: take only tokens of this issuer.", show_default=False)]
_Audience = Annotated[
    str | None, typer.Option(metavar="URL", help="What tokens must be for: this server's URL as clients know it.", show_default=False)
]
_Jwks = Annotated[str | None, typer.Option(metavar="FILE|URL", help="The issuer's public keys, a JWK Set.", show_default=False)]
_LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], typer.Option(help="From which level on to log, as JSON lines on standard error.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "serve")(_serve)


def _serve(
    session: "Session",
    http: _Http = None,
    adapters: _Adapters = None,
    runs: RunsOption = None,
    tool_names: _ToolNames = "dotted",
    tools: _Tools = None,
    extra_tools: _ExtraTools = False,
    read_only: _ReadOnly = False,
    actor_source: _ActorSource = None,
    actor: ActorOption = None,
    allow_self_approval: _AllowSelfApproval = False,
    human_approval: _HumanApproval = "auto",
    approval_page: _ApprovalPage = False,
    approval_card: _ApprovalCard = False,
    issuer: _Issuer = None,
    audience: _Audience = None,
    jwks: _Jwks = None,
    log_level: _LogLevel = "info",
) -> None:
    """Serve the governance tools to models over MCP.

    Without --http it speaks over standard input and output, for a host that starts it. Ends when the host closes its end, on Ctrl-C and
    on SIGTERM.
    """
    with _loading():
        from nexus_attest.cli.identity import IdentityOptions
        from nexus_attest.cli.serving import serve  # the SDK, which takes half a second to load

    chosen = None if tools is None else frozenset(name.strip() for name in tools.split(",") if name.strip())
    serve(
        session,
        http=http,
        adapters=adapters,
        runs=runs,
        tool_names=tool_names,
        tools=chosen,
        extra_tools=extra_tools,
        read_only=read_only,
        log_level=log_level,
        identity=IdentityOptions(
            actor_source=actor_source,
            actor=actor,
            allow_self_approval=allow_self_approval,
            human_approval=human_approval,
            approval_page=approval_page,
            approval_card=approval_card,
            issuer=issuer,
            audience=audience,
            jwks=jwks,
        ),
    )


@contextmanager
def _loading() -> Generator[None]:
    """Code that is loaded here stays: looking through it for garbage would take a tenth of the time, now and again and again later."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
