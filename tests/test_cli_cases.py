"""Checkpoints, case files and their verification on the command line, with real keys."""

import base64
import json
import shutil
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ADAPTER, program
from store_testing import foreign
from typer.testing import CliRunner

from nexus_attest.cli.app import app
from nexus_control.__main__ import main as engine_main
from nexus_control.checkpoint import parse_checkpoint, parse_note

LAYERS = ["integrity", "authorization", "signatures", "execution", "log", "witness"]


class Desk:
    """One folder with keys of alice, the log and an attestor, a trust policy that knows them, and a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == code, (done.exit_code, done.output, done.exception)
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self(*arguments, "--json", code=code))
        return value

    def refused(self, *arguments: str) -> str:
        return self.json(*arguments, code=2)["code"]

    def case(self, name: str = "case.json") -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return value

    def write(self, name: str, document: dict[str, Any]) -> str:
        (self.folder / name).write_text(json.dumps(document), encoding="utf-8")
        return name

    def outcomes(self, *arguments: str, code: int = 0) -> dict[str, str]:
        return {layer["name"]: layer["outcome"] for layer in self.json("verify", *arguments, code=code)["layers"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decision that alice signed for, executed and recorded, with a checkpoint before it and one after it."""
    folder = tmp_path_factory.mktemp("desk")
    folder.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        environment(patch, folder)
        cli = Desk(folder)
        entries: list[str] = []
        for key in ("alice", "log", "bot"):
            cli("keys", "new", key)
        entries.append(cli.json("keys", "show", "alice", "--actor", "alice")["trust"])
        entries.append(f'[[log_keys]]\nkey = "{cli.json("keys", "show", "log", "--log", "example.org/log")["verifier_key"]}"\n')
        bot = cli.json("keys", "show", "bot")
        public = base64.b64encode(bytes.fromhex(bot["public_key"])).decode() if len(bot["public_key"]) == 64 else bot["public_key"]
        entries.append(f'[[attestors]]\nid = "release-bot"\nkey_id = "{bot["key_id"]}"\npublic_key = "{public}"\n')
        (folder / "trust.toml").write_text("version = 1\n" + "\n".join(entries))
        environment(patch, folder)
        first = cli("request", "before", "-q").strip()
        assert first
        cli("log", "checkpoint", "--key", "log", "--origin", "example.org/log", "-o", "old.note")
        adapters = program(folder)
        request_id = cli(
            "request", "Rotate", "--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]', "--label", "prod", "-q"
        ).strip()
        cli("approve", request_id, "--sign", "alice", "--comment", "checked")
        cli("execute", request_id, ADAPTER, "--adapters", str(adapters))
        cli("case", "export", request_id, "--embed", "--log-key", "log", "--since", "old.note", "-o", "case.json")
        (folder / "id").write_text(request_id)
    return folder


def environment(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    for name, value in {
        "HOME": str(folder),
        "NEXUS_ATTEST_DB": str(folder / "decisions.db"),
        "NEXUS_ATTEST_KEYS": str(folder / "keys"),
        "NEXUS_ATTEST_TRUST": str(folder / "trust.toml") if (folder / "trust.toml").exists() else "",
        "NEXUS_ATTEST_ACTOR": "alice",
        "COLUMNS": "200",
    }.items():
        patch.setenv(name, value)


@pytest.fixture
def cli(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    folder = tmp_path / "desk"
    shutil.copytree(built, folder)
    environment(monkeypatch, folder)
    return Desk(folder)


def test_every_layer_that_has_its_evidence_passes(cli: Desk) -> None:
    outcomes = cli.outcomes("case.json", "--checkpoint", "old.note")
    assert outcomes == dict(zip(LAYERS, ["PASS", "PASS", "PASS", "PASS", "PASS", "INCOMPLETE"], strict=True))
    text = cli("verify", "case.json", "--checkpoint", "old.note", "--require", "log", "--require", "signatures")
    assert "ok: integrity, authorization, signatures, execution, log. Not known: witness." in text
    assert "  alice, signed, " in text
    assert "PASS        log (required)" in text
    assert cli.json("verify", "case.json", "--require", "witness", code=2)["failed"] == ["witness"]


def test_without_what_the_reader_knows_layers_are_incomplete_and_say_what_is_needed(cli: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_ATTEST_TRUST", "")
    outcomes = cli.outcomes("case.json")
    assert outcomes == dict(zip(LAYERS, ["PASS", "PASS", "INCOMPLETE", "PASS", "INCOMPLETE", "INCOMPLETE"], strict=True))
    text = cli("verify", "case.json")
    for missing in (
        "signatures: the signatures of alice were not checked",
        "log: who signed the checkpoint of example.org/log was not checked",
        "log: whether the log extends an earlier state of itself was not checked",
        "witness: no witness has seen the binding digest",
    ):
        assert f"  {missing}\n      needed: " in text
    assert engine_main(["verify", "case.json", "--checkpoint", "old.note"]) == 0
    assert engine_main(["verify", "case.json", "--require", "signatures"]) == 2


def test_an_unknown_layer_is_refused(cli: Desk) -> None:
    assert cli.refused("verify", "case.json", "--require", "magic") == "INVALID_ARGUMENT"


def test_a_signature_that_was_stripped_fails_where_the_policy_wants_one(cli: Desk) -> None:
    case = cli.case()
    (approval,) = (event for event in case["package"]["control_bundle"]["events"] if event["type"] == "APPROVAL_GRANTED")
    del approval["payload"]["signature"]
    del approval["payload"]["assurance"]
    stripped = cli.write("stripped.json", case)
    assert cli.outcomes(stripped, code=2)["integrity"] == "FAIL"
    assert cli.outcomes(stripped, code=2)["signatures"] == "INCOMPLETE"
    with (cli.folder / "trust.toml").open("a") as file:
        file.write('\n[[rules]]\nlabels = ["prod"]\nassurance = "signed"\n')
    assert cli.outcomes(stripped, code=2)["signatures"] == "FAIL"
    assert cli.outcomes("case.json")["signatures"] == "PASS"


def test_a_key_that_was_swapped_for_one_with_the_same_id_fails_signatures(cli: Desk) -> None:
    cli("keys", "new", "mallory")
    policy = (cli.folder / "trust.toml").read_text()
    alice, mallory = (cli.json("keys", "show", name) for name in ("alice", "mallory"))
    assert alice["public_key"] in policy
    swapped = policy.replace(f'"{alice["public_key"]}"', f'"{mallory["public_key"]}"\nid = "{alice["key_id"]}"')
    (cli.folder / "other.toml").write_text(swapped)
    report = cli.json("verify", "case.json", "--trust", "other.toml", code=2)
    assert report["failed"] == ["signatures"]
    (checks,) = (layer["checks"] for layer in report["layers"] if layer["name"] == "signatures")
    assert any("SIGNATURE_INVALID" in check.get("detail", "") for check in checks)


# -- the log


def test_a_checkpoint_is_printed_as_a_note_and_kept(cli: Desk) -> None:
    text = cli("log", "checkpoint", "--key", "log")
    made = parse_checkpoint(parse_note(text))
    assert made.origin == "example.org/log"
    told = cli.json("log", "verify")
    assert (told["size"], told["root"]) == (made.size, made.root.hex())
    assert cli.json("log", "checkpoint", "--key", "log")["note"] == text
    assert cli.refused("log", "checkpoint", "--key", "log", "--origin", "example.org/other") == "INVALID_ARGUMENT"


def test_a_log_without_checkpoint_needs_a_name(cli: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(cli.folder / "other.db"))
    cli("request", "x", "-q")
    assert cli.refused("log", "checkpoint", "--key", "log") == "INVALID_ARGUMENT"
    done = CliRunner().invoke(app, ["log", "checkpoint"])
    assert done.exit_code == 2


def test_verify_compares_with_checkpoints_that_were_kept(cli: Desk) -> None:
    assert cli.json("log", "verify", "--checkpoint", "old.note")["ok"] is True
    note = (cli.folder / "old.note").read_text()
    (cli.folder / "false.note").write_text(note.replace("\n3\n", "\n4\n"))
    told = cli.json("log", "verify", "--checkpoint", "false.note", code=2)
    assert told["errors"] == [
        "false.note: the signature of example.org/log is not its signature over this checkpoint",
        "false.note: the first 4 entries of the log are not those of the checkpoint: it was rewritten",
    ]


def test_a_store_that_was_put_back_to_an_earlier_state_is_noticed_with_a_checkpoint_only(cli: Desk) -> None:
    cli("log", "checkpoint", "--key", "log", "-o", "new.note")
    earlier = cli.folder / "earlier.db"
    shutil.copy(cli.folder / "decisions.db", earlier)
    cli("request", "later", "-q")
    cli("log", "checkpoint", "--key", "log", "-o", "newest.note")
    assert cli.json("log", "verify", "--db", "earlier.db")["ok"] is True
    assert cli.json("log", "verify", "--db", "earlier.db", "--checkpoint", "new.note")["ok"] is True
    told = cli.json("log", "verify", "--db", "earlier.db", "--checkpoint", "newest.note", code=2)
    assert "it was cut off, or put back to an earlier state" in told["errors"][0]


def test_a_false_signature_of_a_stored_checkpoint_is_named(cli: Desk) -> None:
    with closing(foreign(cli.folder / "decisions.db")) as connection:
        connection.execute("DROP TRIGGER checkpoints_refuse_update")
        (sql,) = connection.execute("SELECT note FROM checkpoints WHERE number = 1").fetchone()
        line = sql.rpartition(" ")[2].strip()
        raw = bytearray(base64.b64decode(line))
        raw[-1] ^= 1
        connection.execute("UPDATE checkpoints SET note = ? WHERE number = 1", (sql.replace(line, base64.b64encode(bytes(raw)).decode()),))
        connection.execute(
            "CREATE TRIGGER checkpoints_refuse_update BEFORE UPDATE ON checkpoints "
            "BEGIN SELECT RAISE(ABORT, 'checkpoints is append-only'); END"
        )
    errors = cli.json("log", "verify", code=2)["errors"]
    assert "checkpoint 1: the signature of example.org/log is not its signature over this checkpoint" in errors


def test_proofs_are_those_of_the_log(cli: Desk) -> None:
    told = cli.json("log", "prove", "2", "--size", "3")
    assert (told["leaf_index"], told["size"], len(told["proof"])) == (1, 3, 2)
    assert cli("log", "prove", "2", "--size", "3").splitlines()[1:] == told["proof"]
    assert cli.refused("log", "prove", "999") == "INVALID_ARGUMENT"
    by_size, by_note = cli.json("log", "consistency", "3"), cli.json("log", "consistency", "old.note")
    assert by_size == by_note
    assert cli("log", "consistency", "old.note").splitlines()[2:] == by_size["proof"]
    assert cli.refused("log", "consistency", "5", "3") == "INVALID_ARGUMENT"


def test_two_checkpoints_of_one_size_prove_a_split_view(cli: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(cli.folder / "second.db"))
    cli("request", "another history", "-q")
    cli("log", "checkpoint", "--key", "log", "--origin", "example.org/log", "-o", "second.note")
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(cli.folder / "decisions.db"))
    assert cli.refused("log", "consistency", "old.note", "second.note") == "SPLIT_VIEW"
    assert cli.refused("log", "consistency", "second.note") == "LOG_VERIFICATION_FAILED"
    report = cli.json("verify", "case.json", "--checkpoint", "second.note", code=2)
    assert report["failed"] == ["log"]


# -- exporting


def test_a_case_without_checkpoint_has_no_log_part_and_says_so(cli: Desk) -> None:
    request_id = (cli.folder / "id").read_text()
    with closing(foreign(cli.folder / "decisions.db")) as connection:
        connection.execute("DROP TRIGGER checkpoints_refuse_delete")
        connection.execute("DELETE FROM checkpoints")
    done = CliRunner().invoke(app, ["case", "export", request_id, "-o", "plain.json"])
    assert done.exit_code == 0
    assert "There is no checkpoint yet" in done.stderr
    assert cli.case("plain.json")["log"] is None


def test_a_case_needs_a_checkpoint_that_covers_it(cli: Desk) -> None:
    adapters = program(cli.folder)
    request_id = cli("request", "Again", "--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]', "-q").strip()
    cli("approve", request_id)
    cli("execute", request_id, ADAPTER, "--adapters", str(adapters))
    assert cli.refused("case", "export", request_id) == "INVALID_ARGUMENT"
    cli("case", "export", request_id, "--log-key", "log", "-o", "again.json")
    assert cli.outcomes("again.json")["log"] == "INCOMPLETE"
    assert cli.outcomes("again.json", "--checkpoint", "old.note")["log"] == "INCOMPLETE"
    cli("case", "export", request_id, "--since", "old.note", "-o", "again.json", "--force")
    assert cli.outcomes("again.json", "--checkpoint", "old.note")["log"] == "PASS"


def test_a_case_of_nothing_is_refused(cli: Desk) -> None:
    assert cli.refused("case", "export", "nobody") == "DECISION_NOT_FOUND"
    assert CliRunner().invoke(app, ["case", "export", "x", "--in-toto"]).exit_code == 2
    assert CliRunner().invoke(app, ["case", "export", "x", "--sign", "bot"]).exit_code == 2


def test_an_event_that_was_edited_in_the_store_gets_no_case_file(cli: Desk) -> None:
    with closing(foreign(cli.folder / "decisions.db")) as connection:
        connection.execute("DROP TRIGGER decision_events_refuse_update")
        connection.execute("UPDATE decision_events SET ts = '2020-01-01T00:00:00+00:00' WHERE event_type = 'POLICY_ATTACHED'")
    assert cli.refused("case", "export", (cli.folder / "id").read_text(), "-o", "x.json") == "LOG_REWRITTEN"


# -- envelopes, attestations


def test_an_envelope_is_an_in_toto_statement_about_the_binding_digest(cli: Desk) -> None:
    cli(
        "case",
        "export",
        (cli.folder / "id").read_text(),
        "--embed",
        "--in-toto",
        "--sign",
        "bot",
        "--since",
        "old.note",
        "-o",
        "sealed.json",
    )
    envelope = cli.case("sealed.json")
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    binding = cli.case()["package"]["integrity"]["binding_digest"]
    assert statement["subject"][0]["digest"] == {"sha256": binding.removeprefix("sha256:")}
    report = cli.json("verify", "sealed.json", "--checkpoint", "old.note")
    assert report["kind"] == "sealed_case"
    assert [layer["outcome"] for layer in report["layers"]] == ["PASS"] * 5 + ["INCOMPLETE"]
    assert [check["name"] for check in report["layers"][2]["checks"]][-2:] == ["envelope", "trust_policy"]

    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    assert cli.json("verify", cli.write("forged.json", envelope), code=2)["failed"] == ["integrity", "signatures"]


def test_an_envelope_of_nobody_known_is_incomplete(cli: Desk) -> None:
    cli("keys", "new", "nobody")
    cli("case", "export", (cli.folder / "id").read_text(), "--in-toto", "--sign", "nobody", "-o", "sealed.json")
    assert cli.outcomes("sealed.json")["signatures"] == "INCOMPLETE"


# -- reports for machines


def test_junit_report_has_a_suite_per_layer(cli: Desk) -> None:
    root = ET.fromstring(cli("verify", "case.json", "--junit"))
    assert [suite.get("name") for suite in root] == LAYERS
    assert all(suite.get("failures") == "0" for suite in root)
    assert [suite.get("skipped") for suite in root] == ["0", "0", "0", "0", "1", "1"]
    root = ET.fromstring(cli("verify", "case.json", "--junit", "--require", "witness", code=2))
    assert [suite.get("failures") for suite in root][-1] == "1"


def test_sarif_report_names_the_layer_of_every_failure(cli: Desk) -> None:
    case = cli.case()
    case["package"]["control_bundle"]["decision"]["goal"] = "forged"
    report = json.loads(cli("verify", cli.write("forged.json", case), "--sarif", code=2))
    (run,) = report["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == LAYERS
    errors = [result for result in run["results"] if result["level"] == "error"]
    assert {result["ruleId"] for result in errors} == {"integrity"}
    assert all("control_bundle_digest" in result["message"]["text"] for result in errors)
    assert errors[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "forged.json"


def test_one_format_at_a_time(cli: Desk) -> None:
    cli("verify", "case.json", "--junit", "--sarif", code=2)
    cli("verify", "case.json", "--json", "--sarif", code=2)
