"""What a verification says: findings, made into named checks, made into one result.

A check is computed from findings, never written down as passed. A finding that does not fail is a remark: something could not be
judged, and the reader must know.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "PACKAGE_CHECKS",
    "VERIFY_BINDING_CONTROL_MATCH",
    "VERIFY_BINDING_DIGEST",
    "VERIFY_BINDING_LINK_MATCH",
    "VERIFY_BINDING_ROUTER_MATCH",
    "VERIFY_CONTROL_BUNDLE_DIGEST",
    "VERIFY_EXPECTED_BINDING_DIGEST",
    "VERIFY_ROUTER_DIGEST",
    "VERIFY_SCHEMA",
    "Finding",
    "VerificationCheck",
    "VerificationResult",
    "judge",
    "unreadable",
]

VERIFY_BINDING_DIGEST = "binding_digest"
VERIFY_CONTROL_BUNDLE_DIGEST = "control_bundle_digest"
VERIFY_BINDING_CONTROL_MATCH = "binding_control_match"
VERIFY_BINDING_ROUTER_MATCH = "binding_router_match"
VERIFY_BINDING_LINK_MATCH = "binding_link_match"
VERIFY_ROUTER_DIGEST = "router_digest"
VERIFY_EXPECTED_BINDING_DIGEST = "expected_binding_digest"
VERIFY_SCHEMA = "schema"

PACKAGE_CHECKS = (
    VERIFY_BINDING_DIGEST,
    VERIFY_CONTROL_BUNDLE_DIGEST,
    VERIFY_BINDING_CONTROL_MATCH,
    VERIFY_BINDING_ROUTER_MATCH,
    VERIFY_BINDING_LINK_MATCH,
    VERIFY_ROUTER_DIGEST,
)
"""The named checks of an audit package, in their order."""


class Finding(NamedTuple):
    """What differs, and how; a remark when it does not fail."""

    detail: str
    expected: str | None = None
    actual: str | None = None
    fails: bool = True


@dataclass(slots=True)
class VerificationCheck:
    """The outcome of one check; `expected` and `actual` say what differed, `detail` how, or what could not be judged."""

    name: str
    ok: bool
    expected: str | None = None
    actual: str | None = None
    detail: str | None = None

    @property
    def passed(self) -> bool:
        """The same as `ok`."""
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """`name` and `ok`; `expected` and `actual` of a failed check and `detail`, each when not None."""
        data: dict[str, Any] = {"name": self.name, "ok": self.ok}
        if not self.ok and self.expected is not None:
            data["expected"] = self.expected
        if not self.ok and self.actual is not None:
            data["actual"] = self.actual
        if self.detail is not None:
            data["detail"] = self.detail
        return data


@dataclass(slots=True)
class VerificationResult:
    """All checks that were run; `ok` when every one passed."""

    ok: bool
    checks: list[VerificationCheck]

    @property
    def all_checks(self) -> list[VerificationCheck]:
        """The six named checks of an audit package, in their order.

        In reference mode the sixth does not apply: it is shown as passed, with a detail that says so. When the document could not be
        read as a package, none was run: they are shown as failed.
        """
        run = {check.name: check for check in self.checks}
        if VERIFY_BINDING_DIGEST in run:
            missing = VerificationCheck(VERIFY_ROUTER_DIGEST, ok=True, detail="does not apply: no record is embedded")
            return [run.get(name, missing) for name in PACKAGE_CHECKS]
        return [VerificationCheck(name, ok=False, detail="not run: the document is no readable audit package") for name in PACKAGE_CHECKS]

    def to_dict(self) -> dict[str, Any]:
        """`ok`, `checks`, and their numbers `passed`, `failed`, `total`."""
        passed = sum(check.ok for check in self.checks)
        return {
            "ok": self.ok,
            "checks": [check.to_dict() for check in self.checks],
            "passed": passed,
            "failed": len(self.checks) - passed,
            "total": len(self.checks),
        }


def judge(name: str, findings: Callable[[], Iterable[Finding]]) -> VerificationCheck:
    """Run one check: it passes when nothing that it finds fails. `expected` and `actual` are those of the first failing finding.

    A check that cannot be computed, because the content is no JSON or endlessly nested, has failed.
    """
    found: list[Finding] = []
    try:
        for finding in findings():
            found.append(finding)
    except (ValueError, TypeError, RecursionError) as error:
        found.append(Finding(f"cannot be computed: {error}"))
    first = next((finding for finding in found if finding.fails), None)
    detail = "; ".join(finding.detail for finding in found) or None
    if first is None:
        return VerificationCheck(name, ok=True, detail=detail)
    return VerificationCheck(name, ok=False, expected=first.expected, actual=first.actual, detail=detail)


def unreadable(problem: object) -> VerificationResult:
    """The result for a document that could not be taken apart: the single failed check `schema`."""
    return VerificationResult(ok=False, checks=[VerificationCheck(VERIFY_SCHEMA, ok=False, detail=str(problem))])
