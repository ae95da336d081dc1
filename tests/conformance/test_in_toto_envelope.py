"""A case file in an envelope verifies with securesystemslib, and one that was sealed there verifies here."""

import json
from typing import Any

import pytest
import securesystemslib.dsse
import securesystemslib.signer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence_testing import vector
from securesystemslib import exceptions

from nexus_attest.keys import LocalKey
from nexus_attest.reader import knowledge_of
from nexus_attest.trust import AttestorKey, PublicKey, TrustedActor, TrustPolicy
from nexus_control.case_file import CaseFile
from nexus_control.events import Actor
from nexus_control.evidence import EvidenceReport, LayerName, examine
from nexus_control.identity import pae
from nexus_control.in_toto import PAYLOAD_TYPE, statement_payload

dsse: Any = securesystemslib.dsse  # neither module is typed completely
sslib: Any = securesystemslib.signer

SEED = bytes(range(32))
KEY = LocalKey(SEED)
BOB = TrustedActor(Actor(type="human", id="bob"))
PAYLOAD = statement_payload(CaseFile(package=vector("router-audit-package-embedded.json")))


def sealed_there(payload: bytes = PAYLOAD) -> tuple[dict[str, Any], str]:
    """An envelope of securesystemslib, and the key id that it uses."""
    signer = sslib.CryptoSigner(Ed25519PrivateKey.from_private_bytes(SEED))
    envelope = dsse.Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return envelope.to_dict(), signer.public_key.keyid


def judged(envelope: dict[str, Any], key_id: str) -> EvidenceReport:
    attestor = AttestorKey("somebody", PublicKey(key_id=key_id, public_key=KEY.public_key))
    return examine(json.dumps(envelope), knowledge_of(TrustPolicy(actors=(BOB,), attestors=(attestor,))))


def seal(report: EvidenceReport) -> list[bool]:
    return [check.ok for check in report.layer(LayerName.SIGNATURES).checks if check.name == "envelope"]


def test_an_envelope_of_there_is_a_case_file_here() -> None:
    envelope, key_id = sealed_there()
    report = judged(envelope, key_id)
    assert (report.kind, report.ok, seal(report)) == ("sealed_case", True, [True])


def test_the_statement_that_we_seal_verifies_there() -> None:
    theirs, _ = sealed_there()
    theirs["signatures"] = [{"keyid": KEY.key_id, "sig": theirs["signatures"][0]["sig"]}]
    envelope = dsse.Envelope.from_dict(json.loads(json.dumps(theirs)))
    assert envelope.pae() == pae(PAYLOAD_TYPE, PAYLOAD)
    ours = KEY.sign(pae(PAYLOAD_TYPE, PAYLOAD))
    assert bytes.fromhex(envelope.signatures[KEY.key_id].signature) == ours
    key = sslib.SSlibKey(KEY.key_id, "ed25519", "ed25519", {"public": KEY.public_key.hex()})
    assert list(envelope.verify([key], 1)) == [KEY.key_id]


def test_both_refuse_an_envelope_whose_statement_was_exchanged() -> None:
    envelope, key_id = sealed_there()
    other = PAYLOAD.replace(b'"trust":null', b'"trust":{"digest":"sha256:00"}')
    assert other != PAYLOAD
    forged = {**envelope, "payload": sealed_there(other)[0]["payload"]}
    assert seal(judged(forged, key_id)) == [False]
    key = sslib.SSlibKey(key_id, "ed25519", "ed25519", {"public": KEY.public_key.hex()})
    with pytest.raises(exceptions.VerificationError):
        dsse.Envelope.from_dict(json.loads(json.dumps(forged))).verify([key], 1)
