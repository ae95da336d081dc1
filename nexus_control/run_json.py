"""The JSON of plans, tool outputs and run records: read strictly, written as the one text that is hashed.

Reading refuses whatever two readers could understand differently or a digest could not cover. The written text is that of run bundles:
keys sorted by code point, no spaces, ASCII with `\\uXXXX` escapes, Python's spelling of floats. It is not RFC 8785: decisions are
hashed with `nexus_control.canonical_json`, runs with this, and the two are never exchanged.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, cast

from nexus_control.json_encoder import compact_encoder

__all__ = ["MAX_DEPTH", "UnsafeJson", "read_json", "require_plain", "run_json"]

MAX_DEPTH = 100
"""How deep lists and objects may nest. Far above any real plan or output, far below where a parser's stack ends."""


class UnsafeJson(ValueError):
    """The text is JSON, but means different things to different readers, or cannot be hashed."""


def read_json(text: str | bytes) -> object:
    """The value of a JSON text; bytes are in an encoding of Unicode.

    Raises json.JSONDecodeError when it is no JSON, and UnsafeJson for a duplicate key, NaN and infinities (also `1e999`), a lone
    surrogate, more than `MAX_DEPTH` levels, and integers of more digits than Python converts.
    """
    try:
        value: object = _decoder.decode(text) if isinstance(text, str) else json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise UnsafeJson(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as problem:
        raise UnsafeJson(str(problem)) from None
    require_plain(value)
    return value


def run_json(value: object) -> str:
    """The text of a JSON value. Raises ValueError for NaN, infinities and what contains itself, TypeError for what JSON cannot express."""
    try:
        return "".join(_encode(value, 0))
    except RecursionError:
        raise ValueError("nested too deeply, or circular") from None


_encode = compact_encoder(ascii_only=True, allow_nan=False)


def require_plain(value: object) -> None:
    """Raise UnsafeJson unless every number in a parsed JSON value is finite, every string is Unicode and the depth is in bounds."""
    pending: list[tuple[Iterable[object], int]] = [([value], 0)]
    while pending:
        members, depth = pending.pop()
        for member in members:
            if isinstance(member, str):
                if not member.isascii():
                    _require_unicode(member)
            elif isinstance(member, (dict, list)):
                if depth == MAX_DEPTH:
                    raise UnsafeJson(f"nested deeper than {MAX_DEPTH} levels")
                if isinstance(member, dict):
                    named = cast("dict[str, object]", member)
                    for key in named:
                        if not key.isascii():
                            _require_unicode(key)
                    pending.append((named.values(), depth + 1))
                else:
                    pending.append((cast("list[object]", member), depth + 1))
            elif isinstance(member, float) and not math.isfinite(member):
                raise UnsafeJson("numbers must be finite")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise UnsafeJson(f"duplicate key {twice[:100]!r}")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_unique)


def _require_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnsafeJson("lone surrogates are not text") from None
