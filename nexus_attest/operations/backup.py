"""Copies of a store that are known to be whole, and bringing one back.

A copy is made in a folder of its own beside its place, checked there, put on the disk, and then given its name in one step: a file under
that name is a whole, verified backup, whatever happened meanwhile. No file is ever replaced.

A store on a server is backed up into such a file, and brought back from one, row by row (`nexus_control.copying`), with the same checks.

The run records (`<store>.runs`) are copied after the store, so that they hold the run of every execution that the copy knows of. A restore
puts run records only where there are none: newer ones tell of executions that the older store forgot.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nexus_attest.operations.errors import BackupExists, BackupUnsound, StoreExists, StoreInUse
from nexus_attest.routers.run_store import FOREIGN_TABLES
from nexus_control.copying import copy_store
from nexus_control.errors import FileRefused, SchemaTooNew, StoreBusy, StoreUnreadable
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.file_copy import Examination, LogHead, copy_file, examine_file, only_user
from nexus_control.files import give_name, sync_folder
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore

__all__ = ["Backup", "Progress", "Restored", "back_up", "back_up_store", "restore", "restore_store", "runs_beside"]

Progress = Callable[[int, int], None]
"""Is told now and then how many pages of a file, or entries of a store, of how many have been copied."""

_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a file; under a new file of the same name it would be taken for that one's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A copy that was made. `head` is that of the log in it; `runs` the copy of the run records, None when there were none.

    `findings` is empty, unless an unsound copy was asked for.
    """

    file: Path
    bytes: int
    head: LogHead
    runs: Path | None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A store that was brought back, to a file or a server. `kept` is where the one before it went, and `before` the head of its log, where
    it could be read.

    `runs` is where run records were put, None when there were none to put, or some in place already.
    """

    store: Path | str
    head: LogHead
    runs: Path | None
    kept: Path | None = None
    before: LogHead | None = None

    @property
    def undone(self) -> int | None:
        """How many entries of the log before are not in this one, where that is known."""
        return None if self.before is None else max(0, self.before.size - self.head.size)


def runs_beside(store: Path) -> Path:
    """Where the run records of a store are by default."""
    return store.with_name(store.name + ".runs")


def back_up(
    source: Path, target: Path, *, runs: Path | None = None, keep_unsound: bool = False, progress: Progress | None = None
) -> Backup:
    """Copy a store, and its run records, as they are at one moment, whoever writes meanwhile; nobody waits for it.

    The copy is verified as `log verify` would, and its log compared with that of the source. `runs` are the run records, by default
    those beside the store. With `keep_unsound` a copy is kept also of a store that does not verify: what was done to it is evidence.

    Raises BackupExists, FileRefused when there is no such store or folder, BackupUnsound, StoreError, OSError. Then there is no backup,
    except that the store's may stand when its run records could not be copied.
    """
    records = runs_beside(source) if runs is None else runs
    for place in (source, *(() if runs is None else (runs,))):
        _require_file(place)
    for place in (target, runs_beside(target)):
        _require_free(place, of=target)
    with _copied(source, target.parent, progress) as (copy, head, found):
        if head is None:
            raise FileRefused(f"{source} holds no log of decisions, so it is no store, or a damaged one; `nexus-attest doctor` tells which")
        return _kept(str(source), (copy, head, found), target, records, keep_unsound, progress)


def back_up_store(source: SqlStore, target: Path, *, runs: Path, keep_unsound: bool = False, progress: Progress | None = None) -> Backup:
    """As `back_up`, of a store that is open, on a server for instance; `runs` is where its run records are, if there are any.

    `progress` is told of entries. Raises what `back_up` raises, and StoresDiffer when the copy has other rows than the store.
    """
    for place in (target, runs_beside(target)):
        _require_free(place, of=target)
    with _private_folder(target.parent) as folder:
        copy = folder / "copy"
        with DecisionStore(copy) as made:
            copied = copy_store(source, made, progress)
        copy.chmod(0o600)
        head = LogHead(copied.size, copied.root)
        return _kept(source.path, (copy, head, examine_file(copy)), target, runs, keep_unsound, progress)


def _kept(
    name: str,
    made: tuple[Path, LogHead, Examination],
    target: Path,
    records: Path,
    keep_unsound: bool,
    progress: Progress | None,
) -> Backup:
    """Give a copy of the store called `name`, and one of its run records, their places. Raises BackupUnsound."""
    copy, head, found = made
    findings = _findings(found, head)
    if findings and not keep_unsound:
        raise BackupUnsound(f"the copy of {name} does not verify: {findings[0]}; no backup was made", findings)
    size = copy.stat().st_size
    # Before the store's, whose name says that all is there.
    placed, damage = _place_runs(records, runs_beside(target), progress, keep_damaged=keep_unsound)
    _place(copy, target)
    if damage and not keep_unsound:
        raise BackupUnsound(f"the run records {records} are damaged: {damage[0]}; {target} is a backup without them", damage)
    return Backup(file=target, bytes=size, head=head, runs=placed, findings=(*findings, *damage))


def restore(backup: Path, store: Path, *, replace: bool = False, progress: Progress | None = None, clock: Clock = utc_now) -> Restored:
    """Bring a backup back as the store, after it was verified; `replace` moves a store that is there aside, and never deletes it.

    The one moved aside is named `<store>.<time>.replaced`. Nobody else may have it open.

    Raises StoreExists without `replace`, StoreInUse, FileRefused, BackupUnsound, StoreError, OSError. Until the moment in which the store
    gets its name nothing has changed; a crash between moving the old one aside and that moment leaves no store under the name.
    """
    _require_file(backup)
    if store.is_dir():
        raise FileRefused(f"{store} is a folder, and no store")
    if os.path.lexists(store) and not replace:
        raise StoreExists(f"there is a store at {store}; with --replace it is moved aside, and kept")
    with _verified(backup, store.parent, progress) as (copy, head):
        _sync_file(copy)
        aside = store.with_name(f"{store.name}.{in_utc(clock)():%Y%m%dT%H%M%S%f}Z.replaced")
        _require_free(aside, of=aside)
        before = kept = None
        if os.path.lexists(store):
            shutil.copymode(store, copy)
            before, kept = _put_aside(store, aside), aside
        for suffix in _BESIDE:
            leftover = store.with_name(store.name + suffix)
            if os.path.lexists(leftover):
                leftover.rename(aside.with_name(aside.name + suffix))
        # Before the store: nobody would miss them beside one that is back, and `restore` would refuse to bring them.
        runs, damage = _place_runs(runs_beside(backup), runs_beside(store), progress)
        _place(copy, store)
    if damage:
        raise BackupUnsound(f"the store is restored, but its run records {runs_beside(backup)} are damaged: {damage[0]}", damage)
    return Restored(store=store, head=head, runs=runs, kept=kept, before=before)


def restore_store(backup: Path, store: SqlStore, *, runs: Path, progress: Progress | None = None) -> Restored:
    """Bring a backup back into an empty store that is open, on a server for instance, after it was verified; at the end every row is
    compared. One that was interrupted goes on where it ended. Run records are put at `runs` where there are none.

    Raises StoreExists when the store holds anything that the backup does not, FileRefused, BackupUnsound, StoreError, OSError.
    """
    _require_file(backup)
    with _verified(backup, Path(tempfile.gettempdir()), progress) as (copy, head):
        with DecisionStore(copy) as source:
            size, root = store.log_root()
            if size > head.size or source.log_root(size)[1] != root:
                raise StoreExists(f"{store.path} holds what {backup} does not, and nothing on a server is replaced; name an empty database")
            copy_store(source, store, progress)
        placed, damage = _place_runs(runs_beside(backup), runs, progress)
    if damage:
        raise BackupUnsound(f"the store is restored, but its run records {runs_beside(backup)} are damaged: {damage[0]}", damage)
    return Restored(store=store.path, head=head, runs=placed)


@contextmanager
def _verified(backup: Path, folder: Path, progress: Progress | None) -> Generator[tuple[Path, LogHead]]:
    """A copy of a backup that verifies, in a private folder inside `folder`. Raises FileRefused, BackupUnsound."""
    with _copied(backup, folder, progress) as (copy, head, found):
        if head is None:
            raise FileRefused(f"{backup} holds no log of decisions, so it is no backup of a store")
        if findings := _findings(found, head):
            raise BackupUnsound(f"{backup} does not verify: {findings[0]}; nothing was changed", findings)
        yield copy, head


def _place_runs(
    records: Path, place: Path, progress: Progress | None, *, keep_damaged: bool = False
) -> tuple[Path | None, tuple[str, ...]]:
    """Copy run records to where there are none. Gives where they are, None when they were not put there, and what is wrong with them."""
    if not records.exists() or os.path.lexists(place):
        return None, ()
    with _copied(records, place.parent, progress) as (copy, _, found):
        keep = keep_damaged or not found.damage
        if keep:
            _place(copy, place)
    return (place if keep else None), found.damage


def _findings(found: Examination, head: LogHead) -> tuple[str, ...]:
    """What is wrong with a copy of something with this head."""
    findings = (*found.damage, *found.problems)
    return findings if findings or found.head == head else ("the log of the copy has another root than that of the original",)


@contextmanager
def _copied(source: Path, folder: Path, progress: Progress | None) -> Generator[tuple[Path, LogHead | None, Examination]]:
    """A copy in a private folder inside `folder`, which is gone afterwards with all that is still in it."""
    with _private_folder(folder) as private:
        copy = private / "copy"
        head = copy_file(source, copy, known=FOREIGN_TABLES, progress=progress)
        copy.chmod(0o600)
        yield copy, head, examine_file(copy, known=FOREIGN_TABLES)


@contextmanager
def _private_folder(folder: Path) -> Generator[Path]:
    try:
        private = Path(tempfile.mkdtemp(prefix=".nexus-attest-", dir=folder))
    except FileNotFoundError:
        raise FileRefused(f"there is no folder {folder}") from None
    try:
        yield private
    finally:
        shutil.rmtree(private)


def _place(copy: Path, target: Path) -> None:
    """Give a copy its name, in one step, once it is on the disk. Raises BackupExists when something has that name by now."""
    _sync_file(copy)
    try:
        give_name(copy, target)
    except FileExistsError:
        raise BackupExists(f"{target} exists by now; nothing was replaced") from None
    sync_folder(target.parent)


def _put_aside(store: Path, aside: Path) -> LogHead | None:
    """Rename a store that nobody else has open; gives what its log was, where it can be read."""
    before: LogHead | None = None
    with suppress(StoreUnreadable, SchemaTooNew):
        before = examine_file(store, facts=False).head
    with ExitStack() as opened:
        try:
            opened.enter_context(only_user(store))
        except StoreBusy:
            raise StoreInUse(f"{store} is open in another program: end `nexus-attest serve` and what else uses it, then repeat") from None
        except StoreUnreadable:
            pass  # that is why it is replaced
        store.rename(aside)
        sync_folder(store.parent)
    return before


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileRefused(f"{path} is no regular file" if path.exists() else f"there is no file {path}")


def _require_free(path: Path, *, of: Path) -> None:
    if os.path.lexists(path):
        why = "" if os.path.lexists(of) else f", and {of.name} does not, as when a backup was interrupted: remove it if it is that, or"
        raise BackupExists(f"{path} exists{why or ';'} name another file, a backup never replaces one")


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
