"""The command line in processes of its own, each with a home, a store and a configuration that belong to one test."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ADAPTER", "ROOT", "CommandLine", "program", "without_root_powers"]

ROOT = Path(__file__).resolve().parent.parent

ADAPTER = "subprocess:tool"

_PROGRAM = """\
import json, os, sys, time
from pathlib import Path
with open({ran!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
{body}
print(json.dumps({{"done": True}}))
"""


@dataclass
class CommandLine:
    """`run` starts `python -m nexus_attest`; the store is `folder/decisions.db`, the actor alice unless the test says otherwise."""

    folder: Path
    actor: str | None = "alice"
    extra: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def db(self) -> Path:
        return self.folder / "decisions.db"

    @property
    def env(self) -> dict[str, str]:
        found = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
            "NEXUS_ATTEST_DB": str(self.db),
            **self.extra,
        }
        if self.actor is not None:
            found["NEXUS_ATTEST_ACTOR"] = self.actor
        return found

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-W", "error", "-m", "nexus_attest", *arguments]

    def run(self, *arguments: str, stdin: str | bytes = "", prefix: tuple[str, ...] = ()) -> "Ended":
        done = subprocess.run(
            [*prefix, *self.argv(*arguments)],
            env=self.env,
            cwd=self.folder,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def without(self, streams: str, *arguments: str, program: str = "nexus_attest") -> "Ended":
        """How a command ends that a shell starts with these redirections, such as `>&-`, and what it printed elsewhere."""
        argv = [sys.executable, "-W", "error", "-m", program, *arguments]
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {streams}', "sh", *argv],
            env=self.env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.argv(*arguments), env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The one JSON document of a command that ends with `code`."""
        ended = self.run(*arguments, "--json")
        assert ended.code == code, ended
        return ended.document

    def approved(self, *options: str) -> str:
        """The id of a new decision that may be applied through `program`."""
        plan = '[{"tool": "t", "method": "m"}]'
        request_id = self.json("request", "Run the tool", "--mode", "apply", "--plan", plan, *options)["request_id"]
        self.json("approve", request_id)
        return request_id


@dataclass(frozen=True)
class Ended:
    """How a process ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as exactly one JSON object."""
        value: dict[str, Any] = json.loads(self.out)
        assert type(value) is dict
        return value


def program(folder: Path, body: str = "") -> Path:
    """An adapter file in `folder` with one program. Each run of it appends its process id to the file `ran`, then does `body`."""
    (folder / "tool.py").write_text(_PROGRAM.format(ran=str(folder / "ran"), body=body))
    path = folder / "adapters.toml"
    command = json.dumps([sys.executable, "tool.py"])
    path.write_text(f'[[adapters]]\nid = "{ADAPTER}"\nkind = "subprocess"\ncommand = {command}\nallow = ["t/m"]\ntimeout_s = 60\n')
    return path


def without_root_powers() -> tuple[str, ...] | None:
    """What to put before a command so that file permissions bind it, as root too; None where that cannot be done."""
    if os.geteuid() != 0:
        return ()
    # prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE or CAP_DAC_READ_SEARCH): gone for the program that is executed next.
    drop = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "sys.exit(99) if libc.prctl(24, 1, 0, 0, 0) or libc.prctl(24, 2, 0, 0, 0) else os.execv(sys.argv[1], sys.argv[1:])"
    )
    prefix = (sys.executable, "-c", drop)
    return prefix if subprocess.run([*prefix, shlex.split("/bin/true")[0]], check=False).returncode == 0 else None
