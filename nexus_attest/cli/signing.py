"""Who acts, and how that is shown: by name, by a key at hand, or by an envelope that was signed elsewhere."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from nexus_attest.cli import settings
from nexus_attest.cli.files import read_text
from nexus_attest.cli.session import Session
from nexus_attest.signer import Signer, open_signer, sign_statement, statement_about
from nexus_control.decision import Decision
from nexus_control.events import Actor, parse_expires_at, utc_now
from nexus_control.identity import Action, Envelope, Statement, parse_envelope

__all__ = ["Claim", "claim", "passphrase", "signed_command", "signed_request"]

_MAX_ENVELOPE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Claim:
    """Who says what, and the key or the finished envelope that shows it; neither: the name alone."""

    actor: Actor
    comment: str | None
    expires_at: str | None
    signer: Signer | None = None
    envelope: Envelope | None = None


def claim(
    session: Session, actor: str | None, key: str | None, envelope: Path | None, comment: str | None = None, expires_at: str | None = None
) -> Claim:
    """Put together what the options say; what an envelope says is taken from it where no option says it.

    An option that contradicts the envelope is left to the engine, which refuses it by name. Raises what opening keys and envelopes raises.
    """
    if key is not None and envelope is not None:
        raise typer.BadParameter("sign it, or give what was signed elsewhere, not both", param_hint="--envelope")
    if envelope is None:
        who = session.actor(actor)
        return Claim(who, comment or None, expires_at, None if key is None else open_signer(key, settings.keys_path(None), passphrase))
    found = parse_envelope(read_text(envelope, _MAX_ENVELOPE_BYTES))
    said = found.statement
    who = said.actor if actor is None else session.actor(actor)
    return Claim(who, comment or said.comment, expires_at or said.expires_at, envelope=found)


def signed_command(session: Session, given: Claim, action: Action, decision_id: str) -> dict[str, Any] | None:
    """The envelope for a command about a stored decision, None when nobody signs. Raises what loading the decision raises."""
    if given.signer is None:
        return None if given.envelope is None else given.envelope.to_dict()
    decision = Decision.load(session.store, decision_id)
    expires_at = parse_expires_at(given.expires_at)
    statement = statement_about(decision, action, given.actor, utc_now(), comment=given.comment, expires_at=expires_at)
    return sign_statement(statement, given.signer)


def signed_request(given: Claim, preview: Callable[[], Mapping[str, Any]]) -> dict[str, Any] | None:
    """The envelope for a request whose preview tells digest and id, None when nobody signs."""
    if given.signer is None:
        return None if given.envelope is None else given.envelope.to_dict()
    shown = preview()
    statement = Statement(
        action="request",
        decision_id=shown["request_id"],
        action_digest=shown["action_digest"],
        actor=given.actor,
        signed_at=utc_now().isoformat(),
    )
    return sign_statement(statement, given.signer)


def passphrase() -> str | None:
    """The passphrase of a protected key: from the environment, else from the terminal, else nobody knows it."""
    if given := os.environ.get(settings.PASSPHRASE_VARIABLE):
        return given
    if sys.stdin is None or not sys.stdin.isatty():  # pyright: ignore[reportUnnecessaryComparison] - in a process without one
        return None
    from getpass import getpass  # only here is somebody asked

    return getpass("Passphrase: ", stream=sys.stderr)
