"""The command that makes evidence: audit export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import ForceOption, OutputOption, RequestId, RunsOption, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["exported_package", "register"]


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
    data = exported_package(session, decision_id, embed=embed, runs=runs)
    write_document(session, path, data["package"], {"kind": "audit_package", "digest": data["digest"]}, force=force)


def exported_package(session: "Session", decision_id: str, *, embed: bool, runs: Path | None) -> dict[str, Any]:
    """`package` as JSON data and its `digest`, from one view of the store. Raises Failure with the code of the export."""
    session.tools.flight_records = _Records(session, runs)
    with session.store.snapshot():
        return session.data(session.tools.export_audit_package(decision_id, embed_router_bundle=embed, render=False))


class _Records:
    """The run records beside the store, opened when one is asked for."""

    def __init__(self, session: "Session", runs: Path | None) -> None:
        self._session = session
        self._runs = runs

    def flight_record(self, run_id: str) -> dict[str, Any]:
        from nexus_attest.cli.running import recorded_runs  # the routers

        with recorded_runs(self._session, self._runs) as records:
            return records.flight_record(run_id)
