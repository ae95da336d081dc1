"""What a queue holds about an intent, read so that rows which somebody tampered with are findings and not exceptions.

Digests are computed over the stored JSON as it is, not over the record that is made of it: so a version that records ignore is covered.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_control.integrity import content_digest, prefixed
from nexus_control.json_data import decode_json

__all__ = ["StoredIntent", "StoredReceipt", "read_stored"]

_COLUMNS = ("attempt", "status", "created_at", "backend")
"""What a receipt's row repeats of its JSON, to find it and to sort it by."""


@dataclass(frozen=True, slots=True)
class StoredIntent:
    """A row of the intents. `intent` is None, and `problem` says why, when it cannot be read; `digest` is computed and prefixed."""

    row: Mapping[str, Any]
    intent: AttestationIntent | None
    digest: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """The same for a row of the receipts; `problem` also tells of a row that contradicts its receipt."""

    row: Mapping[str, Any]
    receipt: AttestationReceipt | None
    digest: str | None
    problem: str | None

    @property
    def attempt(self) -> int:
        """The attempt by which receipts are sorted."""
        return self.row["attempt"]

    @property
    def status(self) -> str:
        """Of the receipt; of its row when the receipt cannot be read."""
        return self.row["status"] if self.receipt is None else self.receipt.status.value

    @property
    def created_at(self) -> str:
        """The same for the time."""
        return self.row["created_at"] if self.receipt is None else self.receipt.created_at

    @property
    def backend(self) -> str:
        """The same for the backend."""
        return self.row["backend"] if self.receipt is None else self.receipt.backend


def read_stored(queue: AttestationQueue, intent_digest: str) -> tuple[StoredIntent, list[StoredReceipt]] | None:
    """An intent and its receipts in replay order, from one state of the queue; None when the intent is unknown.

    Raises StoreError.
    """
    storage = queue.storage
    with storage.inspection():
        row = storage.get_intent_by_digest(intent_digest)
        rows = [] if row is None else storage.list_receipts(intent_digest)
    return None if row is None else (_intent(row), [_receipt(row) for row in rows])


def _intent(row: Mapping[str, Any]) -> StoredIntent:
    try:
        data: Any = decode_json(row["intent_json"])
        return StoredIntent(row, AttestationIntent.from_dict(data), prefixed(content_digest(data)), None)
    except ValueError as problem:
        return StoredIntent(row, None, None, f"the stored intent cannot be read: {problem!s:.300}")


def _receipt(row: Mapping[str, Any]) -> StoredReceipt:
    try:
        data: Any = decode_json(row["receipt_json"])
        receipt = AttestationReceipt.from_dict(data)
    except ValueError as problem:
        return StoredReceipt(row, None, None, f"the stored receipt cannot be read: {problem!s:.300}")
    told = next((name for name in _COLUMNS if row[name] != getattr(receipt, name)), None)
    problem = None if told is None else f"the row says another {told} than the receipt in it"
    return StoredReceipt(row, receipt, prefixed(content_digest(data)), problem)
