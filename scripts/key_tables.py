"""Write the tables of keys in documents, from the definitions that read the files. `make docs` runs it, tests compare."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexus_attest.attestation.witness_file import AUTHORITY_KEYS, NETWORK_KEYS
from nexus_attest.routers.adapters_file import VARIANTS
from nexus_attest.shapes import Key

DOCS = Path(__file__).resolve().parent.parent / "docs"

_COMMON = [key for key in VARIANTS[0].keys if all(key in variant.keys for variant in VARIANTS)]
_TABLES: Mapping[str, Mapping[str, Sequence[Key]]] = {
    "adapters.md": {
        "common": _COMMON,
        **{
            name: [key for key in variant.keys if key not in _COMMON]
            for name, variant in zip(("subprocess", "mcp, started", "mcp, url", "http"), VARIANTS, strict=True)
        },
    },
    "timestamps.md": {"authorities": AUTHORITY_KEYS},
    "witness.md": {"networks": NETWORK_KEYS},
}
_PLACE = re.compile(r"(<!-- keys: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(name: str, document: str) -> str:
    """A document of this name with all its tables made anew."""
    return _PLACE.sub(lambda place: f"{place[1]}{_table(_TABLES[name][place[2]])}{place[3]}", document)


def _table(keys: Sequence[Key]) -> str:
    rows = [f"| `{key.name}` | {_default(key)} | {key.about} |\n" for key in keys]
    return "\n| Key | Default | Meaning |\n|---|---|---|\n" + "".join(rows).replace("|`", "| `") + "\n"


def _default(key: Key) -> str:
    if key.required:
        return "required"
    return "" if key.default is None else f"`{json.dumps(key.default)}`"


if __name__ == "__main__":
    for name in _TABLES:
        (DOCS / name).write_text(filled(name, (DOCS / name).read_text(encoding="utf-8")), encoding="utf-8")
