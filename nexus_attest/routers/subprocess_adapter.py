"""Tools that are programs: one process per call, no shell, and an answer that is one JSON object.

    argv     command... call TOOL METHOD --json-args-file PATH
    PATH     a file only this user can read, one line: {"args":{...},"method":"...","tool":"..."}; it is gone after the call
    stdin    empty
    env      PATH=/usr/local/bin:/usr/bin:/bin  LANG=C.UTF-8, the variables named in pass_env, and
             NEXUS_IDEMPOTENCY_KEY=<run id>/<step id>  NEXUS_EXECUTION_ID=<execution id> (when there is one); nothing else
    success  exit code 0, and standard output is UTF-8 text of exactly one JSON object

Every other end is a failure. Tools written for nexus-router's command protocol work unchanged unless they need more of the host's
environment. POSIX only.
"""

import os
import re
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

from nexus_attest.routers.adapter import Call, CallIdentity, CallLimit, CallResult
from nexus_attest.routers.errors import CallFailed, CallOutcome, CallRefused
from nexus_attest.routers.process import Finished, require_directory, run_process
from nexus_control.integrity import content_digest, prefixed
from nexus_control.plan import DefaultCall, Step
from nexus_control.run_json import read_json, run_json

__all__ = ["BASE_ENVIRONMENT", "RESERVED_VARIABLES", "SubprocessAdapter", "SubprocessSettings"]

BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""What every tool gets. `pass_env` may name these too; the host's value then replaces this one."""

RESERVED_VARIABLES = frozenset({"NEXUS_EXECUTION_ID", "NEXUS_IDEMPOTENCY_KEY"})
"""Set per call; never passed on from the host."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Tool and method names become arguments: one that begins with a dash would be an option of the command."""

_EXCERPT_BYTES = 2_000
_EXCERPT_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SubprocessSettings:
    """A checked adapter definition; `nexus_attest.routers.adapters_file` describes and checks the fields.

    `cwd` is kept as written and resolved against `base_dir`, which is no part of the definition: the digest of one adapter file is the
    same wherever it is installed.
    """

    adapter_id: str
    command: tuple[str, ...]
    allow: tuple[str, ...]
    base_dir: Path
    cwd: str = "."
    pass_env: tuple[str, ...] = ()
    timeout_s: float = 30.0
    max_output_bytes: int = 1_048_576
    idempotent: bool = False
    default_call: DefaultCall | None = None

    def definition(self) -> dict[str, object]:
        """What is digested: every key of the adapter file, defaults filled in. Names of variables, never their values."""
        return {
            "id": self.adapter_id,
            "kind": "subprocess",
            "command": list(self.command),
            "cwd": self.cwd,
            "pass_env": list(self.pass_env),
            "timeout_s": self.timeout_s,
            "max_output_bytes": self.max_output_bytes,
            "allow": list(self.allow),
            "idempotent": self.idempotent,
            "default_call": None if self.default_call is None else self.default_call._asdict(),
        }


class SubprocessAdapter:
    """Runs the command of its settings, once per call."""

    adapter_kind = "subprocess"
    capabilities = frozenset({"apply", "external", "timeout"})

    def __init__(self, settings: SubprocessSettings) -> None:
        self.settings = settings
        self.adapter_id = settings.adapter_id
        self.default_call = settings.default_call
        self.idempotent = settings.idempotent
        self.timeout_s = settings.timeout_s
        self.definition_digest = prefixed(content_digest(settings.definition()))
        self._cwd = settings.base_dir / settings.cwd

    def check(self, step: Step) -> None:
        """Raises CallRefused with INVALID_NAME, or with CALL_NOT_ALLOWED when no pattern of `allow` covers the call."""
        for what, name in (("tool", step.tool), ("method", step.method)):
            if not _NAME.fullmatch(name):
                raise CallRefused("INVALID_NAME", f"{what} name {name[:100]!r} must match {_NAME.pattern}")
        if not any(fnmatchcase(f"{step.tool}/{step.method}", pattern) for pattern in self.settings.allow):
            raise CallRefused("CALL_NOT_ALLOWED", f"adapter {self.adapter_id} does not allow {step.tool}/{step.method}"[:300])

    def preflight(self, steps: Sequence[Step]) -> None:  # noqa: ARG002 - what is needed is the same for every step
        """Raises CallRefused when a variable of `pass_env` is not set or the working directory is not there."""
        if missing := [name for name in self.settings.pass_env if name not in os.environ]:
            raise CallRefused("ENV_INVALID", f"adapter {self.adapter_id} needs the environment variable {missing[0]}")
        try:
            require_directory(self._cwd)
        except CallFailed as problem:
            raise CallRefused(problem.code, str(problem)) from None

    def open(self, steps: Sequence[Step], limit: CallLimit) -> "SubprocessAdapter":  # noqa: ARG002 - a process per call, nothing to open
        """Itself: no state is kept between calls."""
        return self

    def close(self) -> None:
        """Nothing is open between calls."""

    def call(self, call: Call) -> CallResult:
        """The object that the command printed. Raises CallFailed for every other end."""
        step = call.step
        self.check(step)
        request = run_json({"args": dict(step.args), "method": step.method, "tool": step.tool})
        with _arguments_file(request + "\n") as path:
            finished = run_process(
                [*self.settings.command, "call", step.tool, step.method, "--json-args-file", path],
                cwd=self._cwd,
                env=self._environment(call.identity),
                limit=call.limit,
                max_output_bytes=self.settings.max_output_bytes,
            )
        return CallResult(output=_output(finished))

    def _environment(self, identity: CallIdentity) -> dict[str, str]:
        environment = dict(BASE_ENVIRONMENT)
        for name in self.settings.pass_env:
            try:
                environment[name] = os.environ[name]
            except KeyError:
                raise CallFailed("ENV_INVALID", f"The environment variable {name} is not set", outcome=CallOutcome.NOT_SENT) from None
        environment["NEXUS_IDEMPOTENCY_KEY"] = identity.idempotency_key
        if identity.execution_id is not None:
            environment["NEXUS_EXECUTION_ID"] = identity.execution_id
        return environment


@contextmanager
def _arguments_file(text: str) -> Generator[str]:
    """A file (0600) in a directory of its own (0700), so that no other user sees even its name; both are gone afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="nexus-attest-", ignore_cleanup_errors=True)
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


def _output(finished: Finished) -> dict[str, Any]:
    if finished.exit_code != 0:
        reason = f"exited with code {finished.exit_code}" if finished.exit_code > 0 else f"was ended by signal {-finished.exit_code}"
        excerpt = _excerpt(finished.stderr)
        raise _failed("NONZERO_EXIT", f"Command {reason}" + (f": {excerpt}" if excerpt else ""))
    try:
        value = read_json(finished.stdout.decode())
    except UnicodeDecodeError:
        raise _failed("INVALID_JSON_OUTPUT", "Command printed bytes that are not UTF-8") from None
    except ValueError as problem:
        raise _failed("INVALID_JSON_OUTPUT", f"Command did not print one JSON object: {problem}") from None
    if not isinstance(value, dict):
        raise _failed("INVALID_JSON_OUTPUT", "Command printed JSON that is no object")
    return cast("dict[str, Any]", value)


def _failed(code: str, message: str) -> CallFailed:
    return CallFailed(code, message, outcome=CallOutcome.FAILED)


def _excerpt(stderr: bytes) -> str:
    """The end of an error output as one printable line of at most 500 characters."""
    text = stderr[-_EXCERPT_BYTES:].decode(errors="replace")
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line[-_EXCERPT_CHARACTERS:]
