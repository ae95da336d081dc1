"""The standard streams of a program that must do its work whatever became of them.

Who starts a program may close its streams, put a full disk behind them or stop reading. What was asked is done all the same, and the exit
code says how it ended. Imports nothing else of the engine, so that a command line can start with it.
"""

import io
import os
import sys
from contextlib import suppress
from typing import Any

__all__ = ["forget_output", "open_streams"]


class _Suppressed(io.FileIO):
    """What cannot be said on standard error is not said: it must neither stop the work nor change its exit code."""

    def write(self, data: Any, /) -> int:
        """As of any file, without its errors."""
        written: int | None = None  # as of a pipe that is full and does not block
        with suppress(OSError):
            written = super().write(data)
        return memoryview(data).nbytes if written is None else written


def open_streams() -> None:
    """Put the null device where a standard stream is closed, and have errors of standard error suppressed. To be called first.

    Otherwise the next file that is opened, such as a database, would get the number of that stream, and what another library or a program
    that is started prints there would be written into it. `sys.stdin` stays None then: nothing was given, which is not the same as
    nothing in it.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(number, True)
            if name != "stdin":
                setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True))
    if type(sys.stderr) is io.TextIOWrapper and sys.stderr is sys.__stderr__:  # not one that a caller put there
        told = io.BufferedWriter(_Suppressed(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(told, sys.stderr.encoding, "backslashreplace", line_buffering=True)


def forget_output() -> None:
    """Nobody takes standard output any more: let the interpreter's last flush go nowhere, instead of failing once more."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
