"""Nonsense in every file that is read.

Each kind of file is made once as it should be, then damaged in generated ways: byte by byte, member by member, in encoding, size, depth and
numbers. Whatever comes: one named error or an answer, no traceback, nothing written by what was refused, and nothing on the terminal
that a file or an argument put there to control it.
"""

import ast
import json
import random
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from cli_testing import ROOT
from malformed_testing import ENGINE, EVERY_COMMAND, EVERY_STEP, Desk, ask, damaged, desk, files_in, require_clean

from nexus_attest.cli import app as app_module
from nexus_control.store import DecisionStore

DAMAGES = 400 if EVERY_STEP else 15
"""Of each kind of file."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(tmp_path_factory.mktemp("desk")) as found:
        yield found


Reader = tuple[str, ...]

TOKENS = ("serve", "--http", "127.0.0.1:0", "--issuer", "https://issuer.example", "--audience", "http://127.0.0.1/mcp")
PROVE = ("proof", "verify", "--publisher", "{publisher}", "--account", "{account}")

READERS: dict[str, tuple[str, tuple[Reader, ...]]] = {
    "bundle": (
        "bundle.json",
        (
            (ENGINE, "verify", "damaged"),
            ("verify", "damaged"),
            ("bundle", "import", "damaged", "--conflict", "new_decision_id"),
            ("bundle", "import", "damaged", "--conflict", "new_decision_id", "--no-verify-digest"),
            ("bundle", "import", "damaged", "--conflict", "new_decision_id", "--no-verify-digest", "--no-replay"),
        ),
    ),
    "audit package": (
        "package.json",
        (
            (ENGINE, "verify", "damaged"),
            ("verify", "damaged"),
            ("verify", "damaged", "--strict", "--trust", "trust.toml"),
            ("attest", "sign", "damaged", "--claim", "seen", "--key", "alice", "--attestor", "bot", "-o", "-"),
            ("attest", "verify", "attestation.json", "--package", "damaged", "--trust", "trust.toml"),
            ("witness", "enqueue", "damaged"),
            (*PROVE, "proof.json", "--package", "damaged"),
        ),
    ),
    "audit package with the record of its run": ("run-package.json", (("verify", "damaged"), ("verify", "damaged", "--strict"))),
    "case file": (
        "case.json",
        (
            (ENGINE, "verify", "damaged"),
            ("verify", "damaged"),
            ("verify", "damaged", "--trust", "trust.toml", "--checkpoint", "checkpoint.txt"),
            ("witness", "enqueue", "damaged"),
        ),
    ),
    "case file with an attestation": ("attested.json", (("verify", "damaged", "--trust", "trust.toml"),)),
    "sealed case file": ("sealed.json", (("verify", "damaged", "--trust", "trust.toml"),)),
    "attestation": (
        "attestation.json",
        (
            ("attest", "verify", "damaged", "--trust", "trust.toml"),
            ("case", "export", "{id}", "--attestation", "damaged", "-o", "-"),
            ("witness", "enqueue", "package.json", "--attestation", "damaged"),
        ),
    ),
    "envelope": (
        "envelope.json",
        (
            ("approve", "{open}", "--envelope", "damaged", "--trust", "trust.toml"),
            ("revoke", "{open}", "--envelope", "damaged", "--trust", "trust.toml"),
            ("request", "Rotate", "--envelope", "damaged", "--trust", "trust.toml"),
            ("execute", "{open}", "subprocess:tool", "--adapters", "adapters.toml", "--envelope", "damaged", "--trust", "trust.toml"),
        ),
    ),
    "bundle to be signed": (
        "open.json",
        (
            ("sign", "approve", "damaged", "--key", "alice", "--actor", "alice", "-o", "-"),
            ("sign", "revoke", "damaged", "--key", "alice", "--actor", "alice", "-o", "-"),
        ),
    ),
    "narrative": (
        "narrative.json",
        (("narrative", "verify", "damaged"), ("narrative", "show", "damaged"), ("narrative", "diff", "damaged", "1", "2")),
    ),
    "checkpoint": (
        "checkpoint.txt",
        (
            ("log", "verify", "--checkpoint", "damaged"),
            ("log", "consistency", "damaged"),
            ("log", "consistency", "checkpoint.txt", "damaged"),
            ("verify", "case.json", "--checkpoint", "damaged"),
            (ENGINE, "verify", "case.json", "--checkpoint", "damaged"),
            ("case", "export", "{id}", "--since", "damaged", "-o", "-"),
        ),
    ),
    "trust policy": (
        "trust.toml",
        (("trust", "check", "damaged"), ("status", "{id}", "--trust", "damaged"), (*PROVE, "proof.json", "--trust", "damaged")),
    ),
    "adapter file": (
        "adapters.toml",
        (
            ("adapters", "list", "damaged"),
            ("adapters", "check", "damaged", "--file-only"),
            ("adapters", "survey", "damaged", "subprocess:tool"),
            ("execute", "{open}", "subprocess:tool", "--adapters", "damaged"),
            ("serve", "--adapters", "damaged"),
        ),
    ),
    "key file": (
        "keys/alice.key",
        (
            ("keys", "show", "./damaged"),
            ("sign", "approve", "open.json", "--key", "./damaged", "-o", "-"),
            ("case", "export", "{id}", "--in-toto", "--sign", "./damaged", "-o", "-"),
            ("case", "export", "{id}", "--log-key", "./damaged", "--origin", "example.org/log", "-o", "-"),
        ),
    ),
    "configuration": ("config.toml", (("list",), ("execute", "{open}", "nothing"))),
    "plan": ("plan.json", (("request", "Rotate", "--mode", "apply", "--plan", "@damaged"),)),
    "list of digests": ("digests.txt", (("witness", "enqueue", "--digests", "damaged"),)),
    # No signer of the file is here, and nothing waits in the empty store: no server is asked.
    "witness file": (
        "witness.toml",
        (("witness", "run", "--witness", "damaged"), ("witness", "run", "--witness", "damaged", "--network", "private")),
    ),
    "witness file with an authority": (
        "authority-certificate.pem.toml",
        (("witness", "run", "--witness", "damaged", "--backend", "tsa", "--drain", "--db", "empty.db"),),
    ),
    "certificate of an authority": (
        "certificate.pem",
        (("witness", "run", "--witness", "authority-damaged.toml", "--backend", "tsa", "--drain", "--db", "empty.db"),),
    ),
    "seed of an account": (
        "seed",
        (("witness", "run", "--witness", "seed.toml", "--network", "local", "--drain", "--for", "0", "--db", "empty.db"),),
    ),
    "witness proof": ("proof.json", ((*PROVE, "damaged"), ("case", "export", "{id}", "--witness", "damaged", "-o", "-"))),
    "proof of a ledger transaction": ("xpop.json", ((*PROVE, "damaged"),)),
    "key set of an issuer": ("keys.jwks", ((*TOKENS, "--jwks", "damaged"),)),
    "store": (
        "store.db",
        (
            ("list", "--db", "damaged"),
            ("status", "{id}", "--db", "damaged"),
            ("log", "verify", "--db", "damaged"),
            ("witness", "status", "--db", "damaged"),
            ("doctor", "--db", "damaged"),
            ("backup", "copy.db", "--db", "damaged"),
            ("backup", "copy.db", "--db", "damaged", "--keep-unsound"),
            ("migrate", "damaged", "moved.db"),
            ("serve", "--read-only", "--db", "damaged"),
        ),
    ),
    "backup": ("store.db", (("restore", "damaged", "--db", "restored.db"),)),
    "run records": (
        "decisions.db.runs",
        (
            ("runs", "list", "--runs", "damaged"),
            ("runs", "show", "{run}", "--runs", "damaged"),
            ("runs", "export", "{run}", "--runs", "damaged", "-o", "-"),
            ("audit", "export", "{run_id}", "--embed", "--runs", "damaged", "-o", "-"),
            ("doctor", "--runs", "damaged", "--db", "store.db"),
            ("backup", "copy.db", "--runs", "damaged", "--db", "store.db"),
        ),
    ),
    "exchange store": (
        "exchanges.db",
        (("narrative", "show", "{queued}", "--exchanges", "damaged"), ("narrative", "verify", "{queued}", "--exchanges", "damaged")),
    ),
}
"""Each kind of file by the one that is right, and the commands that read it; `damaged` is where its damaged copies are."""

DATABASES = {"store", "backup", "run records", "exchange store"}
"""A database that cannot do its work is exit code 1, as a disk is; `doctor` ends with it when it found something."""


STAYS = {"migrate": {"moved.db"}, "backup": {"copy.db"}}
"""What a refused command leaves: what was copied until then, with which `migrate` goes on, and a sound store without its damaged runs."""

DATABASE_REFUSED = "STORE_|SCHEMA_MISSING|IO_ERROR|ATTENTION_NEEDED|needs? attention"
"""What exit code 1 comes with, where it is no bug."""

SAME_EVERYWHERE = {
    **dict.fromkeys(("db", "trust", "runs"), "opened by the session of every command"),
    **dict.fromkeys(("adapters", "envelope", "sign", "key", "log_key"), "read by one function for every command"),
}
"""Parameters by whose name one command that is swept stands for all."""

NOT_READ = {
    ("backup", "file"): "written, never over what is there",
    ("migrate", "target"): "the store of another `--db`",
    ("proof", "export", "witness"): "read as by `witness run`, and its servers are asked at once: test_cli_proofs.py",
    ("proof", "verify", "publisher"): "text",
}


def test_every_parameter_that_names_a_file_to_read_is_swept(made: Desk) -> None:
    swept = set[tuple[str, ...]]()
    for reader in [made.words(reader) for _, readers in READERS.values() for reader in readers]:
        if reader[0] == ENGINE:
            continue
        command: Any = app_module.app  # which the desk made a command
        path: list[str] = []
        while hasattr(command, "commands"):
            path.append(reader[len(path)])
            command = command.commands[path[-1]]
        for name, value in command.make_context("x", reader[len(path) :]).params.items():
            if "damaged" in str(value):
                swept |= {(*path, name), (name,)}
    missing = {
        (*path, parameter.name)
        for path, parameters in EVERY_COMMAND.items()
        for parameter in parameters
        if re.search(r"\b(FILE|OLD|NEW|SOURCE|TARGET|KEY(?!=))\b", parameter.metavar or "")
        and parameter.name not in ("output", "force")
        and ((parameter.name,) if parameter.name in SAME_EVERYWHERE else (*path, parameter.name)) not in swept
    }
    assert sorted(missing ^ set(NOT_READ)) == []


READ_ELSEWHERE = {
    "nexus_attest/attestation/xrpl/exchange_store.py": "bodies, which may be any bytes: test_attestation_narrative.py",
    "nexus_attest/cli/files.py": "called by others",
    "nexus_attest/cli/keyregistry/server.py": "of the demonstration",
    "nexus_attest/cli/keyrotate/keytool.py": "of the demonstration",
    "nexus_attest/cli/sequel.py": "of the demonstration",
    "nexus_attest/cli/stage.py": "of the demonstration",
    "nexus_attest/cli/story.py": "of the demonstration",
    "nexus_attest/cli/testimony.py": "of the demonstration",
    "nexus_attest/routers/bridge.py": "its own: test_router_bridge.py",
    "nexus_attest/routers/credentials.py": "a secret, which may be any text: test_router_credentials.py",
    "nexus_attest/server/schemas.py": "of the package",
    "nexus_attest/server/task_folder.py": "its own: test_mcp_task_folder.py",
    "nexus_attest/testledger/results.py": "of the package xrpl-py",
}
READ_HERE = {
    "nexus_attest/attestation/narrative/_load.py": "narrative",
    "nexus_attest/attestation/witness_file.py": "witness file",
    "nexus_attest/attestation/xrpl/ledger_keys.py": "seed of an account",
    "nexus_attest/cli/attestations.py": "attestation",
    "nexus_attest/cli/bundles.py": "bundle",
    "nexus_attest/cli/cases.py": "attestation",
    "nexus_attest/cli/checkpoints.py": "checkpoint",
    "nexus_attest/cli/decisions.py": "plan",
    "nexus_attest/cli/narratives.py": "narrative",
    "nexus_attest/cli/proofs.py": "witness proof",
    "nexus_attest/cli/settings.py": "configuration",
    "nexus_attest/cli/sign.py": "bundle to be signed",
    "nexus_attest/cli/signing.py": "envelope",
    "nexus_attest/cli/verify.py": "case file",
    "nexus_attest/cli/witness.py": "list of digests",
    "nexus_attest/keys.py": "key file",
    "nexus_attest/routers/adapters_file.py": "adapter file",
    "nexus_attest/server/tokens.py": "key set of an issuer",
    "nexus_attest/trust_file.py": "trust policy",
    "nexus_control/__main__.py": "audit package",
}


def test_every_module_that_reads_a_file_is_swept_or_says_where_it_is_tested() -> None:
    calls = {"read_file", "read_text", "read_bytes", "private_content"}
    found = set[str]()
    for path in [*ROOT.glob("nexus_attest/**/*.py"), *ROOT.glob("nexus_control/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        if not any(name in text for name in calls):
            continue
        nodes = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        if any((node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")) in calls for node in nodes):
            found.add(path.relative_to(ROOT).as_posix())
    assert found == {*READ_HERE, *READ_ELSEWHERE}
    assert set(READ_HERE.values()) <= set(READERS)


@pytest.mark.parametrize("which", READERS)
def test_a_damaged_file_is_answered_or_refused_by_name(made: Desk, which: str) -> None:
    name, readers = READERS[which]
    content, path = (made.folder / name).read_bytes(), made.folder / "damaged"
    configuration = made.folder / "config" / "nexus-attest" / "config.toml"
    if which == "configuration":
        path = configuration
    source = random.Random(which)
    answers = set[int]()
    codes = (0, 1, 2) if which in DATABASES else (0, 2)
    try:
        for number in range(DAMAGES // 3 if which in DATABASES else DAMAGES):
            content_now = damaged(content, source)
            for turn, reader in enumerate(readers, number):
                words = made.words(reader)
                for arguments in (words, [*words, "--json"]) if EVERY_STEP else ([*words, *(["--json"] if turn % 2 else [])],):
                    path.unlink(missing_ok=True)  # for each a file of its own, whatever this process still has open
                    path.write_bytes(content_now)
                    path.chmod(0o600)
                    before, files = made.rows(), files_in(made.folder)
                    told = ask(*arguments)
                    require_clean(told, (which, number, arguments), codes=codes)
                    assert told.code != 1 or re.search(DATABASE_REFUSED, told.err + told.out), (which, number, arguments, told)
                    if arguments[-1] == "--json" and "serve" not in arguments and not (ENGINE in arguments and told.err):
                        assert type(json.loads(told.out)) is dict, (which, number, reader)
                    answers.add(told.code)
                    written = files_in(made.folder) - files
                    if told.code:
                        assert made.rows() == before, (which, number, reader)
                        assert {file.name for file in written} <= STAYS.get(words[0], set()), (which, number, reader, told)
                        assert told.err or told.out, (which, number, reader)
                    for extra in (path, *written):
                        for suffix in ("", "-wal", "-shm", "-journal") if not extra.is_dir() else ():
                            extra.with_name(extra.name + suffix).unlink(missing_ok=True)
                        shutil.rmtree(extra, ignore_errors=True)
    finally:
        path.unlink(missing_ok=True)
    assert answers & {1, 2}


def test_what_was_imported_with_its_checks_switched_off_hides_no_other_decision(made: Desk) -> None:
    listed = ask("list", "--limit", "100000", "--json")
    found = {entry["request_id"]: entry["state"] for entry in json.loads(listed.out)["requests"]}
    assert (found[made.id], found[made.open_id]) == ("completed", "pending_approval")
    with DecisionStore(made.folder / "decisions.db") as store:
        assert store.verify_log(made.id).ok
        assert store.verify_log(made.open_id).ok
