"""Secrets are named in files and plans, read when a call is made, and known to the redactor from then on."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from router_testing import call, shell_tool, step

from nexus_attest.routers import Adapter, CallFailed, CallOutcome, CallRefused, RunEngine, RunFailed, SubprocessSettings, parse_adapters
from nexus_attest.routers.credentials import Credentials

ECHO = 'cat "$5"'


def tool(folder: Path, script: str = ECHO, **keys: object) -> Adapter:
    """The adapter of a shell script with some secrets."""
    return shell_tool(folder, script, **{"secrets": {"token": "env:API", "phrase": "file:phrase"}, **keys})


def failure(adapter: Adapter, args: dict[str, object]) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        call(adapter, "a", "b", args)
    return caught.value


def test_a_reference_becomes_its_value_at_the_call_and_a_mark_in_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API", "hunter2-hunter2")
    (tmp_path / "phrase").write_text("open sesame\n")
    adapter = tool(tmp_path, 'cp "$5" seen; cat "$5"')
    args: dict[str, object] = {"deep": [{"t": {"$secret": "token"}}], "p": {"$secret": "phrase"}, "n": 1}
    output = call(adapter, "a", "b", args)
    assert json.loads((tmp_path / "seen").read_text())["args"] == {"deep": [{"t": "hunter2-hunter2"}], "p": "open sesame", "n": 1}
    assert output["args"] == {"deep": [{"t": "[redacted:secret token]"}], "p": "[redacted:secret phrase]", "n": 1}
    assert args["p"] == {"$secret": "phrase"}


def test_a_secret_is_read_when_the_call_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API", "first-value")
    adapter = tool(tmp_path, 'cp "$5" seen; cat "$5"')
    adapter.preflight([step(args={"t": {"$secret": "token"}})])
    monkeypatch.setenv("API", "second-value")
    call(adapter, "a", "b", {"t": {"$secret": "token"}})
    assert json.loads((tmp_path / "seen").read_text())["args"] == {"t": "second-value"}


def test_a_former_value_of_a_secret_stays_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = SubprocessSettings(adapter_id="x", allow=("*/*",), base_dir=tmp_path, command=("x",), secrets={"token": "env:API"})
    credentials = Credentials(settings)
    for value in ("first-value", "second-value"):
        monkeypatch.setenv("API", value)
        credentials.resolve({"t": {"$secret": "token"}})
    assert "value" not in credentials.redactor.text("first-value second-value")


def test_a_secret_of_an_earlier_step_is_a_mark_in_a_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API", "hunter2-hunter2")
    script = '[ "$3" = keep ] && { cp "$5" kept; echo "{}"; } || cat kept'
    plan = json.dumps([{"tool": "a", "method": "keep", "args": {"t": {"$secret": "token"}}}, {"tool": "a", "method": "tell"}])
    with RunEngine([tool(tmp_path, script)]) as engine:
        response = engine.run(goal="g", adapter_id="subprocess:tool", dry_run=False, plan=plan)
        record = json.dumps(engine.flight_record(response["run_id"]))
    assert "hunter2-hunter2" in (tmp_path / "kept").read_text()
    assert "hunter2" not in record
    assert "[redacted:secret token]" in record


def test_a_secret_in_an_error_message_is_a_mark_wherever_it_would_be_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2-hunter2")
    for padding in range(470, 500):
        adapter = tool(tmp_path, f'printf "%s" "$API_TOKEN" >&2; printf "%{padding}s" | tr " " x >&2; exit 1', pass_env=["API_TOKEN"])
        problem = failure(adapter, {})
        assert problem.code == "NONZERO_EXIT"
        assert "hunter2" not in str(problem)
        assert "r2-h" not in str(problem)


def test_only_variables_that_are_named_like_secrets_are_taken_out_of_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION", "eu-central")
    monkeypatch.setenv("API_TOKEN", "hunter2-hunter2")
    adapter = tool(tmp_path, """printf '{"a": "%s %s"}' "$REGION" "$API_TOKEN\"""", pass_env=["REGION", "API_TOKEN"])
    assert call(adapter, "a", "b") == {"a": "eu-central [redacted:secret API_TOKEN]"}


@pytest.mark.parametrize(
    "name",
    [
        "DB_PASS",
        "password1",
        "PGPASSWORD",
        "bearer",
        "AUTH",
        "PASSWD",
        "MYSQL_PWD",
        "PRIVATE_KEY",
        "STRIPE_KEY",
        "SENTRY_DSN",
        "githubToken2",
    ],
)
def test_a_variable_that_is_named_like_a_secret_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "hunter2-hunter2")
    adapter = tool(tmp_path, f"""printf '{{"a": "%s"}}' "${name}\"""", pass_env=[name])
    assert call(adapter, "a", "b") == {"a": f"[redacted:secret {name}]"}


@pytest.mark.parametrize(
    "name", ["PWD", "PUBLIC_KEY", "KEYBOARD", "PASSAGE", "TOKENIZER", "NEXT_PAGE_TOKEN", "SSH_AUTH_SOCK", "KEY_PATH", "N2"]
)
def test_a_variable_of_another_name_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "eu-central")
    adapter = tool(tmp_path, """printf '{"a": "eu-central"}'""", pass_env=[name])
    assert call(adapter, "a", "b") == {"a": "eu-central"}


def test_the_password_in_the_url_of_a_variable_is_a_secret_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://app:hunter2%2Fhunter2@db/x")
    adapter = tool(tmp_path, """printf '{"a": "login app hunter2/hunter2"}'""", pass_env=["DATABASE_URL"])
    assert call(adapter, "a", "b") == {"a": "login app [redacted:secret DATABASE_URL password]"}


def test_half_a_secret_that_a_killed_program_wrote_is_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "hunter2-hunter2-\u00e9")
    adapter = tool(tmp_path, "printf 'using hunter2-hun' >&2; kill -9 $$", pass_env=["API_TOKEN"])
    problem = failure(adapter, {})
    assert str(problem).endswith("using [redacted:secret API_TOKEN]")


@pytest.mark.parametrize("name", ["other", "PATH", "token ", ""])
def test_a_plan_cannot_ask_for_what_the_file_does_not_declare(tmp_path: Path, name: str) -> None:
    with pytest.raises(CallRefused) as caught:
        tool(tmp_path).check(step(args={"x": [{"$secret": name}]}))
    assert caught.value.code == "SECRET_UNKNOWN"


@pytest.mark.parametrize(
    "reference", [{"$secret": 5}, {"$secret": None}, {"$secret": "token", "more": 1}, {"$secret": {"$secret": "token"}}]
)
def test_a_malformed_reference_is_refused(tmp_path: Path, reference: dict[str, Any]) -> None:
    with pytest.raises(CallRefused) as caught:
        tool(tmp_path).check(step(args={"x": reference}))
    assert caught.value.code == "SECRET_INVALID"


FILES: dict[str, Callable[[Path], object]] = {
    "missing": lambda _: None,
    "empty": lambda path: path.write_text(""),
    "blank": lambda path: path.write_text("\n"),
    "bytes": lambda path: path.write_bytes(b"\xff"),
    "large": lambda path: path.write_bytes(b"x" * 65_537),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("problem", ["unset", *FILES])
def test_a_secret_that_cannot_be_read_stops_the_run_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    monkeypatch.delenv("API", raising=False)
    if problem in FILES:
        FILES[problem](tmp_path / "phrase")
    adapter = tool(tmp_path, "touch started; echo '{}'")
    args: dict[str, object] = {"x": {"$secret": "phrase" if problem in FILES else "token"}}
    with pytest.raises(CallRefused) as caught:
        adapter.preflight([step(args=args)])
    assert caught.value.code == "SECRET_MISSING"
    found = failure(adapter, args)
    assert (found.code, found.outcome) == ("SECRET_MISSING", CallOutcome.NOT_SENT)
    assert not (tmp_path / "started").exists()


def test_a_literal_secret_in_a_plan_is_refused_and_gets_into_no_record(tmp_path: Path) -> None:
    plan = json.dumps([{"tool": "a", "method": "b", "args": {"password": "hunter2-hunter2"}}])
    for dry_run in (True, False):
        with RunEngine([tool(tmp_path)]) as engine:
            with pytest.raises(RunFailed) as caught:
                engine.run(goal="g", adapter_id="subprocess:tool", dry_run=dry_run, plan=plan)
            assert caught.value.code == "SECRET_IN_PLAN"
            assert "hunter2" not in str(caught.value)
            assert caught.value.run_id is not None
            assert "hunter2" not in json.dumps(engine.flight_record(caught.value.run_id))


def test_a_literal_secret_may_be_allowed(tmp_path: Path) -> None:
    adapter = tool(tmp_path, allow_literal_secrets=True)
    adapter.check(step(args={"password": "hunter2"}))
    assert call(adapter, "a", "b", {"password": "hunter2"})["args"] == {"password": "hunter2"}


def test_a_dry_run_reads_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API", raising=False)
    plan = json.dumps([{"tool": "a", "method": "b", "args": {"t": {"$secret": "token"}}}])
    with RunEngine([tool(tmp_path)]) as engine:
        assert engine.run(goal="g", adapter_id="subprocess:tool", dry_run=True, plan=plan)["status"] == "completed"


def test_references_are_the_same_for_every_kind() -> None:
    entries: list[dict[str, object]] = [
        {"kind": "mcp", "command": "x"},
        {"kind": "mcp", "url": "https://mcp.example/mcp"},
        {"kind": "http", "base_url": "https://service.example"},
    ]
    for entry in entries:
        (adapter,) = parse_adapters({"adapters": [{"id": "x", "allow": ["*/*"], **entry}]}, base_dir=Path("/"))
        for args, code in (({"a": {"$secret": "x"}}, "SECRET_UNKNOWN"), ({"password": "x"}, "SECRET_IN_PLAN")):
            with pytest.raises(CallRefused) as caught:
                adapter.check(step(args=args))
            assert caught.value.code == code
