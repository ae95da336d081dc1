"""Every intent is witnessed exactly once: whatever servers do, wherever processes die, however many there are."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from witness_testing import World, intent

from nexus_attest.testledger import KINDS

RUNS = int(os.environ.get("NEXUS_WITNESS_RUNS", "100"))
"""Of each of the two tests with random events; `NEXUS_WITNESS_RUNS=1000` for the long proof."""

LIES = {"forge_validated_blob", "forge_not_found"}
"""What a server alone can make anybody believe."""

HONEST = tuple(kind for kind in KINDS if kind not in LIES)
EVENTS = ("ok", "ok", "ok", "ok", "close", "crash", "crash_after", *HONEST)
COMMITS = ("ok", "ok", "ok", "before", "after")
PATIENT = settings(max_examples=RUNS, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@PATIENT
@given(
    requests=st.lists(st.sampled_from(EVENTS), max_size=80),
    commits=st.lists(st.sampled_from(COMMITS), max_size=30),
    count=st.integers(1, 9),
    workers=st.integers(1, 2),
    lease=st.sampled_from([0.0, 30.0]),
)
def test_one_server_that_fails_and_workers_that_die(
    requests: list[str], commits: list[str], count: int, workers: int, lease: float
) -> None:
    world = World(requests=requests, lease=lease)
    intents = [intent(number) for number in range(count)]
    world.queue.enqueue_many(intents)
    world.commits._events = iter(commits)  # pyright: ignore[reportPrivateUsage]
    world.run(workers)
    world.require_exactly_once(intents)


@PATIENT
@given(
    requests=st.lists(st.sampled_from((*EVENTS, *sorted(LIES))), max_size=80),
    commits=st.lists(st.sampled_from(COMMITS), max_size=30),
    liar=st.integers(0, 1),
    workers=st.integers(1, 2),
)
def test_two_servers_of_which_one_may_lie(requests: list[str], commits: list[str], liar: int, workers: int) -> None:
    world = World(nodes=2, requests=requests, lease=0)
    honest = world.nodes[1 - liar]
    add = honest.faults.add
    honest.faults.add = lambda method, *kinds: add(method, *(kind for kind in kinds if kind not in LIES))
    intents = [intent(number) for number in range(6)]
    world.queue.enqueue_many(intents)
    world.commits._events = iter(commits)  # pyright: ignore[reportPrivateUsage]
    world.run(workers)
    world.require_exactly_once(intents)


@pytest.mark.parametrize("fault", HONEST)
@pytest.mark.parametrize("at", range(10))
def test_each_fault_at_each_of_the_first_requests(fault: str, at: int) -> None:
    world = World(requests=["ok"] * at + [fault])
    intents = [intent(number) for number in range(3)]
    world.queue.enqueue_many(intents)
    world.run()
    world.require_exactly_once(intents)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("at", range(9))
def test_a_process_that_dies_at_each_of_its_commits(when: str, at: int) -> None:
    world = World()
    intents = [intent(number) for number in range(3)]
    world.queue.enqueue_many(intents)
    world.commits._events = iter(["ok"] * at + [when])  # pyright: ignore[reportPrivateUsage]
    world.run()
    world.require_exactly_once(intents)
