"""Memos, transactions, receipts and the node's answers, value for value."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xrpl_testing import NOON, Ledger, Signer, healthy, intent, node

from nexus_attest.attestation import AttestationReceipt, xrpl
from nexus_attest.attestation.errors import InvalidAnchor
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import ReceiptErrorCode
from nexus_attest.attestation.xrpl import transport as transport_module
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_attest.attestation.xrpl.jsonrpc_client import JsonRpcClient
from nexus_attest.attestation.xrpl.transport import DclTransport, ExchangeRecord, HttpxTransport, fetch
from nexus_control.errors import InputError

I2 = AttestationIntent("nexus.audit_package", "sha256:" + "a" * 64, "0.6", "run_1", "prod", "acme", {"b": "2", "a": "1"})
T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


# -- memos and transactions ----------------------------------------------------------------------------------------------------------


def test_the_memo_is_the_published_one() -> None:
    payload = xrpl.build_memo_payload(I2)
    data = xrpl.serialize_memo(payload)
    assert len(data) == 266
    assert xrpl.memo_digest(data) == "sha256:27a8a09bb49aced6a82e35807501bf2d7e0cb5b8cf6ef6d838a72d592d970364"
    assert list(json.loads(data)) == ["bd", "env", "id", "pv", "rid", "st", "t", "ten", "v"]
    assert xrpl.MEMO_TYPE_HEX == "6e657875732e617474657374"
    assert xrpl.MemoCodec.digest(I2) == xrpl.memo_digest(data)


def test_labels_and_claims_are_not_in_the_memo() -> None:
    assert sorted(xrpl.build_memo_payload(intent(labels={"a": "1"}, claims={"b": 2}))) == ["bd", "id", "st", "t", "v"]


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=50))
def test_a_memo_is_decoded_to_what_was_encoded(env: str) -> None:
    made = intent(env=env)
    assert xrpl.MemoCodec.decode(xrpl.MemoCodec.encode(made)) == xrpl.build_memo_payload(made)


MEMO = {"v": "0.1", "t": "nexus.attest", "id": "i", "st": "s", "bd": "b"}
NO_MEMOS: list[Any] = [
    json.dumps(MEMO).encode().hex(" "),
    json.dumps(MEMO).encode().hex() + "\n",
    "zz",
    "",
    None,
    b"\xff".hex(),
    b"[]".hex(),
    b"{".hex(),
    (b"[" * 100_000).hex(),
    *(json.dumps({key: value for key, value in MEMO.items() if key != absent}).encode().hex() for absent in MEMO),
    json.dumps({**MEMO, "v": "0.2"}).encode().hex(),
    json.dumps({**MEMO, "id": 7}).encode().hex(),
]


@pytest.mark.parametrize("text", NO_MEMOS, ids=range(len(NO_MEMOS)))
def test_what_is_no_memo_is_refused(text: Any) -> None:
    with pytest.raises(InvalidAnchor):
        xrpl.MemoCodec.decode(text)


def test_plans_carry_one_memo_and_nothing_that_is_the_signers() -> None:
    paid, unpaid = xrpl.plan(I2, "rA"), xrpl.plan(I2, "rA", carrier="account_set")
    memos = [{"Memo": {"MemoType": xrpl.MEMO_TYPE_HEX, "MemoData": paid.memo_data_hex}}]
    assert paid.tx == {"TransactionType": "Payment", "Account": "rA", "Destination": "rA", "Amount": "1", "Memos": memos}
    assert unpaid.tx == {"TransactionType": "AccountSet", "Account": "rA", "Memos": memos}
    assert (paid.amount_drops, unpaid.amount_drops) == ("1", "0")
    assert paid.intent_digest == unpaid.intent_digest == I2.intent_digest()
    assert (paid.memo_digest, paid.memo_payload, paid.account) == (xrpl.MemoCodec.digest(I2), xrpl.build_memo_payload(I2), "rA")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"account": ""}, "account"),
        ({"amount_drops": "2"}, "amount_drops"),
        ({"amount_drops": "2", "carrier": "account_set"}, "amount_drops"),
        ({"carrier": "check"}, "carrier"),
        ({"intent": intent(env="x" * 700)}, "memo payload exceeds"),
    ],
)
def test_a_plan_that_the_ledger_would_not_take_is_refused(changed: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"intent": I2, "account": "rA"}
    with pytest.raises(ValueError, match=text):
        xrpl.plan(**{**given, **changed})
    with pytest.raises(ValueError, match="memo_data_hex"):
        xrpl.plan_account_set_memo("rA", "")


def test_700_bytes_are_the_limit() -> None:
    spare = 700 - len(xrpl.serialize_memo(xrpl.build_memo_payload(intent(env=""))))
    assert xrpl.plan(intent(env="x" * spare), "rA")
    with pytest.raises(ValueError, match="701"):
        xrpl.plan(intent(env="x" * (spare + 1)), "rA")


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ("temBAD", "REJECTED"),
        ("tefX", "REJECTED"),
        ("tecX", "REJECTED"),
        ("terX", "REJECTED"),
        ("tesSUCCESS", "UNKNOWN"),
        (None, "UNKNOWN"),
    ],
)
def test_engine_results_are_classified(result: str | None, code: str) -> None:
    assert xrpl.classify_engine_result(result) is ReceiptErrorCode(code)
    assert xrpl.classify_connection_error("x") is ReceiptErrorCode.BACKEND_UNAVAILABLE
    assert xrpl.classify_timeout() is ReceiptErrorCode.TIMEOUT


# -- receipts ------------------------------------------------------------------------------------------------------------------------


def submitted(ledger: Ledger, signer: Any = None) -> AttestationReceipt:
    return run(xrpl.submit(xrpl.plan(I2, "rA"), ledger, signer or Signer(), attempt=3, created_at=NOON))


def confirmed(ledger: Ledger) -> AttestationReceipt:
    digest = xrpl.MemoCodec.digest(I2)
    return run(xrpl.confirm("sha256:" + I2.intent_digest(), "H", ledger, attempt=3, memo_digest_value=digest, created_at=NOON))


def told(receipt: AttestationReceipt) -> tuple[str, dict[str, Any], str | None, str | None]:
    error = receipt.error
    return receipt.status.value, receipt.proof, error and error.code, error and error.detail


E = "sha256:" + "e" * 64


def test_submissions_become_receipts() -> None:
    assert told(submitted(Ledger())) == ("SUBMITTED", {"tx_hash": "HASH1", "engine_result": "tesSUCCESS", "key_id": "k1"}, None, None)
    result = xrpl.SubmitResult(False, "H", "tecX", detail="no", exchange_digest=E)
    receipt = submitted(Ledger(result))
    assert told(receipt) == ("FAILED", {"tx_hash": "H"}, "REJECTED", "tecX: no")
    assert receipt.evidence_digests == {"memo_digest": xrpl.MemoCodec.digest(I2), "xrpl.submit.exchange": E}
    assert (receipt.backend, receipt.attempt, receipt.created_at) == ("xrpl", 3, NOON)
    assert told(submitted(Ledger(xrpl.SubmitResult(False)))) == ("FAILED", {}, "UNKNOWN", None)


def test_an_odd_exchange_digest_does_not_lose_the_receipt_of_what_was_sent() -> None:
    receipt = submitted(Ledger(xrpl.SubmitResult(True, "H", "tesSUCCESS", exchange_digest="any string")))
    assert (receipt.status, list(receipt.evidence_digests)) == ("SUBMITTED", ["memo_digest"])


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (OSError("refused"), "BACKEND_UNAVAILABLE"),
        (TimeoutError("late"), "TIMEOUT"),
        (httpx.ReadTimeout("late"), "TIMEOUT"),
        (ValueError("bad \ud800" + "x" * 5000), "BACKEND_UNAVAILABLE"),
    ],
)
def test_a_node_that_gives_no_answer_is_a_failed_receipt(problem: Exception, code: str) -> None:
    status, proof, error, detail = told(submitted(Ledger(submitted=problem)))
    assert (status, proof, error) == ("FAILED", {}, code)
    assert detail is not None
    assert str(problem)[:4] in detail
    assert len(detail) < 1100
    assert told(confirmed(Ledger(found=problem)))[0::2] == ("FAILED", "BACKEND_UNAVAILABLE")


def test_a_signer_that_refuses_is_a_failed_receipt_and_nothing_is_sent() -> None:
    class Refusing(Signer):
        def sign(self, tx_dict: dict[str, Any]) -> Any:
            raise RuntimeError(f"no {tx_dict['TransactionType']}")

    class Halved(Signer):
        def sign(self, tx_dict: dict[str, Any]) -> Any:
            del tx_dict
            return SimpleNamespace(signed_tx_blob_hex="00")  # no key_id

    ledger = Ledger()
    assert told(submitted(ledger, Refusing())) == ("FAILED", {}, "REJECTED", "no Payment")
    assert told(submitted(ledger, Halved()))[:3] == ("FAILED", {}, "REJECTED")
    assert ledger.blobs == []


OWN = xrpl.MemoCodec.encode(I2)
FOUND: dict[str, Any] = {"found": True, "validated": True, "ledger_index": 7, "engine_result": "tesSUCCESS", "ledger_close_time": NOON}


def test_the_state_of_a_transaction_becomes_a_receipt() -> None:
    proof = {"tx_hash": "H", "ledger_index": 7, "engine_result": "tesSUCCESS", "ledger_close_time": NOON}
    assert told(confirmed(Ledger(found=xrpl.TxStatusResult(**FOUND)))) == ("CONFIRMED", proof, None, None)
    with_memo = xrpl.TxStatusResult(**FOUND, memos=("zz", "00", OWN))
    assert told(confirmed(Ledger(found=with_memo)))[:2] == ("CONFIRMED", {**proof, "memo_verified": True})
    assert told(confirmed(Ledger(found=xrpl.TxStatusResult(True, True)))) == ("CONFIRMED", {"tx_hash": "H"}, None, None)
    waiting = confirmed(Ledger(found=xrpl.TxStatusResult(True, exchange_digest=E)))
    assert (told(waiting), waiting.evidence_digests["xrpl.tx.exchange"]) == (("DEFERRED", {}, None, None), E)
    assert told(confirmed(Ledger(found=xrpl.TxStatusResult(False, error_code="SERVER_ERROR"))))[0] == "DEFERRED"


@pytest.mark.parametrize("memos", [(), ("00",), ("zz",), (xrpl.MemoCodec.encode(intent("b")),)])
def test_a_transaction_with_other_memos_does_not_witness(memos: tuple[str, ...]) -> None:
    assert told(confirmed(Ledger(found=xrpl.TxStatusResult(**FOUND, memos=memos))))[0::2] == ("FAILED", "REJECTED")


def test_the_adapter_does_the_three_steps() -> None:
    adapter = xrpl.XRPLAdapter(Ledger(found=xrpl.TxStatusResult(**FOUND, memos=(OWN,))), Signer())
    first = run(adapter.submit(I2, created_at=NOON))
    assert adapter.plan(I2).tx["TransactionType"] == "AccountSet"
    assert run(adapter.submit(adapter.plan(I2), created_at=NOON)).status == "SUBMITTED"
    digest = first.evidence_digests["memo_digest"]
    last = run(adapter.confirm(first.intent_digest, first.proof["tx_hash"], memo_digest_value=digest))
    assert (last.status, last.proof["account"], last.created_at[-6:]) == ("CONFIRMED", "rAccount", "+00:00")


# -- the node ------------------------------------------------------------------------------------------------------------------------


class Canned:
    """A transport with one answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, Any]] = []

    async def post_json(self, url: str, payload: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((url, payload))
        return self.answer


def test_requests_are_constant() -> None:
    transport = Canned({})
    client = JsonRpcClient("http://n", transport)
    run(client.submit("AB"))
    run(client.get_tx("H"))
    assert client.url == "http://n"
    assert transport.asked == [
        ("http://n", {"method": "submit", "params": [{"tx_blob": "AB"}], "id": 1}),
        ("http://n", {"method": "tx", "params": [{"transaction": "H", "binary": False}], "id": 1}),
    ]


STRANGE: list[Any] = [None, [], 7, {}, {"result": None}, {"result": []}, {"result": {}}, {"result": {"engine_result": 7, "error": 7}}]


@pytest.mark.parametrize("answer", STRANGE)
def test_an_answer_of_another_shape_is_a_server_error(answer: Any) -> None:
    client = JsonRpcClient("u", Canned(answer))
    assert (run(client.submit("x")).accepted, run(client.submit("x")).error_code) == (False, "SERVER_ERROR")
    assert run(client.submit("x")).detail
    assert (run(client.get_tx("x")).found, run(client.get_tx("x")).error_code) == (False, "SERVER_ERROR")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"engine_result": "tesSUCCESS", "tx_json": {"hash": "H"}}, xrpl.SubmitResult(True, "H", "tesSUCCESS")),
        ({"engine_result": "terQUEUED", "engine_result_message": "later"}, xrpl.SubmitResult(True, None, "terQUEUED", None, "later")),
        ({"engine_result": "tecX", "accepted": True}, xrpl.SubmitResult(True, None, "tecX")),
        ({"engine_result": "temX", "accepted": False}, xrpl.SubmitResult(False, None, "temX")),
        ({"status": "error", "error": "e", "error_message": "m"}, xrpl.SubmitResult(False, None, None, "SERVER_ERROR", "m")),
        ({"status": "error", "error": "e"}, xrpl.SubmitResult(False, None, None, "SERVER_ERROR", "e")),
    ],
)
def test_submit_answers_are_read(result: dict[str, Any], expected: xrpl.SubmitResult) -> None:
    assert run(JsonRpcClient("u", Canned({"result": result})).submit("x")) == expected


TX_ANSWERS: list[tuple[dict[str, Any], xrpl.TxStatusResult]] = [
    ({"status": "error", "error": "txnNotFound"}, xrpl.TxStatusResult(False)),
    ({"status": "error", "error": "e"}, xrpl.TxStatusResult(False, error_code="SERVER_ERROR", detail="e")),
    ({"validated": False, "ledger_index": 7}, xrpl.TxStatusResult(True)),
    ({"validated": True, "ledger_index": 7, "meta": "blob"}, xrpl.TxStatusResult(True, True, 7)),
    ({"validated": True, "ledger_index": "7", "close_time_iso": NOON}, xrpl.TxStatusResult(True, True, None, None, NOON)),
    ({"meta": {"TransactionResult": "tecX"}, "Memos": []}, xrpl.TxStatusResult(True, engine_result="tecX", memos=())),
    ({"status": "success", "Memos": [{"Memo": {"MemoData": "AB"}}, {"Memo": {}}, 7]}, xrpl.TxStatusResult(True, memos=("AB",))),
    ({"status": "success", "tx_json": {"Memos": [{"Memo": {"MemoData": "AB"}}]}}, xrpl.TxStatusResult(True, memos=("AB",))),
]


@pytest.mark.parametrize(("result", "expected"), TX_ANSWERS)
def test_tx_answers_are_read(result: dict[str, Any], expected: xrpl.TxStatusResult) -> None:
    assert run(JsonRpcClient("u", Canned({"result": result})).get_tx("x")) == expected


@pytest.mark.parametrize("odd", ["\ud800", "x\udfff", "x" * 201], ids=["high", "low", "long"])
def test_what_no_receipt_can_hold_is_not_taken_from_a_node(odd: str) -> None:
    submitted = run(JsonRpcClient("u", Canned({"result": {"engine_result": "tesSUCCESS", "tx_json": {"hash": odd}}})).submit("x"))
    assert submitted == xrpl.SubmitResult(True, None, "tesSUCCESS")
    for result, accepted in ((odd, False), (f"ter{odd}", True)):
        answered = run(JsonRpcClient("u", Canned({"result": {"engine_result": result}})).submit("x"))
        assert answered == xrpl.SubmitResult(accepted)
    told = {"validated": True, "ledger_index": 7, "meta": {"TransactionResult": odd}, "close_time_iso": odd}
    assert run(JsonRpcClient("u", Canned({"result": told})).get_tx("x")) == xrpl.TxStatusResult(True, True, 7)


def test_the_exchange_is_attributed_to_the_result() -> None:
    transport = Canned({})
    transport.last_exchange_digest = "any string"  # pyright: ignore[reportAttributeAccessIssue]
    assert run(JsonRpcClient("u", transport).submit("x")).exchange_digest == "any string"
    assert run(JsonRpcClient("u", transport).get_tx("x")).exchange_digest == "any string"


# -- exchanges -----------------------------------------------------------------------------------------------------------------------


def test_exchange_digests_are_the_published_ones() -> None:
    record = ExchangeRecord("sha256:" + "a" * 64, "sha256:" + "b" * 64, "now")
    assert record.content_digest() == record.exchange_digest()
    assert record.content_digest() == "sha256:5177fd98a7a3c9738cb44b71357e0c49c31cd8124aa1c05e8e6d66588decbd65"


def test_the_transport_records_what_was_asked_and_answered(tmp_path: Path) -> None:
    with ExchangeStore(tmp_path / "x.db", tmp_path / "bodies") as store, node(healthy) as url:
        transport = DclTransport(store=store, store_bodies=True, now_fn=lambda: NOON)
        assert transport.last_exchange is None
        answer = run(transport.post_json(url, {"method": "tx"}))
        record = transport.last_exchange
        assert answer == run(HttpxTransport().post_json(url, {"method": "tx"}))
        assert record is not None
        assert transport.last_exchange_digest == record.content_digest()
        assert store.get(record.content_digest()) == record
        asked = store.get_body(record.request_digest)
        assert asked is not None
        assert json.loads(asked) == {"url": url, "payload": {"method": "tx"}}
        assert json.loads(store.get_body(record.response_digest) or b"") == answer


def test_an_error_status_is_recorded_and_a_lost_connection_forgets_the_exchange_before(tmp_path: Path) -> None:
    with ExchangeStore(tmp_path / "x.db") as store, node(lambda _: (503, {"busy": True})) as url:
        transport = DclTransport(store=store)
        with pytest.raises(httpx.HTTPStatusError):
            run(transport.post_json(url, {}))
        assert (store.count(), transport.last_exchange is None) == (1, False)
        with pytest.raises(httpx.ConnectError):
            run(transport.post_json("http://127.0.0.1:9", {}))
        assert (transport.last_exchange, transport.last_exchange_digest) == (None, None)


@asynccontextmanager
async def serving(head: str, part: bytes, *, every: float, times: int) -> AsyncGenerator[str]:
    """The URL of a server that answers with these header lines, and a part every so many seconds."""

    ended = asyncio.Event()
    served: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode())
            for _ in range(times):
                writer.write(part)
                await writer.drain()
                if every:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), every)
                if ended.is_set():
                    break
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            ended.set()
            await asyncio.gather(*(task for task in served if task is not None))


ASKING: dict[str, Callable[[str, float], Coroutine[Any, Any, object]]] = {
    "post": lambda url, timeout: HttpxTransport(timeout).post_json(url, {}),
    "post and record": lambda url, timeout: DclTransport(timeout).post_json(url, {}),
    "fetch": lambda url, timeout: fetch(url, 10**9, timeout),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_a_server_that_sends_a_byte_now_and_then_holds_nobody_up(ask: Callable[[str, float], Coroutine[Any, Any, object]]) -> None:
    async def scene() -> None:
        async with serving("content-length: 1000", b" ", every=0.1, times=100) as url:
            with pytest.raises(httpx.ReadTimeout, match="no whole answer within"):
                await asyncio.wait_for(ask(url, 0.4), 8)

    run(scene())


@pytest.mark.parametrize("head", ["content-length: 4000", "connection: close"])
def test_a_server_that_sends_much_does_not_use_up_the_memory(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "_MAX_ANSWER_BYTES", 3000)

    async def scene() -> None:
        async with serving(head, b" " * 1000, every=0, times=4) as url:
            with pytest.raises(httpx.ReadError, match="more than 3000 bytes"):
                await HttpxTransport().post_json(url, {})
        async with serving("connection: close", b"{}" + b" " * 998, every=0, times=1) as url:
            assert await HttpxTransport().post_json(url, {}) == {}

    run(scene())


def test_an_answer_that_is_compressed_unasked_is_not_unpacked() -> None:
    packed = gzip.compress(b"{}")

    async def scene() -> None:
        async with serving(f"content-encoding: gzip\r\ncontent-length: {len(packed)}", packed, every=0, times=1) as url:
            with pytest.raises(httpx.DecodingError):
                await HttpxTransport().post_json(url, {})

    run(scene())


def test_concurrent_calls_keep_their_exchanges_apart() -> None:
    with node(lambda request: (200, request)) as url:
        transport = DclTransport()

        async def ask(number: int) -> tuple[str, str | None]:
            await transport.post_json(url, {"n": number})
            await asyncio.sleep(0.01)
            record = transport.last_exchange
            assert record is not None
            return record.request_digest, transport.last_exchange_digest

        async def all_of_them() -> list[tuple[str, str | None]]:
            return await asyncio.gather(*(ask(number) for number in range(5)))

        assert len(set(run(all_of_them()))) == 5


def test_the_request_digest_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Response:
        content = b"{}"

        def raise_for_status(self) -> None: ...

        def json(self) -> dict[str, Any]:
            return {}

    class Client:
        def __init__(self, **options: Any) -> None:
            assert options == {"timeout": 30.0}

        async def __aenter__(self) -> "Client":
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def post(self, url: str, **given: Any) -> Response:
            assert set(given) == {"json", "headers"}
            assert url
            return Response()

    monkeypatch.setattr(httpx, "AsyncClient", Client)
    transport = DclTransport()
    run(transport.post_json("http://localhost:5005", {"method": "test"}))
    assert transport.last_exchange is not None
    assert transport.last_exchange.request_digest == "sha256:c256c679532bea91d6a1101681dc652aeae4b5adf302b53db0bb2df4b1c81078"


def test_exchanges_are_kept_once_and_found_by_both_digests(tmp_path: Path) -> None:
    with ExchangeStore(body_path=tmp_path / "deep" / "bodies") as store:
        later = ExchangeRecord("sha256:abc", "sha256:XYZ", "2")
        digest = store.put(later, request_body=b"one", response_body=b"two", created_at="9")
        assert store.put(ExchangeRecord("sha256:abc", "sha256:XYZ", "1"), request_body=b"other") == digest
        store.put(ExchangeRecord("sha256:abc", "sha256:other", "1"))
        assert (store.count(), store.exists(digest), store.exists("sha256:no"), store.get("\ud800")) == (2, True, False, None)
        assert store.get(digest) == later
        assert [record.timestamp for record in store.list_by_request("sha256:abc")] == ["1", "2"]
        assert store.list_by_response("sha256:XYZ") == [later]
        assert store.to_dict(digest) == {**later.to_dict(), "content_digest": digest, "created_at": "9"}
        assert store.to_dict("sha256:no") is None
        assert (store.get_body("sha256:abc"), store.body_exists("sha256:XYZ"), store.body_exists("sha256:no")) == (b"one", True, False)
        assert not store.verify_body("sha256:abc")
        assert sorted(path.name for path in (tmp_path / "deep").rglob("*.blob")) == ["XYZ.blob", "abc.blob"]


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha256:a/b", "sha256:", "sha256:a.b", "abc", "sha256:a\\b", "sha256:a\n"])
def test_no_file_outside_the_folder_can_be_named(digest: str, tmp_path: Path) -> None:
    with ExchangeStore(body_path=tmp_path) as store:
        for call in (store.get_body, store.body_exists, store.verify_body):
            with pytest.raises(InputError):
                call(digest)
        with pytest.raises(InputError):
            store.put(ExchangeRecord(digest, "sha256:x", "1"), request_body=b"x")
        assert store.count() == 0


def test_without_a_folder_bodies_are_not_kept() -> None:
    with ExchangeStore() as store:
        store.put(ExchangeRecord("sha256:a", "sha256:b", "1"), request_body=b"x")
        assert (store.get_body("sha256:a"), store.body_exists("anything")) == (None, False)


def test_the_package_publishes_its_names() -> None:
    assert [name for name in xrpl.__all__ if not hasattr(xrpl, name)] == []
    assert isinstance(Signer(), xrpl.XRPLSigner)
    assert isinstance(Ledger(), xrpl.XRPLClient)
    assert isinstance(HttpxTransport(), xrpl.JsonRpcTransport)
