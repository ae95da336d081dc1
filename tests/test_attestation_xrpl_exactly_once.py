"""Every intent is witnessed exactly once: whatever servers do, wherever processes die, however many there are."""

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from witness_testing import SEED, World, intent

from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.xrpl.submission import SubmissionSettings
from nexus_attest.testledger import KINDS, seed_of

RUNS = int(os.environ.get("NEXUS_WITNESS_RUNS", "36"))
"""Of each of the six tests with random events; `make faults` has a thousand."""

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
    require_witnesses(world, commits, workers, count)


def require_witnesses(
    world: World, commits: list[str], workers: int, count: int = 6, between: Callable[[int], object] = lambda _: None
) -> list[AttestationIntent]:
    """Each of so many intents gets exactly one witness, by workers that die at some of their commits; the intents."""
    intents = [intent(number) for number in range(count)]
    world.queue.enqueue_many(intents)
    world.commits._events = iter(commits)  # pyright: ignore[reportPrivateUsage]
    world.run(workers, between=between)
    world.require_exactly_once(intents)
    return intents


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
    require_witnesses(world, commits, workers)


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
    for item in require_witnesses(world, commits, workers):
        (receipt,) = world.confirmed(item)
        closed, _ = world.ledger.find(receipt.proof["tx_hash"]) or pytest.fail("on no ledger")
        assert receipt.proof["ledger_index"] == closed.index
        assert receipt.proof.get("ledger_hash", closed.hash) == closed.hash
        assert not receipt.proof.get("close_time", "").startswith("2001")


Told = dict[str, Any]


def _index(change: Callable[[int], int]) -> Callable[[Told], object]:
    return lambda told: told.update(ledger_index=max(0, change(told["ledger_index"])))


def _account(**changes: Any) -> Callable[[Told], object]:
    return lambda told: told["account_data"].update(changes)


def _sequence(more: int) -> Callable[[Told], object]:
    return lambda told: told["account_data"].update(Sequence=max(1, told["account_data"]["Sequence"] + more))


def _later(told: Told) -> None:
    """So late that no transaction of ours could follow."""
    told["ledger_index"] += 50


def _both(*changes: Callable[[Told], object]) -> Callable[[Told], object]:
    def change(told: Told) -> None:
        for one in changes:
            one(told)

    return change


def _error(code: object, **more: Any) -> Callable[[Told], object]:
    def change(told: Told) -> None:
        told.clear()
        told.update(error=code, status="error", **more)

    return change


LIES_OF_ONE: dict[str, tuple[str, Callable[[Told], object]]] = {
    "a ledger that is only closed": ("ledger", _index(lambda index: index + 1)),
    "a ledger as far ahead as servers are": ("ledger", _index(lambda index: index + 2)),
    "a ledger as far back as servers are": ("ledger", _index(lambda index: index - 2)),
    "a ledger in the window": ("ledger", _index(lambda index: index + 9)),
    "a ledger beyond the window": ("ledger", _index(lambda index: index + 40)),
    "a ledger far ahead": ("ledger", _index(lambda _: 4_000_000_000)),
    "a ledger some way back": ("ledger", _index(lambda index: index - 9)),
    "a ledger that is long past": ("ledger", _index(lambda index: index - 90)),
    "the first ledger": ("ledger", _index(lambda _: 1)),
    "a ledger that is not validated": ("ledger", lambda told: told.update(validated=False)),
    "a ledger of another year": ("ledger", lambda told: told["ledger"].update(close_time=1)),
    "too high a Sequence": ("account_info", _sequence(5)),
    "too low a Sequence": ("account_info", _sequence(-5)),
    "the first Sequence": ("account_info", _sequence(-10_000)),
    "a Sequence that is unused, long after": ("account_info", _both(_sequence(-10_000), _later)),
    "a Sequence that is used, long after": ("account_info", _both(_sequence(1), _later)),
    "a Sequence of a ledger to come": ("account_info", _later),
    "no such account": ("account_info", _error("actNotFound")),
    "another account": ("account_info", _account(Account="rrrrrrrrrrrrrrrrrrrrrhoLvTp")),
    "a master key that may not sign": ("account_info", _account(Flags=0x00100000)),
    "an account that is not validated": ("account_info", lambda told: told.update(validated=False)),
    "an error that is a list": ("ledger", _error([])),
    "an error that is an object": ("account_info", _error({})),
    "an error that is nothing": ("tx", _error(None)),
    "a fee of nothing": ("fee", lambda told: told["drops"].update(base_fee="0", open_ledger_fee="0")),
    "a fee of millions": ("fee", lambda told: told["drops"].update(open_ledger_fee="9000000000")),
    "no transaction": ("tx", _error("txnNotFound", searched_all=True)),
    "a transaction with another hash": ("tx", lambda told: told.update(tx_blob="12" * 40) if "tx_blob" in told else None),
    "a transaction that is not validated": ("tx", lambda told: told.update(validated=False)),
    "a refusal": ("submit", _error("invalidTransaction")),
    "a malformed transaction": ("submit", lambda told: told.update(engine_result="temMALFORMED", applied=False)),
    "a key that is not taken": ("submit", lambda told: told.update(engine_result="tefBAD_AUTH", applied=False)),
    "a Sequence that is past": ("submit", lambda told: told.update(engine_result="tefPAST_SEQ", applied=False)),
}
"""What one server may say instead of the truth: the method that it lies about, and how."""


def lies(world: World, liar: int, told: str, when: Callable[[], bool] = lambda: True) -> None:
    """A server that lies in this way, whenever the effect of what it is asked for has happened."""
    real, (method, change) = world.wire.post_json, LIES_OF_ONE[told]

    async def lying(url: str, payload: dict[str, Any]) -> dict[str, Any]:
        answer = await real(url, payload)
        result: object = answer.get("result")
        if (url, payload["method"]) == (f"http://node{liar}", method) and isinstance(result, dict) and "error" not in result and when():
            change(cast("Told", result))
        return answer

    world.wire.post_json = lying


def close(world: World, ledgers: int) -> None:
    """Let ledgers close: servers can only say of those that they have that a transaction is in none."""
    for _ in range(ledgers):
        world.ledger.close()


@pytest.mark.parametrize("told", LIES_OF_ONE)
@pytest.mark.parametrize("liar", range(3))
def test_one_server_of_three_that_always_lies_keeps_no_intent_waiting(told: str, liar: int) -> None:
    world = World(nodes=3, submission=SubmissionSettings(window=5))
    close(world, 100)
    lies(world, liar, told)
    intents = [intent(number) for number in range(6)]  # two batches
    world.queue.enqueue_many(intents)

    async def besides() -> int:
        close(world, 1)
        return 0

    assert asyncio.run(world.worker().run(interval=0, max_cycles=40, until_empty=True, besides=besides)) == 6
    world.require_exactly_once(intents)


@PATIENT
@given(
    requests=st.lists(st.sampled_from((*EVENTS, *sorted(LIES))), max_size=60),
    commits=st.lists(st.sampled_from(COMMITS), max_size=20),
    liar=st.integers(0, 2),
    told=st.lists(st.sampled_from(sorted(LIES_OF_ONE)), max_size=4, unique=True),
    honest_at=st.none() | st.lists(st.booleans(), max_size=20),
    workers=st.integers(1, 2),
)
def test_three_servers_of_which_one_lies_about_everything(
    requests: list[str], commits: list[str], liar: int, told: list[str], honest_at: list[bool] | None, workers: int
) -> None:
    world = World(nodes=3, requests=requests, lease=0)
    close(world, 20)
    only_one_lies(world, liar)
    sometimes = None if honest_at is None else iter(honest_at)
    for lie in told:
        lies(world, liar, lie, lambda: sometimes is None or next(sometimes, False))
    require_witnesses(world, commits, workers)


@PATIENT
@given(
    requests=st.lists(st.sampled_from((*EVENTS, *sorted(LIES))), max_size=60),
    commits=st.lists(st.sampled_from(COMMITS), max_size=20),
    liar=st.integers(0, 1),
    told=st.lists(st.sampled_from(sorted(LIES_OF_ONE)), max_size=4, unique=True),
    lying=st.lists(st.booleans(), max_size=40),
    workers=st.integers(1, 2),
)
def test_two_servers_of_which_one_lies_about_everything_for_a_while(
    requests: list[str], commits: list[str], liar: int, told: list[str], lying: list[bool], workers: int
) -> None:
    """Without a majority one that lies may keep everything waiting as long as it does, and can do no more."""
    world = World(nodes=2, requests=requests, lease=0)
    close(world, 20)
    only_one_lies(world, liar)
    left = iter(lying)
    for lie in told:
        lies(world, liar, lie, lambda: next(left, False))
    require_witnesses(world, commits, workers)


ABOUT_THE_ACCOUNT = sorted(told for told in LIES_OF_ONE if "Sequence" in told and LIES_OF_ONE[told][0] == "account_info")


@PATIENT
@given(
    requests=st.lists(st.sampled_from((*EVENTS, *sorted(LIES))), max_size=40),
    commits=st.lists(st.sampled_from(COMMITS), max_size=10),
    servers=st.lists(st.tuples(st.sampled_from([2, 5, 9, 1000]), st.integers(0, 2)), min_size=3, max_size=5),
    liars=st.lists(st.integers(0, 4), max_size=2),
    told=st.sampled_from(ABOUT_THE_ACCOUNT),
    away=st.lists(st.sampled_from([0, 0, 7, 30]), max_size=20),
    spent=st.lists(st.booleans(), max_size=10),
    window=st.sampled_from([5, 6, 15]),
    seed=st.sampled_from([SEED, seed_of("both kinds of keys", secp256k1=True)]),
    workers=st.integers(1, 2),
)
def test_servers_that_keep_few_ledgers_and_lag_while_fewer_than_half_lie_of_the_account_and_somebody_else_uses_it(
    requests: list[str],
    commits: list[str],
    servers: list[tuple[int, int]],
    liars: list[int],
    told: str,
    away: list[int],
    spent: list[bool],
    window: int,
    seed: str,
    workers: int,
) -> None:
    """`servers`: how many ledgers each keeps, and how late it is; `away`: how many ledgers close while no worker runs."""
    world = World(nodes=len(servers), requests=requests, lease=0, submission=SubmissionSettings(window=window), seed=seed)
    few = {liar for liar in liars[: (len(servers) - 1) // 2] if liar < len(servers)}
    close(world, 20)
    for number, (node, (_, behind)) in enumerate(zip(world.nodes, servers, strict=True)):
        node.behind = behind
        if number not in few:
            node.faults.add = partial(_honestly, node.faults.add)
    for liar in few:
        lies(world, liar, told)
    absences, foreign = iter(away), iter(spent)

    def between(turn: int) -> None:
        close(world, next(absences, 0))
        if next(foreign, False):
            world.spend()
        for node, (kept, behind) in zip(world.nodes, servers, strict=True):  # in the end a server with all ledgers is named in their place
            node.available_from = max(0, world.ledger.validated.index - behind - kept) if turn < 30 else 0

    require_witnesses(world, commits, workers, between=between)


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
