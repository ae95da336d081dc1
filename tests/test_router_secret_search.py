"""A secret is found in whatever way software has written it down, alone or within more, and nothing else is taken for it."""

import base64
import html
import json
import random
import unicodedata
import zlib
from collections.abc import Callable
from time import process_time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nexus_attest.secret_search import SecretSearch

SECRET = "p/s<w&d>+'\u00e9\"\\ \u20ac\U0001f511"
"""What somebody escapes: a slash, signs of HTML, plus, both quotes, a backslash, a space, characters of two, three and four bytes."""


def cleaned(text: str, secret: str = SECRET, *, torn: bool = False) -> str:
    return SecretSearch({"x": secret}).replace(text, lambda name: f"<{name}>", torn=torn)


# What the encoders of other languages make of SECRET, character for character.


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(r"""p\/s<w&d>+'\u00e9\"\\ \u20ac\ud83d\udd11""", id="PHP json_encode"),
        pytest.param(r"""p\/s\u003Cw\u0026d\u003E+\u0027\u00e9\u0022\\ \u20ac\ud83d\udd11""", id="PHP json_encode, JSON_HEX_*"),
        pytest.param(r"""p/s\u003cw\u0026d\u003e+'é\"\\ €🔑""", id="Go encoding/json"),
        pytest.param(r"""p/s\u003Cw\u0026d\u003E\u002B\u0027\u00E9\u0022\\ \u20AC\uD83D\uDD11""", id=".NET System.Text.Json"),
        pytest.param(r"""p/s<w&d>+'é\"\\ €🔑""", id=".NET Newtonsoft, Jackson, JavaScript JSON.stringify"),
        pytest.param(r"""p/s\u003cw\u0026d\u003e+\u0027é\"\\ €🔑""", id="Java Gson"),
        pytest.param(r"""p/s<w&d>+'\u00E9\"\\ \u20AC\uD83D\uDD11""", id="Java Jackson, ESCAPE_NON_ASCII"),
        pytest.param(r"""p/s<w&d>+'\u00e9"\\\ \u20ac\ud83d\udd11""", id="Java properties"),
        pytest.param(r"""p/s<w&d>+\'\xe9"\\ \u20ac\U0001f511""", id="Python ascii()"),
        pytest.param(r"""p\u002fs\u003cw\u0026d\u003e\u002b\u0027\u00e9\u0022\u005c\u0020\u20ac\ud83d\udd11""", id="all of it, as \\u"),
        pytest.param(r"""\u{70}/s<w&d>+'\u{e9}"\\ \u{20ac}\u{1f511}""", id="JavaScript, Rust and Swift braces"),
        pytest.param("p%2Fs%3Cw%26d%3E%2B%27%C3%A9%22%5C+%E2%82%AC%F0%9F%94%91", id="Java URLEncoder, PHP urlencode"),
        pytest.param("p%2fs%3cw%26d%3e%2b%27%c3%a9%22%5c+%e2%82%ac%f0%9f%94%91", id=".NET UrlEncode, lower case"),
        pytest.param("p%2Fs%3Cw%26d%3E%2B'%C3%A9%22%5C%20%E2%82%AC%F0%9F%94%91", id="JavaScript encodeURIComponent"),
        pytest.param("p/s%3Cw&d%3E+'%C3%A9%22%5C%20%E2%82%AC%F0%9F%94%91", id="JavaScript encodeURI"),
        pytest.param("p/s%3Cw%26d%3E+%27%E9%22%5C%20%u20AC%uD83D%uDD11", id="JavaScript escape"),
        pytest.param("p/s&lt;w&amp;d&gt;+&#39;é&quot;\\ €🔑", id="Go and Python html escape, decimal"),
        pytest.param("p&#x2F;s&lt;w&amp;d&gt;&#x2B;&#x27;&#xE9;&quot;\\ &#8364;&#128273;", id="HTML by number"),
        pytest.param("cC9zPHcmZD4rJ8OpIlwg4oKs8J+UkQ", id="Base64"),
        pytest.param("cC9zPHcmZD4rJ8OpIlwg4oKs8J-UkQ", id="Base64, for URLs, without padding"),
        pytest.param("702f733c7726643e2b27c3a9225c20e282acf09f9491", id="hexadecimal"),
        pytest.param("702F733C7726643E2B27C3A9225C20E282ACF09F9491", id="hexadecimal, upper case"),
        pytest.param("p/s<w&d>+'e\u0301\"\\ €🔑", id="decomposed, as macOS names files"),
    ],
)
def test_a_secret_is_found_as_other_languages_write_it(written: str) -> None:
    assert cleaned(f'{{"a": "{written}", "b": 1}}') == '{"a": "<x>", "b": 1}'
    assert cleaned(written) == "<x>"


def test_a_secret_in_json_in_a_string_of_json_is_found() -> None:
    text = json.dumps({"log": json.dumps({"inner": json.dumps({"token": SECRET})})})
    assert json.loads(json.loads(json.loads(cleaned(text))["log"])["inner"]) == {"token": "<x>"}


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "json": lambda text: json.dumps(text.decode()).encode(),
    "json, not ASCII": lambda text: json.dumps(text.decode(), ensure_ascii=False).encode(),
    "php": lambda text: json.dumps(text.decode()).replace("/", "\\/").encode(),
    "upper": lambda text: "".join(f"\\u{unit:04X}" for unit in units(text.decode())).encode(),
    "percent": lambda text: quote(text, safe="").encode(),
    "percent, lower": lambda text: "".join(f"%{byte:02x}" for byte in text).encode(),
    "form": lambda text: quote_plus(text).encode(),
    "html": lambda text: html.escape(text.decode()).encode(),
    "base64": base64.b64encode,
    "base64, url": lambda text: base64.urlsafe_b64encode(text).rstrip(b"="),
    "base64, lines": base64.encodebytes,
    "hex": lambda text: text.hex().encode(),
    "HEX": lambda text: text.hex().upper().encode(),
}


def units(text: str) -> list[int]:
    data = text.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]


SECRETS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=8, max_size=20).filter(
    lambda text: len(text.strip()) > 7
)
CHAINS = st.lists(st.sampled_from(sorted(ENCODERS)), min_size=1, max_size=4)
CONTEXT = st.text(st.characters(codec="ascii", categories=("L", "N", "Zs")), max_size=7)


@settings(max_examples=400, deadline=None)
@given(SECRETS, CHAINS, CONTEXT, CONTEXT)
@example("a%41\\n\\u0041bc", ["json", "percent"], "x", "y")
@example("12345678", ["base64", "base64, lines", "hex", "json"], "a", "")
@example("000:::\x80\x80\x80\x80\x80\x80\x80\U00010000\U00010000\U00010000\U00010000\U00010000", ["form", "upper", "upper", "HEX"], "", "")
def test_a_secret_is_found_through_any_chain_of_encodings(secret: str, chain: list[str], before: str, after: str) -> None:
    text = f"{before}{secret}{after}".encode()
    for name in chain:
        text = ENCODERS[name](text)
    assert "<x>" in cleaned(f"({text.decode()})", secret), chain


@given(SECRETS, st.sampled_from(["base64", "base64, url", "hex", "HEX"]), st.binary(max_size=9), st.binary(max_size=9))
def test_of_a_secret_in_code_every_character_with_a_share_goes_and_no_other(secret: str, code: str, before: bytes, after: bytes) -> None:
    size, width = (4, 3) if code.startswith("base64") else (2, 1)
    data = secret.encode()
    text = ENCODERS[code](before + data + after).decode()
    first, last = len(before) * size // width, -(-(len(before) + len(data)) * size // width)
    at = (before + data + after).find(data)
    if at == len(before) and (before + data + after).rfind(data) == at:
        assert cleaned(text, secret) == f"{text[:first]}<x>{text[last:]}"


@pytest.mark.parametrize("form", ["utf-16-le", "utf-16-be"])
def test_a_secret_in_utf_16_is_found(form: str) -> None:
    assert "<x>" in cleaned(base64.b64encode(f"echo {SECRET}".encode(form)).decode())  # as PowerShell takes commands
    assert cleaned("p\0a\0s\0s\0w\0o\0r\0d\0", "password") == "<x>"
    assert "<x>" in cleaned(json.dumps('a"password'.encode(form).decode("latin-1")), 'a"password')


def test_a_secret_is_found_composed_and_decomposed() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Z\u00fcrich-H\u00f6ngg") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert cleaned(composed, decomposed) == cleaned(decomposed, composed) == "<x>"


# What is no secret stays.


@pytest.mark.parametrize(
    ("secret", "text", "result"),
    [
        ("a", "banana a \\u0061 %61", "banana <x> <x> <x>"),
        ("abc", "abcd xabc (abc) abc_1 \u00e9abc", "abcd xabc (<x>) abc_1 \u00e9abc"),
        (";", "a;b", "a<x>b"),
        ("4711", "47110 4711 NDcxMQ== 34373131", "<x>0 <x> <x>Q== <x>"),
        ("%41", "A %41 a", "A <x> a"),
        ("+", "a b", "a b"),
    ],
)
def test_a_short_secret_is_no_reason_to_redact_everything(secret: str, text: str, result: str) -> None:
    assert cleaned(text, secret) == result


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_text_without_the_secret_stays_as_it_is(text: str) -> None:
    assert cleaned(text, "\ue000\ue001\ue002 never") == text


def test_overlapping_secrets_leave_nothing_of_either() -> None:
    search = SecretSearch({"a": "abcdef", "b": "defghi", "whole": "xabcdefx"})
    assert search.replace("abcdefghi xabcdefx abcdefabcdef", lambda name: f"<{name}>") == "<a> <whole> <a><a>"
    assert cleaned("abababab!", "ababab") == "<x>!"


def test_a_lone_surrogate_is_no_obstacle() -> None:
    assert cleaned("\ud800 password \udc00", "password") == "\ud800 <x> \udc00"
    assert cleaned("\\ud800password\\udc00", "password") == "\\ud800<x>\\udc00"


def test_numbers_beyond_all_characters_are_no_escapes() -> None:
    assert (
        cleaned("\\U00110000 &#1114112; &#x110000; \\u{110000}pass%77ord", "password") == "\\U00110000 &#1114112; &#x110000; \\u{110000}<x>"
    )


def test_no_character_is_cut_in_half() -> None:
    """The UTF-16 bytes of one text may be found in the middle of the UTF-8 of another."""
    secret = "\u0180\u0180\u0180\u0180"  # 80 01 80 01 80 01 80 01 in UTF-16
    text = "\0" + "\u00c0\x01" * 4  # c3 80 01 c3 80 01 in UTF-8
    assert cleaned(text, secret) == text
    assert cleaned("\0\u00c0\x01a\0b\0c\0", "\u0180abc") == "\0<x>"


# A secret that was cut.


@pytest.mark.parametrize("kept", range(4, 16))
def test_half_a_secret_at_an_end_that_was_cut_is_found(kept: int) -> None:
    secret = "correct horse/+%"
    assert cleaned(f"token {secret[:kept]}", secret, torn=True) == "token <x>"
    assert cleaned(f"{secret[-kept:]} was it", secret, torn=True) == "<x> was it"
    assert cleaned(f"token {secret[:kept]}", secret) == f"token {secret[:kept]}"
    assert "<x>" in cleaned(quote("token " + secret[:kept], safe=""), secret, torn=True)


def test_three_characters_of_a_secret_tell_nothing() -> None:
    assert cleaned("cor", "correct", torn=True) == "cor"
    assert cleaned("x corr is it", "correct", torn=True) == "x corr is it"


def test_half_a_secret_in_base64_is_found() -> None:
    text = base64.b64encode(b"user:correct horse battery").decode()
    assert cleaned(text[:24], "correct horse battery", torn=True) == "dXNlcj<x>"


# Time.


def hostile() -> dict[str, str]:
    noise = random.Random(1)
    code = base64.b64encode(noise.randbytes(300_000)).decode()
    nested = "A" * 1000
    while len(nested) < 300_000:
        nested = base64.b64encode((nested * 2).encode()).decode()
    return {
        "backslashes": "\\" * 400_000,
        "escaped percent": "%25" * 130_000,
        "half escapes": "\\u" * 200_000,
        "surrogates": "\\ud83d" * 70_000,
        "random Base64": code,
        "nested Base64": nested,
        "hexadecimal": noise.randbytes(200_000).hex(),
        "short runs": "abcdefghijklmnop " * 24_000,
        "lines": ("a" * 64 + "\n") * 6_000,
        "half finds": "correct hors" * 33_000,
        "zeros": "\0" * 400_000,
        "entities": "&#37;" * 80_000,
        "finds": "correct horse " * 28_000,
    }


@pytest.mark.parametrize("name", sorted(hostile()))
def test_searching_takes_linear_time(name: str) -> None:
    text = hostile()[name]
    search = SecretSearch({"x": "correct horse", "y": "0123456789abcdef"})

    def took(part: str) -> float:
        began = process_time()
        search.replace(part, str, torn=True)
        return process_time() - began

    assert took(text) < max(20 * took(text[: len(text) // 4]), 3)


# What is not found, as SECURITY.md says.


@pytest.mark.parametrize(
    "written",
    [
        SECRET[::-1],
        " ".join(SECRET),
        f"{SECRET[:9]}-{SECRET[9:]}",
        base64.b85encode(SECRET.encode()).decode(),
        base64.b64encode(zlib.compress(SECRET.encode())).decode(),
    ],
    ids=["reversed", "spaced", "split", "Base85", "compressed"],
)
def test_what_a_tool_disguises_on_purpose_gets_past(written: str) -> None:
    assert cleaned(written) == written


def test_more_than_four_encodings_in_one_another_get_past() -> None:
    text = "correct horse"
    for _ in range(4):
        text = base64.b64encode(text.encode()).decode()
    assert "<x>" in cleaned(text, "correct horse")
    assert cleaned(base64.b64encode(text.encode()).decode(), "correct horse") == base64.b64encode(text.encode()).decode()
