"""docs/errors.md tells what the code does."""

from pathlib import Path

from scripts.errors_table import table

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_table_of_codes_is_the_one_that_the_classes_make() -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == table(), "run `make docs`"
