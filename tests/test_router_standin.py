"""The stand-in for nexus-router does what runs of the package itself show (tests/vectors/router), and has its oddities."""

import copy
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from nexus_router_testing import KINDS, Package, nexus_router

VECTORS = Path(__file__).parent / "vectors" / "router"
CAPABILITIES = frozenset({"apply", "external", "timeout"})


@pytest.fixture(params=KINDS)
def package(request: pytest.FixtureRequest) -> Iterator[Package]:
    with nexus_router(request.param) as found:
        yield found


def bundle_of(name: str) -> dict[str, Any]:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def payloads(bundle: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Types and payloads of a bundle's events, without what differs from run to run."""
    found = copy.deepcopy([(event["type"], event["payload"]) for event in bundle["events"]])
    for kind, payload in found:
        payload.pop("duration_ms", None)
        if kind == "PROVENANCE_EMITTED":
            (record,) = payload["provenance"]["records"]
            del record["prov_id"]
            (digest,) = record["digests"]
            assert digest.pop("artifact_id") == "run:" + bundle["run"]["run_id"]
    return found


def exported(package: Package, database: str) -> dict[str, Any]:
    (run,) = package.tool.inspect({"db_path": database})["runs"]
    return package.tool.export({"db_path": database, "run_id": run["run_id"]})["artifact"]


@pytest.mark.parametrize("name", ["router-bundle.json", "router-bundle-dry-run.json", "router-bundle-failed.json"])
def test_it_records_what_nexus_router_recorded(package: Package, tmp_path: Path, name: str) -> None:
    recorded = bundle_of(name)
    adapter = package.dispatch.FakeAdapter("subprocess:keytool", CAPABILITIES)
    adapter.adapter_kind = "subprocess"
    calls = [event["payload"]["call"] for event in recorded["events"] if event["type"] == "TOOL_CALL_REQUESTED"]
    answers = [event["payload"] for event in recorded["events"] if event["type"] in ("TOOL_CALL_SUCCEEDED", "TOOL_CALL_FAILED")]
    for call, answer in zip(calls, answers, strict=True):
        if "output" in answer:
            own = {key: value for key, value in answer["output"].items() if key != "adapter_id"}
            adapter.set_response(call["tool"], call["method"], own)
        else:
            adapter.set_operational_error(call["tool"], call["method"], answer["message"], answer["error_code"])
    plan = next(event["payload"]["plan"] for event in recorded["events"] if event["type"] == "PLAN_CREATED")
    mode = recorded["run"]["mode"]
    dispatch = {"adapter_id": "subprocess:keytool", "require_capabilities": ["timeout"]}
    policy = {"allow_apply": mode == "apply", "max_steps": 5}
    request = {"goal": recorded["run"]["goal"], "mode": mode, "dispatch": dispatch, "policy": policy, "plan_override": plan}
    database = str(tmp_path / "runs.db")
    package.tool.run(request, db_path=database, adapters=package.registry(adapter))
    made = exported(package, database)
    assert set(made) == set(recorded)
    assert set(made["run"]) == set(recorded["run"])
    assert [set(event) for event in made["events"]] == [set(event) for event in recorded["events"]]
    ours, theirs = payloads(made), payloads(recorded)
    # The requests of the last two files were not published, so their provenance digests cannot be made again.
    assert ours[:-2] == theirs[:-2]
    assert ours[-1] == theirs[-1]
    if name == "router-bundle.json":
        assert ours == theirs


def test_it_answers_as_nexus_router_did(package: Package, tmp_path: Path) -> None:
    recorded = bundle_of("router-bundle.json")
    outputs = [event["payload"]["output"] for event in recorded["events"] if event["type"] == "TOOL_CALL_SUCCEEDED"]
    adapter = package.dispatch.FakeAdapter("a")
    adapter.set_response("t", "m", dict(outputs[0]))
    step: dict[str, Any] = {"step_id": "s1", "intent": "", "call": {"tool": "t", "method": "m", "args": {}}}
    request: dict[str, Any] = {
        "goal": "g",
        "mode": "apply",
        "dispatch": {"adapter_id": "a"},
        "policy": {"allow_apply": True},
        "plan_override": [step],
    }
    answer = package.tool.run(request, db_path=str(tmp_path / "r.db"), adapters=package.registry(adapter))
    assert set(answer) == {"summary", "dispatch", "run", "plan", "results", "provenance"}
    assert answer["run"]["events_committed"] == 9
    assert answer["results"] == [
        {"step_id": "s1", "status": "ok", "simulated": False, "output": {**outputs[0], "adapter_id": "a"}, "evidence": []}
    ]


def asked(adapter: Any, steps: int, **policy: object) -> dict[str, Any]:
    plan: list[dict[str, Any]] = [
        {"step_id": f"s{n}", "intent": "", "call": {"tool": "t", "method": f"m{n}", "args": {}}} for n in range(1, steps + 1)
    ]
    return {
        "goal": "g",
        "mode": "apply",
        "dispatch": {"adapter_id": adapter.adapter_id},
        "policy": {"allow_apply": True, **policy},
        "plan_override": plan,
    }


def types(package: Package, database: str) -> list[str]:
    return [event["type"] for event in exported(package, database)["events"]]


def test_a_plan_that_is_too_long_is_executed_up_to_the_limit_and_fails(package: Package, tmp_path: Path) -> None:
    adapter, database = package.dispatch.FakeAdapter(), str(tmp_path / "r.db")
    package.tool.run(asked(adapter, 3, max_steps=1), db_path=database, adapters=package.registry(adapter))
    assert len(adapter.call_log) == 1
    kinds = types(package, database)
    assert kinds[2:5] == ["PLAN_CREATED", "RUN_FAILED", "STEP_STARTED"]
    assert kinds[-1] == "RUN_FAILED"


def test_a_failed_step_does_not_stop_the_run(package: Package, tmp_path: Path) -> None:
    adapter, database = package.dispatch.FakeAdapter(), str(tmp_path / "r.db")
    adapter.set_operational_error("t", "m1", "no")
    answer = package.tool.run(asked(adapter, 2), db_path=database, adapters=package.registry(adapter))
    assert [result["status"] for result in answer["results"]] == ["error", "ok"]


def test_a_bug_is_raised_and_the_run_ends_without_provenance(package: Package, tmp_path: Path) -> None:
    adapter, database = package.dispatch.FakeAdapter(), str(tmp_path / "r.db")
    adapter.set_bug_error("t", "m1", "broken")
    with pytest.raises(package.exceptions.NexusBugError):
        package.tool.run(asked(adapter, 2), db_path=database, adapters=package.registry(adapter))
    assert "PROVENANCE_EMITTED" not in types(package, database)
    assert types(package, database)[-1] == "RUN_FAILED"


def test_an_unknown_adapter_gives_an_answer_with_an_error(package: Package, tmp_path: Path) -> None:
    adapter, database = package.dispatch.FakeAdapter("missing"), str(tmp_path / "r.db")
    answer = package.tool.run(asked(adapter, 1), db_path=database, adapters=package.registry())
    assert answer["error"]["code"] == "UNKNOWN_ADAPTER"
    assert types(package, database) == ["RUN_STARTED", "RUN_FAILED"]


def test_the_default_adapter_must_be_registered(package: Package) -> None:
    adapter = package.dispatch.FakeAdapter()
    registry = package.dispatch.AdapterRegistry()
    registry.register(adapter)
    with pytest.raises(KeyError):
        package.tool.run(asked(adapter, 1), adapters=registry)


def test_unknown_keys_and_two_kinds_of_adapters_are_refused(package: Package) -> None:
    with pytest.raises(jsonschema.ValidationError):
        package.tool.run({"goal": "g", "extra": 1})
    with pytest.raises(ValueError, match=r"."):
        package.tool.run({"goal": "g"}, adapter=package.dispatch.FakeAdapter(), adapters=package.registry())


def test_inspecting_a_missing_file_makes_an_empty_one_and_fails(package: Package, tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        package.tool.inspect({"db_path": str(tmp_path / "none.db")})
    assert (tmp_path / "none.db").exists()
