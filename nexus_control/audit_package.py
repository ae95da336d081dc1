"""The audit package: a decision bundle bound to the run that it authorised, and the checks that a stranger can repeat.

    integrity.binding_digest
        `-- package_version, binding.control_digest, binding.router_digest, binding.control_router_link_digest
                                     |                       |                          |
                              control_bundle       the run's record or its       control_bundle.router_link
                                                   digest (`router`)

Verification reads nothing but its argument, runs every check whatever the others find, and names what differs. Outside of all digests:
`provenance` and `meta`, of the package and of the control bundle. Digests alone cannot expose a package that was rebuilt whole;
`expected_binding_digest`, a digest obtained from elsewhere, can.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self, cast

from nexus_control.bundle import (
    BundleDecision,
    BundleEvent,
    BundleIntegrity,
    BundleProvenance,
    BundleRouterLink,
    BundleTemplateSnapshot,
    DecisionBundle,
    compute_router_link_digest,
)
from nexus_control.bundle_checks import (
    Content,
    bundle_digest_findings,
    event_digest_findings,
    form_findings,
    replay_findings,
    section_findings,
    sequence_findings,
    stray_findings,
    version_findings,
)
from nexus_control.canonical_json import canonical_json
from nexus_control.errors import MalformedBundle
from nexus_control.integrity import content_digest, digests_equal, prefixed, unprefixed
from nexus_control.json_data import copy_json, object_field, object_of, optional_object_field, parse_json, text_field
from nexus_control.router_record import RouterDigestFn, content_findings, router_run_digest, stated_digest, stated_run_ids
from nexus_control.verification import (
    VERIFY_BINDING_CONTROL_MATCH,
    VERIFY_BINDING_DIGEST,
    VERIFY_BINDING_LINK_MATCH,
    VERIFY_BINDING_ROUTER_MATCH,
    VERIFY_CONTROL_BUNDLE_DIGEST,
    VERIFY_EXPECTED_BINDING_DIGEST,
    VERIFY_ROUTER_DIGEST,
    VERIFY_SCHEMA,
    Finding,
    VerificationCheck,
    VerificationResult,
    judge,
    unreadable,
)

__all__ = [
    "AUDIT_ERROR_DECISION_NOT_FOUND",
    "AUDIT_ERROR_LINK_DIGEST_MISMATCH",
    "AUDIT_ERROR_NO_ROUTER_LINK",
    "AUDIT_ERROR_ROUTER_BUNDLE_INVALID",
    "AUDIT_ERROR_ROUTER_DIGEST_MISMATCH",
    "PACKAGE_VERSION",
    "VERIFY_BINDING_CONTROL_MATCH",
    "VERIFY_BINDING_DIGEST",
    "VERIFY_BINDING_LINK_MATCH",
    "VERIFY_BINDING_ROUTER_MATCH",
    "VERIFY_CONTROL_BUNDLE_DIGEST",
    "VERIFY_EXPECTED_BINDING_DIGEST",
    "VERIFY_ROUTER_DIGEST",
    "VERIFY_SCHEMA",
    "AuditBinding",
    "AuditIntegrity",
    "AuditPackage",
    "RouterDigestFn",
    "RouterRef",
    "RouterSection",
    "VerificationCheck",
    "VerificationResult",
    "compute_binding_digest",
    "router_run_digest",
    "verify_audit_package",
]

PACKAGE_VERSION = "0.6"

AUDIT_ERROR_NO_ROUTER_LINK = "NO_ROUTER_LINK"
AUDIT_ERROR_LINK_DIGEST_MISMATCH = "LINK_DIGEST_MISMATCH"
AUDIT_ERROR_ROUTER_DIGEST_MISMATCH = "ROUTER_DIGEST_MISMATCH"
AUDIT_ERROR_DECISION_NOT_FOUND = "DECISION_NOT_FOUND"
AUDIT_ERROR_ROUTER_BUNDLE_INVALID = "ROUTER_BUNDLE_INVALID"


@dataclass(slots=True)
class RouterRef:
    """A run by name and prefixed digest; the record itself is kept elsewhere."""

    run_id: str
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Both keys."""
        return {"run_id": self.run_id, "digest": self.digest}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`. Raises MalformedBundle."""
        fields = object_of(data, "router.ref")
        return cls(text_field(fields, "run_id", "router.ref"), text_field(fields, "digest", "router.ref"))


@dataclass(slots=True)
class RouterSection:
    """The run: its record (`embedded`) or where to find it (`reference`)."""

    mode: Literal["embedded", "reference"]
    bundle: dict[str, Any] | None = None
    ref: RouterRef | None = None

    def to_dict(self) -> dict[str, Any]:
        """`mode` and the member that belongs to it, an independent copy."""
        if self.mode == "embedded":
            return {"mode": self.mode, "bundle": copy_json(self.bundle)}
        return {"mode": self.mode, "ref": None if self.ref is None else self.ref.to_dict()}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; the member may be absent, which verification reports. Raises MalformedBundle.

        The member of the other mode is refused: nothing would verify it, but a reader could take it for evidence.
        """
        fields = object_of(data, "router")
        mode = text_field(fields, "mode", "router")
        bundle, ref = optional_object_field(fields, "bundle", "router"), optional_object_field(fields, "ref", "router")
        if mode == "embedded" and ref is None:
            return cls("embedded", bundle=bundle)
        if mode == "reference" and bundle is None:
            return cls("reference", ref=None if ref is None else RouterRef.from_dict(ref))
        raise MalformedBundle("router must be of mode 'embedded' with a bundle, or of mode 'reference' with a ref")


@dataclass(slots=True)
class AuditBinding:
    """The three prefixed digests that the binding digest covers."""

    control_digest: str
    router_digest: str
    control_router_link_digest: str

    def to_dict(self) -> dict[str, Any]:
        """The three keys."""
        return {
            "control_digest": self.control_digest,
            "router_digest": self.router_digest,
            "control_router_link_digest": self.control_router_link_digest,
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`. Raises MalformedBundle."""
        fields = object_of(data, "binding")
        return cls(
            text_field(fields, "control_digest", "binding"),
            text_field(fields, "router_digest", "binding"),
            text_field(fields, "control_router_link_digest", "binding"),
        )


@dataclass(slots=True)
class AuditIntegrity:
    """The stored binding digest, prefixed."""

    alg: str
    binding_digest: str

    def to_dict(self) -> dict[str, Any]:
        """Both keys."""
        return {"alg": self.alg, "binding_digest": self.binding_digest}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; `alg` defaults to `sha256`. Raises MalformedBundle."""
        fields = object_of(data, "integrity")
        return cls(text_field(fields, "alg", "integrity", "sha256"), text_field(fields, "binding_digest", "integrity"))


@dataclass(slots=True)
class AuditPackage:
    """A control bundle, the run it led to, and the digests that bind them."""

    package_version: str
    control_bundle: DecisionBundle
    router: RouterSection
    binding: AuditBinding
    integrity: AuditIntegrity
    provenance: BundleProvenance
    meta: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """The package as JSON data, an independent copy: six keys, and `meta` when not empty."""
        data: dict[str, Any] = {
            "package_version": self.package_version,
            "control_bundle": self.control_bundle.to_dict(),
            "router": self.router.to_dict(),
            "binding": self.binding.to_dict(),
            "integrity": self.integrity.to_dict(),
            "provenance": self.provenance.to_dict(),
        }
        if self.meta:
            data["meta"] = copy_json(self.meta)
        return data

    def to_canonical_json(self) -> str:
        """Canonical JSON of `to_dict`. Raises ValueError or TypeError for a value that canonical JSON cannot express.

        Not the text to hand out when an embedded record holds floats such as 1.0 or -0.0: canonical JSON writes 1 and 0, while the
        run digest of the record depends on their spelling. Write `json.dumps(package.to_dict())` instead.
        """
        return canonical_json(self.to_dict())

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; `package_version`, `provenance` and `meta` may be absent. Shares payloads with `data`.

        Raises MalformedBundle.
        """
        fields = object_of(data, "package")
        return cls(
            text_field(fields, "package_version", "package", PACKAGE_VERSION),
            DecisionBundle.from_dict(object_field(fields, "control_bundle", "package")),
            RouterSection.from_dict(object_field(fields, "router", "package")),
            AuditBinding.from_dict(object_field(fields, "binding", "package")),
            AuditIntegrity.from_dict(object_field(fields, "integrity", "package")),
            BundleProvenance.from_dict(fields.get("provenance", {})),
            object_field(fields, "meta", "package", {}),
        )


def compute_binding_digest(package_version: str, control_digest: str, router_digest: str, control_router_link_digest: str) -> str:
    """Raw digest that binds a package's parts; the arguments enter as given. Raises ValueError for lone surrogates."""
    return content_digest(
        {
            "package_version": package_version,
            "control_digest": control_digest,
            "router_digest": router_digest,
            "control_router_link_digest": control_router_link_digest,
        }
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """A package under verification; `given` is its document, None when only objects are at hand."""

    package: AuditPackage
    content: Content
    given: Mapping[str, Any] | None
    strict: bool
    router_digest_fn: RouterDigestFn | None
    expected_binding_digest: str | None


def verify_audit_package(
    package: AuditPackage | dict[str, Any] | str | bytes,
    *,
    strict: bool = False,
    router_digest_fn: RouterDigestFn | None = None,
    expected_binding_digest: str | None = None,
) -> VerificationResult:
    """Run every check over a package, its dict form or its JSON text.

    A document from which no package can be built gives the single failed check `schema`; nothing is raised for bad evidence.
    `strict` fails the checks that otherwise pass with a remark because an embedded record cannot be judged. `router_digest_fn`
    replaces the built-in rules for the content of an embedded record; whatever it raises fails the check, since it was given a
    record that may be forged. `expected_binding_digest` adds a check of that name: the package is the one that this digest, kept
    elsewhere, was taken of.
    """
    given: Mapping[str, Any] | None = None
    if not isinstance(package, AuditPackage):
        try:
            given = object_of(parse_json(package) if isinstance(package, (str, bytes)) else package, "package")
            package = AuditPackage.from_dict(given)
        except MalformedBundle as error:
            return unreadable(error)
    elif problem := _lost_part(package):
        return unreadable(problem)
    return judge_package(package, Content(package.control_bundle), given, strict, router_digest_fn, expected_binding_digest)


def judge_package(
    package: AuditPackage,
    content: Content,
    given: Mapping[str, Any] | None,
    strict: bool,
    router_digest_fn: RouterDigestFn | None,
    expected_binding_digest: str | None,
) -> VerificationResult:
    """`verify_audit_package` for a package that was read, from the document `given` if there is one, with the content of its bundle."""
    subject = _Subject(package, content, given, strict, router_digest_fn, expected_binding_digest)
    checks = [judge(name, partial(function, subject)) for name, applies, function in _CHECKS if applies(subject)]
    return VerificationResult(all(check.ok for check in checks), checks)


def _lost_part(package: AuditPackage) -> str | None:
    """What a caller's edits in place left without its type."""
    bundle, router = package.control_bundle, package.router
    parts: list[tuple[str, object, type]] = [
        ("control_bundle", bundle, DecisionBundle),
        ("router", router, RouterSection),
        ("binding", package.binding, AuditBinding),
        ("integrity", package.integrity, AuditIntegrity),
    ]
    if isinstance(cast("object", router), RouterSection):
        optional: list[tuple[str, object, type]] = [("router.bundle", router.bundle, dict), ("router.ref", router.ref, RouterRef)]
        parts += [part for part in optional if part[1] is not None]
    if isinstance(cast("object", bundle), DecisionBundle):
        parts += _bundle_parts(bundle)
    # No part is a bool, which would otherwise do for an integer.
    lost = ((name, kind) for name, part, kind in parts if not isinstance(part, kind) or isinstance(part, bool))
    return next((f"package.{name} must be of type {kind.__name__}" for name, kind in lost), None)


def _bundle_parts(bundle: DecisionBundle) -> Iterator[tuple[str, object, type]]:
    """The parts of a bundle that the checks take for what they are declared to be: path in the package, value, type."""
    link, events = bundle.router_link, bundle.events
    yield "control_bundle.bundle_version", bundle.bundle_version, str
    yield "control_bundle.decision", bundle.decision, BundleDecision
    yield "control_bundle.template_snapshot", bundle.template_snapshot, BundleTemplateSnapshot
    yield "control_bundle.integrity", bundle.integrity, BundleIntegrity
    yield "control_bundle.router_link", link, BundleRouterLink
    if isinstance(cast("object", link), BundleRouterLink):
        for name in ("router_request_digest", "router_result_digest"):
            if (digest := getattr(link, name)) is not None:
                yield f"control_bundle.router_link.{name}", digest, str
    yield "control_bundle.events", events, list
    for place, event in enumerate(events if isinstance(cast("object", events), list) else ()):
        where = f"control_bundle.events[{place}]"
        if not isinstance(cast("object", event), BundleEvent):
            yield where, event, BundleEvent
        elif not (type(event.seq) is int and type(event.payload) is dict and type(event.actor) is dict):
            yield f"{where}.seq", event.seq, int
            yield f"{where}.payload", event.payload, dict
            yield f"{where}.actor", event.actor, dict


def _binding_digest(subject: _Subject) -> Iterator[Finding]:
    package, binding = subject.package, subject.package.binding
    stored = package.integrity.binding_digest
    actual = compute_binding_digest(
        package.package_version, binding.control_digest, binding.router_digest, binding.control_router_link_digest
    )
    if not digests_equal(stored, actual):
        yield Finding("integrity.binding_digest is not the digest of package_version and binding", stored, prefixed(actual))
    if package.package_version != PACKAGE_VERSION:
        yield Finding("unknown package_version", PACKAGE_VERSION, package.package_version)
    if package.integrity.alg != "sha256":
        yield Finding("unknown integrity.alg", "sha256", package.integrity.alg)
    for path, known in _MEMBERS if subject.given is not None else ():
        section: Any = subject.given
        for name in path:
            section = section.get(name)
        if section is not None:
            yield from stray_findings(".".join(("package", *path)), section, known)


_MEMBERS = (
    ((), frozenset({"package_version", "control_bundle", "router", "binding", "integrity", "provenance", "meta"})),
    (("binding",), frozenset({"control_digest", "router_digest", "control_router_link_digest"})),
    (("integrity",), frozenset({"alg", "binding_digest"})),
    (("router",), frozenset({"mode", "bundle", "ref"})),
    (("router", "ref"), frozenset({"run_id", "digest"})),
)
"""The members of a package and of its parts; those of the control bundle are checked with it, an embedded record is its router's."""


def _control_bundle_digest(subject: _Subject) -> Iterator[Finding]:
    bundle = subject.package.control_bundle
    recomputed = subject.content.recomputed
    yield from bundle_digest_findings(bundle, recomputed)
    yield from version_findings(bundle)
    yield from event_digest_findings(recomputed)
    yield from sequence_findings(bundle.events)
    if subject.given is not None:
        yield from form_findings(subject.given["control_bundle"])
        yield from section_findings(bundle, subject.given["control_bundle"])
    yield from replay_findings(subject.content)


def _binding_control_match(subject: _Subject) -> Iterator[Finding]:
    stored, bound = subject.package.control_bundle.integrity.canonical_digest, subject.package.binding.control_digest
    if not digests_equal(stored, bound):
        yield Finding("binding.control_digest is not that of the control bundle", stored, bound)


def _binding_router_match(subject: _Subject) -> Iterator[Finding]:
    router = subject.package.router
    if router.mode == "reference" and router.ref is not None:
        stored, run_ids = router.ref.digest, {"ref.run_id": router.ref.run_id}
    elif router.mode == "embedded" and router.bundle is not None:
        stored, run_ids = (
            stated_digest(router.bundle),
            {f"bundle.{where}": run_id for where, run_id in stated_run_ids(router.bundle).items()},
        )
    else:
        yield Finding(f"the router section has not what its mode {router.mode!r} needs")
        return
    bound, run_id = subject.package.binding.router_digest, subject.package.control_bundle.router_link.run_id
    if not digests_equal(stored, bound):
        yield Finding("binding.router_digest is not that of the router section", stored, bound)
    for where, stated in run_ids.items():
        if stated != run_id:
            yield Finding(f"router.{where} is not the run of the control bundle's router_link", run_id, str(stated))
    if not run_ids:
        yield Finding("the embedded record does not say which run it is of", run_id, fails=subject.strict)


def _binding_link_match(subject: _Subject) -> Iterator[Finding]:
    bundle, bound = subject.package.control_bundle, subject.package.binding.control_router_link_digest
    link = bundle.router_link
    stored = link.control_router_link_digest
    if stored is None or not digests_equal(stored, bound):
        yield Finding("binding.control_router_link_digest is not that of the control bundle's router_link", stored, bound)
    actual = compute_router_link_digest(
        bundle.decision.decision_id, link.run_id, _raw(link.router_request_digest), _raw(link.router_result_digest)
    )
    if actual is None:
        yield Finding("control_bundle.router_link names no run")
    elif not digests_equal(stored, actual):
        yield Finding("control_router_link_digest is not the digest of decision, run, request and result", stored, prefixed(actual))


def _router_digest(subject: _Subject) -> Iterator[Finding]:
    record = cast("dict[str, Any]", subject.package.router.bundle)
    return content_findings(record, strict=subject.strict, router_digest_fn=subject.router_digest_fn)


def _expected_binding_digest(subject: _Subject) -> Iterator[Finding]:
    stored = subject.package.integrity.binding_digest
    if not digests_equal(stored, subject.expected_binding_digest):
        yield Finding("integrity.binding_digest is not the expected one", subject.expected_binding_digest, stored)


def _raw(digest: str | None) -> str | None:
    return None if digest is None else unprefixed(digest)


def _always(_: _Subject) -> bool:
    return True


def _has_record(subject: _Subject) -> bool:
    return subject.package.router.mode == "embedded" and subject.package.router.bundle is not None


def _has_expectation(subject: _Subject) -> bool:
    return subject.expected_binding_digest is not None


_CHECKS: tuple[tuple[str, Callable[[_Subject], bool], Callable[[_Subject], Iterator[Finding]]], ...] = (
    (VERIFY_BINDING_DIGEST, _always, _binding_digest),
    (VERIFY_CONTROL_BUNDLE_DIGEST, _always, _control_bundle_digest),
    (VERIFY_BINDING_CONTROL_MATCH, _always, _binding_control_match),
    (VERIFY_BINDING_ROUTER_MATCH, _always, _binding_router_match),
    (VERIFY_BINDING_LINK_MATCH, _always, _binding_link_match),
    (VERIFY_ROUTER_DIGEST, _has_record, _router_digest),
    (VERIFY_EXPECTED_BINDING_DIGEST, _has_expectation, _expected_binding_digest),
)
