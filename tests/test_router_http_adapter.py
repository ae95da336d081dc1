"""An HTTP adapter survives its service: limits hold against slow and large answers, nothing is followed, nothing leaks."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from http_server import Script, Service, answer, raw, service
from router_testing import call, step

from nexus_attest.routers import (
    Adapter,
    Call,
    CallFailed,
    CallIdentity,
    CallLimit,
    CallOutcome,
    CallRefused,
    RunEngine,
    RunFailed,
    parse_adapters,
)
from nexus_attest.routers.addresses import is_public

TOKEN = "Bearer hunter2-hunter2-hunter2"


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(60)  # a resolver that has answered is on its way out
    assert set(threading.enumerate()) == before


def http(url: str, **keys: object) -> Adapter:
    """The adapter of a service."""
    entry = {"id": "http:service", "kind": "http", "base_url": url, "allow": ["*/*"], "timeout_s": 10, **keys}
    (adapter,) = parse_adapters({"adapters": [entry]}, base_dir=Path("/"))
    return adapter


def failure(adapter: Adapter, args: Mapping[str, object] | None = None) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        call(adapter, "users", "create", args)
    return caught.value


def failed(script: Script, **keys: object) -> tuple[CallFailed, Service]:
    """How a call ends when the service does this, and the service, which was asked exactly once."""
    with service(script) as found:
        problem = failure(http(found.url, **keys))
    assert len(found.requests) == 1
    return problem, found


# What is sent.


def test_a_call_is_one_post_of_the_arguments_and_the_object_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_AUTHORIZATION", TOKEN)
    identity = CallIdentity(run_id="run-1", step_id="sch\u00f6n 1%", execution_id="evt\u00e9")
    with service(answer(b'{"id": 5, "name": "\xc3\xa9"}', "201 Created")) as found:
        adapter = http(found.url + "/", headers_env={"Authorization": "API_AUTHORIZATION"})
        assert call(adapter, "users", "create", {"name": "\u00e9", "n": 1.5}, identity) == {"id": 5, "name": "\u00e9"}
    (request,) = found.requests
    assert request.startswith(b"POST /v1/users/create HTTP/1.1\r\n")
    assert json.loads(found.body()) == {"name": "\u00e9", "n": 1.5}
    head = found.head()
    assert head.pop("user-agent").startswith("nexus-attest/")
    assert head == {
        "host": f"127.0.0.1:{found.port}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(found.body())),
        "authorization": TOKEN,
        "idempotency-key": "run-1/sch%C3%B6n%201%25",
        "nexus-execution-id": "evt%C3%A9",
    }


def test_proxy_variables_and_netrc_of_the_host_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login alice password hunter2\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with service(answer(b"{}")) as proxy, service(answer(b'{"direct": true}')) as found:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert call(http(found.url), "a", "b") == {"direct": True}
        assert "authorization" not in found.head()
    assert proxy.requests == []


def test_a_call_works_inside_a_running_event_loop() -> None:
    async def inside(url: str) -> Mapping[str, Any]:
        return call(http(url), "a", "b")

    with service(answer(b'{"a": 1}')) as found:
        assert asyncio.run(inside(found.url)) == {"a": 1}


# What comes back.


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *(("400 Bad Request", "failed"), ("404 Not Found", "failed"), ("409 Conflict", "failed"), ("499 ?", "failed")),
        *(("500 Internal Server Error", "unknown"), ("503 Service Unavailable", "unknown"), ("599 ?", "unknown")),
        *(("301 Moved", "unknown"), ("302 Found", "unknown"), ("303 See Other", "unknown"), ("307 Temporary Redirect", "unknown")),
    ],
)
def test_another_status_is_a_failure_that_is_certain_only_when_the_service_refused(status: str, outcome: str) -> None:
    problem, _ = failed(answer(b'{"error": "secret words"}', status, "Location: /v2"))
    assert (problem.code, problem.outcome) == ("HTTP_ERROR", outcome)
    assert str(problem) == f"The service answered with status {status[:3]}"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_to_this_host_is_not_followed(status: str) -> None:
    with service(answer(b'{"secret": "of the inner service"}')) as inner:
        problem, _ = failed(answer(b"{}", status, f"Location: http://127.0.0.1:{inner.port}/"))
    assert problem.code == "HTTP_ERROR"
    assert inner.requests == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not one JSON object"),
        (b"done", "not one JSON object"),
        (b'{"a": 1', "not one JSON object"),
        (b'{"a": 1}{"b": 2}', "not one JSON object"),
        (b"[1]", "no object"),
        (b'{"a": NaN}', "finite"),
        (b'{"a": 1e999}', "finite"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b'{"a": 1, "a": 2}', "duplicate key"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}", "nested deeper"),
    ],
)
def test_anything_but_one_json_object_leaves_the_outcome_open(body: bytes, words: str) -> None:
    problem, _ = failed(answer(body))
    assert (problem.code, problem.outcome) == ("INVALID_JSON", CallOutcome.UNKNOWN)
    assert words in str(problem)


def test_a_compressed_body_is_not_unpacked() -> None:
    problem, _ = failed(answer(b"\x1f\x8b" + b"\0" * 100, "200 OK", "Content-Encoding: gzip"))
    assert (problem.code, problem.outcome) == ("INVALID_JSON", CallOutcome.UNKNOWN)
    assert "compressed" in str(problem)


@pytest.mark.parametrize("length", ["3221225472", "9" * 19])
def test_three_gigabytes_are_refused_by_their_announcement(length: str) -> None:
    began = time.monotonic()
    problem, _ = failed(raw(b"HTTP/1.1 200 OK\r\nContent-Length: " + length.encode() + b"\r\n\r\n" + b"x" * 100))
    assert time.monotonic() - began < 30
    assert (problem.code, problem.outcome) == ("OUTPUT_TOO_LARGE", CallOutcome.UNKNOWN)


def test_fifty_megabytes_without_announcement_are_cut_off() -> None:
    sent: list[int] = []

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            connection.sendall(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
            sent.append(0x100000)

    problem, _ = failed(flood)
    assert (problem.code, problem.outcome) == ("OUTPUT_TOO_LARGE", CallOutcome.UNKNOWN)
    assert sum(sent) < 20_000_000


def drip(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 1000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    ],
    ids=["head", "body", "interim"],
)
def test_a_slow_drip_does_not_stretch_the_limit(data: bytes) -> None:
    began = time.monotonic()
    problem, _ = failed(lambda connection: drip(connection, data), timeout_s=1.5)
    assert time.monotonic() - began < 40  # the drip goes on for fifty and more
    assert (problem.code, problem.outcome) == ("TIMEOUT", CallOutcome.UNKNOWN)


def test_a_cancelled_run_ends_its_call() -> None:
    limit = CallLimit(time.monotonic() + 100)

    def asked(_: socket.socket) -> None:
        limit.cancelled.set()
        time.sleep(1)

    with service(asked) as found:
        adapter = http(found.url)
        session = adapter.open([step()], limit)
        began = time.monotonic()
        try:
            with pytest.raises(CallFailed) as caught:
                session.call(Call(step=step(), identity=CallIdentity(run_id="r", step_id="s", execution_id=None), limit=limit))
        finally:
            session.close()
            session.close()
        assert time.monotonic() - began < 20
    assert (caught.value.code, caught.value.outcome) == ("CANCELLED", CallOutcome.UNKNOWN)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"no HTTP at all\r\n\r\n"])
def test_a_connection_that_breaks_after_the_request_leaves_the_outcome_open(data: bytes) -> None:
    problem, _ = failed(raw(data))
    assert (problem.code, problem.outcome) == ("CONNECTION_LOST", CallOutcome.UNKNOWN)
    assert str(problem) == "The connection to 127.0.0.1 was lost"


# What is never reached.


def test_a_service_that_is_not_there_was_not_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    problem = failure(http(f"http://127.0.0.1:{port}"))
    assert (problem.code, problem.outcome) == ("CONNECTION_FAILED", CallOutcome.NOT_SENT)
    assert str(problem).startswith("No connection to 127.0.0.1: ")


def test_a_service_without_tls_is_not_asked_over_https() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_plainly() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer_plainly)
        thread.start()
        problem = failure(http(f"https://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join()
    assert (problem.code, problem.outcome) == ("CONNECTION_FAILED", CallOutcome.NOT_SENT)


def test_a_service_that_never_begins_tls_was_not_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        problem = failure(http(f"https://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.3))
    assert (problem.code, problem.outcome) == ("TIMEOUT", CallOutcome.NOT_SENT)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(_host: object, port: object, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.5", "169.254.169.254", "192.168.1.1", "0.0.0.0", "::1", "fd00::1", "::ffff:127.0.0.1"]
)
def test_a_public_name_does_not_lead_into_the_own_network(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolving(monkeypatch, address)
    problem = failure(http("https://service.example"))
    assert (problem.code, problem.outcome) == ("ADDRESS_NOT_ALLOWED", CallOutcome.NOT_SENT)
    assert "allow_private" in str(problem)


def test_localhost_that_resolves_elsewhere_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "10.0.0.5", "93.184.216.34")
    assert failure(http("http://localhost")).code == "ADDRESS_NOT_ALLOWED"


def test_a_name_is_resolved_once_per_call_and_the_judged_address_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with service(answer(b'{"a": 1}')) as found:
        asked: list[object] = []

        def getaddrinfo(host: object, port: object, *_: object, **__: object) -> list[Any]:
            asked.append(host)
            address = "127.0.0.1" if host == "localhost" and len(asked) == 1 else str(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert call(http(f"http://localhost:{found.port}"), "a", "b") == {"a": 1}
        assert found.head()["host"] == f"localhost:{found.port}"
    assert asked[0] == "localhost"
    assert set(asked[1:]) <= {"127.0.0.1"}  # the connection looks up the address, which resolves to itself


def test_private_addresses_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "127.0.0.1")
    problem = failure(http("https://service.example:1", allow_private=True))
    assert problem.code == "CONNECTION_FAILED"


def test_a_call_is_known_not_to_be_sent_where_no_thread_can_look_up_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def no_resolver(thread: threading.Thread) -> None:
        if thread.name == "nexus-attest resolver":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_resolver)
    with RunEngine([http("https://service.example")]) as engine:
        with pytest.raises(RunFailed, match=r"The host service\.example cannot be looked up: can't start new thread") as caught:
            engine.run(goal="g", adapter_id="http:service", dry_run=False, plan='[{"tool": "a", "method": "b"}]')
        assert caught.value.run_id is not None
        events = engine.flight_record(caught.value.run_id)["events"]
    assert caught.value.code == "OS_ERROR"
    assert [event["payload"]["outcome"] for event in events if event["type"] == "TOOL_CALL_FAILED"] == ["not_sent"]


def test_a_name_without_an_address_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    problem = failure(http("https://service.example"))
    assert (problem.code, problem.outcome) == ("CONNECTION_FAILED", CallOutcome.NOT_SENT)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("93.184.216.34", True), ("2606:2800:220:1::1", True), ("64:ff9b::5db8:d822", True)),
        *(("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("100.64.0.1", False), ("224.0.0.1", False)),
        *(("255.255.255.255", False), ("0.0.0.0", False), ("::", False), ("fe80::1", False), ("ff02::1", False)),
        *(("::ffff:10.0.0.1", False), ("2002:7f00:1::1", False), ("64:ff9b::7f00:1", False), ("64:ff9b::a00:1", False)),
        *(("::127.0.0.1", False), ("64:ff9b:1::7f00:1", False), ("fec0::1", False), ("192.0.0.8", False), ("2001::1", False)),
    ],
)
def test_an_address_is_public_only_when_every_address_in_it_is(address: str, public: bool) -> None:
    assert is_public(address) is public


# What is missing, and what is secret.


def test_what_is_missing_on_the_spot_is_found_before_and_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_AUTHORIZATION", raising=False)
    with service(answer(b"{}")) as found:
        adapter = http(found.url, headers_env={"Authorization": "API_AUTHORIZATION"})
        with pytest.raises(CallRefused) as caught:
            adapter.preflight([step()])
        assert caught.value.code == "ENV_INVALID"
        problem = failure(adapter)
        assert (problem.code, problem.outcome) == ("ENV_INVALID", CallOutcome.NOT_SENT)
    assert found.requests == []


@pytest.mark.parametrize("value", ["", " ", "Bearer ", "a\r\nX-Injected: 1", "\u00e9"])
def test_a_variable_that_is_no_header_value_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("API_AUTHORIZATION", value)
    adapter = http("http://127.0.0.1:1", headers_env={"Authorization": "API_AUTHORIZATION"})
    with pytest.raises(CallRefused) as caught:
        adapter.preflight([step()])
    assert caught.value.code == "ENV_INVALID"
    assert not value.strip() or value not in str(caught.value)


def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CallRefused) as caught:
        http("https://localhost", ca_file="/no/such.pem").preflight([step()])
    assert caught.value.code == "CA_FILE_INVALID"
    (tmp_path / "ca.pem").write_text("no certificate")
    assert failure(http("https://localhost", ca_file=str(tmp_path / "ca.pem"))).code == "CA_FILE_INVALID"


def test_secrets_that_a_service_gives_back_are_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_AUTHORIZATION", TOKEN)
    monkeypatch.setenv("PIN", "4711")
    token = TOKEN.split()[1]
    body = json.dumps(
        {"header": TOKEN, "token": token, token: 1, "pin": 4711, "text": f"?pin=4711&t={token}", "user": {"mail": "a@b.example"}}
    )
    keys = {"headers_env": {"Authorization": "API_AUTHORIZATION"}, "secrets": {"pin": "env:PIN"}, "redact": ["/user/mail"]}
    with service(answer(body.encode())) as found:
        output = call(http(found.url, **keys), "a", "b", {"pin": {"$secret": "pin"}})
    assert json.loads(found.body()) == {"pin": "4711"}
    assert output == {
        "header": "[redacted:secret API_AUTHORIZATION]",
        "token": "[redacted:secret API_AUTHORIZATION token]",
        "[redacted:secret API_AUTHORIZATION token]": 1,
        "pin": "[redacted:secret pin]",
        "text": "?pin=[redacted:secret pin]&t=[redacted:secret API_AUTHORIZATION token]",
        "user": {"mail": "[redacted:configured]"},
    }


def test_the_record_of_a_run_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_AUTHORIZATION", TOKEN)
    monkeypatch.setenv("PIN", "swordfish")
    plan = json.dumps([{"tool": "users", "method": "create", "args": {"pin": {"$secret": "pin"}}}])
    keys = {"headers_env": {"Authorization": "API_AUTHORIZATION"}, "secrets": {"pin": "env:PIN"}}
    with (
        service(answer(json.dumps({"echo": [TOKEN, "swordfish"]}).encode())) as found,
        RunEngine([http(found.url, **keys)]) as engine,
    ):
        response = engine.run(goal="g", adapter_id="http:service", dry_run=False, plan=plan)
        record = engine.flight_record(response["run_id"])
    assert b"swordfish" in found.requests[0]
    text = json.dumps(record)
    assert "swordfish" not in text
    assert "hunter2" not in text
    (done,) = (event["payload"] for event in record["events"] if event["type"] == "TOOL_CALL_SUCCEEDED")
    assert done["redacted"] == ["/echo/0", "/echo/1"]
    (asked,) = (event["payload"] for event in record["events"] if event["type"] == "TOOL_CALL_REQUESTED")
    assert asked["call"]["args"] == {"pin": {"$secret": "pin"}}


def test_a_failed_call_of_a_run_says_whether_it_is_certain() -> None:
    for status, outcome in (("400 Bad Request", "failed"), ("500 Oops", "unknown")):
        with service(answer(b"{}", status)) as found, RunEngine([http(found.url)]) as engine:
            with pytest.raises(RunFailed) as caught:
                engine.run(goal="g", adapter_id="http:service", dry_run=False, plan='[{"tool": "a", "method": "b"}]')
            assert caught.value.run_id is not None
            events = engine.flight_record(caught.value.run_id)["events"]
        assert caught.value.code == "HTTP_ERROR"
        assert [event["payload"]["outcome"] for event in events if event["type"] == "TOOL_CALL_FAILED"] == [outcome]
        assert len(found.requests) == 1
