"""The output schemas of the tools: what `structuredContent` of a successful call holds.

They name what a caller may rely on; further keys may come. Documents that would be long are replaced by `resource`, which says where
to read them (`nexus_attest.server.results`).
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["OUTPUTS"]

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_OBJECT: Schema = {"type": "object"}
_ANY_OBJECTS: Schema = {"type": "array", "items": _OBJECT}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_TIME: Schema = {"type": "string", "format": "date-time"}
_RAW: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_PREFIXED: Schema = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
_MODE: Schema = {"type": "string", "enum": ["dry_run", "apply"]}
_STATE: Schema = {
    "type": "string",
    "enum": ["draft", "pending_approval", "approved", "executing", "completed", "failed"],
}


def _or_null(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_REASONS = _array(_object({"code": _TEXT, "message": _TEXT}, {"details": _OBJECT}))
_POLICY = _object(
    {
        "min_approvals": _COUNT,
        "allowed_modes": _array(_MODE),
        "require_adapter_capabilities": _TEXTS,
        "max_steps": _or_null(_COUNT),
        "labels": _TEXTS,
    }
)
_EXECUTION = _object(
    {"adapter_id": _or_null(_TEXT), "dry_run": _or_null(_FLAG)},
    {
        "requested_at": _or_null(_TIME),
        "started_at": _or_null(_TIME),
        "completed_at": _or_null(_TIME),
        "run_id": _or_null(_TEXT),
        "steps_executed": _or_null(_COUNT),
        "error_code": _or_null(_TEXT),
        "error_message": _or_null(_TEXT),
    },
)
_TEMPLATE = _object({"name": _TEXT, "digest": _or_null(_TEXT), "overrides_applied": _OBJECT})
_RESOURCE = _object({"uri": _TEXT, "mime_type": _TEXT, "size": _COUNT, "digest": _PREFIXED})
_LONG: Mapping[str, Schema] = {"resource": _RESOURCE}
_STANDING: Mapping[str, Schema] = {"request_id": _TEXT, "state": _STATE, "current_approvals": _COUNT, "is_approved": _FLAG}
_PAGE: Mapping[str, Schema] = {"count": _COUNT, "offset": _COUNT, "limit": _COUNT}

OUTPUTS: Mapping[str, Schema] = {
    "request": _object(
        {"request_id": _TEXT, "state": _STATE, "min_approvals": _COUNT, "current_approvals": _COUNT},
        {"template_name": _TEXT, "template_digest": _RAW, "overrides_applied": _OBJECT},
    ),
    "approve": _object({**_STANDING, "required_approvals": _COUNT}),
    "execute": _object(
        {
            "request_id": _TEXT,
            "run_id": _TEXT,
            "mode": _MODE,
            "steps_executed": _COUNT,
            "request_digest": _RAW,
            "response_digest": _RAW,
        }
    ),
    "status": _object(
        {
            "decision_id": _TEXT,
            "state": _STATE,
            "goal": _or_null(_TEXT),
            "plan": _or_null(_TEXT),
            "requested_mode": _or_null(_TEXT),
            "labels": _TEXTS,
            "policy": _or_null(_POLICY),
            "active_approvals": _COUNT,
            "total_approvals": _COUNT,
            "is_approved": _FLAG,
            "executions": _array(_EXECUTION),
            "event_count": _COUNT,
            "blocking_reasons": _REASONS,
        },
        {"template": _or_null(_TEMPLATE), "events": _ANY_OBJECTS, "look_alikes": _array(_TEXTS), **_LONG},
    ),
    "inspect": _object(
        {
            "ok": _FLAG,
            "decision": _object({"decision_id": _TEXT, "status": _TEXT, "mode": _TEXT, "goal": _or_null(_TEXT)}),
            "lifecycle": _OBJECT,
            "approval": _object({"min_approvals": _COUNT, "approved_count": _COUNT, "missing": _COUNT, "is_approved": _FLAG}),
            "policy": _or_null(_OBJECT),
            "template": _or_null(_OBJECT),
            "execution": _object({"requested": _FLAG}, {"run_id": _or_null(_TEXT), "outcome": _or_null(_TEXT)}),
        },
        {"timeline": _ANY_OBJECTS, "compiled_router_request": _OBJECT, "events": _ANY_OBJECTS, "rendered": _TEXT, **_LONG},
    ),
    "template.create": _object({"template_name": _TEXT, "description": _TEXT, "digest": _RAW, "created_at": _TIME}),
    "template.get": _object({"template": _OBJECT, "digest": _RAW, "snapshot": _OBJECT}, {"events": _ANY_OBJECTS}),
    "template.list": _object(
        {
            "templates": _array(
                _object({"name": _TEXT, "description": _TEXT, "min_approvals": _COUNT, "allowed_modes": _array(_MODE), "labels": _TEXTS})
            ),
            **_PAGE,
        }
    ),
    "export_bundle": _object({"digest": _PREFIXED}, {"bundle": _OBJECT, "canonical_json": _TEXT, "rendered": _TEXT, **_LONG}),
    "import_bundle": _object(
        {
            "ok": _FLAG,
            "imported": _object({"decision_id": _TEXT, "events_imported": _COUNT}),
            "digest_verified": _FLAG,
            "conflict_mode": _TEXT,
            "replay_ran": _FLAG,
        },
        {"replay": _or_null(_OBJECT)},
    ),
    "export_audit_package": _object({"digest": _PREFIXED}, {"package": _OBJECT, "rendered": _TEXT, **_LONG}),
    "revoke_approval": _object(_STANDING),
    "list": _object(
        {"requests": _array(_object({"request_id": _TEXT, "created_at": _TEXT, "state": _TEXT, "is_approved": _FLAG})), **_PAGE}
    ),
    "recover": _object({"request_id": _TEXT, "state": _STATE, "error_code": _TEXT}),
}
"""By the short name of the tool. JSON Schema 2020-12; the root is always an object, which the handshake era demands."""
