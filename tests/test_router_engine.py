"""Runs: resolved before anything happens, recorded as they go, ended on the record whatever happens."""

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from router_testing import FakeAdapter, LimitAfter, counted_ids, shell_tool, ticking_clock

from nexus_attest.routers import (
    CallFailed,
    CallIdentity,
    CallLimit,
    CallOutcome,
    DefaultCall,
    RunEngine,
    RunFailed,
    RunNotFinished,
    RunNotFound,
)
from nexus_control.errors import InputError, StoreError
from nexus_control.flight_record import RunEvent

PLAN = '[{"tool": "keys", "method": "list", "args": {"n": 1}}, {"tool": "keys", "method": "rotate", "step_id": "rot"}]'
ONE = '[{"tool": "keys", "method": "list"}]'


@pytest.fixture
def fake() -> FakeAdapter:
    return FakeAdapter()


@pytest.fixture
def engine(fake: FakeAdapter) -> Iterator[RunEngine]:
    with RunEngine([fake], clock=ticking_clock(), new_id=counted_ids()) as router:
        yield router


def test_a_clock_without_an_offset_lets_nothing_run(fake: FakeAdapter) -> None:
    with RunEngine([fake], clock=lambda: datetime(2026, 6, 1)) as engine:
        with pytest.raises(InputError, match="clock must give times with an offset"):
            apply(engine)
        assert fake.calls == []


def apply(engine: RunEngine, plan: str | None = PLAN, **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"goal": "Rotate", "adapter_id": "fake", "dry_run": False, "plan": plan, **more}
    return engine.run(**arguments)


def failed(engine: RunEngine, plan: str | None = PLAN, **more: Any) -> tuple[RunFailed, list[dict[str, Any]]]:
    """The failure of a run, and its events."""
    with pytest.raises(RunFailed) as caught:
        apply(engine, plan, **more)
    assert caught.value.run_id is not None
    return caught.value, events_of(engine, caught.value.run_id)


def events_of(engine: RunEngine, run_id: str) -> list[dict[str, Any]]:
    record = engine.flight_record(run_id)
    assert [event["seq"] for event in record["events"]] == list(range(len(record["events"])))
    assert {event["run_id"] for event in record["events"]} == {run_id}
    return record["events"]


def made(fake: FakeAdapter) -> list[tuple[str, str, dict[str, object]]]:
    """The calls that an adapter got: tool, method, args."""
    return [(call.step.tool, call.step.method, dict(call.step.args)) for call in fake.calls]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def payload_of(events: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(event["payload"] for event in events if event["type"] == kind)


STEP = ["STEP_STARTED", "TOOL_CALL_REQUESTED", "TOOL_CALL_SUCCEEDED", "STEP_COMPLETED"]
FAILED_STEP = ["STEP_STARTED", "TOOL_CALL_REQUESTED", "TOOL_CALL_FAILED", "STEP_COMPLETED"]
HEAD = ["RUN_STARTED", "DISPATCH_SELECTED", "PLAN_CREATED", "REQUEST_RECORDED"]


# Completed runs.


def test_a_completed_run_returns_the_response_and_leaves_every_event(engine: RunEngine, fake: FakeAdapter) -> None:
    response = apply(engine, max_steps=2, require_capabilities=["timeout"], execution_id="evt_d_4")
    digest = engine.flight_record("id-0")["digests"]["sha256"]
    assert response == {
        "run_id": "id-0",
        "steps_executed": 2,
        "status": "completed",
        "mode": "apply",
        "adapter_id": "fake",
        "run_bundle_version": "0.3",
        "run_bundle_digest": f"sha256:{digest}",
    }
    events = events_of(engine, "id-0")
    assert kinds(events) == [*HEAD, *STEP, *STEP, "PROVENANCE_EMITTED", "RUN_COMPLETED"]
    assert events[0]["payload"] == {"mode": "apply", "goal": "Rotate", "recorded_by": "nexus-attest"}
    assert events[1]["payload"] == {
        "adapter_id": "fake",
        "adapter_kind": "fake",
        "capabilities": ["apply", "timeout"],
        "selection_source": "request",
    }
    assert events[2]["payload"] == {
        "plan": [
            {"step_id": "s1", "intent": "", "call": {"tool": "keys", "method": "list", "args": {"n": 1}}},
            {"step_id": "rot", "intent": "", "call": {"tool": "keys", "method": "rotate", "args": {}}},
        ]
    }
    assert events[3]["payload"] == {
        "adapter_id": "fake",
        "adapter_digest": "sha256:" + "f" * 64,
        "idempotent": False,
        "execution_id": "evt_d_4",
        "max_steps": 2,
        "require_capabilities": ["timeout"],
        "request_digest": events[3]["payload"]["request_digest"],
    }
    assert events[5]["payload"] == {
        "step_id": "s1",
        "call": {"tool": "keys", "method": "list", "args": {"n": 1}},
        "adapter_id": "fake",
        "adapter_capabilities": ["apply", "timeout"],
    }
    assert events[6]["payload"] == {
        "step_id": "s1",
        "simulated": False,
        "output": {"done": True, "adapter_id": "fake"},
        "adapter_id": "fake",
        "duration_ms": 1,
    }
    assert events[7]["payload"] == {"step_id": "s1", "status": "ok"}
    assert events[-1]["payload"] == {"outcome": "ok"}
    assert made(fake) == [
        ("keys", "list", {"n": 1}),
        ("keys", "rotate", {}),
    ]


def test_times_have_milliseconds_and_ids_come_from_the_caller(engine: RunEngine) -> None:
    apply(engine)
    record = engine.flight_record("id-0")
    assert record["run"] == {
        "run_id": "id-0",
        "mode": "apply",
        "goal": "Rotate",
        "status": "COMPLETED",
        "created_at": "2026-01-01T00:00:00.000Z",
    }
    assert [event["ts"] for event in record["events"]][:2] == ["2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00.001Z"]
    assert [event["event_id"] for event in record["events"]][:2] == ["id-1", "id-2"]


def test_each_call_knows_its_run_its_step_and_its_execution(engine: RunEngine, fake: FakeAdapter) -> None:
    apply(engine, execution_id="evt_d_4")
    assert [call.identity for call in fake.calls] == [
        CallIdentity(run_id="id-0", step_id="s1", execution_id="evt_d_4"),
        CallIdentity(run_id="id-0", step_id="rot", execution_id="evt_d_4"),
    ]
    assert [call.identity.idempotency_key for call in fake.calls] == ["id-0/s1", "id-0/rot"]


def test_ids_are_fresh_uuids_by_default(fake: FakeAdapter) -> None:
    with RunEngine([fake]) as engine:
        first, second = apply(engine)["run_id"], apply(engine)["run_id"]
    assert first != second
    assert len(first) == len(second) == 36
    assert first[14] == second[14] == "4"


def test_the_request_digest_is_the_one_that_the_decision_stores() -> None:
    def recorded(**more: Any) -> str:
        run_id = apply(engine, **more)["run_id"]
        return payload_of(events_of(engine, run_id), "REQUEST_RECORDED")["request_digest"]

    def digest(**compiled: Any) -> str:
        text = json.dumps(compiled, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    with RunEngine([FakeAdapter(default_call=DefaultCall("agent", "do"))]) as engine:
        base: dict[str, Any] = {"goal": "Rotate", "adapter_id": "fake", "dry_run": False}
        more: dict[str, Any] = {"plan": ONE, "max_steps": 5, "require_capabilities": ["timeout", "apply"]}
        assert recorded(**more) == digest(**base, **more)
        assert recorded(plan=None, require_capabilities=[]) == digest(**base)
        assert recorded(plan="") == digest(**base, plan="")
        assert recorded(plan=None, dry_run=True) == digest(**{**base, "dry_run": True})


def test_the_tools_own_adapter_id_does_not_pass_for_the_routers() -> None:
    with RunEngine([FakeAdapter(lambda: {"adapter_id": "somebody else"})]) as engine:
        run_id = apply(engine, ONE)["run_id"]
        assert payload_of(events_of(engine, run_id), "TOOL_CALL_SUCCEEDED")["output"] == {"adapter_id": "fake"}


def test_a_dry_run_calls_nothing_and_says_so(engine: RunEngine, fake: FakeAdapter) -> None:
    response = apply(engine, dry_run=True)
    assert (response["mode"], response["status"], response["steps_executed"]) == ("dry_run", "completed", 2)
    assert fake.calls == []
    events = events_of(engine, "id-0")
    assert kinds(events) == [*HEAD, *STEP, *STEP, "PROVENANCE_EMITTED", "RUN_COMPLETED"]
    assert events[6]["payload"] == {
        "step_id": "s1",
        "simulated": True,
        "output": {"simulated": True, "adapter_id": "fake", "tool": "keys", "method": "list"},
        "adapter_id": "fake",
        "duration_ms": 0,
    }


def test_a_dry_run_of_a_real_tool_starts_no_process_and_needs_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMS_TOKEN", raising=False)
    adapter = shell_tool(tmp_path, "touch called; echo '{}'", pass_env=["KMS_TOKEN"])
    with RunEngine([adapter]) as engine:
        response = engine.run(goal="g", adapter_id="subprocess:tool", dry_run=True, plan=ONE)
        assert response["status"] == "completed"
        with pytest.raises(RunFailed) as caught:
            engine.run(goal="g", adapter_id="subprocess:tool", dry_run=False, plan=ONE)
    assert caught.value.code == "ENV_INVALID"
    assert not (tmp_path / "called").exists()


def test_a_dry_run_does_not_need_the_capability_to_apply() -> None:
    with RunEngine([FakeAdapter(capabilities=frozenset({"dry_run"}))]) as engine:
        assert apply(engine, dry_run=True)["status"] == "completed"
        failure, _ = failed(engine)
        assert (failure.code, str(failure)) == ("CAPABILITY_MISSING", "the adapter lacks apply")


def test_prose_becomes_the_default_call_of_an_adapter_that_declares_one() -> None:
    fake = FakeAdapter(default_call=DefaultCall("agent", "do"))
    with RunEngine([fake]) as engine:
        run_id = apply(engine, "rotate it", max_steps=1)["run_id"]
        assert made(fake) == [("agent", "do", {"goal": "Rotate", "plan": "rotate it"})]
        assert payload_of(events_of(engine, run_id), "PLAN_CREATED")["plan"][0]["step_id"] == "s1"


def test_a_router_works_inside_a_running_event_loop(engine: RunEngine) -> None:
    async def inside() -> dict[str, Any]:
        return apply(engine)

    assert asyncio.run(inside())["status"] == "completed"


# Refused runs: on the record, and without any side effect.


@pytest.mark.parametrize(
    ("plan", "more", "code", "text"),
    [
        (PLAN, {"adapter_id": "nobody"}, "UNKNOWN_ADAPTER", "no adapter has the id 'nobody'"),
        (PLAN, {"adapter_id": "nobody", "require_capabilities": ["timeout"]}, "UNKNOWN_ADAPTER", "no adapter has the id 'nobody'"),
        (PLAN, {"require_capabilities": ["timeout", "zeta", "external"]}, "CAPABILITY_MISSING", "the adapter lacks external, zeta"),
    ],
)
def test_a_run_without_a_fitting_adapter_is_refused(
    engine: RunEngine, fake: FakeAdapter, plan: str, more: dict[str, Any], code: str, text: str
) -> None:
    failure, events = failed(engine, plan, **more)
    assert (failure.code, str(failure)) == (code, text)
    assert kinds(events) == ["RUN_STARTED", "PLAN_CREATED", "REQUEST_RECORDED", "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert len(events[1]["payload"]["plan"]) == 2
    assert events[-1]["payload"] == {"reason": "dispatch_selection_failed", "error_code": code, "message": text, "details": {}}
    assert (events[2]["payload"]["adapter_digest"], events[2]["payload"]["idempotent"]) == (None, None)
    assert fake.calls == []


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (None, "PLAN_NOT_EXECUTABLE"),
        ("", "PLAN_NOT_EXECUTABLE"),
        ("Rotate the signing key.", "PLAN_NOT_EXECUTABLE"),
        ("[]", "PLAN_NOT_EXECUTABLE"),
        ('[{"tool": "a", "method": "b", "step_id": "x"}, {"tool": "a", "method": "c", "step_id": "x"}]', "PLAN_INVALID"),
        ('[{"tool": "a", "method": "b", "args": {"n": NaN}}]', "PLAN_INVALID"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_plan_that_cannot_be_run_is_refused_in_both_modes(
    engine: RunEngine, fake: FakeAdapter, plan: str | None, code: str, dry_run: bool
) -> None:
    failure, events = failed(engine, plan, dry_run=dry_run)
    assert failure.code == code
    assert kinds(events) == [*HEAD, "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert events[2]["payload"] == {"plan": []}
    assert events[-1]["payload"] == {"reason": "refused", "error_code": code, "message": str(failure)}
    assert fake.calls == []


def test_a_plan_with_too_many_steps_is_refused_before_the_first(engine: RunEngine, fake: FakeAdapter) -> None:
    failure, events = failed(engine, max_steps=1)
    assert (failure.code, str(failure)) == ("MAX_STEPS_EXCEEDED", "the plan has 2 steps, the policy allows 1")
    assert kinds(events) == [*HEAD, "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert events[-1]["payload"] == {"reason": "max_steps_exceeded", "max_steps": 1, "plan_steps": 2}
    assert fake.calls == []


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        ('[{"tool": "keys", "method": "list"}, {"tool": "--help", "method": "list"}]', "INVALID_NAME"),
        ('[{"tool": "keys", "method": "list"}, {"tool": "keys", "method": "-rf"}]', "INVALID_NAME"),
        ('[{"tool": "keys", "method": "list"}, {"tool": "keys", "method": "rotate"}]', "CALL_NOT_ALLOWED"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_one_forbidden_call_keeps_the_allowed_ones_before_it_from_running(tmp_path: Path, plan: str, code: str, dry_run: bool) -> None:
    with RunEngine([shell_tool(tmp_path, "touch called; echo '{}'", allow=["keys/list"])]) as engine:
        failure, events = failed(engine, plan, adapter_id="subprocess:tool", dry_run=dry_run)
    assert failure.code == code
    assert kinds(events) == [*HEAD, "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert not (tmp_path / "called").exists()


def test_what_a_tool_lacks_is_found_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMS_TOKEN", raising=False)
    with RunEngine([shell_tool(tmp_path, "echo '{}'", pass_env=["KMS_TOKEN"])]) as engine:
        failure, events = failed(engine, adapter_id="subprocess:tool")
        assert failure.code == "ENV_INVALID"
        assert kinds(events) == [*HEAD, "PROVENANCE_EMITTED", "RUN_FAILED"]
        failure, _ = failed(engine, "[]", adapter_id="subprocess:tool")
        assert failure.code == "PLAN_NOT_EXECUTABLE"  # the plan was wrong first


def test_a_refused_run_has_a_response_too(engine: RunEngine) -> None:
    failure, _ = failed(engine, adapter_id="nobody")
    assert failure.response == {
        "run_id": "id-0",
        "steps_executed": 0,
        "status": "failed",
        "mode": "apply",
        "adapter_id": "nobody",
        "run_bundle_version": "0.3",
        "run_bundle_digest": "sha256:" + engine.flight_record("id-0")["digests"]["sha256"],
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"goal": ""},
        {"goal": None},
        {"goal": 5},
        {"goal": "\ud800"},
        {"adapter_id": ""},
        {"adapter_id": None},
        {"adapter_id": ["fake"]},
        {"dry_run": None},
        {"dry_run": 0},
        {"dry_run": "false"},
        {"plan": []},
        {"plan": b"[]"},
        {"plan": "\udc00"},
        {"max_steps": 0},
        {"max_steps": -1},
        {"max_steps": 1.0},
        {"max_steps": True},
        {"max_steps": "3"},
        {"require_capabilities": "timeout"},
        {"require_capabilities": {"timeout"}},
        {"require_capabilities": [None]},
        {"require_capabilities": ["\ud800"]},
        {"execution_id": ""},
        {"execution_id": 7},
        {"execution_id": "a\0b"},
        {"execution_id": "a\nb"},
        {"execution_id": "a" * 1025},
    ],
)
def test_a_wrong_argument_is_refused_and_nothing_is_recorded(engine: RunEngine, fake: FakeAdapter, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        apply(engine, **{"plan": PLAN, **arguments})
    assert fake.calls == []
    assert apply(engine)["run_id"] == "id-0"  # no id was used


def test_only_keyword_arguments_are_taken(engine: RunEngine) -> None:
    with pytest.raises(TypeError):
        engine.run("g", "fake", False)  # type: ignore[misc]


# Failed runs.


def test_a_run_stops_at_its_first_failed_step() -> None:
    def answer() -> dict[str, Any]:
        raise CallFailed("NONZERO_EXIT", "Command exited with code 4: no", outcome=CallOutcome.FAILED)

    fake = FakeAdapter(answer)
    with RunEngine([fake]) as engine:
        failure, events = failed(engine)
    assert (failure.code, str(failure)) == ("NONZERO_EXIT", "step s1: Command exited with code 4: no")
    assert failure.response is not None
    assert (failure.response["status"], failure.response["steps_executed"]) == ("failed", 1)
    assert kinds(events) == [*HEAD, *FAILED_STEP, "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert events[6]["payload"] == {
        "step_id": "s1",
        "error_kind": "operational",
        "error_code": "NONZERO_EXIT",
        "message": "Command exited with code 4: no",
        "outcome": "failed",
        "adapter_id": "fake",
    }
    assert events[7]["payload"] == {"step_id": "s1", "status": "error"}
    assert events[-1]["payload"] == {"outcome": "error"}
    assert len(fake.calls) == 1


def test_a_later_step_that_fails_keeps_the_outputs_of_the_earlier_ones(tmp_path: Path) -> None:
    script = 'test "$3" = list || { echo "cannot $3" >&2; exit 3; }; echo \'{"keys": 2}\''
    with RunEngine([shell_tool(tmp_path, script)]) as engine:
        failure, events = failed(engine, adapter_id="subprocess:tool")
    assert (failure.code, str(failure)) == ("NONZERO_EXIT", "step rot: Command exited with code 3: cannot rotate")
    assert kinds(events) == [*HEAD, *STEP, *FAILED_STEP, "PROVENANCE_EMITTED", "RUN_FAILED"]


@pytest.mark.parametrize(
    "output", [None, [], "text", {"n": float("nan")}, {"n": "\ud800"}, {"n": object()}, {"n": b"bytes"}, ZeroDivisionError]
)
def test_a_bug_in_an_adapter_fails_the_run_and_keeps_its_id(output: Any) -> None:
    def answer() -> Any:
        if output is ZeroDivisionError:
            raise ZeroDivisionError
        return output

    with RunEngine([FakeAdapter(answer)]) as engine:
        failure, events = failed(engine)
    assert failure.code == "UNKNOWN_ERROR"
    assert str(failure).startswith("step s1: the adapter raised ")
    assert failure.__cause__ is not None
    assert kinds(events) == [*HEAD, *FAILED_STEP, "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert (events[6]["payload"]["error_kind"], events[6]["payload"]["error_code"]) == ("bug", "UNKNOWN_ERROR")
    assert events[-1]["payload"] == {"reason": "unexpected_exception", "step_id": "s1"}


def test_the_text_of_an_unexpected_exception_is_not_recorded() -> None:
    def answer() -> dict[str, Any]:
        raise ValueError("password=hunter2")

    with RunEngine([FakeAdapter(answer)]) as engine:
        failure, events = failed(engine)
    assert "hunter2" not in str(failure) + json.dumps(events)
    assert events[6]["payload"]["message"] == "ValueError"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_recorded_and_goes_on(interruption: type[BaseException]) -> None:
    def answer() -> dict[str, Any]:
        raise interruption

    with RunEngine([FakeAdapter(answer)], new_id=counted_ids()) as engine:
        with pytest.raises(interruption):
            apply(engine)
        events = events_of(engine, "id-0")
    assert kinds(events) == [*HEAD, *FAILED_STEP, "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert (events[6]["payload"]["error_kind"], events[6]["payload"]["error_code"]) == ("operational", "INTERRUPTED")
    assert events[-1]["payload"] == {"reason": "interrupted", "step_id": "s1"}


def test_an_interruption_before_the_call_was_made_is_recorded_as_not_sent() -> None:
    def interrupt(event: RunEvent) -> None:
        if event["type"] == "TOOL_CALL_REQUESTED":  # it is committed, and the call comes next
            raise KeyboardInterrupt

    fake = FakeAdapter()
    with RunEngine([fake], new_id=counted_ids(), watch=interrupt) as engine:
        with pytest.raises(KeyboardInterrupt):
            apply(engine)
        events = events_of(engine, "id-0")
    assert fake.calls == []
    assert kinds(events) == [*HEAD, *FAILED_STEP, "PROVENANCE_EMITTED", "RUN_FAILED"]
    assert (events[6]["payload"]["error_code"], events[6]["payload"]["outcome"]) == ("INTERRUPTED", "not_sent")


def test_an_interruption_of_the_second_call_is_told_apart_from_the_first() -> None:
    answers = iter([{"done": True}])

    def answer() -> dict[str, Any]:
        if (found := next(answers, None)) is None:
            raise KeyboardInterrupt
        return found

    plan = json.dumps([{"tool": "a", "method": "b"}] * 2)
    with RunEngine([FakeAdapter(answer)], new_id=counted_ids()) as engine:
        with pytest.raises(KeyboardInterrupt):
            apply(engine, plan)
        (failure,) = (event["payload"] for event in events_of(engine, "id-0") if event["type"] == "TOOL_CALL_FAILED")
    assert (failure["step_id"], failure["outcome"]) == ("s2", "unknown")


@pytest.mark.parametrize(
    ("idempotent", "code", "calls"),
    [(True, "TIMEOUT", 2), (False, "TIMEOUT", 1), (True, "NONZERO_EXIT", 1), (True, "OUTPUT_TOO_LARGE", 1), (True, "COMMAND_NOT_FOUND", 1)],
)
def test_only_a_timed_out_call_of_an_idempotent_adapter_is_tried_again_and_only_once(idempotent: bool, code: str, calls: int) -> None:
    def answer() -> dict[str, Any]:
        raise CallFailed(code, "no", outcome=CallOutcome.UNKNOWN)

    fake = FakeAdapter(answer, idempotent=idempotent)
    with RunEngine([fake]) as engine:
        failure, events = failed(engine)
    assert failure.code == code
    assert kinds(events) == [
        *HEAD,
        "STEP_STARTED",
        *["TOOL_CALL_REQUESTED", "TOOL_CALL_FAILED"] * calls,
        "STEP_COMPLETED",
        "PROVENANCE_EMITTED",
        "RUN_FAILED",
    ]
    assert len({call.identity.idempotency_key for call in fake.calls}) == 1


def test_a_second_attempt_that_succeeds_completes_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'echo "$NEXUS_IDEMPOTENCY_KEY" >> keys; test -e second && echo \'{"ok": 1}\' && exit; touch second; sleep 300'
    limits = iter([LimitAfter((tmp_path / "second").exists, 0.3), CallLimit(time.monotonic() + 100)])

    def limited(*_: object) -> CallLimit:
        return next(limits)

    monkeypatch.setattr("nexus_attest.routers.steps.CallLimit", limited)
    with RunEngine([shell_tool(tmp_path, script, idempotent=True)]) as engine:
        response = engine.run(goal="g", adapter_id="subprocess:tool", dry_run=False, plan=ONE)
        events = events_of(engine, response["run_id"])
    first, second = (tmp_path / "keys").read_text().split()
    assert first == second == f"{response['run_id']}/s1"
    assert kinds(events)[4:9] == ["STEP_STARTED", "TOOL_CALL_REQUESTED", "TOOL_CALL_FAILED", "TOOL_CALL_REQUESTED", "TOOL_CALL_SUCCEEDED"]


# The record.


def test_a_call_is_on_the_disk_before_it_is_made(tmp_path: Path) -> None:
    script = """
        python3 - <<'END' || exit 9
import sqlite3
rows = sqlite3.connect("runs.db").execute("SELECT type FROM events ORDER BY seq").fetchall()
status = sqlite3.connect("runs.db").execute("SELECT status FROM runs").fetchall()
open("seen", "w").write(repr(([row[0] for row in rows], status)))
END
        echo '{}'"""
    with RunEngine([shell_tool(tmp_path, script, pass_env=["PATH"])], db_path=tmp_path / "runs.db") as engine:
        engine.run(goal="g", adapter_id="subprocess:tool", dry_run=False, plan=ONE)
    assert (tmp_path / "seen").read_text() == repr(([*HEAD, "STEP_STARTED", "TOOL_CALL_REQUESTED"], [("RUNNING",)]))


def test_runs_in_a_file_outlive_the_engine(tmp_path: Path, fake: FakeAdapter) -> None:
    with RunEngine([fake], db_path=tmp_path / "runs.db", clock=ticking_clock()) as engine:
        run_id = apply(engine)["run_id"]
        record = engine.flight_record(run_id)
    with RunEngine([], db_path=tmp_path / "runs.db") as engine:
        again = engine.flight_record(run_id)
    assert {**again, "exported_at": record["exported_at"]} == record


def test_a_run_that_nobody_knows_or_that_has_no_end_has_no_flight_record(engine: RunEngine) -> None:
    with pytest.raises(RunNotFound, match="Run not found: nope") as caught:
        engine.flight_record("nope")
    assert caught.value.code == "RUN_NOT_FOUND"


def test_a_run_in_progress_has_no_flight_record(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer() -> dict[str, Any]:
        with pytest.raises(RunNotFinished) as caught:
            engine.flight_record(fake.calls[0].identity.run_id)
        seen.append(caught.value.code)
        return {}

    fake = FakeAdapter(answer)
    with RunEngine([fake], db_path=tmp_path / "runs.db") as engine:
        apply(engine, ONE)
    assert seen == ["RUN_NOT_FINISHED"]


def test_a_record_that_cannot_be_continued_fails_the_run_and_keeps_its_id(tmp_path: Path) -> None:
    def answer() -> dict[str, Any]:
        engine.close()
        return {}

    fake = FakeAdapter(answer)
    with RunEngine([fake], db_path=tmp_path / "runs.db", new_id=counted_ids()) as engine, pytest.raises(RunFailed) as caught:
        apply(engine)
    assert (caught.value.code, caught.value.run_id, caught.value.response) == ("STORE_CLOSED", "id-0", None)
    assert len(fake.calls) == 1


def test_a_run_that_cannot_be_recorded_at_all_does_not_happen(fake: FakeAdapter) -> None:
    engine = RunEngine([fake])
    engine.close()
    engine.close()
    with pytest.raises(StoreError):
        apply(engine)
    assert fake.calls == []


def test_a_database_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        RunEngine([], db_path=tmp_path / "missing" / "runs.db")


# Adapters.


def test_capabilities_are_those_that_the_adapter_declares_and_a_copy(engine: RunEngine) -> None:
    found = engine.get_adapter_capabilities("fake")
    assert found is not None
    found.clear()
    assert engine.get_adapter_capabilities("fake") == {"apply", "timeout"}
    assert engine.get_adapter_capabilities("nobody") is None


def test_a_command_adapter_can_apply_has_a_time_limit_and_acts_outside(tmp_path: Path) -> None:
    with RunEngine([shell_tool(tmp_path, "")]) as engine:
        assert engine.get_adapter_capabilities("subprocess:tool") == {"apply", "timeout", "external"}


def test_two_adapters_of_one_id_are_refused(fake: FakeAdapter) -> None:
    with pytest.raises(InputError, match="two adapters have the id 'fake'"):
        RunEngine([fake, FakeAdapter()])


def test_the_engine_says_that_it_takes_execution_ids() -> None:
    assert RunEngine.accepts_execution_id is True


def test_runs_in_several_threads_do_not_mix(tmp_path: Path) -> None:
    script = 'printf \'{"key": "%s", "execution": "%s"}\' "$NEXUS_IDEMPOTENCY_KEY" "$NEXUS_EXECUTION_ID"'
    responses: dict[int, dict[str, Any]] = {}
    ready = threading.Barrier(4)
    with RunEngine([shell_tool(tmp_path, script)], db_path=tmp_path / "runs.db") as engine:

        def work(number: int) -> None:
            ready.wait()
            responses[number] = engine.run(
                goal=f"goal {number}", adapter_id="subprocess:tool", dry_run=False, plan=PLAN, execution_id=f"evt_{number}"
            )

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(4):
            run_id = responses[number]["run_id"]
            record = engine.flight_record(run_id)
            outputs = [event["payload"]["output"] for event in record["events"] if event["type"] == "TOOL_CALL_SUCCEEDED"]
            assert record["response"] == responses[number]
            assert record["run"]["goal"] == f"goal {number}"
            assert [output["key"] for output in outputs] == [f"{run_id}/s1", f"{run_id}/rot"]
            assert {output["execution"] for output in outputs} == {f"evt_{number}"}
    assert len({response["run_id"] for response in responses.values()}) == 4


def test_the_hosts_environment_is_not_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMS_TOKEN", "hunter2")
    with RunEngine([shell_tool(tmp_path, "test \"$KMS_TOKEN\" = hunter2 && echo '{}'", pass_env=["KMS_TOKEN"])]) as engine:
        run_id = engine.run(goal="g", adapter_id="subprocess:tool", dry_run=False, plan=ONE)["run_id"]
        record = json.dumps(engine.flight_record(run_id))
    assert "hunter2" not in record
    assert str(tmp_path) not in record
    assert os.environ["PATH"] not in record
