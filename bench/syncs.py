"""How often a call waits for the disk, counted with strace.

The benchmark runs this module as a program under strace. The program calls `getppid`, which neither Python nor SQLite does, before and
after each call, so that every sync of its main thread belongs to one call or to none; syncs of other threads are checkpoints.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

from bench.harness import Operation, Result, Settings
from bench.workload import ALICE, approve, request
from nexus_control.events import EventType
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_ROOT = Path(__file__).resolve().parent.parent
_CALLS = 2000
_OPENINGS = 50

_LINE = re.compile(r"^(\d+) +(getppid|fdatasync|fsync)\(", re.MULTILINE)


def syncs(settings: Settings) -> Iterator[Result]:
    """The most syncs that one call waited for, for each kind of call; in the detail, how many there were in all."""
    strace = shutil.which("strace")
    problem = "strace is not installed"
    if strace is not None:
        attempt = subprocess.run([strace, "-qq", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
        problem = attempt.stderr.strip()[-200:] if attempt.returncode else ""
    for name, (_, full) in _KINDS.items():
        calls = settings.size(full, 10)
        title = f"syncs per {name}"
        if strace is None or problem:
            yield Result(name=title, unit="syncs", goal=1, detail=problem)
            continue
        trace = settings.directory / "syncs.trace"
        command = [strace, "-f", "-qq", "-e", "trace=getppid,fdatasync,fsync", "-o", str(trace)]
        command += [sys.executable, "-m", "bench.syncs", str(settings.directory / f"{title}.db"), name, str(calls)]
        subprocess.run(command, cwd=_ROOT, check=True)
        yield counted(title, trace.read_text())


def counted(title: str, trace: str) -> Result:
    """The result of one trace: lines of thread id and system call."""
    lines = [(match[1], match[2]) for match in _LINE.finditer(trace)]
    main_thread = next(thread for thread, call in lines if call == "getppid")
    per_call: list[int] = []
    inside, beside = False, 0
    for thread, call in lines:
        if thread != main_thread:
            beside += 1
        elif call == "getppid":
            inside = not inside
            if inside:
                per_call.append(0)
        elif inside:
            per_call[-1] += 1
    calls, total = len(per_call), sum(per_call)
    more = sum(count > 1 for count in per_call)
    detail = f"{total:,} in {calls:,} calls, {more} calls with more than one; {beside} in other threads (checkpoints)"
    return Result(name=title, unit="syncs", value=max(per_call), goal=1, detail=detail)


def _append_events(path: Path, calls: int) -> Iterator[Operation]:
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        turn = cycle([request(tools) for _ in range(100)])
        for _ in range(calls):
            yield lambda: store.append_event(next(turn), EventType.APPROVAL_GRANTED, ALICE, {"expires_at": None})


def _requests(path: Path, calls: int) -> Iterator[Operation]:
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        for _ in range(calls):
            yield lambda: request(tools)


def _approvals(path: Path, calls: int) -> Iterator[Operation]:
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        with store.transaction():
            decisions = [request(tools) for _ in range(calls)]
        for decision_id in decisions:
            yield lambda decision_id=decision_id: approve(tools, decision_id)


def _first_requests(path: Path, calls: int) -> Iterator[Operation]:
    for _ in range(calls):
        with DecisionStore(path) as store:
            tools = NexusControlTools(store)
            yield lambda tools=tools: request(tools)


_KINDS: dict[str, tuple[Callable[[Path, int], Iterator[Operation]], int]] = {
    "append_event": (_append_events, _CALLS),
    "request": (_requests, _CALLS),
    "approve": (_approvals, _CALLS),
    "first request of an opened store": (_first_requests, _OPENINGS),
}
"""Per kind, the calls on a file, prepared one by one, and how many of them to make."""


def _main() -> None:
    path, name, calls = sys.argv[1:]
    prepare, _ = _KINDS[name]
    for call in prepare(Path(path), int(calls)):
        os.getppid()
        call()
        os.getppid()


if __name__ == "__main__":
    _main()
