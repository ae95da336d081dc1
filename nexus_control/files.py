"""Files from outside, read whole within a limit; files of ours, written whole or not at all.

Read are regular files only: a pipe or a device may never end, and opening one can block or have effects of its own, so it is refused
unopened.
"""

import errno
import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

from nexus_control.errors import FileRefused

__all__ = ["MAX_FILE_BYTES", "give_name", "is_file_name", "read_file", "read_input", "sync_folder", "write_file"]

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Nothing larger is read: parsed JSON takes several times its size in memory."""


def is_file_name(text: str) -> bool:
    """Whether a file could be called so: not empty, no NUL, and nothing that the system's encoding of names cannot express."""
    try:
        return "\0" not in text and bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def read_file(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The content of a regular file. Raises FileRefused for anything else, for more than `limit` bytes, and when it cannot be read."""
    if not is_file_name(str(path)):
        raise FileRefused(f"{str(path)!r:.300} is no name of a file")
    try:
        _require_regular(path, path.stat())
        # Something else may stand there by now: without O_NONBLOCK the opening of a pipe would wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            _require_regular(path, os.fstat(descriptor))
            content = file.read(limit + 1) or b""  # None where the kernel has nothing yet, in files of /proc
    except FileNotFoundError:
        raise FileRefused(f"there is no file {path}") from None
    except OSError as error:
        raise FileRefused(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise FileRefused(f"{path} has more than {limit} bytes, the most that is read")
    return content


def read_input(limit: int = MAX_FILE_BYTES) -> bytes:
    """All of standard input. Raises FileRefused for more than `limit` bytes, and when it is closed or cannot be read.

    Text that a program put in its place (`io.StringIO`) is taken as UTF-8; what that cannot express becomes bytes that are no UTF-8.
    """
    # None in a process that was started without one.
    if sys.stdin is None or sys.stdin.closed:  # pyright: ignore[reportUnnecessaryComparison]
        raise FileRefused("standard input is closed")
    try:
        if hasattr(sys.stdin, "buffer"):
            content = sys.stdin.buffer.read(limit + 1)
        else:
            content = sys.stdin.read(limit + 1).encode("utf-8", "surrogatepass")
    except OSError as error:
        raise FileRefused(f"standard input cannot be read: {error.strerror}") from None
    if len(content) > limit:
        raise FileRefused(f"standard input has more than {limit} bytes, the most that is read")
    return content


def write_file(path: Path, content: bytes, *, replace: bool, mode: int = 0o666) -> None:
    """Write a file so that it is there completely, also after a crash or a loss of power, or not at all.

    `mode` is what the umask leaves of it, from the first byte on. Raises FileExistsError when there is one and `replace` is off, and
    OSError when it cannot be written. A process that is killed here may leave a hidden file `.<random>.tmp` beside it.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            temporary.replace(path)
        else:
            give_name(temporary, path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None  # nobody knows the temporary name
    finally:
        with suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


def give_name(temporary: Path, path: Path) -> None:
    """Give a file that was written under another name its own, unless that is taken: FileExistsError. `temporary` may be left, too."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(path):  # a file system without links cannot say this in the same step
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can do that: what was just made, moved or removed there. Raises OSError."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused(f"{path} is {'a directory' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
