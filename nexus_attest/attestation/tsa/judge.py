"""Time-stamps as evidence in a witness proof: judged for a reader by the authorities of the trust policy."""

from typing import Any

from nexus_attest.attestation.errors import ExtraMissing, NotATimestamp
from nexus_attest.attestation.stamp import Shown, covering, evidence_key
from nexus_attest.attestation.tsa.authority import TSA_BACKEND
from nexus_attest.attestation.tsa.evidence import TimestampEvidence, judge_timestamp
from nexus_attest.attestation.tsa.token import Token
from nexus_attest.attestation.witness import Level, Testimony
from nexus_attest.trust import Authority, TrustPolicy
from nexus_control.integrity import content_digest, prefixed
from nexus_control.layers import Gap
from nexus_control.verification import VerificationCheck

__all__ = ["judge_evidence"]

_BELIEF = frozenset({"policy", "chain"})
"""The checks that compare with what the reader believes; when they fail, the token may still be good for somebody else."""

_NOBODY = Authority("nobody", ())


def judge_evidence(evidence: dict[str, Any] | None, trust: TrustPolicy) -> Testimony:
    """Evidence of the backend `tsa`. Level `authority` when a token is one of an authority that the reader believes.

    A token of anybody else, however well made, and a receipt alone show no more than that somebody made them: level `self`, and a gap.
    """
    if evidence is None:
        gap = Gap("that an authority gave a time-stamp is only said", "a witness proof with the time-stamp in it")
        return Testimony(level=Level.SELF, gaps=(gap,), covers=covering(TSA_BACKEND))
    try:
        found = TimestampEvidence.from_dict(evidence)
    except NotATimestamp as problem:
        return Testimony(level=None, checks=(VerificationCheck("form", ok=False, detail=str(problem)),))
    form = VerificationCheck("form", ok=True)
    try:
        checks, shown, gaps = _judged(found, trust.authorities)
    except ExtraMissing as problem:
        return Testimony(level=None, checks=(form,), gaps=(Gap("the time-stamp was not checked", str(problem)),))
    if any(not check.ok for check in checks):
        return Testimony(level=None, checks=(form, *checks))
    stamp = Token(found.token).stamp
    latest = stamp.latest.isoformat()
    return Testimony(
        level=Level.SELF if shown is None else Level.AUTHORITY,
        checks=(form, *checks),
        gaps=gaps,
        by=None if shown is None else shown.by,
        not_after=None if shown is None else latest,
        about={
            "authority": None if shown is None else shown.by,
            "time": stamp.time.isoformat(),
            "policy": stamp.policy,
            "serial": str(stamp.serial),
            "batch": {"root": found.statement.root.hex(), "size": found.statement.size},
        },
        evidence_digest=prefixed(content_digest(evidence)),
        evidence_key=evidence_key(TSA_BACKEND),
        covers=covering(TSA_BACKEND, statement=found.statement, level=Level.AUTHORITY, not_after=latest),
    )


def _judged(
    evidence: TimestampEvidence, authorities: tuple[Authority, ...]
) -> tuple[list[VerificationCheck], Shown | None, tuple[Gap, ...]]:
    """The checks of the first authority that is believed for it; else those that need no belief, and what is lacking."""
    reasons: list[str] = []
    checks: list[VerificationCheck] = []
    for authority in authorities or (_NOBODY,):
        checks, shown = judge_timestamp(evidence, authority)
        if shown is not None:
            return checks, shown, ()
        reasons += [f"{authority.name}: {check.name}: {check.detail}" for check in checks if check.name in _BELIEF and not check.ok]
    others = [check for check in checks if check.name not in _BELIEF]
    told = f" ({'; '.join(reasons)})" if authorities and reasons else ""
    return others, None, (Gap(f"the time-stamp is of no authority that is believed{told}", _NEEDED),)


_NEEDED = "a trust policy that names it under [[authorities]] (--trust FILE)"
