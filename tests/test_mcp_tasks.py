"""Tasks: approvals that a person has yet to give, and executions under way, read from the store before and after a restart."""

import json
import os
import re
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import httpx
import httpx2
import pytest
from cli_testing import CommandLine, program
from mcp import Client, MCPError
from mcp.client.context import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ElicitRequestParams, ElicitResult
from mcp_testing import (
    ADAPTER,
    ALICE,
    ALWAYS,
    BOB,
    CONNECTIONS,
    HANDSHAKE,
    HELLO,
    PLAN,
    STATELESS,
    answer,
    confirming,
    connected,
    declaring,
    error_of,
    http_server,
    in_process,
    lines,
    requested,
)
from page_testing import PAGE, answered, with_page
from postgres_testing import PostgresServer
from tasks_testing import Tasks, cancel, deferred, finished, get, update
from token_testing import AUDIENCE, ISSUER, Issuer

from nexus_attest.server import decision_tasks
from nexus_attest.server.app import build_server
from nexus_attest.server.execution_tasks import PATIENCE
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.results import ERROR_KEY
from nexus_attest.server.service import Service
from nexus_attest.server.tasks import EXTENSION
from nexus_control.errors import CannotApprove, StoreBusy
from nexus_control.events import utc_now
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

pytestmark = pytest.mark.anyio

META = declaring(extensions={EXTENSION: {}})
YES = {"action": "accept", "content": {"approve": True}}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def never(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    """For a client that shows forms, and is to be asked by none: it asks for tasks."""
    raise AssertionError((context, params))


@asynccontextmanager
async def taking(connection: str, folder: Path, **more: Any) -> AsyncGenerator[Client]:
    """A client that takes tasks, on a server that wants every approval confirmed."""
    given: dict[str, Any] = {"extensions": [Tasks()], **more}
    async with connected(connection, folder, *ALWAYS, prepare=confirming, **given) as client:
        yield client


class Taken(NamedTuple):
    """Two clients that take tasks, on servers of one store in the folder: the first can ask its user nothing, the other shows forms."""

    client: Client
    forms: Client
    folder: Path


@pytest.fixture(scope="module", params=STATELESS)
async def taken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Taken]:
    folder = tmp_path_factory.mktemp("taken")
    async with taking(request.param, folder) as client, taking(request.param, folder, elicitation_callback=never) as forms:
        yield Taken(client, forms, folder)


def held(folder: Path, after: str = "") -> Path:
    """Make the program that is executed wait for this file, and then do something."""
    go = folder / f"go-{len(list(folder.glob('go-*')))}"
    program(folder, f"while not os.path.exists({str(go)!r}): time.sleep(0.02)\n{after}")
    return go


def approve(folder: Path, request_id: str, name: str) -> None:
    """As another program on the same store."""
    with DecisionStore(folder / "decisions.db") as store:
        assert NexusControlTools(store).approve(request_id, {"type": "human", "id": name}).success


async def executing(client: Client, folder: Path, after: str = "") -> tuple[str, dict[str, Any], Path]:
    """A decision, the task of its execution, and the file that this goes on to wait for."""
    request_id = await requested(client)
    approve(folder, request_id, "bob")
    go = held(folder, after)
    return request_id, await deferred(client, "execute", request_id=request_id, adapter_id=ADAPTER, actor=ALICE), go


async def executed(client: Client, request_id: str) -> tuple[dict[str, Any], bool]:
    """The result of an execution that ends by itself, and whether it became a task: which only one does that a busy machine made slow."""
    arguments = {"request_id": request_id, "adapter_id": ADAPTER, "actor": ALICE}
    said = await client.session.call_tool("nexus-attest.execute", arguments, allow_claimed=True)
    if isinstance(said, CallToolResult):
        assert not said.is_error, said
        return said.model_dump(by_alias=True, mode="json", exclude_none=True), False
    done = await finished(client, said.model_dump(by_alias=True)["taskId"])
    events = (await answer(client, "status", request_id=request_id, include_events=True))["events"]
    began, *_, ended = (datetime.fromisoformat(event["ts"]) for event in events if event["event_type"].startswith("EXECUTION_"))
    assert ended - began > timedelta(seconds=PATIENCE / 2), "it was quick, and is a task"
    assert not done["result"].get("isError"), done
    return done["result"], True


# -- the extension ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_clients_without_the_extension_see_no_task_and_cannot_ask_for_one(connection: str, tmp_path: Path) -> None:
    async with taking(connection, tmp_path, extensions=[]) as client:
        request_id = await requested(client)
        error = await error_of(client, "approve", request_id=request_id, actor=BOB)
        assert error["code"] == "HUMAN_REQUIRED"
        for call in (get(client, "x"), cancel(client, "x"), update(client, "x", {})):
            with pytest.raises(MCPError) as caught:
                await call
            assert caught.value.error.code == (-32601 if connection in HANDSHAKE else -32021)
        if connection in STATELESS:
            assert caught.value.error.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


@pytest.mark.parametrize("connection", HANDSHAKE)
async def test_a_client_of_the_handshake_era_gets_results_whatever_it_declares(connection: str, tmp_path: Path) -> None:
    async with taking(connection, tmp_path) as client:
        request_id = await requested(client)
        assert (await error_of(client, "approve", request_id=request_id, actor=BOB))["code"] == "HUMAN_REQUIRED"
        approve(tmp_path, request_id, "bob")
        assert (await answer(client, "execute", request_id=request_id, adapter_id=ADAPTER, actor=ALICE))["mode"] == "apply"


@pytest.mark.parametrize("connection", ["memory-stateless", "memory-handshake"])
async def test_the_list_of_tools_is_the_same_for_clients_with_and_without_tasks(connection: str, tmp_path: Path) -> None:
    lists: list[str] = []
    for number, extensions in enumerate(([], [Tasks()])):
        (tmp_path / str(number)).mkdir()
        async with taking(connection, tmp_path / str(number), extensions=extensions) as client:
            lists.append((await client.list_tools()).model_dump_json())
            assert client.server_capabilities is not None
            assert client.server_capabilities.extensions == ({EXTENSION: {}} if connection in STATELESS else None)
    assert lists[0] == lists[1]


@pytest.mark.parametrize(
    "options", [{"read_only": True}, {"tools": frozenset({"request", "status"})}], ids=["read-only", "request and status"]
)
async def test_a_server_without_tools_that_may_wait_announces_no_tasks(options: dict[str, Any], tmp_path: Path) -> None:
    with in_process(tmp_path, **options) as service:
        async with Client(build_server(service), extensions=[Tasks()]) as client:
            assert client.server_capabilities is not None
            assert client.server_capabilities.extensions is None
            with pytest.raises(MCPError) as caught:
                await get(client, "x")
            assert caught.value.error.code == -32601


def test_in_the_handshake_era_a_declared_extension_changes_nothing(tmp_path: Path) -> None:
    with lines(tmp_path, *ALWAYS, "--log-level", "error") as server:
        hello: dict[str, Any] = {**HELLO, "capabilities": {"extensions": {EXTENSION: {}}}}
        server.send({"id": 0, "method": "initialize", "params": hello})
        assert EXTENSION not in json.dumps(server.receive())
        server.send({"method": "notifications/initialized"})
        server.call(1, "request", goal="g", actor=ALICE)
        request_id = server.receive()["result"]["structuredContent"]["request_id"]
        server.call(2, "approve", request_id=request_id, actor=BOB)
        assert server.receive()["result"]["_meta"][ERROR_KEY]["code"] == "HUMAN_REQUIRED"


# -- approvals that are waited for --------------------------------------------------------------------------------------------------


async def test_an_approval_is_waited_for_until_it_is_given_at_a_terminal(taken: Taken) -> None:
    client, _, folder = taken
    request_id = await requested(client)
    task = await deferred(client, "approve", request_id=request_id, actor=BOB, comment="after lunch")
    assert task.keys() >= {"taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs", "statusMessage"}
    assert (task["status"], task["ttlMs"], task["pollIntervalMs"]) == ("working", 604_800_000, 5_000)
    error = task["_meta"][ERROR_KEY]
    assert error["code"] == "HUMAN_REQUIRED"
    assert f"`nexus-attest approve {request_id} --actor human:bob --comment 'after lunch'" in task["statusMessage"]
    assert (await get(client, task["taskId"]))["status"] == "working"
    CommandLine(folder, actor="bob").json("approve", request_id)
    done = await get(client, task["taskId"])
    assert done["status"] == "completed"
    assert done["result"]["structuredContent"] == {
        "request_id": request_id,
        "state": "approved",
        "current_approvals": 1,
        "is_approved": True,
        "required_approvals": 1,
    }
    assert json.loads(done["result"]["content"][0]["text"]) == done["result"]["structuredContent"]
    assert datetime.fromisoformat(done["createdAt"]) < datetime.fromisoformat(done["lastUpdatedAt"])


@pytest.mark.parametrize("connection", STATELESS)
async def test_a_wait_goes_on_over_a_restart_of_the_server(connection: str, tmp_path: Path) -> None:
    async with taking(connection, tmp_path) as client:
        request_id = await requested(client, min_approvals=2)
        task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB, comment="x"))["taskId"]
    async with taking(connection, tmp_path) as client:
        waiting = await get(client, task_id)
        assert waiting["status"] == "working"
        assert "--actor human:bob --comment x" in waiting["statusMessage"], "the command asks for the same act"
        approve(tmp_path, request_id, "bob")
    async with taking("memory-stateless", tmp_path) as client:
        done = await get(client, task_id)
        assert done["result"]["structuredContent"]["current_approvals"] == 1
        approve(tmp_path, request_id, "carol")
        assert await get(client, task_id) == done, "what has ended does not change"


async def test_the_result_of_a_wait_is_what_the_approval_answers(taken: Taken) -> None:
    client, _, folder = taken
    request_id = await requested(client)
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    with in_process(folder) as other:
        async with Client(build_server(other)) as elsewhere:
            said = await elsewhere.call_tool("nexus-attest.approve", {"request_id": request_id, "actor": BOB})
    done = await get(client, task_id)
    assert done["result"]["structuredContent"] == said.structured_content
    assert json.loads(done["result"]["content"][0]["text"]) == said.structured_content


@pytest.mark.parametrize(
    ("doing", "code"),
    [
        (("template", "approve"), None),
        (("policy",), "ACTION_CHANGED"),
        (("delete",), "DECISION_NOT_FOUND"),
        (("import",), "DECISION_NOT_FOUND"),
    ],
    ids=["approved", "changed", "deleted", "replaced"],
)
async def test_a_wait_ends_when_nothing_is_left_to_wait_for(taken: Taken, doing: tuple[str, ...], code: str | None) -> None:
    client, _, folder = taken
    request_id = await requested(client)
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    with DecisionStore(folder / "decisions.db") as store:
        tools = NexusControlTools(store)
        if "approve" in doing:
            tools.approve(request_id, {"type": "human", "id": "carol"})
        elif "policy" in doing:
            event = store.get_events(request_id)[1]
            store.append_event(request_id, event.event_type, event.actor, {**event.payload, "min_approvals": 3})
        elif "delete" in doing:
            store.delete_decision(request_id)
        else:
            bundle = tools.export_bundle(request_id).data["bundle"]
            assert tools.import_bundle(bundle, conflict_mode="overwrite").success
    done = await get(client, task_id)
    assert done["status"] == "completed"
    if code is None:
        assert done["result"]["structuredContent"]["is_approved"] is True, "others have approved it"
    else:
        assert done["result"]["isError"] is True
        assert done["result"]["_meta"][ERROR_KEY]["code"] == code


async def test_a_wait_for_one_more_approval_ends_when_the_action_is_executed_without_it(taken: Taken) -> None:
    client, _, folder = taken
    request_id = await requested(client)
    approve(folder, request_id, "carol")
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    approve(folder, request_id, "dave")
    assert (await get(client, task_id))["status"] == "working", "it was approved before; this is about bob"
    await executed(client, request_id)
    assert (await get(client, task_id))["result"]["_meta"][ERROR_KEY]["code"] == "CANNOT_APPROVE"


async def test_a_wait_that_began_after_an_approval_had_expired_ends_when_others_approve_again(taken: Taken) -> None:
    client, _, folder = taken
    request_id = await requested(client)
    now = utc_now()
    soon = now + timedelta(seconds=0.3)
    with DecisionStore(folder / "decisions.db", clock=lambda: now) as store:  # for which it is not yet over, however long this takes
        assert NexusControlTools(store).approve(request_id, {"type": "human", "id": "carol"}, expires_at=soon).success
    await anyio.sleep(0.4)
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    assert (await get(client, task_id))["status"] == "working"
    approve(folder, request_id, "dave")
    assert (await get(client, task_id))["result"]["structuredContent"]["is_approved"] is True


async def test_a_cancelled_wait_stays_cancelled_and_changes_no_decision(taken: Taken) -> None:
    client, _, folder = taken
    request_id = await requested(client)
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    assert await cancel(client, task_id) == {"resultType": "complete"}
    gone = await get(client, task_id)
    assert gone["status"] == "cancelled"
    assert "result" not in gone
    approve(folder, request_id, "bob")
    async with taking("memory-stateless", folder) as later:
        assert await get(later, task_id) == gone, "by another server too, whatever happens to the decision"
        assert await cancel(later, task_id) == {"resultType": "complete"}
        assert (await answer(later, "status", request_id=request_id))["is_approved"] is True


async def test_what_has_been_approved_cannot_be_cancelled_any_more(taken: Taken) -> None:
    client, _, folder = taken
    request_id = await requested(client)
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    approve(folder, request_id, "bob")
    await cancel(client, task_id)
    assert (await get(client, task_id))["status"] == "completed"


async def test_of_approval_and_cancellation_the_first_stays_whoever_looks_when(taken: Taken) -> None:
    client, _, folder = taken
    ends = set[str]()
    for _ in range(6):
        request_id = await requested(client)
        task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
        seen: list[dict[str, Any]] = []

        async def look(task_id: str = task_id, seen: list[dict[str, Any]] = seen) -> None:
            for _ in range(10):
                seen.append(await get(client, task_id))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            tasks.start_soon(anyio.to_thread.run_sync, approve, folder, request_id, "bob")
            tasks.start_soon(cancel, client, task_id)
        seen.append(await get(client, task_id))
        states = [task["status"] for task in seen]
        end = states[-1]
        assert states == ["working"] * states.count("working") + [end] * states.count(end)
        ends.add(end)
    assert ends <= {"completed", "cancelled"}


async def test_a_client_that_shows_forms_answers_the_question_of_a_task_that_another_began(taken: Taken) -> None:
    client, forms, _ = taken
    request_id = await requested(client)
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    found = await get(forms, task_id)
    assert found["status"] == "input_required"
    ((key, question),) = found["inputRequests"].items()
    assert question["method"] == "elicitation/create"
    assert question["params"]["message"].startswith("Approve this action as human bob?\nGoal: Rotate the key\n")
    assert await update(forms, task_id, {}) == {"resultType": "complete"}
    for nonsense in ({"x": YES}, {key[:-1]: YES}, {key: 5}, {key: None}, {key: {"action": "approve"}}, {key: [YES]}):
        with pytest.raises(MCPError) as caught:
            await update(forms, task_id, nonsense)
        assert caught.value.error.code == -32602
    assert (await get(forms, task_id))["inputRequests"].keys() == {key}
    assert await update(forms, task_id, {key: YES}) == {"resultType": "complete"}
    assert (await get(client, task_id))["result"]["structuredContent"]["is_approved"] is True
    event = (await answer(client, "status", request_id=request_id, include_events=True))["events"][-1]
    assert re.match(r"mcp(-http)? elicitation ", event["payload"]["channel"])


@pytest.mark.parametrize(("action", "code"), [("decline", "HUMAN_DECLINED"), ("cancel", "HUMAN_REQUIRED")])
async def test_a_form_that_is_declined_or_closed_ends_the_wait_for_good(action: str, code: str, taken: Taken) -> None:
    client, forms, folder = taken
    request_id = await requested(client)
    task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
    (key,) = (await get(forms, task_id))["inputRequests"]
    await update(forms, task_id, {key: {"action": action}})
    done = await get(forms, task_id)
    assert (done["status"], done["result"]["_meta"][ERROR_KEY]["code"]) == ("completed", code)
    await update(forms, task_id, {key: YES})
    async with taking("memory-stateless", folder) as later:
        assert await get(later, task_id) == done
        assert (await answer(later, "status", request_id=request_id))["active_approvals"] == 0


async def test_an_answer_is_good_for_the_question_as_it_was_shown(taken: Taken) -> None:
    client, forms, _ = taken
    tasks = [(await deferred(client, "approve", request_id=await requested(client), actor=who))["taskId"] for who in (BOB, BOB)]
    keys = [key for task_id in tasks for key in (await get(forms, task_id))["inputRequests"]]
    with pytest.raises(MCPError, match="not, or not any more, what is asked: get the task again") as caught:
        await update(forms, tasks[0], {keys[1]: YES})
    assert caught.value.error.code == -32602
    assert (await get(forms, tasks[0]))["inputRequests"].keys() == {keys[0]}


async def test_an_answer_is_taken_by_a_server_that_was_started_with_another_name_of_the_store(tmp_path: Path) -> None:
    with in_process(tmp_path) as service:
        servers: list[Any] = []
        for options in (" --db decisions.db", f" --db {tmp_path}/decisions.db"):
            asker = HumanAsker(tools=service.tools, systems=True, options=options)
            servers.append(build_server(Service(tools=service.tools, task_folder=service.task_folder, asker=asker)))
        request_id = service.tools.request("g" * 3_000, ALICE, "apply", PLAN).data["request_id"]
        async with Client(servers[0], extensions=[Tasks()]) as client:
            task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
        async with (
            Client(servers[0], extensions=[Tasks()], elicitation_callback=never) as one,
            Client(servers[1], extensions=[Tasks()], elicitation_callback=never) as other,
        ):
            ((key, question),) = (await get(one, task_id))["inputRequests"].items()
            assert " --db decisions.db` shows all of it" in question["params"]["message"]
            await update(other, task_id, {key: YES})
            assert (await get(one, task_id))["result"]["structuredContent"]["is_approved"] is True


async def test_an_answer_that_the_store_was_too_busy_for_can_be_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any, **__: Any) -> Any:
        raise StoreBusy(f"{tmp_path}/decisions.db: database is locked")

    async with taking("memory-stateless", tmp_path) as client:
        task_id = (await deferred(client, "approve", request_id=await requested(client), actor=BOB))["taskId"]
    async with taking("memory-stateless", tmp_path, elicitation_callback=never) as client:
        (key,) = (await get(client, task_id))["inputRequests"]
        yes = {key: YES}
        for owner, method in ((HumanAsker, "question"), (DecisionStore, "append_event")):
            with monkeypatch.context() as patched:
                patched.setattr(owner, method, busy)
                with pytest.raises(MCPError) as caught:
                    await update(client, task_id, yes)
            error = caught.value.error
            assert (error.code, error.message) == (-32603, "STORE_BUSY: the store is busy. Try again."), method
            assert error.data == {"code": "STORE_BUSY", "retryable": True}
        assert (await get(client, task_id))["inputRequests"].keys() == {key}
        await update(client, task_id, yes)
        assert (await get(client, task_id))["result"]["structuredContent"]["is_approved"] is True


async def test_an_answer_that_is_not_taken_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise CannotApprove("the trust policy was changed")

    with in_process(tmp_path) as service:
        confirming(service)
        async with (
            Client(build_server(service), extensions=[Tasks()], elicitation_callback=never) as shows,
            Client(build_server(service), extensions=[Tasks()]) as client,
        ):
            task_id = (await deferred(client, "approve", request_id=await requested(client), actor=BOB))["taskId"]
            (key,) = (await get(shows, task_id))["inputRequests"]
            yes = {key: YES}
            with monkeypatch.context() as patched:
                patched.setattr(HumanAsker, "question", refuse)
                with pytest.raises(MCPError, match="CANNOT_APPROVE: the trust policy was changed") as refused:
                    await update(shows, task_id, yes)
            asker, service.asker = service.asker, None
            with pytest.raises(MCPError, match="no answer is taken here") as elsewhere:
                await update(shows, task_id, yes)
            assert (refused.value.error.code, elsewhere.value.error.code) == (-32602, -32602)
            assert await update(shows, task_id, {}) == {"resultType": "complete"}
            service.asker = asker
            await update(client, task_id, yes)
            assert (await get(client, task_id))["status"] == "completed", "whoever has the key was shown the question"


async def test_a_question_that_cannot_be_made_for_a_busy_store_is_told_without_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> Any:
        raise StoreBusy(f"{tmp_path}/decisions.db: database is locked")

    async with taking("memory-stateless", tmp_path) as client:
        task_id = (await deferred(client, "approve", request_id=await requested(client), actor=BOB))["taskId"]
        monkeypatch.setattr(HumanAsker, "question", busy)
        assert (await get(client, task_id))["statusMessage"] == "STORE_BUSY: the store is busy. Try again."


async def test_a_task_that_is_cancelled_while_its_answer_is_recorded_has_one_end(tmp_path: Path) -> None:
    with in_process(tmp_path) as service:
        confirming(service)
        async with Client(build_server(service), extensions=[Tasks()]) as client:
            request_id = await requested(client)
            task_id = (await deferred(client, "approve", request_id=request_id, actor=BOB))["taskId"]
        begun, go = threading.Event(), threading.Event()
        confirm = decision_tasks.confirmed

        def slow(*given: Any) -> Any:
            begun.set()
            assert go.wait(20)
            return confirm(*given)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(decision_tasks, "confirmed", slow)
            async with Client(build_server(service), extensions=[Tasks()], elicitation_callback=never) as client:
                (key,) = (await get(client, task_id))["inputRequests"]
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(update, client, task_id, {key: YES})
                    await anyio.to_thread.run_sync(begun.wait, 20)
                    await cancel(client, task_id)
                    assert (await get(client, task_id))["status"] == "cancelled"
                    go.set()
                assert (await get(client, task_id))["status"] == "cancelled"
                assert (await answer(client, "status", request_id=request_id))["active_approvals"] == 0


# -- executions under way -----------------------------------------------------------------------------------------------------------


async def test_an_execution_that_takes_its_time_is_a_task(taken: Taken) -> None:
    client, _, folder = taken
    request_id, task, go = await executing(client, folder)
    assert (task["status"], task["pollIntervalMs"]) == ("working", 1_000)
    with anyio.fail_after(60):
        while task["statusMessage"].startswith(f"{ADAPTER}: starting"):  # for as long as the machine makes of it
            task = await get(client, task["taskId"])
    assert task["statusMessage"].startswith(f"{ADAPTER}: step 1 of 1")
    assert (await get(client, task["taskId"]))["status"] == "working"
    assert await cancel(client, task["taskId"]) == {"resultType": "complete"}
    assert await update(client, task["taskId"], {"x": {}}) == {"resultType": "complete"}
    assert (await get(client, task["taskId"]))["status"] == "working", "what has begun is not said to have been cancelled"
    go.touch()
    done = await finished(client, task["taskId"])
    run = done["result"]["structuredContent"]
    assert (done["status"], run["request_id"], run["mode"], run["steps_executed"]) == ("completed", request_id, "apply", 1)
    assert (await answer(client, "inspect", decision_id=request_id))["execution"]["run_id"] == run["run_id"]
    assert (await error_of(client, "execute", request_id=request_id, adapter_id=ADAPTER, actor=ALICE))["code"] == "ALREADY_EXECUTED"
    async with taking("memory-stateless", folder) as other:
        assert await get(other, task["taskId"]) == done, "another server says the same, later"


async def test_an_execution_of_this_server_is_under_way_also_without_the_folder(tmp_path: Path) -> None:
    async with taking("memory-stateless", tmp_path) as client:
        _, task, go = await executing(client, tmp_path)
        shutil.rmtree(tmp_path / "decisions.db.tasks")
        assert (await get(client, task["taskId"]))["status"] == "working"
        go.touch()
        assert (await finished(client, task["taskId"]))["result"]["structuredContent"]["mode"] == "apply"


async def test_an_execution_that_waits_for_others_to_end_tells_its_client_so(tmp_path: Path) -> None:
    heard: list[str | None] = []

    async def follow(progress: float, total: float | None, message: str | None) -> None:
        assert (progress >= 0, total) == (True, None)
        heard.append(message)

    with in_process(tmp_path) as service:
        service.run_threads.total_tokens = 1
        async with Client(build_server(service), extensions=[Tasks()]) as client:
            _, first, go = await executing(client, tmp_path)
            second = await requested(client)
            approve(tmp_path, second, "bob")
            arguments: dict[str, Any] = {"request_id": second, "adapter_id": ADAPTER, "actor": ALICE}

            async def call() -> None:
                await client.session.call_tool("nexus-attest.execute", arguments, progress_callback=follow, allow_claimed=True)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                with anyio.fail_after(20):
                    while len(heard) < 2:
                        await anyio.sleep(0.05)
                go.touch()
            assert heard[:2] == [f"{ADAPTER}: starting"] * 2
            assert (await finished(client, first["taskId"]))["status"] == "completed"


async def test_the_end_of_an_execution_that_became_a_task_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "nexus_attest.server")
    async with taking("memory-stateless", tmp_path) as client:
        request_id, task, go = await executing(client, tmp_path)
        assert "task ended" not in caplog.messages
        go.touch()
        await finished(client, task["taskId"])
        with anyio.fail_after(20):
            while "task ended" not in caplog.messages:
                await anyio.sleep(0.01)
        quick = await requested(client)
        approve(tmp_path, quick, "bob")
        _, was_task = await executed(client, quick)
    ended = {
        facts["decision_id"]: facts for facts in (vars(record)["facts"] for record in caplog.records if record.message == "task ended")
    }
    assert was_task or quick not in ended
    facts = ended[request_id]
    assert (facts["outcome"], "code" in facts) == ("ok", False)
    assert facts["ms"] > 0


async def test_an_execution_that_is_quick_or_refused_is_answered_as_ever(taken: Taken) -> None:
    client, _, folder = taken
    program(folder)
    request_id = await requested(client)
    arguments = {"request_id": request_id, "adapter_id": ADAPTER, "actor": ALICE}
    assert (await error_of(client, "execute", **arguments))["code"] == "POLICY_VALIDATION_FAILED"
    approve(folder, request_id, "bob")
    assert (await error_of(client, "execute", **{**arguments, "adapter_id": "x"}))["code"] == "UNKNOWN_ADAPTER"
    result, was_task = await executed(client, request_id)
    assert result["structuredContent"]["mode"] == "apply"
    assert was_task or list((folder / "decisions.db.tasks").glob("*.lock")) == []


async def test_an_execution_whose_call_is_cancelled_before_it_has_a_thread_never_happens(tmp_path: Path) -> None:
    with in_process(tmp_path) as service:
        async with Client(build_server(service), extensions=[Tasks()]) as client:
            request_id = await requested(client)
            approve(tmp_path, request_id, "bob")
            arguments = {"request_id": request_id, "adapter_id": ADAPTER, "actor": ALICE}
            places = [object() for _ in range(int(service.run_threads.total_tokens))]
            for place in places:
                service.run_threads.acquire_on_behalf_of_nowait(place)

            async def waiting(number: int) -> None:
                with anyio.fail_after(60):
                    while service.run_threads.statistics().tasks_waiting != number:
                        await anyio.sleep(0.01)

            async with anyio.create_task_group() as call:
                call.start_soon(partial(client.session.call_tool, "nexus-attest.execute", arguments, allow_claimed=True))
                await waiting(1)
                call.cancel_scope.cancel()
            await waiting(0)
            for place in places:
                service.run_threads.release_on_behalf_of(place)
            await anyio.sleep(0.3)
            assert (await answer(client, "status", request_id=request_id))["state"] == "approved"


async def test_a_bug_in_an_execution_is_told_by_its_number_and_ends_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("secret")

    with in_process(tmp_path) as service:
        async with Client(build_server(service), extensions=[Tasks()]) as client:
            request_id = await requested(client)
            monkeypatch.setattr(type(service), "execute", bug)
            service.__dict__.pop("handlers", None)
            async with Client(build_server(service), extensions=[Tasks()]) as other:
                with pytest.raises(MCPError, match=r"Internal error [0-9a-f]{8}; the server's log says where"):
                    await other.call_tool("nexus-attest.execute", {"request_id": request_id, "adapter_id": ADAPTER, "actor": ALICE})
            assert (await answer(client, "status", request_id=request_id))["state"] == "pending_approval"
    assert "ZeroDivisionError" in caplog.text


async def test_the_result_of_a_task_is_what_the_call_would_have_answered(taken: Taken) -> None:
    client, _, folder = taken
    _, task, go = await executing(client, folder)
    go.touch()
    deferred_run = (await finished(client, task["taskId"]))["result"]
    program(folder)
    request_id = await requested(client)
    approve(folder, request_id, "bob")
    async with taking("memory-stateless", folder, extensions=[]) as other:
        shown = await answer(other, "execute", request_id=request_id, adapter_id=ADAPTER, actor=ALICE)
    assert list(deferred_run["structuredContent"]) == list(shown)
    assert deferred_run["structuredContent"]["request_digest"] == shown["request_digest"]
    assert deferred_run["content"][0]["text"] == json.dumps(deferred_run["structuredContent"], separators=(",", ":"))


async def test_a_failed_execution_is_a_completed_task_with_an_error_result(taken: Taken) -> None:
    client, _, folder = taken
    request_id, task, go = await executing(client, folder, "sys.exit(3)")
    go.touch()
    done = await finished(client, task["taskId"])
    recorded = (await answer(client, "status", request_id=request_id))["executions"][0]
    assert (done["status"], done["result"]["isError"]) == ("completed", True)
    error = done["result"]["_meta"][ERROR_KEY]
    assert (error["code"], error["message"]) == (recorded["error_code"], recorded["error_message"])
    assert "structuredContent" not in done["result"]


async def test_an_execution_goes_on_when_the_client_that_began_it_leaves(tmp_path: Path) -> None:
    with in_process(tmp_path, extra_tools=True) as service:
        server = build_server(service)
        async with Client(server) as stays:
            async with Client(server, extensions=[Tasks()]) as leaves:
                _, task, go = await executing(leaves, tmp_path)
                go.touch()
            del stays
        async with Client(server, extensions=[Tasks()]) as comes:
            assert (await finished(comes, task["taskId"]))["result"]["structuredContent"]["mode"] == "apply"


def endless(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Options of a server whose program does not end by itself, and the arguments of an approved execution of it."""
    adapters = program(folder, "time.sleep(60)")
    with DecisionStore(folder / "decisions.db") as store:
        tools = NexusControlTools(store)
        request_id: str = tools.request("g", ALICE, "apply", PLAN).data["request_id"]
        assert tools.approve(request_id, BOB).success
    return ["--adapters", str(adapters), "--log-level", "error"], {"request_id": request_id, "adapter_id": ADAPTER, "actor": ALICE}


def test_after_a_kill_an_execution_is_said_to_have_an_unknown_outcome_and_stays_so(tmp_path: Path) -> None:
    options, arguments = endless(tmp_path)
    with lines(tmp_path, *options) as server:
        task = server.ask("tools/call", META, name="nexus-attest.execute", arguments=arguments)
        assert (task["resultType"], task["status"]) == ("task", "working")
        with lines(tmp_path, *options) as beside:
            assert beside.ask("tasks/get", META, taskId=task["taskId"])["status"] == "working", "it is under way in another process"
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait(60)
            lost = beside.ask("tasks/get", META, taskId=task["taskId"])
    error = lost["result"]["_meta"][ERROR_KEY]
    assert (lost["status"], lost["result"]["isError"], error["code"]) == ("completed", True, "EXECUTION_ABANDONED")
    assert "whether it took effect is unknown" in error["message"]
    with lines(tmp_path, *options) as server:
        assert server.ask("tasks/cancel", META, taskId=task["taskId"])["resultType"] == "complete"
        assert server.ask("tasks/get", META, taskId=task["taskId"])["result"] == lost["result"]
        refused = server.ask("tools/call", META, name="nexus-attest.execute", arguments=arguments)
        assert refused["_meta"][ERROR_KEY]["code"] == "EXECUTION_IN_PROGRESS", "and nobody runs it again"
        with DecisionStore(tmp_path / "decisions.db") as store:
            assert NexusControlTools(store).recover_execution(arguments["request_id"], BOB, "the host died; outcome unknown").success
        after = server.ask("tasks/get", META, taskId=task["taskId"])["result"]["_meta"][ERROR_KEY]
        assert (after["code"], after["message"]) == ("EXECUTION_ABANDONED", "the host died; outcome unknown")


def test_a_server_that_ends_in_good_order_records_how_the_execution_of_a_task_ended(tmp_path: Path) -> None:
    options, arguments = endless(tmp_path)
    with lines(tmp_path, *options) as server:
        task = server.ask("tools/call", META, name="nexus-attest.execute", arguments=arguments)
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert time.monotonic() - began < 30
    with lines(tmp_path, *options) as server:
        done = server.ask("tasks/get", META, taskId=task["taskId"])
        assert (done["status"], done["result"]["isError"]) == ("completed", True)


# -- whose tasks --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replacement", ["empty", "older", "same id"])
async def test_in_a_store_that_took_the_place_of_another_its_tasks_are_unknown(tmp_path: Path, replacement: str) -> None:
    async with taking("memory-stateless", tmp_path) as client:
        if replacement == "older":
            other = await requested(client)
            with sqlite3.connect(tmp_path / "decisions.db") as database, sqlite3.connect(tmp_path / "copy.db") as copy:
                database.backup(copy)
            assert (await answer(client, "status", request_id=other))["state"] == "pending_approval"
        request_id, running, go = await executing(client, tmp_path)
        waiting = await deferred(client, "approve", request_id=await requested(client), actor=BOB)
        go.touch()
        await finished(client, running["taskId"])
    for path in tmp_path.glob("decisions.db*"):
        if path.is_file():
            path.unlink()
    if replacement == "older":
        (tmp_path / "copy.db").rename(tmp_path / "decisions.db")
    with DecisionStore(tmp_path / "decisions.db", new_id=lambda: request_id) as store:
        if replacement == "same id":
            tools = NexusControlTools(store)
            assert tools.request("Rotate the key", ALICE, "apply", PLAN).data["request_id"] == request_id
            assert tools.approve(request_id, BOB).success
    async with taking("memory-stateless", tmp_path) as client:
        for task in (running, waiting):
            for call in (get(client, task["taskId"]), cancel(client, task["taskId"]), update(client, task["taskId"], {})):
                with pytest.raises(MCPError, match="Unknown task"):
                    await call


async def test_a_handle_that_was_not_given_by_this_server_to_this_caller_is_unknown(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with taking("memory-stateless", tmp_path / "one") as one, taking("memory-stateless", tmp_path / "two") as two:
        made = [(await deferred(client, "approve", request_id=await requested(client), actor=BOB))["taskId"] for client in (one, two)]
        good = made[0]
        guessed = [
            "",
            "x",
            "\u00e9" * 40,
            "\ud800".encode("utf-8", "surrogatepass").hex(),
            "A" * 5_000,
            f"{good}=",
            good[:-1],
            good.lower(),
        ]
        altered = [f"{good[:place]}{'A' if good[place] != 'A' else 'B'}{good[place + 1 :]}" for place in range(0, len(good), 7)]
        messages = set[tuple[int, str]]()
        for handle in (made[1], *guessed, *altered):
            for call in (get(one, handle), cancel(one, handle), update(one, handle, {})):
                with pytest.raises(MCPError) as caught:
                    await call
                messages.add((caught.value.error.code, caught.value.error.message))
        assert messages == {(-32602, "Unknown task")}
        assert (await get(one, good))["status"] == "working"


async def test_a_task_belongs_to_the_one_whose_token_began_it(tmp_path: Path) -> None:
    issuer = Issuer()
    (tmp_path / "keys.json").write_text(issuer.key_set())
    options = ("--issuer", ISSUER, "--audience", AUDIENCE, "--jwks", str(tmp_path / "keys.json"))
    with http_server(tmp_path, *options) as (url, _):

        @asynccontextmanager
        async def caller(subject: str, **claims: Any) -> AsyncGenerator[Client]:
            headers = {"Authorization": f"Bearer {issuer.token(subject, **claims)}"}
            async with (
                httpx2.AsyncClient(headers=headers) as http,
                Client(streamable_http_client(url, http_client=http), mode="auto", extensions=[Tasks()]) as client,
            ):
                yield client

        async with caller("alice") as alice, caller("bob") as bob, caller("bob", scope="read") as reader:
            request_id = (await answer(alice, "request", goal="g"))["request_id"]
            task_id = (await deferred(bob, "approve", request_id=request_id))["taskId"]
            for stranger in (alice,):
                for call in (get(stranger, task_id), cancel(stranger, task_id), update(stranger, task_id, {})):
                    with pytest.raises(MCPError, match="Unknown task"):
                        await call
            assert (await get(bob, task_id))["status"] == "working"
            assert (await get(reader, task_id))["statusMessage"] == "waiting for an approval that is given elsewhere"
            headers = {"Authorization": f"Bearer {issuer.token('bob')}", "Accept": "application/json, text/event-stream"}
            modern = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tasks/get"}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": task_id, "_meta": META}}
            for name in ({}, {"mcp-name": "another"}, {"mcp-name": f"{task_id}x"}):
                found = httpx.post(url, json=body, headers={**headers, **modern, **name})
                assert found.json()["error"]["code"] == -32020
            assert httpx.post(url, json=body, headers={**headers, **modern, "mcp-name": task_id}).json()["result"]["taskId"] == task_id


async def test_nonsense_in_the_place_of_parameters_is_refused(tmp_path: Path) -> None:
    with lines(tmp_path, *ALWAYS, "--log-level", "error") as server:
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("tasks/get", {}),
            ("tasks/get", {"taskId": 5}),
            ("tasks/get", {"taskId": None}),
            ("tasks/get", {"taskId": ["x"]}),
            ("tasks/update", {"taskId": "x"}),
            ("tasks/update", {"taskId": "x", "inputResponses": []}),
            ("tasks/update", {"taskId": "x", "inputResponses": None}),
            ("tasks/cancel", {"taskId": "x" * 5_000_000}),
            ("tasks/cancel", {"taskId": {"a": 1}}),
        ]
        for method, params in wrong:
            server.send({"id": 1, "method": method, "params": {**params, "_meta": META}})
            assert server.receive()["error"]["code"] == -32602, (method, str(params)[:50])
        for method in ("tasks/list", "tasks/result"):
            server.send({"id": 1, "method": method, "params": {"taskId": "x", "_meta": META}})
            assert server.receive()["error"]["code"] == -32601


async def test_what_a_person_is_asked_cannot_write_on_a_terminal(taken: Taken) -> None:
    client, forms, _ = taken
    request_id = await requested(client, goal="Rotate\x1b[2J\r\nGoal: nothing <script>alert(1)</script>")
    task = await deferred(client, "approve", request_id=request_id, actor={"type": "human", "id": "bob\x1b]0;x\x07"})
    assert not re.search(r"[\x00-\x1f\x7f]", task["statusMessage"])
    (question,) = (await get(forms, task["taskId"]))["inputRequests"].values()
    shown = question["params"]["message"]
    assert "Goal: Rotate\\x1b[2J\\x0d\\x0aGoal: nothing" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown)


async def test_an_approval_with_too_much_to_say_for_a_handle_is_refused_as_ever(taken: Taken) -> None:
    client, _, _ = taken
    request_id = await requested(client)
    assert (await error_of(client, "approve", request_id=request_id, actor=BOB, comment="x" * 5_000))["code"] == "HUMAN_REQUIRED"


async def test_where_no_folder_can_be_made_calls_are_answered_as_ever(tmp_path: Path) -> None:
    (tmp_path / "decisions.db.tasks").write_text("a file where the folder should be")
    async with taking("memory-stateless", tmp_path) as client:
        request_id = await requested(client)
        assert (await error_of(client, "approve", request_id=request_id, actor=BOB))["code"] == "HUMAN_REQUIRED"
        approve(tmp_path, request_id, "bob")
        assert (await answer(client, "execute", request_id=request_id, adapter_id=ADAPTER, actor=ALICE))["mode"] == "apply"
        with pytest.raises(MCPError):
            await get(client, "x")


@pytest.mark.parametrize("environment", ["file", "none"])
def test_a_server_of_a_database_elsewhere_starts_where_this_machine_keeps_nothing_for_it(
    tmp_path: Path, postgres_server: PostgresServer, environment: str
) -> None:
    (tmp_path / "file").touch()
    nowhere = {"file": {"XDG_DATA_HOME": str(tmp_path / "file")}, "none": {"HOME": "", "XDG_CONFIG_HOME": str(tmp_path)}}[environment]
    database = {"NEXUS_ATTEST_DB": postgres_server.new_database()}
    with lines(tmp_path, *ALWAYS, "--log-level", "warning", environment={**nowhere, **database}) as server:
        request_id = server.ask("tools/call", META, name="nexus-attest.request", arguments={"goal": "g", "actor": ALICE})
        arguments = {"request_id": request_id["structuredContent"]["request_id"], "actor": BOB}
        refused = server.ask("tools/call", META, name="nexus-attest.approve", arguments=arguments)
        assert refused["_meta"][ERROR_KEY]["code"] == "HUMAN_REQUIRED"
        _, _, errors = server.end()
    (warning,) = [json.loads(line) for line in errors.splitlines()]
    assert (warning["level"], warning["message"]) == ("warning", "tasks cannot be kept")


@pytest.mark.parametrize("spelling", ["link.db", "folder/../decisions.db", "linked/decisions.db"])
def test_one_store_has_one_folder_of_tasks_however_it_is_named(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.db").symlink_to("decisions.db")
    (tmp_path / "linked").symlink_to(".")
    with lines(tmp_path, *ALWAYS, "--log-level", "error") as server:
        made = server.ask("tools/call", META, name="nexus-attest.request", arguments={"goal": "g", "actor": ALICE})
        arguments = {"request_id": made["structuredContent"]["request_id"], "actor": BOB}
        task = server.ask("tools/call", META, name="nexus-attest.approve", arguments=arguments)
    environment = {"NEXUS_ATTEST_DB": f"{tmp_path}/{spelling}"}
    with lines(tmp_path, *ALWAYS, "--log-level", "error", environment=environment) as server:
        assert server.ask("tasks/get", META, taskId=task["taskId"])["status"] == "working"
    assert [path.name for path in tmp_path.glob("*.tasks")] == ["decisions.db.tasks"]


@pytest.mark.parametrize("connection", STATELESS)
async def test_a_person_who_answers_on_the_page_is_heard_when_the_task_is_asked_for(connection: str, tmp_path: Path) -> None:
    async with connected(connection, tmp_path, *PAGE, prepare=with_page, extensions=[Tasks()]) as client:
        for said, end in (("yes", "approved"), ("no", "HUMAN_DECLINED")):
            request_id = await requested(client)
            task = await deferred(client, "approve", request_id=request_id, actor=BOB)
            error = task["_meta"][ERROR_KEY]
            assert error["code"] == "APPROVAL_PENDING"
            assert error["url"] in task["statusMessage"]
            assert (await get(client, task["taskId"]))["_meta"][ERROR_KEY]["url"] == error["url"]
            await anyio.to_thread.run_sync(answered, error["url"], said)
            done = await get(client, task["taskId"])
            result = done["result"]
            assert done["status"] == "completed"
            assert end in (result.get("structuredContent", {}).get("state"), result.get("_meta", {}).get(ERROR_KEY, {}).get("code"))
            last = (await answer(client, "status", request_id=request_id, include_events=True))["events"][-1]
            channel = last["payload"].get("channel", "")
            assert re.fullmatch(r"mcp(-http)? page sha256:[0-9a-f]{64}", channel) if said == "yes" else last["seq"] == 1
