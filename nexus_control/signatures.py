"""The signatures layer: did keys that I trust sign the approvals that allowed the runs?

Which keys belong to whom, and whether a signature is valid, is asked of a `Trust`; without one nothing here can pass. A statement that is
for another decision, action or actor, or was used before, fails with or without it. An approval that nobody signed is no failure by
itself, but never a PASS: the name in it is what the operator of the store wrote.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from nexus_control.decision import Approval, Decision, Past
from nexus_control.errors import CommandRefused, IdentityRefused, NexusError
from nexus_control.events import EventType, StoredEvent
from nexus_control.history import History, Run
from nexus_control.identity import Act, Action, Trust, identity_of
from nexus_control.judgement import judge_execution
from nexus_control.layers import Gap, Layer, LayerName
from nexus_control.verification import Finding, judge

__all__ = ["signatures_layer"]

_MOST_TOLD = 10
"""Of so many runs it is told that their approvals are not signed, and of more how many there are."""

_ACTIONS: dict[EventType, Action] = {
    EventType.DECISION_CREATED: "request",
    EventType.APPROVAL_GRANTED: "approve",
    EventType.APPROVAL_REVOKED: "revoke",
    EventType.EXECUTION_REQUESTED: "execute",
}


def signatures_layer(history: History | NexusError, trust: Trust | None) -> Layer:
    """Judge who said what in a history that led to its runs, or to its end without one. Never raises for what the history holds."""
    name = LayerName.SIGNATURES
    if not isinstance(history, History):
        return Layer(name, gaps=[Gap("the events are no history of one decision", "a file that passes authorization")])
    said = _said_by_whom(history, names_count=trust is not None)
    heard: dict[int, _Said] = {}
    too_few: list[Finding] = []
    gaps: list[Gap] = []
    runs = history.judged_runs
    for run in runs or (None,):
        decision = history.decision if run is None else history.before(run)
        standing = [approval for approval in decision.approvals.values() if approval.stands(decision.judged_at())]
        acts = {seq: said[seq] for seq in _relevant(history, run, standing) if seq in said}
        heard.update(acts)
        gaps += _unsigned(decision, standing, acts, run if len(runs) > 1 else None)
        if trust is not None and run is not None:
            too_few += _threshold_findings(replace(decision, trust=trust), run)
    relevant = [heard[seq] for seq in sorted(heard)]
    checks = [judge("statements", partial(_statement_findings, relevant))]
    if trust is not None:
        checks.append(judge("acts", partial(_act_findings, relevant, trust)))
        if runs:
            checks.append(judge("believed_approvals", lambda: too_few))
    return Layer(name, checks, [*_unchecked(relevant, trust), *_unjudged(history, runs), *_fewer(gaps)])


@dataclass(frozen=True, slots=True)
class _Said:
    """An event in which an actor did something, what a trust is asked about it, and why its statement is not this act's."""

    event: StoredEvent
    act: Act
    mismatch: IdentityRefused | None

    @property
    def text(self) -> str:
        return f"event {self.event.seq} ({self.act.action} by {self.act.actor['id']})"


def _refusal(trust: Trust, act: Act) -> IdentityRefused | None:
    try:
        trust.judge(act)
    except IdentityRefused as refusal:
        return refusal
    return None


def _said_by_whom(history: History, *, names_count: bool) -> dict[int, _Said]:
    """What actors said, by seq, each compared with the action as it was then: for a request, with the policy that came with it.

    Unless `names_count`, only what was signed, or counts against what was: there is nobody to ask about the rest.
    """
    said: dict[int, _Said] = {}
    past = Past()
    decision = Decision(history.decision.decision_id)
    waiting: list[StoredEvent] = []
    for event in history.events:
        kind = event.event_type
        if kind in (EventType.DECISION_CREATED, EventType.POLICY_ATTACHED):
            decision.apply_event(event)
            # All that an act needs of the history; without this its length would count once per event.
            decision.events = [known for known in decision.events if known.event_type is EventType.DECISION_CREATED][-1:]
        if kind is EventType.DECISION_CREATED:
            waiting.append(event)
        elif kind is EventType.POLICY_ATTACHED:
            said.update((request.seq, _heard(decision, request, past)) for request in waiting)
            waiting.clear()
        elif kind in _ACTIONS and (names_count or kind is EventType.APPROVAL_REVOKED or "signature" in event.payload):
            said[event.seq] = _heard(decision, event, past)
    said.update((request.seq, _heard(decision, request, past)) for request in waiting)
    return said


def _heard(decision: Decision, event: StoredEvent, past: Past) -> _Said:
    action, identity = _ACTIONS[event.event_type], identity_of(event)
    act, mismatch, envelope = decision.act(action, event.actor, identity, event.ts), None, identity.envelope
    if envelope is not None:
        try:
            decision.require_own(envelope)
            past.judge(envelope)
        except IdentityRefused as refusal:
            mismatch = refusal
        past.used.add(envelope.payload)
    if action == "revoke":
        past.revoked(event, identity)
    return _Said(event, act, mismatch)


def _relevant(history: History, run: Run | None, standing: Sequence[Approval]) -> list[int]:
    """The acts that led to the run: the request, the approvals that stood, and who asked for the run. Without a run: to what there is."""
    known = history.events if run is None else history.events[: run.requested.seq]
    created = next((event.seq for event in reversed(known) if event.event_type is EventType.DECISION_CREATED), None)
    asked = [] if created is None else [created]
    return [*asked, *(approval.seq for approval in standing), *(() if run is None else (run.requested.seq,))]


def _statement_findings(relevant: Iterable[_Said]) -> Iterator[Finding]:
    """Every signed statement is about this decision, as it was then, and was used once."""
    for said in relevant:
        if said.mismatch is not None:
            yield Finding(f"{said.text} carries a signature for something else: {said.mismatch.describe()}")


def _act_findings(relevant: Iterable[_Said], trust: Trust) -> Iterator[Finding]:
    """The trust policy believes the acts. An unsigned approval that it does not believe just does not count."""
    for said in relevant:
        refusal = None if said.mismatch is not None else _refusal(trust, said.act)
        if refusal is not None:
            counts = said.act.action != "approve" or said.act.identity.envelope is not None
            yield Finding(f"{said.text} is not believed: {refusal.describe()}", fails=counts)


def _threshold_findings(decision: Decision, run: Run) -> Iterator[Finding]:
    """The approvals that are believed satisfy the policy."""
    try:
        judge_execution(decision, run.mode, None, retry=True)
    except CommandRefused as refusal:
        where = f"the run requested by event {run.requested.seq}"
        yield Finding(f"with the approvals that the trust policy believes {where} was not allowed: {refusal.code}: {refusal}")


def _unchecked(relevant: Sequence[_Said], trust: Trust | None) -> Iterator[Gap]:
    signed = [said for said in relevant if said.act.identity.envelope is not None]
    if trust is None and signed:
        what = f"the signatures of {_listed(said.act.actor['id'] for said in signed)} were not checked"
        yield Gap(what, "a trust policy that names the actors' keys (--trust FILE), and the verifier with public-key cryptography")


def _unjudged(history: History, runs: Sequence[Run]) -> Iterator[Gap]:
    if len(runs) < len(history.runs):
        what = f"who said what of the first {len(history.runs) - len(runs)} of {len(history.runs)} runs was not judged"
        yield Gap(what, "a reader without this limit")


def _unsigned(decision: Decision, standing: Sequence[Approval], acts: Mapping[int, _Said], run: Run | None) -> Iterator[Gap]:
    """Names are the operator's word; `run` is named where there are several."""
    by_key = sum(
        said.act.action == "approve" and said.act.identity.envelope is not None and said.mismatch is None for said in acts.values()
    )
    needed = 1 if decision.policy is None else decision.policy.min_approvals
    if by_key < needed:
        who = _listed(
            f"{approval.actor['id']} ({approval.identity.assurance})" for approval in standing if approval.identity.envelope is None
        )
        what = f"{by_key} of {needed} needed approvals are signed" + (f"; without a signature: {who}" if who else "")
        where = "" if run is None else f"of the run requested by event {run.requested.seq}, "
        yield Gap(
            where + what, "approvals that the actors signed with their own keys; otherwise the operator of the store vouches for the names"
        )


def _fewer(gaps: Sequence[Gap]) -> Iterator[Gap]:
    """The last of them, which are about the latest runs."""
    yield from gaps[-_MOST_TOLD:]
    if len(gaps) > _MOST_TOLD:
        yield Gap(f"the same of {len(gaps) - _MOST_TOLD} earlier runs", gaps[-1].needed)


def _listed(names: Iterable[str]) -> str:
    several = list(dict.fromkeys(names))
    return ", ".join(several[:10]) + (f" and {len(several) - 10} more" if len(several) > 10 else "")
