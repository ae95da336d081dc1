"""What a call through the MCP adapter, and a step of the router, cost over the SDK's client alone, all on an open session."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import cast

from bench.floors import WriteFloor
from bench.harness import Result, Settings, by_turns, milliseconds
from nexus_attest.routers import Adapter, AdapterSession, Call, CallIdentity, CallLimit, RunEngine, Step, parse_adapters

_SERVER = Path(__file__).resolve().parent.parent / "examples" / "keyregistry" / "server.py"
_ARGS: dict[str, object] = {"name": "release.example"}
_ENTRY = {"name": "release.example", "fingerprint": "sha256:" + "ab" * 32, "revision": 1}


def calls(settings: Settings) -> Iterator[Result]:
    """A read-only call of the example server, over and over.

    Which processors the system gives to a client and its server stays so as long as they live, and is a tenth of what a call takes. So the
    figure is the median over the rounds of several pairs, each with servers of its own.
    """
    number, pairs, rounds = settings.size((100, 5, 4), (3, 1, 3))
    registry = settings.directory / "registry.json"
    registry.write_text(json.dumps({"release.example": _ENTRY}))
    measured = [_pair(settings, registry, settings.directory / f"mcp.{pair}", number, rounds) for pair in range(pairs)]
    samples, steps, floor, recorded = ([second for pair in measured for second in pair[which]] for which in range(4))
    detail = f"{milliseconds(samples)} for {number} calls, the SDK alone {milliseconds(floor)}, {pairs} pairs of {rounds} rounds"
    yield Result(name="mcp_call", unit="x bare", value=_typical(samples, floor), goal=1.3, detail=detail)
    detail = f"{milliseconds(steps)} for a run of {number} steps, a commit and a call of the SDK by turns {milliseconds(recorded)}"
    yield Result(name="mcp_step", unit="x bare + commit", value=_typical(steps, recorded), goal=1.3, detail=detail)


def _typical(ours: Sequence[float], floor: Sequence[float]) -> float:
    """The median over the rounds of how many times the floor each took."""
    return median(mine / least for mine, least in zip(ours, floor, strict=True))


def _pair(settings: Settings, registry: Path, files: Path, number: int, rounds: int) -> list[list[float]]:
    """Seconds per round of our calls, our run, the SDK's calls, and these with a commit before each."""
    server = [str(_SERVER), str(registry)]
    (adapter,) = parse_adapters(
        {"adapters": [{"id": "mcp", "kind": "mcp", "command": sys.executable, "args": server, "allow": ["registry/*"]}]},
        base_dir=settings.directory,
    )
    step = Step(step_id="s1", intent="", tool="registry", method="lookup", args=_ARGS)
    identity = CallIdentity(run_id="run-1", step_id="s1", execution_id=None)
    session = adapter.open((step,), CallLimit(time.monotonic() + 60))
    bare = _Bare(server)
    disk = WriteFloor(files.with_suffix(f"{files.suffix}.floor"))
    try:

        def ours() -> None:
            for _ in range(number):
                session.call(Call(step=step, identity=identity, limit=CallLimit(time.monotonic() + 30)))

        with RunEngine([cast("Adapter", _Open(adapter, session))], db_path=files.with_suffix(f"{files.suffix}.runs")) as engine:
            plan = json.dumps([{"tool": "registry", "method": "lookup", "args": _ARGS}] * number)
            run = partial(engine.run, goal="g", adapter_id="mcp", dry_run=False, plan=plan)
            operations = (ours, run, lambda: bare.call(number), lambda: _recorded(bare, disk, number))
            return by_turns(settings, *operations, clock=perf_counter, rounds=rounds)
    finally:
        disk.close()
        bare.close()
        session.close()


def _recorded(bare: "_Bare", disk: WriteFloor, number: int) -> None:
    """The least that has each call on the disk before it is made: as many commits, of as many rows and bytes as a step leaves.

    By turns, as it must be: a call for which both processes were woken after a sync takes a third longer than one of many in a row.
    """
    for _ in range(number):
        disk.commit(["x" * 600, "x" * 600])
        bare.call(1)


class _Open:
    """An adapter whose one session is open already, and stays so. Its attributes are its own: to look them up elsewhere takes time."""

    def __init__(self, adapter: Adapter, session: AdapterSession) -> None:
        names = ("adapter_id", "adapter_kind", "capabilities", "default_call", "idempotent", "timeout_s", "definition_digest")
        vars(self).update({name: getattr(adapter, name) for name in (*names, "check", "preflight")})
        self.details, self.call = session.details, session.call

    def open(self, steps: Sequence[Step], limit: CallLimit) -> "_Open":  # noqa: ARG002 - the adapter's interface
        return self

    def close(self) -> None:
        return None


class _Bare:
    """A session of the SDK's client over its own stdio transport; calls are counted within its event loop."""

    def __init__(self, args: list[str]) -> None:
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._own(args),))
        self._thread.start()
        self._ready.wait()

    async def _own(self, args: list[str]) -> None:
        from mcp import Client, StdioServerParameters

        async with Client(StdioServerParameters(command=sys.executable, args=args)) as self._client:
            await self._client.list_tools()
            self._ready.set()
            await self._leave.wait()

    def call(self, number: int) -> None:
        async def work() -> None:
            for _ in range(number):
                await self._client.call_tool("lookup", _ARGS)

        asyncio.run_coroutine_threadsafe(work(), self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join()
        self._loop.close()
