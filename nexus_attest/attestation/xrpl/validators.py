"""Who validates: manifests, the lists that publishers sign, and validations of ledgers, all as signed bytes.

A manifest is a validator's, or a publisher's, statement which key signs for it from now on. What is read here is checked for its one
encoding; signatures are checked by the methods that say so. Formats: rippled (Manifest.cpp, ValidatorList.cpp, STValidation.cpp), XLS-41.
Everything that is wrong is ProofRefused.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from nexus_attest.attestation.errors import NotATransaction, ProofRefused
from nexus_attest.attestation.xrpl.codec import decode_object, encode_transaction, fully_canonical, verify_payload
from nexus_attest.attestation.xrpl.ledger_header import LedgerHeader
from nexus_control.json_data import decode_json

__all__ = [
    "MAX_VALIDATORS",
    "Manifest",
    "PublishedList",
    "Validation",
    "ValidatorList",
    "base64_bytes",
    "hex_bytes",
    "published_lists",
    "quorum_of",
    "revoked_by",
]

MAX_VALIDATORS = 200
"""Of one list."""

_MAX_MANIFEST_BYTES = 1024
_MAX_VALIDATION_BYTES = 4 * 1024
_MAX_LIST_BYTES = 1024 * 1024
_MAX_BLOBS = 8
_LIST_MEMBERS = ("public_key", "manifest", "blob", "signature", "version")
_REVOKED = 0xFFFFFFFF
_FULL = 0x00000001
_KEY = re.compile("(?:ED|02|03)[0-9A-F]{64}")
_MOST_SECONDS = 2**32 - 1


def quorum_of(validators: int) -> int:
    """How many of so many validators must agree: four fifths, rounded up."""
    return -(-4 * validators // 5)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which key signs for a master key; the highest `sequence` holds. Keys are 33 bytes in capital hex digits."""

    master: str
    signing: str
    sequence: int
    signed: bytes
    signature: bytes
    master_signature: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """A manifest; its signatures are not checked yet. Raises ProofRefused, for a revocation too."""
        fields = _decoded(data, _MAX_MANIFEST_BYTES, "manifest")
        sequence = fields.get("Sequence")
        if type(sequence) is not int:
            raise ProofRefused("a manifest has no Sequence")
        if sequence == _REVOKED:
            raise ProofRefused("a manifest revokes its master key")
        signature, master_signature = _taken(fields, "Signature", "manifest"), _taken(fields, "MasterSignature", "manifest")
        master, signing = (_key(fields.get(name), f"{name} of a manifest") for name in ("PublicKey", "SigningPubKey"))
        return cls(master, signing, sequence, b"MAN\0" + encode_transaction(fields), signature, master_signature)

    def require_signed(self) -> None:
        """Raises ProofRefused unless both keys signed it."""
        if not _signed(self.master, self.signed, self.master_signature):
            raise ProofRefused(f"the manifest of {self.master} is not signed by its master key")
        if not _signed(self.signing, self.signed, self.signature):
            raise ProofRefused(f"the manifest of {self.master} is not signed by its signing key")


def revoked_by(data: bytes) -> str | None:
    """The master key that says, in these bytes, that it is revoked and stays so; None for everything else."""
    try:
        fields = _decoded(data, _MAX_MANIFEST_BYTES, "manifest")
        master_signature = _taken(fields, "MasterSignature", "manifest")
        master = _key(fields.get("PublicKey"), "PublicKey of a manifest")
    except ProofRefused:
        return None
    fields.pop("Signature", None)  # of a signing key, which has no say any more
    revoked = fields.get("Sequence") == _REVOKED and _signed(master, b"MAN\0" + encode_transaction(fields), master_signature)
    return master if revoked else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedList:
    """A list of validators as its publisher serves it: bytes, and a signature over `blob`. `public_key` is what it calls its master key."""

    public_key: str
    manifest: bytes
    blob: bytes
    signature: bytes

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A list of version 1, or one of a version 2 in the same form. Raises ProofRefused."""
        if unknown := [key for key in data if key not in _LIST_MEMBERS]:
            raise ProofRefused(f"a validator list has the unknown member {unknown[0]!r:.100}")
        if type(data.get("version")) is not int or data["version"] not in (1, 2):
            raise ProofRefused(f"a validator list of version {data.get('version')!r:.100}, not 1 or 2")
        return cls(
            public_key=_key(data.get("public_key"), "public_key of a validator list"),
            manifest=base64_bytes(data.get("manifest"), _MAX_MANIFEST_BYTES, "manifest of a validator list"),
            blob=base64_bytes(data.get("blob"), _MAX_LIST_BYTES, "blob of a validator list"),
            signature=hex_bytes(data.get("signature"), 128, "signature of a validator list"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The list in the form of version 1."""
        return {
            "public_key": self.public_key,
            "manifest": b64encode(self.manifest).decode(),
            "blob": b64encode(self.blob).decode(),
            "signature": self.signature.hex().upper(),
            "version": 1,
        }


def published_lists(document: object) -> list[PublishedList]:
    """The lists in what a publisher serves: one in version 1, in version 2 several, of which later ones are for the time to come.

    Nothing is checked but the form. Raises ProofRefused.
    """
    if not isinstance(document, dict):
        raise ProofRefused("a validator list must be an object")
    served = cast("dict[str, Any]", document)
    entries: object = served.get("blobs_v2")
    if entries is None:
        return [PublishedList.from_dict({key: served[key] for key in _LIST_MEMBERS if key in served})]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast("list[object]", entries)):
        raise ProofRefused("blobs_v2 must be an array of objects")
    found: list[PublishedList] = []
    for entry in cast("list[dict[str, Any]]", entries)[:_MAX_BLOBS]:
        own = {"public_key": served.get("public_key"), "manifest": entry.get("manifest", served.get("manifest")), "version": 2}
        found.append(PublishedList.from_dict({**own, "blob": entry.get("blob"), "signature": entry.get("signature")}))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatorList:
    """What a publisher said: which validators, from `effective` until before `expiration` (seconds since 2000).

    `manifests` has a validator's manifest, as bytes, by its master key.
    """

    publisher: str
    sequence: int
    effective: int
    expiration: int
    manifests: Mapping[str, bytes]

    @classmethod
    def from_published(cls, published: PublishedList) -> Self:
        """The list, its signatures checked: the publisher's master key vouches for its signing key, and that one for the list."""
        manifest = Manifest.from_bytes(published.manifest)
        if manifest.master != published.public_key:
            raise ProofRefused("a validator list names another publisher than its manifest")
        manifest.require_signed()
        if not _signed(manifest.signing, published.blob, published.signature):
            raise ProofRefused(f"a validator list is not signed by its publisher {manifest.master}")
        try:
            content: object = decode_json(published.blob.decode())
        except ValueError as problem:
            raise ProofRefused(f"a validator list is no JSON: {problem!s:.200}") from None
        if not isinstance(content, dict):
            raise ProofRefused("a validator list must be an object")
        fields = cast("dict[str, Any]", content)
        return cls(
            publisher=manifest.master,
            sequence=_number(fields.get("sequence"), "sequence"),
            effective=_number(fields.get("effective", 0), "effective"),
            expiration=_number(fields.get("expiration"), "expiration"),
            manifests=_members(fields.get("validators")),
        )

    def in_force(self, header: LedgerHeader) -> bool:
        """Whether it was the list to go by when this ledger closed; what holds today is of no interest to an archive."""
        return self.effective <= header.close_time < self.expiration


@dataclass(frozen=True, slots=True)
class Validation:
    """A validator's vote for a ledger. `full` is False for a vote that only says what it has."""

    signing: str
    ledger_hash: bytes
    ledger_index: int
    full: bool
    signed: bytes
    signature: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """A vote; its signature is not checked yet. Raises ProofRefused."""
        fields = _decoded(data, _MAX_VALIDATION_BYTES, "validation")
        signature = _taken(fields, "Signature", "validation")
        index, flags, ledger_hash = fields.get("LedgerSequence"), fields.get("Flags"), fields.get("LedgerHash")
        if type(index) is not int or type(flags) is not int or not isinstance(ledger_hash, str):
            raise ProofRefused("a validation has no LedgerSequence, Flags or LedgerHash")
        signing = _key(fields.get("SigningPubKey"), "SigningPubKey of a validation")
        return cls(signing, bytes.fromhex(ledger_hash), index, bool(flags & _FULL), b"VAL\0" + encode_transaction(fields), signature)

    def is_signed(self) -> bool:
        """Whether its signing key signed it."""
        return _signed(self.signing, self.signed, self.signature)


def _signed(key: str, message: bytes, signature: bytes) -> bool:
    """Whether a key signed these bytes, in the one form that a signature has."""
    return (key.startswith("ED") or fully_canonical(signature) == signature) and verify_payload(key, message, signature)


def _decoded(data: bytes, limit: int, what: str) -> dict[str, Any]:
    if len(data) > limit:
        raise ProofRefused(f"a {what} has more than {limit} bytes")
    try:
        fields = decode_object(data, depth=0)
        encoded = encode_transaction(fields)
    except NotATransaction as problem:
        raise ProofRefused(f"a {what} cannot be read: {problem}") from None
    if encoded != data:
        raise ProofRefused(f"a {what} is not in its one encoding")
    return fields


def _taken(fields: dict[str, Any], name: str, what: str) -> bytes:
    """A signature, which is taken out of the fields: it is not part of what is signed."""
    value = fields.pop(name, None)
    if not isinstance(value, str):
        raise ProofRefused(f"a {what} has no {name}")
    return bytes.fromhex(value)


def _members(value: object) -> dict[str, bytes]:
    if not isinstance(value, list):
        raise ProofRefused("a validator list names no validators")
    entries = cast("list[object]", value)
    if not 1 <= len(entries) <= MAX_VALIDATORS:
        raise ProofRefused(f"a validator list names 1 to {MAX_VALIDATORS} validators, not {len(entries)}")
    members: dict[str, bytes] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise ProofRefused("a validator of a list must be an object")
        fields = cast("dict[str, Any]", entry)
        key = _key(fields.get("validation_public_key"), "validation_public_key")
        if key in members:
            raise ProofRefused(f"a validator list names {key} twice")
        members[key] = base64_bytes(fields.get("manifest"), _MAX_MANIFEST_BYTES, "manifest of a validator")
    return members


def _key(value: object, what: str) -> str:
    key = value.upper() if isinstance(value, str) else ""
    if not _KEY.fullmatch(key):
        raise ProofRefused(f"{what} must be a public key of 33 bytes in hex, got {value!r:.100}")
    return key


def _number(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_SECONDS:
        raise ProofRefused(f"{what} of a validator list must be a number of 32 bits, got {value!r:.100}")
    return value


def hex_bytes(value: object, limit: int, what: str) -> bytes:
    """Bytes from hex digits. Raises ProofRefused, for more than `limit` bytes too."""
    if not isinstance(value, str) or len(value) > limit * 2:
        raise ProofRefused(f"{what} must be hex digits of at most {limit} bytes")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ProofRefused(f"{what} is no hex") from None


def base64_bytes(value: object, limit: int, what: str) -> bytes:
    """Bytes from base64. Raises ProofRefused, for more than `limit` bytes too."""
    if not isinstance(value, str) or len(value) > limit * 4 // 3 + 4:
        raise ProofRefused(f"{what} must be base64 of at most {limit} bytes")
    try:
        return b64decode(value, validate=True)
    except ValueError:
        raise ProofRefused(f"{what} is no base64") from None
