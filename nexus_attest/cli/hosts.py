"""The hosts that start MCP servers, and how each is told to start this one."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_attest.cli import settings
from nexus_attest.cli.session import Session
from nexus_control.errors import InputError

__all__ = ["HOSTS", "NAME", "Host", "serve_arguments"]

NAME = "nexus-attest"
"""Of the server in the host. Hosts put it before the names of tools, and some allow 60 characters for both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`where` tells a person what to do with the text; `snippet` makes it out of the words of a command line."""

    where: str
    snippet: Callable[[Sequence[str]], str]


def serve_arguments(session: Session, launcher: str, adapters: Path | None, options: Sequence[str]) -> list[str]:
    """The command line that serves this store. Raises InputError for a launcher that is no command, ConfigError."""
    try:
        started = shlex.split(launcher)
    except ValueError as problem:
        raise InputError(f"the launcher cannot be split into words: {problem}") from None
    if not started:
        raise InputError("the launcher is empty")
    path = settings.adapters_path(adapters)
    known = [] if path is None else ["--adapters", str(path.absolute())]
    return [*started, "serve", "--tool-names", "underscore", *session.store_options(), *known, *options]


def _json(key: str, **more: Any) -> Callable[[Sequence[str]], str]:
    def snippet(words: Sequence[str]) -> str:
        entry = {**more.get("entry", {}), "command": words[0], "args": list(words[1:]), **more.get("last", {})}
        return json.dumps({key: {NAME: entry}, **more.get("beside", {})}, indent=2, ensure_ascii=False)

    return snippet


def _codex(words: Sequence[str]) -> str:
    """TOML: its basic strings are those of JSON, apart from DEL."""
    command, *arguments = (json.dumps(word).replace("\x7f", "\\u007f") for word in words)
    return f"[mcp_servers.{NAME}]\ncommand = {command}\nargs = [{', '.join(arguments)}]"


def _claude_code(words: Sequence[str]) -> str:
    return f"claude mcp add {NAME} -- {shlex.join(words)}"


HOSTS: Mapping[str, Host] = {
    "claude-desktop": Host(
        where=(
            "Merge it into claude_desktop_config.json (macOS: ~/Library/Application Support/Claude, Windows: %APPDATA%\\Claude), "
            "then restart Claude."
        ),
        snippet=_json("mcpServers", last={"env": {}}),
    ),
    "claude-code": Host(where="Run it in a terminal.", snippet=_claude_code),
    "vscode": Host(
        where="Merge it into .vscode/mcp.json of the workspace.",
        snippet=_json("servers", entry={"type": "stdio"}, beside={"inputs": []}),
    ),
    "cursor": Host(
        where="Merge it into .cursor/mcp.json of the project, or ~/.cursor/mcp.json.", snippet=_json("mcpServers", last={"env": {}})
    ),
    "codex": Host(where="Append it to ~/.codex/config.toml.", snippet=_codex),
}
"""By the name that the command line uses."""
