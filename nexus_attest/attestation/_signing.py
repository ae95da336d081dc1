"""Signed attestations: somebody's Ed25519 signature over the binding digest of an audit package, and what is claimed about it.

An attestation is an overlay: it refers to the package by digest and never changes it. It says who vouches for what; whom to believe is
the verifier's business.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from nexus_attest.attestation.errors import InvalidAttestation
from nexus_attest.attestation.members import members_of, require_str
from nexus_attest.ed25519 import verify
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.events import utc_now
from nexus_control.integrity import DIGEST_PATTERN, PREFIX, digests_equal
from nexus_control.verification import VerificationCheck, VerificationResult

if TYPE_CHECKING:
    from nacl.signing import SigningKey, VerifyKey

    from nexus_attest.signer import Signer

__all__ = [
    "ATTESTATION_ERROR_CLAIMS_EMPTY",
    "ATTESTATION_ERROR_DIGEST_FORMAT",
    "ATTESTATION_ERROR_SIGNATURE_INVALID",
    "ATTESTATION_ERROR_VERSION_UNKNOWN",
    "ATTESTATION_VERSION",
    "VERIFY_ATTESTATION_VERSION",
    "VERIFY_CLAIMS_NON_EMPTY",
    "VERIFY_DIGEST_FORMAT",
    "VERIFY_SIGNATURE",
    "Attestation",
    "AttestationPayload",
    "AttestationVerificationResult",
    "Attestor",
    "create_attestation",
    "generate_signing_key",
    "get_public_key_hex",
    "public_key_from_hex",
    "sign_attestation",
    "verify_attestation_signature",
]

ATTESTATION_VERSION = "0.7"

ATTESTATION_ERROR_SIGNATURE_INVALID = "SIGNATURE_INVALID"
ATTESTATION_ERROR_VERSION_UNKNOWN = "VERSION_UNKNOWN"
ATTESTATION_ERROR_CLAIMS_EMPTY = "CLAIMS_EMPTY"
ATTESTATION_ERROR_DIGEST_FORMAT = "DIGEST_FORMAT_INVALID"

VERIFY_SIGNATURE = "signature_valid"
VERIFY_ATTESTATION_VERSION = "attestation_version"
VERIFY_CLAIMS_NON_EMPTY = "claims_non_empty"
VERIFY_DIGEST_FORMAT = "binding_digest_format"

_VERIFY_DIGEST_MATCH = "binding_digest_match"
_SIGNATURE = re.compile("[0-9A-Fa-f]{128}")
_PUBLIC_KEY = re.compile("[0-9A-Fa-f]{64}")
_VERIFY_ID = "attestation_id"
_VERIFY_FULL_FORMAT = "binding_digest_full_format"


@dataclass(frozen=True)
class Attestor:
    """Who attests, with which key. `role` is told beside the signature, not under it."""

    id: str
    key_id: str
    role: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`id` and `key_id`; `role` when there is one."""
        data = {"id": self.id, "key_id": self.key_id}
        return data if self.role is None else {**data, "role": self.role}


@dataclass(frozen=True)
class AttestationPayload:
    """What is signed."""

    attestation_version: str
    binding_digest: str
    claims: tuple[str, ...]
    attestor: Attestor
    signed_at: str

    def to_dict(self) -> dict[str, Any]:
        """The signed members: claims sorted, the attestor without its role."""
        return {
            "attestation_version": self.attestation_version,
            "binding_digest": self.binding_digest,
            "claims": sorted(self.claims),
            "attestor": {"id": self.attestor.id, "key_id": self.attestor.key_id},
            "signed_at": self.signed_at,
        }


@dataclass(frozen=True)
class Attestation:
    """A payload and its signature, 128 hex digits. `meta` is outside of the signature."""

    attestation_id: str
    payload: AttestationPayload
    signature: str
    meta: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """`meta` only when there is any."""
        data: dict[str, Any] = {
            "attestation_id": self.attestation_id,
            "payload": self.payload.to_dict(),
            "signature": self.signature,
        }
        return {**data, "meta": dict(self.meta)} if self.meta else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Attestation":
        """The inverse of `to_dict`, except that a role, which no payload has, stays in `meta`. Raises InvalidAttestation."""
        whole = members_of(data, InvalidAttestation, required=("attestation_id", "payload", "signature"), optional=("meta",))
        payload = members_of(
            whole["payload"],
            InvalidAttestation,
            required=("attestation_version", "binding_digest", "claims", "attestor", "signed_at"),
            optional=(),
        )
        attestor = members_of(payload["attestor"], InvalidAttestation, required=("id", "key_id"), optional=())
        claims, meta = payload["claims"], whole.get("meta", {})
        if not isinstance(claims, list) or not isinstance(meta, dict):
            raise InvalidAttestation("claims must be an array, and meta an object")
        for members, names in (
            (whole, ("attestation_id", "signature")),
            (payload, ("attestation_version", "binding_digest", "signed_at")),
            (attestor, ("id", "key_id")),
        ):
            for name in names:
                require_str(members[name], name, InvalidAttestation)
        texts = tuple(require_str(claim, "a claim", InvalidAttestation) for claim in cast("list[object]", claims))
        payload |= {"claims": texts, "attestor": Attestor(**attestor)}
        made = AttestationPayload(**payload)
        return cls(whole["attestation_id"], made, whole["signature"], dict(cast("dict[str, Any]", meta)))


@dataclass
class AttestationVerificationResult:
    """All checks that were run; `ok` when every one passed."""

    ok: bool
    checks: list[VerificationCheck]

    def to_dict(self) -> dict[str, Any]:
        """`ok`, `checks`, and their numbers `passed`, `failed`, `total`."""
        return VerificationResult(self.ok, self.checks).to_dict()


def generate_signing_key() -> "SigningKey":
    """A new key of PyNaCl, from the randomness of the operating system."""
    from nacl.signing import SigningKey  # PyNaCl, loaded where it is used

    return SigningKey.generate()


def get_public_key_hex(signing_key: "SigningKey") -> str:
    """The public key, 64 hex digits."""
    return bytes(signing_key.verify_key).hex()


def public_key_from_hex(hex_string: str) -> "VerifyKey":
    """The inverse of `get_public_key_hex`. Raises ValueError for anything but 64 hex digits."""
    from nacl.signing import VerifyKey  # as above

    if not _PUBLIC_KEY.fullmatch(require_str(hex_string, "public key", InvalidAttestation)):
        raise InvalidAttestation(f"a public key is 64 hex digits, not {hex_string!r:.100}")
    return VerifyKey(bytes.fromhex(hex_string))


def create_attestation(
    binding_digest: str, claims: list[str], attestor: Attestor, private_key: "SigningKey", signed_at: str | None = None
) -> Attestation:
    """Sign claims about a package. `binding_digest` is prefixed; `signed_at` is now when None.

    Neither the form of the digest nor that there is a claim is enforced here: verification says so. Raises InvalidAttestation when a
    member is no string.
    """
    payload = _payload(binding_digest, claims, attestor, signed_at)
    return _signed(payload, bytes(private_key.verify_key), lambda message: private_key.sign(message).signature)


def sign_attestation(
    binding_digest: str, claims: list[str], attestor: Attestor, signer: "Signer", signed_at: str | None = None
) -> Attestation:
    """The same with a key that only its signer holds. Raises SignerFailed too."""
    return _signed(_payload(binding_digest, claims, attestor, signed_at), signer.public_key, signer.sign)


def verify_attestation_signature(
    attestation: Attestation, public_key: "VerifyKey", *, expected_binding_digest: str | None = None, strict: bool = False
) -> AttestationVerificationResult:
    """Whether this key signed this attestation, and whether it is one that means something: all checks always run.

    `expected_binding_digest`, prefixed or raw, adds a comparison with the digest of a package that is at hand. `strict` demands the full
    form of the digest and recomputes the id. Malformed content is a failed check, never an exception.
    """
    payload = attestation.payload
    signature = _signature_of(attestation)
    signed = _signed_bytes(payload)
    good = signature is not None and signed is not None and verify(bytes(public_key), signed, signature)
    has_prefix = isinstance(cast("object", payload.binding_digest), str) and payload.binding_digest.startswith(PREFIX)
    checks = [
        _check(VERIFY_SIGNATURE, good, ATTESTATION_ERROR_SIGNATURE_INVALID),
        VerificationCheck(
            VERIFY_ATTESTATION_VERSION,
            ok=payload.attestation_version == ATTESTATION_VERSION,
            expected=ATTESTATION_VERSION,
            actual=str(payload.attestation_version),
            detail=None if payload.attestation_version == ATTESTATION_VERSION else ATTESTATION_ERROR_VERSION_UNKNOWN,
        ),
        _check(VERIFY_CLAIMS_NON_EMPTY, bool(payload.claims), ATTESTATION_ERROR_CLAIMS_EMPTY),
        _check(VERIFY_DIGEST_FORMAT, has_prefix, ATTESTATION_ERROR_DIGEST_FORMAT),
    ]
    if expected_binding_digest is not None:
        same = digests_equal(payload.binding_digest, expected_binding_digest)
        checks.append(VerificationCheck(_VERIFY_DIGEST_MATCH, same, expected_binding_digest, str(payload.binding_digest)))
    if strict:
        actual = None if signature is None else _id_of(signature)
        checks.append(VerificationCheck(_VERIFY_ID, attestation.attestation_id == actual, str(attestation.attestation_id), actual))
        whole = has_prefix and DIGEST_PATTERN.fullmatch(payload.binding_digest) is not None
        checks.append(_check(_VERIFY_FULL_FORMAT, whole, ATTESTATION_ERROR_DIGEST_FORMAT))
    return AttestationVerificationResult(all(check.ok for check in checks), checks)


def _payload(binding_digest: str, claims: list[str], attestor: Attestor, signed_at: str | None) -> AttestationPayload:
    if isinstance(claims, str):
        raise InvalidAttestation("claims must be a list of strings, got one string")
    for name in ("id", "key_id"):
        require_str(getattr(attestor, name), f"attestor.{name}", InvalidAttestation)
    return AttestationPayload(
        attestation_version=ATTESTATION_VERSION,
        binding_digest=require_str(binding_digest, "binding_digest", InvalidAttestation),
        claims=tuple(sorted(require_str(claim, "a claim", InvalidAttestation) for claim in claims)),
        attestor=attestor,
        signed_at=utc_now().isoformat() if signed_at is None else require_str(signed_at, "signed_at", InvalidAttestation),
    )


def _signed(payload: AttestationPayload, public_key: bytes, sign: Callable[[bytes], bytes]) -> Attestation:
    signature = sign(canonical_json_bytes(payload.to_dict()))
    meta = {"public_key_hex": public_key.hex()}
    if payload.attestor.role is not None:
        meta["role"] = payload.attestor.role
    return Attestation(_id_of(signature), payload, signature.hex(), meta)


def _check(name: str, ok: bool, code: str) -> VerificationCheck:
    return VerificationCheck(name, ok=ok, detail=None if ok else code)


def _id_of(signature: bytes) -> str:
    return f"att_{sha256(signature).hexdigest()[:16]}"


def _signature_of(attestation: Attestation) -> bytes | None:
    """Its bytes, None unless it is 128 hex digits; blanks among them, which `bytes.fromhex` overlooks, are none."""
    text = cast("object", attestation.signature)
    return bytes.fromhex(text) if isinstance(text, str) and _SIGNATURE.fullmatch(text) else None


def _signed_bytes(payload: AttestationPayload) -> bytes | None:
    """The bytes that a signature of this version is over: one under another version's name does not pass for it."""
    try:
        return canonical_json_bytes({**payload.to_dict(), "attestation_version": ATTESTATION_VERSION})
    except (ValueError, TypeError):
        return None
