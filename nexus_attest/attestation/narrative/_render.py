"""A narrative as text for people.

Whatever a report says is shown as harmless characters on one line, so that it can neither move the cursor nor forge a line.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from nexus_attest.attestation.narrative._model import NARRATIVE_SCHEMA, CheckStatus, ExchangeEvidence, NarrativeReport, ReceiptEntry
from nexus_control.markdown import printable

__all__ = ["RULE", "receipt_lines", "render_narrative"]

RULE = "=" * 72


_ICONS = {"PENDING": "[ ]", "SUBMITTED": "[>]", "CONFIRMED": "[+]", "DEFERRED": "[~]", "FAILED": "[X]"}


def render_narrative(report: NarrativeReport, *, sources: Mapping[str, str] | None = None) -> str:
    """The whole report, ending without a line break. `sources` names the files that it was made from."""
    return "\n".join(_lines(report, sources or {}))


def receipt_lines(entry: ReceiptEntry) -> Iterator[str]:
    """One attempt on a timeline."""
    icon = _ICONS.get(entry.status, "[?]")
    yield f"  #{entry.attempt} {icon} {printable(entry.status)}  {printable(entry.created_at)}  {printable(entry.backend)}"
    rows = {"Tx hash": entry.tx_hash, "Engine": entry.engine_result}
    yield from (f"      {name}: {printable(value)}" for name, value in rows.items() if value)
    if entry.ledger_index is not None:
        yield f"      Ledger: {entry.ledger_index}" + (f", closed {printable(entry.ledger_close_time)}" if entry.ledger_close_time else "")
    if entry.error_code is not None:
        yield f"      Error: {printable(entry.error_code)}" + (f": {printable(entry.error_detail)}" if entry.error_detail else "")
    if entry.exchanges:
        yield "      Evidence:"
        yield from (f"        {line}" for exchange in entry.exchanges for line in _exchange_lines(exchange))
    if entry.memo_digest:
        yield f"      Memo digest: {printable(entry.memo_digest)}"


def _exchange_lines(exchange: ExchangeEvidence) -> Iterator[str]:
    yield f"{printable(exchange.key)} {'[stored]' if exchange.record_found else '[digest only]'}"
    yield f"  {printable(exchange.content_digest)}"
    bodies = {"request": exchange.request_body_available, "response": exchange.response_body_available}
    if exchange.record_found:
        yield f"  at {printable(exchange.timestamp)}, stored bodies: {', '.join(name for name, there in bodies.items() if there) or 'none'}"


def _lines(report: NarrativeReport, sources: Mapping[str, str]) -> Iterator[str]:
    yield from (RULE, f"ATTESTATION NARRATIVE v{printable(report.narrative_version)}", RULE)
    yield f"Schema:        {NARRATIVE_SCHEMA}"
    yield f"Report Digest: {printable(report.narrative_digest or 'none')}"
    if sources:
        yield "Sources:"
        yield from (f"  {printable(key)}: {printable(path)}" for key, path in sorted(sources.items()))
    yield from ("", "INTENT", f"  Digest:       {printable(report.intent_digest)}")
    if not report.intent_found:
        yield "  NOT FOUND: the queue holds no such intent"
    else:
        yield from _found(report)
    if report.checks:
        yield from _checks(report)
    yield RULE


def _found(report: NarrativeReport) -> Iterator[str]:
    header = {"Subject type": report.subject_type, "Binding": report.binding_digest, "Env": report.env, "Created": report.created_at}
    yield from _rows(header)
    yield from ("", "STATUS")
    yield from _rows({"Current": report.current_status, "Attempts": report.total_attempts, "Last error": report.last_error_code or "none"})
    if (witness := report.witness) is not None:
        yield from ("", "XRPL WITNESS")
        yield from _rows(
            {
                "Tx hash": witness.tx_hash,
                "Ledger index": witness.ledger_index,
                "Close time": witness.ledger_close_time,
                "Result": witness.engine_result,
                "Account": witness.account,
                "Key id": witness.key_id,
            }
        )
        for key, value in sorted((witness.memo_payload or {}).items()):
            yield f"  Memo {printable(key)}: {printable(value)}"
        yield from ("", "  To verify externally:")
        yield f"    1. Ask a server that you trust for transaction {printable(witness.tx_hash)} (method `tx`)."
        yield f"    2. It must be validated, in ledger {witness.ledger_index}, with the result tesSUCCESS."
        yield "    3. The SHA-256 of its MemoData must be the memo digest below, and the memo must name the intent above."
    yield from ("", "TIMELINE")
    if not report.receipts:
        yield "  No attempts yet"
    for entry in report.receipts:
        yield from receipt_lines(entry)
        yield f"      Receipt: {printable(entry.receipt_digest)}"


def _checks(report: NarrativeReport) -> Iterator[str]:
    numbers = Counter(check.status for check in report.checks)
    yield from ("", "INTEGRITY CHECKS")
    yield "  Summary: " + ", ".join(f"{numbers[status]} {status.value}" for status in CheckStatus)
    for check in report.checks:
        yield f"  {check.status.value}  {printable(check.name)}: {printable(check.reason)}"
        if check.status is CheckStatus.FAIL:
            values = {"expected": check.expected, "actual": check.actual}
            yield from (f"        {name} {printable(value)}" for name, value in values.items() if value is not None)


def _rows(members: Mapping[str, object]) -> Iterator[str]:
    yield from (f"  {name + ':':<13} {printable(value)}" for name, value in members.items() if value is not None)
