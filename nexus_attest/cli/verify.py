"""The command that judges evidence: verify."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_attest.cli.command import command

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session
    from nexus_attest.trust import TrustPolicy

__all__ = ["register"]

_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "verify", db=False, trust=True)(_verify)


def _verify(
    session: "Session",
    file: Annotated[
        Path,
        typer.Argument(
            help="A decision bundle, audit package, case file or narrative, at most 256 MiB; - is standard input.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    expect: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="The binding digest that you got from elsewhere, sha256:...", show_default=False),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A checkpoint of the log that you kept. Repeatable.", show_default=False),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Fail unless this layer passes: integrity, authorization, signatures, ... Repeatable."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail integrity for a run or a check that could not be judged.")] = False,
    junit: Annotated[bool, typer.Option("--junit", help="Print a JUnit report, for CI.")] = False,
    sarif: Annotated[bool, typer.Option("--sarif", help="Print a SARIF report, for code scanning.")] = False,
) -> None:
    """Judge a file of evidence by layers. Reads nothing but the files named here, and needs no store.

    Every layer is judged, whatever the others find: PASS, FAIL, or INCOMPLETE when evidence is missing. Digests show that the parts of
    a file belong together, not who made it: whoever can change a file can recompute all digests in it.
    """
    if expect is not None and not _DIGEST.fullmatch(expect):
        raise typer.BadParameter("a digest is sha256: and 64 lowercase hexadecimal digits", param_hint="--expect")
    if session.as_json + junit + sarif > 1:
        raise typer.BadParameter("choose one of --json, --junit and --sarif", param_hint="--junit")
    from nexus_attest.attestation.narrative import examine_narrative, is_narrative  # the engine's errors, and more
    from nexus_attest.cli.files import read_file
    from nexus_attest.reader import knowledge_of
    from nexus_control.checkpoint import MAX_NOTE_BYTES, parse_note
    from nexus_control.evidence import examine, parse_layers

    required = parse_layers(require or ())
    kept = tuple(parse_note(read_file(path, MAX_NOTE_BYTES)) for path in checkpoint or ())
    content = read_file(file)
    if is_narrative(content):
        report = examine_narrative(content, require=required, strict=strict, expected_binding_digest=expect)
    else:
        knowledge = knowledge_of(_trust(session), checkpoints=kept, strict=strict, expected_binding_digest=expect)
        report = examine(content, knowledge, require=required)
    if junit or sarif:
        from nexus_attest.cli.reports import junit_report, sarif_report

        session.say(junit_report(str(file), report) if junit else sarif_report(str(file), report))
        if not report.ok:
            raise typer.Exit(2)
    elif report.ok:
        session.show(report.to_dict(), lambda: session.screen.evidence(str(file), report))
    else:
        text = f"failed: {', '.join(report.failed)}"
        session.fail("VERIFICATION_FAILED", text, report.to_dict(), lambda: session.screen.evidence(str(file), report))


def _trust(session: "Session") -> "TrustPolicy | None":
    """The reader's policy. Verifying needs no configuration: one that cannot be read is told, and then no layer passes because of it."""
    from nexus_attest.cli.errors import ConfigError  # the engine's errors
    from nexus_attest.cli.report import note
    from nexus_control.markdown import printable

    try:
        return session.trust
    except ConfigError as error:
        note(f"No trust policy is used: {printable(error)}")
        return None
