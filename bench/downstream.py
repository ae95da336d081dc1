"""What a call through the MCP adapter costs over the SDK's client alone, both on an open session with the same server."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

from bench.harness import Result, Settings, by_turns, milliseconds
from nexus_attest.routers import Call, CallIdentity, CallLimit, Step, parse_adapters

_SERVER = Path(__file__).resolve().parent.parent / "examples" / "keyregistry" / "server.py"
_ARGS: dict[str, object] = {"name": "release.example"}
_ENTRY = {"name": "release.example", "fingerprint": "sha256:" + "ab" * 32, "revision": 1}


def calls(settings: Settings) -> Iterator[Result]:
    """A read-only call of the example server, over and over."""
    number = settings.size(100, 3)
    registry = settings.directory / "registry.json"
    registry.write_text(json.dumps({"release.example": _ENTRY}))
    command = {"command": sys.executable, "args": [str(_SERVER), str(registry)]}
    (adapter,) = parse_adapters(
        {"adapters": [{"id": "mcp", "kind": "mcp", **command, "allow": ["registry/*"]}]}, base_dir=settings.directory
    )
    step = Step(step_id="s1", intent="", tool="registry", method="lookup", args=_ARGS)
    identity = CallIdentity(run_id="run-1", step_id="s1", execution_id=None)
    session = adapter.open((step,), CallLimit(time.monotonic() + 60))
    bare = _Bare([str(_SERVER), str(registry)])
    try:

        def ours() -> None:
            for _ in range(number):
                session.call(Call(step=step, identity=identity, limit=CallLimit(time.monotonic() + 30)))

        samples, floor = by_turns(settings, ours, lambda: bare.call(number), clock=perf_counter)
    finally:
        bare.close()
        session.close()
    detail = f"{milliseconds(samples)} for {number} calls, the SDK alone {milliseconds(floor)}, {len(samples)} rounds"
    yield Result(name="mcp_call", unit="x bare", value=median(samples) / median(floor), goal=1.3, detail=detail)


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
