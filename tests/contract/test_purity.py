"""The engine needs nothing but Python, and importing the published package loads no third-party code."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = sorted((ROOT / "nexus_control").rglob("*.py"))

DEPENDENCIES = {
    "cryptography",
    "httpx",
    "jsonschema",
    "mcp",
    "nacl",
    "opentelemetry",
    "psycopg",
    "psycopg_pool",
    "rfc3161_client",
    "rich",
    "typer",
    "websockets",
    "xrpl",
}
"""Import names of the runtime dependencies, and of the extras."""

NEEDING_DEPENDENCIES = {("nexus_attest", "cli")}
"""Single-file modules of the product that may load a dependency when they are imported."""

CLIENTS = ("nexus_attest", "routers", "clients")
"""The package whose modules may, too."""


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Top-level name and line of every import statement of a file, at any depth; "" for a relative one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("" if node.level else (node.module or "").partition(".")[0]), node.lineno


@pytest.mark.parametrize("path", ENGINE, ids=lambda path: path.stem)
def test_engine_module_imports_only_the_standard_library_and_the_engine(path: Path) -> None:
    allowed = sys.stdlib_module_names | {"nexus_control"}
    assert [(name, line) for name, line in imported(path) if name not in allowed] == []


# The root loads its public names on first use, with constant module names; test_package_roots.py loads them all.
@pytest.mark.parametrize("path", [path for path in ENGINE if path.stem != "__init__"], ids=lambda path: path.stem)
def test_engine_module_hides_no_import_from_these_tests(path: Path) -> None:
    hidden = {"importlib", "runpy", "pkgutil"} & {name for name, _ in imported(path)}
    calls = {node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)} & {
        "__import__",
        "exec",
        "eval",
    }
    assert hidden | calls == set()


def test_one_module_imports_sqlite() -> None:
    assert [path.name for path in ENGINE if "sqlite3" in {name for name, _ in imported(path)}] == ["sqlite.py"]


def handlers(path: Path) -> Iterator[tuple[str, ast.ExceptHandler]]:
    """What each `except` of a file names, as it is written; "" for a bare one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            yield ("" if node.type is None else ast.unparse(node.type)), node


@pytest.mark.parametrize("package", ["nexus_control", "nexus_attest"])
def test_who_catches_everything_raises_in_the_end(package: str) -> None:
    found = [(path, name, node) for path in sorted((ROOT / package).rglob("*.py")) for name, node in handlers(path)]
    everything = [(path, node) for path, name, node in found if re.search(r"\bBaseException\b", name) or not name]
    assert len(everything) > 5
    assert [f"{path.name}:{node.lineno}" for path, node in everything if not isinstance(node.body[-1], ast.Raise)] == []


def fresh(code: str) -> list[str]:
    """The words that code prints in an interpreter of its own."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def light() -> Iterator[str]:
    """The modules that may be imported anywhere: roots, engine, mirrors, attestation, routers, PostgreSQL."""
    product = ROOT / "nexus_attest"
    below = [path for folder in ("attestation", "routers", "postgres") for path in product.glob(f"{folder}/**/*.py")]
    for path in [*ENGINE, *product.glob("*.py"), *below]:
        relative = path.relative_to(ROOT).with_suffix("")
        if relative.name != "__main__" and relative.parts[:2] not in NEEDING_DEPENDENCIES and relative.parts[:3] != CLIENTS:
            yield ".".join(relative.parts).removesuffix(".__init__")


def test_importing_a_light_module_loads_no_dependency() -> None:
    code = f"""
import importlib, sys
for name in {sorted(light())}:
    importlib.import_module(name)
    if loaded := {DEPENDENCIES} & set(sys.modules):
        sys.exit(print(name, *sorted(loaded)))
"""
    assert fresh(code) == []


def test_importing_the_engine_does_not_load_the_product() -> None:
    code = "import sys, nexus_control.tool, nexus_control.evidence; print(*{name.partition('.')[0] for name in sys.modules})"
    assert "nexus_attest" not in fresh(code)


def test_importing_the_root_loads_none_of_the_modules_behind_its_names() -> None:
    code = "import nexus_attest, sys; print(*sorted(name for name in sys.modules if name.startswith('nexus_')))"
    assert fresh(code) == ["nexus_attest", "nexus_control", "nexus_control.backends"]


def engine_layers() -> list[set[str]]:
    """The layers of the engine, top to bottom, as its import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract.get("containers") == ["nexus_control"])
    assert contract["exhaustive"]
    return [set(layer.split(" | ")) for layer in contract["layers"]]


def test_the_layers_that_the_architecture_tells_are_the_enforced_ones() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = text[text.index("| Layer of `nexus_control`") :].partition("\n\n")[0].splitlines()[2:]
    assert [set(re.findall(r"`(\w+)`", row.split(" | ")[0])) for row in rows] == engine_layers()


PURE = {
    *("base64", "binascii", "bisect", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "hashlib", "hmac"),
    *("itertools", "json", "marshal", "math", "operator", "re", "typing", "unicodedata"),
}
"""Modules of the standard library that reach nothing outside, but for the clock in `datetime`: ruff refuses that outside of `events`."""


def test_what_lies_below_sqlite_reaches_nothing_outside_but_for_files() -> None:
    layers = engine_layers()
    below = {name for layer in layers[layers.index({"sqlite"}) + 1 :] for name in layer}
    reaching = {path.stem for path in ENGINE if path.stem in below and {name for name, _ in imported(path)} - PURE - {"nexus_control"}}
    builtin = {"open", "print", "input"}
    doing = {
        path.stem
        for path in ENGINE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if path.stem in below and isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in builtin
    }
    assert "documents" in below
    assert "json_encoder" in below
    assert (reaching, doing) == ({"files"}, set())
