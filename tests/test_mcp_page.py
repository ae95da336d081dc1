"""The page where a person answers: only its own form does, once, and the decision is recorded by the call that asked."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from mcp_testing import ALICE, BOB, HELLO, Lines, events_of, lines

from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.page import ApprovalPage
from nexus_control.store import DecisionStore

pytestmark = pytest.mark.anyio

TEXT = "Approve this action as human bob?\nGoal: <script>alert(1)</script> & more"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def page(listener: socket.socket) -> ApprovalPage:
    return ApprovalPage(listener)


def browser(page: ApprovalPage) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(page.app))


def form_of(text: str) -> dict[str, str]:
    """The hidden fields of a page's form."""
    return dict(re.findall(r'<input type="hidden" name="([a-z]+)" value="([^"]+)">', text))


# -- the page -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "answer"), [("yes", True), ("no", False)])
async def test_a_question_is_answered_by_its_form_once(page: ApprovalPage, said: str, answer: bool) -> None:
    url = page.address_of("state", TEXT)
    assert page.address_of("state", TEXT) == url
    async with browser(page) as client:
        shown = await client.get(url)
        assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in shown.text
        assert "<script" not in shown.text
        form = {**form_of(shown.text), "answer": said}
        assert (await client.post(url, data=form)).status_code == 200
        for again in (await client.get(url), await client.post(url, data={**form, "answer": "yes"})):
            assert again.status_code == 410
            assert form["key"] not in again.text
        assert await page.answer("another") is None
        assert await page.answer("state") is answer
        assert await page.answer("state") is None, "an answer is good for one approval"
        assert (await client.get(url)).status_code == 404
        assert page.address_of("state", TEXT) != url


async def test_looking_answers_nothing_and_tells_browsers_to_be_careful(page: ApprovalPage) -> None:
    url = page.address_of("state", TEXT)
    async with browser(page) as client:
        key = form_of((await client.get(url)).text)["key"]
        shown = await client.get(f"{url}?answer=yes&key={key}")
        assert (await client.head(url)).status_code == 200
        assert (await client.put(url)).status_code == 405
    assert await page.answer("state") is None
    policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    assert shown.headers["content-security-policy"] == policy
    assert (shown.headers["x-frame-options"], shown.headers["referrer-policy"]) == ("DENY", "no-referrer")
    assert shown.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "fields", "status"),
    [
        ({}, {"key": "wrong"}, 403),
        ({}, {"key": ""}, 403),
        ({}, {"key": "\u00e9"}, 403),
        ({}, {"answer": ""}, 403),
        ({}, {"answer": "YES"}, 403),
        ({}, {"answer": ["yes", "no"]}, 403),
        ({}, {"more": "x" * 5_000}, 403),
        ({"origin": "https://evil.example"}, {}, 403),
        ({"origin": "http://127.0.0.1:1"}, {}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "null"}, {}, 403),
        ({"sec-fetch-site": "same-site"}, {}, 403),
        ({"host": "localhost"}, {}, 421),
        ({"host": "evil.example"}, {}, 421),
        ({"content-type": "text/plain"}, {}, 200),  # programs may; browsers send the form as it is
    ],
)
async def test_nothing_but_the_form_of_this_page_answers(
    page: ApprovalPage, headers: dict[str, str], fields: dict[str, Any], status: int
) -> None:
    url = page.address_of("state", TEXT)
    async with browser(page) as client:
        form = form_of((await client.get(url)).text)
        found = await client.post(url, data={**form, "answer": "yes", **fields}, headers=headers)
    assert found.status_code == status
    assert (await page.answer("state") is True) == (status == 200)


@pytest.mark.parametrize("body", [b"", b"%", b"\xff\xfe", b"&" * 4_000, b"=" * 4_000, b"key=a" * 2_000], ids=lambda body: repr(body[:8]))
async def test_a_body_that_is_no_form_answers_nothing(page: ApprovalPage, body: bytes) -> None:
    url = page.address_of("state", TEXT)
    async with browser(page) as client:
        assert (await client.post(url, content=body)).status_code == 403
        assert (await client.get(f"{url}x")).status_code == 404
    assert await page.answer("state") is None


async def test_a_question_is_open_for_a_while_and_so_are_many(listener: socket.socket) -> None:
    page = ApprovalPage(listener, seconds=0.05)
    url = page.address_of("state", TEXT)
    async with browser(page) as client:
        form = {**form_of((await client.get(url)).text), "answer": "yes"}
        await anyio.sleep(0.06)
        assert (await client.post(url, data=form)).status_code == 404
        page = ApprovalPage(listener)
        urls = [page.address_of(str(number), TEXT) for number in range(300)]
    async with browser(page) as client:
        assert [(await client.get(url)).status_code for url in (urls[0], urls[-1])] == [404, 200]


async def test_one_of_several_who_wait_gets_the_answer(page: ApprovalPage) -> None:
    url = page.address_of("state", TEXT)
    heard: list[bool | None] = []

    async def wait() -> None:
        heard.append(await page.answer("state", 5))

    async with browser(page) as client, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        form = {**form_of((await client.get(url)).text), "answer": "yes"}
        await client.post(url, data=form)
    assert sorted(heard, key=str) == [None, None, True]


# -- with a server ------------------------------------------------------------------------------------------------------------------

OPTIONS = ("--human-approval", "always", "--approval-page", "--log-level", "warning")
META: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
URL_ONLY: dict[str, Any] = {"elicitation": {"url": {}}}


def answered(url: str, said: str) -> None:
    """What a person does in a browser."""
    form = form_of(httpx.get(url).text)
    assert httpx.post(url, data={**form, "answer": said}, headers={"origin": "null", "sec-fetch-site": "same-origin"}).status_code == 200


def called(server: Lines, number: int, tool: str, arguments: dict[str, Any], capabilities: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The result of a call in the stateless era."""
    params = {"name": f"nexus-attest.{tool}", "arguments": arguments, "_meta": {**META, CAPABILITIES: capabilities}, **more}
    server.send({"id": number, "method": "tools/call", "params": params})
    result: dict[str, Any] = server.receive()["result"]
    return result


def requested(server: Lines, capabilities: dict[str, Any]) -> dict[str, Any]:
    """A request, and the arguments of bob's approval of it."""
    made = called(server, 0, "request", {"goal": "g", "actor": ALICE}, capabilities)
    return {"request_id": made["structuredContent"]["request_id"], "actor": BOB}


def channel_of(folder: Path, request_id: str) -> str:
    with DecisionStore(folder / "decisions.db") as store:
        found: str = store.get_events(request_id)[-1].payload["channel"]
        return found


@pytest.mark.parametrize("said", ["yes", "no"])
async def test_a_client_that_cannot_ask_names_the_page_and_asks_again(tmp_path: Path, said: str) -> None:
    with lines(tmp_path, *OPTIONS) as server:
        approval = requested(server, {})
        pending = called(server, 1, "approve", approval, {})
        error = pending["_meta"]["io.github.nexus-attest/error"]
        assert error["code"] == "APPROVAL_PENDING"
        assert f"{error['url']} , the command `{error['command']}`. Show the user that page" in pending["content"][0]["text"]
        again = called(server, 2, "approve", approval, {})
        assert again["_meta"]["io.github.nexus-attest/error"]["url"] == error["url"]
        answered(error["url"], said)
        result = called(server, 3, "approve", approval, {})
    if said == "yes":
        assert result["structuredContent"]["is_approved"] is True
        assert re.fullmatch(r"mcp page sha256:[0-9a-f]{64}", channel_of(tmp_path, approval["request_id"]))
    else:
        assert result["_meta"]["io.github.nexus-attest/error"]["code"] == "HUMAN_DECLINED"
        assert "APPROVAL_GRANTED" not in events_of(tmp_path)[approval["request_id"]]


@pytest.mark.parametrize(("action", "code"), [("accept", None), ("decline", "HUMAN_DECLINED"), ("cancel", "APPROVAL_PENDING")])
async def test_a_client_of_the_stateless_era_opens_the_page(tmp_path: Path, action: str, code: str | None) -> None:
    with lines(tmp_path, *OPTIONS) as server:
        approval = requested(server, URL_ONLY)
        asked = called(server, 1, "approve", approval, URL_ONLY)
        (question,) = asked["inputRequests"].values()
        assert (question["method"], question["params"]["mode"]) == ("elicitation/create", "url")
        if action == "accept":
            answered(question["params"]["url"], "yes")
        responses = {key: {"action": action} for key in asked["inputRequests"]}
        result = called(server, 2, "approve", approval, URL_ONLY, inputResponses=responses, requestState=asked["requestState"])
    error = result.get("_meta", {}).get("io.github.nexus-attest/error", {})
    assert error.get("code") == code
    assert ("APPROVAL_GRANTED" in events_of(tmp_path)[approval["request_id"]]) is (code is None)


async def test_a_client_of_the_handshake_era_opens_the_page(tmp_path: Path) -> None:
    with lines(tmp_path, *OPTIONS) as server:
        server.send({"id": 0, "method": "initialize", "params": {**HELLO, "capabilities": URL_ONLY}})
        server.receive()
        server.send({"method": "notifications/initialized"})
        server.call(1, "request", goal="g", actor=ALICE)
        request_id = server.receive()["result"]["structuredContent"]["request_id"]
        server.call(2, "approve", request_id=request_id, actor=BOB)
        question = server.receive()
        assert (question["method"], question["params"]["mode"]) == ("elicitation/create", "url")
        server.send({"id": question["id"], "result": {"action": "accept"}})  # opened; the person takes a moment
        answered(question["params"]["url"], "yes")
        assert server.receive()["result"]["structuredContent"]["is_approved"] is True
        code, _, _ = server.end()
    assert code == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--approval-page",),
        ("--approval-page", "--human-approval", "never"),
    ],
)
def test_a_page_that_nobody_would_see_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    with lines(tmp_path, *options) as server:
        code, rest, errors = server.end()
    assert (code, rest) == (2, [])
    assert ServerConfigError.code in errors
