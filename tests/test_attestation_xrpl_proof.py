"""The proof of a ledger transaction, offline: what it shows, and that nothing else than the truth shows it."""

import copy
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proof_testing import agreed, bare, document, pin, policy, receipt_of, witness_proof, witnessed
from witness_testing import SEED, World, intent
from xrpl.core.binarycodec import decode, encode
from xrpl.core.binarycodec.binary_wrappers import BinarySerializer
from xrpl.core.binarycodec.types import Blob
from xrpl.core.keypairs import is_valid_message

from nexus_attest.attestation import witness
from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import ProofRefused
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptError, ReceiptErrorCode, ReceiptStatus
from nexus_attest.attestation.witness import Level, WitnessJudge, WitnessProof, judge_witnesses
from nexus_attest.attestation.xrpl import MemoCodec, batch_receipt, proof_check, validators
from nexus_attest.attestation.xrpl.codec import (
    decode_object,
    decode_transaction,
    encode_transaction,
    sha512_half,
    verify_payload,
)
from nexus_attest.attestation.xrpl.ledger_header import LedgerHeader
from nexus_attest.attestation.xrpl.ledger_tree import path_problem, transaction_leaf, tree_path
from nexus_attest.attestation.xrpl.proof import LedgerProof
from nexus_attest.attestation.xrpl.proof_check import LedgerReport, check_proof
from nexus_attest.testledger import REVOKED, Key, Validation, Validators, hashing, key_from_seed, manifest, seed_of, sign_transaction
from nexus_attest.testledger.keys import validator_key
from nexus_attest.trust import TrustPolicy
from nexus_control.layers import Outcome

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

    def decode_once(data: bytes, **options: int) -> dict[str, Any]:
        if data not in decoded:
            decoded[data] = decode(data, **options)
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


# -- what the ledger holds ----------------------------------------------------------------------------------------------------------


def transaction(world: World) -> tuple[bytes, bytes]:
    closed = bare(world)["transaction"]
    return bytes.fromhex(closed["blob"]), bytes.fromhex(closed["meta"])


def signed(world: World, **changes: Any) -> bytes:
    """The transaction of the batch with other fields, signed by its key."""
    fields = {name: value for name, value in decode(transaction(world)[0].hex()).items() if name not in ("SigningPubKey", "TxnSignature")}
    return sign_transaction(key_from_seed(SEED), {**fields, **changes}).blob


def memo(data: bytes, kind: bytes = b"nexus.attest.batch") -> dict[str, Any]:
    return {"Memo": {"MemoType": kind.hex().upper(), "MemoData": data.hex().upper()}}


def test_a_transaction_that_only_cost_its_fee_witnesses_nothing() -> None:
    world = witnessed()
    blob, metadata = transaction(world)
    claimed = bytes.fromhex(encode({**decode(metadata.hex()), "TransactionResult": "tecNO_DST"}))
    report = check_proof(agreed(world, blob, claimed), [pin(world)])
    assert failed(report) == ["result"]
    assert check_proof(agreed(world, blob, metadata), [pin(world)]).level is Level.QUORUM


def test_a_transaction_of_another_account_is_refused() -> None:
    world = witnessed()
    other = key_from_seed(seed_of("somebody else"))
    fields = {"TransactionType": "AccountSet", "Account": other.address, "Fee": "10", "Sequence": 1}
    blob = sign_transaction(other, {**fields, "Memos": decode(transaction(world)[0].hex())["Memos"]}).blob
    assert failed(check_proof(agreed(world, blob, transaction(world)[1]), [pin(world)])) == ["account"]


@pytest.mark.parametrize(
    "memos",
    [
        [],
        [memo(b"{}")],
        [memo(b'{"h":"rfc6962-sha256","n":1,"r":"00","t":"nexus.attest.batch","v":"1"}')],
        [memo(b'{"h":"rfc6962-sha256","n":1,"r":"' + b"0" * 64 + b'","t":"nexus.attest.batch","v":"2"}')],
        [memo(b'{"h":"sha1","n":1,"r":"' + b"0" * 64 + b'","t":"nexus.attest.batch","v":"1"}')],
        [memo(b"{}", b"nexus.attest")],
        [memo(Statement(bytes(32), 1).to_bytes()), memo(Statement(bytes(32), 1).to_bytes())],
        [memo(Statement(bytes(32), 1).to_bytes(), b"nexus.attest.other")],
    ],
)
def test_a_transaction_without_exactly_one_memo_of_ours_is_refused(memos: list[dict[str, Any]]) -> None:
    world = witnessed()
    blob = signed(world, Memos=memos or [memo(b"x", b"y")])
    assert failed(check_proof(agreed(world, blob, transaction(world)[1]), [pin(world)])) == ["memo"]


def test_another_memo_and_another_batch_size_are_not_those_of_the_receipt() -> None:
    world = witnessed()
    receipt, item = receipt_of(world, 0)
    root = bytes.fromhex(receipt.evidence_digests["xrpl.batch.root"].removeprefix("sha256:"))
    for statement in (Statement(root, 6), Statement(bytes(32), 5)):
        evidence = agreed(world, signed(world, Memos=[memo(statement.to_bytes())]), transaction(world)[1])
        proof = WitnessProof(intent=item, receipt=receipt, evidence=evidence).to_dict()
        verdict = WitnessJudge(policy(world)).judge(proof)
        assert (verdict.level, verdict.failed) == (None, ["receipt"])


def test_a_memo_for_one_intent_alone_is_read_and_compared_with_it() -> None:
    world = witnessed()
    item = AttestationIntent("nexus.audit_package", "sha256:" + "a" * 64)
    blob = signed(world, Memos=[memo(bytes.fromhex(MemoCodec.encode(item)), b"nexus.attest")])
    evidence = agreed(world, blob, transaction(world)[1])
    members: dict[str, Any] = {"memo_digest": MemoCodec.digest(item)}
    tx_hash = hashing.transaction_id(blob).hex().upper()
    receipt = AttestationReceipt(
        "sha256:" + item.intent_digest(), "xrpl", 1, ReceiptStatus.CONFIRMED, "2025-01-01T00:00:00Z", members, {"tx_hash": tx_hash}
    )
    judge = WitnessJudge(policy(world))
    verdict = judge.judge(WitnessProof(intent=item, receipt=receipt, evidence=evidence).to_dict())
    assert (verdict.level, verdict.failed, verdict.about["memo"]["bd"]) == (Level.QUORUM, [], item.binding_digest)
    other = replace(receipt, evidence_digests={"memo_digest": "sha256:" + "0" * 64})
    assert judge.judge(WitnessProof(intent=item, receipt=other, evidence=evidence).to_dict()).failed == ["receipt"]
    alone = judge.judge(WitnessProof(intent=item, receipt=receipt).to_dict())
    assert (alone.level, alone.failed, len(alone.gaps)) == (Level.SERVER, [], 1)
    said: list[dict[str, Any]] = [{"engine_result": "tecCLAIM"}, {"memo_verified": False}]
    contradicting = [replace(receipt, proof={**receipt.proof, **words}) for words in said]
    for wrong in (*contradicting, replace(receipt, error=ReceiptError(ReceiptErrorCode.REJECTED))):
        for shown in (evidence, None):
            assert judge.judge(WitnessProof(intent=item, receipt=wrong, evidence=shown).to_dict()).failed == ["receipt"]
    assert judge.judge(WitnessProof(intent=item, receipt=other).to_dict()).failed == ["receipt"]


ODD_BYTES = {
    "metadata": [b"", b"\xe1", b"\xf9" * 80, b"\xf9\xea" * 500, bytes.fromhex("2200000000") * 5000, b"\xff\xff\xff"],
    "blob": [b"", b"\xff", b"\xea" * 80, b"\x12\x00\x03\xf9\xea" + b"\x7d\x01x\xe1" * 3000],
}


@pytest.mark.parametrize("change", [{name: odd} for name, some in ODD_BYTES.items() for odd in some])
def test_bytes_that_are_no_transaction_or_no_metadata_are_refused(change: dict[str, bytes]) -> None:
    world = witnessed()
    blob, metadata = transaction(world)
    report = check_proof(agreed(world, change.get("blob", blob), change.get("metadata", metadata)), [pin(world)])
    assert failed(report) in (["path"], ["result"])


def test_metadata_that_would_not_be_encoded_so_is_refused() -> None:
    world = witnessed()
    blob, metadata = transaction(world)
    fields = decode(metadata.hex())
    shuffled = b"".join(bytes.fromhex(encode({name: fields[name]})) for name in ("TransactionResult", "TransactionIndex", "AffectedNodes"))
    assert decode(shuffled.hex()) == fields
    assert failed(check_proof(agreed(world, blob, shuffled), [pin(world)])) == ["path"]


def test_a_close_time_on_which_the_validators_did_not_agree_is_told_as_one() -> None:
    world = witnessed()
    evidence = agreed(world, *transaction(world), flags=1)
    exact, about_so = check_proof(document(world), [pin(world)]), check_proof(evidence, [pin(world)])
    text = "the validators did not agree on when the ledger closed, it may have been some seconds later"
    assert (exact.level, exact.inexact, about_so.level, about_so.inexact) == (Level.QUORUM, None, Level.QUORUM, text)
    assert (exact.about()["close_time_agreed"], about_so.about()["close_time_agreed"]) == (True, False)
    told = {name: value for name, value in witness_proof(world)["receipt"]["proof"].items() if name != "ledger_hash"}
    proof = {**witness_proof(world, proof=told), "evidence": evidence}
    checks, gaps = judge_witnesses(policy(world), [proof], intent(0).binding_digest)
    assert ([check.name for check in checks if not check.ok], gaps) == ([], [])
    (receipt,) = [check for check in checks if check.name == "receipt"]
    assert str(receipt.detail).endswith(f", not after {about_so.not_after} or so: {text}")
    assert WitnessJudge(policy(world)).judge(proof).to_dict()["inexact"] == text
    assert WitnessJudge(policy(world)).judge(witness_proof(world)).to_dict()["inexact"] is None


# -- who agreed ---------------------------------------------------------------------------------------------------------------------


def header_of(world: World) -> hashing.Header:
    closed, _ = world.ledger.find(world.attempts()[0].hash) or pytest.fail("not witnessed")
    return closed.header


def with_votes(world: World, votes: Mapping[str, bytes]) -> dict[str, Any]:
    proof = document(world)
    proof["xpop"]["validation"]["data"] = {label: data.hex().upper() for label, data in votes.items()}
    return proof


def labelled(votes: Iterable[Validation]) -> dict[str, bytes]:
    return {vote.signing.node: vote.data for vote in votes}


def test_four_of_five_validators_are_enough_and_three_are_not() -> None:
    world = witnessed()
    validators, header = world.ledger.validators, header_of(world)
    four = check_proof(with_votes(world, labelled(validators.validate(header, [0, 1, 2, 4]))), [pin(world)])
    assert (four.level, four.votes, four.validators) == (Level.QUORUM, 4, 5)
    three = check_proof(with_votes(world, labelled(validators.validate(header, [0, 1, 2]))), [pin(world)])
    assert (three.level, failed(three)) == (None, ["quorum"])
    assert three.checks[-1].detail == "too few: 3 of 5 validators, of which four fifths must agree"
    assert failed(check_proof(with_votes(world, {}), [pin(world)])) == ["quorum"]


def bad_votes(world: World) -> dict[str, dict[str, bytes]]:
    validators, header = world.ledger.validators, header_of(world)
    good = validators.validate(header)
    three = labelled(good[:3])
    other = replace(header, state_root=bytes(32))
    fields = good[3].data
    return {
        "one vote under both keys of its validator": {**three, good[0].master.node: good[0].data},
        "a vote under the key of another": {**three, good[4].signing.node: good[3].data},
        "votes of nobody listed": {**three, **labelled(Validators("another network").validate(header))},
        "votes for another ledger": {**three, **labelled(validators.validate(other, [3, 4]))},
        "a vote for another number": {**three, **labelled(validators.validate(replace(header, index=header.index + 1), [3, 4]))},
        "votes that are not full": {**three, **labelled(validators.validate(header, [3, 4], full=False))},
        "a vote with two fields changed over": {**three, good[3].signing.node: fields[5:10] + fields[:5] + fields[10:]},
        "a vote with something behind it": {**three, good[3].signing.node: fields + b"\xf1"},
        "a vote with another signature": {**three, good[3].signing.node: good[3].data.replace(good[3].data[-20:], good[4].data[-20:])},
        "no vote at all": {**three, good[3].signing.node: b""},
        "an object that is none": {**three, good[3].signing.node: bytes.fromhex(encode({"Flags": 1}))},
        "an object with a signature and nothing else": {**three, good[3].signing.node: bytes.fromhex(encode({"Signature": "00"}))},
    }


@pytest.mark.parametrize("name", sorted(bad_votes(witnessed())))
def test_what_is_no_good_vote_does_not_count(name: str) -> None:
    world = witnessed()
    votes = bad_votes(world)[name]
    assert failed(check_proof(with_votes(world, votes), [pin(world)])) == ["validations"]
    foreign = with_votes(world, votes)["xpop"]
    assert failed(check_proof(foreign, [pin(world)])) == ["quorum"], "somebody else's file may hold it, but it is no vote"


def test_a_file_of_somebody_else_may_have_votes_that_do_not_count() -> None:
    world = witnessed()
    foreign = bare(world)
    label = next(iter(foreign["validation"]["data"]))
    foreign["validation"]["data"][label] = "00"
    report = check_proof(foreign, [pin(world)])
    assert (report.level, report.votes) == (Level.QUORUM, 4)
    detail = next(check.detail for check in report.checks if check.name == "validations")
    assert detail is not None
    assert detail.startswith("a validation cannot be read")


def published(world: World, **options: Any) -> dict[str, Any]:
    return world.ledger.validators.published(0, **options)


def with_list(world: World, unl: object) -> dict[str, Any]:
    proof = document(world)
    proof["xpop"]["validation"]["unl"] = unl
    return proof


def test_a_list_holds_from_its_time_on_until_it_expires_whatever_the_time_is_today() -> None:
    world = witnessed()
    close = header_of(world).close_time
    good: list[dict[str, int]] = [{"expiration": close + 1}, {"expiration": close + 9, "effective": close}]
    for options in good:
        assert check_proof(with_list(world, published(world, **options)), [pin(world)]).level is Level.QUORUM
    bad: list[dict[str, int]] = [{"expiration": close}, {"expiration": close + 9, "effective": close + 1}, {"expiration": 0}]
    for options in bad:
        report = check_proof(with_list(world, published(world, **options)), [pin(world)])
        assert failed(report) == ["lists"]


def relisted(world: World, content: object, *, master: Key | None = None, signing: Key | None = None, sequence: int = 1) -> dict[str, Any]:
    """A list with this content, signed as the publisher does unless other keys are given."""
    validators = world.ledger.validators
    master, signing = master or validators.publisher, signing or validators.publisher_signing
    blob = content if isinstance(content, bytes) else json.dumps(content).encode()
    made = manifest(master, None if sequence == REVOKED else signing, sequence)
    parts = {"manifest": b64encode(made).decode(), "blob": b64encode(blob).decode(), "signature": signing.sign(blob).hex().upper()}
    return {"public_key": master.hex, **parts, "version": 1}


def listed(world: World, **changes: Any) -> dict[str, Any]:
    content = json.loads(b64decode(published(world)["blob"]))
    return {**content, "expiration": 2**32 - 1, **changes}


UNCLEAR: list[Any] = [
    b"",
    b"\xff",
    b"[]",
    b"{" * 100_000,
    {},
    {"sequence": "1"},
    {"expiration": None},
    {"effective": -1},
    {"effective": 2**32},
    {"validators": {}},
    {"validators": []},
    {"validators": [1]},
    {"validators": [{}]},
    {"validators": [{"validation_public_key": "ED" + "00" * 31, "manifest": ""}]},
    {"validators": [{"validation_public_key": "ED" + "00" * 32, "manifest": "?"}]},
    {"validators": [{"validation_public_key": "ED" + "00" * 32, "manifest": "AA" * 1000}]},
    {"validators": [{"validation_public_key": "ED" + "00" * 32, "manifest": ""}] * 2},
    {"validators": [{"validation_public_key": f"ED{number:064X}", "manifest": ""} for number in range(201)]},
]


@pytest.mark.parametrize("content", UNCLEAR)
def test_a_signed_list_that_says_nothing_clear_is_refused(content: Any) -> None:
    world = witnessed()
    assert check_proof(with_list(world, relisted(world, listed(world))), [pin(world)]).level is Level.QUORUM
    said = listed(world, **cast("dict[str, Any]", content)) if isinstance(content, dict) and content else cast("object", content)
    assert failed(check_proof(with_list(world, relisted(world, said)), [pin(world)])) == ["lists"]


def test_a_list_counts_only_with_the_signatures_of_its_publisher() -> None:
    world = witnessed()
    other = Validators("another network")
    good = listed(world)
    wrong = {
        "signed by another key": {**relisted(world, good), "signature": other.publisher_signing.sign(b"x").hex().upper()},
        "under a revoked key": relisted(world, good, sequence=REVOKED),
        "of another than its manifest says": {**relisted(world, good), "public_key": other.pin},
        "with a manifest that is none": {**relisted(world, good), "manifest": ""},
        "with a validator's vote for a manifest": {
            **relisted(world, good),
            "manifest": b64encode(world.ledger.validators.validate(header_of(world), [0])[0].data).decode(),
        },
        "with a manifest that its master key did not sign": {
            **relisted(world, good),
            "manifest": b64encode(forged_manifest(world, "MasterSignature")).decode(),
        },
        "with a manifest that its signing key did not sign": {
            **relisted(world, good),
            "manifest": b64encode(forged_manifest(world, "Signature")).decode(),
        },
        "with a manifest without signature": {**relisted(world, good), "manifest": b64encode(forged_manifest(world, None)).decode()},
    }
    for what, unl in wrong.items():
        assert failed(check_proof(with_list(world, unl), [pin(world)])) == ["lists"], what
    another = relisted(world, good, master=other.publisher, signing=other.publisher_signing)
    assert failed(check_proof(with_list(world, another), [pin(world)])) == ["publisher"]


def forged_manifest(world: World, name: str | None) -> bytes:
    fields = decode(manifest(world.ledger.validators.publisher, world.ledger.validators.publisher_signing, 1).hex())
    if name is None:
        del fields["MasterSignature"]
    else:
        fields[name] = "00" * 64
    return bytes.fromhex(encode(fields))


def test_a_validator_whose_manifest_is_revoked_or_false_has_no_vote_but_stands_in_the_list() -> None:
    world = witnessed()
    content = listed(world)
    members = world.ledger.validators.members
    content["validators"][0]["manifest"] = b64encode(manifest(members[0].master, None, REVOKED)).decode()
    votes = labelled(world.ledger.validators.validate(header_of(world), [1, 2, 3, 4]))
    proof = with_votes(world, votes)
    proof["xpop"]["validation"]["unl"] = relisted(world, content)
    assert (report := check_proof(proof, [pin(world)])).level is Level.QUORUM
    assert (report.votes, report.validators) == (4, 5)
    content["validators"][1]["manifest"] = b64encode(manifest(members[1].master, members[1].signing, 1)[:-1] + b"\0").decode()
    proof["xpop"]["validation"]["unl"] = relisted(world, content)
    assert failed(check_proof(proof, [pin(world)])) == ["validations"]


def test_a_revoked_key_has_no_vote_whatever_older_manifest_comes_along() -> None:
    world = witnessed()
    validators, other = world.ledger.validators, Validators("another publisher")
    revoking, false = listed(world), listed(world)
    for number in (0, 1):
        revocation = manifest(validators.members[number].master, None, REVOKED)
        revoking["validators"][number]["manifest"] = b64encode(revocation).decode()
        forged = {**decode(revocation.hex()), "MasterSignature": "00" * 64}
        false["validators"][number]["manifest"] = b64encode(bytes.fromhex(encode(forged))).decode()

    def of_another(content: dict[str, Any]) -> dict[str, Any]:
        return relisted(world, content, master=other.publisher, signing=other.publisher_signing)

    revoked, good = with_list(world, relisted(world, revoking)), with_list(world, relisted(world, listed(world)))
    older = [b64encode(member.manifest()).decode() for member in validators.members[:2]]
    for proof in (
        revoked,
        {**revoked, "manifests": older},
        {**revoked, "lists": [of_another(listed(world))]},
        {**good, "lists": [of_another(revoking)]},
    ):
        assert failed(check_proof(proof, [pin(world)])) == ["validations"]
    assert check_proof({**good, "lists": [of_another(false)]}, [pin(world)]).level is Level.QUORUM


def test_an_account_that_another_network_names_is_none_that_this_one_names() -> None:
    world, other = witnessed(), Validators("another publisher")
    named, unnamed = pin(world, publisher_keys=(other.pin,)), pin(world, accounts=())
    for pins in ([unnamed], [named, unnamed], [unnamed, named]):
        report = check_proof(document(world), pins)
        assert (report.level, [gap.what for gap in report.gaps]) == (Level.QUORUM, ["which account may witness was not said"])
    assert check_proof(document(world), [pin(world), unnamed]).gaps == ()


def test_a_newer_manifest_counts_and_one_that_is_not_needed_or_false_is_refused() -> None:
    world = World(max_members=1)
    world.queue.enqueue(intent(0))
    old = published(world, expiration=2**32 - 1)
    before = [member.manifest() for member in world.ledger.validators.members]
    for member in world.ledger.validators.members[:2]:
        member.rotate()
    world.run()
    proof = with_list(world, old)
    assert failed(check_proof(proof, [pin(world)])) == ["validations"]
    newer = [b64encode(member.manifest()).decode() for member in world.ledger.validators.members]
    assert check_proof({**proof, "manifests": newer[:2]}, [pin(world)]).level is Level.QUORUM
    false = b64encode(world.ledger.validators.members[0].manifest()[:-1] + b"\0").decode()
    cut = b64encode(world.ledger.validators.members[0].manifest()[:-1]).decode()
    for manifests in (newer[:1], newer[:3], [*newer[:2], newer[0]], [false, newer[1]], [*newer[:2], cut], [*newer[:2], "AAAA"]):
        assert failed(check_proof({**proof, "manifests": manifests}, [pin(world)])) == ["validations"]
    revoked = b64encode(manifest(world.ledger.validators.members[0].master, None, REVOKED)).decode()
    assert failed(check_proof({**proof, "manifests": [*newer[:2], revoked]}, [pin(world)])) == ["validations"]
    assert before[0] != world.ledger.validators.members[0].manifest()


def test_one_publisher_is_enough_or_all_are_needed_as_the_policy_says() -> None:
    world = witnessed()
    other = Validators("another publisher")
    mine, more = relisted(world, listed(world)), relisted(world, listed(world), master=other.publisher, signing=other.publisher_signing)
    both = {**with_list(world, mine), "lists": [more]}
    keys = (world.ledger.validators.pin, other.pin)
    for proof, some, every in ((both, Level.QUORUM, Level.QUORUM), (with_list(world, mine), Level.QUORUM, None)):
        assert check_proof(proof, [pin(world, publisher_keys=keys)]).level is some
        assert check_proof(proof, [pin(world, publisher_keys=keys, all_publishers=True)]).level is every
    assert check_proof(both, [pin(world)]).publishers == (world.ledger.validators.pin,)
    twice = {**with_list(world, mine), "lists": [relisted(world, listed(world, sequence=2))]}
    assert failed(check_proof(twice, [pin(world)])) == ["lists"]
    few = relisted(world, listed(world), master=other.publisher, signing=other.publisher_signing)
    stranger = relisted(world, {**listed(world), "validators": strangers()}, master=other.publisher, signing=other.publisher_signing)
    assert few != stranger
    lacking = {**with_list(world, mine), "lists": [stranger]}
    assert check_proof(lacking, [pin(world, publisher_keys=keys)]).level is Level.QUORUM
    assert failed(check_proof(lacking, [pin(world, publisher_keys=keys, all_publishers=True)])) == ["quorum"]


def strangers() -> list[dict[str, str]]:
    members = Validators("strangers").members
    return [{"validation_public_key": item.master.hex, "manifest": b64encode(item.manifest()).decode()} for item in members]


def test_the_network_is_the_one_whose_pins_hold() -> None:
    world = witnessed()
    other = pin(world, network="other", publisher_keys=("ED" + "0A" * 32,))
    report = check_proof(document(world), [other, pin(world)])
    assert (report.level, report.network) == (Level.QUORUM, "local")
    elsewhere = pin(world, network="other", accounts=("rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe",))
    assert failed(check_proof(document(world), [elsewhere, other])) == ["publisher"]


# -- how much is demanded -----------------------------------------------------------------------------------------------------------


def test_the_level_is_what_was_shown_and_less_than_demanded_is_a_gap() -> None:
    world = witnessed()
    tree = document(world)
    del tree["xpop"]["validation"]
    for level, gaps in (("quorum", 1), ("tree", 0), ("server", 0)):
        report = check_proof(tree, [pin(world, level=level)])
        assert (report.level, len(report.gaps), failed(report)) == (Level.TREE, gaps, [])
    assert check_proof(document(world), [pin(world, publisher_keys=(), level="tree")]).level is Level.TREE
    assert len(check_proof(tree, [pin(world, level="tree"), pin(world)]).gaps) == 1, "the strictest of those that may be meant"
    alone = {key: value for key, value in witness_proof(world).items() if key != "evidence"}
    for level, gaps in (("quorum", 1), ("tree", 1), ("server", 0)):
        verdict = WitnessJudge(policy(world, level=level)).judge(alone)
        assert (verdict.level, len(verdict.gaps), verdict.failed) == (Level.SERVER, gaps, [])


def test_a_word_is_enough_only_when_every_network_of_the_policy_takes_it() -> None:
    world = witnessed()
    alone = {key: value for key, value in witness_proof(world).items() if key != "evidence"}
    both = TrustPolicy(ledgers=(pin(world, level="server"), pin(world, network="other")))
    assert len(WitnessJudge(both).judge(alone).gaps) == 1
    assert len(WitnessJudge(TrustPolicy()).judge(alone).gaps) == 1


def test_a_receipt_that_says_more_than_its_evidence_shows_gains_nothing() -> None:
    world = witnessed()
    tree = document(world)
    del tree["xpop"]["validation"]
    boast = {**witness_proof(world)["receipt"]["proof"], "level": "quorum"}
    verdict = WitnessJudge(policy(world)).judge({**witness_proof(world, proof=boast), "evidence": tree})
    assert (verdict.level, len(verdict.gaps)) == (Level.TREE, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"tx_hash": "00" * 32},
        {"account": "rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe"},
        {"ledger_index": 7},
        {"ledger_hash": "00" * 32},
        {"close_time": "2025-01-01T00:00:00Z"},
        {"type": "nexus.attest.batch/2"},
        {"engine_result": "tecPATH_DRY"},
        {"merkle": None},
        {"ledger_index": []},
        {"merkle": {"alg": "rfc6962-sha256", "index": 0, "size": 5, "path": [1]}},
        {"merkle": {"alg": "rfc6962-sha256", "index": 0, "size": 5, "path": ["aa" * 16, "aa" * 48]}},
        {"merkle": {"alg": [], "index": {}, "size": 5, "path": {}}},
        {"merkle": {"alg": "rfc6962-sha256", "index": 0, "size": 4, "path": []}},
        {"merkle": {"alg": "rfc6962-sha256", "index": True, "size": 5, "path": []}},
        {"merkle": {"alg": "rfc6962-sha256", "index": 0, "size": 5, "path": ["zz"]}},
        {"merkle": {"alg": "rfc6962-sha256", "index": 0, "size": 5, "path": ["AA" * 32]}},
        {"merkle": {"alg": "rfc6962-sha256", "index": 0, "size": 5, "path": ["aa" * 32]}},
    ],
)
def test_a_receipt_that_says_something_else_than_the_proof_is_refused(changes: dict[str, Any]) -> None:
    world = witnessed()
    said = {**witness_proof(world)["receipt"]["proof"], **changes}
    verdict = WitnessJudge(policy(world)).judge(witness_proof(world, proof=said))
    assert (verdict.level, verdict.failed) == (None, ["receipt"])


@pytest.mark.parametrize(
    ("evidence", "proof"),
    [
        ({"xrpl.batch.root": "sha256:" + "0" * 64}, {}),
        ({"memo_digest": "sha256:" + "0" * 64}, {}),
        ({}, {"type": "x"}),
        ({}, {"account": "rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe"}),
        ({}, {"account": []}),
        ({}, {"merkle": []}),
        ({}, {"merkle": {"size": 0}}),
        ({}, {"merkle": {"size": "5"}}),
        ({}, {"engine_result": "tecCLAIM"}),
    ],
)
def test_a_receipt_alone_must_agree_with_itself(evidence: dict[str, str], proof: dict[str, Any]) -> None:
    world = witnessed()
    whole = witness_proof(world)
    receipt = whole["receipt"]
    receipt["evidence_digests"] |= evidence
    receipt["proof"] |= proof
    verdict = WitnessJudge(policy(world)).judge({"type": whole["type"], "intent": whole["intent"], "receipt": receipt})
    assert (verdict.level, verdict.failed) == (None, ["receipt"])


def test_evidence_is_that_which_the_receipt_names_unless_it_shows_more() -> None:
    world = witnessed()
    digests = {**witness_proof(world)["receipt"]["evidence_digests"], "xrpl.xpop": "sha256:" + "0" * 64}
    told = witness_proof(world)["receipt"]["proof"]
    for level, names in (("quorum", ["evidence_digest"]), ("tree", []), ("server", [])):
        proof = witness_proof(world, evidence_digests=digests, proof={**told, "level": level})
        assert WitnessJudge(policy(world)).judge(proof).failed == names


# -- later ledgers ------------------------------------------------------------------------------------------------------------------


def through_later(world: World, count: int = 3) -> dict[str, Any]:
    """A proof by votes for a later ledger."""
    first = header_of(world)
    while world.ledger.validated.index < first.index + count:
        world.ledger.close()
    headers = [world.ledger.closed(first.index + step).header for step in range(1, count + 1)]
    proof = with_votes(world, labelled(world.ledger.validators.validate(headers[-1])))
    return {**proof, "headers": [header.encode().hex().upper() for header in headers]}


def test_headers_lead_from_the_transaction_to_the_ledger_that_was_voted_for() -> None:
    world = World(max_members=1)
    world.queue.enqueue(intent(0))
    world.run()
    proof = through_later(world)
    report = check_proof(proof, [pin(world)])
    assert (report.level, [check.name for check in report.checks]) == (Level.QUORUM, [*NAMES[:5], "headers", *NAMES[5:]])
    assert report.about()["ledger_index"] == header_of(world).index
    assert report.not_after == receipt_of(world, 0)[0].proof["close_time"]
    for headers in (proof["headers"][1:], proof["headers"][::-1], [proof["headers"][0]] * 2):
        assert failed(check_proof({**proof, "headers": headers}, [pin(world)])) == ["headers"]
    assert failed(check_proof({**proof, "headers": proof["headers"][:2]}, [pin(world)])) == ["validations"]
    odd: list[Any] = [[], ["00"], [1], {}, ["00" * 118] * 10_001]
    for headers in odd:
        assert failed(check_proof({**proof, "headers": headers}, [pin(world)])) in (["form"], ["validations"])
    del proof["xpop"]["validation"]
    assert failed(check_proof(proof, [pin(world)])) == ["form"]


# -- form ---------------------------------------------------------------------------------------------------------------------------


def test_a_path_is_read_as_lists_and_as_a_tree_of_objects() -> None:
    world = World(max_members=1, drops=10**9)
    world.queue.enqueue(intent(0))
    world.run(between=lambda turn: [world.ledger.pay(seed_account(turn, number), 20_000_000) for number in range(40)])
    foreign = bare(world)
    nodes = LedgerProof.from_dict(foreign).path
    assert len(nodes) >= 2
    foreign["transaction"]["proof"] = as_object(foreign["transaction"]["proof"])
    assert LedgerProof.from_dict(foreign).path == nodes
    assert check_proof(foreign, [pin(world)]).level is Level.QUORUM
    single = bare(witnessed())
    single["transaction"]["proof"] = as_object(single["transaction"]["proof"])
    assert check_proof(single, [pin(witnessed())]).level is Level.QUORUM
    ours = {**document(world), "xpop": foreign}
    assert failed(check_proof(ours, [pin(world)])) == ["form"], "we write lists"


def seed_account(turn: int, number: int) -> str:
    return key_from_seed(seed_of(f"payee {turn} {number}")).address


def as_object(node: list[Any]) -> dict[str, Any]:
    def child(item: Any) -> dict[str, Any]:
        return {"hash": item, "key": "", "children": {}} if isinstance(item, str) else {"hash": "00" * 32, "key": "", **as_object(item)}

    return {"hash": "", "key": "", "children": {f"{place:X}": child(item) for place, item in enumerate(node) if item != "0" * 64}}


def test_a_path_with_two_levels_is_followed_nibble_by_nibble() -> None:
    leaves = {bytes([first]) + bytes(31): sha512_half(bytes([first])) for first in (0x10, 0x11, 0x20)}
    key = bytes([0x10]) + bytes(31)
    root, path = tree_path(leaves, key)
    assert (root, len(path)) == (hashing.tree_root(leaves), 2)
    assert path == [b"".join(node) for node in hashing.tree_path(leaves, key)]
    assert path_problem(root, key, path, leaves[key]) is None
    last = bytes([0x20]) + bytes(31)
    assert tree_path(leaves, last) == (root, path[:1])
    assert path_problem(root, last, path[:1], leaves[last]) is None
    other = bytes([0x11]) + bytes(31)
    assert path_problem(root, other, path, leaves[key]) == "the path does not end on the transaction with its metadata"
    assert path_problem(root, key, path[:1], leaves[key]) is not None
    assert path_problem(root, key, path[1:], leaves[key]) == "node 0 does not hash to the root"
    assert path_problem(root, key, [path[0], path[0]], leaves[key]) == "node 1 does not hash to what the node above says"
    assert path_problem(root, key, [], leaves[key]) == "a path has 1 to 64 nodes, not 0"
    assert path_problem(root, key, path * 33, leaves[key]) == "a path has 1 to 64 nodes, not 66"
    assert path_problem(root, key, [path[0][:-1]], leaves[key]) == "node 0 has not 16 children"


def test_hashes_are_those_of_the_ledger() -> None:
    """Mainnet ledger 15202439; trees over keys 10 00.., 11 00.., 20 00.. with SHA-512Half of a, b, c for leaves."""
    header = LedgerHeader(
        index=15202439,
        coins=99998831688050493,
        parent_hash=bytes.fromhex("12724A65B030C15A1573AA28B1BBB5DF3DA4589AA3623675A31CAE69B23B1C4E"),
        transaction_root=bytes.fromhex("325EACC5271322539EEEC2D6A5292471EF1B3E72AE7180533EFC3B8F0AD435C8"),
        state_root=bytes.fromhex("D9ABF622DA26EEEE48203085D4BC23B0F77DC6F8724AC33D975DA3CA492D2E44"),
        parent_close_time=492656460,
        close_time=492656470,
        resolution=10,
        flags=0,
    )
    assert header.hash().hex().upper() == "F4D865D83EB88C1A1911B9E90641919A1314F36E1B099F8E95FE3B7C77BE3349"
    assert LedgerHeader.from_bytes(header.to_bytes()) == header
    assert (header.closed_at.isoformat(), header.agreed) == ("2015-08-12T01:01:10+00:00", True)
    assert not replace(header, flags=1).agreed
    leaves = {bytes([first]) + bytes(31): sha512_half(letter) for first, letter in ((0x10, b"a"), (0x11, b"b"), (0x20, b"c"))}
    root, path = tree_path(leaves, bytes([0x10]) + bytes(31))
    assert (root.hex().upper(), len(path)) == ("7F24E0D51BF2C77C73A99486C04B740CAE66462B613B96CFF60064F5BB8162FE", 2)
    alone, path = tree_path({bytes([0x10]) + bytes(31): sha512_half(b"a")}, bytes([0x10]) + bytes(31))
    assert (alone.hex().upper(), len(path)) == ("30201C26A86372F3EAD89B5B11EAE20A9981C36B93BE804D22329258774EFCA3", 1)
    for size in (1, 192, 193, 12_480, 12_481, 918_744):
        assert transaction_leaf(b"x" * size, b"", bytes(32)) == sha512_half(b"SND\0" + encoded(b"x" * size) + b"\0" + bytes(32))
    with pytest.raises(ValueError, match="more than the ledger's format can hold"):
        transaction_leaf(b"x" * 918_745, b"", bytes(32))


def encoded(data: bytes) -> bytes:
    """Bytes behind their length, by the codec of xrpl-py."""
    serializer = BinarySerializer()
    serializer.write_length_encoded(Blob(data))
    return bytes(serializer)


NONSENSE: list[Any] = [None, True, 0, -1, 2**64, 1.5, "", "x", "00", [], [[]], {}, {"a": {}}, "0" * 70_000, ["0" * 64] * 16, [None] * 16]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in JSON data, and what is there."""
    yield path, value
    if isinstance(value, dict):
        for key, item in cast("dict[Any, Any]", value).items():
            yield from places(item, (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from places(item, (*path, index))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    fresh = copy.copy(value)
    fresh[path[0]] = replaced(value[path[0]], path[1:], new)
    return fresh


def test_nonsense_anywhere_in_a_proof_is_refused_by_a_check_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    world = witnessed()
    remembered(monkeypatch)
    for whole in (through_later(world), bare(world)):
        for path, there in places(whole):
            for nonsense in NONSENSE:
                if (type(nonsense), nonsense) == (type(there), there):
                    continue
                report = check_proof(replaced(whole, path, nonsense), [pin(world)])
                if report.level is not None:
                    assert "type" not in whole, path
                    assert (report.level, path[:2]) in ((Level.QUORUM, ("validation", "data")), (Level.QUORUM, ("transaction", "proof")))
                else:
                    assert failed(report), path


def test_what_is_too_long_or_too_deep_is_refused_before_it_is_decoded() -> None:
    world = witnessed()
    deep: Any = ["0" * 64] * 16
    for _ in range(64):
        deep = [deep, *["0" * 64] * 15]
    many = {f"n{number}": "00" for number in range(201)}
    proof = bare(world)
    oversized: list[tuple[tuple[str, ...], Any]] = [
        (("transaction", "proof"), deep),
        (("transaction", "proof"), []),
        (("transaction", "proof"), [[], [], *["0" * 64] * 14]),
        (("transaction", "proof"), {"children": {"G": {}}}),
        (("transaction", "proof"), {"children": {"1": 1}}),
        (
            ("transaction", "proof"),
            {"children": {"1": {"hash": "0" * 64, "children": {"1": 1}}, "2": {"hash": "0" * 64, "children": {"1": 1}}}},
        ),
        (("transaction", "blob"), "00" * 40_000),
        (("transaction", "meta"), "00" * 70_000),
        (("validation", "data"), many),
        (("validation", "data", next(iter(proof["validation"]["data"]))), "00" * 5_000),
    ]
    for path, value in oversized:
        assert failed(check_proof(replaced(proof, path, value), [pin(world)])) == ["form"], path
    others: list[Any] = [None, [], "x", {"type": "nexus.xrpl.proof/2"}, {"type": "nexus.xrpl.proof/1"}, {**document(world), "more": 1}]
    for odd in others:
        assert failed(check_proof(odd, [pin(world)])) == ["form"]
    assert failed(check_proof({**document(world), "lists": [1] * 8}, [pin(world)])) == ["form"]


# -- judging without knowing --------------------------------------------------------------------------------------------------------


def test_a_backend_that_is_not_known_is_a_gap_and_evidence_that_is_no_json_a_failure() -> None:
    world = witnessed()
    judge = WitnessJudge(policy(world))
    verdict = judge.judge(witness_proof(world, backend="carrier-pigeon"))
    assert (verdict.level, verdict.failed, len(verdict.gaps), verdict.outcome) == (None, [], 1, Outcome.INCOMPLETE)
    assert judge.testimony("xrpl", {"a": float("nan")}).checks[0].name == "form"
    assert judge.judge_evidence("xrpl", document(world)).outcome is Outcome.PASS
    assert judge.testimony("xrpl", document(world)) is judge.testimony("xrpl", document(world)), "judged once"
    assert {name: judge.testimony(name, None).level for name in ("tsa", "self")} == {"tsa": Level.SELF, "self": Level.SELF}
    proof = witness_proof(world)
    odd: list[Any] = [
        {**proof, "type": "nexus.witness/2"},
        {**proof, "receipt": {**proof["receipt"], "receipt_version": "9"}},
        {**proof, "intent": {**proof["intent"], "labels": {}}},
        {**proof, "receipt": {**proof["receipt"], "attempt": True}},
    ]
    assert [judge.judge(one).failed for one in odd] == [["form"]] * 4
    nothing = WitnessJudge(policy(world), {"xrpl": lambda _evidence, _trust: witness.Testimony(level=Level.SELF)})
    assert nothing.judge(witness_proof(world)).failed == ["receipt"]


def test_of_more_evidence_than_is_judged_the_rest_is_a_gap_whatever_the_first_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[object] = []
    real: Any = proof_check.judge_evidence

    def counted(evidence: object, trust: TrustPolicy) -> witness.Testimony:
        judged.append(evidence)
        return real(evidence, trust)

    monkeypatch.setattr(proof_check, "judge_evidence", counted)
    monkeypatch.setattr(witness, "_MOST_EVIDENCE", 2)
    world = witnessed()
    good = witness_proof(world)
    proofs = [good, *({**good, "evidence": {"number": number}} for number in range(3)), good]
    checks, gaps = judge_witnesses(policy(world), proofs, intent(0).binding_digest)
    assert [check.name for check in checks if not check.ok] == ["form_2"]
    assert [gap.what for gap in gaps] == ["evidence of witnesses beyond the first 100 pieces was not judged"]
    assert len(judged) == 2, "the first once, although it comes again"
    assert [check.name for check in checks if check.name.startswith("receipt")] == ["receipt_1", "receipt_5"]
    assert judge_witnesses(policy(world), proofs[:2], intent(0).binding_digest)[1] == []


def test_a_key_of_another_length_and_an_object_that_is_too_long_are_refused() -> None:
    assert not verify_payload("02" * 32, b"x", b"x")
    with pytest.raises(ProofRefused, match="more than 4096 bytes"):
        validators.Validation.from_bytes(bytes(5000))
    fields = decode(manifest(Validators().publisher, Validators().publisher_signing, 1).hex())
    del fields["Sequence"]
    with pytest.raises(ProofRefused, match="no Sequence"):
        validators.Manifest.from_bytes(bytes.fromhex(encode(fields)))


def test_lists_of_the_second_version_are_read_as_several_of_the_first() -> None:
    first, second = published(witnessed()), published(witnessed(), sequence=2)
    served = {
        "version": 2,
        "public_key": first["public_key"],
        "manifest": first["manifest"],
        "blobs_v2": [
            {"blob": first["blob"], "signature": first["signature"]},
            {"blob": second["blob"], "signature": second["signature"], "manifest": second["manifest"]},
        ],
    }
    assert [one.to_dict() for one in validators.published_lists(served)] == [first, second]
    assert [one.to_dict() for one in validators.published_lists({**first, "peers": []})] == [first]


@settings(max_examples=50)
@given(message=st.binary(max_size=40), seed=st.binary(min_size=1, max_size=4), spoil=st.integers(min_value=0, max_value=575))
def test_a_signature_is_good_where_xrpl_py_says_so_too_and_spoiled_by_every_bit(message: bytes, seed: bytes, spoil: int) -> None:
    key = validator_key(seed.hex())
    signature = bytearray(key.sign(message))
    assert verify_payload(key.hex, message, bytes(signature))
    assert is_valid_message(message, bytes(signature), key.hex)
    signature[spoil // 8 % len(signature)] ^= 1 << spoil % 8
    assert not verify_payload(key.hex, message, bytes(signature)), "xrpl-py takes some that are no DER"


@settings(max_examples=50)
@given(st.dictionaries(st.binary(min_size=2, max_size=2), st.binary(min_size=32, max_size=32), min_size=1, max_size=60))
def test_trees_are_those_of_the_test_ledger_which_xrpl_js_confirms(short: dict[bytes, bytes]) -> None:
    leaves = {key + bytes(30): leaf for key, leaf in short.items()}
    for key, leaf in leaves.items():
        root, path = tree_path(leaves, key)
        assert root == hashing.tree_root(leaves)
        assert path == [b"".join(node) for node in hashing.tree_path(leaves, key)]
        assert path_problem(root, key, path, leaf) is None
        assert path_problem(root, key, path, bytes(32)) is not None or leaf == bytes(32)
