"""TOML of configuration files, read in a bounded time.

`tomllib` takes time with the square of the names of a dotted key: a key of 100 kB would keep it busy for a minute, one of 1 MB for hours.
"""

import tomllib
from typing import Any

__all__ = ["parse_toml"]

_MOST_WORK = 50_000_000
"""The squares of the numbers of dots in each line, taken together: 7,000 in one line, which takes about a second if they are a key's."""


def parse_toml(content: bytes) -> dict[str, Any]:
    """The data of a TOML document (TOML 1.0). Raises ValueError for what is none or no UTF-8, RecursionError for what is too deep."""
    if sum(line.count(b".") ** 2 for line in content.split(b"\n")) > _MOST_WORK:
        raise ValueError("there are lines with thousands of dots, which no key needs")
    return tomllib.loads(content.decode())
