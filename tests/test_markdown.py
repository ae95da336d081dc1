"""Text of users inside Markdown."""

import re
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.markdown import escape, printable

ANY_TEXT = st.text(st.characters(), max_size=40)
NASTY = st.text(st.sampled_from("\\xu0U1bA<>&;#`[]()!:\n\r\t\x1b\x9b\u2028\u202e\ud800\U000e0041ab-* "), max_size=20)


def unescape(text: str) -> str:
    return re.sub(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))", lambda m: chr(int(m[1] or m[2] or m[3], 16)), text)


@pytest.mark.parametrize(
    "text",
    [
        'rotate key "prod-1" (eu_west)',
        "load < 5 && cost > 3 -> stop",
        "R&D at AT&T: 100 % of 'it' * 2 + #4 ~ a|b $x @bob!",
        "[x] done (really) [PROD] eu",
        r"C:\new\users\x",
        "Schlüssel für Zürich, 鍵, مفتاح, कुंजी, क्\u200dष",
        "🔑👩\u200d🚀❤\ufe0f",
        "sha256:" + "ab" * 32,
        "subprocess:mcpt:key_rotation",
        "- # > 1. starts like a structure",
        "",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J\x07\x00\x7f", r"\x9b2J\x07\x00\x7f"),
        ("a\n## Forged\r\n- item\t\x0b\x0c\x85", r"a\x0a## Forged\x0d\x0a- item\x09\x0b\x0c\x85"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("\u202egnp.exe\u2066\u2069\u200f", r"\u202egnp.exe\u2066\u2069\u200f"),
        ("ali\u200bce\u00ad\ufeff\u2060", r"ali\u200bce\xad\ufeff\u2060"),
        ("\U000e0041\U000e007f", r"\U000e0041\U000e007f"),
        ("\ud800 \udfff", r"\ud800 \udfff"),
        ("`rm -rf`", r"\x60rm -rf\x60"),
        ("<script>", r"\x3cscript>"),
        ("</b><!-- x --><?php", r"\x3c/b>\x3c!-- x -->\x3c?php"),
        ("<http://example.org>", r"\x3chttp://example.org>"),
        ("ends with <", r"ends with \x3c"),
        ("&#27;[31m &#x1b; &lt;b&gt;", r"\x26#27;[31m \x26#x1b; \x26lt;b\x26gt;"),
        ("[click](javascript:x)", r"[click]\x28javascript:x)"),
        ("![](http://example.org/seen)", r"![]\x28http://example.org/seen)"),
        ("[a][b] [c]: d", r"[a]\x5bb] [c]\x3a d"),
        (r"looks like \x1b \u202e \U000e0041", r"looks like \x5cx1b \x5cu202e \x5cU000e0041"),
    ],
)
def test_dangerous_characters_are_shown_by_their_code(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_other_values_are_shown_as_their_text() -> None:
    assert escape(3) == "3"
    assert escape(None) == "None"


@pytest.mark.parametrize("text", ["run `nexus-attest list`", "<b> &amp; [a](b)", "C:\\new"])
def test_markup_means_nothing_on_a_terminal_and_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("shown_by", [escape, printable])
@given(text=ANY_TEXT | NASTY)
def test_nothing_that_controls_a_terminal_or_ends_a_line_is_left(shown_by: Callable[[object], str], text: str) -> None:
    shown = shown_by(text)
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode()


@given(ANY_TEXT | NASTY)
def test_no_markup_is_left(text: str) -> None:
    assert not re.search(r"`|<[A-Za-z/!?]|&#|\][(\[:]", escape(text) + "a")


@pytest.mark.parametrize("shown_by", [escape, printable])
@given(text=ANY_TEXT | NASTY)
def test_different_texts_stay_different(shown_by: Callable[[object], str], text: str) -> None:
    assert unescape(shown_by(text)) == text
