"""From a request to a package that a stranger verifies: decision, real program, flight record."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from evidence_testing import with_member
from router_testing import FakeAdapter, shell_tool

from nexus_attest.routers import RunEngine, RunNotFound, RunRecords
from nexus_control.audit_package import verify_audit_package
from nexus_control.evidence import examine
from nexus_control.flight_checks import FlightOutcome, verify_flight_record
from nexus_control.layers import LayerName
from nexus_control.tool import NexusControlTools

ALICE = {"type": "human", "id": "alice"}
BOB = {"type": "human", "id": "bob"}
PLAN = '[{"tool": "keys", "method": "list", "args": {"caf\u00e9": 1.5}}, {"tool": "keys", "method": "rotate"}]'
SCRIPT = """
    test "$3" = refuse && { echo "cannot: \u00e9chec" >&2; exit 4; }
    printf '{"cl\u00e9": "%s", "execution": "%s", "age": 12.5}' "$NEXUS_IDEMPOTENCY_KEY" "$NEXUS_EXECUTION_ID"
"""


@pytest.fixture
def tools() -> Iterator[NexusControlTools]:
    found = NexusControlTools()
    yield found
    found.store.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RunEngine]:
    with RunEngine([shell_tool(tmp_path, SCRIPT)], db_path=tmp_path / "runs.db") as router:
        yield router


def approved(tools: NexusControlTools, plan: str = PLAN, **more: Any) -> str:
    capabilities = ["timeout", "external"]
    request = tools.request(
        "Rotate \u2013 d\u00e9j\u00e0", ALICE, mode="apply", plan=plan, max_steps=5, require_adapter_capabilities=capabilities, **more
    )
    assert request.success, request.error
    request_id: str = request.data["request_id"]
    assert tools.approve(request_id, BOB).success
    return request_id


def test_an_executed_decision_becomes_a_package_that_verifies_strictly(tools: NexusControlTools, engine: RunEngine) -> None:
    request_id = approved(tools)
    done = tools.execute(request_id, "subprocess:tool", ALICE, engine)
    assert done.success, done.error
    assert done.data["steps_executed"] == 2
    record = engine.flight_record(done.data["run_id"])
    exported = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record)
    assert exported.success, exported.error
    for package in (exported.data["package"], json.loads(json.dumps(exported.data["package"]))):
        result = verify_audit_package(package, strict=True)
        assert [(check.name, check.ok) for check in result.checks] == [
            ("binding_digest", True),
            ("control_bundle_digest", True),
            ("binding_control_match", True),
            ("binding_router_match", True),
            ("binding_link_match", True),
            ("router_digest", True),
        ]


def test_the_run_names_the_execution_and_the_request_that_the_decision_stored(tools: NexusControlTools, engine: RunEngine) -> None:
    request_id = approved(tools)
    done = tools.execute(request_id, "subprocess:tool", ALICE, engine)
    events = engine.flight_record(done.data["run_id"])["events"]
    noted = next(event["payload"] for event in events if event["type"] == "REQUEST_RECORDED")
    assert noted["request_digest"] == "sha256:" + done.data["request_digest"]
    assert noted["execution_id"] == f"evt_{request_id}_3"
    outputs = [event["payload"]["output"] for event in events if event["type"] == "TOOL_CALL_SUCCEEDED"]
    assert [output["execution"] for output in outputs] == [f"evt_{request_id}_3"] * 2


@pytest.mark.parametrize("path", ["output", "output and its digest", "response"])
def test_a_forged_record_does_not_verify(tools: NexusControlTools, engine: RunEngine, path: str) -> None:
    request_id = approved(tools)
    record = engine.flight_record(tools.execute(request_id, "subprocess:tool", ALICE, engine).data["run_id"])
    package = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record).data["package"]
    bundle = package["router"]["bundle"]
    if path == "response":
        bundle["response"]["steps_executed"] = 1
    else:
        output = next(event for event in bundle["events"] if event["type"] == "TOOL_CALL_SUCCEEDED")["payload"]["output"]
        output["age"] = 13
    if path == "output and its digest":
        text = json.dumps({"run": bundle["run"], "events": bundle["events"]}, sort_keys=True, separators=(",", ":"))
        bundle["digests"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    result = verify_audit_package(package)
    assert [check.name for check in result.checks if not check.ok] == ["router_digest"]


RECORD_MEMBERS = ["bundle_version", "digests", "events", "exported_at", "integrity", "response", "run", "run_id"]
ADDED: list[tuple[list[str], str, list[str]]] = [
    ([], "note", ["shape"]),
    ([], "approved_by", ["shape"]),
    (["digests"], "sha512", ["shape"]),
    (["integrity"], "signed_by", ["shape"]),
    (["run"], "note", ["run_digest", "response_binds_run"]),
    (["response"], "note", ["response_digest"]),
    (["events", "0"], "note", ["run_digest", "response_binds_run"]),
    # Of nexus-router's format, and outside by design as every `provenance`.
    ([], "provenance", []),
]


@pytest.mark.parametrize(("path", "member", "failed"), ADDED)
def test_nothing_but_a_provenance_can_be_added_to_a_record_of_our_own_router(
    tools: NexusControlTools, engine: RunEngine, path: list[str], member: str, failed: list[str]
) -> None:
    request_id = approved(tools)
    record = engine.flight_record(tools.execute(request_id, "subprocess:tool", ALICE, engine).data["run_id"])
    assert sorted(record) == RECORD_MEMBERS
    package = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record).data["package"]
    assert verify_flight_record(package, strict=True).ok
    target: Any = package["router"]["bundle"]
    for key in path:
        target = target[int(key) if key.isdigit() else key]
    target[member] = {"by": "the board"}
    report = verify_flight_record(package)
    assert [check.name for check in report.checks if check.outcome is not FlightOutcome.PASS] == failed
    execution = examine(package).layer(LayerName.EXECUTION)
    assert execution.outcome.value == ("FAIL" if failed else "PASS")
    if failed == ["shape"]:
        (shape,) = (check for check in report.checks if check.name == "shape")
        where = ".".join(["the record", *path])
        assert shape.detail == f"{where} has a member '{member}', which the format does not have and no digest covers"


def test_the_record_of_another_run_cannot_be_embedded(tools: NexusControlTools, engine: RunEngine) -> None:
    first, second = approved(tools), approved(tools)
    tools.execute(first, "subprocess:tool", ALICE, engine)
    other = engine.flight_record(tools.execute(second, "subprocess:tool", ALICE, engine).data["run_id"])
    refused = tools.export_audit_package(first, embed_router_bundle=True, router_bundle=other)
    assert (refused.success, refused.code) == (False, "ROUTER_DIGEST_MISMATCH")


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        ('[{"tool": "keys", "method": "refuse"}]', "NONZERO_EXIT"),
        ("Rotate the key, please.", "PLAN_NOT_EXECUTABLE"),
        ('[{"tool": "--keys", "method": "list"}]', "INVALID_NAME"),
    ],
)
def test_a_failed_run_leaves_evidence_as_well(tools: NexusControlTools, engine: RunEngine, plan: str, code: str) -> None:
    request_id = approved(tools, plan)
    failed = tools.execute(request_id, "subprocess:tool", ALICE, engine)
    assert (failed.success, failed.code) == (False, code)
    status = tools.status(request_id, include_events=True)
    last = status.data["events"][-1]
    assert last["event_type"] == "EXECUTION_FAILED"
    assert last["payload"]["error_code"] == code
    record = engine.flight_record(last["payload"]["run_id"])
    assert "sha256:" + last["payload"]["response_digest"] == record["integrity"]["canonical_digest"]
    exported = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record)
    assert exported.success, exported.error
    assert verify_audit_package(exported.data["package"], strict=True).ok


def test_a_rehearsal_and_then_the_real_run_of_one_decision_are_two_runs(tools: NexusControlTools, engine: RunEngine) -> None:
    request_id = approved(tools, allowed_modes=["dry_run", "apply"])
    rehearsal = tools.execute(request_id, "subprocess:tool", ALICE, engine, dry_run=True)
    real = tools.execute(request_id, "subprocess:tool", ALICE, engine)
    assert (rehearsal.data["mode"], real.data["mode"]) == ("dry_run", "apply")
    assert rehearsal.data["run_id"] != real.data["run_id"]
    record = engine.flight_record(real.data["run_id"])
    exported = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record)
    assert verify_audit_package(exported.data["package"], strict=True).ok


def test_an_adapter_without_a_required_capability_is_refused_before_the_run(tools: NexusControlTools, engine: RunEngine) -> None:
    request = tools.request("g", ALICE, mode="apply", plan=PLAN, require_adapter_capabilities=["dry_run"])
    tools.approve(request.data["request_id"], BOB)
    refused = tools.execute(request.data["request_id"], "subprocess:tool", ALICE, engine)
    assert refused.error is not None
    assert "missing required capabilities" in refused.error


@pytest.mark.parametrize(
    ("plan", "more"),
    [
        (PLAN, {}),
        (PLAN, {"dry_run": True}),
        ('{"steps": [{"tool": "keys", "method": "refuse"}, {"tool": "keys", "method": "list"}], "on_error": "continue"}', {}),
        ('[{"tool": "keys", "method": "list"}, {"tool": "keys", "method": "refuse"}, {"tool": "keys", "method": "list"}]', {}),
        ('[{"tool": "keys", "method": "list", "args": {"big": 1e300, "small": -0.0, "e": 1e-7, "wide": 123456789012345678901}}]', {}),
        (json.dumps([{"tool": "keys", "method": "list"}] * 6), {}),
        ("Rotate the key, please.", {}),
        ('[{"tool": "keys", "method": "list", "args": {"n": NaN}}]', {}),
        ("[]", {}),
        ('[{"tool": "..", "method": "list"}]', {}),
    ],
)
def test_every_end_of_a_run_leaves_a_record_of_which_all_eleven_checks_hold(
    tools: NexusControlTools, engine: RunEngine, plan: str, more: dict[str, Any]
) -> None:
    request_id = approved(tools, plan, allowed_modes=["dry_run", "apply"])
    tools.execute(request_id, "subprocess:tool", ALICE, engine, **more)
    run_id = tools.inspect(request_id).data["execution"]["run_id"]
    exported = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=engine.flight_record(run_id))
    package = json.loads(json.dumps(exported.data["package"]))
    report = verify_flight_record(package, strict=True)
    assert [check.to_dict() for check in report.checks if check.outcome != "PASS"] == []
    assert verify_audit_package(package, strict=True).ok


def test_prose_that_ran_as_the_default_call_is_what_was_approved(tools: NexusControlTools, tmp_path: Path) -> None:
    tool = shell_tool(tmp_path, SCRIPT, default_call={"tool": "agent", "method": "do"})
    with RunEngine([tool]) as engine:
        request_id = approved(tools, "Rotate the key, please.")
        done = tools.execute(request_id, "subprocess:tool", ALICE, engine)
        record = engine.flight_record(done.data["run_id"])
    package = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record).data["package"]
    assert verify_flight_record(package, strict=True).ok
    plan = next(event["payload"]["plan"] for event in package["router"]["bundle"]["events"] if event["type"] == "PLAN_CREATED")
    plan[0]["call"]["args"]["plan"] = "Delete the key, please."
    failed = [check.name for check in verify_flight_record(package).checks if check.outcome == "FAIL"]
    assert "approved_executed" in failed


def test_an_interrupted_execution_keeps_its_evidence(tools: NexusControlTools) -> None:
    def answer() -> Any:
        raise KeyboardInterrupt

    with RunEngine([FakeAdapter(answer, capabilities=frozenset({"apply", "timeout", "external"}))]) as engine:
        request_id = approved(tools)
        with pytest.raises(KeyboardInterrupt):
            tools.execute(request_id, "fake", ALICE, engine)
        last = tools.status(request_id, include_events=True).data["events"][-1]
        assert last["event_type"] == "EXECUTION_FAILED"
        record = engine.flight_record(last["payload"]["run_id"])
    package = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record).data["package"]
    assert verify_flight_record(package, strict=True).ok


def test_a_package_finds_the_record_of_its_run_at_the_router_or_in_its_file(tools: NexusControlTools, tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    with RunEngine([shell_tool(tmp_path, SCRIPT)], db_path=path) as engine:
        request_id = approved(tools)
        tools.execute(request_id, "subprocess:tool", ALICE, engine)
        package = tools.export_audit_package(request_id, embed_router_bundle=True).data["package"]
        assert verify_flight_record(package, strict=True).ok
    with RunRecords(path) as records:
        again = NexusControlTools(tools.store, flight_records=records)
        assert again.export_audit_package(request_id, embed_router_bundle=True).data["digest"] == package["integrity"]["binding_digest"]
    nowhere = NexusControlTools(tools.store).export_audit_package(request_id, embed_router_bundle=True)
    assert (nowhere.success, nowhere.code) == (False, "ROUTER_BUNDLE_INVALID")
    with RunEngine([]) as other:
        missing = NexusControlTools(tools.store, flight_records=other).export_audit_package(request_id, embed_router_bundle=True)
    assert (missing.success, missing.code) == (False, "RUN_NOT_FOUND")


def test_an_execution_is_not_abandoned_while_its_run_is_under_way(tools: NexusControlTools) -> None:
    found: list[Any] = []

    def answer() -> dict[str, Any]:
        found.append(tools.recover_execution(request_id, ALICE))
        return {}

    with RunEngine([FakeAdapter(answer, capabilities=frozenset({"apply", "timeout", "external"}))]) as engine:
        request_id = approved(tools, '[{"tool": "keys", "method": "list"}]')
        assert tools.execute(request_id, "fake", ALICE, engine).success
    assert [(result.success, result.code) for result in found] == [(False, "RUN_NOT_FINISHED")]
    assert tools.status(request_id).data["state"] == "completed"


def test_reading_runs_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="there is no file of runs"):
        RunRecords(tmp_path / "runs.db")
    assert list(tmp_path.iterdir()) == []


DECLARED_OUTSIDE = ("meta", "provenance")
REMOVABLE = {
    # Read as what they say.
    "package_version",
    "control_bundle.bundle_version",
    "control_bundle.template_snapshot",
    "control_bundle.template_snapshot.present",
    "control_bundle.integrity.alg",
    "integrity.alg",
    "router.bundle.integrity.alg",
    # Made again from the events.
    "control_bundle.policy",
    "control_bundle.approvals",
    # Of nexus-router's format, in which no digest covers them.
    "router.bundle.bundle_version",
    "router.bundle.exported_at",
}
"""What may be missing in a package whose decision has no template, apart from `meta` and `provenance`."""


def members(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Every object, list and leaf with its path, from the outermost on."""
    yield path, value
    if isinstance(value, dict):
        for key, member in cast("dict[str, object]", value).items():
            yield from members(member, (*path, key))
    elif isinstance(value, list):
        for number, member in enumerate(cast("list[object]", value)):
            yield from members(member, (*path, number))


def test_what_can_be_added_to_a_package_and_removed_from_it_is_listed(tools: NexusControlTools, engine: RunEngine) -> None:
    request_id = approved(tools)
    record = engine.flight_record(tools.execute(request_id, "subprocess:tool", ALICE, engine).data["run_id"])
    package = tools.export_audit_package(request_id, embed_router_bundle=True, router_bundle=record).data["package"]
    assert examine(package).ok
    added: set[str] = set()
    removed: set[str] = set()
    for path, value in members(package):
        if set(path) & set(DECLARED_OUTSIDE):
            continue
        name = ".".join(map(str, path))
        if isinstance(value, dict) and examine(with_member(package, (*path, "note"), "approved by the board")).ok:
            added.add(name)
        if path and examine(with_member(package, path)).ok:
            removed.add(name)
    assert (added, removed) == (set(), REMOVABLE)
