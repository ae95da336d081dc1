"""Logs as JSON lines on standard error, written by a thread of their own: a reader that does not read must not stop the server.

Each line is one object: `ts` (UTC), `level`, `logger`, `message`, and what belongs to it, such as `request_id`; `traceback` for bugs.
Beyond `_MOST_WAITING` unwritten lines new ones are dropped, and their number is told later.
"""

import json
import logging
import os
import queue
import threading
from datetime import UTC, datetime

__all__ = ["LogLevel", "StderrLog"]

LogLevel = str

_MOST_WAITING = 10_000
_FLUSH_SECONDS = 0.05


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
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
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
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **facts,
        }
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)

    def flush(self) -> None:
        """Give the thread a moment to write what waits; returns anyway when nobody reads."""
        done = threading.Event()
        threading.Thread(target=lambda: (self._lines.join(), done.set()), daemon=True).start()
        done.wait(_FLUSH_SECONDS)

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
