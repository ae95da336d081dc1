"""The log layer: was every event in the log under this checkpoint, and does that log extend the one I had?

The leaves are recomputed from the events of the package, so nothing has to be believed but the checkpoint. A log proves presence, never
absence: that nothing was recorded after these events, or beside them, is not shown here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from nexus_control import merkle
from nexus_control.bundle_checks import Content
from nexus_control.case_file import LogPart
from nexus_control.checkpoint import (
    ALGORITHM_ED25519,
    Checkpoint,
    NoteKey,
    SignatureCheck,
    SignedNote,
    Witnessed,
    check_note,
    parse_checkpoint,
    parse_note,
)
from nexus_control.errors import MalformedNote
from nexus_control.events import event_record
from nexus_control.integrity import sha256_digest
from nexus_control.layers import Gap, Layer, LayerName
from nexus_control.verification import Finding, VerificationCheck, judge

__all__ = ["LogTrust", "event_leaves", "log_layer"]


@dataclass(frozen=True, slots=True)
class LogTrust:
    """What a reader knows about logs: keys of logs and witnesses, the function that checks their signatures, checkpoints that were kept.

    The name of a log's key is the origin of its checkpoints.
    """

    keys: tuple[NoteKey, ...] = ()
    check: SignatureCheck | None = None
    checkpoints: tuple[SignedNote, ...] = ()


def event_leaves(content: Content, generation: int, prev_hash: str) -> list[bytes]:
    """The leaf hash of every event of a bundle, in its order, as one generation of one decision in a store's log.

    Raises ValueError or TypeError for an event that no store could hold.
    """
    leaves: list[bytes] = []
    for event, payload_json in zip(content.bundle.events, content.payload_texts, strict=True):
        record = event_record(
            decision_id=content.bundle.decision.decision_id,
            generation=generation,
            seq=event.seq,
            event_type=event.type,
            ts=event.ts,
            actor_type=event.actor["type"],
            actor_id=event.actor["id"],
            payload_json=payload_json,
            prev_hash=prev_hash,
        )
        prev_hash = sha256_digest(record)
        leaves.append(merkle.leaf_hash(record))
    return leaves


def log_layer(content: Content, part: LogPart | None, trust: LogTrust) -> Layer:
    """Judge the log part of a case file. Never raises for what it holds."""
    name = LayerName.LOG
    if part is None:
        return Layer(name, gaps=[Gap("the file does not say how its events stand in a log", "a case file (`nexus-attest case export`)")])
    try:
        note = parse_note(part.checkpoint)
        checkpoint = parse_checkpoint(note)
    except MalformedNote as error:
        finding = Finding(f"log.checkpoint is no checkpoint: {error}")
        return Layer(name, [judge("checkpoint", lambda: [finding])])
    checks = [judge("inclusion", partial(_inclusion_findings, content, part, checkpoint))]
    gaps: list[Gap] = []
    outcomes = [] if trust.check is None else check_note(note, trust.keys, trust.check)
    _judge_signer(checkpoint, trust, outcomes, checks, gaps)
    _judge_growth(part, checkpoint, trust, outcomes, checks, gaps)
    return Layer(name, checks, gaps)


def _inclusion_findings(content: Content, part: LogPart, checkpoint: Checkpoint) -> Iterator[Finding]:
    count = len(content.bundle.events)
    if not count or len(part.positions) != count:
        yield Finding(f"log.positions has {len(part.positions)} entries for {count} events")
        return
    try:
        hashes = event_leaves(content, part.generation, part.prev_hash)
    except KeyError as error:
        yield Finding(f"an event has an actor without {error}")
        return
    leaves = {position - 1: leaf for position, leaf in zip(part.positions, hashes, strict=True)}
    if not merkle.verify_joint_inclusion(leaves, checkpoint.size, part.proof, checkpoint.root):
        yield Finding("the events, as they are in this file, are not in the log under its checkpoint")


def _judge_signer(
    checkpoint: Checkpoint, trust: LogTrust, outcomes: Sequence[Witnessed], checks: list[VerificationCheck], gaps: list[Gap]
) -> None:
    logs = [key for key in trust.keys if key.algorithm == ALGORITHM_ED25519]
    if trust.check is None or not logs:
        gaps.append(
            Gap(f"who signed the checkpoint of {checkpoint.origin} was not checked", "a trust policy with the log's key (--trust FILE)")
        )
    else:
        checks.append(judge("log_signature", partial(_signer_findings, checkpoint, logs, outcomes)))
    if cosigned := [outcome for outcome in outcomes if outcome.time is not None]:
        checks.append(judge("cosignatures", partial(_cosignature_findings, cosigned)))


def _signer_findings(checkpoint: Checkpoint, logs: Sequence[NoteKey], outcomes: Sequence[Witnessed]) -> Iterator[Finding]:
    own = [outcome for outcome in outcomes if outcome.key in logs and outcome.key.name == checkpoint.origin]
    if not own:
        yield Finding(f"no trusted key of the log {checkpoint.origin} signed the checkpoint", ", ".join(sorted(key.name for key in logs)))
    elif not any(outcome.valid for outcome in own):
        yield Finding(f"the signature of {checkpoint.origin} is not its signature over this checkpoint")


def _cosignature_findings(cosigned: Sequence[Witnessed]) -> Iterator[Finding]:
    for outcome in cosigned:
        if not outcome.valid:
            yield Finding(f"the cosignature of {outcome.key.name} is not its signature over this checkpoint")
        else:
            yield Finding(f"{outcome.key.name} saw it {_utc(outcome.time)}", fails=False)


def _judge_growth(
    part: LogPart,
    checkpoint: Checkpoint,
    trust: LogTrust,
    outcomes: Sequence[Witnessed],
    checks: list[VerificationCheck],
    gaps: list[Gap],
) -> None:
    """Compare with what was kept. A trusted witness vouches for growth as well: it cosigns only what extends what it saw before."""
    if not trust.checkpoints and not any(outcome.valid and outcome.time is not None for outcome in outcomes):
        gaps.append(
            Gap("whether the log extends an earlier state of itself was not checked", "a checkpoint that was kept (--checkpoint FILE)")
        )
    proofs = {0: (), **{entry.size: entry.proof for entry in part.consistency}}  # every log begins with the empty one
    for number, note in enumerate(trust.checkpoints, 1):
        name = "extends_checkpoint" if len(trust.checkpoints) == 1 else f"extends_checkpoint_{number}"
        try:
            kept = parse_checkpoint(note)
        except MalformedNote as error:
            finding = Finding(f"the checkpoint to compare with is none: {error}")
            checks.append(judge(name, partial(iter, [finding])))
            continue
        findings = [*_false_signatures(note, trust), *_growth_findings(checkpoint, kept, proofs)]
        if kept.origin == checkpoint.origin and kept.size != checkpoint.size and kept.size not in proofs:
            gaps.append(
                Gap(
                    f"whether the log of {checkpoint.size} entries and the one of {kept.size} are the same was not checked",
                    "a case file with the proof for it (`nexus-attest case export --since` that checkpoint)",
                )
            )
            if not findings:
                continue  # nothing was found because nothing could be looked at
        checks.append(judge(name, partial(iter, findings)))


def _false_signatures(note: SignedNote, trust: LogTrust) -> Iterator[Finding]:
    for outcome in [] if trust.check is None else check_note(note, trust.keys, trust.check):
        if not outcome.valid:
            yield Finding(f"the checkpoint to compare with has a false signature of {outcome.key.name}")


def _growth_findings(checkpoint: Checkpoint, kept: Checkpoint, proofs: Mapping[int, Sequence[bytes]]) -> Iterator[Finding]:
    if kept.origin != checkpoint.origin:
        yield Finding("the checkpoint to compare with is of another log", kept.origin, checkpoint.origin)
    elif kept.size == checkpoint.size:
        if kept.root != checkpoint.root:
            what = "the log showed two histories of the same size; both checkpoints together prove it"
            yield Finding(what, kept.root.hex(), checkpoint.root.hex())
    elif kept.size in proofs and not _is_consistent(kept, checkpoint, proofs[kept.size]):
        yield Finding("the log does not extend the checkpoint to compare with, or the proof for it is false")


def _is_consistent(one: Checkpoint, other: Checkpoint, proof: Sequence[bytes]) -> bool:
    old, new = sorted((one, other), key=lambda checkpoint: checkpoint.size)
    return merkle.verify_consistency(old.size, old.root, new.size, new.root, proof)


def _utc(seconds: int | None) -> str:
    try:
        return datetime.fromtimestamp(seconds or 0, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{seconds} seconds after 1970"
