"""Appends of several threads, as one: what arrives while another is being committed is chained and inserted together.

Commands that read and judge share a commit (`writer`), each in its own turn. A plain append judges nothing, so many of them need one look
at where their decisions end, one insertion and one commit, instead of one each. Each is answered for itself: one that is refused,
because its decision is not there or has another end than it expected, writes nothing and keeps no other from being written.

The threads of a process run one at a time, and the server is another process. So those who are answered are woken when the next batch is
on its way: they return to their callers, and come back with more, while the server works and not while it waits for us.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeAlias

from nexus_attest.postgres.batch import Wanted
from nexus_attest.postgres.driver import faults, raise_named
from nexus_control.errors import CommitUnknown, NexusError, StoreBusy, StoreClosed, StoreUnreachable
from nexus_control.events import StoredEvent
from nexus_control.sql_store import Append

__all__ = ["AppendQueue"]

_MOST = 128
"""Appends in one transaction."""

_LONGEST_WAIT = 0.005
"""Seconds that a batch waits for more, at most; never longer than the one before it took."""

_Together: TypeAlias = Callable[[Sequence[Wanted], Callable[[], None]], None]


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class _Waiting(Wanted):
    """`woken` is held until the append is answered, or leads; a bare lock, which costs a tenth of an event."""

    woken: threading.Lock = field(default_factory=_locked)
    leads: bool = False


class AppendQueue:
    """The appends of a process. `together` appends a batch and answers each of it; before it waits for anything, it calls its second
    argument. `alone` appends one as every store does. `path` is where the store is, for messages.
    """

    def __init__(self, path: str, together: _Together, alone: Callable[[Append], list[StoredEvent]]) -> None:
        self._path = path
        self._together = together
        self._alone = alone
        self._begin()

    def _begin(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._answered: deque[_Waiting] = deque()
        self._has_leader = False
        self._gathering: _Waiting | None = None
        self._enough = 1
        self._took = 0.0
        self._process = os.getpid()

    def append(self, wanted: Append) -> list[StoredEvent]:
        """Append, alone or together with others. Raises what refuses this one, or what kept all of them from being committed."""
        if self._process != os.getpid():  # forked: the threads that wait or lead are the parent's
            self._begin()
        own = _Waiting(wanted)
        with self._guard:
            self._waiting.append(own)
            own.leads = not self._has_leader
            self._has_leader = True
            if self._gathering is not None and len(self._waiting) >= self._enough:
                self._gathering.woken.release()
                self._gathering = None
        if not own.leads:
            try:
                own.woken.acquire()
            except BaseException:  # interrupted: nobody waits for its turn any more
                self._withdraw(own)
                raise
        if own.leads:
            self._lead(own)
        if own.error is not None:
            raise own.error
        return own.stored or []

    def _withdraw(self, own: _Waiting) -> None:
        """Take out what nobody has begun to append, and hand its lead on."""
        with self._guard:
            if own in self._waiting:
                self._waiting.remove(own)
            if own.leads:
                self._hand_on()

    def _hand_on(self) -> None:
        """Have the next one lead, who wakes those who are answered by then; without one, wake them. Under the guard."""
        self._has_leader = bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].woken.release()
        else:
            self._wake_answered()

    def _wake_answered(self) -> None:
        """Each of them once, whoever else does so at the same time."""
        while True:
            try:
                answered = self._answered.popleft()
            except IndexError:
                return
            answered.woken.release()

    def _lead(self, own: _Waiting) -> None:
        """Do what waits, the caller's own among it, and hand the rest to the next."""
        try:
            self._gather(own)
        except BaseException:
            self._withdraw(own)
            raise
        with self._guard:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
        began = perf_counter()
        try:
            self._answer(batch)
        finally:
            with self._guard:
                self._enough = (len(batch) + len(self._waiting)) // 2
                self._took = perf_counter() - began
                self._answered.extend(each for each in batch if each is not own)
                self._hand_on()

    def _gather(self, own: _Waiting) -> None:
        """Wait until half of those who append at the moment are there, so that one half prepares while the other one is stored.

        Else the first one back would go alone, and wait for the disk as long as all the others together.
        """
        with self._guard:
            if len(self._waiting) >= self._enough:
                return
            self._gathering = own
        try:
            self._wake_answered()  # they are who is waited for
            own.woken.acquire(timeout=min(self._took, _LONGEST_WAIT))
        finally:
            with self._guard:
                self._gathering = None

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            try:
                self._together(batch, self._wake_answered)
                return
            except faults() as error:
                raise_named(error, self._path, lost=getattr(error, "sqlstate", None) is None)
            finally:
                self._wake_answered()
        except (StoreUnreachable, StoreBusy, StoreClosed, CommitUnknown) as error:
            for each in batch:
                each.stored, each.error = None, type(error)(str(error))
            return
        except NexusError:  # of one of them, an id that is too long for instance: the others are not to suffer
            pass
        except BaseException as error:
            for each in batch:
                each.stored, each.error = None, CommitUnknown(f"{self._path}: interrupted ({type(error).__name__}); read again")
            raise
        for each in batch:
            each.stored, each.error = None, None
            try:
                each.stored = self._alone(each.append)
            except BaseException as error:
                each.error = error
