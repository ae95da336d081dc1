"""Do the tests notice when the code that judges is changed? `make mutants`, or `python scripts/mutants.py policy merkle`.

cosmic-ray makes every change of its catalogue (https://cosmic-ray.readthedocs.io) to a module, one at a time, in a copy of this checkout,
and runs the tests of that module against it. A change that they do not notice is a survivor. Some cannot be noticed, because the changed
code means the same; scripts/mutants.toml lists them, each with its reason. Any other survivor fails the run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "scripts" / "mutants.toml"

TESTS: dict[str, tuple[str, ...]] = {
    "integrity": ("test_integrity",),
    "policy": ("test_policy",),
    "merkle": ("test_merkle",),
    "decision": ("test_decision", "test_past", "test_identity"),
    "audit_package": ("test_audit_package", "test_tamper_package"),
    "evidence": ("test_evidence", "test_reader_knowledge"),
}
"""Which tests judge which module of the engine: few and quick, because they run once for each change."""

COPIED = ("nexus_control", "nexus_attest", "tests", "scripts", "schemas", "docs", "pyproject.toml")
TIMEOUT_SECONDS = 120

CONFIG = """\
[cosmic-ray]
module-path = {modules}
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider -p scripts.mutants_profile {tests}"
[cosmic-ray.distributor]
name = "local"
"""


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change that no test noticed: the lines before and after, without indentation."""

    before: str
    after: str


def main() -> int:
    """0 when every change is noticed, or listed as one that cannot be."""
    parser = argparse.ArgumentParser(description="Change the code that judges, and see whether its tests notice.")
    parser.add_argument("modules", nargs="*", help=f"of the engine; default: {', '.join(TESTS)}")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder and keep it; a run that was stopped goes on there")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(TESTS):
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}")
    os.nice(19)
    listed: dict[str, list[dict[str, str]]] = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))
    bad = 0
    with tempfile.TemporaryDirectory(prefix="nexus-mutants-") as private:
        for module in options.modules or TESTS:
            known = {Survivor(entry["before"], entry["after"]) for entry in listed.get(module, ())}
            bad += report(f"{module} ({code_digest(module)})", known, *survivors(module, options.keep or Path(private)))
    return int(bad > 0)


def report(module: str, known: set[Survivor], made: int, found: list[Survivor]) -> int:
    """Print one module's score and what is wrong with it; how many things that is."""
    equivalent = [survivor for survivor in found if survivor in known]
    alive = [survivor for survivor in found if survivor not in known]
    stale = known - set(found)
    judged = made - len(equivalent)
    print(f"{module}: {made} changes, {len(equivalent)} mean the same, {judged - len(alive)} of the other {judged} noticed", flush=True)
    for survivor in alive:
        print(f"  not noticed\n    - {survivor.before}\n    + {survivor.after}")
    for survivor in stale:
        print(f"  listed as one that means the same, but noticed or never made\n    - {survivor.before}\n    + {survivor.after}")
    return len(alive) + len(stale)


def code_digest(module: str) -> str:
    """Which code it is: the beginning of the SHA-256 digest of its file."""
    return sha256((ROOT / "nexus_control" / f"{module}.py").read_bytes()).hexdigest()[:12]


def survivors(module: str, folder: Path) -> tuple[int, list[Survivor]]:
    """How many changes were made to a module, and which of them its tests did not notice."""
    work = folder / module
    config, session = work / "mutants-config.toml", work / "mutants.sqlite"
    if not session.exists():
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            work.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, work / name)
        tests = " ".join(f"tests/{name}.py" for name in TESTS[module])
        config.write_text(_config([Path("nexus_control", f"{module}.py")], tests), encoding="utf-8")
        _cosmic_ray(work, "baseline", config.name)
        _cosmic_ray(work, "init", config.name, session.name)
    _cosmic_ray(work, "exec", config.name, session.name)
    results = list(_results(_cosmic_ray(work, "dump", session.name)))
    if not results or any(result is None for result in results):
        raise RuntimeError(f"{module}: the run is not complete")
    return len(results), [_survivor(result["diff"]) for result in results if result and result["test_outcome"] == "survived"]


def changes(folder: Path) -> dict[str, int]:
    """How many changes there are to make to the present code of each module. Makes none, works in `folder`, takes seconds."""
    config, session = folder / "mutants-config.toml", folder / "mutants.sqlite"
    config.write_text(_config([ROOT / "nexus_control" / f"{module}.py" for module in TESTS], ""), encoding="utf-8")
    _cosmic_ray(folder, "init", config.name, session.name)
    items = (json.loads(line)[0] for line in _cosmic_ray(folder, "dump", session.name).splitlines())
    counted = Counter(Path(mutation["module_path"]).stem for item in items for mutation in item["mutations"])
    return {module: counted[module] for module in TESTS}


def _config(modules: list[Path], tests: str) -> str:
    paths = json.dumps([str(path) for path in modules])
    return CONFIG.format(modules=paths, timeout=TIMEOUT_SECONDS, python=sys.executable, tests=tests)


def _results(dump: str) -> Iterator[dict[str, Any] | None]:
    for line in dump.splitlines():
        _, result = json.loads(line)
        yield result


def _survivor(diff: str) -> Survivor:
    lines = diff.splitlines()
    before = [line[1:].strip() for line in lines if line.startswith("-") and not line.startswith("---")]
    after = [line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++")]
    return Survivor(" ".join(before), " ".join(after))


def _cosmic_ray(work: Path, *arguments: str) -> str:
    # No plugins but the ones named: each takes a part of a second, a thousand times.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(work)}
    env["XDG_CACHE_HOME"] = str(work / ".cache")  # it keeps a list of its own plugins, else in the home folder
    command = [str(Path(sys.executable).with_name("cosmic-ray")), *arguments]
    return subprocess.run(command, cwd=work, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
