"""The tables of witnessing in batches, in the file of the queue: which intents are in which batch, its place on the account, its attempts.

What must never happen is refused by the schema: an intent in two batches that can still be witnessed, two transactions of one account
with the same Sequence unless one was refused, two attempts of a batch alive at once, a slot that is closed while one is, a final state
that is left, an attempt that changes its bytes or disappears.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nexus_attest.attestation.batch_tree import BatchTree
from nexus_attest.attestation.storage import AttestationStorage
from nexus_control.backend import insert
from nexus_control.database import Database

__all__ = ["Attempt", "AttemptState", "Batch", "Member", "Slot", "SlotState", "SubmissionStore"]


class SlotState(StrEnum):
    """Where a batch stands on its account."""

    OPEN = "OPEN"
    """A transaction may be under way."""

    CONFIRMED = "CONFIRMED"
    """Our bytes are validated with tesSUCCESS: the members are witnessed."""

    CLAIMED_FEE = "CLAIMED_FEE"
    """Our bytes are validated with another result: the fee and the Sequence are gone, nothing is witnessed."""

    SEQUENCE_TAKEN = "SEQUENCE_TAKEN"
    """Somebody else used the account; all our attempts are dead."""

    REJECTED = "REJECTED"
    """The ledger refuses the transaction, or its Sequence is not next; all our attempts are dead, the Sequence is not used."""


class AttemptState(StrEnum):
    """What is known of one signed transaction."""

    PREPARED = "PREPARED"
    """Stored; never handed to a server as far as is known."""

    MAYBE = "MAYBE"
    """Handed to a server; it may be on the ledger by now."""

    REFUSED = "REFUSED"
    """A server says that it can never apply; believed once it has expired."""

    VALIDATED = "VALIDATED"
    EXPIRED = "EXPIRED"
    """Can never apply any more."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Intents under one root. `settled`: its receipts are written."""

    batch_id: int
    account: str
    root: str
    size: int
    created_at: str
    settled: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """The Sequence that a batch uses for all its attempts. `closed_at` is when the state became final."""

    batch_id: int
    account: str
    seq: int
    state: SlotState
    closed_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A signed transaction: `blob` in hex; it can only be in the ledgers from `first` to `lls`."""

    hash: str
    batch_id: int
    n: int
    blob: str
    seq: int
    lls: int
    first: int
    key_id: str
    state: AttemptState = AttemptState.PREPARED
    result: str | None = None
    ledger: int | None = None
    ledger_hash: str | None = None
    close_time: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """An intent in a batch; `attempt` is the number that its receipt will have."""

    intent_digest: str
    leaf_index: int
    attempt: int


_WAITING = """
    FROM attestation_intents AS i
    WHERE i.status IN ('PENDING', 'DEFERRED')
      AND NOT EXISTS (SELECT 1 FROM witness_members AS m WHERE m.intent_digest = i.intent_digest AND m.active = 1)
      AND NOT EXISTS (SELECT 1 FROM attestation_claims AS c WHERE c.queue_id = i.queue_id AND c.until > :now AND c.until <= :now + 7200)
      AND NOT EXISTS (SELECT 1 FROM attestation_sendings AS t WHERE t.queue_id = i.queue_id)
      AND NOT EXISTS (SELECT 1 FROM attestation_unanswered AS t WHERE t.queue_id = i.queue_id)
      AND NOT EXISTS (
        SELECT 1 FROM attestation_receipts AS r
        WHERE r.intent_digest = i.intent_digest AND json_extract(r.receipt_json, '$.proof.tx_hash') IS NOT NULL
          AND json_extract(r.receipt_json, '$.proof.type') IS NULL)"""
"""Intents that no batch and no worker is at, and of which no transaction of their own may be on the ledger."""

_SELECT_WAITING = f"SELECT i.intent_digest, i.last_attempt, i.created_at {_WAITING} ORDER BY i.created_at, i.intent_digest LIMIT :limit"
_COUNT_WAITING = f"SELECT COUNT(*) {_WAITING}"

_BATCH = "b.batch_id, b.account, b.root, b.size, b.created_at, b.settled"
_INSERT_BATCH = """
    INSERT INTO witness_batches (account, root, size, created_at) VALUES (:account, :root, :size, :created_at) RETURNING batch_id"""
_INSERT_MEMBER = """
    INSERT INTO witness_members (batch_id, leaf_index, intent_digest, attempt) VALUES (:batch_id, :leaf_index, :intent_digest, :attempt)"""
_SELECT_BATCH = f"SELECT {_BATCH} FROM witness_batches AS b WHERE b.batch_id = :batch_id"
_SELECT_UNSETTLED = f"SELECT {_BATCH} FROM witness_batches AS b WHERE b.account = :account AND NOT b.settled ORDER BY b.batch_id"
_SELECT_MEMBERS = "SELECT intent_digest, leaf_index, attempt FROM witness_members WHERE batch_id = :batch_id ORDER BY leaf_index"
_SELECT_ACTIVE = """
    SELECT leaf_index FROM witness_members
    WHERE batch_id = :batch_id AND leaf_index >= :start AND leaf_index < :end AND active = 1"""
_SELECT_RECEIPTED = """
    SELECT m.leaf_index FROM witness_members AS m
    WHERE m.batch_id = :batch_id AND m.leaf_index >= :start AND m.leaf_index < :end AND EXISTS (
      SELECT 1 FROM attestation_receipts AS r
      WHERE r.intent_digest = m.intent_digest AND r.attempt = m.attempt AND r.backend = :backend AND r.status = 'CONFIRMED')"""
_RELEASE = "UPDATE witness_members SET active = 0 WHERE batch_id = :batch_id AND leaf_index >= :start AND leaf_index < :end"
_SETTLE = "UPDATE witness_batches SET settled = 1 WHERE batch_id = :batch_id"

_SLOT = "batch_id, account, seq, state, closed_at"
_SELECT_SLOT = f"SELECT {_SLOT} FROM witness_slots WHERE batch_id = :batch_id"
_INSERT_SLOT = "INSERT INTO witness_slots (batch_id, account, seq) VALUES (:batch_id, :account, :seq)"
_CLOSE_SLOT = "UPDATE witness_slots SET state = :state, closed_at = :closed_at WHERE batch_id = :batch_id AND state = 'OPEN'"
_HELD = "SELECT seq FROM witness_slots WHERE account = :account AND seq >= :seq AND state <> 'REJECTED' ORDER BY seq"

_ATTEMPT = "hash, batch_id, n, blob, seq, lls, first, key_id, state, result, ledger, ledger_hash, close_time, note"
_INSERT_ATTEMPT = """
    INSERT INTO witness_attempts (hash, batch_id, n, blob, seq, lls, first, key_id)
    VALUES (:hash, :batch_id, :n, :blob, :seq, :lls, :first, :key_id)"""
_SELECT_ATTEMPTS = f"SELECT {_ATTEMPT} FROM witness_attempts WHERE batch_id = :batch_id ORDER BY n"
_LIVE = "('PREPARED', 'MAYBE', 'REFUSED')"
_MARK = f"UPDATE witness_attempts SET state = :state, note = :note WHERE hash = :hash AND state IN {_LIVE}"
_NOTE = "UPDATE witness_attempts SET note = :note WHERE hash = :hash AND state IN ('PREPARED', 'MAYBE')"
_FINISH = f"""
    UPDATE witness_attempts
    SET state = :state, result = :result, ledger = :ledger, ledger_hash = :ledger_hash, close_time = :close_time
    WHERE hash = :hash AND state IN {_LIVE}"""

_LEASE = """
    INSERT INTO witness_lanes (account, network_id, owner, until) VALUES (:account, :network_id, :owner, :until)
    ON CONFLICT (account) DO UPDATE SET owner = :owner, until = :until
    WHERE owner = :owner OR until <= :now OR until > :now + 7200"""
"""A lease is for an hour at the most (`BatchSettings`): one that seems to be for twice as long was taken before the clock was set back."""
_END_LEASE = "UPDATE witness_lanes SET until = 0 WHERE account = :account AND owner = :owner"
_SELECT_LANES = "SELECT account, network_id FROM witness_lanes ORDER BY account"
_SELECT_MEMBERSHIP = "SELECT batch_id FROM witness_members WHERE intent_digest = :intent_digest ORDER BY batch_id DESC LIMIT 1"
_NETWORK = "SELECT network_id FROM witness_lanes WHERE account = :account"
_COUNT_BATCHES = """
    SELECT COALESCE(s.state, 'NEW') AS state, COUNT(*) AS batches, SUM(b.size) AS members
    FROM witness_batches AS b LEFT JOIN witness_slots AS s USING (batch_id) WHERE b.account = :account GROUP BY 1"""


class SubmissionStore:
    """Rows in, rows out. Every method is one transaction, or a part of the caller's; raises StoreError when the database cannot."""

    def __init__(self, storage: AttestationStorage) -> None:
        self._database: Database = storage.database

    def transaction(self) -> AbstractContextManager[Any]:
        """All or nothing."""
        return self._database.transaction()

    # -- lanes ----------------------------------------------------------------------------------------------------------------

    def lease(self, account: str, network_id: int, owner: str, *, now: float, until: float) -> bool:
        """Take or keep the account for one worker; False when another has it. Times are seconds since 1970."""
        row = {"account": account, "network_id": network_id, "owner": owner, "now": now, "until": until}
        return self._write(_LEASE, row) == 1

    def end_lease(self, account: str, owner: str) -> None:
        """Give the account up."""
        self._write(_END_LEASE, {"account": account, "owner": owner})

    def network_id(self, account: str) -> int | None:
        """The network that the account was first used on; None when it was not."""
        rows = self._rows(_NETWORK, {"account": account})
        return rows[0]["network_id"] if rows else None

    def lanes(self) -> list[dict[str, Any]]:
        """Every account that was used: `account`, `network_id`."""
        return self._rows(_SELECT_LANES, {})

    # -- batches --------------------------------------------------------------------------------------------------------------

    def waiting(self, limit: int, *, now: float) -> list[dict[str, Any]]:
        """Intents that wait for a batch, oldest first: `intent_digest`, `last_attempt`, `created_at`."""
        return self._rows(_SELECT_WAITING, {"limit": limit, "now": now})

    def count_waiting(self, *, now: float) -> int:
        """How many intents wait for a batch."""
        return self._rows(_COUNT_WAITING.replace("COUNT(*)", "COUNT(*) AS n"), {"now": now})[0]["n"]

    def add_batch(self, account: str, rows: Sequence[dict[str, Any]], created_at: str) -> Batch:
        """Make a batch of rows that `waiting` gave in the same transaction."""
        tree = BatchTree(row["intent_digest"] for row in rows)
        attempts = {row["intent_digest"]: row["last_attempt"] + 1 for row in rows}
        root = tree.statement.root.hex()
        with self._database.transaction() as connection:
            made = {"account": account, "root": root, "size": len(tree.members), "created_at": created_at}
            (batch_id,) = connection.execute(_INSERT_BATCH, made).fetchone()
            members = [
                {"batch_id": batch_id, "leaf_index": index, "intent_digest": digest, "attempt": attempts[digest]}
                for index, digest in enumerate(tree.members)
            ]
            insert(connection, _INSERT_MEMBER, members)
        return Batch(batch_id, account, root, len(tree.members), created_at, settled=False)

    def batch(self, batch_id: int) -> Batch | None:
        """One batch."""
        rows = self._rows(_SELECT_BATCH, {"batch_id": batch_id})
        return _batch(rows[0]) if rows else None

    def batch_of(self, intent_digest: str) -> int | None:
        """The newest batch that an intent (prefixed digest) is or was in; None when there is none."""
        rows = self._rows(_SELECT_MEMBERSHIP, {"intent_digest": intent_digest})
        return rows[0]["batch_id"] if rows else None

    def unsettled(self, account: str) -> list[Batch]:
        """The batches whose receipts are not all written, oldest first."""
        return [_batch(row) for row in self._rows(_SELECT_UNSETTLED, {"account": account})]

    def members(self, batch_id: int) -> list[Member]:
        """The members of a batch by their place in its tree."""
        return [Member(**row) for row in self._rows(_SELECT_MEMBERS, {"batch_id": batch_id})]

    def active(self, batch_id: int, start: int, end: int) -> set[int]:
        """The places of those members that are in no other batch, nor wait for one."""
        return {row["leaf_index"] for row in self._rows(_SELECT_ACTIVE, {"batch_id": batch_id, "start": start, "end": end})}

    def receipted(self, batch_id: int, start: int, end: int, backend: str) -> set[int]:
        """The places of those members that have a CONFIRMED receipt of a backend for the attempt that they are in the batch with."""
        key = {"batch_id": batch_id, "start": start, "end": end, "backend": backend}
        return {row["leaf_index"] for row in self._rows(_SELECT_RECEIPTED, key)}

    def release(self, batch_id: int, start: int, end: int) -> None:
        """Let members of a batch that was not witnessed go into another one."""
        self._write(_RELEASE, {"batch_id": batch_id, "start": start, "end": end})

    def settle(self, batch_id: int) -> None:
        """Note that all receipts are written."""
        self._write(_SETTLE, {"batch_id": batch_id})

    def counts(self, account: str) -> dict[str, tuple[int, int]]:
        """Batches and their members by the state of the slot, `NEW` for those without one."""
        return {row["state"]: (row["batches"], row["members"]) for row in self._rows(_COUNT_BATCHES, {"account": account})}

    # -- slots and attempts ---------------------------------------------------------------------------------------------------

    def slot(self, batch_id: int) -> Slot | None:
        """The place of a batch on its account; None when nothing was signed for it yet."""
        rows = self._rows(_SELECT_SLOT, {"batch_id": batch_id})
        if not rows:
            return None
        told: dict[str, Any] = {**rows[0], "state": SlotState(rows[0]["state"])}
        return Slot(**told)

    def next_free(self, account: str, sequence: int) -> int:
        """The smallest number from the account's validated `sequence` on that no slot holds.

        Not the one after the largest: after a refused batch every later transaction would wait for the gap to be filled.
        """
        for row in self._rows(_HELD, {"account": account, "seq": sequence}):
            if row["seq"] != sequence:
                break
            sequence += 1
        return sequence

    def attempts(self, batch_id: int) -> list[Attempt]:
        """All attempts of a batch, oldest first."""
        rows = self._rows(_SELECT_ATTEMPTS, {"batch_id": batch_id})
        told: list[dict[str, Any]] = [{**row, "state": AttemptState(row["state"])} for row in rows]
        return [Attempt(**row) for row in told]

    def prepare(self, attempt: Attempt, account: str) -> bool:
        """Store a signed transaction, in one commit with the end of the one before. False, and nothing changes, when it came too late.

        It does when meanwhile another worker did the same, or closed the slot.
        """
        with self._database.transaction() as connection:
            slot, earlier = self.slot(attempt.batch_id), self.attempts(attempt.batch_id)
            if len(earlier) + 1 != attempt.n or (slot is None) != (attempt.n == 1):
                return False
            if slot is None:
                if self.next_free(account, attempt.seq) != attempt.seq:
                    return False
                insert(connection, _INSERT_SLOT, [{"batch_id": attempt.batch_id, "account": account, "seq": attempt.seq}])
            elif slot.state is not SlotState.OPEN or slot.seq != attempt.seq:
                return False
            else:
                self._finish_attempt(earlier[-1].hash, AttemptState.EXPIRED)
            names = ("hash", "batch_id", "n", "blob", "seq", "lls", "first", "key_id")
            insert(connection, _INSERT_ATTEMPT, [{name: getattr(attempt, name) for name in names}])
        return True

    def mark(self, tx_hash: str, state: AttemptState, note: str) -> None:
        """Note what a server said; nothing when the attempt is final."""
        self._write(_MARK, {"hash": tx_hash, "state": state, "note": note})

    def note(self, tx_hash: str, note: str) -> None:
        """Note what is lacking; nothing when the attempt is refused, whose note is why, or final."""
        self._write(_NOTE, {"hash": tx_hash, "note": note})

    def finish(
        self,
        batch_id: int,
        tx_hash: str,
        state: AttemptState,
        slot: SlotState,
        closed_at: str,
        *,
        result: str | None = None,
        ledger: int | None = None,
        ledger_hash: str | None = None,
        close_time: str | None = None,
    ) -> None:
        """End an attempt and its slot together; nothing when the attempt is final.

        It is when another worker ended it while this one still asked servers about it: then what was learned of it says nothing of the
        attempt that is alive now, and the slot is that one's.
        """
        with self._database.transaction() as connection:
            if self._finish_attempt(tx_hash, state, result=result, ledger=ledger, ledger_hash=ledger_hash, close_time=close_time):
                connection.execute(_CLOSE_SLOT, {"batch_id": batch_id, "state": slot, "closed_at": closed_at})

    def _finish_attempt(
        self,
        tx_hash: str,
        state: AttemptState,
        *,
        result: str | None = None,
        ledger: int | None = None,
        ledger_hash: str | None = None,
        close_time: str | None = None,
    ) -> bool:
        """False, and nothing changes, when it is final."""
        told = {"result": result, "ledger": ledger, "ledger_hash": ledger_hash, "close_time": close_time}
        return self._write(_FINISH, {"hash": tx_hash, "state": state, **told}) == 1

    def _write(self, statement: str, row: dict[str, Any]) -> int:
        with self._database.transaction() as connection:
            return connection.execute(statement, row).rowcount

    def _rows(self, query: str, key: dict[str, Any]) -> list[dict[str, Any]]:
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query, key)]


def _batch(row: dict[str, Any]) -> Batch:
    told: dict[str, Any] = {**row, "settled": bool(row["settled"])}
    return Batch(**told)
