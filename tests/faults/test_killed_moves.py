"""kill -9 at every step of `migrate` and `db init`, on files and on PostgreSQL: an earlier state or none, and the same command goes on."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from fault_testing import steps_of
from kill_testing import EVERY_STEP, again, deaths, environment, of_messages, undisturbed
from postgres_testing import PostgresServer
from store_testing import foreign
from test_copying import fill

from nexus_attest.cli.app import run
from nexus_attest.postgres import PostgresStore
from nexus_attest.postgres.schema import newest
from nexus_control import copying
from nexus_control.copying import copy_store
from nexus_control.sql_store import SqlStore
from nexus_control.store import DecisionStore

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"), pytest.mark.usefixtures("ready_to_fork")]

Way = Literal["file to file", "file to server", "server to file"]


@dataclass
class Target:
    """A database on a server that is made anew again and again, under one address."""

    server: PostgresServer
    name: str

    @property
    def address(self) -> str:
        return self.server.address(self.name)

    def renew(self) -> None:
        self.server.psql(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        self.server.psql(f"CREATE DATABASE {self.name} TEMPLATE template0")


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[Callable[[], Target]]:
    """Starts the server only where one is asked for."""
    made: list[Target] = []

    def make() -> Target:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        made.append(Target(server, "killed"))
        made[0].renew()
        return made[0]

    yield make
    for found in made:
        found.server.psql(f"DROP DATABASE {found.name} WITH (FORCE)")


def opened(place: str) -> SqlStore:
    return PostgresStore(place) if "://" in place else DecisionStore(place)


def size_of(place: str) -> int:
    """The size of a store that verifies from end to end."""
    with opened(place) as store:
        verified = store.verify_log()
        assert verified.ok, verified.errors
        return store.log_root()[0]


@pytest.mark.parametrize("way", ["file to file", "file to server", "server to file"])
def test_a_move_that_is_killed_is_an_earlier_state_of_the_source_and_goes_on_to_an_equal_root(
    place: Path, way: Way, target: Callable[[], Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_STEP", 25)
    server = None if way == "file to file" else target()
    old = server.address if server is not None and way == "server to file" else "old.db"
    new = server.address if server is not None and way == "file to server" else "decisions.db"

    def inside(folder: Path, name: str) -> str:
        return name if "://" in name else str(folder / name)

    with opened(inside(place, old)) as source, DecisionStore() as first:
        fill(first)
        copy_store(first, source)
        size, root = source.log_root()
        roots = [source.log_root(number)[1] for number in range(size + 1)]
        checkpoints = source.checkpoints()
    ready = server.renew if server is not None and new == server.address else tuple[()]
    work = partial(run, ["migrate", old, new, "--json"])
    steps, _ = undisturbed(place, work)
    reached: set[int] = set()
    for copy, died, where in deaths(place, work, steps, chosen=of_messages(steps) if new != "decisions.db" else None, ready=ready):
        with opened(inside(copy, new)) as store:
            found, head = store.log_root()
            assert (store.verify_log().ok, head) == (True, roots[found]), where
        reached.add(found)
        if died.acknowledged:
            assert (found, died.document["root"]) == (size, root), where
        done = again(copy, {}, "migrate", old, new, "--json")
        assert (done.code, done.document["root"], done.document["copied"]) == (0, root, size - found), (where, done)
        for name in (old, new):
            with opened(inside(copy, name)) as store:
                assert store.log_root() == store.certain_log_root() == (size, root), where
                assert store.checkpoints() == checkpoints, where
    assert reached >= ({0, 25, 50, 75, size} if EVERY_STEP or new == "decisions.db" else {0, size}), reached


def test_a_store_that_is_killed_while_it_is_made_is_made_by_the_same_command(place: Path) -> None:
    work = partial(run, ["db", "init", "--json"])
    steps, _ = undisturbed(place, work)
    for copy, _, where in deaths(place, work, steps):
        done = again(copy, {}, "db", "init", "--json")
        assert done.code == 0, (where, done)
        assert again(copy, {}, "request", "Rotate").code == 0, where
        assert size_of(str(copy / "decisions.db")) == 3, where


def test_a_store_of_an_older_release_that_is_killed_while_it_is_brought_up_to_date_is_old_or_new(place: Path) -> None:
    path = place / "decisions.db"
    with DecisionStore(path) as store:
        name = store.create_decision()
        expected = store.log_root()
    with closing(foreign(path)) as connection:
        (newest_version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.executescript("DROP TABLE checkpoints; DROP TABLE imports; PRAGMA user_version = 1; PRAGMA wal_checkpoint(TRUNCATE)")
    work = partial(run, ["db", "init", "--json"])
    steps, _ = undisturbed(place, work)
    reached: set[int] = set()
    for copy, died, where in deaths(place, work, steps):
        with closing(foreign(copy / "decisions.db")) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        reached.add(version)
        assert version in (1, newest_version), where
        assert ({"checkpoints", "imports"} <= tables) == (version == newest_version), where
        assert version == newest_version or not died.acknowledged, where
        assert again(copy, {}, "db", "init", "--json").code == 0, where
        with DecisionStore(copy / "decisions.db") as store:
            assert store.log_root() == expected, where
            assert store.verify_log().errors == [], where
            assert len(store.get_events(name)) == 0, where
    assert reached == {1, newest_version}


def test_a_database_that_is_killed_while_it_is_set_up_has_no_tables_or_all(place: Path, target: Callable[[], Target]) -> None:
    found = target()
    work = partial(run, ["db", "init", "--db", found.address, "--json"])
    whole = steps_of(place, work, environment(place))
    assert (whole.document["from"], whole.document["to"]) == (0, newest())
    expected = found.server.dump(found.address)
    reached: set[int] = set()
    for copy, died, where in deaths(place, work, whole.steps, chosen=of_messages(whole.steps), ready=found.renew):
        done: dict[str, Any] = json.loads(again(copy, {}, "db", "init", "--db", found.address, "--json").out)
        reached.add(done["from"])
        assert (done["success"], done["to"], done["roles"]) == (True, newest(), ["nexus_writer", "nexus_reader"]), where
        assert done["from"] == newest() or not died.acknowledged, where
        assert found.server.dump(found.address) == expected, where
        assert size_of(found.address) == 0, where
    assert reached == {0, newest()}
