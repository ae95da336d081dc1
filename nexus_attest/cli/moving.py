"""What `migrate` does: open both stores, copy, prove, say what to type next."""

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nexus_attest.cli.errors import StoreMissing, require_file_or_nothing
from nexus_attest.cli.session import Session
from nexus_attest.postgres.address import is_address, shown
from nexus_control.copying import copy_store
from nexus_control.markdown import printable
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore

if TYPE_CHECKING:
    from nexus_attest.postgres import PostgresStore

__all__ = ["move", "roles_of"]


def move(session: Session, source: str, target: str) -> None:
    """Copy one store into another. Raises StoreMissing, StoreNotAFile, StoresDiffer and what the databases raise."""
    watch = _Progress(quiet=session.as_json or not sys.stderr.isatty())
    with ExitStack() as opened:
        old = opened.enter_context(_store(source, must_exist=True))
        new = opened.enter_context(_store(target, must_exist=False))
        try:
            copied = copy_store(old, new, watch)
        finally:
            watch.end()
        place = shown(target) if is_address(target) else target
        roles, about_roles = roles_of(new, f" --db {shlex.quote(place)}")
    data: dict[str, Any] = {
        "ok": not copied.found,
        "source": old.path,
        "target": new.path,
        "size": copied.size,
        "root": copied.root,
        "copied": copied.facts,
        "checkpoints": copied.checkpoints,
        "errors": list(copied.found),
        "roles": roles,
    }
    lines = [
        f"{printable(new.path)} holds the {copied.size} entries of {printable(old.path)} ({copied.facts} of them new)",
        f"  root  {copied.root}, the same in both; every row compared",
        "Use it from now on, once nobody writes to the other one any more:",
        f"  $ nexus-attest log verify --db {printable(shlex.quote(place))}",
        *about_roles,
    ]
    if not copied.found:
        session.show(data, "\n".join(lines))
        return
    lines += [
        f"The log does not verify, in either store alike ({len(copied.found)}):",
        *(f"  {printable(text)}" for text in copied.found[:20]),
    ]
    session.fail(
        "LOG_VERIFICATION_FAILED",
        "the copy is faithful, and the log does not verify in either store",
        data,
        lambda: session.say("\n".join(lines)),
    )


def roles_of(store: SqlStore, options: str) -> tuple[list[str], list[str]]:
    """The roles of programs that have rights in a store that was just filled, and what people are told when there are none on a server.

    `options` lead a command to the store.
    """
    if not is_address(store.path):
        return [], []
    roles = cast("PostgresStore", store).roles()
    return roles, [] if roles else [
        "The roles of programs have no rights in this database yet; have its owner give them:",
        f"  $ nexus-attest db init{printable(options)}",
    ]


def _store(place: str, *, must_exist: bool) -> SqlStore:
    if is_address(place):
        from nexus_attest.postgres import PostgresStore  # which files do without

        return PostgresStore(place, create=not must_exist)
    path = Path(place).absolute()
    require_file_or_nothing(path)
    if must_exist and not path.exists():
        raise StoreMissing(f"there is no store at {path}")
    return DecisionStore(path, first_commit=False)


class _Progress:
    """How far the copy is, on one line of standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._begun = False

    def __call__(self, done: int, total: int) -> None:
        if not self._quiet:
            self._begun = True
            sys.stderr.write(f"\r{done} of {total} entries")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._begun:
            sys.stderr.write("\n")
