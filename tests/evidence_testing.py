"""A store that tests own, decisions in it, and the router records that belong to them."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from hypothesis import strategies as st

from nexus_control.audit_export import export_audit_package
from nexus_control.audit_package import router_run_digest
from nexus_control.events import EventType
from nexus_control.export import export_decision
from nexus_control.integrity import content_digest
from nexus_control.policy import Policy
from nexus_control.store import DecisionStore

T0 = datetime(2026, 1, 1, tzinfo=UTC)
VECTORS = Path(__file__).parent / "vectors" / "router"

ALICE = {"type": "human", "id": "alice"}
BOB = {"type": "human", "id": "bob"}
SYSTEM = {"type": "system", "id": "nexus-control"}

CREATED: dict[str, Any] = {"goal": "rotate keys", "plan": None, "requested_mode": "apply", "labels": ["ops"]}
POLICY: dict[str, Any] = {
    "min_approvals": 1,
    "allowed_modes": ["dry_run", "apply"],
    "require_adapter_capabilities": ["timeout"],
    "max_steps": 5,
    "labels": [],
}
SNAPSHOT: dict[str, Any] = {"template_name": "prod", "min_approvals": 2, "labels": ["a"]}
FROM_TEMPLATE: dict[str, Any] = {
    **POLICY,
    "template_name": "prod",
    "template_digest": "ab" * 32,
    "template_snapshot": SNAPSHOT,
    "overrides_applied": {"min_approvals": 1},
}


def vector(name: str) -> dict[str, Any]:
    """A router vector as data."""
    return cast("dict[str, Any]", json.loads((VECTORS / name).read_bytes()))


def ticking_clock() -> Callable[[], datetime]:
    """Every look at it is one second later, from 2026 on."""
    moments = (T0 + timedelta(seconds=number) for number in range(1_000_000))
    return lambda: next(moments)


def new_store(path: Path | str = ":memory:") -> DecisionStore:
    """A store whose times and ids (`id-0`, `id-1` ...) repeat on every run."""
    names: Iterator[str] = (f"id-{number}" for number in range(1_000_000))
    return DecisionStore(path, clock=ticking_clock(), new_id=lambda: next(names))


def pending(store: DecisionStore, decision_id: str = "dec-1", *, policy: dict[str, Any] = POLICY) -> str:
    """Created, with a policy, not approved."""
    items = [(EventType.DECISION_CREATED, ALICE, CREATED), (EventType.POLICY_ATTACHED, ALICE, policy)]
    store.append_events(decision_id, items, create=True)
    return decision_id


def approved(store: DecisionStore, decision_id: str = "dec-1", *, policy: dict[str, Any] = POLICY) -> str:
    """`pending`, and approved by bob without expiry."""
    store.append_event(pending(store, decision_id, policy=policy), EventType.APPROVAL_GRANTED, BOB, {"expires_at": None, "comment": "fine"})
    return decision_id


def completed(
    store: DecisionStore, decision_id: str = "dec-1", *, policy: dict[str, Any] = POLICY, response: dict[str, Any] | None = None
) -> str:
    """`approved`, and executed by `run-1`, which returned `response`."""
    digest = "d" * 64 if response is None else content_digest(response)
    approved(store, decision_id, policy=policy)
    request = Policy.from_dict(policy).compile_to_router_request(CREATED["goal"], CREATED["plan"], "subprocess:keytool", dry_run=False)
    store.append_events(
        decision_id,
        [
            (EventType.EXECUTION_REQUESTED, ALICE, {"adapter_id": "subprocess:keytool", "dry_run": False}),
            (EventType.EXECUTION_STARTED, SYSTEM, {"router_request_digest": content_digest(request)}),
            (EventType.EXECUTION_COMPLETED, SYSTEM, {"run_id": "run-1", "response_digest": digest, "steps_executed": 2}),
        ],
    )
    return decision_id


def run_bundle() -> dict[str, Any]:
    """A small run bundle of `run-1`: no `integrity`, no `response`."""
    run = {"run_id": "run-1", "mode": "apply", "goal": "clé", "status": "COMPLETED", "created_at": "2026-01-01T00:00:00.000Z"}
    events = [
        {"event_id": "e0", "run_id": "run-1", "seq": 0, "type": "RUN_STARTED", "payload": {"f": 0.5}, "ts": "2026-01-01T00:00:00.000Z"}
    ]
    digest = router_run_digest({"run": run, "events": events})
    return {"bundle_version": "0.3", "exported_at": "2026-01-01T00:00:01.000Z", "run": run, "events": events, "digests": {"sha256": digest}}


def flight_record() -> dict[str, Any]:
    """`run_bundle` with the response that binds it, and its integrity section."""
    record = run_bundle()
    response = {"run_id": "run-1", "steps_executed": 2, "status": "completed", "run_bundle_digest": f"sha256:{record['digests']['sha256']}"}
    integrity = {"alg": "sha256", "canonical_digest": f"sha256:{content_digest(response)}"}
    return {**record, "run_id": "run-1", "response": response, "integrity": integrity}


def bundle_dict(store: DecisionStore, decision_id: str = "dec-1") -> dict[str, Any]:
    """The exported bundle as data."""
    return export_decision(store, decision_id).to_dict()["bundle"]


def reference_package() -> dict[str, Any]:
    """A package in reference mode, as data."""
    store = new_store()
    return export_audit_package(store, completed(store)).to_dict()["package"]


def embedded_package() -> dict[str, Any]:
    """A package that embeds a flight record, as data."""
    store, record = new_store(), flight_record()
    completed(store, response=record["response"])
    return export_audit_package(store, "dec-1", embed_router_bundle=True, router_bundle=record).to_dict()["package"]


def edited(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with the member at a dotted path replaced; numbers are list indexes."""
    changed = copy.deepcopy(document)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    target: Any = changed
    for part in parents:
        target = target[part]
    target[last] = value
    return changed


def nonsense() -> st.SearchStrategy[Any]:
    """Values that have no business in a document; `put` makes endless nesting of "deep"."""
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([-(10**20), 2**63, 10**400, 10**5000]),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["\ud800", "\x00", "2026-01-01", "9999-12-31T23:59:59-23:59", "DECISION_CREATED", "x" * 10_000]),
        st.lists(st.none() | st.text(max_size=3) | st.integers(), max_size=3),
        st.dictionaries(st.text(max_size=3) | st.integers(), st.none() | st.floats() | st.text(max_size=3), max_size=3),
        st.sampled_from([b"bytes", object(), {1, 2}, (1, 2), EventType.APPROVAL_GRANTED, "deep"]),
    )


def places(value: Any, path: str = "") -> list[str]:
    """The dotted path of every member of the document."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(cast("dict[str | int, Any]", value).items())
    elif isinstance(value, list):
        items = list(enumerate(cast("list[Any]", value)))
    found: list[str] = []
    for key, member in items:
        place = f"{path}{key}"
        found += [place, *places(member, f"{place}.")]
    return found


def put(data: Any, place: str, value: object) -> None:
    """Replace the member at a dotted path in place; nothing happens when an earlier replacement removed it."""
    *parents, last = (int(part) if part.isdigit() else part for part in place.split("."))
    with suppress(TypeError, KeyError, IndexError):
        for part in parents:
            data = data[part]
        data[last] = _deep() if value == "deep" else value


def _deep() -> Any:
    value: Any = {}
    for _ in range(2000):
        value = {"x": [value]}
    return value


def with_member(document: dict[str, Any], path: tuple[str | int, ...], *value: object) -> dict[str, Any]:
    """A copy with the member replaced by the value or added, or removed when none is given."""
    copied = copy.deepcopy(document)
    target: Any = copied
    for key in path[:-1]:
        target = target[key]
    if value:
        target[path[-1]] = value[0]
    else:
        del target[path[-1]]
    return copied
