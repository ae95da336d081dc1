"""Logs as JSON lines on standard error, written by a thread of their own: a reader that does not read must not stop the server.

Each line is one object: `ts` (UTC), `level`, `logger`, `message`, and what belongs to it, such as `request_id`; `traceback` for bugs.
A line is ASCII, and bounded whatever a client sent. Beyond `_MOST_WAITING` unwritten lines new ones are dropped, and their number is told
later.
"""

import json
import logging
import os
import queue
import select
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime

__all__ = ["LogLevel", "StderrLog", "bounded", "current_request"]

LogLevel = str

_MOST_WAITING = 10_000
_FLUSH_SECONDS = 0.05
_BUSY_SECONDS = 1.0
"""So long the thread is waited for when standard error has room: on a busy machine it gets no turn for a while."""

_MOST_CHARACTERS = 1_000
_SHOWN_CHARACTERS = 960
"""Of a text that has more: with what is said of it, still no more than the most."""

_MOST_TRACEBACK_CHARACTERS = 16_384
_MOST_BITS = 64

current_request: ContextVar[object] = ContextVar("current_request", default=None)
"""The id of the request that is being answered; worker threads find it there too."""


def bounded(value: object) -> str | int | float | None:
    """A value as a line has it, whatever it is and whoever sent it."""
    if isinstance(value, str):
        return value if len(value) <= _MOST_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]} ... ({len(value)} characters)"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:  # which could not even be written
        return f"an integer of {value.bit_length()} bits"
    return value if isinstance(value, int | float | None) else bounded(str(value))


class StderrLog(logging.Handler):
    """Install with `install`; `flush` waits a moment for what has not been written."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def install(self, level: str) -> None:
        """Become the only handler of all loggers; `level` is that of our own, others speak from `warning` on."""
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(logging.WARNING)
        logging.getLogger("nexus_attest").setLevel(level.upper())
        logging.captureWarnings(True)

    def remove(self) -> None:
        """No longer be a handler."""
        logging.getLogger().removeHandler(self)
        logging.captureWarnings(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line; never blocks."""
        try:
            line = self.format(record).encode("ascii") + b"\n"
            if self._dropped:
                note = json.dumps({"level": "warning", "message": f"{self._dropped} log lines dropped"}).encode() + b"\n"
                self._lines.put_nowait(note)
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
        except (TypeError, ValueError):  # a message that cannot be formatted; logging's own way of saying so
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON object."""
        facts: dict[str, object] = getattr(record, "facts", {})
        if (request := current_request.get()) is not None:
            facts = {"request_id": request, **facts}
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": bounded(record.getMessage()),
            **{name: bounded(value) for name, value in facts.items()},
        }
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)[-_MOST_TRACEBACK_CHARACTERS:]
        return json.dumps(line)

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Give the thread a moment to write what waits, and the time that it needs where somebody reads."""
        end = time.monotonic() + _BUSY_SECONDS
        # As `queue.Queue.join`, with a limit, and not in a thread, which may not be to be had.
        with (done := self._lines.all_tasks_done):
            while not done.wait_for(self._is_all_written, seconds) and self._can_be_written() and time.monotonic() < end:
                pass

    def _is_all_written(self) -> bool:
        return not self._lines.unfinished_tasks

    def _can_be_written(self) -> bool:
        """Whether there is room in the pipe: then it is not the reader who is waited for."""
        try:
            return bool(select.select([], [self._descriptor], [], 0)[1])
        except (OSError, ValueError):  # nothing that can be asked
            return False

    def _write_all(self) -> None:
        while True:
            line = self._lines.get()
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                pass  # standard error is gone; there is nowhere to say so
            finally:
                self._lines.task_done()
