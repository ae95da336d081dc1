"""What proofs are made of, in the file of the queue: validators' votes as they were sent, lists and manifests as they were published, and
the proofs themselves.

Servers keep no votes: what was not recorded while it was sent is gone. Votes of ledgers without a transaction of ours are dropped after
some hours; lists, manifests and proofs are kept for good, each once, under its digest.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_attest.attestation.storage import AttestationStorage
from nexus_attest.attestation.xrpl.proof import LedgerProof
from nexus_attest.attestation.xrpl.validators import Manifest, PublishedList, Validation, ValidatorList
from nexus_control.canonical_json import canonical_json
from nexus_control.database import Database
from nexus_control.integrity import content_digest, prefixed, sha256_digest

__all__ = ["ProofStore", "Recording", "StoredProof", "VoteCount"]

_ADD_VOTE = """
    INSERT INTO witness_votes (ledger_index, ledger_hash, signing_key, data, seen_at)
    VALUES (:ledger_index, :ledger_hash, :signing_key, :data, :seen_at) ON CONFLICT DO NOTHING"""
_VOTES = "SELECT data FROM witness_votes WHERE ledger_index = :ledger_index AND ledger_hash = :ledger_hash ORDER BY signing_key"
_COUNTS = """
    SELECT ledger_index, ledger_hash, COUNT(*) AS votes FROM witness_votes
    WHERE ledger_index BETWEEN :first AND :last GROUP BY ledger_index, ledger_hash HAVING votes >= :least
    ORDER BY ledger_index, votes DESC"""
_DROP_VOTES = """
    DELETE FROM witness_votes
    WHERE seen_at < :before AND ledger_index NOT IN (SELECT ledger FROM witness_attempts WHERE ledger IS NOT NULL)"""
_RECORDED = """
    INSERT INTO witness_recordings (url, since, until) VALUES (:url, :since, :until)
    ON CONFLICT (url, since) DO UPDATE SET until = :until"""
_RECORDINGS = "SELECT url, since, until FROM witness_recordings ORDER BY url, since"
_DROP_RECORDINGS = "DELETE FROM witness_recordings WHERE until < :before"
_ADD_LIST = """
    INSERT INTO witness_lists (digest, publisher, sequence, document, seen_at)
    VALUES (:digest, :publisher, :sequence, :document, :seen_at) ON CONFLICT DO NOTHING"""
_LISTS = "SELECT document FROM witness_lists ORDER BY publisher, sequence DESC, seen_at DESC"
_ADD_MANIFEST = """
    INSERT INTO witness_manifests (digest, master, sequence, data, seen_at)
    VALUES (:digest, :master, :sequence, :data, :seen_at) ON CONFLICT DO NOTHING"""
_MANIFESTS = "SELECT data FROM witness_manifests ORDER BY master, sequence"
_LEDGER_HASH = "SELECT ledger_hash FROM witness_attempts WHERE hash = :tx_hash AND ledger = :ledger_index"
_ADD_PROOF = """
    INSERT INTO witness_proofs (digest, tx_hash, ledger_index, level, document, created_at)
    VALUES (:digest, :tx_hash, :ledger_index, :level, :document, :created_at) ON CONFLICT DO NOTHING"""
_PROOF = "digest, tx_hash, ledger_index, level, document, created_at"
_BY_DIGEST = f"SELECT {_PROOF} FROM witness_proofs WHERE digest = :digest"
_BY_TRANSACTION = f"SELECT {_PROOF} FROM witness_proofs WHERE tx_hash = :tx_hash ORDER BY rowid"


@dataclass(frozen=True, slots=True)
class VoteCount:
    """How many votes for a ledger were recorded."""

    ledger_index: int
    ledger_hash: str
    votes: int


@dataclass(frozen=True, slots=True)
class Recording:
    """A stretch of time (seconds since 1970) in which a stream was listened to; what lies between two is a gap."""

    url: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class StoredProof:
    """A proof, as JSON data, and the level that it was seen to reach when it was made."""

    digest: str
    tx_hash: str
    ledger_index: int
    level: str
    document: dict[str, Any]
    created_at: str


class ProofStore:
    """Rows in, rows out. Every method is one transaction, or a part of the caller's; raises StoreError when the database cannot.

    Times are seconds since 1970, hashes capital hex digits.
    """

    def __init__(self, storage: AttestationStorage) -> None:
        self._database: Database = storage.database

    # -- votes ----------------------------------------------------------------------------------------------------------------

    def add_votes(self, votes: Iterable[tuple[Validation, bytes]], *, url: str, since: float, now: float) -> None:
        """Keep votes with their bytes, and note that the stream `url`, connected `since`, was heard `now`."""
        rows = [
            {
                "ledger_index": vote.ledger_index,
                "ledger_hash": vote.ledger_hash.hex().upper(),
                "signing_key": vote.signing,
                "data": data,
                "seen_at": now,
            }
            for vote, data in votes
        ]
        with self._database.transaction() as connection:
            connection.executemany(_ADD_VOTE, rows)
            connection.execute(_RECORDED, {"url": url, "since": since, "until": now})

    def votes(self, ledger_index: int, ledger_hash: str) -> list[bytes]:
        """The recorded votes for a ledger."""
        return [row["data"] for row in self._rows(_VOTES, {"ledger_index": ledger_index, "ledger_hash": ledger_hash})]

    def counts(self, first: int, last: int, *, least: int) -> list[VoteCount]:
        """The ledgers from `first` to `last` for which at least so many votes were recorded, in order."""
        return [VoteCount(**row) for row in self._rows(_COUNTS, {"first": first, "last": last, "least": least})]

    def drop_votes(self, before: float) -> int:
        """Forget the votes that were seen before a time, but for ledgers with a transaction of ours; how many."""
        with self._database.transaction() as connection:
            connection.execute(_DROP_RECORDINGS, {"before": before})
            return connection.execute(_DROP_VOTES, {"before": before}).rowcount

    def recordings(self) -> list[Recording]:
        """When which stream was listened to."""
        return [Recording(**row) for row in self._rows(_RECORDINGS, {})]

    # -- lists and manifests --------------------------------------------------------------------------------------------------

    def add_list(self, published: PublishedList, checked: ValidatorList, *, now: float) -> None:
        """Keep a list whose signatures were checked."""
        document = published.to_dict()
        row = {"publisher": checked.publisher, "sequence": checked.sequence, "document": canonical_json(document), "seen_at": now}
        self._write(_ADD_LIST, {**row, "digest": prefixed(content_digest(document))})

    def lists(self) -> list[PublishedList]:
        """All lists, each publisher's newest first."""
        return [PublishedList.from_dict(json.loads(row["document"])) for row in self._rows(_LISTS, {})]

    def add_manifest(self, manifest: Manifest, data: bytes, *, now: float) -> None:
        """Keep a validator's manifest whose signatures were checked, with its bytes."""
        row = {"master": manifest.master, "sequence": manifest.sequence, "data": data, "seen_at": now}
        self._write(_ADD_MANIFEST, {**row, "digest": prefixed(sha256_digest(data))})

    def manifests(self) -> list[bytes]:
        """All manifests, each validator's newest last."""
        return [row["data"] for row in self._rows(_MANIFESTS, {})]

    # -- proofs ---------------------------------------------------------------------------------------------------------------

    def add_proof(self, proof: LedgerProof, tx_hash: str, level: str, created_at: str) -> str:
        """Keep a proof; gives its prefixed digest."""
        document, digest = proof.to_dict(), proof.digest()
        row = {"digest": digest, "tx_hash": tx_hash, "ledger_index": proof.header.index, "level": level, "created_at": created_at}
        self._write(_ADD_PROOF, {**row, "document": canonical_json(document)})
        return digest

    def proof(self, digest: str) -> StoredProof | None:
        """The proof with this prefixed digest."""
        found = self._proofs(_BY_DIGEST, {"digest": digest})
        return found[0] if found else None

    def proofs_of(self, tx_hash: str) -> Sequence[StoredProof]:
        """All proofs of a transaction, oldest first."""
        return self._proofs(_BY_TRANSACTION, {"tx_hash": tx_hash})

    def ledger_hash(self, tx_hash: str, ledger_index: int) -> str | None:
        """The ledger in which servers agreed that a transaction of a batch is; None when they did not, or when it is of no batch."""
        rows = self._rows(_LEDGER_HASH, {"tx_hash": tx_hash, "ledger_index": ledger_index})
        return rows[0]["ledger_hash"] if rows else None

    def _proofs(self, query: str, key: dict[str, Any]) -> list[StoredProof]:
        return [StoredProof(**{**row, "document": json.loads(row["document"])}) for row in self._rows(query, key)]

    def _write(self, statement: str, row: dict[str, Any]) -> None:
        with self._database.transaction() as connection:
            connection.execute(statement, row)

    def _rows(self, query: str, key: dict[str, Any]) -> list[dict[str, Any]]:
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query, key)]
