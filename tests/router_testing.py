"""Tools, adapters and clocks for the tests of the routers."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from nexus_attest.routers import (
    Adapter,
    AdapterSession,
    Call,
    CallIdentity,
    CallLimit,
    CallOutcome,
    CallResult,
    DefaultCall,
    Step,
    load_adapters,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)

IDENTITY = CallIdentity(run_id="run-1", step_id="s1", execution_id=None)

Answer = Callable[[], Any]


def ticking_clock() -> Callable[[], datetime]:
    """Every look at it is one millisecond later, from 2026 on."""
    moments = (T0 + timedelta(milliseconds=number) for number in range(10_000))
    return lambda: next(moments)


def counted_ids() -> Callable[[], str]:
    """`id-0`, `id-1` and so on."""
    names: Iterator[str] = (f"id-{number}" for number in range(10_000))
    return lambda: next(names)


def adapter_file(folder: Path, **keys: object) -> Path:
    """An adapter file with one adapter; JSON values are TOML values, except for tables and null."""
    table = {"id": "subprocess:tool", "kind": "subprocess", "command": ["/bin/sh", "tool.sh"], "allow": ["*/*"], **keys}
    lines = [f"{key} = {toml(value)}" for key, value in table.items() if value is not None]
    path = folder / "adapters.toml"
    path.write_text("\n".join(["[[adapters]]", *lines, ""]), encoding="utf-8")
    return path


def toml(value: object) -> str:
    """A value in TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(member)}" for key, member in cast("dict[str, object]", value).items()) + "}"
    return json.dumps(value)


def shell_tool(folder: Path, script: str, **keys: object) -> Adapter:
    """The adapter of a shell script, which sees `call`, tool, method, `--json-args-file` and a path as $1 to $5."""
    (folder / "tool.sh").write_text(script, encoding="utf-8")
    (adapter,) = load_adapters(adapter_file(folder, **keys))
    return adapter


def step(tool: str = "a", method: str = "b", args: Mapping[str, object] | None = None) -> Step:
    """A step as a plan gives it."""
    return Step(step_id="s1", intent="", tool=tool, method=method, args=args or {})


class LimitAfter(CallLimit):
    """A limit whose time begins with a fact, a minute from now at the latest: no machine is too slow for what comes before it."""

    def __init__(self, fact: Callable[[], bool], seconds: float, cancelled: threading.Event | None = None) -> None:
        super().__init__(time.monotonic() + 60, cancelled or threading.Event())
        object.__setattr__(self, "_fact", fact)
        object.__setattr__(self, "_seconds", seconds)

    def remaining(self) -> float:
        self._look()
        return super().remaining()

    def require(self, outcome: CallOutcome) -> None:
        self._look()
        super().require(outcome)

    def _look(self) -> None:
        found: dict[str, Any] = vars(self)
        if "_begun" not in found and found["_fact"]():
            object.__setattr__(self, "_begun", True)
            object.__setattr__(self, "deadline", time.monotonic() + found["_seconds"])


def written(*paths: Path) -> bool:
    """Whether each of these files holds a whole line."""
    return all(path.exists() and path.read_text().endswith("\n") for path in paths)


def call(
    adapter: Adapter,
    tool: str = "a",
    method: str = "b",
    args: Mapping[str, object] | None = None,
    identity: CallIdentity = IDENTITY,
    limit: CallLimit | None = None,
) -> Mapping[str, Any]:
    """The output of one call in a session of its own, within the limit of the adapter unless there is another."""
    made, limit = step(tool, method, args), limit or CallLimit(time.monotonic() + adapter.timeout_s)
    session = adapter.open([made], limit)
    try:
        return session.call(Call(step=made, identity=identity, limit=limit)).output
    finally:
        session.close()


def is_running(pid: int) -> bool:
    """Whether a process exists and is more than an entry that nobody has reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def ends_soon(pid: int) -> bool:
    """Whether a process is gone within half a minute; a kill takes effect a moment after the call."""
    deadline = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_running(pid)


class FakeAdapter:
    """An adapter in memory: answers with `answer` and keeps the calls."""

    adapter_kind = "fake"
    definition_digest = "sha256:" + "f" * 64

    def __init__(
        self,
        answer: Answer = lambda: {"done": True},
        *,
        adapter_id: str = "fake",
        capabilities: frozenset[str] = frozenset({"apply", "timeout"}),
        default_call: DefaultCall | None = None,
        idempotent: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        self.adapter_id = adapter_id
        self.capabilities = capabilities
        self.default_call = default_call
        self.idempotent = idempotent
        self.timeout_s = timeout_s
        self.calls: list[Call] = []
        self.opened = self.closed = 0
        self.details: Mapping[str, object] = {}
        self._answer = answer

    def check(self, step: Step) -> None:
        assert step.tool

    def preflight(self, steps: Sequence[Step]) -> None:
        assert steps

    def open(self, steps: Sequence[Step], limit: CallLimit) -> AdapterSession:
        assert steps
        assert limit.remaining() > 0
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def call(self, call: Call) -> CallResult:
        self.calls.append(call)
        answer = self._answer()
        return answer if isinstance(answer, CallResult) else CallResult(output=answer)
