"""The runs of a file, for reading: nothing is executed, and no run is closed."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from nexus_attest.routers.errors import RunNotFound
from nexus_attest.routers.run_store import RunStore
from nexus_control.errors import InputError, StoreUnreadable
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.flight_record import Run, RunEvent

__all__ = ["RunRecords", "RunSummary"]

_STATUSES = ("RUNNING", "COMPLETED", "FAILED")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in a list. `unknown` counts the calls of which nobody knows what they did; `error_code` is that of the first failure."""

    run: Run
    adapter_id: str | None
    execution_id: str | None
    steps_planned: int
    steps_executed: int
    error_code: str | None
    unknown: int

    @classmethod
    def of(cls, run: Run, events: list[RunEvent]) -> "RunSummary":
        """What the events of a run come to."""
        payloads: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            payloads.setdefault(event["type"], []).append(event["payload"])
        noted = payloads.get("REQUEST_RECORDED") or payloads.get("DISPATCH_SELECTED") or [{}]
        failures = [*payloads.get("TOOL_CALL_FAILED", ()), *payloads.get("RUN_FAILED", ())]
        return cls(
            run=run,
            adapter_id=_text(noted[0].get("adapter_id")),
            execution_id=_text(noted[0].get("execution_id")),
            steps_planned=sum(_length(payload.get("plan")) for payload in payloads.get("PLAN_CREATED", ())),
            steps_executed=len(payloads.get("STEP_STARTED", ())),
            error_code=next((code for payload in failures if (code := _text(payload.get("error_code") or payload.get("reason")))), None),
            unknown=sum(payload.get("outcome") == "unknown" for payload in payloads.get("TOOL_CALL_FAILED", ())),
        )

    def to_dict(self) -> dict[str, Any]:
        """One flat object: the columns of the run, and the counts."""
        return {
            **self.run,
            "adapter_id": self.adapter_id,
            "execution_id": self.execution_id,
            "steps_planned": self.steps_planned,
            "steps_executed": self.steps_executed,
            "error_code": self.error_code,
            "unknown_outcomes": self.unknown,
        }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _length(value: object) -> int:
    return len(cast("list[object]", value)) if isinstance(value, list) else 0


class RunRecords:
    """A file of runs that exists already; a context manager.

    Raises RunNotFound when there is no such file: reading must not make one. Every method raises StoreError when the file cannot be read.
    """

    def __init__(self, db_path: str | Path, *, clock: Clock = utc_now) -> None:
        if not Path(db_path).exists():
            raise RunNotFound(f"there is no file of runs at {db_path}")
        self._store = RunStore(db_path)
        self._clock = in_utc(clock)

    def runs(self, *, limit: int = 100, offset: int = 0, status: str | None = None) -> list[RunSummary]:
        """Runs, newest first, all or those of one status: RUNNING, COMPLETED or FAILED. Raises InputError for another one."""
        if status is not None and status not in _STATUSES:
            raise InputError(f"status must be one of {', '.join(_STATUSES)}")
        return [self._summary(run) for run in self._store.runs(limit=limit, offset=offset, status=status)]

    def _summary(self, run: Run) -> RunSummary:
        """A run that cannot be read does not hide the others."""
        try:
            return RunSummary.of(*self._store.read(run["run_id"]))
        except (StoreUnreadable, RunNotFound):  # in a damaged file an id that was listed may lead to no run
            return replace(RunSummary.of(run, []), error_code=StoreUnreadable.code)

    def show(self, run_id: str) -> tuple[RunSummary, list[RunEvent]]:
        """A run as it stands, with its events. Raises RunNotFound."""
        run, events = self._store.read(run_id)
        return RunSummary.of(run, events), events

    def flight_record(self, run_id: str) -> dict[str, Any]:
        """The flight record of a run that ended. Raises RunNotFound and RunNotFinished."""
        return self._store.flight_record(run_id, exported_at=self._clock())

    def run_of_execution(self, execution_id: str) -> str | None:
        """The latest run that was made for an execution of a decision, None when there is none."""
        return self._store.run_of_execution(execution_id)

    def interrupted(self) -> list[str]:
        """Runs whose process died, and which nobody closed yet: the next router that opens the file does."""
        return self._store.interrupted()

    def executions(self) -> list[tuple[str, str]]:
        """The ids of the runs that were made for an execution, and the id of each execution, oldest first."""
        return self._store.executions()

    def close(self) -> None:
        """Close the file. Closing again does nothing."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
