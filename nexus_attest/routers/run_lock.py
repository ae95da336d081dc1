"""Who is alive: a run holds a lock for as long as its process does, so that a later process can tell a dead run from a slow one.

The lock is a file beside the run database, locked with flock(2): the kernel lets go of it when the process ends, however it ends.
Process ids would not do: they are used again, and mean nothing in another container.
"""

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from nexus_control.errors import StoreError

__all__ = ["RunLock"]

if sys.platform != "win32":
    import fcntl


class RunLock:
    """The lock of one run of the database file `database`. A context manager: held inside, and its file is gone afterwards."""

    def __init__(self, database: Path, run_id: str) -> None:
        # Digested: an id that is read from a database may be anything, "../x" included.
        name = f"{database.name}.{hashlib.sha256(run_id.encode()).hexdigest()[:16]}.lock"
        self._path = database.with_name(name)
        self._descriptor: int | None = None

    @classmethod
    def at(cls, path: Path) -> Self:
        """The lock whose file this is, for whoever does not know its run."""
        lock = cls.__new__(cls)
        lock._path, lock._descriptor = path, None
        return lock

    def __enter__(self) -> Self:
        """Raises StoreError when the file cannot be made."""
        if sys.platform != "win32":  # which has no flock(2)
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as problem:
                self._close()
                raise StoreError(f"{self._path}: the run cannot be marked as under way: {problem.strerror}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if sys.platform != "win32":
            with suppress(OSError):
                self._path.unlink()
            self._close()

    def take_over(self) -> bool:
        """Take the lock of a run that somebody else began; whether its process is dead. Never, where the system cannot tell."""
        if sys.platform == "win32":
            return False
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except OSError:
            self._close()
            return False
        return True

    def release(self) -> None:
        """Let go of a lock that was taken over, and remove its file."""
        self.__exit__(None, None, None)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
