"""Names that a reader takes for one another: `Alice`, `alice`, and an `alice` whose first letter is Cyrillic.

Approvals are counted by actor id, character by character. Two ids of one likeness are therefore two approvers to a program and one to the
person who looks at the list. Covered are case, compatibility forms and composition (NFKC, casefold), spaces, characters that show nothing,
and those letters of the Cyrillic and Greek scripts that look like Latin ones in most fonts. It is no complete list of what looks alike
(that would be the one of Unicode Technical Standard 39), and names that only resemble each other are different.
"""

from collections.abc import Iterable
from unicodedata import category, normalize

__all__ = ["alike", "likeness"]

_CYRILLIC = (
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u04ae\u051a\u051c"
    "\u0430\u0435\u0455\u0456\u0458\u043e\u0440\u0441\u0443\u0445\u0501\u04bb\u04cf\u051b\u051d\u0475"
)
_GREEK = "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03b1\u03b9\u03bd\u03bf\u03c1\u03c5"
_LOOKS_LATIN = str.maketrans(
    _CYRILLIC + _GREEK + "\u0131\u0251\u0261",  # and dotless i, script a and g
    "ABESIJKMHOPCTYXYQW" + "aesijopcyxdhlqwv" + "ABEZHIKMNOPTYX" + "aivopu" + "iag",
)
_INVISIBLE = frozenset({"\u034f", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u3164", "\uffa0", *map(chr, range(0xFE00, 0xFE10))})
"""What shows nothing without being a format character (Cf): joiners, fillers, variation selectors."""


def likeness(name: str) -> str:
    """The same text for names that look the same; for comparison alone, never to be stored or shown."""
    if not name.isascii():
        visible = "".join(letter for letter in name if category(letter) != "Cf" and letter not in _INVISIBLE)
        name = normalize("NFKC", normalize("NFKC", visible).translate(_LOOKS_LATIN).casefold())
    return " ".join(name.casefold().split())


def alike(names: Iterable[str]) -> list[list[str]]:
    """The groups of different names among these that look the same, in order of appearance."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(likeness(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
