"""An answer is held against the schema that its tool declares, and no schema makes more work than is good for us."""

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
