"""The demonstration: demo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_attest.cli.command import command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "demo", db=False)(_demo)


def _demo(
    session: "Session",
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The folder to work in; one that an earlier demo made is replaced.")
    ] = Path("nexus-attest-demo"),
) -> None:
    """See it work, on a real key.

    A key is rotated under governance, the proof is checked, and then somebody tries to forge it.
    """
    from nexus_attest.cli.story import tell  # the engine, the routers and rich

    tell(session, folder)
