"""`NexusControlTools`: the engine as a set of calls, each of which parses its arguments, acts in one transaction, and shapes a result.

A call never raises for an argument of the wrong type, shape or value, or for a command that the decision does not allow: it returns
`ToolResult(success=False)` with a stable code. Any other exception is a bug and surfaces.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, cast

from nexus_control.action_request import compose_request, merge_overrides
from nexus_control.audit_export import FlightRecords, export_audit_package, render_audit_package
from nexus_control.audit_record import audit_record
from nexus_control.bundle import ConflictMode
from nexus_control.canonical_json import canonical_json
from nexus_control.decision import Decision
from nexus_control.errors import CodedError, InputError, NexusError, SignatureReplayed, TemplateNotFound
from nexus_control.events import Actor, EventType, parse_actor, parse_expires_at, require_text
from nexus_control.execution import RouterProtocol, abandon_execution, execute_decision
from nexus_control.export import export_decision, render_export
from nexus_control.identity import NO_TRUST, Assurance, Identity, Trust, parse_identity, require_statement
from nexus_control.import_ import import_bundle
from nexus_control.inspection import inspect_decision, render_inspection
from nexus_control.integrity import prefixed, sha256_digest
from nexus_control.judgement import judge_approval, judge_identity, judge_revocation, look_alikes
from nexus_control.lifecycle import compute_blocking_reasons
from nexus_control.past import past_of
from nexus_control.schema import LARGEST_INT
from nexus_control.store import EventStore, open_store
from nexus_control.template import Template, TemplateStore

__all__ = ["NexusControlTools", "RouterProtocol", "ToolResult"]


P = ParamSpec("P")


@dataclass
class ToolResult:
    """What a tool returns. `code` is the stable code of the error; `error` starts with it where the text for people does not."""

    success: bool
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str | None = None
    code: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """`{"success": True, **data}` or `{"success": False, "error": text}`."""
        return {"success": True, **self.data} if self.success else {"success": False, "error": self.error}


def _tool(
    method: "Callable[Concatenate[NexusControlTools, P], dict[str, Any]]",
) -> "Callable[Concatenate[NexusControlTools, P], ToolResult]":
    """The boundary: errors of the engine become results here, and nowhere else."""

    def perform(self: "NexusControlTools", *args: P.args, **kwargs: P.kwargs) -> ToolResult:
        try:
            return ToolResult(success=True, data=method(self, *args, **kwargs))
        except NexusError as error:
            return ToolResult(success=False, error=error.describe(), code=error.code)

    @wraps(method)
    def call(self: "NexusControlTools", *args: P.args, **kwargs: P.kwargs) -> ToolResult:
        if self.around is None:
            return perform(self, *args, **kwargs)
        return self.around(method.__name__, lambda: perform(self, *args, **kwargs))

    return call


class NexusControlTools:
    """Request, approve, execute and prove decisions in one store.

    `store` is used when given, otherwise the one at `db_path` is opened: a `DecisionStore` on a file or, where nexus_attest was imported, a
    `PostgresStore` on `postgresql://...`; close it with `tools.store.close()`. Every call returns a `ToolResult`; times are ISO 8601 in
    UTC, digests raw hex unless they start with `sha256:`.

    `request`, `approve`, `revoke_approval` and `execute` take `assurance`, `channel` and `signature`, which say how their actor was
    established (`identity.Identity`) and are recorded when given. `trust` judges each of them, and each approval whenever it is
    counted; without one names are believed, and signatures neither taken nor counted. Their errors, besides those that each
    names: SIGNATURE_MISSING, ENVELOPE_INVALID, SIGNATURE_FOR_OTHER_COMMAND, SIGNATURE_FOR_OTHER_DECISION, SIGNATURE_FOR_OTHER_ACTION,
    SIGNATURE_FOR_OTHER_ACTOR, SIGNATURE_REPLAYED, VERIFIER_MISSING, and those of the trust.

    `around(name, proceed)`, when given, is called for every call and returns what `proceed()` returns: for those who measure or log.

    `flight_records` is where `export_audit_package` finds the record of a run by itself; by default the router of the last `execute`, if it
    keeps any.
    """

    def __init__(
        self,
        store: EventStore | None = None,
        db_path: str | Path = ":memory:",
        *,
        trust: Trust | None = None,
        flight_records: FlightRecords | None = None,
        around: Callable[[str, Callable[[], ToolResult]], ToolResult] | None = None,
    ) -> None:
        self.around = around
        self.store: EventStore = open_store(db_path) if store is None else store
        self.trust: Trust = NO_TRUST if trust is None else trust
        self.flight_records = flight_records
        self._last_router: object = None
        self._templates: TemplateStore | None = None

    @property
    def template_store(self) -> TemplateStore:
        """The templates of the same store, one object per tools object."""
        if self._templates is None:
            self._templates = self.store.get_template_store()
        return self._templates

    # -- decisions ------------------------------------------------------------------------------------------------------------

    @_tool
    def request(
        self,
        goal: str,
        actor: Mapping[str, str],
        mode: str = "dry_run",
        plan: str | None = None,
        template_name: str | None = None,
        min_approvals: int | None = None,
        allowed_modes: Sequence[str] | None = None,
        require_adapter_capabilities: Sequence[str] | None = None,
        max_steps: int | None = None,
        labels: Sequence[str] | None = None,
        *,
        override_min_approvals: int | None = None,
        override_allowed_modes: Sequence[str] | None = None,
        override_require_adapter_capabilities: Sequence[str] | None = None,
        override_max_steps: int | None = None,
        override_labels: Sequence[str] | None = None,
        assurance: Assurance | None = None,
        channel: str | None = None,
        signature: Mapping[str, Any] | str | None = None,
        preview: bool = False,
    ) -> dict[str, Any]:
        """Ask for an action. The policy comes from the arguments, or from a template whose values the arguments override.

        With `preview` nothing is written: the answer has the `action_digest` to sign, and an id that a signed request may use.

        Errors: INVALID_ARGUMENT, INVALID_ACTOR, INVALID_POLICY, TEMPLATE_NOT_FOUND, MODE_NOT_ALLOWED.
        """
        who, identity = parse_actor(actor), parse_identity(assurance, channel, signature)
        if not require_text(goal, "goal"):
            raise InputError("goal must not be empty")
        plan = _optional_text(plan, "plan")
        template = None if template_name is None else self._template(require_text(template_name, "template_name"))
        given = merge_overrides(
            {
                "min_approvals": min_approvals,
                "allowed_modes": allowed_modes,
                "require_adapter_capabilities": require_adapter_capabilities,
                "max_steps": max_steps,
                "labels": labels,
            },
            {
                "min_approvals": override_min_approvals,
                "allowed_modes": override_allowed_modes,
                "require_adapter_capabilities": override_require_adapter_capabilities,
                "max_steps": override_max_steps,
                "labels": override_labels,
            },
            has_template=template is not None,
        )
        request = compose_request(goal, plan, mode, given, template)
        request_id = self.store.new_id() if identity.envelope is None else identity.envelope.statement.decision_id
        asked, data = request.decision(request_id), {"request_id": request_id, **request.summary()}
        if _flag(preview, "preview"):
            return {**data, "state": "preview", "action_digest": prefixed(asked.action_digest)}
        items = request.events(who, identity)
        with self.store.transaction():
            self._judge_request(asked, who, identity)
            self.store.append_events(request_id, items, create=True)
        return data

    def _judge_request(self, asked: Decision, who: Actor, identity: Identity) -> None:
        if identity.envelope is not None:
            require_statement(identity.envelope, action="request", decision_id=None, actor=who, comment=None, expires_at=None)
            if self.store.list_generations(asked.decision_id):
                raise SignatureReplayed(f"the signed request is for the id {asked.decision_id}, which has been used")
        elif self.trust is NO_TRUST:
            return
        judge_identity(asked, "request", who, identity, self.store.clock(), self.trust)

    @_tool
    def approve(
        self,
        request_id: str,
        actor: Mapping[str, str],
        comment: str | None = None,
        expires_at: Any = None,
        *,
        assurance: Assurance | None = None,
        channel: str | None = None,
        signature: Mapping[str, Any] | str | None = None,
    ) -> dict[str, Any]:
        """Approve a decision, until `expires_at` (a time with offset, or ISO text; None for good).

        Errors: DECISION_NOT_FOUND, INVALID_ACTOR, INVALID_EXPIRES_AT, CANNOT_APPROVE, ALREADY_APPROVED, LOOK_ALIKE_ACTOR.
        """
        who, decision_id = parse_actor(actor), _id(request_id)
        identity = parse_identity(assurance, channel, signature)
        expiry = parse_expires_at(expires_at)
        payload: dict[str, Any] = {"expires_at": None if expiry is None else expiry.isoformat()}
        if comment := _optional_text(comment, "comment"):
            payload["comment"] = comment
        payload |= identity.members()
        if identity.envelope is not None:
            require_statement(
                identity.envelope,
                action="approve",
                decision_id=decision_id,
                actor=who,
                comment=comment,
                expires_at=payload["expires_at"],
            )
        with self.store.transaction():
            now = self.store.clock()
            history = self.store.history(decision_id)
            decision = Decision.replay(decision_id, history.events, as_of=now, trust=self.trust)
            decision.earlier = past_of(self.store, decision_id, history)
            judge_identity(decision, "approve", who, identity, now, self.trust)
            judge_approval(decision, who.id, now)
            decision.earlier = None  # what is told is what `status` tells
            decision.apply_event(self.store.append_event(decision_id, EventType.APPROVAL_GRANTED, who, payload, after=history.end))
        return {**_standing(decision), "required_approvals": 0 if decision.policy is None else decision.policy.min_approvals}

    @_tool
    def revoke_approval(
        self,
        request_id: str,
        actor: Mapping[str, str],
        reason: str = "",
        *,
        assurance: Assurance | None = None,
        channel: str | None = None,
        signature: Mapping[str, Any] | str | None = None,
    ) -> dict[str, Any]:
        """Take an approval back, before it has been used.

        Errors: DECISION_NOT_FOUND, INVALID_ACTOR, CANNOT_REVOKE, NOT_APPROVED, ALREADY_REVOKED.
        """
        who, decision_id, reason = parse_actor(actor), _id(request_id), require_text(reason, "reason")
        identity = parse_identity(assurance, channel, signature)
        payload = {"reason": reason, **identity.members()}
        if identity.envelope is not None:
            require_statement(identity.envelope, action="revoke", decision_id=decision_id, actor=who, comment=reason, expires_at=None)
        with self.store.transaction():
            now = self.store.clock()
            history = self.store.history(decision_id)
            decision = Decision.replay(decision_id, history.events, as_of=now, trust=self.trust)
            judge_identity(decision, "revoke", who, identity, now, self.trust)
            judge_revocation(decision, who.id)
            decision.apply_event(self.store.append_event(decision_id, EventType.APPROVAL_REVOKED, who, payload, after=history.end))
        return _standing(decision)

    @_tool
    def execute(
        self,
        request_id: str,
        adapter_id: str,
        actor: Mapping[str, str],
        router: RouterProtocol,
        dry_run: bool | None = None,
        *,
        retry: bool = False,
        assurance: Assurance | None = None,
        channel: str | None = None,
        signature: Mapping[str, Any] | str | None = None,
    ) -> dict[str, Any]:
        """Run the approved action through the router, at most once per authorization; `retry` allows one more after a failed run.

        Errors: DECISION_NOT_FOUND, INVALID_ACTOR, INVALID_ROUTER, NO_POLICY, POLICY_VALIDATION_FAILED, ACTION_CHANGED,
        ALREADY_EXECUTED, EXECUTION_IN_PROGRESS, EXECUTION_FAILED, EXECUTION_SUPERSEDED, ROUTER_ERROR (or the router's own code),
        ROUTER_RESPONSE_INVALID, OUTCOME_NOT_RECORDED; INVALID_ARGUMENT inside a transaction of the store too.
        """
        who, decision_id = parse_actor(actor), _id(request_id)
        if not require_text(adapter_id, "adapter_id"):
            raise InputError("adapter_id must not be empty")
        wanted = None if dry_run is None else _flag(dry_run, "dry_run")
        identity = parse_identity(assurance, channel, signature)
        if identity.envelope is not None:
            require_statement(identity.envelope, action="execute", decision_id=decision_id, actor=who, comment=None, expires_at=None)
        self._last_router = router
        outcome = execute_decision(
            self.store,
            decision_id,
            adapter_id,
            who,
            router,
            wanted,
            retry=_flag(retry, "retry"),
            identity=identity,
            trust=self.trust,
        )
        return {
            "request_id": decision_id,
            "run_id": outcome.run_id,
            "mode": outcome.mode,
            "steps_executed": outcome.steps_executed,
            "request_digest": outcome.request_digest,
            "response_digest": outcome.response_digest,
        }

    @_tool
    def recover_execution(self, request_id: str, actor: Mapping[str, str], reason: str = "") -> dict[str, Any]:
        """Declare an execution abandoned whose process died. Whether its side effects happened stays unknown.

        The run that it had begun is named when `flight_records` knows it; while that has no end, its process may live, and nothing is
        recorded (RUN_NOT_FINISHED).

        Errors: DECISION_NOT_FOUND, INVALID_ACTOR, NOTHING_TO_RECOVER, RUN_NOT_FINISHED.
        """
        who, decision_id = parse_actor(actor), _id(request_id)
        decision = abandon_execution(self.store, decision_id, who, require_text(reason, "reason"), self._flight_records())
        return {"request_id": decision_id, "state": decision.state.value, "error_code": "EXECUTION_ABANDONED"}

    # -- reading --------------------------------------------------------------------------------------------------------------

    @_tool
    def status(self, request_id: str, include_events: bool = False) -> dict[str, Any]:
        """The decision as it stands, with what blocks its execution. Errors: DECISION_NOT_FOUND, EVENT_UNREADABLE.

        `look_alikes`, when there are any, are groups of ids of the requester and of approvals that count which look the same (`likeness`).
        """
        decision = self._load(request_id)
        data = decision.to_dict()
        data["blocking_reasons"] = [reason.to_dict() for reason in compute_blocking_reasons(decision)]
        if twins := look_alikes(decision):
            data["look_alikes"] = twins
        if _flag(include_events, "include_events"):
            data["events"] = [event.to_dict() for event in decision.events]
        return data

    @_tool
    def list_requests(self, limit: int = 100, offset: int = 0) -> dict[str, Any]:
        """A page of decisions, newest first. One that cannot be read is listed with state `invalid` and does not hide the others."""
        limit, offset = _count(limit, "limit"), _count(offset, "offset")
        now = self.store.clock()
        with self.store.snapshot():
            page = self.store.decision_page(limit, offset)
            events = self.store.get_events_of([decision_id for decision_id, _ in page])
        requests: list[dict[str, Any]] = []
        for decision_id, created_at in page:
            entry: dict[str, Any] = {"request_id": decision_id, "created_at": created_at}
            try:
                found = events[decision_id]
                if isinstance(found, NexusError):
                    raise found
                decision = Decision.replay(decision_id, found, as_of=now, trust=self.trust)
                entry |= {"state": decision.state.value, "goal": decision.goal, "is_approved": decision.is_approved}
            except NexusError as error:
                entry |= {"state": "invalid", "goal": None, "is_approved": False, "error": error.describe()}
            requests.append(entry)
        return {"requests": requests, "count": len(requests), "offset": offset, "limit": limit}

    @_tool
    def inspect(
        self, decision_id: str, render: bool = True, include_events: bool = False, include_compiled_router_request: bool = True
    ) -> dict[str, Any]:
        """Everything about a decision for a person or a program, read-only. Errors: DECISION_NOT_FOUND, EVENT_UNREADABLE."""
        decision = self._load(decision_id)
        data = inspect_decision(
            decision,
            include_events=_flag(include_events, "include_events"),
            include_compiled_router_request=_flag(include_compiled_router_request, "include_compiled_router_request"),
        )
        if _flag(render, "render"):
            data["rendered"] = render_inspection(decision)
        return data

    @_tool
    def export_audit_record(self, request_id: str) -> dict[str, Any]:
        """The decision with all its events, approvals and executions as one record, and its digest. Errors: DECISION_NOT_FOUND."""
        record = audit_record(self._load(request_id), self.store.clock())
        text = canonical_json(record)
        return {"audit_record": record, "record_digest": sha256_digest(text.encode()), "canonical_json": text}

    # -- templates ------------------------------------------------------------------------------------------------------------

    @_tool
    def template_create(
        self,
        name: str,
        actor: Mapping[str, str],
        description: str = "",
        min_approvals: int = 1,
        allowed_modes: Sequence[str] | None = None,
        require_adapter_capabilities: Sequence[str] | None = None,
        max_steps: int | None = None,
        labels: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Store an immutable policy template. Errors: INVALID_ACTOR, INVALID_TEMPLATE, TEMPLATE_ALREADY_EXISTS."""
        template = self.template_store.create_template(
            name, parse_actor(actor), description, min_approvals, allowed_modes, require_adapter_capabilities, max_steps, labels
        )
        return {
            "template_name": template.name,
            "description": template.description,
            "digest": template.digest(),
            "created_at": template.to_dict()["created_at"],
        }

    @_tool
    def template_list(self, limit: int = 100, offset: int = 0, label_filter: str | None = None) -> dict[str, Any]:
        """A page of templates, newest first, optionally those with exactly one label."""
        limit, offset, label = _count(limit, "limit"), _count(offset, "offset"), _optional_text(label_filter, "label_filter")
        shown = ("name", "description", "min_approvals", "allowed_modes", "labels", "created_at")
        found = [template.to_dict() for template in self.template_store.list_templates(limit, offset, label)]
        templates = [{key: data[key] for key in shown} for data in found]
        return {"templates": templates, "count": len(templates), "offset": offset, "limit": limit}

    @_tool
    def template_get(self, name: str, include_events: bool = False) -> dict[str, Any]:
        """One template with its digest and the snapshot that decisions keep of it. Errors: TEMPLATE_NOT_FOUND."""
        template = self._template(require_text(name, "name"))
        data: dict[str, Any] = {"template": template.to_dict(), "digest": template.digest(), "snapshot": template.to_snapshot()}
        if _flag(include_events, "include_events"):
            data["events"] = [event.to_dict() for event in self.template_store.get_template_events(name)]
        return data

    # -- bundles and packages -------------------------------------------------------------------------------------------------

    @_tool
    def export_bundle(
        self, decision_id: str, include_template_snapshot: bool = True, include_router_link: bool = True, render: bool = True
    ) -> dict[str, Any]:
        """The decision as one portable document. `canonical_json` is byte-identical for every export of the same decision."""
        result = export_decision(
            self.store,
            _id(decision_id),
            include_template_snapshot=_flag(include_template_snapshot, "include_template_snapshot"),
            include_router_link=_flag(include_router_link, "include_router_link"),
        )
        if result.bundle is None:
            raise CodedError(str(result.error_code), str(result.error_message))
        document = result.bundle.to_dict()
        data: dict[str, Any] = {
            "bundle": document,
            "digest": result.digest,
            "canonical_json": canonical_json({key: value for key, value in document.items() if key != "meta"}),
        }
        if _flag(render, "render"):
            data["rendered"] = render_export(result.bundle)
        return data

    @_tool
    def import_bundle(
        self,
        bundle: dict[str, Any] | str,
        verify_digest: bool = True,
        conflict_mode: str = "reject_on_conflict",
        replay_after_import: bool = True,
    ) -> dict[str, Any]:
        """Store a decision that was exported elsewhere; `bundle` is the object or its JSON text.

        Errors: BUNDLE_INVALID_SCHEMA, CONFLICT_MODE_INVALID, INTEGRITY_MISMATCH, DECISION_EXISTS, REPLAY_INVALID,
        IMPORT_ATOMICITY_FAILED.
        """
        result = import_bundle(
            self.store,
            bundle,
            verify_digest=_flag(verify_digest, "verify_digest"),
            conflict_mode=cast("ConflictMode", conflict_mode),
            replay_after_import=_flag(replay_after_import, "replay_after_import"),
        )
        if not result.success:
            raise CodedError(str(result.error_code), str(result.error_message))
        return result.to_dict()

    @_tool
    def export_audit_package(
        self,
        decision_id: str,
        embed_router_bundle: bool = False,
        router_bundle: dict[str, Any] | None = None,
        router_bundle_digest: str | None = None,
        verify_router_bundle_digest: bool = True,
        render: bool = True,
    ) -> dict[str, Any]:
        """One document that binds what was allowed to what was run; check it with `verify_audit_package`.

        With `embed_router_bundle` and no `router_bundle`, the record of the decision's run is taken from `flight_records`.

        Errors: DECISION_NOT_FOUND, NO_ROUTER_LINK, ROUTER_DIGEST_MISMATCH, ROUTER_BUNDLE_INVALID, and that of the records when they hold no
        such run (RUN_NOT_FOUND, RUN_NOT_FINISHED).
        """
        if router_bundle is not None and not isinstance(cast("object", router_bundle), dict):
            raise InputError(f"router_bundle must be an object, got {type(router_bundle).__name__}")
        result = export_audit_package(
            self.store,
            _id(decision_id),
            embed_router_bundle=_flag(embed_router_bundle, "embed_router_bundle"),
            router_bundle=router_bundle,
            router_bundle_digest=_optional_text(router_bundle_digest, "router_bundle_digest"),
            verify_router_bundle_digest=_flag(verify_router_bundle_digest, "verify_router_bundle_digest"),
            flight_records=self._flight_records(),
        )
        if result.package is None:
            raise CodedError(str(result.error_code), str(result.error_message))
        data: dict[str, Any] = {"package": result.package.to_dict(), "digest": result.digest}
        if _flag(render, "render"):
            data["rendered"] = render_audit_package(result.package)
        return data

    # -- shared ---------------------------------------------------------------------------------------------------------------

    def _load(self, decision_id: object) -> Decision:
        return Decision.load(self.store, _id(decision_id), as_of=self.store.clock(), trust=self.trust)

    def _flight_records(self) -> FlightRecords | None:
        if self.flight_records is not None:
            return self.flight_records
        router = self._last_router
        return cast("FlightRecords", router) if callable(getattr(router, "flight_record", None)) else None

    def _template(self, name: str) -> Template:
        template = self.template_store.get_template(name)
        if template is None:
            raise TemplateNotFound(f"Template not found: {name:.200}")
        return template


def _standing(decision: Decision) -> dict[str, Any]:
    return {
        "request_id": decision.decision_id,
        "state": decision.state.value,
        "current_approvals": decision.active_approval_count,
        "is_approved": decision.is_approved,
    }


def _id(value: object) -> str:
    return require_text(value, "decision id")


def _optional_text(value: object, name: str) -> str | None:
    return None if value is None else require_text(value, name)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {type(value).__name__}")
    return value


def _count(value: object, name: Literal["limit", "offset"]) -> int:
    if type(value) is not int or not 0 <= value <= LARGEST_INT:
        raise InputError(f"{name} must be an integer from 0 to {LARGEST_INT}")
    return value
