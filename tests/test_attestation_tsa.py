"""Time-stamps of a local authority: what `openssl` makes is believed, and whatever was changed or made up is refused by name."""

import asyncio
import base64
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from http_server import Script, raw, service
from hypothesis import example, given
from hypothesis import strategies as st
from tsa_testing import (
    NOW,
    POLICY,
    STATEMENT,
    TIME_STAMPING,
    Holder,
    LocalAuthority,
    certified,
    http,
    integer,
    oid,
    openssl,
    pinned,
    refusal,
    request_for,
    served,
    tlv,
    tst_info,
)

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import AuthorityUnavailable, ExtraMissing, NotATimestamp, WitnessMismatch, WitnessRefused
from nexus_attest.attestation.tsa import TimestampAuthority, TimestampEvidence, judge_timestamp
from nexus_attest.attestation.tsa.der import read
from nexus_attest.attestation.tsa.token import MAX_TOKEN_BYTES, Answer, Token
from nexus_attest.trust import Authority
from nexus_control.errors import InputError
from nexus_control.events import utc_now

NONCE = 0x1234
DATA = STATEMENT.to_bytes()
OTHER = Statement(bytes(32), 1000)


@pytest.fixture(scope="module")
def root() -> Holder:
    return certified("Root", ca=True)


@pytest.fixture(scope="module")
def signer(root: Holder) -> Holder:
    return certified("Authority", root)


@pytest.fixture(scope="module")
def local(signer: Holder, tmp_path_factory: pytest.TempPathFactory) -> LocalAuthority:
    openssl()
    return LocalAuthority(tmp_path_factory.mktemp("tsa"), signer)


@pytest.fixture(scope="module")
def token(local: LocalAuthority) -> bytes:
    return local.token_for(DATA, nonce=NONCE)


def failed(token: bytes, authority: Authority, *, statement: Statement = STATEMENT, nonce: int = NONCE) -> list[str]:
    """The checks that fail."""
    checks, verdict = judge_timestamp(TimestampEvidence(statement, nonce, token), authority)
    names = [check.name for check in checks if not check.ok]
    assert (verdict is None) is bool(names)
    return names


# What the authority makes is believed


def test_a_token_of_openssl_passes_every_check_and_says_when(token: bytes, root: Holder) -> None:
    checks, verdict = judge_timestamp(TimestampEvidence(STATEMENT, NONCE, token), pinned(root, policies=(POLICY,)))
    assert [check.name for check in checks if check.ok] == [
        "token",
        "imprint",
        "nonce",
        "policy",
        "signing_certificate",
        "key_usage",
        "certificate_validity",
        "signature",
        "chain",
    ]
    assert [check.detail for check in checks if check.detail] == ["whether a certificate of the chain was revoked is not judged"]
    assert verdict is not None
    assert (verdict.level, verdict.by) == ("authority", "local")
    stamp = Token(token).stamp
    assert verdict.not_after == (stamp.time + timedelta(seconds=1.5)).isoformat()
    assert NOW <= stamp.time <= utc_now()


def test_openssl_itself_verifies_what_we_keep(local: LocalAuthority, token: bytes, root: Holder) -> None:
    evidence = json.loads(TimestampEvidence(STATEMENT, NONCE, token).to_bytes())
    (local.folder / "kept").write_bytes(base64.b64decode(evidence["token"]))
    (local.folder / "root.pem").write_bytes(root.pem)
    (local.folder / "data").write_bytes(DATA)
    local.run("ts", "-verify", "-token_in", "-in", "kept", "-data", "data", "-CAfile", "root.pem")


@pytest.mark.parametrize("kind", ["RSA", "P-384"])
def test_other_keys_and_chains_that_openssl_does_not_sort_are_read(kind: str, root: Holder, tmp_path: Path) -> None:
    openssl()
    between = certified("Between", root, ca=True)
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP384R1())
    authority = LocalAuthority(tmp_path, certified("Authority with a longer name", between, key=key), extra=[between, root])
    token = authority.token_for(DATA, nonce=NONCE)
    assert len(Token(token).certificates) == 3
    assert failed(token, pinned(root)) == []
    assert failed(token, pinned(certified("Root", ca=True))) == ["chain"]


def test_a_certificate_between_that_is_not_sent_may_be_pinned(root: Holder, tmp_path: Path) -> None:
    openssl()
    between = certified("Between", root, ca=True)
    token = LocalAuthority(tmp_path, certified("Authority", between)).token_for(DATA, nonce=NONCE)
    assert failed(token, pinned(root)) == ["chain"]
    assert failed(token, pinned(root, between)) == []


def test_the_certificate_of_the_authority_itself_may_be_pinned(token: bytes, signer: Holder) -> None:
    assert failed(token, pinned(signer)) == []
    assert failed(token, pinned(certified("Authority"))) == ["chain"]


def test_a_time_has_its_fraction_and_no_accuracy_is_none(local: LocalAuthority, root: Holder) -> None:
    token = local.forged(tst_info(DATA, time="20260102030405.25Z"))
    stamp = Token(token).stamp
    assert (stamp.time.isoformat(), stamp.accuracy, stamp.latest) == ("2026-01-02T03:04:05.250000+00:00", None, stamp.time)
    assert failed(local.forged(tst_info(DATA)), pinned(root)) == []


def test_every_optional_member_of_a_time_stamp_is_read(local: LocalAuthority, root: Holder) -> None:
    accuracy = tlv(0x30, integer(1), tlv(0x80, b"\x02"), tlv(0x81, b"\x03"))
    name = tlv(0xA0, tlv(0xA4, tlv(0x30)))
    token = local.forged(tlv(0x30, *_members(tst_info(DATA))[:5], accuracy, tlv(1, b"\xff"), integer(NONCE), name))
    assert failed(token, pinned(root)) == []
    assert Token(token).stamp.accuracy == timedelta(seconds=1, milliseconds=2, microseconds=3)


@pytest.mark.parametrize("digest", ["sha384", "sha512"])
def test_longer_hashes_of_the_signer_are_read(local: LocalAuthority, root: Holder, digest: str) -> None:
    assert failed(local.forged(tst_info(DATA), digest=digest), pinned(root)) == []


# Attacks


def test_another_statement_fails_the_imprint(token: bytes, root: Holder) -> None:
    assert failed(token, pinned(root), statement=OTHER) == ["imprint", "chain"]
    assert failed(token, pinned(root), statement=Statement(STATEMENT.root, 999)) == ["imprint", "chain"]


def test_another_hash_of_the_right_statement_fails_the_imprint(local: LocalAuthority, root: Holder) -> None:
    assert failed(local.forged(tst_info(imprint=b"\0" * 32)), pinned(root)) == ["imprint", "chain"]


@pytest.mark.parametrize("nonce", [0, NONCE + 1, 2**64])
def test_a_token_for_another_request_fails_the_nonce(token: bytes, root: Holder, nonce: int) -> None:
    assert failed(token, pinned(root), nonce=nonce) == ["nonce"]


def test_a_token_without_a_nonce_fails_it(local: LocalAuthority, root: Holder) -> None:
    assert failed(local.token_for(DATA, nonce=None), pinned(root)) == ["nonce"]


def test_another_policy_than_the_believed_ones_fails(token: bytes, root: Holder) -> None:
    assert failed(token, pinned(root, policies=("1.2.3", "1.2.3.4"))) == ["policy"]


def test_a_self_made_authority_fails_the_chain_whatever_its_names_are(root: Holder, signer: Holder, tmp_path: Path) -> None:
    openssl()
    own_root = certified("Root", ca=True, serial=root.certificate.serial_number)
    own = LocalAuthority(tmp_path, certified("Authority", own_root, serial=signer.certificate.serial_number), extra=[own_root])
    token = own.token_for(DATA, nonce=NONCE)
    assert failed(token, pinned(root)) == ["chain"]
    assert failed(token, pinned(own_root)) == []


def test_whoever_has_a_certificate_for_something_else_is_no_authority(root: Holder, tmp_path: Path) -> None:
    openssl()
    website = certified("Website", root, purposes=[], signs=True)
    own = LocalAuthority(tmp_path, certified("Authority", website), extra=[website])
    assert failed(own.token_for(DATA, nonce=NONCE), pinned(root)) == ["chain"]


@pytest.mark.parametrize(
    ("changed", "checks"),
    [
        ({"purposes": []}, ["key_usage", "chain"]),
        ({"purposes": ["1.3.6.1.5.5.7.3.1"]}, ["key_usage", "chain"]),
        ({"purposes": [TIME_STAMPING.dotted_string, "1.3.6.1.5.5.7.3.4"]}, ["key_usage"]),
        ({"critical": False}, ["key_usage", "chain"]),
        ({"signs": False}, ["key_usage"]),
        ({"end": NOW - timedelta(days=1)}, ["certificate_validity", "chain"]),
        ({"start": NOW + timedelta(days=1)}, ["certificate_validity", "chain"]),
    ],
    ids=["no purpose", "another", "two", "not critical", "no signatures", "expired", "not yet valid"],
)
def test_a_certificate_that_is_not_one_for_time_stamps_then_fails_by_name(
    local: LocalAuthority, root: Holder, changed: dict[str, Any], checks: list[str]
) -> None:
    from cryptography.x509 import ObjectIdentifier

    if "purposes" in changed:
        changed = {"purposes": [ObjectIdentifier(purpose) for purpose in changed["purposes"]]}
    found = failed(local.forged(tst_info(DATA), signer=certified("Authority", root, **changed)), pinned(root))
    assert found[: len(checks)] == checks


def test_an_expired_issuer_fails_the_chain_at_the_time_of_the_stamp_and_not_today(local: LocalAuthority) -> None:
    old_root = certified("Old", ca=True, start=NOW - timedelta(days=900), end=NOW - timedelta(days=300))
    holder = certified("Authority", old_root, start=NOW - timedelta(days=800), end=NOW + timedelta(days=30))
    then = (NOW - timedelta(days=400)).strftime("%Y%m%d%H%M%SZ")
    assert failed(local.forged(tst_info(DATA, time=then), signer=holder), pinned(old_root)) == []
    assert failed(local.forged(tst_info(DATA), signer=holder), pinned(old_root)) == ["chain"]


def test_an_accuracy_that_reaches_past_the_certificate_fails_its_validity(local: LocalAuthority, root: Holder) -> None:
    holder = certified("Authority", root, end=NOW + timedelta(hours=1))
    for hours, checks in ((0, []), (2, ["certificate_validity"])):
        content = tlv(0x30, *_members(tst_info(DATA))[:5], tlv(0x30, integer(hours * 3600)), integer(NONCE))
        assert failed(local.forged(content, signer=holder), pinned(root)) == checks


def test_a_token_without_the_signed_id_of_its_certificate_fails(local: LocalAuthority, root: Holder) -> None:
    assert failed(local.forged(tst_info(DATA), ess=False), pinned(root)) == ["signing_certificate"]


def test_another_certificate_for_the_same_key_fails_the_signed_id(root: Holder, signer: Holder, token: bytes) -> None:
    """The same authority's key, name and number, and a longer validity: everything but the signed hash fits."""
    twin = certified("Authority", root, key=signer.key, serial=signer.certificate.serial_number, end=NOW + timedelta(days=3000))
    assert len(twin.der) - len(signer.der) in range(-3, 4)
    swapped = _with_certificates(token, twin.der)
    assert "signing_certificate" in failed(swapped, pinned(root))


def test_a_token_without_its_certificate_is_judged_by_the_pinned_one(token: bytes, root: Holder, signer: Holder) -> None:
    bare = _with_certificates(token)
    assert failed(bare, pinned(root)) == ["signing_certificate", "key_usage", "certificate_validity", "signature", "chain"]
    assert failed(bare, pinned(signer)) == []


def test_a_weak_hash_is_not_read(local: LocalAuthority, root: Holder) -> None:
    assert failed(local.forged(tst_info(DATA), digest="sha1"), pinned(root)) == ["token"]


def test_a_weak_key_signs_nothing(local: LocalAuthority, root: Holder) -> None:
    weak = certified("Authority", root, key=rsa.generate_private_key(65537, 1024))
    assert "signature" in failed(local.forged(tst_info(DATA), signer=weak), pinned(root))


def test_every_byte_of_a_token_is_covered(token: bytes, root: Holder) -> None:
    authority = pinned(root)
    assert failed(token, authority) == []
    for place in range(len(token)):
        for bit in (0x01, 0x80):
            changed = bytearray(token)
            changed[place] ^= bit
            assert failed(bytes(changed), authority), f"bit {bit:#x} of byte {place}"


def test_every_byte_of_the_evidence_is_covered(token: bytes, root: Holder) -> None:
    authority = TimestampAuthority("http://127.0.0.1/", pinned(root))
    good = TimestampEvidence(STATEMENT, NONCE, token).to_bytes()
    assert authority.verify(STATEMENT, good).level == "authority"
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        with pytest.raises(WitnessMismatch):
            authority.verify(STATEMENT, bytes(changed))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b" " * 200_000,
        b'{"nonce":"00","root":1,"size":1,"token":"","type":"nexus.tsa.token/1"}',
        b'{"nonce":"00","root":"","size":1,"token":"","type":"nexus.tsa.token/1"}',
        b'{"nonce":"0","root":"%b","size":1,"token":"","type":"nexus.tsa.token/1"}' % (b"00" * 32),
        b'{"nonce":"00","root":"%b","size":0,"token":"","type":"nexus.tsa.token/1"}' % (b"00" * 32),
        b'{"nonce":"00","root":"%b","size":true,"token":"","type":"nexus.tsa.token/1"}' % (b"00" * 32),
        b'{"nonce":"00","root":"%b","size":1,"token":"a","type":"nexus.tsa.token/1"}' % (b"00" * 32),
        b'{"nonce":"00","root":"%b","size":1,"token":"","type":"nexus.tsa.token/2"}' % (b"00" * 32),
        b'{"nonce":"00", "root":"%b","size":1,"token":"","type":"nexus.tsa.token/1"}' % (b"00" * 32),
    ],
)
def test_what_is_no_evidence_is_refused(data: bytes) -> None:
    with pytest.raises(NotATimestamp):
        TimestampEvidence.from_bytes(data)


def test_a_nonce_of_any_size_is_kept(token: bytes) -> None:
    for nonce in (0, 1, 0x0F, 0x10, 2**64 - 1, 2**128):
        assert TimestampEvidence.from_bytes(TimestampEvidence(STATEMENT, nonce, token).to_bytes()).nonce == nonce


# Tokens taken apart


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "something after it": lambda token: token + b"\0",
    "the end missing": lambda token: token[:-1],
    "half of it": lambda token: token[: len(token) // 2],
    "too large": lambda token: token + bytes(MAX_TOKEN_BYTES),
    "an indefinite length": lambda token: b"\x30\x80" + token[4:] + b"\0\0",
    "a length in too many bytes": lambda token: b"\x30\x83\0" + token[2:],
    "a set": lambda token: b"\x31" + token[1:],
    "two of them": lambda token: token + token,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_bytes_that_are_no_token_fail_its_form_alone(token: bytes, root: Holder, change: Callable[[bytes], bytes]) -> None:
    assert failed(change(token), pinned(root)) == ["token"]


def _members(value: bytes) -> list[bytes]:
    """The encodings of what is in a value."""
    (outer,) = read(value)
    return [each.whole for each in outer.children()]


def _with_certificates(token: bytes, *certificates: bytes) -> bytes:
    """The token with other certificates."""
    kind, wrapped = _members(token)
    (signed,) = _members(wrapped)
    members = _members(signed)
    held = [tlv(0xA0, *certificates)] if certificates else []
    return tlv(0x30, kind, tlv(0xA0, tlv(0x30, *members[:3], *held, members[-1])))


GOOD = _members(tst_info(DATA))
CONTENTS: dict[str, bytes] = {
    "another version": tst_info(DATA, version=2),
    "a local time": tst_info(DATA, time="20260101000000+0100"),
    "a time with a comma": tst_info(DATA, time="20260101000000,5Z"),
    "a time with a zero at its end": tst_info(DATA, time="20260101000000.50Z"),
    "a time without seconds": tst_info(DATA, time="202601010000Z"),
    "no day": tst_info(DATA, time="20260230000000Z"),
    "an extension": tst_info(DATA, rest=tlv(0xA1, tlv(0x30, oid("1.2.3"), tlv(4)))),
    "an unknown member": tst_info(DATA, rest=tlv(0xA7)),
    "a second nonce": tst_info(DATA, rest=integer(NONCE)),
    "a negative accuracy": tlv(0x30, *GOOD[:5], tlv(0x30, integer(-1))),
    "an accuracy of a week": tlv(0x30, *GOOD[:5], tlv(0x30, integer(7 * 86400))),
    "an accuracy beyond all times": tlv(0x30, *GOOD[:4], tlv(0x18, b"99991231235959Z"), tlv(0x30, integer(1))),
    "an accuracy of a thousand milliseconds": tlv(0x30, *GOOD[:5], tlv(0x30, tlv(0x80, b"\x03\xe8"))),
    "an accuracy backwards": tlv(0x30, *GOOD[:5], tlv(0x30, tlv(0x81, b"\1"), tlv(0x80, b"\1"))),
    "a number that is not in its shortest form": tlv(0x30, *GOOD[:5], tlv(2, b"\0\1")),
    "an object identifier that is cut off": tlv(0x30, GOOD[0], tlv(6, b"\x2a\x83"), *GOOD[2:]),
    "an imprint of a hash with parameters": tlv(
        0x30, *GOOD[:2], tlv(0x30, tlv(0x30, oid("2.16.840.1.101.3.4.2.1"), tlv(4)), tlv(4, bytes(32))), *GOOD[3:]
    ),
    "an object identifier that is not in its shortest form": tlv(0x30, GOOD[0], tlv(6, b"\x2a\x80\x03"), *GOOD[2:]),
    "an empty object identifier": tlv(0x30, GOOD[0], tlv(6), *GOOD[2:]),
    "an empty number": tlv(0x30, *GOOD[:5], tlv(2)),
    "too few members": tlv(0x30, *GOOD[:4]),
    "no sequence": b"hello",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_is_no_time_stamp_is_not_read_though_the_authority_signed_it(local: LocalAuthority, root: Holder, content: bytes) -> None:
    assert failed(local.forged(content), pinned(root)) == ["token"]


def _replaced(token: bytes, *, signed: dict[int, bytes] | None = None, signer: dict[int, bytes] | None = None) -> bytes:
    """The token with other members of SignedData, or of its signer, by their places."""
    kind, wrapped = _members(token)
    members = _members(_members(wrapped)[0])
    ours = _members(_members(members[-1])[0])
    for place, value in (signer or {}).items():
        ours[place : place + 1] = [value]
    members[-1] = tlv(0x31, tlv(0x30, *ours))
    for place, value in (signed or {}).items():
        members[place] = value
    return tlv(0x30, kind, tlv(0xA0, tlv(0x30, *members)))


@pytest.mark.parametrize(
    "parts",
    [
        {"signed": {0: integer(1)}},
        {"signed": {1: tlv(0x31)}},
        {"signed": {2: tlv(0x30, oid("1.2.840.113549.1.7.1"), tlv(0xA0, tlv(4, tst_info(DATA))))}},
        {"signed": {3: tlv(0xA1)}},
        {"signer": {0: integer(3)}},
        {"signer": {1: tlv(0x80, bytes(20))}},
        {"signer": {3: tlv(0xA0)}},
        {"signer": {4: tlv(0x30, oid("1.2.840.113549.1.1.10"))}},
        {"signer": {4: tlv(0x30, oid("1.2.840.10045.4.3.4"))}},
        {"signer": {5: tlv(4) + tlv(0xA1, tlv(0x30, oid("1.2.3"), tlv(0x31)))}},
    ],
    ids=["version", "algorithms", "type", "lists of revoked ones", "signer's version", "key id", "attributes", "PSS", "hash", "unsigned"],
)
def test_what_this_release_does_not_know_is_refused(token: bytes, root: Holder, parts: dict[str, dict[int, bytes]]) -> None:
    found = failed(_replaced(token, **parts), pinned(root))
    assert found
    assert found == ["token"] or parts == {"signer": {3: tlv(0xA0)}}


def test_two_signers_are_refused(token: bytes, root: Holder) -> None:
    kind, wrapped = _members(token)
    members = _members(_members(wrapped)[0])
    (signer,) = _members(members[-1])
    twice = tlv(0x30, kind, tlv(0xA0, tlv(0x30, *members[:-1], tlv(0x31, signer, signer))))
    assert failed(twice, pinned(root)) == ["token"]


def test_a_signed_attribute_that_comes_twice_is_refused(token: bytes, root: Holder) -> None:
    attributes = read(_members(_members(_members(_members(_members(token)[1])[0])[-1])[0])[3])[0]
    first = attributes.children()[0].whole
    assert failed(_replaced(token, signer={3: tlv(0xA0, first, attributes.content)}), pinned(root)) == ["token"]


@pytest.mark.parametrize("values", [tlv(0x31), tlv(0x31, tlv(4), tlv(4))], ids=["none", "two"])
def test_a_signed_digest_has_one_value(token: bytes, root: Holder, values: bytes) -> None:
    attributes = read(_members(_members(_members(_members(_members(token)[1])[0])[-1])[0])[3])[0]
    kept = [each.whole for each in attributes.children() if each.children()[0].oid("it") != "1.2.840.113549.1.9.4"]
    changed = tlv(0xA0, *kept, tlv(0x30, oid("1.2.840.113549.1.9.4"), values))
    assert failed(_replaced(token, signer={3: changed}), pinned(root)) == ["token"]


@pytest.mark.parametrize("ids", [tlv(0x30), tlv(0x30, tlv(0x30)), tlv(0x30, tlv(0x30, tlv(0x30))), tlv(4)])
def test_a_signed_id_of_no_certificate_fails_it(token: bytes, root: Holder, ids: bytes) -> None:
    attributes = read(_members(_members(_members(_members(_members(token)[1])[0])[-1])[0])[3])[0]
    v2 = "1.2.840.113549.1.9.16.2.47"
    kept = [each.whole for each in attributes.children() if each.children()[0].oid("it") != v2]
    assert len(kept) == len(attributes.children()) - 1
    changed = tlv(0xA0, *kept, tlv(0x30, oid(v2), tlv(0x31, ids)))
    assert failed(_replaced(token, signer={3: changed}), pinned(root)) == ["signing_certificate", "signature", "chain"]


def test_an_answer_that_is_too_large_is_not_read() -> None:
    with pytest.raises(NotATimestamp, match="at most 65536 bytes"):
        Answer.from_bytes(bytes(MAX_TOKEN_BYTES + 1))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_token_or_refused_by_name(data: bytes) -> None:
    for function in (Token, Answer.from_bytes):
        with pytest.raises(NotATimestamp):
            function(data)


@given(st.integers(min_value=-(2**70), max_value=2**70))
@example(-128)
@example(-(2**15))
@example(128)
def test_numbers_are_read_as_they_are_written(number: int) -> None:
    size = (number if number >= 0 else ~number).bit_length() // 8 + 1  # X.690 8.3.2: the fewest bytes
    assert read(tlv(2, number.to_bytes(size, signed=True)))[0].integer("it") == number


@pytest.mark.parametrize("dotted", ["0.0", "1.39.5", "2.999.3", "2.16.840.1.101.3.4.2.1", "1.2.840.113549.1.9.16.1.4"])
def test_object_identifiers_are_read_as_they_are_written(dotted: str) -> None:
    first, second, *rest = map(int, dotted.split("."))
    written = oid(dotted) if first < 2 or second < 40 else tlv(6, b"\x88\x37\x03")
    assert (read(written)[0].oid("it"), rest is not None) == (dotted, True)


def test_a_pin_that_is_no_certificate_believes_nobody(token: bytes) -> None:
    assert failed(token, Authority("odd", (b"\x30\x00", b"x" * 100))) == ["chain"]


# Over HTTP


def test_a_time_stamp_comes_over_http_and_is_verified_offline(local: LocalAuthority, root: Holder) -> None:
    with served(local) as server:
        authority = TimestampAuthority(server.url, pinned(root))
        evidence = asyncio.run(authority.witness(STATEMENT))
        again = asyncio.run(authority.witness(STATEMENT))
    assert server.head()["content-type"] == "application/timestamp-query"
    assert authority.verify(STATEMENT, evidence)[::2] == ("authority", "local")
    assert TimestampEvidence.from_bytes(again).nonce != TimestampEvidence.from_bytes(evidence).nonce
    with pytest.raises(WitnessMismatch, match="statement: the evidence is about something else"):
        authority.verify(OTHER, evidence)


def asked(script: Script, authority: Authority, **options: Any) -> bytes:
    """What an authority is asked that answers so."""
    with service(script) as server:
        return asyncio.run(TimestampAuthority(server.url, authority, **options).witness(STATEMENT))


def flood(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/timestamp-reply\r\n\r\n")
    for _ in range(1000):
        connection.sendall(bytes(100_000))


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/timestamp-reply\r\nContent-Length: 90\r\n\r\n")
    for _ in range(50):
        connection.sendall(b"\x30")
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (raw(b""), "Server disconnected"),
        (raw(http(b"", status="503 Service Unavailable")), "status 503"),
        (raw(http(b"", status="302 Found")), "status 302"),
        (raw(http(b"<html>", kind="text/html")), "content type 'text/html'"),
        (raw(http(b"")), "0 values in place of one"),
        (raw(http(bytes(10))), "values in place of one"),
        (raw(http(refusal()[:-1])), "cut off"),
        (flood, "more than 65536 bytes"),
        (drip, "TimeoutError"),
        (raw(http(refusal(2, bit=14))), "timeNotAvailable"),
        (raw(http(refusal(2, bit=25, text="down"))), "systemFailure, down"),
    ],
)
def test_an_authority_that_does_not_answer_as_one_is_unavailable(script: Script, text: str, root: Holder) -> None:
    began, limit = time.monotonic(), 1.0 if text == "TimeoutError" else 30.0  # which a machine with much to do must not meet
    with pytest.raises(AuthorityUnavailable, match=text):
        asked(script, pinned(root), timeout=limit)
    assert time.monotonic() - began < limit + 25


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "xn--ü", "xn--a.example", "☃.example"])
def test_an_authority_whose_host_cannot_exist_is_unavailable(host: str, root: Holder) -> None:
    with pytest.raises(AuthorityUnavailable, match="local: "):
        asyncio.run(TimestampAuthority(f"http://{host}/", pinned(root)).witness(STATEMENT))


def test_an_authority_that_is_not_there_is_unavailable(root: Holder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(AuthorityUnavailable, match="local: "):
        asyncio.run(TimestampAuthority(f"http://127.0.0.1:{port}/", pinned(root)).witness(STATEMENT))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (refusal(2), "status 2"),
        (refusal(2, bit=0), "status 2, badAlg"),
        (refusal(2, bit=15, text="no such\x1b[2J policy"), r"unacceptedPolicy, no such\\x1b\[2J policy"),
        (refusal(3), "status 3"),
        (refusal(5, text="x" * 5000), "status 5, x"),
        (refusal(0), "status 0"),
    ],
)
def test_a_refusal_is_told_with_its_reasons(answer: bytes, text: str, root: Holder) -> None:
    with pytest.raises(WitnessRefused, match=text) as refused:
        asked(raw(http(answer)), pinned(root))
    assert len(str(refused.value)) < 300


def test_openssl_refuses_a_hash_that_it_does_not_take(local: LocalAuthority) -> None:
    sha1 = tlv(0x30, tlv(0x30, oid("1.3.14.3.2.26")), tlv(4, bytes(20)))
    answer = Answer.from_bytes(local.reply(tlv(0x30, integer(1), sha1)))
    assert (answer.status, answer.failure, answer.token) == (2, ("badAlg",), None)


def test_the_answer_to_another_request_is_refused(local: LocalAuthority, root: Holder) -> None:
    old = local.reply(request_for(DATA, nonce=99))
    with pytest.raises(WitnessRefused, match="local: its time-stamp is not to be believed: nonce: "):
        asked(raw(http(old)), pinned(root))
    other = local.reply(request_for(b"something else", nonce=99))
    with pytest.raises(WitnessRefused, match=r"imprint: .*nonce: "):
        asked(raw(http(other)), pinned(root))


def test_an_authority_whose_clock_is_off_is_refused(local: LocalAuthority, root: Holder) -> None:
    with served(local) as server:
        late = TimestampAuthority(server.url, pinned(root), clock=lambda: utc_now() + timedelta(hours=1))
        with pytest.raises(WitnessRefused, match=r"its clock is -3\d{3} seconds ahead"):
            asyncio.run(late.witness(STATEMENT))


def test_an_authority_that_is_not_pinned_is_refused_before_anything_is_kept(local: LocalAuthority) -> None:
    with served(local) as server, pytest.raises(WitnessRefused, match="chain: no chain to a certificate that is believed"):
        asyncio.run(TimestampAuthority(server.url, pinned(certified("Root", ca=True))).witness(STATEMENT))


def test_a_url_of_something_else_is_refused(root: Holder) -> None:
    for url in ("ftp://example.com", "file:///etc/passwd", ""):
        with pytest.raises(InputError, match="http"):
            TimestampAuthority(url, pinned(root))


def test_the_missing_extra_is_an_error_with_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'nexus-attest\[tsa\]'") as missing:
        TimestampAuthority("http://127.0.0.1/", Authority("x", ()))
    assert missing.value.code == "EXTRA_MISSING"


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, nexus_attest.attestation.tsa, nexus_attest.attestation.stamping, nexus_attest.attestation.local_witness\n"
        "print([name for name in ('rfc3161_client', 'cryptography', 'httpx', 'nacl', 'xrpl') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
