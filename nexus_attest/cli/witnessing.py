"""Witnessing from the command line: the run itself, told as it goes, and what the queue looks like."""

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from nexus_attest.attestation.local_witness import SelfWitness
from nexus_attest.attestation.proving import collector_for, proven_once, recorder_for
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.stamp import StampingWitness
from nexus_attest.attestation.stamp_store import StampStore
from nexus_attest.attestation.stamping import StampWitness
from nexus_attest.attestation.witness import Level
from nexus_attest.attestation.witness_file import AuthoritySource, Network
from nexus_attest.attestation.xrpl.batch import BatchSettings, BatchWitness, Progress, Settled
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.recorder import ValidationRecorder
from nexus_attest.attestation.xrpl.submission_store import Attempt, AttemptState, Batch, SlotState, SubmissionStore
from nexus_attest.cli.errors import StoreMissing
from nexus_attest.cli.report import note
from nexus_attest.cli.session import Session
from nexus_control.events import utc_now
from nexus_control.markdown import escape

__all__ = ["Order", "intent_report", "queue_report", "self_witness_queue", "stamp_queue", "witness_queue"]

_BATCHES_TOLD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """How long to witness (until nothing waits, for some seconds, or until interrupted), how often to ask, and whether to tell of it."""

    drain: bool
    seconds: float | None
    interval: float
    silent: bool


def witness_queue(session: Session, network: Network, order: Order, *, besides: Sequence[AuthoritySource] = ()) -> None:
    """Witness on a ledger until the order is carried out, and show what came of it; `besides` stamp the batches that it confirms.

    Ctrl-C and SIGTERM end it at once; whatever was under way is followed by the next run. Raises StoreMissing, SignerMissing, what opening
    the signer or an authority raises, WrongNetwork, SignerFailed and StoreError.
    """
    _require_store(session)
    signer, authorities = network.open_signer(), [source.open() for source in besides]
    settings = replace(network.batching, max_age=0) if order.drain else network.batching
    with AttestationQueue(session.store_path) as queue:
        nodes = network.nodes()
        proofs, recorder = ProofStore(queue.storage), recorder_for(network, queue, nodes)
        prove = proven_once(proofs, collector_for(network, queue, nodes))
        worker = BatchWitness(queue, nodes, signer, settings, submission=network.submission, prove=prove)
        stamping = [StampWitness(queue, authority, beside=True) for authority in authorities]
        teller = _Teller(proofs, {} if recorder is None else recorder.problems, silent=order.silent)
        teller.say(f"Witnessing as {signer.account} on {network.name}; Ctrl-C ends it, and a later run goes on")
        elsewhere = _elsewhere(SubmissionStore(queue.storage), signer.account)
        for account in elsewhere:
            teller.say(f"Account {escape(account)} has batches under way, which only a run with its signer ends")
        if alone := queue.storage.count_sent_alone()["intents"]:
            teller.say(f"{_intents(alone)} sent by process_one_xrpl, which no batch takes: `nexus-attest witness status` names one")

        async def stamped() -> int:
            written = [await one.besides() for one in stamping]
            for one, receipts in zip(stamping, written, strict=True):
                teller.stamped(one.status(), receipts)
            return sum(written)

        def work(stop: asyncio.Event) -> Awaitable[int]:
            told = stamped if stamping else None
            return worker.run(interval=order.interval, stop=stop, until_empty=order.drain, watch=teller.watch, besides=told)

        _work(work, order, teller, recorder)
        data = {"network": network.name, **worker.status(), **teller.data(), "elsewhere": elsewhere}
        if stamping:
            data["besides"] = [one.status() for one in stamping]
    _show(session, order, data)


def _elsewhere(store: SubmissionStore, account: str) -> list[str]:
    """Other accounts of ledgers with batches under way: nobody follows them when the file names another account than before."""
    others = [lane["account"] for lane in store.lanes() if lane["account"] != account and not _is_stamping(lane["account"])]
    return [other for other in others if store.unsettled(other)]


def _is_stamping(lane: str) -> bool:
    """Whether a lane is that of a witness that answers at once: an account has no colon."""
    return ":" in lane


def stamp_queue(session: Session, source: AuthoritySource, order: Order) -> None:
    """The same with a time-stamp authority as the only witness. Raises StoreMissing, ExtraMissing, WitnessFileError and StoreError."""
    _require_store(session)
    authority = source.open()
    _stamp(session, lambda _: authority, source.batching, order, f"Having time-stamps made by {source.name}; Ctrl-C ends it")


def self_witness_queue(session: Session, order: Order) -> None:
    """The same with the local witness. Raises StoreMissing and StoreError."""
    _require_store(session)
    warning = "Witnessing by myself: for demonstrations, it proves nothing to anybody else; Ctrl-C ends it"
    _stamp(session, SelfWitness, BatchSettings(network="self"), order, warning)


def _stamp(
    session: Session, make: Callable[[AttestationQueue], StampingWitness], batching: BatchSettings, order: Order, opening: str
) -> None:
    settings = replace(batching, max_age=0) if order.drain else batching
    with AttestationQueue(session.store_path) as queue:
        worker, teller = StampWitness(queue, make(queue), settings), _Teller(ProofStore(queue.storage), {}, silent=order.silent)
        teller.say(opening)

        def work(stop: asyncio.Event) -> Awaitable[int]:
            return worker.run(interval=order.interval, stop=stop, until_empty=order.drain, watch=teller.watch)

        _work(work, order, teller)
        data = {**worker.status(), **teller.data()}
    _show(session, order, data)


def _require_store(session: Session) -> None:
    if not session.store_path.is_file():
        raise StoreMissing(f"there is no store at {session.store_path}; `nexus-attest witness enqueue` makes one")


def _work(
    work: Callable[[asyncio.Event], Awaitable[int]], order: Order, teller: "_Teller", recorder: ValidationRecorder | None = None
) -> None:
    """Do the work, and end as it was ended: by itself, by SIGTERM, or with KeyboardInterrupt."""
    if asyncio.run(_witness(work, order, recorder)) == signal.SIGINT:
        teller.say(_under_way(teller.last))
        raise KeyboardInterrupt


async def _witness(
    work: Callable[[asyncio.Event], Awaitable[int]], order: Order, recorder: ValidationRecorder | None
) -> signal.Signals | None:
    """The signal that ended it, None when it ended by itself. Votes are recorded from before the first transaction is sent."""
    loop, stop, silence = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    recording = None if recorder is None else loop.create_task(recorder.run(silence))
    task = asyncio.ensure_future(work(stop))
    if recording is not None:
        recording.add_done_callback(lambda _: task.cancel())  # it has failed: what is witnessed from here on would prove less
    received: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()  # wherever it waits: what it changes is stored in single commits, none of which waits

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # where there are no such handlers Ctrl-C cancels this task instead
            loop.add_signal_handler(number, end, number)
    if order.seconds is not None:
        loop.call_later(order.seconds, stop.set)
    with suppress(asyncio.CancelledError):
        await task
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
        self._strangers: set[str] = set()
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
        if progress.receipts and not progress.settled:  # of a witness that answers at once
            self._receipts += progress.receipts
            told = {"batch_id": progress.batch_id, "size": progress.size, "state": progress.state, "receipts": progress.receipts}
            self._batches.append(told)
        for stranger in progress.strangers:
            if stranger not in self._strangers:
                self.say(f"Not asked: {escape(stranger)}")
        self._strangers.update(progress.strangers)
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

    def stamped(self, status: Mapping[str, Any], receipts: int) -> None:
        """What a second witness did in one cycle."""
        self._receipts += receipts
        if receipts:
            self.say(f"Stamped by {escape(status['account'])}: {receipts:,} receipts")
        if status["stopped"] is not None:
            self.say(f"No second witness any more: {escape(status['stopped'])}")

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
    if attempt is None and progress.state is SlotState.CONFIRMED:
        return f"{batch}: stamped; {progress.receipts:,} receipts"
    if attempt is None and progress.state is SlotState.REJECTED:
        return f"{batch}: refused; its intents wait for another one"
    if attempt is None:
        return f"{batch}: closed, to be signed"
    return f"{batch}: {_attempt_line(attempt)}"


def _attempt_line(attempt: Attempt) -> str:
    transaction = f"transaction {attempt.hash[:16]}... (Sequence {attempt.seq}{f', attempt {attempt.n}' if attempt.n > 1 else ''})"
    if attempt.state is AttemptState.PREPARED:
        return f"{transaction} signed and stored{f'; {escape(attempt.note)}' if attempt.note else ''}"
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
    accounts = [_account_data(store, StampStore(queue.storage), lane) for lane in store.lanes()]
    waiting, alone = store.count_waiting(now=utc_now().timestamp()), queue.storage.count_sent_alone()
    data: dict[str, Any] = {"intents": statuses, "waiting": waiting, "alone": alone["intents"], "accounts": accounts}
    lines = ["Intents  " + (", ".join(f"{count:,} {status}" for status, count in statuses.items()) or "none")]
    lines.append(f"Waiting  {waiting:,} for the next batch")
    if alone["intents"]:
        lines.append(
            f"Alone    {alone['intents']:,} sent by process_one_xrpl, which no batch takes; the oldest is {escape(alone['oldest'])}"
        )
    for account in accounts:
        lines.append(f"Account  {escape(account['account'])}, network {account['network_id']}")
        lines += [f"  {entry['batches']:,} {state}, {_intents(entry['members'])}" for state, entry in account["batches"].items()]
        lines += [f"  {_under_way_line(batch)}" for batch in account["under_way"]]
    session.show(data, "\n".join(lines))


def _account_data(store: SubmissionStore, stamps: StampStore, lane: Mapping[str, Any]) -> dict[str, Any]:
    counts = store.counts(lane["account"])
    if batches := stamps.counts(lane["account"])[0]:  # a witness that answers at once has no transactions
        counts = {SlotState.CONFIRMED.value: (batches, stamps.counts(lane["account"])[1])}
    return {
        "account": lane["account"],
        "network_id": lane["network_id"],
        "batches": {state: {"batches": batches, "members": members} for state, (batches, members) in sorted(counts.items())},
        "under_way": [_batch_data(store, stamps, batch) for batch in store.unsettled(lane["account"])],
    }


def _batch_data(store: SubmissionStore, stamps: StampStore, batch: Batch) -> dict[str, Any]:
    slot, attempts = store.slot(batch.batch_id), store.attempts(batch.batch_id)
    last = attempts[-1] if attempts else None
    state = None if slot is None else slot.state.value
    if stamps.of_batch(batch.batch_id, batch.account) is not None:  # by a witness that answers at once, which has no transactions
        state = SlotState.CONFIRMED.value
    return {
        "batch_id": batch.batch_id,
        "account": batch.account,
        "size": batch.size,
        "root": batch.root,
        "created_at": batch.created_at,
        "state": state,
        "attempts": len(attempts),
        "tx_hash": None if last is None else last.hash,
        "ledgers": None if last is None else [last.first, last.lls],
        "told": None if last is None else last.note,
    }


def _under_way_line(batch: Mapping[str, Any]) -> str:
    to_come = "not stamped yet" if _is_stamping(batch["account"]) else "not signed yet"
    told = f"batch {batch['batch_id']}, {_intents(batch['size'])}: {batch['state'] or to_come}"
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
        "batch": None if batch is None else _batch_data(store, StampStore(queue.storage), batch),
        "alone": [] if confirmed else _sent_alone(queue, intent_digest, receipts),
        "receipt": confirmed[-1].to_dict() if confirmed else None,
    }
    error = f" ({escape(status['last_error_code'])})" if status["last_error_code"] else ""
    lines = [escape(intent_digest), f"  status   {escape(status['status'])}{error}, attempt {status['last_attempt']}"]
    if data["batch"] is not None:
        lines.append(f"  batch    {_under_way_line(data['batch'])}")
    lines += [f"  alone    transaction {escape(sent['tx_hash'])}: {_TOLD_OF_ALONE[sent['told']]}" for sent in data["alone"]]
    if data["alone"] and status["status"] != ReceiptStatus.FAILED:
        resubmit = "" if all(sent["told"] == "unanswered" for sent in data["alone"]) else ", resubmit=True"
        lines.append(
            f"  next     run_worker asks for it; once it is dead, process_one_xrpl(..., intent_digest=...{resubmit}) sends another one"
        )
    lines += [f"  witness  {_witness_line(receipt)}" for receipt in confirmed]
    session.show(data, "\n".join(lines))


_TOLD_OF_ALONE = {
    "taken": "a node took it, and no ledger is known to have it",
    "unanswered": "no node answered for it",
    "noted": "signed, perhaps sent, by a process that then ended",
}


def _sent_alone(queue: AttestationQueue, intent_digest: str, receipts: Sequence[AttestationReceipt]) -> list[dict[str, str]]:
    """The transactions of its own that an intent was sent with, `tx_hash`, and what is `told` of each."""
    sending, unanswered = queue.storage.sending(intent_digest), queue.storage.unanswered(intent_digest)
    sent = {str(receipt.proof["tx_hash"]): "taken" for receipt in receipts if "tx_hash" in receipt.proof and "type" not in receipt.proof}
    sent |= {row["tx_hash"]: "unanswered" for row in unanswered if row["tx_hash"] not in sent}
    sent |= {} if sending is None else {sending["tx_hash"]: "noted"}
    return [{"tx_hash": tx_hash, "told": told} for tx_hash, told in sent.items()]


def _witness_line(receipt: AttestationReceipt) -> str:
    """Who witnessed, by a receipt."""
    proof = receipt.proof
    if proof.get("tx_hash") is None:
        when = "" if proof.get("not_after") is None else f", not after {escape(proof['not_after'])}"
        return f"{escape(receipt.backend)} {escape(proof.get('by'))}{when}, level {escape(proof.get('level'))}"
    where = f"ledger {escape(proof.get('ledger_index'))}, closed {escape(proof.get('close_time') or proof.get('ledger_close_time'))}"
    return f"{where}, transaction {escape(proof.get('tx_hash'))}, level {escape(proof.get('level', 'server'))}"


def _intents(count: int) -> str:
    return f"{count:,} {'intent' if count == 1 else 'intents'}"
