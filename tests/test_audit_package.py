"""Audit packages: shapes, the named checks one by one, and the rules for embedded records."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest
from evidence_testing import completed, edited, embedded_package, flight_record, new_store, reference_package, run_bundle, vector

from nexus_control.audit_export import export_audit_package
from nexus_control.audit_package import (
    AUDIT_ERROR_DECISION_NOT_FOUND,
    AUDIT_ERROR_LINK_DIGEST_MISMATCH,
    AUDIT_ERROR_NO_ROUTER_LINK,
    AUDIT_ERROR_ROUTER_BUNDLE_INVALID,
    AUDIT_ERROR_ROUTER_DIGEST_MISMATCH,
    PACKAGE_VERSION,
    VERIFY_BINDING_CONTROL_MATCH,
    VERIFY_BINDING_DIGEST,
    VERIFY_BINDING_LINK_MATCH,
    VERIFY_BINDING_ROUTER_MATCH,
    VERIFY_CONTROL_BUNDLE_DIGEST,
    VERIFY_ROUTER_DIGEST,
    AuditBinding,
    AuditIntegrity,
    AuditPackage,
    RouterRef,
    RouterSection,
    VerificationCheck,
    VerificationResult,
    compute_binding_digest,
    router_run_digest,
    verify_audit_package,
)
from nexus_control.canonical_json import canonical_json
from nexus_control.errors import MalformedBundle
from nexus_control.integrity import content_digest

SIX = ["binding_digest", "control_bundle_digest", "binding_control_match", "binding_router_match", "binding_link_match", "router_digest"]


def failed(result: VerificationResult) -> list[str]:
    return [check.name for check in result.checks if not check.ok]


def the(result: VerificationResult, name: str) -> VerificationCheck:
    return next(check for check in result.checks if check.name == name)


def package_with(record: dict[str, Any]) -> dict[str, Any]:
    """An exported package that embeds `record`, whatever it says."""
    store = new_store()
    completed(store)
    exported = export_audit_package(store, "dec-1", embed_router_bundle=True, router_bundle=record, verify_router_bundle_digest=False)
    return exported.to_dict()["package"]


def rebound(package: dict[str, Any]) -> dict[str, Any]:
    """The package with its binding digest recomputed, as somebody who edits it would."""
    digest = compute_binding_digest(package["package_version"], **package["binding"])
    return edited(package, "integrity.binding_digest", f"sha256:{digest}")


# -- constants and golden values


def test_versions_codes_and_check_names_are_the_published_ones() -> None:
    assert PACKAGE_VERSION == "0.6"
    assert AUDIT_ERROR_NO_ROUTER_LINK == "NO_ROUTER_LINK"
    assert AUDIT_ERROR_LINK_DIGEST_MISMATCH == "LINK_DIGEST_MISMATCH"
    assert AUDIT_ERROR_ROUTER_DIGEST_MISMATCH == "ROUTER_DIGEST_MISMATCH"
    assert AUDIT_ERROR_DECISION_NOT_FOUND == "DECISION_NOT_FOUND"
    assert AUDIT_ERROR_ROUTER_BUNDLE_INVALID == "ROUTER_BUNDLE_INVALID"
    assert [
        VERIFY_BINDING_DIGEST,
        VERIFY_CONTROL_BUNDLE_DIGEST,
        VERIFY_BINDING_CONTROL_MATCH,
        VERIFY_BINDING_ROUTER_MATCH,
        VERIFY_BINDING_LINK_MATCH,
        VERIFY_ROUTER_DIGEST,
    ] == SIX


def test_binding_digest_has_the_golden_value() -> None:
    digest = compute_binding_digest("0.6", "sha256:aaa", "sha256:bbb", "sha256:ccc")
    assert digest == "b9b80da7429447c915a40ddaaefe963edfe3951adcb5ae2631d243faa0d3d901"


# -- packages that verify


@pytest.mark.parametrize("make", [reference_package, embedded_package])
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_package_passes_in_every_form(make: Any, strict: bool) -> None:
    data = make()
    package = AuditPackage.from_dict(data)
    for form in (data, package, json.dumps(data), json.dumps(data).encode(), AuditPackage.from_dict(package.to_dict())):
        result = verify_audit_package(form, strict=strict)
        assert result.ok
        assert failed(result) == []


def test_reference_mode_has_five_checks_and_embedded_mode_six() -> None:
    assert [check.name for check in verify_audit_package(reference_package()).checks] == SIX[:5]
    assert [check.name for check in verify_audit_package(embedded_package()).checks] == SIX


def test_all_checks_has_always_six_and_says_which_does_not_apply() -> None:
    reference = verify_audit_package(reference_package())
    assert [check.name for check in reference.all_checks] == SIX
    assert reference.all_checks[5].ok
    assert "does not apply" in str(reference.all_checks[5].detail)
    embedded = verify_audit_package(embedded_package())
    assert embedded.all_checks == embedded.checks


def test_all_checks_of_an_unreadable_package_have_not_passed() -> None:
    result = verify_audit_package({})
    assert [check.name for check in result.all_checks] == SIX
    assert not any(check.ok for check in result.all_checks)


def test_a_package_of_a_decision_with_expiring_approvals_may_say_either_status() -> None:
    package = reference_package()
    control = package["control_bundle"]
    control["events"] = control["events"][:3]
    control["events"][2]["payload"]["expires_at"] = "2025-01-01T00:00:00+00:00"
    control["events"][2]["digest"] = content_digest({"event_type": "APPROVAL_GRANTED", "payload": control["events"][2]["payload"]})
    control["approvals"][0]["expires_at"] = "2025-01-01T00:00:00+00:00"
    for status, fits in (("APPROVED", True), ("PENDING_APPROVAL", True), ("DRAFT", False)):
        control["decision"]["status"] = status
        detail = the(verify_audit_package(package), "control_bundle_digest").detail
        assert ("decision.status" not in str(detail)) is fits


@pytest.mark.parametrize("name", ["router-audit-package-embedded.json", "router-audit-package-failed-embedded.json"])
@pytest.mark.parametrize("strict", [False, True])
def test_packages_of_another_implementation_pass(name: str, strict: bool) -> None:
    assert verify_audit_package(vector(name), strict=strict).ok


def test_a_forged_output_in_the_embedded_record_fails_only_the_router_digest_check() -> None:
    result = verify_audit_package(vector("router-audit-package-embedded-tampered.json"))
    assert failed(result) == ["router_digest"]
    check = the(result, "router_digest")
    assert check.expected == "e94d15a091d209f2e0151c4eae50dd7e5d57f55eaf7872c1ee7b71c028741008"
    assert check.actual == router_run_digest(vector("router-audit-package-embedded-tampered.json")["router"]["bundle"])


# -- each base rule: what fails, and what it says


def test_a_changed_binding_digest_fails_check_one_with_stored_and_recomputed() -> None:
    package = reference_package()
    stored = "sha256:" + "0" * 64
    result = verify_audit_package(edited(package, "integrity.binding_digest", stored))
    assert failed(result) == ["binding_digest"]
    assert the(result, "binding_digest").expected == stored
    assert the(result, "binding_digest").actual == package["integrity"]["binding_digest"]


def test_a_binding_digest_without_prefix_is_the_same_digest() -> None:
    package = reference_package()
    raw = package["integrity"]["binding_digest"].removeprefix("sha256:")
    assert verify_audit_package(edited(package, "integrity.binding_digest", raw)).ok


@pytest.mark.parametrize("version", ["9.9", "0.5", "0.60", ""])
def test_an_unknown_package_version_fails_check_one_even_when_rebound(version: str) -> None:
    result = verify_audit_package(rebound(edited(reference_package(), "package_version", version)))
    assert failed(result) == ["binding_digest"]
    check = the(result, "binding_digest")
    assert (check.expected, check.actual, check.detail) == ("0.6", version, "unknown package_version")


def test_an_unknown_algorithm_fails_check_one() -> None:
    result = verify_audit_package(edited(reference_package(), "integrity.alg", "md5"))
    assert failed(result) == ["binding_digest"]


def test_a_changed_payload_fails_check_two_with_stored_and_recomputed() -> None:
    package = edited(reference_package(), "control_bundle.events.0.payload.goal", "something else")
    result = verify_audit_package(package)
    assert failed(result) == ["control_bundle_digest"]
    check = the(result, "control_bundle_digest")
    assert check.expected == package["control_bundle"]["integrity"]["canonical_digest"]
    assert str(check.actual).startswith("sha256:")
    assert check.actual != check.expected
    assert "the digest of event 0 is not that of its type and payload" in str(check.detail)
    assert "decision.goal disagrees with the events" in str(check.detail)


def test_a_changed_control_digest_fails_checks_one_and_three() -> None:
    package = edited(reference_package(), "binding.control_digest", "sha256:" + "0" * 64)
    result = verify_audit_package(package)
    assert failed(result) == ["binding_digest", "binding_control_match"]
    check = the(result, "binding_control_match")
    assert check.expected == package["control_bundle"]["integrity"]["canonical_digest"]
    assert check.actual == "sha256:" + "0" * 64


def test_a_changed_reference_fails_check_four() -> None:
    package = edited(reference_package(), "router.ref.digest", "sha256:" + "0" * 64)
    result = verify_audit_package(package)
    assert failed(result) == ["binding_router_match"]
    check = the(result, "binding_router_match")
    assert check.expected == "sha256:" + "0" * 64
    assert check.actual == package["binding"]["router_digest"]


@pytest.mark.parametrize(("path", "where"), [("router.ref.run_id", "router.ref.run_id"), ("router.bundle.run_id", "router.bundle.run_id")])
def test_a_foreign_run_fails_check_four(path: str, where: str) -> None:
    package = reference_package() if ".ref." in path else package_with({**flight_record(), "run_id": "run-1"})
    result = verify_audit_package(edited(package, path, "run-2"))
    check = the(result, "binding_router_match")
    assert not check.ok
    assert (check.expected, check.actual) == ("run-1", "run-2")
    assert check.detail == f"{where} is not the run of the control bundle's router_link"


@pytest.mark.parametrize("section", [{"mode": "reference"}, {"mode": "reference", "ref": None}, {"mode": "embedded"}])
def test_a_missing_section_fails_check_four(section: dict[str, Any]) -> None:
    result = verify_audit_package({**reference_package(), "router": section})
    assert failed(result) == ["binding_router_match"]
    assert len(result.checks) == 5


def test_a_changed_link_digest_fails_check_five() -> None:
    package = edited(reference_package(), "control_bundle.router_link.control_router_link_digest", "sha256:" + "0" * 64)
    result = verify_audit_package(package)
    assert failed(result) == ["control_bundle_digest", "binding_link_match"]
    check = the(result, "binding_link_match")
    assert check.expected == "sha256:" + "0" * 64
    assert check.actual == package["binding"]["control_router_link_digest"]


def test_a_link_that_was_moved_to_another_decision_fails_check_five() -> None:
    result = verify_audit_package(edited(reference_package(), "control_bundle.decision.decision_id", "dec-2"))
    assert failed(result) == ["control_bundle_digest", "binding_link_match"]


def test_an_empty_link_fails_check_five() -> None:
    result = verify_audit_package(edited(reference_package(), "control_bundle.router_link", {}))
    check = the(result, "binding_link_match")
    assert not check.ok
    assert check.expected is None
    assert "names no run" in str(check.detail)


def test_a_link_of_a_run_without_digests_is_digested_with_nulls() -> None:
    package = AuditPackage.from_dict(reference_package())
    link = package.control_bundle.router_link
    link.router_request_digest = link.router_result_digest = None
    record = {"decision_id": "dec-1", "run_id": "run-1", "router_request_digest": None, "router_result_digest": None}
    link.control_router_link_digest = package.binding.control_router_link_digest = f"sha256:{content_digest(record)}"
    assert the(verify_audit_package(package), "binding_link_match").ok


def test_several_broken_things_give_several_failed_checks() -> None:
    package = edited(reference_package(), "binding.router_digest", "sha256:0")
    package = edited(package, "control_bundle.events.3.payload.adapter_id", "other")
    assert failed(verify_audit_package(package)) == ["binding_digest", "control_bundle_digest", "binding_router_match"]


# -- the stronger conditions of check two


def _reindexed(package: dict[str, Any]) -> dict[str, Any]:
    """The package after every digest in it was recomputed around the control bundle as it is."""
    package = copy.deepcopy(package)
    bundle = package["control_bundle"]
    parts = ("bundle_version", "decision", "events", "template_snapshot", "router_link")
    digest = f"sha256:{content_digest({key: bundle[key] for key in parts})}"
    bundle["integrity"]["canonical_digest"] = package["binding"]["control_digest"] = digest
    return rebound(package)


@pytest.mark.parametrize(
    ("path", "value", "detail"),
    [
        ("decision.goal", "another goal", "decision.goal disagrees with the events"),
        ("decision.mode", "dry_run", "decision.mode disagrees with the events"),
        ("decision.status", "APPROVED", "decision.status disagrees with the events"),
        ("decision.creator", {"type": "human", "id": "bob"}, "decision.creator disagrees with the events"),
        ("decision.creator", {"type": "system", "id": "nexus-control"}, "decision.creator disagrees with the events"),
        ("events.0.digest", "0" * 64, "the digest of event 0 is not that of its type and payload"),
        ("events.0.digest", "", "the digest of event 0 is not that of its type and payload"),
        ("events.5.seq", 6, "seq is not 0..5 without gap: 6 where 5 belongs"),
        ("events.1.ts", "yesterday", "the events cannot be replayed: not an ISO 8601 time: 'yesterday'"),
        ("events.1.actor", {"type": "robot", "id": "x"}, "the events cannot be replayed: actor.type must be 'human' or 'system'"),
        ("bundle_version", "1.0", "unknown bundle_version"),
        ("policy", None, "section policy disagrees with the events"),
        ("policy.min_approvals", True, "section policy disagrees with the events"),
        ("policy", {"x": float("nan")}, "section policy disagrees with the events"),
        ("approvals", [], "section approvals disagrees with the events"),
        ("integrity.alg", "md5", "unknown integrity.alg"),
    ],
)
def test_a_bundle_that_disagrees_with_itself_fails_check_two_even_with_all_digests_recomputed(
    path: str, value: object, detail: str
) -> None:
    package = _reindexed(edited(reference_package(), f"control_bundle.{path}", value))
    result = verify_audit_package(package)
    assert failed(result) == ["control_bundle_digest"]
    assert the(result, "control_bundle_digest").detail == detail


def test_the_first_of_several_stale_event_digests_is_named() -> None:
    package = edited(edited(reference_package(), "control_bundle.events.1.digest", "a"), "control_bundle.events.2.digest", "b")
    check = the(verify_audit_package(_reindexed(package)), "control_bundle_digest")
    assert check.detail == "the digest of event 1 is not that of its type and payload"
    assert check.expected == "a"


def test_an_unknown_event_type_fails_check_two_even_with_all_digests_recomputed() -> None:
    package = reference_package()
    event = package["control_bundle"]["events"][2]
    event["type"], event["digest"] = "APPROVAL_FORGED", content_digest({"event_type": "APPROVAL_FORGED", "payload": event["payload"]})
    del package["control_bundle"]["approvals"]
    detail = the(verify_audit_package(_reindexed(package)), "control_bundle_digest").detail
    assert detail == "the events cannot be replayed: event 2 has the unknown type 'APPROVAL_FORGED'"


def test_a_creator_without_a_creation_fails_check_two() -> None:
    package = reference_package()
    control = package["control_bundle"]
    del control["events"][0], control["approvals"]
    for seq, event in enumerate(control["events"]):
        event["seq"] = seq
    control["decision"].update(goal=None, mode="dry_run", creator={"type": "human", "id": "alice"})
    detail = the(verify_audit_package(_reindexed(package)), "control_bundle_digest").detail
    assert detail == "decision.creator disagrees with the events"


def test_a_true_creator_passes() -> None:
    package = _reindexed(edited(reference_package(), "control_bundle.decision.creator", {"type": "human", "id": "alice"}))
    assert verify_audit_package(package).ok


def test_reordered_events_fail_check_two_although_their_seq_tells_the_order() -> None:
    package = reference_package()
    package["control_bundle"]["events"].reverse()
    result = verify_audit_package(package)
    assert failed(result) == ["control_bundle_digest"]
    assert the(result, "control_bundle_digest").detail == "seq is not 0..5 without gap: 5 where 0 belongs"


NO_PARTS: tuple[Any, ...] = (None, 3, True, 1.5, "x", "", [], [3], {}, {"a": 1}, object(), float("nan"), "\ud800", b"x")


def _places(part: Any) -> Iterator[tuple[Any, Any, Callable[[Any], None]]]:
    """What can be edited in place: where it is, what is there, and how to put something else there."""
    if dataclasses.is_dataclass(part):
        for name in (field.name for field in dataclasses.fields(part)):
            yield name, getattr(part, name), partial(setattr, part, name)
    elif isinstance(part, list):
        items = cast("list[Any]", part)
        for place, item in enumerate(items):
            yield place, item, partial(items.__setitem__, place)


def _covered(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Callable[[Any], None]]]:
    """Every place of a package object that some digest covers, parts before what is in them."""
    for name, value, put in _places(part):
        if name not in ("meta", "provenance"):
            yield (*path, name), value, put
            yield from _covered(value, (*path, name))


@pytest.mark.parametrize("make", [reference_package, embedded_package], ids=["reference", "embedded"])
def test_an_object_that_was_edited_into_anything_is_judged_and_never_raises(make: Callable[[], dict[str, Any]]) -> None:
    package = AuditPackage.from_dict(make())
    assert verify_audit_package(package).ok
    for path, value, put in list(_covered(package)):
        for other in NO_PARTS:
            put(other)
            result = verify_audit_package(package)
            # What is not there in the document of the package either may be anything.
            unseen = path[1:2] == ("template_snapshot",) or path[0] == "router" or (other is None and value is None)
            assert unseen or not result.ok or (type(other), other) == (type(value), value), (path, other)
        put(value)
    assert verify_audit_package(package).ok


def test_absent_derived_sections_pass() -> None:
    package = reference_package()
    del package["control_bundle"]["policy"], package["control_bundle"]["approvals"]
    assert verify_audit_package(package).ok


def test_a_rebuilt_package_passes_alone_and_fails_against_a_digest_kept_elsewhere() -> None:
    original = reference_package()
    forged = edited(original, "control_bundle.events.2.actor.id", "mallory")
    forged["control_bundle"]["approvals"][0]["actor"]["id"] = "mallory"
    forged = _reindexed(forged)
    assert verify_audit_package(forged).ok
    kept = original["integrity"]["binding_digest"]
    assert failed(verify_audit_package(forged, expected_binding_digest=kept)) == ["expected_binding_digest"]
    for form in (kept, kept.removeprefix("sha256:")):
        result = verify_audit_package(original, expected_binding_digest=form)
        assert result.ok
        assert [check.name for check in result.checks] == [*SIX[:5], "expected_binding_digest"]


def test_the_expected_digest_is_compared_with_the_stored_one() -> None:
    result = verify_audit_package(embedded_package(), expected_binding_digest="")
    check = result.checks[-1]
    assert (check.name, check.ok, check.expected) == ("expected_binding_digest", False, "")
    assert check.actual == embedded_package()["integrity"]["binding_digest"]
    assert len(result.checks) == 7


# -- embedded records


def test_run_digest_of_the_published_vector() -> None:
    data = vector("router-digest-vector.json")
    assert hashlib.sha256(data["canonical"].encode()).hexdigest() == data["sha256"]
    assert router_run_digest(data["input"]) == data["sha256"]
    assert hashlib.sha256(canonical_json(data["input"]).encode()).hexdigest() != data["sha256"]


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("router-bundle.json", True),
        ("router-bundle-dry-run.json", True),
        ("router-bundle-failed.json", True),
        ("router-bundle-tampered.json", False),
        ("router-bundle-tampered-rehashed.json", True),
    ],
)
def test_run_digest_of_bundles_that_a_router_wrote(name: str, matches: bool) -> None:
    bundle = vector(name)
    assert (router_run_digest(bundle) == bundle["digests"]["sha256"]) is matches


def test_run_digest_covers_run_and_events_only() -> None:
    assert router_run_digest({**run_bundle(), "exported_at": "x", "more": 1}) == router_run_digest(run_bundle())


def test_run_digest_accepts_nan_as_the_router_does() -> None:
    text = '{"events":[NaN],"run":1}'
    assert router_run_digest({"run": 1, "events": [float("nan")]}) == hashlib.sha256(text.encode()).hexdigest()


def _nested() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("bundle", [{}, {"run": 1}, {"events": 1}, {"run": object(), "events": 1}, {"run": {1: 2, "a": 3}, "events": 1}])
def test_run_digest_of_no_run_bundle_is_refused(bundle: dict[str, Any]) -> None:
    with pytest.raises(MalformedBundle):
        router_run_digest(bundle)


def test_run_digest_of_endless_nesting_is_refused() -> None:
    value = _nested()
    with pytest.raises(MalformedBundle):
        router_run_digest({"run": value, "events": []})


def _resealed(record: dict[str, Any], **response: object) -> dict[str, Any]:
    """The record with other values in its response, and the canonical digest recomputed."""
    record = {**record, "response": {**record["response"], **response}}
    digest = f"sha256:{content_digest(record['response'])}"
    return {**record, "integrity": {"alg": "sha256", "canonical_digest": digest}}


def _without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}


_plain = {**run_bundle(), "integrity": {"alg": "sha256", "canonical_digest": "sha256:" + run_bundle()["digests"]["sha256"]}}
_unbound = {**flight_record(), "response": {"run_id": "run-1", "steps_executed": 2}}
_unbound["integrity"] = {"canonical_digest": f"sha256:{content_digest(_unbound['response'])}"}
_only_response = _without(_unbound, "run", "events", "digests")
_opaque = {"run_id": "run-1", "integrity": {"canonical_digest": "sha256:abc"}}


@pytest.mark.parametrize(
    ("record", "passes", "passes_strictly", "detail"),
    [
        pytest.param(flight_record(), True, True, None, id="flight record"),
        pytest.param(_plain, True, True, None, id="run bundle"),
        pytest.param(_only_response, True, True, None, id="response alone"),
        pytest.param(_opaque, True, False, "no form whose content can be checked", id="opaque"),
        pytest.param(_unbound, True, False, "does not bind run and events", id="response that binds no run"),
        pytest.param(_without(flight_record(), "run"), False, False, "lacks the run, events", id="hollowed out"),
        pytest.param(_without(flight_record(), "events"), False, False, "lacks the run, events", id="without events"),
        pytest.param(_without(flight_record(), "digests"), False, False, "lacks the run, events", id="without digests"),
        pytest.param({**flight_record(), "digests": {"sha256": 5}}, False, False, "lacks the run, events", id="digests of a wrong type"),
        pytest.param({**flight_record(), "response": "x"}, False, False, "response is not an object", id="response of a wrong type"),
        pytest.param(_without(flight_record(), "response"), False, False, "digest of run and events", id="response cut out"),
        pytest.param(
            {**flight_record(), "response": {"run_id": "run-1", "status": "failed"}},
            False,
            False,
            "digest of response",
            id="other response",
        ),
        pytest.param(
            _resealed(flight_record(), run_bundle_digest="sha256:0"), False, False, "run_bundle_digest is not", id="other run bound"
        ),
        pytest.param(_resealed(flight_record(), run_bundle_digest=7), False, False, "run_bundle_digest is not", id="run bound by a number"),
        pytest.param({**flight_record(), "events": []}, False, False, "digests.sha256 is not", id="events cut out"),
        pytest.param({**_plain, "run": {"run_id": "run-1"}}, False, False, "digests.sha256 is not", id="other run row"),
        pytest.param({**_plain, "integrity": {"canonical_digest": "sha256:0"}}, False, False, "canonical_digest is not", id="other digest"),
        pytest.param({**_plain, "integrity": {**_plain["integrity"], "alg": "md5"}}, False, False, "alg", id="other algorithm"),
    ],
)
def test_content_of_an_embedded_record(record: dict[str, Any], passes: bool, passes_strictly: bool, detail: str | None) -> None:
    package = package_with(record)
    lenient = the(verify_audit_package(package), "router_digest")
    strict = the(verify_audit_package(package, strict=True), "router_digest")
    assert (lenient.ok, strict.ok) == (passes, passes_strictly)
    assert detail is None or detail in str(lenient.detail)
    assert (lenient.detail is None) is (detail is None)


@pytest.mark.parametrize("integrity", [None, "x", {}, {"canonical_digest": None}, {"canonical_digest": 5}])
def test_a_record_that_states_no_digest_fails_checks_four_and_six(integrity: object) -> None:
    result = verify_audit_package(edited(embedded_package(), "router.bundle.integrity", integrity))
    assert failed(result) == ["binding_router_match", "router_digest"]


@pytest.mark.parametrize("where", ["run", "response"])
def test_every_run_id_of_a_record_is_compared(where: str) -> None:
    package = edited(embedded_package(), f"router.bundle.{where}.run_id", "run-2")
    check = the(verify_audit_package(package), "binding_router_match")
    assert not check.ok
    assert check.detail == f"router.bundle.{where}.run_id is not the run of the control bundle's router_link"


def test_a_record_that_names_no_run_passes_check_four_with_a_remark_and_fails_it_strictly() -> None:
    package = package_with({"integrity": {"canonical_digest": "sha256:abc"}})
    lenient = the(verify_audit_package(package), "binding_router_match")
    assert lenient.ok
    assert lenient.detail == "the embedded record does not say which run it is of"
    assert not the(verify_audit_package(package, strict=True), "binding_router_match").ok


def test_a_digest_function_of_the_caller_replaces_the_rules() -> None:
    package = package_with(_opaque)
    assert verify_audit_package(package, strict=True, router_digest_fn=lambda _: "abc").ok
    result = verify_audit_package(package, router_digest_fn=lambda record: "sha256:" + record["run_id"])
    assert failed(result) == ["router_digest"]
    assert (the(result, "router_digest").expected, the(result, "router_digest").actual) == ("sha256:abc", "sha256:run-1")


def test_a_digest_function_that_raises_or_gives_no_digest_fails_the_check() -> None:
    package = package_with(_opaque)
    raised = the(verify_audit_package(package, router_digest_fn=lambda record: record["missing"]), "router_digest")
    assert (raised.ok, raised.detail) == (False, "router_digest_fn raised KeyError: 'missing'")
    assert not the(verify_audit_package(package, router_digest_fn=lambda record: record["integrity"]), "router_digest").ok


def test_a_digest_function_is_not_called_in_reference_mode() -> None:
    assert verify_audit_package(reference_package(), router_digest_fn=lambda record: record["missing"]).ok


# -- documents from which no package can be built


@pytest.mark.parametrize("document", [None, 1, [], "", "{", "[]", b"\xff", '{"a":1,"a":1}', "NaN", {}, {"control_bundle": 1}])
def test_no_package_gives_the_single_failed_check_schema(document: Any) -> None:
    result = verify_audit_package(document)
    assert not result.ok
    assert [(check.name, check.ok) for check in result.checks] == [("schema", False)]
    assert result.checks[0].detail


@pytest.mark.parametrize("key", ["control_bundle", "router", "binding", "integrity"])
@pytest.mark.parametrize("wrong", [None, 1, "x", [], {"x": 1}, "absent"])
def test_a_required_part_of_the_wrong_shape_is_a_schema_failure(key: str, wrong: object) -> None:
    package = reference_package()
    package[key] = wrong
    if wrong == "absent":
        del package[key]
    assert [check.name for check in verify_audit_package(package).checks] == ["schema"]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("package_version", 6),
        ("router.mode", "both"),
        ("router.mode", None),
        ("router.mode", "embedded"),
        ("router.ref", "run-1"),
        ("router.ref", {"run_id": "run-1"}),
        ("router.ref.run_id", 1),
        ("router.bundle", {}),
        ("binding.control_digest", None),
        ("integrity.alg", 1),
        ("integrity.binding_digest", 1),
        ("provenance", None),
        ("meta", []),
    ],
)
def test_a_member_of_the_wrong_type_is_a_schema_failure(path: str, wrong: object) -> None:
    result = verify_audit_package(edited(reference_package(), path, wrong))
    assert [check.name for check in result.checks] == ["schema"]


def test_content_that_is_no_json_fails_its_check_and_leaves_the_others_running() -> None:
    package = AuditPackage.from_dict(reference_package())
    package.control_bundle.events[0].payload["x"] = float("nan")
    package.package_version = "\ud800"
    result = verify_audit_package(package)
    assert failed(result) == ["binding_digest", "control_bundle_digest"]
    assert len(result.checks) == 5


@pytest.mark.parametrize("mode", ["neither", "", "a", "embedde", "embeddedx", "referencex", "zzz"])
@pytest.mark.parametrize("make", [reference_package, embedded_package])
def test_an_object_whose_router_section_was_edited_into_nothing_known_fails_check_four(make: Any, mode: Any) -> None:
    package = AuditPackage.from_dict(make())
    package.router.mode = mode
    result = verify_audit_package(package)
    assert [check.name for check in result.checks] == SIX[:5]
    assert failed(result) == ["binding_router_match"]
    assert package.router.to_dict().keys() == {"mode", "ref"}


@pytest.mark.parametrize("part", ["router", "router.ref", "binding", "integrity"])
def test_a_misspelt_field_of_a_part_is_refused_when_it_is_edited_in_place(part: str) -> None:
    found: Any = AuditPackage.from_dict(reference_package())
    for name in part.split("."):
        found = getattr(found, name)
    with pytest.raises(AttributeError):
        found.bindingdigest = "sha256:0"


# -- shapes


def test_sections_have_their_published_shapes() -> None:
    assert RouterRef("r", "sha256:a").to_dict() == {"run_id": "r", "digest": "sha256:a"}
    assert RouterSection("reference", ref=RouterRef("r", "d")).to_dict() == {"mode": "reference", "ref": {"run_id": "r", "digest": "d"}}
    assert RouterSection("reference", bundle={"a": 1}).to_dict() == {"mode": "reference", "ref": None}
    assert RouterSection("embedded", {"a": 1}, RouterRef("r", "d")).to_dict() == {"mode": "embedded", "bundle": {"a": 1}}
    assert AuditBinding("a", "b", "c").to_dict() == {"control_digest": "a", "router_digest": "b", "control_router_link_digest": "c"}
    assert AuditIntegrity.from_dict({"binding_digest": "x"}) == AuditIntegrity("sha256", "x")


@pytest.mark.parametrize("make", [reference_package, embedded_package])
def test_package_round_trips_and_its_dict_is_isolated(make: Any) -> None:
    data = make()
    package = AuditPackage.from_dict(data)
    again = package.to_dict()
    assert again == data
    assert AuditPackage.from_dict(again) == package
    assert package.to_canonical_json() == canonical_json(data)
    assert set(data) == {"package_version", "control_bundle", "router", "binding", "integrity", "provenance", "meta"}
    again["meta"]["x"] = 1
    again["control_bundle"]["events"][0]["payload"]["x"] = 1
    if package.router.bundle is not None:
        again["router"]["bundle"]["run"]["x"] = 1
    assert package.to_dict() == data


def test_meta_is_left_out_when_empty_and_version_and_provenance_have_defaults() -> None:
    data = reference_package()
    for key in ("package_version", "provenance", "meta"):
        del data[key]
    package = AuditPackage.from_dict(data)
    assert package.package_version == "0.6"
    assert "meta" not in package.to_dict()
    assert verify_audit_package(data).ok


def test_canonical_text_changes_the_spelling_of_floats_that_the_run_digest_depends_on() -> None:
    record = run_bundle()
    record["run"]["weight"] = 1.0
    record["digests"]["sha256"] = router_run_digest(record)
    data = package_with(record)
    assert verify_audit_package(json.dumps(data)).ok
    assert failed(verify_audit_package(AuditPackage.from_dict(data).to_canonical_json())) == ["router_digest"]


def test_check_shows_expected_and_actual_only_when_it_failed() -> None:
    assert VerificationCheck("n", True, "a", "b").to_dict() == {"name": "n", "ok": True}
    assert VerificationCheck("n", True, detail="d").to_dict() == {"name": "n", "ok": True, "detail": "d"}
    assert VerificationCheck("n", False, "a", None, "d").to_dict() == {"name": "n", "ok": False, "expected": "a", "detail": "d"}
    assert VerificationCheck("n", False, None, "b").to_dict() == {"name": "n", "ok": False, "actual": "b"}


def test_passed_is_another_name_of_ok() -> None:
    check = VerificationCheck("n", True)
    assert check.passed
    check.ok = False
    assert not check.passed


def test_result_counts_its_checks() -> None:
    result = VerificationResult(False, [VerificationCheck("a", True), VerificationCheck("b", False)])
    assert result.to_dict() == {
        "ok": False,
        "checks": [{"name": "a", "ok": True}, {"name": "b", "ok": False}],
        "passed": 1,
        "failed": 1,
        "total": 2,
    }


@pytest.mark.parametrize("part", ["control_bundle", "router", "binding", "integrity"])
def test_a_package_object_that_lost_a_part_is_a_failed_verification(part: str) -> None:
    package = AuditPackage.from_dict(vector("router-audit-package-embedded.json"))
    setattr(package, part, None)
    result = verify_audit_package(package)
    assert [(check.name, check.ok) for check in result.checks] == [("schema", False)]


@pytest.mark.parametrize("part", ["decision", "router_link", "integrity", "template_snapshot"])
def test_a_bundle_object_that_lost_a_part_is_a_failed_verification(part: str) -> None:
    package = AuditPackage.from_dict(vector("router-audit-package-embedded.json"))
    setattr(package.control_bundle, part, None)
    assert not verify_audit_package(package).ok


def test_a_package_has_its_members_and_no_others() -> None:
    package: Any = AuditPackage.from_dict(reference_package())
    with pytest.raises(AttributeError):
        package.comment = None


def test_how_strict_a_verification_is_must_be_said_by_name() -> None:
    verify: Any = verify_audit_package
    with pytest.raises(TypeError):
        verify(reference_package(), True)
