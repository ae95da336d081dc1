"""The execution layer: does the record of the run recompute, and is it of the run that the decision led to?"""

from nexus_control.audit_package import AuditPackage
from nexus_control.history import History
from nexus_control.layers import Gap, Layer, LayerName
from nexus_control.router_record import content_findings
from nexus_control.verification import judge

__all__ = ["execution_layer"]

_EMBEDDED = "a package with the record of the run (`nexus-attest case export --embed`)"
_JUDGEABLE = "a flight record: a run bundle with the response that the router returned"


def execution_layer(package: AuditPackage | None, history: History | None) -> Layer:
    """Judge the embedded record of a package. Never raises for what it holds."""
    name = LayerName.EXECUTION
    if history is not None and not history.runs:
        return Layer(name, gaps=[Gap("nothing was run", "the evidence of a decision that was executed")])
    if package is None or package.router.bundle is None:
        return Layer(name, gaps=[Gap("the record of the run is not in the file, at most its digest", _EMBEDDED)])
    record = package.router.bundle
    check = judge("record", lambda: content_findings(record, strict=False, router_digest_fn=None))
    if check.ok and check.detail is not None:  # a remark: something could not be judged
        return Layer(name, gaps=[Gap(check.detail, _JUDGEABLE)])
    return Layer(name, [check])
