"""A page on this machine where a person answers a question, for clients that cannot put it to their users themselves.

Each question has an address of its own, which is as hard to guess as a key and good for ten minutes and one answer. An answer is kept for
ten minutes more, in memory: it is lost with the server. Looking at a page answers nothing: only its own form does. Pages of other sites
cannot read it, frame it, or send its form. As with the command line, who answers is whoever sits at this machine: the page proves no more
than that, and the event says `page`.
"""

import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from html import escape
from http import HTTPStatus
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

__all__ = ["OPEN_SECONDS", "ApprovalPage"]

OPEN_SECONDS = 600.0
_MOST_OPEN = 256
_MOST_FORM_BYTES = 4_096
_PATH = "/approvals"
_NOTHING = "There is no such question, or not any more."
_ANSWERED = "This was answered."
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass(kw_only=True)
class _Question:
    text: str
    state: str
    until: float
    form_key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    waiting: dict[str, Callable[[], bool]] = field(default_factory=dict[str, Callable[[], bool]])
    answered: anyio.Event = field(default_factory=anyio.Event)
    yes: bool | None = None


class ApprovalPage:
    """The questions that are open, served on `listener`, a socket on 127.0.0.1; each is open for so many seconds, as its answer is kept.

    `limiter` bounds the threads that look whether a question is still wanted.
    """

    def __init__(self, listener: socket.socket, seconds: float = OPEN_SECONDS, *, limiter: anyio.CapacityLimiter | None = None) -> None:
        self.listener = listener
        self._limiter = limiter
        self._seconds = seconds
        self._host = f"127.0.0.1:{listener.getsockname()[1]}"
        self._questions: dict[str, _Question] = {}
        self.app = Starlette(routes=[Route(f"{_PATH}/{{name}}", self._show), Route(f"{_PATH}/{{name}}", self._take, methods=["POST"])])

    def address_of(self, state: str, text: str, waiting: str | None = "", *, wanted: Callable[[], bool] = lambda: True) -> str | None:
        """Where a person answers `text`; the same address while this question is open. `state` says what exactly an answer is good for.

        `waiting` is the task that waits for the answer, until `withdraw`; empty for a call, which may be made again at any time; None for
        one that a task can be made of, which will wait in its place. `wanted`, called in a thread when somebody looks, says whether an
        answer would still be good for something: what was approved elsewhere, or cancelled, is not shown. Gives None while there is no
        room for another: questions that are open, or answered and not yet asked about, keep their places.
        """
        self._forget()
        name = self._name_of(state)
        if name is None:
            if len(self._questions) >= _MOST_OPEN:
                return None
            name = secrets.token_urlsafe(16)
            self._questions[name] = _Question(text=text, state=state, until=anyio.current_time() + self._seconds)
        if waiting is not None:
            self._questions[name].waiting[waiting] = wanted
        return f"http://{self._host}{_PATH}/{name}"

    async def answer(self, state: str, seconds: float = 0) -> bool | None:
        """What was answered, None when nobody answers within these seconds. It stays the answer until `close`, once it was recorded."""
        self._forget()
        name = self._name_of(state)
        if name is None:
            return None
        question = self._questions[name]
        with anyio.move_on_after(seconds):
            await question.answered.wait()
        return question.yes

    def close(self, state: str) -> None:
        """Forget a question whose answer has done what it was good for."""
        if (name := self._name_of(state)) is not None:
            del self._questions[name]

    def refused(self, state: str) -> None:
        """A call was told of a no, which is all that this is good for: the question stays for the tasks that have yet to hear of it."""
        if (name := self._name_of(state)) is not None:
            self._leave(name, "")

    def withdraw(self, task: str) -> None:
        """Forget the question of a task that waits no more, unless other tasks, or a call, wait for its answer."""
        for name, question in list(self._questions.items()):
            if task in question.waiting:
                self._leave(name, task)

    def _leave(self, name: str, who: str) -> None:
        question = self._questions[name]
        question.waiting.pop(who, None)
        if not question.waiting:
            del self._questions[name]

    def _name_of(self, state: str) -> str | None:
        return next((name for name, question in self._questions.items() if question.state == state), None)

    def _forget(self) -> None:
        now = anyio.current_time()
        self._questions = {name: question for name, question in self._questions.items() if question.until > now}

    async def _found(self, request: Request) -> _Question | Response:
        """The question of an address, or why there is none for this request."""
        if request.headers.get("host") != self._host:
            return _page(HTTPStatus.MISDIRECTED_REQUEST, "This is another place.")
        self._forget()
        question = self._questions.get(request.path_params["name"])
        if question is None:
            return _page(HTTPStatus.NOT_FOUND, _NOTHING)
        if question.yes is not None:
            return _page(HTTPStatus.GONE, _ANSWERED)
        if question.waiting and not await anyio.to_thread.run_sync(_is_wanted, list(question.waiting.values()), limiter=self._limiter):
            return _page(HTTPStatus.NOT_FOUND, _NOTHING)
        return question

    async def _show(self, request: Request) -> Response:
        found = await self._found(request)
        if isinstance(found, Response):
            return found
        form = (
            f'<form method="post"><input type="hidden" name="key" value="{found.form_key}">'
            '<button name="answer" value="yes">Approve</button> <button name="answer" value="no">Refuse</button></form>'
        )
        return _page(HTTPStatus.OK, found.text, form)

    async def _take(self, request: Request) -> Response:
        found = await self._found(request)
        if isinstance(found, Response):
            return found
        if not _is_own(request.headers, self._host):
            return _page(HTTPStatus.FORBIDDEN, "This was sent by another page.")
        form = await _form(request)
        key, said = form.get("key", [""]), form.get("answer", [""])
        if not (len(key) == len(said) == 1 and compare_digest(key[0].encode(), found.form_key.encode()) and said[0] in ("yes", "no")):
            return _page(HTTPStatus.FORBIDDEN, "This is not the form of this page.")
        # Meanwhile it can have been answered, or withdrawn; from here on nothing is waited for.
        if self._questions.get(request.path_params["name"]) is not found:
            return _page(HTTPStatus.NOT_FOUND, _NOTHING)
        if found.yes is not None:
            return _page(HTTPStatus.GONE, _ANSWERED)
        found.yes, found.until = said[0] == "yes", anyio.current_time() + self._seconds
        found.answered.set()
        kept = f"within {self._seconds / 60:g} minutes, and while this server runs, unless the approval is not needed any more"
        told = f"You approved. It is recorded when your assistant goes on: {kept}." if found.yes else "You refused. Nothing is approved."
        return _page(HTTPStatus.OK, f"{told} You can close this page.")


def _is_wanted(waiting: Iterable[Callable[[], bool]]) -> bool:
    return any(wanted() for wanted in waiting)


def _is_own(headers: Mapping[str, str], host: str) -> bool:
    """Whether a form was sent by a page of this host: browsers say `null` for pages without referrer, programs may say nothing."""
    site = headers.get("sec-fetch-site", "same-origin")
    return headers.get("origin", "null") in ("null", f"http://{host}") and site == "same-origin"


async def _form(request: Request) -> dict[str, list[str]]:
    """The fields of a form, none for what is larger than ours or none."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MOST_FORM_BYTES:
                return {}
    except ClientDisconnect:
        return {}
    try:
        return parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=10)
    except ValueError:
        return {}


def _page(status: HTTPStatus, text: str, form: str = "") -> HTMLResponse:
    document = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>nexus-attest</title><pre>{escape(text)}</pre>{form}</html>'
    return HTMLResponse(document, status, _HEADERS)
