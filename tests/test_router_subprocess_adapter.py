"""Real programs under limits: what they are given, what they may answer, and that nothing of them stays behind."""

import gc
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from router_testing import LimitAfter, adapter_file, call, ends_soon, is_running, shell_tool, step, written

from nexus_attest.routers import Adapter, CallFailed, CallIdentity, CallLimit, CallRefused, children, custody, load_adapters, marked
from nexus_attest.routers import guardian as guardian_module

FIFTY_MEGABYTES = 52_428_800

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, which every call must leave empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without what a guardian needs."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)


def failure(adapter: Adapter, limit: CallLimit | None = None) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        call(adapter, "keys", "rotate", {}, limit=limit)
    return caught.value


def python_tool(folder: Path, script: str, **keys: object) -> Adapter:
    (folder / "tool.py").write_text(script, encoding="utf-8")
    (adapter,) = load_adapters(adapter_file(folder, command=[sys.executable, "-S", "tool.py"], **keys))
    return adapter


# What a tool is given.


def test_a_tool_gets_the_call_as_arguments_and_the_args_in_a_private_file(tmp_path: Path) -> None:
    adapter = python_tool(
        tmp_path,
        """
import json, os, sys
path = sys.argv[5]
with open(path, "rb") as file:
    content = file.read()
modes = [oct(os.stat(p).st_mode & 0o7777) for p in (path, os.path.dirname(path))]
names = os.listdir(os.path.dirname(path))
print(json.dumps({"argv": sys.argv[1:5], "name": os.path.basename(path), "names": names, "modes": modes, "text": content.decode("ascii")}))
""",
    )
    found = call(adapter, "keys", "rotate", {"z": [1, 2.5, None], "\u00e9": "\U0001f600"})
    assert found["argv"] == ["call", "keys", "rotate", "--json-args-file"]
    assert found["text"] == '{"args":{"z":[1,2.5,null],"\\u00e9":"\\ud83d\\ude00"},"method":"rotate","tool":"keys"}\n'
    assert found["modes"] == ["0o600", "0o700"]
    assert found["name"].startswith("nexus-router-args-")
    assert found["name"].endswith(".json")
    assert found["names"] == [found["name"]]


@pytest.fixture
def input_of_the_host() -> Iterator[None]:
    """This process with something to read on its standard input, as a server that talks over it has."""
    reading, writing = os.pipe()
    os.write(writing, b"for the host alone")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    yield
    os.dup2(before, 0)
    os.close(before)
    os.close(reading)


@pytest.mark.usefixtures("input_of_the_host")
def test_standard_input_is_empty_and_the_hosts_is_not_touched(tmp_path: Path) -> None:
    adapter = shell_tool(tmp_path, 'printf \'{"bytes": %d}\' "$(wc -c)"')
    assert call(adapter, "a", "b") == {"bytes": 0}
    assert os.read(0, 100) == b"for the host alone"


ENVIRONMENT = """
import json, os
print(json.dumps({"env": dict(os.environ)}))
"""


def test_the_environment_is_the_documented_one_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KMS_REGION", "t0ken \u00e9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for tools")
    monkeypatch.setenv("NEXUS_EXECUTION_ID", "the host's own")
    adapter = python_tool(tmp_path, ENVIRONMENT, pass_env=["KMS_REGION"])
    found = call(adapter, "a", "b", {}, CallIdentity(run_id="run-1", step_id="sch\u00f6n", execution_id=None))
    found["env"].pop("LC_CTYPE", None)  # Python's own doing, PEP 538
    assert re.fullmatch(r"[0-9a-f]{32}", found["env"].pop("NEXUS_SESSION"))
    assert found["env"] == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "KMS_REGION": "t0ken \u00e9",
        "NEXUS_IDEMPOTENCY_KEY": "run-1/sch\u00f6n",
    }


def test_an_execution_id_is_passed_on_and_path_may_be_the_hosts(tmp_path: Path) -> None:
    adapter = python_tool(tmp_path, ENVIRONMENT, pass_env=["PATH"])
    environment = call(adapter, "a", "b", {}, CallIdentity(run_id="r", step_id="s", execution_id="evt_d_4"))["env"]
    assert (environment["NEXUS_EXECUTION_ID"], environment["PATH"]) == ("evt_d_4", os.environ["PATH"])


def test_the_working_directory_is_that_of_the_adapter_file_or_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir("/")
    where = 'printf \'{"cwd": "%s"}\' "$(pwd -P)"'
    assert call(shell_tool(tmp_path, where), "a", "b") == {"cwd": str(tmp_path.resolve())}
    (tmp_path / "inner" / "tool.sh").write_text(where)
    assert call(shell_tool(tmp_path, where, cwd="inner"), "a", "b") == {"cwd": str(tmp_path.resolve() / "inner")}


def test_nothing_is_interpreted_by_a_shell(tmp_path: Path) -> None:
    command = ["/bin/echo", '{"words": "$HOME; touch pwned `touch pwned` $(touch pwned)"}', "#"]
    (adapter,) = load_adapters(adapter_file(tmp_path, command=command))
    assert failure(adapter).code == "INVALID_JSON_OUTPUT"  # echo repeats the arguments of the call as well
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "name", ["--help", "-x", "", ".hidden", "a b", "a/b", "a\nb", "a\n", "a\0", "\u00e9", "a;b", "$(x)", "a" * 10 + "\u0661", "*"]
)
def test_a_name_that_could_be_read_as_something_else_is_refused(tmp_path: Path, name: str) -> None:
    adapter = shell_tool(tmp_path, "touch called; echo '{}'")
    for tool, method in ((name, "rotate"), ("keys", name)):
        with pytest.raises(CallRefused) as caught:
            adapter.check(step(tool, method))
        assert caught.value.code == "INVALID_NAME"
        with pytest.raises(CallRefused):
            call(adapter, tool, method, {})
    assert not (tmp_path / "called").exists()


def test_a_call_outside_the_allow_list_is_refused_when_called_as_well(tmp_path: Path) -> None:
    adapter = shell_tool(tmp_path, "touch called; echo '{}'", allow=["keys/list"])
    with pytest.raises(CallRefused, match="does not allow keys/rotate"):
        call(adapter, "keys", "rotate", {})
    assert not (tmp_path / "called").exists()


# What a tool may answer.


@pytest.mark.parametrize(
    ("printed", "output"),
    [
        ('{"a": 1.5, "b": [null, true], "c": {"\u00e9": "\U0001f600"}}', {"a": 1.5, "b": [None, True], "c": {"\u00e9": "\U0001f600"}}),
        ("{}", {}),
        ('\r\n\t {"a": 1} \n\n', {"a": 1}),
    ],
)
def test_one_json_object_is_the_output(tmp_path: Path, printed: str, output: dict[str, object]) -> None:
    (tmp_path / "answer").write_text(printed, encoding="utf-8")
    assert call(shell_tool(tmp_path, "cat answer; echo noise >&2"), "a", "b") == output


@pytest.mark.parametrize(
    ("printed", "problem"),
    [
        (b"", "Expecting value"),
        (b"   \n", "Expecting value"),
        (b"done", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b'{"a": 1}\n{"b": 2}', "Extra data"),
        (b'{"a": 1} ok', "Extra data"),
        (b"{'a': 1}", "Expecting property name"),
        (b"[1, 2]", "no object"),
        (b'"text"', "no object"),
        (b"42", "no object"),
        (b"null", "no object"),
        (b"true", "no object"),
        (b"NaN", "finite"),
        (b'{"a": NaN}', "finite"),
        (b'{"a": -Infinity}', "finite"),
        (b'{"a": 1e999}', "finite"),
        (b'{"a": 1, "a": 2}', "a duplicate key"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"a": "\xc0\xaf"}', "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": ' + b"[" * 101 + b"]" * 101 + b"}", "nested deeper"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "digits"),
        (b'{"a": "line\nfeed"}', "Invalid control character"),
        (b'{"a": 1}\0', "Extra data"),
    ],
)
def test_anything_else_is_no_output(tmp_path: Path, printed: bytes, problem: str) -> None:
    (tmp_path / "answer").write_bytes(printed)
    found = failure(shell_tool(tmp_path, "cat answer"))
    assert found.code == "INVALID_JSON_OUTPUT"
    assert problem in str(found)


def test_a_failed_command_is_a_failure_whatever_it_printed(tmp_path: Path) -> None:
    found = failure(shell_tool(tmp_path, "echo '{\"ok\": true}'; echo 'no such key' >&2; exit 7"))
    assert (found.code, str(found)) == ("NONZERO_EXIT", "Command exited with code 7: no such key")


def test_a_command_ended_by_a_signal_is_a_failure(tmp_path: Path) -> None:
    found = failure(shell_tool(tmp_path, "echo '{}'; kill -TERM $$; sleep 9"))
    assert (found.code, str(found)) == ("NONZERO_EXIT", "Command was ended by signal 15")


def test_an_excerpt_of_the_error_output_is_its_end_on_one_short_printable_line(tmp_path: Path) -> None:
    script = "printf 'x%.0s' $(seq 3000) >&2; printf '\\033[31mred\\033[0m\\n\\377 tab\\there\\0end' >&2; exit 1"
    message = str(failure(shell_tool(tmp_path, script)))
    assert message.endswith("x [31mred [0m \ufffd tab here end")
    assert message.isprintable()
    assert len(message) == len("Command exited with code 1: ") + 500


# Limits.


def test_a_hanging_tool_is_killed_at_its_limit_together_with_its_children(tmp_path: Path) -> None:
    script = "sleep 300 & echo $! > child; sh -c 'sleep 300 & echo $! > grandchild; wait' & echo $$ > self; wait"
    numbers = [tmp_path / name for name in ("self", "child", "grandchild")]
    begin = time.monotonic()
    found = failure(shell_tool(tmp_path, script), LimitAfter(lambda: written(*numbers), 0.5))
    assert (found.code, str(found)) == ("TIMEOUT", "Not done in time")
    assert 0.5 <= time.monotonic() - begin < 100.0
    for number in numbers:
        assert ends_soon(int(number.read_text()))


def test_a_tool_that_ignores_polite_signals_is_killed_all_the_same(tmp_path: Path) -> None:
    tool = shell_tool(tmp_path, "trap '' TERM INT HUP PIPE; echo $$ > self; while :; do sleep 1; done")
    found = failure(tool, LimitAfter(lambda: written(tmp_path / "self"), 0.5))
    assert found.code == "TIMEOUT"
    assert ends_soon(int((tmp_path / "self").read_text()))


def test_closing_its_output_does_not_free_a_tool_from_its_limit(tmp_path: Path) -> None:
    found = failure(shell_tool(tmp_path, "echo $$ > self; exec >&- 2>&-; sleep 300"), LimitAfter(lambda: written(tmp_path / "self"), 0.5))
    assert found.code == "TIMEOUT"
    assert ends_soon(int((tmp_path / "self").read_text()))


def test_a_tool_that_trickles_output_does_not_extend_its_limit(tmp_path: Path) -> None:
    assert failure(shell_tool(tmp_path, "while :; do echo x; sleep 0.05; done", timeout_s=1.0)).code == "TIMEOUT"


def test_a_call_ends_when_its_tool_ends_and_takes_the_tools_children_along(tmp_path: Path) -> None:
    adapter = shell_tool(tmp_path, "sleep 300 & echo $! > child; echo '{\"ok\": 1}'", timeout_s=30)
    begin = time.monotonic()
    assert call(adapter, "a", "b") == {"ok": 1}
    assert time.monotonic() - begin < 30
    assert ends_soon(int((tmp_path / "child").read_text()))


DAEMON = """
import ctypes, os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in range(3):
            os.close(descriptor)
        if os.path.exists("hidden"):
            code = "import time; open('detached', 'w').close(); time.sleep(60)"
            os.execve(sys.executable, [sys.executable, "-S", "-c", code], {})
        if os.path.exists("overwritten"):  # as daemons do that change their title
            start, end = map(int, open("/proc/self/stat").read().rpartition(")")[2].split()[47:49])
            ctypes.memset(start, 0, end - start)
        open("detached", "w").close()
        time.sleep(60)
    os._exit(0)
os.wait()
"""


DETACHED = """
while not os.path.exists("detached"):
    time.sleep(0.01)
"""


def daemons(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and is_running(int(entry.name)):
            with suppress(OSError):
                if (entry / "cwd").readlink() == folder:
                    found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("ending", ["print('{}')", "time.sleep(60)", "time.sleep(0.4); print('{}')"])
def test_a_process_that_left_the_group_and_its_parents_ends_with_the_call(tmp_path: Path, ending: str) -> None:
    adapter = python_tool(tmp_path, DAEMON + ending)
    begin = time.monotonic()
    if ending == "time.sleep(60)":
        assert failure(adapter, LimitAfter((tmp_path / "detached").exists, 0.3)).code == "TIMEOUT"
    else:
        assert call(adapter, "a", "b") == {}
    assert time.monotonic() - begin < 50
    assert daemons(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs a guardian")
@pytest.mark.parametrize("disguise", ["hidden", "overwritten"])
@pytest.mark.parametrize("ending", [DETACHED + "print('{}')", "time.sleep(60)"], ids=["done", "hanging"])
def test_a_process_that_hides_its_environment_as_well_ends_with_the_call(tmp_path: Path, disguise: str, ending: str) -> None:
    (tmp_path / disguise).touch()
    adapter = python_tool(tmp_path, DAEMON + ending)
    if "60" in ending:
        assert failure(adapter, LimitAfter((tmp_path / "detached").exists, 0.3)).code == "TIMEOUT"
    else:
        assert call(adapter, "a", "b") == {}
    assert (tmp_path / "detached").exists()
    assert daemons(tmp_path) == []


HOST = """
import os, sys, tempfile, time
tempfile.tempdir = {temporary!r}
sys.path[:0] = [{tests!r}]
from router_testing import call
from nexus_attest.routers import load_adapters
{before}
call(*load_adapters({adapters!r}), "a", "b", {{"note": "for the tool alone"}})
"""


def host(folder: Path, temporary: Path, before: str = "") -> "subprocess.Popen[bytes]":
    """A program that calls the tool of the folder, and can be killed."""
    code = HOST.format(temporary=str(temporary), tests=str(Path(__file__).parent), adapters=str(folder / "adapters.toml"), before=before)
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd="/")


def wait_for(happened: Callable[[], object], seconds: float = 50) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def guardians(process: int) -> list[int]:
    """The guardians that a process has started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children if b"guardian.py" in Path(f"/proc/{child}/cmdline").read_bytes()]


ORPHAN = "import os, time; os.fork() or os.setpgid(0, 0); open('detached', 'w').close(); time.sleep(60)"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("disguise", ["plain", "overwritten"])
@pytest.mark.parametrize("script", [DAEMON + "time.sleep(60)", ORPHAN])
@pytest.mark.parametrize("before", ["", "os.fork() or time.sleep(60)"], ids=["alone", "with a forked child"])
def test_when_we_are_killed_by_force_the_tools_end_and_their_arguments_are_gone(
    tmp_path: Path, temporary: Path, script: str, disguise: str, before: str
) -> None:
    (tmp_path / disguise).touch()
    python_tool(tmp_path, script)
    process = host(tmp_path, temporary, before)
    wait_for((tmp_path / "detached").exists)
    assert daemons(tmp_path)
    (arguments,) = temporary.rglob("nexus-router-args-*.json")
    assert "for the tool alone" in arguments.read_text()
    forked = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    process.kill()
    process.wait()
    wait_for(lambda: not daemons(tmp_path) and not list(temporary.iterdir()))
    for child in forked:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a guardian")
def test_when_the_guardian_is_killed_the_call_fails_and_only_what_hides_itself_runs_on(tmp_path: Path) -> None:
    (tmp_path / "hidden").touch()
    adapter = python_tool(tmp_path, DAEMON + "time.sleep(60)")
    killed: list[int] = []

    def kill() -> None:
        wait_for((tmp_path / "detached").exists)
        for guardian in guardians(os.getpid()):
            os.kill(guardian, signal.SIGKILL)
            killed.append(guardian)

    thread = threading.Thread(target=kill)
    thread.start()
    found = failure(adapter)
    thread.join()
    assert (found.code, found.outcome.value, str(found)) == ("OS_ERROR", "unknown", "The guardian of the command was killed")
    assert len(killed) == 1
    (escaped,) = daemons(tmp_path)  # as the documentation says
    os.kill(escaped, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a guardian")
def test_a_guardian_that_lacks_processes_says_so_and_nothing_was_started(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    begin = custody.Guardian.is_ready

    def short(self: custody.Guardian) -> bool:
        ready = begin(self)
        for guardian in guardians(os.getpid()):
            resource.prlimit(guardian, resource.RLIMIT_NOFILE, (10, limits[1]))
        return ready

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(custody.Guardian, "is_ready", short)
        found = failure(shell_tool(tmp_path, "echo '{}'; touch started"))
    assert (found.code, found.outcome.value) == ("OS_ERROR", "not_sent")
    assert not (tmp_path / "started").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a guardian")
def test_where_no_guardian_can_begin_the_mark_has_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guardian.py").write_text("raise SystemExit\n")
    monkeypatch.setattr(guardian_module, "__file__", str(tmp_path / "guardian.py"))
    work = tmp_path / "work"
    work.mkdir()
    adapter = python_tool(work, DAEMON + DETACHED + "print('{}')")
    assert call(adapter, "a", "b") == {}
    assert daemons(work) == []
    (work / "hidden").touch()
    (work / "detached").unlink()
    assert call(adapter, "a", "b") == {}
    (escaped,) = daemons(work)  # as the documentation says
    os.kill(escaped, signal.SIGKILL)


@pytest.mark.usefixtures("unguarded")
def test_an_interruption_while_a_tool_is_started_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = shell_tool(tmp_path, "sleep 300")
    started = subprocess.Popen.__init__

    def interrupted(self: Any, argv: Any, *arguments: Any, **options: Any) -> None:
        started(self, argv, *arguments, **options)
        if argv[0] == "/bin/sh":
            lost.append(self)
            raise KeyboardInterrupt

    lost: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(subprocess.Popen, "__init__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(adapter, "a", "b")
    (process,) = lost
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="needs a guardian")
def test_an_interruption_while_the_guardian_starts_a_tool_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = shell_tool(tmp_path, "echo $$ > self; exec sleep 300")
    start = custody.Guardian.start

    def interrupted(self: custody.Guardian, *arguments: Any, **options: Any) -> int:
        start(self, *arguments, **options)
        wait_for(lambda: (tmp_path / "self").exists() and (tmp_path / "self").read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(custody.Guardian, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(adapter, "a", "b")
    assert not is_running(int((tmp_path / "self").read_text()))


@pytest.mark.parametrize("stream", [1, 2])
def test_fifty_megabytes_are_stopped_at_the_limit_while_they_are_written(tmp_path: Path, stream: int) -> None:
    script = f"echo $$ > self; head -c {FIFTY_MEGABYTES} /dev/zero >&{stream}; touch finished; sleep 300"
    found = failure(shell_tool(tmp_path, script, max_output_bytes=65_536, timeout_s=30))
    assert (found.code, str(found)) == ("OUTPUT_TOO_LARGE", "Command wrote more than 65536 bytes")
    assert not (tmp_path / "finished").exists()
    assert ends_soon(int((tmp_path / "self").read_text()))


def test_endless_output_is_stopped_at_the_limit(tmp_path: Path) -> None:
    assert failure(shell_tool(tmp_path, "yes", max_output_bytes=1_000_000)).code == "OUTPUT_TOO_LARGE"


def test_output_of_exactly_the_limit_is_complete_and_one_byte_more_is_too_much(tmp_path: Path) -> None:
    text = json.dumps({"a": "x" * 200_000})
    (tmp_path / "answer").write_text(text)
    assert call(shell_tool(tmp_path, "cat answer", max_output_bytes=len(text)), "a", "b") == json.loads(text)
    assert failure(shell_tool(tmp_path, "cat answer", max_output_bytes=len(text) - 1)).code == "OUTPUT_TOO_LARGE"


def test_both_outputs_are_read_at_once_so_that_neither_blocks_the_tool(tmp_path: Path) -> None:
    noise = "head -c 500000 /dev/zero >&2"
    script = f"{noise}; printf '{{\"a\": \"'; head -c 500000 /dev/zero | tr '\\0' y; printf '\"}}'; {noise}"
    assert call(shell_tool(tmp_path, script, timeout_s=20), "a", "b") == {"a": "y" * 500_000}


# What keeps a tool from starting.


def test_a_missing_command_is_named(tmp_path: Path) -> None:
    (adapter,) = load_adapters(adapter_file(tmp_path, command=["no-such-tool-here"]))
    found = failure(adapter)
    assert (found.code, str(found)) == ("COMMAND_NOT_FOUND", "Command not found: no-such-tool-here")


def test_a_command_is_looked_up_on_the_path_of_the_tool_not_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "hosttool"
    tool.write_text("#!/bin/sh\necho '{}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    (adapter,) = load_adapters(adapter_file(tmp_path, command=["hosttool"]))
    assert failure(adapter).code == "COMMAND_NOT_FOUND"
    (adapter,) = load_adapters(adapter_file(tmp_path, command=["hosttool"], pass_env=["PATH"]))
    assert call(adapter, "a", "b") == {}


def test_a_file_that_may_not_be_executed_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    (adapter,) = load_adapters(adapter_file(tmp_path, command=["./data"]))
    assert failure(adapter).code == "PERMISSION_DENIED"


def test_a_file_that_is_no_program_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\0\1\2\3")
    (tmp_path / "data").chmod(0o755)
    (adapter,) = load_adapters(adapter_file(tmp_path, command=["./data"]))
    found = failure(adapter)
    assert (found.code, str(found)) == ("OS_ERROR", "Command cannot be started: Exec format error")


@pytest.mark.parametrize(("cwd", "code"), [("missing", "CWD_NOT_FOUND"), ("tool.sh", "CWD_NOT_DIRECTORY")])
def test_a_wrong_working_directory_is_found_before_and_at_the_call(tmp_path: Path, cwd: str, code: str) -> None:
    adapter = shell_tool(tmp_path, "echo '{}'", cwd=cwd)
    with pytest.raises(CallRefused) as caught:
        adapter.preflight([step()])
    assert caught.value.code == code
    assert failure(adapter).code == code


def test_an_unset_variable_is_found_before_and_at_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMS_TOKEN", raising=False)
    adapter = shell_tool(tmp_path, "touch called; echo '{}'", pass_env=["KMS_TOKEN"])
    with pytest.raises(CallRefused, match="The environment variable KMS_TOKEN is not set") as caught:
        adapter.preflight([step()])
    assert caught.value.code == "ENV_INVALID"
    assert failure(adapter).code == "ENV_INVALID"
    assert not (tmp_path / "called").exists()
    monkeypatch.setenv("KMS_TOKEN", "")
    adapter.preflight([step()])
    assert call(adapter, "a", "b") == {}


def test_arguments_that_cannot_be_written_are_a_failed_call(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = shell_tool(tmp_path, "touch called; echo '{}'")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    found = failure(adapter)
    assert (found.code, str(found)) == ("OS_ERROR", "No private directory for the arguments: No such file or directory")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", full)
    assert str(failure(adapter)) == "The arguments cannot be written: No space left on device"
    assert not (tmp_path / "called").exists()


# Nothing stays behind, and nothing is guessed.


def test_the_private_folder_goes_away_with_whatever_the_tool_left_in_it(tmp_path: Path) -> None:
    script = 'd=$(dirname "$5"); mkdir "$d/more"; touch "$d/more/file"; chmod 000 "$d/more" "$5"; echo "{}"'
    assert call(shell_tool(tmp_path, script), "a", "b", {"note": "s"}) == {}


def test_an_interruption_kills_the_tool_and_removes_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = shell_tool(tmp_path, "echo $$ > self; sleep 300")

    def interrupted(*_: object) -> None:
        if (tmp_path / "self").exists() and (tmp_path / "self").read_text():
            raise KeyboardInterrupt

    monkeypatch.setattr(CallLimit, "require", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(adapter, "a", "b")
    assert ends_soon(int((tmp_path / "self").read_text()))


def test_a_host_that_ignores_its_children_gets_their_exit_code_from_the_guardian(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert str(failure(shell_tool(tmp_path, "echo '{}'; exit 3"))) == "Command exited with code 3"
    finally:
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("unguarded")
def test_an_exit_code_that_was_lost_is_not_taken_for_success(tmp_path: Path) -> None:
    adapter = shell_tool(tmp_path, "echo '{}'; exit 3")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        found = failure(adapter)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert (found.code, "exit code was lost" in str(found)) == ("OS_ERROR", True)


@pytest.mark.usefixtures("unguarded")
def test_systems_that_cannot_peek_at_a_child_get_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid", raising=False)
    assert call(shell_tool(tmp_path, "echo '{\"ok\": 1}'"), "a", "b") == {"ok": 1}
    assert failure(shell_tool(tmp_path, "sleep 300", timeout_s=0.3)).code == "TIMEOUT"


def given_up(adapter: Adapter, limit: CallLimit) -> None:
    assert failure(adapter, limit).code == "TIMEOUT"
    gc.collect()


@pytest.mark.usefixtures("unguarded")
def test_a_child_that_cannot_be_killed_does_not_hold_the_caller_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = shell_tool(tmp_path, "echo $$ > self; exec sleep 300")

    def refuse(_group: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(marked, "end_marked", lambda *_, **__: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    monkeypatch.setattr(children, "_REAP_SECONDS", 0.1)
    begin = time.monotonic()
    with pytest.warns(ResourceWarning, match="still running"):
        given_up(adapter, LimitAfter(lambda: written(tmp_path / "self"), 0.3))
    assert time.monotonic() - begin < 100
    pid = int((tmp_path / "self").read_text())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    good, bad = shell_tool(tmp_path, "echo '{}'"), shell_tool(tmp_path, "echo '{}'", max_output_bytes=1)
    call(good, "a", "b")
    gc.collect()  # what other tests left
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        call(good, "a", "b")
        failure(bad)
    assert len(list(descriptors.iterdir())) == before
