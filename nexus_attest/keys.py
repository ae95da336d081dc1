"""Private keys of actors and logs: made, kept and opened as files that nobody else can read.

    {"kind": "nexus-attest.key", "v": 1, "name": "alice", "key_id": "ed25519:...", "public_key": "<base64>",
     "created_at": "<ISO, UTC>", "retired_at": null,
     "secret": {"kdf": "none", "seed": "<base64>"}
             | {"kdf": "argon2id", "ops": 3, "memory": 268435456, "salt": "<base64>", "box": "<base64>"}
             | null}

A protected seed is in a libsodium secretbox under a key that argon2id makes of the passphrase. A retired key has no secret any more. A
file is refused unless it is a regular file of mode 0600 (or less) that belongs to this user, in a folder where nobody else can
replace it. The private part is in no repr, no error text and no log; this module cannot keep it out of the memory of the process.
"""

import json
import os
import re
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, cast

from nexus_attest import ed25519
from nexus_attest.key_errors import (
    KeyExists,
    KeyFileRefused,
    KeyInvalid,
    KeyNotFound,
    KeyRetired,
    PassphraseMissing,
    PassphraseWrong,
)
from nexus_control.errors import MalformedBundle, MalformedEvent
from nexus_control.events import Clock, in_utc, parse_time, utc_now
from nexus_control.files import write_file
from nexus_control.json_data import parse_json

__all__ = [
    "KEY_SUFFIX",
    "LocalKey",
    "StoredKey",
    "decoded_seed",
    "key_path",
    "list_keys",
    "new_key",
    "open_key",
    "private_content",
    "read_key",
    "retire_key",
]

KEY_SUFFIX = ".key"

Passphrase = Callable[[], str | None]
"""Gives the passphrase when it is needed, None when nobody knows it."""

_KIND = "nexus-attest.key"
_VERSION = 1
_MAX_FILE_BYTES = 16 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")
_MEMBERS = {"kind", "v", "name", "key_id", "public_key", "created_at", "retired_at", "secret"}
_PLAIN = {"kdf", "seed"}
_PROTECTED = {"kdf", "ops", "memory", "salt", "box"}

_OPS, _MEMORY = 3, 256 * 1024 * 1024
"""libsodium's parameters "moderate" of argon2id: most of a second."""

_MOST_OPS, _MOST_MEMORY = 16, 1024 * 1024 * 1024
"""A file may ask for this much work and memory."""


class LocalKey:
    """A private key in this process. Shows its id alone, and cannot be copied or pickled by accident."""

    __slots__ = ("_secret", "key_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        self._secret = ed25519.expanded(seed)
        self.public_key = ed25519.public_key_of(seed)
        self.key_id = ed25519.key_id_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature of a message, 64 bytes."""
        return ed25519.sign_expanded(self._secret, message)

    def __repr__(self) -> str:
        return f"<LocalKey {self.key_id}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a private key is not pickled or copied")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """What a key file says, its secret still closed."""

    path: Path
    name: str
    key_id: str
    public_key: bytes
    created_at: datetime
    retired_at: datetime | None
    _secret: dict[str, Any] | None = field(repr=False)

    @property
    def is_protected(self) -> bool:
        """Whether a passphrase is needed to open it."""
        return self._secret is not None and self._secret["kdf"] != "none"

    def open(self, passphrase: Passphrase) -> LocalKey:
        """The private key. Raises KeyRetired, PassphraseMissing, PassphraseWrong, or KeyInvalid when its parts do not fit together."""
        if self._secret is None:
            raise KeyRetired(f"key {self.name} was retired and has no private part any more")
        if self._secret["kdf"] == "none":
            seed = _bytes(self._secret["seed"], ed25519.SEED_BYTES, "seed")
        else:
            seed = self._unlocked(self._secret, passphrase)
        key = LocalKey(seed)
        if key.public_key != self.public_key:
            raise KeyInvalid(f"{self.path}: the private part does not belong to the public one")
        return key

    def _unlocked(self, secret: dict[str, Any], passphrase: Passphrase) -> bytes:
        from nacl.exceptions import CryptoError  # PyNaCl, loaded where it is used
        from nacl.secret import SecretBox

        given = passphrase()
        if not given:
            raise PassphraseMissing(f"key {self.name} is protected by a passphrase")
        box = _derived(given, _bytes(secret["salt"], 16, "salt"), secret["ops"], secret["memory"])
        try:
            return SecretBox(box).decrypt(_bytes(secret["box"], 24 + 16 + ed25519.SEED_BYTES, "box"))
        except CryptoError:
            raise PassphraseWrong(f"the passphrase does not open key {self.name}") from None


def new_key(
    folder: Path, name: str, passphrase: str | None = None, *, clock: Clock = utc_now, ops: int = _OPS, memory: int = _MEMORY
) -> StoredKey:
    """Make a key and its file `<name>.key` in `folder`, which is made too, for this user alone.

    `ops` and `memory` (bytes) are the cost of argon2id. Raises KeyExists, KeyInvalid for a name that is none, KeyFileRefused.
    """
    if not _NAME.fullmatch(name):
        raise KeyInvalid("the name of a key has 1 to 100 letters, digits and . _ @ -, and starts with a letter or digit")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    seed = ed25519.new_seed()
    public_key = ed25519.public_key_of(seed)
    key = StoredKey(
        path=folder / f"{name}{KEY_SUFFIX}",
        name=name,
        key_id=ed25519.key_id_of(public_key),
        public_key=public_key,
        created_at=in_utc(clock)(),
        retired_at=None,
        _secret=_locked(seed, passphrase, ops, memory) if passphrase else {"kdf": "none", "seed": _text(seed)},
    )
    _require_own_folder(folder)
    try:
        _write(key.path, key)
    except FileExistsError:
        raise KeyExists(f"there is a key {name} in {folder}") from None
    return key


def key_path(name: str, folder: Path) -> Path:
    """The file of a key: `name` itself when it is a path or has the suffix of keys, otherwise the key of that name in `folder`."""
    is_path = "/" in name or os.sep in name or name.endswith(KEY_SUFFIX)
    return Path(name) if is_path else folder / f"{name}{KEY_SUFFIX}"


def read_key(path: Path) -> StoredKey:
    """The key of a file, still closed. Raises KeyNotFound, KeyFileRefused or KeyInvalid."""
    content = private_content(path)
    try:
        data: object = parse_json(content)
        return _parsed(path, data)
    except (MalformedBundle, MalformedEvent, KeyInvalid) as problem:
        raise KeyInvalid(f"{path} is no key file: {problem}") from None


def open_key(path: Path, passphrase: Passphrase) -> LocalKey:
    """The private key of a file. Raises what `read_key` and `StoredKey.open` raise."""
    return read_key(path).open(passphrase)


def list_keys(folder: Path) -> list[StoredKey | KeyFileRefused | KeyInvalid]:
    """The keys of a folder by name; for a file that is refused, why. Empty when there is no such folder."""
    found: list[StoredKey | KeyFileRefused | KeyInvalid] = []
    for path in sorted(folder.glob(f"*{KEY_SUFFIX}")):
        try:
            found.append(read_key(path))
        except (KeyFileRefused, KeyInvalid) as problem:
            found.append(problem)
    return found


def retire_key(path: Path, *, clock: Clock = utc_now) -> StoredKey:
    """Replace the file of a key by one without its private part: the key never signs again. Gives the key as it is now.

    The disk may keep the old bytes for a while, and backups for longer. Raises what `read_key` raises, and KeyRetired.
    """
    key = read_key(path)
    if key.retired_at is not None:
        raise KeyRetired(f"key {key.name} was retired at {key.retired_at.isoformat()}")
    retired = replace(key, retired_at=in_utc(clock)(), _secret=None)
    _write(path, retired, over=True)
    return retired


def decoded_seed(text: str, where: str) -> LocalKey:
    """The private key of 32 bytes in base64, as an environment variable holds one. Raises KeyInvalid, which does not repeat the text."""
    try:
        return LocalKey(_bytes(text.strip(), ed25519.SEED_BYTES, "the private key"))
    except KeyInvalid as problem:
        raise KeyInvalid(f"{where}: {problem}") from None


def _parsed(path: Path, data: object) -> StoredKey:
    members = _object(data, _MEMBERS, "the file")
    if members["kind"] != _KIND or type(members["v"]) is not int or members["v"] != _VERSION:
        raise KeyInvalid(f"kind must be {_KIND}, version {_VERSION}")
    public_key = _bytes(members["public_key"], ed25519.PUBLIC_KEY_BYTES, "public_key")
    name, created_at, retired_at = members["name"], members["created_at"], members["retired_at"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise KeyInvalid("name is none")
    if members["key_id"] != ed25519.key_id_of(public_key):
        raise KeyInvalid("key_id is not that of the public key")
    secret = None if members["secret"] is None else _secret(members["secret"])
    if (secret is None) != (retired_at is not None):
        raise KeyInvalid("a key has a private part exactly as long as it is not retired")
    return StoredKey(
        path=path,
        name=name,
        key_id=ed25519.key_id_of(public_key),
        public_key=public_key,
        created_at=parse_time(created_at),
        retired_at=None if retired_at is None else parse_time(retired_at),
        _secret=secret,
    )


def _secret(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or "kdf" not in value:
        raise KeyInvalid("secret must be null or an object with kdf")
    secret = cast("dict[str, Any]", value)
    if secret["kdf"] == "none":
        return _object(secret, _PLAIN, "secret")
    if secret["kdf"] != "argon2id":
        raise KeyInvalid("secret.kdf must be none or argon2id")
    _object(secret, _PROTECTED, "secret")
    for member, most in (("ops", _MOST_OPS), ("memory", _MOST_MEMORY)):
        if type(secret[member]) is not int or not 0 < secret[member] <= most:
            raise KeyInvalid(f"secret.{member} must be an integer up to {most}")
    return secret


def _locked(seed: bytes, passphrase: str, ops: int, memory: int) -> dict[str, Any]:
    from nacl.secret import SecretBox  # PyNaCl, loaded where it is used
    from nacl.utils import random

    salt = random(16)
    box = bytes(SecretBox(_derived(passphrase, salt, ops, memory)).encrypt(seed))
    return {"kdf": "argon2id", "ops": ops, "memory": memory, "salt": _text(salt), "box": _text(box)}


def _derived(passphrase: str, salt: bytes, ops: int, memory: int) -> bytes:
    from nacl.exceptions import CryptoError  # as above
    from nacl.pwhash import argon2id

    try:
        return argon2id.kdf(32, passphrase.encode("utf-8", "surrogatepass"), salt, opslimit=ops, memlimit=memory)
    except (CryptoError, ValueError):
        raise KeyInvalid(f"argon2id cannot work with {ops} rounds and {memory} bytes of memory here") from None


def private_content(path: Path, *, mode: int | None = None) -> bytes:
    """The content of a private file: of exactly this `mode`, or of any that keeps others out.

    Not followed: a symbolic link. Not opened: anything that is no regular file. Raises KeyNotFound, KeyFileRefused.
    """
    _require_own_folder(path.parent)
    try:
        _require_private(path, path.lstat(), mode)
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            _require_private(path, os.fstat(descriptor), mode)
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise KeyNotFound(f"there is no key at {path}") from None
    except OSError as error:
        raise KeyFileRefused(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        del content  # a traceback may be shown with the variables of its frames
        raise KeyFileRefused(f"{path} has more than {_MAX_FILE_BYTES} bytes")
    return content


def _require_private(path: Path, status: os.stat_result, mode: int | None = None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileRefused(f"{path} is no regular file")
    if os.name != "posix":  # elsewhere the mode says nothing about who can read
        return
    if status.st_uid != os.geteuid():
        raise KeyFileRefused(f"{path} belongs to somebody else")
    if status.st_mode & 0o077:
        raise KeyFileRefused(f"{path} can be read or changed by others; chmod 600 it, or better make a new key")
    if mode is not None and stat.S_IMODE(status.st_mode) != mode:
        raise KeyFileRefused(f"{path} must have the mode {mode:04o}, not {stat.S_IMODE(status.st_mode):04o}")


def _require_own_folder(folder: Path) -> None:
    """Others may look at the folder, not change it: who can rename in it can replace a key. A sticky one (/tmp) protects its files."""
    try:
        status = folder.stat()
    except OSError as error:
        raise KeyNotFound(f"there is no folder {folder}: {error.strerror}") from None
    if os.name == "posix" and status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise KeyFileRefused(f"the folder {folder} can be changed by others")


def _write(path: Path, key: StoredKey, *, over: bool = False) -> None:
    """Make the file, whole and private from its first byte on; `over` the one that is there. Raises FileExistsError."""
    data = {
        "kind": _KIND,
        "v": _VERSION,
        "name": key.name,
        "key_id": key.key_id,
        "public_key": _text(key.public_key),
        "created_at": key.created_at.isoformat(),
        "retired_at": None if key.retired_at is None else key.retired_at.isoformat(),
        "secret": key._secret,  # pyright: ignore[reportPrivateUsage]  its own module
    }
    write_file(path, (json.dumps(data, indent=2) + "\n").encode(), replace=over, mode=0o600)


def _object(value: object, keys: set[str], what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or set(cast("dict[str, Any]", value)) != keys:
        raise KeyInvalid(f"{what} must have exactly the members {', '.join(sorted(keys))}")
    return cast("dict[str, Any]", value)


def _bytes(value: object, size: int, what: str) -> bytes:
    """Base64 of exactly `size` bytes. The text is in no error: it may be a secret."""
    try:
        raw = b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != size:
        raise KeyInvalid(f"{what} must be {size} bytes in base64")
    return raw


def _text(data: bytes) -> str:
    return b64encode(data).decode()
