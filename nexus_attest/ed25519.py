"""Ed25519 (RFC 8032) through libsodium: the one module that signs and checks signatures of keys, logs and approvals.

Verification is the strict one of libsodium: a signature whose scalar is not reduced, a public key that is no canonical encoding, and
points of small order are refused, so that nobody can make a second signature, or one that fits several keys, out of a first.
"""

from hashlib import sha256

__all__ = [
    "PUBLIC_KEY_BYTES",
    "SEED_BYTES",
    "SIGNATURE_BYTES",
    "expanded",
    "is_public_key",
    "key_id_of",
    "new_seed",
    "public_key_of",
    "sign",
    "sign_expanded",
    "verify",
]

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


def new_seed() -> bytes:
    """A new private key: 32 bytes of the operating system's randomness."""
    from nacl.utils import random  # PyNaCl, loaded where it is used

    return random(SEED_BYTES)


def public_key_of(seed: bytes) -> bytes:
    """The public key of a private one. Raises ValueError unless it has 32 bytes."""
    from nacl.bindings import crypto_sign_seed_keypair  # as above

    return crypto_sign_seed_keypair(_seed(seed))[0]


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of a message, 64 bytes; the same for the same message. Raises ValueError unless the seed has 32 bytes."""
    return sign_expanded(expanded(seed), message)


def expanded(seed: bytes) -> bytes:
    """A private key with its public one, 64 bytes as secret as the seed: to sign often. Raises ValueError unless the seed has 32 bytes."""
    from nacl.bindings import crypto_sign_seed_keypair  # as above

    return crypto_sign_seed_keypair(_seed(seed))[1]


def sign_expanded(secret: bytes, message: bytes) -> bytes:
    """As `sign`, in half the time."""
    from nacl.bindings import crypto_sign  # as above

    return crypto_sign(message, secret)[:SIGNATURE_BYTES]


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the signature of this message by this key; False too for bytes that are no key or no signature."""
    from nacl.bindings import crypto_sign_open  # as above
    from nacl.exceptions import BadSignatureError

    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def key_id_of(public_key: bytes) -> str:
    """The id of a key unless somebody gave it another: `ed25519:` and the first 16 hex digits of the public key's SHA-256."""
    return f"ed25519:{sha256(public_key).hexdigest()[:16]}"


def is_public_key(raw: bytes) -> bool:
    """Whether these are the 32 bytes of a point that a key can be: canonical, on the curve, in the main subgroup."""
    from nacl.bindings import crypto_core_ed25519_is_valid_point  # as above

    return len(raw) == PUBLIC_KEY_BYTES and crypto_core_ed25519_is_valid_point(raw)


def _seed(seed: bytes) -> bytes:
    # The binding's own error repeats what it was given.
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a private key has {SEED_BYTES} bytes, not {len(seed)}")
    return seed
