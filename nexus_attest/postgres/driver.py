"""psycopg as this package uses it: how a connection is set up, how the engine's statements are sent, and errors by name.

The engine writes `?` for a value and takes rows apart by position and by name, as SQLite gives them. PostgreSQL's `text` cannot hold
U+0000, which SQLite's can, and ids and names may: it is stored as U+0001 U+0001, and U+0001 as U+0001 U+0002. Texts without either, which
is nearly all, are stored as they are.
"""

import logging
import re
import select
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, lru_cache
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast
from weakref import WeakKeyDictionary

from nexus_attest.postgres.address import parsed
from nexus_attest.postgres.errors import PostgresDriverMissing
from nexus_control.errors import (
    InputError,
    StoreBusy,
    StoreConflict,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnreadable,
)
from nexus_control.log import INSERT_LEAF

if TYPE_CHECKING:
    import psycopg
    import psycopg_pool

__all__ = [
    "LOCK_TIMEOUT_SECONDS",
    "Inserted",
    "PgConnection",
    "Pool",
    "Raw",
    "connect",
    "faults",
    "is_aborted",
    "is_lost",
    "open_pool",
    "raise_named",
    "roll_back",
    "run",
    "stored_text",
    "stored_texts",
]

LOCK_TIMEOUT_SECONDS = 30
"""So long a writer waits for the others."""

_POOL_TIMEOUT_SECONDS = 10
"""So long a call waits for a connection, while the server restarts or all of them are in use."""

_ROWS_PER_INSERT = 64

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "fallback_application_name": "nexus-attest",
    # A host that vanished is noticed within a minute, not after the two hours that are the default of most systems.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Connection parameters for which an address may say something else."""

# Plans are made once per connection, maybe while the tables are empty: what each of our queries needs later is an index. Where there is
# none the plan counts as a costly one, but nothing of ours is worth compiling.
# A commit that is acknowledged must be durable, also where the server's default says otherwise; stronger settings stay.
# Whoever holds the write lock and is not heard of any more loses it.
_SESSION = """
    SET search_path = {schema}, pg_temp;
    SET lock_timeout = '{lock_timeout}s';
    SET idle_in_transaction_session_timeout = '300s';
    SET enable_seqscan = off;
    SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
    SELECT pg_backend_pid()"""

if TYPE_CHECKING:
    Raw: TypeAlias = psycopg.Connection[Any]
    Pool: TypeAlias = psycopg_pool.ConnectionPool[Raw]
else:
    Raw = Pool = Any


class PgConnection:
    """A connection as the engine's statements want it, and the pool that it goes back to.

    `leaf` is the last leaf of the log that was inserted: position and hash.
    """

    __slots__ = ("leaf", "pool", "raw")

    def __init__(self, raw: Raw, pool: Pool | None = None) -> None:
        self.raw = raw
        self.pool = pool
        self.leaf: tuple[int, bytes] | None = None

    @property
    def server_process(self) -> int:
        """The process of the server that serves, or served, this connection."""
        return _server_processes[self.raw]

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Any:
        """Run one statement, with `?` for each parameter."""
        return self.raw.execute(cast("Any", _statement(sql)), parameters)

    def executemany(self, sql: str, rows: Sequence[Any], /) -> "Inserted":
        """Insert rows by a statement that ends with one list of `?`, many rows to a round trip."""
        if sql == INSERT_LEAF and rows:
            position, leaf_hash, _ = rows[-1]
            self.leaf = position, leaf_hash
        inserted = 0
        for start in range(0, len(rows), _ROWS_PER_INSERT):
            some = rows[start : start + _ROWS_PER_INSERT]
            inserted += self.execute(_repeated(sql, len(some)), [value for row in some for value in row]).rowcount
        return Inserted(inserted)

    def stream(self, sql: str) -> Generator[Any]:
        """All rows of a query, fetched a thousand at a time by a cursor on the server. Only inside a transaction."""
        with self.raw.cursor(name=f"nexus_{next(_cursor_numbers)}") as cursor:
            cursor.itersize = 1000
            yield from cursor.execute(cast("Any", _statement(sql)))


_cursor_numbers = count()


class Inserted:
    """The answer to an insertion: how many rows went in, and none to fetch."""

    def __init__(self, rowcount: int) -> None:
        self.rowcount = rowcount

    def fetchone(self) -> None:
        return None

    def fetchall(self) -> list[Any]:
        return []

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def run(raw: Raw, sql: str) -> Any:
    """Run our own SQL as it is: one statement or several, without parameters."""
    return raw.execute(cast("Any", sql))


def roll_back(connection: PgConnection) -> None:
    """Undo what is open on a connection, if it is still there to be asked."""
    if not connection.raw.closed:
        connection.raw.rollback()


@lru_cache(maxsize=512)
def _statement(sql: str) -> str:
    """The engine's SQL as psycopg takes it.

    Nothing is replaced in PostgreSQL, where a writer may only insert: `INSERT OR REPLACE`, which the engine says for cached hashes alone,
    adds a row, or nothing where it is there already.
    """
    head, *rest = sql.split("?")
    sql = head + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
    if "INSERT OR REPLACE" in sql:
        sql = sql.replace("INSERT OR REPLACE", "INSERT") + " ON CONFLICT DO NOTHING"
    return sql


@lru_cache(maxsize=512)
def _repeated(sql: str, times: int) -> str:
    """An INSERT of one row as one of several."""
    if times == 1:
        return sql
    head, _, row = sql.rpartition("VALUES")
    return f"{head}VALUES {', '.join([row.strip()] * times)}"


# -- rows and values ------------------------------------------------------------------------------------------------------------


class _Row(tuple[Any, ...]):
    """Values by position and by column name; a subclass knows the names."""

    __slots__ = ()
    _places: dict[str, int]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self._places[key] if isinstance(key, str) else key)

    def keys(self) -> Iterator[str]:
        """The column names, which make `dict` work."""
        return iter(self._places)


@lru_cache(maxsize=512)
def _row_class(names: tuple[str, ...]) -> type[_Row]:
    return type("_RowOf", (_Row,), {"__slots__": (), "_places": {name: place for place, name in enumerate(names)}})


def _row_factory(cursor: Any) -> Callable[[Sequence[Any]], _Row]:
    description = cursor.description
    return _row_class(tuple(column.name for column in description)) if description else _Row


_ESCAPES = {"\0": "\x01\x01", "\x01": "\x01\x02"}
_ORIGINALS = {escape: character for character, escape in _ESCAPES.items()}
_to_escape = re.compile("[\0\x01]")
_escaped = re.compile("\x01[\x01\x02]")


def stored_text(text: str) -> bytes:
    """The UTF-8 bytes of a text as it is stored."""
    return _to_escape.sub(lambda found: _ESCAPES[found[0]], text).encode()


def stored_texts(texts: Sequence[str]) -> Sequence[bytes]:
    """As `stored_text`, for many texts, of which hardly any has something to escape."""
    if _to_escape.search("".join(texts)):
        return [stored_text(text) for text in texts]
    return [text.encode() for text in texts]


@cache
def _adapters() -> Any:
    """psycopg's way with each type, but for texts and integers."""
    import psycopg
    from psycopg.adapt import AdaptersMap, Dumper, Loader
    from psycopg.types.numeric import Int8Dumper

    class TextDumper(Dumper):
        def dump(self, obj: str) -> bytes:
            return stored_text(obj)

    class TextLoader(Loader):
        def load(self, data: Any) -> str:
            text = str(data, "utf-8")
            return _escaped.sub(lambda found: _ORIGINALS[found[0]], text) if "\x01" in text else text

    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(str, TextDumper)
    adapters.register_dumper(int, Int8Dumper)  # one type, and so one prepared statement, for small and for large numbers
    adapters.register_loader("text", TextLoader)
    return adapters


# -- opening --------------------------------------------------------------------------------------------------------------------


def connect(address: str, schema: str) -> Raw:
    """One connection, in autocommit mode. Raises StoreUnreachable, InputError for an address that libpq does not take."""
    import psycopg

    try:
        raw = psycopg.connect(**_parameters(address))
    except psycopg.Error as error:
        raise_named(error, "", lost=True)
    try:
        _set_up(raw, schema)
    except psycopg.Error as error:
        raw.close()
        raise_named(error, "", lost=is_lost(error, raw))
    return raw


def open_pool(address: str, schema: str, size: int, when_made: Callable[[Raw], object] = lambda _: None) -> Pool:
    """A pool of up to `size` connections, opened as they are needed, and tried before use where the server has said something.

    `when_made` is told of each that was opened.
    """
    import psycopg_pool

    def configure(raw: Raw) -> None:
        _set_up(raw, schema)
        when_made(raw)

    logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())  # what it would print to standard error is in our errors
    return psycopg_pool.ConnectionPool(
        kwargs=_parameters(address),
        min_size=0,
        max_size=size,
        timeout=_POOL_TIMEOUT_SECONDS,
        configure=configure,
        check=_require_alive,
        open=True,
        name="nexus-attest",
    )


def require_driver() -> None:
    """Raises PostgresDriverMissing."""
    try:
        for name in ("psycopg", "psycopg_pool"):
            import_module(name)
    except ImportError as error:
        raise PostgresDriverMissing(f"PostgreSQL needs psycopg: pip install 'nexus-attest[postgres]' ({error})") from None


def _parameters(address: str) -> dict[str, Any]:
    require_driver()
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    parts = parsed(address)
    try:
        given = conninfo_to_dict(address)
    except psycopg.Error as error:
        # libpq repeats what it does not understand, which may be a part of the password.
        reason = "" if "@" in parts.netloc or "password" in parts.query else f": {error!s:.300}".rstrip()
        raise InputError(f"libpq does not take this address of a PostgreSQL store{reason}") from None
    own: dict[str, Any] = {
        "autocommit": True,
        # Takes $1, $2 ... as PostgreSQL itself does. psycopg would look for its own %s in every long statement anew, which takes longer
        # than all else.
        "cursor_factory": psycopg.RawCursor,
        "context": _Context(_adapters()),
        "row_factory": _row_factory,
        "client_encoding": "utf8",
    }
    return {**_DEFAULTS, **given, **own}


class _Context:
    """What psycopg takes adapters from."""

    connection = None

    def __init__(self, adapters: Any) -> None:
        self.adapters = adapters


def _set_up(raw: Raw, schema: str) -> None:
    import psycopg

    raw.server_cursor_factory = psycopg.RawServerCursor
    answers = run(raw, _SESSION.format(schema=schema, lock_timeout=LOCK_TIMEOUT_SECONDS))
    while answers.nextset():
        pass
    _server_processes[raw] = answers.fetchone()[0]


_server_processes: "WeakKeyDictionary[Raw, int]" = WeakKeyDictionary()
"""As the server tells it: what libpq knows is what a pooler in between has made up."""


def _require_alive(raw: Raw) -> None:
    """Raises psycopg.Error for a connection that the server has closed. An idle one is silent, so most cost no round trip."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(raw.fileno(), select.POLLIN)
        if not poll.poll(0):
            return
    raw.execute("SELECT 1")


# -- errors ---------------------------------------------------------------------------------------------------------------------


@cache
def faults() -> tuple[type[Exception], ...]:
    """What a statement may raise."""
    import psycopg

    return (psycopg.Error,)


def is_lost(error: BaseException, raw: Raw) -> bool:
    """Whether this error means that the connection, and with it the transaction, is gone."""
    return raw.closed or _tells_of_loss(error)


def is_aborted(raw: Raw) -> bool:
    """Whether a statement of the open transaction failed, so that the server refuses all others until it is rolled back."""
    from psycopg.pq import TransactionStatus

    return raw.pgconn.transaction_status == TransactionStatus.INERROR


def _tells_of_loss(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith("08") or state in _SHUT_DOWN


_SHUT_DOWN = frozenset({"57P01", "57P02", "57P03", "25P03"})

_RETRY = "try again"
_RESTORE = "the tables were changed by others; `nexus-attest log verify` tells more, a backup brings them back"

# https://www.postgresql.org/docs/current/errcodes-appendix.html: the code or its class, our class, and what to do next.
_BY_STATE: dict[str, tuple[type[Exception], str]] = {
    "08": (StoreUnreachable, "nothing was written; " + _RETRY),
    "22": (InputError, "nothing was written"),
    "23": (StoreConflict, "read again what is stored; `nexus-attest log verify` tells whether it is sound"),
    "25006": (StoreReadOnly, "this server, maybe a standby, takes no writes; name the primary"),
    "40": (StoreBusy, "nothing was written; " + _RETRY),
    "42501": (StoreReadOnly, "connect as a member of nexus_writer, or have the owner run `nexus-attest db init`"),
    "42": (StoreUnreadable, _RESTORE),
    "3F": (StoreUnreadable, _RESTORE),
    "53100": (StoreFull, "free some space on the server, then repeat the call; nothing was written"),
    "53": (StoreBusy, "the server is short of resources; nothing was written; " + _RETRY),
    "54000": (InputError, "PostgreSQL indexes ids and names of up to some 2,600 bytes; nothing was written"),
    "55P03": (StoreBusy, "another writer holds the lock; " + _RETRY),
    "57014": (StoreBusy, "the server cancelled it; nothing was written; " + _RETRY),
    "57": (StoreUnreachable, "the server is going down or coming up; nothing was written; " + _RETRY),
    "58": (StoreError, "check the server's disk and log"),
    "XX": (StoreUnreadable, "the server's data is damaged; restore a backup"),
}


def raise_named(error: BaseException, path: str, *, lost: bool) -> NoReturn:
    """Raise the store's own error for one of psycopg, or the same one where a caller must see it (misuse)."""
    import psycopg
    import psycopg_pool

    where = f"{path}: " if path else ""
    if isinstance(error, psycopg_pool.PoolTimeout):
        raise StoreUnreachable(
            f"{where}no connection within {_POOL_TIMEOUT_SECONDS} s; check that the server runs and has room for more, then try again; "
            "nothing was written"
        ) from None
    if not isinstance(error, psycopg.Error):
        raise error
    text = " ".join(str(error).split())
    if lost or _tells_of_loss(error):
        raise StoreUnreachable(f"{where}{text:.500} (nothing was written; check address, password and server, then try again)") from error
    state = error.sqlstate
    if state is None:  # by the driver, for a call that it does not allow
        raise error
    make, advice = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or (StoreError, "nothing was written")
    raise make(f"{where}{text:.500} ({advice})") from error
