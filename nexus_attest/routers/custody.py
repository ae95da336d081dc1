"""What one session starts and leaves lying about, and the end of it, whatever becomes of this process.

    mark      every process of a session has NEXUS_SESSION=<a random number> in its environment, and so has what it starts
    folder    private files of the session's calls; a tool can read them, other users cannot
    guardian  a small process of its own that waits for the end of this one; if that comes before the session's, it kills what carries
              the mark and removes the folder, even when this process was killed by force

Not safe against a process that replaces its environment and leaves its group, nor where the guardian is killed as well.
"""

import contextlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nexus_attest.routers import marked
from nexus_attest.routers.errors import CallFailed, CallOutcome

__all__ = ["Custody"]

_MOMENT_SECONDS = 0.25
"""In which the numbers of processes do not go round, on any system."""


class Custody:
    """Custody of one session's processes and files. Nothing is made before it is needed; `close` ends all of it."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._folder: Path | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._left_open = False

    @property
    def variables(self) -> dict[str, str]:
        """What every process of the session must have in its environment."""
        return {marked.VARIABLE: self._mark}

    def folder(self) -> Path:
        """The private folder (0700). Raises CallFailed when it cannot be made; nothing was sent."""
        if self._folder is None:
            try:
                self._folder = Path(tempfile.mkdtemp(prefix="nexus-attest-"))
            except OSError as problem:
                message = f"No private directory for the arguments: {problem.strerror}"
                raise CallFailed("OS_ERROR", message, outcome=CallOutcome.NOT_SENT) from None
        return self._folder

    def begin(self) -> None:
        """Before a process is started, and before anything private is written: see to it that it does not outlive this one."""
        self._began = time.monotonic()
        self._left_open = True
        if self._guardian is not None or not sys.executable or getattr(sys, "frozen", False):
            return  # in a frozen application the executable is the application itself
        folder = () if self._folder is None else (str(self._folder),)
        with contextlib.suppress(OSError):  # what cannot start this cannot start a tool either, and that will say why
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", marked.__file__, self._mark, *folder],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )

    def end(self, first: int | None) -> None:
        """Kill what is left of the session's processes; `first` is the number of the one that was started last, None when it is lost."""
        if first is None:
            marked.end_marked(self._mark, patience=_MOMENT_SECONDS)
        else:
            recent = time.monotonic() - self._began < _MOMENT_SECONDS
            marked.end_marked(self._mark, newer_than=first if recent else None)
        self._left_open = False

    def close(self) -> None:
        """End what nobody ended, remove the folder and dismiss the guardian. Closing again does nothing."""
        if self._left_open:
            self.end(None)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            guardian.kill()
            guardian.wait()
            if guardian.stdin is not None:
                guardian.stdin.close()
