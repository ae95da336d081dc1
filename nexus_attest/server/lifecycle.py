"""Start and end of a serving process.

Ctrl-C and SIGTERM end it at once: no new call begins, the programs of executions under way are stopped, what works on the store gets a
moment to commit, then the store is closed and the log written. Whoever holds a lock or does not read, waiting for them shares one deadline;
only the closing, which waits for the disk alone, and last lines that are read have one of their own. A call that works on the store for
longer keeps it open: the file is as sound without. An execution that cannot be recorded in that moment stays EXECUTING: `recover` is for
it.
"""

import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from nexus_attest.server.logs import StderrLog
from nexus_attest.server.service import Service

__all__ = ["run_until_signal"]

_SECONDS = 0.07
"""For what may have to wait for others: their locks, their reading. To close, and to take the process apart, needs the rest of a tenth."""

_CLOSING_SECONDS = 1.0
"""To close takes milliseconds; so long it may take on a machine that is busy, and no longer on a disk that hangs."""

_TICK_SECONDS = 0.002
_LAST_LINE_SECONDS = 0.005

_log = logging.getLogger("nexus_attest.server")


def run_until_signal(service: Service, serve: Callable[[], Awaitable[None]], log: StderrLog, close: Callable[[], None]) -> None:
    """Serve until the client leaves or a signal comes. After a signal the process is gone: 130 for Ctrl-C, 0 for SIGTERM."""
    anyio.run(_main, service, serve, log, close)
    close()


async def _main(service: Service, serve: Callable[[], Awaitable[None]], log: StderrLog, close: Callable[[], None]) -> None:
    async with anyio.create_task_group() as tasks:
        serving = anyio.CancelScope()
        tasks.start_soon(_leave_on_signal, service, serving, log, close)
        with serving:
            await serve()
        if not serving.cancel_called:
            tasks.cancel_scope.cancel()


async def _leave_on_signal(service: Service, serving: anyio.CancelScope, log: StderrLog, close: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for number in received:
            _log.info("stopping", extra={"facts": {"signal": number.name}})
            serving.cancel()
            service.stop_runs()
            end = anyio.current_time() + _SECONDS
            with anyio.CancelScope(deadline=end, shield=True):
                while service.store_threads.borrowed_tokens or service.run_threads.borrowed_tokens:
                    await anyio.sleep(_TICK_SECONDS)
            if not service.store_threads.borrowed_tokens and not service.run_threads.borrowed_tokens:
                # Which must not happen under a thread that uses the store; the file is as sound without. In a thread: it may wait.
                closing = threading.Thread(target=close, name="close", daemon=True)
                with suppress(RuntimeError):  # the system gives no more threads
                    closing.start()
                    closing.join(_CLOSING_SECONDS)
            log.flush(max(end - anyio.current_time(), _LAST_LINE_SECONDS))
            # A thread that runs an execution cannot be ended, and the interpreter would wait for it.
            os._exit(128 + number if number == signal.SIGINT else 0)
