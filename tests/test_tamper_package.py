"""The tamper matrix of audit packages: each member changed, each member removed, and which checks notice.

Every leaf of a package in either mode is changed, and every member removed, one at a time. The tables say which checks fail. Nothing but
what is listed under OUTSIDE and SAME may pass: no digest covers the former, and removing the latter leaves the same document,
because what was removed is the default, or follows from the rest. What is added to the record of a run is judged by the eleven checks,
where it is of our own router (test_router_audit_package.py).
"""

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from evidence_testing import (
    ALICE,
    FROM_TEMPLATE,
    POLICY,
    completed,
    embedded_package,
    flight_record,
    new_store,
    reference_package,
    with_member,
)

from nexus_control.audit_export import export_audit_package
from nexus_control.audit_package import verify_audit_package
from nexus_control.canonical_json import canonical_json
from nexus_control.documents import verify_document
from nexus_control.events import EventType
from nexus_control.export import export_decision

Path = tuple[str | int, ...]

BINDING = "binding_digest"
CONTROL = "control_bundle_digest"
CONTROL_MATCH = "binding_control_match"
ROUTER_MATCH = "binding_router_match"
LINK_MATCH = "binding_link_match"
ROUTER = "router_digest"
SCHEMA = "schema"

OUTSIDE: list[str] = []
SAME: list[str] = []

# `#` stands for a list index, `**` for everything below, `{a,b}` for alternatives.
CHANGED: dict[str, list[str]] = {
    "package_version": [BINDING],
    "control_bundle.bundle_version": [CONTROL],
    "control_bundle.decision.decision_id": [CONTROL, LINK_MATCH],
    "control_bundle.decision.{goal,mode,created_at,status}": [CONTROL],
    "control_bundle.events.#.{event_id,decision_id,seq,type,ts,digest}": [CONTROL],
    "control_bundle.events.#.actor.{type,id}": [CONTROL],
    "control_bundle.events.#.payload.**": [CONTROL],
    "control_bundle.template_snapshot.{present,name,digest}": [CONTROL],
    "control_bundle.template_snapshot.{snapshot,overrides}.**": [CONTROL],
    "control_bundle.router_link.run_id": [CONTROL, ROUTER_MATCH, LINK_MATCH],
    "control_bundle.router_link.adapter_id": [CONTROL],
    "control_bundle.router_link.{router_request_digest,router_result_digest}": [CONTROL, LINK_MATCH],
    "control_bundle.router_link.control_router_link_digest": [CONTROL, LINK_MATCH],
    "control_bundle.integrity.alg": [CONTROL],
    "control_bundle.integrity.canonical_digest": [CONTROL, CONTROL_MATCH],
    "control_bundle.{policy,approvals}.**": [CONTROL],
    "control_bundle.{provenance,meta}.**": OUTSIDE,
    "router.mode": [SCHEMA],
    "router.ref.{run_id,digest}": [ROUTER_MATCH],
    "router.bundle.{bundle_version,exported_at}": OUTSIDE,
    "router.bundle.run_id": [ROUTER_MATCH],
    "router.bundle.{run,response}.run_id": [ROUTER_MATCH, ROUTER],
    "router.bundle.run.{mode,goal,status,created_at}": [ROUTER],
    "router.bundle.events.#.**": [ROUTER],
    "router.bundle.digests.sha256": [ROUTER],
    "router.bundle.response.{steps_executed,status,run_bundle_digest}": [ROUTER],
    "router.bundle.integrity.alg": [ROUTER],
    "router.bundle.integrity.canonical_digest": [ROUTER_MATCH, ROUTER],
    "binding.control_digest": [BINDING, CONTROL_MATCH],
    "binding.router_digest": [BINDING, ROUTER_MATCH],
    "binding.control_router_link_digest": [BINDING, LINK_MATCH],
    "integrity.{alg,binding_digest}": [BINDING],
    "{provenance,meta}.**": OUTSIDE,
}

REMOVED: dict[str, list[str]] = {
    "package_version": SAME,
    "control_bundle": [SCHEMA],
    "control_bundle.bundle_version": SAME,
    "control_bundle.decision": [SCHEMA],
    "control_bundle.decision.{decision_id,created_at,status}": [SCHEMA],
    "control_bundle.decision.{goal,mode}": [CONTROL],
    "control_bundle.events": [CONTROL],
    "control_bundle.events.#": [CONTROL],
    "control_bundle.events.#.{event_id,decision_id,seq,type,ts}": [SCHEMA],
    "control_bundle.events.#.{payload,actor,digest}": [CONTROL],
    "control_bundle.events.#.{payload,actor}.**": [CONTROL],
    "control_bundle.template_snapshot": [CONTROL],
    "control_bundle.template_snapshot.**": [CONTROL],
    "control_bundle.router_link": [CONTROL, ROUTER_MATCH, LINK_MATCH],
    "control_bundle.router_link.run_id": [CONTROL, ROUTER_MATCH, LINK_MATCH],
    "control_bundle.router_link.adapter_id": [CONTROL],
    "control_bundle.router_link.{router_request_digest,router_result_digest}": [CONTROL, LINK_MATCH],
    "control_bundle.router_link.control_router_link_digest": [CONTROL, LINK_MATCH],
    "control_bundle.integrity": [SCHEMA],
    "control_bundle.integrity.alg": SAME,
    "control_bundle.integrity.canonical_digest": [SCHEMA],
    "control_bundle.{policy,approvals}": SAME,
    "control_bundle.{policy,approvals}.**": [CONTROL],
    "control_bundle.{provenance,meta}": OUTSIDE,
    "control_bundle.meta.exported_at": OUTSIDE,
    "control_bundle.provenance.records": OUTSIDE,
    "control_bundle.provenance.records.#": OUTSIDE,
    "control_bundle.provenance.records.#.{prov_id,method_id}": [SCHEMA],
    "control_bundle.provenance.records.#.{inputs,outputs}": OUTSIDE,
    "control_bundle.provenance.records.#.{inputs,outputs}.#": OUTSIDE,
    "router": [SCHEMA],
    "router.mode": [SCHEMA],
    "router.ref": [ROUTER_MATCH],
    "router.ref.{run_id,digest}": [SCHEMA],
    "router.bundle": [ROUTER_MATCH],
    "router.bundle.{bundle_version,exported_at}": OUTSIDE,
    # A copy: the run row and the response, both under digests, name the run as well.
    "router.bundle.run_id": OUTSIDE,
    "router.bundle.{run,events,digests,response}": [ROUTER],
    "router.bundle.{run,digests,response}.**": [ROUTER],
    "router.bundle.events.#": [ROUTER],
    "router.bundle.events.#.**": [ROUTER],
    "router.bundle.integrity": [ROUTER_MATCH, ROUTER],
    "router.bundle.integrity.alg": SAME,
    "router.bundle.integrity.canonical_digest": [ROUTER_MATCH, ROUTER],
    "binding": [SCHEMA],
    "binding.{control_digest,router_digest,control_router_link_digest}": [SCHEMA],
    "integrity": [SCHEMA],
    "integrity.alg": SAME,
    "integrity.binding_digest": [SCHEMA],
    "{provenance,meta}": OUTSIDE,
    "meta.exported_at": OUTSIDE,
    "provenance.records": OUTSIDE,
    "provenance.records.#": OUTSIDE,
    "provenance.records.#.{prov_id,method_id}": [SCHEMA],
    "provenance.records.#.{inputs,outputs}": OUTSIDE,
    "provenance.records.#.{inputs,outputs}.#": OUTSIDE,
}


def _packages() -> dict[str, dict[str, Any]]:
    record = flight_record()
    store = new_store()
    completed(store, policy=FROM_TEMPLATE, response=record["response"])
    reference = export_audit_package(store, "dec-1")
    embedded = export_audit_package(store, "dec-1", embed_router_bundle=True, router_bundle=record)
    return {"reference": reference.to_dict()["package"], "embedded": embedded.to_dict()["package"]}


PACKAGES = _packages()


def _members(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every member of every object and list below `value`, with its path."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(cast("dict[str | int, object]", value).items())
    elif isinstance(value, list):
        items = list(enumerate(cast("list[object]", value)))
    for key, member in items:
        yield (*path, key), member
        yield from _members(member, (*path, key))


def _leaves(document: dict[str, Any]) -> list[tuple[Path, object]]:
    return [(path, value) for path, value in _members(document) if not isinstance(value, (dict, list)) or not value]


def _changed(value: object) -> object:
    match value:
        case bool():
            return not value
        case str():
            return value + "x"
        case int() | float():
            return value + 1
        case list():
            return ["x"]
        case dict():
            return {"x": 1}
        case _:
            return "x"


def _pattern(text: str) -> re.Pattern[str]:
    tokens = {"#": r"\d+", "**": ".+", "{": "(?:", "}": ")", ",": "|", ".": r"\."}
    parts: list[str] = re.findall(r"\*\*|\w+|.", text)
    return re.compile("".join(tokens.get(part, part) for part in parts))


def _row(table: dict[str, list[str]], path: Path) -> str:
    """The one row of a table that a path belongs to."""
    name = ".".join(map(str, path))
    rows = [text for text in table if _pattern(text).fullmatch(name)]
    assert len(rows) == 1, f"{name}: {rows}"
    return rows[0]


def _failed(document: dict[str, Any]) -> list[str]:
    result = verify_audit_package(document)
    failed = [check.name for check in result.checks if not check.ok]
    assert result.ok is not bool(failed)
    return failed


@pytest.mark.parametrize("mode", PACKAGES)
def test_the_untouched_package_passes(mode: str) -> None:
    assert _failed(PACKAGES[mode]) == []


@pytest.mark.parametrize("mode", PACKAGES)
def test_changing_any_leaf_fails_exactly_the_checks_of_the_table(mode: str) -> None:
    package = PACKAGES[mode]
    for path, value in _leaves(package):
        row = _row(CHANGED, path)
        assert _failed(with_member(package, path, _changed(value))) == CHANGED[row], path


@pytest.mark.parametrize("mode", PACKAGES)
def test_removing_any_member_fails_exactly_the_checks_of_the_table(mode: str) -> None:
    package = PACKAGES[mode]
    for path, _ in _members(package):
        row = _row(REMOVED, path)
        assert _failed(with_member(package, path)) == REMOVED[row], path


PLAIN = reference_package()
"""From no template, so that there are absent parts as well."""

NOTHING: list[tuple[Path, object]] = [(("control_bundle", "template_snapshot"), {})]
"""What may stand for an absent part, beside leaving it out."""

ADDED: dict[str, list[str]] = {
    "": [BINDING],
    "{binding,integrity,router}": [BINDING],
    "router.ref": [BINDING],
    "control_bundle": [CONTROL],
    "control_bundle.{decision,router_link,integrity,template_snapshot}": [CONTROL],
    "control_bundle.template_snapshot.{snapshot,overrides}": [CONTROL],
    "control_bundle.events.#": [CONTROL],
    "control_bundle.events.#.{actor,payload}": [CONTROL],
    "control_bundle.events.#.payload.**": [CONTROL],
    "control_bundle.policy": [CONTROL],
    "control_bundle.approvals.#": [CONTROL],
    "control_bundle.approvals.#.actor": [CONTROL],
    "control_bundle.{provenance,meta}": OUTSIDE,
    "control_bundle.provenance.records.#": OUTSIDE,
    "{provenance,meta}": OUTSIDE,
    "provenance.records.#": OUTSIDE,
    # The record is its router's format, and nexus-router lets records have more members. `shape` of the eleven checks refuses them
    # where our own router made the record.
    "router.bundle": OUTSIDE,
    "router.bundle.{integrity,digests}": OUTSIDE,
    "router.bundle.{run,response}": [ROUTER],
    "router.bundle.events.#": [ROUTER],
    "router.bundle.events.#.payload": [ROUTER],
}


def _objects(package: dict[str, Any]) -> list[Path]:
    return [(), *(path for path, value in _members(package) if isinstance(value, dict))]


@pytest.mark.parametrize("mode", PACKAGES)
@pytest.mark.parametrize("member", ["x", "note", "critical", "Policy"])
def test_adding_a_member_to_any_object_fails_exactly_the_checks_of_the_table(mode: str, member: str) -> None:
    package = PACKAGES[mode]
    for path in _objects(package):
        expected = ADDED[_row(ADDED, path) if path else ""]
        assert _failed(with_member(package, (*path, member), "approved by the board")) == expected, path


def test_every_row_of_the_table_of_additions_stands_for_something() -> None:
    rows = {_row(ADDED, path) if path else "" for package in PACKAGES.values() for path in _objects(package)}
    assert rows == set(ADDED)


@pytest.mark.parametrize("mode", [*PACKAGES, "plain"])
@pytest.mark.parametrize(
    "nonsense", [None, True, False, 0, -1, 10**30, 0.5, "", "x", "\ud800", [], {}, [[]], {"a": None}, {"present": 0}, {"present": "yes"}]
)
def test_nonsense_of_any_type_in_place_of_any_member_is_noticed(mode: str, nonsense: object) -> None:
    package = PACKAGES.get(mode, PLAIN)
    for path, value in _members(package):
        outside = any(part in ("meta", "provenance") for part in path) or path[2:] in [("bundle_version",), ("exported_at",)]
        if not outside and not _same(value, nonsense) and (path, nonsense) not in NOTHING:
            assert _failed(with_member(package, path, nonsense)), path


def _same(value: object, nonsense: object) -> bool:
    try:
        return canonical_json(value) == canonical_json(nonsense)
    except ValueError:
        return False


@pytest.mark.parametrize("snapshot", ["x", None, [], 1, {"present": "yes"}, {"present": False, "name": "prod"}, {"name": "prod"}])
def test_a_snapshot_that_is_none_is_not_read_as_absent(snapshot: object) -> None:
    assert _failed(with_member(PLAIN, ("control_bundle", "template_snapshot"), snapshot)) == [CONTROL]
    report = verify_document(with_member(PLAIN["control_bundle"], ("template_snapshot",), snapshot))
    assert [check.name for check in report.result.checks if not check.ok] == ["bundle_digest"]


@pytest.mark.parametrize("path", [(), ("decision",), ("router_link",), ("integrity",), ("events", 0)])
def test_nothing_can_be_added_to_a_bundle(path: Path) -> None:
    report = verify_document(with_member(PLAIN["control_bundle"], (*path, "note"), "approved by the board"))
    assert [check.name for check in report.result.checks if not check.ok] == ["bundle_digest"]


@pytest.mark.parametrize("mode", PACKAGES)
def test_two_members_of_a_list_cannot_be_swapped(mode: str) -> None:
    package = PACKAGES[mode]
    for path, value in _members(package):
        if isinstance(value, list) and len(cast("list[object]", value)) > 1:
            first, second, *rest = cast("list[object]", value)
            assert _failed(with_member(package, path, [second, first, *rest])), path


def test_every_row_of_the_tables_stands_for_something() -> None:
    changed = {_row(CHANGED, path) for package in PACKAGES.values() for path, _ in _leaves(package)}
    removed = {_row(REMOVED, path) for package in PACKAGES.values() for path, _ in _members(package)}
    assert changed == set(CHANGED)
    assert removed == set(REMOVED)


@pytest.mark.parametrize("make", [reference_package, embedded_package])
def test_without_a_template_an_absent_snapshot_may_be_left_out(make: Any) -> None:
    package = make()
    assert _failed(with_member(package, ("control_bundle", "template_snapshot"))) == []
    assert _failed(with_member(package, ("control_bundle", "template_snapshot"), {"present": True})) == [CONTROL]


def test_a_member_that_said_nothing_but_its_default_may_be_left_out() -> None:
    store = new_store()
    policy: dict[str, Any] = {**POLICY, "require_adapter_capabilities": [], "max_steps": None}
    store.append_events("dec-1", [(EventType.DECISION_CREATED, ALICE, {}), (EventType.POLICY_ATTACHED, ALICE, policy)], create=True)
    bundle = export_decision(store, "dec-1").to_dict()["bundle"]
    assert (bundle["decision"]["goal"], bundle["decision"]["mode"], bundle["router_link"]) == (None, "dry_run", {})
    paths: list[Path] = [("decision", "goal"), ("decision", "mode"), ("router_link",), ("template_snapshot",), ("events", 0, "payload")]
    for path in paths:
        assert verify_document(with_member(bundle, path)).result.ok, path
    # What a digest covers is not the same without its null, nor is an actor the same as none.
    for path in [("events", 1, "payload", "max_steps"), ("events", 0, "actor")]:
        assert not verify_document(with_member(bundle, path)).result.ok, path
