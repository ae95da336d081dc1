"""The long run, for three seconds; and that it would notice what it looks for."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import soak
from postgres_testing import PostgresServer
from store_testing import environment, quick_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and open files are read from /proc")


@pytest.fixture
def here() -> Iterator[soak.Soak]:
    with quick_folder() as folder:
        found = soak.Soak(folder, seed=1)
        for _ in range(120):
            found.step()
        yield found
        found.close()


def test_a_store_that_is_busy_for_three_seconds_loses_nothing_and_the_process_does_not_grow() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(soak.__file__)), "--minutes", "0.05", "--seed", "7"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["seed"], told["seconds"] >= 3) == (7, True)
    assert told["steps"]["command"] > 10


def test_so_does_a_store_on_a_server_that_is_killed_now_and_then() -> None:
    with PostgresServer() as server, quick_folder() as folder:
        here = soak.Soak(folder, 7, soak.ADatabase(server))
        for _ in range(40):
            here.step()
        for _ in range(2):
            here.place.lose_power(here)
            here.another_process()
            here.append_together()
        here.verify()
        here.close()
        here.place.end()
    assert here.done["command"] > 10
    assert here.facts > 20
    assert here.appends.acknowledged


def test_a_connection_that_a_closed_store_leaves_behind_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "_PATIENCE_SECONDS", 0)
    with PostgresServer() as server, quick_folder() as folder:
        place = soak.ADatabase(server)
        place.begin(folder)
        with place.open(soak.SetClock()) as store:
            assert store.log_root()[0] == 0
            with pytest.raises(AssertionError, match="is still connected"):
                place.end()


def test_an_event_that_was_acknowledged_and_is_not_there_ends_the_run(here: soak.Soak) -> None:
    here.verify()
    name = next(iter(here.acknowledged))
    here.acknowledged[name] = len(here.store.get_events(name)) + 1
    with pytest.raises(AssertionError, match="has lost events"):
        here.verify()


def test_an_append_that_was_acknowledged_to_a_thread_and_is_not_there_ends_the_run(here: soak.Soak) -> None:
    here.append_together()
    here.verify()
    here.appends.acknowledged["never stored"] = "shared", 0
    with pytest.raises(AssertionError, match=r"acknowledged, and not stored there: .*never stored"):
        here.verify()


def test_an_execution_that_ran_twice_ends_the_run(here: soak.Soak) -> None:
    with (here.at / "runs").open("a") as file:
        file.write("evt_x_1\nevt_x_1\n")
    with pytest.raises(AssertionError, match="evt_x_1"):
        here.verify()


@pytest.mark.parametrize(
    ("memory", "files", "what"),
    [(100.0, {}, "memory grew"), (0.0, {"s.db": 1}, r"\{'s.db': 1\}"), (0.0, {"socket": 4, "pipe": 1}, r"\{'socket': 4, 'pipe': 1\}")],
)
def test_a_process_that_grows_ends_the_run(monkeypatch: pytest.MonkeyPatch, memory: float, files: dict[str, int], what: str) -> None:
    before = Counter({"/dev/null": 3, "s.db": 2})
    measured = iter([(50.0, before), (50.0 + memory, before + Counter(files))])
    monkeypatch.setattr(soak, "resources", lambda: next(measured))
    with quick_folder() as folder, pytest.raises(AssertionError, match=what):
        soak.soak(0.2, 1, folder)


def test_connections_may_become_as_many_as_the_pool_takes() -> None:
    assert soak.ADatabase.connections["socket"] == 3  # of four, one is always there
    assert Counter(socket=5) - Counter(socket=1) - soak.ADatabase.connections == Counter(socket=1)
    assert soak.AFile.connections == Counter()


def test_what_is_measured_does_not_depend_on_what_was_used_since_the_last_fork(here: soak.Soak) -> None:
    here.another_process()
    _, before = soak.measured(here)
    here.attest()
    _, after = soak.measured(here)
    names = ("s.db", "s.db-wal", "s.db-shm")
    assert [after[name] - before[name] for name in names] == [0, 0, 0]
    assert all(before[name] for name in names)
