"""The command that makes evidence: audit export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import ForceOption, OutputOption, RequestId, RunsOption, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    audit = group("Evidence for others: one file that a stranger can check.")
    command(audit, "export")(_export)
    app.add_typer(audit, name="audit")


def _export(
    session: "Session",
    decision_id: RequestId,
    output: OutputOption = None,
    embed: Annotated[bool, typer.Option("--embed", help="Put the record of the run into the package instead of its digest.")] = False,
    runs: RunsOption = None,
    force: ForceOption = False,
) -> None:
    """Write the audit package of an executed decision: what was allowed, by whom, and what ran, bound by digests."""
    from nexus_attest.cli.output import write_document  # the engine's errors

    path = output or Path("audit-package.json")
    with session.store.snapshot():
        record = _record_of_run(session, decision_id, runs) if embed else None
        data = session.data(
            session.tools.export_audit_package(decision_id, embed_router_bundle=record is not None, router_bundle=record, render=False)
        )
    write_document(session, path, data["package"], {"kind": "audit_package", "digest": data["digest"]}, force=force)


def _record_of_run(session: "Session", decision_id: str, runs: Path | None) -> dict[str, Any] | None:
    """The flight record of the run that the package is about, the latest; None when nothing ran, which the export refuses."""
    from nexus_attest.cli.running import recorded_runs  # the routers

    run_id = session.data(session.tools.inspect(decision_id, render=False))["execution"]["run_id"]
    if run_id is None:
        return None
    with recorded_runs(session, runs) as router:
        return router.flight_record(run_id)
