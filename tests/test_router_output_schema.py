"""An answer is held against the schema that its tool declares, and no schema makes more work than is good for us."""

import re
from pathlib import Path
from typing import Any

import pytest

from nexus_attest.routers.clients.output_schema import fits

ENTRY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "size": {"type": ["integer", "null"]},
        "state": {"enum": ["on", "off", 3]},
        "kind": {"const": "entry"},
        "next": {"$ref": "#/$defs/other~1entry"},
        "either": {"anyOf": [{"type": "boolean"}, {"type": "number"}]},
        "both": {"allOf": [{"type": "object", "required": ["a"]}, {"required": ["b"]}]},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"other/entry": {"$ref": "#"}},
}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"tags": []},
        {"tags": ["a", "b"]},
        {"size": 1},
        {"size": 1.0},
        {"size": None},
        {"state": "off"},
        {"state": 3},
        {"state": {"large": "values are not compared"}},
        {"kind": "entry"},
        {"next": {"name": "a", "next": {"name": "b"}}},
        {"either": True},
        {"either": 0.5},
        {"both": {"a": 1, "b": 2}},
    ],
)
def test_an_answer_that_keeps_the_schema_fits(members: dict[str, Any]) -> None:
    assert fits({"name": "x", **members}, ENTRY)


@pytest.mark.parametrize(
    "members",
    [
        {"name": 1},
        {"tags": "a"},
        {"tags": ["a", 1]},
        {"size": 1.5},
        {"size": True},
        {"size": "1"},
        {"state": "broken"},
        {"kind": "exit"},
        {"next": {}},
        {"next": {"name": "a", "next": {"name": None}}},
        {"either": "1"},
        {"both": {"a": 1}},
        {"unknown": 1},
    ],
)
def test_an_answer_that_contradicts_the_schema_does_not_fit(members: dict[str, Any]) -> None:
    assert not fits({"name": "x", **members}, ENTRY)


@pytest.mark.parametrize("value", [None, [], "x", {}])
def test_an_answer_of_another_kind_does_not_fit(value: object) -> None:
    assert not fits(value, ENTRY)


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "^(a+)+$"},
        {"type": "text"},
        {"type": ["object", "text"]},
        {"type": 3},
        {"enum": "x"},
        {"required": [3], "properties": [], "allOf": {}, "anyOf": {}, "additionalProperties": 3},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/nowhere/at/all"},
        {"$ref": 3},
        {"$ref": "#"},
        {"patternProperties": {"(a+)+": False}, "additionalProperties": False},
        {"not": {}},
    ],
    ids=str,
)
def test_what_is_not_judged_fits(schema: dict[str, Any]) -> None:
    assert fits({"a": "x"}, schema)


def test_items_after_a_prefix_are_not_judged() -> None:
    assert fits([1], {"prefixItems": [{}], "items": False})
    assert not fits([1], {"items": False})
    assert fits([], {"items": False})


def test_a_schema_that_repeats_itself_without_end_is_judged_only_so_far() -> None:
    twice = [{"$ref": "#"}, {"$ref": "#"}]
    assert fits({}, {"allOf": twice})
    assert fits({}, {"anyOf": [False, *twice]})
    assert fits({}, {"$ref": "#/$defs/0", "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(90)}})


def test_a_value_of_many_members_is_judged_only_so_far() -> None:
    schema = {"items": {"enum": list(range(1000))}}
    assert not fits(["x"], schema)
    assert fits([*[1] * 200, "x"], schema)
    assert fits([*[{"a": 1}] * 200, {}], {"items": {"required": ["a"] * 1000}})
    assert fits([*[1] * 200, "x"], {"items": {"type": ["integer"] * 1000}})


def test_a_long_reference_is_not_followed_and_a_winding_one_only_so_often() -> None:
    assert not fits("x", {"$ref": "#/$defs/" + "n" * 990, "$defs": {"n" * 990: False}})
    assert fits("x", {"$ref": "#/$defs/" + "n" * 1000, "$defs": {"n" * 1000: False}})
    nested: object = False
    for _ in range(400):
        nested = {"a": nested}
    nowhere = {"$ref": "#/$defs" + "/b" * 450}
    assert not fits("x", {"allOf": [*[nowhere] * 200, {"$ref": "#/$defs" + "/a" * 400}], "$defs": nested})
    assert fits("x", {"allOf": [*[nowhere] * 300, {"$ref": "#/$defs" + "/a" * 400}], "$defs": nested})


# What the documentation says.

CONTRADICTED: dict[str, tuple[object, dict[str, Any]]] = {
    "type": (1, {"type": "string"}),
    "enum": (1, {"enum": [2, None]}),
    "const": (1, {"const": 2}),
    "required": ({}, {"required": ["a"]}),
    "properties": ({"a": 1}, {"properties": {"a": False}}),
    "additionalProperties": ({"a": 1}, {"additionalProperties": False}),
    "items": ([1], {"items": False}),
    "allOf": (1, {"allOf": [{}, False]}),
    "anyOf": (1, {"anyOf": [False, False]}),
    "$ref": (1, {"$ref": "#/$defs/a", "$defs": {"a": False}}),
}
"""Each keyword that is judged, with a value and a schema that the value contradicts."""

PASSED_OVER: dict[str, tuple[object, dict[str, Any]]] = {
    "oneOf": (1, {"oneOf": [{}, {}]}),
    "not": (1, {"not": {}}),
    "if": (1, {"if": {}, "then": False}),
    "dependentRequired": ({"a": 1}, {"dependentRequired": {"a": ["b"]}}),
    "dependentSchemas": ({"a": 1}, {"dependentSchemas": {"a": False}}),
    "pattern": ("a", {"pattern": "^b$"}),
    "patternProperties": ({"a": 1}, {"patternProperties": {"a": False}}),
    "additionalProperties": ({"a": 1}, {"patternProperties": {"b": {}}, "additionalProperties": False}),
    "propertyNames": ({"a": 1}, {"propertyNames": False}),
    "format": ("a", {"format": "date"}),
    "minimum": (1, {"minimum": 2}),
    "multipleOf": (1, {"multipleOf": 2}),
    "maxLength": ("ab", {"maxLength": 1}),
    "minItems": ([], {"minItems": 1}),
    "maxProperties": ({"a": 1}, {"maxProperties": 0}),
    "uniqueItems": ([1, 1], {"uniqueItems": True}),
    "contains": ([1], {"contains": False}),
    "prefixItems": ([1], {"prefixItems": [False]}),
    "items": ([1, 2], {"prefixItems": [{}], "items": False}),
    "unevaluatedItems": ([1], {"unevaluatedItems": False}),
    "unevaluatedProperties": ({"a": 1}, {"unevaluatedProperties": False}),
    "enum": ({"a": 1}, {"enum": [{"a": 2}]}),
    "const": ([1], {"const": [2]}),
    "$ref": (1, {"$ref": "#/$defs/a", "$defs": {"a": {}}, "type": "string"}),
}
"""Each keyword that is not judged, or not always, with a value and a schema that the value contradicts."""


@pytest.mark.parametrize("keyword", CONTRADICTED)
def test_a_keyword_that_is_judged_is_contradicted(keyword: str) -> None:
    assert not fits(*CONTRADICTED[keyword])


@pytest.mark.parametrize("keyword", PASSED_OVER)
def test_a_keyword_that_is_not_judged_is_passed_over(keyword: str) -> None:
    assert fits(*PASSED_OVER[keyword])


def test_the_documentation_names_what_is_judged_and_what_is_not() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "adapters.md").read_text()
    judged, passed_over = (
        set(re.findall(r"`([$a-zA-Z]+)`", next(line for line in text.splitlines() if line.startswith(f"| {row} |"))))
        for row in ("judged", "not judged")
    )
    assert judged == set(CONTRADICTED)
    assert passed_over == set(PASSED_OVER)
