"""Witnesses that answer at once, with evidence which stands alone: unlike a ledger, where a transaction must become final.

Such a witness is given a statement: root and size of a tree of intents, the same bytes for all of them, so several may see one tree.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

from nexus_attest.attestation.batch_tree import HASH_NAME, BatchTree, Statement
from nexus_attest.attestation.errors import WitnessMismatch
from nexus_attest.attestation.inclusion import require_included, require_members, require_same
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus

__all__ = ["STAMP_PROOF_TYPE", "Shown", "StampingWitness", "covering", "evidence_key", "root_key", "stamp_receipt"]

STAMP_PROOF_TYPE = "nexus.attest.stamp/1"
"""Of the proof in a receipt: `level`, `by`, `not_after` if any, and `merkle`, which leads from the intent to the root of its batch."""

_PROOF = frozenset({"type", "level", "by", "not_after", "merkle"})


class Shown(NamedTuple):
    """What evidence shows: the statement existed by `not_after` (UTC, ISO 8601), on the word of `by`. None: by no time that was checked.

    `level` is `authority` or `self`, see `nexus_attest.attestation.witness.Level`.
    """

    level: str
    not_after: str | None
    by: str


class StampingWitness(Protocol):
    """Gives evidence for statements, and reads it."""

    backend: str
    """As receipts name it."""

    name: str
    """Which one of its kind."""

    async def witness(self, statement: Statement) -> bytes:
        """Evidence for this statement. Asking again is harmless: another stamp for the same statement.

        Raises WitnessUnavailable when there was no answer that can be relied on, and WitnessRefused when asking again will not help.
        """
        ...

    def verify(self, statement: Statement, evidence: bytes) -> Shown:
        """What the evidence shows, offline. Raises WitnessMismatch, which names the checks that failed."""
        ...


def root_key(backend: str) -> str:
    """The key under which a receipt of a batch has the root, prefixed, among its evidence."""
    return f"{backend}.batch.root"


def evidence_key(backend: str) -> str:
    """The key under which it has the digest of the witness's evidence."""
    return f"{backend}.evidence"


def stamp_receipt(
    tree: BatchTree, index: int, evidence_digest: str, shown: Shown, *, backend: str, attempt: int, created_at: str
) -> AttestationReceipt:
    """The CONFIRMED receipt of member `index` of a stamped batch."""
    statement = tree.statement
    digests = {
        "memo_digest": statement.digest(),
        root_key(backend): f"sha256:{statement.root.hex()}",
        evidence_key(backend): evidence_digest,
    }
    when = {} if shown.not_after is None else {"not_after": shown.not_after}
    merkle = {"alg": HASH_NAME, "index": index, "size": statement.size, "path": [node.hex() for node in tree.path(index)]}
    proof = {"type": STAMP_PROOF_TYPE, "level": shown.level, "by": shown.by, **when, "merkle": merkle}
    return AttestationReceipt(tree.members[index], backend, attempt, ReceiptStatus.CONFIRMED, created_at, digests, proof)


def covering(
    backend: str, *, statement: Statement | None = None, level: str | None = None, not_after: str | None = None
) -> Callable[[AttestationReceipt, AttestationIntent], None]:
    """What raises WitnessMismatch unless a receipt and an intent belong to a stamp of this statement, of this level and time.

    Without a statement and a level, the receipt is only compared with itself.
    """

    def covers(receipt: AttestationReceipt, intent: AttestationIntent) -> None:
        digest, proof = f"sha256:{intent.intent_digest()}", receipt.proof
        require_same("intent_digest", receipt.intent_digest, digest)
        require_same("status", receipt.status, ReceiptStatus.CONFIRMED)
        require_same("backend", receipt.backend, backend)
        require_same("error", receipt.error, None)
        require_same("type", proof.get("type"), STAMP_PROOF_TYPE)
        require_members("proof", proof, _PROOF)
        named = ("memo_digest", root_key(backend), evidence_key(backend))
        require_same("what evidence_digests names", sorted(receipt.evidence_digests), sorted(named))
        about = _statement_of(receipt) if statement is None else statement
        require_same(root_key(backend), receipt.evidence_digests.get(root_key(backend)), f"sha256:{about.root.hex()}")
        require_same("memo_digest", receipt.evidence_digests.get("memo_digest"), about.digest())
        if level is not None:
            require_same("level", proof.get("level"), level)
            require_same("not_after", proof.get("not_after"), not_after)
        require_included(about, digest, proof)

    return covers


def _statement_of(receipt: AttestationReceipt) -> Statement:
    """The statement that a receipt says its batch has."""
    root, merkle = receipt.evidence_digests.get(root_key(receipt.backend), ""), receipt.proof.get("merkle")
    size: object = cast("dict[str, Any]", merkle).get("size") if isinstance(merkle, dict) else None
    try:
        return Statement(bytes.fromhex(root.removeprefix("sha256:")), cast("int", size))
    except ValueError as problem:
        raise WitnessMismatch(f"the receipt names no batch: {problem!s:.200}") from None
