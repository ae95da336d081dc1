"""One cycle of witnessing: every way in which the ledger may answer, and that an intent is sent once."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from witness_testing import World
from xrpl_testing import NOON, Ledger, Signer, intent

from nexus_attest.attestation import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.errors import InvalidAnchor, LedgerUnavailable
from nexus_attest.attestation.queue import AttestationQueue, QueuedIntent
from nexus_attest.attestation.worker import ProcessResult, process_one_xrpl, process_submitted, run_worker
from nexus_attest.attestation.xrpl.client import SubmitResult, TxStatusResult
from nexus_attest.attestation.xrpl.codec import transaction_id
from nexus_attest.attestation.xrpl.signer import SignResult
from nexus_attest.attestation.xrpl.submission_store import SubmissionStore
from nexus_attest.testledger import Clock
from nexus_control.errors import InputError, StoreError


@pytest.fixture
def queue() -> Iterator[AttestationQueue]:
    with AttestationQueue() as found:
        yield found


def cycle(queue: AttestationQueue, ledger: Ledger, signer: Signer | None = None, **options: Any) -> ProcessResult:
    told: dict[str, Any] = {"now_fn": lambda: NOON, **options}
    return asyncio.run(process_one_xrpl(queue, ledger, signer or Signer(), **told))


def statuses(result: ProcessResult) -> list[str]:
    return [receipt.status.value for receipt in result.receipts]


def state(queue: AttestationQueue, queue_id: str) -> tuple[str, int, str | None]:
    found = queue.get_status(queue_id)
    assert found is not None
    return found["status"], found["last_attempt"], found["last_error_code"]


def waiting(queue: AttestationQueue) -> list[str]:
    return [row["intent_digest"] for row in SubmissionStore(queue.storage).waiting(9, now=0)]


def test_nothing_to_do(queue: AttestationQueue) -> None:
    assert cycle(queue, Ledger()) == ProcessResult(False)
    assert cycle(queue, Ledger(), intent_digest="sha256:" + "0" * 64) == ProcessResult(False)


def test_an_intent_is_submitted_and_confirmed_in_one_cycle(queue: AttestationQueue) -> None:
    queue_id, signer = queue.enqueue(intent()), Signer()
    result = cycle(queue, Ledger(), signer)
    assert (result.processed, result.queue_id, result.intent_digest) == (True, queue_id, queue_id)
    assert statuses(result) == ["SUBMITTED", "CONFIRMED"]
    assert queue.replay(queue_id) == result.receipts
    assert state(queue, queue_id) == ("CONFIRMED", 1, None)
    assert result.receipts[1].proof == {
        "tx_hash": "HASH1",
        "ledger_index": 7,
        "engine_result": "tesSUCCESS",
        "ledger_close_time": NOON,
        "account": "rAccount",
        "key_id": "k1",
    }
    assert signer.signed[0]["TransactionType"] == "AccountSet"
    assert cycle(queue, Ledger()) == ProcessResult(False)


@pytest.mark.parametrize("found", [TxStatusResult(False), TxStatusResult(True), ConnectionError("gone")])
def test_a_transaction_that_may_be_on_the_ledger_is_asked_for_and_not_sent_again(
    queue: AttestationQueue, found: TxStatusResult | Exception
) -> None:
    queue_id, signer, ledger = queue.enqueue(intent()), Signer(), Ledger(found=found)
    assert statuses(cycle(queue, ledger, signer)) == ["SUBMITTED", "DEFERRED"]
    assert statuses(cycle(queue, ledger, signer)) == ["DEFERRED"]
    assert state(queue, queue_id)[:2] == ("DEFERRED", 2)
    assert statuses(cycle(queue, Ledger(), signer)) == ["CONFIRMED"]
    assert len(signer.signed) == len(ledger.blobs) == 1
    assert [receipt.attempt for receipt in queue.replay(queue_id)] == [1, 1, 2, 3]


def test_a_transaction_that_is_not_found_is_sent_again_only_when_asked_to(queue: AttestationQueue) -> None:
    queue.enqueue(intent())
    signer, ledger = Signer(), Ledger(found=TxStatusResult(False))
    cycle(queue, ledger, signer)
    assert statuses(cycle(queue, ledger, signer, resubmit=True)) == ["DEFERRED", "SUBMITTED", "DEFERRED"]
    pending = Ledger(found=TxStatusResult(True))
    assert statuses(cycle(queue, pending, signer, resubmit=True)) == ["DEFERRED"]
    assert statuses(cycle(queue, Ledger(found=OSError("x")), signer, resubmit=True)) == ["DEFERRED"]
    assert len(signer.signed) == 2


@pytest.mark.parametrize(("problem", "code"), [(ConnectionError("refused"), "BACKEND_UNAVAILABLE"), (TimeoutError(), "TIMEOUT")])
def test_an_unreachable_node_does_not_end_the_intent(queue: AttestationQueue, problem: Exception, code: str) -> None:
    queue_id = queue.enqueue(intent())
    assert statuses(cycle(queue, Ledger(submitted=problem))) == ["FAILED"]
    assert state(queue, queue_id) == ("DEFERRED", 1, code)
    assert statuses(cycle(queue, Ledger())) == ["SUBMITTED", "CONFIRMED"]
    assert state(queue, queue_id) == ("CONFIRMED", 2, None)


def test_a_signer_that_could_not_ask_the_ledger_does_not_end_the_intent(queue: AttestationQueue) -> None:
    queue_id, ledger = queue.enqueue(intent()), Ledger()

    class Alone(Signer):
        def sign(self, tx_dict: dict[str, Any]) -> SignResult:
            raise LedgerUnavailable(f"http://node: no Sequence for {tx_dict['Account']}")

    assert statuses(cycle(queue, ledger, Alone())) == ["FAILED"]
    assert (state(queue, queue_id), ledger.blobs) == (("DEFERRED", 1, "BACKEND_UNAVAILABLE"), [])
    assert waiting(queue) == [queue_id], "nothing was sent, so a batch may have it"
    assert statuses(cycle(queue, ledger)) == ["SUBMITTED", "CONFIRMED"]


def test_a_refusal_is_final(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    result = cycle(queue, Ledger(submitted=SubmitResult(False, "H", "temMALFORMED", detail="bad")))
    assert result.receipts[0].error is not None
    assert (result.receipts[0].error.code, result.receipts[0].error.detail) == ("REJECTED", "temMALFORMED: bad")
    assert state(queue, queue_id) == ("FAILED", 1, "REJECTED")
    assert cycle(queue, Ledger()) == ProcessResult(False)


def test_an_intent_too_long_for_a_memo_does_not_block_the_queue(queue: AttestationQueue) -> None:
    long = queue.enqueue(intent(env="x" * 700), created_at="2020-01-01T00:00:00+00:00")
    queue.enqueue(intent())
    first = cycle(queue, Ledger())
    assert (first.queue_id, statuses(first)) == (long, ["FAILED"])
    assert state(queue, long) == ("FAILED", 1, "REJECTED")
    assert statuses(cycle(queue, Ledger())) == ["SUBMITTED", "CONFIRMED"]


def test_an_account_that_is_missing_is_the_callers_mistake_and_not_the_intents(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    with pytest.raises(InvalidAnchor, match="account"):
        cycle(queue, Ledger(), account="")
    assert state(queue, queue_id) == ("PENDING", 0, None)


def test_what_a_dead_process_submitted_is_only_asked_for_after_those_that_wait(queue: AttestationQueue) -> None:
    left = queue.enqueue(intent(), created_at="2020-01-01T00:00:00+00:00")
    queue.record_receipt(AttestationReceipt(left, "xrpl", 1, ReceiptStatus.SUBMITTED, NOON, proof={"tx_hash": "OLD", "key_id": "k0"}))
    lost = queue.enqueue(intent("b"), created_at="2020-01-02T00:00:00+00:00")
    queue.record_receipt(AttestationReceipt(lost, "xrpl", 1, ReceiptStatus.SUBMITTED, NOON))
    waiting = queue.enqueue(intent("c"))
    assert cycle(queue, Ledger()).queue_id == waiting
    ledger, signer = Ledger(), Signer()
    result = cycle(queue, ledger, signer)
    assert (result.queue_id, statuses(result), ledger.asked, signer.signed) == (left, ["CONFIRMED"], ["OLD"], [])
    assert (result.receipts[0].attempt, result.receipts[0].proof["key_id"]) == (1, "k0")
    assert cycle(queue, ledger) == ProcessResult(False)


def test_one_intent_is_found_wherever_it_stands(queue: AttestationQueue) -> None:
    ids = [queue.enqueue(intent(tenant=str(number))) for number in range(50)]
    wanted = queue.next_pending(50)[-1].queue_id
    assert wanted in ids
    assert cycle(queue, Ledger(), intent_digest=wanted).queue_id == wanted
    assert cycle(queue, Ledger(), intent_digest=wanted) == ProcessResult(False)


def test_two_workers_at_once_submit_an_intent_once(queue: AttestationQueue) -> None:
    queue.enqueue(intent())
    signer, ledger = Signer(), Ledger()
    real = ledger.submit

    async def slow(signed_tx_blob_hex: str) -> SubmitResult:
        await asyncio.sleep(0.01)
        return await real(signed_tx_blob_hex)

    ledger.submit = slow

    async def both() -> list[ProcessResult]:
        return await asyncio.gather(*(process_one_xrpl(queue, ledger, signer) for _ in range(3)))

    assert sorted(result.processed for result in asyncio.run(both())) == [False, False, True]
    assert len(signer.signed) == 1


def test_a_claim_ends_with_its_holder_or_after_five_minutes() -> None:
    times = iter([0.0, 299.0, 300.0, 301.0])
    with AttestationQueue(clock=lambda: datetime.fromtimestamp(next(times), UTC)) as queue:
        with queue.claimed("q") as first, queue.claimed("q") as second, queue.claimed("q") as third:
            assert (first, second, third) == (True, False, True)
        with queue.claimed("q") as after:
            assert after


def test_a_claim_from_before_the_clock_was_set_back_is_free() -> None:
    """Its worker was killed; without this nobody would look at the intent for as long as the clock was wrong."""
    clock = Clock()
    with AttestationQueue(clock=clock) as queue:
        queue_id = queue.enqueue(intent())
        clock.advance(1_000_000)
        assert queue.storage.claim(queue_id, "killed", now=clock().timestamp(), until=clock().timestamp() + 300)
        clock.advance(-1_000_000)
        assert SubmissionStore(queue.storage).count_waiting(now=clock().timestamp()) == 1
        with queue.claimed(queue_id) as mine:
            assert mine


def test_a_claim_of_a_worker_whose_clock_is_an_hour_ahead_is_a_claim() -> None:
    clock = Clock()
    with AttestationQueue(clock=clock) as queue:
        queue_id, now = queue.enqueue(intent()), clock().timestamp()
        assert queue.storage.claim(queue_id, "ahead", now=now + 3600, until=now + 3900)
        assert SubmissionStore(queue.storage).count_waiting(now=now) == 0
        assert not queue.storage.claim(queue_id, "right", now=now, until=now + 300)


def test_an_interruption_frees_the_intent(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())

    class Dying(Signer):
        def sign(self, tx_dict: dict[str, Any]) -> Any:
            raise KeyboardInterrupt(len(tx_dict))

    with pytest.raises(KeyboardInterrupt):
        cycle(queue, Ledger(), Dying())
    assert state(queue, queue_id) == ("PENDING", 0, None)
    assert statuses(cycle(queue, Ledger())) == ["SUBMITTED", "CONFIRMED"]


# -- processes that die with a transaction in their hands -----------------------------------------------------------------


def nothing(*_: object) -> None:
    pass


class Dead(BaseException):
    """The process is gone, or its task was cancelled."""


class Dying(Ledger):
    """Takes a transaction, and whoever sent it is gone before the answer comes; or before the first byte has left."""

    def __init__(self, *, takes: bool, **told: Any) -> None:
        super().__init__(**told)
        self.takes = takes

    async def submit(self, signed_tx_blob_hex: str) -> SubmitResult:
        if self.takes:
            self.blobs.append(signed_tx_blob_hex)
        raise Dead


def test_what_was_sent_and_not_recorded_is_asked_for_and_not_sent_again(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    signer, ledger = Signer(), Ledger()
    with pytest.raises(Dead):
        cycle(queue, Dying(takes=True), signer)
    assert state(queue, queue_id) == ("PENDING", 0, None)
    found = cycle(queue, ledger, signer)
    assert (statuses(found), ledger.blobs, ledger.asked, len(signer.signed)) == (["SUBMITTED", "CONFIRMED"], [], ["HASH1"], 1)
    assert found.receipts[0].proof == {"tx_hash": "HASH1", "key_id": "k1"}
    assert found.receipts[0].evidence_digests == found.receipts[1].evidence_digests
    assert (found.receipts[1].proof["key_id"], [receipt.attempt for receipt in found.receipts]) == ("k1", [1, 1])
    assert queue.replay(queue_id) == found.receipts
    assert state(queue, queue_id) == ("CONFIRMED", 1, None)
    assert not cycle(queue, ledger, signer).processed


def test_what_was_signed_and_never_sent_waits_until_somebody_says_that_it_may_be_sent_anew(queue: AttestationQueue) -> None:
    queue.enqueue(intent())
    signer, ledger = Signer(), Ledger(found=TxStatusResult(False))
    with pytest.raises(Dead):
        cycle(queue, Dying(takes=False), signer)
    assert statuses(cycle(queue, ledger, signer)) == ["SUBMITTED", "DEFERRED"]
    assert statuses(cycle(queue, ledger, signer)) == ["DEFERRED"]
    assert (ledger.blobs, len(signer.signed)) == ([], 1)
    assert statuses(cycle(queue, ledger, signer, resubmit=True)) == ["DEFERRED", "SUBMITTED", "DEFERRED"]
    assert ledger.blobs == ["blob2"]


def test_the_second_transaction_of_an_intent_is_not_forgotten_for_the_first(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    signer, lost = Signer(), TxStatusResult(False)
    assert statuses(cycle(queue, Ledger(found=lost), signer)) == ["SUBMITTED", "DEFERRED"]
    with pytest.raises(Dead):
        cycle(queue, Dying(takes=True, found=lost), signer, resubmit=True)
    ledger = Ledger()
    assert statuses(cycle(queue, ledger, signer, resubmit=True)) == ["SUBMITTED", "CONFIRMED"]
    assert (ledger.asked, ledger.blobs, state(queue, queue_id)[0]) == (["HASH2"], [], "CONFIRMED")


def test_nobody_asks_for_what_was_left_when_another_witness_has_confirmed_the_intent(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    with pytest.raises(Dead):
        cycle(queue, Dying(takes=True))
    assert [item.queue_id for item in queue.next_submitted()] == [queue_id]
    queue.record_receipt(AttestationReceipt(queue_id, "tsa", 1, ReceiptStatus.CONFIRMED, NOON, proof={"by": "other"}))
    assert queue.next_submitted() == []
    assert not cycle(queue, Ledger()).processed


def test_a_node_that_was_not_reached_is_sent_another_transaction_in_the_next_cycle(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    assert statuses(cycle(queue, Ledger(submitted=ConnectionError("gone")))) == ["FAILED"]
    assert queue.storage.sending(queue_id) is None
    assert statuses(cycle(queue, Ledger())) == ["SUBMITTED", "CONFIRMED"]
    assert queue.storage.sending(queue_id) is None


def test_a_transaction_that_its_answer_does_not_name_is_asked_for_by_the_hash_that_was_signed(queue: AttestationQueue) -> None:
    queue_id, ledger, clock = queue.enqueue(intent()), Ledger(), ticking()
    assert statuses(cycle(queue, Ledger(submitted=SubmitResult(True, None, "tesSUCCESS")), now_fn=clock)) == ["SUBMITTED"]
    assert state(queue, queue_id)[0] == "SUBMITTED"
    assert statuses(cycle(queue, ledger, now_fn=clock)) == ["SUBMITTED", "CONFIRMED"]
    assert (ledger.asked, ledger.blobs, state(queue, queue_id)[0]) == (["HASH1"], [], "CONFIRMED")


def test_every_transaction_that_no_node_answered_for_is_asked_for(queue: AttestationQueue) -> None:
    """The second of them is on the ledger."""

    class Second(Ledger):
        async def get_tx(self, tx_hash: str) -> TxStatusResult:
            found = await super().get_tx(tx_hash)
            return found if tx_hash == "HASH2" else TxStatusResult(False)

    queue_id, signer, ledger, clock = queue.enqueue(intent()), Signer(), Second(), ticking()
    for _ in range(3):
        assert statuses(cycle(queue, Ledger(submitted=TimeoutError()), signer, now_fn=clock)) == ["FAILED"]
    assert [sent["tx_hash"] for sent in queue.storage.unanswered(queue_id)] == ["HASH1", "HASH2", "HASH3"]
    assert SubmissionStore(queue.storage).waiting(9, now=2.0**40) == []
    assert asyncio.run(process_submitted(queue, ledger, signer, now_fn=clock)) == 1
    assert (ledger.asked, ledger.blobs, state(queue, queue_id)) == (["HASH1", "HASH2"], [], ("CONFIRMED", 4, None))
    confirmed = queue.replay(queue_id)[-1]
    assert (confirmed.proof["tx_hash"], confirmed.proof["key_id"]) == ("HASH2", "k1")
    assert queue.next_submitted() == []


def test_the_second_transaction_of_an_intent_is_asked_for_also_where_no_node_answered_for_it(queue: AttestationQueue) -> None:
    queue_id, signer, lost, clock = queue.enqueue(intent()), Signer(), TxStatusResult(False), ticking()
    cycle(queue, Ledger(found=lost), signer, now_fn=clock)
    cycle(queue, Ledger(submitted=TimeoutError(), found=lost), signer, resubmit=True, now_fn=clock)
    unknown = Ledger(found=lost)
    assert asyncio.run(process_submitted(queue, unknown, signer, now_fn=clock)) == 1
    assert (unknown.asked, unknown.blobs, state(queue, queue_id)[0]) == (["HASH1", "HASH2"], [], "DEFERRED")
    known = Ledger()
    assert asyncio.run(process_submitted(queue, known, signer, now_fn=clock)) == 1
    assert (known.asked, state(queue, queue_id)[0]) == (["HASH1"], "CONFIRMED")


def test_nothing_is_sent_that_cannot_be_noted(queue: AttestationQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue_id = queue.enqueue(intent())
    ledger = Ledger()

    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(queue.storage, "note_sending", full)
    with pytest.raises(StoreError):
        cycle(queue, ledger)
    assert (ledger.blobs, state(queue, queue_id), queue.replay(queue_id)) == ([], ("PENDING", 0, None), [])


@pytest.mark.parametrize("left_out", ["tx_hash", "key_id"])
def test_a_signer_that_says_less_than_it_should(queue: AttestationQueue, left_out: str) -> None:
    queue_id = queue.enqueue(intent())

    class Silent(Signer):
        def sign(self, tx_dict: dict[str, Any]) -> Any:
            signed = super().sign(tx_dict)
            return SimpleNamespace(**{**vars(signed), left_out: None})

    with pytest.raises(Dead):
        cycle(queue, Dying(takes=True), Silent())
    assert queue.storage.sending(queue_id) == (None if left_out == "tx_hash" else {"tx_hash": "HASH1", "key_id": None})


def test_a_transaction_whose_signer_names_no_hash_is_known_by_its_bytes(queue: AttestationQueue) -> None:
    """The id of a transaction is a digest of what is sent; unknown, it could be witnessed once more in a batch."""
    queue_id = queue.enqueue(intent())

    class Silent(Signer):
        def sign(self, tx_dict: dict[str, Any]) -> Any:
            return SimpleNamespace(signed_tx_blob_hex="1200" + "AB" * len(tx_dict), key_id="k1")

    assert statuses(cycle(queue, Ledger(submitted=TimeoutError()), Silent())) == ["FAILED"]
    blob = Silent().sign({"TransactionType": "AccountSet", "Account": "rAccount", "Memos": []}).signed_tx_blob_hex
    assert [sent["tx_hash"] for sent in queue.storage.unanswered(queue_id)] == [transaction_id(bytes.fromhex(blob))]
    assert waiting(queue) == []


def test_a_worker_that_was_killed_leaves_its_transaction_to_the_next_one_and_to_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed: nothing of it runs any more, and its claim ends five minutes later."""
    now = [datetime(2025, 1, 1, tzinfo=UTC)]
    with AttestationQueue(tmp_path / "queue.db", clock=lambda: now[0]) as queue:
        other, queue_id = queue.enqueue(intent(tenant="other"), created_at="2026"), queue.enqueue(intent())
        monkeypatch.setattr(queue.storage, "release", nothing)
        with pytest.raises(Dead):
            cycle(queue, Dying(takes=True), intent_digest=queue_id)
    with AttestationQueue(tmp_path / "queue.db", clock=lambda: now[0]) as queue:
        store, ledger, signer = SubmissionStore(queue.storage), Ledger(), Signer()

        def left() -> tuple[list[str], list[str]]:
            waiting = store.waiting(9, now=now[0].timestamp())
            return [row["intent_digest"] for row in waiting], [item.queue_id for item in queue.next_submitted(9)]

        def ask() -> int:
            return asyncio.run(process_submitted(queue, ledger, signer, now_fn=lambda: NOON))

        assert (left(), ask(), ledger.asked) == (([other], [queue_id]), 0, [])
        now[0] += timedelta(minutes=5)
        assert (left(), ask(), ledger.asked, ledger.blobs) == (([other], [queue_id]), 1, ["HASH1"], [])
        assert (left(), state(queue, queue_id)[0]) == (([other], []), "CONFIRMED")


def test_what_nobody_knows_is_asked_for_ever_more_rarely(queue: AttestationQueue) -> None:
    """Noted, and never sent. Each look leaves a receipt."""
    now, unknown, looks = [datetime(2025, 1, 1, tzinfo=UTC)], Ledger(found=TxStatusResult(False)), list[int]()
    queue_id = queue.enqueue(intent())
    with pytest.raises(Dead):
        cycle(queue, Dying(takes=False))

    async def ask() -> None:
        for second in range(8000):
            assert len(looks) < 30
            looks.extend([second] * await process_submitted(queue, unknown, Signer(), now_fn=lambda: now[0].isoformat()))
            now[0] += timedelta(seconds=1)

    asyncio.run(ask())
    assert looks == [*range(9), 10, 14, 22, 38, 70, 134, 262, 518, 1030, 2054, 4102, 7702]
    assert (unknown.blobs, len(unknown.asked), state(queue, queue_id)[0]) == ([], len(looks), "DEFERRED")


def noted(queue: AttestationQueue, tx_hash: str, attempts: int, looked_at: str) -> str:
    """An intent with a transaction that somebody noted, and that was asked for so many times."""
    queue_id = queue.enqueue(intent(tenant=tx_hash))
    queue.storage.claim(queue_id, "gone", now=0, until=1)
    assert queue.storage.note_sending(queue_id, "gone", tx_hash, None)
    queue.storage.update_intent_status(queue_id, "DEFERRED", attempts, looked_at)
    return queue_id


def test_many_that_it_is_not_time_for_stand_in_no_ones_way(queue: AttestationQueue) -> None:
    for number in range(40):
        noted(queue, f"OLD{number}", 20, "2025-01-01T00:00:00+00:00")
    noted(queue, "NEW", 20, "2025-01-01T00:00:01+00:00")
    noted(queue, "UNREADABLE", 20, "yesterday")
    ledger = Ledger()
    for time in ("00:59:59+00:00", "00:59:59Z", "00:59:59.9+00:00"):
        asyncio.run(process_submitted(queue, ledger, Signer(), now_fn=lambda time=time: f"2025-01-01T{time}"))
    assert ledger.asked == ["UNREADABLE"]
    queue.storage.update_intent_status(noted(queue, "FEW", 8, NOON), "DEFERRED", 8, "2025-01-01T00:59:59+00:00")
    asyncio.run(process_submitted(queue, ledger, Signer(), now_fn=lambda: "2025-01-01T00:59:59+00:00"))
    assert ledger.asked == ["UNREADABLE", "FEW"]
    assert asyncio.run(process_submitted(queue, ledger, Signer(), now_fn=lambda: "2025-01-01T01:00:00+00:00")) == 1
    assert ledger.asked[2].startswith("OLD")


# -- workers that are slow ------------------------------------------------------------------------------------------------


class Slow(Signer):
    """Answers when its claim has run out, and `meanwhile` has happened."""

    def __init__(self, meanwhile: Callable[[], object], **left_out: None) -> None:
        super().__init__()
        self.meanwhile, self.left_out = meanwhile, left_out

    def sign(self, tx_dict: dict[str, Any]) -> Any:
        signed = super().sign(tx_dict)
        worker = Thread(target=self.meanwhile)
        worker.start()
        worker.join()
        return SimpleNamespace(**{**vars(signed), **self.left_out})


def ticking() -> Callable[[], str]:
    """Another time whenever it is asked, as it is outside tests: receipts of the same content are two."""
    seconds = count()
    return lambda: f"2025-01-01T00:00:{next(seconds):02}Z"


@pytest.mark.parametrize("left_out", [{}, {"tx_hash": None}])
@pytest.mark.parametrize("resubmit", [False, True])
def test_a_worker_whose_claim_was_taken_over_while_it_signed_sends_nothing(
    tmp_path: Path, left_out: dict[str, None], resubmit: bool
) -> None:
    now = [datetime(2025, 1, 1, tzinfo=UTC)]
    unknown, ledger = Ledger(found=TxStatusResult(False)), Ledger(found=TxStatusResult(False))
    with (
        AttestationQueue(tmp_path / "q.db", clock=lambda: now[0]) as queue,
        AttestationQueue(tmp_path / "q.db", clock=lambda: now[0]) as other,
    ):
        queue_id, clock = queue.enqueue(intent()), ticking()
        if resubmit:
            cycle(queue, unknown, now_fn=clock)

        def meanwhile() -> None:
            now[0] += timedelta(minutes=5)
            cycle(other, ledger, resubmit=resubmit, now_fn=clock)

        cycle(queue, ledger, Slow(meanwhile, **left_out), resubmit=resubmit, now_fn=clock)
        assert (ledger.blobs, queue.storage.sending(queue_id)) == (["blob1"], None)


def test_a_worker_whose_last_transaction_was_asked_for_slowly_sends_nothing_when_another_has_sent_anew(tmp_path: Path) -> None:
    """Both count the same attempts, so only the claim tells them apart."""
    now = [datetime(2025, 1, 1, tzinfo=UTC)]
    lost = TxStatusResult(False)
    with (
        AttestationQueue(tmp_path / "q.db", clock=lambda: now[0]) as queue,
        AttestationQueue(tmp_path / "q.db", clock=lambda: now[0]) as other,
    ):
        queue.enqueue(intent())
        clock, ledger = ticking(), Ledger(found=lost)
        cycle(queue, ledger, now_fn=clock)

        class Late(Ledger):
            async def get_tx(self, tx_hash: str) -> TxStatusResult:
                if now[0].minute == 0:
                    now[0] += timedelta(minutes=5)
                    await process_one_xrpl(other, ledger, Signer(), now_fn=clock, resubmit=True)
                return await super().get_tx(tx_hash)

        late = Late(found=lost)
        assert statuses(cycle(queue, late, resubmit=True, now_fn=clock)) == ["DEFERRED"]
        assert (len(ledger.blobs), late.blobs) == (2, [])


def test_a_worker_sends_nothing_of_an_intent_that_a_batch_took_while_it_signed(tmp_path: Path) -> None:
    world = World(path=tmp_path / "q.db")
    queue_id, ledger = world.queue.enqueue(intent()), Ledger()

    def meanwhile() -> None:
        world.clock.advance(301)
        world.ledger.close()
        world.cycle(world.worker())

    assert not cycle(world.queue, ledger, Slow(meanwhile)).processed
    assert (ledger.blobs, world.queue.storage.sending(queue_id)) == ([], None)


def test_a_slow_worker_whose_intent_nobody_took_goes_on(tmp_path: Path) -> None:
    now = [datetime(2025, 1, 1, tzinfo=UTC)]

    def meanwhile() -> None:
        now[0] += timedelta(minutes=6)

    with AttestationQueue(tmp_path / "q.db", clock=lambda: now[0]) as queue:
        queue.enqueue(intent())
        assert statuses(cycle(queue, Ledger(), Slow(meanwhile))) == ["SUBMITTED", "CONFIRMED"]


def test_what_is_only_to_be_asked_for_is_not_sent_when_it_was_decided_since_it_was_listed(
    queue: AttestationQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_id, ledger, listed = queue.enqueue(intent()), Ledger(), queue.next_submitted
    with pytest.raises(Dead):
        cycle(queue, Dying(takes=False))

    def late(limit: int, **told: Any) -> list[QueuedIntent]:
        found = listed(limit, **told)
        queue.storage.forget_sending(queue_id)
        return found

    monkeypatch.setattr(queue, "next_submitted", late)
    assert asyncio.run(process_submitted(queue, ledger, Signer(), now_fn=lambda: NOON)) == 0
    assert (ledger.blobs, state(queue, queue_id)) == ([], ("PENDING", 0, None))


# -- the loop -------------------------------------------------------------------------------------------------------------


def work(queue: AttestationQueue, ledger: Ledger, signer: Signer | None = None, **options: Any) -> int:
    settings: dict[str, Any] = {"interval": 0, **options}
    return asyncio.run(run_worker(queue, ledger, signer or Signer(), now_fn=lambda: NOON, **settings))


def test_a_worker_processes_what_waits_without_pauses(queue: AttestationQueue) -> None:
    ids = [queue.enqueue(intent(tenant=str(number))) for number in range(3)]
    assert work(queue, Ledger(), max_cycles=3, interval=3600) == 3
    assert [state(queue, queue_id)[0] for queue_id in ids] == ["CONFIRMED"] * 3
    assert work(queue, Ledger(), max_cycles=2) == 0
    assert work(queue, Ledger(), max_cycles=0) == 0


def test_an_intent_that_stays_undecided_does_not_keep_others_waiting(queue: AttestationQueue) -> None:
    stuck = queue.enqueue(intent(), created_at="2020-01-01T00:00:00+00:00")
    other = queue.enqueue(intent("b"))
    ledger = Ledger(submitted=ConnectionError("gone"))
    assert work(queue, ledger, max_cycles=4) == 4
    assert [state(queue, queue_id)[:2] for queue_id in (stuck, other)] == [("DEFERRED", 2), ("DEFERRED", 2)]


def test_an_intent_that_nothing_decides_has_its_turn_ever_more_rarely(queue: AttestationQueue) -> None:
    queue_id, ledger = queue.enqueue(intent()), Ledger(found=TxStatusResult(False))
    assert work(queue, ledger, max_cycles=50) == 9
    assert (state(queue, queue_id)[:2], len(ledger.blobs)) == (("DEFERRED", 9), 1)
    other = queue.enqueue(intent("b"))
    assert work(queue, Ledger(), max_cycles=50) == 1
    assert state(queue, other)[0] == "CONFIRMED"
    later: dict[str, Any] = {"interval": 0, "max_cycles": 1, "now_fn": lambda: "2025-01-15T12:00:02+00:00"}
    assert asyncio.run(run_worker(queue, Ledger(), Signer(), **later)) == 1
    assert state(queue, queue_id)[0] == "CONFIRMED"


@pytest.mark.parametrize("settled", ["DEFERRED", "SUBMITTED"])
def test_an_intent_behind_many_undecided_ones_has_its_turn(queue: AttestationQueue, settled: str) -> None:
    """Those that nothing decides, and those of which no transaction is known."""
    for number in range(120):
        old = queue.enqueue(intent(tenant=str(number)), created_at="2020-01-01T00:00:00+00:00")
        queue.storage.update_intent_status(old, settled, 20 if settled == "DEFERRED" else 1, NOON if settled == "DEFERRED" else "2020")
    new = queue.enqueue(intent("b"), created_at="2025-01-01T00:00:00+00:00")
    assert work(queue, Ledger(), max_cycles=3) == 1
    assert state(queue, new)[0] == "CONFIRMED"


def test_many_intents_take_turns_however_old_they_are(queue: AttestationQueue) -> None:
    seconds = count()
    for number in range(130):
        queue.enqueue(intent(tenant=str(number)), created_at=f"2024-01-01T00:{number // 60:02}:{number % 60:02}+00:00")
    ledger = Ledger(submitted=ConnectionError("gone"))

    def now() -> str:
        return (datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=next(seconds))).isoformat()

    asyncio.run(run_worker(queue, ledger, Signer(), interval=0, max_cycles=260, now_fn=now))
    with queue.storage.database.reading() as connection:
        assert [tuple(row) for row in connection.execute("SELECT DISTINCT status, last_attempt FROM attestation_intents")] == [
            ("DEFERRED", 2)
        ]


def test_what_a_dead_process_left_has_its_turn_and_an_unknown_one_is_passed_over(queue: AttestationQueue) -> None:
    lost = queue.enqueue(intent(), created_at="2020-01-01T00:00:00+00:00")
    queue.record_receipt(AttestationReceipt(lost, "xrpl", 1, ReceiptStatus.SUBMITTED, NOON))
    left = queue.enqueue(intent("b"))
    queue.record_receipt(AttestationReceipt(left, "xrpl", 1, ReceiptStatus.SUBMITTED, NOON, proof={"tx_hash": "OLD"}))
    assert work(queue, Ledger(), max_cycles=4) == 1
    assert state(queue, left)[0] == "CONFIRMED"


def test_a_worker_stops_when_told_also_during_a_pause(queue: AttestationQueue) -> None:
    async def both() -> int:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, stop.set)
        return await asyncio.wait_for(run_worker(queue, Ledger(), Signer(), interval=3600, stop=stop), 60)

    assert asyncio.run(both()) == 0


@pytest.mark.parametrize("interval", [-1, float("nan")])
def test_a_pause_that_is_none_is_refused(queue: AttestationQueue, interval: float) -> None:
    with pytest.raises(InputError, match="interval"):
        work(queue, Ledger(), interval=interval, max_cycles=1)
