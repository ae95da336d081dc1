"""The adapter file: which programs, MCP servers and services approved decisions may use, written by the operator, in TOML or JSON.

A file, at most 1 MiB, is understood completely or refused, with every mistake in it named by its path (`adapters[1].timeout_s: must be
...`). What a key means is said once, in `VARIANTS`; docs/adapters.md and the JSON Schema for editors,
schemas/nexus-attest.adapters.v1.json, follow from it. Values are never repeated in messages: somebody may have written a secret where the
name of one belongs.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from nexus_attest.redaction import parse_pointer
from nexus_attest.routers.errors import AdapterFileError, CallRefused
from nexus_attest.routers.http_adapter import HttpAdapter
from nexus_attest.routers.mcp_adapter import McpAdapter
from nexus_attest.routers.settings import HttpSettings, McpHttpSettings, McpStdioSettings, SubprocessSettings
from nexus_attest.routers.subprocess_adapter import RESERVED_VARIABLES, SubprocessAdapter
from nexus_attest.shapes import Key, Shape, boolean, integer, listing, number, read_table, table, table_schema, text
from nexus_attest.toml_data import parse_toml
from nexus_attest.urls import is_bare_url, is_private_way
from nexus_control.errors import FileRefused
from nexus_control.files import read_file
from nexus_control.plan import DefaultCall, Step
from nexus_control.run_json import read_json

__all__ = ["VARIANTS", "FileAdapter", "Variant", "adapter_file_schema", "load_adapters", "parse_adapters"]

FileAdapter: TypeAlias = SubprocessAdapter | McpAdapter | HttpAdapter

FileSettings: TypeAlias = SubprocessSettings | McpStdioSettings | McpHttpSettings | HttpSettings

SCHEMA_ID = "nexus-attest.adapters.v1"

_MAX_FILE_BYTES = 1024 * 1024
_MAX_TIMEOUT_SECONDS = 86_400
_MAX_OUTPUT_BYTES = 64 * 1024 * 1024

_VARIABLE_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_HEADER_NAME = "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}"
"""A token of RFC 9110, section 5.6.2."""

_OWN_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "host", "idempotency-key"}
    | {"last-event-id", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Set by the adapters, or about one connection only."""


def _is_pointer(value: str) -> bool:
    try:
        parse_pointer(value)
    except ValueError:
        return False
    return True


def _is_url(value: str) -> bool:
    """https, or http for what is written as this host itself; a host, and no credentials, query or fragment."""
    return is_bare_url(value) and is_private_way(value)


_PLACE = text(r"[^\x00]{1,4096}", "a path")
_ARGUMENT = text(r"[^\x00]*", "a text without zero bytes")
_PROGRAM = text(r"[^\x00]+", "the program, a text without zero bytes")
_NAMED_VARIABLE = text(_VARIABLE_NAME, "the name of an environment variable, never its value")
_NAME = text("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", "a name of letters, digits, '.', '_' and '-'")
_URL = text(
    r"https?://[^\s\x00-\x1f\x7f]{1,2000}",
    "an https URL without credentials, query and fragment (http only for localhost and loopback addresses)",
    also=_is_url,
)


def _read_default_call(value: object, where: str, problems: list[str]) -> DefaultCall | None:
    before = len(problems)
    values = read_table(value, _DEFAULT_CALL, where, problems)
    return DefaultCall(values["tool"], values["method"]) if len(problems) == before else None


_DEFAULT_CALL = (Key(name="tool", shape=_NAME, about="Its tool."), Key(name="method", shape=_NAME, about="Its method."))

_COMMON = (
    Key(
        name="id",
        shape=text(r"[^\x00-\x1f\x7f]{1,200}", "a text of 1 to 200 characters without control characters"),
        about="What executions name; free text, unique in the file.",
    ),
    Key(
        name="allow",
        shape=listing(
            text(
                r"[A-Za-z0-9_*][A-Za-z0-9._*-]*/[A-Za-z0-9_*][A-Za-z0-9._*-]*",
                "a tool/method pattern, such as 'keys/rotate', 'keys/*' or '*/*'",
            ),
            "a list of at least one tool/method pattern",
            least=1,
        ),
        about="`tool/method` patterns; `*` stands for any characters. What no pattern covers is refused.",
    ),
    Key(name="timeout_s", shape=number(0, _MAX_TIMEOUT_SECONDS, "seconds"), default=30.0, about="Seconds that one call may take."),
    Key(
        name="max_output_bytes",
        shape=integer(1, _MAX_OUTPUT_BYTES),
        default=1_048_576,
        about="Largest answer, in bytes; more ends the call with OUTPUT_TOO_LARGE.",
    ),
    Key(
        name="idempotent",
        shape=boolean(),
        default=False,
        about="true: a call whose outcome is unknown is made once more, with the same idempotency key.",
    ),
    Key(
        name="default_call",
        shape=Shape(read=_read_default_call, schema=table_schema(_DEFAULT_CALL)),
        default=None,
        about="The call for plans that are prose; its args are `{goal, plan}`. Absent: such plans are refused.",
    ),
    Key(
        name="redact",
        shape=listing(text(r"/.*", "a JSON pointer, such as '/user/mail' or '/users/*/mail'", also=_is_pointer), "a list of JSON pointers"),
        default=(),
        about="Places of an output that are never recorded, as JSON pointers (RFC 6901); `*` stands for every member or item.",
    ),
    Key(
        name="secrets",
        shape=table(
            _NAME,
            text(
                rf"env:{_VARIABLE_NAME}|file:[^\x00]{{1,4096}}", "where the secret is: 'env:NAME' or 'file:PATH', never the secret itself"
            ),
            "a table of names and places of secrets",
        ),
        default={},
        about='Secrets that plans may refer to, as `{"$secret": "name"}`: `name = "env:VARIABLE"` or `name = "file:PATH"`.',
    ),
    Key(
        name="allow_literal_secrets",
        shape=boolean(),
        default=False,
        about="true: plans may hold what looks like a secret itself. It then stands in the decision and in every record of it.",
    ),
)

_COMMAND_ENVIRONMENT = (
    Key(name="cwd", shape=_PLACE, default=".", about="Working directory; relative to the folder of the adapter file."),
    Key(
        name="pass_env",
        shape=listing(
            text(
                _VARIABLE_NAME,
                f"the name of an environment variable other than {', '.join(sorted(RESERVED_VARIABLES))}",
                also=lambda name: name not in RESERVED_VARIABLES,
            ),
            "a list of names of environment variables",
        ),
        default=(),
        about="Names of host variables that the program gets; each must be set.",
    ),
)

_CONNECTION = (
    Key(
        name="headers_env",
        shape=table(
            text(
                _HEADER_NAME,
                "the name of a header that the adapter does not set itself",
                also=lambda name: name.lower() not in _OWN_HEADERS,
            ),
            _NAMED_VARIABLE,
            "a table of header names and names of environment variables",
        ),
        default={},
        about='Headers of every request, and the variables that hold their values: `Authorization = "API_AUTHORIZATION"`.',
    ),
    Key(
        name="allow_private",
        shape=boolean(),
        default=False,
        about="true: the host may have an address that is not public (private, loopback). A host that is written as loopback always may.",
    ),
    Key(
        name="ca_file",
        shape=_PLACE,
        default=None,
        about="Certificates (PEM) to trust instead of the public ones; relative to the folder of the adapter file.",
    ),
)

_MCP = (
    Key(
        name="start_timeout_s",
        shape=number(0, _MAX_TIMEOUT_SECONDS, "seconds"),
        default=30.0,
        about="Seconds until the server must have started and listed its tools.",
    ),
    Key(
        name="tools_digest",
        shape=text("sha256:[0-9a-f]{64}", "'sha256:' and 64 hexadecimal digits"),
        default=None,
        about="Digest of the definitions of all allowed tools; another one stops the run with TOOL_DEFINITION_CHANGED.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One form of an adapter: `title` for people, and its keys besides `kind`."""

    kind: str
    title: str
    settings: type[FileSettings]
    keys: tuple[Key, ...]


VARIANTS = (
    Variant(
        kind="subprocess",
        title="a program that is started for each call",
        settings=SubprocessSettings,
        keys=(
            *_COMMON,
            Key(
                name="command",
                shape=listing(_ARGUMENT, "a list of texts that starts with the program", least=1, first=_PROGRAM),
                about="argv, never a string: there is no shell.",
            ),
            *_COMMAND_ENVIRONMENT,
        ),
    ),
    Variant(
        kind="mcp",
        title="an MCP server that is started for each run",
        settings=McpStdioSettings,
        keys=(
            *_COMMON,
            Key(name="command", shape=_PROGRAM, about="The program; there is no shell."),
            Key(name="args", shape=listing(_ARGUMENT, "a list of texts"), default=(), about="Its arguments."),
            *_COMMAND_ENVIRONMENT,
            *_MCP,
        ),
    ),
    Variant(
        kind="mcp",
        title="an MCP server behind a URL (streamable HTTP)",
        settings=McpHttpSettings,
        keys=(*_COMMON, Key(name="url", shape=_URL, about="Its endpoint; https, or http for this host itself."), *_CONNECTION, *_MCP),
    ),
    Variant(
        kind="http",
        title="a service that takes a POST per call",
        settings=HttpSettings,
        keys=(
            *_COMMON,
            Key(name="base_url", shape=_URL, about="Calls go to `<base_url>/<tool>/<method>`; https, or http for this host itself."),
            *_CONNECTION,
        ),
    ),
)
"""Every form of an adapter, in the order of the documents."""

_KINDS = tuple(dict.fromkeys(variant.kind for variant in VARIANTS))


def load_adapters(path: str | Path) -> tuple[FileAdapter, ...]:
    """The adapters of a file, in its order; a name that ends in `.json` is JSON, any other TOML. Raises AdapterFileError."""
    file = Path(path).absolute()
    language = "JSON" if file.suffix == ".json" else "TOML"
    try:
        content = read_file(file, _MAX_FILE_BYTES)
        data = read_json(content.decode()) if language == "JSON" else parse_toml(content)
    except FileRefused as problem:
        raise AdapterFileError(str(problem)) from None
    except (ValueError, RecursionError) as problem:
        raise AdapterFileError(f"{file}: no {language}: {problem}") from None
    try:
        return parse_adapters(data, base_dir=file.parent)
    except AdapterFileError as problem:
        raise AdapterFileError(f"{file}: {problem}", problem.problems) from None


def parse_adapters(data: object, *, base_dir: Path) -> tuple[FileAdapter, ...]:
    """The adapters of a parsed adapter file; relative paths start from `base_dir`.

    Raises AdapterFileError, whose `problems` are all mistakes of the file, each with its path.
    """
    problems: list[str] = []
    entries = read_table(data, _FILE, "", problems).get("adapters") or ()
    adapters = [_adapter(entry, f"adapters[{place}]", base_dir, problems) for place, entry in enumerate(entries)]
    ids = [cast("Mapping[str, object]", entry).get("id") if isinstance(entry, Mapping) else None for entry in entries]
    for place, adapter_id in enumerate(ids):
        if isinstance(adapter_id, str) and (first := ids.index(adapter_id)) < place:
            problems.append(f"adapters[{place}].id: is the id of adapters[{first}], too")
    if problems:
        raise AdapterFileError("; ".join(problems), tuple(problems))
    return tuple(adapter for adapter in adapters if adapter is not None)


def adapter_file_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of adapter files, for editors. The reader knows more: see the `also` tests above, and ids are unique."""
    adapters = [{"title": variant.title, **_with_kind(table_schema(variant.keys), variant.kind)} for variant in VARIANTS]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Adapter file of nexus-attest",
        "type": "object",
        "additionalProperties": False,
        "required": ["adapters"],
        "properties": {"$schema": {"type": "string"}, "adapters": {"type": "array", "minItems": 1, "items": {"oneOf": adapters}}},
    }


def _with_kind(schema: Mapping[str, Any], kind: str) -> dict[str, object]:
    properties: dict[str, object] = {"kind": {"const": kind}, **schema["properties"]}
    return {**schema, "required": ["kind", *schema["required"]], "properties": properties}


def _read_entries(value: object, where: str, problems: list[str]) -> Sequence[object]:
    if isinstance(value, list) and value:
        return cast("list[object]", value)
    problems.append(f"{where}: must be a list of at least one adapter, [[adapters]]")
    return ()


_FILE = (
    Key(name="adapters", shape=Shape(read=_read_entries, schema={}), about="The adapters."),
    Key(name="$schema", shape=text(".*", "a text"), default=None, about="For editors."),
)


def _adapter(entry: object, where: str, base_dir: Path, problems: list[str]) -> FileAdapter | None:
    before = len(problems)
    variant = _variant(entry, where, problems)
    if variant is None:
        return None
    given = {key: value for key, value in cast("Mapping[str, object]", entry).items() if key != "kind"}
    values = read_table(given, variant.keys, where, problems)
    if variant.settings in (SubprocessSettings, McpStdioSettings) and not hasattr(os, "killpg"):
        problems.append(f"{where}.command: needs POSIX process groups")
    if len(problems) > before:
        return None
    settings = variant.settings(adapter_id=values.pop("id"), base_dir=base_dir, **values)
    adapter = _made(settings)
    if settings.default_call is not None:
        try:
            adapter.check(Step(step_id="s1", intent="", tool=settings.default_call.tool, method=settings.default_call.method, args={}))
        except CallRefused as problem:
            problems.append(f"{where}.default_call: {problem}")
    return adapter


def _variant(entry: object, where: str, problems: list[str]) -> Variant | None:
    """The form that an entry has, by its kind and, for MCP servers, by how they are reached."""
    if not isinstance(entry, Mapping):
        problems.append(f"{where}: must be a table")
        return None
    keys = cast("Mapping[str, object]", entry)
    kind = keys.get("kind")
    found = [variant for variant in VARIANTS if variant.kind == kind]
    if not found:
        problems.append(f"{where}.kind: {'must be' if 'kind' in keys else 'is missing; give'} {' or '.join(repr(name) for name in _KINDS)}")
        return None
    if len(found) == 1:
        return found[0]
    ways = [variant for variant in found if _way(variant) in keys]
    if len(ways) != 1:
        names = " or ".join(_way(variant) for variant in found)
        problems.append(f"{where}: give {names}{', not both' if ways else ''}")
        return None
    return ways[0]


def _way(variant: Variant) -> str:
    return "url" if variant.settings is McpHttpSettings else "command"


def _made(settings: FileSettings) -> FileAdapter:
    if isinstance(settings, SubprocessSettings):
        return SubprocessAdapter(settings)
    if isinstance(settings, HttpSettings):
        return HttpAdapter(settings)
    return McpAdapter(settings)
