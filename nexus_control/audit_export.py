"""Audit export: a stored decision and its run, bound into one audit package. Reads only."""

from dataclasses import dataclass
from typing import Any, Protocol

from nexus_control.audit_package import (
    AUDIT_ERROR_NO_ROUTER_LINK,
    AUDIT_ERROR_ROUTER_BUNDLE_INVALID,
    AUDIT_ERROR_ROUTER_DIGEST_MISMATCH,
    PACKAGE_VERSION,
    AuditBinding,
    AuditIntegrity,
    AuditPackage,
    RouterRef,
    RouterSection,
    compute_binding_digest,
)
from nexus_control.bundle import BundleProvenance, BundleRouterLink, ProvenanceRecord, provenance_id
from nexus_control.canonical_json import canonical_json
from nexus_control.errors import CodedError, NexusError, StoreError
from nexus_control.export import export_decision
from nexus_control.integrity import digests_equal, prefixed
from nexus_control.json_data import copy_json
from nexus_control.markdown import escape
from nexus_control.router_record import stated_digest, stated_run_digest
from nexus_control.store import EventStore

__all__ = ["AUDIT_EXPORT_METHOD_ID", "AuditExportResult", "FlightRecords", "export_audit_package", "render_audit_package"]

AUDIT_EXPORT_METHOD_ID = "nexus-control.audit_export_v0_6"


@dataclass(slots=True)
class AuditExportResult:
    """The package and its prefixed binding digest, or a stable error code and a text."""

    success: bool
    package: AuditPackage | None = None
    digest: str | None = None
    error_code: str | None = None
    error_message: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`{"ok": True, "package", "digest"}` or `{"ok": False, "error_code", "error"}`."""
        if not self.success or self.package is None:
            return {"ok": False, "error_code": self.error_code, "error": self.error_message}
        return {"ok": True, "package": self.package.to_dict(), "digest": self.digest}


class FlightRecords(Protocol):
    """Whoever keeps the records of runs: a router, or a reader of its files."""

    def flight_record(self, run_id: str) -> dict[str, Any]:
        """The record of a run, as a package embeds it. Raises a NexusError when there is none."""
        ...


def export_audit_package(
    store: EventStore,
    decision_id: str,
    embed_router_bundle: bool = False,
    router_bundle: dict[str, Any] | None = None,
    router_bundle_digest: str | None = None,
    verify_router_bundle_digest: bool = True,
    *,
    flight_records: FlightRecords | None = None,
) -> AuditExportResult:
    """Bind the decision to its latest run.

    With `embed_router_bundle` the package carries `router_bundle`, the router's own record of the run (copied), or, when none is given,
    the one that `flight_records` has of the decision's run. Otherwise it carries a reference: `router_bundle_digest` as given, or the
    result digest of the decision's events. `verify_router_bundle_digest` demands that an embedded record states exactly that result
    digest, where there is one; without it any record is accepted, also a run bundle without `integrity`, which then gets its run digest
    as canonical digest. Nothing else about a record is compared here: verification of the package does that.

    Error codes: those of `export_decision`; `NO_ROUTER_LINK` when no run, or no result, is known; `ROUTER_BUNDLE_INVALID`;
    `ROUTER_DIGEST_MISMATCH`; that of `flight_records` when it has no such record.
    """
    exported = export_decision(store, decision_id)
    control = exported.bundle
    if control is None:
        return AuditExportResult(success=False, error_code=exported.error_code, error_message=exported.error_message)
    link = control.router_link
    try:
        if link.run_id is None or link.control_router_link_digest is None:
            raise CodedError(
                AUDIT_ERROR_NO_ROUTER_LINK, f"decision {decision_id} has no run to bind: it was not executed, or left no run id"
            )
        if embed_router_bundle:
            record = router_bundle
            if record is None and flight_records is not None:
                record = _found(flight_records, link.run_id)
            router, router_digest = _embedded(record, link, verify=verify_router_bundle_digest)
        else:
            router, router_digest = _reference(router_bundle_digest, link.run_id, link)
    except CodedError as refusal:
        return AuditExportResult(success=False, error_code=refusal.code, error_message=str(refusal))
    binding = AuditBinding(control.integrity.canonical_digest, router_digest, link.control_router_link_digest)
    raw = compute_binding_digest(PACKAGE_VERSION, binding.control_digest, binding.router_digest, binding.control_router_link_digest)
    record = ProvenanceRecord(
        provenance_id(decision_id, raw), AUDIT_EXPORT_METHOD_ID, [f"decision:{decision_id}"], [f"audit_package:{prefixed(raw)}"]
    )
    package = AuditPackage(
        PACKAGE_VERSION,
        control,
        router,
        binding,
        AuditIntegrity("sha256", prefixed(raw)),
        BundleProvenance([record]),
        {"exported_at": store.clock().isoformat()},
    )
    return AuditExportResult(success=True, package=package, digest=package.integrity.binding_digest)


def _found(flight_records: FlightRecords, run_id: str) -> dict[str, Any]:
    try:
        return flight_records.flight_record(run_id)
    except StoreError:
        raise
    except NexusError as error:
        raise CodedError(error.code, f"the record of run {run_id} cannot be embedded: {error}") from None


def _embedded(given: object, link: BundleRouterLink, *, verify: bool) -> tuple[RouterSection, str]:
    """The section of an embedded record, and the digest that the record states."""
    if not isinstance(given, dict):
        raise CodedError(
            AUDIT_ERROR_ROUTER_BUNDLE_INVALID, "embed_router_bundle needs a router_bundle, or the records of runs to find it in"
        )
    try:
        canonical_json(given)
    except (ValueError, TypeError) as error:
        raise CodedError(AUDIT_ERROR_ROUTER_BUNDLE_INVALID, f"router_bundle is not JSON: {error}") from None
    record: dict[str, Any] = copy_json(given)
    run_digest = stated_run_digest(record)
    # A record with a response is no bare run bundle: its canonical digest would have to be that of the response.
    if run_digest is not None and not verify and record.keys().isdisjoint(("integrity", "response")):
        record["integrity"] = {"alg": "sha256", "canonical_digest": prefixed(run_digest)}
    digest = stated_digest(record)
    if digest is None:
        raise CodedError(AUDIT_ERROR_ROUTER_BUNDLE_INVALID, "router_bundle has no integrity.canonical_digest")
    if verify and link.router_result_digest is not None and not digests_equal(digest, link.router_result_digest):
        raise CodedError(
            AUDIT_ERROR_ROUTER_DIGEST_MISMATCH,
            f"router_bundle states the digest {digest}, the decision recorded the result {link.router_result_digest}",
        )
    return RouterSection("embedded", bundle=record), digest


def _reference(given: object, run_id: str, link: BundleRouterLink) -> tuple[RouterSection, str]:
    """The section of a reference, and the digest that it names."""
    digest = link.router_result_digest if given is None else given
    if digest is None:
        raise CodedError(AUDIT_ERROR_NO_ROUTER_LINK, f"the result of run {run_id} is not recorded; give router_bundle_digest or the record")
    if not isinstance(digest, str) or not digest.isascii():
        raise CodedError(AUDIT_ERROR_ROUTER_BUNDLE_INVALID, "router_bundle_digest must be a string of ASCII characters")
    return RouterSection("reference", ref=RouterRef(run_id, digest)), digest


def render_audit_package(package: AuditPackage) -> str:
    """The package as Markdown for people. Text of users is escaped; nothing is verified."""
    header, router = package.control_bundle.decision, package.router
    run_id = package.control_bundle.router_link.run_id if router.ref is None else router.ref.run_id
    lines = [
        "# Audit Package",
        "",
        f"- Package version: {escape(package.package_version)}",
        f"- Binding digest: {escape(package.integrity.binding_digest)}",
        "",
        "## Control Bundle",
        "",
        f"- Decision: {escape(header.decision_id)}",
        f"- Status: {escape(header.status)}",
        f"- Mode: {escape(header.mode)}",
        f"- Goal: {'(none)' if header.goal is None else escape(header.goal)}",
        f"- Digest: {escape(package.control_bundle.integrity.canonical_digest)}",
        "",
        "## Router",
        "",
        f"- Router mode: {escape(router.mode)}",
        f"- Run ID: {escape(run_id)}",
        f"- Digest: {escape(package.binding.router_digest)}",
        "",
        "## Binding",
        "",
        f"- Control digest: {escape(package.binding.control_digest)}",
        f"- Router digest: {escape(package.binding.router_digest)}",
        f"- Control-router link digest: {escape(package.binding.control_router_link_digest)}",
        "",
        "## Integrity",
        "",
        f"- Algorithm: {escape(package.integrity.alg)}",
        f"- Binding digest: {escape(package.integrity.binding_digest)}",
    ]
    return "\n".join(lines) + "\n"
