"""What is wrong with a store and what lies beside it, and what to do next.

Each check looks at one thing and yields findings. One that cannot be made is a finding itself, never silence. Nothing is repaired, and no
evidence is touched: the commands that the findings name do that, on somebody's word.
"""

import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from nexus_attest.attestation.storage import AttestationStorage
from nexus_attest.operations.backup import runs_beside
from nexus_attest.routers.run_records import RunRecords
from nexus_attest.routers.run_store import FOREIGN_TABLES
from nexus_control.errors import MalformedEvent, NexusError, StoreError, StoreUnreadable
from nexus_control.events import Clock, EventType, in_utc, parse_time, utc_now
from nexus_control.execution import request_under_way
from nexus_control.file_copy import Examination, examine_file, newest_time
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

__all__ = ["Finding", "Paths", "Severity", "diagnose"]

Severity: TypeAlias = Literal["error", "warning", "note"]
"""error: evidence or the promise of one execution is at stake. warning: somebody must look. note: nothing is wrong, but worth knowing."""

_PAGE = 1000
_MOST_LISTED = 20
"""Of one kind of finding; the rest is counted."""

_PATIENCE = timedelta(hours=1)
"""After this time what waits for somebody is a warning."""

_CLOCK_SLACK = timedelta(seconds=5)
_LEAST_FREE_BYTES = 100_000_000
_LARGE_LOG_BYTES = 64 * 1024 * 1024
"""The write-ahead log is copied into the file every 5 MB or so; larger, and something keeps it from that."""

_EXECUTION_ID = re.compile(r"evt_(.+)_([0-9]{1,18})", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where to look: the store, and its run records (None: beside it). `options` lead a command to the same store, such as ` --db FILE`.

    For a store on a server `store` is the file with the queue, which need not exist, and `name` what to call the store.
    """

    store: Path
    runs: Path | None = None
    options: str = ""
    name: str | None = None

    @property
    def subject(self) -> str:
        """What findings about the store as a whole are about."""
        return str(self.store) if self.name is None else self.name

    @property
    def records(self) -> Path:
        """The file of run records, which need not exist."""
        return runs_beside(self.store) if self.runs is None else self.runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing to know. `code` is stable; `subject` is the file, decision, run or intent; `next` the command to type now."""

    code: str
    severity: Severity
    subject: str
    text: str
    next: str

    def to_dict(self) -> dict[str, str]:
        """All fields."""
        return {"code": self.code, "severity": self.severity, "subject": self.subject, "text": self.text, "next": self.next}


def diagnose(paths: Paths, *, store: SqlStore | None = None, quick: bool = False, clock: Clock = utc_now) -> list[Finding]:
    """Everything that is wrong, the worst first. With `quick` the facts of the log are not recomputed; tables, triggers and rights are
    looked at all the same.

    `store` is one on a server, already open; without it the file is looked at that `paths` names.
    """
    now = in_utc(clock)()
    findings = list(_diagnosed(paths, quick=quick, now=now) if store is None else _served(paths, store, quick=quick, now=now))
    return sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.severity))


def _diagnosed(paths: Paths, *, quick: bool, now: datetime) -> Iterator[Finding]:
    store = paths.store
    if not store.exists():
        yield Finding(
            code="STORE_NOT_FOUND",
            severity="error",
            subject=str(store),
            text="there is no store here",
            next=f"nexus-attest restore BACKUP{paths.options}",
        )
        return
    yield from _permissions(store)
    yield from _surroundings(store)
    try:
        found = examine_file(store, facts=not quick)
    except NexusError as error:
        yield _unreadable(store, error, f"nexus-attest restore BACKUP --replace{paths.options}")
        return
    yield from _contents(paths, found, now)
    if found.damage or found.head is None:
        return
    if found.outdated:
        yield Finding(
            code="SCHEMA_OUTDATED",
            severity="warning",
            subject=str(store),
            text="an older release wrote it; the next command brings it up to date, after which that release cannot read it. "
            "Decisions, runs and the queue were not looked at",
            next=f"nexus-attest backup {shlex.quote(f'{store}.before-update')}{paths.options}",
        )
        return
    try:
        with DecisionStore(store, first_commit=False) as opened:
            yield from _checkpoints(paths, opened)
            yield from _executions(paths, opened, now)
        if "attestation_intents" in found.tables:
            yield from _queue(paths, now)
    except StoreError as error:
        following = "restore BACKUP --replace" if isinstance(error, StoreUnreadable) else "doctor"
        yield _unreadable(store, error, f"nexus-attest {following}{paths.options}")


def _served(paths: Paths, store: SqlStore, *, quick: bool, now: datetime) -> Iterator[Finding]:
    """A store on a server, whose disk, permissions and backups are the server's business."""
    try:
        if problems := _weaknesses(store) if quick else store.verify_log().errors:
            yield _altered(paths, problems)
        yield from _durability(paths, store)
        with store.backend.reading() as connection:
            newest = newest_time(connection)
        if newest is not None:
            yield from _clock(newest, now)
        yield from _checkpoints(paths, store)
        yield from _executions(paths, store, now)
        if paths.store.exists() and "attestation_intents" in examine_file(paths.store, facts=False).tables:
            yield from _queue(paths, now)
    except NexusError as error:
        yield _unreadable(paths.subject, error, f"nexus-attest doctor{paths.options}")


def _weaknesses(store: SqlStore) -> list[str]:
    """What guards the rows and is not as it was made, in a few questions to the catalog."""
    with store.backend.snapshot() as connection:
        return store.dialect.problems(connection)


def _durability(paths: Paths, store: SqlStore) -> Iterator[Finding]:
    from nexus_attest.postgres import PostgresStore  # loaded before, where there is such a store

    if isinstance(store, PostgresStore) and (settings := store.risky_settings()):
        yield Finding(
            code="SERVER_NOT_DURABLE",
            severity="error",
            subject=paths.subject,
            text=f"the server has {' and '.join(settings)} off: when its machine fails, what was acknowledged may be lost",
            next=" -c ".join(
                [
                    f"psql {shlex.quote(paths.subject)}",
                    *(f"'ALTER SYSTEM SET {name} = on'" for name in settings),
                    "'SELECT pg_reload_conf()'",
                ]
            ),
        )


def _unreadable(path: Path | str, error: NexusError, following: str) -> Finding:
    return Finding(code=error.code, severity="error", subject=str(path), text=str(error), next=following)


# -- files ------------------------------------------------------------------------------------------------------------------------


def _permissions(store: Path) -> Iterator[Finding]:
    if not os.access(store, os.W_OK) or not os.access(store.parent, os.W_OK):
        yield Finding(
            code="STORE_READ_ONLY",
            severity="warning",
            subject=str(store),
            text="the file or its folder cannot be written by this user, so nothing can be requested, approved or executed",
            next=f"ls -ld {shlex.quote(str(store.parent))} {shlex.quote(str(store))}",
        )
    if os.name != "posix":
        return
    mode, folder = store.stat().st_mode, store.parent.stat().st_mode
    reachable = folder & stat.S_IXOTH
    if (mode & stat.S_IWOTH and reachable) or folder & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        yield Finding(
            code="STORE_WRITABLE_BY_OTHERS",
            severity="error",
            subject=str(store),
            text="every user of this machine can change or replace it; append-only triggers do not bind an editor of the file",
            next=f"chmod o-w {shlex.quote(str(store))} {shlex.quote(str(store.parent))}",
        )
    elif mode & stat.S_IROTH and reachable:
        yield Finding(
            code="STORE_READABLE_BY_OTHERS",
            severity="note",
            subject=str(store),
            text="every user of this machine can read goals, plans and comments",
            next=f"chmod o-r {shlex.quote(str(store))}",
        )


def _surroundings(store: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(store.parent).free
    if free < _LEAST_FREE_BYTES:
        yield Finding(
            code="DISK_LOW",
            severity="warning",
            subject=str(store.parent),
            text=f"{free / 1e6:.0f} MB are free; when none are left, calls are refused and nothing is lost",
            next=f"df -h {shlex.quote(str(store.parent))}",
        )
    log = store.with_name(store.name + "-wal")
    size = log.stat().st_size if log.exists() else 0
    if size > _LARGE_LOG_BYTES:
        yield Finding(
            code="WAL_LARGE",
            severity="warning",
            subject=str(log),
            text=f"the write-ahead log has {size / 1e6:.0f} MB: some program holds an old view, or it cannot be copied into the store",
            next=f"lsof -- {shlex.quote(str(store))}",
        )
    for leftover in sorted(path for path in store.parent.glob(".nexus-attest-*") if path.is_dir()):  # `demo` marks its folder by a file
        yield Finding(
            code="BACKUP_LEFTOVER",
            severity="note",
            subject=str(leftover),
            text="a backup or restore that was killed left this, unless one is under way; it is no backup",
            next=f"rm -r {shlex.quote(str(leftover))}",
        )


# -- facts ------------------------------------------------------------------------------------------------------------------------


def _contents(paths: Paths, found: Examination, now: datetime) -> Iterator[Finding]:
    store = str(paths.store)
    if found.damage:
        yield Finding(
            code="STORE_DAMAGED",
            severity="error",
            subject=store,
            text=f"{_count(len(found.damage), 'fault')} in the structure of the file, the first: {found.damage[0]}",
            next=f"nexus-attest restore BACKUP --replace{paths.options}",
        )
    elif found.head is None:
        yield Finding(
            code="STORE_NOT_FOUND",
            severity="error",
            subject=store,
            text="this file of nexus-attest holds no decisions; it is another one than the store",
            next="nexus-attest doctor --db FILE",
        )
    if found.problems:
        yield _altered(paths, found.problems)
    if found.newest is not None:
        yield from _clock(found.newest, now)


def _altered(paths: Paths, problems: Sequence[str]) -> Finding:
    return Finding(
        code="LOG_VERIFICATION_FAILED",
        severity="error",
        subject=paths.subject,
        text=f"{_count(len(problems), 'fact')} not as written, the first: {problems[0]}",
        next=f"nexus-attest log verify{paths.options}",
    )


def _clock(newest: str, now: datetime) -> Iterator[Finding]:
    with suppress(MalformedEvent):  # which is a problem of its own
        ahead = parse_time(newest) - now
        if ahead > _CLOCK_SLACK:
            yield Finding(
                code="CLOCK_BEHIND",
                severity="error",
                subject=newest,
                text=f"the newest event is {ahead.total_seconds():.0f} s ahead of this machine's clock, which decides what has expired",
                next="timedatectl status",
            )


def _checkpoints(paths: Paths, store: SqlStore) -> Iterator[Finding]:
    size, _ = store.log_root()
    try:
        kept = store.checkpoints()
    except NexusError as error:
        yield _unreadable(paths.subject, error, f"nexus-attest log verify{paths.options}")
        return
    if size and not kept:
        yield Finding(
            code="CHECKPOINT_MISSING",
            severity="note",
            subject=paths.subject,
            text="the log was never signed: nobody could tell a store that was cut off or rewritten as a whole",
            next=f"nexus-attest log checkpoint --key KEY --origin NAME -o FILE{paths.options}",
        )


# -- executions -------------------------------------------------------------------------------------------------------------------


def _executions(paths: Paths, store: SqlStore, now: datetime) -> Iterator[Finding]:
    executing: list[str] = []
    yield from _at_most(_unreadable_decisions(paths, store, executing), paths)
    if not paths.records.exists():
        yield from (_executing(paths, store, None, (), decision_id, now) for decision_id in executing)
        return
    try:
        damage = examine_file(paths.records, known=FOREIGN_TABLES).damage
        if damage:
            yield Finding(
                code="RUNS_DAMAGED",
                severity="error",
                subject=str(paths.records),
                text=f"{_count(len(damage), 'fault')} in the structure of the file, the first: {damage[0]}",
                next=f"cp {shlex.quote(str(paths.records))} {shlex.quote(f'{paths.records}.damaged')}",
            )
            return
        with RunRecords(paths.records) as records:
            dead = records.interrupted()
            for run_id in dead:
                yield Finding(
                    code="RUN_INTERRUPTED",
                    severity="warning",
                    subject=run_id,
                    text="its process died; the next router that opens the file records it as failed. Its program may still be running",
                    next=f"nexus-attest runs show {shlex.quote(run_id)}{_runs_option(paths)}",
                )
            yield from (_executing(paths, store, records, dead, decision_id, now) for decision_id in executing)
            yield from _at_most(_forgotten(paths, store, records), paths)
    except NexusError as error:
        yield _unreadable(paths.records, error, f"nexus-attest runs list{_runs_option(paths)}")


def _unreadable_decisions(paths: Paths, store: SqlStore, executing: list[str]) -> Iterator[Finding]:
    """Look at all decisions; those under execution are put into the list. Raises StoreUnreadable when not even their list can be read."""
    tools = NexusControlTools(store)
    offset = 0
    while True:
        page = tools.list_requests(_PAGE, offset)
        if not page.success:
            raise StoreUnreadable(page.error or "")
        if not (requests := page.data["requests"]):
            return
        offset += len(requests)
        for entry in requests:
            if entry["state"] == "executing":
                executing.append(entry["request_id"])
            elif entry["state"] == "invalid":
                yield Finding(
                    code="DECISION_UNREADABLE",
                    severity="error",
                    subject=entry["request_id"],
                    text=entry["error"],
                    next=f"nexus-attest log verify {shlex.quote(entry['request_id'])}{paths.options}",
                )


def _executing(
    paths: Paths, store: SqlStore, records: RunRecords | None, dead: list[str] | tuple[()], decision_id: str, now: datetime
) -> Finding:
    """What there is to say about a decision that is being executed."""
    recover = f"nexus-attest recover {shlex.quote(decision_id)} --actor NAME{paths.options}{_runs_option(paths)}"
    requested = request_under_way(store.get_events(decision_id))
    run_id = None if requested is None or records is None else records.run_of_execution(requested.event_id)
    since = "" if requested is None else f" since {requested.ts.isoformat()}"
    if run_id is None or records is None:
        old = requested is None or now - requested.ts > _PATIENCE
        text = f"executing{since}, and no run record tells whether its process lives"
        code, severity = ("EXECUTION_STUCK", "warning") if old else ("EXECUTION_UNDER_WAY", "note")
        return Finding(code=code, severity=severity, subject=decision_id, text=text, next=recover)
    if run_id in dead:
        text = f"executing{since}; the process of its run {run_id} died"
        return Finding(code="EXECUTION_STUCK", severity="error", subject=decision_id, text=text, next=recover)
    status = records.show(run_id)[0].run["status"]
    if status != "RUNNING":
        text = f"its run {run_id} ended ({status}), which the store was not told; recovering records what the run record says"
        return Finding(code="OUTCOME_NOT_RECORDED", severity="error", subject=decision_id, text=text, next=recover)
    following = f"nexus-attest runs show {shlex.quote(run_id)}{_runs_option(paths)}"
    return Finding(
        code="EXECUTION_UNDER_WAY", severity="note", subject=decision_id, text=f"executing{since}; its process lives", next=following
    )


def _forgotten(paths: Paths, store: SqlStore, records: RunRecords) -> Iterator[Finding]:
    """Runs whose execution the store does not have: it was rolled back since, and would let them happen once more."""
    made = records.executions()
    for start in range(0, len(made), _PAGE):
        named = [
            (run_id, match[1], int(match[2])) for run_id, text in made[start : start + _PAGE] if (match := _EXECUTION_ID.fullmatch(text))
        ]
        known = store.get_events_of(list({decision_id for _, decision_id, _ in named}))
        for run_id, decision_id, seq in named:
            events = known[decision_id]
            if isinstance(events, MalformedEvent):
                continue  # told already
            if any(event.seq == seq and event.event_type is EventType.EXECUTION_REQUESTED for event in events):
                continue
            if len(store.list_generations(decision_id)) > 1:
                continue  # replaced or deleted since; the earlier generation has it
            yield Finding(
                code="RUN_NOT_IN_STORE",
                severity="error",
                subject=run_id,
                text=f"it executed {decision_id}, of which this store knows nothing: it is older than the run. What ran could run again",
                next=f"nexus-attest runs show {shlex.quote(run_id)}{_runs_option(paths)}",
            )


# -- queue ------------------------------------------------------------------------------------------------------------------------


def _queue(paths: Paths, now: datetime) -> Iterator[Finding]:
    with closing(AttestationStorage(paths.store)) as queue:
        rows, alone = queue.count_by_status(alone=False), queue.count_sent_alone()
    if alone["intents"] and _is_old(alone["since"], now):
        text = f"{_count(alone['intents'], 'intent')} sent alone, by process_one_xrpl, and not decided since: no batch takes what was"
        asks = f"nexus-attest witness status {shlex.quote(alone['oldest'])}{paths.options}"
        yield Finding(code="QUEUE_ALONE", severity="warning", subject=alone["oldest"], text=text, next=asks)
    for row in rows:
        following = f"nexus-attest narrative show {shlex.quote(row['oldest'])}{paths.options}"
        intents = _count(row["intents"], "intent")
        if row["status"] == "FAILED":
            text = f"{intents} could not be witnessed, and nobody tries again by itself"
            yield Finding(code="QUEUE_FAILED", severity="warning", subject=row["oldest"], text=text, next=following)
        elif row["status"] != "CONFIRMED":
            try:
                waiting = now - parse_time(row["since"])
            except MalformedEvent as problem:
                yield Finding(code=problem.code, severity="error", subject=row["oldest"], text=str(problem), next=following)
                continue
            if waiting > _PATIENCE:
                text = f"{intents} {row['status']}, the oldest unchanged since {row['since']}: no witness works on the queue"
                waits = f"nexus-attest witness status{paths.options}"
                yield Finding(code="QUEUE_STALLED", severity="warning", subject=row["oldest"], text=text, next=waits)


def _is_old(created_at: str, now: datetime) -> bool:
    """Whether it was long ago, or nobody knows when: the time is the caller's."""
    try:
        return now - parse_time(created_at) > _PATIENCE
    except MalformedEvent:
        return True


# -- shared -----------------------------------------------------------------------------------------------------------------------


def _at_most(findings: Iterator[Finding], paths: Paths) -> Iterator[Finding]:
    """So many of one kind that somebody can still read them, and the number of the others."""
    more = 0
    last: Finding | None = None
    for number, finding in enumerate(findings):
        last = finding
        if number < _MOST_LISTED:
            yield finding
        else:
            more += 1
    if last is not None and more:
        text = f"and {more} more like the ones above"
        yield Finding(code=last.code, severity=last.severity, subject=paths.subject, text=text, next=last.next)


def _runs_option(paths: Paths) -> str:
    return "" if paths.runs is None else f" --runs {shlex.quote(str(paths.runs))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
