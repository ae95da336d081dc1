"""The proof of one transaction as a document: XLS-41 ("XPOP"), and around it what that standard has no place for.

    type        "nexus.xrpl.proof/1"
    xpop        ledger, transaction and validation, as XLS-41 has them; without `validation` when no validator's vote was recorded
    headers     when the votes are for a later ledger: the headers (118 bytes, hex) that lead from the ledger of `xpop` to it
    manifests   newer manifests of validators than those in the list (base64)
    lists       the lists of more publishers, in the form of `xpop.validation.unl`

The last three are there only when they are needed. A document has one form: hex digits are capitals, a path is written as nested lists,
numbers of drops are strings, and there is no other member; so one proof has one digest. An XPOP of somebody else is read in any of its
forms. Sizes are bounded before anything is decoded. Nothing here is judged: that is the matter of `proof_check`.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast

from nexus_attest.attestation.errors import ProofRefused
from nexus_attest.attestation.xrpl.ledger_header import HEADER_BYTES, LedgerHeader
from nexus_attest.attestation.xrpl.ledger_tree import EMPTY, MAX_DEPTH, node_hash
from nexus_attest.attestation.xrpl.validators import MAX_VALIDATORS, PublishedList, base64_bytes, hex_bytes
from nexus_control.integrity import content_digest, prefixed

__all__ = ["MAX_HEADERS", "MAX_PROOF_BYTES", "PROOF_TYPE", "LedgerProof"]

PROOF_TYPE = "nexus.xrpl.proof/1"

MAX_PROOF_BYTES = 16 * 1024 * 1024
"""Of a file with a proof."""

MAX_HEADERS = 10_000
"""Between a transaction's ledger and the one that was voted for: about eleven hours."""

_MAX_LISTS = 8
_MAX_BLOB_BYTES = 16 * 1024
_MAX_META_BYTES = 32 * 1024
_MAX_VOTE_BYTES = 4 * 1024
_MAX_MANIFEST_BYTES = 1024
_DROPS = re.compile("0|[1-9][0-9]{0,18}")
_NIBBLES = "0123456789ABCDEF"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerProof:
    """A proof, decoded. `path` are inner nodes of 512 bytes from the root of the transactions down.

    `headers` follow `header`; `votes` are validations, for the last of them all, under the validators' keys as `n...`.
    """

    header: LedgerHeader
    blob: bytes
    metadata: bytes
    path: tuple[bytes, ...]
    votes: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    lists: tuple[PublishedList, ...] = ()
    headers: tuple[LedgerHeader, ...] = ()
    manifests: tuple[bytes, ...] = ()

    @property
    def voted(self) -> LedgerHeader:
        """The header of the ledger that the votes are for."""
        return self.headers[-1] if self.headers else self.header

    def to_dict(self) -> dict[str, Any]:
        """The document. `path` must be that of the transaction."""
        validation: dict[str, Any] = {}
        if self.lists:
            votes = {key: vote.hex().upper() for key, vote in self.votes.items()}
            validation = {"validation": {"data": votes, "unl": self.lists[0].to_dict()}}
        transaction = {"blob": self.blob.hex().upper(), "meta": self.metadata.hex().upper(), "proof": _nested(self.path)}
        data: dict[str, Any] = {"type": PROOF_TYPE, "xpop": {"ledger": _ledger(self.header), "transaction": transaction, **validation}}
        if self.headers:
            data["headers"] = [header.to_bytes().hex().upper() for header in self.headers]
        if self.manifests:
            data["manifests"] = [b64encode(manifest).decode() for manifest in self.manifests]
        if len(self.lists) > 1:
            data["lists"] = [published.to_dict() for published in self.lists[1:]]
        return data

    def digest(self) -> str:
        """Prefixed digest of the document's canonical JSON, whatever its file looks like."""
        return prefixed(content_digest(self.to_dict()))

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The proof in a document of ours, in its one form, or in an XPOP. Raises ProofRefused."""
        document = _object(data, "a proof")
        if "type" not in document:
            return cls(**_xpop(document))
        if document["type"] != PROOF_TYPE:
            raise ProofRefused(f"a proof of type {document['type']!r:.100}, not {PROOF_TYPE}")
        members = _xpop(_member(document, "xpop"))
        headers = _array(document.get("headers", []), MAX_HEADERS, "headers")
        more = _array(document.get("lists", []), _MAX_LISTS - 1, "lists")
        manifests = _array(document.get("manifests", []), MAX_VALIDATORS, "manifests")
        members["lists"] += tuple(PublishedList.from_dict(_object(published, "a validator list")) for published in more)
        proof = cls(
            **members,
            headers=tuple(LedgerHeader.from_bytes(hex_bytes(header, HEADER_BYTES, "a header")) for header in headers),
            manifests=tuple(base64_bytes(manifest, _MAX_MANIFEST_BYTES, "a manifest") for manifest in manifests),
        )
        if not proof.lists and (headers or manifests or more):
            raise ProofRefused("a proof without votes has no use for headers, manifests or lists")
        if proof.to_dict() != document:
            raise ProofRefused("the proof is not written in its one form, or has members that are not known")
        return proof


def _xpop(document: Mapping[str, Any]) -> dict[str, Any]:
    ledger, transaction = _member(document, "ledger"), _member(document, "transaction")
    members: dict[str, Any] = {
        "header": _header(ledger),
        "blob": hex_bytes(transaction.get("blob"), _MAX_BLOB_BYTES, "transaction.blob"),
        "metadata": hex_bytes(transaction.get("meta"), _MAX_META_BYTES, "transaction.meta"),
        "path": _path(transaction.get("proof")),
        "lists": (),
    }
    if "validation" in document:
        validation = _member(document, "validation")
        votes = _member(validation, "data")
        if len(votes) > MAX_VALIDATORS:
            raise ProofRefused(f"a proof has at most {MAX_VALIDATORS} validations, not {len(votes)}")
        members["votes"] = {key: hex_bytes(vote, _MAX_VOTE_BYTES, "a validation") for key, vote in votes.items()}
        members["lists"] = (PublishedList.from_dict(_member(validation, "unl")),)
    return members


def _header(ledger: Mapping[str, Any]) -> LedgerHeader:
    coins = ledger.get("coins")
    if isinstance(coins, str) and _DROPS.fullmatch(coins):
        coins = int(coins)
    phash, txroot, acroot = (hex_bytes(ledger.get(name), 32, f"ledger.{name}") for name in ("phash", "txroot", "acroot"))
    return LedgerHeader(
        index=cast("int", ledger.get("index")),  # this and the others are checked by the class
        coins=cast("int", coins),
        parent_hash=phash,
        transaction_root=txroot,
        state_root=acroot,
        parent_close_time=cast("int", ledger.get("pclose")),
        close_time=cast("int", ledger.get("close")),
        resolution=cast("int", ledger.get("cres")),
        flags=cast("int", ledger.get("flags")),
    )


def _ledger(header: LedgerHeader) -> dict[str, Any]:
    return {
        "index": header.index,
        "coins": str(header.coins),
        "phash": header.parent_hash.hex().upper(),
        "txroot": header.transaction_root.hex().upper(),
        "acroot": header.state_root.hex().upper(),
        "pclose": header.parent_close_time,
        "close": header.close_time,
        "cres": header.resolution,
        "flags": header.flags,
    }


def _path(proof: object) -> tuple[bytes, ...]:
    """The nodes from the root down. The one below a node stands in its place among the children, so its hash is computed, not read."""
    levels: list[tuple[list[bytes], int | None]] = []
    below: object = proof
    while below is not None:
        if len(levels) == MAX_DEPTH:
            raise ProofRefused(f"a path has at most {MAX_DEPTH} nodes")
        children, place, below = _list_node(cast("list[object]", below)) if isinstance(below, list) else _object_node(below)
        levels.append((children, place))
    nodes: list[bytes] = []
    for children, place in reversed(levels):
        if place is not None:
            children[place] = node_hash(nodes[-1])
        nodes.append(b"".join(children))
    if not nodes:
        raise ProofRefused("a proof has a path with at least one node")
    return tuple(reversed(nodes))


def _list_node(node: list[object]) -> tuple[list[bytes], int | None, object]:
    """Children, the place of the node below, and that node: `[hash, ..., [...], ...]`."""
    if len(node) != 16:
        raise ProofRefused(f"a node of a path has 16 children, not {len(node)}")
    inner = [place for place, child in enumerate(node) if not isinstance(child, str)]
    if len(inner) > 1 or (inner and not isinstance(node[inner[0]], list | dict)):
        raise ProofRefused("a node of a path has hashes for children, and at most one node below it")
    children = [hex_bytes(child, 32, "a child of a node") if isinstance(child, str) else EMPTY for child in node]
    return (children, inner[0], node[inner[0]]) if inner else (children, None, None)


def _object_node(data: object) -> tuple[list[bytes], int | None, object]:
    """The same: `{"hash", "key", "children": {"0": {...}, ...}}`, in which a leaf has no children."""
    given = _member(_object(data, "a node of a path"), "children")
    children, inner = [EMPTY] * 16, list[int]()
    for digit, child in given.items():
        place = _NIBBLES.find(digit.upper()) if len(digit) == 1 else -1
        if place < 0:
            raise ProofRefused(f"a child of a node stands under one hex digit, not {digit!r:.20}")
        members = _object(child, "a child of a node")
        children[place] = hex_bytes(members.get("hash"), 32, "the hash of a child")
        if members.get("children"):
            inner.append(place)
    if len(inner) > 1:
        raise ProofRefused("a node of a path has at most one node below it")
    if not inner:
        return children, None, None
    return children, inner[0], next(child for digit, child in given.items() if digit.upper() == _NIBBLES[inner[0]])


def _nested(path: tuple[bytes, ...]) -> list[Any]:
    """A path as one list of 16 in the other. The place of a node is found by its hash: no other child has it."""
    below: list[Any] | None = None
    below_hash = b""
    for node in reversed(path):
        hashes = [node[start : start + 32] for start in range(0, len(node), 32)]
        children: list[Any] = [child.hex().upper() for child in hashes]
        if below is not None:
            children[hashes.index(below_hash)] = below
        below, below_hash = children, node_hash(node)
    return below or []


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProofRefused(f"{what} must be an object, got {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _member(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    if name not in data:
        raise ProofRefused(f"the proof has no {name}")
    return _object(data[name], name)


def _array(value: object, limit: int, what: str) -> list[object]:
    if not isinstance(value, list):
        raise ProofRefused(f"{what} must be an array, got {type(value).__name__}")
    items = cast("list[object]", value)
    if len(items) > limit:
        raise ProofRefused(f"{what} has at most {limit} entries, not {len(items)}")
    return items
