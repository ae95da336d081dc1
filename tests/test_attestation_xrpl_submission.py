"""The rules of reliable submission one by one: what is stored, sent, sent again, signed again, believed and refused."""

import asyncio
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from witness_testing import SEED, Crash, World, intent
from xrpl.core.binarycodec import decode, encode

from nexus_attest.attestation.errors import LedgerUnavailable, WrongNetwork
from nexus_attest.attestation.local_witness import SelfWitness
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.stamping import StampWitness
from nexus_attest.attestation.worker import process_one_xrpl
from nexus_attest.attestation.xrpl import batch
from nexus_attest.attestation.xrpl.batch import BatchSettings, BatchWitness, Proof
from nexus_attest.attestation.xrpl.client import SubmitResult, TxStatusResult
from nexus_attest.attestation.xrpl.codec import transaction_id
from nexus_attest.attestation.xrpl.completion import NodeCompletion
from nexus_attest.attestation.xrpl.jsonrpc_client import JsonRpcClient
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner, SignResult
from nexus_attest.attestation.xrpl.submission import SubmissionSettings, Submitter
from nexus_attest.attestation.xrpl.submission_store import Slot, SlotState, SubmissionStore
from nexus_attest.key_errors import SignerFailed
from nexus_attest.testledger import Faults, Ledger, Node, http_front, key_from_seed, seed_of, sign_transaction
from nexus_control.errors import InputError, StoreConflict


def world_with(count: int = 1, **options: Any) -> World:
    given: dict[str, Any] = {"lease": 0, **options}
    world = World(**given)
    world.queue.enqueue_many(intent(number) for number in range(count))
    return world


# -- the good way -----------------------------------------------------------------------------------------------------------------


def test_intents_are_witnessed_in_one_transaction_and_get_their_receipts() -> None:
    world = world_with(3)
    worker = world.worker()
    assert world.cycle(worker).state is SlotState.OPEN  # signed and stored
    assert world.sent() == []
    assert world.cycle(worker).state is SlotState.OPEN  # sent
    assert len(world.sent()) == 1
    progress = world.cycle(worker, close=True)
    assert (progress.receipts, progress.state, progress.waiting, progress.stopped) == (3, None, 0, None)
    (receipt,) = world.confirmed(intent(1))
    closed, entry = world.ledger.find(world.attempts()[0].hash) or (None, None)
    assert closed is not None
    assert entry is not None
    assert receipt.proof["ledger_index"] == closed.index
    assert receipt.proof["ledger_hash"] == closed.hash
    assert receipt.proof["close_time"].endswith("Z")
    assert (receipt.proof["level"], receipt.proof["network"], receipt.attempt) == ("server", "local", 1)
    world.require_exactly_once([intent(number) for number in range(3)])
    assert entry.transaction.fields["Fee"] == "10"
    assert set(entry.transaction.fields) == {
        "TransactionType",
        "Account",
        "Memos",
        "Sequence",
        "Fee",
        "LastLedgerSequence",
        "SigningPubKey",
        "TxnSignature",
    } | ({"Flags"} & set(entry.transaction.fields))


@pytest.mark.parametrize("seed", [SEED, seed_of("secp", secp256k1=True)])
@pytest.mark.parametrize("network_id", [0, 1024, 1025, 21337])
def test_both_kinds_of_keys_and_every_network_are_served(seed: str, network_id: int) -> None:
    world = world_with(2, seed=seed, network_id=network_id)
    world.run()
    world.require_exactly_once([intent(0), intent(1)])


def test_a_batch_closes_when_it_is_full_or_its_oldest_intent_has_waited() -> None:
    world = world_with(5, max_members=4)
    world.settings = BatchSettings(network="local", max_members=4, max_age=30)
    worker = world.worker()
    world.cycle(worker, 5, close=True)
    assert (world.statuses().count("CONFIRMED"), worker.status()["waiting"]) == (4, 1)
    assert worker.status()["batches"] == {"CONFIRMED": {"batches": 1, "members": 4}}
    world.clock.advance(30)
    world.cycle(worker, 4, close=True)
    assert world.statuses().count("CONFIRMED") == 5


def test_between_the_commits_of_many_receipts_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_RECEIPTS_PER_COMMIT", 2)
    world = world_with(5, max_members=5)
    worker, turns = world.worker(), list[int]()
    world.cycle(worker, 2)
    world.ledger.close()

    async def other() -> None:
        while world.statuses().count("CONFIRMED") < 5:
            turns.append(world.statuses().count("CONFIRMED"))
            await asyncio.sleep(0.02)

    async def both() -> None:
        await asyncio.gather(worker.cycle(), other())

    asyncio.run(both())
    assert {2, 4} <= set(turns)


def test_an_intent_whose_time_cannot_be_read_does_not_wait() -> None:
    world = World()
    world.settings = BatchSettings(network="local", max_age=600)
    world.queue.enqueue(intent(1), created_at="yesterday")
    world.queue.enqueue(intent(2), created_at="2999-01-01T00:00:00")
    assert world.cycle(world.worker()).waiting == 0


def test_the_proof_that_was_captured_is_named_in_the_receipts() -> None:
    digest = "sha256:" + "c" * 64

    async def prove(anchor: Any) -> Proof:
        assert anchor.tx_hash
        return Proof(digest, "quorum")

    async def nothing(_: Any) -> Proof:
        raise LedgerUnavailable("no validations were recorded")

    for asked, expected in ((prove, ("quorum", digest)), (nothing, ("server", None))):
        world = world_with(1)
        world.cycle(world.worker(prove=asked), 4, close=True)
        (receipt,) = world.confirmed(intent(0))
        assert (receipt.proof["level"], receipt.evidence_digests.get("xrpl.xpop")) == expected


async def no_proof(_: Any) -> None:
    return None


async def some_proof(_: Any) -> Proof:
    return Proof("sha256:" + "c" * 64, "quorum")


@pytest.mark.parametrize(("network", "prove"), [("renamed", no_proof), ("local", some_proof)], ids=["another name", "a proof"])
def test_a_member_has_one_receipt_whatever_changed_after_a_crash_between_two_commits(
    network: str, prove: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_RECEIPTS_PER_COMMIT", 2)
    world = world_with(5, max_members=5)
    worker = world.worker(prove=no_proof)
    world.cycle(worker, 2)

    async def crash() -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(batch, "give_way", crash)
        with pytest.raises(Crash):
            world.cycle(worker, close=True)
    assert world.statuses().count("CONFIRMED") == 2
    world.settings = replace(world.settings, network=network)
    assert world.cycle(world.worker(prove=prove)).receipts == 3
    world.require_exactly_once([intent(number) for number in range(5)])


# -- stored before sent -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["crash", "crash_after"])
def test_a_transaction_is_on_disk_before_its_first_byte_leaves(event: str, tmp_path: Path) -> None:
    world = world_with(1, path=tmp_path / "q.db")
    world.wire.on["submit"] = [event]
    worker = world.worker()
    world.cycle(worker)
    with pytest.raises(Crash):
        world.cycle(worker)
    stored = sqlite3.connect(tmp_path / "q.db").execute("SELECT blob FROM witness_attempts").fetchall()
    assert world.sent() == ([] if event == "crash" else [stored[0][0]])
    world.cycle(world.worker(), 4, close=True)
    assert {blob for (blob,) in stored} == set(world.sent())
    world.require_exactly_once([intent(0)])


def test_only_the_stored_bytes_are_ever_sent_again() -> None:
    world = world_with(1)
    world.wire.on["submit"] = ["drop_response", "http503", "drop_request", "timeout"]
    world.ledger.close(leave_out=())
    worker = world.worker()
    world.cycle(worker)
    for _ in range(8):
        try:
            world.cycle(worker, close=False)
        except LedgerUnavailable:
            world.clock.advance(5)
    assert len(set(world.sent())) == 1
    world.cycle(worker, 2, close=True)
    world.require_exactly_once([intent(0)])


def test_within_one_ledger_nothing_is_sent_twice() -> None:
    world = world_with(1)
    world.cycle(world.worker(), 2)
    worker = world.worker()
    world.cycle(worker, 5)
    assert len(world.sent()) == 2  # once by each process


# -- signed again only after a proven end -----------------------------------------------------------------------------------------


def lost(world: World, worker: BatchWitness, closes: int) -> None:
    """All sends are lost while so many ledgers close."""
    for _ in range(closes):
        world.wire.on["submit"] = ["drop_request"]
        world.ledger.close()
        try:
            world.cycle(worker)
        except LedgerUnavailable:
            continue
    world.wire.on.clear()


def test_a_dead_transaction_is_signed_anew_with_the_same_sequence() -> None:
    world = world_with(1, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    first = world.attempts()[0]
    lost(world, worker, 6)
    one, two = world.attempts()
    assert (one.hash, one.state, one.seq) == (first.hash, "EXPIRED", two.seq)
    assert two.first > one.lls
    assert (two.n, two.lls - two.first) == (2, 4)
    world.cycle(worker, 3, close=True)
    world.require_exactly_once([intent(0)])


def test_where_history_is_missing_nothing_is_dead() -> None:
    """The first copy was applied and the answer lost; the server has forgotten the ledgers in which it could be."""
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5, confirm_answers=1))
    forgetful, whole = world.nodes
    worker = world.worker()
    world.cycle(worker, 2)
    world.ledger.close()
    for _ in range(8):
        world.ledger.close()
    forgetful.available_from = world.ledger.validated.index
    whole.faults.add("tx", *["http503"] * 3)
    for _ in range(3):
        world.cycle(worker)
        world.clock.advance(2)
    assert [attempt.state for attempt in world.attempts()] == ["MAYBE"]
    whole.faults.calm()
    world.clock.advance(60)
    world.cycle(worker)
    world.require_exactly_once([intent(0)])


def test_one_server_that_has_lost_its_history_is_waited_for() -> None:
    world = world_with(1, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    world.wire.on["submit"] = ["drop_response"]
    with pytest.raises(LedgerUnavailable):
        world.cycle(worker)
    for _ in range(10):
        world.ledger.close()
    world.nodes[0].available_from = world.ledger.validated.index
    world.cycle(worker, 5)
    assert [attempt.state for attempt in world.attempts()] == ["MAYBE"]
    world.nodes[0].available_from = 0
    world.cycle(worker)
    world.require_exactly_once([intent(0)])


def test_of_a_ledger_that_was_begun_anew_nothing_is_believed() -> None:
    """As a test network is from time to time: what was under way on the former one is in none of its ledgers."""
    world = world_with(1, nodes=2)
    for _ in range(1100):
        world.ledger.close()
    worker = world.worker()
    world.cycle(worker, 2)
    anew = Ledger({world.account: 100_000_000}, clock=world.clock, first_index=1)
    anew.close()
    for node in world.nodes:
        node.ledger = anew
    progress = world.cycle(worker)
    assert progress.attempt is not None
    assert (progress.attempt.state, progress.attempt.first) == ("MAYBE", 1201)
    assert progress.attempt.note == "the ledger is at 2, long before those that the transaction is for: begun anew?"


def test_one_lone_server_that_was_far_ahead_once_keeps_nothing_waiting() -> None:
    world = world_with(1)
    worker = world.worker()
    with first_server_adds(world, "ledger", lambda result: result.update(ledger_index=1_000_000)):
        world.cycle(worker)
    world.cycle(worker, 3, close=True)
    world.require_exactly_once([intent(0)])


def test_two_servers_must_refuse_a_transaction_before_it_is_sent_no_more() -> None:
    world = world_with(1, nodes=3)
    world.wire.on["submit"] = ["error:invalidTransaction"]
    worker = world.worker()
    world.cycle(worker, 2)
    assert [(attempt.state, attempt.note) for attempt in world.attempts()] == [("MAYBE", "invalidTransaction")]
    world.cycle(worker, 3, close=True)
    world.require_exactly_once([intent(0)])


def test_a_refusal_counts_no_more_once_another_server_took_the_transaction() -> None:
    world = world_with(1, nodes=3)
    world.wire.on["submit"] = ["engine:temMALFORMED", "engine:telINSUF_FEE_P", "engine:temMALFORMED"]
    worker = world.worker()
    world.cycle(worker, 4, close=True)
    assert [(attempt.state, attempt.note) for attempt in world.attempts()] == [("MAYBE", "temMALFORMED")]
    world.cycle(worker, 3, close=True)
    world.require_exactly_once([intent(0)])


def test_a_server_that_takes_long_to_answer_is_asked_last() -> None:
    """What was signed would expire, again and again, while it is asked for where the ledger is."""
    world = world_with(1, nodes=3, submission=SubmissionSettings(window=5))
    real = world.wire.post_json

    async def slow(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        if url == "http://node0":
            for _ in range(7):  # seven ledgers, of which the transaction has five
                world.ledger.close()
        return await real(url, payload)

    world.wire.post_json = slow
    world.cycle(world.worker(), 6, close=True)
    world.require_exactly_once([intent(0)])


@pytest.mark.parametrize("slow", ["12", "012"])
def test_the_only_quick_server_or_the_first_of_slow_ones_is_not_the_only_one_that_gets_a_transaction(slow: str) -> None:
    """It says that it took it, and passes nothing on."""
    world = world_with(1, nodes=3, submission=SubmissionSettings(window=20))
    for _ in range(30):
        world.ledger.close()
    real = world.wire.post_json

    async def late(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        if url[-1] in slow:
            world.ledger.close(6)
        if url == "http://node0" and payload["method"] == "submit":
            return {"result": {"status": "success", "engine_result": "tesSUCCESS", "applied": True}}
        return await real(url, payload)

    world.wire.post_json = late
    world.run(most=10)
    world.require_exactly_once([intent(0)])


@pytest.mark.parametrize("method", ["server_info", "ledger", "account_info", "fee", "tx", "submit"])
def test_a_server_that_never_answers_one_of_the_questions_keeps_nothing_waiting(method: str) -> None:
    """It takes the time that a transaction has, each time that it is asked, and answers all others at once."""
    world = world_with(1, nodes=3, submission=SubmissionSettings(window=5))
    for _ in range(30):
        world.ledger.close()
    real = world.wire.post_json

    async def hung(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        if url == "http://node0" and payload["method"] == method:
            for _ in range(7):
                world.ledger.close()
            raise TimeoutError
        return await real(url, payload)

    world.wire.post_json = hung
    world.run(most=10)
    assert len(world.attempts()) <= 2
    world.require_exactly_once([intent(0)])


def test_what_was_never_sent_is_sent_before_anything_is_asked_for() -> None:
    """To ask may take as long as it has to be sent in; it is asked for itself only when it has expired."""
    world = world_with(1, submission=SubmissionSettings(window=5))
    worker = world.worker()
    asked = world.nodes[0].requests
    world.cycle(worker, close=True)
    prepared = len(asked)
    world.cycle(worker, close=True)
    assert [method for method, _ in asked[prepared:]] == ["submit", "ledger"]


def test_what_was_never_sent_and_has_expired_does_no_harm_when_it_is_sent() -> None:
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    closed(world, 9)
    world.cycle(worker)
    assert [(attempt.state, attempt.note) for attempt in world.attempts()] == [("EXPIRED", "tefMAX_LEDGER"), ("PREPARED", None)]
    world.cycle(worker, 3, close=True)
    world.require_exactly_once([intent(0)])


def test_no_third_server_is_asked_where_the_ledger_is_while_two_lag_each_other_as_servers_do() -> None:
    """It tells the truth and takes longer over it than a transaction has, of which one of the quick ones knows two ledgers late."""
    world = world_with(1, nodes=3, submission=SubmissionSettings(window=5))
    closed(world, 30)
    world.nodes[1].behind = 2
    asked = world.nodes[2].requests
    worker = world.worker()
    world.cycle(worker, 6, close=True)
    assert [method for method, _ in asked if method == "ledger"] == []
    world.require_exactly_once([intent(0)])


def test_a_third_server_is_asked_when_two_differ_in_whether_a_transaction_has_expired() -> None:
    world = world_with(1, nodes=3, submission=SubmissionSettings(window=5))
    closed(world, 30)
    worker = world.worker()
    world.cycle(worker)
    world.nodes[1].behind = 2
    closed(world, 6)
    world.cycle(worker)
    assert [method for method, _ in world.nodes[2].requests if method == "ledger"] == ["ledger"]
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED", "PREPARED"]
    world.cycle(worker, 5, close=True)
    world.require_exactly_once([intent(0)])


def test_a_server_is_left_alone_no_longer_when_the_clock_was_set_back() -> None:
    world = world_with(1, lease=30)
    worker = world.worker()
    world.clock.advance(1_000_000)
    world.nodes[0].faults.add("*", "http503")
    with pytest.raises(LedgerUnavailable):
        world.cycle(worker)
    world.clock.advance(-1_000_000)
    world.cycle(worker, 4, close=True)
    world.require_exactly_once([intent(0)])


def test_two_servers_are_asked_before_a_transaction_is_dead() -> None:
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5, confirm_answers=1))
    liar, honest = world.nodes
    worker = world.worker()
    world.cycle(worker, 2)
    for _ in range(8):
        world.ledger.close()
    liar.faults.add("tx", "forge_not_found")
    world.cycle(worker)
    world.require_exactly_once([intent(0)])
    assert [method for method, _ in honest.requests].count("tx") == 1


def test_a_sequence_that_looks_taken_is_looked_at_twice() -> None:
    """A lone server says once that it does not know the transaction: the account's Sequence contradicts it."""
    world = world_with(1, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker, 2)
    for _ in range(8):
        world.ledger.close()
    world.nodes[0].faults.add("tx", "forge_not_found")
    world.cycle(worker, 2)
    world.require_exactly_once([intent(0)])


@contextmanager
def first_server_adds(world: World, method: str, change: Callable[[dict[str, Any]], object]) -> Generator[None]:
    """Inside the block one server says something else in its answers to a method."""
    real = world.wire.post_json

    async def lying(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        if url == "http://node0" and payload["method"] == method:
            change(answer["result"])
        return answer

    world.wire.post_json = lying
    yield
    world.wire.post_json = real


@pytest.mark.parametrize("ahead", [-90, 20, 50, 1_000_000])
def test_of_two_servers_that_differ_in_where_the_ledger_is_none_is_believed(ahead: int) -> None:
    world = world_with(1, nodes=2)
    worker = world.worker()
    with first_server_adds(world, "ledger", lambda result: result.update(ledger_index=result["ledger_index"] + ahead)):
        with pytest.raises(LedgerUnavailable, match=r"^servers differ in where the ledger is: [0-9]+, [0-9]+$"):
            world.cycle(worker)
        assert world.attempts() == []
    world.cycle(worker, 4, close=True)
    world.require_exactly_once([intent(0)])


@pytest.mark.parametrize("ahead", [-90, 20, 50, 1_000_000])
def test_one_server_that_is_ahead_of_the_ledger_once_makes_nothing_be_witnessed_twice(ahead: int) -> None:
    world = world_with(1, nodes=3)
    worker = world.worker()
    with first_server_adds(world, "ledger", lambda result: result.update(ledger_index=result["ledger_index"] + ahead)):
        world.cycle(worker)
    (attempt,) = world.attempts()
    assert (attempt.first, attempt.lls) == (world.ledger.validated.index + 1, world.ledger.validated.index + 15)
    world.cycle(worker, 4, close=True)
    world.require_exactly_once([intent(0)])


def test_a_transaction_in_a_ledger_before_those_that_it_was_signed_for_is_a_witness() -> None:
    """The only server was ahead of the ledger when the transaction was signed, and is not any more."""
    world = world_with(1)
    worker = world.worker()
    with first_server_adds(world, "ledger", lambda result: result.update(ledger_index=result["ledger_index"] + 50)):
        world.cycle(worker)
    world.cycle(worker, 3, close=True)
    (attempt,) = world.attempts()
    assert attempt.ledger is not None
    assert attempt.ledger < attempt.first
    world.require_exactly_once([intent(0)])


def test_nothing_is_signed_before_so_many_servers_tell_where_the_ledger_is_as_must_call_it_dead() -> None:
    world = world_with(1, nodes=2)
    world.nodes[1].faults.add("ledger", "http503")
    worker = world.worker()
    with pytest.raises(LedgerUnavailable, match=r"^1 of 2 servers answered that must before anything is signed"):
        world.cycle(worker)
    assert world.attempts() == []
    world.clock.advance(2)
    world.cycle(worker, 4, close=True)
    world.require_exactly_once([intent(0)])


def add_to_sequence(result: dict[str, Any]) -> None:
    result["account_data"]["Sequence"] += 5


def test_one_server_that_tells_too_high_a_sequence_is_not_believed() -> None:
    world = world_with(1, nodes=3)
    worker = world.worker()
    with first_server_adds(world, "account_info", add_to_sequence):
        world.cycle(worker)
    assert world.attempts()[0].seq == 1
    world.cycle(worker, 4, close=True)
    world.require_exactly_once([intent(0)])


def test_one_server_that_says_that_a_sequence_was_used_is_not_believed() -> None:
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    closed(world, 7)
    with first_server_adds(world, "account_info", add_to_sequence):
        world.cycle(worker, 3)
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED", "MAYBE"]
    world.cycle(worker, 4, close=True)
    world.require_exactly_once([intent(0)])


def test_a_transaction_whose_sequence_is_not_next_waits_until_it_is_dead_and_no_longer() -> None:
    """The only server told too high a Sequence once."""
    world = world_with(2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    with first_server_adds(world, "account_info", add_to_sequence):
        world.cycle(worker)
    progress = world.cycle(worker, 12, close=True)
    assert (progress.stopped, progress.waiting) == (None, 0)
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED"]
    assert [attempt.seq for batch_id in (1, 2) for attempt in world.attempts(batch_id)] == [6, 1]
    assert worker.status()["batches"] == {"CONFIRMED": {"batches": 1, "members": 2}, "REJECTED": {"batches": 1, "members": 2}}
    assert len(world.witnesses()) == 1


def test_a_batch_behind_one_that_was_refused_does_not_wait_for_ever() -> None:
    """Two workers closed one each, since the lease of the first one ran out before it looked for batches under way."""
    world = world_with(1, max_members=1, submission=SubmissionSettings(window=5))
    first = world.worker()
    world.cycle(world.worker())
    world.queue.enqueue(intent(1))
    store = SubmissionStore(world.queue.storage)
    with store.transaction():
        other = store.add_batch(world.account, store.waiting(1, now=0), "2026-01-01T00:00:00+00:00")
    world.wire.on["submit"] = ["error:invalidTransaction"] * 3
    nodes = LedgerNodes([LedgerNode("http://node0", world.wire)], clock=world.clock)
    asyncio.run(Submitter(store, nodes, world.signer, settings=world.submission, clock=world.clock).step(other))
    assert [slot.seq for batch_id in (1, 2) if (slot := store.slot(batch_id)) is not None] == [1, 2]
    world.cycle(first, 9, close=True)
    world.wire.on.clear()
    world.cycle(world.worker(), 20, close=True)
    assert world.statuses() == ["CONFIRMED", "CONFIRMED"]
    assert len(world.witnesses()) == 2


# -- what is believed ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", ["forge_validated", "wrong_shape", "malformed", "empty", "truncated", "stale:3", "error:internal"])
def test_a_server_that_says_validated_of_something_else_is_not_believed(lie: str) -> None:
    world = world_with(1)
    worker = world.worker()
    world.cycle(worker, 2)
    world.nodes[0].faults.add("tx", lie)
    world.cycle(worker)
    assert world.attempts()[0].state == "MAYBE"
    world.clock.advance(2)
    world.cycle(worker, 2, close=True)
    world.require_exactly_once([intent(0)])


@pytest.mark.parametrize(("submission", "receipts"), [(None, 0), (SubmissionSettings(confirm_answers=1), 1)])
def test_one_server_of_two_that_lies_confirms_what_is_on_no_ledger_only_where_one_answer_is_enough(
    submission: SubmissionSettings | None, receipts: int
) -> None:
    """It shows a ledger of its own, in which the transaction is, and lets nobody else have it."""
    world = world_with(1, nodes=2, submission=submission)
    own = Ledger({world.account: 100_000_000}, clock=world.clock, first_index=100)
    world.nodes[0] = Node(own, Faults())
    world.nodes[1].faults.add("submit", *["error:tooBusy"] * 6)
    worker = world.worker()
    for _ in range(6):
        world.cycle(worker)
        own.close()
        world.ledger.close()
    assert (world.witnesses(), len(world.confirmed(intent(0)))) == ([], receipts)


@pytest.mark.parametrize(("answers", "witnesses"), [(None, 1), (2, 2)], ids=["as many as usual", "two"])
def test_two_servers_of_five_that_lie_have_nothing_witnessed_twice(answers: int | None, witnesses: int) -> None:
    """They know of no transaction, and are the first to be asked. Where two answers are enough, that is as good as a lie of all."""
    world = world_with(1, nodes=5, submission=SubmissionSettings(window=5, expiry_answers=answers))
    worker = world.worker()
    world.cycle(worker, 2)
    closed(world, 20)
    for node in world.nodes[1:3]:
        node.faults.add("tx", *["forge_not_found"] * 60)
    world.cycle(worker, 6, close=True)
    assert len(world.witnesses()) == witnesses


@pytest.mark.parametrize(("answers", "receipts"), [(None, 0), (2, 1)], ids=["as many as usual", "two"])
def test_two_servers_of_five_that_lie_confirm_nothing_that_is_on_no_ledger(answers: int | None, receipts: int) -> None:
    world = world_with(1, nodes=5, submission=SubmissionSettings(confirm_answers=answers))
    own = Ledger({world.account: 100_000_000}, clock=world.clock, first_index=100)
    world.nodes[:2] = [Node(own, Faults()) for _ in range(2)]
    for node in world.nodes[2:]:
        node.faults.add("submit", *["error:tooBusy"] * 20)
    worker = world.worker()
    for _ in range(6):
        with suppress(LedgerUnavailable):
            world.cycle(worker)
        own.close()
        world.ledger.close()
    assert (world.witnesses(), len(world.confirmed(intent(0)))) == ([], receipts)


def closed(world: World, ledgers: int) -> None:
    for _ in range(ledgers):
        world.ledger.close()


def first_server_says(world: World, **changes: Any) -> None:
    """One server tells something else of what is validated, and the bytes it shows fit."""
    real = world.wire.post_json

    async def lying(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        if url == "http://node0" and answer["result"].get("validated") and payload["method"] == "tx":
            answer["result"].update(changes)
        return answer

    world.wire.post_json = lying


def test_where_a_transaction_is_comes_from_those_that_agree_and_one_that_differs_stops_nothing() -> None:
    world = world_with(1, nodes=3)
    first_server_says(world, ledger_index=104)
    world.cycle(world.worker(), 6, close=True)
    world.require_exactly_once([intent(0)])
    (receipt,) = world.confirmed(intent(0))
    closed, _ = world.ledger.find(world.attempts()[0].hash) or (None, None)
    assert closed is not None
    assert (receipt.proof["ledger_index"], receipt.proof["ledger_hash"]) == (closed.index, closed.hash)
    assert closed.index != 104


@pytest.mark.parametrize("nodes", [2, 3])
def test_what_one_server_alone_tells_of_a_ledger_is_in_no_receipt(nodes: int) -> None:
    world = world_with(1, nodes=nodes)
    first_server_says(world, ledger_hash="AB" * 32, close_time_iso="2001-01-01T00:00:00Z")
    world.cycle(world.worker(), 6, close=True)
    (receipt,) = world.confirmed(intent(0))
    closed, _ = world.ledger.find(receipt.proof["tx_hash"]) or pytest.fail("on no ledger")
    assert receipt.proof.get("ledger_hash", closed.hash) == closed.hash
    assert not receipt.proof.get("close_time", "").startswith("2001")


def test_a_confirmation_that_lacks_a_server_says_so() -> None:
    world = world_with(1, nodes=2)
    worker = world.worker()
    world.cycle(worker, 2)
    closed(world, 20)
    world.nodes[1].available_from = world.ledger.validated.index
    progress = world.cycle(worker)
    assert (world.confirmed(intent(0)), progress.attempt and progress.attempt.note) == ([], "validated by 1 of 2 servers that must say so")
    assert world.attempts()[0].state == "MAYBE"


def test_an_expiry_that_lacks_a_server_says_so() -> None:
    """Somebody else used the Sequence; the server that does not have the ledgers of that time cannot tell."""
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    world.spend()
    closed(world, 9)
    world.nodes[1].available_from = world.ledger.validated.index
    (attempt,) = world.attempts()
    lacking = (
        "expired; unknown to 1 of 2 servers that must say so; its Sequence is used, "
        f"by what only ledgers {attempt.first} to {attempt.lls} show: name servers that keep them"
    )
    for _ in range(3):
        progress = world.cycle(worker)
        assert (progress.attempt and progress.attempt.note, len(world.attempts())) == (lacking, 1)
    world.nodes[1].available_from = 0
    world.cycle(worker, 6, close=True)
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED"]
    assert world.statuses() == ["CONFIRMED"]


def forget(world: World) -> None:
    """Every server keeps its newest ledger and drops all before."""
    for node in world.nodes:
        node.available_from = world.ledger.validated.index


@pytest.mark.parametrize("cycles", [1, 2], ids=["never sent", "sent and lost"])
def test_where_no_server_has_the_history_a_sequence_that_is_unused_afterwards_proves_that_it_is_dead(cycles: int) -> None:
    """The worker was away for longer than its servers keep ledgers."""
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5))
    world.wire.on["submit"] = ["engine:tesSUCCESS"]
    world.cycle(world.worker(), cycles)
    world.wire.on.clear()
    closed(world, 9)
    forget(world)
    world.cycle(world.worker(), 5, close=True)
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED", "VALIDATED"]
    world.require_exactly_once([intent(0)])


@pytest.mark.parametrize("nodes", [2, 3])
def test_an_unused_sequence_is_believed_only_when_so_many_servers_say_it(nodes: int) -> None:
    """One says it although the transaction is on the ledger."""
    world = world_with(1, nodes=nodes, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker, 2)
    closed(world, 9)
    forget(world)
    with first_server_adds(world, "account_info", lambda result: result["account_data"].update(Sequence=1)):
        world.cycle(worker, 4)
    assert [attempt.state for attempt in world.attempts()] == ["MAYBE"]
    for node in world.nodes:
        node.available_from = 0
    world.clock.advance(60)
    world.cycle(worker)
    world.require_exactly_once([intent(0)])


def test_a_sequence_that_is_unused_in_a_ledger_that_a_transaction_can_still_follow_proves_nothing() -> None:
    """The servers tell the account from before it was applied."""
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker, 2)
    (attempt,) = world.attempts()
    closed(world, 9)
    forget(world)

    def old(method: str, result: dict[str, Any]) -> None:
        if method == "account_info":
            result["account_data"]["Sequence"] = attempt.seq
            result["ledger_index"] = attempt.lls

    world.wire.alter = old
    progress = world.cycle(worker, 3)
    assert [one.state for one in world.attempts()] == ["MAYBE"]
    assert progress.attempt is not None
    assert progress.attempt.note == "expired; unknown to 0 of 2 servers that must say so"


def test_an_account_that_is_gone_proves_nothing() -> None:
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker, 2)
    closed(world, 9)
    forget(world)
    for node in world.nodes:
        node.faults.add("account_info", *["error:actNotFound"] * 3)
    world.cycle(worker, 3)
    assert [attempt.state for attempt in world.attempts()] == ["MAYBE"]


def test_why_a_transaction_was_refused_is_not_overwritten() -> None:
    world = world_with(1, nodes=2)
    world.wire.alter = lambda method, answer: answer.update(engine_result="temX", applied=False) if method == "submit" else None
    worker = world.worker()
    world.wire.on["submit"] = ["engine:telINSUF_FEE_P"] * 2
    world.cycle(worker, 3, close=True)
    world.spend()  # so that only the ledgers of that time tell by what
    closed(world, 20)
    world.nodes[1].available_from = world.ledger.validated.index
    world.cycle(worker, 2)
    assert [(attempt.state, attempt.note) for attempt in world.attempts()] == [("REFUSED", "temX")]


def test_a_server_that_passes_nothing_on_is_not_the_only_one_that_is_asked_to() -> None:
    world = world_with(1, nodes=3)
    real = world.wire.post_json

    async def swallowing(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        if (url, payload["method"]) == ("http://node0", "submit"):
            return {"result": {"status": "success", "engine_result": "tesSUCCESS", "applied": True}}
        return await real(url, payload)

    world.wire.post_json = swallowing
    world.cycle(world.worker(), 6, close=True)
    world.require_exactly_once([intent(0)])
    assert len(world.attempts()) == 1


def test_servers_that_differ_in_where_a_transaction_is_confirm_nothing_and_that_is_said() -> None:
    world = world_with(1, nodes=2)
    first_server_says(world, ledger_index=104)
    world.cycle(world.worker(), 20, close=True)
    assert (world.confirmed(intent(0)), world.attempts()[0].note) == ([], "validated; servers differ in where")


def test_servers_that_differ_in_what_came_of_it_confirm_nothing_and_that_is_said() -> None:
    world = world_with(1, nodes=2)
    real = world.wire.post_json

    async def lying(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        if url == "http://node0" and answer["result"].get("validated") and payload["method"] == "tx":
            with_result("tecINSUFFICIENT_RESERVE")(answer["result"])
        return answer

    world.wire.post_json = lying
    world.cycle(world.worker(), 20, close=True)
    assert (world.confirmed(intent(0)), world.attempts()[0].note) == ([], "validated; servers differ in the result")


def one_server_says_validated(world: World, liar: int) -> None:
    """Of a transaction that is on no ledger, with its own bytes and what a good one leaves."""
    other = world_with(1)
    other.run()
    ((_, entry),) = other.ledger.history(other.account)
    real = world.wire.post_json

    async def lying(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        if (url, payload["method"]) != (f"http://node{liar}", "tx"):
            return await real(url, payload)
        first = world.attempts()[0]
        if payload["params"][0]["transaction"] != first.hash:
            return await real(url, payload)
        told = {"tx_blob": first.blob, "meta_blob": encode(entry.metadata), "ledger_index": first.lls}
        return {"result": {"status": "success", "validated": True, **told}}

    world.wire.post_json = lying


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_one_server_that_says_validated_of_a_dead_transaction_is_outvoted(liar: int) -> None:
    world = world_with(1, nodes=3, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    one_server_says_validated(world, liar)
    world.wire.on["submit"] = ["drop_request"] * 3
    with pytest.raises(LedgerUnavailable):
        world.cycle(worker)
    world.wire.on.clear()
    closed(world, 9)
    world.clock.advance(2)
    world.cycle(worker, 6, close=True)
    world.require_exactly_once([intent(0)])
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED", "VALIDATED"]


def test_one_server_of_two_that_says_validated_of_a_dead_transaction_is_not_outvoted() -> None:
    world = world_with(1, nodes=2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    one_server_says_validated(world, 0)
    closed(world, 9)
    progress = world.cycle(worker, 3, close=True)
    assert (progress.attempt and progress.attempt.note, len(world.attempts())) == ("validated by 1 of 2 servers that must say so", 1)


def tampered(change: Callable[[dict[str, Any]], object]) -> Callable[[str, dict[str, Any]], None]:
    def alter(method: str, result: dict[str, Any]) -> None:
        if method == "tx" and result.get("validated"):
            change(result)

    return alter


def with_result(code: str) -> Callable[[dict[str, Any]], None]:
    def change(result: dict[str, Any]) -> None:
        result["meta_blob"] = encode({**decode(result["meta_blob"]), "TransactionResult": code})

    return change


LIES: list[Callable[[dict[str, Any]], object]] = [
    lambda result: result.update(ledger_index=result["ledger_index"] + 100),
    lambda result: result.update(ledger_index=None),
    lambda result: result.update(ledger_index=True),
    lambda result: result.update(meta_blob="00"),
    lambda result: result.update(meta_blob=7),
    lambda result: result.pop("meta_blob"),
    lambda result: result.update(tx_blob=result["tx_blob"][:-2]),
    lambda result: result.pop("tx_blob"),
    lambda result: result.update(validated="true"),
    lambda result: result.update(status="error"),
    lambda result: result.update(meta_blob="F9" + "EA7D01AAE1" * 2_000_000 + "F1"),  # the codec would be at it for days
]


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_an_answer_that_does_not_fit_confirms_nothing(lie: Callable[[dict[str, Any]], object]) -> None:
    world = world_with(1)
    worker = world.worker()
    world.cycle(worker, 2)
    world.wire.alter = tampered(lie)
    with suppress(LedgerUnavailable):
        world.cycle(worker, close=True)
    assert (world.attempts()[0].state, world.confirmed(intent(0))) == ("MAYBE", [])


@pytest.mark.parametrize("text", ["\ud800", "", "soon", "x" * 100_000, 7, None])
def test_what_a_server_says_besides_is_kept_only_in_its_form(text: Any) -> None:
    world = world_with(1)
    worker = world.worker()
    world.wire.alter = lambda _, result: result.update(close_time_iso=text, ledger_hash=text)
    world.cycle(worker, 3, close=True)
    (receipt,) = world.confirmed(intent(0))
    assert not {"close_time", "ledger_hash"} & set(receipt.proof)


@pytest.mark.parametrize("result", ["\ud800", "", "tes SUCCESS", "t" * 1000, None, 0])
def test_an_engine_result_that_is_none_tells_nothing(result: Any) -> None:
    world = world_with(1)
    worker = world.worker()
    world.wire.alter = lambda method, answer: answer.update(engine_result=result) if method == "submit" else None
    world.cycle(worker)
    with pytest.raises(LedgerUnavailable):
        world.cycle(worker)
    world.clock.advance(2)
    world.cycle(worker, close=True)
    world.require_exactly_once([intent(0)])


def test_a_tec_takes_the_fee_and_witnesses_nothing() -> None:
    world = world_with(2)
    worker = world.worker()
    world.cycle(worker, 2)
    world.wire.alter = tampered(with_result("tecINSUFFICIENT_RESERVE"))
    progress = world.cycle(worker, close=True)
    assert "tecINSUFFICIENT_RESERVE" in (progress.stopped or "")
    assert worker.status()["batches"] == {"CLAIMED_FEE": {"batches": 1, "members": 2}}
    assert [receipt.status.value for receipt in world.queue.replay("sha256:" + intent(0).intent_digest())] == ["FAILED"]
    assert world.statuses() == ["DEFERRED", "DEFERRED"]
    assert world.cycle(worker, 3, close=True).waiting == 2  # nothing more is signed until somebody has looked
    assert len(world.attempts(2)) == 0
    world.wire.alter = World().wire.alter
    world.cycle(world.worker(), 4, close=True)
    assert world.statuses() == ["CONFIRMED", "CONFIRMED"]


def test_a_sequence_that_somebody_else_used_frees_the_members_for_another_batch() -> None:
    world = world_with(2, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    world.spend()
    world.run()
    assert worker.status()["batches"] == {"CONFIRMED": {"batches": 1, "members": 2}, "SEQUENCE_TAKEN": {"batches": 1, "members": 2}}
    receipts = world.queue.replay("sha256:" + intent(0).intent_digest())
    assert [(receipt.attempt, receipt.status.value, receipt.error and receipt.error.code) for receipt in receipts] == [
        (1, "FAILED", "SEQUENCE_TAKEN"),
        (2, "CONFIRMED", None),
    ]
    assert len(world.witnesses()) == 1


@pytest.mark.parametrize("verdict", ["engine:temMALFORMED", "error:invalidTransaction"])
def test_a_refusal_is_believed_once_the_transaction_has_expired(verdict: str) -> None:
    world = world_with(1, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.wire.on["submit"] = [verdict]
    world.cycle(worker, 2)
    assert world.attempts()[0].state == "REFUSED"
    world.cycle(worker, 3, close=True)
    assert len(world.sent()) == 1
    progress = world.cycle(worker, 4, close=True)
    assert (progress.state, progress.waiting) == (None, 1)
    assert "refused" in (progress.stopped or "")
    world.cycle(world.worker(), 4, close=True)
    assert world.confirmed(intent(0))[0].attempt == 2
    assert (world.attempts(1)[0].seq, world.attempts(2)[0].seq) == (1, 1)  # the Sequence was not used


def test_a_refusal_of_what_is_on_the_ledger_all_the_same_is_a_witness() -> None:
    world = world_with(1)
    worker = world.worker()
    world.cycle(worker)
    world.ledger.submit(world.attempts()[0].blob)
    world.wire.on["submit"] = ["engine:temMALFORMED"]
    world.cycle(worker)
    world.cycle(worker, close=True)
    world.require_exactly_once([intent(0)])


def test_a_refused_key_stops_the_lane_and_what_was_sent_is_followed() -> None:
    world = world_with(1, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.wire.on["submit"] = ["engine:tefBAD_AUTH"]
    progress = world.cycle(worker, 2)
    assert "tefBAD_AUTH" in (progress.stopped or "")
    world.wire.on["submit"] = ["engine:tefBAD_AUTH"] * 9
    assert asyncio.run(worker.run(interval=0, max_cycles=3)) == 0
    for _ in range(7):
        world.ledger.close()
    assert asyncio.run(worker.run(interval=0, max_cycles=50)) == 0
    assert len(world.attempts()) == 1
    world.wire.on.clear()
    world.run()
    world.require_exactly_once([intent(0)])


def test_a_key_that_one_server_of_three_does_not_take_stops_nothing_while_the_others_are_away() -> None:
    world = world_with(1, nodes=3)
    for _ in range(30):
        world.ledger.close()
    real, away = world.wire.post_json, True

    async def wrong(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        if away and payload["method"] == "submit":
            if url != "http://node0":
                raise ConnectionError
            return {"result": {"status": "success", "engine_result": "tefBAD_AUTH", "applied": False}}
        return await real(url, payload)

    world.wire.post_json = wrong
    worker = world.worker()
    for _ in range(20):
        assert world.cycle(worker, close=True).stopped is None
    away = False
    world.run()
    world.require_exactly_once([intent(0)])


@pytest.mark.parametrize("window", [5, 15])
def test_a_key_that_two_servers_of_three_do_not_take_stops_the_lane(window: int) -> None:
    world = world_with(1, nodes=3, submission=SubmissionSettings(window=window))
    for _ in range(30):
        world.ledger.close()
    worker = world.worker()
    world.wire.on["submit"] = ["engine:tefBAD_AUTH"] * 2
    assert world.cycle(worker, 2, close=True).stopped is None
    assert "tefBAD_AUTH" in (world.cycle(worker, close=True).stopped or "")


def test_a_key_that_one_server_does_not_take_and_the_ledger_does_stops_nothing_for_longer_than_that() -> None:
    world = world_with(1)
    worker = world.worker()
    world.nodes[0].faults.add("submit", "engine:tefBAD_AUTH")
    assert "tefBAD_AUTH" in (world.cycle(worker, 2).stopped or "")
    world.queue.enqueue(intent(1))
    assert world.cycle(worker, 2, close=True).stopped is None
    assert (worker.status()["stopped"], world.statuses()[0]) == (None, "CONFIRMED")
    world.cycle(worker, 4, close=True)
    world.require_exactly_once([intent(0), intent(1)])


# -- signing ------------------------------------------------------------------------------------------------------------------------


class Dishonest:
    """A signer that changes something."""

    def __init__(self, change: Callable[[LocalWalletSigner, dict[str, Any]], SignResult]) -> None:
        self.honest = LocalWalletSigner(key_of_seed(SEED))
        self.account, self.key_id = self.honest.account, self.honest.key_id
        self.change = change

    def sign(self, tx_dict: dict[str, Any]) -> SignResult:
        return self.change(self.honest, tx_dict)


def other_blob(signer: LocalWalletSigner, tx: dict[str, Any], edit: Callable[[dict[str, Any]], dict[str, Any]]) -> SignResult:
    blob = encode(edit(decode(signer.sign(tx).signed_tx_blob_hex)))
    return SignResult(blob, transaction_id(bytes.fromhex(blob)), signer.key_id)


def foreign(_: LocalWalletSigner, tx: dict[str, Any]) -> SignResult:
    return LocalWalletSigner(key_of_seed(seed_of("mallory")), account=tx["Account"]).sign(tx)


DISHONEST: list[Callable[[LocalWalletSigner, dict[str, Any]], SignResult]] = [
    lambda signer, tx: signer.sign({**tx, "Fee": "11"}),
    lambda signer, tx: signer.sign({**tx, "Sequence": 9}),
    lambda signer, tx: signer.sign({**tx, "SetFlag": 4}),
    lambda signer, tx: signer.sign({**tx, "LastLedgerSequence": 2**31}),
    lambda signer, tx: SignResult(signer.sign(tx).signed_tx_blob_hex, "00" * 32, "k"),
    lambda signer, _: SignResult(signer.account + "zz", "00" * 32, "k"),
    lambda signer, _: SignResult(signer.account[:0], "00" * 32, "k"),
    lambda signer, tx: other_blob(signer, tx, lambda fields: {**fields, "TxnSignature": "00" * 64}),
    lambda signer, tx: other_blob(signer, tx, lambda fields: {**fields, "SigningPubKey": ""}),
    lambda signer, tx: other_blob(signer, tx, lambda fields: {k: v for k, v in fields.items() if k != "TxnSignature"}),
    foreign,
]


@pytest.mark.parametrize("change", DISHONEST, ids=range(len(DISHONEST)))
def test_what_a_signer_gives_is_checked_before_it_is_stored(change: Callable[[LocalWalletSigner, dict[str, Any]], SignResult]) -> None:
    world = world_with(1)
    with pytest.raises(SignerFailed):
        world.cycle(world.worker(signer=Dishonest(change)))
    assert world.attempts() == []


def test_a_regular_key_signs_once_the_ledger_knows_it() -> None:
    world = world_with(1)
    online = LocalWalletSigner(key_of_seed(seed_of("online")), account=world.account)
    with pytest.raises(SignerFailed, match="may not sign"):
        world.cycle(world.worker(signer=online))
    fields: dict[str, Any] = {"TransactionType": "SetRegularKey", "Account": world.account, "Fee": "10", "Sequence": 1}
    fields["RegularKey"] = key_from_seed(seed_of("online")).address
    world.ledger.take(sign_transaction(key_from_seed(SEED), fields))
    world.cycle(world.worker(signer=online, account=world.account), 4, close=True)
    assert len(world.confirmed(intent(0))) == 1


def test_the_fee_follows_the_market_up_to_a_limit() -> None:
    world = world_with(1, submission=SubmissionSettings(max_fee_drops=50))
    world.wire.alter = lambda method, result: result["drops"].update(open_ledger_fee="30") if method == "fee" else None
    world.cycle(world.worker())
    assert decode(world.attempts()[0].blob)["Fee"] == "30"
    world = world_with(1, submission=SubmissionSettings(max_fee_drops=50))
    world.wire.alter = lambda method, result: result["drops"].update(open_ledger_fee="5000") if method == "fee" else None
    world.cycle(world.worker())
    assert decode(world.attempts()[0].blob)["Fee"] == "50"


def test_a_server_with_another_time_is_not_asked_for_deadlines() -> None:
    world = world_with(1)
    world.clock.advance(400)
    with pytest.raises(LedgerUnavailable, match="closed 4"):
        world.cycle(world.worker())
    world.ledger.close()
    worker = world.worker()
    world.cycle(worker)
    world.ledger.clock.now -= timedelta(seconds=400)
    with pytest.raises(LedgerUnavailable, match="closed -"):
        world.cycle(worker)


@pytest.mark.parametrize(
    ("method", "place", "number"),
    [
        ("ledger", (), {"ledger_index": 2**40}),
        ("ledger", (), {"ledger_index": 2**32 - 3}),
        ("account_info", ("account_data",), {"Sequence": 2**32}),
        ("account_info", ("account_data",), {"Sequence": "9" * 19}),
        ("account_info", ("account_data",), {"Flags": 2**32}),
        ("account_info", (), {"ledger_index": 2**40}),
        ("server_info", ("info",), {"network_id": 2**40}),
    ],
    ids=["ledger", "ledger and window", "Sequence", "Sequence as text", "Flags", "ledger of an account", "network"],
)
def test_a_number_that_no_transaction_can_hold_ends_no_worker(method: str, place: tuple[str, ...], number: dict[str, object]) -> None:
    world, lying = world_with(1), [True]

    def alter(asked: str, result: dict[str, Any]) -> None:
        if asked == method and lying:
            for name in place:
                result = result[name]
            result.update(number)

    world.wire.alter = alter
    worker = world.worker()
    with pytest.raises(LedgerUnavailable, match="no number"):
        world.cycle(worker)
    lying.clear()
    world.clock.advance(60)
    world.ledger.close()
    world.cycle(worker, 5, close=True)
    assert world.statuses() == ["CONFIRMED"]


def test_an_account_that_does_not_exist_is_waited_for() -> None:
    world = world_with(1)
    stranger = LocalWalletSigner(key_of_seed(seed_of("stranger")))
    with pytest.raises(LedgerUnavailable, match="fund it"):
        world.cycle(world.worker(signer=stranger))
    world.ledger.pay(stranger.account, 50_000_000)
    world.cycle(world.worker(signer=stranger), 5, close=True)
    assert world.statuses() == ["CONFIRMED"]


# -- networks and servers -------------------------------------------------------------------------------------------------------------


def test_a_queue_belongs_to_one_network() -> None:
    world = world_with(1)
    world.run()
    world.queue.enqueue(intent(7))
    world.ledger.network_id = 1
    with pytest.raises(WrongNetwork, match="network 0"):
        world.cycle(world.worker())


def test_servers_of_different_networks_are_refused() -> None:
    world = world_with(1, nodes=2)
    other = World(network_id=5)
    other.ledger.clock = world.clock
    world.nodes[1] = Node(other.ledger)
    world.nodes[0].faults.add("*", "load_warning", "http503")
    with pytest.raises((WrongNetwork, LedgerUnavailable)):
        world.cycle(world.worker(), 3, close=True)


def say_another_network(world: World, *servers: int) -> None:
    """These servers say another network than the one that they are of."""
    real = world.wire.post_json

    async def lying(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        if payload["method"] == "server_info" and int(url[-1]) in servers:
            answer["result"]["info"]["network_id"] = 7
        return answer

    world.wire.post_json = lying


def worker_of(world: World, network_id: int) -> BatchWitness:
    """A worker whose file names its network."""
    nodes = [LedgerNode(f"http://node{index}", world.wire) for index in range(len(world.nodes))]
    pool = LedgerNodes(nodes, network_id=network_id, clock=world.clock)
    return BatchWitness(world.queue, pool, world.signer, world.settings, clock=world.clock)


@pytest.mark.parametrize("liar", [0, 1])
def test_one_server_of_three_that_says_another_network_is_left_out_and_named(liar: int) -> None:
    world = world_with(1, nodes=3)
    for _ in range(30):
        world.ledger.close()
    say_another_network(world, liar)
    worker, strangers = worker_of(world, 0), set[str]()
    for _ in range(4):
        strangers.update(world.cycle(worker, close=True).strangers)
    world.require_exactly_once([intent(0)])
    assert strangers == {f"http://node{liar} belongs to network 7"}
    assert {method for method, _ in world.nodes[liar].requests} == {"server_info"}


def test_most_servers_that_say_another_network_end_the_run() -> None:
    world = world_with(1, nodes=3)
    say_another_network(world, 0, 2)
    with pytest.raises(WrongNetwork, match="http://node2 belongs to network 7, not to network 0"):
        world.cycle(worker_of(world, 0), 2)


def test_of_two_servers_one_that_says_another_network_has_nothing_signed() -> None:
    world = world_with(1, nodes=2)
    say_another_network(world, 1)
    with pytest.raises(LedgerUnavailable, match="http://node1 belongs to network 7, not to network 0"):
        world.cycle(worker_of(world, 0), 2)
    assert world.attempts() == []


def test_a_server_that_says_the_right_network_again_is_asked_again() -> None:
    world = world_with(1, nodes=2)
    real, worker = world.wire.post_json, worker_of(world, 0)
    say_another_network(world, 0)
    with pytest.raises(LedgerUnavailable):
        world.cycle(worker)
    world.wire.post_json = real
    assert world.cycle(worker, 4, close=True).strangers == ()
    world.require_exactly_once([intent(0)])


@pytest.mark.parametrize("liar", [0, 1])
def test_the_network_that_one_server_alone_says_is_not_stored(liar: int) -> None:
    world = world_with(1, nodes=3)
    real = world.wire.post_json
    say_another_network(world, liar)
    with pytest.raises(WrongNetwork, match="different networks"):
        world.cycle(world.worker())
    assert SubmissionStore(world.queue.storage).lanes() == []
    world.wire.post_json = real
    world.run()
    world.require_exactly_once([intent(0)])


def test_a_server_that_fails_is_left_alone_for_longer_and_longer() -> None:
    world = World()
    world.nodes[0].faults.add("*", *["http503"] * 4)
    node = LedgerNode("http://node0", world.wire)
    pool = LedgerNodes([node], clock=world.clock, jitter=lambda: 1.0)
    asked = 0
    waits: list[int] = []
    for second in range(40):
        before = len(world.nodes[0].requests)
        try:
            asyncio.run(pool.network_id())
        except LedgerUnavailable:
            pass
        else:
            waits.append(second)
            break
        if len(world.nodes[0].requests) > before:
            asked += 1
            waits.append(second)
        world.clock.advance(1)
    assert (asked, waits) == (4, [0, 1, 3, 7, 15])


def test_the_next_server_is_asked_when_one_fails() -> None:
    world = world_with(1, nodes=3, submission=SubmissionSettings(confirm_answers=1, expiry_answers=1))
    for node in world.nodes[:2]:
        node.faults.add("*", *["refuse", "http500", "empty", "timeout"] * 20)
    world.run()
    world.require_exactly_once([intent(0)])


def test_without_servers_there_is_nothing_to_ask() -> None:
    with pytest.raises(LedgerUnavailable, match="configured"):
        LedgerNodes([])


# -- several workers ------------------------------------------------------------------------------------------------------------------


def test_one_worker_has_the_account_at_a_time() -> None:
    world = world_with(1, lease=30)
    first, second = world.worker(), world.worker()
    assert world.cycle(first).leased
    progress = world.cycle(second)
    assert (progress.leased, progress.batch_id) == (False, None)
    world.clock.advance(31)
    world.ledger.close(0)
    assert world.cycle(second).leased
    assert not world.cycle(first).leased


def test_a_lease_from_before_the_clock_was_set_back_is_free() -> None:
    world = world_with(1, lease=30)
    then = world.clock().timestamp() + 1_000_000
    assert SubmissionStore(world.queue.storage).lease(world.account, 0, "killed", now=then, until=then + 30)
    assert world.cycle(world.worker()).leased
    assert not world.cycle(world.worker()).leased


@pytest.mark.parametrize("ahead", [400, 3600])
def test_a_worker_that_learns_nothing_keeps_the_account_from_nobody(ahead: int) -> None:
    """Its clock is ahead: it believes no ledger, and takes every lease for one that ran out; what the other one signed it sends."""
    world = world_with(1, lease=60)
    wrong, right = world.worker(clock=lambda: world.clock() + timedelta(seconds=ahead)), world.worker()
    for _ in range(2):
        with pytest.raises(LedgerUnavailable):
            world.cycle(wrong)
        assert world.cycle(right, close=True).leased
    world.require_exactly_once([intent(0)])


def test_a_worker_whose_lease_ran_out_closes_no_batch_beside_another_ones() -> None:
    world = world_with(1, lease=30)
    slow, other = world.worker(), world.worker()
    world.cycle(slow, 2)
    world.ledger.close()
    real = world.wire.post_json

    async def long(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        if payload["method"] == "tx":
            world.wire.post_json = real
            world.clock.advance(31)
            await other.cycle()
            world.queue.enqueue(intent(1))
            await other.cycle()
            world.queue.enqueue(intent(2))
        return answer

    world.wire.post_json = long
    progress = world.cycle(slow)
    assert (progress.leased, progress.batch_id) == (False, None)
    assert len(world.attempts(2)) == 1
    assert world.attempts(3) == []
    world.run()
    world.require_exactly_once([intent(0), intent(1), intent(2)])


@pytest.mark.parametrize("stale", [-1, 1], ids=["rejected", "taken"])
def test_what_a_late_worker_learned_of_a_dead_attempt_closes_nothing_over_the_one_that_is_alive(stale: int) -> None:
    """It waits for an answer longer than its lease; meanwhile another one signs and sends anew, and then the answer is a wrong one."""
    world = world_with(1, submission=SubmissionSettings(window=5))
    late, other = world.worker(), world.worker()
    world.cycle(late)
    for _ in range(7):
        world.ledger.close()
    if stale > 0:
        spoil(world, stale)
        world.cycle(late)  # looked taken once
    real = world.wire.post_json

    async def long(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        if payload["method"] != "account_info":
            return await real(url, payload)
        world.wire.post_json = real
        await other.cycle()  # signed anew
        await other.cycle()  # sent
        answer = await real(url, payload)
        answer["result"]["account_data"]["Sequence"] += stale
        return answer

    world.wire.post_json = long
    world.cycle(late)
    assert SubmissionStore(world.queue.storage).slot(1) == Slot(1, world.account, 1, SlotState.OPEN, None)
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED", "MAYBE"]
    world.run()
    world.require_exactly_once([intent(0)])


def spoil(world: World, stale: int) -> None:
    """The next answer about the account has another Sequence than the true one."""
    real = world.wire.post_json

    async def wrong(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        if payload["method"] == "account_info":
            world.wire.post_json = real
            answer["result"]["account_data"]["Sequence"] += stale
        return answer

    world.wire.post_json = wrong


def test_a_sequence_that_looked_taken_and_then_not_is_looked_at_twice_again() -> None:
    world = world_with(1, submission=SubmissionSettings(window=5))
    worker = world.worker()
    world.cycle(worker)
    for _ in range(2):
        for _ in range(7):
            world.ledger.close()
        spoil(world, 1)
        world.cycle(worker)
        assert SubmissionStore(world.queue.storage).slot(1) == Slot(1, world.account, 1, SlotState.OPEN, None)
        world.cycle(worker)
    assert [attempt.state for attempt in world.attempts()] == ["EXPIRED", "EXPIRED", "PREPARED"]
    world.run()
    world.require_exactly_once([intent(0)])


def test_a_worker_that_ends_gives_the_account_back() -> None:
    world = world_with(1, lease=30)
    asyncio.run(world.worker().run(interval=0, max_cycles=2))
    assert world.cycle(world.worker()).leased


def test_a_stop_ends_a_run() -> None:
    world = world_with(1)

    async def scene() -> int:
        stop = asyncio.Event()
        stop.set()
        return await world.worker().run(stop=stop)

    assert asyncio.run(scene()) == 0


class Client:
    """A client for the single-intent worker, which must not be asked."""

    async def submit(self, signed_tx_blob_hex: str) -> SubmitResult:
        raise AssertionError(signed_tx_blob_hex)

    async def get_tx(self, tx_hash: str) -> TxStatusResult:
        raise AssertionError(tx_hash)


def test_an_intent_in_a_batch_is_never_given_to_the_single_worker() -> None:
    world = world_with(2)
    world.cycle(world.worker())
    assert (world.queue.next_pending(9), world.queue.next_unconfirmed(9)) == ([], [])
    digest = "sha256:" + intent(0).intent_digest()
    for wanted in (None, digest):
        assert not asyncio.run(process_one_xrpl(world.queue, Client(), world.signer, intent_digest=wanted)).processed
    with world.queue.claimed(digest) as mine:
        assert not mine


def test_an_intent_that_the_single_worker_has_is_in_no_batch() -> None:
    world = world_with(2)
    with world.queue.claimed("sha256:" + intent(0).intent_digest()) as mine:
        assert mine
        world.cycle(world.worker())
        assert world.progress.waiting == 0
    world.run()
    world.require_exactly_once([intent(0), intent(1)])


def test_an_intent_whose_transaction_was_known_before_it_was_queued_is_in_no_batch() -> None:
    world = world_with(0)
    queue_id = "sha256:" + intent(0).intent_digest()
    sent = AttestationReceipt(queue_id, "xrpl", 1, ReceiptStatus.SUBMITTED, "2025-01-01T00:00:00Z", proof={"tx_hash": "AB" * 32})
    assert world.queue.record_receipt(sent)
    world.queue.enqueue(intent(0))
    progress = world.cycle(world.worker(), 3, close=True)
    assert (progress.batch_id, progress.waiting, world.sent()) == (None, 0, [])


def test_an_intent_with_a_transaction_of_its_own_is_in_no_batch() -> None:
    world = world_with(1)

    class Taking(Client):
        async def submit(self, signed_tx_blob_hex: str) -> SubmitResult:
            return SubmitResult(bool(signed_tx_blob_hex), "AB" * 32, "tesSUCCESS")

        async def get_tx(self, tx_hash: str) -> TxStatusResult:
            return TxStatusResult(not tx_hash)

    signer = LocalWalletSigner(key_of_seed(SEED), complete=lambda _: {"Sequence": 1, "Fee": "10", "LastLedgerSequence": 200})
    asyncio.run(process_one_xrpl(world.queue, Taking(), signer))
    assert world.statuses() == ["DEFERRED"]
    assert world.cycle(world.worker(), 3).batch_id is None


# -- what the schema refuses ------------------------------------------------------------------------------------------------------------

FORBIDDEN = [
    "DELETE FROM witness_attempts",
    "DELETE FROM witness_slots",
    "DELETE FROM attestation_receipts",
    "UPDATE attestation_receipts SET status = 'FAILED'",
    "UPDATE witness_slots SET state = 'OPEN'",
    "UPDATE witness_attempts SET state = 'MAYBE'",
    "UPDATE witness_attempts SET blob = ''",
    "UPDATE witness_members SET batch_id = 2",
    "INSERT INTO witness_slots (batch_id, account, seq) SELECT 1, account, seq FROM witness_slots",
    "INSERT INTO witness_members (batch_id, leaf_index, intent_digest, attempt) SELECT 1, 99, intent_digest, 1 FROM witness_members",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_what_must_never_happen_is_refused_by_the_schema(statement: str) -> None:
    world = world_with(1)
    world.run()
    with pytest.raises(StoreConflict), world.queue.storage.database.transaction() as connection:
        connection.execute(statement)


@pytest.mark.parametrize("state", [state for state in SlotState if state is not SlotState.OPEN])
def test_no_slot_is_closed_while_an_attempt_of_it_is_alive(state: SlotState) -> None:
    world = world_with(1)
    world.cycle(world.worker())
    with pytest.raises(StoreConflict, match="alive"), world.queue.storage.database.transaction() as connection:
        connection.execute("UPDATE witness_slots SET state = ?", (state,))


@pytest.mark.parametrize(
    ("settings", "bad"),
    [
        (SubmissionSettings, {"window": 4}),
        (SubmissionSettings, {"window": 21}),
        (SubmissionSettings, {"window": "15"}),
        (SubmissionSettings, {"max_fee_drops": 0}),
        (SubmissionSettings, {"expiry_answers": 0}),
        (SubmissionSettings, {"confirm_answers": True}),
        (BatchSettings, {"network": "x", "max_members": 0}),
        (BatchSettings, {"network": "x", "max_members": 65_537}),
        (BatchSettings, {"network": "x", "max_age": -1}),
        (BatchSettings, {"network": "x", "max_age": 601}),
        (BatchSettings, {"network": "x", "max_age": float("nan")}),
        (BatchSettings, {"network": "x", "lease": -1}),
        (BatchSettings, {"network": 7}),
    ],
)
def test_settings_out_of_bounds_are_refused(settings: type[Any], bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        settings(**bad)


def test_no_secret_is_in_the_database_or_in_what_failures_leave(tmp_path: Path) -> None:
    world = world_with(2, path=tmp_path / "q.db", requests=["ok", "http503", "ok", "malformed", "close"] * 8)
    world.run()
    world.queue.close()
    private = key_from_seed(SEED).secret.hex()
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        for secret in (SEED, private[:64], private):
            assert secret.encode() not in content
            assert secret.upper().encode() not in content
            assert bytes.fromhex(private[:64]) not in content


def test_a_ledger_that_is_crowded_delays_and_does_not_double() -> None:
    world = world_with(3, submission=SubmissionSettings(max_fee_drops=10))
    world.nodes[0].faults.add("submit", "engine:telINSUF_FEE_P", "engine:telCAN_NOT_QUEUE", "engine:terQUEUED")
    world.run()
    world.require_exactly_once([intent(number) for number in range(3)])


# -- completing for one transaction -------------------------------------------------------------------------------------------------------


def test_a_signer_can_ask_a_server_for_what_is_missing() -> None:
    world = world_with(1, network_id=2000)
    with http_front(world.nodes[0]) as url:
        signer = LocalWalletSigner(key_of_seed(SEED), complete=NodeCompletion(url))
        result = asyncio.run(process_one_xrpl(world.queue, JsonRpcClient(url), signer))
        assert [receipt.status.value for receipt in result.receipts] == ["SUBMITTED", "DEFERRED"]
        world.ledger.close()
        result = asyncio.run(process_one_xrpl(world.queue, JsonRpcClient(url), signer))
    (receipt,) = result.receipts
    assert (receipt.status.value, receipt.proof["memo_verified"]) == ("CONFIRMED", True)
    world.witnesses()[0].check(receipt, intent(0))


@pytest.mark.parametrize("fault", ["http503", "malformed", "empty", "wrong_shape", "error:noNetwork"])
def test_a_server_that_does_not_answer_completes_nothing(fault: str) -> None:
    world = World()
    world.nodes[0].faults.add("*", fault)
    with http_front(world.nodes[0]) as url, pytest.raises(LedgerUnavailable):
        NodeCompletion(url)(world.account)


@pytest.mark.parametrize("host", ["a..b", "xn--ü", "xn--a.example", "☃.example"])
def test_a_server_whose_host_cannot_exist_completes_nothing(host: str) -> None:
    with pytest.raises(LedgerUnavailable, match="fee"):
        NodeCompletion(f"http://{host}/")("rAccount")


REPLACED = {
    "attestation_receipts": [{"attempt": 99}, {"receipt_digest": "new"}],
    "witness_slots": [{"closed_at": None}, {"batch_id": 99}],
    "witness_attempts": [{"blob": "AB"}, {"hash": "new"}, {"hash": "new", "n": 2, "state": "PREPARED"}],
    "witness_stamps": [{"evidence": b""}, {"n": 99}, {"batch_id": 99}],
    "witness_proofs": [{"document": "[]"}, {"digest": "new"}],
}
"""Rows with a member that is another one; in the later ones a key, so that a row number or another rule is what they have in common."""


@pytest.mark.parametrize(("table", "changes"), [(table, changes) for table, others in REPLACED.items() for changes in others])
def test_what_is_only_ever_added_is_not_replaced_either(table: str, changes: dict[str, object], tmp_path: Path) -> None:
    """Nor removed, by whoever opens the file with tools of their own: SQLite's REPLACE asks no trigger against deletion."""
    world = World(path=tmp_path / "queue.db")
    world.queue.enqueue_many([intent(0), intent(1)])
    world.run()
    asyncio.run(StampWitness(world.queue, SelfWitness(world.queue), world.settings, beside=True).besides())
    world.queue.close()
    with closing(sqlite3.connect(tmp_path / "queue.db")) as other:
        other.execute("INSERT INTO witness_proofs VALUES ('sha256:ab', 'AB', 7, 'tree', '{}', '2026-01-01T00:00:00+00:00')")
        other.execute("UPDATE witness_batches SET size = size")  # the connection may write
        other.commit()
        other.row_factory = sqlite3.Row
        before = [dict(row) for row in other.execute(f"SELECT * FROM {table} ORDER BY 1")]
        row = {**dict(other.execute(f"SELECT rowid AS rowid, * FROM {table} LIMIT 1").fetchone()), **changes}
        if table == "witness_slots":
            del row["rowid"]  # which is its batch_id
        for statement in (
            f"INSERT OR REPLACE INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})",
            f"DELETE FROM {table}",
        ):
            with suppress(sqlite3.IntegrityError):
                other.execute(statement, row if ":" in statement else {})
            assert [dict(row) for row in other.execute(f"SELECT * FROM {table} ORDER BY 1")] == before, statement
            other.rollback()


@pytest.mark.parametrize("table", ["attestation_receipts", "witness_attempts", "witness_stamps", "witness_proofs"])
def test_a_row_with_the_number_that_new_rows_have_before_they_have_one_stands_in_no_ones_way(table: str, tmp_path: Path) -> None:
    """Somebody puts it there with tools of their own: -1, which is what triggers are told before a row has its number."""
    AttestationQueue(tmp_path / "queue.db").close()
    with closing(sqlite3.connect(tmp_path / "queue.db")) as other:
        columns = other.execute(f"SELECT name, type FROM pragma_table_info('{table}') WHERE name <> 'state'").fetchall()
        for number in range(1, 4):
            row: dict[str, object] = {name: number if kind == "INTEGER" else f"{number}" for name, kind in columns}
            row |= {name: b"x" for name, kind in columns if kind == "BLOB"}
            row |= {"rowid": -1} if number == 1 else {}
            other.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})", row)
        assert other.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (3,)
