"""Appends of several threads, as one: what arrives while another is being committed is chained and inserted together.

Commands that read and judge share a commit (`writer`), each in its own turn. A plain append judges nothing, so many of them need one look
at where their decisions end, one insertion and one commit, instead of one each. Each is answered for itself: one that is refused,
because its decision is not there or has another end than it expected, writes nothing and keeps no other from being written.

The threads of a process run one at a time, and the server is another process. So those who are answered are woken when the next batch is
on its way: they return to their callers, and come back with more, while the server works and not while it waits for us. And whoever comes
back as the last of half of them prepares the batch behind the one that is on its way, in its own time: nobody has to be woken for that.
Who leads a batch sends the prepared one as soon as its own is answered, and leaves its answer to the first of those that it is for.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeAlias

from nexus_attest.postgres import sleeping
from nexus_attest.postgres.batch import Wanted
from nexus_attest.postgres.driver import LOCK_TIMEOUT_SECONDS, faults, raise_named
from nexus_attest.postgres.sleeping import Sleeper
from nexus_control import fork
from nexus_control.errors import CommitUnknown, NexusError, StoreBusy, StoreClosed, StoreUnreachable
from nexus_control.events import StoredEvent
from nexus_control.sql_store import Append

__all__ = ["AppendQueue"]

_MOST = 128
"""Appends in one transaction."""

_MOST_CHARACTERS = 16_000_000
"""What is appended in one transaction by more than one. The server closes the connection at a message of a gigabyte."""

_LONGEST_WAIT = 0.005
"""Seconds that a batch waits for more, at most; never longer than the one before it took."""

_Together: TypeAlias = Callable[[Sequence[Wanted], Callable[[], None]], None]


@dataclass(eq=False)
class _Waiting(Sleeper, Wanted):
    """`stored` and `error` hold when `is_answered`. `leader` is who took it out of what waits, since it `arrived`. `size` in characters."""

    size: int = 0
    leader: "_Waiting | None" = None
    is_answered: bool = False
    arrived: float = field(default_factory=perf_counter)


class AppendQueue:
    """The appends of a process. `together` appends a batch and answers each of it; before it waits for anything, it calls its second
    argument. `alone` appends one as every store does. `prepare` is told, while a batch is on its way, which will be the next one, and does
    for it what can be done now; whether there was anything. `send` is told when `together` will be called with that one next, and may send
    it already. `size` says how much there is to send of an append, in characters. `path` is where the store is, for messages.
    """

    def __init__(
        self,
        path: str,
        together: _Together,
        alone: Callable[[Append], list[StoredEvent]],
        prepare: Callable[[Sequence[Wanted]], bool] = lambda _: False,
        send: Callable[[Sequence[Wanted]], None] = lambda _: None,
        size: Callable[[Append], int] = lambda _: 0,
    ) -> None:
        self._path = path
        self._together = together
        self._alone = alone
        self._prepare = prepare
        self._send = send
        self._size = size
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._guard = threading.Lock()
        self._preparing = threading.Lock()
        self._prepared: list[_Waiting] = []
        self._sent: list[_Waiting] = []
        self._waiting: list[_Waiting] = []
        self._answered: deque[_Waiting] = deque()
        self._leader: _Waiting | None = None
        self._gathering: _Waiting | None = None
        self._enough = 1
        self._took = 0.0

    def before_fork(self) -> None:
        """Nothing has to be put away."""

    def after_fork(self, *, in_child: bool) -> None:
        """In the child, begin anew: the threads that wait or lead are the parent's."""
        if in_child:
            self._begin()

    def append(self, wanted: Append) -> list[StoredEvent]:
        """Append, alone or together with others. Raises what refuses this one, or what kept all of them from being committed."""
        own = _Waiting(wanted, size=self._size(wanted))
        try:
            with self._guard:
                self._waiting.append(own)
                self._lead_if_nobody_does(own)
                next_ones = self._next_ones(own)
            if next_ones:
                self._prepare_next(next_ones)
            while not own.is_answered:
                if self._leader is own:
                    self._lead(own)
                elif not own.woken.acquire(timeout=sleeping.LOOK_SECONDS) and self._is_forgotten(own):
                    break
        finally:
            own.has_left = True  # before any call, which an interruption may follow
            own.leader = None  # who led is its own leader, a cycle
            if self._leader is own or not own.is_answered:
                self._withdraw(own)
        if own.is_answered and own.error is not None:
            raise own.error
        if not own.is_answered or own.stored is None:
            raise CommitUnknown(f"{self._path}: the thread that appended this with its own was interrupted; read again what is stored")
        return own.stored

    def _next_ones(self, own: _Waiting) -> list[_Waiting]:
        """When this one makes them enough: wake who gathers them, or give the next batch if one is on its way. Under the guard."""
        if self._gathering is not None:
            if len(self._waiting) >= self._enough:
                self._gathering.wake()
                self._gathering = None
        elif self._leader is not own and len(self._waiting) == self._enough:
            return self._first_ones()
        return []

    def _first_ones(self) -> list[_Waiting]:
        """Those who wait first, as far as they go into one transaction. Under the guard."""
        batch = self._waiting[:_MOST]
        size = 0
        for number, each in enumerate(batch):
            size += each.size
            if number and size > _MOST_CHARACTERS:
                return batch[:number]
        return batch

    def _prepare_next(self, batch: list[_Waiting]) -> None:
        """Do now what can be done, unless somebody has begun with them; who leads them waits for it."""
        with self._preparing:
            if batch == self._waiting[: len(batch)]:
                self._prepared = batch if self._prepare(batch) else []

    def _lead_if_nobody_does(self, own: _Waiting) -> None:
        """Under the guard."""
        if self._leader is None or self._leader.has_left:
            self._leader = own
            if self._sent and not self._sent[0].has_left:  # which nobody has told yet
                self._leader = self._sent[0]
                self._leader.wake()

    def _is_forgotten(self, own: _Waiting) -> bool:
        """Whether it was begun by one that left; what was not begun, and has no leader, leads from now on."""
        with self._guard:
            if own in self._waiting or own in self._sent[:1]:
                self._lead_if_nobody_does(own)
                return False
            return own.leader is None or own.leader.has_left

    def _withdraw(self, own: _Waiting) -> None:
        """Take out what nobody has begun to append, and hand its lead on."""
        with self._guard:
            if own in self._waiting:
                self._waiting.remove(own)
            if self._leader is own:
                self._hand_on()

    def _hand_on(self) -> None:
        """Have the next one lead, who wakes those who are answered by then; without one, wake them. Under the guard."""
        if self._sent and self._sent[0].has_left:
            self._sent = []
        following = self._sent or self._waiting
        self._leader = following[0] if following else None
        if self._leader is not None:
            self._leader.wake()
        else:
            self._wake_answered()

    def _wake_answered(self) -> None:
        """Each of them once, whoever else does so at the same time."""
        while True:
            try:
                answered = self._answered.popleft()
            except IndexError:
                return
            answered.wake()

    def _lead(self, own: _Waiting) -> None:
        """Do what waits, the caller's own among it, and hand the rest to the next."""
        with self._guard:
            batch = self._sent if self._sent and self._sent[0] is own else []
            self._sent = []
        if not batch:
            self._gather(own)
            with self._preparing, self._guard:
                batch = self._prepared_ones() or self._first_ones()
                for each in batch:
                    each.leader = own
                del self._waiting[: len(batch)]
        began = perf_counter()
        try:
            self._answer(batch, own)
            self._send_prepared()
        finally:
            with self._guard:
                self._enough = (len(batch) + len(self._sent) + len(self._waiting)) // 2
                self._took = perf_counter() - began
                self._answered.extend(each for each in batch if each is not own)
                self._hand_on()

    def _send_prepared(self) -> None:
        """Have the next batch on its way before those of this one are woken, and before its own leader is."""
        with self._preparing, self._guard:
            batch = self._prepared_ones()
            rest = self._waiting[len(batch) :]
            for each in batch:
                each.leader = batch[0]
            self._sent, self._waiting = batch, rest  # no interruption comes in between
        if batch:
            self._send(batch)

    def _prepared_ones(self) -> list[_Waiting]:
        """What was prepared, unless one of them was interrupted, or most came after them. Under both locks."""
        prepared, self._prepared = self._prepared, []
        batch = self._waiting[: len(prepared)]
        return batch if batch == prepared and 2 * len(batch) >= len(self._waiting) else []

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

    def _answer(self, batch: list[_Waiting], own: _Waiting) -> None:
        """Have the batch appended; whoever is not answered when this raises learns of that by itself."""
        try:
            try:
                self._together(batch, self._wake_answered)
            except faults() as error:
                raise_named(error, self._path, lost=getattr(error, "sqlstate", None) is None)
            finally:
                self._wake_answered()
        except (StoreUnreachable, StoreBusy, StoreClosed, CommitUnknown) as error:
            self._refuse(batch, error, own)
        except NexusError:  # of one of them, an id that is too long for instance: the others are not to suffer
            for number, each in enumerate(batch, 1):
                self._answer_alone(each)
                if isinstance(each.error, StoreBusy):
                    self._refuse(batch[number:], each.error, own)
                    break
        else:
            for each in batch:
                each.is_answered = True

    def _refuse(self, batch: list[_Waiting], error: NexusError, own: _Waiting) -> None:
        """Answer all of them with the error. With StoreBusy also who waits behind them, and did so half as long as the lock is waited for:
        the next batch may wait for it as long as this one.
        """
        late: list[_Waiting] = []
        if isinstance(error, StoreBusy):
            with self._guard:
                latest = perf_counter() - LOCK_TIMEOUT_SECONDS / 2
                late = [each for each in self._waiting if each.arrived <= latest]
                rest = [each for each in self._waiting if each.arrived > latest]
                for each in late:
                    each.leader = own
                self._waiting = rest
        for each in [*batch, *late]:
            each.stored, each.error = None, type(error)(str(error))
            each.is_answered = True
        self._answered.extend(late)

    def _answer_alone(self, each: _Waiting) -> None:
        each.stored = each.error = None
        try:
            each.stored = self._alone(each.append)
        except Exception as error:  # whatever it is, it is the answer to this one; an interruption is this thread's own
            each.error = error
        each.is_answered = True
