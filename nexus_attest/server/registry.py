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
"""Where a tool works: short reads in the event loop, what writes or takes longer in a thread, executions in threads of their own."""


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
    idempotent: bool = False
    open_world: bool = False
    extra: bool = False
    document: str | None = None
    input_schema: Mapping[str, Any]
    hints: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def read_only(self) -> bool:
        """Whether it leaves the store as it is."""
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


def _published(short: str, **facts: Any) -> ToolSpec:
    return ToolSpec(short=short, method=short.replace(".", "_"), input_schema=published_schema(short), **facts)


def _extra(short: str, method: str, properties: Mapping[str, Any], required: list[str], **facts: Any) -> ToolSpec:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return ToolSpec(short=short, method=method, input_schema=schema, extra=True, **facts)


_ACTOR = published_schema("approve")["properties"]["actor"]
_ID = {"type": "string"}
_REASON = {"type": "string", "default": ""}

TOOLS: tuple[ToolSpec, ...] = (
    _published(
        "request",
        title="Request an action",
        scope="request",
        description=(
            "Ask permission for an action; runs nothing. Returns request_id and how many different actors must approve. "
            "Then tell the user, poll status, and call execute once is_approved."
        ),
        hints={
            "goal": "What approvers judge, word for word.",
            "mode": "dry_run (default) simulates, apply acts.",
            "plan": 'JSON list of {"tool","method","args"}, run in order.',
            "template_name": "Policy to start from, see template.list.",
        },
    ),
    _published(
        "approve",
        title="Approve a request",
        scope="approve",
        description=(
            "Record one actor's approval of exactly this action. Only on that actor's explicit instruction; inspect it first. "
            "When is_approved is true, execute may run it."
        ),
        hints={"actor": "Who approves; ids count once.", "comment": "Why; kept as evidence."},
    ),
    _published(
        "execute",
        title="Execute an approved request",
        scope="execute",
        place="run",
        destructive=True,
        open_world=True,
        description=(
            "Run an approved action, at most once; approvals are checked again now. Returns run_id. "
            "Do not repeat it after an error: look at status. Then export_audit_package."
        ),
        hints={"adapter_id": "What runs it; the operator names it.", "dry_run": "true only rehearses; default: as requested."},
    ),
    _published(
        "status",
        title="Status of a request",
        scope="read",
        place="loop",
        document="bundle",
        idempotent=True,
        description="State, approvals, executions of a request, and blocking_reasons: what is still missing before execute.",
    ),
    _published(
        "inspect",
        title="Inspect a decision",
        scope="read",
        document="bundle",
        idempotent=True,
        description="A report on a decision (its request_id) for a person: verdict, approvals, policy, timeline. Show it before approve.",
    ),
    _published(
        "template.create",
        title="Create a policy template",
        scope="request",
        description="Store a named policy for template_name of request. It can never be changed.",
    ),
    _published(
        "template.get",
        title="Get a policy template",
        scope="read",
        idempotent=True,
        description="One policy template by its exact name.",
    ),
    _published(
        "template.list",
        title="List policy templates",
        scope="read",
        idempotent=True,
        description="Policy templates, newest first, by page.",
    ),
    _published(
        "export_bundle",
        title="Export a decision",
        scope="read",
        document="bundle",
        idempotent=True,
        description="A decision with all its events as one portable document with digest, for import_bundle elsewhere.",
    ),
    _published(
        "import_bundle",
        title="Import a decision",
        scope="admin",
        destructive=True,
        description="Store a decision exported elsewhere. Its content is the exporter's claim, not proof.",
    ),
    _published(
        "export_audit_package",
        title="Export an audit package",
        scope="read",
        document="audit-package",
        idempotent=True,
        description="Evidence of an executed decision: what was allowed, by whom, what ran. Anyone can verify it offline.",
    ),
    _extra(
        "revoke_approval",
        "revoke_approval",
        {"request_id": _ID, "actor": _ACTOR, "reason": _REASON},
        ["request_id", "actor"],
        title="Revoke an approval",
        scope="approve",
        description="Take an actor's own approval back, before it is used.",
    ),
    _extra(
        "list",
        "list_requests",
        {
            "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
            "offset": {"type": "integer", "minimum": 0, "default": 0},
        },
        [],
        title="List decisions",
        scope="read",
        idempotent=True,
        description="Decisions with their states, newest first, by page.",
    ),
    _extra(
        "recover",
        "recover_execution",
        {"request_id": _ID, "actor": _ACTOR, "reason": _REASON},
        ["request_id", "actor"],
        title="Recover an abandoned execution",
        scope="admin",
        destructive=True,
        description="Declare an execution dead whose process is gone. Whether it took effect stays unknown.",
    ),
)
"""In the order of the tool list. The eleven published tools first, then those that `--extra-tools` adds."""
