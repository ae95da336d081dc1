"""What clients get wrong, on purpose or not: the answer names it, nothing half is written, and the server stays up."""

import json
import socket
import subprocess
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from mcp import Client, MCPError
from mcp_testing import ALICE, CONNECTIONS, HELLO, answer, connected, error_of, events_of, http_server, lines

WHOLE = ["DECISION_CREATED", "POLICY_ATTACHED"]
MEGABYTE = 1_000_000

Served = tuple[Client, Path]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=CONNECTIONS)
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Served]:
    folder = tmp_path_factory.mktemp("served")
    async with connected(request.param, folder) as client:
        yield client, folder


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"x": found}
    return found


# -- through a client ---------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("tool", "arguments", "code"),
    [
        ("request", {"goal": "g" * 5 * MEGABYTE, "actor": ALICE}, "INVALID_ARGUMENTS"),
        ("request", {"goal": "g", "actor": ALICE, "plan": "p" * 5 * MEGABYTE}, "INVALID_ARGUMENTS"),
        ("request", {"goal": "g", "actor": {"type": "human", "id": "i" * 5 * MEGABYTE}}, "INVALID_ARGUMENTS"),
        ("request", {"goal": "g", "actor": ALICE, "k" * 5 * MEGABYTE: 1}, "INVALID_ARGUMENTS"),
        ("request", {"goal": "g", "actor": ALICE, **{f"k{number}": number for number in range(20_000)}}, "INVALID_ARGUMENTS"),
        ("request", {"goal": "g", "actor": ALICE, "labels": list(range(100_000))}, "INVALID_ARGUMENTS"),
        ("import_bundle", {"bundle": "b" * 5 * MEGABYTE}, "BUNDLE_INVALID_SCHEMA"),
        ("import_bundle", {"bundle": deep(100)}, "BUNDLE_INVALID_SCHEMA"),
        ("import_bundle", {"bundle": "[" * MEGABYTE}, "BUNDLE_INVALID_SCHEMA"),
        ("status", {"request_id": deep(100)}, "INVALID_ARGUMENTS"),
        ("status", {"request_id": "\x00"}, "DECISION_NOT_FOUND"),
        ("status", {"request_id": "../../etc/passwd"}, "DECISION_NOT_FOUND"),
        ("approve", {"request_id": "x", "actor": ALICE, "expires_at": "tomorrow"}, "INVALID_EXPIRES_AT"),
        ("template.list", {"offset": 2**53}, "INVALID_ARGUMENTS"),
    ],
)
async def test_a_malformed_call_is_refused_by_name_and_in_a_few_words(
    served: Served, tool: str, arguments: dict[str, Any], code: str
) -> None:
    client, folder = served
    before = events_of(folder)
    error = await error_of(client, tool, **arguments)
    assert error["code"] == code
    assert len(error["text"]) < 5_000
    assert "Traceback" not in error["text"]
    assert events_of(folder) == before


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["", "x" * 5_000, "nexus-attest.", "nexus-attest.status ", "NEXUS-ATTEST.STATUS", "\x00", "__init__"])
async def test_a_tool_that_does_not_exist_is_a_short_protocol_error(served: Served, name: str) -> None:
    client, _ = served
    with pytest.raises(MCPError) as caught:
        await client.call_tool(name, {})
    assert caught.value.error.code == -32602
    assert len(caught.value.error.message) < 300


@pytest.mark.anyio
async def test_a_thousand_calls_in_flight_are_all_answered_and_all_on_the_record(served: Served) -> None:
    client, folder = served
    made: list[str] = []
    seen: list[str] = []
    known = (await answer(client, "request", goal="known", actor=ALICE))["request_id"]

    async def ask(number: int) -> None:
        made.append((await answer(client, "request", goal=f"goal {number}", actor=ALICE))["request_id"])

    async def look() -> None:
        seen.append((await answer(client, "status", request_id=known))["state"])

    with anyio.fail_after(200):
        async with anyio.create_task_group() as tasks:
            for number in range(1_000):
                if number % 5:
                    tasks.start_soon(look)
                else:
                    tasks.start_soon(ask, number)
    assert (len(set(made)), seen) == (200, ["pending_approval"] * 800)
    found = events_of(folder)
    assert all(found[request_id] == WHOLE for request_id in made)


@pytest.mark.anyio
async def test_a_client_that_cancels_every_call_leaves_whole_decisions_only(served: Served) -> None:
    client, folder = served
    answered: list[str] = []

    async def give_up(number: int) -> None:
        with anyio.move_on_after(number % 40 / 4_000):
            answered.append((await answer(client, "request", goal=f"cancelled {number}", actor=ALICE))["request_id"])

    with anyio.fail_after(200):
        for start in range(0, 300, 20):
            async with anyio.create_task_group() as tasks:
                for number in range(start, start + 20):
                    tasks.start_soon(give_up, number)
        while True:  # what was cancelled on the way may still be written
            found = events_of(folder)
            await anyio.sleep(0.1)
            if events_of(folder) == found:
                break
    assert set(answered) <= set(found)
    assert all(events == WHOLE for events in found.values())
    assert (await answer(client, "request", goal="g", actor=ALICE))["state"] == "pending_approval"


# -- standard streams, line by line -------------------------------------------------------------------------------------------------

TWICE = [  # what readers could understand differently
    b'"method": "ping", "method": "tools/list"',
    b'"method": "tools/call", "params": {"name": "nexus-attest.status", "name": "nexus-attest.approve"}',
    b'"method": "tools/call", "params": {"name": "nexus-attest.request", "arguments": {"goal": "harmless", "g\\u006fal": "harmful"}}',
    b'"method": "ping", "params": {"x": NaN}',
    b'"method": "ping", "params": {"x": [-Infinity]}',
    b'"method": "ping", "params": {"x": 1e999}',
    b'"method": "ping", "params": {"x": ' + b"9" * 1_000 + b"e9}",
]

NO_MESSAGES: list[tuple[bytes, Any, int]] = [  # what is sent, the id of the answer, its code
    (b"not json", None, -32700),
    (b"\xff\xfe\x00", None, -32700),
    (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"', None, -32700),
    (b"[" * 100_000, None, -32700),
    (b"[]", None, -32600),
    (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', None, -32600),
    (b"null", None, -32600),
    (b'"ping"', None, -32600),
    (b"{}", None, -32600),
    (b'{"jsonrpc": "1.0", "id": 3, "method": "ping"}', 3, -32600),
    (b'{"jsonrpc": "2.0", "id": 4, "method": 5}', 4, -32600),
    (b'{"jsonrpc": "2.0", "id": {"a": 1}, "method": "ping"}', None, -32600),
    (b'{"jsonrpc": "2.0", "id": "five", "method": "ping", "params": []}', "five", -32600),
    (b'{"jsonrpc": "2.0", "id": 6, "method": "tools/call", "params": {"name": "nexus-attest.status"}}', 6, 0),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {}}', 7, -32602),
    (b'{"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": {"name": 5}}', 8, -32602),
    (b'{"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "nexus-attest.status", "arguments": []}}', 9, -32602),
    (b'{"jsonrpc": "2.0", "id": 10, "method": "tools/call", "params": {"name": "nexus-attest.nothing\\ud800"}}', 10, -32600),
    (b'{"jsonrpc": "2.0", "id": 11, "method": "no/such/method"}', 11, -32601),
    (b'{"jsonrpc": "2.0", "id": 12, "method": "ping", "params": {"x": ' + b'{"x":' * 300 + b"1" + b"}" * 300 + b"}}", 12, -32600),
    (b'{"jsonrpc": "2.0", "id": 13, "method": "resources/read", "params": {"uri": "nexus://decisions/%ff"}}', 13, -32602),
    (b'{"jsonrpc": "2.0", "id": "\\ud800", "method": "ping"}', None, -32600),
    (b"x" * (32 * 1024 * 1024 + 1), None, -32600),
    *((b'{"jsonrpc": "2.0", "id": 14, ' + twice + b"}", 14, -32600) for twice in TWICE),
]


def test_every_line_that_is_no_message_is_answered_and_the_next_one_works(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        for number, (line, request_id, code) in enumerate(NO_MESSAGES):
            server.send(line)
            found = server.receive()
            assert found["id"] == request_id, line[:100]
            assert found.get("error", {"code": 0})["code"] == code, line[:100]
            assert "Traceback" not in json.dumps(found)
            server.send({"id": f"ping {number}", "method": "ping"})
            assert server.receive() == {"jsonrpc": "2.0", "id": f"ping {number}", "result": {}}
        code, rest, errors = server.end()
    assert (code, rest) == (0, [])
    assert "Traceback" not in errors


def test_empty_lines_and_answers_that_nobody_asked_for_are_passed_over(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        for line in (b"", b"   ", b'{"jsonrpc": "2.0", "id": 99, "result": {}}', b'{"jsonrpc": "2.0", "method": "no/such/notification"}'):
            server.send(line)
        server.send({"id": 1, "method": "ping"})
        assert server.receive()["id"] == 1


def test_a_message_in_many_pieces_and_many_messages_in_one_piece_are_read(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n"
        for byte in message:
            server.stdin.write(bytes([byte]))
            server.stdin.flush()
        assert server.receive()["id"] == 1
        server.stdin.write(message * 500)
        server.stdin.flush()
        assert [server.receive()["id"] for _ in range(500)] == [1] * 500


def test_a_last_line_without_an_end_is_still_read(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode())
        code, rest, _ = server.end()
    assert code == 0
    assert [message["id"] for message in rest] == [1]


def test_a_client_that_reads_nothing_any_more_ends_the_server_and_loses_nothing_written(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        server.stdout.close()
        for number in range(1, 200):
            try:
                server.call(number, "request", goal="g", actor=ALICE)
            except BrokenPipeError:
                break
        assert server.process.wait(60) == 0
    found = events_of(tmp_path)
    assert all(events == WHOLE for events in found.values())


def test_a_client_that_dies_with_calls_in_flight_leaves_whole_decisions(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        for number in range(1, 500):
            server.call(number, "request", goal="g", actor=ALICE)
        server.stdin.close()
        server.stdout.close()
        assert server.process.wait(60) == 0
    assert all(events == WHOLE for events in events_of(tmp_path).values())
    assert not (tmp_path / "decisions.db-wal").exists()


def test_a_client_that_closes_its_end_and_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        for number in range(1, 30):  # each answer is longer than half a pipe
            server.send({"id": number, "method": "tools/list"})
        server.stdin.close()
        assert server.process.wait(60) == 0


def test_a_server_that_is_killed_leaves_whole_decisions(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        for number in range(1, 300):
            server.call(number, "request", goal="g", actor=ALICE)
        answered = {server.receive()["result"]["structuredContent"]["request_id"] for _ in range(50)}
        server.process.kill()
        server.process.wait(60)
    found = events_of(tmp_path)
    assert answered <= set(found)
    assert all(events == WHOLE for events in found.values())


def test_an_enveloped_request_on_a_handshake_connection_is_refused_and_both_go_on(tmp_path: Path) -> None:
    with lines(tmp_path) as server:
        server.begin()
        meta: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        server.send({"id": 1, "method": "tools/list", "params": {"_meta": meta}})
        assert server.receive()["error"]["code"] == -32600
        server.send({"id": 2, "method": "tools/list"})
        assert len(server.receive()["result"]["tools"]) == 11


# -- HTTP, as it comes --------------------------------------------------------------------------------------------------------------

LEGACY_HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
HEADERS = {**LEGACY_HEADERS, "mcp-protocol-version": "2026-07-28"}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, "subprocess.Popen[str]", Path]]:
    folder = tmp_path_factory.mktemp("http")
    with http_server(folder) as (url, process):
        yield url, process, folder


def is_up(url: str) -> bool:
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    return (
        httpx2.post(url, json=body, headers={key: value for key, value in HEADERS.items() if key != "mcp-protocol-version"}).status_code
        == 200
    )


@pytest.mark.parametrize(
    "body",
    [line for line, _, _ in NO_MESSAGES if len(line) < MEGABYTE] + [b"", b"{" * 1000, b'{"jsonrpc": "2.0", "id": NaN}', b"\x00" * 100],
    ids=lambda body: body[:30].decode("latin-1"),
)
@pytest.mark.parametrize("modern", [True, False])
def test_a_body_that_is_no_message_is_answered_without_details(
    http: tuple[str, "subprocess.Popen[str]", Path], body: bytes, modern: bool
) -> None:
    url, _, _ = http
    found = httpx2.post(url, content=body, headers=HEADERS if modern else LEGACY_HEADERS)
    assert 400 <= found.status_code < 500
    assert "Traceback" not in found.text
    assert "site-packages" not in found.text
    assert is_up(url)


@pytest.mark.parametrize("twice", TWICE, ids=bytes.decode)
@pytest.mark.parametrize("modern", [True, False])
def test_a_body_with_two_meanings_is_refused(http: tuple[str, "subprocess.Popen[str]", Path], twice: bytes, modern: bool) -> None:
    url, _, folder = http
    before = events_of(folder)
    body = b'{"jsonrpc": "2.0", "id": 1, ' + twice + b"}"
    found = httpx2.post(url, content=body, headers=HEADERS if modern else LEGACY_HEADERS)
    assert (found.status_code, found.json()["error"]["code"]) == (400, -32600)
    assert any(word in found.text for word in ("twice", "finite"))
    assert len(found.text) < 500
    assert events_of(folder) == before


@pytest.mark.parametrize(
    ("repeated", "text"),
    [
        ("host: evil.example", "invalid http request"),
        ("origin: http://127.0.0.1\r\norigin: https://evil.example", "origin"),
        ("authorization: Bearer a\r\nAuthorization: Bearer b", "authorization"),
        ("content-type: text/plain", "content-type"),
        ("mcp-session-id: a\r\nMcp-Session-Id: b", "mcp-session-id"),
        ("mcp-protocol-version: 2026-07-28\r\nmcp-protocol-version: 2025-11-25", "mcp-protocol-version"),
        ("mcp-method: ping\r\nmcp-method: tools/call", "mcp-method"),
    ],
)
def test_a_header_that_decides_something_is_there_once(http: tuple[str, "subprocess.Popen[str]", Path], repeated: str, text: str) -> None:
    found = sent_by_hand(http[0], repeated)
    assert found.startswith(b"HTTP/1.1 400"), found
    assert text.encode() in found.lower()


@pytest.mark.parametrize("host", ["localhost:1.evil.example", "127.0.0.1:@evil.example", "127.0.0.1:8x", "localhost:", ":80", "[::1]x:1"])
def test_a_host_that_only_begins_like_this_machine_is_refused(http: tuple[str, "subprocess.Popen[str]", Path], host: str) -> None:
    assert sent_by_hand(http[0], host=host)[9:12] in (b"400", b"421")


def sent_by_hand(url: str, *more: str, host: str | None = None) -> bytes:
    """The answer to an `initialize` with these header lines besides the right ones."""
    address, body = urlsplit(url), json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}).encode()
    head = [
        "POST /mcp HTTP/1.1",
        f"host: {host or address.netloc}",
        *(f"{key}: {value}" for key, value in {**LEGACY_HEADERS, "content-length": str(len(body))}.items()),
        *("connection: close", *more),
    ]
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as client:
        client.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: client.recv(65_536), b""))


def test_a_request_by_hand_is_answered(http: tuple[str, "subprocess.Popen[str]", Path]) -> None:
    assert b"serverInfo" in sent_by_hand(http[0])


def test_a_body_larger_than_the_limit_is_refused_before_it_is_read(http: tuple[str, "subprocess.Popen[str]", Path]) -> None:
    url, _, _ = http
    for size, status in ((33 * 1024 * 1024, 413), (5 * MEGABYTE, 400)):
        assert httpx2.post(url, content=b"x" * size, headers=HEADERS).status_code == status
    assert is_up(url)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /mcp HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00garbage\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{",
        b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /mcp HTTP/1.1\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_a_client_that_goes_away_in_the_middle_does_no_harm(http: tuple[str, "subprocess.Popen[str]", Path], sent: bytes) -> None:
    url, process, _ = http
    address = urlsplit(url)
    for _ in range(20):
        with socket.create_connection((address.hostname or "", address.port or 0)) as client:
            client.sendall(sent)
    assert is_up(url)
    assert process.poll() is None


def test_http_clients_that_die_before_their_answers_leave_whole_decisions(http: tuple[str, "subprocess.Popen[str]", Path]) -> None:
    url, _, folder = http
    address = urlsplit(url)
    meta: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    params: dict[str, Any] = {"name": "nexus-attest.request", "arguments": {"goal": "g", "actor": ALICE}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    routing = {"mcp-method": "tools/call", "mcp-name": "nexus-attest.request"}
    head = "".join(f"{key}: {value}\r\n" for key, value in {**HEADERS, **routing, "content-length": str(len(body))}.items())
    request = f"POST /mcp HTTP/1.1\r\nhost: {address.netloc}\r\n{head}\r\n".encode() + body
    with socket.create_connection((address.hostname or "", address.port or 0)) as client:
        client.sendall(request)
        assert b"200" in client.recv(100)  # it is a good request
    for _ in range(100):
        with socket.create_connection((address.hostname or "", address.port or 0)) as client:
            client.sendall(request)
    assert is_up(url)
    assert all(events == WHOLE for events in events_of(folder).values())
