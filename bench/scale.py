"""A store of 100,000 decisions on file: memory and bytes.

The benchmark runs this module as a program, so that the peak of memory is that of the product alone.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.harness import Result, Settings
from bench.workload import data_of, flows, package_with, request, verified
from nexus_control.audit_package import verify_audit_package
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_ROOT = Path(__file__).resolve().parent.parent
_DECISIONS = 100_000
_PER_TRANSACTION = 1000


def _requests(tools: NexusControlTools, count: int) -> list[str]:
    with tools.store.transaction():
        return [request(tools) for _ in range(count)]


_KINDS: dict[str, tuple[Callable[[NexusControlTools, int], list[str]], str]] = {
    "flows": (flows, "each: request, 2 approvals, execution"),
    "requests": (_requests, "each: request only"),
}


def scale(settings: Settings) -> Iterator[Result]:
    """Peak memory of a process that writes the decisions, lists some, and verifies all; size of the file afterwards.

    Written through the tools, in transactions of 1,000 decisions (one commit for each call would take an hour and weigh the same);
    executions, which happen in no transaction, in two commits each.
    """
    decisions = settings.size(_DECISIONS, 50)
    for kind, (_, what) in _KINDS.items():
        path = settings.directory / f"scale-{kind}.db"
        command = [sys.executable, "-m", "bench.scale", str(path), kind, str(decisions)]
        done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        size, events = path.stat().st_size, found["events"]
        path.unlink()
        detail = f"{events / decisions:g} events {what}; {size / 1e6:,.1f} MB for {events:,} events and {decisions:,} headers"
        goal = 600 if kind == "flows" else None
        yield Result(name=f"size of {decisions:,} {kind}", unit="bytes/event", value=size / events, goal=goal, detail=detail)
        yield Result(name=f"memory, {decisions:,} {kind}", unit="MB", value=found["peak"] / 1e6, goal=100, detail=found["steps"])


def peak_bytes() -> int:
    """The most memory that this process had. Linux: not `ru_maxrss`, which a process inherits from the one that started it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _main() -> None:
    path, kind, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    write, _ = _KINDS[kind]
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(f"{name} {peak_bytes() / 1e6:.1f}")

    step("imported")
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        last = ""
        for start in range(0, count, _PER_TRANSACTION):
            last = write(tools, min(_PER_TRANSACTION, count - start))[-1]
        step("written")
        data_of(tools.list_requests(100))
        data_of(tools.list_requests(100, count // 2))
        if kind == "flows":
            verified(verify_audit_package(package_with(tools, last)))
        step("listed")
        assert store.verify_log().ok
        step("verified")
        size, _ = store.log_root()
    print(json.dumps({"peak": peak_bytes(), "events": size - count, "steps": "MB after: " + ", ".join(steps)}))


if __name__ == "__main__":
    _main()
