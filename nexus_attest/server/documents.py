"""What can be read as a resource: the URIs, and the text behind each.

    nexus://decisions/{id}                  the decision as it stands, with what blocks it
    nexus://decisions/{id}/timeline         what happened, in order
    nexus://decisions/{id}/bundle           the portable document with all events
    nexus://decisions/{id}/audit-package    the evidence of an executed decision
    nexus://templates/{name}                a policy template

Ids and names are percent-encoded (RFC 3986). Bundle and package are canonical JSON without `meta`, the time of export: as long as nothing
happens to the decision, every read gives the same bytes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from nexus_attest.server.results import compact
from nexus_control.canonical_json import canonical_json
from nexus_control.decision import Decision
from nexus_control.errors import CodedError
from nexus_control.lifecycle import compute_lifecycle
from nexus_control.tool import NexusControlTools, ToolResult

__all__ = ["JSON", "KINDS", "Kind", "parse_uri"]

JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A family of resources. `template` is its RFC 6570 URI template with one variable, `read` gives the text of one."""

    name: str
    title: str
    description: str
    template: str
    variable: str
    read: Callable[[NexusControlTools, str], str]

    def uri(self, value: str) -> str:
        """The URI of one resource of this kind."""
        return self.template.replace(f"{{{self.variable}}}", quote(value, safe=""))


def _data(result: ToolResult) -> Mapping[str, Any]:
    if result.success:
        return result.data
    raise CodedError(str(result.code), str(result.error).removeprefix(f"{result.code}: "))


def _decision(tools: NexusControlTools, decision_id: str) -> str:
    return compact(_data(tools.status(decision_id)))


def _timeline(tools: NexusControlTools, decision_id: str) -> str:
    decision = Decision.load(tools.store, decision_id, as_of=tools.store.clock(), trust=tools.trust)
    lifecycle = compute_lifecycle(decision, timeline_limit=None)
    return compact({"decision_id": decision_id, "timeline": [entry.to_dict() for entry in lifecycle.timeline]})


def _bundle(tools: NexusControlTools, decision_id: str) -> str:
    return str(_data(tools.export_bundle(decision_id, render=False))["canonical_json"])


def _audit_package(tools: NexusControlTools, decision_id: str) -> str:
    return package_text(_data(tools.export_audit_package(decision_id, render=False))["package"])


def _template(tools: NexusControlTools, name: str) -> str:
    return compact(_data(tools.template_get(name)))


def package_text(package: Mapping[str, Any]) -> str:
    """A package as its resource gives it."""
    bundle = {key: value for key, value in package["control_bundle"].items() if key != "meta"}
    return canonical_json({**{key: value for key, value in package.items() if key != "meta"}, "control_bundle": bundle})


def _of_decision(name: str, title: str, description: str, read: Callable[[NexusControlTools, str], str], suffix: str = "") -> Kind:
    template = f"nexus://decisions/{{decision_id}}{suffix}"
    return Kind(name=name, title=title, description=description, template=template, variable="decision_id", read=read)


_KINDS = (
    _of_decision("decision", "Decision", "The decision as it stands: goal, policy, approvals, executions, and what blocks it.", _decision),
    _of_decision("timeline", "Timeline of a decision", "What happened to the decision, in order.", _timeline, "/timeline"),
    _of_decision("bundle", "Decision bundle", "The decision with all its events as one portable document.", _bundle, "/bundle"),
    _of_decision(
        "audit-package",
        "Audit package",
        "Evidence of an executed decision: what was allowed, by whom, and what ran.",
        _audit_package,
        "/audit-package",
    ),
    Kind(
        name="template",
        title="Policy template",
        description="A named policy that requests can start from.",
        template="nexus://templates/{name}",
        variable="name",
        read=_template,
    ),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}
"""By name."""

_PATTERNS = [(kind, re.compile(re.escape(kind.template).replace(rf"\{{{kind.variable}\}}", r"([^/?#\ud800-\udfff]+)"))) for kind in _KINDS]


def parse_uri(uri: str) -> tuple[Kind, str] | None:
    """Kind and id (or name) of a resource; None for a URI of another form, or with a lone surrogate, which nothing stored has."""
    for kind, pattern in _PATTERNS:
        if found := pattern.fullmatch(uri):
            return kind, unquote(found[1])
    return None
