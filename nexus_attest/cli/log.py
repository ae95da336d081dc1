"""Commands around the store's own log: log verify, checkpoint, prove, consistency."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_attest.cli.cases import OriginOption
from nexus_attest.cli.command import ForceOption, OutputOption, command, group

if TYPE_CHECKING:
    from nexus_attest.cli.session import Session

__all__ = ["register"]

SizeOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="In the log of so many entries. [default: all]", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the group of this module."""
    log = group("The store's own log, from which nothing can vanish unseen.")
    command(log, "verify")(_verify)
    command(log, "checkpoint")(_checkpoint)
    command(log, "prove")(_prove)
    command(log, "consistency")(_consistency)
    app.add_typer(log, name="log")


def _verify(
    session: "Session",
    decision_id: Annotated[
        str | None, typer.Argument(help="Only this decision; default: everything.", metavar="ID", show_default=False)
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A checkpoint that you kept: the log must begin with it. Repeatable.", show_default=False),
    ] = None,
) -> None:
    """Recompute every digest, chain and leaf of the store, and compare the tree with every checkpoint.

    This finds rows that were changed, dropped or added. A store that was rewritten as a whole, or cut off at its end, shows only against a
    checkpoint that was kept somewhere else. With a trust policy the signatures of checkpoints are checked too.
    """
    from nexus_attest.cli.checkpoints import compared, read_checkpoint, signature_problems  # the engine

    _ = session.trust  # one that cannot be read is told, also where no checkpoint has a signature to check
    kept = [(path, read_checkpoint(path)) for path in checkpoint or ()]
    with session.store.snapshot():
        found = session.store.verify_log(decision_id)
        size, root = session.store.log_root()
        errors = list(found.errors)
        if decision_id is None and found.ok:
            for number, note in enumerate(session.store.checkpoints(), 1):
                errors += [f"checkpoint {number}: {problem}" for problem in signature_problems(session, note)]
        errors += [f"{path}: {problem}" for path, note in kept for problem in compared(session, note)]
    data: dict[str, Any] = {"ok": not errors, "size": size, "errors": errors}
    if decision_id is None:
        data["root"] = root
    else:
        data |= {"decision_id": decision_id, "head": found.head}
    if not errors:
        session.show(data, lambda: session.screen.log(data))
        return
    text = f"{len(errors)} {'fact is' if len(errors) == 1 else 'facts are'} not as they were written"
    session.fail("LOG_VERIFICATION_FAILED", text, data, lambda: session.screen.log(data))


def _checkpoint(
    session: "Session",
    key: Annotated[
        str, typer.Option(metavar="KEY", help="The log's key: a name, a file, env:NAME or program:COMMAND.", show_default=False)
    ],
    origin: OriginOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
) -> None:
    """Sign what the log is now, and keep it in the store. Prints the checkpoint; keep a copy where the store's owner cannot reach it.

    It is a signed note (https://c2sp.org/tlog-checkpoint). A log that was cut off or rewritten since its last checkpoint is not signed.
    """
    from nexus_attest.cli.checkpoints import new_checkpoint  # the engine
    from nexus_attest.cli.files import STANDARD_STREAM, write_file
    from nexus_control.checkpoint import parse_checkpoint
    from nexus_control.markdown import printable

    note = new_checkpoint(session, key, origin)
    made, text = parse_checkpoint(note), note.render()
    data = {"origin": made.origin, "size": made.size, "root": made.root.hex(), "note": text}
    if output is None or output == STANDARD_STREAM:
        session.show(data, "\n".join(map(printable, text[:-1].split("\n"))))
        return
    write_file(output, text.encode(), force=force)
    session.show({**data, "file": str(output)}, f"Wrote {printable(output)} (checkpoint of {made.size} entries)")


def _prove(
    session: "Session",
    position: Annotated[int, typer.Argument(min=1, help="The position of the entry, from 1.", metavar="POSITION", show_default=False)],
    size: SizeOption = None,
) -> None:
    """Prove that an entry is in the log: its RFC 6962 inclusion proof, as standard tools take it."""
    with session.store.snapshot():
        size, root = session.store.log_root(size)
        proof = session.store.inclusion_proof(position, size)
    data = {"position": position, "leaf_index": position - 1, "size": size, "root": root, "proof": proof}
    session.show(data, "\n".join([f"leaf index {position - 1}, size {size}, root {root}", *proof]))


def _consistency(
    session: "Session",
    old: Annotated[str, typer.Argument(help="The earlier state: a size, or the file of a checkpoint.", metavar="OLD", show_default=False)],
    new: Annotated[str | None, typer.Argument(help="The later one. [default: all of the log]", metavar="NEW", show_default=False)] = None,
) -> None:
    """Prove that the log of one size begins with that of another: the RFC 6962 consistency proof.

    For checkpoints it fails when they contradict each other, or are not of this log: two checkpoints of one size with different roots
    prove that the log showed two histories (a split view).
    """
    from nexus_attest.cli.checkpoints import compared, size_of, split_view  # the engine
    from nexus_attest.cli.errors import Failure
    from nexus_control.checkpoint import SignedNote, parse_checkpoint

    states = [size_of(text) for text in ((old,) if new is None else (old, new))]
    notes = [state for state in states if isinstance(state, SignedNote)]
    if len(notes) == 2:
        split_view(notes[0], notes[1])
    with session.store.snapshot():
        if problems := [problem for note in notes for problem in compared(session, note)]:
            raise Failure("LOG_VERIFICATION_FAILED", f"LOG_VERIFICATION_FAILED: {'; '.join(problems)}")
        sizes = [parse_checkpoint(state).size if isinstance(state, SignedNote) else state for state in states]
        old_size, old_root = session.store.log_root(sizes[0])
        new_size, new_root = session.store.log_root(sizes[1] if len(sizes) > 1 else None)
        proof = session.store.consistency_proof(old_size, new_size)
    data = {"old_size": old_size, "old_root": old_root, "new_size": new_size, "new_root": new_root, "proof": proof}
    session.show(data, "\n".join([f"old {old_size} {old_root}", f"new {new_size} {new_root}", *proof]))
