"""Files from outside, read whole within a limit.

Regular files only: a pipe or a device may never end, and opening one can block or have effects of its own, so it is refused unopened.
"""

import os
import stat
from pathlib import Path

from nexus_control.errors import FileRefused

__all__ = ["MAX_FILE_BYTES", "read_file"]

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Nothing larger is read: parsed JSON takes several times its size in memory."""


def read_file(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The content of a regular file. Raises FileRefused for anything else, for more than `limit` bytes, and when it cannot be read."""
    if "\0" in str(path):
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


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused(f"{path} is {'a directory' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
