"""Whether a value satisfies a schema, told at once and without reasons: functions made of the few keywords that our schemas use.

What this module does not know, it does not accept: a no means that a whole validator has to judge, a yes is final. An integer is what
JSON writes without a fraction; 1.0 is none.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

__all__ = ["Accepts", "acceptance"]

Accepts: TypeAlias = Callable[[Any], bool]


def acceptance(schema: Mapping[str, Any]) -> Accepts:
    """The test that a schema stands for. It takes values as a JSON parser makes them, and never raises."""
    named: str | list[str] = schema.get("type", [])
    kinds = [_KINDS[name] for name in ([named] if isinstance(named, str) else named) if name in _KINDS]
    tests = {kind: make(schema) for kind, keywords, make in kinds if schema.keys() <= _HARMLESS | keywords}

    def accepts(value: Any) -> bool:
        test = tests.get(cast("type[Any]", type(value)))
        return test is not None and test(value)

    return accepts


def _anything(_: Mapping[str, Any]) -> Accepts:
    def test(_: Any) -> bool:
        return True

    return test


def _string(schema: Mapping[str, Any]) -> Accepts:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", float("inf"))
    allowed = frozenset(schema["enum"]) if "enum" in schema else None
    pattern = re.compile(schema["pattern"]) if "pattern" in schema else None

    def test(text: str) -> bool:
        return (
            shortest <= len(text) <= longest
            and (allowed is None or text in allowed)
            and (pattern is None or pattern.search(text) is not None)
        )

    return test


def _integer(schema: Mapping[str, Any]) -> Accepts:
    least, most = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
    return lambda number: least <= number <= most


def _array(schema: Mapping[str, Any]) -> Accepts:
    fewest, most = schema.get("minItems", 0), schema.get("maxItems", float("inf"))
    item = acceptance(schema["items"]) if "items" in schema else _anything(schema)
    unique = bool(schema.get("uniqueItems"))

    def test(items: list[Any]) -> bool:
        return fewest <= len(items) <= most and all(map(item, items)) and not (unique and _may_repeat(items))

    return test


def _may_repeat(items: list[Any]) -> bool:
    return not all(type(item) is str for item in items) or len(set(items)) < len(items)


def _object(schema: Mapping[str, Any]) -> Accepts:
    members = {name: acceptance(member) for name, member in schema.get("properties", {}).items()}
    required = frozenset(schema.get("required", ()))
    others = _anything(schema) if schema.get("additionalProperties", True) is True else acceptance({})

    def test(value: dict[str, Any]) -> bool:
        return required <= value.keys() and all(members.get(name, others)(member) for name, member in value.items())

    return test


_KINDS: Mapping[str, tuple[type[Any], set[str], Callable[[Mapping[str, Any]], Accepts]]] = {
    "null": (type(None), set(), _anything),
    "boolean": (bool, set(), _anything),
    "integer": (int, {"minimum", "maximum"}, _integer),
    "string": (str, {"minLength", "maxLength", "pattern", "enum"}, _string),
    "array": (list, {"items", "minItems", "maxItems", "uniqueItems"}, _array),
    "object": (dict, {"properties", "required", "additionalProperties"}, _object),
}
"""JSON types: the Python type, the keywords about it that its test heeds, and what makes the test."""

_HARMLESS = {"type", "$schema", "$id", "title", "description", "default", "examples", "format"}.union(
    *(keywords - {"enum"} for _, keywords, _ in _KINDS.values())
)
"""Keywords that say nothing about a value, or nothing about values of other types than theirs; `enum` speaks of all types."""
