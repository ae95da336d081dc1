"""The executor behind `execute`, and the records that it leaves beside the store."""

import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from nexus_attest.cli import settings
from nexus_attest.cli.errors import AdaptersMissing, RunsMissing
from nexus_attest.cli.report import note
from nexus_attest.cli.session import Session
from nexus_attest.routers import RunEngine, RunRecords, UnknownAdapter, load_adapters
from nexus_control.flight_record import RunEvent
from nexus_control.markdown import escape

__all__ = ["closed_runs", "executor", "known_adapters_path", "progress", "recorded_runs", "runs_path"]


@contextmanager
def executor(session: Session, adapters: Path | None, adapter_id: str, runs: Path | None, timeout_s: float | None) -> Generator[RunEngine]:
    """A router over the adapters of a file, one of which is `adapter_id`; `timeout_s` limits the whole run.

    Inside, Ctrl-C and SIGTERM end the call under way and the run, once: while its end is being recorded, further ones are ignored.
    Raises AdaptersMissing, UnknownAdapter, AdapterFileError or ConfigError before anything is written.
    """
    path = known_adapters_path(adapters)
    known = load_adapters(path)
    names = [adapter.adapter_id for adapter in known]
    if adapter_id not in names:
        raise UnknownAdapter(f"{path} has no adapter {adapter_id!r:.200}; it has {', '.join(names)}")
    session.store  # noqa: B018 - a store that is not there must be told before a file of runs is made beside it
    watch = progress(sys.stderr) if sys.stderr.isatty() and not session.as_json else None
    before = {number: signal.signal(number, _told_to_end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with RunEngine(known, db_path=runs_path(session, runs), run_timeout_s=timeout_s, watch=watch) as engine:
            for run_id in engine.recovered:
                note(f"Run {run_id}, whose process died, is recorded as failed; see `nexus-attest runs show {run_id}`.")
            yield engine
    except (KeyboardInterrupt, SystemExit) as interruption:
        if run_id := vars(interruption).get("run_id"):
            note(f"Run {run_id} is recorded as interrupted; see `nexus-attest runs show {run_id}`.")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


class _Terminated(SystemExit):
    def __str__(self) -> str:
        return "The executing process was ended by SIGTERM"


def _told_to_end(signum: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the end of the run is being recorded from here on
    raise KeyboardInterrupt if signum == signal.SIGINT else _Terminated(128 + signum)
