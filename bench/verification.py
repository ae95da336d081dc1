"""What verification costs. Floor: `json.loads`, `json.dumps` with sorted keys, and SHA-256 of as many bytes."""

import json
from collections.abc import Iterator
from functools import partial

from bench.floors import verification_floor
from bench.harness import Result, Settings, ratio
from bench.workload import executed_decision_with, package_with, verified
from nexus_control.audit_package import verify_audit_package
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

_EVENTS = (10, 100, 1000, 10_000)


def verify_package(settings: Settings) -> Iterator[Result]:
    """The JSON text of a package with the record of its run, every check on, remarks failing, the binding digest expected."""
    with DecisionStore() as store:
        tools = NexusControlTools(store)
        for events in settings.size(_EVENTS, (10, 100)):
            package = package_with(tools, executed_decision_with(tools, events))
            text, expected = json.dumps(package), package["integrity"]["binding_digest"]

            def verify(text: str = text, expected: str = expected) -> object:
                return verified(verify_audit_package(text, strict=True, expected_binding_digest=expected))

            name = f"verify_audit_package, {events:,} events"
            yield ratio(name, settings, verify, partial(verification_floor, text), goal=4)
