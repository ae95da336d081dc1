"""Signals that ask this process to end, as a request to its runs: heard at any moment, they tear nothing.

Python raises KeyboardInterrupt between any two instructions of the main thread: between the start of a tool and the note of its number,
or between the end of a run and its record. Inside of StopSignals a signal is only remembered, and a function is told; what that stops ends
by itself, on the record, and only then the exception comes.
"""

import _thread
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["StopSignals", "Terminated", "ctrl_c_deferred"]


class Terminated(SystemExit):
    """The process was told to end by a signal other than Ctrl-C; its exit code is 128 and the number of the signal, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number

    def __str__(self) -> str:
        return f"The executing process was ended by {signal.Signals(self.number).name}"


class StopSignals:
    """A context manager: inside of it Ctrl-C, SIGTERM and SIGHUP call `stop`, once, and raise when it is left.

        with RunEngine(adapters, db_path="runs.db") as router, StopSignals(router.stop):
            tools.execute(request_id, "subprocess:keytool", actor, router)

    `stop` is called in a thread of its own, at once; further signals change nothing. Leaving raises KeyboardInterrupt for Ctrl-C, else
    Terminated, in place of any other exception. Signals that are ignored stay so. Outside of the main thread, where Python handles no
    signals, all of this does nothing. Use it once.

    Entering raises RuntimeError when the system gives no more threads, and ValueError or OSError for a signal that cannot be handled; then
    every handler is as it was.
    """

    def __init__(self, stop: Callable[[], object], numbers: Iterable[int] | None = None) -> None:
        self.number: int | None = None
        """The signal that came first."""

        self._stop = stop
        self._numbers = _all() if numbers is None else tuple(numbers)
        self._before: dict[int, Any] = {}
        self._wake = _thread.allocate_lock()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # Before the first handler, because a handler cannot do without: `stop` must not run in one, for the instruction that is
            # interrupted may hold any lock, and at that moment there may be no thread to be had.
            self._wake.acquire()
            try:
                _thread.start_new_thread(self._wait, ())
                for number in self._numbers:
                    if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not set from Python, so not ours to replace
                        self._before[number] = signal.signal(number, self._heard)
            except BaseException:
                self._restore()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise Terminated(self.number)

    def _restore(self) -> None:
        # Ctrl-C, which was replaced first, comes last: from then on it may raise KeyboardInterrupt between any two instructions.
        for number, handler in reversed(self._before.items()):
            signal.signal(number, handler)
        if self.number is None and self._wake.locked():
            self._wake.release()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            if self._wake.locked():  # another signal may be heard within this handler
                self._wake.release()

    def _wait(self) -> None:
        self._wake.acquire()  # until a signal comes, or the end
        if self.number is not None:
            self._stop()


@contextmanager
def ctrl_c_deferred(stop: Callable[[], object]) -> Generator[None]:
    """The same for Ctrl-C alone, and only where it would raise KeyboardInterrupt: whoever handles it otherwise has other plans with it.

    Without a thread to be had Ctrl-C stays what it was.
    """
    with ExitStack() as deferred:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with suppress(RuntimeError):
                deferred.enter_context(StopSignals(stop, (signal.SIGINT,)))
        yield


def _all() -> tuple[int, ...]:
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one is not everywhere
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))
