"""What the router costs: a step of a run over starting the same program directly, and the verification of a run's record."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from bench.harness import Result, Settings, by_turns, milliseconds
from nexus_attest.routers import Call, CallLimit, CallResult, DefaultCall, RunEngine, Step, load_adapters
from nexus_control.flight_checks import FlightOutcome, verify_flight_record
from nexus_control.tool import NexusControlTools

_TOOL = """\
import json, sys
with open(sys.argv[5]) as file:
    request = json.load(file)
print(json.dumps({"done": request["args"]}))
"""

_ALICE = {"type": "human", "id": "alice"}


def steps(settings: Settings) -> Iterator[Result]:
    """A run of several steps through the subprocess adapter, its record on the disk, against `subprocess.run` of the same program."""
    number = settings.size(20, 2)
    (settings.directory / "tool.py").write_text(_TOOL)
    (settings.directory / "request.json").write_text(json.dumps({"args": {"n": 1}, "method": "m", "tool": "t"}))
    file = settings.directory / "adapters.toml"
    command = [sys.executable, "tool.py"]
    file.write_text(f'[[adapters]]\nid = "tool"\nkind = "subprocess"\ncommand = {json.dumps(command)}\nallow = ["t/m"]\n')
    plan = json.dumps([{"tool": "t", "method": "m", "args": {"n": 1}}] * number)
    argv = [*command, "call", "t", "m", "--json-args-file", "request.json"]
    with RunEngine(load_adapters(file), db_path=settings.directory / "bench.runs") as engine:
        run = partial(engine.run, goal="g", adapter_id="tool", dry_run=False, plan=plan)
        ours, bare = by_turns(settings, run, partial(_bare, argv, settings.directory, number), clock=perf_counter)
    detail = f"{milliseconds(ours)} for {number} steps, bare {milliseconds(bare)}, {len(ours)} rounds"
    yield Result(name="router_step", unit="x bare", value=median(ours) / median(bare), goal=1.3, detail=detail)
    added = (median(ours) - median(bare)) / number * 1000
    yield Result(name="router_step_added", unit="ms", value=added, goal=15, detail="per step over subprocess.run")


def _bare(argv: Sequence[str], folder: Path, number: int) -> None:
    for _ in range(number):
        subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=True)


def verification(settings: Settings) -> Iterator[Result]:
    """All eleven checks over an audit package with the record of a run."""
    for number in settings.size((25, 250, 2500), (2,)):
        package = _package(number)
        events = len(package["router"]["bundle"]["events"])
        assert verify_flight_record(package).outcome is FlightOutcome.PASS
        (samples,) = by_turns(settings, partial(verify_flight_record, package))
        value = median(samples) / events * 1_000_000
        detail = f"{milliseconds(samples)} for {events} events, {len(samples)} rounds"
        # The decision around a short run weighs more than its events.
        yield Result(
            name=f"verify_flight_record/{events}", unit="us/event", value=value, goal=15 if events >= 1000 else None, detail=detail
        )


def _package(number: int) -> dict[str, Any]:
    plan = json.dumps([{"tool": "keys", "method": "rotate", "args": {"name": f"key-{step}"}} for step in range(number)])
    tools = NexusControlTools()
    with RunEngine([_Answering()]) as engine:
        request_id = tools.request("Rotate", _ALICE, "apply", plan).data["request_id"]
        tools.approve(request_id, _ALICE)
        tools.execute(request_id, "memory", _ALICE, engine)
        package: dict[str, Any] = tools.export_audit_package(request_id, embed_router_bundle=True, render=False).data["package"]
    tools.store.close()
    return package


class _Answering:
    """An adapter that answers at once."""

    adapter_id = "memory"
    adapter_kind = "memory"
    capabilities = frozenset({"apply"})
    default_call: DefaultCall | None = None
    idempotent = False
    timeout_s = 30.0
    definition_digest = "sha256:" + "0" * 64
    details: Mapping[str, object] = {}

    def check(self, step: Step) -> None:  # noqa: ARG002 - the adapter's interface
        return None

    def preflight(self, steps: Sequence[Step]) -> None:  # noqa: ARG002 - as above
        return None

    def open(self, steps: Sequence[Step], limit: CallLimit) -> "_Answering":  # noqa: ARG002 - as above
        return self

    def call(self, call: Call) -> CallResult:
        output: Mapping[str, object] = {"rotated": call.step.args["name"], "version": 2, "note": "kept the old one"}
        return CallResult(output=output)

    def close(self) -> None:
        return None
