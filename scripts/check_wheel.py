"""Build the distribution and try the wheel where nothing else is installed, because users get the wheel and not this checkout.

Checks, in this order, that
1. the wheel, built from the sdist, holds every file of both packages, the schemas, its metadata, and nothing else;
2. installed without dependencies, every module imports but those of the command line and whatever else NEEDS_DEPENDENCIES names;
3. installed with its dependencies and no extra, by the Install step of action.yml, every module imports, `nexus-attest --help` answers,
   and the Verify step of action.yml passes evidence;
4. the engine's own tests pass with the wheel's nexus_control alone, where no third-party package exists but pytest, hypothesis and
   what these need themselves.

Leaves the two built files in dist/.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("nexus_control", "nexus_attest")

NEEDS_DEPENDENCIES = (
    "nexus_attest.cli",
    "nexus_attest.routers.clients",
    "nexus_attest.server",
    "nexus_attest.testledger",
)
"""Modules, with everything below them, that may import third-party packages when they are imported. They need not exist yet."""

EVIDENCE = ROOT / "tests" / "vectors" / "router" / "router-audit-package-embedded.json"

TEST_TOOLS = ("hypothesis", "pytest")


def main() -> None:
    """Run the four steps; any failure ends in a non-zero exit code."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    _say("building sdist and wheel")
    _run(sys.executable, "-m", "build", "--outdir", "dist", ".", cwd=ROOT, quiet=True)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    names = _check_contents(wheel)
    modules = sorted(_modules(names))
    with tempfile.TemporaryDirectory(prefix="nexus-attest-wheel-") as folder:
        work = Path(folder)
        python = _environment(work / "bare")
        _pip(python, "--no-deps", str(wheel))
        light = [name for name in modules if not _below(name, NEEDS_DEPENDENCIES)]
        _say(f"importing {len(light)} modules without any dependency")
        _import_each(python, light, cwd=work)
        _say("installing with the dependencies, as action.yml does")
        _run_step("Install", work, action=wheel)  # the wheel in place of the checkout, which pip would build it from once more
        python = work / "nexus-attest" / "bin" / "python"
        _say(f"importing all {len(modules)} modules, no extra installed")
        _import_each(python, modules, cwd=work)
        _run(str(python.with_name("nexus-attest")), "--help", cwd=work, quiet=True)
        _say("verifying evidence, as action.yml does")
        shutil.copy(EVIDENCE, work / "evidence.json")
        _run_step("Verify", work, action=ROOT, NEXUS_FILES="*.json", NEXUS_REQUIRE="integrity authorization execution")
        _check_engine_alone(wheel, work / "engine")
    _say(f"{wheel.name} is good")


def action_step(name: str) -> str:
    """The bash script of a step of action.yml."""
    action = (ROOT / "action.yml").read_text(encoding="utf-8")
    found = re.search(rf"- name: {name}\n.*?run: \|\n((?:        [^\n]*\n?)+)", action, re.DOTALL)
    if found is None:
        sys.exit(f"action.yml has no step {name}")
    return re.sub("^        ", "", found[1], flags=re.MULTILINE)


def _run_step(name: str, folder: Path, *, action: Path, **inputs: str) -> None:
    """Run a step of action.yml as GitHub's runner does, in `folder`, which is its temporary folder too."""
    told = {"RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary")}
    os.environ.update({**told, "GITHUB_ACTION_PATH": str(action), "NEXUS_PYTHON": sys.executable, **inputs})
    _run("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", action_step(name), cwd=folder, quiet=True)


def _check_contents(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    expected = {path.relative_to(ROOT).as_posix() for path in _sources()}
    expected |= {f"nexus_attest/schemas/{path.name}" for path in (ROOT / "schemas").iterdir()}
    packed = {name for name in names if ".dist-info/" not in name}
    _require(packed == expected, f"packed, but no source file: {sorted(packed - expected)}; not packed: {sorted(expected - packed)}")
    _require(any(name.startswith("nexus_attest/schemas/") for name in packed), "no schema is packed")
    for package in PACKAGES:
        _require(f"{package}/py.typed" in packed, f"{package}/py.typed is missing")
    tops = {name.partition("/")[0] for name in names}
    _require(len(tops) == 3 and tops >= set(PACKAGES), f"unexpected top-level entries: {sorted(tops)}")
    _say(f"{wheel.name}: {len(packed)} files, the two packages and nothing else")
    return names


def _sources() -> Iterator[Path]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _modules(names: list[str]) -> Iterator[str]:
    for name in names:
        if name.endswith(".py"):
            module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            if not module.endswith(".__main__"):  # a script: importing it proves nothing
                yield module


def _below(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _check_engine_alone(wheel: Path, folder: Path) -> None:
    python = _environment(folder / "venv")
    _say("installing pytest and hypothesis alone")
    _pip(python, *TEST_TOOLS)
    with ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("nexus_control/")])
    shutil.copy(ROOT / "pyproject.toml", folder)
    tests = _engine_tests()
    skipped = {path for path in (ROOT / "tests").rglob("*.py") if path not in tests}
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=lambda at, names: {name for name in names if Path(at, name) in skipped})
    _say(f"running {len(tests)} files of the engine's tests")
    _run(str(python), "-m", "pytest", "-p", "no:cacheprovider", cwd=folder)


def _engine_tests() -> list[Path]:
    """The files under tests/ that need the engine, the standard library and the two test tools only, with the helpers that they import."""
    imports = {path: _imports(path) for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "contract"}
    allowed = sys.stdlib_module_names | set(TEST_TOOLS) | {"nexus_control"}
    helpers: set[Path] = set()
    while found := {path for path in set(imports) - helpers if not path.stem.startswith("test_") and imports[path] <= allowed}:
        helpers |= found
        allowed |= {path.stem for path in found}
    tests = {path for path in set(imports) - helpers if imports[path] <= allowed and "nexus_control" in imports[path]}
    for module in (ROOT / "nexus_control").glob("[!_]*.py"):
        test = ROOT / "tests" / f"test_{module.name}"
        _require(not test.exists() or test in tests, f"{test.name} needs more than the engine; move that part to tests/conformance/")
    return sorted(helpers | tests)


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    return folder / "bin" / "python"


def _pip(python: Path, *what: str) -> None:
    _run(sys.executable, "-m", "pip", "--python", str(python), "-qq", "--disable-pip-version-check", "install", *what, cwd=ROOT)


def _import_each(python: Path, modules: list[str], *, cwd: Path) -> None:
    def load(name: str) -> None:  # one process each: a module must not lean on what another one has imported
        _run(str(python), "-I", "-c", f"import {name}", cwd=cwd)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(load, modules))


def _run(*command: str, cwd: Path, quiet: bool = False) -> None:
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=quiet, text=True, check=False)
    _require(done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout or ''}{done.stderr or ''}")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        sys.exit(f"wheel check: {problem}")


def _say(text: str) -> None:
    print(f"==> {text}", flush=True)


if __name__ == "__main__":
    main()
