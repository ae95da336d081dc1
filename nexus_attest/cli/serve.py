"""The command that serves the tools over MCP: serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nexus_attest.cli.command import ActorOption, RunsOption, command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "serve")(_serve)


def _serve(
    session: "Session",
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve streamable HTTP at /mcp instead of standard input and output.", show_default=False),
    ] = None,
    adapters: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The adapter file, without which nothing can be executed.", show_default=False)
    ] = None,
    runs: RunsOption = None,
    tool_names: Annotated[
        Literal["dotted", "underscore"],
        typer.Option(envvar="NEXUS_ATTEST_TOOL_NAMES", help="How tools are listed; some hosts refuse dots. Calls may use either."),
    ] = "dotted",
    tools: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Offer these tools only.", show_default="the eleven published ones")
    ] = None,
    extra_tools: Annotated[bool, typer.Option("--extra-tools", help="Offer revoke_approval, list and recover too.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Offer only tools that change nothing.")] = False,
    actor_source: Annotated[
        Literal["argument", "config", "token"] | None,
        typer.Option(
            help="Who acts: whom the call names, the configured actor, or whom the token was issued to.",
            show_default="token with --issuer, argument without",
        ),
    ] = None,
    actor: ActorOption = None,
    allow_self_approval: Annotated[
        bool, typer.Option("--allow-self-approval", help="With a bound actor: let it approve what it requested itself.")
    ] = False,
    human_approval: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(help="Which approvals a person must confirm at the client: auto means those of people whose names are bound."),
    ] = "auto",
    issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="With --http: take only tokens of this issuer.", show_default=False)
    ] = None,
    audience: Annotated[
        str | None,
        typer.Option(metavar="URL", help="What tokens must be for: this server's URL as clients know it.", show_default=False),
    ] = None,
    jwks: Annotated[str | None, typer.Option(metavar="FILE|URL", help="The issuer's public keys, a JWK Set.", show_default=False)] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="From which level on to log, as JSON lines on standard error.")
    ] = "info",
) -> None:
    """Serve the governance tools to models over MCP.

    Without --http it speaks over standard input and output, for a host that starts it. Ends when the host closes its end, on Ctrl-C and
    on SIGTERM.
    """
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
            issuer=issuer,
            audience=audience,
            jwks=jwks,
        ),
    )
