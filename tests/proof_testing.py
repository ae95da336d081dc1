"""A ledger with a witnessed batch, the proof of its transaction, and the pins of a reader."""

import json
from functools import lru_cache
from typing import Any

from witness_testing import World, intent

from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_attest.attestation.witness import WitnessProof
from nexus_attest.attestation.xrpl.proof import LedgerProof
from nexus_attest.testledger import xpop
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


def receipt_of(world: World, number: int) -> tuple[AttestationReceipt, AttestationIntent]:
    (receipt,) = world.confirmed(intent(number))
    return receipt, intent(number)


def witness_proof(world: World, number: int = 0, **changes: Any) -> dict[str, Any]:
    """A proof for one intent, with changes to its receipt."""
    receipt, item = receipt_of(world, number)
    data = {**receipt.to_dict(), **changes}
    made = WitnessProof(intent=item, receipt=AttestationReceipt.from_dict(data), evidence=document(world))
    return json.loads(json.dumps(made.to_dict()))
