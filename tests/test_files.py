"""Files from outside end, or are refused; files of ours are whole, or not there."""

import errno
import io
import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from nexus_control.errors import FileRefused
from nexus_control.files import MAX_FILE_BYTES, read_file, read_input, write_file


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
    with pytest.raises(FileRefused, match=r"'\\ud800' is no name of a file"):
        read_file(Path("\ud800"))
    with pytest.raises(FileRefused, match="cannot be read: "):
        read_file(tmp_path / ("x" * 300))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(FileRefused, match="cannot be read: "):
        read_file(tmp_path / "loop")


def test_text_that_a_program_put_in_place_of_standard_input_is_read_as_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"goal": "\u00fc"}'))
    assert read_input() == b'{"goal": "\xc3\xbc"}'
    monkeypatch.setattr(sys, "stdin", io.StringIO("\u00fc\u00fc"))
    with pytest.raises(FileRefused, match="standard input has more than 3 bytes"):
        read_input(3)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ud800"))
    assert read_input() == b"\xed\xa0\x80"  # no UTF-8, for the parser of the document to refuse


def test_standard_input_that_was_closed_in_this_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (io.TextIOWrapper(io.BytesIO(b"text")), io.StringIO("text")):
        stream.close()
        monkeypatch.setattr(sys, "stdin", stream)
        with pytest.raises(FileRefused, match="standard input is closed"):
            read_input()


def test_a_file_is_made_once_or_replaced_when_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"one", replace=False, mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777, path.stat().st_nlink) == (b"one", 0o600, 1)
    with pytest.raises(FileExistsError, match="file"):
        write_file(path, b"two", replace=False)
    assert path.read_bytes() == b"one"
    write_file(path, b"three", replace=True)
    assert path.read_bytes() == b"three"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_dangling_link_is_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "link", b"content", replace=False)
    write_file(tmp_path / "link", b"content", replace=True)
    assert not (tmp_path / "link").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("at", ["write", "fsync", "link"])
def test_a_write_that_fails_leaves_no_file_and_names_the_one_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if at == "write":
        folder = tmp_path / "missing"
    else:
        folder = tmp_path
        monkeypatch.setattr(os, at, full)
    with pytest.raises(OSError, match="/file'"):
        write_file(folder / "file", b"content", replace=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links_gets_its_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write_file(tmp_path / "file", b"one", replace=False)
    with pytest.raises(FileExistsError):
        write_file(tmp_path / "file", b"two", replace=False)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"one")]


def test_the_name_is_synced_after_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    write_file(tmp_path / "file", b"content", replace=False)
    assert synced == ["file", "folder"]
