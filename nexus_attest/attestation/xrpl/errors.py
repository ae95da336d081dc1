"""The ledger's results in the words of receipts."""

from nexus_attest.attestation.receipt import ReceiptErrorCode

__all__ = ["classify_connection_error", "classify_engine_result", "classify_timeout"]

_REFUSALS = ("tem", "tef", "tec", "ter")
"""Malformed, failed, claimed a fee only, to be retried (https://xrpl.org/docs/references/protocol/transactions/transaction-results)."""


def classify_engine_result(engine_result: str | None) -> ReceiptErrorCode:
    """REJECTED for every class of refusals; UNKNOWN for None and everything else."""
    refused = engine_result is not None and engine_result.startswith(_REFUSALS)
    return ReceiptErrorCode.REJECTED if refused else ReceiptErrorCode.UNKNOWN


def classify_connection_error(detail: str | None = None) -> ReceiptErrorCode:  # noqa: ARG001 - the text decides nothing
    """BACKEND_UNAVAILABLE, whatever the text."""
    return ReceiptErrorCode.BACKEND_UNAVAILABLE


def classify_timeout() -> ReceiptErrorCode:
    """TIMEOUT."""
    return ReceiptErrorCode.TIMEOUT
