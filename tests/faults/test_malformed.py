"""Nonsense in every word of the command line, in every argument of an MCP tool, and in every text that is shown.

Whatever comes: one named error or an answer, no traceback, nothing written by what was refused, and nothing on the terminal or the page
that an argument or an event put there to control it. Files are the matter of `test_malformed_files.py`.
"""

import io
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from malformed_testing import CONTROLS, EVERY_COMMAND, EVERY_STEP, HOSTILE, VALUES, Desk, Router, ask, desk, files_in, require_clean
from mcp_testing import connected, events_of

from nexus_attest.server.results import ERROR_KEY
from nexus_control.decision import Decision
from nexus_control.events import Actor, EventType
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("desk")) as found:
        yield found


# -- words on the command line ------------------------------------------------------------------------------------------------------

WORDS = [
    HOSTILE.replace("\x00", ""),
    "",
    "-",
    "--",
    "x" * 5_000,
    "0",
    "-1",
    "9" * 400,
    "9" * 5_000,
    "127.0.0.1:" + "9" * 5_000,
    "1e999",
    "nan",
    "../../no/such/x",
    "a\udcffb",
    "'; --",
]
NOT_ASKED = {"demo"}
"""It takes seconds whenever its folder can be made: test_demo.py plays it in a folder with a hostile name, and below is what it refuses."""


COMMANDS = [path for path in EVERY_COMMAND if path[0] not in NOT_ASKED]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nonsense_in_any_word_of_a_command_is_answered_or_refused(
    made: Desk, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "b"  # so that ../../ is still of this test
    folder.mkdir(parents=True)
    shutil.copy(made.folder / "decisions.db", folder / "decisions.db")
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(folder / "decisions.db"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    parameters = [parameter for parameter in EVERY_COMMAND[command] if parameter.name not in ("help", "as_json", "debug", "asked")]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    source = random.Random(" ".join(command))
    asked: list[tuple[list[str], list[str]]] = []
    for _ in range(60 if EVERY_STEP else 8):
        known = [*WORDS, made.open_id, "decisions.db"]
        words = [source.choice(known) for argument in arguments if argument.required or source.random() < 0.5]
        given: list[str] = []
        for option in source.sample(options, min(len(options), source.randrange(4))):
            given += [option.opts[0]] if option.is_flag else [option.opts[0], source.choice(WORDS)]
        asked.append((given, words))
    for option in options:  # each by itself, beside words that are as good as they can be here
        good = [made.open_id for argument in arguments if argument.required]
        for word in [] if option.is_flag else WORDS if EVERY_STEP else source.sample(WORDS, 2):
            asked.append(([option.opts[0], word], good))
    for number, (given, words) in enumerate(asked):
        before = files_in(tmp_path)
        told = ask(*command, *given, *(["--json"] if number % 2 else []), "--", *words)
        require_clean(told, (command, given, words), codes=(0, 1, 2))
        # A store that the command may make is made before the rest is looked at; then nothing is in it.
        for path in files_in(tmp_path) - before if told.code else ():
            with DecisionStore(path) as store:
                assert store.log_root()[0] == 0, (command, given, words, path)
        # `doctor` names what came in with damaged bundles whose checks were switched off.
        assert told.code != 1 or re.search("STORE_|IO_ERROR|needs? attention", told.err + told.out), (command, given, words, told)


def test_a_demonstration_in_a_place_that_is_no_folder_for_it_writes_nothing(
    made: Desk,  # noqa: ARG001 - the environment
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "decisions.db").write_text("mine")
    before = files_in(tmp_path)
    for word, code in {"file": 2, "dangling": 2, "full": 2, "": 2, "file/x": 1, "x" * 5_000: 1}.items():
        for given in ([], ["--json"]):
            told = ask("demo", "--dir", word, *given)
            require_clean(told, word, codes=(code,))
            assert code == 2 or "IO_ERROR" in told.err + told.out, told
            assert files_in(tmp_path) == before, word
    assert (tmp_path / "full" / "decisions.db").read_text() == "mine"


# -- tools of the MCP server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


ACTOR = {"type": "human", "id": "alice"}


@pytest.mark.anyio
@pytest.mark.parametrize(("connection", "values"), [("memory-stateless", 3), ("stdio-handshake", 1)])
async def test_nonsense_in_any_argument_of_an_mcp_tool_is_answered_or_refused_by_name(tmp_path: Path, connection: str, values: int) -> None:
    source = random.Random("mcp")
    codes = set[str]()
    async with connected(connection, tmp_path) as client:
        known = (await client.call_tool("nexus-attest.request", {"goal": "g", "actor": ACTOR})).structured_content
        assert known is not None
        valid: dict[str, Any] = {"goal": "g", "actor": ACTOR, "name": "t", "adapter_id": "subprocess:tool", "bundle": {}}
        for tool in (await client.list_tools()).tools:
            members: dict[str, Any] = tool.input_schema["properties"]
            for member in [*members, HOSTILE]:
                for value in VALUES if EVERY_STEP else source.sample(VALUES, values):
                    if value == "\ud800" or value == 10**400:
                        continue  # which no JSON text can carry to the server
                    base = {key: valid.get(key, known["request_id"]) for key in tool.input_schema.get("required", ())}
                    before = events_of(tmp_path)
                    result = await client.call_tool(tool.name, {**base, member: value})
                    where = (tool.name, member, repr(value)[:80])
                    text = "".join(getattr(part, "text", "") for part in result.content)
                    assert "Traceback" not in text, where
                    if not result.is_error:
                        continue
                    code = (result.meta or {})[ERROR_KEY]["code"]
                    codes.add(code)
                    assert re.fullmatch("[A-Z][A-Z0-9_]+", code), where
                    assert code != "INTERNAL", (where, text)
                    assert len(text) < 5_000, where
                    if not tool.name.endswith(".execute"):  # a run that failed is on the record
                        assert events_of(tmp_path) == before, where
        assert (await client.call_tool("nexus-attest.status", {"request_id": known["request_id"]})).is_error is False
    assert codes >= {"INVALID_ARGUMENTS", "DECISION_NOT_FOUND"}


# -- what is shown ------------------------------------------------------------------------------------------------------------------


def test_text_of_users_in_any_field_of_an_event_cannot_touch_the_terminal_or_the_page(made: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made.folder / "hostile.db"
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(path))
    actor = Actor(type="human", id=HOSTILE)
    policy: dict[str, Any] = {
        "min_approvals": 1,
        "allowed_modes": ["dry_run", "apply"],
        "require_adapter_capabilities": [HOSTILE],
        "labels": [HOSTILE],
        "template_name": HOSTILE,
        "template_digest": HOSTILE,
        "template_snapshot": {HOSTILE: HOSTILE},
        "overrides_applied": {HOSTILE: HOSTILE},
    }
    events: list[tuple[EventType, dict[str, Any]]] = [
        (EventType.DECISION_CREATED, {"goal": HOSTILE, "plan": HOSTILE, "requested_mode": HOSTILE, "labels": [HOSTILE]}),
        (EventType.POLICY_ATTACHED, policy),
        (EventType.APPROVAL_GRANTED, {"comment": HOSTILE, "expires_at": None}),
        (EventType.APPROVAL_REVOKED, {"reason": HOSTILE}),
        (EventType.APPROVAL_GRANTED, {"comment": HOSTILE, "expires_at": None}),
        (EventType.EXECUTION_REQUESTED, {"adapter_id": HOSTILE, "dry_run": False}),
        (EventType.EXECUTION_STARTED, {"router_request_digest": HOSTILE}),
        (EventType.EXECUTION_FAILED, {"error_code": HOSTILE, "error_message": HOSTILE, "run_id": HOSTILE}),
    ]
    with DecisionStore(path) as store:
        for count in range(1, len(events) + 1):
            store.append_events(f"{HOSTILE}{count}", [(kind, actor, payload) for kind, payload in events[:count]], create=True)
            Decision.load(store, f"{HOSTILE}{count}")
    for count in range(1, len(events) + 1):
        name = f"{HOSTILE}{count}"
        for command in (
            ("status", name),
            ("inspect", name),
            ("inspect", name, "--markdown"),
            ("inspect", name, "--events"),
            ("log", "verify", name),
        ):
            told = ask(*command)
            require_clean(told, command)
            assert told.code == 0
            if "--markdown" in command:
                assert "<script" not in told.out
                assert "](javascript" not in told.out
        for command in (("bundle", "export"), ("audit", "export"), ("case", "export")):
            require_clean(ask(*command, name, "-o", "shown.json", "--force"), command)
            if (made.folder / "shown.json").exists():
                require_clean(ask("verify", "shown.json"), command)
    require_clean(ask("list", "--limit", "100"), "list")


RENDERERS: dict[str, Callable[[NexusControlTools, str], str | None]] = {
    "inspect": lambda tools, name: tools.inspect(name).data.get("rendered"),
    "bundle": lambda tools, name: tools.export_bundle(name).data.get("rendered"),
    "audit package": lambda tools, name: tools.export_audit_package(name).data.get("rendered"),
}


@pytest.mark.parametrize("which", RENDERERS)
def test_a_rendered_document_has_no_markup_of_users_in_it(which: str) -> None:
    actor = Actor(type="human", id=HOSTILE)

    class Hostile(Router):
        def run(self, **_: Any) -> dict[str, Any]:
            return {"run_id": HOSTILE, "steps_executed": 1}

    with DecisionStore() as store:
        tools = NexusControlTools(store)
        assert tools.template_create(HOSTILE, actor, HOSTILE, allowed_modes=["dry_run", "apply"], labels=[HOSTILE]).success
        name = tools.request(HOSTILE, actor, "apply", HOSTILE, HOSTILE, labels=[HOSTILE]).data["request_id"]
        assert tools.approve(name, actor, comment=HOSTILE).success
        assert tools.execute(name, HOSTILE, actor, Hostile()).success
        rendered = RENDERERS[which](tools, name)
    assert rendered is not None
    assert CONTROLS.search(rendered) is None
    assert "<script" not in rendered
    assert "](javascript" not in rendered
    assert "\nFAKE" not in rendered
