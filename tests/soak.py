"""Hours of ordinary and extraordinary days in some minutes: everything that a store goes through, over and over, in one process.

    PYTHONPATH=.:tests python tests/soak.py --minutes 10
    PYTHONPATH=.:tests python tests/soak.py --minutes 10 --postgres

Commands of all kinds go to stores that stay open, and appends of several threads at once. Between them other processes work on the same
store and are killed at a random step, the files are copied in the middle of things, the clock is set, stores are closed and opened again,
and moved to another one. With `--postgres` the store is a database on a server that is started for it, which is killed in the middle of
commands and started again. Again and again the whole log is verified, and nothing that was acknowledged may be missing. At the end the
process must not have grown: its memory and its open files are measured when everything has happened a few times, and then until the end;
and a store that was closed must leave no connection to the server behind.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from append_testing import Appends, check
from fault_testing import in_process, library
from postgres_testing import PostgresServer
from store_testing import ALICE, BOB, CAROL, SetClock

from nexus_attest.attestation import AttestationIntent, AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.postgres import PostgresStore
from nexus_control.audit_package import verify_audit_package
from nexus_control.copying import copy_store
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

T = TypeVar("T")

FACTS_PER_STORE = 1500
"""Then a new file is begun, so that verifying the whole log costs about the same all the time."""

GROWTH_MB = 12.0
"""What a process may grow by after its first quarter and still be called steady: allocators give little back."""

_PAGE = os.sysconf("SC_PAGE_SIZE")
_POOL_SIZE = 4
APPENDED = ["shared", *(f"own-{number}" for number in range(8))]
"""Decisions that threads append to together: each to one of its own, and all of them to the first one."""

_PATIENCE_SECONDS = 60
"""A server notices a moment later that a process was killed."""


class Router:
    """Leaves a line per run in a file: no execution may have two."""

    accepts_execution_id = True

    def __init__(self, path: Path, fails: bool) -> None:
        self.path = path
        self.fails = fails

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, *, execution_id: str = "", **_: Any) -> dict[str, Any]:
        with self.path.open("a") as file:
            file.write(f"{execution_id}\n")
        if self.fails:
            raise OSError("the tool failed")
        return {"run_id": f"run of {execution_id}", "steps_executed": 1}


class Place(ABC):
    """Where the store is that is in use now."""

    steps: int
    """A process is killed at a step before this one, or ends by itself."""

    connections: ClassVar[Counter[str]] = Counter()
    """By so many the open files may grow: a pool has one connection at least, and how many more depends on what came last."""

    @abstractmethod
    def begin(self, folder: Path) -> None:
        """Room for a new store, instead of the one before."""

    @abstractmethod
    def open(self, clock: SetClock) -> SqlStore: ...

    @abstractmethod
    def lose_power(self, here: "Soak") -> None:
        """What was there a moment ago is there after that."""

    @abstractmethod
    def end(self) -> None:
        """The store was closed, and is not needed any more."""


class AFile(Place):
    steps = 70

    def begin(self, folder: Path) -> None:
        self.folder = folder

    def open(self, clock: SetClock) -> SqlStore:
        return DecisionStore(self.folder / "s.db", clock=clock)

    def lose_power(self, here: "Soak") -> None:
        """The files as they are now, as after a loss of power: what is there is a state that this store had."""
        size, root = here.store.log_root()
        folder = self.folder / "copy"
        folder.mkdir()
        for name in ("s.db", "s.db-wal"):
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, folder / name)
        with DecisionStore(folder / "s.db") as store:
            assert store.log_root() == (size, root)
        shutil.rmtree(folder)

    def end(self) -> None:
        """Its folder is removed by whoever made it."""


class ADatabase(Place):
    steps = 50
    connections: ClassVar[Counter[str]] = Counter(socket=_POOL_SIZE - 1)

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.address: str | None = None

    def begin(self, folder: Path) -> None:
        del folder
        self.end()
        self.address = self.server.new_database()

    def open(self, clock: SetClock) -> SqlStore:
        assert self.address is not None
        return PostgresStore(self.address, pool_size=_POOL_SIZE, clock=clock)

    def lose_power(self, here: "Soak") -> None:
        """The server is killed at some moment of a command, and started again."""
        if here.source.random() < 0.5:
            self._kill_in(here, here.append_together)
            return
        name, result = self._kill_in(here, lambda: here.act(here.tools, here.decision()))
        if result.success:
            here.note(name)
        here.recover(name)

    def _kill_in(self, here: "Soak", work: Callable[[], T]) -> T:
        delay = here.source.random() * 0.02
        with ThreadPoolExecutor(1) as beside:
            acting = beside.submit(work)
            time.sleep(delay)
            self.server.kill()
            self.server.start()  # here, as it ends with the thread that started it
            return acting.result(60)

    def end(self) -> None:
        if self.address is not None:
            name = self.address.partition("@/")[2].partition("?")[0]
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while connected := self.server.psql(f"SELECT pid, query FROM pg_stat_activity WHERE datname = '{name}'"):
                assert time.monotonic() < deadline, f"a store that was closed is still connected: {connected}"
                time.sleep(0.05)
            self.server.drop(self.address)
            self.address = None


class Soak:
    """One folder, the store in it that is in use now, and what is known of it."""

    def __init__(self, folder: Path, seed: int, place: Place | None = None) -> None:
        self.folder = folder
        self.place = place or AFile()
        self.source = random.Random(seed)
        self.clock = SetClock()
        self.done: Counter[str] = Counter()
        self.facts = 0
        self.stores = 0
        self.begin()

    def begin(self) -> None:
        """A new file."""
        self.stores += 1
        self.at = self.folder / f"store-{self.stores}"
        self.at.mkdir()
        self.place.begin(self.at)
        self.acknowledged: dict[str, int] = {}
        self.queued: list[str] = []
        self.appends = Appends()
        self.open()
        for name in APPENDED:
            self.store.create_decision(name)

    def open(self) -> None:
        self.store = self.place.open(self.clock)
        self.queue = AttestationQueue(self.at / "s.db", clock=self.clock)
        self.tools = NexusControlTools(self.store)

    def close(self) -> None:
        self.queue.close()
        self.store.close()

    # -- one step ---------------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do one thing, whichever comes up."""
        what = self.source.choices(list(_THINGS), [weight for weight, _ in _THINGS.values()])[0]
        _THINGS[what][1](self)
        self.done[what] += 1
        if self.done.total() % 300 == 0:
            self.verify()
            if self.store.log_root()[0] > FACTS_PER_STORE:
                self.close()
                shutil.rmtree(self.at)
                self.begin()

    def verify(self) -> None:
        """The log, that everything acknowledged is there, nothing that was refused, and that no execution ran twice."""
        check(self.store, APPENDED, self.appends)
        self.facts += self.store.log_root()[0]
        for name, events in self.acknowledged.items():
            assert len(self.store.get_events(name)) >= events, f"{name} has lost events"
        runs = Counter((self.at / "runs").read_text().splitlines()) if (self.at / "runs").exists() else Counter[str]()
        assert all(times == 1 for times in runs.values()), runs.most_common(3)

    def decision(self) -> str:
        return self.source.choice(list(self.acknowledged)) if self.acknowledged else "none"

    def act(self, tools: NexusControlTools, name: str) -> tuple[str, ToolResult]:
        """A command that writes; the decision it is about, and what was told."""
        who, source = self.source.choice((ALICE, BOB, CAROL)), self.source
        match source.randrange(7):
            case 0 | 1:
                result = tools.request("g" * source.randrange(1, 2000), who, mode="apply", min_approvals=source.randrange(1, 3))
                return result.data.get("request_id", ""), result
            case 2:
                expires_at = self.clock.now + timedelta(minutes=source.randrange(-10, 60)) if source.random() < 0.3 else None
                return name, tools.approve(name, who, comment="x" * source.randrange(500), expires_at=expires_at)
            case 3:
                return name, tools.revoke_approval(name, who)
            case 4:
                return name, tools.recover_execution(name, who)
            case _:
                router = Router(self.at / "runs", fails=source.random() < 0.3)
                return name, tools.execute(name, "ad", who, router, retry=source.random() < 0.5)

    def note(self, name: str) -> None:
        self.acknowledged[name] = len(self.store.get_events(name))

    def write(self) -> None:
        name, result = self.act(self.tools, self.decision())
        if result.success:
            self.note(name)

    def append_together(self) -> None:
        """Threads append at the same time, by turns to a decision of their own and to one that they share."""
        all_there = threading.Barrier(len(APPENDED) - 1)

        def work(own: str) -> None:
            all_there.wait(_PATIENCE_SECONDS)
            for name in (own, APPENDED[0]) * 2:
                self.appends.append(self.store, name)

        with ThreadPoolExecutor(len(APPENDED) - 1) as threads:
            for each in [threads.submit(work, own) for own in APPENDED[1:]]:
                each.result()

    def template(self) -> None:
        name = f"t{self.source.randrange(10_000)}"
        self.tools.template_create(name, ALICE, min_approvals=1)
        assert self.tools.template_get(name).success

    def look(self) -> None:
        name = self.decision()
        for result in (self.tools.status(name, include_events=True), self.tools.inspect(name), self.tools.list_requests(20)):
            assert result.success or result.code == "DECISION_NOT_FOUND"

    def travel(self) -> None:
        bundle = self.tools.export_bundle(self.decision())
        if bundle.success:
            taken = self.tools.import_bundle(bundle.data["canonical_json"], conflict_mode="new_decision_id")
            assert taken.success, taken.error
            self.note(taken.data["imported"]["decision_id"])

    def evidence(self) -> None:
        package = self.tools.export_audit_package(self.decision())
        assert not package.success or verify_audit_package(package.data["package"]).ok

    def attest(self) -> None:
        if self.queued and self.source.random() < 0.5:
            queue_id = self.source.choice(self.queued)
            self.queue.record_receipt(AttestationReceipt(queue_id, "xrpl", 1, ReceiptStatus.SUBMITTED, "2025-01-15T12:00:00+00:00"))
            assert self.queue.get(queue_id) is not None
        else:
            digest = f"sha256:{self.source.getrandbits(256):064x}"
            self.queued.append(self.queue.enqueue(AttestationIntent("nexus.audit_package", digest)))

    def set_the_clock(self) -> None:
        self.clock.now += timedelta(minutes=self.source.randrange(-120, 240))

    def start_again(self) -> None:
        self.close()
        self.open()

    def lose_power(self) -> None:
        self.place.lose_power(self)

    def move(self) -> None:
        """A copy in another place, which has every row."""
        with DecisionStore() as other:
            assert copy_store(self.store, other).root == self.store.log_root()[1]

    def another_process(self) -> None:
        """A process that does the same as this one, on the same file, and is killed at some step, or not."""
        name, seed = self.decision(), self.source.random()

        def work() -> Mapping[str, Any]:
            self.source.seed(seed)
            with self.place.open(self.clock) as store:
                acted, result = self.act(NexusControlTools(store), name)
            return {"success": result.success, "name": acted}

        ended = in_process(self.at, library(work), kill_at=self.source.randrange(self.place.steps))
        assert ended.was_killed or ended.code == 0, ended
        self.done["killed"] += ended.was_killed
        if ended.acknowledged:
            self.note(ended.document["name"])
        self.recover(name)

    def recover(self, name: str) -> None:
        """End an execution whose process, or whose way to tell of it, is gone."""
        known = self.tools.status(name)
        if known.success and known.data["state"] == "executing":
            assert self.tools.execute(name, "ad", ALICE, Router(self.at / "runs", fails=False)).code == "EXECUTION_IN_PROGRESS"
            assert self.tools.recover_execution(name, ALICE, "its process was killed").success


_THINGS: dict[str, tuple[float, Callable[[Soak], None]]] = {
    "command": (40, Soak.write),
    "appends": (2, Soak.append_together),
    "template": (2, Soak.template),
    "look": (15, Soak.look),
    "travel": (3, Soak.travel),
    "evidence": (5, Soak.evidence),
    "attestation": (8, Soak.attest),
    "clock": (3, Soak.set_the_clock),
    "reopen": (2, Soak.start_again),
    "power": (2, Soak.lose_power),
    "move": (1, Soak.move),
    "process": (4, Soak.another_process),
}


def measured(here: Soak) -> tuple[float, Counter[str]]:
    """The `resources` when many threads have used a store that was just opened.

    SQLite keeps files of connections that are closed for the next ones, and a fork closes all of store and queue until they are used again:
    else it would depend on what came last.
    """
    here.start_again()
    here.append_together()
    memory, files = resources()
    print(f"open files: {dict(sorted(files.items()))}", file=sys.stderr, flush=True)
    return memory, files


def resources() -> tuple[float, Counter[str]]:
    """Megabytes of memory that this process has, and the files that it has open, by their names without folders or numbers."""
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    files = Counter[str]()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that this loop reads
            name = os.readlink(file)  # noqa: PTH115
            files[name.partition(":[")[0].rpartition("/")[2]] += 1
    return resident * _PAGE / 2**20, files


def soak(seconds: float, seed: int, folder: Path, place: Place | None = None) -> dict[str, Any]:
    """Go on for so long; what was done, and what the process was like after a quarter of it and at the end."""
    here = Soak(folder, seed, place)
    started = told = time.monotonic()
    baseline: tuple[float, Counter[str]] | None = None
    peak = 0.0
    while (elapsed := time.monotonic() - started) < seconds:
        here.step()
        if baseline is None and time.monotonic() - started > seconds / 4:  # after the step, which may be the only one
            baseline = measured(here)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            memory, files = resources()
            peak = max(peak, memory)
            print(
                f"{elapsed:6.0f} s  {here.done.total():7} steps  {here.done['killed']:5} killed  {here.facts:8} facts verified  "
                f"{memory:6.1f} MB  {files.total()} files",
                file=sys.stderr,
                flush=True,
            )
    here.verify()
    end = measured(here)
    here.close()
    here.place.end()
    before = baseline or end
    more = end[1] - before[1] - here.place.connections
    assert not more, f"open files grew: {dict(more)}"
    assert end[0] <= before[0] + GROWTH_MB, f"memory grew from {before[0]:.1f} MB to {end[0]:.1f} MB"
    return {
        "seconds": round(elapsed),
        "seed": seed,
        "steps": dict(here.done),
        "stores": here.stores,
        "facts_verified": here.facts,
        "memory_mb": [round(before[0], 1), round(max(peak, end[0]), 1), round(end[0], 1)],
        "open_files": [before[1].total(), end[1].total()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep stores busy, with faults, and watch that nothing is lost and nothing grows.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run (default: a new one)")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server that is started for it, and killed now and then")
    given = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    memory = Path("/dev/shm")
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="nexus-soak-", dir=memory if os.access(memory, os.W_OK) else None))
        place = None
        if given.postgres:
            try:
                place = ADatabase(opened.enter_context(PostgresServer()))
            except pytest.skip.Exception as missing:
                raise SystemExit(str(missing)) from None
        print(json.dumps(soak(given.minutes * 60, seed, Path(folder), place), indent=2))


if __name__ == "__main__":
    main()
