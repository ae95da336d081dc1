"""Copies of whole stores: the same rows, roots and checkpoints, however often the copy was interrupted."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from checkpoint_testing import signed
from store_testing import ALICE, BOB, foreign, new_store, quick_folder, raw_event

from nexus_control import copying
from nexus_control.copying import copy_store
from nexus_control.errors import InputError, StoresDiffer
from nexus_control.events import EventType, event_digest
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore, EventItem


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def fill(store: SqlStore, decisions: int = 20) -> None:
    """Decisions, templates, a deletion, an import and checkpoints."""
    for number in range(decisions):
        name = store.create_decision()
        store.append_events(name, [(EventType.DECISION_CREATED, ALICE, {"goal": str(number)}), (EventType.APPROVAL_GRANTED, BOB, {})])
        store.get_template_store().create_template(f"t-{name}\x00\x01", ALICE, labels=["a"])
        if number % 7 == 0:
            size, root = store.log_root()
            store.add_checkpoint(signed(size, root))
    store.delete_decision(store.list_decisions()[0][0])
    digest = event_digest("DECISION_CREATED", '{"goal":"g"}')
    store.import_decision_atomic("imported", "2024-06-01", [raw_event(0, digest=digest)])


@pytest.mark.parametrize("step", [1, 7, 5000])
def test_a_copy_has_every_row_and_the_same_root(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(copying, "_STEP", step)
    steps: list[tuple[int, int]] = []
    with new_store() as source, DecisionStore() as target:
        fill(source)
        copied = copy_store(source, target, lambda done, total: steps.append((done, total)))
        assert (copied.size, copied.root) == source.log_root() == target.log_root() == target.certain_log_root()
        assert (copied.facts, copied.checkpoints, copied.found) == (83, 3, ())
        assert steps[-1] == (83, 83)
        assert len(steps) == -(-83 // step)
        assert target.checkpoints() == source.checkpoints()
        assert target.list_decisions() == source.list_decisions()
        assert target.origin("imported") == source.origin("imported") == (1, 1)
        assert target.get_template_store().list_templates() == source.get_template_store().list_templates()
        assert target.verify_log().errors == []


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_store_whose_name_is_no_utf8_is_copied_like_any_other(folder: Path) -> None:
    with DecisionStore(folder / "a\udcff.db") as source, DecisionStore(folder / "b\udcff.db") as target:
        fill(source, 1)
        assert copy_store(source, target).root == source.log_root()[1]
        with DecisionStore(folder / "a\udcff.db") as same, pytest.raises(InputError, match="are the same store"):
            copy_store(source, same)


def test_a_copy_goes_on_where_it_ended_and_brings_what_came_later(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(copying, "_STEP", 10)

    class Interrupted(Exception):
        pass

    def interrupt(done: int, _: int) -> None:
        if done >= 30:
            raise Interrupted

    path = folder / "target.db"
    with new_store() as source:
        fill(source)
        with DecisionStore(path) as target, pytest.raises(Interrupted):
            copy_store(source, target, interrupt)
        with DecisionStore(path) as target:
            assert target.log_root() == source.log_root(30)
            assert target.verify_log().errors == []
            assert copy_store(source, target).facts == 53
            fill(source)
            later = copy_store(source, target)
            assert (later.facts, later.checkpoints) == (81, 3)
            assert copy_store(source, target).facts == 0


def test_tiles_are_made_anew(folder: Path) -> None:
    with new_store() as source, DecisionStore(folder / "target.db") as target:
        items: list[EventItem] = [(EventType.EXECUTION_STARTED, ALICE, {})] * 600
        source.append_events("d", items, create=True)
        copy_store(source, target)
        with closing(foreign(folder / "target.db")) as connection:
            assert connection.execute("SELECT COUNT(*) FROM log_tiles").fetchone()[0] == 2


def test_a_target_that_is_no_earlier_state_is_refused_and_left_alone() -> None:
    with new_store() as source, new_store() as target, new_store() as ahead:
        fill(source)
        target.create_decision("other")
        before = target.log_root()
        with pytest.raises(StoresDiffer, match="has another log"):
            copy_store(source, target)
        assert target.log_root() == before
        copy_store(source, ahead)
        ahead.create_decision("more")
        with pytest.raises(StoresDiffer, match="has 84 entries already"):
            copy_store(source, ahead)


def test_a_target_that_somebody_else_extends_meanwhile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_STEP", 10)
    with new_store() as source, new_store() as target:
        fill(source)
        with pytest.raises(StoresDiffer, match="somebody else writes"):
            copy_store(source, target, lambda done, total: target.create_decision(f"{done} of {total}"))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("decisions", "goal = 'other'"),
        ("decision_events", "digest = 'other'"),
        ("templates", "digest = 'other'"),
        ("log", "kind = 'event'"),
        ("imports", "events = 0"),
        ("checkpoints", "note = note || 'x'"),
    ],
)
def test_a_row_that_is_not_the_same_is_found_although_the_roots_are_equal(folder: Path, table: str, change: str) -> None:
    path = folder / "target.db"
    with new_store() as source:
        fill(source)
        with DecisionStore(path) as target:
            copy_store(source, target)
        with closing(foreign(path)) as connection:
            connection.execute(f"DROP TRIGGER {table}_refuse_update")
            connection.execute(f"UPDATE {table} SET {change}")
        with DecisionStore(path) as target, pytest.raises(StoresDiffer, match=f"the rows of {table} are not the same"):
            copy_store(source, target)


def test_a_store_that_does_not_verify_is_copied_as_it_is_and_that_is_told() -> None:
    with new_store() as source, DecisionStore() as target:
        source.import_decision_atomic("dec-1", "2024-06-01", [raw_event(0, digest="wrong")])
        assert copy_store(source, target).found == tuple(source.verify_log().errors)
        assert len(target.verify_log().errors) == 1


def test_an_empty_store_is_a_copy_of_an_empty_store() -> None:
    with new_store() as source, DecisionStore() as target:
        assert copy_store(source, target).size == 0


def test_the_work_of_a_copy_grows_with_the_store_and_not_with_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_STEP", 50)

    def steps_of_sqlite(decisions: int) -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        with DecisionStore() as source, DecisionStore() as target:
            with source.transaction():
                for number in range(decisions):
                    source.append_events(f"d-{number}", [(EventType.DECISION_CREATED, ALICE, {"goal": "g"})], create=True)
            with source.backend.reading() as connection:
                connection.set_progress_handler(count, 1000)  # pyright: ignore
            assert copy_store(source, target).size == 2 * decisions
        return counted

    assert steps_of_sqlite(2000) < 4.6 * steps_of_sqlite(500)  # 11 times, when every step looks at every row


def test_a_store_is_not_copied_to_itself_whatever_it_is_called(folder: Path) -> None:
    path = folder / "store.db"
    with DecisionStore(path) as store:
        fill(store, 2)
        (folder / "link.db").symlink_to(path)
        (folder / "sub").mkdir()
        for name in ("store.db", "link.db", "sub/../store.db"):
            with DecisionStore(folder / name) as other, pytest.raises(InputError, match="are the same store; name another target"):
                copy_store(store, other)
        with pytest.raises(InputError, match="same store"):
            copy_store(store, store)
    with DecisionStore() as store, pytest.raises(InputError, match="same store"):
        copy_store(store, store)
