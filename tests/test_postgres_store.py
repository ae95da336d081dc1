"""The store on PostgreSQL: everything that every backend does, and what is PostgreSQL's own."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from postgres_testing import PostgresServer
from store_contract import StoreContract
from store_testing import ticking_clock

from nexus_attest.postgres import PostgresStore
from nexus_control.store import EventStore


def open_store(address: str, schema: str = "nexus_attest", clock: Callable[[], datetime] | None = None) -> PostgresStore:
    """A store whose times and ids (`id-0`, `id-1` ...) repeat on every run."""
    names: Iterator[str] = (f"id-{number}" for number in range(1_000_000))
    return PostgresStore(address, schema=schema, clock=clock or ticking_clock(), new_id=lambda: next(names))


class TestOnPostgres(StoreContract):
    """A schema of its own for each test."""

    @pytest.fixture(autouse=True)
    def server(self, postgres_server: PostgresServer) -> None:
        self._server = postgres_server

    def open(self, folder: Path, clock: Callable[[], datetime] | None = None) -> EventStore:
        schema = "s" + folder.name.lower().replace("-", "_")
        return open_store(self._server.address(), schema, clock)
