"""Execution: who gets through, what is recorded of every outcome, and that it happens at most once."""

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from store_testing import ALICE, BOB, CAROL, NEXUS, T0, SetClock, foreign, new_store, raw_event

from nexus_control.errors import StoreFull
from nexus_control.events import Actor, EventType
from nexus_control.integrity import content_digest
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult


class Router:
    """Runs nothing; answers with what the test wants and keeps what it was asked."""

    def __init__(self, answer: Any = None, capabilities: Any = None) -> None:
        self.answer: Any = {"run_id": "run-1", "steps_executed": 2} if answer is None else answer
        self.capabilities = capabilities
        self.calls: list[dict[str, Any]] = []

    def get_adapter_capabilities(self, adapter_id: str) -> Any:
        assert adapter_id == "ad"
        return self.capabilities

    def run(self, **request: Any) -> Any:
        self.calls.append(request)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(**request) if callable(self.answer) else self.answer


class EvidenceError(Exception):
    """An exception that carries what the router knows."""

    def __init__(self, text: str, code: Any = None, run_id: Any = None, response: Any = None) -> None:
        super().__init__(text)
        self.code, self.run_id, self.response = code, run_id, response


@pytest.fixture
def tools() -> NexusControlTools:
    return NexusControlTools(new_store())


def requested(tools: NexusControlTools, **policy: Any) -> str:
    options: dict[str, Any] = {"mode": "apply", "min_approvals": 1, **policy}
    result = tools.request("g", ALICE, **options)
    assert result.success, result.error
    return result.data["request_id"]


def approved(tools: NexusControlTools, **policy: Any) -> str:
    decision_id = requested(tools, **policy)
    assert tools.approve(decision_id, BOB).success
    return decision_id


def execute(tools: NexusControlTools, decision_id: str, router: Any, **options: Any) -> ToolResult:
    return tools.execute(decision_id, "ad", ALICE, router, **options)


def types(tools: NexusControlTools, decision_id: str) -> list[str]:
    return [event.event_type.value for event in tools.store.get_events(decision_id)]


def last_payload(tools: NexusControlTools, decision_id: str) -> dict[str, Any]:
    return tools.store.get_events(decision_id)[-1].payload


def test_a_whole_flow_leaves_seven_events_and_both_digests(tools: NexusControlTools) -> None:
    decision_id = requested(tools, min_approvals=2)
    tools.approve(decision_id, BOB)
    tools.approve(decision_id, CAROL)
    result = execute(tools, decision_id, Router())
    request = {"goal": "g", "adapter_id": "ad", "dry_run": False}
    response = {"run_id": "run-1", "steps_executed": 2}
    assert result.to_dict() == {
        "success": True,
        "request_id": decision_id,
        "run_id": "run-1",
        "mode": "apply",
        "steps_executed": 2,
        "request_digest": content_digest(request),
        "response_digest": content_digest(response),
    }
    assert types(tools, decision_id) == [
        "DECISION_CREATED",
        "POLICY_ATTACHED",
        "APPROVAL_GRANTED",
        "APPROVAL_GRANTED",
        "EXECUTION_REQUESTED",
        "EXECUTION_STARTED",
        "EXECUTION_COMPLETED",
    ]
    asked, started, completed = tools.store.get_events(decision_id)[4:]
    assert (asked.actor, asked.payload) == (ALICE, {"adapter_id": "ad", "dry_run": False})
    assert (started.actor, started.payload) == (NEXUS, {"router_request_digest": content_digest(request)})
    assert (completed.actor, completed.payload) == (
        NEXUS,
        {"run_id": "run-1", "response_digest": content_digest(response), "steps_executed": 2},
    )


def test_the_router_gets_exactly_the_six_keywords(tools: NexusControlTools) -> None:
    router = Router(capabilities={"timeout", "apply"})
    execute(tools, approved(tools, plan="p", max_steps=3, require_adapter_capabilities=["timeout"]), router)
    execute(tools, approved(tools), router)
    assert router.calls == [
        {"goal": "g", "adapter_id": "ad", "dry_run": False, "plan": "p", "max_steps": 3, "require_capabilities": ["timeout"]},
        {"goal": "g", "adapter_id": "ad", "dry_run": False, "plan": None, "max_steps": None, "require_capabilities": None},
    ]


def test_a_router_that_asks_for_it_gets_the_execution_id(tools: NexusControlTools) -> None:
    class WithKey(Router):
        accepts_execution_id = True

    router = WithKey()
    decision_id = approved(tools)
    execute(tools, decision_id, router)
    assert router.calls[0]["execution_id"] == f"evt_{decision_id}_3"


@pytest.mark.parametrize(
    ("requested_mode", "dry_run", "mode"),
    [("apply", None, "apply"), ("apply", True, "dry_run"), ("apply", False, "apply"), ("dry_run", None, "dry_run")],
)
def test_the_mode_is_the_callers_or_the_requested_one(
    tools: NexusControlTools, requested_mode: str, dry_run: bool | None, mode: str
) -> None:
    result = execute(tools, approved(tools, mode=requested_mode), Router(), dry_run=dry_run)
    assert result.data["mode"] == mode


def test_a_refusal_by_the_policy_names_every_problem_and_writes_nothing(tools: NexusControlTools) -> None:
    decision_id = requested(tools, mode="dry_run", min_approvals=2, require_adapter_capabilities=["timeout"])
    before = tools.store.log_root()
    router = Router(capabilities=set[str]())
    result = execute(tools, decision_id, router, dry_run=False)
    assert not result.success
    assert result.error is not None
    assert result.error.startswith("Policy validation failed: ")
    assert all(text in result.error for text in ("not allowed", "Insufficient approvals", "missing required capabilities", "; "))
    assert result.code == "POLICY_VALIDATION_FAILED"
    assert tools.store.log_root() == before
    assert router.calls == []


def test_unknown_capabilities_are_not_judged(tools: NexusControlTools) -> None:
    assert execute(tools, approved(tools, require_adapter_capabilities=["timeout"]), Router(capabilities=None)).success


def test_a_decision_without_policy_cannot_be_executed(tools: NexusControlTools) -> None:
    decision_id = tools.store.create_decision()
    result = execute(tools, decision_id, Router())
    assert (result.code, "no policy" in (result.error or "")) == ("NO_POLICY", True)


def test_nothing_runs_inside_a_transaction_that_could_undo_its_record(tools: NexusControlTools) -> None:
    decision_id, router = approved(tools), Router()
    with tools.store.transaction():
        refused = execute(tools, decision_id, router)
    assert (refused.code, router.calls) == ("INVALID_ARGUMENT", [])
    assert "inside a transaction" in (refused.error or "")
    assert types(tools, decision_id)[-1] == "APPROVAL_GRANTED"
    assert execute(tools, decision_id, router).success


def test_an_unknown_decision_is_not_found_before_the_router_is_asked(tools: NexusControlTools) -> None:
    class Untouchable(Router):
        def get_adapter_capabilities(self, adapter_id: str) -> Any:
            raise AssertionError(adapter_id)

    assert execute(tools, "nope", Untouchable()).code == "DECISION_NOT_FOUND"


_Meanwhile: TypeAlias = Callable[[NexusControlTools, str], object]
_WHILE_ASKED: list[tuple[_Meanwhile, str | None]] = [
    (lambda tools, decision_id: tools.revoke_approval(decision_id, BOB), "POLICY_VALIDATION_FAILED"),
    (lambda tools, decision_id: execute(tools, decision_id, Router()), "ALREADY_EXECUTED"),
    (lambda tools, decision_id: tools.store.delete_decision(decision_id), "DECISION_NOT_FOUND"),
    (lambda tools, decision_id: replace_by_its_own_export(tools, decision_id), "POLICY_VALIDATION_FAILED"),
    (lambda tools, decision_id: tools.approve(decision_id, CAROL), None),
    (lambda tools, _: approved(tools), None),
]


def replace_by_its_own_export(tools: NexusControlTools, decision_id: str) -> None:
    bundle = tools.export_bundle(decision_id).data["bundle"]
    assert tools.import_bundle(bundle, conflict_mode="overwrite").success


@pytest.mark.parametrize(
    ("meanwhile", "code"),
    _WHILE_ASKED,
    ids=["revoked", "executed", "deleted", "replaced", "approved once more", "another decision"],
)
def test_what_happens_while_the_router_is_asked_is_judged(tools: NexusControlTools, meanwhile: _Meanwhile, code: str | None) -> None:
    decision_id = approved(tools)

    class Slow(Router):
        def get_adapter_capabilities(self, adapter_id: str) -> Any:
            assert adapter_id == "ad"
            meanwhile(tools, decision_id)

    router = Slow()
    assert execute(tools, decision_id, router).code == code
    assert len(router.calls) == (code is None)
    assert tools.store.verify_log().errors == []


# -- the guard ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "first_dry_run", "second_dry_run", "code"),
    [
        ("apply", False, False, "ALREADY_EXECUTED"),
        ("apply", False, True, "ALREADY_EXECUTED"),
        ("apply", True, False, None),
        ("apply", True, True, None),
        ("dry_run", True, True, "ALREADY_EXECUTED"),
    ],
)
def test_after_a_completed_run_only_a_rehearsed_apply_may_follow(
    tools: NexusControlTools, mode: str, first_dry_run: bool, second_dry_run: bool, code: str | None
) -> None:
    decision_id = approved(tools, mode=mode)
    router = Router()
    assert execute(tools, decision_id, router, dry_run=first_dry_run).success
    second = execute(tools, decision_id, router, dry_run=second_dry_run)
    assert second.code == code
    assert len(router.calls) == (2 if code is None else 1)


def test_after_rehearsal_and_run_nothing_may_follow(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    assert execute(tools, decision_id, Router(), dry_run=True).success
    assert execute(tools, decision_id, Router(), dry_run=False).success
    assert execute(tools, decision_id, Router(), dry_run=False).code == "ALREADY_EXECUTED"
    assert execute(tools, decision_id, Router(), dry_run=True).code == "ALREADY_EXECUTED"


def test_the_approvals_are_judged_again_after_a_rehearsal() -> None:
    clock = SetClock()
    tools = NexusControlTools(new_store(clock=clock))
    decision_id = requested(tools)
    tools.approve(decision_id, BOB, expires_at=T0 + timedelta(hours=1))
    assert execute(tools, decision_id, Router(), dry_run=True).success
    clock.now = T0 + timedelta(hours=2)
    result = execute(tools, decision_id, Router(), dry_run=False)
    assert result.code == "POLICY_VALIDATION_FAILED"


def test_a_failed_execution_needs_an_explicit_retry(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    execute(tools, decision_id, Router(OSError("down")))
    refused = execute(tools, decision_id, Router())
    assert (refused.error or "").startswith("EXECUTION_FAILED: ")
    assert execute(tools, decision_id, Router(), retry=True).success
    assert execute(tools, decision_id, Router(), retry=True).code == "ALREADY_EXECUTED"


def test_a_second_execution_is_refused_while_one_is_under_way(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    inner: list[ToolResult] = []

    def reenter(**_: Any) -> dict[str, Any]:
        inner.append(execute(tools, decision_id, Router()))
        inner.append(tools.approve(decision_id, CAROL))
        inner.append(tools.revoke_approval(decision_id, BOB))
        return {"run_id": "run-1"}

    assert execute(tools, decision_id, Router(reenter)).data["steps_executed"] == 0
    assert [result.code for result in inner] == ["EXECUTION_IN_PROGRESS", "CANNOT_APPROVE", "CANNOT_REVOKE"]


@pytest.mark.parametrize("event_type", [EventType.DECISION_CREATED, EventType.POLICY_ATTACHED])
def test_nothing_runs_under_approvals_that_were_given_for_another_action(tools: NexusControlTools, event_type: EventType) -> None:
    decision_id = approved(tools)
    created, policy = (event.payload for event in tools.store.get_events(decision_id)[:2])
    tools.store.append_event(decision_id, event_type, ALICE, {**created, "goal": "another"} if event_type == "DECISION_CREATED" else policy)
    if event_type == "DECISION_CREATED":
        tools.store.append_event(decision_id, EventType.POLICY_ATTACHED, ALICE, policy)
    router = Router()
    assert execute(tools, decision_id, router).code == "ACTION_CHANGED"
    assert router.calls == []
    assert tools.approve(decision_id, CAROL).success
    assert execute(tools, decision_id, router).success


def test_a_hand_written_start_blocks_like_a_real_one(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    tools.store.append_event(decision_id, EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": True})
    tools.store.append_event(decision_id, EventType.EXECUTION_STARTED, NEXUS, {"router_request_digest": "abc"})
    assert execute(tools, decision_id, Router()).code == "EXECUTION_IN_PROGRESS"


def test_a_hand_written_completion_without_a_request_still_counts_as_done(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    payload = {"run_id": "r", "response_digest": "abc", "steps_executed": 1}
    tools.store.append_event(decision_id, EventType.EXECUTION_COMPLETED, NEXUS, payload)
    assert execute(tools, decision_id, Router()).code == "ALREADY_EXECUTED"


# -- what routers do ----------------------------------------------------------------------------------------------------------


def test_a_routers_exception_is_recorded_and_returned(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    result = execute(tools, decision_id, Router(OSError("the key server is down")))
    assert (result.code, result.error) == ("ROUTER_ERROR", "ROUTER_ERROR: the key server is down")
    assert last_payload(tools, decision_id) == {"error_code": "ROUTER_ERROR", "error_message": "the key server is down", "run_id": None}
    assert tools.status(decision_id).data["state"] == "failed"


def test_an_exception_keeps_its_code_run_id_and_response(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    result = execute(tools, decision_id, Router(EvidenceError("no", "TIMEOUT", "run-7", {"status": "failed"})))
    assert result.code == "TIMEOUT"
    assert last_payload(tools, decision_id) == {
        "error_code": "TIMEOUT",
        "error_message": "no",
        "run_id": "run-7",
        "response_digest": content_digest({"status": "failed"}),
    }


@pytest.mark.parametrize(
    ("error", "payload"),
    [
        (EvidenceError("m", code=7, run_id=8, response="x"), {"error_code": "ROUTER_ERROR", "error_message": "m", "run_id": None}),
        (EvidenceError("m", code="", run_id=""), {"error_code": "ROUTER_ERROR", "error_message": "m", "run_id": None}),
        (KeyError(), {"error_code": "ROUTER_ERROR", "error_message": "KeyError", "run_id": None}),
        (OSError("\ud800"), {"error_code": "ROUTER_ERROR", "error_message": "\\ud800", "run_id": None}),
        (
            EvidenceError("m", response={"x": float("nan")}),
            {"error_code": "ROUTER_ERROR", "error_message": "m (its response is not canonical JSON)", "run_id": None},
        ),
    ],
)
def test_what_an_exception_carries_is_stored_only_where_it_fits(
    tools: NexusControlTools, error: Exception, payload: dict[str, Any]
) -> None:
    decision_id = approved(tools)
    assert not execute(tools, decision_id, Router(error)).success
    assert last_payload(tools, decision_id) == payload


def test_a_very_long_message_is_stored_shortened(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    execute(tools, decision_id, Router(OSError("x" * 1_000_000)))
    assert last_payload(tools, decision_id)["error_message"] == "x" * 10_000 + " ... (1000000 characters)"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit("bye")])
def test_an_interrupt_is_recorded_before_it_goes_on(tools: NexusControlTools, error: BaseException) -> None:
    decision_id = approved(tools)
    with pytest.raises(type(error)):
        execute(tools, decision_id, Router(error))
    payload = last_payload(tools, decision_id)
    assert payload["error_code"] == "EXECUTION_INTERRUPTED"
    assert payload["error_message"] == (str(error) or "KeyboardInterrupt")


@pytest.mark.parametrize(
    ("response", "run_id", "steps", "ok"),
    [
        ({"run_id": "r"}, "r", 0, True),
        ({"run_id": "r", "steps_executed": None}, "r", 0, True),
        ({"run_id": 7, "steps_executed": 1}, "7", 1, True),
        ({"run_id": "r", "steps_executed": 1, "more": {"nested": [1, "é"]}}, "r", 1, True),
        ({"steps_executed": 1}, None, None, False),
        ({"run_id": ""}, None, None, False),
        ({"run_id": True}, None, None, False),
        ({"run_id": None}, None, None, False),
        (["run_id"], None, None, False),
        ("r", None, None, False),
        ({"run_id": "r", "steps_executed": "1"}, "r", None, False),
        ({"run_id": "r", "steps_executed": True}, "r", None, False),
        ({"run_id": "r", "steps_executed": -1}, "r", None, False),
        ({"run_id": "r", "x": float("nan")}, "r", None, False),
        ({"run_id": "r", "x": b"bytes"}, "r", None, False),
        ({"run_id": "r", "x": {1: 2}}, "r", None, False),
        ({"run_id": "r", "x": "\ud800"}, "r", None, False),
        ({"run_id": "\ud800"}, "\\ud800", None, False),
    ],
)
def test_a_response_is_completed_with_its_run_id_or_failed_as_invalid(
    tools: NexusControlTools, response: Any, run_id: str | None, steps: int | None, ok: bool
) -> None:
    decision_id = approved(tools)

    def run(**_: Any) -> Any:
        return response

    result = execute(tools, decision_id, Router(run))
    payload = last_payload(tools, decision_id)
    assert (result.success, payload["run_id"]) == (ok, run_id)
    if ok:
        assert (payload["steps_executed"], payload["response_digest"]) == (steps, content_digest(response))
    else:
        assert (result.code, payload["error_code"]) == ("ROUTER_RESPONSE_INVALID", "ROUTER_RESPONSE_INVALID")
        assert tools.status(decision_id).data["state"] == "failed"


@pytest.mark.parametrize("router", [None, 7, "router", object(), type("Half", (), {"run": print})()])
def test_what_is_no_router_is_refused_before_anything_is_written(tools: NexusControlTools, router: Any) -> None:
    decision_id = approved(tools)
    before = tools.store.log_root()
    assert execute(tools, decision_id, router).code == "INVALID_ROUTER"
    assert tools.store.log_root() == before


@pytest.mark.parametrize(("capabilities", "code"), [(7, "INVALID_ROUTER"), ("apply", "INVALID_ROUTER"), (["apply"], None)])
def test_capabilities_are_a_collection_of_names(tools: NexusControlTools, capabilities: Any, code: str | None) -> None:
    decision_id = approved(tools, require_adapter_capabilities=["apply"])
    assert execute(tools, decision_id, Router(capabilities=capabilities)).code == code


def test_a_router_that_cannot_tell_its_capabilities_leaves_the_decision_as_it_is(tools: NexusControlTools) -> None:
    class Broken(Router):
        def get_adapter_capabilities(self, adapter_id: str) -> Any:
            raise LookupError(adapter_id)

    decision_id = approved(tools)
    before = tools.store.log_root()
    result = execute(tools, decision_id, Broken())
    assert (result.code, tools.store.log_root()) == ("ROUTER_ERROR", before)


# -- abandoned, late, lost ----------------------------------------------------------------------------------------------------


def stuck(tools: NexusControlTools, during: Callable[[str], Any], answer: Any = None) -> tuple[str, ToolResult]:
    """An execution during whose run somebody else does `during`."""
    decision_id = approved(tools)

    def run(**_: Any) -> Any:
        during(decision_id)
        if isinstance(answer, BaseException):
            raise answer
        return {"run_id": "late", "steps_executed": 1}

    return decision_id, execute(tools, decision_id, Router(run))


def test_recovery_records_on_somebodys_word_that_the_outcome_is_unknown(tools: NexusControlTools) -> None:
    recovered: list[ToolResult] = []
    decision_id, _ = stuck(tools, lambda i: recovered.append(tools.recover_execution(i, CAROL, "host is gone")))
    assert recovered[0].data == {"request_id": decision_id, "state": "failed", "error_code": "EXECUTION_ABANDONED"}
    event = tools.store.get_events(decision_id)[5]
    assert (event.actor, event.payload) == (
        CAROL,
        {"error_code": "EXECUTION_ABANDONED", "error_message": "host is gone", "run_id": None},
    )


@pytest.mark.parametrize("prepare", [requested, approved])
def test_there_is_nothing_to_recover_without_an_execution(tools: NexusControlTools, prepare: Callable[[NexusControlTools], str]) -> None:
    assert tools.recover_execution(prepare(tools), CAROL).code == "NOTHING_TO_RECOVER"


def test_an_execution_that_nobody_requested_is_recovered_and_the_decision_can_run_again(tools: NexusControlTools) -> None:
    decision_id, router = approved(tools), Router()
    tools.store.append_event(decision_id, EventType.EXECUTION_STARTED, NEXUS, {"router_request_digest": "abc"})
    assert tools.execute(decision_id, "ad", CAROL, router).code == "EXECUTION_IN_PROGRESS"
    assert tools.recover_execution(decision_id, CAROL).data == {
        "request_id": decision_id,
        "state": "failed",
        "error_code": "EXECUTION_ABANDONED",
    }
    assert tools.store.get_events(decision_id)[-1].payload == {
        "error_code": "EXECUTION_ABANDONED",
        "error_message": "The executing process did not report; the outcome is unknown",
        "run_id": None,
    }
    assert tools.execute(decision_id, "ad", CAROL, router).code == "EXECUTION_FAILED"
    assert tools.execute(decision_id, "ad", CAROL, router, retry=True).data["run_id"] == "run-1"


@pytest.mark.parametrize("rehearsed", [False, True])
def test_no_record_is_looked_for_of_an_execution_that_nobody_requested(tools: NexusControlTools, rehearsed: bool) -> None:
    class Records:
        def run_of_execution(self, execution_id: str) -> str | None:
            raise AssertionError(execution_id)

        def flight_record(self, run_id: str) -> dict[str, Any]:
            raise AssertionError(run_id)

    decision_id = approved(tools)
    if rehearsed:
        assert tools.execute(decision_id, "ad", CAROL, Router(), dry_run=True).success
    tools.store.append_event(decision_id, EventType.EXECUTION_STARTED, NEXUS, {"router_request_digest": "abc"})
    tools.flight_records = Records()
    assert tools.recover_execution(decision_id, CAROL).data["state"] == "failed"


def test_an_outcome_that_comes_after_the_abandonment_is_still_recorded(tools: NexusControlTools) -> None:
    decision_id, result = stuck(tools, lambda i: tools.recover_execution(i, CAROL))
    assert result.success
    assert types(tools, decision_id)[-2:] == ["EXECUTION_FAILED", "EXECUTION_COMPLETED"]
    assert tools.status(decision_id).data["state"] == "completed"


@pytest.mark.parametrize("answer", [None, OSError("no")])
def test_an_outcome_that_comes_after_another_claim_is_recorded_under_neither(tools: NexusControlTools, answer: Any) -> None:
    def again(decision_id: str) -> None:
        assert tools.recover_execution(decision_id, CAROL).success
        assert execute(tools, decision_id, Router({"run_id": "second", "steps_executed": 1}), retry=True).success

    decision_id, result = stuck(tools, again, answer)
    assert result.code == "EXECUTION_SUPERSEDED"
    completed = [event.payload["run_id"] for event in tools.store.get_events(decision_id) if event.event_type == "EXECUTION_COMPLETED"]
    assert completed == ["second"]


def test_an_outcome_for_a_decision_that_was_replaced_goes_nowhere(tools: NexusControlTools) -> None:
    def replace(decision_id: str) -> None:
        bundle = tools.export_bundle(decision_id).data["bundle"]
        assert tools.import_bundle(bundle, conflict_mode="overwrite").success

    decision_id, result = stuck(tools, replace)
    assert result.code == "EXECUTION_SUPERSEDED"
    assert "only the router's record of the run has it" in str(result.error)
    assert types(tools, decision_id)[-1] == "EXECUTION_STARTED"
    assert tools.store.verify_log().ok


def test_an_outcome_that_the_store_cannot_take_is_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store()
    tools = NexusControlTools(store)
    decision_id = approved(tools)

    def run(**_: Any) -> dict[str, Any]:
        def full(*_: Any, **__: Any) -> Any:
            raise StoreFull("no space left")

        monkeypatch.setattr(DecisionStore, "append_events", full)
        return {"run_id": "run-1", "steps_executed": 1}

    result = execute(tools, decision_id, Router(run))
    assert result.code == "OUTCOME_NOT_RECORDED"
    assert "run-1" in (result.error or "")
    monkeypatch.undo()
    assert tools.status(decision_id).data["state"] == "executing"
    assert tools.recover_execution(decision_id, Actor(type="human", id="carol"), "disk was full").success


# -- hostile routers and histories --------------------------------------------------------------------------------------------


class Unspeakable(Exception):
    """Cannot be described: its text and its attributes raise."""

    def __str__(self) -> str:
        raise LookupError("no text")

    @property
    def code(self) -> str:
        raise LookupError("no code")

    run_id = response = code


class UnspeakableInterrupt(BaseException):
    """The same, and nobody may keep it from going on."""

    def __str__(self) -> str:
        raise LookupError("no text")


def test_an_exception_that_cannot_be_described_is_a_failure_all_the_same(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    assert execute(tools, decision_id, Router(Unspeakable())).error == "ROUTER_ERROR: Unspeakable"
    assert last_payload(tools, decision_id) == {"error_code": "ROUTER_ERROR", "error_message": "Unspeakable", "run_id": None}


def test_an_interrupt_that_cannot_be_described_is_recorded_before_it_goes_on(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    with pytest.raises(UnspeakableInterrupt):
        execute(tools, decision_id, Router(UnspeakableInterrupt()))
    assert last_payload(tools, decision_id)["error_message"] == "UnspeakableInterrupt"


def test_an_interrupt_stays_one_when_the_store_cannot_take_it(tools: NexusControlTools) -> None:
    decision_id = approved(tools)

    def run(**_: Any) -> Any:
        tools.store.close()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        execute(tools, decision_id, Router(run))
    assert "could not be recorded" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "response",
    [
        pytest.param({"run_id": 10**5000}, id="run_id that cannot be written"),
        pytest.param({"run_id": 2**256}, id="run_id that nobody could look up"),
        pytest.param({"run_id": "r", "steps_executed": 10**5000}, id="steps that cannot be written"),
        pytest.param({"run_id": "r", "steps_executed": -(10**5000)}, id="steps below zero that cannot be written"),
        pytest.param({"run_id": "x" * 20_000}, id="run_id of twenty thousand characters"),
    ],
)
def test_a_response_beyond_all_bounds_is_a_failure_and_nothing_stays_stuck(tools: NexusControlTools, response: Any) -> None:
    decision_id = approved(tools)
    assert execute(tools, decision_id, Router(response)).code == "ROUTER_RESPONSE_INVALID"
    assert tools.status(decision_id).data["state"] == "failed"


def test_a_response_that_is_nested_without_end_is_a_failure_that_keeps_the_run_id(tools: NexusControlTools) -> None:
    endless: dict[str, Any] = {"run_id": "r"}
    endless["x"] = endless
    decision_id = approved(tools)
    assert execute(tools, decision_id, Router(endless)).code == "ROUTER_RESPONSE_INVALID"
    assert last_payload(tools, decision_id)["run_id"] == "r"


def test_capabilities_that_cannot_be_named_are_the_routers_error(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    before = tools.store.log_root()
    result = execute(tools, decision_id, Router(capabilities={Unspeakable()}))
    assert (result.code, tools.store.log_root()) == ("ROUTER_ERROR", before)


def test_an_outcome_for_a_decision_that_was_deleted_is_said_to_be_lost(tools: NexusControlTools) -> None:
    decision_id, result = stuck(tools, lambda i: tools.store.delete_decision(i))
    assert result.code == "OUTCOME_NOT_RECORDED"
    assert "late" in (result.error or "")
    assert tools.status(decision_id).code == "DECISION_NOT_FOUND"


def test_an_outcome_is_recorded_even_when_the_history_was_damaged_meanwhile(tools: NexusControlTools) -> None:
    def damage(decision_id: str) -> None:
        assert isinstance(tools.store, DecisionStore)
        tools.store.insert_event_raw(decision_id, **raw_event(9, event_type="NO_SUCH_EVENT"))

    decision_id, result = stuck(tools, damage)
    assert result.success
    last = tools.store.latest_event(decision_id, EventType.EXECUTION_COMPLETED)
    assert last is not None
    assert (last.seq, last.payload["run_id"]) == (10, result.data["run_id"])


_FORGED_ROW = """
    INSERT INTO decision_events (position, decision_id, generation, seq, event_type, ts, actor_type, actor_id, payload, digest, prev, chain)
    SELECT 4, decision_id, generation, 2, 'APPROVAL_GRANTED', ts, actor_type, 'mallory',
           '{"expires_at":null}', digest, chain, x'00'
    FROM decision_events WHERE seq = 1"""
_UNLOCK = "DROP TRIGGER decision_events_refuse_update; DROP TRIGGER decision_events_refuse_delete; DROP TRIGGER decisions_refuse_update;"


@pytest.mark.parametrize(
    ("forgery", "told"),
    [
        (_FORGED_ROW.replace("x'00'", "zeroblob(32)"), "event 2 is not what was recorded"),
        (_UNLOCK + "UPDATE decision_events SET payload = replace(payload, '[]', '[\"x\"]') WHERE seq = 1", "event 1 is not"),
        (_UNLOCK + "UPDATE decision_events SET payload = replace(payload, 'goal\":\"g', 'goal\":\"h')", "event 0 is not"),
        (_UNLOCK + "UPDATE decision_events SET actor_id = 'mallory' WHERE seq = 0", "event 0 is not"),
        (_UNLOCK + "UPDATE decision_events SET prev = zeroblob(32) WHERE seq = 1", "event 1 does not follow"),
        (_UNLOCK + "UPDATE decision_events SET seq = 7 WHERE seq = 1", "event 7 does not follow"),
        (_UNLOCK + "DELETE FROM decision_events WHERE seq = 0", "event 1 does not follow"),
        (_UNLOCK + "UPDATE decisions SET created_at = '2020-01-01T00:00:00+00:00'", "the header of generation 1 is not"),
    ],
)
def test_nothing_is_run_on_a_history_that_somebody_edited(tmp_path: Path, forgery: str, told: str) -> None:
    with new_store(tmp_path / "store.db") as store:
        tools, router = NexusControlTools(store), Router()
        decision_id = requested(tools)
        with closing(foreign(tmp_path / "store.db")) as other:
            other.executescript(forgery)
        assert tools.approve(decision_id, BOB).code in (None, "STORE_CONFLICT")
        result = execute(tools, decision_id, router)
        assert (result.code, router.calls) == ("HISTORY_ALTERED", [])
        assert told in (result.error or "")


_REVOKED = "APPROVAL_REVOKED"
_EXECUTED = "EXECUTION%"


def ended(path: Path, kind: str) -> str:
    """A store whose last facts are of this kind: a decision whose approval was taken back, or was used."""
    with new_store(path) as store:
        tools = NexusControlTools(store)
        decision_id = approved(tools)
        if kind == _REVOKED:
            assert tools.revoke_approval(decision_id, BOB, "stop").success
        else:
            assert execute(tools, decision_id, Router()).success
    return decision_id


def edit(path: Path, *statements: str) -> None:
    """As who owns the file can, with the triggers back in their places afterwards."""
    with closing(foreign(path)) as other:
        triggers = other.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            other.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            other.execute(statement)
        for _, sql in triggers:
            other.execute(sql)


@pytest.mark.parametrize("kind", [_REVOKED, _EXECUTED])
def test_nothing_is_run_when_the_last_events_of_the_store_were_removed(tmp_path: Path, kind: str) -> None:
    path, router = tmp_path / "store.db", Router()
    decision_id = ended(path, kind)
    edit(path, f"DELETE FROM decision_events WHERE event_type LIKE '{kind}'")
    with DecisionStore(path) as store:
        assert store.verify_log(decision_id).ok
        result = execute(NexusControlTools(store), decision_id, router)
        assert (result.code, router.calls) == ("HISTORY_ALTERED", [])
        assert "is an event that is not stored" in (result.error or "")


def test_nothing_is_run_when_the_last_event_of_the_store_is_hidden_by_an_index(tmp_path: Path) -> None:
    path, router = tmp_path / "store.db", Router()
    decision_id = ended(path, _REVOKED)
    with closing(foreign(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    entry = decision_id.encode() + bytes([3, 5])  # of the index over decision, generation (1 takes no byte), seq, with the position
    content = path.read_bytes()
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, decision_id[:-1].encode() + b"z" + bytes([3, 5])))
    with DecisionStore(path) as store:
        result = execute(NexusControlTools(store), decision_id, router)
        assert (result.code, router.calls) == ("HISTORY_ALTERED", [])
        assert "position 5, its last event, is not among its events" in (result.error or "")


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        (["DELETE FROM decision_events WHERE event_type = 'APPROVAL_REVOKED'"], "log: position 5 has no stored event"),
        (
            [
                "DELETE FROM log WHERE position = 5",
                "DELETE FROM decision_events WHERE event_type = 'APPROVAL_REVOKED'",
            ],
            "log: position 5 is missing, found 6",
        ),
    ],
)
def test_an_execution_cannot_know_of_newest_events_that_were_removed_when_others_followed(
    tmp_path: Path, statements: list[str], finding: str
) -> None:
    """Nothing else names them but the log of the whole store, whose verification notices."""
    path = tmp_path / "store.db"
    decision_id = ended(path, _REVOKED)
    with DecisionStore(path) as store:
        store.create_decision()
    edit(path, *statements)
    with DecisionStore(path) as store:
        assert finding in store.verify_log().errors
        assert store.verify_log(decision_id).ok
        assert execute(NexusControlTools(store), decision_id, Router()).success


def test_an_execution_cannot_know_of_newest_events_that_were_removed_with_their_entries_in_the_log(tmp_path: Path) -> None:
    """Nor can the verification, by itself: who kept a checkpoint can."""
    path = tmp_path / "store.db"
    decision_id = ended(path, _REVOKED)
    edit(path, "DELETE FROM log WHERE position = 5", "DELETE FROM decision_events WHERE position = 5")
    with DecisionStore(path) as store:
        assert store.verify_log().errors == []
        assert execute(NexusControlTools(store), decision_id, Router()).success


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE decision_events SET digest = '00' WHERE seq = 2", "event 2: the digest does not match type and payload"),
        ("UPDATE decisions SET goal = 'another'", "generation 1: the header's listing copy was changed"),
    ],
)
def test_an_execution_does_not_look_at_what_the_chain_does_not_cover(tmp_path: Path, statement: str, finding: str) -> None:
    path = tmp_path / "store.db"
    with new_store(path) as store:
        decision_id = approved(NexusControlTools(store))
    edit(path, statement)
    with DecisionStore(path) as store:
        assert any(text.endswith(finding) for text in store.verify_log().errors)
        assert execute(NexusControlTools(store), decision_id, Router()).success


def test_an_execution_does_not_look_whether_earlier_generations_are_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with new_store(path) as store:
        tools = NexusControlTools(store)
        decision_id = requested(tools)
        bundle = tools.export_bundle(decision_id).data["canonical_json"]
        assert tools.import_bundle(bundle, conflict_mode="overwrite").success
        assert tools.approve(decision_id, BOB).success
    edit(path, "UPDATE decision_events SET actor_id = 'mallory' WHERE generation = 1")
    with DecisionStore(path) as store:
        assert not store.verify_log().ok
        assert execute(NexusControlTools(store), decision_id, Router()).success


def test_an_execution_does_not_look_at_the_triggers(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with new_store(path) as store:
        tools = NexusControlTools(store)
        decision_id = approved(tools)
        with closing(foreign(path)) as other:
            other.executescript(_UNLOCK)
        assert not store.verify_log().ok
        assert execute(tools, decision_id, Router()).success


def test_what_runs_is_what_was_approved_also_when_it_is_edited_while_the_router_is_asked(tmp_path: Path) -> None:
    with new_store(tmp_path / "store.db") as store:
        tools = NexusControlTools(store)
        decision_id = approved(tools, plan="as approved")

        class Slow(Router):
            def get_adapter_capabilities(self, adapter_id: str) -> Any:
                with closing(foreign(tmp_path / "store.db")) as other:
                    other.executescript(
                        _UNLOCK + "UPDATE decision_events SET payload = replace(payload, 'approved', 'edited') WHERE seq = 0"
                    )
                return super().get_adapter_capabilities(adapter_id)

        router = Slow()
        assert execute(tools, decision_id, router).success
        assert [call["plan"] for call in router.calls] == ["as approved"]
        assert execute(tools, decision_id, Router(), retry=True).code == "HISTORY_ALTERED"
        assert not store.verify_log().ok


def test_a_row_that_is_chained_but_not_in_the_log_runs_nothing(tmp_path: Path) -> None:
    with new_store(tmp_path / "store.db") as store:
        tools = NexusControlTools(store)
        decision_id = approved(tools)
        with closing(foreign(tmp_path / "store.db")) as other:
            other.executescript("DROP TRIGGER log_refuse_update; UPDATE log SET leaf_hash = zeroblob(32) WHERE position = 4")
        assert execute(tools, decision_id, Router()).code == "HISTORY_ALTERED"


def test_a_decision_whose_digests_were_not_checked_on_import_can_be_run(tools: NexusControlTools) -> None:
    decision_id = requested(tools)
    assert isinstance(tools.store, DecisionStore)
    tools.store.insert_event_raw(decision_id, **raw_event(2, event_type="APPROVAL_GRANTED", actor_id="bob", payload='{"expires_at": null}'))
    assert execute(tools, decision_id, Router()).success


@pytest.mark.parametrize("retry", [False, True])
def test_a_late_completion_after_a_rehearsal_uses_the_authorization_up(tools: NexusControlTools, retry: bool) -> None:
    decision_id = approved(tools)
    assert execute(tools, decision_id, Router(), dry_run=True).success

    def run(**_: Any) -> dict[str, Any]:
        assert tools.recover_execution(decision_id, CAROL).success
        return {"run_id": "late"}

    assert execute(tools, decision_id, Router(run)).success
    assert execute(tools, decision_id, Router(), retry=retry).code == "ALREADY_EXECUTED"


def test_a_failure_that_was_written_after_a_completion_does_not_hide_it(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    assert execute(tools, decision_id, Router()).success
    failed = {"error_code": "X", "error_message": "m", "run_id": None}
    tools.store.append_event(decision_id, EventType.EXECUTION_FAILED, NEXUS, failed)
    assert execute(tools, decision_id, Router(), retry=True).code == "ALREADY_EXECUTED"


def test_a_completed_run_that_did_not_say_what_it_was_counts_as_the_apply(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    tools.store.append_event(decision_id, EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad"})
    tools.store.append_event(decision_id, EventType.EXECUTION_COMPLETED, NEXUS, {"run_id": "r"})
    assert execute(tools, decision_id, Router(), dry_run=True).code == "ALREADY_EXECUTED"


def test_a_policy_that_was_written_after_a_completion_does_not_hide_it(tools: NexusControlTools) -> None:
    decision_id = approved(tools)
    completed = {"run_id": "r", "response_digest": "abc", "steps_executed": 1}
    tools.store.append_event(decision_id, EventType.EXECUTION_COMPLETED, NEXUS, completed)
    tools.store.append_event(decision_id, EventType.POLICY_ATTACHED, ALICE, tools.store.get_events(decision_id)[1].payload)
    assert tools.approve(decision_id, CAROL).success
    assert execute(tools, decision_id, Router()).code == "ALREADY_EXECUTED"


def test_a_policy_that_appears_after_the_first_look_is_not_judged_without_capabilities(tools: NexusControlTools) -> None:
    decision_id = tools.store.create_decision()
    policy = {
        "min_approvals": 1,
        "allowed_modes": ["dry_run"],
        "require_adapter_capabilities": ["timeout"],
        "max_steps": None,
        "labels": [],
    }

    class Attaching(DecisionStore):
        """Whose transactions come just after somebody attached a policy and approved it."""

        def transaction(self) -> Any:
            tools.store.append_event(decision_id, EventType.POLICY_ATTACHED, ALICE, policy)
            tools.store.append_event(decision_id, EventType.APPROVAL_GRANTED, BOB, {"expires_at": None})
            return super().transaction()

    tools.store.__class__ = Attaching
    router = Router(capabilities=set[str]())
    assert execute(tools, decision_id, router, dry_run=True).code == "NO_POLICY"
    assert router.calls == []


@pytest.mark.parametrize("command", ["request", "execute"])
def test_a_command_is_done_whose_commit_is_the_one_that_no_thread_is_to_be_had_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """After each 128th commit a thread is begun, which copies the log of SQLite into the file."""
    failed: list[str] = []

    def no_thread(thread: threading.Thread) -> None:
        failed.append(thread.name)
        raise RuntimeError("can't start new thread")

    with new_store(tmp_path / "store.db") as store:
        tools = NexusControlTools(store)
        decision_id = approved(tools)  # two commits
        for _ in range(125):
            requested(tools)
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        router = Router()
        if command == "request":
            assert tools.request("g", ALICE, mode="apply", min_approvals=1).success
            assert len(store.list_decisions(1000)) == 127
        else:
            assert execute(tools, decision_id, router).success
            assert len(router.calls) == 1
            assert types(tools, decision_id)[-2:] == ["EXECUTION_STARTED", "EXECUTION_COMPLETED"]
        assert failed == ["nexus-checkpoint"]
