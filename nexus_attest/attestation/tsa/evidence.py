"""Time-stamps as evidence: a token with the nonce that was asked for, in one form, and what it shows to whoever pinned an authority.

Offline and pure. A reader believes certificates that the trust policy names, and nothing that the token brings. The signature is judged
twice: here with the public key of the signer's certificate, and with its chain by OpenSSL, through `rfc3161-client`.

Not judged: whether a certificate was revoked. An authority whose key was stolen is taken out of the trust policy.
"""

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import ExtraMissing, NotATimestamp
from nexus_attest.attestation.members import members_of
from nexus_attest.attestation.stamp import Shown
from nexus_attest.attestation.tsa.token import SHA256, TST_INFO, Token, granted
from nexus_attest.trust import Authority
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.json_data import decode_json
from nexus_control.verification import Finding, VerificationCheck, judge

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["EVIDENCE_TYPE", "LEVEL", "TimestampEvidence", "failures", "judge_timestamp", "require_extra"]

EVIDENCE_TYPE = "nexus.tsa.token/1"
LEVEL = "authority"

_MAX_EVIDENCE_BYTES = 100_000
_MAX_TOKEN_CHARACTERS = 90_000
_NONCE = re.compile("[0-9a-f]{2,64}")
_LEAST_RSA_BITS = 2048
_REASON = re.compile(r"Verify error: ([^\"]{1,200})")


def require_extra() -> None:
    """Raises ExtraMissing unless what time-stamps need is installed."""
    try:
        for name in ("cryptography", "rfc3161_client"):
            import_module(name)
    except ImportError:
        raise ExtraMissing("time-stamps need rfc3161-client: pip install 'nexus-attest[tsa]'") from None


@dataclass(frozen=True, slots=True)
class TimestampEvidence:
    """A token in DER for a statement, and the nonce of the request that it answers."""

    statement: Statement
    nonce: int
    token: bytes = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """`type`; `root` in hex and `size` of the statement; `nonce` in hex; `token` in base64."""
        nonce = f"{self.nonce:x}"
        return {
            "type": EVIDENCE_TYPE,
            "root": self.statement.root.hex(),
            "size": self.statement.size,
            "nonce": nonce.rjust(len(nonce) + len(nonce) % 2, "0"),
            "token": b64encode(self.token).decode(),
        }

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json_bytes(self.to_dict())

    @classmethod
    def from_dict(cls, data: object) -> "TimestampEvidence":
        """The inverse of `to_dict`. Raises NotATimestamp for every other form."""
        given = members_of(data, NotATimestamp, required=("type", "root", "size", "nonce", "token"), optional=())
        root, nonce, token = given["root"], given["nonce"], given["token"]
        try:
            if (
                not isinstance(nonce, str)
                or not _NONCE.fullmatch(nonce)
                or not isinstance(token, str)
                or len(token) > _MAX_TOKEN_CHARACTERS
            ):
                raise ValueError("nonce or token of another form")
            made = cls(Statement(bytes.fromhex(root), given["size"]), int(nonce, 16), b64decode(token, validate=True))
        except (ValueError, TypeError) as problem:
            raise NotATimestamp(f"no evidence of a time-stamp: {problem!s:.200}") from None
        if made.to_dict() != data:
            raise NotATimestamp(f"no evidence of type {EVIDENCE_TYPE} in its one form")
        return made

    @classmethod
    def from_bytes(cls, data: bytes) -> "TimestampEvidence":
        """The inverse of `to_bytes`. Raises NotATimestamp for every other form."""
        try:
            if len(data) > _MAX_EVIDENCE_BYTES:
                raise ValueError(f"more than {_MAX_EVIDENCE_BYTES} bytes")
            made = cls.from_dict(decode_json(data.decode()))
        except ValueError as problem:
            raise NotATimestamp(f"no evidence of a time-stamp: {problem!s:.200}") from None
        if made.to_bytes() != data:
            raise NotATimestamp(f"no evidence of type {EVIDENCE_TYPE} in its one form")
        return made


def judge_timestamp(evidence: TimestampEvidence, authority: Authority) -> tuple[list[VerificationCheck], Shown | None]:
    """Every check of a time-stamp, and what it shows when all have passed.

    `token` (its form), `imprint`, `nonce`, `policy` (when the authority is believed for some only), `signing_certificate`, `key_usage`,
    `certificate_validity`, `signature`, `chain`. A token that cannot be taken apart has the first alone. Raises ExtraMissing.
    """
    require_extra()
    try:
        token = Token(evidence.token)
    except NotATimestamp as problem:
        return [judge("token", partial(iter, [Finding(str(problem))]))], None
    statement, held = evidence.statement, _Held(token, authority)
    checks = [
        judge("token", partial(iter, ())),
        judge("imprint", lambda: _imprint(token, statement)),
        judge("nonce", lambda: _nonce(token, evidence.nonce)),
        judge("policy", lambda: _policy(token, authority)),
        judge("signing_certificate", held.signing_certificate),
        judge("key_usage", held.key_usage),
        judge("certificate_validity", held.validity),
        judge("signature", held.signature),
        judge("chain", lambda: held.chain(statement)),
    ]
    good = all(check.ok for check in checks)
    return checks, Shown(LEVEL, _text(token.stamp.latest), authority.name) if good else None


def _imprint(token: Token, statement: Statement) -> Iterator[Finding]:
    wanted = hashlib.sha256(statement.to_bytes()).digest()
    if (token.stamp.hash_oid, token.stamp.imprint) != (SHA256, wanted):
        yield Finding("the time-stamp is of something else", wanted.hex(), token.stamp.imprint.hex())


def _nonce(token: Token, wanted: int) -> Iterator[Finding]:
    if token.stamp.nonce != wanted:
        yield Finding("the time-stamp answers another request", f"{wanted:x}", f"{token.stamp.nonce or 0:x}")


def _policy(token: Token, authority: Authority) -> Iterator[Finding]:
    if authority.policies and token.stamp.policy not in authority.policies:
        text = f"the time-stamp was made under a policy for which {authority.name} is not believed"
        yield Finding(text, " or ".join(authority.policies), token.stamp.policy)


class _Held:
    """A token beside the certificates that there are: those that it brings, and those that are believed."""

    def __init__(self, token: Token, authority: Authority) -> None:
        self._token = token
        self._pins = authority.certificates
        self._leaf: Certificate | None = None
        self._leaf_bytes = b""
        for data in dict.fromkeys((*token.certificates, *authority.certificates)):
            certificate = _certificate(data)
            if certificate is not None and (certificate.issuer.public_bytes(), certificate.serial_number) == (token.issuer, token.serial):
                self._leaf, self._leaf_bytes = certificate, data
                break

    @property
    def _signer(self) -> "Certificate":
        if self._leaf is None:
            raise NotATimestamp("the certificate of the signer is not there")
        return self._leaf

    def signing_certificate(self) -> Iterator[Finding]:
        """The signed attribute is of the certificate: nobody can put another one for the same key in its place (RFC 5816)."""
        _ = self._signer
        for name, stated in self._token.certificate_hashes:
            actual = hashlib.new(name, self._leaf_bytes, usedforsecurity=name != "sha1").digest()
            if actual != stated:
                yield Finding("the token was signed with another certificate than the one that it brings", stated.hex(), actual.hex())

    def key_usage(self) -> Iterator[Finding]:
        """RFC 3161 section 2.3: for time-stamps, and for nothing else, and marked critical."""
        from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound, KeyUsage  # loaded where it is used
        from cryptography.x509.oid import ExtendedKeyUsageOID

        extensions = self._signer.extensions
        try:
            purposes = extensions.get_extension_for_class(ExtendedKeyUsage)
        except ExtensionNotFound:
            yield Finding("the certificate of the signer says nothing of time-stamps")
            return
        if list(purposes.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
            yield Finding("the certificate of the signer is not for time-stamps alone")
        if not purposes.critical:
            yield Finding("the certificate of the signer does not mark its purpose as critical")
        try:
            usage = extensions.get_extension_for_class(KeyUsage).value
        except ExtensionNotFound:
            return
        if not (usage.digital_signature or usage.content_commitment):
            yield Finding("the key of the signer is not for signatures")

    def validity(self) -> Iterator[Finding]:
        """At the time of the time-stamp, not today: it stays good when the certificate expires."""
        start, end = self._signer.not_valid_before_utc, self._signer.not_valid_after_utc
        if not start <= self._token.stamp.time <= self._token.stamp.latest <= end:
            text = "the certificate of the signer was not valid at the time of the time-stamp"
            yield Finding(text, f"{_text(start)} to {_text(end)}", _text(self._token.stamp.time))

    def signature(self) -> Iterator[Finding]:
        """RFC 5652 section 5.4: the signature is over the attributes, and these hold type and digest of the content."""
        token = self._token
        if token.content_type != TST_INFO:
            yield Finding("what was signed is no time-stamp", TST_INFO, token.content_type)
        digest = hashlib.new(token.digest_name, token.content).digest()
        if token.message_digest != digest:
            yield Finding("another time-stamp was signed", token.message_digest.hex(), digest.hex())
        if not self._verifies():
            yield Finding("the signature is not that of the signer's certificate")

    def _verifies(self) -> bool:
        from cryptography.exceptions import InvalidSignature  # as above
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

        token, key = self._token, self._signer.public_key()
        algorithm = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}[token.digest_name]()
        try:
            if token.key_kind == "rsa" and isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_RSA_BITS:
                key.verify(token.signature, token.signed_bytes, PKCS1v15(), algorithm)
                return True
            if token.key_kind == "ecdsa" and isinstance(key, EllipticCurvePublicKey):
                key.verify(token.signature, token.signed_bytes, ECDSA(algorithm))
                return True
        except InvalidSignature:
            pass
        return False

    def chain(self, statement: Statement) -> Iterator[Finding]:
        """From the signer's certificate to one that is believed, each valid at the time of the time-stamp; or it is believed itself."""
        from rfc3161_client import VerifierBuilder, decode_timestamp_response  # as above

        _ = self._signer
        if self._leaf_bytes in self._pins:
            return
        pins = [pin for pin in map(_certificate, self._pins) if pin is not None]
        reply, message = granted(self._token.sorted()), statement.to_bytes()
        try:
            VerifierBuilder(roots=pins).build().verify_message(decode_timestamp_response(reply), message)
        except Exception as problem:  # foreign code, which has many errors: whichever it is, there is no chain
            found = _REASON.search(str(problem))
            yield Finding(f"no chain to a certificate that is believed: {found[1] if found else str(problem)[:200]}")
        else:
            yield Finding("whether a certificate of the chain was revoked is not judged", fails=False)


def _certificate(data: bytes) -> "Certificate | None":
    """None for bytes that are none."""
    from cryptography.x509 import load_der_x509_certificate  # as above

    try:
        certificate = load_der_x509_certificate(data)
        # Each is read when it is asked for: now, so that no check meets one that cannot be.
        certificate.public_key()
        _ = certificate.issuer, certificate.extensions, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except Exception:  # foreign code, which has many errors for bytes that are no certificate
        return None
    return certificate


def _text(moment: datetime) -> str:
    return moment.isoformat()


def failures(checks: Sequence[VerificationCheck]) -> str:
    """The checks that failed, and why, in one line."""
    return "; ".join(f"{check.name}: {check.detail}" for check in checks if not check.ok)
