"""Verification by layers: what a file of evidence shows, what it does not, and what would be needed to know.

    examine(document, knowledge) -> EvidenceReport

Every layer is judged, whatever the others find, and each says PASS, FAIL or INCOMPLETE. Digests alone cannot expose a package that was
rebuilt consistently: such a file passes `integrity` and no more. Public-key cryptography comes in with the reader's knowledge, because the
standard library has none; without it the layers that need it are INCOMPLETE, never PASS.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from nexus_control.audit_package import AuditPackage
from nexus_control.authorization import authorization_layer
from nexus_control.bundle_checks import Content
from nexus_control.documents import Document, DocumentKind, DocumentReport, read_document, verify_document
from nexus_control.errors import InputError, MalformedBundle, NexusError
from nexus_control.history import History, read_history
from nexus_control.identity import Trust
from nexus_control.in_toto import SealedCase
from nexus_control.integrity import digests_equal
from nexus_control.layers import LAYERS, Gap, Layer, LayerName, Outcome
from nexus_control.log_evidence import LogTrust, log_layer
from nexus_control.run_evidence import execution_layer
from nexus_control.signatures import signatures_layer
from nexus_control.story import Story, story_of
from nexus_control.verification import Finding, VerificationCheck, judge

__all__ = [
    "LAYERS",
    "DocumentKind",
    "DocumentReport",
    "EvidenceReport",
    "Gap",
    "Knowledge",
    "Layer",
    "LayerName",
    "LogTrust",
    "Outcome",
    "SealJudge",
    "Story",
    "examine",
    "parse_layers",
    "verify_document",
]

Judged: TypeAlias = tuple[Sequence[VerificationCheck], Sequence[Gap]]
"""What a judge found, and what it could not judge."""

OverlayJudge: TypeAlias = Callable[[Sequence[dict[str, Any]], str], Judged]
"""`judge(overlays, binding_digest)` for attestations or witness proofs of a case file, as JSON data, at least one of them; the binding
digest of the package is prefixed. Must raise nothing for what the overlays hold."""

SealJudge: TypeAlias = Callable[[SealedCase], Judged]
"""The same for the signatures of an envelope around a case file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What a reader brings along: whom it believes, what it kept, and functions for what the engine cannot do itself.

    `trust_digest` is the prefixed digest of the trust policy, `expected_binding_digest` one that was obtained from elsewhere; `strict`
    fails what otherwise passes integrity with a remark because it cannot be judged.
    """

    trust: Trust | None = None
    trust_digest: str | None = None
    logs: LogTrust = field(default_factory=LogTrust)
    attestations: OverlayJudge | None = None
    seal: SealJudge | None = None
    witness: OverlayJudge | None = None
    expected_binding_digest: str | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceReport:
    """All layers in their order; `story` is what the file says happened, None when it cannot be read that far.

    `ok` when no layer failed and each of `required` passed.
    """

    kind: DocumentKind
    layers: Sequence[Layer]
    story: Story | None
    required: frozenset[LayerName] = frozenset()

    @property
    def failed(self) -> list[LayerName]:
        """The layers that failed, or are INCOMPLETE although they were required."""
        return [
            layer.name
            for layer in self.layers
            if layer.outcome is Outcome.FAIL or (layer.name in self.required and layer.outcome is not Outcome.PASS)
        ]

    @property
    def ok(self) -> bool:
        """Whether no layer failed."""
        return not self.failed

    def layer(self, name: LayerName) -> Layer:
        """The layer of this name."""
        return self.layers[LAYERS.index(name)]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "kind": self.kind,
            "ok": self.ok,
            "failed": [name.value for name in self.failed],
            "required": [name.value for name in LAYERS if name in self.required],
            "layers": [layer.to_dict() for layer in self.layers],
            "story": None if self.story is None else self.story.to_dict(),
        }


def parse_layers(names: Collection[str]) -> frozenset[LayerName]:
    """Layers by name. Raises InputError for an unknown one."""
    known = {name.value: name for name in LAYERS}
    for name in names:
        if name not in known:
            raise InputError(f"unknown layer {name!r:.50}; there are {', '.join(known)}")
    return frozenset(known[name] for name in names)


def examine(
    document: dict[str, Any] | str | bytes, knowledge: Knowledge | None = None, *, require: Collection[LayerName] = ()
) -> EvidenceReport:
    """Judge every layer of a decision bundle, an audit package, a case file or an envelope with one (data or JSON text).

    Nothing is raised for a bad document. `require` names the layers that must pass.
    """
    knowledge, required = knowledge or Knowledge(), frozenset(require)
    try:
        read = read_document(document)
    except MalformedBundle as error:
        return _unreadable(verify_document(document), error, required)
    integrity = verify_document(read, strict=knowledge.strict, expected_binding_digest=knowledge.expected_binding_digest)
    try:
        package, content = _parts(read)
    except MalformedBundle as error:
        return _unreadable(integrity, error, required)
    try:
        history: History | NexusError = read_history(content)
    except NexusError as error:
        history = error
    told = history if isinstance(history, History) else None
    layers = (
        Layer(LayerName.INTEGRITY, integrity.result.checks),
        authorization_layer(content.bundle, history),
        _with_overlays(signatures_layer(history, knowledge.trust), read, knowledge),
        execution_layer(package, told),
        log_layer(content, None if read.case is None else read.case.log, knowledge.logs),
        _witness_layer(read, knowledge),
    )
    story = None if told is None else story_of(told, _binding_digest(read))
    return EvidenceReport(kind=read.kind, layers=layers, story=story, required=required)


def _unreadable(integrity: DocumentReport, error: MalformedBundle, required: frozenset[LayerName]) -> EvidenceReport:
    gap = Gap("the document cannot be read", f"a document without this problem: {error}")
    others = [Layer(name, gaps=[gap]) for name in LAYERS[1:]]
    return EvidenceReport(
        kind=integrity.kind, layers=(Layer(LayerName.INTEGRITY, integrity.result.checks), *others), story=None, required=required
    )


def _parts(read: Document) -> tuple[AuditPackage | None, Content]:
    if read.kind == "decision_bundle":
        return None, read.content
    return read.package, read.content


def _binding_digest(read: Document) -> str | None:
    return None if read.kind == "decision_bundle" else str(read.data["integrity"]["binding_digest"])


def _with_overlays(layer: Layer, read: Document, knowledge: Knowledge) -> Layer:
    """The signatures layer with what is signed around the package: attestations, and the envelope."""
    checks, gaps, case = list(layer.checks), list(layer.gaps), read.case
    if case is not None and case.attestations:
        _add(
            checks,
            gaps,
            _judged(knowledge.attestations, case.attestations, str(_binding_digest(read)), "the attestations were not checked"),
        )
    if read.sealed is not None:
        if knowledge.seal is None:
            gaps.append(Gap("who signed the envelope was not checked", _NEEDED_KEYS))
        else:
            _add(checks, gaps, knowledge.seal(read.sealed))
    if case is not None and case.trust_digest is not None and knowledge.trust_digest is not None:
        checks.append(judge("trust_policy", partial(_trust_findings, case.trust_digest, knowledge.trust_digest)))
    return Layer(layer.name, checks, gaps)


_NEEDED_KEYS = "a trust policy that names the keys (--trust FILE), and the verifier with public-key cryptography"


def _add(checks: list[VerificationCheck], gaps: list[Gap], judged: Judged) -> None:
    checks.extend(judged[0])
    gaps.extend(judged[1])


def _judged(judge_of: OverlayJudge | None, overlays: Sequence[dict[str, Any]], binding_digest: str, unjudged: str) -> Judged:
    return ((), [Gap(unjudged, _NEEDED_KEYS)]) if judge_of is None else judge_of(overlays, binding_digest)


def _trust_findings(theirs: str, ours: str) -> Iterator[Finding]:
    """Told, not judged: a reader has its own opinion, and policies change."""
    if not digests_equal(theirs, ours):
        yield Finding(f"it was decided under the trust policy {theirs}, and is read under {ours}", fails=False)


def _witness_layer(read: Document, knowledge: Knowledge) -> Layer:
    if read.case is None or not read.case.witness:
        gap = Gap("no witness has seen the binding digest", "a case file with the proof of a ledger transaction")
        return Layer(LayerName.WITNESS, gaps=[gap])
    checks, gaps = _judged(knowledge.witness, read.case.witness, str(_binding_digest(read)), "the witness proofs were not checked")
    return Layer(LayerName.WITNESS, checks, gaps)
