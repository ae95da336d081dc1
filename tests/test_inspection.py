"""The inspection of a decision, as data and as text."""

import re
from collections.abc import Sequence
from datetime import timedelta

import pytest
from history_testing import EARLIER, FAILED, LATER, NOON, T0, Item, decide, execution, grant, history, policy, revoke
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.decision import Approval, Decision, DecisionState
from nexus_control.errors import MalformedEvent
from nexus_control.events import Actor, EventType
from nexus_control.inspection import inspect_decision, render_inspection
from nexus_control.integrity import content_digest
from nexus_control.lifecycle import compute_lifecycle
from nexus_control.policy import Policy

DIGEST_A, DIGEST_B = "a" * 64, "b" * 64


def created(goal: str = "rotate keys", mode: str = "dry_run") -> Item:
    return EventType.DECISION_CREATED, {"goal": goal, "plan": None, "requested_mode": mode, "labels": []}, "alice"


CREATED = created()
REQUESTED = execution(EventType.EXECUTION_REQUESTED, adapter_id="subprocess:mcpt:key-rotation", dry_run=True)
STARTED = execution(EventType.EXECUTION_STARTED, router_request_digest=DIGEST_A)
COMPLETED = execution(EventType.EXECUTION_COMPLETED, run_id="run-1", response_digest=DIGEST_B, steps_executed=3)
EXECUTED = (CREATED, policy(), grant("bob"), REQUESTED, STARTED, COMPLETED)


def section(text: str, heading: str) -> list[str]:
    """The lines below a heading."""
    blocks = {lines[0]: lines[1:] for lines in (block.splitlines() for block in text.strip().split("\n\n")[1:])}
    return blocks[f"## {heading}"]


def headings(text: str) -> list[str]:
    return re.findall(r"^#.*$", text, re.MULTILINE)


def verdict(*items: Item) -> str:
    return render_inspection(decide(*items)).splitlines()[0]


# As data


def test_a_fresh_decision_as_data() -> None:
    decision = decide(CREATED, policy(2, max_steps=5, require_adapter_capabilities=["b", "a"], labels=["prod"]))
    data = inspect_decision(decision)
    assert data.pop("lifecycle") == compute_lifecycle(decision).to_dict()
    assert data.pop("timeline") == [entry.to_dict() for entry in compute_lifecycle(decision).timeline]
    assert data == {
        "ok": True,
        "decision": {
            "decision_id": "d",
            "status": "PENDING_APPROVAL",
            "mode": "dry_run",
            "goal": "rotate keys",
            "created_at": "2025-01-01T00:00:00+00:00",
            "last_event_at": "2025-01-01T00:01:00+00:00",
        },
        "approval": {"min_approvals": 2, "approved_count": 0, "approvers": [], "missing": 2, "is_approved": False},
        "policy": {
            "allowed_modes": ["dry_run", "apply"],
            "require_capabilities": ["b", "a"],
            "max_steps": 5,
            "labels": ["prod"],
        },
        "template": None,
        "execution": {
            "requested": False,
            "run_id": None,
            "adapter_id": None,
            "router_request_digest": None,
            "router_result_digest": None,
            "outcome": None,
            "last_error": None,
        },
        "compiled_router_request": {
            "digest": "sha256:14d3a828ef6c...",
            "adapter_id": "<not specified>",
            "require_capabilities": ["b", "a"],
            "allow_apply": True,
            "max_steps": 5,
        },
    }


def test_an_empty_decision_as_data() -> None:
    data = inspect_decision(Decision("x"))
    assert data["decision"] == {
        "decision_id": "x",
        "status": "DRAFT",
        "mode": "dry_run",
        "goal": None,
        "created_at": None,
        "last_event_at": None,
    }
    assert data["approval"] == {"min_approvals": 1, "approved_count": 0, "approvers": [], "missing": 1, "is_approved": False}
    assert data["policy"] is None
    assert "compiled_router_request" not in data


def test_an_executed_decision_as_data() -> None:
    data = inspect_decision(decide(*EXECUTED))
    assert data["decision"]["status"] == "EXECUTED"
    assert data["execution"] == {
        "requested": True,
        "requested_at": "2025-01-01T00:03:00+00:00",
        "started_at": "2025-01-01T00:04:00+00:00",
        "completed_at": "2025-01-01T00:05:00+00:00",
        "run_id": "run-1",
        "adapter_id": "subprocess:mcpt:key-rotation",
        "dry_run": True,
        "steps_executed": 3,
        "router_request_digest": DIGEST_A,
        "router_result_digest": DIGEST_B,
        "outcome": "ok",
        "last_error": None,
    }
    assert data["compiled_router_request"]["adapter_id"] == "subprocess:mcpt:key-rotation"


@pytest.mark.parametrize(
    ("items", "outcome", "error"),
    [
        ((REQUESTED,), None, None),
        ((REQUESTED, STARTED), "in_progress", None),
        ((REQUESTED, STARTED, COMPLETED), "ok", None),
        ((REQUESTED, STARTED, FAILED), "failed", "boom"),
        ((REQUESTED, STARTED, execution(EventType.EXECUTION_FAILED)), "failed", None),
        ((REQUESTED, STARTED, FAILED, REQUESTED), None, None),
        ((REQUESTED, STARTED, FAILED, REQUESTED, STARTED), "in_progress", None),
    ],
)
def test_the_outcome_is_that_of_the_latest_execution(items: tuple[Item, ...], outcome: str | None, error: str | None) -> None:
    data = inspect_decision(decide(CREATED, policy(), grant("bob"), *items))["execution"]
    assert (data["outcome"], data["last_error"]) == (outcome, error)


def test_approvers_are_the_unrevoked_ones_in_the_order_of_their_ids() -> None:
    decision = decide(
        CREATED, policy(4), grant("system:ci", comment="green"), grant("bob", EARLIER), grant("amy", LATER), grant("zoe"), revoke("zoe")
    )
    approval = inspect_decision(decision)["approval"]
    assert approval == {
        "min_approvals": 4,
        "approved_count": 2,
        "approvers": [
            {"actor": "amy", "actor_type": "human", "expires_at": LATER, "comment": None, "ts": "2025-01-01T00:04:00+00:00"},
            {"actor": "bob", "actor_type": "human", "expires_at": EARLIER, "comment": None, "ts": "2025-01-01T00:03:00+00:00"},
            {"actor": "ci", "actor_type": "system", "expires_at": None, "comment": "green", "ts": "2025-01-01T00:02:00+00:00"},
        ],
        "missing": 2,
        "is_approved": False,
    }


def test_more_approvals_than_needed_are_not_missing_negatively() -> None:
    assert inspect_decision(decide(CREATED, policy(1), grant("a"), grant("b")))["approval"]["missing"] == 0


def test_a_template_is_named_with_its_raw_digest() -> None:
    attached = policy(template_name="safe", template_digest=DIGEST_A, overrides_applied={"labels": ["x"]})
    assert inspect_decision(decide(CREATED, attached))["template"] == {
        "name": "safe",
        "digest": DIGEST_A,
        "overrides_applied": {"labels": ["x"]},
    }


def test_the_compiled_request_is_in_the_requested_mode() -> None:
    decision = decide(created(mode="apply"), policy(allowed_modes=["apply"]), grant("bob"), REQUESTED)
    compiled = inspect_decision(decision)["compiled_router_request"]
    request = {"goal": "rotate keys", "adapter_id": "subprocess:mcpt:key-rotation", "dry_run": False}
    assert compiled == {
        "digest": f"sha256:{content_digest(request)[:12]}...",
        "adapter_id": "subprocess:mcpt:key-rotation",
        "require_capabilities": None,
        "allow_apply": True,
        "max_steps": None,
    }
    rehearsal = inspect_decision(decide(CREATED, policy(allowed_modes=["dry_run"])))["compiled_router_request"]
    assert rehearsal["allow_apply"] is False


def test_events_and_the_compiled_request_come_only_when_asked_for() -> None:
    decision = decide(*EXECUTED)
    assert "events" not in inspect_decision(decision)
    data = inspect_decision(decision, include_events=True, include_compiled_router_request=False)
    assert data["events"] == [one.to_dict() for one in decision.events]
    assert "compiled_router_request" not in data


def test_inspecting_leaves_the_decision_alone() -> None:
    decision = decide(*EXECUTED)
    before = decision.to_dict()
    data = inspect_decision(decision, include_events=True)
    data["timeline"].clear()
    data["policy"]["allowed_modes"].clear()
    assert len(data["lifecycle"]["timeline"]) == 7
    render_inspection(decision)
    assert decision.to_dict() == before


def test_one_inspection_has_one_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter([NOON, NOON + timedelta(days=1)])
    monkeypatch.setattr("nexus_control.decision.utc_now", lambda: next(instants))
    decision = Decision("d", state=DecisionState.APPROVED, policy=Policy(1))
    decision.approvals["bob"] = Approval(Actor(type="human", id="bob"), T0, NOON + timedelta(seconds=1))
    data = inspect_decision(decision)
    assert data["approval"]["approved_count"] == 1
    assert data["lifecycle"]["progress"]["approvals_current"] == 1


# As text: the verdict


def test_the_first_line_is_the_verdict() -> None:
    assert verdict(CREATED) == "✗ Decision is a draft (no policy attached)"
    assert verdict(CREATED, policy(2)) == "✗ Decision not executable (missing 2 approvals)"
    assert verdict(CREATED, policy(2), grant("bob")) == "✗ Decision not executable (missing 1 approval)"
    assert verdict(CREATED, policy(), grant("bob")) == "✓ Decision approved (ready to execute)"
    assert verdict(CREATED, policy(), grant("bob"), REQUESTED, STARTED) == "✓ Decision executing (in progress)"
    assert verdict(*EXECUTED) == "✓ Decision executed"
    assert verdict(CREATED, policy(), REQUESTED, STARTED, FAILED) == "✗ Decision failed: boom"
    assert verdict(CREATED, policy(), FAILED) == "✗ Decision failed"


def test_an_approved_decision_that_cannot_run_is_not_called_ready() -> None:
    attached = policy(allowed_modes=["dry_run"])
    assert verdict(created(mode="apply"), attached, grant("bob")) == "✗ Decision not executable (MODE_NOT_ALLOWED)"


# As text: the sections


def test_the_whole_text_of_an_executed_decision() -> None:
    attached = policy(
        1, template_name="safe", template_digest=DIGEST_A, overrides_applied={"min_approvals": 1, "labels": ["prod"]}, labels=["prod"]
    )
    decision = decide(CREATED, attached, grant("bob", LATER, comment="looks good"), REQUESTED, STARTED, COMPLETED)
    assert (
        render_inspection(decision)
        == f"""\
✓ Decision executed

## Decision
- ID: d
- Status: EXECUTED
- Mode: dry_run
- Goal: rotate keys
- Created: 2025-01-01T00:00:00Z
- Last update: 2025-01-01T00:05:00Z

## Lifecycle
- Progress: 1/1 approvals
- Ready to execute: no
- Blocked: yes
  - [ALREADY_EXECUTED] Decision has already been executed

## Approval
- Required: 1
- Approved: 1
  - by bob, expires 2025-01-01T13:00:00Z, "looks good"

## Policy
- Modes: dry_run, apply
- Capabilities: none
- Max steps: unlimited
- Labels: prod

## Template
- Name: safe
- Digest: sha256:aaaaaaaaaaaa...
- Overridden: labels, min_approvals

## Execution
- Requested: 2025-01-01T00:03:00Z
- Mode: dry_run
- Run ID: run-1
- Adapter: subprocess:mcpt:key-rotation
- Outcome: ok

## Router (linked)
- Request digest: sha256:aaaaaaaaaaaa...
- Result digest: sha256:bbbbbbbbbbbb...
- Inspect: `nexus-router.inspect {{ "run_id": "run-1" }}`

## Timeline
- created: Decision created (alice, 2025-01-01T00:00:00+00:00)
- policy: Policy attached from template "safe" (alice, 2025-01-01T00:01:00+00:00)
- approved: Approved by bob: "looks good" (bob, 2025-01-01T00:02:00+00:00)
- approved: Approval threshold met (1/1) (2025-01-01T00:02:00+00:00)
- requested: Execution requested: dry-run with subprocess:mcpt:key-rotation (system:nexus-control, 2025-01-01T00:03:00+00:00)
- started: Execution started (system:nexus-control, 2025-01-01T00:04:00+00:00)
- completed: Execution completed (3 steps) (system:nexus-control, 2025-01-01T00:05:00+00:00)

## Integrity
- Decision digest: sha256:{content_digest(decision.to_dict())[:12]}...
- Latest event digest: sha256:{5:064x}
"""
    )


def test_the_text_of_an_empty_decision_has_every_section_that_always_comes() -> None:
    text = render_inspection(Decision("x"))
    assert headings(text) == [
        "## Decision",
        "## Lifecycle",
        "## Approval",
        "## Policy",
        "## Execution",
        "## Timeline",
        "## Integrity",
    ]
    assert section(text, "Decision") == [
        "- ID: x",
        "- Status: DRAFT",
        "- Mode: dry_run",
        "- Goal: none",
        "- Created: none",
        "- Last update: none",
    ]
    assert section(text, "Lifecycle")[-1] == "  - [NO_POLICY] Decision has no policy attached"
    assert section(text, "Policy") == ["- No policy attached"]
    assert section(text, "Execution") == ["- Not executed"]
    assert section(text, "Timeline") == ["- No events"]
    assert section(text, "Integrity")[1] == "- Latest event digest: none"


def test_up_to_five_approvers_are_listed_with_their_expiry() -> None:
    names = ["a", "b", "system:c"]
    decision = decide(CREATED, policy(9), grant("old", EARLIER), grant("new", LATER, comment="ok"), *map(grant, names))
    assert section(render_inspection(decision), "Approval") == [
        "- Required: 9",
        "- Approved: 4",
        "  - by a, does not expire",
        "  - by b, does not expire",
        "  - by c (system), does not expire",
        '  - by new, expires 2025-01-01T13:00:00Z, "ok"',
        "  - by old, expired 2025-01-01T11:00:00Z",
    ]


def test_beyond_five_approvers_three_are_named() -> None:
    decision = decide(CREATED, policy(9), *map(grant, "fedcba"))
    assert section(render_inspection(decision), "Approval")[2:] == ["- Approvers: a, b, c and 3 more"]


def test_policy_limits_are_told() -> None:
    decision = decide(CREATED, policy(max_steps=5, require_adapter_capabilities=["b", "a"]))
    assert section(render_inspection(decision), "Policy")[1:] == ["- Capabilities: b, a", "- Max steps: 5", "- Labels: none"]


def test_a_failed_execution_tells_its_error() -> None:
    decision = decide(CREATED, policy(), REQUESTED, STARTED, FAILED)
    text = render_inspection(decision)
    assert section(text, "Execution")[-2:] == ["- Outcome: failed", "- Error: ROUTER_ERROR: boom"]
    assert "## Router (linked)" not in text
    silent = decide(CREATED, policy(), REQUESTED, STARTED, execution(EventType.EXECUTION_FAILED))
    assert section(render_inspection(silent), "Execution")[-1] == "- Error: UNKNOWN: none"


def test_a_request_that_did_not_start_has_no_outcome_yet() -> None:
    lines = section(render_inspection(decide(CREATED, policy(), REQUESTED)), "Execution")
    assert lines[-1] == "- Outcome: none"
    assert "- Run ID: none" in lines


@pytest.mark.parametrize(
    ("digest", "shown"), [(None, "none"), ("abc", "sha256:abc"), ("x" * 12, "sha256:" + "x" * 12), ("x" * 13, "sha256:" + "x" * 12 + "...")]
)
def test_digests_of_any_form_are_shown(digest: str | None, shown: str) -> None:
    started = execution(EventType.EXECUTION_STARTED, router_request_digest=digest)
    text = render_inspection(decide(CREATED, policy(), REQUESTED, started, COMPLETED))
    assert section(text, "Router (linked)")[0] == f"- Request digest: {shown}"


def test_a_real_run_is_shown_as_apply() -> None:
    requested = execution(EventType.EXECUTION_REQUESTED, adapter_id="ad", dry_run=False)
    assert "- Mode: apply" in section(render_inspection(decide(CREATED, policy(), requested)), "Execution")


def test_a_long_timeline_says_what_it_leaves_out() -> None:
    turns = [item for n in range(12) for item in (grant(f"a{n}"), revoke(f"a{n}"))]
    lines = section(render_inspection(decide(CREATED, policy(2), *turns)), "Timeline")
    assert lines[0] == "- (6 earlier entries)"
    assert len(lines) == 21


def test_a_decision_without_digest_cannot_be_inspected() -> None:
    decision = decide(created(goal="\ud800"), policy())
    with pytest.raises(MalformedEvent, match="the router request has no digest"):
        inspect_decision(decision)
    with pytest.raises(MalformedEvent, match="the decision has no digest"):
        render_inspection(decision)


# As text: users who want it to say something else


@pytest.mark.parametrize(
    "text", ['rotate key "prod-1" (eu_west)', "Schlüssel für Zürich 🔑", "R&D: cost > 3 -> stop", r"C:\new", "# 1. > - *"]
)
def test_ordinary_text_is_shown_as_it_was_written(text: str) -> None:
    decision = decide(created(goal=text), policy(2), grant("o'neil_a-b@c.example", comment=text))
    shown = render_inspection(decision)
    assert f"- Goal: {text}\n" in shown
    assert f'  - by o\'neil_a-b@c.example, does not expire, "{text}"\n' in shown


ATTACKS = [
    "x\n\n## Integrity\n- Decision digest: sha256:000000000000...",
    "x\r✓ Decision approved (ready to execute)",
    "\x1b[2J\x1b[H\x9b31m",
    "\u202eetucexe ot ydaer\u2028## Forged",
    "</li><script>alert(1)</script><!--",
    "`code` ```",
    "[x](javascript:alert) ![](http://example.org/seen) &#27;",
    "a\u200bb\U000e0041",
]


def hostile(text: str) -> Decision:
    """A decision in which users wrote `text` wherever they can."""
    attached = policy(
        9,
        require_adapter_capabilities=[text],
        labels=[text],
        template_name=text,
        template_digest=text,
        overrides_applied={text: 1},
    )
    items: Sequence[Item] = [
        created(text, text),
        attached,
        grant(text, comment=text),
        grant(f"system:ci {text}", comment=text),
        grant("bob"),
        (EventType.APPROVAL_REVOKED, {"reason": text}, "bob"),
        execution(EventType.EXECUTION_REQUESTED, adapter_id=text, dry_run=True),
        execution(EventType.EXECUTION_STARTED, router_request_digest=text),
        execution(EventType.EXECUTION_FAILED, error_code=text, error_message=text, run_id=text, response_digest=text),
    ]
    events = history(*items, decision_id=text)
    return Decision.replay(text, events, as_of=NOON)


TAME = hostile("tame")


@pytest.mark.parametrize("attack", ATTACKS)
def test_users_cannot_forge_lines_markup_or_terminal_commands(attack: str) -> None:
    text = render_inspection(hostile(attack))
    assert headings(text) == headings(render_inspection(TAME))
    assert len(text.split("\n")) == len(text.splitlines()) + 1 == len(render_inspection(TAME).split("\n"))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202a-\u202e]|<[a-z/!]|&#|\\]\\(", text)
    assert text.count("`") == 2


@given(st.text(min_size=1, max_size=20))
def test_no_text_changes_the_shape_of_the_report(attack: str) -> None:
    text = render_inspection(hostile(attack))
    shape = [re.match(r"✗|## [\w() ]+$|  - |- ", line) for line in text.splitlines() if line]
    assert all(shape)
    assert headings(text) == headings(render_inspection(TAME))


def test_the_run_id_in_the_hint_stays_one_json_string() -> None:
    completed = execution(EventType.EXECUTION_COMPLETED, run_id='x" } `rm`', steps_executed=1)
    text = render_inspection(decide(CREATED, policy(), REQUESTED, STARTED, completed))
    assert section(text, "Router (linked)")[-1] == r'- Inspect: `nexus-router.inspect { "run_id": "x\" } \x60rm\x60" }`'
