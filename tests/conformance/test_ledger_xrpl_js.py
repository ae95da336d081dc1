"""The test ledger against the implementation of others: npm's `xrpl` computes its hashes, roots and signatures, and is its client."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from node_testing import node, npm_package

from nexus_attest.testledger import Ledger, Node, closing, dump, key_from_seed, seed_of, serving, sign_transaction

NAME, VERSION = "xrpl", "5.3.0"
HERE = Path(__file__).resolve().parent

ALICE = key_from_seed(seed_of("alice"))
BOB = key_from_seed(seed_of("bob", secp256k1=True))


@pytest.fixture(scope="module")
def package() -> Path:
    return npm_package(NAME, VERSION)


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """Ledger 3 has payments, a new account, options, memos, a failure, both kinds of keys, and thirty transactions in all."""
    found = Ledger({ALICE.address: 500_000_000, BOB.address: 100_000_000})
    found.close()
    fee = {"Fee": "10"}
    for number in range(1, 27):
        memo = {"Memo": {"MemoType": b"nexus.attest".hex(), "MemoData": bytes(40 * number - 20).hex()}}
        fields = {"TransactionType": "AccountSet", "Account": ALICE.address, "Sequence": number, "Memos": [memo]}
        assert found.take(sign_transaction(ALICE, fields | fee)).result == "tesSUCCESS"
    pay = {"TransactionType": "Payment", "Account": BOB.address, **fee}
    new = {"Destination": key_from_seed(seed_of("new")).address, "Amount": "20000000"}
    assert found.take(sign_transaction(BOB, {**pay, "Sequence": 1, **new})).result == "tesSUCCESS"
    none = {"Destination": key_from_seed(seed_of("none")).address, "Amount": "1"}
    assert found.take(sign_transaction(BOB, {**pay, "Sequence": 2, **none})).result == "tecNO_DST_INSUF_XRP"
    options = {"TransactionType": "AccountSet", "Account": BOB.address, "Domain": "AB", "SetFlag": 1, "WalletLocator": "CD" * 32}
    assert found.take(sign_transaction(BOB, {**options, **fee, "Sequence": 3})).result == "tesSUCCESS"
    key = {"TransactionType": "SetRegularKey", "Account": BOB.address, "RegularKey": ALICE.address}
    assert found.take(sign_transaction(BOB, {**key, **fee, "Sequence": 4})).result == "tesSUCCESS"
    assert len(found.close().entries) == 30
    return found


def check(package: Path, dumped: dict[str, Any]) -> dict[str, Any]:
    """What the package finds in a dump."""
    command = [str(node()), str(HERE / "check_ledger.js"), str(package)]
    done = subprocess.run(command, input=json.dumps(dumped), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_another_implementation_finds_the_same_hashes_roots_and_good_signatures(package: Path, ledger: Ledger) -> None:
    dumped = dump(ledger, 3)
    found = check(package, dumped)
    header = dumped["header"]
    assert found["ledger_hash"] == dumped["ledger_hash"]
    assert (found["transaction_hash"], found["account_hash"]) == (header["transaction_hash"], header["account_hash"])
    assert found["transactions"] == [{"id": item["hash"], "good": True, "own_key": True} for item in dumped["transactions"]]
    assert found["publisher"] == {
        "good": True,
        "list": True,
        "master": ledger.validators.pin,
        "signing": ledger.validators.publisher_signing.hex,
    }
    assert [item["good"] for item in found["validators"]] == [True] * 5
    signing = [item["signing"] for item in found["validators"]]
    place = {"good": True, "hash": dumped["ledger_hash"], "index": 3, "full": True}
    assert found["validations"] == [{"signing": key, **place} for key in signing]


def test_another_implementation_sees_what_was_changed(package: Path, ledger: Ledger) -> None:
    dumped = dump(ledger, 3)
    first = dumped["transactions"][0]
    first["meta_blob"] = first["meta_blob"].replace("00000000F8", "00000001F8", 1)  # its place in the ledger
    dumped["state"][0]["Balance"] = "1"
    data = dumped["validations"][0]
    dumped["validations"][0] = data.replace(dumped["ledger_hash"], "00" * 32)
    found = check(package, dumped)
    assert found["transaction_hash"] != dumped["header"]["transaction_hash"]
    assert found["account_hash"] != dumped["header"]["account_hash"]
    assert found["ledger_hash"] != dumped["ledger_hash"]
    assert [item["good"] for item in found["validations"]] == [False, True, True, True, True]


def test_another_client_submits_and_waits(package: Path) -> None:
    ledger = Ledger({ALICE.address: 100_000_000}, first_index=1000)
    command = [str(node()), str(HERE / "submit_with_xrpl_js.js"), str(package)]
    with serving(Node(ledger)) as urls, closing(ledger, every=0.5):
        done = subprocess.run([*command, urls.ws, seed_of("alice")], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    found = ledger.find(answer["hash"])
    assert found is not None
    assert (answer["validated"], answer["result"], answer["index"]) == (True, "tesSUCCESS", found[0].index)
    assert round(answer["balance"] * 1_000_000) == 100_000_000 - found[1].transaction.fee
