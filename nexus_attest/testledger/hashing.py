"""The ledger's hashes: SHA-512Half under a prefix for each kind of object (rippled, `HashPrefix.h`), and the tree over them.

Bytes in, bytes out. Written apart from the code under test, so that a mistake in one of the two shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha512

__all__ = ["ZERO", "Header", "account_index", "half", "state_leaf", "transaction_id", "transaction_leaf", "tree_path", "tree_root"]

ZERO = bytes(32)

_TRANSACTION = b"TXN\0"
_TRANSACTION_LEAF = b"SND\0"
_STATE_LEAF = b"MLN\0"
_INNER = b"MIN\0"
_HEADER = b"LWR\0"

_ACCOUNT_SPACE = b"\0a"


def half(data: bytes) -> bytes:
    """The first half of the SHA-512 of `data`: 32 bytes."""
    return sha512(data).digest()[:32]


def transaction_id(blob: bytes) -> bytes:
    """The id of a signed transaction."""
    return half(_TRANSACTION + blob)


def transaction_leaf(blob: bytes, metadata: bytes) -> bytes:
    """The leaf of a transaction in the tree of its ledger; its key is the id."""
    return half(_TRANSACTION_LEAF + _with_length(blob) + _with_length(metadata) + transaction_id(blob))


def state_leaf(entry: bytes, index: bytes) -> bytes:
    """The leaf of an object in the state tree; its key is the index."""
    return half(_STATE_LEAF + entry + index)


def account_index(account_id: bytes) -> bytes:
    """Where the AccountRoot of an account (20 bytes) stands in the state tree."""
    return half(_ACCOUNT_SPACE + account_id)


def tree_root(leaves: Mapping[bytes, bytes]) -> bytes:
    """The root over leaf hashes by their 32-byte keys; 32 zero bytes when there are none."""
    return _node(sorted(leaves.items()), 0)


def tree_path(leaves: Mapping[bytes, bytes], key: bytes) -> list[list[bytes]]:
    """The inner nodes from the root down to the leaf of `key`, each as its 16 child hashes. Raises KeyError for a key without leaf."""
    if key not in leaves:
        raise KeyError(key.hex())
    nodes: list[list[bytes]] = []
    items = sorted(leaves.items())
    while len(items) > 1 or not nodes:
        depth = len(nodes)
        groups = _by_nibble(items, depth)
        nodes.append([_node(group, depth + 1) for group in groups])
        items = groups[_nibble(key, depth)]
    return nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A ledger header. Times are seconds since 2000-01-01 UTC, coins are drops; flag bit 0: the validators did not agree on the time."""

    index: int
    coins: int
    parent_hash: bytes
    transaction_root: bytes
    state_root: bytes
    parent_close_time: int
    close_time: int
    resolution: int = 10
    flags: int = 0

    def encode(self) -> bytes:
        """The 118 bytes that are hashed."""
        numbers = self.index.to_bytes(4) + self.coins.to_bytes(8)
        times = self.parent_close_time.to_bytes(4) + self.close_time.to_bytes(4)
        return numbers + self.parent_hash + self.transaction_root + self.state_root + times + bytes((self.resolution, self.flags))

    def hash(self) -> bytes:
        """The hash of the ledger."""
        return half(_HEADER + self.encode())


def _node(items: Sequence[tuple[bytes, bytes]], depth: int) -> bytes:
    """The hash of a subtree: a leaf alone stands for itself, except at the root."""
    if not items:
        return ZERO
    if len(items) == 1 and depth:
        return items[0][1]
    return half(_INNER + b"".join(_node(group, depth + 1) for group in _by_nibble(items, depth)))


def _by_nibble(items: Sequence[tuple[bytes, bytes]], depth: int) -> list[list[tuple[bytes, bytes]]]:
    groups: list[list[tuple[bytes, bytes]]] = [[] for _ in range(16)]
    for item in items:
        groups[_nibble(item[0], depth)].append(item)
    return groups


def _nibble(key: bytes, depth: int) -> int:
    return key[depth // 2] & 15 if depth % 2 else key[depth // 2] >> 4


def _with_length(data: bytes) -> bytes:
    """`data` after its length, as the format of the ledger writes lengths."""
    size = len(data)
    if size <= 192:
        return bytes((size,)) + data
    if size <= 12480:
        return (size - 193 + (193 << 8)).to_bytes(2) + data
    if size <= 918744:
        return (size - 12481 + (241 << 16)).to_bytes(3) + data
    raise ValueError(f"{size} bytes are more than the format can hold")
