"""The input schemas of the tools: read from `schemas/`, shown to models without what they do not need, and enforced.

What is listed accepts what the published file accepts: only annotations (`$id`, titles, defaults, examples) are left out.
Sizes are bounded on top of that (`LIMITS`), so that no argument can be larger than what anybody has a use for.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nexus_attest.server.acceptance import acceptance
from nexus_attest.server.errors import InvalidArguments
from nexus_control.errors import brief

if TYPE_CHECKING:
    from jsonschema import ValidationError

__all__ = ["LIMITS", "SIGNATURE_SCHEMA", "ArgumentCheck", "bounded", "listed_schema", "published_schema", "strict_validator"]

LIMITS = {"string": 65_536, "plan": 1_048_576, "bundle": 16 * 1024 * 1024, "signature": 262_144, "array": 1_000, "integer": 2**53 - 1}
"""Most characters of a string, of a plan, a bundle and an envelope as text, items of an array, and the largest integer."""

SIGNATURE_SCHEMA: Mapping[str, Any] = {"type": ["object", "string"]}
"""Of the argument `signature`, a DSSE envelope: its inside is judged more strictly than a schema can."""

_ANNOTATIONS = {"$schema", "$id", "title", "description", "default", "examples"}
_SHOWN_PATHS = 20


@cache
def published_schema(short: str) -> Mapping[str, Any]:
    """The published JSON Schema of a tool's input, as the file says it."""
    name = f"nexus-control.{short}.v0.1.json"
    packed = files("nexus_attest") / "schemas" / name
    if packed.is_file():
        return json.loads(packed.read_text(encoding="utf-8"))
    return json.loads((Path(__file__).resolve().parents[2] / "schemas" / name).read_text(encoding="utf-8"))


def listed_schema(schema: Mapping[str, Any], hints: Mapping[str, str]) -> dict[str, Any]:
    """What a model sees of a schema. `hints` are descriptions of properties whose names do not say enough."""
    return _listed(schema, hints)


def _listed(node: Mapping[str, Any], hints: Mapping[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, value in node.items():
        if key in _ANNOTATIONS:
            continue
        if key == "properties":
            members = cast("Mapping[str, Mapping[str, Any]]", value)
            shown[key] = {
                name: {**_listed(member, {}), **({"description": hints[name]} if name in hints else {})} for name, member in members.items()
            }
        elif key == "items":
            shown[key] = _listed(value, {})
        else:
            shown[key] = value
    return shown


def bounded(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with `LIMITS` for every string, array and integer that has no smaller one."""
    return _bounded(schema, "")


def _bounded(node: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = dict(node)
    types: object = node.get("type", ())
    types = {types} if isinstance(types, str) else set(cast("Iterable[str]", types))
    if "string" in types and "enum" not in node:
        found.setdefault("maxLength", LIMITS.get(name, LIMITS["string"]))
    if "array" in types:
        found.setdefault("maxItems", LIMITS["array"])
    if "integer" in types:
        found.setdefault("maximum", LIMITS["integer"])
    if "properties" in node:
        found["properties"] = {key: _bounded(member, key) for key, member in node["properties"].items()}
    if "items" in node:
        found["items"] = _bounded(node["items"], "")
    return found


class ArgumentCheck:
    """Refuses arguments that a schema does not allow, and says where and why without repeating them."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        # Without annotations: a validator looks at every keyword, and opens a scope for `$id`, in each call.
        self._schema = bounded(listed_schema(schema, {}))
        self._accepts = acceptance(self._schema)

    def __call__(self, arguments: Mapping[str, Any]) -> None:
        """Raises InvalidArguments, which names every wrong path."""
        if self._accepts(arguments):
            return
        problems = sorted({problem for error in self._validator.iter_errors(arguments) for problem in _explained(error)})
        if problems:
            shown = "; ".join(f"{path} {text}" for path, text in problems[:_SHOWN_PATHS])
            raise InvalidArguments(shown, list(dict.fromkeys(path for path, _ in problems[:_SHOWN_PATHS])))

    @cached_property
    def _validator(self) -> Any:
        return strict_validator(self._schema)


def strict_validator(schema: Mapping[str, Any]) -> Any:
    """A JSON Schema validator, without types, for which 1.0 is no integer: the engine takes none either.

    Loads the validator, which takes its time; most servers never see a call that needs one.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend  # pyright: ignore[reportUnknownVariableType]

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    return cast("Any", extend(Draft202012Validator, type_checker=checker))(schema)


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _explained(error: "ValidationError") -> Iterable[tuple[str, str]]:
    path, rule, wanted = error.json_path, cast("str", error.validator), cast("Any", error.validator_value)
    if rule == "additionalProperties":
        known = list(cast("Mapping[str, Any]", error.schema)["properties"])
        for name in sorted(set(cast("Mapping[str, Any]", error.instance)) - set(known)):
            near = difflib.get_close_matches(name[:100], known, 1)
            yield f"{path}.{name[:100]}", f"is unknown; did you mean {near[0]}?" if near else f"is unknown; known: {', '.join(known)}"
    elif rule == "required":
        missing = [name for name in wanted if name not in cast("Mapping[str, Any]", error.instance)]
        yield from ((f"{path}.{name}", "is required") for name in missing)
    else:
        yield path, _text(rule, wanted, error.instance)


def _text(rule: str, wanted: Any, got: object) -> str:
    match rule:
        case "type":
            names = [wanted] if isinstance(wanted, str) else list(wanted)
            return f"must be {' or '.join(names)}, got {_type_name(got)}"
        case "enum":
            return f"must be one of {', '.join(map(str, wanted))}, got {brief(got)}"
        case "minLength":
            return "must not be empty"
        case "maxLength":
            return f"must have at most {wanted} characters"
        case "minItems":
            return "must not be empty"
        case "maxItems":
            return f"must have at most {wanted} items"
        case "uniqueItems":
            return "must not repeat an item"
        case "minimum":
            return f"must be at least {wanted}"
        case "maximum":
            return f"must be at most {wanted}"
        case "pattern":
            return f"must match {wanted}"
        case _:
            return f"does not satisfy {rule}"


def _type_name(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number with a fraction"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
