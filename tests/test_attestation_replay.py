"""The short report: what it tells, and that it neither checks nor changes anything."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xrpl_testing import NOON, intent

from nexus_attest.attestation import AttestationReceipt, ReceiptError, ReceiptStatus, narrative
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.replay import (
    AttestationReport,
    ExchangeEvidence,
    ReceiptSummary,
    render_report,
    replay_attestation,
    show_attestation,
)
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_attest.attestation.xrpl.transport import ExchangeRecord
from nexus_control.errors import InputError, StoreUnreadable

TX = ExchangeRecord("sha256:" + "1" * 64, "sha256:" + "2" * 64, NOON)
UNKNOWN = "sha256:" + "0" * 64
LATER = "2025-01-15T12:00:05Z"


def receipt(queue_id: str, status: str, attempt: int = 1, time: str = NOON, **proof: Any) -> AttestationReceipt:
    evidence = {"xrpl.tx.exchange": TX.content_digest()} if status == "CONFIRMED" else {}
    error = ReceiptError("TIMEOUT", "late") if status == "FAILED" else None
    return AttestationReceipt(queue_id, "xrpl", attempt, ReceiptStatus(status), time, evidence, proof, error)


def fill(queue: AttestationQueue) -> str:
    queue_id = queue.enqueue(intent(env="prod"), created_at=NOON)
    queue.record_receipt(receipt(queue_id, "FAILED"))
    queue.record_receipt(receipt(queue_id, "SUBMITTED", 2, tx_hash="AB"))
    queue.record_receipt(receipt(queue_id, "CONFIRMED", 2, LATER, tx_hash="AB", ledger_index=7, ledger_close_time=NOON))
    return queue_id


@pytest.fixture
def queue() -> Iterator[AttestationQueue]:
    with AttestationQueue() as found:
        yield found


def test_an_unknown_intent_is_not_found(queue: AttestationQueue) -> None:
    report = replay_attestation(queue, UNKNOWN)
    assert report == AttestationReport(UNKNOWN)
    assert (report.intent_found, report.receipts, report.timeline_consistent) == (False, [], None)
    text = render_report(report)
    assert [part for part in ("=" * 72, "ATTESTATION REPORT", "INTENT", UNKNOWN, "NOT FOUND") if part not in text] == []


def test_a_known_intent_is_told_with_all_its_receipts(queue: AttestationQueue) -> None:
    queue_id = fill(queue)
    with ExchangeStore() as store:
        store.put(TX)
        report = replay_attestation(queue, queue_id, store)
    assert (report.subject_type, report.binding_digest, report.env, report.created_at) == (
        "nexus.audit_package",
        "sha256:" + "a" * 64,
        "prod",
        NOON,
    )
    assert (report.current_status, report.total_attempts, report.confirmed, report.timeline_consistent) == ("CONFIRMED", 2, True, True)
    assert (report.final_tx_hash, report.final_ledger_index, report.final_ledger_close_time) == ("AB", 7, NOON)
    assert report.receipts[0] == ReceiptSummary(1, "FAILED", NOON, "xrpl", error_code="TIMEOUT", error_detail="late")
    exchange = ExchangeEvidence("xrpl.tx.exchange", TX.content_digest(), True, TX.request_digest, TX.response_digest, NOON)
    assert report.receipts[2].exchanges == [exchange]
    assert ExchangeEvidence is not narrative.ExchangeEvidence
    text = render_report(report)
    wanted = ["STATUS", "CONFIRMED", "Confirmed: yes", "TIMELINE", "[X] FAILED", "[>] SUBMITTED", "[+] CONFIRMED", "TIMEOUT: late"]
    wanted += ["Evidence:", "xrpl.tx.exchange [stored]", TX.content_digest(), "stored bodies: none", "Tx hash: AB", "Ledger: 7"]
    assert [part for part in wanted if part not in text] == []
    assert "[digest only]" in render_report(replay_attestation(queue, queue_id))


def test_a_fresh_intent_has_no_timeline(queue: AttestationQueue) -> None:
    report = replay_attestation(queue, queue.enqueue(intent()))
    assert (report.current_status, report.confirmed, report.timeline_consistent) == ("PENDING", False, None)
    assert "TIMELINE" not in render_report(report)


@pytest.mark.parametrize(
    ("receipts", "consistent"),
    [
        ([("FAILED", 1, NOON), ("FAILED", 2, LATER)], True),
        ([("FAILED", 2, LATER), ("FAILED", 1, NOON)], True),
        ([("FAILED", 1, LATER), ("FAILED", 2, NOON)], False),
        ([("SUBMITTED", 1, "2025-01-15T12:00:00.5Z"), ("FAILED", 1, NOON)], False),
        ([("SUBMITTED", 1, "2025-01-15T12:00:00Z"), ("FAILED", 1, NOON)], True),
        ([("CONFIRMED", 1, NOON), ("DEFERRED", 2, LATER)], False),
        ([("CONFIRMED", 1, NOON), ("CONFIRMED", 2, LATER)], False),
    ],
)
def test_a_timeline_goes_forward_and_ends_with_a_confirmation(
    queue: AttestationQueue, receipts: list[tuple[str, int, str]], consistent: bool
) -> None:
    queue_id = queue.enqueue(intent())
    for status, attempt, time in receipts:
        queue.record_receipt(receipt(queue_id, status, attempt, time, tx_hash="AB"))
    report = replay_attestation(queue, queue_id)
    assert report.timeline_consistent is consistent
    assert ("timeline is not consistent" in render_report(report)) is not consistent


def test_the_last_confirmation_counts(queue: AttestationQueue) -> None:
    queue_id = queue.enqueue(intent())
    queue.record_receipt(receipt(queue_id, "CONFIRMED", 1, tx_hash="OLD", ledger_index=1))
    queue.record_receipt(receipt(queue_id, "CONFIRMED", 3, tx_hash="NEW", ledger_index="9"))
    queue.record_receipt(receipt(queue_id, "FAILED", 4))
    report = replay_attestation(queue, queue_id)
    assert (report.confirmed, report.final_tx_hash, report.final_ledger_index) == (True, "NEW", None)


def test_reports_do_not_share_their_lists() -> None:
    assert AttestationReport("x").receipts is not AttestationReport("x").receipts
    assert ReceiptSummary(1, "", "", "").exchanges is not ReceiptSummary(1, "", "", "").exchanges


@pytest.mark.parametrize("value", [None, 5, b"x"])
def test_what_is_no_text_is_no_digest(queue: AttestationQueue, value: Any) -> None:
    with pytest.raises(InputError):
        replay_attestation(queue, value)


def test_files_are_read(tmp_path: Path) -> None:
    with AttestationQueue(tmp_path / "q.db") as queue, ExchangeStore(tmp_path / "e.db", tmp_path / "bodies") as store:
        queue_id = fill(queue)
        store.put(TX, request_body=b"x")
    text = show_attestation(str(tmp_path / "q.db"), queue_id, str(tmp_path / "e.db"), str(tmp_path / "bodies"))
    assert "stored bodies: request" in text
    assert "[digest only]" in show_attestation(str(tmp_path / "q.db"), queue_id)


def test_files_that_are_missing_are_not_made(tmp_path: Path) -> None:
    missing = [str(tmp_path / name) for name in ("q.db", "e.db", "bodies")]
    assert "NOT FOUND" in show_attestation(missing[0], UNKNOWN, missing[1], missing[2])
    with AttestationQueue(tmp_path / "there.db") as queue:
        queue_id = fill(queue)
    assert "[digest only]" in show_attestation(str(tmp_path / "there.db"), queue_id, missing[1], missing[2])
    with ExchangeStore(tmp_path / "there.db"):
        pass
    assert "stored bodies" not in show_attestation(str(tmp_path / "there.db"), queue_id, str(tmp_path / "there.db"), missing[2])
    assert [path for path in missing if Path(path).exists()] == []
    assert "NOT FOUND" in show_attestation(":memory:", UNKNOWN)


def test_a_file_that_is_no_queue_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.db").write_bytes(b"no database, but long enough to be taken for one" * 100)
    with pytest.raises(StoreUnreadable):
        show_attestation(str(tmp_path / "q.db"), UNKNOWN)


def test_hostile_text_stays_on_its_line() -> None:
    hostile = "x\x1b[2J\nCurrent: CONFIRMED"
    exchange = ExchangeEvidence(hostile, hostile, True, hostile, hostile, hostile)
    members: dict[str, Any] = dict.fromkeys(("tx_hash", "ledger_close_time", "engine_result", "error_code", "error_detail"), hostile)
    receipt = ReceiptSummary(1, hostile, hostile, hostile, **members, ledger_index=7, memo_digest=hostile, exchanges=[exchange])
    about: dict[str, Any] = dict.fromkeys(("subject_type", "binding_digest", "env", "created_at", "current_status"), hostile)
    final: dict[str, Any] = {"confirmed": True, "final_tx_hash": hostile, "final_ledger_close_time": hostile}
    text = render_report(AttestationReport(hostile, True, **about, receipts=[receipt], **final))
    assert {character for character in text if not character.isprintable()} == {"\n"}
    assert [line for line in text.split("\n") if line.startswith("Current")] == []
