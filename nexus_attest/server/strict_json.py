"""JSON that readers could understand differently: refused on both transports before anybody understands it."""

import json

from nexus_control.json_data import decode_json

__all__ = ["Ambiguous", "read_json"]

_MOST_SHOWN = 100


class Ambiguous(ValueError):
    """The text has no single meaning; says why."""


def read_json(text: bytes) -> object:
    """The value of a JSON text, None for a text that is none.

    Raises Ambiguous for a member that is there twice, for NaN, infinities, and numbers that overflow a float.
    """
    try:
        return decode_json(text.decode())
    except ValueError as problem:
        reason = str(problem)
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    raise Ambiguous(reason if len(reason) <= _MOST_SHOWN else f"... {reason[-_MOST_SHOWN:]}")
