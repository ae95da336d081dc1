"""A file that is made to exhaust its reader is refused by name, within a bounded part of the memory, by both programs that verify files."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_testing import environment, quick_folder

import nexus_attest
import nexus_control
from nexus_control import json_data
from nexus_control.errors import MalformedBundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is the kernel's")

SIZE = 200_000_000
LIMIT = 1_000_000_000
"""Bytes of address space: what the interpreter and its libraries take, and some four times the largest file here. A text with a character
outside of the first plane takes four bytes for each, more than that: it is refused by name as well.
"""

_LIMITED = """\
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
del sys.argv[0], sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

CASE = b'{"case_version": "1", "extensions": '
FILES = {
    "10,000 lists": (b"[" * 10_000, b"", b"]" * 10_000),
    "10,000 objects in a case file": (CASE + b'{"a": ' * 10_000, b"", b"1" + b"}" * 10_000 + b"}"),
    "10,000 lists without an end": (b"[" * 10_000, b"", b""),
    "200 MB of lists": (b"", b"[],", b""),
    "200 MB of one text": (CASE + b'"', b"x", b'"}'),
    "200 MB of one number": (CASE, b"1", b"}"),
    "200 MB of one wide text": (CASE + b'"' + "\U0001f511".encode(), b"x", b'"}'),
}
"""The beginning of each, what fills it up to its size, and its end."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.mark.parametrize("program", [nexus_control.__name__, nexus_attest.__name__])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_deep_or_huge_is_refused_in_little_memory(folder: Path, name: str, program: str) -> None:
    path = folder / "file.json"
    begin, filling, end = FILES[name]
    with path.open("wb") as file:
        file.write(begin)
        if name.startswith("200 MB"):
            for _ in range(200):
                file.write(filling * (SIZE // 200 // len(filling)))
        file.write(end)
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(LIMIT), program, "verify", str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr, done.stderr
    assert "FAIL" in done.stdout, done
    path.unlink()


@pytest.mark.parametrize("text", ["{}", b"{}"])
def test_what_there_is_no_memory_for_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    def decode(_: str) -> None:
        raise MemoryError

    monkeypatch.setattr(json_data, "decode_json", decode)
    with pytest.raises(MalformedBundle, match="too large for the memory"):
        json_data.parse_json(text)


def test_a_reader_that_needed_more_would_be_noticed(folder: Path) -> None:
    (folder / "greedy.py").write_text("bytearray(1_000_000_000)")
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(LIMIT), "greedy"], cwd=folder, capture_output=True, text=True, check=False, timeout=200
    )
    assert (done.returncode, "MemoryError" in done.stderr) == (1, True)
