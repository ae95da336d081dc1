"""Narratives made from what a queue and an exchange store hold.

Nothing is written. The same stored data give the same report; there is no clock here.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from nexus_attest.attestation.members import intent_key
from nexus_attest.attestation.narrative._batch import batch_result, batch_statement
from nexus_attest.attestation.narrative._checks import intent_check, receipt_check, receipts_check, unknown_check, witness_check
from nexus_attest.attestation.narrative._exchanges import Exchange, embedded_bodies, exchange_checks, exchanges_of
from nexus_attest.attestation.narrative._model import NARRATIVE_VERSION, NarrativeReport, ReceiptEntry, XrplWitness
from nexus_attest.attestation.narrative._stored import StoredIntent, StoredReceipt, read_stored
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.xrpl.memo import build_memo_payload, memo_digest, serialize_memo
from nexus_attest.redaction import NO_SECRETS
from nexus_control.integrity import prefixed

if TYPE_CHECKING:
    from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore

__all__ = ["build_narrative", "entry_of", "show_intent", "show_queue", "witness_of"]

_T = TypeVar("_T")


def show_intent(
    queue: AttestationQueue,
    intent_digest: str,
    *,
    exchange_store: "ExchangeStore | None" = None,
    include_bodies: bool = False,
    redact: bool = True,
    verify_bodies: bool = False,
    embed_bodies: bool = False,
) -> NarrativeReport:
    """The narrative of an intent by its prefixed digest; of an unknown one it says so.

    `include_bodies` checks that the bodies of exchanges are stored, `verify_bodies` that they have their digests, `embed_bodies` puts
    them into the report. `redact` replaces what looks like a credential in error texts and bodies. Rows that were tampered with are failed
    checks. Raises InputError unless the digest is a string, StoreError, and OSError when a stored body cannot be read.
    """
    wanted = intent_key(intent_digest)
    stored = read_stored(queue, wanted)
    if stored is None:
        return _sealed(NarrativeReport(NARRATIVE_VERSION, wanted, checks=(unknown_check(wanted),)))
    intent, receipts = stored
    looked_up = [(receipt, exchanges_of(receipt.receipt, exchange_store)) for receipt in receipts]
    checks = [intent_check(intent, wanted), receipts_check(receipts, wanted)]
    for receipt, exchanges in looked_up:
        checks += [receipt_check(receipt), witness_check(receipt, exchanges)]
        for exchange in exchanges:
            checks += exchange_checks(exchange, include_bodies=include_bodies, verify_bodies=verify_bodies)
    every = [exchange for _, exchanges in looked_up for exchange in exchanges]
    return _sealed(
        NarrativeReport(
            NARRATIVE_VERSION,
            wanted,
            intent_found=True,
            **_header(intent),
            receipts=tuple(entry_of(receipt, exchanges, redact=redact) for receipt, exchanges in looked_up),
            witness=witness_of(intent, receipts),
            checks=tuple(checks),
            bodies=embedded_bodies(every, redact=redact) if embed_bodies else None,
        )
    )


def show_queue(
    queue: AttestationQueue,
    queue_id: str,
    *,
    exchange_store: "ExchangeStore | None" = None,
    include_bodies: bool = False,
    redact: bool = True,
    verify_bodies: bool = False,
    embed_bodies: bool = False,
) -> NarrativeReport:
    """The same by the id in the queue, which is the digest of the intent."""
    return show_intent(
        queue,
        queue_id,
        exchange_store=exchange_store,
        include_bodies=include_bodies,
        redact=redact,
        verify_bodies=verify_bodies,
        embed_bodies=embed_bodies,
    )


build_narrative = show_intent
"""A third name of `show_intent`."""


def entry_of(stored: StoredReceipt, exchanges: list[Exchange], *, redact: bool) -> ReceiptEntry:
    """A receipt as a report shows it: of its proof what has the right type, of one that cannot be read what its row says."""
    receipt, digest = stored.receipt, prefixed(stored.row["receipt_digest"])
    entry = ReceiptEntry(stored.attempt, stored.status, stored.created_at, stored.backend, digest)
    if receipt is None:
        return entry
    code, detail = (None, None) if receipt.error is None else (receipt.error.code, receipt.error.detail)
    return replace(
        entry,
        **_transaction(receipt),
        error_code=code,
        error_detail=NO_SECRETS.text(detail) if redact and detail else detail,
        memo_digest=receipt.evidence_digests.get("memo_digest"),
        exchanges=tuple(exchange.evidence for exchange in exchanges),
    )


def witness_of(intent: StoredIntent, receipts: list[StoredReceipt]) -> XrplWitness | None:
    """The transaction of the last confirmed receipt that names its hash and its ledger; None when none does."""
    for stored in reversed(receipts):
        if stored.receipt is None or stored.status != ReceiptStatus.CONFIRMED:
            continue
        told = _transaction(stored.receipt)
        if told["tx_hash"] and told["ledger_index"]:
            account, key_id = (_of_type(str, stored.receipt.proof.get(key)) for key in ("account", "key_id"))
            return XrplWitness(**told, account=account, key_id=key_id, memo_payload=_memo(intent, stored.receipt))
    return None


def _sealed(report: NarrativeReport) -> NarrativeReport:
    return replace(report, narrative_digest=report.computed_digest())


def _header(stored: StoredIntent) -> dict[str, Any]:
    row, intent = stored.row, stored.intent
    about = {} if intent is None else {"subject_type": intent.subject_type, "binding_digest": intent.binding_digest, "env": intent.env}
    status = {"current_status": row["status"], "total_attempts": row["last_attempt"], "last_error_code": row["last_error_code"]}
    return {**about, "created_at": row["created_at"], **status}


def _transaction(receipt: AttestationReceipt) -> dict[str, Any]:
    proof = receipt.proof
    texts = {key: _of_type(str, proof.get(key)) for key in ("tx_hash", "ledger_close_time", "engine_result")}
    texts["ledger_close_time"] = texts["ledger_close_time"] or _of_type(str, proof.get("close_time"))  # as receipts of batches name it
    texts["engine_result"] = texts["engine_result"] or batch_result(receipt)
    return {**texts, "ledger_index": _of_type(int, proof.get("ledger_index"))}


def _of_type(kind: type[_T], value: object) -> _T | None:
    """A value of exactly this type that says something; a proof may hold any JSON."""
    return value or None if type(value) is kind else None  # pyright: ignore[reportReturnType] - which the condition says


def _memo(stored: StoredIntent, receipt: AttestationReceipt) -> dict[str, Any] | None:
    """The memo of the intent, or of its batch, when it is the one that the receipt tells of."""
    if (batch := batch_statement(receipt)) is not None:
        return batch
    if stored.intent is None:
        return None
    payload: dict[str, Any] = dict(build_memo_payload(stored.intent))
    return payload if memo_digest(serialize_memo(payload)) == receipt.evidence_digests.get("memo_digest") else None
