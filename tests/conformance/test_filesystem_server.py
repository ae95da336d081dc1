"""The MCP adapter against a server that others wrote: npm's @modelcontextprotocol/server-filesystem, over stdio."""

import json
import time
from pathlib import Path

import pytest
from node_testing import node, npm_package

from nexus_attest.routers import CallLimit, CallRefused, McpAdapter, RunEngine, RunFailed, parse_adapters

NAME, VERSION = "@modelcontextprotocol/server-filesystem", "2026.8.31"


@pytest.fixture(scope="module")
def program() -> tuple[str, str]:
    return str(node()), str(npm_package(NAME, VERSION) / "dist" / "index.js")


def adapter(program: tuple[str, str], folder: Path, **keys: object) -> McpAdapter:
    """The server for one folder; it may read, write and list."""
    command = {"command": program[0], "args": [program[1], str(folder)]}
    allow = ["files/write_file", "files/read_text_file", "files/list_directory"]
    entry = {"id": "mcp:files", "kind": "mcp", **command, "allow": allow, **keys}
    (found,) = parse_adapters({"adapters": [entry]}, base_dir=folder)
    assert isinstance(found, McpAdapter)
    return found


def plan(*steps: tuple[str, dict[str, object]]) -> str:
    return json.dumps([{"tool": "files", "method": method, "args": args} for method, args in steps])


def test_a_plan_of_three_calls_runs_in_one_session(program: tuple[str, str], tmp_path: Path) -> None:
    path = str(tmp_path / "note.txt")
    steps = plan(
        ("write_file", {"path": path, "content": "caf\u00e9\n"}),
        ("read_text_file", {"path": path}),
        ("list_directory", {"path": str(tmp_path)}),
    )
    with RunEngine([adapter(program, tmp_path)]) as engine:
        response = engine.run(goal="write a note", adapter_id="mcp:files", dry_run=False, plan=steps, max_steps=3)
        events = engine.flight_record(response["run_id"])["events"]
    assert (tmp_path / "note.txt").read_text(encoding="utf-8") == "caf\u00e9\n"
    outputs = [event["payload"]["output"] for event in events if event["type"] == "TOOL_CALL_SUCCEEDED"]
    assert outputs[1]["content"] == [{"type": "text", "text": "caf\u00e9\n"}]
    assert outputs[2]["content"] == [{"type": "text", "text": "[FILE] note.txt"}]
    assert response["status"] == "completed"


def test_a_refusal_of_the_server_is_a_certain_failure_and_stops_the_run(program: tuple[str, str], tmp_path: Path) -> None:
    steps = plan(("read_text_file", {"path": "/etc/passwd"}), ("write_file", {"path": str(tmp_path / "never"), "content": ""}))
    with RunEngine([adapter(program, tmp_path)]) as engine:
        with pytest.raises(RunFailed) as caught:
            engine.run(goal="g", adapter_id="mcp:files", dry_run=False, plan=steps)
        assert caught.value.run_id is not None
        events = engine.flight_record(caught.value.run_id)["events"]
    assert caught.value.code == "TOOL_ERROR"
    assert "Access denied" in str(caught.value)
    (failed,) = (event["payload"] for event in events if event["type"] == "TOOL_CALL_FAILED")
    assert failed["outcome"] == "failed"
    assert not (tmp_path / "never").exists()


def test_the_tools_are_pinned_by_their_definitions(program: tuple[str, str], tmp_path: Path) -> None:
    until = CallLimit(time.monotonic() + 200)
    survey = adapter(program, tmp_path).survey(until)
    assert sorted(survey.definitions) == ["list_directory", "read_text_file", "write_file"]
    digest = survey.details["tools_digest"]
    adapter(program, tmp_path, tools_digest=digest).open((), until).close()
    with pytest.raises(CallRefused) as caught:
        adapter(program, tmp_path, tools_digest="sha256:" + "0" * 64).open((), until)
    assert caught.value.code == "TOOL_DEFINITION_CHANGED"
