"""`nexus_control.canonical_json`: RFC 8785 to the byte, and everything it must refuse.

The published vectors of RFC 8785 are in here, because they need no other package; tests/conformance compares with another implementation.
"""

import json
import struct
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control import canonical_json as module
from nexus_control.canonical_json import MAX_DEPTH, canonical_json, canonical_json_bytes

both = pytest.mark.parametrize("function", [canonical_json, canonical_json_bytes])
Function = Callable[[Any], object]


class Mode(StrEnum):
    DRY = "dry_run"


class OldMode(str, Enum):  # noqa: UP042  not the same thing as a StrEnum
    DRY = "dry_run"


class PlainMode(Enum):
    DRY = "dry_run"


class Labelled(str, Enum):  # noqa: UP042  not the same thing as a StrEnum
    """The value is not the text that the member has as a string."""

    DRY = "dry_run"

    def __new__(cls, value: str) -> "Labelled":
        member = str.__new__(cls, "another text")
        member._value_ = value
        return member


class Level(IntEnum):
    HIGH = 3


class Number(Enum):
    ONE = 1


class LoudText(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"

    def __lt__(self, other: str) -> bool:
        return not str.__lt__(self, other)

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return f"{encoding}{errors}".encode()


class LoudInt(int):
    def __repr__(self) -> str:
        return "LOUD"

    __str__ = __repr__


class LoudFloat(float):
    def __repr__(self) -> str:
        return "LOUD"

    __str__ = __repr__


@dataclass
class Record:
    a: int = 1


class Pair(NamedTuple):
    left: int
    right: int


Wrap = Callable[[Any], Any]


def in_list(value: Any) -> Any:
    return [value]


def in_tuple(value: Any) -> Any:
    return (value,)


def in_dict(value: Any) -> Any:
    return {"k": value}


def in_ordered_dict(value: Any) -> Any:
    return OrderedDict({"k": value})


def nested(levels: int, wrap: Wrap, innermost: Any) -> Any:
    for _ in range(levels):
        innermost = wrap(innermost)
    return innermost


def everywhere(value: Any) -> list[Any]:
    """The value at the top and inside every container, both for the fast and for the complete writer."""
    ordered: dict[str, Any] = OrderedDict(k=value)
    return [value, [value], {"k": value}, {"k": (1, [value])}, [1.0, value], ordered]


def slowly(value: Any) -> Any:
    """Equal data, but every object of a type that the standard encoder is never asked to write."""
    if isinstance(value, dict):
        return OrderedDict((key, slowly(item)) for key, item in cast("dict[str, Any]", value).items())
    if isinstance(value, list):
        return [slowly(item) for item in cast("list[Any]", value)]
    return value


def trees(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=20)


text = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
bmp_text = st.text(st.characters(exclude_categories=("Cs",), max_codepoint=0xFFFF), max_size=8)
any_text = st.text(st.characters(), max_size=4)
no_floats = st.none() | st.booleans() | st.integers() | text
scalars = no_floats | st.floats(allow_nan=False, allow_infinity=False)
values = trees(scalars, text)


def test_golden_value() -> None:
    assert canonical_json({"b": [1, True, None, 'é\n"/'], "a": {"z": 1, "Y": 2}}) == '{"a":{"Y":2,"z":1},"b":[1,true,null,"é\\n\\"/"]}'


TEXTS: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (False, "false"),
    (0, "0"),
    (-7, "-7"),
    ("", '""'),
    ("text", '"text"'),
    ([], "[]"),
    ((), "[]"),
    ({}, "{}"),
    ([[], {}, [[]]], "[[],{},[[]]]"),
    ((1, (2, "x")), '[1,[2,"x"]]'),
    ({"a": ({"b": ()},)}, '{"a":[{"b":[]}]}'),
    (Pair(1, 2), "[1,2]"),
    (defaultdict(list, {"b": [1], "a": []}), '{"a":[],"b":[1]}'),
    (OrderedDict(), "{}"),
    ([OrderedDict(), [], 1.0], "[{},[],1]"),
    ([None, True, False, 1.0], "[null,true,false,1]"),
]


@pytest.mark.parametrize(("value", "expected"), TEXTS)
def test_each_kind_of_value_has_one_text(value: Any, expected: str) -> None:
    assert canonical_json(value) == expected
    assert canonical_json_bytes(value) == expected.encode()


@pytest.mark.parametrize(
    "member", [Mode.DRY, OldMode.DRY, PlainMode.DRY, Labelled.DRY], ids=["StrEnum", "str-and-Enum", "Enum", "str-with-other-value"]
)
def test_enum_with_a_string_value_is_written_as_its_value(member: Any) -> None:
    assert canonical_json(member) == '"dry_run"'
    assert canonical_json([member]) == '["dry_run"]'
    assert canonical_json({member: member}) == '{"dry_run":"dry_run"}'


def test_keys_that_are_enums_are_sorted_by_their_value() -> None:
    assert canonical_json({Labelled.DRY: 1, "e": 2, "b": 3}) == '{"b":3,"dry_run":1,"e":2}'


@pytest.mark.parametrize(
    ("value", "expected"),
    [(Level.HIGH, "3"), (LoudInt(5), "5"), (LoudFloat(5.0), "5"), (LoudFloat(0.25), "0.25"), (LoudText("t"), '"t"')],
)
def test_subclass_of_a_scalar_is_written_as_the_scalar(value: Any, expected: str) -> None:
    assert canonical_json(value) == expected
    assert canonical_json([value]) == f"[{expected}]"


def test_subclass_of_str_does_not_change_the_order_of_keys() -> None:
    assert canonical_json({LoudText("b"): 1, LoudText("a"): 2, LoudText("c"): 3}) == '{"a":2,"b":1,"c":3}'


def test_strings_have_the_minimal_escapes_and_lower_case_hex() -> None:
    controls = "".join(map(chr, range(0x20)))
    expected = (
        '"'
        r"\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"
        r"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c\u001d\u001e\u001f"
        '"'
    )
    assert canonical_json(controls) == expected
    assert canonical_json([controls]) == f"[{expected}]"
    assert canonical_json({controls: 1.0}) == f"{{{expected}:1}}"


def test_nothing_else_is_escaped() -> None:
    assert canonical_json("/<>&'\x7f\x80é€\u2028\u2029\ufeff\uffff😀") == '"/<>&\'\x7f\x80é€\u2028\u2029\ufeff\uffff😀"'
    assert canonical_json('"\\') == r'"\"\\"'


def test_unicode_is_not_normalised() -> None:
    assert canonical_json({"\u00e9": 1, "e\u0301": 2}) == '{"e\u0301":2,"\u00e9":1}'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, "1"),
        (-1.0, "-1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (-0.1, "-0.1"),
        (0.3 - 0.2, "0.09999999999999998"),
        (1e16, "10000000000000000"),
        (1e20, "100000000000000000000"),
        (123456789012345680000.0, "123456789012345680000"),
        (1e21, "1e+21"),
        (-1e21, "-1e+21"),
        (1.5e300, "1.5e+300"),
        (1e-4, "0.0001"),
        (9.5e-5, "0.000095"),
        (1e-6, "0.000001"),
        (1.25e-6, "0.00000125"),
        (1e-7, "1e-7"),
        (-1.25e-7, "-1.25e-7"),
        (9007199254740993.0, "9007199254740992"),
        (4503599627370495.5, "4503599627370495.5"),
        (5e-324, "5e-324"),
    ],
)
def test_floats_have_the_shortest_ecmascript_form(value: float, expected: str) -> None:
    assert canonical_json(value) == expected
    assert canonical_json({"k": [value]}) == f'{{"k":[{expected}]}}'
    assert canonical_json(OrderedDict(k=value)) == f'{{"k":{expected}}}'


# RFC 8785 appendix B, "Number Serialization Samples" (https://www.rfc-editor.org/rfc/rfc8785#appendix-B), whole.
APPENDIX_B = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("ieee754", "expected"), APPENDIX_B)
def test_number_samples_of_rfc_8785_appendix_b(ieee754: str, expected: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(ieee754))
    assert canonical_json(value) == expected
    assert canonical_json([value]) == f"[{expected}]"


@both
@pytest.mark.parametrize("ieee754", ["7fffffffffffffff", "7ff0000000000000"])
def test_number_errors_of_rfc_8785_appendix_b(ieee754: str, function: Function) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(ieee754))
    with pytest.raises(ValueError, match="JSON cannot express"):
        function(value)


def test_example_of_rfc_8785_section_3_2_2() -> None:
    # The sample object of section 3.2.2, its canonical text of 3.2.3 and its bytes of 3.2.4.
    source = r"""{
        "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"""
    expected = (
        r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r""""string":"€$\u000f\nA'B\"\\\\\"/"}"""
    )
    octets = bytes.fromhex(
        "7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72 75 65 2c 66 61 6c 73 65 5d 2c 22 6e 75 6d 62 65 72 73 22 3a"
        "5b 33 33 33 33 33 33 33 33 33 2e 33 33 33 33 33 33 33 2c 31 65 2b 33 30 2c 34 2e 35 2c 30 2e 30 30 32 2c 31 65 2d 32 37"
        "5d 2c 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30 30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d"
    )
    assert canonical_json(json.loads(source)) == expected
    assert canonical_json_bytes(json.loads(source)) == octets


def test_key_order_of_rfc_8785_section_3_2_3() -> None:
    source = r"""{
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\ud83d\ude00": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis"
    }"""
    assert list(json.loads(canonical_json(json.loads(source))).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def test_key_order_is_by_utf_16_code_units_only_below_a_common_prefix() -> None:
    assert canonical_json({"a\uffff": 1, "a😀": 2, "a": 3, "": 4, "\U0010ffff": 5, "\ue000": 6}) == (
        '{"":4,"a":3,"a😀":2,"a\uffff":1,"\U0010ffff":5,"\ue000":6}'
    )


def test_integers_beyond_two_to_the_53_stay_exact() -> None:
    assert canonical_json(2**53 + 1) == "9007199254740993"
    assert canonical_json([-(2**64) - 1]) == "[-18446744073709551617]"
    assert canonical_json(OrderedDict(k=10**400)) == f'{{"k":1{"0" * 400}}}'


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), LoudFloat("nan")])
def test_nan_and_infinities_are_refused(value: float, function: Function) -> None:
    for wrapped in everywhere(value):
        with pytest.raises(ValueError, match=r"JSON cannot express -?(nan|inf)$"):
            function(wrapped)


SURROGATES = ["\ud800", "\udfff", "a\udc00b", "\ud83d\ude00", "\ude00\ud83d", "é\ud800"]


@both
@pytest.mark.parametrize("lone", SURROGATES, ids=ascii)
def test_lone_surrogates_are_refused_in_values_and_in_keys(lone: str, function: Function) -> None:
    for value in (*everywhere(lone), *everywhere({lone: 1}), LoudText(lone), OrderedDict({lone: 1})):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            function(value)


@both
@pytest.mark.parametrize("key", [1, 0, True, False, None, 1.5, (1,), b"k", Level.HIGH, Number.ONE, frozenset({"k"})], ids=repr)
def test_keys_that_are_not_strings_are_refused(key: Any, function: Function) -> None:
    for value in (*everywhere({key: 1}), *everywhere({"a": 1, key: 2}), OrderedDict({key: 1})):
        with pytest.raises(TypeError, match="keys must be strings, got"):
            function(value)


@both
@pytest.mark.parametrize(
    "value", [{PlainMode.DRY: 1, "dry_run": 2}, {"dry_run": 1, Labelled.DRY: 2}, [{"k": {"dry_run": 1, PlainMode.DRY: 1}}]]
)
def test_two_keys_with_one_text_are_refused(value: Any, function: Function) -> None:
    with pytest.raises(ValueError, match="two keys of an object have the text 'dry_run'"):
        function(value)


@both
@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        frozenset[str](),
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        object(),
        object,
        dict,
        ...,
        NotImplemented,
        1 + 2j,
        Decimal(1),
        Fraction(1, 2),
        datetime(2025, 1, 1, tzinfo=UTC),
        MappingProxyType({"a": 1}),
        range(3),
        iter([1]),
        deque([1]),
        {"a": 1}.keys(),
        Record(),
        Number.ONE,
        len,
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_are_refused(value: Any, function: Function) -> None:
    for wrapped in everywhere(value):
        with pytest.raises(TypeError, match=r"^JSON cannot express "):
            function(wrapped)


@both
def test_integers_beyond_the_digit_limit_are_refused(function: Function) -> None:
    for value in (*everywhere(10**5000), *everywhere(-(10**5000)), LoudInt(10**5000)):
        with pytest.raises(ValueError, match="digits"):
            function(value)


@both
@pytest.mark.parametrize("wrap", [in_list, in_tuple, in_dict, in_ordered_dict])
@pytest.mark.parametrize("innermost", [1, 1.0, "😀"])
def test_nesting_ends_at_the_published_depth(wrap: Wrap, innermost: Any, function: Function) -> None:
    assert MAX_DEPTH == 256
    assert function(nested(MAX_DEPTH, wrap, innermost))
    for levels in (MAX_DEPTH + 1, MAX_DEPTH + 2, 100_000):
        with pytest.raises(ValueError, match=r"^nested deeper than 256 levels, or circular$"):
            function(nested(levels, wrap, innermost))


@both
@pytest.mark.parametrize("empty", [[], (), {}, OrderedDict[str, Any]()], ids=repr)
def test_an_empty_container_is_a_level_too(empty: Any, function: Function) -> None:
    assert function(nested(MAX_DEPTH - 1, in_list, empty))
    with pytest.raises(ValueError, match=r"^nested deeper than 256 levels, or circular$"):
        function(nested(MAX_DEPTH, in_list, empty))


def test_depth_counts_nesting_and_not_size() -> None:
    assert canonical_json([[[]]] * 1000) == f"[{','.join(['[[]]'] * 1000)}]"
    assert canonical_json([OrderedDict(k=[1.0])] * 1000) == "[" + ",".join(['{"k":[1]}'] * 1000) + "]"


@both
def test_circular_references_are_refused(function: Function) -> None:
    items: list[Any] = [1]
    items += [items, items]
    members: dict[str, Any] = {}
    members["k"] = members
    ordered: OrderedDict[str, Any] = OrderedDict()
    ordered["k"] = [ordered, ordered]
    for value in (items, members, ordered, [{"k": (items, members)}]):
        with pytest.raises(ValueError, match="circular"):
            function(value)


def at_stack_depth(depth: int, action: Callable[[], str]) -> str:
    """Call `action` with `depth` frames below it."""
    frame, used = sys._getframe(), 0  # pyright: ignore[reportPrivateUsage]  nothing else counts frames without making some
    while frame is not None:
        frame, used = frame.f_back, used + 1

    def descend(left: int) -> str:
        return action() if left <= 0 else descend(left - 1)

    return descend(depth - used)


@pytest.mark.parametrize("innermost", [1, 1.0])
def test_a_caller_deep_in_the_stack_has_the_same_depth(innermost: Any) -> None:
    value = nested(MAX_DEPTH, in_dict, innermost)
    assert at_stack_depth(sys.getrecursionlimit() - MAX_DEPTH - 50, lambda: canonical_json(value)) == canonical_json(value)


@pytest.mark.parametrize("innermost", [1, 1.0])
def test_an_exhausted_stack_is_a_value_error(innermost: Any) -> None:
    value = nested(MAX_DEPTH, in_list, innermost)
    with pytest.raises(ValueError, match="nested too deeply for what is left of the interpreter's stack"):
        at_stack_depth(sys.getrecursionlimit() - MAX_DEPTH // 2, lambda: canonical_json(value))


@given(values)
def test_fast_and_complete_writer_agree(value: Any) -> None:
    assert canonical_json({"": value}) == canonical_json(OrderedDict({"": slowly(value)}))


@given(trees(no_floats, bmp_text))
def test_plain_data_is_what_the_standard_library_writes(value: Any) -> None:
    assert canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# Without a fraction or exponent, floats of 2**53 and above would read back as an integer that is not equal.
@given(trees(no_floats | st.floats(-(2**53), 2**53), text))
def test_text_reads_back_as_the_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(values)
def test_canonical_text_is_canonical_again(value: Any) -> None:
    assert canonical_json(json.loads(canonical_json(value))) == canonical_json(value)


@given(values)
def test_bytes_are_the_utf_8_form_of_the_text(value: Any) -> None:
    assert canonical_json_bytes(value) == canonical_json(value).encode()


@given(st.dictionaries(text, scalars, min_size=2), st.randoms())
def test_order_of_insertion_does_not_matter(value: dict[str, Any], random: Any) -> None:
    members = list(value.items())
    random.shuffle(members)
    assert canonical_json(dict(members)) == canonical_json(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_reads_back_exactly(value: float) -> None:
    assert float(canonical_json(value)) == value


@given(trees(no_floats | any_text | st.floats(), any_text | st.integers()))
def test_any_tree_is_written_or_refused_the_same_way_by_both_functions(value: Any) -> None:
    try:
        written = canonical_json(value)
    except (ValueError, TypeError) as refused:
        with pytest.raises(type(refused)):
            canonical_json_bytes(value)
    else:
        assert canonical_json_bytes(value) == written.encode()


def test_public_names() -> None:
    assert module.__all__ == ["MAX_DEPTH", "canonical_json", "canonical_json_bytes"]
