"""Receipts: golden digests, and what is refused."""

import json
from typing import Any

import pytest

from nexus_attest.attestation import AttestationReceipt, ReceiptError, ReceiptErrorCode, ReceiptStatus
from nexus_attest.attestation.errors import InvalidReceipt

INTENT = "sha256:" + "a" * 64
BASE: dict[str, Any] = {
    "intent_digest": INTENT,
    "backend": "xrpl",
    "attempt": 1,
    "status": ReceiptStatus.SUBMITTED,
    "created_at": "2025-01-15T12:00:00+00:00",
}


def receipt(**members: Any) -> AttestationReceipt:
    return AttestationReceipt(**{**BASE, **members})


def test_digests_are_the_published_ones() -> None:
    submitted = receipt(evidence_digests={"memo_digest": "sha256:" + "b" * 64}, proof={"tx_hash": "abc"})
    assert submitted.receipt_digest() == "79292a875b0860b69edbd2c5d8fde42e7989bebc15494eaec2d32a2203b95e15"
    failed = receipt(attempt=2, status=ReceiptStatus.FAILED, error=ReceiptError(ReceiptErrorCode.TIMEOUT, "d"))
    assert failed.receipt_digest() == "23076307c1851d1eb865e051260f1c06bfe06128e76cf9110c58fc5d224ee9e7"


def test_every_member_is_in_the_digest() -> None:
    others: dict[str, Any] = {
        "intent_digest": "sha256:" + "b" * 64,
        "backend": "eth.mainnet",
        "attempt": 2,
        "status": "DEFERRED",
        "created_at": "2025-01-15T12:00:00Z",
        "evidence_digests": {"x": INTENT},
        "proof": {"x": 1},
        "error": ReceiptError("ODD"),
    }
    assert len({receipt().receipt_digest(), *(receipt(**{name: value}).receipt_digest() for name, value in others.items())}) == 9


def test_a_dict_form_gives_the_same_receipt() -> None:
    made = receipt(
        status="CONFIRMED",
        evidence_digests={"z": INTENT, "a": INTENT},
        proof={"tx_hash": "any string", "deep": [{"x": None}]},
        error=ReceiptError("NOT_IN_THE_ENUM", "caf\u00e9"),
    )
    assert AttestationReceipt.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert list(made.to_dict()["evidence_digests"]) == ["a", "z"]
    assert AttestationReceipt.from_dict(receipt().to_dict()) == receipt()
    assert ReceiptError("X").to_dict() == {"code": "X"}


@pytest.mark.parametrize("time", ["2025-01-15T12:00:00Z", "2025-01-15T12:00:00.123456789+00:00", "2024-02-29T23:59:59Z"])
def test_times_are_utc_with_or_without_a_fraction(time: str) -> None:
    assert receipt(created_at=time).created_at == time


@pytest.mark.parametrize("status", ["FAILED", "SUBMITTED", "DEFERRED"])
def test_only_confirmed_receipts_need_a_proof(status: str) -> None:
    assert receipt(status=status).status is ReceiptStatus(status)


CIRCULAR: dict[str, Any] = {}
CIRCULAR["self"] = CIRCULAR

BAD: list[tuple[dict[str, Any], str]] = [
    ({"intent_digest": "a" * 64}, "intent_digest"),
    ({"intent_digest": INTENT + "\n"}, "intent_digest"),
    ({"backend": "XRPL"}, "backend"),
    ({"backend": ""}, "backend"),
    ({"backend": "x" * 65}, "backend"),
    ({"backend": "xrpl\n"}, "backend"),
    ({"backend": None}, "backend"),
    ({"attempt": 0}, "attempt"),
    ({"attempt": True}, "attempt"),
    ({"attempt": 1.0}, "attempt"),
    ({"attempt": 2**63}, "attempt"),
    ({"status": "confirmed"}, "status"),
    ({"status": None}, "status"),
    ({"created_at": "2025-01-15T12:00:00"}, "created_at"),
    ({"created_at": "2025-01-15T12:00:00+01:00"}, "created_at"),
    ({"created_at": "2025-02-30T12:00:00Z"}, "created_at"),
    ({"created_at": "2025-01-15T12:00:00Z\n"}, "created_at"),
    ({"created_at": "2025-01-15 12:00:00Z"}, "created_at"),
    ({"created_at": "\u0662025-01-15T12:00:00Z"}, "created_at"),
    ({"created_at": 7}, "created_at"),
    ({"evidence_digests": {"x": "sha256:abc"}}, "evidence_digests"),
    ({"evidence_digests": {1: INTENT}}, "evidence_digests"),
    ({"evidence_digests": None}, "evidence_digests"),
    ({"status": "CONFIRMED"}, "proof must be non-empty"),
    ({"proof": []}, "proof"),
    ({"proof": {"x": float("nan")}}, "proof"),
    ({"proof": {"x": "\ud800"}}, "proof"),
    ({"proof": {1: 2}}, "proof"),
    ({"proof": CIRCULAR}, "proof"),
    ({"error": "TIMEOUT"}, "error"),
]


@pytest.mark.parametrize(("members", "text"), BAD)
def test_what_cannot_be_recorded_is_refused_by_name(members: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidReceipt, match=text) as refused:
        receipt(**members)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("data", [None, [], {}, {**BASE, "more": 1}, {**BASE, "error": {"code": 7}}, {**BASE, "error": {"detail": "x"}}])
def test_other_dict_forms_are_refused(data: Any) -> None:
    with pytest.raises(InvalidReceipt):
        AttestationReceipt.from_dict(data)


def test_a_receipt_cannot_be_changed_from_outside() -> None:
    proof: dict[str, Any] = {"deep": [1]}
    made = receipt(proof=proof)
    proof["deep"].append(2)
    made.to_dict()["proof"]["deep"].append(3)
    assert made.proof == {"deep": [1]}
