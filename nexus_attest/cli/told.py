"""What the demonstration tells must be what happened: calls that must succeed, calls that must be refused, and facts."""

from typing import Any

from nexus_attest.cli.errors import Failure
from nexus_control.tool import ToolResult

__all__ = ["AGENT", "ALICE", "BOB", "done", "refused", "require"]

AGENT = {"type": "system", "id": "release-agent"}
ALICE = {"type": "human", "id": "alice"}
BOB = {"type": "human", "id": "bob"}


def done(result: ToolResult) -> dict[str, Any]:
    """What a call returned that must succeed here. Raises Failure DEMO_FAILED."""
    if not result.success:
        raise Failure("DEMO_FAILED", f"DEMO_FAILED: {result.error}")
    return result.data


def refused(result: ToolResult, code: str) -> str:
    """The text of a call that must be refused here, for this reason. Raises Failure DEMO_FAILED."""
    require(result.code == code, f"{code} was expected, but the call {result.error or 'succeeded'}")
    return str(result.error)


def require(condition: bool, problem: str) -> None:
    """Raise Failure DEMO_FAILED with this problem unless the condition holds."""
    if not condition:
        raise Failure("DEMO_FAILED", f"DEMO_FAILED: {problem}")
