"""What the store asks of a database: statements, blocks, and the few things that two databases do each in their own way.

Everything above this seam (rows, chains, the log and its proofs, templates, verification) is one code for all of them. Statements are
written in the SQL that SQLite and PostgreSQL share, with `?` for each value; rows can be taken apart like tuples and asked by column name.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from nexus_control.errors import DecisionExists, StoreUnreadable, TemplateExists

__all__ = ["Backend", "Connection", "Dialect", "Rows", "insert", "require_cells"]


class Rows(Protocol):
    """What a statement gave. `rowcount` is the number of rows that it inserted."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """An open connection, inside the block that gave it."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows: ...
    def executemany(self, sql: str, rows: Sequence[Any], /) -> Rows: ...


class Backend(Protocol):
    """Blocks on a database. Every error that the database raises leaves a block as a `StoreError`."""

    path: str
    """Where the store is, as people may read it: never with a password."""

    @property
    def is_writing(self) -> bool:
        """Whether this thread stands in a `transaction` block."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """The connection, for statements that each see committed data; inside a block of this thread, for that block's view."""
        ...

    def at_once(self) -> AbstractContextManager[object] | None:
        """A block in which reads of this thread wait for nobody: they raise StoreBusy instead. None where that cannot be had."""
        ...

    def snapshot(self) -> AbstractContextManager[Connection]:
        """One consistent view over several reads; inside another block it is that block."""
        ...

    def lenient_snapshot(self) -> AbstractContextManager[tuple[Connection, set[str]]]:
        """As `snapshot`, for looking at what may have been tampered with; the set gets every text that could not be read as stored."""
        ...

    def transaction(self) -> AbstractContextManager[Connection]:
        """All or nothing, under the one write lock of the store from its start. Blocks nest; a failed inner one dooms the outer one."""
        ...

    def close(self) -> None:
        """Close every connection. Closing again does nothing."""
        ...


class Dialect(Protocol):
    """What a database does in its own way."""

    @property
    def faults(self) -> tuple[type[Exception], ...]:
        """What a statement may raise, for `except`."""
        ...

    @property
    def decision_exists(self) -> type[DecisionExists]: ...
    @property
    def template_exists(self) -> type[TemplateExists]: ...

    def problems(self, connection: Connection) -> list[str]:
        """What of the store's schema is missing or was changed: rows are only as sound as what guards them."""
        ...

    def damage(self, connection: Connection) -> list[str] | None:
        """What the database finds wrong with its own structure, above all an index that disagrees with its table: every reader goes through
        one, and does not see a row that it hides. None where a database has nothing that looks for that.
        """
        ...

    def identity(self, connection: Connection) -> object:
        """What is equal for two connections to one database, however each was opened, and for no two databases."""
        ...

    def stream(self, connection: Connection, sql: str) -> Generator[Any]:
        """All rows of a query inside a snapshot, in memory that does not grow with their number."""
        ...


def insert(connection: Connection, statement: str, rows: Sequence[Any]) -> None:
    """Insert the rows, or raise StoreUnreadable when one did not go in although the database reported no error.

    A trigger or rule that somebody added, or a view in the table's place, takes rows and drops them; what is acknowledged must be
    stored. SQLite's count leaves those out (https://www.sqlite.org/c3ref/changes.html), PostgreSQL's too.
    """
    stored = connection.executemany(statement, rows).rowcount
    if stored != len(rows):
        raise StoreUnreadable(
            f"the database dropped {len(rows) - max(stored, 0)} of {len(rows)} new rows (it was changed by others; "
            "`nexus-attest log verify` tells more, a backup brings it back)"
        )


def require_cells(cells: Iterable[object], types: Iterable[type], what: str) -> None:
    """Raise StoreUnreadable where a cell is of another type than its column has.

    A table that was not STRICT for a moment takes one, and a flipped bit before a row makes one. It must not be computed with.
    """
    for cell, wanted in zip(cells, types, strict=True):
        if type(cell) is not wanted:
            raise StoreUnreadable(
                f"{what} has a {type(cell).__name__} where a {wanted.__name__} belongs (it was changed by others, or damaged; "
                "`nexus-attest log verify` tells more, a backup brings it back)"
            )
