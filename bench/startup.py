"""How long it takes until something can be done: imports and the command's help, each in a new process, bytecode compiled before."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.harness import Result, Settings, by_turns, milliseconds

_ROOT = Path(__file__).resolve().parent.parent
_ROUNDS = 15

_HELP = "import sys; sys.argv = ['nexus-attest', '--help']; from nexus_attest.cli import main; sys.exit(main())"


def imports(settings: Settings) -> Iterator[Result]:
    """Importing, beyond starting Python."""
    rounds = settings.size(_ROUNDS, 2)
    goals = {"import nexus_attest": 60.0, "import nexus_control.tool": None}
    python = _python(settings)
    bare, *samples = by_turns(
        settings, partial(python, "-c", "pass"), *(partial(python, "-c", what) for what in goals), clock=perf_counter, rounds=rounds
    )
    for (what, goal), sample in zip(goals.items(), samples, strict=True):
        times = python("-X", "importtime", "-c", what).stderr
        detail = f"{milliseconds(sample)}, bare Python {milliseconds(bare)}, {rounds} rounds; -X importtime: {_import_time(times, what)}"
        yield Result(name=what, unit="ms", value=(median(sample) - median(bare)) * 1000, goal=goal, detail=detail)


def command_help(settings: Settings) -> Iterator[Result]:
    """The whole time of `nexus-attest --help`."""
    name, unit, goal = "nexus-attest --help", "ms", 150
    found = find_spec("nexus_attest.cli")
    if found is None or found.origin is None:  # a directory without code is a namespace package, which has no origin
        yield Result(name=name, unit=unit, goal=goal, detail="there is no command line yet")
        return
    rounds = settings.size(_ROUNDS, 2)
    python = _python(settings)
    sample, bare = by_turns(settings, partial(python, "-c", _HELP), partial(python, "-c", "pass"), clock=perf_counter, rounds=rounds)
    detail = f"bare Python {milliseconds(bare)}, {rounds} rounds"
    yield Result(name=name, unit=unit, value=median(sample) * 1000, goal=goal, detail=detail)


def _python(settings: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with the arguments given. As for an installed package, bytecode is there from the second run on."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(settings.directory / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=_ROOT, env=environment, capture_output=True, text=True, check=True)

    return run


def _import_time(lines: str, statement: str) -> str:
    """What `-X importtime` counted for a module, everything that it imports included."""
    module = statement.split()[-1]
    times = {
        name.strip(): int(total) for _, total, name in (line.removeprefix("import time:").split("|") for line in lines.splitlines()[1:])
    }
    package = module.partition(".")[0]  # a package is imported before its module, not within it
    return f"{sum(times[name] for name in {module, package}) / 1000:.1f} ms"
