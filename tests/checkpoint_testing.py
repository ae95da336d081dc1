"""Checkpoints in engine tests: keys whose signatures need no public-key cryptography."""

from collections.abc import Callable
from hashlib import sha512

from nexus_control.checkpoint import ALGORITHM_COSIGNATURE, Checkpoint, NoteKey, NoteSignature, SignedNote, sign_note

ORIGIN = "example.org/log"
KEY = NoteKey(ORIGIN, b"k" * 32)
WITNESS = NoteKey("witness.example.org", b"w" * 32, ALGORITHM_COSIGNATURE)


def fake_signature(public_key: bytes, message: bytes) -> bytes:
    """Stands for Ed25519, which the engine does not have: whoever knows the public key can make it."""
    return sha512(public_key + message).digest()


def check(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """What a reader brings along to check signatures."""
    return signature == fake_signature(public_key, message)


def signer(key: NoteKey) -> Callable[[bytes], bytes]:
    """What the owner of the key has."""
    return lambda message: fake_signature(key.public_key, message)


def signed(size: int, root: str, key: NoteKey = KEY) -> SignedNote:
    """The checkpoint of a log of this size and raw root."""
    return sign_note(Checkpoint(key.name, size, bytes.fromhex(root)).text(), key, signer(key))


def cosignature(note: SignedNote, key: NoteKey, time: int) -> NoteSignature:
    """The cosignature of a witness."""
    message = f"cosignature/v1\ntime {time}\n{note.text}".encode()
    return NoteSignature(key.name, key.key_id, time.to_bytes(8) + fake_signature(key.public_key, message))
