"""A narrative as a file of evidence: its checks in the layers in which every other file is judged."""

from collections.abc import Collection, Iterator, Sequence

from nexus_attest.attestation.errors import InvalidNarrative
from nexus_attest.attestation.narrative._checks import verify_narrative
from nexus_attest.attestation.narrative._load import parse_narrative
from nexus_attest.attestation.narrative._model import CheckStatus, IntegrityCheck, NarrativeReport, narrative_data
from nexus_control.evidence import EvidenceReport
from nexus_control.integrity import digests_equal
from nexus_control.layers import LAYERS, Gap, Layer, LayerName
from nexus_control.verification import VERIFY_EXPECTED_BINDING_DIGEST, VerificationCheck, unreadable

__all__ = ["examine_narrative", "is_narrative"]

_MARK = "nexus.attestation.narrative."


def is_narrative(text: bytes) -> bool:
    """Whether a JSON text says of itself that it is a narrative, of whatever version."""
    if _MARK.encode() not in text:  # without reading what is no narrative a second time
        return False
    try:
        return str(narrative_data(text).get("schema")).startswith(_MARK)
    except InvalidNarrative:
        return False


def examine_narrative(
    text: bytes, *, require: Collection[LayerName] = (), expected_binding_digest: str | None = None, strict: bool = False
) -> EvidenceReport:
    """Judge a narrative by layers. Nothing is raised for a bad one.

    `integrity` has the checks that the document alone allows, computed anew, then those that it tells of; one that was skipped is a gap,
    with `strict` a failure. The transaction that it names is a claim, so `witness` is INCOMPLETE; of decisions a narrative says nothing.
    """
    try:
        report = parse_narrative(text)
    except InvalidNarrative as problem:
        return _report(Layer(LayerName.INTEGRITY, unreadable(problem).checks), "the narrative cannot be read", require)
    found = [*verify_narrative(report), *report.checks]
    skipped = [] if strict else [check for check in found if check.status is CheckStatus.SKIP and check.name != "narrative_digest_valid"]
    checks = [_judged(check) for check in found if check not in skipped]
    checks += _expected(report, expected_binding_digest)
    integrity = Layer(LayerName.INTEGRITY, checks, list(_gaps(skipped)))
    return _report(integrity, "a narrative tells of witnessing, and nothing of this", require)


def _report(integrity: Layer, what: str, require: Collection[LayerName]) -> EvidenceReport:
    gaps = {name: Gap(what, "the audit package or the case file of the decision") for name in LAYERS[1:]}
    gaps[LayerName.WITNESS] = Gap("a narrative names its transaction and does not prove it", "a witness proof, in a case file")
    layers = (integrity, *(Layer(name, gaps=[gap]) for name, gap in gaps.items()))
    return EvidenceReport(kind="narrative", layers=layers, story=None, required=frozenset(require))


def _judged(check: IntegrityCheck) -> VerificationCheck:
    if check.status is CheckStatus.PASS:
        return VerificationCheck(check.name, ok=True)
    return VerificationCheck(check.name, ok=False, expected=check.expected, actual=check.actual, detail=check.reason)


def _gaps(skipped: Sequence[IntegrityCheck]) -> Iterator[Gap]:
    for check in skipped:
        yield Gap(f"{check.name}: {check.reason}", "the queue and the exchange store (`nexus-attest narrative verify INTENT`)")


def _expected(report: NarrativeReport, binding_digest: str | None) -> Iterator[VerificationCheck]:
    if binding_digest is not None:
        same = digests_equal(report.binding_digest, binding_digest)
        yield VerificationCheck(VERIFY_EXPECTED_BINDING_DIGEST, same, binding_digest, report.binding_digest)
