"""One child process under limits: time, bytes, environment, and the end of all that it started when the call ends.

The child leads a process group of its own. When it ends, runs out of time or writes too much, or when an exception ends the call, the
whole group is killed, and whatever else carries the mark of its session (`nexus_attest.routers.custody`), in whatever group it is by then.
"""

import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nexus_attest.routers.adapter import CallLimit
from nexus_attest.routers.custody import Custody
from nexus_attest.routers.errors import CallFailed, CallOutcome

__all__ = ["Finished", "end_process", "has_ended", "require_directory", "run_process", "start_process"]

_CHUNK_BYTES = 65_536

_TICK_SECONDS = 0.05
"""How often to ask whether the child has ended while somebody still holds its output open."""

_SHORT_TICK_SECONDS = 0.005
"""The same once its output is closed, when the end is normally there already."""

_REAP_SECONDS = 5.0
"""How long a killed child may take to disappear; one in uninterruptible sleep would otherwise hold the caller for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A child that ended by itself. `exit_code` is negative when a signal ended it; the outputs are complete."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def run_process(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], custody: Custody, limit: CallLimit, max_output_bytes: int
) -> Finished:
    """Run a command without a shell, with empty standard input, and the environment `env` and the mark of its custody alone.

    `max_output_bytes` holds for standard output and standard error, each by itself, and while they are read. The outputs are what was
    written until the child itself ended. Raises CallFailed with COMMAND_NOT_FOUND, PERMISSION_DENIED, CWD_NOT_FOUND, CWD_NOT_DIRECTORY
    or OS_ERROR when nothing was started, with TIMEOUT, CANCELLED, OUTPUT_TOO_LARGE or OS_ERROR when it was killed. POSIX only.
    """
    limit.require(CallOutcome.NOT_SENT)
    process = start_process(argv, cwd=cwd, env=env, custody=custody)
    try:
        stdout, stderr = _read(process, limit, max_output_bytes)
    finally:
        end_process(process, custody)
    return Finished(exit_code=process.returncode, stdout=stdout, stderr=stderr)


def require_directory(cwd: Path) -> None:
    """Raise CallFailed with CWD_NOT_FOUND or CWD_NOT_DIRECTORY unless `cwd` is a directory."""
    if not cwd.is_dir():
        code, text = ("CWD_NOT_DIRECTORY", "is no directory") if cwd.exists() else ("CWD_NOT_FOUND", "does not exist")
        raise CallFailed(code, f"Working directory {text}: {cwd}", outcome=CallOutcome.NOT_SENT)


def start_process(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], custody: Custody, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """A child that leads a process group, with pipes at its outputs; its end is the caller's (`end_process`).

    Raises CallFailed: COMMAND_NOT_FOUND, PERMISSION_DENIED, CWD_NOT_FOUND, CWD_NOT_DIRECTORY or OS_ERROR; nothing was started.
    """
    require_directory(cwd)
    custody.begin()
    try:
        return subprocess.Popen(
            argv,
            bufsize=0,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**env, **custody.variables},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise CallFailed("COMMAND_NOT_FOUND", f"Command not found: {argv[0]}", outcome=CallOutcome.NOT_SENT) from None
    except PermissionError:
        raise CallFailed("PERMISSION_DENIED", f"Command may not be executed: {argv[0]}", outcome=CallOutcome.NOT_SENT) from None
    except OSError as problem:
        raise CallFailed("OS_ERROR", f"Command cannot be started: {problem.strerror}", outcome=CallOutcome.NOT_SENT) from None
    except BaseException:  # an interruption: there may be a child, and its number is lost
        custody.end(None)
        raise


def _read(process: subprocess.Popen[bytes], limit: CallLimit, max_output_bytes: int) -> tuple[bytes, bytes]:
    """Both outputs up to the moment when the child ended."""
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, received in zip(filter(None, (process.stdout, process.stderr)), (stdout, stderr), strict=True):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, received)
        while True:
            # Asked before reading: once it has ended, all that it wrote is in the pipes already.
            ended = has_ended(process)
            if not ended:
                limit.require(CallOutcome.UNKNOWN)
            tick = _TICK_SECONDS if selector.get_map() else _SHORT_TICK_SECONDS
            ready = selector.select(0 if ended else min(tick, limit.remaining()))
            if ended and not ready:
                return bytes(stdout), bytes(stderr)
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
                if len(key.data) > max_output_bytes:
                    raise CallFailed("OUTPUT_TOO_LARGE", f"Command wrote more than {max_output_bytes} bytes", outcome=CallOutcome.UNKNOWN)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended. It is left unreaped, so that its number cannot become somebody else's before the group is killed."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        # Somebody else reaped it (SIGCHLD ignored, or a wait for any child): its exit code is lost, and 0 would be a guess.
        message = "The command's exit code was lost: this program must not ignore SIGCHLD"
        raise CallFailed("OS_ERROR", message, outcome=CallOutcome.UNKNOWN) from None


def end_process(process: subprocess.Popen[bytes], custody: Custody) -> None:
    """Kill what is left of the group, and what left it, then reap the child. Also on the way out of an exception."""
    # No such process: the group is empty. Not permitted: only zombies are left (macOS), or the program changed its user.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    custody.end(process.pid)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_SECONDS)
    for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
        pipe.close()
