"""An adapter file is understood completely or refused, with every mistake named by its path."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_testing import adapter_file, step

from nexus_attest.routers import (
    AdapterFileError,
    CallRefused,
    DefaultCall,
    HttpSettings,
    McpHttpSettings,
    McpStdioSettings,
    SubprocessSettings,
    load_adapters,
    parse_adapters,
)
from nexus_attest.routers.adapters_file import VARIANTS, adapter_file_schema
from scripts.key_tables import filled

ROOT = Path(__file__).resolve().parent.parent

SUBPROCESS: dict[str, Any] = {"id": "subprocess:tool", "kind": "subprocess", "command": ["tool"], "allow": ["a/b"]}
MCP: dict[str, Any] = {"id": "mcp:server", "kind": "mcp", "command": "server", "allow": ["a/b"]}
MCP_URL: dict[str, Any] = {"id": "mcp:remote", "kind": "mcp", "url": "https://mcp.example/mcp", "allow": ["a/b"]}
HTTP: dict[str, Any] = {"id": "http:service", "kind": "http", "base_url": "https://service.example/v1", "allow": ["a/b"]}
EVERY = [SUBPROCESS, MCP, MCP_URL, HTTP]


def problems(*entries: object) -> list[str]:
    """Everything that is wrong with a file of these adapters."""
    with pytest.raises(AdapterFileError) as caught:
        parse_adapters({"adapters": list(entries)}, base_dir=Path("/"))
    assert str(caught.value) == "; ".join(caught.value.problems)
    return list(caught.value.problems)


def changed(entry: dict[str, Any], keys: dict[str, object]) -> dict[str, object]:
    """An entry with some keys set; None takes a key away."""
    return {key: value for key, value in {**entry, **keys}.items() if value is not None}


# What a file says arrives.


def test_a_toml_file_declares_adapters_and_every_key_arrives(tmp_path: Path) -> None:
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
        redact = ["/key", "/keys/*/secret"]
        secrets = { pin = "env:KMS_PIN", phrase = "file:secrets/phrase" }
        allow_literal_secrets = true

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
        redact=("/key", "/keys/*/secret"),
        secrets={"pin": "env:KMS_PIN", "phrase": "file:secrets/phrase"},
        allow_literal_secrets=True,
    )
    assert (first.adapter_id, first.adapter_kind, first.timeout_s) == ("subprocess:keytool", "subprocess", 2.5)
    assert (first.idempotent, first.default_call) == (True, DefaultCall("keys", "list"))
    assert second.settings == SubprocessSettings(adapter_id="other, cl\u00e9", command=("true",), allow=("*/*",), base_dir=tmp_path)


def test_a_json_file_declares_the_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "adapters.json"
    stdio = {**MCP, "args": ["--root", "/srv"], "cwd": "x", "pass_env": ["A"], "start_timeout_s": 5, "tools_digest": "sha256:" + "0" * 64}
    url = {**MCP_URL, "headers_env": {"Authorization": "API"}, "allow_private": True, "ca_file": "ca.pem", "start_timeout_s": 1.5}
    http = {**HTTP, "headers_env": {"X-Api-Key": "API"}, "allow_private": True, "ca_file": "ca.pem"}
    path.write_text(json.dumps({"$schema": "schemas/nexus-attest.adapters.v1.json", "adapters": [stdio, url, http]}))
    assert [adapter.settings for adapter in load_adapters(path)] == [
        McpStdioSettings(
            adapter_id="mcp:server",
            allow=("a/b",),
            base_dir=tmp_path,
            command="server",
            args=("--root", "/srv"),
            cwd="x",
            pass_env=("A",),
            start_timeout_s=5,
            tools_digest="sha256:" + "0" * 64,
        ),
        McpHttpSettings(
            adapter_id="mcp:remote",
            allow=("a/b",),
            base_dir=tmp_path,
            url="https://mcp.example/mcp",
            headers_env={"Authorization": "API"},
            allow_private=True,
            ca_file="ca.pem",
            start_timeout_s=1.5,
        ),
        HttpSettings(
            adapter_id="http:service",
            allow=("a/b",),
            base_dir=tmp_path,
            base_url="https://service.example/v1",
            headers_env={"X-Api-Key": "API"},
            allow_private=True,
            ca_file="ca.pem",
        ),
    ]


def test_the_defaults_are_the_documented_ones() -> None:
    first, second, third, _ = (adapter.settings for adapter in parse_adapters({"adapters": EVERY}, base_dir=Path("/")))
    assert (first.timeout_s, first.max_output_bytes, first.idempotent, first.default_call) == (30.0, 1_048_576, False, None)
    assert (first.redact, first.secrets, first.allow_literal_secrets) == ((), {}, False)
    assert isinstance(first, SubprocessSettings)
    assert (first.cwd, first.pass_env) == (".", ())
    assert isinstance(second, McpStdioSettings)
    assert (second.args, second.start_timeout_s, second.tools_digest) == ((), 30.0, None)
    assert isinstance(third, McpHttpSettings)
    assert (third.headers_env, third.allow_private, third.ca_file) == ({}, False, None)


def test_a_relative_path_of_the_file_itself_is_resolved_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    (adapter,) = load_adapters("adapters.toml")
    assert adapter.settings.base_dir == tmp_path


# What is wrong is named, all of it, and never repeated.


def test_all_mistakes_of_a_file_are_named_at_once_with_their_paths() -> None:
    entries = [
        {**SUBPROCESS, "timeout_s": 0, "allow": ["a/b", "c"], "time_out": 3},
        {"id": "x", "kind": "docker"},
        5,
        {**HTTP, "base_url": "http://service.example", "headers_env": {"Host": "A", "X-Key": "not a name"}},
        {**MCP, "id": "subprocess:tool"},
    ]
    found = problems(*entries)
    assert [problem.partition(": ")[0] for problem in found] == [
        "adapters[0].time_out",
        "adapters[0].allow[1]",
        "adapters[0].timeout_s",
        "adapters[1].kind",
        "adapters[2]",
        "adapters[3].base_url",
        "adapters[3].headers_env.Host",
        "adapters[3].headers_env.X-Key",
        "adapters[4].id",
    ]
    assert found[0].startswith("adapters[0].time_out: unknown key; known are allow, allow_literal_secrets, command, cwd")
    assert found[3] == "adapters[1].kind: must be 'subprocess' or 'mcp' or 'http'"
    assert found[8] == "adapters[4].id: is the id of adapters[0], too"


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["id"])
def test_a_missing_key_is_named(entry: dict[str, Any]) -> None:
    for key in entry:
        (found,) = problems(changed(entry, {key: None}))
        if key == "kind":
            assert found == "adapters[0].kind: is missing; give 'subprocess' or 'mcp' or 'http'"
        elif entry["kind"] == "mcp" and key in ("command", "url"):
            assert found == "adapters[0]: give command or url"
        else:
            assert found == f"adapters[0].{key}: is missing"


def test_an_mcp_server_is_reached_one_way() -> None:
    assert problems({**MCP, "url": "https://mcp.example/mcp"}) == ["adapters[0]: give command or url, not both"]
    assert problems({**MCP_URL, "args": []})[0].startswith("adapters[0].args: unknown key")
    assert problems({**MCP, "headers_env": {}})[0].startswith("adapters[0].headers_env: unknown key")


@pytest.mark.parametrize(
    ("entry", "keys", "problem"),
    [
        (SUBPROCESS, {"id": ""}, "id: must be a text of 1 to 200 characters"),
        (SUBPROCESS, {"id": "a\nb"}, "id: must be a text of 1 to 200 characters"),
        (SUBPROCESS, {"id": "a" * 201}, "id: must be a text of 1 to 200 characters"),
        (SUBPROCESS, {"id": 5}, "id: must be a text of 1 to 200 characters"),
        (SUBPROCESS, {"kind": True}, "kind: must be 'subprocess'"),
        (SUBPROCESS, {"kind": ["mcp"]}, "kind: must be 'subprocess'"),
        (SUBPROCESS, {"command": "rm -rf /"}, "command: must be a list of texts that starts with the program"),
        (SUBPROCESS, {"command": []}, "command: must be a list of texts that starts with the program"),
        (SUBPROCESS, {"command": [""]}, "command[0]: must be the program"),
        (SUBPROCESS, {"command": ["tool", 5]}, "command[1]: must be a text"),
        (SUBPROCESS, {"command": ["to\0ol"]}, "command[0]: must be the program, a text without zero bytes"),
        (SUBPROCESS, {"command": ["tool", "a\0"]}, "command[1]: must be a text without zero bytes"),
        (SUBPROCESS, {"command": {"argv": ["tool"]}}, "command: must be a list of texts"),
        (SUBPROCESS, {"allow": []}, "allow: must be a list of at least one tool/method pattern"),
        (SUBPROCESS, {"allow": "a/b"}, "allow: must be a list of at least one tool/method pattern"),
        (SUBPROCESS, {"allow": ["*"]}, "allow[0]: must be a tool/method pattern"),
        (SUBPROCESS, {"allow": ["a/b/c"]}, "allow[0]: must be a tool/method pattern"),
        (SUBPROCESS, {"allow": ["a/b\n"]}, "allow[0]: must be a tool/method pattern"),
        (SUBPROCESS, {"allow": ["a/[bc]"]}, "allow[0]: must be a tool/method pattern"),
        (SUBPROCESS, {"allow": ["-a/b"]}, "allow[0]: must be a tool/method pattern"),
        (SUBPROCESS, {"cwd": ""}, "cwd: must be a path"),
        (SUBPROCESS, {"cwd": "a\0"}, "cwd: must be a path"),
        (SUBPROCESS, {"cwd": 1}, "cwd: must be a path"),
        (SUBPROCESS, {"pass_env": ["A=B"]}, "pass_env[0]: must be the name of an environment variable"),
        (SUBPROCESS, {"pass_env": ["A\n"]}, "pass_env[0]: must be the name of an environment variable"),
        (SUBPROCESS, {"pass_env": ["A", ""]}, "pass_env[1]: must be the name of an environment variable"),
        (SUBPROCESS, {"pass_env": ["NEXUS_IDEMPOTENCY_KEY"]}, "other than NEXUS_EXECUTION_ID, NEXUS_IDEMPOTENCY_KEY"),
        (SUBPROCESS, {"pass_env": {"A": "secret"}}, "pass_env: must be a list of names of environment variables"),
        (SUBPROCESS, {"timeout_s": 0}, "timeout_s: must be a number of seconds, more than 0 and at most 86400"),
        (SUBPROCESS, {"timeout_s": -1.0}, "timeout_s: must be a number of seconds"),
        (SUBPROCESS, {"timeout_s": float("nan")}, "timeout_s: must be a number of seconds"),
        (SUBPROCESS, {"timeout_s": float("inf")}, "timeout_s: must be a number of seconds"),
        (SUBPROCESS, {"timeout_s": "30"}, "timeout_s: must be a number of seconds"),
        (SUBPROCESS, {"timeout_s": True}, "timeout_s: must be a number of seconds"),
        (SUBPROCESS, {"max_output_bytes": 0}, "max_output_bytes: must be a whole number from 1 to 67108864"),
        (SUBPROCESS, {"max_output_bytes": 67_108_865}, "max_output_bytes: must be a whole number from 1 to 67108864"),
        (SUBPROCESS, {"max_output_bytes": 1e6}, "max_output_bytes: must be a whole number"),
        (SUBPROCESS, {"max_output_bytes": True}, "max_output_bytes: must be a whole number"),
        (SUBPROCESS, {"idempotent": 1}, "idempotent: must be true or false"),
        (SUBPROCESS, {"idempotent": "false"}, "idempotent: must be true or false"),
        (SUBPROCESS, {"default_call": "a/b"}, "default_call: must be a table"),
        (SUBPROCESS, {"default_call": {"tool": "a"}}, "default_call.method: is missing"),
        (SUBPROCESS, {"default_call": {"tool": "a", "method": "b", "args": {}}}, "default_call.args: unknown key; known are method, tool"),
        (SUBPROCESS, {"default_call": {"tool": "a", "method": "c"}}, "default_call: adapter subprocess:tool does not allow a/c"),
        (SUBPROCESS, {"default_call": {"tool": "--a", "method": "b"}}, "default_call.tool: must be a name"),
        (SUBPROCESS, {"default_call": {"tool": 1, "method": "b"}}, "default_call.tool: must be a name"),
        (SUBPROCESS, {"redact": "/a"}, "redact: must be a list of JSON pointers"),
        (SUBPROCESS, {"redact": ["a"]}, "redact[0]: must be a JSON pointer"),
        (SUBPROCESS, {"redact": ["/a", ""]}, "redact[1]: must be a JSON pointer"),
        (SUBPROCESS, {"redact": ["/a~2b"]}, "redact[0]: must be a JSON pointer"),
        (SUBPROCESS, {"secrets": ["TOKEN"]}, "secrets: must be a table"),
        (SUBPROCESS, {"secrets": {"t": "TOKEN"}}, "secrets.t: must be where the secret is"),
        (SUBPROCESS, {"secrets": {"t": "env:"}}, "secrets.t: must be where the secret is"),
        (SUBPROCESS, {"secrets": {"t": "env:A B"}}, "secrets.t: must be where the secret is"),
        (SUBPROCESS, {"secrets": {"t": "file:"}}, "secrets.t: must be where the secret is"),
        (SUBPROCESS, {"secrets": {"a/b": "env:A"}}, "secrets.'a/b': must be a name"),
        (SUBPROCESS, {"base_url": "x"}, "base_url: unknown key"),
        (SUBPROCESS, {"env": {"A": "b"}}, "env: unknown key"),
        (SUBPROCESS, {"shell": True}, "shell: unknown key"),
        (SUBPROCESS, {"sh\x1b[31mell": True}, "'sh\\x1b[31mell': unknown key"),
        (MCP, {"command": ["server"]}, "command: must be the program"),
        (MCP, {"command": ""}, "command: must be the program"),
        (MCP, {"args": "--root"}, "args: must be a list of texts"),
        (MCP, {"start_timeout_s": 0}, "start_timeout_s: must be a number of seconds"),
        (MCP, {"tools_digest": "0" * 64}, "tools_digest: must be 'sha256:' and 64 hexadecimal digits"),
        (MCP, {"tools_digest": "sha256:" + "A" * 64}, "tools_digest: must be 'sha256:' and 64 hexadecimal digits"),
        (MCP_URL, {"url": "ws://mcp.example"}, "url: must be an https URL"),
        (MCP_URL, {"url": "http://mcp.example/mcp"}, "url: must be an https URL"),
        (MCP_URL, {"url": "http://127.0.0.1.example/mcp"}, "url: must be an https URL"),
        (MCP_URL, {"url": "https://alice:pw@mcp.example/mcp"}, "url: must be an https URL without credentials"),
        (HTTP, {"base_url": "https://service.example?x=1"}, "base_url: must be an https URL"),
        (HTTP, {"base_url": "https://service.example/#a"}, "base_url: must be an https URL"),
        (HTTP, {"base_url": "https://service.example/?"}, "base_url: must be an https URL"),
        (HTTP, {"base_url": "https:///v1"}, "base_url: must be an https URL"),
        (HTTP, {"base_url": "https://service.example:port"}, "base_url: must be an https URL"),
        (HTTP, {"base_url": "https://[::1"}, "base_url: must be an https URL"),
        (HTTP, {"base_url": "https://service.example/\nx"}, "base_url: must be an https URL"),
        (HTTP, {"base_url": 5}, "base_url: must be an https URL"),
        (HTTP, {"headers_env": ["Authorization"]}, "headers_env: must be a table"),
        (HTTP, {"headers_env": {"Authorization": "Bearer abc"}}, "headers_env.Authorization: must be the name of an environment variable"),
        (HTTP, {"headers_env": {"content-LENGTH": "A"}}, "headers_env.content-LENGTH: must be the name of a header"),
        (HTTP, {"headers_env": {"Idempotency-Key": "A"}}, "headers_env.Idempotency-Key: must be the name of a header"),
        (HTTP, {"headers_env": {"X: y": "A"}}, "headers_env.'X: y': must be the name of a header"),
        (HTTP, {"allow_private": "no"}, "allow_private: must be true or false"),
        (HTTP, {"ca_file": ""}, "ca_file: must be a path"),
        (HTTP, {"timeout": 3}, "timeout: unknown key"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path(entry: dict[str, Any], keys: dict[str, object], problem: str) -> None:
    (found,) = problems({**entry, **keys})
    assert found.startswith("adapters[0].")
    assert problem in found


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_http_without_tls_is_for_this_host_only(host: str) -> None:
    (adapter,) = parse_adapters({"adapters": [{**HTTP, "base_url": f"http://{host}:8080/v1"}]}, base_dir=Path("/"))
    assert (adapter.adapter_kind, getattr(adapter.settings, "base_url", None)) == ("http", f"http://{host}:8080/v1")


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    secret = "hunter2 is the password"
    wrong = {
        **HTTP,
        "headers_env": {"Authorization": secret},
        "secrets": {"a": secret},
        "base_url": f"https://u:{secret}@h",
        "timeout_s": secret,
    }
    assert secret not in " ".join(problems({**HTTP, **wrong}))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "adapters: is missing"),
        ({"adapters": []}, "adapters: must be a list of at least one adapter"),
        ({"adapters": {"a": SUBPROCESS}}, "adapters: must be a list of at least one adapter"),
        ({"adapters": [1]}, "adapters[0]: must be a table"),
        ({"adapters": [SUBPROCESS], "adapter": []}, "adapter: unknown key; known are $schema, adapters"),
        ({"adapters": [SUBPROCESS, SUBPROCESS]}, "adapters[1].id: is the id of adapters[0], too"),
        ([SUBPROCESS], ": must be a table"),
        ("adapters", ": must be a table"),
    ],
)
def test_a_file_of_another_shape_is_refused(data: object, problem: str) -> None:
    with pytest.raises(AdapterFileError, match=re.escape(problem)):
        parse_adapters(data, base_dir=Path("/"))


@pytest.mark.parametrize(
    "content",
    [
        b"[[adapters]",
        b"adapters = 1\nadapters = 2",
        b"\xff\xfe",
        b'{"adapters": []}',
        b"a = " + b"[" * 100_000,
        b"a" + b".a" * 500_000 + b" = 1",
    ],
    ids=["open", "twice", "no UTF-8", "JSON", "deep", "a key of 500,000 names"],
)
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapters.toml"
    path.write_bytes(content)
    with pytest.raises(AdapterFileError, match=r"adapters\.toml: no TOML"):
        load_adapters(path)


@pytest.mark.parametrize("content", [b"", b"[[adapters]]", b'{"adapters": [], "adapters": []}', b'{"a": NaN}', b"[" * 100_000, b"\xff"])
def test_a_file_that_is_no_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapters.json"
    path.write_bytes(content)
    with pytest.raises(AdapterFileError, match=r"adapters\.json: no JSON"):
        load_adapters(path)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match=r"missing\.toml"):
        load_adapters(tmp_path / "missing.toml")
    with pytest.raises(AdapterFileError, match="a directory"):
        load_adapters(tmp_path)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(AdapterFileError, match="more than 1048576 bytes"):
        load_adapters(large)


def test_errors_of_a_loaded_file_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match=r"adapters\.toml: adapters\[0\]\.shell: unknown key") as caught:
        load_adapters(adapter_file(tmp_path, shell=True))
    assert caught.value.problems[0].startswith("adapters[0].shell: ")


def test_a_system_without_process_groups_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")
    assert problems(SUBPROCESS, MCP) == [f"adapters[{number}].command: needs POSIX process groups" for number in (0, 1)]
    parse_adapters({"adapters": [MCP_URL, HTTP]}, base_dir=Path("/"))


# What may be called.


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
@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["id"])
def test_a_pattern_covers_whole_names_and_the_star_any_characters(
    entry: dict[str, Any], pattern: str, tool: str, method: str, allowed: bool
) -> None:
    (adapter,) = parse_adapters({"adapters": [{**entry, "allow": [pattern]}]}, base_dir=Path("/"))
    if allowed:
        adapter.check(step(tool, method))
        return
    with pytest.raises(CallRefused) as caught:
        adapter.check(step(tool, method))
    assert caught.value.code == "CALL_NOT_ALLOWED"


HOSTILE = ["..", ".", "a/b", "?x=1", "--flag", "-v", "", "a b", "a%2Fb", "a\n", "a\0", "\u00e9", "a" * 129, "a;b", "$(x)", "../etc", "a\\b"]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry["id"])
def test_a_hostile_name_is_refused_even_where_everything_is_allowed(entry: dict[str, Any], name: str) -> None:
    (adapter,) = parse_adapters({"adapters": [{**entry, "allow": ["*/*"]}]}, base_dir=Path("/"))
    for hostile in (step(name, "b"), step("a", name)):
        with pytest.raises(CallRefused) as caught:
            adapter.check(hostile)
        assert caught.value.code == "INVALID_NAME"


def test_only_an_mcp_tool_may_begin_with_an_underscore() -> None:
    found = {}
    for entry in EVERY:
        (adapter,) = parse_adapters({"adapters": [{**entry, "allow": ["*/*"]}]}, base_dir=Path("/"))
        try:
            adapter.check(step("a", "_b"))
        except CallRefused as problem:
            found[adapter.adapter_id] = problem.code
    assert found == {"subprocess:tool": "INVALID_NAME", "http:service": "INVALID_NAME"}


# The digest of a definition, and the published schema.


def test_the_definition_digest_covers_every_key_and_no_place() -> None:
    def digest(keys: dict[str, object], base_dir: str = "/") -> str:
        (adapter,) = parse_adapters({"adapters": [{**SUBPROCESS, **keys}]}, base_dir=Path(base_dir))
        return adapter.definition_digest

    definition: dict[str, object] = {
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
        "redact": [],
        "secrets": {},
        "allow_literal_secrets": False,
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
        {"allow": ["*/*"]},
        {"idempotent": True},
        {"default_call": {"tool": "a", "method": "b"}},
        {"redact": ["/a"]},
        {"secrets": {"a": "env:A"}},
        {"allow_literal_secrets": True},
    ]
    assert len({digest(keys) for keys in [{}, *changes]}) == len(changes) + 1


def test_a_definition_names_secrets_and_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API", "Bearer hunter2hunter2")
    for adapter in parse_adapters({"adapters": [{**entry, "secrets": {"t": "env:API"}} for entry in EVERY]}, base_dir=Path("/")):
        assert "hunter2" not in json.dumps(adapter.settings.definition())


def test_the_published_schema_is_the_one_of_the_code() -> None:
    published = json.loads((ROOT / "schemas" / "nexus-attest.adapters.v1.json").read_text(encoding="utf-8"))
    assert published == json.loads(json.dumps(adapter_file_schema()))
    jsonschema.Draft202012Validator.check_schema(published)


def test_the_document_describes_every_key_as_the_code_does() -> None:
    document = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    assert document == filled("adapters.md", document), "run `make docs`"
    assert all(f"| `{key.name}` |" in document for variant in VARIANTS for key in variant.keys)


VALIDATOR: Any = jsonschema.Draft202012Validator(json.loads(json.dumps(adapter_file_schema())))

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.5, 10**9, "", "a", "a/b", "/a", "env:A", "A", "https://a.example/x", "http://localhost/x", "\0"),
    *([], ["a"], ["a/b"], ["/a"], {}, {"a": "env:A"}, {"X-A": "A"}, {"tool": "a", "method": "b"}, "sha256:" + "0" * 64, "x" * 5000),
]
KEYS = sorted({key.name for variant in VARIANTS for key in variant.keys})


@given(entry=st.sampled_from(EVERY), key=st.sampled_from([*KEYS, "other"]), value=st.sampled_from(VALUES))
def test_the_schema_and_the_reader_accept_the_same(entry: dict[str, Any], key: str, value: object) -> None:
    data = {"adapters": [{**entry, key: value}]}
    try:
        parse_adapters(data, base_dir=Path("/"))
    except AdapterFileError as problem:
        # What only the reader knows: that a default call must be allowed.
        if "does not allow" not in str(problem):
            assert not VALIDATOR.is_valid(data)
    else:
        assert VALIDATOR.is_valid(data)
