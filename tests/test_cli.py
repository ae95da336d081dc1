"""The command line as users meet it: real processes, their output, their exit codes."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cli_testing import ADAPTER, CommandLine, Ended, program, without_root_powers
from router_testing import ends_soon

from nexus_attest import __version__
from nexus_control.events import EventType
from nexus_control.flight_checks import verify_flight_record
from nexus_control.store import DecisionStore
from nexus_control.streams import open_streams


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def wait_for(path: Path, what: str = "") -> str:
    """The text of a file, once it is there and holds `what`."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if path.exists() and what in (text := path.read_text()) and text:
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come")


def test_a_decision_goes_from_request_to_a_package_that_a_stranger_can_check(cli: CommandLine) -> None:
    program(cli.folder)
    plan = cli.folder / "plan.json"
    plan.write_text('[{"tool": "t", "method": "m"}]')
    asked = cli.run("request", "Run the tool", "--mode", "apply", "--min-approvals", "2", "--plan", f"@{plan}", "--quiet")
    assert (asked.code, asked.err) == (0, "")
    request_id = asked.out.strip()
    assert len(request_id) == 36

    early = cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml", code=2)
    assert early["code"] == "POLICY_VALIDATION_FAILED"
    assert early["success"] is False
    assert "Insufficient approvals" in early["error"]
    assert not (cli.folder / "ran").exists()

    assert cli.json("approve", request_id, "--comment", "fine")["is_approved"] is False
    assert cli.json("approve", request_id, "--actor", "system:ci")["is_approved"] is True
    rehearsed = cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml", "--dry-run")
    assert rehearsed["mode"] == "dry_run"
    assert not (cli.folder / "ran").exists()
    ran = cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    assert (ran["mode"], ran["steps_executed"]) == ("apply", 1)
    assert len((cli.folder / "ran").read_text().splitlines()) == 1
    assert cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml", code=2)["code"] == "ALREADY_EXECUTED"

    written = cli.json("audit", "export", request_id, "--embed", "-o", "package.json")
    assert written["file"] == "package.json"
    package = json.loads((cli.folder / "package.json").read_text())
    assert package["router"]["mode"] == "embedded"
    assert package["router"]["bundle"]["run_id"] == ran["run_id"]

    judged = cli.json("verify", "package.json", "--expect", written["digest"])
    assert (judged["success"], judged["ok"], judged["kind"]) == (True, True, "audit_package")
    assert [check["name"] for check in judged["layers"][0]["checks"]] == [
        "binding_digest",
        "control_bundle_digest",
        "binding_control_match",
        "binding_router_match",
        "binding_link_match",
        "router_digest",
        "expected_binding_digest",
    ]
    assert [layer["outcome"] for layer in judged["layers"]] == ["PASS", "PASS", "INCOMPLETE", "PASS", "INCOMPLETE", "INCOMPLETE"]
    assert [allowance["actor"] for allowance in judged["story"]["allowed_by"]] == [
        {"type": "human", "id": "alice"},
        {"type": "system", "id": "ci"},
    ]

    for_people = cli.run("verify", "package.json")
    assert for_people.code == 0
    assert "Who allowed it (2 of 2 needed)\n  alice, asserted, " in for_people.out
    assert "\n  system:ci, asserted, " in for_people.out
    assert "ok, as far as the file itself goes." in for_people.out
    assert "Whoever can change a file can recompute" in " ".join(for_people.out.split())

    forged = (cli.folder / "package.json").read_text().replace('"alice"', '"mallory"')
    (cli.folder / "forged.json").write_text(forged)
    caught = cli.run("verify", "forged.json")
    assert caught.code == 2
    assert "FAILED control_bundle_digest" in caught.out
    assert "FAILED: integrity. Do not rely on this file." in caught.out


def test_a_template_gives_the_policy_and_options_override_it(cli: CommandLine) -> None:
    made = cli.json(
        "template", "create", "deploy", "--min-approvals", "2", "--allow-mode", "dry_run", "--allow-mode", "apply", "--label", "prod"
    )
    assert made["template_name"] == "deploy"
    assert cli.json("template", "create", "deploy", code=2)["code"] == "TEMPLATE_ALREADY_EXISTS"
    assert cli.json("template", "get", "deploy")["digest"] == made["digest"]
    assert [entry["name"] for entry in cli.json("template", "list", "--label", "prod")["templates"]] == ["deploy"]
    asked = cli.json("request", "Deploy", "--template", "deploy", "--min-approvals", "3")
    assert asked["overrides_applied"] == {"min_approvals": 3}
    assert cli.json("request", "Deploy", "--template", "nope", code=2)["code"] == "TEMPLATE_NOT_FOUND"


def test_a_decision_moves_to_another_store_as_a_bundle(cli: CommandLine) -> None:
    request_id = cli.json("request", "Move me")["request_id"]
    cli.json("bundle", "export", request_id, "-o", "bundle.json")
    assert cli.json("verify", "bundle.json")["kind"] == "decision_bundle"
    imported = cli.json("bundle", "import", "bundle.json", "--db", "other.db")
    assert imported["imported"]["decision_id"] == request_id
    assert cli.json("status", request_id, "--db", "other.db")["goal"] == "Move me"
    assert cli.json("bundle", "import", "bundle.json", "--db", "other.db", code=2)["code"] == "DECISION_EXISTS"
    streamed = cli.run("bundle", "export", request_id, "-o", "-")
    again = cli.run("bundle", "import", "-", "--db", "third.db", stdin=streamed.out)
    assert (again.code, again.err) == (0, "")


def test_people_see_panels_timelines_and_tables_without_colour_in_a_pipe(cli: CommandLine) -> None:
    request_id = cli.json("request", "Rotate the key", "--min-approvals", "2")["request_id"]
    cli.json("approve", request_id, "--comment", "looks right")
    for command in ("status", "inspect"):
        shown = cli.run(command, request_id)
        assert shown.code == 0
        for text in ("pending approval", "Rotate the key", request_id, "1 of 2", "MISSING_APPROVALS", 'Approved by alice: "looks right"'):
            assert text in shown.out
        assert "\x1b" not in shown.out
    listed = cli.run("list")
    assert request_id in listed.out
    assert "pending_approval" in listed.out
    assert cli.run("inspect", request_id, "--markdown").out.startswith("✗ Decision not executable (missing 1 approval)\n")


def test_people_see_that_two_approvers_only_look_the_same(cli: CommandLine) -> None:
    request_id = cli.json("request", "x", "--min-approvals", "2")["request_id"]
    cli.json("approve", request_id, "--actor", "bob")
    assert "Look alike" not in cli.run("status", request_id).out
    refused = cli.run("approve", request_id, "--actor", "b\u043eb")
    assert refused.code == 2
    assert "LOOK_ALIKE_ACTOR" in refused.err
    with DecisionStore(cli.folder / "decisions.db") as store:
        store.append_event(request_id, EventType.APPROVAL_GRANTED, {"type": "human", "id": "b\u043eb"}, {"expires_at": None})
    assert "'bob', 'b\\u043eb' are different ids" in cli.run("status", request_id).out


def test_no_color_is_respected_on_a_terminal(cli: CommandLine) -> None:
    request_id = cli.json("request", "x")["request_id"]
    cli.extra["FORCE_COLOR"] = "1"
    assert "\x1b[" in cli.run("status", request_id).out
    cli.extra["NO_COLOR"] = "1"
    assert "\x1b" not in cli.run("status", request_id).out


def test_of_two_racing_executes_exactly_one_runs_the_program(cli: CommandLine) -> None:
    program(cli.folder, "time.sleep(0.5)")
    request_id = cli.approved()
    racers = [cli.start("execute", request_id, ADAPTER, "--adapters", "adapters.toml", "--json") for _ in range(2)]
    outputs = [json.loads(racer.communicate(timeout=120)[0]) for racer in racers]
    assert sorted(racer.returncode for racer in racers) == [0, 2]
    (refused,) = (output for output in outputs if not output["success"])
    assert refused["code"] in {"EXECUTION_IN_PROGRESS", "ALREADY_EXECUTED"}
    assert len((cli.folder / "ran").read_text().splitlines()) == 1


def test_an_execute_that_was_killed_is_executing_until_it_is_recovered(cli: CommandLine) -> None:
    program(cli.folder, "time.sleep(60)")
    request_id = cli.approved()
    process = cli.start("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    tool = int(wait_for(cli.folder / "ran", "\n"))
    process.kill()
    process.wait()
    if sys.platform == "linux":
        assert ends_soon(tool)  # a guardian sees to it
    else:
        os.kill(tool, signal.SIGKILL)  # it runs on, as SECURITY.md and `recover` say
    process.communicate()

    assert cli.json("status", request_id)["state"] == "executing"
    (left,) = cli.json("runs", "list")["runs"]
    assert (left["status"], left["error_code"], left["unknown_outcomes"]) == ("RUNNING", None, 0)
    busy = cli.run("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    assert busy.code == 2
    assert "EXECUTION_IN_PROGRESS" in busy.err
    assert "nexus-attest recover" in busy.err
    recovered = cli.json("recover", request_id, "--reason", "killed by the test")
    assert recovered["state"] == "failed"
    (closed,) = cli.json("runs", "list")["runs"]
    assert (closed["status"], closed["error_code"], closed["unknown_outcomes"]) == ("FAILED", "INTERRUPTED", 1)
    cli.run("audit", "export", request_id, "--embed")
    assert cli.json("verify", "audit-package.json", "--strict")["ok"]
    assert verify_flight_record((cli.folder / "audit-package.json").read_bytes(), strict=True).ok
    assert recovered["error_code"] == "EXECUTION_ABANDONED"
    assert cli.json("recover", request_id, code=2)["code"] == "NOTHING_TO_RECOVER"

    program(cli.folder)
    again = cli.run("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    assert again.code == 2
    assert "--retry" in again.err
    assert cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml", "--retry")["mode"] == "apply"


@pytest.mark.parametrize(("number", "code", "told"), [(signal.SIGINT, 130, "INTERRUPTED"), (signal.SIGTERM, 143, "")])
def test_an_execute_that_is_stopped_kills_its_program_and_records_the_failure(
    cli: CommandLine, number: signal.Signals, code: int, told: str
) -> None:
    program(cli.folder, "time.sleep(60)")
    request_id = cli.approved()
    process = cli.start("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    tool = int(wait_for(cli.folder / "ran", "\n"))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, b"")
    assert told in err.decode()
    assert "Traceback" not in err.decode()
    with pytest.raises(ProcessLookupError):
        os.kill(tool, 0)
    assert cli.json("status", request_id)["state"] == "failed"


def test_a_program_that_fails_is_a_failed_run_with_a_record_that_can_be_embedded(cli: CommandLine) -> None:
    program(cli.folder, 'sys.exit("no such key")')
    request_id = cli.approved()
    failed = cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml", code=2)
    assert failed["code"] == "NONZERO_EXIT"
    assert "no such key" in failed["error"]
    cli.json("audit", "export", request_id, "--embed")
    assert cli.json("verify", "audit-package.json")["ok"] is True


def test_a_reader_that_leaves_early_is_no_reason_to_complain(cli: CommandLine) -> None:
    for number in range(3):
        cli.json("request", f"number {number}")
    for arguments in (["list"], ["list", "--json"], ["request", "x", "-q"]):
        process = cli.start(*arguments)
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line_and_exit_code_1(cli: CommandLine) -> None:
    cli.json("request", "x")
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(cli.argv("list"), env=cli.env, cwd=cli.folder, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == "nexus-attest: IO_ERROR: No space left on device\n"


@pytest.mark.parametrize("streams", [">&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_does_its_work_without_a_standard_output(cli: CommandLine, streams: str) -> None:
    for options in ([], ["--json"], ["-q"]):
        assert cli.without(streams, "request", "x", *options) == Ended(0, "", "")
    assert cli.json("list")["count"] == 3
    assert cli.without(streams, "list") == Ended(0, "", "")
    assert cli.json("log", "verify")["ok"] is True, "no file of the store got the number of a stream"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["execute", "--help"], ["demo"]])
def test_nothing_is_asked_of_a_standard_output_that_is_not_there(cli: CommandLine, arguments: list[str]) -> None:
    assert cli.without(">&-", *arguments) == Ended(0, "", "")


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["status", "nobody"], ["verify", "nothing.json"]], ids=" ".join)
def test_an_error_that_cannot_be_told_has_its_exit_code(cli: CommandLine, arguments: list[str], streams: str) -> None:
    assert cli.without(streams, *arguments) == Ended(2, "", "")


@pytest.mark.parametrize("program", ["nexus_attest", "nexus_control"])
def test_an_error_that_finds_a_full_pipe_that_does_not_block_has_its_exit_code(cli: CommandLine, program: str) -> None:
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(1))
        argv = [sys.executable, "-m", program, "verify", "nothing"]
        done = subprocess.run(argv, env=cli.env, cwd=cli.folder, stdin=subprocess.DEVNULL, stderr=writing, timeout=120, check=False)
        assert done.returncode == 2
    finally:
        os.close(reading)
        os.close(writing)


def test_a_caller_that_took_standard_error_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", taken)
    open_streams()
    assert sys.stderr is taken


def test_what_cannot_be_told_beside_the_result_does_not_stop_it(cli: CommandLine) -> None:
    cli.json("bundle", "export", cli.json("request", "x")["request_id"], "-o", "bundle.json")
    config = cli.folder / "home/.config/nexus-attest/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("nonsense")
    assert cli.run("verify", "bundle.json").err.startswith("No trust policy is used: ")
    judged = cli.without("2>/dev/full", "verify", "bundle.json")
    assert (judged.code, judged.out.startswith("bundle.json: decision bundle\n")) == (0, True)


@pytest.mark.parametrize(
    "arguments", [["verify", "-"], ["request", "x", "--plan", "@-"], ["approve", "x", "--envelope", "-"]], ids=" ".join
)
def test_a_standard_input_that_is_not_there_is_refused_before_anything_is_written(cli: CommandLine, arguments: list[str]) -> None:
    refused = cli.without("<&-", *arguments)
    assert refused == Ended(2, "", "nexus-attest: FILE_NOT_READABLE: standard input is closed\n")
    assert not cli.db.exists()


def test_a_standard_input_that_cannot_be_read_is_refused(cli: CommandLine) -> None:
    refused = cli.without("0>written", "verify", "-")
    assert refused == Ended(2, "", "nexus-attest: FILE_NOT_READABLE: standard input cannot be read: Bad file descriptor\n")


def test_a_protected_key_without_a_standard_input_wants_the_variable(cli: CommandLine) -> None:
    cli.extra["NEXUS_ATTEST_PASSPHRASE"] = "secret"
    cli.json("keys", "new", "mine", "--protect")
    del cli.extra["NEXUS_ATTEST_PASSPHRASE"]
    refused = cli.without("<&-", "request", "x", "--sign", "mine")
    assert refused.code == 2
    assert refused.err.startswith("nexus-attest: PASSPHRASE_MISSING: ")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that a process works in cannot be removed there")
@pytest.mark.parametrize("arguments", [["list"], ["request", "x"], ["doctor"]])
def test_a_working_folder_that_is_gone_is_said_to_be_gone(cli: CommandLine, arguments: list[str]) -> None:
    gone = cli.folder / "gone"
    command = [
        "/bin/sh",
        "-c",
        'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"',
        str(gone),
        *cli.argv(*arguments, "--db", "decisions.db"),
    ]
    done = subprocess.run(command, env=cli.env, cwd=cli.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nexus-attest: IO_ERROR: the folder that this command was started in is gone; start it in one that is there\n"


def test_the_default_store_gets_a_folder_for_its_user_alone_on_the_first_write(cli: CommandLine) -> None:
    cli.extra["NEXUS_ATTEST_DB"] = ""
    missing = cli.run("list")
    assert missing.code == 2
    assert "STORE_NOT_FOUND" in missing.err
    assert not (cli.folder / "home").exists()
    assert cli.run("request", "x").code == 0
    (store,) = (cli.folder / "home").rglob("decisions.db")
    assert store.parent.name == "nexus-attest"
    assert store.parent.stat().st_mode & 0o777 == 0o700


def test_a_store_that_may_not_be_written_is_read_and_verified(cli: CommandLine) -> None:
    prefix = without_root_powers()
    if prefix is None:
        pytest.skip("root, and nothing to drop its powers")
    request_id = cli.json("request", "x")["request_id"]
    store = cli.folder / "read-only" / "decisions.db"
    store.parent.mkdir()
    store.write_bytes(cli.db.read_bytes())
    store.chmod(0o400)
    store.parent.chmod(0o500)
    try:
        for arguments in (["list"], ["status", request_id], ["inspect", request_id], ["log", "verify"], ["bundle", "export", request_id]):
            read = cli.run(*arguments, "--db", str(store), "--json", prefix=prefix)
            assert (read.code, read.document["success"]) == (0, True)
        assert [path.name for path in store.parent.iterdir()] == ["decisions.db"]
    finally:
        store.parent.chmod(0o700)


def test_file_permissions_are_an_error_of_the_store_and_exit_code_1(cli: CommandLine) -> None:
    prefix = without_root_powers()
    if prefix is None:
        pytest.skip("root, and nothing to drop its powers")
    cli.json("request", "x")
    store = cli.folder / "read-only" / "decisions.db"
    store.parent.mkdir()
    store.write_bytes(cli.db.read_bytes())
    store.chmod(0o400)
    store.parent.chmod(0o500)
    try:
        for arguments, code in (
            (["request", "y", "--db", str(store)], "STORE_READ_ONLY"),
            (["request", "y", "--db", str(store.with_name("new.db"))], "STORE_ERROR"),
        ):
            refused = cli.run(*arguments, "--json", prefix=prefix)
            assert (refused.code, refused.document["code"]) == (1, code)
        refused = cli.run("bundle", "export", "x", "-o", str(store.with_name("b.json")), "--json", prefix=prefix)
        assert (refused.code, refused.document["code"]) == (2, "DECISION_NOT_FOUND")
        request_id = cli.json("list")["requests"][0]["request_id"]
        refused = cli.run("bundle", "export", request_id, "-o", str(store.with_name("b.json")), "--json", prefix=prefix)
        assert (refused.code, refused.document["code"]) == (1, "IO_ERROR")
        assert refused.document["error"] == f"IO_ERROR: {store.with_name('b.json')}: Permission denied"
    finally:
        store.parent.chmod(0o700)


def test_log_verify_names_what_was_changed_behind_the_store(cli: CommandLine) -> None:
    request_id = cli.json("request", "Pay 10")["request_id"]
    good = cli.json("log", "verify")
    assert (good["ok"], good["size"], good["errors"]) == (True, 3, [])
    assert len(good["root"]) == 64
    assert len(cli.json("log", "verify", request_id)["head"]) == 64
    connection = sqlite3.connect(cli.db)
    with connection:
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("UPDATE decision_events SET payload = replace(payload, 'Pay 10', 'Pay 99')")
    connection.close()
    bad = cli.json("log", "verify", code=2)
    assert (bad["success"], bad["code"], bad["ok"]) == (False, "LOG_VERIFICATION_FAILED", False)
    for_people = cli.run("log", "verify", request_id)
    assert for_people.code == 2
    assert "event 0" in for_people.out
    assert cli.json("log", "verify", "nobody", code=2)["code"] == "DECISION_NOT_FOUND"


def test_version_help_and_nothing_at_all(cli: CommandLine) -> None:
    assert cli.run("--version").out == f"nexus-attest {__version__}\n"
    told = cli.run("--help")
    assert (told.code, told.err) == (0, "")
    for name in ("demo", "request", "approve", "revoke", "execute", "recover", "status", "inspect", "list", "template", "bundle", "verify"):
        assert f"\n  {name} " in told.out
    nothing = cli.run()
    assert (nothing.code, nothing.out) == (2, "")
    assert nothing.err == told.out


def test_help_loads_neither_the_engine_nor_rich_nor_pydantic(cli: CommandLine) -> None:
    for arguments in (["--help"], ["execute", "--help"], ["template", "create", "--help"], ["audit", "--help"]):
        code = (
            "import sys; sys.argv = ['nexus-attest', *sys.argv[1:]]\n"
            "from nexus_attest.cli import main\n"
            "assert main() == 0\n"
            "heavy = {'nexus_control.store', 'nexus_control.errors', 'rich', 'pydantic', 'sqlite3', 'nexus_attest.routers'}\n"
            "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
        )
        argv = [cli.argv()[0], "-c", code, *arguments]
        done = subprocess.run(argv, env=cli.env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.strip()) == (0, ""), done
