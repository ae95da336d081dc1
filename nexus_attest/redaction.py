"""What keeps secrets out of records and reports: they are found by value, by place and by the look of well-known credentials.

Every find is replaced by a mark that says why, `[redacted:<reason>]`, before anything is recorded or hashed. A redactor knows the values
that a run itself handed to a tool, in the spellings in which tools give them back (`nexus_attest.secret_search`). It does not recognise a
secret that a tool has split up, encrypted or compressed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, cast

from nexus_attest.secret_search import SecretSearch

__all__ = [
    "NO_SECRETS",
    "Pointer",
    "Redactor",
    "literal_secrets",
    "mark",
    "names_a_secret",
    "parse_pointer",
    "passwords_of",
    "variable_names_a_secret",
]

Pointer: TypeAlias = tuple[str, ...]
"""The reference tokens of a JSON pointer (RFC 6901); the token `*` stands for every member and every item."""

_PASSWORD = r"[^\s/@]{1,200}(?:@[^\s/@\"'<>]{0,200}){0,3}"
"""In a URL. A `@` in it should be escaped, and often is not: the last one before a `/`, or a quote, ends it."""

_CREDENTIALS: tuple[tuple[str, int, str, str], ...] = (
    # The reason, the length and the part that a text must have for the pattern to match, and the pattern. Each takes time linear in the
    # text, and begins with literal characters, which `re` looks for many times faster than for a place after a boundary: hence the
    # boundaries behind them.
    ("private-key", 27, "PRIVATE KEY-----", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]+-----END [A-Z ]{0,40}PRIVATE KEY-----|[^-]*)"),
    ("aws-access-key", 20, "A", r"A(?<![A-Z0-9]A)(?:KIA|SIA)[A-Z0-9]{16}(?![A-Z0-9])"),
    ("github-token", 40, "gh", r"gh(?<![A-Za-z0-9]gh)[pousr]_[A-Za-z0-9]{36,255}"),
    ("github-token", 33, "github_pat_", r"github_pat_[A-Za-z0-9_]{22,255}"),
    ("gitlab-token", 26, "glpat-", r"glpat-[A-Za-z0-9_-]{20,255}"),
    ("slack-token", 15, "xox", r"xox[abeprs]-[A-Za-z0-9-]{10,255}"),
    ("google-api-key", 39, "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    ("stripe-key", 24, "_live_", r"(?<![A-Za-z0-9])[rs]k_live_[A-Za-z0-9]{16,255}"),
    ("api-key", 35, "sk-", r"sk-(?<![A-Za-z0-9]sk-)(?:[a-z]{2,10}-)?[A-Za-z0-9_-]{32,255}"),
    ("npm-token", 40, "npm_", r"npm_(?<![A-Za-z0-9]npm_)[A-Za-z0-9]{36}"),
    ("pypi-token", 58, "pypi-", r"pypi-AgE[A-Za-z0-9_-]{50,500}"),
    ("hugging-face-token", 33, "hf_", r"hf_(?<![A-Za-z0-9]hf_)[A-Za-z0-9]{30,255}"),
    ("xrpl-seed", 29, "sEd", r"sEd(?<![A-Za-z0-9]sEd)[1-9A-HJ-NP-Za-km-z]{26,28}(?![A-Za-z0-9])"),
    (
        "xrpl-seed",
        28,
        "s",
        r"s(?<![A-Za-z0-9]s)(?=[A-Za-z0-9]{27})(?=[a-zA-Z]{0,28}[1-9])(?=[a-z1-9]{0,28}[A-Z])[1-9A-HJ-NP-Za-km-z]{27,28}(?![A-Za-z0-9])",
    ),
    ("json-web-token", 38, "eyJ", r"eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{10,4000}\.eyJ[A-Za-z0-9_-]{10,8000}\.[A-Za-z0-9_-]{10,2000}"),
    ("authorization", 23, "earer ", r"(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,4000}=*"),
    ("url-password", 6, "://", rf"(?<=://)[^\s/:@]{{0,200}}:{_PASSWORD}(?=@)"),
)

_LONGEST = max(least for _, least, _, _ in _CREDENTIALS)
_COMPILED = tuple(
    tuple((reason, needle, re.compile(pattern)) for reason, least, needle, pattern in _CREDENTIALS if least <= length)
    for length in range(_LONGEST + 1)
)
"""By the length of a text, what it may hold: most texts of an answer are too short for nearly all of it."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_SECRET_WORDS = frozenset(
    {"apikey", "auth", "authorization", "bearer", "credential", "credentials", "passcode", "passphrase", "passwd", "password", "pin", "pwd"}
    | {"secret", "secrets", "seed", "token"}
)
_SECRET_ENDINGS = ("password", "passwd", "passphrase", "apikey", "authtoken", "accesstoken")
"""Of words that were written together, as in `PGPASSWORD`."""
_SECRET_PAIRS = frozenset(
    {("access", "key"), ("api", "key"), ("private", "key"), ("secret", "key"), ("signing", "key"), ("encryption", "key")}
)
_SECRET_VARIABLES = frozenset({"cookie", "dsn", "jwt", "key", "otp", "pass", "pat", "pw"})
_PUBLIC_PAIRS = frozenset({("public", "key"), ("site", "key"), ("sort", "key"), ("partition", "key"), ("primary", "key")})
_URL_PASSWORD = re.compile(rf"(?<=://)[^\s/:@]{{0,200}}:({_PASSWORD})(?=@)")
_HARMLESS_PAIRS = frozenset({("continuation", "token"), ("cursor", "token"), ("next", "token"), ("page", "token"), ("random", "seed")})


def mark(reason: str) -> str:
    """What stands in the place of something redacted."""
    return f"[redacted:{reason}]"


def parse_pointer(text: str) -> Pointer:
    """The tokens of a JSON pointer. Raises ValueError for what RFC 6901 does not allow, and for the pointer to the whole output."""
    if not text.startswith("/") or re.search(r"~(?![01])", text):
        raise ValueError("no JSON pointer to a member")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))


class Redactor:
    """Knows the secrets of one run by name, and the places of an output that are never recorded."""

    def __init__(self, secrets: Mapping[str, str], pointers: Sequence[Pointer] = ()) -> None:
        self._names = {value: name for name, value in secrets.items()}
        self._search = SecretSearch(secrets)
        self._pointers = tuple(pointers)

    def text(self, text: str, *, torn: bool = False) -> str:
        """A text with all finds replaced; `torn`: also what may be a part of a secret at an end of the text, where it was cut."""
        if self._names:
            text = self._search.replace(text, lambda name: mark(f"secret {name}"), torn=torn)
        for reason, needle, pattern in _COMPILED[min(len(text), _LONGEST)]:
            if needle in text:
                text = pattern.sub(mark(reason), text)
        return text

    def output(self, output: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
        """An output with all finds replaced, also in the names of members, and the JSON pointers to them in the order of the output."""
        found: list[str] = []
        cleaned = self._value(output, (), self._pointers, found)
        return cast("dict[str, object]", cleaned), tuple(found)

    def _value(self, value: object, place: Pointer, pointers: Sequence[Pointer], found: list[str]) -> object:
        cleaned = value
        if pointers and () in pointers:
            cleaned = mark("configured")
        elif isinstance(value, str):
            cleaned = self.text(value)
        elif isinstance(value, list):
            items = cast("list[object]", value)
            return [self._value(item, (*place, str(n)), _below(pointers, str(n)), found) for n, item in enumerate(items)]
        elif isinstance(value, Mapping):
            return self._object(cast("Mapping[str, object]", value), place, pointers, found)
        elif self._names and isinstance(value, int | float) and (name := self._names.get(json.dumps(value))) is not None:
            cleaned = mark(f"secret {name}")
        if cleaned is not value and cleaned != value:
            found.append(_pointer(place))
        return cleaned

    def _object(self, value: Mapping[str, object], place: Pointer, pointers: Sequence[Pointer], found: list[str]) -> dict[str, object]:
        cleaned: dict[str, object] = {}
        numbered: dict[str, Iterator[str]] = {}  # kept for all members: whoever answers may send thousands that become one mark
        for key, member in value.items():
            name = self.text(key)
            if name != key:
                # Two names may become one mark; a number keeps them apart, so that no member is lost.
                name = next(free for free in numbered.setdefault(name, _numbered(name)) if free not in cleaned and free not in value)
                found.append(_pointer((*place, name)))
            cleaned[name] = self._value(member, (*place, name), _below(pointers, key) if pointers else pointers, found)
        return cleaned


NO_SECRETS = Redactor({})
"""Finds well-known credentials only."""


def literal_secrets(args: Mapping[str, object]) -> list[str]:
    """JSON pointers to what looks like a secret written into the arguments of a call: a text or number under a name such as `password`
    or `apiKey`, or a text that holds a well-known credential anywhere. References, `{"$secret": NAME}`, are none.
    """
    return list(_literals(args, (), secret=False))


def _literals(value: object, place: Pointer, *, secret: bool) -> Iterator[str]:
    if isinstance(value, str):
        if value and (secret or NO_SECRETS.text(value) != value):
            yield _pointer(place)
    elif isinstance(value, Mapping):
        members = cast("Mapping[str, object]", value)
        if "$secret" in members:
            return
        for key, member in members.items():
            if NO_SECRETS.text(key) != key:
                yield _pointer((*place, NO_SECRETS.text(key)))
            else:
                yield from _literals(member, (*place, key), secret=secret or names_a_secret(key))
    elif isinstance(value, list):
        for number, item in enumerate(cast("list[object]", value)):
            yield from _literals(item, (*place, str(number)), secret=secret)
    elif secret and isinstance(value, int | float) and not isinstance(value, bool):
        yield _pointer(place)


def names_a_secret(key: str) -> bool:
    """Whether a name says that its value is a secret: `password`, `apiKey`, `GITHUB_TOKEN`, `password1`, `PGPASSWORD`, but not `max_tokens`
    or `next_page_token`.
    """
    words = _words(key)
    last_two = tuple(words[-2:])
    if not words or last_two in _HARMLESS_PAIRS:
        return False
    return words[-1] in _SECRET_WORDS or last_two in _SECRET_PAIRS or words[-1].endswith(_SECRET_ENDINGS)


def variable_names_a_secret(name: str) -> bool:
    """The same for an environment variable, where shorter words say it too: `DB_PASS`, `MYSQL_PWD`, `STRIPE_KEY`, but not `PWD`.

    More of them count than of the names in a plan: here a mistake marks a harmless text, there it refuses an action.
    """
    if name == "PWD":  # where a shell is
        return False
    words = _words(name)
    return names_a_secret(name) or (bool(words) and words[-1] in _SECRET_VARIABLES and tuple(words[-2:]) not in _PUBLIC_PAIRS)


def passwords_of(value: str) -> list[str]:
    """The passwords in the URLs of a text, as of a database: `postgres://user:password@host`."""
    return _URL_PASSWORD.findall(value)


def _words(name: str) -> list[str]:
    """The words of a name in small letters, without a number at its end."""
    words = [word.lower() for word in _WORDS.findall(name)]
    while words and words[-1].isdecimal():
        words.pop()
    return words


def _below(pointers: Sequence[Pointer], token: str) -> list[Pointer]:
    return [pointer[1:] for pointer in pointers if pointer and pointer[0] in ("*", token)]


def _pointer(place: Pointer) -> str:
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in place)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name} {number}"
        number += 1
