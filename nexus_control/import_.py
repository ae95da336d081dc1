"""Import: a decision bundle becomes a decision of this store, whole or not at all.

What is imported are claims of the system that exported them: the digest proves that the bundle is unchanged, not who made it. The
header of the imported decision records where it came from. Its approvals are shown as they were told, and make nothing executable here
unless they are signed and the signatures believed (`past`). No input raises: every refusal is a result with a stable code, and leaves
the store as it was.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast, get_args

from nexus_control.bundle import (
    IMPORT_ERROR_ATOMICITY_FAILED,
    IMPORT_ERROR_BUNDLE_INVALID_SCHEMA,
    IMPORT_ERROR_CONFLICT_MODE_INVALID,
    IMPORT_ERROR_DECISION_EXISTS,
    IMPORT_ERROR_INTEGRITY_MISMATCH,
    IMPORT_ERROR_REPLAY_INVALID,
    BundleDecision,
    BundleEvent,
    BundleIntegrity,
    BundleRouterLink,
    BundleTemplateSnapshot,
    ConflictMode,
    DecisionBundle,
    validate_bundle_schema,
)
from nexus_control.bundle_checks import (
    Recomputed,
    bundle_digest_findings,
    event_digest_findings,
    header_findings,
    recompute,
    replay_bundle,
    section_findings,
    sequence_findings,
    stored_event,
    version_findings,
)
from nexus_control.decision import Decision
from nexus_control.errors import CodedError, DecisionExists, InvalidActor, MalformedBundle, MalformedEvent, NexusError, StoreError
from nexus_control.events import parse_actor, parse_time
from nexus_control.integrity import prefixed
from nexus_control.json_data import parse_json
from nexus_control.lifecycle import compute_lifecycle
from nexus_control.store import EventStore, ImportOrigin
from nexus_control.verification import Finding

__all__ = ["ImportResult", "ReplayResult", "import_bundle", "parse_bundle_from_json"]


@dataclass(slots=True)
class ReplayResult:
    """What replaying the imported events gave; `blocking_reasons` are those of the lifecycle, as dicts."""

    ok: bool
    blocking_reasons: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    timeline_truncated: bool = False
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`ok`, `blocking_reasons`, `timeline_truncated`, and `error` when there is one."""
        data: dict[str, Any] = {
            "ok": self.ok,
            "blocking_reasons": list(self.blocking_reasons),
            "timeline_truncated": self.timeline_truncated,
        }
        if self.error is not None:
            data["error"] = self.error
        return data


@dataclass(slots=True)
class ImportResult:
    """`decision_id` is where the decision is now, `original_decision_id` its id in the bundle; `new_decision_id` only if they differ.

    `digest_verified` says whether verification was asked for (and then passed). On failure `error_code` is one of the
    `IMPORT_ERROR_*` codes.
    """

    success: bool
    decision_id: str | None = None
    original_decision_id: str | None = None
    new_decision_id: str | None = None
    events_imported: int = 0
    digest_verified: bool = False
    conflict_mode: str | None = None
    replay_ran: bool = False
    replay: ReplayResult | None = None
    error_code: str | None = None
    error_message: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`ok`, `imported`, `digest_verified`, `conflict_mode`, `replay_ran`, and `replay` if it ran; or `ok`, `error_code`, `error`."""
        if not self.success:
            return {"ok": False, "error_code": self.error_code, "error": self.error_message}
        imported: dict[str, Any] = {"decision_id": self.decision_id, "events_imported": self.events_imported}
        if self.original_decision_id != self.decision_id:
            imported["original_decision_id"] = self.original_decision_id
        if self.new_decision_id is not None:
            imported["new_decision_id"] = self.new_decision_id
        data: dict[str, Any] = {
            "ok": True,
            "imported": imported,
            "digest_verified": self.digest_verified,
            "conflict_mode": self.conflict_mode,
            "replay_ran": self.replay_ran,
        }
        if self.replay is not None:
            data["replay"] = self.replay.to_dict()
        return data


def import_bundle(
    store: EventStore,
    bundle: DecisionBundle | dict[str, Any] | str | bytes,
    verify_digest: bool = True,
    conflict_mode: str = "reject_on_conflict",
    replay_after_import: bool = True,
) -> ImportResult:
    """Store a bundle (object, dict form or JSON text) as a decision, in one transaction.

    1. The bundle can be read, else BUNDLE_INVALID_SCHEMA.
    2. `conflict_mode` is a ConflictMode, else CONFLICT_MODE_INVALID.
    3. With `verify_digest`: digests, header and derived sections agree with the events, else INTEGRITY_MISMATCH.
    4. If the decision exists: DECISION_EXISTS, a new id, or a new generation of the same id, by `conflict_mode`.
    5. The events are 0, 1, 2 ... without gap, in whatever order they are listed, else REPLAY_INVALID.
    6. Header and events are inserted; DECISION_EXISTS or IMPORT_ATOMICITY_FAILED when the database refuses.
    7. With `replay_after_import`: the inserted rows replay, else REPLAY_INVALID.

    Steps 4 to 7 are one write transaction, committed at the end: after any failure the store is as before. Without replay, events
    that replay could not even read are refused in step 1. Payloads, times, actors and digests are stored as they are; the
    decision's id, and the ids of its events, are those of the target.
    """
    try:
        data = _document(bundle)
        parsed, recomputed = _read(data, replayed_later=replay_after_import)
        if conflict_mode not in get_args(ConflictMode):
            raise CodedError(IMPORT_ERROR_CONFLICT_MODE_INVALID, f"conflict_mode must be one of {', '.join(get_args(ConflictMode))}")
        if verify_digest:
            findings = _disagreements(data, parsed, recomputed, replayed_later=replay_after_import)
            _refuse_first(IMPORT_ERROR_INTEGRITY_MISMATCH, findings)
        target, replay = _insert(store, parsed, recomputed, conflict_mode, replay=replay_after_import)
    except MalformedBundle as problem:
        return _failure(IMPORT_ERROR_BUNDLE_INVALID_SCHEMA, problem)
    except CodedError as refusal:
        return _failure(refusal.code, refusal)
    except DecisionExists as conflict:
        return _failure(IMPORT_ERROR_DECISION_EXISTS, conflict)
    except StoreError as failure:
        return _failure(IMPORT_ERROR_ATOMICITY_FAILED, failure)
    original = parsed.decision.decision_id
    return ImportResult(
        success=True,
        decision_id=target,
        original_decision_id=original,
        new_decision_id=target if target != original else None,
        events_imported=len(parsed.events),
        digest_verified=bool(verify_digest),
        conflict_mode=conflict_mode,
        replay_ran=bool(replay_after_import),
        replay=replay,
    )


def parse_bundle_from_json(json_str: str | bytes) -> tuple[DecisionBundle | None, str | None]:
    """The bundle of a JSON text and None, or None and what is wrong. Compares no digests."""
    try:
        return _build(_document(json_str)), None
    except MalformedBundle as problem:
        return None, str(problem)


def _failure(code: str, problem: Exception) -> ImportResult:
    return ImportResult(success=False, error_code=code, error_message=str(problem))


def _document(bundle: object) -> dict[str, Any]:
    """The bundle as JSON data, whatever form it was given in."""
    if isinstance(bundle, (str, bytes)):
        bundle = parse_json(bundle)
    elif isinstance(bundle, DecisionBundle):
        return _object_document(bundle)
    if isinstance(bundle, dict):
        return cast("dict[str, Any]", bundle)
    raise MalformedBundle(f"a bundle must be a JSON object, got {type(bundle).__name__}")


def _object_document(bundle: DecisionBundle) -> dict[str, Any]:
    """What an import reads of a bundle object, which callers may have edited into anything."""
    parts: list[tuple[object, type]] = [
        (bundle.decision, BundleDecision),
        (bundle.template_snapshot, BundleTemplateSnapshot),
        (bundle.router_link, BundleRouterLink),
        (bundle.integrity, BundleIntegrity),
        (bundle.events, list),
    ]
    if all(isinstance(part, kind) for part, kind in parts):
        parts += [(event, BundleEvent) for event in bundle.events]
    if not all(isinstance(part, kind) for part, kind in parts):
        raise MalformedBundle("a part of the bundle has the wrong type")
    return {
        "bundle_version": bundle.bundle_version,
        "decision": bundle.decision.to_dict(),
        "events": [event.to_dict() for event in bundle.events],
        "template_snapshot": bundle.template_snapshot.to_dict(),
        "router_link": bundle.router_link.to_dict(),
        "integrity": bundle.integrity.to_dict(),
    }


def _build(data: dict[str, Any]) -> DecisionBundle:
    if problems := validate_bundle_schema(data):
        raise MalformedBundle("; ".join(problems))
    return DecisionBundle.from_dict(data)


def _read(data: dict[str, Any], *, replayed_later: bool) -> tuple[DecisionBundle, Recomputed]:
    """Step 1: the bundle and its digests. Raises MalformedBundle for what cannot be stored as a decision."""
    bundle = _build(data)
    recomputed = recompute(bundle)
    for finding in version_findings(bundle):
        raise MalformedBundle(f"{finding.detail}: {finding.actual}")
    try:
        if bundle.decision.created_at:
            parse_time(bundle.decision.created_at)
        for event in recomputed.events:
            if replayed_later:
                parse_actor(event.actor)
            else:
                stored_event(bundle.decision.decision_id, event)
    except (InvalidActor, MalformedEvent) as error:
        raise MalformedBundle(str(error)) from None
    return bundle, recomputed


def _disagreements(data: Mapping[str, Any], bundle: DecisionBundle, recomputed: Recomputed, *, replayed_later: bool) -> Iterator[Finding]:
    """Step 3. Sections and header are compared with events that make a history; steps 5 and 7 have their own code for others."""
    yield from bundle_digest_findings(bundle, recomputed)
    yield from event_digest_findings(recomputed, absent_allowed=True)
    if any(sequence_findings(recomputed.events)):
        return
    yield from section_findings(bundle, data)
    try:
        decision = replay_bundle(bundle.decision.decision_id, recomputed.events)
    except NexusError as error:
        if not replayed_later:
            yield Finding(f"the header cannot be compared, the events do not replay: {error}")
        return
    yield from header_findings(bundle.decision, decision)


def _insert(
    store: EventStore, bundle: DecisionBundle, recomputed: Recomputed, conflict_mode: str, *, replay: bool
) -> tuple[str, ReplayResult | None]:
    """Steps 4 to 7: the target id, and what replay gave."""
    original = bundle.decision.decision_id
    with store.transaction():
        target = original
        if store.decision_exists(original):
            if conflict_mode == "reject_on_conflict":
                raise CodedError(IMPORT_ERROR_DECISION_EXISTS, f"Decision already exists: {original}")
            if conflict_mode == "new_decision_id":
                target = store.new_id()
        _refuse_first(IMPORT_ERROR_REPLAY_INVALID, sequence_findings(recomputed.events))
        now = store.clock()
        inserted, text = store.import_decision_atomic(
            target,
            bundle.decision.created_at or now.isoformat(),
            [_row(event, payload) for event, payload in zip(recomputed.events, recomputed.payload_texts, strict=True)],
            overwrite=conflict_mode == "overwrite",
            origin=ImportOrigin(imported_at=now.isoformat(), imported_from=original, bundle_digest=prefixed(recomputed.bundle_digest)),
        )
        if not inserted:
            raise CodedError(IMPORT_ERROR_DECISION_EXISTS, str(text))
        return target, _replay(store, target, now) if replay else None


def _row(event: BundleEvent, payload_text: str) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "event_type": event.type,
        "ts": event.ts,
        "actor_type": event.actor["type"],
        "actor_id": event.actor["id"],
        "payload": payload_text,
        "digest": event.digest,
    }


def _replay(store: EventStore, decision_id: str, now: datetime) -> ReplayResult:
    """Step 7, on the rows that were inserted, not on the bundle that they came from."""
    try:
        lifecycle = compute_lifecycle(Decision.load(store, decision_id, as_of=now))
    except StoreError:
        raise
    except NexusError as error:
        raise CodedError(IMPORT_ERROR_REPLAY_INVALID, str(error)) from None
    reasons = [reason.to_dict() for reason in lifecycle.blocking_reasons]
    return ReplayResult(ok=True, blocking_reasons=reasons, timeline_truncated=lifecycle.timeline_truncated)


def _refuse_first(code: str, findings: Iterator[Finding]) -> None:
    for finding in findings:
        shown = "" if finding.expected is None and finding.actual is None else f" (expected {finding.expected}, got {finding.actual})"
        raise CodedError(code, finding.detail + shown)
