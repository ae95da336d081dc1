"""Every byte of receipts, memos and statements of the ledger's witness: flip each, and name what refuses it.

Proofs, time-stamps, stored rows and narratives have tests like these of their own.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from bytes_testing import at, flips, leaves
from proof_testing import policy, witness_proof, witnessed
from test_attestation_batch_tree import SIGNER, batch, digest, intents, memo, read
from test_attestation_batch_tree import witnessed as signed

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import InvalidAnchor, NotATransaction, WitnessMismatch
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.witness import Level, Verdict, WitnessJudge
from nexus_attest.attestation.xrpl import MEMO_TYPE_HEX, MemoCodec, confirm, memo_digest
from nexus_attest.attestation.xrpl.client import TxStatusResult
from nexus_attest.attestation.xrpl.proof_check import check_proof


def refusals(document: dict[str, Any], judge: Callable[[dict[str, Any]], Verdict]) -> dict[str, int]:
    """By the names of the checks that refuse it, how many bytes of a document there are; those that nothing refuses fail."""
    names: dict[str, int] = {}
    for place, tampered in flips(json.dumps(document, separators=(",", ":")).encode()):
        try:
            changed = json.loads(tampered)
        except ValueError:
            names["no JSON"] = names.get("no JSON", 0) + 1
            continue
        verdict = judge(changed)
        named = verdict.failed[0] if verdict.failed else next((gap.what[:26] for gap in verdict.gaps), "")
        assert (verdict.level is None and named) or changed == document, (place, tampered[max(0, place - 20) : place + 20])
        names[named] = names.get(named, 0) + 1
    return names


def test_every_byte_of_a_receipt_and_its_intent_is_covered_where_it_is_proven() -> None:
    world = witnessed()
    judge = WitnessJudge(policy(world))
    document = witness_proof(world, 2)
    binding = document["intent"]["binding_digest"]
    assert judge.judge(document, binding_digest=binding).level is Level.QUORUM
    evidence = document.pop("evidence")
    names = refusals(document, lambda changed: judge.judge({**changed, "evidence": evidence}, binding_digest=binding))
    assert {"form", "no JSON"} <= names.keys() <= {"form", "receipt", "no JSON", ""}


UNREAD = {("attempt",), ("created_at",), ("proof", "network")}
"""Words of whoever wrote the receipt: its own number and time, and the name of the network in a configuration. Whoever changes them can
make the digest of the receipt anew; but nothing is read from them. A reader knows the network by its pins."""


@pytest.mark.parametrize("xpop", [True, False])
def test_every_byte_of_a_receipt_is_covered_whoever_makes_its_digest_anew(xpop: bool) -> None:
    """Only the words that nobody reads are not, and no member can be renamed or left out so that it is not compared."""
    world = witnessed()
    judge, document = WitnessJudge(policy(world)), witness_proof(world, 2)
    del document["receipt_digest"]
    if xpop:
        document["receipt"]["evidence_digests"]["xrpl.xpop"] = check_proof(document["evidence"]).digest
        document["receipt"]["proof"]["level"] = "quorum"
    binding = document["intent"]["binding_digest"]
    evidence = document.pop("evidence")
    before = judge.judge({**document, "evidence": evidence}, binding_digest=binding)
    assert before.level is Level.QUORUM
    receipt, passed = document["receipt"], 0
    for _, tampered in flips(json.dumps(receipt, separators=(",", ":")).encode()):
        try:
            changed = json.loads(tampered)
        except ValueError:
            continue
        if changed == receipt:
            continue
        verdict = judge.judge({**document, "receipt": changed, "evidence": evidence}, binding_digest=binding)
        if verdict.level is not None:
            assert verdict.to_dict() == before.to_dict()
            (place,) = [place for place in leaves(receipt) if at(changed, place) != at(receipt, place)]
            assert place in UNREAD, tampered
            passed += 1
    assert passed


def test_every_byte_of_the_memo_of_a_batch_is_covered() -> None:
    members, tree, transaction, receipts = batch(7)
    data = tree.statement.to_bytes()
    transaction.check(receipts[2], members[2])
    refusals: set[str] = set()
    for place in range(len(data)):
        for bit in (0x01, 0x20, 0x80):
            tampered = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            assert memo_digest(tampered) != receipts[2].evidence_digests["memo_digest"]
            try:
                statement = Statement.from_bytes(tampered)
            except InvalidAnchor as problem:
                refusals.add(str(problem).partition(":")[0])
                continue
            # A path may lead to the root at another size as well: the receipt has the size, and both must be the same.
            assert statement.size != 7 or not statement.covers(digest(members[2]), 2, tree.path(2)), place
    assert {"the statement is no JSON", "the statement has no root of 64 lowercase hex digits"} < refusals


def test_every_byte_of_a_memo_in_a_transaction_is_covered() -> None:
    """Signed anew by the account's own key, so that nothing but the memo is wrong."""
    members, tree, _, receipts = batch(7)
    data = tree.statement.to_bytes()
    for _, tampered in flips(data):
        with pytest.raises(WitnessMismatch):
            read(signed([memo(tampered)])).check(receipts[2], members[2])
    kind = b"nexus.attest.batch"
    for other in (b"nexus.attest", *(tampered for _, tampered in flips(kind))):
        with pytest.raises((WitnessMismatch, NotATransaction)):  # the signer does not sign what no server takes
            read(signed([memo(data, other)])).check(receipts[2], members[2])


def test_every_byte_of_the_memo_of_one_intent_is_covered() -> None:
    (first,) = intents(1)
    item = AttestationIntent("nexus.audit_package", first.binding_digest, "0.6", "run_1", "prod", "acme")
    data = bytes.fromhex(MemoCodec.encode(item))
    blob = signed([{"Memo": {"MemoType": MEMO_TYPE_HEX, "MemoData": data.hex()}}])
    transaction = read(blob)
    proof = {"tx_hash": transaction.tx_hash, "engine_result": "tesSUCCESS"}
    evidence = {"memo_digest": MemoCodec.digest(item)}
    receipt = AttestationReceipt(digest(item), "xrpl", 1, ReceiptStatus.CONFIRMED, "2025-01-15T12:00:00Z", evidence, proof)
    transaction.check(receipt, item)
    for place in range(len(data)):
        tampered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert memo_digest(tampered) != evidence["memo_digest"]
        try:
            told = MemoCodec.decode(tampered.hex())
        except InvalidAnchor:
            continue
        assert told != MemoCodec.decode(data.hex()), place


def test_every_byte_of_a_transaction_is_its_id() -> None:
    members, _, transaction, receipts = batch(3)
    blob = signed([memo(batch(3)[1].statement.to_bytes())])
    assert read(blob).tx_hash == transaction.tx_hash
    for place in range(len(blob)):
        tampered = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises((WitnessMismatch, NotATransaction)):
            read(tampered).check(receipts[0], members[0])
    assert SIGNER.account == transaction.account


class Server:
    """Shows a validated transaction with some memo."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def get_tx(self, tx_hash: str) -> TxStatusResult:
        del tx_hash
        return TxStatusResult(True, True, 7, "tesSUCCESS", memos=(self.data.hex(),))

    async def submit(self, signed_tx_blob_hex: str) -> Any:
        raise AssertionError(signed_tx_blob_hex)


def test_a_server_that_shows_another_memo_does_not_confirm() -> None:
    (item,) = intents(1)
    for _, tampered in flips(bytes.fromhex(MemoCodec.encode(item))):
        receipt = asyncio.run(confirm(digest(item), "AB", Server(tampered), attempt=1, memo_digest_value=MemoCodec.digest(item)))
        assert (receipt.status, receipt.error and receipt.error.code) == (ReceiptStatus.FAILED, "REJECTED")


def test_every_byte_of_a_receipt_is_in_its_digest() -> None:
    receipt = batch(7)[3][2]
    before = receipt.to_dict()
    for place, tampered in flips(json.dumps(before).encode()):
        try:
            data = json.loads(tampered)
            other = AttestationReceipt.from_dict(data)
        except ValueError:
            continue
        changed = {name for name in data.keys() | before.keys() if data.get(name) != before.get(name)}
        assert other.receipt_digest() != receipt.receipt_digest() or changed <= {"receipt_version"}, place
