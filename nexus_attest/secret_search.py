"""Where a text gives a known secret away, in whatever spelling software puts texts into.

    as it is         also line by line, composed and decomposed (NFC, NFD), in UTF-16 and Latin-1, with `+` for its spaces
    escaped          JSON, JavaScript, Python and Java escapes (`\\/`, `\\u002f`, `\\u{2f}`, `\\x2f`), `%2F`, `%u002f` and HTML's `&#x2F;`,
                     each character in its own way, in either case of hexadecimal digits
    Base64, Base16   as part of any longer text, at any alignment, in both alphabets, in lines
    a chain of these up to four of them, one in another: JSON in a string of JSON, in Base64 ...

Spellings are not listed, they are undone: a text is decoded, searched and decoded again, and what is found is traced back to the
characters that it came from. That takes time linear in the text, and for a text without escapes hardly more than the search itself.

A secret shorter than four characters is found where it stands as a word of its own, escaped or not; else it would be everywhere. What is
encrypted, compressed, reversed or split over several texts is not found.
"""

import re
import unicodedata
from binascii import a2b_base64, unhexlify
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

__all__ = ["SecretSearch"]

_LEVELS = 4
"""How many encodings, one in another, are undone. It bounds the work that a hostile text can make."""

_SHORTEST = 4
"""Bytes. Shorter secrets are only found as words, and parts of secrets that a cut left only from this length on."""

_SHORTEST_IN_CODE = 8
"""Bytes. Of shorter secrets the Base64 and Base16 forms are sought themselves, as decoding every short word for them would take long."""

_SHORTEST_LINE = 8
"""Shorter lines of a secret of several lines, such as `-----` or a lone brace, occur everywhere."""

_LINE_OF_CODE = 60
"""Base64 is broken into lines of 64 or 76 characters; runs as long as that belong together when only a line end is between them."""

_SMALL = 4096
"""Bytes. What is decoded in larger amounts, and proves to be no text, is decoded further only where text stands in it."""

_LEAST_ISLAND = 8
"""Printable characters in a row that make bytes a text."""

_Span: TypeAlias = tuple[int, int, int]
"""Start and end of a find, in bytes, and the number of its secret."""


class SecretSearch:
    """Searches texts for the secrets of one run, which have names."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names = tuple(secrets)
        self._needles: list[tuple[bytes, int]] = []
        self._words: list[tuple[re.Pattern[bytes], int]] = []
        self._wide: list[tuple[bytes, int]] = []  # in UTF-16: not in a text without a zero byte
        for number, secret in enumerate(secrets.values()):
            for needle in _needles(secret):
                if len(needle) < _SHORTEST:
                    self._words.append((_word(needle), number))
                    continue
                self._needles.append((needle, number))
                if len(needle) < _SHORTEST_IN_CODE:
                    self._needles += [(code, number) for code in _codes(needle)]
                self._wide += [(wide, number) for wide in _in_utf_16(needle)]
        lengths = [len(needle) for needle, _ in self._needles]
        self._least = 1 if self._words else min(lengths, default=0)
        coded = [length for length in lengths if length >= _SHORTEST_IN_CODE]
        self._in_code = min(coded, default=0)

    def replace(self, text: str, mark: Callable[[str], str], *, torn: bool = False) -> str:
        """The text with `mark(name)` in the place of each find.

        `torn`: the ends of the text are where it was cut. What may be the first part of a secret at its end, or the last one at its
        beginning, counts as found then.
        """
        if not self._names:
            return text
        data = text.encode("utf-8", "surrogatepass")
        if len(data) < (_SHORTEST if torn else self._least) or not (found := self._find(data, _LEVELS, torn)):
            return text
        pieces: list[bytes] = []
        position = 0
        for start, end, number in _merged(data, found):
            pieces += (data[position:start], mark(self._names[number]).encode("utf-8", "surrogatepass"))
            position = end
        return b"".join((*pieces, data[position:])).decode("utf-8", "surrogatepass")

    def _find(self, data: bytes, levels: int, torn: bool, *, raw: bool = False) -> list[_Span]:
        needles = [*self._needles, *self._wide] if b"\0" in data else self._needles
        found = [(at, at + len(needle), number) for needle, number in needles for at in _places(needle, data)]
        for word, number in self._words:
            found += [(match.start(), match.end(), number) for match in word.finditer(data)]
        if torn:
            found += [(start, end, number) for needle, number in needles for start, end in _torn(needle, data)]
        if levels:
            # Looking past what is no text undoes no encoding, and so takes no level.
            decodings, left = ([_islands(data)], levels) if raw and len(data) > _SMALL else (self._decoded(data, torn), levels - 1)
            for decoded, trace, bare in decodings:
                if inner := self._find(decoded, left, torn, raw=bare):
                    pieces = trace()
                    found += [(*pieces.back(start, end), number) for start, end, number in inner]
        return found

    def _decoded(self, data: bytes, torn: bool) -> Iterator["_Decoding"]:
        """What the text may stand for."""
        if any(sign in data for sign in (b"\\", b"%", b"&")):
            plain = _ESCAPE.sub(_unescaped, data)
            if plain != data:
                yield plain, lambda: _substituted(_ESCAPE, data, _character), False
            if _AMBIGUOUS.search(data):
                yield _ESCAPE.sub(_unescaped_wide, data), lambda: _substituted(_ESCAPE, data, _wide_character), False
        if b"\0" in data:  # UTF-16 of ASCII, which may be escaped in its turn
            yield data.replace(b"\0", b""), lambda: _substituted(_ZERO, data, lambda _: b""), False
        if self._in_code:
            for code in (_BASE64, _BASE16):
                least = (_SHORTEST_IN_CODE if torn else self._in_code) * code.characters // code.size
                if runs := list(code.runs(data, least)):
                    for shift in range(code.characters):
                        yield code.decoded(data, runs, shift)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """How a decoded text came from another: its pieces in order, `(start, length)` in the decoded one and in the other."""

    starts: Sequence[int]
    lengths: Sequence[int]
    origins: Sequence[tuple[int, int]]
    ratio: tuple[int, int] = (1, 1)
    """Characters of code for bytes of text; a find is traced to code first."""

    def back(self, start: int, end: int) -> tuple[int, int]:
        """The place that a place of the decoded text came from: every character of it that has a share."""
        characters, size = self.ratio
        first, last = start * characters // size, -(-end * characters // size) - 1
        return self._origin(first)[0], self._origin(last)[1]

    def _origin(self, place: int) -> tuple[int, int]:
        number = max(0, bisect_right(self.starts, place) - 1)
        start, length = self.origins[number]
        if length != self.lengths[number]:  # an escape: all of it
            return start, start + length
        within = min(place - self.starts[number], max(0, length - 1))  # beyond are the characters that separate runs
        return start + within, start + within + 1


_Decoding: TypeAlias = tuple[bytes, Callable[[], _Pieces], bool]
"""A decoded text, what traces it back, and whether it is bytes of any kind."""


class _Code(NamedTuple):
    """A code that writes so many bytes in so many characters of its alphabet."""

    characters: int
    size: int
    flat: bytes
    """Translates its alphabet into `a` and all else into spaces."""
    filler: bytes
    """A group of characters for bytes that are in no text."""
    decode: Callable[[bytes], bytes]

    def runs(self, data: bytes, least: int) -> Iterator[list[tuple[int, int]]]:
        """Where at least so many characters of the alphabet stand in a row, several runs together when they are lines of one text."""
        flat = data.translate(self.flat)
        probe = b"a" * least
        group: list[tuple[int, int]] = []
        at = flat.find(probe)
        while at >= 0:
            end = flat.find(b" ", at)
            end = len(flat) if end < 0 else end
            group.append((at, end))
            follows = end + (2 if data[end : end + 2] == b"\r\n" else 1)
            if end - at >= _LINE_OF_CODE and data[end : end + 1] in b"\r\n" and flat[follows : follows + 1] == b"a":
                last = flat.find(b" ", follows)
                last = len(flat) if last < 0 else last
                at = follows
                if last - follows < least:  # the rest of the text, on the last line
                    group.append((follows, last))
                    yield group
                    group, at = [], flat.find(probe, last)
                continue
            yield group
            group, at = [], flat.find(probe, end)
        if group:
            yield group

    def decoded(self, data: bytes, runs: list[list[tuple[int, int]]], shift: int) -> _Decoding:
        """All runs decoded from so many characters after their beginnings, one after the other with a filler between."""
        texts: list[bytes] = []
        for group in runs:
            text = b"".join([data[start:end] for start, end in group])[shift:]
            texts += (self.filler, text, b"A" * (-len(text) % self.characters))
        plain = self.decode(b"".join(texts))
        # After the last byte of the last run nothing follows: it may be where the text was cut.
        return plain[self.size : len(plain) - len(texts[-1])], lambda: self._pieces(runs, shift), True

    def _pieces(self, runs: list[list[tuple[int, int]]], shift: int) -> _Pieces:
        starts: list[int] = []
        origins: list[tuple[int, int]] = []
        place = 0
        for group in runs:
            skipped = shift
            for start, end in group:
                passed = min(skipped, end - start)
                skipped -= passed
                starts.append(place)
                origins.append((start + passed, end - start - passed))
                place += end - start - passed
            place += -place % self.characters + self.characters
        return _Pieces(starts, [length for _, length in origins], origins, (self.characters, self.size))


def _from_base64(text: bytes) -> bytes:
    return a2b_base64(text.translate(_TO_STANDARD))


_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_ALPHANUMERIC = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def _flat(alphabet: bytes) -> bytes:
    return bytes(ord("a") if byte in alphabet else ord(" ") for byte in range(256))


_PRINTABLE = _flat(b"\0\t\n\r" + bytes(range(0x20, 0x7F)))
_NO_CONTROL = _flat(b"\0\t\n\r" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0xC0)) + bytes(range(0xC2, 0xF5)))

_BASE64 = _Code(4, 3, _flat(_ALPHANUMERIC + b"+/-_"), b"////", _from_base64)
_BASE16 = _Code(2, 1, _flat(b"0123456789abcdefABCDEF"), b"ff", unhexlify)

_ESCAPE = re.compile(
    rb"[\\%]u[dD][89abAB][0-9a-fA-F]{2}[\\%]u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\U[0-9a-fA-F]{8}|\\u\{[0-9a-fA-F]{1,8}\}"
    rb"|\\x[0-9a-fA-F]{2}|\\[bfnrt !-/:-@\[-`{-~]|%[0-9a-fA-F]{2}|%u[0-9a-fA-F]{4}"
    rb"|&#[0-9]{1,9};|&#[xX][0-9a-fA-F]{1,8};|&(?:amp|lt|gt|quot|apos);"
)
_AMBIGUOUS = re.compile(rb"(?:\\x|%)[89a-fA-F][0-9a-fA-F]")
"""A byte, as in URLs, or a character of Latin-1, as in JavaScript and in Python's texts."""

_IN_WORDS = re.compile(rb"[0-9A-Za-z_\x80-\xff]")
_ZERO = re.compile(rb"\0")

_NAMED = {b"\\b": b"\b", b"\\f": b"\f", b"\\n": b"\n", b"\\r": b"\r", b"\\t": b"\t"} | {
    b"&amp;": b"&",
    b"&lt;": b"<",
    b"&gt;": b">",
    b"&quot;": b'"',
    b"&apos;": b"'",
}


@lru_cache(maxsize=4096)
def _character(escape: bytes) -> bytes:
    """What an escape stands for, in UTF-8; the escape itself when there is no such character."""
    if escape in _NAMED:
        return _NAMED[escape]
    if escape[:2] == b"\\x" or (escape[:1] == b"%" and len(escape) == 3):
        return unhexlify(escape[-2:])
    if escape[:1] == b"\\" and len(escape) == 2:
        return escape[1:]
    if len(escape) == 12:  # a surrogate pair
        return unhexlify(escape[2:6] + escape[8:]).decode("utf-16-be").encode()
    digits = escape.strip(b"\\&#%uUxX{};")
    value = int(digits, 10 if escape[:2] == b"&#" and escape[2:3].isdigit() else 16)
    return chr(value).encode("utf-8", "surrogatepass") if value < 0x110000 else escape


def _wide_character(escape: bytes) -> bytes:
    """The same, where two digits are the number of a character."""
    return _character(escape).decode("latin-1").encode() if _AMBIGUOUS.fullmatch(escape) else _character(escape)


def _unescaped(match: re.Match[bytes]) -> bytes:
    return _character(match[0])


def _unescaped_wide(match: re.Match[bytes]) -> bytes:
    return _wide_character(match[0])


def _substituted(pattern: re.Pattern[bytes], data: bytes, meaning: Callable[[bytes], bytes]) -> _Pieces:
    """How `pattern.sub` makes a text out of another."""
    starts: list[int] = []
    lengths: list[int] = []
    origins: list[tuple[int, int]] = []
    place = position = 0
    for match in pattern.finditer(data):
        begin, end = match.span()
        size = len(meaning(match[0]))
        starts += (place, place + begin - position)
        lengths += (begin - position, size)
        origins += ((position, begin - position), (begin, end - begin))
        place += begin - position + size
        position = end
    return _Pieces((*starts, place), (*lengths, len(data) - position), (*origins, (position, len(data) - position)))


def _islands(data: bytes) -> _Decoding:
    """The texts in bytes that are mostly none."""
    flat, wide = data.translate(_PRINTABLE), data.translate(_NO_CONTROL)
    islands: list[tuple[int, int]] = []
    at = flat.find(b"a" * _LEAST_ISLAND)
    while at >= 0:
        start, end = wide.rfind(b" ", 0, at) + 1, wide.find(b" ", at)
        end = len(data) if end < 0 else end
        islands.append((start, end - start))
        at = flat.find(b"a" * _LEAST_ISLAND, end)

    def trace() -> _Pieces:
        starts = [0]
        for _, length in islands:
            starts.append(starts[-1] + length + 1)
        return _Pieces(starts[:-1], [length for _, length in islands], islands)

    return b"\xff".join([data[start : start + length] for start, length in islands]), trace, False


def _needles(secret: str) -> list[bytes]:
    """The texts that give a secret away once a text is decoded, longest first."""
    lines = [line.strip() for line in secret.splitlines()]
    values = {secret, secret.strip(), *(line for line in lines if len(lines) == 1 or len(line) >= _SHORTEST_LINE)}
    texts = {form for value in values for form in (value, unicodedata.normalize("NFC", value), unicodedata.normalize("NFD", value))}
    texts |= {text.replace(" ", "+") for text in texts}
    found = {text.encode("utf-8", "surrogatepass") for text in texts}
    found |= {text.encode("latin-1") for text in texts if not text.isascii() and all(ord(character) < 256 for character in text)}
    # A secret that holds what looks like an escape is decoded together with the text around it.
    for level in [found] * _LEVELS:
        level |= {plain for value in level if len(plain := _ESCAPE.sub(_unescaped, value)) >= _SHORTEST}
    return sorted(found - {b""}, key=len, reverse=True)


def _codes(needle: bytes) -> Iterator[bytes]:
    """Base16 of a short secret, and what its Base64 always has in common, wherever in a text it stands."""
    from base64 import b64encode

    yield from {needle.hex().encode(), needle.hex().upper().encode()}
    for before in range(3):
        code = b64encode(bytes(before) + needle)
        common = code[-(-before * 8 // 6) : (before + len(needle)) * 8 // 6]
        if len(common) >= _SHORTEST:
            yield from {common, common.translate(bytes.maketrans(b"+/", b"-_"))}


def _word(needle: bytes) -> re.Pattern[bytes]:
    """Not within a longer word; what is no word itself, such as a semicolon, is found everywhere."""
    before = rb"(?<![0-9A-Za-z_\x80-\xff])" if _IN_WORDS.match(needle[:1]) else b""
    after = rb"(?![0-9A-Za-z_\x80-\xff])" if _IN_WORDS.match(needle[-1:]) else b""
    return re.compile(before + re.escape(needle) + after)


def _in_utf_16(needle: bytes) -> Iterator[bytes]:
    try:
        text = needle.decode()
    except UnicodeDecodeError:  # it is in Latin-1
        return
    yield text.encode("utf-16-le")
    yield text.encode("utf-16-be")


def _places(needle: bytes, data: bytes) -> Iterator[int]:
    at = data.find(needle)
    while at >= 0:
        yield at
        at = data.find(needle, at + 1)


def _torn(needle: bytes, data: bytes) -> Iterator[tuple[int, int]]:
    """The first part of the needle at the end of the data, and the last part of it at the beginning, unless they are too short to tell."""
    begin = max(0, len(data) - len(needle) + 1)
    for at in _places(needle[:_SHORTEST], data[begin:]):
        if needle.startswith(data[begin + at :]):
            yield begin + at, len(data)
            break
    head = data[: len(needle) - 1]
    at = head.rfind(needle[-_SHORTEST:])
    while at >= 0:
        if needle.endswith(head[: at + _SHORTEST]):
            yield 0, at + _SHORTEST
            break
        at = head.rfind(needle[-_SHORTEST:], 0, at + _SHORTEST - 1)


def _merged(data: bytes, found: list[_Span]) -> Iterator[_Span]:
    """Finds in their order, those that overlap as one with the name of the first, and none that ends within a character."""
    found.sort(key=lambda span: (span[0], -span[1]))
    first, last, name = found[0]
    for start, end, number in found:
        if start < last or start == first:
            last = max(last, end)
            continue
        yield _whole(data, first, last, name)
        first, last, name = start, end, number
    yield _whole(data, first, last, name)


def _whole(data: bytes, start: int, end: int, number: int) -> _Span:
    while data[start] & 0xC0 == 0x80:
        start -= 1
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return start, end, number
