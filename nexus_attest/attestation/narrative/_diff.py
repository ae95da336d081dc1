"""What changed from one attempt to another."""

from nexus_attest.attestation.narrative._model import AttemptDiff, NarrativeReport, ReceiptEntry

__all__ = ["diff_attempts"]


def diff_attempts(report: NarrativeReport, from_attempt: int, to_attempt: int) -> AttemptDiff | None:
    """Compare the last receipts of two attempts, by number; None when one of them has none."""
    before, after = _last(report, from_attempt), _last(report, to_attempt)
    if before is None or after is None:
        return None
    had = {exchange.key for exchange in before.exchanges}
    has = {exchange.key for exchange in after.exchanges}
    return AttemptDiff(
        from_attempt=before.attempt,
        to_attempt=after.attempt,
        status_changed=before.status != after.status,
        from_status=before.status,
        to_status=after.status,
        tx_hash_changed=before.tx_hash != after.tx_hash,
        from_tx_hash=before.tx_hash,
        to_tx_hash=after.tx_hash,
        added_evidence=tuple(sorted(has - had)),
        removed_evidence=tuple(sorted(had - has)),
        from_error=before.error_code,
        to_error=after.error_code,
    )


def _last(report: NarrativeReport, attempt: int) -> ReceiptEntry | None:
    return next((entry for entry in reversed(report.receipts) if entry.attempt == attempt), None)
