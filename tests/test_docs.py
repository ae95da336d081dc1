"""The code of README.md and QUICKSTART.md runs as printed.

All blocks of a file run in order in one empty folder. ```python blocks share one namespace; what they print must be what their `#=>`
comments say, line by line, and blocks with `>>>` are doctests. Of ```console and ```bash blocks each `$ ` line runs in a bash of its own,
with the commands of this environment first on PATH; output that is shown must match (`...` stands for anything). An HTML comment
right above a block changes that: `<!-- exit: 2 -->` expects that exit code, `<!-- not executed: reason -->` is for the two commands
that build the environment these tests run in.
"""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "QUICKSTART.md", "docs/adapters.md", "docs/operations.md")

INERT = {"ini", "json", "mermaid", "text", "toml", "yaml"}
"""Languages of blocks that show something and run nothing."""

BUILD_COMMANDS = {"make demo", "make test"}
BLOCK = re.compile(r"^(?:<!-- *(?P<note>.*?) *-->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (?P<command>(?:.*\\\n)*.*)\n?(?P<output>(?:(?!\$ ).*\n?)*)", re.MULTILINE)
OUTPUT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """A fenced block, with the text of the comment above it ("" without one); `line` is that of its first line in the file."""

    path: Path
    line: int
    language: str
    note: str
    text: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a Markdown file, in order."""
    text = path.read_text(encoding="utf-8")
    found = [Block(path, text.count("\n", 0, m.start("text")) + 1, m["language"], m["note"] or "", m["text"]) for m in BLOCK.finditer(text)]
    assert len(re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)) == 2 * len(found), f"{path.name}: a fence is open, nested or indented"
    return found


def run(path: Path) -> None:
    """Execute a document in the current folder; AssertionError, or what its code raises, where it does not do what it says."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path):
        where = f"{path.name}:{block.line}"
        if block.note.startswith("not executed"):
            check_build_commands(block, where)
        elif block.language == "python":
            run_python(block, namespace, where)
        elif block.language in ("bash", "console"):
            run_commands(block, where)
        else:
            assert block.language in INERT, f"{where}: what is a {block.language!r} block?"


def check_build_commands(block: Block, where: str) -> None:
    """Only commands that cannot run inside the tests, and that the Makefile has, may be left out."""
    assert re.fullmatch(r"not executed: \S.*", block.note), f"{where}: give a reason"
    commands = {line.removeprefix("$ ").partition("#")[0].strip() for line in block.text.splitlines()}
    assert commands <= BUILD_COMMANDS, f"{where}: only {sorted(BUILD_COMMANDS)} may go unexecuted"
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {command.removeprefix("make ") for command in commands} <= targets, f"{where}: no such target in the Makefile"


def run_python(block: Block, namespace: dict[str, Any], where: str) -> None:
    """Run one block; tracebacks show the lines of the document."""
    if ">>> " in block.text:
        example = doctest.DocTestParser().get_doctest(block.text, namespace, where, str(block.path), block.line - 1)
        report = io.StringIO()
        failed = doctest.DocTestRunner(verbose=False, optionflags=OUTPUT).run(example, out=report.write, clear_globs=False).failed
        assert not failed, report.getvalue()
        namespace.update(example.globs)
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * (block.line - 1) + block.text, str(block.path), "exec"), namespace)
    if promised := re.findall(r"# ?=> ?(.*)", block.text):
        assert printed.getvalue().splitlines() == promised, where


def run_commands(block: Block, where: str) -> None:
    """Run each `$ ` line of one block."""
    note = re.fullmatch(r"exit: (\d+)", block.note) if block.note else None
    assert note or not block.note, f"{where}: what does {block.note!r} mean?"
    assert block.text.startswith("$ "), f"{where}: a command starts with '$ '"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}
    for match in COMMAND.finditer(block.text):
        done = subprocess.run(
            ["bash", "-c", match["command"]],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=250,
            check=False,
        )
        told = f"{where}: $ {match['command']}\n{done.stdout}"
        assert done.returncode == int(note[1] if note else 0), f"exit code {done.returncode}: {told}"
        assert not match["output"].strip() or doctest.OutputChecker().check_output(match["output"], done.stdout, OUTPUT), told


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_does_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(ROOT / name)


GOOD = """\
```python
x = 6 * 7
print(x)  #=> 42
```
```python
>>> x + 1
43
```
```console
$ echo one; echo two
one
...
$ test -n "$PATH" && \\
    true
```
<!-- exit: 3 -->
```bash
$ exit 3
```
<!-- not executed: it builds the environment that this runs in -->
```console
$ make demo
$ make test   # everything
```
```json
{}
```
"""


def test_these_rules_accept_what_is_right(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text(GOOD, encoding="utf-8")
    assert [block.line for block in blocks(tmp_path / "good.md")] == [2, 6, 10, 18, 22, 26]
    run(tmp_path / "good.md")


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(1)  #=> 2\n```\n",
        "```python\n#=> 2\n```\n",
        "```python\n>>> 1\n2\n```\n",
        "```python\nassert False\n```\n",
        "```console\n$ false\n```\n",
        "```console\n$ false\n$ true\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        "```console\necho one\n```\n",
        "<!-- exit: 2 -->\n```console\n$ true\n```\n",
        "<!-- exit two -->\n```console\n$ true\n```\n",
        "<!-- not executed: -->\n```console\n$ make demo\n```\n",
        "<!-- not executed: slow -->\n```console\n$ make coffee\n```\n",
        "<!-- not executed: slow -->\n```console\n$ rm -rf /\n```\n",
        "```py\nassert False\n```\n",
        "- indented\n\n  ```python\n  assert False\n  ```\n",
        "```python\nopen fence\n",
    ],
)
def test_these_rules_refuse_what_is_wrong(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad.md").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError):
        run(tmp_path / "bad.md")
