"""Processes that die at a chosen step of their work, and a look at what they leave behind.

A step is a call into C that may change something outside the process: a statement of SQLite, a write to a file, a program started; or a
message to PostgreSQL and the answer to it. The profiler of Python sees each of them, before it begins and after it returned, so the code
under test needs no hook, and a new write is found without telling anybody. What happens inside one call, between the writes of a commit, is
the matter of `faults/test_power_loss.py`.
"""

import ctypes
import gc
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock, RLock
from types import FrameType
from typing import Any

from nexus_control.events import EventType
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore

__all__ = ["Ended", "State", "in_process", "library", "lines_of", "snapshots", "state_in", "state_of", "steps_of"]

STEPS = frozenset(
    {
        *("execute", "executemany", "executescript", "commit", "rollback", "backup"),
        *("write", "writelines", "flush", "fsync", "close", "__exit__", "ftruncate", "truncate"),
        *("rename", "replace", "unlink", "remove", "link", "symlink", "mkdir", "rmdir", "chmod", "fchmod", "flock", "lockf"),
        *("fork_exec", "kill", "killpg", "send", "sendall", "connect"),
    }
)
"""Names of the functions that are steps. A reading one among them costs a little time and nothing else.

`open` is none, because most of what is opened is read, and how often depends on the machine; a file that it made is there at the next step.
"""

_HARMLESS = (str, bytes, bytearray, list, set, dict, deque, type(Lock()), type(RLock()), io.BufferedReader, Generator)
"""Methods of these change nothing outside, whatever their names. How often psycopg's generator that connects is sent something depends on
how many parts the server's answer comes in."""

_EXCHANGES = {"wait": "psycopg.connection", "_answers": "nexus_attest.postgres.exchange"}
"""The functions in Python, by name, and their modules, that send what is to be sent to PostgreSQL and wait for the answer. What they call
in C is not seen by the profiler."""

_KINDS = {"c_call": "before", "c_return": "after", "c_exception": "after"}
_PATIENCE_SECONDS = 240
_SET_CHILD_SUBREAPER = 36  # prctl(2)


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus the signal that killed it, and what it had printed.

    `steps`, of a survey: the name of each step, and whether the process would leave something else behind than one step before.
    `meanwhile`: how the process ended that had its turn while this one stood still.
    """

    code: int
    out: str
    err: str
    steps: tuple[tuple[str, bool], ...] = ()
    meanwhile: "Ended | None" = None

    @property
    def was_killed(self) -> bool:
        return self.code == -signal.SIGKILL

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as one JSON object; empty where the process did not come to print it whole."""
        try:
            value: dict[str, Any] = json.loads(self.out)
        except ValueError:
            return {}
        return value

    @property
    def acknowledged(self) -> bool:
        """Whether somebody was told that the work is done."""
        return self.document.get("success") is True

    @property
    def refusal(self) -> str | None:
        """The code of the error, None for a success."""
        return self.document.get("code")


def in_process(
    folder: Path,
    work: Callable[[], object],
    environment: Mapping[str, str] | None = None,
    *,
    kill_at: int | None = None,
    pause_at: int | None = None,
    meanwhile: Callable[[], Ended] | None = None,
    survey: bool = False,
) -> Ended:
    """Do `work` in a process of its own, in `folder`. When this returns, its children have ended too.

    It is killed at the step of the number `kill_at`, counted from 0; or it stands still at `pause_at`, while `meanwhile` is done.
    `survey` gives the names of all steps instead.
    """
    reader, writer = os.pipe()
    keeper = _fork()
    if keeper == 0:
        disturb = _fate(kill_at, signal.SIGKILL) if kill_at is not None else _fate(pause_at, signal.SIGSTOP)
        os.close(reader)
        _keep(folder, work, environment, disturb, meanwhile, survey, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = json.loads(pipe.read() or b"null")
    os.waitpid(keeper, 0)
    assert told is not None, "the process that watches over another one died"
    return _ended(told)


def _fate(number: int | None, fate: signal.Signals) -> Callable[[int, str], None] | None:
    if number is None:
        return None
    return lambda count, _: os.kill(os.getpid(), fate) if count == number else None


def _ended(told: dict[str, Any]) -> Ended:
    other = told["meanwhile"]
    steps = tuple((name, is_new) for name, is_new in told["steps"])
    return Ended(told["code"], told["out"], told["err"], steps, None if other is None else _ended(other))


def steps_of(folder: Path, work: Callable[[], object], environment: Mapping[str, str] | None = None) -> Ended:
    """The work done once, undisturbed, with the names of its steps. `folder` is changed by it."""
    ended = in_process(folder, work, environment, survey=True)
    assert not ended.was_killed, ended
    return ended


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, for threads that the tests around these ones left
        return os.fork()


def _keep(
    folder: Path,
    work: Callable[[], object],
    environment: Mapping[str, str] | None,
    disturb: Callable[[int, str], None] | None,
    meanwhile: Callable[[], Ended] | None,
    survey: bool,
    writer: int,
) -> None:
    """In the process between: start the victim, wait for it and for every program that it started, and tell. Never returns."""
    try:
        signal.alarm(_PATIENCE_SECONDS)
        if sys.platform == "linux":  # what the victim started becomes a child of this process when the victim dies
            ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        names = ("out", "err", "steps")
        streams = {name: os.memfd_create(name) if sys.platform == "linux" else _unnamed(folder) for name in names}
        victim = _fork()
        if victim == 0:
            os.close(writer)
            _work(folder, work, environment, disturb, survey, streams)
        _, status = os.waitpid(victim, os.WUNTRACED)
        other = None
        if os.WIFSTOPPED(status):
            other = asdict(meanwhile()) if meanwhile is not None else None
            os.kill(victim, signal.SIGCONT)
            _, status = os.waitpid(victim, 0)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        texts = {name: _content(descriptor) for name, descriptor in streams.items()}
        steps = [(name, mark == "new") for name, mark in (line.split() for line in texts["steps"].splitlines())]
        answer = {"code": os.waitstatus_to_exitcode(status), **texts, "steps": steps, "meanwhile": other}
        with os.fdopen(writer, "w") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


def _unnamed(folder: Path) -> int:
    path = folder.parent / f".{os.getpid()}.stream"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    path.unlink()
    return descriptor


def _content(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(descriptor, "rb") as file:
        return file.read().decode("utf-8", "replace")


def _work(
    folder: Path,
    work: Callable[[], object],
    environment: Mapping[str, str] | None,
    disturb: Callable[[int, str], None] | None,
    survey: bool,
    streams: Mapping[str, int],
) -> None:
    """In the victim. Never returns."""
    code: object = 70
    try:
        gc.disable()  # what is closed when garbage is found would be a step now and none the next time
        os.chdir(folder)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(streams["out"], 1)
        os.dup2(streams["err"], 2)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  for as long as the process lives
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        steps: list[str] = []
        if disturb is not None:
            _watch(disturb)
        elif survey:
            _watch(_surveyor(folder, streams["out"], steps))
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
        sys.setprofile(None)
        os.write(streams["steps"], "\n".join(steps).encode())
    except BaseException:
        sys.setprofile(None)
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0)


def _watch(visit: Callable[[int, str], object]) -> None:
    """Call `visit` with number and name of each step, of any thread."""
    count = 0

    def at(frame: FrameType, event: str, function: Any) -> None:
        nonlocal count
        if event in ("call", "return"):
            name = frame.f_code.co_name
            if name not in _EXCHANGES or frame.f_globals.get("__name__") != _EXCHANGES[name]:
                return
            event = f"c_{event}"
        else:
            name = getattr(function, "__name__", "")
            if name not in STEPS or isinstance(function.__self__, _HARMLESS):
                return
        visit(count, f"{_KINDS[event]}:{name}")
        count += 1

    threading.setprofile(at)
    sys.setprofile(at)


def _surveyor(folder: Path, output: int, steps: list[str]) -> Callable[[int, str], None]:
    last = b""

    def visit(_: int, name: str) -> None:
        nonlocal last
        now = _fingerprint(folder, output)
        steps.append(f"{name} {'new' if now != last else 'same'}")
        last = now

    return visit


def _fingerprint(folder: Path, output: int) -> bytes:
    """Everything that a killed process leaves: the files, except for the index of SQLite's log, and what it printed."""
    found = hashlib.sha256(os.fstat(output).st_size.to_bytes(8, "big"))
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith("-shm"):
            found.update(path.relative_to(folder).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.digest()


def snapshots(folder: Path) -> Generator[Path, None, None]:
    """Fresh copies of a folder, one after the other; each is gone when the next one is asked for."""
    number = 0
    while True:
        number += 1
        copy = folder.with_name(f"{folder.name}.{number}")
        shutil.copytree(folder, copy, symlinks=True)
        try:
            yield copy
        finally:
            shutil.rmtree(copy, ignore_errors=True)


def library(work: Callable[[], Mapping[str, Any]]) -> Callable[[], int]:
    """Work that tells its result as the command line would."""

    def told() -> int:
        print(json.dumps({"success": True, **work()}), flush=True)
        return 0

    return told


@dataclass(frozen=True)
class State:
    """What a store says: how many facts it has, and the types of the events of each decision."""

    facts: int
    decisions: Mapping[str, tuple[EventType, ...]]
    templates: tuple[str, ...]
    checkpoints: int


def state_of(path: Path) -> State:
    """The state of a store that verifies from end to end. Opening it is what brings it back after a crash."""
    if not path.exists():
        return State(0, {}, (), 0)
    with DecisionStore(path) as store:
        return state_in(store)


def state_in(store: SqlStore) -> State:
    """As `state_of`, for a store that is open."""
    verification = store.verify_log()
    assert verification.ok, verification.errors
    decisions = {name: tuple(event.event_type for event in store.get_events(name)) for name, _ in store.list_decisions(1_000_000)}
    templates = tuple(template.name for template in store.get_template_store().list_templates(1_000_000))
    return State(store.log_root()[0], decisions, templates, len(store.checkpoints()))


def lines_of(path: Path) -> list[str]:
    """The lines of a file, none where there is none."""
    return path.read_text().splitlines() if path.exists() else []
