"""The names of a record's checks are a promise of docs/router.md."""

import re
from pathlib import Path

from nexus_control.flight_checks import FLIGHT_CHECKS

ROOT = Path(__file__).resolve().parents[2]


def test_the_checks_of_flight_records_are_explained_in_their_order() -> None:
    text = (ROOT / "docs" / "router.md").read_text(encoding="utf-8")
    table = text[text.index("| Check |") :].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(FLIGHT_CHECKS)
