"""What the store's log caches, what it has signed, and what somebody who edits the file can do to both."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import cast

import pytest
from checkpoint_testing import KEY, WITNESS, cosignature, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from store_testing import ALICE, foreign, new_store, quick_folder

from nexus_control import merkle
from nexus_control.backend import Connection
from nexus_control.checkpoint import NoteKey, SignedNote
from nexus_control.errors import InputError, LogRewritten, MalformedNote, StoreUnreadable
from nexus_control.events import EventType
from nexus_control.store import DecisionStore, EventItem
from nexus_control.tiles import read_tiles


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder / "store.db"


def grow(store: DecisionStore, rows: int) -> None:
    """Append a decision of so many rows, its header among them, in one commit."""
    items: list[EventItem] = [(EventType.EXECUTION_STARTED, ALICE, {})] * (rows - 1)
    store.append_events(f"d{store.log_root()[0]}", items, create=True)


def naive_root(path: Path, size: int | None = None) -> str:
    """The root over the stored leaves, by the definition of RFC 6962."""
    with closing(foreign(path)) as connection:
        leaves = [row[0] for row in connection.execute("SELECT leaf_hash FROM log ORDER BY position")][:size]

    def root(hashes: list[bytes]) -> bytes:
        if len(hashes) < 2:
            return hashes[0] if hashes else sha256().digest()
        middle = 1 << ((len(hashes) - 1).bit_length() - 1)
        return sha256(b"\x01" + root(hashes[:middle]) + root(hashes[middle:])).digest()

    return root(leaves).hex()


def edit(path: Path, *statements: str, parameters: tuple[object, ...] = ()) -> None:
    """What the owner of the file can do: drop every trigger, and then anything."""
    with closing(foreign(path)) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement, parameters)


def log_errors(store: DecisionStore) -> list[str]:
    return [error for error in store.verify_log().errors if not error.startswith("schema: the trigger")]


def sealed(number: int, value: bytes) -> bytes:
    return sha256(b"nexus-control log tile %d " % number + value).digest()


def checkpoint(store: DecisionStore) -> SignedNote:
    note = signed(*store.certain_log_root())
    store.add_checkpoint(note)
    return note


# -- tiles


@pytest.mark.parametrize("batches", [[255], [256], [257], [100, 200, 300], [1] * 3 + [512], [255, 1, 1], [1024]])
def test_every_256_leaves_fill_a_tile(path: Path, batches: list[int]) -> None:
    with new_store(path) as store:
        for rows in batches:
            grow(store, rows)
        with closing(foreign(path)) as connection:
            stored = connection.execute("SELECT number, hash, seal FROM log_tiles ORDER BY number").fetchall()
        assert [number for number, _, _ in stored] == list(range(sum(batches) // 256))
        assert all(seal == sealed(number, value) for number, value, seal in stored)
        assert store.verify_log().ok
    with DecisionStore(path) as store:
        assert store.log_root() == (sum(batches), naive_root(path))


def test_after_a_restart_only_tiles_and_the_leaves_after_them_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_store(path) as store:
        grow(store, 1300)
    asked: list[str] = []
    connect = cast("Callable[..., sqlite3.Connection]", sqlite3.connect)

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(asked.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    with DecisionStore(path) as store:
        asked.clear()
        root = store.log_root()
        ranges = [query.partition("position > ")[2] for query in asked if "FROM log WHERE" in query]
        assert all(int(text.split()[0]) >= 1280 for text in ranges)
        assert len(ranges) <= 5
    assert root == (1300, naive_root(path))


def test_tiles_of_a_transaction_that_is_undone_are_not_remembered(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 200)

        def give_up() -> None:
            with store.transaction():
                grow(store, 100)
                assert store.log_root()[0] == 300
                raise KeyError

        with pytest.raises(KeyError):
            give_up()
        store.append_events("other", [(EventType.DECISION_CREATED, ALICE, {"goal": "g"})] * 99, create=True)
        assert store.log_root() == (300, naive_root(path))
        assert store.verify_log().ok


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM log_tiles",
        "DELETE FROM log_tiles WHERE number = 1",
        "UPDATE log_tiles SET hash = zeroblob(32)",
        "UPDATE log_tiles SET hash = zeroblob(32) WHERE number = 2",
        "UPDATE log_tiles SET hash = x'00'",
        "UPDATE log_tiles SET seal = zeroblob(32)",
        "UPDATE log_tiles SET number = number + 1",
        "UPDATE log_tiles SET hash = (SELECT hash FROM log_tiles WHERE number = 0)",
    ],
)
def test_a_damaged_cache_changes_no_answer(path: Path, statement: str) -> None:
    with new_store(path) as store:
        grow(store, 1100)
        proof = store.inclusion_proof(700)
    if "number + 1" in statement:
        edit(
            path,
            "CREATE TABLE t AS SELECT * FROM log_tiles",
            "DELETE FROM log_tiles",
            "INSERT INTO log_tiles SELECT number + 1, hash, seal FROM t",
        )
        edit(path, "DROP TABLE t")
    else:
        edit(path, statement)
    with DecisionStore(path) as store:
        assert store.log_root() == (1100, naive_root(path))
        assert store.inclusion_proof(700) == proof


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 31), st.integers(0, 7), st.sampled_from(["hash", "seal"]), st.integers(0, 2))
def test_no_flipped_bit_of_a_tile_changes_a_root(byte: int, bit: int, column: str, number: int) -> None:
    with quick_folder() as folder:
        path = folder / "store.db"
        with new_store(path) as store:
            grow(store, 800)
        with closing(foreign(path)) as connection:
            (value,) = connection.execute(f"SELECT {column} FROM log_tiles WHERE number = ?", (number,)).fetchone()
            value = value[:byte] + bytes([value[byte] ^ (1 << bit)]) + value[byte + 1 :]
            connection.execute(f"UPDATE log_tiles SET {column} = ? WHERE number = ?", (value, number))
        with DecisionStore(path) as store:
            assert store.log_root() == (800, naive_root(path))


def forge_tile(path: Path, number: int) -> None:
    """Not an accident: the seal holds."""
    value = sha256(b"forged").digest()
    edit(path, "UPDATE log_tiles SET hash = ?, seal = ? WHERE number = ?", parameters=(value, sealed(number, value), number))


def test_a_forged_tile_is_named_by_verify_log_and_is_under_no_checkpoint(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 700)
    forge_tile(path, 1)
    with DecisionStore(path) as store:
        assert store.log_root() != (700, naive_root(path)), "this is what the header of tiles.py says it can do"
        assert log_errors(store) == ["tile 1: the cached hash of positions 257 to 512 is wrong"]
        assert store.certain_log_root() == (700, naive_root(path))
        with pytest.raises(InputError, match="another root"):
            store.add_checkpoint(signed(*store.log_root()))
        checkpoint(store)
        assert log_errors(store) == []
        assert store.log_root() == (700, naive_root(path))
    with DecisionStore(path) as store:
        assert store.log_root() == (700, naive_root(path))


def test_a_forged_tile_under_a_checkpoint_is_found_by_the_next_one(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 700)
        checkpoint(store)
        grow(store, 400)
    forge_tile(path, 0)
    with DecisionStore(path) as store:
        assert store.certain_log_root() == (1100, naive_root(path))
        checkpoint(store)
        assert log_errors(store) == []
        assert store.log_root() == (1100, naive_root(path))


def test_a_tile_of_positions_that_are_not_there_is_named(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 300)
    edit(path, "INSERT INTO log_tiles SELECT 1, hash, seal FROM log_tiles WHERE number = 0")
    with DecisionStore(path) as store:
        assert log_errors(store) == ["tile 1: there are no such positions"]


def test_a_store_without_tiles_gets_them_with_its_next_checkpoint(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 600)
    edit(path, "DELETE FROM log_tiles")
    with DecisionStore(path) as store:
        checkpoint(store)
    with closing(foreign(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM log_tiles").fetchone() == (2,)


# -- checkpoints


def test_checkpoints_are_kept_in_order(path: Path) -> None:
    with new_store(path) as store:
        assert store.checkpoints() == []
        notes = [checkpoint(store)]
        for _ in range(3):
            grow(store, 100)
            notes.append(checkpoint(store))
        assert store.checkpoints() == notes
        assert store.verify_log().ok
    with DecisionStore(path) as store:
        assert store.checkpoints() == notes


def test_a_cosigned_checkpoint_is_kept_beside_the_plain_one(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 10)
        note = checkpoint(store)
        cosigned = note.with_signatures([cosignature(note, WITNESS, 1)])
        assert store.add_checkpoint(cosigned).size == 10
        assert store.checkpoints() == [note, cosigned]


def test_what_is_no_checkpoint_of_this_log_is_refused(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 10)
        first = signed(10, store.log_root()[1])
        grow(store, 10)
        size, root = store.log_root()
        store.add_checkpoint(signed(size, root))
        for note in (first, signed(21, root), signed(size, "00" * 32), signed(size, root, NoteKey("example.org/other", b"k" * 32))):
            with pytest.raises(InputError):
                store.add_checkpoint(note)
        with pytest.raises(MalformedNote):
            store.add_checkpoint(SignedNote("no checkpoint\n", ()))
        assert len(store.checkpoints()) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE checkpoints SET note = 'x'",
        "UPDATE checkpoints SET size = 1",
        "DELETE FROM checkpoints",
        "INSERT OR REPLACE INTO checkpoints SELECT number, size, 'x' FROM checkpoints",
        "INSERT INTO checkpoints SELECT number + 2, size, note FROM checkpoints",
        "INSERT INTO checkpoints SELECT number + 1, size - 1, note FROM checkpoints",
    ],
)
def test_checkpoints_are_append_only(path: Path, statement: str) -> None:
    with new_store(path) as store:
        grow(store, 10)
        note = checkpoint(store)
        with closing(foreign(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
        assert store.checkpoints() == [note]


def cut_off(path: Path, after: int) -> None:
    edit(path, f"DELETE FROM decision_events WHERE position > {after}", f"DELETE FROM log WHERE position > {after}")
    edit(path, f"DELETE FROM decisions WHERE position > {after}", f"DELETE FROM log_tiles WHERE number >= {after // 256}")


def test_a_log_that_was_cut_off_is_not_signed_again(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 300)
        checkpoint(store)
    cut_off(path, 290)
    with DecisionStore(path) as store:
        assert log_errors(store) == ["checkpoint 1: it is of 300 entries, the log has 290"]
        with pytest.raises(LogRewritten, match="290 entries, its last checkpoint 300"):
            store.certain_log_root()
        with pytest.raises(LogRewritten):
            store.add_checkpoint(signed(*store.log_root()))
        grow(store, 10)
        with pytest.raises(LogRewritten, match="does not begin with"):
            store.certain_log_root()
        assert log_errors(store) == ["checkpoint 1: the first 300 entries of the log had another root when it was made"]


def test_a_log_whose_hashes_were_all_recomputed_is_not_signed_again(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 300)
        checkpoint(store)
        notes = store.checkpoints()
    other = path.with_name("other.db")
    with new_store(other) as store:  # another history, of the same length, sound in itself
        store.append_events("d0", [(EventType.EXECUTION_STARTED, ALICE, {"forged": True})] * 299, create=True)
    edit(other, "INSERT INTO checkpoints (number, size, note) VALUES (1, 300, ?)", parameters=(notes[0].render(),))
    with DecisionStore(other) as store:
        assert log_errors(store) == ["checkpoint 1: the first 300 entries of the log had another root when it was made"]
        with pytest.raises(LogRewritten):
            store.certain_log_root()


def test_a_log_without_its_leaves_is_not_signed(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 300)
    edit(path, "DELETE FROM log WHERE position = 7")
    with DecisionStore(path) as store, pytest.raises(StoreUnreadable, match="gap"):
        store.certain_log_root()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("DELETE FROM checkpoints WHERE number = 1", "checkpoint 1: it is missing"),
        ("UPDATE checkpoints SET size = size + 1 WHERE number = 1", "checkpoint 1: its row says size 11, its note 10"),
        ("UPDATE checkpoints SET note = 'x' WHERE number = 1", "checkpoint 1: a note is a text, an empty line, and lines with signatures"),
        (
            "UPDATE checkpoints SET note = replace(note, 'example.org', 'example.com') WHERE number = 2",
            "checkpoint 2: it is of the log 'example.com/log', the one before it of 'example.org/log'",
        ),
        (
            "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE number = 2), size = 20 WHERE number = 1",
            "checkpoint 2: it is of fewer entries than the one before it",
        ),
    ],
)
def test_verify_log_names_every_edited_checkpoint(path: Path, statement: str, error: str) -> None:
    with new_store(path) as store:
        for _ in range(2):
            grow(store, 10)
            checkpoint(store)
    if "fewer" in error:
        edit(path, "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE number = 2), size = 20 WHERE number = 1")
        with new_store(path) as store:
            first = signed(10, store.log_root(10)[1])
        edit(path, "UPDATE checkpoints SET note = ?, size = 10 WHERE number = 2", parameters=(first.render(),))
    else:
        edit(path, statement)
    with DecisionStore(path) as store:
        assert error in log_errors(store)


def test_a_log_of_the_first_schema_gets_checkpoints_and_keeps_its_root(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 600)
        root = store.log_root()
    edit(path, "DROP TABLE checkpoints", "DROP TABLE log_tiles", "PRAGMA user_version = 1")
    with DecisionStore(path) as store:
        assert store.log_root() == root
        checkpoint(store)
        assert log_errors(store) == []


# -- one proof for several events


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_a_joint_proof_of_the_store_verifies(data: st.DataObject) -> None:
    with new_store() as store:
        grow(store, 300)
        size = data.draw(st.integers(1, 300))
        positions = data.draw(st.sets(st.integers(1, size), min_size=1, max_size=9))
        proof = [bytes.fromhex(value) for value in store.joint_inclusion_proof(positions, size)]
        with store._database.reading() as connection:  # pyright: ignore[reportPrivateUsage]
            stored = dict(connection.execute("SELECT position - 1, leaf_hash FROM log").fetchall())
        leaves = {position - 1: stored[position - 1] for position in positions}
        assert merkle.verify_joint_inclusion(leaves, size, proof, bytes.fromhex(store.log_root(size)[1]))


def test_a_joint_proof_is_of_positions_that_are_there() -> None:
    with new_store() as store:
        grow(store, 5)
        for positions, size in (([], None), ([0], None), ([6], None), ([5], 4), ([1], 6), ([True], None)):
            with pytest.raises(InputError):
                store.joint_inclusion_proof(positions, size)


def test_a_checkpoint_is_no_fact_of_the_log() -> None:
    with new_store() as store:
        grow(store, 5)
        checkpoint(store)
        assert store.log_root()[0] == 5
        assert KEY.name == "example.org/log"


def test_a_tile_that_says_two_things_says_nothing() -> None:
    class Both:
        def execute(self, *_: object) -> list[tuple[int, bytes, bytes]]:
            told = [(0, b"a" * 32), (1, b"b" * 32), (1, b"c" * 32), (1, b"b" * 32), (2, b"d" * 32), (2, b"d" * 32)]
            return [(number, value, sealed(number, value)) for number, value in told]

    assert read_tiles(cast("Connection", Both()), 0, 3) == {0: b"a" * 32, 2: b"d" * 32}
