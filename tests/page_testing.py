"""A service with an approval page, and a person who answers on it."""

import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx

from nexus_attest.server.http import serve_app
from nexus_attest.server.humans import HumanAsker
from nexus_attest.server.page import ApprovalPage
from nexus_attest.server.service import Service

__all__ = ["PAGE", "answered", "form_of", "with_page"]

PAGE = ("--human-approval", "always", "--approval-page")
"""Options of a server process with a page."""


@asynccontextmanager
async def with_page(service: Service) -> AsyncGenerator[None]:
    """The same for a service in this process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        page = ApprovalPage(listener)
        service.asker = HumanAsker(tools=service.tools, limiter=service.store_threads, systems=True, page=page)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_app, page.app, listener)
            yield
            tasks.cancel_scope.cancel()


def form_of(text: str) -> dict[str, str]:
    """The hidden fields of a page's form."""
    return dict(re.findall(r'<input type="hidden" name="([a-z]+)" value="([^"]+)">', text))


def answered(url: str, said: str) -> None:
    """What a person does in a browser."""
    form = form_of(httpx.get(url).text)
    assert httpx.post(url, data={**form, "answer": said}, headers={"origin": "null", "sec-fetch-site": "same-origin"}).status_code == 200
