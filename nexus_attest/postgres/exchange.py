"""Several statements in one message to the server, and all their answers in one message back.

An append is a few statements that never change. Sent one by one, most of its time is spent on the way; sent together, in libpq's pipeline
mode (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html), it is one round trip. PostgreSQL runs the statements of a message
in their order, each with its own view of the data, as if they had come one by one. When one of them fails those behind it are not run at
all, so a COMMIT at the end of a message commits everything or nothing.

Each statement is prepared once per connection. Parameters and results are bytes as PostgreSQL's binary formats have them: eight bytes for a
`bigint`, UTF-8 for `text`, the bytes themselves for `bytea`, and arrays of these.
"""

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from nexus_attest.postgres.driver import Raw, stored_texts

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Names", "Parameters", "Statement", "bigint", "bigints", "byteas", "exchange", "receive", "send", "texts"]

Parameters = Sequence[bytes | None]


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """SQL with `$1`, `$2` ... under the name, unique in this package, with which connections keep it prepared."""

    name: bytes
    sql: bytes


_prepared: "WeakKeyDictionary[Raw, set[bytes]]" = WeakKeyDictionary()
"""Which statements the server knows by name already, for each connection."""


Names = Sequence[bytes | None]
"""For each answer that is to come, the name of the statement that it prepares, or None where it is a result."""


def exchange(raw: Raw, statements: Sequence[tuple[Statement, Parameters]], when_sent: Callable[[], None] | None = None) -> "list[PGresult]":
    """Run the statements in their order, in one round trip; gives a result for each. `when_sent` is called before the server is waited for.

    Raises the driver's error for the first one that fails, after which the transaction is to be rolled back. Whatever else ends the wait,
    an interruption for instance, closes the connection: what the server still sends would be taken for the answer to something else.
    """
    return receive(raw, send(raw, statements), when_sent)


def send(raw: Raw, statements: Sequence[tuple[Statement, Parameters]]) -> Names:
    """The first half of `exchange`: as much as the socket takes at once. What it gives is for `receive`, which has to follow."""
    pgconn = raw.pgconn
    known = _prepared.setdefault(raw, set())
    names: list[bytes | None] = []
    try:
        pgconn.enter_pipeline_mode()
        for statement, parameters in statements:
            if statement.name not in known and statement.name not in names:
                pgconn.send_prepare(statement.name, statement.sql)
                names.append(statement.name)
            pgconn.send_query_prepared(statement.name, parameters, [_BINARY] * len(parameters), _BINARY)
            names.append(None)
        pgconn.pipeline_sync()
        pgconn.flush()
    except BaseException:
        raw.close()
        raise
    return names


def receive(raw: Raw, names: Names, when_sent: Callable[[], None] | None = None) -> "list[PGresult]":
    """The second half of `exchange`."""
    pgconn = raw.pgconn
    try:
        results = _answers(pgconn, when_sent)
        pgconn.exit_pipeline_mode()
    except BaseException:
        raw.close()
        raise
    return _checked(_prepared.setdefault(raw, set()), names, results)


def _answers(pgconn: "PGconn", when_sent: Callable[[], None] | None) -> "list[PGresult]":
    """What the server answers up to the end of the message."""
    from psycopg.pq import ExecStatus

    unsent = pgconn.flush()
    if when_sent is not None:
        when_sent()
    while unsent:  # too much for the socket at once: the server may have to be heard meanwhile, so that it reads on
        if _wait(pgconn.socket, writing=True):
            pgconn.consume_input()
        unsent = pgconn.flush()
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            _wait(pgconn.socket)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:  # the end of one statement's results
            continue
        if result.status == ExecStatus.PIPELINE_SYNC:
            return results
        results.append(result)


def _checked(known: set[bytes], names: Names, results: "Sequence[PGresult]") -> "list[PGresult]":
    """The results of the statements, without those of preparing them. Raises the error of the first that failed."""
    from psycopg.errors import error_from_result
    from psycopg.pq import ExecStatus

    for name, result in zip(names, results, strict=True):
        if result.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
            raise error_from_result(result, encoding="utf-8")
        if name is not None:
            known.add(name)
    return [result for name, result in zip(names, results, strict=True) if name is None]


def _wait(socket: int, *, writing: bool = False) -> bool:
    """Wait until the socket can be read, or written to; whether it can be read."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(socket, select.POLLIN | (select.POLLOUT if writing else 0))
        [(_, event)] = poll.poll()
        return bool(event & ~select.POLLOUT)
    return bool(select.select([socket], [socket] if writing else [], [])[0])


# -- values ---------------------------------------------------------------------------------------------------------------------

_BINARY = 1
_BIGINT, _TEXT, _BYTEA = 20, 25, 17
"""Object ids of types, which are the same on every server."""

_EMPTY = Struct("!iiI")
_HEADER = Struct("!iiIii")
_LENGTH = Struct("!i")


def bigint(value: int) -> bytes:
    """An integer as `bigint`."""
    return value.to_bytes(8, "big", signed=True)


def bigints(values: Sequence[int]) -> bytes:
    """Integers as `bigint[]`."""
    return _array(_BIGINT, [value.to_bytes(8, "big", signed=True) for value in values])


def texts(values: Sequence[str]) -> bytes:
    """Texts as `text[]`."""
    return _array(_TEXT, stored_texts(values))


def byteas(values: Sequence[bytes]) -> bytes:
    """Bytes as `bytea[]`."""
    return _array(_BYTEA, values)


def _array(kind: int, values: Sequence[bytes]) -> bytes:
    """One dimension, no NULLs, numbered from 1, each value behind its length, as `array_recv` of PostgreSQL's arrayfuncs.c takes it."""
    if not values:
        return _EMPTY.pack(0, 0, kind)
    header = _HEADER.pack(1, 0, kind, len(values), 1)
    if len(set(map(len, values))) == 1:  # most columns: a tenth of the time
        length = _LENGTH.pack(len(values[0]))
        return header + length + length.join(values)
    return header + b"".join([part for value in values for part in (_LENGTH.pack(len(value)), value)])
