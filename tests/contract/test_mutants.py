"""What scripts/mutants.py is told about the code still holds; the run itself takes hours (`make mutants`)."""

import re
import tomllib
from pathlib import Path

import pytest

from scripts.mutants import EQUIVALENT, ROOT, TESTS, Survivor, changes, code_digest, report

LISTED: dict[str, list[dict[str, str]]] = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", TESTS)
def test_the_tests_of_a_module_exist(module: str) -> None:
    assert (ROOT / "nexus_control" / f"{module}.py").is_file()
    assert [name for name in TESTS[module] if not (ROOT / "tests" / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("module", LISTED)
def test_a_change_that_means_the_same_is_one_of_code_that_is_there_and_says_why(module: str) -> None:
    lines = {line.strip() for line in (ROOT / "nexus_control" / f"{module}.py").read_text(encoding="utf-8").splitlines()}
    for entry in LISTED[module]:
        assert set(entry) == {"before", "after", "why"}
        assert entry["before"] in lines
        assert entry["before"] != entry["after"]
        assert entry["why"]


def test_a_change_that_nobody_notices_fails_unless_it_is_listed_and_so_does_a_listed_one_that_is_noticed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    same, alive = Survivor("a == b", "a >= b"), Survivor("a < b", "a <= b")
    assert report("m", {same}, 10, [same]) == 0
    assert capsys.readouterr().out == "m: 10 changes, 1 mean the same, 9 of the other 9 noticed\n"
    assert report("m", {same}, 10, [same, alive]) == 1
    assert "    - a < b\n    + a <= b\n" in capsys.readouterr().out
    assert report("m", {same}, 10, []) == 1


def test_the_quality_page_names_every_module_that_is_changed() -> None:
    page = (Path(ROOT) / "docs" / "quality.md").read_text(encoding="utf-8")
    assert [module for module in TESTS if f"| `{module}` |" not in page] == []


def test_the_quality_page_is_about_the_present_code_and_counts_the_changes_that_there_are_to_make_to_it(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d+) \|", page, re.MULTILINE)
    assert {module: code for module, code, _ in rows} == {module: code_digest(module) for module in TESTS}, "judge it anew, or see the page"
    assert {module: int(count) for module, _, count in rows} == changes(tmp_path)
