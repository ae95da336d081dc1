"""A real PostgreSQL server that tests start, stop, kill and restart as they like.

It runs in a folder of its own, listens on a socket in that folder alone, and needs no password. PostgreSQL refuses to run as root, so
for root it runs as the user `postgres` or `nobody`. Where no server is installed these tests are skipped, or fail where they are required.
"""

import ctypes
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import pytest

REQUIRED = "NEXUS_ATTEST_REQUIRE_POSTGRES"
"""Set to 1, as the build does, a missing server is a failure."""

_REQUIRED = os.environ.get(REQUIRED) == "1"
_BINARIES = os.environ.get("NEXUS_ATTEST_POSTGRES_BIN", "")
"""Both read when this is imported: within tests, variables of this project are not set."""

_SETTINGS = """
listen_addresses = ''
max_connections = 200
shared_buffers = 64MB
# What these tests kill is the server, not the machine: what it wrote is in the system's memory.
fsync = off
full_page_writes = off
autovacuum = off
log_min_messages = warning
"""


class PostgresServer:
    """A server with the superuser `nexus`.

    `settings` are added to its configuration file. `data` is where it keeps everything, in its own folder unless it is given, and `initdb`
    what initdb is told besides; both may name places that were handed over (`hand_over`).
    """

    def __init__(self, settings: str = "", *, data: Path | None = None, initdb: Sequence[str] = ()) -> None:
        self._binaries = _installed()
        self._owner = _unprivileged()
        # Short, because the path of a socket is at most some 100 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="nexus-pg-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
        self._data = data or self.folder / "data"
        self._process: subprocess.Popen[Any] | None = None
        self._numbers = itertools.count(1)
        hand_over(self.folder)
        try:
            self._run("initdb", "-D", str(self._data), "-U", "nexus", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", *initdb)
            with (self._data / "postgresql.conf").open("a") as file:
                file.write(f"{_SETTINGS}unix_socket_directories = '{self.folder}'\n{settings}\n")
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- databases

    def address(self, database: str = "postgres", user: str = "nexus") -> str:
        """The address of a database, for `PostgresStore` and `--db`."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The address of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.psql(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.address(name)

    def drop(self, address: str) -> None:
        """Remove a database that `new_database` made, and end whatever is connected to it."""
        self.psql(f"DROP DATABASE {address.partition('@/')[2].partition('?')[0]} WITH (FORCE)")

    def psql(self, sql: str, address: str | None = None) -> str:
        """What psql prints for some SQL, unaligned and without headings. Fails when a statement does."""
        return self._run("psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-c", sql, address or self.address()).strip()

    def dump(self, address: str) -> str:
        """Tables, functions, triggers and rights of a database, as pg_dump writes them."""
        written = self._run("pg_dump", "--schema-only", address)
        return re.sub(r"(?m)^(\\(un)?restrict |--).*", "", written)

    # -- life

    @property
    def pid(self) -> int:
        """The process to signal: the postmaster."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            process: subprocess.Popen[Any] = subprocess.Popen(
                [self._binaries / "postgres", "-D", str(self._data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                start_new_session=True,  # Ctrl-C at the tests is not meant for it
                **self._owner,
            )
        self._process = process
        deadline = time.monotonic() + 60
        while subprocess.run([self._binaries / "pg_isready", "-q", "-h", str(self.folder)], check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks every connection and shuts down in order, SIGQUIT at once and with recovery at the next start."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(how)
            self._process.wait(120)
            self._process = None

    def kill(self) -> None:
        """End it and all its processes as a power failure would, without a word to anybody."""
        if self._process is not None:
            # Each of them is in a session of its own, and would outlive the postmaster long enough for a commit.
            os.kill(self.pid, signal.SIGSTOP)  # from now on it starts no more
            children = _children(self.pid)
            for process in (self.pid, *children):
                os.kill(process, signal.SIGKILL)
            self._process.wait(60)
            self._process = None
            self._forget_memory(children)

    def restart(self) -> None:
        """Stop in order and start again, with every connection broken."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove everything."""
        try:
            self.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _forget_memory(self, processes: list[int]) -> None:
        """Wait until no process of the killed server holds its shared memory; a new one refuses to start before."""
        deadline = time.monotonic() + 60
        while any(map(_is_alive, processes)):
            assert time.monotonic() < deadline, "a process of the server outlives its kill"
            time.sleep(0.001)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=120,
            check=False,
            **self._owner,
        )
        assert done.returncode == 0, f"{program}: {done.stderr[-2000:]}"
        return done.stdout


def require_server() -> None:
    """Skips the test where no server can run, or fails where one is required."""
    _installed()
    _unprivileged()


def hand_over(path: Path) -> None:
    """Give a file or folder to the user whom servers run as."""
    owner = _unprivileged()
    if "user" in owner:
        os.chown(path, owner["user"], owner["group"])


def _installed() -> Path:
    """The folder of the newest server's programs."""
    found = [Path(_BINARIES)] if _BINARIES else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if (program := shutil.which("postgres")) is not None:
        found.append(Path(program).parent)
    for folder in found:
        if all((folder / name).exists() for name in ("postgres", "initdb", "psql", "pg_isready")):
            return folder
    unavailable("there is no PostgreSQL server here (apt install postgresql); NEXUS_ATTEST_POSTGRES_BIN names the folder of another one")


def _version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", folder.parent.name)]


def _unprivileged() -> dict[str, Any]:
    """How a child process is started as somebody who may run a server."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    unavailable("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _children(pid: int) -> list[int]:
    """The processes that a process started and that have not been waited for, where the system tells (proc(5))."""
    told = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in told.read_text().split()] if told.exists() else []


def _is_alive(pid: int) -> bool:
    """Whether a process is more than an entry that nobody has reaped: that one holds no memory any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _end_with_parent() -> None:
    """Have the kernel stop the server when the tests die (PR_SET_PDEATHSIG of prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def unavailable(reason: str) -> NoReturn:
    """Skip the test that asked, or fail where PostgreSQL is required."""
    if _REQUIRED:
        pytest.fail(f"{REQUIRED} is set, but {reason}")
    pytest.skip(reason)


def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """The names of the statements of each message that batches of appends send from now on; the list grows with every message."""
    from nexus_attest.postgres import batch

    trips: list[list[bytes]] = []
    whole = batch.exchange

    def counted(raw: Any, sent: Any, *rest: Any) -> Any:
        trips.append([statement.name.removeprefix(b"nexus_") for statement, _ in sent])
        return whole(raw, sent, *rest)

    monkeypatch.setattr(batch, "exchange", counted)
    return trips
