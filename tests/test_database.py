"""Connections, transactions and schema versions over SQLite, on healthy and on failing machines."""

import copy
import gc
import os
import pickle
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from interruption_testing import interrupting
from store_testing import environment, foreign, in_child, quick_folder

import nexus_control.database
import nexus_control.session
import nexus_control.sqlite
import nexus_control.wal
from nexus_control.database import Database
from nexus_control.errors import (
    CommitUnknown,
    InputError,
    SchemaTooNew,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnreadable,
)
from nexus_control.migration import Schema
from nexus_control.session import Session
from nexus_control.sqlite import APPLICATION_ID, begin, limit_patience, open_file, start_log_over, take_back
from nexus_control.store import DecisionStore

TABLE = "CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL UNIQUE, text TEXT) STRICT"
SCHEMA = Schema("test", slot=0, migrations=((TABLE,),))
INSERT = "INSERT INTO t (n, text) VALUES (?, ?)"

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list open files under /proc")


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder / "store.db"


@pytest.fixture(params=[":memory:", "file"])
def db(request: pytest.FixtureRequest, path: Path) -> Iterator[Database]:
    database = Database(":memory:" if request.param == ":memory:" else path, SCHEMA)
    yield database
    database.close()


@pytest.fixture
def file_db(path: Path) -> Iterator[Database]:
    database = Database(path, SCHEMA)
    yield database
    database.close()


def add(db: Database, n: int, text: str = "") -> None:
    with db.transaction() as connection:
        connection.execute(INSERT, (n, text))


def numbers(db: Database) -> list[int]:
    with db.reading() as connection:
        return [row["n"] for row in connection.execute("SELECT n FROM t ORDER BY n")]


def setting(db: Database, name: str) -> object:
    with db.reading() as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def open_descriptors(path: Path) -> int:
    """How many descriptors of this process are open on the database's main file."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            count += str(link.readlink()) == str(path)
    return count


@contextmanager
def inside_another_thread(db: Database) -> Generator[None]:
    """While another thread stands in a transaction."""
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        with db.transaction():
            inside.set()
            release.wait(100)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    try:
        yield
    finally:
        release.set()
        thread.join()


def run_in_thread(*work: object) -> None:
    threads = [threading.Thread(target=one) for one in work]  # pyright: ignore[reportArgumentType]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# -- settings


def test_a_thread_can_have_reads_that_wait_for_nobody(file_db: Database, path: Path) -> None:
    with file_db.reading() as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # in WAL mode nobody can keep readers out
    block = file_db.at_once()
    assert block is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(StoreBusy), block:
            numbers(file_db)
        assert time.monotonic() - began < 20  # and not thirty
        other.execute("ROLLBACK")
        with block:
            assert numbers(file_db) == []


def test_outside_of_such_a_block_reads_wait_for_those_who_keep_everybody_out(file_db: Database, path: Path) -> None:
    with file_db.reading() as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # as above
    block = file_db.at_once()
    assert block is not None
    with block:
        assert numbers(file_db) == []
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute(INSERT, (1, ""))
        timer = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        timer.start()
        assert numbers(file_db) == [1]
        timer.join()


def test_a_file_can_be_opened_for_reading_only(path: Path) -> None:
    with closing(Database(path, SCHEMA)) as db:
        add(db, 1)
    before = path.read_bytes()
    with closing(Database(path, SCHEMA, read_only=True)) as db:
        assert numbers(db) == [1]
        with pytest.raises(StoreReadOnly):
            add(db, 2)
        assert path.read_bytes() == before
        with closing(Database(path, SCHEMA)) as other:
            add(other, 3)
            assert numbers(db) == [1, 3], "what others write is seen"


@pytest.mark.parametrize("content", [b"", None])
def test_for_reading_only_a_file_is_neither_made_nor_given_a_schema(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        Database(path, SCHEMA, read_only=True)
    assert caught.value.code == ("STORE_ERROR" if content is None else "SCHEMA_MISSING")
    assert (path.read_bytes() if path.exists() else None) == content


def test_nobody_is_promised_not_to_wait_who_would_have_to(file_db: Database) -> None:
    seen: list[object] = []
    run_in_thread(lambda: seen.append(file_db.at_once()))
    file_db.close()
    with closing(Database(":memory:", SCHEMA)) as memory:
        seen.extend([file_db.at_once(), memory.at_once()])
    assert seen == [None] * 3


def test_a_file_is_opened_with_wal_full_sync_and_foreign_keys(file_db: Database) -> None:
    assert setting(file_db, "journal_mode") == "wal"
    assert setting(file_db, "synchronous") == 2
    assert setting(file_db, "foreign_keys") == 1


def test_connections_of_further_threads_have_the_same_settings(file_db: Database) -> None:
    seen: list[object] = []
    run_in_thread(lambda: seen.extend(setting(file_db, name) for name in ("journal_mode", "synchronous", "foreign_keys")))
    assert seen == ["wal", 2, 1]


def test_memory_databases_check_foreign_keys_and_share_nothing() -> None:
    first, second = Database(":memory:", SCHEMA), Database(Path(":memory:"), SCHEMA)
    add(first, 1)
    assert setting(first, "foreign_keys") == 1
    assert (numbers(first), numbers(second)) == ([1], [])
    first.close()
    second.close()


def test_two_databases_on_one_file_see_what_the_other_committed(path: Path) -> None:
    with closing(Database(path, SCHEMA)) as first, closing(Database(str(path), SCHEMA)) as second:
        add(first, 1)
        add(second, 2)
        assert numbers(first) == numbers(second) == [1, 2]


def test_a_relative_path_means_the_same_file_after_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with closing(Database("store.db", SCHEMA)) as db:
        assert db.path == str(tmp_path / "store.db")
        monkeypatch.chdir(tmp_path / "elsewhere")
        run_in_thread(lambda: add(db, 1))
        assert numbers(db) == [1]
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- what cannot be opened


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(InputError, match="db_path must be a path or a non-empty text, got ''"):
        Database("", SCHEMA)


@pytest.mark.parametrize("value", [None, 5, ["x"], b"x.db", "a\0b", "/tmp/\ud800.db", Path("\ud800")])
def test_what_is_no_path_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="db_path must be a path or a non-empty text, got"):
        Database(value, SCHEMA)  # pyright: ignore[reportArgumentType]


def test_a_missing_folder_is_an_operational_error_that_names_the_path(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "store.db"
    with pytest.raises(sqlite3.OperationalError) as caught:
        Database(path, SCHEMA)
    assert isinstance(caught.value, StoreError)
    assert str(path) in str(caught.value)
    assert not path.parent.exists()


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Database(tmp_path, SCHEMA)
    assert isinstance(caught.value, sqlite3.OperationalError)


def test_a_text_file_is_no_database_and_is_left_alone(path: Path) -> None:
    path.write_text("This is a letter, and long enough to be mistaken for a header of one hundred bytes. " * 20)
    before = path.read_bytes()
    with pytest.raises(StoreUnreadable) as caught:
        Database(path, SCHEMA)
    assert isinstance(caught.value, sqlite3.DatabaseError)
    assert path.read_bytes() == before


def test_a_damaged_page_is_reported_when_it_is_read(path: Path) -> None:
    with closing(Database(path, SCHEMA)) as db, db.transaction():
        for n in range(200):
            add(db, n, "x" * 200)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with closing(Database(path, SCHEMA)) as db, pytest.raises(StoreUnreadable, match="damaged"):
        numbers(db)


def test_a_failed_opening_leaves_no_descriptor_open(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no database " * 100)
    with pytest.raises(StoreUnreadable):
        Database(path, SCHEMA)
    gc.collect()
    assert not Path("/proc/self/fd").exists() or open_descriptors(path) == 0


# -- whose file it is


@pytest.mark.parametrize("made_by", ["CREATE TABLE theirs (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"])
def test_a_file_of_another_program_is_refused_and_not_touched(path: Path, made_by: str) -> None:
    with closing(foreign(path)) as other:
        other.execute(made_by)
    before = path.read_bytes()
    with pytest.raises(StoreUnreadable, match="not made by nexus-attest; name another file"):
        Database(path, SCHEMA)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["store.db"]


def test_a_file_of_ours_is_marked_and_one_we_were_lent_is_not(path: Path) -> None:
    Database(path, SCHEMA).close()
    assert setting_of(path, "application_id") == 0x4E415454
    with closing(foreign(path.with_name("lent.db"))) as lent:
        lent.execute("CREATE TABLE theirs (x)")
        Database.adopt(lent, SCHEMA).close()
        assert lent.execute("PRAGMA application_id").fetchone()[0] == 0


def test_a_file_that_lost_a_table_is_named_when_the_table_is_needed(path: Path) -> None:
    with closing(Database(path, SCHEMA)) as db:
        with closing(foreign(path)) as other:
            other.execute("DROP TABLE t")
        with pytest.raises(StoreUnreadable, match="no such table: t") as caught:
            numbers(db)
    assert isinstance(caught.value, sqlite3.OperationalError)


def test_a_number_that_sqlite_cannot_hold_is_a_store_error(db: Database) -> None:
    with pytest.raises(StoreUnreadable, match="larger than any that a store writes"):
        add(db, 2**63)
    assert numbers(db) == []


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_file_that_is_gone_takes_no_more_writes(path: Path, replaced: bool) -> None:
    db = Database(path, SCHEMA)
    add(db, 1)
    kept = path.with_name("kept.db")
    path.rename(kept)
    if replaced:
        Database(path, SCHEMA).close()
    caught: list[str] = []

    def use() -> None:
        for action in (lambda: add(db, 2), lambda: print(numbers(db))):
            with pytest.raises(StoreError, match="was removed or replaced while this store was open") as error:
                action()
            caught.append(error.value.code)

    use()
    run_in_thread(use)  # which has no connection yet, and must not make a new file
    assert caught == ["STORE_ERROR"] * 4
    assert path.exists() == replaced
    if not replaced:
        kept.rename(path)
        add(db, 3)
        assert numbers(db) == [1, 3]
    db.close()


def test_a_store_on_media_that_cannot_be_written_is_read(public_folder: Path) -> None:
    path = public_folder / "store.db"
    with closing(Database(path, SCHEMA)) as db:
        add(db, 1)
    path.chmod(0o444)
    public_folder.chmod(0o555)

    def child() -> str:
        if os.getuid() == 0:  # whom no permission stops
            os.setgid(65534)
            os.setuid(65534)
        with closing(Database(path, SCHEMA)) as db:
            seen = numbers(db)
            with pytest.raises(StoreReadOnly):
                add(db, 2)
            return f"{seen}"

    answer = in_child(child)
    public_folder.chmod(0o755)
    assert answer == "[1]"
    assert [entry.name for entry in public_folder.iterdir()] == ["store.db"]


# -- schema versions


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_file_of_a_newer_schema_is_refused_and_not_touched(path: Path, journal_mode: str) -> None:
    with closing(foreign(path)) as other:
        other.execute(f"PRAGMA journal_mode = {journal_mode}")
        other.execute("CREATE TABLE of_the_future (x)")
        other.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match="the test schema of this file has version 2, this release knows 1"):
        Database(path, SCHEMA)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["store.db"]


def test_only_the_migrations_that_a_file_lacks_are_applied(path: Path) -> None:
    first, second = "CREATE TABLE a (x)", "CREATE TABLE b (x)"
    Database(path, Schema("test", 0, ((first,),))).close()
    with closing(Database(path, Schema("test", 0, ((first,), (second,))))) as db, db.reading() as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_schema ORDER BY name")] == ["a", "b"]
    assert setting_of(path, "user_version") == 2


def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="syntax error"):
        Database(path, Schema("test", 0, (("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "CREATE NONSENSE"))))
    with closing(foreign(path)) as other:
        assert other.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0
    assert setting_of(path, "user_version") == 0


def test_components_that_share_a_file_count_their_versions_apart(path: Path) -> None:
    queue = Schema("queue", 1, (("CREATE TABLE q1 (x)",), ("CREATE TABLE q2 (x)",)))
    with closing(Database(path, SCHEMA)), closing(Database(path, queue)):
        assert setting_of(path, "user_version") == 0x0201
    with closing(Database(path, SCHEMA)), closing(Database(path, queue)):
        assert setting_of(path, "user_version") == 0x0201


def setting_of(path: Path, name: str) -> object:
    with closing(foreign(path)) as other:
        return other.execute(f"PRAGMA {name}").fetchone()[0]


@needs_fork
def test_processes_that_open_a_fresh_file_at_once_migrate_it_once(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from nexus_control.store import DecisionStore
        sys.stdout.write("ready\\n"); sys.stdout.flush()
        for path in sys.stdin:
            DecisionStore(path.strip()).close()
            sys.stdout.write("done\\n"); sys.stdout.flush()
        """
    )
    processes = [  # all of them ready before the first file is named
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment(),
        )
        for _ in range(4)
    ]
    pipes = [(process.stdin, process.stdout) for process in processes]
    assert [output.readline() for _, output in pipes if output] == ["ready\n"] * 4
    for number in range(10):
        for given, _ in pipes:
            assert given is not None
            given.write(f"{tmp_path / str(number)}\n")
        assert [output.readline() for _, output in pipes if output] == ["done\n"] * 4
    for process in processes:
        process.communicate()
        assert process.returncode == 0


# -- threads and closing


@needs_proc
@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\x00" + b"\xff" * 8176], ids=["other", "damaged"])
def test_a_file_that_cannot_be_read_is_not_left_open_by_who_only_reads(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.db").write_bytes(content)
    gc.disable()
    try:
        with pytest.raises(StoreUnreadable) as caught:
            Database(tmp_path / "x.db", SCHEMA, read_only=True)
        assert open_descriptors(tmp_path / "x.db") == 0, caught
    finally:
        gc.enable()


@needs_proc
def test_a_database_that_is_garbage_closes_its_connections_in_any_order(path: Path) -> None:
    database = Database(path, SCHEMA)
    vars(database)["itself"] = database  # so the garbage collector finds all of it at once, the connection perhaps first
    del database
    gc.collect()
    assert open_descriptors(path) == 0


@needs_proc
def test_the_connection_of_a_thread_is_closed_when_the_thread_ends(file_db: Database, path: Path) -> None:
    before = open_descriptors(path)
    inside: list[int] = []

    def use() -> None:
        numbers(file_db)
        inside.append(open_descriptors(path))

    for _ in range(3):
        run_in_thread(use)
    gc.collect()
    assert inside == [before + 1] * 3
    assert open_descriptors(path) <= before + 1  # SQLite keeps one for the next connection while the file is locked by this process


@needs_proc
def test_a_database_that_nobody_holds_is_closed(path: Path) -> None:
    db = Database(path, SCHEMA)
    add(db, 1)
    del db
    gc.collect()
    assert open_descriptors(path) == 0


@needs_proc
def test_closing_closes_the_connections_of_all_threads_and_leaves_one_file(file_db: Database, path: Path) -> None:
    opened, release = threading.Event(), threading.Event()

    def hold() -> None:
        numbers(file_db)
        opened.set()
        release.wait(100)

    thread = threading.Thread(target=hold)
    thread.start()
    assert opened.wait(60)
    add(file_db, 1)
    file_db.close()
    assert open_descriptors(path) == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["store.db"]
    release.set()
    thread.join()


def test_closing_twice_does_nothing(db: Database) -> None:
    db.close()
    db.close()


def test_every_use_after_closing_is_named(db: Database) -> None:
    db.close()
    for block in (db.reading, db.snapshot, db.transaction):
        with pytest.raises(StoreClosed) as caught, block():
            pass
        assert isinstance(caught.value, sqlite3.ProgrammingError)
    with pytest.raises(StoreClosed):
        _ = db.is_writing


def test_closing_waits_for_the_calls_of_other_threads_and_stops_the_next_ones(file_db: Database) -> None:
    codes: list[str] = []
    started = threading.Barrier(5)
    slow = f"WITH c(n) AS (VALUES {', '.join(f'({n})' for n in range(40))}) SELECT COUNT(*) FROM c, c AS d"

    def use() -> None:
        started.wait()
        try:
            while True:
                with file_db.snapshot() as connection:
                    connection.execute(slow).fetchall()
        except StoreClosed as error:
            codes.append(error.code)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.05)
    file_db.close()
    for thread in threads:
        thread.join()
    assert codes == ["STORE_CLOSED"] * 4


def test_closing_inside_a_block_of_the_same_thread_ends_the_block_with_a_named_error(db: Database) -> None:
    def use() -> None:
        with db.transaction() as connection:
            connection.execute(INSERT, (1, None))
            db.close()

    with pytest.raises(StoreClosed):
        use()


@pytest.mark.parametrize("act", [copy.deepcopy, pickle.dumps])
def test_an_open_database_is_not_copied(db: Database, act: Callable[[Database], object]) -> None:
    with pytest.raises(TypeError, match="an open store cannot be copied or pickled; open another one on the same file"):
        act(db)


def test_a_thread_that_comes_after_closing_opens_nothing(file_db: Database) -> None:
    file_db.close()
    caught: list[BaseException] = []

    def use() -> None:
        try:
            numbers(file_db)
        except StoreClosed as error:
            caught.append(error)

    run_in_thread(use)
    assert len(caught) == 1


def test_threads_of_one_database_lose_no_write(db: Database) -> None:
    with db.transaction() as connection:
        connection.execute(INSERT, (0, "0"))

    def count() -> None:
        for _ in range(25):
            with db.transaction() as connection:
                value = int(connection.execute("SELECT text FROM t").fetchone()[0])
                connection.execute("UPDATE t SET text = ?", (str(value + 1),))

    run_in_thread(*[count] * 4)
    with db.reading() as connection:
        assert connection.execute("SELECT text FROM t").fetchone()[0] == "100"


# -- fork


@needs_fork
def test_a_forked_child_and_its_parent_both_use_the_file(file_db: Database) -> None:
    add(file_db, 1)

    def child() -> list[int]:
        add(file_db, 2)
        return numbers(file_db)

    assert in_child(child) == [1, 2]
    add(file_db, 3)
    assert numbers(file_db) == [1, 2, 3]


@needs_fork
def test_a_child_that_closes_the_database_does_not_close_the_parents(file_db: Database) -> None:
    add(file_db, 1)

    def child() -> list[int]:
        found = numbers(file_db)
        file_db.close()
        return found

    assert in_child(child) == [1]
    assert in_child(file_db.close) is None
    add(file_db, 2)
    assert numbers(file_db) == [1, 2]


@needs_fork
def test_a_forked_child_has_its_own_copy_of_a_memory_database() -> None:
    with closing(Database(":memory:", SCHEMA)) as db:
        add(db, 1)

        def child() -> list[int]:
            add(db, 2)
            return numbers(db)

        assert in_child(child) == [1, 2]
        assert numbers(db) == [1]


@needs_fork
def test_a_fork_of_a_forked_child_knows_nothing_of_a_memory_database_that_the_child_closed() -> None:
    with closing(Database(":memory:", SCHEMA)) as db:

        def child() -> list[str]:
            db.close()
            unraisable: list[str] = []
            sys.unraisablehook = lambda problem: unraisable.append(repr(problem.exc_value))
            process = os.fork()
            if not process:
                os._exit(len(unraisable))
            return [*unraisable, str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))]

        assert in_child(child) == ["0"]


@needs_fork
def test_a_child_of_a_busy_parent_does_not_wait_for_threads_that_it_does_not_have() -> None:
    with closing(Database(":memory:", SCHEMA)) as db:
        inside, release = threading.Event(), threading.Event()

        def hold() -> None:
            with db.transaction() as connection:
                connection.execute(INSERT, (1, ""))
                inside.set()
                release.wait(100)

        thread = threading.Thread(target=hold)
        thread.start()
        assert inside.wait(60)

        def child() -> list[list[int]]:
            first = numbers(db)
            add(db, 2)
            return [first, numbers(db)]

        assert in_child(child) == [[], [2]]
        release.set()
        thread.join()
        assert numbers(db) == [1]


@needs_fork
def test_a_child_that_outlives_its_parents_store_does_not_harm_the_file(path: Path) -> None:
    db = Database(path, SCHEMA)
    add(db, 1)
    child = os.fork()
    if child == 0:
        time.sleep(0.2)
        with suppress(BaseException):
            add(db, 2)
        os._exit(0)
    db.close()
    with closing(Database(path, SCHEMA)) as other:
        add(other, 3)
        os.waitpid(child, 0)
        add(other, 4)
    with closing(Database(path, SCHEMA)) as other, other.reading() as connection:
        assert numbers(other) == [1, 2, 3, 4]
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


@needs_fork
@pytest.mark.parametrize("commits_per_checkpoint", [1, 128])
def test_children_that_come_and_go_while_threads_write_lose_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, commits_per_checkpoint: int
) -> None:
    monkeypatch.setattr("nexus_control.wal._COMMITS_PER_CHECKPOINT", commits_per_checkpoint)
    with closing(Database(path, SCHEMA)) as db:
        problems: list[BaseException] = []

        def write(first: int) -> None:
            try:
                for n in range(first, first + 200):
                    add(db, n)
            except BaseException as error:  # shown by the assertion below
                problems.append(error)

        threads = [threading.Thread(target=write, args=(first,)) for first in (1000, 2000)]
        for thread in threads:
            thread.start()
        answers = [in_child(lambda n=n: add(db, n)) for n in range(20)]
        for thread in threads:
            thread.join()
        assert problems == []
        written = [n for n, answer in enumerate(answers) if answer is None]
        refused = [answer for answer in answers if answer is not None]
        assert all("in use when this process was forked" in answer for answer in refused)
        assert numbers(db) == [*written, *range(1000, 1200), *range(2000, 2200)]
        with db.reading() as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


@needs_fork
def test_a_file_that_was_in_use_during_the_fork_cannot_be_used_in_the_child(path: Path) -> None:
    with closing(Database(path, SCHEMA)) as db:

        def child() -> list[str]:
            answers: list[str] = []
            for work in (lambda: numbers(db), lambda: add(db, 2), lambda: Database(path, SCHEMA)):
                try:
                    work()
                except StoreError as error:
                    answers.append(str(error))
            return answers

        with db.transaction() as connection:
            connection.execute(INSERT, (1, ""))
            answers = in_child(child)
        assert answers == [f"{path}: in use when this process was forked; close the store before, or do not fork but spawn"] * 3
        assert in_child(lambda: numbers(db)) == numbers(db) == [1]


@needs_fork
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_that_was_in_use_during_the_fork_has_no_other_name_in_the_child(path: Path, link: Callable[[Path, Path], None]) -> None:
    name = path.with_name("other.db")
    with closing(Database(path, SCHEMA)) as db:
        link(path, name)
        with db.transaction():
            answer = in_child(lambda: Database(name, SCHEMA).close())
    assert answer == f"SqliteError: {name}: in use when this process was forked; close the store before, or do not fork but spawn"


@needs_fork
def test_a_file_that_takes_the_place_of_one_in_use_can_be_used_in_the_child(path: Path) -> None:
    with closing(Database(path, SCHEMA)) as db, db.transaction():
        for file in list(path.parent.iterdir()):
            file.rename(file.with_name(f"moved-{file.name}"))

        def child() -> list[int]:
            with closing(Database(path, SCHEMA)) as fresh:
                add(fresh, 1)
                return numbers(fresh)

        assert in_child(child) == [1]


@needs_fork
@needs_proc
def test_a_fork_keeps_no_connection_open_over_it(file_db: Database, path: Path) -> None:
    add(file_db, 1)
    assert in_child(lambda: open_descriptors(path)) == 0
    assert numbers(file_db) == [1]


@needs_fork
def test_children_of_children_use_the_file_too(file_db: Database) -> None:
    def child() -> object:
        add(file_db, 1)
        return in_child(lambda: (add(file_db, 2), numbers(file_db))[1])

    assert in_child(child) == [1, 2]
    assert numbers(file_db) == [1, 2]


FORKED = """
import os, sys, threading, warnings, weakref
from contextlib import closing
from nexus_control import database, fork
from nexus_control.database import Database
from nexus_control.errors import StoreClosed
from test_database import SCHEMA, add, no_thread, numbers, open_descriptors

START = threading.Thread.start
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # from 3.12 on

def forked(work):
    # How a child ended that did this.
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def in_thread(work):
    # In a thread of this process, which has no connection yet.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def is_held(lock):
    # Whether another thread would have to wait for it.
    found = []
    in_thread(lambda: found.append(not lock.acquire(blocking=False)) or found[0] or lock.release())
    return found[0]

"""


def told_by(script: str, path: Path, seconds: int = 60) -> str:
    """What a program prints that forks and goes on: in a process of its own, which is given up when it hangs."""
    command = [sys.executable, "-W", "error", "-c", FORKED + textwrap.dedent(script), str(path)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=seconds, check=False)
    return ended.stdout + ended.stderr


@needs_fork
def test_a_fork_of_a_process_that_gets_no_more_threads_holds_nobody_up(path: Path) -> None:
    script = """
        with closing(Database(sys.argv[1], SCHEMA)) as db:
            threading.Thread.start = no_thread
            for n in range(128):
                try:
                    add(db, n)
                except RuntimeError as problem:
                    print(problem)
            threading.Thread.start = START
            print(forked(lambda: add(db, 128)))
            in_thread(lambda: add(db, 129))
            print(numbers(db) == list(range(130)))
    """
    assert told_by(script, path) == "0\nTrue\n"


@needs_fork
@needs_proc
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_one_who_fails_before_a_fork_keeps_no_other_from_being_told_of_it(path: Path, first: bool) -> None:
    script = """
        class Failing:
            def before_fork(self):
                raise RuntimeError("before")

            def after_fork(self, *, in_child):
                raise RuntimeError("after")

        ignored = []
        sys.unraisablehook = lambda what: ignored.append(str(what.exc_value))
        failing, databases = Failing(), [Database(f"{sys.argv[1]}{number}", SCHEMA) for number in range(8)]
        fork._members = [failing, *databases] if FIRST else [*databases, failing]  # of a set nobody knows the order

        def child():
            assert [open_descriptors(db.path) for db in databases] == [0] * 8
            for db in databases:
                add(db, 1)

        print(forked(child))
        for db in databases:
            in_thread(lambda: add(db, 2))
            print(numbers(db))
        print(ignored)
    """
    script = textwrap.dedent(script).replace("FIRST", str(first))
    assert told_by(script, path) == "0\n" + "[1, 2]\n" * 8 + "['before', 'after']\n"


@needs_fork
def test_a_fork_that_is_interrupted_before_it_took_a_lock_leaves_that_lock_to_its_owner(path: Path) -> None:
    script = """
        class Interrupted:
            # The lock that is held while a connection is opened, where somebody presses Ctrl-C who waits for it.
            def __init__(self, lock):
                self.lock = lock

            def acquire(self):
                self.lock.acquire()
                self.lock.release()
                raise KeyboardInterrupt

            def release(self):
                self.lock.release()

        ignored = []
        sys.unraisablehook = lambda what: ignored.append(type(what.exc_value).__name__)
        db = Database(sys.argv[1], SCHEMA)
        lock = db._opening
        db._opening = Interrupted(lock)
        print(forked(lambda: None))
        db._opening = lock
        print(is_held(lock), ignored)
        in_thread(lambda: add(db, 1))
        print(numbers(db))
    """
    assert told_by(script, path) == "0\nFalse ['KeyboardInterrupt']\n[1]\n"


@needs_fork
@needs_proc
def test_a_fork_that_is_interrupted_at_any_place_holds_nobody_up_and_leaves_no_file_half_open_in_the_child(path: Path) -> None:
    script = """
        import _weakrefset, contextlib, faulthandler, signal
        from interruption_testing import interrupting
        from nexus_control import session, wal
        from nexus_control.errors import StoreError

        faulthandler.dump_traceback_later(280, exit=True)
        sys.unraisablehook = lambda what: None  # tells of the interruptions

        def child(number):
            sys.settrace(None)
            signal.alarm(60)
            for db in databases:
                inherited = open_descriptors(db.path)
                try:
                    add(db, number)
                except StoreError as refusal:
                    assert "in use when this process was forked" in str(refusal), refusal
                else:
                    assert not inherited, "it uses a file that its parent had open"
                    assert forked(lambda: add(db, number + 1)) == 0
            Database(f"{sys.argv[1]}-child", SCHEMA).close()

        def idle(db, opened, is_over):
            numbers(db)
            opened.set()
            is_over.wait(100)
            numbers(db)

        number, was_reached = 0, lambda: True
        while was_reached():
            number += 3
            databases = [Database(f"{sys.argv[1]}{name}", SCHEMA) for name in "ab"]
            opened, is_over = threading.Event(), threading.Event()
            other = threading.Thread(target=idle, args=(databases[0], opened, is_over))
            other.start()
            opened.wait()
            trace, was_reached = interrupting(number // 3, fork, database, session, wal, contextlib, _weakrefset)
            sys.settrace(trace)
            code = forked(lambda: child(number))
            sys.settrace(None)
            in_thread(lambda: [add(db, number + 2) for db in databases])
            in_thread(lambda: Database(f"{sys.argv[1]}-new", SCHEMA).close())
            is_over.set()
            other.join()
            again = forked(lambda: [add(db, -number) for db in databases])
            for db in databases:
                db.close()
            if code or again:
                print(number // 3, code, again)
        print(number // 3 > 60)
    """
    assert told_by(script, path, 300) == "True\n"


@needs_fork
@pytest.mark.parametrize("by", ["KeyboardInterrupt", "RuntimeError"])
def test_a_file_whose_checkpoint_a_fork_could_not_wait_for_cannot_be_used_in_the_child(path: Path, by: str) -> None:
    script = """
        from nexus_control import wal
        from nexus_control.errors import StoreError

        begun, go_on = threading.Event(), threading.Event()

        def stand(connection, patience):
            begun.set()
            assert go_on.wait(60)

        def interrupted(thread, timeout=None):
            raise BY

        def child():
            for use in (lambda: add(db, 1000), lambda: Database(sys.argv[1], SCHEMA)):
                try:
                    use()
                except StoreError as refusal:
                    os.write(1, f"{refusal}\\n".encode())

        sys.unraisablehook = lambda what: None
        wal.limit_patience = stand
        db = Database(sys.argv[1], SCHEMA)
        for n in range(128):
            add(db, n)
        assert begun.wait(60)
        join, threading.Thread.join = threading.Thread.join, interrupted
        code = forked(child)
        threading.Thread.join = join
        go_on.set()
        add(db, 128)
        print(code, forked(lambda: add(db, 129)), numbers(db) == list(range(130)))
    """
    refusal = f"{path}: in use when this process was forked; close the store before, or do not fork but spawn\n"
    assert told_by(textwrap.dedent(script).replace("BY", by), path) == refusal * 2 + "0 0 True\n"


@needs_fork
def test_a_fork_that_is_interrupted_while_another_one_is_on_leaves_everything_to_that_one(path: Path) -> None:
    script = """
        class Interrupted:
            # The lock that a fork holds, where somebody presses Ctrl-C who waits for it.
            def acquire(self):
                raise KeyboardInterrupt

            def release(self):
                lock.release()

        def fork_slowly():
            fork._before_fork()
            begun.set()
            assert go_on.wait(60)
            fork._after_in_parent()

        begun, go_on = threading.Event(), threading.Event()
        sys.unraisablehook = lambda what: None
        db = Database(sys.argv[1], SCHEMA)
        other = threading.Thread(target=fork_slowly)
        other.start()
        assert begun.wait(60)
        lock, fork._registering = fork._registering, Interrupted()
        print(forked(lambda: add(db, 1)))
        fork._registering = lock
        print(is_held(db._opening))
        go_on.set()
        other.join()
        print(is_held(db._opening))
        add(db, 2)
        print(forked(lambda: add(db, 3)), numbers(db))
    """
    assert told_by(script, path) == "0\nTrue\nFalse\n0 [1, 2, 3]\n"


def test_a_finalizer_can_close_a_database_while_another_one_is_opened(path: Path) -> None:
    script = """
        class Members(set):
            # Garbage is found while a member is added.
            def add(self, member):
                garbage.close()
                super().add(member)

        garbage = Database(f"{sys.argv[1]}-garbage", SCHEMA)
        fork._members = Members()
        with closing(Database(sys.argv[1], SCHEMA)) as db:
            add(db, 1)
            print(numbers(db))
    """
    assert told_by(script, path) == "[1]\n"


@needs_fork
def test_a_finalizer_can_close_a_database_during_a_fork(path: Path) -> None:
    script = """
        class Finalizer:
            # As if garbage was found while a fork is on.
            def before_fork(self):
                db.close()

            def after_fork(self, *, in_child):
                db.close()

        class Members(list):
            # In this order; the last one is told first.
            add = list.append

            def discard(self, member):
                self[:] = [one for one in self if one is not member]

        def use():
            with closing(Database(sys.argv[1], SCHEMA)) as other:
                add(other, len(numbers(other)))
                os.write(1, f"{numbers(other)}\\n".encode())

        db = Database(sys.argv[1], SCHEMA)
        add(db, 0)
        fork._members = Members([Finalizer(), db])
        print(forked(use), flush=True)
        fork._members = weakref.WeakSet()
        use()
        try:
            numbers(db)
        except StoreClosed as closed:
            print(closed)
    """
    assert told_by(script, path) == "[0, 1]\n0\n[0, 1, 2]\nthis store was closed; open a new one\n"


@needs_proc
def test_a_finalizer_can_close_a_database_while_a_thread_opens_it(path: Path) -> None:
    script = """
        def finalize(connection, tables):
            db.close()

        def use():
            try:
                numbers(db)
            except StoreClosed as closed:
                print(closed)

        db = Database(sys.argv[1], SCHEMA)
        database.refuse_stand_ins = finalize
        in_thread(use)
        print(open_descriptors(db.path))
    """
    assert told_by(script, path) == "this store was closed; open a new one\n0\n"


@needs_fork
def test_a_file_that_closing_could_not_close_cannot_be_used_in_a_child(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.database.BUSY_TIMEOUT_SECONDS", 0.01)
    db = Database(path, SCHEMA)
    with inside_another_thread(db):
        db.close()
        answer = in_child(lambda: Database(path, SCHEMA).close())
    assert answer == f"SqliteError: {path}: in use when this process was forked; close the store before, or do not fork but spawn"


@needs_fork
@pytest.mark.parametrize("by", ["close", "garbage"])
def test_a_file_that_is_being_closed_during_the_fork_cannot_be_used_in_the_child(path: Path, by: str) -> None:
    class Slow:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self.connection = connection

        def close(self) -> None:
            begun.set()
            assert go_on.wait(60)
            self.connection.close()

    begun, go_on = threading.Event(), threading.Event()
    db = Database(path, SCHEMA)

    def end() -> None:
        session = db.take()
        session.in_use.release()
        session.connection = Slow(session.connection)  # pyright: ignore[reportAttributeAccessIssue]
        if by == "close":
            db.close()

    thread = threading.Thread(target=end)
    numbers(db)
    thread.start()
    assert begun.wait(60)
    answer = in_child(lambda: Database(path, SCHEMA).close())
    go_on.set()
    thread.join()
    assert answer == f"SqliteError: {path}: in use when this process was forked; close the store before, or do not fork but spawn"
    db.close()
    with closing(Database(path, SCHEMA)) as other:
        assert in_child(lambda: numbers(other)) == []


# -- busy, full, read-only


def test_a_writer_that_waits_too_long_says_that_the_store_is_busy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.sqlite.BUSY_TIMEOUT_SECONDS", 0.1)
    with closing(Database(path, SCHEMA)) as db, closing(foreign(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy) as caught, db.transaction():
            pass
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert numbers(db) == []
        other.execute("ROLLBACK")
        add(db, 1)
        assert numbers(db) == [1]


def test_a_writer_waits_for_the_one_before_it_and_sees_its_rows(file_db: Database, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute(INSERT, (1, ""))
        timer = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        timer.start()
        with file_db.transaction() as connection:
            assert connection.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 1
        timer.join()


@pytest.mark.parametrize("patience", [0, 50])
def test_waiting_ends_with_the_patience_of_the_connection_and_not_before(path: Path, patience: int) -> None:
    Database(path, SCHEMA).close()
    connection, _ = open_file(str(path), must_exist=True)
    with closing(connection), closing(foreign(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        limit_patience(connection, patience)
        start = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("BEGIN IMMEDIATE")
        assert patience / 1000 <= time.monotonic() - start < 10


def test_a_view_that_became_too_old_to_write_from_is_refused_at_once(path: Path) -> None:
    Database(path, SCHEMA).close()
    connection, _ = open_file(str(path), must_exist=True)
    with closing(connection), closing(foreign(path)) as other:
        connection.execute("BEGIN")
        connection.execute("SELECT COUNT(*) FROM t").fetchone()
        other.execute(INSERT, (1, ""))
        start = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute(INSERT, (2, ""))
        assert time.monotonic() - start < 10


def test_opening_waits_for_a_program_that_locks_the_file(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        timer.start()
        with closing(Database(path, SCHEMA)) as db:
            assert setting(db, "journal_mode") == "wal"
        timer.join()


def test_opening_gives_up_on_a_program_that_keeps_the_file_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.sqlite.BUSY_TIMEOUT_SECONDS", 0.1)
    with closing(foreign(path)) as other:
        other.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE own (x)")
        with pytest.raises(StoreBusy):
            Database(path, SCHEMA)
        other.execute("COMMIT")


def test_a_full_database_keeps_all_that_was_committed_and_works_again(db: Database) -> None:
    add(db, 1)
    with db.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFull) as caught, db.transaction() as connection:  # noqa: PT012  some insert fails
        for n in range(2, 1000):
            connection.execute(INSERT, (n, "x" * 1000))
    assert isinstance(caught.value, sqlite3.OperationalError)
    assert numbers(db) == [1]
    with db.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    add(db, 2)
    assert numbers(db) == [1, 2]


@needs_fork
def test_a_write_that_the_system_refuses_loses_nothing_that_was_committed(path: Path) -> None:
    def child() -> list[object]:
        committed: list[object] = []
        with closing(Database(path, SCHEMA)) as db:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
            for n in range(1000):
                try:
                    add(db, n, "x" * 5000)
                except StoreError as error:
                    committed.append(type(error).__mro__[1].__name__)
                    break
                committed.append(n)
        return committed

    *committed, problem = in_child(child)
    assert problem in ("StoreError", "StoreFull")
    with closing(Database(path, SCHEMA)) as db:
        assert numbers(db) == committed
        assert len(committed) > 5
        add(db, 5000)


def test_a_connection_that_may_not_write_says_so(db: Database) -> None:
    add(db, 1)
    with db.reading() as connection:
        connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreReadOnly) as caught:
        add(db, 2)
    assert isinstance(caught.value, sqlite3.OperationalError)
    assert numbers(db) == [1]


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter."""
    folder = Path(tempfile.mkdtemp(prefix="nexus-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("cause", ["busy", "constraint", "closed"])
def test_a_translated_error_is_never_its_own_cause(path: Path, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    monkeypatch.setattr("nexus_control.sqlite.BUSY_TIMEOUT_SECONDS", 0.0)
    with closing(Database(path, SCHEMA)) as db, closing(foreign(path)) as other:
        add(db, 1)
        if cause == "busy":
            other.execute("BEGIN IMMEDIATE")
        elif cause == "closed":
            db.close()
        with pytest.raises(sqlite3.Error) as caught:
            add(db, 1)
    error: BaseException | None = caught.value
    seen: list[BaseException] = []
    while error is not None:
        assert not any(error is earlier for earlier in seen)
        seen.append(error)
        error = error.__cause__
    assert type(seen[-1]).__module__ == ("nexus_control.sqlite" if cause == "closed" else "sqlite3")


# -- blocks


def test_a_block_that_raises_writes_nothing(db: Database) -> None:
    with pytest.raises(LookupError), db.transaction() as connection:  # noqa: PT012
        connection.execute(INSERT, (1, ""))
        raise LookupError
    assert numbers(db) == []
    add(db, 2)
    assert numbers(db) == [2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_block_that_is_interrupted_writes_nothing(db: Database, error: type[BaseException]) -> None:
    with pytest.raises(error), db.transaction() as connection:  # noqa: PT012
        connection.execute(INSERT, (1, ""))
        raise error
    assert numbers(db) == []
    add(db, 2)
    assert numbers(db) == [2]


def test_a_generator_that_is_dropped_inside_a_block_writes_nothing(db: Database) -> None:
    def writer() -> Iterator[None]:
        with db.transaction() as connection:
            connection.execute(INSERT, (1, ""))
            yield

    paused = writer()
    next(paused)
    del paused
    gc.collect()
    add(db, 2)
    assert numbers(db) == [2]


def test_inner_blocks_join_the_outer_one(db: Database) -> None:
    with pytest.raises(LookupError), db.transaction():  # noqa: PT012
        add(db, 1)
        with db.snapshot():
            assert numbers(db) == [1]
        add(db, 2)
        assert db.is_writing
        raise LookupError
    assert numbers(db) == []
    with db.transaction():
        add(db, 3)
        add(db, 4)
    assert numbers(db) == [3, 4]
    assert not db.is_writing


def test_an_inner_block_that_failed_dooms_the_outer_one_even_when_caught(db: Database) -> None:
    with pytest.raises(RuntimeError, match="nothing of it may be committed"), db.transaction():  # noqa: PT012
        add(db, 1)
        with suppress(LookupError), db.transaction():
            add(db, 2)
            raise LookupError
        add(db, 3)
    assert numbers(db) == []
    add(db, 4)
    assert numbers(db) == [4]


def test_a_failed_look_inside_a_transaction_does_not_doom_it(db: Database) -> None:
    with db.transaction():
        add(db, 1)
        with suppress(LookupError), db.snapshot():
            raise LookupError
    assert numbers(db) == [1]


def test_a_transaction_cannot_begin_inside_a_snapshot(db: Database) -> None:
    with db.snapshot():
        with pytest.raises(RuntimeError, match="inside a snapshot"):
            add(db, 1)
        assert numbers(db) == []
        assert not db.is_writing
    add(db, 2)
    assert numbers(db) == [2]


def test_a_snapshot_shows_one_state_while_others_commit(file_db: Database) -> None:
    add(file_db, 1)
    with file_db.snapshot():
        assert numbers(file_db) == [1]
        run_in_thread(lambda: add(file_db, 2))
        with file_db.snapshot():
            assert numbers(file_db) == [1]
    assert numbers(file_db) == [1, 2]


def test_a_snapshot_keeps_no_writer_waiting(file_db: Database, path: Path) -> None:
    with file_db.snapshot():
        numbers(file_db)
        with closing(foreign(path)) as other:
            other.execute("PRAGMA busy_timeout = 0")
            other.execute(INSERT, (1, ""))


def test_between_operations_no_lock_is_held(file_db: Database, path: Path) -> None:
    add(file_db, 1)
    numbers(file_db)
    with closing(foreign(path)) as other:
        other.execute("PRAGMA busy_timeout = 0")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")


def test_a_failed_commit_is_reported_and_nothing_stays_open(db: Database) -> None:
    with db.transaction() as connection:
        connection.execute("CREATE TABLE child (n INTEGER REFERENCES t (n) DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"), db.transaction() as connection:
        connection.execute("INSERT INTO child VALUES (1)")
    add(db, 1)
    assert numbers(db) == [1]


def test_what_sqlite_rolled_back_by_itself_is_not_rolled_back_twice(db: Database) -> None:
    add(db, 1)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"), db.transaction() as connection:  # noqa: PT012
        connection.execute(INSERT, (2, ""))
        connection.execute("INSERT OR ROLLBACK INTO t (n) VALUES (1)")
    assert numbers(db) == [1]


def test_a_transaction_that_was_left_open_is_not_joined_but_ended(db: Database) -> None:
    with db.reading() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(INSERT, (1, ""))
    add(db, 2)
    with db.reading() as connection:
        assert not connection.in_transaction
    assert numbers(db) == [2]


@pytest.mark.parametrize(
    "again",
    [sqlite3.OperationalError("disk I/O error"), OverflowError("too large"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no")],
    ids=["refused", "overflow", "no text"],
)
def test_a_commit_whose_outcome_is_unknown_says_so_whatever_the_connection_raises_after_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, again: Exception
) -> None:
    execute = sqlite3.Connection.execute

    def broken(connection: sqlite3.Connection, sql: str) -> sqlite3.Cursor:
        if connection.in_transaction and sql == "COMMIT":
            execute(connection, "ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")
        if sql != "BEGIN IMMEDIATE":
            raise again
        return execute(connection, sql)

    with closing(Database(path, SCHEMA)) as db:
        add(db, 1)
        with pytest.raises(CommitUnknown) as caught, db.transaction() as connection:  # noqa: PT012
            connection.execute(INSERT, (2, ""))
            monkeypatch.setattr("nexus_control.sqlite._OwnConnection.execute", broken)
        monkeypatch.undo()
        assert str(caught.value).startswith(f"{path}: disk I/O error, and what was refused could not be taken back for certain: ")
        assert isinstance(caught.value, sqlite3.OperationalError)
        assert numbers(db) == [1]
        add(db, 3)
        assert numbers(db) == [1, 3]


@contextmanager
def no_room_behind(log: Path) -> Generator[None]:
    """The system refuses to make the file longer: neither a commit nor what takes it back can be written."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def code_of(work: Callable[[], object]) -> str:
    """The code of the error that this ends with; "ok" if it does not, the name of the class for others."""
    try:
        work()
    except StoreError as error:
        return error.code
    except Exception as error:
        return type(error).__name__
    return "ok"


def look(db: Database) -> None:
    """A transaction that judges and writes nothing."""
    with db.transaction():
        raise LookupError


@needs_fork
def test_after_a_commit_of_unknown_outcome_every_thread_can_read_and_nothing_is_judged_until_it_is_taken_back(path: Path) -> None:
    def child() -> list[object]:
        log, told = Path(f"{path}-wal"), list[object]()
        with closing(Database(path, SCHEMA)) as db:
            add(db, 1)
            with no_room_behind(log):
                told.append(code_of(lambda: add(db, 2)))
                told.append(code_of(lambda: add(db, 3)))
                told.append(code_of(lambda: look(db)))
                run_in_thread(lambda: told.append(code_of(lambda: look(db))))
                run_in_thread(lambda: told.append(numbers(db)))
                with db.snapshot():
                    told.append(numbers(db))
            sizes = [log.stat().st_size]
            told.append(code_of(lambda: look(db)))  # takes it back before
            sizes.append(log.stat().st_size)
            with no_room_behind(log):
                told.append(code_of(lambda: look(db)))  # nothing is to be taken back any more
            add(db, 4)
            return [*told, numbers(db), sizes[1] - sizes[0]]

    unknown = "COMMIT_UNKNOWN"
    assert in_child(child) == [unknown, unknown, unknown, unknown, [1], [1], "LookupError", "LookupError", [1, 4], 24 + 4096]


@needs_fork
def test_a_commit_of_unknown_outcome_is_not_forgotten_when_an_earlier_one_is_taken_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child() -> list[object]:
        log, told = Path(f"{path}-wal"), list[object]()

        def another() -> None:
            with db.transaction() as connection:
                connection.execute(INSERT, (3, ""))
                resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

        def meanwhile(connection: sqlite3.Connection, path: str) -> None:
            take_back(connection, path)
            monkeypatch.undo()
            run_in_thread(lambda: told.append(code_of(another)))

        with closing(Database(path, SCHEMA)) as db:
            add(db, 1)
            with no_room_behind(log):
                told.append(code_of(lambda: add(db, 2)))
            monkeypatch.setattr("nexus_control.wal.take_back", meanwhile)
            told.append(code_of(lambda: look(db)))
            told.append(code_of(lambda: look(db)))
            return told

    assert in_child(child) == ["COMMIT_UNKNOWN", "COMMIT_UNKNOWN", "LookupError", "COMMIT_UNKNOWN"]


@needs_fork
def test_what_is_to_be_taken_back_waits_while_another_program_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.sqlite.BUSY_TIMEOUT_SECONDS", 0.1)

    def child() -> list[object]:
        told: list[object] = []
        with closing(Database(path, SCHEMA)) as db, closing(foreign(path)) as other:
            add(db, 1)
            with no_room_behind(Path(f"{path}-wal")):
                told.append(code_of(lambda: add(db, 2)))
            other.execute("BEGIN IMMEDIATE")
            told.append(code_of(lambda: look(db)))
            other.execute(INSERT, (3, ""))
            other.execute("COMMIT")  # which is written over it as well
            told.append(code_of(lambda: look(db)))
            return [*told, numbers(db)]

    assert in_child(child) == ["COMMIT_UNKNOWN", "STORE_BUSY", "LookupError", [1, 3]]


@needs_fork
@pytest.mark.parametrize(("end", "mended"), [("close", True), ("close", False), ("fork", True)])
def test_before_a_connection_is_closed_a_commit_of_unknown_outcome_is_taken_back_if_it_can_be(path: Path, end: str, mended: bool) -> None:
    def child() -> list[object]:
        log = Path(f"{path}-wal")
        with closing(foreign(path)) as other:
            db = Database(path, SCHEMA)
            add(db, 1)
            assert other.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 1  # has the file open from here on, and keeps the log
            size = log.stat().st_size
            ends: dict[str, Callable[[], object]] = {"close": db.close, "fork": lambda: in_child(lambda: "forked")}
            with no_room_behind(log):
                told = [code_of(lambda: add(db, 2))]
                if not mended:
                    told.append(code_of(ends[end]))
            if mended:
                told.append(code_of(ends[end]))
            grown = log.stat().st_size - size
            db.close()
            return [*told, grown, other.execute("SELECT COUNT(*) FROM t").fetchone()[0]]

    assert in_child(child) == ["COMMIT_UNKNOWN", "ok", 24 + 4096 if mended else 0, 1]


@needs_fork
def test_a_commit_of_unknown_outcome_is_taken_back_at_the_end_though_its_thread_has_ended(path: Path) -> None:
    def child() -> list[object]:
        log, told, opened = Path(f"{path}-wal"), list[object](), list[Database]()
        with closing(foreign(path)) as other:
            run_in_thread(lambda: opened.append(Database(path, SCHEMA)))
            (db,) = opened
            run_in_thread(lambda: add(db, 1))
            assert other.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 1
            size = log.stat().st_size
            with no_room_behind(log):
                run_in_thread(lambda: told.append(code_of(lambda: add(db, 2))))
            gc.collect()  # the error knows the connection, and itself
            db.close()
            return [*told, log.stat().st_size - size, len(db._opened)]  # pyright: ignore[reportPrivateUsage]

    assert in_child(child) == ["COMMIT_UNKNOWN", 32 + 24 + 4096, 0]


@needs_fork
def test_closing_waits_for_no_other_program_to_take_back_a_commit_of_unknown_outcome(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.sqlite.BUSY_TIMEOUT_SECONDS", 3600)

    def child() -> list[object]:
        with closing(foreign(path)) as other:
            db = Database(path, SCHEMA)
            add(db, 1)
            with no_room_behind(Path(f"{path}-wal")):
                told = code_of(lambda: add(db, 2))
            other.execute("BEGIN IMMEDIATE")
            return [told, code_of(db.close)]

    assert in_child(child) == ["COMMIT_UNKNOWN", "ok"]


@needs_fork
def test_a_commit_that_was_interrupted_is_taken_for_one_of_unknown_outcome(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: sqlite3.Connection) -> None:
        raise KeyboardInterrupt

    def child() -> list[object]:
        log, told = Path(f"{path}-wal"), list[object]()
        with closing(Database(path, SCHEMA)) as db:
            add(db, 1)
            with no_room_behind(log):
                with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
                    patch.setattr("nexus_control.sqlite.write_over", interrupted)
                    add(db, 2)
                told.append(code_of(lambda: look(db)))
            told.append(code_of(lambda: look(db)))
            with no_room_behind(log):
                told.append(code_of(lambda: look(db)))
            return [*told, numbers(db)]

    assert in_child(child) == ["COMMIT_UNKNOWN", "LookupError", "LookupError", [1]]


# -- connections of others


@pytest.fixture(params=[None, "", "IMMEDIATE"], ids=["autocommit", "legacy", "legacy immediate"])
def connection(request: pytest.FixtureRequest) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=request.param)) as opened:
        opened.row_factory = sqlite3.Row
        yield opened


def test_an_adopted_connection_is_used_and_left_open(connection: sqlite3.Connection) -> None:
    db = Database.adopt(connection, SCHEMA)
    add(db, 1)
    assert not connection.in_transaction
    db.close()
    del db
    gc.collect()
    assert connection.execute("SELECT n FROM t").fetchone()["n"] == 1


def test_a_transaction_of_the_owner_is_joined_and_left_to_its_owner(connection: sqlite3.Connection) -> None:
    db = Database.adopt(connection, SCHEMA)
    connection.execute("BEGIN")
    connection.execute(INSERT, (1, ""))
    add(db, 2)
    assert connection.in_transaction
    assert numbers(db) == [1, 2]
    connection.rollback()
    assert numbers(db) == []


def test_a_block_that_fails_inside_the_owners_transaction_undoes_only_itself(connection: sqlite3.Connection) -> None:
    db = Database.adopt(connection, SCHEMA)
    connection.execute("BEGIN")
    connection.execute(INSERT, (1, ""))
    with pytest.raises(LookupError), db.transaction():  # noqa: PT012
        add(db, 2)
        raise LookupError
    assert connection.in_transaction
    connection.commit()
    assert numbers(db) == [1]


def test_the_schema_is_made_inside_a_transaction_of_the_owner(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE own (x)")
    db = Database.adopt(connection, SCHEMA)
    add(db, 1)
    assert connection.in_transaction
    connection.rollback()
    assert connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 0


@needs_fork
def test_a_commit_of_unknown_outcome_on_an_adopted_connection_leaves_a_later_transaction_of_the_owner_alone(path: Path) -> None:
    def child() -> list[object]:
        with closing(sqlite3.connect(path, isolation_level=None)) as owner:
            owner.row_factory = sqlite3.Row
            owner.execute("PRAGMA journal_mode = WAL")
            db = Database.adopt(owner, SCHEMA)
            with no_room_behind(Path(f"{path}-wal")):
                told = [code_of(lambda: add(db, 1)), code_of(lambda: look(db))]
            owner.execute("BEGIN")
            owner.execute(INSERT, (2, ""))
            add(db, 3)
            told.append(code_of(db.close))
            owner.execute("COMMIT")
            return [*told, [row["n"] for row in owner.execute("SELECT n FROM t ORDER BY n")]]

    assert in_child(child) == ["COMMIT_UNKNOWN", "COMMIT_UNKNOWN", "ok", [2, 3]]


def test_a_newer_schema_is_refused_on_an_adopted_connection_as_well(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA user_version = 9")
    with pytest.raises(SchemaTooNew):
        Database.adopt(connection, SCHEMA)
    assert connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0


# -- write-ahead log


def test_the_write_ahead_log_stays_short_under_continuous_writing(path: Path) -> None:
    commits, size = 0, 8000
    with closing(Database(path, SCHEMA)) as db:
        # The thread that keeps it short may get no turn for a while, and the log never becomes shorter: then more of the same tells.
        while commits < 3000 or (commits < 30_000 and Path(f"{path}-wal").stat().st_size >= commits * size / 2):
            add(db, commits, "x" * size)
            commits += 1
        assert Path(f"{path}-wal").stat().st_size < commits * size / 2
        assert path.stat().st_size > commits * size / 4
    assert not Path(f"{path}-wal").exists()
    with closing(Database(path, SCHEMA)) as db:
        assert numbers(db) == list(range(commits))


def test_a_checkpoint_that_fails_costs_nobody_anything(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.wal._COMMITS_PER_CHECKPOINT", 1)
    with closing(Database(path, SCHEMA)) as db:
        add(db, 1)
        monkeypatch.setattr("nexus_control.database.switch_to_wal", fail)
        for n in range(2, 20):
            add(db, n)
        assert numbers(db) == list(range(1, 20))


def fail(_: sqlite3.Connection) -> None:
    raise sqlite3.OperationalError("no")


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_checkpoint_that_gets_no_thread_costs_nobody_anything_and_a_later_commit_begins_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database(path, SCHEMA)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        for n in range(128):
            add(db, n)
        assert numbers(db) == list(range(128))
    begun: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        begun.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    for n in range(128, 255):
        add(db, n)
    assert begun == []
    add(db, 255)
    assert begun == ["nexus-checkpoint"]
    db.close()
    assert not Path(f"{path}-wal").exists()
    with closing(Database(path, SCHEMA)) as other:
        assert numbers(other) == list(range(256))


def test_a_database_is_closed_whose_checkpoint_got_no_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = Database(path, SCHEMA)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for n in range(128):
        add(db, n)
    db.close()
    assert not Path(f"{path}-wal").exists()
    with closing(Database(path, SCHEMA)) as other:
        assert numbers(other) == list(range(128))


class Watched:
    """A lock that tells when it was asked for and when it was given back, by whom."""

    def __init__(self, asked: Callable[[str], object], given_back: Callable[[str], object]) -> None:
        self.lock = threading.Lock()
        self.asked = asked
        self.given_back = given_back

    def __enter__(self) -> None:
        self.asked(threading.current_thread().name)
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()
        self.given_back(threading.current_thread().name)


def ignore(_: str) -> None:
    pass


def test_no_checkpoint_begins_after_closing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.wal._COMMITS_PER_CHECKPOINT", 1)
    db = Database(path, SCHEMA)
    numbers(db)
    wants_one, closing_looked, is_over, opened = threading.Event(), threading.Event(), threading.Event(), threading.Event()
    late: list[int] = []

    def asked(name: str) -> None:
        if name == "writer" and opened.is_set():
            wants_one.set()
            assert closing_looked.wait(60)

    def given_back(name: str) -> None:
        if name == "closer":
            closing_looked.set()

    def stand(_: sqlite3.Connection, _patience: int) -> None:
        assert is_over.wait(60)
        late.append(1)

    def write() -> None:
        numbers(db)
        opened.set()
        add(db, 1)

    monkeypatch.setattr("nexus_control.wal.limit_patience", stand)
    monkeypatch.setattr(db, "_opening", Watched(asked, given_back))
    writer, closer = threading.Thread(target=write, name="writer"), threading.Thread(target=db.close, name="closer")
    writer.start()
    assert wants_one.wait(60)
    closer.start()
    closer.join(60)
    assert not closer.is_alive()
    left = [thread for thread in threading.enumerate() if thread.name == "nexus-checkpoint"]
    is_over.set()
    for thread in [writer, *left]:
        thread.join(60)
    assert (left, late) == ([], [])


def test_closing_waits_for_a_checkpoint_that_begins_meanwhile(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.wal._COMMITS_PER_CHECKPOINT", 1)
    db = Database(path, SCHEMA)
    begins, closing_comes, go_on = threading.Event(), threading.Event(), threading.Event()
    order: list[str] = []
    start, join = threading.Thread.start, threading.Thread.join

    def start_late(thread: threading.Thread) -> None:
        if thread.name == "nexus-checkpoint":
            begins.set()
            assert closing_comes.wait(60)
        start(thread)

    def join_at_once(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == "nexus-checkpoint":
            go_on.set()
        join(thread, timeout)

    def asked(name: str) -> None:
        if name == "closer":
            closing_comes.set()

    checkpoint = db.wal._checkpoint  # pyright: ignore[reportPrivateUsage]

    def checkpoint_late(connect: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        assert go_on.wait(60)
        checkpoint(connect)
        order.append("checkpoint")

    def close() -> None:
        db.close()
        order.append("closed")

    monkeypatch.setattr(threading.Thread, "start", start_late)
    monkeypatch.setattr(threading.Thread, "join", join_at_once)
    monkeypatch.setattr(db.wal, "_checkpoint", checkpoint_late)
    monkeypatch.setattr(db, "_opening", Watched(asked, ignore))
    writer, closer = threading.Thread(target=add, args=(db, 1)), threading.Thread(target=close, name="closer")
    writer.start()
    assert begins.wait(60)
    closer.start()
    closer.join(60)
    go_on.set()
    for thread in [writer, *(thread for thread in threading.enumerate() if thread.name == "nexus-checkpoint")]:
        thread.join(60)
    assert order == ["checkpoint", "closed"]


def test_a_checkpoint_whose_start_was_interrupted_opens_nothing_after_closing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        begun.append(thread)  # the system has made it, and lets it run later
        raise KeyboardInterrupt

    opened: list[str] = []

    def noted(path: str, *, must_exist: bool, read_only: bool) -> tuple[sqlite3.Connection, bool]:
        opened.append(path)
        return open_file(path, must_exist=must_exist, read_only=read_only)

    monkeypatch.setattr("nexus_control.wal._COMMITS_PER_CHECKPOINT", 1)
    db = Database(path, SCHEMA)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            add(db, 1)
    db.close()
    monkeypatch.setattr("nexus_control.database.open_file", noted)
    (thread,) = begun
    thread.start()
    thread.join(60)
    assert opened == []


def test_a_finalizer_that_runs_in_the_checkpoint_can_close_the_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.wal._COMMITS_PER_CHECKPOINT", 1)
    db = Database(path, SCHEMA)
    told: list[object] = []

    def finalize(_: sqlite3.Connection, _patience: int) -> None:
        try:
            told.append(db.close())
        except RuntimeError as problem:
            told.append(str(problem))

    monkeypatch.setattr("nexus_control.wal.limit_patience", finalize)
    add(db, 1)
    db.wal.wait_for_checkpoint()
    assert told == [None]
    with pytest.raises(StoreClosed):
        numbers(db)
    db.close()


@pytest.mark.parametrize("at", ["limit_patience", "start_log_over"])
def test_only_the_checkpoint_starts_the_log_over_whoever_writes_while_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Whoever starts it over syncs its header as well as the commit."""
    salts: list[bytes] = []
    step: Callable[..., None] = {"limit_patience": limit_patience, "start_log_over": start_log_over}[at]

    def noted(db: Database, n: int) -> None:
        before = salt(path)
        add(db, n)
        salts.extend({before, salt(path)})

    def write_before(*arguments: object) -> None:
        with closing(Database(path, SCHEMA)) as other:  # as another process would
            noted(other, 200)
        step(*arguments)

    monkeypatch.setattr(f"nexus_control.wal.{at}", write_before)
    with closing(Database(path, SCHEMA)) as db:
        for n in range(128):
            add(db, n)
        db.wal.wait_for_checkpoint()
        assert salts == [salts[0]]
        noted(db, 128)
        assert len(salts) == 2
        assert salts[0] != salts[1]
        assert numbers(db) == [*range(129), 200]


def test_a_writer_that_begins_just_before_the_log_starts_over_steps_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with closing(Database(path, SCHEMA)) as db:

        def begin_first(connection: sqlite3.Connection, statement: str, *, joins: bool) -> tuple[str, str]:
            ends = begin(connection, statement, joins=joins)
            told.append("begun")
            db.wal._is_starting_over = len(told) == 1  # pyright: ignore[reportPrivateUsage]
            return ends

        def start_over(_: float) -> None:
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as checkpoint:
                checkpoint.execute("BEGIN IMMEDIATE")
                told.append("started over")
                checkpoint.execute("COMMIT")
            db.wal._is_starting_over = False  # pyright: ignore[reportPrivateUsage]

        monkeypatch.setattr("nexus_control.session.begin", begin_first)
        monkeypatch.setattr("nexus_control.wal.time", SimpleNamespace(sleep=start_over))
        add(db, 1)
        assert told == ["begun", "started over", "begun"]
        assert numbers(db) == [1]


def interrupted_at(number: int, call: Callable[[], object]) -> tuple[bool, bool]:
    """Whether the call was interrupted at this place of the modules below, and whether it has that many."""
    tracer = sys.gettrace()
    trace, was_reached = interrupting(number, nexus_control.database, nexus_control.session, nexus_control.sqlite, nexus_control.wal)
    gc.disable()  # the finalizer of another test's garbage is no place of this call
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True, True
    finally:
        sys.settrace(tracer)
        gc.enable()
    return False, was_reached()


@pytest.mark.parametrize("block", [Database.snapshot, Database.transaction])
def test_after_a_block_that_outlived_the_one_around_it_a_later_one_is_still_all_or_nothing(
    path: Path, block: Callable[[Database], AbstractContextManager[sqlite3.Connection]]
) -> None:
    def held() -> Generator[None]:
        with block(db):
            yield

    with closing(Database(path, SCHEMA)) as db:
        with db.transaction():
            inner = held()
            next(inner)
        inner.close()
        with suppress(LookupError), db.transaction() as connection:
            connection.execute(INSERT, (1, ""))
            raise LookupError
        assert numbers(db) == []


def require_free(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("starts_over", [False, True], ids=["", "while the log starts over"])
def test_an_interruption_at_any_place_where_a_transaction_begins_leaves_none_open(
    path: Path, monkeypatch: pytest.MonkeyPatch, starts_over: bool
) -> None:
    def begin_first(connection: sqlite3.Connection, statement: str, *, joins: bool) -> tuple[str, str]:
        ends = begin(connection, statement, joins=joins)
        db.wal._is_starting_over = starts_over and not has_begun  # pyright: ignore[reportPrivateUsage]
        has_begun.append(True)
        return ends

    def started_over(_: float) -> None:
        db.wal._is_starting_over = False  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr("nexus_control.session.begin", begin_first)
    monkeypatch.setattr("nexus_control.wal.time", SimpleNamespace(sleep=started_over))
    number, has_place = 0, True
    while has_place:
        number += 1
        has_begun: list[bool] = []
        with closing(Database(path, SCHEMA)) as db:
            block = db.transaction()
            was_interrupted, has_place = interrupted_at(number, block.__enter__)
            if not was_interrupted:
                block.__exit__(None, None, None)
            started_over(0)
            require_free(path)
            add(db, number)
            with closing(Database(path, SCHEMA)) as other:
                assert numbers(other) == list(range(1, number + 1)), number
    assert number > 10


@pytest.mark.parametrize("nested", [False, True], ids=["", "inside another one"])
def test_an_interruption_at_any_place_where_a_transaction_ends_leaves_none_open(path: Path, nested: bool) -> None:
    number, has_place = 1, True  # the first place is before the first step of `__exit__`, where nothing of it can help
    while has_place:
        number += 1
        with closing(Database(path, SCHEMA)) as db:
            outer = db.transaction() if nested else nullcontext()
            with suppress(KeyboardInterrupt), outer:
                block = db.transaction()
                block.__enter__().execute(INSERT, (-number, ""))
                was_interrupted, has_place = interrupted_at(number, lambda block=block: block.__exit__(None, None, None))
                if was_interrupted:
                    raise KeyboardInterrupt
            require_free(path)
            add(db, number)
            with closing(Database(path, SCHEMA)) as other:
                assert number in numbers(other), number
    assert number > (5 if nested else 10)


def test_an_interruption_while_a_statement_is_judged_is_no_refusal(path: Path) -> None:
    with closing(Database(path, SCHEMA)) as db:

        def say_no(*_: object) -> int:
            if not asked:
                asked.append(True)
                raise KeyboardInterrupt
            return sqlite3.SQLITE_OK

        asked: list[bool] = []
        with db.reading() as connection:
            connection.set_authorizer(say_no)
            with pytest.raises(KeyboardInterrupt):
                connection.execute("SELECT n + 1 FROM t")
            connection.set_authorizer(None)
            assert connection.execute("SELECT n + 2 FROM t").fetchall() == []


@needs_fork
def test_a_fork_while_its_thread_opens_a_connection_leaves_that_one_to_the_parent(path: Path) -> None:
    script = """
        from nexus_control import database
        from nexus_control.errors import StoreError

        make, children = database.make_first_commit, []

        def fork_here(connection):
            make(connection)
            children.append(os.fork())

        database.make_first_commit = fork_here
        try:
            db = Database(sys.argv[1], SCHEMA, first_commit=True)
        except StoreError as refusal:
            os.write(1, f"{refusal}\\n".encode())
            os._exit(0)
        os.waitpid(children[0], 0)
        add(db, 1)
        print(numbers(db))
    """
    refusal = f"{path}: in use when this process was forked; close the store before, or do not fork but spawn\n"
    assert told_by(script, path) == f"{refusal}[1]\n"


def test_a_connection_that_is_opened_while_a_finalizer_closes_the_database_is_closed_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database(path, SCHEMA)

    def close_meanwhile(*arguments: Any, **more: Any) -> Session:
        session = Session(*arguments, **more)
        db.close()
        return session

    monkeypatch.setattr("nexus_control.database.Session", close_meanwhile)
    told: list[str] = []

    def read() -> None:
        try:
            numbers(db)
        except StoreClosed as problem:
            told.append(str(problem))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(60)
    assert told == ["this store was closed; open a new one"]
    assert db._opened == set()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("after", ["a lock", "a stored row"])
def test_an_interruption_while_a_statement_is_judged_stays_one_and_does_nothing(path: Path, after: str) -> None:
    Database(path, SCHEMA).close()
    connection, _ = open_file(str(path), must_exist=True)
    with closing(connection), closing(foreign(path)) as other:

        def say_no(*_: object) -> int:
            if not asked:
                asked.append(True)
                raise KeyboardInterrupt
            return sqlite3.SQLITE_OK

        asked: list[bool] = []
        if after == "a lock":
            other.execute("BEGIN IMMEDIATE")
        limit_patience(connection, 0)
        connection.set_authorizer(say_no)
        with pytest.raises(KeyboardInterrupt):
            connection.execute(INSERT, (1, ""))
        assert connection.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 0


def test_a_trigger_whose_name_is_no_text_is_refused_by_name_and_is_no_interruption(path: Path) -> None:
    Database(path, SCHEMA).close()
    with closing(foreign(path)) as other:
        other.execute("CREATE TRIGGER ttXtt AFTER INSERT ON t BEGIN SELECT COUNT(*) FROM t; END")
    path.write_bytes(path.read_bytes().replace(b"ttXtt", b"tt\xfftt"))
    with closing(Database(path, SCHEMA)) as db, pytest.raises(StoreUnreadable, match="not authorized"):
        add(db, 1)


def test_writers_of_the_process_are_kept_off_while_the_log_starts_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with closing(Database(path, SCHEMA)) as db:

        def write() -> None:
            add(db, 128)
            told.append("written")

        writer = threading.Thread(target=write)

        def start_over(connection: sqlite3.Connection) -> None:
            writer.start()
            writer.join(0.1)
            told.append("starts over")
            start_log_over(connection)
            told.append("has started over")

        monkeypatch.setattr("nexus_control.wal.start_log_over", start_over)
        before = salt(path)
        for n in range(128):
            add(db, n)
        db.wal.wait_for_checkpoint()
        after = salt(path)
        writer.join(60)
        assert told == ["starts over", "has started over", "written"]
        assert (before == after, salt(path) == after) == (False, True)


def test_a_reader_that_soon_ends_is_waited_for_so_that_the_log_starts_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, is_over = threading.Event(), threading.Event()
    with closing(Database(path, SCHEMA)) as db, closing(Database(path, SCHEMA)) as other:

        def read() -> None:
            with other.snapshot():
                numbers(other)
                opened.set()
                assert is_over.wait(60)
                time.sleep(0.02)

        def start_over(connection: sqlite3.Connection) -> None:
            connection.execute("PRAGMA busy_timeout = 60000")
            is_over.set()
            start_log_over(connection)

        monkeypatch.setattr("nexus_control.wal.start_log_over", start_over)
        reader = threading.Thread(target=read)
        before = salt(path)
        for n in range(128):
            if n == 127:
                reader.start()
                assert opened.wait(60)
            add(db, n)
        db.wal.wait_for_checkpoint()
        reader.join(60)
        assert salt(path) != before


def salt(path: Path) -> bytes:
    """What tells one write-ahead log of a file from the one that takes its place (https://www.sqlite.org/fileformat2.html#walformat)."""
    return Path(f"{path}-wal").read_bytes()[16:24]


def test_a_reader_that_stays_does_not_stop_the_writers(path: Path) -> None:
    file_db = Database(path, SCHEMA)
    opened, release = threading.Event(), threading.Event()

    def read() -> None:
        with file_db.snapshot():
            numbers(file_db)
            opened.set()
            release.wait(200)

    thread = threading.Thread(target=read)
    thread.start()
    assert opened.wait(60)
    for n in range(300):
        add(file_db, n)
    assert thread.is_alive()  # so nobody waited for it
    release.set()
    thread.join()
    assert numbers(file_db) == list(range(300))
    file_db.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("state", ["new", "closed before", "killed before", "read before"])
def test_one_commit_is_one_sync_from_the_first_on(path: Path, tmp_path: Path, state: str) -> None:
    if state != "new":
        add_in_process(path, ends="os._exit(0)" if state == "killed before" else "store.close()")
    if state == "read before":
        with DecisionStore(path, read_only=True) as store:
            assert store.decision_exists("before")
    script = textwrap.dedent(
        f"""
        import os
        from nexus_control.store import DecisionStore
        with DecisionStore({str(path)!r}) as store:
            os.write(1, b"begin")
            store.create_decision("d")
            for _ in range(9):
                os.write(1, b"next")
                store.append_event("d", "EXECUTION_STARTED", {{"type": "human", "id": "a"}}, {{}})
            os.write(1, b"end")
        """
    )
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-o", str(trace), sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, env=environment(), check=False, timeout=200)
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr.decode()[-200:]}")
    calls = [sync or mark for sync, mark in re.findall(r"(fsync|fdatasync)\(|write\(1, \"(begin|next|end)\"", trace.read_text())]
    assert calls[calls.index("begin") : calls.index("end")] == ["begin", "fdatasync", *["next", "fdatasync"] * 9]


def add_in_process(path: Path, ends: str) -> None:
    script = f"""
import os
from nexus_control.store import DecisionStore
store = DecisionStore({str(path)!r})
store.create_decision("before")
{ends}
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment(), timeout=200)


def linked_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
@pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("made", [os.mkfifo, Path.mkdir, linked_to_zeros], ids=["pipe", "folder", "link"])
def test_what_stands_in_the_place_of_a_file_of_sqlite_is_named_and_not_waited_for(
    path: Path, made: Callable[[Path], None], end: str, linked: bool
) -> None:
    Database(path, SCHEMA).close()
    made(Path(f"{path}{end}"))
    name = path
    if linked:
        name = path.with_name("link.db")
        name.symlink_to(path)
    with pytest.raises(StoreUnreadable, match=f"{re.escape(str(path))}{end}: it is no regular file.*remove it"):
        Database(name, SCHEMA)
    with pytest.raises(StoreUnreadable, match="it is no regular file"):
        Database(name, SCHEMA, read_only=True)


def test_a_schema_whose_names_are_no_text_is_named(path: Path) -> None:
    Database(path, SCHEMA).close()
    raw = path.read_bytes()
    assert raw.count(b"tablett") == raw.count(b"CREATE TABLE") == 1
    path.write_bytes(raw.replace(b"tablett", b"table\xff\xfe").replace(b"CREATE TABLE", b"CREATE TABEL"))
    with pytest.raises(StoreUnreadable, match=r"it holds names that are no text.*restore a backup"):
        Database(path, SCHEMA)
