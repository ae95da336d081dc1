"""Servers of the test ledger: shapes of answers, faults, lies; and xrpl-py's own clients, sync and async, unmodified, against them."""

import asyncio
import json
from collections.abc import Generator
from typing import Any

import httpx
import pytest
from xrpl.account import get_balance, get_latest_transaction, get_next_valid_seq_number
from xrpl.asyncio.clients import AsyncJsonRpcClient, AsyncWebsocketClient
from xrpl.asyncio.ledger import get_latest_open_ledger_sequence
from xrpl.asyncio.transaction import submit_and_wait as submit_and_wait_async
from xrpl.clients import JsonRpcClient, WebsocketClient, XRPLRequestFailureException
from xrpl.core.binarycodec import decode
from xrpl.ledger import get_fee
from xrpl.models.requests import Manifest, StreamParameter, Subscribe, Tx
from xrpl.models.transactions import AccountSet, Memo, Payment
from xrpl.transaction import XRPLReliableSubmissionException, autofill_and_sign, simulate, submit, submit_and_wait
from xrpl.wallet import Wallet

from nexus_attest.testledger import (
    KINDS,
    Faults,
    Ledger,
    Lost,
    Node,
    Session,
    Transaction,
    Urls,
    closing,
    http_front,
    key_from_seed,
    mock_transport,
    parse_transaction,
    seed_of,
    serving,
    sign_transaction,
)
from nexus_attest.testledger.faults import parse_fault
from nexus_attest.testledger.hashing import Header

ALICE = key_from_seed("sEdSJHS4oiAdz7w2X2ni1gFiqtbJHqE")
WALLETS = [Wallet.from_seed(seed_of(name, secp256k1=name == "bob")) for name in ("alice", "bob", "carol", "dave")]
MEMO = [Memo(memo_type=b"nexus.attest".hex(), memo_data=b"hello".hex())]


@pytest.fixture
def node() -> Node:
    return Node(Ledger({ALICE.address: 100_000_000}))


def account_set(sequence: int, **others: Any) -> Transaction:
    fields = {"TransactionType": "AccountSet", "Account": ALICE.address, "Fee": "10", "Sequence": sequence, **others}
    return sign_transaction(ALICE, fields)


def blob(sequence: int, **others: Any) -> dict[str, Any]:
    return {"tx_blob": account_set(sequence, **others).blob.hex().upper()}


def validated(node: Node) -> Transaction:
    made = account_set(node.ledger.validated.state[ALICE.address].sequence)
    node.ledger.take(made)
    node.ledger.close()
    return made


# xrpl-py


@pytest.fixture(scope="module", params=[0, 21337], ids=["network 0", "network 21337"])
def urls(request: pytest.FixtureRequest) -> Generator[Urls]:
    ledger = Ledger({wallet.address: 100_000_000 for wallet in WALLETS}, network_id=request.param)
    with serving(Node(ledger)) as urls, closing(ledger, every=0.5):
        yield urls


def test_submit_and_wait_works_over_every_client_at_once(urls: Urls) -> None:
    """Each of the four clients sends with a wallet of its own, one of them secp256k1."""

    def over_http() -> dict[str, Any]:
        return submit_and_wait(AccountSet(account=WALLETS[0].address, memos=MEMO), JsonRpcClient(urls.http), WALLETS[0]).result

    def over_websocket() -> dict[str, Any]:
        with WebsocketClient(urls.ws) as client:
            return submit_and_wait(AccountSet(account=WALLETS[1].address, memos=MEMO), client, WALLETS[1]).result

    async def async_http() -> dict[str, Any]:
        client = AsyncJsonRpcClient(urls.http)
        return (await submit_and_wait_async(AccountSet(account=WALLETS[2].address, memos=MEMO), client, WALLETS[2])).result

    async def async_websocket() -> dict[str, Any]:
        async with AsyncWebsocketClient(urls.ws) as client:
            return (await submit_and_wait_async(AccountSet(account=WALLETS[3].address, memos=MEMO), client, WALLETS[3])).result

    async def all_of_them() -> list[dict[str, Any]]:
        threads = (asyncio.to_thread(over_http), asyncio.to_thread(over_websocket))
        return [*await asyncio.gather(*threads, async_http(), async_websocket())]

    results = asyncio.run(all_of_them())
    assert [result["tx_json"]["Account"] for result in results] == [wallet.address for wallet in WALLETS]
    for result in results:
        assert (result["validated"], result["meta"]["TransactionResult"]) == (True, "tesSUCCESS")
        assert result["tx_json"]["Memos"] == [{"Memo": {"MemoType": b"nexus.attest".hex().upper(), "MemoData": b"hello".hex().upper()}}]


def test_genesis_account_pays_for_a_new_account_and_the_helpers_of_xrpl_py_read_it(urls: Urls) -> None:
    client = JsonRpcClient(urls.http)
    genesis, new = Wallet.from_seed("snoPBrXtMeMyMHUVTgbuqAfg1SUTb", algorithm=None), key_from_seed(seed_of(urls.http)).address
    submit_and_wait(Payment(account=genesis.address, destination=new, amount="25000000"), client, genesis)
    assert get_balance(new, client) == 25_000_000
    assert get_next_valid_seq_number(new, client) > 1
    assert get_fee(client) == "10"
    assert int(get_fee(client, fee_type="dynamic")) >= 10
    latest = get_latest_transaction(new, client).result["transactions"][0]
    assert (latest["tx_json"]["Destination"], latest["meta"]["delivered_amount"]) == (new, "25000000")
    assert asyncio.run(get_latest_open_ledger_sequence(AsyncJsonRpcClient(urls.http))) > 1
    manifest = client.request(Manifest(public_key="n9Kx7AZ6XoQpX7mkQrYLC9HtkYqm2k7iCPYwt7SxBVGmYcXHyPgq"))
    assert "manifest" not in manifest.result


def test_xrpl_py_reports_a_failed_transaction_and_an_unknown_method(urls: Urls) -> None:
    client = JsonRpcClient(urls.http)
    with pytest.raises(XRPLRequestFailureException, match="unknownCmd"):
        simulate(AccountSet(account=WALLETS[0].address), client)
    poor = key_from_seed(seed_of("poor")).address
    with pytest.raises(XRPLReliableSubmissionException, match="tecNO_DST_INSUF_XRP"):
        submit_and_wait(Payment(account=WALLETS[0].address, destination=poor, amount="1"), client, WALLETS[0])
    signed = autofill_and_sign(AccountSet(account=WALLETS[0].address), client, WALLETS[0])
    assert submit(signed, client).result["engine_result"] == "tesSUCCESS"


def test_subscriber_hears_of_ledgers_transactions_and_validations(urls: Urls) -> None:
    async def listen() -> dict[str, dict[str, Any]]:
        heard: dict[str, dict[str, Any]] = {}
        async with AsyncWebsocketClient(urls.ws) as client:
            await client.send(Subscribe(streams=[StreamParameter.LEDGER, StreamParameter.TRANSACTIONS, StreamParameter.VALIDATIONS]))
            await submit_and_wait_async(AccountSet(account=WALLETS[3].address), client, WALLETS[3])
            async for message in client:
                if message.get("tx_json", {}).get("Account", WALLETS[3].address) == WALLETS[3].address:
                    heard[message.get("type", "")] = message
                if {"ledgerClosed", "transaction", "validationReceived"} <= set(heard):
                    return heard
        raise AssertionError("the connection ended")

    heard = asyncio.run(asyncio.wait_for(listen(), 60))
    item = decode(heard["validationReceived"]["data"])
    assert (item["LedgerHash"], str(item["LedgerSequence"])) == (
        heard["validationReceived"]["ledger_hash"],
        heard["validationReceived"]["ledger_index"],
    )
    assert heard["transaction"]["validated"] is True


# Answers


def test_submit_accepts_and_keeps_whatever_the_result_is(node: Node) -> None:
    fields = {"TransactionType": "Payment", "Destination": ALICE.address, "Amount": "1"}
    answer = node.rpc("submit", blob(1, **fields))
    assert [answer[name] for name in ("accepted", "kept", "applied", "broadcast", "queued")] == [True, True, False, False, False]
    assert (answer["engine_result"], answer["engine_result_code"], answer["status"]) == ("temREDUNDANT", -275, "success")
    good = node.rpc("submit", blob(1))
    assert (good["applied"], good["account_sequence_available"], good["validated_ledger_index"]) == (True, 2, 1)
    bad = node.rpc("submit", {"tx_blob": blob(1)["tx_blob"][:-2] + "00"})
    assert (bad["error"], bad["error_exception"]) == ("invalidTransaction", "fails local checks: Invalid signature.")
    assert node.rpc("submit", {})["error"] == "notSupported"
    assert node.rpc("submit", {"tx_blob": 1})["error"] == "invalidParams"


def test_tx_tells_pending_validated_unknown_and_unsearched_apart(node: Node) -> None:
    made = account_set(1)
    wanted = {"transaction": made.hash, "api_version": 2, "binary": True, "min_ledger": 2, "max_ledger": 3}
    answer = node.rpc("tx", wanted)
    assert (answer["error"], answer["error_code"], answer["searched_all"]) == ("txnNotFound", 29, False)
    node.ledger.take(made)
    pending = node.rpc("tx", wanted)
    assert (pending["validated"], "ledger_index" in pending) == (False, False)
    node.ledger.close()
    found = node.rpc("tx", wanted)
    assert (found["validated"], found["ledger_index"], found["tx_blob"]) == (True, 2, made.blob.hex().upper())
    assert decode(found["meta_blob"])["TransactionResult"] == "tesSUCCESS"
    node.ledger.close()
    unknown = {**wanted, "transaction": "00" * 32}
    assert node.rpc("tx", unknown)["searched_all"] is True
    assert "searched_all" not in node.rpc("tx", {"transaction": "00" * 32})
    assert node.rpc("tx", {**unknown, "max_ledger": 1})["error"] == "invalidLgrRange"
    assert node.rpc("tx", {**unknown, "max_ledger": 1003})["error"] == "excessiveLgrRange"
    assert node.rpc("tx", {"transaction": "xyz"})["error"] == "notImpl"


def test_tx_of_version_1_has_its_fields_at_the_top(node: Node) -> None:
    made = validated(node)
    answer = node.rpc("tx", {"transaction": made.hash})
    assert (answer["Account"], answer["inLedger"], answer["meta"]["TransactionResult"]) == (ALICE.address, 2, "tesSUCCESS")
    assert "close_time_iso" not in answer
    assert set(node.rpc("tx", {"transaction": made.hash, "binary": True})) >= {"tx", "meta", "date"}
    assert node.rpc("tx", {"transaction": made.hash, "api_version": 3})["error"] == "invalid_API_version"


def test_server_with_a_gap_in_its_history_does_not_claim_to_have_searched_it(node: Node) -> None:
    made = validated(node)
    for _ in range(3):
        node.ledger.close()
    young = Node(node.ledger, available_from=4)
    answer = young.rpc("tx", {"transaction": made.hash, "min_ledger": 2, "max_ledger": 5})
    assert (answer["error"], answer["searched_all"]) == ("txnNotFound", False)
    assert young.rpc("ledger", {"ledger_index": 2})["error"] == "lgrNotFound"
    assert young.rpc("ledger", {"ledger_hash": node.ledger.closed(2).hash})["error"] == "lgrNotFound"
    assert young.rpc("server_info")["info"]["complete_ledgers"] == "4-5"


def test_late_server_knows_only_what_was(node: Node) -> None:
    made = validated(node)
    late = Node(node.ledger, behind=1)
    assert late.rpc("tx", {"transaction": made.hash})["error"] == "txnNotFound"
    assert late.rpc("account_info", {"account": ALICE.address})["account_data"]["Sequence"] == 1
    assert late.rpc("ledger", {"ledger_index": "validated"})["ledger_index"] == 1
    assert late.rpc("ledger", {"ledger_index": 2})["ledger_current_index"] == 2


def test_binary_ledger_is_the_header_and_all_transactions(node: Node) -> None:
    made = validated(node)
    asked = {"ledger_index": 2, "transactions": True, "expand": True, "binary": True, "api_version": 2}
    answer = node.rpc("ledger", asked)
    header = node.ledger.closed(2).header
    assert answer["ledger"]["ledger_data"] == header.encode().hex().upper()
    assert [item["hash"] for item in answer["ledger"]["transactions"]] == [made.hash]
    plain = node.rpc("ledger", {"ledger_hash": answer["ledger_hash"], "transactions": True, "api_version": 2})["ledger"]
    assert plain["transactions"] == [made.hash]
    again = Header(
        index=plain["ledger_index"],
        coins=int(plain["total_coins"]),
        parent_hash=bytes.fromhex(plain["parent_hash"]),
        transaction_root=bytes.fromhex(plain["transaction_hash"]),
        state_root=bytes.fromhex(plain["account_hash"]),
        parent_close_time=plain["parent_close_time"],
        close_time=plain["close_time"],
        resolution=plain["close_time_resolution"],
        flags=plain["close_flags"],
    )
    assert again.hash().hex().upper() == answer["ledger_hash"]


def test_history_of_an_account_comes_in_pages(node: Node) -> None:
    made = [validated(node).hash for _ in range(3)]
    asked = {"account": ALICE.address, "limit": 2, "forward": True, "api_version": 2, "binary": True}
    first = node.rpc("account_tx", asked)
    second = node.rpc("account_tx", {**asked, "marker": first["marker"]})
    assert [item["hash"] for page in (first, second) for item in page["transactions"]] == made
    assert "marker" not in second
    assert node.rpc("account_tx", {**asked, "marker": 7})["error"] == "invalidParams"


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("simulate", {}, "unknownCmd"),
        ("account_info", {}, "invalidParams"),
        ("account_info", {"account": "r"}, "actMalformed"),
        ("account_info", {"account": key_from_seed(seed_of("nobody")).address}, "actNotFound"),
        ("account_info", {"account": ALICE.address, "ledger_index": 9}, "lgrNotFound"),
        ("account_info", {"account": ALICE.address, "ledger_index": []}, "invalidParams"),
        ("account_info", {"account": ALICE.address, "ledger_hash": "00"}, "invalidParams"),
        ("account_info", {"account": ALICE.address, "ledger_index": "validated", "queue": True}, "invalidParams"),
        ("account_tx", {"account": ALICE.address, "limit": "2"}, "invalidParams"),
        ("tx", {"transaction": "00" * 32, "min_ledger": True, "max_ledger": 2}, "invalidParams"),
    ],
)
def test_bad_question_is_answered_with_its_error(method: str, params: dict[str, Any], error: str, node: Node) -> None:
    answer = node.rpc(method, params)
    assert (answer["status"], answer["error"]) == ("error", error)
    assert answer["request"]["command"] == method


def test_queue_is_shown_for_the_open_ledger(node: Node) -> None:
    node.ledger.fees.open_fee = 50
    node.ledger.take(account_set(1))
    data = node.rpc("account_info", {"account": ALICE.address, "queue": True})["queue_data"]
    assert (data["txn_count"], data["lowest_sequence"], data["transactions"][0]["fee"]) == (1, 1, "10")
    assert node.rpc("fee")["drops"]["open_ledger_fee"] == "50"


# Faults


def ask(node: Node, method: str, params: dict[str, Any]) -> httpx.Response:
    with httpx.Client(transport=mock_transport(node), base_url="http://node") as client:
        return client.post("/", json={"method": method, "params": [params]})


@pytest.mark.parametrize(
    ("kind", "error", "applied"),
    [
        ("refuse", httpx.ConnectError, 0),
        ("drop_request", httpx.ReadError, 0),
        ("drop_response", httpx.ReadError, 1),
        ("timeout", httpx.ReadTimeout, 0),
        ("late:1", httpx.ReadTimeout, 1),
        ("restart", httpx.ReadError, 0),
    ],
)
def test_lost_answers_leave_the_effect_that_the_fault_promises(kind: str, error: type[Exception], applied: int, node: Node) -> None:
    node.faults.add("submit", kind)
    with pytest.raises(error):
        ask(node, "submit", blob(1))
    assert len(node.ledger.close().entries) == applied
    assert [(method, fault.kind) for method, fault in node.faults.met] == [("submit", kind.partition(":")[0])]


@pytest.mark.parametrize(
    ("kind", "status", "body", "applied"),
    [
        ("http503", 503, "Server is overloaded", 0),
        ("http500", 500, "Internal Server Error", 1),
        ("malformed", 200, "<html>Bad gateway</html>", 1),
        ("empty", 200, "", 1),
        ("wrong_shape", 200, '{"result": [1, 2, 3]}', 1),
    ],
)
def test_broken_answers_are_what_they_say(kind: str, status: int, body: str, applied: int, node: Node) -> None:
    node.faults.add("*", kind)
    answer = ask(node, "submit", blob(1))
    assert (answer.status_code, answer.text) == (status, body)
    assert len(node.ledger.close().entries) == applied


def test_half_an_answer_is_no_json_and_a_load_warning_stands_beside_the_result(node: Node) -> None:
    node.faults.add("fee", "truncated", "load_warning")
    with pytest.raises(json.JSONDecodeError):
        ask(node, "fee", {}).json()
    answer = ask(node, "fee", {}).json()
    assert (answer["warning"], answer["result"]["status"]) == ("load", "success")
    assert set(ask(node, "fee", {}).json()) == {"result"}


def test_errors_and_engine_results_can_be_ordered_and_have_no_effect(node: Node) -> None:
    node.faults.add("submit", "error:tooBusy", "engine:telINSUF_FEE_P", "engine:tesSUCCESS")
    results = [ask(node, "submit", blob(1)).json()["result"] for _ in range(3)]
    assert (results[0]["error"], results[0]["error_code"]) == ("tooBusy", 9)
    assert [result["engine_result"] for result in results[1:]] == ["telINSUF_FEE_P", "tesSUCCESS"]
    assert node.ledger.close().entries == ()


def test_request_that_arrives_twice_is_applied_once(node: Node) -> None:
    node.faults.add("submit", "duplicate")
    assert ask(node, "submit", blob(1)).json()["result"]["engine_result"] == "tefALREADY"
    assert len(node.ledger.close().entries) == 1


def test_restart_loses_what_was_submitted_before(node: Node) -> None:
    node.ledger.take(account_set(1))
    node.faults.add("fee", "restart")
    with pytest.raises(httpx.ReadError):
        ask(node, "fee", {})
    assert node.ledger.close().entries == ()


def test_stale_answers_are_those_of_earlier_ledgers(node: Node) -> None:
    made = validated(node)
    node.faults.add("tx", "stale:1")
    results = [ask(node, "tx", {"transaction": made.hash}).json()["result"] for _ in range(2)]
    assert [result.get("validated") for result in results] == [None, True]


def test_forged_answers_do_not_survive_a_look_at_their_bytes_or_at_the_chain(node: Node) -> None:
    made = account_set(1)
    node.faults.add("submit", "engine:tesSUCCESS")
    ask(node, "submit", {"tx_blob": made.blob.hex()})
    node.faults.add("tx", "forge_validated", "forge_validated_blob")
    asked = {"transaction": made.hash, "binary": True, "api_version": 2}
    other, same = (ask(node, "tx", asked).json()["result"] for _ in range(2))
    assert (other["validated"], other["hash"], same["validated"], same["hash"]) == (True, made.hash, True, made.hash)
    assert parse_transaction(other["tx_blob"]).hash != made.hash
    assert parse_transaction(same["tx_blob"]).hash == made.hash
    assert decode(same["meta_blob"])["TransactionResult"] == "tesSUCCESS"
    assert node.rpc("ledger", {"ledger_index": same["ledger_index"]})["ledger_hash"] != same["ledger_hash"]
    assert node.rpc("ledger", {"ledger_hash": same["ledger_hash"]})["error"] == "lgrNotFound"
    assert node.rpc("tx", asked)["error"] == "txnNotFound"


def test_server_can_deny_what_is_validated(node: Node) -> None:
    made = validated(node)
    node.faults.add("tx", "forge_not_found")
    answer = ask(node, "tx", {"transaction": made.hash, "min_ledger": 2, "max_ledger": 4}).json()["result"]
    assert (answer["error"], answer["searched_all"]) == ("txnNotFound", True)


@pytest.mark.parametrize("kind", ["", "drop", "late", "late:x", "late:0", "late:-1", "engine:tesNOTHING", "error:", "refuse:1"])
def test_unknown_fault_is_refused_when_it_is_ordered(kind: str) -> None:
    with pytest.raises(ValueError, match=r"no fault|no engine result"):
        Faults().add("tx", kind)
    assert all(parse_fault(known) for known in KINDS)


def test_faults_by_chance_are_those_of_the_seed() -> None:
    def run(seed: int) -> list[tuple[str, str]]:
        faults = Faults(seed, rate=0.5)
        for _ in range(50):
            faults.take("tx")
        return [(method, fault.kind) for method, fault in faults.met]

    assert run(1) == run(1) != run(2)
    calm = Faults(1, rate=1.0)
    calm.calm()
    assert calm.take("tx") is None


def test_random_faults_never_break_the_server(node: Node) -> None:
    node.faults = Faults(7, rate=0.9)
    for number in range(300):
        try:
            answer = ask(node, ("submit", "tx", "account_info", "ledger")[number % 4], blob(1 + number // 40) | {"transaction": "AB" * 32})
            assert answer.status_code in (200, 500, 503)
        except httpx.HTTPError:
            continue
        if number % 9 == 0:
            node.ledger.close()
    assert len({fault.kind for _, fault in node.faults.met}) > 15


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b'{"params": [{}]}', b'{"method": "fee", "params": {"a": 1}}', b'{"method": 1}', b"\xff"]
)
def test_unparsable_request_is_a_400(body: bytes, node: Node) -> None:
    reply = node.post(body)
    assert (reply.status, reply.content_type) == (400, "text/plain")


def test_several_servers_share_a_ledger_and_have_faults_of_their_own(node: Node) -> None:
    other = Node(node.ledger, Faults())
    other.faults.add("*", "refuse")
    with httpx.Client(transport=mock_transport({"one": node, "two": other})) as client:
        with pytest.raises(httpx.ConnectError):
            client.post("http://two/", json={"method": "fee"})
        assert client.post("http://one/", json={"method": "fee", "id": 5}).json()["id"] == 5
        published = client.get("http://two/").json()
    assert published["public_key"] == node.ledger.validators.pin


def test_port_drops_hangs_and_serves_the_list(node: Node) -> None:
    node.faults.add("fee", "drop_request", "timeout")
    with http_front(node, patience=0.5) as url, httpx.Client(timeout=20) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            client.post(url, json={"method": "fee"})
        with pytest.raises(httpx.ReadTimeout):
            client.post(url, json={"method": "fee"}, timeout=0.2)
        assert client.post(url, json={"method": "ping"}).json() == {"result": {"status": "success"}}
        assert client.get(url).json()["version"] == 1


# Connections with streams


def test_messages_of_a_stream_can_be_lost_doubled_and_garbled(node: Node) -> None:
    session = Session(node)
    assert json.loads(session.command('{"id": 1, "command": "subscribe", "streams": ["validations"], "api_version": 2}')) == {
        "id": 1,
        "result": {},
        "status": "success",
        "type": "response",
    }
    node.faults.add("stream", "drop_response", "duplicate", "malformed", "truncated")
    told = session.messages(node.ledger.close())
    assert len(told) == 5
    assert told[0] == told[1]
    assert told[2] == "<html>"
    node.faults.add("stream", "refuse")
    with pytest.raises(Lost):
        session.messages(node.ledger.close())
    session.command('{"command": "unsubscribe", "streams": ["validations"]}')
    assert session.messages(node.ledger.close()) == []


@pytest.mark.parametrize(
    "message", ["", "{", "[]", "{}", b"\xff", '{"command": "subscribe", "streams": ["weather"]}', '{"command": "subscribe"}']
)
def test_connection_survives_a_command_that_makes_no_sense(message: str | bytes, node: Node) -> None:
    assert json.loads(Session(node).command(message))["status"] == "error"


def test_error_over_a_connection_stands_at_the_top(node: Node) -> None:
    answer = json.loads(Session(node).command('{"id": "a", "command": "tx", "transaction": "' + "00" * 32 + '"}'))
    assert (answer["id"], answer["type"], answer["status"], answer["error"]) == ("a", "response", "error", "txnNotFound")


def test_client_over_a_connection_sees_it_end(node: Node) -> None:
    node.faults.add("tx", "drop_response")

    async def ask_once() -> None:
        with serving(node) as urls:
            async with AsyncWebsocketClient(urls.ws) as client:
                with pytest.raises(asyncio.TimeoutError):
                    await client._request_impl(Tx(transaction="00" * 32), timeout=0.3)  # pyright: ignore[reportPrivateUsage]
                async with asyncio.timeout(60):
                    while client.is_open():
                        await asyncio.sleep(0.02)

    asyncio.run(ask_once())
