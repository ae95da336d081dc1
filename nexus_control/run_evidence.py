"""The execution layer: is the record of the run true to itself, and of the run that the decision led to?"""

from nexus_control.audit_package import AuditPackage
from nexus_control.flight_checks import FlightCheck, FlightOutcome, judge_flight_record
from nexus_control.flight_subject import Subject
from nexus_control.history import History
from nexus_control.layers import Gap, Layer, LayerName
from nexus_control.verification import VerificationCheck

__all__ = ["execution_layer"]


def execution_layer(package: AuditPackage | None, history: History | None) -> Layer:
    """Judge the embedded record of a package by the checks of `flight_checks`. Never raises for what it holds."""
    name = LayerName.EXECUTION
    if history is not None and not history.runs:
        return Layer(name, gaps=[Gap("nothing was run", "the evidence of a decision that was executed")])
    if package is None or package.router.bundle is None:
        needed = "a package with the record of the run (`nexus-attest case export --embed`)"
        return Layer(name, gaps=[Gap("the record of the run is not in the file, at most its digest", needed)])
    decision = None if history is None else history.decision
    found = judge_flight_record(Subject(package, package.router.bundle, decision)).checks
    judged = [_check(check) for check in found if check.outcome is not FlightOutcome.NOT_VERIFIABLE]
    return Layer(name, judged, [_gap(check) for check in found if check.outcome is FlightOutcome.NOT_VERIFIABLE])


def _check(check: FlightCheck) -> VerificationCheck:
    return VerificationCheck(check.name, check.outcome is FlightOutcome.PASS, check.expected, check.actual, check.detail)


def _gap(check: FlightCheck) -> Gap:
    return Gap(f"{check.name}: {check.detail}", "a flight record: a run bundle with the response that the router returned")
