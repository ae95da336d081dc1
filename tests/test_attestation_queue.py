"""The queue: what waits, what is known of it, and that nothing known is lost."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from nexus_attest.attestation import AttestationIntent, AttestationReceipt, ReceiptError, ReceiptStatus
from nexus_attest.attestation.errors import InvalidIntent, InvalidReceipt
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.storage import AttestationStorage
from nexus_attest.routers import RunEngine
from nexus_control.errors import InputError, StoreClosed
from nexus_control.store import DecisionStore

NOON = "2025-01-15T12:00:00+00:00"


def intent(digit: str = "a", **members: Any) -> AttestationIntent:
    return AttestationIntent("nexus.audit_package", "sha256:" + digit * 64, **members)


def receipt(queue_id: str, status: str, attempt: int = 1, time: str = NOON, error: str | None = None) -> AttestationReceipt:
    proof = {"tx_hash": "abc"} if status == "CONFIRMED" else {}
    return AttestationReceipt(
        queue_id, "xrpl", attempt, ReceiptStatus(status), time, proof=proof, error=None if error is None else ReceiptError(error)
    )


@pytest.fixture(params=["memory", "file"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AttestationQueue]:
    path = ":memory:" if request.param == "memory" else tmp_path / "queue.db"
    with AttestationQueue(path, clock=lambda: datetime(2025, 1, 15, 12, tzinfo=UTC)) as found:
        yield found


def state(queue: AttestationQueue, queue_id: str) -> tuple[str, int, str | None]:
    found = queue.get_status(queue_id)
    assert found is not None
    return found["status"], found["last_attempt"], found["last_error_code"]


def test_times_of_a_clock_with_another_offset_are_stored_in_utc_and_those_of_one_without_are_refused() -> None:
    with AttestationQueue(clock=lambda: datetime(2025, 1, 15, 17, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))) as queue:
        found = queue.get_status(queue.enqueue(intent()))
        assert found is not None
        assert found["created_at"] == NOON
    with AttestationQueue(clock=lambda: datetime(2025, 1, 15, 12)) as queue:
        with pytest.raises(InputError, match=r"clock must give times with an offset, .* got 2025-01-15T12:00:00$"):
            queue.enqueue(intent())
        with pytest.raises(InputError, match="with an offset"), queue.claimed("q"):
            pass
        assert queue.get_status("sha256:" + intent().intent_digest()) is None


def test_the_id_is_the_prefixed_digest_and_the_same_intent_is_queued_once(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    assert queue_id == "sha256:" + intent().intent_digest()
    assert queue.enqueue(intent(), created_at="2030-01-01T00:00:00+00:00") == queue_id
    assert queue.get_status(queue_id) == {
        "queue_id": queue_id,
        "intent_digest": queue_id,
        "status": "PENDING",
        "last_attempt": 0,
        "created_at": NOON,
        "updated_at": NOON,
        "last_error_code": None,
    }


def test_pending_intents_come_by_time_and_then_by_digest(queue: AttestationQueue) -> None:
    late = queue.enqueue(intent("1"), created_at="2025-01-15T12:00:01+00:00")
    same = sorted(queue.enqueue(intent(digit)) for digit in "23456")
    assert [item.queue_id for item in queue.next_pending(10)] == [*same, late]
    assert [item.queue_id for item in queue.next_pending()] == same[:1]
    assert queue.next_pending(0) == []
    (first,) = queue.next_pending()
    assert (first.intent_digest, first.status, first.next_attempt, first.created_at) == (same[0], "PENDING", 1, NOON)
    assert "sha256:" + first.intent.intent_digest() == same[0]


@pytest.mark.parametrize(("status", "waits"), [("SUBMITTED", False), ("CONFIRMED", False), ("FAILED", False), ("DEFERRED", True)])
def test_only_deferred_intents_wait_again(queue: AttestationQueue, status: str, waits: bool) -> None:
    queue_id = queue.enqueue(intent())
    assert queue.record_receipt(receipt(queue_id, status, attempt=3))
    assert state(queue, queue_id) == (status, 3, None)
    assert [item.next_attempt for item in queue.next_pending()] == ([4] if waits else [])
    assert [item.queue_id for item in queue.next_unconfirmed()] == ([queue_id] if status == "SUBMITTED" else [])
    found = queue.get(queue_id)
    assert found is not None
    assert (found.status, found.next_attempt) == (status, 4)


def test_a_later_receipt_clears_the_error_and_a_failed_intent_may_go_on(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    queue.record_receipt(receipt(queue_id, "FAILED", 1, error="TIMEOUT"))
    assert state(queue, queue_id) == ("FAILED", 1, "TIMEOUT")
    queue.record_receipt(receipt(queue_id, "SUBMITTED", 2, time="2025-01-15T12:00:09Z"))
    assert state(queue, queue_id) == ("SUBMITTED", 2, None)
    found = queue.get_status(queue_id)
    assert found is not None
    assert found["updated_at"] == "2025-01-15T12:00:09Z"


def test_the_worker_may_keep_a_failed_attempt_from_ending_the_intent(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    queue.record_receipt(receipt(queue_id, "FAILED", error="TIMEOUT"), intent_status=ReceiptStatus.DEFERRED)
    assert state(queue, queue_id) == ("DEFERRED", 1, "TIMEOUT")
    assert [found.status for found in queue.replay(queue_id)] == [ReceiptStatus.FAILED]


def test_the_status_never_moves_backwards(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    second = receipt(queue_id, "DEFERRED", 2, error="TIMEOUT")
    assert queue.record_receipt(second)
    assert queue.record_receipt(receipt(queue_id, "FAILED", 1, error="REJECTED"))
    assert state(queue, queue_id) == ("DEFERRED", 2, "TIMEOUT")
    assert queue.record_receipt(receipt(queue_id, "CONFIRMED", 2))
    assert not queue.record_receipt(second)
    assert state(queue, queue_id) == ("CONFIRMED", 2, None)
    assert queue.record_receipt(receipt(queue_id, "FAILED", 3, error="REJECTED"))
    assert state(queue, queue_id) == ("CONFIRMED", 3, None)
    assert [found.attempt for found in queue.replay(queue_id)] == [1, 2, 2, 3]


def test_receipts_come_by_attempt_and_then_in_the_order_of_arrival(queue: AttestationQueue) -> None:
    unknown = "sha256:" + "f" * 64
    for attempt, time in ((2, NOON), (1, "2025-01-15T13:00:00Z"), (1, NOON)):
        assert queue.record_receipt(receipt(unknown, "DEFERRED", attempt, time))
    assert [(found.attempt, found.created_at) for found in queue.replay(unknown)] == [(1, "2025-01-15T13:00:00Z"), (1, NOON), (2, NOON)]
    assert queue.get_status(unknown) is None
    assert queue.replay("unknown") == []
    assert queue.get("\ud800") is None


def test_a_receipt_is_stored_together_with_the_status_or_not_at_all(queue: AttestationQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue_id = queue.enqueue(intent())

    def fail(*_: object) -> None:
        raise RuntimeError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(AttestationStorage, "update_intent_status", fail)
        with pytest.raises(RuntimeError, match="lost"):
            queue.record_receipt(receipt(queue_id, "CONFIRMED"))
    assert queue.replay(queue_id) == []
    assert queue.record_receipt(receipt(queue_id, "CONFIRMED"))


def test_two_queues_on_one_file_see_each_other_and_lose_nothing(tmp_path: Path) -> None:
    def record(offset: int) -> None:
        with AttestationQueue(tmp_path / "q.db") as queue:
            for attempt in range(1 + offset, 40, 4):
                queue.record_receipt(receipt(queue_id, "DEFERRED", attempt))

    with AttestationQueue(tmp_path / "q.db") as queue:
        queue_id = queue.enqueue(intent())
        threads = [threading.Thread(target=record, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found.attempt for found in queue.replay(queue_id)] == list(range(1, 40))
        assert state(queue, queue_id) == ("DEFERRED", 39, None)


def test_decisions_runs_and_attestations_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "all.db"
    with DecisionStore(path) as store, RunEngine([], db_path=path), AttestationQueue(path) as queue:
        store.create_decision()
        queue.enqueue(intent())
    with AttestationQueue(path) as queue:
        assert len(queue.next_pending(5)) == 1


def test_what_is_no_intent_or_receipt_is_refused(queue: AttestationQueue) -> None:
    wrong: Any = {"subject_type": "x"}
    with pytest.raises(InvalidIntent):
        queue.enqueue(wrong)
    with pytest.raises(InvalidReceipt):
        queue.record_receipt(wrong)
    for limit in (-1, True, "1", 2**63):
        bad: Any = limit
        with pytest.raises(InputError, match="limit"):
            queue.next_pending(bad)
    with pytest.raises(InputError, match="must be a string"):
        queue.get(wrong)
    with pytest.raises(ValueError, match="lower"):
        queue.record_receipt(receipt("sha256:" + "a" * 64, "FAILED"), intent_status="lower")  # pyright: ignore[reportArgumentType]


def test_rows_that_were_edited_are_named(tmp_path: Path) -> None:
    with AttestationQueue(tmp_path / "q.db") as queue:
        queue_id = queue.enqueue(intent())
        queue.record_receipt(receipt(queue_id, "DEFERRED"))
        other = sqlite3.connect(tmp_path / "q.db")
        with other:
            other.execute("UPDATE attestation_intents SET intent_json = '{'")
            other.execute("DROP TRIGGER attestation_receipts_fixed")
            other.execute("UPDATE attestation_receipts SET receipt_json = '[]'")
        other.close()
        with pytest.raises(InvalidIntent, match=f"the stored intent '{queue_id}'"):
            queue.next_pending()
        with pytest.raises(InvalidReceipt, match="the stored receipt"):
            queue.replay(queue_id)


def test_rows_are_whole_and_inserted_once() -> None:
    with AttestationStorage() as storage:
        assert storage.insert_intent("q", "d", "{}", NOON)
        assert not storage.insert_intent("q", "other", "{}", NOON)
        assert not storage.insert_intent("other", "d", "{}", NOON)
        row = {"queue_id": "q", "intent_digest": "d", "intent_json": "{}", "created_at": NOON, "status": "PENDING"}
        assert storage.get_intent("q") == {**row, "last_attempt": 0, "last_error_code": None, "updated_at": NOON}
        assert storage.get_intent_by_digest("d") == storage.get_intent("q")
        assert storage.list_pending() == [storage.get_intent("q")]
        assert storage.insert_receipt("r", "d", 1, NOON, "xrpl", "FAILED", "{}")
        assert not storage.insert_receipt("r", "d", 2, NOON, "xrpl", "FAILED", "{}")
        (stored,) = storage.list_receipts("d")
        assert stored["attempt"] == 1
    with pytest.raises(StoreClosed):
        storage.get_intent("q")


FIRST_FEW: dict[str, Callable[[AttestationStorage], object]] = {
    "pending": lambda storage: storage.list_pending(5),
    "due": lambda storage: storage.list_due(5, now=NOON),
    "submitted": lambda storage: storage.list_submitted(5, now=NOON),
}


@pytest.mark.parametrize("ask", FIRST_FEW.values(), ids=FIRST_FEW)
def test_the_first_few_of_many_are_found_without_sorting_all(ask: Callable[[AttestationStorage], object]) -> None:
    """With a sort in each cycle the work of emptying a queue grows with the square of what is in it."""
    with AttestationQueue() as queue:
        queue.enqueue_many(intent(digit) for digit in "abcdef")
        with queue.storage.database.reading() as connection:
            asked: list[str] = []
            connection.set_trace_callback(asked.append)
            ask(queue.storage)
            connection.set_trace_callback(None)
            plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked[-1]}")]
    assert plan
    assert not [step for step in plan if "TEMP B-TREE" in step]
