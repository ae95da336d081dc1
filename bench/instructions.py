"""How the work of each operation grows with the length of a decision: in instructions, which valgrind counts.

Time does not tell so exactly: the longer a decision, the less of it the processor's caches hold, so that `json.loads` alone, whose work is
linear, was measured with exponents from 0.9 to 1.2 on a machine that others use too. The benchmark runs this module as a program under
valgrind, each time on a copy of the same file, with fewer and with more calls; the difference is what the calls took.
"""

import gc
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.growth import BY_LENGTH, EXECUTED_OPERATIONS, GOAL, OPEN_OPERATIONS
from bench.harness import Result, Settings
from bench.workload import decision_with, executed_decision_with
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_ROOT = Path(__file__).resolve().parent.parent
_SHORT, _LONG = 500, 4000
_EVENTS_PER_MEASUREMENT = 4000
"""A call on a short decision is repeated until so many events were worked on: what starting takes is not quite the same each time."""

_COUNTED = re.compile(r"I +refs: +([\d,]+)")


@dataclass(frozen=True)
class _Case:
    store: Path
    operation: str
    decision_id: str
    length: int


def growth_in_instructions(settings: Settings) -> Iterator[Result]:
    """The exponents between two lengths."""
    valgrind = shutil.which("valgrind")
    lengths = settings.size((_SHORT, _LONG), (10, 80))
    for dimension, items in BY_LENGTH.items():
        path = settings.directory / f"{dimension}.db"
        with DecisionStore(path) as store:
            tools = NexusControlTools(store)
            still_open = [decision_with(tools, length, items) for length in lengths]
            executed = [executed_decision_with(tools, length, items) for length in lengths]
        for name in settings.size((*OPEN_OPERATIONS, *EXECUTED_OPERATIONS), ("status",)):
            title = f"work of {name} by {dimension}"
            if valgrind is None:
                yield Result(name=title, unit="exponent", goal=GOAL, detail="valgrind is not installed")
                continue
            decisions = zip(executed if name in EXECUTED_OPERATIONS else still_open, lengths, strict=True)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                short, long = pool.map(_per_call, [_Case(path, name, decision_id, length) for decision_id, length in decisions])
            value = math.log(long / short) / math.log(lengths[1] / lengths[0])
            detail = f"{lengths[0]:,}: {short / 1e6:,.2f} million, {lengths[1]:,}: {long / 1e6:,.2f} million"
            yield Result(name=title, unit="exponent", value=value, goal=GOAL, detail=detail)


def _per_call(case: _Case) -> float:
    more = max(1, _EVENTS_PER_MEASUREMENT // case.length)
    return (_counted(case, 1 + more) - _counted(case, 1)) / more


def _counted(case: _Case, calls: int) -> int:
    """The instructions of a whole process that makes so many calls."""
    with TemporaryDirectory(dir=case.store.parent) as folder:
        copy = shutil.copy(case.store, folder)
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", sys.executable]
        command += ["-m", "bench.instructions", copy, case.operation, case.decision_id, str(calls)]
        environment = os.environ | {"PYTHONHASHSEED": "0"}
        done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    found = _COUNTED.search(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"counting failed: {done.stderr[-1000:]}")
    return int(found[1].replace(",", ""))


def _main() -> None:
    path, name, decision_id, calls = sys.argv[1:]
    gc.disable()
    with DecisionStore(path) as store:
        operation = (OPEN_OPERATIONS | EXECUTED_OPERATIONS)[name](NexusControlTools(store), decision_id)
        for _ in range(int(calls)):
            operation()


if __name__ == "__main__":
    _main()
