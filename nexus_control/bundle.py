"""The decision bundle: one decision with all its events as a portable document, and the digest that freezes it.

A document is parsed into the types below once, or refused (MalformedBundle); nothing is cached, so a caller may edit the objects in
place and compute again. Nothing here judges a bundle: `bundle_checks` compares it with its own digests and events.

Covered by the digest: `bundle_version`, `decision`, `events`, `template_snapshot`, `router_link`. Outside: `integrity`, `provenance`,
`meta`, and the derived sections `policy` and `approvals`. Keys that these types do not know are not part of a bundle and are dropped.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from json.encoder import encode_basestring as _quote  # a single string's canonical text (RFC 8785 section 3.2.2.2)
from operator import attrgetter
from typing import Any, Literal, Self, TypeAlias, cast

from nexus_control.canonical_json import canonical_json
from nexus_control.errors import MalformedBundle
from nexus_control.integrity import content_digest, sha256_digest
from nexus_control.json_data import (
    copy_json,
    list_field,
    object_field,
    object_of,
    optional_object_field,
    optional_text_field,
    text_field,
)

__all__ = [
    "BUNDLE_VERSION",
    "EXPORT_ERROR_DECISION_NOT_FOUND",
    "IMPORT_ERROR_ATOMICITY_FAILED",
    "IMPORT_ERROR_BUNDLE_INVALID_SCHEMA",
    "IMPORT_ERROR_CONFLICT_MODE_INVALID",
    "IMPORT_ERROR_DECISION_EXISTS",
    "IMPORT_ERROR_INTEGRITY_MISMATCH",
    "IMPORT_ERROR_REPLAY_INVALID",
    "BundleDecision",
    "BundleEvent",
    "BundleIntegrity",
    "BundleProvenance",
    "BundleRouterLink",
    "BundleTemplateSnapshot",
    "ConflictMode",
    "DecisionBundle",
    "ProvenanceRecord",
    "compute_bundle_digest",
    "compute_canonical_payload",
    "compute_router_link_digest",
    "digest_of_event_texts",
    "event_text",
    "provenance_id",
    "validate_bundle_schema",
]

BUNDLE_VERSION = "0.5"

ConflictMode: TypeAlias = Literal["reject_on_conflict", "new_decision_id", "overwrite"]
"""What an import does when the decision exists already."""

EXPORT_ERROR_DECISION_NOT_FOUND = "DECISION_NOT_FOUND"
IMPORT_ERROR_BUNDLE_INVALID_SCHEMA = "BUNDLE_INVALID_SCHEMA"
IMPORT_ERROR_INTEGRITY_MISMATCH = "INTEGRITY_MISMATCH"
IMPORT_ERROR_DECISION_EXISTS = "DECISION_EXISTS"
IMPORT_ERROR_CONFLICT_MODE_INVALID = "CONFLICT_MODE_INVALID"
IMPORT_ERROR_REPLAY_INVALID = "REPLAY_INVALID"
IMPORT_ERROR_ATOMICITY_FAILED = "IMPORT_ATOMICITY_FAILED"

_POLICY_DEFAULTS: dict[str, Any] = {
    "min_approvals": 1,
    "allowed_modes": ["dry_run"],
    "require_adapter_capabilities": [],
    "max_steps": None,
    "labels": [],
}


@dataclass(slots=True)
class BundleDecision:
    """The header. `status` is the state in upper case, judged at the time of the last event; `created_at` is empty without events."""

    decision_id: str
    goal: str | None
    mode: str
    created_at: str
    status: str
    creator: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The five base keys, and `creator` when it is set; it then counts for the digest."""
        data: dict[str, Any] = {
            "decision_id": self.decision_id,
            "goal": self.goal,
            "mode": self.mode,
            "created_at": self.created_at,
            "status": self.status,
        }
        if self.creator is not None:
            data["creator"] = copy_json(self.creator)
        return data

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; `mode` defaults to `dry_run`, `goal` and `creator` to None. Raises MalformedBundle."""
        fields = object_of(data, "decision")
        return cls(
            text_field(fields, "decision_id", "decision"),
            optional_text_field(fields, "goal", "decision"),
            text_field(fields, "mode", "decision", "dry_run"),
            text_field(fields, "created_at", "decision"),
            text_field(fields, "status", "decision"),
            optional_object_field(fields, "creator", "decision"),
        )


@dataclass(slots=True)
class BundleEvent:
    """One event. `digest` is the raw event digest (type and payload), `ts` ISO 8601."""

    event_id: str
    decision_id: str
    seq: int
    type: str
    payload: dict[str, Any]
    ts: str
    actor: dict[str, Any]
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """The eight keys, as an independent copy."""
        return {
            "event_id": self.event_id,
            "decision_id": self.decision_id,
            "seq": self.seq,
            "type": self.type,
            "payload": copy_json(self.payload),
            "ts": self.ts,
            "actor": copy_json(self.actor),
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`, sharing payload and actor with `data`.

        `payload` and `actor` default to `{}`, `digest` to `""`. Raises MalformedBundle.
        """
        fields = object_of(data, "event")
        get = fields.get
        event_id, decision_id, seq, kind, ts = get("event_id"), get("decision_id"), get("seq"), get("type"), get("ts")
        payload, actor, digest = get("payload", {}), get("actor", {}), get("digest", "")
        if (
            isinstance(event_id, str)
            and isinstance(decision_id, str)
            and type(seq) is int
            and seq >= 0
            and isinstance(kind, str)
            and isinstance(ts, str)
            and isinstance(payload, dict)
            and isinstance(actor, dict)
            and isinstance(digest, str)
        ):
            return cls(event_id, decision_id, seq, kind, cast("dict[str, Any]", payload), ts, cast("dict[str, Any]", actor), digest)
        raise MalformedBundle("; ".join(_event_problems(fields, "event", ("event_id", "decision_id", "seq", "type", "ts"))))


@dataclass(slots=True)
class BundleTemplateSnapshot:
    """The template as it was when the decision used it; `digest` is prefixed, `overrides` None when nothing was overridden."""

    present: bool
    name: str | None = None
    digest: str | None = None
    snapshot: dict[str, Any] | None = None
    overrides: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """`{"present": False}`, or all five keys as an independent copy."""
        if not self.present:
            return {"present": False}
        return {
            "present": True,
            "name": self.name,
            "digest": self.digest,
            "snapshot": copy_json(self.snapshot),
            "overrides": copy_json(self.overrides),
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; anything without a true `present` is an absent snapshot. Raises MalformedBundle for a wrong member."""
        if not isinstance(data, dict):
            return cls(present=False)
        fields = cast("dict[str, Any]", data)
        if fields.get("present") is not True:
            return cls(present=False)
        return cls(
            True,
            optional_text_field(fields, "name", "template_snapshot"),
            optional_text_field(fields, "digest", "template_snapshot"),
            optional_object_field(fields, "snapshot", "template_snapshot"),
            optional_object_field(fields, "overrides", "template_snapshot"),
        )


@dataclass(slots=True)
class BundleRouterLink:
    """What ties the decision to the latest run; the digests are prefixed. All None when nothing was executed."""

    run_id: str | None
    adapter_id: str | None
    router_request_digest: str | None
    router_result_digest: str | None
    control_router_link_digest: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Only the members that are set; an empty link is `{}`."""
        return {key: value for key in _LINK_KEYS if (value := getattr(self, key)) is not None}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; None gives an empty link. Raises MalformedBundle."""
        fields = object_of(data if data is not None else {}, "router_link")
        return cls(*(optional_text_field(fields, key, "router_link") for key in _LINK_KEYS))

    @classmethod
    def empty(cls) -> Self:
        """The link of a decision that was never executed."""
        return cls(None, None, None, None)


_LINK_KEYS = ("run_id", "adapter_id", "router_request_digest", "router_result_digest", "control_router_link_digest")


@dataclass(slots=True)
class BundleIntegrity:
    """The stored bundle digest; `canonical_digest` is prefixed."""

    alg: str
    canonical_digest: str

    def to_dict(self) -> dict[str, Any]:
        """Both keys."""
        return {"alg": self.alg, "canonical_digest": self.canonical_digest}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; `alg` defaults to `sha256`. Raises MalformedBundle."""
        fields = object_of(data, "integrity")
        return cls(text_field(fields, "alg", "integrity", "sha256"), text_field(fields, "canonical_digest", "integrity"))


@dataclass(slots=True)
class ProvenanceRecord:
    """One step of how a document came to be. Informative: no digest covers it."""

    prov_id: str
    method_id: str
    inputs: list[str] = field(default_factory=list[str])
    outputs: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        """The four keys, as an independent copy."""
        return {"prov_id": self.prov_id, "method_id": self.method_id, "inputs": list(self.inputs), "outputs": list(self.outputs)}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; `inputs` and `outputs` default to empty. Raises MalformedBundle."""
        where = "provenance.records"
        fields = object_of(data, where)
        lists = list_field(fields, "inputs", where), list_field(fields, "outputs", where)
        if not all(isinstance(name, str) for names in lists for name in names):
            raise MalformedBundle(f"{where}: inputs and outputs must be strings")
        return cls(text_field(fields, "prov_id", where), text_field(fields, "method_id", where), list(lists[0]), list(lists[1]))


@dataclass(slots=True)
class BundleProvenance:
    """Where a document came from."""

    records: list[ProvenanceRecord] = field(default_factory=list[ProvenanceRecord])

    def to_dict(self) -> dict[str, Any]:
        """`{"records": [...]}`."""
        return {"records": [record.to_dict() for record in self.records]}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`. Raises MalformedBundle."""
        fields = object_of(data, "provenance")
        return cls([ProvenanceRecord.from_dict(record) for record in list_field(fields, "records", "provenance")])


@dataclass(slots=True)
class DecisionBundle:
    """A decision, whole. `events` are in ascending seq when the bundle comes from an export."""

    bundle_version: str
    decision: BundleDecision
    events: list[BundleEvent]
    template_snapshot: BundleTemplateSnapshot
    router_link: BundleRouterLink
    integrity: BundleIntegrity
    provenance: BundleProvenance
    meta: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def policy(self) -> dict[str, Any] | None:
        """The five policy values of the last POLICY_ATTACHED event, missing ones as a policy's defaults; None without such an event."""
        attached = [event.payload for event in self._by_seq() if event.type == "POLICY_ATTACHED"]
        return copy_json({key: attached[-1].get(key, default) for key, default in _POLICY_DEFAULTS.items()}) if attached else None

    @property
    def approvals(self) -> list[dict[str, Any]]:
        """Every approval that was ever granted, by seq: `actor`, `ts`, `expires_at`, `comment`, `revoked`, `revoked_at`, `reason`.

        A revocation concerns the latest approval of the same actor id; one without an approval is ignored, as in replay.
        """
        records: list[dict[str, Any]] = []
        latest: dict[str, dict[str, Any]] = {}
        for event in self._by_seq():
            actor_id = event.actor.get("id")
            if not isinstance(actor_id, str):
                continue
            if event.type == "APPROVAL_GRANTED":
                latest[actor_id] = {
                    "actor": copy_json(event.actor),
                    "ts": event.ts,
                    "expires_at": copy_json(event.payload.get("expires_at")),
                    "comment": copy_json(event.payload.get("comment")),
                    "revoked": False,
                    "revoked_at": None,
                    "reason": None,
                }
                records.append(latest[actor_id])
            elif event.type == "APPROVAL_REVOKED" and actor_id in latest:
                latest[actor_id].update(revoked=True, revoked_at=event.ts, reason=copy_json(event.payload.get("reason")))
        return records

    def _by_seq(self) -> list[BundleEvent]:
        return sorted(self.events, key=attrgetter("seq"))

    def to_dict(self) -> dict[str, Any]:
        """The bundle as JSON data, an independent copy: seven keys, `meta` when not empty, and the derived `policy` and `approvals`."""
        data: dict[str, Any] = {
            "bundle_version": self.bundle_version,
            "decision": self.decision.to_dict(),
            "events": [event.to_dict() for event in self.events],
            "template_snapshot": self.template_snapshot.to_dict(),
            "router_link": self.router_link.to_dict(),
            "integrity": self.integrity.to_dict(),
            "provenance": self.provenance.to_dict(),
            "policy": self.policy,
            "approvals": self.approvals,
        }
        if self.meta:
            data["meta"] = copy_json(self.meta)
        return data

    def to_canonical_json(self, *, include_meta: bool = True) -> str:
        """Canonical JSON of `to_dict`; without `meta` the text is the same for every export of the same decision.

        Raises ValueError or TypeError when a value was set that canonical JSON cannot express.
        """
        data = self.to_dict()
        if not include_meta:
            data.pop("meta", None)
        return canonical_json(data)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`, sharing payloads with `data`. Raises MalformedBundle.

        Required are `decision` and `integrity`; the others default to `BUNDLE_VERSION`, no events, an absent snapshot, an empty link,
        no provenance and no meta. The derived sections are recomputed, not read.
        """
        fields = object_of(data, "bundle")
        for key in ("decision", "integrity"):
            if key not in fields:
                raise MalformedBundle(f"Missing required field: {key}")
        return cls(
            text_field(fields, "bundle_version", "bundle", BUNDLE_VERSION),
            BundleDecision.from_dict(fields["decision"]),
            [BundleEvent.from_dict(event) for event in list_field(fields, "events", "bundle")],
            BundleTemplateSnapshot.from_dict(fields.get("template_snapshot")),
            BundleRouterLink.from_dict(fields.get("router_link")),
            BundleIntegrity.from_dict(fields["integrity"]),
            BundleProvenance.from_dict(fields.get("provenance", {})),
            object_field(fields, "meta", "bundle", {}),
        )


def compute_canonical_payload(
    bundle_version: str,
    decision: BundleDecision,
    events: Iterable[BundleEvent],
    template_snapshot: BundleTemplateSnapshot,
    router_link: BundleRouterLink,
) -> dict[str, Any]:
    """What the bundle digest covers, as JSON data; events in the given order, so sort them by seq first."""
    return {
        "bundle_version": bundle_version,
        "decision": decision.to_dict(),
        "events": [event.to_dict() for event in events],
        "template_snapshot": template_snapshot.to_dict(),
        "router_link": router_link.to_dict(),
    }


def compute_bundle_digest(
    bundle_version: str,
    decision: BundleDecision,
    events: Iterable[BundleEvent],
    template_snapshot: BundleTemplateSnapshot,
    router_link: BundleRouterLink,
) -> str:
    """Raw digest of the canonical bytes of `compute_canonical_payload`. Raises what `canonical_json` raises."""
    texts = (event_text(event, canonical_json(event.payload)) for event in events)
    return digest_of_event_texts(bundle_version, decision, texts, template_snapshot, router_link)


# The two functions below put the canonical text of a bundle together from canonical parts, keys in canonical order, so that a payload
# is serialised once and serves the event digest and the bundle digest. Tests compare them with `canonical_json` of the whole.


def event_text(event: BundleEvent, payload_json: str) -> str:
    """Canonical text of `event.to_dict()`, in which lone surrogates may remain; `payload_json` is the canonical text of its payload."""
    return (
        f'{{"actor":{_actor_text(event.actor)},"decision_id":{_quote(event.decision_id)},'
        f'"digest":{_quote(event.digest)},"event_id":{_quote(event.event_id)},"payload":{payload_json},'
        f'"seq":{event.seq:d},"ts":{_quote(event.ts)},"type":{_quote(event.type)}}}'
    )


def _actor_text(actor: dict[str, Any]) -> str:
    kind, name = actor.get("type"), actor.get("id")
    if len(actor) == 2 and type(kind) is str and type(name) is str:  # as every actor is that this package wrote
        return f'{{"id":{_quote(name)},"type":{_quote(kind)}}}'
    return canonical_json(actor)


def digest_of_event_texts(
    bundle_version: str,
    decision: BundleDecision,
    event_texts: Iterable[str],
    template_snapshot: BundleTemplateSnapshot,
    router_link: BundleRouterLink,
) -> str:
    """As `compute_bundle_digest`, with each event as its canonical text."""
    return sha256_digest(
        (
            f'{{"bundle_version":{canonical_json(bundle_version)},"decision":{canonical_json(decision.to_dict())},'
            f'"events":[{",".join(event_texts)}],"router_link":{canonical_json(router_link.to_dict())},'
            f'"template_snapshot":{canonical_json(template_snapshot.to_dict())}}}'
        ).encode()
    )


def compute_router_link_digest(
    decision_id: str, run_id: str | None, router_request_digest: str | None, router_result_digest: str | None
) -> str | None:
    """Raw digest that ties a run to a decision, over the two raw digests (None counts as null); None without a run."""
    if run_id is None:
        return None
    return content_digest(
        {
            "decision_id": decision_id,
            "run_id": run_id,
            "router_request_digest": router_request_digest,
            "router_result_digest": router_result_digest,
        }
    )


def provenance_id(decision_id: str, raw_digest: str) -> str:
    """`prov_` and 12 hex digits: the name of an export, the same for every export of the same content."""
    return f"prov_{sha256_digest(f'{decision_id}:{raw_digest}'.encode())[:12]}"


def validate_bundle_schema(data: object) -> list[str]:
    """Every problem of shape and type as a text, `[]` when there is none. The texts for absent members are stable.

    Says nothing about digests: a malformed `canonical_digest` is a mismatch, not a problem of the schema.
    """
    if not isinstance(data, dict):
        return ["Bundle must be an object"]
    bundle = cast("dict[str, Any]", data)
    problems = [f"Missing required field: {key}" for key in ("bundle_version", "decision", "events", "integrity") if key not in bundle]
    if "decision" in bundle:
        problems += _member_problems(bundle["decision"], "decision", ("decision_id", "created_at", "status"))
    if "events" in bundle:
        events = bundle["events"]
        if isinstance(events, list):
            for index, event in enumerate(cast("list[object]", events)):
                problems += _indexed_event_problems(event, index)
        else:
            problems.append("Field 'events' must be an array")
    if "integrity" in bundle:
        problems += _member_problems(bundle["integrity"], "integrity", ("canonical_digest",))
    return problems


def _member_problems(value: object, where: str, required: tuple[str, ...]) -> list[str]:
    if not isinstance(value, dict):
        return [f"Field '{where}' must be an object"]
    member = cast("dict[str, Any]", value)
    problems = [f"Missing required field: {where}.{key}" for key in required if key not in member]
    return problems + [f"Field '{where}.{key}' must be a string" for key in required if not isinstance(member.get(key, ""), str)]


def _indexed_event_problems(event: object, index: int) -> list[str]:
    if not isinstance(event, dict):
        return [f"Event at index {index} must be an object"]
    return _event_problems(cast("dict[str, Any]", event), f"events[{index}]", ("event_id", "seq", "type", "ts"))


def _event_problems(event: dict[str, Any], where: str, required: tuple[str, ...]) -> list[str]:
    problems = [f"Missing required field: {where}.{key}" for key in required if key not in event]
    for key in ("event_id", "decision_id", "type", "ts", "digest"):
        if not isinstance(event.get(key, ""), str):
            problems.append(f"Field '{where}.{key}' must be a string")
    if type(seq := event.get("seq", 0)) is not int or seq < 0:
        problems.append(f"Field '{where}.seq' must be a non-negative integer")
    for key in ("payload", "actor"):
        if not isinstance(event.get(key, {}), dict):
            problems.append(f"Field '{where}.{key}' must be an object")
    return problems
