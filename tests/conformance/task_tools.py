"""The tools and tasks that the official suite demands of a server with the tasks extension: jobs that end by the clock, or by answers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from secrets import token_urlsafe
from typing import Any

import anyio
from mcp.server import ServerRequestContext
from mcp.types import CallToolRequestParams, ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult

from nexus_attest.server.tasks import Task, require_tasks, takes_tasks
from nexus_control.events import utc_now

Context = ServerRequestContext[Any]
Call = Callable[[Context, CallToolRequestParams], Awaitable[Any]]

_TTL_MS = 600_000
_POLL_MS = 100


def says(text: str, *, is_error: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "isError": is_error, "resultType": "complete"}


def asks(message: str, name: str, kind: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    question = ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))
    return question.model_dump(by_alias=True, mode="json", exclude_none=True)


@dataclass(kw_only=True)
class Job:
    """Ends when its seconds are over and its questions answered, unless somebody cancels it before."""

    seconds: float = 0
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    questions: dict[str, Any] = field(default_factory=dict[str, Any])
    begun: datetime = field(default_factory=utc_now)
    ended: datetime | None = None
    cancelled: bool = False

    def look(self) -> None:
        due = self.begun + timedelta(seconds=self.seconds)
        if self.ended is None and not self.questions and utc_now() >= due:
            self.ended = utc_now()

    def task(self, task_id: str) -> Task:
        self.look()
        facts: dict[str, Any] = {"status": "input_required" if self.questions else "working", "input_requests": self.questions or None}
        if self.cancelled:
            facts = {"status": "cancelled"}
        elif self.ended is not None:
            facts = {"status": "failed" if self.error else "completed", "result": self.result, "error": self.error}
        when = self.ended or self.begun
        return Task(task_id=task_id, created_at=self.begun, updated_at=when, ttl_ms=_TTL_MS, poll_ms=_POLL_MS, **facts)


class Jobs:
    """Beside a server's own tasks; satisfies its `TaskSource`."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def begin(self, job: Job) -> dict[str, Any]:
        task_id = token_urlsafe(16)
        self._jobs[task_id] = job
        return job.task(task_id).created()

    async def get(self, _: Context, task_id: str) -> Task | None:
        job = self._jobs.get(task_id)
        return None if job is None else job.task(task_id)

    async def update(self, _: Context, task_id: str, responses: Mapping[str, Any]) -> bool:
        job = self._jobs.get(task_id)
        if job is None:
            return False
        for key in responses:
            job.questions.pop(key, None)
        return True

    async def cancel(self, _: Context, task_id: str) -> bool:
        job = self._jobs.get(task_id)
        if job is None:
            return False
        job.look()
        if job.ended is None:
            job.ended, job.cancelled, job.questions = utc_now(), True, {}
        return True


def _object(required: list[str], **properties: str) -> dict[str, Any]:
    members = {name: {"type": kind} for name, kind in properties.items()}
    return {"type": "object", "properties": members, "required": required, "additionalProperties": False}


def task_tools(jobs: Jobs) -> Mapping[str, tuple[Call, dict[str, Any]]]:
    """The tools by name, with their input schemas."""

    async def greet(_: Context, params: CallToolRequestParams) -> dict[str, Any]:
        return says(f"Hello, {(params.arguments or {})['name']}!")

    async def slow_compute(context: Context, params: CallToolRequestParams) -> dict[str, Any]:
        arguments = params.arguments or {}
        seconds, done = arguments["seconds"], says(f"computed {arguments.get('label')}")
        if seconds and takes_tasks(context):
            return jobs.begin(Job(seconds=seconds, result=done))
        await anyio.sleep(seconds)
        return done

    def needing(make: Callable[[CallToolRequestParams], Job]) -> Call:
        async def call(context: Context, params: CallToolRequestParams) -> dict[str, Any]:
            require_tasks(context)
            return jobs.begin(make(params))

        return call

    async def asked_first(context: Context, params: CallToolRequestParams) -> dict[str, Any] | InputRequiredResult:
        require_tasks(context)
        answer = (params.input_responses or {}).get("user_name")
        if not isinstance(answer, ElicitResult):
            form = ElicitRequestFormParams(
                message="What is your name?",
                requested_schema={"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            )
            return InputRequiredResult(input_requests={"user_name": ElicitRequest(params=form)}, request_state="asked")
        return jobs.begin(Job(result=says(f"Hello, {(answer.content or {}).get('name')}!")))

    delete = asks("Delete it?", "confirm", "boolean")
    two = {"first": asks("What is your name?", "name", "string"), "second": asks("Go on?", "confirm", "boolean")}
    return {
        "greet": (greet, _object(["name"], name="string")),
        "slow_compute": (slow_compute, _object(["seconds"], seconds="number", label="string")),
        "failing_job": (needing(lambda _: Job(seconds=1, result=says("it failed", is_error=True))), _object([])),
        "protocol_error_job": (needing(lambda _: Job(error={"code": -32603, "message": "it panicked"})), _object([])),
        "confirm_delete": (
            needing(lambda _: Job(questions={token_urlsafe(8): delete}, result=says("deleted"))),
            _object([], filename="string"),
        ),
        "multi_input": (
            needing(lambda _: Job(questions={token_urlsafe(8): question for question in two.values()}, result=says("done"))),
            _object([]),
        ),
        "test_tool_with_task": (asked_first, _object([])),
    }
