"""Envelopes made here verify with securesystemslib (the library of TUF and in-toto), and envelopes made there verify here.

https://github.com/secure-systems-lab/securesystemslib, version 1.6 and later; an independent implementation of DSSE over `cryptography`.
"""

import json
from typing import Any

import pytest
import securesystemslib.dsse
import securesystemslib.signer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib import exceptions

from nexus_attest.key_errors import KeyUnknown, SignatureInvalid
from nexus_attest.keys import LocalKey
from nexus_attest.signer import sign_statement
from nexus_attest.trust import PublicKey, TrustedActor, TrustPolicy
from nexus_control.errors import InvalidEnvelope
from nexus_control.events import Actor
from nexus_control.identity import PAYLOAD_TYPE, Act, Identity, Statement, pae, parse_envelope

dsse: Any = securesystemslib.dsse  # neither module is typed completely
sslib: Any = securesystemslib.signer

ALICE = Actor(type="human", id="alice")
SEED = bytes(range(32))
KEY = LocalKey(SEED)


def statement(comment: str | None = "ok") -> Statement:
    return Statement(
        action="approve",
        decision_id="3f0c9a52-6a0e-4c3f-9d0b-2c7f5f0e8a11",
        action_digest="sha256:" + "0" * 64,
        actor=ALICE,
        signed_at="2025-01-01T12:00:00+00:00",
        comment=comment,
        expires_at="2030-01-01T00:00:00+00:00",
    )


def their_key(key_id: str = KEY.key_id) -> Any:
    return sslib.SSlibKey(key_id, "ed25519", "ed25519", {"public": KEY.public_key.hex()})


def their_signer() -> Any:
    return sslib.CryptoSigner(Ed25519PrivateKey.from_private_bytes(SEED))


def their_envelope(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> Any:
    return dsse.Envelope(payload, payload_type, {})


def judge(envelope: object, key_id: str) -> None:
    trusted = TrustedActor(ALICE, (PublicKey(key_id=key_id, public_key=KEY.public_key),))
    parsed = parse_envelope(envelope)
    act = Act(action="approve", actor=ALICE, identity=Identity("signed", None, parsed), at=parsed.statement.signed_instant)
    TrustPolicy(actors=(trusted,)).judge(act)


@given(st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_what_is_signed_here_verifies_there(comment: str | None) -> None:
    ours = sign_statement(statement(comment), KEY)
    theirs = dsse.Envelope.from_dict(json.loads(json.dumps(ours)))
    assert theirs.payload_type == PAYLOAD_TYPE
    assert theirs.pae() == pae(PAYLOAD_TYPE, theirs.payload)
    assert list(theirs.verify([their_key()], 1)) == [KEY.key_id]


def test_what_is_signed_there_verifies_here_under_the_key_id_of_there() -> None:
    theirs, signer = their_envelope(statement().payload()), their_signer()
    theirs.sign(signer)
    document = theirs.to_dict()
    assert parse_envelope(document).statement == statement()
    judge(document, signer.public_key.keyid)
    judge(json.dumps(document, indent=2), signer.public_key.keyid)
    with pytest.raises(KeyUnknown):
        judge(document, KEY.key_id)


def test_both_make_the_same_signature() -> None:
    theirs = their_envelope(statement().payload())
    theirs.sign(their_signer())
    (signature,) = theirs.signatures.values()
    assert bytes.fromhex(signature.signature) == KEY.sign(theirs.pae())


def test_both_refuse_a_signature_over_something_else() -> None:
    ours = sign_statement(statement("yes"), KEY)
    forged = {**ours, "payload": sign_statement(statement("no"), KEY)["payload"]}
    with pytest.raises(SignatureInvalid):
        judge(forged, KEY.key_id)
    with pytest.raises(exceptions.VerificationError):
        dsse.Envelope.from_dict(json.loads(json.dumps(forged))).verify([their_key()], 1)


@pytest.mark.parametrize("payload_type", ["application/vnd.in-toto+json", ""])
def test_an_envelope_of_there_with_another_payload_type_is_none_here(payload_type: str) -> None:
    theirs = their_envelope(statement().payload(), payload_type)
    theirs.sign(their_signer())
    with pytest.raises(InvalidEnvelope):
        judge(theirs.to_dict(), their_signer().public_key.keyid)


def test_an_envelope_of_there_with_two_signatures_is_none_here() -> None:
    theirs, signer = their_envelope(statement().payload()), their_signer()
    theirs.sign(signer)
    theirs.signatures["second"] = sslib.Signature("second", theirs.signatures[signer.public_key.keyid].signature)
    with pytest.raises(InvalidEnvelope):
        judge(theirs.to_dict(), signer.public_key.keyid)
