"""Print docs/mcp-tools.json, the published list of the MCP server's tools, as a client gets it.

With `--cards` docs/mcp-card-tools.json: what of it is different for clients that show cards, with `--approval-card`. `make docs` writes the
files; a test compares them with what this prints, so that every change of a name, a description or a schema is seen in review.
"""

import json
import sys
from typing import Any

from mcp.types import Tool

from nexus_attest.server.app import listed_tools
from nexus_attest.server.cards import ApprovalCards
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.service import Service, ServiceOptions
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools


def listing() -> list[dict[str, Any]]:
    """All tools with the default options, and those that `--extra-tools` adds."""
    with DecisionStore() as store:
        service = Service(tools=NexusControlTools(store), options=ServiceOptions(extra_tools=True))
        return _shown(listed_tools(service))


def card_listing() -> list[dict[str, Any]]:
    """The tools that are different, or there at all, for a client that shows cards."""
    with DecisionStore() as store:
        service = Service(tools=NexusControlTools(store), options=ServiceOptions(extra_tools=True))
        tools = listed_tools(service)
        cards = ApprovalCards(service, HumanAsker(tools=service.tools))
        return [tool for tool in _shown(cards.listed(tools)) if tool not in _shown(tools)]


def _shown(tools: list[Tool]) -> list[dict[str, Any]]:
    return [tool.model_dump(by_alias=True, exclude_none=True) for tool in tools]


def document(listed: list[dict[str, Any]]) -> str:
    """The whole file."""
    return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(card_listing() if sys.argv[1:] == ["--cards"] else listing()), end="")
