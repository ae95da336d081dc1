"""JSON data from outside, made into typed values once, at the edge: text to data, data to fields, data to an independent copy.

What does not fit is a MalformedBundle that names the field; nothing is coerced, and nothing becomes a default silently.
"""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any, cast

from nexus_control.canonical_json import MAX_DEPTH
from nexus_control.errors import MalformedBundle

__all__ = [
    "copy_json",
    "decode_json",
    "list_field",
    "object_field",
    "object_of",
    "optional_object_field",
    "optional_text_field",
    "parse_json",
    "text_field",
]


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; bytes are UTF-8.

    Raises MalformedBundle for what `decode_json` refuses, for another encoding, and for what this process has no memory for.
    """
    try:
        return decode_json(text.decode() if isinstance(text, bytes) else text)
    except ValueError as error:
        raise MalformedBundle(f"not readable JSON: {error}") from None
    except MemoryError:
        raise MalformedBundle("not readable JSON: too large for the memory that this process may use") from None


def decode_json(text: str) -> Any:
    """The value of a JSON text (RFC 8259).

    Raises ValueError for what readers of the same text could understand differently or not at all: broken syntax, an object with two
    equal keys, NaN and infinities, numbers that overflow a float, integers beyond the interpreter's limit of digits, nesting beyond its
    stack.
    """
    try:
        if text[:1] == "{":  # without the search for blanks around it, which takes as long as a small object
            value, end = _decoder.raw_decode(text)
            if end == len(text):
                return value
        return _decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("an object has the same key twice")
    return data


def _finite_number(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_object_without_duplicates, parse_float=_finite_number, parse_constant=_finite_number)


def copy_json(value: Any) -> Any:
    """The same JSON data sharing no dict or list with `value`; tuples become lists.

    Raises MalformedBundle for data nested deeper than `MAX_DEPTH` (circular data among it), which canonical JSON refuses as well.
    """
    if type(value) in _SCALARS:
        return value
    try:
        return _copied(value, MAX_DEPTH)
    except RecursionError:
        raise MalformedBundle("nested too deeply for what is left of the interpreter's stack") from None


_SCALARS = frozenset({str, int, float, bool, type(None)})
_dict: Callable[[Any], dict[Any, Any]] = dict
_list: Callable[[Any], list[Any]] = list


def _copied(value: Any, depth: int) -> Any:
    """One stack frame per level."""
    if isinstance(value, dict):
        fresh: Any = _dict(value)
        members = fresh.items()
    elif isinstance(value, (list, tuple)):
        fresh = _list(value)
        members = enumerate(fresh)
    else:
        return value
    if not depth:
        raise MalformedBundle(f"nested deeper than {MAX_DEPTH} levels, or circular")
    for key, item in members:
        if type(item) not in _SCALARS:
            fresh[key] = _copied(item, depth - 1)
    return fresh


def object_of(value: object, where: str) -> dict[str, Any]:
    """`value` as an object; `where` names it in the error."""
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    raise MalformedBundle(f"{where} must be an object, got {type(value).__name__}")


def text_field(data: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    """A string member; required unless `default` is given."""
    value = data.get(key, default)
    if isinstance(value, str):
        return value
    raise _unfit(data, key, where, "a string")


def optional_text_field(data: dict[str, Any], key: str, where: str) -> str | None:
    """A string member, None when absent or null."""
    value = data.get(key)
    if value is None or isinstance(value, str):
        return value
    raise _unfit(data, key, where, "a string or null")


def object_field(data: dict[str, Any], key: str, where: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object member; required unless `default` is given."""
    value = data.get(key, default)
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    raise _unfit(data, key, where, "an object")


def optional_object_field(data: dict[str, Any], key: str, where: str) -> dict[str, Any] | None:
    """An object member, None when absent or null."""
    return None if data.get(key) is None else object_field(data, key, where)


def list_field(data: dict[str, Any], key: str, where: str) -> list[Any]:
    """An array member, empty when absent."""
    value: object = data.get(key, [])
    if isinstance(value, list):
        return cast("list[Any]", value)
    raise _unfit(data, key, where, "an array")


def _unfit(data: dict[str, Any], key: str, where: str, wanted: str) -> MalformedBundle:
    if key not in data:
        return MalformedBundle(f"Missing required field: {where}.{key}")
    return MalformedBundle(f"{where}.{key} must be {wanted}, got {type(data[key]).__name__}")
