"""Judges the proof of a ledger transaction offline, from the pinned key of a publisher of validator lists down to the memo.

    pinned publisher key -> its manifest -> validator list -> validators' manifests -> votes for one ledger hash
        -> ledger header, over parent hashes if the votes are for a later ledger -> root of its transactions
        -> transaction and metadata -> account, result, memo

The checks, in their order:

    form         the document can be read, and is written in its one form
    path         transaction and metadata are in the tree whose root the header names
    result       the ledger applied the transaction with tesSUCCESS
    account      it is one of an account that the reader expects
    memo         exactly one of its memos is ours, and of a form that is known
    headers      each later header names the one before it as its parent
    lists        every list is signed by the publisher that it names, and was in force when the ledger closed
    publisher    one of them, or all, are of the pinned publishers
    validations  every vote is a full one for this ledger by a listed validator, signed by it, and the only one of its
    quorum       there are votes of at least four fifths of each list that counts

A file of somebody else, which is a bare XPOP, may have votes that do not count. The level that is reported is the one that was shown:
`tree` when a ledger's header is all that the transaction hashes up to, `quorum` when all checks pass, none when one fails. What a list
says is believed of the time when the ledger closed, not of today, so that an archive stays verifiable.
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import InvalidAnchor, InvalidAttestationRecord, ProofRefused, WitnessMismatch
from nexus_attest.attestation.inclusion import require_included, require_same
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_attest.attestation.witness import Level, Testimony
from nexus_attest.attestation.xrpl.batch_receipt import WitnessTransaction, require_confirming
from nexus_attest.attestation.xrpl.codec import decode_object, decode_transaction, encode_transaction, node_key, transaction_id
from nexus_attest.attestation.xrpl.ledger_header import LedgerHeader
from nexus_attest.attestation.xrpl.ledger_tree import path_problem, transaction_leaf
from nexus_attest.attestation.xrpl.memo import MemoCodec
from nexus_attest.attestation.xrpl.proof import LedgerProof
from nexus_attest.attestation.xrpl.validators import Manifest, Validation, ValidatorList, quorum_of, revoked_by
from nexus_attest.trust import Ledger, LedgerLevel, TrustPolicy
from nexus_control.integrity import prefixed, unprefixed
from nexus_control.layers import Gap
from nexus_control.verification import VerificationCheck

__all__ = ["EVIDENCE_KEY", "LedgerReport", "check_proof", "judge_evidence", "pruned"]

EVIDENCE_KEY = "xrpl.xpop"
"""Under which a receipt names the digest of its proof."""

_RANKS: dict[str, int] = {level: rank for rank, level in enumerate(get_args(LedgerLevel))}
_SUCCESS = "tesSUCCESS"
_NOT_AGREED = "the validators did not agree on when the ledger closed, it may have been some seconds later"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """What a proof shows. Everything but `checks` and `gaps` holds only as far as `level` says, which is None when a check failed.

    `network` and `publishers` are those of the reader's pins that it rests on; `votes` of `validators` are those of the list with the
    smallest share.
    """

    level: Level | None
    checks: tuple[VerificationCheck, ...]
    gaps: tuple[Gap, ...] = ()
    transaction: WitnessTransaction | None = None
    header: LedgerHeader | None = None
    digest: str | None = None
    network: str | None = None
    publishers: tuple[str, ...] = ()
    votes: int = 0
    validators: int = 0

    @property
    def not_after(self) -> str | None:
        """When the ledger closed: what the memo says existed by then. UTC, ISO 8601."""
        return None if self.header is None else self.header.closed_at.strftime(_TIME)

    @property
    def inexact(self) -> str | None:
        """Why that may be some seconds early; None where the validators agreed on it."""
        return None if self.header is None or self.header.agreed else _NOT_AGREED

    def about(self) -> dict[str, Any]:
        """What was read, as JSON data; nothing when it could not be read that far."""
        transaction, header = self.transaction, self.header
        if transaction is None or header is None:
            return {}
        data: dict[str, Any] = {
            "network": self.network,
            "tx_hash": transaction.tx_hash,
            "account": transaction.account,
            "ledger_index": header.index,
            "ledger_hash": header.hash().hex().upper(),
            "close_time": self.not_after,
            "close_time_agreed": header.agreed,
            "publishers": list(self.publishers),
            "votes": self.votes,
            "validators": self.validators,
            "memo_digest": transaction.memo_digest,
        }
        if transaction.statement is not None:
            data["batch"] = {"root": transaction.statement.root.hex(), "size": transaction.statement.size}
        if transaction.memo is not None:
            data["memo"] = dict(transaction.memo)
        return data


def check_proof(document: object, pins: Sequence[Ledger] = ()) -> LedgerReport:
    """Judge a proof, as JSON data, with the pins of a trust policy. Raises nothing for what it holds.

    Without pins nothing is believed: the proof shows `tree` at most, and gaps say what was not known.
    """
    trail = _Trail()
    try:
        with trail.step("form"):
            proof = LedgerProof.from_dict(document)
            strict = isinstance(document, dict) and "type" in document
        return _checked(proof, pins, trail, strict=strict)
    except _Stopped:
        return LedgerReport(level=None, checks=tuple(trail.checks))


def judge_evidence(evidence: dict[str, Any] | None, trust: TrustPolicy) -> Testimony:
    """A proof as evidence of the backend `xrpl`; without one the receipt is all there is, and its writer must be believed."""
    if evidence is None:
        gap = Gap("that a server saw the transaction validated is only said", "a proof of the transaction (`nexus-attest proof export`)")
        enough = trust.ledgers and all(ledger.level == "server" for ledger in trust.ledgers)
        accounts = tuple(account for ledger in trust.ledgers for account in ledger.accounts)
        return Testimony(level=Level.SERVER, gaps=() if enough else (gap,), covers=partial(_covers_by_itself, accounts))
    report = check_proof(evidence, trust.ledgers)
    transaction, header = report.transaction, report.header
    testimony = Testimony(
        level=report.level,
        checks=report.checks,
        gaps=report.gaps,
        by=", ".join(report.publishers) or None,
        not_after=report.not_after,
        inexact=report.inexact,
        about=report.about(),
        evidence_digest=report.digest,
        evidence_key=EVIDENCE_KEY,
    )
    if transaction is None or header is None:
        return testimony
    place = _place_of(header)

    def covers(receipt: AttestationReceipt, intent: AttestationIntent) -> None:
        transaction.check(receipt, intent)
        for name in place.keys() & receipt.proof.keys():
            require_same(name, receipt.proof[name], place[name])

    return replace(testimony, covers=covers)


def _checked(proof: LedgerProof, pins: Sequence[Ledger], trail: "_Trail", *, strict: bool) -> LedgerReport:
    header = proof.header
    with trail.step("path"):
        fields, engine_result = _require_path(proof)
    with trail.step("result"):
        if engine_result != _SUCCESS:
            raise ProofRefused(f"the transaction ended with {engine_result}, which witnesses nothing")
    with trail.step("account") as told:
        account = str(fields["Account"])
        expected = [pin for pin in pins if not pin.accounts or account in pin.accounts]
        if pins and not expected:
            raise ProofRefused(f"{account} is no account that the trust policy names as a witness")
        told.append(f"{account}, whoever that is" if _unsaid(expected) else account)
    with trail.step("memo"):
        transaction = WitnessTransaction(proof.blob, engine_result, account=account)
    digest = proof.digest() if strict else None
    report = LedgerReport(level=Level.TREE, checks=(), gaps=_unsaid(expected), transaction=transaction, header=header, digest=digest)
    if not proof.lists:
        return _reported(report, trail, expected, _NO_VOTES)
    quorum = _quorum(proof, expected, trail, strict=strict)
    believed = expected if quorum.pin is None else [quorum.pin]
    report = replace(_with(report, quorum), gaps=_unsaid(believed))  # another network's pin may have named the account
    return _reported(report, trail, believed, _NO_PUBLISHER if quorum.pin is None else None)


_NEEDED_PINS = "a trust policy that names accounts and publisher_keys of the network under [[ledgers]]"
_NO_ACCOUNT = Gap("which account may witness was not said", _NEEDED_PINS)
_NO_VOTES = Gap("no votes of validators are in the proof", "a proof with them; they are recorded while ledgers close")
_NO_PUBLISHER = Gap("whose list of validators to believe was not said", _NEEDED_PINS)


def _unsaid(pins: Sequence[Ledger]) -> tuple[Gap, ...]:
    return () if any(pin.accounts for pin in pins) else (_NO_ACCOUNT,)


def _require_path(proof: LedgerProof) -> tuple[dict[str, Any], str]:
    """The fields of the transaction and its result. Raises ProofRefused unless both hash up to the header."""
    fields = decode_transaction(proof.blob)
    metadata = decode_object(proof.metadata)
    if encode_transaction(metadata) != proof.metadata:
        raise ProofRefused("the metadata is not in its one encoding")
    key = bytes.fromhex(transaction_id(proof.blob))
    leaf = transaction_leaf(proof.blob, proof.metadata, key)
    problem = path_problem(proof.header.transaction_root, key, proof.path, leaf)
    if problem is not None:
        raise ProofRefused(problem)
    return fields, str(metadata.get("TransactionResult"))


@dataclass(frozen=True, slots=True)
class _Quorum:
    """The pin that holds, None when the reader has none, and the lists that count with their votes."""

    pin: Ledger | None
    lists: tuple[tuple[ValidatorList, int], ...]


def _quorum(proof: LedgerProof, pins: Sequence[Ledger], trail: "_Trail", *, strict: bool) -> _Quorum:
    voted = proof.voted
    if proof.headers:
        with trail.step("headers"):
            _require_chain(proof.header, proof.headers)
    with trail.step("lists"):
        lists = [ValidatorList.from_published(published) for published in proof.lists]
        for known in lists:
            if not known.in_force(voted):
                raise ProofRefused(f"the list of {known.publisher} was not in force when ledger {voted.index} closed")
        if len({known.publisher for known in lists}) != len(lists):
            raise ProofRefused("two lists are of one publisher")
    publishers = {known.publisher for known in lists}
    believing = [pin for pin in pins if pin.publisher_keys]
    matching = [pin for pin in believing if (all if pin.all_publishers else any)(key in publishers for key in pin.publisher_keys)]
    if believing:
        with trail.step("publisher"):
            if not matching:
                raise ProofRefused(f"the lists are of {', '.join(sorted(publishers))}, which is not who the trust policy names")
    with trail.step("validations") as told:
        counted = _count(proof, lists)
        if counted.ignored and strict:
            raise ProofRefused(counted.ignored[0])
        told.extend(counted.ignored[:10])
    with trail.step("quorum") as told:
        choices: list[_Quorum] = []
        for pin in matching or [None]:
            votes = [
                (known, len(counted.masters & known.manifests.keys()))
                for known in lists
                if pin is None or known.publisher in pin.publisher_keys
            ]
            choices.append(_Quorum(pin, tuple(votes)))
        quorum = next((choice for choice in choices if _enough(choice)), None)
        told.append(", ".join(f"{votes} of {len(known.manifests)} validators" for known, votes in (quorum or choices[0]).lists))
        if quorum is None:
            raise ProofRefused(f"too few: {told.pop()}, of which four fifths must agree")
    return quorum


def _enough(choice: _Quorum) -> bool:
    need = all if choice.pin is not None and choice.pin.all_publishers else any
    return need(votes >= quorum_of(len(known.manifests)) for known, votes in choice.lists)


def _require_chain(header: LedgerHeader, headers: Iterable[LedgerHeader]) -> None:
    for following in headers:
        if following.index != header.index + 1 or following.parent_hash != header.hash():
            raise ProofRefused(f"ledger {following.index} does not follow ledger {header.index}")
        header = following


@dataclass(frozen=True, slots=True)
class _Count:
    """The master keys that voted; the votes that count, and the manifests of the proof's own that they need; why others do not count."""

    masters: frozenset[str]
    votes: dict[str, bytes]
    manifests: tuple[bytes, ...]
    ignored: tuple[str, ...]


def pruned(proof: LedgerProof) -> LedgerProof:
    """The same proof with nothing in it that does not count. Raises ProofRefused for a list that its publisher did not sign."""
    counted = _count(proof, [ValidatorList.from_published(published) for published in proof.lists])
    return replace(proof, votes=counted.votes, manifests=counted.manifests)


def _count(proof: LedgerProof, lists: Sequence[ValidatorList]) -> _Count:
    voted, ledger_hash = proof.voted, proof.voted.hash()
    signers, newer, ignored = _signers(proof, lists)
    counted: dict[str, Manifest] = {}
    votes: dict[str, bytes] = {}
    for label, data in proof.votes.items():
        try:
            vote = Validation.from_bytes(data)
            manifest = signers.get(vote.signing)
            if manifest is None:
                raise ProofRefused(f"a validation by {vote.signing}, the signing key of no listed validator")
            if label not in (node_key(vote.signing), node_key(manifest.master)):
                raise ProofRefused(f"a validation by {vote.signing} stands under another key")
            if (vote.ledger_hash, vote.ledger_index) != (ledger_hash, voted.index):
                raise ProofRefused(f"the validation by {vote.signing} is for another ledger")
            if not vote.full:
                raise ProofRefused(f"the validation by {vote.signing} is a partial one")
            if manifest.master in counted:
                raise ProofRefused(f"{manifest.master} voted already")
            manifest.require_signed()
            if not vote.is_signed():
                raise ProofRefused(f"the validation by {vote.signing} is not signed by it")
        except ProofRefused as problem:
            ignored.append(str(problem))
        else:
            counted[manifest.master] = manifest
            votes[label] = data
    # By identity: one that is there twice, or in a list as well, is equal and not needed.
    needed = [data for manifest, data in newer if counted.get(manifest.master) is manifest]
    ignored += [f"the manifest of {one.master} is not needed" for one, _ in newer if counted.get(one.master) is not one]
    return _Count(frozenset(counted), votes, tuple(needed), tuple(ignored))


def _signers(proof: LedgerProof, lists: Sequence[ValidatorList]) -> tuple[dict[str, Manifest], list[tuple[Manifest, bytes]], list[str]]:
    """Listed validators' manifests by their signing keys, the highest sequence of each; the proof's own; what cannot be read of them.

    A key that was revoked anywhere has no vote, whatever earlier manifest of it there is.
    """
    latest: dict[str, Manifest] = {}
    newer: list[tuple[Manifest, bytes]] = []
    ignored: list[str] = []
    listed = {key for known in lists for key in known.manifests}
    read: list[Manifest] = []
    revoked: set[str | None] = set()
    for data in (data for known in lists for data in known.manifests.values()):
        try:
            read.append(Manifest.from_bytes(data))
        except ProofRefused:  # a validator without a good manifest has no vote
            revoked.add(revoked_by(data))
    for data in proof.manifests:
        try:
            newer.append((Manifest.from_bytes(data), data))
        except ProofRefused as problem:
            ignored.append(str(problem))
            revoked.add(revoked_by(data))
    for manifest in (*read, *(manifest for manifest, _ in newer)):
        known = latest.get(manifest.master)
        if manifest.master in listed and (known is None or known.sequence < manifest.sequence):
            latest[manifest.master] = manifest
    return {manifest.signing: manifest for master, manifest in latest.items() if master not in revoked}, newer, ignored


def _with(report: LedgerReport, quorum: _Quorum) -> LedgerReport:
    """The report with what the votes show; nothing, unless the reader has said whose list to believe."""
    if quorum.pin is None:
        return report
    reached = [(known, votes) for known, votes in quorum.lists if votes >= quorum_of(len(known.manifests))]
    least, votes = min(reached, key=lambda one: one[1] / len(one[0].manifests))
    return replace(
        report,
        level=Level.QUORUM,
        network=quorum.pin.network,
        publishers=tuple(known.publisher for known, _ in reached),
        votes=votes,
        validators=len(least.manifests),
    )


def _reported(report: LedgerReport, trail: "_Trail", pins: Sequence[Ledger], lacking: Gap | None) -> LedgerReport:
    """The report with its checks, and a gap when it shows less than the reader demands; whoever demands nothing demands a quorum."""
    demanded = max((_RANKS[pin.level] for pin in pins), default=_RANKS["quorum"])
    gaps = [*report.gaps]
    if lacking is not None and report.level is not None and _RANKS[report.level] < demanded:
        gaps.append(lacking)
    return replace(report, checks=tuple(trail.checks), gaps=tuple(gaps))


def _covers_by_itself(accounts: tuple[str, ...], receipt: AttestationReceipt, intent: AttestationIntent) -> None:
    """What a receipt shows without evidence: that its own statements belong together, and name an account that is expected."""
    if accounts and "account" in receipt.proof and receipt.proof["account"] not in accounts:
        raise WitnessMismatch("the receipt names an account that the trust policy does not")
    digest, proof = prefixed(intent.intent_digest()), receipt.proof
    require_same("intent_digest", receipt.intent_digest, digest)
    named, root = (receipt.evidence_digests.get(name) for name in ("memo_digest", "xrpl.batch.root"))
    require_confirming(receipt, batch=root is not None)
    if root is None:
        require_same("memo_digest", named, MemoCodec.digest(intent))
        return
    merkle: Any = proof.get("merkle")
    try:
        statement = Statement(bytes.fromhex(unprefixed(root)), merkle["size"])
    except (InvalidAnchor, LookupError, TypeError) as problem:
        raise WitnessMismatch(f"the receipt names no batch: {problem!s:.200}") from None
    require_same("memo_digest", named, statement.digest())
    require_included(statement, digest, proof)


def _place_of(header: LedgerHeader) -> dict[str, object]:
    """What a receipt may say about where its transaction is, under the names that receipts have for it."""
    closed = header.closed_at.strftime(_TIME)
    return {"ledger_index": header.index, "ledger_hash": header.hash().hex().upper(), "close_time": closed, "ledger_close_time": closed}


class _Stopped(Exception):
    """A check has failed; nothing that follows could be relied on."""


class _Trail:
    """The checks that were run."""

    def __init__(self) -> None:
        self.checks: list[VerificationCheck] = []

    @contextmanager
    def step(self, name: str) -> Generator[list[str]]:
        """Run a check: it passes when the body raises nothing. What the body adds to the list is told with it."""
        told: list[str] = []
        try:
            yield told
        except InvalidAttestationRecord as problem:
            self.checks.append(VerificationCheck(name, ok=False, detail=str(problem)))
            raise _Stopped from None
        self.checks.append(VerificationCheck(name, ok=True, detail="; ".join(told) or None))
