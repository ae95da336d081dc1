"""Capturing proofs: what is recorded of validators' votes, and what is made of it when a transaction was validated."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from proof_testing import LISTS, Capture, pin, policy
from witness_testing import World, intent

from nexus_attest.attestation.batch_tree import BatchTree
from nexus_attest.attestation.errors import InvalidReceipt, LedgerUnavailable, NotWitnessed
from nexus_attest.attestation.proving import proven_once, raise_proof, witness_proofs
from nexus_attest.attestation.witness import Level, WitnessJudge
from nexus_attest.attestation.xrpl import recorder
from nexus_attest.attestation.xrpl.batch import Proof
from nexus_attest.attestation.xrpl.batch_receipt import Anchor
from nexus_attest.attestation.xrpl.collector import ProofCollector
from nexus_attest.attestation.xrpl.ledger_header import LedgerHeader
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
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
        (Validators("another publisher").published(0), "ProofRefused: a list of "),
    ]
    for document, problem in wrong:

        async def get(_url: str, _limit: int, document: Any = document) -> bytes:
            return json.dumps(document).encode()

        reader = ValidationRecorder(capture.store, (), lists=["u"], publisher_keys=capture.keys, clock=capture.world.clock, get=get)
        asyncio.run(reader.refresh_lists())
        assert reader.problems["u"].startswith(problem)
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
        hearing = ValidationRecorder(
            store, [urls.ws, "ws://127.0.0.1:1/"], lists=[urls.http, "http://127.0.0.1:1/"], clock=world.clock, get=fetch
        )
        running = asyncio.create_task(hearing.run(stop))
        for _ in range(40):
            world.ledger.close()
            await asyncio.sleep(0.3)  # longer than the silence after which votes are stored
            if hearing.recorded[urls.ws] >= 10:
                break
        stop.set()
        await running
        return hearing

    with serving(world.nodes[0]) as urls:
        heard = asyncio.run(record(urls))
    assert heard.recorded[urls.ws] >= 10
    assert set(heard.problems) == {"ws://127.0.0.1:1/", "http://127.0.0.1:1/"}
    assert len(store.lists()) == 1
    assert [recording.url for recording in store.recordings()] == [urls.ws]
    counts = store.counts(0, 2**40, least=5)
    assert counts
    assert store.drop_votes(world.clock().timestamp() + 1) == heard.recorded[urls.ws]
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


def test_a_server_with_a_ledger_of_its_own_gets_no_further_than_the_tree() -> None:
    capture = Capture()
    capture.run(1)
    _, entry = capture.world.ledger.find(capture.anchor().tx_hash) or pytest.fail("not witnessed")
    lie, _ = capture.world.ledger.invent(entry.transaction)

    def alter(method: str, result: dict[str, Any]) -> None:
        if method == "ledger" and "transactions" in result.get("ledger", {}):
            (only,) = lie.entries
            shown = {"tx_blob": only.transaction.blob.hex(), "meta_blob": only.meta_blob.hex(), "hash": only.transaction.hash}
            result["ledger"] = {"ledger_data": lie.header.encode().hex(), "closed": True, "transactions": [shown]}

    capture.world.wire.alter = alter
    made = asyncio.run(capture.collector().collect(replace(capture.anchor(), ledger_index=lie.index, ledger_hash=None)))
    assert made is not None
    assert made[1] is Level.TREE, "everything hashes, and nobody voted for it"


def test_one_server_of_three_that_shows_another_header_gets_into_no_proof() -> None:
    """The first one dates the ledger back by a year; everything that it shows hashes up to that header."""
    capture = Capture(record=False, nodes=3)
    wire, honest = capture.world.wire, capture.world.wire.post_json
    capture.nodes = LedgerNodes([LedgerNode(f"http://node{n}", wire) for n in range(3)], clock=capture.world.clock, jitter=lambda: 0.5)
    shown: list[str] = []

    async def lying(url: str, payload: dict[str, Any]) -> Any:
        answer = await honest(url, payload)
        ledger = answer["result"].get("ledger", {})
        if "transactions" in ledger:
            shown.append(url)
            if url == "http://node0":
                header = LedgerHeader.from_bytes(bytes.fromhex(ledger["ledger_data"]))
                ledger["ledger_data"] = replace(header, close_time=header.close_time - 86400 * 365).to_bytes().hex()
        return answer

    wire.post_json = lying
    (proof,) = capture.run(1)
    assert level_of(capture, proof) is Level.TREE
    assert shown[:2] == ["http://node0", "http://node1"]
    (receipt,) = capture.world.confirmed(intent(0))
    capture.world.clock.advance(60)
    capture.nodes = LedgerNodes([LedgerNode("http://node0", wire)], clock=capture.world.clock)
    with pytest.raises(LedgerUnavailable, match="no server shows"):
        asyncio.run(raise_proof(capture.collector(), receipt))
    assert len(capture.store.proofs_of(receipt.proof["tx_hash"])) == 1


def test_a_proof_is_raised_later_from_the_receipt_alone() -> None:
    capture = Capture(record=False)
    capture.run(1)
    capture.recording = True
    capture.world.ledger.close()
    (receipt,) = capture.world.confirmed(intent(0))
    assert asyncio.run(raise_proof(capture.collector(), receipt)) is not None
    (best,) = witness_proofs(capture.world.queue, receipt.intent_digest)
    assert best.receipt.proof["level"] == "tree"
    assert level_of(capture, json.loads(json.dumps(best.to_dict()))) is Level.QUORUM
    with pytest.raises(InvalidReceipt, match="does not say where"):
        asyncio.run(raise_proof(capture.collector(), replace(receipt, proof={"tx_hash": 1})))
    with pytest.raises(NotWitnessed):
        witness_proofs(capture.world.queue, "sha256:" + "0" * 64)


def test_who_matters_is_bounded_while_nobody_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_MOST_VOTES_PER_LEDGER", 3)
    monkeypatch.setattr(recorder, "_MOST_LEDGERS", 1)
    capture = Capture(record=False)
    nobody = recorder.ValidationRecorder(capture.store, (), clock=capture.world.clock)
    stranger = Validators("another network", 4)
    for closed in (capture.world.ledger.close(), capture.world.ledger.close()):
        votes = stranger.validate(closed.header)
        assert [nobody.vote_in(json.dumps(vote.message(0))) is not None for vote in votes] == [True, True, True, False]
    claimed = capture.world.ledger.validators.members[0].master.node
    liar = json.dumps({**stranger.validate(capture.world.ledger.close().header)[0].message(0), "master_key": claimed})
    assert capture.recorder.vote_in(liar) is not None, "perhaps with a new key"
    asyncio.run(capture.recorder.learn_manifests())
    assert capture.recorder.vote_in(liar) is None, "no server knows a manifest for it"


def test_lists_are_fetched_again_and_old_votes_forgotten_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_KEEP_UP_SECONDS", 0.0)
    capture = Capture()
    capture.world.ledger.close()
    fetched: list[str] = []

    async def get(url: str, limit: int) -> bytes:
        fetched.append(url)
        return await capture.published(LISTS, limit)

    async def run() -> None:
        stop = asyncio.Event()
        keeper = recorder.ValidationRecorder(
            capture.store, (), lists=[LISTS], clock=capture.world.clock, list_hours=2, keep_hours=1, get=get
        )
        turns, learn = 0, keeper.learn_manifests

        async def counted() -> None:
            nonlocal turns
            turns += 1
            await learn()

        async def whole_turn() -> None:
            async with asyncio.timeout(60):
                begun = turns
                while turns < begun + 2:
                    await asyncio.sleep(0.001)

        monkeypatch.setattr(keeper, "learn_manifests", counted)
        running = asyncio.create_task(keeper.run(stop))
        await whole_turn()
        assert len(fetched) == 1
        assert capture.store.counts(0, 2**40, least=1) != []
        capture.world.clock.advance(3 * 3600)
        await whole_turn()
        stop.set()
        await running

    asyncio.run(run())
    assert len(fetched) == 2
    assert capture.store.counts(0, 2**40, least=1) == []
    assert capture.store.recordings() == []


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "xn--ü", "xn--a.example", "☃.example"])
def test_a_host_that_cannot_exist_is_told_and_does_no_harm_to_the_others(host: str) -> None:
    capture = Capture(record=False)
    urls = (f"ws://{host}/", f"http://{host}/")

    async def get(url: str, limit: int) -> bytes:
        return await (capture.published(url, limit) if url == LISTS else fetch(url, limit))

    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(listening.run(stop))
        async with asyncio.timeout(60):
            while not listening.problems.keys() >= set(urls):
                assert not running.done(), running.exception()
                await asyncio.sleep(0.01)
        stop.set()
        await running

    listening = recorder.ValidationRecorder(capture.store, urls[:1], lists=[urls[1], LISTS], clock=capture.world.clock, get=get)
    asyncio.run(run())
    assert listening.problems.keys() == set(urls)


def test_a_stream_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_QUIET_SECONDS", 0.01)
    monkeypatch.setattr(recorder, "_DEAD_SECONDS", 0.03)
    capture = Capture(record=False)

    async def receive() -> str:
        await asyncio.sleep(60)
        return ""

    with pytest.raises(TimeoutError, match="nothing was heard"):
        asyncio.run(capture.recorder.hear("ws://server", receive))
