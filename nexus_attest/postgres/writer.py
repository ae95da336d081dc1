"""Who writes next, and whose work is committed together: the group commit of the threads of one process.

A writer that is alone begins, works and commits. While it works others queue up; when it is done it lets those who are waiting by then go
first, one after the other in the same transaction, each under a savepoint so that one that fails undoes nothing but its own, and then
commits once for all of them: one wait for the disk, and one turn among the writers of other processes, instead of one for each. A call
returns when the commit has, and not before.

Who takes long holds up those who are done. How long a block will take shows only afterwards, so nobody waits for more than one that did:
after it the transaction is committed at once, and for ten times as long every block of the process has a transaction of its own.
"""

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from nexus_attest.postgres.driver import LOCK_TIMEOUT_SECONDS, PgConnection, faults, is_lost, raise_named, roll_back, run
from nexus_control.errors import CommitUnknown, NexusError, StoreBusy, StoreError, StoreUnreachable

if TYPE_CHECKING:
    from nexus_attest.postgres.database import PostgresDatabase

__all__ = ["Writer"]

_MOST_MEMBERS = 50
"""Blocks in one transaction: PostgreSQL keeps track of up to 64 savepoints cheaply."""

_BRISK_SECONDS = 0.25
"""A block that takes longer is slow, unless those who wait would need longer for commits of their own."""

_WARY_TIMES, _WARY_SECONDS = 10, 30
"""So many times as long as a slow block took, and at most so long, none waits for another."""


class _Group:
    """A transaction that is open for others to join. Changed only by who has the turn. `error` is `unknown` until the outcome is known."""

    def __init__(self, connection: PgConnection, unknown: CommitUnknown) -> None:
        self.connection = connection
        self.members = 0
        self.finisher: threading.Event | None = None
        self.has_savepoint = False
        self.broken = False
        self.error: NexusError | None = unknown
        self.ended = threading.Event()


class Writer:
    """The turns of a process's writers. `enter` gives one the connection, `leave` returns when its work is durable or undone."""

    def __init__(self, database: "PostgresDatabase", lock_statement: str) -> None:
        self._database = database
        self._begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {lock_statement}"
        self._guard = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._is_taken = False
        self._group: _Group | None = None
        self._entered = 0.0
        self._commit_took = 0.0
        self._wary_until = 0.0

    # -- turns ----------------------------------------------------------------------------------------------------------------

    def _take_turn(self) -> None:
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return
            ticket = threading.Event()
            self._queue.append(ticket)
        try:
            if ticket.wait(LOCK_TIMEOUT_SECONDS):
                return
        except BaseException:
            if not self._withdraw(ticket):
                self._pass_turn()
            raise
        if self._withdraw(ticket):
            raise StoreBusy(f"{self._database.path}: other threads of this process have been writing for too long; try again")

    def _withdraw(self, ticket: threading.Event) -> bool:
        """Leave the queue; False when the turn has been given already."""
        with self._guard:
            if ticket not in self._queue:
                return False
            self._queue.remove(ticket)
            return True

    def _pass_turn(self, *, to: threading.Event | None = None) -> None:
        """Give the turn to the next who waits, or to who waits under this ticket."""
        with self._guard:
            if to in self._queue:
                self._queue.remove(to)
                to.set()
            elif self._queue:
                self._queue.popleft().set()
            else:
                self._is_taken = False

    def _let_others_go_first(self, group: _Group) -> None:
        """Have those who are waiting now take their turns, and get the turn back after them."""
        with self._guard:
            if not self._queue:
                return
            ticket = group.finisher = threading.Event()
            self._queue.insert(_MOST_MEMBERS - 1, ticket)
            self._queue.popleft().set()
        interruption: BaseException | None = None
        while True:
            try:
                ticket.wait()
                break
            except BaseException as error:  # the others rely on the commit that only this thread makes
                interruption = error
        if interruption is not None:
            self._finish()
            raise interruption

    # -- blocks ---------------------------------------------------------------------------------------------------------------

    def enter(self) -> PgConnection:
        """Wait for the turn, and begin a transaction or join the open one. Raises StoreBusy, StoreUnreachable, errors of the driver."""
        self._take_turn()
        group = self._group
        try:
            if group is None:
                unknown = CommitUnknown(f"{self._database.path}: interrupted during the commit; read again what is stored")
                group = self._group = _Group(self._open(), unknown)
            else:
                run(group.connection.raw, "RELEASE nexus; SAVEPOINT nexus" if group.has_savepoint else "SAVEPOINT nexus")
                group.has_savepoint = True
        except BaseException:
            if group is not None:
                group.broken = True
            self._pass_turn()
            raise
        self._entered = monotonic()
        return group.connection

    def leave(self, connection: PgConnection, leaf: tuple[int, bytes] | None, *, failed: bool) -> None:
        """End the block of who has the turn; `leaf` is the connection's when the block began.

        Returns when the work is durable, or at once when it `failed` and is undone. Raises what kept the group from being committed.
        """
        group = self._group
        if group is None or group.connection is not connection:
            raise StoreError("a transaction was ended that nobody began")
        now = monotonic()
        took = now - self._entered
        was_slow = took > max(_BRISK_SECONDS, len(self._queue) * self._commit_took)
        if was_slow:
            self._wary_until = now + min(_WARY_TIMES * took, _WARY_SECONDS)
        next_turn = group.finisher if was_slow else None
        if failed and not group.members:
            self._group = None
            try:
                roll_back(connection)
            finally:
                self._end(connection)
            return
        if failed:
            try:
                connection.execute("ROLLBACK TO nexus")
                connection.leaf = leaf
            except BaseException as error:
                group.broken = True
                if not isinstance(error, faults()):  # the block has its own error, and its thread is told that
                    raise
            finally:
                self._pass_turn(to=next_turn)
            return
        group.members += 1
        if group.members == 1:
            if now >= self._wary_until:
                self._let_others_go_first(group)
            self._finish()
        else:
            self._pass_turn(to=next_turn)
            group.ended.wait()
        if group.error is not None:
            raise type(group.error)(str(group.error)) from group.error

    def _open(self) -> PgConnection:
        """A connection with the store's write lock."""
        for is_last in (False, True):
            connection = self._database.lend()
            try:
                run(connection.raw, self._begin)
            except BaseException as error:
                lost = is_lost(error, connection.raw)
                try:
                    roll_back(connection)
                finally:
                    self._database.take_back(connection)
                if is_last or not lost or not isinstance(error, faults()):
                    raise
            else:
                return connection
        raise AssertionError  # the last round returns or raises

    def _finish(self) -> None:
        """Commit for all members, tell them how it went, and pass the turn."""
        group, self._group = self._group, None
        if group is None:
            return
        self._database.commits += 1  # who has the turn does this
        try:
            group.error = self._outcome(group)
        finally:
            group.ended.set()

    def _outcome(self, group: _Group) -> NexusError | None:
        path, connection = self._database.path, group.connection
        try:
            began = monotonic()
            if group.broken:
                roll_back(connection)
                return StoreUnreachable(f"{path}: the transaction was broken off; nothing was written, try again")
            status = connection.execute("COMMIT").statusmessage
            self._commit_took = monotonic() - began
            # A transaction in which a statement failed is rolled back by COMMIT, which says so and raises nothing.
            return None if status == "COMMIT" else StoreError(f"{path}: the server rolled the transaction back; nothing was written")
        except faults() as error:
            if not is_lost(error, connection.raw):
                return _named(error, path)
        finally:
            self._end(connection)
        try:
            if self._database.was_committed(connection.leaf, connection.server_process):
                return None
        except CommitUnknown as unknown:
            return unknown
        return StoreUnreachable(f"{path}: the connection was lost before the commit; nothing was written, try again")

    def _end(self, connection: PgConnection) -> None:
        try:
            self._database.take_back(connection)
        finally:
            self._pass_turn()


def _named(error: Exception, path: str) -> NexusError:
    try:
        raise_named(error, path, lost=False)
    except NexusError as named:
        return named
