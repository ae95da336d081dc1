"""Commands around the database of a store: db init, migrate."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command and the group of this module."""
    database = group("The database of a store.")
    command(database, "init", trust=False)(_init)
    app.add_typer(database, name="db")
    command(app, "migrate", db=False)(_migrate)


def _init(
    session: "Session",
    print_only: Annotated[
        bool, typer.Option("--print", help="Only show the SQL for PostgreSQL, tables and roles; connect to nothing.")
    ] = False,
    since: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="VERSION", help="With --print: the SQL for tables of this version, of an older release.", show_default=False
        ),
    ] = None,
    without_roles: Annotated[bool, typer.Option("--without-roles", help="PostgreSQL: make no roles, and change no rights.")] = False,
) -> None:
    """Make the store's tables, or bring those of an older release to this one; on PostgreSQL the roles nexus_writer and nexus_reader too.

    Run it as the owner of the database. Programs then connect as members of nexus_writer, which can insert and read and nothing else, or of
    nexus_reader. Running it again changes nothing.
    """
    if print_only:
        from nexus_attest.postgres.schema import DEFAULT_SCHEMA, script

        text = script(DEFAULT_SCHEMA, with_roles=not without_roles, since=since)
        session.show({"sql": text}, text.rstrip("\n"))
        return
    if since is not None:
        from nexus_control.errors import InputError

        raise InputError("--from is for --print; without it `db init` looks which version there is")
    if session.store_address is None:
        session.allow_new_store()
        data: dict[str, Any] = {"store": session.store.path, "roles": []}
    else:
        from nexus_attest.postgres.setup import initialize

        data = initialize(session.store_address, with_roles=not without_roles)
    from nexus_control.markdown import printable

    made = f"; roles {' and '.join(data['roles'])}" if data["roles"] else ""
    session.show(data, f"{printable(data['store'])} is ready{made}")


def _migrate(
    session: "Session",
    source: Annotated[str, typer.Argument(help="The store to copy: a file, or postgresql://...", metavar="SOURCE", show_default=False)],
    target: Annotated[
        str, typer.Argument(help="Where to: a file or address without a store, or with a part of this one.", metavar="TARGET")
    ],
) -> None:
    """Copy a whole store to another database, and prove at the end that it is the same: equal roots, and a log that verifies.

    Nothing is changed but the place: same events, chains, positions and checkpoints. The source stays as it is and may be used meanwhile;
    stop its writers before the last run, and run it again after an interruption or to bring what came later.
    """
    from nexus_attest.cli.moving import move  # the engine

    move(session, source, target)
