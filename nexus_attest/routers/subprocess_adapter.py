"""Tools that are programs: one process per call, no shell, and an answer that is one JSON object.

    argv     command... call TOOL METHOD --json-args-file PATH
    PATH     a file only this user can read, one line: {"args":{...},"method":"...","tool":"..."}; it is gone after the call
    stdin    empty
    env      PATH=/usr/local/bin:/usr/bin:/bin  LANG=C.UTF-8, the variables named in pass_env, and
             NEXUS_IDEMPOTENCY_KEY=<run id>/<step id>  NEXUS_EXECUTION_ID=<execution id> (when there is one)
             NEXUS_SESSION=<a random number>; nothing else
    success  exit code 0, and standard output is UTF-8 text of exactly one JSON object

Every other end is a failure. A program that said that it failed (exit code 1 to 255) has failed; of one that was killed, or that reported
success and then no readable answer, nobody knows how much it has done. Tools written for nexus-router's command protocol work unchanged
unless they need more of the host's environment. POSIX only.
"""

import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from nexus_attest.redaction import Redactor
from nexus_attest.routers.adapter import Call, CallIdentity, CallLimit, CallResult
from nexus_attest.routers.answers import one_line, read_object
from nexus_attest.routers.children import require_directory
from nexus_attest.routers.configured import ConfiguredAdapter
from nexus_attest.routers.credentials import Credentials
from nexus_attest.routers.custody import Custody
from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_attest.routers.process import Finished, run_process
from nexus_attest.routers.settings import SubprocessSettings
from nexus_control.plan import Step
from nexus_control.run_json import run_json

__all__ = ["BASE_ENVIRONMENT", "RESERVED_VARIABLES", "SubprocessAdapter"]

BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""What every tool gets. `pass_env` may name these too; the host's value then replaces this one."""

RESERVED_VARIABLES = frozenset({"NEXUS_EXECUTION_ID", "NEXUS_IDEMPOTENCY_KEY", "NEXUS_SESSION"})
"""Set per call or session; never passed on from the host."""

_EXCERPT_CHARACTERS = 500


class SubprocessAdapter(ConfiguredAdapter[SubprocessSettings]):
    """Runs the command of its settings, once per call."""

    def prepare(self, credentials: Credentials) -> None:
        """Raises CallFailed when a variable of `pass_env` is not set or the working directory is not there."""
        credentials.environment(self.settings.pass_env)
        require_directory(self.settings.base_dir / self.settings.cwd)

    def open(self, steps: Sequence[Step], limit: CallLimit) -> "SubprocessSession":  # noqa: ARG002 - a process per call, nothing to open
        """A session that remembers which secrets it handed out, and nothing else."""
        return SubprocessSession(self)


class SubprocessSession:
    """The calls of one run."""

    details: Mapping[str, object] = MappingProxyType({})

    def __init__(self, adapter: SubprocessAdapter) -> None:
        self._adapter = adapter
        self._settings = adapter.settings
        self._credentials = Credentials(adapter.settings)
        self._custody = Custody()
        self._custody.prepare()

    def close(self) -> None:
        """Nothing is running between calls."""
        self._custody.close()

    def call(self, call: Call) -> CallResult:
        """The object that the command printed. Raises CallFailed for every other end."""
        step = call.step
        self._adapter.check(step)
        environment = self._environment(call.identity)
        request = run_json({"args": self._credentials.resolve(step.args), "method": step.method, "tool": step.tool})
        with _arguments_file(request + "\n", self._custody) as path:
            finished = run_process(
                [*self._settings.command, "call", step.tool, step.method, "--json-args-file", path],
                cwd=self._settings.base_dir / self._settings.cwd,
                env=environment,
                custody=self._custody,
                limit=call.limit,
                max_output_bytes=self._settings.max_output_bytes,
            )
        redactor = self._credentials.redactor
        output, redacted = redactor.output(_output(finished, redactor))
        return CallResult(output=output, redacted=redacted)

    def _environment(self, identity: CallIdentity) -> dict[str, str]:
        environment = {**BASE_ENVIRONMENT, **self._credentials.environment(self._settings.pass_env)}
        environment["NEXUS_IDEMPOTENCY_KEY"] = identity.idempotency_key
        if identity.execution_id is not None:
            environment["NEXUS_EXECUTION_ID"] = identity.execution_id
        return environment


@contextmanager
def _arguments_file(text: str, custody: Custody) -> Generator[str]:
    """A file (0600) in a directory of its own (0700), so that no other user sees even its name; both are gone afterwards."""
    place = custody.folder()
    custody.begin()
    try:
        folder = tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True)
    except OSError as problem:
        raise CallFailed("OS_ERROR", f"No private directory for the arguments: {problem.strerror}", outcome=CallOutcome.NOT_SENT) from None
    with folder as name:
        try:
            descriptor, path = tempfile.mkstemp(prefix="nexus-router-args-", suffix=".json", dir=name)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
        except OSError as problem:
            message = f"The arguments cannot be written: {problem.strerror}"
            raise CallFailed("OS_ERROR", message, outcome=CallOutcome.NOT_SENT) from None
        yield path


def _output(finished: Finished, redactor: Redactor) -> dict[str, Any]:
    if finished.exit_code != 0:
        killed = finished.exit_code < 0
        reason = f"was ended by signal {-finished.exit_code}" if killed else f"exited with code {finished.exit_code}"
        excerpt = _excerpt(finished.stderr, redactor)
        outcome = CallOutcome.UNKNOWN if killed else CallOutcome.FAILED
        raise CallFailed("NONZERO_EXIT", f"Command {reason}" + (f": {excerpt}" if excerpt else ""), outcome=outcome)
    return read_object(finished.stdout, said="Command printed", code="INVALID_JSON_OUTPUT")


def _excerpt(stderr: bytes, redactor: Redactor) -> str:
    """The end of an error output as one printable line of at most 500 characters, shortened after redaction.

    A program that was killed may have written half a secret.
    """
    text = redactor.text(stderr.decode(errors="replace").rstrip("\ufffd"), torn=True)
    return one_line(text[-4 * _EXCERPT_CHARACTERS :])[-_EXCERPT_CHARACTERS:]
