"""What a tool call answers: structured content with the same JSON as text, or an error that a model can read and a program branch on.

An error never carries `structuredContent`: strict clients validate it against the output schema of successes and throw the error away.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from nexus_attest.server.advice import next_step
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
    "refusal",
    "safe_text",
    "success",
]

ERROR_KEY = "io.github.nexus-attest/error"
"""Key in `_meta` of an error result: `{"code", "message"}`, and what helps programs.

`paths` are those of wrong arguments; `command` and `url` are where a person can decide, at a terminal and on a page.
"""

CANONICAL_KEY = "io.github.nexus-attest/canonical"
"""Key in `_meta` of a listed tool: its published, dotted name."""

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
    if isinstance(error, InvalidArguments):
        more["paths"] = [safe_text(path) for path in error.paths]
    elif isinstance(error, ApprovalPending | HumanRequired):
        more["command"] = safe_text(error.command)
        if isinstance(error, ApprovalPending):
            more["url"] = error.url
    return failure(error.code, error.describe(), **more)


def failure(code: str, described: str, **more: Any) -> dict[str, Any]:
    """An error result: `CODE: what happened. What to do next.`"""
    text = safe_text(described)
    if not text.startswith(code):
        text = f"{code}: {text}"
    message = text.removeprefix(f"{code}: ")
    text = f"{text if text.endswith(('.', '?')) else text + '.'} {next_step(code)}"
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
