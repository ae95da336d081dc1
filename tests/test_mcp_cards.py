"""The approval card: what hosts with MCP Apps get, what its answers are good for, and how it behaves in a browser."""

import json
import re
import threading
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from browser_testing import Browser, browser
from cli_testing import CommandLine
from jsonschema import Draft202012Validator, ValidationError
from mcp import Client, MCPError
from mcp.client.context import ClientRequestContext
from mcp.client.extension import ClientExtension
from mcp.types import ElicitRequestParams, ElicitResult
from mcp_testing import (
    ALICE,
    ALWAYS,
    BOB,
    CONNECTIONS,
    HELLO,
    PLAN,
    Lines,
    answer,
    confirming,
    connected,
    declaring,
    error_of,
    in_process,
    lines,
    replacement,
    requested,
)
from node_testing import ROOT, npm_folder
from tasks_testing import Tasks

from nexus_attest.server.app import build_server
from nexus_attest.server.card_page import CARD_HTML
from nexus_attest.server.cards import CARD_KEY, CARD_URI, EXTENSION
from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.results import ERROR_KEY, failure
from nexus_attest.server.service import Service
from nexus_control.errors import StoreBusy
from nexus_control.events import EventType
from nexus_control.integrity import content_digest
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

pytestmark = pytest.mark.anyio

OPTIONS = (*ALWAYS, "--approval-card")
MIME_TYPE = "text/html;profile=mcp-app"
META = declaring(extensions={EXTENSION: {"mimeTypes": [MIME_TYPE]}})
MODES = ["auto", "legacy"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Cards(ClientExtension):
    """A client that shows cards."""

    identifier = EXTENSION

    def settings(self) -> dict[str, Any]:
        return {"mimeTypes": [MIME_TYPE]}


class OtherDocuments(Cards):
    """A client that shows documents of other kinds."""

    def settings(self) -> dict[str, Any]:
        return {"mimeTypes": ["text/html"]}


def offering(service: Service) -> None:
    """What OPTIONS are for a server process."""
    confirming(service)
    service.approval_card = True


@asynccontextmanager
async def showing(connection: str, folder: Path, **more: Any) -> AsyncGenerator[Client]:
    """A client that shows cards."""
    given: dict[str, Any] = {"extensions": [Cards()], **more}
    async with connected(connection, folder, *OPTIONS, prepare=offering, **given) as client:
        yield client


class Shown(NamedTuple):
    """A client that shows cards, and the folder of its server."""

    client: Client
    folder: Path


@pytest.fixture(scope="module", params=CONNECTIONS)
async def shown(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    async with showing(request.param, folder) as client:
        yield Shown(client, folder)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def near(mode: str, folder: Path, **more: Any) -> AsyncGenerator[Client]:
    """The same client in this process, where the store can be made to fail."""
    async with showing({"auto": "memory-stateless", "legacy": "memory-handshake"}[mode], folder, **more) as client:
        yield client


async def carded(client: Client, request_id: str, **more: Any) -> dict[str, Any]:
    """The card that comes with the refusal of an approval."""
    result = await client.call_tool("nexus-attest.approve", {"request_id": request_id, "actor": BOB, **more})
    assert result.is_error
    assert result.meta is not None
    assert result.meta[ERROR_KEY]["code"] == "HUMAN_REQUIRED"
    card: dict[str, Any] = result.meta[CARD_KEY]
    (block,) = result.content
    assert block.type == "text"
    assert card["ticket"] not in block.text, "what the model reads"
    return card


def events(folder: Path, request_id: str) -> list[Any]:
    with DecisionStore(folder / "decisions.db") as store:
        return list(store.get_events(request_id))


# -- what clients get to see --------------------------------------------------------------------------------------------------------


async def test_an_approval_is_answered_on_a_card(shown: Shown) -> None:
    client, folder = shown
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert (tools["nexus-attest.approve"].meta or {})["ui"] == {"resourceUri": CARD_URI, "visibility": ["model", "app"]}
    assert (tools["nexus-attest.answer_approval"].meta or {})["ui"] == {"visibility": ["app"]}
    (document,) = (await client.read_resource(CARD_URI)).contents
    assert (document.uri, document.mime_type, document.meta) == (CARD_URI, MIME_TYPE, {"ui": {"csp": {}, "prefersBorder": True}})
    assert getattr(document, "text", None) == CARD_HTML
    request_id = await requested(client)
    card = await carded(client, request_id, comment="checked")
    done = await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})
    assert (done.structured_content or {})["is_approved"] is True
    event = events(folder, request_id)[-1]
    assert event.payload["comment"] == "checked"
    assert event.payload["assurance"] == "asserted", "a card says no more about who sits there than any call"
    text = "\n".join(f"{label}: {value}" for label, value in [["Question", card["title"]], *card["facts"]])
    assert re.fullmatch(rf"mcp(-http)? app \S+ sha256:{sha256(text.encode()).hexdigest()}", event.payload["channel"])


@pytest.mark.parametrize("connection", ["memory-stateless", "memory-handshake"])
@pytest.mark.parametrize("extensions", [[], [OtherDocuments()]], ids=["none", "others"])
async def test_for_other_clients_nothing_is_different(connection: str, extensions: list[Any], tmp_path: Path) -> None:
    lists: list[str] = []
    for number, prepare in enumerate((confirming, offering)):
        (tmp_path / str(number)).mkdir()
        async with connected(connection, tmp_path / str(number), prepare=prepare, extensions=extensions) as client:
            lists.append((await client.list_tools()).model_dump_json())
    assert lists[0] == lists[1]
    async with showing(connection, tmp_path, extensions=extensions) as client:
        result = await client.call_tool("nexus-attest.approve", {"request_id": await requested(client), "actor": BOB})
        assert (result.meta or {})[ERROR_KEY]["code"] == "HUMAN_REQUIRED"
        assert CARD_KEY not in (result.meta or {})
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("nexus-attest.answer_approval", {"ticket": "x", "approve": True})


@pytest.mark.parametrize("connection", ["memory-stateless", "memory-handshake"])
async def test_without_the_option_there_are_no_cards(connection: str, tmp_path: Path) -> None:
    async with connected(connection, tmp_path, extensions=[Cards()]) as client:
        assert "ui" not in json.dumps([tool.meta for tool in (await client.list_tools()).tools])
        for call in (client.read_resource(CARD_URI), client.call_tool("nexus-attest.answer_approval", {"ticket": "x", "approve": True})):
            with pytest.raises(MCPError):
                await call


async def test_a_client_that_shows_cards_and_takes_tasks_gets_the_card(tmp_path: Path, mode: str) -> None:
    async with near(mode, tmp_path, extensions=[Cards(), Tasks()]) as client:
        assert (await carded(client, await requested(client)))["ticket"]


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_a_client_that_shows_forms_is_asked_by_a_form(connection: str, tmp_path: Path) -> None:
    asked: list[str] = []

    async def ask(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        assert context.request_id is not None
        asked.append(params.message)
        return ElicitResult(action="accept", content={"approve": True})

    async with showing(connection, tmp_path, elicitation_callback=ask) as client:
        assert (await answer(client, "approve", request_id=await requested(client), actor=BOB))["is_approved"] is True
    assert len(asked) == 1


async def test_the_card_shows_what_is_asked_in_whose_name_and_how_that_is_known(shown: Shown) -> None:
    client, _ = shown
    goal = "Rotate\nGoal: nothing\x1b[2J<script>alert(1)</script>"
    request_id = await requested(client, goal=goal, min_approvals=2, max_steps=3, allowed_modes=["apply"], labels=["prod"])
    card = await carded(client, request_id, expires_at="2999-01-01T00:00:00+00:00")
    facts = dict(card["facts"])
    assert card["title"] == "Approve this action as human bob?"
    assert facts["Goal"] == "Rotate\\x0aGoal: nothing\\x1b[2J<script>alert(1)</script>"
    assert facts["Mode"] == "apply (approvals needed: 2)"
    assert facts["Plan"] == PLAN
    assert facts["Step 1"] == f"t/m, arguments sha256:{content_digest({'key': 'k1'})}"
    assert facts["Policy"] == "modes apply; at most 3 steps; label prod"
    assert facts["Requested by"] == "human alice"
    assert facts["Asked"] in ("asserted, through mcp", "asserted, through mcp-http")
    assert facts["Your identity is"] == "asserted"
    assert facts["Until"] == "2999-01-01T00:00:00+00:00"
    assert facts["Decision"].startswith(f"{request_id}, action sha256:")
    assert not re.search(r"[\x00-\x1f\x7f]", json.dumps(card["facts"], ensure_ascii=False))


async def test_the_card_of_a_log_without_a_request_takes_no_other_event_for_one(shown: Shown) -> None:
    client, folder = shown
    with DecisionStore(folder / "decisions.db") as store:
        request_id = store.create_decision()
        store.append_event(request_id, EventType.APPROVAL_GRANTED, ALICE, {"assurance": "asserted", "channel": "cli"})
        store.append_event(request_id, EventType.POLICY_ATTACHED, ALICE, {"min_approvals": 2})
    facts = dict((await carded(client, request_id))["facts"])
    assert facts["Requested by"] == "unknown"
    assert "Asked" not in facts


@pytest.mark.parametrize("plan", [None, "prose", "[]", '[{"tool": 1}]', '[{"tool":"t","method":"m"}'], ids=str)
async def test_a_plan_that_is_no_list_of_steps_is_shown_as_it_is(shown: Shown, plan: str | None) -> None:
    client, _ = shown
    card = await carded(client, await requested(client, mode="dry_run", **({} if plan is None else {"plan": plan})))
    facts = dict(card["facts"])
    if plan is not None:
        assert facts["Plan"] == plan
        assert "Step 1" not in facts


async def test_a_plan_that_is_too_long_for_a_card_says_how_much_is_left_out_and_where_it_is(shown: Shown) -> None:
    client, folder = shown
    plan = json.dumps([{"tool": "t", "method": "m", "args": {"text": "x" * 3_000}}])
    request_id = await requested(client, plan=plan)
    facts = dict((await carded(client, request_id))["facts"])
    left_out = f"... ({len(plan) - 2_000} of {len(plan)} characters are left out here: `nexus-attest status {request_id} --json"
    assert facts["Plan"].startswith(f"{plan[:2_000]} {left_out}")
    assert facts["Plan"].endswith("` shows all of it)")
    assert CommandLine(folder).json("status", request_id)["plan"] == plan
    assert facts["Step 1"].endswith(content_digest({"text": "x" * 3_000})), "and what is left out is in the digest"


async def test_a_plan_of_many_steps_says_how_many_are_not_shown(shown: Shown) -> None:
    client, _ = shown
    plan = json.dumps([{"tool": "t", "method": f"m{number}"} for number in range(25)])
    facts = (await carded(client, await requested(client, plan=plan)))["facts"]
    assert ["And", "5 more steps; read them with inspect"] in facts
    assert not any(label == "Step 21" for label, _ in facts)


# -- what an answer is good for -----------------------------------------------------------------------------------------------------


async def test_a_refusal_on_the_card_is_told_to_the_model_once_and_approves_nothing(shown: Shown) -> None:
    client, folder = shown
    request_id = await requested(client)
    card = await carded(client, request_id)
    said = await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": False})
    assert (said.meta or {})[ERROR_KEY]["code"] == "HUMAN_DECLINED"
    with pytest.raises(MCPError):
        await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})
    assert (await error_of(client, "approve", request_id=request_id, actor=BOB))["code"] == "HUMAN_DECLINED"
    again = await carded(client, request_id)
    assert again["ticket"] != card["ticket"]
    assert len(events(folder, request_id)) == 2


async def test_a_ticket_is_good_for_one_answer_to_the_question_that_was_shown(shown: Shown) -> None:
    client, folder = shown
    request_id = await requested(client)
    card = await carded(client, request_id)
    assert (await carded(client, request_id))["ticket"] == card["ticket"], "the same card for the same question"
    comments = ["x", *(f"{'x' * 2_000}{tail}" for tail in "yz")]
    others = [(await carded(client, request_id, comment=comment))["ticket"] for comment in comments]
    assert len({card["ticket"], *others}) == 4, "also where the comments only differ in what a card has no room for"
    with DecisionStore(folder / "decisions.db") as store:
        event = store.get_events(request_id)[1]
        store.append_event(request_id, event.event_type, event.actor, {**event.payload, "min_approvals": 2})
    said = await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})
    assert (said.meta or {})[ERROR_KEY]["code"] == "ACTION_CHANGED"
    assert [event.event_type.value for event in events(folder, request_id)].count("APPROVAL_GRANTED") == 0
    card = await carded(client, request_id)
    await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})
    with pytest.raises(MCPError, match="was answered, or is out of date"):
        await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})
    with DecisionStore(folder / "decisions.db") as store:
        assert NexusControlTools(store).revoke_approval(request_id, BOB).success
    assert (await carded(client, request_id))["ticket"] != card["ticket"], "what was taken back needs another answer"


async def test_a_yes_on_a_card_is_never_recorded_for_an_action_that_takes_the_place_of_the_one_there(tmp_path: Path, mode: str) -> None:
    with in_process(tmp_path, extra_tools=True) as service:
        offering(service)
        approve, overwriting = service.tools.approve, threading.Event()

        def overwrite() -> None:
            with DecisionStore(tmp_path / "decisions.db") as store:
                assert NexusControlTools(store).import_bundle(bundle, conflict_mode="overwrite").success
            overwriting.set()

        def slow(*args: Any, **given: Any) -> Any:
            threading.Thread(target=overwrite).start()
            overwriting.wait(0.3)  # which it would have done by now, if it were not made to wait
            return approve(*args, **given)

        service.tools.approve = slow  # pyright: ignore[reportAttributeAccessIssue]
        async with Client(build_server(service), mode=mode, extensions=[Cards()]) as client:
            request_id = await requested(client)
            bundle = replacement(tmp_path, request_id)
            card = await carded(client, request_id)
            said = await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})
            assert (said.structured_content or {})["is_approved"] is True, "of the action that was shown"
            assert overwriting.wait(20)
            standing = await answer(client, "status", request_id=request_id)
            assert (standing["goal"], standing["active_approvals"]) == ("Something else", 0)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"ticket": "x"},
        {"ticket": 5, "approve": True},
        {"ticket": "x", "approve": "yes"},
        {"ticket": "x", "approve": 1},
        {"ticket": "x" * 100, "approve": True},
        {"ticket": "x", "approve": True, "actor": BOB},
    ],
    ids=str,
)
async def test_nonsense_answers_nothing(shown: Shown, arguments: dict[str, Any]) -> None:
    client, _ = shown
    result = await client.call_tool("nexus-attest.answer_approval", arguments)
    assert (result.meta or {})[ERROR_KEY]["code"] == "INVALID_ARGUMENTS"


async def test_a_guessed_ticket_is_none(shown: Shown) -> None:
    client, _ = shown
    ticket = (await carded(client, await requested(client)))["ticket"]
    assert len(ticket) == 32
    for guessed in ("", "x", ticket[:-1], ticket.swapcase(), f"{ticket} "):
        with pytest.raises(MCPError) as caught:
            await client.call_tool("nexus-attest.answer_approval", {"ticket": guessed, "approve": True})
        assert caught.value.error.code == -32602


async def test_of_many_cards_a_callers_oldest_makes_room_for_its_next(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_attest.server.cards._MOST_OPEN", 3)
    async with near(mode, tmp_path) as client:
        cards = [await carded(client, await requested(client)) for _ in range(4)]
        for card, known in zip(cards, (False, True, True, True), strict=True):
            if known:
                assert not (await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})).is_error
            else:
                with pytest.raises(MCPError):
                    await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})


async def test_no_number_of_cards_pushes_out_those_of_other_callers(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = "alice"

    def owner(**_: bool) -> str:
        return caller

    monkeypatch.setattr("nexus_attest.server.cards._MOST_OPEN", 3)
    monkeypatch.setattr("nexus_attest.server.cards.owner", owner)
    async with near(mode, tmp_path) as client:
        first = await carded(client, await requested(client))
        caller = "mallory"
        many = [await carded(client, await requested(client)) for _ in range(5)]
        caller = "bob"
        result = await client.call_tool("nexus-attest.approve", {"request_id": await requested(client), "actor": BOB})
        assert (result.meta or {})[ERROR_KEY]["code"] == "HUMAN_REQUIRED"
        assert CARD_KEY not in (result.meta or {}), "there is no room"
        for name, card in (("alice", first), ("mallory", many[-1]), ("mallory", many[-2])):
            caller = name
            assert not (await client.call_tool(card["tool"], {"ticket": card["ticket"], "approve": True})).is_error


@pytest.mark.parametrize("method", ["append_event", "get_events"])
async def test_a_yes_that_could_not_be_recorded_can_be_said_again(
    tmp_path: Path, mode: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any, **__: Any) -> Any:
        raise StoreBusy(f"{tmp_path}: database is locked")

    async with near(mode, tmp_path) as client:
        request_id = await requested(client)
        card = await carded(client, request_id)
        yes = {"ticket": card["ticket"], "approve": True}
        with monkeypatch.context() as patched:
            patched.setattr(DecisionStore, method, busy)
            said = await client.call_tool(card["tool"], yes)
        error = (said.meta or {})[ERROR_KEY]
        assert (error["code"], error["retryable"], error["message"]) == ("STORE_BUSY", True, "the store is busy")
        assert (await client.call_tool(card["tool"], yes)).structured_content is not None
        with pytest.raises(MCPError):
            await client.call_tool(card["tool"], yes)
        assert [event.event_type.value for event in events(tmp_path, request_id)].count("APPROVAL_GRANTED") == 1


@pytest.mark.parametrize("options", [("--approval-card",), ("--approval-card", "--human-approval", "never")])
def test_cards_that_nobody_would_see_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    with lines(tmp_path, *options) as server:
        code, rest, errors = server.end()
    assert (code, rest) == (2, [])
    assert ServerConfigError.code in errors


def test_in_the_handshake_era_a_client_declares_it_when_it_connects(tmp_path: Path) -> None:
    with lines(tmp_path, *OPTIONS, "--log-level", "error") as server:
        server.send(
            {"id": 0, "method": "initialize", "params": {**HELLO, "capabilities": {"extensions": {EXTENSION: {"mimeTypes": [MIME_TYPE]}}}}}
        )
        server.receive()
        server.send({"method": "notifications/initialized"})
        server.call(1, "request", goal="g", actor=ALICE)
        request_id = server.receive()["result"]["structuredContent"]["request_id"]
        server.call(2, "approve", request_id=request_id, actor=BOB)
        card = server.receive()["result"]["_meta"][CARD_KEY]
        server.call(3, "answer_approval", ticket=card["ticket"], approve=True)
        assert server.receive()["result"]["structuredContent"]["is_approved"] is True


# -- in a browser -------------------------------------------------------------------------------------------------------------------


def test_the_document_allows_its_own_style_and_script_and_nothing_else() -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', CARD_HTML)
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    for name in ("style", "script"):
        (text,) = re.findall(rf"<{name}>(.*?)</{name}>", CARD_HTML, re.DOTALL)
        assert parts.pop(f"{name}-src") == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    assert parts == {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"}
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval|https?://|src=|href=", CARD_HTML)


HOST = """<!doctype html><meta charset="utf-8"><title>host</title><body><script>
"use strict";
window.heard = [];
const frame = document.createElement("iframe");
frame.sandbox = "allow-scripts";
frame.width = 800; frame.height = 600;
const send = (message) => frame.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
const ask = async (path, body) => (await fetch(path, { method: "POST", body: JSON.stringify(body || {}) })).json();
window.show = async () => send({ method: "ui/notifications/tool-result", params: await ask("/approve") });
window.send = send;
addEventListener("message", async (event) => {
  if (event.source !== frame.contentWindow) return;
  const message = event.data;
  window.heard.push(message);
  const reply = (result) => send({ id: message.id, result });
  if (message.method === "ui/initialize")
    reply({ protocolVersion: "2026-01-26", hostInfo: { name: "host", version: "1" }, hostContext: {},
            hostCapabilities: { serverTools: {}, updateModelContext: { text: {} } } });
  else if (message.method === "ui/notifications/initialized") await window.show();
  else if (message.method === "tools/call") reply(await ask("/call", message.params));
  else if (message.method === "ui/update-model-context") reply({});
});
fetch("/card").then((found) => found.text()).then((html) => { frame.srcdoc = html; document.body.append(frame); });
</script>"""


class Host:
    """A small host of MCP Apps: a page, and what stands behind it, a client of our server."""

    def __init__(self, server: Lines, goal: str) -> None:
        made = server.ask(
            "tools/call", META, name="nexus-attest.request", arguments={"goal": goal, "actor": ALICE, "plan": PLAN, "mode": "apply"}
        )
        self.request_id: str = made["structuredContent"]["request_id"]
        self.server = server
        self.lock = threading.Lock()
        self.busy = 0
        """So many answers on the card the store is too busy for."""

    def answer(self, path: str, body: dict[str, Any]) -> tuple[str, str]:
        with self.lock:
            if path == "/card":
                return "text/plain", self.server.ask("resources/read", META, uri=CARD_URI)["contents"][0]["text"]
            if path == "/approve":
                body = {"name": "nexus-attest.approve", "arguments": {"request_id": self.request_id, "actor": BOB}}
            if path == "/call" and self.busy:
                self.busy -= 1
                return "application/json", json.dumps(failure("STORE_BUSY", "database is locked"))
            if path in ("/approve", "/call"):
                return "application/json", json.dumps(self.server.ask("tools/call", META, **body))
        return "text/html", HOST


@contextmanager
def page_of(host: Host) -> Generator[str]:
    """The address of the host's page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*host.answer(self.path, {}))

        def do_POST(self) -> None:
            self._send(*host.answer(self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))

        def _send(self, kind: str, text: str) -> None:
            self.send_response(200)
            self.send_header("content-type", f"{kind}; charset=utf-8")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}/"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Generator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


def until(window: Browser, script: str) -> Any:
    """What a script returns as soon as it is something."""
    end = time.monotonic() + 60
    while not (found := window.run(f"return {script}")):
        assert time.monotonic() < end, script
        time.sleep(0.05)
    return found


EVIL = '</script></dd><img src=x onerror="parent.hacked=1"><script>hacked=1</script>'


@pytest.mark.parametrize(("button", "said", "approvals"), [("#yes", "Approved", 1), ("#no", "HUMAN_DECLINED", 0)])
def test_a_person_answers_in_a_browser(window: Browser, tmp_path: Path, button: str, said: str, approvals: int) -> None:
    with lines(tmp_path, *OPTIONS, "--log-level", "error") as server:
        host = Host(server, EVIL)
        with page_of(host) as url:
            window.go(url)
            until(window, "document.querySelector('iframe')")
            window.enter("iframe")
            shown = until(window, "document.querySelector('#facts').textContent")
            assert EVIL in shown, "as text"
            assert f"t/m, arguments sha256:{content_digest({'key': 'k1'})}" in shown
            assert window.run("return [document.querySelectorAll('img').length, document.scripts.length, window.hacked]") == [0, 1, None]
            assert (
                window.run(
                    "const made = document.createElement('script'); made.textContent = 'window.hacked = 1';"
                    "document.body.append(made); return window.hacked"
                )
                is None
            ), "its policy lets no other script run"
            window.run("document.querySelector('#yes').disabled = false; document.querySelector('#yes').click()")
            assert len(events(tmp_path, host.request_id)) == 2, "a script's click is none"
            until(window, "!document.querySelector('#no').disabled")
            window.click(button)
            assert said in until(window, "(text => text !== '...' && text)(document.querySelector('#said').textContent)")
            assert window.run("return [document.querySelector('#answers').hidden, document.querySelector('#yes').disabled]") == [True, True]
            window.leave()
            heard = until(window, "heard.some(one => one.method === 'ui/update-model-context') && heard")
            assert [one["params"]["arguments"]["approve"] for one in heard if one["method"] == "tools/call"] == [approvals == 1]
            assert until(window, "window.hacked === undefined")
        found = events(tmp_path, host.request_id)
    assert len(found) == 2 + approvals
    if approvals:
        assert found[-1].payload["channel"].startswith("mcp app ")


def test_an_answer_that_the_store_was_too_busy_for_can_be_given_again_on_the_card(window: Browser, tmp_path: Path) -> None:
    with lines(tmp_path, *OPTIONS, "--log-level", "error") as server:
        host = Host(server, "g")
        host.busy = 1
        with page_of(host) as url:
            window.go(url)
            until(window, "document.querySelector('iframe')")
            window.enter("iframe")
            for said in ("STORE_BUSY", "Approved"):
                until(window, "document.querySelector('#yes') && !document.querySelector('#yes').disabled")
                window.click("#yes")
                until(window, f"document.querySelector('#said').textContent.includes('{said}')")
            assert window.run("return document.querySelector('#answers').hidden") is True
    assert len(events(tmp_path, host.request_id)) == 3


def test_what_the_card_says_to_its_host_satisfies_the_schemas_of_mcp_apps(window: Browser, tmp_path: Path) -> None:
    schemas = json.loads(
        (npm_folder(ROOT / "tests" / "interop") / "@modelcontextprotocol/ext-apps/dist/src/generated/schema.json").read_text()
    )
    of_method: dict[str, Any] = {
        schema["properties"]["method"]["const"]: Draft202012Validator(schema)
        for name, schema in schemas["$defs"].items()
        if name.endswith(("Request", "Notification")) and "method" in schema.get("properties", {})
    }
    with lines(tmp_path, *OPTIONS, "--log-level", "error") as server, page_of(Host(server, "g")) as url:
        window.go(url)
        until(window, "document.querySelector('iframe')")
        window.enter("iframe")
        until(window, "document.querySelector('#yes') && !document.querySelector('#yes').disabled")
        window.click("#yes")
        window.leave()
        until(window, "heard.some(one => one.method === 'ui/notifications/size-changed')")
        heard = until(window, "heard.some(one => one.method === 'ui/update-model-context') && heard")
    said = [{name: value for name, value in one.items() if name not in ("jsonrpc", "id")} for one in heard if one["method"] in of_method]
    methods = {one["method"] for one in said}
    assert methods == {"ui/initialize", "ui/notifications/initialized", "ui/notifications/size-changed", "ui/update-model-context"}
    for one in said:
        of_method[one["method"]].validate(one)
    with pytest.raises(ValidationError):
        of_method["ui/initialize"].validate({"method": "ui/initialize", "params": {}})


def test_a_card_without_a_question_has_no_buttons_and_answers_the_host(window: Browser, tmp_path: Path) -> None:
    with lines(tmp_path, *OPTIONS, "--log-level", "error") as server, page_of(Host(server, "g")) as url:
        window.go(url)
        until(window, "heard.some(one => one.method === 'ui/notifications/initialized')")
        for number, (method, ok) in enumerate((("ping", True), ("ui/resource-teardown", True), ("tools/list", False)), 70):
            window.run(f"send({{ id: {number}, method: '{method}', params: {{}} }})")
            reply = until(window, f"heard.find(one => one.id === {number} && one.method === undefined)")
            assert ("result" in reply) is ok
        for nonsense in (
            "{}",
            "{ _meta: null }",
            f"{{ _meta: {{ '{CARD_KEY}': {{ facts: 5 }} }} }}",
            "{ content: [{ type: 'text', text: 'done' }] }",
        ):
            window.run(f"send({{ method: 'ui/notifications/tool-result', params: {nonsense} }})")
        window.enter("iframe")
        until(window, "document.querySelector('#said').textContent === 'done'")
        assert window.run("return [document.querySelector('#answers').hidden, document.querySelector('#facts').children.length]") == [
            True,
            0,
        ]
