"""The worker with a client that can ask for more than a submission needs: batches, each witnessed once, whatever gets lost."""

import asyncio
from typing import Any

import pytest
from witness_testing import SEED, World, intent
from xrpl_testing import NOON, Ledger, Signer

from nexus_attest.attestation import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.members import compact_utc
from nexus_attest.attestation.worker import process_one_xrpl, process_submitted, run_worker
from nexus_attest.attestation.xrpl.client import TxStatusResult
from nexus_attest.attestation.xrpl.completion import NodeCompletion
from nexus_attest.attestation.xrpl.jsonrpc_client import JsonRpcClient
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
from nexus_attest.attestation.xrpl.memo import MemoCodec
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.testledger import http_front, seed_of


def work(world: World, cycles: int, **options: Any) -> int:
    """Cycles of the worker; a ledger closes after each."""

    async def run() -> int:
        client, processed = JsonRpcClient("http://node0", world.wire), 0
        for _ in range(cycles):
            processed += await run_worker(
                world.queue, client, world.signer, interval=0, max_cycles=1, now_fn=lambda: compact_utc(world.clock), **options
            )
            world.ledger.close()
        return processed

    return asyncio.run(run())


def test_everything_that_waits_shares_one_transaction() -> None:
    world = World()
    members = [intent(number) for number in range(20)]
    world.queue.enqueue_many(members)
    assert work(world, 4) == 20
    world.require_exactly_once(members)
    assert len(world.witnesses()) == 1
    assert {receipt.proof["type"] for item in members for receipt in world.confirmed(item)} == {"nexus.attest.batch/1"}


def test_a_lost_answer_does_not_make_a_second_transaction() -> None:
    world = World()
    world.queue.enqueue(intent(1))
    world.wire.on["submit"] = ["drop_response", "drop_response", "drop_response"]
    assert work(world, 12) == 1
    world.require_exactly_once([intent(1)])
    assert len(set(world.sent())) == 1


def test_no_batch_takes_an_intent_whose_own_transaction_no_node_answered_for() -> None:
    """It is on the ledger, and only its answer was lost."""
    world = World()
    world.queue.enqueue(intent(1))

    def completed(account: str) -> dict[str, Any]:
        ledger = world.ledger.validated
        return {"Sequence": ledger.state[account].sequence, "Fee": "10", "LastLedgerSequence": ledger.index + 15}

    signer = LocalWalletSigner(key_of_seed(SEED), complete=completed)
    world.wire.on["submit"] = ["drop_response"]
    told = asyncio.run(process_one_xrpl(world.queue, JsonRpcClient("http://node0", world.wire), signer))
    assert [receipt.status for receipt in told.receipts] == ["FAILED"]
    world.clock.advance(400)
    world.ledger.close()
    world.cycle(world.worker(), 4, close=True)
    assert (len(world.witnesses()), world.statuses()) == (1, ["DEFERRED"])
    assert work(world, 2) == 1
    assert (len(world.witnesses()), world.statuses(), len(set(world.sent()))) == (1, ["CONFIRMED"], 1)


def test_a_worker_that_waits_for_nothing_but_the_ledger_sends_at_once_what_it_signed() -> None:
    world = World()
    world.queue.enqueue(intent(1))
    client = JsonRpcClient("http://node0", world.wire)

    async def run() -> int:
        stop = asyncio.Event()

        async def stop_when_sent() -> None:
            while not world.sent():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            stop.set()

        work = run_worker(world.queue, client, world.signer, interval=3600, stop=stop, now_fn=lambda: compact_utc(world.clock))
        return (await asyncio.gather(work, stop_when_sent()))[0]

    assert asyncio.run(asyncio.wait_for(run(), 60)) == 0
    assert len(world.sent()) == 1


def test_what_was_sent_on_its_own_is_asked_for_and_goes_into_no_batch() -> None:
    world = World()
    world.queue.enqueue(intent(1))
    with http_front(world.nodes[0]) as url:
        signer = LocalWalletSigner(key_of_seed(seed_of("witness")), complete=NodeCompletion(url))
        lost = Ledger(found=TxStatusResult(False))
        single = JsonRpcClient("http://node0", world.wire)
        lost.submit = single.submit
        result = asyncio.run(process_one_xrpl(world.queue, lost, signer, now_fn=lambda: compact_utc(world.clock)))
    assert [receipt.status.value for receipt in result.receipts] == ["SUBMITTED", "DEFERRED"]
    world.ledger.close()
    world.queue.enqueue(intent(2))
    assert work(world, 5) == 2
    assert world.statuses() == ["CONFIRMED", "CONFIRMED"]
    assert "type" not in world.confirmed(intent(1))[0].proof
    assert world.confirmed(intent(2))[0].proof["merkle"]["size"] == 1
    assert world.ledger.validated.state[world.account].sequence == 3
    assert work(world, 2) == 0


def test_an_intent_whose_transaction_was_known_before_it_was_queued_is_asked_for() -> None:
    """It goes into no batch, so that nobody else would ever look at it."""
    world = World()
    queue_id = "sha256:" + intent(1).intent_digest()
    memo = MemoCodec.digest(intent(1))
    sent = AttestationReceipt(queue_id, "xrpl", 1, ReceiptStatus.SUBMITTED, NOON, {"memo_digest": memo}, {"tx_hash": "AB" * 32})
    assert world.queue.record_receipt(sent)
    world.queue.enqueue(intent(1))
    found = Ledger()
    assert asyncio.run(process_submitted(world.queue, found, Signer())) == 1
    assert (found.asked, found.blobs, world.statuses()) == (["AB" * 32], [], ["CONFIRMED"])


def test_a_client_that_can_only_submit_and_look_up_serves_one_intent_after_the_other() -> None:
    world = World()
    world.queue.enqueue_many([intent(1), intent(2)])
    ledger = Ledger()
    assert asyncio.run(run_worker(world.queue, ledger, Signer(), interval=0, max_cycles=2)) == 2
    assert len(ledger.blobs) == 2


@pytest.mark.parametrize("interval", [-1, float("nan")])
def test_a_pause_that_is_none_is_refused(interval: float) -> None:
    world = World()
    with pytest.raises(ValueError, match="interval"):
        asyncio.run(world.worker().run(interval=interval, max_cycles=1))
