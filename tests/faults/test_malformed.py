"""Nonsense in every file that is read, in every argument of the command line, and in every text that is shown.

Each kind of file is made once as it should be, then damaged in generated ways: byte by byte, member by member, in encoding, size, depth and
numbers. Whatever comes: one named error or an answer, no traceback, nothing written by what was refused, and nothing on the terminal
that a file or an argument put there to control it.
"""

import ast
import base64
import io
import json
import os
import random
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from cli_testing import ROOT
from mcp_testing import connected, events_of
from proof_testing import Capture, bare
from store_testing import CAROL
from tsa_testing import certified
from typer.main import get_command

from nexus_attest.attestation import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptError, ReceiptStatus
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_attest.attestation.xrpl.transport import ExchangeRecord
from nexus_attest.cli import app as app_module
from nexus_attest.cli import serving
from nexus_attest.cli.app import run
from nexus_attest.keys import new_key
from nexus_attest.server.results import ERROR_KEY
from nexus_attest.testledger import seed_of
from nexus_control.__main__ import main as engine
from nexus_control.decision import Decision
from nexus_control.events import Actor, EventType
from nexus_control.integrity import PREFIX
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else a small part of the damage; `make faults` does all of it."""

DAMAGES = 400 if EVERY_STEP else 15
"""Of each kind of file."""

CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""What must not reach a terminal."""

HOSTILE = "\x1b]0;t\x07\x1b[31mred\r\nFAKE \u202egnp \x9b1m <script>alert(1)</script> [l](javascript:x) `x` | '; DROP TABLE log; -- ../../x"

ENGINE = "nexus_control"

DEEP = 100_000

PAGE = 4096
"""Of SQLite."""

VALUES: list[Any] = [
    *(None, True, 0, -1, 2**63, 10**400, 1.5, 1e308, "", "x", HOSTILE, "\ud800", "\x00", "x" * 100_000, "../../no/such/file"),
    *("9999-99-99T99:99:99+00:00", "2025-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "sha256:" + "g" * 64, "sha256:" + "0" * 63),
    *([], {}, [None], [[]], {"": None}, {"type": "human", "id": "mallory"}, ["x"] * 10_000, {"a": {"a": {"a": {}}}}),
]

TEXTS: list[bytes] = [
    *(b"", b" ", b"\x00", b"null", b"0", b'""', b"[]", b"{}", b"[" * DEEP, b'{"a":' * DEEP, b"[[table]]\n" * 1000, b"\xff\xfe{\x00}\x00"),
    *(
        b"\xef\xbb\xbf{}",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b'{"a": 1, "a": 2}',
        b'"\\ud800"',
        b"\n" * 100_000,
        b"{" + b"\x80" * 100,
    ),
    *(b"a = 1\na = 2\n", b"a" * 1_000_000, b'= "', b"\x1b[31m", b"\r\n\r\n", b"[a]\n[a]\n"),
]


def damaged(content: bytes, source: random.Random) -> bytes:
    """The content with one thing wrong with it; a database is damaged page by page, or it would seldom be noticed."""
    way = source.randrange(6)
    if content.startswith(b"SQLite format 3"):
        way = source.randrange(5)
        if way == 4:
            at = source.randrange(len(content) // PAGE) * PAGE + source.randrange(64)
            return content[:at] + source.randbytes(16) + content[at + 16 :]
    if way == 0:
        return source.choice(TEXTS)
    if way == 1:
        return content[: source.randrange(len(content))]
    if way == 2:
        at = source.randrange(len(content))
        return content[:at] + bytes([source.randrange(256)]) + content[at + 1 :]
    if way == 3:
        start, end = sorted(source.sample(range(len(content)), 2))
        return content[:start] + content[end:]
    try:
        document: Any = json.loads(content)
    except ValueError:  # TOML, or a note: a value of one of its lines
        lines = content.decode().split("\n")
        at = source.randrange(len(lines))
        name = lines[at].partition("=")[0]
        lines[at] = (
            f"{name}= {source.choice(['[]', '{}', '-1', '1e999', 'nan', 'true', '1979-05-27', json.dumps('x' * 9999), repr(HOSTILE)])}"
        )
        return "\n".join(lines).encode()
    place, key = source.choice(list(places(document)))
    change = source.randrange(4)
    if change == 0 and isinstance(place, dict):
        del place[key]
    elif change == 1 and isinstance(place, dict):
        cast("dict[str, Any]", place)[HOSTILE] = source.choice(VALUES)
    else:
        place[key] = source.choice(VALUES)
    return json.dumps(document).encode()


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every object and list of a document with each of its keys or numbers."""
    if isinstance(value, dict):
        pairs: list[tuple[Any, Any]] = list(cast("dict[Any, Any]", value).items())
    elif isinstance(value, list):
        pairs = list(enumerate(cast("list[Any]", value)))
    else:
        return
    for key, member in pairs:
        yield value, key
        yield from places(member)


# -- a desk with everything on it ---------------------------------------------------------------------------------------------------


class Router:
    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}


@dataclass
class Desk:
    folder: Path
    id: str
    open_id: str
    run_id: str = ""
    run: str = ""
    queued: str = ""
    publisher: str = ""
    account: str = ""

    def words(self, arguments: tuple[str, ...]) -> list[str]:
        names = {"id": self.id, "open": self.open_id, "run_id": self.run_id, "run": self.run, "queued": self.queued}
        return [argument.format(**names, publisher=self.publisher, account=self.account) for argument in arguments]

    def rows(self) -> dict[str, int]:
        """How many rows each table of the store has: the log, the templates, the queue of the witness."""
        with closing(sqlite3.connect(self.folder / "decisions.db")) as raw:
            names = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {name: raw.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}


def files_in(folder: Path) -> set[Path]:
    """What is there, but for what SQLite keeps beside a file that was opened."""
    return {path for path in folder.rglob("*") if not path.name.endswith(("-wal", "-shm", "-journal"))}


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str


def ask(*arguments: str) -> Told:
    """One command line, in this process: of nexus-attest, or of the engine where it is the first word."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = engine(arguments[1:]) if arguments[0] == ENGINE else run(arguments)
    return Told(code, out.getvalue(), err.getvalue())


def require_clean(told: Told, where: object, *, codes: tuple[int, ...] = (0, 2)) -> None:
    """An answer or a named error, and nothing that controls a terminal."""
    assert told.code in codes, (where, told)
    for text in (told.out, told.err):
        assert "Traceback" not in text, (where, told)
        assert "INTERNAL" not in text, (where, told)
        found = CONTROLS.search(text)
        assert found is None, (where, found, told)
    assert told.code == 0 or len(told.err) < 20_000, (where, len(told.err))


EXCHANGE = ExchangeRecord("sha256:" + "1" * 64, "sha256:" + "2" * 64, "2025-01-01T00:00:00+00:00")
PUBLIC = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")


def taken(_service: object, _serve: object, _log: object, close: Callable[[], None]) -> None:
    """In place of serving: the options and files were taken."""
    close()


def unchanged(_log: object, _level: str) -> None:
    """In place of taking over what this process logs."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    folder.chmod(0o700)
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module, "app", get_command(app_module.app))
        patch.setattr(serving, "run_until_signal", taken)
        patch.setattr(serving.StderrLog, "install", unchanged)
        for name in ("NO_COLOR", "FORCE_COLOR", "XDG_DATA_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("NEXUS_ATTEST_DB", str(folder / "decisions.db"))
        patch.setenv("NEXUS_ATTEST_KEYS", str(folder / "keys"))
        patch.setenv("NEXUS_ATTEST_ACTOR", "alice")
        patch.setenv("COLUMNS", "100")
        yield prepared(folder)
    os.chdir(before)


def prepared(folder: Path) -> Desk:
    (folder / "keys").mkdir(mode=0o700)
    (folder / "config" / "nexus-attest").mkdir(parents=True)
    for name in ("log", "alice"):
        new_key(folder / "keys", name)
    (folder / "adapters.toml").write_text(
        '[[adapters]]\nid = "subprocess:tool"\nkind = "subprocess"\ncommand = ["/bin/true"]\nallow = ["t/m"]\ntimeout_s = 60\n'
    )
    (folder / "run.toml").write_text((folder / "adapters.toml").read_text().replace('"/bin/true"', """"/bin/sh", "-c", "echo '{}'\""""))
    (folder / "config.toml").write_text('actor = "alice"\nadapters = "adapters.toml"\n')
    with DecisionStore(folder / "decisions.db") as store:
        tools = NexusControlTools(store)
        name, other = (tools.request("Rotate", CAROL, mode="apply", labels=["prod"]).data["request_id"] for _ in range(2))
        assert tools.approve(name, CAROL, comment="checked", expires_at="2999-01-01T00:00:00+00:00").success
        assert tools.execute(name, "ad", CAROL, Router()).success
        run_id = tools.request("Rotate", CAROL, mode="apply", plan='[{"tool": "t", "method": "m"}]').data["request_id"]
        assert tools.approve(run_id, CAROL).success
    desk = Desk(folder, name, other, run_id)
    executed = ask("execute", run_id, "subprocess:tool", "--adapters", "run.toml", "--json")
    assert executed.code == 0, executed
    desk.run = json.loads(ask("runs", "list", "--json").out)["runs"][0]["run_id"]
    key = json.loads(ask("keys", "show", "alice", "--actor", "alice", "--json").out)
    log = json.loads(ask("keys", "show", "log", "--log", "example.org/log", "--json").out)
    attestor = f'[[attestors]]\nid = "bot"\nkey_id = "{key["key_id"]}"\npublic_key = "{key["public_key"]}"\n'
    (folder / "trust.toml").write_text(f'version = 1\n{key["trust"]}\n[[log_keys]]\nkey = "{log["verifier_key"]}"\n{attestor}')
    for arguments in (
        ("bundle", "export", "{id}", "-o", "bundle.json"),
        ("audit", "export", "{id}", "-o", "package.json"),
        ("log", "checkpoint", "--key", "log", "--origin", "example.org/log", "-o", "checkpoint.txt"),
        ("case", "export", "{id}", "-o", "case.json"),
        ("attest", "sign", "package.json", "--claim", "seen", "--key", "alice", "--attestor", "bot", "-o", "attestation.json"),
        ("bundle", "export", "{open}", "-o", "open.json"),
        ("sign", "approve", "open.json", "--key", "alice", "--actor", "alice", "-o", "envelope.json"),
        ("audit", "export", "{run_id}", "--embed", "-o", "run-package.json"),
        ("case", "export", "{id}", "--attestation", "attestation.json", "-o", "attested.json"),
        ("case", "export", "{id}", "--in-toto", "--sign", "alice", "-o", "sealed.json"),
        ("witness", "init"),
    ):
        told = ask(*desk.words(arguments))
        assert told.code == 0, (arguments, told)
    with AttestationQueue(folder / "decisions.db") as queue:
        binding = json.loads((folder / "package.json").read_text())["integrity"]["binding_digest"]
        assert binding.startswith(PREFIX)
        queue_id = queue.enqueue(AttestationIntent("nexus.audit_package", binding))
        evidence = {"xrpl.submit.exchange": EXCHANGE.content_digest()}
        refused = ReceiptError("REJECTED", "no")
        queue.record_receipt(AttestationReceipt(queue_id, "xrpl", 1, ReceiptStatus.FAILED, EXCHANGE.timestamp, evidence, error=refused))
    told = ask("narrative", "show", queue_id, "-o", "narrative.json")
    assert told.code == 0, told
    desk.queued = queue_id
    with ExchangeStore(folder / "exchanges.db", folder / "bodies") as exchanges:
        exchanges.put(EXCHANGE, request_body=b"question", response_body=b"answer")
    DecisionStore(folder / "empty.db").close()
    (folder / "digests.txt").write_text("".join(f"sha256:{number:064x}\n" for number in range(9)))
    (folder / "plan.json").write_text('[{"tool": "t", "method": "m", "args": {"key": "schl\u00fcssel"}}]', encoding="utf-8")
    (folder / "certificate.pem").write_bytes(certified("local", ca=True).pem)
    for name in ("certificate.pem", "damaged"):
        text = f'[authorities.local]\nurl = "http://127.0.0.1:9/"\ncertificates = ["{name}"]\n'
        (folder / f"authority-{name}.toml").write_text(text)
    (folder / "seed").write_text(seed_of("nobody"))
    (folder / "seed.toml").write_text('[networks.local]\nnetwork_id = 9\nurls = ["http://127.0.0.1:9"]\nsigner = "file:damaged"\n')
    capture = Capture()
    (folder / "proof.json").write_text(json.dumps(capture.run(1)[0]))
    (folder / "xpop.json").write_text(json.dumps(bare(capture.world)))
    desk.publisher, desk.account = capture.world.ledger.validators.pin, capture.world.account
    capture.world.queue.close()
    (folder / "keys.jwks").write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": PUBLIC}]}))
    return desk


# -- files --------------------------------------------------------------------------------------------------------------------------

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
        "decisions.db",
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
    "backup": ("decisions.db", (("restore", "damaged", "--db", "restored.db"),)),
    "run records": (
        "decisions.db.runs",
        (
            ("runs", "list", "--runs", "damaged"),
            ("runs", "show", "{run}", "--runs", "damaged"),
            ("runs", "export", "{run}", "--runs", "damaged", "-o", "-"),
            ("audit", "export", "{run_id}", "--embed", "--runs", "damaged", "-o", "-"),
            ("doctor", "--runs", "damaged"),
            ("backup", "copy.db", "--runs", "damaged"),
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


# -- words on the command line ------------------------------------------------------------------------------------------------------

WORDS = [
    HOSTILE.replace("\x00", ""),
    "",
    "-",
    "--",
    "x" * 5_000,
    "0",
    "-1",
    "9" * 400,
    "9" * 5_000,
    "127.0.0.1:" + "9" * 5_000,
    "1e999",
    "nan",
    "../../no/such/x",
    "a\udcffb",
    "'; --",
]
NOT_ASKED = {"demo"}
"""It takes seconds whenever its folder can be made: test_demo.py plays it in a folder with a hostile name, and below is what it refuses."""


def every_command() -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))
            else:
                yield (*path, name), command.whole().params

    yield from walk(get_command(app_module.app), ())


EVERY_COMMAND = dict(every_command())
COMMANDS = [path for path in EVERY_COMMAND if path[0] not in NOT_ASKED]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nonsense_in_any_word_of_a_command_is_answered_or_refused(
    made: Desk, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "b"  # so that ../../ is still of this test
    folder.mkdir(parents=True)
    shutil.copy(made.folder / "decisions.db", folder / "decisions.db")
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(folder / "decisions.db"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    parameters = [parameter for parameter in EVERY_COMMAND[command] if parameter.name not in ("help", "as_json", "debug", "asked")]
    arguments = [parameter for parameter in parameters if parameter.param_type_name == "argument"]
    options = [parameter for parameter in parameters if parameter.param_type_name == "option"]
    source = random.Random(" ".join(command))
    asked: list[tuple[list[str], list[str]]] = []
    for _ in range(60 if EVERY_STEP else 8):
        known = [*WORDS, made.open_id, "decisions.db"]
        words = [source.choice(known) for argument in arguments if argument.required or source.random() < 0.5]
        given: list[str] = []
        for option in source.sample(options, min(len(options), source.randrange(4))):
            given += [option.opts[0]] if option.is_flag else [option.opts[0], source.choice(WORDS)]
        asked.append((given, words))
    for option in options:  # each by itself, beside words that are as good as they can be here
        good = [made.open_id for argument in arguments if argument.required]
        for word in [] if option.is_flag else WORDS if EVERY_STEP else source.sample(WORDS, 2):
            asked.append(([option.opts[0], word], good))
    for number, (given, words) in enumerate(asked):
        before = files_in(tmp_path)
        told = ask(*command, *given, *(["--json"] if number % 2 else []), "--", *words)
        require_clean(told, (command, given, words), codes=(0, 1, 2))
        # A store that the command may make is made before the rest is looked at; then nothing is in it.
        for path in files_in(tmp_path) - before if told.code else ():
            with DecisionStore(path) as store:
                assert store.log_root()[0] == 0, (command, given, words, path)
        # `doctor` names what came in with damaged bundles whose checks were switched off.
        assert told.code != 1 or re.search("STORE_|IO_ERROR|needs? attention", told.err + told.out), (command, given, words, told)


def test_a_demonstration_in_a_place_that_is_no_folder_for_it_writes_nothing(
    made: Desk,  # noqa: ARG001 - the environment
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "decisions.db").write_text("mine")
    before = files_in(tmp_path)
    for word, code in {"file": 2, "dangling": 2, "full": 2, "": 2, "file/x": 1, "x" * 5_000: 1}.items():
        for given in ([], ["--json"]):
            told = ask("demo", "--dir", word, *given)
            require_clean(told, word, codes=(code,))
            assert code == 2 or "IO_ERROR" in told.err + told.out, told
            assert files_in(tmp_path) == before, word
    assert (tmp_path / "full" / "decisions.db").read_text() == "mine"


# -- tools of the MCP server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


ACTOR = {"type": "human", "id": "alice"}


@pytest.mark.anyio
@pytest.mark.parametrize(("connection", "values"), [("memory-stateless", 3), ("stdio-handshake", 1)])
async def test_nonsense_in_any_argument_of_an_mcp_tool_is_answered_or_refused_by_name(tmp_path: Path, connection: str, values: int) -> None:
    source = random.Random("mcp")
    codes = set[str]()
    async with connected(connection, tmp_path) as client:
        known = (await client.call_tool("nexus-attest.request", {"goal": "g", "actor": ACTOR})).structured_content
        assert known is not None
        valid: dict[str, Any] = {"goal": "g", "actor": ACTOR, "name": "t", "adapter_id": "subprocess:tool", "bundle": {}}
        for tool in (await client.list_tools()).tools:
            members: dict[str, Any] = tool.input_schema["properties"]
            for member in [*members, HOSTILE]:
                for value in VALUES if EVERY_STEP else source.sample(VALUES, values):
                    if value == "\ud800" or value == 10**400:
                        continue  # which no JSON text can carry to the server
                    base = {key: valid.get(key, known["request_id"]) for key in tool.input_schema.get("required", ())}
                    before = events_of(tmp_path)
                    result = await client.call_tool(tool.name, {**base, member: value})
                    where = (tool.name, member, repr(value)[:80])
                    text = "".join(getattr(part, "text", "") for part in result.content)
                    assert "Traceback" not in text, where
                    if not result.is_error:
                        continue
                    code = (result.meta or {})[ERROR_KEY]["code"]
                    codes.add(code)
                    assert re.fullmatch("[A-Z][A-Z0-9_]+", code), where
                    assert code != "INTERNAL", (where, text)
                    assert len(text) < 5_000, where
                    if not tool.name.endswith(".execute"):  # a run that failed is on the record
                        assert events_of(tmp_path) == before, where
        assert (await client.call_tool("nexus-attest.status", {"request_id": known["request_id"]})).is_error is False
    assert codes >= {"INVALID_ARGUMENTS", "DECISION_NOT_FOUND"}


# -- what is shown ------------------------------------------------------------------------------------------------------------------


def test_text_of_users_in_any_field_of_an_event_cannot_touch_the_terminal_or_the_page(made: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made.folder / "hostile.db"
    monkeypatch.setenv("NEXUS_ATTEST_DB", str(path))
    actor = Actor(type="human", id=HOSTILE)
    policy: dict[str, Any] = {
        "min_approvals": 1,
        "allowed_modes": ["dry_run", "apply"],
        "require_adapter_capabilities": [HOSTILE],
        "labels": [HOSTILE],
        "template_name": HOSTILE,
        "template_digest": HOSTILE,
        "template_snapshot": {HOSTILE: HOSTILE},
        "overrides_applied": {HOSTILE: HOSTILE},
    }
    events: list[tuple[EventType, dict[str, Any]]] = [
        (EventType.DECISION_CREATED, {"goal": HOSTILE, "plan": HOSTILE, "requested_mode": HOSTILE, "labels": [HOSTILE]}),
        (EventType.POLICY_ATTACHED, policy),
        (EventType.APPROVAL_GRANTED, {"comment": HOSTILE, "expires_at": None}),
        (EventType.APPROVAL_REVOKED, {"reason": HOSTILE}),
        (EventType.APPROVAL_GRANTED, {"comment": HOSTILE, "expires_at": None}),
        (EventType.EXECUTION_REQUESTED, {"adapter_id": HOSTILE, "dry_run": False}),
        (EventType.EXECUTION_STARTED, {"router_request_digest": HOSTILE}),
        (EventType.EXECUTION_FAILED, {"error_code": HOSTILE, "error_message": HOSTILE, "run_id": HOSTILE}),
    ]
    with DecisionStore(path) as store:
        for count in range(1, len(events) + 1):
            store.append_events(f"{HOSTILE}{count}", [(kind, actor, payload) for kind, payload in events[:count]], create=True)
            Decision.load(store, f"{HOSTILE}{count}")
    for count in range(1, len(events) + 1):
        name = f"{HOSTILE}{count}"
        for command in (
            ("status", name),
            ("inspect", name),
            ("inspect", name, "--markdown"),
            ("inspect", name, "--events"),
            ("log", "verify", name),
        ):
            told = ask(*command)
            require_clean(told, command)
            assert told.code == 0
            if "--markdown" in command:
                assert "<script" not in told.out
                assert "](javascript" not in told.out
        for command in (("bundle", "export"), ("audit", "export"), ("case", "export")):
            require_clean(ask(*command, name, "-o", "shown.json", "--force"), command)
            if (made.folder / "shown.json").exists():
                require_clean(ask("verify", "shown.json"), command)
    require_clean(ask("list", "--limit", "100"), "list")


RENDERERS: dict[str, Callable[[NexusControlTools, str], str | None]] = {
    "inspect": lambda tools, name: tools.inspect(name).data.get("rendered"),
    "bundle": lambda tools, name: tools.export_bundle(name).data.get("rendered"),
    "audit package": lambda tools, name: tools.export_audit_package(name).data.get("rendered"),
}


@pytest.mark.parametrize("which", RENDERERS)
def test_a_rendered_document_has_no_markup_of_users_in_it(which: str) -> None:
    actor = Actor(type="human", id=HOSTILE)

    class Hostile(Router):
        def run(self, **_: Any) -> dict[str, Any]:
            return {"run_id": HOSTILE, "steps_executed": 1}

    with DecisionStore() as store:
        tools = NexusControlTools(store)
        assert tools.template_create(HOSTILE, actor, HOSTILE, allowed_modes=["dry_run", "apply"], labels=[HOSTILE]).success
        name = tools.request(HOSTILE, actor, "apply", HOSTILE, HOSTILE, labels=[HOSTILE]).data["request_id"]
        assert tools.approve(name, actor, comment=HOSTILE).success
        assert tools.execute(name, HOSTILE, actor, Hostile()).success
        rendered = RENDERERS[which](tools, name)
    assert rendered is not None
    assert CONTROLS.search(rendered) is None
    assert "<script" not in rendered
    assert "](javascript" not in rendered
    assert "\nFAKE" not in rendered
