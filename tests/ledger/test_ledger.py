"""The test ledger: hashes as published, results as real servers give them, queue, expiry, and the same ledgers for the same input."""

import base64
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xrpl.core.addresscodec import decode_classic_address
from xrpl.core.binarycodec import decode, encode

from nexus_attest.testledger import (
    ALL_DROPS,
    Clock,
    Fees,
    Header,
    Key,
    Ledger,
    NotATransaction,
    Transaction,
    Validators,
    key_from_seed,
    parse_transaction,
    seed_of,
    sign_transaction,
    since_2000,
    xpop,
)
from nexus_attest.testledger.hashing import half, state_leaf, transaction_leaf, tree_path, tree_root
from nexus_attest.testledger.keys import verify
from nexus_attest.testledger.results import MESSAGES, RPC_ERRORS, result_code
from nexus_attest.testledger.state import index_of

ALICE = key_from_seed("sEdSJHS4oiAdz7w2X2ni1gFiqtbJHqE")
BOB = key_from_seed(seed_of("bob", secp256k1=True))
CAROL = key_from_seed(seed_of("carol"))

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def fields(key: Key, sequence: int, **others: Any) -> dict[str, Any]:
    return {"TransactionType": "AccountSet", "Account": key.address, "Fee": "10", "Sequence": sequence, **others}


def account_set(key: Key, sequence: int, **others: Any) -> Transaction:
    return sign_transaction(key, fields(key, sequence, **others))


def payment(key: Key, sequence: int, destination: str, amount: int, **others: Any) -> Transaction:
    return account_set(key, sequence, TransactionType="Payment", Destination=destination, Amount=str(amount), **others)


def memo(data: bytes, kind: bytes = b"nexus.attest", **others: str) -> list[dict[str, Any]]:
    return [{"Memo": {"MemoType": kind.hex(), "MemoData": data.hex(), **others}}]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger({ALICE.address: 100_000_000, BOB.address: 100_000_000})


def test_hash_of_a_mainnet_header_is_the_recorded_one() -> None:
    header = Header(
        index=15202439,
        coins=99998831688050493,
        parent_hash=bytes.fromhex("12724A65B030C15A1573AA28B1BBB5DF3DA4589AA3623675A31CAE69B23B1C4E"),
        transaction_root=bytes.fromhex("325EACC5271322539EEEC2D6A5292471EF1B3E72AE7180533EFC3B8F0AD435C8"),
        state_root=bytes.fromhex("D9ABF622DA26EEEE48203085D4BC23B0F77DC6F8724AC33D975DA3CA492D2E44"),
        parent_close_time=492656460,
        close_time=492656470,
    )
    assert len(header.encode()) == 118
    assert header.hash().hex().upper() == "F4D865D83EB88C1A1911B9E90641919A1314F36E1B099F8E95FE3B7C77BE3349"


def test_roots_of_small_trees_are_the_recorded_ones() -> None:
    leaves = {bytes([first]) + bytes(31): half(text) for first, text in ((0x10, b"a"), (0x11, b"b"), (0x20, b"c"))}
    first = bytes([0x10]) + bytes(31)
    assert tree_root(leaves).hex().upper() == "7F24E0D51BF2C77C73A99486C04B740CAE66462B613B96CFF60064F5BB8162FE"
    assert tree_root({first: half(b"a")}).hex().upper() == "30201C26A86372F3EAD89B5B11EAE20A9981C36B93BE804D22329258774EFCA3"
    assert tree_root({}) == bytes(32)
    assert len(tree_path(leaves, first)) == 2
    with pytest.raises(KeyError):
        tree_path(leaves, bytes(32))


@given(st.dictionaries(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), min_size=1, max_size=40), st.data())
def test_a_path_leads_from_the_root_to_its_leaf(leaves: dict[bytes, bytes], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(leaves)))
    expected = tree_root(leaves)
    for depth, children in enumerate(tree_path(leaves, key)):
        assert half(b"MIN\0" + b"".join(children)) == expected
        expected = children[int(key.hex()[depth], 16)]
    assert expected == leaves[key]


@pytest.mark.parametrize(
    ("size", "prefix"), [(0, "00"), (192, "c0"), (193, "c100"), (12480, "f0ff"), (12481, "f10000"), (918744, "fed417")]
)
def test_lengths_are_written_as_the_format_demands(size: int, prefix: str) -> None:
    data = bytes(size)
    expected = half(b"SND\0" + bytes.fromhex(prefix) + data + b"\0" + half(b"TXN\0" + data))
    assert transaction_leaf(data, b"") == expected


def test_too_long_a_field_is_refused() -> None:
    with pytest.raises(ValueError, match="918745"):
        transaction_leaf(bytes(918745), b"")


def test_batch_transaction_has_the_recorded_bytes_and_id() -> None:
    root = "df896896c799531f1fd1e556cea26a6989ab06853bcbfdd3e4f5097a611f658f"
    text = f'{{"h":"rfc6962-sha256","n":3,"r":"{root}","t":"nexus.attest.batch","v":"1"}}'.encode()
    made = account_set(ALICE, 7, LastLedgerSequence=1000, Memos=memo(text, b"nexus.attest.batch"))
    assert ALICE.hex == "ED1A7C082846CFF58FF9A892BA4BA2593151CCF1DBA59F37714CC9ED39824AF85F"
    assert ALICE.address == "r9zRhGr7b6xPekLvT6wP4qNdWMryaumZS7"
    assert (len(made.blob), made.hash) == (304, "CEF32912F2473A801579C2D3D8FFE0FC75C8C7C79C54AA40F817A2A1F72CF18F")
    assert parse_transaction(made.blob.hex()) == made


def test_every_result_and_message_has_the_number_of_the_codec() -> None:
    text = (files("xrpl.core.binarycodec.definitions") / "definitions.json").read_text()
    assert set(MESSAGES) <= set(json.loads(text)["TRANSACTION_RESULTS"])
    assert (result_code("tesSUCCESS"), result_code("terQUEUED"), result_code("tefPAST_SEQ"), result_code("temREDUNDANT")) == (
        0,
        -89,
        -190,
        -275,
    )
    assert RPC_ERRORS["txnNotFound"][0] == 29


@pytest.mark.parametrize("key", [ALICE, BOB], ids=["ed25519", "secp256k1"])
def test_every_flipped_byte_of_a_signed_transaction_is_refused(key: Key) -> None:
    blob = account_set(key, 1, Memos=memo(b"x")).blob
    step = 1 if key is ALICE else 7  # checking secp256k1 takes its time
    for place in range(0, len(blob), step):
        changed = blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
        with pytest.raises(NotATransaction):
            parse_transaction(changed.hex())


def test_signature_with_a_high_s_is_refused() -> None:
    made = account_set(BOB, 1)
    signature = bytes.fromhex(made.fields["TxnSignature"])
    size = signature[3]
    r, s = signature[4 : 4 + size], int.from_bytes(signature[6 + size :])
    high = (ORDER - s).to_bytes(33)
    body = bytes([2, size]) + r + bytes([2, 33]) + high
    twin = {**made.fields, "TxnSignature": (bytes([0x30, len(body)]) + body).hex().upper()}
    with pytest.raises(NotATransaction, match="Invalid signature"):
        parse_transaction(encode(twin))


@pytest.mark.parametrize(
    "public", [b"", bytes(33), b"\x02" + b"\xff" * 32, b"\x02" + bytes(31) + b"\x05", b"\xed" + bytes(32), b"\x04" + bytes(32)]
)
@pytest.mark.parametrize("signature", [b"", bytes(64), bytes.fromhex("3006020101020101"), b"0\x06\x02\x01\x01\x02\x02\x01"])
def test_what_is_no_key_or_no_signature_verifies_nothing(public: bytes, signature: bytes) -> None:
    assert not verify(public, b"message", signature)


@pytest.mark.parametrize(
    "blob", ["", "zz", "00", "1200", "12", "120003", "1263FF", "120003" + "F9" * 3000, "F9EA" * 3000, encode({"Flags": 1}), "é"]
)
def test_what_is_no_transaction_is_refused_by_name(blob: str, ledger: Ledger) -> None:
    with pytest.raises(NotATransaction):
        ledger.submit(blob)


def test_fields_in_another_order_are_refused_although_they_mean_the_same() -> None:
    blob = account_set(ALICE, 1).blob
    swapped = blob[3:8] + blob[:3] + blob[8:]  # Sequence before TransactionType
    assert decode(swapped.hex()) == decode(blob.hex())
    with pytest.raises(NotATransaction, match="not canonically encoded"):
        parse_transaction(swapped.hex())


@given(st.binary(max_size=200))
def test_no_bytes_upset_the_parser(data: bytes) -> None:
    with pytest.raises(NotATransaction):
        parse_transaction(data.hex())


def test_largest_memo_has_1005_bytes() -> None:
    parse_transaction(account_set(ALICE, 1, Memos=memo(bytes(1005))).blob.hex())
    with pytest.raises(NotATransaction, match="The memo exceeds the maximum allowed size"):
        parse_transaction(account_set(ALICE, 1, Memos=memo(bytes(1006))).blob.hex())
    parse_transaction(account_set(ALICE, 1, Memos=memo(bytes(999), b"nexus.attest.batch")).blob.hex())
    with pytest.raises(NotATransaction, match="maximum"):
        parse_transaction(account_set(ALICE, 1, Memos=memo(bytes(1000), b"nexus.attest.batch")).blob.hex())
    as_json = b"application/json".hex()
    parse_transaction(account_set(ALICE, 1, Memos=memo(bytes(987), MemoFormat=as_json)).blob.hex())
    with pytest.raises(NotATransaction, match="maximum"):
        parse_transaction(account_set(ALICE, 1, Memos=memo(bytes(988), MemoFormat=as_json)).blob.hex())


@pytest.mark.parametrize("kind", [b"with space", b"caf\xc3\xa9", b"\0", b'"'])
def test_memo_type_has_url_characters_only(kind: bytes) -> None:
    with pytest.raises(NotATransaction, match="RFC 3986"):
        parse_transaction(account_set(ALICE, 1, Memos=memo(b"x", kind)).blob.hex())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"TransactionType": "SetFee"}, "pseudo"),
        ({"TransactionType": "Payment"}, "required but missing"),
        ({"Destination": BOB.address}, "disallowed location"),
        ({"Memos": [{"Memo": {"Domain": "AA"}}]}, "only MemoType"),
        ({"Memos": [{"Signer": {"Account": ALICE.address}}]}, "only Memo objects"),
    ],
)
def test_fields_out_of_place_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(NotATransaction, match=message):
        parse_transaction(account_set(ALICE, 1, **changed).blob.hex())


def test_payment_to_oneself_is_refused_and_stays_refused(ledger: Ledger) -> None:
    made = payment(ALICE, 1, ALICE.address, 1)
    assert [ledger.take(made).result for _ in range(2)] == ["temREDUNDANT", "temBAD_SIGNATURE"]
    assert ledger.take(payment(ALICE, 1, ALICE.address, 0)).result == "temBAD_AMOUNT"
    assert ledger.take(payment(ALICE, 1, ALICE.address, 1, SendMax="2")).result == "temBAD_SEND_XRP_MAX"
    paths = [[{"account": BOB.address}]]
    assert ledger.take(payment(ALICE, 1, ALICE.address, 1, Paths=paths)).result == "temBAD_SEND_XRP_PATHS"
    closed = ledger.close()
    assert (closed.entries, closed.state[ALICE.address].sequence) == ((), 1)


@pytest.mark.parametrize(
    ("make", "result"),
    [
        (lambda: account_set(CAROL, 1), "terNO_ACCOUNT"),
        (lambda: account_set(ALICE, 1), "tesSUCCESS"),
        (lambda: account_set(ALICE, 0), "tefPAST_SEQ"),
        (lambda: account_set(ALICE, 2), "terPRE_SEQ"),
        (lambda: account_set(ALICE, 1, LastLedgerSequence=2), "tesSUCCESS"),
        (lambda: account_set(ALICE, 1, LastLedgerSequence=1), "tefMAX_LEDGER"),
        (lambda: account_set(ALICE, 1, Fee="9"), "telINSUF_FEE_P"),
        (lambda: account_set(ALICE, 1, Fee="100000001"), "terINSUF_FEE_B"),
        (lambda: account_set(ALICE, 1, Fee=str(ALL_DROPS)), "terINSUF_FEE_B"),
        (lambda: account_set(ALICE, 1, NetworkID=0), "telNETWORK_ID_MAKES_TX_NON_CANONICAL"),
        (lambda: account_set(ALICE, 1, TicketSequence=3), "temSEQ_AND_TICKET"),
        (lambda: account_set(ALICE, 0, TicketSequence=3), "terPRE_TICKET"),
        (lambda: account_set(ALICE, 0, TicketSequence=0), "tefNO_TICKET"),
        (lambda: account_set(ALICE, 1, AccountTxnID="AB" * 32), "tefWRONG_PRIOR"),
        (lambda: account_set(ALICE, 1, SetFlag=3, ClearFlag=3), "temINVALID_FLAG"),
        (lambda: account_set(ALICE, 1, Flags=1), "temINVALID_FLAG"),
        (lambda: account_set(ALICE, 1, Flags=0x80000000), "tesSUCCESS"),
        (lambda: account_set(ALICE, 1, SetFlag=4), "tecNO_ALTERNATIVE_KEY"),
        (lambda: account_set(ALICE, 1, TickSize=5), "temUNKNOWN"),
        (lambda: account_set(ALICE, 1, TransactionType="TicketCreate", TicketCount=1), "temUNKNOWN"),
        (lambda: account_set(ALICE, 1, TransactionType="SetRegularKey", RegularKey=ALICE.address), "temBAD_REGKEY"),
        (lambda: account_set(ALICE, 1, WalletLocator="AB" * 32), "tesSUCCESS"),
        (lambda: payment(ALICE, 1, BOB.address, 1), "tesSUCCESS"),
        (lambda: payment(ALICE, 1, CAROL.address, 1), "tecNO_DST_INSUF_XRP"),
        (lambda: payment(ALICE, 1, CAROL.address, 99_000_001), "tecUNFUNDED_PAYMENT"),
        (lambda: payment(ALICE, 1, CAROL.address, 99_000_000), "tesSUCCESS"),
        (lambda: payment(ALICE, 1, BOB.address, 1, Flags=0x00020000), "temBAD_SEND_XRP_PARTIAL"),
        (lambda: sign_transaction(BOB, fields(ALICE, 1)), "tefBAD_AUTH"),
    ],
)
def test_result_is_that_of_a_real_server(make: Callable[[], Transaction], result: str, ledger: Ledger) -> None:
    assert ledger.take(make()).result == result


def test_network_above_1024_must_be_named() -> None:
    ledger = Ledger({ALICE.address: 100_000_000}, network_id=21337)
    assert ledger.take(account_set(ALICE, 1)).result == "telREQUIRES_NETWORK_ID"
    assert ledger.take(account_set(ALICE, 1, NetworkID=21338)).result == "telWRONG_NETWORK"
    assert ledger.take(account_set(ALICE, 1, NetworkID=21337)).result == "tesSUCCESS"


def test_regular_key_signs_until_it_is_removed_and_the_master_key_until_it_is_disabled(ledger: Ledger) -> None:
    ledger.take(account_set(ALICE, 1, TransactionType="SetRegularKey", RegularKey=CAROL.address))
    ledger.close()
    assert ledger.take(sign_transaction(CAROL, fields(ALICE, 2, SetFlag=4))).result == "tecNEED_MASTER_KEY"
    ledger.close()
    assert ledger.take(account_set(ALICE, 3, SetFlag=4)).result == "tesSUCCESS"
    ledger.close()
    assert ledger.take(account_set(ALICE, 4)).result == "tefMASTER_DISABLED"
    assert ledger.take(sign_transaction(CAROL, fields(ALICE, 4, TransactionType="SetRegularKey"))).result == "tecNO_ALTERNATIVE_KEY"
    assert ledger.take(sign_transaction(CAROL, fields(ALICE, 5, ClearFlag=4))).result == "tesSUCCESS"


def test_a_tec_costs_fee_and_sequence_and_nothing_else(ledger: Ledger) -> None:
    ledger.take(payment(ALICE, 1, CAROL.address, 1))
    closed = ledger.close()
    (entry,) = closed.entries
    assert entry.result == "tecNO_DST_INSUF_XRP"
    assert (closed.state[ALICE.address].balance, closed.state[ALICE.address].sequence) == (99_999_990, 2)
    assert CAROL.address not in closed.state


def test_destinations_that_demand_a_tag_or_permission_are_respected(ledger: Ledger) -> None:
    ledger.take(account_set(BOB, 1, SetFlag=1))
    ledger.take(account_set(BOB, 2, SetFlag=9))
    ledger.close()
    assert ledger.take(payment(ALICE, 1, BOB.address, 5)).result == "tecDST_TAG_NEEDED"
    assert ledger.take(payment(ALICE, 2, BOB.address, 5, DestinationTag=1)).result == "tecNO_PERMISSION"


def test_same_blob_again_is_known_while_open_and_past_once_validated(ledger: Ledger) -> None:
    made = account_set(ALICE, 1)
    assert [ledger.take(made).result for _ in range(2)] == ["tesSUCCESS", "tefALREADY"]
    ledger.close()
    assert ledger.take(made).result == "tefPAST_SEQ"


def test_transaction_with_a_gap_before_it_is_applied_once_the_gap_is_filled(ledger: Ledger) -> None:
    later = account_set(ALICE, 2)
    assert ledger.take(later).result == "terPRE_SEQ"
    ledger.close()
    assert ledger.find(later.id) is None
    ledger.take(account_set(ALICE, 1))
    closed = ledger.close()
    assert [entry.transaction.sequence for entry in closed.entries] == [1, 2]


def test_held_transaction_dies_with_its_last_ledger(ledger: Ledger) -> None:
    later = account_set(ALICE, 2, LastLedgerSequence=3)
    ledger.take(later)
    for _ in range(3):
        ledger.close()
    ledger.take(account_set(ALICE, 1))
    assert [entry.transaction.sequence for entry in ledger.close().entries] == [1]
    assert ledger.take(later).result == "tefMAX_LEDGER"


def test_low_fee_waits_in_the_queue_until_the_open_ledger_is_cheaper(ledger: Ledger) -> None:
    ledger.fees.open_fee = 500
    made = account_set(ALICE, 1, LastLedgerSequence=20)
    assert ledger.take(made).result == "terQUEUED"
    assert ledger.take(made).result == "telCAN_NOT_QUEUE_FEE"
    assert ledger.close().entries == ()
    assert ledger.pool.waiting(ALICE.address) == {1: made}
    ledger.fees.open_fee = None
    assert ledger.close().entries == ()  # it enters the open ledger now
    assert [entry.transaction for entry in ledger.close().entries] == [made]


def test_queue_wants_two_ledgers_of_time_and_a_quarter_more_to_replace_and_ten_at_most(ledger: Ledger) -> None:
    ledger.fees.open_fee = 500
    assert ledger.take(account_set(ALICE, 1, LastLedgerSequence=3)).result == "telCAN_NOT_QUEUE"
    assert ledger.take(account_set(ALICE, 1, LastLedgerSequence=4)).result == "terQUEUED"
    assert ledger.take(account_set(ALICE, 1, Fee="12")).result == "telCAN_NOT_QUEUE_FEE"
    assert ledger.take(account_set(ALICE, 1, Fee="13")).result == "terQUEUED"
    assert [ledger.take(account_set(ALICE, number)).result for number in range(2, 12)] == ["terQUEUED"] * 9 + ["telCAN_NOT_QUEUE_FULL"]
    assert ledger.take(account_set(ALICE, 13)).result == "terPRE_SEQ"
    ledger.fees.open_fee = None
    ledger.close()
    assert len(ledger.close().entries) == 10


def test_nothing_waits_behind_a_change_of_keys(ledger: Ledger) -> None:
    ledger.fees.open_fee = 500
    ledger.take(account_set(ALICE, 1, TransactionType="SetRegularKey", RegularKey=CAROL.address))
    assert ledger.take(account_set(ALICE, 2)).result == "telCAN_NOT_QUEUE_BLOCKED"
    ledger.take(account_set(BOB, 1))
    assert ledger.take(account_set(BOB, 2, SetFlag=4)).result == "telCAN_NOT_QUEUE_BLOCKS"


def test_fail_hard_is_never_queued_or_held(ledger: Ledger) -> None:
    ledger.fees.open_fee = 500
    ledger.submit(account_set(ALICE, 1).blob.hex(), fail_hard=True)
    ledger.submit(account_set(BOB, 2).blob.hex(), fail_hard=True)
    assert (ledger.pool.queue, ledger.pool.held) == ({}, {})


def test_open_ledger_becomes_dearer_once_it_is_full() -> None:
    ledger = Ledger({ALICE.address: 100_000_000}, fees=Fees(expected_size=4))
    results = [ledger.take(account_set(ALICE, number)).result for number in range(1, 8)]
    assert results == ["tesSUCCESS"] * 5 + ["terQUEUED"] * 2
    assert ledger.pool.price == 7813  # 500 times the base fee times 5**2 / 4**2, rounded up
    assert ledger.take(account_set(ALICE, 6, Fee="7813")).result == "tesSUCCESS"
    assert len(ledger.close().entries) == 6
    assert len(ledger.close().entries) == 1


def test_what_was_left_out_of_a_ledger_comes_into_the_next_one(ledger: Ledger) -> None:
    made = account_set(ALICE, 1)
    ledger.take(made)
    assert ledger.close(leave_out=[made.hash]).entries == ()
    assert [entry.transaction for entry in ledger.close().entries] == [made]


def test_late_transaction_arrives_and_a_restart_forgets_all_that_is_not_validated(ledger: Ledger) -> None:
    first, second = account_set(ALICE, 1), account_set(BOB, 1)
    ledger.take_later(first, closes=2)
    assert ledger.close().entries == ()
    assert [entry.transaction for entry in ledger.close().entries] == [first]
    ledger.take(second)
    ledger.take_later(account_set(ALICE, 2))
    ledger.forget_pending()
    assert ledger.close().entries == ()
    assert ledger.take(second).result == "tesSUCCESS"


def test_roots_and_hash_of_a_closed_ledger_follow_from_its_bytes(ledger: Ledger) -> None:
    ledger.take(payment(ALICE, 1, CAROL.address, 5_000_000, Memos=memo(b"hello")))
    ledger.take(account_set(BOB, 1, Domain="6578616D706C652E6F7267"))
    closed = ledger.close()
    header = closed.header
    ledgers = {entry.transaction.id: transaction_leaf(entry.transaction.blob, entry.meta_blob) for entry in closed.entries}
    state = {index_of(name): state_leaf(bytes.fromhex(encode(root.entry())), index_of(name)) for name, root in closed.state.items()}
    assert header.transaction_root == tree_root(ledgers)
    assert header.state_root == tree_root(state)
    assert header.parent_hash == ledger.closed(1).header.hash()
    assert header.coins == ALL_DROPS - 20 == sum(root.balance for root in closed.state.values())
    assert all(encode(decode(entry.meta_blob.hex())) == entry.meta_blob.hex().upper() for entry in closed.entries)


def test_metadata_says_what_changed(ledger: Ledger) -> None:
    made = payment(ALICE, 1, CAROL.address, 5_000_000)
    ledger.take(made)
    ledger.close()
    ledger.take(account_set(ALICE, 2))
    (entry,) = ledger.close().entries
    (node,) = entry.metadata["AffectedNodes"]
    assert node["ModifiedNode"]["PreviousFields"] == {"Balance": "94999990", "Sequence": 2}
    assert node["ModifiedNode"]["FinalFields"]["Sequence"] == 3
    assert (node["ModifiedNode"]["PreviousTxnID"], node["ModifiedNode"]["PreviousTxnLgrSeq"]) == (made.hash, 2)
    found = ledger.find(made.hash)
    assert found is not None
    created = [item["CreatedNode"] for item in found[1].metadata["AffectedNodes"] if "CreatedNode" in item]
    assert created[0]["NewFields"] == {"Account": CAROL.address, "Balance": "5000000", "Sequence": 2}


def test_transactions_are_applied_by_account_mixed_with_the_hash_of_the_set() -> None:
    keys = [key_from_seed(seed_of(f"account {number}")) for number in range(6)]
    ledger = Ledger({key.address: 10_000_000 for key in keys})
    made = [account_set(key, number) for number in (1, 2) for key in keys]
    for item in made:
        ledger.take(item)
    closed = ledger.close()
    salt = tree_root({item.id: item.id for item in made})
    mixed = [
        bytes(a ^ b for a, b in zip(decode_classic_address(entry.transaction.account), salt[:20], strict=True)) for entry in closed.entries
    ]
    assert mixed == sorted(mixed)
    assert all(first.transaction.sequence == 1 for first in closed.entries[::2])


def test_payment_to_an_account_that_the_same_ledger_creates_is_tried_again() -> None:
    """Whatever the order of the accounts, the second sender's transaction waits for the payment that creates it."""
    for number in range(6):
        new = key_from_seed(seed_of(f"new {number}"))
        ledger = Ledger({ALICE.address: 100_000_000})
        ledger.take(payment(ALICE, 1, new.address, 20_000_000))
        ledger.take(account_set(new, 2))
        assert [entry.transaction.account for entry in ledger.close().entries] == [ALICE.address, new.address]


def test_payment_that_would_only_cost_its_fee_is_tried_again_after_the_others() -> None:
    """One drop is too little to create an account, and enough once another transaction of the same ledger has created it."""
    for number in range(6):
        new = key_from_seed(seed_of(f"new {number}")).address
        ledger = Ledger({ALICE.address: 100_000_000, CAROL.address: 100_000_000})
        ledger.take(payment(CAROL, 1, new, 20_000_000))
        ledger.take(payment(ALICE, 1, new, 1))
        closed = ledger.close()
        assert [entry.result for entry in closed.entries] == ["tesSUCCESS"] * 2
        assert closed.state[new].balance == 20_000_001


def test_close_time_is_rounded_and_always_grows() -> None:
    clock = Clock()
    ledger = Ledger(clock=clock)
    start = ledger.first.header.close_time
    assert start == since_2000(clock()) == 788_918_400 + 86_400
    times = [ledger.close(seconds).header.close_time - start for seconds in (4, 4, 4, 3600)]
    assert times == [1, 10, 11, 3610]
    disagreed = ledger.close(agreed_time=False).header
    assert (disagreed.flags, disagreed.close_time - disagreed.parent_close_time) == (1, 1)


def test_same_input_gives_the_same_ledger() -> None:
    def run() -> str:
        ledger = Ledger({ALICE.address: 100_000_000})
        ledger.take(account_set(ALICE, 1))
        ledger.pay(BOB.address, 50_000_000)
        return ledger.close().hash

    assert run() == run() == "2F5DF5121A3C1BE4FD6D3765D7120ADE3468279D07539D2F749CCD821914EFC9"


@given(st.lists(st.tuples(st.integers(1, 6), st.sampled_from([9, 10, 40]), st.integers(2, 8), st.booleans()), max_size=25))
def test_sequence_of_an_account_is_the_number_of_its_transactions(steps: list[tuple[int, int, int, bool]]) -> None:
    ledger = Ledger({ALICE.address: 100_000_000}, fees=Fees(expected_size=1))
    for sequence, fee, last, close in steps:
        ledger.take(account_set(ALICE, sequence, Fee=str(fee), LastLedgerSequence=last))
        if close:
            ledger.close()
    for _ in range(8):
        ledger.close()
    sequences = [entry.transaction.sequence for _, entry in ledger.history(ALICE.address)]
    assert sequences == list(range(1, ledger.validated.state[ALICE.address].sequence))
    assert all(closed.index <= (entry.transaction.last_ledger or 0) for closed, entry in ledger.history(ALICE.address))


def test_manifests_list_and_validations_verify_down_from_the_pin(ledger: Ledger) -> None:
    validators = ledger.validators
    published = validators.published(since_2000(ledger.clock()))
    own = decode(base64.b64decode(published["manifest"]).hex())
    assert own["PublicKey"] == validators.pin
    check_manifest(own)
    blob = base64.b64decode(published["blob"])
    assert verify(bytes.fromhex(own["SigningPubKey"]), blob, bytes.fromhex(published["signature"]))
    signing: dict[str, str] = {}
    for listed in json.loads(blob)["validators"]:
        item = decode(base64.b64decode(listed["manifest"]).hex())
        assert item["PublicKey"] == listed["validation_public_key"]
        check_manifest(item)
        signing[item["SigningPubKey"]] = item["PublicKey"]
    closed = ledger.close()
    masters = set[str]()
    for validation in ledger.validations(closed.index):
        item = decode(validation.data.hex())
        signature = bytes.fromhex(item.pop("Signature"))
        assert verify(bytes.fromhex(item["SigningPubKey"]), b"VAL\0" + bytes.fromhex(encode(item)), signature)
        assert (item["LedgerHash"], item["LedgerSequence"], item["Flags"] & 1) == (closed.hash, closed.index, 1)
        masters.add(signing[item["SigningPubKey"]])
    assert len(masters) == 5
    assert validators.quorum == 4


def check_manifest(item: dict[str, Any]) -> None:
    unsigned = {name: value for name, value in item.items() if name not in ("Signature", "MasterSignature")}
    message = b"MAN\0" + bytes.fromhex(encode(unsigned))
    assert verify(bytes.fromhex(item["PublicKey"]), message, bytes.fromhex(item["MasterSignature"]))
    assert verify(bytes.fromhex(item["SigningPubKey"]), message, bytes.fromhex(item["Signature"]))


def test_proof_of_a_transaction_leads_from_its_bytes_to_signed_hashes() -> None:
    keys = [key_from_seed(seed_of(f"account {number}")) for number in range(20)]
    ledger = Ledger({key.address: 10_000_000 for key in keys})
    made = [account_set(key, 1) for key in keys]
    for item in made:
        ledger.take(item)
    closed = ledger.close()
    proof = xpop(ledger, made[3].hash)
    part = proof["transaction"]
    leaf = transaction_leaf(bytes.fromhex(part["blob"]), bytes.fromhex(part["meta"]))
    assert root_of(part["proof"]).hex().upper() == proof["ledger"]["txroot"] == closed.header.transaction_root.hex().upper()
    node = part["proof"]
    for digit in made[3].hash:
        node = node[int(digit, 16)]
        if isinstance(node, str):
            break
    assert node == leaf.hex().upper()
    assert len(proof["validation"]["data"]) == 5
    assert all(decode(data)["LedgerHash"] == closed.hash for data in proof["validation"]["data"].values())
    with pytest.raises(KeyError):
        xpop(ledger, "00" * 32)


def root_of(node: list[Any] | str) -> bytes:
    """The hash of a nested list of children."""
    return bytes.fromhex(node) if isinstance(node, str) else half(b"MIN\0" + b"".join(map(root_of, node)))


def test_silent_validators_sign_nothing_and_a_rotated_one_signs_with_its_new_key(ledger: Ledger) -> None:
    ledger.silent = {0, 3}
    closed = ledger.close()
    assert len(ledger.validations(closed.index)) == 3
    old = ledger.validators.members[1].signing
    ledger.validators.members[1].rotate()
    (new,) = ledger.validators.validate(closed.header, [1], full=False)
    assert new.signing != old
    assert new.fields["Flags"] == 0x80000000
    assert Validators("another", 3).pin != ledger.validators.pin
