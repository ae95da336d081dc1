"""Time-stamps and stamps of the local witness in case files: what they show to whom, and that no byte of them can be changed."""

import asyncio
import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from bytes_testing import Place, leaves
from evidence_testing import edited, reference_package
from tsa_testing import Holder, LocalAuthority, certified, openssl, pinned, served

from nexus_attest.attestation.errors import NotWitnessed
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.local_witness import SelfWitness
from nexus_attest.attestation.proving import witness_proofs
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.stamping import StampWitness
from nexus_attest.attestation.tsa import TimestampAuthority
from nexus_attest.attestation.witness import Level, WitnessJudge
from nexus_attest.attestation.xrpl.batch import BatchSettings
from nexus_attest.reader import knowledge_of
from nexus_attest.trust import Authority, TrustPolicy
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.case_file import CaseFile
from nexus_control.evidence import Layer, LayerName, Outcome, examine

PACKAGE = reference_package()
BINDING = PACKAGE["integrity"]["binding_digest"]
INTENT = AttestationIntent("nexus.audit_package", BINDING, env="prod")
OTHERS = [AttestationIntent("nexus.audit_package", f"sha256:{number:064x}") for number in range(999)]
NOW = BatchSettings(network="local", max_age=0)


@pytest.fixture(scope="module")
def root() -> Holder:
    return certified("Root", ca=True)


@pytest.fixture(scope="module")
def proof(root: Holder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The witness proof of one intent among a thousand, from a local authority."""
    openssl()
    local = LocalAuthority(tmp_path_factory.mktemp("tsa"), certified("Authority", root))
    with AttestationQueue() as queue:
        queue.enqueue_many([INTENT, *OTHERS])
        with served(local) as server:
            asyncio.run(StampWitness(queue, TimestampAuthority(server.url, pinned(root)), NOW).cycle())
        (found,) = witness_proofs(queue, "sha256:" + INTENT.intent_digest())
        return json.loads(json.dumps(found.to_dict()))


@pytest.fixture(scope="module")
def own() -> dict[str, Any]:
    """The proof of the local witness."""
    with AttestationQueue() as queue:
        queue.enqueue_many([INTENT, *OTHERS[:2]])
        asyncio.run(StampWitness(queue, SelfWitness(queue), NOW).cycle())
        (found,) = witness_proofs(queue, "sha256:" + INTENT.intent_digest())
        return json.loads(json.dumps(found.to_dict()))


def layer(trust: TrustPolicy | None, *proofs: dict[str, Any], package: dict[str, Any] = PACKAGE) -> Layer:
    """The witness layer of a case file."""
    case = json.dumps(CaseFile(package=package, witness=proofs).to_dict())
    return examine(case, knowledge_of(trust)).layer(LayerName.WITNESS)


def believing(*authorities: Authority) -> TrustPolicy:
    return TrustPolicy(authorities=authorities)


def failed(found: Layer) -> list[str]:
    return [check.name for check in found.checks if not check.ok]


def test_a_time_stamp_passes_the_witness_layer_and_says_who_and_when(proof: dict[str, Any], root: Holder) -> None:
    found = layer(believing(pinned(root)), proof)
    assert (found.outcome, failed(found), list(found.gaps)) == (Outcome.PASS, [], [])
    names = [check.name for check in found.checks]
    assert (names[0], names[1], names[-3:]) == ("form", "token", ["evidence_digest", "receipt", "subject"])
    told = next(check.detail for check in found.checks if check.name == "receipt")
    assert told == f"witnessed at level authority by local, not after {proof['receipt']['proof']['not_after']}"


def test_the_one_who_is_believed_may_be_any_of_several(proof: dict[str, Any], root: Holder) -> None:
    stranger = Authority("stranger", (certified("Root", ca=True).der,))
    verdict = WitnessJudge(believing(stranger, pinned(root))).judge(proof, binding_digest=BINDING)
    assert (verdict.level, verdict.by, verdict.gaps) == (Level.AUTHORITY, "local", ())
    assert verdict.about["batch"]["size"] == 1000


@pytest.mark.parametrize("kind", ["no policy at all", "no authority", "another root", "another policy"])
def test_a_time_stamp_of_nobody_who_is_believed_is_incomplete(proof: dict[str, Any], root: Holder, kind: str) -> None:
    trust = {
        "no policy at all": None,
        "no authority": TrustPolicy(),
        "another root": believing(pinned(certified("Root", ca=True))),
        "another policy": believing(pinned(root, policies=("1.2.3",))),
    }[kind]
    found = layer(trust, proof)
    assert (found.outcome, failed(found)) == (Outcome.INCOMPLETE, [])
    (gap,) = found.gaps
    assert gap.what.startswith("the time-stamp is of no authority that is believed")
    assert ("chain: no chain" in gap.what, "policy: " in gap.what) == (kind == "another root", kind == "another policy")


def test_without_the_extra_nothing_was_checked(proof: dict[str, Any], root: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    found = layer(believing(pinned(root)), proof)
    assert found.outcome is Outcome.INCOMPLETE
    assert found.gaps[0].needed == "time-stamps need rfc3161-client: pip install 'nexus-attest[tsa]'"


def test_a_time_stamp_for_another_package_fails(proof: dict[str, Any], root: Holder) -> None:
    other = edited(PACKAGE, "integrity.binding_digest", "sha256:" + "b" * 64)
    assert failed(layer(believing(pinned(root)), proof, package=other)) == ["subject"]


def test_a_receipt_without_its_time_stamp_is_somebodys_word(proof: dict[str, Any], root: Holder) -> None:
    bare = {name: value for name, value in proof.items() if name not in ("evidence", "receipt_digest")}
    found = layer(believing(pinned(root)), bare)
    assert (found.outcome, found.gaps[0].what) == (Outcome.INCOMPLETE, "that an authority gave a time-stamp is only said")
    others: dict[str, Any] = {"merkle.index": 999, "merkle.size": 0, "merkle": [], "type": "nexus.attest.batch/1"}
    for place, value in others.items():
        assert failed(layer(believing(pinned(root)), edited(bare, f"receipt.proof.{place}", value))) == ["receipt"]
    assert failed(layer(believing(pinned(root)), edited(bare, "receipt.error", {"code": "REJECTED"}))) == ["receipt"]


def changes(value: Any) -> Iterator[Any]:
    """Other values of the same kind, by one bit or one."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, str(value))
    elif isinstance(value, str):
        for place in range(len(value)):
            yield value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
        yield from (value[:-1], value + "0", None)
    else:
        yield None


FREE = {("receipt", "created_at"), ("receipt", "attempt"), ("receipt", "proof", "by")}
"""Words of whoever wrote the receipt: its own time and number, and by which name it knew the witness. Nothing is read from them; that they
are damaged is noticed by the digest of the receipt, which whoever changes them can make anew."""


def _members(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where the members of all objects stand."""
    if isinstance(value, dict):
        for key, inside in cast("dict[str, Any]", value).items():
            yield (*place, key)
            yield from _members(inside, (*place, key))


def _every_change(proof: dict[str, Any], judge: Callable[[dict[str, Any]], bool]) -> None:
    """Values that are other ones, members that are gone or have other names; first what nothing but the digest of the receipt covers."""
    for place in FREE:
        document = copy.deepcopy(proof)
        holder = document["receipt"] if len(place) == 2 else document["receipt"]["proof"]
        holder[place[-1]] = 7 if place[-1] == "attempt" else "2020-01-01T00:00:00Z"
        assert not judge(document), place
    proof = {name: value for name, value in proof.items() if name != "receipt_digest"}
    assert judge(proof)
    members = list(_members(proof))
    assert len(members) > 20
    for place in members:
        document = copy.deepcopy(proof)
        renamed: Any = document
        for key in place[:-1]:
            renamed = renamed[key]
        name = str(place[-1])
        value = renamed.pop(name)
        assert not judge(document) or place in {("evidence",), ("receipt", "proof", "by")}, place
        renamed[name[:-1] + chr(ord(name[-1]) ^ 1)] = value
        assert not judge(document), place
    values = [place for place in leaves(proof) if place not in FREE]
    assert len(values) > 15
    for place in values:
        document = copy.deepcopy(proof)
        holder: Any = document
        for key in place[:-1]:
            holder = holder[key]
        for changed in changes(holder[place[-1]]):
            kept, holder[place[-1]] = holder[place[-1]], changed
            assert not judge(document), f"{place}: {changed!r:.100}"
            holder[place[-1]] = kept


def test_every_byte_of_a_time_stamp_proof_is_covered(proof: dict[str, Any], root: Holder) -> None:
    trust = believing(pinned(root))
    judge = WitnessJudge(trust)
    assert judge.judge(proof, binding_digest=BINDING).level is Level.AUTHORITY
    _every_change(proof, lambda document: judge.judge(document, binding_digest=BINDING).level is not None)


def test_every_byte_of_the_local_witness_is_covered_by_the_digest_in_the_receipt(own: dict[str, Any]) -> None:
    judge = WitnessJudge(TrustPolicy())
    assert judge.judge(own, binding_digest=BINDING).level is Level.SELF
    _every_change(own, lambda document: judge.judge(document, binding_digest=BINDING).level is not None)


def test_the_local_witness_is_never_more_than_incomplete(own: dict[str, Any], root: Holder) -> None:
    for trust in (None, TrustPolicy(), believing(pinned(root))):
        found = layer(trust, own)
        assert (found.outcome, failed(found)) == (Outcome.INCOMPLETE, [])
        assert [gap.what for gap in found.gaps] == ["the only witness is whoever made this file, which calls itself `self`"]
    bare = {name: value for name, value in own.items() if name != "evidence"}
    assert layer(None, bare).outcome is Outcome.INCOMPLETE


def test_beside_a_time_stamp_the_local_witness_is_only_told(proof: dict[str, Any], own: dict[str, Any], root: Holder) -> None:
    found = layer(believing(pinned(root)), own, proof)
    assert (found.outcome, list(found.gaps)) == (Outcome.PASS, [])


def test_the_local_witness_does_not_pass_for_another(own: dict[str, Any], proof: dict[str, Any], root: Holder) -> None:
    trust = believing(pinned(root))
    for backend in ("tsa", "xrpl", "other"):
        assert layer(trust, edited(own, "receipt.backend", backend)).outcome is not Outcome.PASS
    swapped = {**own, "evidence": proof["evidence"]}
    assert layer(trust, swapped).outcome is not Outcome.PASS
    assert layer(trust, edited(own, "receipt.proof.level", "authority")).outcome is Outcome.FAIL


def test_an_old_time_stamp_is_not_taken_for_a_new_batch(proof: dict[str, Any], root: Holder) -> None:
    class Replaying(TimestampAuthority):
        """Gives an old time-stamp for whatever it is asked."""

        async def witness(self, statement: Any) -> bytes:
            del statement
            return canonical_json_bytes(proof["evidence"])

    with AttestationQueue() as queue:
        queue.enqueue_many([INTENT, OTHERS[5]])
        progress = asyncio.run(StampWitness(queue, Replaying("http://127.0.0.1/", pinned(root)), NOW).cycle())
    told = "tsa:local: what it gave is no evidence: statement: the evidence is about something else"
    assert progress.stopped == told


def test_two_authorities_are_two_witnesses(root: Holder, tmp_path: Path) -> None:
    openssl()
    local = LocalAuthority(tmp_path, certified("Authority", root))
    with AttestationQueue() as queue, served(local) as server:
        queue.enqueue(INTENT)
        for name, beside in (("one", False), ("two", True)):
            authority = TimestampAuthority(server.url, Authority(name, (root.der,)))
            if beside:  # as if a ledger had confirmed the batch
                with queue.storage.database.transaction() as connection:
                    connection.execute("INSERT INTO witness_slots (batch_id, account, seq, state) VALUES (1, 'r', 1, 'CONFIRMED')")
            asyncio.run(StampWitness(queue, authority, NOW, beside=beside).cycle())
        found = witness_proofs(queue, "sha256:" + INTENT.intent_digest())
    assert [proof.receipt.proof["by"] for proof in found] == ["one", "two"]
    documents = [json.loads(json.dumps(proof.to_dict())) for proof in found]
    assert layer(believing(pinned(root)), *documents).outcome is Outcome.PASS


def test_intents_without_stamps_have_no_proofs() -> None:
    with AttestationQueue() as queue:
        queue.enqueue(INTENT)
        for digest in (INTENT.intent_digest(), "0" * 64):
            with pytest.raises(NotWitnessed):
                witness_proofs(queue, f"sha256:{digest}")
