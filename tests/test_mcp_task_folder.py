"""Handles of tasks: made once, read by whoever has the folder, and worth nothing to anybody else."""

import os
import signal
import subprocess
import sys
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_attest.server.claims import announced, on_claim
from nexus_attest.server.task_folder import LONGEST_HANDLE, TTL, Ending, Handle, TaskFolder
from nexus_control.errors import StoreError
from nexus_control.events import utc_now

KILLED = (
    "import os, signal, sys; from pathlib import Path; from nexus_attest.server.task_folder import TaskFolder\n"
    "with TaskFolder(Path(sys.argv[1])).lock('dead'): os.kill(os.getpid(), signal.SIGKILL)"
)
"""Leaves a lock that nobody holds."""

NOW = datetime(2026, 11, 21, 12, 0, 0, 123_000, tzinfo=UTC)


def handle(**changes: Any) -> Handle:
    facts: dict[str, Any] = {"actor": {"type": "human", "id": "bob"}, "seen": 2}
    given: dict[str, Any] = {"kind": "approve", "decision_id": "d", "created_at": NOW, "number": "1", "facts": facts}
    return Handle(**{**given, **changes})


def made(folder: TaskFolder, owner: str = "alice", **changes: Any) -> str:
    text = folder.handle_text(handle(**changes), owner)
    assert text is not None
    return text


def test_a_handle_says_what_it_stands_for_to_every_server_of_the_store(tmp_path: Path) -> None:
    text = made(TaskFolder(tmp_path / "t"))
    assert TaskFolder(tmp_path / "t").read_handle(text, "alice", NOW) == handle()
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "t" / "key").stat().st_mode & 0o777 == 0o600


def test_a_handle_is_worth_nothing_to_others_at_other_stores_or_after_its_time(tmp_path: Path) -> None:
    one, two = TaskFolder(tmp_path / "one"), TaskFolder(tmp_path / "two")
    text = made(one)
    made(two)
    assert two.read_handle(text, "alice", NOW) is None
    for owner in ("", "alic", "alice2", "bob", "\ud800"):
        assert one.read_handle(text, owner, NOW) is None
    assert one.read_handle(text, "alice", NOW + TTL - timedelta(milliseconds=1)) is not None
    assert one.read_handle(text, "alice", NOW + TTL) is None
    assert TaskFolder(tmp_path / "none").read_handle(text, "alice", NOW) is None
    assert not (tmp_path / "none").exists(), "reading makes nothing"


def test_owner_and_content_cannot_be_shifted_into_each_other(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "t")
    raw = urlsafe_b64decode(made(folder, "al") + "==")
    code, body = raw[:16], raw[16:]
    assert folder.read_handle(urlsafe_b64encode(code + b"ice" + body).decode().rstrip("="), "al", NOW) is None
    assert folder.read_handle(urlsafe_b64encode(code + body[1:]).decode().rstrip("="), "al" + chr(body[0]), NOW) is None


def test_every_changed_character_makes_it_unknown(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "t")
    text = made(folder)
    for place in range(len(text)):
        for other in ("A", "b", "_", "=", " ", "\n", "é", ""):
            changed = text[:place] + other + text[place + 1 :]
            if changed != text:
                assert folder.read_handle(changed, "alice", NOW) is None, (place, other)
    assert folder.read_handle(f"{text}=", "alice", NOW) is None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> TaskFolder:
    folder = TaskFolder(tmp_path_factory.mktemp("tasks") / "t")
    made(folder)
    return folder


@given(text=st.text(max_size=300) | st.binary(max_size=200).map(lambda data: urlsafe_b64encode(data).decode().rstrip("=")))
def test_what_was_guessed_is_unknown(shared: TaskFolder, text: str) -> None:
    assert shared.read_handle(text, "alice", NOW) is None


@given(
    decision_id=st.text(max_size=100),
    owner=st.text(st.characters(codec=None, exclude_categories=()), max_size=50),
    number=st.text(max_size=20),
    facts=st.dictionaries(st.text(max_size=10), st.none() | st.integers() | st.text(max_size=20) | st.booleans(), max_size=4),
)
def test_whatever_a_handle_says_is_read_as_it_was_written(
    shared: TaskFolder, decision_id: str, owner: str, number: str, facts: dict[str, Any]
) -> None:
    told = handle(decision_id=decision_id, number=number, facts=facts)
    text = shared.handle_text(told, owner)
    assert text is None or shared.read_handle(text, owner, NOW) == told


def test_ten_thousand_tasks_take_no_space_and_no_two_are_the_same(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "t")
    texts = {made(folder, number=str(number)) for number in range(10_000)}
    assert len(texts) == 10_000
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["key"]
    assert all(folder.read_handle(text, "alice", NOW) is not None for text in texts)


def test_a_handle_that_would_not_fit_into_a_header_is_not_made(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "t")
    assert folder.handle_text(handle(decision_id="x" * LONGEST_HANDLE), "alice") is None
    assert len(made(folder, decision_id="x" * 2_900)) <= LONGEST_HANDLE


def test_servers_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    folders = [TaskFolder(tmp_path / "t") for _ in range(8)]
    texts: list[str] = []

    def make(folder: TaskFolder) -> None:
        texts.append(made(folder))

    threads = [threading.Thread(target=make, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(texts)) == 1


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 100_000])
def test_a_key_that_is_none_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "key").write_bytes(content)
    with pytest.raises(StoreError, match="key"):
        made(TaskFolder(tmp_path / "t"))
    with pytest.raises(StoreError, match="key"):
        TaskFolder(tmp_path / "t").read_handle("AAAA", "alice", NOW)


def test_a_task_ends_once(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "t")
    text = made(folder)
    assert folder.ending(text) is None
    assert folder.end(text, Ending(at=NOW, result=None)) is True
    assert folder.end(text, Ending(at=NOW, result={"isError": True})) is False
    assert TaskFolder(tmp_path / "t").ending(text) == Ending(at=NOW, result=None)
    assert folder.ending(made(folder, number="2")) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"at": 5, "result": null}', b'{"at": "soon", "result": null}', b"\xff"])
def test_an_ending_that_cannot_be_read_is_no_ending_but_an_error(tmp_path: Path, content: bytes) -> None:
    folder = TaskFolder(tmp_path / "t")
    text = made(folder)
    folder.end(text, Ending(at=NOW, result=None))
    (path,) = (tmp_path / "t").glob("*.end")
    path.write_bytes(content)
    with pytest.raises(StoreError, match="does not say how a task ended"):
        folder.ending(text)


def test_what_nobody_can_ask_for_any_more_is_removed_once_an_hour(tmp_path: Path) -> None:
    folder, other, now = TaskFolder(tmp_path / "t"), TaskFolder(tmp_path / "t"), utc_now()
    old, young = made(folder, number="1"), made(folder, number="2")
    folder.end(old, Ending(at=now, result=None))
    with folder.lock("long"):
        dead = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "t"])
        assert dead.wait() == -signal.SIGKILL
        (tmp_path / "t" / ".x.tmp").touch()
        long_ago = (now - TTL - timedelta(hours=1)).timestamp()
        for path in (tmp_path / "t").iterdir():
            os.utime(path, (long_ago, long_ago))
        assert len(list((tmp_path / "t").iterdir())) == 5
        folder.end(young, Ending(at=now, result=None))
        folder.tidy(now)
        assert folder.ending(old) is None
        assert folder.ending(young) is not None
        assert folder.read_handle(made(folder), "alice", NOW) is not None, "the key stays"
        assert other.is_under_way("long"), "and the lock of an execution that takes longer than that"
        assert len(list((tmp_path / "t").iterdir())) == 3
    (tmp_path / "t" / ".x.tmp").touch()
    os.utime(tmp_path / "t" / ".x.tmp", (long_ago, long_ago))
    for later, left in ((timedelta(minutes=59), True), (timedelta(minutes=61), False)):
        folder.tidy(now + later)
        assert (tmp_path / "t" / ".x.tmp").exists() is left
    TaskFolder(tmp_path / "none").tidy(now)
    assert not (tmp_path / "none").exists()


def test_a_key_for_something_else_is_the_same_for_every_server_of_the_store(tmp_path: Path) -> None:
    folder = TaskFolder(tmp_path / "t")
    assert folder.key_for("one") == TaskFolder(tmp_path / "t").key_for("one")
    assert len({folder.key_for("one"), folder.key_for("two"), TaskFolder(tmp_path / "u").key_for("one")}) == 3
    assert (tmp_path / "t" / "key").read_bytes() not in (folder.key_for("one"), folder.key_for(""))


def test_without_its_folder_nothing_is_certain_of_an_execution(tmp_path: Path) -> None:
    assert TaskFolder(tmp_path / "t").is_under_way("1")


def test_an_execution_is_under_way_for_as_long_as_its_lock_is_held(tmp_path: Path) -> None:
    folder, other = TaskFolder(tmp_path / "t"), TaskFolder(tmp_path / "t")
    with folder.lock("1"):
        assert other.is_under_way("1")
        assert folder.is_under_way("1")
        assert not other.is_under_way("2")
    assert not other.is_under_way("1")


class _Router:
    def __init__(self, *, accepts: bool) -> None:
        self.accepts_execution_id = accepts
        self.called: list[dict[str, Any]] = []

    def run(self, **arguments: Any) -> dict[str, Any]:
        self.called.append(arguments)
        return {"run_id": "r", "steps_executed": 0}

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def flight_record(self) -> str:
        return "record"


@pytest.mark.parametrize("accepts", [True, False])
def test_a_claim_is_announced_before_the_router_runs_which_notices_nothing(accepts: bool) -> None:
    router: Any = _Router(accepts=accepts)
    assert announced(router) is router
    told: list[tuple[str, int]] = []
    token = on_claim.set(lambda execution_id: told.append((execution_id, len(router.called))))
    try:
        wrapped: Any = announced(router)
    finally:
        on_claim.reset(token)
    assert wrapped.accepts_execution_id is True
    assert wrapped.run(goal="g", execution_id="e") == {"run_id": "r", "steps_executed": 0}
    assert told == [("e", 0)]
    assert router.called == [{"goal": "g", **({"execution_id": "e"} if accepts else {})}]
    assert wrapped.get_adapter_capabilities("a") == {"a"}
    assert wrapped.flight_record() == "record"
