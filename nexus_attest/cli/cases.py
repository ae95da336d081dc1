"""The command that makes a case file: case export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import ForceOption, OutputOption, RequestId, RunsOption, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_control.case_file import CaseFile

__all__ = ["LogKeyOption", "OriginOption", "register"]

LogKeyOption = Annotated[
    str | None,
    typer.Option("--log-key", metavar="KEY", help="Sign a new checkpoint with this key: a name, a file, env:NAME or program:COMMAND."),
]
OriginOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The name of the log, for good. [default: that of its last checkpoint]", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    case = group("Case files: everything about one decision that a stranger needs to judge it.")
    command(case, "export")(_export)
    app.add_typer(case, name="case")


def _export(
    session: "Session",
    decision_id: RequestId,
    output: OutputOption = None,
    embed: Annotated[bool, typer.Option("--embed", help="Put the record of the run into the file instead of its digest.")] = False,
    runs: RunsOption = None,
    log_key: LogKeyOption = None,
    origin: OriginOption = None,
    since: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A checkpoint that the reader kept; proves that the log extends it. Repeatable."),
    ] = None,
    attestation: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="An attestation to put in. Repeatable.")] = None,
    witness: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A witness proof to put in. Repeatable.")] = None,
    in_toto: Annotated[bool, typer.Option("--in-toto", help="Write it as an in-toto statement in a DSSE envelope; needs --sign.")] = False,
    sign: Annotated[str | None, typer.Option("--sign", metavar="KEY", help="The key that signs the envelope.", show_default=False)] = None,
    force: ForceOption = False,
) -> None:
    """Write the case file of an executed decision: the audit package, its place in the log, what was signed about it, and who witnessed it.

    The log part is proved under the last checkpoint, or under a new one that --log-key signs.
    """
    if in_toto is (sign is None):
        raise typer.BadParameter("an envelope needs a key, and a key an envelope: give both or neither", param_hint="--in-toto")
    from nexus_attest.cli.audit import exported_package  # the engine
    from nexus_attest.cli.checkpoints import new_checkpoint, read_checkpoint
    from nexus_attest.cli.output import write_document
    from nexus_attest.cli.report import note
    from nexus_control.case_export import export_case

    if log_key is not None:
        new_checkpoint(session, log_key, origin)
    data = exported_package(session, decision_id, embed=embed, runs=runs)
    case = export_case(
        session.store,
        data["package"],
        since=[read_checkpoint(path) for path in since or ()],
        attestations=[_document(path, "attestation") for path in attestation or ()],
        witness=[_document(path, "witness") for path in witness or ()],
        trust_digest=None if session.trust is None else session.trust.digest,
    )
    if case.log is None:
        note("There is no checkpoint yet, so the file does not show how its events stand in the log. See: nexus-attest log checkpoint")
    about = {"kind": "case_file" if sign is None else "sealed_case", "digest": str(data["digest"])}
    document = case.to_dict() if sign is None else _sealed(case, sign)
    write_document(session, output or Path("case.json"), document, about, force=force)


def _document(path: Path, what: str) -> dict[str, Any]:
    from nexus_attest.cli.files import read_file  # the engine's errors
    from nexus_control.json_data import object_of, parse_json

    return object_of(parse_json(read_file(path)), what)


def _sealed(case: "CaseFile", key: str) -> dict[str, Any]:
    """The envelope of the case, as JSON data."""
    from base64 import b64encode  # what other commands do without

    from nexus_attest.cli import settings
    from nexus_attest.cli.signing import passphrase
    from nexus_attest.signer import open_signer
    from nexus_control.identity import pae
    from nexus_control.in_toto import PAYLOAD_TYPE, statement_payload

    signer, payload = open_signer(key, settings.keys_path(None), passphrase), statement_payload(case)
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": b64encode(payload).decode(),
        "signatures": [{"keyid": signer.key_id, "sig": b64encode(signature).decode()}],
    }
