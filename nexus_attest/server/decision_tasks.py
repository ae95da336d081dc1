"""The tasks of this server: an approval that a person has yet to give, and an execution under way.

A task is a view of its decision, read from the events in the store each time that somebody asks (`task_outcomes`), by whichever server of
the store is asked. So nothing has to be carried over a restart, and nothing can disagree with the evidence. What no event says is in the
folder of the tasks: that an approval is not waited for any more, as the caller cancelled, or the person said no or closed the question.

Cancelling an approval ends the wait, in the transaction that finds it still open: approval or cancellation, whichever comes first, stays.
What is so only of executions is in `execution_tasks`.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from mcp import MCPError
from mcp.server import ServerRequestContext
from mcp.types import INVALID_PARAMS, ElicitResult
from pydantic import ValidationError

from nexus_attest.server.actors import BoundActor
from nexus_attest.server.errors import ApprovalPending, HumanDeclined, HumanRequired
from nexus_attest.server.execution_tasks import PATIENCE, ExecutionTasks
from nexus_attest.server.humans import HumanAsker, confirmed, form_answer, form_channel, form_request, shows_forms
from nexus_attest.server.results import ERROR_KEY, protocol_error, refusal
from nexus_attest.server.task_folder import Ending, Handle, TaskFolder
from nexus_attest.server.task_frame import TaskFrame
from nexus_attest.server.task_outcomes import Outcome, approval_outcome
from nexus_attest.server.tasks import Task, takes_tasks
from nexus_control.errors import DecisionNotFound, NexusError, StoreError
from nexus_control.markdown import printable

if TYPE_CHECKING:
    from nexus_attest.server.service import Service

__all__ = ["DecisionTasks"]

_APPROVAL_POLL_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """An approval that is waited for, as it stands: what a person would be asked, in whose name, and with what arguments."""

    asker: HumanAsker
    who: BoundActor
    arguments: Mapping[str, Any]
    question: str
    state: str


class DecisionTasks:
    """The `TaskSource` of one service, and what makes its tasks. Executions are under way only inside `running`."""

    def __init__(self, service: "Service", folder: TaskFolder, *, patience: float = PATIENCE) -> None:
        self._service = service
        self._folder = folder
        self._frame = TaskFrame(service)
        self._executions = ExecutionTasks(service, folder, self._frame, patience=patience)

    def running(self) -> AbstractAsyncContextManager[None]:
        """Executions may go on for longer than the calls that began them; the end of the block waits for them."""
        return self._executions.running()

    async def executing(
        self, context: ServerRequestContext[Any], arguments: Mapping[str, Any], answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """The answer of an execution that is over soon or refused, a task for any other; None for a client that takes no tasks."""
        return await self._executions.executing(context, arguments, answer)

    # -- an approval that is waited for -------------------------------------------------------------------------------------------

    async def waiting(self, context: ServerRequestContext[Any], arguments: Mapping[str, Any], who: BoundActor) -> dict[str, Any] | None:
        """A task for an approval whose person the client cannot ask; None for a client that takes no tasks, or can ask."""
        if not takes_tasks(context) or shows_forms(context):
            return None
        try:
            made = await anyio.to_thread.run_sync(self._new_wait, arguments, who, self._frame.owner(), limiter=self._service.store_threads)
        except StoreError as problem:
            self._frame.warn(problem)
            return None
        if made is None:
            return None
        text, handle = made
        return (await self._wait(context, text, handle)).created()

    def _new_wait(self, arguments: Mapping[str, Any], who: BoundActor, owner: str) -> tuple[str, Handle] | None:
        store, decision_id = self._service.tools.store, arguments["request_id"]
        given = {name: arguments[name] for name in ("comment", "expires_at") if arguments.get(name) is not None}
        with store.snapshot():
            if isinstance(self._service.asker, HumanAsker):
                self._service.asker.question(arguments, who)  # nothing happened since the person was to be asked
            generation, events = store.origin(decision_id)[0], store.get_events(decision_id)
        facts = {"actor": dict(who.actor), **given, "generation": generation, "seen": len(events), "from": events[-1].chain_hash}
        handle = self._frame.handle("approve", decision_id, facts)
        text = self._folder.handle_text(handle, owner)
        return None if text is None else (text, handle)

    async def _wait(self, context: ServerRequestContext[Any], text: str, handle: Handle) -> Task:
        """The task as it stands, after taking what was answered on the page meanwhile."""
        outcome = await self._frame.in_thread(self._approval_outcome, text, handle)
        if outcome is not None:
            self._withdraw(text)
            return self._frame.ended(text, handle, _APPROVAL_POLL_MS, outcome)
        task = partial(self._frame.task, text, handle, _APPROVAL_POLL_MS)
        try:
            found = await self._open(context, handle)
        except NexusError as refused:  # such as by a trust policy that was changed; as long as it is, nobody is asked
            return task(status="working", message=printable(refusal(refused)["content"][0]["text"]))
        if found is None:
            return task(status="working", message="waiting for an approval that is given elsewhere")
        page = found.asker.page
        if page is not None and (said := await page.answer(found.state)) is not None:
            await self._answered(text, handle, found, said, "page")
            if said:  # a no is for all who wait: the end of each takes it from the question
                page.close(found.state)
            return await self._wait(context, text, handle)
        if shows_forms(context):
            question = form_request(found.question).model_dump(by_alias=True, mode="json", exclude_none=True)
            return task(status="input_required", input_requests={self._folder.question_key(text, found.state): question})
        command, name = found.asker.command(found.arguments, found.who), found.who.actor["id"]
        wanted = partial(self._is_waited_for, text, handle)
        url = None if page is None else page.address_of(found.state, found.question, text, wanted=wanted)  # None while it has no room
        error: NexusError = HumanRequired(f"this client cannot ask its user, so {name} has to run", command)
        if url is not None:
            error = ApprovalPending("nobody has answered yet", url, command)
        told = refusal(error)
        return task(status="working", message=printable(told["content"][0]["text"]), meta={ERROR_KEY: told["_meta"][ERROR_KEY]})

    async def _open(self, context: ServerRequestContext[Any], handle: Handle) -> _Open | None:
        """What a person may still be asked; None where this caller, or this server, does not ask. Raises what an approval would."""
        asker = self._service.asker
        if not isinstance(asker, HumanAsker) or not self._may_approve():
            return None
        facts = handle.facts
        arguments = {"request_id": handle.decision_id, "comment": facts.get("comment"), "expires_at": facts.get("expires_at")}
        who = self._service.actors.bind(context, facts["actor"])
        question, state = await anyio.to_thread.run_sync(asker.question, arguments, who, limiter=self._service.store_threads)
        return _Open(asker=asker, who=who, arguments=arguments, question=question, state=state)

    def _is_waited_for(self, text: str, handle: Handle) -> bool:
        """For the page, which another server of the store cannot tell that the wait has ended."""
        try:
            return self._approval_outcome(text, handle) is None
        except NexusError:  # which whoever asks for the task is told
            return True

    def _withdraw(self, text: str) -> None:
        """Nobody is to answer on a page what is not waited for any more."""
        if isinstance(self._service.asker, HumanAsker) and self._service.asker.page is not None:
            self._service.asker.page.withdraw(text)

    def _may_approve(self) -> bool:
        return any(handler.spec.short == "approve" and handler.is_allowed() for handler in self._service.handlers.values())

    async def _answered(self, text: str, handle: Handle, found: _Open, said: bool | None, channel: str) -> None:
        """Record what a person answered, also when whoever asked for the task is gone: nobody else will hear it again."""
        with anyio.CancelScope(shield=True):
            if said:
                await self._frame.in_thread(self._approve, text, handle, found, channel)
                self._service.changed()
                return
            error: NexusError = HumanDeclined(f"{found.who.actor['id']} was asked and did not approve")
            if said is None:  # a client shows the question of a task once, so waiting for another answer would be for ever
                command = found.asker.command(found.arguments, found.who)
                error = HumanRequired("the question was closed without an answer; run", command)
            await self._frame.in_thread(self._end, text, handle, refusal(error))

    def _approve(self, text: str, handle: Handle, found: _Open, channel: str) -> None:
        """Record a yes, unless the wait has ended: nothing is committed between the look and the approval.

        Raises MCPError for an approval that is refused.
        """
        who = confirmed(found.who, channel, found.question)
        with self._service.tools.store.transaction():
            if self._approval_outcome(text, handle) is None:
                result = self._service.tools.approve(**found.arguments, actor=who.actor, **who.identity())
                if not result.success:  # what has failed in here has undone the whole block
                    raise protocol_error(result.code or NexusError.code, result.error or "")

    def _approval_outcome(self, text: str, handle: Handle) -> Outcome | Ending | None:
        """How the wait ended. Events are read first: an ending is only ever written where they say nothing."""
        store, facts = self._service.tools.store, handle.facts
        try:
            events = store.get_events(handle.decision_id, facts["generation"])
            found = approval_outcome(handle.decision_id, events, facts["seen"], facts["actor"]["id"], self._service.tools.trust)
            ending = self._folder.ending(text)
            if ending is None and found is None and store.origin(handle.decision_id)[0] != facts["generation"]:
                raise DecisionNotFound(f"{handle.decision_id} was replaced by an import")
        except DecisionNotFound as gone:
            return Outcome(handle.created_at, refusal(gone))
        return ending or found

    def _end(self, text: str, handle: Handle, result: Mapping[str, Any] | None) -> None:
        """End the wait, unless it has ended: nothing is committed between the look and the ending."""
        store = self._service.tools.store
        with store.transaction():
            if self._approval_outcome(text, handle) is None:
                self._folder.end(text, Ending(at=store.clock(), result=result))
        self._folder.tidy(store.clock())

    # -- for clients --------------------------------------------------------------------------------------------------------------

    async def get(self, context: ServerRequestContext[Any], task_id: str) -> Task | None:
        """The task as it stands. An approval that was given on the page is recorded by this."""
        handle = await self._read(task_id)
        if handle is None:
            return None
        return await (self._wait(context, task_id, handle) if handle.kind == "approve" else self._executions.as_it_stands(task_id, handle))

    async def update(self, context: ServerRequestContext[Any], task_id: str, responses: Mapping[str, Any]) -> bool:
        """Take the answer to the question that this caller was shown.

        Raises MCPError -32602 for an answer that is none, or to something else than what is asked now, or that this caller or this server
        does not take, and by code for one that could not be recorded: a client puts a question to its user once, so an answer must not be
        acknowledged and forgotten.
        """
        handle = await self._read(task_id)
        if handle is None or handle.kind == "execute":
            return handle is not None
        if not responses or await self._frame.in_thread(self._approval_outcome, task_id, handle) is not None:
            return True
        try:
            found = await self._open(context, handle)
        except NexusError as problem:
            raise protocol_error(problem.code, problem.describe()) from None
        if found is None:
            raise MCPError(INVALID_PARAMS, "This approval is given elsewhere: no answer is taken here")
        if (key := self._folder.question_key(task_id, found.state)) not in responses:
            raise MCPError(INVALID_PARAMS, "This answers what is not, or not any more, what is asked: get the task again")
        try:
            said = form_answer(ElicitResult.model_validate(responses[key]))
        except ValidationError:
            raise MCPError(INVALID_PARAMS, "The answer is no result of an elicitation") from None
        await self._answered(task_id, handle, found, said, form_channel(context))
        return True

    async def cancel(self, _: ServerRequestContext[Any], task_id: str) -> bool:
        """End the wait for an approval; an execution goes on."""
        handle = await self._read(task_id)
        if handle is not None and handle.kind == "approve":
            await self._frame.in_thread(self._end, task_id, handle, None)
            self._withdraw(task_id)
        return handle is not None

    async def _read(self, text: str) -> Handle | None:
        return await self._frame.in_thread(self._known, text, self._frame.owner())

    def _known(self, text: str, owner: str) -> Handle | None:
        """What a handle stands for; None also in another store that took the place of the one that it was made for.

        A store is the one if it holds the event that the task began from: a chain value is that of no other event anywhere.
        """
        store = self._service.tools.store
        handle = self._folder.read_handle(text, owner, store.clock())
        if handle is None:
            return None
        try:
            events = store.get_events(handle.decision_id, handle.facts["generation"])
        except DecisionNotFound:
            return None
        return handle if any(event.chain_hash == handle.facts.get("from") for event in events) else None
