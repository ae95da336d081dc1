"""Policies: construction, stored form, router request, judgement of a request."""

import math
from dataclasses import FrozenInstanceError, replace
from enum import StrEnum
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_control.errors import InvalidPolicy
from nexus_control.integrity import content_digest
from nexus_control.policy import POLICY_FIELDS, Policy, PolicyValidationResult, validate_execution_request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
POLICIES = st.builds(
    Policy,
    min_approvals=st.integers(1, 99),
    allowed_modes=st.lists(st.sampled_from(["dry_run", "apply"]), min_size=1, max_size=2),
    require_adapter_capabilities=st.lists(st.text(max_size=5), max_size=3),
    max_steps=st.none() | st.integers(1),
    labels=st.lists(st.text(max_size=5), max_size=3),
)


def test_a_policy_without_arguments_allows_one_rehearsal_under_one_approval() -> None:
    policy = Policy()
    assert policy.min_approvals == 1
    assert policy.allowed_modes == ("dry_run",)
    assert policy.require_adapter_capabilities == ()
    assert policy.max_steps is None
    assert policy.labels == ()


def test_the_positional_order_is_the_order_of_the_fields() -> None:
    policy = Policy(2, ("apply",), ("timeout",), 5, ("prod",))
    assert [getattr(policy, name) for name in POLICY_FIELDS] == [2, ("apply",), ("timeout",), 5, ("prod",)]


def test_lists_are_kept_as_tuples_so_that_policies_can_be_hashed() -> None:
    policy = Policy(allowed_modes=["dry_run", "apply"], require_adapter_capabilities=["b", "a"], labels=["x"])
    assert policy == Policy(allowed_modes=("dry_run", "apply"), require_adapter_capabilities=("b", "a"), labels=("x",))
    assert policy.require_adapter_capabilities == ("b", "a")
    assert len({policy, Policy(allowed_modes=("dry_run", "apply"), require_adapter_capabilities=("b", "a"), labels=("x",))}) == 1


def test_a_policy_keeps_its_own_copy_of_the_lists_it_was_given() -> None:
    modes = ["dry_run"]
    policy = Policy(allowed_modes=modes)
    modes.append("apply")
    assert policy.allowed_modes == ("dry_run",)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Policy().min_approvals = 5  # pyright: ignore[reportAttributeAccessIssue]


def test_replacing_a_field_validates_the_new_value() -> None:
    assert replace(Policy(), min_approvals=3) == Policy(3)
    with pytest.raises(InvalidPolicy):
        replace(Policy(), min_approvals=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_approvals": 0}, "min_approvals must be at least 1"),
        ({"min_approvals": -(10**5000)}, "min_approvals must be at least 1"),
        ({"min_approvals": True}, "min_approvals must be an integer, got bool"),
        ({"min_approvals": 2.0}, "min_approvals must be an integer, got float"),
        ({"min_approvals": math.nan}, "min_approvals must be an integer, got float"),
        ({"min_approvals": "2"}, "min_approvals must be an integer, got str"),
        ({"min_approvals": None}, "min_approvals must be an integer, got NoneType"),
        ({"allowed_modes": ()}, "allowed_modes cannot be empty"),
        ({"allowed_modes": ["dry_run", "force"]}, "Invalid mode in allowed_modes: 'force'"),
        ({"allowed_modes": ["DRY_RUN"]}, "Invalid mode"),
        ({"allowed_modes": [["apply"]]}, "Invalid mode"),
        ({"allowed_modes": [None]}, "Invalid mode"),
        ({"allowed_modes": "apply"}, "allowed_modes must be a list of strings, got str"),
        ({"allowed_modes": None}, "allowed_modes must be a list of strings, got NoneType"),
        ({"allowed_modes": {"apply"}}, "allowed_modes must be a list of strings, got set"),
        ({"require_adapter_capabilities": "timeout"}, "require_adapter_capabilities must be a list of strings, got str"),
        ({"require_adapter_capabilities": [1]}, "require_adapter_capabilities must contain only strings, got int"),
        ({"require_adapter_capabilities": ["\ud800"]}, "require_adapter_capabilities must not contain lone surrogates"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_steps": False}, "max_steps must be an integer, got bool"),
        ({"max_steps": "10"}, "max_steps must be an integer, got str"),
        ({"labels": "prod"}, "labels must be a list of strings, got str"),
        ({"labels": ["prod", b"x"]}, "labels must contain only strings, got bytes"),
        ({"labels": {"prod": 1}}, "labels must be a list of strings, got dict"),
    ],
)
def test_a_value_that_is_no_policy_is_refused_with_its_reason(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPolicy, match=message) as caught:
        Policy(**arguments)
    assert isinstance(caught.value, ValueError)


def test_modes_are_matched_whole() -> None:
    policy = Policy(allowed_modes=("apply",))
    assert policy.allows_mode("apply")
    assert not policy.allows_mode("dry_run")
    assert not policy.allows_mode("app")
    assert not policy.allows_mode("")


def test_the_stored_form_has_the_five_fields_with_lists() -> None:
    policy = Policy(2, ("dry_run", "apply"), ("timeout",), 5, ("prod",))
    assert policy.to_dict() == {
        "min_approvals": 2,
        "allowed_modes": ["dry_run", "apply"],
        "require_adapter_capabilities": ["timeout"],
        "max_steps": 5,
        "labels": ["prod"],
    }
    assert tuple(policy.to_dict()) == POLICY_FIELDS


def test_editing_the_stored_form_leaves_the_policy_alone() -> None:
    policy = Policy()
    policy.to_dict()["allowed_modes"].append("apply")
    assert policy.allowed_modes == ("dry_run",)


@given(POLICIES)
def test_the_stored_form_gives_the_policy_back(policy: Policy) -> None:
    assert Policy.from_dict(policy.to_dict()) == policy


def test_missing_keys_take_the_defaults_and_other_keys_are_ignored() -> None:
    assert Policy.from_dict({}) == Policy()
    assert Policy.from_dict({"template_name": "t", "max_steps": None}) == Policy()


def test_what_is_no_list_falls_back_to_the_default_of_its_field() -> None:
    data = {"allowed_modes": "apply", "require_adapter_capabilities": {"a": 1}, "labels": None}
    assert Policy.from_dict(data) == Policy()


def test_tuples_are_as_good_as_lists_in_data_that_was_never_stored() -> None:
    assert Policy.from_dict({"allowed_modes": ("apply",), "labels": ("x",)}) == Policy(allowed_modes=("apply",), labels=("x",))


@pytest.mark.parametrize(("given", "expected"), [(3, 3), (3.0, 3), ("3", 3)])
def test_numbers_are_converted_and_never_replaced_by_a_default(given: object, expected: int) -> None:
    policy = Policy.from_dict({"min_approvals": given, "max_steps": given})
    assert (policy.min_approvals, policy.max_steps) == (expected, expected)
    assert type(policy.min_approvals) is int


UNREADABLE: list[Any] = [
    {"min_approvals": "x"},
    {"min_approvals": ""},
    {"min_approvals": "9" * 5000},
    {"min_approvals": None},
    {"min_approvals": True},
    {"min_approvals": [2]},
    {"min_approvals": 0},
    {"min_approvals": 0.9},
    {"min_approvals": math.nan},
    {"min_approvals": math.inf},
    {"max_steps": "many"},
    {"max_steps": {}},
    {"max_steps": True},
    {"max_steps": -1},
    {"allowed_modes": []},
    {"allowed_modes": ["force"]},
    {"allowed_modes": [{}]},
    {"labels": [1]},
    [],
    "policy",
    None,
]


@pytest.mark.parametrize("data", UNREADABLE)
def test_stored_data_that_cannot_be_understood_is_refused(data: Any) -> None:
    with pytest.raises(InvalidPolicy):
        Policy.from_dict(data)


@given(st.dictionaries(st.sampled_from(POLICY_FIELDS), JSON) | JSON)
def test_stored_data_is_a_policy_or_refused_by_name(data: Any) -> None:
    try:
        policy = Policy.from_dict(data)
    except InvalidPolicy:
        return
    assert Policy.from_dict(policy.to_dict()) == policy
    assert len(content_digest(policy.to_dict())) == 64


def test_the_smallest_router_request_has_three_keys() -> None:
    assert Policy(labels=["secret"]).compile_to_router_request("g", None, "ad", True) == {"goal": "g", "adapter_id": "ad", "dry_run": True}


def test_a_full_router_request_keeps_the_order_of_the_capabilities() -> None:
    policy = Policy(max_steps=3, require_adapter_capabilities=["b", "a"])
    assert policy.compile_to_router_request(goal="g", plan="", adapter_id="ad", dry_run=False) == {
        "goal": "g",
        "adapter_id": "ad",
        "dry_run": False,
        "plan": "",
        "max_steps": 3,
        "require_capabilities": ["b", "a"],
    }


def test_the_digest_of_a_router_request_is_frozen() -> None:
    request = Policy(max_steps=10, require_adapter_capabilities=("timeout",)).compile_to_router_request("g", None, "ad", True)
    assert content_digest(request) == "f8178d151f0f67a5779c6296c37bd38894500e8409b8107014d2839a96af371d"


def test_a_result_is_true_exactly_when_valid_and_can_be_edited() -> None:
    result = PolicyValidationResult(True)
    assert result
    assert result.errors == []
    result.valid = False
    assert not result
    assert PolicyValidationResult(True).errors is not PolicyValidationResult(True).errors


def test_a_request_that_satisfies_everything_is_valid() -> None:
    policy = Policy(2, ("apply",), ("timeout",))
    result = validate_execution_request(policy, "apply", 2, {"timeout", "more"})
    assert result == PolicyValidationResult(True, [])


def test_every_problem_is_told_in_the_order_mode_approvals_capabilities() -> None:
    policy = Policy(2, ("dry_run",), ("z", "a", "m"))
    assert validate_execution_request(policy, "apply", 1, {"m"}).errors == [
        "Mode 'apply' is not allowed by the policy (allowed: dry_run)",
        "Insufficient approvals: 1 of 2",
        "Adapter is missing required capabilities: a, z",
    ]


@pytest.mark.parametrize(("given", "enough"), [(0, False), (1, False), (2, True), (3, True), (1000, True)])
def test_as_many_approvals_as_are_needed_are_enough_and_so_are_more(given: int, enough: bool) -> None:
    assert validate_execution_request(Policy(min_approvals=2), "dry_run", given).valid is enough


def test_unknown_capabilities_are_not_judged_but_an_empty_set_is() -> None:
    policy = Policy(require_adapter_capabilities=("timeout",))
    assert validate_execution_request(policy, "dry_run", 1)
    assert validate_execution_request(policy, "dry_run", 1, None)
    assert validate_execution_request(policy, "dry_run", 1, set()).errors == ["Adapter is missing required capabilities: timeout"]


def test_a_mode_that_is_no_mode_is_not_allowed() -> None:
    assert not validate_execution_request(Policy(), "", 1)
    assert not validate_execution_request(Policy(), cast("str", None), 1)


def test_string_enums_count_as_the_strings_they_are() -> None:
    class Mode(StrEnum):
        APPLY = "apply"

    assert Policy(allowed_modes=[Mode.APPLY]) == Policy(allowed_modes=["apply"])
