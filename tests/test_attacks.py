"""What a forger can do to a file, and which layer catches it. Every digest fits in all of these, unless the test says otherwise."""

import base64
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from checkpoint_testing import KEY, WITNESS, check, cosignature, signed, signer
from evidence_testing import edited, new_store, places
from forging import approval, events_of, genuine, rebuilt
from identity_testing import Seal, statement

from nexus_control.audit_export import export_audit_package
from nexus_control.auditor import conclusion
from nexus_control.bundle import DecisionBundle
from nexus_control.bundle_checks import replay_bundle
from nexus_control.case_export import export_case, sign_checkpoint
from nexus_control.case_file import CaseFile
from nexus_control.checkpoint import Checkpoint, NoteSignature, SignedNote, parse_note, sign_note
from nexus_control.decision import Decision
from nexus_control.errors import IdentityRefused
from nexus_control.events import EventType
from nexus_control.evidence import EvidenceReport, Knowledge, Layer, LayerName, LogTrust, Outcome, examine
from nexus_control.identity import Act
from nexus_control.import_ import import_bundle
from nexus_control.in_toto import statement_payload
from nexus_control.tool import NexusControlTools
from nexus_control.verification import VerificationCheck

EARLY, LATE = "2026-11-21T01:50:01.427000+00:00", "2026-11-21T02:00:00+00:00"
PLACE_OF_APPROVAL, PLACE_OF_RUN = 2, 3


class Stranger(IdentityRefused):
    """What `Believes` says about everybody else."""

    code = "STRANGER"


@dataclass(frozen=True)
class Believes:
    """A trust that believes some names, and every statement that they sealed."""

    names: frozenset[str]
    seal: Seal

    def judge(self, act: Act) -> None:
        if act.actor["id"] not in self.names:
            raise Stranger(f"nobody knows {act.actor['id']}")
        self.seal.judge(act)


TRUST = Believes(frozenset({"alice", "bob", "carol"}), Seal())


def failed(document: Any, knowledge: Knowledge | None = None) -> list[str]:
    return [name.value for name in examine(document, knowledge).failed]


def outcome(report: EvidenceReport, name: str) -> str:
    return next(layer.outcome.value for layer in report.layers if layer.name == name)


def forged(change: Callable[[list[dict[str, Any]]], object], **options: Any) -> dict[str, Any]:
    """The genuine package with its events changed, and everything recomputed."""
    package = genuine()
    change(events_of(package))
    return rebuilt(package, **options)


def test_the_genuine_package_passes_and_so_does_its_rebuilding() -> None:
    assert rebuilt(genuine()) == genuine()
    report = examine(genuine())
    assert [layer.outcome.value for layer in report.layers[:2]] == ["PASS", "PASS"]
    assert outcome(report, "execution") == "PASS"
    assert report.ok


# -- packages that were made up


def remove_approvals(events: list[dict[str, Any]]) -> None:
    del events[PLACE_OF_APPROVAL]


def need_two(events: list[dict[str, Any]]) -> None:
    events[1]["payload"]["min_approvals"] = 2


def approve_twice(events: list[dict[str, Any]]) -> None:
    need_two(events)
    events.insert(PLACE_OF_RUN, approval("bob", EARLY))


def approve_after_the_run(events: list[dict[str, Any]]) -> None:
    events.append({**events.pop(PLACE_OF_APPROVAL), "ts": LATE})


def approve_with_a_later_time(events: list[dict[str, Any]]) -> None:
    events[PLACE_OF_APPROVAL]["ts"] = LATE


def let_it_expire(events: list[dict[str, Any]]) -> None:
    events[PLACE_OF_APPROVAL]["payload"]["expires_at"] = EARLY


def revoke_it(events: list[dict[str, Any]]) -> None:
    revoked = {"type": "APPROVAL_REVOKED", "ts": EARLY, "actor": {"type": "human", "id": "bob"}, "payload": {"reason": ""}}
    events.insert(PLACE_OF_RUN, revoked)


def change_the_goal(events: list[dict[str, Any]]) -> None:
    events[0]["payload"]["goal"] = "Rotate production keys"


def change_the_plan(events: list[dict[str, Any]]) -> None:
    events[0]["payload"]["plan"] = "something else"


def change_the_policy_afterwards(events: list[dict[str, Any]]) -> None:
    events.insert(PLACE_OF_RUN, copy.deepcopy(events[1]))


def change_the_action_afterwards(events: list[dict[str, Any]]) -> None:
    events[PLACE_OF_RUN:PLACE_OF_RUN] = copy.deepcopy(events[:2])


def forbid_the_mode(events: list[dict[str, Any]]) -> None:
    events[1]["payload"]["allowed_modes"] = ["dry_run"]


def drop_the_policy(events: list[dict[str, Any]]) -> None:
    del events[1]


def run_it_twice(events: list[dict[str, Any]]) -> None:
    events += copy.deepcopy(events[PLACE_OF_RUN:])


def run_without_asking(events: list[dict[str, Any]]) -> None:
    events += copy.deepcopy(events[PLACE_OF_RUN + 2 :])


def start_without_asking(events: list[dict[str, Any]]) -> None:
    events.append(copy.deepcopy(events[PLACE_OF_RUN + 1]))


def ask_while_it_runs(events: list[dict[str, Any]]) -> None:
    events.insert(PLACE_OF_RUN, copy.deepcopy(events[PLACE_OF_RUN]))


def sign_nothing(events: list[dict[str, Any]]) -> None:
    events[PLACE_OF_APPROVAL]["payload"]["assurance"] = "signed"


FAILS: list[tuple[Callable[[list[dict[str, Any]]], None], str | None]] = [
    (remove_approvals, "policy_satisfied"),
    (need_two, "policy_satisfied"),
    (approve_twice, "policy_satisfied"),
    (approve_after_the_run, "allowed_events policy_satisfied"),
    (approve_with_a_later_time, "policy_satisfied"),
    (let_it_expire, "policy_satisfied"),
    (revoke_it, "policy_satisfied"),
    (change_the_goal, "approved_action"),
    (change_the_plan, None),  # the plan is in the request digest as well
    (change_the_policy_afterwards, "policy_satisfied"),
    (change_the_action_afterwards, "policy_satisfied"),
    (forbid_the_mode, "allowed_events policy_satisfied"),
    (run_it_twice, "policy_satisfied"),
    (run_without_asking, "history"),
    (start_without_asking, "history"),
    (ask_while_it_runs, "history"),
    (sign_nothing, "history"),
]
"""Each forgery with the checks that fail; None: the digest of what was asked holds the plan as well."""

FORGERIES = [*(change for change, _ in FAILS), drop_the_policy]


@pytest.mark.parametrize(("change", "check_name"), FAILS)
def test_a_forged_history_fails_authorization(change: Callable[[list[dict[str, Any]]], None], check_name: str | None) -> None:
    if change is sign_nothing:  # replay refuses it, so not even the digests can be made to fit by replaying
        package = genuine()
        change(events_of(package))
    else:
        package = forged(change)
    report = examine(package)
    (authorization,) = (layer for layer in report.layers if layer.name == "authorization")
    assert outcome(report, "authorization") == "FAIL"
    wrong = [made.name for made in authorization.checks if not made.ok]
    assert wrong == (check_name or "approved_action").split()
    if change is not sign_nothing:
        assert outcome(report, "integrity") == "PASS"


def test_a_decision_without_policy_allows_nothing() -> None:
    assert "authorization" in failed(forged(drop_the_policy))


def test_a_link_to_another_run_fails_authorization() -> None:
    package = genuine()
    package["control_bundle"]["router_link"]["run_id"] = "another"
    report = examine(rebuilt(package, link=False))
    assert outcome(report, "authorization") == "FAIL"


def test_events_of_another_decision_fail_authorization() -> None:
    package = genuine()
    events_of(package)[PLACE_OF_APPROVAL]["decision_id"] = "another"
    assert "authorization" in failed(package)


def test_an_embedded_run_that_was_replaced_fails_execution() -> None:
    package, other = genuine(), genuine()["router"]["bundle"]
    other["events"][1]["payload"]["plan"] = []
    package["router"]["bundle"] = other
    assert "execution" in failed(rebuilt(package))


def test_the_record_of_another_run_fails_execution() -> None:
    package = genuine()
    for event in package["router"]["bundle"]["events"]:
        event["run_id"] = "another"
    package["router"]["bundle"]["run_id"] = package["router"]["bundle"]["run"]["run_id"] = "another"
    assert "execution" in failed(rebuilt(package))


# -- who said it


def test_invented_approvals_pass_authorization_and_never_signatures() -> None:
    def invent(events: list[dict[str, Any]]) -> None:
        events[PLACE_OF_APPROVAL] = approval("mallory", EARLY)

    package = forged(invent)
    report = examine(package)
    assert outcome(report, "authorization") == "PASS", "names alone are the operator's word"
    assert outcome(report, "signatures") == "INCOMPLETE"
    assert failed(package, Knowledge(trust=TRUST)) == ["signatures"]


def sealed_package(*, decision_id: str | None = None, goal: str | None = None, actor: str = "bob", count: int = 1) -> dict[str, Any]:
    """The genuine package with bob's approval signed: for this decision and action, unless said otherwise."""
    package = genuine()
    events = events_of(package)
    name = package["control_bundle"]["decision"]["decision_id"]
    bundle = rebuilt(package)["control_bundle"]
    decision: Decision = replay_bundle(name, DecisionBundle.from_dict(bundle).events[:2])
    decision.decision_id = decision_id or name
    decision.goal = goal or decision.goal
    said = statement(decision, {"type": "human", "id": actor}, signed_at="2026-11-21T01:50:01+00:00", comment=None)
    envelope = TRUST.seal.sign(said)
    events[PLACE_OF_APPROVAL]["payload"] = {"expires_at": None, "assurance": "signed", "signature": envelope}
    events[PLACE_OF_APPROVAL:PLACE_OF_RUN] = [copy.deepcopy(events[PLACE_OF_APPROVAL]) for _ in range(count)]
    return rebuilt(package)


def test_a_signed_approval_passes_signatures_under_a_trust_that_knows_the_key() -> None:
    report = examine(sealed_package(), Knowledge(trust=TRUST))
    assert report.ok
    assert outcome(report, "signatures") == "PASS"
    assert outcome(examine(sealed_package()), "signatures") == "INCOMPLETE"


@pytest.mark.parametrize("options", [{"decision_id": "another"}, {"goal": "another"}])
def test_a_signature_for_something_else_fails_signatures_and_authorization(options: dict[str, Any]) -> None:
    for knowledge in (None, Knowledge(trust=TRUST)):
        found = failed(sealed_package(**options), knowledge)
        assert "signatures" in found
        assert "authorization" in found


def test_a_signature_of_another_actor_is_no_history() -> None:
    package = sealed_package()
    events_of(package)[PLACE_OF_APPROVAL]["actor"]["id"] = "alice"
    assert "authorization" in failed(package)


def test_a_signature_that_was_used_before_fails_signatures() -> None:
    assert "signatures" in failed(sealed_package(count=2), Knowledge(trust=TRUST))


def test_a_key_that_the_trust_does_not_know_fails_signatures() -> None:
    assert failed(sealed_package(), Knowledge(trust=Believes(TRUST.names, Seal(b"other")))) == ["signatures"]


def test_a_stripped_signature_fails_where_one_is_wanted() -> None:
    wants = Believes(TRUST.names, Seal(only_signed=frozenset({"approve"})))
    assert failed(genuine(), Knowledge(trust=wants)) == ["signatures"]
    assert failed(genuine(), Knowledge(trust=TRUST)) == []


def earlier_run(package: dict[str, Any], who: str, *, anew: bool = False) -> dict[str, Any]:
    """The package with a failed run before its own, which an approval of `who` allowed that no longer stands; nobody signed it."""
    events = events_of(package)
    system = events[-1]["actor"]
    failed_run = [*copy.deepcopy(events[PLACE_OF_RUN : PLACE_OF_RUN + 2])]
    failed_run.append({"type": "EXECUTION_FAILED", "ts": EARLY, "actor": system, "payload": {"error_code": "X"}})
    revoked = {"type": "APPROVAL_REVOKED", "ts": EARLY, "actor": {"type": "human", "id": who}, "payload": {"reason": ""}}
    before = [approval(who, EARLY), *failed_run, *([copy.deepcopy(events[1])] if anew else [revoked])]
    place = PLACE_OF_APPROVAL if anew else PLACE_OF_RUN
    events[place:place] = before
    return rebuilt(package)


def test_an_earlier_run_that_nobody_believed_allowed_fails_signatures() -> None:
    package = earlier_run(sealed_package(), "mallory", anew=True)
    assert outcome(examine(package), "authorization") == "PASS"
    layer = examine(package, Knowledge(trust=TRUST)).layer(LayerName.SIGNATURES)
    (broken,) = (made for made in layer.checks if not made.ok)
    assert broken.name == "believed_approvals"
    assert str(broken.detail).startswith("with the approvals that the trust policy believes the run requested by event 3 was not allowed")
    assert [gap.what for gap in layer.gaps] == [
        "of the run requested by event 3, 0 of 1 needed approvals are signed; without a signature: mallory (asserted)"
    ]


def test_a_false_signature_under_an_earlier_run_fails_signatures_although_it_was_taken_back() -> None:
    package = sealed_package()
    sealed = copy.deepcopy(events_of(package)[PLACE_OF_APPROVAL]["payload"])
    package = earlier_run(sealed_package(), "alice")
    assert failed(package, Knowledge(trust=TRUST)) == []
    forged_line = base64.b64encode(b"x" * 64).decode()
    name = package["control_bundle"]["decision"]["decision_id"]
    decision = replay_bundle(name, DecisionBundle.from_dict(package["control_bundle"]).events[:2])
    said = TRUST.seal.sign(statement(decision, {"type": "human", "id": "alice"}, signed_at="2026-11-21T01:50:01+00:00", comment=None))
    said["signatures"][0]["sig"] = forged_line
    events_of(package)[PLACE_OF_RUN]["payload"] = {**sealed, "signature": said}
    assert failed(rebuilt(package), Knowledge(trust=TRUST)) == ["signatures"]


def test_it_makes_no_difference_how_much_of_a_history_is_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    package = earlier_run(sealed_package(), "mallory", anew=True)
    kept = examine(package, Knowledge(trust=TRUST)).to_dict()
    monkeypatch.setattr("nexus_control.history._MOST_KEPT", 0)
    assert examine(package, Knowledge(trust=TRUST)).to_dict() == kept


def test_of_many_runs_that_nobody_signed_for_ten_are_told() -> None:
    def fail_often(events: list[dict[str, Any]]) -> None:
        ended = {"type": "EXECUTION_FAILED", "ts": LATE, "actor": events[-1]["actor"], "payload": {"error_code": "X"}}
        run = [*copy.deepcopy(events[PLACE_OF_RUN : PLACE_OF_RUN + 2]), ended]
        events[PLACE_OF_RUN:PLACE_OF_RUN] = [copy.deepcopy(event) for _ in range(11) for event in run]

    gaps = examine(forged(fail_often)).layer(LayerName.SIGNATURES).gaps
    assert len(gaps) == 11
    assert gaps[-1].what == "the same of 2 earlier runs"


def test_imported_approvals_do_not_count_without_trust_in_them() -> None:
    package = forged(lambda events: events.__delitem__(slice(PLACE_OF_RUN, None)) or events.append(approval("mallory", EARLY)), link=False)
    bundle = package["control_bundle"]
    with new_store() as store:
        wants = NexusControlTools(store, trust=Believes(TRUST.names, Seal(only_signed=frozenset({"approve"}))))
        assert import_bundle(store, bundle).success
        name = bundle["decision"]["decision_id"]
        assert wants.execute(name, "any", {"type": "human", "id": "carol"}, _Router()).code == "POLICY_VALIDATION_FAILED"
        assert Decision.load(store, name).active_approval_count == 2
        assert Decision.load(store, name, trust=TRUST).active_approval_count == 1, "bob's, by name; nobody knows mallory"


class _Router:
    def run(self, **_: object) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:  # noqa: ARG002 - the protocol's name
        return None


# -- the log


def case_of(package: dict[str, Any] | None = None) -> tuple[dict[str, Any], Knowledge]:
    """A case file of the genuine decision, between others in a log, and what a reader knows about that log."""
    package = package or genuine()
    with new_store() as store:
        store.create_decision("before")
        first = sign_checkpoint(store, KEY, signer(KEY))
        assert import_bundle(store, package["control_bundle"]).success
        name = package["control_bundle"]["decision"]["decision_id"]
        store.append_event("before", EventType.DECISION_CREATED, {"type": "human", "id": "eve"}, {"goal": "between"})
        exported = export_audit_package(store, name, embed_router_bundle=True, router_bundle=package["router"]["bundle"])
        note = sign_checkpoint(store, KEY, signer(KEY))
        case = export_case(store, exported.to_dict()["package"], checkpoint=note, since=[first])
    return case.to_dict(), Knowledge(logs=LogTrust((KEY,), check, (first,)))


CASE, READER = case_of()


def test_the_genuine_case_passes_with_its_log() -> None:
    report = examine(CASE, READER)
    assert [layer.outcome.value for layer in report.layers] == ["PASS", "PASS", "INCOMPLETE", "PASS", "PASS", "INCOMPLETE"]


OUTSIDE = (
    *("package.meta", "package.provenance", "package.control_bundle.meta", "package.control_bundle.provenance", "trust"),
    *("package.router.bundle.exported_at", "package.router.bundle.bundle_version"),
)
"""What no digest covers, by design, and what is told, not judged."""


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


def _leaves(document: dict[str, Any]) -> list[str]:
    return [place for place in places(document) if not isinstance(_at(document, place), dict | list)]


@pytest.mark.parametrize("place", [place for place in _leaves(CASE) if not place.startswith(OUTSIDE)])
def test_every_single_edit_of_a_case_file_is_caught(place: str) -> None:
    report = examine(edited(CASE, place, _another(_at(CASE, place))), READER)
    if place == "log.consistency.0.size":  # then the proof that the reader needs is not there
        assert outcome(report, "log") == "INCOMPLETE"
    else:
        assert not report.ok


def _recomputed_edits() -> list[tuple[str, dict[str, Any]]]:
    """Every leaf of type, time, actor and payload of every event, changed, with all digests recomputed where the history still replays."""
    found: list[tuple[str, dict[str, Any]]] = []
    for place in _leaves({"e": events_of(genuine())}):
        member = place.split(".")[2]
        if member not in ("payload", "ts", "actor", "type"):
            continue
        value = _at({"e": events_of(genuine())}, place)
        changed = "2026-11-21T01:50:01.000001+00:00" if member == "ts" else "system" if value == "human" else _another(value)
        package = genuine()
        package["control_bundle"]["events"] = edited({"e": events_of(package)}, place, changed)["e"]
        try:
            found.append((place, rebuilt(package)))
        except ValueError:
            assert "authorization" in failed(package), place
    return found


def test_every_edit_of_an_event_with_all_digests_recomputed_fails_the_log() -> None:
    edits = _recomputed_edits()
    assert len(edits) > 20
    for place, package in edits:
        assert outcome(examine({**CASE, "package": package}, READER), "log") == "FAIL", place


def test_a_rebuilt_package_without_log_part_passes_integrity_and_the_text_says_what_that_is_worth() -> None:
    def rename(events: list[dict[str, Any]]) -> None:
        events[PLACE_OF_APPROVAL]["actor"]["id"] = "mallory"

    report = examine(forged(rename))
    assert report.ok
    assert outcome(report, "log") == "INCOMPLETE"
    assert "Whoever can change a file can recompute every digest in it" in conclusion(report)


def log_forged(**changes: Any) -> dict[str, Any]:
    return {**CASE, "log": {**CASE["log"], **changes}}


@pytest.mark.parametrize(
    "case",
    [
        log_forged(generation=2),
        log_forged(prev_hash="0" * 64),
        log_forged(proof=[]),
        log_forged(proof=CASE["log"]["proof"][::-1]) if len(CASE["log"]["proof"]) > 1 else log_forged(proof=["0" * 64]),
        log_forged(positions=[position + 1 for position in CASE["log"]["positions"]]),
        log_forged(positions=CASE["log"]["positions"][:-1]),
        log_forged(positions=[]),
        log_forged(checkpoint=signed(40, "ab" * 32).render()),
        log_forged(checkpoint="no checkpoint"),
    ],
)
def test_a_forged_log_part_fails_the_log(case: dict[str, Any]) -> None:
    assert failed(case, READER) == ["log"]


def test_the_log_is_judged_by_the_events_alone_and_in_the_order_in_which_they_stand() -> None:
    nameless = edited(CASE, "package.control_bundle.decision.goal", "\ud800")
    report = examine(nameless, READER)
    assert (outcome(report, "integrity"), outcome(report, "log")) == ("FAIL", "PASS")
    moved = copy.deepcopy(CASE)
    events_of(moved["package"]).reverse()
    assert outcome(examine(moved, READER), "log") == "FAIL"
    unwritable = edited(CASE, "package.control_bundle.events.0.payload.goal", "\ud800")
    assert outcome(examine(unwritable, READER), "log") == "FAIL"


def test_a_log_signed_by_another_key_fails_the_log() -> None:
    other = LogTrust((type(KEY)("example.org/another", b"o" * 32),), check, READER.logs.checkpoints)
    assert failed(CASE, Knowledge(logs=other)) == ["log"]
    twin = LogTrust((type(KEY)(KEY.name, b"o" * 32),), check)
    assert failed(CASE, Knowledge(logs=twin)) == ["log"]


def test_a_log_that_was_begun_anew_does_not_extend_the_checkpoint_that_was_kept() -> None:
    kept = signed(1, "cd" * 32)
    report = examine(CASE, Knowledge(logs=LogTrust((KEY,), check, (kept,))))
    assert [name.value for name in report.failed] == ["log"]


def test_a_split_view_fails_the_log_and_says_what_it_is() -> None:
    size = int(CASE["log"]["checkpoint"].split("\n")[1])
    report = examine(CASE, Knowledge(logs=LogTrust((KEY,), check, (signed(size, "cd" * 32),))))
    (log,) = (layer for layer in report.layers if layer.name == "log")
    (broken,) = (made for made in log.checks if not made.ok)
    assert broken.name == "extends_checkpoint"
    assert "two histories" in str(broken.detail)


def test_a_kept_checkpoint_with_a_false_signature_fails_the_log() -> None:
    (kept,) = READER.logs.checkpoints
    false = type(kept)(kept.text, signed(9, "ab" * 32).signatures)
    assert failed(CASE, Knowledge(logs=LogTrust((KEY,), check, (false,)))) == ["log"]


def test_a_checkpoint_of_another_size_needs_a_proof() -> None:
    kept = signed(3, "cd" * 32)
    report = examine(CASE, Knowledge(logs=LogTrust((KEY,), check, (kept,))))
    assert outcome(report, "log") == "INCOMPLETE"
    assert report.ok


# -- what a history does not tell


def shortened(count: int, **link: str | None) -> dict[str, Any]:
    """The genuine decision bundle with its first events only, and a router link of these members."""
    package = genuine()
    del events_of(package)[count:]
    bundle: dict[str, Any] = package["control_bundle"]
    bundle["router_link"] = {name: value for name, value in link.items() if value is not None}
    return bundle


def test_a_decision_that_was_not_run_has_no_authorization_to_judge() -> None:
    report = examine(shortened(PLACE_OF_RUN), Knowledge(trust=TRUST))
    assert [outcome(report, name) for name in ("authorization", "execution")] == ["INCOMPLETE", "INCOMPLETE"]
    assert report.story is not None
    assert (report.story.run, report.story.runs) == (None, 0)
    assert [made.name for made in report.layer(LayerName.SIGNATURES).checks] == ["statements", "acts"]


def test_a_link_to_a_run_that_the_events_do_not_tell_of_fails_authorization() -> None:
    layer = examine(shortened(PLACE_OF_RUN, run_id="run-1")).layer(LayerName.AUTHORIZATION)
    assert [made.detail for made in layer.checks if not made.ok] == ["router_link names a run, the events tell of none"]


def test_a_run_that_was_only_requested_is_told_as_unknown_and_not_judged_whole() -> None:
    report = examine(shortened(PLACE_OF_RUN + 1))
    assert [gap.what for gap in report.layers[1].gaps] == [
        f"the run requested by event {PLACE_OF_RUN} does not say what it was asked to do",
        "the file names no run as the one that it is about",
    ]
    assert report.story is not None
    assert report.story.run is not None
    assert report.story.run.outcome == "unknown"


def test_a_run_in_another_mode_than_requested_and_capabilities_are_remarks() -> None:
    def apply_a_rehearsal(events: list[dict[str, Any]]) -> None:
        events[0]["payload"]["requested_mode"] = "dry_run"
        events[1]["payload"] |= {"allowed_modes": ["dry_run", "apply"], "require_adapter_capabilities": ["timeout"]}

    layer = examine(forged(apply_a_rehearsal)).layer(LayerName.AUTHORIZATION)
    satisfied = next(made for made in layer.checks if made.name == "policy_satisfied")
    assert satisfied.ok
    assert "applied what had been requested as dry_run" in str(satisfied.detail)
    assert "required capabilities (timeout)" in str(satisfied.detail)


def test_a_kept_checkpoint_with_the_same_root_passes_and_a_false_one_of_a_size_without_proof_fails() -> None:
    same = parse_note(CASE["log"]["checkpoint"])
    assert log_of(CASE, Knowledge(logs=LogTrust((KEY,), check, (same,)))).outcome is Outcome.PASS
    (line,) = signed(3, "cd" * 32).signatures
    false = SignedNote(signed(3, "cd" * 32).text, (NoteSignature(line.name, line.key_id, b"x" * 64),))
    assert log_of(CASE, Knowledge(logs=LogTrust((KEY,), check, (false,)))).outcome is Outcome.FAIL


# -- witnesses of the log


def cosigned(*notes: NoteSignature, **changes: Any) -> dict[str, Any]:
    note = parse_note(CASE["log"]["checkpoint"])
    return log_forged(checkpoint=note.with_signatures(notes).render(), **changes)


NOTE = parse_note(CASE["log"]["checkpoint"])
WATCHED = Knowledge(logs=LogTrust((KEY, WITNESS), check))


def log_of(case: dict[str, Any], knowledge: Knowledge) -> Layer:
    return examine(case, knowledge).layer(LayerName.LOG)


def test_a_trusted_witness_vouches_for_growth_and_its_time_is_told() -> None:
    assert outcome(examine(CASE, WATCHED), "log") == "INCOMPLETE", "nobody saw it grow"
    layer = log_of(cosigned(cosignature(NOTE, WITNESS, 1_750_000_000)), WATCHED)
    assert layer.outcome is Outcome.PASS
    assert layer.checks[-1].detail == "witness.example.org saw it 2025-06-15T15:06:40+00:00"
    far = log_of(cosigned(cosignature(NOTE, WITNESS, 2**64 - 1)), WATCHED)
    assert far.checks[-1].detail == "witness.example.org saw it 18446744073709551615 seconds after 1970"


def test_a_false_cosignature_fails_the_log() -> None:
    true = cosignature(NOTE, WITNESS, 1_750_000_000)
    false = NoteSignature(true.name, true.key_id, true.signature[:-1] + bytes([true.signature[-1] ^ 1]))
    layer = log_of(cosigned(false), WATCHED)
    assert [made.name for made in layer.checks if not made.ok] == ["cosignatures"]
    assert layer.checks[-1].detail == "the cosignature of witness.example.org is not its signature over this checkpoint"


def test_without_a_log_key_nobody_knows_who_signed_the_checkpoint() -> None:
    layer = log_of(CASE, Knowledge(logs=LogTrust((WITNESS,), check, READER.logs.checkpoints)))
    assert layer.outcome is Outcome.INCOMPLETE
    assert any(gap.what.startswith("who signed the checkpoint") for gap in layer.gaps)


def test_a_false_signature_of_the_log_itself_fails() -> None:
    (line,) = NOTE.signatures
    forged_line = NoteSignature(line.name, line.key_id, b"x" * 64)
    layer = log_of(log_forged(checkpoint=SignedNote(NOTE.text, (forged_line,)).render()), READER)
    (broken,) = (made for made in layer.checks if not made.ok)
    assert broken.detail == f"the signature of {KEY.name} is not its signature over this checkpoint"


def test_a_kept_note_that_is_no_checkpoint_or_of_another_log_fails() -> None:
    note = sign_note("no checkpoint\n", KEY, signer(KEY))
    other = sign_note(Checkpoint("example.org/other", 1, b"r" * 32).text(), KEY, signer(KEY))
    for kept in (note, other):
        assert failed(CASE, Knowledge(logs=LogTrust((KEY,), check, (kept,)))) == ["log"]


def test_several_kept_checkpoints_are_judged_one_by_one() -> None:
    (first,) = READER.logs.checkpoints
    knowledge = Knowledge(logs=LogTrust((KEY,), check, (first, signed(1, "cd" * 32), signed(3, "cd" * 32))))
    layer = log_of(CASE, knowledge)
    assert [(made.name, made.ok) for made in layer.checks[-2:]] == [("extends_checkpoint_1", True), ("extends_checkpoint_2", False)]
    assert any("3" in gap.what for gap in layer.gaps)


def test_actors_without_a_name_have_no_leaf() -> None:
    case = copy.deepcopy(CASE)
    del events_of(case["package"])[0]["actor"]["id"]
    assert outcome(examine(case, READER), "log") == "FAIL"


def test_a_witness_proof_that_nobody_can_check_is_no_pass_and_one_that_is_judged_counts() -> None:
    case = {**CASE, "witness": [{"proof": 1}]}
    assert [gap.what for gap in examine(case).layer(LayerName.WITNESS).gaps] == ["the witness proofs were not checked"]

    def judge_it(overlays: Any, binding_digest: str) -> Any:
        assert (overlays, binding_digest) == (({"proof": 1},), CASE["package"]["integrity"]["binding_digest"])
        return [VerificationCheck("ledger", ok=True)], []

    assert examine(case, Knowledge(witness=judge_it)).layer(LayerName.WITNESS).outcome is Outcome.PASS


def envelope(**changes: Any) -> dict[str, Any]:
    statement: dict[str, Any] = json.loads(statement_payload(CaseFile.from_dict(CASE)))
    payload = json.dumps({**statement, **changes}).encode()
    encoded = base64.b64encode(payload).decode()
    return {"payloadType": "application/vnd.in-toto+json", "payload": encoded, "signatures": [{"keyid": "k", "sig": "AAAA"}]}


def test_an_envelope_that_nobody_checks_is_incomplete_and_its_subject_is_compared() -> None:
    report = examine(envelope())
    assert (report.kind, outcome(report, "signatures")) == ("sealed_case", "INCOMPLETE")
    assert "who signed the envelope was not checked" in [gap.what for gap in report.layer(LayerName.SIGNATURES).gaps]
    other = envelope(subject=[{"name": "x", "digest": {"sha256": "0" * 64}}])
    assert [made.name for made in examine(other).layers[0].checks if not made.ok] == ["subject"]


@pytest.mark.parametrize(
    "document",
    [
        {**envelope(), "payloadType": "application/json"},
        {**envelope(), "payload": "?"},
        {**envelope(), "signatures": []},
        {**envelope(), "signatures": [{"keyid": "k", "sig": "\u00fc"}]},
        {**envelope(), "signatures": [{"keyid": "k", "sig": "AAAA"}] * 101},
        envelope(_type="https://in-toto.io/Statement/v0.1"),
        envelope(predicateType="urn:other"),
        envelope(subject=[]),
        envelope(predicate={"control_bundle": {}}),
        envelope(predicate=None),
    ],
)
def test_an_envelope_around_something_else_is_refused(document: dict[str, Any]) -> None:
    report = examine(document)
    assert (report.kind, [name.value for name in report.failed]) == ("unknown", ["integrity"])


def test_extensions_survive_reading_and_writing() -> None:
    case = CaseFile.from_dict({**CASE, "extensions": {"note": "x"}})
    assert case.to_dict()["extensions"] == {"note": "x"}


# -- files that are made to confuse or to exhaust a reader


@pytest.mark.parametrize(
    "case",
    [
        {**CASE, "critical": ["quantum"]},
        {**CASE, "unknown": 1},
        {**CASE, "case_version": "2"},
        {**CASE, "case_version": 1},
        {**CASE, "critical": "quantum"},
        {**CASE, "log": {**CASE["log"], "unknown": 1}},
        {**CASE, "log": {key: value for key, value in CASE["log"].items() if key != "proof"}},
        {**CASE, "trust": {"digest": "sha256:x", "unknown": 1}},
        log_forged(positions=CASE["log"]["positions"][::-1]),
        log_forged(positions=[True] * 7),
        log_forged(proof=["0" * 63]),
        log_forged(prev_hash="A" * 64),
        log_forged(generation=0),
        log_forged(consistency=[{"size": 1, "proof": []}] * 2),
        log_forged(consistency=[{"size": -1, "proof": []}]),
        {"case_version": "1"},
    ],
)
def test_a_case_file_that_is_not_understood_completely_is_refused(case: dict[str, Any]) -> None:
    report = examine(case, READER)
    assert report.kind == "unknown"
    assert [name.value for name in report.failed] == ["integrity"]
    assert all(layer.outcome.value == "INCOMPLETE" for layer in report.layers[1:])


def test_extensions_that_are_not_critical_are_carried() -> None:
    assert examine({**CASE, "extensions": {"note": "x"}, "critical": []}, READER).ok


def test_equal_keys_are_refused() -> None:
    text = json.dumps(CASE).replace('"case_version": "1"', '"case_version": "1", "case_version": "1"')
    assert examine(text).kind == "unknown"


@pytest.mark.parametrize("text", [b"[" * 10_000, b'{"a":' * 10_000, b"[" * 10_000 + b"]" * 10_000, b"[]," * 67_000_000])
def test_deep_and_huge_files_are_refused_quickly(text: bytes) -> None:
    start = time.process_time()
    assert examine(text).kind == "unknown"
    assert time.process_time() - start < 5


def test_many_runs_are_judged_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.history._MOST_STEPS", 20)

    def fail_often(events: list[dict[str, Any]]) -> None:
        ended = {"type": "EXECUTION_FAILED", "ts": LATE, "actor": events[-1]["actor"], "payload": {"error_code": "X"}}
        run = [*copy.deepcopy(events[PLACE_OF_RUN : PLACE_OF_RUN + 2]), ended]
        events[PLACE_OF_RUN:PLACE_OF_RUN] = [copy.deepcopy(event) for _ in range(5) for event in run]

    report = examine(forged(fail_often))
    assert outcome(report, "authorization") == "INCOMPLETE"
    (gap,) = report.layers[1].gaps
    assert gap.what == "the first 5 of 6 runs were not judged"
    assert report.layers[2].gaps[0].what == "who said what of the first 5 of 6 runs was not judged"


def test_a_case_file_of_a_typical_decision_is_small() -> None:
    slim = copy.deepcopy(CASE)
    slim["package"]["router"] = {"mode": "reference", "ref": {"run_id": "r", "digest": "sha256:" + "0" * 64}}
    assert len(json.dumps(slim, indent=2)) <= 40_000
