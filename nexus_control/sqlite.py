"""SQLite as this package uses it: how a file is opened, how a transaction begins, and errors by name.

The only module that imports `sqlite3`. Errors of SQLite leave the package as `StoreError`s that are `sqlite3` errors as well.
"""

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

from nexus_control.errors import (
    CommitUnknown,
    DecisionExists,
    SchemaMissing,
    StoreBusy,
    StoreClosed,
    StoreConflict,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnreadable,
    TemplateExists,
)

__all__ = [
    "APPLICATION_ID",
    "BUSY_TIMEOUT_SECONDS",
    "FAULTS",
    "Connection",
    "SqliteClosed",
    "SqliteDecisionExists",
    "SqliteError",
    "SqliteSchemaMissing",
    "SqliteTemplateExists",
    "be_patient",
    "begin",
    "end",
    "limit_patience",
    "make_first_commit",
    "mark_ours",
    "number",
    "open_file",
    "open_memory",
    "raise_named",
    "refuse_stand_ins",
    "require_ours",
    "start_log_over",
    "switch_to_wal",
    "take_back",
    "write_over",
]

Connection = sqlite3.Connection

FAULTS = (sqlite3.Error, OverflowError, UnicodeDecodeError)
"""What a statement may raise, for `except`; `raise_named` gives each its name. The driver cannot even tell an error about a damaged schema
whose names are no UTF-8."""

APPLICATION_ID = 0x4E415454
"""`PRAGMA application_id` of our files: "NATT"."""

BUSY_TIMEOUT_SECONDS = 30.0

_LOOK_EVERY_MS = 1
"""How often a connection looks whether a lock is free. SQLite itself looks less and less often, in the end every 100 ms, so that writers
without a pause would keep all others out for seconds; and telling it before each transaction takes as long as beginning one."""

_BUSY, _READ_ONLY, _FULL, _CANNOT_OPEN, _AUTH = 5, 8, 13, 14, 23
_BUSY_SNAPSHOT = 517
_RESTORE = "the file was changed by others; `nexus-attest log verify` tells more, a backup brings it back"


class SqliteDecisionExists(DecisionExists, sqlite3.IntegrityError):
    """`DecisionExists` as SQLite raises it."""


class SqliteTemplateExists(TemplateExists, sqlite3.IntegrityError):
    """`TemplateExists` as SQLite raises it."""


class _SqliteBusy(StoreBusy, sqlite3.OperationalError):
    pass


class _SqliteConflict(StoreConflict, sqlite3.IntegrityError):
    pass


class _SqliteCommitUnknown(CommitUnknown, sqlite3.OperationalError):
    pass


class _SqliteFull(StoreFull, sqlite3.OperationalError):
    pass


class _SqliteReadOnly(StoreReadOnly, sqlite3.OperationalError):
    pass


class _SqliteUnreadable(StoreUnreadable, sqlite3.DatabaseError):
    pass


class _SqliteStrange(StoreUnreadable, sqlite3.OperationalError):
    pass


class SqliteError(StoreError, sqlite3.OperationalError):
    pass


class SqliteSchemaMissing(SchemaMissing, sqlite3.OperationalError):
    pass


class SqliteClosed(StoreClosed, sqlite3.ProgrammingError):
    pass


_FREE_SPACE = "free some space, then repeat the call; nothing was written"
# https://www.sqlite.org/rescode.html: class and what to do next. Where an extended code is not here, its primary code counts.
_BY_CODE: dict[int, tuple[Callable[[str], StoreError], str]] = {
    1: (_SqliteStrange, _RESTORE),
    5: (_SqliteBusy, "another process holds the write lock; try again"),
    6: (_SqliteBusy, "another connection holds the lock; try again"),
    8: (_SqliteReadOnly, "make the file and its folder writable"),
    10: (SqliteError, "check the disk, then run `nexus-attest log verify`"),
    11: (_SqliteUnreadable, "the file is damaged; restore a backup"),
    13: (_SqliteFull, _FREE_SPACE),
    14: (SqliteError, "check that the folder exists and may be written"),
    18: (_SqliteUnreadable, _RESTORE),
    19: (_SqliteConflict, "read again what is stored; `nexus-attest log verify` tells whether it is sound"),
    23: (_SqliteUnreadable, _RESTORE),
    26: (_SqliteUnreadable, "the file is no SQLite database"),
    4874: (_SqliteFull, _FREE_SPACE),  # SQLITE_IOERR_SHMSIZE: no space for the index of the log, which opening the file makes
}


def raise_named(error: sqlite3.Error | OverflowError | UnicodeDecodeError, path: str) -> NoReturn:
    """Raise the store's own error for one of SQLite, or the same one where a caller must see it (misuse)."""
    if isinstance(error, StoreError):
        raise error
    if isinstance(error, OverflowError):  # by the driver, for a number beyond 64 bits: what is asked for is one past what is stored
        raise _SqliteUnreadable(f"{path}: a stored number is larger than any that a store writes ({_RESTORE})") from error
    if isinstance(error, UnicodeDecodeError):
        raise _SqliteUnreadable(f"{path}: it holds names that are no text ({_BY_CODE[11][1]})") from error
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and isinstance(error, sqlite3.OperationalError):  # by the driver, for a TEXT value that is not UTF-8
        raise _SqliteUnreadable(f"{path}: {error!s:.300}") from error
    if code is None and isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        raise SqliteClosed("this store was closed; open a new one") from error
    found = None if code is None else _BY_CODE.get(code) or _BY_CODE.get(code & 0xFF)
    if found is None:
        raise error
    make, advice = found
    raise make(f"{path}: {error} ({advice})") from error


# -- opening --------------------------------------------------------------------------------------------------------------------


def open_memory() -> Connection:
    """A private database in memory, in autocommit mode, for any thread."""
    return _connect(":memory:")


def open_file(path: str, *, must_exist: bool, read_only: bool = False) -> tuple[Connection, bool]:
    """A connection to the file at an absolute path, and whether it is for reading only; the file is made unless it `must_exist`.

    Reading only is for whoever asks for it, a file or folder without write permission, or read-only media. There SQLite cannot make the
    index that its write-ahead log needs; a file that has no log left is then read as immutable
    (https://www.sqlite.org/wal.html#read_only_databases). Raises StoreUnreadable where SQLite's own file beside it is a pipe or a link.
    """
    _require_own_files(path)
    if not must_exist and not read_only and not os.path.lexists(path):
        return _connect(path), False
    uri, log = Path(path).as_uri(), Path(path + "-wal")
    if not read_only and os.access(path, os.W_OK) and (os.access(Path(path).parent, os.W_OK) or log.exists()):
        return _connect(f"{uri}?mode=rw"), False
    connection = _connect(f"{uri}?mode=ro")
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode & 0xFF not in (_READ_ONLY, _CANNOT_OPEN) or (log.exists() and log.stat().st_size):
            raise
        connection = _connect(f"{uri}?immutable=1")
    return connection, True


def _require_own_files(path: str) -> None:
    """Raises StoreUnreadable where something else stands in the place of a file that SQLite keeps: it would wait for a pipe without end."""
    whole = os.path.realpath(path)
    for file in (Path(f"{whole}{end}") for end in ("-journal", "-wal", "-shm")):
        try:
            mode = file.lstat().st_mode
        except OSError:  # it is not there, or whoever opens the store says what is wrong with its folder
            continue
        if not stat.S_ISREG(mode):
            raise _SqliteUnreadable(f"{file}: it is no regular file, and not one of SQLite, which keeps a file there; remove it")


class _OwnConnection(sqlite3.Connection):
    """Waits its turn, and closes itself before it is collected as garbage.

    Its owner closes it, but a garbage collector that finds both may come to the connection first, and from Python 3.13 on a connection
    that is then still open is a ResourceWarning.
    """

    is_open = False
    is_patient = True
    was_denied = False
    """Whether its authorizer ever said no, rather than be interrupted, which SQLite takes for a no as well."""
    patience_ms = 0
    """How long a statement may wait for the locks of others."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As its parent's. A statement that found the file locked has done nothing, and is tried again until the patience is over."""
        try:
            return super().execute(sql, parameters)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) == _AUTH and not self.was_denied:
                if self._is_refused(sql, parameters):
                    raise
                raise KeyboardInterrupt from error
            if not self.is_patient or not _is_locked(error):
                raise
        deadline = time.monotonic() + self.patience_ms / 1000
        while True:
            time.sleep(_LOOK_EVERY_MS / 1000)
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                if not _is_locked(error) or time.monotonic() >= deadline:
                    raise

    def _is_refused(self, sql: str, parameters: Any) -> bool:
        """Whether it is refused again: so where a name in the file is no text, which the driver cannot ask the authorizer about."""
        try:
            super().execute(f"EXPLAIN {sql}", parameters)
        except sqlite3.DatabaseError as error:
            return getattr(error, "sqlite_errorcode", None) == _AUTH
        return False

    def __del__(self) -> None:
        if self.is_open:  # what could not be opened cannot be closed
            self.close()


def _is_locked(error: sqlite3.Error) -> bool:
    """Whether somebody else's lock is in the way: one that will be released, unlike a snapshot that became too old to write from."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == _BUSY and code != _BUSY_SNAPSHOT


def _connect(name: str) -> Connection:
    uri = name.startswith("file:")
    connection = sqlite3.connect(name, timeout=0, isolation_level=None, check_same_thread=False, uri=uri, factory=_OwnConnection)
    connection.is_open = True
    connection.patience_ms = int(BUSY_TIMEOUT_SECONDS * 1000)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def switch_to_wal(connection: Connection) -> None:
    """Put the file into WAL mode, which persists. Two processes doing so at once collide without waiting, hence the loop."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != _BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def be_patient(connection: Connection, *, patient: bool) -> None:
    """Whether statements on a connection of ours wait for the locks of others, as long as it has patience, or fail at once."""
    if isinstance(connection, _OwnConnection):
        connection.is_patient = patient


def limit_patience(connection: Connection, milliseconds: int) -> None:
    """Let a connection wait no longer than this for the locks of others: SQLite itself does then, inside a checkpoint too."""
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
    be_patient(connection, patient=False)


# -- whose file -----------------------------------------------------------------------------------------------------------------


def require_ours(connection: Connection, path: str, known: Collection[str] = ()) -> None:
    """Raises StoreUnreadable for a SQLite file that another program made: nothing is written into it.

    `known` are tables of others that the caller can work with; a file that has nothing else may become ours.
    """
    if not _is_marked_or_new(connection, known):
        raise _SqliteUnreadable(f"{path}: this SQLite file was not made by nexus-attest; name another file for the store")


def refuse_stand_ins(connection: Connection, tables: Collection[str]) -> None:
    """From here on, a statement that would read a view in the place of one of these tables is refused, and everything recursive is.

    No schema of ours has either. Whoever made the file could keep whoever reads it waiting for ever by them.
    """

    def judge(action: int, _: str | None, __: str | None, ___: str | None, inside: str | None) -> int:
        # `inside` is the view, trigger or common table expression in which the access stands.
        if action == sqlite3.SQLITE_RECURSIVE or (inside is not None and inside.lower() in tables):
            if isinstance(connection, _OwnConnection):
                connection.was_denied = True
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    connection.set_authorizer(judge)


def mark_ours(connection: Connection, known: Collection[str] = ()) -> None:
    """Mark a file that nobody has written to, or that `require_ours` accepts; a file that somebody else began stays theirs."""
    if _is_marked_or_new(connection, known):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


def _is_marked_or_new(connection: Connection, known: Collection[str]) -> bool:
    # One statement: another process may be making the file.
    mark, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT json_group_array(tbl_name) FROM sqlite_schema) "
        "FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    return mark == APPLICATION_ID or not (mark or version or set(json.loads(tables)).difference(known))


def number(connection: Connection, pragma: str) -> int:
    """The value of a pragma that is a number."""
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


# -- transactions ---------------------------------------------------------------------------------------------------------------


def begin(connection: Connection, statement: str, *, joins: bool) -> tuple[str, str]:
    """Begin a transaction, or a part of the owner's that is open already; gives the statement that ends it and the one that undoes it."""
    if joins:
        connection.execute("SAVEPOINT nexus")
        return "RELEASE nexus", "ROLLBACK TO nexus"
    if connection.in_transaction:  # left behind by an interrupt; nobody was told that it had been committed
        connection.execute("ROLLBACK")
    connection.execute(statement)
    return "COMMIT", "ROLLBACK"


def end(connection: Connection, statement: str, path: str) -> None:
    """End a transaction that writes with the first statement that `begin` gave, so that what is refused here is not stored.

    When the sync of a commit fails, all of it is in the write-ahead log already: nobody reads it there, but who opens the file after its
    last user died takes it for a commit that was made (https://www.sqlite.org/fileformat2.html#walformat). The next commit is written
    over it. So one that changes nothing is made here. Raises CommitUnknown where that is refused too; `take_back` tries again.
    """
    try:
        connection.execute(statement)
    except (sqlite3.Error, MemoryError) as refused:
        # Of SQLITE_FULL not all is in the log: the last frame, which makes a commit of the others, is written last, and none behind it
        # (powersafe overwrite is on, as by default). After EFBIG, EDQUOT and EROFS that is so too. But SQLite calls them SQLITE_IOERR_WRITE
        # as it does EIO, after which a write may have reached the disk, and the driver does not tell one from the other.
        if connection.in_transaction or getattr(refused, "sqlite_errorcode", None) == _FULL:
            raise
        try:
            write_over(connection)
        except Exception as again:
            raise _SqliteCommitUnknown(
                f"{path}: {refused}, and what was refused could not be taken back for certain: {again} "
                "(check the disk, then read again what is stored)"
            ) from refused
        raise


def take_back(connection: Connection, path: str) -> None:
    """Try again what `end` could not do. No harm where another commit was written over it already, or where the file now shows it.

    Raises CommitUnknown where it is refused again; SQLite's own error while another connection writes, who does the same.
    """
    try:
        write_over(connection)
    except Exception as again:
        if isinstance(again, sqlite3.Error) and _is_locked(again):
            raise
        raise _SqliteCommitUnknown(
            f"{path}: nothing of this call was written, because an earlier commit could not be taken back for certain: {again} "
            "(check the disk, then repeat the call)"
        ) from again


def write_over(connection: Connection) -> None:
    """Commit a page that says what it said, at the end of what the write-ahead log holds for its readers."""
    begin(connection, "BEGIN IMMEDIATE", joins=False)
    try:
        connection.execute(f"PRAGMA user_version = {number(connection, 'user_version')}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def make_first_commit(connection: Connection) -> None:
    """Commit what changes nothing on a new connection, so that its next commit syncs once, unless another one writes or the disk refuses.

    The first sync of a connection is one of the log's folder as well, and the first of an empty log one of its header.
    """
    be_patient(connection, patient=False)
    try:
        write_over(connection)
    except FAULTS:  # who only reads must not be refused for this; who writes is told by the next commit
        return
    finally:
        be_patient(connection, patient=True)


def start_log_over(connection: Connection) -> None:
    """Copy all of the write-ahead log into the database and make the first commit of the log that follows, in one call.

    Where a reader keeps the log from starting over, the commit keeps it so until the next time. Raises SQLite's own errors.
    """
    # As a script, so that nobody who waits for the lock gets it in between: the first commit of a log syncs its header as well. Every file
    # of ours has this mark.
    connection.executescript(f"PRAGMA wal_checkpoint(RESTART); BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; COMMIT;")
