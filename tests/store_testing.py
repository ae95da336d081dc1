"""Stores that tests own, a look at their files past the engine, and work in other processes."""

import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nexus_control.events import Actor
from nexus_control.store import DecisionStore

T0 = datetime(2025, 1, 1, tzinfo=UTC)

ALICE = Actor(type="human", id="alice")
BOB = Actor(type="human", id="bob")
CAROL = Actor(type="human", id="carol")
ROBOT = Actor(type="system", id="robot")
NEXUS = Actor(type="system", id="nexus-control")


def ticking_clock(step: timedelta = timedelta(seconds=1)) -> Callable[[], datetime]:
    """Every look at it is one step later, from 2025 on."""
    moments = (T0 + step * number for number in range(1_000_000))
    return lambda: next(moments)


class SetClock:
    """Shows `now` until somebody sets it."""

    def __init__(self, now: datetime = T0) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def new_store(path: Path | str = ":memory:", clock: Callable[[], datetime] | None = None) -> DecisionStore:
    """A store whose times and ids (`id-0`, `id-1` ...) repeat on every run."""
    names: Iterator[str] = (f"id-{number}" for number in range(1_000_000))
    return DecisionStore(path, clock=clock or ticking_clock(), new_id=lambda: next(names))


@contextmanager
def quick_folder() -> Generator[Path, None, None]:
    """A folder in memory where the system offers that, so that many commits take no time."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="nexus-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def foreign(path: Path | str) -> sqlite3.Connection:
    """A connection as any other program would open it: none of the engine's settings, each statement for itself."""
    return sqlite3.connect(path, isolation_level=None)


def raw_event(seq: int, /, **changes: Any) -> dict[str, Any]:
    """An event as imports insert it. Its digest is no digest unless given."""
    event: dict[str, Any] = {
        "seq": seq,
        "event_type": "DECISION_CREATED",
        "ts": "2025-01-01T00:00:00+00:00",
        "actor_type": "human",
        "actor_id": "alice",
        "payload": '{"goal":"g"}',
        "digest": "d",
    }
    return {**event, **changes}


def in_child(work: Callable[[], object]) -> Any:
    """What `work` gives (JSON data) in a forked child, or the text of its exception."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for the threads that some of these tests are about
        child = os.fork()
    if child == 0:
        try:
            signal.alarm(20)  # should it hang, the parent must not
            os.close(reader)
            try:
                answer = work()
            except BaseException as error:  # the child must not return into the parent's test
                answer = f"{type(error).__name__}: {error}"
            with os.fdopen(writer, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text or '"the child died"')


def environment() -> dict[str, str]:
    """For child processes that import the engine and these helpers."""
    here = Path(__file__).resolve().parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here), *sys.path])}
