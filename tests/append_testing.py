"""Many threads that append to one store at the same time, and whether what each append was told is so."""

import os
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from store_testing import ALICE

from nexus_control.errors import CommitUnknown, StoreBusy, StoreFull, StoreUnreachable
from nexus_control.events import EventType
from nexus_control.sql_store import SqlStore

__all__ = ["PATIENCE_SECONDS", "SHARED", "Appends", "Load", "check"]

THREADS = 24
SHARED = ["shared-0", "shared-1"]
PATIENCE_SECONDS = 60


class Appends:
    """What was told of appends, by the comment of the event, which no two of them share.

    `acknowledged` has the decision and the seq, and `refused` the message, which says that nothing was written. What is `unknown` may be
    stored, once.
    """

    def __init__(self) -> None:
        self.acknowledged: dict[str, tuple[str, int]] = {}
        self.refused: dict[str, str] = {}
        self.unknown: set[str] = set()

    def append(self, store: SqlStore, name: str) -> None:
        """Append one event, and note what is told. Raises what is no matter of a server that is disturbed."""
        comment = os.urandom(8).hex()
        try:
            event = store.append_event(name, EventType.EXECUTION_STARTED, ALICE, {"comment": comment})
        except CommitUnknown:
            self.unknown.add(comment)
        except (StoreUnreachable, StoreBusy, StoreFull) as error:
            self.refused[comment] = str(error)
        else:
            self.acknowledged[comment] = name, event.seq

    def told(self) -> int:
        """How many appends have ended."""
        return len(self.acknowledged) + len(self.refused) + len(self.unknown)


class Load:
    """Threads that append without a pause, by turns to a decision of their own and to one that they share."""

    def __init__(self, store: SqlStore) -> None:
        self.appends = Appends()
        self.names = [*SHARED, *(f"own-{number}" for number in range(THREADS))]
        for name in self.names:
            store.create_decision(name)
        self._store = store
        self._strange: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._append, args=(number,)) for number in range(THREADS)]

    def _append(self, number: int) -> None:
        try:
            while not self._ended.is_set():
                self.appends.append(self._store, f"own-{number}")
                self.appends.append(self._store, SHARED[number % 2])
        except BaseException:
            self._strange.append(traceback.format_exc())

    def wait_for(self, fact: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not fact():
            assert not self._strange, self._strange[0]
            assert time.monotonic() < deadline, f"waited in vain: {self.appends.told()} were told"
            time.sleep(0.001)

    def wait_for_more(self, number: int = 100) -> None:
        """Until so many more have been acknowledged."""
        target = len(self.appends.acknowledged) + number
        self.wait_for(lambda: len(self.appends.acknowledged) >= target)

    @contextmanager
    def running(self) -> Generator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join(PATIENCE_SECONDS)
        assert not self._strange, self._strange[0]
        assert not any(thread.is_alive() for thread in self._threads)


def check(store: SqlStore, names: Sequence[str], *appends: Appends) -> None:
    """Asserts that the log verifies, and that these decisions have nothing but these appends, each as was told."""
    verification = store.verify_log()
    assert verification.ok, verification.errors
    stored: dict[str, tuple[str, int]] = {}
    times = Counter[str]()
    for name in names:
        events = store.get_events(name)
        assert [event.seq for event in events] == list(range(len(events))), name
        comments = [str(event.payload["comment"]) for event in events]
        times.update(comments)
        stored.update({comment: (name, seq) for seq, comment in enumerate(comments)})
    assert not (twice := [comment for comment, number in times.items() if number > 1]), f"stored more than once: {twice}"
    for each in appends:
        lost = {comment: place for comment, place in each.acknowledged.items() if stored.pop(comment, None) != place}
        assert not lost, f"acknowledged, and not stored there: {lost}"
        wrong = {comment: message for comment, message in each.refused.items() if comment in stored or "nothing was written" not in message}
        assert not wrong, f"refused, and stored, or nobody knows: {wrong}"
        for comment in each.unknown:
            stored.pop(comment, None)
    assert not stored, f"stored, and told nobody: {stored}"
