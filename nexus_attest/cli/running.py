"""The executor behind `execute`, and the records that it leaves beside the store."""

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from nexus_attest.cli import settings
from nexus_attest.cli.errors import AdaptersMissing, RunsMissing
from nexus_attest.cli.report import note
from nexus_attest.cli.session import Session
from nexus_attest.routers import Adapter, RunEngine, RunRecords, StopSignals, Terminated, UnknownAdapter, load_adapters
from nexus_attest.routers.engine import Watch
from nexus_control.errors import NexusError
from nexus_control.flight_record import RunEvent
from nexus_control.markdown import escape

__all__ = ["closed_runs", "executor", "known_adapters_path", "new_runs_path", "progress", "recorded_runs", "runs_path"]


@contextmanager
def executor(session: Session, adapters: Path | None, adapter_id: str, runs: Path | None, timeout_s: float | None) -> Generator[RunEngine]:
    """A router over the adapters of a file, one of which is `adapter_id`; `timeout_s` limits the whole run.

    Inside, Ctrl-C, SIGTERM and SIGHUP end the call under way and the run, whose end is recorded before anything else happens.
    Raises AdaptersMissing, UnknownAdapter, AdapterFileError or ConfigError before anything is written.
    """
    path = known_adapters_path(adapters)
    known = load_adapters(path)
    names = [adapter.adapter_id for adapter in known]
    if adapter_id not in names:
        raise UnknownAdapter(f"{path} has no adapter {adapter_id!r:.200}; it has {', '.join(names)}")
    session.store  # noqa: B018 - a store that is not there must be told before a file of runs is made beside it
    told = _LastRun(_watch(session))
    try:
        with _opened(session, known, runs, timeout_s, told) as engine:
            yield engine
    except (KeyboardInterrupt, Terminated) as stopped:
        if isinstance(stopped.__context__, NexusError):
            note(escape(str(stopped.__context__)))
        if told.run_id is not None:
            note(f"Run {told.run_id} is recorded as {told.end}; see `nexus-attest runs show {told.run_id}`.")
        raise


@contextmanager
def _opened(session: Session, known: Iterable[Adapter], runs: Path | None, timeout_s: float | None, watch: Watch) -> Generator[RunEngine]:
    """The router, in whose records dead runs are closed first. Signals are heard from before that until its file is closed."""
    engines: list[RunEngine] = []
    with (
        StopSignals(lambda: [engine.stop() for engine in engines]) as stopped,
        RunEngine(known, db_path=new_runs_path(session, runs), run_timeout_s=timeout_s, watch=watch) as engine,
    ):
        engines.append(engine)
        for run_id in engine.recovered:
            note(f"Run {run_id}, whose process died, is recorded as failed; see `nexus-attest runs show {run_id}`.")
        if stopped.number is None:
            yield engine


def _watch(session: Session) -> Callable[[RunEvent], None] | None:
    """Who is shown the run: the terminal, whoever observes, both or nobody."""
    watchers = [progress(sys.stderr)] if sys.stderr.isatty() and not session.as_json else []
    if session.observer is not None:
        watchers.append(session.observer.watch)

    def show(event: RunEvent) -> None:
        for watch in watchers:
            watch(event)

    return show if watchers else None


def known_adapters_path(adapters: Path | None) -> Path:
    """The adapter file. Raises AdaptersMissing when nobody named one, ConfigError."""
    path = settings.adapters_path(adapters)
    if path is None:
        raise AdaptersMissing(f'which programs may run? Give --adapters FILE, or write adapters = "FILE" into {settings.config_path()}')
    return path


def recorded_runs(session: Session, runs: Path | None) -> RunRecords:
    """The records of earlier runs. Raises RunsMissing."""
    path = runs_path(session, runs)
    if not path.exists():
        raise RunsMissing(f"there are no run records at {path}; --runs FILE says where they are")
    return RunRecords(path)


@contextmanager
def closed_runs(session: Session, path: Path | None) -> Generator[RunEngine | None]:
    """The runs of a file, those of dead processes closed; None when there is no such file, or none is to be looked at."""
    session.store  # noqa: B018 - that it is not there must be told first
    if path is None or not path.exists():
        yield None
        return
    with RunEngine((), db_path=path) as records:
        yield records


def progress(stream: TextIO) -> Callable[[RunEvent], None]:
    """Shows a run as it goes: a line per call, begun when it is requested and ended with its result."""

    def show(event: RunEvent) -> None:
        payload = event["payload"]
        match event["type"]:
            case "TOOL_CALL_REQUESTED":
                call = payload["call"]
                stream.write(f"  {escape(payload['step_id'])}  {escape(call['tool'])}/{escape(call['method'])} ... ")
            case "TOOL_CALL_SUCCEEDED":
                stream.write("simulated\n" if payload["simulated"] else f"ok ({payload['duration_ms'] / 1000:.1f} s)\n")
            case "TOOL_CALL_FAILED":
                stream.write(f"{escape(payload['error_code'])}, {_OUTCOMES[payload['outcome']]}\n")
            case _:
                return
        stream.flush()

    return show


_OUTCOMES = {"not_sent": "not sent", "failed": "failed", "unknown": "outcome unknown"}


def runs_path(session: Session, runs: Path | None) -> Path:
    """The file of the run records: `runs`, or the store's name with `.runs` after it."""
    return runs if runs is not None else session.store_path.with_name(session.store_path.name + ".runs")


def new_runs_path(session: Session, runs: Path | None) -> Path:
    """As `runs_path`, for who may make the file."""
    if runs is None:
        session.make_local_folder()
    return runs_path(session, runs)


class _LastRun:
    """Remembers the run that is watched, and how it ended."""

    def __init__(self, then: Watch | None) -> None:
        self.run_id: str | None = None
        self.end = "still under way"
        self._then = then

    def __call__(self, event: RunEvent) -> None:
        self.run_id = event["run_id"]
        if event["type"] in ("RUN_COMPLETED", "RUN_FAILED"):
            self.end = event["type"].removeprefix("RUN_").lower()
        if self._then is not None:
            self._then(event)
