"""The tree of a ledger's transactions: its leaves, its root, and the path from the root to one leaf.

A tree of radix 16 over the nibbles of 32-byte keys, the high nibble first (rippled, SHAMap). A subtree with one leaf is that leaf, except
at the root, which is always an inner node. Every hash is SHA-512Half under the prefix of its kind (rippled, HashPrefix.h), so that no
leaf can pass for a node. Bytes in, bytes out.
"""

from collections.abc import Mapping, Sequence

from nexus_attest.attestation.xrpl.codec import sha512_half

__all__ = ["EMPTY", "MAX_DEPTH", "NODE_BYTES", "node_hash", "path_problem", "transaction_leaf", "tree_path"]

EMPTY = bytes(32)
"""Stands for a child that is not there."""

NODE_BYTES = 16 * 32
"""Of an inner node: the hashes of its children."""

MAX_DEPTH = 64
"""A key has as many nibbles."""

_LEAF, _NODE = b"SND\0", b"MIN\0"


def transaction_leaf(blob: bytes, metadata: bytes, key: bytes) -> bytes:
    """The hash of a leaf; `key` is the id of the transaction. Raises ValueError for more bytes than the format can hold."""
    return sha512_half(_LEAF + _with_length(blob) + _with_length(metadata) + key)


def node_hash(node: bytes) -> bytes:
    """The hash of an inner node."""
    return sha512_half(_NODE + node)


def tree_path(leaves: Mapping[bytes, bytes], key: bytes) -> tuple[bytes, list[bytes]]:
    """The root over leaf hashes by their keys, and the inner nodes from it down to the leaf of `key`, which must be there."""
    path: list[bytes] = []
    wanted = key.hex()

    def hash_of(items: Sequence[tuple[str, bytes]], depth: int) -> bytes:
        if len(items) == 1 and depth:
            return items[0][1]
        below: dict[str, list[tuple[str, bytes]]] = {nibble: [] for nibble in "0123456789abcdef"}
        for item in items:
            below[item[0][depth]].append(item)
        node = b"".join(hash_of(group, depth + 1) if group else EMPTY for group in below.values())
        if items[0][0][:depth] == wanted[:depth]:
            path.append(node)
        return node_hash(node)

    root = hash_of([(name.hex(), leaf) for name, leaf in leaves.items()], 0)
    return root, path[::-1]


def path_problem(root: bytes, key: bytes, path: Sequence[bytes], leaf: bytes) -> str | None:
    """Why `path`, inner nodes of 512 bytes from the root down, does not show that `leaf` stands under `key`; None when it does."""
    if not 1 <= len(path) <= MAX_DEPTH:
        return f"a path has 1 to {MAX_DEPTH} nodes, not {len(path)}"
    expected = root
    for depth, (node, nibble) in enumerate(zip(path, key.hex(), strict=False)):
        if len(node) != NODE_BYTES:
            return f"node {depth} has not 16 children"
        if node_hash(node) != expected:
            return f"node {depth} does not hash to {'the root' if not depth else 'what the node above says'}"
        start = int(nibble, 16) * 32
        expected = node[start : start + 32]
    return None if expected == leaf else "the path does not end on the transaction with its metadata"


def _with_length(data: bytes) -> bytes:
    """`data` behind its length (https://xrpl.org/docs/references/protocol/binary-format#length-prefixing)."""
    size = len(data)
    if size <= 192:
        return size.to_bytes() + data
    if size <= 12_480:
        return (size - 193 + (193 << 8)).to_bytes(2) + data
    if size <= 918_744:
        return (size - 12_481 + (241 << 16)).to_bytes(3) + data
    raise ValueError(f"{size} bytes are more than the ledger's format can hold")
