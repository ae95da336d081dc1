"""Commands that carry decisions from store to store: bundle export, bundle import."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexus_attest.cli.command import ForceOption, OutputOption, RequestId, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    bundles = group("Whole decisions as files, to take into another store.")
    command(bundles, "export")(_export)
    command(bundles, "import")(_import)
    app.add_typer(bundles, name="bundle")


def _export(session: "Session", decision_id: RequestId, output: OutputOption = None, force: ForceOption = False) -> None:
    """Write a decision with all its events to a file."""
    from nexus_attest.cli.output import write_document  # the engine's errors

    path = output or Path("decision-bundle.json")
    data = session.data(session.tools.export_bundle(decision_id, render=False))
    write_document(session, path, data["bundle"], {"kind": "decision_bundle", "digest": data["digest"]}, force=force)


def _import(
    session: "Session",
    file: Annotated[Path, typer.Argument(help="The bundle, at most 256 MiB; - is standard input.", metavar="FILE", show_default=False)],
    conflict: Annotated[
        Literal["reject_on_conflict", "new_decision_id", "overwrite"],
        typer.Option(help="When the decision is here already. An overwritten one stays readable as an earlier generation."),
    ] = "reject_on_conflict",
    verify_digest: Annotated[bool, typer.Option("--verify-digest/--no-verify-digest", help="Refuse a bundle that was changed.")] = True,
    replay: Annotated[bool, typer.Option("--replay/--no-replay", help="Refuse a history that cannot be replayed.")] = True,
) -> None:
    """Take a decision over from a file.

    What is imported are claims of the store that exported them: the digest shows that the file is unchanged, not who made it. Imported
    approvals make nothing executable unless they are signed by keys that the trust policy names.
    """
    from nexus_attest.cli.files import read_text  # the engine's errors

    text = read_text(file)
    session.allow_new_store()
    data = session.data(session.tools.import_bundle(text, verify_digest, conflict, replay))
    session.show(data, lambda: _told(session, data["imported"]))


def _told(session: "Session", imported: Mapping[str, Any]) -> None:
    from nexus_attest.cli.counted import uncounted  # the engine

    session.screen.line("Imported", imported["decision_id"], f"{imported['events_imported']} events")
    if (doubt := uncounted(session, imported["decision_id"])) is not None:
        session.say(f"  {doubt}")
