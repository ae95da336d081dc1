"""The tree of a batch, the statement about it, and its receipts: golden values, and that every changed byte is noticed by name."""

import json
import random
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_attest.attestation.batch_tree import MAX_MEMBERS, BatchTree, Statement
from nexus_attest.attestation.errors import InvalidAnchor, NotATransaction, WitnessMismatch
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_attest.attestation.xrpl import MEMO_TYPE_HEX, MemoCodec
from nexus_attest.attestation.xrpl.batch_receipt import Anchor, WitnessTransaction, batch_receipt
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_control.merkle import inclusion_proof, leaf_hash, leaf_nodes, root, verify_inclusion

SIGNER = LocalWalletSigner(key_of_seed("sEdSJHS4oiAdz7w2X2ni1gFiqtbJHqE"))
ONE, TWO, THREE = (f"sha256:{digit * 32}" for digit in ("01", "02", "03"))
NOON = "2025-01-15T12:00:00+00:00"


def intents(count: int) -> list[AttestationIntent]:
    return [AttestationIntent("nexus.audit_package", f"sha256:{number:064x}") for number in range(count)]


def digest(intent: AttestationIntent) -> str:
    return "sha256:" + intent.intent_digest()


def witnessed(memos: list[dict[str, Any]], **members: Any) -> bytes:
    fields = {"TransactionType": "AccountSet", "Account": SIGNER.account, "Sequence": 7, "Fee": "10", "LastLedgerSequence": 1000}
    return bytes.fromhex(SIGNER.sign({**fields, "Memos": memos, **members}).signed_tx_blob_hex)


def memo(data: bytes, kind: bytes = b"nexus.attest.batch") -> dict[str, Any]:
    return {"Memo": {"MemoType": kind.hex(), "MemoData": data.hex()}}


def read(blob: bytes) -> WitnessTransaction:
    return WitnessTransaction(blob, "tesSUCCESS", account=SIGNER.account)


def batch(count: int) -> tuple[list[AttestationIntent], BatchTree, WitnessTransaction, list[AttestationReceipt]]:
    """Intents in the order of their tree, what witnesses them, and their receipts."""
    members = sorted(intents(count), key=digest)
    tree = BatchTree(map(digest, members))
    transaction = read(witnessed([memo(tree.statement.to_bytes())]))
    anchor = Anchor(
        account=SIGNER.account,
        network="testnet",
        tx_hash=transaction.tx_hash,
        ledger_index=1000,
        ledger_hash="AB" * 32,
        close_time="2025-01-15T12:00:00Z",
        engine_result="tesSUCCESS",
        level="quorum",
        xpop="sha256:" + "e" * 64,
    )
    receipts = [batch_receipt(tree, index, anchor, attempt=1, created_at=NOON) for index in range(count)]
    return members, tree, transaction, receipts


# -- tree and statement -----------------------------------------------------------------------------------------------------------


def test_roots_paths_and_statements_are_the_published_ones() -> None:
    assert BatchTree([ONE]).statement.root.hex() == "dcffe786ded16d283c663846ad0c4ff26558fccde36ca9d30b2ea19eade9fc0e"
    three = BatchTree([THREE, ONE, TWO, ONE])
    assert three.statement == Statement(bytes.fromhex("df896896c799531f1fd1e556cea26a6989ab06853bcbfdd3e4f5097a611f658f"), 3)
    assert [node.hex() for node in three.path(2)] == ["3a066e0f40c6a1981ebfa60d2411625d0517ae22c2fc8c7c1784ff8a75c78565"]
    assert three.statement.to_bytes() == (
        b'{"h":"rfc6962-sha256","n":3,"r":"df896896c799531f1fd1e556cea26a6989ab06853bcbfdd3e4f5097a611f658f",'
        b'"t":"nexus.attest.batch","v":"1"}'
    )
    assert three.statement.digest() == "sha256:a41eb49c73e415eb2d8ba8ecc5e49ece473f195e60bc91917a2f7752c368309f"


@given(st.sets(st.binary(min_size=32, max_size=32), min_size=1, max_size=70))
def test_the_tree_is_that_of_rfc_6962(digests: set[bytes]) -> None:
    leaves = [leaf_hash(raw) for raw in sorted(digests)]
    tree = BatchTree("sha256:" + raw.hex() for raw in digests)
    nodes = leaf_nodes(leaves)
    assert tree.statement == Statement(root(len(leaves), nodes), len(leaves))
    for index, member in enumerate(tree.members):
        assert tree.path(index) == inclusion_proof(index, len(leaves), nodes)
        assert tree.statement.covers(member, index, tree.path(index))
    assert tree.paths() == [tuple(tree.path(index)) for index in range(len(leaves))]


def test_a_set_has_one_root_whatever_its_order() -> None:
    digests = [digest(intent) for intent in intents(100)]
    shuffled = random.Random(1).sample(digests, len(digests))
    assert BatchTree(shuffled).statement == BatchTree(digests).statement


@pytest.mark.parametrize("members", [[], ["sha256:x"], ["01" * 32], [ONE, None], [ONE + "\n"], [ONE.upper()]])
def test_what_is_no_set_of_digests_has_no_tree(members: list[Any]) -> None:
    with pytest.raises(InvalidAnchor):
        BatchTree(members)


def test_a_batch_has_at_most_65536_members() -> None:
    assert BatchTree(f"sha256:{number:064x}" for number in range(MAX_MEMBERS))
    with pytest.raises(InvalidAnchor, match="65536"):
        BatchTree(f"sha256:{number:064x}" for number in range(MAX_MEMBERS + 1))


GOOD = BatchTree([ONE, TWO, THREE]).statement.to_bytes()
OTHERS: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"\xff",
    b"[" * 100_000,
    GOOD + b" ",
    GOOD.replace(b'"v":"1"', b'"v":"2"'),
    GOOD.replace(b'"v":"1"', b'"v":1'),
    GOOD.replace(b"rfc6962-sha256", b"rfc6962-sha512"),
    GOOD.replace(b"nexus.attest.batch", b"nexus.attest"),
    GOOD.replace(b'"n":3', b'"n":0'),
    GOOD.replace(b'"n":3', b'"n":-3'),
    GOOD.replace(b'"n":3', b'"n":3.0'),
    GOOD.replace(b'"n":3', b'"n":"3"'),
    GOOD.replace(b'"n":3', b'"n":true'),
    GOOD.replace(b'"n":3', b'"n":3,"n":3'),
    GOOD.replace(b'"n":3', b'"n":' + b"9" * 30),
    GOOD.replace(b'"n":3,', b""),
    GOOD.replace(b'"n":3', b'"m":3,"n":3'),
    GOOD.replace(b"df89", b"DF89"),
    GOOD.replace(b"df89", b"df8"),
]


@pytest.mark.parametrize("data", OTHERS, ids=range(len(OTHERS)))
def test_a_statement_has_one_form(data: bytes) -> None:
    assert Statement.from_bytes(GOOD).to_bytes() == GOOD
    with pytest.raises(InvalidAnchor):
        Statement.from_bytes(data)


@pytest.mark.parametrize(("given", "size"), [(b"", 1), ("x" * 32, 1), (b"x" * 31, 1), (b"x" * 32, 0), (b"x" * 32, True), (b"x" * 32, 1.0)])
def test_what_is_no_root_or_size_is_no_statement(given: Any, size: Any) -> None:
    with pytest.raises(InvalidAnchor):
        Statement(given, size)


# -- receipts -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 1000])
def test_every_member_is_verified_offline_from_the_bytes_of_one_transaction(count: int) -> None:
    members, _, transaction, receipts = batch(count)
    for intent, receipt in zip(members, receipts, strict=True):
        transaction.check(AttestationReceipt.from_dict(json.loads(json.dumps(receipt.to_dict()))), intent)


def test_the_proof_is_the_published_one() -> None:
    _, tree, transaction, receipts = batch(3)
    assert receipts[2].proof == {
        "type": "nexus.attest.batch/1",
        "account": "r9zRhGr7b6xPekLvT6wP4qNdWMryaumZS7",
        "network": "testnet",
        "tx_hash": transaction.tx_hash,
        "ledger_index": 1000,
        "close_time": "2025-01-15T12:00:00Z",
        "level": "quorum",
        "merkle": {"alg": "rfc6962-sha256", "index": 2, "size": 3, "path": [tree.path(2)[0].hex()]},
    }
    assert receipts[2].evidence_digests == {
        "memo_digest": tree.statement.digest(),
        "xrpl.batch.root": "sha256:" + tree.statement.root.hex(),
        "xrpl.xpop": "sha256:" + "e" * 64,
    }


@pytest.mark.parametrize("told", [{"ledger_hash": "AB" * 32, "level": "server"}, {"xpop": "sha256:" + "e" * 64, "level": "quorum"}])
def test_a_receipt_of_a_thousand_has_at_most_1500_bytes(told: dict[str, Any]) -> None:
    """With the longest name that a network may have, the longest address, and attempts and ledgers of the years to come."""
    where: dict[str, Any] = {"network": "n" * 14, "ledger_index": 999_999_999, "close_time": "2026-01-15T12:00:00Z", "ledger_hash": None}
    anchor = Anchor(**{**where, **told}, account=SIGNER.account, tx_hash="AB" * 32, engine_result="tesSUCCESS")
    tree = BatchTree(map(digest, intents(1000)))
    receipts = (batch_receipt(tree, index, anchor, attempt=9, created_at=NOON) for index in range(1000))
    assert max(len(json.dumps(receipt.to_dict(), separators=(",", ":"))) for receipt in receipts) <= 1500


RECOMPUTED: list[tuple[str, Any, str]] = [
    ("intent_digest", ONE, "intent_digest"),
    ("backend", "local", "backend"),
    ("status", "SUBMITTED", "status"),
    ("error", {"code": "REJECTED"}, "error"),
    ("evidence_digests.memo_digest", ONE, "memo_digest"),
    ("evidence_digests.xrpl.batch.root", ONE, "xrpl.batch.root"),
    ("proof.type", "nexus.attest.batch/2", "type"),
    ("proof.account", "rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh", "account"),
    ("proof.tx_hash", "00" * 32, "tx_hash"),
    ("proof.engine_result", "tecCLAIM", "engine_result"),
    ("proof.merkle", None, "merkle"),
    ("proof.merkle.alg", "rfc6962-sha512", "alg"),
    ("proof.merkle.index", 1, "path"),
    ("proof.merkle.index", "2", "index"),
    ("proof.merkle.index", True, "index"),
    ("proof.merkle.index", -1, "index"),
    ("proof.merkle.index", 2**70, "path"),
    ("proof.merkle.size", 8, "size"),
    ("proof.merkle.size", "7", "size"),
    ("proof.merkle.size", True, "size"),
    ("proof.merkle.path", [], "path"),
    ("proof.merkle.path", "ab", "path"),
    ("proof.merkle.path", [7], "path"),
    ("proof.merkle.path", ["zz"], "path"),
    ("proof.merkle.path", ["A B"], "path"),
    ("proof.merkle.extra", 1, "exactly"),
]


def changed(receipt: AttestationReceipt, place: str, value: Any) -> AttestationReceipt:
    data = deepcopy(receipt.to_dict())
    target, name = data, place
    for part in ("evidence_digests", "proof", "merkle"):
        if name.startswith(part + "."):
            target, name = target[part], name.removeprefix(part + ".")
    target[name] = value
    return AttestationReceipt.from_dict(data)


@pytest.mark.parametrize(("place", "value", "named"), RECOMPUTED, ids=range(len(RECOMPUTED)))
def test_a_changed_receipt_is_refused_and_the_place_named(place: str, value: Any, named: str) -> None:
    members, _, transaction, receipts = batch(7)
    with pytest.raises(WitnessMismatch, match=named):
        transaction.check(changed(receipts[2], place, value), members[2])


@pytest.mark.parametrize("name", ["type", "account", "tx_hash", "merkle"])
def test_nothing_that_is_recomputed_may_be_absent(name: str) -> None:
    members, _, transaction, receipts = batch(7)
    data = receipts[2].to_dict()
    del data["proof"][name]
    with pytest.raises(WitnessMismatch):
        transaction.check(AttestationReceipt.from_dict(data), members[2])


def test_every_changed_character_of_a_path_is_noticed() -> None:
    members, _, transaction, receipts = batch(7)
    path: list[str] = receipts[2].proof["merkle"]["path"]
    for step, node in enumerate(path):
        for place in range(len(node)):
            other = node[:place] + ("b" if node[place] == "a" else "a") + node[place + 1 :]
            with pytest.raises(WitnessMismatch, match="path"):
                transaction.check(changed(receipts[2], "proof.merkle.path", [*path[:step], other, *path[step + 1 :]]), members[2])


def test_the_receipt_of_one_intent_does_not_pass_for_another() -> None:
    members, _, transaction, receipts = batch(4)
    with pytest.raises(WitnessMismatch, match="intent_digest"):
        transaction.check(receipts[1], members[2])
    with pytest.raises(WitnessMismatch, match="path"):
        transaction.check(changed(receipts[1], "intent_digest", digest(members[2])), members[2])


def test_the_size_is_that_of_the_memo() -> None:
    """A path of the shape of another size verifies under it: only the memo says which size it is."""
    members, tree, _, receipts = batch(7)
    leaf = leaf_hash(bytes.fromhex(digest(members[2])[7:]))
    assert verify_inclusion(leaf, 2, 8, tree.path(2), tree.statement.root)
    other = read(witnessed([memo(Statement(tree.statement.root, 8).to_bytes())]))
    with pytest.raises(WitnessMismatch):
        other.check(changed(receipts[2], "proof.tx_hash", other.tx_hash), members[2])


# -- transactions -------------------------------------------------------------------------------------------------------------------


def test_a_memo_of_one_intent_is_still_read() -> None:
    (intent,) = intents(1)
    blob = witnessed([{"Memo": {"MemoType": MEMO_TYPE_HEX, "MemoData": MemoCodec.encode(intent)}}])
    transaction = read(blob)
    proof = {"tx_hash": transaction.tx_hash, "engine_result": "tesSUCCESS"}
    evidence = {"memo_digest": MemoCodec.digest(intent)}
    receipt = AttestationReceipt(digest(intent), "xrpl", 1, "CONFIRMED", NOON, evidence, proof)  # pyright: ignore[reportArgumentType]
    transaction.check(receipt, intent)
    assert transaction.statement is None
    (_, other) = intents(2)
    with pytest.raises(WitnessMismatch):
        transaction.check(changed(receipt, "intent_digest", digest(other)), other)
    transaction.check(changed(receipt, "proof.memo_verified", True), intent)
    said: list[tuple[str, Any]] = [("memo_verified", False), ("memo_verified", 1), ("engine_result", "tecCLAIM"), ("engine_result", None)]
    for place, value in [*((f"proof.{name}", value) for name, value in said), ("error", {"code": "REJECTED"})]:
        with pytest.raises(WitnessMismatch, match=place.removeprefix("proof.")):
            transaction.check(changed(receipt, place, value), intent)


STATEMENT = BatchTree([ONE]).statement.to_bytes()


@pytest.mark.parametrize(
    ("memos", "text"),
    [
        ([], "exactly one"),
        ([memo(STATEMENT), memo(STATEMENT)], "exactly one"),
        ([memo(STATEMENT, b"somebody.else")], "exactly one"),
        ([memo(STATEMENT, b"nexus.attest")], "cannot be read"),
        ([memo(STATEMENT.replace(b'"v":"1"', b'"v":"2"'))], "cannot be read"),
        ([memo(b"x")], "cannot be read"),
    ],
)
def test_a_transaction_without_exactly_one_memo_of_ours_witnesses_nothing(memos: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(WitnessMismatch, match=text):
        read(witnessed(memos))


def test_memos_of_others_beside_ours_do_no_harm() -> None:
    assert read(witnessed([memo(b"hello", b"text"), memo(STATEMENT)])).statement == Statement.from_bytes(STATEMENT)


def test_a_foreign_account_and_another_result_witness_nothing() -> None:
    blob = witnessed([memo(STATEMENT)])
    with pytest.raises(WitnessMismatch, match="not of rHb9"):
        WitnessTransaction(blob, "tesSUCCESS", account="rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh")
    with pytest.raises(WitnessMismatch, match="tecCLAIM"):
        WitnessTransaction(blob, "tecCLAIM", account=SIGNER.account)
    with pytest.raises(NotATransaction):
        WitnessTransaction(blob[:-1], "tesSUCCESS", account=SIGNER.account)
