"""Time-stamps and the local witness on the command line, and that no run with a seed shows it, however it fails."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ADAPTER, program
from test_attestation_secrets import SECP256K1, needles, pieces, quiet, require_none, stored
from test_attestation_secrets import told as told_by
from test_cli_cases import Desk, environment
from test_cli_witness import ACCOUNT, SEED, digests, network
from tsa_testing import Holder, LocalAuthority, certified, openssl, served
from typer.testing import CliRunner

from nexus_attest.attestation.proving import witness_proofs
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.witness import Level, WitnessJudge
from nexus_attest.cli.app import app
from nexus_attest.testledger import closing
from nexus_attest.trust import Authority, TrustPolicy

__all__ = ["quiet"]

RUN = ("witness", "run", "--drain", "--interval", "0.05", "--for", "60")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    environment(monkeypatch, tmp_path)
    monkeypatch.setenv("LEDGER_SEED", SEED)
    monkeypatch.setenv("NEXUS_ATTEST_WITNESS", str(tmp_path / "witness.toml"))
    return Desk(tmp_path)


@pytest.fixture
def root() -> Holder:
    return certified("Root", ca=True)


@pytest.fixture
def url(tmp_path: Path, root: Holder) -> Iterator[str]:
    """The address of a local authority, whose root is in root.pem."""
    openssl()
    (tmp_path / "root.pem").write_bytes(b"A certificate for tests:\n" + root.pem)
    with served(LocalAuthority(tmp_path / "tsa", certified("Authority", root))) as server:
        yield server.url


def authority(folder: Path, url: str, *, name: str = "local", certificates: str = "root.pem", more: str = "") -> str:
    text = f'[authorities.{name}]\nurl = "{url}"\ncertificates = ["{certificates}"]\n{more}'
    with (folder / "witness.toml").open("a") as file:
        file.write(text)
    return text


def proofs_of(cli: Desk, told: dict[str, Any], place: int = 0) -> list[dict[str, Any]]:
    with AttestationQueue(cli.folder / "decisions.db") as queue:
        found = witness_proofs(queue, told["intents"][place]["intent_digest"])
        return [json.loads(json.dumps(proof.to_dict())) for proof in found if proof.receipt.backend != "xrpl"]


def test_a_queue_is_stamped_by_an_authority_and_the_proofs_are_believed(cli: Desk, url: str, root: Holder) -> None:
    queued = cli.json("witness", "enqueue", "--digests", digests(cli.folder, 300))
    authority(cli.folder, url, more="max_members = 200\n")
    told = cli.json(*RUN, "--backend", "tsa")
    assert (told["receipts"], told["waiting"], told["account"], told["stopped"]) == (300, 0, "tsa:local", None)
    assert [(batch["size"], batch["state"], batch["receipts"]) for batch in told["ended"]] == [
        (200, "CONFIRMED", 200),
        (100, "CONFIRMED", 100),
    ]
    judge = WitnessJudge(TrustPolicy(authorities=(Authority("whoever", (root.der,)),)))
    for place in (0, 150, 299):
        (proof,) = proofs_of(cli, queued, place)
        assert judge.judge(proof).level is Level.AUTHORITY
    text = cli("witness", "status", queued["intents"][7]["intent_digest"])
    assert "not signed yet" not in text
    assert "witness  tsa local, not after " in text
    assert "level authority" in text
    (lane,) = cli.json("witness", "status")["accounts"]
    assert (lane["account"], lane["batches"], lane["under_way"]) == ("tsa:local", {"CONFIRMED": {"batches": 2, "members": 300}}, [])


def test_a_batch_whose_authority_does_not_answer_is_said_to_be_not_stamped_yet(cli: Desk, root: Holder) -> None:
    (cli.folder / "root.pem").write_bytes(root.pem)
    queued = cli.json("witness", "enqueue", "--digests", digests(cli.folder, 2))
    authority(cli.folder, "http://127.0.0.1:9", more="max_age_s = 0\n")
    cli("witness", "run", "--backend", "tsa", "--for", "0.2", "--interval", "0.05")
    for told in (cli("witness", "status"), cli("witness", "status", queued["intents"][0]["intent_digest"])):
        assert "batch 1, 2 intents: not stamped yet" in told


def test_from_a_decision_to_a_case_file_whose_witness_layer_passes(cli: Desk, url: str, root: Holder) -> None:
    request_id = cli("request", "Run", "--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]', "-q").strip()
    cli("approve", request_id)
    cli("execute", request_id, ADAPTER, "--adapters", str(program(cli.folder)))
    cli("audit", "export", request_id, "--embed", "-o", "package.json")
    (intent,) = cli.json("witness", "enqueue", "package.json")["intents"]
    authority(cli.folder, url)
    assert cli.json(*RUN, "--backend", "tsa")["receipts"] == 1
    cli("proof", "export", intent["intent_digest"], "--backend", "tsa:local", "-o", "proof.json")
    cli("case", "export", request_id, "--embed", "--witness", "proof.json", "-o", "case.json")
    pin = json.dumps(root.pem.decode())
    (cli.folder / "trust.toml").write_text(
        f'version = 1\n[[actors]]\nid = "alice"\n[[authorities]]\nname = "ours"\ncertificates = [{pin}]\n'
    )
    judged = cli.json("proof", "verify", "proof.json", "--trust", "trust.toml", "--package", "package.json")
    assert (judged["level"], judged["by"], judged["failed"]) == ("authority", "ours", [])
    told = cli.json("verify", "case.json", "--trust", "trust.toml", "--require", "witness")
    witness = told["layers"][-1]
    assert (witness["name"], witness["outcome"], witness["gaps"]) == ("witness", "PASS", [])
    assert "witnessed at level authority by ours, not after " in cli("verify", "case.json", "--trust", "trust.toml")
    assert cli.json("verify", "case.json", "--require", "witness", code=2)["failed"] == ["witness"]
    case = cli.case("case.json")
    token: str = case["witness"][0]["evidence"]["token"]
    case["witness"][0]["evidence"]["token"] = token[:300] + ("A" if token[300] != "A" else "B") + token[301:]
    cli.write("changed.json", case)
    assert cli.json("verify", "changed.json", "--trust", "trust.toml", code=2)["failed"] == ["witness"]


def test_the_local_witness_needs_no_file_and_warns(cli: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    queued = cli.json("witness", "enqueue", "--digests", digests(cli.folder, 3))
    cli(*RUN, "--backend", "self")
    capfd.readouterr()
    (proof,) = proofs_of(cli, queued)
    assert WitnessJudge(TrustPolicy()).judge(proof).level is Level.SELF
    text = cli("witness", "status", queued["intents"][0]["intent_digest"])
    assert "batch    batch 1, 3 intents: CONFIRMED\n  witness  self local, level self" in text
    assert cli.json("witness", "status", queued["intents"][0]["intent_digest"])["batch"]["state"] == "CONFIRMED"
    assert "for demonstrations" in cli("witness", "run", "--help").replace("\n", " ").replace("│", "").replace("  ", "")


def test_a_second_witness_stamps_what_the_ledger_confirmed(cli: Desk, url: str, root: Holder) -> None:
    queued = cli.json("witness", "enqueue", "--digests", digests(cli.folder, 50))
    with network(cli.folder, authorities=["local"]) as net:
        authority(cli.folder, url)
        with closing(net.ledger, every=0.6, seconds=1):
            told = cli.json(*RUN)
    assert (told["receipts"], told["stopped"]) == (100, None)
    assert [(one["account"], one["batches"]["CONFIRMED"]["members"]) for one in told["besides"]] == [("tsa:local", 50)]
    (proof,) = proofs_of(cli, queued)
    assert WitnessJudge(TrustPolicy(authorities=(Authority("x", (root.der,)),))).judge(proof).level is Level.AUTHORITY
    text = cli("witness", "status", queued["intents"][0]["intent_digest"])
    assert "transaction" in text
    assert "witness  tsa local" in text
    accounts = {lane["account"]: lane["batches"] for lane in cli.json("witness", "status")["accounts"]}
    assert accounts == {ACCOUNT: {"CONFIRMED": {"batches": 1, "members": 50}}, "tsa:local": {"CONFIRMED": {"batches": 1, "members": 50}}}


def test_what_is_not_there_is_refused_by_name(cli: Desk, url: str) -> None:
    cli.json("witness", "enqueue", "--digests", digests(cli.folder, 1))
    authority(cli.folder, url)
    assert cli.refused(*RUN, "--backend", "tsa:other") == "AUTHORITY_UNKNOWN"
    assert cli.refused(*RUN) == "NETWORK_UNKNOWN"
    authority(cli.folder, url, name="other", certificates="nothing.pem")
    assert cli.refused(*RUN, "--backend", "tsa") == "AUTHORITY_UNKNOWN"
    assert cli.refused(*RUN, "--backend", "tsa:other") == "WITNESS_FILE_INVALID"
    (cli.folder / "nothing.pem").write_text("no certificate")
    assert cli.refused(*RUN, "--backend", "tsa:other") == "WITNESS_FILE_INVALID"
    (cli.folder / "nothing.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----")
    assert cli.refused(*RUN, "--backend", "tsa:other") == "WITNESS_FILE_INVALID"
    for arguments in (("--backend", "x"), ("--backend", "tsa:"), ("--backend", "self:x"), ("--backend", "self", "--network", "x")):
        cli(*RUN, *arguments, code=2)


def test_an_authority_that_nobody_should_believe_stops_the_run(cli: Desk, url: str) -> None:
    cli.json("witness", "enqueue", "--digests", digests(cli.folder, 2))
    (cli.folder / "root.pem").write_bytes(certified("Root", ca=True).pem)
    authority(cli.folder, url)
    told = cli.json(*RUN, "--backend", "tsa", code=2)
    assert told["code"] == "WITNESS_STOPPED"
    assert "chain: no chain to a certificate that is believed" in told["stopped"]
    assert told["waiting"] == 2
    assert cli.json(*RUN, "--backend", "self")["receipts"] == 2


# Seeds


def signers(folder: Path, seed: str) -> Iterator[tuple[str, str]]:
    """The three places of a seed, and what is in the environment for them."""
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / "seed").write_text(seed)
    (folder / "keys" / "seed").chmod(0o600)
    program = folder / "keys" / "seed.py"
    program.write_text(PROGRAM)
    yield "env", "env:LEDGER_SEED"
    yield "file", "file:keys/seed"
    yield "program", f"program:{shlex.join([sys.executable, str(program)])}"


PROGRAM = """
import base64, json, os, sys
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
key, request = key_of_seed(os.environ["LEDGER_SEED"]), json.load(sys.stdin)
if request["operation"] == "public_key":
    answer = {"public_key": base64.b64encode(bytes.fromhex(key.public_key)).decode()}
else:
    answer = {"signature": base64.b64encode(key.sign(base64.b64decode(request["message"]))).decode()}
print(json.dumps(answer))
"""

FAILURES: dict[str, Callable[[Any], object]] = {
    "no server": lambda net: net.write("http://127.0.0.1:1", signer=net.signer),
    "another network": lambda net: net.write(net.url, signer=net.signer, network_id=7),
    "no such account": lambda net: net.write(net.url, signer=net.signer, account="rHb9CJAWyB4rj91VRWn96DkukG4bwdtyTh"),
    "a key that is refused": lambda net: net.node.faults.add("submit", "engine:tefBAD_AUTH"),
    "a fee for nothing": lambda net: net.node.faults.add("submit", "engine:tecCLAIM"),
    "nonsense": lambda net: net.node.faults.add("*", *["malformed"] * 50),
    "a server that is busy": lambda net: net.node.faults.add("*", *["error:tooBusy"] * 50),
}


@pytest.mark.parametrize("seed", [SEED, SECP256K1], ids=["ed25519", "secp256k1"])
@pytest.mark.parametrize("place", ["env", "file", "program"])
def test_no_run_shows_its_seed_however_it_fails(
    cli: Desk, seed: str, place: str, monkeypatch: pytest.MonkeyPatch, quiet: Callable[[], Iterator[bytes]]
) -> None:
    cli.json("witness", "enqueue", "--digests", digests(cli.folder, 3))
    monkeypatch.setenv("LEDGER_SEED", seed)
    source = dict(signers(cli.folder, seed))[place]
    failures = list(FAILURES.values()) if place == "env" else [FAILURES["a key that is refused"], FAILURES["another network"]]
    with network(cli.folder) as net:
        told: Any = net
        told.url, told.signer = json.loads(net.file.read_text().split("urls = ")[1].splitlines()[0])[0], source
        for number, fail in enumerate(failures):
            net.write(told.url, signer=source)
            fail(told)
            done = CliRunner().invoke(app, [*RUN[:-1], "0.2", "--debug", *(["--json"] if number % 2 else [])])
            problem = [] if done.exception is None else list(told_by(done.exception))
            require_none(iter([done.stdout_bytes, done.stderr_bytes, *problem]), needles(seed))
            assert done.exit_code in (0, 1, 2)
            net.node.faults.calm()
    (cli.folder / "keys" / "seed").unlink()
    require_none(stored(cli.folder), needles(seed))
    require_none(quiet(), needles(seed))


def test_no_run_shows_a_seed_that_it_cannot_read(cli: Desk, monkeypatch: pytest.MonkeyPatch, quiet: Callable[[], Iterator[bytes]]) -> None:
    cli.json("witness", "enqueue", "--digests", digests(cli.folder, 1))
    broken = SEED[:9] + SEED[10:]
    monkeypatch.setenv("LEDGER_SEED", broken)
    with network(cli.folder) as net:
        for _, source in signers(cli.folder, broken):
            text = net.file.read_text()
            net.file.write_text(
                "\n".join(f"signer = {json.dumps(source)}" if line.startswith("signer") else line for line in text.splitlines())
            )
            done = CliRunner().invoke(app, [*RUN, "--debug"])
            assert done.exit_code == 2
            problem = [] if done.exception is None else list(told_by(done.exception))
            require_none(iter([done.stdout_bytes, done.stderr_bytes, *problem]), [*needles(SEED), *pieces(broken)])
    require_none(quiet(), [*needles(SEED), *pieces(broken)])
