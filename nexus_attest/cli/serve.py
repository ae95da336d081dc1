"""The command that serves the tools over MCP: serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nexus_attest.cli.command import RunsOption, command

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
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="From which level on to log, as JSON lines on standard error.")
    ] = "info",
) -> None:
    """Serve the governance tools to models over MCP.

    Without --http it speaks over standard input and output, for a host that starts it. Ends when the host closes its end, on Ctrl-C and
    on SIGTERM.
    """
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
    )
