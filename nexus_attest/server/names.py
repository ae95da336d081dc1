"""The spellings of a tool's name: `nexus-attest.template.create`, `nexus_attest_template_create`, and the older prefix of both.

The dotted name is the published one. Several hosts refuse dots, or all tools of a server that has one dotted name, hence the other
spelling, which consists of letters, digits and `_` and has at most 64 characters. A call may use any of them, whatever the list shows.
"""

import re
from typing import Literal

__all__ = ["PREFIX", "NameStyle", "canonical_name", "listed_name", "spellings"]

PREFIX = "nexus-attest."
_OLD_PREFIX = "nexus-control."

NameStyle = Literal["dotted", "underscore"]


def canonical_name(short: str) -> str:
    """The published name of a tool, such as `nexus-attest.status`."""
    return PREFIX + short


def listed_name(short: str, style: NameStyle) -> str:
    """The name that the tool list shows."""
    name = canonical_name(short)
    return name if style == "dotted" else _underscored(name)


def spellings(short: str) -> tuple[str, ...]:
    """Every name that a call may use."""
    dotted = (PREFIX + short, _OLD_PREFIX + short)
    return *dotted, *map(_underscored, dotted)


def _underscored(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name)
