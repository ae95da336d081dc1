"""The tables of the attestation queue. Rows in, rows out: what they mean is decided in `queue`.

They may share a file with decisions and runs: each keeps its own part of the schema version.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nexus_control.database import Database
from nexus_control.errors import InputError
from nexus_control.migration import Schema

__all__ = ["AttestationStorage"]

_SCHEMA = Schema(
    "attestation",
    slot=1,
    migrations=(
        (
            """
            CREATE TABLE IF NOT EXISTS attestation_intents (
                queue_id        TEXT    NOT NULL PRIMARY KEY,
                intent_digest   TEXT    NOT NULL UNIQUE,
                intent_json     TEXT    NOT NULL,
                created_at      TEXT    NOT NULL,
                status          TEXT    NOT NULL DEFAULT 'PENDING',
                last_attempt    INTEGER NOT NULL DEFAULT 0,
                last_error_code TEXT,
                updated_at      TEXT    NOT NULL
            ) STRICT
            """,
            "CREATE INDEX IF NOT EXISTS attestation_intents_by_status ON attestation_intents (status)",
            "CREATE INDEX IF NOT EXISTS attestation_intents_by_age ON attestation_intents (created_at, intent_digest)",
            # Not WITHOUT ROWID: the hidden row number is the order of insertion.
            """
            CREATE TABLE IF NOT EXISTS attestation_receipts (
                receipt_digest TEXT    NOT NULL PRIMARY KEY,
                intent_digest  TEXT    NOT NULL,
                attempt        INTEGER NOT NULL,
                created_at     TEXT    NOT NULL,
                backend        TEXT    NOT NULL,
                status         TEXT    NOT NULL,
                receipt_json   TEXT    NOT NULL
            ) STRICT
            """,
            "CREATE INDEX IF NOT EXISTS attestation_receipts_by_attempt ON attestation_receipts (intent_digest, attempt)",
            # Who is at work on an intent, and until when nobody else may be; a number of seconds since 1970.
            """
            CREATE TABLE IF NOT EXISTS attestation_claims (
                queue_id TEXT NOT NULL PRIMARY KEY,
                owner    TEXT NOT NULL,
                until    REAL NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
        ),
        (
            # Witnessing in batches. Each table refuses what must never happen: `nexus_attest.attestation.xrpl.submission_store`.
            """
            CREATE TABLE IF NOT EXISTS witness_lanes (
                account    TEXT    NOT NULL PRIMARY KEY,
                network_id INTEGER NOT NULL,
                owner      TEXT    NOT NULL,
                until      REAL    NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE IF NOT EXISTS witness_batches (
                batch_id   INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
                account    TEXT    NOT NULL,
                root       TEXT    NOT NULL,
                size       INTEGER NOT NULL,
                created_at TEXT    NOT NULL,
                settled    INTEGER NOT NULL DEFAULT 0
            ) STRICT
            """,
            "CREATE INDEX IF NOT EXISTS witness_batches_unsettled ON witness_batches (account, batch_id) WHERE NOT settled",
            """
            CREATE TABLE IF NOT EXISTS witness_members (
                batch_id      INTEGER NOT NULL REFERENCES witness_batches,
                leaf_index    INTEGER NOT NULL,
                intent_digest TEXT    NOT NULL REFERENCES attestation_intents (intent_digest),
                attempt       INTEGER NOT NULL,
                active        INTEGER NOT NULL DEFAULT 1,
                PRIMARY KEY (batch_id, leaf_index)
            ) STRICT, WITHOUT ROWID
            """,
            "CREATE UNIQUE INDEX IF NOT EXISTS witness_members_once ON witness_members (intent_digest) WHERE active = 1",
            """
            CREATE TABLE IF NOT EXISTS witness_slots (
                batch_id  INTEGER NOT NULL PRIMARY KEY REFERENCES witness_batches,
                account   TEXT    NOT NULL,
                seq       INTEGER NOT NULL,
                state     TEXT    NOT NULL DEFAULT 'OPEN'
                          CHECK (state IN ('OPEN', 'CONFIRMED', 'CLAIMED_FEE', 'SEQUENCE_TAKEN', 'REJECTED')),
                closed_at TEXT
            ) STRICT
            """,
            "CREATE UNIQUE INDEX IF NOT EXISTS witness_slots_once ON witness_slots (account, seq) WHERE state <> 'REJECTED'",
            """
            CREATE TABLE IF NOT EXISTS witness_attempts (
                hash        TEXT    NOT NULL PRIMARY KEY,
                batch_id    INTEGER NOT NULL REFERENCES witness_slots,
                n           INTEGER NOT NULL,
                blob        TEXT    NOT NULL,
                seq         INTEGER NOT NULL,
                lls         INTEGER NOT NULL,
                first       INTEGER NOT NULL,
                key_id      TEXT    NOT NULL,
                state       TEXT    NOT NULL DEFAULT 'PREPARED'
                            CHECK (state IN ('PREPARED', 'MAYBE', 'REFUSED', 'VALIDATED', 'EXPIRED')),
                result      TEXT,
                ledger      INTEGER,
                ledger_hash TEXT,
                close_time  TEXT,
                note        TEXT,
                UNIQUE (batch_id, n)
            ) STRICT
            """,
            """
            CREATE UNIQUE INDEX IF NOT EXISTS witness_attempts_one_alive ON witness_attempts (batch_id)
            WHERE state IN ('PREPARED', 'MAYBE', 'REFUSED')
            """,
            *(
                f"""
                CREATE TRIGGER IF NOT EXISTS {table}_{name} BEFORE {event} ON {table}{condition}
                BEGIN SELECT RAISE(ABORT, '{message}'); END
                """
                for table, name, event, condition, message in (
                    ("attestation_receipts", "kept", "DELETE", "", "receipts are only ever added"),
                    ("attestation_receipts", "fixed", "UPDATE", "", "receipts are only ever added"),
                    ("witness_slots", "kept", "DELETE", "", "a slot is never removed"),
                    ("witness_slots", "final", "UPDATE", " WHEN old.state <> 'OPEN'", "a final state is never left"),
                    ("witness_attempts", "kept", "DELETE", "", "an attempt is never removed"),
                    ("witness_attempts", "final", "UPDATE", " WHEN old.state IN ('VALIDATED', 'EXPIRED')", "a final state is never left"),
                    (
                        "witness_attempts",
                        "fixed",
                        "UPDATE OF hash, batch_id, n, blob, seq, lls, first, key_id",
                        "",
                        "what was signed stays",
                    ),
                )
            ),
        ),
        (
            # What witnesses that answer at once gave for a batch: `nexus_attest.attestation.stamping`.
            """
            CREATE TABLE IF NOT EXISTS witness_stamps (
                batch_id   INTEGER NOT NULL REFERENCES witness_batches,
                lane       TEXT    NOT NULL,
                n          INTEGER NOT NULL,
                digest     TEXT    NOT NULL,
                evidence   BLOB    NOT NULL,
                created_at TEXT    NOT NULL,
                settled    INTEGER NOT NULL DEFAULT 0,
                PRIMARY KEY (lane, n),
                UNIQUE (batch_id, lane)
            ) STRICT
            """,
            "CREATE INDEX IF NOT EXISTS witness_stamps_by_digest ON witness_stamps (digest)",
            """
            CREATE TRIGGER IF NOT EXISTS witness_stamps_kept BEFORE DELETE ON witness_stamps
            BEGIN SELECT RAISE(ABORT, 'a stamp is never removed'); END
            """,
            """
            CREATE TRIGGER IF NOT EXISTS witness_stamps_fixed
            BEFORE UPDATE OF batch_id, lane, n, digest, evidence, created_at ON witness_stamps
            BEGIN SELECT RAISE(ABORT, 'a stamp stays as it is'); END
            """,
        ),
        (
            # What proofs of ledger transactions are made of, and the proofs: `nexus_attest.attestation.xrpl.proof_store`.
            """
            CREATE TABLE IF NOT EXISTS witness_votes (
                ledger_index INTEGER NOT NULL,
                ledger_hash  TEXT    NOT NULL,
                signing_key  TEXT    NOT NULL,
                data         BLOB    NOT NULL,
                seen_at      REAL    NOT NULL,
                PRIMARY KEY (ledger_index, ledger_hash, signing_key)
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE IF NOT EXISTS witness_recordings (
                url   TEXT NOT NULL,
                since REAL NOT NULL,
                until REAL NOT NULL,
                PRIMARY KEY (url, since)
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE IF NOT EXISTS witness_lists (
                digest    TEXT    NOT NULL PRIMARY KEY,
                publisher TEXT    NOT NULL,
                sequence  INTEGER NOT NULL,
                document  TEXT    NOT NULL,
                seen_at   REAL    NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE IF NOT EXISTS witness_manifests (
                digest   TEXT    NOT NULL PRIMARY KEY,
                master   TEXT    NOT NULL,
                sequence INTEGER NOT NULL,
                data     BLOB    NOT NULL,
                seen_at  REAL    NOT NULL
            ) STRICT
            """,
            """
            CREATE TABLE IF NOT EXISTS witness_proofs (
                digest       TEXT    NOT NULL PRIMARY KEY,
                tx_hash      TEXT    NOT NULL,
                ledger_index INTEGER NOT NULL,
                level        TEXT    NOT NULL,
                document     TEXT    NOT NULL,
                created_at   TEXT    NOT NULL
            ) STRICT
            """,
            "CREATE INDEX IF NOT EXISTS witness_proofs_by_transaction ON witness_proofs (tx_hash)",
            *(
                f"""
                CREATE TRIGGER IF NOT EXISTS witness_proofs_{name} BEFORE {event} ON witness_proofs
                BEGIN SELECT RAISE(ABORT, 'proofs are only ever added'); END
                """
                for name, event in (("kept", "DELETE"), ("fixed", "UPDATE"))
            ),
        ),
        (
            # Which transaction of its own an intent is about to be sent with, until a receipt says what came of it: `worker`.
            """
            CREATE TABLE IF NOT EXISTS attestation_sendings (
                queue_id TEXT NOT NULL PRIMARY KEY,
                tx_hash  TEXT NOT NULL,
                key_id   TEXT
            ) STRICT, WITHOUT ROWID
            """,
        ),
        (
            # INSERT OR REPLACE deletes the row in its way without firing delete triggers. What may come twice is passed over.
            # Before an INSERT that names no row number NEW.rowid is -1; a row that has just that one must not stand in every row's way.
            *(
                f"""
                CREATE TRIGGER IF NOT EXISTS {table}_stays BEFORE INSERT ON {table}
                WHEN EXISTS (SELECT 1 FROM {table} AS t WHERE NEW.rowid <> -1 AND t.rowid = NEW.rowid OR {same})
                BEGIN SELECT {refusal}; END
                """
                for table, same, refusal in (
                    ("attestation_receipts", "t.receipt_digest = NEW.receipt_digest", "RAISE(IGNORE)"),
                    ("witness_proofs", "t.digest = NEW.digest", "RAISE(IGNORE)"),
                    (
                        "witness_stamps",
                        "t.batch_id = NEW.batch_id AND t.lane = NEW.lane OR t.lane = NEW.lane AND t.n = NEW.n",
                        "RAISE(IGNORE)",
                    ),
                    (
                        "witness_slots",
                        "t.account = NEW.account AND t.seq = NEW.seq AND t.state <> 'REJECTED' AND NEW.state <> 'REJECTED'",
                        "RAISE(ABORT, 'a slot is never replaced')",
                    ),
                    (
                        "witness_attempts",
                        "t.hash = NEW.hash OR t.batch_id = NEW.batch_id AND (t.n = NEW.n OR t.state IN ('PREPARED', 'MAYBE', 'REFUSED'))",
                        "RAISE(ABORT, 'an attempt is never replaced')",
                    ),
                )
            ),
        ),
        (
            # What is not decided yet, in the order of its turns and in that of its age: a look at the first few is a look at no others.
            """
            CREATE INDEX IF NOT EXISTS attestation_intents_by_turn ON attestation_intents (updated_at, intent_digest)
            WHERE status NOT IN ('CONFIRMED', 'FAILED')
            """,
            """
            CREATE INDEX IF NOT EXISTS attestation_intents_waiting ON attestation_intents (created_at, intent_digest)
            WHERE status NOT IN ('CONFIRMED', 'FAILED', 'SUBMITTED')
            """,
        ),
        (
            # A closed slot lets its members into another batch, which is one witness too many where a transaction of it still gets through.
            """
            CREATE TRIGGER IF NOT EXISTS witness_slots_dead BEFORE UPDATE OF state ON witness_slots
            WHEN NEW.state <> 'OPEN' AND EXISTS (
              SELECT 1 FROM witness_attempts AS a WHERE a.batch_id = NEW.batch_id AND a.state IN ('PREPARED', 'MAYBE', 'REFUSED'))
            BEGIN SELECT RAISE(ABORT, 'a slot is not closed while an attempt is alive'); END
            """,
        ),
        (
            # Transactions that an intent was sent with on its own and that no server has answered for: any of them may be on the ledger.
            """
            CREATE TABLE IF NOT EXISTS attestation_unanswered (
                queue_id TEXT NOT NULL,
                tx_hash  TEXT NOT NULL,
                key_id   TEXT,
                PRIMARY KEY (queue_id, tx_hash)
            ) STRICT, WITHOUT ROWID
            """,
        ),
    ),
)

_INTENT = "queue_id, intent_digest, intent_json, created_at, status, last_attempt, last_error_code, updated_at"
_RECEIPT = "receipt_digest, intent_digest, attempt, created_at, backend, status, receipt_json"
_INSERT_INTENT = """
    INSERT INTO attestation_intents (queue_id, intent_digest, intent_json, created_at, updated_at)
    VALUES (:queue_id, :intent_digest, :intent_json, :created_at, :created_at) ON CONFLICT DO NOTHING"""
_INSERT_RECEIPT = f"""
    INSERT INTO attestation_receipts ({_RECEIPT})
    VALUES (:receipt_digest, :intent_digest, :attempt, :created_at, :backend, :status, :receipt_json) ON CONFLICT DO NOTHING"""
_UPDATE_INTENT = """
    UPDATE attestation_intents
    SET status = :status, last_attempt = :last_attempt, updated_at = :updated_at, last_error_code = :last_error_code
    WHERE queue_id = :queue_id"""
_CLAIM = """
    INSERT INTO attestation_claims (queue_id, owner, until)
    SELECT :queue_id, :owner, :until WHERE NOT EXISTS (SELECT 1 FROM witness_members WHERE intent_digest = :queue_id AND active = 1)
    ON CONFLICT (queue_id) DO UPDATE SET owner = :owner, until = :until WHERE until <= :now OR until > :now + 7200"""
"""A claim is for five minutes: one that seems to be for two hours was made before the clock was set back, and nobody lives to end it."""
_STILL_MINE = """
    FROM attestation_intents WHERE queue_id = :queue_id AND status IN ('PENDING', 'DEFERRED')
      AND EXISTS (SELECT 1 FROM attestation_claims WHERE queue_id = :queue_id AND owner = :owner)
      AND NOT EXISTS (SELECT 1 FROM witness_members WHERE intent_digest = :queue_id AND active = 1)"""
_MAY_SEND = f"SELECT 1 {_STILL_MINE} AND NOT EXISTS (SELECT 1 FROM attestation_sendings WHERE queue_id = :queue_id)"
_NOTE_SENDING = f"""
    INSERT INTO attestation_sendings (queue_id, tx_hash, key_id) SELECT queue_id, :tx_hash, :key_id {_STILL_MINE} ON CONFLICT DO NOTHING"""
_SELECT_SENDING = "SELECT tx_hash, key_id FROM attestation_sendings WHERE queue_id = :queue_id"
_FORGET_SENDING = "DELETE FROM attestation_sendings WHERE queue_id = :queue_id"
_LEAVE_UNANSWERED = """
    INSERT INTO attestation_unanswered (queue_id, tx_hash, key_id)
    SELECT queue_id, tx_hash, key_id FROM attestation_sendings WHERE queue_id = :queue_id ON CONFLICT DO NOTHING"""
_SELECT_UNANSWERED = "SELECT tx_hash, key_id FROM attestation_unanswered WHERE queue_id = :queue_id ORDER BY tx_hash"
_RELEASE = "DELETE FROM attestation_claims WHERE queue_id = :queue_id AND owner = :owner"
_SELECT_BY_ID = f"SELECT {_INTENT} FROM attestation_intents WHERE queue_id = :queue_id"
_SELECT_BY_DIGEST = f"SELECT {_INTENT} FROM attestation_intents WHERE intent_digest = :intent_digest"
_ON_ITS_OWN = """
    AND NOT EXISTS (
      SELECT 1 FROM witness_members AS m WHERE m.intent_digest = attestation_intents.intent_digest AND m.active = 1)"""
"""An intent that is in a batch is the batch's business."""
_IN_ORDER = f"{_ON_ITS_OWN} ORDER BY created_at, intent_digest LIMIT :limit"
_SELECT_PENDING = f"""
    SELECT {_INTENT} FROM attestation_intents
    WHERE status NOT IN ('CONFIRMED', 'FAILED', 'SUBMITTED') AND +status IN ('PENDING', 'DEFERRED') {_IN_ORDER}"""
"""In the words of the index that has the order; by the one of `status` all that wait would be sorted for the first of them."""
_SELECT_UNCONFIRMED = f"SELECT {_INTENT} FROM attestation_intents WHERE status = 'SUBMITTED' {_IN_ORDER}"
_IS_DUE = """
    (last_attempt <= 8 OR :now IS NULL OR COALESCE(ABS(strftime('%s', :now) - strftime('%s', updated_at)), 3600)
      >= MIN(3600, 1 << MIN(last_attempt - 8, 12)))"""
"""After so many attempts that decided nothing, each one doubles the seconds until the next, up to an hour."""
_SELECT_DUE = f"""
    SELECT {_INTENT} FROM attestation_intents
    WHERE status NOT IN ('CONFIRMED', 'FAILED') AND {_IS_DUE} AND (+status IN ('PENDING', 'DEFERRED') OR +status = 'SUBMITTED' AND (
      queue_id IN (SELECT queue_id FROM attestation_sendings) OR EXISTS (
        SELECT 1 FROM attestation_receipts AS r
        WHERE r.intent_digest = attestation_intents.intent_digest AND json_type(r.receipt_json, '$.proof.tx_hash') = 'text')))
    {_ON_ITS_OWN} ORDER BY updated_at, intent_digest LIMIT :limit"""
_SENT_ALONE = f"""
    status NOT IN ('CONFIRMED', 'FAILED') AND (
      queue_id IN (SELECT queue_id FROM attestation_sendings UNION ALL SELECT queue_id FROM attestation_unanswered)
      OR EXISTS (
        SELECT 1 FROM attestation_receipts AS r
        WHERE r.intent_digest = attestation_intents.intent_digest AND json_type(r.receipt_json, '$.proof.tx_hash') = 'text'
          AND json_extract(r.receipt_json, '$.proof.type') IS NULL))
    {_ON_ITS_OWN}"""
"""An intent that is not decided, and of which a transaction of its own may be on the ledger: whatever waits of these, no batch takes."""
_COUNT_BY_STATUS = f"""
    SELECT status, COUNT(*) AS intents, queue_id AS oldest, MIN(updated_at) AS since FROM attestation_intents
    WHERE :alone OR NOT ({_SENT_ALONE}) GROUP BY status ORDER BY status"""
"""Of one MIN, SQLite gives the other columns from the row that has it."""
_COUNT_SENT_ALONE = f"""
    SELECT COUNT(*) AS intents, queue_id AS oldest, MIN(created_at) AS since FROM attestation_intents WHERE {_SENT_ALONE}"""
_SELECT_SUBMITTED = f"""
    SELECT {_INTENT} FROM attestation_intents WHERE {_SENT_ALONE} AND {_IS_DUE} ORDER BY updated_at, intent_digest LIMIT :limit"""
_SELECT_RECEIPTS = f"SELECT {_RECEIPT} FROM attestation_receipts WHERE intent_digest = :intent_digest ORDER BY attempt, rowid"


class AttestationStorage:
    """A file, or `:memory:`. Usable from several threads, a file from several processes.

    Digests are prefixed, except `receipt_digest`, which is raw. Every method raises StoreError when the database cannot do its work.
    """

    def __init__(self, db_path: str | Path = ":memory:") -> None:
        self._database = Database(db_path, _SCHEMA)

    @property
    def database(self) -> Database:
        """Where the tables are, for others that keep theirs beside them."""
        return self._database

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All or nothing: the calls inside see one state, which nobody else changes, and are stored together."""
        with self._database.transaction():
            yield

    @contextmanager
    def inspection(self) -> Generator[None]:
        """One state for several reads, rows that were tampered with among it: bytes that are not UTF-8 are read as U+FFFD."""
        with self._database.lenient_snapshot():
            yield

    def insert_intent(self, queue_id: str, intent_digest: str, intent_json: str, created_at: str) -> bool:
        """Store an intent as PENDING, attempt 0. False, and nothing changes, when it is there."""
        row = {"queue_id": queue_id, "intent_digest": intent_digest, "intent_json": intent_json, "created_at": created_at}
        return self._write(_INSERT_INTENT, row)

    def get_intent(self, queue_id: str) -> dict[str, Any] | None:
        """The row, None when there is none."""
        return self._first(_SELECT_BY_ID, {"queue_id": queue_id})

    def get_intent_by_digest(self, intent_digest: str) -> dict[str, Any] | None:
        """The row, None when there is none."""
        return self._first(_SELECT_BY_DIGEST, {"intent_digest": intent_digest})

    def list_pending(self, limit: int = 10) -> list[dict[str, Any]]:
        """Rows that are PENDING or DEFERRED and in no batch, by creation time and digest."""
        return self._all(_SELECT_PENDING, {"limit": _limit(limit)})

    def list_unconfirmed(self, limit: int = 10) -> list[dict[str, Any]]:
        """Rows that are SUBMITTED, in the same order."""
        return self._all(_SELECT_UNCONFIRMED, {"limit": _limit(limit)})

    def count_by_status(self, *, alone: bool = True) -> list[dict[str, Any]]:
        """Per status that intents have: `status`, `intents` (how many), `oldest` and `since` (an intent, and when it changed last).

        Without `alone`, of those that `count_sent_alone` does not count.
        """
        return self._all(_COUNT_BY_STATUS, {"alone": alone})

    def count_sent_alone(self) -> dict[str, Any]:
        """Of the intents that `list_submitted` lists: `intents` (how many), `oldest` and `since` (one, and when it was queued, or None)."""
        return self._all(_COUNT_SENT_ALONE, {})[0]

    def list_submitted(self, limit: int = 10, *, now: str | None = None) -> list[dict[str, Any]]:
        """Rows of which a transaction of their own may be on the ledger, the one first that was looked at longest ago.

        With `now` (UTC, ISO 8601) only those that are due, as in `list_due`.
        """
        return self._all(_SELECT_SUBMITTED, {"limit": _limit(limit), "now": now})

    def list_due(self, limit: int = 10, *, now: str) -> list[dict[str, Any]]:
        """Rows that are PENDING, DEFERRED, or SUBMITTED with a known transaction, in no batch, and due at `now` (UTC, ISO 8601).

        The one comes first that was looked at longest ago. Up to the 8th attempt one is due at once, then after 2, 4, 8 ... 3,600 seconds.
        """
        return self._all(_SELECT_DUE, {"limit": _limit(limit), "now": now})

    def update_intent_status(
        self, queue_id: str, status: str, last_attempt: int, updated_at: str, last_error_code: str | None = None
    ) -> None:
        """Set what may change in an intent's row; nothing when there is none."""
        row = {"queue_id": queue_id, "status": status, "last_attempt": last_attempt, "updated_at": updated_at}
        self._write(_UPDATE_INTENT, {**row, "last_error_code": last_error_code})

    def claim(self, queue_id: str, owner: str, *, now: float, until: float) -> bool:
        """Reserve an intent; False when somebody else, or a batch, has it. Times are seconds since 1970; a claim that ran out is free."""
        return self._write(_CLAIM, {"queue_id": queue_id, "owner": owner, "now": now, "until": until})

    def release(self, queue_id: str, owner: str) -> None:
        """Give up a claim; nothing when somebody else has it by now."""
        self._write(_RELEASE, {"queue_id": queue_id, "owner": owner})

    def may_send(self, queue_id: str, owner: str) -> bool:
        """Whether the claim of `owner` still keeps everybody else off an intent that waits, however long ago it ran out."""
        return self._first(_MAY_SEND, {"queue_id": queue_id, "owner": owner}) is not None

    def note_sending(self, queue_id: str, owner: str, tx_hash: str, key_id: str | None) -> bool:
        """Note which transaction of its own an intent is about to be sent with. False, and nothing changes, unless it `may_send`."""
        return self._write(_NOTE_SENDING, {"queue_id": queue_id, "owner": owner, "tx_hash": tx_hash, "key_id": key_id})

    def sending(self, queue_id: str) -> dict[str, Any] | None:
        """`tx_hash` and `key_id` of a transaction that was noted, and of which no receipt tells yet."""
        return self._first(_SELECT_SENDING, {"queue_id": queue_id})

    def forget_sending(self, queue_id: str) -> None:
        """A receipt tells of it."""
        self._write(_FORGET_SENDING, {"queue_id": queue_id})

    def leave_unanswered(self, queue_id: str) -> None:
        """No server has answered for the transaction that was noted: another one may be noted, and no batch may have the intent."""
        with self._database.transaction() as connection:
            connection.execute(_LEAVE_UNANSWERED, {"queue_id": queue_id})
            connection.execute(_FORGET_SENDING, {"queue_id": queue_id})

    def unanswered(self, queue_id: str) -> list[dict[str, Any]]:
        """`tx_hash` and `key_id` of each transaction of its own that an intent was sent with and no server answered for."""
        return self._all(_SELECT_UNANSWERED, {"queue_id": queue_id})

    def insert_receipt(
        self, receipt_digest: str, intent_digest: str, attempt: int, created_at: str, backend: str, status: str, receipt_json: str
    ) -> bool:
        """Store a receipt. False, and nothing changes, when it is there."""
        row: dict[str, object] = {"receipt_digest": receipt_digest, "intent_digest": intent_digest, "attempt": attempt}
        row |= {"created_at": created_at, "backend": backend, "status": status, "receipt_json": receipt_json}
        return self._write(_INSERT_RECEIPT, row)

    def list_receipts(self, intent_digest: str) -> list[dict[str, Any]]:
        """Rows by attempt, then in the order of their insertion."""
        return self._all(_SELECT_RECEIPTS, {"intent_digest": intent_digest})

    def close(self) -> None:
        """Close the database. Closing again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, statement: str, row: dict[str, Any]) -> bool:
        with self._database.transaction() as connection:
            return connection.execute(statement, row).rowcount == 1

    def _first(self, query: str, key: dict[str, Any]) -> dict[str, Any] | None:
        with self._database.reading() as connection:
            row = connection.execute(query, key).fetchone()
        return None if row is None else dict(row)

    def _all(self, query: str, key: dict[str, Any]) -> list[dict[str, Any]]:
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query, key)]


def _limit(value: int) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise InputError(f"limit must be an integer from 0 on, got {value!r:.100}")
    return value
