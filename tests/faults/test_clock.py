"""Clocks that are set back and forward, and hosts whose clocks differ: what the store lets happen is what verification finds allowed.

Times are told, not proved: nobody else can say when an event was. What matters is that the store and a later reader judge alike, so that
no execution that was allowed leaves evidence that fails, and that no clock brings back what was used up.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_testing import ALICE, BOB, CAROL, T0, SetClock

from nexus_control.evidence import examine
from nexus_control.layers import LayerName
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools


class Router:
    def get_adapter_capabilities(self, adapter_id: str) -> set[str] | None:
        return {adapter_id}

    def run(self, **_: Any) -> dict[str, Any]:
        return {"run_id": "run-1", "steps_executed": 1}


def requested(tools: NexusControlTools, needed: int = 1) -> str:
    name: str = tools.request("g", ALICE, mode="apply", min_approvals=needed).data["request_id"]
    return name


def outcome_of(tools: NexusControlTools, name: str) -> str:
    """What a reader of the audit package finds about the authorization."""
    return examine(tools.export_audit_package(name).data["package"]).layer(LayerName.AUTHORIZATION).outcome.value


def test_an_approval_that_is_dated_later_than_the_execution_lets_nothing_run_and_says_why() -> None:
    clock = SetClock()
    with DecisionStore(clock=clock) as store:
        tools = NexusControlTools(store)
        name = requested(tools)
        clock.now += timedelta(minutes=5)  # a host whose clock is ahead
        assert tools.approve(name, BOB).success
        clock.now -= timedelta(minutes=5)
        refused = tools.execute(name, "ad", ALICE, Router())
        assert refused.code == "POLICY_VALIDATION_FAILED"
        assert "Insufficient approvals" in (refused.error or "")
        assert "the approval of bob is dated 2025-01-01T00:05:00+00:00, later than now" in (refused.error or "")
        assert "clocks of two hosts differ" in (refused.error or "")
        assert len(store.get_events(name)) == 3
        clock.now += timedelta(minutes=5)
        assert tools.execute(name, "ad", ALICE, Router()).success
        assert outcome_of(tools, name) == "PASS"


def test_an_approval_that_expires_while_the_execution_is_claimed_lets_nothing_run() -> None:
    ticks = iter([0, 0, 0, 59, 61])  # request, approve (twice); the judgement is before the expiry, the event after it
    with DecisionStore(clock=lambda: T0 + timedelta(seconds=next(ticks))) as store:
        tools = NexusControlTools(store)
        name = requested(tools)
        assert tools.approve(name, BOB, expires_at=T0 + timedelta(seconds=60)).success
        refused = tools.execute(name, "ad", ALICE, Router())
        assert (refused.code, "expired at this moment" in (refused.error or "")) == ("POLICY_VALIDATION_FAILED", True)
        assert len(store.get_events(name)) == 3


SECONDS = st.sampled_from((-86_400, -3600, -61, -60, -1, 0, 0, 1, 59, 60, 61, 3600, 86_400))
STEPS = st.lists(st.tuples(st.sampled_from(("approve", "approve for a minute", "revoke", "execute")), SECONDS, SECONDS), max_size=10)


class Jumping:
    """Goes on by itself at every look, now and then backwards."""

    def __init__(self) -> None:
        self.now = T0
        self.next_look = timedelta()

    def __call__(self) -> datetime:
        found, self.now, self.next_look = self.now, self.now + self.next_look, timedelta()
        return found


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_whatever_the_clock_does_an_execution_that_was_allowed_verifies(steps: list[tuple[str, int, int]]) -> None:
    clock = Jumping()
    with DecisionStore(clock=clock) as store:
        tools = NexusControlTools(store)
        name = requested(tools)
        for number, (what, jump, jump_within) in enumerate(steps):
            clock.now += timedelta(seconds=jump)
            clock.next_look = timedelta(seconds=jump_within)  # between the judgement and the event
            who = (ALICE, BOB, CAROL)[number % 3]
            if what == "execute":
                if tools.execute(name, "ad", who, Router()).success:
                    break
            elif what == "revoke":
                tools.revoke_approval(name, who)
            else:
                tools.approve(name, who, expires_at=clock.now + timedelta(minutes=1) if what.endswith("minute") else None)
        assert store.verify_log().ok
        if tools.status(name).data["state"] == "completed":
            assert outcome_of(tools, name) == "PASS"
            clock.now -= timedelta(days=400)
            assert tools.execute(name, "ad", ALICE, Router()).code == "ALREADY_EXECUTED"
            assert tools.approve(name, ALICE).code == "CANNOT_APPROVE"


@pytest.mark.parametrize("jump", [timedelta(days=-4000), timedelta(days=-1), timedelta(days=4000)])
def test_commands_work_and_the_log_verifies_after_any_change_of_the_clock(tmp_path: Path, jump: timedelta) -> None:
    clock = SetClock()
    with DecisionStore(tmp_path / "s.db", clock=clock) as store:
        tools = NexusControlTools(store)
        first = requested(tools)
        clock.now += jump
        commands: list[Callable[[], Any]] = [
            lambda: tools.request("later", BOB),
            lambda: tools.approve(first, BOB),
            lambda: tools.revoke_approval(first, BOB),
            lambda: tools.approve(first, BOB),
            lambda: tools.template_create("t", ALICE),
            lambda: tools.execute(first, "ad", ALICE, Router()),
            lambda: tools.export_audit_package(first),
            lambda: tools.import_bundle(tools.export_bundle(first).data["bundle"], conflict_mode="new_decision_id"),
        ]
        for command in commands:
            result = command()
            assert result.success, result.error
        assert outcome_of(tools, first) == "PASS"
        listed = [entry["created_at"] for entry in tools.list_requests().data["requests"]]
        assert listed == sorted(listed, reverse=True)
        assert store.verify_log().ok
