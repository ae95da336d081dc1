"""Spans and metrics, as OpenTelemetry's own SDK collects them in memory: what is told, and what never is."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cli_testing import ADAPTER, ROOT, CommandLine, program
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from nexus_attest.routers import RunEngine, parse_adapters
from nexus_attest.telemetry import OpenTelemetryMissing, Telemetry, export_to
from nexus_control.events import Actor
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools, ToolResult

ALICE = Actor(type="human", id="alice-the-secret-agent")
SECRET = "hunter2-hunter2"


class Collected:
    """A telemetry, and what came out of it."""

    def __init__(self) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        tracing = TracerProvider(shutdown_on_exit=False)
        tracing.add_span_processor(SimpleSpanProcessor(self._spans))
        self.telemetry = Telemetry(tracing, MeterProvider([self._metrics], shutdown_on_exit=False))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._spans.get_finished_spans())

    def told(self) -> list[dict[str, Any]]:
        return [{"name": span.name, **dict(span.attributes or {})} for span in self.spans]

    def counts(self) -> dict[tuple[str, ...], int]:
        """How many measurements there were, by instrument and attribute values."""
        found: dict[tuple[str, ...], int] = {}
        data = self._metrics.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    assert metric.unit == "s"
                    for point in metric.data.data_points:
                        assert isinstance(point, HistogramDataPoint)
                        values = [str(value) for _, value in sorted((point.attributes or {}).items())]
                        found[(metric.name, *values)] = point.count
        return found

    def everything(self) -> str:
        """All that would leave the process, as one text."""
        return "".join(span.to_json() for span in self.spans) + repr(self._metrics.get_metrics_data())


@pytest.fixture
def collected() -> Collected:
    return Collected()


@pytest.fixture
def tools(collected: Collected) -> Iterator[NexusControlTools]:
    with DecisionStore() as store:
        yield NexusControlTools(store, around=collected.telemetry.around)


def engine(folder: Path, collected: Collected, body: str = "") -> RunEngine:
    program(folder, body)
    entry = {"id": ADAPTER, "kind": "subprocess", "command": [sys.executable, "tool.py"], "allow": ["t/m"], "timeout_s": 60}
    return RunEngine(parse_adapters({"adapters": [entry]}, base_dir=folder), watch=collected.telemetry.watch)


def test_a_call_is_a_span_and_a_measurement(collected: Collected, tools: NexusControlTools) -> None:
    decision_id = tools.request("g", ALICE).data["request_id"]
    tools.approve(decision_id, ALICE)
    tools.approve(decision_id, ALICE)
    ok: dict[str, Any] = {"nexus_attest.outcome": "ok", "nexus_attest.decision_id": decision_id}
    refused = {"nexus_attest.outcome": "refused", "nexus_attest.code": "ALREADY_APPROVED"}
    assert collected.told() == [
        {"name": "nexus_attest.tool request", "nexus_attest.tool": "request", **ok},
        {"name": "nexus_attest.tool approve", "nexus_attest.tool": "approve", **ok},
        {"name": "nexus_attest.tool approve", "nexus_attest.tool": "approve", **refused},
    ]
    assert collected.counts() == {
        ("nexus_attest.tool.duration", "ok", "request"): 1,
        ("nexus_attest.tool.duration", "ok", "approve"): 1,
        ("nexus_attest.tool.duration", "ALREADY_APPROVED", "refused", "approve"): 1,
    }


def test_a_run_and_its_calls_are_spans_inside_the_execution_with_the_times_of_the_record(
    collected: Collected, tools: NexusControlTools, tmp_path: Path
) -> None:
    plan = json.dumps([{"tool": "t", "method": "m"}] * 2)
    decision_id = tools.request("g", ALICE, "apply", plan).data["request_id"]
    tools.approve(decision_id, ALICE)
    with engine(tmp_path, collected) as router:
        run_id = tools.execute(decision_id, ADAPTER, ALICE, router).data["run_id"]
    first, second, run, execute = collected.spans[2:]
    assert [span.name for span in (first, second, run, execute)] == [
        *("nexus_attest.call", "nexus_attest.call"),
        *("nexus_attest.run", "nexus_attest.tool execute"),
    ]
    assert dict(run.attributes or {}) == {
        "nexus_attest.mode": "apply",
        "nexus_attest.run_id": run_id,
        "nexus_attest.outcome": "completed",
    }
    inner, outer = run.get_span_context(), execute.get_span_context()
    assert inner is not None
    assert outer is not None
    assert [span.parent and span.parent.span_id for span in (first, second, run)] == [inner.span_id, inner.span_id, outer.span_id]
    times = [run.start_time, first.start_time, first.end_time, second.start_time, second.end_time, run.end_time]
    assert times == sorted(times, key=lambda time: time or 0)
    counts = collected.counts()
    assert counts["nexus_attest.call.duration", "ok"] == 2
    assert counts["nexus_attest.run.duration", "apply", "completed"] == 1


def test_a_failed_call_has_a_known_outcome_and_a_code_of_ours(collected: Collected, tools: NexusControlTools, tmp_path: Path) -> None:
    decision_id = tools.request("g", ALICE, "apply", '[{"tool": "t", "method": "m"}]').data["request_id"]
    tools.approve(decision_id, ALICE)
    with engine(tmp_path, collected, "sys.exit(3)") as router:
        assert tools.execute(decision_id, ADAPTER, ALICE, router).code == "NONZERO_EXIT"
    call, run, execute = collected.spans[2:]
    assert [span.status.status_code for span in (call, run, execute)] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert dict(call.attributes or {}) == {"nexus_attest.outcome": "failed", "nexus_attest.code": "NONZERO_EXIT"}
    assert (run.attributes or {})["nexus_attest.outcome"] == "failed"
    assert (execute.attributes or {})["nexus_attest.outcome"] == "refused"


def test_nothing_that_a_user_or_a_tool_wrote_is_told(collected: Collected, tmp_path: Path) -> None:
    class Router:
        def get_adapter_capabilities(self, adapter_id: str) -> None:
            del adapter_id

        def run(self, **_: Any) -> dict[str, Any]:
            error = RuntimeError(f"error {SECRET}")
            error.code = SECRET.upper()  # type: ignore[attr-defined]
            raise error

    with DecisionStore(new_id=lambda: f"id-{SECRET}") as store:
        tools = NexusControlTools(store, around=collected.telemetry.around)
        plan = json.dumps([{"tool": "t", "method": "m", "args": {"note": SECRET}}])
        decision_id = tools.request(f"goal {SECRET}", ALICE, "apply", plan, labels=[SECRET]).data["request_id"]
        tools.approve(decision_id, ALICE, comment=SECRET)
        tools.approve(f"unknown {SECRET}", ALICE)
        tools.execute(decision_id, f"adapter-{SECRET}", ALICE, Router())
        with engine(tmp_path, collected, f"sys.stderr.write({SECRET!r}); sys.exit(3)") as router:
            tools.execute(decision_id, ADAPTER, ALICE, router, retry=True)
    told = collected.everything()
    assert len(collected.spans) == 7
    assert "OTHER" in told
    for text in (SECRET, SECRET.upper(), "alice", "goal", "password", "tool.py"):
        assert text not in told, text


def test_every_code_that_a_router_writes_down_is_known() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "nexus_attest" / "routers").rglob("*.py"))
    written = set(re.findall(r'(?:Call(?:Failed|Refused)|Problem|_refused|_not_selected)\(\s*"([A-Z_]+)"', sources))
    assert len(written) > 20
    assert {code for code in written if Collected().telemetry.code(code) != code} == set()
    assert Collected().telemetry.code(SECRET.upper()) == "OTHER"
    assert Collected().telemetry.code(None) == "OTHER"


def test_a_bug_is_an_error_without_its_text(collected: Collected) -> None:
    def fail() -> ToolResult:
        raise RuntimeError(SECRET)

    with pytest.raises(RuntimeError):
        collected.telemetry.around("request", fail)
    (span,) = collected.spans
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["nexus_attest.outcome"] == "error"
    assert SECRET not in collected.everything()


def test_a_run_that_is_interrupted_ends_its_spans(collected: Collected, tools: NexusControlTools, tmp_path: Path) -> None:
    decision_id = tools.request("g", ALICE, "apply", '[{"tool": "t", "method": "m"}]').data["request_id"]
    tools.approve(decision_id, ALICE)
    with engine(tmp_path, collected, "time.sleep(30)") as router:

        def cancel() -> None:
            while not (tmp_path / "ran").exists():
                time.sleep(0.01)
            router.cancel_all()

        threading.Thread(target=cancel).start()
        assert not tools.execute(decision_id, ADAPTER, ALICE, router).success
    assert [span.name for span in collected.spans[2:]] == ["nexus_attest.call", "nexus_attest.run", "nexus_attest.tool execute"]


def test_without_the_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(OpenTelemetryMissing, match=r"pip install 'nexus-attest\[otel\]'"):
        export_to("otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(OpenTelemetryMissing):
        Telemetry()


def test_nothing_is_loaded_where_nobody_asked() -> None:
    code = "import sys, nexus_attest.telemetry, nexus_attest.cli.session; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# -- command line -----------------------------------------------------------------------------------------------------------------


def test_a_command_ends_without_an_error_where_no_thread_is_to_be_had_for_what_is_left_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def not_set(_: object) -> None:
        """Which would be for the whole process."""

    monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", not_set)
    _, finish = export_to("console")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        finish(60)
    finish(60)


def test_a_command_logs_json_lines_on_standard_error_without_what_users_wrote(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path, extra={"NEXUS_ATTEST_LOG": "info"})
    ended = cli.run("request", f"goal {SECRET}", "--json")
    assert ended.document["success"] is True
    call, command = [json.loads(line) for line in ended.err.splitlines()]
    assert (call["message"], call["tool"], call["outcome"]) == ("call", "request", "ok")
    assert (command["message"], command["command"], command["exit_code"]) == ("command", "request", 0)
    assert SECRET not in ended.err
    refused = cli.run("log", "prove", "99", "--json")
    assert [json.loads(line)["command"] for line in refused.err.splitlines()] == ["log prove"]
    assert json.loads(refused.err)["exit_code"] == refused.code == 2


def test_an_execution_logs_its_run(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path)
    adapters = program(tmp_path)
    request_id = cli.approved()
    cli.extra["NEXUS_ATTEST_LOG"] = "debug"
    ended = cli.run("execute", request_id, ADAPTER, "--adapters", str(adapters), "--json")
    messages = [json.loads(line)["message"] for line in ended.err.splitlines()]
    assert messages[0] == "run_started"
    assert "tool_call_requested" in messages
    assert messages[-3:] == ["run_completed", "call", "command"]


@pytest.mark.parametrize("variable", ["NEXUS_ATTEST_LOG", "NEXUS_ATTEST_OTEL"])
def test_a_setting_that_is_none_is_refused(tmp_path: Path, variable: str) -> None:
    cli = CommandLine(tmp_path, extra={variable: "loud"})
    assert cli.json("request", "x", code=2)["code"] == "CONFIG_INVALID"


def test_spans_of_a_command_reach_the_console_exporter(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path, extra={"NEXUS_ATTEST_OTEL": "console"})
    ended = cli.run("request", "x", "--json")
    assert ended.document["success"] is True
    assert '"name": "nexus_attest.tool request"' in ended.err
    assert "nexus_attest.tool.duration" in ended.err


def test_a_collector_that_is_not_there_changes_nothing_and_holds_nobody_up(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:  # takes connections and answers none
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        cli = CommandLine(tmp_path, extra={"NEXUS_ATTEST_OTEL": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": address})
        assert cli.json("request", "x")["success"] is True
