"""Copies of database files: whole and of one moment, made while others write; and looking at a file leaves it as it was."""

import hashlib
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nexus_control import file_copy
from nexus_control.errors import SchemaTooNew, StoreBusy, StoreError, StoreUnreadable
from nexus_control.events import Actor, EventType
from nexus_control.file_copy import LogHead, copy_file, examine_file, only_user
from nexus_control.store import DecisionStore

ALICE = Actor(type="human", id="alice")


def fill(path: Path, decisions: int = 3) -> LogHead:
    with DecisionStore(path) as store:
        for number in range(decisions):
            store.append_events(f"d{number}", [(EventType.DECISION_CREATED, ALICE, {"goal": "g" * 3000})], create=True)
        return LogHead(*store.log_root())


def edit(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def age(path: Path) -> None:
    """Make the file one of the release before imports were counted."""
    triggers = [f"DROP TRIGGER imports_refuse_{event}" for event in ("update", "delete", "insert")]
    edit(path, *triggers, "DROP TABLE imports", "PRAGMA user_version = 2", "PRAGMA journal_mode = DELETE")


def test_a_copy_is_a_store_with_the_same_log(tmp_path: Path) -> None:
    head = fill(tmp_path / "a.db")
    assert copy_file(tmp_path / "a.db", tmp_path / "b.db") == head
    assert head.size == 6
    with DecisionStore(tmp_path / "b.db") as copy:
        assert LogHead(*copy.log_root()) == head
        assert copy.verify_log().ok


def test_a_copy_is_of_one_moment_while_others_write_and_they_do_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a.db", tmp_path / "b.db"
    monkeypatch.setattr(file_copy, "_PAGES_PER_STEP", 1)
    before = fill(source, 40)
    steps: list[int] = []
    with DecisionStore(source) as store:

        def write(done: int, _total: int) -> None:  # between two pages of the copy, from another thread
            writer = threading.Thread(target=store.create_decision)
            writer.start()
            writer.join(20)
            assert not writer.is_alive()
            steps.append(done)

        head = copy_file(source, target, progress=write)
        assert store.log_root()[0] == before.size + len(steps) > before.size + 40
        assert store.log_root(before.size)[1] == before.root
    assert head == before
    assert steps == sorted(steps)
    assert examine_file(target).head == before
    assert examine_file(target).sound


def test_an_interrupt_is_heard_while_a_copy_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_copy, "_PAGES_PER_STEP", 1)
    fill(tmp_path / "a.db")

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_file(tmp_path / "a.db", tmp_path / "b.db", progress=interrupt)
    assert fill(tmp_path / "c.db").size == 6


def test_looking_at_a_file_does_not_change_it_even_when_its_schema_is_old(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    head = fill(path)
    now = digest(path)
    found = examine_file(path)
    assert (found.sound, found.outdated, found.head, digest(path)) == (True, False, head, now)
    age(path)
    old = digest(path)
    found = examine_file(path)
    assert (found.damage, found.problems, found.outdated, found.head) == ((), (), True, head)
    copy_file(path, tmp_path / "b.db")
    assert digest(path) == old
    assert examine_file(tmp_path / "b.db").outdated


def test_the_newest_time_is_that_of_events_that_were_recorded_here(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with DecisionStore(path, clock=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) as store:
        store.append_events("mine", [(EventType.DECISION_CREATED, ALICE, {})], create=True)
        told = {"seq": 0, "event_type": "DECISION_CREATED", "ts": "2099-01-01T00:00:00+00:00", "actor_type": "human", "actor_id": "x"}
        store.import_decision_atomic("theirs", "2026-01-01T00:00:00+00:00", [{**told, "payload": "{}", "digest": ""}])
    assert examine_file(path).newest == "2026-01-02T03:04:05+00:00"
    fill(tmp_path / "empty.db", 0)
    assert examine_file(tmp_path / "empty.db").newest is None


def test_what_is_not_as_it_was_written_is_a_problem_and_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    fill(path)
    edit(path, "DROP TRIGGER decision_events_refuse_update", "UPDATE decision_events SET actor_id = 'mallory' WHERE position = 2")
    found = examine_file(path)
    assert not found.damage
    assert not found.sound
    assert any("decision d0 generation 1 event 0" in problem for problem in found.problems)
    guards = "schema: the trigger decision_events_refuse_update is missing or was changed"
    assert found.problems[0] == guards
    assert examine_file(path, facts=False).problems == (guards,)


def test_rows_that_belong_to_nothing_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    fill(path)
    edit(path, "DROP TRIGGER decisions_refuse_delete", "DELETE FROM decisions WHERE decision_id = 'd1'")
    assert examine_file(path).damage == ("a row of decision_events belongs to no row of decisions",)
    assert not examine_file(path).sound


def test_a_broken_page_is_damage_or_makes_the_file_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    fill(path, 40)
    content = bytearray(path.read_bytes())
    sound = bytes(content)
    for page in range(1, len(content) // 4096):
        content[:] = sound
        content[page * 4096 : page * 4096 + 100] = b"\xff" * 100
        path.write_bytes(content)
        try:
            found = examine_file(path)
        except StoreUnreadable:
            continue
        assert found.damage or found.problems, page


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("PRAGMA user_version = 200", SchemaTooNew),
        ("PRAGMA application_id = 7", StoreUnreadable),
    ],
)
def test_a_file_of_another_program_or_a_newer_release_is_refused(tmp_path: Path, statement: str, error: type[StoreError]) -> None:
    path = tmp_path / "a.db"
    fill(path)
    edit(path, statement)
    with pytest.raises(error):
        examine_file(path)


def test_a_leaf_that_is_no_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    fill(path)
    edit(path, "DROP TABLE log", "CREATE TABLE log (position, leaf_hash, kind)", "INSERT INTO log VALUES (1, 'text', 'event')")
    with pytest.raises(StoreUnreadable, match="no hash"):
        copy_file(path, tmp_path / "b.db")


def copy_beside(path: Path) -> object:
    return copy_file(path, path.with_name("out.db"))


@pytest.mark.parametrize("use", [copy_beside, examine_file])
@pytest.mark.parametrize("content", [None, b"", b"junk", b"junk" * 5000, b"SQLite format 3\0" + b"junk" * 5000])
def test_what_is_no_database_is_refused_by_name(tmp_path: Path, content: bytes | None, use: Callable[[Path], object]) -> None:
    path = tmp_path / "a.db"
    (tmp_path / "a.db-wal").write_bytes(b"all that is left")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError):
        use(path)
    # Beside a file with a header SQLite removes what is no log of it.
    assert (content or b"").startswith(b"SQLite") or (tmp_path / "a.db-wal").read_bytes() == b"all that is left"


def test_a_copy_that_cannot_be_written_is_an_error_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "a.db")
    with pytest.raises(StoreError):
        copy_file(tmp_path / "a.db", tmp_path / "nowhere" / "b.db")


def test_the_only_user_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    fill(path)
    with DecisionStore(path) as other:
        other.create_decision("x")
        with pytest.raises(StoreBusy), only_user(path):
            pass
        assert other.decision_exists("x")
    with only_user(path):
        assert [file.name for file in tmp_path.iterdir()] == ["a.db"]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(path, timeout=0).execute("SELECT * FROM log").fetchall()
    with DecisionStore(path) as store:
        assert store.verify_log().ok
