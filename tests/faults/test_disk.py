"""Disks and files that do not do what was asked: full, read-only, failing, locked by another process.

The full and the read-only disk are real file systems, mounted for one process; where the system does not allow that, these tests are
skipped, or fail where they are required. Errors of the device, and a kill inside a write, are made by strace in its system calls; without
it, or where it may not trace, these tests are skipped.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import mount_testing
import pytest
from fault_testing import Ended, in_process, lines_of, snapshots, state_of
from mount_testing import fill, make_read_only, on_a_disk_of_its_own
from store_testing import ALICE, BOB, foreign

from nexus_attest.cli.app import run
from nexus_control import sqlite
from nexus_control.events import EventType
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file systems are mounted as Linux does it")

EVERY_STEP = "NEXUS_EVERY_STEP" in os.environ
"""Else a few of the system calls; `make faults` fails each of them."""

PLAN = '[{"tool": "t", "method": "m"}]'


def adapters(script: str) -> str:
    command = json.dumps(["/bin/sh", "-c", f"echo ran >> ran; {script} echo '{{}}'"])
    return f'[[adapters]]\nid = "subprocess:tool"\nkind = "subprocess"\ncommand = {command}\nallow = ["t/m"]\n'


def environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "NEXUS_ATTEST_DB": str(folder / "decisions.db"),
        "NEXUS_ATTEST_KEYS": str(folder / "keys"),
        "NEXUS_ATTEST_ACTOR": "alice",
    }


def person(folder: Path, *arguments: str) -> Ended:
    """A command of a person, in a process of its own."""
    return in_process(folder, partial(run, list(arguments)), environment(folder))


def code_of(ended: Ended) -> str:
    """The code that a person reads; empty for a success."""
    return next((line.split(": ")[1] for line in ended.err.splitlines() if line.startswith("nexus-attest: ")), "")


def prepared(folder: Path, script: str = "") -> str:
    (folder / "adapters.toml").write_text(adapters(script))
    (folder / "keys").mkdir(mode=0o700)
    with DecisionStore(folder / "decisions.db") as store:
        tools = NexusControlTools(store)
        name: str = tools.request("Rotate", ALICE, mode="apply", plan=PLAN).data["request_id"]
        assert tools.approve(name, BOB).success
        bundle = tools.export_bundle(name).data["canonical_json"]
    (folder / "bundle.json").write_text(bundle)
    return name


WRITING = {
    "request": ("request", "Another"),
    "approve": ("approve", "{id}"),
    "revoke": ("revoke", "{id}", "--actor", "bob"),
    "execute": ("execute", "{id}", "subprocess:tool", "--adapters", "adapters.toml"),
    "template create": ("template", "create", "t"),
    "bundle import": ("bundle", "import", "bundle.json", "--conflict", "new_decision_id"),
}
INTO_FILES = {"bundle export": ("bundle", "export", "{id}", "-o", "out.json"), "keys new": ("keys", "new", "k")}
READING = {
    "status": ("status", "{id}"),
    "list": ("list",),
    "log verify": ("log", "verify"),
    "bundle export to standard output": ("bundle", "export", "{id}", "-o", "-"),
}


def words(arguments: tuple[str, ...], name: str) -> list[str]:
    return [argument.format(id=name) for argument in arguments]


@pytest.mark.parametrize(
    ("required", "outcome"),
    [
        (False, "no disk can be mounted here: not allowed\n"),
        (True, "NEXUS_ATTEST_REQUIRE_MOUNTS is set, but no disk can be mounted here: not allowed\n"),
    ],
)
def test_a_disk_that_cannot_be_mounted_is_a_failure_where_it_is_required(
    place: Path, monkeypatch: pytest.MonkeyPatch, required: bool, outcome: str
) -> None:
    def not_allowed() -> None:
        raise OSError("not allowed")

    monkeypatch.setattr(mount_testing, "_own_mounts", not_allowed)
    monkeypatch.setattr(mount_testing, "_REQUIRED", required)
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception)) as ended:
        on_a_disk_of_its_own(place, "1m", lambda _: None)
    assert (ended.type is pytest.fail.Exception, ended.value.msg) == (required, outcome)


@pytest.mark.parametrize("which", [*WRITING, *INTO_FILES])
def test_on_a_full_disk_a_command_says_so_writes_nothing_and_can_be_repeated(place: Path, which: str) -> None:
    def work(folder: Path) -> None:
        name = prepared(folder)
        before = state_of(folder / "decisions.db")
        filler = fill(folder)
        arguments = words({**WRITING, **INTO_FILES}[which], name)
        refused = person(folder, *arguments)
        assert refused.code == 1, refused
        if which == "keys new":  # which needs no store
            assert (code_of(refused), "No space left on device" in refused.err) == ("IO_ERROR", True), refused
        else:
            assert code_of(refused) == "STORE_FULL", refused
            assert "free some space, then repeat the call; nothing was written" in refused.err, refused
        filler.unlink()
        assert state_of(folder / "decisions.db") == before
        assert not (folder / "ran").exists()
        assert not (folder / "out.json").exists()
        assert person(folder, *arguments).code == 0
        state_of(folder / "decisions.db")

    on_a_disk_of_its_own(place, "1m", work)


def test_a_disk_that_is_filled_by_the_run_itself_leaves_an_outcome_that_is_said_to_be_unrecorded(place: Path) -> None:
    def work(folder: Path) -> None:
        name = prepared(folder, "cat /dev/zero > filler 2> /dev/null;")
        refused = person(folder, *words(WRITING["execute"], name))
        assert refused.code in (1, 2), refused
        assert code_of(refused) == "OUTCOME_NOT_RECORDED", refused
        assert "stays in EXECUTING; use recover_execution once the store works again" in refused.err
        (folder / "filler").unlink()
        found = state_of(folder / "decisions.db")
        assert found.decisions[name][-2:] == (EventType.EXECUTION_REQUESTED, EventType.EXECUTION_STARTED)
        assert code_of(person(folder, *words(WRITING["execute"], name))) == "EXECUTION_IN_PROGRESS"
        assert person(folder, "recover", name).code == 0
        assert state_of(folder / "decisions.db").decisions[name][-1] is EventType.EXECUTION_FAILED
        assert len(lines_of(folder / "ran")) == 1

    on_a_disk_of_its_own(place, "1m", work)


def test_a_store_that_fills_its_disk_keeps_every_decision_that_was_acknowledged(place: Path) -> None:
    def work(folder: Path) -> None:
        made: list[str] = []
        with DecisionStore(folder / "decisions.db") as store:
            tools = NexusControlTools(store)
            while True:
                result = tools.request("g" * 5000, ALICE)
                if not result.success:
                    break
                made.append(result.data["request_id"])
            assert result.code == "STORE_FULL", result
            assert tools.status(made[0]).success
            assert store.verify_log().ok
        found = state_of(folder / "decisions.db")
        assert set(made) == set(found.decisions)
        assert len(made) > 5

    on_a_disk_of_its_own(place, "1m", work)


def test_on_a_read_only_disk_what_reads_works_and_what_writes_says_why_not(place: Path) -> None:
    def work(folder: Path) -> None:
        name = prepared(folder)
        before = state_of(folder / "decisions.db")
        make_read_only(folder)
        for which, arguments in WRITING.items():
            refused = person(folder, *words(arguments, name))
            told = "may be written" if which == "execute" else "make the file and its folder writable"  # of the run records, a new file
            assert (refused.code, told in refused.err) == (1, True), (which, refused)
        for arguments in INTO_FILES.values():
            refused = person(folder, *words(arguments, name))
            assert (refused.code, code_of(refused)) == (1, "IO_ERROR"), refused
            assert "Read-only file system" in refused.err
        for arguments in READING.values():
            assert person(folder, *words(arguments, name)).code == 0, arguments
        assert state_of(folder / "decisions.db") == before
        assert not (folder / "ran").exists()

    on_a_disk_of_its_own(place, "8m", work)


# -- locked -------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.1)


@pytest.mark.usefixtures("impatient")
def test_while_another_process_holds_the_lock_what_reads_works_and_what_writes_says_so(place: Path) -> None:
    name = prepared(place)
    before = state_of(place / "decisions.db")
    with closing(foreign(place / "decisions.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        for which, arguments in WRITING.items():
            refused = person(place, *words(arguments, name))
            assert refused.code == 1, (which, refused)
            assert code_of(refused) in ("STORE_BUSY", "IMPORT_ATOMICITY_FAILED"), refused
            assert "another process holds the write lock; try again" in refused.err, refused
        for arguments in READING.values():
            assert person(place, *words(arguments, name)).code == 0, arguments
        other.execute("COMMIT")
    assert state_of(place / "decisions.db") == before
    assert not (place / "ran").exists()
    assert person(place, *words(WRITING["execute"], name)).code == 0


class RouterThatLocks:
    """While it runs, somebody takes the write lock of the store and keeps it."""

    def __init__(self, path: Path) -> None:
        self.other = foreign(path)

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        self.other.execute("BEGIN IMMEDIATE")
        return {"run_id": "run-1", "steps_executed": 1}


@pytest.mark.usefixtures("impatient")
def test_an_outcome_that_finds_the_store_locked_is_said_to_be_unrecorded(place: Path) -> None:
    name = prepared(place)
    router = RouterThatLocks(place / "decisions.db")
    with DecisionStore(place / "decisions.db") as store, closing(router.other):
        tools = NexusControlTools(store)
        result = tools.execute(name, "ad", ALICE, router)
        assert result.code == "OUTCOME_NOT_RECORDED"
        assert "Run run-1 ended (EXECUTION_COMPLETED) but could not be recorded" in (result.error or "")
        assert "stays in EXECUTING; use recover_execution once the store works again" in (result.error or "")
        router.other.execute("COMMIT")
        assert tools.execute(name, "ad", ALICE, router).code == "EXECUTION_IN_PROGRESS"
        assert tools.recover_execution(name, ALICE, "the outcome could not be stored: it was run-1").success
    assert state_of(place / "decisions.db").decisions[name].count(EventType.EXECUTION_REQUESTED) == 1


# -- failing ------------------------------------------------------------------------------------------------------------------------

EXECUTE = """
import os, sys
from nexus_control.errors import NexusError
from nexus_control.tool import NexusControlTools
class Router:
    def get_adapter_capabilities(self, adapter_id):
        return {adapter_id}
    def run(self, **_):
        with open("ran", "a") as file:
            file.write("ran\\n")
        return {"run_id": "run-1", "steps_executed": 1}
try:
    result = NexusControlTools(db_path="decisions.db").execute(sys.argv[1], "ad", {"type": "human", "id": "alice"}, Router())
    print("acknowledged" if result.success else f"{result.code}: {result.error}", flush=True)
except NexusError as error:
    print(error.describe(), flush=True)
os._exit(0)  # as if killed: who closes the file would clear away what a refused commit left in it
"""

APPROVE = """
import os, sys
from nexus_control.errors import NexusError
from nexus_control.tool import NexusControlTools
try:
    result = NexusControlTools(db_path="decisions.db").approve(sys.argv[1], {"type": "human", "id": "carol"})
    print("acknowledged" if result.success else f"{result.code}: {result.error}", flush=True)
except NexusError as error:
    print(error.describe(), flush=True)
os._exit(0)
"""


def under_strace(folder: Path, name: str, inject: str, driver: str = EXECUTE) -> subprocess.CompletedProcess[str]:
    return traced(folder, driver, name, inject.partition(":")[0], inject)


def traced(folder: Path, driver: str, argument: str, calls: str, *inject: str) -> subprocess.CompletedProcess[str]:
    """Run a program with these system calls noted in the file `trace`, and some of them failing."""
    failing = [word for one in inject for word in ("-e", f"inject={one}")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["strace", "-f", "-o", "trace", "-e", f"trace={calls}", *failing, sys.executable, "-c", driver, argument]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200)
    if "ptrace" in done.stderr or "PTRACE" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr[-200:]}")
    return done


def failures(
    place: Path, name: str, inject: str, driver: str = EXECUTE, *, on: str = "", every: int = 4
) -> Iterator[tuple[Path, subprocess.CompletedProcess[str], int]]:
    """A call in fresh copies of the folder, with the first, second ... of some system calls failing, until none is left.

    With `on="+"` those after it fail as well. Unless all are asked for, one of `every` is tried.
    """
    for number, copy in enumerate(snapshots(place), 1):
        if number > 3 and not EVERY_STEP and number % every:
            continue
        done = under_strace(copy, name, f"{inject}:when={number}{on}", driver)
        trace = (copy / "trace").read_text()
        if "INJECTED" not in trace and "SIGKILL" not in trace:
            assert number > 4
            return
        yield copy, done, number


def require_sound(copy: Path, name: str, before: int, told: str, where: str) -> None:
    """Nothing is lost or half there, the program ran once at most, and whatever was told is so."""
    found = state_of(copy / "decisions.db")
    new, runs = found.facts - before, len(lines_of(copy / "ran"))
    assert new in (0, 2, 3), where
    assert runs <= 1, where
    assert runs == 1 or new in (0, 2), where
    if told == "acknowledged\n":
        assert (new, runs) == (3, 1), where
    with DecisionStore(copy / "decisions.db") as store:
        again = NexusControlTools(store).recover_execution(name, ALICE)
        assert (again.code or "ok") == ("ok" if new == 2 else "NOTHING_TO_RECOVER"), where


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@needs_strace
def test_a_process_that_is_killed_inside_its_writes_to_the_files_leaves_all_or_nothing(place: Path) -> None:
    name = prepared(place)
    before = state_of(place / "decisions.db").facts
    for copy, done, number in failures(place, name, "pwrite64,fdatasync,ftruncate,unlink:signal=SIGKILL"):
        assert done.returncode != 0
        require_sound(copy, name, before, done.stdout, f"killed in system call {number}")


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_write_that_the_device_refuses_is_named_and_leaves_all_or_nothing(place: Path, error: str) -> None:
    name = prepared(place)
    before = state_of(place / "decisions.db").facts
    codes: set[str] = set()
    for copy, done, number in failures(place, name, f"pwrite64,fdatasync,ftruncate:error={error}"):
        where = f"{error} in system call {number}: {done.stdout}{done.stderr}"
        assert done.returncode == 0, where
        told = done.stdout.partition(":")[0].strip()
        codes.add(told)
        assert told in ("acknowledged", "STORE_ERROR", "STORE_FULL", "OUTCOME_NOT_RECORDED"), where
        assert told == "acknowledged" or "check the disk" in done.stdout or "free some space" in done.stdout, where
        assert state_of(copy / "decisions.db").facts - before == {"acknowledged": 3, "OUTCOME_NOT_RECORDED": 2}.get(told, 0), where
        require_sound(copy, name, before, done.stdout, where)
    assert codes - {"acknowledged"}


@needs_strace
@pytest.mark.parametrize(
    ("call", "error", "on"),
    [("fdatasync", "EIO", ""), ("fdatasync", "ENOSPC", "+"), ("pwrite64", "ENOSPC", "")]
    if not EVERY_STEP
    else list(itertools.product(("pwrite64", "fdatasync"), ("EIO", "ENOSPC"), ("", "+"))),
)
def test_an_approval_that_was_refused_because_of_the_disk_does_not_come_back_with_the_next_process(
    place: Path, call: str, error: str, on: str
) -> None:
    name = prepared(place)
    before = state_of(place / "decisions.db")
    codes: set[str] = set()
    for copy, done, number in failures(place, name, f"{call}:error={error}", APPROVE, on=on, every=1):
        where = f"{error} in {call} {number}{on}: {done.stdout}{done.stderr}"
        assert done.returncode == 0, where
        told = done.stdout.partition(":")[0].strip()
        codes.add(told)
        found = state_of(copy / "decisions.db")
        added = found.facts - before.facts
        assert found.decisions[name].count(EventType.APPROVAL_GRANTED) == before.decisions[name].count(EventType.APPROVAL_GRANTED) + added
        possible = {"acknowledged": {1}, "STORE_ERROR": {0}, "STORE_FULL": {0}, "COMMIT_UNKNOWN": {0, 1}}
        assert added in possible[told], where
    assert codes - {"acknowledged"}
    # A page for which there was no room is not there, and a commit is not whole without it. Of one that failed otherwise nobody knows.
    assert ("COMMIT_UNKNOWN" in codes) == (on == "+" and (call, error) != ("pwrite64", "ENOSPC")), codes


IN_DOUBT = """
import os, signal, sys
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools
name, log, then = sys.argv[1].split(",")
other = DecisionStore("decisions.db")
assert len(other.list_decisions()) == 1  # from here on it keeps the write-ahead log in use, also when the first store is closed
tools = NexusControlTools(db_path="decisions.db")
if log == "in use":
    assert tools.request("Another", {"type": "human", "id": "alice"}).success
def approve(who):
    result = tools.approve(name, {"type": "human", "id": who})
    assert tools.status(name).success
    os.write(1, (result.code or "acknowledged").encode() + b" ")
approve("carol")
if then == "close":
    tools.store.close()
else:
    for _ in range(3):
        approve("bob")  # who has approved: refused for what was read, so nothing is written
os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_strace
@pytest.mark.parametrize("log", ["empty", "in use"])
@pytest.mark.parametrize(
    ("then", "again", "told", "stored"),
    [
        ("go on", "", ["COMMIT_UNKNOWN", "ALREADY_APPROVED", "ALREADY_APPROVED", "ALREADY_APPROVED"], 0),
        ("go on", "+", ["COMMIT_UNKNOWN", "COMMIT_UNKNOWN", "COMMIT_UNKNOWN", "COMMIT_UNKNOWN"], 1),
        ("close", "", ["COMMIT_UNKNOWN"], 0),
        ("close", "+", ["COMMIT_UNKNOWN"], 1),
    ],
)
def test_a_commit_of_unknown_outcome_is_taken_back_before_anything_else_is_refused_or_the_store_is_closed(
    place: Path, log: str, then: str, again: str, told: list[str], stored: int
) -> None:
    """`stored`: whether the approval is there after a kill, when its sync failed, and then one write, or (`+`) all that followed."""
    name = prepared(place)
    before = state_of(place / "decisions.db").decisions[name].count(EventType.APPROVAL_GRANTED)
    copies = snapshots(place)
    survey = next(copies)
    assert traced(survey, IN_DOUBT, f"{name},{log},{then}", "pwrite64,fdatasync,write").stdout.startswith("acknowledged ")
    until = (survey / "trace").read_text().partition("write(1,")[0]
    synced, written = until.count("fdatasync("), until.count("pwrite64(")
    copy = next(copies)
    failing = (f"fdatasync:error=EIO:when={synced}", f"pwrite64:error=EIO:when={written + 1}{again}")
    done = traced(copy, IN_DOUBT, f"{name},{log},{then}", "pwrite64,fdatasync", *failing)
    assert done.stdout.split() == told, done
    assert state_of(copy / "decisions.db").decisions[name].count(EventType.APPROVAL_GRANTED) - before == stored
    copies.close()
