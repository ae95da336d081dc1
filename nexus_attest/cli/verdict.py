"""A file of evidence, judged: every check of its kind, and what it claims, put together for a reader."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from nexus_control.bundle import DecisionBundle
from nexus_control.bundle_checks import replay_bundle
from nexus_control.decision import Decision
from nexus_control.errors import MalformedBundle, NexusError
from nexus_control.evidence import DocumentReport, verify_document
from nexus_control.json_data import parse_json
from nexus_control.verification import VerificationCheck

__all__ = ["Claims", "Verdict", "judge_document"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a file says happened. Worth as much as its checks: of a file that fails, it is what somebody wants to be believed."""

    decision: Decision
    binding_digest: str | None

    def to_dict(self) -> dict[str, Any]:
        """The claims as JSON data."""
        decision, execution = self.decision, self.decision.latest_execution
        return {
            "decision_id": decision.decision_id,
            "goal": decision.goal,
            "state": decision.state.value,
            "min_approvals": None if decision.policy is None else decision.policy.min_approvals,
            "approved_by": [dict(approval.actor) for approval in decision.approvals.values() if not approval.revoked],
            "run_id": None if execution is None else execution.run_id,
            "binding_digest": self.binding_digest,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The report of a file, and its claims when it can be read that far. `expected`: the digest that it was compared with."""

    report: DocumentReport
    claims: Claims | None
    expected: str | None

    @property
    def checks(self) -> list[VerificationCheck]:
        """The checks as they are shown: of an audit package always the six, then those that were asked for besides."""
        result = self.report.result
        if self.report.kind != "audit_package":
            return result.checks
        six = result.all_checks
        names = {check.name for check in six}
        return [*six, *(check for check in result.checks if check.name not in names)]

    def to_dict(self) -> dict[str, Any]:
        """The members of the report, and `claims` (null when the file cannot be read that far)."""
        return {**self.report.to_dict(), "claims": None if self.claims is None else self.claims.to_dict()}


def judge_document(content: bytes, *, expected: str | None = None, strict: bool = False) -> Verdict:
    """Run every check over the JSON text of a document. Nothing is raised for a bad one."""
    document: Any = content
    with suppress(MalformedBundle):  # text that is no JSON is judged as it is
        document = parse_json(content)
    report = verify_document(document, strict=strict, expected_binding_digest=expected)
    return Verdict(report, _claims(report, document), expected)


def _claims(report: DocumentReport, document: Any) -> Claims | None:
    if report.kind == "unknown":
        return None
    data = cast("dict[str, Any]", document)
    try:
        bundle = DecisionBundle.from_dict(data["control_bundle"] if report.kind == "audit_package" else data)
        decision = replay_bundle(bundle.decision.decision_id, sorted(bundle.events, key=lambda event: event.seq))
    except NexusError:
        return None
    integrity: object = data.get("integrity")
    binding: object = cast("dict[str, Any]", integrity).get("binding_digest") if isinstance(integrity, dict) else None
    return Claims(decision, binding if isinstance(binding, str) else None)
