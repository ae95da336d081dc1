"""What a tool call answers: structured content with the same JSON as text, or an error that a model can read and a program branch on.

An error never carries `structuredContent`: strict clients validate it against the output schema of successes and throw the error away.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nexus_attest.server.errors import InvalidArguments
from nexus_control.errors import NexusError

__all__ = [
    "ADVICE",
    "CANONICAL_KEY",
    "ERROR_KEY",
    "INLINE_LIMIT",
    "compact",
    "digest_of",
    "failure",
    "linked",
    "refusal",
    "safe_text",
    "success",
]

ERROR_KEY = "io.github.nexus-attest/error"
"""Key in `_meta` of an error result: `{"code", "message"}` and, where arguments are wrong, `paths`."""

CANONICAL_KEY = "io.github.nexus-attest/canonical"
"""Key in `_meta` of a listed tool: its published, dotted name."""

INLINE_LIMIT = 65_536
"""Bytes of JSON text up to which a result travels in the answer itself, where it takes its size twice."""

ADVICE: Mapping[str, str] = {
    "ACTOR_MISMATCH": "Leave actor out.",
    "ACTION_CHANGED": "Make a new request for the action as it is now.",
    "ALREADY_APPROVED": "Somebody else has to approve; status tells how many are missing.",
    "ALREADY_EXECUTED": "Call export_audit_package for the evidence; a new run needs a new request.",
    "DECISION_NOT_FOUND": "Use the request_id that request returned.",
    "EXECUTION_FAILED": "Look at inspect, then make a new request, or ask the operator to retry it on the command line.",
    "EXECUTION_IN_PROGRESS": "Call status later; do not call execute again.",
    "HUMAN_DECLINED": "Do not ask again; tell the user.",
    "HUMAN_REQUIRED": "Show the user that command; do not run it yourself. Then poll status.",
    "INVALID_ARGUMENTS": "Correct them and call again; nothing was done.",
    "INVALID_EXPIRES_AT": "Give an ISO 8601 time with offset, such as 2030-01-31T18:00:00+01:00.",
    "NO_ROUTER_LINK": "Only executed decisions have one: call execute first, or export_bundle instead.",
    "OUTCOME_NOT_RECORDED": "Tell the operator; do not run it again.",
    "POLICY_VALIDATION_FAILED": "Call status: blocking_reasons names what is missing.",
    "ROUTER_NOT_CONFIGURED": "Ask the operator to start the server with --adapters FILE.",
    "SCOPE_MISSING": "Ask the operator for a token that allows it, or let somebody else do this.",
    "SELF_APPROVAL": "Somebody else has to approve, with a signature where it was imported.",
    "STORE_BUSY": "Try again.",
    "TEMPLATE_ALREADY_EXISTS": "Templates never change: choose another name.",
    "TEMPLATE_NOT_FOUND": "Call template.list for the names.",
}
"""What to do next, by code; appended to the text of an error."""


def success(data: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A result on the wire. `text` is the JSON of `data`."""
    return {"content": [{"type": "text", "text": text}], "structuredContent": data, "resultType": "complete"}


def linked(data: Mapping[str, Any], resource: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A result whose document is read from a resource."""
    shown = {**data, "resource": dict(resource)}
    link = {
        "type": "resource_link",
        "uri": resource["uri"],
        "name": title,
        "mimeType": resource["mime_type"],
        "size": resource["size"],
    }
    return {"content": [{"type": "text", "text": compact(shown)}, link], "structuredContent": shown, "resultType": "complete"}


def refusal(error: NexusError) -> dict[str, Any]:
    """An error result for an error that was foreseen."""
    more = {"paths": [safe_text(path) for path in error.paths]} if isinstance(error, InvalidArguments) else {}
    return failure(error.code, error.describe(), **more)


def failure(code: str, described: str, **more: Any) -> dict[str, Any]:
    """An error result: `CODE: what happened. What to do next.`"""
    text = safe_text(described)
    if not text.startswith(code):
        text = f"{code}: {text}"
    message = text.removeprefix(f"{code}: ")
    if code in ADVICE:
        text = f"{text if text.endswith(('.', '?')) else text + '.'} {ADVICE[code]}"
    return {
        "isError": True,
        "content": [{"type": "text", "text": text}],
        "_meta": {ERROR_KEY: {"code": code, "message": message, **more}},
        "resultType": "complete",
    }


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def compact(data: object) -> str:
    """JSON without white space, as UTF-8 can carry it."""
    return _ENCODER.encode(data)


def safe_text(text: str) -> str:
    """A text that may repeat what a caller sent, such that it can always be written: shortened, surrogates spelled out."""
    cut = text if len(text) <= 4_000 else f"{text[:4_000]} ..."
    return cut.encode("utf-8", "backslashreplace").decode()


def digest_of(text: str) -> str:
    """`sha256:` and the hash of the text's bytes: what a reader of a linked resource can compare."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
