"""What a tool call answers: structured content with the same JSON as text, or an error that a model can read and a program branch on.

An error never carries `structuredContent`: strict clients validate it against the output schema of successes and throw the error away.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mcp import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS

from nexus_attest.server.advice import next_step
from nexus_attest.server.discretion import FAULTS, RETRYABLE, told
from nexus_attest.server.errors import ApprovalPending, HumanRequired, InvalidArguments
from nexus_control.errors import NexusError

__all__ = [
    "CANONICAL_KEY",
    "ERROR_KEY",
    "INLINE_LIMIT",
    "compact",
    "digest_of",
    "failure",
    "linked",
    "protocol_error",
    "refusal",
    "safe_text",
    "success",
    "writable",
]

ERROR_KEY = "io.github.nexus-attest/error"
"""Key in `_meta` of an error result: `{"code", "message"}`, and what helps programs.

`paths` are those of wrong arguments; `command` and `url` are where a person can decide, at a terminal and on a page; `retryable` is true
where nothing was done and the same call can succeed later, and not there otherwise.
"""

CANONICAL_KEY = "io.github.nexus-attest/canonical"
"""Key in `_meta` of a listed tool: its published, dotted name."""

_UNSOUND = {"EVENT_UNREADABLE", "HISTORY_ALTERED", "NEXUS_ERROR"}
"""Codes that tell of what is stored, or of a program, and not of the call."""

INLINE_LIMIT = 65_536
"""Bytes of JSON text up to which a result travels in the answer itself, where it takes its size twice."""


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
    more: dict[str, Any] = {}
    if isinstance(error, ApprovalPending | HumanRequired):
        more["command"] = writable(error.command)
        if isinstance(error, ApprovalPending):
            more["url"] = error.url
        return _failure(error.code, writable(str(error)), more)  # not shortened: half a command does something else, or nothing
    if isinstance(error, InvalidArguments):
        more["paths"] = [safe_text(path) for path in error.paths]
    return failure(error.code, error.describe(), **more)


def failure(code: str, described: str, **more: Any) -> dict[str, Any]:
    """An error result: `CODE: what happened. What to do next.`"""
    return _failure(code, _message(code, described), more)


def _failure(code: str, message: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "isError": True,
        "content": [{"type": "text", "text": _whole(code, message)}],
        "_meta": {ERROR_KEY: {"code": code, "message": message, **({"retryable": True} if code in RETRYABLE else {}), **more}},
        "resultType": "complete",
    }


def protocol_error(code: str, described: str, **data: Any) -> MCPError:
    """The same for methods that have no error results: -32602 for what the caller can mend, -32603 for the server's own trouble.

    `data` has `code`, and `retryable` as in `_meta` of an error result.
    """
    number = INTERNAL_ERROR if code in FAULTS or code in _UNSOUND else INVALID_PARAMS
    known = {"code": code, **({"retryable": True} if code in RETRYABLE else {}), **data}
    return MCPError(number, _whole(code, _message(code, described)), known)


def _message(code: str, described: str) -> str:
    """What happened, without the code."""
    return safe_text(told(code, described.removeprefix(f"{code}: ")))


def _whole(code: str, message: str) -> str:
    return f"{code}: {message if message.endswith(('.', '?')) else message + '.'} {next_step(code)}"


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def compact(data: object) -> str:
    """JSON without white space, as UTF-8 can carry it."""
    return _ENCODER.encode(data)


def safe_text(text: str) -> str:
    """A text that may repeat what a caller sent, such that it can always be written: shortened, surrogates spelled out."""
    return writable(text if len(text) <= 4_000 else f"{text[:4_000]} ...")


def writable(text: str) -> str:
    """The whole text with surrogates spelled out, which UTF-8 has none of."""
    return text.encode("utf-8", "backslashreplace").decode()


def digest_of(text: str) -> str:
    """`sha256:` and the hash of the text's bytes: what a reader of a linked resource can compare."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
