"""Case files of stored decisions: the package, and where its events stand in the store's log. Reads only."""

from collections.abc import Mapping, Sequence
from typing import Any

from nexus_control import merkle
from nexus_control.bundle import DecisionBundle
from nexus_control.bundle_checks import Content
from nexus_control.case_file import CaseFile, ConsistencyProof, LogPart
from nexus_control.checkpoint import Checkpoint, NoteKey, SignedNote, Signer, parse_checkpoint, sign_note
from nexus_control.errors import InputError, LogRewritten
from nexus_control.json_data import copy_json, object_field
from nexus_control.log_evidence import event_leaves
from nexus_control.store import EventStore

__all__ = ["export_case", "sign_checkpoint"]


def sign_checkpoint(store: EventStore, key: NoteKey, sign: Signer) -> SignedNote:
    """Sign what the store's log is now, and store the checkpoint. `sign` may take its time: no lock is held meanwhile.

    Raises LogRewritten when the log is not what its last checkpoint said, InputError for a log of another name.
    """
    size, root = store.certain_log_root()
    note = sign_note(Checkpoint(key.name, size, bytes.fromhex(root)).text(), key, sign)
    store.add_checkpoint(note)
    return note


def export_case(
    store: EventStore,
    package: Mapping[str, Any],
    *,
    checkpoint: SignedNote | None = None,
    since: Sequence[SignedNote] = (),
    attestations: Sequence[dict[str, Any]] = (),
    witness: Sequence[dict[str, Any]] = (),
    trust_digest: str | None = None,
) -> CaseFile:
    """The case file around an audit package (as JSON data) of a decision of this store, whose events have not changed since its export.

    `checkpoint` is the one that its log part is proved under, by default the last that is stored; without one there is no log part.
    `since` are earlier or later checkpoints of the same log, each of which gets a consistency proof. Raises InputError for a checkpoint
    that does not cover the events, or that the log has not reached; LogRewritten when the events, or a checkpoint, are not those of the
    log; DecisionNotFound; MalformedBundle for what is no package; MalformedNote for what is no checkpoint.
    """
    content: dict[str, Any] = copy_json(dict(package))
    bundle = DecisionBundle.from_dict(object_field(content, "control_bundle", "package"))
    with store.snapshot():
        stored = store.checkpoints()
        note = checkpoint if checkpoint is not None else stored[-1] if stored else None
        part = None if note is None else _log_part(store, bundle, note, since)
    return CaseFile(package=content, log=part, attestations=tuple(attestations), witness=tuple(witness), trust_digest=trust_digest)


def _log_part(store: EventStore, bundle: DecisionBundle, note: SignedNote, since: Sequence[SignedNote]) -> LogPart:
    checkpoint, decision_id = parse_checkpoint(note), bundle.decision.decision_id
    events = store.get_events(decision_id)[: len(bundle.events)]
    positions = tuple(event.position for event in events if event.position is not None)
    if not positions or positions[-1] > checkpoint.size:
        raise InputError(f"the checkpoint of {checkpoint.size} entries does not cover the events of {decision_id}; make a new one")
    generation = store.list_generations(decision_id)[-1]["generation"]
    prev_hash = events[0].prev_hash or ""
    proof = _hashes(store.joint_inclusion_proof(positions, checkpoint.size))
    leaves = event_leaves(Content(bundle), generation, prev_hash)
    proved = len(leaves) == len(positions) and merkle.verify_joint_inclusion(
        {position - 1: leaf for position, leaf in zip(positions, leaves, strict=True)}, checkpoint.size, proof, checkpoint.root
    )
    if not proved:
        raise LogRewritten(
            f"the events of {decision_id} are not in the log under its checkpoint of {checkpoint.size} entries; see log verify"
        )
    kept = {known.size: known for known in map(parse_checkpoint, since)}
    return LogPart(
        note.render(),
        generation,
        prev_hash,
        positions,
        proof,
        tuple(_consistency(store, checkpoint, known) for size, known in sorted(kept.items()) if size != checkpoint.size),
    )


def _consistency(store: EventStore, checkpoint: Checkpoint, known: Checkpoint) -> ConsistencyProof:
    if known.origin != checkpoint.origin:
        raise InputError(f"the checkpoint of {known.origin} is not of this log, {checkpoint.origin}")
    old, new = sorted((checkpoint, known), key=lambda one: one.size)
    proof = _hashes(store.consistency_proof(old.size, new.size))
    if not merkle.verify_consistency(old.size, old.root, new.size, new.root, proof):
        raise LogRewritten(f"the log does not lead from its checkpoint of {old.size} entries to the one of {new.size}")
    return ConsistencyProof(known.size, proof)


def _hashes(proof: Sequence[str]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(value) for value in proof)
