"""Nonsense in every file that is read, in every argument of the command line, and in every text that is shown.

Each kind of file is made once as it should be, then damaged in generated ways: byte by byte, member by member, in encoding, size, depth and
numbers. Whatever comes: one named error or an answer, no traceback, nothing written by what was refused, and nothing on the terminal
that a file or an argument put there to control it.
"""

import base64
import io
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from mcp_testing import connected, events_of
from store_testing import CAROL
from typer.main import get_command

from nexus_attest.attestation import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.cli import app as app_module
from nexus_attest.cli.app import run
from nexus_attest.keys import new_key
from nexus_attest.server.results import ERROR_KEY
from nexus_control.decision import Decision
from nexus_control.events import Actor, EventType
from nexus_control.integrity import PREFIX
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else a small part of the damage; `make faults` does all of it."""

DAMAGES = 400 if EVERY_STEP else 15
"""Of each kind of file."""

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""What must not reach a terminal."""

HOSTILE = "\x1b]0;t\x07\x1b[31mred\r\nFAKE \u202egnp \x9b1m <script>alert(1)</script> [l](javascript:x) `x` | '; DROP TABLE log; -- ../../x"

DEEP = 100_000

VALUES: list[Any] = [
    *(None, True, 0, -1, 2**63, 10**400, 1.5, 1e308, "", "x", HOSTILE, "\ud800", "\x00", "x" * 100_000, "../../no/such/file"),
    *("9999-99-99T99:99:99+00:00", "2025-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "sha256:" + "g" * 64, "sha256:" + "0" * 63),
    *([], {}, [None], [[]], {"": None}, {"type": "human", "id": "mallory"}, ["x"] * 10_000, {"a": {"a": {"a": {}}}}),
]

TEXTS: list[bytes] = [
    *(b"", b" ", b"\x00", b"null", b"0", b'""', b"[]", b"{}", b"[" * DEEP, b'{"a":' * DEEP, b"[[table]]\n" * 1000, b"\xff\xfe{\x00}\x00"),
    *(
        b"\xef\xbb\xbf{}",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b'{"a": 1, "a": 2}',
        b'"\\ud800"',
        b"\n" * 100_000,
        b"{" + b"\x80" * 100,
    ),
    *(b"a = 1\na = 2\n", b"a" * 1_000_000, b'= "', b"\x1b[31m", b"\r\n\r\n", b"[a]\n[a]\n"),
]


def damaged(content: bytes, source: random.Random) -> bytes:
    """The content with one thing wrong with it."""
    way = source.randrange(6)
    if way == 0:
        return source.choice(TEXTS)
    if way == 1:
        return content[: source.randrange(len(content))]
    if way == 2:
        at = source.randrange(len(content))
        return content[:at] + bytes([source.randrange(256)]) + content[at + 1 :]
    if way == 3:
        start, end = sorted(source.sample(range(len(content)), 2))
        return content[:start] + content[end:]
    try:
        document: Any = json.loads(content)
    except ValueError:  # TOML, or a note: a value of one of its lines
        lines = content.decode().split("\n")
        at = source.randrange(len(lines))
        name = lines[at].partition("=")[0]
        lines[at] = (
            f"{name}= {source.choice(['[]', '{}', '-1', '1e999', 'nan', 'true', '1979-05-27', json.dumps('x' * 9999), repr(HOSTILE)])}"
        )
        return "\n".join(lines).encode()
    place, key = source.choice(list(places(document)))
    change = source.randrange(4)
    if change == 0 and isinstance(place, dict):
        del place[key]
    elif change == 1 and isinstance(place, dict):
        cast("dict[str, Any]", place)[HOSTILE] = source.choice(VALUES)
    else:
        place[key] = source.choice(VALUES)
    return json.dumps(document).encode()


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every object and list of a document with each of its keys or numbers."""
    if isinstance(value, dict):
        pairs: list[tuple[Any, Any]] = list(cast("dict[Any, Any]", value).items())
    elif isinstance(value, list):
        pairs = list(enumerate(cast("list[Any]", value)))
    else:
        return
    for key, member in pairs:
        yield value, key
        yield from places(member)


# -- a desk with everything on it ---------------------------------------------------------------------------------------------------


class Router:
    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}


@dataclass
class Desk:
    folder: Path
    id: str
    open_id: str

    def words(self, arguments: tuple[str, ...]) -> list[str]:
        return [argument.format(id=self.id, open=self.open_id) for argument in arguments]

    def size(self) -> int:
        with DecisionStore(self.folder / "decisions.db") as store:
            return store.log_root()[0]


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str


def ask(*arguments: str) -> Told:
    """One command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(arguments)
    return Told(code, out.getvalue(), err.getvalue())


def require_clean(told: Told, where: object, *, codes: tuple[int, ...] = (0, 2)) -> None:
    """An answer or a named error, and nothing that controls a terminal."""
    assert told.code in codes, (where, told)
    for text in (told.out, told.err):
        assert "Traceback" not in text, (where, told)
        assert "INTERNAL" not in text, (where, told)
        found = CONTROLS.search(text)
        assert found is None, (where, found, told)
    assert told.code == 0 or len(told.err) < 20_000, (where, len(told.err))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    folder.chmod(0o700)
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module, "app", get_command(app_module.app))
        for name in ("NO_COLOR", "FORCE_COLOR", "XDG_DATA_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("NEXUS_ATTEST_DB", str(folder / "decisions.db"))
        patch.setenv("NEXUS_ATTEST_KEYS", str(folder / "keys"))
        patch.setenv("NEXUS_ATTEST_ACTOR", "alice")
        patch.setenv("COLUMNS", "100")
        yield prepared(folder)
    os.chdir(before)


def prepared(folder: Path) -> Desk:
    (folder / "keys").mkdir(mode=0o700)
    (folder / "config" / "nexus-attest").mkdir(parents=True)
    for name in ("log", "alice"):
        new_key(folder / "keys", name)
    (folder / "adapters.toml").write_text(
        '[[adapters]]\nid = "subprocess:tool"\nkind = "subprocess"\ncommand = ["/bin/true"]\nallow = ["t/m"]\ntimeout_s = 60\n'
    )
    (folder / "config.toml").write_text('actor = "alice"\nadapters = "adapters.toml"\n')
    with DecisionStore(folder / "decisions.db") as store:
        tools = NexusControlTools(store)
        name, other = (tools.request("Rotate", CAROL, mode="apply", labels=["prod"]).data["request_id"] for _ in range(2))
        assert tools.approve(name, CAROL, comment="checked", expires_at="2999-01-01T00:00:00+00:00").success
        assert tools.execute(name, "ad", CAROL, Router()).success
    desk = Desk(folder, name, other)
    key = json.loads(ask("keys", "show", "alice", "--actor", "alice", "--json").out)
    log = json.loads(ask("keys", "show", "log", "--log", "example.org/log", "--json").out)
    attestor = f'[[attestors]]\nid = "bot"\nkey_id = "{key["key_id"]}"\npublic_key = "{key["public_key"]}"\n'
    (folder / "trust.toml").write_text(f'version = 1\n{key["trust"]}\n[[log_keys]]\nkey = "{log["verifier_key"]}"\n{attestor}')
    for arguments in (
        ("bundle", "export", "{id}", "-o", "bundle.json"),
        ("audit", "export", "{id}", "-o", "package.json"),
        ("log", "checkpoint", "--key", "log", "--origin", "example.org/log", "-o", "checkpoint.txt"),
        ("case", "export", "{id}", "-o", "case.json"),
        ("attest", "sign", "package.json", "--claim", "seen", "--key", "alice", "--attestor", "bot", "-o", "attestation.json"),
        ("bundle", "export", "{open}", "-o", "open.json"),
        ("sign", "approve", "open.json", "--key", "alice", "--actor", "alice", "-o", "envelope.json"),
    ):
        told = ask(*desk.words(arguments))
        assert told.code == 0, (arguments, told)
    with AttestationQueue(folder / "decisions.db") as queue:
        binding = json.loads((folder / "package.json").read_text())["integrity"]["binding_digest"]
        assert binding.startswith(PREFIX)
        queue_id = queue.enqueue(AttestationIntent("nexus.audit_package", binding))
    told = ask("narrative", "show", queue_id, "-o", "narrative.json")
    assert told.code == 0, told
    public = base64.b64decode(key["public_key"]).hex()
    (folder / "public").write_text(public)
    return desk


# -- files --------------------------------------------------------------------------------------------------------------------------

READERS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "bundle": (
        "bundle.json",
        (
            ("verify", "damaged"),
            ("bundle", "import", "damaged", "--conflict", "new_decision_id"),
            ("bundle", "import", "damaged", "--conflict", "new_decision_id", "--no-verify-digest"),
            ("bundle", "import", "damaged", "--conflict", "new_decision_id", "--no-verify-digest", "--no-replay"),
        ),
    ),
    "audit package": ("package.json", (("verify", "damaged"), ("verify", "damaged", "--strict", "--trust", "trust.toml"))),
    "case file": ("case.json", (("verify", "damaged"), ("verify", "damaged", "--trust", "trust.toml", "--checkpoint", "checkpoint.txt"))),
    "attestation": ("attestation.json", (("attest", "verify", "damaged", "--trust", "trust.toml"),)),
    "envelope": ("envelope.json", (("approve", "{open}", "--envelope", "damaged", "--trust", "trust.toml"),)),
    "bundle to be signed": ("open.json", (("sign", "approve", "damaged", "--key", "alice", "--actor", "alice", "-o", "-"),)),
    "narrative": ("narrative.json", (("narrative", "verify", "damaged"), ("narrative", "show", "damaged"))),
    "checkpoint": ("checkpoint.txt", (("log", "verify", "--checkpoint", "damaged"), ("log", "consistency", "damaged"))),
    "trust policy": ("trust.toml", (("trust", "check", "damaged"), ("status", "{id}", "--trust", "damaged"))),
    "adapter file": (
        "adapters.toml",
        (
            ("adapters", "list", "damaged"),
            ("adapters", "check", "damaged", "--file-only"),
            ("execute", "{open}", "subprocess:tool", "--adapters", "damaged"),
        ),
    ),
    "key file": ("keys/alice.key", (("keys", "show", "./damaged"), ("sign", "approve", "open.json", "--key", "./damaged", "-o", "-"))),
    "configuration": ("config.toml", (("list",), ("execute", "{open}", "nothing"))),
}


@pytest.mark.parametrize("which", READERS)
def test_a_damaged_file_is_answered_or_refused_by_name(made: Desk, which: str) -> None:
    name, readers = READERS[which]
    content, path = (made.folder / name).read_bytes(), made.folder / "damaged"
    configuration = made.folder / "config" / "nexus-attest" / "config.toml"
    if which == "configuration":
        path = configuration
    source = random.Random(which)
    answers = set[int]()
    try:
        for number in range(DAMAGES):
            path.write_bytes(damaged(content, source))
            path.chmod(0o600)
            before = made.size()
            for reader in readers:
                told = ask(*made.words(reader))
                require_clean(told, (which, number, reader))
                answers.add(told.code)
                if told.code:
                    assert made.size() == before, (which, number, reader)
                    assert told.err or told.out, (which, number, reader)
                as_json = ask(*made.words(reader), "--json")
                require_clean(as_json, (which, number, reader))
                assert type(json.loads(as_json.out)) is dict, (which, number, reader)
    finally:
        path.unlink()
    assert 2 in answers


def test_what_was_imported_with_its_checks_switched_off_hides_no_other_decision(made: Desk) -> None:
    listed = ask("list", "--limit", "100000", "--json")
    found = {entry["request_id"]: entry["state"] for entry in json.loads(listed.out)["requests"]}
    assert (found[made.id], found[made.open_id]) == ("completed", "pending_approval")
    with DecisionStore(made.folder / "decisions.db") as store:
        assert store.verify_log(made.id).ok
        assert store.verify_log(made.open_id).ok


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
    "1e999",
    "nan",
    "../../no/such/x",
    "a\udcffb",
    "'; --",
]
NOT_ASKED = {"serve", "demo", "backup", "restore", "migrate"}
"""Servers, and commands that write where they are told to."""


def every_command() -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))
            elif name not in NOT_ASKED:
                yield (*path, name), command.whole().params

    yield from walk(get_command(app_module.app), ())


COMMANDS = dict(every_command())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nonsense_in_any_word_of_a_command_is_answered_or_refused(
    made: Desk, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(made.folder / "decisions.db", tmp_path / "decisions.db")
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(tmp_path / "decisions.db"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    parameters = [parameter for parameter in COMMANDS[command] if parameter.name not in ("help", "as_json", "debug", "asked")]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    source = random.Random(" ".join(command))
    for number in range(60 if EVERY_STEP else 8):
        words = [source.choice([*WORDS, made.open_id]) for argument in arguments if argument.required or source.random() < 0.5]
        given: list[str] = []
        for option in source.sample(options, min(len(options), source.randrange(4))):
            given += [option.opts[0]] if option.is_flag else [option.opts[0], source.choice(WORDS)]
        told = ask(*command, *given, *(["--json"] if number % 2 else []), "--", *words)
        require_clean(told, (command, given, words), codes=(0, 1, 2))
        # `doctor` names what came in with damaged bundles whose checks were switched off.
        assert told.code != 1 or re.search("STORE_|IO_ERROR|needs? attention", told.err + told.out), (command, given, words, told)


# -- tools of the MCP server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


ACTOR = {"type": "human", "id": "alice"}


@pytest.mark.anyio
async def test_nonsense_in_any_argument_of_an_mcp_tool_is_answered_or_refused_by_name(tmp_path: Path) -> None:
    source = random.Random("mcp")
    codes = set[str]()
    async with connected("memory-stateless", tmp_path) as client:
        known = (await client.call_tool("nexus-attest.request", {"goal": "g", "actor": ACTOR})).structured_content
        assert known is not None
        valid: dict[str, Any] = {"goal": "g", "actor": ACTOR, "name": "t", "adapter_id": "subprocess:tool", "bundle": {}}
        for tool in (await client.list_tools()).tools:
            members: dict[str, Any] = tool.input_schema["properties"]
            for member in [*members, HOSTILE]:
                for value in VALUES if EVERY_STEP else source.sample(VALUES, 3):
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
