"""The bridge: decisions run through nexus-router leave the same evidence, and what nexus-router does and a plan must not is kept out."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from nexus_router_testing import KINDS, STANDIN, Package, nexus_router
from router_testing import FakeAdapter as OurFake
from router_testing import shell_tool

from nexus_attest.routers import (
    CallFailed,
    CallOutcome,
    CallRefused,
    DefaultCall,
    NexusRouterBridge,
    NexusRouterMissing,
    RunEngine,
    RunFailed,
    RunNotFound,
    RunRecords,
)
from nexus_control.errors import InputError, StoreFull
from nexus_control.flight_checks import FlightOutcome, verify_flight_record
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

ROOT = Path(__file__).resolve().parent.parent
ALICE = {"type": "human", "id": "alice"}
BOB = {"type": "human", "id": "bob"}
TWO_STEPS = '[{"tool": "keys", "method": "list", "args": {"caf\u00e9": 1.5}}, {"tool": "keys", "method": "rotate"}]'
ASK: dict[str, Any] = {"goal": "Rotate \u2013 d\u00e9j\u00e0", "adapter_id": "fake", "dry_run": False, "plan": TWO_STEPS}


@pytest.fixture(params=KINDS)
def package(request: pytest.FixtureRequest) -> Iterator[Package]:
    with nexus_router(request.param) as found:
        yield found


@pytest.fixture
def fake(package: Package) -> Any:
    return package.dispatch.FakeAdapter("fake", frozenset({"dry_run", "apply", "timeout"}))


@pytest.fixture
def bridge(package: Package, fake: Any, tmp_path: Path) -> Iterator[NexusRouterBridge]:
    with NexusRouterBridge(package.registry(fake), db_path=tmp_path / "runs.db") as found:
        yield found


def events(bridge: NexusRouterBridge, run_id: str | None) -> list[dict[str, Any]]:
    assert run_id is not None
    return bridge.flight_record(run_id)["events"]


def asked(**changed: Any) -> dict[str, Any]:
    return {**ASK, **changed}


def raising(problem: BaseException) -> Any:
    """In place of an adapter's `call`."""

    def call(*_: object) -> dict[str, Any]:
        raise problem

    return call


def failures(bridge: NexusRouterBridge, run_id: str | None) -> list[tuple[str, str, str]]:
    return [
        (event["payload"]["step_id"], event["payload"]["error_kind"], event["payload"]["error_code"])
        for event in events(bridge, run_id)
        if event["type"] == "TOOL_CALL_FAILED"
    ]


def test_a_missing_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nexus_router", None)
    with pytest.raises(NexusRouterMissing, match=r"cannot be imported.*from its source.*RunEngine") as refused:
        NexusRouterBridge([])
    assert refused.value.code == "NEXUS_ROUTER_MISSING"


def test_another_package_of_that_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with nexus_router("stand-in") as package:
        monkeypatch.delattr(package.tool, "export")
        with pytest.raises(NexusRouterMissing, match=r"nexus_router\.tool has no export"):
            NexusRouterBridge([], db_path=tmp_path / "runs.db")
    assert not (tmp_path / "runs.db").exists()


@pytest.mark.skipif(len(KINDS) == 1, reason="nexus-router is not installed; it is not on the package registry")
def test_the_installed_nexus_router_is_tested_as_well() -> None:
    with nexus_router("installed") as package:
        assert "router_standin" not in package.tool.__file__


def test_importing_the_routers_does_not_import_nexus_router() -> None:
    code = "import nexus_attest.routers, sys; sys.exit(any(name.startswith('nexus_router') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{STANDIN}"})


def decided(tools: NexusControlTools, **more: Any) -> str:
    request = tools.request("Rotate \u2013 d\u00e9j\u00e0", ALICE, mode="apply", plan=TWO_STEPS, max_steps=5, **more)
    assert request.success, request.error
    request_id: str = request.data["request_id"]
    assert tools.approve(request_id, BOB).success
    return request_id


def test_a_decision_run_through_the_bridge_becomes_a_package_of_which_everything_is_verified(bridge: NexusRouterBridge, fake: Any) -> None:
    fake.set_response("keys", "list", {"keys": ["b\u00e9ta", "\U0001f511"], "age": 12.5})
    with DecisionStore() as store:
        tools = NexusControlTools(store)
        request_id = decided(tools, require_adapter_capabilities=["timeout"])
        done = tools.execute(request_id, "fake", ALICE, bridge)
        assert done.success, done.error
        assert done.data["steps_executed"] == 2
        record = bridge.flight_record(done.data["run_id"])
        exported = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record)
        report = verify_flight_record(json.loads(json.dumps(exported.data["package"])), strict=True)
    assert {check.name: check.detail for check in report.checks if check.outcome is not FlightOutcome.PASS} == {}
    assert len(report.checks) == 11
    assert [call["method"] for call in fake.call_log] == ["list", "rotate"]


def test_a_failed_decision_keeps_its_evidence(bridge: NexusRouterBridge, fake: Any) -> None:
    fake.set_operational_error("keys", "list", "no such keyring", "NONZERO_EXIT")
    with DecisionStore() as store:
        tools = NexusControlTools(store)
        request_id = decided(tools)
        failed = tools.execute(request_id, "fake", ALICE, bridge)
        assert (failed.success, failed.code) == (False, "NONZERO_EXIT")
        assert failed.error is not None
        assert "step s1: no such keyring" in failed.error
        payload = tools.status(request_id, include_events=True).data["events"][-1]["payload"]
        record = bridge.flight_record(payload["run_id"])
        exported = tools.export_audit_package(
            request_id, embed_router_bundle=True, router_bundle=record, router_bundle_digest=record["integrity"]["canonical_digest"]
        )
        report = verify_flight_record(exported.data["package"], strict=True)
    assert report.ok, report
    assert record["run"]["status"] == "FAILED"


def test_no_step_is_called_after_a_failed_one(bridge: NexusRouterBridge, fake: Any) -> None:
    fake.set_operational_error("keys", "list", "no")
    with pytest.raises(RunFailed) as failed:
        bridge.run(**ASK)
    assert [call["method"] for call in fake.call_log] == ["list"]
    assert failures(bridge, failed.value.run_id) == [
        ("s1", "operational", "OPERATIONAL_ERROR"),
        ("s2", "operational", "NOT_CALLED"),
    ]
    assert failed.value.response is not None
    assert failed.value.response["status"] == "failed"


def test_a_plan_may_say_that_it_goes_on(bridge: NexusRouterBridge, fake: Any) -> None:
    fake.set_operational_error("keys", "list", "no")
    plan = json.dumps({"steps": json.loads(TWO_STEPS), "on_error": "continue"})
    with pytest.raises(RunFailed, match="step s1: no"):
        bridge.run(**asked(plan=plan))
    assert [call["method"] for call in fake.call_log] == ["list", "rotate"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"adapter_id": "other"}, "UNKNOWN_ADAPTER"),
        ({"adapter_id": "other", "require_capabilities": ["timeout"]}, "UNKNOWN_ADAPTER"),
        ({"require_capabilities": ["external"]}, "CAPABILITY_MISSING"),
        ({"adapter_id": "null"}, "CAPABILITY_MISSING"),
        ({"max_steps": 1}, "MAX_STEPS_EXCEEDED"),
        ({"plan": "[]"}, "PLAN_NOT_EXECUTABLE"),
        ({"plan": None}, "PLAN_NOT_EXECUTABLE"),
        ({"plan": "Rotate the keys, please."}, "PLAN_NOT_EXECUTABLE"),
        ({"plan": '[{"tool": "a", "method": "b", "more": 1}]'}, "PLAN_INVALID"),
    ],
)
def test_what_nexus_router_would_run_or_half_run_is_refused_before(
    bridge: NexusRouterBridge, fake: Any, tmp_path: Path, changed: dict[str, Any], code: str
) -> None:
    with pytest.raises(RunFailed) as refused:
        bridge.run(**asked(**changed))
    assert (refused.value.code, refused.value.run_id, refused.value.response) == (code, None, None)
    assert fake.call_log == []
    assert not (tmp_path / "runs.db.under-way").exists()


@pytest.mark.parametrize("changed", [{"goal": ""}, {"goal": 7}, {"dry_run": "no"}, {"plan": 7}, {"max_steps": True}, {"goal": "\ud800"}])
def test_wrong_arguments_are_input_errors(bridge: NexusRouterBridge, changed: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        bridge.run(**asked(**changed))


def test_a_clock_without_an_offset_lets_nothing_run(package: Package, fake: Any, tmp_path: Path) -> None:
    with NexusRouterBridge(package.registry(fake), db_path=tmp_path / "runs.db", clock=lambda: datetime(2026, 6, 1)) as bridge:
        with pytest.raises(InputError, match="clock must give times with an offset"):
            bridge.run(**ASK)
        assert fake.call_log == []


def test_a_dry_run_calls_nothing_and_is_on_the_record(bridge: NexusRouterBridge, fake: Any) -> None:
    response = bridge.run(**asked(dry_run=True))
    assert (response["mode"], response["status"], response["steps_executed"]) == ("dry_run", "completed", 2)
    assert fake.call_log == []


def test_prose_is_one_default_call(package: Package, fake: Any) -> None:
    with NexusRouterBridge(package.registry(fake), default_calls={"fake": DefaultCall("agent", "do")}) as bridge:
        bridge.run(**asked(plan="Rotate the keys, please."))
    assert fake.call_log == [{"tool": "agent", "method": "do", "args": {"goal": ASK["goal"], "plan": "Rotate the keys, please."}}]


UNREADABLE: list[Any] = [{"x": float("nan")}, {"x": "\ud800"}, {"x": b""}, None, ["a"], {"y": {1, 2}}]


@pytest.mark.parametrize("answer", UNREADABLE)
def test_an_output_that_readers_would_understand_differently_fails_the_run_and_keeps_its_id(
    bridge: NexusRouterBridge, fake: Any, answer: Any
) -> None:
    fake.set_response("keys", "list", answer)
    with pytest.raises(RunFailed) as failed:
        bridge.run(**ASK)
    assert failed.value.code == "UNKNOWN_ERROR"
    assert failures(bridge, failed.value.run_id) == [("s1", "bug", "UNKNOWN_ERROR")]
    assert events(bridge, failed.value.run_id)[-1]["payload"] == {"reason": "bug_error", "step_id": "s1"}
    assert len(fake.call_log) == 1


def test_the_text_of_an_unexpected_exception_is_not_recorded(package: Package, tmp_path: Path) -> None:
    adapter = package.dispatch.FakeAdapter()
    adapter.call = raising(RuntimeError("password=hunter2"))
    with NexusRouterBridge(package.registry(adapter), db_path=tmp_path / "runs.db") as bridge:
        with pytest.raises(RunFailed, match="raised RuntimeError") as failed:
            bridge.run(**ASK)
        record = json.dumps(bridge.flight_record(str(failed.value.run_id)))
    assert "hunter2" not in record


def test_an_adapter_cannot_change_what_is_recorded_as_the_plan(package: Package, tmp_path: Path) -> None:
    def call(_tool: str, _method: str, args: dict[str, Any]) -> dict[str, Any]:
        args.clear()
        return {}

    adapter = package.dispatch.FakeAdapter()
    adapter.call = call
    with NexusRouterBridge(package.registry(adapter), db_path=tmp_path / "runs.db") as bridge:
        run_id = bridge.run(**ASK)["run_id"]
        args = [event["payload"]["call"]["args"] for event in events(bridge, run_id) if event["type"] == "TOOL_CALL_REQUESTED"]
    assert args == [{"caf\u00e9": 1.5}, {}]


def test_the_answer_of_an_adapter_is_not_changed(bridge: NexusRouterBridge, fake: Any) -> None:
    answer: dict[str, Any] = {"keys": []}
    fake.set_response("keys", "list", answer)
    bridge.run(**ASK)
    assert answer == {"keys": []}


class Killed(BaseException):
    pass


def test_an_interruption_passes_through_with_the_run_on_the_record(package: Package, tmp_path: Path) -> None:
    adapter = package.dispatch.FakeAdapter()
    adapter.call = raising(Killed())
    with NexusRouterBridge(package.registry(adapter), db_path=tmp_path / "runs.db") as bridge:
        with pytest.raises(Killed) as killed:
            bridge.run(**ASK)
        found: Any = killed.value
        last = events(bridge, found.run_id)[-3:]
        assert [event["type"] for event in last] == ["TOOL_CALL_FAILED", "STEP_COMPLETED", "RUN_FAILED"]
        assert last[0]["payload"]["outcome"] == "unknown"
        assert bridge.flight_record(found.run_id)["response"] == found.response
    assert list((tmp_path / "runs.db.under-way").iterdir()) == []


def test_what_a_killed_process_left_is_recovered_once(package: Package, fake: Any, tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    code = f"""
import os, signal, sys
from nexus_router.dispatch import AdapterRegistry, FakeAdapter
from nexus_attest.routers import NexusRouterBridge
adapter = FakeAdapter()
adapter.call = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
registry = AdapterRegistry()
registry.register(adapter)
NexusRouterBridge(registry, db_path={str(database)!r}).run(goal="g", adapter_id="fake", dry_run=False, plan={TWO_STEPS!r})
"""
    found = Path(package.tool.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{found}"})
    assert done.returncode == -signal.SIGKILL
    with NexusRouterBridge(package.registry(fake), db_path=database) as bridge:
        (run_id,) = bridge.recovered
        kinds = [event["type"] for event in events(bridge, run_id)]
    assert kinds[-4:] == ["TOOL_CALL_REQUESTED", "TOOL_CALL_FAILED", "STEP_COMPLETED", "RUN_FAILED"]
    with NexusRouterBridge(package.registry(fake), db_path=database) as again:
        assert again.recovered == ()
        assert again.flight_record(run_id)["run"]["status"] == "FAILED"


def test_after_a_crash_the_decision_names_the_run_of_its_execution(package: Package, fake: Any, tmp_path: Path) -> None:
    store, database = tmp_path / "store.db", tmp_path / "runs.db"
    code = f"""
import os, signal, sys
from nexus_router.dispatch import AdapterRegistry, FakeAdapter
from nexus_attest.routers import NexusRouterBridge
from nexus_control.tool import NexusControlTools
adapter = FakeAdapter()
adapter.call = lambda *_: (print(flush=True), sys.stdin.read())
registry = AdapterRegistry()
registry.register(adapter)
tools = NexusControlTools(db_path={str(store)!r})
request_id = tools.request("g", {ALICE!r}, "apply", {TWO_STEPS!r}).data["request_id"]
tools.approve(request_id, {ALICE!r})
print(request_id)
tools.execute(request_id, "fake", {ALICE!r}, NexusRouterBridge(registry, db_path={str(database)!r}))
"""
    found = Path(package.tool.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{found}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        request_id = process.stdout.readline().decode().strip()
        assert process.stdout.readline() == b"\n"  # it is in its first call
        with NexusRouterBridge(package.registry(fake), db_path=database) as bridge:
            assert bridge.recovered == ()
            living = NexusControlTools(db_path=store, flight_records=bridge)
            assert living.recover_execution(request_id, ALICE).code == "RUN_NOT_FINISHED"
            living.store.close()
        process.kill()
    with NexusRouterBridge(package.registry(fake), db_path=database) as bridge:
        (run_id,) = bridge.recovered
        tools = NexusControlTools(db_path=store, flight_records=bridge)
        assert tools.recover_execution(request_id, ALICE).success
        assert tools.inspect(request_id).data["execution"]["run_id"] == run_id
        exported = tools.export_audit_package(request_id, embed_router_bundle=True)
        assert {check.name for check in verify_flight_record(exported.data["package"]).checks if check.outcome != "PASS"} == {"provenance"}
        tools.store.close()
    with RunRecords(database) as records:
        assert [found for found, _ in records.executions()] == [run_id]


def test_a_run_that_was_copied_before_its_process_died_is_not_copied_twice(
    bridge: NexusRouterBridge, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object, **__: object) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", nothing)
        response = bridge.run(**ASK)
    (left,) = (tmp_path / "runs.db.under-way").iterdir()
    assert (left / "run.db").exists()
    with NexusRouterBridge(package.registry(), db_path=tmp_path / "runs.db") as later:
        assert later.recovered == (response["run_id"],)
        assert later.flight_record(response["run_id"])["response"] == response
    assert not left.exists()


def test_runs_of_living_processes_are_left_alone(bridge: NexusRouterBridge, package: Package, fake: Any, tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []

    def call(*_: Any) -> dict[str, Any]:
        with NexusRouterBridge(package.registry(), db_path=tmp_path / "runs.db") as other:
            seen.append(other.recovered)
        return {}

    fake.call = call
    assert bridge.run(**ASK)["status"] == "completed"
    assert seen == [(), ()]


def test_a_damaged_leftover_stays_and_hinders_nobody(package: Package, tmp_path: Path) -> None:
    left = tmp_path / "runs.db.under-way" / "x"
    left.mkdir(parents=True)
    (left / "run.db").write_bytes(b"not a database" * 100)
    with NexusRouterBridge(package.registry(), db_path=tmp_path / "runs.db") as bridge:
        assert bridge.recovered == ()
    assert (left / "run.db").exists()


def test_a_run_that_cannot_be_copied_is_not_lost(
    bridge: NexusRouterBridge, package: Package, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreFull("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("nexus_attest.routers.run_store.RunStore.begin", full)
        with pytest.raises(RunFailed, match="its record is in") as failed:
            bridge.run(**ASK)
    assert failed.value.code == "STORE_FULL"
    run_id = failed.value.run_id
    assert run_id is not None
    with pytest.raises(RunNotFound):
        bridge.flight_record(run_id)
    with NexusRouterBridge(package.registry(fake), db_path=tmp_path / "runs.db") as later:
        assert later.recovered == (run_id,)
        assert later.flight_record(run_id)["response"] == failed.value.response


def test_two_runs_at_once_on_one_file_keep_their_records_apart(bridge: NexusRouterBridge) -> None:
    done: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: done.append(bridge.run(**ASK))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({response["run_id"] for response in done}) == 8
    assert [bridge.flight_record(response["run_id"])["response"] for response in done] == done


def test_it_runs_inside_a_running_event_loop(bridge: NexusRouterBridge) -> None:
    async def inside() -> dict[str, Any]:
        return bridge.run(**ASK)

    assert asyncio.run(inside())["status"] == "completed"


def test_the_tools_of_nexus_router_read_our_file_and_take_our_records(bridge: NexusRouterBridge, package: Package, tmp_path: Path) -> None:
    run_id = bridge.run(**ASK)["run_id"]
    record = bridge.flight_record(run_id)
    path = str(tmp_path / "runs.db")
    assert package.tool.replay({"db_path": path, "run_id": run_id})["ok"]
    exported = package.tool.export({"db_path": path, "run_id": run_id, "include_provenance": False})["artifact"]
    assert {key: record[key] for key in exported if key != "exported_at"} == {
        key: exported[key] for key in exported if key != "exported_at"
    }
    taken = package.tool.import_bundle({"db_path": str(tmp_path / "other.db"), "bundle": record})
    assert (taken["status"], taken["replay_ok"]) == ("ok", True)


def test_the_engine_and_the_bridge_share_a_file(bridge: NexusRouterBridge, tmp_path: Path) -> None:
    run_id = bridge.run(**ASK)["run_id"]
    with RunEngine([], db_path=tmp_path / "runs.db") as engine:
        assert engine.recovered == ()
        assert engine.flight_record(run_id)["response"] == bridge.flight_record(run_id)["response"]


def test_a_run_without_an_adapter_has_a_record_too(package: Package, tmp_path: Path) -> None:
    path = str(tmp_path / "runs.db")
    request = {"goal": "g", "mode": "apply", "dispatch": {"adapter_id": "gone"}}
    run_id = package.tool.run(request, db_path=path, adapters=package.registry())["run"]["run_id"]
    with RunEngine([], db_path=path) as engine:
        assert engine.flight_record(run_id)["response"]["adapter_id"] == "none"


def test_a_command_answers_the_bridge_as_it_answers_the_engine(package: Package, tmp_path: Path) -> None:
    script = """printf '{"called": "%s %s %s", "file": %s}' "$1" "$2" "$3" "$(cat "$5")" """
    command = ["/bin/sh", str(tmp_path / "tool.sh")]
    ours = shell_tool(tmp_path, script, command=command)
    theirs = package.dispatch.SubprocessAdapter(command, adapter_id=ours.adapter_id)
    asked_for = asked(adapter_id=ours.adapter_id)
    path = tmp_path / "runs.db"
    with RunEngine([ours], db_path=path) as engine, NexusRouterBridge(package.registry(theirs), db_path=path) as bridge:
        ids = (engine.run(**asked_for)["run_id"], bridge.run(**asked_for)["run_id"])
        outputs = [[e["payload"]["output"] for e in events(bridge, i) if e["type"] == "TOOL_CALL_SUCCEEDED"] for i in ids]
    assert outputs[0] == outputs[1]
    assert [output["called"] for output in outputs[0]] == ["call keys list", "call keys rotate"]
    assert outputs[0][0]["file"] == {"tool": "keys", "method": "list", "args": {"caf\u00e9": 1.5}}


# -- adapters of ours ----------------------------------------------------------------------------------------------------------------


def test_our_adapters_get_one_session_and_the_idempotency_keys(package: Package, tmp_path: Path) -> None:
    ours = OurFake()
    with NexusRouterBridge([ours], db_path=tmp_path / "runs.db") as bridge:
        assert bridge.get_adapter_capabilities("fake") == {"apply", "timeout"}
        assert bridge.get_adapter_capabilities("other") is None
        response = bridge.run(**ASK, execution_id="evt_1")
        assert (ours.opened, ours.closed) == (1, 1)
        assert [call.identity.idempotency_key for call in ours.calls] == [f"{response['run_id']}/s1", f"{response['run_id']}/s2"]
        assert {call.identity.execution_id for call in ours.calls} == {"evt_1"}
        assert bridge.flight_record(response["run_id"])["run"]["status"] == "COMPLETED"
    assert package.tool is not None


def test_two_adapters_of_one_id_are_refused(package: Package) -> None:
    assert package.tool is not None
    with pytest.raises(InputError, match="two adapters"):
        NexusRouterBridge([OurFake(), OurFake()])


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("problem", "code", "text"),
    [
        (CallFailed("TIMEOUT", "Not done in time", outcome=CallOutcome.UNKNOWN), "TIMEOUT", "nobody knows whether it was done"),
        (CallFailed("NONZERO_EXIT", "exit code 4", outcome=CallOutcome.FAILED), "NONZERO_EXIT", "exit code 4$"),
        (CallRefused("SECRET_MISSING", "no secret x"), "SECRET_MISSING", "no secret x$"),
    ],
)
def test_failures_of_our_adapters_keep_their_code_and_say_what_is_certain(problem: Exception, code: str, text: str) -> None:
    def fail() -> None:
        raise problem

    with NexusRouterBridge([OurFake(fail)]) as bridge:
        with pytest.raises(RunFailed, match=text) as failed:
            bridge.run(**ASK)
        assert failed.value.code == code
        assert failures(bridge, failed.value.run_id)[0] == ("s1", "operational", code)


@pytest.mark.usefixtures("package")
def test_what_our_adapter_refuses_is_refused_before_the_run() -> None:
    class Picky(OurFake):
        def check(self, step: Any) -> None:
            raise CallRefused("CALL_NOT_ALLOWED", f"not {step.method}")

    with NexusRouterBridge([Picky()]) as bridge, pytest.raises(RunFailed) as refused:
        bridge.run(**ASK)
    assert (refused.value.code, refused.value.run_id) == ("CALL_NOT_ALLOWED", None)


@pytest.mark.usefixtures("package")
def test_a_cancelled_run_makes_no_further_call() -> None:
    def cancel() -> dict[str, Any]:
        bridge.cancel_all()
        return {}

    ours = OurFake(cancel)
    with NexusRouterBridge([ours]) as bridge:
        with pytest.raises(RunFailed) as ended:
            bridge.run(**ASK)
        assert ended.value.code == "CANCELLED"
    assert len(ours.calls) == 1
