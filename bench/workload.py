"""What the benchmarks do with the product: typical calls, decisions of any length, stores of any size."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.harness import Settings
from nexus_control.audit_package import VerificationResult
from nexus_control.events import Actor, EventType
from nexus_control.integrity import content_digest, prefixed
from nexus_control.router_record import router_run_digest
from nexus_control.store import DecisionStore, EventItem
from nexus_control.tool import NexusControlTools, ToolResult

ALICE = Actor(type="human", id="alice")
BOB = Actor(type="human", id="bob")
CAROL = Actor(type="human", id="carol")
AGENT = Actor(type="system", id="deployment-agent")
ADAPTER = "subprocess:keytool"

_REQUESTS_PER_TRANSACTION = 1000


class NoOpRouter:
    """Does nothing, successfully."""

    def run(
        self,
        *,
        goal: str,
        adapter_id: str,
        dry_run: bool,
        plan: str | None,
        max_steps: int | None,
        require_capabilities: list[str] | None,
    ) -> dict[str, Any]:
        del goal, adapter_id, dry_run, plan, max_steps, require_capabilities
        return RUN_RECORD["response"]

    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        del adapter_id
        return {"apply", "dry_run", "timeout"}


def _run_record() -> dict[str, Any]:
    run: dict[str, Any] = {"run_id": "run-0001", "goal": "Rotate the signing keys of the payment service", "status": "completed"}
    events = [{"seq": seq, "kind": "step", "step_id": f"step-{seq}", "output": {"ok": True}} for seq in range(3)]
    digest = router_run_digest({"run": run, "events": events})
    response = {"run_id": "run-0001", "steps_executed": 3, "status": "completed", "run_bundle_digest": prefixed(digest)}
    return {
        "run_id": "run-0001",
        "run": run,
        "events": events,
        "digests": {"sha256": digest},
        "response": response,
        "integrity": {"alg": "sha256", "canonical_digest": prefixed(content_digest(response))},
    }


RUN_RECORD = _run_record()
"""The flight record of a run of `NoOpRouter`, in the form that every check of a package can judge."""


def data_of(result: ToolResult) -> dict[str, Any]:
    """The data of a call that must have succeeded."""
    if not result.success:
        raise RuntimeError(f"the call to be measured failed: {result.error}")
    return result.data


def request(tools: NexusControlTools, min_approvals: int = 2) -> str:
    """A request as agents make them; gives its id. Two events."""
    result = tools.request(
        "Rotate the signing keys of the payment service",
        AGENT,
        mode="apply",
        plan="1. create the new key  2. publish it  3. wait one day  4. revoke the old key",
        min_approvals=min_approvals,
        allowed_modes=["dry_run", "apply"],
        require_adapter_capabilities=["timeout"],
        max_steps=20,
        labels=["production", "keys"],
    )
    return data_of(result)["request_id"]


def approve(tools: NexusControlTools, decision_id: str, actor: Actor = ALICE) -> None:
    """One approval with a comment."""
    data_of(tools.approve(decision_id, actor, comment="Checked against the change calendar"))


def flow(tools: NexusControlTools) -> str:
    """Request, two approvals, execution: 7 events in 5 commits."""
    decision_id = _approved(tools)
    data_of(tools.execute(decision_id, ADAPTER, CAROL, NoOpRouter()))
    return decision_id


def flows(tools: NexusControlTools, count: int) -> list[str]:
    """As many flows, up to their approvals in one transaction; nothing is executed inside one, which could undo the record of what ran."""
    with tools.store.transaction():
        approved = [_approved(tools) for _ in range(count)]
    for decision_id in approved:
        data_of(tools.execute(decision_id, ADAPTER, CAROL, NoOpRouter()))
    return approved


def _approved(tools: NexusControlTools) -> str:
    decision_id = request(tools)
    approve(tools, decision_id, ALICE)
    approve(tools, decision_id, BOB)
    return decision_id


def approval_items(count: int, *, approvers: int | None = None) -> list[EventItem]:
    """Events that change approvals: grants, each by an actor of its own, or grants and revocations by `approvers` actors in turn."""
    if approvers is None:
        return [(EventType.APPROVAL_GRANTED, _approver(number), _grant()) for number in range(count)]
    items: list[EventItem] = []
    for number in range(count):
        who = _approver(number // 2 % approvers)
        revoked = {"reason": "The change calendar was updated after the check"}
        items.append((EventType.APPROVAL_REVOKED, who, revoked) if number % 2 else (EventType.APPROVAL_GRANTED, who, _grant()))
    return items


def _approver(number: int) -> Actor:
    return Actor(type="human", id=f"approver-{number:06}")


def _grant() -> dict[str, Any]:
    return {"expires_at": "2099-01-01T00:00:00+00:00", "comment": "Checked against the change calendar"}


def decision_with(tools: NexusControlTools, events: int, items: Callable[[int], list[EventItem]] = approval_items) -> str:
    """An approved decision of at least three events: the request, so many items as are needed, one approval by alice."""
    with tools.store.transaction():
        decision_id = request(tools, min_approvals=1)
        if between := items(events - 3):
            tools.store.append_events(decision_id, between)
        approve(tools, decision_id)
    return decision_id


def executed_decision_with(tools: NexusControlTools, events: int, items: Callable[[int], list[EventItem]] = approval_items) -> str:
    """As `decision_with`, then executed: at least six events."""
    decision_id = decision_with(tools, events - 3, items)
    data_of(tools.execute(decision_id, ADAPTER, CAROL, NoOpRouter()))
    return decision_id


def package_with(tools: NexusControlTools, decision_id: str) -> dict[str, Any]:
    """The audit package of an executed decision, the record of its run embedded."""
    result = tools.export_audit_package(decision_id, embed_router_bundle=True, router_bundle=RUN_RECORD, render=False)
    return data_of(result)["package"]


def verified(result: VerificationResult) -> VerificationResult:
    """A verification that must have succeeded."""
    if not result.ok:
        raise RuntimeError(f"the package does not verify: {result.to_dict()}")
    return result


def requests_file(settings: Settings, count: int) -> Path:
    """A database of `count` requests, built once per run: through the tools, in transactions of 1,000 calls."""
    path = settings.directory / f"requests-{count}.db"
    if not path.exists():
        with DecisionStore(path) as store:
            tools = NexusControlTools(store)
            for start in range(0, count, _REQUESTS_PER_TRANSACTION):
                with store.transaction():
                    for _ in range(min(_REQUESTS_PER_TRANSACTION, count - start)):
                        request(tools)
    return path
