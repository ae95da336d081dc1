"""Where the values of a document stand, and the same bytes with one bit changed in each."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, cast

Place: TypeAlias = tuple[str | int, ...]


def leaves(value: Any, place: Place = ()) -> Iterator[Place]:
    """Where what is no object and no array stands in JSON data."""
    if isinstance(value, dict | list):
        held = cast("dict[str, Any] | list[Any]", value)
        entries: Iterable[tuple[str | int, Any]] = held.items() if isinstance(held, dict) else enumerate(held)
        for key, inside in entries:
            yield from leaves(inside, (*place, key))
    else:
        yield place


def at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


def flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The bytes with one bit changed, in every one of them, and where."""
    for place, byte in enumerate(data):
        yield place, data[:place] + bytes([byte ^ 1]) + data[place + 1 :]
