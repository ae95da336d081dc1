"""The guardian of one session, a program of its own: it starts the session's processes, and sees to the end of them and all they started.

    python -I -S guardian.py HOST FOLDER      HOST is the number of the process that started it; standard input is a socket to it

It is a subreaper (prctl(2), PR_SET_CHILD_SUBREAPER): a process whose parent has ended becomes its child, whatever group, session and
environment that process has given itself. So everything that came of what it started is found by asking for its children until there
are none, and nothing else is among them. A number of a child is nobody else's before the guardian has reaped it.

When its host ends, in whatever way, the guardian ends what is left and removes the folder. It looks at the host itself (pidfd_open(2)), for
what the host has forked keeps the socket open. Linux only; it must not import anything of ours.

    host says       S<length> marshal((argv, env, cwd)), with three descriptors    E    end everything
    guardian says   r0 ready    p<number> started    e<errno> cannot be started
                    x0 it has ended by itself    d<code> everything has ended; -256 for a code that nobody knows
"""

import _socket  # socket takes as long
import ctypes
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import NoReturn
else:
    import _signal as signal  # without the enumerations, which take longer to import than all the rest

__all__ = ["FRAME_BYTES", "NO_CODE", "main"]

FRAME_BYTES = 5
"""A letter and a number of 32 bits, lowest byte first."""

NO_CODE = -256

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_SECONDS = 2.0
"""How long to go on killing what does not disappear."""

_PAUSE_SECONDS = 0.001

_IGNORED = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGTERM") if hasattr(signal, name))  # read on Windows too
"""Whoever ends everything else here leaves the end of the tools to this."""


class _Gone(Exception):
    """The host has ended, or says what it never would."""


class _Guardian:
    def __init__(self, control: "_socket.socket", host: int, prctl: "Callable[..., int]") -> None:
        self._control = control
        self._prctl = prctl
        self._number = 0
        self._code: int | None = None
        self._told = False
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._host = os.pidfd_open(host)
        self._alive = os.getppid() == host  # otherwise it ended before, and its number may be another's by now
        self._poll.register(self._host, select.POLLIN)
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, _awake)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll.register(self._wake, select.POLLIN)

    def serve(self) -> None:
        """Do what the host says until it has gone: raises _Gone then."""
        if not self._alive:
            raise _Gone
        self._say(b"r", 0)
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll()]
            if self._host in ready:
                raise _Gone
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
                if self._code is not None and not self._told:
                    self._told = True
                    self._say(b"x", 0)
            if self._control.fileno() in ready:
                self._obey()

    def end_all(self) -> None:
        """Kill and reap children until there are none, or until something does not disappear."""
        until = time.monotonic() + _SECONDS
        while self._reap() and time.monotonic() < until:
            for child in _children():
                try:
                    os.kill(child, signal.SIGKILL)
                except PermissionError:  # it changed its user
                    continue
            time.sleep(_PAUSE_SECONDS)

    def _obey(self) -> None:
        message, ancillary, _, _ = self._control.recvmsg(1, 1024, _socket.MSG_CMSG_CLOEXEC)
        if message == b"S":
            descriptors = [
                int.from_bytes(data[at : at + 4], "little") for _, _, data in ancillary for at in range(0, len(data) // 4 * 4, 4)
            ]
            argv, env, cwd = marshal.loads(self._exactly(int.from_bytes(self._exactly(4), "little")))
            self._start(argv, env, cwd, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
        elif message == b"E":
            self.end_all()
            self._say(b"d", NO_CODE if self._code is None else self._code)
            self._number, self._code = 0, None
        else:
            raise _Gone

    def _start(self, argv: list[str], env: dict[str, str], cwd: str, descriptors: list[int]) -> None:
        try:
            told, tell = os.pipe()
            child = os.fork()
        except OSError as problem:  # too many files or processes
            self._say(b"e", problem.errno or 0)
            return
        if child == 0:
            self._become(argv, env, cwd, descriptors, tell)
        self._number, self._code, self._told = child, None, False
        os.close(tell)
        with open(told, "rb") as file:  # noqa: PTH123 - it is a descriptor
            problem = file.read()
        if problem:
            os.waitpid(child, 0)
            self._number = 0
            self._say(b"e", int(problem))
        else:
            self._say(b"p", child)

    def _become(self, argv: list[str], env: dict[str, str], cwd: str, descriptors: list[int], tell: int) -> "NoReturn":
        try:
            signal.set_wakeup_fd(-1)
            for number in (*_IGNORED, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # for the case that the guardian itself is killed
            for target, descriptor in enumerate(descriptors):
                os.dup2(descriptor, target)
            os.chdir(cwd)
            _execute(argv, env)
        except OSError as problem:
            os.write(tell, b"%d" % (problem.errno or 0))
        finally:
            os._exit(127)

    def _reap(self) -> bool:
        """Whether there are children left, none of them a zombie."""
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if child == 0:
                return True
            if child == self._number:
                self._code = os.waitstatus_to_exitcode(status)

    def _say(self, letter: bytes, number: int) -> None:
        try:
            self._control.sendall(letter + number.to_bytes(FRAME_BYTES - 1, "little", signed=True))
        except OSError:
            raise _Gone from None

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._control.recv(size - len(data))
            if not chunk:
                raise _Gone
            data += chunk
        return bytes(data)


def _awake(*_: object) -> None:
    """For a signal to have a handler; what it does is to write to the descriptor that is polled."""


def _execute(argv: list[str], env: dict[str, str]) -> "NoReturn":
    """As subprocess does it: found on the PATH of the program; of several reasons why not the first but that it is not there."""
    command = argv[0]
    places = [command] if "/" in command else [f"{place}/{command}" for place in os.get_exec_path(env)]
    problem: OSError | None = None
    missing = FileNotFoundError(2, "")
    for place in places:
        try:
            os.execve(place, argv, env)
        except (FileNotFoundError, NotADirectoryError) as absent:
            missing = absent
        except OSError as other:
            problem = problem or other
    raise problem or missing


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:  # noqa: PTH123 - pathlib takes long to import
            return [int(number) for number in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return [number for number in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _parent(number) == os.getpid()]  # noqa: PTH208


def _parent(number: int) -> int:
    try:
        with open(f"/proc/{number}/stat", "rb") as file:  # noqa: PTH123 - as above
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def main(host: int, folder: str) -> None:
    """Serve until the host has gone, and then end everything."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    if prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        return  # the host does without a guardian then
    guardian = _Guardian(_socket.socket(fileno=0), host, prctl)  # what fails here leaves everything to the host, the folder too
    try:
        guardian.serve()
    except _Gone:
        pass
    finally:
        guardian.end_all()
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
