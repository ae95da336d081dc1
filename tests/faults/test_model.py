"""Two processes' worth of tools on one file, or one database on a server, driven at random beside a small model of what they must do.

Executions stay in flight while everything else goes on, clocks go back and forth, and the tools are closed and opened again. After
every step both instances show what the model says; at the end the log verifies, and every prefix of every history replays to what was
shown when it was the whole.
"""

import os
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

from decision_model import Ending, Model, ModelRun
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, precondition, rule, run_state_machine_as_test
from postgres_testing import PostgresServer
from store_testing import ALICE, SetClock, quick_folder

from nexus_attest.postgres import PostgresStore
from nexus_control.decision import Decision
from nexus_control.events import Actor
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

EXAMPLES = int(os.environ.get("NEXUS_MODEL_RUNS", "40"))
"""Histories of up to 50 steps; `make faults` tells many more."""

_PATIENCE_SECONDS = 240
"""A machine that is busy, or was suspended, takes its time; what hangs is shown by pytest a little later."""

NAMES = ("ann", "bob", "cyd")
WHO = st.sampled_from(NAMES)
EITHER = st.sampled_from((0, 1))
MINUTES = st.sampled_from((-90, -30, -1, 0, 1, 29, 30, 31, 60))
MODES = st.sampled_from((("dry_run", "apply"), ("dry_run", "apply"), ("dry_run", "apply"), ("dry_run",), ("apply",)))


NOTHING: Any = multiple(*list[Any]())
"""What a rule gives that added nothing to its bundle."""


Place: TypeAlias = Callable[[SetClock], AbstractContextManager[Callable[[], SqlStore]]]
"""Room for one store, gone afterwards; gives what opens the store once more."""


@contextmanager
def a_file(clock: SetClock) -> Generator[Callable[[], SqlStore]]:
    with quick_folder() as folder:
        yield lambda: DecisionStore(folder / "s.db", clock=clock)


@contextmanager
def a_database(server: PostgresServer, clock: SetClock) -> Generator[Callable[[], SqlStore]]:
    address = server.new_database()
    try:
        yield lambda: PostgresStore(address, clock=clock)
    finally:
        server.drop(address)


def human(name: str) -> Actor:
    return Actor(type="human", id=name)


class Flight:
    """An execution in a thread of its own. Its router stands still until it is told how to end."""

    def __init__(self, tools: NexusControlTools, decision_id: str, dry_run: bool | None, retry: bool) -> None:
        self.decision_id = decision_id
        self.run_of_model: ModelRun | None = None
        self.model: Model | None = None
        self.result: ToolResult | None = None
        self._settled = threading.Event()  # in the air, or refused
        self._may_end = threading.Event()
        self._ending: Ending = "failed"
        self._thread = threading.Thread(target=self._fly, args=(tools, decision_id, dry_run, retry), daemon=True)
        self._thread.start()
        assert self._settled.wait(_PATIENCE_SECONDS)

    def _fly(self, tools: NexusControlTools, decision_id: str, dry_run: bool | None, retry: bool) -> None:
        try:
            self.result = tools.execute(decision_id, "ad", ALICE, self, dry_run, retry=retry)
        finally:
            self._settled.set()

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        self._settled.set()
        assert self._may_end.wait(_PATIENCE_SECONDS)
        if self._ending == "failed":
            raise OSError("the run failed")
        return {"run_id": "run-1", "steps_executed": 1}

    def end(self, ending: Ending) -> ToolResult:
        self._ending = ending
        self._may_end.set()
        self._thread.join(_PATIENCE_SECONDS)
        assert self.result is not None
        return self.result


@dataclass
class Shown:
    """What was shown of a decision's generation when it had so many events."""

    generation: int
    count: int
    at: datetime
    data: dict[str, Any]


@dataclass
class Exported:
    decision_id: str
    model: Model
    document: dict[str, Any]


@dataclass
class Known:
    """The model of each decision by id, None for one that was deleted."""

    models: dict[str, Model | None] = field(default_factory=dict[str, "Model | None"])
    shown: dict[str, list[Shown]] = field(default_factory=dict[str, list[Shown]])


class TwoProcesses(RuleBasedStateMachine):
    decisions = Bundle("decisions")
    exports = Bundle("exports")
    templates = Bundle("templates")

    def __init__(self, place: Place = a_file) -> None:
        super().__init__()
        self.clock = SetClock()
        self._room = ExitStack()
        self._open = self._room.enter_context(place(self.clock))
        self.known = Known()
        self.flights: list[Flight] = []
        self.made_templates: dict[str, int] = {}
        self.tools: list[NexusControlTools] = []
        self.stores: list[SqlStore] = []

    @initialize(target=decisions)
    def open_both(self) -> Any:
        """Two decisions may be executed from the start: most of what can happen comes after that."""
        self.stores = [self._open() for _ in range(2)]
        self.tools = [NexusControlTools(store) for store in self.stores]
        made = [self.request(which, mode, 1, ("dry_run", "apply")) for which, mode in enumerate(("apply", "dry_run"))]
        for name in made:
            self.approve(0, name, "ann", None)
        return multiple(*made)

    # -- time and processes ---------------------------------------------------------------------------------------------------

    @rule(minutes=MINUTES)
    def move_the_clock(self, minutes: int) -> None:
        self.clock.now += timedelta(minutes=minutes)
        self._compare_all()

    @rule(which=EITHER)
    @precondition(lambda self: not self.flights)
    def start_again(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = self._open()
        self.tools[which] = NexusControlTools(self.stores[which])

    # -- commands -------------------------------------------------------------------------------------------------------------

    @rule(target=decisions, which=EITHER, mode=st.sampled_from(("dry_run", "apply")), needed=st.integers(1, 2), modes=MODES)
    def request(self, which: int, mode: str, needed: int, modes: tuple[str, ...]) -> Any:
        result = self.tools[which].request("g", ALICE, mode=mode, min_approvals=needed, allowed_modes=list(modes))
        return self._requested(result, mode, needed, modes)

    @rule(target=templates, which=EITHER, name=st.sampled_from(("t", "u")), needed=st.integers(1, 2))
    def make_template(self, which: int, name: str, needed: int) -> Any:
        result = self.tools[which].template_create(name, ALICE, min_approvals=needed, allowed_modes=["dry_run", "apply"])
        assert result.code == ("TEMPLATE_ALREADY_EXISTS" if name in self.made_templates else None)
        self.made_templates.setdefault(name, needed)
        return name if result.success else NOTHING

    @rule(target=decisions, which=EITHER, name=templates, override=st.sampled_from((None, 1, 2)))
    def request_from_template(self, which: int, name: str, override: int | None) -> Any:
        result = self.tools[which].request("g", ALICE, mode="apply", template_name=name, min_approvals=override)
        return self._requested(result, "apply", override or self.made_templates[name], ("dry_run", "apply"))

    @rule(which=EITHER, decision=decisions, who=WHO, minutes=st.sampled_from((None, -5, 30, 30)))
    def approve(self, which: int, decision: str, who: str, minutes: int | None) -> None:
        expires_at = None if minutes is None else self.clock.now + timedelta(minutes=minutes)
        result = self.tools[which].approve(decision, human(who), expires_at=expires_at)
        self._compare(decision, result, lambda model: model.approve(who, expires_at, self.clock.now))

    @rule(which=EITHER, decision=decisions, data=st.data())
    def revoke(self, which: int, decision: str, data: st.DataObject) -> None:
        model = self.known.models[decision]
        who = data.draw(st.sampled_from([*(model.approvals if model is not None else ()), "zoe"]))
        self._compare(decision, self.tools[which].revoke_approval(decision, human(who)), lambda model: model.revoke(who))

    @rule(which=EITHER, decision=decisions, dry_run=st.sampled_from((None, None, True, False)), retry=st.booleans())
    def execute(self, which: int, decision: str, dry_run: bool | None, retry: bool) -> None:
        flight = Flight(self.tools[which], decision, dry_run, retry)
        if flight.result is None:
            self.flights.append(flight)
        told = flight.result or ToolResult(success=True)
        self._compare(decision, told, lambda model: model.claim(dry_run, retry, self.clock.now))
        if flight.result is None:
            flight.model = self.known.models[decision]
            assert flight.model is not None
            flight.run_of_model = flight.model.runs[-1]

    @rule(which=EITHER, decision=decisions)
    def execute_once_more(self, which: int, decision: str) -> None:
        """With an approval that was missing, and in spite of a failure."""
        if (model := self.known.models[decision]) is not None and not model.runs:
            self.approve(which, decision, "dan", None)
        self.execute(which, decision, None, True)

    @rule(data=st.data(), ending=st.sampled_from(("ok", "failed")))
    @precondition(lambda self: self.flights)
    def end_a_run(self, data: st.DataObject, ending: Ending) -> None:
        self._land(data.draw(st.sampled_from(range(len(self.flights)))), ending)

    @rule(which=EITHER, data=st.data())
    @precondition(lambda self: self.flights)
    def recover(self, which: int, data: st.DataObject) -> None:
        decision = data.draw(st.sampled_from([flight.decision_id for flight in self.flights]))
        self._compare(decision, self.tools[which].recover_execution(decision, ALICE), Model.recover)

    @rule(target=exports, which=EITHER, decision=decisions)
    def export(self, which: int, decision: str) -> Any:
        result = self.tools[which].export_bundle(decision, render=False)
        model = self.known.models[decision]
        assert result.code == (None if model is not None else "DECISION_NOT_FOUND")
        return NOTHING if model is None else Exported(decision, model.imported(), result.data["bundle"])

    @rule(
        target=decisions,
        which=EITHER,
        export=exports,
        conflict=st.sampled_from(("reject_on_conflict", "new_decision_id", "overwrite")),
    )
    def take_in(self, which: int, export: Exported, conflict: str) -> Any:
        exists = self.known.models.get(export.decision_id) is not None
        result = self.tools[which].import_bundle(export.document, conflict_mode=conflict)
        assert result.code == ("DECISION_EXISTS" if exists and conflict == "reject_on_conflict" else None), result.error
        if not result.success:
            return NOTHING
        name: str = result.data["imported"]["decision_id"]
        assert (name == export.decision_id) == (conflict != "new_decision_id" or not exists)
        self.known.models[name] = export.model.imported()
        self._compare_all([name])
        return NOTHING if name == export.decision_id else name

    @rule(which=EITHER, decision=decisions)
    @precondition(lambda self: len(self.known.models) > 4)
    def delete(self, which: int, decision: str) -> None:
        assert self.stores[which].delete_decision(decision) == (self.known.models[decision] is not None)
        self.known.models[decision] = None
        self._compare_all([decision])

    # -- comparing ------------------------------------------------------------------------------------------------------------

    def _requested(self, result: ToolResult, mode: str, needed: int, modes: tuple[str, ...]) -> Any:
        assert result.code == (None if mode in modes else "MODE_NOT_ALLOWED")
        if not result.success:
            return NOTHING
        name: str = result.data["request_id"]
        self.known.models[name] = Model(mode, needed, modes)
        self._compare_all([name])
        return name

    def _compare(self, decision: str, result: ToolResult, foretell: Callable[[Model], str | None]) -> None:
        model = self.known.models[decision]
        code = "DECISION_NOT_FOUND" if model is None else foretell(model)
        assert result.code == code, (result.code, code, result.error)
        self._compare_all([decision])

    def _land(self, number: int, ending: Ending) -> None:
        flight = self.flights.pop(number)
        result, model = flight.end(ending), self.known.models[flight.decision_id]
        assert flight.run_of_model is not None
        if model is None:
            code = "OUTCOME_NOT_RECORDED"  # the decision was deleted
        elif model is not flight.model:
            code = "EXECUTION_SUPERSEDED"  # it was replaced
        else:
            code = model.finish(flight.run_of_model, ending)
        assert result.code == code, (result.code, code, result.error)
        self._compare_all([flight.decision_id])

    def _compare_all(self, only: list[str] | None = None) -> None:
        """Both instances show of these decisions what the model says."""
        now = self.clock.now
        for name in self.known.models if only is None else only:
            model = self.known.models[name]
            shown = [tools.status(name) for tools in self.tools]
            if model is None:
                assert [result.code for result in shown] == ["DECISION_NOT_FOUND"] * 2
                continue
            for result in shown:
                found = (result.data["state"], result.data["active_approvals"], result.data["is_approved"])
                assert found == (model.state(now), model.shown(now), model.shown(now) >= model.needed), name
                assert len(result.data["executions"]) == len(model.runs)
            generation = self.stores[0].list_generations(name)[-1]
            data = {key: value for key, value in shown[0].data.items() if key != "blocking_reasons"}
            self.known.shown.setdefault(name, []).append(Shown(generation["generation"], generation["event_count"], now, data))

    def teardown(self) -> None:
        try:
            while self.flights:
                self._land(0, "ok")
            if self.stores:
                self._compare_all()
                self._judge_the_whole()
        finally:
            for store in self.stores:
                store.close()
            self._room.close()

    def _judge_the_whole(self) -> None:
        store = self.stores[1]
        verification = store.verify_log()
        assert verification.ok, verification.errors
        listed = {entry["request_id"]: entry for entry in self.tools[0].list_requests(limit=1000).data["requests"]}
        alive = {name: model for name, model in self.known.models.items() if model is not None}
        assert {name: entry["state"] for name, entry in listed.items()} == {
            name: model.state(self.clock.now) for name, model in alive.items()
        }
        for name, moments in self.known.shown.items():
            for moment in moments:
                events = store.get_events(name, generation=moment.generation)[: moment.count]
                assert Decision.replay(name, events, as_of=moment.at).to_dict() == moment.data


SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

TestTwoProcesses = TwoProcesses.TestCase
TestTwoProcesses.settings = SETTINGS


def test_two_processes_on_a_server(postgres_server: PostgresServer) -> None:
    class OnAServer(TwoProcesses):
        def __init__(self) -> None:
            super().__init__(partial(a_database, postgres_server))

    run_state_machine_as_test(OnAServer, settings=settings(SETTINGS, max_examples=max(1, EXAMPLES // 8)))
