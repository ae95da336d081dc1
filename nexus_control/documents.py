"""The integrity of a document of unknown kind: is what this file says consistent with itself?

Digests alone cannot expose a package that was rebuilt consistently: whoever can change a file can recompute every digest in it. A
passing report therefore says that the parts belong together, not who made them or when. For that, compare the binding digest with one
obtained from elsewhere (`expected_binding_digest`): an attestation, a ledger entry, a copy that was kept.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any, Literal, cast

from nexus_control.audit_package import AuditPackage, judge_package
from nexus_control.bundle import DecisionBundle, validate_bundle_schema
from nexus_control.bundle_checks import (
    Content,
    Recomputed,
    bundle_digest_findings,
    event_digest_findings,
    form_findings,
    replay_findings,
    section_findings,
    sequence_findings,
    version_findings,
)
from nexus_control.case_file import CaseFile
from nexus_control.errors import MalformedBundle
from nexus_control.in_toto import SealedCase, read_envelope
from nexus_control.integrity import digests_equal
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

__all__ = ["MAX_VALUES", "Document", "DocumentKind", "DocumentReport", "read_document", "verify_document"]

DocumentKind = Literal["audit_package", "decision_bundle", "case_file", "sealed_case", "narrative", "unknown"]
"""What a file of evidence can be. Narratives are read by `nexus_attest.attestation.narrative`, everything else here."""

MAX_VALUES = 4_000_000
"""A document with more values is refused unread, because each takes some hundred bytes once it is read. 100,000 events have fewer."""

_SUBJECT_CHECK = "subject"


@dataclass(frozen=True)
class Document:
    """A document by its parts: the bundle or package as JSON data, the case file around it, the envelope around that.

    `package` and `content` are read once, for all who judge the document.
    """

    kind: DocumentKind
    data: dict[str, Any]
    case: CaseFile | None = None
    sealed: SealedCase | None = None

    @cached_property
    def package(self) -> AuditPackage:
        """The package. Raises MalformedBundle, for a bundle as well."""
        return AuditPackage.from_dict(self.data)

    @cached_property
    def content(self) -> Content:
        """The bundle, or that of the package. Raises MalformedBundle."""
        return Content(DecisionBundle.from_dict(self.data) if self.kind == "decision_bundle" else self.package.control_bundle)


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


def read_document(document: dict[str, Any] | str | bytes) -> Document:
    """Recognise JSON data or text by its keys: a decision bundle, an audit package, a case file, or an envelope with one.

    Raises MalformedBundle for what cannot be read or is none of them. The parts are recognised, not read.
    """
    data = object_of(_parsed(document) if isinstance(document, (str, bytes)) else document, "document")
    sealed = read_envelope(data) if "payloadType" in data else None
    if sealed is not None:
        data = sealed.case
    case = CaseFile.from_dict(data) if "case_version" in data else None
    if sealed is not None and case is None:
        raise MalformedBundle("the statement is about no case file")
    if case is not None:
        return Document("case_file" if sealed is None else "sealed_case", case.package, case, sealed)
    if "control_bundle" in data:
        return Document("audit_package", data)
    if "decision" in data and "events" in data:
        return Document("decision_bundle", data)
    raise MalformedBundle("neither a decision bundle nor an audit package nor a case file")


def verify_document(
    document: dict[str, Any] | str | bytes | Document, *, strict: bool = False, expected_binding_digest: str | None = None
) -> DocumentReport:
    """Run every check of the document's kind that needs nothing but the document; of a case file, those of its package.

    `strict` and `expected_binding_digest` are those of `verify_audit_package`; a bundle has no binding digest, so expecting one
    fails. Whatever cannot be read or recognised gives the failed check `schema`; nothing is raised for a bad document.
    """
    try:
        read = document if isinstance(document, Document) else read_document(document)
    except MalformedBundle as error:
        return DocumentReport("unknown", unreadable(error))
    if read.kind == "decision_bundle":
        return DocumentReport(read.kind, _verify_bundle(read, expected_binding_digest))
    try:
        result = judge_package(read.package, read.content, read.data, strict, None, expected_binding_digest)
    except MalformedBundle as error:
        result = unreadable(error)
    if read.sealed is not None:
        result.checks.append(judge(_SUBJECT_CHECK, partial(_subject_findings, read.data, read.sealed)))
        result.ok = all(check.ok for check in result.checks)
    return DocumentReport(read.kind, result)


def _parsed(text: str | bytes) -> Any:
    marks = (b",", b"[", b"{") if isinstance(text, bytes) else (",", "[", "{")
    if sum(text.count(mark) for mark in marks) > MAX_VALUES:  # pyright: ignore[reportArgumentType] - bytes in bytes, text in text
        raise MalformedBundle(f"not read: a document has at most {MAX_VALUES} values")
    return parse_json(text)


def _subject_findings(package: dict[str, Any], sealed: SealedCase) -> Iterator[Finding]:
    """The subject of the statement around a case file is its binding digest."""
    integrity: object = package.get("integrity")
    stored: object = cast("dict[str, object]", integrity).get("binding_digest") if isinstance(integrity, dict) else None
    if not digests_equal(stored, sealed.subject):
        yield Finding("the subject of the statement is not the binding digest of the package", str(stored), sealed.subject)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A bundle under verification: as it was given, as it was read, and what its content gives."""

    document: Mapping[str, Any]
    content: Content
    bundle: DecisionBundle
    recomputed: Recomputed


_BUNDLE_CHECKS: tuple[tuple[str, Callable[[_Subject], Iterator[Finding]]], ...] = (
    ("bundle_version", lambda subject: version_findings(subject.bundle)),
    ("bundle_digest", lambda subject: chain(form_findings(subject.document), bundle_digest_findings(subject.bundle, subject.recomputed))),
    ("event_digests", lambda subject: event_digest_findings(subject.recomputed)),
    ("event_sequence", lambda subject: sequence_findings(subject.bundle.events)),
    ("derived_sections", lambda subject: section_findings(subject.bundle, subject.document)),
    ("header", lambda subject: replay_findings(subject.content)),
)


def _verify_bundle(read: Document, expected_binding_digest: str | None) -> VerificationResult:
    if problems := validate_bundle_schema(read.data):
        return unreadable("; ".join(problems))
    try:
        subject = _Subject(read.data, read.content, read.content.bundle, read.content.recomputed)
    except MalformedBundle as error:
        return unreadable(error)
    checks = [VerificationCheck(VERIFY_SCHEMA, ok=True)]
    checks += [judge(name, partial(function, subject)) for name, function in _BUNDLE_CHECKS]
    if expected_binding_digest is not None:
        finding = Finding("a decision bundle has no binding digest", expected_binding_digest)
        checks.append(judge(VERIFY_EXPECTED_BINDING_DIGEST, lambda: [finding]))
    return VerificationResult(all(check.ok for check in checks), checks)
