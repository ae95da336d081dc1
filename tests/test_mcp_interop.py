"""Clients that others wrote walk through a whole decision: SDKs of two languages in two generations, and the inspector.

Each lists the tools, requests, approves twice, executes, and exports; here the exported package is verified. The Python SDK 2.x does the
same in test_mcp_protocol.py.
"""

import json
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_testing import program
from mcp_testing import ADAPTER, http_server, server_command, server_environment
from node_testing import ROOT, node, npm_folder, python_folder

from nexus_control.audit_package import verify_audit_package

HERE = ROOT / "tests" / "interop"
PYTHON = {"python1": "mcp==1.30.0", "fastmcp4": "fastmcp==4.1.2"}
"""Drivers in Python, and what they run with, each in an environment of its own."""

TOOLS = [
    *("request", "approve", "execute", "status", "inspect"),
    *("template.create", "template.get", "template.list"),
    *("export_bundle", "import_bundle", "export_audit_package"),
]
CLIENTS = [
    *("python1", "fastmcp4-legacy", "fastmcp4-auto"),
    *("typescript1", "typescript2-legacy", "typescript2-auto", "typescript2-pinned"),
]
MODES: dict[str, object] = {"legacy": "legacy", "auto": "auto", "pinned": {"pin": "2026-07-28"}}


@contextmanager
def server(transport: str, folder: Path, *options: str) -> Generator[dict[str, Any]]:
    """How a client reaches a server: a URL, or a command to start."""
    if transport == "http":
        with http_server(folder, *options) as (url, _):
            yield {"url": url}
    else:
        command, *arguments = server_command("--adapters", str(program(folder)), "--log-level", "warning", *options)
        yield {"command": command, "args": arguments, "env": server_environment(folder)}


def ran(command: list[str], folder: Path, *, code: int = 0) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def driver(client: str) -> list[str]:
    name = client.partition("-")[0]
    if name in PYTHON:
        return [str(python_folder(name, PYTHON[name])), str(HERE / f"{name}.py")]
    npm_folder(HERE)
    return [str(node()), str(HERE / f"{name}.mjs")]


@pytest.mark.parametrize("transport", ["stdio", "http"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_of_another_sdk_walks_through_a_decision_that_people_confirm(client: str, transport: str, tmp_path: Path) -> None:
    command = driver(client)
    with server(transport, tmp_path, "--human-approval", "always") as reached:
        given = {**reached, "adapter": ADAPTER, "mode": MODES.get(client.rpartition("-")[2])}
        told = json.loads(ran([*command, json.dumps(given)], tmp_path))
    assert told["tools"] == [f"nexus-attest.{short}" for short in TOOLS]
    assert (told["approved"], told["mode"], told["again"]) == ([False, True], "apply", "ALREADY_EXECUTED")
    assert [question.split("?")[0] for question in told["asked"]] == [f"Approve this action as human {name}" for name in ("bob", "carol")]
    assert verify_audit_package(told["package"]).ok


@pytest.mark.parametrize(
    ("transport", "names", "era"), [("http", "dotted", "modern"), ("http", "dotted", "legacy"), ("stdio", "underscore", "auto")]
)
def test_the_inspector_walks_through_a_decision_and_finds_nothing_to_say_about_the_schemas(
    transport: str, names: str, era: str, tmp_path: Path
) -> None:
    launcher = npm_folder(HERE) / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
    spelled = {short: f"nexus-attest.{short}" if names == "dotted" else f"nexus_attest_{short.replace('.', '_')}" for short in TOOLS}
    with server(transport, tmp_path, "--tool-names", names) as reached:
        target = [reached["url"]] if "url" in reached else [reached["command"], *reached["args"]]
        variables = [word for name, value in reached.get("env", {}).items() for word in ("-e", f"{name}={value}")]

        def inspected(*options: str, code: int = 0) -> dict[str, Any]:
            own = [*variables, "--protocol-era", era, "--format", "json", "-q", *options]
            return json.loads(ran([str(node()), str(launcher), "--cli", *own, "--", *target], tmp_path, code=code))["result"]

        def call(short: str, code: int = 0, **arguments: Any) -> dict[str, Any]:
            options = ("--method", "tools/call", "--tool-name", spelled[short], "--tool-args-json", json.dumps(arguments))
            return inspected(*options, code=code)

        listed = inspected("--method", "tools/list", "--strict")
        assert [tool["name"] for tool in listed["tools"]] == list(spelled.values())
        alice, bob = ({"type": "human", "id": name} for name in ("alice", "bob"))
        asked: dict[str, Any] = {
            "goal": "walk",
            "actor": alice,
            "mode": "apply",
            "plan": '[{"tool": "t", "method": "m"}]',
            "min_approvals": 2,
        }
        request_id = call("request", **asked)["structuredContent"]["request_id"]
        assert call("approve", request_id=request_id, actor=alice)["structuredContent"]["is_approved"] is False
        assert call("approve", request_id=request_id, actor=bob)["structuredContent"]["is_approved"] is True
        execution: dict[str, Any] = {"request_id": request_id, "adapter_id": ADAPTER, "actor": bob}
        assert call("execute", **execution)["structuredContent"]["mode"] == "apply"
        assert "ALREADY_EXECUTED" in json.dumps(call("execute", code=5, **execution))
        package = call("export_audit_package", decision_id=request_id)["structuredContent"]["package"]
    assert verify_audit_package(package).ok
