"""docs/errors.md tells what the code does."""

import ast
import re
from pathlib import Path

from nexus_attest.routers.errors import CallFailed, CallRefused
from scripts.errors_table import table

ROOT = Path(__file__).resolve().parents[2]


def test_the_published_table_of_codes_is_the_one_that_the_classes_make() -> None:
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == table(), "run `make docs`"


RAISING = {"CallFailed", "CallRefused", "Problem", "RunFailed", "_not_selected", "_refused", "_unusable"}
"""What makes an error of a run or of a call, with its code as the first argument."""


def codes_of_runs() -> set[str]:
    """Every code that the routers spell out where they make such an error, and those that the two classes of calls promise."""
    promised = " ".join((cls.__doc__ or "").partition("Codes:")[2] for cls in (CallFailed, CallRefused))
    found = set(re.findall(r"\b[A-Z][A-Z_]+\b", promised))
    for path in (ROOT / "nexus_attest" / "routers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISING and node.args:
                first = node.args[0]
                found |= {first.value} if isinstance(first, ast.Constant) and isinstance(first.value, str) else set()
    return found


def test_every_code_of_a_run_and_of_its_calls_is_in_the_published_table() -> None:
    found = codes_of_runs()
    assert {"NONZERO_EXIT", "TIMEOUT", "COMMAND_NOT_FOUND", "ENV_INVALID", "SECRET_MISSING", "CAPABILITY_MISSING"} <= found
    published = set(re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert sorted(found - published) == []
