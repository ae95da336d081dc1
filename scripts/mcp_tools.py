"""Print docs/mcp-tools.json, the published list of the MCP server's tools, as a client gets it.

`make docs` writes the file; a test compares it with what this prints, so that every change of a name, a description or a schema is
seen in review.
"""

import json
from typing import Any

from nexus_attest.server.app import listed_tools
from nexus_attest.server.service import Service, ServiceOptions
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools


def listing() -> list[dict[str, Any]]:
    """All tools with the default options, and those that `--extra-tools` adds."""
    with DecisionStore() as store:
        service = Service(tools=NexusControlTools(store), options=ServiceOptions(extra_tools=True))
        return [tool.model_dump(by_alias=True, exclude_none=True) for tool in listed_tools(service)]


def document() -> str:
    """The whole file."""
    return json.dumps(listing(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(), end="")
