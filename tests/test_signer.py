import json
import os
import sys
import textwrap
import time
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from nexus_attest import ed25519
from nexus_attest.key_errors import KeyInvalid, KeyNotFound, PassphraseMissing, SignerFailed
from nexus_attest.keys import LocalKey, new_key
from nexus_attest.signer import ExternalSigner, open_signer, sign_statement, statement_about
from nexus_control.decision import Decision
from nexus_control.errors import InvalidEnvelope
from nexus_control.events import Actor
from nexus_control.identity import Statement, parse_envelope
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

SEED = bytes(range(32))
KEY = LocalKey(SEED)
ALICE = Actor(type="human", id="alice")

GOOD = f"""
import json, sys
sys.path[:0] = {sys.path!r}
from base64 import b64decode, b64encode
from nexus_attest.keys import LocalKey
key = LocalKey(bytes(range(32)))
request = json.load(sys.stdin)
assert request.pop("v") == 1
match request:
    case {{"operation": "public_key"}}:
        answer = {{"public_key": b64encode(key.public_key).decode()}}
    case {{"operation": "sign", "message": message}}:
        answer = {{"signature": b64encode(key.sign(b64decode(message))).decode()}}
"""


MARKER = "import os; open(__file__ + '.pid', 'w').write(str(os.getpid()))\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def program(folder: Path, ending: str = "print(json.dumps(answer))", start: str = GOOD) -> list[str]:
    """A signer with KEY that does `ending` with its `answer` to a `request`."""
    path = folder / "sign.py"
    path.write_text(start + textwrap.dedent(ending))
    return [sys.executable, str(path)]


def nobody() -> None:
    """No passphrase."""


def statement() -> Statement:
    return Statement(
        action="approve",
        decision_id="d",
        action_digest="sha256:" + "0" * 64,
        actor=Actor(type="human", id="alice"),
        signed_at="2025-01-01T12:00:00+00:00",
        comment="\u00fc",
    )


def test_an_envelope_carries_the_signature_of_the_key_that_it_names() -> None:
    envelope = parse_envelope(sign_statement(statement(), KEY))
    assert (envelope.statement, envelope.key_id) == (statement(), KEY.key_id)
    assert ed25519.verify(KEY.public_key, envelope.signed_bytes, envelope.signature)


def test_a_statement_is_about_a_decision_as_it_is_now_with_times_in_utc() -> None:
    tools = NexusControlTools(DecisionStore())
    request_id = tools.request("g", ALICE).data["request_id"]
    decision = Decision.load(tools.store, request_id)
    moment = datetime(2025, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    assert statement_about(decision, "revoke", ALICE, moment, comment="").to_dict() == {
        "v": 1,
        "action": "revoke",
        "decision_id": request_id,
        "action_digest": f"sha256:{decision.action_digest}",
        "actor": {"type": "human", "id": "alice"},
        "comment": None,
        "expires_at": None,
        "signed_at": "2025-01-01T12:00:00+00:00",
    }
    approval = statement_about(decision, "approve", ALICE, moment, comment="ok", expires_at=moment)
    assert (approval.comment, approval.expires_at) == ("ok", "2025-01-01T12:00:00+00:00")
    tools.store.close()


def test_a_statement_that_nobody_could_read_is_not_signed() -> None:
    with pytest.raises(InvalidEnvelope):
        sign_statement(Statement(action="approve", decision_id="", action_digest="", actor=Actor(type="human", id="a"), signed_at=""), KEY)


def test_a_signer_is_named_by_key_by_file_by_variable_or_by_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = new_key(folder, "alice")
    monkeypatch.setenv("NEXUS_KEY", b64encode(SEED).decode())
    monkeypatch.chdir(folder)
    assert open_signer("alice", folder, nobody).key_id == stored.key_id
    assert open_signer(str(stored.path), Path("elsewhere"), nobody).key_id == stored.key_id
    assert open_signer("alice.key", Path("elsewhere"), nobody).key_id == stored.key_id
    assert open_signer("env:NEXUS_KEY", folder, nobody).key_id == KEY.key_id
    python, script = program(folder)
    assert open_signer(f"program:'{python}' '{script}'", folder, nobody).key_id == KEY.key_id


def test_the_passphrase_is_asked_for_when_it_is_needed(folder: Path) -> None:
    new_key(folder, "alice", "p", ops=1, memory=8192)
    assert open_signer("alice", folder, lambda: "p").key_id.startswith("ed25519:")
    with pytest.raises(PassphraseMissing):
        open_signer("alice", folder, nobody)


@pytest.mark.parametrize("source", ["bob", "./bob", "bob.key", "env:NEXUS_NO_KEY", "env:"])
def test_a_key_that_is_not_there_is_told_as_such(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(KeyNotFound):
        open_signer(source, folder, nobody)


@pytest.mark.parametrize("source", ["program:", "program:  ", "program:'open"])
def test_a_command_that_is_none_is_refused(source: str, folder: Path) -> None:
    with pytest.raises(KeyInvalid):
        open_signer(source, folder, nobody)


@pytest.mark.parametrize("value", ["secret", "AAAA", b64encode(bytes(33)).decode()])
def test_a_variable_that_holds_no_key_is_refused_without_its_value(value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_KEY", value)
    with pytest.raises(KeyInvalid) as caught:
        open_signer("env:NEXUS_KEY", folder, nobody)
    assert str(caught.value) == "the environment variable NEXUS_KEY: the private key must be 32 bytes in base64"


# -- programs ---------------------------------------------------------------------------------------------------------------------


def test_a_program_signs_what_it_is_given_and_as_much_as_there_is(folder: Path) -> None:
    external = ExternalSigner(program(folder))
    assert (external.public_key, external.key_id) == (KEY.public_key, KEY.key_id)
    for message in (b"", b"message", bytes(1_000_000)):
        assert external.sign(message) == KEY.sign(message)


WRONG: dict[str, tuple[str, str]] = {
    "nothing": ("", "wrote something else than one JSON object"),
    "no JSON": ("print('hello')", "wrote something else than one JSON object"),
    "two objects": ("print(json.dumps(answer) * 2)", "wrote something else than one JSON object"),
    "no UTF-8": ("sys.stdout.buffer.write(b'\\xff')", "wrote something else than one JSON object"),
    "deep JSON": ("print('[' * 4000)", "wrote something else than one JSON object"),
    "a list": ("print('[]')", "must answer with the member public_key alone"),
    "another member": ("print(json.dumps({'signature': ''}))", "must answer with the member public_key alone"),
    "a member too many": ("print(json.dumps({**answer, 'x': 1}))", "must answer with the member public_key alone"),
    "a number": ("print('{\"public_key\": 1}')", "must answer with 32 bytes in base64"),
    "no base64": ('print(\'{"public_key": "?"}\')', "must answer with 32 bytes in base64"),
    "a short key": ('print(\'{"public_key": "AAAA"}\')', "must answer with 32 bytes in base64"),
    "no point": ("print(json.dumps({'public_key': b64encode(bytes([2]) + bytes(31)).decode()}))", "gave no Ed25519 public key"),
    "a key of small order": ("print(json.dumps({'public_key': b64encode(bytes([1]) + bytes(31)).decode()}))", "gave no Ed25519 public key"),
    "an exit code": ("print(json.dumps(answer)); sys.exit(3)", "ended with exit code 3"),
    "a signal": ("import os; print(json.dumps(answer), flush=True); os.kill(os.getpid(), 15)", "ended with exit code -15"),
    "too much": ("print(json.dumps(answer) + ' ' * 5000)", "wrote more than 4096 bytes"),
    "endless output": ("while True: print('x' * 100_000)", "wrote more than 4096 bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_program_that_does_not_answer_as_it_must_is_refused(name: str, folder: Path) -> None:
    ending, text = WRONG[name]
    command = program(folder, ending)
    with pytest.raises(SignerFailed) as caught:
        ExternalSigner(command)
    assert str(caught.value) == f"the signer {sys.executable!r} {text}"


FORGING: dict[str, tuple[str, str]] = {
    "another message": ("answer = {'signature': b64encode(key.sign(b'other')).decode()}", "gave a signature that is not one of its key"),
    "another key": (
        "answer = {'signature': b64encode(LocalKey(bytes(32)).sign(b64decode(message))).decode()}",
        "gave a signature that is not one of its key",
    ),
    "half a signature": ("answer = {'signature': b64encode(bytes(32)).decode()}", "must answer with 64 bytes in base64"),
    "its public key again": ("answer = {'public_key': b64encode(key.public_key).decode()}", "must answer with the member signature alone"),
}


@pytest.mark.parametrize("name", FORGING)
def test_a_signature_is_checked_before_it_is_used(name: str, folder: Path) -> None:
    forge, text = FORGING[name]
    external = ExternalSigner(program(folder, f"if request['operation'] == 'sign': {forge}\nprint(json.dumps(answer))"))
    with pytest.raises(SignerFailed, match=text):
        external.sign(b"message")


@pytest.mark.parametrize(
    "ending",
    [
        "import time; time.sleep(60)",
        "import time; print(json.dumps(answer), flush=True); time.sleep(60)",
        "import os, time; print(json.dumps(answer), flush=True); os.close(1); time.sleep(60)",
    ],
    ids=["hangs", "answers and hangs", "answers, closes and hangs"],
)
def test_a_program_that_takes_too_long_is_killed(ending: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for it begins, here, when it has begun."""
    pid, start, clock = folder / "sign.py.pid", time.monotonic(), time.monotonic
    begun = start

    def since_it_began() -> float:
        nonlocal begun
        if not (pid.exists() and pid.read_text()):
            begun = clock()
        return clock() - begun

    monkeypatch.setattr("nexus_attest.signer.time", SimpleNamespace(monotonic=since_it_began, sleep=time.sleep))
    with pytest.raises(SignerFailed, match="took more than 1 seconds"):
        ExternalSigner(program(folder, MARKER + ending), seconds=1.0)
    assert time.monotonic() - start < 50
    require_gone(folder)


def test_what_a_program_leaves_behind_is_killed_and_not_waited_for(folder: Path) -> None:
    start = time.monotonic()
    leaving = "import subprocess; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print(json.dumps(answer))"
    assert ExternalSigner(program(folder, MARKER + leaving)).key_id == KEY.key_id
    assert time.monotonic() - start < 50
    require_gone(folder)


def require_gone(folder: Path) -> None:
    """Nothing is left of the process group that `MARKER` wrote down."""
    group = int((folder / "sign.py.pid").read_text())
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            break
        time.sleep(0.01)
    else:
        pytest.fail("something is still running")


@pytest.mark.parametrize("command", [["/nowhere/sign"], ["/"], ["sign\0"]])
def test_a_program_that_cannot_be_started_is_told_as_such(command: list[str]) -> None:
    with pytest.raises(SignerFailed, match="cannot be started"):
        ExternalSigner(command)


def test_a_program_that_never_reads_blocks_nobody(folder: Path) -> None:
    answer = json.dumps({"public_key": b64encode(KEY.public_key).decode()})
    external = ExternalSigner(program(folder, f"print({answer!r})", start=""))
    with pytest.raises(SignerFailed, match="the member signature alone"):
        external.sign(bytes(1_000_000))


def test_without_process_groups_no_program_is_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")
    with pytest.raises(SignerFailed, match="POSIX"):
        ExternalSigner(program(folder))


def test_where_a_child_cannot_be_left_unreaped_it_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid")
    assert ExternalSigner(program(folder)).key_id == KEY.key_id


def test_a_child_that_somebody_else_reaped_has_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise ChildProcessError

    monkeypatch.setattr(os, "waitid", gone)
    with pytest.raises(SignerFailed, match="exit code -9"):
        ExternalSigner(program(folder, "import time; time.sleep(60)"))
