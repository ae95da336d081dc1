"""What the rest of the engine needs of a store of decisions, whatever keeps it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias

from nexus_control.checkpoint import Checkpoint, SignedNote
from nexus_control.errors import MalformedEvent
from nexus_control.events import Clock, EventType, StoredEvent
from nexus_control.header import ImportOrigin
from nexus_control.log_check import LogVerification
from nexus_control.template import TemplateStore

__all__ = ["End", "EventItem", "EventStore", "History"]

EventItem: TypeAlias = tuple[EventType, Mapping[str, str], Mapping[str, Any]]
"""What is appended: type, actor, payload."""


class End(NamedTuple):
    """Where the newest generation of a decision ends, and the log of the whole store: the position of its last fact.

    `chain_hash` is that of the last event (of the header where there is none) and covers all before it: equal ends, equal histories.
    """

    decision_id: str
    generation: int
    next_seq: int
    chain_hash: str
    position: int


class History(NamedTuple):
    """The newest generation of a decision as it was when it was read: its events in ascending seq, its number, how many of the events, the
    first ones, an import brought, and the position of the last fact of the whole store.
    """

    events: list[StoredEvent]
    generation: int
    imported: int
    position: int

    @property
    def end(self) -> End | None:
        """Where it ends; None where that cannot be told from its events."""
        if not self.events or (chain_hash := self.events[-1].chain_hash) is None:
            return None
        last = self.events[-1]
        return End(last.decision_id, self.generation, last.seq + 1, chain_hash, self.position)


class EventStore(Protocol):
    """What the rest of the engine needs of a store of decisions; `DecisionStore` describes each method.

    Other backends raise `ConcurrencyError` and `DecisionExists` where SQLite's own exceptions are named there.
    """

    clock: Clock
    new_id: Callable[[], str]

    @property
    def in_transaction(self) -> bool: ...
    def transaction(self) -> AbstractContextManager[object]: ...
    def snapshot(self) -> AbstractContextManager[object]: ...
    def at_once(self) -> AbstractContextManager[object] | None: ...
    def create_decision(self, decision_id: str | None = None) -> str: ...
    def append_event(
        self,
        decision_id: str,
        event_type: EventType,
        actor: Mapping[str, str],
        payload: Mapping[str, Any],
        *,
        expected_seq: int | None = None,
        after: End | None = None,
    ) -> StoredEvent: ...
    def append_events(
        self,
        decision_id: str,
        items: Sequence[EventItem],
        *,
        expected_seq: int | None = None,
        create: bool = False,
        after: End | None = None,
    ) -> list[StoredEvent]: ...
    def get_events(self, decision_id: str, generation: int | None = None) -> list[StoredEvent]: ...
    def history(self, decision_id: str, *, chained: bool = False) -> History: ...
    def end(self, decision_id: str) -> End: ...
    def latest_event(self, decision_id: str, event_type: EventType) -> StoredEvent | None: ...
    def get_events_of(self, decision_ids: Sequence[str]) -> dict[str, list[StoredEvent] | MalformedEvent]: ...
    def origin(self, decision_id: str) -> tuple[int, int]: ...
    def list_generations(self, decision_id: str) -> list[dict[str, Any]]: ...
    def list_decisions(self, limit: int = 100, offset: int = 0) -> list[tuple[str, datetime]]: ...
    def decision_page(self, limit: int, offset: int) -> list[tuple[str, str]]: ...
    def decision_exists(self, decision_id: str) -> bool: ...
    def delete_decision(self, decision_id: str) -> bool: ...
    def import_decision_atomic(
        self,
        decision_id: str,
        created_at: str,
        events: Sequence[Mapping[str, Any]],
        overwrite: bool = False,
        *,
        origin: ImportOrigin | None = None,
    ) -> tuple[bool, str | None]: ...
    def get_template_store(self) -> TemplateStore: ...
    def log_root(self, size: int | None = None) -> tuple[int, str]: ...
    def inclusion_proof(self, position: int, size: int | None = None) -> list[str]: ...
    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[str]: ...
    def joint_inclusion_proof(self, positions: Collection[int], size: int | None = None) -> list[str]: ...
    def checkpoints(self) -> list[SignedNote]: ...
    def certain_log_root(self) -> tuple[int, str]: ...
    def add_checkpoint(self, note: SignedNote) -> Checkpoint: ...
    def verify_log(self, decision_id: str | None = None) -> LogVerification: ...
    def close(self) -> None: ...
