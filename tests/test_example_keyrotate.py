"""The example tool really rotates key files, and the example adapter file really runs it."""

import hashlib
import json
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nexus_attest.routers import RunEngine, RunFailed, load_adapters

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "keyrotate"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "signing.key"
    path.parent.mkdir()
    path.write_text("00" * 32 + "\n")
    path.chmod(0o644)
    return path


def fingerprint(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def call(tmp_path: Path, method: str, args: object) -> "subprocess.CompletedProcess[str]":
    file = tmp_path / "args.json"
    file.write_text(json.dumps({"args": args, "method": method, "tool": "keys"}))
    command = [sys.executable, str(EXAMPLE / "keytool.py"), "call", "keys", method, "--json-args-file", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_rotation_writes_a_new_secret_and_keeps_the_old_one(tmp_path: Path, key: Path) -> None:
    old = key.read_bytes()
    done = call(tmp_path, "rotate", {"path": str(key), "bits": 256})
    assert (done.returncode, done.stderr) == (0, "")
    kept = key.with_name("signing.key.1")
    assert json.loads(done.stdout) == {
        "rotated": str(key),
        "bits": 256,
        "old": fingerprint(kept),
        "new": fingerprint(key),
        "kept_as": str(kept),
    }
    assert kept.read_bytes() == old
    assert len(bytes.fromhex(key.read_text())) == 32
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, kept)] == [0o600, 0o600]
    assert sorted(path.name for path in key.parent.iterdir()) == ["signing.key", "signing.key.1"]


def test_the_secret_is_in_no_output(tmp_path: Path, key: Path) -> None:
    done = call(tmp_path, "rotate", {"path": str(key)})
    assert key.read_text().strip() not in done.stdout + done.stderr
    assert "00" * 32 not in done.stdout + done.stderr


def test_every_rotation_gives_another_secret(tmp_path: Path, key: Path) -> None:
    secrets = {key.read_text()}
    for _ in range(3):
        call(tmp_path, "rotate", {"path": str(key), "bits": 128})
        secrets.add(key.read_text())
    assert len(secrets) == 4


def test_rotations_at_the_same_time_lose_no_key_but_the_oldest(tmp_path: Path, key: Path) -> None:
    answers: list[dict[str, Any]] = []

    def rotate(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        answers.append(json.loads(call(folder, "rotate", {"path": str(key)}).stdout))

    threads = [threading.Thread(target=rotate, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["old"] for answer in answers}) == 3  # each one replaced another key
    last = next(answer for answer in answers if answer["new"] == fingerprint(key))
    assert last["old"] == fingerprint(key.with_name("signing.key.1"))


def test_listing_names_keys_by_fingerprint_and_nothing_else(tmp_path: Path, key: Path) -> None:
    call(tmp_path, "rotate", {"path": str(key)})
    (key.parent / "notes.txt").write_text("not a key")
    (key.parent / "link.key").symlink_to("/etc/passwd")
    done = call(tmp_path, "list", {"dir": str(key.parent)})
    kept = key.with_name("signing.key.1")
    assert json.loads(done.stdout) == {
        "keys": [{"name": "signing.key", "fingerprint": fingerprint(key)}, {"name": "signing.key.1", "fingerprint": fingerprint(kept)}]
    }


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("rotate", {}),
        ("rotate", {"path": 5}),
        ("rotate", {"path": ""}),
        ("rotate", {"path": "a\0b"}),
        ("rotate", {"path": "/no/such/key"}),
        ("rotate", {"path": "/etc"}),
        ("rotate", {"path": "KEY", "bits": 100}),
        ("rotate", {"path": "KEY", "bits": 129}),
        ("rotate", {"path": "KEY", "bits": 8192}),
        ("rotate", {"path": "KEY", "bits": "256"}),
        ("rotate", {"path": "KEY", "bits": True}),
        ("rotate", {"path": "KEY", "force": True}),
        ("rotate", []),
        ("rotate", None),
        ("list", {}),
        ("list", {"dir": "/no/such/folder"}),
        ("list", {"dir": "KEY"}),
        ("list", {"dir": "/tmp", "recursive": True}),
        ("destroy", {"path": "KEY"}),
    ],
)
def test_a_wrong_call_changes_nothing_and_exits_with_two(tmp_path: Path, key: Path, method: str, args: Any) -> None:
    args = json.loads(json.dumps(args).replace("KEY", str(key)))
    before = key.read_bytes()
    done = call(tmp_path, method, args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("keytool: ")
    assert "Traceback" not in done.stderr
    assert [path.read_bytes() for path in key.parent.iterdir()] == [before]


def test_a_rotation_that_cannot_keep_the_old_key_changes_nothing(tmp_path: Path, key: Path) -> None:
    in_the_way = key.with_name("signing.key.1")
    in_the_way.mkdir()
    before = key.read_bytes()
    done = call(tmp_path, "rotate", {"path": str(key)})
    assert (done.returncode, done.stdout) == (1, "")
    assert key.read_bytes() == before
    assert sorted(path.name for path in key.parent.iterdir()) == ["signing.key", "signing.key.1"]


def test_a_link_is_not_followed(tmp_path: Path, key: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(key)
    assert call(tmp_path, "rotate", {"path": str(link)}).returncode == 2


@pytest.mark.parametrize("content", ["", "[]", "no json", '{"args": 1}', '{"no": "args"}'])
def test_an_arguments_file_of_another_shape_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "args.json"
    file.write_text(content)
    command = [sys.executable, str(EXAMPLE / "keytool.py"), "call", "keys", "list", "--json-args-file", str(file)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_the_example_adapter_rotates_a_key_and_lists_the_result(key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    plan = [
        {"tool": "keys", "method": "rotate", "args": {"path": str(key), "bits": 256}},
        {"tool": "keys", "method": "list", "args": {"dir": str(key.parent)}},
    ]
    before = fingerprint(key)
    with RunEngine(load_adapters(EXAMPLE / "adapters.toml"), db_path=tmp_path / "runs.db") as engine:
        arguments: dict[str, Any] = {"goal": "Rotate the signing key", "adapter_id": "subprocess:keytool", "plan": json.dumps(plan)}
        assert engine.run(**arguments, dry_run=True)["steps_executed"] == 2
        assert fingerprint(key) == before
        response = engine.run(**arguments, dry_run=False, max_steps=2, require_capabilities=["timeout"])
        events = engine.flight_record(response["run_id"])["events"]
    rotated, listed = [event["payload"]["output"] for event in events if event["type"] == "TOOL_CALL_SUCCEEDED"]
    assert (rotated["old"], rotated["new"]) == (before, fingerprint(key))
    assert rotated["new"] in {entry["fingerprint"] for entry in listed["keys"]}
    assert key.read_text().strip() not in json.dumps(events)


def test_the_example_adapter_reports_why_a_key_was_not_rotated(tmp_path: Path) -> None:
    plan = json.dumps([{"tool": "keys", "method": "rotate", "args": {"path": str(tmp_path / "missing.key")}}])
    with RunEngine(load_adapters(EXAMPLE / "adapters.toml")) as engine, pytest.raises(RunFailed) as caught:
        engine.run(goal="g", adapter_id="subprocess:keytool", dry_run=False, plan=plan)
    assert caught.value.code == "NONZERO_EXIT"
    assert "Command exited with code 2: keytool: no key file:" in str(caught.value)


def test_the_example_adapter_allows_nothing_else() -> None:
    with RunEngine(load_adapters(EXAMPLE / "adapters.toml")) as engine, pytest.raises(RunFailed) as caught:
        engine.run(goal="g", adapter_id="subprocess:keytool", dry_run=True, plan='[{"tool": "keys", "method": "destroy"}]')
    assert caught.value.code == "CALL_NOT_ALLOWED"
