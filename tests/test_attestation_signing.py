"""Signed attestations: the published signature, and every way in which one can be wrong."""

from dataclasses import replace
from typing import Any

import pytest
from nacl.signing import SigningKey

from nexus_attest.attestation import (
    Attestation,
    Attestor,
    create_attestation,
    generate_signing_key,
    get_public_key_hex,
    public_key_from_hex,
    verify_attestation_signature,
)
from nexus_attest.attestation.errors import InvalidAttestation

KEY = SigningKey(bytes(range(32)))
BINDING = "sha256:" + "a" * 64


def attested(binding: str = BINDING, claims: list[str] | None = None, role: str | None = None) -> Attestation:
    names = ["z", "a"] if claims is None else claims
    return create_attestation(binding, names, Attestor("me", "k1", role), KEY, "2025-01-01T00:00:00+00:00")


def failed(attestation: Attestation, key: Any = KEY.verify_key, **options: Any) -> list[str]:
    result = verify_attestation_signature(attestation, key, **options)
    assert result.ok == all(check.ok for check in result.checks)
    return [check.name for check in result.checks if not check.ok]


def test_the_signature_is_the_published_one() -> None:
    assert get_public_key_hex(KEY) == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    made = attested()
    assert made.attestation_id == "att_b2b0a6b6d166ae21"
    assert made.signature == (
        "5d5383af96ba42ed8ae03c92c1be568e1a945db79ee6a6e2d8ed4d3a877a1e85ce5ee69a0bec422cda93e22fa0e23416416e608cea1e9a9713441898ea5d960c"
    )
    assert made.payload.claims == ("a", "z")
    assert made.to_dict() == {
        "attestation_id": "att_b2b0a6b6d166ae21",
        "payload": {
            "attestation_version": "0.7",
            "binding_digest": BINDING,
            "claims": ["a", "z"],
            "attestor": {"id": "me", "key_id": "k1"},
            "signed_at": "2025-01-01T00:00:00+00:00",
        },
        "signature": made.signature,
        "meta": {"public_key_hex": get_public_key_hex(KEY)},
    }


def test_a_sound_attestation_passes_four_checks_and_six_when_strict() -> None:
    result = verify_attestation_signature(attested(), KEY.verify_key)
    assert [check.name for check in result.checks] == [
        "signature_valid",
        "attestation_version",
        "claims_non_empty",
        "binding_digest_format",
    ]
    assert (result.ok, result.to_dict()["passed"], result.to_dict()["total"]) == (True, 4, 4)
    strict = verify_attestation_signature(attested(), KEY.verify_key, strict=True, expected_binding_digest=BINDING)
    assert (strict.ok, len(strict.checks)) == (True, 7)


def test_the_role_is_beside_the_signature() -> None:
    assert attested(role="auditor").signature == attested().signature
    assert attested(role="auditor").meta["role"] == "auditor"
    assert Attestor("me", "k1", "auditor").to_dict() == {"id": "me", "key_id": "k1", "role": "auditor"}


def edited(**members: Any) -> Attestation:
    made = attested()
    return replace(made, payload=replace(made.payload, **members))


EDITS: list[tuple[Attestation, list[str]]] = [
    (edited(claims=("a",)), ["signature_valid"]),
    (edited(claims=()), ["signature_valid", "claims_non_empty"]),
    (edited(binding_digest="sha256:" + "b" * 64), ["signature_valid"]),
    (edited(binding_digest="b" * 64), ["signature_valid", "binding_digest_format"]),
    (edited(binding_digest=None), ["signature_valid", "binding_digest_format"]),
    (edited(signed_at="2026-01-01T00:00:00+00:00"), ["signature_valid"]),
    (edited(attestor=Attestor("you", "k1")), ["signature_valid"]),
    (edited(attestor=Attestor("me", "k2")), ["signature_valid"]),
    (edited(claims=("a", 1)), ["signature_valid"]),
    (edited(attestation_version="0.8"), ["attestation_version"]),
    (replace(attested(), signature="zz"), ["signature_valid"]),
    (replace(attested(), signature=None), ["signature_valid"]),  # pyright: ignore[reportArgumentType]
    (replace(attested(), signature=attested().signature[:-2]), ["signature_valid"]),
    (replace(attested(), signature=attested().signature + " "), ["signature_valid"]),
    (replace(attested(), signature=" ".join((attested().signature[:64], attested().signature[64:]))), ["signature_valid"]),
    (attested(claims=[]), ["claims_non_empty"]),
    (attested("no digest"), ["binding_digest_format"]),
]


@pytest.mark.parametrize(("attestation", "names"), EDITS)
def test_each_edit_fails_its_check(attestation: Attestation, names: list[str]) -> None:
    assert failed(attestation) == names


def test_another_key_does_not_verify() -> None:
    assert failed(attested(), generate_signing_key().verify_key) == ["signature_valid"]


def test_the_digest_at_hand_must_be_the_one_attested() -> None:
    assert failed(attested(), expected_binding_digest="sha256:" + "b" * 64) == ["binding_digest_match"]


def test_strict_looks_at_the_id_and_the_whole_digest() -> None:
    assert failed(replace(attested(), attestation_id="att_0"), strict=True) == ["attestation_id"]
    assert failed(attested("sha256:abc"), strict=True) == ["binding_digest_full_format"]


def test_public_keys_travel_as_hex() -> None:
    assert public_key_from_hex(get_public_key_hex(KEY)) == KEY.verify_key
    for text in ("zz", "ab", "", 7, get_public_key_hex(KEY) + " ", "11 " * 32):
        bad: Any = text
        with pytest.raises(ValueError, match=r"."):
            public_key_from_hex(bad)


def test_members_of_the_wrong_type_are_refused_before_signing() -> None:
    wrong: Any
    for wrong in ("text", ["a", 1]):
        with pytest.raises(InvalidAttestation):
            attested(claims=wrong)
    wrong = 7
    with pytest.raises(InvalidAttestation, match=r"attestor\.id"):
        create_attestation(BINDING, ["a"], Attestor(wrong, "k"), KEY)


def test_the_time_of_signing_is_now_by_default_and_meta_is_not_shared() -> None:
    first, second = (create_attestation(BINDING, ["a"], Attestor("me", "k"), KEY) for _ in range(2))
    assert first.payload.signed_at.endswith("+00:00")
    first.meta["x"] = 1
    assert "x" not in second.meta
