"""Files from outside end, or are refused."""

import os
import socket
from pathlib import Path

import pytest

from nexus_control.errors import FileRefused
from nexus_control.files import MAX_FILE_BYTES, read_file


def test_a_file_is_read_whole_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\0\xff\r\n" * 2)
    assert read_file(path, 8) == b"\0\xff\r\n\0\xff\r\n"
    with pytest.raises(FileRefused, match="more than 7 bytes"):
        read_file(path, 7)
    path.write_bytes(b"")
    assert read_file(path, 0) == b""


def test_the_limit_for_documents_is_256_mebibytes(tmp_path: Path) -> None:
    assert MAX_FILE_BYTES == 268_435_456
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: it takes no place
    with pytest.raises(FileRefused, match="more than 268435456 bytes"):
        read_file(tmp_path / "huge")


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link") == b"content"


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(FileRefused, match="is no regular file"):
            read_file(path)
    with pytest.raises(FileRefused, match="is a directory"):
        read_file(tmp_path)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(FileRefused, match="is no regular file"):
            read_file(Path("socket"))


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"content")
    regular = (tmp_path / "file").stat()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(Path, "stat", lambda _path: regular)  # type: ignore[misc]
    with pytest.raises(FileRefused, match="is no regular file"):
        read_file(tmp_path / "pipe")


def test_a_file_that_is_not_there_or_has_an_impossible_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileRefused, match=r"there is no file .*nowhere"):
        read_file(tmp_path / "nowhere")
    with pytest.raises(FileRefused, match="is no name of a file"):
        read_file(Path("a\0b"))
    with pytest.raises(FileRefused, match="cannot be read: "):
        read_file(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileRefused, match="cannot be read: "):
        read_file(tmp_path / "loop")
