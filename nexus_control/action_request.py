"""What a request asks for: an action under a policy, whose values come from arguments, or from a template that they override.

Values in, values out: who asks, under which id, and whether it is stored, is the caller's matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_control.canonical_json import canonical_json
from nexus_control.decision import Decision, TemplateRef
from nexus_control.errors import InputError, InvalidPolicy, ModeNotAllowed, brief
from nexus_control.event_store import EventItem
from nexus_control.events import Actor, EventType
from nexus_control.identity import Identity
from nexus_control.policy import Policy
from nexus_control.template import Template

__all__ = ["ActionRequest", "compose_request", "merge_overrides"]


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """An action that may be asked for: its mode is one that its policy allows."""

    goal: str
    plan: str | None
    mode: str
    policy: Policy
    template: TemplateRef | None

    def decision(self, decision_id: str) -> Decision:
        """The decision as it stands when this has been asked for, without events."""
        return Decision(
            decision_id,
            goal=self.goal,
            plan=self.plan,
            requested_mode=self.mode,
            labels=list(self.policy.labels),
            policy=self.policy,
            template_ref=self.template,
        )

    def events(self, who: Actor, identity: Identity) -> list[EventItem]:
        """What is appended when `who` asks for this."""
        created = {
            "goal": self.goal,
            "plan": self.plan,
            "requested_mode": self.mode,
            "labels": list(self.policy.labels),
            **identity.members(),
        }
        attached: dict[str, Any] = self.policy.to_dict()
        if self.template is not None:
            attached |= {
                "template_name": self.template.name,
                "template_digest": self.template.digest,
                "template_snapshot": self.template.snapshot,
                "overrides_applied": self.template.overrides_applied,
            }
        return [(EventType.DECISION_CREATED, who, created), (EventType.POLICY_ATTACHED, who, attached)]

    def summary(self) -> dict[str, Any]:
        """What the asker is told."""
        data: dict[str, Any] = {"state": "pending_approval", "min_approvals": self.policy.min_approvals, "current_approvals": 0}
        if self.template is not None:
            data |= {"template_name": self.template.name, "template_digest": self.template.digest}
            if self.template.overrides_applied:
                data["overrides_applied"] = self.template.overrides_applied
        return data


def compose_request(goal: str, plan: str | None, mode: str, given: Mapping[str, Any], template: Template | None) -> ActionRequest:
    """The request with these values of its policy. Raises InvalidPolicy, ModeNotAllowed."""
    policy = _effective_policy(given, template, mode)
    if mode not in policy.allowed_modes:
        raise ModeNotAllowed(f"mode {brief(mode)} is not in allowed_modes {list(policy.allowed_modes)}")
    reference = None
    if template is not None:
        values = policy.to_dict()
        reference = TemplateRef(template.name, template.digest(), template.to_snapshot(), {key: values[key] for key in given})
    return ActionRequest(goal, plan, mode, policy, reference)


def merge_overrides(plain: Mapping[str, Any], overrides: Mapping[str, Any], *, has_template: bool) -> dict[str, Any]:
    """The policy arguments that were given, under their plain names. Raises InputError for a contradiction."""
    given = {key: value for key, value in plain.items() if value is not None}
    for key, value in overrides.items():
        if value is None:
            continue
        if not has_template:
            raise InputError(f"override_{key} needs a template_name")
        if key in given and (type(given[key]), given[key]) != (type(value), value):  # True is no 1 for a policy either
            raise InputError(f"{key} and override_{key} are given with different values")
        given[key] = value
    return given


def _effective_policy(given: Mapping[str, Any], template: Template | None, mode: object) -> Policy:
    """The policy that will be attached. Raises InvalidPolicy."""
    defaults: dict[str, Any] = {"allowed_modes": ["dry_run", "apply"] if mode == "apply" else ["dry_run"]}
    if template is not None:
        defaults = template.policy().to_dict()
    policy = Policy(**{**defaults, **given})
    try:
        canonical_json(policy.to_dict())
    except ValueError as problem:
        raise InvalidPolicy(f"the policy cannot be stored: {problem}") from None
    return policy
