"""An adapter file is understood completely or refused."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from router_testing import adapter_file, step

from nexus_attest.routers import AdapterFileError, CallRefused, DefaultCall, SubprocessSettings, load_adapters, parse_adapters

MINIMAL: dict[str, Any] = {"id": "subprocess:tool", "kind": "subprocess", "command": ["tool"], "allow": ["a/b"]}


def refused(**keys: object) -> str:
    """The complaint about a file with one adapter; None takes a key away."""
    entry = {key: value for key, value in {**MINIMAL, **keys}.items() if value is not None}
    with pytest.raises(AdapterFileError) as caught:
        parse_adapters({"adapters": [entry]}, base_dir=Path("/"))
    return str(caught.value)


def test_a_file_declares_adapters_and_every_key_arrives(tmp_path: Path) -> None:
    path = tmp_path / "adapters.toml"
    path.write_text(
        """
        [[adapters]]
        id = "subprocess:keytool"
        kind = "subprocess"
        command = ["python3", "keytool.py"]
        allow = ["keys/rotate", "keys/l*"]
        cwd = "tools"
        pass_env = ["KMS_TOKEN"]
        timeout_s = 2.5
        max_output_bytes = 4096
        idempotent = true
        default_call = { tool = "keys", method = "list" }

        [[adapters]]
        id = "other, cl\u00e9"
        kind = "subprocess"
        command = ["true"]
        allow = ["*/*"]
        """,
        encoding="utf-8",
    )
    first, second = load_adapters(path)
    assert first.settings == SubprocessSettings(
        adapter_id="subprocess:keytool",
        command=("python3", "keytool.py"),
        allow=("keys/rotate", "keys/l*"),
        base_dir=tmp_path,
        cwd="tools",
        pass_env=("KMS_TOKEN",),
        timeout_s=2.5,
        max_output_bytes=4096,
        idempotent=True,
        default_call=DefaultCall("keys", "list"),
    )
    assert (first.idempotent, first.default_call) == (True, DefaultCall("keys", "list"))
    assert second.settings == SubprocessSettings(adapter_id="other, cl\u00e9", command=("true",), allow=("*/*",), base_dir=tmp_path)


def test_the_defaults_are_the_documented_ones() -> None:
    (adapter,) = parse_adapters({"adapters": [MINIMAL]}, base_dir=Path("/"))
    settings = adapter.settings
    assert (settings.cwd, settings.pass_env, settings.timeout_s, settings.max_output_bytes) == (".", (), 30.0, 1_048_576)
    assert (settings.idempotent, settings.default_call) == (False, None)


def test_a_relative_path_of_the_file_itself_is_resolved_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    (adapter,) = load_adapters("adapters.toml")
    assert adapter.settings.base_dir == tmp_path


def test_an_unknown_key_is_refused_and_the_known_ones_are_listed() -> None:
    complaint = refused(time_out_s=3)
    assert complaint.startswith("adapter 'subprocess:tool': unknown key 'time_out_s'; known: id, kind, command, allow, cwd")
    assert "default_call" in complaint


@pytest.mark.parametrize("key", ["redact", "start_timeout_s", "tools_digest", "base_url", "headers_env", "url", "args", "env", "shell"])
def test_keys_that_do_nothing_here_are_refused(key: str) -> None:
    assert f"unknown key '{key}'" in refused(**{key: "x"})


@pytest.mark.parametrize("kind", ["mcp", "http"])
def test_kinds_to_come_are_refused_as_such_whatever_else_they_say(kind: str) -> None:
    with pytest.raises(AdapterFileError, match=rf"adapter 'x': kind '{kind}' is not supported yet; supported: 'subprocess'"):
        parse_adapters({"adapters": [{"id": "x", "kind": kind, "base_url": "https://example.org"}]}, base_dir=Path("/"))


@pytest.mark.parametrize("key", ["id", "kind", "command", "allow"])
def test_a_missing_key_is_named(key: str) -> None:
    assert refused(**{key: None}).endswith(f"{key} is missing")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"id": ""}, "adapter 1: id must be 1 to 200 characters"),
        ({"id": "a\nb"}, "id must be 1 to 200 characters"),
        ({"id": "a" * 201}, "id must be 1 to 200 characters"),
        ({"id": 5}, "id must be a string"),
        ({"kind": "docker"}, "kind must be 'subprocess'"),
        ({"kind": True}, "kind must be a string"),
        ({"command": "rm -rf /"}, "command must be a list of strings"),
        ({"command": []}, "command must be a list of strings that starts with the program"),
        ({"command": [""]}, "command must be a list of strings that starts with the program"),
        ({"command": ["tool", 5]}, "command must be a list of strings"),
        ({"command": ["to\0ol"]}, "command must be a list of strings that starts with the program"),
        ({"command": {"argv": ["tool"]}}, "command must be a list of strings"),
        ({"allow": []}, "allow must be a list of tool/method patterns"),
        ({"allow": ["*"]}, "allow must be a list of tool/method patterns"),
        ({"allow": ["a/b/c"]}, "allow must be a list of tool/method patterns"),
        ({"allow": ["a/b\n"]}, "allow must be a list of tool/method patterns"),
        ({"allow": ["a/[bc]"]}, "allow must be a list of tool/method patterns"),
        ({"allow": ["-a/b"]}, "allow must be a list of tool/method patterns"),
        ({"allow": "a/b"}, "allow must be a list of strings"),
        ({"cwd": ""}, "cwd must be the path of a directory"),
        ({"cwd": "a\0"}, "cwd must be the path of a directory"),
        ({"cwd": 1}, "cwd must be a string"),
        ({"pass_env": ["A=B"]}, "pass_env must be a list of names"),
        ({"pass_env": ["A\n"]}, "pass_env must be a list of names"),
        ({"pass_env": [""]}, "pass_env must be a list of names"),
        ({"pass_env": ["NEXUS_IDEMPOTENCY_KEY"]}, "other than NEXUS_EXECUTION_ID, NEXUS_IDEMPOTENCY_KEY"),
        ({"pass_env": {"A": "secret"}}, "pass_env must be a list of strings"),
        ({"timeout_s": 0}, "timeout_s must be more than 0"),
        ({"timeout_s": -1.0}, "timeout_s must be more than 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be more than 0"),
        ({"timeout_s": float("inf")}, "timeout_s must be more than 0 and at most 86400"),
        ({"timeout_s": "30"}, "timeout_s must be a number"),
        ({"timeout_s": True}, "timeout_s must be a number"),
        ({"max_output_bytes": 0}, "max_output_bytes must be from 1 to 67108864"),
        ({"max_output_bytes": 67_108_865}, "max_output_bytes must be from 1 to 67108864"),
        ({"max_output_bytes": 1e6}, "max_output_bytes must be an integer"),
        ({"max_output_bytes": True}, "max_output_bytes must be an integer"),
        ({"idempotent": 1}, "idempotent must be true or false"),
        ({"idempotent": "false"}, "idempotent must be true or false"),
        ({"default_call": "a/b"}, "default_call must be a table"),
        ({"default_call": {"tool": "a"}}, "default_call: method is missing"),
        ({"default_call": {"tool": "a", "method": "b", "args": {}}}, "default_call: unknown key 'args'; known: tool, method"),
        ({"default_call": {"tool": "a", "method": "c"}}, "default_call: adapter subprocess:tool does not allow a/c"),
        ({"default_call": {"tool": "--a", "method": "b"}}, "default_call: tool name '--a' must match"),
        ({"default_call": {"tool": 1, "method": "b"}}, "default_call: tool must be a string"),
    ],
)
def test_a_wrong_value_is_refused_by_name(keys: dict[str, object], problem: str) -> None:
    assert problem in refused(**keys)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "the file: adapters is missing"),
        ({"adapters": []}, "the file declares no adapters"),
        ({"adapters": {"a": MINIMAL}}, "adapters must be an array of tables"),
        ({"adapters": [1]}, "adapter 1 must be a table"),
        ({"adapters": [MINIMAL], "adapter": []}, "the file: unknown key 'adapter'; known: adapters"),
        ({"adapters": [MINIMAL, MINIMAL]}, "adapter id 'subprocess:tool' occurs twice"),
    ],
)
def test_a_file_of_another_shape_is_refused(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(AdapterFileError, match=problem):
        parse_adapters(data, base_dir=Path("/"))


@pytest.mark.parametrize(
    "content", [b"[[adapters]", b"adapters = 1\nadapters = 2", b"\xff\xfe", b'{"adapters": []}', b"a = " + b"[" * 100_000]
)
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapters.toml"
    path.write_bytes(content)
    with pytest.raises(AdapterFileError, match=r"adapters\.toml: no TOML"):
        load_adapters(path)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match=r"there is no file .*missing\.toml"):
        load_adapters(tmp_path / "missing.toml")
    with pytest.raises(AdapterFileError, match="is a directory"):
        load_adapters(tmp_path)


def test_errors_of_a_loaded_file_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match=r"adapters\.toml: adapter 'subprocess:tool': unknown key 'shell'"):
        load_adapters(adapter_file(tmp_path, shell=True))


def test_a_system_without_process_groups_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")
    with pytest.raises(AdapterFileError, match="POSIX"):
        parse_adapters({"adapters": [MINIMAL]}, base_dir=Path("/"))


@pytest.mark.parametrize(
    ("pattern", "tool", "method", "allowed"),
    [
        ("keys/rotate", "keys", "rotate", True),
        ("keys/rotate", "keys", "rotate2", False),
        ("keys/rotate", "Keys", "rotate", False),
        ("keys/*", "keys", "rotate", True),
        ("keys/r*", "keys", "list", False),
        ("*/list", "keys", "list", True),
        ("*/*", "a.b", "c-d", True),
        ("k.ys/a", "keys", "a", False),
    ],
)
def test_a_pattern_covers_whole_names_and_the_star_any_characters(pattern: str, tool: str, method: str, allowed: bool) -> None:
    (adapter,) = parse_adapters({"adapters": [{**MINIMAL, "allow": [pattern]}]}, base_dir=Path("/"))
    if allowed:
        adapter.check(step(tool, method))
        return
    with pytest.raises(CallRefused) as caught:
        adapter.check(step(tool, method))
    assert caught.value.code == "CALL_NOT_ALLOWED"


def test_the_definition_digest_covers_every_key_and_no_place() -> None:
    def digest(changed: dict[str, object], base_dir: str = "/") -> str:
        (adapter,) = parse_adapters({"adapters": [{**MINIMAL, **changed}]}, base_dir=Path(base_dir))
        return adapter.definition_digest

    definition = {
        "id": "subprocess:tool",
        "kind": "subprocess",
        "command": ["tool"],
        "cwd": ".",
        "pass_env": [],
        "timeout_s": 30,
        "max_output_bytes": 1048576,
        "allow": ["a/b"],
        "idempotent": False,
        "default_call": None,
    }
    text = json.dumps(definition, sort_keys=True, separators=(",", ":"))
    assert digest({}) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert digest({}, "/elsewhere") == digest({})
    changes: list[dict[str, object]] = [
        {"id": "other"},
        {"command": ["tool", "-v"]},
        {"cwd": "x"},
        {"pass_env": ["A"]},
        {"timeout_s": 31},
        {"max_output_bytes": 1},
        {"allow": ["a/*"]},
        {"idempotent": True},
        {"default_call": {"tool": "a", "method": "b"}},
    ]
    assert len({digest({}), *(digest(change) for change in changes)}) == 1 + len(changes)
