"""Histories of a decision, `d` unless named, without a store: events by name, one a minute from midnight on, judged at noon."""

from datetime import UTC, datetime, timedelta
from typing import Any

from nexus_control.decision import Decision
from nexus_control.events import Actor, EventType, StoredEvent

__all__ = ["EARLIER", "FAILED", "LATER", "NOON", "T0", "Item", "decide", "event", "execution", "grant", "history", "policy", "revoke"]

T0 = datetime(2025, 1, 1, tzinfo=UTC)
NOON = T0 + timedelta(hours=12)
LATER = (NOON + timedelta(hours=1)).isoformat()
EARLIER = (NOON - timedelta(hours=1)).isoformat()

Item = tuple[EventType, dict[str, Any], str]
"""Kind, payload and actor id (`system:` in front makes a system) of an event that gets its `seq` and time from its place."""


def event(seq: int, kind: EventType, payload: dict[str, Any] | None = None, actor: str = "alice", *, decision_id: str = "d") -> StoredEvent:
    """An event `seq` minutes after midnight."""
    who = Actor(type="system" if actor.startswith("system:") else "human", id=actor.removeprefix("system:"))
    return StoredEvent(decision_id, seq, kind, T0 + timedelta(minutes=seq), who, payload or {}, f"{seq:064x}")


def history(*items: Item, decision_id: str = "d") -> list[StoredEvent]:
    """The items in this order."""
    return [event(seq, *item, decision_id=decision_id) for seq, item in enumerate(items)]


def decide(*items: Item) -> Decision:
    """The decision after these events, judged at noon."""
    return Decision.replay("d", history(*items), as_of=NOON)


def policy(needed: int = 1, modes: tuple[str, ...] = ("dry_run", "apply"), **more: Any) -> Item:
    """An attached policy."""
    return EventType.POLICY_ATTACHED, {"min_approvals": needed, "allowed_modes": list(modes), **more}, "alice"


def grant(actor: str, expires_at: str | None = None, **more: Any) -> Item:
    """An approval."""
    return EventType.APPROVAL_GRANTED, {"expires_at": expires_at, **more}, actor


def revoke(actor: str, reason: str = "") -> Item:
    """An approval taken back."""
    return EventType.APPROVAL_REVOKED, {"reason": reason}, actor


def execution(kind: EventType, **payload: Any) -> Item:
    """An event of an execution, written by the engine itself."""
    return kind, payload, "system:nexus-control"


FAILED = execution(EventType.EXECUTION_FAILED, error_code="ROUTER_ERROR", error_message="boom", run_id=None)
