"""A whole verifier, written from docs/verification.md and nothing else: the sections there are the headings here, each check a rule.

    python full_verifier.py FILE [--trust trust.toml] [--checkpoint kept.txt ...]

Python 3.11 and, for Ed25519 alone, PyNaCl; no line of nexus-attest. Judged are integrity, authorization, signatures, execution and log of
bundles, packages, case files and envelopes. Never a PASS, because not checked: proofs of a witness, of which it only asks whether they are
about this package (XLS-41, secp256k1 and X.509 would take more lines than all of this), and narratives, which are no evidence.
Exit code 0: no layer failed; 2 otherwise. The one for readers is examples/second_verifier.py; this one is an oracle of the tests.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

Json = Any
Test = Callable[[Json], object]
EMPTY: dict[str, Json] = {}
Verdicts = Iterator[bool | str]
"""What a rule yields: whether something holds, or what is missing to judge it. A rule that yields nothing was not made."""
Rule = Callable[["Evidence"], Verdicts]
RULES: list[tuple[str, str, Rule]] = []
LAYERS = ("integrity", "authorization", "signatures", "execution", "log", "witness")
BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What Python raises where a document is not what a rule takes it for: the rule does not hold."""


def of(layer: str, given: str = "bundle") -> Callable[[Rule], Rule]:
    """Make a function a rule of a layer, for evidence that has what is `given`."""

    def register(rule: Rule) -> Rule:
        RULES.append((layer, given, rule))
        return rule

    return register


# Conventions


def require(holds: object) -> None:
    if not holds:
        raise ValueError("not of the form that the page describes")


def read_json(raw: bytes) -> Json:
    """JSON with one meaning; a ValueError for any other text."""

    def members(pairs: list[tuple[str, Json]]) -> Json:
        require(len(found := dict(pairs)) == len(pairs))
        return found

    def number(text: str) -> float:
        require(abs(value := float(text)) < float("inf"))
        return value

    require(sum(map(raw.count, (b",", b"[", b"{"))) <= 4_000_000)
    return json.loads(raw.decode(), object_pairs_hook=members, parse_float=number, parse_constant=lambda _: require(False))


def is_a(value: Json, kind: type) -> bool:
    """Types are exact: a boolean is no integer."""
    return type(value) is kind


def ecmascript(value: float) -> str:
    """RFC 8785, 3.2.2.3: the shortest digits, and where the point stands."""
    sign, places, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, point = "".join(map(str, places)), len(places) + int(exponent)
    if value == 0:
        return "0"
    if 0 < point <= 21:
        text = digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{point - 1:+d}"
    return "-" * sign + text


def canonical(value: Json, levels: int = 256) -> str:
    """Canonical JSON, of at most so many levels. Lone surrogates fail when it is encoded."""
    if not is_a(value, dict) and not is_a(value, list):
        return ecmascript(value) if is_a(value, float) else json.dumps(value, ensure_ascii=False)
    require(levels > 0)
    if is_a(value, list):
        return f"[{','.join(canonical(item, levels - 1) for item in value)}]"
    keys: list[str] = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(f"{canonical(key)}:{canonical(value[key], levels - 1)}" for key in keys) + "}"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest(value: Json) -> str:
    return sha256(canonical(value).encode())


def raw(text: str) -> str:
    return text.removeprefix("sha256:")


def same(one: Json, other: Json) -> bool:
    """Whether two values are equal in every type."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def moment(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def unbase64(text: str) -> bytes:
    """The bytes of the one spelling that RFC 4648, section 4, gives them."""
    data = base64.b64decode(text, validate=True)
    require(base64.b64encode(data).decode() == text)
    return data


def is_base64(value: Json) -> bool:
    return is_a(unbase64(value), bytes)


@cache
def signed_by(key: bytes, message: bytes, signature: bytes) -> bool:
    """Ed25519."""
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


def sealed(envelope: Json) -> bytes:
    """What the signatures of a DSSE envelope are over."""
    kind, payload = envelope["payloadType"], unbase64(envelope["payload"])
    return f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload


# Files. A shape is a type, a test, a list of one shape, or an object; its member `name?` may be null or missing, `name-` missing.


def fits(value: Json, shape: Json, closed: bool = True) -> bool:
    """Whether a value has a shape, without other members when it is `closed`."""
    if is_a(shape, dict):
        known = {name.rstrip("?-"): (name[-1], inner) for name, inner in shape.items()}
        return (
            is_a(value, dict)
            and (not closed or set(value) <= set(known))
            and all(mark in "?-" for name, (mark, _) in known.items() if name not in value)
            and all(
                (mark == "?" and value[name] is None) or fits(value[name], inner, closed)
                for name, (mark, inner) in known.items()
                if name in value
            )
        )
    if is_a(shape, list):
        return is_a(value, list) and all(fits(item, shape[0], closed) for item in value)
    return is_a(value, shape) if is_a(shape, type) else bool(shape(value))


def anything(_: Json) -> bool:
    return True


def nothing(_: Json) -> bool:
    return False


def open_to(shape: Json) -> Test:
    """A shape that may have other members."""
    return lambda value: fits(value, shape, False)


def integer(least: int, most: float = 2**63 - 1) -> Test:
    return lambda value: is_a(value, int) and least <= value <= most


def text(pattern: str) -> Test:
    """A text that is not empty; a lone surrogate in it is a ValueError."""
    return lambda value: is_a(value, str) and value.encode() and re.fullmatch(pattern, value, re.DOTALL)


def texts(names: str) -> dict[str, Json]:
    return dict.fromkeys(names.split(), str)


HASH, NAME = text("[0-9a-f]{64}"), text(".+")
ACTOR: Json = {"type": text("human|system"), "id": NAME}
EVENT: Json = {**texts("event_id decision_id type ts digest-"), "seq": integer(0, float("inf")), "payload-": dict, "actor-": dict}
SNAPSHOT: Json = {"present": bool, "name?": str, "digest?": str, "snapshot?": dict, "overrides?": dict}
PROVENANCE: Json = {"records-": [{"prov_id": str, "method_id": str, "inputs-": [str], "outputs-": [str]}]}
INFORMATION: Json = {"provenance-": open_to(PROVENANCE), "meta-": dict}
BUNDLE: Json = {
    "bundle_version-": str,
    "decision": {**texts("decision_id goal? mode- created_at status"), "creator?": anything},
    "events-": [EVENT],
    "template_snapshot-": anything,
    "router_link?": texts("run_id? adapter_id? router_request_digest? router_result_digest? control_router_link_digest?"),
    "integrity": texts("alg- canonical_digest"),
    "policy-": anything,
    "approvals-": anything,
    **INFORMATION,
}
PACKAGE: Json = {
    "package_version-": str,
    "control_bundle": dict,
    "router": {"mode": text("embedded|reference"), "bundle?": dict, "ref?": texts("run_id digest")},
    "binding": texts("control_digest router_digest control_router_link_digest"),
    "integrity": texts("alg- binding_digest"),
    **INFORMATION,
}
LOG: Json = {
    **{"checkpoint": str, "generation": integer(1), "prev_hash": HASH, "positions": [integer(1)], "proof": [HASH]},
    "consistency": [{"size": integer(0), "proof": [HASH]}],
}
CASE: Json = {
    **{"case_version": text("1"), "package": dict, "log?": LOG, "attestations-": [dict], "witness-": [dict]},
    **{"trust?": texts("digest"), "extensions-": dict, "critical-": [nothing]},
}
ENVELOPE: Json = {"payloadType": text("application/vnd.in-toto\\+json"), "payload": str, "signatures": [{"keyid-": str, "sig": is_base64}]}
STATEMENT: Json = {
    **{"_type": text("https://in-toto.io/Statement/v1"), "subject": [{"digest": {"sha256": str}}]},
    **{"predicateType": text("urn:nexus-attest:case-file:1"), "predicate": dict},
}


@dataclass
class Evidence:
    """A file that has its form, taken apart; and what the reader knows besides."""

    bundle: dict[str, Json]
    package: Json = None
    case: Json = field(default_factory=dict[str, Json])
    envelope: Json = None
    subject: str = ""
    trust: "Trust | None" = None
    kept: list["Note"] = field(default_factory=list["Note"])

    def __post_init__(self) -> None:
        """With missing members filled in."""
        self.decision: str = self.bundle["decision"]["decision_id"]
        self.events: list[Json] = [{"payload": {}, "actor": {}, "digest": ""} | event for event in self.bundle.get("events", [])]
        self.link: Json = {name: value for name, value in (self.bundle.get("router_link") or EMPTY).items() if value is not None}
        self.record: Json = self.package and self.package["router"].get("bundle")
        self.log: Json = self.case.get("log")
        self.ran = any(event["type"].startswith("EXECUTION_") for event in self.events)
        self.flown = self.ran and self.record is not None

    @cached_property
    def content(self) -> Json:
        """What the digest of a bundle is of."""
        told, snapshot = self.bundle["decision"], self.bundle.get("template_snapshot", EMPTY)
        decision = {"goal": None, "mode": "dry_run"} | {name: told[name] for name in told if (name, told[name]) != ("creator", None)}
        present = is_a(snapshot, dict) and snapshot.get("present") is True
        return {
            **{"bundle_version": self.bundle.get("bundle_version", "0.5"), "decision": decision, "router_link": self.link},
            "events": sorted(self.events, key=lambda event: event["seq"]),
            "template_snapshot": {name.rstrip("?"): snapshot.get(name.rstrip("?")) for name in SNAPSHOT} if present else {"present": False},
        }

    @cached_property
    def alone(self) -> bool:
        """Whether this is a bundle without a package, and whole."""
        return self.package is None and "bundle_version" in self.bundle and holds(lambda: canonical(self.content).encode())

    @cached_property
    def state(self) -> "State":
        return replay(self.decision, self.events)

    @cached_property
    def readable(self) -> bool:
        return holds(lambda: is_history(self))

    @cached_property
    def pasts(self) -> list[tuple["Run", "State"]]:
        """The latest runs, since at most 2,000,000 events are replayed; and the decision as it was when each was requested."""
        runs = self.state.runs[-max(2_000_000 // max(len(self.events), 1), 1) :]
        return [(run, replay(self.decision, self.before(run.act))) for run in runs]

    def before(self, act: "Act") -> list[Json]:
        """The events before an act, without approvals dated after it."""
        events = self.events[: act.place]
        return [event for event in events if event["type"] != "APPROVAL_GRANTED" or moment(event["ts"]) <= act.at]

    @cached_property
    def note(self) -> "Note | None":
        """The checkpoint, when it is one."""
        return Note(self.log["checkpoint"]) if self.log and holds(lambda: Note(self.log["checkpoint"])) else None

    @cached_property
    def whole_record(self) -> Json:
        """The record, when it has the three parts of a run."""
        require({"run", "events", "digests"} <= set(self.record))
        return self.record

    @cached_property
    def row(self) -> Json:
        require(fits(self.whole_record["run"], texts("run_id mode goal status"), False))
        return self.record["run"]

    @cached_property
    def flight(self) -> list[Json]:
        """The events of the record."""
        require(fits(self.whole_record["events"], [FLIGHT], False))
        return self.record["events"]

    def payloads(self, kind: str) -> list[Json]:
        return [event["payload"] for event in self.flight if event["type"] == kind]

    @cached_property
    def response(self) -> Json:
        """Empty when there is none."""
        response: Json = self.record.get("response", {})
        require(is_a(response, dict))
        return response

    @cached_property
    def asked(self) -> Json:
        """What was approved, as a request to the router: by the last of the events."""
        return request_of(self.state, self.state.runs[-1])

    @cached_property
    def recorded_plan(self) -> Json:
        """Null when there is none."""
        plans = [payload.get("plan") for payload in self.payloads("PLAN_CREATED")]
        require(len(plans) <= 1 and fits(plans, [list]))
        return plans[0] if plans else None

    @property
    def trusting(self) -> bool:
        return self.readable and self.trust is not None

    @property
    def log_keys(self) -> list["NoteKey"]:
        return self.trust.log_keys if self.trust else []


def holds(judge: Callable[[], object]) -> bool:
    try:
        return bool(judge())
    except BROKEN:
        return False


def open_file(document: Json) -> Evidence:
    """Which file it is; a ValueError or the like when it has not its form."""
    require(is_a(document, dict))
    if "payloadType" in document:
        require(fits(document, ENVELOPE, False) and 1 <= len(document["signatures"]) <= 100)
        statement = read_json(unbase64(document["payload"]))
        require(fits(statement, STATEMENT, False) and len(statement["subject"]) == 1)
        return replace(open_case(statement["predicate"]), envelope=document, subject=statement["subject"][0]["digest"]["sha256"])
    if "case_version" in document:
        return open_case(document)
    require("control_bundle" in document or {"decision", "events"} <= set(document))
    return open_package(document) if "control_bundle" in document else open_bundle(document)


def open_case(case: Json) -> Evidence:
    require(fits(case, CASE))
    log: Json = case.get("log") or EMPTY
    positions: list[int] = log.get("positions", [])
    sizes: list[int] = [entry["size"] for entry in log.get("consistency", [])]
    require(positions == sorted(set(positions)) and len(sizes) == len(set(sizes)))
    return replace(open_package(case["package"]), case=case)


def open_package(package: Json) -> Evidence:
    require(fits(package, PACKAGE, False) and None in (package["router"].get("bundle"), package["router"].get("ref")))
    return replace(open_bundle(package["control_bundle"]), package=package)


def open_bundle(bundle: Json) -> Evidence:
    snapshot = bundle.get("template_snapshot")
    require(fits(bundle, BUNDLE, False))
    require(not is_a(snapshot, dict) or snapshot.get("present") is not True or fits(snapshot, SNAPSHOT, False))
    return Evidence(bundle)


# Replay

PAYLOADS: dict[str, Json] = {
    "DECISION_CREATED": {**texts("goal? plan? requested_mode?"), "labels?": [str]},
    "POLICY_ATTACHED": {**texts("template_name? template_digest?"), "template_snapshot?": dict, "overrides_applied?": dict},
    "APPROVAL_GRANTED": {"expires_at?": moment, "comment?": str},
    "APPROVAL_REVOKED": texts("reason?"),
    "EXECUTION_REQUESTED": {"adapter_id?": str, "dry_run?": bool},
    "EXECUTION_STARTED": texts("router_request_digest?"),
    "EXECUTION_COMPLETED": {**texts("run_id? response_digest?"), "steps_executed?": int},
    "EXECUTION_FAILED": texts("error_code? error_message? run_id? response_digest?"),
    "TEMPLATE_CREATED": {},
}
ACTIONS = {"DECISION_CREATED": "request", "APPROVAL_GRANTED": "approve", "APPROVAL_REVOKED": "revoke", "EXECUTION_REQUESTED": "execute"}
STRENGTHS = ("asserted", "authenticated", "signed")
WHO: Json = {"assurance-": text("|".join(STRENGTHS)), "channel-": text(".{1,256}"), "signature-": dict}
SEAL: Json = {"payloadType": text("application/vnd.nexus.approval\\+json"), "payload": str, "signatures": [texts("keyid sig")]}
SAID: Json = {
    **{"v": integer(1, 1), "action": str, "decision_id": str, "action_digest": text("sha256:[0-9a-f]{64}"), "actor": ACTOR},
    **{"comment?": NAME, "expires_at?": str, "signed_at": str},
}
UNSAID: Json = {"min_approvals": 1, "allowed_modes": ["dry_run"], "require_adapter_capabilities": [], "max_steps": None, "labels": []}


@dataclass
class Act:
    """What somebody did, and what the rules of a trust policy see of it."""

    event: Json
    place: int
    at: datetime
    said: Json
    expires: datetime | None = None
    revoked: bool = False
    own: bool = True
    fresh: bool = True
    labels: list[str] = field(default_factory=list[str])
    template: str | None = None
    requester: str | None = None

    def __post_init__(self) -> None:
        self.action, self.actor = ACTIONS[self.event["type"]], self.event["actor"]
        self.assurance: str = self.event["payload"].get("assurance", "asserted")
        self.envelope: Json = self.event["payload"].get("signature")

    @property
    def sound(self) -> bool:
        return self.own and self.fresh


@dataclass
class Run:
    """A run that was requested; its start, and its end."""

    act: Act
    start: Json = None
    end: Json = None

    def __post_init__(self) -> None:
        payload = self.act.event["payload"]
        self.adapter: str = payload.get("adapter_id") or ""
        self.dry: bool = payload.get("dry_run") or False

    @property
    def completed(self) -> bool:
        return self.end is not None and self.end["type"] == "EXECUTION_COMPLETED"

    @property
    def asked(self) -> Json:
        return self.start and self.start["payload"].get("router_request_digest")

    def told(self, name: str) -> Json:
        """What its end says."""
        return self.end and self.end["payload"].get(name)


@dataclass
class State:
    """What the events make of a decision; `action` is what an action digest is of."""

    decision: str
    action: dict[str, Json] = field(
        default_factory=lambda: {**dict.fromkeys(("goal", "plan", "requested_mode", "policy", "template")), "labels": list[str]()}
    )
    phase: str = "DRAFT"
    defined: int = -1
    request: Act | None = None
    complete: bool = False
    approvals: dict[str, Act] = field(default_factory=dict[str, Act])
    withdrawn: dict[str, datetime] = field(default_factory=dict[str, datetime])
    payloads: set[str] = field(default_factory=set[str])
    runs: list[Run] = field(default_factory=list[Run])

    def standing(self, at: datetime) -> list[Act]:
        """The approvals that are neither revoked nor expired."""
        return [act for act in self.approvals.values() if not act.revoked and (act.expires is None or act.expires > at)]

    def identify(self, act: Act) -> None:
        """Whether the statement of an act is its own; and the act as it stands here."""
        action = self.action
        act.own = not act.said or (act.said["decision_id"], act.said["action_digest"]) == (self.decision, f"sha256:{digest(action)}")
        act.labels = [*action["labels"], *(action["policy"] or action)["labels"]]
        act.template = action["template"] and action["template"]["name"]
        act.requester = self.request and self.request.actor["id"]


def policy_of(payload: Json) -> Json:
    """The five values of a policy."""

    def count(value: Json) -> int:
        require(type(value) in (int, float, str) and int(value) >= 1)
        return int(value)

    policy = {name: payload[name] if is_a(payload.get(name), list) else value for name, value in UNSAID.items()}
    require(fits(policy, {name: [str] for name in ("allowed_modes", "require_adapter_capabilities", "labels")}, False))
    require(policy["allowed_modes"] and set(policy["allowed_modes"]) <= {"dry_run", "apply"})
    limit = payload.get("max_steps")
    return policy | {"min_approvals": count(payload.get("min_approvals", 1)), "max_steps": None if limit is None else count(limit)}


def statement_of(envelope: Json, event: Json) -> Json:
    """The statement that an event carries: keys.md, "What is signed" and "The envelope"."""
    require(fits(envelope, SEAL) and len(envelope["signatures"]) == 1 and len(unbase64(envelope["signatures"][0]["sig"])) == 64)
    payload = unbase64(envelope["payload"])
    said = read_json(payload)
    require(fits(said, SAID) and len(said) == len(SAID) and len(payload) <= 65536 and canonical(said).encode() == payload)
    require(all(time is None or moment(time).isoformat() == time for time in (said["signed_at"], said["expires_at"])))
    told, kind = event["payload"], event["type"]
    comment = {"APPROVAL_GRANTED": told.get("comment"), "APPROVAL_REVOKED": told.get("reason")}.get(kind) or None
    expires = told.get("expires_at") if kind == "APPROVAL_GRANTED" else None
    require([said[name] for name in ("action", "actor", "comment", "expires_at")] == [ACTIONS[kind], event["actor"], comment, expires])
    return said


def act_of(state: State, event: Json, place: int) -> Act:
    """Who said it."""
    payload, at = event["payload"], moment(event["ts"])
    require(fits(payload, WHO, False) and (payload.get("assurance") == "signed") == ("signature" in payload))
    act = Act(event, place, at, statement_of(payload["signature"], event) if "signature" in payload else None)
    if act.said:
        act.fresh = act.envelope["payload"] not in state.payloads
        state.payloads.add(act.envelope["payload"])
    return act


def apply(state: State, event: Json, place: int) -> None:
    """The table, row by row."""
    kind, payload, action = event["type"], event["payload"], state.action
    require(kind in PAYLOADS and fits(event["actor"], ACTOR) and event["actor"]["id"] and fits(payload, PAYLOADS[kind], False))
    require(moment(event["ts"]))
    if kind == "POLICY_ATTACHED":
        template = {"name": payload.get("template_name"), "digest": payload.get("template_digest") or ""}
        action |= {"policy": policy_of(payload), "template": template if template["name"] else None}
        state.phase, state.defined = "PENDING_APPROVAL", place
        if state.request and not state.complete:
            state.identify(state.request)
        state.complete = True
    elif kind == "EXECUTION_STARTED":
        state.phase = "EXECUTING"
        for run in state.runs[-1:]:
            run.start = event
    elif kind in ("EXECUTION_COMPLETED", "EXECUTION_FAILED"):
        state.phase = kind.removeprefix("EXECUTION_")
        for run in state.runs[-1:]:
            run.end = event
    elif kind in ACTIONS:
        apply_act(state, act_of(state, event, place), payload)


def apply_act(state: State, act: Act, payload: Json) -> None:
    """The rows of what actors do."""
    who = act.actor["id"]
    if act.action == "request":
        state.action |= {name: payload.get(name) for name in ("goal", "plan", "requested_mode")} | {"labels": payload.get("labels") or []}
        state.phase, state.defined, state.request, state.complete = "DRAFT", act.place, act, False
    state.identify(act)
    if act.action == "execute":
        state.runs.append(Run(act))
    elif act.action == "approve":
        act.expires = moment(payload["expires_at"]) if payload.get("expires_at") is not None else None
        act.fresh = act.fresh and (not act.said or who not in state.withdrawn or moment(act.said["signed_at"]) > state.withdrawn[who])
        state.approvals[who] = act
    elif act.action == "revoke":
        when = moment(act.said["signed_at"]) if act.said else act.at
        state.withdrawn[who] = max(when, state.withdrawn.get(who, when))
        if who in state.approvals:
            state.approvals[who].revoked = True
    if act.action in ("approve", "revoke") and state.phase in ("PENDING_APPROVAL", "APPROVED"):
        enough = sum(one.sound for one in state.standing(act.at)) >= state.action["policy"]["min_approvals"]
        state.phase = "APPROVED" if enough else "PENDING_APPROVAL"


def replay(decision: str, events: Iterable[Json]) -> State:
    state = State(decision)
    for place, event in enumerate(events):
        apply(state, event, place)
    return state


# Integrity


@of("integrity", "package")
def binding_digest(e: Evidence) -> Verdicts:
    told = {"package_version": e.package.get("package_version", "0.6"), **e.package["binding"]}
    yield told["package_version"] == "0.6" and e.package["integrity"].get("alg", "sha256") == "sha256"
    yield digest(told) == raw(e.package["integrity"]["binding_digest"])
    yield fits(e.package, PACKAGE)


@of("integrity")
def schema(e: Evidence) -> Verdicts:
    """Of a bundle alone."""
    yield e.package is not None or e.alone


@of("integrity", "alone")
def bundle_version(e: Evidence) -> Verdicts:
    yield re.fullmatch(r"0|0\..*", e.content["bundle_version"]) is not None


@of("integrity", "alone")
def bundle_digest(e: Evidence) -> Verdicts:
    snapshot, absent = e.bundle.get("template_snapshot", EMPTY), e.content["template_snapshot"] == {"present": False}
    yield digest(e.content) == raw(e.bundle["integrity"]["canonical_digest"])
    yield e.bundle["integrity"].get("alg", "sha256") == "sha256"
    yield fits(e.bundle, BUNDLE) and fits(snapshot, {"present-": bool} if absent else SNAPSHOT)


@of("integrity", "alone")
def event_digests(e: Evidence) -> Verdicts:
    yield all(event["digest"] == digest({"event_type": event["type"], "payload": event["payload"]}) for event in e.events)


@of("integrity", "alone")
def event_sequence(e: Evidence) -> Verdicts:
    yield all(event["seq"] == place for place, event in enumerate(e.events))


@of("integrity", "alone")
def derived_sections(e: Evidence) -> Verdicts:
    policy, approvals = None, list[Json]()
    for event in e.events:
        payload, actor = event["payload"], event["actor"]
        if event["type"] == "POLICY_ATTACHED":
            policy = UNSAID | {name: payload[name] for name in UNSAID if name in payload}
        elif event["type"] == "APPROVAL_GRANTED":
            approvals.append({"actor": actor, "ts": event["ts"], "revoked": False, "revoked_at": None, "reason": None})
            approvals[-1] |= {name: payload.get(name) for name in ("expires_at", "comment")}
        elif event["type"] == "APPROVAL_REVOKED":
            for latest in [one for one in approvals if one["actor"]["id"] == actor["id"]][-1:]:
                latest |= {"revoked": True, "revoked_at": event["ts"], "reason": payload.get("reason")}
    yield same(e.bundle.get("policy", policy), policy) and same(e.bundle.get("approvals", approvals), approvals)


@of("integrity", "alone")
def header(e: Evidence) -> Verdicts:
    told, action = e.content["decision"], e.state.action
    creators = [event["actor"] for event in e.events if event["type"] == "DECISION_CREATED"]
    yield [told["goal"], told["mode"]] == [action["goal"], action["requested_mode"] or "dry_run"]
    waiting = {told["status"], e.state.phase} == {"APPROVED", "PENDING_APPROVAL"}
    yield told["status"] == e.state.phase or (waiting and any(act.expires for act in e.state.approvals.values()))
    yield "creator" not in told or [told["creator"]] == creators[:1]


@of("integrity", "package")
def control_bundle_digest(e: Evidence) -> Verdicts:
    for rule in (bundle_version, bundle_digest, event_digests, event_sequence, derived_sections, header):
        yield from rule(e)


@of("integrity", "package")
def binding_control_match(e: Evidence) -> Verdicts:
    yield raw(e.package["binding"]["control_digest"]) == raw(e.bundle["integrity"]["canonical_digest"])


@of("integrity", "package")
def binding_router_match(e: Evidence) -> Verdicts:
    embedded = e.package["router"]["mode"] == "embedded"
    part = e.record if embedded else e.package["router"]["ref"]
    yield raw(e.package["binding"]["router_digest"]) == raw(part["integrity"]["canonical_digest"] if embedded else part["digest"])
    named = [part, *(part[name] for name in ("run", "response") if is_a(part.get(name), dict))]
    yield all(place["run_id"] == e.link.get("run_id") for place in named if "run_id" in place)


@of("integrity", "package")
def binding_link_match(e: Evidence) -> Verdicts:
    told = {"decision_id": e.decision, "run_id": e.link["run_id"]}
    told |= {name: raw(e.link[name]) if name in e.link else None for name in ("router_request_digest", "router_result_digest")}
    yield raw(e.package["binding"]["control_router_link_digest"]) == raw(e.link["control_router_link_digest"]) == digest(told)


def text_digest(value: Json) -> str:
    """The digest of nexus-router, of a text of Python's."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def run_text(record: Json) -> str:
    """*T*."""
    return text_digest({"run": record["run"], "events": record["events"]})


@of("integrity", "record")
def router_digest(e: Evidence) -> Verdicts:
    stated, record = raw(e.record["integrity"]["canonical_digest"]), e.record
    whole = {"run", "events"} <= set(record) and is_a(record.get("digests"), dict) and "sha256" in record["digests"]
    told = run_text(record) if whole else None
    yield record["integrity"].get("alg", "sha256") == "sha256" and (not whole or raw(record["digests"]["sha256"]) == told)
    if "response" in record:
        bound = record["response"].get("run_bundle_digest")
        yield digest(record["response"]) == stated and (bound is None or raw(bound) == told)
    else:
        yield not whole or stated == told


@of("integrity", "envelope")
def subject(e: Evidence) -> Verdicts:
    yield e.subject == raw(e.package["integrity"]["binding_digest"])


# Authorization


def is_history(e: Evidence) -> bool:
    """Whether the events are the history of one decision."""
    follows, last = {"REQUESTED": ("", "ended", "abandoned"), "STARTED": ("requested",)}, ""
    for place, event in enumerate(e.events):
        require([event["seq"], event["decision_id"], event["event_id"]] == [place, e.decision, f"evt_{e.decision}_{place}"])
        _, execution, kind = event["type"].rpartition("EXECUTION_")
        if execution:
            require(last in follows.get(kind, ("requested", "started", "abandoned")))
            abandoned = kind == "FAILED" and event["payload"].get("error_code") == "EXECUTION_ABANDONED"
            last = kind.lower() if kind in follows else "abandoned" if abandoned else "ended"
    return bool(e.state)


@of("authorization")
def history(e: Evidence) -> Verdicts:
    yield e.readable


@of("authorization", "readable")
def allowed_events(e: Evidence) -> Verdicts:
    state, around = State(e.decision), [None, *e.events, None]
    for place, event in enumerate(e.events):
        yield place > 0 or event["type"] == "DECISION_CREATED"
        yield allowed(state, event, around[place], around[place + 2])
        apply(state, event, place)


def allowed(state: State, event: Json, before: Json, after: Json) -> bool:
    """Whether a command could have written an event where it stands."""
    kind, payload, run = event["type"], event["payload"], state.runs[-1] if state.runs else None
    by_store, under_way = event["actor"] == {"type": "system", "id": "nexus-control"}, run is not None and run.end is None
    if kind == "DECISION_CREATED":
        return bool(payload.get("goal")) and not under_way
    if kind == "POLICY_ATTACHED":
        return not under_way and attached(state, payload, policy_of(payload))
    if kind == "APPROVAL_GRANTED":
        expires = payload.get("expires_at")
        in_utc = expires is None or moment(expires).isoformat() == expires
        return state.phase in ("PENDING_APPROVAL", "APPROVED") and bool(payload.get("comment", "none")) and in_utc
    if kind == "APPROVAL_REVOKED":
        standing = state.approvals.get(event["actor"]["id"])
        return state.phase not in ("EXECUTING", "COMPLETED") and standing is not None and not standing.revoked
    if kind == "EXECUTION_REQUESTED":
        return bool(payload.get("adapter_id")) and (after is None or after["type"] == "EXECUTION_STARTED")
    if kind == "EXECUTION_STARTED":
        return before["type"] == "EXECUTION_REQUESTED" and moment(before["ts"]) <= moment(event["ts"]) and by_store
    if kind == "EXECUTION_COMPLETED":
        return bool(payload.get("run_id")) and (payload.get("steps_executed") or 0) >= 0 and by_store
    by_people = payload.get("error_code") == "EXECUTION_ABANDONED" and under_way
    return kind == "EXECUTION_FAILED" and bool(payload.get("error_code")) and (by_store or by_people)


def attached(state: State, payload: Json, policy: Json) -> bool:
    """Whether a command attaches this policy."""
    template, overrides = payload.get("template_snapshot") or EMPTY, payload.get("overrides_applied") or EMPTY
    if payload.get("template_name"):
        made = (
            fits(payload["template_digest"], HASH)
            and template["template_name"] == payload["template_name"]
            and set(overrides) <= set(UNSAID)
        )
        made = made and all(same(value, overrides.get(name, template.get(name))) for name, value in policy.items())
    else:
        made = not template and not overrides and not payload.get("template_digest")
    exact = all(same(payload[name], value) for name, value in policy.items() if name in payload)
    return made and exact and (state.action["requested_mode"] or "dry_run") in policy["allowed_modes"]


@of("authorization", "readable")
def told_by_events(e: Evidence) -> Verdicts:
    yield not e.events or moment(e.bundle["decision"]["created_at"]) == moment(e.events[0]["ts"])
    told: Json = {"present": False}
    for payload in [event["payload"] for event in e.events if event["type"] == "POLICY_ATTACHED"][-1:]:
        if payload.get("template_name"):
            told = {"present": True, "name": payload["template_name"], "digest": f"sha256:{payload.get('template_digest')}"}
            told |= {"snapshot": payload.get("template_snapshot") or {}, "overrides": payload.get("overrides_applied") or None}
    yield same(e.content["template_snapshot"], told) or not e.content["template_snapshot"]["present"]


def satisfied(state: State, run: Run, at: datetime, counts: Callable[[Act], bool]) -> bool:
    """Whether the policy is, by the approvals that count at a time."""
    policy, done = state.action["policy"], [one for one in state.runs if one.completed]
    return (
        policy is not None
        and state.phase != "EXECUTING"
        and all(one.dry for one in done)
        and (not done or state.action["requested_mode"] == "apply")
        and ("dry_run" if run.dry else "apply") in policy["allowed_modes"]
        and sum(act.sound and counts(act) and act.place > state.defined for act in state.standing(at)) >= policy["min_approvals"]
    )


@of("authorization", "readable")
def policy_satisfied(e: Evidence) -> Verdicts:
    for run, state in e.pasts:
        times = [run.act.at, *([moment(run.start["ts"])] if run.start else [])]
        yield all(satisfied(state, run, at, lambda _: True) for at in times if at >= run.act.at)
    if not e.pasts or len(e.pasts) < len(e.state.runs):
        yield "nothing was run, or more than is judged"


def request_of(state: State, run: Run) -> Json:
    """What the router is asked to do."""
    action, policy = state.action, state.action["policy"]
    asked = {"goal": action["goal"] or "", "adapter_id": run.adapter, "dry_run": run.dry}
    others = {
        "plan": action["plan"],
        "max_steps": policy["max_steps"],
        "require_capabilities": policy["require_adapter_capabilities"] or None,
    }
    return asked | {name: value for name, value in others.items() if value is not None}


@of("authorization", "readable")
def approved_action(e: Evidence) -> Verdicts:
    for run, state in e.pasts:
        if run.start is None:
            yield "a run without a start"
        elif state.action["policy"]:
            yield raw(run.asked) == digest(request_of(state, run))


@of("authorization", "readable")
def run_of_the_link(e: Evidence) -> Verdicts:
    names = ("run_id", "adapter_id", "router_request_digest", "router_result_digest")
    if "run_id" in e.link or "adapter_id" in e.link:
        run = e.state.runs[-1]
        raws = (run.asked, run.told("response_digest") if run.completed else None)
        yield [e.link.get(name) for name in names] == [
            run.told("run_id"),
            run.adapter,
            *(None if one is None else f"sha256:{raw(one)}" for one in raws),
        ]
    elif e.state.runs:
        yield "the file says of no run that it is about it"


# Signatures


def has_offset(time: Json) -> bool:
    return time.tzinfo is not None


def is_key(text: Json) -> bool:
    return len(unbase64(text)) == 32


LIMITS: Json = {"not_before-": has_offset, "not_after-": has_offset, "retired_at-": has_offset}
PUBLIC: Json = {"public_key": is_key}
PERSON: Json = {"id": text(".{1,256}"), "type-": text("human|system"), "keys-": [{**PUBLIC, "id-": str, **LIMITS}]}
TRUST: Json = {
    "version": integer(1, 1),
    "name-": str,
    "actors-": [PERSON],
    "groups-": dict,
    "rules-": [
        {
            **{name: [str] for name in ("labels-", "templates-", "actors-", "groups-")},
            **{"actions-": [text("|".join(ACTIONS.values()))], "assurance-": WHO["assurance-"], "self_approval-": bool},
        }
    ],
    "log_keys-": [texts("key")],
    "attestors-": [{**texts("id key_id"), **PUBLIC, **LIMITS}],
    "ledgers-": [dict],
    "authorities-": [dict],
}


def valid(key: Json, at: datetime) -> bool:
    """Whether a key is: not before `not_before`, before `not_after` and before `retired_at`."""
    return key.get("not_before", at) <= at and all(at < key[name] for name in ("not_after", "retired_at") if name in key)


class Trust:
    """A trust policy (trust.md), but for what it says of witnesses; a ValueError for another text."""

    def __init__(self, text: str) -> None:
        policy = tomllib.loads(text)
        require(fits(policy, TRUST))
        self.rules, self.groups = policy.get("rules", []), policy.get("groups", {})
        self.actors = {f"{actor.get('type', 'human')}:{actor['id']}": actor.get("keys", []) for actor in policy.get("actors", [])}
        self.attestors: list[Json] = policy.get("attestors", [])
        self.log_keys = [NoteKey(entry["key"]) for entry in policy.get("log_keys", [])]

    def believes(self, act: Act, seen: Act | None = None) -> bool:
        """An act, by the rules for labels, template and requester of `seen`."""
        who, about = f"{act.actor['type']}:{act.actor['id']}", seen or act
        return (
            (not act.said or self.verifies(act, who))
            and (act.action != "approve" or who in self.actors)
            and all(
                (("actors" not in rule and "groups" not in rule) or who in self.named(rule))
                and (rule.get("self_approval", True) or act.action != "approve" or act.actor["id"] != about.requester)
                and STRENGTHS.index(act.assurance) >= STRENGTHS.index(rule.get("assurance", "asserted"))
                for rule in self.rules
                if concerns(rule, act.action, about)
            )
        )

    def named(self, rule: Json) -> set[str]:
        """Those whom a rule lets."""
        names = rule.get("actors", []) + [name for group in rule.get("groups", []) for name in self.groups[group]]
        return {name if name.startswith(("human:", "system:")) else f"human:{name}" for name in names}

    def verifies(self, act: Act, who: str) -> bool:
        """Whether a key of this actor, valid at both times, made the signature."""
        (signature,), times = act.envelope["signatures"], (moment(act.said["signed_at"]), act.at)
        ids = [(key.get("id") or f"ed25519:{sha256(unbase64(key['public_key']))[:16]}", key) for key in self.actors.get(who, [])]
        return times[0] <= act.at + timedelta(minutes=5) and any(
            name == signature["keyid"]
            and signed_by(unbase64(key["public_key"]), sealed(act.envelope), unbase64(signature["sig"]))
            and all(valid(key, time) for time in times)
            for name, key in ids
        )


def concerns(rule: Json, action: str, seen: Act) -> bool:
    """Whether a rule is about an act."""
    labels, templates = rule.get("labels", []), rule.get("templates", [])
    named = set(labels) & set(seen.labels) or seen.template in templates or not (labels or templates)
    return action in rule.get("actions", ["approve", "revoke"]) and bool(named)


def moments_of(e: Evidence) -> list[tuple[State, list[Act], list[Act], Run | None]]:
    """For each run: the decision as it was, the approvals that stood, and they with the requests of decision and run."""
    found = list[tuple[State, list[Act], list[Act], Run | None]]()
    now: list[tuple[Run | None, State]] = [*e.pasts] or [(None, e.state)]
    for run, state in now:
        standing = state.standing(run.act.at if run else moment(e.events[-1]["ts"])) if e.events else []
        found.append((state, standing, [act for act in (state.request, *standing, run and run.act) if act], run))
    return found


@of("signatures", "readable")
def statements(e: Evidence) -> Verdicts:
    for state, standing, judged, _ in moments_of(e):
        yield all(act.sound for act in judged)
        if not e.trust and any(act.said for act in judged):
            yield "nobody says whose keys these are"
        if sum(act.said is not None and act.sound for act in standing) < (state.action["policy"] or UNSAID)["min_approvals"]:
            yield "too few approvals are signed"
    if len(e.pasts) < len(e.state.runs):
        yield "more runs than are judged"


@of("signatures", "trusting")
def acts(e: Evidence) -> Verdicts:
    for act in [act for _, _, judged, _ in moments_of(e) for act in judged]:
        yield not act.sound or (act.action == "approve" and not act.said) or (e.trust is not None and e.trust.believes(act))


@of("signatures", "trusting")
def believed_approvals(e: Evidence) -> Verdicts:
    for run, state in e.pasts:
        yield satisfied(state, run, run.act.at, lambda act, run=run: e.trust is not None and e.trust.believes(act, run.act))


@of("signatures")
def readable_history(e: Evidence) -> Verdicts:
    if not e.readable:
        yield "the history cannot be read"


@of("signatures")
def attestation(e: Evidence) -> Verdicts:
    for entry in e.case.get("attestations", []):
        attestors = e.trust.attestors if e.trust else []
        payload: Json = entry["payload"] if fits(entry, {"payload": {"attestor": texts("id key_id")}}, False) else EMPTY
        known = [key for key in attestors if payload and all(key[name] == payload["attestor"][name] for name in ("id", "key_id"))]
        for key in known:
            signed = {name: payload[name] for name in ("attestation_version", "binding_digest", "signed_at")}
            signed |= {"claims": sorted(payload["claims"]), "attestor": {name: key[name] for name in ("id", "key_id")}}
            names = {**dict.fromkeys(signed, anything), "attestor": texts("id key_id")}
            yield fits(entry, {"payload": names, "signature": str, "attestation_id-": anything, "meta-": anything})
            yield signed["attestation_version"] == "0.7" and len(payload["claims"]) > 0 and fits(payload["claims"], [str])
            yield raw(payload["binding_digest"]) == raw(e.package["integrity"]["binding_digest"])
            yield valid(key, moment(payload["signed_at"])) and " " not in entry["signature"]
            yield signed_by(unbase64(key["public_key"]), canonical(signed).encode(), bytes.fromhex(entry["signature"]))
        if not known:
            yield "nobody is known under these names"


@of("signatures", "envelope")
def envelope(e: Evidence) -> Verdicts:
    keys: dict[str, Json] = {key["key_id"]: key for key in (e.trust.attestors if e.trust else [])}
    known = [(keys[one["keyid"]], one["sig"]) for one in e.envelope["signatures"] if one.get("keyid") in keys]
    for key, signature in known:
        yield signed_by(unbase64(key["public_key"]), sealed(e.envelope), unbase64(signature))
    if all("not_after" in key or "retired_at" in key for key, _ in known):
        yield "no signature of a known key that has no end"


# Log


class Note:
    """A signed note whose text is a checkpoint; a ValueError for another text."""

    def __init__(self, note: str) -> None:
        body, blank, seals = note.rpartition("\n\n")
        self.text, lines = f"{body}\n", [re.fullmatch("\u2014 ([^\\s+]+) (\\S+)", line) for line in seals.split("\n")[:-1]]
        self.seals = [(line[1], unbase64(line[2])) for line in lines if line]
        self.origin, size, root, *_ = self.text.split("\n")
        self.size, self.root = int(size), unbase64(root)
        require(blank and seals.endswith("\n") and all(lines) and self.origin and str(self.size) == size and len(self.root) == 32)


class NoteKey:
    """A key of a log (type 01) or of its witness (type 04)."""

    def __init__(self, text: str) -> None:
        self.name, mark, encoded = text.split("+", 2)
        data = unbase64(encoded)
        self.mark, self.kind, self.key = bytes.fromhex(mark), data[0], data[1:]
        require(sha256(f"{self.name}\n".encode() + data)[:8] == mark and len(self.key) == 32)

    def judge(self, note: Note) -> list[bool]:
        """Whether each signature on a note that names this key is valid."""
        found = [seal[4:] for name, seal in note.seals if (name, seal[:4]) == (self.name, self.mark)]
        if self.kind == 1:
            return [signed_by(self.key, note.text.encode(), seal) for seal in found]
        heads = [f"cosignature/v1\ntime {int.from_bytes(seal[:8], 'big')}\n" for seal in found]
        return [signed_by(self.key, (head + note.text).encode(), seal[8:]) for head, seal in zip(heads, found, strict=True)]


@of("log")
def checkpoint(e: Evidence) -> Verdicts:
    if e.log is None:
        yield "the file says nothing of a log"
    elif e.note is None:
        yield False


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def leaves(e: Evidence) -> Iterator[bytes]:
    previous = e.log["prev_hash"]
    for event in e.events:
        record = {"kind": "event", "generation": e.log["generation"], "prev_hash": previous, "decision_id": e.decision}
        record |= {name: event[name] for name in ("seq", "ts", "payload")}
        record |= {"event_type": event["type"], "actor": {name: event["actor"][name] for name in ("type", "id")}}
        text = canonical(record).encode()
        previous = sha256(text)
        yield hashlib.sha256(b"\x00" + text).digest()


@of("log", "note")
def inclusion(e: Evidence) -> Verdicts:
    known = dict(zip((position - 1 for position in e.log["positions"]), leaves(e), strict=True))
    proof, note = [bytes.fromhex(text) for text in e.log["proof"]][::-1], e.note

    def walk(start: int, size: int, inside: list[int]) -> bytes:
        if not inside or size == 1:
            return known[start] if inside else proof.pop()
        half = start + (1 << (size - 1).bit_length() - 1)
        left, right = [index for index in inside if index < half], [index for index in inside if index >= half]
        return node(walk(start, half - start, left), walk(half, start + size - half, right))

    yield note is not None and max(known) < note.size and walk(0, note.size, list(known)) == note.root
    yield not proof


@of("log", "note")
def log_signature(e: Evidence) -> Verdicts:
    keys = [key for key in e.log_keys if key.kind == 1]
    if keys and e.note:
        yield any(any(key.judge(e.note)) for key in keys if key.name == e.note.origin)
    else:
        yield "no key of a log"


@of("log", "note")
def cosignatures(e: Evidence) -> Verdicts:
    seals = [verdict for key in e.log_keys if key.kind == 4 and e.note for verdict in key.judge(e.note)]
    yield from seals
    if not e.kept and not any(seals):
        yield "no checkpoint was kept, and nobody saw this one"


def consistent(old: Note, new: Note, proof: list[bytes]) -> bool:
    """RFC 6962, 2.1.2, verified as RFC 9162, 2.1.4.2, says."""
    small, large, *rest = [old.root, old.root, *proof] if old.size & (old.size - 1) == 0 else [proof[0], *proof]
    first, last = old.size - 1, new.size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    for sibling in rest:
        require(last)
        if first & 1 or first == last:
            small, large = node(sibling, small), node(sibling, large)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            large = node(large, sibling)
        first, last = first >> 1, last >> 1
    return (small, large, last) == (old.root, new.root, 0)


@of("log", "note")
def extends_checkpoint(e: Evidence) -> Verdicts:
    for kept in e.kept if e.note else []:
        first, second = sorted((kept, e.note or kept), key=lambda note: note.size)
        yield kept.origin == second.origin == first.origin and all(all(key.judge(kept)) for key in e.log_keys)
        proofs = [entry["proof"] for entry in e.log["consistency"] if entry["size"] == kept.size]
        if first.size == second.size or kept.size == 0:
            yield kept.size == 0 or first.root == second.root
        elif proofs:
            yield consistent(first, second, [bytes.fromhex(text) for text in proofs[0]])
        else:
            yield "no proof from the checkpoint that was kept"


# Execution

FLIGHT: Json = {**texts("event_id run_id type"), "seq": int, "payload": dict}
CALL: Json = {"tool": NAME, "method": NAME, "args-": dict}
STEP: Json = {"step_id-": NAME, "intent-": str}
FULL: Json = {**STEP, "call": CALL, "expected_output_pointer-": str}


@of("execution")
def flight(e: Evidence) -> Verdicts:
    if not e.flown:
        yield "nothing was run, or no record is embedded"


@of("execution", "flown")
def run_digest(e: Evidence) -> Verdicts:
    yield run_text(e.whole_record) == e.record["digests"]["sha256"]


@of("execution", "flown")
def response_digest(e: Evidence) -> Verdicts:
    stated = digest(e.response) == raw(e.record["integrity"]["canonical_digest"]) if "response" in e.record else "no response"
    yield stated


@of("execution", "flown")
def response_binds_run(e: Evidence) -> Verdicts:
    bound, told = e.response.get("run_bundle_digest"), run_text(e.whole_record)
    yield "no response that names a run" if bound is None else raw(bound) == told
    sealed: Json = e.record.get("integrity")
    stated: Json = sealed.get("canonical_digest") if is_a(sealed, dict) else None
    if is_a(stated, str) and raw(stated) == digest(e.response):
        adapters = [payload.get("adapter_id") for kind in NAMING[:2] for payload in e.payloads(kind)]
        ran = {"status": e.row["status"].lower(), "mode": e.row["mode"], "adapter_id": [*adapters, "none"][0]}
        yield all(e.response.get(name, found) == found for name, found in ran.items())


@of("execution", "flown")
def result_link(e: Evidence) -> Verdicts:
    known = [digest for digest in (e.link.get("router_result_digest"), e.state.runs[-1].told("response_digest")) if digest is not None]
    stated = raw(e.record["integrity"]["canonical_digest"])
    yield all(raw(digest) == stated for digest in known) if known else "the decision holds no digest of a result"


@of("execution", "flown")
def run_id(e: Evidence) -> Verdicts:
    named = [e.record["run_id"], e.link["run_id"], e.response["run_id"] if "response" in e.record else e.record["run_id"]]
    yield all(name == e.row["run_id"] for name in (*named, *(event["run_id"] for event in e.flight)))


@of("execution", "flown")
def seq(e: Evidence) -> Verdicts:
    events = e.flight
    yield [event["seq"] for event in events] == [*range(len(events))]
    yield len({event["event_id"] for event in events}) == len(events)


OPENING = ("RUN_STARTED", "DISPATCH_SELECTED", "PLAN_CREATED", "REQUEST_RECORDED")
NAMING = ("DISPATCH_SELECTED", "REQUEST_RECORDED", "TOOL_CALL_REQUESTED", "TOOL_CALL_SUCCEEDED", "TOOL_CALL_FAILED")
IN_STEPS = ("STEP_STARTED", "TOOL_CALL_REQUESTED", "TOOL_CALL_SUCCEEDED", "TOOL_CALL_FAILED", "STEP_COMPLETED")
ENDS = ("RUN_COMPLETED", "RUN_FAILED")


@of("execution", "flown")
def shape(e: Evidence) -> Verdicts:
    """The order of the events; `walk_steps` looks into the steps."""
    every = [event for event in e.flight if event["type"] in (*OPENING, *IN_STEPS, "PROVENANCE_EMITTED", *ENDS)]
    steps = [place for place, event in enumerate(every) if event["type"] in IN_STEPS]
    early = [event for event in every[: min(steps, default=len(every) - 1)] if too_long(event)]
    events = [event for event in every if event not in early]
    kinds = [event["type"] for event in events]
    ranks = [OPENING.index(kind) if kind in OPENING else len(OPENING) for kind in kinds]
    yield e.flight[0]["type"] == "RUN_STARTED" and e.flight[-1]["type"] in ENDS and not set(ENDS) & set(kinds[:-1])
    yield all(rank == len(OPENING) or rank > max(ranks[:place], default=-1) for place, rank in enumerate(ranks))
    yield "PROVENANCE_EMITTED" not in kinds or not set(IN_STEPS) & set(kinds[kinds.index("PROVENANCE_EMITTED") :])
    failed = bool(early) or any(payload.get("status") != "ok" for payload in e.payloads("STEP_COMPLETED"))
    yield not failed if kinds[-1] == "RUN_COMPLETED" else kinds[-1] != "RUN_FAILED" or failed or "reason" in events[-1]["payload"]
    started = [None, *(payload.get("step_id") for payload in e.payloads("STEP_STARTED"))]
    yield e.flight[-1]["payload"].get("step_id", started[-1]) == started[-1]
    ours = e.flight[0]["payload"].get("recorded_by") == "nexus-attest"
    yield not ours or "REQUEST_RECORDED" in kinds
    yield not ours or all(set(part) <= set(known) for part, known in ((e.record, RECORD), *parts_of(e.record)))
    yield from walk_steps(events, all(payload.get("idempotent", True) is True for payload in e.payloads("REQUEST_RECORDED")))


RECORD = ("bundle_version", "exported_at", "run", "events", "digests", "run_id", "response", "integrity", "provenance")


def parts_of(record: Json) -> Iterator[tuple[Json, tuple[str, ...]]]:
    """What no digest covers, where it is an object, and which members it has."""
    for name, known in (("digests", ("sha256",)), ("integrity", ("alg", "canonical_digest"))):
        if is_a(record.get(name), dict):
            yield record[name], known


def too_long(event: Json) -> bool:
    """What nexus-router writes of a plan longer than allowed, before it makes the steps that are."""
    return event["type"] == "RUN_FAILED" and event["payload"].get("reason") == "max_steps_exceeded"


def walk_steps(events: list[Json], idempotent: bool) -> Verdicts:
    """Which step is open, how its last call went, and whether one is under way."""
    step, calls, calling, last = None, 0, False, None
    for event in events:
        kind, payload = event["type"], event["payload"]
        here = step is not None and payload.get("step_id") == step
        if kind == "STEP_STARTED":
            yield step is None
            step, calls, last = payload.get("step_id"), 0, None
        elif kind == "TOOL_CALL_REQUESTED":
            yield here and not calling and (calls == 0 or (calls == 1 and idempotent and uncertain(last)))
            calls, calling = calls + 1, True
        elif kind in ("TOOL_CALL_SUCCEEDED", "TOOL_CALL_FAILED"):
            yield here and calling
            calling, last = False, event
        elif kind == "STEP_COMPLETED":
            result = last and {"TOOL_CALL_SUCCEEDED": "ok", "TOOL_CALL_FAILED": "error"}[last["type"]]
            yield here and not calling and result in (None, payload.get("status"))
            step = None
        elif kind == "PROVENANCE_EMITTED":
            yield step is None or calling
    told = events[-1]["payload"]
    if calling and told.get("reason") == "interrupted":
        yield "nobody knows how the last call ended"
    else:
        yield not calling and (step is None or "reason" in told)


def uncertain(result: Json) -> bool:
    """Whether a call may be made once more after such a result."""
    codes = ("TIMEOUT", "CONNECTION_FAILED", "CONNECTION_LOST", "HTTP_ERROR")
    told = (result or EMPTY).get("payload", EMPTY)
    return (
        result is not None
        and result["type"] == "TOOL_CALL_FAILED"
        and told.get("outcome") in ("unknown", "not_sent")
        and told["error_code"] in codes
    )


@of("execution", "flown")
def row(e: Evidence) -> Verdicts:
    told, first, last = e.row, e.flight[0]["payload"], e.flight[-1]["type"]
    yield [told["goal"], told["mode"], told["status"]] == [first.get("goal"), first.get("mode"), last.removeprefix("RUN_")]


@of("execution", "flown")
def request_digest(e: Evidence) -> Verdicts:
    told, held = digest(e.asked), [e.link.get("router_request_digest"), e.state.runs[-1].asked]
    recorded = e.payloads("REQUEST_RECORDED") if is_a(e.record.get("events"), list) else []
    known = [digest for digest in (*held, *(one.get("request_digest") for one in recorded)) if digest is not None]
    yield all(raw(digest) == told for digest in known) if known else True
    if held == [None, None]:
        yield "the decision holds no digest of a request"


def steps_of(text: str | None) -> list[Json] | None:
    """router.md, "Plans": the steps in their full form; none of a plan that is not one; null of prose."""
    try:
        loose = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    steps = list[Json]()
    return (steps if holds(lambda: read_plan(text or "", steps)) else []) if is_a(loose, dict) or is_a(loose, list) else None


def read_plan(text: str, found: list[Json]) -> bool:
    plan = read_json(text.encode())
    require(len(canonical(plan, 100).encode()) and (is_a(plan, list) or fits(plan, {"steps": list, "on_error-": PLAN_ERRORS})))
    for count, step in enumerate(plan if is_a(plan, list) else plan["steps"], 1):
        require(fits(step, FULL if "call" in step else STEP | CALL))
        call = {name: value for name, value in step.get("call", step).items() if name in ("tool", "method", "args")}
        others = {name: value for name, value in step.items() if name not in ("tool", "method", "args")}
        found.append({"step_id": f"s{count}", "intent": ""} | others | {"call": {"args": {}} | call})
    return len({step["step_id"] for step in found}) == len(found)


PLAN_ERRORS = text("stop|continue")


def goes_on(text: str | None) -> bool:
    """Whether a plan says that a failed step ends nothing."""
    return holds(lambda: read_plan(text or "", []) and json.loads(text or "")["on_error"] == "continue")


def approved_plan(e: Evidence) -> list[Json]:
    """The approved steps. Of prose: the one default call that was recorded, with this goal and this text; or none."""
    action, recorded = e.state.action, e.recorded_plan or list[Json]()
    steps = steps_of(action["plan"])
    if steps is not None or len(recorded) != 1 or not fits(recorded, [{"call": {"tool": str, "method": str}}], False):
        return steps or []
    args = {"goal": action["goal"] or ""} | ({} if action["plan"] is None else {"plan": action["plan"]})
    return [
        {
            "step_id": "s1",
            "intent": "",
            "call": {"tool": recorded[0]["call"]["tool"], "method": recorded[0]["call"]["method"], "args": args},
        }
    ]


@of("execution", "flown")
def approved_executed(e: Evidence) -> Verdicts:
    asked, plan, recorded, run = e.asked, approved_plan(e), e.recorded_plan, e.state.runs[-1]
    started, selected, calls = (e.payloads(kind) for kind in ("STEP_STARTED", "DISPATCH_SELECTED", "TOOL_CALL_REQUESTED"))
    steps, end = {step["step_id"]: step["call"] for step in plan}, [event["type"] for event in e.flight][-1:]
    yield [e.row["goal"], e.row["mode"]] == [asked["goal"], "dry_run" if run.dry else "apply"]
    yield not started or (len(selected) > 0 and recorded is not None)
    yield recorded is None or same(recorded, plan)
    adapters = [payload.get("adapter_id") for kind in NAMING for payload in e.payloads(kind)]
    yield all(adapter == run.adapter for adapter in adapters)
    yield all(same(payload.get("adapter_capabilities"), selected[0].get("capabilities")) for payload in calls if selected)
    yield all(name in selected[0]["capabilities"] for name in asked.get("require_capabilities", []) if selected)
    yield [payload.get("step_id") for payload in started] == [*steps][: len(started)]
    yield len(started) <= asked.get("max_steps", len(started))
    yield all(same(payload.get("call"), steps.get(payload.get("step_id"))) for payload in calls)
    yield all(payload.get("simulated") is run.dry for payload in e.payloads("TOOL_CALL_SUCCEEDED"))
    yield all(count is None or same(count, len(started)) for count in (run.told("steps_executed"), e.response.get("steps_executed")))
    yield end != ["RUN_COMPLETED"] or len(started) == len(plan)
    yield end != ["RUN_FAILED"] or (run.end is not None and not run.completed)
    ended = [payload.get("status") for payload in e.payloads("STEP_COMPLETED")]
    stops = bool(e.payloads("REQUEST_RECORDED")) and not goes_on(e.state.action["plan"])
    yield not stops or "error" not in ended or len(started) <= ended.index("error") + 1
    explained = (
        end == ["RUN_COMPLETED"] or (stops and ended[-1:] == ["error"]) or any("reason" in event["payload"] for event in e.flight[-1:])
    )
    yield explained or len(started) == len(plan)


@of("execution", "flown")
def provenance(e: Evidence) -> Verdicts:
    asked, emitted, name = e.asked, e.payloads("PROVENANCE_EMITTED"), e.row["run_id"]
    dispatch = {"adapter_id": asked["adapter_id"]}
    if "require_capabilities" in asked:
        dispatch["require_capabilities"] = sorted(set(asked["require_capabilities"]))
    policy = {"allow_apply": not asked["dry_run"]} | {name: asked[name] for name in ("max_steps",) if name in asked}
    request = {"goal": asked["goal"], "mode": "dry_run" if asked["dry_run"] else "apply", "plan_override": approved_plan(e)}
    told = text_digest({"request": request | {"dispatch": dispatch, "policy": policy}, "results": [*results(e, asked["dry_run"])]})
    if not emitted:
        explained = "reason" in e.flight[-1]["payload"] and not e.payloads("REQUEST_RECORDED")
        yield "the run has no record of provenance" if explained else False
        return
    ((said,),) = [one["digests"] for payload in emitted for one in payload["provenance"]["records"]]
    yield [said["alg"], said["artifact_id"], said["value"]] == ["sha256", f"run:{name}", told]


def results(e: Evidence, dry: bool) -> Iterator[Json]:
    outputs = list[Json]()
    broken_off = e.flight[-1]["payload"].get("reason") in ("interrupted", "record_interrupted")
    last = max((place for place, event in enumerate(e.flight) if event["type"] == "STEP_COMPLETED"), default=0)
    for place, event in enumerate(e.flight):
        kind, payload = event["type"], event["payload"]
        if kind == "STEP_STARTED":
            outputs = []
        elif kind == "TOOL_CALL_SUCCEEDED":
            outputs.append(payload["output"])
        elif kind == "TOOL_CALL_FAILED":
            outputs.append({})
        elif kind == "STEP_COMPLETED":
            if place == last and broken_off and payload["status"] == "error":
                outputs = outputs or [{}]
            told = {"step_id": payload["step_id"], "status": payload["status"], "output": outputs[-1]}
            yield told | {"simulated": dry, "evidence": list[Json]()}


# Witness


@of("witness")
def proofs(e: Evidence) -> Verdicts:
    """Whether they are about this package; nothing else of them."""
    for proof in e.case.get("witness", []):
        yield raw(proof["intent"]["binding_digest"]) == raw(e.package["integrity"]["binding_digest"])
    yield "not checked: proofs of ledgers and time-stamp authorities" if e.case.get("witness") else "no proof"


# Layers


def examine(document: bytes, trust: Trust | None = None, kept: Iterable[Note] = ()) -> dict[str, dict[str, list[bool | str]]]:
    """What the rules of each layer yield; every layer is judged, whatever the others find."""
    found: dict[str, dict[str, list[bool | str]]] = {layer: {} for layer in LAYERS}
    try:
        e = replace(open_file(read_json(document)), trust=trust, kept=[*kept])
    except BROKEN:
        found["integrity"]["schema"] = [False]
        return found
    for layer, given, rule in RULES:
        verdicts = found[layer].setdefault(rule.__name__, [])
        try:
            verdicts.extend(rule(e) if getattr(e, given) else ())
        except BROKEN:
            verdicts.append(False)
    return found


def outcome(checks: dict[str, list[bool | str]]) -> str:
    """FAIL, PASS, INCOMPLETE, or what this program leaves out."""
    verdicts = [verdict for check in checks.values() for verdict in check]
    missing = [verdict for verdict in verdicts if isinstance(verdict, str)]
    if False in verdicts:
        return "FAIL"
    return "PASS" if verdicts and not missing else "NOT CHECKED" if any(gap.startswith("not checked") for gap in missing) else "INCOMPLETE"


def judge(document: bytes, trust: Trust | None = None, kept: Iterable[Note] = ()) -> dict[str, str]:
    return {layer: outcome(checks) for layer, checks in examine(document, trust, kept).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--trust", type=Path)
    parser.add_argument("--checkpoint", type=Path, action="append", default=[])
    given = parser.parse_args()
    trust = Trust(given.trust.read_text(encoding="utf-8")) if given.trust else None
    found = examine(given.file.read_bytes(), trust, [Note(path.read_bytes().decode()) for path in given.checkpoint])
    for layer, checks in found.items():
        failed = [name for name, verdicts in checks.items() if False in verdicts]
        missing = [verdict for verdicts in checks.values() for verdict in verdicts if isinstance(verdict, str)]
        print(f"{outcome(checks):11} {layer:13} {'; '.join(failed or missing)}".rstrip())
    return 2 if any(outcome(checks) == "FAIL" for checks in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
