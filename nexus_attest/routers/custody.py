"""What one session starts and leaves lying about, and the end of it, whatever becomes of this process.

    guardian  a small process of its own that starts the session's processes and is the parent of all that lose theirs; when this one
              ends, killed by force or not, it kills what is left and removes the folder (`nexus_attest.routers.guardian`; Linux)
    mark      every process of a session has NEXUS_SESSION=<a random number> in its environment, and so has what it starts: for where
              there is no guardian, and for the case that it was killed
    folder    private files of the session's calls; a tool can read them, other users cannot

Not safe where the guardian is killed by force as well, and there against a process that replaces its environment and leaves its group.
"""

import contextlib
import marshal
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexus_attest.routers import guardian, marked
from nexus_attest.routers.errors import CallFailed, CallOutcome

__all__ = ["Custody", "Guardian", "GuardianGone"]

_MOMENT_SECONDS = 0.25
"""In which the numbers of processes do not go round, on any system."""

_READY_SECONDS = 30.0
"""For a guardian to start, on a host that has other things to do."""

_ANSWER_SECONDS = 10.0
"""For an answer of a guardian, which ends what it can end within two seconds."""


class GuardianGone(Exception):
    """The guardian was killed, or never began. What it had started may be running; its mark finds it."""


class Guardian:
    """This side of a guardian: it is asked to start one program at a time, and to end everything."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError when it cannot be started."""
        ours, its = socket.socketpair()
        self._control = ours
        self._ready = False
        self._ended = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, str(os.getpid()), str(folder)],
                bufsize=0,
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()

    def fileno(self) -> int:
        """Readable when `has_ended` may have something new to tell."""
        return self._control.fileno()

    def is_ready(self) -> bool:
        """Whether it has begun; waits for that the first time."""
        if not self._ready:
            with contextlib.suppress(GuardianGone):
                self._frame(b"r", _READY_SECONDS)
                self._ready = True
        return self._ready

    def start(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], descriptors: Sequence[int]) -> int:
        """Start a program with these standard descriptors; its number. Raises OSError and GuardianGone."""
        self._ended = False
        message = marshal.dumps((list(argv), dict(env), str(cwd)))
        try:
            self._control.settimeout(_ANSWER_SECONDS)
            socket.send_fds(self._control, [b"S"], list(descriptors))
            self._control.sendall(len(message).to_bytes(4, "little") + message)
        except OSError:
            raise GuardianGone from None
        letter, number = self._frame(b"pe", _ANSWER_SECONDS)
        if letter == b"p":
            return number
        raise OSError(number, os.strerror(number))

    def has_ended(self) -> bool:
        """Whether the program that was started last has ended by itself. Raises GuardianGone."""
        if not self._ended:
            with contextlib.suppress(TimeoutError):
                self._frame(b"x", 0)
                self._ended = True
        return self._ended

    def end_all(self) -> int | None:
        """End everything; the exit code of the program that was started last, None when nobody knows it. Raises GuardianGone."""
        try:
            self._control.settimeout(_ANSWER_SECONDS)
            self._control.sendall(b"E")
        except OSError:
            raise GuardianGone from None
        _, code = self._frame(b"d", _ANSWER_SECONDS)
        return None if code == guardian.NO_CODE else code

    def close(self) -> None:
        """Dismiss it, which leaves nothing to it."""
        self._process.kill()
        self._process.wait()
        self._control.close()

    def _frame(self, letters: bytes, seconds: float) -> tuple[bytes, int]:
        """The next frame with one of these letters; older ones are passed over.

        Raises TimeoutError when there is none and `seconds` is 0, GuardianGone when it does not come in time.
        """
        while True:
            try:
                self._control.settimeout(seconds)
                frame = self._control.recv(guardian.FRAME_BYTES)
            except (TimeoutError, BlockingIOError):
                if seconds:
                    raise GuardianGone from None
                raise TimeoutError from None
            except OSError:
                raise GuardianGone from None
            if len(frame) < guardian.FRAME_BYTES:
                raise GuardianGone
            if frame[:1] in letters:
                return frame[:1], int.from_bytes(frame[1:], "little", signed=True)


class Custody:
    """Custody of one session's processes and files. Nothing is made before it is needed; `close` ends all of it."""

    def __init__(self) -> None:
        self._mark = secrets.token_hex(16)
        self._folder: Path | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._left_open = False
        self.guardian: Guardian | None = None
        """Who starts the session's processes, None when this process does it itself."""

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

    def prepare(self) -> None:
        """Let the guardian begin, so that nobody has to wait for it later."""
        if self.guardian is not None or self._watcher is not None or not sys.executable or getattr(sys, "frozen", False):
            return  # in a frozen application the executable is the application itself
        if sys.platform == "linux" and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError, CallFailed):  # what hinders this hinders a tool as well, and that will say why
                self.guardian = Guardian(self.folder())
        else:
            self._watch()

    def begin(self) -> None:
        """Before a process is started, and before anything private is written: see to it that it does not outlive this one."""
        self.prepare()
        self._began = time.monotonic()
        self._left_open = True

    def do_without_guardian(self) -> None:
        """The guardian never began: start processes here, and have them watched over."""
        self._dismiss()
        self._watch()

    def end(self, first: int | None) -> None:
        """Kill what is left of the session's processes; `first` is the number of the one that was started last, None when it is lost."""
        if self.guardian is not None:
            self.end_guarded()
        elif first is None:
            marked.end_marked(self._mark, patience=_MOMENT_SECONDS)
        else:
            recent = time.monotonic() - self._began < _MOMENT_SECONDS
            marked.end_marked(self._mark, newer_than=first if recent else None)
        self._left_open = False

    def end_guarded(self) -> int | None:
        """Have the guardian end everything; the exit code of what it started last, None when nobody knows it."""
        code = None
        try:
            if self.guardian is not None:
                code = self.guardian.end_all()
        except GuardianGone:
            self._dismiss()
            marked.end_marked(self._mark, patience=_MOMENT_SECONDS)
        self._left_open = False
        return code

    def close(self) -> None:
        """End what nobody ended, remove the folder and dismiss the guardian. Closing again does nothing."""
        if self._left_open:
            self.end(None)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        self._dismiss()

    def _watch(self) -> None:
        with contextlib.suppress(OSError, CallFailed):
            self._watcher = subprocess.Popen(
                [sys.executable, "-I", "-S", marked.__file__, self._mark, str(self.folder())],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )

    def _dismiss(self) -> None:
        guardian, self.guardian = self.guardian, None
        if guardian is not None:
            guardian.close()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
            watcher.wait()
            if watcher.stdin is not None:
                watcher.stdin.close()
