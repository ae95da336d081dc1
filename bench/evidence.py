"""What evidence costs: a case file of a typical decision, the log part of a long one, a root of a long log after a restart."""

import json
from collections.abc import Iterator
from functools import partial
from hashlib import sha512
from statistics import median
from time import perf_counter

from bench.harness import Result, Settings, by_turns, milliseconds, ratio
from bench.workload import ALICE, executed_decision_with, flow, package_with
from nexus_control.audit_package import verify_audit_package
from nexus_control.case_export import export_case, sign_checkpoint
from nexus_control.checkpoint import NoteKey
from nexus_control.events import EventType
from nexus_control.evidence import EvidenceReport, Knowledge, LogTrust, examine
from nexus_control.store import DecisionStore, EventItem
from nexus_control.tool import NexusControlTools

_KEY = NoteKey("example.org/log", b"k" * 32)
_READER = Knowledge(logs=LogTrust((_KEY,), lambda key, message, signature: signature == sha512(key + message).digest()))


def _judged(report: EvidenceReport) -> EvidenceReport:
    if not report.layers[4].checks or not report.layers[0].checks[0].ok or any(not check.ok for check in report.layers[4].checks):
        raise RuntimeError(f"the case file does not verify: {report.to_dict()}")
    return report


def _case_text(store: DecisionStore, tools: NexusControlTools, decision_id: str) -> tuple[str, str]:
    """The case file and the package in it, as JSON texts."""
    package = package_with(tools, decision_id)
    note = sign_checkpoint(store, _KEY, lambda message: sha512(_KEY.public_key + message).digest())
    return json.dumps(export_case(store, package, checkpoint=note).to_dict()), json.dumps(package)


def case_files(settings: Settings) -> Iterator[Result]:
    """All layers that need no public-key cryptography, from the text on."""
    with DecisionStore() as store:
        tools = NexusControlTools(store)
        text, _ = _case_text(store, tools, flow(tools))
        yield Result(name="case file, 7 events", unit="kB", value=len(text) / 1000, goal=40, detail="compact JSON, the run embedded")
        (sample,) = by_turns(settings, lambda: _judged(examine(text, _READER)))
        yield Result(name="examine a case file, 7 events", unit="ms", value=median(sample) * 1000, goal=3, detail=milliseconds(sample))
        events = settings.size(10_000, 100)
        text, package = _case_text(store, tools, executed_decision_with(tools, events))
        with_log, without = partial(examine, text, _READER), partial(examine, package, _READER)
        yield ratio(f"examine with log part over without, {events:,} events", settings, with_log, without, goal=2)
        plain = partial(verify_audit_package, package)
        yield ratio(f"examine with log part over verify_audit_package, {events:,} events", settings, with_log, plain, goal=2)


def log_roots(settings: Settings) -> Iterator[Result]:
    """The root of a long log in a store that was just opened."""
    rows = settings.size(1_000_000, 10_000)
    path = settings.directory / "log.db"
    items: list[EventItem] = [(EventType.EXECUTION_STARTED, ALICE, {})] * 9_999
    with DecisionStore(path) as store:
        for number in range(rows // 10_000):
            store.append_events(f"d{number}", items, create=True)
    with DecisionStore(path) as store:
        start = perf_counter()
        size, _ = store.log_root()
        took = perf_counter() - start
    for file in settings.directory.glob("log.db*"):
        file.unlink()
    yield Result(name=f"log root after a restart, {size:,} events", unit="s", value=took, goal=0.2, detail="one reading")
