"""A short report on an intent and its receipts, made of its narrative. `narrative` tells more; this one is kept for those who use it.

It compares no digests. Whatever it shows, it was not checked.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from nexus_attest.attestation import narrative
from nexus_attest.attestation.narrative import ReceiptEntry
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import ReceiptStatus
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_control.errors import MalformedEvent
from nexus_control.events import parse_time
from nexus_control.markdown import printable

__all__ = ["AttestationReport", "ExchangeEvidence", "ReceiptSummary", "render_report", "replay_attestation", "show_attestation"]


@dataclass(frozen=True)
class ExchangeEvidence(narrative.ExchangeEvidence):
    """One exchange with the ledger that a receipt refers to, and what an exchange store knows of it. Digests are prefixed."""


@dataclass(frozen=True)
class ReceiptSummary:
    """One stored receipt."""

    attempt: int
    status: str
    created_at: str
    backend: str
    tx_hash: str | None = None
    ledger_index: int | None = None
    ledger_close_time: str | None = None
    engine_result: str | None = None
    error_code: str | None = None
    error_detail: str | None = None
    memo_digest: str | None = None
    exchanges: list[ExchangeEvidence] = field(default_factory=list[ExchangeEvidence])


@dataclass(frozen=True)
class AttestationReport:
    """What is known of one intent; the `final_` members are those of the last confirmed receipt, of one with a transaction if there is any.

    `timeline_consistent`: attempts and times never decrease, and nothing follows a confirmation but the confirmation of another backend;
    None when there are no receipts.
    """

    intent_digest: str
    intent_found: bool = False
    subject_type: str | None = None
    binding_digest: str | None = None
    env: str | None = None
    created_at: str | None = None
    current_status: str | None = None
    total_attempts: int = 0
    receipts: list[ReceiptSummary] = field(default_factory=list[ReceiptSummary])
    confirmed: bool = False
    final_tx_hash: str | None = None
    final_ledger_index: int | None = None
    final_ledger_close_time: str | None = None
    timeline_consistent: bool | None = None


def replay_attestation(queue: AttestationQueue, intent_digest: str, exchange_store: ExchangeStore | None = None) -> AttestationReport:
    """The report on an intent by its prefixed digest. Raises InputError unless that is a string, StoreError."""
    told = narrative.show_intent(queue, intent_digest, exchange_store=exchange_store)
    if not told.intent_found:
        return AttestationReport(told.intent_digest)
    confirmed = [entry for entry in told.receipts if entry.status == ReceiptStatus.CONFIRMED]
    last = next((entry for entry in reversed(confirmed) if entry.tx_hash), confirmed[-1] if confirmed else None)
    return AttestationReport(
        intent_digest=told.intent_digest,
        intent_found=True,
        subject_type=told.subject_type,
        binding_digest=told.binding_digest,
        env=told.env,
        created_at=told.created_at,
        current_status=told.current_status,
        total_attempts=told.total_attempts,
        receipts=[_summary(entry) for entry in told.receipts],
        confirmed=last is not None,
        final_tx_hash=None if last is None else last.tx_hash,
        final_ledger_index=None if last is None else last.ledger_index,
        final_ledger_close_time=None if last is None else last.ledger_close_time,
        timeline_consistent=_in_order(told.receipts) if told.receipts else None,
    )


def render_report(report: AttestationReport) -> str:
    """The report as text, ending without a line break. Whatever it holds is shown as harmless characters."""
    return "\n".join(_lines(report))


def show_attestation(db_path: str, intent_digest: str, exchange_db_path: str | None = None, exchange_body_path: str | None = None) -> str:
    """The rendered report on an intent of the queue in a file. What is not there is not made: then there is nothing to report on.

    Raises StoreError for a file that is no queue.
    """
    if not Path(db_path).is_file():
        return f"{render_report(AttestationReport(intent_digest))}\nThere is no queue at {printable(db_path)}"
    with ExitStack() as stores:
        exchanges = None
        if exchange_db_path is not None and Path(exchange_db_path).is_file():
            bodies = exchange_body_path if exchange_body_path is not None and Path(exchange_body_path).is_dir() else None
            exchanges = stores.enter_context(ExchangeStore(exchange_db_path, bodies))
        return render_report(replay_attestation(stores.enter_context(AttestationQueue(db_path)), intent_digest, exchanges))


def _summary(entry: ReceiptEntry) -> ReceiptSummary:
    members = asdict(entry)
    del members["receipt_digest"]
    members["exchanges"] = [ExchangeEvidence(**exchange) for exchange in members["exchanges"]]
    return ReceiptSummary(**members)


def _entry(summary: ReceiptSummary) -> ReceiptEntry:
    """As a narrative shows it; the digest, which a summary does not have, is on no line of it."""
    members: dict[str, Any] = {**vars(summary), "receipt_digest": "", "exchanges": tuple(summary.exchanges)}
    return ReceiptEntry(**members)


def _in_order(entries: tuple[ReceiptEntry, ...]) -> bool:
    try:
        moments = [(entry.attempt, parse_time(entry.created_at)) for entry in entries]
    except MalformedEvent:  # a receipt that cannot be read
        return False
    forward = all(before[0] <= after[0] and before[1] <= after[1] for before, after in pairwise(moments))
    first = next((place for place, entry in enumerate(entries) if entry.status == ReceiptStatus.CONFIRMED), len(entries))
    after = entries[first:]
    return (
        forward
        and all(entry.status == ReceiptStatus.CONFIRMED for entry in after)
        and len({entry.backend for entry in after}) == len(after)
    )


def _lines(report: AttestationReport) -> Iterator[str]:
    yield from (narrative.RULE, "ATTESTATION REPORT", narrative.RULE, "", "INTENT", f"  Digest: {printable(report.intent_digest)}")
    if not report.intent_found:
        yield from ("  NOT FOUND: the queue holds no such intent", narrative.RULE)
        return
    header = {"Subject type": report.subject_type, "Binding": report.binding_digest, "Env": report.env, "Created": report.created_at}
    yield from (f"  {name}: {printable(value)}" for name, value in header.items() if value is not None)
    yield from ("", "STATUS", f"  Current: {printable(report.current_status)}", f"  Attempts: {report.total_attempts}")
    yield f"  Confirmed: {'yes' if report.confirmed else 'no'}"
    final = {"Tx hash": report.final_tx_hash, "Ledger": report.final_ledger_index, "Close time": report.final_ledger_close_time}
    yield from (f"  {name}: {printable(value)}" for name, value in final.items() if value is not None)
    if report.timeline_consistent is False:
        yield "  The timeline is not consistent: times go back, or something follows a confirmation"
    if report.receipts:
        yield from ("", "TIMELINE")
    for receipt in report.receipts:
        yield from narrative.receipt_lines(_entry(receipt))
    yield narrative.RULE
