"""The stamps of batches, in the file of the queue: evidence of witnesses that answer at once, each kept once, by a lane of its own."""

from dataclasses import dataclass
from typing import Any

from nexus_attest.attestation.storage import AttestationStorage
from nexus_attest.attestation.xrpl.submission_store import Batch
from nexus_control.database import Database
from nexus_control.integrity import prefixed, sha256_digest

__all__ = ["StampStore", "StoredStamp"]

_STAMP = "batch_id, lane, n, digest, evidence, created_at, settled"
_INSERT = """
    INSERT INTO witness_stamps (batch_id, lane, n, digest, evidence, created_at)
    SELECT :batch_id, :lane, COALESCE(MAX(n), 0) + 1, :digest, :evidence, :created_at FROM witness_stamps WHERE lane = :lane
    ON CONFLICT (batch_id, lane) DO NOTHING"""
_OF_BATCH = f"SELECT {_STAMP} FROM witness_stamps WHERE batch_id = :batch_id AND lane = :lane"
_OF_LANE = f"SELECT {_STAMP} FROM witness_stamps WHERE lane = :lane ORDER BY n"
_LAST = f"SELECT {_STAMP} FROM witness_stamps WHERE lane = :lane ORDER BY n DESC LIMIT 1"
_BY_DIGEST = f"SELECT {_STAMP} FROM witness_stamps WHERE digest = :digest ORDER BY lane, n LIMIT 1"
_SETTLE = "UPDATE witness_stamps SET settled = 1 WHERE batch_id = :batch_id AND lane = :lane"
_BESIDE = """
    SELECT b.batch_id, b.account, b.root, b.size, b.created_at, b.settled
    FROM witness_batches AS b JOIN witness_slots AS s USING (batch_id)
    WHERE b.settled AND s.state = 'CONFIRMED'
      AND NOT EXISTS (SELECT 1 FROM witness_stamps AS t WHERE t.batch_id = b.batch_id AND t.lane = :lane AND t.settled)
    ORDER BY b.batch_id LIMIT 1"""
"""The oldest batch that a ledger has confirmed, and that this lane has not stamped, or not written all receipts of."""
_COUNT = """
    SELECT COUNT(*) AS batches, COALESCE(SUM(b.size), 0) AS members
    FROM witness_stamps AS t JOIN witness_batches AS b USING (batch_id) WHERE t.lane = :lane AND t.settled"""


@dataclass(frozen=True, slots=True)
class StoredStamp:
    """Evidence for one batch; `n` counts the stamps of the lane from 1, `digest` is prefixed. `settled`: its receipts are written."""

    batch_id: int
    lane: str
    n: int
    digest: str
    evidence: bytes
    created_at: str
    settled: bool


class StampStore:
    """Rows in, rows out. Raises StoreError when the database cannot do its work."""

    def __init__(self, storage: AttestationStorage) -> None:
        self._database: Database = storage.database

    def add(self, batch_id: int, lane: str, evidence: bytes, created_at: str) -> None:
        """Keep evidence; nothing when the lane has some for this batch."""
        row = {"batch_id": batch_id, "lane": lane, "evidence": evidence, "created_at": created_at}
        self._write(_INSERT, {**row, "digest": prefixed(sha256_digest(evidence))})

    def of_batch(self, batch_id: int, lane: str) -> StoredStamp | None:
        """The stamp of a batch."""
        return self._first(_OF_BATCH, {"batch_id": batch_id, "lane": lane})

    def last(self, lane: str) -> StoredStamp | None:
        """The newest stamp of a lane."""
        return self._first(_LAST, {"lane": lane})

    def by_digest(self, digest: str) -> StoredStamp | None:
        """The stamp with this evidence, by its prefixed digest."""
        return self._first(_BY_DIGEST, {"digest": digest})

    def of_lane(self, lane: str) -> list[StoredStamp]:
        """All stamps of a lane, oldest first."""
        return [_stamp(row) for row in self._rows(_OF_LANE, {"lane": lane})]

    def settle(self, batch_id: int, lane: str) -> None:
        """Note that all receipts are written."""
        self._write(_SETTLE, {"batch_id": batch_id, "lane": lane})

    def next_beside(self, lane: str) -> Batch | None:
        """The oldest batch that a ledger has confirmed and this lane has still to deal with."""
        rows = self._rows(_BESIDE, {"lane": lane})
        told: dict[str, Any] = {**rows[0], "settled": True} if rows else {}
        return Batch(**told) if told else None

    def counts(self, lane: str) -> tuple[int, int]:
        """How many batches a lane has stamped, and their members."""
        row = self._rows(_COUNT, {"lane": lane})[0]
        return row["batches"], row["members"]

    def _first(self, query: str, key: dict[str, Any]) -> StoredStamp | None:
        rows = self._rows(query, key)
        return _stamp(rows[0]) if rows else None

    def _write(self, statement: str, row: dict[str, Any]) -> None:
        with self._database.transaction() as connection:
            connection.execute(statement, row)

    def _rows(self, query: str, key: dict[str, Any]) -> list[dict[str, Any]]:
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query, key)]


def _stamp(row: dict[str, Any]) -> StoredStamp:
    told: dict[str, Any] = {**row, "settled": bool(row["settled"])}
    return StoredStamp(**told)
