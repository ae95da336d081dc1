"""An event loop in a thread of its own, for work that is waited for from synchronous code, in or outside another event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, TypeVar

from nexus_attest.routers.adapter import CallLimit
from nexus_attest.routers.errors import CallFailed, CallOutcome

__all__ = ["Background"]

T = TypeVar("T")

_TICK_SECONDS = 0.05
"""How often to look whether the run was cancelled."""

_UNWIND_SECONDS = 1.0
"""How long what is cancelled may take to end. It is not waited for beyond that: what it waits for may never come."""


class Background:
    """Started when it is made; `close` ends it and cancels what is left. Raises CallFailed with OS_ERROR where no thread is to be had."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as problem:
            self._loop.close()
            raise CallFailed("OS_ERROR", f"No thread for the calls: {problem}", outcome=CallOutcome.NOT_SENT) from None

    def run(self, work: Coroutine[Any, Any, T], limit: CallLimit, outcome: Callable[[], CallOutcome]) -> T:
        """The result of some work, or what it raised.

        Raises CallFailed with TIMEOUT or CANCELLED, and the outcome that then holds, when `limit` ends it. The limit is one for all of
        the work, however slowly it goes on. Whenever this raises the work has been cancelled.
        """
        # As `asyncio.run_coroutine_threadsafe`, with one lock where that has a future with several: every call waits here.
        under_way = threading.Lock()
        under_way.acquire()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(lambda _: under_way.release())

        def cancel() -> None:
            for task in tasks:  # one, since the loop does first what it was asked for first; none where we were stopped before we asked
                task.cancel()

        try:
            self._loop.call_soon_threadsafe(begin)
            while not under_way.acquire(timeout=min(_TICK_SECONDS, limit.remaining())):
                limit.require(outcome())
            if tasks[0].cancelled():  # not by us: the loop ends, which is no interruption of this thread
                raise CancelledError
            return tasks[0].result()
        finally:
            if not tasks or not tasks[0].done():
                try:
                    self._loop.call_soon_threadsafe(cancel)
                except RuntimeError:  # the loop has ended, and what it had begun with it
                    if not tasks:
                        work.close()

    def close(self) -> None:
        """Cancel all work and end the thread, in bounded time. Closing again does nothing."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it ended by itself between the two
                self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(2 * _UNWIND_SECONDS)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_UNWIND_SECONDS))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(asyncio.sleep(0))  # connections that were closed last are let go in the next turn
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()
