"""Batches of queued intents, from the queue through the ledger to their receipts; the durable way to witness.

A batch closes when it is full or its oldest intent has waited long enough; a batch of one goes the same way. Membership is decided in one
transaction, so an intent is in at most one batch that can still be witnessed. When a batch ends, each member gets one receipt; members
of a batch that was not witnessed wait for the next one. One batch of an account is under way at a time, while the next one collects.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from nexus_attest.attestation.batch_tree import MAX_MEMBERS, BatchTree
from nexus_attest.attestation.errors import LedgerUnavailable
from nexus_attest.attestation.members import compact_utc
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptError, ReceiptErrorCode, ReceiptStatus
from nexus_attest.attestation.xrpl.adapter import XRPL_BACKEND
from nexus_attest.attestation.xrpl.batch_receipt import Anchor, batch_receipt
from nexus_attest.attestation.xrpl.node import LedgerNodes
from nexus_attest.attestation.xrpl.signer import XRPLSigner
from nexus_attest.attestation.xrpl.submission import SubmissionSettings, Submitter
from nexus_attest.attestation.xrpl.submission_store import Attempt, AttemptState, Batch, Member, Slot, SlotState, SubmissionStore
from nexus_control.errors import InputError
from nexus_control.events import Clock, in_utc, require_text, utc_now

__all__ = ["BatchSettings", "BatchWitness", "Progress", "Proof", "Settled", "close_batch", "give_way"]

_RECEIPTS_PER_COMMIT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """When a batch closes: at `max_members` (1 to 65,536), or when its oldest intent is `max_age` seconds old (0 to 600).

    `network` is the configured name that receipts repeat, `lease` the seconds after which another worker may take over a lane.
    """

    network: str
    max_members: int = 4096
    max_age: float = 10.0
    lease: float = 60.0

    def __post_init__(self) -> None:
        if type(self.max_members) is not int or not 1 <= self.max_members <= MAX_MEMBERS:
            raise InputError(f"max_members must be 1 to {MAX_MEMBERS}, got {self.max_members!r:.100}")
        if not 0 <= self.max_age <= 600:
            raise InputError(f"max_age must be 0 to 600 seconds, got {self.max_age!r:.100}")
        if not 0 <= self.lease <= 3600:
            raise InputError(f"lease must be 0 to 3600 seconds, got {self.lease!r:.100}")
        require_text(self.network, "network")


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof of a transaction that was captured: the digest of its file (prefixed) and the level that it reaches."""

    digest: str
    level: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch that ended, and its last transaction; `receipts` of its members were written now."""

    batch_id: int
    size: int
    state: SlotState
    transaction: Attempt
    receipts: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What a cycle found and did. `batch_id` and `state` are those of the batch under way, None when there is none.

    `waiting` intents are in no batch yet; `receipts` were written; `leased` is False when another worker has the account; `stopped` is
    why nothing more is signed until somebody has looked. `size` and `attempt` (its last transaction) are of the batch under way as well,
    `settled` the batches that got their receipts. `strangers` are servers that say another network, which are not asked. `unavailable` is
    why a cycle of `run` learned nothing; then nothing else is told.
    """

    batch_id: int | None = None
    state: SlotState | None = None
    waiting: int = 0
    receipts: int = 0
    leased: bool = True
    stopped: str | None = None
    size: int = 0
    attempt: Attempt | None = None
    settled: tuple[Settled, ...] = ()
    strangers: tuple[str, ...] = ()
    unavailable: str | None = None


class BatchWitness:
    """Witnesses the intents of a queue with one account.

    `prove` is asked for a proof of each confirmed transaction before receipts are written; when it gives None, or raises
    LedgerUnavailable, they say `server`: a proof may be added later beside them, never in them.
    """

    def __init__(
        self,
        queue: AttestationQueue,
        nodes: LedgerNodes,
        signer: XRPLSigner,
        settings: BatchSettings,
        *,
        account: str | None = None,
        submission: SubmissionSettings | None = None,
        prove: Callable[[Anchor], Awaitable[Proof | None]] | None = None,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._queue = queue
        self._store = SubmissionStore(queue.storage)
        self._nodes = nodes
        self._settings = settings
        self._submitter = Submitter(self._store, nodes, signer, account=account, settings=submission, clock=clock)
        self._account = self._submitter.account
        self._prove = prove
        self._clock = in_utc(clock)
        self._owner = new_id()

    async def cycle(self) -> Progress:
        """Write what receipts are due, bring the batch under way one step on, or close the next one. Waits for no ledger to close.

        Raises LedgerUnavailable when no server told anything, WrongNetwork, what the signer raises, and StoreError. A later call, in this
        process or another one, goes on where this one ended.
        """
        try:
            return await self._cycle()
        except LedgerUnavailable:
            # Whoever learns nothing gives way: its clock or its connection may be what is wrong, and another worker's right.
            self._store.end_lease(self._account, self._owner)
            raise

    async def _cycle(self) -> Progress:
        network_id = self._store.network_id(self._account)
        if network_id is None:
            network_id = await self._submitter.network_id()
        if not self._lease(network_id):
            return Progress(waiting=self._store.count_waiting(now=self._clock().timestamp()), leased=False)
        settled: list[Settled] = []
        for batch in self._store.unsettled(self._account):
            state = await self._submitter.step(batch)
            if state is None or state is SlotState.OPEN:
                return self._progress(batch, state, settled)
            receipts = await self._settle(batch)
            settled.append(Settled(batch.batch_id, batch.size, state, self._store.attempts(batch.batch_id)[-1], receipts))
        with self._store.transaction():
            # The lease may have run out meanwhile, and another worker have a batch under way.
            mine = self._lease(network_id) and not self._store.unsettled(self._account)
            batch = self._close_batch() if mine else None
        if batch is None:
            return replace(self._progress(None, None, settled), leased=mine)
        return self._progress(batch, await self._submitter.step(batch), settled)

    async def run(
        self,
        *,
        interval: float = 2.0,
        max_cycles: int | None = None,
        stop: asyncio.Event | None = None,
        until_empty: bool = False,
        watch: Callable[[Progress], object] = lambda _: None,
        besides: Callable[[], Awaitable[int]] | None = None,
    ) -> int:
        """Cycles until `stop` is set, `max_cycles` are done or the submitter stops itself; gives the number of receipts written.

        With `until_empty` also until no intent waits, no batch is under way and `besides` wrote nothing. Between cycles are `interval`
        seconds. `watch` is told of each cycle; `besides` is called after each, and what it gives is added to the result. Only a transaction
        that was just signed is sent before either, for its time runs. Cycles in which no server answers are repeated. Raises what else
        `cycle` raises, and InputError for a negative interval.
        """
        if not interval >= 0:
            raise InputError(f"interval must be a number of seconds from 0 on, got {interval!r:.100}")
        cycles = written = 0
        signed: str | None = None
        stop = asyncio.Event() if stop is None else stop
        try:
            while not stop.is_set() and (max_cycles is None or cycles < max_cycles):
                cycles += 1
                last = cycles == max_cycles
                progress = await self._told_cycle()
                written += progress.receipts
                watch(progress)
                attempt = progress.attempt
                if not last and attempt is not None and attempt.state is AttemptState.PREPARED and attempt.hash != signed:
                    signed = attempt.hash  # `besides` may take longer than a transaction lives
                    continue
                stamped = 0 if besides is None else await besides()
                written += stamped
                empty = until_empty and _is_empty(progress)
                if (empty and not stamped) or (progress.stopped is not None and self._is_at_end(progress)):
                    break
                if not last and not empty:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), interval)
        finally:
            self._store.end_lease(self._account, self._owner)
        return written

    async def _told_cycle(self) -> Progress:
        try:
            return await self.cycle()
        except LedgerUnavailable as problem:
            return Progress(unavailable=str(problem))

    def _is_at_end(self, progress: Progress) -> bool:
        """Whether a submitter that stopped itself has nothing left to follow."""
        return progress.state is None or self._submitter.stalled

    def status(self) -> dict[str, Any]:
        """How many intents wait, and how many batches and members there are by state: `account`, `waiting`, `batches`, `stopped`."""
        counts = self._store.counts(self._account)
        return {
            "account": self._account,
            "waiting": self._store.count_waiting(now=self._clock().timestamp()),
            "batches": {state: {"batches": batches, "members": members} for state, (batches, members) in sorted(counts.items())},
            "stopped": self._submitter.stopped,
        }

    def _lease(self, network_id: int) -> bool:
        now = self._clock().timestamp()
        return self._store.lease(self._account, network_id, self._owner, now=now, until=now + self._settings.lease)

    def _progress(self, batch: Batch | None, state: SlotState | None, settled: list[Settled]) -> Progress:
        attempts = () if batch is None else self._store.attempts(batch.batch_id)
        return Progress(
            None if batch is None else batch.batch_id,
            state,
            self._store.count_waiting(now=self._clock().timestamp()),
            sum(one.receipts for one in settled),
            stopped=self._submitter.stopped,
            size=0 if batch is None else batch.size,
            attempt=attempts[-1] if attempts else None,
            settled=tuple(settled),
            strangers=tuple(self._nodes.strangers),
        )

    # -- from the queue -------------------------------------------------------------------------------------------------------

    def _close_batch(self) -> Batch | None:
        return None if self._submitter.stopped is not None else close_batch(self._store, self._account, self._settings, self._clock)

    # -- to the receipts ------------------------------------------------------------------------------------------------------

    async def _settle(self, batch: Batch) -> int:
        """Write the receipts of a batch whose slot is closed, those that are not there yet.

        What they say beside the ledger's facts, the network's name and the proof, may differ from one process to the next; so a member
        that has its receipt gets no second one.
        """
        slot = self._store.slot(batch.batch_id)
        if slot is None or slot.closed_at is None:
            return 0
        members = self._store.members(batch.batch_id)
        make = await self._confirming(batch, slot, members) if slot.state is SlotState.CONFIRMED else _failing(slot)
        status = None if slot.state is SlotState.CONFIRMED else ReceiptStatus.DEFERRED
        written = 0
        for start in range(0, len(members), _RECEIPTS_PER_COMMIT):
            end = min(start + _RECEIPTS_PER_COMMIT, len(members))
            with self._store.transaction():
                done = self._store.receipted(batch.batch_id, start, end, XRPL_BACKEND)
                for member in members[start:end]:
                    if member.leaf_index in done:
                        continue
                    written += self._queue.record_receipt(make(member), intent_status=status)
                if slot.state is not SlotState.CONFIRMED:
                    self._store.release(batch.batch_id, start, end)
                if end == len(members):
                    self._store.settle(batch.batch_id)
            if end < len(members):
                await give_way()
        return written

    async def _confirming(self, batch: Batch, slot: Slot, members: list[Member]) -> Callable[[Member], AttestationReceipt]:
        attempt = self._store.attempts(batch.batch_id)[-1]
        anchor = Anchor(
            account=slot.account,
            network=self._settings.network,
            tx_hash=attempt.hash,
            ledger_index=attempt.ledger or 0,
            ledger_hash=attempt.ledger_hash,
            close_time=attempt.close_time,
            engine_result=attempt.result or "",
        )
        if self._prove is not None:
            with suppress(LedgerUnavailable):
                proof = await self._prove(anchor)
                anchor = anchor if proof is None else replace(anchor, xpop=proof.digest, level=proof.level)
        tree, closed_at = BatchTree(member.intent_digest for member in members), slot.closed_at or ""
        return lambda member: batch_receipt(tree, member.leaf_index, anchor, attempt=member.attempt, created_at=closed_at)


def close_batch(store: SubmissionStore, account: str, settings: BatchSettings, clock: Clock) -> Batch | None:
    """A batch of the intents that wait, None while it may still grow."""
    now = clock()
    with store.transaction():
        rows = store.waiting(settings.max_members, now=now.timestamp())
        if not rows or (len(rows) < settings.max_members and _age(rows[0]["created_at"], now) < settings.max_age):
            return None
        return store.add_batch(account, rows, compact_utc(clock))


async def give_way() -> None:
    """Between two large commits: whoever waits to write looks every tenth of a second, and other tasks of this process waited, too."""
    await asyncio.sleep(0.1)


def _failing(slot: Slot) -> Callable[[Member], AttestationReceipt]:
    """Receipts of a batch that was not witnessed; its members are tried again in another one."""
    code = slot.state if slot.state is SlotState.SEQUENCE_TAKEN else ReceiptErrorCode.REJECTED
    error = ReceiptError(code, f"the batch ended as {slot.state}; the intent waits for another one")

    def make(member: Member) -> AttestationReceipt:
        return AttestationReceipt(
            member.intent_digest, XRPL_BACKEND, member.attempt, ReceiptStatus.FAILED, slot.closed_at or "", error=error
        )

    return make


def _is_empty(progress: Progress) -> bool:
    """Whether a cycle found nothing to do, and knows it."""
    return progress.leased and progress.unavailable is None and progress.batch_id is None and not progress.waiting


def _age(created_at: str, now: datetime) -> float:
    """Seconds that an intent has waited; without end when its time, which is the caller's, cannot be read or is yet to come."""
    try:
        moment = datetime.fromisoformat(created_at)
    except ValueError:
        return float("inf")
    waited = (now - (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))).total_seconds()
    return waited if waited >= 0 else float("inf")
