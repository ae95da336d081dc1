"""Batches of intents to a witness that answers at once: a time-stamp authority, or the local one of demonstrations.

Two ways. On its own, such a witness takes the intents that wait in the queue, as the ledger's would. Beside a ledger, it stamps the
batches that the ledger has confirmed, under the same root: a second opinion on when they existed, which the first cannot give.

The evidence is stored before any receipt names it, and each intent gets one receipt for it; a crash leaves something to go on from. A
witness that was asked twice for one statement has done no harm: the second stamp is dropped.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from nexus_attest.attestation.batch_tree import BatchTree, Statement
from nexus_attest.attestation.errors import WitnessMismatch, WitnessRefused, WitnessUnavailable
from nexus_attest.attestation.members import compact_utc
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptError, ReceiptErrorCode, ReceiptStatus
from nexus_attest.attestation.stamp import Shown, StampingWitness, stamp_receipt
from nexus_attest.attestation.stamp_store import StampStore, StoredStamp
from nexus_attest.attestation.xrpl.batch import BatchSettings, Progress, close_batch, give_way
from nexus_attest.attestation.xrpl.submission_store import Batch, Member, SlotState, SubmissionStore
from nexus_control.errors import InputError
from nexus_control.events import Clock, in_utc, utc_now

__all__ = ["StampWitness"]

_RECEIPTS_PER_COMMIT = 1000
_NO_NETWORK = 0
_DETAIL_CHARACTERS = 500


class StampWitness:
    """Witnesses the intents of a queue; with `beside`, the batches in it that a ledger has confirmed.

    Has the methods of `xrpl.batch.BatchWitness`, and works on a queue at the same time as one.
    """

    def __init__(
        self,
        queue: AttestationQueue,
        witness: StampingWitness,
        settings: BatchSettings | None = None,
        *,
        beside: bool = False,
        clock: Clock = utc_now,
        new_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._queue = queue
        self._store, self._stamps = SubmissionStore(queue.storage), StampStore(queue.storage)
        self._witness = witness
        self._settings = BatchSettings(network=witness.name) if settings is None else settings
        self._beside = beside
        self._clock = in_utc(clock)
        self._owner = new_id()
        self._lane = f"{witness.backend}:{witness.name}"
        self._stopped: str | None = None

    async def cycle(self) -> Progress:
        """Deal with one batch, if there is one: have it stamped, and write its receipts. Waits for no more than the witness's answer.

        Raises WitnessUnavailable when there was none, and StoreError. A later call, in this process or another one, goes on where this
        one ended. When the witness refuses, or a stamp that is stored is no evidence any more, the members of its own batch wait for
        another one, and `stopped` says why.
        """
        now = self._clock().timestamp()
        if not self._store.lease(self._lane, _NO_NETWORK, self._owner, now=now, until=now + self._settings.lease):
            return Progress(waiting=self._store.count_waiting(now=now), leased=False)
        batch = self._next()
        if batch is None:
            return self._progress(None, None, 0)
        try:
            written = await self._settle(batch, await self._stamped(batch))
        except WitnessRefused as problem:
            self._stopped = f"{self._lane}: {problem}"
            return self._progress(batch, SlotState.REJECTED, 0 if self._beside else await self._release(batch, str(problem)))
        return self._progress(batch, SlotState.CONFIRMED, written)

    async def run(
        self,
        *,
        interval: float = 2.0,
        max_cycles: int | None = None,
        stop: asyncio.Event | None = None,
        until_empty: bool = False,
        watch: Callable[[Progress], object] = lambda _: None,
    ) -> int:
        """Cycles until `stop` is set, `max_cycles` are done or the witness refuses; gives the number of receipts written.

        With `until_empty` also until there is nothing to do. `watch` is told of each cycle. Cycles in which the witness does not answer are
        repeated after `interval` seconds, as are those that found nothing to do. Raises InputError for a negative interval.
        """
        if not interval >= 0:
            raise InputError(f"interval must be a number of seconds from 0 on, got {interval!r:.100}")
        cycles = written = 0
        stop = asyncio.Event() if stop is None else stop
        try:
            while not stop.is_set() and self._stopped is None and (max_cycles is None or cycles < max_cycles):
                cycles += 1
                progress = await self._told_cycle()
                written += progress.receipts
                watch(progress)
                if progress.batch_id is not None:
                    continue
                if until_empty and progress.leased and progress.unavailable is None and (self._beside or not progress.waiting):
                    break
                if max_cycles is None or cycles < max_cycles:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), interval)
        finally:
            self._store.end_lease(self._lane, self._owner)
        return written

    async def besides(self) -> int:
        """For `BatchWitness.run(besides=...)`: deal with one batch, if one is due; the number of receipts written, 0 when none was.

        No more than one, for whoever calls has other things to do. A witness that does not answer is asked again by a later call.
        """
        return 0 if self._stopped is not None else (await self._told_cycle()).receipts

    async def _told_cycle(self) -> Progress:
        try:
            return await self.cycle()
        except WitnessUnavailable as problem:
            return Progress(unavailable=str(problem))

    def status(self) -> dict[str, Any]:
        """How many intents wait, and how many batches and members are stamped: `account` (its lane), `waiting`, `batches`, `stopped`."""
        batches, members = self._stamps.counts(self._lane)
        return {
            "account": self._lane,
            "waiting": self._store.count_waiting(now=self._clock().timestamp()),
            "batches": {SlotState.CONFIRMED.value: {"batches": batches, "members": members}} if batches else {},
            "stopped": self._stopped,
        }

    def _next(self) -> Batch | None:
        if self._beside:
            return self._stamps.next_beside(self._lane)
        unsettled = self._store.unsettled(self._lane)
        return unsettled[0] if unsettled else close_batch(self._store, self._lane, self._settings, self._clock)

    async def _stamped(self, batch: Batch) -> StoredStamp:
        """The stamp of a batch, which is asked for when there is none, and stored before anything names it."""
        found = self._stamps.of_batch(batch.batch_id, self._lane)
        if found is None:
            statement = _statement(batch)
            evidence = await self._witness.witness(statement)
            self._shown(statement, evidence)
            self._stamps.add(batch.batch_id, self._lane, evidence, compact_utc(self._clock))
            found = self._stamps.of_batch(batch.batch_id, self._lane)
        if found is None:
            raise WitnessUnavailable(f"the stamp of batch {batch.batch_id} is gone")
        return found

    def _shown(self, statement: Statement, evidence: bytes) -> Shown:
        try:
            return self._witness.verify(statement, evidence)
        except WitnessMismatch as problem:
            raise WitnessRefused(f"what it gave is no evidence: {problem}") from None

    async def _settle(self, batch: Batch, stamp: StoredStamp) -> int:
        """Write the receipts. They are the same whoever writes them, so a crash between is no harm.

        A member that was let go when the witness refused at first is no longer this batch's, though the root is over it as well. Raises
        WitnessRefused, before any is written, when the stamp is no evidence: others may be believed than when it was stored.
        """
        members = self._store.members(batch.batch_id)
        tree = BatchTree(member.intent_digest for member in members)
        shown = self._shown(tree.statement, stamp.evidence)
        backend = self._witness.backend

        def make(member: Member) -> AttestationReceipt:
            return stamp_receipt(
                tree, member.leaf_index, stamp.digest, shown, backend=backend, attempt=member.attempt, created_at=stamp.created_at
            )

        def then(_start: int, _end: int, last: bool) -> None:
            if last:
                self._stamps.settle(batch.batch_id, self._lane)
            if last and not self._beside:
                self._store.settle(batch.batch_id)

        return await self._record(members, make, then, due=partial(self._store.active, batch.batch_id))

    async def _release(self, batch: Batch, reason: str) -> int:
        """Receipts of a batch that was refused; its members are tried again in another one, of this witness or of a ledger's.

        Each is let go together with its receipt, but for those that were confirmed, by a process that then died or by another one that was
        answered otherwise. After a crash between commits the witness is asked again, for those that are left.
        """
        members = self._store.members(batch.batch_id)
        error = ReceiptError(ReceiptErrorCode.REJECTED, reason[:_DETAIL_CHARACTERS])
        when = compact_utc(self._clock)

        def make(member: Member) -> AttestationReceipt:
            return AttestationReceipt(member.intent_digest, self._witness.backend, member.attempt, ReceiptStatus.FAILED, when, error=error)

        def due(start: int, end: int) -> set[int]:
            confirmed = self._store.receipted(batch.batch_id, start, end, self._witness.backend)
            return self._store.active(batch.batch_id, start, end) - confirmed

        def then(start: int, end: int, last: bool) -> None:
            self._store.release(batch.batch_id, start, end)
            if last:
                self._store.settle(batch.batch_id)

        return await self._record(members, make, then, due=due, status=ReceiptStatus.DEFERRED)

    async def _record(
        self,
        members: list[Member],
        make: Callable[[Member], AttestationReceipt],
        then: Callable[[int, int, bool], None],
        *,
        due: Callable[[int, int], set[int]],
        status: ReceiptStatus | None = None,
    ) -> int:
        """Record receipts, some in each commit, of members whose places are `due` in it: between two, another worker may let them go."""
        written = 0
        for start in range(0, len(members), _RECEIPTS_PER_COMMIT):
            end = min(start + _RECEIPTS_PER_COMMIT, len(members))
            with self._store.transaction():
                places = due(start, end)
                for member in members[start:end]:
                    if member.leaf_index in places:
                        written += self._queue.record_receipt(make(member), intent_status=status)
                then(start, end, end == len(members))
            if end < len(members):
                await give_way()
        return written

    def _progress(self, batch: Batch | None, state: SlotState | None, written: int) -> Progress:
        waiting = self._store.count_waiting(now=self._clock().timestamp())
        size = 0 if batch is None else batch.size
        return Progress(None if batch is None else batch.batch_id, state, waiting, written, stopped=self._stopped, size=size)


def _statement(batch: Batch) -> Statement:
    return Statement(bytes.fromhex(batch.root), batch.size)
