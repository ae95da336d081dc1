"""A time-stamp authority of this machine: certificates made here, tokens made by the program `openssl`, over real HTTP.

Without `openssl` the tests that need it are skipped, or fail where it is required.
"""

import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from http_server import Service, service

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.trust import Authority

REQUIRED = "NEXUS_ATTEST_REQUIRE_OPENSSL"
"""Set to 1, as the build does, a missing `openssl` is a failure."""

_REQUIRED = os.environ.get(REQUIRED) == "1"
"""Read when this is imported: within tests, variables of this project are not set."""

NOW = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251 - the clock of `openssl` is the machine's
STATEMENT = Statement(bytes(range(32)), 1000)
POLICY = "1.3.6.1.4.1.57264.2"
TIME_STAMPING = ExtendedKeyUsageOID.TIME_STAMPING

_CONFIGURATION = f"""
[tsa]
default_tsa = local
[local]
serial = ./serial
crypto_device = builtin
default_policy = {POLICY}
other_policies = 1.2.3.4.5
digests = sha256, sha512
signer_digest = sha256
accuracy = secs:1, millisecs:500
clock_precision_digits = 3
ess_cert_id_alg = sha256
"""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def openssl() -> str:
    """The program."""
    found = shutil.which("openssl")
    if found is None:
        reason = "there is no program openssl here"
        if _REQUIRED:
            pytest.fail(f"{REQUIRED}=1, but {reason}")
        pytest.skip(reason)
    return found


@dataclass(frozen=True)
class Holder:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: Key

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def certified(
    name: str,
    issuer: Holder | None = None,
    *,
    ca: bool = False,
    purposes: Sequence[x509.ObjectIdentifier] = (TIME_STAMPING,),
    critical: bool = True,
    signs: bool = True,
    start: datetime = NOW - timedelta(days=30),
    end: datetime = NOW + timedelta(days=30),
    key: Key | None = None,
    serial: int | None = None,
) -> Holder:
    """A new certificate; self-signed without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(_usage(ca=ca, signs=signs), critical=True)
    )
    if not ca and purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=critical)
    return Holder(builder.sign(key if issuer is None else issuer.key, hashes.SHA256()), key)


def _usage(*, ca: bool, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs and not ca,
        content_commitment=False,
        key_encipherment=not signs and not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class LocalAuthority:
    """`openssl ts` with a certificate. `extra` are certificates that it puts beside its own."""

    def __init__(self, folder: Path, signer: Holder, *, extra: Sequence[Holder] = ()) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.signer = folder, signer
        (folder / "openssl.cnf").write_text(_CONFIGURATION)
        (folder / "serial").write_text("01\n")
        (folder / "signer.pem").write_bytes(signer.pem)
        (folder / "signer.key").write_bytes(signer.key_pem)
        (folder / "extra.pem").write_bytes(b"".join(holder.pem for holder in extra))
        self._extra = ["-chain", "extra.pem"] if extra else []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """The program in the folder of the authority, with its configuration."""
        environment = {**os.environ, "OPENSSL_CONF": "openssl.cnf"}
        done = subprocess.run([openssl(), *arguments], cwd=self.folder, env=environment, capture_output=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done

    def reply(self, request: bytes) -> bytes:
        """The whole answer to a request, in DER."""
        (self.folder / "request").write_bytes(request)
        signer = ["-signer", "signer.pem", "-inkey", "signer.key", *self._extra]
        self.run("ts", "-reply", "-config", "openssl.cnf", "-queryfile", "request", *signer, "-out", "reply")
        return (self.folder / "reply").read_bytes()

    def token_for(self, content: bytes, *, nonce: int | None = 0x1234) -> bytes:
        """A token over the SHA-256 of `content`."""
        return token_of(self.reply(request_for(content, nonce=nonce)))

    def forged(self, content: bytes, *, signer: Holder | None = None, digest: str = "sha256", ess: bool = True) -> bytes:
        """A token over any TSTInfo, by any certificate: what `openssl ts` would never sign."""
        holder = self.signer if signer is None else signer
        (self.folder / "content").write_bytes(content)
        (self.folder / "forger.pem").write_bytes(holder.pem)
        (self.folder / "forger.key").write_bytes(holder.key_pem)
        form = ["-binary", "-nodetach", "-nosmimecap", "-outform", "DER", "-econtent_type", "1.2.840.113549.1.9.16.1.4"]
        who = ["-signer", "forger.pem", "-inkey", "forger.key", "-md", digest, *(["-cades"] if ess else [])]
        self.run("cms", "-sign", "-in", "content", *form, *who, "-out", "forged")
        return (self.folder / "forged").read_bytes()


@contextmanager
def served(authority: LocalAuthority) -> Generator[Service]:
    """The authority over HTTP."""

    def script(connection: socket.socket) -> None:
        connection.sendall(http(authority.reply(found.body())))

    with service(script) as found:
        yield found


def http(body: bytes, *, status: str = "200 OK", kind: str = "application/timestamp-reply") -> bytes:
    """An answer over HTTP."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def pinned(*holders: Holder, policies: tuple[str, ...] = ()) -> Authority:
    """Belief in these certificates."""
    return Authority("local", tuple(holder.der for holder in holders), policies)


# DER, written


def tlv(tag: int, *content: bytes) -> bytes:
    """One value."""
    inside = b"".join(content)
    size = len(inside)
    length = bytes([size]) if size < 0x80 else bytes([0x80 | (size.bit_length() + 7) // 8]) + size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag]) + length + inside


def integer(number: int) -> bytes:
    """An INTEGER."""
    return tlv(2, number.to_bytes(number.bit_length() // 8 + 1, signed=True))


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    groups: list[bytes] = []
    for number in (40 * first + second, *rest):
        septets = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
        groups.append(bytes([*(0x80 | septet for septet in reversed(septets[1:])), septets[0]]))
    return tlv(6, *groups)


SHA256_ALGORITHM = tlv(0x30, oid("2.16.840.1.101.3.4.2.1"), tlv(5))


def request_for(content: bytes, *, nonce: int | None = 0x1234) -> bytes:
    """TimeStampReq for SHA-256, with the certificate."""
    imprint = tlv(0x30, SHA256_ALGORITHM, tlv(4, hashlib.sha256(content).digest()))
    return tlv(0x30, integer(1), imprint, *([] if nonce is None else [integer(nonce)]), tlv(1, b"\xff"))


def tst_info(
    content: bytes = b"",
    *,
    imprint: bytes | None = None,
    time: str | None = None,
    nonce: int = 0x1234,
    policy: str = POLICY,
    version: int = 1,
    rest: bytes = b"",
) -> bytes:
    """A TSTInfo; by default one that is good for `content` now."""
    hashed = hashlib.sha256(content).digest() if imprint is None else imprint
    said = NOW.strftime("%Y%m%d%H%M%SZ") if time is None else time
    made = tlv(0x30, SHA256_ALGORITHM, tlv(4, hashed))
    return tlv(0x30, integer(version), oid(policy), made, integer(7), tlv(0x18, said.encode()), integer(nonce), rest)


def refusal(status: int = 2, *, bit: int | None = None, text: str = "") -> bytes:
    """An answer without a token; `bit` of PKIFailureInfo is set."""
    failure = b"" if bit is None else tlv(3, bytes([7 - bit % 8]) + bytes(bit // 8) + bytes([0x80 >> bit % 8]))
    told = tlv(0x30, tlv(0x0C, text.encode())) if text else b""
    return tlv(0x30, tlv(0x30, integer(status), told, failure))


def token_of(reply: bytes) -> bytes:
    """The token in an answer."""
    head = 2 if reply[1] < 0x80 else 2 + (reply[1] & 0x7F)
    inside = reply[head:]
    return inside[2 + inside[1] :]
