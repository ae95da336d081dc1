"""How the cost of each operation grows: with the events and approvers of a decision, and with the decisions of a store.

In memory, so that no commit hides the growth; what an operation writes is rolled back, so that the size stays what it is.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

from bench.harness import Operation, Result, Settings, by_turns, growth, milliseconds
from bench.workload import (
    ALICE,
    BOB,
    approval_items,
    approve,
    data_of,
    decision_with,
    executed_decision_with,
    package_with,
    request,
    requests_file,
    verified,
)
from nexus_control.audit_package import verify_audit_package
from nexus_control.decision import Decision
from nexus_control.events import EventType
from nexus_control.store import DecisionStore, EventItem
from nexus_control.tool import NexusControlTools

_LENGTHS = (500, 1000, 2000, 4000)
_TOTALS = (1000, 10_000, 100_000)
_FEW = 3
_SLOW_ROUNDS = 5
GOAL = 1.05
"""The largest exponent that growth may have."""

_ONE_REPLAY = 1.5
"""One replay, the check, the event and the commit take less than this times one replay; two replays take more."""


BY_LENGTH: dict[str, Callable[[int], list[EventItem]]] = {"events": partial(approval_items, approvers=_FEW), "approvers": approval_items}
"""What makes a decision long: three people who approve and revoke, or many who approve once."""


def growth_with_events(settings: Settings) -> Iterator[Result]:
    """How the time of each operation grows with the length of a decision. Without a goal: `bench.instructions` tells more exactly."""
    yield from _by_length(settings, "events")


def growth_with_approvers(settings: Settings) -> Iterator[Result]:
    """The same with the number of approvers."""
    yield from _by_length(settings, "approvers")


def growth_with_decisions(settings: Settings) -> Iterator[Result]:
    """Files with different numbers of requests. Checking the log reads all of it; nothing else may depend on their number."""
    totals = settings.size(_TOTALS, (100, 200))
    stores = [DecisionStore(requests_file(settings, total)) for total in totals]
    for name, make in _STORE_OPERATIONS.items():
        operations = [make(NexusControlTools(store)) for store in stores]
        rounds = settings.size(_SLOW_ROUNDS, 2) if name == "verify_log" else None
        yield growth(f"{name} by decisions", settings, totals, operations, GOAL, rounds=rounds)
    for store in stores:
        store.close()


def approve_once(settings: Settings) -> Iterator[Result]:
    """An approval of a long decision against one replay of it."""
    with DecisionStore() as store:
        tools = NexusControlTools(store)
        for events in settings.size((300, 3000), (30,)):
            decision_id = decision_with(tools, events)
            work = _undone(tools, partial(approve, tools, decision_id, BOB))
            ours, replay = by_turns(settings, work, partial(Decision.load, store, decision_id))
            detail = f"{milliseconds(ours)}, Decision.load {milliseconds(replay)}, {len(ours)} rounds"
            yield Result(
                name=f"approve, {events:,} events", unit="x replay", value=median(ours) / median(replay), goal=_ONE_REPLAY, detail=detail
            )


def _by_length(settings: Settings, dimension: str) -> Iterator[Result]:
    lengths, items = settings.size(_LENGTHS, (20, 40)), BY_LENGTH[dimension]
    with DecisionStore() as store:
        tools = NexusControlTools(store)
        still_open = [decision_with(tools, length, items) for length in lengths]
        executed = [executed_decision_with(tools, length, items) for length in lengths]
        for name, make in OPEN_OPERATIONS.items():
            operations = [make(tools, decision_id) for decision_id in still_open]
            yield growth(f"{name} by {dimension}", settings, lengths, operations, None)
        for name, make in EXECUTED_OPERATIONS.items():
            operations = [make(tools, decision_id) for decision_id in executed]
            yield growth(f"{name} by {dimension}", settings, lengths, operations, None)


class _RollBack(Exception):
    pass


def _undone(tools: NexusControlTools, operation: Operation) -> Operation:
    """The operation in a transaction that is rolled back."""

    def run() -> None:
        try:
            with tools.store.transaction():
                operation()
                raise _RollBack
        except _RollBack:
            pass

    return run


def _append(tools: NexusControlTools, decision_id: str) -> Operation:
    return _undone(tools, lambda: tools.store.append_event(decision_id, EventType.APPROVAL_GRANTED, BOB, {"expires_at": None}))


def _approve(tools: NexusControlTools, decision_id: str) -> Operation:
    return _undone(tools, lambda: approve(tools, decision_id, BOB))


def _revoke(tools: NexusControlTools, decision_id: str) -> Operation:
    return _undone(tools, lambda: data_of(tools.revoke_approval(decision_id, ALICE)))


def _status(tools: NexusControlTools, decision_id: str) -> Operation:
    return lambda: data_of(tools.status(decision_id, include_events=True))


def _inspect(tools: NexusControlTools, decision_id: str) -> Operation:
    return lambda: data_of(tools.inspect(decision_id, include_events=True))


def _list(tools: NexusControlTools, decision_id: str) -> Operation:
    newest = [row[0] for row in tools.store.decision_page(1000, 0)]
    return lambda: data_of(tools.list_requests(1, newest.index(decision_id)))


def _record(tools: NexusControlTools, decision_id: str) -> Operation:
    return lambda: data_of(tools.export_audit_record(decision_id))


def _bundle(tools: NexusControlTools, decision_id: str) -> Operation:
    return lambda: data_of(tools.export_bundle(decision_id))


def _import(tools: NexusControlTools, decision_id: str) -> Operation:
    bundle = data_of(tools.export_bundle(decision_id))["bundle"]
    return _undone(tools, lambda: data_of(tools.import_bundle(bundle, conflict_mode="overwrite")))


def _package(tools: NexusControlTools, decision_id: str) -> Operation:
    return lambda: package_with(tools, decision_id)


def _verify(tools: NexusControlTools, decision_id: str) -> Operation:
    text = json.dumps(package_with(tools, decision_id))
    return lambda: verified(verify_audit_package(text, strict=True))


def _verify_log(tools: NexusControlTools, decision_id: str) -> Operation:
    return lambda: tools.store.verify_log(decision_id)


# Without `execute`, which happens once and in no transaction that could be undone: `full_flow` and `bench.load` time it.
OPEN_OPERATIONS: dict[str, Callable[[NexusControlTools, str], Operation]] = {
    "append_event": _append,
    "approve": _approve,
    "revoke_approval": _revoke,
    "status": _status,
    "inspect": _inspect,
    "list_requests(1)": _list,
}
EXECUTED_OPERATIONS: dict[str, Callable[[NexusControlTools, str], Operation]] = {
    "export_audit_record": _record,
    "export_bundle": _bundle,
    "import_bundle": _import,
    "export_audit_package": _package,
    "verify_audit_package": _verify,
    "verify_log(id)": _verify_log,
}


def _new_request(tools: NexusControlTools) -> Operation:
    return _undone(tools, lambda: request(tools))


def _approve_oldest(tools: NexusControlTools) -> Operation:
    return _undone(tools, partial(approve, tools, _oldest(tools)))


def _status_of_oldest(tools: NexusControlTools) -> Operation:
    decision_id = _oldest(tools)
    return lambda: data_of(tools.status(decision_id))


def _root(tools: NexusControlTools) -> Operation:
    return lambda: tools.store.log_root()


def _proof(tools: NexusControlTools) -> Operation:
    return lambda: tools.store.inclusion_proof(1)


def _whole_log(tools: NexusControlTools) -> Operation:
    return lambda: tools.store.verify_log()


def _oldest(tools: NexusControlTools) -> str:
    total = tools.store.log_root()[0] // 3
    return tools.store.decision_page(1, total - 1)[0][0]


_STORE_OPERATIONS: dict[str, Callable[[NexusControlTools], Operation]] = {
    "request": _new_request,
    "approve": _approve_oldest,
    "status": _status_of_oldest,
    "log_root": _root,
    "inclusion_proof": _proof,
    "verify_log": _whole_log,
}
