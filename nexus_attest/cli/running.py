"""The executor behind `execute`, and the records that it leaves beside the store."""

import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from nexus_attest.cli import settings
from nexus_attest.cli.errors import AdaptersMissing, RunsMissing
from nexus_attest.cli.session import Session
from nexus_attest.routers import RunEngine, UnknownAdapter, load_adapters

__all__ = ["executor", "recorded_runs", "runs_path"]


@contextmanager
def executor(session: Session, adapters: Path | None, adapter_id: str, runs: Path | None) -> Generator[RunEngine]:
    """A router over the adapters of a file, one of which is `adapter_id`.

    Inside, SIGTERM ends the command as Ctrl-C does: the program is killed and the run recorded as failed.
    Raises AdaptersMissing, UnknownAdapter, AdapterFileError or ConfigError before anything is written.
    """
    path = settings.adapters_path(adapters)
    if path is None:
        raise AdaptersMissing(f'which programs may run? Give --adapters FILE, or write adapters = "FILE" into {settings.config_path()}')
    known = load_adapters(path)
    names = [adapter.adapter_id for adapter in known]
    if adapter_id not in names:
        raise UnknownAdapter(f"{path} has no adapter {adapter_id!r:.200}; it has {', '.join(names)}")
    session.store  # noqa: B018 - a store that is not there must be told before a file of runs is made beside it
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        with RunEngine(known, db_path=runs_path(session, runs)) as engine:
            yield engine
    finally:
        signal.signal(signal.SIGTERM, before)


def recorded_runs(session: Session, runs: Path | None) -> RunEngine:
    """The records of earlier runs; it can run nothing. Raises RunsMissing."""
    path = runs_path(session, runs)
    if not path.exists():
        raise RunsMissing(f"there are no run records at {path}; --runs FILE says where they are")
    return RunEngine((), db_path=path)


def runs_path(session: Session, runs: Path | None) -> Path:
    """The file of the run records: `runs`, or the store's name with `.runs` after it."""
    return runs if runs is not None else session.store_path.with_name(session.store_path.name + ".runs")


class _Terminated(SystemExit):
    def __str__(self) -> str:
        return "The executing process was ended by SIGTERM"


def _terminated(signum: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end of the run is being recorded from here on
    raise _Terminated(128 + signum)
