"""The official MCP conformance suite, with the requirement sets that its authors froze for two revisions of the protocol.

Two servers are judged. The real one, which fails what demands tools, prompts or resources of the suite's own: `expected-*.yml` names each
such check, and the suite fails when one of them passes, so that the files cannot rot. And the fixture (fixture.py), the same server object
with those added, which fails nothing.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mcp_testing import http_server, server_environment
from node_testing import ROOT, node, npm_folder

HERE = ROOT / "tests" / "conformance"
REVISIONS = ["2026-07-28", "2025-11-25"]

NOT_SCORED = {"http-custom-header-server-validation": "no tool here takes an argument from a header"}
"""What the suite runs without counting it, and the fixture does not have."""

TASK_SCENARIOS = 10
"""Of the extension for tasks, which belongs to the stateless revision. The suite does not count them; one awaits checks to come."""

TASK_CHECKS = 44

ADVICE = {"server-sse-priming-event", "server-sse-retry-field"}
"""Warnings that stay: resumable streams need a store of sent events, and a decision is read again with `status`."""


def judged(url: str, revision: str, folder: Path, *options: str) -> dict[str, dict[str, str]]:
    """Status of every check by scenario and id; the suite must have ended well."""
    suite = [str(node()), str(npm_folder(ROOT / "tests" / "interop") / "@modelcontextprotocol" / "conformance" / "dist" / "index.js")]
    command = [*suite, "server", "--url", url, "--requirements", revision, "-o", str(folder / "out"), *options]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False, stdin=subprocess.DEVNULL
    )
    found: dict[str, dict[str, str]] = {}
    for path in (folder / "out").rglob("checks.json"):
        scenario = path.parent.name.removeprefix("server-").rpartition("-2026-")[0] or path.parent.name
        for check in json.loads(path.read_text()):
            status, before = check["status"], found.setdefault(scenario, {}).get(check["id"])
            found[scenario][check["id"]] = before if before == "FAILURE" else status
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return found


@contextmanager
def fixture(folder: Path) -> Generator[str]:
    """The URL of the fixture server."""
    command = [sys.executable, "-W", "error", str(HERE / "fixture.py")]
    with (folder / "stderr").open("w") as errors:
        process = subprocess.Popen(command, env=server_environment(folder), stdout=subprocess.PIPE, stderr=errors, text=True)
    with process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, (folder / "stderr").read_text()
            yield url
        finally:
            process.terminate()


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_real_server_fails_nothing_but_what_demands_the_suites_own_tools(revision: str, tmp_path: Path) -> None:
    with http_server(tmp_path) as (url, _):
        found = judged(url, revision, tmp_path, "--expected-failures", str(HERE / f"expected-{revision}.yml"))
    assert len(found) >= 30, sorted(found)


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_same_server_with_the_suites_tools_fails_nothing(revision: str, tmp_path: Path) -> None:
    with fixture(tmp_path) as url:
        found = judged(url, revision, tmp_path)
    counted = {scenario: checks for scenario, checks in found.items() if scenario not in NOT_SCORED}
    assert len(counted) >= 30, sorted(found)
    statuses = {(scenario, check): status for scenario, checks in counted.items() for check, status in checks.items()}
    assert [where for where, status in statuses.items() if status == "FAILURE"] == []
    assert {check for (_, check), status in statuses.items() if status == "WARNING"} <= ADVICE
    assert sum(status == "SUCCESS" for status in statuses.values()) >= 70
    if revision == REVISIONS[0]:
        tasks = [status for (scenario, _), status in statuses.items() if scenario.startswith("tasks-")]
        assert (len({scenario for scenario in counted if scenario.startswith("tasks-")}), tasks.count("SUCCESS")) == (
            TASK_SCENARIOS,
            TASK_CHECKS,
        )


@pytest.mark.parametrize("revision", REVISIONS)
def test_what_is_expected_to_fail_is_named_check_by_check_and_demands_fixtures(revision: str) -> None:
    lines = (HERE / f"expected-{revision}.yml").read_text().splitlines()
    entries = [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]
    assert entries == sorted(set(entries))
    demanding = (
        *("completion-", "elicitation-", "input-required-result-", "json-schema-"),
        *("prompts-get-", "resources-", "server-stateless", "tools-call-"),
    )
    for entry in entries:
        scenario, colon, check = entry.partition(":")
        assert colon
        assert check
        assert scenario.startswith(demanding), entry
