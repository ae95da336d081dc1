"""The proof of a ledger transaction, offline: what it shows, and that nothing else than the truth shows it."""

import copy
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pytest
from proof_testing import bare, document, pin, policy, receipt_of, witness_proof, witnessed
from witness_testing import intent

from nexus_attest.attestation.witness import Level, WitnessJudge
from nexus_attest.attestation.xrpl import batch_receipt, proof_check, validators
from nexus_attest.attestation.xrpl.codec import decode_object, decode_transaction, encode_transaction, verify_payload
from nexus_attest.attestation.xrpl.proof_check import LedgerReport, check_proof

NAMES = ["form", "path", "result", "account", "memo", "lists", "publisher", "validations", "quorum"]


def failed(report: LedgerReport) -> list[str]:
    return [check.name for check in report.checks if not check.ok]


def test_a_proof_leads_from_the_pinned_publisher_down_to_the_memo() -> None:
    world = witnessed()
    for proof in (bare(world), document(world)):
        report = check_proof(proof, [pin(world)])
        assert [(check.name, check.ok) for check in report.checks] == [(name, True) for name in NAMES]
        assert (report.level, report.gaps, report.network, report.votes, report.validators) == (Level.QUORUM, (), "local", 5, 5)
        assert report.publishers == (world.ledger.validators.pin,)
        assert report.transaction is not None
        assert report.transaction.statement is not None
        assert report.transaction.statement.size == 5
        closed, _ = world.ledger.find(world.attempts()[0].hash) or (None, None)
        assert closed is not None
        assert report.about()["ledger_hash"] == closed.hash


def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is computed of the same bytes be computed once: a proof with a changed byte is the same one nearly everywhere."""
    verify, decode, encode, read = verify_payload, decode_object, encode_transaction, decode_transaction
    decoded: dict[bytes, dict[str, Any]] = {}
    encoded: dict[str, bytes] = {}

    def decode_once(data: bytes) -> dict[str, Any]:
        if data not in decoded:
            decoded[data] = decode(data)
        return copy.deepcopy(decoded[data])

    def encode_once(fields: Mapping[str, Any]) -> bytes:
        key = json.dumps(fields)
        if key not in encoded:
            encoded[key] = encode(fields)
        return encoded[key]

    for module in (validators, proof_check):
        monkeypatch.setattr(module, "decode_object", decode_once)
        monkeypatch.setattr(module, "encode_transaction", encode_once)
    monkeypatch.setattr(validators, "verify_payload", lru_cache(verify))
    monkeypatch.setattr(proof_check, "decode_transaction", lru_cache(read))
    monkeypatch.setattr(batch_receipt, "decode_transaction", lru_cache(read))


def test_every_byte_of_a_proof_counts_and_the_check_that_refuses_it_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    world = witnessed()
    remembered(monkeypatch)
    text = json.dumps(document(world), separators=(",", ":")).encode()
    names: dict[str, int] = {}
    for place, byte in enumerate(text):
        try:
            changed = json.loads(text[:place] + bytes([byte ^ 1]) + text[place + 1 :])
        except ValueError:
            names["no JSON"] = names.get("no JSON", 0) + 1
            continue
        report = check_proof(changed, [pin(world)])
        assert report.level is None, place
        (name,) = failed(report)
        names[name] = names.get(name, 0) + 1
    assert {"form", "path", "lists", "validations"} <= names.keys() <= {"no JSON", *NAMES}


def test_without_pins_a_proof_shows_a_tree_at_most() -> None:
    report = check_proof(document(witnessed()))
    assert (report.level, failed(report), report.network, report.publishers) == (Level.TREE, [], None, ())
    assert [gap.what for gap in report.gaps] == [
        "which account may witness was not said",
        "whose list of validators to believe was not said",
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"publisher_keys": ("ED" + "0A" * 32,)}, "publisher"),
        ({"accounts": ("rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe",)}, "account"),
    ],
)
def test_another_publisher_and_another_account_are_refused(changes: dict[str, Any], name: str) -> None:
    world = witnessed()
    report = check_proof(document(world), [pin(world, **changes)])
    assert (report.level, failed(report)) == (None, [name])


def test_the_receipts_of_a_batch_are_judged_by_one_proof() -> None:
    world = witnessed()
    judge = WitnessJudge(policy(world))
    for number in range(5):
        verdict = judge.judge(witness_proof(world, number), binding_digest=intent(number).binding_digest)
        assert (verdict.level, verdict.failed, verdict.gaps) == (Level.QUORUM, [], ())
        assert verdict.by == world.ledger.validators.pin
        assert verdict.not_after == receipt_of(world, number)[0].proof["close_time"]
    other = judge.judge(witness_proof(world), binding_digest=intent(1).binding_digest)
    assert (other.level, other.failed) == (None, ["subject"])
