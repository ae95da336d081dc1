"""Approvals that a person confirms at the client, actors that are bound to the configuration, and signed statements."""

import json
import re
import shlex
from base64 import b64encode
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from cli_testing import CommandLine
from mcp import Client, MCPError
from mcp.client.context import ClientRequestContext
from mcp.client.session import ElicitationFnT
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.types import ElicitRequestParams, ElicitResult, Implementation, InputResponses
from mcp_testing import (
    ADAPTER,
    ALICE,
    BOB,
    CONNECTIONS,
    Lines,
    answer,
    connected,
    error_of,
    in_process,
    lines,
    replacement,
    server_command,
    server_environment,
)

from nexus_attest.keys import decoded_seed
from nexus_attest.server.actors import BoundActor, ConfigActor, FourEyes
from nexus_attest.server.app import build_server
from nexus_attest.server.humans import QUESTION, HumanAsker
from nexus_attest.server.service import Service
from nexus_attest.signer import Signer, sign_statement, statement_about
from nexus_attest.trust import PublicKey, TrustedActor, TrustPolicy
from nexus_attest.trust_file import load_trust
from nexus_control.decision import Decision
from nexus_control.events import Actor, EventType, utc_now
from nexus_control.policy import Policy
from nexus_control.store import DecisionStore

pytestmark = pytest.mark.anyio

PLAN = '[{"tool": "t", "method": "m"}]'
MODES = ["auto", "legacy"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


class Person:
    """Somebody at a client, who says the same to every question."""

    def __init__(self, action: Any = "accept", content: dict[str, Any] | None = None) -> None:
        self.asked: list[str] = []
        self.answer = ElicitResult(action=action, content=content)

    async def __call__(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        assert context.request_id is not None
        self.asked.append(params.message)
        return self.answer


def yes() -> Person:
    return Person(content={"approve": True})


async def requested(client: Client, **more: Any) -> str:
    return (await answer(client, "request", **{"goal": "Rotate the key", "actor": ALICE, **more}))["request_id"]


async def events_of(client: Client, request_id: str) -> list[dict[str, Any]]:
    return (await answer(client, "status", request_id=request_id, include_events=True))["events"]


class Asked(NamedTuple):
    """A client of a server that wants every approval confirmed, and who sits at it; the store is `decisions.db` in the folder."""

    client: Client
    person: Person
    folder: Path

    @property
    def is_stateless(self) -> bool:
        return self.client.protocol_version >= "2026-07-28"


def always(service: Service) -> None:
    """What `--human-approval always` makes of a server."""
    service.asker = HumanAsker(tools=service.tools, options=" --db x.db", systems=True)


ALWAYS = ("--human-approval", "always")


@pytest.fixture(scope="module", params=CONNECTIONS)
async def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Asked]:
    folder, person = tmp_path_factory.mktemp("asked"), yes()
    info = Implementation(name="a client", version="1.0\n")
    # Not quiet: the SDK warns of states that it refuses.
    async with connected(
        request.param, folder, *ALWAYS, prepare=always, quiet=False, elicitation_callback=person, client_info=info
    ) as client:
        yield Asked(client, person, folder)


@pytest.fixture
def asked(served: Asked) -> Asked:
    """The same, with somebody who says yes and was not asked before."""
    served.person.asked.clear()
    served.person.answer = yes().answer
    return served


@pytest.fixture(scope="module", params=CONNECTIONS)
async def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Client, Path]]:
    """A client of such a server that can ask nobody."""
    folder = tmp_path_factory.mktemp("alone")

    def prepare(service: Service) -> None:
        service.asker = HumanAsker(tools=service.tools, options=f" --db {folder / 'decisions.db'}", systems=True)

    async with connected(request.param, folder, *ALWAYS, prepare=prepare) as client:
        yield client, folder


@asynccontextmanager
async def configured(mode: str, folder: Path, *options: str, person: ElicitationFnT | None) -> AsyncGenerator[Client]:
    """A client on a server whose actor is configured. Over standard streams, as it is refused over HTTP."""
    command, *arguments = server_command("--actor-source", "config", *options, "--log-level", "warning")
    parameters = StdioServerParameters(command=command, args=arguments, env=server_environment(folder), cwd=folder)
    async with Client(stdio_client(parameters), mode=mode, elicitation_callback=person) as client:
        yield client


# -- a person confirms --------------------------------------------------------------------------------------------------------------


async def test_the_question_shows_what_is_approved_and_the_event_how(asked: Asked) -> None:
    client, person, _ = asked
    request_id = await requested(client, goal="Delete\nGoal: nothing\x1b[2J", mode="apply", plan=PLAN, min_approvals=2)
    await answer(client, "approve", request_id=request_id, actor=BOB, expires_at="2999-01-01T00:00:00+00:00")
    (question,) = person.asked
    assert question.splitlines()[:6] == [
        "Approve this action as human bob?",
        "Goal: Delete\\x0aGoal: nothing\\x1b[2J",
        "Mode: apply (approvals needed: 2)",
        f"Plan: {PLAN}",
        "Requested by: human alice",
        "Until: 2999-01-01T00:00:00+00:00",
    ]
    assert f"Decision: {request_id}, action sha256:" in question
    payload = (await events_of(client, request_id))[-1]["payload"]
    assert payload["assurance"] == "asserted", "that a client answered does not say who sits there"
    assert re.fullmatch(r"mcp(-http)? elicitation a_client/1\.0\\x0a sha256:[0-9a-f]{64}", payload["channel"])


async def test_the_question_shows_the_comment_that_is_recorded_in_the_persons_name(asked: Asked) -> None:
    client, person, _ = asked
    request_id = await requested(client)
    await answer(client, "approve", request_id=request_id, actor=BOB, comment="I checked\nGoal: nothing")
    assert (await events_of(client, request_id))[-1]["payload"]["comment"] == "I checked\nGoal: nothing"
    assert "Comment: I checked\\x0aGoal: nothing" in person.asked[0].splitlines()


async def test_a_plan_that_is_too_long_to_show_is_said_to_be_cut(asked: Asked) -> None:
    client, person, _ = asked
    request_id = await requested(client, plan="x" * 5_000)
    await answer(client, "approve", request_id=request_id, actor=BOB, comment="y" * 2_001)
    said = f"... (3000 of 5000 characters are left out here: `nexus-attest status {request_id} --json"
    (plan,) = [line for line in person.asked[0].splitlines() if line.startswith("Plan: ")]
    assert f"{'x' * 2_000} {said}" in plan
    assert "` shows all of it)" in plan
    assert "... (1 of 2001 characters are left out here: it is recorded whole in your name)" in person.asked[0]


async def test_the_question_shows_the_time_that_is_recorded(asked: Asked) -> None:
    client, person, _ = asked
    request_id = await requested(client)
    await answer(client, "approve", request_id=request_id, actor=BOB, expires_at="2999-W01-2T02:00+02:00")
    recorded = (await events_of(client, request_id))[-1]["payload"]["expires_at"]
    assert recorded == "2999-01-01T00:00:00+00:00"
    assert f"Until: {recorded}" in person.asked[0].splitlines()


META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
}


def call_of(server: Lines, tool: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What the server answers to a call of a client of the stateless era that shows forms, line by line."""
    params = {"name": f"nexus-attest.{tool}", "arguments": arguments, "_meta": META, **more}
    server.send({"id": 1, "method": "tools/call", "params": params})
    return server.receive()


@pytest.mark.parametrize("kept", [True, False])
def test_a_question_can_be_answered_to_another_server_of_the_store_and_after_a_restart(tmp_path: Path, kept: bool) -> None:
    options = ("--human-approval", "always", "--log-level", "error")
    with lines(tmp_path, *options) as server:
        made = call_of(server, "request", {"goal": "g", "actor": ALICE})
        arguments = {"request_id": made["result"]["structuredContent"]["request_id"], "actor": BOB}
        put = call_of(server, "approve", arguments)["result"]
        assert put["resultType"] == "input_required"
    (key,) = (tmp_path / "decisions.db.tasks").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    if not kept:
        key.unlink()
    given = {"inputResponses": {"approval": {"action": "accept", "content": {"approve": True}}}, "requestState": put["requestState"]}
    with lines(tmp_path, *options) as server:
        done = call_of(server, "approve", arguments, **given)
    if kept:
        assert done["result"]["structuredContent"]["is_approved"] is True
    else:
        assert "requestState" in done["error"]["message"]


def test_where_no_key_can_be_kept_a_question_is_good_for_as_long_as_the_server_lives(tmp_path: Path) -> None:
    (tmp_path / "decisions.db.tasks").write_text("a file where the folder should be")
    with lines(tmp_path, "--human-approval", "always", "--log-level", "warning") as server:
        made = call_of(server, "request", {"goal": "g", "actor": ALICE})
        arguments = {"request_id": made["result"]["structuredContent"]["request_id"], "actor": BOB}
        put = call_of(server, "approve", arguments)["result"]
        given = {"inputResponses": {"approval": {"action": "accept", "content": {"approve": True}}}, "requestState": put["requestState"]}
        assert call_of(server, "approve", arguments, **given)["result"]["structuredContent"]["is_approved"] is True
        _, _, errors = server.end()
    assert json.loads(errors)["message"] == "a question that is open when the server ends will have to be asked again"


@pytest.mark.parametrize(
    ("person", "code"),
    [
        (Person("decline"), "HUMAN_DECLINED"),
        (Person("accept", {"approve": False}), "HUMAN_DECLINED"),
        (Person("accept", {}), "HUMAN_DECLINED"),
        (Person("accept", {"approve": "true"}), "HUMAN_DECLINED"),
        (Person("accept", {"approve": 1}), "HUMAN_DECLINED"),
        (Person("accept"), "HUMAN_DECLINED"),
        (Person("decline", {"approve": True}), "HUMAN_DECLINED"),
        (Person("cancel", {"approve": True}), "HUMAN_REQUIRED"),
    ],
    ids=lambda value: f"{value.answer.action}-{value.answer.content}" if isinstance(value, Person) else value,
)
async def test_everything_but_a_clear_yes_leaves_the_decision_as_it_was(asked: Asked, person: Person, code: str) -> None:
    client = asked.client
    asked.person.answer = person.answer
    request_id = await requested(client)
    assert (await error_of(client, "approve", request_id=request_id, actor=BOB))["code"] == code
    assert len(await events_of(client, request_id)) == 2


async def test_a_client_that_cannot_ask_gets_the_command_and_the_command_works(alone: tuple[Client, Path], tmp_path: Path) -> None:
    client, _ = alone
    request_id = await requested(client)
    error = await error_of(client, "approve", request_id=request_id, actor={"type": "human", "id": "Bob O'Hara"})
    assert error["code"] == "HUMAN_REQUIRED"
    assert f"has to run: `{error['command']}`. Show the user that command" in error["text"]
    command = shlex.split(error["command"])
    assert command[:3] == ["nexus-attest", "approve", request_id]
    assert CommandLine(tmp_path, actor=None).run(*command[1:]).code == 0
    approval = (await events_of(client, request_id))[-1]
    assert (approval["actor"]["id"], approval["payload"]["channel"]) == ("Bob O'Hara", "cli")


async def test_the_command_for_a_person_asks_for_the_same_act(alone: tuple[Client, Path]) -> None:
    client, _ = alone
    until = "2030-01-31T18:00:00+01:00"
    request_id = await requested(client)
    error = await error_of(client, "approve", request_id=request_id, actor=BOB, comment="only today; it's late", expires_at=until)
    command = shlex.split(error["command"])
    assert command[:5] == ["nexus-attest", "approve", request_id, "--actor", "human:bob"]
    assert command[5:9] == ["--comment", "only today; it's late", "--expires-at", until]


async def test_the_command_for_a_person_is_whole_however_long_the_comment_is(alone: tuple[Client, Path]) -> None:
    client, _ = alone
    comment = "it's " * 2_000
    error = await error_of(client, "approve", request_id=await requested(client), actor=BOB, comment=comment)
    assert comment in shlex.split(error["command"])
    assert f"`{error['command']}`. Show the user that command" in error["text"]


async def test_somebody_who_never_answers_holds_the_call_for_a_limited_time(tmp_path: Path) -> None:
    """In this process, where the five minutes can be shortened, and in the era in which calls wait."""

    async def silent(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        await anyio.sleep(60)
        raise AssertionError(context, params)

    with in_process(tmp_path) as service:
        service.asker = HumanAsker(tools=service.tools, systems=True, seconds=0.05)
        async with Client(build_server(service), mode="legacy", elicitation_callback=silent) as client:
            request_id = await requested(client)
            with anyio.fail_after(30):
                error = await error_of(client, "approve", request_id=request_id, actor=BOB)
            assert error["code"] == "HUMAN_REQUIRED"
            assert "nobody answered within 0.05 seconds; run: `nexus-attest approve" in error["text"]
            assert len(await events_of(client, request_id)) == 2


async def test_nobody_is_asked_for_what_would_be_refused_anyway(asked: Asked) -> None:
    client, person, _ = asked
    assert (await error_of(client, "approve", request_id="nothing", actor=BOB))["code"] == "DECISION_NOT_FOUND"
    request_id = await requested(client)
    await answer(client, "approve", request_id=request_id, actor=BOB)
    assert (await error_of(client, "approve", request_id=request_id, actor=BOB))["code"] == "ALREADY_APPROVED"
    assert len(person.asked) == 1
    another = await requested(client)
    for time in ("", "tomorrow", "2999-01-01T00:00:00"):
        error = await error_of(client, "approve", request_id=another, actor=BOB, expires_at=time)
        assert error["code"] == "INVALID_EXPIRES_AT"
    assert len(person.asked) == 1, "an empty time is not for good"


async def test_an_answer_is_good_for_its_own_question_only(asked: Asked) -> None:
    """In the stateless era the client brings the answer, with the state that was sealed into the question."""
    given: InputResponses = {QUESTION: ElicitResult(action="accept", content={"approve": True})}
    client, person, folder = asked
    if not asked.is_stateless:
        pytest.skip("in the handshake era the server asks, and takes no answer that it did not ask for")
    assert person.asked == []
    first, second = await requested(client), await requested(client, goal="Something else")

    async def call(request_id: str, state: str | None) -> Any:
        arguments = {"request_id": request_id, "actor": BOB}
        return await client.session.call_tool(
            "nexus-attest.approve", arguments, input_responses=given, request_state=state, allow_input_required=True
        )

    put = await call(first, None)
    assert put.input_requests[QUESTION].params.message.startswith("Approve this action"), "an answer to nothing counts as none"
    for request_id, state in ((second, put.request_state), (first, put.request_state[:-2]), (first, "sha256:x")):
        with pytest.raises(MCPError, match="requestState"):
            await call(request_id, state)
    policy = Policy(min_approvals=2, allowed_modes=("dry_run",)).to_dict()
    with DecisionStore(folder / "decisions.db") as store:
        store.append_event(first, EventType.POLICY_ATTACHED, Actor(ALICE), policy)
    again = await call(first, put.request_state)
    assert "approvals needed: 2" in again.input_requests[QUESTION].params.message, "what was confirmed is not what it is now"
    assert len(await events_of(client, first)) == 3
    done = await call(first, again.request_state)
    assert done.structured_content["current_approvals"] == 1
    await answer(client, "revoke_approval", request_id=first, actor=BOB)
    replayed = await call(first, again.request_state)
    assert QUESTION in replayed.input_requests, "what was taken back needs another yes"
    assert (await answer(client, "status", request_id=first))["active_approvals"] == 0


def while_it_is_asked(service: Service, request_id: str, folder: Path, happens: str) -> None:
    """What somebody else does in between."""
    if happens == "replaced":
        assert service.tools.import_bundle(replacement(folder, request_id), conflict_mode="overwrite").success
    else:
        assert service.tools.approve(request_id, BOB).success
        assert service.tools.revoke_approval(request_id, BOB).success


@pytest.mark.parametrize("happens", ["replaced", "approved and revoked"])
async def test_a_yes_is_good_for_what_was_shown_whatever_happens_while_the_person_reads(tmp_path: Path, mode: str, happens: str) -> None:
    questions: list[str] = []

    async def reads(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        assert context.request_id is not None
        questions.append(params.message)
        if len(questions) == 2:
            return ElicitResult(action="decline")
        while_it_is_asked(service, request_id, tmp_path, happens)
        return yes().answer

    with in_process(tmp_path) as service:
        always(service)
        async with Client(build_server(service), mode=mode, elicitation_callback=reads) as client:
            request_id = await requested(client)
            error = await error_of(client, "approve", request_id=request_id, actor=BOB)
            # In the stateless era an answer to another question is none, and the person is asked again.
            assert (error["code"], len(questions)) == (("ACTION_CHANGED", 1) if mode == "legacy" else ("HUMAN_DECLINED", 2))
            standing = await answer(client, "status", request_id=request_id)
            assert (standing["active_approvals"], standing["is_approved"]) == (0, False)
    goals = ["Goal: Rotate the key", "Goal: Something else" if happens == "replaced" else "Goal: Rotate the key"]
    assert [question.splitlines()[1] for question in questions] == goals[: len(questions)]


@pytest.mark.parametrize("happens", ["replaced", "approved and revoked"])
async def test_between_the_last_look_and_the_approval_nothing_can_happen(
    tmp_path: Path, mode: str, happens: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = HumanAsker.question

    def slow(asker: HumanAsker, arguments: dict[str, Any], who: BoundActor) -> tuple[str, str]:
        found = look(asker, arguments, who)
        looked.append(found[1])
        if len(looked) == (1 if mode == "legacy" else 2):  # with an answer, so it goes on to the approval
            while_it_is_asked(service, request_id, tmp_path, happens)
        return found

    monkeypatch.setattr(HumanAsker, "question", slow)
    with in_process(tmp_path) as service:
        always(service)
        async with Client(build_server(service), mode=mode, elicitation_callback=yes()) as client:
            request_id = await requested(client)
            assert (await error_of(client, "approve", request_id=request_id, actor=BOB))["code"] == "ACTION_CHANGED"
            assert (await answer(client, "status", request_id=request_id))["active_approvals"] == 0
            assert (await answer(client, "approve", request_id=request_id, actor=BOB))["current_approvals"] == 1


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_names_that_are_only_asserted_need_no_confirmation_unless_it_is_asked_for(tmp_path: Path, connection: str) -> None:
    person = yes()
    async with connected(connection, tmp_path, elicitation_callback=person) as client:
        await answer(client, "approve", request_id=await requested(client), actor=BOB)
    assert person.asked == []


# -- the configured actor -----------------------------------------------------------------------------------------------------------


async def test_a_configured_actor_acts_whatever_the_model_writes_and_does_not_approve_itself(tmp_path: Path, mode: str) -> None:
    person = yes()
    async with configured(mode, tmp_path, "--actor", "alice", person=person) as client:
        schemas = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        assert schemas["nexus-attest.request"]["required"] == ["goal"]
        request_id = (await answer(client, "request", goal="g"))["request_id"]
        event = (await events_of(client, request_id))[0]
        assert (event["actor"], event["payload"]["assurance"], event["payload"]["channel"]) == (ALICE, "authenticated", "mcp")
        assert (await error_of(client, "request", goal="g", actor=BOB))["code"] == "ACTOR_MISMATCH"
        assert (await error_of(client, "approve", request_id=request_id))["code"] == "SELF_APPROVAL"
        assert person.asked == []
        other = CommandLine(tmp_path, actor="bob").json("request", "by somebody else")["request_id"]
        assert (await answer(client, "approve", request_id=other))["is_approved"] is True
        assert len(person.asked) == 1, "a person's bound name needs the person"
        payload = (await events_of(client, other))[-1]["payload"]
        assert payload["assurance"] == "authenticated"
        assert payload["channel"].startswith("mcp elicitation ")


async def test_self_approval_can_be_allowed(tmp_path: Path, mode: str) -> None:
    async with configured(mode, tmp_path, "--actor", "system:ci", "--allow-self-approval", person=None) as client:
        request_id = (await answer(client, "request", goal="g"))["request_id"]
        assert (await answer(client, "approve", request_id=request_id))["is_approved"] is True


async def test_a_self_approval_that_came_in_elsewhere_does_not_count(tmp_path: Path, mode: str) -> None:
    with in_process(tmp_path) as service:
        service.actors = ConfigActor(Actor(type="human", id="alice"))
        service.tools.trust = FourEyes(service.tools.trust)
        async with Client(build_server(service), mode=mode) as client:
            request_id = (await answer(client, "request", goal="g", mode="apply", plan=PLAN))["request_id"]
            CommandLine(tmp_path).json("approve", request_id)
            assert (await answer(client, "status", request_id=request_id))["is_approved"] is False
            error = await error_of(client, "execute", request_id=request_id, adapter_id=ADAPTER)
            assert "the approval of alice does not count: SELF_APPROVAL" in error["text"]
            CommandLine(tmp_path, actor="bob").json("approve", request_id)
            assert (await answer(client, "execute", request_id=request_id, adapter_id=ADAPTER))["mode"] == "apply"


async def test_what_was_requested_here_and_comes_back_as_a_bundle_under_another_name_is_still_not_approved(
    tmp_path: Path, mode: str
) -> None:
    with in_process(tmp_path) as service:
        service.actors = ConfigActor(Actor(type="system", id="agent"))
        service.tools.trust = FourEyes(service.tools.trust)
        service.asker = HumanAsker(tools=service.tools, systems=True)
        person = yes()
        async with Client(build_server(service), mode=mode, elicitation_callback=person) as client:
            own = (await answer(client, "request", goal="g", mode="apply", plan=PLAN))["request_id"]
            bundle = json.dumps((await answer(client, "export_bundle", decision_id=own))["bundle"])
            forged = bundle.replace('"system"', '"human"').replace('"agent"', '"alice"')
            for conflict_mode in ("overwrite", "new_decision_id"):
                found = await answer(client, "import_bundle", bundle=forged, conflict_mode=conflict_mode, verify_digest=False)
                request_id = found["imported"]["decision_id"]
                error = await error_of(client, "approve", request_id=request_id)
                assert (error["code"], person.asked) == ("SELF_APPROVAL", [])
                CommandLine(tmp_path, actor="bob").json("approve", request_id)
                error = await error_of(client, "execute", request_id=request_id, adapter_id=ADAPTER)
                assert "the approval of bob does not count: SELF_APPROVAL: it was imported" in error["text"]
            service.tools.trust = service.tools.trust.trust
            assert (await answer(client, "execute", request_id=request_id, adapter_id=ADAPTER))["mode"] == "apply"


# -- signed statements --------------------------------------------------------------------------------------------------------------


def signed(service: Service, request_id: str, key: Signer, **more: Any) -> dict[str, Any]:
    decision = Decision.load(service.tools.store, request_id)
    return sign_statement(statement_about(decision, "approve", Actor(BOB), utc_now(), **more), key)


@contextmanager
def trusting(folder: Path, key: Signer) -> Generator[Service]:
    """A service that knows bob's key, and nobody else."""
    known = TrustedActor(Actor(BOB), (PublicKey(key_id=key.key_id, public_key=key.public_key),))
    with in_process(folder, extra_tools=True) as service:
        service.tools.trust = FourEyes(TrustPolicy(actors=(known,)))
        service.takes_signatures = True
        service.actors = ConfigActor(Actor(type="system", id="agent"))
        yield service


async def test_a_signed_approval_is_taken_from_whoever_brings_it(tmp_path: Path, mode: str) -> None:
    key = seeded(1)
    with trusting(tmp_path, key) as service:
        service.asker = HumanAsker(tools=service.tools, systems=True)  # whoever signed need not be asked
        async with Client(build_server(service), mode=mode) as client:
            tools = {tool.name: tool.input_schema["properties"] for tool in (await client.list_tools()).tools}
            assert sorted(name for name, properties in tools.items() if "signature" in properties) == [
                f"nexus-attest.{short}" for short in ("approve", "execute", "request", "revoke_approval")
            ]
            request_id = (await answer(client, "request", goal="g"))["request_id"]
            envelope = signed(service, request_id, key, comment="checked", expires_at=datetime(2999, 1, 1, tzinfo=UTC))
            assert (await answer(client, "approve", request_id=request_id, signature=envelope))["is_approved"] is True
            approval = (await events_of(client, request_id))[-1]
            assert approval["actor"] == BOB
            assert approval["payload"] == {
                "expires_at": "2999-01-01T00:00:00+00:00",
                "comment": "checked",
                "assurance": "signed",
                "channel": "mcp",
                "signature": envelope,
            }


async def test_a_signature_that_is_not_bobs_about_this_is_refused(tmp_path: Path, mode: str) -> None:
    key = seeded(1)
    with trusting(tmp_path, key) as service:
        async with Client(build_server(service), mode=mode) as client:
            request_id, other = [(await answer(client, "request", goal=goal))["request_id"] for goal in "ab"]
            good = signed(service, request_id, key)
            wrong: list[tuple[dict[str, Any], str]] = [
                ({"signature": signed(service, request_id, seeded(2))}, "KEY_UNKNOWN"),
                ({"signature": {**good, "signatures": [{**good["signatures"][0], "sig": "A" * 86 + "=="}]}}, "SIGNATURE_INVALID"),
                ({"signature": signed(service, other, key)}, "SIGNATURE_FOR_OTHER_DECISION"),
                ({"signature": good, "actor": ALICE}, "SIGNATURE_FOR_OTHER_ACTOR"),
                ({"signature": good, "comment": "something that bob did not say"}, "SIGNATURE_FOR_OTHER_COMMAND"),
                ({"signature": "{}"}, "ENVELOPE_INVALID"),
                ({"signature": {}}, "ENVELOPE_INVALID"),
                ({"signature": 5}, "INVALID_ARGUMENTS"),
            ]
            for arguments, code in wrong:
                assert (await error_of(client, "approve", request_id=request_id, **arguments))["code"] == code
            await answer(client, "approve", request_id=request_id, signature=good)
            assert (await error_of(client, "execute", request_id=request_id, adapter_id=ADAPTER, signature=good))["code"] == (
                "SIGNATURE_FOR_OTHER_COMMAND"
            )


async def test_what_the_requester_signed_is_no_second_pair_of_eyes(tmp_path: Path, mode: str) -> None:
    key = seeded(1)
    with trusting(tmp_path, key) as service:
        service.actors = ConfigActor(Actor(BOB))
        async with Client(build_server(service), mode=mode) as client:
            request_id = (await answer(client, "request", goal="g"))["request_id"]
            error = await error_of(client, "approve", request_id=request_id, signature=signed(service, request_id, key))
            assert error["code"] == "SELF_APPROVAL"


async def test_without_a_trust_policy_there_is_no_such_argument(tmp_path: Path, mode: str) -> None:
    with in_process(tmp_path) as service:
        async with Client(build_server(service), mode=mode) as client:
            error = await error_of(client, "approve", request_id="x", actor=BOB, signature={})
            assert (error["code"], error["paths"]) == ("INVALID_ARGUMENTS", ["$.signature"])


@pytest.mark.parametrize("connection", CONNECTIONS)
async def test_the_trust_option_makes_a_server_take_signatures(tmp_path: Path, connection: str) -> None:
    key = seeded(1)
    path = tmp_path / "trust.toml"
    path.write_text(f'version = 1\n[[actors]]\nid = "bob"\n[[actors.keys]]\npublic_key = "{b64encode(key.public_key).decode()}"\n')

    def prepare(service: Service) -> None:
        service.tools.trust, service.takes_signatures = load_trust(path), True

    async with connected(connection, tmp_path, "--trust", str(path), prepare=prepare) as client:
        request_id = await requested(client)
        with in_process(tmp_path) as service:
            envelope = signed(service, request_id, key)
        assert (await answer(client, "approve", request_id=request_id, actor=BOB, signature=envelope))["is_approved"] is True
        refused = await error_of(client, "revoke_approval", request_id=request_id, actor=BOB, signature=envelope)
        assert refused["code"] == "SIGNATURE_FOR_OTHER_COMMAND"


def seeded(number: int) -> Signer:
    return decoded_seed(b64encode(bytes([number]) * 32).decode(), "a test")
