"""What it costs to check proofs of a ledger offline: a proof once, and then each receipt of its batch.

Floors: the signatures in a proof by OpenSSL and libsodium alone; for receipts, as many SHA-256 as their intents and paths take.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.harness import Result, Settings, ratio
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_attest.attestation.witness import Level, WitnessJudge
from nexus_attest.attestation.xrpl.batch import BatchSettings, BatchWitness
from nexus_attest.attestation.xrpl.codec import verify_payload
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.proof import LedgerProof
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.attestation.xrpl.validators import Manifest, Validation, ValidatorList
from nexus_attest.testledger import Clock, Ledger, Node, NodeTransport, Validators, seed_of, xpop
from nexus_attest.trust import Ledger as Pin
from nexus_attest.trust import TrustPolicy
from nexus_control.canonical_json import canonical_json_bytes


@dataclass(frozen=True)
class Batch:
    """A witnessed batch: its proof as JSON text, who is to be believed, and its members."""

    text: str
    trust: TrustPolicy
    members: list[tuple[AttestationReceipt, AttestationIntent]]


def proofs(settings: Settings) -> Iterator[Result]:
    """The proof of a batch, from its text down to the memo, and its receipts after it; `witness_verification` has the times."""
    batch = _batch(settings.size(1000, 10), validators=5)
    yield from _shared(settings, batch, 5)
    yield from _receipts(settings, batch)
    yield from _shared(settings, _batch(1, validators=settings.size(35, 7)), settings.size(35, 7))


def _shared(settings: Settings, batch: Batch, validators: int) -> Iterator[Result]:
    def check() -> None:
        verdict = WitnessJudge(batch.trust).judge_evidence("xrpl", json.loads(batch.text))
        if verdict.level is not Level.QUORUM or verdict.failed or verdict.gaps:
            raise RuntimeError(f"the proof does not verify: {verdict.to_dict()}")

    signed = _signatures(LedgerProof.from_dict(json.loads(batch.text)))

    def floor() -> None:
        if not all(verify_payload(*one) for one in signed):
            raise RuntimeError("a signature does not verify")

    yield ratio(f"check a proof, {validators} validators, over signatures", settings, check, floor, goal=8)


def _receipts(settings: Settings, batch: Batch) -> Iterator[Result]:
    testimony = WitnessJudge(batch.trust).testimony("xrpl", json.loads(batch.text))

    def check() -> None:
        for receipt, intent in batch.members:
            testimony.covers(receipt, intent)

    members = len(batch.members)
    texts = [canonical_json_bytes(intent.to_canonical_dict()) for _, intent in batch.members]
    nodes = [[bytes.fromhex(node) for node in receipt.proof["merkle"]["path"]] for receipt, _ in batch.members]
    yield ratio(f"check {members:,} receipts over their hashes", settings, check, partial(_hashed, texts, nodes), goal=6)


def _hashed(texts: list[bytes], paths: list[list[bytes]]) -> None:
    for text, path in zip(texts, paths, strict=True):
        found = hashlib.sha256(b"\0" + hashlib.sha256(text).digest()).digest()
        for node in path:
            found = hashlib.sha256(b"\1" + found + node).digest()


def _signatures(proof: LedgerProof) -> list[tuple[str, bytes, bytes]]:
    """Keys, messages and signatures that a verifier must look at: of the publisher, its list, the voters and their votes."""
    (published,) = proof.lists
    publisher = Manifest.from_bytes(published.manifest)
    votes = [Validation.from_bytes(vote) for vote in proof.votes.values()]
    listed = (Manifest.from_bytes(data) for data in ValidatorList.from_published(published).manifests.values())
    manifests = [publisher, *listed]
    return [
        (publisher.signing, published.blob, published.signature),
        *((one.master, one.signed, one.master_signature) for one in manifests),
        *((one.signing, one.signed, one.signature) for one in manifests),
        *((vote.signing, vote.signed, vote.signature) for vote in votes),
    ]


def _batch(members: int, validators: int) -> Batch:
    signer = LocalWalletSigner(key_of_seed(seed_of("bench")))
    ledger = Ledger({signer.account: 100_000_000}, clock=Clock(), validators=Validators("bench", validators))
    intents = [AttestationIntent("nexus.audit_package", f"sha256:{number:064x}") for number in range(members)]
    with AttestationQueue(clock=ledger.clock) as queue:
        queue.enqueue_many(intents)
        nodes = LedgerNodes([LedgerNode("local", NodeTransport(Node(ledger)))], clock=ledger.clock)
        worker = BatchWitness(queue, nodes, signer, BatchSettings(network="bench", max_age=0), clock=ledger.clock)
        asyncio.run(worker.run(interval=0, until_empty=True, max_cycles=50, watch=lambda _: ledger.close()))
        found: dict[str, Any] = {f"sha256:{intent.intent_digest()}": intent for intent in intents}
        pairs = [(receipt, intent) for digest, intent in found.items() for receipt in queue.replay(digest)]
    proof = LedgerProof.from_dict(xpop(ledger, pairs[0][0].proof["tx_hash"]))
    pin = Pin("bench", (signer.account,), (ledger.validators.pin,))
    return Batch(json.dumps(proof.to_dict()), TrustPolicy(ledgers=(pin,)), pairs)
