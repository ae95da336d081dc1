"""A plan string means one list of steps, or is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_attest.routers import DefaultCall, InvalidPlan, Plan, PlanNotExecutable, Step, parse_plan

SHORT: dict[str, Any] = {"tool": "keys", "method": "rotate"}
FULL: dict[str, Any] = {"step_id": "a", "intent": "why", "call": {"tool": "keys", "method": "list", "args": {"env": "staging"}}}


def steps(plan: object, default_call: DefaultCall | None = None) -> tuple[Step, ...]:
    return parse_plan(json.dumps(plan), goal="g", default_call=default_call).steps


def test_a_short_step_gets_its_number_no_intent_and_no_args() -> None:
    assert steps([SHORT, SHORT]) == (
        Step(step_id="s1", intent="", tool="keys", method="rotate", args={}),
        Step(step_id="s2", intent="", tool="keys", method="rotate", args={}),
    )


def test_a_short_step_keeps_what_it_says() -> None:
    found = steps([{**SHORT, "args": {"n": [1, 2.5, None]}, "intent": "because", "step_id": "rot\u00e9"}])
    assert found == (Step(step_id="rot\u00e9", intent="because", tool="keys", method="rotate", args={"n": [1, 2.5, None]}),)


def test_a_full_step_is_recorded_as_it_was_given() -> None:
    full = {**FULL, "expected_output_pointer": "/rotated"}
    assert [step.to_dict() for step in steps([full])] == [full]
    assert [step.to_dict() for step in steps([FULL])] == [FULL]


def test_an_object_with_steps_means_the_same_as_the_list() -> None:
    assert steps({"steps": [SHORT, FULL]}) == steps([SHORT, FULL])


def test_both_forms_may_be_mixed_and_the_number_is_that_of_the_place() -> None:
    assert [step.step_id for step in steps([FULL, SHORT, {**SHORT, "step_id": "x"}, SHORT])] == ["a", "s2", "x", "s4"]


@pytest.mark.parametrize(
    "plan", [None, "", "   ", "rotate the key, then check it", "42", '"text"', "null", "true", "NaN", "[urgent] rotate"]
)
def test_a_plan_without_steps_is_not_executable(plan: str | None) -> None:
    with pytest.raises(PlanNotExecutable, match="default_call"):
        parse_plan(plan, goal="g")


@pytest.mark.parametrize(
    ("plan", "args"),
    [
        (None, {"goal": "Rotate"}),
        ("", {"goal": "Rotate", "plan": ""}),
        ("prose \u2713", {"goal": "Rotate", "plan": "prose \u2713"}),
        ('[{"tool": "a", "method": "b"}] and more', {"goal": "Rotate", "plan": '[{"tool": "a", "method": "b"}] and more'}),
    ],
)
def test_a_plan_without_steps_is_one_default_call(plan: str | None, args: dict[str, object]) -> None:
    found = parse_plan(plan, goal="Rotate", default_call=DefaultCall("agent", "do"))
    assert found == Plan((Step(step_id="s1", intent="", tool="agent", method="do", args=args),), "stop")


@pytest.mark.parametrize("plan", ["[]", '{"steps": []}', " [ ] "])
def test_an_empty_list_of_steps_never_becomes_a_default_call(plan: str) -> None:
    with pytest.raises(PlanNotExecutable, match="empty list"):
        parse_plan(plan, goal="g", default_call=DefaultCall("agent", "do"))


MISUNDERSTOOD: list[tuple[Any, str]] = [
    ({"steps": [SHORT], "on_fail": "continue"}, "the plan has the unknown key 'on_fail'; known are steps, on_error"),
    ({"steps": [SHORT], "on_error": "ignore"}, "on_error must be 'stop' or 'continue'"),
    ({"steps": [SHORT], "on_error": None}, "on_error must be 'stop' or 'continue'"),
    ({"steps": [SHORT], "on_error": ["stop"]}, "on_error must be 'stop' or 'continue'"),
    ({"step": [SHORT]}, "the plan has the unknown key 'step'"),
    ({}, "must be a list of steps"),
    ({"steps": SHORT}, "must be a list of steps"),
    ({"steps": None}, "must be a list of steps"),
    ([SHORT, "list"], "step 2 must be an object"),
    ([None], "step 1 must be an object"),
    ([[SHORT]], "step 1 must be an object"),
    ([{**SHORT, "arg": {}}], "step 1 has the unknown key 'arg'"),
    ([{**SHORT, "expected_output_pointer": "/x"}], "unknown key 'expected_output_pointer'"),
    ([{**SHORT, **FULL}], "step 1 has the unknown key 'tool'"),
    ([{**FULL, "retry": 3}], "step 1 has the unknown key 'retry'"),
    ([{"call": {**SHORT, "timeout": 1}}], "step 1: call has the unknown key 'timeout'"),
    ([{"call": None}], "step 1: call must be an object"),
    ([{"tool": "keys"}], "step 1: method must be a non-empty string"),
    ([{"method": "rotate"}], "step 1: tool must be a non-empty string"),
    ([{**SHORT, "tool": ""}], "step 1: tool must be a non-empty string"),
    ([{**SHORT, "method": 1}], "step 1: method must be a non-empty string"),
    ([{**SHORT, "args": []}], "step 1: args must be an object"),
    ([{**SHORT, "args": None}], "step 1: args must be an object"),
    ([{**SHORT, "args": "{}"}], "step 1: args must be an object"),
    ([{**SHORT, "intent": None}], "step 1: intent must be a string"),
    ([{**SHORT, "step_id": 1}], "step 1: step_id must be a string"),
    ([{**SHORT, "step_id": None}], "step 1: step_id must be a string"),
    ([{**SHORT, "step_id": ""}], "1 to 128 characters"),
    ([{**SHORT, "step_id": "a" * 129}], "1 to 128 characters"),
    ([{**SHORT, "step_id": "a\n"}], "no control characters"),
    ([{**SHORT, "step_id": "a\0b"}], "no control characters"),
    ([{**FULL, "expected_output_pointer": None}], "expected_output_pointer must be a string"),
    ([FULL, FULL], "step_id 'a' occurs twice"),
    ([{**SHORT, "step_id": "s2"}, SHORT], "step_id 's2' occurs twice"),
]


@pytest.mark.parametrize(("plan", "problem"), MISUNDERSTOOD)
def test_a_step_that_is_not_understood_completely_is_refused(plan: object, problem: str) -> None:
    with pytest.raises(InvalidPlan, match=problem) as caught:
        steps(plan, DefaultCall("agent", "do"))
    assert caught.value.code == "PLAN_INVALID"


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        ('[{"tool": "keys", "method": "list", "method": "rotate"}]', "duplicate key 'method'"),
        ('[{"tool": "a", "method": "b", "args": {"n": NaN}}]', "finite"),
        ('[{"tool": "a", "method": "b", "args": {"n": 1e999}}]', "finite"),
        ('[{"tool": "a", "method": "b", "args": {"n": "\\ud800"}}]', "surrogates"),
        ("[" * 100_000, "nested deeper"),
        ('[{"tool": "a", "method": "b", "args": {"n": ' + "9" * 5_000 + "}}]", "digits"),
    ],
)
def test_json_that_two_readers_could_understand_differently_is_refused_and_no_prose(plan: str, problem: str) -> None:
    with pytest.raises(InvalidPlan, match=problem):
        parse_plan(plan, goal="g", default_call=DefaultCall("agent", "do"))


def test_the_codes_tell_a_wrong_plan_from_one_without_steps() -> None:
    assert (InvalidPlan.code, PlanNotExecutable.code) == ("PLAN_INVALID", "PLAN_NOT_EXECUTABLE")


@pytest.mark.parametrize(("given", "on_error"), [({}, "stop"), ({"on_error": "stop"}, "stop"), ({"on_error": "continue"}, "continue")])
def test_a_plan_says_whether_a_failed_step_ends_it(given: dict[str, str], on_error: str) -> None:
    assert parse_plan(json.dumps({"steps": [SHORT], **given}), goal="g").on_error == on_error


@given(st.text())
def test_any_text_is_a_default_call_or_refused(plan: str) -> None:
    call = DefaultCall("agent", "do")
    try:
        found = parse_plan(plan, goal="g", default_call=call)
    except InvalidPlan:
        return
    assert found == parse_plan(plan, goal="g", default_call=call)


@given(st.lists(st.fixed_dictionaries({"tool": st.text(min_size=1), "method": st.text(min_size=1)}), min_size=1, max_size=5))
def test_the_steps_of_a_plan_are_a_plan_with_the_same_steps(plan: list[dict[str, str]]) -> None:
    first = steps(plan)
    assert steps([step.to_dict() for step in first]) == first
