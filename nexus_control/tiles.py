"""Tiles: cached hashes of the log's full subtrees of 256 leaves, so that a root of many leaves needs few reads after a restart.

Derived data, never a source. What is guaranteed about a wrong one:

* damaged by accident (a flipped bit, a row out of place): its seal does not hold, and it is computed from its leaves instead;
* written on purpose, with a seal that holds: `log_check` recomputes every tile and names it, and no checkpoint is signed over it, because
  `Log.certain_root` takes only tiles that are under the last checkpoint's root, and computes the others from their leaves;
* in between it can make `root` and proofs wrong, as an edited leaf can. Neither convinces anybody who holds a signed checkpoint.
"""

from collections.abc import Mapping
from hashlib import sha256

from nexus_control import merkle
from nexus_control.backend import Connection
from nexus_control.errors import StoreUnreadable

__all__ = ["INSERT_TILE", "TILE_LEAVES", "TILE_LEVEL", "fold_leaves", "read_tiles", "write_tiles"]

TILE_LEVEL = 8
TILE_LEAVES = 1 << TILE_LEVEL
"""Leaves under a tile: 64 bytes of cache for some 100 kB of events."""

_LEAVES = "SELECT leaf_hash FROM log WHERE position > ? AND position <= ? ORDER BY position"
_TILES = "SELECT number, hash, seal FROM log_tiles WHERE number >= ? AND number < ?"
INSERT_TILE = "INSERT OR REPLACE INTO log_tiles (number, hash, seal) VALUES (?, ?, ?)"


def read_tiles(connection: Connection, first: int, end: int) -> dict[int, bytes]:
    """The hashes of the tiles from `first` to before `end` that are stored and whose seals hold, by number.

    Where a backend keeps what it was given before beside what it was given later, a tile that says two things says nothing.
    """
    found: dict[int, bytes] = {}
    disputed: set[int] = set()
    for number, value, seal in connection.execute(_TILES, (first, end)):
        if type(value) is bytes and seal == _seal(number, value) and found.setdefault(number, value) != value:
            disputed.add(number)
    return {number: value for number, value in found.items() if number not in disputed} if disputed else found


def write_tiles(connection: Connection, tiles: Mapping[int, bytes]) -> None:
    """Store hashes of tiles by number, in place of what is there (or beside it, where nothing may be replaced)."""
    connection.executemany(INSERT_TILE, [(number, value, _seal(number, value)) for number, value in tiles.items()])


def fold_leaves(connection: Connection, level: int, index: int) -> bytes:
    """Hash of the full subtree over the 2**level leaves from leaf index * 2**level on, from the stored leaf hashes.

    Raises StoreUnreadable when the log has a gap there, or what is no hash.
    """
    hashes: list[bytes] = [row[0] for row in connection.execute(_LEAVES, (index << level, (index + 1) << level))]
    if len(hashes) != 1 << level:
        raise StoreUnreadable("the log has a gap, so there are no roots and proofs beyond it; verify_log tells where")
    if set(map(type, hashes)) != {bytes}:
        raise StoreUnreadable("a leaf of the log is no hash, so there are no roots and proofs beyond it; verify_log tells where")
    while len(hashes) > 1:
        hashes = [merkle.node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def _seal(number: int, value: bytes) -> bytes:
    """Tells a tile from what an accident made of it. Everybody can compute it, so it keeps nobody from writing another."""
    return sha256(b"nexus-control log tile %d " % number + value).digest()
