"""Proofs on the command line: exported, judged, put into case files, forged."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ADAPTER, program
from proof_testing import Capture, agreed, bare, pin, witness_proof, witnessed
from typer.testing import CliRunner
from witness_testing import World, intent

from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.cli.app import app
from nexus_attest.testledger import Clock, Ledger, Node, closing, http_front, key_from_seed, seed_of, serving
from nexus_control.events import utc_now

SEED = seed_of("proofs on the command line")


class Desk:
    """A store with an executed decision that was witnessed on a ledger, the proof of it, and a trust policy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = ""
        self.intent = ""
        self.binding = ""
        self.world: World | None = None

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == code, (done.exit_code, done.output, done.exception)
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self(*arguments, "--json", code=code))
        return value

    def write(self, name: str, document: object) -> str:
        (self.folder / name).write_text(document if isinstance(document, str) else json.dumps(document))
        return name

    def read(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder / name).read_text())
        return value

    def pins(self) -> list[str]:
        assert self.world is not None
        return ["--publisher", self.world.ledger.validators.pin, "--account", self.world.account]

    def witness_outcome(self, *arguments: str, code: int = 0) -> tuple[str, list[str], list[str]]:
        (layer,) = [layer for layer in self.json("verify", *arguments, code=code)["layers"] if layer["name"] == "witness"]
        return (
            layer["outcome"],
            [check["name"] for check in layer["checks"] if not check["ok"]],
            [gap["what"] for gap in layer["gaps"]],
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        environment(patch, folder)
        desk = Desk(folder)
        desk.id = desk("request", "Rotate", "--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]', "-q").strip()
        desk("approve", desk.id)
        desk("execute", desk.id, ADAPTER, "--adapters", str(program(folder)))
        desk("audit", "export", desk.id, "-o", "package.json")
        desk.binding = desk.read("package.json")["integrity"]["binding_digest"]
        capture = Capture(path=folder / "decisions.db")
        intent = AttestationIntent("nexus.audit_package", desk.binding)
        desk.intent = "sha256:" + intent.intent_digest()
        capture.world.queue.enqueue(intent)
        capture.run(2)
        capture.world.queue.close()
        desk.world = capture.world
        ledger = pin(capture.world)
        trust = f'network = "local"\naccounts = ["{ledger.accounts[0]}"]\npublisher_keys = ["{ledger.publisher_keys[0]}"]\n'
        desk.write("trust.toml", f'version = 1\n[[actors]]\nid = "alice"\n[[ledgers]]\n{trust}')
        desk("proof", "export", desk.intent, "-o", "proof.json")
        desk("case", "export", desk.id, "--witness", "proof.json", "-o", "case.json")
    return desk


def environment(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    for name, value in {"HOME": str(folder), "NEXUS_ATTEST_DB": str(folder / "decisions.db"), "NEXUS_ATTEST_ACTOR": "alice"}.items():
        patch.setenv(name, value)


@pytest.fixture
def desk(built: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    environment(monkeypatch, built.folder)
    return built


def test_an_exported_proof_verifies_from_pins_on_the_command_line_and_from_a_policy(desk: Desk) -> None:
    for trust in (desk.pins(), ["--trust", "trust.toml"]):
        found = desk.json("proof", "verify", "proof.json", *trust, "--package", "package.json")
        assert (found["outcome"], found["level"], found["failed"], found["gaps"]) == ("PASS", "quorum", [], [])
        assert (found["about"]["binding_digest"], found["about"]["votes"]) == (desk.binding, 5)
    text = desk("proof", "verify", "proof.json", *desk.pins())
    assert "ok: level quorum, not after 2025-01-01T" in text
    assert "Are they four fifths of the list? (5 of 5 validators)" in text


def test_a_proof_without_pins_is_incomplete_and_says_what_is_needed(desk: Desk) -> None:
    found = desk.json("proof", "verify", "proof.json", code=2)
    assert (found["code"], found["outcome"], found["level"]) == ("VERIFICATION_INCOMPLETE", "INCOMPLETE", "tree")
    assert len(found["gaps"]) == 2
    assert "INCOMPLETE: level tree" in desk("proof", "verify", "proof.json", code=2)
    account = desk.pins()[2:]
    assert desk.json("proof", "verify", "proof.json", *account, "--level", "tree")["level"] == "tree"
    assert desk.json("proof", "verify", "proof.json", "--level", "server", code=2)["outcome"] == "INCOMPLETE", "no account was named"


def test_another_publisher_account_or_package_is_refused(desk: Desk) -> None:
    other = ["--publisher", "ED" + "0A" * 32, *desk.pins()[2:]]
    assert desk.json("proof", "verify", "proof.json", *other, code=2)["failed"] == ["publisher"]
    other = [*desk.pins()[:2], "--account", "rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe"]
    assert desk.json("proof", "verify", "proof.json", *other, code=2)["failed"] == ["account"]
    found = desk.json("proof", "verify", "proof.json", *desk.pins(), "--expect", "sha256:" + "0" * 64, code=2)
    assert (found["code"], found["failed"]) == ("VERIFICATION_FAILED", ["subject"])
    assert "FAILED: subject" in desk("proof", "verify", "proof.json", *desk.pins(), "--expect", "sha256:" + "0" * 64, code=2)


def test_one_changed_byte_of_a_proof_is_found(desk: Desk) -> None:
    text = (desk.folder / "proof.json").read_text()
    vote = next(iter(desk.read("proof.json")["evidence"]["xpop"]["validation"]["data"].values()))
    forged = text.replace(vote, vote[:-1] + ("0" if vote[-1] != "0" else "1"))
    assert desk.json("proof", "verify", desk.write("forged.json", forged), *desk.pins(), code=2)["failed"] == ["validations"]


def test_the_proof_of_a_transaction_of_somebody_else_is_judged_too(desk: Desk) -> None:
    world = witnessed()
    pins = ["--publisher", world.ledger.validators.pin.lower(), "--account", world.account]
    found = desk.json("proof", "verify", desk.write("xpop.json", bare(world)), *pins)
    assert (found["level"], found["about"]["batch"]["size"]) == ("quorum", 5)
    desk("proof", "verify", "xpop.json", *pins, "--expect", desk.binding, code=2)


def test_a_time_on_which_the_validators_did_not_agree_is_not_shown_as_exact(desk: Desk) -> None:
    world = witnessed()
    told = bare(world)["transaction"]
    desk.write("early.json", agreed(world, bytes.fromhex(told["blob"]), bytes.fromhex(told["meta"]), flags=1))
    pins = ("--publisher", world.ledger.validators.pin, "--account", world.account)
    found = desk.json("proof", "verify", "early.json", *pins)
    assert (found["outcome"], found["inexact"][:33]) == ("PASS", "the validators did not agree on w")
    text = desk("proof", "verify", "early.json", *pins)
    assert f"not after {found['not_after']} or so" in text
    assert "Not exact: the validators did not agree" in text
    assert "or so" not in desk("proof", "verify", "proof.json", *desk.pins())


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[" * 100_000, '{"a": 1, "a": 2}', '{"type": 1}', '{"type": "nexus.witness/1"}', "\x00"]
)
def test_a_file_that_is_no_proof_is_refused_by_a_code(desk: Desk, content: str) -> None:
    found = desk.json("proof", "verify", desk.write("odd.json", content), *desk.pins(), code=2)
    assert found["code"] in {"PROOF_REFUSED", "VERIFICATION_FAILED"}
    assert found.get("failed", ["form"]) == ["form"]


@pytest.mark.parametrize(
    "options",
    [
        ["--publisher", "ED00"],
        ["--level", "high"],
        ["--expect", "abc"],
        ["--expect", "sha256:" + "0" * 64, "--package", "package.json"],
    ],
)
def test_options_that_make_no_sense_are_refused(desk: Desk, options: list[str]) -> None:
    assert desk("proof", "verify", "proof.json", *options, code=2) == ""


def test_a_case_file_with_a_witness_proof_passes_that_layer(desk: Desk) -> None:
    assert desk.witness_outcome("case.json", "--trust", "trust.toml", "--require", "witness") == ("PASS", [], [])
    outcome, failed, gaps = desk.witness_outcome("case.json")
    assert (outcome, failed, len(gaps)) == ("INCOMPLETE", [], 2)
    assert "witness" in desk.json("verify", "case.json", "--require", "witness", code=2)["failed"]


def test_a_case_file_with_a_false_witness_proof_fails_even_without_pins(desk: Desk) -> None:
    case = desk.read("case.json")
    proof = case["witness"][0]
    proof["evidence"]["xpop"]["ledger"]["close"] += 1
    outcome, failed, _ = desk.witness_outcome(desk.write("false.json", case), code=2)
    assert (outcome, failed) == ("FAIL", ["validations"])
    others = [{}, {"type": "x"}, {**proof, "intent": 1}, {**proof, "more": 1}, {**proof, "evidence": None}]
    for odd in others:
        outcome, failed, _ = desk.witness_outcome(desk.write("odd.json", {**case, "witness": [odd]}), code=2)
        assert (outcome, failed) == ("FAIL", ["form"])


def test_the_proof_of_another_package_is_none_for_this_one(desk: Desk) -> None:
    case, world = desk.read("case.json"), witnessed()
    assert world.account == desk.pins()[3]
    other = desk.write("other.json", {**case, "witness": [witness_proof(world)]})
    assert desk.witness_outcome(other, "--trust", "trust.toml", code=2) == ("FAIL", ["subject"], [])


def test_of_several_proofs_one_that_shows_enough_is_enough_and_all_must_be_true(desk: Desk) -> None:
    case = desk.read("case.json")
    (proof,) = case["witness"]
    alone = {key: value for key, value in proof.items() if key != "evidence"}
    both = desk.write("both.json", {**case, "witness": [alone, proof]})
    assert desk.witness_outcome(both, "--trust", "trust.toml") == ("PASS", [], [])
    single = desk.write("single.json", {**case, "witness": [alone]})
    outcome, failed, gaps = desk.witness_outcome(single, "--trust", "trust.toml")
    assert (outcome, failed) == ("INCOMPLETE", [])
    assert gaps == ["that a server saw the transaction validated is only said"]


def test_witness_run_records_votes_and_ends_with_proofs_that_need_no_server(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_from_seed(SEED)
    ledger = Ledger({key.address: 100_000_000}, clock=Clock(utc_now()), first_index=100)
    ledger.close()
    monkeypatch.setenv("LEDGER_SEED", SEED)
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(desk.folder / "other.db"))
    with serving(Node(ledger)) as urls, closing(ledger, every=0.3, seconds=1):
        keys: dict[str, object] = {"urls": [urls.http], "streams": [urls.ws], "lists": [urls.http], "network_id": 0}
        keys |= {"publisher_keys": [ledger.validators.pin], "signer": "env:LEDGER_SEED"}
        entries = "\n".join(f"{name} = {json.dumps(value)}" for name, value in keys.items())
        desk.write("witness.toml", f'network = "local"\n[networks.local]\n{entries}\n')
        digest = desk.json("witness", "enqueue", "package.json")["intents"][0]["intent_digest"]
        run = desk.json("witness", "run", "--witness", "witness.toml", "--drain", "--interval", "0.1", "--for", "60")
    assert run["receipts"] == 1
    desk("proof", "export", digest, "-o", "fresh.json")
    assert desk.read("fresh.json")["receipt"]["proof"]["level"] == "quorum"
    pins = ("--publisher", ledger.validators.pin, "--account", key.address)
    desk("proof", "export", digest, "-o", "fresh.json", "--force", "--witness", "witness.toml")  # nobody is asked: it is proven
    assert desk.json("proof", "verify", "fresh.json", *pins, "--package", "package.json")["level"] == "quorum"


def test_a_proof_that_ended_at_the_tree_is_raised_by_votes_that_were_recorded_since(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(desk.folder / "late.db"))
    capture = Capture(record=False, path=desk.folder / "late.db")
    capture.run(1)
    capture.recording = True
    capture.world.ledger.close()
    digest = "sha256:" + intent(0).intent_digest()
    with http_front(Node(capture.world.ledger)) as url:
        keys = f'urls = ["{url}"]\nnetwork_id = 0\npublisher_keys = ["{capture.world.ledger.validators.pin}"]\n'
        desk.write("late.toml", f'network = "local"\n[networks.local]\n{keys}')
        desk("proof", "export", digest, "-o", "before.json")
        desk("proof", "export", digest, "-o", "after.json", "--witness", "late.toml")
    capture.world.queue.close()
    assert desk.json("proof", "verify", "before.json", *desk.pins(), code=2)["level"] == "tree"
    found = desk.json("proof", "verify", "after.json", *desk.pins())
    assert (found["level"], desk.read("after.json")["receipt"]["proof"]["level"]) == ("quorum", "tree")


def test_what_was_not_witnessed_has_no_proof(desk: Desk) -> None:
    assert desk.json("proof", "export", "sha256:" + "0" * 64, code=2)["code"] == "NOT_WITNESSED"
    assert desk.json("proof", "export", desk.intent, "--backend", "rfc3161", code=2)["code"] == "NOT_WITNESSED"
    assert desk.json("proof", "export", desk.intent, "--db", "nowhere.db", code=2)["code"] == "STORE_NOT_FOUND"
