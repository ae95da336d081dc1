"""Tools of an MCP server: one that we start for each run (stdio), or one behind a URL (streamable HTTP).

In a step, `method` is the name of the tool on the server, `tool` a label of the operator's choice (the server's name, say), `args` are the
arguments. The output is `{"content": [...], "structuredContent": ...}`, the second only when the server gave one.

    one session per run       opened after the plan is on the record, closed when the run ends, whatever happens
    pinned tools              what a tool is (name, description, schemas, annotations) must not change: between approval and run when
                              `tools_digest` is set, within a run always
    nobody to ask             questions of the server (elicitation) are declined, sampling and roots are refused
    what the server is told   `_meta` of each call: `nexus-attest/idempotency-key`, and `nexus-attest/execution-id` when there is one

An answer that says `isError` is TOOL_ERROR, and has failed. A JSON-RPC error is MCP_ERROR; it has failed when it says that there is no such
method or that the arguments are wrong. After everything else nobody knows what the server did. The SDK (`mcp`) is imported when the
first session is opened.
"""

import re
from collections.abc import Mapping, Sequence
from subprocess import PIPE
from time import monotonic
from typing import TYPE_CHECKING, Any

from nexus_attest.routers.adapter import Call, CallLimit, CallResult
from nexus_attest.routers.answers import one_line
from nexus_attest.routers.background import Background
from nexus_attest.routers.children import require_directory, start_process
from nexus_attest.routers.configured import ConfiguredAdapter
from nexus_attest.routers.credentials import Credentials
from nexus_attest.routers.custody import Custody
from nexus_attest.routers.errors import CallFailed, CallOutcome, CallRefused
from nexus_attest.routers.http_adapter import require_certificates
from nexus_attest.routers.settings import McpHttpSettings, McpStdioSettings
from nexus_attest.routers.subprocess_adapter import BASE_ENVIRONMENT
from nexus_control.plan import Step
from nexus_control.run_json import UnsafeJson, require_plain, run_json

if TYPE_CHECKING:
    from nexus_attest.routers.clients.mcp_session import Answer, Downstream

__all__ = ["McpAdapter", "McpSession", "Survey"]

_LEAST_MESSAGE_BYTES = 4 * 1024 * 1024
"""Room for the list of tools and for the frame of an answer, however small answers must be."""

_DETAIL_CHARACTERS = 200

_STOP_SECONDS = 8.0
"""For the end of a session: the server's grace, and reaping it."""


class McpAdapter(ConfiguredAdapter[McpStdioSettings | McpHttpSettings]):
    """Calls tools of the server of its settings, in one session per run."""

    names = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

    def prepare(self, credentials: Credentials) -> None:
        """Raises CallFailed when a variable, the working directory or the file of certificates is not there."""
        if isinstance(self.settings, McpStdioSettings):
            credentials.environment(self.settings.pass_env)
            require_directory(self.settings.base_dir / self.settings.cwd)
        else:
            credentials.headers(self.settings.headers_env)
            require_certificates(self.settings)

    def open(self, steps: Sequence[Step], limit: CallLimit) -> "McpSession":
        """A session with the server, in which every tool of the steps exists.

        Raises CallRefused with UNKNOWN_TOOL or TOOL_DEFINITION_CHANGED, CallFailed with CONNECTION_FAILED, TIMEOUT and the codes of a
        command that cannot be started; then nothing is left running.
        """
        session = McpSession(self)
        try:
            session.connect([step.method for step in steps], limit)
        except BaseException:
            session.close()
            raise
        return session

    def survey(self, limit: CallLimit) -> "Survey":
        """What the server offers now, for an operator who wants to pin it. Calls no tool. Raises CallFailed."""
        session = McpSession(self)
        try:
            session.connect([], limit, compare=False)
            return Survey(session.details, session.definitions)
        finally:
            session.close()


class Survey:
    """What a server said about itself: `details` as in a session, and the definitions of the allowed tools by name."""

    def __init__(self, details: Mapping[str, object], definitions: Mapping[str, Mapping[str, object]]) -> None:
        self.details = details
        self.definitions = definitions


class McpSession:
    """The calls of one run."""

    def __init__(self, adapter: McpAdapter) -> None:
        self.details: Mapping[str, object] = {}
        """What the server said about itself: `server`, `version`, `protocol`, and `tools_digest`, the digest of the allowed tools."""

        self.definitions: Mapping[str, Mapping[str, object]] = {}
        self._adapter = adapter
        self._credentials = Credentials(adapter.settings)
        self._custody = Custody()
        self._background = Background("nexus-attest mcp")
        self._downstream: Downstream | None = None
        self._needed: Sequence[str] = ()

    def connect(self, needed: Sequence[str], limit: CallLimit, *, compare: bool = True) -> None:
        """Start the session and compare its tools with what is pinned. Raises CallRefused and CallFailed."""
        downstream = self._started(limit)
        if compare:
            self._compare(downstream, needed)
        self._needed = tuple(needed)
        self._describe(downstream)
        self.definitions = downstream.definitions

    def call(self, call: Call) -> CallResult:
        """The server's answer. Raises CallFailed for every other end."""
        self._adapter.check(call.step)
        downstream = self._connected(call.limit)
        args = self._credentials.resolve(call.step.args)
        meta: dict[str, Any] = {"nexus-attest/idempotency-key": call.identity.idempotency_key}
        if call.identity.execution_id is not None:
            meta["nexus-attest/execution-id"] = call.identity.execution_id
        try:
            answer = self._background.run(downstream.call(call.step.method, args, meta), call.limit, lambda: downstream.outcome)
        except CallFailed as problem:
            raise self._described(problem, downstream) from None
        return self._result(answer)

    def close(self) -> None:
        """End the session and the server that was started for it."""
        self._disconnect()
        self._background.close()
        self._custody.close()

    def _connected(self, limit: CallLimit) -> "Downstream":
        """The session with the server; a new one, with the same tools, when the last one was lost."""
        if self._downstream is not None and not self._downstream.lost:
            return self._downstream
        self._disconnect()
        try:
            downstream = self._started(limit)
            self._compare(downstream, self._needed)
            downstream.require_same(self.definitions)
            self._describe(downstream)
        except BaseException as problem:
            self._disconnect()  # or the next call would find a session, and nobody compared its tools
            if isinstance(problem, CallRefused):
                raise CallFailed(problem.code, str(problem), outcome=CallOutcome.NOT_SENT) from None
            raise
        return downstream

    def _started(self, limit: CallLimit) -> "Downstream":
        until = CallLimit(min(limit.deadline, monotonic() + self._adapter.settings.start_timeout_s), limit.cancelled)
        downstream = self._downstream = self._new_downstream()
        try:
            self._background.run(downstream.start(), until, lambda: CallOutcome.NOT_SENT)
        except CallFailed as problem:
            raise self._described(problem, downstream) from None
        return downstream

    def _compare(self, downstream: "Downstream", needed: Sequence[str]) -> None:
        """Raise CallRefused unless the server has the tools that are needed, and those that are pinned."""
        settings = self._adapter.settings
        for name in needed:
            if name not in downstream.definitions:
                raise CallRefused("UNKNOWN_TOOL", f"the server of adapter {settings.adapter_id} has no tool {name!r:.200}")
        pinned = settings.tools_digest
        if pinned is not None and downstream.tools_digest != pinned:
            raise CallRefused(
                "TOOL_DEFINITION_CHANGED",
                f"the tools of adapter {settings.adapter_id} have the digest {downstream.tools_digest}, not {pinned}",
            )

    def _describe(self, downstream: "Downstream") -> None:
        told = {key: one_line(self._credentials.redactor.text(text))[:_DETAIL_CHARACTERS] for key, text in downstream.details.items()}
        self.details = {**told, "tools_digest": downstream.tools_digest}

    def _disconnect(self) -> None:
        downstream, self._downstream = self._downstream, None
        if downstream is not None:
            try:
                self._background.run(downstream.stop(), CallLimit(monotonic() + _STOP_SECONDS), lambda: CallOutcome.NOT_SENT)
            except CallFailed:
                return  # it does not end in time; closing the loop cancels it

    def _new_downstream(self) -> "Downstream":
        settings = self._adapter.settings
        size = max(settings.max_output_bytes, _LEAST_MESSAGE_BYTES)
        if isinstance(settings, McpStdioSettings):
            # Started before the SDK is imported: that takes as long as most servers need to start.
            environment = {**BASE_ENVIRONMENT, **self._credentials.environment(settings.pass_env)}
            argv = [settings.command, *settings.args]
            process = start_process(argv, cwd=settings.base_dir / settings.cwd, env=environment, custody=self._custody, stdin=PIPE)
            try:
                from nexus_attest.routers.clients.mcp_session import Downstream
                from nexus_attest.routers.clients.mcp_stdio import StdioServer
            except BaseException:
                process.end()
                raise
            return Downstream(settings, StdioServer(process, max_line_bytes=size))
        from nexus_attest.routers.clients.mcp_http import HttpServer
        from nexus_attest.routers.clients.mcp_session import Downstream

        headers = self._credentials.headers(settings.headers_env)
        return Downstream(settings, HttpServer(settings, headers=headers, ca_file=require_certificates(settings), max_message_bytes=size))

    def _result(self, answer: "Answer") -> CallResult:
        redactor, limit = self._credentials.redactor, self._adapter.settings.max_output_bytes
        if answer.is_error:
            told = one_line(redactor.text(answer.text))
            raise CallFailed(
                "TOOL_ERROR",
                f"The tool reported an error: {told:.400}" if told else "The tool reported an error",
                outcome=CallOutcome.FAILED,
            )
        try:
            require_plain(answer.output)
            size = len(run_json(answer.output))
        except (UnsafeJson, TypeError):
            message = "The server's answer cannot be recorded: NaN, half a character, too deep"
            raise CallFailed("INVALID_OUTPUT", message, outcome=CallOutcome.UNKNOWN) from None
        if size > limit:
            raise CallFailed("OUTPUT_TOO_LARGE", f"The server answered with more than {limit} bytes", outcome=CallOutcome.UNKNOWN)
        output, redacted = redactor.output(answer.output)
        return CallResult(output=output, redacted=redacted)

    def _described(self, problem: CallFailed, downstream: "Downstream") -> CallFailed:
        """The same failure with the end of what the server wrote to its standard error, all of it redacted."""
        redactor = self._credentials.redactor
        message = one_line(redactor.text(str(problem)))[:400]
        if problem.code in ("CONNECTION_FAILED", "CONNECTION_LOST") and (
            said := one_line(redactor.text(downstream.errors().rstrip("\ufffd"), torn=True))
        ):
            message = f"{message[:190]}: {said[-300:]}"
        return CallFailed(problem.code, message, outcome=problem.outcome)
