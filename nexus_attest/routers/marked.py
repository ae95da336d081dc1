"""Processes that are found by a mark: a variable in their environment, which children inherit wherever they go.

A process may leave its group (`setsid`) and its parent (fork twice), and is still found. One that also replaces its environment is not.
Linux only, through /proc; elsewhere nothing is found, and process groups have to do.

As a program, `python -I -S marked.py MARK [FOLDER]`, this waits until its standard input is closed, which the system does however the
process at the other end came to die. Then it ends what carries the mark and removes the folder. It must not import anything of ours.
"""

import os
import signal
import sys
import time

__all__ = ["VARIABLE", "end_marked"]

VARIABLE = "NEXUS_SESSION"

_SECONDS = 2.0
"""How long to go on killing what does not disappear."""

_PAUSE_SECONDS = 0.002


def end_marked(mark: str, *, newer_than: int | None = None, patience: float = 0.0) -> None:
    """Kill every process with this mark, until none is found.

    `newer_than` is the number of the first process that got the mark, if that was a moment ago: only later ones are looked at, which
    makes the usual case, that there are none, cost next to nothing. `patience` is for how many seconds to go on looking all the same:
    a process that was just forked carries the mark only when its own program has begun.
    """
    if sys.platform != "linux":
        return
    sought = f"{VARIABLE}={mark}".encode()
    began = time.monotonic()
    while time.monotonic() - began < _SECONDS:
        found = [pid for pid in _candidates(newer_than) if _end(pid, sought)]
        if not found and time.monotonic() - began >= patience:
            return
        time.sleep(_PAUSE_SECONDS)


def _candidates(newer_than: int | None) -> "list[int] | range":
    try:
        if newer_than is not None:
            with open("/proc/loadavg", encoding="ascii") as file:  # noqa: PTH123 - pathlib takes longer to import than all this
                newest = int(file.read().split()[-1])
            if newest >= newer_than:  # numbers are given in turn; otherwise they began anew
                return range(newer_than + 1, newest + 1)
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 - as above
    except OSError:  # no /proc here
        return []


def _end(pid: int, sought: bytes) -> bool:
    """Whether the process carries the mark; if so, it was killed. One that took over its number in between was not."""
    try:
        held = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    except OSError:
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - as above
            if sought not in file.read().split(b"\0"):
                return False
        if held >= 0:
            signal.pidfd_send_signal(held, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except OSError:  # it is gone, or another user's
        return False
    finally:
        if held >= 0:
            os.close(held)
    return True


def _watch(mark: str, folder: str | None) -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever ends everything else here leaves the end of the tools to this
    while os.read(0, 1):
        pass
    end_marked(mark, patience=1.0)
    if folder is not None:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _watch(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
