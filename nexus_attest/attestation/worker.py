"""One cycle of witnessing: at most one intent, one submission, one look at what became of it; and the worker that goes on and on.

In a cycle an intent yields one transaction: one that may be on the ledger is asked for again, never sent again unasked. Its hash is stored
before it is sent, so that it may be interrupted or killed at any moment. The one exception is a submission that ended without an answer
although the node had received it: the next cycle sends another transaction. The worker does not share it: where it can ask servers for what
that takes, it witnesses in batches (`xrpl.batch`), each with a transaction that is stored whole before it is sent, and takes no intent of
which a single transaction was sent before, answered or not.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nexus_attest.attestation.errors import InvalidAnchor
from nexus_attest.attestation.members import compact_utc
from nexus_attest.attestation.queue import AttestationQueue, QueuedIntent
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptError, ReceiptErrorCode, ReceiptStatus
from nexus_attest.attestation.xrpl.adapter import XRPL_BACKEND, confirm, plan, submit
from nexus_attest.attestation.xrpl.batch import BatchSettings, BatchWitness
from nexus_attest.attestation.xrpl.client import XRPLClient
from nexus_attest.attestation.xrpl.codec import transaction_id
from nexus_attest.attestation.xrpl.jsonrpc_client import JsonRpcClient
from nexus_attest.attestation.xrpl.memo import MemoCodec
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.signer import SignResult, XRPLSigner
from nexus_control.errors import InputError
from nexus_control.events import parse_time, utc_now

__all__ = ["ProcessResult", "process_one_xrpl", "process_submitted", "run_worker"]

_CANDIDATES = 32
"""So many intents are looked at for one that no other worker is at."""

_ROTATION = 100
"""So many intents take turns in a loop, those that were looked at longest ago."""

_UNREACHED = (ReceiptErrorCode.BACKEND_UNAVAILABLE, ReceiptErrorCode.TIMEOUT)


@dataclass(frozen=True)
class ProcessResult:
    """What a cycle did; `intent_digest` is prefixed."""

    processed: bool
    queue_id: str | None = None
    intent_digest: str | None = None
    receipts: list[AttestationReceipt] = field(default_factory=list[AttestationReceipt])


async def process_one_xrpl(
    queue: AttestationQueue,
    client: XRPLClient,
    signer: XRPLSigner,
    *,
    account: str | None = None,
    now_fn: Callable[[], str] | None = None,
    intent_digest: str | None = None,
    resubmit: bool = False,
) -> ProcessResult:
    """Process the first intent that waits, or the one of `intent_digest` (prefixed), and record its receipts.

    First come those that are PENDING or DEFERRED, then those that a process left SUBMITTED, which are only asked for. A DEFERRED one
    whose transaction is known is asked for first; with `resubmit` a new transaction is sent when that is not found. So is one that a
    process left between signing and recording, which gets the SUBMITTED receipt that is missing. An intent that another worker is at is
    left to it; one whose worker was killed, for five minutes. Nothing to do: `processed` is False. Raises InvalidAnchor for an empty
    account, StoreError, and InvalidIntent or InvalidReceipt when a stored row cannot be read.

    `resubmit` is the caller's word that the earlier transaction is dead, for a client cannot be asked that: "not found" is also what a
    node says of one that waits elsewhere, or that is in a ledger which it does not have. Given too early, two transactions witness the
    intent. It is safe when the earlier one's LastLedgerSequence is past on a node with all ledgers up to it; batches need no such word.

    A submission that no node answered for leaves the intent DEFERRED, and the next call sends another transaction without such a word. No
    batch takes the intent: `run_worker` and `process_submitted` ask for every transaction that was not answered for.
    """
    cycle = _cycle(queue, client, signer, account=account, now_fn=now_fn, resubmit=resubmit)
    if intent_digest is None:
        candidates = [*queue.next_pending(_CANDIDATES), *queue.next_unconfirmed(_CANDIDATES)]
    else:
        found = queue.get(intent_digest)
        candidates = [] if found is None else [found]
    return await cycle.process_first(candidates)


async def run_worker(
    queue: AttestationQueue,
    client: XRPLClient,
    signer: XRPLSigner,
    *,
    interval: float = 5.0,
    max_cycles: int | None = None,
    stop: asyncio.Event | None = None,
    now_fn: Callable[[], str] | None = None,
) -> int:
    """Witness what is queued until `stop` is set or `max_cycles` are done; gives how many intents were processed.

    With a JsonRpcClient everything that waits goes into batches, so that exactly one transaction witnesses an intent, whatever fails; a
    processed intent is one that got a receipt. Intents that `process_one_xrpl` sent earlier are asked for, by the hash that their signer
    named, and never sent again, also where no node answered for them. Any other client can submit and look up, and no more: there each
    cycle is one of `process_one_xrpl`, in which intents take turns, so that one that stays undecided does not keep the others waiting.
    After 8 attempts its turns become rarer, down to one in an hour.

    A cycle that decided nothing is followed by a pause of `interval` seconds, which `stop` ends. `now_fn` gives the time for all that
    depends on it, in UTC. Raises InputError for a negative interval, WrongNetwork, SignerFailed, and what a cycle raises.
    """
    if not interval >= 0:
        raise InputError(f"interval must be a number of seconds from 0 on, got {interval!r:.100}")
    stop = asyncio.Event() if stop is None else stop
    if isinstance(client, JsonRpcClient):
        clock = utc_now if now_fn is None else lambda: parse_time(now_fn())
        nodes = LedgerNodes([LedgerNode(client.url, client.transport)], clock=clock)
        worker = BatchWitness(queue, nodes, signer, BatchSettings(network=XRPL_BACKEND, max_age=0), clock=clock)
        besides = partial(process_submitted, queue, client, signer, now_fn=now_fn)
        return await worker.run(interval=interval, max_cycles=max_cycles, stop=stop, besides=besides)
    return await _run_cycles(queue, client, signer, interval=interval, max_cycles=max_cycles, stop=stop, now_fn=now_fn)


async def process_submitted(
    queue: AttestationQueue, client: XRPLClient, signer: XRPLSigner, *, now_fn: Callable[[], str] | None = None
) -> int:
    """Ask for the transaction of the intent that was sent on its own and looked at longest ago; 1, or 0 when it is time for none.

    One that nobody knows, since it was never sent or has expired, is asked for at most once in an hour after a while: only the caller of
    `process_one_xrpl` can say, with `resubmit`, that another one may be sent. That needs no such word where no node answered for it.
    """
    cycle = _cycle(queue, client, signer, now_fn=now_fn, ask_only=True)
    return int((await cycle.process_first(queue.next_submitted(_CANDIDATES, now=cycle.now()))).processed)


async def _run_cycles(
    queue: AttestationQueue,
    client: XRPLClient,
    signer: XRPLSigner,
    *,
    interval: float,
    max_cycles: int | None,
    stop: asyncio.Event,
    now_fn: Callable[[], str] | None,
) -> int:
    turns: dict[str, int] = {}
    cycles = processed = 0
    while not stop.is_set() and (max_cycles is None or cycles < max_cycles):
        cycles += 1
        due = queue.next_due(_ROTATION, now=compact_utc() if now_fn is None else now_fn())
        turns = {item.queue_id: turns.get(item.queue_id, 0) for item in due}
        turn = min(turns, key=turns.__getitem__, default=None)
        result = ProcessResult(False)
        if turn is not None:
            turns[turn] = cycles
            result = await process_one_xrpl(queue, client, signer, now_fn=now_fn, intent_digest=turn)
        processed += result.processed
        decided = result.processed and result.receipts[-1].status in (ReceiptStatus.CONFIRMED, ReceiptStatus.FAILED)
        if decided and not _unreached(result.receipts[-1]):
            continue
        if max_cycles is None or cycles < max_cycles:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), interval)
    return processed


def _cycle(
    queue: AttestationQueue,
    client: XRPLClient,
    signer: XRPLSigner,
    *,
    account: str | None = None,
    now_fn: Callable[[], str] | None = None,
    resubmit: bool = False,
    ask_only: bool = False,
) -> "_Cycle":
    owner = signer.account if account is None else account
    if not owner:
        raise InvalidAnchor("account must be a non-empty string")
    now = compact_utc if now_fn is None else now_fn
    return _Cycle(queue, client, signer, owner, now, resubmit, ask_only, claim=secrets.token_hex(16))


class _TakenOver(Exception):
    """The claim ran out while the signer was at work, and somebody else has the intent, or had it: nothing may be sent."""


@dataclass(frozen=True, slots=True)
class _Cycle:
    queue: AttestationQueue
    client: XRPLClient
    signer: XRPLSigner
    account: str
    now: Callable[[], str]
    resubmit: bool
    ask_only: bool
    claim: str

    async def process_first(self, candidates: Iterable[QueuedIntent]) -> ProcessResult:
        """The cycle of the first one that nobody else is at and that there is something to do for."""
        for candidate in candidates:
            with self.queue.claimed(candidate.queue_id, self.claim) as mine:
                item = self.queue.get(candidate.queue_id) if mine else None  # as it is now that nobody else is at it
                if item is not None and (receipts := await self.process(item)):
                    return ProcessResult(True, item.queue_id, item.intent_digest, receipts)
        return ProcessResult(False)

    async def process(self, item: QueuedIntent) -> list[AttestationReceipt]:
        """The receipts of one cycle; none when there is nothing to do."""
        if item.status not in ("PENDING", ReceiptStatus.DEFERRED, ReceiptStatus.SUBMITTED):
            return []
        if (left := self._left_by_another(item)) is not None:
            return [left, await self._confirm(item, left.proof, item.next_attempt)]
        known = self._known_transaction(item)
        if item.status == ReceiptStatus.SUBMITTED:
            return [] if known is None else [await self._confirm(item, known.proof, item.next_attempt - 1)]
        if known is None:
            return await (self._ask_unanswered(item) if self.ask_only else self._submit(item))
        polled = await self._confirm(item, known.proof, item.next_attempt)
        if self.ask_only:
            return [polled, *await self._ask_unanswered(item)] if polled.status is ReceiptStatus.DEFERRED else [polled]
        not_found = polled.status is ReceiptStatus.DEFERRED and polled.error is None
        if self.resubmit and not_found and not await self._is_there(known):
            return [polled, *await self._submit(item)]
        return [polled]

    def _left_by_another(self, item: QueuedIntent) -> AttestationReceipt | None:
        """The SUBMITTED receipt of a transaction that a process signed, may have sent, and did not live to record; None for none such."""
        sending = self.queue.storage.sending(item.queue_id)
        if sending is None:
            return None
        evidence = {"memo_digest": MemoCodec.digest(item.intent)}
        proof = {name: value for name, value in sending.items() if value is not None}
        receipt = AttestationReceipt(
            item.intent_digest, XRPL_BACKEND, item.next_attempt, ReceiptStatus.SUBMITTED, self.now(), evidence, proof
        )
        self._record(item, receipt)
        return receipt

    def _record(self, item: QueuedIntent, receipt: AttestationReceipt) -> None:
        """Record what came of a transaction that was noted before it was sent.

        Where no answer came, it is kept beside the receipt; where the answer does not name it, it stays noted for the next cycle.
        """
        storage = self.queue.storage
        with storage.transaction():
            if _unreached(receipt):
                self.queue.record_receipt(receipt, intent_status=ReceiptStatus.DEFERRED)
                storage.leave_unanswered(item.queue_id)
            else:
                self.queue.record_receipt(receipt)
                if receipt.status is not ReceiptStatus.SUBMITTED or _names_transaction(receipt):
                    storage.forget_sending(item.queue_id)

    async def _ask_unanswered(self, item: QueuedIntent) -> list[AttestationReceipt]:
        """Ask for the transactions that no server answered for, until one decides the intent; none when there is none (any more)."""
        receipts: list[AttestationReceipt] = []
        for sending in self.queue.storage.unanswered(item.queue_id):
            receipts.append(await self._confirm(item, sending, item.next_attempt))
            if receipts[-1].status is not ReceiptStatus.DEFERRED:
                break
        return receipts

    def _known_transaction(self, item: QueuedIntent) -> AttestationReceipt | None:
        """The latest receipt that names a transaction."""
        receipts = reversed(self.queue.replay(item.intent_digest))
        return next((receipt for receipt in receipts if _names_transaction(receipt)), None)

    async def _is_there(self, known: AttestationReceipt) -> bool:
        """Whether the node knows the transaction, in whatever state; a node that does not answer may."""
        try:
            return (await self.client.get_tx(known.proof["tx_hash"])).found
        except Exception:  # foreign code: whatever it raises, it did not say that there is no such transaction
            return True

    async def _submit(self, item: QueuedIntent) -> list[AttestationReceipt]:
        try:
            anchor = plan(item.intent, self.account, carrier="account_set")
        except ValueError as problem:
            error = ReceiptError(ReceiptErrorCode.REJECTED, str(problem)[:1000])
            receipt = AttestationReceipt(item.intent_digest, XRPL_BACKEND, item.next_attempt, ReceiptStatus.FAILED, self.now(), error=error)
            self.queue.record_receipt(receipt)
            return [receipt]
        told = partial(self._note, item)
        try:
            receipt = await submit(anchor, self.client, self.signer, attempt=item.next_attempt, created_at=self.now(), before_sending=told)
        except _TakenOver:
            return []
        # A node that was not reached says nothing about the intent: it waits for the next cycle.
        self._record(item, receipt)
        if receipt.status is not ReceiptStatus.SUBMITTED or not _names_transaction(receipt):
            return [receipt]
        return [receipt, await self._confirm(item, receipt.proof, item.next_attempt)]

    def _note(self, item: QueuedIntent, signed: SignResult) -> None:
        tx_hash: object = getattr(signed, "tx_hash", None)  # foreign code may leave it out
        key_id: object = getattr(signed, "key_id", None)
        storage = self.queue.storage
        if tx_hash is None:
            with suppress(TypeError, ValueError):
                tx_hash = transaction_id(bytes.fromhex(signed.signed_tx_blob_hex))
        if isinstance(tx_hash, str):
            mine = storage.note_sending(item.queue_id, self.claim, tx_hash, key_id if isinstance(key_id, str) else None)
        else:
            mine = storage.may_send(item.queue_id, self.claim)
        if not mine:
            raise _TakenOver

    async def _confirm(self, item: QueuedIntent, sent: dict[str, Any], attempt: int) -> AttestationReceipt:
        receipt = await confirm(
            item.intent_digest,
            sent["tx_hash"],
            self.client,
            attempt=attempt,
            memo_digest_value=MemoCodec.digest(item.intent),
            created_at=self.now(),
            account=self.account,
            key_id=sent.get("key_id"),
        )
        if _unreached(receipt):  # the transaction may be on the ledger
            receipt = AttestationReceipt(
                receipt.intent_digest,
                receipt.backend,
                attempt,
                ReceiptStatus.DEFERRED,
                receipt.created_at,
                receipt.evidence_digests,
                error=receipt.error,
            )
        self.queue.record_receipt(receipt)
        return receipt


def _names_transaction(receipt: AttestationReceipt) -> bool:
    return isinstance(receipt.proof.get("tx_hash"), str)


def _unreached(receipt: AttestationReceipt) -> bool:
    return receipt.status is ReceiptStatus.FAILED and receipt.error is not None and receipt.error.code in _UNREACHED
