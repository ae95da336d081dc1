"""Load from many processes and clients at once, and growth to any number of events, on SQLite or PostgreSQL.

    python -m bench.load                                          one client, then 8 processes, on a file beside the repository
    python -m bench.load --postgres --clients 4                   the same on a PostgreSQL server that is started for it
    python -m bench.load --processes 4 --clients 8 --db postgresql://...
    python -m bench.load --postgres --processes 1 --clients 32 --bound     the process on one processor
    python -m bench.load --grow 1000000                           cost of an append and memory as the store grows

Every client is a thread with a place of its own to write to (`append`, `approve`, `execute`) or makes new ones (`request`, `flow`). All of
them begin at one moment and end after the same time. A call that is refused counts as refused, and no time of it is told. `share` is the
number of calls of the slowest client over that of the fastest.
"""

import argparse
import json
import multiprocessing
import os
import queue
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, repeat
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any, TypeAlias

from bench.floors import WriteFloor
from bench.harness import Operation
from bench.scale import peak_bytes
from bench.workload import ADAPTER, AGENT, ALICE, CAROL, NoOpRouter, approve, data_of, flow, flows, request
from nexus_control.errors import NexusError
from nexus_control.events import Actor, EventType
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_ROOT = Path(__file__).resolve().parent.parent
CAN_BIND = hasattr(os, "sched_setaffinity")
"""Whether the system can bind a process to one processor."""

_PREPARED_AT_ONCE = 20
_MOST_SAMPLES = 200_000
"""Latencies kept per client: of more, a random choice."""

_PAYLOAD = {"expires_at": None, "comment": "Checked against the change calendar"}
_GROWN_PER_TRANSACTION = 4000
_FACTS_OF_A_FLOW = 8

Prepare: TypeAlias = Callable[[SqlStore, NexusControlTools, int], Iterator[Operation]]
"""Endless operations of one client; what is done between two of them is not measured."""


def _appends(store: SqlStore, tools: NexusControlTools, client: int) -> Iterator[Operation]:
    del tools
    names = [f"load-{os.getpid()}-{client}-{number}" for number in range(10)]
    with store.transaction():
        for name in names:
            store.append_events(name, [(EventType.DECISION_CREATED, AGENT, {"goal": "load"})], create=True)
    for name in cycle(names):
        yield lambda name=name: store.append_event(name, EventType.APPROVAL_GRANTED, ALICE, _PAYLOAD)


def _requests(store: SqlStore, tools: NexusControlTools, client: int) -> Iterator[Operation]:
    del store, client
    while True:
        yield lambda: request(tools)


def _approvals(store: SqlStore, tools: NexusControlTools, client: int) -> Iterator[Operation]:
    who = Actor(type="human", id=f"approver-{client}")
    while True:
        with store.transaction():
            waiting = [request(tools) for _ in range(_PREPARED_AT_ONCE)]
        for decision_id in waiting:
            yield lambda decision_id=decision_id: approve(tools, decision_id, who)


def _executions(store: SqlStore, tools: NexusControlTools, client: int) -> Iterator[Operation]:
    del client
    router = NoOpRouter()
    while True:
        with store.transaction():
            waiting = [request(tools, min_approvals=1) for _ in range(_PREPARED_AT_ONCE)]
            for decision_id in waiting:
                approve(tools, decision_id)
        for decision_id in waiting:
            yield lambda decision_id=decision_id: data_of(tools.execute(decision_id, ADAPTER, CAROL, router))


def _flows(store: SqlStore, tools: NexusControlTools, client: int) -> Iterator[Operation]:
    del store, client
    while True:
        yield lambda: flow(tools)


_OPERATIONS: dict[str, tuple[Prepare, int]] = {
    "append": (_appends, 1),
    "request": (_requests, 1),
    "approve": (_approvals, 1),
    "execute": (_executions, 2),
    "flow": (_flows, 5),
}
"""What is measured, and how many commits each takes."""


@dataclass(frozen=True, slots=True)
class _Client:
    """What one client did: how many calls, in how many seconds, some of their durations in seconds, refusals by code."""

    calls: int
    seconds: float
    samples: tuple[float, ...]
    refused: dict[str, int]


def open_store(db: str) -> SqlStore:
    """The store behind a path or a PostgreSQL address."""
    if db.startswith(("postgresql://", "postgres://")):
        from nexus_attest.postgres import PostgresStore

        return PostgresStore(db)
    return DecisionStore(db)


def measure(db: str, operation: str, *, processes: int, clients: int, seconds: float, bound: bool = False) -> dict[str, Any]:
    """Run one kind of call from `processes` times `clients` clients for so long; one row of the report.

    `bound`: each process runs on one processor, where the system can bind it.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes * clients)
    results: multiprocessing.Queue[list[_Client]] = context.Queue()
    open_store(db).close()  # the tables are there before anybody hurries
    workers = [
        context.Process(target=_process, args=(db, operation, clients, seconds, number * clients, barrier, results, bound))
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        found = [client for _ in workers for client in _next_result(results, workers)]
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    return {**_row(operation, processes, clients, found), "bound": bound and CAN_BIND}


def _next_result(results: "multiprocessing.Queue[list[_Client]]", workers: Sequence[BaseProcess]) -> list[_Client]:
    while True:
        try:
            return results.get(timeout=1)
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise RuntimeError("a process of the load failed; what it printed says why") from None


def _process(
    db: str,
    operation: str,
    clients: int,
    seconds: float,
    first: int,
    barrier: Barrier,
    results: "multiprocessing.Queue[list[_Client]]",
    bound: bool,
) -> None:
    if bound and CAN_BIND:
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {processors[(first // clients) % len(processors)]})
    found: list[_Client] = []
    with open_store(db) as store:
        tools = NexusControlTools(store)
        prepare, _ = _OPERATIONS[operation]

        def work(number: int) -> None:
            found.append(_client(prepare(store, tools, number), seconds, barrier))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(first, first + clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(found) != clients:
        raise RuntimeError("a client failed")
    results.put(found)


def _client(operations: Iterator[Operation], seconds: float, barrier: Barrier) -> _Client:
    samples: list[float] = []
    refused: Counter[str] = Counter()
    calls = 0
    next(operations)()  # the first one opens the connection
    barrier.wait(timeout=120)
    began = perf_counter()
    while (now := perf_counter()) - began < seconds:
        perform = next(operations)
        start = perf_counter()
        try:
            perform()
        except (NexusError, RuntimeError) as error:  # what `data_of` makes of a refusal
            refused[getattr(error, "code", str(error)[:100])] += 1
            continue
        took = perf_counter() - start
        calls += 1
        if len(samples) < _MOST_SAMPLES:
            samples.append(took)
        elif (place := random.randrange(calls)) < _MOST_SAMPLES:
            samples[place] = took
    return _Client(calls, now - began, tuple(samples), dict(refused))


def _row(operation: str, processes: int, clients: int, found: Sequence[_Client]) -> dict[str, Any]:
    samples = sorted(sample for client in found for sample in client.samples)
    calls = sum(client.calls for client in found)
    rate = calls / max(client.seconds for client in found)
    refused = sum((Counter(client.refused) for client in found), Counter[str]())

    def percentile(part: float) -> float | None:
        return samples[min(len(samples) - 1, int(len(samples) * part))] * 1000 if samples else None

    return {
        "operation": operation,
        "processes": processes,
        "clients": clients,
        "calls": calls,
        "per_second": rate,
        "commits_per_second": rate * _OPERATIONS[operation][1],
        "p50_ms": percentile(0.5),
        "p95_ms": percentile(0.95),
        "p99_ms": percentile(0.99),
        "max_ms": samples[-1] * 1000 if samples else None,
        "share": min(client.calls for client in found) / max(1, *(client.calls for client in found)),
        "refused": dict(refused),
    }


def floor_per_second(folder: Path, seconds: float) -> float:
    """Durable commits per second of one bare SQLite connection on the same disk, of a fact and its leaf as one append writes them."""
    with tempfile.TemporaryDirectory(dir=folder) as private, closing(WriteFloor(Path(private) / "floor.db")) as floor:
        commits, began = 0, perf_counter()
        while perf_counter() - began < seconds:
            floor.commit(["x" * 420])
            commits += 1
        return commits / (perf_counter() - began)


def grow(db: str, events: int, calls: int, told: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Fill a store to so many facts (events and headers); at ten sizes, the median processor time of a durable append, an approval
    and a status in milliseconds, and the peak of memory so far.
    """
    rows: list[dict[str, Any]] = []
    with open_store(db) as store:
        tools = NexusControlTools(store)
        steps = sorted({max(1, events * part // 10) for part in range(1, 11)})
        size = store.log_root()[0]
        for step in steps:
            while size < step:
                flows(tools, min(_GROWN_PER_TRANSACTION, step - size) // _FACTS_OF_A_FLOW + 1)
                size = store.log_root()[0]
            status = partial(_status, tools, request(tools))
            timed = {
                "append_cpu_ms": _timed(_appends(store, tools, step), calls),
                "approve_cpu_ms": _timed(_approvals(store, tools, step), calls),
                "status_cpu_ms": _timed(repeat(status), calls),
            }
            rows.append({"facts": size, **timed, "peak_mb": peak_bytes() / 1e6})
            told(rows[-1])
    return rows


def _status(tools: NexusControlTools, decision_id: str) -> None:
    data_of(tools.status(decision_id))


def _timed(operations: Iterator[Operation], calls: int) -> float:
    """The median of the processor time of the next calls, in milliseconds: what waits for the disk depends on who else uses it."""
    samples: list[float] = []
    for _ in range(calls):
        perform = next(operations)
        start = thread_time()
        perform()
        samples.append(thread_time() - start)
    return median(samples) * 1000


def main() -> int:
    """0, or 1 when a call was refused."""
    options = _options()
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"processors": os.cpu_count(), "load_at_start": os.getloadavg()[0]}
    with _database(options) as (db, least):
        postgres = "://" in db
        report["backend"] = "PostgreSQL" if postgres else "SQLite"
        if options.grow:
            rows = report["growth"] = grow(db, options.grow, options.calls, lambda row: _say(options, row))
            return _end(options, report, rows)
        if least is not None:
            report["floor_per_second"] = least(options.seconds)
            _say(
                options,
                {
                    "operation": "chained inserts of one connection" if postgres else "bare commits",
                    "per_second": report["floor_per_second"],
                },
            )
        report["load"] = rows
        for processes, clients in options.shapes:
            for operation in options.operation or _OPERATIONS:
                row = measure(db, operation, processes=processes, clients=clients, seconds=options.seconds, bound=options.bound)
                rows.append(row)
                _say(options, row)
        return _end(options, report, rows)


def _end(options: argparse.Namespace, report: dict[str, Any], rows: Sequence[dict[str, Any]]) -> int:
    report["load_at_end"] = os.getloadavg()[0]
    if options.json:
        print(json.dumps(report, indent=2))
    return int(any(row.get("refused") for row in rows))


def _say(options: argparse.Namespace, row: dict[str, Any]) -> None:
    if not options.json:
        print("  ".join(f"{key} {value:,.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()), flush=True)


@contextmanager
def _database(options: argparse.Namespace) -> Generator[tuple[str, Callable[[float], float] | None]]:
    """The store that was named, or one that is gone afterwards, and what measures the floor of its disk."""
    if options.postgres:
        from bench.postgres import ChainedFloor, started_server  # which measures by `measure`

        with started_server() as server:
            if server is None:
                raise SystemExit("no PostgreSQL server is installed")
            with closing(ChainedFloor(server.new_database())) as floor:
                yield server.new_database(), floor.rate
    elif options.db is not None:
        yield options.db, None if "://" in options.db else partial(floor_per_second, Path(options.db).parent)
    else:
        with tempfile.TemporaryDirectory(prefix="nexus-load-", dir=options.dir) as folder:
            yield str(Path(folder) / "load.db"), partial(floor_per_second, Path(folder))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Load from many processes, and growth.")
    parser.add_argument("--db", metavar="PATH|URL", help="the store, which is written to; default: a new file, removed afterwards")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL server that is started for it, on the disk of /tmp")
    parser.add_argument("--dir", type=Path, default=_ROOT.parent, help="where that new file is; default: beside the repository")
    parser.add_argument("--processes", type=int, metavar="N", help="how many processes; default: 1, then 8")
    parser.add_argument("--clients", type=int, default=1, metavar="N", help="threads per process; default: 1")
    parser.add_argument("--bound", action="store_true", help="each process on one processor, where the system can bind it")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each measurement takes; default: 5")
    parser.add_argument("--operation", action="append", choices=list(_OPERATIONS), help="one of: %(choices)s; default: all")
    parser.add_argument("--grow", type=int, metavar="EVENTS", help="instead: fill the store to so many events")
    parser.add_argument("--calls", type=int, default=500, metavar="N", help="with --grow: calls per median; default: 500")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    options.shapes = [(options.processes, options.clients)] if options.processes else [(1, options.clients), (8, options.clients)]
    return options


if __name__ == "__main__":
    sys.exit(main())
