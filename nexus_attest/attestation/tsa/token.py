"""Time-stamp tokens and the answers that bring them, as RFC 3161, RFC 5652 and RFC 5816 write them: taken apart, not judged.

Read strictly: what a token may not have, what this release does not know, and what no signature would cover and no check would look at,
is refused. So a token has no part that could be changed unnoticed, but the certificates beside the signer's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TypeVar

from nexus_attest.attestation.errors import NotATimestamp
from nexus_attest.attestation.tsa.der import (
    BIT_STRING,
    BOOLEAN,
    GENERALIZED_TIME,
    INTEGER,
    NULL,
    OCTET_STRING,
    SEQUENCE,
    SET,
    Der,
    context,
    one,
    read,
)

__all__ = ["MAX_TOKEN_BYTES", "SHA256", "TST_INFO", "Answer", "Stamp", "Token", "granted"]

MAX_TOKEN_BYTES = 64 * 1024
"""Tokens have 1 to 8 kB; nothing larger is read."""

SHA256 = "2.16.840.1.101.3.4.2.1"
_DIGESTS = {SHA256: "sha256", "2.16.840.1.101.3.4.2.2": "sha384", "2.16.840.1.101.3.4.2.3": "sha512"}
_SIGNATURES = {
    "1.2.840.113549.1.1.1": ("rsa", None),  # rsaEncryption, which leaves the hash to the digest algorithm (RFC 3370 section 3.2)
    "1.2.840.113549.1.1.11": ("rsa", "sha256"),
    "1.2.840.113549.1.1.12": ("rsa", "sha384"),
    "1.2.840.113549.1.1.13": ("rsa", "sha512"),
    "1.2.840.10045.4.3.2": ("ecdsa", "sha256"),
    "1.2.840.10045.4.3.3": ("ecdsa", "sha384"),
    "1.2.840.10045.4.3.4": ("ecdsa", "sha512"),
}

_T = TypeVar("_T")

_SIGNED_DATA = "1.2.840.113549.1.7.2"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
"""id-ct-TSTInfo."""
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE = "1.2.840.113549.1.9.16.2.12"
_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"

_LAST_TIME = datetime.max.replace(tzinfo=UTC)
_TIME = re.compile(rb"(\d{14})(?:\.(\d{0,5}[1-9]))?Z")

_FAILURES = {
    0: "badAlg",
    2: "badRequest",
    5: "badDataFormat",
    14: "timeNotAvailable",
    15: "unacceptedPolicy",
    16: "unacceptedExtension",
    17: "addInfoNotAvailable",
    25: "systemFailure",
}
"""The bits of PKIFailureInfo that RFC 3161 section 2.4.2 allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """TSTInfo: what the authority says. `imprint` is of the hash algorithm `hash_oid`; `accuracy` is None when it says none."""

    policy: str
    hash_oid: str
    imprint: bytes
    serial: int
    time: datetime
    accuracy: timedelta | None
    nonce: int | None

    @property
    def latest(self) -> datetime:
        """When the authority saw the imprint, at the latest."""
        return self.time + (self.accuracy or timedelta())


class Token:
    """A time-stamp token: CMS SignedData over a TSTInfo, with one signer. Raises NotATimestamp, which says what is wrong."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MAX_TOKEN_BYTES:
            raise NotATimestamp(f"a token has at most {MAX_TOKEN_BYTES} bytes, not {len(data)}")
        self.data = data
        kind, wrapped = _children(one(data, SEQUENCE, "the token"), 2, "the token")
        _require(kind.oid("the type of the token"), _SIGNED_DATA, "the type of the token")
        signed = one(wrapped.expect(context(0), "the token").content, SEQUENCE, "SignedData")
        version, algorithms, content, *optional, signers = _children(signed, (4, 5), "SignedData")
        _require(version.integer("the version of SignedData"), 3, "the version of SignedData")
        self._certificates = optional[0].expect(context(0), "the certificates").content if optional else b""
        self._after_certificates = len(signers.whole)
        self.certificates = [each.expect(SEQUENCE, "a certificate").whole for each in read(self._certificates)]
        content_type, octets = _children(content.expect(SEQUENCE, "the content"), 2, "the content")
        _require(content_type.oid("the type of the content"), TST_INFO, "the type of the content")
        self.content = one(octets.expect(context(0), "the content").content, OCTET_STRING, "the content").content
        self.stamp = _stamp(self.content)
        self._read_signer(one(signers.expect(SET, "the signers").content, SEQUENCE, "the signer"))
        listed = [_algorithm(each, _DIGESTS, "a digest algorithm") for each in algorithms.expect(SET, "the digest algorithms").children()]
        if self.digest_name not in listed:
            raise NotATimestamp("the digest algorithm of the signer is not among those of the token")

    def _read_signer(self, signer: Der) -> None:
        version, who, digest, attributes, algorithm, signature = _children(signer, 6, "the signer")
        _require(version.integer("the version of the signer"), 1, "the version of the signer")
        issuer, serial = _children(who.expect(SEQUENCE, "the signer's certificate"), 2, "the signer's certificate")
        self.issuer, self.serial = issuer.whole, serial.integer("the serial number of the signer's certificate")
        self.digest_name = _algorithm(digest, _DIGESTS, "the signer's digest algorithm")
        self.key_kind, hashed = _algorithm(algorithm, _SIGNATURES, "the signature algorithm")
        if hashed not in (None, self.digest_name):
            raise NotATimestamp("the signature algorithm has another hash than the signer")
        self.signature = signature.expect(OCTET_STRING, "the signature").content
        attributes.expect(context(0), "the signed attributes")
        self.signed_bytes = bytes([SET]) + attributes.whole[1:]  # RFC 5652 section 5.4: signed with the tag of a SET
        self._attributes = _attributes(attributes)

    @property
    def content_type(self) -> str:
        """The signed attribute of this name, which every token has."""
        return self._attribute(_CONTENT_TYPE, "the signed content type").oid("the signed content type")

    @property
    def message_digest(self) -> bytes:
        """The signed digest of `content`."""
        return self._attribute(_MESSAGE_DIGEST, "the signed digest").expect(OCTET_STRING, "the signed digest").content

    @cached_property
    def certificate_hashes(self) -> list[tuple[str, bytes]]:
        """The signed hashes of the signer's certificate with the names of their algorithms; at least one (RFC 3161, RFC 5816)."""
        found: list[tuple[str, bytes]] = []
        for oid in (_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2):
            if oid not in self._attributes:
                continue
            what = "the signed certificate id"
            ids = self._attribute(oid, what).expect(SEQUENCE, what).children()
            first = ids[0].expect(SEQUENCE, what).children() if ids else []
            entry = first[0].expect(SEQUENCE, what).children() if first else []
            name = "sha1" if oid == _SIGNING_CERTIFICATE else "sha256"
            if entry and entry[0].tag == SEQUENCE and oid == _SIGNING_CERTIFICATE_V2:
                name = _algorithm(entry.pop(0), _DIGESTS, what)
            if not entry:
                raise NotATimestamp(f"{what} is empty")
            found.append((name, entry[0].expect(OCTET_STRING, what).content))
        if not found:
            raise NotATimestamp("no signed attribute names the signer's certificate")
        return found

    def sorted(self) -> bytes:
        """The token with its certificates in the order that DER has for sets. No signature covers their order, and OpenSSL keeps none."""
        end = len(self.data) - self._after_certificates
        start = end - len(self._certificates)
        return self.data[:start] + b"".join(sorted(self.certificates)) + self.data[end:]

    def _attribute(self, oid: str, what: str) -> Der:
        if oid not in self._attributes:
            raise NotATimestamp(f"{what} is missing")
        return self._attributes[oid]


@dataclass(frozen=True, slots=True)
class Answer:
    """TimeStampResp. `status` is that of PKIStatus; `failure` are the names of the bits that are set, `text` what else it says."""

    status: int
    text: str
    failure: tuple[str, ...]
    token: bytes | None

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """Raises NotATimestamp for anything but an answer in DER."""
        if len(data) > MAX_TOKEN_BYTES:
            raise NotATimestamp(f"an answer has at most {MAX_TOKEN_BYTES} bytes")
        info, *rest = _children(one(data, SEQUENCE, "the answer"), (1, 2), "the answer")
        status, *more = _children(info.expect(SEQUENCE, "the status"), (1, 2, 3), "the status")
        texts, bits = b"", b"\0"
        for each in more:
            if each.tag == SEQUENCE:
                texts = b" ".join(line.content for line in each.children())
            else:
                bits = each.expect(BIT_STRING, "the failure").content or b"\0"
        value, width = int.from_bytes(bits[1:]), 8 * (len(bits) - 1)
        failure = tuple(name for bit, name in _FAILURES.items() if bit < width and value >> (width - 1 - bit) & 1)
        token = rest[0].expect(SEQUENCE, "the token").whole if rest else None
        return cls(status.integer("the status"), texts.decode("utf-8", "replace"), failure, token)


def granted(token: bytes) -> bytes:
    """The answer that brings this token, as libraries want it. `token` has more than 255 bytes and less than 64 kB."""
    content = bytes.fromhex("3003020100") + token
    return bytes([SEQUENCE, 0x82]) + len(content).to_bytes(2) + content


def _stamp(data: bytes) -> Stamp:
    version, policy, imprint, serial, time, *rest = _children(one(data, SEQUENCE, "TSTInfo"), range(5, 11), "TSTInfo")
    _require(version.integer("the version of TSTInfo"), 1, "the version of TSTInfo")
    algorithm, hashed = _children(imprint.expect(SEQUENCE, "the imprint"), 2, "the imprint")
    accuracy: timedelta | None = None
    nonce: int | None = None
    place = 0
    for each in rest:  # all of them optional, in this order
        kinds = (SEQUENCE, BOOLEAN, INTEGER, context(0), context(1))
        if each.tag not in kinds[place:]:
            raise NotATimestamp("TSTInfo has a member that is unknown, or not in its place")
        place = kinds.index(each.tag) + 1
        if each.tag == SEQUENCE:
            accuracy = _accuracy(each)
        elif each.tag == INTEGER:
            nonce = each.integer("the nonce")
        elif each.tag == context(1):
            raise NotATimestamp("TSTInfo has extensions, and this release knows none")
    when = _time(time.expect(GENERALIZED_TIME, "the time").content)
    if accuracy is not None and when > _LAST_TIME - accuracy:
        raise NotATimestamp("the time and its accuracy reach beyond the year 9999")
    return Stamp(
        policy=policy.oid("the policy"),
        hash_oid=_oid_of(algorithm, "the hash of the imprint"),
        imprint=hashed.expect(OCTET_STRING, "the imprint").content,
        serial=serial.integer("the serial number"),
        time=when,
        accuracy=accuracy,
        nonce=nonce,
    )


def _time(text: bytes) -> datetime:
    found = _TIME.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        whole = datetime.strptime(found[1].decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise NotATimestamp("the time is none in UTC with seconds, and at most six digits after them") from None
    return whole.replace(microsecond=int((found[2] or b"0").ljust(6, b"0")))


def _accuracy(member: Der) -> timedelta:
    units = {INTEGER: 1_000_000, context(0, constructed=False): 1000, context(1, constructed=False): 1}
    microseconds, last = 0, -1
    for each in member.children():
        place = list(units).index(each.tag) if each.tag in units else -1
        number = Der(INTEGER, each.content, each.whole).integer("the accuracy")
        if place <= last or not 0 <= number <= (86_400 if place == 0 else 999):
            raise NotATimestamp("the accuracy is not seconds (at most a day), milliseconds, microseconds")
        last = place
        microseconds += number * units[each.tag]
    return timedelta(microseconds=microseconds)


def _attributes(member: Der) -> dict[str, Der]:
    """The signed attributes by type, each of which has one value."""
    found: dict[str, Der] = {}
    for attribute in member.children():
        kind, values = _children(attribute.expect(SEQUENCE, "a signed attribute"), 2, "a signed attribute")
        oid, inside = kind.oid("the type of an attribute"), values.expect(SET, "the values of an attribute").children()
        if oid in found or not inside:
            raise NotATimestamp(f"the signed attribute {oid} comes twice, or has no value")
        if oid in (_CONTENT_TYPE, _MESSAGE_DIGEST, _SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2) and len(inside) != 1:
            raise NotATimestamp(f"the signed attribute {oid} has {len(inside)} values")
        found[oid] = inside[0]
    return found


def _algorithm(member: Der, known: Mapping[str, _T], what: str) -> _T:
    oid = _oid_of(member, what)
    if oid not in known:
        raise NotATimestamp(f"{what} {oid} is not one that is believed")
    return known[oid]


def _oid_of(member: Der, what: str) -> str:
    """The object identifier of an AlgorithmIdentifier whose parameters are absent or NULL."""
    kind, *parameters = _children(member.expect(SEQUENCE, what), (1, 2), what)
    if parameters and parameters[0].whole != bytes([NULL, 0]):
        raise NotATimestamp(f"{what} has parameters")
    return kind.oid(what)


def _children(member: Der, number: "int | range | tuple[int, ...]", what: str) -> list[Der]:
    found = member.children()
    if len(found) not in ((number,) if isinstance(number, int) else number):
        raise NotATimestamp(f"{what} has {len(found)} members")
    return found


def _require(actual: object, expected: object, what: str) -> None:
    if actual != expected:
        raise NotATimestamp(f"{what} is {actual}, not {expected}")
