"""Commands for hosts of MCP servers: mcp config."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nexus_attest.cli.command import command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    mcp = group("Serve models through the hosts that people use.")
    command(mcp, "config")(_config)
    app.add_typer(mcp, name="mcp")


def _config(
    session: "Session",
    host: Annotated[
        Literal["claude-desktop", "claude-code", "vscode", "cursor", "codex"], typer.Argument(help="Whose configuration.", metavar="HOST")
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTION...]", help="More options of `serve`, as they are.", show_default=False)
    ] = None,
    adapters: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The adapter file, without which nothing can be executed.", show_default=False)
    ] = None,
    launcher: Annotated[str, typer.Option(metavar="COMMAND", help="What starts nexus-attest.")] = "uvx nexus-attest",
) -> None:
    """Print what makes a host start this server: claude-desktop, claude-code, vscode, cursor or codex.

    Files are named by absolute paths, because hosts start servers in folders of their own. Tools are listed with underscores: several
    hosts refuse dots.
    """
    from nexus_attest.cli.hosts import HOSTS, serve_arguments  # the engine

    words = serve_arguments(session, launcher, adapters, options or [])
    chosen = HOSTS[host]
    text = chosen.snippet(words)
    session.show({"host": host, "where": chosen.where, "text": text}, text)
    if not session.as_json:
        typer.echo(f"\n{chosen.where}", err=True)
