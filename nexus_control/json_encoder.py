"""The standard library's JSON encoder, made once.

`json.dumps` makes a new one on every call that asks for anything but the defaults, which takes longer than to encode a small object.
The text is the same; keys are sorted, separators compact. Cycles are not looked for: they end as RecursionError.
"""

import json
import json.encoder
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, TypeAlias

__all__ = ["Pieces", "compact_encoder"]

Pieces: TypeAlias = Callable[[Any, int], Iterable[str]]
"""Gives the text of a value in pieces; the number is its level of indentation, which is 0."""


def compact_encoder(*, ascii_only: bool, allow_nan: bool) -> Pieces:
    """An encoder for any number of values and threads. `ascii_only` escapes all other characters; `allow_nan` writes NaN and infinities.

    The encoder raises what `json.dumps` raises, and RecursionError for a value that contains itself.
    """
    whole = json.JSONEncoder(ensure_ascii=ascii_only, check_circular=False, allow_nan=allow_nan, sort_keys=True, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return lambda value, _: whole.encode(value)
    quote = encode_basestring_ascii if ascii_only else encode_basestring
    return make(None, whole.default, quote, None, ":", ",", True, False, allow_nan)
