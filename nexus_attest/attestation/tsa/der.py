"""DER as X.690 section 10 has it, read strictly: one value has one encoding, and everything else is refused.

Only what tokens need: definite lengths in their shortest form, tags below 31, and the types that occur there. Nothing is written.
"""

from typing import NamedTuple

from nexus_attest.attestation.errors import NotATimestamp

__all__ = [
    "BIT_STRING",
    "BOOLEAN",
    "GENERALIZED_TIME",
    "INTEGER",
    "NULL",
    "OCTET_STRING",
    "OID",
    "SEQUENCE",
    "SET",
    "Der",
    "context",
    "one",
    "read",
]

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
GENERALIZED_TIME, SEQUENCE, SET = 0x18, 0x30, 0x31

_MOST_LENGTH_BYTES = 4


class Der(NamedTuple):
    """A value: its tag as the byte that stands for it, what is in it, and its whole encoding."""

    tag: int
    content: bytes
    whole: bytes

    def children(self) -> "list[Der]":
        """The values inside."""
        return read(self.content)

    def expect(self, tag: int, what: str) -> "Der":
        """Itself. Raises NotATimestamp for another tag."""
        if self.tag != tag:
            raise NotATimestamp(f"{what} has the tag {self.tag:#04x}, not {tag:#04x}")
        return self

    def integer(self, what: str) -> int:
        """The value of an INTEGER. Raises NotATimestamp for another tag, and for more bytes than it takes."""
        content = self.expect(INTEGER, what).content
        if not content or (len(content) > 1 and content[0] in (0x00, 0xFF) and (content[0] ^ content[1]) < 0x80):
            raise NotATimestamp(f"{what} is no number in its shortest form")
        return int.from_bytes(content, signed=True)

    def oid(self, what: str) -> str:
        """An OBJECT IDENTIFIER in dots. Raises NotATimestamp."""
        content = self.expect(OID, what).content
        numbers: list[int] = []
        value, fresh = 0, True
        for byte in content:
            if fresh and byte == 0x80:
                raise NotATimestamp(f"{what} is no object identifier in its shortest form")
            value, fresh = value << 7 | byte & 0x7F, byte < 0x80
            if fresh:
                numbers.append(value)
                value = 0
        if not fresh or not numbers:
            raise NotATimestamp(f"{what} is no object identifier")
        first = min(numbers[0] // 40, 2)
        return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def context(number: int, *, constructed: bool = True) -> int:
    """The tag byte of the context-specific tag `number`."""
    return 0x80 | constructed << 5 | number


def read(data: bytes) -> list[Der]:
    """The values that follow one another in `data`, without a rest. Raises NotATimestamp."""
    found: list[Der] = []
    start = 0
    while start < len(data):
        end_of_head, end = _extent(data, start)
        found.append(Der(data[start], data[end_of_head:end], data[start:end]))
        start = end
    return found


def one(data: bytes, tag: int, what: str) -> Der:
    """The one value in `data`. Raises NotATimestamp for another tag, none, or several."""
    values = read(data)
    if len(values) != 1:
        raise NotATimestamp(f"{what}: {len(values)} values in place of one")
    return values[0].expect(tag, what)


def _extent(data: bytes, start: int) -> tuple[int, int]:
    """Where the content of the value at `start` begins and ends."""
    if data[start] & 0x1F == 0x1F or start + 1 >= len(data):
        raise NotATimestamp("a value that is cut off, or has a tag that does not occur here")
    length, head = data[start + 1], start + 2
    if length >= 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[head : head + size])
        if not 1 <= size <= _MOST_LENGTH_BYTES or length < 0x80 or length >> 8 * (size - 1) == 0:
            raise NotATimestamp("a length that is indefinite, or not in its shortest form")
        head += size
    if head + length > len(data):
        raise NotATimestamp("a value that is cut off")
    return head, head + length
