"""The benchmarks run and say what they should; no test here depends on a time."""

import json
import math
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import load as bench_load
from bench.harness import Outcome, Result, Settings, by_turns
from bench.syncs import counted
from nexus_control.store import DecisionStore

ROOT = Path(__file__).resolve().parent.parent


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_quick_run_gives_a_well_formed_result_for_every_measurement(tmp_path: Path) -> None:
    report: dict[str, Any] = json.loads(bench("--quick", "--json", "--dir", str(tmp_path), "--out", str(tmp_path / "out.json")))
    assert json.loads((tmp_path / "out.json").read_text()) == report
    assert report["quick"] is True
    results: list[dict[str, Any]] = report["results"]
    assert len({result["name"] for result in results}) == len(results) > 40
    for result in results:
        assert set(result) == {"name", "unit", "value", "goal", "outcome", "detail"}
        assert result["outcome"] in ("met", "MISSED", "skipped", "-")
        assert result["detail"]
        assert (result["outcome"] == "skipped") == (result["value"] is None)
        assert result["value"] is None or math.isfinite(result["value"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_only_the_chosen_benchmark_is_run_and_shown_as_a_table(tmp_path: Path) -> None:
    heading, *rows = bench("--quick", "--only", "get_events", "--dir", str(tmp_path)).splitlines()
    assert heading.split() == ["measured", "at", "most"]
    assert [row[:30].rstrip() for row in rows] == ["get_events, 3 events", "get_events, 30 events"]


@pytest.mark.parametrize(
    ("value", "goal", "outcome"),
    [(2.0, 2.0, "met"), (2.01, 2.0, "MISSED"), (2.0, None, "-"), (None, 2.0, "skipped"), (None, None, "skipped")],
)
def test_a_goal_is_an_upper_bound_and_nothing_measured_never_meets_it(value: float | None, goal: float | None, outcome: Outcome) -> None:
    assert Result(name="x", unit="ms", value=value, goal=goal).outcome == outcome


def test_operations_take_turns_and_the_first_round_is_not_counted(tmp_path: Path) -> None:
    calls: list[str] = []
    samples = by_turns(
        Settings(directory=tmp_path), lambda: calls.append("a"), lambda: calls.append("b"), clock=lambda: len(calls), rounds=2
    )
    assert "".join(calls) == "ababab"
    assert samples == [[1, 1], [1, 1]]


def test_a_sync_belongs_to_the_call_around_it_unless_another_thread_makes_it() -> None:
    trace = """\
10 fdatasync(4) = 0
10 getppid() = 1
10 fdatasync(4 <unfinished ...>
11 fdatasync(3) = 0
10 <... fdatasync resumed>) = 0
10 getppid() = 1
10 fsync(5) = 0
10 getppid() = 1
10 fdatasync(4) = 0
10 fsync(4) = 0
10 getppid() = 1
"""
    result = counted("calls", trace)
    assert result.value == 2
    assert result.detail == "3 in 2 calls, 1 calls with more than one; 1 in other threads (checkpoints)"


def load(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.load", "--json", *arguments]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_load_from_several_processes_and_clients_is_counted_whole(tmp_path: Path) -> None:
    db = tmp_path / "load.db"
    report = load(
        "--db", str(db), "--processes", "2", "--clients", "2", "--seconds", "0.3", "--operation", "append", "--operation", "execute"
    )
    assert report["backend"] == "SQLite"
    assert report["floor_per_second"] > 0
    assert [(row["operation"], row["processes"], row["clients"]) for row in report["load"]] == [("append", 2, 2), ("execute", 2, 2)]
    for row in report["load"]:
        assert row["calls"] > 0
        assert row["refused"] == {}
        assert 0 <= row["share"] <= 1
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
    with DecisionStore(db) as store:
        assert store.verify_log().ok
        # Each of four clients makes ten decisions, and appends once before the clock starts.
        written = sum(
            len(store.get_events(f"{decision_id}")) - 1 for decision_id, _ in store.list_decisions(10_000) if "load-" in decision_id
        )
        assert written == report["load"][0]["calls"] + 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a processor")
def test_a_process_of_the_load_can_be_bound_to_one_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[set[int]] = []

    def bind(_: int, processors: set[int]) -> None:
        bound.append(processors)

    monkeypatch.setattr(os, "sched_setaffinity", bind)
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(1), context.Queue()
    for first in (0, 1, 2):
        bench_load._process(str(tmp_path / "load.db"), "append", 1, 0.01, first, barrier, results, bound=True)  # pyright: ignore[reportPrivateUsage]
        results.get(timeout=60)
    processors = sorted(os.sched_getaffinity(0))
    assert bound == [{processors[number % len(processors)]} for number in range(3)]
    assert load("--dir", str(tmp_path), "--processes", "1", "--seconds", "0.1", "--operation", "append", "--bound")["load"][0]["bound"]
    assert not load("--dir", str(tmp_path), "--processes", "1", "--seconds", "0.1", "--operation", "append")["load"][0]["bound"]


def test_growth_is_measured_at_ten_sizes(tmp_path: Path) -> None:
    rows = load("--dir", str(tmp_path), "--grow", "2000", "--calls", "5")["growth"]
    assert len(rows) == 10
    assert [row["facts"] >= 200 * step for step, row in enumerate(rows, 1)] == [True] * 10
    assert all(min(row["append_cpu_ms"], row["approve_cpu_ms"], row["status_cpu_ms"], row["peak_mb"]) > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []
