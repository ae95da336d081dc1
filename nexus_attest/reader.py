"""What a reader with a trust policy brings to the verification of evidence: whom it believes, and public-key cryptography.

The engine judges everything else; the functions here are what it cannot do with the standard library. None of them raises for what a
file holds: whatever is wrong there is a finding.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from nexus_attest.key_errors import KeyExpired, KeyNotYetValid, KeyRetired
from nexus_attest.trust import AttestorKey, TrustPolicy
from nexus_control.bundle_checks import stray_findings
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.checkpoint import SignedNote
from nexus_control.errors import MalformedBundle, MalformedEvent
from nexus_control.events import parse_time
from nexus_control.evidence import Gap, Knowledge, LogTrust
from nexus_control.in_toto import SealedCase
from nexus_control.integrity import digests_equal
from nexus_control.json_data import list_field, object_field, text_field
from nexus_control.verification import Finding, VerificationCheck, judge

__all__ = ["ATTESTATION_VERSION", "knowledge_of"]

ATTESTATION_VERSION = "0.7"

_MEMBERS = frozenset({"attestation_id", "payload", "signature", "meta"})
_SIGNED_MEMBERS = frozenset({"attestation_version", "binding_digest", "claims", "attestor", "signed_at"})
_ATTESTOR_MEMBERS = frozenset({"id", "key_id"})
_SIGNATURE = re.compile("[0-9A-Fa-f]{128}")
_UNKNOWN = "a trust policy that names the key under [[attestors]]"


def knowledge_of(
    trust: TrustPolicy | None,
    *,
    checkpoints: Sequence[SignedNote] = (),
    expected_binding_digest: str | None = None,
    strict: bool = False,
) -> Knowledge:
    """What a verification is given: everything that the policy says, and what the reader kept.

    Without a policy: what was kept, and witness proofs are judged as far as they need nobody to believe.
    """
    if trust is None:
        return Knowledge(
            logs=LogTrust(checkpoints=tuple(checkpoints)),
            witness=partial(_judge_witnesses, TrustPolicy()),
            expected_binding_digest=expected_binding_digest,
            strict=strict,
        )
    return Knowledge(
        trust=trust,
        trust_digest=trust.digest,
        logs=LogTrust(trust.log_keys, trust.verifies, tuple(checkpoints)),
        attestations=partial(_judge_attestations, trust),
        seal=partial(_judge_seal, trust),
        witness=partial(_judge_witnesses, trust),
        expected_binding_digest=expected_binding_digest,
        strict=strict,
    )


def _judge_witnesses(
    trust: TrustPolicy, proofs: Sequence[dict[str, Any]], binding_digest: str
) -> tuple[list[VerificationCheck], list[Gap]]:
    from nexus_attest.attestation.witness import judge_witnesses  # most files have no witness proof

    return judge_witnesses(trust, proofs, binding_digest)


def _judge_seal(trust: TrustPolicy, sealed: SealedCase) -> tuple[list[VerificationCheck], list[Gap]]:
    """Somebody whose attestations are believed signed the envelope.

    A statement has no time: a key that was retired, or will expire, may have been stolen when it signed.
    """
    signed = [
        ([attestor for attestor in trust.attestors if attestor.key.key_id == key_id], signature) for key_id, signature in sealed.signatures
    ]
    mine = [(candidates, signature) for candidates, signature in signed if candidates]
    if not mine:
        who = ", ".join(f"{key_id!r:.80}" for key_id, _ in sealed.signatures[:10])
        return [], [Gap(f"no trusted key signed the envelope (keys: {who})", _UNKNOWN)]
    signers: list[AttestorKey] = []
    findings: list[Finding] = []
    for candidates, signature in mine:
        signer = next((one for one in candidates if trust.verifies(one.key.public_key, sealed.signed_bytes, signature)), None)
        if signer is None:
            findings.append(Finding(f"the signature of {candidates[0].attestor_id} is not its signature over this envelope"))
        else:
            signers.append(signer)
    gaps: list[Gap] = []
    if signers and all(signer.key.retired_at is not None or signer.key.not_after is not None for signer in signers):
        what = f"whether the key of {signers[0].attestor_id} was still valid when it signed the envelope is not known"
        gaps.append(Gap(what, "a signature of a key that has no end"))
    return [judge("envelope", partial(iter, findings))], gaps


def _judge_attestations(
    trust: TrustPolicy, attestations: Sequence[Mapping[str, Any]], binding_digest: str
) -> tuple[list[VerificationCheck], list[Gap]]:
    checks: list[VerificationCheck] = []
    gaps: list[Gap] = []
    for number, attestation in enumerate(attestations, 1):
        name = "attestation" if len(attestations) == 1 else f"attestation_{number}"
        key = _key_of(trust.attestors, attestation)
        if key is None:
            gaps.append(Gap(f"{name} is signed by nobody whom the trust policy knows", _UNKNOWN))
            continue
        checks.append(judge(name, partial(_attestation_findings, trust, key, attestation, binding_digest)))
    return checks, gaps


def _key_of(attestors: Iterable[AttestorKey], attestation: Mapping[str, Any]) -> AttestorKey | None:
    try:
        attestor = object_field(object_field(dict(attestation), "payload", "attestation"), "attestor", "attestation.payload")
    except MalformedBundle:
        return None
    named = attestor.get("id"), attestor.get("key_id")
    return next((known for known in attestors if (known.attestor_id, known.key.key_id) == named), None)


def _attestation_findings(
    trust: TrustPolicy, attestor: AttestorKey, attestation: Mapping[str, Any], binding_digest: str
) -> Iterator[Finding]:
    """An Ed25519 signature over the canonical bytes of version, binding digest, sorted claims, attestor and time.

    Nothing else may stand where these are: whoever reads it would take it for signed.
    """
    payload = object_field(dict(attestation), "payload", "attestation")
    yield from stray_findings("attestation", attestation, _MEMBERS)
    yield from stray_findings("attestation.payload", payload, _SIGNED_MEMBERS)
    yield from stray_findings("attestation.payload.attestor", payload["attestor"], _ATTESTOR_MEMBERS)
    claims = cast("list[object]", list_field(payload, "claims", "attestation.payload"))
    if not claims or not all(isinstance(claim, str) for claim in claims):
        yield Finding("an attestation claims something: its claims are texts, and there is at least one")
        return
    version, signed_at = (
        text_field(payload, "attestation_version", "attestation.payload"),
        text_field(payload, "signed_at", "attestation.payload"),
    )
    if version != ATTESTATION_VERSION:
        yield Finding("unknown attestation_version", ATTESTATION_VERSION, version)
    stated = text_field(payload, "binding_digest", "attestation.payload")
    if not digests_equal(stated, binding_digest):
        yield Finding("the attestation is about another package", binding_digest, stated)
    message = canonical_json_bytes(
        {
            "attestation_version": version,
            "binding_digest": stated,
            "claims": sorted(cast("list[str]", claims)),
            "attestor": {"id": attestor.attestor_id, "key_id": attestor.key.key_id},
            "signed_at": signed_at,
        }
    )
    text = text_field(dict(attestation), "signature", "attestation")
    signature = bytes.fromhex(text) if _SIGNATURE.fullmatch(text) else b""
    if not trust.verifies(attestor.key.public_key, message, signature):
        yield Finding(f"the signature is not that of {attestor.attestor_id} over this attestation")
    yield from _validity_findings(attestor, signed_at)
    yield Finding(f"{attestor.attestor_id} attests: {', '.join(map(str, claims[:10]))}", fails=False)


def _validity_findings(attestor: AttestorKey, signed_at: str) -> Iterator[Finding]:
    try:
        attestor.key.require_valid(parse_time(signed_at), "used")
    except (MalformedEvent, KeyExpired, KeyNotYetValid, KeyRetired) as problem:
        yield Finding(str(problem))
