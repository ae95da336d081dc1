"""A program that was started for a call or a session: started by the guardian of the session, or by this process where there is none.

Either way it leads a process group of its own, and when it is ended, so is whatever else belongs to its session.
"""

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from nexus_attest.routers.custody import Custody, Guardian, GuardianGone
from nexus_attest.routers.errors import CallFailed, CallOutcome

__all__ = ["Child", "require_directory", "start_process"]

_REAP_SECONDS = 5.0
"""How long a killed child may take to disappear; one in uninterruptible sleep would otherwise hold the caller for ever."""


class Child(ABC):
    """A program under way. Its end is the caller's: `end`."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes]
    stderr: IO[bytes]
    returncode: int | None = None
    """Its exit code once it was ended, negative when a signal ended it."""

    @property
    def tells(self) -> Guardian | None:
        """What becomes readable when the program ends; None: it has to be asked again and again."""
        return None

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether it has ended by itself. Raises CallFailed with OS_ERROR when nobody can know any more."""

    @abstractmethod
    def end(self) -> None:
        """Kill it, what it started and what left its group, and close the pipes. Also on the way out of an exception."""

    def _close_pipes(self) -> None:
        for pipe in filter(None, (self.stdin, self.stdout, self.stderr)):
            pipe.close()


def require_directory(cwd: Path) -> None:
    """Raise CallFailed with CWD_NOT_FOUND or CWD_NOT_DIRECTORY unless `cwd` is a directory."""
    if not cwd.is_dir():
        code, text = ("CWD_NOT_DIRECTORY", "is no directory") if cwd.exists() else ("CWD_NOT_FOUND", "does not exist")
        raise CallFailed(code, f"Working directory {text}: {cwd}", outcome=CallOutcome.NOT_SENT)


def start_process(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], custody: Custody, stdin: int = subprocess.DEVNULL) -> Child:
    """Start a command without a shell, with pipes at its outputs, and `env` and the mark of its custody as its environment.

    `stdin` is PIPE or DEVNULL. Raises CallFailed: COMMAND_NOT_FOUND, PERMISSION_DENIED, CWD_NOT_FOUND, CWD_NOT_DIRECTORY or OS_ERROR;
    nothing was started, unless the outcome is `unknown`.
    """
    require_directory(cwd)
    custody.begin()
    variables = {**env, **custody.variables}
    try:
        if custody.guardian is not None and custody.guardian.is_ready():
            return _Guarded(custody.guardian, argv, cwd, variables, custody, stdin)
        if custody.guardian is not None:
            custody.do_without_guardian()
        return _Own(argv, cwd, variables, custody, stdin)
    except FileNotFoundError:
        raise CallFailed("COMMAND_NOT_FOUND", f"Command not found: {argv[0]}", outcome=CallOutcome.NOT_SENT) from None
    except PermissionError:
        raise CallFailed("PERMISSION_DENIED", f"Command may not be executed: {argv[0]}", outcome=CallOutcome.NOT_SENT) from None
    except OSError as problem:
        raise CallFailed("OS_ERROR", f"Command cannot be started: {problem.strerror}", outcome=CallOutcome.NOT_SENT) from None
    except GuardianGone:
        custody.end(None)
        raise _guardian_gone() from None
    except BaseException:  # an interruption: there may be a child, and its number is lost
        custody.end(None)
        raise


class _Guarded(Child):
    """Started by the guardian, whose child it is."""

    def __init__(self, guardian: Guardian, argv: Sequence[str], cwd: Path, env: Mapping[str, str], custody: Custody, stdin: int) -> None:
        self._guardian = guardian
        self._custody = custody
        with ExitStack() as given, ExitStack() as kept:

            def pipe(ours: int) -> tuple[int, IO[bytes]]:
                ends = os.pipe()
                given.callback(os.close, ends[1 - ours])
                return ends[1 - ours], kept.enter_context(os.fdopen(ends[ours], "wb" if ours else "rb", buffering=0))

            if stdin == subprocess.PIPE:
                first, self.stdin = pipe(1)
            else:
                first, self.stdin = os.open(os.devnull, os.O_RDONLY), None
                given.callback(os.close, first)
            second, self.stdout = pipe(0)
            third, self.stderr = pipe(0)
            self.pid = guardian.start(argv, cwd=cwd, env=env, descriptors=(first, second, third))
            kept.pop_all()

    @property
    def tells(self) -> Guardian | None:
        return self._guardian

    def has_ended(self) -> bool:
        try:
            return self._guardian.has_ended()
        except GuardianGone:
            raise _guardian_gone() from None

    def end(self) -> None:
        self.returncode = self._custody.end_guarded()
        self._close_pipes()


class _Own(Child):
    """Started by this process, whose child it is."""

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], custody: Custody, stdin: int) -> None:
        self._custody = custody
        self._process = process = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        if process.stdout is None or process.stderr is None:
            raise OSError(0, "no pipes")
        self.pid, self.stdin, self.stdout, self.stderr = process.pid, process.stdin, process.stdout, process.stderr

    def has_ended(self) -> bool:
        """It is left unreaped, so that its number cannot become somebody else's before the group is killed."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._process.poll() is not None
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            # Somebody else reaped it (SIGCHLD ignored, or a wait for any child): its exit code is lost, and 0 would be a guess.
            message = "The command's exit code was lost: this program must not ignore SIGCHLD"
            raise CallFailed("OS_ERROR", message, outcome=CallOutcome.UNKNOWN) from None

    def end(self) -> None:
        # No such process: the group is empty. Not permitted: only zombies are left (macOS), or the program changed its user.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._custody.end(self.pid)
        with suppress(subprocess.TimeoutExpired):
            self.returncode = self._process.wait(_REAP_SECONDS)
        self._close_pipes()


def _guardian_gone() -> CallFailed:
    return CallFailed("OS_ERROR", "The guardian of the command was killed", outcome=CallOutcome.UNKNOWN)
