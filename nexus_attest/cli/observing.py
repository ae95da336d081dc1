"""What is told about a command beside its result, to those who asked: JSON lines on standard error, spans and metrics.

    NEXUS_ATTEST_LOG     debug, info, warning or error     a line per tool call, run and command
    NEXUS_ATTEST_OTEL    otlp, console or process          OpenTelemetry (`nexus_attest.telemetry`)

Where neither is set, nothing of this is loaded.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast, get_args

from nexus_attest.cli.errors import ConfigError
from nexus_control.flight_record import RunEvent
from nexus_control.tool import ToolResult

if TYPE_CHECKING:
    from nexus_attest.telemetry import Exporter, Telemetry

__all__ = ["LOG_VARIABLE", "OTEL_VARIABLE", "Observer", "log_command", "log_level", "observer"]

LOG_VARIABLE = "NEXUS_ATTEST_LOG"
OTEL_VARIABLE = "NEXUS_ATTEST_OTEL"

_LEVELS = ("debug", "info", "warning", "error")
_PATIENCE_SECONDS = 2.0
"""So long a command waits at its end for a collector that takes its time."""

_log = logging.getLogger("nexus_attest.cli")


class Observer:
    """Tells of tool calls (`around`) and runs (`watch`): to the log of this process, and to a telemetry if there is one.

    `logs_calls` is for a server to turn off, whose log has a line per request.
    """

    def __init__(self, telemetry: "Telemetry | None" = None, finish: Callable[[float], None] | None = None) -> None:
        self.logs_calls = True
        self._telemetry = telemetry
        self._finish = _nothing if finish is None else finish

    def around(self, name: str, proceed: Callable[[], ToolResult]) -> ToolResult:
        """For `NexusControlTools`."""
        if not self.logs_calls or not _log.isEnabledFor(logging.INFO):
            return proceed() if self._telemetry is None else self._telemetry.around(name, proceed)
        began = time.perf_counter()
        outcome, code = "error", None
        try:
            result = proceed() if self._telemetry is None else self._telemetry.around(name, proceed)
            outcome, code = "ok" if result.success else "refused", result.code
            return result
        finally:
            facts = {"tool": name, "ms": _milliseconds(began), "outcome": outcome}
            _log.info("call", extra={"facts": facts if code is None else {**facts, "code": code}})

    def watch(self, event: RunEvent) -> None:
        """For `RunEngine`."""
        if self._telemetry is not None:
            self._telemetry.watch(event)
        payload = event["payload"]
        told = {key: payload[key] for key in ("step_id", "error_code", "outcome", "reason", "mode") if key in payload}
        level = logging.INFO if event["type"].startswith("RUN_") else logging.DEBUG
        _log.log(level, event["type"].lower(), extra={"facts": {"run_id": event["run_id"], **told}})

    def close(self, seconds: float = _PATIENCE_SECONDS) -> None:
        """Send what waits, for at most about so long. Closing again does nothing."""
        finish, self._finish = self._finish, _nothing
        finish(seconds)


def observer() -> Observer | None:
    """Who observes the commands of this process, None where nobody asked. Raises ConfigError, OpenTelemetryMissing."""
    wanted = os.environ.get(OTEL_VARIABLE, "")
    if not wanted:
        return None if log_level() is None else Observer()
    from nexus_attest.telemetry import Exporter, export_to

    if wanted not in get_args(Exporter):
        raise ConfigError(f"{OTEL_VARIABLE} must be one of {', '.join(get_args(Exporter))}, not {wanted!r:.100}")
    return Observer(*export_to(cast("Exporter", wanted)))


def log_level() -> str | None:
    """From which level on a log is wanted, None where none is. Raises ConfigError."""
    level = os.environ.get(LOG_VARIABLE, "")
    if level and level not in _LEVELS:
        raise ConfigError(f"{LOG_VARIABLE} must be one of {', '.join(_LEVELS)}, not {level!r:.100}")
    return level or None


def log_command(level: str, words: list[str], run: Callable[[], int]) -> int:
    """Run a command with a log of it; its exit code."""
    from nexus_attest.server.logs import StderrLog

    log = StderrLog()
    log.install(level)
    began = time.perf_counter()
    code = 1
    try:
        code = run()
        return code
    finally:
        _log.info("command", extra={"facts": {"command": " ".join(words), "ms": _milliseconds(began), "exit_code": code}})
        log.flush()
        log.remove()


def _milliseconds(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)


def _nothing(_seconds: float) -> None:
    pass
