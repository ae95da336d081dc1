"""A report of evidence as plain text for an auditor: what was asked, who allowed it, what ran, what was checked, what could not be.

Whatever a document says is escaped, so that it can neither move the cursor nor forge a line of the report.
"""

from collections.abc import Iterator

from nexus_control.evidence import EvidenceReport
from nexus_control.layers import Gap, Layer, LayerName, Outcome
from nexus_control.markdown import printable
from nexus_control.story import Allowance, Story
from nexus_control.verification import VerificationCheck

__all__ = ["conclusion", "report_lines"]

_KINDS = {
    "audit_package": "audit package",
    "decision_bundle": "decision bundle",
    "case_file": "case file",
    "sealed_case": "case file in a signed envelope",
    "narrative": "narrative",
    "unknown": "nothing that is known here",
}
_WIDTH = max(len(outcome) for outcome in Outcome)

_BY_ITSELF = (
    "The parts of this file belong together. Whoever can change a file can recompute every digest in it, and write any name into it: that "
    "it is the original, and that these people said this, takes a signature, a checkpoint, a witness, or its binding digest from elsewhere"
)
_EXPECTED = "It is the package that the expected binding digest was taken of."


def report_lines(name: str, report: EvidenceReport) -> Iterator[str]:
    """The lines of the report on the file called `name`."""
    yield f"{printable(name)}: {_KINDS[report.kind]}"
    if report.story is not None:
        yield from _story_lines(report.story)
    yield ""
    yield "What was checked"
    for layer in report.layers:
        yield from _layer_lines(layer, required=layer.name in report.required)
    missing: dict[Gap, list[str]] = {}
    for layer in report.layers:
        for gap in layer.gaps:
            missing.setdefault(gap, []).append(layer.name)
    if missing:
        yield ""
        yield "What could not be checked, and what that would take"
    for gap, layers in missing.items():
        yield f"  {', '.join(layers)}: {printable(gap.what)}"
        yield f"      needed: {printable(gap.needed)}"
    yield ""
    yield conclusion(report)


def conclusion(report: EvidenceReport) -> str:
    """The last word: what failed, or how far a file that did not fail can be relied on."""
    if report.failed:
        return f"FAILED: {', '.join(report.failed)}. Do not rely on this file."
    passed = {layer.name for layer in report.layers if layer.outcome is Outcome.PASS}
    incomplete = [layer.name for layer in report.layers if layer.outcome is Outcome.INCOMPLETE]
    unknown = f" Not known: {', '.join(incomplete)}." if incomplete else ""
    if passed & {LayerName.SIGNATURES, LayerName.LOG, LayerName.WITNESS}:
        return f"ok: {', '.join(name for name in LayerName if name in passed)}.{unknown}"
    expected = report.kind != "narrative" and any(
        check.name == "expected_binding_digest" for check in report.layer(LayerName.INTEGRITY).checks
    )
    return f"ok, as far as the file itself goes. {_EXPECTED if expected else _BY_ITSELF + '.'}{unknown}"


def _story_lines(story: Story) -> Iterator[str]:
    yield ""
    yield "What was asked"
    yield f"  decision   {printable(story.decision_id)}, {story.state}"
    yield f"  goal       {_or_none(story.goal)}"
    if story.plan is not None:
        yield f"  plan       {printable(story.plan)}"
    yield f"  mode       {_or_none(story.mode)}"
    if story.labels:
        yield f"  labels     {', '.join(map(printable, story.labels))}"
    if story.requested_by is not None:
        yield f"  requested  {story.requested_at} by {_actor(story.requested_by)}"
    if story.binding_digest is not None:
        yield f"  digest     {printable(story.binding_digest)}"
    yield ""
    needed = "no policy" if story.needed is None else f"{story.needed} needed"
    yield f"Who allowed it ({len(story.allowed_by)} of {needed})" if story.needed is not None else f"Who allowed it ({needed})"
    for approval in story.allowed_by:
        yield f"  {_allowance(approval)}"
    if not story.allowed_by:
        yield "  nobody"
    yield ""
    yield "What ran" if story.runs < 2 else f"What ran (the last of {story.runs} runs)"
    run = story.run
    if run is None:
        yield "  nothing"
        return
    steps = "" if run.steps_executed is None else f", {run.steps_executed} steps"
    error = "" if run.error_code is None else f" ({printable(run.error_code)})"
    yield f"  {run.at} {run.mode} through {printable(run.adapter_id)}, asked for by {_actor(run.actor)}"
    yield f"  run {_or_none(run.run_id)}: {run.outcome}{error}{steps}"


def _layer_lines(layer: Layer, *, required: bool) -> Iterator[str]:
    outcome = layer.outcome
    yield f"  {outcome:<{_WIDTH}}  {layer.name}{' (required)' if required else ''}"
    for check in layer.checks:
        yield from _check_lines(check)


def _check_lines(check: VerificationCheck) -> Iterator[str]:
    indent = " " * (_WIDTH + 6)
    yield f"{indent}{'ok' if check.ok else 'FAILED'} {printable(check.name)}" + (f": {printable(check.detail)}" if check.detail else "")
    if not check.ok:
        for name, value in (("expected", check.expected), ("actual", check.actual)):
            if value is not None:
                yield f"{indent}    {name} {printable(value)}"


def _allowance(approval: Allowance) -> str:
    expires = "" if approval.expires_at is None else f", until {approval.expires_at}"
    comment = "" if approval.comment is None else f": {printable(approval.comment)}"
    return f"{_actor(approval.actor)}, {approval.assurance}, {approval.at}{expires}{comment}"


def _actor(actor: dict[str, str]) -> str:
    return printable(actor["id"]) if actor["type"] == "human" else f"system:{printable(actor['id'])}"


def _or_none(value: str | None) -> str:
    return "(none)" if value is None else printable(value)
