"""kill -9 at every step of every command: what was acknowledged is there, nothing is half there, and the next command knows what to do.

Each command is done once undisturbed, to learn its steps; then once per step in a fresh copy of the same folder, killed there. What it
left is opened and verified, the same command is given again, and where that is refused, its advice is followed.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fault_testing import in_process, library, lines_of, snapshots, state_of, steps_of
from kill_testing import EVERY_STEP, Words, again, command_line, deaths, environment, of_messages, undisturbed
from postgres_testing import PostgresServer
from store_testing import ALICE, BOB, CAROL, SetClock
from xrpl_testing import NOON, Ledger, Signer
from xrpl_testing import intent as intent_number

from nexus_attest.attestation import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.witness_file import load_witness_file
from nexus_attest.attestation.worker import process_one_xrpl
from nexus_attest.attestation.xrpl.batch import BatchSettings
from nexus_attest.attestation.xrpl.client import SubmitResult, TxStatusResult
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_attest.attestation.xrpl.transport import ExchangeRecord
from nexus_attest.cli import app as app_module
from nexus_attest.cli import witnessing
from nexus_attest.cli.app import run
from nexus_attest.keys import StoredKey, list_keys, new_key
from nexus_attest.postgres import PostgresStore
from nexus_attest.routers import RunRecords
from nexus_control.checkpoint import parse_checkpoint, parse_note
from nexus_control.copying import copy_store
from nexus_control.documents import verify_document
from nexus_control.integrity import sha256_digest
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.usefixtures("ready_to_fork")]

PLAN = '[{"tool": "t", "method": "m"}]'
ADAPTERS = """\
[[adapters]]
id = "subprocess:tool"
kind = "subprocess"
command = ["/bin/sh", "-c", "echo ran >> ran; echo '{}'"]
allow = ["t/m"]
"""

# -- where each command begins ------------------------------------------------------------------------------------------------------


class Router:
    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}


@contextmanager
def tools_in(folder: Path) -> Generator[NexusControlTools]:
    with DecisionStore(folder / "decisions.db") as store:
        yield NexusControlTools(store)


def nothing(_: Path) -> Words:
    return {}


def requested(folder: Path, approvals: int = 0) -> Words:
    (folder / "adapters.toml").write_text(ADAPTERS)
    with tools_in(folder) as tools:
        name = tools.request("Rotate", ALICE, mode="apply", plan=PLAN, min_approvals=2).data["request_id"]
        for actor in (ALICE, BOB)[:approvals]:
            assert tools.approve(name, actor).success
        assert tools.request("Another one, that nobody touches", BOB).success
    return {"id": name}


def approved_by_one(folder: Path) -> Words:
    return requested(folder, 1)


def approved(folder: Path) -> Words:
    return requested(folder, 2)


# The tool's parent is its guardian, and that one's parent the process that executes. The fourth field of `stat` names it, proc(5).
KILL_US = "read -r _ _ _ us _ </proc/$PPID/stat; kill -9 $us"


def executing(folder: Path) -> Words:
    """An execution whose process was killed in the middle of its call."""
    words = approved(folder)
    (folder / "adapters.toml").write_text(ADAPTERS.replace("echo ran >> ran;", f"echo ran >> ran; {KILL_US}; sleep 1;"))
    died = in_process(folder, command_line("execute", "{id}", "subprocess:tool", "--adapters", "adapters.toml")(words), environment(folder))
    assert died.was_killed
    return words


def executed(folder: Path) -> Words:
    words = approved(folder)
    with tools_in(folder) as tools:
        assert tools.execute(words["id"], "ad", CAROL, Router()).success
    return words


def exported(folder: Path) -> Words:
    words = approved(folder)
    with tools_in(folder) as tools:
        bundle: str = tools.export_bundle(words["id"]).data["canonical_json"]
    (folder / "bundle.json").write_text(bundle)
    (folder / "decisions.db").unlink()
    return {**words, **{"other": approved(folder)["id"]}}


def imported(folder: Path) -> Words:
    words = exported(folder)
    assert again(folder, words, "bundle", "import", "bundle.json").code == 0
    return words


def keyed(folder: Path) -> Words:
    words = executed(folder)
    new_key(folder_of_keys(folder), "log")
    return words


def checkpointed(folder: Path) -> Words:
    words = keyed(folder)
    assert again(folder, words, "log", "checkpoint", "--key", "log", "--origin", "example.org/log").code == 0
    return words


def packaged(folder: Path) -> Words:
    words = keyed(folder)
    assert again(folder, words, "audit", "export", "{id}", "-o", "package.json").code == 0
    return words


def ran(folder: Path) -> Words:
    words = approved(folder)
    done = in_process(folder, command_line("execute", "{id}", "subprocess:tool", "--adapters", "adapters.toml")(words), environment(folder))
    return {**words, "run": done.document["run_id"]}


def backed_up(folder: Path) -> Words:
    """The store and its run records are lost, and there is a backup of them."""
    words = ran(folder)
    assert again(folder, words, "backup", "copy.db").code == 0
    for name in ("decisions.db", "decisions.db.runs"):
        (folder / name).unlink()
    return words


def folder_of_keys(folder: Path) -> Path:
    keys = folder / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    return keys


def with_keys(folder: Path) -> Words:
    folder_of_keys(folder)
    return {}


def queued(folder: Path) -> Words:
    with AttestationQueue(folder / "queue.db") as queue:
        queue.enqueue(intent_number("a"))
    return {}


def with_digests(folder: Path) -> Words:
    (folder / "digests").write_text("".join(f"sha256:{number:064x}\n" for number in range(3)))
    return {}


def enqueued(folder: Path) -> Words:
    words = with_digests(folder)
    done = again(folder, words, "witness", "enqueue", "--digests", "digests", "--json")
    return {"intent": done.document["intents"][0]["intent_digest"]}


def witnessed(folder: Path) -> Words:
    words = enqueued(folder)
    assert again(folder, words, *WITNESS).code == 0
    return words


def signable(folder: Path) -> Words:
    """A decision in a file, a key that may approve it, and the trust policy that says so."""
    words = requested(folder)
    new_key(folder_of_keys(folder), "alice")
    shown = again(folder, words, "keys", "show", "alice", "--actor", "alice", "--json")
    (folder / "trust.toml").write_text(f"version = 1\n{shown.document['trust']}")
    assert again(folder, words, "bundle", "export", "{id}", "-o", "decision.json").code == 0
    return words


def signed(folder: Path) -> Words:
    words = signable(folder)
    assert again(folder, words, "sign", "approve", "decision.json", "--key", "alice", "-o", "envelope.json").code == 0
    return words


def ahead_of_its_backup(folder: Path) -> Words:
    words = requested(folder)
    assert again(folder, words, "backup", "copy.db").code == 0
    with tools_in(folder) as tools:
        assert tools.approve(words["id"], ALICE).success
    return words


# -- what each command may leave ----------------------------------------------------------------------------------------------------

Look = Callable[[Path], object]
"""What there is, beside the facts of the store. Asserts that it is whole."""


def one_run_at_most(folder: Path) -> None:
    assert len(lines_of(folder / "ran")) <= 1


def document(name: str, *, verifies: bool) -> Look:
    def look(folder: Path) -> bool:
        path = folder / name
        if not path.exists():
            return False
        data = json.loads(path.read_bytes())
        if verifies:
            report = verify_document(data)
            assert "FAIL" not in str(report.to_dict()["layers"]) if "layers" in report.to_dict() else report.ok
        return True

    return look


def key_file(folder: Path) -> str:
    """`none`, `whole` or `retired`."""
    found = list_keys(folder / "keys")
    assert all(isinstance(key, StoredKey) for key in found), found
    assert all((folder / "keys" / f"{key.name}.key").stat().st_mode & 0o077 == 0 for key in found if isinstance(key, StoredKey))
    return "none" if not found else "retired" if isinstance(found[0], StoredKey) and found[0].retired_at else "whole"


def note_file(folder: Path) -> bool:
    path = folder / "checkpoint.txt"
    return path.exists() and parse_checkpoint(parse_note(path.read_bytes())).size > 0


def whole_backup(folder: Path) -> object:
    """What has the name of the backup is one; the run records get theirs before that."""
    if not (folder / "copy.db").exists():
        return "records" if (folder / "copy.db.runs").exists() else False
    with RunRecords(folder / "copy.db.runs") as records:
        return len(records.runs()) == 1 and state_of(folder / "copy.db").facts == 11


def all_queued(folder: Path) -> int:
    """How many intents wait: all, or none."""
    with AttestationQueue(folder / "decisions.db") as queue:
        found = len(queue.next_pending(100))
    assert found in (0, 3)
    return found


def each_witnessed_once(folder: Path) -> int:
    """How many intents are confirmed, of three."""
    with AttestationQueue(folder / "decisions.db") as queue:
        names = [f"sha256:{intent.intent_digest()}" for intent in INTENTS]
        statuses = [queue.get_status(name) for name in names]
        receipts = [[receipt.status.value for receipt in queue.replay(name)].count("CONFIRMED") for name in names]
    assert receipts == [int(status is not None and status["status"] == "CONFIRMED") for status in statuses]
    return sum(receipts)


def whole_witness_file(folder: Path) -> bool:
    path = folder / "witness.toml"
    return path.exists() and bool(load_witness_file(path).networks)


def runs_before_the_store(folder: Path) -> None:
    """A store that is back has its run records: nobody would miss them, and bring them back."""
    if (folder / "decisions.db").exists():
        with RunRecords(folder / "decisions.db.runs") as records:
            assert len(records.runs()) == 1


@dataclass(frozen=True)
class Command:
    """`facts`: how many new ones there may be, ending with how many there are when it is done. `look`: what else it changes.

    `told`: what the same command answers when it is given again after that many facts (or with `look` giving that): None for a success,
    else the code, and a text that the person reads. `way_out`: commands that lead from there to the end. `ends`: what `look` gives there.
    """

    prepare: Callable[[Path], Words]
    work: Callable[[Words], Callable[[], object]]
    facts: tuple[int, ...] = (0,)
    look: Look = Path.exists
    told: Mapping[object, tuple[str, str]] = field(default_factory=dict[object, tuple[str, str]])
    way_out: Mapping[object, tuple[tuple[str, ...], ...]] = field(default_factory=dict[object, tuple[tuple[str, ...], ...]])
    repeats: tuple[str, ...] = ()
    ends: object = None


EXECUTE = ("execute", "{id}", "subprocess:tool", "--adapters", "adapters.toml")
EXISTS = ("FILE_EXISTS", "--force replaces it.")
WITNESS = ("witness", "run", "--backend", "self", "--drain", "--interval", "0.01")
INTENTS = [AttestationIntent("nexus.audit_package", f"sha256:{number:064x}") for number in range(3)]


def told_twice(*arguments: str, **more: Any) -> Command:
    return Command(work=command_line(*arguments), repeats=arguments, **more)


def into_a_file(*arguments: str, prepare: Callable[[Path], Words], verifies: bool = False) -> Command:
    """A command that writes a document, which `verifies` or is of another kind, and replaces none."""
    return told_twice(*arguments, "-o", "out.json", prepare=prepare, look=document("out.json", verifies=verifies), told={True: EXISTS})


COMMANDS = {
    "request, into a new store": told_twice("request", "Rotate", prepare=nothing, facts=(0, 3)),
    "request": told_twice("request", "Rotate", "--mode", "apply", "--min-approvals", "2", prepare=requested, facts=(0, 3)),
    "approve": told_twice("approve", "{id}", prepare=requested, facts=(0, 1), told={1: ("ALREADY_APPROVED", "alice has already approved")}),
    "the approval that was missing": told_twice(
        *("approve", "{id}", "--actor", "bob"),
        prepare=approved_by_one,
        facts=(0, 1),
        told={1: ("ALREADY_APPROVED", "bob has already approved")},
    ),
    "revoke": told_twice(
        *("revoke", "{id}", "--reason", "no"), prepare=approved, facts=(0, 1), told={1: ("ALREADY_REVOKED", "alice is already revoked")}
    ),
    "execute": told_twice(
        *EXECUTE,
        prepare=approved,
        facts=(0, 2, 3),
        look=one_run_at_most,
        told={
            2: ("EXECUTION_IN_PROGRESS", "If that process died: `nexus-attest recover ID`. It records that the outcome is unknown."),
            3: ("ALREADY_EXECUTED", "has been applied by run"),
        },
        way_out={2: (("recover", "{id}", "--reason", "its host was switched off"),)},
    ),
    "execute as a rehearsal": told_twice(
        *EXECUTE,
        "--dry-run",
        prepare=approved,
        facts=(0, 2, 3),
        look=one_run_at_most,
        told={2: ("EXECUTION_IN_PROGRESS", "nexus-attest recover ID")},
        way_out={2: (("recover", "{id}"),)},
    ),
    "recover": told_twice(
        *("recover", "{id}", "--reason", "it is dead"),
        prepare=executing,
        facts=(0, 1),
        look=one_run_at_most,
        told={1: ("NOTHING_TO_RECOVER", "no execution is in progress (state failed)")},
    ),
    "template create": told_twice(
        *("template", "create", "prod", "--min-approvals", "2"),
        prepare=requested,
        facts=(0, 1),
        told={1: ("TEMPLATE_ALREADY_EXISTS", "prod")},
    ),
    "bundle import": told_twice(
        *("bundle", "import", "bundle.json"), prepare=exported, facts=(0, 5), told={5: ("DECISION_EXISTS", "{id}")}
    ),
    "bundle import over another": told_twice(
        *("bundle", "import", "bundle.json", "--conflict", "overwrite"),
        prepare=imported,
        facts=(0, 5),
    ),
    "bundle export": into_a_file("bundle", "export", "{id}", prepare=approved, verifies=True),
    "audit export": into_a_file("audit", "export", "{id}", prepare=executed, verifies=True),
    "case export": into_a_file("case", "export", "{id}", prepare=checkpointed, verifies=True),
    "runs export": into_a_file("runs", "export", "{run}", prepare=ran),
    "backup": told_twice(
        "backup",
        "copy.db",
        prepare=ran,
        look=whole_backup,
        told={True: ("BACKUP_EXISTS", "copy.db"), "records": ("BACKUP_EXISTS", "and copy.db does not, as when")},
    ),
    "restore": told_twice(
        "restore", "copy.db", prepare=backed_up, facts=(0, 11), look=runs_before_the_store, told={11: ("STORE_EXISTS", "decisions.db")}
    ),
    "attest sign": into_a_file(
        *("attest", "sign", "package.json", "--claim", "seen", "--key", "log", "--attestor", "alice"), prepare=packaged
    ),
    "keys new": told_twice("keys", "new", "k", prepare=with_keys, look=key_file, told={"whole": ("KEY_EXISTS", "there is a key k")}),
    "keys retire": told_twice(
        *("keys", "retire", "log", "--yes"), prepare=keyed, look=key_file, told={"retired": ("KEY_RETIRED", "key log was retired at")}
    ),
    "log checkpoint": told_twice("log", "checkpoint", "--key", "log", "--origin", "example.org/log", prepare=keyed),
    "log checkpoint into a file": told_twice(
        *("log", "checkpoint", "--key", "log", "--origin", "example.org/log", "-o", "checkpoint.txt"),
        prepare=keyed,
        look=note_file,
        told={True: EXISTS},
    ),
    "approve by an envelope": told_twice(
        *("approve", "{id}", "--envelope", "envelope.json", "--trust", "trust.toml"),
        prepare=signed,
        facts=(0, 1),
        told={1: ("SIGNATURE_REPLAYED", "")},
    ),
    "sign approve": into_a_file("sign", "approve", "decision.json", "--key", "alice", prepare=signable),
    "sign revoke": into_a_file("sign", "revoke", "decision.json", "--key", "alice", prepare=signable),
    "witness init": told_twice("witness", "init", prepare=nothing, look=whole_witness_file, told={True: EXISTS}),
    "witness enqueue": told_twice("witness", "enqueue", "--digests", "digests", prepare=with_digests, look=all_queued, ends=3),
    "witness run": told_twice(*WITNESS, prepare=enqueued, look=each_witnessed_once, ends=3),
    "narrative show": into_a_file("narrative", "show", "{intent}", prepare=witnessed),
    "proof export": into_a_file("proof", "export", "{intent}", "--backend", "self", prepare=witnessed),
}

READING = {
    *("adapters check", "adapters list", "adapters survey", "attest verify", "doctor", "inspect", "keys list", "keys show", "list"),
    *("log consistency", "log prove", "log verify", "mcp config", "narrative diff", "narrative verify", "proof verify", "runs list"),
    *("runs show", "status", "template get", "template list", "trust check", "verify", "witness status"),
}
ELSEWHERE = {
    "db init": "test_killed_moves.py",
    "migrate": "test_killed_moves.py",
    "serve": "its tools call what the commands call; test_mcp_lifecycle.py and test_mcp_tasks.py kill it",
    "demo": "works in a folder of its own, which the next one replaces",
}


def test_every_command_is_killed_or_changes_nothing() -> None:
    def names(group: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
        for name, command in group.commands.items():
            yield from names(command, (*before, name)) if hasattr(command, "commands") else (" ".join((*before, name)),)

    known = sorted(names(app_module.app))
    killed = {name for name in known if any(f"{' '.join(command.repeats)} ".startswith(f"{name} ") for command in COMMANDS.values())}
    assert killed.isdisjoint(READING | ELSEWHERE.keys())
    assert sorted(killed | READING | ELSEWHERE.keys()) == known


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_leaves_all_or_nothing_and_the_next_one_knows_what_to_do(
    place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessing, "BatchSettings", partial(BatchSettings, lease=0.5))  # so long a witness waits for one that is dead
    command = COMMANDS[name]
    words = command.prepare(place)
    before = state_of(place / "decisions.db")
    work = command.work(words)
    steps, after = undisturbed(place, work)
    assert after.facts - before.facts == command.facts[-1]
    reached: set[object] = set()
    for copy, died, where in deaths(place, work, steps):
        found, looked = state_of(copy / "decisions.db"), command.look(copy)
        new = found.facts - before.facts
        assert new in command.facts, where
        assert all(events[: len(before.decisions.get(key, ()))] == before.decisions.get(key, ()) for key, events in found.decisions.items())
        assert found.checkpoints - before.checkpoints in range(after.checkpoints - before.checkpoints + 1), where
        if died.acknowledged:
            assert new == command.facts[-1], where
        key = looked if command.facts == (0,) else new
        if key in reached and not command.way_out and not EVERY_STEP:
            continue
        reached.add(key)
        ended = again(copy, words, *command.repeats)
        code, text = command.told.get(key, (None, ""))
        told = re.search(r"^nexus-attest: ([A-Z_]+): ", ended.err, re.MULTILINE)
        assert (ended.code, told and told[1]) == ((0, None) if code is None else (2, code)), (where, ended)
        assert text.format(**words) in ended.err, (where, ended.err)
        for step_out in command.way_out.get(key, ()):
            assert again(copy, words, *step_out).code == 0, where
        state_of(copy / "decisions.db")
        assert command.look(copy) == command.ends or command.ends is None, where
        if (copy / "decisions.db.runs").exists():
            with RunRecords(copy / "decisions.db.runs") as records:
                assert records.runs(status="RUNNING") == [], where
    assert reached >= {*(command.facts if command.facts != (0,) else ()), *command.told}, reached


def test_a_restore_that_replaces_and_is_killed_has_lost_neither_store(place: Path) -> None:
    ahead_of_its_backup(place)
    work = partial(run, ["restore", "copy.db", "--replace", "--json"])
    steps, _ = undisturbed(place, work)
    new, old = state_of(place / "copy.db").facts, state_of(place / "decisions.db").facts
    reached: set[int] = set()
    for copy, died, where in deaths(place, work, steps):
        path = copy / "decisions.db"
        asides = [state_of(aside).facts for aside in copy.glob("decisions.db.*.replaced")]
        if path.exists():
            found = state_of(path).facts
            assert (found, asides) in ((old, []), (new, [old])), where
        else:
            found = 0
            assert asides == [old], where
            for command in (("list",), ("request", "Another")):
                told = again(copy, {}, *command)
                assert told.code == 2, (where, told)
                assert "STORE_MOVED_ASIDE" in told.err, (where, told)
        reached.add(found)
        assert found == new or not died.acknowledged, where
        assert again(copy, {}, "restore", "copy.db", "--replace").code == 0, where
        assert state_of(path).facts == new, where
        assert old in [state_of(aside).facts for aside in copy.glob("decisions.db.*.replaced")], where
    assert reached == {old, 0, new}


# -- on a server --------------------------------------------------------------------------------------------------------------------

_PATIENCE_SECONDS = 120
"""A server notices a moment later that a client died."""


class Copies:
    """A database that is a fresh copy of a prepared one again and again, under one address."""

    def __init__(self, server: PostgresServer, prepared: str) -> None:
        self.server = server
        self.address = server.address("killed_command")
        self._prepared = prepared.partition("@/")[2].partition("?")[0]

    def renew(self) -> None:
        """A fresh copy."""
        self.close()
        self.server.psql(f"CREATE DATABASE killed_command TEMPLATE {self._prepared}")

    def state(self) -> tuple[int, int]:
        """How many facts and checkpoints there are, all verified, once the server has done what dead clients had sent."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.server.psql("SELECT count(*) FROM pg_stat_activity WHERE datname = 'killed_command'") != "0":
            assert time.monotonic() < deadline, "the server did not notice that a client died"
            time.sleep(0.01)
        with PostgresStore(self.address, create=False) as store:
            verified = store.verify_log()
            assert verified.ok, verified.errors
            return store.log_root()[0], len(store.checkpoints())

    def close(self) -> None:
        self.server.psql("DROP DATABASE IF EXISTS killed_command WITH (FORCE)")


NOT_ON_A_SERVER = {
    "request, into a new store": "`db init` makes the tables, see test_killed_moves.py",
    "restore": "of a file",
}
ALIKE = {"the approval that was missing", "execute as a rehearsal"}
"""Sends the messages of another one, and so is for `make faults`."""

ON_A_SERVER = [
    *(name for name, command in COMMANDS.items() if command.facts != (0,) and name not in {*NOT_ON_A_SERVER, *ALIKE}),
    "log checkpoint",
    *(sorted(ALIKE) if EVERY_STEP else ()),
]


@pytest.mark.parametrize("name", ON_A_SERVER)
def test_a_command_that_is_killed_leaves_all_or_nothing_on_a_server(place: Path, postgres_server: PostgresServer, name: str) -> None:
    command = COMMANDS[name]
    words = command.prepare(place)
    prepared = postgres_server.new_database()
    with DecisionStore(place / "decisions.db") as source, PostgresStore(prepared) as store:
        copy_store(source, store)
        before = store.log_root()[0], len(store.checkpoints())
    (place / "decisions.db").unlink()
    reached: set[tuple[int, int]] = set()
    with closing(Copies(postgres_server, prepared)) as database:
        arguments = (*command.repeats, "--db", database.address)
        work = command_line(*arguments)(words)
        with closing(snapshots(place)) as copies:
            copy = next(copies)
            database.renew()
            whole = steps_of(copy, work, environment(copy))
        assert whole.acknowledged, whole
        after = database.state()
        assert after[0] - before[0] == command.facts[-1]
        assert after != before
        for copy, died, where in deaths(place, work, whole.steps, chosen=of_messages(whole.steps), ready=database.renew):
            found = database.state()
            new = found[0] - before[0]
            assert new in command.facts, where
            assert found[1] in (before[1], after[1]), where
            assert found == after or not died.acknowledged, where
            reached.add(found)
            ended = again(copy, words, *arguments)
            code, text = command.told.get(new, (None, ""))
            told = re.search(r"^nexus-attest: ([A-Z_]+): ", ended.err, re.MULTILINE)
            assert (ended.code, told and told[1]) == ((0, None) if code is None else (2, code)), (where, ended)
            assert text.format(**words) in ended.err, (where, ended.err)
            for step_out in command.way_out.get(new, ()):
                assert again(copy, words, *step_out, "--db", database.address).code == 0, where
            command.look(copy)
            assert all(now >= then for now, then in zip(database.state(), after, strict=True)), where
    assert reached >= {before, after}, reached
    assert not EVERY_STEP or {facts - before[0] for facts, _ in reached} == set(command.facts), reached
    postgres_server.drop(prepared)


# -- the library --------------------------------------------------------------------------------------------------------------------


def test_an_enqueuing_that_is_killed_queues_the_intents_together_or_none(place: Path) -> None:
    with AttestationQueue(place / "queue.db") as queue:
        queue.enqueue(intent_number("a"))

    def enqueue() -> Mapping[str, Any]:
        with AttestationQueue("queue.db") as queue:
            return {"ids": queue.enqueue_many(intent_number(digit) for digit in "bcd")}

    work = library(enqueue)
    steps, _ = undisturbed(place, work)
    reached: set[int] = set()
    for copy, died, where in deaths(place, work, steps):
        with AttestationQueue(copy / "queue.db") as queue:
            found = queue.next_pending(100)
            reached.add(len(found))
            assert len(found) == 4 or (len(found) == 1 and not died.acknowledged), where
            assert len({queue.enqueue(intent_number(digit)) for digit in "abcd"}) == len(queue.next_pending(100)) == 4
    assert reached == {1, 4}


class LedgerInAFile(Ledger):
    """Each submission is a line in a file, before the answer is given. Only what was submitted is found."""

    async def submit(self, signed_tx_blob_hex: str) -> SubmitResult:
        with Path("submitted").open("a") as file:
            file.write("submitted\n")
        return await super().submit(signed_tx_blob_hex)

    async def get_tx(self, tx_hash: str) -> TxStatusResult:
        return await super().get_tx(tx_hash) if lines_of(Path("submitted")) else TxStatusResult(found=False)


def test_a_cycle_of_witnessing_that_is_killed_is_finished_by_the_next_worker_with_one_transaction(place: Path) -> None:
    clock = SetClock()
    with AttestationQueue(place / "queue.db", clock=clock) as queue:
        queue_id = queue.enqueue(intent_number("a"))

    def cycle(moment: SetClock, resubmit: bool = False) -> Mapping[str, Any]:
        with AttestationQueue("queue.db", clock=moment) as queue:
            result = asyncio.run(process_one_xrpl(queue, LedgerInAFile(), Signer(), now_fn=lambda: NOON, resubmit=resubmit))
        return {"receipts": [receipt.status.value for receipt in result.receipts]}

    work = library(partial(cycle, clock))
    steps, _ = undisturbed(place, work)
    reached: set[tuple[bool, str]] = set()
    for copy, died, where in deaths(place, work, steps):
        with AttestationQueue(copy / "queue.db", clock=clock) as queue:
            status, receipts = queue.get_status(queue_id), [receipt.status.value for receipt in queue.replay(queue_id)]
        assert status is not None
        assert (status["status"], receipts) in (("PENDING", []), ("SUBMITTED", ["SUBMITTED"]), ("CONFIRMED", ["SUBMITTED", "CONFIRMED"]))
        sent = bool(lines_of(copy / "submitted"))
        if died.acknowledged:
            assert status["status"] == "CONFIRMED", where
        late = SetClock(clock.now + timedelta(minutes=6))  # when the claim of the dead worker has ended
        for resubmit in (False, True):  # what was noted and never sent is sent when somebody says so
            assert in_process(copy, library(partial(cycle, late, resubmit)), environment(copy)).acknowledged
            with AttestationQueue(copy / "queue.db", clock=clock) as queue:
                ended = queue.get_status(queue_id)
            assert ended is not None
            assert len(lines_of(copy / "submitted")) == (ended["status"] == "CONFIRMED"), where
            assert ended["status"] == "CONFIRMED" or not (sent or resubmit), where
            reached.add((sent, ended["status"]))
    assert reached == {(False, "DEFERRED"), (False, "CONFIRMED"), (True, "CONFIRMED")}


def test_a_deletion_that_is_killed_leaves_the_decision_or_its_tombstone(place: Path) -> None:
    words = approved(place)

    def delete() -> Mapping[str, Any]:
        with DecisionStore("decisions.db") as store:
            return {"deleted": store.delete_decision(words["id"])}

    work = library(delete)
    steps, _ = undisturbed(place, work)
    before = state_of(place / "decisions.db")
    reached: set[int] = set()
    for copy, died, where in deaths(place, work, steps):
        found = state_of(copy / "decisions.db")
        reached.add(found.facts - before.facts)
        assert (words["id"] in found.decisions) == (found.facts == before.facts), where
        assert found.facts == before.facts + 1 or not died.acknowledged, where
        with DecisionStore(copy / "decisions.db") as store:
            assert [event.event_type for event in store.get_events(words["id"], generation=1)] == list(before.decisions[words["id"]])
    assert reached == {0, 1}


def test_an_exchange_that_is_killed_while_it_is_kept_has_whole_bodies_or_none(place: Path) -> None:
    bodies = {f"sha256:{sha256_digest(body)}": body for body in (b'{"a": 1}' * 10_000, b'{"b": 2}' * 10_000)}
    request, response = bodies
    record = ExchangeRecord(request, response, NOON)

    def keep() -> Mapping[str, Any]:
        with ExchangeStore("exchanges.db", "bodies") as store:
            return {"digest": store.put(record, request_body=bodies[request], response_body=bodies[response])}

    work = library(keep)
    steps, _ = undisturbed(place, work)
    reached: set[tuple[bool, ...]] = set()
    for copy, died, where in deaths(place, work, steps):
        with ExchangeStore(copy / "exchanges.db", copy / "bodies") as store:
            found = (*(store.body_exists(digest) for digest in bodies), store.count() == 1)
            reached.add(found)
            assert all(store.verify_body(digest) for digest in bodies if store.body_exists(digest)), where
            assert all(found) or not (died.acknowledged or found[-1]), where
            store.put(record, request_body=bodies[request], response_body=bodies[response])
            assert (*(store.verify_body(digest) for digest in bodies), store.count()) == (True, True, 1), where
    assert len(reached) == 4
