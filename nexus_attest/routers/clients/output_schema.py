"""Whether the answer of a tool has the form that the tool declares, judged within a bounded amount of work.

A JSON Schema is a program, and this one is written by the server: one pattern can keep a regular expression busy for years (and with it
every thread of this process), a few references can be followed more often than there are atoms. So the keywords that say what a value is
made of are judged (type, enum and const of plain values, required, properties, items, additionalProperties, anyOf, allOf, and references
within the schema), patterns, formats and everything else never. What is not judged counts as fitting.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

__all__ = ["fits"]

_MOST_STEPS = 100_000
"""Values that are compared with schemas, and names that stand in these. What comes later is not judged."""

_MOST_DEPTH = 100

_MOST_CHARACTERS = 1_000
"""Of a reference. A longer one is not followed."""

_TYPES: dict[object, Callable[[object], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer()),
}


def fits(value: object, schema: Mapping[str, Any]) -> bool:
    """False when the value contradicts a keyword that is judged."""
    return _Judge(schema).fits(value, schema, 0)


class _Judge:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MOST_STEPS

    def fits(self, value: object, schema: object, depth: int) -> bool:
        self._left -= 1
        if schema is False:
            return False
        if self._left < 0 or depth > _MOST_DEPTH or not isinstance(schema, dict):
            return True
        rules = cast("dict[str, object]", schema)
        depth += 1
        if "$ref" in rules:  # whatever stands beside it: before draft 2019-09 that means nothing
            return self.fits(value, self._referenced(rules["$ref"]), depth)
        return (
            self._is_of_type(value, rules.get("type"))
            and ("const" not in rules or self._is_among(value, [rules["const"]]))
            and ("enum" not in rules or self._is_among(value, rules["enum"]))
            and all(self.fits(value, part, depth) for part in _schemas(rules.get("allOf")))
            and (not (ways := _schemas(rules.get("anyOf"))) or any(self.fits(value, way, depth) for way in ways))
            and (not isinstance(value, dict) or self._has_members(cast("dict[str, object]", value), rules, depth))
            and (not isinstance(value, list) or self._has_items(cast("list[object]", value), rules, depth))
        )

    def _is_of_type(self, value: object, named: object) -> bool:
        names = cast("list[object]", named) if isinstance(named, list) else [named]
        self._left -= len(names)
        if self._left < 0:
            return True
        known = [_TYPES[name] for name in names if isinstance(name, str) and name in _TYPES]
        return len(known) < len(names) or any(is_of(value) for is_of in known)

    def _is_among(self, value: object, options: object) -> bool:
        if isinstance(value, dict | list) or not isinstance(options, list):  # to compare large values over and over takes its time, too
            return True
        known = cast("list[object]", options)
        self._left -= len(known)
        return self._left < 0 or value in known

    def _has_members(self, value: dict[str, object], rules: Mapping[str, object], depth: int) -> bool:
        required, properties = rules.get("required"), rules.get("properties")
        declared = cast("dict[str, object]", properties) if isinstance(properties, dict) else {}
        names = cast("list[object]", required) if isinstance(required, list) else []
        self._left -= len(names)
        if self._left >= 0 and not all(name in value for name in names if isinstance(name, str)):
            return False
        others = True if "patternProperties" in rules else rules.get("additionalProperties", True)
        return all(self.fits(member, declared.get(name, others), depth) for name, member in value.items())

    def _has_items(self, value: list[object], rules: Mapping[str, object], depth: int) -> bool:
        items = True if "prefixItems" in rules else rules.get("items", True)
        return items is True or all(self.fits(item, items, depth) for item in value)

    def _referenced(self, reference: object) -> object:
        """The schema that `#/a/b` means; True for any other reference."""
        found: object = self._root
        if not isinstance(reference, str) or len(reference) > _MOST_CHARACTERS or not (reference == "#" or reference.startswith("#/")):
            return True
        self._left -= reference.count("/")
        for token in reference.split("/")[1:]:
            found = cast("dict[str, object]", found).get(token.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return True if found is None else found


def _schemas(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
