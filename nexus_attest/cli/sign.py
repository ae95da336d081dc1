"""Commands that sign on a machine without the store: sign approve, sign revoke."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_attest.cli.command import ActorOption, ForceOption, OutputOption, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_control.decision import Decision
    from nexus_control.identity import Action

__all__ = ["register"]

EvidenceFile = Annotated[
    Path,
    typer.Argument(help="The decision as a bundle, audit package or case file; - is standard input.", metavar="FILE", show_default=False),
]
KeyOption = Annotated[
    str, typer.Option("--key", metavar="KEY", help="Which key signs: a name, a file, env:NAME or program:COMMAND.", show_default=False)
]
CommentOption = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is signed too.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    sign = group("Sign away from the store: read a decision from a file, write an envelope to take back.")
    command(sign, "approve", db=False)(_approve)
    command(sign, "revoke", db=False)(_revoke)
    app.add_typer(sign, name="sign")


def _approve(
    session: "Session",
    file: EvidenceFile,
    key: KeyOption,
    actor: ActorOption = None,
    comment: CommentOption = None,
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Until when it counts, such as 2030-01-31T18:00:00+01:00.", show_default="for good"),
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Sign an approval of the decision in a file, exactly as that file defines it.

    `nexus-attest approve ID --envelope FILE` takes it into the store.
    """
    _sign(session, "approve", file, key, actor, comment, expires_at, output, force=force)


def _revoke(
    session: "Session",
    file: EvidenceFile,
    key: KeyOption,
    actor: ActorOption = None,
    reason: CommentOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Sign the revocation of an approval. `nexus-attest revoke ID --envelope FILE` takes it into the store."""
    _sign(session, "revoke", file, key, actor, reason, None, output, force=force)


def _sign(
    session: "Session",
    action: "Action",
    file: Path,
    key: str,
    actor: str | None,
    comment: str | None,
    expires_at: str | None,
    output: Path | None,
    *,
    force: bool,
) -> None:
    from nexus_attest.cli import settings  # the engine
    from nexus_attest.cli.files import read_file
    from nexus_attest.cli.output import write_document
    from nexus_attest.cli.report import note
    from nexus_attest.cli.signing import passphrase
    from nexus_attest.signer import open_signer, sign_statement, statement_about
    from nexus_control.events import parse_expires_at, utc_now

    who, expiry = session.actor(actor), parse_expires_at(expires_at)
    decision = _decision(read_file(file))
    statement = statement_about(decision, action, who, utc_now(), comment=comment, expires_at=expiry)
    signer = open_signer(key, settings.keys_path(None), passphrase)
    # On standard error, so that it is seen also when the envelope goes to standard output: nobody signs blindly.
    note(_summary(decision, action, statement.action_digest))
    envelope = sign_statement(statement, signer)
    path = Path(f"{decision.decision_id}.{action}.json") if output is None else output
    write_document(session, path, envelope, {"kind": "envelope", "digest": statement.action_digest, "key_id": signer.key_id}, force=force)


def _decision(content: bytes) -> "Decision":
    """The decision of a file that is consistent with itself. Raises MalformedBundle."""
    from nexus_control.bundle import DecisionBundle  # the engine
    from nexus_control.bundle_checks import replay_bundle
    from nexus_control.documents import read_document, verify_document
    from nexus_control.errors import MalformedBundle

    document = read_document(content)
    report = verify_document(document)
    if not report.ok:
        failed = ", ".join(check.name for check in report.result.checks if not check.ok)
        raise MalformedBundle(f"the file is not consistent with itself, so nothing is signed: {failed}")
    data = document.data if document.kind == "decision_bundle" else document.data["control_bundle"]
    bundle = DecisionBundle.from_dict(data)
    return replay_bundle(bundle.decision.decision_id, sorted(bundle.events, key=lambda event: event.seq))


def _summary(decision: "Decision", action: str, digest: str) -> str:
    from nexus_control.markdown import printable  # the engine

    policy = decision.policy
    lines = [
        f"Signing: {action}",
        f"  decision  {printable(decision.decision_id)}",
        f"  goal      {printable(decision.goal)}",
        f"  mode      {printable(decision.requested_mode)}",
        f"  plan      {'none' if decision.plan is None else printable(decision.plan)}",
        f"  labels    {printable(', '.join(decision.labels)) or 'none'}",
        f"  policy    {'none' if policy is None else printable(policy.to_dict())}",
        f"  template  {'none' if decision.template_ref is None else printable(decision.template_ref.name)}",
        f"  action    {digest}",
    ]
    return "\n".join(lines)
