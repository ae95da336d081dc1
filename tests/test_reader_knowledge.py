"""What a reader with a trust policy finds in a case file: attestations, seals, and how often signatures are checked."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from evidence_testing import vector
from forging import events_of, rebuilt

from nexus_attest import ed25519
from nexus_attest.keys import LocalKey
from nexus_attest.reader import knowledge_of
from nexus_attest.signer import sign_statement
from nexus_attest.trust import AttestorKey, PublicKey, TrustedActor, TrustPolicy
from nexus_control.bundle import DecisionBundle
from nexus_control.bundle_checks import replay_bundle
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.case_file import CaseFile
from nexus_control.events import Actor
from nexus_control.evidence import EvidenceReport, Layer, LayerName, Outcome, examine
from nexus_control.identity import Statement, pae
from nexus_control.in_toto import PAYLOAD_TYPE, statement_payload
from nexus_control.integrity import prefixed

BOT, OTHER = LocalKey(b"b" * 32), LocalKey(b"o" * 32)
SIGNED_AT = datetime(2026, 6, 1, tzinfo=UTC)
PACKAGE = vector("router-audit-package-embedded.json")


def policy(*keys: PublicKey, name: str = "bot", **more: Any) -> TrustPolicy:
    return TrustPolicy(attestors=tuple(AttestorKey(name, key) for key in keys or (public(BOT),)), **more)


def public(key: LocalKey, key_id: str = "k1", **limits: datetime) -> PublicKey:
    return PublicKey(key_id=key_id, public_key=key.public_key, **limits)


def attestation(key: LocalKey = BOT, **changes: Any) -> dict[str, Any]:
    """A signed attestation about the package; what is changed is signed too."""
    payload: dict[str, Any] = {
        "attestation_version": "0.7",
        "binding_digest": PACKAGE["integrity"]["binding_digest"],
        "claims": ["reviewed", "built"],
        "attestor": {"id": "bot", "key_id": "k1"},
        "signed_at": SIGNED_AT.isoformat(),
        **changes,
    }
    claims: Any = payload["claims"]
    message: dict[str, Any] = {**payload, "claims": sorted(claims, key=str)}
    try:
        signature = key.sign(canonical_json_bytes(message)).hex()
    except TypeError:
        signature = "00" * 64
    return {"payload": payload, "signature": signature}


def signatures(trust: TrustPolicy | None, *attestations: dict[str, Any]) -> Layer:
    case = CaseFile(package=PACKAGE, attestations=attestations)
    knowledge = knowledge_of(trust)
    return examine(json.dumps(case.to_dict()), knowledge).layer(LayerName.SIGNATURES)


def told(layer: Layer) -> list[tuple[str, bool]]:
    return [(check.name, check.ok) for check in layer.checks if check.name.startswith(("attestation", "envelope"))]


def test_an_attestation_by_a_trusted_key_passes_and_says_what_it_claims() -> None:
    layer = signatures(policy(), attestation())
    assert told(layer) == [("attestation", True)]
    assert layer.checks[-1].detail == "bot attests: reviewed, built"


def test_several_attestations_are_judged_one_by_one() -> None:
    layer = signatures(policy(), attestation(), attestation(OTHER), attestation(attestor={"id": "bot", "key_id": "k2"}))
    assert told(layer) == [("attestation_1", True), ("attestation_2", False)]
    assert any(gap.what.startswith("attestation_3 is signed by nobody") for gap in layer.gaps)


def test_without_a_trust_policy_attestations_are_not_checked() -> None:
    layer = signatures(None, attestation())
    assert told(layer) == []
    assert any(gap.what == "the attestations were not checked" for gap in layer.gaps)
    assert layer.outcome is Outcome.INCOMPLETE


@pytest.mark.parametrize(
    "changes",
    [
        {"attestation_version": "0.8"},
        {"binding_digest": "sha256:" + "0" * 64},
        {"claims": []},
        {"claims": ["x", 1]},
        {"signed_at": "soon"},
        {"signed_at": "2025-01-01T00:00:00+00:00"},
        {"signed_at": "2027-01-01T00:00:00+00:00"},
    ],
)
def test_an_attestation_that_is_about_something_else_or_not_in_time_fails(changes: dict[str, Any]) -> None:
    trust = policy(public(BOT, not_before=SIGNED_AT - timedelta(days=1), not_after=SIGNED_AT + timedelta(days=1)))
    assert told(signatures(trust, attestation())) == [("attestation", True)]
    assert told(signatures(trust, attestation(**changes))) == [("attestation", False)]


def test_a_signature_is_128_hex_digits_and_nothing_else() -> None:
    made = attestation()
    text: str = made["signature"]
    for spelled, good in ((text, True), (text + " ", False), (f"{text[:64]} {text[64:]}", False), (text[:-2], False)):
        assert told(signatures(policy(), {**made, "signature": spelled})) == [("attestation", good)]


def test_what_an_attestation_says_besides_what_is_signed_fails_by_name() -> None:
    """A reader would take it for signed; what stands under `meta` says by its place that it is not."""
    made: dict[str, Any] = {**attestation(), "attestation_id": "att_1", "meta": {"role": "auditor"}}
    assert told(signatures(policy(), made)) == [("attestation", True)]
    payload, added = made["payload"], {"approved": True}
    for where, changed in {
        "attestation": {**made, **added},
        "attestation.payload": {**made, "payload": {**payload, **added}},
        "attestation.payload.attestor": {**made, "payload": {**payload, "attestor": {**payload["attestor"], **added}}},
    }.items():
        layer = signatures(policy(), changed)
        assert told(layer) == [("attestation", False)]
        assert f"{where} has a member 'approved', which the format does not have" in str(layer.checks[-1].detail), layer.checks[-1]
    assert told(signatures(policy(), attestation(approved=True))) == [("attestation", False)]


def test_an_attestation_signed_after_its_key_was_retired_fails() -> None:
    assert told(signatures(policy(public(BOT, retired_at=SIGNED_AT)), attestation())) == [("attestation", False)]


def test_every_change_of_a_signed_attestation_fails_or_makes_it_unknown() -> None:
    good = attestation()
    for name in good["payload"]:
        changed = {**good, "payload": {**good["payload"], name: "x"}}
        assert ("attestation", True) not in told(signatures(policy(), changed)), name
        missing = {**good, "payload": {key: value for key, value in good["payload"].items() if key != name}}
        assert ("attestation", True) not in told(signatures(policy(), missing)), name
    for signature in ("", "zz", "00" * 63, "00" * 64, None, 1):
        assert told(signatures(policy(), {**good, "signature": signature})) == [("attestation", False)]
    shapes: list[dict[str, Any]] = [{}, {"payload": None}, {"payload": {"attestor": "bot"}}, {"payload": []}]
    for nonsense in shapes:
        assert told(signatures(policy(), nonsense)) == []


# -- envelopes


def sealed(*signers: tuple[str, LocalKey]) -> dict[str, Any]:
    payload = statement_payload(CaseFile(package=PACKAGE))
    made = [{"keyid": key_id, "sig": base64.b64encode(key.sign(pae(PAYLOAD_TYPE, payload))).decode()} for key_id, key in signers]
    return {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": made}


def seal_layer(trust: TrustPolicy, *signers: tuple[str, LocalKey]) -> Layer:
    return examine(sealed(*signers), knowledge_of(trust)).layer(LayerName.SIGNATURES)


def test_a_seal_of_one_of_two_attestors_with_the_same_key_id_passes() -> None:
    trust = replace(policy(), attestors=(AttestorKey("other", public(OTHER)), AttestorKey("bot", public(BOT))))
    assert told(seal_layer(trust, ("k1", BOT))) == [("envelope", True)]


def test_a_false_seal_fails_beside_a_true_one() -> None:
    assert told(seal_layer(policy(), ("k1", BOT), ("k1", OTHER))) == [("envelope", False)]
    assert told(seal_layer(policy(), ("k1", OTHER))) == [("envelope", False)]
    assert told(seal_layer(policy(), ("unknown", OTHER))) == []


@pytest.mark.parametrize("key", [public(BOT, not_after=SIGNED_AT), public(BOT, retired_at=SIGNED_AT)])
def test_nobody_knows_when_an_envelope_was_signed_with_a_key_that_has_an_end(key: PublicKey) -> None:
    layer = seal_layer(policy(key), ("k1", BOT))
    assert told(layer) == [("envelope", True)]
    assert any(gap.what.startswith("whether the key of bot was still valid") for gap in layer.gaps)


def test_an_envelope_tells_the_execution_and_the_binding_digest_of_the_case_in_it() -> None:
    report = examine(sealed(("k1", BOT)), knowledge_of(policy()))
    assert report.kind == "sealed_case"
    assert report.layer(LayerName.EXECUTION).outcome is Outcome.PASS
    assert report.story is not None
    assert report.story.binding_digest == "sha256:d4c9a1ff3aec8defaae549951ef260fadceefaec0471acb8b182a568f8f1854a"


# -- how often


def signed_package() -> tuple[dict[str, Any], TrustPolicy]:
    """The genuine package with bob's approval signed, and a policy that knows bob."""
    package = json.loads(json.dumps(PACKAGE))
    events, key = events_of(package), LocalKey(b"k" * 32)
    name = package["control_bundle"]["decision"]["decision_id"]
    decision = replay_bundle(name, DecisionBundle.from_dict(package["control_bundle"]).events[:2])
    bob = Actor(type="human", id="bob")
    said = Statement(
        action="approve",
        decision_id=name,
        action_digest=prefixed(decision.action_digest),
        actor=bob,
        signed_at="2026-11-21T01:50:01+00:00",
    )
    events[2]["payload"] = {"expires_at": None, "assurance": "signed", "signature": sign_statement(said, key)}
    actors = (TrustedActor(bob, (PublicKey(key_id=key.key_id, public_key=key.public_key),)),)
    return rebuilt(package), policy(actors=actors)


def test_each_distinct_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bytes, bytes, bytes]] = []
    verify: Callable[[bytes, bytes, bytes], bool] = ed25519.verify

    def counted(public_key: bytes, message: bytes, signature: bytes) -> bool:
        asked.append((public_key, message, signature))
        return verify(public_key, message, signature)

    monkeypatch.setattr(ed25519, "verify", counted)
    package, trust = signed_package()
    case = CaseFile(package=package, attestations=(attestation(), attestation()))
    report: EvidenceReport = examine(json.dumps(case.to_dict()), knowledge_of(trust))
    assert [check.ok for check in report.layer(LayerName.SIGNATURES).checks][:3] == [True] * 3
    assert len(asked) == len(set(asked)) == 2, "one approval, one attestation that is there twice"
