"""Merkle trees of RFC 6962 section 2.1 over SHA-256: roots, inclusion and consistency proofs, and their verification.

Bytes in, bytes out: no clock, no I/O, no storage. Leaves and inner nodes are hashed under different prefixes, so that neither can pass for
the other. A proof that does not prove its claim is False; a size or index that is no natural number is a ValueError.

A proof ties its hashes to a root, and the verifier must know the size from where it knows the root (a checkpoint): trees of some
different sizes have inclusion paths of the same shape.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from hashlib import sha256

__all__ = [
    "HASH_SIZE",
    "Frontier",
    "Nodes",
    "consistency_proof",
    "empty_root",
    "inclusion_proof",
    "joint_inclusion_proof",
    "leaf_hash",
    "leaf_nodes",
    "node_hash",
    "root",
    "verify_consistency",
    "verify_inclusion",
    "verify_joint_inclusion",
]

HASH_SIZE = 32
"""Bytes of every hash in a tree."""

_MOST_LEAVES = 2**64
"""RFC 6962 writes tree sizes in 64 bits. Only the recursive functions need the bound."""

Nodes = Callable[[int, int], bytes]
"""`nodes(level, index)`: hash of the full subtree over the 2**level leaves from leaf index * 2**level on; level 0 are the leaf hashes.

Whoever stores a tree answers from wherever it likes. The functions below ask for O(log size) subtrees, and only for full ones.
"""


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf's content."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of the node above two hashes."""
    return sha256(b"\x01" + left + right).digest()


def empty_root() -> bytes:
    """Root of the tree without leaves."""
    return sha256(b"").digest()


def leaf_nodes(leaf_hashes: Sequence[bytes]) -> Nodes:
    """The nodes of a tree that is held in memory as its leaf hashes. Remembers full subtrees, so the sequence may grow but not change."""
    known: dict[tuple[int, int], bytes] = {}

    def nodes(level: int, index: int) -> bytes:
        if level == 0:
            return leaf_hashes[index]
        if (level, index) not in known:
            known[level, index] = node_hash(nodes(level - 1, 2 * index), nodes(level - 1, 2 * index + 1))
        return known[level, index]

    return nodes


class Frontier:
    """A growing tree of which only the right edge is kept: O(log size) memory, one hash per leaf on average."""

    def __init__(self) -> None:
        self._size = 0
        self._full: list[bytes] = []  # the maximal full subtrees from left to right, one for each bit that is set in the size

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its leaf hash."""
        size = self._size
        while size & 1:
            leaf = node_hash(self._full.pop(), leaf)
            size >>= 1
        self._full.append(leaf)
        self._size += 1

    def root(self) -> bytes:
        """Root over all leaves so far."""
        return _join(self._full) if self._full else empty_root()


def root(size: int, nodes: Nodes) -> bytes:
    """Root of the tree over the first `size` leaves. Raises ValueError when `size` is no natural number."""
    _require_natural("size", size)
    return _subtree(0, size, nodes) if size else empty_root()


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1: the siblings on the way from leaf `index` (from 0) up to the root.

    Raises ValueError unless 0 <= index < size.
    """
    _require_natural("index", index)
    _require_natural("size", size)
    if index >= size:
        raise ValueError(f"a tree of {size} leaves has no leaf with index {index}")
    siblings: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            siblings.append(_subtree(middle, end, nodes))
            end = middle
        else:
            siblings.append(_subtree(start, middle, nodes))
            start = middle
    return siblings[::-1]


def joint_inclusion_proof(indexes: Collection[int], size: int, nodes: Nodes) -> list[bytes]:
    """One proof for several leaves: of their inclusion proofs every hash once, without those that the leaves themselves lead to.

    The hashes are those of the largest subtrees without any of the leaves, in the order of the tree from left to right; for one leaf
    they are its inclusion proof in another order. k leaves need at most k * log2(size) hashes, and none when they are all leaves.
    Raises ValueError unless there is an index, and 0 <= index < size for each.
    """
    _require_natural("size", size)
    for index in indexes:
        _require_natural("index", index)
        if not index < size < _MOST_LEAVES:
            raise ValueError(f"a tree of {size} leaves has no leaf with index {index}")
    if not indexes:
        raise ValueError("there is nothing to prove about no leaf")
    wanted = sorted(set(indexes))
    hashes: list[bytes] = []

    def walk(start: int, end: int, low: int, high: int) -> None:  # wanted[low:high] are those in the subtree
        if low == high:
            hashes.append(_subtree(start, end, nodes))
        elif end - start > 1:
            middle = start + _split(end - start)
            cut = bisect_left(wanted, middle, low, high)
            walk(start, middle, low, cut)
            walk(middle, end, cut, high)

    walk(0, size, 0, len(wanted))
    return hashes


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 section 2.1.2: that the first `old` leaves of the tree of `new` leaves are the tree of size `old`.

    Empty for old = 0 and for old = new, where there is nothing to prove. Raises ValueError unless 0 <= old <= new.
    """
    _require_natural("old", old)
    _require_natural("new", new)
    if old > new:
        raise ValueError(f"a tree of {old} leaves is no part of a tree of {new}")
    if old in (0, new):
        return []
    hashes: list[bytes] = []
    start, end = 0, new
    while old < end:
        middle = start + _split(end - start)
        if old <= middle:
            hashes.append(_subtree(middle, end, nodes))
            end = middle
        else:
            hashes.append(_subtree(start, middle, nodes))
            start = middle
    if start:  # otherwise the subtree is the old tree itself, whose root the verifier has
        hashes.append(_subtree(start, end, nodes))
    return hashes[::-1]


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows that leaf `index` (from 0) of the tree with this size and root has this hash (RFC 9162 section 2.1.3.2).

    False for a wrong number of hashes, hashes of a wrong length, and an index beyond the size. Raises ValueError for no natural number.
    """
    _require_natural("index", index)
    _require_natural("size", size)
    if index >= size or not _are_hashes(leaf_hash, root, *proof):
        return False
    node, last = index, size - 1  # fn and sn of the RFC: places in the current level, of this node and of the last one
    computed = leaf_hash
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and computed == root


def verify_joint_inclusion(leaves: Mapping[int, bytes], size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` shows that all of `leaves`, hashes by index (from 0), are in the tree with this size and root.

    Hashes each node once. False for no leaves, for a wrong number of hashes, hashes of a wrong length, and an index beyond the size.
    Raises ValueError for no natural number.
    """
    _require_natural("size", size)
    for index in leaves:
        _require_natural("index", index)
    wanted = sorted(leaves)
    if not wanted or not wanted[-1] < size < _MOST_LEAVES or not _are_hashes(root, *leaves.values(), *proof):
        return False
    others: Iterator[bytes] = iter(proof)

    def walk(start: int, end: int, low: int, high: int) -> bytes:  # as in `joint_inclusion_proof`
        if low == high:
            return next(others)
        if end - start == 1:
            return leaves[start]
        middle = start + _split(end - start)
        cut = bisect_left(wanted, middle, low, high)
        left = walk(start, middle, low, cut)
        return node_hash(left, walk(middle, end, cut, high))

    try:
        computed = walk(0, size, 0, len(wanted))
    except StopIteration:
        return False
    return computed == root and next(others, None) is None


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that the tree of `new_size` leaves begins with that of `old_size` (RFC 9162 section 2.1.4.2).

    Every tree begins with the tree without leaves, and with itself; the proof of either is empty. False for a tree that shrank, a wrong
    number of hashes, and hashes of a wrong length. Raises ValueError for no natural number.
    """
    _require_natural("old_size", old_size)
    _require_natural("new_size", new_size)
    if old_size > new_size or not _are_hashes(old_root, new_root, *proof):
        return False
    if old_size == new_size:
        return not proof and old_root == new_root and (old_size > 0 or old_root == empty_root())
    if old_size == 0:
        return not proof and old_root == empty_root()
    if not proof:
        return False
    hashes = list(proof)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    node, last = old_size - 1, new_size - 1  # fn and sn of the RFC, as above
    while node & 1:
        node >>= 1
        last >>= 1
    old_computed = new_computed = hashes[0]
    for value in hashes[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old_computed = node_hash(value, old_computed)
            new_computed = node_hash(value, new_computed)
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            new_computed = node_hash(new_computed, value)
        node >>= 1
        last >>= 1
    return last == 0 and old_computed == old_root and new_computed == new_root


def _split(size: int) -> int:
    """The largest power of two below `size`: how many leaves the left subtree has."""
    return 1 << ((size - 1).bit_length() - 1)


def _subtree(start: int, end: int, nodes: Nodes) -> bytes:
    """Hash of the tree over the leaves from `start` to before `end`; `start` is a multiple of the left subtree's size."""
    full: list[bytes] = []
    while start < end:
        level = (end - start).bit_length() - 1
        full.append(nodes(level, start >> level))
        start += 1 << level
    return _join(full)


def _join(full: Sequence[bytes]) -> bytes:
    """Hash of the tree that consists of these full subtrees, from left to right, each smaller than the one before."""
    computed = full[-1]
    for left in reversed(full[:-1]):
        computed = node_hash(left, computed)
    return computed


def _are_hashes(*values: object) -> bool:
    return all(isinstance(value, bytes) and len(value) == HASH_SIZE for value in values)


def _require_natural(name: str, value: object) -> None:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be a non-negative integer, got {value!r}")
