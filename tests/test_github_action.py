"""The Verify step of action.yml, run as the runner runs it: bash, with the environment that the action declares.

`make wheel` runs the Install step.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ROOT
from evidence_testing import edited, vector

from scripts.check_wheel import action_step

ACTION = (ROOT / "action.yml").read_text(encoding="utf-8")


class Job:
    """A workspace with evidence in it; `run` is the Verify step with these inputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "temp" / "nexus-attest" / "bin" / "python"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        program.chmod(0o755)
        self.write("evidence/good.json", vector("router-audit-package-embedded.json"))

    def write(self, name: str, document: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document), encoding="utf-8")

    def run(self, code: int, **inputs: str) -> list[str]:
        names = ("NEXUS_FILES", "NEXUS_TRUST", "NEXUS_CHECKPOINTS", "NEXUS_REQUIRE", "NEXUS_SARIF")
        given = {name: inputs.get(name.removeprefix("NEXUS_").lower(), "") for name in names}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", action_step("Verify")],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "PYTHONPATH": str(ROOT),
                "RUNNER_TEMP": str(self.folder / "temp"),
                "GITHUB_ACTION_PATH": str(ROOT),
                "GITHUB_OUTPUT": str(self.folder / "output"),
                "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
                **given,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout.splitlines()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_whole_evidence_passes_and_what_is_missing_is_a_notice(job: Job) -> None:
    lines = job.run(0, files="evidence/*.json", require="integrity authorization")
    assert [line.split(" ")[0] for line in lines[:-1]] == ["::notice"] * 3
    assert lines[-1] == "1 judged, 0 failed"
    assert (job.folder / "output").read_text() == "failed=0\n"
    assert "| evidence/good.json | PASS | PASS | INCOMPLETE | PASS | INCOMPLETE | INCOMPLETE |\n" in (job.folder / "summary").read_text()


def test_every_failure_is_an_error_on_its_file_and_sarif_has_a_run_for_each(job: Job) -> None:
    forged = edited(vector("router-audit-package-embedded.json"), "control_bundle.events.2.actor.id", "mallory\n::error::pwned, 100%")
    job.write("evidence/deep/forged, odd.json", forged)
    lines = job.run(2, files="evidence/**/*.json\n", require="integrity", sarif="out.sarif")
    errors = [line for line in lines if line.startswith("::error")]
    assert errors[0].startswith(
        "::error file=evidence/deep/forged%2C odd.json,line=1,title=nexus-attest%3A integrity::control_bundle_digest: "
    )
    assert not [line for line in lines if line.startswith("::error::")], "nothing in a file can write a command"
    assert lines[-1] == "2 judged, 1 failed"
    sarif: dict[str, Any] = json.loads((job.folder / "out.sarif").read_text())
    assert [run["automationDetails"]["id"].split("/")[-2] for run in sarif["runs"]] == ["forged, odd.json", "good.json"]
    assert {result["level"] for result in sarif["runs"][0]["results"]} == {"error", "note"}


def test_a_required_layer_without_evidence_fails(job: Job) -> None:
    lines = job.run(2, files="evidence/good.json", require="integrity signatures")
    (error,) = [line for line in lines if line.startswith("::error")]
    assert "signatures::0 of 1 needed approvals are signed" in error


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"files": ""}, "no files were named"),
        ({"files": "evidence/good.json\nnowhere/*.json"}, "no file matches nowhere/*.json"),
        ({"files": "evidence/good.json", "trust": "missing.toml"}, "missing.toml"),
        ({"files": "evidence/good.json", "checkpoints": "missing.note"}, "missing.note"),
        ({"files": "evidence/good.json", "require": "integrity quantum"}, "quantum"),
    ],
)
def test_what_cannot_be_verified_never_passes(job: Job, inputs: dict[str, str], text: str) -> None:
    lines = job.run(2, **inputs)
    assert any(text in line for line in lines if line.startswith("::error")), lines


def test_a_file_that_is_no_evidence_fails(job: Job) -> None:
    job.write("evidence/other.json", {"a": 1})
    lines = job.run(2, files="evidence/other.json", require="integrity")
    assert lines[0].startswith("::error file=evidence/other.json,line=1,title=nexus-attest%3A integrity::schema: ")


def test_every_input_reaches_the_step_that_uses_it() -> None:
    inputs = set(re.findall(r"^  (\w+):\n    description", ACTION, re.MULTILINE))
    used = set(re.findall(r"\$\{\{ inputs\.(\w+) \}\}", ACTION))
    assert used == inputs - {"failed"}
    assert "${{" not in action_step("Verify") + action_step("Install"), "what a pull request can name must not be pasted into a script"
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "ci.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert documented == used
