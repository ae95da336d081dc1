"""Checked adapter definitions; `nexus_attest.routers.adapters_file` describes the keys and makes these.

Paths are kept as written and resolved against `base_dir`, which is no part of a definition: the digest of one adapter file is the same
wherever it is installed. Secrets are named, never held.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar

from nexus_control.integrity import content_digest, prefixed
from nexus_control.plan import DefaultCall

__all__ = ["AdapterSettings", "HttpSettings", "McpHttpSettings", "McpSettings", "McpStdioSettings", "SubprocessSettings"]


def _no_secrets() -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """What every kind of adapter has; the fields are the keys of the adapter file."""

    kind: ClassVar[str]

    adapter_id: str
    allow: tuple[str, ...]
    base_dir: Path
    timeout_s: float = 30.0
    max_output_bytes: int = 1_048_576
    idempotent: bool = False
    default_call: DefaultCall | None = None
    redact: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=_no_secrets)
    allow_literal_secrets: bool = False

    def definition(self) -> dict[str, object]:
        """What is digested: every key of the adapter file, defaults filled in."""
        values: dict[str, object] = {"id": self.adapter_id, "kind": self.kind}
        for each in fields(self):
            if each.name not in ("adapter_id", "base_dir"):
                values[each.name] = _plain(getattr(self, each.name))
        return values

    def digest(self) -> str:
        """The `sha256:` digest of `definition()`."""
        return prefixed(content_digest(self.definition()))


@dataclass(frozen=True, slots=True, kw_only=True)
class SubprocessSettings(AdapterSettings):
    """A program that is started for each call."""

    kind = "subprocess"

    command: tuple[str, ...]
    cwd: str = "."
    pass_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class McpSettings(AdapterSettings):
    """An MCP server, however it is reached."""

    kind = "mcp"

    start_timeout_s: float = 30.0
    tools_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class McpStdioSettings(McpSettings):
    """An MCP server that is started for each run."""

    command: str
    args: tuple[str, ...] = ()
    cwd: str = "."
    pass_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class McpHttpSettings(McpSettings):
    """An MCP server behind a URL."""

    url: str
    headers_env: Mapping[str, str] = field(default_factory=_no_secrets)
    allow_private: bool = False
    ca_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings(AdapterSettings):
    """A service that takes a POST per call."""

    kind = "http"

    base_url: str
    headers_env: Mapping[str, str] = field(default_factory=_no_secrets)
    allow_private: bool = False
    ca_file: str | None = None


def _plain(value: object) -> object:
    if isinstance(value, DefaultCall):
        return value._asdict()
    return list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
