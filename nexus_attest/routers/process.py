"""One child process under limits: time, bytes, environment, and the end of all that it started when the call ends.

When the child ends, runs out of time or writes too much, or when an exception ends the call, everything that came of it is killed
(`nexus_attest.routers.custody`).
"""

import os
import selectors
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_attest.routers.adapter import CallLimit
from nexus_attest.routers.children import Child, start_process
from nexus_attest.routers.custody import Custody
from nexus_attest.routers.errors import CallFailed, CallOutcome

__all__ = ["Finished", "run_process"]

_CHUNK_BYTES = 65_536

_TICK_SECONDS = 0.05
"""How often to look whether the call was cancelled, and whether the child has ended while somebody still holds its output open."""

_SHORT_TICK_SECONDS = 0.005
"""The same once its output is closed, when the end is normally there already, and nobody tells of it."""


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
    child = start_process(argv, cwd=cwd, env=env, custody=custody)
    try:
        stdout, stderr = _read(child, limit, max_output_bytes)
    finally:
        child.end()
    if child.returncode is None:
        raise CallFailed("OS_ERROR", "The command's exit code was lost", outcome=CallOutcome.UNKNOWN)
    return Finished(exit_code=child.returncode, stdout=stdout, stderr=stderr)


def _read(child: Child, limit: CallLimit, max_output_bytes: int) -> tuple[bytes, bytes]:
    """Both outputs up to the moment when the child ended."""
    stdout, stderr = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, received in ((child.stdout, stdout), (child.stderr, stderr)):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, received)
        if child.tells is not None:
            selector.register(child.tells, selectors.EVENT_READ)
        while True:
            # Asked before reading: once it has ended, all that it wrote is in the pipes already.
            ended = child.has_ended()
            if not ended:
                limit.require(CallOutcome.UNKNOWN)
            tick = _TICK_SECONDS if selector.get_map() else _SHORT_TICK_SECONDS
            ready = [key for key, _ in selector.select(0 if ended else min(tick, limit.remaining())) if key.data is not None]
            if ended and not ready:
                return bytes(stdout), bytes(stderr)
            for key in ready:
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
                if len(key.data) > max_output_bytes:
                    raise CallFailed("OUTPUT_TOO_LARGE", f"Command wrote more than {max_output_bytes} bytes", outcome=CallOutcome.UNKNOWN)
