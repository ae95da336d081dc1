"""Ids of events: of version 7, in order, and never twice."""

import json
import os
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from router_testing import FakeAdapter, counted_ids, ticking_clock

from nexus_attest.routers import RunEngine
from nexus_attest.routers.event_ids import event_ids
from nexus_attest.routers.run_store import run_time

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
PLAN = '[{"tool": "keys", "method": "list"}]'


def test_an_id_is_that_of_the_example_in_rfc_9562(monkeypatch: pytest.MonkeyPatch) -> None:
    # Appendix A.6, but for the 12 bits that are random there and count here.
    def urandom(size: int) -> bytes:
        return (0x18C4DC0C0C07398F << 2).to_bytes(size)

    monkeypatch.setattr(os, "urandom", urandom)
    text = event_ids()(datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC))
    assert text == "017f22e2-79b0-7000-98c4-dc0c0c07398f"
    assert (uuid.UUID(text).version, uuid.UUID(text).variant) == (7, uuid.RFC_4122)


@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=1, max_size=50))
def test_whatever_the_clock_does_ids_ascend(moments: list[datetime]) -> None:
    made = list(map(event_ids(), moments))
    assert made == sorted(set(made))
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in made} == {(7, uuid.RFC_4122)}


def test_a_clock_that_was_set_back_is_not_followed() -> None:
    moments = [T0, T0 - timedelta(days=1), T0 - MILLISECOND, T0 + MILLISECOND]
    first, *others = [uuid.UUID(text).int >> 80 for text in map(event_ids(), moments)]
    assert others == [first, first, first + 1]


def test_more_ids_than_can_be_counted_in_a_millisecond_run_ahead_of_the_clock() -> None:
    made = list(map(event_ids(), [T0] * (2 * 4096 + 1)))
    assert made == sorted(set(made))
    assert (uuid.UUID(made[-1]).int >> 80) - (uuid.UUID(made[0]).int >> 80) == 2


def test_two_sources_that_read_the_same_time_give_no_id_twice() -> None:
    assert len({*map(event_ids(), [T0] * 1000), *map(event_ids(), [T0] * 1000)}) == 2000


def ids_of(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    with closing(sqlite3.connect(path)) as connection:
        return (
            [run_id for (run_id,) in connection.execute("SELECT run_id FROM runs")],
            connection.execute("SELECT event_id, ts FROM events ORDER BY run_id, seq").fetchall(),
        )


def test_events_of_a_run_have_ids_in_their_order_and_the_run_a_random_one(tmp_path: Path) -> None:
    with RunEngine([FakeAdapter()], db_path=tmp_path / "runs", clock=ticking_clock()) as engine:
        engine.run(goal="g", adapter_id="fake", dry_run=False, plan=PLAN)
    runs, events = ids_of(tmp_path / "runs")
    assert [uuid.UUID(run_id).version for run_id in runs] == [4]
    assert {uuid.UUID(event_id).version for event_id, _ in events} == {7}
    assert events == sorted(set(events))
    times = [T0 + MILLISECOND * ((uuid.UUID(event_id).int >> 80) - int(T0.timestamp() * 1000)) for event_id, _ in events]
    assert [run_time(moment) for moment in times] == [ts for _, ts in events]


def test_whoever_brings_ids_gives_all_of_them(tmp_path: Path) -> None:
    with RunEngine([FakeAdapter()], db_path=tmp_path / "runs", new_id=counted_ids()) as engine:
        engine.run(goal="g", adapter_id="fake", dry_run=False, plan=PLAN)
    runs, events = ids_of(tmp_path / "runs")
    assert (runs, [event_id for event_id, _ in events[:2]]) == (["id-0"], ["id-1", "id-2"])


def pages_per_run(file: Path, new_id: Callable[[], str] | None) -> float:
    """How many pages the last of ten runs of 50 steps puts into the write-ahead log."""
    log = file.with_name(f"{file.name}-wal")
    plan = json.dumps([{"tool": "keys", "method": "list"}] * 50)
    sizes: list[int] = []
    with RunEngine([FakeAdapter()], db_path=file, new_id=new_id) as engine:
        for _ in range(10):
            engine.run(goal="g", adapter_id="fake", dry_run=True, plan=plan)
            sizes.append(log.stat().st_size)
    return (sizes[-1] - sizes[-2]) / 4096


def test_ids_in_order_let_a_commit_write_fewer_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_control.wal._COMMITS_PER_CHECKPOINT", 1_000_000)  # after one, the log starts over
    number = Random(1)
    ordered = pages_per_run(tmp_path / "ordered", None)
    unordered = pages_per_run(tmp_path / "unordered", lambda: str(uuid.UUID(int=number.getrandbits(128), version=4)))
    assert ordered < 0.8 * unordered
