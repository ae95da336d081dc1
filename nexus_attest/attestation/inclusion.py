"""Whether an intent is in the tree that a witness was told of, by what a receipt says of its place there."""

from collections.abc import Mapping, Set
from typing import Any, cast

from nexus_attest.attestation.batch_tree import HASH_NAME, Statement
from nexus_attest.attestation.errors import WitnessMismatch

__all__ = ["require_included", "require_members", "require_same"]

_NODE_LENGTHS = frozenset({64})
_MEMBERS = {"alg", "index", "size", "path"}


def require_included(statement: Statement, intent_digest: str, proof: Mapping[str, Any]) -> None:
    """Raises WitnessMismatch unless `proof["merkle"]` leads from the intent (prefixed digest) to the root of the statement, at its size.

    The form is `{"alg": "rfc6962-sha256", "index", "size", "path": [64 lowercase hex digits, ...]}`, and nothing else.
    """
    found: object = proof.get("merkle")
    if not isinstance(found, dict) or set(cast("dict[str, Any]", found)) != _MEMBERS:
        raise WitnessMismatch("merkle must have exactly the members alg, index, size, path")
    merkle = cast("dict[str, Any]", found)
    require_same("merkle.alg", merkle["alg"], HASH_NAME)
    require_same("merkle.size", merkle["size"], statement.size)
    index, path = merkle["index"], merkle["path"]
    if type(index) is not int or index < 0 or type(merkle["size"]) is not int or not isinstance(path, list):
        raise WitnessMismatch("merkle.index must be a number from 0 on, merkle.path an array")
    try:
        digits = "".join(cast("list[str]", path))
        joined = bytes.fromhex(digits)
    except (ValueError, TypeError):
        raise WitnessMismatch("merkle.path must be hex digits") from None
    if joined.hex() != digits or not _NODE_LENGTHS.issuperset(map(len, cast("list[str]", path))):
        raise WitnessMismatch("merkle.path must be hashes of 64 lowercase hex digits")
    nodes = [joined[start : start + 32] for start in range(0, len(joined), 32)]
    if not statement.covers(intent_digest, index, nodes):
        raise WitnessMismatch("the intent is not under the root of the batch by this path")


def require_members(what: str, held: Mapping[str, Any], known: Set[str]) -> None:
    """Raises WitnessMismatch for a member that is not known: one that is not compared could stand for one that would be."""
    if not held.keys() <= known:
        raise WitnessMismatch(f"{what} has an unknown member {next(name for name in held if name not in known)!r:.100}")


def require_same(what: str, actual: object, expected: object) -> None:
    """Raises WitnessMismatch unless both are equal."""
    if actual != expected:
        raise WitnessMismatch(f"{what} is {actual!r:.100}, not {expected!r:.100}")
