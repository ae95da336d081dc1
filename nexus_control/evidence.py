"""Verification of a document of unknown kind: is what this file says consistent with itself?

Digests alone cannot expose a package that was rebuilt consistently: whoever can change a file can recompute every digest in it. A
passing report therefore says that the parts belong together, not who made them or when. For that, compare the binding digest with one
obtained from elsewhere (`expected_binding_digest`): an attestation, a ledger entry, a copy that was kept.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from nexus_control.audit_package import verify_audit_package
from nexus_control.bundle import DecisionBundle, validate_bundle_schema
from nexus_control.bundle_checks import (
    Recomputed,
    bundle_digest_findings,
    event_digest_findings,
    recompute,
    replay_findings,
    section_findings,
    sequence_findings,
    version_findings,
)
from nexus_control.errors import MalformedBundle
from nexus_control.json_data import object_of, parse_json
from nexus_control.verification import (
    VERIFY_EXPECTED_BINDING_DIGEST,
    VERIFY_SCHEMA,
    Finding,
    VerificationCheck,
    VerificationResult,
    judge,
    unreadable,
)

__all__ = ["DocumentKind", "DocumentReport", "verify_document"]

DocumentKind = Literal["audit_package", "decision_bundle", "unknown"]


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """What the document was taken for, and the outcome of every check of that kind."""

    kind: DocumentKind
    result: VerificationResult

    @property
    def ok(self) -> bool:
        """Whether every check passed; never for a document of unknown kind."""
        return self.result.ok

    def to_dict(self) -> dict[str, Any]:
        """`kind`, and the members of the result."""
        return {"kind": self.kind, **self.result.to_dict()}


def verify_document(
    document: dict[str, Any] | str | bytes, *, strict: bool = False, expected_binding_digest: str | None = None
) -> DocumentReport:
    """Recognise a decision bundle or an audit package (data or JSON text) by its keys and run every check of its kind.

    `strict` and `expected_binding_digest` are those of `verify_audit_package`; a bundle has no binding digest, so expecting one
    fails. Whatever cannot be read or recognised gives the failed check `schema`; nothing is raised for a bad document.
    """
    try:
        data = object_of(parse_json(document) if isinstance(document, (str, bytes)) else document, "document")
    except MalformedBundle as error:
        return DocumentReport("unknown", unreadable(error))
    if "control_bundle" in data:
        return DocumentReport("audit_package", verify_audit_package(data, strict=strict, expected_binding_digest=expected_binding_digest))
    if "decision" in data and "events" in data:
        return DocumentReport("decision_bundle", _verify_bundle(data, expected_binding_digest))
    return DocumentReport("unknown", unreadable("neither a decision bundle nor an audit package"))


@dataclass(frozen=True, slots=True)
class _Subject:
    """A bundle under verification: as it was given, as it was read, and what its content gives."""

    document: Mapping[str, Any]
    bundle: DecisionBundle
    recomputed: Recomputed


_BUNDLE_CHECKS: tuple[tuple[str, Callable[[_Subject], Iterator[Finding]]], ...] = (
    ("bundle_version", lambda subject: version_findings(subject.bundle)),
    ("bundle_digest", lambda subject: bundle_digest_findings(subject.bundle, subject.recomputed)),
    ("event_digests", lambda subject: event_digest_findings(subject.recomputed)),
    ("event_sequence", lambda subject: sequence_findings(subject.bundle.events)),
    ("derived_sections", lambda subject: section_findings(subject.bundle, subject.document)),
    ("header", lambda subject: replay_findings(subject.bundle, subject.recomputed.events)),
)


def _verify_bundle(data: dict[str, Any], expected_binding_digest: str | None) -> VerificationResult:
    if problems := validate_bundle_schema(data):
        return unreadable("; ".join(problems))
    try:
        bundle = DecisionBundle.from_dict(data)
        subject = _Subject(data, bundle, recompute(bundle))
    except MalformedBundle as error:
        return unreadable(error)
    checks = [VerificationCheck(VERIFY_SCHEMA, ok=True)]
    checks += [judge(name, partial(function, subject)) for name, function in _BUNDLE_CHECKS]
    if expected_binding_digest is not None:
        finding = Finding("a decision bundle has no binding digest", expected_binding_digest)
        checks.append(judge(VERIFY_EXPECTED_BINDING_DIGEST, lambda: [finding]))
    return VerificationResult(all(check.ok for check in checks), checks)
