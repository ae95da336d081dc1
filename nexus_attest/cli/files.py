"""Files that are read whole within a limit, and written whole or not at all."""

import stat
from pathlib import Path

from nexus_attest.cli.errors import FileExists
from nexus_control import files
from nexus_control.errors import FileRefused

__all__ = ["STANDARD_STREAM", "read_file", "read_text", "refuse_existing", "write_file"]

STANDARD_STREAM = Path("-")
"""Stands for standard input or output."""


def read_file(path: Path, limit: int = files.MAX_FILE_BYTES) -> bytes:
    """The content of a regular file, or of standard input for `-`. Raises FileRefused, for more than `limit` bytes too."""
    return files.read_input(limit) if path == STANDARD_STREAM else files.read_file(path, limit)


def read_text(path: Path, limit: int = files.MAX_FILE_BYTES) -> str:
    """The same as UTF-8 text."""
    try:
        return read_file(path, limit).decode()
    except UnicodeDecodeError:
        raise FileRefused(f"{path} is not UTF-8 text") from None


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise FileExists unless `write_file` may make this file; FileRefused for what is there and is no file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise FileRefused(f"{path} exists and is no regular file; -o - writes to standard output")
    if not force:
        raise FileExists(f"{path} exists already")


def write_file(path: Path, content: bytes, *, force: bool) -> None:
    """Write a file so that it is there completely, also after a crash, or not at all.

    Raises FileExists when there is one and `force` is off, FileRefused for what is no regular file, OSError when it cannot be written.
    """
    refuse_existing(path, force=force)
    if not path.parent.is_dir():
        raise FileRefused(f"there is no folder {path.parent}")
    try:
        files.write_file(path, content, replace=force)
    except FileExistsError:  # made by somebody in this moment
        raise FileExists(f"{path} exists already") from None
