"""The header row of a decision's generation: its listing copy of the first events, and where an import came from.

The copy exists so that a list can be shown without reading events. It decides nothing; `log_check` compares it with the events and
with its own digest, so a changed copy is found.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from operator import attrgetter
from typing import Any

from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.events import EventType
from nexus_control.integrity import content_digest

__all__ = ["COPY_COLUMNS", "HeaderCopy", "ImportOrigin", "first_events_copy"]

COPY_COLUMNS = (
    "goal",
    "creator_type",
    "creator_id",
    "policy_ref",
    "template_name",
    "template_digest",
    "imported_at",
    "imported_from",
    "bundle_digest",
)

_columns = attrgetter(*COPY_COLUMNS)
_POLICY_KEYS = ("min_approvals", "allowed_modes", "require_adapter_capabilities", "max_steps", "labels")


@dataclass(frozen=True)
class ImportOrigin:
    """What an import claims about itself: when (ISO, UTC), under which id it was exported, and the bundle's prefixed digest."""

    imported_at: str
    imported_from: str
    bundle_digest: str


@dataclass(frozen=True)
class HeaderCopy:
    """The nullable columns of a header row, in `COPY_COLUMNS` order. `policy_ref` is the raw content digest of the policy."""

    goal: str | None = None
    creator_type: str | None = None
    creator_id: str | None = None
    policy_ref: str | None = None
    template_name: str | None = None
    template_digest: str | None = None
    imported_at: str | None = None
    imported_from: str | None = None
    bundle_digest: str | None = None

    def values(self) -> tuple[str | None, ...]:
        """The columns as they are inserted."""
        return _columns(self)

    def digest(self) -> bytes:
        """32 bytes over all columns: SHA-256 of the canonical bytes of the array of them, nulls included."""
        return sha256(canonical_json_bytes(self.values())).digest()


def first_events_copy(events: Iterable[tuple[str, str, str, Mapping[str, Any]]], origin: ImportOrigin | None = None) -> HeaderCopy:
    """The copy made from (event type, actor type, actor id, payload) of a decision's first events, in order.

    Goal and creator come from the first DECISION_CREATED, policy and template reference from the first POLICY_ATTACHED. A value that
    is no string is left out: the copy never refuses what the log accepts.
    """
    created: tuple[str, str, str | None] | None = None
    policy: Mapping[str, Any] | None = None
    for event_type, actor_type, actor_id, payload in events:
        if event_type == EventType.DECISION_CREATED and created is None:
            created = actor_type, actor_id, _text(payload.get("goal"))
        elif event_type == EventType.POLICY_ATTACHED and policy is None:
            policy = payload
        if created is not None and policy is not None:
            break
    creator_type, creator_id, goal = created if created is not None else (None, None, None)
    return HeaderCopy(
        goal=goal,
        creator_type=creator_type,
        creator_id=creator_id,
        policy_ref=None if policy is None else content_digest({key: policy[key] for key in _POLICY_KEYS if key in policy}),
        template_name=None if policy is None else _text(policy.get("template_name")),
        template_digest=None if policy is None else _text(policy.get("template_digest")),
        imported_at=None if origin is None else origin.imported_at,
        imported_from=None if origin is None else origin.imported_from,
        bundle_digest=None if origin is None else origin.bundle_digest,
    )


def _text(value: object) -> str | None:
    return value if type(value) is str else None
