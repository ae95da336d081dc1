"""What can go wrong in a router, each with a stable `code`.

NexusError
|-- InputError (ValueError)
|   |-- AdapterFileError        the adapter file says something that is unknown, wrong or not supported
|   |-- InvalidPlan             the plan names steps, but not ones that can be run
|   |   `-- PlanNotExecutable   the plan names no steps, and the adapter has no default call
|   `-- RunNotFound  RunNotFinished
|-- CallRefused                 a call that the adapter will not make; nothing was started
|-- CallFailed                  a call that was tried and did not succeed
`-- RunFailed                   what `run` raises: the run is on the record, and failed
"""

from collections.abc import Mapping

from nexus_control.errors import InputError, NexusError

__all__ = [
    "AdapterFileError",
    "CallFailed",
    "CallRefused",
    "InvalidPlan",
    "PlanNotExecutable",
    "RunFailed",
    "RunNotFinished",
    "RunNotFound",
]


class AdapterFileError(InputError):
    """An adapter file cannot be read, or holds a key or value that is unknown, wrong or not supported."""

    code = "ADAPTER_FILE_INVALID"


class InvalidPlan(InputError):
    """A plan is a JSON list or object, but not one of well-formed steps."""

    code = "PLAN_INVALID"


class PlanNotExecutable(InvalidPlan):
    """A plan holds no steps: it is prose, empty or absent, and the adapter declares no default call."""

    code = "PLAN_NOT_EXECUTABLE"


class RunNotFound(InputError):
    """No run has this id."""

    code = "RUN_NOT_FOUND"


class RunNotFinished(InputError):
    """The run has no end yet, or its process died; there is no flight record of it."""

    code = "RUN_NOT_FINISHED"


class CallRefused(NexusError):
    """The adapter will not make this call; nothing was started.

    Codes: CALL_NOT_ALLOWED, INVALID_NAME, ENV_INVALID, CWD_NOT_FOUND, CWD_NOT_DIRECTORY.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CallFailed(NexusError):
    """A call did not succeed. After TIMEOUT and OUTPUT_TOO_LARGE nobody knows how much of its work the tool had done.

    Codes: COMMAND_NOT_FOUND, PERMISSION_DENIED, ENV_INVALID, CWD_NOT_FOUND, CWD_NOT_DIRECTORY, OS_ERROR, TIMEOUT, OUTPUT_TOO_LARGE,
    NONZERO_EXIT, INVALID_JSON_OUTPUT.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


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
