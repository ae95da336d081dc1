"""Many intents under one root: the tree of a batch, the statement that a witness is given, and each intent's path to it.

The tree is that of RFC 6962 section 2.1 over the raw intent digests, sorted and unique, so that a set has one root in whatever order it
came. A root does not fix the size of its tree, therefore the statement names both, and a verifier demands that both are the same.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from nexus_attest.attestation.errors import InvalidAnchor
from nexus_attest.attestation.members import require_digest
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.integrity import PREFIX, prefixed, sha256_digest, unprefixed
from nexus_control.json_data import decode_json
from nexus_control.merkle import leaf_hash, node_hash, verify_inclusion

__all__ = ["HASH_NAME", "MAX_MEMBERS", "STATEMENT_TYPE", "STATEMENT_VERSION", "BatchTree", "Statement"]

STATEMENT_TYPE = "nexus.attest.batch"
STATEMENT_VERSION = "1"
HASH_NAME = "rfc6962-sha256"

MAX_MEMBERS = 65_536
"""Of one batch."""

_ROOT = re.compile("[0-9a-f]{64}")
_MOST_MEMBERS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Statement:
    """What is witnessed: that a tree has this root (32 bytes) and this number of leaves. Raises InvalidAnchor for other values."""

    root: bytes
    size: int

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.root), bytes) or len(self.root) != 32:
            raise InvalidAnchor("the root of a batch has 32 bytes")
        if type(self.size) is not int or not 1 <= self.size <= _MOST_MEMBERS:
            raise InvalidAnchor(f"a batch has at least one member, not {self.size!r:.100}")

    def to_bytes(self) -> bytes:
        """The statement as canonical JSON: the same bytes for every witness."""
        return canonical_json_bytes({"h": HASH_NAME, "n": self.size, "r": self.root.hex(), "t": STATEMENT_TYPE, "v": STATEMENT_VERSION})

    def digest(self) -> str:
        """Prefixed digest of its bytes."""
        return prefixed(sha256_digest(self.to_bytes()))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Statement":
        """The inverse of `to_bytes`. Raises InvalidAnchor for any other bytes, other versions and hash functions among them."""
        try:
            members: object = decode_json(data.decode())
        except ValueError as problem:
            raise InvalidAnchor(f"the statement is no JSON: {problem!s:.200}") from None
        if not isinstance(members, dict):
            raise InvalidAnchor("the statement must be an object")
        given = cast("dict[str, Any]", members)
        root = given.get("r")
        if not isinstance(root, str) or not _ROOT.fullmatch(root):
            raise InvalidAnchor("the statement has no root of 64 lowercase hex digits")
        made = cls(bytes.fromhex(root), given.get("n", 0))
        if made.to_bytes() != data:
            raise InvalidAnchor(f"not a statement of version {STATEMENT_VERSION} with {HASH_NAME} in its one form")
        return made

    def covers(self, intent_digest: str, index: int, path: Sequence[bytes]) -> bool:
        """Whether `path` shows that the intent (prefixed digest) is leaf `index` of this tree."""
        leaf = leaf_hash(bytes.fromhex(unprefixed(require_digest(intent_digest, "intent_digest", InvalidAnchor))))
        return verify_inclusion(leaf, index, self.size, path, self.root)


class BatchTree:
    """The tree over some intents, by their prefixed digests. Raises InvalidAnchor for none, more than 65,536, or what is no digest."""

    def __init__(self, intent_digests: Iterable[str]) -> None:
        self.members = tuple(sorted({require_digest(digest, "intent_digest", InvalidAnchor) for digest in intent_digests}))
        if not 1 <= len(self.members) <= MAX_MEMBERS:
            raise InvalidAnchor(f"a batch has 1 to {MAX_MEMBERS} members, not {len(self.members)}")

    @cached_property
    def statement(self) -> Statement:
        """What a witness is given."""
        return Statement(self._levels[-1][0], len(self.members))

    def path(self, index: int) -> list[bytes]:
        """The inclusion proof of member `index`, from the leaf up (RFC 6962 section 2.1.1)."""
        siblings: list[bytes] = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):  # a lone right node goes up as it is
                siblings.append(level[sibling])
            index >>= 1
        return siblings

    def paths(self) -> list[tuple[bytes, ...]]:
        """The inclusion proofs of all members in their order; in a quarter of the time that asking for each takes."""
        above: list[tuple[bytes, ...]] = [()]
        for level in reversed(self._levels[:-1]):
            pairs = len(level) & ~1
            below = [above[-1]] * len(level)  # a lone right node has the path of the node that it goes up as
            below[:pairs:2] = [(sibling, *path) for sibling, path in zip(level[1::2], above, strict=False)]
            below[1:pairs:2] = [(sibling, *path) for sibling, path in zip(level[:pairs:2], above, strict=False)]
            above = below
        return above

    @cached_property
    def _levels(self) -> list[list[bytes]]:
        """The hashes from the leaves to the root. Pairing neighbours gives the tree of the RFC, whose left subtrees are full."""
        start = len(PREFIX)
        level = [leaf_hash(bytes.fromhex(digest[start:])) for digest in self.members]
        levels = [level]
        while len(level) > 1:
            odd = level[-1:] if len(level) & 1 else []
            level = [*map(node_hash, level[::2], level[1::2]), *odd]
            levels.append(level)
        return levels
