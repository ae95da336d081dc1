"""Whom the server believes over HTTP: tokens, the keys behind them, scopes, and what requests without them are told."""

import base64
import hmac
import json
import logging
import subprocess
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
import httpx2
import pytest
from cli_testing import CommandLine
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_testing import ADAPTER, HELLO, answer, error_of, http_server, server_command, server_environment
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from token_testing import AUDIENCE, ISSUER, Issuer

from nexus_attest.server.callers import actor_of
from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.gate import Gate
from nexus_attest.server.http import http_app, parse_address
from nexus_attest.server.tokens import KeySet, TokenAccess
from nexus_control.events import utc_now

pytestmark = pytest.mark.anyio

ALICE = {"type": "human", "id": f"{ISSUER}#alice"}
PLAN = '[{"tool": "t", "method": "m"}]'


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


def access(folder: Path, issuer: Issuer, keys: str | None = None) -> TokenAccess:
    (folder / "keys.json").write_text(keys or issuer.key_set())
    return TokenAccess(ISSUER, AUDIENCE, KeySet(str(folder / "keys.json")))


# -- one token ----------------------------------------------------------------------------------------------------------------------


async def test_a_token_for_this_server_tells_who_may_do_what(tmp_path: Path, issuer: Issuer) -> None:
    found = await access(tmp_path, issuer).verify_token(issuer.token(scope="read approve unknown"))
    assert found is not None
    assert (found.subject, found.client_id, found.scopes, found.resource) == ("alice", "agent", ["read", "approve"], AUDIENCE)


async def test_a_token_that_does_not_say_whose_client_has_it_is_a_persons(tmp_path: Path, issuer: Issuer) -> None:
    found = await access(tmp_path, issuer).verify_token(issuer.token(client_id=None))
    assert found is not None
    assert actor_of(found).type == "human"


@pytest.mark.parametrize("header", [{"alg": []}, {"alg": {}}, {"alg": "ES256", "typ": {}}, {"alg": "ES256", "typ": []}])
async def test_a_header_of_the_wrong_types_is_refused(tmp_path: Path, issuer: Issuer, header: dict[str, Any]) -> None:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, {"sub": "alice"})]
    assert await access(tmp_path, issuer).verify_token(".".join([*parts, "AAAA"])) is None


@pytest.mark.parametrize("key", [rsa.generate_private_key(65_537, 2048), ed25519.Ed25519PrivateKey.generate()])
async def test_keys_of_every_usual_kind_are_taken(tmp_path: Path, key: Any) -> None:
    other = Issuer(key)
    assert await access(tmp_path, other).verify_token(other.token()) is not None


async def test_an_audience_among_others_and_scopes_as_a_list_are_understood(tmp_path: Path, issuer: Issuer) -> None:
    found = await access(tmp_path, issuer).verify_token(issuer.token(aud=["https://other.example", AUDIENCE], scope=None, scp=["read"]))
    assert found is not None
    assert found.scopes == ["read"]


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example/mcp"},
        {"aud": None},
        {"aud": AUDIENCE + "/"},
        {"aud": ISSUER},
        {"iss": "https://evil.example"},
        {"iss": ISSUER + "/"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"nbf": 4_102_444_800},
        {"iat": "never"},
        {"cnf": {"jkt": "x"}},
    ],
    ids=str,
)
async def test_a_token_that_says_less_or_something_else_is_refused(tmp_path: Path, issuer: Issuer, claims: dict[str, Any]) -> None:
    assert await access(tmp_path, issuer).verify_token(issuer.token(**claims)) is None


@pytest.mark.parametrize(
    "scope", [None, 5, {"read": True}, [1, None], "", "READ", "read,request", "readrequest"], ids=lambda scope: repr(scope)
)
async def test_a_scope_that_is_not_spelled_out_allows_nothing(tmp_path: Path, issuer: Issuer, scope: object) -> None:
    found = await access(tmp_path, issuer).verify_token(issuer.token(scope=scope))
    assert found is not None
    assert found.scopes == []


def keyed_by(public: bytes, body: str) -> str:
    """The old confusion: a public key, which everybody has, used as the secret of a symmetric algorithm."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"at+jwt","kid":"key-1"}').decode().rstrip("=")
    tag = hmac.digest(public, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(tag).decode().rstrip('=')}"


async def test_nobody_but_the_issuer_can_sign(tmp_path: Path, issuer: Issuer) -> None:
    verifier, claims = access(tmp_path, issuer), issuer.claims()
    good = issuer.sign(claims)
    head, body, signature = good.split(".")
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "mallory"}).encode()).decode().rstrip("=")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt","kid":"key-1"}').decode().rstrip("=")
    tokens = [
        Issuer().sign(claims),
        issuer.sign(claims, "x" * 64, "HS256"),
        keyed_by(json.dumps(issuer.jwk()).encode(), body),
        keyed_by(b"", body),
        f"{head}.{forged}.{signature}",
        f"{unsigned}.{body}.",
        f"{head}.{body}.",
        issuer.sign(claims, kid="key-2"),
        issuer.sign(claims, typ="logout+jwt"),
        issuer.sign(claims, typ="dpop+jwt"),
        issuer.sign(claims, crit=["unheard"], unheard=True),
        good + "A" * 20_000,
        *("", ".", "..", "a.b.c", "\x00", "é", "[]", good[:-10]),
    ]
    assert await verifier.verify_token(good) is not None
    for token in tokens:
        assert await verifier.verify_token(token) is None, token


async def test_an_rsa_key_that_is_too_short_is_refused(tmp_path: Path) -> None:
    weak = Issuer(rsa.generate_private_key(65_537, 1024))
    with pytest.warns(UserWarning, match="key"):  # that of PyJWT, while the test signs
        token = weak.token()
    assert await access(tmp_path, weak).verify_token(token) is None


async def test_a_key_signs_only_with_its_own_algorithm(tmp_path: Path) -> None:
    other = Issuer(rsa.generate_private_key(65_537, 2048))
    verifier = access(tmp_path, other, json.dumps({"keys": [other.jwk(alg="PS256")]}))
    assert await verifier.verify_token(other.sign(other.claims())) is None
    assert await verifier.verify_token(other.sign(other.claims(), algorithm="PS256")) is not None


async def test_why_a_token_was_refused_is_logged_and_the_token_is_not(
    tmp_path: Path, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = issuer.token(exp=1)
    with caplog.at_level(logging.WARNING, "nexus_attest.server"):
        assert await access(tmp_path, issuer).verify_token(token) is None
    (record,) = caplog.records
    facts: dict[str, Any] = getattr(record, "facts", {})
    assert "expired" in facts["reason"]
    assert token.split(".")[2] not in json.dumps(facts) + record.getMessage()


# -- the issuer's keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": 5}',
        '{"keys": []}',
        '{"keys": [5]}',
        '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}',
        '{"keys": [{"kty": "EC", "d": "x"}]}',
        '{"keys": [{"kty": "RSA", "use": "enc"}]}',
        '{"keys": [{"kty": ["RSA"]}]}',
        '{"keys": [{"kty": {}}]}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_a_file_that_is_no_set_of_public_keys_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(ServerConfigError):
        KeySet(str(tmp_path / "keys.json"))


def test_a_key_set_must_be_there_and_come_by_https(tmp_path: Path) -> None:
    for source in (str(tmp_path / "none.json"), "http://login.example/keys", "ftp://login.example/keys", "https://", "file:///etc/passwd"):
        with pytest.raises(ServerConfigError):
            KeySet(source)


@pytest.mark.parametrize(
    "url", ["http://nexus.example/mcp", "nexus.example", "https://nexus.example/mcp#x", "https://a:b@nexus.example", "https://[x"]
)
def test_urls_that_could_not_keep_a_token_secret_are_refused(tmp_path: Path, issuer: Issuer, url: str) -> None:
    keys = access(tmp_path, issuer).keys
    with pytest.raises(ServerConfigError):
        TokenAccess(ISSUER, url, keys)
    with pytest.raises(ServerConfigError):
        TokenAccess(url, AUDIENCE, keys)


async def test_a_key_that_was_added_to_the_file_is_found_without_a_restart(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, following = access(tmp_path, issuer), Issuer(kid="key-2")
    assert await verifier.verify_token(following.token()) is None
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [issuer.jwk(), following.jwk()]}))
    assert await verifier.verify_token(following.token()) is None, "the file was read a moment ago"
    monkeypatch.setattr("nexus_attest.server.tokens._RETRY_SECONDS", 0.0)
    assert await verifier.verify_token(following.token()) is not None


async def test_known_keys_outlast_a_source_that_fails_for_a_day_and_no_longer(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = access(tmp_path, issuer)
    assert await verifier.verify_token(issuer.token()) is not None
    (tmp_path / "keys.json").unlink()
    monkeypatch.setattr("nexus_attest.server.tokens._FRESH_SECONDS", -1.0)
    monkeypatch.setattr("nexus_attest.server.tokens._RETRY_SECONDS", 0.0)
    assert await verifier.verify_token(issuer.token()) is not None
    monkeypatch.setattr("nexus_attest.server.tokens._STALE_SECONDS", -1.0)
    assert await verifier.verify_token(issuer.token()) is None


class KeyServer(NamedTuple):
    url: str
    answers: dict[str, tuple[int, bytes]]
    asked: list[str]


@pytest.fixture
def key_server() -> Generator[KeyServer]:
    answers: dict[str, tuple[int, bytes]] = {}
    asked: list[str] = []
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/keys")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            piece, seconds = (20, 0.1) if self.path == "/slow" else (len(body) or 1, 0)
            for start in range(0, len(body), piece):
                self.wfile.write(body[start : start + piece])
                if closing.wait(seconds):
                    break

        def log_message(self, format: str, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield KeyServer(f"http://127.0.0.1:{server.server_port}", answers, asked)
        closing.set()
        server.shutdown()
        thread.join()


async def test_keys_come_from_a_url_once_for_many_tokens(key_server: KeyServer, issuer: Issuer) -> None:
    key_server.answers["/keys"] = 200, issuer.key_set().encode()
    verifier = TokenAccess(ISSUER, AUDIENCE, KeySet(f"{key_server.url}/keys"))
    for _ in range(5):
        assert await verifier.verify_token(issuer.token()) is not None
        assert await verifier.verify_token(Issuer(kid="other").token()) is None
    assert key_server.asked == ["/keys"]


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_a_url_that_gives_no_keys_lets_nobody_in(key_server: KeyServer, issuer: Issuer, status: int) -> None:
    key_server.answers.update({"/keys": (200, issuer.key_set().encode()), "/here": (status, issuer.key_set().encode())})
    verifier = TokenAccess(ISSUER, AUDIENCE, KeySet(f"{key_server.url}/here"))
    assert await verifier.verify_token(issuer.token()) is None
    assert key_server.asked == ["/here"]


async def test_an_endless_key_set_is_not_read_to_its_end(key_server: KeyServer, issuer: Issuer) -> None:
    key_server.answers["/keys"] = 200, issuer.key_set().encode() + b" " * 2_000_000
    assert await TokenAccess(ISSUER, AUDIENCE, KeySet(f"{key_server.url}/keys")).verify_token(issuer.token()) is None


async def test_a_source_that_never_comes_to_an_end_does_not_hold_everybody_up(
    key_server: KeyServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus_attest.server.tokens._FETCH_SECONDS", 2.0)
    key_server.answers["/slow"] = 200, issuer.key_set().encode() + b" " * 100_000
    verifier = TokenAccess(ISSUER, AUDIENCE, KeySet(f"{key_server.url}/slow"))
    with anyio.fail_after(60):
        assert await verifier.verify_token(issuer.token()) is None
        assert await verifier.verify_token(issuer.token()) is None
    assert key_server.asked == ["/slow"]


# -- over HTTP ----------------------------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    url: str
    issuer: Issuer
    folder: Path = Path()

    def bearer(self, *, token: str | None = None, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {token or self.issuer.token(**claims)}"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Generator[Running]:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "keys.json").write_text(issuer.key_set())
    options = (
        "--issuer",
        ISSUER,
        "--audience",
        AUDIENCE,
        "--jwks",
        str(folder / "keys.json"),
        "--human-approval",
        "never",
        "--extra-tools",
    )
    with http_server(folder, *options) as (url, _):
        yield Running(url, issuer, folder)


@asynccontextmanager
async def caller(running: Running, mode: str, **claims: Any) -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers=running.bearer(**claims)) as http,
        Client(streamable_http_client(running.url, http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}], ids=str
)
def test_a_request_without_a_good_token_is_told_where_to_get_one(running: Running, headers: dict[str, str]) -> None:
    refused = httpx.post(running.url, json=PING, headers={**ACCEPT, **headers})
    assert refused.status_code == 401
    challenge = refused.headers["WWW-Authenticate"]
    assert challenge.startswith("Bearer ")
    assert 'error="invalid_token"' in challenge
    assert 'resource_metadata="https://nexus.example/.well-known/oauth-protected-resource/mcp"' in challenge


def test_a_token_in_the_url_is_no_token(running: Running) -> None:
    assert httpx.post(f"{running.url}?access_token={running.issuer.token()}", json=PING, headers=ACCEPT).status_code == 401


def test_a_token_without_read_gets_nowhere(running: Running) -> None:
    refused = httpx.post(running.url, json=PING, headers={**ACCEPT, **running.bearer(scope="approve")})
    assert refused.status_code == 403
    assert 'error="insufficient_scope"' in refused.headers["WWW-Authenticate"]


def test_the_metadata_of_the_resource_names_issuer_and_scopes(running: Running) -> None:
    found = httpx.get(running.url.replace("/mcp", "/.well-known/oauth-protected-resource/mcp"))
    assert found.status_code == 200
    assert found.json() == {
        "resource": AUDIENCE,
        "authorization_servers": [ISSUER],
        "scopes_supported": ["read", "request", "approve", "execute", "admin"],
        "bearer_methods_supported": ["header"],
        "resource_name": "nexus-attest",
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "nexus.example.evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "nexus.example", "Origin": "https://nexus.example"}, 400),  # gets through to the protocol, which misses its headers
    ],
    ids=str,
)
def test_pages_of_other_sites_cannot_use_a_token_of_this_one(running: Running, headers: dict[str, str], status: int) -> None:
    assert httpx.post(running.url, json={"no": "message"}, headers={**ACCEPT, **running.bearer(), **headers}).status_code == status


async def test_tools_that_the_token_does_not_allow_are_neither_listed_nor_done(running: Running, mode: str) -> None:
    async with caller(running, mode, scope="read approve") as client:
        listed = [tool.name.removeprefix("nexus-attest.") for tool in (await client.list_tools()).tools]
        assert listed == [
            *("approve", "status", "inspect", "template.get", "template.list"),
            *("export_bundle", "export_audit_package", "revoke_approval", "list"),
        ]
        error = await error_of(client, "request", goal="g")
        assert error["code"] == "SCOPE_MISSING"
        assert "scope request" in error["text"]
        assert (await error_of(client, "import_bundle", bundle="{}"))["code"] == "SCOPE_MISSING"
    async with caller(running, mode) as client:
        assert len((await client.list_tools()).tools) == 14


async def test_the_actor_is_the_subject_of_the_token_and_the_event_says_so(running: Running, mode: str) -> None:
    async with caller(running, mode) as client:
        request_id = (await answer(client, "request", goal="g"))["request_id"]
        events = (await answer(client, "status", request_id=request_id, include_events=True))["events"]
        assert events[0]["actor"] == ALICE
        assert (events[0]["payload"]["assurance"], events[0]["payload"]["channel"]) == ("authenticated", "mcp-http")
        for other in ({"type": "human", "id": "bob"}, {**ALICE, "type": "system"}, {"type": "human", "id": "alice"}):
            assert (await error_of(client, "request", goal="g", actor=other))["code"] == "ACTOR_MISMATCH"
        await answer(client, "request", goal="g", actor=ALICE)


async def test_a_client_that_acts_for_itself_is_a_system(running: Running, mode: str) -> None:
    async with caller(running, mode, subject="robot", client_id="robot") as client:
        request_id = (await answer(client, "request", goal="g"))["request_id"]
        events = (await answer(client, "status", request_id=request_id, include_events=True))["events"]
        assert events[0]["actor"] == {"type": "system", "id": f"{ISSUER}#robot"}


async def test_nobody_approves_what_the_same_token_holder_requested(running: Running, mode: str) -> None:
    async with caller(running, mode) as alice, caller(running, mode, subject="bob") as bob, caller(running, mode, subject="carol") as carol:
        request_id = (await answer(alice, "request", goal="g", mode="apply", plan=PLAN, min_approvals=2))["request_id"]
        assert (await error_of(alice, "approve", request_id=request_id))["code"] == "SELF_APPROVAL"
        assert (await error_of(alice, "approve", request_id=request_id, actor={"type": "human", "id": f"{ISSUER}#bob"}))[
            "code"
        ] == "ACTOR_MISMATCH"
        await answer(bob, "approve", request_id=request_id)
        assert (await error_of(bob, "approve", request_id=request_id))["code"] == "ALREADY_APPROVED"
        assert (await error_of(alice, "execute", request_id=request_id, adapter_id=ADAPTER))["code"] == "POLICY_VALIDATION_FAILED"
        assert (await answer(carol, "approve", request_id=request_id))["is_approved"] is True
        assert (await answer(alice, "execute", request_id=request_id, adapter_id=ADAPTER))["mode"] == "apply"


async def test_who_has_a_token_and_a_name_on_this_machine_does_not_approve_their_own_request(running: Running, mode: str) -> None:
    """One person, two ways in. What is noticed is the same name; two different names are two people here."""
    folder = running.folder
    async with caller(running, mode, subject="dora") as dora, caller(running, mode, subject="erik") as erik:
        by_token = (await answer(dora, "request", goal="g", mode="apply", plan=PLAN))["request_id"]
        by_terminal = CommandLine(folder, actor="dora").json("request", "g", "--mode", "apply", "--plan", PLAN)["request_id"]
        error = await error_of(dora, "approve", request_id=by_terminal)
        assert error["code"] == "SELF_APPROVAL"
        assert f"{ISSUER}#dora has the name of dora, who requested this" in error["text"]
        CommandLine(folder, actor="dora").json("approve", by_token)
        assert (await answer(dora, "status", request_id=by_token))["is_approved"] is False
        assert "SELF_APPROVAL" in (await error_of(dora, "execute", request_id=by_token, adapter_id=ADAPTER))["text"]
        two = (await answer(erik, "request", goal="g", min_approvals=2))["request_id"]
        CommandLine(folder, actor="dora").json("approve", two)
        assert (await answer(dora, "approve", request_id=two))["is_approved"] is True, "documented: approvals are counted by id"


async def test_a_session_belongs_to_the_one_who_opened_it_and_each_request_to_its_own_token(running: Running) -> None:
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opened = httpx.post(
        running.url, json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}, headers={**ACCEPT, **running.bearer()}
    )
    session = {**ACCEPT, "Mcp-Session-Id": opened.headers["Mcp-Session-Id"], "Mcp-Protocol-Version": "2025-11-25"}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "nexus-attest.request", "arguments": {"goal": "g"}}}
    stolen = httpx.post(running.url, json=call, headers={**session, **running.bearer(subject="mallory")})
    assert stolen.status_code in (403, 404)
    lesser = httpx.post(running.url, json=call, headers={**session, **running.bearer(scope="read")})
    assert "SCOPE_MISSING" in lesser.text, "the session was opened with more than this request's token allows"
    assert httpx.post(running.url, json=call, headers={**session, **running.bearer(exp=1)}).status_code == 401
    assert '"isError":true' not in httpx.post(running.url, json=call, headers={**session, **running.bearer()}).text


META: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
LEEWAY = 30
"""Seconds after its expiry for which a token is still taken."""


def opened_stream(running: Running, mode: str, token: dict[str, str]) -> Any:
    """A stream of changes as clients of this era open it."""
    if mode == "auto":
        listen = {"notifications": {"resourcesListChanged": True}, "_meta": META}
        routing = {"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": listen}
        return httpx.stream("POST", running.url, json=body, headers={**ACCEPT, **routing, **token}, timeout=30)
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
    opened = httpx.post(running.url, json=body, headers={**ACCEPT, **running.bearer()})
    session = {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"], "Mcp-Protocol-Version": "2025-11-25"}
    return httpx.stream("GET", running.url, headers={**ACCEPT, **session, **token}, timeout=30)


async def test_a_stream_ends_in_good_order_when_the_token_that_opened_it_expires(running: Running, mode: str) -> None:
    expiry = int(utc_now().timestamp()) + 6  # by when it must be open, on a busy machine too
    with opened_stream(running, mode, running.bearer(exp=expiry - LEEWAY)) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        list(stream.iter_lines())  # an end that is not that of the message would be an error
    assert expiry <= utc_now().timestamp() < expiry + 20


async def test_only_streams_end_with_their_token_and_what_begins_too_late_is_refused() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(0.05)
        await Response("done")(scope, receive, send)

    def body() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def status_of(method: str, expires_in: float) -> int:
        token = AccessToken(token="t", client_id="c", scopes=["read"], expires_at=int(utc_now().timestamp() + expires_in))
        headers = [(b"host", b"127.0.0.1")]
        scope: Scope = {"type": "http", "method": method, "path": "/mcp", "headers": headers, "user": AuthenticatedUser(token)}
        sent: list[Message] = []

        async def receive() -> Message:
            return body()

        async def send(message: Message) -> None:
            sent.append(message)

        await Gate(slow)(scope, receive, send)
        assert sent[-1].get("more_body") is not True
        return sent[0]["status"]

    assert await status_of("POST", -10) == 200  # a call is answered, whatever becomes of the token meanwhile
    assert await status_of("GET", 10) == 200
    assert await status_of("GET", -10) == 401


# -- options ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "nexus.example:0", "192.0.2.1:0"])
def test_without_tokens_nobody_else_can_reach_it(address: str) -> None:
    server: Any = None
    with pytest.raises(ServerConfigError, match="reached from outside"):
        http_app(server, parse_address(address))


def options_of(issuer: Issuer, folder: Path) -> list[str]:
    (folder / "keys.json").write_text(issuer.key_set())
    return ["--issuer", ISSUER, "--audience", AUDIENCE, "--jwks", str(folder / "keys.json")]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_with_a_token_is_taken_for_somebody_elsewhere_also_on_loopback(tmp_path: Path, issuer: Issuer, mode: str) -> None:
    """A proxy that ends TLS is on this machine, its clients are not: they learn neither where the store is nor of a page here."""
    with http_server(tmp_path, *options_of(issuer, tmp_path)) as (url, _):
        running = Running(url, issuer)
        async with caller(running, mode) as alice, caller(running, mode, subject="bob") as bob:
            request_id = (await answer(alice, "request", goal="g"))["request_id"]
            error = await error_of(bob, "approve", request_id=request_id)
        assert (error["code"], error["command"]) == ("HUMAN_REQUIRED", f"nexus-attest approve {request_id} --actor 'human:{ISSUER}#bob'")
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
        headers = {"accept": "application/json, text/event-stream", "x-forwarded-for": "192.0.2.1", **running.bearer()}
        assert httpx2.post(url, json=body, headers=headers).status_code == 200, "with a token a proxy is welcome"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["TOKENS", "--http", "127.0.0.1:0", "--approval-page"], "clients with tokens may be anywhere"),
        (["--actor-source", "token", "--http", "127.0.0.1:0"], "needs --http, --issuer"),
        (["--actor-source", "config", "--actor", "alice", "--http", "127.0.0.1:0"], "over HTTP"),
        (["--actor-source", "config"], "who is acting"),
        (["--actor", "alice"], "--actor is for"),
        (["--http", "127.0.0.1:0", "--issuer", ISSUER], "belong together"),
        (["TOKENS"], "give --http"),
        (["--http", "0.0.0.0:0"], "reached from outside"),
    ],
    ids=str,
)
def test_options_that_would_prove_nothing_are_refused(tmp_path: Path, issuer: Issuer, options: list[str], text: str) -> None:
    given = [word for option in options for word in (options_of(issuer, tmp_path) if option == "TOKENS" else [option])]
    done = subprocess.run(
        server_command(*given),
        env=server_environment(tmp_path),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stdout == ""
