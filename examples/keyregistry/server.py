"""A registry of public key fingerprints, served over MCP (stdio). It knows nothing of nexus-attest.

    python3 server.py FILE        FILE is the registry: one JSON object, made on the first `publish`

Tools: `publish` sets the fingerprint of a name, `lookup` tells it. Whoever trusts the registry trusts what `publish` writes, which is why
an agent should not be able to call it just like that.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field
from typing_extensions import TypedDict

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$", description="The name of the key, such as release.example")]
Fingerprint = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="sha256: and 64 hexadecimal digits")]


class Entry(TypedDict):
    """What the registry says about a name."""

    name: str
    fingerprint: str
    revision: int


def build(registry: Path) -> MCPServer:
    """The server of one registry."""

    def lookup(name: Name) -> Entry:
        """Tell the fingerprint that is published for a name."""
        entries = read(registry)
        if name not in entries:
            raise ToolError(f"nothing is published for {name}")
        return entries[name]

    def publish(name: Name, fingerprint: Fingerprint) -> Entry:
        """Publish the fingerprint of a key under a name, in the place of the former one."""
        entries = read(registry)
        former = entries.get(name)
        if former is not None and former["fingerprint"] == fingerprint:
            return former
        entries[name] = {"name": name, "fingerprint": fingerprint, "revision": 1 if former is None else former["revision"] + 1}
        write(registry, entries)
        return entries[name]

    server = MCPServer("keyregistry", version="1.0.0")
    server.add_tool(lookup, annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    server.add_tool(publish, annotations=ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False))
    return server


def read(registry: Path) -> dict[str, Entry]:
    """All entries by name."""
    return json.loads(registry.read_text(encoding="utf-8")) if registry.exists() else {}


def write(registry: Path, entries: dict[str, Entry]) -> None:
    """Replace the file at once, so that a reader sees the old or the new one."""
    fresh = registry.with_name(registry.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(entries, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(registry)


if __name__ == "__main__":
    build(Path(sys.argv[1])).run()
