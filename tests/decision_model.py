"""What a decision does, said a second time: a small model that shares no code with the engine, for tests that drive both.

It keeps no events. Approvals, runs and the state of the last run are enough to foretell what each command is told.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

__all__ = ["Model", "ModelApproval", "ModelRun"]

Ending = Literal["ok", "failed"]


@dataclass
class ModelApproval:
    """`imported`: another system says so, which is shown and makes nothing executable."""

    granted_at: datetime
    expires_at: datetime | None
    revoked: bool = False
    imported: bool = False

    def stands(self, now: datetime) -> bool:
        return not self.revoked and (self.expires_at is None or now < self.expires_at)


@dataclass
class ModelRun:
    """A run that was claimed; `ending` is None until it has one."""

    dry_run: bool
    ending: Ending | None = None


@dataclass
class Model:
    """A decision that has a policy."""

    mode: str
    needed: int
    modes: tuple[str, ...]
    approvals: dict[str, ModelApproval] = field(default_factory=dict[str, ModelApproval])
    runs: list[ModelRun] = field(default_factory=list[ModelRun])
    done: set[bool] = field(default_factory=set[bool])
    """Of completed runs: whether they were rehearsals."""

    def state(self, now: datetime) -> str:
        """As `status` shows it."""
        if self.runs:
            return {None: "executing", "ok": "completed", "failed": "failed"}[self.runs[-1].ending]
        return "approved" if self.shown(now) >= self.needed else "pending_approval"

    def shown(self, now: datetime) -> int:
        return sum(approval.stands(now) for approval in self.approvals.values())

    # Each command gives the code of its refusal, None when it is done.

    def approve(self, who: str, expires_at: datetime | None, now: datetime) -> str | None:
        if self.runs:
            return "CANNOT_APPROVE"
        known = self.approvals.get(who)
        if known is not None and known.stands(now) and not known.imported:
            return "ALREADY_APPROVED"
        self.approvals[who] = ModelApproval(now, expires_at)
        return None

    def revoke(self, who: str) -> str | None:
        if self.runs and self.runs[-1].ending != "failed":
            return "CANNOT_REVOKE"
        if who not in self.approvals:
            return "NOT_APPROVED"
        if self.approvals[who].revoked:
            return "ALREADY_REVOKED"
        self.approvals[who].revoked = True
        return None

    def claim(self, dry_run: bool | None, retry: bool, now: datetime) -> str | None:
        rehearsal = self.mode == "dry_run" if dry_run is None else dry_run
        last = self.runs[-1].ending if self.runs else "none"
        if last is None:
            return "EXECUTION_IN_PROGRESS"
        if False in self.done or (self.done and self.mode == "dry_run"):
            return "ALREADY_EXECUTED"
        if last == "failed" and not retry:
            return "EXECUTION_FAILED"
        counting = sum(
            approval.stands(now) and not approval.imported and approval.granted_at <= now for approval in self.approvals.values()
        )
        if counting < self.needed or ("dry_run" if rehearsal else "apply") not in self.modes:
            return "POLICY_VALIDATION_FAILED"
        self.runs.append(ModelRun(rehearsal))
        return None

    def finish(self, run: ModelRun, ending: Ending) -> str | None:
        """Whoever ran it reports, also when it was given up meanwhile, but not when another run was claimed since."""
        if not any(run is mine for mine in self.runs[-1:]):
            return "EXECUTION_SUPERSEDED"
        run.ending = ending
        if ending == "ok":
            self.done.add(run.dry_run)
        return None if ending == "ok" else "ROUTER_ERROR"

    def recover(self) -> str | None:
        if not self.runs or self.runs[-1].ending is not None:
            return "NOTHING_TO_RECOVER"
        self.runs[-1].ending = "failed"
        return None

    def imported(self) -> "Model":
        """The same decision in a store that takes it in."""
        copy = deepcopy(self)
        for approval in copy.approvals.values():
            approval.imported = True
        return copy
