"""Every command in this process: what it accepts, what it refuses, with which code, and what hostile text may not do to it."""

import io
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ADAPTER, program
from typer.testing import CliRunner

from nexus_attest.cli import files, main
from nexus_attest.cli.app import app
from nexus_attest.cli.command import LazyCommand
from nexus_attest.cli.errors import exit_code
from nexus_attest.cli.settings import config_path, parse_actor_text, store_place
from nexus_control import errors
from nexus_control.errors import InvalidActor
from nexus_control.events import EventType
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

ALICE = {"type": "human", "id": "alice"}


class Here:
    """Runs commands in this process against one store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.db = folder / "decisions.db"

    def __call__(self, *arguments: str, code: int = 0, stdin: str | bytes | None = None) -> str:
        """Standard output of a command that ends with `code`."""
        done = CliRunner().invoke(app, list(arguments), input=stdin)
        assert done.exit_code == code, (done.exit_code, done.output, done.exception)
        self.err = done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0, stdin: str | bytes | None = None) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self(*arguments, "--json", code=code, stdin=stdin))
        assert type(value) is dict
        return value

    def refused(self, *arguments: str, code: int = 2, stdin: str | bytes | None = None) -> str:
        """The error code of a command that is refused, told both as JSON and to people."""
        told = self.json(*arguments, code=code, stdin=stdin)
        assert told["success"] is False
        assert self(*arguments, code=code, stdin=stdin) == ""
        assert self.err.startswith("nexus-attest: ")
        assert "Traceback" not in self.err
        return told["code"]

    def request(self, *options: str) -> str:
        return self("request", "Do it", "-q", *options).strip()


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(tmp_path)
    here = Here(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "NEXUS_ATTEST_DEBUG", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(here.db))
    monkeypatch.setenv("NEXUS_ATTEST_ACTOR", "alice")
    monkeypatch.setenv("COLUMNS", "200")
    return here


# -- who and where ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("alice", "human", "alice"),
        ("human:alice", "human", "alice"),
        ("system:ci", "system", "ci"),
        ("alice@example.org", "human", "alice@example.org"),
        ("human:system:ci", "human", "system:ci"),
        ("system:urn:x:1", "system", "urn:x:1"),
        ("Zoë Ω", "human", "Zoë Ω"),
    ],
)
def test_an_actor_is_a_person_unless_it_says_system(text: str, kind: str, name: str) -> None:
    assert parse_actor_text(text) == {"type": kind, "id": name}


@pytest.mark.parametrize(
    "text",
    ["", " ", "alice ", " alice", "human: alice", "human:", "system:", "system: ", "robot:x", "System:ci", ":x", "\ud800", "a\udcff"],
)
def test_actor_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidActor):
        parse_actor_text(text)


def test_nothing_is_written_for_actor_nonsense(cli: Here) -> None:
    assert cli.refused("request", "x", "--actor", "robot:x") == "INVALID_ACTOR"
    assert not cli.db.exists()


def test_a_missing_actor_is_told_the_three_ways(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUS_ATTEST_ACTOR")
    assert cli.refused("request", "x") == "ACTOR_MISSING"
    for way in ("--actor NAME", "NEXUS_ATTEST_ACTOR", 'actor = "NAME"', str(cli.folder / "config" / "nexus-attest" / "config.toml")):
        assert way in cli.err


def test_an_option_wins_over_the_environment_and_that_over_the_configuration(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    config = cli.folder / "config" / "nexus-attest" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('actor = "system:configured"\ndb = "configured.db"\n')

    def creator(*options: str) -> object:
        request_id = cli.request(*options)
        options = tuple(option for option in options if option != "bob" and option != "--actor")
        return cli.json("status", request_id, "--events", *options)["events"][0]["actor"]["id"]

    assert creator("--actor", "bob") == "bob"
    assert creator() == "alice"
    monkeypatch.delenv("NEXUS_ATTEST_ACTOR")
    assert creator() == "configured"
    assert not (config.parent / "configured.db").exists()
    monkeypatch.delenv("NEXUS_ATTEST_DB")
    cli.request()
    assert (config.parent / "configured.db").exists()
    assert creator("--db", str(cli.folder / "given.db")) == "configured"
    assert (cli.folder / "given.db").exists()


@pytest.mark.parametrize(
    "text",
    ["actors = 'x'", "actor = 3", "actor = ''", "[actor]", "actor = ", "\x00", "actor = 'x'\nactor = 'y'", "db = ['x']", "a" + ".a" * 9000],
    ids=["key", "number", "empty", "table", "open", "zero byte", "twice", "list", "a key of 9,000 names"],
)
def test_a_configuration_is_understood_completely_or_refused(cli: Here, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("NEXUS_ATTEST_ACTOR")
    config = cli.folder / "config" / "nexus-attest" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(text)
    assert cli.refused("request", "x") == "CONFIG_INVALID"
    assert str(config) in cli.err


def test_a_configuration_that_is_no_text_or_a_folder_is_refused(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUS_ATTEST_ACTOR")
    config = cli.folder / "config" / "nexus-attest" / "config.toml"
    config.mkdir(parents=True)
    assert cli.refused("request", "x") == "CONFIG_INVALID"
    config.rmdir()
    config.write_bytes(b"actor = '\xff'")
    assert cli.refused("request", "x") == "CONFIG_INVALID"


def test_verify_needs_neither_store_nor_actor_nor_a_sound_configuration(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("bundle", "export", cli.request())
    monkeypatch.delenv("NEXUS_ATTEST_ACTOR")
    monkeypatch.setenv("NEXUS_ATTEST_DB", "/nowhere/at/all.db")
    config = cli.folder / "config" / "nexus-attest" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("nonsense")
    assert cli.json("verify", "decision-bundle.json")["ok"] is True
    assert cli.err.startswith("No trust policy is used: ")


@pytest.mark.parametrize(
    ("platform", "environment", "config", "data"),
    [
        ("linux", {}, "home/.config/nexus-attest", "home/.local/share/nexus-attest"),
        (
            "linux",
            {"XDG_CONFIG_HOME": "relative", "XDG_DATA_HOME": "relative"},
            "home/.config/nexus-attest",
            "home/.local/share/nexus-attest",
        ),
        ("darwin", {}, "home/Library/Application Support/nexus-attest", "home/Library/Application Support/nexus-attest"),
        ("win32", {"APPDATA": "roaming", "LOCALAPPDATA": "local"}, "roaming/nexus-attest", "local/nexus-attest"),
        ("win32", {"XDG_CONFIG_HOME": "{root}/c", "XDG_DATA_HOME": "{root}/d"}, "c/nexus-attest", "d/nexus-attest"),
    ],
)
def test_files_of_a_user_are_where_the_platform_puts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], config: str, data: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("NEXUS_ATTEST_DB", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("{root}", str(tmp_path)))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "platform", platform)
    assert config_path().absolute() == tmp_path / config / "config.toml"
    assert Path(store_place(None)[0]).absolute() == tmp_path / data / "decisions.db"
    assert store_place(None)[1] is True


@pytest.mark.parametrize(("given", "path"), [("~/x.db", "x.db"), ("~/team/y.db", "team/y.db"), ("~", ".")])
def test_a_store_in_the_home_folder_may_be_given_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, path: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NEXUS_ATTEST_DB", given)
    assert store_place(None) == (tmp_path / path, False)


def test_a_tilde_without_a_known_user_is_refused(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_ATTEST_DB", "~nobody-of-this-name/x.db")
    assert cli.refused("list") == "CONFIG_INVALID"
    assert "~nobody-of-this-name has no home folder" in cli.err


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_folder_nothing_lands_anywhere_else(cli: Here, monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    cli.request()  # both the store and the actor are given
    monkeypatch.setenv("NEXUS_ATTEST_DB", "~/x.db")
    assert cli.refused("list") == "CONFIG_INVALID"
    monkeypatch.delenv("NEXUS_ATTEST_DB")
    for command in (["list"], ["request", "x"]):
        assert cli.refused(*command) == "CONFIG_INVALID"
        assert "HOME is not set to an absolute path" in cli.err
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cli.folder / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(cli.folder / "data"))
    cli.request()
    assert (cli.folder / "data" / "nexus-attest" / "decisions.db").exists()
    assert not (cli.folder / "relative").exists()


# -- stores -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["list"], ["status", "x"], ["approve", "x"], ["recover", "x"], ["log", "verify"], ["template", "list"], ["bundle", "export", "x"]],
)
def test_a_command_that_needs_a_store_does_not_make_one(cli: Here, command: list[str]) -> None:
    assert cli.refused(*command) == "STORE_NOT_FOUND"
    assert not cli.db.exists()


def test_memory_is_a_file_name_like_any_other(cli: Here) -> None:
    request_id = cli.request("--db", ":memory:")
    assert cli.json("status", request_id, "--db", ":memory:")["goal"] == "Do it"
    assert Path(":memory:").is_file()


def test_a_store_in_a_folder_that_is_missing_is_an_error_of_the_store(cli: Here) -> None:
    assert cli.refused("request", "x", "--db", str(cli.folder / "no" / "x.db"), code=1) == "STORE_ERROR"
    assert "check that the folder exists" in cli.err
    assert not (cli.folder / "no").exists()


def test_a_command_that_only_reads_leaves_every_byte_of_the_store(cli: Here) -> None:
    request_id = cli.request()
    content = cli.db.read_bytes()
    commands = [
        ["list"],
        ["status", request_id],
        ["inspect", request_id],
        ["template", "list"],
        ["log", "verify"],
        ["log", "verify", request_id],
        ["log", "prove", "1"],
        ["bundle", "export", request_id],
        ["doctor"],
        ["backup", "copy.db"],
        ["migrate", str(cli.db), "other.db"],
    ]
    for command in commands:
        cli(*command)
        assert (command, cli.db.read_bytes() == content) == (command, True)


@pytest.mark.parametrize("content", [b"hello", b"x" * 100_000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_store_that_is_no_database_is_unreadable(cli: Here, content: bytes) -> None:
    cli.db.write_bytes(content)
    assert cli.refused("list", code=1) == "STORE_UNREADABLE"
    assert cli.db.read_bytes() == content


@pytest.mark.parametrize(
    "command",
    [
        ["list"],
        ["request", "x"],
        ["doctor"],
        ["backup", "b.db"],
        ["db", "init"],
        ["serve"],
        ["witness", "status"],
        ["runs", "list"],
        ["migrate", "decisions.db", "b.db"],
        ["migrate", "a.db", "decisions.db"],
    ],
    ids=" ".join,
)
def test_a_folder_in_the_place_of_a_store_is_a_wrong_argument(cli: Here, command: list[str]) -> None:
    assert cli.request("--db", "a.db")
    cli.db.mkdir()
    assert cli.refused(*command) == "STORE_NOT_A_FILE"
    assert "name one in it" in cli.err
    assert list(cli.db.iterdir()) == []


@pytest.mark.parametrize("command", [["list"], ["request", "x"], ["doctor"], ["migrate", "decisions.db", "b.db"]], ids=" ".join)
def test_a_pipe_in_the_place_of_a_store_is_a_wrong_argument(cli: Here, command: list[str]) -> None:
    os.mkfifo(cli.db)
    assert cli.refused(*command) == "STORE_NOT_A_FILE"
    assert "name another path" in cli.err
    assert cli.db.is_fifo()


def test_commands_in_an_error_can_be_read(cli: Here) -> None:
    cli.request()
    cli("status", "`nexus-attest list`", code=2)
    assert "Decision not found: `nexus-attest list`\n" in cli.err


def test_a_locked_store_is_busy_and_says_so(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = cli.request()
    monkeypatch.setattr("nexus_control.sqlite.BUSY_TIMEOUT_SECONDS", 0.05)
    other = sqlite3.connect(cli.db, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert cli.refused("approve", request_id, code=1) == "STORE_BUSY"
        assert "another process holds the write lock; try again" in cli.err
        assert cli.json("status", request_id)["state"] == "pending_approval"
    finally:
        other.close()
    assert cli.json("approve", request_id)["is_approved"] is True


# -- decisions --------------------------------------------------------------------------------------------------------------------


def test_request_hands_every_option_on(cli: Here) -> None:
    request_id = cli.request(
        *("--mode", "apply", "--plan", "the plan", "--min-approvals", "3", "--allow-mode", "apply", "--allow-mode", "dry_run"),
        *("--require-capability", "timeout", "--require-capability", "apply", "--max-steps", "2", "--label", "b", "--label", "a"),
    )
    state = cli.json("status", request_id)
    assert (state["goal"], state["plan"], state["requested_mode"]) == ("Do it", "the plan", "apply")
    assert state["policy"] == {
        "min_approvals": 3,
        "allowed_modes": ["apply", "dry_run"],
        "require_adapter_capabilities": ["timeout", "apply"],
        "max_steps": 2,
        "labels": ["b", "a"],
    }


def test_the_goal_is_said_once(cli: Here) -> None:
    assert cli.json("request", "--goal", "x")["state"] == "pending_approval"
    for arguments in (["request"], ["request", "x", "--goal", "x"]):
        assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--min-approvals", "0"], "INVALID_POLICY"),
        (["--min-approvals", "-1"], "INVALID_POLICY"),
        (["--allow-mode", "everything"], "INVALID_POLICY"),
        (["--mode", "apply", "--allow-mode", "dry_run"], "MODE_NOT_ALLOWED"),
        (["--template", "nope"], "TEMPLATE_NOT_FOUND"),
        (["--plan", "@nope"], "FILE_NOT_READABLE"),
        (["--plan", "@."], "FILE_NOT_READABLE"),
    ],
)
def test_a_request_that_cannot_be_is_refused_by_name(cli: Here, options: list[str], code: str) -> None:
    assert cli.refused("request", "x", *options) == code


def test_a_plan_comes_from_a_file_or_standard_input(cli: Here) -> None:
    Path("plan.txt").write_text("from a file\n")
    assert cli.json("status", cli.request("--plan", "@plan.txt"))["plan"] == "from a file\n"
    request_id = cli.json("request", "x", "--plan", "@-", stdin="from a pipe")["request_id"]
    assert cli.json("status", request_id)["plan"] == "from a pipe"
    Path("plan.txt").write_bytes(b"\xff")
    assert cli.refused("request", "x", "--plan", "@plan.txt") == "FILE_NOT_READABLE"


def test_approvals_are_counted_refused_and_taken_back(cli: Here) -> None:
    request_id = cli.request("--min-approvals", "2")
    assert cli("approve", request_id) == "Approved: 1 of 2 approvals, not ready yet\n"
    assert cli.refused("approve", request_id) == "ALREADY_APPROVED"
    assert cli("approve", request_id, "--actor", "bob") == "Approved: 2 of 2 approvals, ready to execute\n"
    assert cli("revoke", request_id, "--reason", "second thoughts") == "Revoked: 1 approval left, not ready yet\n"
    assert cli.refused("revoke", request_id) == "ALREADY_REVOKED"
    assert cli.refused("revoke", request_id, "--actor", "eve") == "NOT_APPROVED"
    assert cli.refused("approve", "nobody") == "DECISION_NOT_FOUND"


def test_an_approval_expires_when_it_says_so(cli: Here) -> None:
    request_id = cli.request()
    assert cli.refused("approve", request_id, "--expires-at", "2030-01-01") == "INVALID_EXPIRES_AT"
    assert cli.refused("approve", request_id, "--expires-at", "tomorrow") == "INVALID_EXPIRES_AT"
    assert cli.json("approve", request_id, "--expires-at", "2020-01-01T00:00:00+01:00")["is_approved"] is False
    assert "2019-12-31 23:00:00Z" in cli("inspect", request_id)


def test_people_are_told_that_an_approval_is_expired_already_when_it_is_given(cli: Here) -> None:
    request_id = cli.request()
    assert cli("approve", request_id, "--expires-at", "2020-01-01T00:00:00+01:00") == (
        "Approved: 0 of 1 approvals, not ready yet\n"
        "This approval expired at 2019-12-31T23:00:00+00:00 already, so it does not count; it can be given again\n"
    )
    assert cli("approve", request_id, "--expires-at", "2999-01-01T00:00:00Z") == "Approved: 1 of 1 approvals, ready to execute\n"


def test_list_shows_a_page_and_a_decision_that_cannot_be_read(cli: Here) -> None:
    ids = [cli.request() for _ in range(3)]
    with DecisionStore(cli.db) as store:
        store.insert_event_raw(ids[1], 2, "NO_SUCH_EVENT", "2026-01-01T00:00:00+00:00", "human", "eve", "{}", "0" * 64)
    page = cli.json("list", "--limit", "2", "--offset", "1")
    assert [entry["request_id"] for entry in page["requests"]] == [ids[1], ids[0]]
    assert [entry["state"] for entry in page["requests"]] == ["invalid", "pending_approval"]
    assert "NO_SUCH_EVENT" in cli("list")
    assert cli("list", "--offset", "9") == "0 decisions from 9 on\n"
    for arguments in (["--limit", "0"], ["--limit", "-1"], ["--offset", "-1"], ["--limit", "x"]):
        assert CliRunner().invoke(app, ["list", *arguments]).exit_code == 2


def test_a_list_in_80_columns_keeps_every_id_whole_and_every_goal(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = cli("request", "Rotate the signing key of the release pipeline", "-q").strip()
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("list")
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert request_id in shown
    assert [line[58:].strip() for line in shown.splitlines()[2:]] == ["Rotate the signing key", "of the release", "pipeline"]
    assert "Created" not in shown
    monkeypatch.setenv("COLUMNS", "100")
    assert "Created" in cli("list")


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_list_of_runs_keeps_every_id_whole_and_each_value_under_its_name(cli: Here, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    adapters = program(cli.folder)
    request_id = cli.request("--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]')
    cli("approve", request_id)
    run_id = cli.json("execute", request_id, ADAPTER, "--adapters", str(adapters))["run_id"]
    (run,) = cli.json("runs", "list")["runs"]
    monkeypatch.setenv("COLUMNS", str(width))
    names, _, values = cli("runs", "list").splitlines()[:3]
    assert max(len(names), len(values)) <= width
    told = {name: values[names.index(name) :].split("   ")[0].strip() for name in names.split()}
    created = run["created_at"][:19].replace("T", " ") + "Z"
    whole = {"Run": run_id, "Status": "completed", "Mode": "apply", "Steps": "1/1", "Created": created, "Adapter": ADAPTER, "Goal": "Do it"}
    assert told == {name: whole[name] for name in told}
    assert list(told)[:3] == ["Run", "Status", "Mode"]
    assert ("Created" in told, "Adapter" in told) == (width >= 120, width >= 100)


def test_execute_wants_an_adapter_file_that_knows_the_adapter(cli: Here) -> None:
    request_id = cli.request()
    assert cli.refused("execute", request_id, "subprocess:x") == "ADAPTERS_MISSING"
    assert cli.refused("execute", request_id, "subprocess:x", "--adapters", "nope.toml") == "ADAPTER_FILE_INVALID"
    Path("adapters.toml").write_text('[[adapters]]\nid = "a"\nkind = "subprocess"\ncommand = ["true"]\nallow = ["*/*"]\n')
    assert cli.refused("execute", request_id, "b", "--adapters", "adapters.toml") == "UNKNOWN_ADAPTER"
    assert "it has a" in cli.err
    assert cli.json("status", request_id)["state"] == "pending_approval"
    assert not cli.db.with_name("decisions.db.runs").exists()
    assert cli.refused("execute", "nobody", "a", "--adapters", "adapters.toml") == "DECISION_NOT_FOUND"
    assert cli.refused("execute", request_id, "a", "--adapters", "adapters.toml", "--db", "no.db") == "STORE_NOT_FOUND"
    assert not Path("no.db.runs").exists()


def test_people_read_what_a_run_did_and_what_became_of_it(cli: Here) -> None:
    adapters = program(cli.folder)
    cli("template", "create", "once", "--allow-mode", "apply", "--allow-mode", "dry_run", "--max-steps", "1", "--label", "prod")
    request_id = cli.request("--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]', "--template", "once", "--max-steps", "2")
    cli("approve", request_id)
    assert cli("execute", request_id, ADAPTER, "--adapters", str(adapters), "--dry-run").startswith(
        "Rehearsed: 1 step, nothing was started\n"
    )
    assert "╭─ executed (dry run) ─" in cli("status", request_id)
    assert cli("execute", request_id, ADAPTER, "--adapters", str(adapters)).startswith("Executed: 1 step done\n")
    assert "╭─ executed ─" in cli("status", request_id)
    shown = cli("inspect", request_id)
    for text in ("executed", "apply through subprocess:tool: ok", "once, overridden: max_steps", "prod", "Execution completed", "sha256:"):
        assert text in shown
    assert "ALREADY_EXECUTED" not in shown
    cli("audit", "export", request_id, "--embed", "--runs", str(cli.db) + ".runs")
    assert "ok, as far as the file itself goes." in cli("verify", "audit-package.json")
    assert "prod" in cli("template", "list")

    program(cli.folder, 'sys.exit("out of order")')
    failing = cli.request("--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]')
    cli("approve", failing)
    assert cli.refused("execute", failing, "nope", "--adapters", str(adapters)) == "UNKNOWN_ADAPTER"
    cli("execute", failing, ADAPTER, "--adapters", str(adapters), code=2)
    assert "NONZERO_EXIT" in cli.err
    assert cli.refused("execute", failing, ADAPTER, "--adapters", str(adapters)) == "EXECUTION_FAILED"
    shown = cli("inspect", failing)
    for text in ("failed", "out of order", "EXECUTION_FAILED"):
        assert text in shown
    assert cli.refused("recover", failing) == "NOTHING_TO_RECOVER"


def test_the_adapter_file_can_come_from_the_configuration(cli: Here) -> None:
    config = cli.folder / "config" / "nexus-attest"
    config.mkdir(parents=True)
    (config / "config.toml").write_text('adapters = "adapters.toml"\n')
    program(config)
    request_id = cli.request("--plan", '[{"tool": "t", "method": "m"}]')
    cli("approve", request_id)
    assert cli.json("execute", request_id, ADAPTER)["mode"] == "dry_run"


def test_a_dead_execution_is_recovered(cli: Here) -> None:
    request_id = cli.request()
    with DecisionStore(cli.db) as store:
        store.append_event(request_id, EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "a", "dry_run": True})
        store.append_event(request_id, EventType.EXECUTION_STARTED, ALICE, {"router_request_digest": "0" * 64})
    assert "EXECUTION_IN_PROGRESS" in cli("status", request_id)
    assert cli("recover", request_id) == (
        "Recorded as failed: the execution was abandoned, its outcome is unknown\n"
        "Its program may still be running: look for it, and at what it did, before `nexus-attest execute --retry`\n"
    )
    assert cli.json("status", request_id)["state"] == "failed"


def test_an_execution_that_nobody_requested_is_shown_and_recovered(cli: Here) -> None:
    request_id = cli.request()
    with DecisionStore(cli.db) as store:
        store.append_event(request_id, EventType.EXECUTION_STARTED, ALICE, {"router_request_digest": "abc"})
    assert "EXECUTION_IN_PROGRESS" in cli("status", request_id)
    assert cli.json("recover", request_id)["error_code"] == "EXECUTION_ABANDONED"
    assert "EXECUTION_FAILED" in cli("inspect", request_id)


@pytest.mark.parametrize("command", ["status", "inspect"])
def test_a_completion_that_nobody_requested_is_shown_as_executed(cli: Here, command: str) -> None:
    request_id = cli.request()
    with DecisionStore(cli.db) as store:
        store.append_event(request_id, EventType.EXECUTION_COMPLETED, ALICE, {"run_id": "r", "response_digest": "x"})
    shown = cli(command, request_id)
    assert "─ executed ─" in shown
    assert "Execution completed" in shown


def test_log_verify_tells_people_size_root_and_every_error(cli: Here) -> None:
    request_id = cli.request()
    size, root = cli.json("log", "verify")["size"], cli.json("log", "verify")["root"]
    assert (size, len(root)) == (3, 64)
    shown = cli("log", "verify")
    assert "3 facts" in shown
    assert f"sha256:{root}" in shown
    assert "ok: every fact is as it was written" in shown
    assert "Head" in cli("log", "verify", request_id)
    with sqlite3.connect(cli.db) as connection:
        connection.execute("DROP TRIGGER decision_events_refuse_update")
        connection.execute("UPDATE decision_events SET actor_id = 'mallory'")
    connection.close()
    told = cli.json("log", "verify", code=2)
    assert (told["code"], told["ok"]) == ("LOG_VERIFICATION_FAILED", False)
    shown = cli("log", "verify", code=2)
    for error in told["errors"]:
        assert f"FAILED  {error}" in shown
    assert shown.endswith("FAILED: the log is not as it was written\n")


def test_a_bundle_is_imported_as_asked(cli: Here) -> None:
    request_id = cli.request()
    cli("bundle", "export", request_id)
    assert cli.refused("bundle", "import", "decision-bundle.json") == "DECISION_EXISTS"
    new = cli.json("bundle", "import", "decision-bundle.json", "--conflict", "new_decision_id")["imported"]["new_decision_id"]
    assert new != request_id
    told = cli("bundle", "import", "decision-bundle.json", "--conflict", "overwrite")
    assert told == f"Imported {request_id} (2 events)\n"
    edited = Path("decision-bundle.json").read_text().replace("Do it", "Do more")
    Path("edited.json").write_text(edited)
    assert cli.refused("bundle", "import", "edited.json", "--db", "x.db") == "INTEGRITY_MISMATCH"
    assert cli.json("bundle", "import", "edited.json", "--db", "x.db", "--no-verify-digest")["digest_verified"] is False
    Path("latin.json").write_bytes(b"\xe9")
    assert cli.refused("bundle", "import", "latin.json") == "FILE_NOT_READABLE"
    assert cli.refused("bundle", "import", "-", stdin="{}") == "BUNDLE_INVALID_SCHEMA"


def test_people_are_told_that_imported_approvals_make_nothing_run_and_what_does(cli: Here) -> None:
    adapters = program(cli.folder)
    request_id = cli.request("--mode", "apply", "--min-approvals", "2", "--plan", '[{"tool": "t", "method": "m"}]')
    for name in ("bob", "carol"):
        cli("approve", request_id, "--actor", name)
    cli("bundle", "export", request_id)
    here = ("--db", "other.db")
    told = cli("bundle", "import", "decision-bundle.json", *here)
    next_command = f"nexus-attest approve {request_id} --actor NAME --db other.db"
    refused = f"to execute it here, 0 of 2 approvals count; not those of bob, carol (IMPORTED_APPROVAL): {next_command}"
    assert told.startswith(f"Imported {request_id} (4 events)\n")
    assert refused in told
    for command in ("status", "inspect"):
        assert refused in cli(command, request_id, *here)
        assert "to execute" not in cli(command, request_id)
        assert "to execute it" not in json.dumps(cli.json(command, request_id, *here))
    assert cli.refused("execute", request_id, ADAPTER, "--adapters", str(adapters), *here) == "POLICY_VALIDATION_FAILED"
    assert "`nexus-attest status ID` shows what is missing" in cli.err

    assert cli("approve", request_id, "--actor", "dave", *here).startswith("Approved: 3 of 2 approvals; to execute it here, 1 of 2 ")
    assert cli("revoke", request_id, "--actor", "bob", *here).startswith("Revoked: 2 approvals left; to execute it here, 1 of 2 ")
    done = cli("approve", request_id, "--actor", "bob", *here)
    assert done == "Approved: 3 of 2 approvals; to execute it here, 2 of 2 approvals count; not those of carol (IMPORTED_APPROVAL)\n"
    cli("execute", request_id, ADAPTER, "--adapters", str(adapters), *here)
    assert "to execute it" not in cli("status", request_id, *here)


def test_an_import_that_cannot_be_replayed_is_told_as_imported(cli: Here) -> None:
    request_id = cli.request()
    cli("bundle", "export", request_id)
    bundle = json.loads(Path("decision-bundle.json").read_text())
    bundle["events"][1]["payload"]["min_approvals"] = "many"
    Path("odd.json").write_text(json.dumps(bundle))
    told = cli("bundle", "import", "odd.json", "--no-verify-digest", "--no-replay", "--db", "other.db")
    assert told == f"Imported {request_id} (2 events)\n"
    assert cli.refused("status", request_id, "--db", "other.db") == "EVENT_UNREADABLE"


# -- files ------------------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_only_replaced_when_asked_for(cli: Here) -> None:
    request_id = cli.request()
    cli("bundle", "export", request_id)
    first = Path("decision-bundle.json").read_bytes()
    Path("decision-bundle.json").write_text("mine")
    assert cli.refused("bundle", "export", request_id) == "FILE_EXISTS"
    assert "--force" in cli.err
    assert Path("decision-bundle.json").read_text() == "mine"
    cli("bundle", "export", request_id, "--force")
    assert json.loads(Path("decision-bundle.json").read_bytes())["integrity"] == json.loads(first)["integrity"]
    assert sorted(path.name for path in Path().iterdir() if "bundle" in path.name or path.name.startswith(".")) == ["decision-bundle.json"]


def test_an_output_that_is_no_file_is_refused(cli: Here) -> None:
    request_id = cli.request()
    Path("folder").mkdir()
    for output in ("folder", "/dev/null", "no/such/folder/x.json"):
        assert cli.refused("bundle", "export", request_id, "-o", output, "--force") == "FILE_NOT_READABLE"
    assert list(Path("folder").iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_no_other(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    request_id = cli.request()
    Path("x.json").write_text("old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.refused("bundle", "export", request_id, "-o", "x.json", "--force", code=1) == "IO_ERROR"
    assert "x.json: No space left on device" in cli.err
    assert Path("x.json").read_text() == "old"
    assert [path.name for path in Path().glob(".*")] == []


def test_standard_output_gets_the_document_and_nothing_else_in_ascii(cli: Here) -> None:
    request_id = cli("request", "Schlüssel \u202e drehen", "-q").strip()
    text = cli("bundle", "export", request_id, "-o", "-")
    assert text.isascii()
    assert json.loads(text)["decision"]["goal"] == "Schlüssel \u202e drehen"
    assert cli("bundle", "export", request_id, "-o", "-", "--json").isascii()
    assert cli.json("verify", "-", stdin=text)["ok"] is True


def test_audit_export_needs_a_run(cli: Here) -> None:
    request_id = cli.request()
    assert cli.refused("audit", "export", request_id) == "NO_ROUTER_LINK"
    assert cli.refused("audit", "export", request_id, "--embed") == "NO_ROUTER_LINK"
    assert cli.refused("audit", "export", "nobody", "--embed") == "DECISION_NOT_FOUND"
    assert not Path("audit-package.json").exists()


def test_embed_needs_the_records_of_the_runs(cli: Here) -> None:
    with DecisionStore(cli.db) as store:
        tools = NexusControlTools(store)
        request_id = tools.request("x", ALICE).data["request_id"]
        assert tools.approve(request_id, ALICE).success
        assert tools.execute(request_id, "any", ALICE, _Router()).success
    assert cli.refused("audit", "export", request_id, "--embed") == "RUNS_NOT_FOUND"
    assert not cli.db.with_name("decisions.db.runs").exists()
    cli("audit", "export", request_id)
    judged = cli.json("verify", "audit-package.json")
    assert [check["name"] for check in judged["layers"][0]["checks"]][-1] == "binding_link_match"
    assert "execution: the record of the run is not in the file, at most its digest" in cli("verify", "audit-package.json")


class _Router:
    def run(self, **_: object) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:  # noqa: ARG002 - the protocol's name
        return None


# -- verify -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"[" * 100_000,
        b'{"control_bundle": 3}',
        b"9" * 5000,
    ],
)
def test_what_cannot_be_read_fails_the_check_schema(cli: Here, content: bytes) -> None:
    Path("f.json").write_bytes(content)
    judged = cli.json("verify", "f.json", code=2)
    assert (judged["success"], judged["ok"], judged["code"]) == (False, False, "VERIFICATION_FAILED")
    assert judged["story"] is None
    assert judged["layers"][0]["checks"][0]["name"] == "schema"
    assert [layer["outcome"] for layer in judged["layers"]] == ["FAIL"] + ["INCOMPLETE"] * 5
    shown = cli("verify", "f.json", code=2)
    assert "FAILED" in shown
    assert "Traceback" not in shown


def test_a_file_to_verify_must_be_a_file_of_bearable_size(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.refused("verify", "nope.json") == "FILE_NOT_READABLE"
    assert cli.refused("verify", str(cli.folder)) == "FILE_NOT_READABLE"
    monkeypatch.setattr(files.read_file, "__defaults__", (1000,))
    Path("large.json").write_bytes(b" " * 1001)
    assert cli.refused("verify", "large.json") == "FILE_NOT_READABLE"
    assert "more than 1000 bytes" in cli.err
    assert cli.refused("verify", "-", stdin=b" " * 1001) == "FILE_NOT_READABLE"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["verify", "pipe"], "FILE_NOT_READABLE"),
        (["bundle", "import", "pipe"], "FILE_NOT_READABLE"),
        (["request", "x", "--plan", "@pipe"], "FILE_NOT_READABLE"),
        (["execute", "x", ADAPTER, "--adapters", "pipe"], "ADAPTER_FILE_INVALID"),
        (["verify", "/dev/zero"], "FILE_NOT_READABLE"),
        (["execute", "x", ADAPTER, "--adapters", "/dev/zero"], "ADAPTER_FILE_INVALID"),
    ],
)
def test_what_never_ends_is_no_file(cli: Here, arguments: list[str], code: str) -> None:
    os.mkfifo("pipe")
    cli.request()
    assert cli.refused(*arguments) == code
    assert "no regular file" in cli.err


def test_a_configuration_that_never_ends_or_is_too_large_is_refused(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUS_ATTEST_DB")
    config = config_path()
    config.parent.mkdir(parents=True)
    os.mkfifo(config)
    assert cli.refused("list") == "CONFIG_INVALID"
    config.unlink()
    config.write_text("#" * (1024 * 1024 + 1))
    assert cli.refused("list") == "CONFIG_INVALID"
    assert "more than 1048576 bytes" in cli.err


@pytest.mark.parametrize("digest", ["", "sha256:", "a" * 63, "sha256:" + "A" * 64, "md5:" + "a" * 64, "a" * 65])
def test_an_expected_digest_must_be_one(cli: Here, digest: str) -> None:
    cli("bundle", "export", cli.request())
    assert CliRunner().invoke(app, ["verify", "decision-bundle.json", "--expect", digest]).exit_code == 2


def test_another_binding_digest_than_expected_fails_by_name(cli: Here) -> None:
    with DecisionStore(cli.db) as store:
        tools = NexusControlTools(store)
        request_id = tools.request("x", ALICE).data["request_id"]
        tools.approve(request_id, ALICE)
        tools.execute(request_id, "any", ALICE, _Router())
    digest = cli.json("audit", "export", request_id)["digest"]
    assert cli.json("verify", "audit-package.json", "--expect", digest.removeprefix("sha256:"))["ok"] is True
    judged = cli.json("verify", "audit-package.json", "--expect", "sha256:" + "0" * 64, code=2)
    assert [check["name"] for check in judged["layers"][0]["checks"] if not check["ok"]] == ["expected_binding_digest"]
    shown = cli("verify", "audit-package.json", "--expect", "sha256:" + "0" * 64, code=2)
    assert "FAILED expected_binding_digest" in shown
    assert digest in shown


def test_strict_fails_a_record_that_cannot_be_judged(cli: Here) -> None:
    with DecisionStore(cli.db) as store:
        tools = NexusControlTools(store)
        request_id = tools.request("x", ALICE).data["request_id"]
        tools.approve(request_id, ALICE)
        digest = tools.execute(request_id, "any", ALICE, _Router()).data["response_digest"]
        record = {"run_id": "run-1", "integrity": {"canonical_digest": f"sha256:{digest}"}}
        package = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record).data["package"]
    Path("p.json").write_text(json.dumps(package))
    judged = cli.json("verify", "p.json")
    assert judged["ok"] is True
    assert [layer["outcome"] for layer in judged["layers"]][3] == "INCOMPLETE"
    assert cli.json("verify", "p.json", "--require", "execution", code=2)["failed"] == ["execution"]
    judged = cli.json("verify", "p.json", "--strict", code=2)
    assert [check["name"] for check in judged["layers"][0]["checks"] if not check["ok"]] == ["router_digest"]


# -- hostile text -----------------------------------------------------------------------------------------------------------------

HOSTILE = "a\x1b[31mred\x1b]0;title\x07\r\nFAKE [bold]b[/bold] \u202egnp.exe \x9b31m \u200b <b>x</b>"


def test_text_of_users_cannot_touch_the_terminal(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "")
    cli("template", "create", HOSTILE, "--description", HOSTILE, "--label", HOSTILE, "--actor", HOSTILE.replace(":", ""))
    request_id = cli.request("--label", HOSTILE, "--plan", HOSTILE)
    other = cli("request", HOSTILE, "--actor", "human:" + HOSTILE, "-q").strip()
    cli("approve", other, "--comment", HOSTILE, "--actor", "system:" + HOSTILE)
    cli("bundle", "export", other)
    outputs = [
        cli("list"),
        cli("status", other),
        cli("inspect", other),
        cli("inspect", other, "--markdown"),
        cli("inspect", request_id),
        cli("template", "list"),
        cli("template", "get", HOSTILE),
        cli("verify", "decision-bundle.json"),
    ]
    cli("status", HOSTILE, code=2)
    outputs.append(cli.err)
    cli("template", "get", HOSTILE * 2, code=2)
    outputs.append(cli.err)
    cli("request", "x", "--actor", "robot:" + HOSTILE, code=2)
    outputs.append(cli.err)
    for output in outputs:
        for character in ("\x1b", "\x07", "\r", "\x9b", "\u202e", "\u200b", "\nFAKE"):
            assert character not in output
    assert r"\x1b[31mred" in outputs[0]
    assert "[bold]b[/bold]" in outputs[0]
    for arguments in (["list"], ["status", other], ["inspect", other, "--events"], ["template", "get", HOSTILE]):
        assert cli(*arguments, "--json").isascii()
    assert cli.json("status", other)["goal"] == HOSTILE


def test_hostile_words_on_the_command_line_cannot_touch_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments in ([HOSTILE], ["list", "--" + HOSTILE], ["list", "--limit", HOSTILE], ["template", HOSTILE]):
        monkeypatch.setattr(sys, "argv", ["nexus-attest", *arguments])
        assert main() == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert "\x1b" not in told.err
        assert told.err.startswith("nexus-attest: USAGE: ")
        assert told.err.count("\n") == 2


# -- errors -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["nope"], ["list", "--nope"], ["request"], ["status"], ["list", "--limit", "x"], ["verify", "f", "--expect", "x"]]
)
def test_a_wrong_command_line_is_told_as_json_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nexus-attest", *arguments, "--json"])
    assert main() == 2
    told = capsys.readouterr()
    assert (json.loads(told.out)["success"], json.loads(told.out)["code"]) == (False, "USAGE")
    assert told.err == ""


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("secret value")

    monkeypatch.setattr(NexusControlTools, "list_requests", fail)


@pytest.mark.usefixtures("broken")
def test_a_bug_is_one_line_with_an_id_and_exit_code_1(cli: Here) -> None:
    cli.request()
    assert cli("list", code=1) == ""
    first = cli.err
    assert first.count("\n") == 1
    assert "INTERNAL: unexpected error " in first
    assert "KeyError" in first
    assert "secret value" not in first
    assert cli.json("list", code=1)["code"] == "INTERNAL"
    cli("list", code=1)
    assert cli.err == first


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(("option", "variable", "shown"), [("--debug", "", True), ("", "1", True), ("", "0", False), ("", "", False)])
def test_the_traceback_of_a_bug_is_shown_on_demand(
    cli: Here, monkeypatch: pytest.MonkeyPatch, option: str, variable: str, shown: bool
) -> None:
    cli.request()
    monkeypatch.setenv("NEXUS_ATTEST_DEBUG", variable)
    cli("list", *([option] if option else []), code=1)
    assert ("Traceback" in cli.err) is shown


def test_groups_help_and_version_in_this_process(cli: Here) -> None:
    assert cli("--version").startswith("nexus-attest 1.")
    for arguments in ([], ["template"], ["bundle"], ["audit"], ["log"]):
        told = cli(*arguments, "--help")
        assert told.startswith("Usage: ")
        assert cli(*arguments, code=2) == ""
        assert cli.err == told


def test_help_of_a_group_puts_no_command_together_and_a_call_only_its_own(cli: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str | None] = []
    whole = LazyCommand.whole

    def noted(command: LazyCommand) -> Any:
        made.append(command.name)
        return whole(command)

    monkeypatch.setattr(LazyCommand, "whole", noted)
    cli("--help")
    cli("audit", "--help")
    assert made == []
    cli("template", "list", code=2)  # there is no store
    assert made == ["list"]


def test_a_bug_outside_of_every_command_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("typer is broken")

    monkeypatch.setattr("nexus_attest.cli.app.app", fail)
    monkeypatch.setattr(sys, "argv", ["nexus-attest", "list"])
    assert main() == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "INTERNAL: unexpected error " in told.err


def test_ctrl_c_ends_quietly_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(NexusControlTools, "list_requests", interrupt)
    DecisionStore(tmp_path / "x.db").close()
    monkeypatch.setattr(sys, "argv", ["nexus-attest", "list", "--db", str(tmp_path / "x.db")])
    assert main() == 130
    assert capsys.readouterr().err == "nexus-attest: INTERRUPTED: stopped from the keyboard\n"
    monkeypatch.setattr("nexus_attest.cli.app.run", interrupt)
    assert main() == 130


def test_a_stream_that_cannot_show_a_character_gets_it_spelled_out(monkeypatch: pytest.MonkeyPatch, cli: Here) -> None:
    cli("request", "Schlüssel 鍵", "-q")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["nexus-attest", "list"])
    assert main() == 0
    assert b"Schl\\xfcssel \\u9375" in raw.getvalue()


def test_only_the_store_the_disk_and_bugs_end_with_1() -> None:
    unexpected = {code for code in _codes(errors.NexusError) if exit_code(code) == 1}
    assert unexpected == {
        *("STORE_ERROR", "STORE_BUSY", "STORE_FULL", "STORE_CONFLICT", "STORE_READ_ONLY", "STORE_UNREADABLE", "STORE_CLOSED"),
        *("SCHEMA_TOO_NEW", "SCHEMA_MISSING", "STORE_UNREACHABLE", "COMMIT_UNKNOWN"),
    }
    assert {exit_code(code) for code in ("IO_ERROR", "INTERNAL", "OUTCOME_NOT_RECORDED", "IMPORT_ATOMICITY_FAILED")} == {1}
    assert {exit_code(code) for code in ("ROUTER_ERROR", "USAGE", "BUNDLE_INVALID_SCHEMA")} == {2}


def _codes(kind: type[errors.NexusError]) -> Iterator[str]:
    if "code" in vars(kind):
        yield kind.code
    for child in kind.__subclasses__():
        yield from _codes(child)
