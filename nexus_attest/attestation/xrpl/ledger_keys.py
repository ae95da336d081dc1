"""Keys that sign ledger transactions: out of a seed in this process, or behind a program that does not let them out.

A seed is read, made into a key and forgotten. Ed25519 signs through libsodium, in constant time; secp256k1 through xrpl-py, whose pure
Python is not constant-time: where others can measure, keep such a key behind a program. Each signature of a program is checked before it
is used. The secret part is in no repr, no error text and no log, and no key can be copied or pickled.
"""

import os
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol

from nexus_attest import ed25519
from nexus_attest.attestation.xrpl.codec import fully_canonical, sha512_half, verify_payload
from nexus_attest.key_errors import KeyInvalid, KeyNotFound
from nexus_attest.keys import LocalKey, private_content
from nexus_attest.signer import SignerProgram

__all__ = ["LedgerKey", "ProgramKey", "key_of_environment", "key_of_file", "key_of_seed"]

_SEED_FILE_MODE = 0o600
_NO_SEED = "{} is no seed of an account: `sEd...` or `s...`, with its checksum"


class LedgerKey(Protocol):
    """A key pair of which only the public half can be seen."""

    @property
    def public_key(self) -> str:
        """33 bytes in capital hex digits, as ledgers write them: `ED` and an Ed25519 key, or a compressed point of secp256k1."""
        ...

    def sign(self, payload: bytes) -> bytes:
        """The signature of a signing payload: 64 bytes for Ed25519, DER over the payload's SHA-512Half for secp256k1."""
        ...


def key_of_seed(seed: str) -> LedgerKey:
    """The key of a family seed, `sEd...` for Ed25519 or `s...` for secp256k1. Raises KeyInvalid, which repeats nothing of it."""
    key = _key_or_none(seed)
    if key is None:
        del seed  # a traceback may be shown with the variables of its frames
        raise KeyInvalid(_NO_SEED.format("this"))
    return key


def key_of_environment(name: str) -> LedgerKey:
    """The key of the seed in an environment variable. Raises KeyNotFound, KeyInvalid."""
    if not os.environ.get(name):
        raise KeyNotFound(f"the environment variable {name:.100} is not set")
    key = _key_or_none(os.environ[name])
    if key is None:
        raise KeyInvalid(_NO_SEED.format(f"what the environment variable {name:.100} holds"))
    return key


def key_of_file(path: Path) -> LedgerKey:
    """The key of the seed that a file of mode 0600 has as its one line. Raises KeyNotFound, KeyFileRefused, KeyInvalid."""
    key = _key_or_none(private_content(path, mode=_SEED_FILE_MODE).decode("ascii", "replace"))
    if key is None:
        raise KeyInvalid(_NO_SEED.format(f"what {path} holds"))
    return key


def _key_or_none(seed: str) -> LedgerKey | None:
    """The key, None for what is no seed. Raises nothing, so that no frame with a seed in it is part of a traceback."""
    from xrpl.constants import CryptoAlgorithm, XRPLException  # xrpl-py, loaded where it is used
    from xrpl.core.addresscodec import decode_seed
    from xrpl.core.keypairs import derive_keypair

    # Suppressed, not chained: the codec's error quotes characters of the seed.
    with suppress(XRPLException, ValueError):
        entropy, algorithm = decode_seed(seed.strip())
        if algorithm is CryptoAlgorithm.ED25519:
            return _Ed25519Key(LocalKey(sha512_half(entropy)))
        return _Secp256k1Key(*derive_keypair(seed.strip()))
    return None


class _Ed25519Key:
    __slots__ = ("_key", "public_key")

    def __init__(self, key: LocalKey) -> None:
        self._key = key
        self.public_key = f"ED{key.public_key.hex().upper()}"

    def sign(self, payload: bytes) -> bytes:
        return self._key.sign(payload)

    def __repr__(self) -> str:
        return f"<LedgerKey {self.public_key}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key is not pickled or copied")


class _Secp256k1Key:
    __slots__ = ("_secret", "public_key")

    def __init__(self, public_key: str, secret: str) -> None:
        self._secret = secret
        self.public_key = public_key.upper()

    def sign(self, payload: bytes) -> bytes:
        from xrpl.core.keypairs import sign  # as above

        return bytes.fromhex(sign(payload, self._secret))

    def __repr__(self) -> str:
        return f"<LedgerKey {self.public_key}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key is not pickled or copied")


class ProgramKey:
    """A key behind a program, which is asked as `nexus_attest.signer` describes.

    Here the public key may also have 33 bytes, then as ledgers write it; for secp256k1 the message to sign is the payload itself, whose
    SHA-512Half the program signs, and the signature is DER. One with a high S, which the ledger would refuse, is replaced by its twin.
    Raises SignerFailed whenever the program does not answer as it must.
    """

    __slots__ = ("_program", "public_key")

    def __init__(self, command: Sequence[str], *, seconds: float = 30.0) -> None:
        self._program = SignerProgram(command, seconds=seconds)
        self.public_key = "not known yet"  # for whoever shows it while the program is asked
        raw = self._program.ask({"operation": "public_key"}, "public_key", (32, 33))
        whole = raw if len(raw) == 33 else b"\xed" + raw
        if whole[0] not in (0x02, 0x03) and not (whole[0] == 0xED and ed25519.is_public_key(whole[1:])):
            raise self._program.failed("gave no public key of the ledger")
        self.public_key = whole.hex().upper()

    def sign(self, payload: bytes) -> bytes:
        """The signature, checked."""
        request = {"operation": "sign", "message": b64encode(payload).decode()}
        if self.public_key.startswith("ED"):
            signature = self._program.ask(request, "signature", (ed25519.SIGNATURE_BYTES,))
        else:
            signature = fully_canonical(self._program.ask(request, "signature", range(8, 73)))
        if not verify_payload(self.public_key, payload, signature):
            raise self._program.failed("gave a signature that is not one of its key")
        return signature

    def __repr__(self) -> str:
        return f"<LedgerKey {self.public_key}>"
