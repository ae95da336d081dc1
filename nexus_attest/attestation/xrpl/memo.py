"""What is written on the ledger: one memo per intent, canonical JSON of digests and names, at most 700 bytes.

Labels and claims are never in it. A ledger memo is public for ever.
"""

import re
from typing import Any, cast

from nexus_attest.attestation.errors import InvalidAnchor
from nexus_attest.attestation.intent import AttestationIntent
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.integrity import prefixed, sha256_digest
from nexus_control.json_data import decode_json

__all__ = [
    "MAX_MEMO_BYTES",
    "MEMO_TYPE",
    "MEMO_TYPE_HEX",
    "MEMO_VERSION",
    "MemoCodec",
    "build_memo_payload",
    "encode_memo_hex",
    "memo_digest",
    "serialize_memo",
    "validate_memo_size",
]

MEMO_VERSION = "0.1"
MEMO_TYPE = "nexus.attest"
MEMO_TYPE_HEX = MEMO_TYPE.encode().hex()
MAX_MEMO_BYTES = 700
"""The ledger allows 1 KB for all memos of a transaction, framing included
(https://xrpl.org/docs/references/protocol/transactions/common-fields#memos-field).
"""

_HEX = re.compile("[0-9A-Fa-f]*")
_REQUIRED = ("v", "t", "id", "st", "bd")


def build_memo_payload(intent: AttestationIntent) -> dict[str, str]:
    """The memo of an intent. Absent members are left out, never null."""
    payload = {
        "v": MEMO_VERSION,
        "t": MEMO_TYPE,
        "id": prefixed(intent.intent_digest()),
        "st": intent.subject_type,
        "bd": intent.binding_digest,
    }
    optional = {"pv": intent.package_version, "rid": intent.run_id, "env": intent.env, "ten": intent.tenant}
    return {**payload, **{key: value for key, value in optional.items() if value is not None}}


def serialize_memo(payload: dict[str, str]) -> bytes:
    """Canonical JSON."""
    return canonical_json_bytes(payload)


def memo_digest(payload_bytes: bytes) -> str:
    """Prefixed digest of the bytes that go on the ledger, before hex."""
    return prefixed(sha256_digest(payload_bytes))


def encode_memo_hex(payload_bytes: bytes) -> str:
    """Lowercase hex, as `MemoData` holds it."""
    return payload_bytes.hex()


def validate_memo_size(payload_bytes: bytes) -> bool:
    """Whether the ledger takes it."""
    return len(payload_bytes) <= MAX_MEMO_BYTES


class MemoCodec:
    """Memos of intents, in hex, and back."""

    @staticmethod
    def encode(intent: AttestationIntent) -> str:
        """`MemoData` of an intent. Raises InvalidAnchor, a ValueError, when it is too long."""
        payload = serialize_memo(build_memo_payload(intent))
        if not validate_memo_size(payload):
            raise InvalidAnchor(f"memo payload exceeds {MAX_MEMO_BYTES} bytes: {len(payload)}")
        return encode_memo_hex(payload)

    @staticmethod
    def decode(memo_data_hex: str) -> dict[str, str]:
        """The memo in `MemoData`. Raises InvalidAnchor for anything but a memo of this version with all its required members."""
        try:
            if not _HEX.fullmatch(memo_data_hex):  # bytes.fromhex overlooks blanks
                raise ValueError("other characters than hex digits")
            data: object = decode_json(bytes.fromhex(memo_data_hex).decode())
        except (ValueError, TypeError) as problem:
            raise InvalidAnchor(f"the memo is no JSON in hex: {problem!s:.200}") from None
        if not isinstance(data, dict) or not all(isinstance(value, str) for value in cast("dict[str, Any]", data).values()):
            raise InvalidAnchor("the memo must be an object of strings")
        memo = cast("dict[str, str]", data)
        if missing := [key for key in _REQUIRED if key not in memo]:
            raise InvalidAnchor(f"the memo has no {', '.join(missing)}")
        if (memo["v"], memo["t"]) != (MEMO_VERSION, MEMO_TYPE):
            raise InvalidAnchor(f"not a memo of type {MEMO_TYPE} and version {MEMO_VERSION}: {memo['t']!r:.100}, {memo['v']!r:.100}")
        return memo

    @staticmethod
    def digest(intent: AttestationIntent) -> str:
        """Prefixed memo digest of an intent."""
        return memo_digest(serialize_memo(build_memo_payload(intent)))
