"""What witnessing in batches costs here: the tree, a receipt, the queue, a signature. The ledger and the way to it come on top."""

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from statistics import median
from time import perf_counter

from bench.harness import Result, Settings, by_turns, milliseconds, ratio
from nexus_attest.attestation.batch_tree import MAX_MEMBERS, BatchTree
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.witness import Level, Testimony, WitnessJudge
from nexus_attest.attestation.xrpl.adapter import XRPL_BACKEND
from nexus_attest.attestation.xrpl.batch import BatchSettings, BatchWitness
from nexus_attest.attestation.xrpl.batch_receipt import Anchor, batch_receipt
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.proof import LedgerProof
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.trust import Ledger as Pin
from nexus_attest.trust import TrustPolicy

_SEED = "sEdSJHS4oiAdz7w2X2ni1gFiqtbJHqE"
"""16 zero bytes."""

_ACCOUNT = "r9zRhGr7b6xPekLvT6wP4qNdWMryaumZS7"
_COMMIT = 1000
_SIGNATURES = 20
_ANCHOR = Anchor(
    account=_ACCOUNT,
    network="mainnet",
    tx_hash="AB" * 32,
    ledger_index=100_000_000,
    ledger_hash=None,
    close_time="2026-01-15T12:00:00Z",
    engine_result="tesSUCCESS",
    level="quorum",
    xpop="sha256:" + "e" * 64,
)


def trees(settings: Settings) -> Iterator[Result]:
    """Roots and all inclusion proofs; a batch has at most 65,536 members, so 100,000 intents make two."""
    intents = settings.size(100_000, 1000)
    digests = [f"sha256:{number:064x}" for number in range(intents)]
    batches = [digests[start : start + MAX_MEMBERS] for start in range(0, intents, MAX_MEMBERS)]

    def build() -> None:
        for members in batches:
            tree = BatchTree(members)
            if len(tree.paths()) != tree.statement.size:
                raise RuntimeError("a member has no proof")

    (sample,) = by_turns(settings, build, rounds=settings.size(7, 2))
    detail = f"{len(batches)} batches, {milliseconds(sample)}, {len(sample)} rounds"
    yield Result(name=f"trees and proofs, {intents:,} intents", unit="s", value=median(sample), goal=0.5, detail=detail)


def receipts(settings: Settings) -> Iterator[Result]:
    """The longest receipt of a batch, as compact JSON."""
    for members, goal in ((settings.size(1000, 10), 1500), (settings.size(4096, 20), None)):
        tree = BatchTree(f"sha256:{number:064x}" for number in range(members))
        made = (batch_receipt(tree, index, _ANCHOR, attempt=1, created_at="2026-01-15T12:00:00+00:00") for index in range(members))
        longest = max(len(json.dumps(receipt.to_dict(), separators=(",", ":"))) for receipt in made)
        yield Result(name=f"receipt of a batch of {members:,}", unit="bytes", value=longest, goal=goal, detail="the longest, compact JSON")


def queue(settings: Settings) -> Iterator[Result]:
    """Intents into the queue, durable, a thousand in each commit: 2,000 a second are 500 ms."""
    numbers = count()
    with AttestationQueue(settings.directory / "queue.db") as found:

        def enqueue() -> None:
            members = (AttestationIntent("build.artifact", f"sha256:{next(numbers):064x}", env="prod") for _ in range(_COMMIT))
            found.enqueue_many(members)

        (sample,) = by_turns(settings, enqueue, clock=perf_counter, rounds=settings.size(30, 2))
    detail = f"{_COMMIT / median(sample):,.0f} intents a second, {len(sample)} commits"
    yield Result(name=f"enqueue {_COMMIT:,} intents, one commit", unit="ms", value=median(sample) * 1000, goal=500, detail=detail)


def verification(settings: Settings) -> Iterator[Result]:
    """What a reader does offline: the proof of a transaction once, then the receipts of its batch."""
    from nexus_attest.testledger import Clock, Ledger, Node, NodeTransport, key_from_seed, xpop

    members = settings.size(1000, 10)
    ledger = Ledger({key_from_seed(_SEED).address: 100_000_000}, clock=Clock(), first_index=100)
    intents = [AttestationIntent("build.artifact", f"sha256:{number:064x}") for number in range(members)]
    with AttestationQueue(clock=ledger.clock) as found:
        ids = found.enqueue_many(intents)
        nodes = LedgerNodes([LedgerNode("local", NodeTransport(Node(ledger)))], clock=ledger.clock)
        signer, batching = LocalWalletSigner(key_of_seed(_SEED)), BatchSettings(network="local", max_age=0)
        worker = BatchWitness(found, nodes, signer, batching, clock=ledger.clock)
        asyncio.run(worker.run(interval=0, until_empty=True, max_cycles=50, watch=lambda _: ledger.close()))
        receipts = [found.replay(queue_id)[0] for queue_id in ids]
    document = LedgerProof.from_dict(xpop(ledger, receipts[0].proof["tx_hash"])).to_dict()
    trust = TrustPolicy(ledgers=(Pin("local", (_ACCOUNT,), (ledger.validators.pin,)),))

    def judged() -> Testimony:
        testimony = WitnessJudge(trust).testimony(XRPL_BACKEND, document)
        if testimony.level is not Level.QUORUM:
            raise RuntimeError(f"the proof shows {testimony.level}")
        return testimony

    testimony = judged()

    def covered() -> None:
        for receipt, intent in zip(receipts, intents, strict=True):
            testimony.covers(receipt, intent)

    once, each = by_turns(settings, judged, covered)
    detail = f"{milliseconds(once)}, 5 validators, {len(once)} rounds"
    yield Result(name="verify the proof of a transaction", unit="ms", value=median(once) * 1000, goal=150, detail=detail)
    detail = f"{milliseconds(each)}, after the proof that they share, {len(each)} rounds"
    yield Result(name=f"verify {members:,} receipts of a batch", unit="ms", value=median(each) * 1000, goal=30, detail=detail)


def signatures(settings: Settings) -> Iterator[Result]:
    """The signature of a transaction by libsodium, in units of what xrpl-py's own code takes: a hundred times quicker is 0.01."""
    from xrpl.core.addresscodec import decode_seed
    from xrpl.core.keypairs import derive_keypair, sign

    payload = b"STX\0" + bytes(300)
    ours, (_, secret) = key_of_seed(_SEED), derive_keypair(_SEED)
    if decode_seed(_SEED)[0] != bytes(16) or ours.sign(payload).hex().upper() != sign(payload, secret):
        raise RuntimeError("the signatures differ")

    def often(one: Callable[[], object]) -> None:
        for _ in range(_SIGNATURES):  # one alone is so short that the clock would count
            one()

    mine, theirs = partial(often, partial(ours.sign, payload)), partial(often, partial(sign, payload, secret))
    yield ratio(f"sign {_SIGNATURES} times, PyNaCl over xrpl-py", settings, mine, theirs, goal=0.01)
