"""Spans and metrics of tool calls and runs, for OpenTelemetry (https://opentelemetry.io/docs/specs/otel/). The extra `otel`.

    telemetry = Telemetry()                                      the providers of this process, or given ones
    tools = NexusControlTools(store, around=telemetry.around)    a span `nexus_attest.tool <name>` per call
    RunEngine(adapters, watch=telemetry.watch)                   `nexus_attest.run`, and in it `nexus_attest.call` per call

What leaves the process is what this package made itself: names of its tools, outcomes, codes of its own table, ids that are UUIDs,
numbers and times. Goals, plans, comments, names of actors, arguments, outputs and error texts never do; a code or id that somebody else
chose is sent as `OTHER`, or not at all. Nothing is imported, and nothing costs anything, where nobody makes a `Telemetry`.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from nexus_control import __version__
from nexus_control.errors import InputError, NexusError
from nexus_control.flight_record import RunEvent
from nexus_control.tool import ToolResult

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Exporter", "OpenTelemetryMissing", "Telemetry", "export_to"]

Exporter: TypeAlias = Literal["otlp", "console", "process"]
"""Where to: a collector, as the OTEL_EXPORTER_OTLP_* variables say; standard error; wherever this process was told already."""

_UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OTHER = "OTHER"
_WITHOUT_CLASS = frozenset(
    {
        *("ROUTER_ERROR", "ROUTER_RESPONSE_INVALID", "OUTCOME_NOT_RECORDED", "UNKNOWN_ERROR", "CANCELLED", "RUN_TIMEOUT"),
        *("MAX_STEPS_EXCEEDED", "CAPABILITY_MISSING", "ADDRESS_NOT_ALLOWED", "CALL_NOT_ALLOWED", "CA_FILE_INVALID", "COMMAND_NOT_FOUND"),
        *("CONNECTION_FAILED", "CONNECTION_LOST", "HTTP_ERROR", "INPUT_REQUIRED", "INVALID_JSON", "INVALID_NAME", "INVALID_OUTPUT"),
        *("MCP_ERROR", "NONZERO_EXIT", "OS_ERROR", "OUTPUT_TOO_LARGE", "PERMISSION_DENIED", "SECRET_INVALID", "SECRET_IN_PLAN"),
        *("SECRET_UNKNOWN", "TIMEOUT", "TOOL_DEFINITION_CHANGED", "TOOL_ERROR", "UNKNOWN_TOOL"),
        *("INTEGRITY_MISMATCH", "CONFLICT_MODE_INVALID", "REPLAY_INVALID", "IMPORT_ATOMICITY_FAILED", "NO_ROUTER_LINK"),
        *("ROUTER_DIGEST_MISMATCH", "ROUTER_BUNDLE_INVALID"),
    }
)
"""Codes of ours that no class carries: of runs and their calls, of imports and exports."""

_CALL_OUTCOMES = ("not_sent", "failed", "unknown")


class OpenTelemetryMissing(InputError):
    """Telemetry was asked for, and the packages that send it are not installed."""

    code = "OTEL_MISSING"

    def __init__(self, package: str | None) -> None:
        super().__init__(f"telemetry needs {package}: pip install 'nexus-attest[otel]'")


def export_to(exporter: Exporter) -> tuple["Telemetry", Callable[[float], None]]:
    """Telemetry that is sent somewhere, and what sends the rest of it at the end, for at most so many seconds.

    Raises OpenTelemetryMissing.
    """
    if exporter == "process":
        return Telemetry(), lambda _seconds: None
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        if exporter == "otlp":
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            spans, metrics = OTLPSpanExporter(), OTLPMetricExporter()
        else:
            import sys

            spans, metrics = ConsoleSpanExporter(out=sys.stderr), ConsoleMetricExporter(out=sys.stderr)
    except ModuleNotFoundError as missing:
        raise OpenTelemetryMissing(missing.name) from None
    from opentelemetry import trace

    resource = Resource.create({"service.name": "nexus-attest", "service.version": __version__})
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracing.add_span_processor(BatchSpanProcessor(spans))
    metering = MeterProvider([PeriodicExportingMetricReader(metrics)], resource=resource, shutdown_on_exit=False)
    trace.set_tracer_provider(tracing)  # for the spans of the MCP SDK, around ours

    def finish(seconds: float) -> None:
        # A collector that does not answer must not hold up whoever wants to end.
        for provider in (tracing, metering):
            thread = threading.Thread(target=provider.shutdown, name="telemetry", daemon=True)
            with suppress(RuntimeError):  # the system gives no more threads; what was to be told of has been done all the same
                thread.start()
                thread.join(seconds)

    return Telemetry(tracing, metering), finish


@dataclass(slots=True)
class _OpenRun:
    span: "Span"
    began: int
    mode: str
    call: "Span | None" = None
    call_began: int = 0


class Telemetry:
    """Makes spans and measurements with the given providers, by default those of this process. Usable from several threads.

    Raises OpenTelemetryMissing where even the API is not installed.
    """

    def __init__(self, tracer_provider: "TracerProvider | None" = None, meter_provider: "MeterProvider | None" = None) -> None:
        try:
            from opentelemetry import metrics, trace
        except ModuleNotFoundError as missing:
            raise OpenTelemetryMissing(missing.name) from None
        self._trace = trace
        self._tracer = trace.get_tracer("nexus_attest", __version__, tracer_provider)
        meter = metrics.get_meter("nexus_attest", __version__, meter_provider)
        self._tools = meter.create_histogram("nexus_attest.tool.duration", "s", "Duration of tool calls")
        self._runs = meter.create_histogram("nexus_attest.run.duration", "s", "Duration of runs")
        self._calls = meter.create_histogram("nexus_attest.call.duration", "s", "Duration of the calls that runs make")
        self._open: dict[str, _OpenRun] = {}
        self._codes: frozenset[str] = _WITHOUT_CLASS

    # -- tools ----------------------------------------------------------------------------------------------------------------

    def around(self, name: str, proceed: Callable[[], ToolResult]) -> ToolResult:
        """For `NexusControlTools`: a span and a measurement around a call."""
        began = time.perf_counter()
        attributes: dict[str, str] = {"nexus_attest.tool": name}
        with self._tracer.start_as_current_span(
            f"nexus_attest.tool {name}", attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                result = proceed()
                attributes["nexus_attest.outcome"] = "ok" if result.success else "refused"
                if result.code is not None:
                    attributes["nexus_attest.code"] = self.code(result.code)
                if (decision_id := _uuid_of(result.data)) is not None:
                    span.set_attribute("nexus_attest.decision_id", decision_id)
                return result
            except BaseException:
                attributes["nexus_attest.outcome"] = "error"
                span.set_status(self._trace.StatusCode.ERROR)
                raise
            finally:
                span.set_attributes(attributes)
                self._tools.record(time.perf_counter() - began, attributes)

    # -- runs -----------------------------------------------------------------------------------------------------------------

    def watch(self, event: RunEvent) -> None:
        """For `RunEngine`: spans of a run and its calls, with the times of the record."""
        payload, when = event["payload"], _nanoseconds(event["ts"])
        if event["type"] == "RUN_STARTED":
            mode = payload["mode"] if payload["mode"] in ("apply", "dry_run") else _OTHER
            attributes = {"nexus_attest.mode": mode}
            span = self._tracer.start_span("nexus_attest.run", attributes=attributes, start_time=when)
            if _UUID.fullmatch(event["run_id"]):
                span.set_attribute("nexus_attest.run_id", event["run_id"])
            self._open[event["run_id"]] = _OpenRun(span, when, mode)
            return
        run = self._open.get(event["run_id"])
        if run is None:
            return
        match event["type"]:
            case "TOOL_CALL_REQUESTED":
                inside = self._trace.set_span_in_context(run.span)
                run.call, run.call_began = self._tracer.start_span("nexus_attest.call", inside, start_time=when), when
            case "TOOL_CALL_SUCCEEDED":
                self._end_call(run, when, {"nexus_attest.outcome": "simulated" if payload.get("simulated") else "ok"})
            case "TOOL_CALL_FAILED":
                outcome = payload.get("outcome")
                told = {"nexus_attest.outcome": outcome if outcome in _CALL_OUTCOMES else _OTHER}
                self._end_call(run, when, {**told, "nexus_attest.code": self.code(payload.get("error_code"))})
            case "RUN_COMPLETED" | "RUN_FAILED":
                self._end_run(run, when, "completed" if event["type"] == "RUN_COMPLETED" else "failed")
                del self._open[event["run_id"]]
            case _:
                pass

    def _end_call(self, run: _OpenRun, when: int, attributes: dict[str, str]) -> None:
        if run.call is None:
            return
        run.call.set_attributes(attributes)
        if "nexus_attest.code" in attributes:
            run.call.set_status(self._trace.StatusCode.ERROR)
        run.call.end(when)
        run.call = None
        self._calls.record((when - run.call_began) / 1e9, attributes)

    def _end_run(self, run: _OpenRun, when: int, outcome: str) -> None:
        if run.call is not None:  # nobody knows how it ended
            self._end_call(run, when, {"nexus_attest.outcome": "unknown"})
        run.span.set_attribute("nexus_attest.outcome", outcome)
        if outcome == "failed":
            run.span.set_status(self._trace.StatusCode.ERROR)
        run.span.end(when)
        self._runs.record((when - run.began) / 1e9, {"nexus_attest.mode": run.mode, "nexus_attest.outcome": outcome})

    def code(self, code: object) -> str:
        """A code of ours as it is, `OTHER` for one that a router or a tool chose: it may be anything."""
        if not isinstance(code, str):
            return _OTHER
        if code not in self._codes:
            self._codes = _WITHOUT_CLASS | _codes_below(NexusError)
        return code if code in self._codes else _OTHER


def _codes_below(cls: type[NexusError]) -> frozenset[str]:
    return frozenset({cls.code}).union(*map(_codes_below, cls.__subclasses__()))


def _uuid_of(data: Mapping[str, Any]) -> str | None:
    """The id of the decision that a result is about, if it was made by a store: one that a caller chose may say anything."""
    found = data.get("request_id")
    return found if isinstance(found, str) and _UUID.fullmatch(found) else None


def _nanoseconds(text: str) -> int:
    """Nanoseconds since 1970 of a time in a run record, which has milliseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000
