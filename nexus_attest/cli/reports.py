"""Reports of evidence for machines that show them: JUnit XML, and SARIF 2.1.0 for code scanning.

JUnit has no format of its own but what CI systems read: a suite per layer, a case per check, what could not be checked is skipped.
SARIF: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html; a rule per layer, results for what failed and what is missing.
"""

import json
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from nexus_control import __version__
from nexus_control.evidence import EvidenceReport, Layer, LayerName, Outcome
from nexus_control.markdown import printable
from nexus_control.verification import VerificationCheck

__all__ = ["junit_report", "sarif_report"]

_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_QUESTIONS = {
    LayerName.INTEGRITY: "Do all digests recompute?",
    LayerName.AUTHORIZATION: "Did valid approvals satisfy the policy when it was executed, and was the approved action run?",
    LayerName.SIGNATURES: "Did trusted keys sign approvals and attestations?",
    LayerName.EXECUTION: "Does the record of the run recompute and match?",
    LayerName.LOG: "Was every event in the log, and does that log extend the one that was known?",
    LayerName.WITNESS: "Is the digest in a validated ledger transaction?",
}


def junit_report(name: str, report: EvidenceReport) -> str:
    """The report as JUnit XML, in ASCII. A required layer that is INCOMPLETE is a failure."""
    root = Element("testsuites", name=printable(name))
    for layer in report.layers:
        suite = SubElement(root, "testsuite", name=layer.name.value)
        for check in layer.checks:
            case = SubElement(suite, "testcase", classname=f"nexus-attest.{layer.name}", name=printable(check.name))
            if not check.ok:
                SubElement(case, "failure", message=_failure(check)).text = _failure(check)
        missing = report.ok or layer.name not in report.failed
        for gap in layer.gaps:
            case = SubElement(suite, "testcase", classname=f"nexus-attest.{layer.name}", name=printable(gap.what))
            text = f"not checked; needed: {printable(gap.needed)}"
            SubElement(case, "skipped" if missing else "failure", message=text)
        _count(suite)
    indent(root)
    return tostring(root, encoding="us-ascii", xml_declaration=True).decode()


def _count(suite: Element) -> None:
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))


def sarif_report(name: str, report: EvidenceReport) -> str:
    """The report as SARIF, in ASCII. Failures are errors; what is missing is a note, or an error in a required layer."""
    results: list[dict[str, Any]] = []
    for layer in report.layers:
        results += [_result(layer, "error", f"{printable(check.name)}: {_failure(check)}", name) for check in layer.checks if not check.ok]
        level = "error" if layer.name in report.required and layer.outcome is not Outcome.PASS else "note"
        results += [_result(layer, level, f"{printable(gap.what)}; needed: {printable(gap.needed)}", name) for gap in layer.gaps]
    rules = [{"id": layer.value, "shortDescription": {"text": question}} for layer, question in _QUESTIONS.items()]
    driver = {"name": "nexus-attest", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(layer: Layer, level: str, text: str, name: str) -> dict[str, Any]:
    location = {"physicalLocation": {"artifactLocation": {"uri": quote(name, errors="backslashreplace")}, "region": {"startLine": 1}}}
    return {"ruleId": layer.name.value, "level": level, "message": {"text": text}, "locations": [location]}


def _failure(check: VerificationCheck) -> str:
    parts = [check.detail, *(f"{name} {value}" for name, value in (("expected", check.expected), ("actual", check.actual)) if value)]
    return printable("; ".join(part for part in parts if part) or "failed")
