"""Proofs of what a queue had witnessed: capturing them while it happens, and handing them out afterwards, one document per intent.

Receipts are never changed. When better evidence was found later, it goes into the document beside the receipt that was written before.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from nexus_attest.attestation.errors import InvalidReceipt, NotWitnessed
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.stamp import evidence_key
from nexus_attest.attestation.stamp_store import StampStore
from nexus_attest.attestation.witness import Level, WitnessProof
from nexus_attest.attestation.witness_file import Network
from nexus_attest.attestation.xrpl.batch import Proof
from nexus_attest.attestation.xrpl.batch_receipt import Anchor
from nexus_attest.attestation.xrpl.collector import ProofCollector
from nexus_attest.attestation.xrpl.node import LedgerNodes
from nexus_attest.attestation.xrpl.proof import MAX_HEADERS
from nexus_attest.attestation.xrpl.proof_check import EVIDENCE_KEY
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.recorder import ValidationRecorder
from nexus_control.events import Clock, utc_now

__all__ = ["collector_for", "is_proven", "later_collector_for", "proven_once", "raise_proof", "recorder_for", "witness_proofs"]

_XRPL = "xrpl"


def recorder_for(network: Network, queue: AttestationQueue, nodes: LedgerNodes, *, clock: Clock = utc_now) -> ValidationRecorder | None:
    """Who records the votes of a network while batches are under way; None when its file names no streams."""
    if not network.streams:
        return None
    return ValidationRecorder(
        ProofStore(queue.storage), network.streams, lists=network.lists, publisher_keys=network.publisher_keys, nodes=nodes, clock=clock
    )


def collector_for(network: Network, queue: AttestationQueue, nodes: LedgerNodes, *, clock: Clock = utc_now) -> ProofCollector:
    """Who makes the proof of each batch when it is confirmed: `BatchWitness(prove=...)`. It waits for votes where they are recorded."""
    tries = 8 if network.streams else 1
    return ProofCollector(ProofStore(queue.storage), nodes, network.publisher_keys, tries=tries, clock=clock)


def later_collector_for(network: Network, queue: AttestationQueue, nodes: LedgerNodes, *, clock: Clock = utc_now) -> ProofCollector:
    """Who makes a proof afterwards, for `raise_proof`: it waits for nothing, and looks for votes as far ahead as a proof may reach."""
    return ProofCollector(ProofStore(queue.storage), nodes, network.publisher_keys, tries=1, reach=MAX_HEADERS, clock=clock)


def proven_once(store: ProofStore, prove: Callable[[Anchor], Awaitable[Proof | None]]) -> Callable[[Anchor], Awaitable[Proof | None]]:
    """`prove`, but for what is proven: all receipts of a batch name one proof, also when a crash left some of them to be written later."""

    async def proven(anchor: Anchor) -> Proof | None:
        known = store.proofs_of(anchor.tx_hash)
        return Proof(known[-1].digest, known[-1].level) if known else await prove(anchor)

    return proven


def witness_proofs(queue: AttestationQueue, intent_digest: str) -> list[WitnessProof]:
    """A proof by each witness that has confirmed an intent (prefixed digest), with the best evidence that is stored.

    Sorted by backend, and by the names of several of one: two time-stamp authorities are two witnesses.

    Raises NotWitnessed when none has, or the intent is unknown; InvalidReceipt and StoreError for what is stored.
    """
    queued = queue.get(intent_digest)
    confirmed = [receipt for receipt in queue.replay(intent_digest) if receipt.status is ReceiptStatus.CONFIRMED]
    if queued is None or not confirmed:
        raise NotWitnessed(f"no witness has confirmed the intent {intent_digest!r:.100}")
    latest = {(receipt.backend, str(receipt.proof.get("by", ""))): receipt for receipt in confirmed}
    return [
        WitnessProof(intent=queued.intent, receipt=receipt, evidence=_evidence(queue, receipt)) for _, receipt in sorted(latest.items())
    ]


async def raise_proof(collector: ProofCollector, receipt: AttestationReceipt) -> Proof | None:
    """Make a proof for a receipt of the ledger that was written without one, or with one of a lower level; None when servers show none.

    Raises LedgerUnavailable when no server shows the transaction, InvalidReceipt for a receipt that does not say where it is.
    """
    proof = receipt.proof
    account, tx_hash, ledger_index = proof.get("account"), proof.get("tx_hash"), proof.get("ledger_index")
    if not isinstance(account, str) or not isinstance(tx_hash, str) or type(ledger_index) is not int:
        raise InvalidReceipt("the receipt does not say where its transaction is")
    anchor = Anchor(
        account=account,
        network=str(proof.get("network", "")),
        tx_hash=tx_hash,
        ledger_index=ledger_index,
        ledger_hash=None,
        close_time=None,
        engine_result="tesSUCCESS",
    )
    return await collector(anchor)


def is_proven(queue: AttestationQueue, receipt: AttestationReceipt) -> bool:
    """Whether a proof of level `quorum` is stored for the transaction of a receipt."""
    stored = ProofStore(queue.storage).proofs_of(str(receipt.proof.get("tx_hash")))
    return any(proof.level == Level.QUORUM for proof in stored)


def _evidence(queue: AttestationQueue, receipt: AttestationReceipt) -> dict[str, Any] | None:
    if receipt.backend != _XRPL:
        stamp = StampStore(queue.storage).by_digest(receipt.evidence_digests.get(evidence_key(receipt.backend), ""))
        return None if stamp is None else json.loads(stamp.evidence)
    store = ProofStore(queue.storage)
    named = store.proof(receipt.evidence_digests.get(EVIDENCE_KEY, ""))
    if named is None or named.level != Level.QUORUM:
        better = [stored for stored in store.proofs_of(str(receipt.proof.get("tx_hash"))) if stored.level == Level.QUORUM]
        named = better[0] if better else named
    return None if named is None else named.document
