"""The command that checks the store itself: log verify."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    log = group("The store's own log, from which nothing can vanish unseen.")
    command(log, "verify")(_verify)
    app.add_typer(log, name="log")


def _verify(
    session: "Session",
    decision_id: Annotated[
        str | None, typer.Argument(help="Only this decision; default: everything.", metavar="ID", show_default=False)
    ] = None,
) -> None:
    """Recompute every digest, chain and leaf of the store.

    This finds rows that were changed, dropped or added. It cannot find a store that was rewritten as a whole: for that, keep its size
    and root somewhere else, and compare.
    """
    with session.store.snapshot():
        found = session.store.verify_log(decision_id)
        size, root = session.store.log_root()
    data: dict[str, Any] = {"ok": found.ok, "size": size, "errors": found.errors}
    if decision_id is None:
        data["root"] = root
    else:
        data |= {"decision_id": decision_id, "head": found.head}
    if found.ok:
        session.show(data, lambda: session.screen.log(data))
        return
    text = f"{len(found.errors)} {'fact is' if len(found.errors) == 1 else 'facts are'} not as they were written"
    session.fail("LOG_VERIFICATION_FAILED", text, data, lambda: session.screen.log(data))
