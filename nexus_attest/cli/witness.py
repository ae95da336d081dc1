"""Commands around the witness: witness init, enqueue, run, status."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.command import ForceOption, command, group

if TYPE_CHECKING:
    from nexus_attest.attestation.intent import ClaimValue
    from nexus_attest.cli.session import Session

__all__ = ["register"]

_MAX_DIGESTS_BYTES = 256 * 1024 * 1024
_IDS_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    witness = group("The witness: digests into a public ledger, many at a time, each with a proof of its own.")
    command(witness, "init", db=False)(_init)
    command(witness, "enqueue", trust=False)(_enqueue)
    command(witness, "run", trust=False)(_run)
    command(witness, "status", trust=False)(_status)
    app.add_typer(witness, name="witness")


def _init(
    session: "Session",
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write.")] = Path("witness.toml"),
    force: ForceOption = False,
) -> None:
    """Write a witness file for mainnet, testnet and a network of your own, to start from. It holds no secret, and names no account."""
    from importlib.resources import files  # what only this command does

    from nexus_attest.cli.files import write_file
    from nexus_control.markdown import escape

    content = (files("nexus_attest.attestation") / "witness.toml").read_bytes()
    write_file(output, content, force=force)
    session.show({"file": str(output), "bytes": len(content)}, f"Wrote {escape(output)}; docs/witness.md says what its keys mean")


def _enqueue(
    session: "Session",
    packages: Annotated[
        list[Path] | None, typer.Argument(help="Audit packages or case files; - is standard input.", metavar="FILE...", show_default=False)
    ] = None,
    digests: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Digests of anything, one in each line: sha256:...; - is standard input.", show_default=False),
    ] = None,
    kind: Annotated[str, typer.Option("--type", metavar="TEXT", help="What the digests are of.")] = "nexus.audit_package",
    attestation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An attestation of the package: its digest is witnessed too.", show_default=False),
    ] = None,
    run_id: Annotated[str | None, typer.Option(metavar="TEXT", help="A member of the intent.", show_default=False)] = None,
    env: Annotated[str | None, typer.Option(metavar="TEXT", help="The same.", show_default=False)] = None,
    tenant: Annotated[str | None, typer.Option(metavar="TEXT", help="The same.", show_default=False)] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label of the intent. Repeatable.", show_default=False)
    ] = None,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A claim of the intent. Repeatable.", show_default=False)
    ] = None,
) -> None:
    """Queue digests to be witnessed. Each becomes an intent, whose digest is its id; one that is queued already stays as it is.

    All of them are queued, or none. Nothing but a root of many intents is ever published; the members of an intent are not.
    """
    from nexus_attest.attestation.intent import AttestationIntent  # the attestation side
    from nexus_attest.attestation.queue import AttestationQueue
    from nexus_control.integrity import prefixed

    if not packages and digests is None:
        raise typer.BadParameter("give at least one file, or --digests", param_hint="FILE...")
    if attestation is not None and (digests is not None or len(packages or ()) != 1):
        raise typer.BadParameter("an attestation is of one package", param_hint="--attestation")
    found = [_binding_digest(path) for path in packages or ()]
    labels = {**_pairs(label, "--label"), **({} if attestation is None else {"attestation": _attestation_digest(attestation, found[0])})}
    claims: dict[str, ClaimValue] = {**_pairs(claim, "--claim")}
    found += [] if digests is None else _listed_digests(digests)
    about: dict[str, Any] = {"run_id": run_id, "env": env, "tenant": tenant, "labels": labels, "claims": claims}
    intents = {prefixed(intent.intent_digest()): intent for intent in (AttestationIntent(kind, digest, **about) for digest in found)}
    session.allow_new_store()
    session.make_local_folder()
    with AttestationQueue(session.store_path) as queue:
        new = [queue_id for queue_id in intents if queue.get_status(queue_id) is None]
        queue.enqueue_many(intents.values())
        data = {
            "queued": len(new),
            "known": len(intents) - len(new),
            "intents": [{"intent_digest": queue_id, "binding_digest": intent.binding_digest} for queue_id, intent in intents.items()],
        }
    shown = [f"  {queue_id}" for queue_id in list(intents)[:_IDS_SHOWN]]
    more = len(intents) - len(shown)
    lines = [f"Queued {len(new):,} of {len(intents):,}" + ("" if len(new) == len(intents) else "; the others are queued already"), *shown]
    session.show(data, "\n".join([*lines, *([f"  and {more:,} more"] if more else [])]))


def _run(
    session: "Session",
    witness: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The witness file. [env: NEXUS_ATTEST_WITNESS]", show_default=False)
    ] = None,
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="The network. [default: the one that the file names]", show_default=False)
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Who witnesses: xrpl; tsa or tsa:NAME, a time-stamp authority of the file; self, for demonstrations."
        ),
    ] = "xrpl",
    drain: Annotated[bool, typer.Option("--drain", help="End when no intent waits and no batch is under way.")] = False,
    seconds: Annotated[
        float | None, typer.Option("--for", min=0, metavar="SECONDS", help="End after so many seconds.", show_default=False)
    ] = None,
    interval: Annotated[float, typer.Option(min=0.01, max=60, metavar="SECONDS", help="Between questions to the servers.")] = 2.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while batches are under way.")] = False,
) -> None:
    """Witness what is queued, batch by batch, until interrupted.

    Every transaction is stored before it is sent, so this may end at any moment, by Ctrl-C or by force: the next run follows what was under
    way, and nothing is witnessed twice. Several may run at once; one of them has the account. The local witness, `self`, proves nothing to
    anybody else.
    """
    from nexus_attest.attestation.witness_file import load_witness_file  # the attestation side
    from nexus_attest.cli import settings
    from nexus_attest.cli.witnessing import Order, self_witness_queue, stamp_queue, witness_queue

    kind, colon, name = backend.partition(":")
    if kind not in ("xrpl", "tsa", "self") or (colon and (kind != "tsa" or not name)):
        raise typer.BadParameter("is xrpl, tsa, tsa:NAME or self", param_hint="--backend")
    if kind != "xrpl" and network is not None:
        raise typer.BadParameter("a network is of the backend xrpl", param_hint="--network")
    order = Order(drain=drain, seconds=seconds, interval=interval, silent=quiet or session.as_json)
    if kind == "self":
        self_witness_queue(session, order)
        return
    file = load_witness_file(settings.witness_path(witness))
    if kind == "tsa":
        stamp_queue(session, file.authority(name or None), order)
    else:
        chosen = file.network(network)
        witness_queue(session, chosen, order, besides=[file.authority(second) for second in chosen.authorities])


def _status(
    session: "Session",
    intent: Annotated[
        str | None, typer.Argument(help="The digest of one intent. [default: all]", metavar="INTENT", show_default=False)
    ] = None,
) -> None:
    """Show what waits, what is under way and what is witnessed. Asks no server.

    `nexus-attest narrative show INTENT` tells everything about one intent.
    """
    from nexus_attest.attestation.queue import AttestationQueue  # the attestation side
    from nexus_attest.cli.errors import StoreMissing
    from nexus_attest.cli.witnessing import intent_report, queue_report
    from nexus_control.integrity import prefixed, unprefixed

    if not session.store_path.is_file():
        raise StoreMissing(f"there is no store at {session.store_path}")
    with AttestationQueue(session.store_path) as queue:
        if intent is None:
            queue_report(session, queue)
        else:
            intent_report(session, queue, prefixed(unprefixed(intent)))


def _binding_digest(path: Path) -> str:
    from nexus_attest.cli.attestations import binding_digest_of  # the engine
    from nexus_attest.cli.files import read_file

    return binding_digest_of(read_file(path))


def _attestation_digest(path: Path, binding_digest: str) -> str:
    """The digest of an attestation, with its signature. Raises WitnessMismatch when it is of another package."""
    from nexus_attest.attestation import Attestation  # the attestation side
    from nexus_attest.attestation.errors import WitnessMismatch
    from nexus_attest.cli.files import read_file
    from nexus_control.integrity import content_digest, prefixed
    from nexus_control.json_data import object_of, parse_json

    found = Attestation.from_dict(object_of(parse_json(read_file(path)), "attestation"))
    if found.payload.binding_digest != binding_digest:
        raise WitnessMismatch(f"{path} attests {found.payload.binding_digest}, not {binding_digest}")
    return prefixed(content_digest(found.to_dict()))


def _listed_digests(path: Path) -> list[str]:
    from nexus_attest.cli.files import read_text  # the engine

    return [line.strip() for line in read_text(path, _MAX_DIGESTS_BYTES).splitlines() if line.strip()]


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or key in pairs:
            raise typer.BadParameter("is KEY=VALUE, each key once", param_hint=option)
        pairs[key] = value
    return pairs
