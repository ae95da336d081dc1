"""Intents that wait to be witnessed, and the receipts of all attempts at it.

The id of a queued intent is its prefixed digest, so the same intent is never queued twice. Receipts are kept in any order of arrival; the
status of an intent only follows those that tell something newer.
"""

import json
import secrets
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from nexus_attest.attestation.errors import InvalidIntent, InvalidReceipt
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.members import compact_utc, intent_key, require_str
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.storage import AttestationStorage
from nexus_control.canonical_json import canonical_json
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.integrity import prefixed

__all__ = ["AttestationQueue", "QueuedIntent"]

_CLAIM_SECONDS = 300.0
"""Longer than one cycle of submitting and asking takes; after a crash the next worker waits this long."""


@dataclass(frozen=True)
class QueuedIntent:
    """An intent as it stands in the queue; `intent_digest` is prefixed and the same as `queue_id`."""

    queue_id: str
    intent: AttestationIntent
    intent_digest: str
    status: str
    next_attempt: int
    created_at: str


class AttestationQueue:
    """The queue in a file, or in memory (`:memory:`). Usable from several threads, a file from several processes.

    Every method raises StoreError when the database cannot do its work.
    """

    def __init__(
        self, db_path: str | Path = ":memory:", *, clock: Clock = utc_now, new_id: Callable[[], str] = lambda: secrets.token_hex(16)
    ) -> None:
        self._storage = AttestationStorage(db_path)
        self._clock = in_utc(clock)
        self._new_id = new_id

    @property
    def storage(self) -> AttestationStorage:
        """The rows, for reports about them."""
        return self._storage

    def enqueue(self, intent: AttestationIntent, *, created_at: str | None = None) -> str:
        """Queue an intent as PENDING and return its id; one that is there stays as it is."""
        if not isinstance(cast("object", intent), AttestationIntent):
            raise InvalidIntent(f"intent must be an AttestationIntent, got {type(intent).__name__}")
        when = compact_utc(self._clock) if created_at is None else require_str(created_at, "created_at", InvalidIntent)
        queue_id = prefixed(intent.intent_digest())
        self._storage.insert_intent(queue_id, queue_id, canonical_json(intent.to_dict()), when)
        return queue_id

    def enqueue_many(self, intents: Iterable[AttestationIntent], *, created_at: str | None = None) -> list[str]:
        """As `enqueue` for each, in one commit: all are queued, or none when one cannot be."""
        with self._storage.transaction():
            return [self.enqueue(intent, created_at=created_at) for intent in intents]

    def next_pending(self, limit: int = 1) -> list[QueuedIntent]:
        """The intents that are PENDING or DEFERRED, oldest first, equal times by digest.

        Raises InvalidIntent when a stored one cannot be read.
        """
        return [_queued(row) for row in self._storage.list_pending(limit)]

    def next_unconfirmed(self, limit: int = 1) -> list[QueuedIntent]:
        """The intents that are SUBMITTED, in the same order: what a process that died may have left between submit and confirm."""
        return [_queued(row) for row in self._storage.list_unconfirmed(limit)]

    def next_submitted(self, limit: int = 1, *, now: str | None = None) -> list[QueuedIntent]:
        """The intents of which a transaction of their own may be on the ledger, the one first that was looked at longest ago.

        With `now` (UTC, ISO 8601) only those that it is time to look at: what stays undecided after 8 attempts, ever more rarely.
        """
        return [_queued(row) for row in self._storage.list_submitted(limit, now=now)]

    def next_due(self, limit: int = 1, *, now: str) -> list[QueuedIntent]:
        """The intents that are PENDING, DEFERRED, or SUBMITTED with a known transaction, the one first that was looked at longest ago.

        Only those that it is time to look at, as in `next_submitted`. Raises InvalidIntent when a stored one cannot be read.
        """
        return [_queued(row) for row in self._storage.list_due(limit, now=now)]

    def get(self, intent_digest: str) -> QueuedIntent | None:
        """One intent by its prefixed digest, whatever its status and place; None when it is unknown."""
        row = self._storage.get_intent_by_digest(intent_key(intent_digest))
        return None if row is None else _queued(row)

    @contextmanager
    def claimed(self, queue_id: str, owner: str | None = None) -> Generator[bool]:
        """Keep every other worker, in whatever process, off an intent inside the block; False when one is at it already.

        A claim whose process died, or took longer, ends after five minutes. `owner` tells it from all others; a new id when None.
        """
        owner, now = self._new_id() if owner is None else owner, self._clock().timestamp()
        mine = self._storage.claim(queue_id, owner, now=now, until=now + _CLAIM_SECONDS)
        try:
            yield mine
        finally:
            if mine:
                self._storage.release(queue_id, owner)

    def record_receipt(self, receipt: AttestationReceipt, *, intent_status: ReceiptStatus | None = None) -> bool:
        """Store a receipt, also one of an intent that is not queued; whether it was new.

        The intent takes over the receipt's status (`intent_status` when given), attempt, time and error code. It does not for a receipt
        that is stored already or belongs to an earlier attempt than its last; and CONFIRMED stays CONFIRMED.
        """
        if not isinstance(cast("object", receipt), AttestationReceipt):
            raise InvalidReceipt(f"receipt must be an AttestationReceipt, got {type(receipt).__name__}")
        status = receipt.status if intent_status is None else ReceiptStatus(intent_status)
        storage = self._storage
        with storage.transaction():
            new = storage.insert_receipt(
                receipt.receipt_digest(),
                receipt.intent_digest,
                receipt.attempt,
                receipt.created_at,
                receipt.backend,
                receipt.status.value,
                canonical_json(receipt.to_dict()),
            )
            row = storage.get_intent_by_digest(receipt.intent_digest)
            if new and row is not None and receipt.attempt >= row["last_attempt"]:
                error = None if receipt.error is None else receipt.error.code
                if row["status"] == ReceiptStatus.CONFIRMED:
                    status, error = ReceiptStatus.CONFIRMED, row["last_error_code"]
                storage.update_intent_status(row["queue_id"], status.value, receipt.attempt, receipt.created_at, error)
        return new

    def replay(self, intent_digest: str) -> list[AttestationReceipt]:
        """All receipts of an intent by attempt, then in the order of their arrival. Raises InvalidReceipt when one cannot be read."""
        return [_receipt(row) for row in self._storage.list_receipts(intent_key(intent_digest))]

    def get_status(self, queue_id: str) -> dict[str, Any] | None:
        """`queue_id`, `intent_digest`, `status`, `last_attempt`, `created_at`, `updated_at`, `last_error_code`; None when unknown."""
        row = self._storage.get_intent(intent_key(queue_id))
        return None if row is None else {key: value for key, value in row.items() if key != "intent_json"}

    def close(self) -> None:
        """Close the database. Closing again does nothing."""
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _queued(row: dict[str, Any]) -> QueuedIntent:
    try:
        intent = AttestationIntent.from_dict(json.loads(row["intent_json"]))
    except (ValueError, RecursionError) as problem:
        raise InvalidIntent(f"the stored intent {row['queue_id']!r:.100} cannot be read: {problem!s:.300}") from None
    return QueuedIntent(
        queue_id=row["queue_id"],
        intent=intent,
        intent_digest=row["intent_digest"],
        status=row["status"],
        next_attempt=row["last_attempt"] + 1,
        created_at=row["created_at"],
    )


def _receipt(row: dict[str, Any]) -> AttestationReceipt:
    try:
        return AttestationReceipt.from_dict(json.loads(row["receipt_json"]))
    except (ValueError, RecursionError) as problem:
        raise InvalidReceipt(f"the stored receipt {row['receipt_digest']!r:.100} cannot be read: {problem!s:.300}") from None
