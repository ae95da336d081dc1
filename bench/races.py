"""Workers of several processes who execute one approved decision at the same moment, round after round: exactly one may run it."""

import multiprocessing
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.harness import Result, Settings
from bench.load import open_store
from bench.postgres import started_server
from bench.workload import ADAPTER, CAROL, NoOpRouter, approve, request
from nexus_control.tool import NexusControlTools

_TOLD_EVERY_SECONDS = 30


def races(settings: Settings) -> Iterator[Result]:
    """64 workers in 8 processes, 1,000 rounds, on SQLite: rounds in which not exactly one of them ran it."""
    yield _raced("race for an execution, sqlite", str(settings.directory / "races.db"), settings)


def postgres_races(settings: Settings) -> Iterator[Result]:
    """The same on PostgreSQL."""
    name = "race for an execution, postgres"
    with started_server() as server:
        if server is None:
            yield Result(name=name, unit="wrong rounds", goal=0, detail="no PostgreSQL server is installed")
        else:
            yield _raced(name, server.new_database(), settings)


def _raced(name: str, place: str, settings: Settings) -> Result:
    rounds = settings.size(1000, 2)
    processes, clients = settings.size(8, 2), settings.size(8, 2)
    began = perf_counter()
    made = race(place, processes=processes, clients=clients, rounds=rounds)
    ran_once = sum(times == 1 for times in Counter(made).values())
    detail = f"{processes * clients} workers, {rounds} rounds, {len(made)} runs, {perf_counter() - began:.0f} s"
    return Result(name=name, unit="wrong rounds", value=rounds - ran_once, goal=0, detail=detail)


def race(place: str, *, processes: int, clients: int, rounds: int) -> list[str]:
    """All clients of all processes execute one approved decision at the same moment, round after round; gives the runs that were made."""
    with open_store(place) as store:
        tools = NexusControlTools(store)
        ids = [request(tools, min_approvals=1) for _ in range(rounds)]
        for decision_id in ids:
            approve(tools, decision_id)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        runs.touch()
        together = context.Barrier(processes * clients)
        workers = [context.Process(target=_race, args=(place, ids, clients, str(runs), together)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        _wait_for(workers, runs, rounds)
        if any(worker.exitcode for worker in workers):
            raise RuntimeError("a racer failed; see above")
        made = runs.read_text().split()
    with open_store(place) as store:
        completed = [NexusControlTools(store).status(decision_id).data["state"] for decision_id in ids]
        if set(completed) != {"completed"} or not store.verify_log().ok:
            raise RuntimeError(f"the decisions are not completed once: {set(completed)}")
    return made


def _wait_for(workers: Sequence[BaseProcess], runs: Path, rounds: int) -> None:
    """Wait until all have ended, and tell now and then how many rounds had their run."""
    while alive := [worker for worker in workers if worker.is_alive()]:
        alive[0].join(_TOLD_EVERY_SECONDS)
        if alive[0].is_alive():
            print(f"{len(runs.read_text().split())} of {rounds} rounds", file=sys.stderr, flush=True)


class _MarkingRouter(NoOpRouter):
    """Leaves a word in a file per run; O_APPEND keeps those of several processes apart."""

    def __init__(self, path: str, decision_id: str) -> None:
        self._path, self._decision_id = path, decision_id

    def run(self, **given: Any) -> dict[str, Any]:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, f"{self._decision_id}\n".encode())
        os.close(descriptor)
        return super().run(**given)


def _race(place: str, ids: list[str], clients: int, runs: str, together: Any) -> None:
    problems: list[BaseException] = []
    with open_store(place) as store:
        tools = NexusControlTools(store)

        def client() -> None:
            try:
                for decision_id in ids:
                    together.wait(300)
                    result = tools.execute(decision_id, ADAPTER, CAROL, _MarkingRouter(runs, decision_id))
                    if result.code not in (None, "ALREADY_EXECUTED", "EXECUTION_IN_PROGRESS"):
                        raise RuntimeError(f"{result.error}")
            except BaseException as error:
                problems.append(error)
                together.abort()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if problems:
        raise problems[0]
