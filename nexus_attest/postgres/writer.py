"""Who writes next, and whose work is committed together: the group commit of the threads of one process.

A writer that is alone begins, works and commits. While it works others queue up; when it is done it lets those who are waiting by then go
first, one after the other in the same transaction, each under a savepoint so that one that fails undoes nothing but its own, and then
commits once for all of them: one wait for the disk, and one turn among the writers of other processes, instead of one for each. A call
returns when the commit has, and not before.

Who takes long holds up those who are done. How long a block will take shows only afterwards, so nobody waits for more than one that did:
after it the transaction is committed at once, and for ten times as long every block of the process has a transaction of its own.
"""

import threading
import weakref
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from nexus_attest.postgres import sleeping
from nexus_attest.postgres.driver import LOCK_TIMEOUT_SECONDS, PgConnection, faults, is_lost, raise_named, roll_back, run
from nexus_attest.postgres.sleeping import Sleeper
from nexus_control.errors import CommitUnknown, NexusError, StoreBusy, StoreError, StoreUnreachable

if TYPE_CHECKING:
    from nexus_attest.postgres.database import PostgresDatabase

__all__ = ["Turn", "Writer"]

_MOST_MEMBERS = 50
"""Blocks in one transaction: PostgreSQL keeps track of up to 64 savepoints cheaply."""

_BRISK_SECONDS = 0.25
"""A block that takes longer is slow, unless those who wait would need longer for commits of their own."""

_WARY_TIMES, _WARY_SECONDS = 10, 30
"""So many times as long as a slow block took, and at most so long, none waits for another."""


class Turn(Sleeper):
    """A block that writes, which `has_left` when it has ended. `block` is the object that ends it, and is not kept.

    `is_at_work`: what the transaction holds of it may be half done.
    """

    def __init__(self, block: object) -> None:
        super().__init__()
        self._vanished: list[object] = []
        # Never asked for its object: who has that, be it for one step, keeps it, and another thread would take the block to be there.
        self._block = weakref.ref(block, self._vanished.append)
        self.is_at_work = False

    def is_gone(self) -> bool:
        """Whether it ended, or cannot any more: an interruption may come before the first step of the `__exit__` that would."""
        return self.has_left or bool(self._vanished)


class _Group:
    """A transaction that is open for others to join. Changed only by who has the turn, or under the guard.

    `members` are those whose work is done and waits for the commit; `finisher`, the first of them, commits. `error` is what they are told
    when it `has_ended`: `unknown` until the outcome is known.
    """

    def __init__(self, unknown: CommitUnknown) -> None:
        self.connection: PgConnection | None = None
        self.members: list[Turn] = []
        self.finisher: Turn | None = None
        self.has_savepoint = False
        self.broken = False
        self.error: NexusError | None = unknown
        self.has_ended = False

    def lacks_finisher(self) -> bool:
        return self.finisher is None or self.finisher.is_gone()


class Writer:
    """The turns of a process's writers. `enter` gives one the connection, `leave` returns when its work is durable or undone.

    Whoever leaves one of them by an exception, an interruption for instance, calls `abandon`. Where even that is cut short, those who wait
    find out that the turn is with a block that has left, undo the transaction that it had, and go on without it.
    """

    def __init__(self, database: "PostgresDatabase", lock_statement: str) -> None:
        self._database = database
        self._begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {lock_statement}"
        self._guard = threading.Lock()
        self._queue: list[Turn] = []
        self._holder: Turn | None = None
        self._group: _Group | None = None
        self._entered = 0.0
        self._commit_took = 0.0
        self._wary_until = 0.0

    # -- turns ----------------------------------------------------------------------------------------------------------------

    def _take_turn(self, own: Turn) -> None:
        deadline = monotonic() + LOCK_TIMEOUT_SECONDS
        with self._guard:
            self._queue.append(own)
            self._give_if_nobody_has_it()
        while self._holder is not own:
            if own.woken.acquire(timeout=sleeping.LOOK_SECONDS):
                continue
            with self._guard:
                self._give_if_nobody_has_it()
                if self._holder is not own and monotonic() >= deadline:
                    raise StoreBusy(f"{self._database.path}: other threads of this process have been writing for too long; try again")

    def _give_if_nobody_has_it(self) -> None:
        """Under the guard."""
        holder = self._holder
        if holder is None or holder.is_gone():
            if holder is not None and holder.is_at_work and self._group is not None:
                self._group.broken = True
            self._hand_on()

    def _hand_on(self, *, to: Turn | None = None) -> None:
        """Give the turn to the next who waits, or to this one if it does. Under the guard."""
        waiting = [turn for turn in self._queue if not turn.is_gone()]
        then = to if to in waiting else waiting[0] if waiting else None
        rest = [turn for turn in waiting if turn is not then]
        self._queue, self._holder = rest, then  # no interruption comes in between
        if then is not None:
            then.wake()

    def _let_others_go_first(self, own: Turn) -> None:
        """Have those who are waiting now take their turns, and get the turn back after them."""
        with self._guard:
            if self._queue:
                self._queue.insert(_MOST_MEMBERS - 1, own)
                self._hand_on()

    # -- blocks ---------------------------------------------------------------------------------------------------------------

    def enter(self, own: Turn) -> PgConnection:
        """Wait for the turn, and begin a transaction or join the open one. Raises StoreBusy, StoreUnreachable, errors of the driver."""
        self._take_turn(own)
        group = self._group
        if group is not None and group.broken:
            self._finish(group)
            group = None
        own.is_at_work = True
        if group is None:
            unknown = CommitUnknown(f"{self._database.path}: interrupted during the commit; read again what is stored")
            group = self._group = _Group(unknown)
            connection = self._open(group)
        else:
            connection = _connection_of(group)
            run(connection.raw, "RELEASE nexus; SAVEPOINT nexus" if group.has_savepoint else "SAVEPOINT nexus")
            group.has_savepoint = True
        self._entered = monotonic()
        return connection

    def leave(self, own: Turn, leaf: tuple[int, bytes] | None, *, failed: bool) -> None:
        """End the block of who has the turn; `leaf` is the connection's when the block began.

        Returns when the work is durable, or at once when it `failed` and is undone. Raises what kept the group from being committed.
        """
        group = self._group
        if group is None or self._holder is not own:
            raise StoreError("a transaction was ended that nobody began")
        now = monotonic()
        took = now - self._entered
        was_slow = took > max(_BRISK_SECONDS, len(self._queue) * self._commit_took)
        if was_slow:
            self._wary_until = now + min(_WARY_TIMES * took, _WARY_SECONDS)
        if not failed:
            group.members.append(own)
        elif not group.members:
            group.broken = True  # undone as a whole
        else:
            self._undo(group, leaf)
        own.is_at_work = False
        with self._guard:
            finishes = group.lacks_finisher()
            if finishes:
                group.finisher = own
            else:
                self._hand_on(to=group.finisher if was_slow else None)
        if finishes and not failed and now >= self._wary_until:
            self._let_others_go_first(own)
        if finishes or not failed:
            self._await_end(group, own)
        own.has_left = True
        if group.error is not None and not failed:
            raise type(group.error)(str(group.error)) from group.error

    def abandon(self, own: Turn) -> None:
        """Give up what is left of a block whose `enter` or `leave` raised: its transaction, the turn, or the place among those who wait."""
        try:
            with self._guard:
                group = self._group
                if group is not None and group.finisher is own:
                    group.finisher = None
                holder = self._holder
                if group is not None and (holder is None or holder is own or holder.is_gone()):  # maybe nobody else comes to end it
                    group.broken = group.broken or (holder is not None and holder.is_at_work)
                    self._holder = own
            if self._holder is own and group is not None and (group.broken or group.lacks_finisher()):
                self._finish(group)
            self._pass_turn(own)
        finally:
            own.has_left = True

    def free(self) -> None:
        """Undo what a block left behind that can end no more: its transaction holds the store's lock. For whoever wants a connection."""
        holder = self._holder
        if holder is not None and holder.is_gone():
            self.abandon(Turn(self))

    def _undo(self, group: _Group, leaf: tuple[int, bytes] | None) -> None:
        """What the block did that has the turn, and nothing of the others."""
        connection = _connection_of(group)
        try:
            connection.execute("ROLLBACK TO nexus")
            connection.leaf = leaf
        except faults():  # the block has its own error, and its thread is told that
            group.broken = True

    def _await_end(self, group: _Group, own: Turn) -> None:
        """Wait for the end of the group, and bring it about when this is the finisher's turn, or the finisher has left."""
        while not group.has_ended:
            if self._holder is own:
                self._finish(group)
            elif not own.woken.acquire(timeout=sleeping.LOOK_SECONDS):
                with self._guard:
                    if self._group is group and group.lacks_finisher():
                        group.finisher = own
                        self._queue.insert(0, own)
                    self._give_if_nobody_has_it()
        self._pass_turn(own)

    def _pass_turn(self, own: Turn) -> None:
        """Neither have the turn nor wait for it any more."""
        with self._guard:
            self._queue = [turn for turn in self._queue if turn is not own]
            if self._holder is own:
                self._hand_on()

    def _open(self, group: _Group) -> PgConnection:
        """Give the group a connection with the store's write lock."""
        for is_last in (False, True):
            connection = group.connection = self._database.lend()
            try:
                run(connection.raw, self._begin)
            except faults() as error:
                if is_last or not is_lost(error, connection.raw):
                    raise
                group.connection = None
                self._database.take_back(connection)
            else:
                return connection
        raise AssertionError  # the last round returns or raises

    def _finish(self, group: _Group) -> None:
        """Commit for all members, or undo what is broken, and tell them how it went. For who has the turn."""
        try:
            if group.connection is not None:
                group.error = self._outcome(group, group.connection)
        finally:
            self._group, group.has_ended = None, True
            for member in group.members:
                member.wake()

    def _outcome(self, group: _Group, connection: PgConnection) -> NexusError | None:
        path = self._database.path
        try:
            began = monotonic()
            if group.broken:
                with suppress(*faults()):  # what cannot be undone any more ends with the connection
                    roll_back(connection)
                return StoreUnreachable(f"{path}: the transaction was broken off; nothing was written, try again")
            self._database.commits += 1  # who has the turn does this
            status = connection.execute("COMMIT").statusmessage
            self._commit_took = monotonic() - began
            # A transaction in which a statement failed is rolled back by COMMIT, which says so and raises nothing.
            return None if status == "COMMIT" else StoreError(f"{path}: the server rolled the transaction back; nothing was written")
        except faults() as error:
            if not is_lost(error, connection.raw):
                return _named(error, path)
        finally:
            self._database.take_back(connection)
        try:
            if self._database.was_committed(connection.leaf, connection.server_process):
                return None
        except CommitUnknown as unknown:
            return unknown
        return StoreUnreachable(f"{path}: the connection was lost before the commit; nothing was written, try again")


def _connection_of(group: _Group) -> PgConnection:
    if group.connection is None:
        raise StoreError("a transaction was joined that has no connection")
    return group.connection


def _named(error: Exception, path: str) -> NexusError:
    try:
        raise_named(error, path, lost=False)
    except NexusError as named:
        return named
