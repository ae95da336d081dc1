"""Commands around the run: execute, recover."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import ActorOption, EnvelopeOption, RequestId, RunsOption, SignOption, command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "execute")(_execute)
    command(app, "recover")(_recover)


def _execute(
    session: "Session",
    request_id: RequestId,
    adapter_id: Annotated[str, typer.Argument(help="Which adapter of the file runs it.", metavar="ADAPTER", show_default=False)],
    adapters: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The adapter file: the programs that may be run, in TOML.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool | None,
        typer.Option("--dry-run/--apply", help="Rehearse without starting anything, or do it. [default: as requested]", show_default=False),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run once more after a run that failed.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="SECONDS", help="For the whole run. [default: only its calls are limited]", show_default=False),
    ] = None,
    actor: ActorOption = None,
    sign: SignOption = None,
    envelope: EnvelopeOption = None,
    runs: RunsOption = None,
) -> None:
    """Run an approved decision, once.

    What the adapter's program does and answers is recorded step by step in a file beside the store, for `audit export --embed`.
    """
    from nexus_attest.cli.running import executor  # the routers
    from nexus_attest.cli.signing import claim, signed_command  # the engine

    given = claim(session, actor, sign, envelope)
    signature = signed_command(session, given, "execute", request_id)
    with executor(session, adapters, adapter_id, runs, timeout) as router:
        data = session.data(
            session.tools.execute(request_id, adapter_id, given.actor, router, dry_run, retry=retry, channel="cli", signature=signature)
        )
    session.show(data, _ran(data))


def _ran(data: dict[str, Any]) -> str:
    from nexus_control.markdown import escape

    steps = f"{data['steps_executed']} {'step' if data['steps_executed'] == 1 else 'steps'}"
    first = f"Rehearsed: {steps}, nothing was started" if data["mode"] == "dry_run" else f"Executed: {steps} done"
    return (
        f"{first}\n"
        f"  run       {escape(data['run_id'])}\n"
        f"  request   sha256:{data['request_digest']}\n"
        f"  response  sha256:{data['response_digest']}"
    )


def _recover(
    session: "Session",
    request_id: RequestId,
    actor: ActorOption = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="How you know that it is dead.", show_default=False)] = "",
    runs: RunsOption = None,
    force: Annotated[bool, typer.Option("--force", help="Also when its run seems to be under way, and without looking at it.")] = False,
) -> None:
    """Declare an execution abandoned whose process died.

    Whether its work was done stays unknown, and is recorded as unknown. Where `execute` was killed by force, the program that it had
    started was killed a moment later, but can have escaped that: look for it, and at what it did, before `execute --retry`.
    """
    from nexus_attest.cli.running import closed_runs, runs_path  # the routers

    who = session.actor(actor)
    with closed_runs(session, None if force else runs_path(session, runs)) as records:
        session.tools.flight_records = records
        data = session.data(session.tools.recover_execution(request_id, who, reason))
    session.show(
        data,
        "Recorded as failed: the execution was abandoned, its outcome is unknown\n"
        "Its program may still be running: look for it, and at what it did, before `nexus-attest execute --retry`",
    )
