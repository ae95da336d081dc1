"""Narratives and attestations on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ADAPTER, program
from test_attestation_narrative import INTENT, REQUEST, RESPONSE, SUBMIT, TX, witnessed
from test_cli_cases import Desk, environment

from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore

UNKNOWN = "sha256:" + "0" * 64


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    environment(monkeypatch, tmp_path)
    return Desk(tmp_path)


@pytest.fixture
def queue_id(cli: Desk) -> str:
    """A witnessed intent in the store, with its exchanges in files beside it."""
    with AttestationQueue(cli.folder / "decisions.db") as queue, ExchangeStore(cli.folder / "e.db", cli.folder / "bodies") as store:
        store.put(TX, request_body=REQUEST, response_body=RESPONSE)
        store.put(SUBMIT)
        return witnessed(queue)


# -- narratives -----------------------------------------------------------------------------------------------------------


def test_a_narrative_is_shown_to_people_and_programs(cli: Desk, queue_id: str) -> None:
    text = cli("narrative", "show", queue_id, "--exchanges", "e.db")
    assert [part for part in ("ATTESTATION NARRATIVE", queue_id, "#2 [+] CONFIRMED", "queue: ", "10 PASS") if part not in text] == []
    data = cli.json("narrative", "show", queue_id.removeprefix("sha256:"))["narrative"]
    assert (data["intent_digest"], data["current_status"]) == (queue_id, "CONFIRMED")


def test_a_narrative_goes_to_a_file_and_is_judged_there_without_a_queue(cli: Desk, queue_id: str) -> None:
    cli("narrative", "show", queue_id, "--exchanges", "e.db", "-o", "n.json")
    digest = cli.case("n.json")["narrative_digest"]
    (cli.folder / "decisions.db").unlink()
    told = cli.json("narrative", "verify", "n.json", "--expect", digest, "--strict")
    assert (told["failed"], told["narrative_digest"]) == ([], digest)
    assert "ok: its parts belong together" in cli("narrative", "verify", "n.json")
    assert "ATTESTATION NARRATIVE" in cli("narrative", "show", "n.json")


def test_the_command_for_every_file_judges_a_narrative_too(cli: Desk, queue_id: str) -> None:
    cli("narrative", "show", queue_id, "--exchanges", "e.db", "-o", "n.json")
    binding = cli.case("n.json")["binding_digest"]
    told = cli.json("verify", "n.json", "--expect", binding, "--strict")
    outcomes = {layer["name"]: layer["outcome"] for layer in told["layers"]}
    assert (told["kind"], told["ok"], outcomes.pop("integrity")) == ("narrative", True, "PASS")
    assert set(outcomes.values()) == {"INCOMPLETE"}
    names = [check["name"] for check in told["layers"][0]["checks"]]
    assert (names[0], names[-1], len(names)) == ("narrative_digest_valid", "expected_binding_digest", 17)
    assert cli.json("verify", "n.json", "--require", "witness", code=2)["failed"] == ["witness"]
    assert cli.json("verify", "n.json", "--expect", "0" * 64, code=2)["failed"] == ["integrity"]
    text = cli("verify", "n.json", "--expect", binding)
    assert "The parts of this file belong together." in text
    assert "a narrative names its transaction and does not prove it" in text
    assert "<testsuites" in cli("verify", "n.json", "--junit")


def test_the_command_for_every_file_recomputes_the_digest_of_a_narrative(cli: Desk, queue_id: str) -> None:
    cli("narrative", "show", queue_id, "--exchanges", "e.db", "-o", "n.json")
    document = cli.case("n.json")

    def failed(**members: Any) -> list[str]:
        cli.write("changed.json", {**document, **members})
        told = cli.json("verify", "changed.json", code=2)
        assert told["failed"] == ["integrity"]
        return [check["name"] for check in told["layers"][0]["checks"] if not check["ok"]]

    assert failed(env="dev") == ["narrative_digest_valid"]
    assert failed(narrative_digest="sha256:" + "0" * 64) == ["narrative_digest_valid"]
    assert failed(total_attempts=9) == ["narrative_digest_valid", "status_consistent"]
    assert failed(schema="nexus.attestation.narrative.v9.9") == ["schema"]
    assert failed(extra=1) == ["schema"]
    del document["narrative_digest"]
    assert failed() == ["narrative_digest_valid"]


def test_a_skipped_check_of_a_narrative_is_a_gap_and_a_failure_only_when_strict(cli: Desk, queue_id: str) -> None:
    cli("narrative", "show", queue_id, "-o", "n.json")
    told = cli.json("verify", "n.json")
    assert (told["ok"], told["layers"][0]["outcome"]) == (True, "INCOMPLETE")
    assert len(told["layers"][0]["gaps"]) == 3
    assert cli.json("verify", "n.json", "--require", "integrity", code=2)["failed"] == ["integrity"]
    assert cli.json("verify", "n.json", "--strict", code=2)["failed"] == ["integrity"]


def test_a_file_that_only_speaks_of_narratives_is_none(cli: Desk, package: str) -> None:
    document = cli.case("package.json")
    document["meta"] = {**(document.get("meta") or {}), "note": "nexus.attestation.narrative.v0.1"}
    cli.write("package.json", document)
    told = cli.json("verify", "package.json", "--expect", package)
    assert (told["kind"], told["ok"]) == ("audit_package", True)
    (cli.folder / "broken.json").write_text('{"schema": "nexus.attestation.narrative.v0.1"')
    assert cli.json("verify", "broken.json", code=2)["kind"] == "unknown"


def test_what_was_changed_in_a_file_is_named(cli: Desk, queue_id: str) -> None:
    cli("narrative", "show", queue_id, "-o", "n.json")
    document = cli.case("n.json")
    document["witness"]["ledger_index"] += 1
    cli.write("changed.json", document)
    told = cli.json("narrative", "verify", "changed.json", code=2)
    assert (told["code"], told["failed"]) == ("VERIFICATION_FAILED", ["narrative_digest_valid", "witness_consistent"])
    assert "FAILED: narrative_digest_valid, witness_consistent" in cli("narrative", "verify", "changed.json", code=2)
    del document["narrative_digest"]
    cli.write("changed.json", document)
    assert "narrative_digest_valid" in cli.json("narrative", "verify", "changed.json", code=2)["failed"]
    assert cli.json("narrative", "verify", "n.json", "--expect", UNKNOWN, code=2)["failed"] == ["expected_digest"]


def test_a_failed_check_inside_a_sound_file_fails_and_a_skipped_one_only_when_strict(cli: Desk, queue_id: str) -> None:
    cli("narrative", "show", queue_id, "-o", "n.json")
    assert "3 could not be checked" in cli("narrative", "verify", "n.json")
    assert cli.json("narrative", "verify", "n.json", "--strict", code=2)["failed"] == [
        "exchange_exists:xrpl.submit.exchange",
        "witness_exchange_valid",
        "exchange_exists:xrpl.tx.exchange",
    ]
    told = cli.json("narrative", "verify", queue_id, "--exchanges", "e.db", "--bodies", "bodies", code=2)
    assert told["failed"] == [
        f"body_{kind}:xrpl.submit.exchange:{part}" for kind in ("exists", "digest_valid") for part in ("request", "response")
    ]


def test_bodies_are_embedded_and_redacted_unless_not_wanted(cli: Desk, queue_id: str) -> None:
    options = ("--exchanges", "e.db", "--bodies", "bodies")
    data = cli.json("narrative", "show", queue_id, *options, "--embed")["narrative"]
    assert data["bodies"] == {TX.request_digest: REQUEST.decode(), TX.response_digest: RESPONSE.decode()}
    assert "hunter2" not in cli("narrative", "show", queue_id)
    assert "hunter2" in cli("narrative", "show", queue_id, "--no-redact")


def test_attempts_are_compared(cli: Desk, queue_id: str) -> None:
    told = cli.json("narrative", "diff", queue_id, "1", "2")
    assert (told["from_status"], told["to_status"], told["from_error"]) == ("FAILED", "CONFIRMED", "TIMEOUT")
    assert cli("narrative", "diff", queue_id, "1", "2").splitlines() == [
        "Attempt 1 -> 2",
        "  status    FAILED -> CONFIRMED",
        "  tx hash   none -> AB",
        "  evidence  + xrpl.tx.exchange",
        "  error     TIMEOUT -> none",
    ]
    assert cli.refused("narrative", "diff", queue_id, "1", "3") == "INVALID_ARGUMENT"


def test_what_is_not_there_is_refused_and_not_made(cli: Desk) -> None:
    for command in ("show", "verify"):
        assert cli.refused("narrative", command, UNKNOWN) == "STORE_NOT_FOUND"
    assert not (cli.folder / "decisions.db").exists()
    with AttestationQueue(cli.folder / "decisions.db") as queue:
        queue_id = queue.enqueue(INTENT)
    assert cli.refused("narrative", "show", UNKNOWN) == "INTENT_NOT_FOUND"
    assert "NOT FOUND" in cli("narrative", "show", UNKNOWN, code=2)
    assert cli.json("narrative", "verify", UNKNOWN, code=2)["failed"] == ["intent_exists"]
    assert cli.refused("narrative", "show", queue_id, "--exchanges", "e.db") == "STORE_NOT_FOUND"
    (cli.folder / "e.db").touch()
    assert cli.refused("narrative", "show", queue_id, "--exchanges", "e.db", "--bodies", "bodies") == "STORE_NOT_FOUND"
    assert cli.refused("narrative", "show", "absent.json") == "FILE_NOT_READABLE"
    cli.write("other.json", {"schema": "x"})
    for command in ("show", "verify"):
        assert cli.refused("narrative", command, "other.json") == "INVALID_NARRATIVE"
    assert sorted(path.name for path in cli.folder.iterdir()) == ["decisions.db", "e.db", "other.json"]


# -- attestations -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(cli: Desk) -> str:
    """The binding digest of `package.json`, and a key `bot` that the trust policy knows as release-bot."""
    cli.folder.chmod(0o700)
    cli("keys", "new", "bot")
    request_id = cli("request", "Rotate", "--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]', "-q").strip()
    cli("approve", request_id)
    cli("execute", request_id, ADAPTER, "--adapters", str(program(cli.folder)))
    cli("audit", "export", request_id, "-o", "package.json")
    key = cli.json("keys", "show", "bot")
    entry = f'id = "release-bot"\nkey_id = "{key["key_id"]}"\npublic_key = "{key["public_key"]}"\n'
    (cli.folder / "trust.toml").write_text(f"version = 1\n[[attestors]]\n{entry}")
    return cli.case("package.json")["integrity"]["binding_digest"]


def sign(cli: Desk, *options: str) -> dict[str, Any]:
    cli("attest", "sign", "package.json", "--claim", "tested", "--claim", "reviewed", "--key", "bot", "--attestor", "release-bot", *options)
    return cli.case("a.json")


def test_an_attestation_is_signed_and_believed(cli: Desk, package: str) -> None:
    made = sign(cli, "-o", "a.json", "--role", "ci")
    assert (made["payload"]["binding_digest"], made["payload"]["claims"]) == (package, ["reviewed", "tested"])
    assert made["meta"]["role"] == "ci"
    for options in ((), ("--package", "package.json"), ("--expect", package)):
        told = cli.json("attest", "verify", "a.json", "--trust", "trust.toml", *options)
        assert (told["failed"], told["attestor"], told["claims"]) == ([], "release-bot", ["reviewed", "tested"])
    assert "ok: this key signed it" in cli("attest", "verify", "a.json", "--trust", "trust.toml")
    assert cli.json("attest", "verify", "a.json", "--public-key", made["meta"]["public_key_hex"])["failed"] == []


def test_every_signed_leaf_of_an_attestation_is_covered(cli: Desk, package: str) -> None:
    made = sign(cli, "-o", "a.json")
    key = made["meta"]["public_key_hex"]
    expected = {
        "attestation_version": ["attestation_version"],
        "binding_digest": ["signature_valid", "binding_digest_match"],
        "signed_at": ["signature_valid"],
    }
    for member, failed in expected.items():
        before = made["payload"][member]
        made["payload"][member] = before[:-1] + ("0" if before[-1] != "0" else "1")
        cli.write("a.json", made)
        found = cli.json("attest", "verify", "a.json", "--public-key", key, "--expect", package, code=2)["failed"]
        assert (member, [name for name in failed if name not in found]) == (member, [])
        made["payload"][member] = before
    for member in ("id", "key_id"):
        changed = {**made, "payload": {**made["payload"], "attestor": {**made["payload"]["attestor"], member: "other"}}}
        cli.write("a.json", changed)
        assert cli.json("attest", "verify", "a.json", "--public-key", key, code=2)["failed"] == ["signature_valid"]
        assert cli.refused("attest", "verify", "a.json", "--trust", "trust.toml") == "KEY_UNKNOWN"
    cli.write("a.json", {**made, "attestation_id": "att_0"})
    assert cli.json("attest", "verify", "a.json", "--public-key", key, code=2)["failed"] == ["attestation_id"]
    cli.write("a.json", {**made, "signature": "00" * 64})
    assert "signature_valid" in cli.json("attest", "verify", "a.json", "--public-key", key, code=2)["failed"]


def test_nobody_is_believed_without_a_policy_or_a_key(cli: Desk, package: str) -> None:
    assert package
    sign(cli, "-o", "a.json")
    assert cli.refused("attest", "verify", "a.json") == "VERIFIER_MISSING"
    assert cli.json("attest", "verify", "a.json", "--public-key", "11" * 32, code=2)["failed"] == ["signature_valid"]
    assert cli.refused("attest", "verify", "a.json", "--public-key", "11") == "INVALID_ATTESTATION"


def test_a_retired_key_is_believed_up_to_its_end(cli: Desk, package: str) -> None:
    assert package
    sign(cli, "-o", "a.json")
    policy = (cli.folder / "trust.toml").read_text() + "retired_at = 2020-01-01T00:00:00Z\n"
    (cli.folder / "trust.toml").write_text(policy)
    assert cli.json("attest", "verify", "a.json", "--trust", "trust.toml", code=2)["failed"] == ["key_valid"]


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"signature": 5},
        {"payload": []},
        {"payload": {}},
        {"meta": []},
        {"attestation_id": None},
        {"signature": "\ud800"},
    ],
)
def test_what_is_no_attestation_is_refused(cli: Desk, package: str, change: dict[str, Any]) -> None:
    assert package
    cli.write("a.json", {**sign(cli, "-o", "a.json"), **change})
    assert cli.refused("attest", "verify", "a.json", "--public-key", "11" * 32) == "INVALID_ATTESTATION"


def test_only_a_package_that_is_consistent_with_itself_is_attested(cli: Desk, package: str) -> None:
    assert package
    document = cli.case("package.json")
    document["control_bundle"]["events"][0]["payload"]["goal"] = "Other"
    cli.write("package.json", document)
    command = ("attest", "sign", "package.json", "--claim", "x", "--key", "bot", "--attestor", "release-bot")
    assert cli.refused(*command) == "BUNDLE_INVALID_SCHEMA"
    cli.write("package.json", document["control_bundle"])
    assert cli.refused(*command) == "BUNDLE_INVALID_SCHEMA"
    assert not list(cli.folder.glob("att_*.json"))


def test_an_attestation_goes_into_a_case_file_and_is_judged_there(cli: Desk, package: str) -> None:
    assert package
    sign(cli, "-o", "a.json")
    request_id = json.loads((cli.folder / "package.json").read_text())["control_bundle"]["decision"]["decision_id"]
    cli("case", "export", request_id, "--attestation", "a.json", "-o", "case.json")
    # The policy knows no people, so the layer fails for the approval; the attestation is believed.
    layers = cli.json("verify", "case.json", "--trust", "trust.toml", code=2)["layers"]
    found = {check["name"]: check["ok"] for layer in layers for check in layer["checks"]}
    assert found["attestation"] is True
