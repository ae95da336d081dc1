"""What a tool answered, as the one JSON object that can be recorded and hashed, or why it is none."""

import json
from codecs import BOM_UTF8
from typing import Any, cast

from nexus_attest.routers.errors import CallFailed, CallOutcome
from nexus_control.run_json import read_json

__all__ = ["one_line", "read_object"]


def read_object(data: bytes, *, said: str, code: str) -> dict[str, Any]:
    """The JSON object of an answer; `said` begins the message otherwise ("Command printed").

    Raises CallFailed with `code` and the outcome `unknown`: whoever answers with success and something unreadable has done who knows what.
    No part of the answer gets into the message; a secret may stand there.
    """
    if data.startswith(BOM_UTF8):
        raise _unreadable(code, f"{said} a byte order mark (BOM) before its JSON")
    try:
        value = read_json(data.decode())
    except UnicodeDecodeError:
        raise _unreadable(code, f"{said} bytes that are not UTF-8") from None
    except json.JSONDecodeError as problem:
        raise _unreadable(code, f"{said} something that is not one JSON object: {problem}") from None
    except ValueError as problem:
        # The name of the key would be a part of the answer.
        flaw = "a duplicate key" if str(problem).startswith("duplicate key") else str(problem)
        raise _unreadable(code, f"{said} JSON that cannot be recorded: {flaw}") from None
    if not isinstance(value, dict):
        raise _unreadable(code, f"{said} JSON that is no object")
    return cast("dict[str, Any]", value)


def one_line(text: str) -> str:
    """A text in one line of printable characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _unreadable(code: str, message: str) -> CallFailed:
    return CallFailed(code, message, outcome=CallOutcome.UNKNOWN)
