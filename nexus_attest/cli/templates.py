"""Commands around policy templates: template create, get, list."""

from typing import TYPE_CHECKING, Annotated

import typer

from nexus_attest.cli.command import ActorOption, Limit, Offset, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]

TemplateName = Annotated[str, typer.Argument(help="The name of the template.", metavar="NAME", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    templates = group("Policies under a name, to use in requests.")
    command(templates, "create")(_create)
    command(templates, "get")(_get)
    command(templates, "list")(_list)
    app.add_typer(templates, name="template")


def _create(
    session: "Session",
    name: TemplateName,
    actor: ActorOption = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.", show_default=False)] = "",
    min_approvals: Annotated[int, typer.Option(metavar="N", help="How many people must approve.")] = 1,
    allow_mode: Annotated[
        list[str] | None, typer.Option(metavar="MODE", help="dry_run or apply; repeatable. [default: dry_run]", show_default=False)
    ] = None,
    require_capability: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What the adapter must be able to do; repeatable.", show_default=False)
    ] = None,
    max_steps: Annotated[int | None, typer.Option(metavar="N", help="The most steps that a plan may have.", show_default=False)] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A label; repeatable.", show_default=False)] = None,
) -> None:
    """Store a policy template. It can never be changed, only another one made."""
    who = session.actor(actor)
    session.allow_new_store()
    data = session.data(
        session.tools.template_create(
            name, who, description, min_approvals, allow_mode or None, require_capability or None, max_steps, label or None
        )
    )
    session.show(data, lambda: session.screen.line("Created template", data["template_name"], f"sha256:{data['digest']}"))


def _get(session: "Session", name: TemplateName) -> None:
    """Show a template."""
    data = session.data(session.tools.template_get(name))
    session.show(data, lambda: session.screen.template(data))


def _list(
    session: "Session",
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="Only those with exactly this label.", show_default=False)] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> None:
    """List templates, newest first."""
    data = session.data(session.tools.template_list(limit, offset, label))
    session.show(data, lambda: session.screen.templates(data))
