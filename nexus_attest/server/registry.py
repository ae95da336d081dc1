"""The one table of tools: what each is called, what a model is told about it, what it may do, and which call of the engine it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nexus_attest.server.outputs import OUTPUTS
from nexus_attest.server.schemas import published_schema

__all__ = ["TOOLS", "Scope", "ToolSpec"]

Scope = Literal["read", "request", "approve", "execute", "admin"]
"""What a caller must be allowed to do to use a tool."""

Place = Literal["loop", "thread", "run"]
"""Where a tool works: in the event loop if it is short, in a thread, executions in threads of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool. `short` is its name without prefix, `method` that of `NexusControlTools`; `hints` describe properties to models.

    `document` is the kind of resource that takes the place of a large result's document.
    """

    short: str
    method: str
    title: str
    description: str
    scope: Scope
    place: Place = "thread"
    destructive: bool = False
    open_world: bool = False
    extra: bool = False
    document: str | None = None
    input_schema: Mapping[str, Any]
    hints: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def read_only(self) -> bool:
        """Whether it leaves the store as it is, so that calling it again does no more than calling it once."""
        return self.scope == "read"

    @property
    def acts(self) -> bool:
        """Whether somebody acts in it: it has an `actor`."""
        return "actor" in self.input_schema["properties"]

    @property
    def records_identity(self) -> bool:
        """Whether its event says how the actor was established."""
        return self.short in ("request", "approve", "revoke_approval", "execute")

    @property
    def output_schema(self) -> Mapping[str, Any]:
        """What `structuredContent` of a success holds."""
        return OUTPUTS[self.short]


def _published(short: str, title: str, scope: Scope, description: str, **facts: Any) -> ToolSpec:
    method, schema = short.replace(".", "_"), published_schema(short)
    return ToolSpec(short=short, method=method, title=title, scope=scope, description=description, input_schema=schema, **facts)


def _extra(
    short: str, title: str, scope: Scope, description: str, *, required: list[str], properties: Mapping[str, Any], **facts: Any
) -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return ToolSpec(short=short, title=title, scope=scope, description=description, input_schema=schema, extra=True, **facts)


_ACTOR = published_schema("approve")["properties"]["actor"]
_ID = {"type": "string"}
_REASON = {"type": "string", "default": ""}
_ACT = {"request_id": _ID, "actor": _ACTOR, "reason": _REASON}

TOOLS: tuple[ToolSpec, ...] = (
    _published(
        "request",
        "Request an action",
        "request",
        "Ask permission for an action; runs nothing. Returns request_id and how many different actors must approve. "
        "Then tell the user, poll status, and call execute once is_approved.",
        hints={
            "goal": "What approvers judge, word for word.",
            "mode": "dry_run (default) simulates, apply acts.",
            "plan": 'JSON list of {"tool","method","args"}, run in order.',
            "template_name": "Policy to start from, see template.list.",
        },
    ),
    _published(
        "approve",
        "Approve a request",
        "approve",
        "Record one actor's approval of exactly this action. Only on that actor's explicit instruction; inspect it first. "
        "When is_approved is true, execute may run it.",
        hints={"actor": "Who approves; ids count once.", "comment": "Why; kept as evidence."},
    ),
    _published(
        "execute",
        "Execute an approved request",
        "execute",
        "Run an approved action, at most once; approvals are checked again now. Returns run_id. "
        "Do not repeat it after an error: look at status. Then export_audit_package.",
        place="run",
        destructive=True,
        open_world=True,
        hints={"adapter_id": "What runs it; the operator names it.", "dry_run": "true only rehearses; default: as requested."},
    ),
    _published(
        "status",
        "Status of a request",
        "read",
        "State, approvals, executions of a request, and blocking_reasons: what is still missing before execute.",
        place="loop",
        document="bundle",
    ),
    _published(
        "inspect",
        "Inspect a decision",
        "read",
        "A report on a decision (its request_id) for a person: verdict, approvals, policy, timeline. Show it before approve.",
        document="bundle",
    ),
    _published(
        "template.create",
        "Create a policy template",
        "request",
        "Store a named policy for template_name of request. It can never be changed.",
    ),
    _published("template.get", "Get a policy template", "read", "One policy template by its exact name."),
    _published("template.list", "List policy templates", "read", "Policy templates, newest first, by page."),
    _published(
        "export_bundle",
        "Export a decision",
        "read",
        "A decision with all its events as one portable document with digest, for import_bundle elsewhere.",
        document="bundle",
    ),
    _published(
        "import_bundle",
        "Import a decision",
        "admin",
        "Store a decision exported elsewhere. Its content is the exporter's claim, not proof.",
        destructive=True,
    ),
    _published(
        "export_audit_package",
        "Export an audit package",
        "read",
        "Evidence of an executed decision: what was allowed, by whom, what ran. Anyone can verify it offline.",
        document="audit-package",
    ),
    _extra(
        "revoke_approval",
        "Revoke an approval",
        "approve",
        "Take an actor's own approval back, before it is used.",
        method="revoke_approval",
        required=["request_id", "actor"],
        properties=_ACT,
    ),
    _extra(
        "list",
        "List decisions",
        "read",
        "Decisions with their states, newest first, by page.",
        method="list_requests",
        required=[],
        properties={
            "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
            "offset": {"type": "integer", "minimum": 0, "default": 0},
        },
    ),
    _extra(
        "recover",
        "Recover an abandoned execution",
        "admin",
        "Declare an execution dead whose process is gone. Whether it took effect stays unknown.",
        method="recover_execution",
        required=["request_id", "actor"],
        properties=_ACT,
        destructive=True,
    ),
)
"""In the order of the tool list. The eleven published tools first, then those that `--extra-tools` adds."""
