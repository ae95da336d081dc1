"""The stored checkpoints and tiles against the tree that grows over recomputed leaves.

Whether a checkpoint is signed takes public-key cryptography and is not asked here.
"""

from collections import deque
from collections.abc import Callable

from nexus_control import merkle
from nexus_control.backend import Connection, Dialect
from nexus_control.checkpoint import Checkpoint, parse_checkpoint, parse_note
from nexus_control.errors import MalformedNote
from nexus_control.tiles import TILE_LEAVES

__all__ = ["CheckedTree"]

_CHECKPOINTS = "SELECT number, size, note FROM checkpoints ORDER BY number"
_TILES = "SELECT number, hash FROM log_tiles ORDER BY number"


class CheckedTree:
    """The tree over recomputed leaves, compared with the stored checkpoints and tiles as it grows: `found` is called with what is wrong."""

    def __init__(self, connection: Connection, dialect: Dialect, found: Callable[[str], None]) -> None:
        self._found = found
        self._tree, self._tile = merkle.Frontier(), merkle.Frontier()
        self._checkpoints = deque[tuple[int, Checkpoint]]()
        for expected, (number, size, note) in enumerate(connection.execute(_CHECKPOINTS), 1):
            if number != expected:
                found(f"checkpoint {expected}: it is missing")
            if type(note) is not str:
                found(f"checkpoint {number}: it is no text")
                continue
            self._read_checkpoint(number, size, note)
        self._tiles = deque[tuple[int, bytes]](dialect.stream(connection, _TILES))
        self._pass_checkpoints()

    def append(self, leaf: bytes) -> None:
        """Let it grow by one leaf, a hash as `merkle.leaf_hash` makes it."""
        self._tree.append(leaf)
        self._tile.append(leaf)
        self._pass_checkpoints()
        if self._tile.size == TILE_LEAVES:
            number = self._tree.size // TILE_LEAVES - 1
            while self._tiles and self._tiles[0][0] == number:
                if self._tiles.popleft()[1] != self._tile.root():
                    self._found(f"tile {number}: the cached hash of positions {number * TILE_LEAVES + 1} to {self._tree.size} is wrong")
            self._tile = merkle.Frontier()

    def root(self) -> bytes:
        """Of the leaves so far."""
        return self._tree.root()

    def finish(self) -> None:
        """Name what the log did not reach."""
        for number, checkpoint in self._checkpoints:
            self._found(f"checkpoint {number}: it is of {checkpoint.size} entries, the log has {self._tree.size}")
        for number, _ in self._tiles:
            self._found(f"tile {number}: there are no such positions")

    def _read_checkpoint(self, number: int, size: int, note: str) -> None:
        try:
            checkpoint = parse_checkpoint(parse_note(note))
        except MalformedNote as problem:
            self._found(f"checkpoint {number}: {problem}")
            return
        if checkpoint.size != size:
            self._found(f"checkpoint {number}: its row says size {size}, its note {checkpoint.size}")
        if self._checkpoints:
            _, last = self._checkpoints[-1]
            if checkpoint.origin != last.origin:
                self._found(f"checkpoint {number}: it is of the log {checkpoint.origin!r}, the one before it of {last.origin!r}")
            if checkpoint.size < last.size:
                self._found(f"checkpoint {number}: it is of fewer entries than the one before it")
                return
        self._checkpoints.append((number, checkpoint))

    def _pass_checkpoints(self) -> None:
        while self._checkpoints and self._checkpoints[0][1].size == self._tree.size:
            number, checkpoint = self._checkpoints.popleft()
            if checkpoint.root != self._tree.root():
                self._found(f"checkpoint {number}: the first {checkpoint.size} entries of the log had another root when it was made")
