"""The tools: what they return, what they refuse, and that no argument whatever makes them raise or leaves a trace behind."""

import inspect
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from store_testing import ALICE, BOB, CAROL, ROBOT, T0, SetClock, new_store, raw_event

from nexus_control.canonical_json import canonical_json
from nexus_control.events import Actor
from nexus_control.integrity import sha256_digest
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult


class Router:
    """Runs nothing."""

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return None if adapter_id else set()

    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}


@pytest.fixture
def tools() -> NexusControlTools:
    return NexusControlTools(new_store())


def data(result: ToolResult) -> dict[str, Any]:
    assert result.success, result.error
    return result.data


def request(tools: NexusControlTools, **options: Any) -> str:
    return data(tools.request("g", ALICE, **options))["request_id"]


def refused(result: ToolResult, code: str, text: str = "") -> None:
    assert (result.success, result.code, result.data) == (False, code, {})
    assert text in (result.error or "")
    assert result.to_dict() == {"success": False, "error": result.error}


# -- results ------------------------------------------------------------------------------------------------------------------


def test_results_are_flat_dicts() -> None:
    assert ToolResult(True, {"a": 1}).to_dict() == {"success": True, "a": 1}
    assert ToolResult(False, error="E: text").to_dict() == {"success": False, "error": "E: text"}


def test_tools_use_the_given_store_or_open_one() -> None:
    store = DecisionStore()
    assert NexusControlTools(store).store is store
    own = NexusControlTools()
    assert isinstance(own.store, DecisionStore)
    assert own.template_store is own.template_store


# -- request ------------------------------------------------------------------------------------------------------------------


def test_a_request_without_options_needs_one_approval_for_a_dry_run(tools: NexusControlTools) -> None:
    assert data(tools.request("g", ALICE)) == {
        "request_id": "id-0",
        "state": "pending_approval",
        "min_approvals": 1,
        "current_approvals": 0,
    }
    created, attached = tools.store.get_events("id-0")
    assert (created.actor, created.payload) == (ALICE, {"goal": "g", "plan": None, "requested_mode": "dry_run", "labels": []})
    assert (attached.actor, attached.payload) == (
        ALICE,
        {"min_approvals": 1, "allowed_modes": ["dry_run"], "require_adapter_capabilities": [], "max_steps": None, "labels": []},
    )


def test_an_apply_request_without_modes_allows_both(tools: NexusControlTools) -> None:
    policy = tools.store.get_events(request(tools, mode="apply"))[1].payload
    assert policy["allowed_modes"] == ["dry_run", "apply"]


@pytest.mark.parametrize(("mode", "modes"), [("apply", ["dry_run"]), ("dry_run", ["apply"]), ("fast", None), ("", None), (None, None)])
def test_a_mode_outside_the_policy_is_refused_before_anything_is_written(tools: NexusControlTools, mode: Any, modes: Any) -> None:
    refused(tools.request("g", ALICE, mode=mode, allowed_modes=modes), "MODE_NOT_ALLOWED", "not in allowed_modes")
    assert tools.store.log_root()[0] == 0


def test_a_template_gives_the_policy_and_arguments_replace_its_values(tools: NexusControlTools) -> None:
    data(tools.template_create("prod", BOB, "d", 2, ["dry_run", "apply"], ["timeout"], 5, ["a", "b"]))
    digest = data(tools.template_get("prod"))["digest"]
    plain = data(tools.request("g", ALICE, template_name="prod"))
    assert plain == {
        "request_id": "id-0",
        "state": "pending_approval",
        "min_approvals": 2,
        "current_approvals": 0,
        "template_name": "prod",
        "template_digest": digest,
    }
    changed = data(tools.request("g", ALICE, template_name="prod", min_approvals=3, labels=["c"]))
    assert changed["overrides_applied"] == {"min_approvals": 3, "labels": ["c"]}
    payload = tools.store.get_events(changed["request_id"])[1].payload
    assert payload == {
        "min_approvals": 3,
        "allowed_modes": ["dry_run", "apply"],
        "require_adapter_capabilities": ["timeout"],
        "max_steps": 5,
        "labels": ["c"],
        "template_name": "prod",
        "template_digest": digest,
        "template_snapshot": data(tools.template_get("prod"))["snapshot"],
        "overrides_applied": {"min_approvals": 3, "labels": ["c"]},
    }
    assert tools.store.get_events(plain["request_id"])[1].payload["overrides_applied"] == {}


def test_overrides_have_two_spellings_that_must_not_disagree(tools: NexusControlTools) -> None:
    data(tools.template_create("prod", BOB))
    result = data(tools.request("g", ALICE, template_name="prod", override_min_approvals=3, override_labels=["x"], min_approvals=3))
    assert result["overrides_applied"] == {"min_approvals": 3, "labels": ["x"]}
    refused(tools.request("g", ALICE, template_name="prod", min_approvals=2, override_min_approvals=3), "INVALID_ARGUMENT")
    refused(tools.request("g", ALICE, template_name="prod", min_approvals=True, override_min_approvals=1), "INVALID_ARGUMENT")
    refused(tools.request("g", ALICE, override_max_steps=3), "INVALID_ARGUMENT", "needs a template_name")


def test_an_unknown_template_is_named(tools: NexusControlTools) -> None:
    result = tools.request("g", ALICE, template_name="none")
    refused(result, "TEMPLATE_NOT_FOUND", "none")
    assert (result.error or "").startswith("TEMPLATE_NOT_FOUND: ")


@pytest.mark.parametrize(
    "policy",
    [
        {"min_approvals": 0},
        {"min_approvals": True},
        {"min_approvals": "2"},
        {"min_approvals": 1.0},
        {"allowed_modes": []},
        {"allowed_modes": "dry_run"},
        {"allowed_modes": ["dry_run", "fly"]},
        {"max_steps": 0},
        {"labels": "a"},
        {"labels": [1]},
        {"labels": ["\ud800"]},
        {"require_adapter_capabilities": {"a": 1}},
    ],
)
def test_a_policy_is_understood_completely_or_refused(tools: NexusControlTools, policy: dict[str, Any]) -> None:
    refused(tools.request("g", ALICE, **policy), "INVALID_POLICY")
    assert tools.store.log_root()[0] == 0


@pytest.mark.parametrize("goal", ["", None, 7, "\ud800", ["g"]])
def test_a_goal_is_a_text_that_can_be_stored(tools: NexusControlTools, goal: Any) -> None:
    refused(tools.request(goal, ALICE), "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "actor",
    [
        *(None, "alice", 7, [], {}, {"type": "human"}, {"type": "robot", "id": "a"}, {"type": ["human"], "id": "a"}),
        *({"type": "human", "id": name} for name in ("", 7, None, "\ud800")),
        {"type": "human", "id": "a", "role": "admin"},
    ],
)
def test_no_tool_acts_for_what_is_no_actor(tools: NexusControlTools, actor: Any) -> None:
    decision_id = request(tools)
    size = tools.store.log_root()[0]
    for result in (
        tools.request("g", actor),
        tools.approve(decision_id, actor),
        tools.revoke_approval(decision_id, actor),
        tools.execute(decision_id, "ad", actor, Router()),
        tools.recover_execution(decision_id, actor),
        tools.template_create("t", actor),
    ):
        refused(result, "INVALID_ACTOR")
        assert (result.error or "").startswith("INVALID_ACTOR: ")
    assert tools.store.log_root()[0] == size


# -- approvals ----------------------------------------------------------------------------------------------------------------


def test_approvals_add_up_until_the_policy_is_satisfied(tools: NexusControlTools) -> None:
    decision_id = request(tools, min_approvals=2)
    assert data(tools.approve(decision_id, ALICE, comment="mine")) == {
        "request_id": decision_id,
        "state": "pending_approval",
        "current_approvals": 1,
        "required_approvals": 2,
        "is_approved": False,
    }
    assert data(tools.approve(decision_id, ROBOT)) == {
        "request_id": decision_id,
        "state": "approved",
        "current_approvals": 2,
        "required_approvals": 2,
        "is_approved": True,
    }
    own, system = tools.store.get_events(decision_id)[2:]
    assert (own.payload, system.payload) == ({"expires_at": None, "comment": "mine"}, {"expires_at": None})


def test_an_actor_counts_once_and_may_approve_again_after_revoking(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    data(tools.approve(decision_id, BOB))
    refused(tools.approve(decision_id, BOB), "ALREADY_APPROVED", "already approved")
    assert data(tools.revoke_approval(decision_id, BOB, "wait")) == {
        "request_id": decision_id,
        "state": "pending_approval",
        "current_approvals": 0,
        "is_approved": False,
    }
    assert tools.store.get_events(decision_id)[-1].payload == {"reason": "wait"}
    refused(tools.revoke_approval(decision_id, BOB), "ALREADY_REVOKED", "already revoked")
    refused(tools.revoke_approval(decision_id, CAROL), "NOT_APPROVED", "has not approved")
    assert data(tools.approve(decision_id, BOB))["state"] == "approved"


def test_an_actor_may_approve_again_after_its_approval_expired() -> None:
    clock = SetClock()
    tools = NexusControlTools(new_store(clock=clock))
    decision_id = request(tools)
    data(tools.approve(decision_id, BOB, expires_at=T0 + timedelta(minutes=1)))
    refused(tools.approve(decision_id, BOB), "ALREADY_APPROVED")
    clock.now = T0 + timedelta(minutes=1)
    assert data(tools.status(decision_id))["state"] == "pending_approval"
    assert data(tools.approve(decision_id, BOB))["current_approvals"] == 1


def test_an_approval_from_the_past_is_recorded_and_does_not_count(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    result = data(tools.approve(decision_id, BOB, expires_at="2020-01-01T02:00:00+02:00"))
    assert (result["current_approvals"], result["state"]) == (0, "pending_approval")
    assert tools.store.get_events(decision_id)[2].payload == {"expires_at": "2020-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    "expires_at",
    ["2030-01-01T00:00:00", "soon", "", 7, True, ["2030-01-01T00:00:00Z"], datetime(2030, 1, 1), "0001-01-01T00:00:00+14:00"],
)
def test_an_expiry_is_a_time_with_an_offset_or_refused(tools: NexusControlTools, expires_at: Any) -> None:
    decision_id = request(tools)
    size = tools.store.log_root()[0]
    result = tools.approve(decision_id, BOB, expires_at=expires_at)
    refused(result, "INVALID_EXPIRES_AT")
    assert tools.store.log_root()[0] == size


@pytest.mark.parametrize("expires_at", ["2030-01-01T00:00:00Z", "2030-01-01T01:00:00+01:00", datetime(2030, 1, 1, tzinfo=UTC)])
def test_expiries_are_stored_in_utc(tools: NexusControlTools, expires_at: Any) -> None:
    decision_id = request(tools)
    data(tools.approve(decision_id, BOB, expires_at=expires_at))
    assert tools.store.get_events(decision_id)[2].payload == {"expires_at": "2030-01-01T00:00:00+00:00"}


def test_after_the_execution_nothing_can_be_approved_or_revoked(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    data(tools.approve(decision_id, BOB))
    data(tools.execute(decision_id, "ad", ALICE, Router()))
    refused(tools.approve(decision_id, CAROL), "CANNOT_APPROVE", "Cannot approve")
    refused(tools.revoke_approval(decision_id, BOB), "CANNOT_REVOKE", "Cannot revoke")


def test_a_draft_cannot_be_approved(tools: NexusControlTools) -> None:
    refused(tools.approve(tools.store.create_decision("draft"), BOB), "CANNOT_APPROVE", "Cannot approve")


def test_dozens_of_actors_may_alternate(tools: NexusControlTools) -> None:
    decision_id = request(tools, min_approvals=3)
    for number in range(40):
        who = Actor(type="human", id=f"a{number % 10}")
        approve = number // 10 % 2 == 0
        assert (tools.approve(decision_id, who) if approve else tools.revoke_approval(decision_id, who)).success
    assert data(tools.status(decision_id))["active_approvals"] == 0


# -- reading ------------------------------------------------------------------------------------------------------------------


def test_status_tells_what_blocks_and_events_only_when_asked(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    status = data(tools.status(decision_id))
    assert [reason["code"] for reason in status["blocking_reasons"]] == ["MISSING_APPROVALS"]
    assert "events" not in status
    events = data(tools.status(decision_id, include_events=True))["events"]
    assert [(event["seq"], event["event_type"], event["position"]) for event in events] == [
        (0, "DECISION_CREATED", 2),
        (1, "POLICY_ATTACHED", 3),
    ]


def test_the_list_is_newest_first_and_paged(tools: NexusControlTools) -> None:
    ids = [request(tools) for _ in range(5)]
    data(tools.approve(ids[3], BOB))
    page = data(tools.list_requests(limit=2, offset=1))
    assert (page["count"], page["limit"], page["offset"]) == (2, 2, 1)
    assert [(entry["request_id"], entry["state"], entry["goal"], entry["is_approved"]) for entry in page["requests"]] == [
        (ids[3], "approved", "g", True),
        (ids[2], "pending_approval", "g", False),
    ]
    assert set(page["requests"][0]) == {"request_id", "created_at", "state", "goal", "is_approved"}
    assert data(tools.list_requests(limit=0))["requests"] == []


@pytest.mark.parametrize(
    "event",
    [
        raw_event(0, event_type="NO_SUCH_EVENT"),
        raw_event(0, payload="{broken"),
        raw_event(0, payload="[1]"),
        raw_event(0, payload='{"goal": 7}'),
        raw_event(0, ts="yesterday"),
        raw_event(0, event_type="POLICY_ATTACHED", payload='{"min_approvals": "many"}'),
        raw_event(0, event_type="EXECUTION_REQUESTED", payload='{"dry_run": "no"}'),
        raw_event(0, event_type="APPROVAL_GRANTED", payload='{"expires_at": "soon"}'),
    ],
)
def test_an_unreadable_decision_is_listed_as_invalid_and_hides_no_other(tools: NexusControlTools, event: dict[str, Any]) -> None:
    good = request(tools)
    bad = tools.store.create_decision("bad")
    assert isinstance(tools.store, DecisionStore)
    tools.store.insert_event_raw(bad, **event)
    other = request(tools)
    listed = data(tools.list_requests())["requests"]
    assert [entry["request_id"] for entry in listed] == [other, bad, good]
    assert [entry["state"] for entry in listed] == ["pending_approval", "invalid", "pending_approval"]
    assert listed[1]["error"]
    for result in (tools.status(bad), tools.inspect(bad), tools.approve(bad, BOB), tools.export_audit_record(bad)):
        assert not result.success
    assert not tools.export_bundle(bad).success
    assert not tools.execute(bad, "ad", ALICE, Router()).success


def test_an_audit_record_holds_everything_and_its_own_digest(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    data(tools.approve(decision_id, BOB, comment="c"))
    data(tools.execute(decision_id, "ad", ALICE, Router()))
    result = data(tools.export_audit_record(decision_id))
    record = result["audit_record"]
    assert json.loads(result["canonical_json"]) == record
    assert result["record_digest"] == sha256_digest(result["canonical_json"].encode())
    assert list(record) == ["schema_version", "exported_at", "decision", "events", "approvals", "executions"]
    assert record["schema_version"] == "0.1.0"
    assert list(record["approvals"]["bob"]) == [
        "actor",
        "granted_at",
        "expires_at",
        "comment",
        "revoked",
        "revoked_at",
        "revoke_reason",
    ]
    assert record["executions"][0]["run_id"] == "run-1"
    assert len(record["events"]) == 6


def test_inspect_leaves_out_what_was_not_asked_for(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    full = data(tools.inspect(decision_id, include_events=True))
    assert {"rendered", "events", "compiled_router_request"} <= set(full)
    lean = data(tools.inspect(decision_id, render=False, include_compiled_router_request=False))
    assert not {"rendered", "events", "compiled_router_request"} & set(lean)


# -- templates, bundles, packages ---------------------------------------------------------------------------------------------


def test_templates_are_created_once_listed_and_read(tools: NexusControlTools) -> None:
    made = data(tools.template_create("prod", ALICE, "d", labels=["a"]))
    assert (made["template_name"], made["description"]) == ("prod", "d")
    refused(tools.template_create("prod", BOB), "TEMPLATE_ALREADY_EXISTS")
    refused(tools.template_create("", BOB), "INVALID_TEMPLATE", "cannot be empty")
    refused(tools.template_create("x", BOB, min_approvals=0), "INVALID_TEMPLATE", "at least 1")
    refused(tools.template_get("none"), "TEMPLATE_NOT_FOUND")
    got = data(tools.template_get("prod", include_events=True))
    assert (got["digest"], got["template"]["name"], len(got["events"])) == (made["digest"], "prod", 1)
    listed = data(tools.template_list(label_filter="a"))
    assert (listed["count"], set(listed["templates"][0])) == (
        1,
        {"name", "description", "min_approvals", "allowed_modes", "labels", "created_at"},
    )
    assert data(tools.template_list(label_filter="%"))["count"] == 0


def test_a_bundle_travels_as_text_to_another_store_and_to_a_new_id(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    exported = data(tools.export_bundle(decision_id))
    assert set(exported) == {"bundle", "digest", "canonical_json", "rendered"}
    assert exported["canonical_json"] == data(tools.export_bundle(decision_id, render=False))["canonical_json"]
    again = data(tools.import_bundle(exported["canonical_json"], conflict_mode="new_decision_id", replay_after_import=True))
    assert again["imported"]["original_decision_id"] == decision_id
    refused(tools.import_bundle(exported["bundle"]), "DECISION_EXISTS")
    refused(tools.export_bundle("none"), "DECISION_NOT_FOUND", "not found")
    other = NexusControlTools(new_store())
    assert data(other.import_bundle(exported["bundle"]))["imported"]["decision_id"] == decision_id


def test_a_package_needs_a_run(tools: NexusControlTools) -> None:
    decision_id = request(tools)
    refused(tools.export_audit_package(decision_id), "NO_ROUTER_LINK")
    data(tools.approve(decision_id, BOB))
    data(tools.execute(decision_id, "ad", ALICE, Router()))
    package = data(tools.export_audit_package(decision_id))
    assert set(package) == {"package", "digest", "rendered"}
    assert "rendered" not in data(tools.export_audit_package(decision_id, render=False))
    refused(tools.export_audit_package(decision_id, embed_router_bundle=True), "ROUTER_BUNDLE_INVALID")


# -- nonsense -----------------------------------------------------------------------------------------------------------------

DEEP: Any = json.loads("[" * 500 + "]" * 500)

NONSENSE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**70,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "none",
    "\ud800",
    "\x00",
    "a'; DROP TABLE decisions; --",
    "../../etc/passwd",
    "<script>\x1b[31m",
    "9" * 5000,
    "x" * 200_000,
    [],
    [None],
    ["x", 7],
    DEEP,
    {},
    {"type": "human"},
    {"type": "human", "id": "mallory"},
    {"a": {"b": [1, {"c": None}]}},
    {"bundle_version": "0.5", "decision": [], "events": {}, "integrity": 7},
    10**5000,  # an integer that Python refuses to write
    ["dry_run", 10**5000],
    {"type": "human", "id": "mallory", "x" * 10_000: 1},
    ["x" * 10_000],
    b"bytes",
    ("dry_run",),
]

TOOLS = [name for name, _ in inspect.getmembers(NexusControlTools, inspect.isfunction) if not name.startswith("_")]
VALID: dict[str, Any] = {
    "goal": "g",
    "actor": BOB,
    "request_id": "id-0",
    "decision_id": "id-0",
    "adapter_id": "ad",
    "router": Router(),
    "name": "t",
    "bundle": {},
}


def parameters(name: str) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(getattr(NexusControlTools, name)).parameters)
    del found["self"]
    return found


def test_the_sweep_covers_every_tool() -> None:
    assert TOOLS == [
        "approve",
        "execute",
        "export_audit_package",
        "export_audit_record",
        "export_bundle",
        "import_bundle",
        "inspect",
        "list_requests",
        "recover_execution",
        "request",
        "revoke_approval",
        "status",
        "template_create",
        "template_get",
        "template_list",
    ]


@pytest.mark.parametrize(("name", "parameter"), [(name, parameter) for name in TOOLS for parameter in parameters(name)])
def test_nonsense_in_any_argument_gives_a_result_and_a_refusal_leaves_nothing(name: str, parameter: str) -> None:
    tools = NexusControlTools(new_store())
    request(tools)
    data(tools.template_create("known", ALICE))
    base = {key: VALID[key] for key, found in parameters(name).items() if found.default is inspect.Parameter.empty}
    for value in NONSENSE:
        before = tools.store.log_root()
        result = getattr(tools, name)(**{**base, parameter: value})
        assert isinstance(result, ToolResult)
        if not result.success:
            assert result.code is not None
            assert (result.code, tools.store.log_root()) == (result.code.upper(), before)
            assert len(result.error or "") < 2000
        assert canonical_json(result.to_dict())
    assert tools.store.verify_log().ok
