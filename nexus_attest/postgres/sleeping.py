"""Threads that wait for each other, and are not let down by one that is interrupted.

An interruption (KeyboardInterrupt, whatever a signal handler raises) may come between any two steps of a thread, also between doing
something for another one and waking it. So nobody sleeps for long: who was not woken looks whether it has been forgotten.
"""

import threading
from dataclasses import dataclass, field

__all__ = ["LOOK_SECONDS", "Sleeper"]

LOOK_SECONDS = 0.1
"""So long who was not woken sleeps at most, until it looks whether somebody who was interrupted forgot it."""


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class Sleeper:
    """A thread that may have to wait. `has_left`: it is gone, or interrupted, and does nothing more for others.

    `woken` is held until there is something to do; a bare lock, which costs a tenth of an event.
    """

    woken: threading.Lock = field(default_factory=_locked)
    has_left: bool = False

    def wake(self) -> None:
        """End its sleep, or the next one."""
        try:
            self.woken.release()
        except RuntimeError:  # it is awake
            return
