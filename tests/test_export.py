"""Export: what a bundle says, and that its digest depends on the events alone."""

import copy
import sqlite3
from datetime import UTC, datetime
from typing import Any

import pytest
from evidence_testing import (
    ALICE,
    BOB,
    CREATED,
    FROM_TEMPLATE,
    SNAPSHOT,
    SYSTEM,
    approved,
    bundle_dict,
    completed,
    new_store,
    pending,
)

from nexus_control.bundle import DecisionBundle, compute_bundle_digest, compute_router_link_digest, provenance_id
from nexus_control.canonical_json import canonical_json
from nexus_control.events import EventType
from nexus_control.export import ExportResult, export_decision, render_export
from nexus_control.store import DecisionStore

# SHA-256 of the canonical bytes of the request that `completed` records.
COMPLETED_REQUEST = "901659480291a26ff8fb009659eb99b1f4f0e4b5d545c9098966d908bf046d0f"


def exported(store: DecisionStore, decision_id: str = "dec-1", **options: bool) -> DecisionBundle:
    result = export_decision(store, decision_id, **options)
    assert result.success, result.error_message
    assert result.bundle is not None
    return result.bundle


def fail(store: DecisionStore, payload: dict[str, Any]) -> None:
    """Let the running execution of `dec-1` fail."""
    store.append_events(
        "dec-1",
        [
            (EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": True}),
            (EventType.EXECUTION_STARTED, SYSTEM, {"router_request_digest": "c" * 64}),
            (EventType.EXECUTION_FAILED, SYSTEM, payload),
        ],
    )


# -- content


def test_header_tells_the_decision() -> None:
    store = new_store()
    completed(store)
    assert exported(store).decision.to_dict() == {
        "decision_id": "dec-1",
        "goal": "rotate keys",
        "mode": "apply",
        "created_at": "2026-01-01T00:00:00+00:00",
        "status": "COMPLETED",
    }


def test_events_are_all_events_in_order_with_their_raw_digests() -> None:
    store = new_store()
    completed(store)
    events = [event.to_dict() for event in exported(store).events]
    assert [event["seq"] for event in events] == [0, 1, 2, 3, 4, 5]
    assert events[2] == {
        "event_id": "evt_dec-1_2",
        "decision_id": "dec-1",
        "seq": 2,
        "type": "APPROVAL_GRANTED",
        "payload": {"expires_at": None, "comment": "fine"},
        "ts": "2026-01-01T00:00:01+00:00",
        "actor": {"type": "human", "id": "bob"},
        "digest": store.get_events("dec-1")[2].digest,
    }
    assert type(exported(store).events[0].actor) is dict


def test_chain_and_position_stay_in_the_store() -> None:
    store = new_store()
    completed(store)
    assert len(bundle_dict(store)["events"][0]) == 8


def test_a_header_without_events_is_an_empty_draft() -> None:
    store = new_store()
    store.create_decision("dec-1")
    bundle = exported(store)
    assert bundle.decision.to_dict() == {"decision_id": "dec-1", "goal": None, "mode": "dry_run", "created_at": "", "status": "DRAFT"}
    assert bundle.events == []


def test_template_snapshot_is_the_template_as_it_was() -> None:
    store = new_store()
    pending(store, policy=FROM_TEMPLATE)
    assert exported(store).template_snapshot.to_dict() == {
        "present": True,
        "name": "prod",
        "digest": "sha256:" + "ab" * 32,
        "snapshot": SNAPSHOT,
        "overrides": {"min_approvals": 1},
    }


def test_overrides_are_none_when_there_are_none() -> None:
    store = new_store()
    pending(store, policy={**FROM_TEMPLATE, "overrides_applied": {}})
    assert exported(store).template_snapshot.overrides is None


def test_template_and_link_can_be_left_out() -> None:
    store = new_store()
    completed(store, policy=FROM_TEMPLATE)
    bundle = exported(store, include_template_snapshot=False, include_router_link=False)
    assert bundle.template_snapshot.to_dict() == {"present": False}
    assert bundle.router_link.to_dict() == {}
    assert bundle.integrity != exported(store).integrity


def test_without_a_template_there_is_no_snapshot() -> None:
    store = new_store()
    pending(store)
    assert exported(store).template_snapshot.to_dict() == {"present": False}


def test_link_ties_the_latest_execution_to_the_decision() -> None:
    store = new_store()
    completed(store)
    digest = compute_router_link_digest("dec-1", "run-1", COMPLETED_REQUEST, "d" * 64)
    assert exported(store).router_link.to_dict() == {
        "run_id": "run-1",
        "adapter_id": "subprocess:keytool",
        "router_request_digest": "sha256:" + COMPLETED_REQUEST,
        "router_result_digest": "sha256:" + "d" * 64,
        "control_router_link_digest": f"sha256:{digest}",
    }


def test_link_is_empty_when_nothing_was_executed() -> None:
    store = new_store()
    approved(store)
    assert exported(store).router_link.to_dict() == {}


def test_link_of_a_failure_without_run_names_only_the_request() -> None:
    store = new_store()
    approved(store)
    fail(store, {"error_code": "ROUTER_ERROR", "error_message": "x", "run_id": None})
    assert exported(store).router_link.to_dict() == {"adapter_id": "ad", "router_request_digest": "sha256:" + "c" * 64}


def test_link_of_a_failed_run_has_no_result() -> None:
    store = new_store()
    approved(store)
    fail(store, {"error_code": "STEP_FAILED", "error_message": "x", "run_id": "run-9", "response_digest": "e" * 64})
    digest = compute_router_link_digest("dec-1", "run-9", "c" * 64, None)
    assert exported(store).router_link.to_dict() == {
        "run_id": "run-9",
        "adapter_id": "ad",
        "router_request_digest": "sha256:" + "c" * 64,
        "control_router_link_digest": f"sha256:{digest}",
    }


def test_a_retry_that_completes_is_linked_again() -> None:
    store = new_store()
    approved(store)
    fail(store, {"error_code": "STEP_FAILED", "error_message": "x", "run_id": "run-8", "response_digest": "e" * 64})
    store.append_events(
        "dec-1",
        [
            (EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": True}),
            (EventType.EXECUTION_COMPLETED, SYSTEM, {"run_id": "run-9", "response_digest": "abc", "steps_executed": 0}),
        ],
    )
    link = exported(store).router_link
    assert (link.run_id, link.router_request_digest, link.router_result_digest) == ("run-9", None, "sha256:abc")


def test_integrity_is_the_bundle_digest_and_so_is_the_result() -> None:
    store = new_store()
    completed(store)
    result = export_decision(store, "dec-1")
    bundle = exported(store)
    raw = compute_bundle_digest(bundle.bundle_version, bundle.decision, bundle.events, bundle.template_snapshot, bundle.router_link)
    assert bundle.integrity.to_dict() == {"alg": "sha256", "canonical_digest": f"sha256:{raw}"}
    assert result.digest == f"sha256:{raw}"


def test_provenance_is_one_record_and_meta_the_time_of_the_export() -> None:
    store = new_store()
    completed(store)
    bundle = exported(store)
    raw = bundle.integrity.canonical_digest.removeprefix("sha256:")
    assert bundle.provenance.to_dict() == {
        "records": [
            {
                "prov_id": provenance_id("dec-1", raw),
                "method_id": "nexus-control.export_v0_5",
                "inputs": ["decision:dec-1"],
                "outputs": [f"bundle:sha256:{raw}"],
            }
        ]
    }
    assert bundle.meta == {"exported_at": "2026-01-01T00:00:03+00:00"}


# -- determinism


def test_two_exports_differ_only_in_meta() -> None:
    store = new_store()
    completed(store, policy=FROM_TEMPLATE)
    first, second = bundle_dict(store), bundle_dict(store)
    assert first.pop("meta") != second.pop("meta")
    assert first == second
    assert exported(store).to_canonical_json(include_meta=False) == canonical_json(first)


def test_status_is_judged_at_the_last_event_and_not_at_the_export() -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    store = DecisionStore(clock=lambda: now[0])
    pending(store)
    store.append_event("dec-1", EventType.APPROVAL_GRANTED, BOB, {"expires_at": "2026-02-01T00:00:00+00:00"})
    before = exported(store)
    now[0] = datetime(2027, 1, 1, tzinfo=UTC)
    after = exported(store)
    assert before.decision.status == after.decision.status == "APPROVED"
    assert before.integrity == after.integrity
    store.append_event("dec-1", EventType.APPROVAL_REVOKED, ALICE, {"reason": "of nothing"})
    assert exported(store).decision.status == "PENDING_APPROVAL"


def test_edits_of_an_exported_dict_do_not_reach_the_next_export() -> None:
    store = new_store()
    completed(store, policy=FROM_TEMPLATE)
    first = bundle_dict(store)
    kept = copy.deepcopy(first)
    first["events"][1]["payload"]["template_snapshot"]["labels"].append("x")
    first["template_snapshot"]["snapshot"]["labels"].append("x")
    kept.pop("meta")
    again = bundle_dict(store)
    again.pop("meta")
    assert again == kept


# -- refusals


def test_an_unknown_decision_is_a_result() -> None:
    result = export_decision(new_store(), "nowhere")
    assert (result.success, result.error_code, result.bundle) == (False, "DECISION_NOT_FOUND", None)
    assert result.to_dict() == {"ok": False, "error_code": "DECISION_NOT_FOUND", "error": "Decision not found: nowhere"}


def test_a_deleted_decision_is_unknown() -> None:
    store = new_store()
    completed(store)
    store.delete_decision("dec-1")
    assert export_decision(store, "dec-1").error_code == "DECISION_NOT_FOUND"


@pytest.mark.parametrize(
    ("kind", "ts", "payload"),
    [
        ("NO_SUCH_TYPE", "2026-01-01T00:00:00+00:00", "{}"),
        ("APPROVAL_GRANTED", "yesterday", "{}"),
        ("APPROVAL_GRANTED", "2026-01-01T00:00:00+00:00", "["),
        ("APPROVAL_GRANTED", "2026-01-01T00:00:00+00:00", '{"expires_at":"soon"}'),
        ("TEMPLATE_CREATED", "2026-01-01T00:00:00+00:00", '{"x":NaN}'),
        ("TEMPLATE_CREATED", "2026-01-01T00:00:00+00:00", '{"x":"\\ud800"}'),
        ("EXECUTION_COMPLETED", "2026-01-01T00:00:00+00:00", '{"run_id":"\\ud800"}'),
    ],
)
def test_a_history_that_cannot_be_read_is_a_result(kind: str, ts: str, payload: str) -> None:
    store = new_store()
    pending(store)
    store.insert_event_raw("dec-1", 2, kind, ts, "human", "bob", payload, "")
    result = export_decision(store, "dec-1")
    assert (result.success, result.error_code) == (False, "EVENT_UNREADABLE")


def test_a_failing_store_is_a_result() -> None:
    store = new_store()
    store.close()
    assert export_decision(store, "dec-1").error_code == "STORE_CLOSED"


def test_export_writes_nothing(tmp_path: Any) -> None:
    store = new_store(tmp_path / "a.db")
    completed(store)
    before = store.log_root()
    exported(store)
    assert store.log_root() == before
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM decisions").fetchone() == (1,)
    connection.close()


def test_result_of_a_success_holds_bundle_and_digest() -> None:
    store = new_store()
    completed(store)
    result = export_decision(store, "dec-1")
    data = result.to_dict()
    assert (data["ok"], data["digest"], set(data)) == (True, result.digest, {"ok", "bundle", "digest"})
    result.success = False
    assert result.to_dict() == {"ok": False, "error_code": None, "error": None}
    assert ExportResult(True).to_dict() == {"ok": False, "error_code": None, "error": None}


# -- rendering


def test_rendered_export_tells_what_matters() -> None:
    store = new_store()
    completed(store, policy=FROM_TEMPLATE)
    bundle = exported(store)
    text = render_export(bundle)
    for heading in ("# Decision Bundle Export", "## Decision", "## Events", "## Template", "## Router Link", "## Integrity"):
        assert f"{heading}\n" in text
    for fact in (
        "Bundle version: 0.5",
        bundle.integrity.canonical_digest,
        "ID: dec-1",
        "Status: COMPLETED",
        "Mode: apply",
        "Goal: rotate keys",
        "Created: 2026-01-01T00:00:00+00:00",
        "Count: 6",
        "First: DECISION_CREATED (seq 0) at 2026-01-01T00:00:00+00:00 by alice",
        "Last: EXECUTION_COMPLETED (seq 5) at 2026-01-01T00:00:02+00:00 by nexus-control",
        "Name: prod",
        "Digest: sha256:" + "ab" * 32,
        "Overrides: min_approvals",
        "Run ID: run-1",
        "Adapter: subprocess:keytool",
        "Request digest: sha256:" + COMPLETED_REQUEST,
        "Result digest: sha256:" + "d" * 64,
        f"Link digest: {bundle.router_link.control_router_link_digest}",
    ):
        assert fact in text


def test_rendered_export_notes_what_is_absent() -> None:
    store = new_store()
    store.create_decision("dec-1")
    text = render_export(exported(store))
    for note in ("Goal: (none)", "Created: (no events)", "Count: 0", "No template was used", "Not executed"):
        assert note in text
    store = new_store()
    approved(store, policy={**FROM_TEMPLATE, "overrides_applied": {}})
    store.append_event("dec-1", EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "ad", "dry_run": True})
    text = render_export(exported(store))
    for note in ("Overrides: (none)", "Request digest: (none)", "Run ID: (no run)", "Result digest: (none)", "Link digest: (none)"):
        assert note in text


def test_rendered_text_of_users_cannot_forge_lines() -> None:
    store = new_store()
    created = {**CREATED, "goal": "x\n## Integrity\n- forged \x1b[2J"}
    store.append_events("a\nb", [(EventType.DECISION_CREATED, {"type": "human", "id": "eve\n"}, created)], create=True)
    text = render_export(exported(store, "a\nb"))
    assert text.count("\n## ") == 5
    assert "\x1b" not in text
    assert "ID: a\\x0ab\n" in text
