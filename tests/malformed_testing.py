"""Nonsense, a desk with one file of each kind to damage, and what a command may do with them: what the tests of malformed input share."""

import base64
import io
import json
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
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
from nexus_attest.testledger import seed_of
from nexus_control.__main__ import main as engine
from nexus_control.integrity import PREFIX
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

__all__ = [
    "CONTROLS",
    "ENGINE",
    "EVERY_COMMAND",
    "EVERY_STEP",
    "HOSTILE",
    "VALUES",
    "Desk",
    "Router",
    "Told",
    "ask",
    "damaged",
    "desk",
    "files_in",
    "require_clean",
]

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else a small part of the damage; `make faults` does all of it."""

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


@contextmanager
def desk(folder: Path) -> Generator[Desk]:
    """A desk in an empty folder, which is the working folder meanwhile; and no settings but its own."""
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
    shutil.copy(folder / "decisions.db", folder / "store.db")  # in which no damaged bundle will be imported: it stays small
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


# -- commands -----------------------------------------------------------------------------------------------------------------------


def every_command() -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, (*path, name))
            else:
                yield (*path, name), command.whole().params

    yield from walk(get_command(app_module.app), ())


EVERY_COMMAND = dict(every_command())
