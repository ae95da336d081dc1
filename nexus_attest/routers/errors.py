"""What can go wrong in a router, each with a stable `code`.

NexusError
|-- InputError (ValueError)
|   |-- AdapterFileError        the adapter file says something that is unknown, wrong or not supported
|   |-- UnknownAdapter          the adapter file has no adapter of this id
|   `-- RunNotFound  RunNotFinished
|-- NexusRouterMissing          the optional package nexus-router, which a bridge was asked for, is not there
|-- CallRefused                 a call that will not be made; no tool was called
|-- CallFailed                  a call that was tried and did not succeed
`-- RunFailed                   what `run` raises: the run is on the record, and failed
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from nexus_control.errors import InputError, NexusError

__all__ = [
    "AdapterFileError",
    "CallFailed",
    "CallOutcome",
    "CallRefused",
    "NexusRouterMissing",
    "RunFailed",
    "RunNotFinished",
    "RunNotFound",
    "UnknownAdapter",
]


class AdapterFileError(InputError):
    """An adapter file cannot be read, or holds a key or value that is unknown, wrong or not supported.

    `problems` lists every mistake, each with its path in the file.
    """

    code = "ADAPTER_FILE_INVALID"

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class UnknownAdapter(InputError):
    """The adapter file has no adapter of this id."""

    code = "UNKNOWN_ADAPTER"


class RunNotFound(InputError):
    """No run has this id."""

    code = "RUN_NOT_FOUND"


class RunNotFinished(InputError):
    """The run has no end yet, or its process died; there is no flight record of it."""

    code = "RUN_NOT_FINISHED"


class NexusRouterMissing(NexusError):
    """The package nexus-router, which only the bridge needs, cannot be imported, or another package has its name."""

    code = "NEXUS_ROUTER_MISSING"


class CallRefused(NexusError):
    """A call that will not be made; no tool was called.

    Codes: CALL_NOT_ALLOWED, INVALID_NAME, ENV_INVALID, CWD_NOT_FOUND, CWD_NOT_DIRECTORY, UNKNOWN_TOOL, TOOL_DEFINITION_CHANGED,
    SECRET_MISSING, SECRET_IN_PLAN, SECRET_UNKNOWN, SECRET_INVALID, CA_FILE_INVALID, ADDRESS_NOT_ALLOWED.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CallOutcome(StrEnum):
    """What is certain about a call that did not succeed."""

    NOT_SENT = "not_sent"
    """The tool was never reached: nothing happened."""

    FAILED = "failed"
    """The tool answered, and the answer is a failure."""

    UNKNOWN = "unknown"
    """The tool may have done its work, or a part of it, or may still be doing it."""


class CallFailed(NexusError):
    """A call did not succeed; `outcome` says how much is certain about it.

    Codes: COMMAND_NOT_FOUND, PERMISSION_DENIED, ENV_INVALID, SECRET_MISSING, CWD_NOT_FOUND, CWD_NOT_DIRECTORY, OS_ERROR, TIMEOUT,
    CANCELLED, OUTPUT_TOO_LARGE, NONZERO_EXIT, INVALID_JSON_OUTPUT, CONNECTION_FAILED, CONNECTION_LOST, HTTP_ERROR, INVALID_JSON,
    ADDRESS_NOT_ALLOWED, MCP_ERROR, TOOL_ERROR, TOOL_DEFINITION_CHANGED, INPUT_REQUIRED, INVALID_OUTPUT.
    """

    def __init__(self, code: str, message: str, *, outcome: CallOutcome) -> None:
        super().__init__(message)
        self.code = code
        self.outcome = outcome


class RunFailed(NexusError):
    """A run did not complete. `code` is that of its first failure.

    `run_id` names what was recorded. `response` is the same dict that a completed run returns, with `status` `failed`; it is None when
    the record could not be finished, because the store failed.
    """

    def __init__(self, code: str, message: str, *, run_id: str | None, response: Mapping[str, object] | None) -> None:
        super().__init__(message)
        self.code = code
        self.run_id = run_id
        self.response = None if response is None else dict(response)
