"""Flight records recompute, with code that shares nothing with ours, and equal those that nexus-router's runs give."""

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_testing import FakeAdapter, counted_ids, ticking_clock

from nexus_attest.routers import CallFailed, CallOutcome, RunEngine, RunFailed
from nexus_control.flight_record import flight_record, provenance, results_of, run_response

VECTORS = Path(__file__).parent / "vectors" / "router"
COMPLETED = "router-audit-package-embedded.json"
FAILED = "router-audit-package-failed-embedded.json"

PLAN = json.dumps(
    [
        {"tool": "keys", "method": "list", "args": {"na\u00efve": [1.0, 1e-07, 1e16, -0.0, 0.1, 2**70], "~": "\U0001f600 \x7f"}},
        {"call": {"tool": "keys", "method": "rotate", "args": {}}, "intent": "\u9375", "step_id": "rot\u00e9"},
    ]
)


def recorded(name: str) -> dict[str, Any]:
    """The flight record of a run of nexus-router 1.1.1, out of an audit package."""
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))["router"]["bundle"]


def digest(value: object, **options: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), **options)
    return hashlib.sha256(text.encode()).hexdigest()


def assert_recomputes(record: dict[str, Any]) -> None:
    """Every digest of a flight record, from the standard library alone."""
    run_digest = digest({"run": record["run"], "events": record["events"]})
    assert record["digests"] == {"sha256": run_digest}
    assert record["response"]["run_bundle_digest"] == "sha256:" + run_digest
    assert record["integrity"] == {"alg": "sha256", "canonical_digest": "sha256:" + digest(record["response"], ensure_ascii=False)}
    assert record["run_id"] == record["run"]["run_id"] == record["response"]["run_id"]


def assert_well_formed(record: dict[str, Any]) -> None:
    """Numbered events, one end that the run row agrees with, and inside each step every requested call with exactly one result."""
    events = record["events"]
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert len({event["event_id"] for event in events}) == len(events)
    assert {event["run_id"] for event in events} == {record["run_id"]}
    kinds = [event["type"] for event in events]
    assert kinds[0] == "RUN_STARTED"
    assert kinds[-1] == "RUN_" + record["run"]["status"]
    assert kinds.count("RUN_COMPLETED") + kinds.count("RUN_FAILED") == 1
    assert record["response"]["steps_executed"] == kinds.count("STEP_STARTED") == kinds.count("STEP_COMPLETED")
    assert re.fullmatch(
        r"(RUN_STARTED )(DISPATCH_SELECTED )?(PLAN_CREATED )(REQUEST_RECORDED )?"
        r"(STEP_STARTED (TOOL_CALL_REQUESTED TOOL_CALL_(SUCCEEDED|FAILED) )+STEP_COMPLETED )*(PROVENANCE_EMITTED )?RUN_\w+",
        " ".join(kinds),
    )
    assert (record["run"]["status"] == "FAILED") == any(event["payload"].get("status") == "error" for event in events)


@pytest.mark.parametrize("name", [COMPLETED, FAILED])
def test_a_run_of_nexus_router_gives_exactly_its_flight_record(name: str) -> None:
    record = recorded(name)
    assert_recomputes(record)
    assert_well_formed(record)
    assert flight_record(record["run"], record["events"], exported_at=record["exported_at"]) == record


@pytest.mark.parametrize("name", [COMPLETED, FAILED])
def test_the_provenance_of_a_run_of_nexus_router_is_recomputed(name: str) -> None:
    record = recorded(name)
    plan = next(event["payload"]["plan"] for event in record["events"] if event["type"] == "PLAN_CREATED")
    capabilities = {COMPLETED: ["external", "timeout"], FAILED: ["timeout"]}[name]
    request: dict[str, Any] = {
        "goal": record["run"]["goal"],
        "mode": "apply",
        "dispatch": {"adapter_id": "subprocess:keytool", "require_capabilities": capabilities},
        "policy": {"allow_apply": True, "max_steps": 5},
        "plan_override": plan,
    }
    stored = next(event["payload"]["provenance"] for event in record["events"] if event["type"] == "PROVENANCE_EMITTED")
    prov_id = stored["records"][0]["prov_id"]
    assert provenance(record["run_id"], prov_id, request, results_of(record["events"], simulated=False)) == stored


def broken() -> dict[str, Any]:
    raise CallFailed("NONZERO_EXIT", "Command exited with code 4: \u00e9chec", outcome=CallOutcome.FAILED)


@pytest.fixture
def engine() -> RunEngine:
    """With the adapters `fake`, whose outputs are awkward to hash, and `broken`, whose calls fail."""
    output = {"cl\u00e9": "\U0001f511", "age": 12.5, "big": 1e22, "zero": -0.0, "n": 9007199254740993}
    adapters = [FakeAdapter(lambda: output), FakeAdapter(broken, adapter_id="broken")]
    return RunEngine(adapters, clock=ticking_clock(), new_id=counted_ids())


def test_a_completed_run_recomputes_and_returns_the_response_of_its_record(engine: RunEngine) -> None:
    response = engine.run(goal="Rotation \u2013 d\u00e9j\u00e0", adapter_id="fake", dry_run=False, plan=PLAN)
    record = engine.flight_record(response["run_id"])
    assert_recomputes(record)
    assert record["response"] == response
    assert set(record) == {"bundle_version", "exported_at", "run", "events", "digests", "run_id", "response", "integrity"}
    assert record["bundle_version"] == "0.3"
    assert [set(event) for event in record["events"]] == [{"event_id", "run_id", "seq", "type", "payload", "ts"}] * len(record["events"])


def test_a_failed_run_recomputes_and_its_response_travels_with_the_exception(engine: RunEngine) -> None:
    with pytest.raises(RunFailed) as caught:
        engine.run(goal="g", adapter_id="broken", dry_run=False, plan=PLAN)
    record = engine.flight_record("id-0")
    assert_recomputes(record)
    assert record["response"] == caught.value.response
    assert (record["run"]["status"], record["response"]["status"]) == ("FAILED", "failed")


def test_a_refused_run_recomputes(engine: RunEngine) -> None:
    with pytest.raises(RunFailed):
        engine.run(goal="g", adapter_id="nobody", dry_run=False, plan=None)
    assert_recomputes(engine.flight_record("id-0"))


def test_the_provenance_of_our_runs_covers_request_and_results(engine: RunEngine) -> None:
    engine.run(goal="g", adapter_id="fake", dry_run=False, plan=PLAN, max_steps=3, require_capabilities=["timeout", "apply", "timeout"])
    events = engine.flight_record("id-0")["events"]
    request: dict[str, Any] = {
        "goal": "g",
        "mode": "apply",
        "dispatch": {"adapter_id": "fake", "require_capabilities": ["apply", "timeout"]},
        "policy": {"allow_apply": True, "max_steps": 3},
        "plan_override": next(event["payload"]["plan"] for event in events if event["type"] == "PLAN_CREATED"),
    }
    outputs = [event["payload"]["output"] for event in events if event["type"] == "TOOL_CALL_SUCCEEDED"]
    results: list[dict[str, Any]] = [
        {"step_id": step_id, "status": "ok", "simulated": False, "output": output, "evidence": []}
        for step_id, output in zip(["s1", "rot\u00e9"], outputs, strict=True)
    ]
    record = next(event["payload"]["provenance"] for event in events if event["type"] == "PROVENANCE_EMITTED")["records"][0]
    assert record["method_id"] == "nexus-router.provenance.record_v0_1"
    assert record["digests"] == [{"artifact_id": "run:id-0", "alg": "sha256", "value": digest({"request": request, "results": results})}]


def test_the_request_of_a_dry_run_without_limits_is_the_smallest(engine: RunEngine) -> None:
    engine.run(goal="g", adapter_id="fake", dry_run=True, plan='[{"tool": "keys", "method": "list"}]', require_capabilities=[])
    events = engine.flight_record("id-0")["events"]
    request: dict[str, Any] = {
        "goal": "g",
        "mode": "dry_run",
        "dispatch": {"adapter_id": "fake"},
        "policy": {"allow_apply": False},
        "plan_override": [{"step_id": "s1", "intent": "", "call": {"tool": "keys", "method": "list", "args": {}}}],
    }
    output = {"simulated": True, "adapter_id": "fake", "tool": "keys", "method": "list"}
    results: list[dict[str, Any]] = [{"step_id": "s1", "status": "ok", "simulated": True, "output": output, "evidence": []}]
    value = next(event["payload"]["provenance"] for event in events if event["type"] == "PROVENANCE_EMITTED")["records"][0]["digests"][0][
        "value"
    ]
    assert value == digest({"request": request, "results": results})


def test_the_result_of_a_failed_step_has_an_empty_output() -> None:
    record = recorded(FAILED)
    first, second = results_of(record["events"], simulated=False)
    assert first == {"step_id": "s1", "status": "error", "simulated": False, "output": {}, "evidence": []}
    assert second["status"] == "ok"


def test_a_response_holds_only_strings_and_integers(engine: RunEngine) -> None:
    response = engine.run(goal="g", adapter_id="fake", dry_run=True, plan=PLAN)
    assert {type(value) for value in response.values()} == {str, int}


def test_one_changed_character_changes_the_response() -> None:
    record = recorded(COMPLETED)
    before = run_response(record["run"], record["events"])
    record["events"][5]["payload"]["output"]["keys"][1] = "beta"
    assert run_response(record["run"], record["events"]) != before


def test_the_record_of_a_fixed_run_never_drifts(engine: RunEngine) -> None:
    # Golden: fixed clock and ids, made once with this code and checked against the standard library above.
    engine.run(goal="Rotation \u2013 d\u00e9j\u00e0", adapter_id="fake", dry_run=False, plan=PLAN, max_steps=2, execution_id="evt_d_4")
    record = engine.flight_record("id-0")
    assert record["digests"]["sha256"] == "728c194aab2c4b91fd258b98beac05ad7c586fe5c435d98facfa66e768cdcf8f"
    assert record["integrity"]["canonical_digest"] == "sha256:8250e9db2ffcc751f7d80915b70c54d14eceb15e7a8ace7aabacaf1f31cc8b8f"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["ok", "fails", "breaks", "times out"]), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_every_run_whatever_happens_in_it_leaves_a_well_formed_record(outcomes: list[str], idempotent: bool, dry_run: bool) -> None:
    left = iter(outcomes * 2)

    def answer() -> dict[str, Any]:
        outcome = next(left)
        if outcome == "breaks":
            raise ZeroDivisionError
        if outcome != "ok":
            raise CallFailed("TIMEOUT" if outcome == "times out" else "NONZERO_EXIT", "no", outcome=CallOutcome.UNKNOWN)
        return {}

    plan = json.dumps([{"tool": "keys", "method": "list"}] * len(outcomes))
    with RunEngine([FakeAdapter(answer, idempotent=idempotent)], new_id=counted_ids()) as engine:
        with contextlib.suppress(RunFailed):
            engine.run(goal="g", adapter_id="fake", dry_run=dry_run, plan=plan)
        record = engine.flight_record("id-0")
    assert_recomputes(record)
    assert_well_formed(record)
