"""A ledger with a witnessed batch, the proof of its transaction, the pins of a reader, and a recorder that hears every vote."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from witness_testing import World, intent

from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_attest.attestation.witness import WitnessProof
from nexus_attest.attestation.xrpl.batch_receipt import Anchor
from nexus_attest.attestation.xrpl.collector import ProofCollector
from nexus_attest.attestation.xrpl.ledger_header import LedgerHeader
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.proof import LedgerProof
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.recorder import ValidationRecorder
from nexus_attest.attestation.xrpl.validators import PublishedList
from nexus_attest.testledger import ClosedLedger, hashing, since_2000, xpop
from nexus_attest.trust import Ledger as Pin
from nexus_attest.trust import TrustPolicy


@lru_cache(maxsize=4)
def witnessed(members: int = 5) -> World:
    """A world in which intents 0, 1, ... were witnessed in one batch; not to be changed."""
    world = World(max_members=members)
    world.queue.enqueue_many(intent(number) for number in range(members))
    world.run()
    return world


def pin(world: World, **changes: Any) -> Pin:
    """What a reader who trusts the publisher of this world pins."""
    members: dict[str, Any] = {
        "network": "local",
        "accounts": (world.account,),
        "publisher_keys": (world.ledger.validators.pin,),
        **changes,
    }
    return Pin(**members)


def policy(world: World, **changes: Any) -> TrustPolicy:
    return TrustPolicy(ledgers=(pin(world, **changes),))


def bare(world: World) -> dict[str, Any]:
    """The proof as an XPOP, as the ledger itself makes it."""
    return xpop(world.ledger, world.attempts()[0].hash)


def document(world: World) -> dict[str, Any]:
    """The same as a document of ours, which nobody else holds."""
    return json.loads(json.dumps(LedgerProof.from_dict(bare(world)).to_dict()))


def agreed(world: World, blob: bytes, metadata: bytes, *, votes: Iterable[int] | None = None, **changes: Any) -> dict[str, Any]:
    """A proof of any transaction with any metadata, as if the validators had agreed on a ledger that holds it alone."""
    closed, _ = world.ledger.find(world.attempts()[0].hash) or pytest.fail("not witnessed")
    key = hashing.transaction_id(blob)
    leaves = {key: hashing.transaction_leaf(blob, metadata)}
    header = replace(closed.header, transaction_root=hashing.tree_root(leaves), **changes)
    signed = world.ledger.validators.validate(header, votes)
    return json.loads(
        json.dumps(
            LedgerProof(
                header=LedgerHeader.from_bytes(header.encode()),
                blob=blob,
                metadata=metadata,
                path=tuple(b"".join(node) for node in hashing.tree_path(leaves, key)),
                votes={vote.signing.node: vote.data for vote in signed},
                lists=(PublishedList.from_dict(bare(world)["validation"]["unl"]),),
            ).to_dict()
        )
    )


def receipt_of(world: World, number: int) -> tuple[AttestationReceipt, AttestationIntent]:
    (receipt,) = world.confirmed(intent(number))
    return receipt, intent(number)


def witness_proof(world: World, number: int = 0, **changes: Any) -> dict[str, Any]:
    """A proof for one intent, with changes to its receipt."""
    receipt, item = receipt_of(world, number)
    data = {**receipt.to_dict(), **changes}
    made = WitnessProof(intent=item, receipt=AttestationReceipt.from_dict(data), evidence=document(world))
    return json.loads(json.dumps(made.to_dict()))


LISTS = "http://publisher/"


async def no_time(_: float) -> None:
    """Tests do not wait."""


class Capture:
    """A world whose votes are recorded as they are sent, without a wire between."""

    def __init__(self, *, record: bool = True, keys: bool = True, **options: Any) -> None:
        self.world = World(**options)
        self.store = ProofStore(self.world.queue.storage)
        self.keys = (self.world.ledger.validators.pin,) if keys else ()
        self.nodes = LedgerNodes([LedgerNode("http://node0", self.world.wire)], clock=self.world.clock)
        self.recorder = ValidationRecorder(
            self.store, (), lists=[LISTS], publisher_keys=self.keys, nodes=self.nodes, clock=self.world.clock, get=self.published
        )
        asyncio.run(self.recorder.refresh_lists())
        self.recording = record
        self.world.ledger.listen(self.hear)

    async def published(self, url: str, limit: int) -> bytes:
        assert (url, limit) == (LISTS, 4 * 1024 * 1024)
        return json.dumps(self.world.ledger.validators.published(since_2000(self.world.ledger.clock()) - 1000)).encode()

    def hear(self, closed: ClosedLedger) -> None:
        if self.recording:
            messages = [json.dumps(vote.message(0)) for vote in self.world.ledger.validations(closed.index)]
            self.tell(messages)

    def tell(self, messages: list[str]) -> None:
        """What a server sends; then it goes away."""
        left = messages[::-1]

        async def receive() -> str:
            if not left:
                raise ConnectionError
            return left.pop()

        with pytest.raises(ConnectionError):
            asyncio.run(self.recorder.hear("ws://server", receive))

    def collector(self, **options: Any) -> ProofCollector:
        return ProofCollector(self.store, self.nodes, self.keys, clock=self.world.clock, sleep=no_time, **options)

    def run(self, count: int = 3, **options: Any) -> list[dict[str, Any]]:
        """Witness so many intents; gives their witness proofs."""
        self.world.queue.enqueue_many(intent(number) for number in range(count))
        worker = self.world.worker(prove=self.collector(**options))
        for _ in range(10):
            self.world.cycle(worker, close=True)
        return [self.proof(number) for number in range(count)]

    def proof(self, number: int) -> dict[str, Any]:
        (receipt,) = self.world.confirmed(intent(number))
        digest = receipt.evidence_digests.get("xrpl.xpop")
        stored = None if digest is None else self.store.proof(digest)
        proof = WitnessProof(intent=intent(number), receipt=receipt, evidence=None if stored is None else stored.document)
        return json.loads(json.dumps(proof.to_dict()))

    def anchor(self) -> Anchor:
        (attempt,) = self.world.attempts()
        return Anchor(
            account=self.world.account,
            network="local",
            tx_hash=attempt.hash,
            ledger_index=attempt.ledger or 0,
            ledger_hash=attempt.ledger_hash,
            close_time=attempt.close_time,
            engine_result="tesSUCCESS",
        )
