"""Receipts of intents that were witnessed together: what the memo of such a batch says, and whether an intent is in it.

The memo is canonical JSON of root and size of a tree of RFC 6962 over the raw digests of intents; each receipt holds the path of its own.
Everything here is computed from the receipt; whether the ledger has the memo is for a proof of the transaction to show.
"""

from typing import Any, cast

from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.integrity import prefixed, sha256_digest, unprefixed
from nexus_control.merkle import leaf_hash, verify_inclusion

__all__ = ["batch_problem", "batch_result", "batch_root", "batch_statement"]

_HASH_NAME = "rfc6962-sha256"
_PROOF_TYPE = "nexus.attest.batch/1"


def batch_result(receipt: AttestationReceipt) -> str | None:
    """The result of the batch's transaction, which its receipts do not repeat: no other one confirms. None without a batch."""
    return "tesSUCCESS" if receipt.status is ReceiptStatus.CONFIRMED and receipt.proof.get("type") == _PROOF_TYPE else None


def batch_root(receipt: AttestationReceipt) -> str | None:
    """The prefixed root of the receipt's batch, None for a receipt of no batch."""
    return receipt.evidence_digests.get(f"{receipt.backend}.batch.root")


def batch_statement(receipt: AttestationReceipt) -> dict[str, Any] | None:
    """The memo of the receipt's batch, None unless it has the memo digest of the receipt."""
    root, merkle = batch_root(receipt), _merkle(receipt)
    if root is None or merkle is None:
        return None
    statement = {"h": _HASH_NAME, "n": merkle["size"], "r": unprefixed(root), "t": "nexus.attest.batch", "v": "1"}
    digest = prefixed(sha256_digest(canonical_json_bytes(statement)))
    return statement if digest == receipt.evidence_digests.get("memo_digest") else None


def batch_problem(receipt: AttestationReceipt) -> str | None:
    """Why the receipt does not show that its intent is in its batch; None when it does."""
    merkle = _merkle(receipt)
    if merkle is None:
        return "it is not of the form that is known here"
    statement = batch_statement(receipt)
    if statement is None:
        return "root and size are not those of the memo"
    leaf = leaf_hash(bytes.fromhex(unprefixed(receipt.intent_digest)))
    if not verify_inclusion(leaf, merkle["index"], merkle["size"], merkle["path"], bytes.fromhex(statement["r"])):
        return "the path does not lead from the intent to the root"
    return None


def _merkle(receipt: AttestationReceipt) -> dict[str, Any] | None:
    """Index, size and path (as bytes) of the proof; None for any other form."""
    found: object = receipt.proof.get("merkle")
    if not isinstance(found, dict):
        return None
    merkle = cast("dict[str, Any]", found)
    if set(merkle) != {"alg", "index", "size", "path"} or merkle["alg"] != _HASH_NAME or type(merkle["path"]) is not list:
        return None
    if any(type(merkle[name]) is not int or merkle[name] < 0 for name in ("index", "size")):
        return None
    path = cast("list[Any]", merkle["path"])
    try:
        nodes = [bytes.fromhex(node) for node in path]
    except (ValueError, TypeError):
        return None
    return {**merkle, "path": nodes} if [node.hex() for node in nodes] == path else None
