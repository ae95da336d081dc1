"""Validators: their keys and manifests, the list that a publisher signs, and signed validations of any ledger.

All keys follow from a seed. Master keys and the publisher's keys are Ed25519, validators sign with secp256k1, as on real networks.
"""

import json
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

from xrpl.core.binarycodec import encode

from nexus_attest.testledger.hashing import Header
from nexus_attest.testledger.keys import Key, ed25519_key, validator_key

__all__ = ["REVOKED", "Validation", "Validator", "Validators", "manifest"]

REVOKED = 0xFFFFFFFF
"""The sequence of a manifest that revokes its master key."""

_FULL, _CANONICAL = 0x00000001, 0x80000000
_YEAR = 365 * 24 * 3600


@dataclass(slots=True)
class Validator:
    """One validator. `rotation` counts its signing keys; `rotate` starts a new one, as an operator would."""

    name: str
    master: Key
    rotation: int = 1

    @property
    def signing(self) -> Key:
        """The key that signs its validations now."""
        return validator_key(f"{self.name} signing {self.rotation}")

    def manifest(self) -> bytes:
        """Its current manifest."""
        return manifest(self.master, self.signing, self.rotation)

    def rotate(self) -> None:
        """Sign with a new key from now on; a list that was published before keeps the old manifest."""
        self.rotation += 1


@dataclass(frozen=True, slots=True)
class Validation:
    """A signed validation: its fields, its bytes, and who signed for which master key."""

    fields: dict[str, Any]
    data: bytes
    signing: Key
    master: Key

    def message(self, network_id: int) -> dict[str, Any]:
        """What the stream `validations` says of it."""
        fields = self.fields
        return {
            "type": "validationReceived",
            "cookie": str(int(fields["Cookie"], 16)),
            "data": self.data.hex().upper(),
            "flags": fields["Flags"],
            "full": bool(fields["Flags"] & _FULL),
            "ledger_hash": fields["LedgerHash"],
            "ledger_index": str(fields["LedgerSequence"]),
            "master_key": self.master.node,
            "network_id": network_id,
            "signature": fields["Signature"],
            "signing_time": fields["SigningTime"],
            "validated_hash": fields["ValidatedHash"],
            "validation_public_key": self.signing.node,
        }


class Validators:
    """`count` validators and the publisher of the list that names them.

    `publisher` is the master key to pin, `publisher_signing` the key that signs lists.
    """

    def __init__(self, seed: str = "test ledger", count: int = 5) -> None:
        self.publisher = _secret(f"{seed} publisher master")
        self.publisher_signing = _secret(f"{seed} publisher signing")
        self.members = tuple(
            Validator(f"{seed} validator {number}", _secret(f"{seed} validator {number} master")) for number in range(count)
        )

    @property
    def pin(self) -> str:
        """The publisher's master key in capital hex digits."""
        return self.publisher.hex

    @property
    def quorum(self) -> int:
        """How many validators must agree: four fifths, rounded up."""
        return -(-len(self.members) * 4 // 5)

    def published(self, start: int, *, sequence: int = 1, expiration: int | None = None, effective: int | None = None) -> dict[str, Any]:
        """The list as its publisher serves it, version 1. Times are seconds since 2000; it expires a year after `start` unless said."""
        listed = [{"validation_public_key": item.master.hex, "manifest": _base64(item.manifest())} for item in self.members]
        content: dict[str, Any] = {"sequence": sequence, "expiration": start + _YEAR if expiration is None else expiration}
        if effective is not None:
            content["effective"] = effective
        blob = json.dumps({**content, "validators": listed}).encode()
        return {
            "public_key": self.pin,
            "manifest": _base64(manifest(self.publisher, self.publisher_signing, 1)),
            "blob": _base64(blob),
            "signature": self.publisher_signing.sign(blob).hex().upper(),
            "version": 1,
        }

    def validate(self, header: Header, signers: Iterable[int] | None = None, *, full: bool = True) -> list[Validation]:
        """Validations of a ledger, whatever ledger it is, by the members with these numbers; by all of them unless said."""
        numbers = range(len(self.members)) if signers is None else signers
        return [_validation(self.members[number].signing, self.members[number].master, header, full) for number in numbers]

    def by_key(self, key: str) -> Validator | None:
        """The member with this master or signing key, in hex or as `n...`."""
        return next(
            (item for item in self.members if key in (item.master.hex, item.master.node, item.signing.hex, item.signing.node)), None
        )


def manifest(master: Key, signing: Key | None, sequence: int, domain: str | None = None) -> bytes:
    """A manifest: the master key says which key signs from now on; without one (and with the sequence REVOKED) that none does."""
    fields: dict[str, Any] = {"Sequence": sequence, "PublicKey": master.hex}
    if domain is not None:
        fields["Domain"] = domain.encode().hex().upper()
    if signing is not None:
        fields["SigningPubKey"] = signing.hex
    message = b"MAN\0" + bytes.fromhex(encode(fields))
    if signing is not None:
        fields["Signature"] = signing.sign(message).hex().upper()
    fields["MasterSignature"] = master.sign(message).hex().upper()
    return bytes.fromhex(encode(fields))


@lru_cache(maxsize=4096)
def _validation(signing: Key, master: Key, header: Header, full: bool) -> Validation:
    ledger = header.hash().hex().upper()
    fields: dict[str, Any] = {
        "Flags": _CANONICAL | (_FULL if full else 0),
        "LedgerSequence": header.index,
        "SigningTime": header.close_time,
        "Cookie": sha256(signing.public).hexdigest()[:16].upper(),
        "ServerVersion": "1841000000000000",
        "LedgerHash": ledger,
        "ConsensusHash": header.transaction_root.hex().upper(),
        "ValidatedHash": header.parent_hash.hex().upper(),
        "SigningPubKey": signing.hex,
    }
    fields["Signature"] = signing.sign(b"VAL\0" + bytes.fromhex(encode(fields))).hex().upper()
    return Validation(fields, bytes.fromhex(encode(fields)), signing, master)


def _secret(name: str) -> Key:
    return ed25519_key(sha256(name.encode()).digest())


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
