"""What reading costs. Floor: SELECT of as many whole event rows of the same file, and `json.loads` of their payloads."""

from collections.abc import Iterator

from bench.floors import ReadFloor
from bench.harness import Result, Settings, growth, ratio
from bench.workload import data_of, decision_with, requests_file
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_EVENTS = (3, 30, 300, 3000)
_PAGE = 100
_EVENTS_PER_REQUEST = 2


def status(settings: Settings) -> Iterator[Result]:
    """The status of decisions of different length."""
    yield from _by_length(settings, "status")


def get_events(settings: Settings) -> Iterator[Result]:
    """The events of decisions of different length."""
    yield from _by_length(settings, "get_events")


def _by_length(settings: Settings, name: str) -> Iterator[Result]:
    path = settings.directory / f"{name}.db"
    with DecisionStore(path) as store:
        tools = NexusControlTools(store)
        decisions = {events: decision_with(tools, events) for events in settings.size(_EVENTS, (3, 30))}
        floor = ReadFloor(path)
        for events, decision_id in decisions.items():

            def read(decision_id: str = decision_id) -> object:
                return data_of(tools.status(decision_id)) if name == "status" else store.get_events(decision_id)

            def least(decision_id: str = decision_id) -> int:
                return floor.of_decision(decision_id)

            yield ratio(f"{name}, {events:,} events", settings, read, least, goal=4)
        floor.close()


def list_requests(settings: Settings) -> Iterator[Result]:
    """A page of a hundred decisions of two events each, out of stores of different size."""
    totals = settings.size((100, 10_000, 100_000), (100, 200))
    stores = [DecisionStore(requests_file(settings, total)) for total in totals]
    pages = [NexusControlTools(store) for store in stores]

    def page(tools: NexusControlTools) -> None:
        assert data_of(tools.list_requests(_PAGE))["count"] == _PAGE

    for total, tools in zip(totals, pages, strict=True):
        floor = ReadFloor(requests_file(settings, total))
        yield ratio(
            f"list_requests(100) of {total:,}",
            settings,
            lambda tools=tools: page(tools),
            lambda floor=floor: floor.newest(_PAGE * _EVENTS_PER_REQUEST),
            goal=6,
        )
        floor.close()
    yield growth("list_requests(100) by decisions", settings, totals, [lambda tools=tools: page(tools) for tools in pages], goal=0.05)
    for store in stores:
        store.close()
