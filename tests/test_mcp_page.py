"""The page where a person answers: only its own form does, once, and the decision is recorded by the call that asked."""

import re
import socket
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from mcp import Client, MCPError
from mcp.client.context import ClientRequestContext
from mcp.types import ElicitRequestParams, ElicitRequestURLParams, ElicitResult
from mcp_testing import ALICE, BOB, CONNECTIONS, answer, connected, error_of, in_process, lines, replacement
from page_testing import PAGE, answered, form_of, with_page
from tasks_testing import Tasks, cancel, deferred, get

from nexus_attest.server.app import build_server
from nexus_attest.server.errors import ServerConfigError
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.page import ApprovalPage
from nexus_attest.server.results import ERROR_KEY
from nexus_attest.server.service import Service
from nexus_control.errors import StoreBusy
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


def address(page: ApprovalPage) -> str:
    found = page.address_of("state", TEXT)
    assert found is not None
    return found


# -- the page -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "answer"), [("yes", True), ("no", False)])
async def test_a_question_is_answered_by_its_form_once(page: ApprovalPage, said: str, answer: bool) -> None:
    url = address(page)
    assert address(page) == url
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
        assert await page.answer("state") is answer, "it may have been lost before it was recorded"
        page.close("state")
        assert await page.answer("state") is None, "an answer is good for one approval"
        assert (await client.get(url)).status_code == 404
        assert address(page) != url


async def test_looking_answers_nothing_and_tells_browsers_to_be_careful(page: ApprovalPage) -> None:
    url = address(page)
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
    url = address(page)
    async with browser(page) as client:
        form = form_of((await client.get(url)).text)
        found = await client.post(url, data={**form, "answer": "yes", **fields}, headers=headers)
    assert found.status_code == status
    assert (await page.answer("state") is True) == (status == 200)


@pytest.mark.parametrize("body", [b"", b"%", b"\xff\xfe", b"&" * 4_000, b"=" * 4_000, b"key=a" * 2_000], ids=lambda body: repr(body[:8]))
async def test_a_body_that_is_no_form_answers_nothing(page: ApprovalPage, body: bytes) -> None:
    url = address(page)
    async with browser(page) as client:
        assert (await client.post(url, content=body)).status_code == 403
        assert (await client.get(f"{url}x")).status_code == 404
    assert await page.answer("state") is None


async def test_a_question_is_open_for_a_while(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    now = anyio.current_time()
    monkeypatch.setattr("anyio.current_time", lambda: now)
    page = ApprovalPage(listener, seconds=0.05)
    url = address(page)
    async with browser(page) as client:
        form = {**form_of((await client.get(url)).text), "answer": "yes"}
        now += 0.06
        assert (await client.post(url, data=form)).status_code == 404
    assert address(page) != url


async def test_an_answer_is_kept_as_long_as_a_question_from_when_it_was_given(page: ApprovalPage, monkeypatch: pytest.MonkeyPatch) -> None:
    now = anyio.current_time()
    monkeypatch.setattr("anyio.current_time", lambda: now)
    url = address(page)
    now += 599
    async with browser(page) as client:
        told = (await client.post(url, data={**form_of((await client.get(url)).text), "answer": "yes"})).text
        assert "when your assistant goes on: within 10 minutes, and while this server runs, unless the approval is not needed" in told
        now += 599
        assert await page.answer("state") is True
        now += 2
        assert await page.answer("state") is None
        assert (await client.get(url)).status_code == 404


async def test_no_number_of_further_questions_pushes_one_out_that_is_open_or_answered(page: ApprovalPage) -> None:
    answered, waiting = page.address_of("answered", TEXT) or "", page.address_of("open", TEXT) or ""
    async with browser(page) as client:
        await client.post(answered, data={**form_of((await client.get(answered)).text), "answer": "yes"})
        given = [page.address_of(str(number), TEXT) for number in range(300)]
        assert given[:254].count(None) == 0
        assert set(given[254:]) == {None}, "256 in all; then there is no room"
        assert page.address_of("open", TEXT) == waiting
        assert (await client.get(waiting)).status_code == 200
        assert await page.answer("answered") is True
        assert page.address_of("one more", TEXT) is None
        page.close("answered")
    assert page.address_of("one more", TEXT) is not None


async def test_all_who_wait_hear_the_answer(page: ApprovalPage) -> None:
    url = address(page)
    heard: list[bool | None] = []

    async def wait() -> None:
        heard.append(await page.answer("state", 60))

    async with browser(page) as client, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        form = {**form_of((await client.get(url)).text), "answer": "yes"}
        await client.post(url, data=form)
    assert heard == [True] * 3, "of what they do with it the store takes one"


async def test_the_question_of_a_task_is_withdrawn_with_the_last_task_that_waits_for_it(page: ApprovalPage) -> None:
    url = page.address_of("state", TEXT, "one") or ""
    assert page.address_of("state", TEXT, "two") == url == page.address_of("state", TEXT, None)
    page.address_of("another", TEXT, "three")
    async with browser(page) as client:
        for task, status in (("four", 200), ("one", 200), ("one", 200), ("two", 404)):
            page.withdraw(task)
            assert (await client.get(url)).status_code == status, task
        assert (await client.post(url, data={"key": "x", "answer": "yes"})).status_code == 404
    assert page.address_of("another", TEXT) is not None
    assert address(page) != url


async def test_what_is_not_wanted_any_more_is_neither_shown_nor_answered(page: ApprovalPage) -> None:
    wanted = {"call": True, "task": True}
    url = page.address_of("state", TEXT, wanted=lambda: wanted["call"]) or ""
    assert page.address_of("state", TEXT, "task", wanted=lambda: wanted["task"]) == url
    async with browser(page) as client:
        form = {**form_of((await client.get(url)).text), "answer": "yes"}
        wanted["call"] = False
        assert (await client.get(url)).status_code == 200, "a task wants it"
        wanted["task"] = False
        assert (await client.get(url)).status_code == 404
        assert (await client.post(url, data=form)).status_code == 404
        assert await page.answer("state") is None
        wanted["call"] = True
        assert (await client.post(url, data=form)).status_code == 200
        assert await page.answer("state") is True


async def test_an_answer_to_a_question_that_is_withdrawn_while_it_is_sent_is_none(page: ApprovalPage) -> None:
    url = page.address_of("state", TEXT, "task") or ""
    async with browser(page) as client:
        body = "&".join(f"{name}={value}" for name, value in {**form_of((await client.get(url)).text), "answer": "yes"}.items()).encode()

        async def slow() -> AsyncGenerator[bytes]:
            yield body[:5]
            page.withdraw("task")
            yield body[5:]

        said = await client.post(url, content=slow(), headers={"content-type": "application/x-www-form-urlencoded"})
        assert said.status_code == 404, "nobody is told that an approval will be recorded which will not"


# -- with a server ------------------------------------------------------------------------------------------------------------------


class Person:
    """Somebody whose client opens pages and shows no forms, who says the same on every page."""

    def __init__(self) -> None:
        self.action: Any = "accept"
        self.says: str | None = "yes"

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        assert context.request_id is not None
        assert isinstance(params, ElicitRequestURLParams)
        if self.says is not None:
            await anyio.to_thread.run_sync(answered, params.url, self.says)
        return ElicitResult(action=self.action)


@pytest.fixture(scope="module")
def no_forms() -> Iterator[None]:
    """A client of the SDK that can ask its user something always declares forms too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcp.client.session.types.FormElicitationCapability", lambda: None)
        yield


@pytest.fixture(scope="module", params=CONNECTIONS)
async def opening(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    no_forms: None,  # noqa: ARG001
) -> AsyncGenerator[tuple[Client, Person]]:
    person = Person()
    folder = tmp_path_factory.mktemp("opening")
    async with connected(request.param, folder, *PAGE, prepare=with_page, elicitation_callback=person) as client:
        yield client, person


@pytest.fixture(scope="module", params=CONNECTIONS)
async def unable(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Client]:
    """A client that can ask its user nothing."""
    async with connected(request.param, tmp_path_factory.mktemp("unable"), *PAGE, prepare=with_page) as client:
        yield client


async def last_event(client: Client, request_id: str) -> dict[str, Any]:
    return (await answer(client, "status", request_id=request_id, include_events=True))["events"][-1]


@pytest.mark.parametrize("said", ["yes", "no"])
async def test_a_client_that_cannot_ask_names_the_page_and_asks_again(unable: Client, said: str) -> None:
    request_id = (await answer(unable, "request", goal="g", actor=ALICE))["request_id"]
    error = await error_of(unable, "approve", request_id=request_id, actor=BOB)
    assert error["code"] == "APPROVAL_PENDING"
    assert f"{error['url']} , the command `{error['command']}`. Show the user that page" in error["text"]
    assert (await error_of(unable, "approve", request_id=request_id, actor=BOB))["url"] == error["url"]
    await anyio.to_thread.run_sync(answered, error["url"], said)
    if said == "yes":
        assert (await answer(unable, "approve", request_id=request_id, actor=BOB))["is_approved"] is True
        channel = (await last_event(unable, request_id))["payload"]["channel"]
        assert re.fullmatch(r"mcp(-http)? page sha256:[0-9a-f]{64}", channel)
    else:
        assert (await error_of(unable, "approve", request_id=request_id, actor=BOB))["code"] == "HUMAN_DECLINED"
        assert (await last_event(unable, request_id))["event_type"] == "POLICY_ATTACHED"


@pytest.mark.parametrize(
    ("action", "says", "code"),
    [
        ("accept", "yes", None),
        ("accept", "no", "HUMAN_DECLINED"),
        ("decline", None, "HUMAN_DECLINED"),
        ("cancel", None, "APPROVAL_PENDING"),
    ],
)
async def test_a_client_opens_the_page_and_the_page_decides(
    opening: tuple[Client, Person], action: str, says: str | None, code: str | None
) -> None:
    client, person = opening
    person.action, person.says = action, says
    request_id = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
    if code is None:
        assert (await answer(client, "approve", request_id=request_id, actor=BOB))["is_approved"] is True
    else:
        assert (await error_of(client, "approve", request_id=request_id, actor=BOB))["code"] == code
    assert ((await last_event(client, request_id))["event_type"] == "APPROVAL_GRANTED") is (code is None)


def too_busy(*_: Any, **__: Any) -> Any:
    """A store that has no time to record anything."""
    raise StoreBusy("database is locked")


def asked(service: Service) -> str:
    """A request."""
    return service.tools.request("g", ALICE, "apply", "[]").data["request_id"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_yes_that_could_not_be_recorded_is_recorded_by_the_next_call(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process(tmp_path) as service:
        async with with_page(service), Client(build_server(service), mode=mode) as client:
            arguments: dict[str, Any] = {"request_id": asked(service), "actor": BOB}
            url = (await error_of(client, "approve", **arguments))["url"]
            await anyio.to_thread.run_sync(answered, url, "yes")
            with monkeypatch.context() as patched:
                patched.setattr(DecisionStore, "append_event", too_busy)
                assert (await error_of(client, "approve", **arguments))["code"] == "STORE_BUSY"
            assert (await answer(client, "approve", **arguments))["current_approvals"] == 1
            assert (await anyio.to_thread.run_sync(httpx.get, url)).status_code == 404, "the question has its place no more"
            assert service.tools.revoke_approval(**arguments).success
            assert (await error_of(client, "approve", **arguments))["code"] == "APPROVAL_PENDING", "it was good for one approval"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_yes_on_the_page_is_not_recorded_for_an_action_that_took_the_place_of_the_one_there(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process(tmp_path) as service:
        async with with_page(service), Client(build_server(service), mode=mode) as client:
            request_id = asked(service)
            arguments: dict[str, Any] = {"request_id": request_id, "actor": BOB}
            url = (await error_of(client, "approve", **arguments))["url"]
            await anyio.to_thread.run_sync(answered, url, "yes")
            heard = ApprovalPage.answer

            async def slow(page: ApprovalPage, state: str, seconds: float = 0) -> bool | None:
                assert service.tools.import_bundle(replacement(tmp_path, request_id), conflict_mode="overwrite").success
                return await heard(page, state, seconds)

            with monkeypatch.context() as patched:
                patched.setattr(ApprovalPage, "answer", slow)
                assert (await error_of(client, "approve", **arguments))["code"] == "ACTION_CHANGED"
            assert (await answer(client, "status", request_id=request_id))["active_approvals"] == 0
            assert (await error_of(client, "approve", **arguments))["url"] != url


async def test_a_yes_on_the_page_is_for_the_whole_comment_also_where_it_was_too_long_to_show(unable: Client) -> None:
    request_id = (await answer(unable, "request", goal="g", actor=ALICE))["request_id"]
    seen, other = ({"request_id": request_id, "actor": BOB, "comment": f"{'x' * 2_000}{tail}"} for tail in ("I read it", "I am sure"))
    url = (await error_of(unable, "approve", **seen))["url"]
    await anyio.to_thread.run_sync(answered, url, "yes")
    assert (await error_of(unable, "approve", **other))["code"] == "APPROVAL_PENDING"
    await answer(unable, "approve", **seen)
    assert (await last_event(unable, request_id))["payload"]["comment"] == seen["comment"]


async def test_a_yes_that_a_task_could_not_record_is_recorded_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_process(tmp_path) as service:
        async with with_page(service), Client(build_server(service), extensions=[Tasks()]) as client:
            task = await deferred(client, "approve", request_id=asked(service), actor=BOB)
            await anyio.to_thread.run_sync(answered, task["_meta"][ERROR_KEY]["url"], "yes")
            with monkeypatch.context() as patched:
                patched.setattr(DecisionStore, "append_event", too_busy)
                with pytest.raises(MCPError) as caught:
                    await get(client, task["taskId"])
            assert caught.value.error.data == {"code": "STORE_BUSY", "retryable": True}
            assert (await get(client, task["taskId"]))["result"]["structuredContent"]["current_approvals"] == 1


@pytest.mark.parametrize("end", ["cancelled", "approved", "cancelled elsewhere", "approved elsewhere"])
async def test_nobody_is_asked_any_more_what_a_task_waited_for(tmp_path: Path, end: str) -> None:
    with in_process(tmp_path) as service:
        async with with_page(service), Client(build_server(service), extensions=[Tasks()]) as client:
            request_id = asked(service)
            task = await deferred(client, "approve", request_id=request_id, actor=BOB)
            url = task["_meta"][ERROR_KEY]["url"]
            form = form_of((await anyio.to_thread.run_sync(httpx.get, url)).text)
            if end == "cancelled":
                await cancel(client, task["taskId"])
            elif end == "cancelled elsewhere":
                with in_process(tmp_path) as other:
                    async with Client(build_server(other), extensions=[Tasks()]) as beside:
                        await cancel(beside, task["taskId"])
            else:
                assert service.tools.approve(request_id, BOB).success
                if end == "approved":
                    await get(client, task["taskId"])
            said = await anyio.to_thread.run_sync(lambda: httpx.post(url, data={**form, "answer": "yes"}))
            assert said.status_code == 404
            assert (await get(client, task["taskId"]))["status"] == ("cancelled" if end.startswith("cancelled") else "completed")


async def test_nobody_is_asked_on_the_page_any_more_what_something_else_took_the_place_of(unable: Client, tmp_path: Path) -> None:
    request_id = (await answer(unable, "request", goal="g", actor=ALICE))["request_id"]
    other = (await answer(unable, "request", goal="g", actor=ALICE))["request_id"]
    urls = [(await error_of(unable, "approve", request_id=name, actor=BOB))["url"] for name in (request_id, other)]
    bundle = replacement(tmp_path, request_id)
    assert (await unable.call_tool("nexus-attest.import_bundle", {"bundle": bundle, "conflict_mode": "overwrite"})).is_error is False
    assert [(await anyio.to_thread.run_sync(httpx.get, url)).status_code for url in urls] == [404, 200]


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.usefixtures("no_forms")
async def test_an_answer_that_a_call_waits_for_too_stays_when_a_task_is_cancelled(tmp_path: Path, mode: str, opens: bool) -> None:
    with in_process(tmp_path) as service:
        server, person = build_server(service), Person()
        person.action, person.says = "cancel", None
        async with (
            with_page(service),
            Client(server, mode=mode, elicitation_callback=person if opens else None) as plain,
            Client(server, extensions=[Tasks()]) as client,
        ):
            arguments: dict[str, Any] = {"request_id": asked(service), "actor": BOB}
            url = (await error_of(plain, "approve", **arguments))["url"]
            task = await deferred(client, "approve", **arguments)
            assert task["_meta"][ERROR_KEY]["url"] == url
            await anyio.to_thread.run_sync(answered, url, "yes")
            await cancel(client, task["taskId"])
            assert (await answer(plain, "approve", **arguments))["is_approved"] is True
            assert (await anyio.to_thread.run_sync(httpx.get, url)).status_code == 404


@pytest.mark.parametrize("first", ["call", "task"])
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_all_who_wait_hear_a_no_and_whoever_asks_after_that_asks_again(tmp_path: Path, mode: str, first: str) -> None:
    with in_process(tmp_path) as service:
        server = build_server(service)
        async with with_page(service), Client(server, mode=mode) as plain, Client(server, extensions=[Tasks()]) as client:
            arguments: dict[str, Any] = {"request_id": asked(service), "actor": BOB}
            tasks = [(await deferred(client, "approve", **arguments))["taskId"] for _ in range(2)]
            url = (await error_of(plain, "approve", **arguments))["url"]
            await anyio.to_thread.run_sync(answered, url, "no")
            codes: list[str] = []
            if first == "call":
                codes.append((await error_of(plain, "approve", **arguments))["code"])
            for task_id in tasks:
                codes.append((await get(client, task_id))["result"]["_meta"][ERROR_KEY]["code"])
            if first == "task":
                codes.append((await error_of(plain, "approve", **arguments))["code"])
            assert codes == ["HUMAN_DECLINED"] * 3
            assert (await error_of(plain, "approve", **arguments))["url"] != url
            assert (await last_event(client, arguments["request_id"]))["event_type"] == "POLICY_ATTACHED"


def test_a_browser_that_keeps_its_connection_does_not_disturb_the_end_of_the_server(tmp_path: Path) -> None:
    with lines(tmp_path, *PAGE, "--log-level", "error") as server, httpx.Client() as kept:
        server.begin()
        server.call(1, "request", goal="g", actor=ALICE)
        request_id = server.receive()["result"]["structuredContent"]["request_id"]
        server.call(2, "approve", request_id=request_id, actor=BOB)
        url = server.receive()["result"]["_meta"][ERROR_KEY]["url"]
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0)):
            assert kept.get(url).status_code == 200
            assert server.end() == (0, [], "")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_when_the_page_has_no_room_a_person_is_sent_to_a_terminal(
    tmp_path: Path, page: ApprovalPage, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nexus_attest.server.page._MOST_OPEN", 1)
    assert address(page)
    with in_process(tmp_path) as service:
        service.asker = HumanAsker(tools=service.tools, systems=True, page=page)
        async with Client(build_server(service), mode=mode) as client:
            request_id = (await answer(client, "request", goal="g", actor=ALICE))["request_id"]
            error = await error_of(client, "approve", request_id=request_id, actor=BOB)
            assert (error["code"], error["command"][:21]) == ("HUMAN_REQUIRED", "nexus-attest approve ")
        if mode == "auto":
            async with Client(build_server(service), extensions=[Tasks()]) as client:
                task = await deferred(client, "approve", request_id=request_id, actor=BOB)
                assert (task["status"], task["_meta"][ERROR_KEY]["code"]) == ("working", "HUMAN_REQUIRED")


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
