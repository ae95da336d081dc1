"""The commands that write, as calls of the library, on any store."""

import os
from collections.abc import Callable
from typing import Any

from store_testing import ALICE, BOB, CAROL

from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

__all__ = ["ACTS", "Act", "Router", "requested"]


class Router:
    """Runs nothing, and counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        self.runs += 1
        return {"run_id": f"run-{self.runs}", "steps_executed": 1}


def requested(store: SqlStore, approvals: int = 1) -> str:
    """A decision that may be executed when it has an approval, alice's and then bob's."""
    tools = NexusControlTools(store)
    name: str = tools.request("g", ALICE, mode="apply").data["request_id"]
    for actor in (ALICE, BOB)[:approvals]:
        assert tools.approve(name, actor).success
    return name


def _bundle() -> dict[str, Any]:
    with DecisionStore() as store:
        tools = NexusControlTools(store)
        return tools.export_bundle(tools.request("imported", ALICE).data["request_id"]).data["bundle"]


Act = Callable[[NexusControlTools, str, Router], ToolResult]
"""Does something to a decision that was requested, or makes another one."""

ACTS: dict[str, tuple[Act, tuple[int, ...]]] = {
    "request": (lambda tools, _, __: tools.request("another", BOB), (0, 3)),
    "approve": (lambda tools, name, _: tools.approve(name, CAROL), (0, 1)),
    "revoke": (lambda tools, name, _: tools.revoke_approval(name, ALICE), (0, 1)),
    "template create": (lambda tools, _, __: tools.template_create(os.urandom(8).hex(), ALICE), (0, 1)),
    "bundle import": (lambda tools, _, __: tools.import_bundle(_bundle()), (0, 3)),
    "execute": (lambda tools, name, router: tools.execute(name, "ad", CAROL, router), (0, 2, 3)),
}
"""Each with the numbers of facts that it may leave, of which the last is all."""
