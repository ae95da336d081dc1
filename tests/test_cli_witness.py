"""Witnessing on the command line, against servers of a local ledger."""

import asyncio
import json
import signal
import subprocess
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ADAPTER, CommandLine, program
from test_cli_cases import Desk, environment
from xrpl_testing import Ledger as Single
from xrpl_testing import Signer

from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.worker import process_one_xrpl
from nexus_attest.attestation.xrpl.batch_receipt import WitnessTransaction
from nexus_attest.attestation.xrpl.client import TxStatusResult
from nexus_attest.attestation.xrpl.recorder import ValidationRecorder
from nexus_attest.attestation.xrpl.submission_store import SubmissionStore
from nexus_attest.testledger import Clock, Faults, Ledger, Node, http_front, key_from_seed, seed_of
from nexus_control.errors import StoreError
from nexus_control.events import utc_now

SEED = seed_of("command line")
ACCOUNT = key_from_seed(SEED).address
UNKNOWN = "sha256:" + "0" * 64


@dataclass
class Net:
    """A ledger, one server of it, and the witness file that names it."""

    ledger: Ledger
    node: Node
    file: Path

    def write(self, url: str, **changes: Any) -> None:
        keys = {"urls": [url], "network_id": 0, "signer": "env:LEDGER_SEED", "max_age_s": 0, **changes}
        entries = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None)
        self.file.write_text(f'network = "local"\n[networks.local]\n{entries}\n')

    @contextmanager
    def closing(self) -> Generator[None]:
        """A ledger closes after each submission, else twice a second: a transaction has time, however slow the machine is."""
        stopped = threading.Event()

        def run() -> None:
            sent = quiet = 0
            while not stopped.wait(0.05):
                now, quiet = sum(method == "submit" for method, _ in self.node.requests), quiet + 1
                if now > sent or quiet >= 10:
                    self.ledger.close(1)
                    sent, quiet = now, 0

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()

    def witnesses(self) -> list[WitnessTransaction]:
        """What the ledger holds of the account, oldest first: one memo each."""
        return [WitnessTransaction(entry.transaction.blob, entry.result, account=ACCOUNT) for _, entry in self.ledger.history(ACCOUNT)]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    environment(monkeypatch, tmp_path)
    monkeypatch.setenv("LEDGER_SEED", SEED)
    monkeypatch.setenv("NEXUS_ATTEST_WITNESS", str(tmp_path / "witness.toml"))
    return Desk(tmp_path)


@contextmanager
def network(folder: Path, **changes: Any) -> Generator[Net]:
    ledger = Ledger({ACCOUNT: 100_000_000}, clock=Clock(utc_now()), first_index=100)
    ledger.close()
    node = Node(ledger, Faults())
    with http_front(node) as url:
        net = Net(ledger, node, folder / "witness.toml")
        net.write(url, **changes)
        yield net


def digests(folder: Path, count: int) -> str:
    (folder / "digests").write_text("".join(f"sha256:{number:064x}\n" for number in range(count)))
    return "digests"


RUN = ("witness", "run", "--drain", "--interval", "0.05", "--for", "60")


# -- the queue --------------------------------------------------------------------------------------------------------------


def test_packages_and_attestations_of_them_are_queued(cli: Desk) -> None:
    request_id = cli("request", "Run", "--mode", "apply", "--plan", '[{"tool": "t", "method": "m"}]', "-q").strip()
    cli("approve", request_id)
    cli("execute", request_id, ADAPTER, "--adapters", str(program(cli.folder)))
    binding = cli.json("audit", "export", request_id, "--embed", "-o", "package.json")["digest"]
    cli("keys", "new", "bot")
    cli("attest", "sign", "package.json", "--claim", "reviewed", "--key", "bot", "--attestor", "bot", "-o", "att.json")
    told = cli.json("witness", "enqueue", "package.json")
    intent = AttestationIntent("nexus.audit_package", binding)
    assert told["intents"] == [{"intent_digest": "sha256:" + intent.intent_digest(), "binding_digest": binding}]
    assert (told["queued"], told["known"]) == (1, 0)
    assert cli.json("witness", "enqueue", "package.json")["known"] == 1
    (attested,) = cli.json("witness", "enqueue", "package.json", "--attestation", "att.json")["intents"]
    with AttestationQueue(cli.folder / "decisions.db") as queue:
        found = queue.get(attested["intent_digest"])
    assert found is not None
    assert found.intent.binding_digest == binding
    assert list(found.intent.labels) == ["attestation"]
    other = cli.case("att.json")
    other["payload"]["binding_digest"] = UNKNOWN
    cli.write("other.json", other)
    assert cli.refused("witness", "enqueue", "package.json", "--attestation", "other.json") == "WITNESS_MISMATCH"
    forged = cli.case("package.json")
    forged["control_bundle"]["decision"]["goal"] = "x"
    cli.write("forged.json", forged)
    assert cli.refused("witness", "enqueue", "forged.json", "package.json") == "BUNDLE_INVALID_SCHEMA"
    assert cli.json("witness", "status")["intents"] == {"PENDING": 2}


def test_many_digests_are_queued_at_once_or_none_of_them(cli: Desk) -> None:
    about = ("--type", "build.artifact", "--env", "prod", "--label", "a=b=c")
    told = cli.json("witness", "enqueue", "--digests", digests(cli.folder, 300), *about)
    assert (told["queued"], len(told["intents"])) == (300, 300)
    with AttestationQueue(cli.folder / "decisions.db") as queue:
        found = queue.get(told["intents"][7]["intent_digest"])
    assert found is not None
    assert found.intent == AttestationIntent("build.artifact", f"sha256:{7:064x}", env="prod", labels={"a": "b=c"})
    text = cli("witness", "enqueue", "--digests", digests(cli.folder, 301), *about)
    assert text.startswith("Queued 1 of 301; the others are queued already\n")
    assert text.endswith("  and 281 more\n")
    (cli.folder / "digests").write_text(f"{UNKNOWN}\nsha256:xyz\n")
    assert cli.refused("witness", "enqueue", "--digests", "digests") == "INVALID_INTENT"
    assert cli.json("witness", "status")["waiting"] == 301


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--digests", "d", "--attestation", "x"),
        ("a", "b", "--attestation", "x"),
        ("a", "--label", "x"),
        ("a", "--claim", "x=1", "--claim", "x=2"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(cli: Desk, arguments: tuple[str, ...]) -> None:
    done = CommandLine(cli.folder).run("witness", "enqueue", *arguments, "--json")
    assert done.code == 2
    assert done.document["code"] in ("USAGE", "FILE_NOT_READABLE")
    assert not (cli.folder / "decisions.db").exists()


# -- the run ----------------------------------------------------------------------------------------------------------------


def test_everything_that_waits_is_witnessed_in_batches_and_told_as_it_goes(cli: Desk) -> None:
    ids = [entry["intent_digest"] for entry in cli.json("witness", "enqueue", "--digests", digests(cli.folder, 10))["intents"]]
    line = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(cli.folder / "witness.toml")})
    with network(cli.folder, max_members=8) as net, net.closing():
        told = line.run(*RUN)
        assert cli.json(*RUN)["receipts"] == 0
    assert told.code == 0, told
    assert told.out == "10 receipts in 2 batches; 0 intents wait\n"
    lines = told.err.splitlines()
    first, second = (witness.tx_hash for witness in net.witnesses())
    assert lines[0] == f"Witnessing as {ACCOUNT} on local; Ctrl-C ends it, and a later run goes on"
    assert lines[1] == f"Batch 1, 8 intents: transaction {first[:16]}... (Sequence 1) signed and stored"
    assert lines[2].startswith(
        f"Batch 1, 8 intents: transaction {first[:16]}... (Sequence 1) sent, tesSUCCESS; it can be in a ledger up to "
    )
    assert [line for line in lines if "witnessed" in line] == [
        f"Batch 1, 8 intents: witnessed in ledger {_ledger_of(net, first)}, transaction {first}; 8 receipts of level tree",
        f"Batch 2, 2 intents: witnessed in ledger {_ledger_of(net, second)}, transaction {second}; 2 receipts of level tree",
    ]
    assert net.ledger.validated.state[ACCOUNT].sequence == 3
    assert SEED not in told.err + told.out
    status = cli.json("witness", "status")
    assert status["intents"] == {"CONFIRMED": 10}
    assert status["accounts"] == [
        {"account": ACCOUNT, "network_id": 0, "batches": {"CONFIRMED": {"batches": 2, "members": 10}}, "under_way": []}
    ]
    one = cli.json("witness", "status", ids[0].removeprefix("sha256:"))
    assert one["receipt"]["proof"]["network"] == "local"
    assert one["receipt"]["proof"]["tx_hash"] in (first, second)
    assert f"transaction {one['receipt']['proof']['tx_hash']}, level tree" in cli("witness", "status", ids[0])


def test_where_votes_cannot_be_heard_it_says_so_and_goes_on(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
    line = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(cli.folder / "witness.toml")})
    nobody = {"lists": ["http://127.0.0.1:1"], "streams": ["ws://127.0.0.1:1"]}
    with network(cli.folder, **nobody) as net:
        done = line.run("witness", "run", "--interval", "0.05", "--for", "3")
        assert net.node.requests
    assert done.code == 0, done
    for url in ("http://127.0.0.1:1", "ws://127.0.0.1:1"):
        assert f"No votes or lists of validators from {url}: " in done.err


def _ledger_of(net: Net, transaction: str) -> int:
    found = net.ledger.find(transaction)
    assert found is not None
    return found[0].index


def test_a_run_whose_votes_can_no_longer_be_recorded_ends_and_says_why(cli: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on it would prove less and less, and nobody would know."""

    async def full(self: ValidationRecorder, stop: asyncio.Event) -> None:
        del self, stop
        await asyncio.sleep(0.2)
        raise StoreError("the disk is full")

    monkeypatch.setattr(ValidationRecorder, "run", full)
    cli.json("witness", "enqueue", "--digests", digests(cli.folder, 1))
    began = time.monotonic()
    with network(cli.folder, streams=["ws://127.0.0.1:1/"]):
        assert cli.json("witness", "run", "--interval", "0.05", "--for", "60", code=1)["code"] == StoreError.code
    assert time.monotonic() - began < 40


def test_for_programs_a_run_is_one_document_and_silent(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 3))
    line = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(cli.folder / "witness.toml")})
    with network(cli.folder) as net, net.closing():
        done = line.run(*RUN, "--json")
    assert (done.code, done.err) == (0, "")
    told = done.document
    (batch,) = told.pop("ended")
    (witness,) = net.witnesses()
    assert told == {
        "success": True,
        "network": "local",
        "account": ACCOUNT,
        "waiting": 0,
        "batches": {"CONFIRMED": {"batches": 1, "members": 3}},
        "stopped": None,
        "elsewhere": [],
        "receipts": 3,
        "under_way": None,
    }
    assert (batch["tx_hash"], batch["size"], batch["state"], batch["engine_result"]) == (witness.tx_hash, 3, "CONFIRMED", "tesSUCCESS")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_at_any_time_it_leaves_a_queue_that_the_next_run_goes_on_with(cli: Desk, number: signal.Signals) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 5))
    line = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(cli.folder / "witness.toml")})
    with network(cli.folder) as net:
        running = line.start("witness", "run", "--interval", "0.05")
        assert running.stderr is not None
        told = [running.stderr.readline().decode() for _ in range(3)]
        assert "sent, tesSUCCESS" in told[-1]
        running.send_signal(number)
        _, err = running.communicate(timeout=60)
        assert running.returncode == (130 if number is signal.SIGINT else 0), (told, err)
        assert (b"Ended; batch 1 is under way, and the next `nexus-attest witness run` follows it" in err) == (number is signal.SIGINT)
        (batch,) = cli.json("witness", "status")["accounts"][0]["under_way"]
        assert (batch["state"], batch["told"], batch["attempts"]) == ("OPEN", "tesSUCCESS", 1)
        assert "batch 1, 5 intents: OPEN, transaction" in cli("witness", "status")
        with net.closing():
            assert cli.json(*RUN)["receipts"] == 5
    assert len(net.witnesses()) == 1
    assert net.ledger.validated.state[ACCOUNT].sequence == 2


def test_a_run_that_cannot_reach_anybody_says_so_and_ends_when_told(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
    with network(cli.folder) as net:
        net.node.faults.add("*", *["http503"] * 100)
        line = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(net.file)})
        done = line.run(*RUN, "--for", "0.3")
    assert done.code == 2
    assert "No server told anything, asking again: 0 of 1 servers answered" in done.err
    assert "http://127.0.0.1:" in done.err
    assert "WITNESS_UNFINISHED" in done.out
    assert cli.json("witness", "status")["intents"] == {"PENDING": 1}


def test_a_key_that_the_ledger_does_not_take_stops_everything_with_a_reason(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
    with network(cli.folder) as net, net.closing():
        net.node.faults.add("submit", *["engine:tefBAD_AUTH"] * 100)
        told = cli.json(*RUN, code=2)
    assert told["code"] == "WITNESS_STOPPED"
    assert "does not take the key" in told["stopped"]
    assert (told["receipts"], told["waiting"], told["under_way"]) == (0, 0, 1)
    assert net.witnesses() == []


def test_what_another_account_has_under_way_is_not_forgotten_when_the_file_names_a_new_one(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 2))
    former = key_from_seed(seed_of("former")).address
    with AttestationQueue(cli.folder / "decisions.db") as queue:
        store = SubmissionStore(queue.storage)
        store.lease(former, 0, "another process", now=0, until=1)
        store.add_batch(former, store.waiting(1, now=0), "2026-01-01T00:00:00+00:00")
    with network(cli.folder) as net, net.closing():
        done = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(net.file)}).run(*RUN)
        told = cli.json(*RUN)
    assert done.code == 0
    assert f"Account {former} has batches under way, which only a run with its signer ends" in done.err
    assert told["elsewhere"] == [former]
    assert cli.json("witness", "status")["intents"] == {"CONFIRMED": 1, "PENDING": 1}


def test_what_was_sent_alone_is_in_no_batch_and_is_told_with_what_to_do(cli: Desk) -> None:
    """By the function for callers that have a loop of their own; no node answered for the first, one took the second."""
    told = cli.json("witness", "enqueue", "--digests", digests(cli.folder, 3))
    first, second, _ = [row["intent_digest"] for row in told["intents"]]
    lost, unknown = Single(submitted=TimeoutError()), Single(found=TxStatusResult(False))
    with AttestationQueue(cli.folder / "decisions.db") as queue:
        for intent_digest, ledger in ((first, lost), (second, unknown)):
            asyncio.run(process_one_xrpl(queue, ledger, Signer(), intent_digest=intent_digest))
        storage = queue.storage
        alone = storage.count_sent_alone()
        queued = {intent_digest: (storage.get_intent(intent_digest) or {})["created_at"] for intent_digest in (first, second)}
        assert (alone["intents"], alone["since"]) == (2, min(queued.values()))
        assert queued[alone["oldest"]] == alone["since"]
        assert [row["status"] for row in storage.count_by_status(alone=False)] == ["PENDING"]
    with network(cli.folder) as net, net.closing():
        done = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(net.file)}).run(*RUN)
    assert done.code == 0
    assert "2 intents sent by process_one_xrpl, which no batch takes" in done.err
    status = cli.json("witness", "status")
    assert (status["intents"], status["waiting"], status["alone"]) == ({"CONFIRMED": 1, "DEFERRED": 2}, 0, 2)
    assert f"Alone    2 sent by process_one_xrpl, which no batch takes; the oldest is {alone['oldest']}" in cli("witness", "status")
    assert cli.json("witness", "status", first)["alone"] == [{"tx_hash": "HASH1", "told": "unanswered"}]
    shown = cli("witness", "status", first)
    assert "alone    transaction HASH1: no node answered for it" in shown
    assert "process_one_xrpl(..., intent_digest=...) sends another one" in shown
    assert cli.json("witness", "status", second)["alone"] == [{"tx_hash": "HASH1", "told": "taken"}]
    assert "process_one_xrpl(..., intent_digest=..., resubmit=True) sends" in cli("witness", "status", second)
    with AttestationQueue(cli.folder / "decisions.db") as queue:
        with queue.claimed(second, "a process that ends"):
            assert queue.storage.note_sending(second, "a process that ends", "HASH9", None)
        asyncio.run(process_one_xrpl(queue, Single(), Signer(), intent_digest=first))
    assert cli.json("witness", "status")["alone"] == 1
    assert "alone    transaction HASH9: signed, perhaps sent, by a process that then ended" in cli("witness", "status", second)
    assert cli.json("witness", "status", first)["alone"] == []


def test_servers_of_another_network_sign_nothing(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
    with network(cli.folder, network_id=1) as net:
        assert cli.refused(*RUN) == "WRONG_NETWORK"
    assert cli.json("witness", "status")["accounts"] == []
    assert net.witnesses() == []


def test_one_server_of_another_network_among_three_is_named_and_left_out(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
    with network(cli.folder) as net, net.closing(), http_front(Node(Ledger(network_id=7))) as other, http_front(net.node) as second:
        own = json.loads(net.file.read_text().split("urls = ")[1].splitlines()[0])
        net.write("", urls=[other, second, *own])
        done = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(net.file)}).run(*RUN)
    assert done.code == 0
    assert done.err.count(f"Not asked: {other} belongs to network 7") == 1
    assert len(net.witnesses()) == 1


def test_what_is_missing_is_refused_before_anything_is_sent(cli: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.refused("witness", "status") == "STORE_NOT_FOUND"
    assert cli.refused(*RUN) == "WITNESS_FILE_INVALID"
    with network(cli.folder) as net:
        assert cli.refused(*RUN) == "STORE_NOT_FOUND"
        cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
        assert cli.refused(*RUN, "--network", "mainnet") == "NETWORK_UNKNOWN"
        monkeypatch.setenv("LEDGER_SEED", SEED[:-1] + "x")
        done = cli(*RUN, "--json", code=2)
        assert json.loads(done)["code"] == "KEY_INVALID"
        assert SEED[4:-1] not in done
        net.write("http://127.0.0.1:1", signer=None)
        assert cli.refused(*RUN) == "SIGNER_MISSING"
        monkeypatch.delenv("NEXUS_ATTEST_WITNESS")
        assert cli.refused(*RUN) == "WITNESS_MISSING"
        assert net.node.requests == []
    assert cli.refused("witness", "status", UNKNOWN) == "INTENT_NOT_FOUND"


def test_a_witness_file_to_start_from_is_written_and_not_over_another_one(cli: Desk) -> None:
    told = cli.json("witness", "init", "-o", "w.toml")
    assert (cli.folder / "w.toml").stat().st_size == told["bytes"]
    assert cli.refused("witness", "init", "-o", "w.toml") == "FILE_EXISTS"
    cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
    assert cli.refused("witness", "run", "--witness", "w.toml") == "KEY_NOT_FOUND"


def test_the_configuration_file_may_name_the_witness_file(cli: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUS_ATTEST_WITNESS")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cli.folder))
    (cli.folder / "nexus-attest").mkdir()
    (cli.folder / "nexus-attest" / "config.toml").write_text('witness = "w.toml"\n')
    cli("witness", "init", "-o", "nexus-attest/w.toml")
    cli("witness", "enqueue", "--digests", digests(cli.folder, 1))
    assert cli.refused("witness", "run") == "KEY_NOT_FOUND"


def test_two_runs_at_once_witness_everything_once(cli: Desk) -> None:
    cli("witness", "enqueue", "--digests", digests(cli.folder, 20))
    line = CommandLine(cli.folder, extra={"LEDGER_SEED": SEED, "NEXUS_ATTEST_WITNESS": str(cli.folder / "witness.toml")})
    with network(cli.folder, max_members=10) as net, net.closing():
        both = [line.start(*RUN, "--json") for _ in range(2)]
        told = [json.loads(one.communicate(timeout=120)[0]) for one in both]
    assert sum(one["receipts"] for one in told) == 20
    assert len(net.witnesses()) == 2
    assert cli.json("witness", "status")["intents"] == {"CONFIRMED": 20}


def test_help_is_there_without_loading_the_ledger(cli: Desk) -> None:
    code = (
        "import sys; from nexus_attest.cli.app import run; run(['witness', 'run', '--help']); "
        "print({'xrpl', 'httpx', 'nacl', 'rich'} & set(sys.modules))"
    )
    line = CommandLine(cli.folder)
    done = subprocess.run([line.argv()[0], "-c", code], env=line.env, cwd=cli.folder, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
