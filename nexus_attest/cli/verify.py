"""The command that judges evidence: verify."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_attest.cli.command import command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]

_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "verify", db=False)(_verify)


def _verify(
    session: "Session",
    file: Annotated[
        Path,
        typer.Argument(
            help="A decision bundle or an audit package, at most 256 MiB; - is standard input.", metavar="FILE", show_default=False
        ),
    ],
    expect: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="The binding digest that you got from elsewhere, sha256:...", show_default=False),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail what otherwise passes with a remark because it cannot be judged.")] = False,
) -> None:
    """Check a file of evidence. Reads nothing but the file, and needs no store.

    Digests show that the parts of a file belong together, not who made it: whoever can change a file can recompute all digests in it.
    For that, compare with a binding digest from another source: --expect.
    """
    if expect is not None and not _DIGEST.fullmatch(expect):
        raise typer.BadParameter("a digest is sha256: and 64 lowercase hexadecimal digits", param_hint="--expect")
    from nexus_attest.cli.files import read_file  # the engine's errors
    from nexus_attest.cli.verdict import judge_document  # the engine

    judged = judge_document(read_file(file), expected=expect, strict=strict)
    if judged.report.ok:
        session.show(judged.to_dict(), lambda: session.screen.verification(judged))
    else:
        failed = ", ".join(check.name for check in judged.checks if not check.ok)
        session.fail("VERIFICATION_FAILED", f"failed: {failed}", judged.to_dict(), lambda: session.screen.verification(judged))
