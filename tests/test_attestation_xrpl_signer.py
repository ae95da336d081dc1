"""Signers for the ledger: the bytes that they make, the keys that they take, and that the secret is nowhere to be seen."""

import contextlib
import copy
import hashlib
import os
import pickle
import sys
import traceback
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xrpl.constants import CryptoAlgorithm
from xrpl.core.addresscodec import encode_seed
from xrpl.core.keypairs import derive_keypair
from xrpl.models.transactions import Transaction

from nexus_attest.attestation import xrpl
from nexus_attest.attestation.errors import NotATransaction, SigningRefused
from nexus_attest.attestation.xrpl.codec import (
    address_of,
    decode_transaction,
    encode_transaction,
    require_memos_fit,
    signing_payload,
    verify_payload,
)
from nexus_attest.attestation.xrpl.ledger_keys import ProgramKey, key_of_seed
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.key_errors import KeyFileRefused, KeyInvalid, KeyNotFound, SignerFailed

SEED = "sEdSJHS4oiAdz7w2X2ni1gFiqtbJHqE"
ACCOUNT = "r9zRhGr7b6xPekLvT6wP4qNdWMryaumZS7"
PUBLIC = "ED1A7C082846CFF58FF9A892BA4BA2593151CCF1DBA59F37714CC9ED39824AF85F"
SECP_SEED = "snoPBrXtMeMyMHUVTgbuqAfg1SUTb"
SECP_ACCOUNT = "rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh"
MEMO = (
    b'{"h":"rfc6962-sha256","n":3,"r":"df896896c799531f1fd1e556cea26a6989ab06853bcbfdd3e4f5097a611f658f","t":"nexus.attest.batch","v":"1"}'
)


def transaction(account: str = ACCOUNT, **members: Any) -> dict[str, Any]:
    memo = {"MemoType": b"nexus.attest.batch".hex(), "MemoData": MEMO.hex()}
    fields = {"TransactionType": "AccountSet", "Account": account, "Memos": [{"Memo": memo}]}
    return {**fields, "Sequence": 7, "Fee": "10", "LastLedgerSequence": 1000, **members}


@pytest.fixture
def signer(monkeypatch: pytest.MonkeyPatch) -> LocalWalletSigner:
    monkeypatch.setenv("SEED_FOR_TESTS", SEED)
    return LocalWalletSigner.from_environment("SEED_FOR_TESTS")


def seed_file(folder: Path, content: str = SEED + "\n", mode: int = 0o600) -> Path:
    path = folder / "seed"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_the_signed_transaction_is_the_published_one(signer: LocalWalletSigner) -> None:
    made = signer.sign(transaction())
    blob = bytes.fromhex(made.signed_tx_blob_hex)
    assert len(blob) == 304
    assert hashlib.sha256(blob).hexdigest() == "7dc9c38beb1f543b6e125d936046a7a7763ddedb39efe01b263134cb1ef9c072"
    assert made.tx_hash == "CEF32912F2473A801579C2D3D8FFE0FC75C8C7C79C54AA40F817A2A1F72CF18F"
    assert (made.key_id, signer.key_id, signer.account) == (PUBLIC, PUBLIC, ACCOUNT)
    assert signer.sign(transaction()) == made


@pytest.mark.parametrize("seed", [SEED, SECP_SEED])
def test_xrpl_py_finds_the_same_hash_and_a_good_signature(seed: str) -> None:
    key = key_of_seed(seed)
    signer = LocalWalletSigner(key)
    made = signer.sign(transaction(signer.account))
    parsed = Transaction.from_blob(made.signed_tx_blob_hex)
    assert parsed.get_hash() == made.tx_hash
    fields = decode_transaction(bytes.fromhex(made.signed_tx_blob_hex))
    assert verify_payload(key.public_key, signing_payload(fields), bytes.fromhex(fields["TxnSignature"]))
    assert not verify_payload(key.public_key, signing_payload({**fields, "Fee": "11"}), bytes.fromhex(fields["TxnSignature"]))


def test_both_kinds_of_seed_give_the_accounts_of_xrpl_py() -> None:
    assert address_of(key_of_seed(SEED).public_key) == ACCOUNT
    assert address_of(key_of_seed(SECP_SEED).public_key) == SECP_ACCOUNT


@settings(max_examples=5)
@given(st.binary(min_size=16, max_size=16), st.sampled_from([CryptoAlgorithm.ED25519, CryptoAlgorithm.SECP256K1]))
def test_every_seed_gives_the_public_key_of_xrpl_py(entropy: bytes, kind: CryptoAlgorithm) -> None:
    seed = encode_seed(entropy, kind)
    assert key_of_seed(seed).public_key == derive_keypair(seed)[0].upper()


def test_a_regular_key_signs_for_the_account_whose_key_it_is() -> None:
    signer = LocalWalletSigner(key_of_seed(SEED), account=SECP_ACCOUNT)
    fields = decode_transaction(bytes.fromhex(signer.sign(transaction(SECP_ACCOUNT)).signed_tx_blob_hex))
    assert (fields["Account"], fields["SigningPubKey"]) == (SECP_ACCOUNT, PUBLIC)


def test_what_is_absent_is_completed_on_a_copy_and_what_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_FOR_TESTS", SEED)
    asked: list[str] = []

    def complete(account: str) -> dict[str, Any]:
        asked.append(account)
        return {"Sequence": 1, "Fee": "12", "LastLedgerSequence": 2}

    signer = LocalWalletSigner.from_environment("SEED_FOR_TESTS", complete=complete)
    planned = {"TransactionType": "AccountSet", "Account": ACCOUNT, "Fee": "20"}
    fields = decode_transaction(bytes.fromhex(signer.sign(planned).signed_tx_blob_hex))
    assert (fields["Sequence"], fields["Fee"], fields["LastLedgerSequence"]) == (1, "20", 2)
    assert planned == {"TransactionType": "AccountSet", "Account": ACCOUNT, "Fee": "20"}
    signer.sign(transaction())
    assert asked == [ACCOUNT]


@pytest.mark.parametrize("absent", ["Sequence", "Fee", "LastLedgerSequence"])
def test_an_incomplete_transaction_is_not_signed(signer: LocalWalletSigner, absent: str) -> None:
    planned = transaction()
    del planned[absent]
    with pytest.raises(SigningRefused, match=absent):
        signer.sign(planned)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"Account": SECP_ACCOUNT}, SigningRefused),
        ({"Account": None}, SigningRefused),
        ({"TxnSignature": "00"}, SigningRefused),
        ({"Signers": []}, SigningRefused),
        ({"Fee": 10.5}, NotATransaction),
        ({"Fee": "-1"}, NotATransaction),
        ({"Sequence": -1}, NotATransaction),
        ({"Sequence": 2**32}, NotATransaction),
        ({"NoSuchField": 1}, NotATransaction),
        ({"TransactionType": "Nothing"}, NotATransaction),
        ({"Memos": 7}, NotATransaction),
        ({"Memos": [{"Memo": {"MemoData": "zz"}}]}, NotATransaction),
        ({"Memos": [{"SignerEntry": {"Account": SECP_ACCOUNT, "SignerWeight": 1}}]}, NotATransaction),
        ({"Memos": [{"Memo": {"Unknown": "00"}}]}, NotATransaction),
        ({"Memos": [{"Memo": {"MemoType": b"a b".hex(), "MemoData": "00"}}]}, NotATransaction),
        ({"Memos": [{"Memo": {"MemoType": b"ok".hex(), "MemoFormat": b"\xc3\xa9".hex()}}]}, NotATransaction),
    ],
)
def test_what_the_ledger_could_not_take_is_not_signed(signer: LocalWalletSigner, changed: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        signer.sign(transaction(**changed))


@pytest.mark.parametrize(("kind", "most"), [("nexus.attest", 1005), ("nexus.attest.batch", 999)])
def test_the_limit_of_memos_is_that_of_servers(kind: str, most: int) -> None:
    def memos(size: int) -> dict[str, Any]:
        return {"Memos": [{"Memo": {"MemoType": kind.encode().hex(), "MemoData": "00" * size}}]}

    require_memos_fit(memos(most))
    with pytest.raises(NotATransaction, match="1024"):
        require_memos_fit(memos(most + 1))


def test_bytes_have_one_form() -> None:
    blob = encode_transaction({**transaction(), "SigningPubKey": PUBLIC})
    assert encode_transaction(decode_transaction(blob)) == blob
    for other in (b"", blob[:-1], blob + b"\0", blob[:3] + blob[8:] + blob[3:8]):
        with pytest.raises(NotATransaction):
            decode_transaction(other)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_transaction_or_refused_by_name(data: bytes) -> None:
    with contextlib.suppress(NotATransaction):
        assert encode_transaction(decode_transaction(data)) == data


@pytest.mark.parametrize("key", ["", "ED", PUBLIC[:-2], "02" + "00" * 32, "02" + "ff" * 32])
def test_a_public_key_that_is_none_verifies_nothing(key: str) -> None:
    assert not verify_payload(key, b"x", b"\0" * 64)
    assert not verify_payload(derive_keypair(SECP_SEED)[0], b"x", b"\x30\x00")


# -- where keys come from -------------------------------------------------------------------------------------------------------------


def test_a_seed_comes_from_a_variable_a_file_or_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED_FOR_TESTS", f" {SEED}\n")
    assert LocalWalletSigner.open("env:SEED_FOR_TESTS").account == ACCOUNT
    assert LocalWalletSigner.open(str(seed_file(tmp_path))).account == ACCOUNT
    assert LocalWalletSigner.open(str(seed_file(tmp_path, SECP_SEED))).account == SECP_ACCOUNT


@pytest.mark.parametrize("mode", [0o400, 0o640, 0o604, 0o660, 0o700, 0o644])
def test_a_seed_file_of_any_mode_but_0600_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeyFileRefused):
        LocalWalletSigner.from_file(seed_file(tmp_path, mode=mode))


def test_no_link_no_folder_and_no_pipe_is_a_seed_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(seed_file(tmp_path))
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", "."):
        with pytest.raises(KeyFileRefused):
            LocalWalletSigner.from_file(tmp_path / name)
    with pytest.raises(KeyNotFound):
        LocalWalletSigner.from_file(tmp_path / "none")


@pytest.mark.parametrize("content", ["", "x", SEED[:-1], SEED + SEED, SEED[:-1] + "F", "\xff", "sEd" + "0" * 28, "0" * 64])
def test_what_is_no_seed_is_refused(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyInvalid):
        LocalWalletSigner.from_file(seed_file(tmp_path, content))
    monkeypatch.setenv("SEED_FOR_TESTS", content)
    with pytest.raises((KeyInvalid, KeyNotFound)):
        LocalWalletSigner.from_environment("SEED_FOR_TESTS")


PROGRAM = """
import json, sys
operation = json.load(sys.stdin)["operation"]
print(json.dumps({%r: %r} if operation == "public_key" else {%r: %r}))
"""


def program(folder: Path, public_key: bytes, signature: bytes) -> list[str]:
    """A program that always gives these answers."""
    path = folder / "sign.py"
    path.write_text(PROGRAM % ("public_key", b64encode(public_key).decode(), "signature", b64encode(signature).decode()))
    return [sys.executable, "-S", str(path)]


def signed_by(seed: str) -> tuple[bytes, bytes, xrpl.SignResult]:
    """The public key, its signature of the transaction of its account, and what a signer in this process makes of it."""
    key = key_of_seed(seed)
    made = LocalWalletSigner(key).sign(transaction(address_of(key.public_key)))
    signature = decode_transaction(bytes.fromhex(made.signed_tx_blob_hex))["TxnSignature"]
    return bytes.fromhex(key.public_key), bytes.fromhex(signature), made


def with_high_s(signature: bytes) -> bytes:
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    end = 4 + signature[3]
    high = b"\0" + (order - int.from_bytes(signature[end + 2 :])).to_bytes(32)
    numbers = signature[2:end] + b"\2" + bytes([len(high)]) + high
    return b"\x30" + bytes([len(numbers)]) + numbers


@pytest.mark.parametrize("seed", [SEED, SECP_SEED])
def test_a_program_signs_what_the_seed_would_have_signed(tmp_path: Path, seed: str) -> None:
    public_key, signature, made = signed_by(seed)
    signer = LocalWalletSigner(ProgramKey(program(tmp_path, public_key, signature)))
    assert signer.sign(transaction(signer.account)) == made


def test_an_ed25519_key_may_come_without_its_mark(tmp_path: Path) -> None:
    public_key, signature, made = signed_by(SEED)
    assert LocalWalletSigner(ProgramKey(program(tmp_path, public_key[1:], signature))).sign(transaction()) == made


def test_a_high_s_is_replaced_by_the_low_one(tmp_path: Path) -> None:
    public_key, signature, made = signed_by(SECP_SEED)
    assert with_high_s(signature) != signature
    signer = LocalWalletSigner(ProgramKey(program(tmp_path, public_key, with_high_s(signature))))
    assert signer.sign(transaction(signer.account)) == made


def last_byte_flipped(signature: bytes) -> bytes:
    return signature[:-1] + bytes([signature[-1] ^ 1])


TAMPERED: list[Callable[[bytes], bytes]] = [
    last_byte_flipped,
    lambda _: bytes(64),
    lambda raw: raw[:7],
    lambda raw: b"\x30" + raw[1:-8],
]


@pytest.mark.parametrize("seed", [SEED, SECP_SEED])
@pytest.mark.parametrize("tampered", TAMPERED)
def test_a_signature_that_is_none_is_never_used(tmp_path: Path, seed: str, tampered: Callable[[bytes], bytes]) -> None:
    public_key, signature, _ = signed_by(seed)
    signer = LocalWalletSigner(ProgramKey(program(tmp_path, public_key, tampered(signature))))
    with pytest.raises(SignerFailed):
        signer.sign(transaction(signer.account))


def test_a_program_without_a_key_of_the_ledger_is_refused(tmp_path: Path) -> None:
    for raw in (b"\5" * 33, b"\xed" + b"\xff" * 32, bytes(32)):
        with pytest.raises(SignerFailed, match="no public key"):
            ProgramKey(program(tmp_path, raw, b""))
    with pytest.raises(SignerFailed, match="32 to 33 bytes"):
        ProgramKey(program(tmp_path, b"", b""))
    with pytest.raises(KeyInvalid, match="command"):
        LocalWalletSigner.open("program: ")
    with pytest.raises(KeyInvalid, match="split"):
        LocalWalletSigner.open("program:'open")


# -- the secret -----------------------------------------------------------------------------------------------------------------------


def secrets_of(seed: str) -> list[str]:
    private = derive_keypair(seed)[1][2:]
    return [seed, seed[3:], private, private.lower(), str(bytes.fromhex(private))]


def failing(signer: LocalWalletSigner, tmp_path: Path) -> list[Callable[[], object]]:
    return [
        lambda: signer.sign({}),
        lambda: signer.sign(transaction(Fee=None)),
        lambda: signer.sign(transaction(SECP_ACCOUNT)),
        lambda: pickle.dumps(signer),
        lambda: copy.copy(signer),
        lambda: copy.deepcopy(signer),
        lambda: pickle.dumps(key_of_seed(SEED)),
        lambda: key_of_seed("".join((SEED, "F"))),
        lambda: key_of_seed("".join((SEED, "0"))),
        lambda: LocalWalletSigner.from_file(seed_file(tmp_path, SEED[:-1])),
        lambda: LocalWalletSigner.from_file(seed_file(tmp_path, mode=0o644)),
    ]


def test_no_error_says_anything_of_the_seed(signer: LocalWalletSigner, tmp_path: Path) -> None:
    for call in failing(signer, tmp_path):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
            call()
        assert caught.value.__context__ is None or not isinstance(caught.value, KeyInvalid)
        text = "".join(traceback.format_exception(caught.value)) + str(caught.value.__context__)
        assert not [secret for secret in secrets_of(SEED) if secret in text]


def test_a_signer_shows_its_public_half_alone() -> None:
    for seed in (SEED, SECP_SEED):
        key = key_of_seed(seed)
        shown = repr(LocalWalletSigner(key)) + repr(key) + str(key)
        assert key.public_key in shown
        assert not [secret for secret in secrets_of(seed) if secret in shown]
        assert not hasattr(key, "__dict__")


def test_the_package_publishes_the_signer(signer: LocalWalletSigner) -> None:
    assert xrpl.LocalWalletSigner is LocalWalletSigner
    assert isinstance(signer, xrpl.XRPLSigner)
