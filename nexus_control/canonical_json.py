"""One value, one text: the JSON Canonicalization Scheme of RFC 8785, the only serialisation that is ever hashed.

Equal values give equal bytes on every machine. What JSON cannot express without loss or doubt (NaN, lone surrogates, keys that are
not strings, two keys that become one, nesting without end) is refused, never repaired. There is no parser here.

Differs from RFC 8785 in one place: integers of magnitude 2**53 and above are written in plain decimal, where ECMAScript would round.
"""

import json
from enum import Enum
from json.encoder import encode_basestring
from math import isfinite
from typing import Any

__all__ = ["MAX_DEPTH", "canonical_json", "canonical_json_bytes"]

MAX_DEPTH = 256
"""Arrays and objects may be nested this deep. Stops circular references too."""

_SCALARS = frozenset({str, int, bool, type(None)})

_encode_plain = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode


def canonical_json(obj: Any) -> str:
    """The canonical text of `obj`: None, bool, int, float, str, list, tuple, dict, subclasses of these, and enums whose value is a str.

    Raises TypeError for any other type and for keys that are not strings. Raises ValueError for NaN, infinities, lone surrogates,
    integers beyond the interpreter's limit of decimal digits, keys that coincide, and nesting beyond `MAX_DEPTH`.
    """
    text = _write(obj)
    if not text.isascii():
        text.encode()  # refuses lone surrogates
    return text


def canonical_json_bytes(obj: Any) -> bytes:
    """The UTF-8 bytes of `canonical_json(obj)`, with the same errors."""
    return _write(obj).encode()


def _write(obj: Any) -> str:
    """The canonical text, in which lone surrogates may remain."""
    if type(obj) is str:
        return encode_basestring(obj)
    try:
        if _is_plain(obj, MAX_DEPTH):
            return _encode_plain(obj)
        parts: list[str] = []
        _append(obj, parts, MAX_DEPTH)
        return "".join(parts)
    except RecursionError:
        raise ValueError("nested too deeply for the interpreter's stack") from None


def _is_plain(value: Any, depth: int) -> bool:
    """Whether the standard encoder, which is several times faster than `_append`, writes exactly the canonical text of `value`."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        if not depth:
            raise _too_deep()
        for key, item in value.items():
            # Within the BMP, code point order, by which the standard encoder sorts, is UTF-16 order.
            if type(key) is not str or not (key.isascii() or max(key) <= "\uffff"):
                return False
            if type(item) not in _SCALARS and not _is_plain(item, depth - 1):
                return False
        return True
    if kind is list or kind is tuple:
        if not depth:
            raise _too_deep()
        return all(type(item) in _SCALARS or _is_plain(item, depth - 1) for item in value)
    return False


def _append(value: Any, parts: list[str], depth: int) -> None:
    """Append the canonical text of any value to `parts`."""
    if isinstance(value, Enum) and isinstance(value.value, str):
        value = value.value
    if value is None:
        parts.append("null")
    elif value is True:
        parts.append("true")
    elif value is False:
        parts.append("false")
    elif isinstance(value, str):
        parts.append(encode_basestring(value))
    elif isinstance(value, int):
        parts.append(int.__repr__(value))
    elif isinstance(value, float):
        parts.append(_number(value))
    elif isinstance(value, dict):
        _append_object(value, parts, depth)
    elif isinstance(value, (list, tuple)):
        if not depth:
            raise _too_deep()
        separator = "["
        for item in value:
            parts.append(separator)
            _append(item, parts, depth - 1)
            separator = ","
        parts.append("]" if value else "[]")
    else:
        raise TypeError(f"JSON cannot express {type(value).__name__}")


def _append_object(value: dict[Any, Any], parts: list[str], depth: int) -> None:
    if not depth:
        raise _too_deep()
    members = {_key(key): item for key, item in value.items()}
    if len(members) != len(value):
        raise ValueError("two keys of an object have the same text")
    separator = "{"
    for key in sorted(members, key=_utf16):
        parts.append(f"{separator}{encode_basestring(key)}:")
        _append(members[key], parts, depth - 1)
        separator = ","
    parts.append("}" if members else "{}")


def _key(key: Any) -> str:
    text = key.value if isinstance(key, Enum) else key
    if not isinstance(text, str):
        raise TypeError(f"keys must be strings, got {type(key).__name__}")
    return str.__str__(text)


def _utf16(key: str) -> bytes:
    """Sort key of RFC 8785 section 3.2.3: UTF-16 code units, most significant byte first."""
    return key.encode("utf-16-be")


def _number(value: float) -> str:
    """ECMAScript's Number::toString (ECMA-262 section 6.1.6.1.20), which RFC 8785 section 3.2.2.3 prescribes."""
    if not isfinite(value):
        raise ValueError(f"JSON cannot express {float.__repr__(value)}")
    if value == 0:
        return "0"
    # `repr` finds the same shortest digits as ECMAScript; only their layout differs.
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = float.__repr__(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return f"{sign}{digits:0<{point}}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {MAX_DEPTH} levels, or circular")
