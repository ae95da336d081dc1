"""The checks of a narrative: those made from what is stored, and those that a report alone allows.

An outcome is computed, never written down. What could not be compared for want of evidence is SKIP; what should be there and is not,
or cannot be read, is FAIL.
"""

from collections.abc import Iterator, Sequence

from nexus_attest.attestation.narrative._batch import batch_problem, batch_root
from nexus_attest.attestation.narrative._exchanges import TX_EXCHANGE, Exchange
from nexus_attest.attestation.narrative._model import CheckStatus, IntegrityCheck, NarrativeReport
from nexus_attest.attestation.narrative._stored import StoredIntent, StoredReceipt
from nexus_attest.attestation.receipt import ReceiptStatus
from nexus_control.integrity import content_digest, digests_equal, prefixed, sha256_digest

__all__ = [
    "intent_check",
    "receipt_check",
    "receipts_check",
    "unknown_check",
    "verify_narrative",
    "verify_narrative_digest",
    "witness_check",
]


def unknown_check(intent_digest: str) -> IntegrityCheck:
    """The one check of an intent that is not there."""
    return IntegrityCheck("intent_exists", CheckStatus.FAIL, "The queue holds no intent of this digest", expected=intent_digest)


def intent_check(stored: StoredIntent, intent_digest: str) -> IntegrityCheck:
    """The digest of the stored content is the one that was asked for, which is the id of the row."""
    problem = stored.problem
    if problem is None and stored.row["queue_id"] != intent_digest:
        problem = "The intent stands under another queue id"
    return _compared("intent_digest_valid", intent_digest, stored.digest, "intent", problem)


def receipts_check(receipts: Sequence[StoredReceipt], intent_digest: str) -> IntegrityCheck:
    """Every receipt is about this intent."""
    name, number = "receipts_intent_consistent", len(receipts)
    if not receipts:
        return IntegrityCheck(name, CheckStatus.SKIP, "There are no receipts")
    for stored in receipts:
        if stored.receipt is None:
            return IntegrityCheck(name, CheckStatus.FAIL, f"A receipt of attempt {stored.attempt} cannot be read", expected=intent_digest)
        if stored.receipt.intent_digest != intent_digest:
            reason = f"A receipt of attempt {stored.attempt} is about another intent"
            return IntegrityCheck(name, CheckStatus.FAIL, reason, intent_digest, stored.receipt.intent_digest)
    return IntegrityCheck(name, CheckStatus.PASS, f"All {number} receipts are about this intent")


def receipt_check(stored: StoredReceipt) -> IntegrityCheck:
    """The digest of the stored content is the one that it is stored under, and its row says the same as the receipt."""
    return _compared("receipt_digest_valid", prefixed(stored.row["receipt_digest"]), stored.digest, "receipt", stored.problem)


def witness_check(stored: StoredReceipt, exchanges: Sequence[Exchange]) -> IntegrityCheck:
    """A confirmation refers to the exchange that it was read from, and that is in the exchange store; one of a batch proves itself."""
    name = "witness_exchange_valid"
    if stored.receipt is None:
        return IntegrityCheck(name, CheckStatus.FAIL, "The receipt cannot be read")
    if stored.receipt.status is not ReceiptStatus.CONFIRMED:
        return IntegrityCheck(name, CheckStatus.PASS, f"Not applicable: the receipt is {stored.status}")
    if batch_root(stored.receipt) is not None:
        problem = batch_problem(stored.receipt)
        if problem is not None:
            return IntegrityCheck(name, CheckStatus.FAIL, f"The proof of inclusion in a batch: {problem}")
        return IntegrityCheck(name, CheckStatus.PASS, "The intent is in the batch whose root and size the memo digest is of")
    exchange = next((exchange for exchange in exchanges if exchange.evidence.key == TX_EXCHANGE), None)
    if exchange is None:
        return IntegrityCheck(name, CheckStatus.FAIL, f"A confirmed receipt is missing {TX_EXCHANGE}")
    digest = exchange.evidence.content_digest
    if exchange.store is None:
        return IntegrityCheck(name, CheckStatus.SKIP, "Not checked: no exchange store was given", expected=digest)
    if exchange.problem is not None:
        return IntegrityCheck(name, CheckStatus.FAIL, f"The exchange of the confirmation: {exchange.problem}", expected=digest)
    return IntegrityCheck(name, CheckStatus.PASS, "The exchange of the confirmation is in the exchange store", expected=digest)


def verify_narrative_digest(report: NarrativeReport) -> IntegrityCheck:
    """The digest of the report's content is the one that it carries."""
    name, stored = "narrative_digest_valid", report.narrative_digest
    if stored is None:
        return IntegrityCheck(name, CheckStatus.SKIP, "No narrative_digest in the report")
    try:
        actual = report.computed_digest()
    except (ValueError, TypeError) as problem:
        return IntegrityCheck(name, CheckStatus.FAIL, f"Digest mismatch: the content has none: {problem!s:.200}", expected=stored)
    if actual == stored:
        return IntegrityCheck(name, CheckStatus.PASS, "The content has this digest", stored, actual)
    return IntegrityCheck(name, CheckStatus.FAIL, "Digest mismatch: the content has another one", stored, actual)


def verify_narrative(report: NarrativeReport) -> tuple[IntegrityCheck, ...]:
    """What the report alone can show: its digest, and that its parts agree.

    A narrative whose parts agree may still have been made up as a whole: its digest from elsewhere, or the ledger, tells.
    """
    parts = (
        ("checks_complete", _incomplete(report), "There is every check that the receipts call for"),
        ("checks_consistent", _contradicted(report), "No check contradicts what it compared"),
        ("status_consistent", _wrong_status(report), "Status and number of attempts are those of the receipts"),
        ("exchanges_consistent", _wrong_exchanges(report), "Every exchange has the digest of its parts"),
        ("witness_consistent", _wrong_witness(report), "The witness is the one that the last confirmed receipt with one names"),
    )
    checks = [verify_narrative_digest(report)]
    for name, problems, reason in parts:
        first = next(problems, None)
        checks.append(IntegrityCheck(name, CheckStatus.PASS, reason) if first is None else IntegrityCheck(name, CheckStatus.FAIL, first))
    return (*checks, *_body_checks(report))


def _compared(name: str, expected: str, actual: str | None, what: str, problem: str | None) -> IntegrityCheck:
    if problem is not None:
        return IntegrityCheck(name, CheckStatus.FAIL, problem, expected, actual)
    if actual != expected:
        return IntegrityCheck(name, CheckStatus.FAIL, f"The stored {what} has another digest", expected, actual)
    return IntegrityCheck(name, CheckStatus.PASS, f"The stored {what} has this digest", expected, actual)


def _incomplete(report: NarrativeReport) -> Iterator[str]:
    wanted = ["intent_digest_valid", "receipts_intent_consistent"] if report.intent_found else ["intent_exists"]
    for entry in report.receipts:
        wanted += ["receipt_digest_valid", "witness_exchange_valid"]
        wanted += [f"exchange_exists:{exchange.key}" for exchange in entry.exchanges]
    found = [check.name for check in report.checks if not check.name.startswith("body_")]
    if found != wanted:
        yield "The checks are not those that the receipts call for, in their order"


def _contradicted(report: NarrativeReport) -> Iterator[str]:
    for check in report.checks:
        if check.status is CheckStatus.PASS and check.actual is not None and not digests_equal(check.expected, check.actual):
            yield f"{check.name} says PASS and compared two different values"
    found = [exchange.record_found for entry in report.receipts for exchange in entry.exchanges]
    told = [check.status is CheckStatus.PASS for check in report.checks if check.name.startswith("exchange_exists:")]
    if found != told:
        yield "What is said of a record is not what its check says"


def _wrong_status(report: NarrativeReport) -> Iterator[str]:
    last = max((entry.attempt for entry in report.receipts), default=0)
    if report.total_attempts != last:
        yield f"There are {report.total_attempts} attempts, and the last one with a receipt is {last}"
    confirmed = any(entry.status == ReceiptStatus.CONFIRMED for entry in report.receipts)
    if confirmed is not (report.current_status == ReceiptStatus.CONFIRMED):
        yield "The intent is called confirmed without a confirmed receipt, or the other way round"


def _wrong_exchanges(report: NarrativeReport) -> Iterator[str]:
    for exchange in (exchange for entry in report.receipts for exchange in entry.exchanges if exchange.record_found):
        content = {"request_digest": exchange.request_digest, "response_digest": exchange.response_digest}
        if prefixed(content_digest(content)) != exchange.content_digest:
            yield f"{exchange.key} has another digest than its parts"


def _wrong_witness(report: NarrativeReport) -> Iterator[str]:
    confirmed = (entry for entry in reversed(report.receipts) if entry.status == ReceiptStatus.CONFIRMED)
    named = next((entry for entry in confirmed if entry.tx_hash and entry.ledger_index), None)
    witness = report.witness
    if (named is None) is not (witness is None):
        yield "There is a witness without a confirmed receipt that names it, or the other way round"
    elif named is not None and witness is not None:
        for member in ("tx_hash", "ledger_index", "ledger_close_time", "engine_result"):
            if getattr(named, member) != getattr(witness, member):
                yield f"The witness has another {member} than the receipt"


def _body_checks(report: NarrativeReport) -> Iterator[IntegrityCheck]:
    """Of each embedded text; one that was redacted, or is not the bytes themselves, cannot show its digest."""
    for digest, text in sorted((report.bodies or {}).items()):
        name, actual = "embedded_body_valid", prefixed(sha256_digest(text.encode()))
        if actual == digest:
            yield IntegrityCheck(name, CheckStatus.PASS, "The embedded body has this digest", digest, actual)
        elif "[redacted:" in text:
            yield IntegrityCheck(name, CheckStatus.SKIP, "Not checked: the embedded body is redacted", expected=digest)
        else:
            yield IntegrityCheck(name, CheckStatus.FAIL, "The embedded body has another digest", digest, actual)
