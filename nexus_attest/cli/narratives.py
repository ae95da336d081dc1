"""Commands around narratives: narrative show, verify, diff."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import ForceOption, OutputOption, command, group

if TYPE_CHECKING:
    from nexus_attest.attestation.narrative import IntegrityCheck, NarrativeReport
    from nexus_attest.cli.session import Session

__all__ = ["register"]

_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{64}")

Subject = Annotated[
    str,
    typer.Argument(help="The digest of an intent in the queue, or a file with a narrative.", metavar="INTENT|FILE", show_default=False),
]
ExchangesOption = Annotated[
    Path | None, typer.Option("--exchanges", metavar="FILE", help="The exchange store to compare with.", show_default=False)
]
BodiesOption = Annotated[
    Path | None, typer.Option("--bodies", metavar="FOLDER", help="Its folder of bodies, whose bytes are compared too.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    narrative = group("Narratives: everything that is known of an intent and of the attempts to have it witnessed.")
    command(narrative, "show", trust=False)(_show)
    command(narrative, "verify", trust=False)(_verify)
    command(narrative, "diff", trust=False)(_diff)
    app.add_typer(narrative, name="narrative")


def _show(
    session: "Session",
    subject: Subject,
    exchanges: ExchangesOption = None,
    bodies: BodiesOption = None,
    embed: Annotated[bool, typer.Option("--embed", help="Put the bodies into the narrative.")] = False,
    redact: Annotated[bool, typer.Option(help="Replace what looks like a credential in error texts and bodies.")] = True,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Show the narrative of an intent, made from the queue in the store, or one from a file.

    With -o it is written as JSON, for somebody who has no queue: `narrative verify FILE` judges it. Checks that fail are shown, and are no
    error here.
    """
    from nexus_attest.cli.output import write_document  # the engine

    report, sources = _report(session, subject, exchanges, bodies, embed=embed, redact=redact)
    if not report.intent_found and output is None:
        session.fail(
            "INTENT_NOT_FOUND",
            f"the queue holds no intent {report.intent_digest}",
            {"narrative": report.to_dict()},
            lambda: session.screen.narrative(report.render(sources=sources)),
        )
    if output is not None:
        about = {"kind": "narrative", "digest": str(report.narrative_digest)}
        write_document(session, output, report.to_dict(), about, force=force)
    else:
        session.show({"narrative": report.to_dict()}, lambda: session.screen.narrative(report.render(sources=sources)))


def _verify(
    session: "Session",
    subject: Subject,
    expect: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="The digest of the narrative that you got from elsewhere.", show_default=False)
    ] = None,
    exchanges: ExchangesOption = None,
    bodies: BodiesOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail for what could not be checked, too.")] = False,
) -> None:
    """Judge a narrative: recompute its digest, compare its parts, and look at every check that it tells of.

    Of an intent in the queue all digests are recomputed from what is stored. A file shows that its parts belong together; that it is the
    one that was made then takes its digest from elsewhere (--expect), or the transaction that it names.
    """
    from nexus_attest.attestation.narrative import CheckStatus, IntegrityCheck, verify_narrative  # the attestation side
    from nexus_control.integrity import digests_equal, prefixed, unprefixed

    if expect is not None and not _DIGEST.fullmatch(expect):
        raise typer.BadParameter("a digest is sha256: and 64 lowercase hexadecimal digits", param_hint="--expect")
    report, _ = _report(session, subject, exchanges, bodies)
    own = list(verify_narrative(report))
    if expect is not None:
        same = digests_equal(report.narrative_digest, expect)
        status, reason = (CheckStatus.PASS, "It is the expected one") if same else (CheckStatus.FAIL, "It is another one than expected")
        own.append(IntegrityCheck("expected_digest", status, reason, prefixed(unprefixed(expect)), report.narrative_digest))
    checks = [*own, *report.checks]
    bad = [check for check in checks if check.status is CheckStatus.FAIL or (strict and check.status is CheckStatus.SKIP)]
    if report.narrative_digest is None:  # nothing holds its parts together
        bad.append(own[0])
    data: dict[str, Any] = {
        "intent_digest": report.intent_digest,
        "narrative_digest": report.narrative_digest,
        "failed": list(dict.fromkeys(check.name for check in bad)),
        "checks": [check.to_dict() for check in checks],
    }
    if bad:
        session.fail("VERIFICATION_FAILED", f"failed: {', '.join(data['failed'])}", data, lambda: _say(session, checks, data))
    session.show(data, lambda: _say(session, checks, data))


def _diff(
    session: "Session",
    subject: Subject,
    from_attempt: Annotated[int, typer.Argument(help="The number of one attempt.", metavar="FROM", show_default=False)],
    to_attempt: Annotated[int, typer.Argument(help="The number of another.", metavar="TO", show_default=False)],
) -> None:
    """Show what changed from one attempt to another, by the last receipt of each."""
    from nexus_attest.attestation.narrative import diff_attempts  # the attestation side
    from nexus_control.errors import InputError
    from nexus_control.markdown import printable

    report, _ = _report(session, subject, None, None)
    found = diff_attempts(report, from_attempt, to_attempt)
    if found is None:
        there = ", ".join(sorted({str(entry.attempt) for entry in report.receipts}, key=int)) or "none"
        raise InputError(f"there is no receipt of attempt {from_attempt} or of attempt {to_attempt}; there are: {there}")
    data = found.to_dict()
    lines = [f"Attempt {found.from_attempt} -> {found.to_attempt}", f"  status    {found.from_status} -> {found.to_status}"]
    if found.tx_hash_changed:
        lines.append(f"  tx hash   {found.from_tx_hash or 'none'} -> {found.to_tx_hash or 'none'}")
    lines += [f"  evidence  + {key}" for key in found.added_evidence] + [f"  evidence  - {key}" for key in found.removed_evidence]
    if found.from_error or found.to_error:
        lines.append(f"  error     {found.from_error or 'none'} -> {found.to_error or 'none'}")
    session.show(data, "\n".join(map(printable, lines)))


def _report(
    session: "Session", subject: str, exchanges: Path | None, bodies: Path | None, *, embed: bool = False, redact: bool = True
) -> "tuple[NarrativeReport, dict[str, str]]":
    """The narrative, and the files that it was made from."""
    from contextlib import ExitStack  # what only this module does

    from nexus_attest.attestation.narrative import MAX_NARRATIVE_BYTES, parse_narrative, show_intent
    from nexus_attest.attestation.queue import AttestationQueue
    from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
    from nexus_attest.cli.errors import StoreMissing
    from nexus_attest.cli.files import read_file
    from nexus_control.integrity import prefixed, unprefixed

    if not _DIGEST.fullmatch(subject):
        if exchanges is not None or bodies is not None or embed:
            raise typer.BadParameter("a narrative in a file is as it is; these are for an intent in the queue", param_hint="--exchanges")
        return parse_narrative(read_file(Path(subject), MAX_NARRATIVE_BYTES)), {"narrative": subject}
    if bodies is not None and exchanges is None:
        raise typer.BadParameter("bodies belong to an exchange store: give --exchanges too", param_hint="--bodies")
    for path in (session.store_path, exchanges):
        if path is not None and not path.is_file():
            raise StoreMissing(f"there is no store at {path}")
    if bodies is not None and not bodies.is_dir():
        raise StoreMissing(f"there is no folder {bodies}")
    with ExitStack() as stores:
        queue = stores.enter_context(AttestationQueue(session.store_path))
        store = None if exchanges is None else stores.enter_context(ExchangeStore(exchanges, bodies))
        compared = bodies is not None
        report = show_intent(
            queue,
            prefixed(unprefixed(subject)),
            exchange_store=store,
            include_bodies=compared,
            verify_bodies=compared,
            embed_bodies=embed,
            redact=redact,
        )
    sources = {"queue": session.store_path, "exchanges": exchanges, "bodies": bodies}
    return report, {name: str(path) for name, path in sources.items() if path is not None}


def _say(session: "Session", checks: "list[IntegrityCheck]", data: dict[str, Any]) -> None:
    from nexus_attest.cli.screen import verdict  # rich
    from nexus_control.markdown import printable

    lines = [f"Narrative of {printable(data['intent_digest'])}", f"  digest {printable(data['narrative_digest'])}", ""]
    lines += [f"  {check.status.value}  {printable(check.name)}: {printable(check.reason)}" for check in checks]
    session.screen.narrative("\n".join([*lines, ""]))
    skipped = sum(check.status == "SKIP" for check in checks)
    good = "its parts belong together" + (f"; {skipped} could not be checked" if skipped else "")
    session.screen.print(verdict(not data["failed"], good, ", ".join(map(printable, data["failed"]))))
