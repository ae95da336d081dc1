"""Commands around proofs that something was witnessed: proof export, verify."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nexus_attest.cli.command import ForceOption, OutputOption, command, group

if TYPE_CHECKING:
    from nexus_attest.attestation.queue import AttestationQueue
    from nexus_attest.attestation.witness import Verdict, WitnessProof
    from nexus_attest.cli.session import Session
    from nexus_attest.trust import TrustPolicy

__all__ = ["register"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KEY = re.compile("(?:ED|02|03)[0-9A-F]{64}")
_LEVELS = ("server", "tree", "quorum")


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    proof = group("Proofs: that something was witnessed, for somebody who trusts no server.")
    command(proof, "export", trust=False)(_export)
    command(proof, "verify", db=False, trust=True)(_verify)
    app.add_typer(proof, name="proof")


def _export(
    session: "Session",
    intent: Annotated[
        str, typer.Argument(help="The digest of the intent, as `witness enqueue` prints it.", metavar="INTENT", show_default=False)
    ],
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which witness, when several have seen it: xrpl, tsa, tsa:NAME, self.", show_default=False),
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A witness file: ask its servers for a better proof, if there is none of level quorum."),
    ] = None,
    network: Annotated[str | None, typer.Option(metavar="NAME", help="The network of that file.", show_default=False)] = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Write the proof that an intent was witnessed: the intent, its receipt, and the best evidence that is stored.

    A proof that ended at the level tree, because votes were missing, can be raised by votes for a later ledger that were recorded since.
    `proof verify FILE` judges it without this store; `case export --witness FILE` puts it into the case file of its package.
    """
    from nexus_attest.attestation.errors import NotWitnessed  # the attestation side
    from nexus_attest.attestation.proving import witness_proofs
    from nexus_attest.attestation.queue import AttestationQueue
    from nexus_attest.cli.errors import StoreMissing
    from nexus_attest.cli.output import write_document
    from nexus_control.integrity import prefixed, unprefixed

    if not session.store_path.is_file():
        raise StoreMissing(f"there is no store at {session.store_path}")
    digest = prefixed(unprefixed(intent))
    with AttestationQueue(session.store_path) as queue:
        found = witness_proofs(queue, digest)
        mine = [proof for proof in found if proof.receipt.backend == "xrpl"]
        if witness is not None and mine:
            _raise(queue, mine[0], witness, network)
            found = witness_proofs(queue, digest)
    proofs = {f"{proof.receipt.backend}:{proof.receipt.proof['by']}": proof for proof in found if "by" in proof.receipt.proof}
    proofs |= {proof.receipt.backend: proof for proof in reversed(found)}  # the first one, where there are several
    wanted = backend or ("xrpl" if "xrpl" in proofs else found[0].receipt.backend)
    if wanted not in proofs:
        raise NotWitnessed(f"{wanted!r:.80} has not witnessed it; {', '.join(proofs)} has")
    about = {"kind": "witness_proof", "digest": digest, "backend": wanted, "binding_digest": proofs[wanted].intent.binding_digest}
    write_document(session, output or Path("witness-proof.json"), proofs[wanted].to_dict(), about, force=force)


def _raise(queue: "AttestationQueue", proof: "WitnessProof", witness: Path, network: str | None) -> None:
    """Try to make a proof of level quorum, when none is stored."""
    import asyncio  # what only this does

    from nexus_attest.attestation.proving import is_proven, later_collector_for, raise_proof
    from nexus_attest.attestation.witness_file import load_witness_file

    if not is_proven(queue, proof.receipt):
        chosen = load_witness_file(witness).network(network)
        asyncio.run(raise_proof(later_collector_for(chosen, queue, chosen.nodes()), proof.receipt))


def _verify(
    session: "Session",
    file: Annotated[
        Path,
        typer.Argument(
            help="A witness proof, or the proof of a ledger transaction; - is standard input.", metavar="FILE", show_default=False
        ),
    ],
    publisher: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A master key of a publisher of validator lists that you believe, in hex. Repeatable."),
    ] = None,
    account: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="An account whose transactions you expect, r... Repeatable.")
    ] = None,
    level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="The least that it must show: server, tree or quorum (default).", show_default=False)
    ] = None,
    package: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The audit package or case file that it must be about.", show_default=False)
    ] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="The binding digest that it must be about, sha256:...", show_default=False)
    ] = None,
) -> None:
    """Judge a proof offline, down from what you pin: a publisher's key and an account, of the trust policy or given here.

    Nothing in the file says whom to believe. It ends with 0 only when everything was shown that you demand; what was shown otherwise is the
    level: server (its writer's word), tree (bytes under a ledger header of its writer), quorum (enough validators of your publisher).
    """
    _refuse_options(publisher or (), level, package, expect)
    from nexus_attest.cli.attestations import binding_digest_of  # the attestation side
    from nexus_attest.cli.files import read_file

    trust = _trust(session, tuple(key.upper() for key in publisher or ()), tuple(account or ()), level)
    document = _read_proof(file)
    wanted = expect if package is None else binding_digest_of(read_file(package))
    _end(session, file, _judge(document, trust, wanted))


def _refuse_options(publishers: Sequence[str], level: str | None, package: Path | None, expect: str | None) -> None:
    """Raise BadParameter for what cannot be meant, before anything is read."""
    if package is not None and expect is not None:
        raise typer.BadParameter("give the package or its digest, not both", param_hint="--expect")
    if expect is not None and not _DIGEST.fullmatch(expect):
        raise typer.BadParameter("a digest is sha256: and 64 lowercase hexadecimal digits", param_hint="--expect")
    if wrong := [key for key in publishers if not _KEY.fullmatch(key.upper())]:
        raise typer.BadParameter(f"a public key is 33 bytes in hex, not {wrong[0][:80]!r}", param_hint="--publisher")
    if level is not None and level not in _LEVELS:
        raise typer.BadParameter(f"a level is one of {', '.join(_LEVELS)}", param_hint="--level")


def _trust(session: "Session", publishers: tuple[str, ...], accounts: tuple[str, ...], level: str | None) -> "TrustPolicy":
    """The reader's policy; what is given on the command line about ledgers replaces what the policy says about them."""
    from dataclasses import replace  # what help does without

    from nexus_attest.trust import Ledger, LedgerLevel, TrustPolicy

    policy = session.trust or TrustPolicy()
    if publishers or accounts or (level is not None and not policy.ledgers):
        policy = replace(policy, ledgers=(Ledger("given", accounts, publishers),))
    if level is not None:
        policy = replace(policy, ledgers=tuple(replace(ledger, level=cast("LedgerLevel", level)) for ledger in policy.ledgers))
    return policy


def _read_proof(file: Path) -> dict[str, Any]:
    from nexus_attest.attestation.errors import ProofRefused  # the attestation side
    from nexus_attest.attestation.xrpl.proof import MAX_PROOF_BYTES
    from nexus_attest.cli.files import read_file
    from nexus_control.errors import MalformedBundle
    from nexus_control.json_data import object_of, parse_json

    try:
        return object_of(parse_json(read_file(file, MAX_PROOF_BYTES)), "a proof")
    except MalformedBundle as problem:
        raise ProofRefused(str(problem)) from None


def _judge(document: dict[str, Any], trust: "TrustPolicy", wanted: str | None) -> "Verdict":
    """By its type; `wanted` is the binding digest that it must be about."""
    from nexus_attest.attestation.witness import WITNESS_PROOF_TYPE, WitnessJudge  # the attestation side

    judge = WitnessJudge(trust)
    if document.get("type") == WITNESS_PROOF_TYPE:
        return judge.judge(document, binding_digest=wanted)
    if wanted is None:
        return judge.judge_evidence("xrpl", document)
    raise typer.BadParameter("the proof of a transaction names no package; that takes a witness proof", param_hint="--package, --expect")


def _end(session: "Session", file: Path, verdict: "Verdict") -> None:
    """Show the verdict, as what the command ends with."""
    from nexus_control.layers import Outcome  # what help does without

    data, say = verdict.to_dict(), partial(_say, session, file, verdict)
    if verdict.outcome is Outcome.PASS:
        session.show(data, say)
    elif verdict.outcome is Outcome.FAIL:
        session.fail("VERIFICATION_FAILED", f"failed: {', '.join(verdict.failed)}", data, say)
    else:
        text = f"not everything was shown: {'; '.join(gap.what for gap in verdict.gaps)}"
        session.fail("VERIFICATION_INCOMPLETE", text, data, say)


def _say(session: "Session", file: Path, verdict: "Verdict") -> None:
    from nexus_attest.cli.screen import checks_table  # rich
    from nexus_attest.cli.screen import verdict as last_word
    from nexus_control.layers import Outcome
    from nexus_control.markdown import printable

    rows = [f"  {name.replace('_', ' '):<18}{printable(text)}" for name, text in _rows(verdict.about)]
    session.say("\n".join([f"Proof {printable(str(file))}", *rows, ""]))
    session.screen.print(checks_table(verdict.checks), "")
    if verdict.inexact is not None:
        session.say(f"Not exact: {verdict.inexact}")
    for gap in verdict.gaps:
        session.say(f"Not shown: {printable(gap.what)}\n  needed: {printable(gap.needed)}")
    shown = "nothing" if verdict.level is None else f"level {verdict.level}"
    if verdict.level is not None and verdict.not_after is not None:
        shown += f", not after {verdict.not_after}" + ("" if verdict.inexact is None else " or so")
    if verdict.outcome is Outcome.INCOMPLETE:
        session.say(f"INCOMPLETE: {shown}; that is not all that you demand")
    else:
        session.screen.print(last_word(verdict.outcome is Outcome.PASS, shown, ", ".join(verdict.failed)))


def _rows(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was read, a line for each thing that is there."""
    for name, value in about.items():
        if isinstance(value, Mapping):
            yield from _rows(cast("Mapping[str, Any]", {f"{name}_{key}": inner for key, inner in cast("Mapping[str, Any]", value).items()}))
        elif isinstance(value, list):
            yield from ((name, str(item)) for item in cast("list[object]", value))
        elif value is not None:
            yield name, str(value)
