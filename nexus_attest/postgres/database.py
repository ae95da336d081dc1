"""Blocks on a PostgreSQL database: connections from a pool, one write lock for the whole store, and group commit.

A writer begins with a transaction-level advisory lock and reads after that, statement by statement, in READ COMMITTED: the statement that
waits for the lock has a view of its own, those that follow see everything that was committed before the lock was given, and nobody else
commits until this transaction has ended. So what is judged cannot have changed before the commit. (REPEATABLE READ would fix the view
before the wait; SELECT ... FOR UPDATE on a row needs the right to update it, which a writer must not have.) The lock ends with the
transaction, also when the client dies; between operations nothing is held, and a pooler of sessions may stand in between.

Threads of one process that write at the same time share transactions: whoever has the lock lets those who are waiting go next, each under
its own savepoint, and commits for all of them. Nobody is told of success before that commit.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager
from types import TracebackType
from typing import NoReturn

from nexus_attest.postgres import schema as tables
from nexus_attest.postgres.address import shown
from nexus_attest.postgres.driver import PgConnection, Pool, Raw, connect, faults, is_aborted, is_lost, open_pool, raise_named
from nexus_attest.postgres.writer import Turn, Writer
from nexus_control import fork
from nexus_control.backend import Connection
from nexus_control.errors import CommitUnknown, SchemaMissing, StoreBusy, StoreClosed, StoreError, StoreReadOnly, StoreUnreachable

__all__ = ["PostgresDatabase"]

_OLDEST_SERVER = 130_000
_PATIENCE_SECONDS = 15
"""So long a lost connection is tried again, to learn how its commit ended."""

_AT_ONCE_SECONDS = 0.001
"""So long a connection of the pool that has one to lend takes; 0 would be refused at once."""

_IS_SERVED = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = ? AND pid <> pg_backend_pid())"

_CLOSED = "this store was closed; open a new one"


class _Session:
    """The connection of one thread's outermost block, and how deep it stands in blocks."""

    __slots__ = ("connection", "depth", "doomed", "leaf", "pid", "turn", "writing")

    def __init__(self, connection: PgConnection, turn: Turn, *, writing: bool) -> None:
        self.connection = connection
        self.turn = turn
        self.writing = writing
        self.leaf = connection.leaf
        self.depth = 1
        self.doomed = False
        self.pid = os.getpid()


class PostgresDatabase:
    """A PostgreSQL database as the stores use it. Safe to use from several threads, and on both sides of a `fork`.

    `commits` counts what the blocks of this process may have written.
    """

    def __init__(self, address: str, schema: str, *, create: bool, pool_size: int) -> None:
        name = shown(address)
        self.path = name if schema == tables.DEFAULT_SCHEMA else f"{name} (schema {schema})"
        self._address = address
        self._schema = schema
        self._pool_size = pool_size
        self._prepare(create=create)
        self._start()
        fork.register(self)

    def _start(self) -> None:
        self._closed = False
        self._local = threading.local()
        self._guard = threading.Lock()
        self._pool: Pool | None = None
        self._made: list[weakref.ref[Raw]] = []
        self.commits = 0
        self._writer = Writer(self, tables.take_lock(self._schema))

    def _prepare(self, *, create: bool) -> None:
        """Look at the server, and make or migrate the schema where that may be."""
        with closing(self.connect()) as raw:
            connection = PgConnection(raw)
            try:
                encoding = raw.info.parameter_status("server_encoding")
                if encoding != "UTF8" or raw.info.server_version < _OLDEST_SERVER:
                    raise StoreError(
                        f"{self.path}: a store needs PostgreSQL 13 or newer and a database in UTF8, this one is "
                        f"{raw.info.server_version // 10_000} in {encoding}; createdb --encoding=UTF8 --template=template0 makes one"
                    )
                found = tables.version(connection, self._schema)
                if found == tables.newest():
                    return
                if not (create or found):
                    raise SchemaMissing(f"{self.path}: there is no store in this database; `nexus-attest db init` makes one")
                tables.apply(connection, self._schema, with_roles=False)
            except faults() as error:
                try:
                    raise_named(error, self.path, lost=is_lost(error, raw))
                except StoreReadOnly as problem:
                    raise SchemaMissing(
                        f"{self.path}: the tables of this release are not there, and this role may not make them; have the database's "
                        "owner run `nexus-attest db init`"
                    ) from problem

    def connect(self) -> Raw:
        """A connection of its own, for who closes it."""
        try:
            return connect(self._address, self._schema)
        except StoreUnreachable as error:
            raise StoreUnreachable(f"{self.path}: {error}") from error

    # -- connections ----------------------------------------------------------------------------------------------------------

    def lend(self, before_waiting: Callable[[], None] | None = None) -> PgConnection:
        """A connection of the pool, until `take_back`; `before_waiting` is called unless one is there at once.

        Raises StoreClosed, StoreUnreachable, StoreBusy when all of them are in use.
        """
        self._writer.free()
        pool = self._open_pool()
        try:
            if before_waiting is not None:
                try:
                    return PgConnection(pool.getconn(_AT_ONCE_SECONDS), pool)
                except faults() as error:  # for a moment only: what is the matter shows when it is waited for
                    _break_cycle(error)
                    before_waiting()
            return PgConnection(pool.getconn(), pool)
        except faults() as error:
            _break_cycle(error)
            if self._closed:
                raise StoreClosed(_CLOSED) from None
            if pool.get_stats().get("pool_size", 0) >= self._pool_size and not self._lost_connections():
                raise StoreBusy(f"{self.path}: all {self._pool_size} connections of this process are in use; try again") from error
        # A pool that could not connect waits longer from try to try. So ask the server itself, which names the reason, or is there again.
        self.connect().close()
        try:
            pool = self._open_pool(instead_of=pool)
            return PgConnection(pool.getconn(), pool)
        except faults() as error:
            raise_named(error, self.path, lost=True)

    def _lost_connections(self) -> bool:
        """Whether an interruption took some, between the pool and who returns them to it, which counts them on: they are not there now."""
        made = [made() for made in [*self._made]]
        return sum(raw is not None and not raw.closed for raw in made) < self._pool_size

    def _open_pool(self, *, instead_of: Pool | None = None) -> Pool:
        with self._guard:
            if self._closed:
                raise StoreClosed(_CLOSED)
            if self._pool is None or self._pool is instead_of:
                self._made = made = list[weakref.ref[Raw]]()
                self._pool = open_pool(self._address, self._schema, self._pool_size, lambda raw: made.append(weakref.ref(raw, made.remove)))
            pool = self._pool
        if instead_of is not None:
            instead_of.close()
        return pool

    def lend_at_once(self) -> PgConnection | None:
        """As `lend`, where one is there that nobody has to wait for. Raises StoreClosed."""
        self._writer.free()
        pool = self._open_pool()
        try:
            return PgConnection(pool.getconn(_AT_ONCE_SECONDS), pool)
        except faults() as error:
            _break_cycle(error)
            return None

    def take_back(self, connection: PgConnection) -> None:
        """Return a connection to its pool, which throws away a broken one and undoes what is open on it."""
        if connection.pool is not None:
            connection.pool.putconn(connection.raw)

    @property
    def session(self) -> _Session | None:
        """The session of the block that this thread stands in, unless that block was interrupted where it should have ended it."""
        session: _Session | None = getattr(self._local, "session", None)
        return None if session is None or (session.writing and session.turn.is_gone()) else session

    @session.setter
    def session(self, value: _Session | None) -> None:
        self._local.session = value

    def is_inside_block(self) -> bool:
        """Whether this thread stands in a `transaction` or `snapshot` block."""
        return self.session is not None

    @property
    def is_writing(self) -> bool:
        """Whether this thread stands in a `transaction` block."""
        session = self.session
        return session is not None and session.writing

    # -- blocks ---------------------------------------------------------------------------------------------------------------

    def reading(self) -> AbstractContextManager[Connection]:
        """The connection, for statements that each see committed data; inside a block of this thread, for that block's view."""
        return _Use(self)

    def at_once(self) -> None:
        """None: the server may take its time for any statement."""

    def snapshot(self) -> AbstractContextManager[Connection]:
        """One consistent view over several reads. Takes no lock; inside another block it is that block."""
        return _Block(self, writing=False)

    def transaction(self) -> AbstractContextManager[Connection]:
        """All or nothing, under the store's write lock; any exception that leaves the block undoes all of it.

        A block inside a block joins it. An exception that left an inner block dooms the outer one, even when caught there. Raises
        StoreBusy, StoreUnreachable, CommitUnknown or another StoreError when the database cannot.
        """
        return _Block(self, writing=True)

    @contextmanager
    def lenient_snapshot(self) -> Generator[tuple[Connection, set[str]], None, None]:
        """As `snapshot`; PostgreSQL takes no text that is not UTF-8, so the set stays empty."""
        with self.snapshot() as connection:
            yield connection, set()

    def enter(self, turn: Turn, *, writing: bool) -> PgConnection:
        """Begin a transaction, or join the one that this thread is in. Whoever leaves this or `leave` by an exception calls `abandon`."""
        session = self.session
        if session is not None:
            if writing and not session.writing:
                raise RuntimeError("a transaction cannot begin inside a snapshot: what was read there may be old")
            session.depth += 1
            return session.connection
        connection = self._writer.enter(turn) if writing else self._begin_snapshot()
        self.session = _Session(connection, turn, writing=writing)
        return connection

    def _begin_snapshot(self) -> PgConnection:
        connection = self.lend()
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        except BaseException:
            self.take_back(connection)
            raise
        return connection

    def leave(self, turn: Turn, *, writing: bool, failed: bool) -> None:
        """End what `enter` began: the outermost block commits or undoes, one inside it that failed, or did not end, dooms it."""
        session = self.session
        if session is None or session.pid != os.getpid():
            raise StoreError(f"{self.path}: this process was forked inside a block of its parent; nothing was committed here")
        # What was read from a snapshot may be asked for on and on by a generator, after the block around it.
        if not (session.turn is turn if session.writing else session.depth == 1):
            session.depth -= 1
            session.doomed = session.doomed or (writing and failed)
            return
        self.session = None
        if session.writing:
            session.doomed = session.doomed or session.depth > 1
            # A statement failed, and the block caught its error: the server takes no more of this transaction, or from those who share it.
            aborted = is_aborted(session.connection.raw)
            self._writer.leave(turn, session.leaf, failed=failed or session.doomed or aborted)
            if session.doomed and not failed:
                raise RuntimeError("a block inside this transaction failed; nothing of it may be committed")
            if aborted and not failed:
                raise StoreError(f"{self.path}: a statement inside this transaction failed; nothing of it was written")
            return
        try:
            if not session.connection.raw.closed:
                session.connection.execute("COMMIT")
        finally:
            self.take_back(session.connection)

    def abandon(self, turn: Turn) -> None:
        """Undo what is left of a block whose `enter` or `leave` raised."""
        session = self.session
        if session is not None and session.turn is turn:
            self.session = None
            if not session.writing:
                self.take_back(session.connection)
        self._writer.abandon(turn)

    # -- the outcome of a commit ----------------------------------------------------------------------------------------------

    def was_committed(self, leaf: tuple[int, bytes] | None, server_process: int) -> bool:
        """Whether the transaction that wrote this leaf of the log was committed, after its connection was lost in the commit.

        Asked when the process that served the connection is gone: the server reads on what it was sent before the connection was lost, and
        may begin with it only now. Asked under the write lock, which is free only when that transaction has ended. Raises CommitUnknown
        when nobody can say.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while leaf is not None:
            try:
                with closing(self.connect()) as raw:
                    connection = PgConnection(raw)
                    while connection.execute(_IS_SERVED, (server_process,)).fetchone()[0] and time.monotonic() < deadline:
                        time.sleep(0.02)
                    if time.monotonic() >= deadline:
                        break
                    connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                    connection.execute(tables.take_lock(self._schema))
                    row = connection.execute("SELECT leaf_hash FROM log WHERE position = ?", (leaf[0],)).fetchone()
                    connection.execute("ROLLBACK")
                    return row is not None and row[0] == leaf[1]
            except (StoreError, *faults()):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.2)
        raise CommitUnknown(
            f"{self.path}: the connection was lost during the commit, so it is not known whether this was recorded; "
            "read again what is stored before you repeat it"
        )

    # -- fork and end ---------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Nothing has to be put away: the child leaves the parent's connections alone."""

    def after_fork(self, *, in_child: bool) -> None:
        """In the child, begin anew; the parent's connections stay as they are, so that nothing of the child's is sent over them."""
        if in_child:
            closed = self._closed
            _inherited.append((self._pool, self._local, self._writer))
            self._start()
            self._closed = closed

    def close(self) -> None:
        """Close every connection that is not in use, and each of the others when its call has ended. Closing again does nothing."""
        fork.unregister(self)
        with self._guard:
            self._closed = True
            pool = self._pool
        if pool is not None:
            pool.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an open store cannot be copied or pickled; open another one on the same database")


def _break_cycle(error: BaseException | None) -> None:
    """The pool keeps its errors in what their frames hold, and these their callers': a connection among them would outlive its last use."""
    while error is not None:
        error.__traceback__, error = None, error.__context__


_inherited: list[object] = []
"""In a forked child: what belongs to the parent, and must not be closed."""


class _Use:
    """A `with` block on a connection. Errors of the driver leave it by name."""

    __slots__ = ("_connection", "_database", "_own")

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def __enter__(self) -> Connection:
        session = self._database.session
        self._own = session is None
        self._connection = self._database.lend() if session is None else session.connection
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        lost = error is not None and is_lost(error, self._connection.raw)
        if self._own:
            self._database.take_back(self._connection)
        if isinstance(error, faults()):
            raise_named(error, self._database.path, lost=lost)


class _Block:
    """As `_Use`, inside a transaction that is read from or written to."""

    __slots__ = ("__weakref__", "_connection", "_database", "_turn", "_writing")

    def __init__(self, database: PostgresDatabase, *, writing: bool) -> None:
        self._database = database
        self._writing = writing
        self._turn = Turn(self)

    def __enter__(self) -> Connection:
        try:
            self._connection = self._database.enter(self._turn, writing=self._writing)
        except BaseException as error:
            self._database.abandon(self._turn)
            if isinstance(error, faults()):
                raise_named(error, self._database.path, lost=getattr(error, "sqlstate", None) is None)
            raise
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            raw = self._connection.raw
            lost = error is not None and is_lost(error, raw)
            self._database.leave(self._turn, writing=self._writing, failed=error is not None)
        except BaseException as problem:
            self._database.abandon(self._turn)
            if isinstance(problem, faults()):
                raise_named(problem, self._database.path, lost=is_lost(problem, self._connection.raw))
            raise
        if isinstance(error, faults()):
            raise_named(error, self._database.path, lost=lost)
