"""What makes hosts start the server: snippets of `mcp config`, server.json for the registry, the manifest of the desktop bundle."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cli_testing import CommandLine, program
from jsonschema import Draft7Validator
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from node_testing import ROOT, node, npm_folder, python_wheel

from nexus_attest.cli.hosts import HOSTS, NAME
from nexus_control import __version__

OURS = [sys.executable, "-m", "nexus_attest"]


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    (tmp_path / "home").mkdir()
    return CommandLine(tmp_path)


def words_of(host: str, text: str) -> list[str]:
    """The command line in a snippet, as the host reads it."""
    if host == "claude-code":
        said, _, command = text.partition(" -- ")
        assert said == f"claude mcp add {NAME}"
        return shlex.split(command)
    if host == "codex":
        entry = tomllib.loads(text)["mcp_servers"][NAME]
    else:
        document: dict[str, Any] = json.loads(text)
        entry = document["servers" if host == "vscode" else "mcpServers"][NAME]
        own: dict[str, Any] = {"command": entry["command"], "args": entry["args"]}
        if host == "vscode":
            assert document == {"servers": {NAME: {"type": "stdio", **own}}, "inputs": []}
        else:
            assert document == {"mcpServers": {NAME: {**own, "env": {}}}}
    return [entry["command"], *entry["args"]]


@pytest.mark.parametrize("host", HOSTS)
def test_a_snippet_has_the_command_line_that_serves_this_store(cli: CommandLine, host: str) -> None:
    ended = cli.run("mcp", "config", host)
    assert ended.code == 0
    assert words_of(host, ended.out) == ["uvx", "nexus-attest", "serve", "--tool-names", "underscore", "--db", str(cli.db)]
    assert HOSTS[host].where in ended.err
    document = cli.json("mcp", "config", host)
    assert (document["host"], document["text"]) == (host, ended.out.removesuffix("\n"))


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_has_a_page_with_its_snippet(cli: CommandLine, host: str) -> None:
    page = (ROOT / "docs" / "hosts" / f"{host}.md").read_text()
    printed = cli.run("mcp", "config", host).out.replace(str(cli.db), "/home/alice/decisions.db")
    assert f"\n{printed.rstrip()}\n```\n" in page
    assert f"nexus-attest mcp config {host} " in page
    assert f"](hosts/{host}.md)" in (ROOT / "docs" / "mcp-server.md").read_text()


@pytest.mark.parametrize("host", HOSTS)
def test_names_of_files_survive_every_format(tmp_path: Path, host: str) -> None:
    folder = tmp_path / "a \"b\" 'c' $(d) \\e \u00e9\x7f"
    (folder / "home").mkdir(parents=True)
    cli = CommandLine(folder)
    launcher = "uvx --from 'nexus-attest' nexus-attest"
    text = cli.run("mcp", "config", host, "--adapters", "adapters.toml", "--launcher", launcher, "--", "--read-only").out
    assert words_of(host, text) == [
        *("uvx", "--from", "nexus-attest", "nexus-attest", "serve", "--tool-names", "underscore"),
        *("--db", str(cli.db), "--adapters", str(folder / "adapters.toml"), "--read-only"),
    ]


def test_a_host_that_nobody_knows_and_a_launcher_that_is_none_are_refused(cli: CommandLine) -> None:
    assert cli.run("mcp", "config", "emacs").code == 2
    for launcher in ("", "'"):
        assert cli.run("mcp", "config", "cursor", "--launcher", launcher).code == 2


async def listed(words: list[str], folder: Path) -> list[str]:
    """The tools of a server that is started by these words."""
    parameters = StdioServerParameters(command=words[0], args=words[1:], env=CommandLine(folder).env, cwd=folder)
    async with Client(stdio_client(parameters)) as client:
        return [tool.name for tool in (await client.list_tools()).tools]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_host_gets_a_server_that_starts_with_names_that_hosts_take(cli: CommandLine, anyio_backend: str) -> None:
    adapters = program(cli.folder)
    bundle = json.loads((ROOT / "packaging" / "mcpb" / "manifest.json").read_text())["server"]["mcp_config"]["args"]
    starts = [
        words_of("cursor", cli.json("mcp", "config", "cursor", "--launcher", shlex.join(OURS), "--adapters", str(adapters))["text"]),
        [*OURS, *registry_arguments()],
        [sys.executable, str(ROOT / "packaging" / "mcpb" / "src" / "server.py"), *bundle[bundle.index("src/server.py") + 1 :]],
    ]
    for words in starts:
        names = await listed(words, cli.folder)
        assert len(names) == 11, anyio_backend
        assert all(re.fullmatch(r"[a-zA-Z0-9_]{1,64}", name) and len(NAME + name) <= 60 for name in names)


# -- the registry -------------------------------------------------------------------------------------------------------------------


def registry() -> dict[str, Any]:
    return json.loads((ROOT / "server.json").read_text())


def registry_arguments() -> list[str]:
    (package,) = registry()["packages"]
    return [word for argument in package["packageArguments"] for word in (argument.get("name"), argument["value"]) if word is not None]


def test_server_json_is_about_this_version_and_the_readme_owns_its_name() -> None:
    document = registry()
    (package,) = document["packages"]
    assert document["version"] == package["version"] == __version__
    assert f"<!-- mcp-name: {document['name']} -->" in (ROOT / "README.md").read_text()
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", document["name"])
    assert 1 <= len(document["description"]) <= 100
    assert (package["registryType"], package["identifier"], package["transport"]) == ("pypi", "nexus-attest", {"type": "stdio"})


def test_server_json_satisfies_the_schema_of_the_registry() -> None:
    wheel = python_wheel("mcp-registry-sdk", "0.1.0", python="3.13")  # which carries the registry's own file
    with zipfile.ZipFile(wheel) as packed:
        schema = json.loads(packed.read("mcpreg/_spec/server.schema.snapshot.json"))
    document = registry()
    assert schema["$id"] == document["$schema"]
    check: Any = Draft7Validator(schema)
    assert [error.message for error in check.iter_errors(document)] == []
    for wrong in ({"version": 1}, {"name": "no namespace"}, {"description": "x" * 101}, {"packages": [{"registryType": "pypi"}]}):
        assert not check.is_valid({**document, **wrong})


# -- the desktop bundle -------------------------------------------------------------------------------------------------------------


def test_the_bundle_is_about_this_version() -> None:
    manifest = json.loads((ROOT / "packaging" / "mcpb" / "manifest.json").read_text())
    project = tomllib.loads((ROOT / "packaging" / "mcpb" / "pyproject.toml").read_text())["project"]
    assert manifest["version"] == project["version"] == __version__
    assert project["dependencies"] == [f"nexus-attest=={__version__}"]


def test_the_official_tool_validates_the_bundle_and_packs_it(tmp_path: Path) -> None:
    tool = [str(node()), str(npm_folder(ROOT / "tests" / "interop") / "@anthropic-ai" / "mcpb" / "dist" / "cli" / "cli.js")]
    folder, environment = ROOT / "packaging" / "mcpb", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for command in (["validate", str(folder / "manifest.json")], ["pack", str(folder), str(tmp_path / "nexus-attest.mcpb")]):
        done = subprocess.run([*tool, *command], env=environment, capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "nexus-attest.mcpb").read_bytes().startswith(b"PK")
    broken = json.loads((folder / "manifest.json").read_text())
    del broken["server"]
    (tmp_path / "manifest.json").write_text(json.dumps(broken))
    command = [*tool, "validate", str(tmp_path / "manifest.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0, "it would accept anything"
