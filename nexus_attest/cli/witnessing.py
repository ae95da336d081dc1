"""Witnessing from the command line: the run itself, told as it goes, and what the queue looks like."""

import asyncio
import signal
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from nexus_attest.attestation.proving import collector_for, proven_once, recorder_for
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import ReceiptStatus
from nexus_attest.attestation.witness import Level
from nexus_attest.attestation.witness_file import Network
from nexus_attest.attestation.xrpl.batch import BatchWitness, Progress, Settled
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.recorder import ValidationRecorder
from nexus_attest.attestation.xrpl.submission_store import Attempt, AttemptState, Batch, SlotState, SubmissionStore
from nexus_attest.cli.errors import StoreMissing
from nexus_attest.cli.report import note
from nexus_attest.cli.session import Session
from nexus_control.events import utc_now
from nexus_control.markdown import escape

__all__ = ["Order", "intent_report", "queue_report", "witness_queue"]

_BATCHES_TOLD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How long to witness (until nothing waits, for some seconds, or until interrupted), how often to ask, and whether to tell of it."""

    drain: bool
    seconds: float | None
    interval: float
    silent: bool


def witness_queue(session: Session, network: Network, order: Order) -> None:
    """Witness until the order is carried out, and show what came of it.

    Ctrl-C and SIGTERM end it at once; whatever was under way is followed by the next run. Raises StoreMissing, SignerMissing, what opening
    the signer raises, WrongNetwork, SignerFailed and StoreError.
    """
    if not session.store_path.is_file():
        raise StoreMissing(f"there is no store at {session.store_path}; `nexus-attest witness enqueue` makes one")
    signer = network.open_signer()
    settings = replace(network.batching, max_age=0) if order.drain else network.batching
    with AttestationQueue(session.store_path) as queue:
        nodes = network.nodes()
        proofs, recorder = ProofStore(queue.storage), recorder_for(network, queue, nodes)
        prove = proven_once(proofs, collector_for(network, queue, nodes))
        worker = BatchWitness(queue, nodes, signer, settings, submission=network.submission, prove=prove)
        teller = _Teller(proofs, {} if recorder is None else recorder.problems, silent=order.silent)
        teller.say(f"Witnessing as {signer.account} on {network.name}; Ctrl-C ends it, and a later run goes on")
        ended_by = asyncio.run(_witness(worker, recorder, order, teller))
        if ended_by == signal.SIGINT:
            teller.say(_under_way(teller.last))
            raise KeyboardInterrupt
        data = {"network": network.name, **worker.status(), **teller.data()}
    _show(session, order, data)


async def _witness(worker: BatchWitness, recorder: ValidationRecorder | None, order: Order, teller: "_Teller") -> signal.Signals | None:
    """The signal that ended it, None when it ended by itself. Votes are recorded from before the first transaction is sent."""
    loop, stop, silence = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    recording = None if recorder is None else loop.create_task(recorder.run(silence))
    work = loop.create_task(worker.run(interval=order.interval, stop=stop, until_empty=order.drain, watch=teller.watch))
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        work.cancel()  # wherever it waits: what it changes is stored in single commits, none of which waits

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # where there are no such handlers Ctrl-C cancels this task instead
            loop.add_signal_handler(number, end, number)
    if order.seconds is not None:
        loop.call_later(order.seconds, stop.set)
    with suppress(asyncio.CancelledError):
        await work
    if recording is not None:
        silence.set()
        await recording
    return received[0] if received else None


class _Teller:
    """Notes what changes from cycle to cycle, on standard error, and keeps what the result tells."""

    def __init__(self, proofs: ProofStore, problems: Mapping[str, str], *, silent: bool) -> None:
        self.last = Progress()
        self._proofs = proofs
        self._problems = problems
        self._known_problems: dict[str, str] = {}
        self._silent = silent
        self._said = ""
        self._receipts = 0
        self._batches: deque[dict[str, Any]] = deque(maxlen=_BATCHES_TOLD)

    def watch(self, progress: Progress) -> None:
        """One cycle."""
        for settled in progress.settled:
            level = self._level(settled)
            self._receipts += settled.receipts
            self._batches.append({**_settled_data(settled), "level": level})
            self.say(_settled_line(settled, level))
        for url, problem in self._problems.items():
            if self._known_problems.get(url) != problem:
                self.say(f"No votes or lists of validators from {escape(url)}: {escape(problem)}")
        self._known_problems = dict(self._problems)
        if (line := _line(progress)) is not None:
            self.say(line)
        if progress.unavailable is None:
            self.last = progress

    def _level(self, settled: Settled) -> str | None:
        """What the proof of a witnessed batch shows; None of another batch."""
        if settled.state is not SlotState.CONFIRMED:
            return None
        proofs = self._proofs.proofs_of(settled.transaction.hash)
        return proofs[-1].level if proofs else Level.SERVER.value

    def say(self, line: str) -> None:
        """A line, unless it is the one that was said last."""
        if not self._silent and line != self._said:
            note(line)
        self._said = line

    def data(self) -> dict[str, Any]:
        """What was done: the number of receipts, and the newest batches that ended."""
        return {"receipts": self._receipts, "ended": list(self._batches), "under_way": self.last.batch_id}


def _line(progress: Progress) -> str | None:
    """What is going on, None when nothing is."""
    if progress.unavailable is not None:
        return f"No server told anything, asking again: {escape(progress.unavailable)}"
    if not progress.leased:
        return "Another process witnesses with this account; waiting for it to end"
    if progress.batch_id is None:
        return None if not progress.waiting else f"{progress.waiting:,} intents wait for the next batch"
    batch, attempt = f"Batch {progress.batch_id}, {_intents(progress.size)}", progress.attempt
    if attempt is None:
        return f"{batch}: closed, to be signed"
    return f"{batch}: {_attempt_line(attempt)}"


def _attempt_line(attempt: Attempt) -> str:
    transaction = f"transaction {attempt.hash[:16]}... (Sequence {attempt.seq}{f', attempt {attempt.n}' if attempt.n > 1 else ''})"
    if attempt.state is AttemptState.PREPARED:
        return f"{transaction} signed and stored"
    return f"{transaction} sent, {escape(attempt.note or '')}; it can be in a ledger up to {attempt.lls}"


def _settled_line(settled: Settled, level: str | None) -> str:
    batch, told = f"Batch {settled.batch_id}, {_intents(settled.size)}", settled.transaction
    if level is not None:
        return f"{batch}: witnessed in ledger {told.ledger}, transaction {told.hash}; {settled.receipts:,} receipts of level {level}"
    return f"{batch}: ended as {settled.state}, witnessed nothing; its intents go into another one"


def _settled_data(settled: Settled) -> dict[str, Any]:
    told = settled.transaction
    return {
        "batch_id": settled.batch_id,
        "size": settled.size,
        "state": settled.state.value,
        "receipts": settled.receipts,
        "tx_hash": told.hash,
        "ledger_index": told.ledger,
        "close_time": told.close_time,
        "engine_result": told.result,
    }


def _under_way(last: Progress) -> str:
    if last.batch_id is None:
        return f"Ended; {_intents(last.waiting)} wait, and nothing is under way"
    return f"Ended; batch {last.batch_id} is under way, and the next `nexus-attest witness run` follows it"


def _show(session: Session, order: Order, data: Mapping[str, Any]) -> None:
    line = f"{data['receipts']:,} receipts in {len(data['ended'])} batches; {_intents(data['waiting'])} wait"
    if data["stopped"] is not None:
        text = f"{data['stopped']}; nothing more is signed until somebody has looked"
        session.fail("WITNESS_STOPPED", text, data, lambda: session.say(f"{line}\nWITNESS_STOPPED: {escape(text)}"))
    if order.drain and (data["waiting"] or data["under_way"] is not None):
        text = "not everything is witnessed yet; the next run goes on"
        session.fail("WITNESS_UNFINISHED", text, data, lambda: session.say(f"{line}\nWITNESS_UNFINISHED: {text}"))
    session.show(data, line)


# -- the queue --------------------------------------------------------------------------------------------------------------


def queue_report(session: Session, queue: AttestationQueue) -> None:
    """Show how many intents there are by status, and the batches of each account."""
    store = SubmissionStore(queue.storage)
    statuses = {row["status"]: row["intents"] for row in queue.storage.count_by_status()}
    accounts = [_account_data(store, lane) for lane in store.lanes()]
    data: dict[str, Any] = {"intents": statuses, "waiting": store.count_waiting(now=utc_now().timestamp()), "accounts": accounts}
    lines = ["Intents  " + (", ".join(f"{count:,} {status}" for status, count in statuses.items()) or "none")]
    lines.append(f"Waiting  {data['waiting']:,} for the next batch")
    for account in accounts:
        lines.append(f"Account  {escape(account['account'])}, network {account['network_id']}")
        lines += [f"  {entry['batches']:,} {state}, {_intents(entry['members'])}" for state, entry in account["batches"].items()]
        lines += [f"  {_under_way_line(batch)}" for batch in account["under_way"]]
    session.show(data, "\n".join(lines))


def _account_data(store: SubmissionStore, lane: Mapping[str, Any]) -> dict[str, Any]:
    counts = store.counts(lane["account"])
    return {
        "account": lane["account"],
        "network_id": lane["network_id"],
        "batches": {state: {"batches": batches, "members": members} for state, (batches, members) in sorted(counts.items())},
        "under_way": [_batch_data(store, batch) for batch in store.unsettled(lane["account"])],
    }


def _batch_data(store: SubmissionStore, batch: Batch) -> dict[str, Any]:
    slot, attempts = store.slot(batch.batch_id), store.attempts(batch.batch_id)
    last = attempts[-1] if attempts else None
    return {
        "batch_id": batch.batch_id,
        "size": batch.size,
        "root": batch.root,
        "created_at": batch.created_at,
        "state": None if slot is None else slot.state.value,
        "attempts": len(attempts),
        "tx_hash": None if last is None else last.hash,
        "ledgers": None if last is None else [last.first, last.lls],
        "told": None if last is None else last.note,
    }


def _under_way_line(batch: Mapping[str, Any]) -> str:
    told = f"batch {batch['batch_id']}, {_intents(batch['size'])}: {batch['state'] or 'not signed yet'}"
    if batch["ledgers"] is None:
        return told
    first, last = batch["ledgers"]
    heard = f", last heard {escape(batch['told'])}" if batch["told"] else ""
    return f"{told}, transaction {batch['tx_hash']} (attempt {batch['attempts']}), in a ledger from {first} to {last}{heard}"


def intent_report(session: Session, queue: AttestationQueue, intent_digest: str) -> None:
    """Show where one intent stands."""
    store = SubmissionStore(queue.storage)
    status = queue.get_status(intent_digest)
    if status is None:
        text = f"the queue holds no intent {intent_digest}"
        session.fail("INTENT_NOT_FOUND", text, {"intent_digest": intent_digest}, lambda: session.say(f"INTENT_NOT_FOUND: {escape(text)}"))
    batch_id = store.batch_of(intent_digest)
    batch = None if batch_id is None else store.batch(batch_id)
    receipts = queue.replay(intent_digest)
    confirmed = [receipt for receipt in receipts if receipt.status is ReceiptStatus.CONFIRMED]
    data: dict[str, Any] = {
        **status,
        "receipts": len(receipts),
        "batch": None if batch is None else _batch_data(store, batch),
        "receipt": confirmed[-1].to_dict() if confirmed else None,
    }
    error = f" ({escape(status['last_error_code'])})" if status["last_error_code"] else ""
    lines = [escape(intent_digest), f"  status   {escape(status['status'])}{error}, attempt {status['last_attempt']}"]
    if data["batch"] is not None:
        lines.append(f"  batch    {_under_way_line(data['batch'])}")
    if confirmed:
        proof = confirmed[-1].proof
        where = f"ledger {escape(proof.get('ledger_index'))}, closed {escape(proof.get('close_time') or proof.get('ledger_close_time'))}"
        lines.append(f"  witness  {where}, transaction {escape(proof.get('tx_hash'))}, level {escape(proof.get('level', 'server'))}")
    session.show(data, "\n".join(lines))


def _intents(count: int) -> str:
    return f"{count:,} {'intent' if count == 1 else 'intents'}"
