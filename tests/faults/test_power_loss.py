"""Power that fails in the middle of a write: what was acknowledged is there, what was not is there whole or not at all.

The disk is modelled, not the machine: what a commit that nobody acknowledged may have left of itself is made by hand, from copies of the
database and its write-ahead log before and after. A disk writes sectors in any order, and may lose any of those that were not synced.
Whatever is recovered must be a beginning of the true history: its root is the one that the store had at that size.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from store_testing import ALICE, BOB, foreign, quick_folder, ticking_clock

from nexus_control.errors import StoreError
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else a choice of places and of seeds; `make faults` takes thousands of places and many seeds."""

SEEDS = range(400 if EVERY_STEP else 25)
SECTOR = 512
_FRAME, _WAL_HEADER = 24 + 4096, 32  # https://www.sqlite.org/fileformat2.html#walformat


@dataclass(frozen=True)
class Moment:
    """The files after a commit was acknowledged, and how many facts had been by then."""

    size: int
    db: bytes
    wal: bytes


@dataclass
class History:
    """A store that goes on while its files are looked at. `roots` are the true ones, by size."""

    folder: Path
    tools: NexusControlTools
    store: DecisionStore
    roots: dict[int, str]
    trials: int = 0

    @property
    def path(self) -> Path:
        return self.folder / "live" / "s.db"

    def moment(self) -> Moment:
        size, root = self.store.log_root()
        self.roots[size] = root
        wal = self.path.with_name("s.db-wal")
        return Moment(size, self.path.read_bytes(), wal.read_bytes() if wal.exists() else b"")

    def checkpoint(self) -> None:
        """Have the log copied into the database; the next commit starts it over."""
        with closing(foreign(self.path)) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0

    def recovered(self, db: bytes, wal: bytes) -> int | None:
        """The size of the store that SQLite makes of these files, None where SQLite or verification says that they are damaged.

        One that verifies has the root that the store had at that size, and goes on.
        """
        self.trials += 1
        folder = self.folder / f"trial-{self.trials}"
        folder.mkdir()
        (folder / "s.db").write_bytes(db)
        (folder / "s.db-wal").write_bytes(wal)
        try:
            with DecisionStore(folder / "s.db") as store:
                if not store.verify_log().ok:
                    return None
                size, root = store.log_root()
                assert self.roots.get(size) == root, f"no state that the store ever had: {size} facts"
                store.create_decision("goes on")
                assert store.log_root()[0] == size + 1
            return size
        except StoreError:
            return None
        finally:
            shutil.rmtree(folder)


@pytest.fixture
def history() -> Iterator[History]:
    with quick_folder() as folder:
        (folder / "live").mkdir()
        with DecisionStore(folder / "live" / "s.db", clock=ticking_clock()) as store:
            yield History(folder, NexusControlTools(store), store, {})


class Router:
    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: object) -> dict[str, object]:
        return {"run_id": "r", "steps_executed": 1}


def commands(tools: NexusControlTools) -> Iterator[Callable[[], object]]:
    """One of each kind. They are one commit each, except for `execute`, which is two."""
    made: dict[str, str] = {}

    def request() -> None:
        made["id"] = tools.request("g", ALICE, min_approvals=1).data["request_id"]

    yield request
    yield lambda: tools.approve(made["id"], ALICE)
    yield lambda: tools.revoke_approval(made["id"], ALICE)
    yield lambda: tools.approve(made["id"], BOB, comment="x" * 9000)
    yield lambda: tools.template_create(f"t{made['id']}", ALICE)
    yield lambda: tools.import_bundle(tools.export_bundle(made["id"]).data["bundle"], conflict_mode="new_decision_id")
    yield lambda: tools.execute(made["id"], "ad", ALICE, Router())


def test_a_log_that_is_cut_off_anywhere_gives_the_last_commit_that_is_whole_in_it(history: History) -> None:
    moments = [history.moment()]
    for command in commands(history.tools):
        command()
        moments.append(history.moment())
        assert moments[-1].size > moments[-2].size
    *_, last = moments
    between = last.size - 1  # `execute` commits twice
    history.roots[between] = history.store.log_root(between)[1]
    ends = {moment.size: len(moment.wal) for moment in moments}
    lengths = set(range(0, len(last.wal) + 1, 61)) if EVERY_STEP else set[int]()  # a prime: every offset in a page comes
    for frame in range(_WAL_HEADER, len(last.wal) + 1, _FRAME):
        lengths |= {frame - 1, frame, frame + 24} if frame in ends.values() else {frame}
    for length in sorted(length for length in lengths if length <= len(last.wal)):
        found = history.recovered(last.db, last.wal[:length])
        whole = max((size for size, end in ends.items() if end <= length), default=0)
        assert found == whole or found == between > whole, length


def mixed(before: bytes, after: bytes, source: random.Random) -> bytes:
    """Sectors of both, each as it was or as it was to be; what is new to the file may also be zeros, or not be there."""
    end = source.choice([len(before), len(after), source.randrange(len(after) + 1)])
    kept = source.random()
    found = bytearray()
    for start in range(0, len(after), SECTOR):
        new, old = after[start : start + SECTOR], before[start : start + SECTOR]
        found += new if source.random() < kept else old + bytes(len(new) - len(old))
    return bytes(found[: max(end, len(before))])


@pytest.mark.parametrize("restarted", [False, True], ids=["a log that grows", "a log that starts over"])
def test_of_a_commit_that_was_not_synced_any_sectors_may_be_missing(history: History, restarted: bool) -> None:
    for command in commands(history.tools):
        command()
    if restarted:  # old frames, which are in the database already, stand where new ones are written
        history.checkpoint()
    for number, command in enumerate(commands(history.tools)):
        before = history.moment()
        command()
        after = history.moment()
        between = (after.size - 1,) if number == 6 else ()  # `execute` commits twice
        history.roots |= {size: history.store.log_root(size)[1] for size in between}
        for seed in SEEDS[:: 1 if EVERY_STEP else 5]:
            found = history.recovered(before.db, mixed(before.wal, after.wal, random.Random(f"{number}-{seed}")))
            assert found in (before.size, *between, after.size), seed
        assert history.recovered(before.db, after.wal) == after.size


def test_a_checkpoint_that_was_interrupted_loses_nothing(history: History) -> None:
    for _ in range(3):
        for command in commands(history.tools):
            command()
    before = history.moment()
    history.checkpoint()
    after = history.path.read_bytes()
    assert after != before.db
    for seed in SEEDS:
        assert history.recovered(mixed(before.db, after, random.Random(seed)), before.wal) == before.size


def test_a_copy_that_was_not_taken_at_one_instant_is_a_true_state_or_does_not_verify(history: History) -> None:
    moments: list[Moment] = []
    for number in range(6):
        for command in commands(history.tools):
            command()
            moments.append(history.moment())
        if number % 2:
            history.checkpoint()
            moments.append(history.moment())
    history.roots |= {size: history.store.log_root(size)[1] for size in range(moments[-1].size + 1)}
    source = random.Random(1)
    pairs = [sorted(source.sample(range(len(moments)), 2)) for _ in range(4 * len(SEEDS))]
    found = [history.recovered(moments[first].db, moments[second].wal) for first, second in pairs]
    assert None in found  # most are
    assert any(size is not None for size in found)
