"""Which requests went to the ledger and which answers came back: their digests, and if wanted their bytes in files.

Digests are opaque here; a store keeps what it is given and says later whether the bytes still match.
"""

import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nexus_attest.attestation.xrpl.transport import ExchangeRecord
from nexus_control.database import Database
from nexus_control.errors import InputError
from nexus_control.files import write_file
from nexus_control.integrity import PREFIX, digests_equal, sha256_digest, unprefixed
from nexus_control.migration import Schema

__all__ = ["ExchangeStore"]

_SCHEMA = Schema(
    "exchanges",
    slot=3,
    migrations=(
        (
            """
            CREATE TABLE IF NOT EXISTS dcl_exchanges (
                content_digest  TEXT NOT NULL PRIMARY KEY,
                request_digest  TEXT NOT NULL,
                response_digest TEXT NOT NULL,
                timestamp       TEXT NOT NULL,
                created_at      TEXT NOT NULL
            ) STRICT
            """,
            "CREATE INDEX IF NOT EXISTS dcl_exchanges_by_time ON dcl_exchanges (timestamp)",
            "CREATE INDEX IF NOT EXISTS dcl_exchanges_by_request ON dcl_exchanges (request_digest)",
            "CREATE INDEX IF NOT EXISTS dcl_exchanges_by_response ON dcl_exchanges (response_digest)",
        ),
    ),
)

_COLUMNS = "content_digest, request_digest, response_digest, timestamp, created_at"
_INSERT = f"""
    INSERT INTO dcl_exchanges ({_COLUMNS}) VALUES (:content_digest, :request_digest, :response_digest, :timestamp, :created_at)
    ON CONFLICT DO NOTHING"""
_SELECT = f"SELECT {_COLUMNS} FROM dcl_exchanges WHERE content_digest = :digest"
_SELECT_BY_REQUEST = f"SELECT {_COLUMNS} FROM dcl_exchanges WHERE request_digest = :digest ORDER BY timestamp, rowid"
_SELECT_BY_RESPONSE = f"SELECT {_COLUMNS} FROM dcl_exchanges WHERE response_digest = :digest ORDER BY timestamp, rowid"
_COUNT = "SELECT COUNT(*) FROM dcl_exchanges"

_OPAQUE = re.compile("[0-9A-Za-z]+")


class ExchangeStore:
    """Records in a file or in memory (`:memory:`); bodies as files below `body_path`, which is made when it is missing.

    Without `body_path` bodies are not kept. Methods raise StoreError when the database, OSError when the folder cannot do its work.
    """

    def __init__(self, db_path: str | Path = ":memory:", body_path: str | Path | None = None) -> None:
        self._body_path = None if body_path is None else Path(body_path)
        self._database = Database(db_path, _SCHEMA)
        if self._body_path is not None:
            self._body_path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(
        self,
        record: ExchangeRecord,
        *,
        request_body: bytes | None = None,
        response_body: bytes | None = None,
        created_at: str | None = None,
    ) -> str:
        """Keep a record, and bodies under its digests; what is there stays. Gives the content digest.

        The bytes are not compared with the digests here: `verify_body` does. `created_at` is the record's timestamp when None.
        """
        digest = record.content_digest()
        for named, body in ((record.request_digest, request_body), (record.response_digest, response_body)):
            if body is not None:
                self._keep(named, body)
        row = {**record.to_dict(), "content_digest": digest, "created_at": record.timestamp if created_at is None else created_at}
        with self._database.transaction() as connection:
            connection.execute(_INSERT, row)
        return digest

    def get(self, content_digest: str) -> ExchangeRecord | None:
        """A record, None when there is none."""
        rows = self._rows(_SELECT, content_digest)
        return _record(rows[0]) if rows else None

    def exists(self, content_digest: str) -> bool:
        """Whether there is a record."""
        return bool(self._rows(_SELECT, content_digest))

    def list_by_request(self, digest: str) -> list[ExchangeRecord]:
        """The records of a request, oldest first."""
        return [_record(row) for row in self._rows(_SELECT_BY_REQUEST, digest)]

    def list_by_response(self, digest: str) -> list[ExchangeRecord]:
        """The records of a response, oldest first."""
        return [_record(row) for row in self._rows(_SELECT_BY_RESPONSE, digest)]

    def to_dict(self, content_digest: str) -> dict[str, Any] | None:
        """The five columns of a record, None when there is none."""
        rows = self._rows(_SELECT, content_digest)
        return rows[0] if rows else None

    def count(self) -> int:
        """How many records there are."""
        with self._database.reading() as connection:
            return connection.execute(_COUNT).fetchone()[0]

    def get_body(self, digest: str) -> bytes | None:
        """The bytes that were stored under a digest, None when there are none."""
        path = self._body_file_path(digest)
        return path.read_bytes() if path is not None and path.is_file() else None  # a pipe may never end

    def body_exists(self, digest: str) -> bool:
        """Whether bytes are stored under a digest."""
        path = self._body_file_path(digest)
        return path is not None and path.is_file()

    def verify_body(self, digest: str) -> bool:
        """Whether bytes are stored under a digest and have it."""
        body = self.get_body(digest)
        return body is not None and digests_equal(sha256_digest(body), digest)

    def close(self) -> None:
        """Close the database. Closing again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _rows(self, query: str, digest: str) -> list[dict[str, Any]]:
        if not digest.isascii():  # no such digest is stored, and a lone surrogate could not even be looked for
            return []
        with self._database.reading() as connection:
            return [dict(row) for row in connection.execute(query, {"digest": digest})]

    def _body_file_path(self, digest: str) -> Path | None:
        """`<body_path>/sha256/<two characters>/<all>.blob`. Raises InputError, a ValueError, for what could leave the folder."""
        if self._body_path is None:
            return None
        name = unprefixed(digest)
        if not digest.startswith(PREFIX) or not _OPAQUE.fullmatch(name):
            raise InputError(f"a body's digest must be 'sha256:' and letters and digits, got {digest!r:.100}")
        return self._body_path / "sha256" / name[:2] / f"{name}.blob"

    def _keep(self, digest: str, body: bytes) -> None:
        path = self._body_file_path(digest)
        if path is None or path.exists():
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, body, replace=True, mode=0o600)


def _record(row: dict[str, Any]) -> ExchangeRecord:
    return ExchangeRecord(row["request_digest"], row["response_digest"], row["timestamp"])
