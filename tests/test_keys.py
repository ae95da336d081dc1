import copy
import json
import os
import pickle
import stat
import traceback
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nexus_attest import ed25519, keys
from nexus_attest.key_errors import (
    KeyExists,
    KeyFileRefused,
    KeyInvalid,
    KeyNotFound,
    KeyRetired,
    PassphraseMissing,
    PassphraseWrong,
)
from nexus_attest.keys import LocalKey, StoredKey, decoded_seed, list_keys, new_key, open_key, read_key, retire_key
from nexus_control.errors import InputError, NexusError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SEED = bytes(range(32))
OPS, MEMORY = 1, 8192
"""The least that argon2id does."""


def nobody() -> None:
    """No passphrase."""


def made(folder: Path, name: str = "alice", passphrase: str | None = None) -> StoredKey:
    return new_key(folder, name, passphrase, clock=lambda: NOW, ops=OPS, memory=MEMORY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "keys"


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_new_key_signs_and_lies_where_nobody_else_can_read_it(folder: Path) -> None:
    key = made(folder)
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    opened = open_key(key.path, nobody)
    assert (opened.key_id, opened.public_key) == (key.key_id, key.public_key)
    assert ed25519.verify(key.public_key, b"message", opened.sign(b"message"))
    assert not key.is_protected


def test_a_key_file_says_what_is_documented(folder: Path) -> None:
    key = made(folder)
    data = json.loads(key.path.read_text())
    assert {name: data[name] for name in data if name != "secret"} == {
        "kind": "nexus-attest.key",
        "v": 1,
        "name": "alice",
        "key_id": key.key_id,
        "public_key": b64encode(key.public_key).decode(),
        "created_at": "2026-06-01T00:00:00+00:00",
        "retired_at": None,
    }
    assert read_key(key.path) == key


def test_the_file_is_private_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        assert stat.S_IMODE(made(folder).path.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_protected_key_opens_with_its_passphrase_alone(folder: Path) -> None:
    key = made(folder, passphrase="correct horse \u00fc \ud800")
    assert key.is_protected
    assert read_key(key.path).open(lambda: "correct horse \u00fc \ud800").public_key == key.public_key
    for given in (None, ""):
        with pytest.raises(PassphraseMissing):
            open_key(key.path, lambda given=given: given)
    with pytest.raises(PassphraseWrong):
        open_key(key.path, lambda: "correct horse")
    assert json.loads(key.path.read_text())["secret"].keys() == {"kdf", "ops", "memory", "salt", "box"}


def test_the_default_costs_are_libsodiums_moderate_ones(folder: Path) -> None:
    from nacl.pwhash import argon2id

    secret = json.loads(new_key(folder, "alice", "x").path.read_text())["secret"]
    assert (secret["ops"], secret["memory"]) == (argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE)


def test_an_unprotected_key_asks_for_no_passphrase(folder: Path) -> None:
    def asked() -> str:
        raise AssertionError

    open_key(made(folder).path, asked)


def test_keys_are_never_replaced(folder: Path) -> None:
    before = made(folder).path.read_bytes()
    with pytest.raises(KeyExists):
        made(folder)
    assert (folder / "alice.key").read_bytes() == before


@pytest.mark.parametrize("name", ["", ".", "..", "../alice", "a/b", "-a", ".a", "a b", "a\n", "a\0", "\u00e4", "a" * 101])
def test_a_name_that_is_no_file_name_everywhere_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(KeyInvalid):
        made(folder, name)
    assert not folder.exists()


def test_keys_are_listed_by_name_with_what_is_wrong_with_some(folder: Path) -> None:
    assert list_keys(folder) == []
    bob, alice = made(folder, "bob"), made(folder, "alice")
    (folder / "broken.key").touch(mode=0o600)
    (folder / "open.key").touch(mode=0o644)
    (folder / "notes.txt").touch()
    first, second, broken, exposed = list_keys(folder)
    assert (first, second) == (alice, bob)
    assert isinstance(broken, KeyInvalid)
    assert isinstance(exposed, KeyFileRefused)


def test_a_retired_key_has_no_private_part_any_more(folder: Path) -> None:
    key = made(folder)
    secret = json.loads(key.path.read_text())["secret"]["seed"]
    retired = retire_key(key.path, clock=lambda: NOW)
    assert (retired.retired_at, retired.public_key) == (NOW, key.public_key)
    assert read_key(key.path) == retired
    assert secret not in key.path.read_text()
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["alice.key"]
    with pytest.raises(KeyRetired):
        open_key(key.path, nobody)
    with pytest.raises(KeyRetired):
        retire_key(key.path)


def test_a_retirement_that_fails_leaves_the_key_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = made(folder)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            retire_key(key.path)
    assert open_key(key.path, nobody).key_id == key.key_id
    assert [path.name for path in folder.iterdir()] == ["alice.key"]


# -- where a key lies -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o622, 0o610, 0o601, 0o777])
def test_a_key_that_others_can_read_or_change_is_refused(mode: int, folder: Path) -> None:
    path = made(folder).path
    path.chmod(mode)
    with pytest.raises(KeyFileRefused):
        read_key(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_key_that_only_its_owner_can_use_is_taken(mode: int, folder: Path) -> None:
    path = made(folder).path
    path.chmod(mode)
    assert read_key(path).name == "alice"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702])
def test_a_folder_in_which_others_can_replace_keys_is_refused(mode: int, folder: Path) -> None:
    path = made(folder).path
    folder.chmod(mode)
    with pytest.raises(KeyFileRefused):
        read_key(path)
    with pytest.raises(KeyFileRefused):
        made(folder, "bob")


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o1777])
def test_a_folder_that_others_may_only_look_at_is_fine(mode: int, folder: Path) -> None:
    path = made(folder).path
    folder.chmod(mode)
    assert read_key(path).name == "alice"


def test_symbolic_links_are_not_followed(folder: Path) -> None:
    link = folder / "link.key"
    link.symlink_to(made(folder).path)
    with pytest.raises(KeyFileRefused):
        read_key(link)
    (folder / "dangling.key").symlink_to(folder / "nothing")
    with pytest.raises(KeyExists):
        made(folder, "dangling")
    assert not (folder / "nothing").exists()


def test_a_link_that_appears_after_the_first_look_is_not_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = made(folder).path, folder / "link.key"
    link.symlink_to(path)
    monkeypatch.setattr(Path, "lstat", Path.stat)
    with pytest.raises(KeyFileRefused):
        read_key(link)


def test_pipes_devices_and_folders_are_not_opened(folder: Path) -> None:
    made(folder)
    os.mkfifo(folder / "pipe.key", 0o600)
    (folder / "folder.key").mkdir()
    for path in (folder / "pipe.key", folder / "folder.key", Path("/dev/null")):
        with pytest.raises(KeyFileRefused):
            read_key(path)


def test_a_key_of_somebody_else_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(folder).path
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(KeyFileRefused):
        read_key(path)


def test_a_missing_key_or_folder_is_told_as_such(folder: Path) -> None:
    with pytest.raises(KeyNotFound):
        read_key(folder / "alice.key")
    made(folder)
    with pytest.raises(KeyNotFound):
        read_key(folder / "bob.key")


def test_a_huge_file_is_no_key(folder: Path) -> None:
    path = made(folder).path
    path.write_bytes(b" " * 20_000)
    with pytest.raises(KeyFileRefused):
        read_key(path)


def test_where_there_are_no_modes_none_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(folder).path
    path.chmod(0o644)
    folder.chmod(0o777)
    status = path.lstat()
    monkeypatch.setattr(os, "name", "nt")
    keys._require_private(path, status)  # pyright: ignore[reportPrivateUsage]
    keys._require_own_folder(folder)  # pyright: ignore[reportPrivateUsage]


# -- what a key file says ---------------------------------------------------------------------------------------------------------


def other_public(data: dict[str, Any]) -> None:
    public = ed25519.public_key_of(bytes(32))
    data["public_key"], data["key_id"] = b64encode(public).decode(), ed25519.key_id_of(public)


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "another kind": lambda data: data.update(kind="ssh"),
    "another version": lambda data: data.update(v=2),
    "a boolean version": lambda data: data.update(v=True),
    "a member too many": lambda data: data.update(x=1),
    "a member too few": lambda data: data.pop("name"),
    "a name that is none": lambda data: data.update(name="../x"),
    "a name that is no text": lambda data: data.update(name=1),
    "another id": lambda data: data.update(key_id="ed25519:0000000000000000"),
    "a public key that is none": lambda data: data.update(public_key="AA=="),
    "a public key that is no text": lambda data: data.update(public_key=1),
    "a time that is none": lambda data: data.update(created_at="today"),
    "a time that is a number": lambda data: data.update(created_at=1),
    "retired with its secret": lambda data: data.update(retired_at="2026-06-01T00:00:00+00:00"),
    "no secret and not retired": lambda data: data.update(secret=None),
    "a secret that is a text": lambda data: data.update(secret="x"),
    "a secret without kdf": lambda data: data.update(secret={}),
    "an unknown kdf": lambda data: data["secret"].update(kdf="md5"),
    "a secret with more in it": lambda data: data["secret"].update(x=1),
    "a seed that is none": lambda data: data["secret"].update(seed="AAAA"),
    "a seed that is no base64": lambda data: data["secret"].update(seed="?" * 44),
    "the public key of another": other_public,
}
PROTECTED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no rounds": lambda data: data["secret"].update(ops=0),
    "endless rounds": lambda data: data["secret"].update(ops=17),
    "rounds as text": lambda data: data["secret"].update(ops="1"),
    "all the memory": lambda data: data["secret"].update(memory=2**40),
    "less memory than argon2id needs": lambda data: data["secret"].update(memory=1),
    "a boolean memory": lambda data: data["secret"].update(memory=True),
    "a short salt": lambda data: data["secret"].update(salt="AA=="),
    "a short box": lambda data: data["secret"].update(box="AA=="),
    "no box": lambda data: data["secret"].pop("box"),
    "the public key of another": other_public,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_key_file_is_understood_completely_or_refused(name: str, folder: Path) -> None:
    path = made(folder).path
    edited(path, BROKEN[name])
    with pytest.raises(KeyInvalid):
        open_key(path, nobody)


@pytest.mark.parametrize("name", PROTECTED)
def test_a_protected_key_file_too(name: str, folder: Path) -> None:
    path = made(folder, passphrase="p").path
    edited(path, PROTECTED[name])
    with pytest.raises(KeyInvalid):
        open_key(path, lambda: "p")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b'{"kind":1,"kind":1}', b"[" * 10_000])
def test_what_is_no_json_object_is_no_key(content: bytes, folder: Path) -> None:
    path = made(folder).path
    path.write_bytes(content)
    with pytest.raises(KeyInvalid):
        read_key(path)


def test_a_box_of_another_key_does_not_open(folder: Path) -> None:
    first, second = made(folder, "a", "p").path, made(folder, "b", "p").path
    box = json.loads(second.read_text())["secret"]["box"]
    edited(first, lambda data: data["secret"].update(box=box))
    with pytest.raises(PassphraseWrong):
        open_key(first, lambda: "p")


# -- secrets stay where they are --------------------------------------------------------------------------------------------------


def test_a_private_key_shows_its_id_alone_and_is_not_copied() -> None:
    key = LocalKey(SEED)
    assert repr(key) == str(key) == f"<LocalKey {key.key_id}>"
    assert not hasattr(key, "__dict__")
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copier(key)


def test_a_key_out_of_a_variable_is_the_same_key() -> None:
    assert decoded_seed(b64encode(SEED).decode() + "\n", "X").key_id == LocalKey(SEED).key_id


def test_no_error_and_no_repr_holds_a_secret(folder: Path) -> None:
    """Every failure of this file once more, with the private key looked for in its text, its traceback and its causes."""
    key = made(folder)
    secrets = {json.loads(key.path.read_text())["secret"]["seed"]}
    secrets |= {repr(secret.encode()) for secret in secrets} | {secret[:20] for secret in secrets}
    good = key.path.read_text()
    told: list[str] = [repr(key), repr(open_key(key.path, nobody))]

    def tell(failing: Callable[[], object]) -> None:
        try:
            failing()
        except NexusError as problem:
            told.append("".join(traceback.format_exception(problem)) + repr(problem))
        else:
            raise AssertionError

    for name, change in BROKEN.items():
        key.path.write_text(good)
        edited(key.path, change)
        tell(lambda: open_key(key.path, nobody))
        assert told[-1], name
    key.path.write_text(good[:-20])
    tell(lambda: open_key(key.path, nobody))
    key.path.write_text(good)
    key.path.chmod(0o644)
    tell(lambda: open_key(key.path, nobody))
    for text in (json.loads(good)["secret"]["seed"][:-4], json.loads(good)["secret"]["seed"] + "A", "?"):
        tell(lambda text=text: decoded_seed(text, "the environment variable X"))
    passphrase = "hunter" + "2"  # in this file it must not stand as it is: tracebacks show lines of it
    secrets.add(passphrase)
    protected = made(folder, "bob", passphrase)
    told.append(repr(protected))
    tell(lambda: open_key(protected.path, lambda: passphrase + "x"))
    assert passphrase not in protected.path.read_text()
    assert not [(secret, text) for text in told for secret in secrets if secret in text]


def test_a_clock_without_an_offset_makes_no_key_and_retires_none(folder: Path) -> None:
    def naive() -> datetime:
        return datetime(2026, 6, 1)

    with pytest.raises(InputError, match="clock must give times with an offset"):
        new_key(folder, "late", None, clock=naive, ops=OPS, memory=MEMORY)
    assert list_keys(folder) == []
    key = made(folder)
    before = key.path.read_bytes()
    with pytest.raises(InputError, match="clock must give times with an offset"):
        retire_key(key.path, clock=naive)
    assert key.path.read_bytes() == before
