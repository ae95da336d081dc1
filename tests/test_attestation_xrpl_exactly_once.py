"""Every intent is witnessed exactly once: whatever servers do, wherever processes die, however many there are."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from witness_testing import World, intent

from nexus_attest.testledger import KINDS

RUNS = int(os.environ.get("NEXUS_WITNESS_RUNS", "70"))
"""Of each of the three tests with random events; `NEXUS_WITNESS_RUNS=1000` for the long proof."""

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


def only_one_lies(world: World, liar: int) -> None:
    """What the script has in store for the others is left out where it would be a lie."""
    for number, node in enumerate(world.nodes):
        if number != liar:
            node.faults.add = partial(_honestly, node.faults.add)


def _honestly(add: Callable[..., None], method: str, *kinds: str) -> None:
    add(method, *(kind for kind in kinds if kind not in LIES))


@PATIENT
@given(
    requests=st.lists(st.sampled_from((*EVENTS, *sorted(LIES))), max_size=80),
    commits=st.lists(st.sampled_from(COMMITS), max_size=30),
    liar=st.integers(0, 1),
    workers=st.integers(1, 2),
)
def test_two_servers_of_which_one_may_lie(requests: list[str], commits: list[str], liar: int, workers: int) -> None:
    world = World(nodes=2, requests=requests, lease=0)
    only_one_lies(world, liar)
    intents = [intent(number) for number in range(6)]
    world.queue.enqueue_many(intents)
    world.commits._events = iter(commits)  # pyright: ignore[reportPrivateUsage]
    world.run(workers)
    world.require_exactly_once(intents)


def lies_about_where(world: World, liar: int) -> None:
    """A server that shows the right bytes, always in the ledger after the right one, under a hash and at a time of its own."""
    real = world.wire.post_json

    async def lying(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        result: object = answer.get("result")
        if url == f"http://node{liar}" and payload["method"] == "tx" and isinstance(result, dict) and "ledger_index" in result:
            cast("dict[str, Any]", result)["ledger_index"] += 1
            cast("dict[str, Any]", result).update(ledger_hash="AB" * 32, close_time_iso="2001-01-01T00:00:00Z")
        return answer

    world.wire.post_json = lying


@PATIENT
@given(
    requests=st.lists(st.sampled_from((*EVENTS, *sorted(LIES))), max_size=80),
    commits=st.lists(st.sampled_from(COMMITS), max_size=30),
    liar=st.integers(0, 2),
    about_where=st.booleans(),
    workers=st.integers(1, 2),
)
def test_three_servers_of_which_one_may_lie(requests: list[str], commits: list[str], liar: int, about_where: bool, workers: int) -> None:
    world = World(nodes=3, requests=requests, lease=0)
    only_one_lies(world, liar)
    if about_where:
        lies_about_where(world, liar)
    intents = [intent(number) for number in range(6)]
    world.queue.enqueue_many(intents)
    world.commits._events = iter(commits)  # pyright: ignore[reportPrivateUsage]
    world.run(workers)
    world.require_exactly_once(intents)
    for item in intents:
        (receipt,) = world.confirmed(item)
        closed, _ = world.ledger.find(receipt.proof["tx_hash"]) or pytest.fail("on no ledger")
        assert receipt.proof["ledger_index"] == closed.index
        assert receipt.proof.get("ledger_hash", closed.hash) == closed.hash
        assert not receipt.proof.get("close_time", "").startswith("2001")


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
