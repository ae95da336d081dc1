"""No test sees the user that runs it: an empty home that must stay empty, and none of the user's settings."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from postgres_testing import PostgresServer

# How long data takes to make says how busy the machine is, not whether a claim holds.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

pytest.register_assert_rewrite("store_contract")

# A background job of a shell ignores them, and so would every program that a test starts.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

_SETTINGS = ("XDG_", "NEXUS_ATTEST_", "APPDATA", "LOCALAPPDATA", "PG")


@pytest.fixture(scope="session", autouse=True)
def home_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        for name in os.environ:
            if name.startswith(_SETTINGS):
                environment.delenv(name)
        environment.setenv("HOME", str(home))
        yield
    assert [path.name for path in home.iterdir()] == [], "a test wrote into the home folder of the user who runs it"


@pytest.fixture(scope="session")
def postgres_server(home_of_nobody: None) -> Iterator[PostgresServer]:  # noqa: ARG001
    """A PostgreSQL server for all tests of this run, each of which makes databases of its own in it; see `postgres_testing`."""
    with PostgresServer() as server:
        yield server
