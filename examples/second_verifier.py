"""A second verifier, to be read in one sitting: written from docs/verification.md alone, with no line of nexus-attest.

    python second_verifier.py FILE [--trust trust.toml] [--checkpoint kept.txt ...]

Python 3.11, and PyNaCl for Ed25519. Sections and checks have the names of that page. It asks what a forger has to get past: are the parts
of a case file, package or bundle bound together, had every run its approvals at that moment, who signed them, has the log these events?
Of every layer it leaves something to others, LEFT_OUT, so it never says PASS: a layer that did not fail is NOT CHECKED, and says for what.
Exit code 0: no layer failed; 2: one did, or the file is of a kind that is not read here.
"""

import argparse
import base64
import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

Json = Any
Finding = tuple[str, bool | str]
"""The name of a check, and whether it holds; a text says what is missing for it."""
BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What Python raises where a document is not what a check takes it for: the check fails."""
LEFT_OUT = {
    "integrity": "forms; unknown members; that header, policy and approvals are what the events tell",
    "authorization": "forms of payloads; allowed_events, told_by_events, run_of_the_link; early ones of very many runs",
    "signatures": "rules of the trust policy; attestations",
    "execution": "anything",
    "log": "consistency with a checkpoint of another size; cosignatures",
    "witness": "anything",
}

# Conventions


def require(holds: object, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def parse(text: bytes) -> Json:
    """JSON with one meaning."""

    def members(pairs: list[tuple[str, Json]]) -> Json:
        require(len(found := dict(pairs)) == len(pairs), "a key twice")
        return found

    require(sum(map(text.count, (b",", b"[", b"{"))) <= 4_000_000, "too much to read")
    document = json.loads(text.decode(), object_pairs_hook=members)
    json.dumps(document, allow_nan=False)  # a ValueError for NaN, infinities and what is beyond a double
    return document


def canonical(value: Json, depth: int = 256) -> str:
    """RFC 8785. Python and ECMAScript write the same digits of a double, but not always the same exponent."""
    if type(value) is float:
        plain = value == 0 or 1e-6 <= abs(value) < 1e21
        return format(Decimal(repr(value or 0.0)), "f").removesuffix(".0") if plain else repr(value).replace("e-0", "e-")
    if type(value) not in (dict, list):
        return json.dumps(value, ensure_ascii=False)
    require(depth > 0, "nested too deep")
    if type(value) is list:
        return "[" + ",".join(canonical(item, depth - 1) for item in cast("list[Json]", value)) + "]"
    keys: list[str] = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(f"{canonical(key)}:{canonical(value[key], depth - 1)}" for key in keys) + "}"


def digest(value: Json) -> str:
    """SHA-256, raw: of bytes, or of the canonical JSON of a value."""
    return hashlib.sha256(value if isinstance(value, bytes) else canonical(value).encode()).hexdigest()


def raw(text: str) -> str:
    return text.removeprefix("sha256:")


def moment(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def unbase64(text: str) -> bytes:
    require(base64.b64encode(data := base64.b64decode(text, validate=True)).decode() == text, "another spelling of base64")
    return data


def verifies(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        return VerifyKey(key).verify(message, signature) == message
    except CryptoError:
        return False


# Replay

ACTIONS = {"DECISION_CREATED": "request", "APPROVAL_GRANTED": "approve", "APPROVAL_REVOKED": "revoke", "EXECUTION_REQUESTED": "execute"}
DEFINITIONS = ("DECISION_CREATED", "POLICY_ATTACHED")
RUNS = {"EXECUTION_REQUESTED": "r", "EXECUTION_STARTED": "s", "EXECUTION_COMPLETED": "e", "EXECUTION_FAILED": "e"}
POLICY: Json = {"min_approvals": 1, "allowed_modes": ["dry_run"], "require_adapter_capabilities": [], "max_steps": None, "labels": []}
PAYLOAD_TYPE = "application/vnd.nexus.approval+json"


class Event:
    """An event that can be read, and stands where it says."""

    def __init__(self, told: Json, place: int, decision: str) -> None:
        require([told["seq"], told["decision_id"], told["event_id"]] == [place, decision, f"evt_{decision}_{place}"], "of elsewhere")
        self.kind, self.payload, self.actor, self.at = told["type"], told["payload"], told["actor"], moment(told["ts"])
        self.place, self.decision, self.who = place, decision, self.actor["id"]
        self.run: Event | None = None
        require(self.kind in (*ACTIONS, *DEFINITIONS, *RUNS, "TEMPLATE_CREATED"), "an event that nobody knows")
        require(type(self.who) is str and self.who.encode(), "nobody did it")
        require(self.actor in [{"type": each, "id": self.who} for each in ("human", "system")], "nobody did it")
        expires = self.payload.get("expires_at") if self.kind == "APPROVAL_GRANTED" else None
        self.expires = None if expires is None else moment(expires)
        self.dry = self.payload.get("dry_run") or False
        self.abandons = self.kind == "EXECUTION_FAILED" and self.payload.get("error_code") == "EXECUTION_ABANDONED"
        if self.kind == "POLICY_ATTACHED":
            self.policy: Json = {name: self.payload.get(name, default) for name, default in POLICY.items()}
            least, modes = self.policy["min_approvals"], self.policy["allowed_modes"]
            require(type(least) is int and least >= 1 and type(modes) is list and {"apply", "dry_run"} >= {*modes} != set(), "no policy")
        require(self.kind != "EXECUTION_REQUESTED" or type(self.dry) is bool, "neither a rehearsal nor a run")
        self.statement: Json = self.signed() if self.kind in ACTIONS else None

    def signed(self) -> Json:
        """The statement that was signed, None where the event does not say so ("Who said it", and docs/keys.md)."""
        signed, action = "signature" in self.payload, ACTIONS[self.kind]
        require(self.payload.get("assurance", "asserted") in (["signed"] if signed else ["asserted", "authenticated"]), "signed or not?")
        if not signed:
            return None
        envelope, (signature,) = self.payload["signature"], self.payload["signature"]["signatures"]
        self.key_id, self.signature, self.text = signature["keyid"], unbase64(signature["sig"]), unbase64(envelope["payload"])
        statement, comment = parse(self.text), self.payload.get({"approve": "comment", "revoke": "reason"}.get(action, ""))
        said = {"v": 1, "action": action, "actor": self.actor, "comment": comment or None}
        said["expires_at"] = self.payload.get("expires_at") if action == "approve" else None
        require(canonical({**statement, **said}).encode() == self.text and len(statement) == 8, "something else was signed")
        require(envelope["payloadType"] == PAYLOAD_TYPE, "something else was signed")
        self.signed_at = moment(statement["signed_at"])
        return statement


class History(list[Event]):
    """Events in their order, and what they leave behind."""

    def last(self, *kinds: str) -> Event | None:
        return next((event for event in reversed(self) if event.kind in kinds), None)

    def action(self) -> Json:
        """What an action digest is of: the action, its policy and the template."""
        created, attached = self.last("DECISION_CREATED"), self.last("POLICY_ATTACHED")
        said: Json = created.payload if created else {}
        made: Json = attached.payload if attached else {}
        template = {"name": made["template_name"], "digest": made.get("template_digest") or ""} if made.get("template_name") else None
        told: Json = {"labels": said.get("labels") or [], "policy": attached.policy if attached else None, "template": template}
        return told | {name: said.get(name) for name in ("goal", "plan", "requested_mode")}

    def approvals(self, at: datetime) -> list[Event]:
        """The latest approval of each actor id, unless it was revoked or has expired."""
        latest = {event.who: event for event in self if event.kind in ("APPROVAL_GRANTED", "APPROVAL_REVOKED")}
        return [event for event in latest.values() if event.kind == "APPROVAL_GRANTED" and (event.expires is None or event.expires > at)]

    def genuine(self, act: Event) -> bool:
        """Whether the statement of an act, if there is one, is its own and fresh."""
        if not act.statement:
            return True
        before = History(event for event in self if event.place < act.place)
        after = [event for event in self if event.place > act.place and event.kind == "POLICY_ATTACHED"]
        action = History([act, *after[:1]] if act.kind == "DECISION_CREATED" else before).action()
        own = act.statement["decision_id"] == act.decision and act.statement["action_digest"] == f"sha256:{digest(action)}"
        used = any(event.statement and event.text == act.text for event in before)
        revocations = [event for event in before if (event.kind, event.who) == ("APPROVAL_REVOKED", act.who)]
        taken_back = any(act.signed_at <= (event.signed_at if event.statement else event.at) for event in revocations)
        return own and not used and not (taken_back and act.kind == "APPROVAL_GRANTED")

    def before(self, run: Event) -> "History":
        """The events before a run was requested, without approvals that are dated after it."""
        return History(event for event in self[: run.place] if event.kind != "APPROVAL_GRANTED" or event.at <= run.at)

    def allow(self, run: Event, at: datetime, believed: Callable[[Event], object] = bool) -> bool:
        """4. of authorization: N of M, each in a name of its own, for this very action, in a mode that is allowed, and not used before."""
        defined, action = self.last(*DEFINITIONS), self.action()
        done = [event.run.dry for event in self if event.kind == "EXECUTION_COMPLETED" and event.run]
        used = done and (action["requested_mode"] != "apply" or not all(done))
        if not action["policy"] or not defined or used:
            return False
        counted = [act for act in self.approvals(at) if act.place > defined.place and self.genuine(act) and believed(act)]
        mode_allowed = ("dry_run" if run.dry else "apply") in action["policy"]["allowed_modes"]
        return mode_allowed and len(counted) >= action["policy"]["min_approvals"]


class Evidence:
    """The parts of a file, with what may be missing filled in, and what the reader has of their own. Each layer is a method."""

    def __init__(self, document: Json, trust: "Trust | None", kept: "list[Note]") -> None:
        if "schema" in document or "payloadType" in document:
            raise NotImplementedError("narratives and envelopes are not read by this program")
        self.case: Json = document if "case_version" in document else {}
        require(self.case.get("case_version", "1") == "1" and not self.case.get("critical"), "a case file of another version")
        self.package: Json = self.case["package"] if self.case else document if "control_bundle" in document else None
        self.bundle: Json = self.package["control_bundle"] if self.package else document
        self.name: str = self.bundle["decision"]["decision_id"]
        self.events: list[Json] = [{"payload": {}, "actor": {}, "digest": "", **event} for event in self.bundle.get("events", [])]
        link: Json = self.bundle.get("router_link") or {}
        self.link: Json = {name: value for name, value in link.items() if value is not None}
        self.trust, self.kept = trust, kept

    def integrity(self) -> Iterator[Finding]:
        control, snapshot = (
            raw(self.bundle["integrity"]["canonical_digest"]),
            {"present": False, **self.bundle.get("template_snapshot", {})},
        )
        if snapshot["present"] is True:
            snapshot = {"name": None, "digest": None, "snapshot": None, "overrides": None, **snapshot}
        parts: Json = {"bundle_version": self.bundle.get("bundle_version", "0.5"), "template_snapshot": snapshot, "events": self.events}
        parts |= {"decision": {"goal": None, "mode": "dry_run", **self.bundle["decision"]}, "router_link": self.link}
        yield "bundle_version", parts["bundle_version"].split(".")[0] == "0"
        yield "bundle_digest", control == digest(parts) and self.bundle["integrity"].get("alg", "sha256") == "sha256"
        told = [digest({"event_type": event["type"], "payload": event["payload"]}) for event in self.events]
        yield "event_digests", told == [raw(event["digest"]) for event in self.events]
        yield "event_sequence", all(type(event["seq"]) is int and event["seq"] == place for place, event in enumerate(self.events))
        if not self.package:
            return
        version, binding = self.package.get("package_version", "0.6"), self.package["binding"]
        sealed, router = self.package["integrity"], self.package["router"]
        yield "binding_digest", raw(sealed["binding_digest"]) == digest({"package_version": version, **binding})
        yield "binding_digest", (version, sealed.get("alg", "sha256")) == ("0.6", "sha256")
        yield "binding_control_match", raw(binding["control_digest"]) == control
        record, ref = router.get("bundle"), router.get("ref")
        require({"embedded": ref, "reference": record}[router["mode"]] is None, "two records")
        result = raw(record["integrity"]["canonical_digest"] if record else ref["digest"])
        named = [part for part in (record, record.get("run"), record.get("response")) if part and "run_id" in part] if record else [ref]
        same_run = all(part["run_id"] == self.link.get("run_id") for part in named)
        yield "binding_router_match", same_run and raw(binding["router_digest"]) == result
        linked = {name: raw(self.link[name]) if name in self.link else None for name in ("router_request_digest", "router_result_digest")}
        linked = digest({"decision_id": self.name, "run_id": self.link["run_id"], **linked})
        yield "binding_link_match", linked == raw(self.link["control_router_link_digest"]) == raw(binding["control_router_link_digest"])
        if record:
            text = json.dumps({name: record.get(name) for name in ("run", "events")}, sort_keys=True, separators=(",", ":"))
            run, bound = digest(text.encode()), record.get("response", {}).get("run_bundle_digest")
            whole = "run" in record and "events" in record and "sha256" in record.get("digests", {})
            yield "router_digest", result == digest(record["response"]) if "response" in record else result == run or not whole
            yield "router_digest", bound is None or (whole and raw(bound) == run)
            yield "router_digest", not whole or raw(record["digests"]["sha256"]) == run
            yield "router_digest", record["integrity"].get("alg", "sha256") == "sha256"

    def history(self) -> History:
        """The events, where they can be read, and runs were requested, started and ended one after the other (a: given up)."""
        history = History(Event(event, place, self.name) for place, event in enumerate(self.events))
        order = "".join("a" if event.abandons else RUNS.get(event.kind, "") for event in history)
        require(re.fullmatch("(rs?(a+e?|e))*(rs?)?", order), "a run within a run")
        run = None
        for event in history:
            event.run = run = event if event.kind == "EXECUTION_REQUESTED" else run
        return history

    def judged(self, history: History) -> list[Event]:
        """The requests of all runs; of the last, where runs times events are more than 2,000,000."""
        return [event for event in history if event.kind == "EXECUTION_REQUESTED"][-max(1, 2_000_000 // max(1, len(history))) :]

    def authorization(self) -> Iterator[Finding]:
        history = self.history()
        for request in self.judged(history):
            before, action, following = history.before(request), History(history[: request.place]).action(), history[request.place + 1 :]
            yield "policy_satisfied", before.allow(request, request.at)
            start = following[0] if following and following[0].kind == "EXECUTION_STARTED" else None
            if not start:
                yield "approved_action", "a run that was started"
            elif policy := action["policy"]:
                yield "policy_satisfied", start.at <= request.at or before.allow(request, start.at)
                asked = {"goal": action["goal"] or "", "adapter_id": request.payload.get("adapter_id") or "", "dry_run": request.dry}
                limits = {"plan": action["plan"], "max_steps": policy["max_steps"]}
                limits["require_capabilities"] = policy["require_adapter_capabilities"] or None
                asked |= {name: value for name, value in limits.items() if value is not None}
                yield "approved_action", raw(start.payload["router_request_digest"]) == digest(asked)
        yield "policy_satisfied", bool(history.last("EXECUTION_REQUESTED")) or "a run"

    def signatures(self) -> Iterator[Finding]:
        try:
            history = self.history()
        except BROKEN:
            yield "statements", "a history that can be read"
            return
        for request in self.judged(history) or history[-1:]:
            run = request if request.kind == "EXECUTION_REQUESTED" else None
            before = history.before(run) if run else history
            approvals, policy, created = before.approvals(request.at), before.action()["policy"] or POLICY, before.last("DECISION_CREATED")
            for act in [act for act in (created, run, *approvals) if act and act.statement]:
                yield "statements", (genuine := history.genuine(act))
                yield "acts", (not genuine or self.trust.believes(act)) if self.trust else "a trust policy"
            if sum(bool(act.statement) for act in approvals) < policy["min_approvals"]:
                yield "acts", "signatures of the approvals"
            if self.trust and run:
                yield "believed_approvals", before.allow(run, run.at, self.trust.believes)

    def log(self) -> Iterator[Finding]:
        if not (log := self.case.get("log")):
            yield "checkpoint", "a log"
            return
        note, previous, leaves, proof = Note(log["checkpoint"]), log["prev_hash"], dict[int, str](), list(reversed(log["proof"]))
        for event, position in zip(self.events, log["positions"], strict=True):
            record = {"kind": "event", "decision_id": self.name, "generation": log["generation"], "prev_hash": previous}
            record |= {"event_type": event["type"]} | {name: event[name] for name in ("seq", "ts", "payload")}
            record |= {"actor": {name: event["actor"][name] for name in ("type", "id")}}
            previous, leaves[position - 1] = digest(record), digest(b"\0" + canonical(record).encode())

        def root(start: int, size: int, inside: list[int]) -> str:
            if not inside or size == 1:
                return leaves[start] if inside else proof.pop()
            middle = start + (1 << (size - 1).bit_length() - 1)
            left, right = [leaf for leaf in inside if leaf < middle], [leaf for leaf in inside if leaf >= middle]
            return digest(b"\1" + bytes.fromhex(root(start, middle - start, left) + root(middle, start + size - middle, right)))

        yield "inclusion", 0 < len(leaves) == len(self.events) and all(0 <= leaf < note.size for leaf in leaves)
        yield "inclusion", root(0, note.size, list(leaves)) == note.root and not proof
        keys = self.trust.log_keys if self.trust else []
        made = [(key, blob[4:]) for name, blob in note.signatures for key in keys if name == note.origin and (name, blob[:4]) == key[:2]]
        yield "log_signature", any(verifies(key, note.text, signature) for (_, _, key), signature in made) if keys else "a log key"
        for kept in self.kept:
            yield "extends_checkpoint", kept.origin == note.origin and (kept.size != note.size or kept.root == note.root)
        yield "extends_checkpoint", bool(self.kept) or "a checkpoint that was kept"


class Trust:
    """Whose keys are believed (docs/trust.md)."""

    def __init__(self, text: str) -> None:
        policy = tomllib.loads(text)
        require(policy["version"] == 1, "a trust policy of another version")
        self.keys: dict[tuple[str, str], dict[str, Json]] = {}
        for actor in policy.get("actors", []):
            keys: list[Json] = actor.get("keys", [])
            named = {key.get("id", f"ed25519:{digest(unbase64(key['public_key']))[:16]}"): key for key in keys}
            self.keys[actor.get("type", "human"), actor["id"]] = named
        parts = [each["key"].split("+", 2) for each in policy.get("log_keys", [])]
        self.log_keys = [(name, bytes.fromhex(number), unbase64(key)[1:]) for name, number, key in parts if unbase64(key)[0] == 1]

    def believes(self, act: Event) -> bool:
        """Whether an approver is listed, and a key of the actor that was valid then signed what is said to be signed."""
        keys = self.keys.get((act.actor["type"], act.who))
        if not act.statement or not keys or act.key_id not in keys:
            return not act.statement and (keys is not None or act.kind != "APPROVAL_GRANTED")
        key = keys[act.key_id]
        ends = [key[name] for name in ("not_after", "retired_at") if name in key]
        valid = all(key.get("not_before", at) <= at and all(at < end for end in ends) for at in (act.signed_at, act.at))
        sealed = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(act.text)} ".encode() + act.text
        return valid and act.signed_at <= act.at + timedelta(minutes=5) and verifies(unbase64(key["public_key"]), sealed, act.signature)


class Note:
    """A C2SP checkpoint in a signed note."""

    def __init__(self, note: str) -> None:
        text, _, signatures = note.rpartition("\n\n")
        self.text, (self.origin, size, root, *_) = f"{text}\n".encode(), text.split("\n")
        lines = [re.fullmatch("\u2014 ([^ +]+) ([^ ]+)", line) for line in signatures.removesuffix("\n").split("\n")]
        require(self.origin and re.fullmatch("0|[1-9][0-9]*", size) and signatures.endswith("\n") and all(lines), "no checkpoint")
        self.size, self.root = int(size), unbase64(root).hex()
        self.signatures = [(line[1], unbase64(line[2])) for line in lines if line]


def judge(document: bytes, trust: Trust | None = None, kept: list[Note] | None = None) -> dict[str, list[Finding]]:
    """What the checks of each layer found, whatever those of the others did."""
    try:
        evidence = Evidence(parse(document), trust, kept or [])
    except BROKEN as problem:
        return {layer: [(f"schema: {problem}", "a file that can be read" if layer != "integrity" else False)] for layer in LEFT_OUT}
    found: dict[str, list[Finding]] = {layer: [] for layer in LEFT_OUT}
    for layer, findings in found.items():
        try:
            findings.extend(getattr(evidence, layer, list)())
        except BROKEN as problem:
            findings.append((f"{type(problem).__name__}: {problem}", False))
    return found


def outcome(findings: list[Finding]) -> str:
    verdicts = [verdict for _, verdict in findings]
    return "FAIL" if False in verdicts else "INCOMPLETE" if any(type(verdict) is str for verdict in verdicts) else "NOT CHECKED"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--trust", type=Path)
    parser.add_argument("--checkpoint", type=Path, action="append", default=[])
    given = parser.parse_args()
    trust = Trust(given.trust.read_text(encoding="utf-8")) if given.trust else None
    try:
        found = judge(given.file.read_bytes(), trust, [Note(path.read_bytes().decode()) for path in given.checkpoint])
    except NotImplementedError as problem:
        parser.error(str(problem))
    for layer, findings in found.items():
        failed, held = (", ".join(dict.fromkeys(name for name, verdict in findings if verdict is which)) for which in (False, True))
        missing = [f"without {verdict}" for _, verdict in findings if isinstance(verdict, str)]
        told = failed or "; ".join([*dict.fromkeys(missing), f"holds: {held or '-'}", f"not judged: {LEFT_OUT[layer]}"])
        print(f"{outcome(findings):11} {layer:13} {told}")
    return 2 if "FAIL" in map(outcome, found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
