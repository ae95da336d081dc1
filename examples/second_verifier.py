"""A second verifier of audit packages and case files, written from docs/verification.md: the standard library and PyNaCl, nothing of ours.

    python second_verifier.py FILE [TRUST.toml] [CHECKPOINT ...]

Judges integrity, authorization, signatures and log, and prints an outcome for each. It is short rather than helpful: it says that a
layer fails, not why. Exit code 0 when none failed, 2 otherwise.
"""
# pyright: basic
# JSON of any shape comes in here, and what it is is checked when it is read, not by a type checker.

import base64
import hashlib
import json
import math
import re
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

LAYERS = ("integrity", "authorization", "signatures", "log")
EARLIEST = datetime.min.replace(tzinfo=UTC)
ACTIONS = {"DECISION_CREATED": "request", "APPROVAL_GRANTED": "approve", "APPROVAL_REVOKED": "revoke", "EXECUTION_REQUESTED": "execute"}
STRENGTH = ("asserted", "authenticated", "signed")
HEX = re.compile("[0-9a-f]{64}")
EVENT = {"event_id": str, "decision_id": str, "seq": int, "type": str, "payload": dict, "ts": str, "actor": dict, "digest": str}
LINK = ("run_id", "adapter_id", "router_request_digest", "router_result_digest", "control_router_link_digest")
POLICY = {"min_approvals": 1, "allowed_modes": ["dry_run"], "require_adapter_capabilities": [], "max_steps": None, "labels": []}
HEADER = {"decision_id": str, "goal": str, "mode": str, "created_at": str, "status": str}


class Bad(Exception):
    """What was to be judged is not as it must be."""


def need(holds: object) -> None:
    if not holds:
        raise Bad


# -- conventions


def read_json(text: bytes | str) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(found)) == len(found))
        return dict(found)

    def number(digits: str) -> float:
        need(math.isfinite(float(digits)))
        return float(digits)

    try:
        text = text.decode() if isinstance(text, bytes) else text
        need(sum(map(text.count, ",[{")) <= 4_000_000)
        return json.loads(text, object_pairs_hook=pairs, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError):
        raise Bad from None


def canonical(value: Any, depth: int = 0) -> str:
    need(depth <= 256)
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key], depth + 1)}" for key in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(item, depth + 1) for item in value) + "]"
    if not isinstance(value, float):
        return json.dumps(value, ensure_ascii=False)
    if value == 0:
        return "0"
    sign, digits, exponent = re.findall(r"(-?)([\d.]+)(?:e([+-]\d+))?", repr(value))[0]
    whole, _, fraction = digits.partition(".")
    point = len(whole) + int(exponent or 0)
    digits = (whole + fraction).lstrip("0")
    point -= len(whole + fraction) - len(digits)
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        text = digits.ljust(point, "0") if len(digits) <= point else f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1:+d}"
    return sign + text


def octets(value: Any) -> bytes:
    try:
        return canonical(value).encode()
    except (UnicodeEncodeError, RecursionError):
        raise Bad from None


def digest(value: Any) -> str:
    return hashlib.sha256(octets(value)).hexdigest()


def raw(value: str | None) -> str | None:
    return None if value is None else value.removeprefix("sha256:")


def same(one: Any, other: Any) -> bool:
    return isinstance(one, str) and isinstance(other, str) and raw(one) == raw(other)


def time(text: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise Bad from None


def unbase64(text: Any) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise Bad from None
    need(base64.b64encode(data).decode() == text)
    return data


def verifies(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except (CryptoError, ValueError):
        return False
    return True


def fields(data: Any, types: dict[str, type], optional: dict[str, Any] | None = None, nullable: tuple[str, ...] = ()) -> dict[str, Any]:
    """The members with these types; `optional` has what stands for missing ones. A boolean is no integer."""
    need(isinstance(data, dict))
    found = {**(optional or {}), **{name: data[name] for name in types if name in data}}
    need(found.keys() == types.keys())
    for name, kind in types.items():
        need(type(found[name]) is kind or (found[name] is None and name in nullable))
    return found


# -- files


def read_package(data: Any) -> dict[str, Any]:
    top = {
        "package_version": str,
        "control_bundle": dict,
        "router": dict,
        "binding": dict,
        "integrity": dict,
        "provenance": dict,
        "meta": dict,
    }
    package = fields(data, top, {"package_version": "0.6", "provenance": {}, "meta": {}})
    package["binding"] = fields(package["binding"], {"control_digest": str, "router_digest": str, "control_router_link_digest": str})
    package["integrity"] = fields(package["integrity"], {"alg": str, "binding_digest": str}, {"alg": "sha256"})
    empty = {"bundle": None, "ref": None}
    router = fields(package["router"], {"mode": str, "bundle": dict, "ref": dict}, empty, ("bundle", "ref"))
    need(router["mode"] in ("embedded", "reference") and router["ref" if router["mode"] == "embedded" else "bundle"] is None)
    if router["ref"] is not None:
        router["ref"] = fields(router["ref"], {"run_id": str, "digest": str})
    provenance(package["provenance"])
    return {**package, "router": router, "control_bundle": read_bundle(package["control_bundle"])}


def read_bundle(data: dict[str, Any]) -> dict[str, Any]:
    types = {"bundle_version": str, "decision": dict, "events": list, "integrity": dict, "provenance": dict, "meta": dict}
    bundle = fields(data, types, {"bundle_version": "0.5", "events": [], "provenance": {}, "meta": {}})
    header = fields(
        bundle["decision"], {**HEADER, "creator": dict}, {"goal": None, "mode": "dry_run", "creator": None}, ("goal", "creator")
    )
    bundle["decision"] = {name: value for name, value in header.items() if name != "creator" or value is not None}
    bundle["events"] = [fields(event, EVENT, {"payload": {}, "actor": {}, "digest": ""}) for event in bundle["events"]]
    need(all(event["seq"] >= 0 for event in bundle["events"]))
    snapshot = data.get("template_snapshot")
    bundle["template_snapshot"] = {"present": False}
    if isinstance(snapshot, dict) and snapshot.get("present") is True:
        parts = {"name": str, "digest": str, "snapshot": dict, "overrides": dict}
        bundle["template_snapshot"] = {"present": True, **fields(snapshot, parts, dict.fromkeys(parts), tuple(parts))}
    given = {} if data.get("router_link") is None else data["router_link"]
    bundle["router_link"] = fields(given, dict.fromkeys(LINK, str), dict.fromkeys(LINK), LINK)
    bundle["integrity"] = fields(bundle["integrity"], {"alg": str, "canonical_digest": str}, {"alg": "sha256"})
    provenance(bundle["provenance"])
    return bundle


def provenance(data: dict[str, Any]) -> None:
    need(isinstance(data.get("records", []), list))
    for record in data.get("records", []):
        types = {"prov_id": str, "method_id": str, "inputs": list, "outputs": list}
        found = fields(record, types, {"inputs": [], "outputs": []})
        need(all(isinstance(name, str) for name in found["inputs"] + found["outputs"]))


def exactly(data: Any, *names: str) -> dict[str, Any]:
    need(isinstance(data, dict) and set(data) == set(names))
    return data


def read_case(data: dict[str, Any]) -> dict[str, Any]:
    missing = {"log": None, "attestations": [], "witness": [], "trust": None, "extensions": {}, "critical": []}
    types = {"case_version": str, "package": dict, "log": dict, "attestations": list, "witness": list, "trust": dict}
    case = fields(data, {**types, "extensions": dict, "critical": list}, missing, ("log", "trust"))
    need(data.keys() <= case.keys() and case["case_version"] == "1" and not case["critical"])
    need(all(isinstance(entry, dict) for entry in case["attestations"] + case["witness"]))
    if case["trust"] is not None:
        need(isinstance(exactly(case["trust"], "digest")["digest"], str))
    if case["log"] is not None:
        log = exactly(case["log"], "checkpoint", "generation", "prev_hash", "positions", "proof", "consistency")
        fields(log, {"checkpoint": str, "generation": int, "prev_hash": str, "positions": list, "proof": list, "consistency": list})
        entries = [fields(exactly(entry, "size", "proof"), {"size": int, "proof": list}) for entry in log["consistency"]]
        hashes = [log["prev_hash"], *log["proof"], *(one for entry in entries for one in entry["proof"])]
        need(all(isinstance(one, str) and HEX.fullmatch(one) for one in hashes))
        numbers = [log["generation"], *log["positions"], *(entry["size"] + 1 for entry in entries)]
        need(all(type(number) is int and 1 <= number < 2**63 for number in numbers))
        need(all(one < other for one, other in pairwise(log["positions"])) and len({entry["size"] for entry in entries}) == len(entries))
    return case


# -- replay


def typed(payload: dict[str, Any], **kinds: type) -> None:
    for name, kind in kinds.items():
        need(payload.get(name) is None or type(payload[name]) is kind)


def number_of(value: Any) -> int:
    need(type(value) in (int, float, str))
    try:
        return int(value)
    except (ValueError, OverflowError):
        raise Bad from None


def policy_of(payload: dict[str, Any]) -> dict[str, Any]:
    lists = {
        name: payload[name] if isinstance(payload.get(name), list) else POLICY[name]
        for name in POLICY
        if name not in ("min_approvals", "max_steps")
    }
    most = payload.get("max_steps")
    policy = {"min_approvals": number_of(payload.get("min_approvals", 1)), "max_steps": None if most is None else number_of(most), **lists}
    need(policy["min_approvals"] >= 1 and (most is None or policy["max_steps"] >= 1))
    need(all(isinstance(text, str) for texts in lists.values() for text in texts))
    octets(lists)
    need(policy["allowed_modes"] and set(policy["allowed_modes"]) <= {"dry_run", "apply"})
    return policy


def statement_of(event: dict[str, Any]) -> dict[str, Any] | None:
    """The signed statement of an event, with its payload's bytes, its signature and its key id; None when it is not signed."""
    payload, action = event["payload"], ACTIONS.get(event["type"])
    given = [name for name in ("assurance", "channel", "signature") if name in payload]
    if action is None or not given:
        return None
    need(all(payload[name] is not None for name in given) and payload.get("assurance", "asserted") in STRENGTH)
    need("channel" not in payload or (isinstance(payload["channel"], str) and 1 <= len(payload["channel"]) <= 256))
    octets(payload.get("channel"))
    need(("signature" in payload) == (payload.get("assurance") == "signed"))
    if "signature" not in payload:
        return None
    envelope = payload["signature"]
    envelope = exactly(read_json(envelope) if isinstance(envelope, str) else envelope, "payload", "payloadType", "signatures")
    need(envelope["payloadType"] == "application/vnd.nexus.approval+json" and isinstance(envelope["signatures"], list))
    need(len(envelope["signatures"]) == 1)
    signature = exactly(envelope["signatures"][0], "keyid", "sig")
    need(isinstance(signature["keyid"], str) and 1 <= len(signature["keyid"]) <= 256 and len(unbase64(signature["sig"])) == 64)
    octets(signature["keyid"])
    data = unbase64(envelope["payload"])
    need(len(data) <= 64 * 1024)
    names = ("v", "action", "decision_id", "action_digest", "actor", "comment", "expires_at", "signed_at")
    said = exactly(read_json(data), *names)
    need(octets(said) == data and type(said["v"]) is int and said["v"] == 1 and said["action"] == action)
    need(isinstance(said["decision_id"], str) and said["decision_id"] and said["actor"] == actor_of(said["actor"]) == event["actor"])
    need(action != "request" or re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", said["decision_id"]))
    need(isinstance(said["action_digest"], str) and re.fullmatch("sha256:[0-9a-f]{64}", said["action_digest"]))
    need(time(said["signed_at"]).isoformat() == said["signed_at"])
    need(said["expires_at"] is None or time(said["expires_at"]).isoformat() == said["expires_at"])
    comment = payload.get({"approve": "comment", "revoke": "reason"}.get(action, ""))
    need(said["comment"] == (comment or None) and said["expires_at"] == (payload.get("expires_at") if action == "approve" else None))
    return {**said, "bytes": data, "sig": unbase64(signature["sig"]), "keyid": signature["keyid"]}


def actor_of(data: Any) -> dict[str, Any]:
    actor = exactly(data, "type", "id")
    need(actor["type"] in ("human", "system") and isinstance(actor["id"], str) and actor["id"])
    octets(actor)
    return actor


class Decision:
    """The state that events make; `said` has, by seq, whether the statement of an event is its own and fresh (None: not signed)."""

    def __init__(self, name: str, events: list[dict[str, Any]], at: datetime | None = None) -> None:
        self.name, self.at, self.state = name, at or (time(events[-1]["ts"]) if events else EARLIEST), "DRAFT"
        self.action: dict[str, Any] = {"goal": None, "plan": None, "requested_mode": None, "labels": [], "policy": None, "template": None}
        self.approvals: dict[str, dict[str, Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.completed: list[bool] = []
        self.requester, self.defined, self.used, self.revoked = None, -1, set[bytes](), dict[str, datetime]()
        for event in events:
            self.apply(event)

    def point(self) -> "Decision":
        """What an act is judged by, as it is now."""
        now = Decision(self.name, [])
        now.action, now.requester = dict(self.action), self.requester
        return now

    def fits(self, event: dict[str, Any], said: dict[str, Any] | None) -> bool | None:
        if said is None:
            return None
        own = said["decision_id"] == self.name and same(said["action_digest"], digest(self.action))
        late = said["action"] != "approve" or time(said["signed_at"]) > self.revoked.get(event["actor"]["id"], EARLIEST)
        fresh = said["bytes"] not in self.used and late
        self.used.add(said["bytes"])
        return own and fresh

    def apply(self, event: dict[str, Any]) -> None:
        payload, kind, who = event["payload"], event["type"], actor_of(event["actor"])["id"]
        moment, said = time(event["ts"]), statement_of(event)
        if kind == "DECISION_CREATED":
            typed(payload, goal=str, plan=str, requested_mode=str, labels=list)
            need(all(isinstance(label, str) for label in payload.get("labels") or []))
            self.action |= {name: payload.get(name) for name in ("goal", "plan", "requested_mode")}
            self.action["labels"], self.state, self.requester, self.defined = (
                payload.get("labels") or [],
                "DRAFT",
                event["actor"],
                event["seq"],
            )
            if said is not None:
                self.used.add(said["bytes"])
        elif kind == "POLICY_ATTACHED":
            policy = policy_of(payload)
            typed(payload, template_name=str, template_digest=str, template_snapshot=dict, overrides_applied=dict)
            name = payload.get("template_name")
            template = {"name": name, "digest": payload.get("template_digest") or ""} if name else None
            self.action |= {"policy": policy, "template": template}
            self.state, self.defined = "PENDING_APPROVAL", event["seq"]
        elif kind == "APPROVAL_GRANTED":
            typed(payload, comment=str)
            until = None if payload.get("expires_at") is None else time(payload["expires_at"])
            self.approvals[who] = {"event": event, "until": until, "revoked": False, "fits": self.fits(event, said)}
        elif kind == "APPROVAL_REVOKED":
            typed(payload, reason=str)
            if who in self.approvals:
                self.approvals[who]["revoked"] = True
            self.fits(event, said)
            self.revoked[who] = max(self.revoked.get(who, EARLIEST), moment if said is None else time(said["signed_at"]))
        elif kind == "EXECUTION_REQUESTED":
            typed(payload, adapter_id=str, dry_run=bool)
            self.runs.append({"requested": event, "dry_run": bool(payload.get("dry_run")), "adapter_id": payload.get("adapter_id") or ""})
            self.fits(event, said)
        elif kind == "EXECUTION_STARTED":
            typed(payload, router_request_digest=str)
            self.state = "EXECUTING"
            if self.runs:
                self.runs[-1]["started"] = event["ts"]
                self.runs[-1]["asked"] = payload.get("router_request_digest")
        elif kind in ("EXECUTION_COMPLETED", "EXECUTION_FAILED"):
            typed(payload, run_id=str, response_digest=str, steps_executed=int if kind == "EXECUTION_COMPLETED" else object)
            typed(payload, **({} if kind == "EXECUTION_COMPLETED" else {"error_code": str, "error_message": str}))
            self.state = kind.removeprefix("EXECUTION_")
            if self.state == "COMPLETED":
                self.completed.append(bool(self.runs) and self.runs[-1]["dry_run"])
            if self.runs:
                ended = {"run_id": payload.get("run_id"), "answer": payload.get("response_digest"), "error": self.state == "FAILED"}
                self.runs[-1] |= ended
        else:
            need(kind == "TEMPLATE_CREATED")
        if kind in ("APPROVAL_GRANTED", "APPROVAL_REVOKED") and self.state in ("PENDING_APPROVAL", "APPROVED"):
            enough = self.action["policy"] is not None and len(self.counting()) >= self.action["policy"]["min_approvals"]
            self.state = "APPROVED" if enough else "PENDING_APPROVAL"

    def standing(self) -> list[dict[str, Any]]:
        alive = (one for one in self.approvals.values() if not one["revoked"])
        return [one for one in alive if one["until"] is None or one["until"] > self.at]

    def counting(self, trust: "Trust | None" = None) -> list[dict[str, Any]]:
        return [one for one in self.standing() if one["fits"] is not False and (trust is None or trust.believes(self, one["event"]))]

    def allows(self, dry_run: bool, trust: "Trust | None" = None) -> bool:
        policy, counting = self.action["policy"], self.counting(trust)
        return (
            policy is not None
            and self.state != "EXECUTING"
            and False not in self.completed
            and not (self.completed and self.action["requested_mode"] != "apply")
            and ("dry_run" if dry_run else "apply") in policy["allowed_modes"]
            and sum(one["event"]["seq"] > self.defined for one in counting) >= policy["min_approvals"]
        )


# -- integrity


def integrity(given: dict[str, Any], package: dict[str, Any]) -> str:
    try:
        control, binding, router = package["control_bundle"], package["binding"], package["router"]
        link, header, sealed = control["router_link"], control["decision"], package["integrity"]
        need(same(sealed["binding_digest"], digest({"package_version": package["package_version"], **binding})))
        need(package["package_version"] == "0.6" and sealed["alg"] == "sha256")
        need(given.keys() <= package.keys() and given["binding"].keys() <= binding.keys() and given["integrity"].keys() <= sealed.keys())
        need(given["router"].keys() <= router.keys() and (given["router"].get("ref") or {}).keys() <= {"run_id", "digest"})
        bundle_integrity(given["control_bundle"], control)
        stored = control["integrity"]["canonical_digest"]
        need(same(binding["control_digest"], stored) and link["run_id"] is not None)
        answer = {"decision_id": header["decision_id"], "run_id": link["run_id"]}
        answer |= {name: raw(link[name]) for name in ("router_request_digest", "router_result_digest")}
        need(same(link["control_router_link_digest"], binding["control_router_link_digest"]))
        need(same(link["control_router_link_digest"], digest(answer)))
        if router["mode"] == "reference":
            need(router["ref"] is not None and same(router["ref"]["digest"], binding["router_digest"]))
            need(router["ref"]["run_id"] == link["run_id"])
        else:
            need(router["bundle"] is not None)
            record(router["bundle"], binding["router_digest"], link["run_id"])
    except Bad:
        return "FAIL"
    return "PASS"


def bundle_integrity(given: dict[str, Any], control: dict[str, Any]) -> None:
    header = control["decision"]
    events = sorted(control["events"], key=lambda event: event["seq"])
    link = {name: value for name, value in control["router_link"].items() if value is not None}
    covered = {name: control[name] for name in ("bundle_version", "decision", "template_snapshot")} | {
        "events": events,
        "router_link": link,
    }
    need(same(control["integrity"]["canonical_digest"], digest(covered)) and control["integrity"]["alg"] == "sha256")
    need(control["bundle_version"].partition(".")[0] == "0")
    need([event["seq"] for event in control["events"]] == list(range(len(events))))
    need(all(same(event["digest"], digest({"event_type": event["type"], "payload": event["payload"]})) for event in events))
    need(given.keys() <= control.keys() | {"policy", "approvals"} and given["decision"].keys() <= HEADER.keys() | {"creator"})
    need((given.get("router_link") or {}).keys() <= set(LINK) and given["integrity"].keys() <= control["integrity"].keys())
    need(all(event.keys() <= EVENT.keys() for event in given.get("events", [])))
    snapshot = given.get("template_snapshot", {})
    need(isinstance(snapshot, dict) and isinstance(snapshot.get("present", False), bool))
    need(snapshot.keys() <= control["template_snapshot"].keys())
    decision = Decision(header["decision_id"], events)
    need(header["goal"] == decision.action["goal"] and header["mode"] == (decision.action["requested_mode"] or "dry_run"))
    open_states = {"APPROVED", "PENDING_APPROVAL"}
    may_expire = any(approval["until"] is not None for approval in decision.approvals.values())
    need(header["status"] == decision.state or (may_expire and {header["status"], decision.state} == open_states))
    created = [event["actor"] for event in events if event["type"] == "DECISION_CREATED"]
    need("creator" not in header or header["creator"] in created[:1])
    policies = [event["payload"] for event in events if event["type"] == "POLICY_ATTACHED"]
    last = {name: policies[-1].get(name, missing) for name, missing in POLICY.items()} if policies else None
    need("policy" not in given or octets(given["policy"]) == octets(last))
    approvals: list[dict[str, Any]] = []
    latest: dict[str, dict[str, Any]] = {}
    for event in events:
        who, payload = event["actor"]["id"], event["payload"]
        if event["type"] == "APPROVAL_GRANTED":
            told = {"actor": event["actor"], "ts": event["ts"], "expires_at": payload.get("expires_at"), "comment": payload.get("comment")}
            latest[who] = {**told, "revoked": False, "revoked_at": None, "reason": None}
            approvals.append(latest[who])
        elif event["type"] == "APPROVAL_REVOKED" and who in latest:
            latest[who] |= {"revoked": True, "revoked_at": event["ts"], "reason": payload.get("reason")}
    need("approvals" not in given or octets(given["approvals"]) == octets(approvals))


def record(bundle: dict[str, Any], bound: str, run_id: str) -> None:
    def at(part: str, name: str) -> Any:
        return bundle[part].get(name) if isinstance(bundle.get(part), dict) else None

    stored = at("integrity", "canonical_digest")
    need(isinstance(stored, str) and same(stored, bound) and bundle["integrity"].get("alg", "sha256") == "sha256")
    ids = [bundle["run_id"]] if "run_id" in bundle else []
    ids += [bundle[part]["run_id"] for part in ("run", "response") if isinstance(bundle.get(part), dict) and "run_id" in bundle[part]]
    need(all(one == run_id for one in ids))
    stated, run = at("digests", "sha256"), None
    if "run" in bundle and "events" in bundle and isinstance(stated, str):
        text = json.dumps({"run": bundle["run"], "events": bundle["events"]}, sort_keys=True, separators=(",", ":"))
        run = hashlib.sha256(text.encode()).hexdigest()
        need(same(stated, run))
    if "response" in bundle:
        need(isinstance(bundle["response"], dict) and same(stored, digest(bundle["response"])))
        named = bundle["response"].get("run_bundle_digest")
        need(named is None or (run is not None and same(named, run)))
    elif run is not None:
        need(same(stored, run))


# -- authorization


def read_history(control: dict[str, Any]) -> Decision:
    name, run = control["decision"]["decision_id"], {"start": False, "end": "x"}
    for place, event in enumerate(control["events"]):
        need((event["seq"], event["decision_id"], event["event_id"]) == (place, name, f"evt_{name}_{place}"))
        if event["type"] == "EXECUTION_REQUESTED":
            need(run["end"])
            run = {"start": False, "end": None}
        elif event["type"] == "EXECUTION_STARTED":
            need(not run["start"] and not run["end"])
            run["start"] = True
        elif event["type"] in ("EXECUTION_COMPLETED", "EXECUTION_FAILED"):
            need(run["end"] in (None, "EXECUTION_ABANDONED"))
            run["end"] = event["payload"].get("error_code") or "x"
    return Decision(name, control["events"])


def before(control: dict[str, Any], run: dict[str, Any], late: bool = False) -> Decision:
    """Before its request; with `late`, expiry is judged at its start."""
    at = time(run["requested"]["ts"])
    known = control["events"][: run["requested"]["seq"]]
    events = [e for e in known if e["type"] != "APPROVAL_GRANTED" or time(e["ts"]) <= at]
    return Decision(control["decision"]["decision_id"], events, max(at, time(run["started"])) if late and "started" in run else at)


def judged_runs(control: dict[str, Any], history: Decision) -> list[dict[str, Any]]:
    return history.runs[-max(1, 2_000_000 // max(1, len(control["events"]))) :]


def written(events: list[dict[str, Any]]) -> None:
    """Every event is one that a command could have written where it stands."""
    state, standing, requested, mode, ended, last = "NEW", dict[str, bool](), None, "dry_run", False, ""
    for event in events:
        kind, payload, who = event["type"], event["payload"], event["actor"]["id"]
        by_engine = event["actor"] == {"type": "system", "id": "nexus-control"}
        need((last != "EXECUTION_REQUESTED" or kind == "EXECUTION_STARTED") and kind != "TEMPLATE_CREATED")
        need(state != "NEW" or kind == "DECISION_CREATED")
        if kind in ("DECISION_CREATED", "POLICY_ATTACHED"):
            need(requested is None)
        if kind == "DECISION_CREATED":
            need(payload.get("goal"))
            state, mode = "DRAFT", payload.get("requested_mode") or "dry_run"
        elif kind == "POLICY_ATTACHED":
            state = "OPEN"
            attached(payload, mode)
        elif kind == "APPROVAL_GRANTED":
            until = payload.get("expires_at")
            need(state == "OPEN" and payload.get("comment", "x") and (until is None or time(until).isoformat() == until))
            standing[who] = True
        elif kind == "APPROVAL_REVOKED":
            need(state not in ("STARTED", "COMPLETED") and standing.get(who))
            standing[who] = False
        elif kind == "EXECUTION_REQUESTED":
            need(payload.get("adapter_id"))
            requested, ended = event, False
        elif kind == "EXECUTION_STARTED":
            need(last == "EXECUTION_REQUESTED" and by_engine and requested and time(event["ts"]) >= time(requested["ts"]))
            state = "STARTED"
        elif kind == "EXECUTION_COMPLETED":
            need(by_engine and payload.get("run_id") and (payload.get("steps_executed") or 0) >= 0)
        elif kind == "EXECUTION_FAILED":
            need(payload.get("error_code") and (by_engine or (payload["error_code"] == "EXECUTION_ABANDONED" and not ended)))
        if kind in ("EXECUTION_COMPLETED", "EXECUTION_FAILED"):
            state, requested, ended = kind.removeprefix("EXECUTION_"), None, True
        last = kind


def attached(payload: dict[str, Any], mode: str) -> None:
    policy = policy_of(payload)
    need(all(octets(payload[name]) == octets(policy[name]) for name in POLICY if name in payload) and mode in policy["allowed_modes"])
    need(all(type(payload.get(name)) is not float for name in POLICY))
    name, snapshot, changed = payload.get("template_name"), payload.get("template_snapshot") or {}, payload.get("overrides_applied") or {}
    if not name:
        need(not (payload.get("template_digest") or snapshot or changed))
        return
    need(HEX.fullmatch(payload.get("template_digest") or "") and snapshot.get("template_name") == name and changed.keys() <= POLICY.keys())
    for field in POLICY:
        value = changed.get(field, snapshot.get(field))
        need(octets(value) == octets(policy[field]) and type(value) is not float)


def sections(control: dict[str, Any]) -> None:
    events, section = control["events"], control["template_snapshot"]
    need(not events or time(control["decision"]["created_at"]) == time(events[0]["ts"]))
    if section["present"]:
        last = next((event["payload"] for event in reversed(events) if event["type"] == "POLICY_ATTACHED"), {})
        need(last.get("template_name"))
        expected = {"name": last["template_name"], "digest": "sha256:" + (last.get("template_digest") or "")}
        expected |= {"snapshot": last.get("template_snapshot") or {}, "overrides": last.get("overrides_applied") or None}
        need(octets({**expected, "present": True}) == octets(section))


def authorization(control: dict[str, Any], history: Decision | None) -> str:
    if history is None:
        return "FAIL"
    link, runs = control["router_link"], history.runs
    linked = link["run_id"] is not None or link["adapter_id"] is not None
    judged = judged_runs(control, history)
    try:
        written(control["events"])
        sections(control)
        for run in judged:
            then = before(control, run)
            need(then.allows(run["dry_run"]) and before(control, run, late=True).allows(run["dry_run"]))
            if "asked" in run:
                policy, plan = then.action["policy"], then.action["plan"]
                request = {"goal": then.action["goal"] or "", "adapter_id": run["adapter_id"], "dry_run": run["dry_run"]}
                request |= {} if plan is None else {"plan": plan}
                request |= {} if policy["max_steps"] is None else {"max_steps": policy["max_steps"]}
                needed = policy["require_adapter_capabilities"]
                request |= {"require_capabilities": needed} if needed else {}
                need(same(run["asked"], digest(request)))
        if linked:
            need(runs)
            last = runs[-1]
            answer = last.get("answer") if last.get("error") is False else None
            told = {"run_id": last.get("run_id"), "adapter_id": last["adapter_id"], "router_request_digest": last.get("asked")}
            told["router_result_digest"] = answer
            for name, value in told.items():
                need(link[name] == (value if value is None or not name.endswith("digest") else f"sha256:{value}"))
    except Bad:
        return "FAIL"
    whole = runs and len(judged) == len(runs) and all("asked" in run for run in runs)
    return "PASS" if whole and linked else "INCOMPLETE"


# -- signatures


class Trust:
    """A trust policy (docs/trust.md), read without looking for mistakes in it."""

    def __init__(self, text: str) -> None:
        data = tomllib.loads(text)
        self.actors = {(actor.get("type", "human"), actor["id"]) for actor in data.get("actors", [])}
        self.keys: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {}
        for actor in data.get("actors", []):
            for key in actor.get("keys", []):
                public = base64.b64decode(key["public_key"])
                name = key.get("id", f"ed25519:{hashlib.sha256(public).hexdigest()[:16]}")
                self.keys[name] = (actor.get("type", "human"), actor["id"]), {**key, "raw": public}
        self.groups, self.rules, self.attestors = data.get("groups", {}), data.get("rules", []), data.get("attestors", [])
        self.logs = [key["key"].split("+", 2) for key in data.get("log_keys", [])]

    def believes(self, decision: Decision, event: dict[str, Any]) -> bool:
        action, actor, said = ACTIONS[event["type"]], event["actor"], statement_of(event)
        who = (actor["type"], actor["id"])
        if said is not None:
            owner, key = self.keys.get(said["keyid"], (None, {}))
            message = b"DSSEv1 35 application/vnd.nexus.approval+json %d %b" % (len(said["bytes"]), said["bytes"])
            signed, recorded = time(said["signed_at"]), time(event["ts"])
            if owner != who or not verifies(key["raw"], message, said["sig"]) or signed - recorded > timedelta(minutes=5):
                return False
            if not valid(key, signed) or not valid(key, recorded):
                return False
        if action == "approve" and who not in self.actors:
            return False
        policy, template = decision.action["policy"], decision.action["template"]
        labels = {*decision.action["labels"], *(policy["labels"] if policy else ())}
        for rule in self.rules:
            everywhere = not rule.get("labels") and not rule.get("templates")
            about = everywhere or labels & set(rule.get("labels", ())) or (template and template["name"] in rule.get("templates", ()))
            if action not in rule.get("actions", ("approve", "revoke")) or not about:
                continue
            names = [*rule.get("actors", ()), *(name for group in rule.get("groups", ()) for name in self.groups[group])]
            may = {("system", name.removeprefix("system:")) if name.startswith("system:") else ("human", name) for name in names}
            own = decision.requester is not None and decision.requester["id"] == actor["id"]
            weak = STRENGTH.index(event["payload"].get("assurance", "asserted")) < STRENGTH.index(rule.get("assurance", "asserted"))
            if weak or (names and who not in may) or (action == "approve" and own and not rule.get("self_approval", True)):
                return False
        return True


def valid(key: dict[str, Any], at: datetime) -> bool:
    ends = [key[name] for name in ("not_after", "retired_at") if name in key]
    return at >= key.get("not_before", EARLIEST) and all(at < end for end in ends)


def signatures(package: dict[str, Any], case: dict[str, Any] | None, history: Decision | None, trust: Trust | None) -> str:
    """Every act is judged against the decision as it was at its event; a request against the one that has its policy as well."""
    failed, missing, control = False, history is None, package["control_bundle"]
    if history is not None:
        heard: dict[int, tuple[bool | None, Decision]] = {}
        decision, waiting = Decision(history.name, []), list[dict[str, Any]]()

        def hear(event: dict[str, Any]) -> None:
            heard[event["seq"]] = decision.fits(event, statement_of(event)), decision.point()

        for event in control["events"]:
            kind = event["type"]
            if kind == "POLICY_ATTACHED":
                decision.apply(event)
                for request in waiting:
                    hear(request)
                waiting = []
            elif kind == "DECISION_CREATED":
                bare = {name: value for name, value in event["payload"].items() if name not in ("assurance", "channel", "signature")}
                decision.apply({**event, "payload": bare})
                waiting.append(event)
            elif kind in ACTIONS:
                hear(event)
                bare = {name: value for name, value in event["payload"].items() if name not in ("assurance", "channel", "signature")}
                said = statement_of(event)
                decision.apply({**event, "payload": bare, "ts": said["signed_at"] if said else event["ts"]})
        for request in waiting:
            hear(request)
        runs = judged_runs(control, history)
        missing = len(runs) < len(history.runs)
        for run in runs or [None]:
            then = before(control, run) if run else history
            known = control["events"][: run["requested"]["seq"]] if run else control["events"]
            created = [event for event in known if event["type"] == "DECISION_CREATED"][-1:]
            relevant = [*created, *(one["event"] for one in then.standing()), *([run["requested"]] if run else [])]
            failed = failed or any(heard[event["seq"]][0] is False for event in relevant)
            if trust is not None:
                for event in relevant:
                    fits, point = heard[event["seq"]]
                    if fits is not False and not trust.believes(point, event):
                        failed = failed or fits is not None or event["type"] != "APPROVAL_GRANTED"
                failed = failed or (run is not None and not then.allows(run["dry_run"], trust))
            by_key = sum(heard[one["event"]["seq"]][0] is True for one in then.standing())
            policy = then.action["policy"]
            missing = missing or by_key < (policy["min_approvals"] if policy else 1)
            missing = missing or (trust is None and any(heard[event["seq"]][0] is not None for event in relevant))
    for attestation in case["attestations"] if case else []:
        outcome = None if trust is None else attested(attestation, package["integrity"]["binding_digest"], trust)
        failed, missing = failed or outcome is False, missing or outcome is None
    return "FAIL" if failed else "INCOMPLETE" if missing else "PASS"


def attested(attestation: dict[str, Any], binding_digest: str, trust: Trust) -> bool | None:
    payload = attestation.get("payload")
    names = payload.get("attestor") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or not isinstance(names, dict):
        return None
    named = [key for key in trust.attestors if (key["id"], key["key_id"]) == (names.get("id"), names.get("key_id"))]
    if not named:
        return None
    claims, message = payload.get("claims"), {name: payload.get(name) for name in ("attestation_version", "binding_digest", "signed_at")}
    try:
        if not isinstance(claims, list) or not claims or not all(isinstance(claim, str) for claim in claims):
            raise Bad
        need(message["attestation_version"] == "0.7" and same(message["binding_digest"], binding_digest))
        message |= {"claims": sorted(claims), "attestor": {"id": names["id"], "key_id": names["key_id"]}}
        signature = bytes.fromhex(attestation["signature"])
        need(verifies(base64.b64decode(named[0]["public_key"]), octets(message), signature))
        need(valid(named[0], time(message["signed_at"])))
    except (Bad, ValueError, TypeError, KeyError):
        return False
    return True


# -- log


class Note:
    """A C2SP signed note whose text is a checkpoint."""

    def __init__(self, text: str) -> None:
        need(len(text) <= 1_000_000 and not re.search("[\x00-\x09\x0b-\x1f]", text))
        self.text, blank, lines = text.rpartition("\n\n")
        need(blank and lines.endswith("\n") and lines.count("\n") <= 100)
        self.text += "\n"
        self.signatures: list[tuple[str, bytes]] = []
        for line in lines[:-1].split("\n"):
            dash, name, signature = line.split(" ") if line.count(" ") == 2 else ("", "", "")
            need(dash == "\u2014" and name and "+" not in name and not re.search(r"\s", name) and len(unbase64(signature)) > 4)
            self.signatures.append((name, unbase64(signature)))
        need(self.text.count("\n") >= 3)
        self.origin, size, root, *more = self.text[:-1].split("\n")
        need(self.origin and all(more) and re.fullmatch("0|[1-9][0-9]{0,18}", size) and int(size) < 2**63)
        self.size, self.root = int(size), unbase64(root)
        need(len(self.root) == 32 and (self.size or self.root == hashlib.sha256(b"").digest()))

    def outcomes(self, trust: Trust) -> list[tuple[str, int, bool]]:
        """Name, algorithm and validity of each signature by a trusted key."""
        found: list[tuple[str, int, bool]] = []
        for name, data in dict.fromkeys(self.signatures):
            answers = [(key[0], answer) for owner, key_id, encoded in trust.logs if owner == name and data[:4].hex() == key_id
                       for key in [base64.b64decode(encoded)] for answer in [self.signed(key, data[4:])]]  # fmt: skip
            found += [(name, *max(answers, key=lambda answer: answer[1]))] if answers else []
        return found

    def signed(self, key: bytes, signature: bytes) -> bool:
        if key[0] == 1:
            return len(signature) == 64 and verifies(key[1:], self.text.encode(), signature)
        head = f"cosignature/v1\ntime {int.from_bytes(signature[:8])}\n"
        return len(signature) == 72 and verifies(key[1:], (head + self.text).encode(), signature[8:])


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def log_layer(package: dict[str, Any], case: dict[str, Any] | None, trust: Trust | None, kept: list[Note]) -> str:
    log, events = case["log"] if case else None, package["control_bundle"]["events"]
    if log is None:
        return "INCOMPLETE"
    missing = False
    try:
        note = Note(log["checkpoint"])
        need(events and len(log["positions"]) == len(events) and log["positions"][-1] <= note.size)
        leaves: dict[int, bytes] = {}
        previous, name = log["prev_hash"], package["control_bundle"]["decision"]["decision_id"]
        for position, event in zip(log["positions"], events, strict=True):
            need({"type", "id"} <= event["actor"].keys())
            entry = {
                "kind": "event",
                "decision_id": name,
                "generation": log["generation"],
                "event_type": event["type"],
                "prev_hash": previous,
            }
            entry |= {key: event[key] for key in ("seq", "ts", "payload")} | {"actor": {key: event["actor"][key] for key in ("type", "id")}}
            previous = digest(entry)
            leaves[position - 1] = hashlib.sha256(b"\x00" + octets(entry)).digest()
        proof = [bytes.fromhex(one) for one in log["proof"]]

        def walk(start: int, end: int) -> bytes:
            if not any(start <= index < end for index in leaves):
                need(proof)
                return proof.pop(0)
            if end - start == 1:
                return leaves[start]
            half = start + (1 << (end - start - 1).bit_length() - 1)
            left = walk(start, half)
            return node(left, walk(half, end))

        need(walk(0, note.size) == note.root and not proof)
        outcomes = note.outcomes(trust) if trust else []
        if trust is None or not any(base64.b64decode(key[2])[0] == 1 for key in trust.logs):
            missing = True
        else:
            need((note.origin, 1, True) in outcomes)
        need(all(answer for _, kind, answer in outcomes if kind == 4))
        missing = missing or (not kept and not any(kind == 4 for _, kind, _ in outcomes))
        entries = {0: [], **{one["size"]: [bytes.fromhex(value) for value in one["proof"]] for one in log["consistency"]}}
        for old in kept:
            need(old.origin == note.origin and all(answer for _, _, answer in (old.outcomes(trust) if trust else [])))
            if old.size == note.size:
                need(old.root == note.root)
            elif old.size not in entries:
                missing = True
            else:
                first, second = (old, note) if old.size < note.size else (note, old)
                need(consistent(first.size, first.root, second.size, second.root, entries[old.size]))
    except Bad:
        return "FAIL"
    return "INCOMPLETE" if missing else "PASS"


def consistent(size: int, root: bytes, new_size: int, new_root: bytes, proof: list[bytes]) -> bool:
    """RFC 6962, verified as RFC 9162 section 2.1.4.2 says."""
    if size == 0:
        return not proof
    path = [root, *proof] if size & (size - 1) == 0 else list(proof)
    if not path:
        return False
    last, new_last = size - 1, new_size - 1
    while last & 1:
        last, new_last = last >> 1, new_last >> 1
    old = new = path[0]
    for one in path[1:]:
        if new_last == 0:
            return False
        if last & 1 or last == new_last:
            old, new = node(one, old), node(one, new)
            while not last & 1 and last:
                last, new_last = last >> 1, new_last >> 1
        else:
            new = node(new, one)
        last, new_last = last >> 1, new_last >> 1
    return new_last == 0 and old == root and new == new_root


def judge(text: bytes, trust: Trust | None = None, kept: list[Note] | None = None) -> dict[str, str]:
    """The outcome of each layer in LAYERS."""
    case = None
    try:
        given = read_json(text)
        need(isinstance(given, dict) and ("case_version" in given or "control_bundle" in given))
        if "case_version" in given:
            case = read_case(given)
            given = case["package"]
        package = read_package(given)
    except Bad:
        return {"integrity": "FAIL", "authorization": "INCOMPLETE", "signatures": "INCOMPLETE", "log": "INCOMPLETE"}
    try:
        history = read_history(package["control_bundle"])
    except Bad:
        history = None
    outcomes = (
        integrity(given, package),
        authorization(package["control_bundle"], history),
        signatures(package, case, history, trust),
        log_layer(package, case, trust, kept or []),
    )
    return dict(zip(LAYERS, outcomes, strict=True))


def main(file: str, trust: str | None = None, *checkpoints: str) -> int:
    """Judge a file and print what came out."""
    policy = None if trust is None else Trust(Path(trust).read_text(encoding="utf-8"))
    found = judge(Path(file).read_bytes(), policy, [Note(Path(path).read_text(encoding="utf-8")) for path in checkpoints])
    print("\n".join(f"{outcome:<10} {layer}" for layer, outcome in found.items()))
    return 2 if "FAIL" in found.values() else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
