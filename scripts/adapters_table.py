"""Write the tables of keys in docs/adapters.md, from the definitions that read adapter files. `make docs` runs it, a test compares."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from nexus_attest.routers.adapters_file import VARIANTS
from nexus_attest.shapes import Key

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "adapters.md"

_COMMON = [key for key in VARIANTS[0].keys if all(key in variant.keys for variant in VARIANTS)]
_TABLES = {
    "common": _COMMON,
    **{
        name: [key for key in variant.keys if key not in _COMMON]
        for name, variant in zip(("subprocess", "mcp, started", "mcp, url", "http"), VARIANTS, strict=True)
    },
}
_PLACE = re.compile(r"(<!-- keys: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(document: str) -> str:
    """The document with all its tables made anew."""
    return _PLACE.sub(lambda place: f"{place[1]}{_table(_TABLES[place[2]])}{place[3]}", document)


def _table(keys: Sequence[Key]) -> str:
    rows = [f"| `{key.name}` | {_default(key)} | {key.about} |\n" for key in keys]
    return "\n| Key | Default | Meaning |\n|---|---|---|\n" + "".join(rows).replace("|`", "| `") + "\n"


def _default(key: Key) -> str:
    if key.required:
        return "required"
    return "" if key.default is None else f"`{json.dumps(key.default)}`"


if __name__ == "__main__":
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
