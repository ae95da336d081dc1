"""The adapter file: which programs an executor may run, written by the operator, in TOML.

    [[adapters]]
    id = "subprocess:keytool"             what executions name; free text, unique in the file
    kind = "subprocess"                   the only kind so far
    command = ["python3", "keytool.py"]   argv, never a string: there is no shell
    allow = ["keys/rotate", "keys/l*"]    tool/method patterns; * stands for any characters; what no pattern covers is refused
    cwd = "."                             working directory; relative to the adapter file; default: its directory
    pass_env = ["KMS_TOKEN"]              names of host variables that the tool gets; each must be set. Values are never written here
    timeout_s = 30.0                      seconds per call, at most one day
    max_output_bytes = 1048576            for standard output and standard error, each; at most 64 MiB
    idempotent = false                    true: a call that timed out is tried once more, with the same idempotency key
    default_call = { tool = "keys", method = "rotate" }     for plans that are prose; it gets args {goal, plan}. Absent: they are refused

A file, at most 1 MiB, is understood completely or refused: unknown keys, wrong types and values out of range raise AdapterFileError.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from nexus_attest.routers.errors import AdapterFileError, CallRefused
from nexus_attest.routers.subprocess_adapter import RESERVED_VARIABLES, SubprocessAdapter, SubprocessSettings
from nexus_control.errors import FileRefused
from nexus_control.files import read_file
from nexus_control.plan import DefaultCall, Step

__all__ = ["load_adapters", "parse_adapters"]

_MAX_FILE_BYTES = 1024 * 1024
_MAX_TIMEOUT_SECONDS = 86_400
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024

_ID = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATTERN = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._*-]*/[A-Za-z0-9*][A-Za-z0-9._*-]*")

_PLANNED_KINDS = ("mcp", "http")


def load_adapters(path: str | Path) -> tuple[SubprocessAdapter, ...]:
    """The adapters of a file, in its order. Raises AdapterFileError, which names the file, the adapter and the key."""
    file = Path(path).absolute()
    try:
        data = tomllib.loads(read_file(file, _MAX_FILE_BYTES).decode())
    except FileRefused as problem:
        raise AdapterFileError(str(problem)) from None
    except (ValueError, RecursionError) as problem:
        raise AdapterFileError(f"{file}: no TOML: {problem}") from None
    try:
        return parse_adapters(data, base_dir=file.parent)
    except AdapterFileError as problem:
        raise AdapterFileError(f"{file}: {problem}") from None


def parse_adapters(data: Mapping[str, Any], *, base_dir: Path) -> tuple[SubprocessAdapter, ...]:
    """The adapters of a parsed adapter file; a relative `cwd` starts from `base_dir`. Raises AdapterFileError."""
    if not hasattr(os, "killpg"):
        raise AdapterFileError("adapters of kind 'subprocess' need POSIX process groups")
    document = _Table(data, "the file")
    entries = document.take("adapters", list, "an array of tables, [[adapters]]")
    document.finish()
    if not entries:
        raise AdapterFileError("the file declares no adapters")
    adapters = tuple(_adapter(entry, number, base_dir) for number, entry in enumerate(entries, 1))
    ids = [adapter.adapter_id for adapter in adapters]
    if twice := [adapter_id for adapter_id in ids if ids.count(adapter_id) > 1]:
        raise AdapterFileError(f"adapter id {twice[0]!r} occurs twice")
    return adapters


def _adapter(entry: object, number: int, base_dir: Path) -> SubprocessAdapter:
    table = _Table(entry, f"adapter {number}")
    adapter_id = table.take("id", str, "a string")
    if not _ID.fullmatch(adapter_id):
        raise table.error("id", "1 to 200 characters without control characters")
    table.where = f"adapter {adapter_id!r}"
    kind = table.take("kind", str, "a string")
    if kind in _PLANNED_KINDS:
        raise AdapterFileError(f"{table.where}: kind {kind!r} is not supported yet; supported: 'subprocess'")
    if kind != "subprocess":
        raise table.error("kind", "'subprocess'")
    settings = SubprocessSettings(
        adapter_id=adapter_id, command=_command(table), allow=_allow(table), base_dir=base_dir, **_optional_settings(table)
    )
    table.finish()
    adapter = SubprocessAdapter(settings)
    if settings.default_call is not None:
        try:
            adapter.check(Step(step_id="s1", intent="", tool=settings.default_call.tool, method=settings.default_call.method, args={}))
        except CallRefused as problem:
            raise AdapterFileError(f"{table.where}: default_call: {problem}") from None
    return adapter


def _command(table: "_Table") -> tuple[str, ...]:
    command = table.texts("command")
    if not command or not command[0] or any("\0" in part for part in command):
        raise table.error("command", "a list of strings that starts with the program")
    return command


def _allow(table: "_Table") -> tuple[str, ...]:
    allow = table.texts("allow")
    if not allow or not all(_PATTERN.fullmatch(pattern) for pattern in allow):
        raise table.error("allow", "a list of tool/method patterns, such as 'keys/rotate', 'keys/*' or '*/*'")
    return allow


def _optional_settings(table: "_Table") -> dict[str, Any]:
    """The given ones among the keys that have a default."""
    found: dict[str, Any] = {}
    if "cwd" in table:
        found["cwd"] = table.take("cwd", str, "a string")
        if not found["cwd"] or "\0" in found["cwd"]:
            raise table.error("cwd", "the path of a directory")
    if "pass_env" in table:
        found["pass_env"] = names = table.texts("pass_env")
        if not all(_VARIABLE.fullmatch(name) for name in names) or RESERVED_VARIABLES.intersection(names):
            raise table.error("pass_env", f"a list of names of environment variables other than {', '.join(sorted(RESERVED_VARIABLES))}")
    if "timeout_s" in table:
        found["timeout_s"] = seconds = table.take("timeout_s", int | float, "a number")
        if not 0 < seconds <= _MAX_TIMEOUT_SECONDS:
            raise table.error("timeout_s", f"more than 0 and at most {_MAX_TIMEOUT_SECONDS} seconds")
    if "max_output_bytes" in table:
        found["max_output_bytes"] = size = table.take("max_output_bytes", int, "an integer")
        if not 1 <= size <= _MAX_OUTPUT_BYTES:
            raise table.error("max_output_bytes", f"from 1 to {_MAX_OUTPUT_BYTES}")
    if "idempotent" in table:
        found["idempotent"] = table.take("idempotent", bool, "true or false")
    if "default_call" in table:
        call = _Table(table.take("default_call", dict, "a table with tool and method"), f"{table.where}: default_call")
        found["default_call"] = DefaultCall(call.take("tool", str, "a string"), call.take("method", str, "a string"))
        call.finish()
    return found


class _Table:
    """A TOML table whose keys are taken one by one; what is left at the end was not understood."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise AdapterFileError(f"{where} must be a table")
        self.where = where
        self._left = dict(cast("Mapping[str, Any]", value))
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        self._known.append(key)
        return key in self._left

    def take(self, key: str, kind: Any, wanted: str) -> Any:
        """The value of `key`, which must be there and of this type; true and false are no numbers."""
        if key not in self:
            raise AdapterFileError(f"{self.where}: {key} is missing")
        value = self._left.pop(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(key, wanted)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """The value of `key` as a list of strings."""
        values = self.take(key, list, "a list of strings")
        if not all(isinstance(value, str) for value in values):
            raise self.error(key, "a list of strings")
        return tuple(values)

    def error(self, key: str, wanted: str) -> AdapterFileError:
        """What to raise for the value of `key`."""
        return AdapterFileError(f"{self.where}: {key} must be {wanted}")

    def finish(self) -> None:
        """Raise AdapterFileError for a key that nobody took."""
        if self._left:
            known = ", ".join(dict.fromkeys(self._known))
            raise AdapterFileError(f"{self.where}: unknown key {next(iter(self._left))!r}; known: {known}")
