"""The store's log: every stored fact is a leaf of one RFC 6962 tree, in commit order.

Writing appends one leaf per fact inside the caller's transaction. Reading gives roots and proofs from the stored leaf hashes; hashes of
full subtrees are remembered in memory, which is safe because a committed leaf never changes. Whether the leaves are those of the stored
rows is not asked here but in `log_check`.
"""

from collections.abc import Sequence

from nexus_control import merkle
from nexus_control.database import Database
from nexus_control.errors import InputError, StoreUnreadable
from nexus_control.integrity import sha256_digest
from nexus_control.sqlite import Connection

__all__ = ["Log", "LogWriter"]

_CACHED_LEVEL = 8
"""Subtrees of 2**8 leaves and more are remembered: 32 bytes for every 256 leaves."""

_LAST = "SELECT COALESCE(MAX(position), 0) FROM log"
_INSERT = "INSERT INTO log (position, leaf_hash, kind) VALUES (?, ?, ?)"
_LEAVES = "SELECT leaf_hash FROM log WHERE position > ? AND position <= ? ORDER BY position"


class LogWriter:
    """Gives positions to new facts and collects their leaves; `flush` writes them. Needs the write lock from construction to flush.

    `position` is that of the last fact, stored or collected.
    """

    def __init__(self, connection: Connection, position: int | None = None) -> None:
        self._connection = connection
        self._leaves: list[tuple[int, bytes, str]] = []
        self.position: int = connection.execute(_LAST).fetchone()[0] if position is None else position

    def add(self, kind: str, record: bytes) -> str:
        """Take a chained record as the next leaf; gives its chain hash (raw)."""
        self.position += 1
        self._leaves.append((self.position, merkle.leaf_hash(record), kind))
        return sha256_digest(record)

    def flush(self) -> None:
        """Write the collected leaves."""
        self._connection.executemany(_INSERT, self._leaves)
        self._leaves.clear()


class Log:
    """Roots and proofs over the log of a database. Sizes and positions count from 1; hashes are raw hex."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._subtrees: dict[tuple[int, int], bytes] = {}

    def root(self, size: int | None = None) -> tuple[int, str]:
        """Size and root of the tree over the first `size` leaves, all when None. Raises InputError for a size the log does not have."""
        with self._database.snapshot() as connection:
            size = self._size(connection, size)
            return size, merkle.root(size, self._nodes(connection)).hex()

    def inclusion_proof(self, position: int, size: int | None = None) -> list[str]:
        """RFC 6962 audit path of the leaf at `position` in the tree of `size` leaves. Raises InputError when there is no such leaf."""
        with self._database.snapshot() as connection:
            size = self._size(connection, size)
            index = _number("position", position, 1, size) - 1
            return _hex(merkle.inclusion_proof(index, size, self._nodes(connection)))

    def consistency_proof(self, old_size: int, new_size: int | None = None) -> list[str]:
        """RFC 6962 proof that the tree of `old_size` leaves is a prefix of that of `new_size`. Raises InputError for impossible sizes."""
        with self._database.snapshot() as connection:
            new_size = self._size(connection, new_size)
            old_size = _number("old_size", old_size, 0, new_size)
            return _hex(merkle.consistency_proof(old_size, new_size, self._nodes(connection)))

    @staticmethod
    def _size(connection: Connection, wanted: int | None) -> int:
        size: int = connection.execute(_LAST).fetchone()[0]
        return size if wanted is None else _number("size", wanted, 0, size)

    def _nodes(self, connection: Connection) -> merkle.Nodes:
        # Leaves of a transaction that may still be rolled back are not remembered: their positions may be given to others.
        remember = not self._database.is_writing

        def node(level: int, index: int) -> bytes:
            if level <= _CACHED_LEVEL and (level, index) not in self._subtrees:
                found = self._fold(connection, level, index)
            elif (known := self._subtrees.get((level, index))) is not None:
                return known
            else:
                found = merkle.node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))
            if remember and level >= _CACHED_LEVEL:
                self._subtrees[level, index] = found
            return found

        return node

    @staticmethod
    def _fold(connection: Connection, level: int, index: int) -> bytes:
        """Hash of a small full subtree, from its leaves."""
        hashes: list[bytes] = [row[0] for row in connection.execute(_LEAVES, (index << level, (index + 1) << level))]
        if len(hashes) != 1 << level:
            raise StoreUnreadable("the log has a gap, so there are no roots and proofs beyond it; verify_log tells where")
        while len(hashes) > 1:
            hashes = [merkle.node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
        return hashes[0]


def _number(name: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name} must be between {least} and {most}")
    return value


def _hex(hashes: Sequence[bytes]) -> list[str]:
    return [value.hex() for value in hashes]
