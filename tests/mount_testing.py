"""Small disks that are really full or read-only: file systems in memory, which only one process and its children see."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_testing import in_process

__all__ = ["REQUIRED", "fill", "make_read_only", "on_a_disk_of_its_own"]

REQUIRED = "NEXUS_ATTEST_REQUIRE_MOUNTS"
"""Set to 1, as the build does, a system where no disk can be mounted is a failure."""

_REQUIRED = os.environ.get(REQUIRED) == "1"
"""Read when this is imported: within tests, variables of this project are not set."""

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # unshare(2)
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 32, 16384, 1 << 18  # mount(2)


def _mount(target: Path, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", flags, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


def _own_mounts() -> None:
    """From here on this process may mount what only it and its children see."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS | (_NEW_USER if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:  # who stays who they are: as root no server of PostgreSQL would run
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    if libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None):
        raise OSError(ctypes.get_errno(), "mount")


def on_a_disk_of_its_own(place: Path, size: str, work: Callable[[Path], object]) -> None:
    """Do `work` in a process that has a small disk at `place`. Where nobody may mount one it skips the test, or fails it (`REQUIRED`)."""

    def mounted() -> int:
        try:
            _own_mounts()
            _mount(place, 0, f"size={size}")
        except OSError as problem:
            print(problem, flush=True)
            return 77
        os.chdir(place)
        work(place)
        print("done", flush=True)
        return 0

    ended = in_process(place, mounted)
    if ended.code == 77:
        reason = f"no disk can be mounted here: {ended.out}"
        if _REQUIRED:
            pytest.fail(f"{REQUIRED} is set, but {reason}")
        pytest.skip(reason)
    assert (ended.code, ended.out) == (0, "done\n"), ended.err


def make_read_only(disk: Path) -> None:
    """From here on nobody writes to the disk of this process."""
    _mount(disk, _REMOUNT | _READ_ONLY, "")


def fill(folder: Path) -> Path:
    """Take all the space that is left; the file that has it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path
