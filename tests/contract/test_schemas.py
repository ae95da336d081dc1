"""The published input schemas of the eleven tools: complete, valid, and in agreement with the methods behind them."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest

from nexus_control.tool import NexusControlTools

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"

ACTOR = {"type": "human", "id": "alice"}

METHODS = {
    "request": "request",
    "approve": "approve",
    "execute": "execute",
    "status": "status",
    "inspect": "inspect",
    "template.create": "template_create",
    "template.get": "template_get",
    "template.list": "template_list",
    "export_bundle": "export_bundle",
    "import_bundle": "import_bundle",
    "export_audit_package": "export_audit_package",
}

PROPERTIES: dict[str, list[str]] = {
    "request": [
        "goal",
        "actor",
        "mode",
        "plan",
        "template_name",
        "min_approvals",
        "allowed_modes",
        "require_adapter_capabilities",
        "max_steps",
        "labels",
        "override_min_approvals",
        "override_allowed_modes",
        "override_require_adapter_capabilities",
        "override_max_steps",
        "override_labels",
    ],
    "approve": ["request_id", "actor", "comment", "expires_at"],
    "execute": ["request_id", "adapter_id", "actor", "dry_run"],
    "status": ["request_id", "include_events"],
    "inspect": ["decision_id", "render", "include_events", "include_compiled_router_request"],
    "template.create": [
        "name",
        "actor",
        "description",
        "min_approvals",
        "allowed_modes",
        "require_adapter_capabilities",
        "max_steps",
        "labels",
    ],
    "template.get": ["name", "include_events"],
    "template.list": ["limit", "offset", "label_filter"],
    "export_bundle": ["decision_id", "include_template_snapshot", "include_router_link", "render"],
    "import_bundle": ["bundle", "verify_digest", "conflict_mode", "replay_after_import"],
    "export_audit_package": [
        "decision_id",
        "embed_router_bundle",
        "router_bundle",
        "router_bundle_digest",
        "verify_router_bundle_digest",
        "render",
    ],
}

REQUIRED: dict[str, list[str]] = {
    "request": ["goal", "actor"],
    "approve": ["request_id", "actor"],
    "execute": ["request_id", "adapter_id", "actor"],
    "status": ["request_id"],
    "inspect": ["decision_id"],
    "template.create": ["name", "actor"],
    "template.get": ["name"],
    "template.list": [],
    "export_bundle": ["decision_id"],
    "import_bundle": ["bundle"],
    "export_audit_package": ["decision_id"],
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "request": {"mode": "dry_run", "plan": None, "template_name": None, "max_steps": None, "override_max_steps": None},
    "approve": {"comment": None, "expires_at": None},
    "execute": {"dry_run": None},
    "status": {"include_events": False},
    "inspect": {"render": True, "include_events": False, "include_compiled_router_request": True},
    "template.create": {"description": "", "min_approvals": 1, "allowed_modes": ["dry_run"], "max_steps": None},
    "template.get": {"include_events": False},
    "template.list": {"limit": 100, "offset": 0, "label_filter": None},
    "export_bundle": {"include_template_snapshot": True, "include_router_link": True, "render": True},
    "import_bundle": {"verify_digest": True, "conflict_mode": "reject_on_conflict", "replay_after_import": True},
    "export_audit_package": {
        "embed_router_bundle": False,
        "router_bundle": None,
        "router_bundle_digest": None,
        "verify_router_bundle_digest": True,
        "render": True,
    },
}

NULLABLE: dict[str, set[str]] = {
    "request": {"plan", "template_name", "max_steps", "override_max_steps"},
    "approve": {"comment", "expires_at"},
    "execute": {"dry_run"},
    "template.create": {"max_steps"},
    "template.list": {"label_filter"},
    "export_audit_package": {"router_bundle", "router_bundle_digest"},
}


def schema(tool: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / f"nexus-control.{tool}.v0.1.json").read_text(encoding="utf-8"))


def is_valid(tool: str, arguments: object) -> bool:
    validator: Any = jsonschema.Draft202012Validator(schema(tool))
    return validator.is_valid(arguments)


def smallest(tool: str) -> dict[str, Any]:
    """The required arguments alone."""
    values = {"actor": ACTOR, "bundle": {}}
    return {name: values.get(name, "x") for name in REQUIRED[tool]}


def objects(node: object) -> Iterator[dict[str, Any]]:
    """Every schema of an object inside a schema, itself included."""
    if isinstance(node, dict):
        if "properties" in node:
            yield cast("dict[str, Any]", node)
        for member in cast("dict[str, object]", node).values():
            yield from objects(member)


def test_there_is_one_schema_per_tool() -> None:
    assert sorted(path.name for path in SCHEMAS.glob("nexus-control.*")) == sorted(f"nexus-control.{tool}.v0.1.json" for tool in METHODS)


@pytest.mark.parametrize("tool", METHODS)
def test_a_schema_is_valid_under_its_metaschema(tool: str) -> None:
    found = schema(tool)
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    check: Any = jsonschema.Draft202012Validator
    check.check_schema(found)


@pytest.mark.parametrize("tool", METHODS)
def test_a_schema_says_what_it_is(tool: str) -> None:
    found = schema(tool)
    assert found["$id"] == f"urn:nexus-control:{tool}:v0.1"
    assert found["title"] == f"nexus-attest.{tool}"
    assert found["type"] == "object"
    assert found["description"].endswith(".")


@pytest.mark.parametrize("tool", METHODS)
def test_every_property_is_described_and_no_other_is_allowed(tool: str) -> None:
    for found in objects(schema(tool)):
        assert found["additionalProperties"] is False
        for name, member in found["properties"].items():
            assert len(member["description"]) > 10, name
            assert member["description"].endswith((".", ")")), name


@pytest.mark.parametrize("tool", METHODS)
def test_properties_required_ones_and_defaults_are_the_published_ones(tool: str) -> None:
    found = schema(tool)
    assert list(found["properties"]) == PROPERTIES[tool]
    assert found["required"] == REQUIRED[tool]
    assert {name: member["default"] for name, member in found["properties"].items() if "default" in member} == DEFAULTS[tool]
    nullable = {name for name, member in found["properties"].items() if "null" in member["type"]}
    assert nullable == NULLABLE.get(tool, set())


@pytest.mark.parametrize("tool", METHODS)
def test_every_example_and_default_is_valid(tool: str) -> None:
    found = schema(tool)
    assert found["examples"]
    for example in found["examples"]:
        assert is_valid(tool, example), example
    assert is_valid(tool, {**smallest(tool), **DEFAULTS[tool]})


@pytest.mark.parametrize("tool", METHODS)
def test_the_required_arguments_suffice_and_each_is_needed(tool: str) -> None:
    assert is_valid(tool, smallest(tool))
    for name in REQUIRED[tool]:
        assert not is_valid(tool, {key: value for key, value in smallest(tool).items() if key != name})


@pytest.mark.parametrize("tool", METHODS)
def test_an_argument_that_the_tool_does_not_know_is_refused(tool: str) -> None:
    assert not is_valid(tool, {**smallest(tool), "router": {}})
    assert not is_valid(tool, [])


@pytest.mark.parametrize("tool", METHODS)
def test_the_method_takes_every_property_with_the_same_default(tool: str) -> None:
    parameters = inspect.signature(getattr(NexusControlTools, METHODS[tool])).parameters
    for name in PROPERTIES[tool]:
        default = parameters[name].default
        if name in REQUIRED[tool]:
            assert default is inspect.Parameter.empty, name
        elif (tool, name) == ("template.create", "allowed_modes"):
            assert default is None  # stands for ["dry_run"], as the next test shows
        else:
            expected = DEFAULTS[tool].get(name)
            assert (type(default), default) == (type(expected), expected), name


def test_a_template_without_modes_gets_the_default_of_the_schema() -> None:
    tools = NexusControlTools()
    assert tools.template_create("t", ACTOR).success
    assert tools.template_get("t").data["template"]["allowed_modes"] == ["dry_run"]
    tools.store.close()


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("request", {"goal": ""}),
        ("request", {"goal": None}),
        ("request", {"mode": "simulate"}),
        ("request", {"min_approvals": 0}),
        ("request", {"min_approvals": "2"}),
        ("request", {"min_approvals": 1.5}),
        ("request", {"min_approvals": True}),
        ("request", {"allowed_modes": []}),
        ("request", {"allowed_modes": ["apply", "apply"]}),
        ("request", {"allowed_modes": ["simulate"]}),
        ("request", {"allowed_modes": "apply"}),
        ("request", {"require_adapter_capabilities": "timeout"}),
        ("request", {"require_adapter_capabilities": [1]}),
        ("request", {"max_steps": 0}),
        ("request", {"labels": ["a", None]}),
        ("request", {"override_min_approvals": 0}),
        ("request", {"override_allowed_modes": []}),
        ("request", {"override_max_steps": 0}),
        ("request", {"override_labels": "a"}),
        ("request", {"override_require_adapter_capabilities": {}}),
        ("approve", {"expires_at": 5}),
        ("approve", {"comment": []}),
        ("execute", {"dry_run": "yes"}),
        ("execute", {"adapter_id": 1}),
        ("status", {"include_events": 1}),
        ("inspect", {"render": None}),
        ("template.create", {"name": ""}),
        ("template.create", {"name": "-a"}),
        ("template.create", {"name": "a b"}),
        ("template.create", {"allowed_modes": []}),
        ("template.list", {"limit": 0}),
        ("template.list", {"limit": 1001}),
        ("template.list", {"offset": -1}),
        ("import_bundle", {"bundle": []}),
        ("import_bundle", {"bundle": None}),
        ("import_bundle", {"conflict_mode": "merge"}),
        ("export_audit_package", {"router_bundle": "{}"}),
        ("export_audit_package", {"router_bundle_digest": 5}),
    ],
)
def test_a_value_outside_the_published_range_is_refused(tool: str, arguments: dict[str, Any]) -> None:
    assert not is_valid(tool, {**smallest(tool), **arguments})


@pytest.mark.parametrize("tool", [tool for tool in METHODS if "actor" in REQUIRED[tool]])
@pytest.mark.parametrize(
    "actor",
    ["alice", None, {}, {"type": "human"}, {"id": "a"}, {"type": "robot", "id": "a"}, {"type": "human", "id": ""}, {**ACTOR, "role": "x"}],
)
def test_an_actor_has_a_known_type_an_id_and_nothing_else(tool: str, actor: object) -> None:
    assert not is_valid(tool, {**smallest(tool), "actor": actor})


def test_the_examples_can_be_played_against_the_tools() -> None:
    tools = NexusControlTools()
    for name in ("template.create", "request", "template.get", "template.list", "import_bundle"):
        for example in schema(name)["examples"]:
            result = getattr(tools, METHODS[name])(**example)
            assert result.success, (name, result.error)
    tools.store.close()
