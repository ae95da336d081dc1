"""The demonstration tells what happens: what it says is checked against the files that it leaves."""

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ROOT, CommandLine

from nexus_attest.attestation.witness import Level, Verdict, WitnessJudge
from nexus_attest.cli import main
from nexus_attest.cli.errors import Failure
from nexus_attest.cli.session import Session
from nexus_attest.cli.stage import set_up
from nexus_attest.cli.story import tell
from nexus_attest.trust import TrustPolicy
from nexus_attest.trust_file import load_trust
from nexus_control.errors import FileRefused
from nexus_control.integrity import content_digest, prefixed
from nexus_control.tool import NexusControlTools, ToolResult

SIX_CHECKS = [
    "binding_digest",
    "control_bundle_digest",
    "binding_control_match",
    "binding_router_match",
    "binding_link_match",
    "router_digest",
]


def fingerprint(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}..."


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, actor=None)


def test_the_story_is_told_in_three_acts_and_every_command_at_its_end_works(cli: CommandLine) -> None:
    told = cli.run("demo")
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    titles = ["The rules", "The request", "Too early", "Two people decide", "The rehearsal", "The real thing", "The proof", "The forgery"]
    titles += ["Somebody else's server", "The publication", "The changed tool", "The attestation", "The witness, on a local test ledger"]
    titles += ["The proof, offline (local test ledger)", "The forged proof (local test ledger)"]
    for number, title in enumerate(titles, 1):
        assert any(line.startswith(f"{number}  {title} ") for line in lines), title
    acts = [line for line in lines if line.startswith(("ACT ", "12  The attestation "))]
    assert [line.split("\u2550")[0].split("\u2500")[0].strip() for line in acts] == [
        *("ACT 1  The key", "ACT 2  The registry", "ACT 3  The witness (local test ledger)"),
        "12  The attestation",
    ]
    assert "✗ refused" in told.out
    assert "Insufficient approvals: 0 of 2" in told.out
    assert "MISSING_APPROVALS" in told.out
    assert "✗ once more" in told.out
    for name in SIX_CHECKS:
        assert f"ok  {name} " in told.out
    assert "FAILED  control_bundle_digest" in told.out
    assert "refused     TOOL_DEFINITION_CHANGED" in told.out
    assert "THIS IS A LOCAL TEST LEDGER" in told.out
    assert "1,000 intents in one transaction" in told.out
    assert "Are they four fifths of the list? (5 of 5 validators)" in told.out
    assert "FAILED  path " in told.out

    folder = cli.folder / "nexus-attest-demo"
    before, after = fingerprint(folder / "signing.key.1"), fingerprint(folder / "signing.key")
    assert before != after
    assert f"{before} untouched" in told.out
    assert f"{before} unchanged" in told.out
    assert " ".join(f"key before {before} key after {after}".split()) in " ".join(told.out.split())
    assert (folder / "signing.key").read_text().strip() not in told.out
    assert max(len(line) for line in lines if "--db" not in line and "verify" not in line) <= 100

    commands = [line.strip() for line in told.out.replace("\\\n", " ").splitlines() if "-m nexus_attest" in line]
    codes = [subprocess.run(shlex.split(command), env=cli.env, cwd=cli.folder, check=False).returncode for command in commands]
    assert codes == [0, 0, 2, 0, 0, 2, 0]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[CommandLine, dict[str, Any]]:
    """A demonstration in the folder `here`, and what it told; not to be changed."""
    cli = CommandLine(tmp_path_factory.mktemp("played"), actor=None)
    return cli, cli.json("demo", "--dir", "here")


def test_what_the_demonstration_leaves_is_what_it_says(played: tuple[CommandLine, dict[str, Any]]) -> None:
    cli, facts = played
    folder = cli.folder / "here"
    assert {path.name for path in folder.iterdir()} == {
        ".nexus-attest-demo",
        "adapters.toml",
        "attestation.json",
        "audit-package.json",
        "decisions.db",
        "decisions.db.runs",
        "forged-package.json",
        "forged-witness-proof.json",
        "keyregistry.py",
        "keytool.py",
        "registry.json",
        "signing.key",
        "signing.key.1",
        "witness-proof.json",
        "witness-trust.toml",
    }
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "signing.key").stat().st_mode & 0o777 == 0o600
    assert facts["key_before"] == fingerprint(folder / "signing.key.1")
    assert facts["key_after"] == fingerprint(folder / "signing.key")
    assert facts["checks"] == SIX_CHECKS
    assert facts["forgery_failed"] == ["control_bundle_digest"]
    assert facts["published"] == f"sha256:{hashlib.sha256((folder / 'signing.key').read_bytes()).hexdigest()}"
    assert json.loads((folder / "registry.json").read_text())["release.example"]["fingerprint"] == facts["published"]
    assert f'tools_digest = "{facts["tools_digest"]}"' in (folder / "adapters.toml").read_text()
    assert facts["changed_server"] == "TOOL_DEFINITION_CHANGED"
    assert (folder / "keyregistry.py").read_text() != (ROOT / "examples" / "keyregistry" / "server.py").read_text()
    assert (folder / "keytool.py").read_bytes() == (ROOT / "examples" / "keyrotate" / "keytool.py").read_bytes()

    package, forgery = ((folder / name).read_text() for name in ("audit-package.json", "forged-package.json"))
    assert package != forgery
    assert package == forgery.replace('"mallory"', '"bob"')
    assert json.loads(package)["router"]["mode"] == "embedded"
    assert json.loads(package)["integrity"]["binding_digest"] == facts["binding_digest"]
    run = json.loads(package)["router"]["bundle"]
    (output,) = (event["payload"]["output"] for event in run["events"] if event["type"] == "TOOL_CALL_SUCCEEDED")
    assert output["new"] == f"sha256:{hashlib.sha256((folder / 'signing.key').read_bytes()).hexdigest()}"

    judged = cli.json("verify", "here/forged-package.json", code=2)
    assert [check["name"] for check in judged["layers"][0]["checks"] if not check["ok"]] == ["control_bundle_digest"]
    events = cli.json("status", facts["request_id"], "--events", "--db", "here/decisions.db")["events"]
    assert [event["event_type"] for event in events] == [
        *("DECISION_CREATED", "POLICY_ATTACHED", "APPROVAL_GRANTED", "APPROVAL_GRANTED"),
        *("EXECUTION_REQUESTED", "EXECUTION_STARTED", "EXECUTION_COMPLETED") * 2,
    ]


def test_the_witness_of_the_demonstration_is_proven_offline_and_its_forgery_is_not(played: tuple[CommandLine, dict[str, Any]]) -> None:
    cli, facts = played
    folder = cli.folder / "here"
    assert (facts["witness_ledger"], facts["witness_level"], facts["witness_forgery_failed"]) == ("local-test-ledger", "quorum", ["path"])
    proof, forgery = ((folder / name).read_text() for name in ("witness-proof.json", "forged-witness-proof.json"))
    assert sum(one != other for one, other in zip(proof, forgery, strict=True)) == 1
    judge = WitnessJudge(load_trust(folder / "witness-trust.toml"))
    verdict = judge.judge(json.loads(proof), binding_digest=facts["binding_digest"])
    assert (verdict.level, verdict.failed, list(verdict.gaps)) == (Level.QUORUM, [], [])
    assert verdict.about["batch"]["size"] == json.loads(proof)["receipt"]["proof"]["merkle"]["size"] == 1000
    attestation = json.loads((folder / "attestation.json").read_text())
    assert json.loads(proof)["intent"]["labels"] == {"attestation": prefixed(content_digest(attestation))}
    judged = judge.judge(json.loads(forgery), binding_digest=facts["binding_digest"])
    assert (judged.level, judged.failed) == (None, ["path"])
    # Nobody else believes the test ledger.
    assert WitnessJudge(TrustPolicy()).judge(json.loads(proof)).level is not Level.QUORUM
    status = cli.json("witness", "status", facts["intent_digest"], "--db", "here/decisions.db")
    assert status["receipt"]["proof"]["network"] == "local-test-ledger"


def test_a_proof_that_does_not_verify_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = WitnessJudge.judge

    def fooled(self: WitnessJudge, data: object, *, binding_digest: str | None = None) -> Verdict:
        return replace(judge(self, data, binding_digest=binding_digest), level=Level.TREE)

    monkeypatch.setattr(WitnessJudge, "judge", fooled)
    with Session(db=None, as_json=True) as session, pytest.raises(Failure, match="the proof fails"):
        tell(session, tmp_path / "demo")


def test_the_story_in_this_process_ends_with_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for called, shown in (("/opt/tools/nexus-attest", "/opt/tools/nexus-attest"), ("bin/nexus-attest", "nexus-attest")):
        monkeypatch.setattr(sys, "argv", [called, "demo"])
        if called.startswith("bin"):
            (tmp_path / "bin").mkdir()
            (tmp_path / "bin" / "nexus-attest").write_text("#!/bin/sh\n")
            (tmp_path / "bin" / "nexus-attest").chmod(0o755)
            monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        assert main() == 0
        told = capsys.readouterr()
        assert f"\n     {shown} log verify --db nexus-attest-demo/decisions.db\n" in told.out
        assert told.err == ""


def test_running_it_again_replaces_its_own_files_and_no_other(cli: CommandLine) -> None:
    first = cli.json("demo")
    mine = cli.folder / "nexus-attest-demo" / "notes.txt"
    mine.write_text("mine")
    second = cli.json("demo")
    assert first["request_id"] != second["request_id"]
    assert mine.read_text() == "mine"
    assert len(cli.json("list", "--db", "nexus-attest-demo/decisions.db")["requests"]) == 3


@pytest.fixture
def occupied(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "occupied"
    folder.mkdir()
    (folder / "signing.key").write_text("somebody's key\n")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["signing.key"]
    assert (folder / "signing.key").read_text() == "somebody's key\n"


def test_a_folder_that_it_did_not_make_is_left_alone(occupied: Path) -> None:
    link = occupied.parent / "link"
    link.symlink_to(occupied)
    file = occupied.parent / "file"
    file.write_text("x")
    dangling = occupied.parent / "dangling"
    dangling.symlink_to("nowhere")
    for folder in (occupied, link, file, dangling):
        with pytest.raises(FileRefused):
            set_up(folder)
    assert file.read_text() == "x"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    set_up(tmp_path)
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600


def test_a_folder_with_a_hostile_name_is_quoted_and_escaped(cli: CommandLine) -> None:
    name = "it's \x1b[31m; rm -rf x"
    told = cli.run("demo", "--dir", name)
    assert told.code == 0
    assert "\x1b" not in told.out
    assert r"it's \x1b[31m; rm -rf x" in told.out


@pytest.mark.parametrize("call", ["template_create", "request", "approve", "status", "export_audit_package"])
def test_a_failure_inside_is_a_failure(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> ToolResult:
        return ToolResult(success=False, error="SOME_CODE: made to fail", code="SOME_CODE")

    monkeypatch.setattr(NexusControlTools, call, fail)
    with Session(db=None, as_json=True) as session, pytest.raises(Failure, match="made to fail") as problem:
        tell(session, tmp_path / "demo")
    assert problem.value.code == "DEMO_FAILED"


def test_a_key_that_was_not_rotated_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute = NexusControlTools.execute

    def only_pretend(*arguments: object, dry_run: bool | None = None) -> ToolResult:
        return execute(*arguments, dry_run=True if dry_run is not None else None)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(NexusControlTools, "execute", only_pretend)
    with Session(db=None, as_json=True) as session, pytest.raises(Failure, match="the key was not rotated"):
        tell(session, tmp_path / "demo")


def test_a_failure_ends_with_exit_code_1(cli: CommandLine) -> None:
    code = (
        "import sys\n"
        "from nexus_control.tool import NexusControlTools, ToolResult\n"
        "NexusControlTools.approve = lambda *a, **k: ToolResult(success=False, error='X: no', code='X')\n"
        "from nexus_attest.cli import main\n"
        "sys.argv = ['nexus-attest', 'demo']\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], env=cli.env, cwd=cli.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "nexus-attest: DEMO_FAILED: X: no\n"
