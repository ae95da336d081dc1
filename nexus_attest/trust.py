"""Whom to believe: the actors, keys, groups and rules of a trust policy, and their judgement of single acts.

One file drives both sides: whoever decides (server, command line) refuses acts that it does not believe, and whoever verifies counts
only what it believes. What is judged is who said something and how strongly that is established; how many approvals an action
needs is the matter of its own policy.

A judgement reads nothing but the policy and the act: no clock, no I/O. Validity of a key is asked at both times, when the statement says
that it was signed and when it was recorded, because the first is the signer's word and the second the operator's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, TypeAlias, get_args

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
from nexus_control.checkpoint import NoteKey
from nexus_control.events import Actor
from nexus_control.identity import Act, Action, Assurance, Envelope
from nexus_control.integrity import content_digest, prefixed

__all__ = [
    "CLOCK_TOLERANCE",
    "POLICY_VERSION",
    "ActorName",
    "AttestorKey",
    "Authority",
    "Ledger",
    "LedgerLevel",
    "PublicKey",
    "Rule",
    "TrustPolicy",
    "TrustedActor",
    "name_of",
]

POLICY_VERSION = 1

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far the clock of a signer may be ahead of the one that records."""

_STRENGTH: dict[Assurance, int] = {assurance: rank for rank, assurance in enumerate(get_args(Assurance))}
_REMEMBERED_CHECKS = 10_000

LedgerLevel: TypeAlias = Literal["server", "tree", "quorum"]
"""What a proof of a ledger transaction shows, weakest first: a server's word, bytes under a header that a server gave, enough votes."""

ActorName = tuple[str, str]
"""Type and id of an actor."""


def name_of(actor: Mapping[str, str]) -> ActorName:
    """The actor as a value that sets can hold."""
    return actor["type"], actor["id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A 32-byte Ed25519 public key and when it is valid: from `not_before`, until before `not_after` and `retired_at`.

    None is no limit. Retirement is an expiry that was decided later; what was signed before it stays believed.
    """

    key_id: str
    public_key: bytes = field(repr=False)
    not_before: datetime | None = None
    not_after: datetime | None = None
    retired_at: datetime | None = None

    def require_valid(self, at: datetime, what: str) -> None:
        """Raise KeyNotYetValid, KeyRetired or KeyExpired when the key was not valid at the instant `at`."""
        if self.not_before is not None and at < self.not_before:
            raise KeyNotYetValid(f"key {self.key_id} is valid from {_text(self.not_before)}; it was {what} at {_text(at)}")
        if self.retired_at is not None and at >= self.retired_at:
            raise KeyRetired(f"key {self.key_id} was retired at {_text(self.retired_at)}; it was {what} at {_text(at)}")
        if self.not_after is not None and at >= self.not_after:
            raise KeyExpired(f"key {self.key_id} expired at {_text(self.not_after)}; it was {what} at {_text(at)}")

    def to_dict(self) -> dict[str, Any]:
        """The key as JSON data, public key in hex, limits only when there are any."""
        limits = {"not_before": self.not_before, "not_after": self.not_after, "retired_at": self.retired_at}
        given = {name: _text(limit) for name, limit in limits.items() if limit is not None}
        return {"id": self.key_id, "public_key": self.public_key.hex(), **given}


@dataclass(frozen=True, slots=True)
class TrustedActor:
    """An actor whom the policy knows, with the keys that sign in that name."""

    actor: Actor
    keys: tuple[PublicKey, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The actor as JSON data."""
        return {"type": self.actor.type, "id": self.actor.id, "keys": [key.to_dict() for key in self.keys]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What some decisions want of those who act on them.

    Holds for decisions with any of `labels` or made from any of `templates`, and for all decisions when it names neither; for each
    of `actions`. `assurance` is the least that it takes, `actors` who may (None: everybody). Without `self_approval` nobody
    may approve what the same actor requested; who requested what was imported is not known, so only signed approvals will do there.
    """

    actions: frozenset[Action]
    labels: frozenset[str] = frozenset()
    templates: frozenset[str] = frozenset()
    assurance: Assurance = "asserted"
    actors: frozenset[ActorName] | None = None
    self_approval: bool = True

    def holds_for(self, act: Act) -> bool:
        """Whether the rule is about this act."""
        if act.action not in self.actions:
            return False
        everywhere = not self.labels and not self.templates
        return everywhere or not self.labels.isdisjoint(act.labels) or act.template in self.templates

    def judge(self, act: Act) -> None:
        """Raise what the act lacks."""
        if self.actors is not None and name_of(act.actor) not in self.actors:
            raise ActorNotTrusted(f"{act.actor.type} {act.actor.id} is not among those who may {act.action} here")
        if not self.self_approval and act.action == "approve":
            _require_another(act)
        if _STRENGTH[act.identity.assurance] < _STRENGTH[self.assurance]:
            raise AssuranceTooLow(f"to {act.action} this, an actor must be {self.assurance}; {act.actor.id} is {act.identity.assurance}")

    def to_dict(self) -> dict[str, Any]:
        """The rule as JSON data; groups are resolved into their members."""
        return {
            "actions": sorted(self.actions),
            "labels": sorted(self.labels),
            "templates": sorted(self.templates),
            "assurance": self.assurance,
            "actors": None if self.actors is None else [f"{kind}:{name}" for kind, name in sorted(self.actors)],
            "self_approval": self.self_approval,
        }


def _require_another(act: Act) -> None:
    """Raise SelfApproval unless somebody else requested what this act approves."""
    if act.requester is not None and act.requester.id == act.actor.id:
        raise SelfApproval(f"{act.actor.id} requested this and may not approve it")
    if act.imported and act.identity.assurance != "signed":
        raise SelfApproval(f"it was imported, so nobody knows here that {act.actor.id} did not request it; the approval must be signed")


@dataclass(frozen=True, slots=True)
class AttestorKey:
    """Somebody whose attestations are believed, with one key."""

    attestor_id: str
    key: PublicKey

    def to_dict(self) -> dict[str, Any]:
        """The attestor as JSON data."""
        return {"attestor": self.attestor_id, **self.key.to_dict()}


@dataclass(frozen=True, slots=True)
class Ledger:
    """A ledger network: the accounts whose transactions are witnesses, and the master keys of validator list publishers (capital hex).

    One publisher's list is enough, or with `all_publishers` each of them must show it. `level` is the least that a proof must show.
    Without accounts it is not known who may witness.
    """

    network: str
    accounts: tuple[str, ...]
    publisher_keys: tuple[str, ...] = ()
    all_publishers: bool = False
    level: LedgerLevel = "quorum"

    def to_dict(self) -> dict[str, Any]:
        """The ledger as JSON data; what is as usual is left out."""
        data: dict[str, Any] = {"network": self.network, "accounts": list(self.accounts), "publisher_keys": list(self.publisher_keys)}
        if self.all_publishers:
            data["publishers"] = "all"
        return data if self.level == "quorum" else {**data, "level": self.level}


@dataclass(frozen=True, slots=True)
class Authority:
    """A time-stamp authority, and what its certificates must lead to: `certificates` in DER, roots or the authority's own.

    `policies` are object identifiers in dots; an authority is believed for time-stamps of these, or of any when there are none.
    """

    name: str
    certificates: tuple[bytes, ...] = field(repr=False)
    policies: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The authority as JSON data; certificates by the SHA-256 of their DER, in hex."""
        return {
            "name": self.name,
            "certificates": [sha256(certificate).hexdigest() for certificate in self.certificates],
            "policies": list(self.policies),
        }


@dataclass(frozen=True, kw_only=True)
class TrustPolicy:
    """A trust policy, as `nexus_attest.trust_file` reads it. Implements `nexus_control.identity.Trust`.

    Raises TrustInvalid for an actor or a key id that comes twice. `digest` covers what the policy says, not how its file is written.
    """

    name: str | None = None
    actors: tuple[TrustedActor, ...] = ()
    rules: tuple[Rule, ...] = ()
    log_keys: tuple[NoteKey, ...] = ()
    attestors: tuple[AttestorKey, ...] = ()
    ledgers: tuple[Ledger, ...] = ()
    authorities: tuple[Authority, ...] = ()
    _checked: dict[tuple[bytes, bytes, bytes], bool] = field(
        default_factory=dict[tuple[bytes, bytes, bytes], bool], init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if len(self._known) != len(self.actors):
            raise TrustInvalid(["an actor comes twice"])
        if len(self._keys) != sum(len(trusted.keys) for trusted in self.actors):
            raise TrustInvalid(["a key id comes twice"])

    @cached_property
    def _keys(self) -> dict[str, tuple[ActorName, PublicKey]]:
        return {key.key_id: (name_of(trusted.actor), key) for trusted in self.actors for key in trusted.keys}

    @cached_property
    def _known(self) -> frozenset[ActorName]:
        return frozenset(name_of(trusted.actor) for trusted in self.actors)

    def judge(self, act: Act) -> None:
        """Raise a subclass of IdentityRefused unless the act is believed.

        A signature must be that of a key of its actor, valid when it was signed and when it was recorded. Approvals count only when
        they come from an actor whom the policy lists. Every rule that holds for the act must be satisfied.
        """
        if act.identity.envelope is not None:
            self._judge_signature(act, act.identity.envelope)
        if act.action == "approve" and name_of(act.actor) not in self._known:
            raise ActorNotTrusted(f"the trust policy does not know {act.actor.type} {act.actor.id}")
        for rule in self.rules:
            if rule.holds_for(act):
                rule.judge(act)

    def _judge_signature(self, act: Act, envelope: Envelope) -> None:
        if envelope.key_id not in self._keys:
            raise KeyUnknown(f"the trust policy has no key {envelope.key_id:.80}")
        owner, key = self._keys[envelope.key_id]
        if owner != name_of(act.actor):
            raise KeyOfOtherActor(f"key {key.key_id} does not belong to {act.actor.type} {act.actor.id}")
        if not self.verifies(key.public_key, envelope.signed_bytes, envelope.signature):
            raise SignatureInvalid(f"the signature was not made with key {key.key_id}")
        signed_at = envelope.statement.signed_instant
        if signed_at - act.at > CLOCK_TOLERANCE:  # unlike the sum, the difference exists for every two times
            raise SignatureFromFuture(f"it says that it was signed at {_text(signed_at)}, and it was recorded at {_text(act.at)}")
        key.require_valid(signed_at, "used")
        key.require_valid(act.at, "recorded")

    def verifies(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        """`ed25519.verify`, once per distinct signature as long as the policy object lives."""
        question = public_key, sha256(message).digest(), signature
        found = self._checked.get(question)
        if found is None:
            if len(self._checked) >= _REMEMBERED_CHECKS:
                self._checked.clear()
            found = self._checked[question] = ed25519.verify(public_key, message, signature)
        return found

    @cached_property
    def digest(self) -> str:
        """Prefixed digest of `to_dict()`."""
        return prefixed(content_digest(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """All that the policy says, as JSON data; whatever has no order of its own is sorted. `authorities` only when there are any."""
        data: dict[str, Any] = {
            "v": POLICY_VERSION,
            "name": self.name,
            "actors": sorted((trusted.to_dict() for trusted in self.actors), key=lambda actor: (actor["type"], actor["id"])),
            "rules": [rule.to_dict() for rule in self.rules],
            "log_keys": sorted(key.text() for key in self.log_keys),
            "attestors": [attestor.to_dict() for attestor in self.attestors],
            "ledgers": [ledger.to_dict() for ledger in self.ledgers],
        }
        if self.authorities:
            data["authorities"] = [authority.to_dict() for authority in self.authorities]
        return data


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()
