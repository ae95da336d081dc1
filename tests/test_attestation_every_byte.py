"""Every byte of receipts, memos and statements of the ledger's witness: flip each, and name what refuses it.

Proofs, time-stamps, stored rows and narratives have tests like these of their own.
"""

import asyncio
import copy
import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from proof_testing import policy, witness_proof, witnessed
from test_attestation_batch_tree import SIGNER, batch, digest, intents, memo, read
from test_attestation_batch_tree import witnessed as signed

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import InvalidAnchor, NotATransaction, WitnessMismatch
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.witness import Level, WitnessJudge
from nexus_attest.attestation.xrpl import MEMO_TYPE_HEX, MemoCodec, confirm, memo_digest
from nexus_attest.attestation.xrpl.client import TxStatusResult

Place = tuple[str | int, ...]

FREE = {
    ("receipt", "created_at"),
    ("receipt", "attempt"),
    ("receipt", "proof", "network"),
    ("receipt", "proof", "level"),
}
"""Words of whoever wrote the receipt: its own time and number, the name of the network in a configuration, and what was known then. A
reader computes the level, and knows the network by its pins; nothing is read from these."""


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    if isinstance(value, dict | list):
        held = cast("dict[str, Any] | list[Any]", value)
        entries: Iterable[tuple[str | int, Any]] = held.items() if isinstance(held, dict) else enumerate(held)
        for key, inside in entries:
            yield from leaves(inside, (*place, key))
    else:
        yield place


def flipped(value: Any) -> Iterator[Any]:
    """The value with one bit changed, in every byte of it."""
    if isinstance(value, str):
        for place in range(len(value)):
            yield value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
    elif isinstance(value, int):
        yield from (value ^ 1, value ^ 1 << 16)


def test_every_byte_of_a_receipt_and_its_intent_is_covered_where_it_is_proven() -> None:
    world = witnessed()
    judge = WitnessJudge(policy(world))
    document = witness_proof(world, 2)
    binding = document["intent"]["binding_digest"]
    assert judge.judge(document, binding_digest=binding).level is Level.QUORUM
    evidence = document.pop("evidence")
    places = [place for place in leaves(document) if place not in FREE]
    assert len(places) > 20
    for place in places:
        tampered = copy.deepcopy(document)
        holder: Any = tampered
        for key in place[:-1]:
            holder = holder[key]
        for changed in flipped(holder[place[-1]]):
            kept, holder[place[-1]] = holder[place[-1]], changed
            verdict = judge.judge({**tampered, "evidence": evidence}, binding_digest=binding)
            named = verdict.failed or [gap.what for gap in verdict.gaps]
            assert verdict.level is None, (place, changed)
            assert named, (place, changed)
            holder[place[-1]] = kept


def test_the_words_that_are_not_covered_are_not_read() -> None:
    world = witnessed()
    judge, document = WitnessJudge(policy(world)), witness_proof(world, 2)
    before = judge.judge(document).to_dict()
    for place, other in (("network", "mainnet"), ("level", "tree")):
        document["receipt"]["proof"][place] = other
    document["receipt"] |= {"created_at": "2020-01-01T00:00:00Z", "attempt": 9}
    assert judge.judge(document).to_dict() == before


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
    for place in range(0, len(data), 3):
        tampered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(WitnessMismatch):
            read(signed([memo(tampered)])).check(receipts[2], members[2])
    for kind in (b"nexus.attest.batci", b"nexus.attest", b"Nexus.attest.batch"):
        with pytest.raises(WitnessMismatch):
            read(signed([memo(data, kind)])).check(receipts[2], members[2])


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


@pytest.mark.parametrize("place", range(0, 132, 11))
def test_a_server_that_shows_another_memo_does_not_confirm(place: int) -> None:
    (item,) = intents(1)
    data = bytes.fromhex(MemoCodec.encode(item))
    tampered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    class Server:
        async def get_tx(self, tx_hash: str) -> TxStatusResult:
            del tx_hash
            return TxStatusResult(True, True, 7, "tesSUCCESS", memos=(tampered.hex(),))

        async def submit(self, signed_tx_blob_hex: str) -> Any:
            raise AssertionError(signed_tx_blob_hex)

    receipt = asyncio.run(confirm(digest(item), "AB", Server(), attempt=1, memo_digest_value=MemoCodec.digest(item)))
    assert (receipt.status, receipt.error and receipt.error.code) == (ReceiptStatus.FAILED, "REJECTED")


def test_every_byte_of_a_receipt_is_in_its_digest() -> None:
    receipt = batch(7)[3][2]
    before = receipt.to_dict()
    text = json.dumps(before).encode()
    for place in range(len(text)):
        try:
            data = json.loads(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
            other = AttestationReceipt.from_dict(data)
        except ValueError:
            continue
        changed = {name for name in data.keys() | before.keys() if data.get(name) != before.get(name)}
        assert other.receipt_digest() != receipt.receipt_digest() or changed <= {"receipt_version"}, place
