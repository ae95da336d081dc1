"""Transactions as bytes: the XRP Ledger's binary format through xrpl-py, and what is checked before and after signing.

Format: https://xrpl.org/docs/references/protocol/binary-format. What the codec raises leaves as NotATransaction; bytes that decode but
would not be encoded so are refused as well, so that one transaction has one form. Nothing here holds a secret or speaks to a server.
"""

from collections.abc import Mapping
from functools import partial
from hashlib import sha512
from typing import Any

from nexus_attest import ed25519
from nexus_attest.attestation.errors import NotATransaction

__all__ = [
    "address_of",
    "decode_object",
    "decode_transaction",
    "encode_transaction",
    "fully_canonical",
    "node_key",
    "require_memos_fit",
    "sha512_half",
    "signing_payload",
    "transaction_id",
    "verify_payload",
]

_MOST_MEMO_BYTES = 1024
"""Of the array of memos without the two bytes around it (rippled, `isMemoOkay` in STTx.cpp)."""

_SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_MOST_DEPTH = 8
_CONTAINERS = frozenset({"STObject", "STArray"})
_ENDS = frozenset({"ObjectEndMarker", "ArrayEndMarker"})
_MOST_SIGNATURE_BYTES = 72
_PUBLIC_KEY_BYTES = 33

_URL_CHARACTERS = frozenset(b"0123456789-._~:/?#[]@!$&'()*+,;=%ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
"""Of RFC 3986; MemoType and MemoFormat may have no others."""


def sha512_half(data: bytes) -> bytes:
    """The first 32 bytes of SHA-512."""
    return sha512(data).digest()[:32]


def transaction_id(blob: bytes) -> str:
    """The id of a signed transaction: 64 capital hex digits."""
    return sha512_half(b"TXN\0" + blob).hex().upper()


def encode_transaction(fields: Mapping[str, Any]) -> bytes:
    """The bytes of a transaction or a part of one. Raises NotATransaction."""
    from xrpl.core.binarycodec import encode  # xrpl-py, loaded where it is used: it takes half a second

    return _hex(encode, dict(fields))


def signing_payload(fields: Mapping[str, Any]) -> bytes:
    """What one key signs: a prefix and all fields but TxnSignature; `SigningPubKey` must be among them. Raises NotATransaction."""
    from xrpl.core.binarycodec import encode_for_signing  # as above

    return _hex(encode_for_signing, dict(fields))


def decode_transaction(blob: bytes) -> dict[str, Any]:
    """The fields of a transaction. Raises NotATransaction, also for bytes that are not the encoding of what they decode to."""
    fields = decode_object(blob)
    if "TransactionType" not in fields or encode_transaction(fields) != blob:
        raise NotATransaction("no transaction in its one encoding")
    return fields


def decode_object(blob: bytes, *, depth: int = _MOST_DEPTH) -> dict[str, Any]:
    """The fields of any object, metadata for example, with at most `depth` objects and arrays one in the other.

    Raises NotATransaction, at once for fields out of order, which no encoding has: the codec would take minutes over some such bytes.
    """
    from xrpl.core.binarycodec import decode  # as above

    _guarded(partial(_require_ordered, depth=depth), blob)
    return _guarded(decode, blob.hex())


def address_of(public_key: str) -> str:
    """The classic address whose master key this is; `public_key` are 33 bytes in hex. Raises NotATransaction for no key."""
    from xrpl.core.keypairs import derive_classic_address  # as above

    return _guarded(derive_classic_address, public_key)


def node_key(public_key: str) -> str:
    """A validator's public key, 33 bytes in hex, as `n...`. Raises NotATransaction for no key."""
    from xrpl.core.addresscodec import encode_node_public_key  # as above

    return _guarded(encode_node_public_key, bytes.fromhex(public_key))


def verify_payload(public_key: str, payload: bytes, signature: bytes) -> bool:
    """Whether this key signed these bytes; `ED...` is Ed25519 over them, another key secp256k1 over their SHA-512Half."""
    if public_key[:2].upper() == "ED":
        return ed25519.verify(bytes.fromhex(public_key[2:]), payload, signature)
    return _verify_secp256k1(bytes.fromhex(public_key), sha512_half(payload), signature)


def fully_canonical(signature: bytes) -> bytes:
    """The same DER signature of secp256k1 in the one form that ledgers take: nothing around it, the lower of its two possible S.

    Bytes that are no signature are given back; that they verify nothing is for the check that follows.
    """
    r, rest = _integer(signature[2:])
    s, _ = _integer(rest)
    if not r or not s or len(signature) > _MOST_SIGNATURE_BYTES:
        return signature
    numbers = b"".join(map(_der, (r, min(s, _SECP256K1_ORDER - s) if s < _SECP256K1_ORDER else s)))
    return b"\x30" + bytes([len(numbers)]) + numbers


def require_memos_fit(fields: Mapping[str, Any]) -> None:
    """Raises NotATransaction for memos that every server refuses: more than 1024 bytes in all, or types with characters of no URL."""
    memos = fields.get("Memos")
    if memos is None:
        return
    if len(encode_transaction({"Memos": memos})) - 2 > _MOST_MEMO_BYTES:
        raise NotATransaction(f"the memos have more than {_MOST_MEMO_BYTES} bytes")
    if any("Memo" not in entry for entry in memos):
        raise NotATransaction("among the memos is something else")
    for entry in memos:
        for name in ("MemoType", "MemoFormat"):
            if not _URL_CHARACTERS.issuperset(bytes.fromhex(entry["Memo"].get(name, ""))):
                raise NotATransaction(f"{name} has characters that RFC 3986 does not allow in a URL")


def _require_ordered(blob: bytes, depth: int) -> None:
    """Raises ValueError unless the fields of each object ascend, each once, as everything is encoded."""
    from xrpl.core.binarycodec.binary_wrappers import BinaryParser  # as above

    parser = BinaryParser(blob.hex())
    last: list[int | None] = [-1]  # of each open object, None for an array, whose elements have no order
    while not parser.is_end():
        field = parser.read_field()
        if field.name in _ENDS:
            last.pop()
            continue
        before = last[-1]
        if before is not None:
            if field.ordinal <= before:
                raise ValueError("fields out of order")
            last[-1] = field.ordinal
        if field.type in _CONTAINERS:
            last.append(None if field.type == "STArray" else -1)
            if len(last) > depth + 1:
                raise ValueError("nested too deeply")
        else:
            parser.read_field_value(field)


def _hex(encode: Any, fields: dict[str, Any]) -> bytes:
    return bytes.fromhex(_guarded(encode, fields))


def _guarded(function: Any, argument: object) -> Any:
    """The result of a function of xrpl-py, whose errors for bad input are of many kinds."""
    from xrpl.constants import XRPLException  # as above

    try:
        return function(argument)
    except (XRPLException, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as problem:
        raise NotATransaction(f"the ledger's format cannot express it ({type(problem).__name__})") from None


def _integer(data: bytes) -> tuple[int, bytes]:
    """The DER integer in front, and what follows it; 0 when there is none."""
    if len(data) < 2 or data[0] != 0x02 or len(data) < 2 + data[1]:
        return 0, b""
    return int.from_bytes(data[2 : 2 + data[1]]), data[2 + data[1] :]


def _der(number: int) -> bytes:
    raw = number.to_bytes(number.bit_length() // 8 + 1)
    return b"\x02" + bytes([len(raw)]) + raw


def _verify_secp256k1(public_key: bytes, digest: bytes, signature: bytes) -> bool:
    """By OpenSSL, twenty times as fast as the pure Python of xrpl-py, and strict about DER."""
    from cryptography.exceptions import InvalidSignature  # loaded where it is used
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256K1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from cryptography.hazmat.primitives.hashes import SHA256

    if len(public_key) != _PUBLIC_KEY_BYTES:
        return False
    try:
        key = EllipticCurvePublicKey.from_encoded_point(SECP256K1(), public_key)
        key.verify(signature, digest, ECDSA(Prehashed(SHA256())))  # which only says how long the digest is
    except (InvalidSignature, ValueError):
        return False
    return True
