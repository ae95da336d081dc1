"""Ids that look the same: what counts as that, who is refused for it, and where it is remarked."""

from typing import Any

import pytest
from evidence_testing import new_store
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.events import EventType
from nexus_control.evidence import examine
from nexus_control.export import export_decision
from nexus_control.likeness import alike, likeness
from nexus_control.store import DecisionStore
from nexus_control.tool import NexusControlTools

CAROL = {"type": "human", "id": "carol"}

SAME = [
    ("alice", "Alice"),
    ("alice", "ALICE"),
    ("alice", "\u0430lice"),  # Cyrillic a
    ("alice", "al\u0456c\u0435"),
    ("ALICE", "\u0391\u039bICE".replace("\u039b", "L")),  # Greek capital Alpha
    ("zoe\u0301", "zo\u00e9"),  # NFD and NFC
    ("alice", "\uff41\uff4c\uff49\uff43\uff45"),  # full width
    ("alice", "al\u200bice"),  # a space without width
    ("alice", "al\u00adice"),
    ("alice", "alice\ufe0f"),
    ("alice b", " alice\u00a0 b "),
    ("strasse", "stra\u00dfe"),
    ("\u0440\u043e\u0440", "pop"),
]
DIFFERENT = [("alice", "alicia"), ("zoe", "zo\u00e9"), ("user1", "userl"), ("bob", "b0b"), ("\u0434\u0430", "da"), ("a b", "ab")]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_ids_that_look_the_same_have_one_likeness(one: str, other: str) -> None:
    assert one != other
    assert likeness(one) == likeness(other)
    assert alike(["x", one, "y", other, one]) == [[one, other]]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_ids_that_only_resemble_each_other_are_different(one: str, other: str) -> None:
    assert likeness(one) != likeness(other)
    assert alike([one, other]) == []


@given(st.text(max_size=12))
def test_spaces_and_what_shows_nothing_around_an_id_do_not_change_its_likeness(name: str) -> None:
    assert likeness(f" \u2060{name}\u200b") == likeness(name)


def approvable(store: DecisionStore, requester: str = "carol", needed: int = 2) -> tuple[NexusControlTools, str]:
    tools = NexusControlTools(store)
    made = tools.request("g", {"type": "human", "id": requester}, min_approvals=needed)
    return tools, made.data["request_id"]


def human(name: str) -> dict[str, str]:
    return {"type": "human", "id": name}


@pytest.mark.parametrize(("one", "other"), SAME)
def test_nobody_approves_twice_by_another_spelling(one: str, other: str) -> None:
    with new_store() as store:
        tools, name = approvable(store)
        assert tools.approve(name, human(one)).success
        for who in (human(other), {"type": "system", "id": other}):
            refused = tools.approve(name, who)
            assert refused.code == "LOOK_ALIKE_ACTOR"
            assert str(refused.error).isascii(), "an auditor sees which is which"
        assert len(store.get_events(name)) == 3
        assert tools.revoke_approval(name, human(one)).success
        assert tools.approve(name, human(other)).success, "the first does not count any more"


def test_nobody_approves_the_own_request_by_another_spelling() -> None:
    with new_store() as store:
        tools, name = approvable(store, "alice")
        assert tools.approve(name, human("Alice")).code == "LOOK_ALIKE_ACTOR"
        assert tools.approve(name, human("alice")).success, "under the same name it is no pretence; trust policies may forbid it"


def two_of_one(store: DecisionStore) -> str:
    """Two approvals of ids that look the same, as an import or an older release brings them."""
    tools, name = approvable(store)
    for who in ("alice", "\u0430lice"):
        store.append_event(name, EventType.APPROVAL_GRANTED, human(who), {"expires_at": None})
    assert tools.approve(name, human("bob")).success
    return name


def test_status_and_verification_remark_approvers_that_look_the_same() -> None:
    with new_store() as store:
        name = two_of_one(store)
        status: dict[str, Any] = NexusControlTools(store).status(name).data
        assert status["look_alikes"] == [["alice", "\u0430lice"]]
        (check,) = (
            made for made in examine(export_decision(store, name).to_dict()["bundle"]).layers[1].checks if made.name == "allowed_events"
        )
    assert check.ok
    assert check.detail == "different ids that look the same requested or approved it: 'alice', '\\u0430lice'"


def test_status_says_nothing_of_people_who_look_different() -> None:
    with new_store() as store:
        tools, name = approvable(store)
        assert tools.approve(name, human("bob")).success
        assert "look_alikes" not in tools.status(name).data
