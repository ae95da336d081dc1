"""The bridge to nexus-router: the same protocol, plans, responses and flight records, with that package making the calls.

    with NexusRouterBridge(registry, db_path="runs.db") as router:
        tools.execute(request_id, "subprocess:keytool", actor, router)

nexus-router is not on the package registry and nothing here depends on it: it is imported when a bridge is made. Only its documented
functions are used: `run`, `inspect` and `export` of `nexus_router.tool`, its registry and its errors. What it would do and an approved
plan must not is refused before the run (an empty plan, more steps than allowed, unknown adapters) or stopped in it (`bridge_calls`).

nexus-router tells nobody the id of a run that raised. So each run has a database of its own while it is under way, beside the run
database; when it has ended, in whatever way, it is copied there unchanged. What a dead process left is copied when the next bridge is
made, ended as interrupted.
"""

import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, cast

from nexus_attest.routers.adapter import Adapter
from nexus_attest.routers.bridge_calls import ForeignAdapter, GuardedAdapter, OurCalls, calls_of_foreign
from nexus_attest.routers.bridge_package import NexusRouterPackage
from nexus_attest.routers.ending import DEAD, INTERRUPTED, Ending, ending_events
from nexus_attest.routers.errors import RunFailed, RunNotFinished, RunNotFound
from nexus_attest.routers.resolution import adapters_by_id, objection, resolve
from nexus_attest.routers.run_lock import RunLock
from nexus_attest.routers.run_request import RunRequest
from nexus_attest.routers.run_store import RunStore, event_of, event_row, new_rows
from nexus_attest.routers.steps import line
from nexus_attest.routers.stop_signals import ctrl_c_deferred
from nexus_control.errors import StoreError
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.flight_record import Run, RunEvent, router_request, run_response
from nexus_control.plan import DefaultCall, Plan

__all__ = ["ForeignRegistry", "NexusRouterBridge"]


class ForeignRegistry(Protocol):
    """`nexus_router.dispatch.AdapterRegistry`, as far as the bridge asks it."""

    def get(self, adapter_id: str) -> ForeignAdapter:
        """Raises KeyError when there is no such adapter."""
        ...


def _uuid4() -> str:
    return str(uuid.uuid4())  # noqa: TID251 - as in the engine, the default only


class NexusRouterBridge:
    """A router in the sense of `nexus_control.tool.RouterProtocol` whose calls nexus-router makes.

    `adapters` is an AdapterRegistry of nexus-router, or adapters of ours (`load_adapters`). `default_calls` gives, by adapter id, the call
    for plans without steps; adapters of ours bring theirs. `db_path` keeps the runs, as that of RunEngine does, and may be the same file.
    `recovered` names the runs that a dead process had left. Synchronous; usable from several threads and inside a running event loop.

    Raises NexusRouterMissing when nexus-router cannot be imported, InputError for two adapters of one id, and StoreError.
    """

    accepts_execution_id: ClassVar[bool] = True
    """`run` takes the keyword `execution_id`; adapters of ours get it, nexus-router's have no place for it."""

    def __init__(
        self,
        adapters: ForeignRegistry | Iterable[Adapter],
        *,
        db_path: str | Path = ":memory:",
        default_calls: Mapping[str, DefaultCall] | None = None,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = _uuid4,
    ) -> None:
        self._package = NexusRouterPackage.load()
        self._foreign: ForeignRegistry | None = None
        self._ours: dict[str, Adapter] = {}
        if callable(getattr(adapters, "get", None)):
            self._foreign = cast("ForeignRegistry", adapters)
        else:
            self._ours = adapters_by_id(cast("Iterable[Adapter]", adapters))
        self._default_calls = dict(default_calls or {})
        self._clock = in_utc(clock)
        self._new_id = new_id
        self._under_way: set[threading.Event] = set()
        self._stopped = threading.Event()
        self._file = None if str(db_path) == ":memory:" else Path(db_path).absolute()
        self._store = RunStore(db_path)
        try:
            self.recovered: tuple[str, ...] = tuple(self._recover())
        except BaseException:
            self._store.close()
            raise

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        """What an adapter declares; None when there is no such adapter."""
        adapter = self._adapter(adapter_id)
        return None if adapter is None else set(adapter.capabilities)

    def run(
        self,
        *,
        goal: str,
        adapter_id: str,
        dry_run: bool,
        plan: str | None = None,
        max_steps: int | None = None,
        require_capabilities: list[str] | None = None,
        execution_id: str | None = None,
    ) -> dict[str, Any]:
        """Run a plan to its end and return the response dict of `nexus_control.flight_record.run_response`.

        Raises RunFailed. For a refusal its `run_id` is None, nothing was recorded and nothing was done: UNKNOWN_ADAPTER,
        CAPABILITY_MISSING, PLAN_INVALID, PLAN_NOT_EXECUTABLE, MAX_STEPS_EXCEEDED, a code of CallRefused, or ROUTER_ERROR when nexus-router
        refused the request. For a failed run the code is that of its first failed call, or says how nexus-router ended it. A StoreError's
        code: the run ended and could not be copied into the run database; the next bridge does it. Raises InputError for arguments of the
        wrong type. Ctrl-C cancels the run, and raises KeyboardInterrupt when it has been kept; that, and any other interruption that an
        adapter lets through, carries `run_id` and `response` as attributes.
        """
        request = RunRequest.parse(
            goal=goal,
            adapter_id=adapter_id,
            dry_run=dry_run,
            plan=plan,
            max_steps=max_steps,
            require_capabilities=require_capabilities,
            execution_id=execution_id,
        )
        adapter, steps = self._resolve(request)
        self._clock()  # one whose times cannot be recorded is refused before anything runs
        kept: tuple[Run, list[RunEvent]] | None = None
        raised: Exception | None = None
        cancelled = threading.Event()
        try:
            with ctrl_c_deferred(cancelled.set), self._cancellable(cancelled), self._workspace(request.execution_id) as folder:
                try:
                    self._execute(request, adapter, steps, _database(folder), cancelled)
                except Exception as problem:  # foreign code; what happened is on its record
                    raised = problem
                except BaseException as interruption:
                    self._interrupted(folder, interruption)
                    raise
                run, events = kept = self._keep(folder, raised)
        except KeyboardInterrupt as interruption:
            if kept is not None:
                interruption.__dict__.update(run_id=kept[0]["run_id"], response=run_response(*kept))
            raise
        response = run_response(run, events)
        if run["status"] != "COMPLETED":
            raise RunFailed(*_failure(events), run_id=run["run_id"], response=response) from raised
        return response

    def cancel_all(self) -> None:
        """Ask every run under way to end: calls of our adapters are stopped, and no further one is made. Callable from any thread."""
        for cancelled in list(self._under_way):
            cancelled.set()

    def stop(self) -> None:
        """As `cancel_all`, and for every run that begins later. For a process that is about to end."""
        self._stopped.set()
        self.cancel_all()

    def flight_record(self, run_id: str) -> dict[str, Any]:
        """The flight record of a run that ended: what an audit package embeds. Raises RunNotFound and RunNotFinished."""
        return self._store.flight_record(run_id, exported_at=self._clock())

    def run_of_execution(self, execution_id: str) -> str | None:
        """The latest run that was made for an execution of a decision, None when there is none.

        Raises RunNotFinished while one is under way.
        """
        found = self._store.run_of_execution(execution_id)
        if found is None and execution_id in self._executions_under_way():
            raise RunNotFinished("The run of this execution is under way")
        return found

    def close(self) -> None:
        """Close the run database. Closing again does nothing."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _adapter(self, adapter_id: str) -> ForeignAdapter | Adapter | None:
        if self._foreign is None:
            return self._ours.get(adapter_id)
        try:
            return self._foreign.get(adapter_id)
        except KeyError:
            return None

    def _resolve(self, request: RunRequest) -> tuple[ForeignAdapter | Adapter, Plan]:
        """Adapter and plan. Raises RunFailed for everything that can be known before the run."""
        ours = self._ours.get(request.adapter_id)
        default_call = self._default_calls.get(request.adapter_id) or (ours.default_call if ours else None)
        found = resolve(
            request,
            self._adapter(request.adapter_id),
            default_call,
            lambda _, plan: None if ours is None else objection(ours, plan, dry_run=request.dry_run),
        )
        if found.refusal is not None:
            raise RunFailed(found.refusal.code, found.refusal.message, run_id=None, response=None)
        return cast("ForeignAdapter | Adapter", found.adapter), found.plan  # where there is none, there is a refusal

    def _execute(
        self, request: RunRequest, adapter: ForeignAdapter | Adapter, plan: Plan, database: str, cancelled: threading.Event
    ) -> None:
        asked = router_request(
            goal=request.goal,
            adapter_id=request.adapter_id,
            dry_run=request.dry_run,
            max_steps=request.max_steps,
            require_capabilities=request.require_capabilities,
            plan=[step.to_dict() for step in plan.steps],
        )
        ours = self._ours.get(request.adapter_id)
        if ours is None:
            make = calls_of_foreign(cast("ForeignAdapter", adapter))
            self._package.run(asked, database, GuardedAdapter(adapter, plan, make, self._package.errors, cancelled))
            return
        calls = OurCalls(
            ours,
            plan,
            run_id=lambda: self._package.only_run_id(database) or "",
            execution_id=request.execution_id,
            cancelled=cancelled,
        )
        try:
            self._package.run(asked, database, GuardedAdapter(ours, plan, calls, self._package.errors, cancelled))
        finally:
            calls.close()

    @contextmanager
    def _cancellable(self, cancelled: threading.Event) -> Generator[None]:
        self._under_way.add(cancelled)
        if self._stopped.is_set():
            cancelled.set()
        try:
            yield
        finally:
            self._under_way.discard(cancelled)

    # -- the databases of runs under way --------------------------------------------------------------------------------------------

    @staticmethod
    def _nursery(file: Path) -> Path:
        return file.with_name(file.name + ".under-way")

    @contextmanager
    def _workspace(self, execution_id: str | None) -> Generator[Path]:
        """A new folder for the database of one run, and for the id of its execution, which nexus-router does not record.

        It stays unless the run is kept, or none was recorded.
        """
        if self._file is None:
            with tempfile.TemporaryDirectory(prefix="nexus-run-") as temporary:
                yield Path(temporary)
            return
        name = self._new_id()
        with RunLock(self._file, _lock_name(name)):  # before there is a folder, so that nobody takes it for a dead process's
            folder = self._nursery(self._file) / name
            try:
                folder.mkdir(mode=0o700, parents=True)
                if execution_id is not None:
                    (folder / _EXECUTION).write_text(execution_id, encoding="utf-8")
            except OSError as problem:
                raise StoreError(f"{folder}: the run cannot be recorded: {problem.strerror}") from None
            yield folder

    def _keep(self, folder: Path, raised: Exception | None) -> tuple[Run, list[RunEvent]]:
        """Copy the run of this folder to the others. Raises RunFailed when there is none, or it cannot be copied."""
        try:
            found = self._package.recorded(_database(folder))
        except RunFailed:
            raise
        except Exception as problem:  # foreign code
            raise RunFailed(
                "ROUTER_RECORD_INVALID", f"the record cannot be read: {type(problem).__name__}", run_id=None, response=None
            ) from problem
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            why = "without an error" if raised is None else f"with {type(raised).__name__}"
            raise RunFailed(
                "ROUTER_ERROR", f"nexus-router refused the request {why}; nothing was recorded", run_id=None, response=None
            ) from raised
        run, events = found
        complete = run["status"] != "RUNNING"
        try:
            run, events = self._store_ended(run, events, INTERRUPTED, _execution_id(folder))
        except StoreError as problem:
            response = run_response(run, events) if complete else None
            text = f"the run ended, but could not be copied to the others: {problem}; its record is in {folder}"
            raise RunFailed(problem.code, text, run_id=run["run_id"], response=response) from problem
        shutil.rmtree(folder, ignore_errors=True)
        return run, events

    def _interrupted(self, folder: Path, interruption: BaseException) -> None:
        """Keep what is known of a run that was interrupted; the interruption stays one."""
        try:
            run, events = self._keep(folder, None)
        except RunFailed as problem:
            interruption.add_note(str(problem))
        else:
            interruption.__dict__.update(run_id=run["run_id"], response=run_response(run, events))

    def _store_ended(self, run: Run, events: list[RunEvent], why: Ending, execution_id: str | None) -> tuple[Run, list[RunEvent]]:
        """Store a run, with an end if it has none. One that is stored already is not stored again."""
        with suppress(RunNotFound):
            return self._store.read(run["run_id"])
        rows = [event_row(event) for event in events]
        if run["status"] == "RUNNING":
            ends = ending_events(run, events, why, prov_id=None)
            rows += new_rows(run["run_id"], ends, len(events), clock=self._clock, new_id=lambda _: self._new_id())
            run = Run(run_id=run["run_id"], mode=run["mode"], goal=run["goal"], status="FAILED", created_at=run["created_at"])
        self._store.begin(run, rows, execution_id=execution_id)
        return run, [event_of(row) for row in rows]

    def _executions_under_way(self) -> set[str | None]:
        """The executions whose process lives, in this one or another."""
        if self._file is None or not self._nursery(self._file).is_dir():
            return set()
        found: set[str | None] = set()
        for folder in self._nursery(self._file).iterdir():
            lock = RunLock(self._file, _lock_name(folder.name))
            if lock.take_over():
                lock.release()
            else:
                found.add(_execution_id(folder))
        return found

    def _recover(self) -> list[str]:
        """Store what dead processes left; the ids. What cannot be read stays where it is: it may be all the evidence that there is."""
        recovered: list[str] = []
        if self._file is None or not self._nursery(self._file).is_dir():
            return recovered
        for folder in sorted(self._nursery(self._file).iterdir()):
            lock = RunLock(self._file, _lock_name(folder.name))
            if not lock.take_over():
                continue
            try:
                with suppress(Exception):  # foreign code on a file that may be damaged
                    if (found := self._package.recorded(_database(folder))) is not None:
                        recovered.append(self._store_ended(*found, DEAD, _execution_id(folder))[0]["run_id"])
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                lock.release()
        return recovered


def _database(folder: Path) -> str:
    return str(folder / "run.db")


_EXECUTION = "execution"
"""A file beside the database of a run under way."""


def _execution_id(folder: Path) -> str | None:
    try:
        return (folder / _EXECUTION).read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):  # the run was made without one
        return None


def _lock_name(name: str) -> str:
    return f"under-way/{name}"


def _failure(events: Iterable[RunEvent]) -> tuple[str, str]:
    """Code and text of the first thing that failed in a run."""
    for event in events:
        payload = event["payload"]
        if event["type"] == "TOOL_CALL_FAILED":
            return payload["error_code"], line(f"step {payload['step_id']}: {payload['message']}")
        if event["type"] == "RUN_FAILED" and "reason" in payload:
            return payload.get("error_code", payload["reason"].upper()), line(str(payload.get("message", payload["reason"])))
    return "ROUTER_ERROR", "nexus-router ended the run as failed and does not say why"
