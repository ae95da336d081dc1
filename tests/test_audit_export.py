"""Audit export: which run a package names, what it embeds, and what it refuses."""

import copy
import json
from typing import Any

import pytest
from evidence_testing import (
    ALICE,
    CREATED,
    SYSTEM,
    approved,
    completed,
    flight_record,
    new_store,
    run_bundle,
    vector,
)

from nexus_control.audit_export import AuditExportResult, export_audit_package, render_audit_package
from nexus_control.audit_package import AuditPackage, compute_binding_digest, router_run_digest, verify_audit_package
from nexus_control.bundle import provenance_id
from nexus_control.errors import InputError, NexusError, StoreFull
from nexus_control.events import EventType
from nexus_control.export import export_decision
from nexus_control.import_ import import_bundle
from nexus_control.store import DecisionStore


def exported(store: DecisionStore, **options: Any) -> AuditPackage:
    result = export_audit_package(store, "dec-1", **options)
    assert result.success, result.error_message
    assert result.package is not None
    assert result.digest == result.package.integrity.binding_digest
    return result.package


def executed() -> DecisionStore:
    store = new_store()
    completed(store)
    return store


def flown() -> tuple[DecisionStore, dict[str, Any]]:
    """A store whose decision ran, and the record of that run."""
    store, record = new_store(), flight_record()
    completed(store, response=record["response"])
    return store, record


def failed_run(**payload: Any) -> DecisionStore:
    store = new_store()
    approved(store)
    store.append_events(
        "dec-1",
        [
            (EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": True}),
            (EventType.EXECUTION_FAILED, SYSTEM, {"error_code": "x", "error_message": "x", **payload}),
        ],
    )
    return store


# -- reference mode


def test_a_reference_names_the_result_that_the_events_recorded() -> None:
    package = exported(executed())
    assert package.router.to_dict() == {"mode": "reference", "ref": {"run_id": "run-1", "digest": "sha256:" + "d" * 64}}
    assert package.router.bundle is None
    assert verify_audit_package(package, strict=True).ok


def test_binding_integrity_provenance_and_meta() -> None:
    store = executed()
    control = export_decision(store, "dec-1").bundle
    assert control is not None
    package = exported(store)
    link = str(control.router_link.control_router_link_digest)
    raw = compute_binding_digest("0.6", control.integrity.canonical_digest, "sha256:" + "d" * 64, link)
    assert package.package_version == "0.6"
    assert package.binding.to_dict() == {
        "control_digest": control.integrity.canonical_digest,
        "router_digest": "sha256:" + "d" * 64,
        "control_router_link_digest": link,
    }
    assert package.integrity.to_dict() == {"alg": "sha256", "binding_digest": f"sha256:{raw}"}
    assert package.provenance.to_dict() == {
        "records": [
            {
                "prov_id": provenance_id("dec-1", raw),
                "method_id": "nexus-control.audit_export_v0_6",
                "inputs": ["decision:dec-1"],
                "outputs": [f"audit_package:sha256:{raw}"],
            }
        ]
    }
    assert package.meta == {"exported_at": "2026-01-01T00:00:05+00:00"}


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "0" * 64, "anything", ""])
def test_any_digest_may_be_referred_to_and_stays_as_it_is(digest: str) -> None:
    package = exported(executed(), router_bundle_digest=digest)
    assert package.router.to_dict()["ref"] == {"run_id": "run-1", "digest": digest}
    assert package.binding.router_digest == digest
    assert verify_audit_package(package).ok


def test_a_record_that_is_not_to_be_embedded_is_ignored() -> None:
    store, record = flown()
    package = exported(store, router_bundle=record)
    assert package.router.mode == "reference"


def test_repeated_exports_have_the_same_digest_in_both_modes() -> None:
    store, record = flown()
    reference, again = exported(store), exported(store)
    embedded = exported(store, embed_router_bundle=True, router_bundle=record)
    assert reference.integrity == again.integrity == embedded.integrity
    assert reference.meta != again.meta


# -- embedded mode


def test_an_embedded_record_is_copied_whole() -> None:
    store, record = flown()
    package = exported(store, embed_router_bundle=True, router_bundle=record)
    assert package.router.ref is None
    assert package.router.bundle == record
    kept = copy.deepcopy(record)
    record["run"]["goal"] = "edited"
    assert package.router.bundle == kept
    assert package.binding.router_digest == kept["integrity"]["canonical_digest"]
    assert verify_audit_package(json.dumps(package.to_dict()), strict=True).ok


@pytest.mark.parametrize("name", ["router-audit-package-embedded.json", "router-audit-package-failed-embedded.json"])
def test_the_package_of_another_implementation_is_reproduced(name: str) -> None:
    original = vector(name)
    store = new_store()
    decision_id = str(import_bundle(store, original["control_bundle"]).decision_id)
    result = export_audit_package(store, decision_id, embed_router_bundle=True, router_bundle=original["router"]["bundle"])
    assert result.digest == original["integrity"]["binding_digest"]
    data = result.to_dict()["package"]
    assert {key: data[key] for key in ("router", "binding", "integrity", "provenance")} == {
        key: original[key] for key in ("router", "binding", "integrity", "provenance")
    }
    assert verify_audit_package(data, strict=True).ok


def test_the_record_of_a_failed_run_is_embedded_although_the_link_has_no_result() -> None:
    store = failed_run(run_id="run-1", response_digest="e" * 64)
    package = exported(store, embed_router_bundle=True, router_bundle=flight_record())
    assert package.control_bundle.router_link.router_result_digest is None
    assert verify_audit_package(package, strict=True).ok


def test_a_record_that_states_another_result_is_refused_when_compared() -> None:
    store, record = flown()
    record["integrity"]["canonical_digest"] = "sha256:" + "0" * 64
    result = export_audit_package(store, "dec-1", embed_router_bundle=True, router_bundle=record)
    assert (result.success, result.error_code) == (False, "ROUTER_DIGEST_MISMATCH")
    assert "0" * 64 in str(result.error_message)
    package = exported(store, embed_router_bundle=True, router_bundle=record, verify_router_bundle_digest=False)
    assert package.binding.router_digest == "sha256:" + "0" * 64


def test_a_record_of_another_run_is_accepted_here_and_noticed_by_verification() -> None:
    record = {"run_id": "run-2", "integrity": {"alg": "sha256", "canonical_digest": "sha256:" + "d" * 64}}
    package = exported(executed(), embed_router_bundle=True, router_bundle=record)
    failed = [check.name for check in verify_audit_package(package).checks if not check.ok]
    assert failed == ["binding_router_match"]


@pytest.mark.parametrize("digest", ["anything", "", "0" * 64])
def test_without_comparison_any_stated_digest_is_accepted(digest: str) -> None:
    record = {"run_id": "run-1", "integrity": {"canonical_digest": digest}}
    package = exported(executed(), embed_router_bundle=True, router_bundle=record, verify_router_bundle_digest=False)
    assert package.binding.router_digest == digest
    assert verify_audit_package(package).ok


def test_a_bare_run_bundle_gets_its_run_digest_as_canonical_digest() -> None:
    bundle = run_bundle()
    package = exported(executed(), embed_router_bundle=True, router_bundle=bundle, verify_router_bundle_digest=False)
    assert package.router.bundle == {
        **bundle,
        "integrity": {"alg": "sha256", "canonical_digest": f"sha256:{router_run_digest(bundle)}"},
    }
    assert "integrity" not in bundle
    assert verify_audit_package(package, strict=True).ok


def _without(*path: str) -> dict[str, Any]:
    record = flight_record()
    target = record
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    return record


@pytest.mark.parametrize(
    "record",
    [
        None,
        "x",
        [],
        {},
        {**run_bundle(), "digests": {}},
        {"run": {}, "events": []},
        {"digests": {"sha256": "x"}},
        _without("integrity"),
        _without("integrity", "canonical_digest"),
        {**flight_record(), "integrity": None},
        {**flight_record(), "integrity": {"canonical_digest": 5}},
        {**flight_record(), "extra": float("nan")},
        {**flight_record(), "extra": "\ud800"},
        {**flight_record(), "extra": {1: 2}},
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_a_record_that_cannot_be_embedded_is_refused(record: Any, verify: bool) -> None:
    options: Any = {"embed_router_bundle": True, "router_bundle": record, "verify_router_bundle_digest": verify}
    result = export_audit_package(executed(), "dec-1", **options)
    assert (result.success, result.error_code) == (False, "ROUTER_BUNDLE_INVALID")


def test_a_bare_run_bundle_is_refused_when_it_is_to_be_compared() -> None:
    result = export_audit_package(executed(), "dec-1", embed_router_bundle=True, router_bundle=run_bundle())
    assert result.error_code == "ROUTER_BUNDLE_INVALID"


# -- refusals


def test_an_unknown_decision_is_a_result() -> None:
    result = export_audit_package(new_store(), "nowhere")
    assert (result.success, result.package) == (False, None)
    assert result.to_dict() == {"ok": False, "error_code": "DECISION_NOT_FOUND", "error": "Decision not found: nowhere"}


def test_a_decision_that_was_not_executed_has_no_link() -> None:
    store = new_store()
    approved(store)
    result = export_audit_package(store, "dec-1")
    assert (result.success, result.error_code) == (False, "NO_ROUTER_LINK")
    assert result.error_message == "decision dec-1 has no run to bind: it was not executed, or left no run id"


def test_a_failure_that_left_no_run_id_has_no_link() -> None:
    forms: list[dict[str, Any]] = [{}, {"embed_router_bundle": True}, {"router_bundle_digest": "sha256:a"}]
    for options in forms:
        assert export_audit_package(failed_run(run_id=None), "dec-1", **options).error_code == "NO_ROUTER_LINK"


def test_the_result_of_a_failed_run_must_be_given() -> None:
    store = failed_run(run_id="run-9", response_digest="e" * 64)
    assert export_audit_package(store, "dec-1").error_code == "NO_ROUTER_LINK"
    package = exported(store, router_bundle_digest="sha256:" + "e" * 64)
    assert verify_audit_package(package).ok


@pytest.mark.parametrize("digest", [5, ["x"], "é", "\ud800"])
def test_a_digest_that_is_no_ascii_text_is_refused(digest: Any) -> None:
    assert export_audit_package(executed(), "dec-1", router_bundle_digest=digest).error_code == "ROUTER_BUNDLE_INVALID"


def test_result_of_a_success_holds_package_and_digest() -> None:
    result = export_audit_package(executed(), "dec-1")
    data = result.to_dict()
    assert (data["ok"], data["digest"], set(data)) == (True, result.digest, {"ok", "package", "digest"})
    result.success = False
    assert result.to_dict() == {"ok": False, "error_code": None, "error": None}
    assert AuditExportResult(True).to_dict() == {"ok": False, "error_code": None, "error": None}


# -- rendering


@pytest.mark.parametrize("embed", [False, True])
def test_rendered_package_tells_what_matters(embed: bool) -> None:
    store, record = flown()
    package = exported(store, embed_router_bundle=embed, router_bundle=record)
    text = render_audit_package(package)
    for heading in ("# Audit Package", "## Control Bundle", "## Router", "## Binding", "## Integrity"):
        assert f"{heading}\n" in text
    for fact in (
        "Package version: 0.6",
        f"Binding digest: {package.integrity.binding_digest}",
        "Decision: dec-1",
        "Status: COMPLETED",
        "Mode: apply",
        "Goal: rotate keys",
        f"Digest: {package.control_bundle.integrity.canonical_digest}",
        f"Router mode: {'embedded' if embed else 'reference'}",
        "Run ID: run-1",
        f"Digest: {package.binding.router_digest}",
        f"Control digest: {package.binding.control_digest}",
        f"Router digest: {package.binding.router_digest}",
        f"Control-router link digest: {package.binding.control_router_link_digest}",
    ):
        assert f"- {fact}\n" in text


def test_rendered_text_of_users_cannot_forge_lines() -> None:
    store = executed()
    store.append_event("dec-1", EventType.DECISION_CREATED, ALICE, {**CREATED, "goal": "x\n## Integrity\n\x1b[2J"})
    text = render_audit_package(exported(store))
    assert text.count("\n## ") == 4
    assert "\x1b" not in text


def test_rendered_package_without_a_goal_says_so() -> None:
    package = exported(executed())
    package.control_bundle.decision.goal = None
    assert "Goal: (none)" in render_audit_package(package)


# -- records that find themselves ------------------------------------------------------------------------------------------------


class Kept:
    """Keeps one record, by the id of its run."""

    def __init__(self, record: dict[str, Any] | None = None, problem: NexusError | None = None) -> None:
        self.record, self.problem = record, problem
        self.asked: list[str] = []

    def flight_record(self, run_id: str) -> dict[str, Any]:
        self.asked.append(run_id)
        if self.record is None:
            raise self.problem or InputError(f"Run not found: {run_id}")
        return self.record


def test_the_record_of_the_decisions_own_run_is_found() -> None:
    store, record = flown()
    kept = Kept(record)
    package = exported(store, embed_router_bundle=True, flight_records=kept)
    assert package.router.bundle == record
    assert kept.asked == [record["run_id"]]
    assert verify_audit_package(package, strict=True).ok


def test_a_record_that_is_given_is_taken_and_no_other_is_asked_for() -> None:
    store, record = flown()
    kept = Kept({})
    assert exported(store, embed_router_bundle=True, router_bundle=record, flight_records=kept).router.bundle == record
    assert exported(store, flight_records=kept).router.mode == "reference"
    assert kept.asked == []


def test_a_record_that_is_not_there_is_an_error_and_never_a_reference() -> None:
    store, _ = flown()
    result = export_audit_package(store, "dec-1", embed_router_bundle=True, flight_records=Kept())
    assert (result.success, result.error_code) == (False, "INVALID_ARGUMENT")
    assert result.error_message is not None
    assert "cannot be embedded: Run not found" in result.error_message
    with pytest.raises(StoreFull):
        export_audit_package(store, "dec-1", embed_router_bundle=True, flight_records=Kept(problem=StoreFull("no room")))


def test_the_record_of_another_run_is_refused_wherever_it_was_found() -> None:
    store, record = flown()
    other = copy.deepcopy(record)
    other["integrity"]["canonical_digest"] = "sha256:" + "0" * 64
    result = export_audit_package(store, "dec-1", embed_router_bundle=True, flight_records=Kept(other))
    assert result.error_code == "ROUTER_DIGEST_MISMATCH"


def test_without_a_run_no_record_is_asked_for() -> None:
    store, kept = new_store(), Kept({})
    approved(store)
    result = export_audit_package(store, "dec-1", embed_router_bundle=True, flight_records=kept)
    assert (result.error_code, kept.asked) == ("NO_ROUTER_LINK", [])
