"""Checkpoints of the store's log: made with a key, read from files, compared."""

from pathlib import Path

from nexus_attest.cli import settings
from nexus_attest.cli.errors import Failure
from nexus_attest.cli.files import read_file
from nexus_attest.cli.session import Session
from nexus_attest.cli.signing import passphrase
from nexus_attest.signer import open_signer
from nexus_control.case_export import sign_checkpoint
from nexus_control.checkpoint import MAX_NOTE_BYTES, NoteKey, SignedNote, check_note, parse_checkpoint, parse_note
from nexus_control.errors import InputError

__all__ = ["compared", "new_checkpoint", "read_checkpoint", "signature_problems", "size_of", "split_view"]


def new_checkpoint(session: Session, key: str, origin: str | None) -> SignedNote:
    """Sign the log as it is, and store the checkpoint.

    Raises InputError when nobody said what the log is called, and what opening the key and the log raise.
    """
    stored = session.store.checkpoints()
    name = origin if origin is not None else parse_checkpoint(stored[-1]).origin if stored else None
    if name is None:
        raise InputError("this log has no checkpoint yet: give it a name, for good, such as --origin example.org/decisions")
    signer = open_signer(key, settings.keys_path(None), passphrase)
    return sign_checkpoint(session.store, NoteKey(name, signer.public_key), signer.sign)


def read_checkpoint(path: Path) -> SignedNote:
    """A checkpoint from a file. Raises MalformedNote or FileRefused."""
    note = parse_note(read_file(path, MAX_NOTE_BYTES))
    parse_checkpoint(note)
    return note


def size_of(text: str) -> int | SignedNote:
    """What a command line names a state of the log by: a size, or the file of a checkpoint."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else read_checkpoint(Path(text))


def signature_problems(session: Session, note: SignedNote) -> list[str]:
    """Signatures of the checkpoint that the trust policy knows the key of, and that are false."""
    if session.trust is None:
        return []
    outcomes = check_note(note, session.trust.log_keys, session.trust.verifies)
    return [f"the signature of {outcome.key.name} is not its signature over this checkpoint" for outcome in outcomes if not outcome.valid]


def compared(session: Session, note: SignedNote) -> list[str]:
    """What speaks against the store's log being the one that this checkpoint is of, or against the checkpoint."""
    kept, stored = parse_checkpoint(note), session.store.checkpoints()
    problems = signature_problems(session, note)
    origin = parse_checkpoint(stored[-1]).origin if stored else kept.origin
    if kept.origin != origin:
        return [*problems, f"the checkpoint is of the log {kept.origin}, this is {origin}"]
    size, _ = session.store.log_root()
    if kept.size > size:
        return [*problems, f"the log has {size} entries, the checkpoint {kept.size}: it was cut off, or put back to an earlier state"]
    if session.store.log_root(kept.size)[1] != kept.root.hex():
        return [*problems, f"the first {kept.size} entries of the log are not those of the checkpoint: it was rewritten"]
    return problems


def split_view(one: SignedNote, other: SignedNote) -> None:
    """Raise when two checkpoints of one log contradict each other by themselves."""
    first, second = parse_checkpoint(one), parse_checkpoint(other)
    if first.origin != second.origin:
        raise InputError(f"the checkpoints are of two logs, {first.origin} and {second.origin}")
    if first.size == second.size and first.root != second.root:
        raise Failure(
            "SPLIT_VIEW",
            f"SPLIT_VIEW: the log {first.origin} showed two histories of {first.size} entries; the two checkpoints together prove it",
        )
