"""Import: the seven steps in their order, what each refuses, and that a refusal leaves no trace."""

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from evidence_testing import (
    ALICE,
    BOB,
    FROM_TEMPLATE,
    approved,
    bundle_dict,
    completed,
    edited,
    embedded_package,
    new_store,
    nonsense,
    pending,
    places,
    put,
    vector,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_control.bundle import DecisionBundle, compute_bundle_digest
from nexus_control.bundle_checks import recompute
from nexus_control.decision import Decision
from nexus_control.errors import DecisionExists, StoreFull
from nexus_control.events import EventType
from nexus_control.export import export_decision
from nexus_control.import_ import ImportResult, ReplayResult, import_bundle, parse_bundle_from_json
from nexus_control.integrity import content_digest
from nexus_control.store import DecisionStore, ImportOrigin

GOOD = bundle_dict(store := new_store(), completed(store, policy=FROM_TEMPLATE))


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """The bundle after its events' digests and its own were recomputed around its content as it is."""
    data = copy.deepcopy(data)
    for event in data["events"]:
        event["digest"] = content_digest({"event_type": event["type"], "payload": event["payload"]})
    bundle = DecisionBundle.from_dict(data)
    data["integrity"]["canonical_digest"] = "sha256:" + recompute(bundle).bundle_digest
    return data


def unsectioned(data: dict[str, Any]) -> dict[str, Any]:
    """A copy without the derived sections."""
    return copy.deepcopy({key: value for key, value in data.items() if key not in ("policy", "approvals")})


def state_of(target: DecisionStore) -> object:
    """Everything that an import could leave behind."""
    ids = [decision_id for decision_id, _ in target.list_decisions()]
    return target.log_root(), [(name, target.list_generations(name), target.get_events(name)) for name in ids]


def refused(code: str, bundle: Any, target: DecisionStore | None = None, **options: Any) -> str:
    """Assert that an import is refused with this code and leaves the store as it was; gives the message."""
    target = target if target is not None else new_store()
    before = state_of(target)
    result = import_bundle(target, bundle, **options)
    assert (result.success, result.error_code) == (False, code), result.error_message
    assert state_of(target) == before
    assert result.to_dict() == {"ok": False, "error_code": code, "error": result.error_message}
    return str(result.error_message)


def accepted(bundle: Any, target: DecisionStore, **options: Any) -> ImportResult:
    result = import_bundle(target, bundle, **options)
    assert result.success, result.error_message
    return result


# -- success


def test_an_import_gives_the_decision_that_was_exported() -> None:
    target = new_store()
    result = accepted(GOOD, target)
    assert result.to_dict() == {
        "ok": True,
        "imported": {"decision_id": "dec-1", "events_imported": 6},
        "digest_verified": True,
        "conflict_mode": "reject_on_conflict",
        "replay_ran": True,
        "replay": {
            "ok": True,
            "blocking_reasons": [
                {"code": "ALREADY_EXECUTED", "message": "Decision has already been executed", "details": {"run_id": "run-1"}}
            ],
            "timeline_truncated": False,
        },
    }
    assert export_decision(target, "dec-1").digest == GOOD["integrity"]["canonical_digest"]
    assert target.verify_log().ok


@pytest.mark.parametrize(
    "form",
    [
        lambda: GOOD,
        lambda: DecisionBundle.from_dict(GOOD),
        lambda: json.dumps(GOOD),
        lambda: json.dumps(GOOD).encode(),
        lambda: DecisionBundle.from_dict(GOOD).to_canonical_json(include_meta=False),
    ],
)
def test_every_form_of_a_bundle_is_imported(form: Callable[[], Any]) -> None:
    assert accepted(form(), new_store()).events_imported == 6


@pytest.mark.parametrize("name", ["router-audit-package-embedded.json", "router-audit-package-failed-embedded.json"])
def test_bundles_of_another_implementation_are_imported_and_exported_with_the_same_digest(name: str) -> None:
    bundle = vector(name)["control_bundle"]
    target = new_store()
    result = accepted(bundle, target)
    assert export_decision(target, str(result.decision_id)).digest == bundle["integrity"]["canonical_digest"]


def test_times_payloads_actors_and_digests_are_taken_over() -> None:
    target = new_store()
    data = unsectioned(edited(GOOD, "events.2.payload.weight", 0.5))
    data = edited(data, "events.2.ts", "2026-01-01T01:00:01+01:00")
    data["events"][2]["digest"] = ""
    accepted(data, target, verify_digest=False, replay_after_import=False)
    event = target.get_events("dec-1")[2]
    assert event.payload == {"expires_at": None, "comment": "fine", "weight": 0.5}
    assert event.ts == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert event.actor == BOB
    assert event.digest == ""
    assert [event.digest for event in target.get_events("dec-1")][3:] == [event["digest"] for event in GOOD["events"]][3:]


def test_a_bundle_without_events_is_created_at_the_time_of_the_import() -> None:
    source = new_store()
    source.create_decision("dec-1")
    target = new_store()
    result = accepted(bundle_dict(source), target)
    assert result.events_imported == 0
    assert result.replay is not None
    assert [reason["code"] for reason in result.replay.blocking_reasons] == ["NO_POLICY"]
    assert target.list_decisions() == [("dec-1", datetime(2026, 1, 1, tzinfo=UTC))]


def test_events_may_be_listed_in_any_order() -> None:
    data = copy.deepcopy(GOOD)
    data["events"].reverse()
    target = new_store()
    accepted(data, target)
    assert export_decision(target, "dec-1").digest == GOOD["integrity"]["canonical_digest"]


def test_without_replay_there_is_no_replay_result() -> None:
    result = accepted(GOOD, new_store(), replay_after_import=False)
    assert (result.replay_ran, result.replay) == (False, None)
    assert "replay" not in result.to_dict()


def test_a_long_timeline_is_reported_as_truncated() -> None:
    source = new_store()
    pending(source)
    source.append_events("dec-1", [(EventType.APPROVAL_REVOKED, BOB, {"reason": "x"})] * 30)
    result = accepted(bundle_dict(source), new_store())
    assert result.replay is not None
    assert result.replay.timeline_truncated


def test_results_claim_nothing_by_default() -> None:
    assert ImportResult(True) == ImportResult(True, None, None, None, 0, False, None, False, None, None, None)
    assert ReplayResult(True) == ReplayResult(True, [], False, None)


def test_a_replay_result_shows_its_error_only_when_there_is_one() -> None:
    assert ReplayResult(False, error="x").to_dict() == {"ok": False, "blocking_reasons": [], "timeline_truncated": False, "error": "x"}


class _Spy(DecisionStore):
    """Remembers the origin of what is imported."""

    told: ImportOrigin | None = None

    def import_decision_atomic(self, *arguments: Any, **options: Any) -> tuple[bool, str | None]:
        self.told = options["origin"]
        return super().import_decision_atomic(*arguments, **options)


def test_the_header_records_where_the_decision_came_from() -> None:
    target = _Spy(clock=lambda: datetime(2027, 1, 1, tzinfo=UTC), new_id=lambda: "fresh")
    approved(target)
    data = edited(GOOD, "integrity.canonical_digest", "stale")
    accepted(data, target, verify_digest=False, conflict_mode="new_decision_id")
    assert target.told == ImportOrigin("2027-01-01T00:00:00+00:00", "dec-1", GOOD["integrity"]["canonical_digest"])


def test_imported_approvals_are_judged_at_the_time_of_the_import() -> None:
    source = new_store()
    pending(source)
    source.append_event("dec-1", EventType.APPROVAL_GRANTED, BOB, {"expires_at": "2026-06-01T00:00:00+00:00"})
    data = bundle_dict(source)
    assert data["decision"]["status"] == "APPROVED"
    result = accepted(data, DecisionStore(clock=lambda: datetime(2027, 1, 1, tzinfo=UTC)))
    assert result.replay is not None
    assert [reason["code"] for reason in result.replay.blocking_reasons] == ["APPROVAL_EXPIRED"]


# -- step 1: readable


@pytest.mark.parametrize(
    "bundle",
    [
        None,
        1,
        [],
        (),
        bytearray(b"{}"),
        "",
        "{",
        "[]",
        "null",
        b"\xff",
        "NaN",
        "1" * 5000,
        "[" * 100_000,
        '{"events":[],"events":[]}',
        {},
        {"bundle_version": "0.5"},
    ],
)
def test_what_is_no_bundle_is_refused(bundle: object) -> None:
    refused("BUNDLE_INVALID_SCHEMA", bundle)


def test_problems_of_the_schema_are_named() -> None:
    assert refused("BUNDLE_INVALID_SCHEMA", {"bundle_version": "0.5", "events": [], "integrity": {}}) == (
        "Missing required field: decision; Missing required field: integrity.canonical_digest"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("bundle_version", "1.0"),
        ("bundle_version", "x"),
        ("bundle_version", None),
        ("decision.created_at", "yesterday"),
        ("decision.created_at", "0001-01-01T00:00:00+14:00"),
        ("decision.goal", "\ud800"),
        ("decision.decision_id", "\ud800"),
        ("decision.decision_id", 7),
        ("events.0.event_id", "\ud800"),
        ("events.0.decision_id", None),
        ("events.0.payload.x", float("nan")),
        ("events.0.payload.x", "\udfff"),
        pytest.param("events.0.payload.x", 10**5000, id="huge integer"),
        pytest.param("events.0.seq", 10**5000, id="huge seq"),
        ("events.0.payload.x", {1: 2}),
        ("events.0.payload.x", object()),
        ("events.0.actor", {}),
        ("events.0.actor", {"type": "human"}),
        ("events.0.actor.type", "robot"),
        ("events.0.actor.id", ""),
        ("events.0.actor.id", ["x"]),
        ("events.0.actor.role", "admin"),
        ("events.0.seq", -1),
        ("events.0.seq", True),
        ("events.0.digest", 5),
        ("template_snapshot.name", 5),
        ("router_link.run_id", 5),
        ("integrity.canonical_digest", 5),
        ("provenance", None),
        ("meta", None),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("replay", [True, False])
def test_content_that_could_not_be_stored_is_refused_whatever_is_verified(path: str, value: object, verify: bool, replay: bool) -> None:
    refused("BUNDLE_INVALID_SCHEMA", edited(GOOD, path, value), verify_digest=verify, replay_after_import=replay)


def test_nesting_without_end_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    data = copy.deepcopy(GOOD)
    data["events"][0]["payload"] = loop
    refused("BUNDLE_INVALID_SCHEMA", data)
    bundle = DecisionBundle.from_dict(copy.deepcopy(GOOD))
    bundle.events[0].payload = loop
    refused("BUNDLE_INVALID_SCHEMA", bundle)


@pytest.mark.parametrize(("path", "value"), [("events.1.type", "NO_SUCH"), ("events.1.ts", "yesterday")])
def test_an_event_that_replay_cannot_read_is_a_schema_problem_without_replay_and_a_replay_problem_with_it(path: str, value: object) -> None:
    data = sealed(unsectioned(edited(GOOD, path, value)))
    for verify in (True, False):
        refused("BUNDLE_INVALID_SCHEMA", data, verify_digest=verify, replay_after_import=False)
        refused("REPLAY_INVALID", data, verify_digest=verify)


@pytest.mark.parametrize("part", ["decision", "template_snapshot", "router_link", "integrity", "events"])
def test_an_object_whose_parts_were_replaced_is_refused(part: str) -> None:
    bundle = DecisionBundle.from_dict(copy.deepcopy(GOOD))
    setattr(bundle, part, "x")
    refused("BUNDLE_INVALID_SCHEMA", bundle)


def test_an_object_whose_events_were_replaced_is_refused() -> None:
    bundle = DecisionBundle.from_dict(copy.deepcopy(GOOD))
    bundle.events = cast("Any", [None])
    refused("BUNDLE_INVALID_SCHEMA", bundle)
    bundle = DecisionBundle.from_dict(copy.deepcopy(GOOD))
    bundle.events[0].seq = "0"  # pyright: ignore[reportAttributeAccessIssue]
    refused("BUNDLE_INVALID_SCHEMA", bundle)


def test_an_object_edited_in_place_is_imported_as_it_is_now() -> None:
    bundle = DecisionBundle.from_dict(copy.deepcopy(GOOD))
    bundle.decision.decision_id = "dec-2"
    refused("INTEGRITY_MISMATCH", bundle)
    digest = compute_bundle_digest(bundle.bundle_version, bundle.decision, bundle.events, bundle.template_snapshot, bundle.router_link)
    bundle.integrity.canonical_digest = digest
    assert accepted(bundle, new_store()).decision_id == "dec-2"


# -- step 2: conflict mode


@pytest.mark.parametrize("mode", ["", "replace", None, [], 1, pytest.param(10**5000, id="huge")])
def test_an_unknown_conflict_mode_is_refused_after_the_schema_and_before_the_digest(mode: Any) -> None:
    refused("CONFLICT_MODE_INVALID", edited(GOOD, "integrity.canonical_digest", "x"), conflict_mode=mode)
    refused("BUNDLE_INVALID_SCHEMA", {}, conflict_mode=mode)


# -- step 3: integrity


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("integrity.canonical_digest", "sha256:" + "0" * 64),
        ("integrity.canonical_digest", "sha256:short"),
        ("integrity.canonical_digest", ""),
        ("integrity.alg", "md5"),
        ("events.0.payload.goal", "other"),
        ("decision.decision_id", "dec-2"),
        ("router_link.adapter_id", "other"),
        ("template_snapshot.name", "other"),
        ("policy", None),
        ("policy.min_approvals", 0),
        ("policy.min_approvals", True),
        ("approvals", []),
        ("approvals.0.revoked", True),
        ("approvals.0.actor.id", "mallory"),
    ],
)
def test_an_edited_bundle_is_refused_when_verified_and_accepted_otherwise(path: str, value: object) -> None:
    data = edited(GOOD, path, value)
    refused("INTEGRITY_MISMATCH", data)
    assert not accepted(data, new_store(), verify_digest=False).digest_verified


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("decision.goal", "other"),
        ("decision.goal", None),
        ("decision.mode", "dry_run"),
        ("decision.status", "APPROVED"),
        ("decision.status", "completed"),
        ("decision.creator", {"type": "human", "id": "mallory"}),
    ],
)
def test_a_header_that_disagrees_with_the_events_is_refused_although_every_digest_is_right(path: str, value: object) -> None:
    data = sealed(edited(GOOD, path, value))
    for replay in (True, False):
        refused("INTEGRITY_MISMATCH", data, replay_after_import=replay)
    accepted(data, new_store(), verify_digest=False)


def test_the_message_says_what_was_expected() -> None:
    message = refused("INTEGRITY_MISMATCH", sealed(edited(GOOD, "decision.status", "DRAFT")))
    assert message == "decision.status disagrees with the events (expected COMPLETED, got DRAFT)"
    assert refused("INTEGRITY_MISMATCH", edited(GOOD, "policy", None)) == "section policy disagrees with the events"


def test_a_stale_event_digest_is_refused_and_an_absent_one_is_not() -> None:
    data = edited(GOOD, "events.0.digest", "0" * 64)
    data["integrity"]["canonical_digest"] = "sha256:" + recompute(DecisionBundle.from_dict(data)).bundle_digest
    refused("INTEGRITY_MISMATCH", data)
    data["events"][0]["digest"] = ""
    data["integrity"]["canonical_digest"] = recompute(DecisionBundle.from_dict(data)).bundle_digest
    accepted(data, new_store())


@pytest.mark.parametrize("status", ["APPROVED", "PENDING_APPROVAL"])
def test_an_exporter_may_have_judged_an_expiry_at_another_instant(status: str) -> None:
    source = new_store()
    pending(source)
    source.append_event("dec-1", EventType.APPROVAL_GRANTED, BOB, {"expires_at": "2026-06-01T00:00:00+00:00"})
    accepted(sealed(edited(bundle_dict(source), "decision.status", status)), new_store())
    refused("INTEGRITY_MISMATCH", sealed(edited(bundle_dict(source), "decision.status", "DRAFT")))


def test_without_expiry_the_status_must_be_exact() -> None:
    source = new_store()
    approved(source)
    refused("INTEGRITY_MISMATCH", sealed(edited(bundle_dict(source), "decision.status", "PENDING_APPROVAL")))


def test_events_that_make_no_decision_cannot_vouch_for_a_header() -> None:
    data = sealed(unsectioned(edited(GOOD, "events.2.payload.expires_at", "soon")))
    assert "do not replay" in refused("INTEGRITY_MISMATCH", data, replay_after_import=False)
    refused("REPLAY_INVALID", data)
    accepted(data, new_store(), verify_digest=False, replay_after_import=False)


def test_integrity_comes_before_the_conflict() -> None:
    target = new_store()
    approved(target)
    refused("INTEGRITY_MISMATCH", edited(GOOD, "integrity.canonical_digest", "x"), target)


# -- step 4: conflict


def test_an_existing_decision_is_refused_by_default() -> None:
    target = new_store()
    approved(target)
    assert refused("DECISION_EXISTS", GOOD, target) == "Decision already exists: dec-1"


def test_a_new_id_is_given_on_conflict() -> None:
    target = new_store()
    approved(target)
    result = accepted(GOOD, target, conflict_mode="new_decision_id")
    assert (result.decision_id, result.original_decision_id, result.new_decision_id) == ("id-0", "dec-1", "id-0")
    assert result.to_dict()["imported"] == {
        "decision_id": "id-0",
        "events_imported": 6,
        "original_decision_id": "dec-1",
        "new_decision_id": "id-0",
    }
    assert [event.event_id for event in target.get_events("id-0")][:2] == ["evt_id-0_0", "evt_id-0_1"]
    assert len(target.get_events("dec-1")) == 3


@pytest.mark.parametrize("mode", ["reject_on_conflict", "new_decision_id", "overwrite"])
def test_without_a_conflict_every_mode_keeps_the_id(mode: str) -> None:
    target = new_store()
    result = accepted(GOOD, target, conflict_mode=mode)
    assert (result.decision_id, result.new_decision_id, result.conflict_mode) == ("dec-1", None, mode)
    assert "new_decision_id" not in result.to_dict()["imported"]


def test_overwriting_makes_a_new_generation_and_keeps_the_former() -> None:
    target = new_store()
    approved(target)
    accepted(GOOD, target, conflict_mode="overwrite")
    assert len(target.get_events("dec-1")) == 6
    assert len(target.get_events("dec-1", generation=1)) == 3
    assert target.verify_log().ok


def test_a_deleted_decision_is_no_conflict() -> None:
    target = new_store()
    approved(target)
    target.delete_decision("dec-1")
    assert accepted(GOOD, target).decision_id == "dec-1"


def test_a_new_id_that_exists_is_a_conflict() -> None:
    target = DecisionStore(new_id=lambda: "dec-1")
    approved(target)
    refused("DECISION_EXISTS", GOOD, target, conflict_mode="new_decision_id")


# -- step 5: sequence


@pytest.mark.parametrize("seqs", [[1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 6], [0, 1, 2, 3, 4, 4], [0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("replay", [True, False])
def test_a_gap_or_a_duplicate_is_refused_with_or_without_replay(seqs: list[int], verify: bool, replay: bool) -> None:
    data = unsectioned(GOOD)
    for event, seq in zip(data["events"], seqs, strict=True):
        event["seq"] = seq
    refused("REPLAY_INVALID", sealed(data), verify_digest=verify, replay_after_import=replay)


def test_a_gap_is_named_as_such_although_header_and_sections_do_not_fit_the_rest() -> None:
    data = copy.deepcopy(GOOD)
    del data["events"][1]
    assert refused("REPLAY_INVALID", sealed(data)) == "seq is not 0..4 without gap: 2 where 1 belongs (expected 1, got 2)"


def test_a_huge_seq_is_refused() -> None:
    refused("REPLAY_INVALID", edited(GOOD, "events.5.seq", 10**30), verify_digest=False)


def test_the_conflict_comes_before_the_sequence() -> None:
    target = new_store()
    approved(target)
    refused("DECISION_EXISTS", edited(GOOD, "events.5.seq", 9), target, verify_digest=False)


# -- step 6: insertion


class _Broken(DecisionStore):
    """A store whose insertion fails after it has written."""

    error: Exception = StoreFull("database or disk is full")

    def import_decision_atomic(self, *arguments: Any, **options: Any) -> tuple[bool, str | None]:
        super().import_decision_atomic(*arguments, **options)
        raise self.error


@pytest.mark.parametrize(("error", "code"), [(StoreFull("full"), "IMPORT_ATOMICITY_FAILED"), (DecisionExists("taken"), "DECISION_EXISTS")])
@pytest.mark.parametrize("mode", ["reject_on_conflict", "overwrite"])
def test_a_failure_of_the_database_leaves_nothing_behind(error: Exception, code: str, mode: str) -> None:
    target = _Broken()
    target.error = error
    if mode == "overwrite":
        approved(target)
    refused(code, GOOD, target, conflict_mode=mode)


def test_a_failure_while_replaying_the_rows_is_one_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    target = new_store()
    whole = target.get_events
    calls: list[str] = []

    def full(decision_id: str) -> Any:
        calls.append(decision_id)
        raise StoreFull("full")

    monkeypatch.setattr(target, "get_events", full)
    result = import_bundle(target, GOOD)
    monkeypatch.setattr(target, "get_events", whole)
    assert (result.error_code, calls) == ("IMPORT_ATOMICITY_FAILED", ["dec-1"])
    assert target.log_root()[0] == 0


def test_a_closed_store_is_a_failure_of_the_database() -> None:
    target = new_store()
    target.close()
    assert import_bundle(target, GOOD).error_code == "IMPORT_ATOMICITY_FAILED"


# -- step 7: replay


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("events.1.payload.min_approvals", 0),
        ("events.1.payload.allowed_modes", []),
        ("events.0.payload.goal", 5),
        ("events.2.payload.expires_at", "soon"),
        ("events.2.payload.expires_at", 5),
        ("events.3.payload.dry_run", "no"),
        ("events.5.payload.steps_executed", "2"),
    ],
)
def test_events_from_which_no_decision_can_be_replayed_do_not_reach_the_store(path: str, value: object) -> None:
    data = edited(GOOD, path, value)
    refused("REPLAY_INVALID", data, verify_digest=False)
    accepted(data, new_store(), verify_digest=False, replay_after_import=False)


def test_a_failed_overwrite_leaves_the_former_generation_the_newest(tmp_path: Path) -> None:
    target = new_store(tmp_path / "a.db")
    approved(target)
    data = edited(GOOD, "events.1.payload.min_approvals", 0)
    refused("REPLAY_INVALID", data, target, verify_digest=False, conflict_mode="overwrite")
    target.close()
    again = new_store(tmp_path / "a.db")
    assert again.list_generations("dec-1")[-1]["generation"] == 1
    assert len(again.get_events("dec-1")) == 3
    assert again.log_root()[0] == 4
    assert again.verify_log().ok


# -- what must be accepted


def test_stale_digests_are_accepted_without_verification_and_with_replay() -> None:
    data = edited(GOOD, "events.0.payload.goal", "edited")
    target = new_store()
    result = accepted(data, target, verify_digest=False)
    assert (result.digest_verified, result.replay_ran) == (False, True)
    assert Decision.load(target, "dec-1").goal == "edited"
    assert not target.verify_log("dec-1").ok


def test_a_renamed_header_over_events_with_the_former_id_is_accepted() -> None:
    data = edited(GOOD, "decision.decision_id", "renamed")
    bundle = DecisionBundle.from_dict(data)
    digest = compute_bundle_digest(bundle.bundle_version, bundle.decision, bundle.events, bundle.template_snapshot, bundle.router_link)
    data["integrity"]["canonical_digest"] = "sha256:" + digest
    target = new_store()
    result = accepted(data, target, conflict_mode="overwrite", replay_after_import=False)
    assert result.decision_id == "renamed"
    assert target.get_events("renamed")[0].event_id == "evt_renamed_0"
    assert accepted(data, new_store()).decision_id == "renamed"


def test_a_digest_without_prefix_is_accepted() -> None:
    accepted(edited(GOOD, "integrity.canonical_digest", GOOD["integrity"]["canonical_digest"].removeprefix("sha256:")), new_store())


def test_a_later_minor_version_is_accepted() -> None:
    accepted(sealed(edited(GOOD, "bundle_version", "0.7")), new_store())


def test_absent_sections_and_a_true_creator_are_accepted() -> None:
    accepted(sealed(unsectioned(edited(GOOD, "decision.creator", ALICE))), new_store())


# -- text


def test_text_of_a_bundle_is_parsed() -> None:
    bundle, problem = parse_bundle_from_json(json.dumps(GOOD))
    assert problem is None
    assert bundle == DecisionBundle.from_dict(GOOD)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not readable JSON"),
        ("[]", "a bundle must be a JSON object, got list"),
        ("{}", "Missing required field: bundle_version; Missing required field: decision"),
        (json.dumps(edited(GOOD, "meta", 1)), "bundle.meta must be an object, got int"),
        (None, "a bundle must be a JSON object, got NoneType"),
    ],
)
def test_text_of_no_bundle_is_explained(text: Any, problem: str) -> None:
    bundle, text = parse_bundle_from_json(text)
    assert bundle is None
    assert str(text).startswith(problem)


# -- nothing escapes

_PLACES = places(GOOD)
_CODES = {
    "BUNDLE_INVALID_SCHEMA",
    "INTEGRITY_MISMATCH",
    "DECISION_EXISTS",
    "CONFLICT_MODE_INVALID",
    "REPLAY_INVALID",
    "IMPORT_ATOMICITY_FAILED",
}


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(_PLACES), nonsense()), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["reject_on_conflict", "new_decision_id", "overwrite"]),
)
def test_no_malformed_bundle_raises_and_whatever_was_stored_with_replay_can_be_loaded(
    edits: list[tuple[str, Any]], reseal: bool, verify: bool, replay: bool, mode: str
) -> None:
    data: Any = copy.deepcopy(GOOD)
    for place, value in edits:
        put(data, place, value)
    if reseal:
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            data = sealed(unsectioned(data))
    target = new_store()
    approved(target, "dec-1")
    before = state_of(target)
    result = import_bundle(target, data, verify_digest=verify, conflict_mode=mode, replay_after_import=replay)
    if result.success:
        assert target.log_root()[0] > 4
        if replay:
            decision = Decision.load(target, str(result.decision_id))
            assert len(decision.events) == result.events_imported
            assert export_decision(target, decision.decision_id).success
    else:
        assert result.error_code in _CODES
        assert state_of(target) == before


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40), st.integers(min_value=0, max_value=4000))
def test_no_text_raises(noise: bytes | str, at: int) -> None:
    text = json.dumps(GOOD)
    if isinstance(noise, str):
        spliced: str | bytes = text[:at] + noise + text[at:]
    else:
        spliced = text.encode()[:at] + noise + text.encode()[at:]
    for given_text in (noise, spliced):
        result = import_bundle(new_store(), given_text)
        assert result.success or result.error_code in _CODES


def test_an_audit_package_is_no_bundle_but_holds_one() -> None:
    package = embedded_package()
    refused("BUNDLE_INVALID_SCHEMA", package)
    accepted(package["control_bundle"], new_store())
