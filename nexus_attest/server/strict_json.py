"""JSON that readers could understand differently: refused on both transports before anybody understands it."""

import json

from nexus_control.json_data import decode_json

__all__ = ["ambiguity"]


def ambiguity(text: bytes) -> str | None:
    """Why this JSON has no single meaning: a member that is there twice, a number that is none. None for other texts, JSON or not."""
    try:
        decode_json(text.decode())
    except ValueError as problem:
        reason = str(problem)
    else:
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    return reason
