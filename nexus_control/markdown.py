r"""Text of users inside Markdown that is printed to terminals and shown in browsers, or on a line of a terminal alone.

Goals, comments, ids and error messages come from people and agents who may want a report to say something else than it does. `escape`
makes any of them a harmless run of characters on one line, and leaves ordinary text as it is. It does not hide emphasis (`*`, `_`), and
it does not make text safe for HTML attributes, URLs or a shell.
"""

import re

__all__ = ["escape", "printable"]

_UNSEEN = (
    "\x00-\x1f\x7f-\x9f"  # controls: terminal sequences, line breaks that would forge headings and list items
    "\u2028\u2029"  # line and paragraph separator
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, embeddings, overrides and isolates reorder what is read
    "\u00ad\u180e\u200b\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible: two ids look the same
    "\ud800-\udfff"  # lone surrogates cannot be written as UTF-8
)
_ESCAPED = r"|\\(?=x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"  # looks like an escape of this module

_ON_TERMINALS = re.compile(f"[{_UNSEEN}]{_ESCAPED}")
_DANGEROUS = re.compile(
    f"[{_UNSEEN}`]"  # the backtick would open or close a code span
    r"|<(?=[A-Za-z/!?]|\Z)"  # opens a tag, a comment or an autolink; as the last character it might meet a letter
    r"|&(?=#|[A-Za-z][A-Za-z0-9]*;)"  # a character reference: `&#27;` is an escape sequence once rendered
    r"|(?<=\])[(\[:]"  # makes a link, an image or a link definition of the brackets before
    f"{_ESCAPED}"
)


def escape(value: object) -> str:
    r"""`str(value)` on one line, with every dangerous character as `\x1b`, `\u202e` or `\U000e0041`.

    Different texts stay different. The result must follow something else on its line: a leading `#`, `>` or `-` is kept, since it
    means nothing there. Zero-width joiners are kept, because scripts and emoji need them.
    """
    return _DANGEROUS.sub(_visible, str(value))


def printable(value: object) -> str:
    """The same for a line that only a terminal shows: markup means nothing there and stays, so that commands in a text can be read."""
    return _ON_TERMINALS.sub(_visible, str(value))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
