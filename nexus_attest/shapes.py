"""The shapes of values in configuration files: each reads one value, says what is wrong with it, and knows itself as JSON Schema.

One definition serves the reader and the published schema, so the two cannot disagree on what a key may hold.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["REQUIRED", "Key", "Shape", "boolean", "integer", "listing", "number", "read_table", "table", "text"]

REQUIRED = object()
"""The default of a key that must be there."""

Problems = list[str]
"""`<path>: <what is wrong>`, in the order of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`read` gives the value, or notes problems under the path it is given and gives None."""

    read: Callable[[object, str, Problems], Any]
    schema: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a table: `default` is used when it is absent, `about` is its line in the published schema and in the documents."""

    name: str
    shape: Shape
    about: str
    default: object = REQUIRED

    @property
    def required(self) -> bool:
        """Whether a table without it is refused."""
        return self.default is REQUIRED


def text(pattern: str, wanted: str, *, also: Callable[[str], bool] = lambda _: True) -> Shape:
    """A string that matches a pattern as a whole and passes one more test, which the schema does not know."""
    compiled = re.compile(pattern)

    def read(value: object, where: str, problems: Problems) -> str | None:
        if isinstance(value, str) and compiled.fullmatch(value) and also(value):
            return value
        problems.append(f"{where}: must be {wanted}")
        return None

    return Shape(read=read, schema={"type": "string", "pattern": f"^(?:{pattern})$"})


def number(above: int, most: int, unit: str) -> Shape:
    """A number greater than `above`; true and false are no numbers."""

    def read(value: object, where: str, problems: Problems) -> float | None:
        if isinstance(value, int | float) and not isinstance(value, bool) and above < value <= most:
            return value
        problems.append(f"{where}: must be a number of {unit}, more than {above} and at most {most}")
        return None

    return Shape(read=read, schema={"type": "number", "exclusiveMinimum": above, "maximum": most})


def integer(least: int, most: int) -> Shape:
    """A whole number."""

    def read(value: object, where: str, problems: Problems) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        problems.append(f"{where}: must be a whole number from {least} to {most}")
        return None

    return Shape(read=read, schema={"type": "integer", "minimum": least, "maximum": most})


def boolean() -> Shape:
    """true or false."""

    def read(value: object, where: str, problems: Problems) -> bool | None:
        if isinstance(value, bool):
            return value
        problems.append(f"{where}: must be true or false")
        return None

    return Shape(read=read, schema={"type": "boolean"})


def listing(item: Shape, wanted: str, *, least: int = 0, first: Shape | None = None) -> Shape:
    """A list, read as a tuple; its first item may have a shape of its own."""

    def read(value: object, where: str, problems: Problems) -> tuple[Any, ...] | None:
        if not isinstance(value, list) or len(cast("list[object]", value)) < least:
            problems.append(f"{where}: must be {wanted}")
            return None
        members = enumerate(cast("list[object]", value))
        return tuple((item if number else first or item).read(member, f"{where}[{number}]", problems) for number, member in members)

    schema = {"type": "array", "items": item.schema, **({"minItems": least} if least else {})}
    return Shape(read=read, schema=schema if first is None else {**schema, "prefixItems": [first.schema]})


def table(name: Shape, value: Shape, wanted: str) -> Shape:
    """A table with names of the user's choice."""

    def read(found: object, where: str, problems: Problems) -> dict[str, Any] | None:
        if not isinstance(found, Mapping):
            problems.append(f"{where}: must be {wanted}")
            return None
        members = cast("Mapping[str, object]", found)
        return {
            name.read(key, f"{where}.{shown(key)}", problems): value.read(members[key], f"{where}.{shown(key)}", problems)
            for key in members
        }

    schema = {"type": "object", "propertyNames": name.schema, "additionalProperties": value.schema}
    return Shape(read=read, schema=schema)


def read_table(value: object, keys: Sequence[Key], where: str, problems: Problems) -> dict[str, Any]:
    """The values of a table, defaults filled in. Notes what is no table, unknown keys, missing ones and wrong values."""
    if not isinstance(value, Mapping):
        problems.append(f"{where}: must be a table")
        return {}
    found = cast("Mapping[str, object]", value)
    known = {key.name for key in keys}
    problems.extend(f"{_below(where, shown(name))}: unknown key; known are {_listed(known)}" for name in found if name not in known)
    values: dict[str, Any] = {}
    for key in keys:
        if key.name in found:
            values[key.name] = key.shape.read(found[key.name], _below(where, key.name), problems)
        elif key.required:
            problems.append(f"{_below(where, key.name)}: is missing")
        else:
            values[key.name] = key.default
    return values


def table_schema(keys: Iterable[Key]) -> dict[str, object]:
    """The JSON Schema of a table with these keys and no others."""
    keys = list(keys)
    properties = {key.name: {**key.shape.schema, "description": key.about, **_default(key)} for key in keys}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [key.name for key in keys if key.required],
        "properties": properties,
    }


def shown(name: object) -> str:
    """A name of the user's as a part of a path: at most 60 printable characters."""
    text = str(name)
    return text if re.fullmatch(r"[A-Za-z0-9_.$-]{1,60}", text) else repr(text[:60])


def _default(key: Key) -> dict[str, object]:
    if key.required or key.default is None:
        return {}
    default = key.default
    return {"default": list(cast("tuple[object, ...]", default)) if isinstance(default, tuple) else default}


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
