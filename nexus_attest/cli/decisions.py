"""Commands that ask for an action and decide about it: request, approve, revoke."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexus_attest.cli.command import ActorOption, EnvelopeOption, RequestId, SignOption, command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]

_MAX_PLAN_BYTES = 16 * 1024 * 1024


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "request")(_request)
    command(app, "approve")(_approve)
    command(app, "revoke")(_revoke)


def _request(
    session: "Session",
    goal: Annotated[str | None, typer.Argument(help="What is to be done, in a sentence.", metavar="GOAL", show_default=False)] = None,
    goal_option: Annotated[str | None, typer.Option("--goal", metavar="TEXT", help="The same as an option.", show_default=False)] = None,
    actor: ActorOption = None,
    mode: Annotated[Literal["dry_run", "apply"], typer.Option(help="What is asked for: a rehearsal, or the real thing.")] = "dry_run",
    plan: Annotated[
        str | None,
        typer.Option(metavar="TEXT|@FILE", help="The plan that is approved: text, or @FILE (@- is standard input).", show_default=False),
    ] = None,
    template: Annotated[str | None, typer.Option(metavar="NAME", help="Take the policy from this template.", show_default=False)] = None,
    min_approvals: Annotated[
        int | None, typer.Option(metavar="N", help="How many people must approve. [default: 1]", show_default=False)
    ] = None,
    allow_mode: Annotated[
        list[str] | None, typer.Option(metavar="MODE", help="A mode that the policy allows; repeatable.", show_default=False)
    ] = None,
    require_capability: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What the adapter must be able to do; repeatable.", show_default=False)
    ] = None,
    max_steps: Annotated[int | None, typer.Option(metavar="N", help="The most steps that the plan may have.", show_default=False)] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A label; repeatable.", show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the id and nothing else.")] = False,
    sign: SignOption = None,
    envelope: EnvelopeOption = None,
) -> None:
    """Ask for an action; prints the id of the new decision.

    The policy says what is needed before it may run. It comes from the options, or from a template whose values the options override.
    """
    if (goal is None) == (goal_option is None):
        raise typer.BadParameter("say once what is to be done: as GOAL or as --goal")
    from nexus_attest.cli.signing import claim, signed_request  # the engine

    given = claim(session, actor, sign, envelope)
    text = None if plan is None else _plan_text(plan)
    session.allow_new_store()
    ask = partial(
        session.tools.request,
        goal if goal is not None else str(goal_option),
        given.actor,
        mode,
        text,
        template,
        min_approvals,
        allow_mode or None,
        require_capability or None,
        max_steps,
        label or None,
        channel="cli",
    )
    data = session.data(ask(signature=signed_request(given, lambda: session.data(ask(preview=True)))))
    if quiet and not session.as_json:
        session.say(data["request_id"])
    else:
        session.show(data, _requested(data, mode, session.same_store))


def _plan_text(plan: str) -> str:
    if not plan.startswith("@"):
        return plan
    from nexus_attest.cli.files import read_text  # the engine's errors

    return read_text(Path(plan[1:]), _MAX_PLAN_BYTES)


def _requested(data: dict[str, Any], mode: str, same_store: str) -> str:
    from nexus_control.markdown import escape  # the engine

    return (
        f"Requested {data['request_id']}\n"
        f"  mode {mode}, needs {_approvals(data['min_approvals'])}\n"
        f"  next: nexus-attest approve {data['request_id']} --actor NAME{escape(same_store)}"
    )


def _approve(
    session: "Session",
    request_id: RequestId,
    actor: ActorOption = None,
    comment: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; becomes part of the evidence.", show_default=False)] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Until when it counts, such as 2030-01-31T18:00:00+01:00.", show_default="for good"),
    ] = None,
    sign: SignOption = None,
    envelope: EnvelopeOption = None,
) -> None:
    """Approve a decision.

    With --sign nobody but the holder of the key can have said so. With --envelope, actor, comment and expiry are those that were signed.
    """
    from nexus_attest.cli.signing import claim, signed_command  # the engine
    from nexus_control.events import parse_expires_at

    given = claim(session, actor, sign, envelope, comment, expires_at)
    signature = signed_command(session, given, "approve", request_id)
    data = session.data(session.tools.approve(request_id, given.actor, given.comment, given.expires_at, channel="cli", signature=signature))

    def told() -> None:
        _told(session, f"Approved: {data['current_approvals']} of {data['required_approvals']} approvals", data)
        if (expiry := parse_expires_at(given.expires_at)) is not None and expiry <= session.store.clock():
            session.say(f"This approval expired at {expiry.isoformat()} already, so it does not count; it can be given again")

    session.show(data, told)


def _revoke(
    session: "Session",
    request_id: RequestId,
    actor: ActorOption = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; becomes part of the evidence.", show_default=False)] = "",
    sign: SignOption = None,
    envelope: EnvelopeOption = None,
) -> None:
    """Take an approval back, before it has been used."""
    from nexus_attest.cli.signing import claim, signed_command  # the engine

    given = claim(session, actor, sign, envelope, reason)
    signature = signed_command(session, given, "revoke", request_id)
    data = session.data(session.tools.revoke_approval(request_id, given.actor, given.comment or "", channel="cli", signature=signature))
    session.show(data, lambda: _told(session, f"Revoked: {_approvals(data['current_approvals'])} left", data))


def _told(session: "Session", done: str, data: dict[str, Any]) -> None:
    from nexus_attest.cli.counted import uncounted  # the engine

    if (doubt := uncounted(session, data["request_id"])) is not None:
        session.say(f"{done}; {doubt}")
    else:
        session.say(f"{done}, {'ready to execute' if data['is_approved'] else 'not ready yet'}")


def _approvals(number: int) -> str:
    return f"{number} {'approval' if number == 1 else 'approvals'}"
