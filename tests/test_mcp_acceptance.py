"""The quick yes to arguments says yes to what a JSON Schema validator accepts, and to nothing else."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_attest.server.acceptance import acceptance
from nexus_attest.server.registry import TOOLS
from nexus_attest.server.schemas import SIGNATURE_SCHEMA, bounded, strict_validator

SCHEMAS = {spec.short: bounded(spec.input_schema) for spec in TOOLS}

words = st.sampled_from(["", "a", "human", "system", "dry_run", "apply", "-x", "overwrite", "2030-01-31T18:00:00Z", "a\n", "\ud800"])
scalars = words | st.sampled_from([None, True, False, 0, 1, 2, -1, 1000, 1001, 2**53 - 1, 2**53, 1.0, 0.5, float("inf"), float("nan")])
members = st.sampled_from(sorted({name for schema in SCHEMAS.values() for name in schema["properties"]} | {"type", "id", "unknown"}))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=4), max_leaves=8)
actors = st.fixed_dictionaries({"type": st.sampled_from(["human", "system"]), "id": st.just("alice")}) | values


@st.composite
def near(draw: st.DrawFn, schema: dict[str, Any]) -> Any:
    """Arguments that are mostly right."""
    found: dict[str, Any] = {}
    for name, member in schema["properties"].items():
        if name in schema["required"] or draw(st.booleans()):
            likely: list[st.SearchStrategy[Any]] = [values]
            if "enum" in member:
                likely.append(st.sampled_from(member["enum"]))
            likely.append(actors if name == "actor" else scalars)
            found[name] = draw(st.one_of(likely))
    return found | draw(st.sampled_from([{}, {}, {"unknown": 1}]))


@pytest.mark.parametrize("short", SCHEMAS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_quick_answer_is_that_of_a_validator(short: str, data: st.DataObject) -> None:
    schema = SCHEMAS[short]
    value = data.draw(near(schema) | values)
    assert acceptance(schema)(value) == strict_validator(schema).is_valid(value)


@pytest.mark.parametrize("short", SCHEMAS)
def test_no_tool_needs_a_whole_validator_to_be_accepted(short: str) -> None:
    examples: list[Any] = TOOLS[[spec.short for spec in TOOLS].index(short)].input_schema.get("examples", [])
    assert all(acceptance(SCHEMAS[short])(example) for example in examples)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"anyOf": [{"type": "string"}]}, "a"),
        ({"type": "string", "const": "a"}, "a"),
        ({"type": "number"}, 1.5),
        ({"type": ["string", "null"], "enum": ["a", None]}, None),
        ({"type": "integer", "enum": [1]}, 1),
        ({"type": "array", "uniqueItems": True}, [1, 2]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"a": "b"}),
        ({}, "a"),
    ],
)
def test_what_is_not_known_is_left_to_a_whole_validator(schema: dict[str, Any], value: Any) -> None:
    assert strict_validator(schema).is_valid(value)
    assert not acceptance(schema)(value)


@pytest.mark.parametrize(("value", "taken"), [({"payload": 1}, True), ("text", True), (None, False), ([], False), (1, False)])
def test_an_envelope_is_an_object_or_text(value: Any, taken: bool) -> None:
    assert acceptance(SIGNATURE_SCHEMA)(value) is taken
