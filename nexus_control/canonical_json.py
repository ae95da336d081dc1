"""One value, one text: the JSON Canonicalization Scheme of RFC 8785, the only serialisation that is ever hashed.

The same value gives the same bytes on every machine. What JSON cannot express without loss or doubt (NaN, lone surrogates, keys that are
not strings, two keys that become one, nesting without end) is refused, never repaired. There is no parser here.

Differs from RFC 8785 in one place: integers of magnitude 2**53 and above are written in plain decimal, where ECMAScript would round.
"""

from enum import Enum
from json.encoder import encode_basestring
from math import isfinite
from typing import Any, cast

from nexus_control.json_encoder import compact_encoder

__all__ = ["MAX_DEPTH", "canonical_json", "canonical_json_bytes"]

MAX_DEPTH = 256
"""Arrays and objects may be nested this deep. Stops circular references too."""

_SCALARS = frozenset({str, int, bool, type(None)})


_encode_plain = compact_encoder(ascii_only=False, allow_nan=False)


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
            return "".join(_encode_plain(obj, 0))
        parts: list[str] = []
        _append(obj, parts, MAX_DEPTH)
        return "".join(parts)
    except RecursionError:
        raise ValueError("nested too deeply for what is left of the interpreter's stack") from None


def _is_plain(value: Any, depth: int) -> bool:
    """Whether the standard encoder, several times faster than `_append`, writes exactly the canonical text of `value`."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]  that is what this function finds out
    if kind is dict:
        # The standard encoder turns other keys into strings, and sorts by code points: within the BMP these are the UTF-16 code units.
        for key in value:
            if type(key) is not str or not (key.isascii() or max(key) <= "\uffff"):
                return False
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        # `repr` and ECMAScript agree on fractions that both write without exponent.
        return kind in _SCALARS or (kind is float and 1e-4 <= abs(value) < 1e16 and not value.is_integer())
    if not depth:
        raise _too_deep()
    for item in items:  # noqa: SIM110  `all` would take a second stack frame per level, and a third more time
        if type(item) not in _SCALARS and not _is_plain(item, depth - 1):
            return False
    return True


def _append(value: Any, parts: list[str], depth: int) -> None:
    """Append the canonical text of any value to `parts`, or refuse it. One stack frame per level."""
    if value is None:
        parts.append("null")
    elif value is True:
        parts.append("true")
    elif value is False:
        parts.append("false")
    elif (text := _text(value)) is not None:
        parts.append(encode_basestring(text))
    elif isinstance(value, int):
        parts.append(int.__repr__(value))
    elif isinstance(value, float):
        parts.append(_number(value))
    elif not isinstance(value, (dict, list, tuple)):
        raise TypeError(f"JSON cannot express {type(value).__name__}")
    elif not depth:
        raise _too_deep()
    elif isinstance(value, dict):
        separator = "{"
        for key, item in _members(cast("dict[Any, Any]", value)):
            parts.append(f"{separator}{encode_basestring(key)}:")
            _append(item, parts, depth - 1)
            separator = ","
        parts.append("}" if separator == "," else "{}")
    else:
        separator = "["
        for item in cast("list[Any] | tuple[Any, ...]", value):
            parts.append(separator)
            _append(item, parts, depth - 1)
            separator = ","
        parts.append("]" if separator == "," else "[]")


def _text(value: Any) -> str | None:
    """What a string or a str-valued enum stands for; None for anything else."""
    if isinstance(value, Enum):
        value = value.value
    return str.__str__(value) if isinstance(value, str) else None


def _members(value: dict[Any, Any]) -> list[tuple[str, Any]]:
    """The members of an object in canonical order."""
    members: dict[str, Any] = {}
    for key, item in value.items():
        text = _text(key)
        if text is None:
            raise TypeError(f"keys must be strings, got {type(key).__name__}")
        if text in members:
            raise ValueError(f"two keys of an object have the text {text!r}")
        members[text] = item
    return sorted(members.items(), key=_utf16)


def _utf16(member: tuple[str, Any]) -> bytes:
    """The order of RFC 8785 section 3.2.3: UTF-16 code units, compared as unsigned numbers."""
    return member[0].encode("utf-16-be")


def _number(value: float) -> str:
    """ECMAScript's Number::toString (ECMA-262 section 6.1.6.1.20), which RFC 8785 section 3.2.2.3 prescribes."""
    if not isfinite(value):
        raise ValueError(f"JSON cannot express {float.__repr__(value)}")
    if value == 0:
        return "0"
    # `repr` finds the same shortest digits as ECMAScript; only their layout differs.
    text = float.__repr__(value)
    sign = "-" if text[0] == "-" else ""
    mantissa, _, exponent = text.removeprefix("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {MAX_DEPTH} levels, or circular")
