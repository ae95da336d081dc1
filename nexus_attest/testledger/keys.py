"""Keys of accounts and validators: Ed25519 through libsodium, secp256k1 through xrpl-py, and signatures checked as servers check them.

For tests and demonstrations only: keys come from seeds that everybody can read.
"""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError
from xrpl.constants import CryptoAlgorithm
from xrpl.core.addresscodec import decode_seed, encode_node_public_key, encode_seed
from xrpl.core.keypairs import derive_classic_address, derive_keypair, is_valid_message
from xrpl.core.keypairs import sign as sign_secp256k1

from nexus_attest.testledger.hashing import half

__all__ = ["GENESIS_SEED", "Key", "ed25519_key", "is_public_key", "key_from_seed", "seed_of", "validator_key", "verify"]

GENESIS_SEED = "snoPBrXtMeMyMHUVTgbuqAfg1SUTb"
"""The seed of `masterpassphrase`, whose account owns all XRP of a new network."""

_FIELD = 2**256 - 2**32 - 977
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""The prime of secp256k1 and the order of its group."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair: the public key as ledgers write it (33 bytes; `ED` first for Ed25519) and the secret one."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.public.hex()})"

    @property
    def hex(self) -> str:
        """The public key in capital hex digits."""
        return self.public.hex().upper()

    @property
    def address(self) -> str:
        """The account that has this as its master key."""
        return derive_classic_address(self.hex)

    @property
    def node(self) -> str:
        """The public key as validators spell it, `n...`."""
        return encode_node_public_key(self.public)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message; the same for the same message."""
        if self.public[0] == 0xED:
            return crypto_sign(message, self.secret)[:64]
        return bytes.fromhex(sign_secp256k1(message, self.secret.hex()))


def seed_of(name: str, *, secp256k1: bool = False) -> str:
    """A seed (`sEd...` or `s...`) that depends on the name alone."""
    kind = CryptoAlgorithm.SECP256K1 if secp256k1 else CryptoAlgorithm.ED25519
    return encode_seed(sha256(name.encode()).digest()[:16], kind)


@lru_cache(maxsize=256)
def key_from_seed(seed: str) -> Key:
    """The key pair of an account's seed, of either kind."""
    entropy, kind = decode_seed(seed)
    if kind is CryptoAlgorithm.ED25519:
        return ed25519_key(half(entropy))
    public, secret = derive_keypair(seed)
    return Key(bytes.fromhex(public), bytes.fromhex(secret)[-32:])


def ed25519_key(secret: bytes) -> Key:
    """The Ed25519 key pair of 32 secret bytes."""
    public, pair = crypto_sign_seed_keypair(secret)
    return Key(b"\xed" + public, pair)


@lru_cache(maxsize=256)
def validator_key(name: str) -> Key:
    """A key that signs validations, always secp256k1, which is what servers demand."""
    public, secret = derive_keypair(seed_of(name, secp256k1=True), validator=True)
    return Key(bytes.fromhex(public), bytes.fromhex(secret)[-32:])


def is_public_key(public: bytes) -> bool:
    """Whether these bytes are a public key: for secp256k1 a point of the curve."""
    if len(public) != 33 or public[0] not in (0x02, 0x03, 0xED):
        return False
    x = int.from_bytes(public[1:])
    return public[0] == 0xED or (x < _FIELD and pow(x**3 + 7, (_FIELD - 1) // 2, _FIELD) == 1)


@lru_cache(maxsize=4096)
def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is good and fully canonical: no second signature can be made out of it."""
    if not is_public_key(public):
        return False
    try:
        if public[0] == 0xED:
            return len(signature) == 64 and crypto_sign_open(signature + message, public[1:]) == message
        return _is_low_der(signature) and is_valid_message(message, signature, public.hex())
    except BadSignatureError:
        return False


def _is_low_der(signature: bytes) -> bool:
    """Whether this is DER of two minimal positive integers below the order of the curve, the second one in its lower half."""
    if len(signature) < 8 or signature[0] != 0x30 or signature[1] != len(signature) - 2:
        return False
    r, rest = _integer(signature[2:])
    s, end = _integer(rest)
    return not end and 0 < r < _ORDER and 0 < s <= _ORDER // 2


def _integer(data: bytes) -> tuple[int, bytes]:
    """The leading integer and what follows it; 0 for anything that is not strictly encoded."""
    if len(data) < 3 or data[0] != 0x02 or not 0 < data[1] <= min(33, len(data) - 2):
        return 0, b""
    number, rest = data[2 : 2 + data[1]], data[2 + data[1] :]
    padded = len(number) > 1 and number[0] == 0 and number[1] < 0x80
    return (0, b"") if number[0] >= 0x80 or padded else (int.from_bytes(number), rest)
