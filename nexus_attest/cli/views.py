"""Commands that show decisions: status, inspect, list."""

from typing import TYPE_CHECKING, Annotated

import typer

from nexus_attest.cli.command import Limit, Offset, RequestId, command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]

EventsOption = Annotated[bool, typer.Option("--events", help="With --json: the events too.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "status")(_status)
    command(app, "inspect")(_inspect)
    command(app, "list")(_list)


def _status(session: "Session", request_id: RequestId, events: EventsOption = False) -> None:
    """Show where a decision stands and what happened to it."""
    if session.as_json:
        session.show(session.data(session.tools.status(request_id, events)), "")
    else:
        from nexus_attest.cli.counted import uncounted  # the engine

        session.screen.status(session.data(session.tools.inspect(request_id, render=False)), uncounted(session, request_id))


def _inspect(
    session: "Session",
    decision_id: RequestId,
    events: EventsOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As Markdown, for reports.")] = False,
) -> None:
    """Show everything about a decision.

    That is its approvals, policy, execution, digests and timeline.
    """
    data = session.data(session.tools.inspect(decision_id, render=markdown or session.as_json, include_events=events))
    if markdown and not session.as_json:
        session.say(data["rendered"].rstrip("\n"))
        return

    def shown() -> None:
        from nexus_attest.cli.counted import uncounted  # the engine

        session.screen.inspection(data, uncounted(session, decision_id))

    session.show(data, shown)


def _list(session: "Session", limit: Limit = 100, offset: Offset = 0) -> None:
    """List decisions, newest first."""
    data = session.data(session.tools.list_requests(limit, offset))
    session.show(data, lambda: session.screen.decisions(data))
