"""Commands that look at what ran: runs list, show and export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_attest.cli.command import ForceOption, Limit, Offset, OutputOption, RunsOption, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]

_RunId = Annotated[str, typer.Argument(help="The id of the run, as `execute` and `runs list` print it.", metavar="RUN", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    runs = group("The records of runs: what was called, with what, and how each call ended.")
    command(runs, "list")(_list)
    command(runs, "show")(_show)
    command(runs, "export")(_export)
    app.add_typer(runs, name="runs")


def _list(
    session: "Session",
    limit: Limit = 20,
    offset: Offset = 0,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help="Only these: RUNNING, COMPLETED or FAILED.", show_default=False)
    ] = None,
    runs: RunsOption = None,
) -> None:
    """List runs, newest first."""
    from nexus_attest.cli.running import recorded_runs  # the routers

    with recorded_runs(session, runs) as records:
        found = [summary.to_dict() for summary in records.runs(limit=limit, offset=offset, status=status)]
    data = {"runs": found, "count": len(found), "offset": offset, "limit": limit}
    session.show(data, lambda: session.screen.runs(data))


def _show(session: "Session", run_id: _RunId, runs: RunsOption = None) -> None:
    """Show a run: its calls in order, how each ended, and of which nobody knows how it ended."""
    from nexus_attest.cli.running import recorded_runs  # the routers

    with recorded_runs(session, runs) as records:
        summary, events = records.show(run_id)
    data = {**summary.to_dict(), "events": events}
    session.show(data, lambda: session.screen.run(data))


def _export(session: "Session", run_id: _RunId, output: OutputOption = None, runs: RunsOption = None, force: ForceOption = False) -> None:
    """Write the flight record of a run that has ended: what an audit package embeds, and what nexus-router can import."""
    from nexus_attest.cli.output import write_document  # the engine's errors
    from nexus_attest.cli.running import recorded_runs  # the routers

    with recorded_runs(session, runs) as records:
        record = records.flight_record(run_id)
    about = {"kind": "flight_record", "digest": record["integrity"]["canonical_digest"]}
    write_document(session, output or Path("flight-record.json"), record, about, force=force)
