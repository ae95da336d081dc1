"""Capturing proofs: what is recorded of validators' votes, and what is made of it when a transaction was validated."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from proof_testing import Capture, pin, policy
from witness_testing import World, intent

from nexus_attest.attestation.batch_tree import BatchTree
from nexus_attest.attestation.errors import LedgerUnavailable
from nexus_attest.attestation.proving import proven_once
from nexus_attest.attestation.witness import Level, WitnessJudge
from nexus_attest.attestation.xrpl.batch import Proof
from nexus_attest.attestation.xrpl.batch_receipt import Anchor
from nexus_attest.attestation.xrpl.collector import ProofCollector
from nexus_attest.attestation.xrpl.proof_check import check_proof
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.recorder import ValidationRecorder
from nexus_attest.attestation.xrpl.transport import fetch
from nexus_attest.testledger import Validators, serving, since_2000


def level_of(capture: Capture, proof: dict[str, Any]) -> Level | None:
    verdict = WitnessJudge(policy(capture.world)).judge(proof)
    assert verdict.failed == []
    return verdict.level


def test_a_batch_is_witnessed_with_a_proof_that_needs_no_server() -> None:
    capture = Capture()
    for proof in capture.run():
        assert proof["receipt"]["proof"]["level"] == "quorum"
        assert level_of(capture, proof) is Level.QUORUM
    (stored,) = capture.store.proofs_of(capture.world.attempts()[0].hash)
    assert (stored.level, stored.ledger_index) == ("quorum", capture.world.attempts()[0].ledger)
    assert "headers" not in stored.document


def test_without_recorded_votes_the_proof_ends_at_the_tree_and_says_so() -> None:
    capture = Capture(record=False)
    for proof in capture.run():
        assert proof["receipt"]["proof"]["level"] == "tree"
        assert level_of(capture, proof) is Level.TREE


def test_a_later_ledger_proves_an_earlier_one_for_which_votes_are_missing() -> None:
    capture = Capture(record=False)
    capture.run(1)
    capture.recording = True
    for _ in range(3):
        capture.world.ledger.close()
    made = asyncio.run(capture.collector().collect(capture.anchor()))
    assert made is not None
    proof, level = made
    assert level is Level.QUORUM
    assert len(proof.headers) == capture.world.ledger.validated.index - 2 - proof.header.index
    report = check_proof(json.loads(json.dumps(proof.to_dict())), [pin(capture.world)])
    assert (report.level, report.gaps) == (Level.QUORUM, ())
    assert "headers" in [check.name for check in report.checks]
    earlier = capture.proof(0)
    assert earlier["receipt"]["proof"]["level"] == "tree"
    assert level_of(capture, {**earlier, "evidence": proof.to_dict()}) is Level.QUORUM, "better evidence beside a receipt that stays"
    nearer = ProofCollector(capture.store, capture.nodes, capture.keys, reach=len(proof.headers) - 1, clock=capture.world.clock)
    short = asyncio.run(nearer.collect(capture.anchor()))
    assert short is not None
    assert short[1] is Level.TREE


def test_too_few_votes_make_no_quorum_but_the_next_ledger_with_enough_does() -> None:
    capture = Capture()
    capture.world.ledger.silent = {0, 1}
    capture.run(1)
    assert capture.proof(0)["receipt"]["proof"]["level"] == "tree"
    capture.world.ledger.silent = {0}
    capture.world.ledger.close()
    made = asyncio.run(capture.collector().collect(capture.anchor()))
    assert made is not None
    assert (made[1], len(made[0].votes)) == (Level.QUORUM, 4)


def test_a_validator_that_changed_its_key_counts_with_its_new_manifest() -> None:
    capture = Capture()
    capture.recorder._nodes = capture.nodes  # pyright: ignore[reportPrivateUsage]
    for number in (1, 3):
        capture.world.ledger.validators.members[number].rotate()
    capture.world.ledger.close()
    asyncio.run(capture.recorder.learn_manifests())
    (proof,) = capture.run(1)
    assert level_of(capture, proof) is Level.QUORUM
    assert len(proof["evidence"]["manifests"]) == 2


def test_what_is_no_vote_of_a_listed_validator_is_not_recorded() -> None:
    capture = Capture(record=False)
    closed = capture.world.ledger.close()
    votes = capture.world.ledger.validators.validate(closed.header)
    good = votes[0].message(0)
    spoiled = bytearray(votes[1].data)
    spoiled[-1] ^= 1
    stranger = Validators("another network").validate(closed.header)[0].message(0)
    other: list[Any] = [
        [],
        "x",
        {"type": "ledgerClosed"},
        {**good, "data": None},
        {**good, "data": "zz"},
        {**good, "data": "00" * 10_000},
        {**good, "data": spoiled.hex()},
        stranger,
    ]
    messages = ["<html>", "[" * 100_000, *map(json.dumps, other), json.dumps(good), json.dumps(good)]
    capture.tell(messages)
    assert capture.store.votes(closed.index, closed.hash) == [votes[0].data]
    assert capture.recorder.recorded["ws://server"] == 2


def test_lists_of_others_and_false_ones_are_not_kept() -> None:
    capture = Capture()
    assert len(capture.store.lists()) == 1
    served = capture.world.ledger.validators.published(since_2000(capture.world.ledger.clock()))
    wrong: list[tuple[object, str]] = [
        ({**served, "signature": "00" * 64}, "ProofRefused: a validator list is not signed by its publisher"),
        ({"blobs_v2": [1]}, "ProofRefused: blobs_v2 must be an array of objects"),
        ([], "ProofRefused: a validator list must be an object"),
    ]
    for document, problem in wrong:

        async def get(_url: str, _limit: int, document: Any = document) -> bytes:
            return json.dumps(document).encode()

        recorder = ValidationRecorder(capture.store, (), lists=["u"], publisher_keys=capture.keys, clock=capture.world.clock, get=get)
        asyncio.run(recorder.refresh_lists())
        assert recorder.problems["u"].startswith(problem)
    assert len(capture.store.lists()) == 1


def spoil(result: dict[str, Any], how: str) -> None:
    ledger = result["ledger"]
    match how:
        case "not validated":
            result["validated"] = False
        case "no header":
            ledger["ledger_data"] = "00"
        case "no such transaction":
            ledger["transactions"] = []
        case "another result":
            ledger["transactions"][0]["meta_blob"] = "00"
        case "an entry that is none":
            ledger["transactions"] = [[]]
        case "no list":
            ledger["transactions"] = {}
        case _:
            result["ledger"] = []


@pytest.mark.parametrize(
    "how", ["not validated", "no header", "no such transaction", "another result", "an entry that is none", "no list", "no ledger"]
)
def test_a_server_that_lies_about_the_ledger_is_not_believed(how: str) -> None:
    capture = Capture()
    capture.run(1)

    def alter(method: str, result: dict[str, Any]) -> None:
        if method == "ledger" and "transactions" in result.get("ledger", {}):
            spoil(result, how)

    capture.world.wire.alter = alter
    with pytest.raises(LedgerUnavailable):
        asyncio.run(capture.collector(tries=2)(capture.anchor()))


def test_a_recorder_hears_servers_over_their_websockets_and_gets_the_lists() -> None:
    world = World()
    store = ProofStore(world.queue.storage)

    async def record(urls: Any) -> ValidationRecorder:
        stop = asyncio.Event()
        recorder = ValidationRecorder(
            store, [urls.ws, "ws://127.0.0.1:1/"], lists=[urls.http, "http://127.0.0.1:1/"], clock=world.clock, get=fetch
        )
        running = asyncio.create_task(recorder.run(stop))
        for _ in range(40):
            world.ledger.close()
            await asyncio.sleep(0.3)  # longer than the silence after which votes are stored
            if recorder.recorded[urls.ws] >= 10:
                break
        stop.set()
        await running
        return recorder

    with serving(world.nodes[0]) as urls:
        recorder = asyncio.run(record(urls))
    assert recorder.recorded[urls.ws] >= 10
    assert set(recorder.problems) == {"ws://127.0.0.1:1/", "http://127.0.0.1:1/"}
    assert len(store.lists()) == 1
    assert [recording.url for recording in store.recordings()] == [urls.ws]
    counts = store.counts(0, 2**40, least=5)
    assert counts
    assert store.drop_votes(world.clock().timestamp() + 1) == recorder.recorded[urls.ws]
    assert store.counts(0, 2**40, least=1) == []


def test_the_tree_of_a_batch_is_what_the_receipts_are_of() -> None:
    capture = Capture()
    proofs = capture.run(3)
    root = BatchTree("sha256:" + intent(number).intent_digest() for number in range(3)).statement.root
    assert {proof["receipt"]["evidence_digests"]["xrpl.batch.root"] for proof in proofs} == {"sha256:" + root.hex()}


def test_what_is_proven_is_not_proven_anew() -> None:
    capture = Capture()
    (proof,) = capture.run(1)
    asked: list[str] = []

    async def another(anchor: Anchor) -> Proof:
        asked.append(anchor.tx_hash)
        return Proof("sha256:" + "0" * 64, "tree")

    prove, anchor = proven_once(capture.store, another), capture.anchor()

    async def both() -> list[Proof | None]:
        return [await prove(anchor), await prove(replace(anchor, tx_hash="00" * 32))]

    known = Proof(proof["receipt"]["evidence_digests"]["xrpl.xpop"], "quorum")
    assert asyncio.run(both()) == [known, Proof("sha256:" + "0" * 64, "tree")]
    assert asked == ["00" * 32]
