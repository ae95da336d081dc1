import tomllib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from store_testing import ALICE, BOB, CAROL, ROBOT, new_store

from nexus_attest import ed25519
from nexus_attest.key_errors import (
    ActorNotTrusted,
    AssuranceTooLow,
    KeyExpired,
    KeyNotYetValid,
    KeyOfOtherActor,
    KeyRetired,
    KeyUnknown,
    SelfApproval,
    SignatureFromFuture,
    SignatureInvalid,
    TrustInvalid,
)
from nexus_attest.keys import LocalKey
from nexus_attest.signer import sign_statement
from nexus_attest.trust import AttestorKey, Ledger, PublicKey, Rule, TrustedActor, TrustPolicy
from nexus_attest.trust_file import parse_trust
from nexus_control.checkpoint import parse_note_key
from nexus_control.decision import Decision
from nexus_control.errors import IdentityRefused
from nexus_control.events import Actor, EventType
from nexus_control.identity import Act, Action, Identity, Statement, parse_envelope
from nexus_control.integrity import prefixed
from nexus_control.tool import NexusControlTools, ToolResult

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
KEY = LocalKey(bytes(range(32)))
OTHER = LocalKey(bytes(32))


def key_of(key: LocalKey, **changes: Any) -> PublicKey:
    values: dict[str, Any] = {"key_id": key.key_id, "public_key": key.public_key, **changes}
    return PublicKey(**values)


def policy(*rules: Rule, **limits: Any) -> TrustPolicy:
    """Alice with KEY, Bob with OTHER, and a system without a key."""
    actors = (TrustedActor(ALICE, (key_of(KEY, **limits),)), TrustedActor(BOB, (key_of(OTHER),)), TrustedActor(ROBOT))
    return TrustPolicy(actors=actors, rules=rules)


def act(
    actor: Actor = ALICE, *, signed_by: LocalKey | None = None, key_id: str | None = None, signed_at: datetime = NOW, **changes: Any
) -> Act:
    identity = Identity(changes.pop("assurance", None))
    if signed_by is not None:
        said = Statement(
            action="approve", decision_id="d", action_digest="sha256:" + "0" * 64, actor=actor, signed_at=signed_at.isoformat()
        )
        envelope = sign_statement(said, signed_by)
        if key_id is not None:
            envelope["signatures"][0]["keyid"] = key_id
        identity = Identity("signed", None, parse_envelope(envelope))
    values: dict[str, Any] = {"action": "approve", "actor": actor, "identity": identity, "at": NOW, **changes}
    return Act(**values)


def test_a_signature_of_the_actors_key_is_believed() -> None:
    policy().judge(act(signed_by=KEY))


REFUSED: dict[str, tuple[type[IdentityRefused], str, TrustPolicy, Act]] = {
    "an unknown key": (KeyUnknown, "KEY_UNKNOWN", TrustPolicy(actors=(TrustedActor(ALICE),)), act(signed_by=KEY)),
    "the key of somebody else": (KeyOfOtherActor, "KEY_OF_OTHER_ACTOR", policy(), act(BOB, signed_by=KEY)),
    "a name of another type": (KeyOfOtherActor, "KEY_OF_OTHER_ACTOR", policy(), act(Actor(type="system", id="alice"), signed_by=KEY)),
    "another key under the same id": (SignatureInvalid, "SIGNATURE_INVALID", policy(), act(signed_by=OTHER, key_id=KEY.key_id)),
    "a key that is not valid yet": (KeyNotYetValid, "KEY_NOT_YET_VALID", policy(not_before=NOW + DAY), act(signed_by=KEY)),
    "an expired key": (KeyExpired, "KEY_EXPIRED", policy(not_after=NOW), act(signed_by=KEY)),
    "a retired key": (KeyRetired, "KEY_RETIRED", policy(retired_at=NOW), act(signed_by=KEY)),
    "a retired and expired key": (KeyRetired, "KEY_RETIRED", policy(retired_at=NOW, not_after=NOW), act(signed_by=KEY)),
    "a date before the key began": (KeyNotYetValid, "KEY_NOT_YET_VALID", policy(not_before=NOW), act(signed_by=KEY, signed_at=NOW - DAY)),
    "a date before the retirement, recorded after it": (
        KeyRetired,
        "KEY_RETIRED",
        policy(retired_at=NOW - DAY),
        act(signed_by=KEY, signed_at=NOW - 2 * DAY),
    ),
    "a date before the expiry, recorded after it": (
        KeyExpired,
        "KEY_EXPIRED",
        policy(not_after=NOW - DAY),
        act(signed_by=KEY, signed_at=NOW - 2 * DAY),
    ),
    "a date in the future": (
        SignatureFromFuture,
        "SIGNATURE_FROM_FUTURE",
        policy(),
        act(signed_by=KEY, signed_at=NOW + timedelta(minutes=5, seconds=1)),
    ),
    "an approval by a stranger": (ActorNotTrusted, "ACTOR_NOT_TRUSTED", policy(), act(CAROL)),
    "an approval that the rules leave to others": (
        ActorNotTrusted,
        "ACTOR_NOT_TRUSTED",
        policy(Rule(actions=frozenset({"approve"}), actors=frozenset({("human", "bob")}))),
        act(),
    ),
    "a name where a signature is due": (
        AssuranceTooLow,
        "ASSURANCE_TOO_LOW",
        policy(Rule(actions=frozenset({"approve"}), assurance="signed")),
        act(assurance="authenticated"),
    ),
    "a bare name where a token is due": (
        AssuranceTooLow,
        "ASSURANCE_TOO_LOW",
        policy(Rule(actions=frozenset({"approve"}), assurance="authenticated")),
        act(),
    ),
    "an approval of one's own request": (
        SelfApproval,
        "SELF_APPROVAL",
        policy(Rule(actions=frozenset({"approve"}), self_approval=False)),
        act(requester=Actor(type="system", id="alice")),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_believed_is_refused_with_its_own_code(name: str) -> None:
    kind, code, trust, deed = REFUSED[name]
    with pytest.raises(IdentityRefused) as caught:
        trust.judge(deed)
    assert (type(caught.value), caught.value.code) == (kind, code)


def test_the_limits_of_a_key_are_where_they_say() -> None:
    tick = timedelta(microseconds=1)
    policy(not_before=NOW, not_after=NOW + tick, retired_at=NOW + tick).judge(act(signed_by=KEY))


def test_a_clock_may_be_five_minutes_ahead() -> None:
    policy().judge(act(signed_by=KEY, signed_at=NOW + timedelta(minutes=5)))


@pytest.mark.parametrize("year", [1, 9999])
def test_the_ends_of_time_are_no_exception(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    policy().judge(act(signed_by=KEY, signed_at=end, at=end))
    with pytest.raises(SignatureFromFuture):
        policy().judge(act(signed_by=KEY, signed_at=datetime(9999, 12, 31, tzinfo=UTC), at=datetime(1, 1, 1, tzinfo=UTC)))


def test_what_was_signed_and_recorded_before_a_retirement_stays_believed() -> None:
    policy(retired_at=NOW + DAY).judge(act(signed_by=KEY))


def test_a_rule_holds_for_its_labels_its_templates_or_everything() -> None:
    approve: frozenset[Action] = frozenset({"approve"})
    everywhere = Rule(actions=approve)
    prod = Rule(actions=approve, labels=frozenset({"prod", "eu"}), templates=frozenset({"rotate"}))
    assert everywhere.holds_for(act())
    assert not everywhere.holds_for(act(action="execute"))
    assert prod.holds_for(act(labels=frozenset({"prod", "x"})))
    assert prod.holds_for(act(template="rotate"))
    assert not prod.holds_for(act(labels=frozenset({"rotate"}), template="prod"))
    assert not prod.holds_for(act())


def test_every_rule_that_holds_must_be_satisfied() -> None:
    approve: frozenset[Action] = frozenset({"approve"})
    rules = (Rule(actions=approve), Rule(actions=approve, labels=frozenset({"prod"}), assurance="signed"))
    policy(*rules).judge(act())
    with pytest.raises(AssuranceTooLow):
        policy(*rules).judge(act(labels=frozenset({"prod"})))
    policy(*rules).judge(act(signed_by=KEY, labels=frozenset({"prod"})))


def test_strangers_may_request_and_execute_unless_a_rule_says_otherwise() -> None:
    for action in ("request", "execute", "revoke"):
        policy().judge(act(CAROL, action=action))
        with pytest.raises(ActorNotTrusted):
            policy(Rule(actions=frozenset({action}), actors=frozenset())).judge(act(CAROL, action=action))


def test_only_approvals_are_tied_to_the_requester() -> None:
    rule = Rule(actions=frozenset({"approve", "execute"}), self_approval=False)
    policy(rule).judge(act(action="execute", requester=ALICE))
    policy(rule).judge(act(requester=BOB))
    policy(rule).judge(act(requester=None))


def test_where_requesters_must_not_approve_an_imported_request_needs_signed_approvals() -> None:
    rule = Rule(actions=frozenset({"approve"}), self_approval=False)
    rule.judge(act(requester=BOB))
    rule.judge(act(requester=BOB, imported=True, signed_by=KEY))
    with pytest.raises(SelfApproval, match="it was imported"):
        rule.judge(act(requester=BOB, imported=True))


def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trust = policy()
    asked: list[bytes] = []
    real = ed25519.verify

    def counted(public_key: bytes, message: bytes, signature: bytes) -> bool:
        asked.append(signature)
        return real(public_key, message, signature)

    monkeypatch.setattr(ed25519, "verify", counted)
    good, bad = act(signed_by=KEY), act(signed_by=OTHER, key_id=KEY.key_id)
    for _ in range(3):
        trust.judge(good)
        with pytest.raises(SignatureInvalid):
            trust.judge(bad)
    assert len(asked) == 2


def test_a_signature_that_was_found_valid_is_so_for_its_own_statement_and_key_alone() -> None:
    trust = policy()
    good = act(signed_by=KEY)
    trust.judge(good)
    envelope = good.identity.envelope
    assert envelope is not None
    other = act(signed_by=KEY, signed_at=NOW - DAY).identity.envelope
    assert other is not None
    moved = type(envelope)(other.statement, other.payload, envelope.key_id, envelope.signature)
    with pytest.raises(SignatureInvalid):
        trust.judge(act(signed_at=NOW - DAY, identity=Identity("signed", None, moved)))
    assert not trust.verifies(OTHER.public_key, envelope.signed_bytes, envelope.signature)
    assert trust.verifies(KEY.public_key, envelope.signed_bytes, envelope.signature)


def test_what_is_remembered_of_signatures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_attest.trust._REMEMBERED_CHECKS", 2)
    trust = policy()
    for minute in range(5):
        trust.judge(act(signed_by=KEY, signed_at=NOW - timedelta(minutes=minute)))
    assert len(trust._checked) <= 2  # pyright: ignore[reportPrivateUsage]


def test_an_actor_or_a_key_id_that_comes_twice_is_refused() -> None:
    with pytest.raises(TrustInvalid):
        TrustPolicy(actors=(TrustedActor(ALICE), TrustedActor(ALICE)))
    with pytest.raises(TrustInvalid):
        TrustPolicy(actors=(TrustedActor(ALICE, (key_of(KEY),)), TrustedActor(BOB, (key_of(KEY),))))


def test_the_digest_is_that_of_the_content_and_frozen() -> None:
    rule = Rule(actions=frozenset({"revoke", "approve"}), labels=frozenset({"prod"}), actors=frozenset({("human", "alice")}))
    trust = TrustPolicy(
        name="production",
        actors=(TrustedActor(BOB), TrustedActor(ALICE, (key_of(KEY, not_after=NOW),))),
        rules=(rule,),
        log_keys=(parse_note_key("example.com/log+cc714670+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"),),
        attestors=(AttestorKey("release-bot", key_of(OTHER, key_id="k1")),),
        ledgers=(Ledger("xrpl.testnet", ("rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe",)),),
    )
    assert trust.to_dict() == {
        "v": 1,
        "name": "production",
        "actors": [
            {
                "type": "human",
                "id": "alice",
                "keys": [{"id": KEY.key_id, "public_key": KEY.public_key.hex(), "not_after": "2026-06-01T00:00:00+00:00"}],
            },
            {"type": "human", "id": "bob", "keys": []},
        ],
        "rules": [
            {
                "actions": ["approve", "revoke"],
                "labels": ["prod"],
                "templates": [],
                "assurance": "asserted",
                "actors": ["human:alice"],
                "self_approval": True,
            }
        ],
        "log_keys": ["example.com/log+cc714670+AddamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"],
        "attestors": [{"attestor": "release-bot", "id": "k1", "public_key": OTHER.public_key.hex()}],
        "ledgers": [{"network": "xrpl.testnet", "accounts": ["rPT1Sjq2YGrBMTttX4GZHjKu9dyfzbpAYe"], "publisher_keys": []}],
    }
    assert trust.digest == "sha256:edc6e1f8036514b58927aae17613f4066a513da7016660a293cbf62f2dc83667"
    assert TrustPolicy().digest != trust.digest


# -- through the tools ------------------------------------------------------------------------------------------------------------


class Router:
    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "r", "steps_executed": 1}

    def get_adapter_capabilities(self, adapter_id: str) -> None:
        del adapter_id


PROD = """
version = 1
[[actors]]
id = "alice"
[[actors.keys]]
public_key = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
[[actors]]
id = "bob"
[[rules]]
labels = ["prod"]
assurance = "signed"
"""


class Case:
    """A request of `bob`, for `alice` to approve under a trust policy that wants signatures for `prod`."""

    def __init__(self, toml: str = PROD, labels: tuple[str, ...] = ("prod",), now: datetime = NOW) -> None:
        self.store = new_store(clock=lambda: now)
        self.tools = NexusControlTools(self.store, trust=parse_trust(tomllib.loads(toml)))
        self.id: str = self.tools.request("rotate", BOB, labels=list(labels)).data["request_id"]

    def envelope(self, key: LocalKey = KEY, **changes: Any) -> dict[str, Any]:
        decision = Decision.load(self.store, self.id)
        values: dict[str, Any] = {
            "action": "approve",
            "decision_id": self.id,
            "action_digest": prefixed(decision.action_digest),
            "actor": ALICE,
            "signed_at": NOW.isoformat(),
        }
        return sign_statement(Statement(**{**values, **changes}), key)

    def approve(self, signature: dict[str, Any] | None = None) -> ToolResult:
        return self.tools.approve(self.id, ALICE, signature=signature)

    def execute(self) -> ToolResult:
        return self.tools.execute(self.id, "a", BOB, Router())


def test_a_signed_approval_makes_an_action_executable_that_a_name_does_not() -> None:
    assert KEY.public_key == bytes.fromhex("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
    case = Case()
    assert case.approve().code == "ASSURANCE_TOO_LOW"
    assert case.execute().code == "POLICY_VALIDATION_FAILED"
    assert case.approve(case.envelope()).success
    assert case.execute().success


def test_a_name_is_enough_where_no_rule_asks_for_more() -> None:
    case = Case(labels=())
    assert case.approve().success
    assert case.execute().success


@pytest.mark.parametrize("stripped", [("signature", "assurance"), ("signature", "assurance", "channel")])
def test_a_stored_approval_without_its_signature_is_a_name_and_does_not_count(stripped: tuple[str, ...]) -> None:
    case = Case()
    assert case.tools.approve(case.id, ALICE, channel="cli", signature=case.envelope()).success
    payload = {key: value for key, value in case.store.get_events(case.id)[-1].payload.items() if key not in stripped}
    copy = Case()
    copy.store.append_event(copy.id, EventType.APPROVAL_GRANTED, ALICE, payload)
    assert "ASSURANCE_TOO_LOW" in (copy.execute().error or "")


def test_a_key_that_was_swapped_for_one_with_the_same_id_signs_nothing() -> None:
    case = Case()
    forged = case.envelope(OTHER)
    forged["signatures"][0]["keyid"] = KEY.key_id
    assert case.approve(forged).code == "SIGNATURE_INVALID"


def test_a_signature_whose_scalar_was_not_reduced_is_refused() -> None:
    case = Case()
    envelope = parse_envelope(case.envelope())
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(envelope.signature[32:], "little") + order
    forged = type(envelope)(envelope.statement, envelope.payload, envelope.key_id, envelope.signature[:32] + scalar.to_bytes(32, "little"))
    assert case.approve(forged.to_dict()).code == "SIGNATURE_INVALID"


def test_an_approval_by_a_key_that_expired_since_still_counts_and_one_by_a_key_that_was_expired_then_never_did() -> None:
    expiring = PROD.replace('Mbg="', 'Mbg="\nnot_after = 2026-06-01T12:00:00Z')
    after = NOW + DAY
    case = Case(expiring)
    assert case.approve(case.envelope()).success
    case.store.clock = lambda: after
    assert case.execute().success
    late = Case(expiring, now=after)
    assert late.approve(late.envelope()).code == "KEY_EXPIRED"


def test_trust_that_is_withdrawn_after_an_approval_withdraws_the_approval() -> None:
    case = Case()
    assert case.approve(case.envelope()).success
    stricter = NexusControlTools(case.store, trust=parse_trust(tomllib.loads(PROD.replace('id = "alice"', 'id = "carol"'))))
    assert "KEY_OF_OTHER_ACTOR" in (stricter.execute(case.id, "a", BOB, Router()).error or "")
    nobody = NexusControlTools(case.store, trust=TrustPolicy())
    assert "KEY_UNKNOWN" in (nobody.execute(case.id, "a", BOB, Router()).error or "")
