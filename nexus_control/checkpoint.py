"""Checkpoints: what a log says about itself, as a signed note that standard transparency-log tools read and write.

    signed note        https://c2sp.org/signed-note       a text, a blank line, and a line per signature
    checkpoint         https://c2sp.org/tlog-checkpoint   a note's text: origin, size, root of an RFC 6962 tree
    cosignature        https://c2sp.org/tlog-cosignature  a witness' signature over a checkpoint, with a time

Texts in, values out: no clock, no I/O. The standard library has no Ed25519 (RFC 8032), so signing and checking come in as functions.
What has more than one spelling is refused, so that a value has one text. A checkpoint that parses is a claim; `check_note` tells who
made it, and only a consistency proof tells whether two of them are of one history.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from nexus_control.errors import MalformedNote, brief
from nexus_control.merkle import HASH_SIZE, empty_root

__all__ = [
    "ALGORITHM_COSIGNATURE",
    "ALGORITHM_ED25519",
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "Checkpoint",
    "NoteKey",
    "NoteSignature",
    "SignatureCheck",
    "SignedNote",
    "Signer",
    "Witnessed",
    "check_note",
    "parse_checkpoint",
    "parse_note",
    "parse_note_key",
    "sign_note",
]

ALGORITHM_ED25519 = 0x01
"""Signature type of the signed-note specification: an Ed25519 signature over the note's text."""

ALGORITHM_COSIGNATURE = 0x04
"""Signature type of the same: a timestamped Ed25519 cosignature over a checkpoint."""

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100
"""Limits of the reference implementation, golang.org/x/mod/sumdb/note."""

_KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_KEY_ID_BYTES = 4
_TIME_BYTES = 8
_DASH = "\u2014 "
_SIZE = re.compile("0|[1-9][0-9]{0,18}")
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")
_LARGEST_SIZE = 2**63 - 1

SignatureCheck = Callable[[bytes, bytes, bytes], bool]
"""`check(public_key, message, signature)`: whether that is an Ed25519 signature of this key (32, any and 64 bytes)."""

Signer = Callable[[bytes], bytes]
"""Gives the 64 bytes of an Ed25519 signature over a message."""


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that signs notes: a name, how it signs, and 32 bytes of Ed25519 public key.

    The name of a log's key is the origin of its checkpoints. Raises MalformedNote for a name that is empty or has spaces or `+`, an
    unknown algorithm, and a key of another length.
    """

    name: str
    public_key: bytes
    algorithm: int = ALGORITHM_ED25519

    def __post_init__(self) -> None:
        _require_name(self.name)
        if self.algorithm not in (ALGORITHM_ED25519, ALGORITHM_COSIGNATURE):
            raise MalformedNote(f"the key of {self.name} signs in an unknown way, {self.algorithm}")
        if len(self.public_key) != _KEY_BYTES:
            raise MalformedNote(f"the key of {self.name} has {len(self.public_key)} bytes, an Ed25519 public key has {_KEY_BYTES}")

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that stand for the key in a signature line: a hint for finding it, no proof of anything."""
        return sha256(self.name.encode() + b"\n" + bytes([self.algorithm]) + self.public_key).digest()[:_KEY_ID_BYTES]

    def text(self) -> str:
        """The verifier key of the specification: `name+key id in hex+base64(algorithm and public key)`."""
        return f"{self.name}+{self.key_id.hex()}+{_encoded(bytes([self.algorithm]) + self.public_key)}"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """A signature line, of a known key or not: key name, 4 bytes of key id, and what the key's algorithm makes of the rest."""

    name: str
    key_id: bytes
    signature: bytes

    def line(self) -> str:
        """The line, without its newline."""
        return f"{_DASH}{self.name} {_encoded(self.key_id + self.signature)}"


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A text that ends with a newline, and its signatures, none of them checked."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def render(self) -> str:
        """The note as it is stored and sent; `parse_note` gives it back."""
        return self.text + "\n" + "".join(signature.line() + "\n" for signature in self.signatures)

    def with_signatures(self, more: Iterable[NoteSignature]) -> "SignedNote":
        """The note with further signatures (cosignatures, for example); one that it has already is not added again."""
        return SignedNote(self.text, tuple(dict.fromkeys((*self.signatures, *more))))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The claim of a log: that its first `size` leaves have this root. `origin` names the log, forever; extensions are opaque lines.

    Raises MalformedNote for what has no text, and for a root of no leaves that is not the empty one.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not line:
                raise MalformedNote("a line of a checkpoint is empty")
            _require_text(line)
            if "\n" in line:
                raise MalformedNote("a line of a checkpoint holds a line break")
        if not 0 <= self.size <= _LARGEST_SIZE:
            raise MalformedNote(f"a log of {self.size} leaves has no checkpoint")
        if len(self.root) != HASH_SIZE:
            raise MalformedNote(f"a root has {HASH_SIZE} bytes, not {len(self.root)}")
        if self.size == 0 and self.root != empty_root():
            raise MalformedNote("a log without leaves has another root")

    def text(self) -> str:
        """The note text: origin, size, base64 of the root, extensions, each on its line."""
        return "".join(f"{line}\n" for line in (self.origin, str(self.size), _encoded(self.root), *self.extensions))


@dataclass(frozen=True, slots=True)
class Witnessed:
    """The outcome for one signature line of a known key. `time` is the one of a cosignature, in seconds since 1970 UTC."""

    key: NoteKey
    valid: bool
    time: int | None = None


def parse_note(data: str | bytes) -> SignedNote:
    """A signed note in the one spelling that it has.

    Raises MalformedNote for what is not UTF-8, has control characters other than newlines, has no blank line before the signatures or
    no signatures after it, for a line that is none, and beyond `MAX_NOTE_BYTES` or `MAX_SIGNATURES`.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise MalformedNote(f"a note has at most {MAX_NOTE_BYTES} bytes")
    if isinstance(data, bytes):
        try:
            data = data.decode()
        except UnicodeDecodeError:
            raise MalformedNote("a note is UTF-8 text") from None
    _require_text(data)
    text, blank, rest = data.rpartition("\n\n")
    if not blank or not rest.endswith("\n"):
        raise MalformedNote("a note is a text, an empty line, and lines with signatures")
    lines = rest[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedNote(f"a note has at most {MAX_SIGNATURES} signatures")
    return SignedNote(text + "\n", tuple(_parse_signature(line) for line in lines))


def parse_checkpoint(note: SignedNote) -> Checkpoint:
    """The checkpoint that a note's text is. Raises MalformedNote when it is none."""
    origin, *rest = note.text[:-1].split("\n")
    if len(rest) < 2:
        raise MalformedNote("a checkpoint has at least three lines: origin, size, root")
    size, root, *extensions = rest
    if not _SIZE.fullmatch(size):
        raise MalformedNote(f"the size of a checkpoint is a decimal number without leading zeros, not {brief(size)}")
    return Checkpoint(origin, int(size), _decoded(root, "the root of a checkpoint"), tuple(extensions))


def parse_note_key(text: str) -> NoteKey:
    """A verifier key: `name+key id in hex+base64(algorithm and public key)`. Raises MalformedNote."""
    name, plus, rest = text.partition("+")
    key_id, second_plus, encoded = rest.partition("+")
    if not plus or not second_plus:
        raise MalformedNote("a verifier key is name+key id+base64")
    data = _decoded(encoded, "a verifier key")
    if not data:
        raise MalformedNote("a verifier key has an algorithm and a key")
    key = NoteKey(name, data[1:], data[0])
    if key.key_id.hex() != key_id:
        raise MalformedNote(f"the key id of {brief(name)} is {key.key_id.hex()}, not {brief(key_id)}")
    return key


def sign_note(text: str, key: NoteKey, sign: Signer) -> SignedNote:
    """The note with this text, signed by the key (of the plain algorithm) that `sign` holds.

    Raises MalformedNote for a text that no note can have, and for a signature of another length.
    """
    if not text.endswith("\n"):
        raise MalformedNote("the text of a note ends with a newline")
    _require_text(text)
    if key.algorithm != ALGORITHM_ED25519:
        raise MalformedNote(f"the key of {key.name} makes cosignatures")
    signature = sign(text.encode())
    if len(signature) != _SIGNATURE_BYTES:
        raise MalformedNote(f"the key of {key.name} made no Ed25519 signature")
    return SignedNote(text, (NoteSignature(key.name, key.key_id, signature),))


def check_note(note: SignedNote, keys: Iterable[NoteKey], check: SignatureCheck) -> list[Witnessed]:
    """Check the signature lines of these keys; lines of other keys say nothing, as the specification demands.

    One outcome per line whose name and key id are a given key's, in the order of the note: each distinct line is checked once.
    """
    known: dict[tuple[str, bytes], list[NoteKey]] = {}
    for key in dict.fromkeys(keys):
        known.setdefault((key.name, key.key_id), []).append(key)  # the id has 4 bytes: two keys can share it
    outcomes: list[Witnessed] = []
    for line in dict.fromkeys(note.signatures):
        candidates = [_judge(note.text, line.signature, key, check) for key in known.get((line.name, line.key_id), ())]
        if candidates:
            outcomes.append(next((outcome for outcome in candidates if outcome.valid), candidates[0]))
    return outcomes


def _judge(text: str, signature: bytes, key: NoteKey, check: SignatureCheck) -> Witnessed:
    if key.algorithm == ALGORITHM_ED25519:
        return Witnessed(key, len(signature) == _SIGNATURE_BYTES and check(key.public_key, text.encode(), signature))
    if len(signature) != _TIME_BYTES + _SIGNATURE_BYTES:
        return Witnessed(key, valid=False)
    time = int.from_bytes(signature[:_TIME_BYTES])
    message = f"cosignature/v1\ntime {time}\n{text}".encode()
    return Witnessed(key, check(key.public_key, message, signature[_TIME_BYTES:]), time)


def _parse_signature(line: str) -> NoteSignature:
    if not line.startswith(_DASH):
        raise MalformedNote(f"no signature line: {brief(line)}")
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    _require_name(name)
    data = _decoded(encoded, "a signature line") if space else b""
    if len(data) <= _KEY_ID_BYTES:
        raise MalformedNote(f"the signature line of {brief(name)} has no signature")
    return NoteSignature(name, data[:_KEY_ID_BYTES], data[_KEY_ID_BYTES:])


def _require_name(name: str) -> None:
    _require_text(name)
    if not name or "+" in name or any(character.isspace() for character in name):
        raise MalformedNote(f"a key name is not empty and has neither spaces nor '+': {brief(name)}")


def _require_text(text: str) -> None:
    if _CONTROL.search(text):
        raise MalformedNote("a note has no control characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedNote("a note has no lone surrogates") from None


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str, what: str) -> bytes:
    """The bytes of a base64 text (RFC 4648 section 4) in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedNote(f"{what} is no base64") from None
    if _encoded(data) != text:
        raise MalformedNote(f"{what} is base64 with bits left over")
    return data
