"""Runs and adapters on the command line: what ran is listed, shown and exported, and an adapter file is checked before it is needed."""

import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_testing import ADAPTER, CommandLine, program

from nexus_attest.cli.running import progress
from nexus_control.flight_record import RunEvent


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def executed(cli: CommandLine, *options: str, code: int = 0) -> str:
    """The id of the run of a new decision."""
    request_id = cli.approved()
    cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml", *options, code=code)
    run_id: str = cli.json("inspect", request_id)["execution"]["run_id"]
    return run_id


def test_runs_are_listed_newest_first_with_how_they_ended(cli: CommandLine) -> None:
    program(cli.folder)
    first = executed(cli, "--dry-run")
    second = executed(cli)
    program(cli.folder, 'sys.exit("no such key")')
    third = executed(cli, code=2)
    page = cli.json("runs", "list")
    assert [(run["run_id"], run["status"], run["mode"], run["error_code"]) for run in page["runs"]] == [
        (third, "FAILED", "apply", "NONZERO_EXIT"),
        (second, "COMPLETED", "apply", None),
        (first, "COMPLETED", "dry_run", None),
    ]
    assert (page["count"], page["limit"], page["offset"]) == (3, 20, 0)
    assert [run["run_id"] for run in cli.json("runs", "list", "--limit", "1", "--offset", "1")["runs"]] == [second]
    assert [run["run_id"] for run in cli.json("runs", "list", "--status", "FAILED")["runs"]] == [third]
    assert cli.json("runs", "list", "--status", "DONE", code=2)["code"] == "INVALID_ARGUMENT"
    shown = cli.run("runs", "list").out
    for text in (first, second, third, "completed", "failed", "1/1", ADAPTER):
        assert text in shown


def test_a_run_is_shown_call_by_call(cli: CommandLine) -> None:
    program(cli.folder, 'sys.exit("no such key")')
    run_id = executed(cli, code=2)
    data = cli.json("runs", "show", run_id)
    assert [event["type"] for event in data["events"]][-2:] == ["PROVENANCE_EMITTED", "RUN_FAILED"]
    shown = " ".join(cli.run("runs", "show", run_id).out.split())
    for text in (run_id, "failed", "s1 t/m", "NONZERO_EXIT (failed): Command exited with code 1: no such key"):
        assert text in shown
    assert cli.json("runs", "show", "nobody", code=2)["code"] == "RUN_NOT_FOUND"


def test_a_run_is_exported_as_its_flight_record(cli: CommandLine) -> None:
    program(cli.folder)
    run_id = executed(cli)
    written = cli.json("runs", "export", run_id, "-o", "record.json")
    record = json.loads((cli.folder / "record.json").read_text())
    assert (written["kind"], written["digest"]) == ("flight_record", record["integrity"]["canonical_digest"])
    assert (record["run_id"], record["bundle_version"], record["run"]["status"]) == (run_id, "0.3", "COMPLETED")
    assert cli.json("runs", "export", run_id, "-o", "record.json", code=2)["code"] == "FILE_EXISTS"
    assert json.loads(cli.run("runs", "export", run_id, "-o", "-").out)["digests"] == record["digests"]


def test_without_records_there_is_nothing_to_show_and_none_are_made(cli: CommandLine) -> None:
    cli.json("request", "x")
    for arguments in (["list"], ["show", "x"], ["export", "x"]):
        assert cli.json("runs", *arguments, code=2)["code"] == "RUNS_NOT_FOUND"
    assert not cli.db.with_name("decisions.db.runs").exists()


def test_looking_at_runs_closes_none(cli: CommandLine) -> None:
    program(cli.folder, "time.sleep(60)")
    request_id = cli.approved()
    process = cli.start("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    deadline = time.monotonic() + 60
    while not (cli.folder / "ran").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (run,) = cli.json("runs", "list", "--status", "RUNNING")["runs"]
    assert cli.json("runs", "export", run["run_id"], code=2)["code"] == "RUN_NOT_FINISHED"
    # Whoever thinks that it is dead is wrong, and told so.
    assert cli.json("recover", request_id, code=2)["code"] == "RUN_NOT_FINISHED"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"Run {run['run_id']} is recorded as failed" in err.decode()
    (run,) = cli.json("runs", "list")["runs"]
    assert (run["status"], run["error_code"], run["unknown_outcomes"]) == ("FAILED", "CANCELLED", 1)
    shown = " ".join(cli.run("runs", "show", run["run_id"]).out.replace("\u2502", "").split())
    assert "nobody knows how 1 of its calls ended" in shown
    cli.json("audit", "export", request_id, "--embed")
    assert cli.json("verify", "audit-package.json", "--strict")["ok"] is True


def test_a_run_ends_when_the_time_for_it_is_over(cli: CommandLine) -> None:
    program(cli.folder, "time.sleep(60)")
    request_id = cli.approved()
    began = time.monotonic()
    assert cli.json("execute", request_id, ADAPTER, "--adapters", "adapters.toml", "--timeout", "2", code=2)["code"] == "TIMEOUT"
    assert time.monotonic() - began < 50
    assert cli.run("execute", request_id, ADAPTER, "--timeout", "0").code == 2


def test_a_recovery_can_be_forced_without_looking_at_the_run(cli: CommandLine) -> None:
    program(cli.folder, "time.sleep(60)")
    request_id = cli.approved()
    process = cli.start("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    deadline = time.monotonic() + 60
    while not (cli.folder / "ran").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert cli.json("recover", request_id, "--force")["state"] == "failed"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_long_run_shows_each_call_while_it_is_under_way() -> None:
    stream = io.StringIO()
    show = progress(stream)

    def event(kind: str, **payload: object) -> RunEvent:
        return RunEvent(event_id="e", run_id="r", seq=0, type=kind, payload=payload, ts="t")

    call = {"tool": "keys", "method": "rotate\x1b[2J", "args": {"password": "hunter2"}}
    show(event("STEP_STARTED", step_id="s1"))
    show(event("TOOL_CALL_REQUESTED", step_id="s1", call=call))
    assert stream.getvalue().startswith("  s1  keys/rotate")
    assert stream.getvalue().endswith(" ... ")
    show(event("TOOL_CALL_SUCCEEDED", step_id="s1", simulated=False, duration_ms=1234, output={"token": "t"}))
    show(event("TOOL_CALL_REQUESTED", step_id="s2", call=call))
    show(event("TOOL_CALL_SUCCEEDED", step_id="s2", simulated=True, duration_ms=0, output={}))
    for outcome in ("not_sent", "failed", "unknown"):
        show(event("TOOL_CALL_FAILED", error_code="TIMEOUT", outcome=outcome, message="hunter2"))
    for text in ("ok (1.2 s)\n", "simulated\n", "TIMEOUT, not sent\n", "TIMEOUT, failed\n", "TIMEOUT, outcome unknown\n"):
        assert text in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_adapters_are_listed_with_the_digest_that_runs_record(cli: CommandLine) -> None:
    program(cli.folder)
    (listed,) = cli.json("adapters", "list", "adapters.toml")["adapters"]
    assert (listed["adapter_id"], listed["adapter_kind"], listed["timeout_s"]) == (ADAPTER, "subprocess", 60)
    run_id = executed(cli)
    events = cli.json("runs", "show", run_id)["events"]
    recorded = next(event["payload"] for event in events if event["type"] == "REQUEST_RECORDED")
    assert recorded["adapter_digest"] == listed["definition_digest"]
    assert ADAPTER in cli.run("adapters", "list", "adapters.toml").out
    assert cli.json("adapters", "list", code=2)["code"] == "ADAPTERS_MISSING"


def test_a_check_of_an_adapter_file_finds_what_is_wrong_in_it_and_what_this_machine_lacks(cli: CommandLine) -> None:
    path = program(cli.folder)
    checked = cli.run("adapters", "check", "adapters.toml")
    assert (checked.code, "ok: every adapter can be used" in checked.out) == (0, True)
    path.write_text(path.read_text() + 'pass_env = ["KMS_TOKEN"]\n')
    lacking = cli.json("adapters", "check", "adapters.toml", code=2)
    assert lacking["code"] == "ADAPTERS_NOT_READY"
    assert "KMS_TOKEN" in lacking["adapters"][0]["problem"]
    assert "KMS_TOKEN" in cli.run("adapters", "check", "adapters.toml").out
    assert cli.run("adapters", "check", "adapters.toml", "--file-only").code == 0
    path.write_text(path.read_text() + "retries = 3\n")
    assert cli.json("adapters", "check", "adapters.toml", code=2)["code"] == "ADAPTER_FILE_INVALID"


def test_on_a_terminal_each_call_is_shown_before_it_ends(cli: CommandLine) -> None:
    program(cli.folder, "time.sleep(60)")
    request_id = cli.approved()
    screen, terminal = os.openpty()
    argv = cli.argv("execute", request_id, ADAPTER, "--adapters", "adapters.toml")
    with subprocess.Popen(argv, env=cli.env, cwd=cli.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        told = b""
        while not told.endswith(b" ... "):
            told += os.read(screen, 1000)
        assert told.decode() == "  s1  t/m ... "
        deadline = time.monotonic() + 60
        while not (cli.folder / "ran").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert "CANCELLED, outcome unknown\r\n" in os.read(screen, 10_000).decode()
    os.close(screen)
