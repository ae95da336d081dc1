"""Print docs/mcp-tools.json, the published list of the MCP server's tools, as a client gets it.

With `--by-option` docs/mcp-tools-by-option.json: the tools that are different, or there at all, where the server has an option. `make docs`
writes the files; a test compares them with what this prints, so that every change of a name, a description or a schema is seen in review.
"""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mcp.types import Tool

from nexus_attest.server.actors import ConfigActor
from nexus_attest.server.app import listed_tools
from nexus_attest.server.cards import ApprovalCards
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.service import Service, ServiceOptions
from nexus_control.events import Actor
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools


def listing() -> list[dict[str, Any]]:
    """All tools with the default options, and those that `--extra-tools` adds."""
    with _service() as service:
        return _shown(listed_tools(service))


def listing_by_option() -> dict[str, list[dict[str, Any]]]:
    """By option of `serve`: the tools that are not as in `listing` for a client that sees a difference."""
    published = listing()
    with (
        _service() as cards,
        _service(takes_signatures=True) as trust,
        _service(actors=ConfigActor(Actor(type="human", id="alice"))) as config,
    ):
        lists = {
            "--approval-card": ApprovalCards(cards, HumanAsker(tools=cards.tools)).listed(listed_tools(cards)),
            "--trust": listed_tools(trust),
            "--actor-source": listed_tools(config),
        }
        return {option: [tool for tool in _shown(tools) if tool not in published] for option, tools in lists.items()}


@contextmanager
def _service(**facts: Any) -> Generator[Service]:
    with DecisionStore() as store:
        yield Service(tools=NexusControlTools(store), options=ServiceOptions(extra_tools=True), **facts)


def _shown(tools: list[Tool]) -> list[dict[str, Any]]:
    return [tool.model_dump(by_alias=True, exclude_none=True) for tool in tools]


def document(listed: object) -> str:
    """The whole file."""
    return json.dumps(listed, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(listing_by_option() if sys.argv[1:] == ["--by-option"] else listing()), end="")
