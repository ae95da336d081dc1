"""The write-ahead log of a file: when it is copied into the database, and what must not be found in it.

SQLite's own checkpoints are off: they would add syncs to somebody's call (docs/adr/0004-one-sync-per-call-and-small-rows.md).
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

from nexus_control.errors import StoreError
from nexus_control.session import Session
from nexus_control.sqlite import (
    FAULTS,
    Connection,
    be_patient,
    limit_patience,
    make_first_commit,
    number,
    start_log_over,
    take_back,
)

__all__ = ["WriteAheadLog"]

_COMMITS_PER_CHECKPOINT = 128
"""So many commits later the log, by then some 5 MB, is copied into the database file, by a thread of its own."""

_CHECKPOINT_PATIENCE_MS = 100
"""So long the thread waits for a lock of others, each time."""

_LOOK_EVERY_SECONDS = 0.001
_LOOKS = 1000
"""So often the writers of this process look whether the thread has started the log over. Then one of them does."""


class WriteAheadLog:
    """What the threads of this process that use one file know together of its log."""

    def __init__(self) -> None:
        self._commits = 0
        # One for each commit of unknown outcome that is still to be taken back, with its session: that stays open when its thread ends, for
        # `take_back_at_last`.
        self._doubts: dict[object, Session] = {}
        self.forget_checkpoint()

    def begin(self, session: Session) -> None:
        """Begin a transaction that writes, not while a checkpoint starts the log over: its commit should be the first of the log.

        Who was interrupted here may stand in the transaction already.
        """
        patience = _LOOKS
        while True:
            while self._is_starting_over and patience:
                time.sleep(_LOOK_EVERY_SECONDS)
                patience -= 1
            if self._doubts:
                self._take_back(session)
            session.enter(writing=True)
            if not self._is_starting_over or not patience:
                return
            session.leave(to=0, writing=True, failed=True)

    # -- commits of unknown outcome -------------------------------------------------------------------------------------------
    #
    # Nobody sees such a commit as long as a program has the file open, and each commit that succeeds, of any program, is written over it.
    # But a command that only looks, and is refused for what it saw, commits nothing: after a crash what it did not see could be there. So
    # one is made before the next block that writes begins. A block that began earlier comes before the commit that nobody knows of.

    def doubt(self, session: Session) -> None:
        """After a commit of unknown outcome."""
        self._doubts[object()] = session

    def take_back_at_last(self, session: Session) -> None:
        """Before a connection is closed. Without waiting for another program that writes: its commit does the same."""
        if not self._doubts:
            return
        be_patient(session.connection, patient=False)
        with suppress(Exception):
            self._take_back(session)

    def _take_back(self, session: Session) -> None:
        """Raises CommitUnknown while the disk refuses it, StoreBusy."""
        if not session.owned and session.connection.in_transaction:
            return  # the owner's commit will be written over them
        doubts = self._doubts.copy()  # other threads may add to it meanwhile
        take_back(session.connection, session.path)
        for doubt in doubts:
            self._doubts.pop(doubt, None)

    # -- checkpoints ----------------------------------------------------------------------------------------------------------

    def is_due(self) -> bool:
        """After a commit: whether there were so many that a checkpoint should begin."""
        self._commits += 1
        return not self._commits % _COMMITS_PER_CHECKPOINT

    def begin_checkpoint(self, connect: Callable[[], AbstractContextManager[Connection]]) -> None:
        """Begin one in a thread of its own, unless one is running."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._checkpoint, args=(connect,), name="nexus-checkpoint", daemon=True)
        with suppress(RuntimeError):  # the system gives no more threads; the commit was made, and a later one tries again
            self._thread.start()

    def wait_for_checkpoint(self) -> None:
        """Until the one that is running has ended. In its own thread, where a finalizer may close the database, it is not waited for."""
        thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():  # alive unless it could not be started
            thread.join()

    def forget_checkpoint(self) -> None:
        """At first, and in the child of a fork: its thread is not here."""
        self._thread: threading.Thread | None = None
        # Looked at, not waited for with a lock: a finalizer that runs in the thread, or an interruption, could leave that taken.
        self._is_starting_over = False

    def _checkpoint(self, connect: Callable[[], AbstractContextManager[Connection]]) -> None:
        try:
            with connect() as connection, connect() as reader:
                # First without a lock; then, so that the log starts over, what was added meanwhile, with writers kept out. A reader with an
                # old view prevents the second step, and writers must not wait for it.
                # Whoever writes while all of the log is copied starts it over, and so syncs its header as well. Between the steps it never
                # is: one commit is newer than what this reader sees, and so is not copied.
                reader.execute("BEGIN")
                number(reader, "user_version")
                make_first_commit(connection)
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                limit_patience(connection, _CHECKPOINT_PATIENCE_MS)
                self._is_starting_over = True
                try:
                    reader.execute("COMMIT")
                    start_log_over(connection)
                finally:
                    self._is_starting_over = False
        except (*FAULTS, StoreError):
            return  # nothing is lost: the log stays as it is, and a later commit tries again
