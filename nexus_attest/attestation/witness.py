"""Proofs that a digest was witnessed, whatever witnessed it: one document, one judgement.

    type            "nexus.witness/1"
    intent          what was to be witnessed (`AttestationIntent.to_dict`); its binding digest is that of the audit package
    receipt         what came of it (`AttestationReceipt.to_dict`); its `backend` says how the evidence is judged
    receipt_digest  of the receipt, prefixed, as narratives name it: damage is noticed in what nothing else covers; may be absent
    evidence        what the witness gave, in the form of that backend; absent when the receipt is all there is

Judging reads nothing but the document and the reader's trust policy: no network, no clock, no file. A backend judges its evidence once,
into a Testimony, however many receipts refer to it. Verdicts of different backends are not ranked against each other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self, TypeAlias, cast

from nexus_attest.attestation.errors import InvalidAttestationRecord, ProofRefused, WitnessMismatch
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.members import members_of
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_attest.trust import TrustPolicy
from nexus_control.integrity import content_digest, digests_equal, prefixed
from nexus_control.layers import Gap, Outcome
from nexus_control.verification import VerificationCheck

__all__ = ["WITNESS_PROOF_TYPE", "EvidenceJudge", "Level", "Testimony", "Verdict", "WitnessJudge", "WitnessProof", "judge_witnesses"]

WITNESS_PROOF_TYPE = "nexus.witness/1"

_MOST_EVIDENCE = 100
"""Pieces that are judged of one case file: each may take a second, and a file of the size that is read has room for ten thousands."""

_TOO_MUCH = Gap(f"evidence of witnesses beyond the first {_MOST_EVIDENCE} pieces was not judged", "a case file with less of it")


class Level(StrEnum):
    """Who must be believed."""

    SELF = "self"
    """Whoever made the file: a demonstration."""

    SERVER = "server"
    """Whoever made the file, and a server that said so."""

    TREE = "tree"
    """The same, about the header of one ledger only: the transaction hashes up to it."""

    QUORUM = "quorum"
    """The pinned publisher of a validator list, and four fifths of its validators."""

    AUTHORITY = "authority"
    """A pinned time-stamping authority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessProof:
    """A proof for one intent. Raises ProofRefused for what is none."""

    intent: AttestationIntent
    receipt: AttestationReceipt
    evidence: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The document."""
        data: dict[str, Any] = {"type": WITNESS_PROOF_TYPE, "intent": self.intent.to_dict(), "receipt": self.receipt.to_dict()}
        data["receipt_digest"] = prefixed(self.receipt.receipt_digest())
        return data if self.evidence is None else {**data, "evidence": self.evidence}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of `to_dict`. Raises ProofRefused, also when intent or receipt are not written in their one form."""
        try:
            members = members_of(data, ProofRefused, required=("type", "intent", "receipt"), optional=("receipt_digest", "evidence"))
            if members["type"] != WITNESS_PROOF_TYPE:
                raise ProofRefused(f"a witness proof of type {members['type']!r:.100}, not {WITNESS_PROOF_TYPE}")
            intent, receipt = AttestationIntent.from_dict(members["intent"]), AttestationReceipt.from_dict(members["receipt"])
        except InvalidAttestationRecord as problem:
            raise ProofRefused(str(problem)) from None
        if intent.to_dict() != members["intent"] or receipt.to_dict() != members["receipt"]:
            raise ProofRefused("intent or receipt are of another version, or not written in their one form")
        if "receipt_digest" in members and members["receipt_digest"] != prefixed(receipt.receipt_digest()):
            raise ProofRefused("receipt_digest is not that of the receipt")
        if "evidence" not in members:
            return cls(intent=intent, receipt=receipt)
        evidence: object = members["evidence"]
        if not isinstance(evidence, dict):
            raise ProofRefused(f"evidence must be an object, got {type(evidence).__name__}")
        return cls(intent=intent, receipt=receipt, evidence=cast("dict[str, Any]", evidence))


def _covers_nothing(_receipt: AttestationReceipt, _intent: AttestationIntent) -> None:
    raise WitnessMismatch("the evidence shows nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Testimony:
    """What a piece of evidence shows by itself, to a reader with a certain trust policy.

    `level` is None when a check failed. `not_after`: what was witnessed existed then (UTC, ISO 8601), `inexact` why that is only about so,
    None where it is not; `by`: who says so, as pinned.
    `gaps`: what it would take to show what the policy demands. `evidence_digest` is the prefixed digest under which a receipt may name
    the evidence among its `evidence_digests`, by the key `evidence_key`. `covers(receipt, intent)` raises WitnessMismatch unless this is
    evidence for this receipt, and for this intent.
    """

    level: Level | None
    checks: Sequence[VerificationCheck] = ()
    gaps: Sequence[Gap] = ()
    by: str | None = None
    not_after: str | None = None
    inexact: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    evidence_digest: str | None = None
    evidence_key: str | None = None
    covers: Callable[[AttestationReceipt, AttestationIntent], None] = _covers_nothing


EvidenceJudge: TypeAlias = Callable[[dict[str, Any] | None, TrustPolicy], Testimony]
"""Judges evidence of one backend; None is the receipt alone. Raises nothing for what it holds: a check has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a witness proof shows; `level` is None when a check failed. The members are those of a Testimony."""

    level: Level | None
    checks: Sequence[VerificationCheck]
    gaps: Sequence[Gap] = ()
    by: str | None = None
    not_after: str | None = None
    inexact: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [check.name for check in self.checks if not check.ok]

    @property
    def outcome(self) -> Outcome:
        """FAIL when a check failed, INCOMPLETE when less was shown than the trust policy demands."""
        if self.failed:
            return Outcome.FAIL
        return Outcome.INCOMPLETE if self.gaps or self.level is None else Outcome.PASS

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON data."""
        return {
            "outcome": self.outcome,
            "level": self.level,
            "by": self.by,
            "not_after": self.not_after,
            "inexact": self.inexact,
            "failed": self.failed,
            "checks": [check.to_dict() for check in self.checks],
            "gaps": [gap.to_dict() for gap in self.gaps],
            "about": dict(self.about),
        }


class WitnessJudge:
    """Judges witness proofs for a reader with this trust policy. Evidence that comes again is judged once.

    `backends` are judges of evidence by the name of their backend, instead of the ones that there are. Of more than `most` pieces of
    evidence, where that is not None, the others are not judged: a gap.
    """

    def __init__(self, trust: TrustPolicy, backends: Mapping[str, EvidenceJudge] | None = None, *, most: int | None = None) -> None:
        self._trust = trust
        self._backends = backends
        self._most = most
        self._judged: dict[tuple[str, str], Testimony] = {}

    def testimony(self, backend: str, evidence: dict[str, Any] | None) -> Testimony:
        """What evidence of a backend shows by itself. For a backend that is not known: a gap."""
        try:
            key = backend, "" if evidence is None else content_digest(evidence)
        except (TypeError, ValueError) as problem:
            return Testimony(level=None, checks=(_failed("form", f"the evidence is no canonical JSON: {problem!s:.200}"),))
        if key not in self._judged:
            if len(self._judged) == self._most:
                return Testimony(level=None, gaps=(_TOO_MUCH,))
            judge = _backend(backend) if self._backends is None else self._backends.get(backend)
            self._judged[key] = _unknown(backend) if judge is None else judge(evidence, self._trust)
        return self._judged[key]

    def judge_evidence(self, backend: str, evidence: dict[str, Any]) -> Verdict:
        """Judge evidence alone: what it shows, whoever's intents that may be."""
        return _verdict(self.testimony(backend, evidence))

    def judge(self, data: object, *, binding_digest: str | None = None) -> Verdict:
        """Judge a witness proof; with `binding_digest` (prefixed) it must be one for this package."""
        try:
            proof = WitnessProof.from_dict(data)
        except ProofRefused as problem:
            return Verdict(level=None, checks=(_failed("form", str(problem)),))
        return self.judge_proof(proof, binding_digest=binding_digest)

    def judge_proof(self, proof: WitnessProof, *, binding_digest: str | None = None) -> Verdict:
        """The same for a proof that was read."""
        testimony = self.testimony(proof.receipt.backend, proof.evidence)
        checks = list(testimony.checks)
        if testimony.level is not None:
            checks += _evidence_checks(proof.receipt, testimony)
            checks.append(_receipt_check(proof, testimony))
        if binding_digest is not None:
            checks.append(_subject_check(proof.intent.binding_digest, binding_digest))
        subject = {"binding_digest": proof.intent.binding_digest, "intent_digest": proof.receipt.intent_digest}
        return _verdict(replace(testimony, checks=tuple(checks), about={**subject, **testimony.about}))


def _verdict(testimony: Testimony) -> Verdict:
    return Verdict(
        level=testimony.level if all(check.ok for check in testimony.checks) else None,
        checks=testimony.checks,
        gaps=testimony.gaps,
        by=testimony.by,
        not_after=testimony.not_after,
        inexact=testimony.inexact,
        about=testimony.about,
    )


def judge_witnesses(trust: TrustPolicy, proofs: Sequence[dict[str, Any]], binding_digest: str) -> tuple[list[VerificationCheck], list[Gap]]:
    """Judge the witness proofs of a case file, whose package has this binding digest (prefixed).

    One proof that shows what the policy demands is enough: what others lack is then only told. What is wrong in any of them fails, and so
    what was not judged at all is a gap in any case.
    """
    judge = WitnessJudge(trust, most=_MOST_EVIDENCE)
    verdicts = [judge.judge(proof, binding_digest=binding_digest) for proof in proofs]
    enough = any(verdict.level is not None and not verdict.gaps for verdict in verdicts)
    checks: list[VerificationCheck] = []
    gaps: list[Gap] = []
    for number, verdict in enumerate(verdicts, 1):
        suffix = "" if len(verdicts) == 1 else f"_{number}"
        checks += [VerificationCheck(check.name + suffix, check.ok, check.expected, check.actual, check.detail) for check in verdict.checks]
        gaps += [gap for gap in verdict.gaps if gap not in gaps and (gap is _TOO_MUCH or not enough)]
    return checks, gaps


def _backend(name: str) -> EvidenceJudge | None:
    """The judge of a backend, loaded when it is needed."""
    if name == "xrpl":
        from nexus_attest.attestation.xrpl.proof_check import judge_evidence  # which most readers do without

        return judge_evidence
    if name == "tsa":
        from nexus_attest.attestation.tsa.judge import judge_evidence as judge_timestamps  # as above

        return judge_timestamps
    if name == "self":
        from nexus_attest.attestation.local_witness import judge_evidence as judge_stamps  # as above

        return judge_stamps
    return None


def _unknown(backend: str) -> Testimony:
    gap = Gap(f"how evidence of the backend {backend!r:.80} is judged is not known here", "a release that knows it")
    return Testimony(level=None, gaps=(gap,))


def _evidence_checks(receipt: AttestationReceipt, testimony: Testimony) -> list[VerificationCheck]:
    """The evidence is the one that the receipt names. A receipt that was written before there was enough may have better evidence."""
    named = None if testimony.evidence_key is None else receipt.evidence_digests.get(testimony.evidence_key)
    if named is None or testimony.evidence_digest is None:
        return []
    same = digests_equal(named, testimony.evidence_digest)
    if not same and testimony.level is Level.QUORUM and receipt.proof.get("level") in (Level.SERVER, Level.TREE):
        detail = "the evidence was made after the receipt, and shows more than it says"
        return [VerificationCheck("evidence_digest", ok=True, detail=detail)]
    return [VerificationCheck("evidence_digest", ok=same, expected=named, actual=testimony.evidence_digest)]


def _receipt_check(proof: WitnessProof, testimony: Testimony) -> VerificationCheck:
    try:
        testimony.covers(proof.receipt, proof.intent)
    except InvalidAttestationRecord as problem:
        return _failed("receipt", str(problem))
    told = "" if testimony.not_after is None else f", not after {testimony.not_after}"
    told += "" if testimony.inexact is None else f" or so: {testimony.inexact}"
    by = "" if testimony.by is None else f" by {testimony.by}"
    return VerificationCheck("receipt", ok=True, detail=f"witnessed at level {testimony.level}{by}{told}")


def _subject_check(actual: str, expected: str) -> VerificationCheck:
    if digests_equal(actual, expected):
        return VerificationCheck("subject", ok=True)
    return VerificationCheck("subject", ok=False, expected=expected, actual=actual, detail="the intent is about another package")


def _failed(name: str, detail: str) -> VerificationCheck:
    return VerificationCheck(name, ok=False, detail=detail)
