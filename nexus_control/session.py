"""One open SQLite connection, and the transaction that its user stands in."""

import threading
from collections.abc import Callable

from nexus_control.errors import CommitUnknown
from nexus_control.sqlite import Connection, begin, end

__all__ = ["Session"]


class Session:
    """One open connection, and how deep its user stands in blocks of `transaction` or `snapshot`."""

    __slots__ = (
        "__weakref__",
        "_commit",
        "_forget",
        "_undo",
        "closed",
        "connection",
        "depth",
        "doomed",
        "in_use",
        "owned",
        "path",
        "writing",
    )

    def __init__(self, connection: Connection, path: str, *, owned: bool, forget: Callable[[], object] = lambda: None) -> None:
        self.connection = connection
        self.path = path
        self.owned = owned
        self._forget = forget
        self.closed = False
        self.in_use = threading.RLock()  # held by whoever uses the connection
        self.depth = 0
        self.writing = False
        self.doomed = False
        self._commit, self._undo = "COMMIT", "ROLLBACK"

    def enter(self, *, writing: bool) -> None:
        """Begin a transaction, or join the one that is open."""
        if not self.depth:
            joins = not self.owned and self.connection.in_transaction
            self._commit, self._undo = begin(self.connection, "BEGIN IMMEDIATE" if writing else "BEGIN", joins=joins)
            if not writing and not joins:
                self._commit = self._undo  # after a page that could not be read SQLite refuses to commit, though nothing was written
            self.writing, self.doomed = writing, False
        elif writing and not self.writing:
            raise RuntimeError("a transaction cannot begin inside a snapshot: what was read there may be old")
        self.depth += 1

    def leave(self, *, to: int, writing: bool, failed: bool) -> None:
        """End what `enter` began at the depth `to`: the outermost block, 0, commits or undoes, one inside it that failed dooms it."""
        if to:
            self.depth = min(self.depth, to)  # the outermost may be over already
            self.doomed = self.doomed or (writing and failed)
            return
        try:
            if not failed:
                if self.doomed:
                    raise RuntimeError("a block inside this transaction failed; nothing of it may be committed")
                if self.writing:
                    end(self.connection, self._commit, self.path)
                else:
                    self.connection.execute(self._commit)
        except CommitUnknown:  # `end` undid what it could; an error of one more attempt must not take the place of this one
            raise
        except BaseException:
            failed = True
            raise
        finally:
            try:
                # SQLite may have rolled back by itself (disk full, I/O error): then there is nothing left to undo.
                if failed and self.connection.in_transaction:
                    self.connection.execute(self._undo)
            finally:
                self.depth = 0

    def undo_interrupted(self, to: int) -> None:
        """Bring it back to the depth `to`, where an interruption came after `enter` began or before `leave` did."""
        if self.depth > to or (not to and self.owned and self.connection.in_transaction):
            self.leave(to=to, writing=self.writing, failed=True)

    def close(self) -> None:
        try:
            if self.owned:
                self.connection.close()
        finally:
            self.closed = True
        self._forget()

    def __del__(self) -> None:  # its thread has ended
        if self.in_use.acquire(blocking=False):  # else a fork or `close`, which may still find it, closes it
            self.close()
            self.in_use.release()
