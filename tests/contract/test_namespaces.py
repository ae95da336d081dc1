"""Both published import paths, nexus_control.X and nexus_attest.X, lead to the same objects."""

import ast
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

INTERNAL = {
    "__init__",
    "__main__",
    "action_request",
    "allowed_events",
    "audit_record",
    "auditor",
    "authorization",
    "backend",
    "backends",
    "bundle_checks",
    "case_export",
    "case_file",
    "chain_check",
    "copying",
    "database",
    "documents",
    "event_rows",
    "event_store",
    "execution",
    "file_copy",
    "files",
    "flight_record",
    "flight_shape",
    "flight_subject",
    "fork",
    "header",
    "history",
    "in_toto",
    "inspection",
    "json_data",
    "json_encoder",
    "judgement",
    "layers",
    "likeness",
    "log",
    "log_check",
    "log_evidence",
    "markdown",
    "migration",
    "past",
    "plan",
    "router_record",
    "run_evidence",
    "run_json",
    "schema",
    "session",
    "signatures",
    "sql_store",
    "sqlite",
    "story",
    "streams",
    "tiles",
    "tree_check",
    "verification",
    "wal",
}
"""Engine modules without a mirror. A module that is not named here is published."""

ENGINE = sorted(path.stem for path in (ROOT / "nexus_control").glob("*.py"))
PUBLISHED = [name for name in ENGINE if name not in INTERNAL]


def test_every_module_that_is_called_internal_exists() -> None:
    assert set(ENGINE) >= INTERNAL


@pytest.mark.parametrize("name", PUBLISHED)
def test_mirror_exposes_the_objects_of_the_engine(name: str) -> None:
    face, engine = import_module(f"nexus_attest.{name}"), import_module(f"nexus_control.{name}")
    assert face.__all__ is engine.__all__
    assert [public for public in engine.__all__ if getattr(face, public) is not getattr(engine, public)] == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_mirror_is_a_docstring_and_two_imports(name: str) -> None:
    source = (ROOT / "nexus_attest" / f"{name}.py").read_text(encoding="utf-8")
    assert ast.unparse(ast.parse(source)) == ast.unparse(
        ast.parse(
            f'"""Published name of `nexus_control.{name}`: every public name is the same object."""\n'
            f"from nexus_control.{name} import *\n"
            f"from nexus_control.{name} import __all__ as __all__\n"
        )
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_of_a_published_module_names_what_is_there_once(name: str) -> None:
    engine = import_module(f"nexus_control.{name}")
    names: list[str] = engine.__all__
    assert len(names) == len(set(names))
    assert [public for public in names if public.startswith("_") or not hasattr(engine, public)] == []


def test_the_linters_know_every_mirror() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (protected,) = (contract for contract in tool["importlinter"]["contracts"] if contract["name"].startswith("Published names"))
    assert protected["protected_modules"] == [f"nexus_attest.{name}" for name in PUBLISHED]
    assert f"nexus_attest/{{__init__,{','.join(PUBLISHED)}}}.py" in tool["ruff"]["lint"]["per-file-ignores"]


@pytest.mark.parametrize("name", sorted(INTERNAL - {"__init__", "__main__"}))
def test_internal_module_has_no_mirror(name: str) -> None:
    assert not (ROOT / "nexus_attest" / f"{name}.py").exists()


def test_attestation_is_no_part_of_the_engine() -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module("nexus_control.attestation")
