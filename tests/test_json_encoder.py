"""The encoder that is made once writes what `json.dumps` writes."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control import json_encoder as module
from nexus_control.json_encoder import compact_encoder

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
    max_leaves=10,
)


def text_of(value: object, *, ascii_only: bool = True, allow_nan: bool = False) -> str:
    return "".join(compact_encoder(ascii_only=ascii_only, allow_nan=allow_nan)(value, 0))


@pytest.fixture(params=["compiled", "pure"])
def interpreter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CPython's compiled encoder, and without it."""
    if request.param == "pure":
        monkeypatch.setattr("json.encoder.c_make_encoder", None)


def test_public_names() -> None:
    assert module.__all__ == ["Pieces", "compact_encoder"]


@given(_JSON, st.booleans())
def test_the_text_is_that_of_the_standard_library(value: Any, ascii_only: bool) -> None:
    expected = json.dumps(value, ensure_ascii=ascii_only, sort_keys=True, separators=(",", ":"))
    assert text_of(value, ascii_only=ascii_only, allow_nan=True) == expected


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(("ascii_only", "letter"), [(True, "\\u00e9"), (False, "\u00e9")])
def test_every_interpreter_writes_the_same(ascii_only: bool, letter: str) -> None:
    value: Any = {"b": [1, True, None, '\u00e9\n"'], "a": {"z": 0.25, "Y": {}}}
    assert text_of(value, ascii_only=ascii_only) == f'{{"a":{{"Y":{{}},"z":0.25}},"b":[1,true,null,"{letter}\\n\\""]}}'


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": -math.inf}])
def test_numbers_that_are_not_finite_are_written_only_where_that_is_allowed(value: object) -> None:
    assert text_of(value, allow_nan=True) == json.dumps(value, separators=(",", ":"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        text_of(value)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("value", [b"", {1, 2}, object(), [{"a": object()}]])
def test_what_json_cannot_express_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=r"Object of type \w+ is not JSON serializable"):
        text_of(value)


@pytest.mark.usefixtures("interpreter")
def test_what_contains_itself_ends_as_an_error() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(RecursionError):
        text_of(value)
