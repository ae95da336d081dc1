"""From an intent to a transaction, and from the ledger's answers to receipts.

`plan` is pure. `submit` and `confirm` ask once and turn every outcome into a receipt; when to ask again is the worker's decision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nexus_attest.attestation.errors import InvalidAnchor, LedgerUnavailable
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.members import compact_utc
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptError, ReceiptErrorCode, ReceiptStatus
from nexus_attest.attestation.xrpl.client import TxStatusResult, XRPLClient
from nexus_attest.attestation.xrpl.errors import classify_connection_error, classify_engine_result, classify_timeout
from nexus_attest.attestation.xrpl.memo import (
    MAX_MEMO_BYTES,
    build_memo_payload,
    encode_memo_hex,
    memo_digest,
    serialize_memo,
    validate_memo_size,
)
from nexus_attest.attestation.xrpl.signer import SignResult, XRPLSigner
from nexus_attest.attestation.xrpl.tx import plan_account_set_memo, plan_payment_to_self, require_amount
from nexus_control.integrity import DIGEST_PATTERN, prefixed

__all__ = ["XRPL_BACKEND", "AnchorPlan", "XRPLAdapter", "confirm", "plan", "submit"]

XRPL_BACKEND = "xrpl"

_DETAIL_CHARACTERS = 1000


@dataclass(frozen=True)
class AnchorPlan:
    """An unsigned transaction and what it witnesses. `intent_digest` is raw, `memo_digest` prefixed."""

    tx: dict[str, Any]
    intent_digest: str
    memo_data_hex: str
    memo_digest: str
    memo_payload: dict[str, str]
    account: str
    amount_drops: str


def plan(
    intent: AttestationIntent, account: str, *, amount_drops: str = "1", carrier: Literal["payment", "account_set"] = "payment"
) -> AnchorPlan:
    """The transaction that witnesses an intent.

    With the carrier `account_set` nothing is paid and the plan's amount is `"0"`; the ledger refuses the carrier `payment`. Raises
    InvalidAnchor, a ValueError, for a memo of more than 700 bytes, an empty account, another amount than `"0"` or `"1"`, and another
    carrier.
    """
    require_amount(amount_drops)
    payload = build_memo_payload(intent)
    data = serialize_memo(payload)
    if not validate_memo_size(data):
        raise InvalidAnchor(f"memo payload exceeds {MAX_MEMO_BYTES} bytes: {len(data)}")
    memo_hex = encode_memo_hex(data)
    if carrier == "account_set":
        tx, amount_drops = plan_account_set_memo(account, memo_hex), "0"
    elif carrier == "payment":
        tx = plan_payment_to_self(account, memo_hex, amount_drops)
    else:
        raise InvalidAnchor(f"carrier must be 'payment' or 'account_set', got {carrier!r:.100}")
    return AnchorPlan(tx, intent.intent_digest(), memo_hex, memo_digest(data), payload, account, amount_drops)


async def submit(
    anchor_plan: AnchorPlan,
    client: XRPLClient,
    signer: XRPLSigner,
    *,
    attempt: int,
    created_at: str | None = None,
    before_sending: Callable[[SignResult], object] = lambda _: None,
) -> AttestationReceipt:
    """Sign and submit once. `before_sending` is told what was signed; when it raises, nothing was sent.

    SUBMITTED when the node took it; FAILED with REJECTED when it did not, or the signer raised; FAILED with BACKEND_UNAVAILABLE or
    TIMEOUT when the node gave no answer: then nobody knows whether it has the transaction. BACKEND_UNAVAILABLE also when the signer
    raised LedgerUnavailable, and nothing was sent. `created_at` is now when None.
    """
    when = compact_utc() if created_at is None else created_at
    evidence = {"memo_digest": anchor_plan.memo_digest}

    def receipt(status: ReceiptStatus, proof: dict[str, Any] | None = None, error: ReceiptError | None = None) -> AttestationReceipt:
        return AttestationReceipt(prefixed(anchor_plan.intent_digest), XRPL_BACKEND, attempt, status, when, evidence, proof or {}, error)

    try:
        signed = signer.sign(anchor_plan.tx)
        blob, key_id = signed.signed_tx_blob_hex, signed.key_id  # here, where nothing is sent yet: foreign code may leave one out
    except Exception as problem:  # foreign code: whatever it raises, nothing was submitted
        unasked = isinstance(problem, LedgerUnavailable)  # of a signer that asks a node what the transaction lacks
        code = classify_connection_error() if unasked else ReceiptErrorCode.REJECTED
        return receipt(ReceiptStatus.FAILED, error=ReceiptError(code, _told(problem)))
    before_sending(signed)
    try:
        result = await client.submit(blob)
    except Exception as problem:  # as above, but it may have been
        code = classify_timeout() if _is_timeout(problem) else classify_connection_error(str(problem))
        return receipt(ReceiptStatus.FAILED, error=ReceiptError(code, _told(problem)))
    _note_exchange(evidence, "xrpl.submit.exchange", result.exchange_digest)
    proof: dict[str, Any] = {} if result.tx_hash is None else {"tx_hash": result.tx_hash}
    if not result.accepted:
        told = ": ".join(text for text in (result.engine_result, result.detail) if text is not None)
        error = ReceiptError(classify_engine_result(result.engine_result), _bounded(told) or None)
        return receipt(ReceiptStatus.FAILED, proof, error)
    if result.engine_result is not None:
        proof["engine_result"] = result.engine_result
    return receipt(ReceiptStatus.SUBMITTED, {**proof, "key_id": key_id})


async def confirm(
    intent_digest: str,
    tx_hash: str,
    client: XRPLClient,
    *,
    attempt: int,
    memo_digest_value: str,
    created_at: str | None = None,
    account: str | None = None,
    key_id: str | None = None,
) -> AttestationReceipt:
    """Ask once what became of a transaction. `intent_digest` is prefixed; `account` and `key_id` are noted in the proof.

    CONFIRMED when it is in a validated ledger, DEFERRED when it is not (yet), FAILED with BACKEND_UNAVAILABLE when the node gave no
    answer, FAILED with REJECTED when the transaction carries memos and none is the memo of this intent.
    """
    when = compact_utc() if created_at is None else created_at
    evidence = {"memo_digest": memo_digest_value}

    def receipt(status: ReceiptStatus, proof: dict[str, Any] | None = None, error: ReceiptError | None = None) -> AttestationReceipt:
        return AttestationReceipt(intent_digest, XRPL_BACKEND, attempt, status, when, evidence, proof or {}, error)

    try:
        found = await client.get_tx(tx_hash)
    except Exception as problem:  # foreign code: whatever it raises, there is no answer
        return receipt(ReceiptStatus.FAILED, error=ReceiptError(classify_connection_error(str(problem)), _told(problem)))
    _note_exchange(evidence, "xrpl.tx.exchange", found.exchange_digest)
    if not found.found:
        return receipt(ReceiptStatus.DEFERRED)
    if found.memos is not None and memo_digest_value not in map(_memo_digest_of, found.memos):
        text = f"transaction {tx_hash} does not carry the memo of this intent"
        return receipt(ReceiptStatus.FAILED, {"tx_hash": tx_hash}, ReceiptError(ReceiptErrorCode.REJECTED, _bounded(text)))
    if not found.validated:
        return receipt(ReceiptStatus.DEFERRED)
    return receipt(ReceiptStatus.CONFIRMED, _proof(tx_hash, found, account=account, key_id=key_id))


class XRPLAdapter:
    """The three steps with one client and one signer; transactions are AccountSet, so nothing is ever paid but the fee."""

    backend = XRPL_BACKEND

    def __init__(self, client: XRPLClient, signer: XRPLSigner, *, account: str | None = None, amount_drops: str = "1") -> None:
        self._client = client
        self._signer = signer
        self._account = signer.account if account is None else account
        self._amount_drops = amount_drops

    def plan(self, intent: AttestationIntent) -> AnchorPlan:
        """As the function, for this account."""
        return plan(intent, self._account, amount_drops=self._amount_drops, carrier="account_set")

    async def submit(
        self, intent_or_plan: AttestationIntent | AnchorPlan, *, attempt: int = 1, created_at: str | None = None
    ) -> AttestationReceipt:
        """As the function; an intent is planned first."""
        made = intent_or_plan if isinstance(intent_or_plan, AnchorPlan) else self.plan(intent_or_plan)
        return await submit(made, self._client, self._signer, attempt=attempt, created_at=created_at)

    async def confirm(
        self, intent_digest: str, tx_hash: str, *, attempt: int = 1, memo_digest_value: str, created_at: str | None = None
    ) -> AttestationReceipt:
        """As the function; the proof names this account."""
        return await confirm(
            intent_digest,
            tx_hash,
            self._client,
            attempt=attempt,
            memo_digest_value=memo_digest_value,
            created_at=created_at,
            account=self._account,
        )


def _proof(tx_hash: str, found: TxStatusResult, *, account: str | None, key_id: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "ledger_index": found.ledger_index,
        "engine_result": found.engine_result,
        "ledger_close_time": found.ledger_close_time,
        "memo_verified": None if found.memos is None else True,
        "account": account,
        "key_id": key_id,
    }
    return {"tx_hash": tx_hash, **{key: value for key, value in told.items() if value is not None}}


def _note_exchange(evidence: dict[str, str], name: str, digest: str | None) -> None:
    """Note a digest that is one. A transport may give any string, and the receipt of what was sent must not be lost over it."""
    if digest is not None and DIGEST_PATTERN.fullmatch(digest):
        evidence[name] = digest


def _memo_digest_of(memo_data_hex: str) -> str | None:
    try:
        return memo_digest(bytes.fromhex(memo_data_hex))
    except ValueError:
        return None


def _is_timeout(problem: Exception) -> bool:
    # By name for httpx, whose base of all its time limits is no TimeoutError and which is not imported for this.
    return isinstance(problem, TimeoutError) or any(kind.__name__ == "TimeoutException" for kind in type(problem).__mro__)


def _told(problem: Exception) -> str:
    return _bounded(str(problem) or type(problem).__name__)


def _bounded(text: str) -> str:
    return text[:_DETAIL_CHARACTERS].encode("utf-8", "backslashreplace").decode()
