"""Backups that are whole or not there, restores that keep what was there, and a doctor that names each thing that is wrong."""

import json
import os
import re
import shlex
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ROOT, CommandLine, without_root_powers
from typer.testing import CliRunner

from nexus_attest.attestation import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.cli.app import app
from nexus_attest.operations import (
    Backup,
    BackupExists,
    BackupUnsound,
    Finding,
    Paths,
    StoreExists,
    StoreInUse,
    back_up,
    backup,
    diagnose,
    restore,
)
from nexus_attest.routers.event_ids import event_ids
from nexus_attest.routers.run_store import RunRecorder, RunStore
from nexus_control.errors import FileRefused, InputError, StoreUnreadable
from nexus_control.events import Actor, EventType
from nexus_control.file_copy import LogHead, copy_file, examine_file
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

ALICE = Actor(type="human", id="alice")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def fill(path: Path, *names: str) -> LogHead:
    with DecisionStore(path) as store:
        for name in names or ("d0", "d1"):
            store.append_events(name, [(EventType.DECISION_CREATED, ALICE, {"goal": "g"})], create=True)
        return LogHead(*store.log_root())


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def tamper(path: Path, *afterwards: str) -> None:
    edit(path, "DROP TRIGGER decision_events_refuse_update", "UPDATE decision_events SET actor_id = 'mallory'", *afterwards)


def make_older(path: Path) -> None:
    """Make the file one of the release before imports were counted."""
    triggers = [f"DROP TRIGGER imports_refuse_{event}" for event in ("update", "delete", "insert")]
    edit(path, *triggers, "DROP TABLE imports", "PRAGMA user_version = 2")


def runs_file(path: Path, execution_id: str | None = None) -> Path:
    """A file of run records with one run that ended."""
    store = RunStore(path)
    recorder = RunRecorder(store, "run-1", clock=lambda: NOON, new_id=event_ids())
    recorder.begin("apply", "goal", ("REQUEST_RECORDED", {"execution_id": execution_id or "evt_d0_1"}))
    recorder.end(("RUN_COMPLETED", {"outcome": "ok"}))
    store.close()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- backup -----------------------------------------------------------------------------------------------------------------------


def test_a_backup_is_one_private_file_with_the_same_log_and_the_run_records_beside_it(tmp_path: Path) -> None:
    head = fill(tmp_path / "s.db")
    runs_file(tmp_path / "s.db.runs")
    made = back_up(tmp_path / "s.db", tmp_path / "b.db")
    assert (made.head, made.findings, made.bytes) == (head, (), (tmp_path / "b.db").stat().st_size)
    assert made.runs == tmp_path / "b.db.runs"
    assert examine_file(tmp_path / "b.db").head == head
    with closing(RunStore(tmp_path / "b.db.runs")) as runs:
        assert runs.read("run-1")[0]["status"] == "COMPLETED"
    assert names(tmp_path) == ["b.db", "b.db.runs", "s.db", "s.db.runs"]
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("b.db", "b.db.runs")] == [0o600, 0o600]


@pytest.mark.parametrize("place", ["b.db", "b.db.runs"])
@pytest.mark.parametrize("link", [False, True])
def test_a_backup_replaces_nothing_not_even_a_link_to_nowhere(tmp_path: Path, place: str, link: bool) -> None:
    fill(tmp_path / "s.db")
    if link:
        (tmp_path / place).symlink_to(tmp_path / "nowhere")
    else:
        (tmp_path / place).write_text("precious")
    with pytest.raises(BackupExists):
        back_up(tmp_path / "s.db", tmp_path / "b.db")
    assert names(tmp_path) == sorted([place, "s.db"])
    assert link or (tmp_path / place).read_text() == "precious"


def test_a_file_that_appears_while_the_backup_is_made_is_not_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")

    def appear(_done: int, _total: int) -> None:
        (tmp_path / "b.db").write_text("precious")

    with pytest.raises(BackupExists):
        back_up(tmp_path / "s.db", tmp_path / "b.db", progress=appear)
    assert (tmp_path / "b.db").read_text() == "precious"
    assert names(tmp_path) == ["b.db", "s.db"]


def test_a_store_that_does_not_verify_is_not_backed_up_unless_it_is_wanted_as_evidence(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    tamper(tmp_path / "s.db")
    with pytest.raises(BackupUnsound, match="no backup was made") as refused:
        back_up(tmp_path / "s.db", tmp_path / "b.db")
    assert refused.value.findings
    assert names(tmp_path) == ["s.db"]
    made = back_up(tmp_path / "s.db", tmp_path / "b.db", keep_unsound=True)
    assert made.findings == refused.value.findings
    assert names(tmp_path) == ["b.db", "s.db"]


def test_a_copy_whose_log_is_another_one_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "s.db")
    other = tmp_path / "other.db"
    fill(other, "x", "y")

    def confuse(_source: Path, target: Path, **_: object) -> LogHead | None:
        copy_file(other, target)
        return examine_file(tmp_path / "s.db").head

    monkeypatch.setattr(backup, "copy_file", confuse)
    with pytest.raises(BackupUnsound, match="another root"):
        back_up(tmp_path / "s.db", tmp_path / "b.db")
    assert names(tmp_path) == ["other.db", "s.db"]


def test_damaged_run_records_are_told_and_the_store_is_backed_up(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    runs = runs_file(tmp_path / "s.db.runs")
    edit(runs, "DROP TRIGGER runs_refuse_delete", "DELETE FROM runs")
    with pytest.raises(BackupUnsound, match=r"run records .* are damaged"):
        back_up(tmp_path / "s.db", tmp_path / "b.db")
    assert names(tmp_path) == ["b.db", "s.db", "s.db.runs"]


@pytest.mark.parametrize(("source", "target"), [("nothing.db", "b.db"), ("s.db", "nowhere/b.db"), ("runs", "b.db"), (".", "b.db")])
def test_a_backup_of_nothing_or_to_nowhere_is_refused_by_name(tmp_path: Path, source: str, target: str) -> None:
    fill(tmp_path / "s.db")
    runs_file(tmp_path / "runs")
    with pytest.raises(FileRefused):
        back_up(tmp_path / source, tmp_path / target)
    assert names(tmp_path) == ["runs", "s.db"]


def test_run_records_that_are_named_and_not_there_are_not_left_out_in_silence(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    with pytest.raises(FileRefused, match="there is no file"):
        back_up(tmp_path / "s.db", tmp_path / "b.db", runs=tmp_path / "runs")
    runs_file(tmp_path / "runs")
    assert back_up(tmp_path / "s.db", tmp_path / "b.db", runs=tmp_path / "runs").runs == tmp_path / "b.db.runs"


def test_a_backup_before_an_update_can_be_read_by_the_older_release(tmp_path: Path) -> None:
    head = fill(tmp_path / "s.db")
    make_older(tmp_path / "s.db")
    assert back_up(tmp_path / "s.db", tmp_path / "b.db").head == head
    assert [examine_file(tmp_path / name).outdated for name in ("s.db", "b.db")] == [True, True]


def test_a_backup_of_a_store_under_load_verifies_and_no_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path)
    end = threading.Event()
    written: list[int] = []

    def write(number: int) -> None:
        with DecisionStore(path) as store:
            count = 0
            while not end.is_set():
                store.append_events(f"w{number}-{count}", [(EventType.DECISION_CREATED, ALICE, {"goal": "g"})], create=True)
                count += 1
            written.append(count)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    made: list[Backup] = []
    try:
        with DecisionStore(path) as store:
            for number in range(3):
                while store.log_root()[0] <= (made[-1].head.size if made else 0):
                    time.sleep(0.001)
                made.append(back_up(path, tmp_path / f"b{number}.db"))
    finally:
        end.set()
        for writer in writers:
            writer.join()
    with DecisionStore(path) as store:
        for copy in made:
            assert store.log_root(copy.head.size)[1] == copy.head.root
        assert store.log_root()[0] == 4 + 2 * sum(written)
    assert made[0].head.size < made[1].head.size < made[2].head.size


KILLED = """
import os, signal, sys
from pathlib import Path
from nexus_attest.operations import back_up, backup
step = sys.argv[1]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if step == "sync_folder":
    backup.sync_folder = die
else:
    setattr(backup, step, die)
back_up(Path("s.db"), Path("b.db"))
"""


@pytest.mark.parametrize(("step", "whole"), [("copy_file", False), ("examine_file", False), ("_sync_file", False), ("sync_folder", True)])
def test_a_backup_that_is_killed_leaves_no_file_under_its_name_or_a_whole_one(tmp_path: Path, step: str, whole: bool) -> None:
    head = fill(tmp_path / "s.db")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", KILLED, step], cwd=tmp_path, env=env, check=False)
    assert done.returncode == -9
    assert (tmp_path / "b.db").exists() is whole
    assert not whole or examine_file(tmp_path / "b.db").head == head
    (leftover,) = (found for found in diagnose(Paths(store=tmp_path / "s.db"), clock=lambda: NOON) if found.code == "BACKUP_LEFTOVER")
    assert Path(leftover.subject).is_dir()


# -- restore ----------------------------------------------------------------------------------------------------------------------


def test_a_backup_comes_back_where_there_is_no_store(tmp_path: Path) -> None:
    head = fill(tmp_path / "s.db")
    runs_file(tmp_path / "s.db.runs")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    (tmp_path / "new").mkdir()
    done = restore(tmp_path / "b.db", tmp_path / "new" / "s.db")
    assert (done.head, done.kept, done.undone) == (head, None, None)
    assert done.runs == tmp_path / "new" / "s.db.runs"
    assert names(tmp_path / "new") == ["s.db", "s.db.runs"]
    with DecisionStore(tmp_path / "new" / "s.db") as store:
        assert store.verify_log().ok
        store.create_decision("goes on")


def test_a_store_that_is_there_is_never_replaced_unasked(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    fill(tmp_path / "s.db", "d2")
    content = (tmp_path / "s.db").read_bytes()
    with pytest.raises(StoreExists):
        restore(tmp_path / "b.db", tmp_path / "s.db")
    assert (tmp_path / "s.db").read_bytes() == content
    assert names(tmp_path) == ["b.db", "s.db"]


def test_a_replaced_store_is_kept_and_the_rollback_is_told(tmp_path: Path) -> None:
    head = fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    later = fill(tmp_path / "s.db", "d2")
    (tmp_path / "s.db").chmod(0o640)
    done = restore(tmp_path / "b.db", tmp_path / "s.db", replace=True, clock=lambda: NOON)
    kept = tmp_path / "s.db.20260301T120000000000Z.replaced"
    assert (done.kept, done.head, done.before, done.undone) == (kept, head, later, 2)
    assert examine_file(kept).head == later
    assert examine_file(tmp_path / "s.db").head == head
    assert stat.S_IMODE((tmp_path / "s.db").stat().st_mode) == 0o640


def test_a_store_that_somebody_has_open_is_not_moved(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    with DecisionStore(tmp_path / "s.db") as store:
        store.create_decision("later")
        with pytest.raises(StoreInUse):
            restore(tmp_path / "b.db", tmp_path / "s.db", replace=True)
        assert store.decision_exists("later")
        store.create_decision("still works")
    assert names(tmp_path) == ["b.db", "s.db"]


def test_a_clock_without_an_offset_moves_no_store_and_is_not_judged_by(tmp_path: Path) -> None:
    def naive() -> datetime:
        return datetime(2026, 3, 1, 12)

    fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    later = fill(tmp_path / "s.db", "d2")
    with pytest.raises(InputError, match="clock must give times with an offset"):
        restore(tmp_path / "b.db", tmp_path / "s.db", replace=True, clock=naive)
    with pytest.raises(InputError, match="clock must give times with an offset"):
        diagnose(Paths(store=tmp_path / "s.db"), clock=naive)
    assert examine_file(tmp_path / "s.db").head == later
    assert names(tmp_path) == ["b.db", "s.db"]


def test_a_damaged_store_is_replaced_and_kept_with_what_belongs_to_it(tmp_path: Path) -> None:
    head = fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    (tmp_path / "s.db").write_bytes(b"junk")
    (tmp_path / "s.db-wal").write_bytes(b"more junk")
    done = restore(tmp_path / "b.db", tmp_path / "s.db", replace=True, clock=lambda: NOON)
    assert done.kept is not None
    assert (done.before, done.undone) == (None, None)
    assert done.kept.read_bytes() == b"junk"
    assert (tmp_path / f"{done.kept.name}-wal").read_bytes() == b"more junk"
    assert examine_file(tmp_path / "s.db").head == head


def test_a_write_ahead_log_without_its_store_is_not_taken_for_that_of_the_restored_one(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    store = DecisionStore(tmp_path / "s.db")
    store.create_decision("later")
    log = (tmp_path / "s.db-wal").read_bytes()
    store.close()
    (tmp_path / "s.db").unlink()
    (tmp_path / "s.db-wal").write_bytes(log)
    restore(tmp_path / "b.db", tmp_path / "s.db", clock=lambda: NOON)
    with DecisionStore(tmp_path / "s.db") as restored:
        assert not restored.decision_exists("later")
        assert restored.verify_log().ok
    assert (tmp_path / "s.db.20260301T120000000000Z.replaced-wal").read_bytes() == log


def overwrite(path: Path) -> None:
    path.write_bytes(b"junk")


def disown(path: Path) -> None:
    edit(path, "PRAGMA application_id = 9")


@pytest.mark.parametrize("spoil", [tamper, overwrite, disown])
def test_a_backup_that_does_not_verify_is_not_restored_and_nothing_changes(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    head = fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    spoil(tmp_path / "b.db")
    with pytest.raises((BackupUnsound, StoreUnreadable)):
        restore(tmp_path / "b.db", tmp_path / "s.db", replace=True)
    assert names(tmp_path) == ["b.db", "s.db"]
    assert examine_file(tmp_path / "s.db").head == head


@pytest.mark.parametrize(("source", "error"), [("nothing.db", FileRefused), ("runs", FileRefused), (".", FileRefused)])
def test_what_is_no_backup_is_not_restored(tmp_path: Path, source: str, error: type[Exception]) -> None:
    runs_file(tmp_path / "runs")
    with pytest.raises(error):
        restore(tmp_path / source, tmp_path / "s.db")
    assert names(tmp_path) == ["runs"]


def test_run_records_are_put_only_where_there_are_none(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    runs_file(tmp_path / "s.db.runs")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    with closing(RunStore(tmp_path / "s.db.runs")) as runs:
        RunRecorder(runs, "run-2", clock=lambda: NOON, new_id=event_ids()).begin("apply", "later")
    assert restore(tmp_path / "b.db", tmp_path / "s.db", replace=True).runs is None
    with closing(RunStore(tmp_path / "s.db.runs")) as runs:
        assert len(runs.runs(limit=9)) == 2


def test_a_backup_comes_back_when_the_store_stands_in_a_folder_that_only_root_writes(tmp_path: Path) -> None:
    prefix = without_root_powers()
    if prefix is None:
        pytest.skip("this user writes everywhere, and that cannot be taken away here")
    fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    cli = CommandLine(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    ended = cli.run("restore", "b.db", "--db", "closed/s.db", "--json", prefix=prefix)
    assert (ended.code, ended.document["code"]) == (1, "IO_ERROR")
    assert names(tmp_path / "closed") == []


# -- doctor -----------------------------------------------------------------------------------------------------------------------


def found(path: Path, *, now: datetime | None = None, quick: bool = False, runs: Path | None = None) -> dict[str, Finding]:
    """The findings by code, without those that every store in these folders has."""
    clock = (lambda: datetime.now(UTC)) if now is None else (lambda: now)  # noqa: TID251
    findings = diagnose(Paths(store=path, runs=runs, options=f" --db {path}"), quick=quick, clock=clock)
    assert [finding.severity for finding in findings] == sorted(
        (finding.severity for finding in findings), key=("error", "warning", "note").index
    )
    assert all(finding.next and finding.text for finding in findings)
    return {finding.code: finding for finding in findings if finding.code not in ("CHECKPOINT_MISSING", "STORE_READABLE_BY_OTHERS")}


def severities(findings: dict[str, Finding]) -> dict[str, str]:
    return {code: finding.severity for code, finding in findings.items()}


def executing(path: Path, when: datetime) -> str:
    """The id of a decision that has been under execution since then, and of the execution."""
    with DecisionStore(path, clock=lambda: when) as store:
        tools = NexusControlTools(store)
        decision_id = tools.request("g", ALICE).data["request_id"]
        tools.approve(decision_id, ALICE)
        store.append_event(decision_id, EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "a", "dry_run": True})
        store.append_event(decision_id, EventType.EXECUTION_STARTED, ALICE, {"router_request_digest": ""})
        return decision_id


def test_nothing_is_found_wrong_with_a_sound_store(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    runs_file(tmp_path / "s.db.runs", "evt_d0_7")
    edit(tmp_path / "s.db.runs", "DROP TRIGGER events_refuse_update", "UPDATE events SET payload_json = '{}'")
    assert found(tmp_path / "s.db") == {}  # a record that names no execution is told by its own checks


def test_a_missing_store_is_one_finding_and_the_doctor_makes_none(tmp_path: Path) -> None:
    assert severities(found(tmp_path / "s.db")) == {"STORE_NOT_FOUND": "error"}
    assert names(tmp_path) == []


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"junk")
    assert severities(found(tmp_path / "s.db")) == {"STORE_UNREADABLE": "error"}
    runs_file(tmp_path / "runs")
    assert severities(found(tmp_path / "runs")) == {"STORE_NOT_FOUND": "error"}
    fill(tmp_path / "new.db")
    edit(tmp_path / "new.db", "PRAGMA user_version = 200")
    assert severities(found(tmp_path / "new.db")) == {"SCHEMA_TOO_NEW": "error"}


def test_an_old_schema_is_told_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path)
    make_older(path)
    assert severities(found(path)) == {"SCHEMA_OUTDATED": "warning"}
    assert severities(found(path)) == {"SCHEMA_OUTDATED": "warning"}
    assert "backup" in found(path)["SCHEMA_OUTDATED"].next


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("times", [1, 24])
@pytest.mark.parametrize("table", ["decisions", "decision_events", "log"])
def test_a_store_with_a_view_in_the_place_of_a_table_is_told_to_be_restored(tmp_path: Path, table: str, times: int, quick: bool) -> None:
    path = tmp_path / "s.db"
    fill(path)
    kept = ", ".join(f"kept AS k{number}" for number in range(times))
    edit(path, f"ALTER TABLE {table} RENAME TO kept", f"CREATE VIEW {table} AS SELECT k0.* FROM {kept}")
    codes = found(path, quick=quick)
    assert set(codes) <= {"STORE_UNREADABLE", "STORE_DAMAGED", "LOG_VERIFICATION_FAILED"}
    assert any("restore BACKUP --replace" in finding.next for finding in codes.values())
    with pytest.raises((BackupUnsound, FileRefused, StoreUnreadable)):
        back_up(path, tmp_path / "b.db")
    assert names(tmp_path) == ["s.db"]


def test_a_store_without_its_log_is_damaged_and_no_other_kind_of_file(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    edit(tmp_path / "s.db", "DROP TABLE log")
    assert severities(found(tmp_path / "s.db")) == {"STORE_DAMAGED": "error"}


def test_facts_that_changed_are_found_unless_it_has_to_be_quick(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        (trigger,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'decision_events_refuse_update'").fetchone()
    tamper(tmp_path / "s.db", trigger)
    assert severities(found(tmp_path / "s.db")) == {"LOG_VERIFICATION_FAILED": "error"}
    assert found(tmp_path / "s.db", quick=True) == {}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DROP TRIGGER log_refuse_update", "the trigger log_refuse_update is missing or was changed"),
        (
            "CREATE TRIGGER other BEFORE INSERT ON log BEGIN SELECT RAISE(IGNORE); END",
            "the trigger 'other' on log is not of this schema",
        ),
    ],
)
def test_what_guards_the_rows_of_a_file_is_looked_at_also_when_it_has_to_be_quick(
    tmp_path: Path, statement: str, problem: str, quick: bool
) -> None:
    fill(tmp_path / "s.db")
    edit(tmp_path / "s.db", statement)
    altered = found(tmp_path / "s.db", quick=quick)
    assert severities(altered) == {"LOG_VERIFICATION_FAILED": "error"}
    assert altered["LOG_VERIFICATION_FAILED"].text == f"1 fact not as written, the first: schema: {problem}"


def test_damage_is_found_also_when_it_has_to_be_quick(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    edit(tmp_path / "s.db", "DROP TRIGGER decisions_refuse_delete", "DELETE FROM decisions WHERE decision_id = 'd1'")
    assert severities(found(tmp_path / "s.db", quick=True)) == {"STORE_DAMAGED": "error"}


def test_a_clock_that_was_set_back_is_found(tmp_path: Path) -> None:
    with DecisionStore(tmp_path / "s.db", clock=lambda: NOON) as store:
        store.append_events("d", [(EventType.DECISION_CREATED, ALICE, {})], create=True)
    assert found(tmp_path / "s.db", now=NOON - timedelta(seconds=4)) == {}
    behind = found(tmp_path / "s.db", now=NOON - timedelta(hours=1))["CLOCK_BEHIND"]
    assert (behind.severity, behind.subject) == ("error", "2026-03-01T12:00:00+00:00")
    assert "3600 s ahead" in behind.text


def test_a_store_that_anybody_can_change_is_an_error_and_one_that_anybody_can_read_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    path = folder / "s.db"
    fill(path)
    codes: dict[int, set[str]] = {}
    for mode in (0o600, 0o644, 0o666):
        path.chmod(mode)
        codes[mode] = {finding.code for finding in diagnose(Paths(store=path))} - {"CHECKPOINT_MISSING"}
    assert codes == {0o600: set(), 0o644: {"STORE_READABLE_BY_OTHERS"}, 0o666: {"STORE_WRITABLE_BY_OTHERS"}}
    folder.chmod(0o700)
    assert {finding.code for finding in diagnose(Paths(store=path))} == {"CHECKPOINT_MISSING"}
    path.chmod(0o600)
    folder.chmod(0o777)
    assert "STORE_WRITABLE_BY_OTHERS" in found(path)


def test_a_full_disk_and_a_long_write_ahead_log_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "s.db")
    monkeypatch.setattr("nexus_attest.operations.doctor._LEAST_FREE_BYTES", 1 << 62)
    monkeypatch.setattr("nexus_attest.operations.doctor._LARGE_LOG_BYTES", 1000)
    with DecisionStore(tmp_path / "s.db") as store:
        store.create_decision()
        assert severities(found(tmp_path / "s.db")) == {"DISK_LOW": "warning", "WAL_LARGE": "warning"}


def test_an_unreadable_decision_is_named_and_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path)
    with DecisionStore(path) as store:
        store.insert_event_raw("d0", 1, "NONSENSE", "2026-01-01T00:00:00+00:00", "human", "x", "{}", "")
    decision_id = executing(path, NOON)
    codes = found(path, now=NOON + timedelta(hours=2), quick=True)
    assert codes["DECISION_UNREADABLE"].subject == "d0"
    assert codes["EXECUTION_STUCK"].subject == decision_id


def test_without_run_records_an_execution_is_stuck_after_an_hour(tmp_path: Path) -> None:
    decision_id = executing(tmp_path / "s.db", NOON)
    under_way = found(tmp_path / "s.db", now=NOON + timedelta(minutes=59))
    assert severities(under_way) == {"EXECUTION_UNDER_WAY": "note"}
    stuck = found(tmp_path / "s.db", now=NOON + timedelta(minutes=61))
    assert severities(stuck) == {"EXECUTION_STUCK": "warning"}
    assert f"nexus-attest recover {decision_id} --actor NAME --db {tmp_path / 's.db'}" in stuck["EXECUTION_STUCK"].next


def test_the_run_record_tells_a_dead_execution_from_a_living_one_and_from_one_that_ended(tmp_path: Path) -> None:
    decision_id = executing(tmp_path / "s.db", NOON)
    runs = RunStore(tmp_path / "s.db.runs")
    recorder = RunRecorder(runs, "run-1", clock=lambda: NOON, new_id=event_ids())
    with runs.lock("run-1"):
        recorder.begin("apply", "goal", ("REQUEST_RECORDED", {"execution_id": f"evt_{decision_id}_3"}))
        assert severities(found(tmp_path / "s.db", now=NOON)) == {"EXECUTION_UNDER_WAY": "note"}
    dead = found(tmp_path / "s.db", now=NOON)
    assert severities(dead) == {"EXECUTION_STUCK": "error", "RUN_INTERRUPTED": "warning"}
    assert runs.read("run-1")[0]["status"] == "RUNNING"
    recorder.end(("RUN_COMPLETED", {"outcome": "ok"}))
    assert severities(found(tmp_path / "s.db", now=NOON)) == {"OUTCOME_NOT_RECORDED": "error"}
    runs.close()


def test_an_execution_that_nobody_requested_is_not_taken_for_the_one_before_it(tmp_path: Path) -> None:
    decision_id = executing(tmp_path / "s.db", NOON)
    with closing(RunStore(tmp_path / "s.db.runs")) as runs:
        recorder = RunRecorder(runs, "run-1", clock=lambda: NOON, new_id=event_ids())
        with runs.lock("run-1"):
            recorder.begin("apply", "goal", ("REQUEST_RECORDED", {"execution_id": f"evt_{decision_id}_3"}))
        recorder.end(("RUN_COMPLETED", {"outcome": "ok"}))
    with DecisionStore(tmp_path / "s.db") as store:
        store.append_event(decision_id, EventType.EXECUTION_COMPLETED, ALICE, {"run_id": "run-1", "response_digest": "d"})
        store.append_event(decision_id, EventType.EXECUTION_STARTED, ALICE, {"router_request_digest": "d"})
    assert "OUTCOME_NOT_RECORDED" not in found(tmp_path / "s.db", now=NOON + timedelta(hours=2))


def test_a_run_of_which_a_rolled_back_store_knows_nothing_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path)
    back_up(path, tmp_path / "b.db")
    decision_id = executing(path, NOON)
    runs_file(tmp_path / "s.db.runs", f"evt_{decision_id}_3")
    assert severities(found(path, now=NOON + timedelta(days=9999))) == {"OUTCOME_NOT_RECORDED": "error"}
    restore(tmp_path / "b.db", path, replace=True)
    forgotten = found(path)["RUN_NOT_IN_STORE"]
    assert (forgotten.severity, forgotten.subject) == ("error", "run-1")
    assert decision_id in forgotten.text


def test_a_run_of_a_decision_that_was_deleted_or_replaced_is_known(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    fill(path)
    runs_file(tmp_path / "s.db.runs", "evt_d0_1")
    assert severities(found(path)) == {"RUN_NOT_IN_STORE": "error"}
    with DecisionStore(path) as store:
        store.delete_decision("d0")
    assert found(path) == {}


def test_damaged_and_foreign_run_records_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    runs = runs_file(tmp_path / "runs")
    edit(runs, "DROP TRIGGER runs_refuse_delete", "DELETE FROM runs")
    assert severities(found(tmp_path / "s.db", runs=runs)) == {"RUNS_DAMAGED": "error"}
    (tmp_path / "other").write_bytes(b"junk")
    other = found(tmp_path / "s.db", runs=tmp_path / "other")
    assert severities(other) == {"STORE_UNREADABLE": "error"}
    assert other["STORE_UNREADABLE"].subject == str(tmp_path / "other")


def test_a_queue_that_nobody_works_on_is_a_warning_and_so_is_one_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with DecisionStore(path, clock=lambda: NOON) as store:
        store.append_events("d", [(EventType.DECISION_CREATED, ALICE, {})], create=True)
    intents = [AttestationIntent("nexus.audit_package", f"sha256:{digit * 64}") for digit in "0123"]
    with AttestationQueue(path, clock=lambda: NOON) as queue:
        ids = [queue.enqueue(intent) for intent in intents]
        for queue_id, status in zip(ids[1:], ("CONFIRMED", "FAILED", "SUBMITTED"), strict=True):
            queue.storage.update_intent_status(queue_id, status, 1, "2026-03-01T12:00:00+00:00")
    assert severities(found(path, now=NOON + timedelta(minutes=59), quick=True)) == {"QUEUE_FAILED": "warning"}
    later = diagnose(Paths(store=path), clock=lambda: NOON + timedelta(minutes=61))
    stalled = [(finding.severity, finding.subject) for finding in later if finding.code == "QUEUE_STALLED"]
    assert stalled == [("warning", ids[0]), ("warning", ids[3])]


@pytest.mark.parametrize(("queued_at", "alone"), [("2026-03-01T12:00:00Z", True), ("2026-03-01T12:30:00Z", False), ("some day", True)])
def test_an_intent_that_was_sent_alone_long_ago_is_a_warning_of_its_own(tmp_path: Path, queued_at: str, alone: bool) -> None:
    path = tmp_path / "s.db"
    with DecisionStore(path, clock=lambda: NOON) as store:
        store.append_events("d", [(EventType.DECISION_CREATED, ALICE, {})], create=True)
    with AttestationQueue(path, clock=lambda: NOON) as queue:
        queue_id = queue.enqueue(AttestationIntent("nexus.audit_package", f"sha256:{0:064x}"), created_at=queued_at)
        with queue.claimed(queue_id, "a process"):
            queue.storage.note_sending(queue_id, "a process", "AB" * 32, None)
    told = {"QUEUE_ALONE": "warning"} if alone else {}
    assert severities(found(path, now=NOON + timedelta(minutes=61), quick=True)) == told


def test_many_findings_of_one_kind_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with DecisionStore(path) as store:
        for number in range(25):
            store.create_decision(f"d{number}")
            store.insert_event_raw(f"d{number}", 0, "NONSENSE", "2026-01-01T00:00:00+00:00", "human", "x", "{}", "")
    findings = [finding for finding in diagnose(Paths(store=path), quick=True) if finding.code == "DECISION_UNREADABLE"]
    assert len(findings) == 21
    assert findings[-1].text == "and 5 more like the ones above"


def test_every_code_of_the_doctor_is_explained_to_people() -> None:
    source = (ROOT / "nexus_attest" / "operations" / "doctor.py").read_text()
    codes = set(re.findall(r'(?:code=|code, severity = \(?)"([A-Z_]+)"', source)) | {"EXECUTION_UNDER_WAY"}
    assert len(codes) > 20
    table = (ROOT / "docs" / "operations.md").read_text().partition("## Back up")[0]
    assert {code for code in codes if f"`{code}`" not in table} == set()


# -- command line -----------------------------------------------------------------------------------------------------------------


class Here:
    """Runs commands in this process."""

    def __init__(self, folder: Path) -> None:
        self.db = folder / "s.db"

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == code, (done.exit_code, done.output, done.exception)
        self.err = done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self(*arguments, "--json", code=code))
        return value


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "NEXUS_ATTEST_TRUST", "NEXUS_ATTEST_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEXUS_ATTEST_DB", "s.db")
    return Here(tmp_path)


def test_a_rollback_shows_against_a_checkpoint_that_was_kept(cli: Here) -> None:
    fill(cli.db)
    cli("backup", "b.db")
    fill(cli.db, "d2")
    cli("keys", "new", "log", "--keys", "keys")
    cli("log", "checkpoint", "--key", "keys/log.key", "--origin", "example.org/log", "-o", "kept")
    assert cli.json("log", "verify", "--checkpoint", "kept")["ok"]
    assert cli.json("restore", "b.db", "--replace")["undone"] == 2
    assert cli.json("log", "verify", "--checkpoint", "kept", code=2)["code"] == "LOG_VERIFICATION_FAILED"


def test_the_doctor_tells_programs_and_people_the_same_and_ends_with_1_when_somebody_must_look(cli: Here) -> None:
    fill(cli.db)
    assert cli.json("doctor")["ok"] is True
    assert cli("doctor").endswith(f"Nothing is wrong with {cli.db}\n")
    tamper(cli.db)
    told = cli.json("doctor", code=1)
    assert (told["success"], told["ok"], told["code"]) == (False, False, "ATTENTION_NEEDED")
    finding = next(finding for finding in told["findings"] if finding["severity"] == "error")
    assert finding["code"] == "LOG_VERIFICATION_FAILED"
    out = cli("doctor", code=1)
    assert cli.err == ""
    assert "error  LOG_VERIFICATION_FAILED" in out
    assert "  $ nexus-attest log verify\n" in out


def test_commands_in_what_the_doctor_tells_can_be_read(cli: Here) -> None:
    fill(cli.db)
    edit(cli.db, "ALTER TABLE decisions RENAME TO kept", "CREATE VIEW decisions AS SELECT * FROM kept")
    out = cli("doctor", code=1)
    assert "`nexus-attest log verify` tells more" in out
    assert r"\x60" not in out


def test_a_pipe_is_told_as_what_it_is_where_a_backup_is_looked_for(cli: Here) -> None:
    os.mkfifo("pipe")
    told = cli.json("restore", "pipe", code=2)
    assert (told["code"], told["error"]) == ("FILE_NOT_READABLE", "FILE_NOT_READABLE: pipe is no regular file")


def test_a_policy_that_cannot_be_read_is_told_also_where_the_log_has_no_signature(cli: Here) -> None:
    fill(cli.db)
    assert cli.json("log", "verify")["ok"] is True
    assert cli.json("log", "verify", "--trust", "absent.toml", code=2)["code"] == "TRUST_INVALID"


def test_a_hostile_name_reaches_no_terminal_and_no_shell(cli: Here) -> None:
    name = "\x1b[31m$(touch pwned)\n# heading"
    with DecisionStore(cli.db) as store:
        store.create_decision(name)
        store.insert_event_raw(name, 0, "NONSENSE", "x", "human", "x", "{}", "")
    out = cli("doctor", "--quick", code=1)
    assert "\x1b" not in out
    assert "\n# heading" not in out
    (command,) = (finding["next"] for finding in cli.json("doctor", "--quick", code=1)["findings"] if finding["severity"] == "error")
    assert shlex.split(command) == ["nexus-attest", "log", "verify", name]


def test_a_restore_never_moves_a_folder_aside(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    back_up(tmp_path / "s.db", tmp_path / "b.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileRefused, match="is a folder"):
        restore(tmp_path / "b.db", tmp_path / "folder", replace=True)
    assert names(tmp_path) == ["b.db", "folder", "s.db"]


def test_backup_and_restore_say_what_they_did(cli: Here) -> None:
    head = fill(cli.db)
    made = cli.json("backup", "b.db")
    assert (made["size"], made["root"], made["runs"], made["findings"]) == (4, head.root, None, [])
    again = cli.json("backup", "b.db", code=2)
    assert again["code"] == "BACKUP_EXISTS"
    assert cli.json("restore", "b.db", code=2)["code"] == "STORE_EXISTS"
    out = cli("restore", "b.db", "--replace")
    assert "nexus-attest log verify --checkpoint FILE" in out
    assert "nexus-attest doctor" in out
    cli.db.unlink()
    assert cli.json("backup", "c.db", code=2)["code"] == "STORE_MOVED_ASIDE"
    assert "or what it brought was removed since" in cli.json("list", code=2)["error"]
    (aside,) = cli.db.parent.glob("*.replaced")
    aside.rename("elsewhere.db")
    assert cli.json("backup", "c.db", code=2)["code"] == "STORE_NOT_FOUND"
    tamper(Path("b.db"))
    assert cli.json("backup", "c.db", "--db", "b.db", code=2)["code"] == "BACKUP_UNSOUND"
    assert "does NOT verify" in cli("backup", "c.db", "--db", "b.db", "--keep-unsound")
    assert cli.json("restore", "c.db", code=2)["code"] == "BACKUP_UNSOUND"
