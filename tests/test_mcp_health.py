"""Health of a server on HTTP: told to anybody, and nothing but that."""

import asyncio
import json
import os
import threading
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

import anyio.to_thread
import httpx
import pytest
from mcp_testing import http_server
from starlette.applications import Starlette

from nexus_attest.server.health import LIVE_PATH, READY_PATH, health_routes
from nexus_control.errors import StoreUnreadable


def get(url: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read(), dict(refused.headers)


def test_a_server_lives_and_is_ready_without_a_token_and_says_no_more(tmp_path: Path) -> None:
    with http_server(tmp_path) as (url, _):
        base = url.removesuffix("/mcp")
        for path in (LIVE_PATH, READY_PATH):
            status, body, headers = get(base + path)
            assert (status, json.loads(body)) == (200, {"status": "ok"})
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers
        assert get(base + "/healthz/more")[0] == 404
        (store,) = tmp_path.rglob("*.db")
        os.replace(store, tmp_path / "elsewhere")  # noqa: PTH105
        time.sleep(1.1)
        status, body, _ = get(base + READY_PATH)
        assert (status, json.loads(body)) == (503, {"status": "unavailable"})
        assert get(base + LIVE_PATH)[0] == 200


class Store:
    def __init__(self) -> None:
        self.reads = 0
        self.fails = False
        self.answers = threading.Event()
        self.answers.set()

    def read(self) -> None:
        self.reads += 1
        self.answers.wait(60)
        if self.fails:
            raise StoreUnreadable("path /var/secret.db is damaged")


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def ask(app: Starlette, path: str = READY_PATH, method: str = "GET") -> tuple[int, bytes]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        answer = await client.request(method, path)
        return answer.status_code, answer.content


def test_the_store_is_looked_at_once_a_second_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_attest.server.health._PATIENCE_SECONDS", 60.0)
    store, clock = Store(), Time()
    app = Starlette(routes=health_routes(store.read, clock=clock))

    async def work() -> None:
        assert {status for status, _ in await asyncio.gather(*(ask(app) for _ in range(50)))} == {200}
        assert store.reads == 1
        store.fails = True
        clock.now += 0.9
        assert await ask(app) == (200, b'{"status":"ok"}')
        clock.now += 0.2
        assert await ask(app) == (503, b'{"status":"unavailable"}')
        assert await ask(app, LIVE_PATH) == (200, b'{"status":"ok"}')
        store.fails = False
        clock.now += 1.0
        assert (await ask(app))[0] == 200
        assert store.reads == 3

    asyncio.run(work())


def test_a_store_that_hangs_is_told_and_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_attest.server.health._PATIENCE_SECONDS", 0.3)
    store = Store()
    store.answers.clear()
    app = Starlette(routes=health_routes(store.read))

    async def work() -> None:
        assert [status for status, _ in await asyncio.gather(*(ask(app) for _ in range(5)))] == [503] * 5
        assert (await ask(app, LIVE_PATH))[0] == 200
        assert store.reads == 1  # which still hangs, and no further thread with it
        store.answers.set()
        while (await ask(app))[0] != 200:
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(work(), 30))


def test_a_look_that_found_no_thread_in_time_does_not_forbid_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_attest.server.health._PATIENCE_SECONDS", 0.3)
    store = Store()
    app = Starlette(routes=health_routes(store.read))

    async def work() -> None:
        threads = anyio.to_thread.current_default_thread_limiter()
        threads.total_tokens, before = 0, threads.total_tokens
        assert (await ask(app))[0] == 503
        threads.total_tokens = before
        while (await ask(app))[0] != 200:
            await asyncio.sleep(0.05)

    asyncio.run(asyncio.wait_for(work(), 30))
    assert store.reads == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_health_is_only_read(method: str) -> None:
    app = Starlette(routes=health_routes(Store().read))
    assert asyncio.run(ask(app, LIVE_PATH, method))[0] == HTTPStatus.METHOD_NOT_ALLOWED
    assert asyncio.run(ask(app, READY_PATH, "HEAD"))[0] == 200
