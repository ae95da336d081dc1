"""The store's log: every stored fact is a leaf of one RFC 6962 tree, in commit order, and signed checkpoints say what it was when.

Writing appends one leaf per fact inside the caller's transaction. Reading gives roots and proofs from the stored leaf hashes; hashes of
full subtrees are cached, in the file (`tiles` says what that can and cannot do) and in memory, which is safe because a committed leaf
never changes. Whether the leaves are those of the stored rows is not asked here but in `log_check`.
"""

from collections import ChainMap
from collections.abc import Collection, MutableMapping, Sequence

from nexus_control import merkle
from nexus_control.backend import Backend, Connection, insert, require_cells
from nexus_control.checkpoint import Checkpoint, SignedNote, parse_checkpoint, parse_note
from nexus_control.errors import InputError, LogRewritten, MalformedNote, brief
from nexus_control.integrity import sha256_digest
from nexus_control.tiles import TILE_LEAVES, TILE_LEVEL, fold_leaves, read_tiles, write_tiles

__all__ = ["INSERT_LEAF", "Log", "LogWriter"]

_TILES_PER_READ = 4096

_LAST = "SELECT COALESCE(MAX(position), 0) FROM log"
INSERT_LEAF = "INSERT INTO log (position, leaf_hash, kind) VALUES (?, ?, ?)"
_CHECKPOINTS = "SELECT note FROM checkpoints ORDER BY number"
_LAST_CHECKPOINT = "SELECT note FROM checkpoints ORDER BY number DESC LIMIT 1"
_INSERT_CHECKPOINT = """
    INSERT INTO checkpoints (number, size, note)
    SELECT COALESCE(MAX(number), 0) + 1, ?, ? FROM checkpoints"""


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
        """Write the collected leaves, and the tiles that they fill."""
        insert(self._connection, INSERT_LEAF, self._leaves)
        filled = range((self.position - len(self._leaves)) // TILE_LEAVES, self.position // TILE_LEAVES)
        if filled:
            write_tiles(self._connection, {number: fold_leaves(self._connection, TILE_LEVEL, number) for number in filled})
        self._leaves.clear()


class Log:
    """Roots and proofs over the log of a database. Sizes and positions count from 1; hashes are raw hex."""

    def __init__(self, database: Backend) -> None:
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

    def joint_inclusion_proof(self, positions: Collection[int], size: int | None = None) -> list[str]:
        """One proof for the leaves at all `positions`; see `merkle`. Raises InputError when there is no such leaf, or no position."""
        with self._database.snapshot() as connection:
            size = self._size(connection, size)
            indexes = [_number("position", position, 1, size) - 1 for position in positions]
            if not indexes:
                raise InputError("there is nothing to prove about no position")
            return _hex(merkle.joint_inclusion_proof(indexes, size, self._nodes(connection)))

    # -- checkpoints ----------------------------------------------------------------------------------------------------------

    def checkpoints(self) -> list[SignedNote]:
        """The stored checkpoints, oldest first. Raises MalformedNote for a row that holds none."""
        with self._database.reading() as connection:
            return [_note(row[0]) for row in connection.execute(_CHECKPOINTS)]

    def certain_root(self) -> tuple[int, str]:
        """Size and root of the whole log, for signing: no cached hash is trusted that is not under the last checkpoint's root.

        Costs what was appended since that checkpoint; without one, or when the cache is wrong, the whole log. Raises LogRewritten when
        the log does not have the root of its last checkpoint any more.
        """
        with self._database.snapshot() as connection:
            size = self._size(connection, None)
            nodes, _ = self._certain_nodes(connection, _last_checkpoint(connection), size)
            return size, merkle.root(size, nodes).hex()

    def add_checkpoint(self, note: SignedNote) -> Checkpoint:
        """Store a checkpoint of this log, or one with more signatures, and write the tiles anew where they are missing or wrong.

        Raises MalformedNote for what is none, InputError for one that is not of this log (another origin than those before it, a smaller
        size, a size that was not reached, another root), and LogRewritten as `certain_root` does. No signature is checked.
        """
        checkpoint = parse_checkpoint(note)
        with self._database.transaction() as connection:
            size, last = self._size(connection, None), _last_checkpoint(connection)
            if last is not None and checkpoint.origin != last.origin:
                raise InputError(f"this log is called {last.origin}, the checkpoint is of {brief(checkpoint.origin)}")
            nodes, fresh = self._certain_nodes(connection, last, size)
            _number("the size of the checkpoint", checkpoint.size, 0 if last is None else last.size, size)
            if merkle.root(checkpoint.size, nodes) != checkpoint.root:
                raise InputError(f"the first {checkpoint.size} entries of this log have another root than the checkpoint")
            merkle.root(size, nodes)  # the rest of `fresh`
            stored = read_tiles(connection, 0, size // TILE_LEAVES)
            if wrong := {number: value for number, value in fresh.items() if stored.get(number) != value}:
                write_tiles(connection, wrong)
                self._subtrees.clear()  # made of what was wrong
            insert(connection, _INSERT_CHECKPOINT, [(checkpoint.size, note.render())])
        return checkpoint

    def _certain_nodes(self, connection: Connection, last: Checkpoint | None, size: int) -> tuple[merkle.Nodes, dict[int, bytes]]:
        """Nodes that follow from the last checkpoint's root and from leaves, and the tiles that were, or will be, computed on the way."""
        if last is not None and last.size > size:
            raise LogRewritten(f"the log has {size} entries, its last checkpoint {last.size}")
        for trusted in (0,) if last is None else (last.size // TILE_LEAVES, 0):
            fresh: dict[int, bytes] = {}
            nodes = _nodes(connection, {}, trusted=trusted, fresh=fresh)
            if last is None or merkle.root(last.size, nodes) == last.root:
                return nodes, fresh
        raise LogRewritten("the log does not begin with the entries of its last checkpoint any more")

    @staticmethod
    def _size(connection: Connection, wanted: int | None) -> int:
        size: int = connection.execute(_LAST).fetchone()[0]
        require_cells((size,), (int,), "the end of the log")
        return size if wanted is None else _number("size", wanted, 0, size)

    def _nodes(self, connection: Connection) -> merkle.Nodes:
        # Leaves of a transaction that may still be rolled back are not remembered: their positions may be given to others.
        return _nodes(connection, ChainMap({}, self._subtrees) if self._database.is_writing else self._subtrees)


def _nodes(
    connection: Connection,
    known: MutableMapping[tuple[int, int], bytes],
    *,
    trusted: int | None = None,
    fresh: dict[int, bytes] | None = None,
) -> merkle.Nodes:
    """The nodes of the stored tree; those of tiles and above are remembered in `known`.

    Tiles from number `trusted` on are not read but computed from their leaves, and put into `fresh`; None trusts all of them.
    """
    looked: set[int] = set()

    def tile(number: int) -> bytes:
        if trusted is None or number < trusted:
            block = number // _TILES_PER_READ
            if block not in looked:
                looked.add(block)
                first = block * _TILES_PER_READ
                end = first + _TILES_PER_READ if trusted is None else min(first + _TILES_PER_READ, trusted)
                known.update(((TILE_LEVEL, other), value) for other, value in read_tiles(connection, first, end).items())
            if (found := known.get((TILE_LEVEL, number))) is not None:
                return found
        found = fold_leaves(connection, TILE_LEVEL, number)
        if fresh is not None:
            fresh[number] = found
        return found

    def node(level: int, index: int) -> bytes:
        if level < TILE_LEVEL:
            return fold_leaves(connection, level, index)
        if (found := known.get((level, index))) is None:
            children = (level - 1, 2 * index), (level - 1, 2 * index + 1)
            found = tile(index) if level == TILE_LEVEL else merkle.node_hash(node(*children[0]), node(*children[1]))
            known[level, index] = found
        return found

    return node


def _last_checkpoint(connection: Connection) -> Checkpoint | None:
    row = connection.execute(_LAST_CHECKPOINT).fetchone()
    return None if row is None else parse_checkpoint(_note(row[0]))


def _note(cell: object) -> SignedNote:
    if type(cell) is not str:
        raise MalformedNote(f"a stored checkpoint is no text but {type(cell).__name__}")
    return parse_note(cell)


def _number(name: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name} must be between {least} and {most}")
    return value


def _hex(hashes: Sequence[bytes]) -> list[str]:
    return [value.hex() for value in hashes]
