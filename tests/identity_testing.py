"""Signed statements for tests of the engine, which has no public-key cryptography: the signatures of `Seal` only look like ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha512
from typing import Any

from nexus_control.decision import Decision
from nexus_control.errors import IdentityRefused
from nexus_control.events import Actor
from nexus_control.identity import Act, Action, Envelope, Statement, pae, parse_statement
from nexus_control.integrity import prefixed

SIGNED_AT = datetime(2025, 1, 1, 12, tzinfo=UTC)


class NotSealed(IdentityRefused):
    """What `Seal` says to a signature that it did not make."""

    code = "NOT_SEALED"


class TooWeak(IdentityRefused):
    """What `Seal` says to an actor who is not established strongly enough."""

    code = "TOO_WEAK"


@dataclass
class Seal:
    """Stands for an actor's key and for a trust that knows it. `only_signed` names the actions that need a signature."""

    secret: bytes = b"alice's"
    only_signed: frozenset[Action] = frozenset()
    judged: list[Act] = field(default_factory=list[Act])

    def sign(self, statement: Statement) -> dict[str, Any]:
        return self.envelope(statement.payload()).to_dict()

    def envelope(self, payload: bytes) -> Envelope:
        return Envelope(parse_statement(payload), payload, "key-1", self._tag(pae("application/vnd.nexus.approval+json", payload)))

    def judge(self, act: Act) -> None:
        self.judged.append(act)
        envelope = act.identity.envelope
        if envelope is None:
            if act.action in self.only_signed:
                raise TooWeak("sign it")
        elif envelope.signature != self._tag(envelope.signed_bytes):
            raise NotSealed("that is not the signature")

    def _tag(self, data: bytes) -> bytes:
        return sha512(self.secret + data).digest()


def statement(decision: Decision, actor: Mapping[str, str], action: Action = "approve", **changes: Any) -> Statement:
    """What `actor` would sign about the decision as it is."""
    values: dict[str, Any] = {
        "action": action,
        "decision_id": decision.decision_id,
        "action_digest": prefixed(decision.action_digest),
        "actor": Actor(actor),
        "signed_at": SIGNED_AT.isoformat(),
    }
    return Statement(**{**values, **changes})
