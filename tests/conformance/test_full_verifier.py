"""The full verifier, written from docs/verification.md, agrees with ours: over whole, edited and forged files, with real keys."""

import base64
import copy
import importlib.util
import json
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_allowed_events as allowed
import test_attacks as attacks
import test_router_tampered_events as tampered
from evidence_testing import edited, places
from forging import events_of, rebuilt

from nexus_attest import ed25519
from nexus_attest.key_errors import TrustInvalid
from nexus_attest.reader import knowledge_of
from nexus_attest.trust import TrustPolicy
from nexus_attest.trust_file import parse_trust
from nexus_control.audit_export import export_audit_package
from nexus_control.bundle import DecisionBundle
from nexus_control.bundle_checks import replay_bundle
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.case_export import export_case, sign_checkpoint
from nexus_control.checkpoint import NoteKey, SignedNote, parse_note, sign_note
from nexus_control.decision import Decision
from nexus_control.events import Actor
from nexus_control.evidence import examine
from nexus_control.identity import Action, Envelope, Statement, parse_statement
from nexus_control.integrity import prefixed
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

ROOT = Path(__file__).resolve().parents[2]
Judgement = dict[str, tuple[str, tuple[str, ...]]]
"""Of each layer its outcome, and which checks failed."""
SEEDS = {name: bytes([number]) * 32 for number, name in enumerate(("alice", "bob", "log", "witness", "bot"), 1)}
LOG = NoteKey("example.org/log", ed25519.public_key_of(SEEDS["log"]))
T0 = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def full() -> ModuleType:
    spec = importlib.util.spec_from_file_location("full_verifier", ROOT / "tests" / "conformance" / "full_verifier.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public(name: str) -> str:
    return base64.b64encode(ed25519.public_key_of(SEEDS[name])).decode()


TRUST = f"""
version = 1
[[actors]]
id = "alice"
[[actors.keys]]
public_key = "{public("alice")}"
not_before = 2025-12-01T00:00:00Z
not_after = 2027-01-01T00:00:00Z
[[actors]]
id = "bob"
[[actors.keys]]
public_key = "{public("bob")}"
[[actors]]
id = "carol"
[groups]
release = ["alice", "bob"]
[[rules]]
self_approval = false
[[rules]]
labels = ["prod"]
assurance = "signed"
groups = ["release"]
[[log_keys]]
key = "{LOG.text()}"
[[attestors]]
id = "bot"
key_id = "k1"
public_key = "{public("bot")}"
"""
LENIENT = TRUST.partition("[[rules]]")[0] + "[[log_keys]]" + TRUST.partition("[[log_keys]]")[2]
OTHERS = TRUST.replace(public("bob"), public("witness")).replace('id = "bot"', 'id = "other"')
TRUSTS = {"none": None, "full": TRUST, "lenient": LENIENT, "others": OTHERS}


class Router:
    def run(self, **_: object) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}

    def get_adapter_capabilities(self, adapter_id: str) -> set[str]:
        del adapter_id
        return {"timeout"}


def ticking() -> Callable[[], datetime]:
    moments: Iterator[datetime] = (T0 + timedelta(seconds=second, microseconds=second % 3) for second in range(10_000))
    return lambda: next(moments)


def signed(decision: Decision, who: str, action: Action, signed_at: datetime, key: str | None = None, **options: Any) -> dict[str, Any]:
    """A real envelope about the decision as it is, made with the key of `who` unless another is named."""
    seed = SEEDS[key or who]
    said = Statement(
        action=action,
        decision_id=decision.decision_id,
        action_digest=prefixed(decision.action_digest),
        actor=Actor(type="human", id=who),
        signed_at=signed_at.isoformat(),
        **options,
    )
    payload = said.payload()
    bare = Envelope(parse_statement(payload), payload, ed25519.key_id_of(ed25519.public_key_of(seed)), bytes(64))
    return Envelope(bare.statement, payload, bare.key_id, ed25519.sign(seed, bare.signed_bytes)).to_dict()


@cache
def whole() -> tuple[str, SignedNote]:
    """A case file in which every layer that it can have passes, as text, and a checkpoint from before it."""
    ids = iter([f"id-{number}" for number in range(100)])
    with DecisionStore(clock=ticking(), new_id=lambda: next(ids)) as store:
        tools = NexusControlTools(store, trust=parse_trust(tomllib.loads(TRUST)))
        sign = partial(ed25519.sign, SEEDS["log"])
        store.create_decision("before")
        early = sign_checkpoint(store, LOG, sign)
        carol = {"type": "human", "id": "carol"}
        made = tools.request(
            "rotate \u00e9\U0001f511", carol, mode="apply", min_approvals=2, allowed_modes=["apply", "dry_run"], labels=["prod"],
            require_adapter_capabilities=["timeout"], max_steps=5, plan="do it",
        )  # fmt: skip
        name = made.data["request_id"]
        said: dict[str, dict[str, Any]] = {"alice": {"expires_at": "2026-06-01T00:00:00+00:00"}, "bob": {"comment": "fine"}}
        for who, options in said.items():
            envelope = signed(Decision.load(store, name), who, "approve", T0 + timedelta(seconds=2), **options)
            actor = {"type": "human", "id": who}
            assert tools.approve(name, actor, signature=envelope, **options).success
        revoke = signed(Decision.load(store, name), "bob", "revoke", T0 + timedelta(seconds=3), comment="wait")
        assert tools.revoke_approval(name, {"type": "human", "id": "bob"}, "wait", signature=revoke).success
        again = signed(Decision.load(store, name), "bob", "approve", T0 + timedelta(seconds=4))
        assert tools.approve(name, {"type": "human", "id": "bob"}, signature=again).success
        store.create_decision("between")
        assert tools.execute(name, "ad", carol, Router()).success, tools.execute(name, "ad", carol, Router()).error
        package = export_audit_package(store, name).to_dict()["package"]
        case = export_case(store, package, checkpoint=sign_checkpoint(store, LOG, sign), since=[early]).to_dict()
    claims = {"attestation_version": "0.7", "binding_digest": package["integrity"]["binding_digest"], "claims": ["reviewed", "built"]}
    claims |= {"attestor": {"id": "bot", "key_id": "k1"}, "signed_at": "2026-01-02T00:00:00+00:00"}
    message = canonical_json_bytes({**claims, "claims": ["built", "reviewed"]})
    case["attestations"] = [{"payload": claims, "signature": ed25519.sign(SEEDS["bot"], message).hex()}]
    return json.dumps(case), early


def case() -> dict[str, Any]:
    return json.loads(whole()[0])


def embedded() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "vectors" / "router" / "router-audit-package-embedded.json").read_bytes())


def ours(text: str, trust: str | None, *, kept: bool) -> Judgement:
    notes = (whole()[1],) if kept else ()
    policy = None if trust is None else our_policy(trust)
    report = examine(text, knowledge_of(policy, checkpoints=notes))
    failed = {layer.name.value: {check.name for check in layer.checks if not check.ok} for layer in report.layers}
    return {layer.name.value: (layer.outcome.value, tuple(sorted(failed[layer.name.value]))) for layer in report.layers}


def theirs(text: str, trust: str | None, *, kept: bool) -> Judgement:
    module = full()
    notes = [module.Note(whole()[1].render())] if kept else []
    found = module.examine(text.encode(errors="surrogatepass"), None if trust is None else their_policy(trust), notes)
    failed = {layer: tuple(sorted(name for name, verdicts in checks.items() if False in verdicts)) for layer, checks in found.items()}
    return {layer: (module.outcome(checks), failed[layer]) for layer, checks in found.items()}


@cache
def our_policy(text: str) -> TrustPolicy:
    return parse_trust(tomllib.loads(text))


@cache
def their_policy(text: str) -> Any:
    return full().Trust(text)


def require_agreement(document: Any, what: object, trusts: tuple[str, ...] = ("full",)) -> dict[str, str]:
    text = document if isinstance(document, str) else json.dumps(document)
    found: Judgement = {}
    for trust in trusts:
        kept = trust != "none"
        found, other = ours(text, TRUSTS[trust], kept=kept), theirs(text, TRUSTS[trust], kept=kept)
        if other["witness"][0] == "NOT CHECKED":
            found["witness"] = other["witness"]  # it says so itself; a failure or a pass is compared
        assert other == found, (what, trust, kept)
    return {layer: outcome for layer, (outcome, _) in found.items()}


@pytest.mark.parametrize("trust", TRUSTS)
def test_whole_files_are_judged_alike(trust: str) -> None:
    for document in (case(), embedded(), {"case_version": "1", "package": embedded()}):
        require_agreement(document, trust, (trust,))


def test_the_whole_case_file_passes_every_compared_layer() -> None:
    judged = theirs(whole()[0], TRUST, kept=True)
    assert {layer for layer, (outcome, _) in judged.items() if outcome == "PASS"} == {"integrity", "authorization", "signatures", "log"}


VALUES: list[object] = [None, True, 0, 1.5, "", "x", [], {}, {"present": "yes"}, "2026-01-01T00:00:00+00:00", "\ud800"]


def _another(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return "x"


def _at(document: Any, place: str) -> Any:
    for part in place.split("."):
        document = document[int(part) if isinstance(document, list) else part]
    return document


def _without(document: dict[str, Any], place: str) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    *parents, last = place.split(".")
    target: Any = _at(changed, ".".join(parents)) if parents else changed
    del target[int(last) if isinstance(target, list) else last]
    return changed


@pytest.mark.parametrize("make", [case, embedded])
def test_edited_files_are_judged_alike(make: Callable[[], dict[str, Any]]) -> None:
    """Every member changed, and removed or replaced by something of another type."""
    document, judged, failures = make(), 0, 0
    for number, place in enumerate(places(document)):
        nonsense = edited(document, place, VALUES[number // 2 % len(VALUES)])
        variants = [edited(document, place, _another(_at(document, place))), _without(document, place) if number % 2 else nonsense]
        for variant in variants:
            failures += "FAIL" in require_agreement(variant, place).values()
            judged += 1
    assert judged > 250
    assert failures > judged / 2


def test_added_members_are_judged_alike() -> None:
    document = case()
    for place in ["", *(place for place in places(document) if isinstance(_at(document, place), dict))]:
        require_agreement(edited(document, f"{place}.note".lstrip("."), "approved"), place)


def with_events(package: dict[str, Any], events: list[dict[str, Any]]) -> dict[str, Any]:
    return {**package, "control_bundle": {**package["control_bundle"], "events": events}}


def _rebuilt_edits() -> Iterator[tuple[str, dict[str, Any]]]:
    """Forgeries with all digests recomputed: every member of every event changed, events dropped, doubled and moved."""
    package = case()["package"]
    events = events_of(package)
    for place in places({"e": events}):
        if place.count(".") >= 2 and place.split(".")[2] in ("payload", "ts", "actor", "type"):
            yield place, with_events(package, edited({"e": events}, place, _another(_at({"e": events}, place)))["e"])
            if place.endswith(("ts", "_at")):
                yield place, with_events(package, edited({"e": events}, place, "2026-01-01T00:00:05.500000+00:00")["e"])
    for number in range(len(events)):
        for other in ([], [events[number]] * 2):
            yield f"event {number}, {len(other)} times", with_events(package, [*events[:number], *other, *events[number + 1 :]])
        moved = [event for place, event in enumerate(events) if place != number]
        for target in (0, len(events) - 1):
            yield f"event {number} at {target}", with_events(package, [*moved[:target], events[number], *moved[target:]])


def test_forged_histories_with_all_digests_recomputed_are_judged_alike() -> None:
    judged = 0
    for what, forged in _rebuilt_edits():
        try:
            package = rebuilt(copy.deepcopy(forged))
        except (ValueError, TypeError, AttributeError, KeyError):
            package = forged  # no history any more: judged as it is
        require_agreement(package, what, (("none", "lenient")[judged % 2],))
        require_agreement({**case(), "package": package}, what, (("full", "others")[judged // 2 % 2],))
        judged += 1
    assert judged > 80


@pytest.mark.parametrize("change", attacks.FORGERIES)
def test_forged_packages_are_judged_alike(change: Callable[[list[dict[str, Any]]], object]) -> None:
    package = embedded()
    change(events_of(package))
    with suppress(ValueError):  # what does not replay cannot be rebuilt
        package = rebuilt(package)
    require_agreement(package, change, ("none", "lenient", "full"))


@pytest.mark.parametrize("name", [*allowed.NEVER_WRITTEN, *allowed.ELSEWHERE])
def test_histories_that_no_store_writes_are_judged_alike(name: str) -> None:
    change = allowed.NEVER_WRITTEN.get(name) or allowed.ELSEWHERE[name][0]
    try:
        package = allowed.forged(change)
    except ValueError:  # what does not replay cannot be made to fit
        package = copy.deepcopy(allowed.GENUINE)
        change(events_of(package))
    assert require_agreement(package, name, ("none", "lenient"))["authorization"] == "FAIL"


@pytest.mark.parametrize(("place", "value"), allowed.SECTIONS)
def test_sections_that_tell_something_else_are_judged_alike(place: str, value: object) -> None:
    require_agreement(edited(allowed.GENUINE, f"control_bundle.{place}", value), place)
    if not place.endswith("created_at"):  # which rebuilding puts right
        package = rebuilt(edited(allowed.GENUINE, f"control_bundle.{place}", value))
        assert require_agreement(package, place) == {**require_agreement(allowed.GENUINE, ""), "authorization": "FAIL"}


@pytest.mark.parametrize("anew", [True, False])
def test_earlier_runs_are_judged_alike(anew: bool) -> None:
    for who in ("mallory", "bob", "carol"):
        package = attacks.earlier_run(embedded(), who, anew=anew)
        require_agreement(package, who, ("none", "lenient", "full"))


@pytest.mark.parametrize(("options", "outcome"), [({}, "INCOMPLETE"), ({"goal": "another"}, "FAIL"), ({"key": "witness"}, "INCOMPLETE")])
def test_signatures_under_an_earlier_run_are_judged_alike(options: dict[str, Any], outcome: str) -> None:
    """The case run a second time, after a failure and a revocation: what was signed and taken back had allowed the first run."""
    package = _resigned(FIRST, **options)
    events = events_of(package)
    ended = {"type": "EXECUTION_FAILED", "ts": events[-1]["ts"], "actor": events[-1]["actor"], "payload": {"error_code": "X"}}
    revoked = {"type": "APPROVAL_REVOKED", "ts": events[-1]["ts"], "actor": events[FIRST]["actor"], "payload": {"reason": ""}}
    events[-3:-3] = [*copy.deepcopy(events[-3:-1]), ended, revoked]
    assert require_agreement(rebuilt(package), options, ("full", "lenient", "none"))["signatures"] == outcome


def _resigned(seq: int, **options: Any) -> dict[str, Any]:
    """The case with one approval signed anew, and everything recomputed but the log."""
    package = case()["package"]
    events = events_of(package)
    name = package["control_bundle"]["decision"]["decision_id"]
    decision = replay_bundle(name, DecisionBundle.from_dict(package["control_bundle"]).events[:2])
    if goal := options.pop("goal", None):
        decision.goal = goal
    decision.decision_id = options.pop("decision_id", name)
    payload = events[seq]["payload"]
    said: dict[str, Any] = {
        "expires_at": payload["expires_at"],
        "comment": payload.get("comment"),
        "signed_at": T0 + timedelta(seconds=4),
        **options,
    }
    who = events[seq]["actor"]["id"]
    payload["signature"] = signed(decision, said.pop("who", who), "approve", **said)
    return rebuilt(package)


FIRST, LAST = 2, 5
"""The approvals that stand when the run is requested."""


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        ({}, "PASS"),
        ({"key": "bob"}, "FAIL"),
        ({"key": "witness"}, "FAIL"),
        ({"goal": "another"}, "FAIL"),
        ({"decision_id": "another"}, "FAIL"),
        ({"signed_at": T0 + timedelta(seconds=5)}, "PASS"),
        ({"signed_at": T0 + timedelta(minutes=20)}, "FAIL"),
        ({"signed_at": T0 - timedelta(days=90)}, "FAIL"),
    ],
)
def test_signatures_for_something_else_or_by_somebody_else_are_judged_alike(options: dict[str, Any], outcome: str) -> None:
    package = _resigned(FIRST, **options)
    assert require_agreement(package, options, ("none", "full"))["signatures"] == outcome


@pytest.mark.parametrize(("seconds", "outcome"), [(4, "PASS"), (3, "FAIL"), (2, "FAIL")])
def test_approvals_that_were_signed_before_a_revocation_are_judged_alike(seconds: int, outcome: str) -> None:
    package = _resigned(LAST, signed_at=T0 + timedelta(seconds=seconds))
    assert require_agreement(package, seconds)["signatures"] == outcome


def test_statements_that_are_used_twice_are_judged_alike() -> None:
    package = case()["package"]
    events = events_of(package)
    events.insert(LAST + 1, copy.deepcopy(events[LAST]))
    assert require_agreement(rebuilt(package), "twice", ("none", "full"))["signatures"] == "FAIL"


def _log(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = case()
    change(document["log"])
    return document


def _checkpoint(size: int | None = None, *, name: str = "log", origin: str | None = None) -> str:
    """A checkpoint signed anew, true or not."""
    told = parse_note(case()["log"]["checkpoint"])
    lines = told.text.split("\n")
    lines[:2] = [origin or lines[0], lines[1] if size is None else str(size)]
    key = NoteKey(LOG.name, ed25519.public_key_of(SEEDS[name]))
    return sign_note("\n".join(lines), key, partial(ed25519.sign, SEEDS[name])).render()


LOG_FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a hash too many": lambda log: log["proof"].append("00" * 32),
    "a hash too few": lambda log: log["proof"].pop(),
    "hashes in another order": lambda log: log["proof"].reverse(),
    "a step too many": lambda log: log["consistency"][0]["proof"].append("00" * 32),
    "a step too few": lambda log: log["consistency"][0]["proof"].pop(),
    "no consistency": lambda log: log["consistency"].clear(),
    "consistency from elsewhere": lambda log: log["consistency"][0].update(size=2),
    "a false step": lambda log: log["consistency"][0]["proof"].__setitem__(0, "00" * 32),
    "a later position": lambda log: log["positions"].__setitem__(-1, log["positions"][-1] + 1),
    "positions beyond the log, and its root as proof": lambda log: log.update(
        positions=[10**6 + position for position in log["positions"]],
        proof=[base64.b64decode(parse_note(log["checkpoint"]).text.split("\n")[2]).hex()],
    ),
    "a position beyond the log": lambda log: log["positions"].__setitem__(-1, 10**6),
    "a position that is missing": lambda log: log["positions"].pop(),
    "a position twice": lambda log: log["positions"].__setitem__(0, log["positions"][1]),
    "another generation": lambda log: log.update(generation=2),
    "another chain": lambda log: log.update(prev_hash="11" * 32),
    "no generation": lambda log: log.update(generation=0),
    "the early checkpoint": lambda log: log.update(checkpoint=whole()[1].render()),
    "another origin": lambda log: log.update(checkpoint=log["checkpoint"].replace("example.org/log\n", "example.org/other\n", 1)),
    "another origin, signed": lambda log: log.update(checkpoint=_checkpoint(origin="example.org/other")),
    "signed by another": lambda log: log.update(checkpoint=_checkpoint(name="witness")),
    "another size, signed": lambda log: log.update(checkpoint=_checkpoint(9)),
    "a small size, signed": lambda log: log.update(checkpoint=_checkpoint(1)),
    "no signature": lambda log: log.update(checkpoint=log["checkpoint"].rsplit("\u2014", 1)[0]),
    "a signature twice": lambda log: log.update(checkpoint=log["checkpoint"] + log["checkpoint"].splitlines()[-1] + "\n"),
    "a signature of nobody": lambda log: log.update(checkpoint=log["checkpoint"] + "\u2014 other AAAAAAAA\n"),
    "no last line feed": lambda log: log.update(checkpoint=log["checkpoint"].rstrip("\n")),
    "no note": lambda log: log.update(checkpoint=""),
    "a size with zeros": lambda log: log.update(checkpoint=log["checkpoint"].replace("log\n", "log\n0", 1)),
}


@pytest.mark.parametrize("name", LOG_FORGERIES)
def test_forged_logs_are_judged_alike(name: str) -> None:
    require_agreement(_log(LOG_FORGERIES[name]), name, ("full", "none", "others"))


def sealed(package: dict[str, Any], change: Callable[[list[dict[str, Any]]], object]) -> dict[str, Any]:
    """The package with the events of its record changed, and every digest that a forger can compute recomputed."""
    package = copy.deepcopy(package)
    record = package["router"]["bundle"]
    change(record["events"])
    for seq, event in enumerate(record["events"]):
        event |= {"seq": seq}
    text = json.dumps({"run": record["run"], "events": record["events"]}, sort_keys=True, separators=(",", ":"))
    record["digests"]["sha256"] = sha256(text.encode()).hexdigest()
    record["response"]["run_bundle_digest"] = f"sha256:{record['digests']['sha256']}"
    response = sha256(canonical_json_bytes(record["response"])).hexdigest()
    record["integrity"]["canonical_digest"] = f"sha256:{response}"
    events_of(package)[-1]["payload"]["response_digest"] = response
    return rebuilt(package)


def failed() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "vectors" / "router" / "router-audit-package-failed-embedded.json").read_bytes())


@pytest.mark.parametrize("make", [embedded, failed])
def test_records_whose_events_are_cut_doubled_and_moved_are_judged_alike(make: Callable[[], dict[str, Any]]) -> None:
    package, failures, judged = make(), 0, 0
    last = len(package["router"]["bundle"]["events"]) - 1
    for number in range(last + 1):
        for target in (None, number, 0, min(number + 1, last), last):

            def change(events: list[dict[str, Any]], number: int = number, target: int | None = target) -> None:
                if target == number:
                    events.insert(number, {**copy.deepcopy(events[number]), "event_id": "another"})
                else:
                    moved = events.pop(number)
                    events[target or 0 : target or 0] = [] if target is None else [moved]

            failures += require_agreement(sealed(package, change), number, ("none",))["execution"] == "FAIL"
            judged += 1
    assert judged == 5 * (last + 1)
    assert failures > judged / 2


@pytest.mark.parametrize("name", sorted(tampered.RECORDS))
def test_records_of_every_end_of_a_run_are_judged_alike_whatever_is_cut_or_doubled(name: str) -> None:
    genuine = tampered.RECORDS[name]
    assert require_agreement(genuine, name, ("none",))["execution"] != "FAIL"
    for kind in (tampered.removals, tampered.doublings, tampered.cuts):
        for what, events in kind(tampered.events_of(genuine)):
            package = copy.deepcopy(genuine)
            package["router"]["bundle"]["events"] = copy.deepcopy(events)
            require_agreement(tampered.consistent(package), what, ("none",))


@pytest.mark.parametrize("name", sorted(tampered.RECORDS))
def test_members_that_are_added_to_records_are_judged_alike(name: str) -> None:
    genuine = tampered.RECORDS[name]
    ours = genuine["router"]["bundle"]["events"][0]["payload"].get("recorded_by") == "nexus-attest"
    for place in ("note", "digests.note", "integrity.note", "provenance"):
        judged = require_agreement(edited(genuine, f"router.bundle.{place}", {"by": "the board"}), place, ("none",))
        assert (judged["execution"] == "FAIL") is (ours and place != "provenance"), place


@pytest.mark.parametrize("reason", ["interrupted", "bug_error"])
@pytest.mark.parametrize("last", range(3, 12))
def test_records_of_nexus_router_that_break_off_anywhere_are_judged_alike(last: int, reason: str) -> None:
    package = failed()
    events = package["router"]["bundle"]["events"]
    kept = [*events[:last], {**events[-1], "payload": {"reason": reason}}]
    for proven in (False, True):
        package["router"]["bundle"]["events"] = [*kept[:-1], *([events[-2]] if proven else []), kept[-1]]
        require_agreement(tampered.consistent(copy.deepcopy(package)), last, ("none",))


def test_records_with_every_member_of_every_event_changed_are_judged_alike() -> None:
    """Removed, and replaced by something of another type, in turn; with all digests recomputed."""
    package, judged = embedded(), 0
    for place in places({"e": package["router"]["bundle"]["events"]}):
        if place.count(".") < 2:
            continue
        path = place.removeprefix("e.")

        def change(events: list[dict[str, Any]], path: str = f"e.{path}", number: int = judged) -> None:
            parts = {"e": events}
            events[:] = (edited(parts, path, VALUES[number // 2 % len(VALUES)]) if number % 2 else _without(parts, path))["e"]

        judged += 1
        with suppress(UnicodeEncodeError):
            require_agreement(sealed(package, change), place, ("none",))
    assert judged > 100


PLANS = [
    *(
        "",
        "do it",
        "[]",
        "{}",
        "null",
        "NaN",
        '{"steps": []}',
        '[{"tool": "keys"}]',
        '[{"tool": "keys", "method": "list", "x": 1}]',
        "[NaN]",
    ),
    *('[{"tool": "keys", "method": "list"}, {"tool": "keys", "method": "rotate", "step_id": "s1"}]', '{"steps": [], "on_error": "never"}'),
    '{"steps": [{"tool": "keys", "method": "list", "args": {"env": "staging"}}], "on_error": "continue"}',
]


@pytest.mark.parametrize("plan", PLANS)
def test_records_of_other_plans_are_judged_alike(plan: str) -> None:
    package = embedded()
    events_of(package)[0]["payload"]["plan"] = plan
    args = {"goal": package["control_bundle"]["decision"]["goal"], "plan": plan}
    calls = [{"step_id": "s1", "intent": "", "call": {"tool": "keys", "method": "list", "args": args}}]
    for recorded in ([], calls):

        def change(events: list[dict[str, Any]], recorded: list[dict[str, Any]] = recorded) -> None:
            events[2]["payload"]["plan"] = recorded
            events[4]["payload"]["call"]["args"] = args

        require_agreement(sealed(package, change), plan, ("none",))


KEY_TIMES = [
    *("retired_at = 2025-12-31T00:00:00Z", "retired_at = 2026-01-01T00:00:03Z", "retired_at = 2026-06-01T00:00:00Z"),
    *("not_before = 2026-01-01T00:00:03Z", "not_after = 2026-01-01T00:00:00Z", "not_after = 2025-01-01T00:00:00Z"),
]


@pytest.mark.parametrize("limit", KEY_TIMES)
def test_keys_that_were_not_always_valid_are_judged_alike(limit: str) -> None:
    for name in ("bob", "bot"):
        line = f'public_key = "{public(name)}"'
        judged_under(TRUST.replace(line, f"{line}\n{limit}"), case())


OTHER_TRUSTS = {
    "a key by another name": TRUST.replace(f'public_key = "{public("bob")}"', f'public_key = "{public("bob")}"\nid = "laptop"'),
    "nobody": "version = 1\n",
    "carol asks for herself": TRUST.replace('groups = ["release"]', 'actors = ["carol"]'),
    "nobody may": TRUST.replace('groups = ["release"]', "actors = []"),
    "requests are signed": TRUST.replace('labels = ["prod"]', 'labels = ["prod"]\nactions = ["request"]'),
    "runs are authenticated": TRUST + '[[rules]]\nactions = ["execute"]\nassurance = "authenticated"\n',
    "another label": TRUST.replace('labels = ["prod"]', 'labels = ["test"]'),
    "a template": TRUST.replace('labels = ["prod"]', 'templates = ["prod"]'),
    "systems": TRUST.replace('id = "bob"', 'id = "bob"\ntype = "system"').replace('"alice", "bob"', '"alice", "system:bob"'),
    "no log": LENIENT.partition("[[log_keys]]")[0],
}


@pytest.mark.parametrize("name", OTHER_TRUSTS)
def test_other_trust_policies_are_judged_alike(name: str) -> None:
    judged_under(OTHER_TRUSTS[name], case())


def judged_under(trust: str, document: dict[str, Any]) -> None:
    text = json.dumps(document)
    assert theirs(text, trust, kept=True) == ours(text, trust, kept=True)


@pytest.mark.parametrize(
    "change", [("[[rules]]", "[[rule]]"), ("version = 1", "version = 2"), ('"signed"', '"sealed"'), ("keys]]\n", "keys]]\nx = 1\n")]
)
def test_trust_policies_that_are_none_are_refused_by_both(change: tuple[str, str]) -> None:
    text = TRUST.replace(*change)
    with pytest.raises(ValueError, match=r".*"):
        full().Trust(text)
    with pytest.raises(TrustInvalid):
        parse_trust(tomllib.loads(text))


DUPLICATE = '{"case_version":"1","case_version":"1"}'


@pytest.mark.parametrize("text", ["", "[]", "{", "null", DUPLICATE, '{"a":NaN}', "[" * 100_000, '{"a":1e999}'])
def test_texts_that_are_no_files_are_judged_alike(text: str) -> None:
    assert require_agreement(text, text[:20])["integrity"] == "FAIL"


ODD = [0.1, 1e21, 1e-7, -0.0, 123456789012345680000.0, 5e-324, 1.7976931348623157e308, 2**60, "\u2028\x7f\x1f", 100.0]


@pytest.mark.parametrize("value", ODD)
def test_values_of_any_spelling_are_hashed_alike(value: object) -> None:
    module = full()
    assert module.canonical({"b": value, "a": [value]}).encode() == canonical_json_bytes({"b": value, "a": [value]})


def test_it_imports_nothing_of_ours() -> None:
    source = (ROOT / "tests" / "conformance" / "full_verifier.py").read_text(encoding="utf-8")
    assert "import nexus" not in source
    assert "from nexus" not in source
