"""The store's log: its golden values, its proofs, and what it remembers."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_testing import ALICE, BOB, T0, foreign, new_store, quick_folder

from nexus_control import merkle
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.errors import InputError, StoreUnreadable
from nexus_control.events import EventType
from nexus_control.store import DecisionStore

CREATED: dict[str, Any] = {"goal": "g", "plan": None, "requested_mode": "dry_run", "labels": []}
EMPTY_ROOT = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
HEADER_HASH = "c6eb07ea0fb280a63f2c8ef8f7094110979273fc6cd28e1376270c8ec60029ad"
FIRST_HASH = "1bfa836df10e3a07f7d1f54872520a4a933c6d403a142902c3efcd0c81c6a1f1"
SECOND_HASH = "e2f7cda69ac93d780091788e70114ce9e51b65a1fa6e607b1462a580da3dd243"


@pytest.fixture
def path() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder / "store.db"


def golden_store(path: Path | str = ":memory:") -> DecisionStore:
    """The decision of the golden values, still without events; its events come at T0 and a second later."""
    moments = iter([T0, T0, T0 + timedelta(seconds=1)])
    store = DecisionStore(path, clock=lambda: next(moments))
    store.create_decision("dec-1")
    return store


def grow(store: DecisionStore, events: int) -> None:
    """Append `events` rows after a header, in one commit."""
    item = (EventType.EXECUTION_STARTED, ALICE, {"n": events})
    store.append_events(f"d{store.log_root()[0]}", [item] * events, create=True)


def leaves(path: Path) -> list[bytes]:
    with closing(foreign(path)) as connection:
        return [row[0] for row in connection.execute("SELECT leaf_hash FROM log ORDER BY position")]


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, over leaf hashes."""
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256().digest()
    middle = 1 << ((len(hashes) - 1).bit_length() - 1)
    return sha256(b"\x01" + naive_root(hashes[:middle]) + naive_root(hashes[middle:])).digest()


def raw(proof: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in proof]


# -- golden values


def test_the_root_over_nothing_is_the_hash_of_nothing() -> None:
    with DecisionStore() as store:
        assert store.log_root() == store.log_root(0) == (0, EMPTY_ROOT)
        verification = store.verify_log()
        assert (verification.ok, verification.errors, verification.head) == (True, [], EMPTY_ROOT)


def test_chain_and_roots_of_a_small_store_are_golden() -> None:
    with golden_store() as store:
        assert store.log_root() == (1, "a36b7a17a32ccc2f4bbf4289985c4ca831ce27f8c5f8298b59ea42bc85de8ab0")
        assert store.verify_log("dec-1").head == HEADER_HASH
        first = store.append_event("dec-1", EventType.DECISION_CREATED, ALICE, CREATED)
        second = store.append_event("dec-1", EventType.APPROVAL_GRANTED, BOB, {"expires_at": None})
        assert (first.prev_hash, first.chain_hash, first.position) == (HEADER_HASH, FIRST_HASH, 2)
        assert (second.prev_hash, second.chain_hash, second.position) == (FIRST_HASH, SECOND_HASH, 3)
        assert store.log_root() == (3, "be44f025d3750373a333f58a10a834fd8d078ea0e27ec16b5c8177898d3bc19a")
        assert store.log_root(1)[1] == "a36b7a17a32ccc2f4bbf4289985c4ca831ce27f8c5f8298b59ea42bc85de8ab0"
        assert store.verify_log("dec-1").head == SECOND_HASH
        assert store.verify_log().head == store.log_root()[1]


def test_a_batch_has_the_chain_and_the_roots_of_its_events_one_by_one() -> None:
    items = [(EventType.DECISION_CREATED, ALICE, CREATED), (EventType.APPROVAL_GRANTED, BOB, {"expires_at": None})]
    with DecisionStore(clock=lambda: T0) as one, DecisionStore(clock=lambda: T0) as other:
        one.append_events("dec-1", items, create=True)
        other.create_decision("dec-1")
        for item in items:
            other.append_event("dec-1", *item)
        assert one.get_events("dec-1") == other.get_events("dec-1")
        assert one.log_root() == other.log_root()


def test_there_is_no_root_over_a_leaf_that_is_no_hash(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 2)
    with closing(foreign(path)) as connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("CREATE TABLE other (position INTEGER PRIMARY KEY, leaf_hash, kind)")
        connection.execute("INSERT INTO other SELECT position, hex(leaf_hash), kind FROM log")
        connection.execute("DROP TABLE log")
        connection.execute("ALTER TABLE other RENAME TO log")
    with DecisionStore(path) as store, pytest.raises(StoreUnreadable, match="a leaf of the log is no hash"):
        store.log_root()


def test_every_leaf_is_the_record_that_the_format_says(path: Path) -> None:
    with DecisionStore(path, clock=lambda: T0) as store:
        store.get_template_store().create_template("t", ALICE)
        store.append_events("dec-1", [(EventType.DECISION_CREATED, ALICE, CREATED)], create=True)
        store.delete_decision("dec-1")
    time = "2025-01-01T00:00:00+00:00"
    alice = {"type": "human", "id": "alice"}
    values = {"min_approvals": 1, "allowed_modes": ["dry_run"], "require_adapter_capabilities": [], "max_steps": None, "labels": []}
    template = {
        "kind": "template_event",
        "template_name": "t",
        "seq": 0,
        "event_type": "TEMPLATE_CREATED",
        "ts": time,
        "actor": alice,
        "payload": {"name": "t", "description": "", **values},
        "prev_hash": "0" * 64,
    }
    header = {"kind": "generation", "decision_id": "dec-1", "generation": 1, "created_at": time, "tombstone": False, "prev_hash": "0" * 64}
    event = {
        "kind": "event",
        "decision_id": "dec-1",
        "generation": 1,
        "seq": 0,
        "event_type": "DECISION_CREATED",
        "ts": time,
        "actor": alice,
        "payload": CREATED,
        "prev_hash": sha256(canonical_json_bytes(header)).hexdigest(),
    }
    tombstone = {**header, "generation": 2, "tombstone": True, "prev_hash": sha256(canonical_json_bytes(event)).hexdigest()}
    records = [canonical_json_bytes(record) for record in (template, header, event, tombstone)]
    assert leaves(path) == [sha256(b"\x00" + record).digest() for record in records]


# -- proofs


SIZES = [1, 2, 3, 7, 255, 256, 257, 511, 513, 700]


@pytest.fixture(scope="module")
def grown() -> Iterator[tuple[DecisionStore, list[bytes]]]:
    """A store of 700 facts, and their leaf hashes."""
    with quick_folder() as folder, new_store(folder / "store.db") as store:
        grow(store, 699)
        yield store, leaves(folder / "store.db")


@pytest.mark.parametrize("size", SIZES)
def test_every_root_is_that_of_the_naive_tree(grown: tuple[DecisionStore, list[bytes]], size: int) -> None:
    store, hashes = grown
    for _ in range(2):  # the second answer comes partly from memory
        assert store.log_root(size) == (size, naive_root(hashes[:size]).hex())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_proofs_of_inclusion_verify(grown: tuple[DecisionStore, list[bytes]], data: st.DataObject) -> None:
    store, hashes = grown
    size = data.draw(st.integers(1, 700) | st.sampled_from(SIZES))
    position = data.draw(st.integers(1, size))
    proof = raw(store.inclusion_proof(position, size))
    root = naive_root(hashes[:size])
    assert merkle.verify_inclusion(hashes[position - 1], position - 1, size, proof, root)
    assert not merkle.verify_inclusion(hashes[position % 700], position - 1, size, proof, root)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_proofs_of_consistency_verify(grown: tuple[DecisionStore, list[bytes]], data: st.DataObject) -> None:
    store, hashes = grown
    new = data.draw(st.integers(0, 700) | st.sampled_from(SIZES))
    old = data.draw(st.integers(0, new))
    proof = raw(store.consistency_proof(old, new))
    assert merkle.verify_consistency(old, naive_root(hashes[:old]), new, naive_root(hashes[:new]), proof)
    if 0 < old < new:
        assert not merkle.verify_consistency(old, naive_root(hashes[1 : old + 1]), new, naive_root(hashes[:new]), proof)


def test_without_a_size_proofs_are_for_the_whole_log(grown: tuple[DecisionStore, list[bytes]]) -> None:
    store, _ = grown
    assert store.log_root()[0] == 700
    assert store.inclusion_proof(5) == store.inclusion_proof(5, 700)
    assert store.consistency_proof(300) == store.consistency_proof(300, 700)


NO_NUMBERS: list[Any] = [-1, 2**70, pytest.param(10**5000, id="huge"), True, 1.0, "1", b"1", [1], {}]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 701])
def test_a_size_that_the_log_does_not_have_is_refused(grown: tuple[DecisionStore, list[bytes]], value: Any) -> None:
    store, _ = grown
    calls: list[Callable[[], object]] = [
        lambda: store.log_root(value),
        lambda: store.inclusion_proof(1, value),
        lambda: store.consistency_proof(1, value),
        lambda: store.consistency_proof(value),
    ]
    for call in calls:
        with pytest.raises(InputError, match="must be between 0 and 700"):
            call()


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, 8, None])
def test_a_position_that_the_tree_does_not_have_is_refused(grown: tuple[DecisionStore, list[bytes]], value: Any) -> None:
    with pytest.raises(InputError, match="position must be between 1 and 7"):
        grown[0].inclusion_proof(value, 7)


def test_an_old_size_above_the_new_one_is_refused(grown: tuple[DecisionStore, list[bytes]]) -> None:
    with pytest.raises(InputError, match="old_size must be between 0 and 7"):
        grown[0].consistency_proof(8, 7)


def test_the_empty_log_has_no_positions() -> None:
    with DecisionStore() as store:
        assert store.consistency_proof(0) == []
        with pytest.raises(InputError):
            store.inclusion_proof(1)


# -- memory


def test_what_was_rolled_back_is_not_remembered(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 299)
        with pytest.raises(LookupError), store.transaction():  # noqa: PT012
            grow(store, 400)
            assert store.log_root()[0] == 701
            assert store.inclusion_proof(700)
            raise LookupError
        grow(store, 300)
        grow(store, 98)
        hashes = leaves(path)
        assert len(hashes) == 700
        for size in range(290, 701, 10):
            assert store.log_root(size)[1] == naive_root(hashes[:size]).hex()
        assert store.verify_log().ok


def test_what_another_store_wrote_is_in_the_roots(path: Path) -> None:
    with new_store(path) as store, DecisionStore(path) as other:
        grow(store, 299)
        assert store.log_root()[0] == 300
        grow(other, 299)
        assert store.log_root() == other.log_root() == (600, naive_root(leaves(path)).hex())


def test_inside_a_transaction_the_roots_cover_what_it_wrote(path: Path) -> None:
    with new_store(path) as store:
        with store.transaction():
            grow(store, 299)
            inside = store.log_root()
        assert store.log_root() == inside == (300, naive_root(leaves(path)).hex())


def test_a_log_with_a_gap_has_no_roots_beyond_it(path: Path) -> None:
    with new_store(path) as store:
        grow(store, 599)
    with closing(foreign(path)) as connection:
        connection.execute("DROP TRIGGER log_refuse_delete")
        connection.execute("DELETE FROM log WHERE position = 300")
        connection.execute("DELETE FROM log_tiles WHERE number = 1")  # which still tells what was there
    with DecisionStore(path) as store:
        with pytest.raises(StoreUnreadable, match="gap"):
            store.log_root()
        with pytest.raises(StoreUnreadable, match="gap"):
            store.inclusion_proof(1)
        assert store.log_root(256)[0] == 256
        errors = store.verify_log().errors
        assert errors == [
            "schema: the trigger log_refuse_delete is missing or was changed",
            "log: position 300 is missing, found 301",
            "log: position 300 has a stored event but no leaf",
        ]
