"""Witnesses that answer at once: batches, receipts, crashes, and a second witness beside a ledger."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tsa_testing import LocalAuthority, certified, openssl, pinned, served
from witness_testing import World, intent

from nexus_attest.attestation import stamping
from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import AuthorityUnavailable, WitnessMismatch, WitnessRefused
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.local_witness import SelfStamp, SelfWitness, broken_link
from nexus_attest.attestation.narrative import CheckStatus, show_intent, verify_narrative
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.replay import replay_attestation
from nexus_attest.attestation.stamp import Shown, evidence_key, root_key
from nexus_attest.attestation.stamp_store import StampStore
from nexus_attest.attestation.stamping import StampWitness
from nexus_attest.attestation.tsa import TimestampAuthority
from nexus_attest.attestation.xrpl.batch import BatchSettings
from nexus_attest.attestation.xrpl.submission import SubmissionSettings
from nexus_attest.attestation.xrpl.submission_store import SlotState
from nexus_control.errors import InputError, StoreError
from nexus_control.events import utc_now

NOW = BatchSettings(network="local", max_members=4, max_age=0)
LARGE = BatchSettings(network="local", max_members=2000, max_age=0, lease=0)


class Scripted:
    """A witness whose answers a test says: evidence, or an error. What it gives is the statement itself."""

    backend = "scripted"
    name = "one"

    def __init__(self, *answers: Exception | bytes) -> None:
        self.answers = list(answers)
        self.asked: list[Statement] = []

    async def witness(self, statement: Statement) -> bytes:
        self.asked.append(statement)
        answer = self.answers.pop(0) if self.answers else statement.to_bytes()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def verify(self, statement: Statement, evidence: bytes) -> Shown:
        if evidence != statement.to_bytes():
            raise WitnessMismatch("statement: another one")
        return Shown("scripted", "2026-01-01T00:00:00+00:00", "one")


@pytest.fixture
def queue() -> AttestationQueue:
    return AttestationQueue()


def receipts(queue: AttestationQueue, item: AttestationIntent) -> list[AttestationReceipt]:
    return queue.replay("sha256:" + item.intent_digest())


def cycled(witness: StampWitness) -> Any:
    return asyncio.run(witness.cycle())


def test_waiting_intents_are_stamped_together_and_each_gets_its_receipt(queue: AttestationQueue) -> None:
    items = [intent(number) for number in range(6)]
    queue.enqueue_many(items)
    scripted = Scripted()
    witness = StampWitness(queue, scripted, NOW)
    first, second, third = cycled(witness), cycled(witness), cycled(witness)
    assert [(progress.state, progress.receipts, progress.waiting) for progress in (first, second, third)] == [
        (SlotState.CONFIRMED, 4, 2),
        (SlotState.CONFIRMED, 2, 0),
        (None, 0, 0),
    ]
    assert [statement.size for statement in scripted.asked] == [4, 2]
    for item in items:
        (receipt,) = receipts(queue, item)
        assert (receipt.backend, receipt.status, receipt.attempt) == ("scripted", ReceiptStatus.CONFIRMED, 1)
        assert receipt.proof["level"] == "scripted"
        assert receipt.proof["by"] == "one"
        assert receipt.proof["not_after"] == "2026-01-01T00:00:00+00:00"
        statement = next(one for one in scripted.asked if "sha256:" + one.root.hex() == receipt.evidence_digests[root_key("scripted")])
        merkle = receipt.proof["merkle"]
        assert statement.covers(receipt.intent_digest, merkle["index"], [bytes.fromhex(node) for node in merkle["path"]])
        stored = StampStore(queue.storage).by_digest(receipt.evidence_digests[evidence_key("scripted")])
        assert stored is not None
        assert stored.evidence == statement.to_bytes()
    assert witness.status() == {
        "account": "scripted:one",
        "waiting": 0,
        "batches": {"CONFIRMED": {"batches": 2, "members": 6}},
        "stopped": None,
    }


def test_a_narrative_of_a_stamped_intent_has_only_checks_that_pass(queue: AttestationQueue) -> None:
    queue.enqueue_many([intent(1), intent(2), intent(3)])
    cycled(StampWitness(queue, Scripted(), NOW))
    report = show_intent(queue, "sha256:" + intent(2).intent_digest())
    assert {check.status for check in (*report.checks, *verify_narrative(report))} == {CheckStatus.PASS}
    assert report.witness is None


def test_a_batch_waits_for_its_age_and_a_witness_for_its_lease(queue: AttestationQueue) -> None:
    queue.enqueue(intent(1))
    settings = BatchSettings(network="local", max_members=4, max_age=600)
    assert cycled(StampWitness(queue, Scripted(), settings)).batch_id is None
    other = StampWitness(queue, Scripted(), NOW)
    assert not cycled(other).leased


def test_a_witness_that_does_not_answer_is_asked_again_for_the_same_statement(queue: AttestationQueue) -> None:
    queue.enqueue(intent(1))
    scripted = Scripted(AuthorityUnavailable("no"), AuthorityUnavailable("no"))
    witness = StampWitness(queue, scripted, NOW)
    with pytest.raises(AuthorityUnavailable):
        cycled(witness)
    queue.enqueue(intent(2))
    assert asyncio.run(witness.run(interval=0, max_cycles=4)) == 2
    assert [statement.size for statement in scripted.asked] == [1, 1, 1, 1]
    assert len(set(scripted.asked)) == 2


@pytest.mark.parametrize("answer", [WitnessRefused("badAlg"), b"nonsense"])
def test_what_a_witness_refuses_waits_for_another_one(queue: AttestationQueue, answer: Exception | bytes) -> None:
    queue.enqueue(intent(1))
    witness = StampWitness(queue, Scripted(answer), NOW)
    progress = cycled(witness)
    assert (progress.state, progress.receipts, progress.waiting) == (SlotState.REJECTED, 1, 1)
    assert progress.stopped is not None
    assert progress.stopped.startswith("scripted:one: ")
    (receipt,) = receipts(queue, intent(1))
    assert receipt.error is not None
    assert (receipt.status, receipt.error.code) == (ReceiptStatus.FAILED, "REJECTED")
    assert asyncio.run(witness.run()) == 0
    assert cycled(StampWitness(queue, SelfWitness(queue), NOW)).receipts == 1
    status = queue.get_status("sha256:" + intent(1).intent_digest())
    assert status is not None
    assert (status["status"], status["last_attempt"]) == ("CONFIRMED", 2)


class Crash(BaseException):
    pass


def dies_after(queue: AttestationQueue, count: int, witness: StampWitness) -> None:
    """A cycle whose process is gone after so many receipts."""
    record, left = queue.record_receipt, iter(range(count))

    def dying(receipt: AttestationReceipt, *, intent_status: ReceiptStatus | None = None) -> bool:
        if next(left, None) is None:
            raise Crash
        return record(receipt, intent_status=intent_status)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "record_receipt", dying)
        with pytest.raises(Crash):
            cycled(witness)


@pytest.mark.parametrize("point", range(6))
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_commit_leaves_one_receipt_for_each_intent(queue: AttestationQueue, point: int, after: bool) -> None:
    items = [intent(number) for number in range(3)]
    queue.enqueue_many(items)
    database: Any = queue.storage.database
    transaction: Callable[[], Any] = database.transaction
    left, depth = point, 0

    class Failing:
        def __enter__(self) -> Any:
            nonlocal depth
            self.block = transaction()
            depth += 1
            return self.block.__enter__()

        def __exit__(self, kind: Any, error: Any, trace: Any) -> Any:
            nonlocal left, depth
            depth -= 1
            left -= depth == 0
            dies = depth == 0 and left == -1
            if dies and not after:
                self.block.__exit__(Crash, Crash(), None)
                raise Crash
            done = self.block.__exit__(kind, error, trace)
            if dies:
                raise Crash
            return done

    database.transaction = Failing
    for _ in range(4):
        try:
            cycled(StampWitness(queue, Scripted(), NOW, new_id=lambda: "the same"))
        except Crash:
            continue
    database.transaction = transaction
    assert [len(receipts(queue, item)) for item in items] == [1, 1, 1]
    assert [stamp.settled for stamp in StampStore(queue.storage).of_lane("scripted:one")] == [True]


def test_a_stamp_can_be_neither_changed_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with AttestationQueue(path) as queue:
        queue.enqueue(intent(1))
        cycled(StampWitness(queue, Scripted(), NOW))
    with closing(sqlite3.connect(path)) as other:
        for statement in ("DELETE FROM witness_stamps", "UPDATE witness_stamps SET evidence = x'00'"):
            with pytest.raises(sqlite3.IntegrityError):
                other.execute(statement)


def test_one_stamp_stays_when_two_were_given(queue: AttestationQueue) -> None:
    queue.enqueue(intent(1))
    cycled(StampWitness(queue, Scripted(), NOW))
    stamps = StampStore(queue.storage)
    stamps.add(1, "scripted:one", b"another", "2026-01-01T00:00:00+00:00")
    assert [stamp.n for stamp in stamps.of_lane("scripted:one")] == [1]
    with pytest.raises(StoreError):
        stamps.add(99, "scripted:one", b"of no batch", "2026-01-01T00:00:00+00:00")


# Beside a ledger


def test_a_second_witness_stamps_what_the_ledger_confirmed_and_changes_nothing_else() -> None:
    world = World(max_members=3)
    items = [intent(number) for number in range(5)]
    world.queue.enqueue_many(items)
    scripted = Scripted()
    second = StampWitness(world.queue, scripted, beside=True, clock=world.clock)
    assert cycled(second).batch_id is None
    world.run()
    assert asyncio.run(second.run(interval=0, max_cycles=5)) == 5
    assert len(world.witnesses()) == 2
    for item in items:
        ledger, stamp = receipts(world.queue, item)
        assert (ledger.backend, stamp.backend, ledger.attempt) == ("xrpl", "scripted", stamp.attempt)
        assert stamp.evidence_digests["memo_digest"] == ledger.evidence_digests["memo_digest"]
        assert stamp.proof["merkle"] == ledger.proof["merkle"]
        report = show_intent(world.queue, "sha256:" + item.intent_digest())
        assert {check.status for check in (*report.checks, *verify_narrative(report))} == {CheckStatus.PASS}
        assert report.witness is not None
        assert report.witness.tx_hash == ledger.proof["tx_hash"]
        replayed = replay_attestation(world.queue, "sha256:" + item.intent_digest())
        assert (replayed.final_tx_hash, replayed.confirmed, replayed.timeline_consistent) == (ledger.proof["tx_hash"], True, True)
    assert set(world.statuses()) == {"CONFIRMED"}
    assert cycled(second).batch_id is None


def test_a_witness_is_not_asked_where_no_time_can_be_recorded() -> None:
    world = World(max_members=3)
    world.queue.enqueue(intent(1))
    world.run()
    scripted = Scripted()
    with pytest.raises(InputError, match="clock must give times with an offset"):
        cycled(StampWitness(world.queue, scripted, beside=True, clock=lambda: datetime(2026, 6, 1)))
    assert scripted.asked == []


def test_a_ledger_and_a_second_witness_run_in_one_loop() -> None:
    world = World(max_members=3)
    world.queue.enqueue_many([intent(number) for number in range(5)])
    second = StampWitness(world.queue, Scripted(AuthorityUnavailable("not now")), beside=True, clock=world.clock)

    async def besides() -> int:
        world.ledger.close()
        return await second.besides()

    assert asyncio.run(world.worker().run(interval=0, max_cycles=20, besides=besides)) == 10


@pytest.mark.parametrize("window", [5, 15])
def test_a_second_witness_that_hangs_keeps_nothing_from_the_ledger(window: int) -> None:
    """What was signed is sent before the other is asked, who takes more time than a transaction has."""
    world = World(nodes=3, submission=SubmissionSettings(window=window))
    world.queue.enqueue_many([intent(number) for number in range(6)])  # two batches
    asked = 0

    async def besides() -> int:
        nonlocal asked
        asked += 1
        for _ in range(window + 1):
            world.ledger.close()
        return 0

    assert asyncio.run(world.worker().run(interval=0, max_cycles=10, until_empty=True, besides=besides)) == 6
    assert (len(world.attempts(1)), len(world.attempts(2))) == (1, 1)
    assert 2 <= asked < 10


def test_a_second_witness_is_asked_also_when_the_only_cycle_signs() -> None:
    world = World()
    world.queue.enqueue(intent(1))
    asked: list[str] = []

    async def besides() -> int:
        asked.append(world.attempts()[0].state)
        return 0

    worker = world.worker()
    assert asyncio.run(worker.run(interval=0, max_cycles=1, besides=besides)) == 0
    assert asyncio.run(worker.run(interval=0, max_cycles=1, besides=besides)) == 0
    assert asked == ["PREPARED", "MAYBE"]


def test_a_second_witness_deals_with_one_batch_at_a_time_until_none_is_left() -> None:
    """However long it takes for each, the ledger is looked at in between."""
    world = World(max_members=2, lease=0)
    world.queue.enqueue_many([intent(number) for number in range(6)])
    world.run()
    scripted = Scripted()
    second = StampWitness(world.queue, scripted, beside=True, clock=world.clock)
    assert asyncio.run(second.besides()) == 2
    assert len(scripted.asked) == 1
    told: list[Any] = []
    running = world.worker().run(interval=3600, until_empty=True, watch=told.append, besides=second.besides)
    assert asyncio.run(asyncio.wait_for(running, 60)) == 4
    assert (len(scripted.asked), len(told)) == (3, 3)


def test_a_loop_ends_when_nothing_waits_and_tells_of_each_cycle(queue: AttestationQueue) -> None:
    queue.enqueue_many([intent(number) for number in range(5)])
    told: list[Any] = []
    witness = StampWitness(queue, Scripted(AuthorityUnavailable("not now")), NOW)
    assert asyncio.run(witness.run(interval=0, until_empty=True, watch=told.append)) == 5
    assert [(progress.size, progress.unavailable) for progress in told] == [(0, "not now"), (4, None), (1, None), (0, None)]
    with pytest.raises(InputError, match="interval"):
        asyncio.run(witness.run(interval=-1))


@pytest.mark.parametrize("again", [None, WitnessRefused("no")], ids=["taken", "refused"])
def test_a_crash_while_a_refusal_is_written_leaves_a_batch_of_those_that_were_not_let_go(
    queue: AttestationQueue, monkeypatch: pytest.MonkeyPatch, again: Exception | None
) -> None:
    """After the first commits. The witness is asked again for the others, and nobody has two receipts of one attempt."""
    monkeypatch.setattr(stamping, "_RECEIPTS_PER_COMMIT", 3)
    items = [intent(number) for number in range(10)]
    queue.enqueue_many(items)
    witness = StampWitness(queue, Scripted(WitnessRefused("no")), LARGE)
    dies_after(queue, 7, witness)
    second = Scripted() if again is None else Scripted(again)
    later = utc_now() + timedelta(minutes=1)
    progress = cycled(StampWitness(queue, second, LARGE, clock=lambda: later))
    assert (progress.receipts, progress.waiting) == (4, 6 if again is None else 10)
    assert cycled(StampWitness(queue, Scripted(), LARGE, clock=lambda: later)).receipts == progress.waiting
    failed, confirmed = (ReceiptStatus.FAILED, 1), ReceiptStatus.CONFIRMED
    told = [tuple((receipt.status, receipt.attempt) for receipt in receipts(queue, item)) for item in items]
    assert told.count((failed, (confirmed, 2))) == progress.waiting
    assert told.count(((confirmed, 1),)) == len(items) - progress.waiting


def test_a_refusal_of_many_keeps_other_writers_waiting_for_no_more_than_some_of_its_receipts(
    queue: AttestationQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamping, "_RECEIPTS_PER_COMMIT", 3)
    queue.enqueue_many([intent(number) for number in range(10)])
    database: Any = queue.storage.database
    transaction, depth, receipts_in = database.transaction, 0, [0]
    record = queue.record_receipt

    @contextmanager
    def counting() -> Generator[Any]:
        nonlocal depth
        if not depth:
            receipts_in.append(0)
        depth += 1
        try:
            with transaction() as connection:
                yield connection
        finally:
            depth -= 1

    def counted(receipt: AttestationReceipt, *, intent_status: ReceiptStatus | None = None) -> bool:
        receipts_in[-1] += 1
        return record(receipt, intent_status=intent_status)

    paused: list[int] = []

    async def pause() -> None:
        assert not depth
        paused.append(sum(receipts_in))

    monkeypatch.setattr(stamping, "give_way", pause)
    monkeypatch.setattr(database, "transaction", counting)
    monkeypatch.setattr(queue, "record_receipt", counted)
    assert cycled(StampWitness(queue, Scripted(WitnessRefused("no")), LARGE)).receipts == 10
    assert (sum(receipts_in), max(receipts_in), paused) == (10, 3, [3, 6, 9])


def test_a_second_witness_that_refuses_takes_nothing_from_the_first() -> None:
    world = World()
    world.queue.enqueue(intent(1))
    world.run()
    second = StampWitness(world.queue, Scripted(WitnessRefused("no")), beside=True, clock=world.clock)
    assert asyncio.run(second.run()) == 0
    assert second.status()["stopped"] == "scripted:one: no"
    (only,) = receipts(world.queue, intent(1))
    assert (only.backend, world.statuses()) == ("xrpl", ["CONFIRMED"])


def test_an_intent_that_a_witness_has_is_not_given_to_the_ledger_too() -> None:
    world = World(nodes=1)
    world.queue.enqueue_many([intent(1), intent(2)])
    scripted = Scripted(AuthorityUnavailable("down"))
    first = StampWitness(world.queue, scripted, NOW, clock=world.clock)
    with pytest.raises(AuthorityUnavailable):
        cycled(first)
    assert world.cycle(world.worker()).waiting == 0
    assert world.sent() == []
    assert cycled(first).receipts == 2


class Pinned(Scripted):
    """A witness that marks its evidence with what it was made with: another one of the same name does not take it."""

    def __init__(self, pin: bytes) -> None:
        super().__init__()
        self.pin = pin

    async def witness(self, statement: Statement) -> bytes:
        return self.pin + statement.to_bytes()

    def verify(self, statement: Statement, evidence: bytes) -> Shown:
        if evidence != self.pin + statement.to_bytes():
            raise WitnessMismatch("not by the pinned certificate")
        return Shown("scripted", None, "one")


def test_a_stored_stamp_that_is_no_evidence_any_more_stops_the_second_witness_and_not_the_ledger() -> None:
    """Its receipts were not written yet when the certificate in the trust policy was replaced."""
    world = World(lease=0)
    world.queue.enqueue(intent(1))
    world.run()
    dies_after(world.queue, 0, StampWitness(world.queue, Pinned(b"old"), beside=True, clock=world.clock))
    world.queue.enqueue(intent(2))
    world.clock.advance(120)
    second = StampWitness(world.queue, Pinned(b"new"), beside=True, clock=world.clock)

    async def besides() -> int:
        world.ledger.close()
        return await second.besides()

    assert asyncio.run(world.worker().run(interval=0, max_cycles=20, until_empty=True, besides=besides)) == 1
    assert world.statuses() == ["CONFIRMED", "CONFIRMED"]
    assert second.status()["stopped"] == "scripted:one: what it gave is no evidence: not by the pinned certificate"
    assert [receipt.backend for item in (intent(1), intent(2)) for receipt in receipts(world.queue, item)] == ["xrpl", "xrpl"]


@pytest.mark.parametrize("written", [0, 3])
def test_members_of_a_batch_whose_stored_stamp_is_no_evidence_any_more_wait_for_another_witness(
    monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """But for those that were confirmed before."""
    monkeypatch.setattr(stamping, "_RECEIPTS_PER_COMMIT", 3)
    world = World(max_members=20)
    items = [intent(number) for number in range(5)]
    world.queue.enqueue_many(items)
    dies_after(world.queue, written, StampWitness(world.queue, Pinned(b"old"), LARGE, clock=world.clock))
    witness = StampWitness(world.queue, Pinned(b"new"), LARGE, clock=world.clock)
    assert asyncio.run(witness.run(interval=0, until_empty=True)) == 5 - written
    assert witness.status()["waiting"] == 5 - written
    assert witness.status()["stopped"] == "scripted:one: what it gave is no evidence: not by the pinned certificate"
    world.run()
    told = [tuple((receipt.backend, receipt.status) for receipt in receipts(world.queue, item)) for item in items]
    assert told.count((("scripted", ReceiptStatus.CONFIRMED),)) == written
    assert told.count((("scripted", ReceiptStatus.FAILED), ("xrpl", ReceiptStatus.CONFIRMED))) == 5 - written


@pytest.mark.parametrize("settled", [0, 3, 6])
def test_one_of_two_workers_of_a_lane_is_refused_while_the_other_writes_receipts(monkeypatch: pytest.MonkeyPatch, settled: int) -> None:
    """Its lease ran out while it waited. Each intent is confirmed by the witness, or let go for a ledger, and never both."""
    monkeypatch.setattr(stamping, "_RECEIPTS_PER_COMMIT", 3)
    world = World(max_members=20)
    items = [intent(number) for number in range(6)]
    world.queue.enqueue_many(items)
    answer = asyncio.Event()

    class Refusing(Scripted):
        async def witness(self, statement: Statement) -> bytes:
            self.asked.append(statement)
            await answer.wait()
            raise WitnessRefused("policy")

    class Stamping(Scripted):
        async def witness(self, statement: Statement) -> bytes:
            if settled == 0:
                await refused()
            return await super().witness(statement)

    async def refused() -> None:
        answer.set()
        await late
        await world.worker().cycle()

    async def pause() -> None:
        if settled == 3 and not answer.is_set():
            await refused()

    async def race() -> None:
        nonlocal late
        late = asyncio.create_task(StampWitness(world.queue, Refusing(), LARGE, clock=world.clock).cycle())
        await asyncio.sleep(0)
        await StampWitness(world.queue, Stamping(), LARGE, clock=world.clock).cycle()
        if settled == 6:
            await refused()

    late: asyncio.Task[Any]
    monkeypatch.setattr(stamping, "give_way", pause)
    asyncio.run(race())
    world.run()
    told = [tuple((receipt.backend, receipt.status) for receipt in receipts(world.queue, item)) for item in items]
    assert told.count((("scripted", ReceiptStatus.CONFIRMED),)) == settled
    assert told.count((("scripted", ReceiptStatus.FAILED), ("xrpl", ReceiptStatus.CONFIRMED))) == 6 - settled


# The authority, from the queue to the receipts


def test_a_queue_is_witnessed_by_a_local_authority_over_http(queue: AttestationQueue, tmp_path: Path) -> None:
    openssl()
    root = certified("Root", ca=True)
    local = LocalAuthority(tmp_path, certified("Authority", root))
    items = [intent(number) for number in range(1000)]
    queue.enqueue_many(items)
    with served(local) as server:
        authority = TimestampAuthority(server.url, pinned(root))
        witness = StampWitness(queue, authority, BatchSettings(network="local", max_age=0))
        assert cycled(witness).receipts == 1000
        assert len(server.requests) == 1
    (receipt,) = receipts(queue, items[500])
    assert (receipt.backend, receipt.proof["level"], receipt.proof["by"]) == ("tsa", "authority", "local")
    assert len(json.dumps(receipt.to_dict())) < 1600
    stamp = StampStore(queue.storage).by_digest(receipt.evidence_digests["tsa.evidence"])
    assert stamp is not None
    statement = Statement(bytes.fromhex(receipt.evidence_digests["tsa.batch.root"].removeprefix("sha256:")), 1000)
    assert authority.verify(statement, stamp.evidence).not_after == receipt.proof["not_after"]
    assert statement.digest() == receipt.evidence_digests["memo_digest"]


# The local witness


def test_the_local_witness_says_that_it_is_nobody_else(queue: AttestationQueue) -> None:
    queue.enqueue_many([intent(1), intent(2)])
    cycled(StampWitness(queue, SelfWitness(queue), NOW))
    (receipt,) = receipts(queue, intent(1))
    assert (receipt.backend, receipt.proof["level"], receipt.proof["by"]) == ("self", "self", "local")
    assert "not_after" not in receipt.proof


def test_stamps_of_the_local_witness_name_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with AttestationQueue(path) as queue:
        witness = StampWitness(queue, SelfWitness(queue), NOW)
        for number in range(4):
            queue.enqueue(intent(number))
            assert cycled(witness).receipts == 1
        stamps = StampStore(queue.storage).of_lane("self:local")
        assert [SelfStamp.from_bytes(stamp.evidence).n for stamp in stamps] == [1, 2, 3, 4]
        assert [SelfStamp.from_bytes(stamp.evidence).previous for stamp in stamps[1:]] == [stamp.digest for stamp in stamps[:-1]]
        assert broken_link(queue) is None
        with pytest.raises(InputError, match="no stamps of a local witness called 'x'"):
            broken_link(queue, name="x")
    for n, changed in ((4, b"{}"), (3, stamps[2].evidence.replace(b'"n":3', b'"n":9')), (2, stamps[0].evidence), (1, stamps[1].evidence)):
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TRIGGER IF EXISTS witness_stamps_fixed")
            other.execute("UPDATE witness_stamps SET evidence = ? WHERE n = ?", (changed, n))
            other.commit()
        with AttestationQueue(path) as queue:
            assert broken_link(queue) == n


def test_every_byte_of_a_stamp_of_the_local_witness_is_covered_but_its_own_word(queue: AttestationQueue) -> None:
    """Number, time and link can be made up by whoever runs it, which is why it proves nothing; the statement cannot."""
    local = SelfWitness(queue)
    statement = Statement(bytes(32), 5)
    good = asyncio.run(local.witness(statement))
    assert local.verify(statement, good) == ("self", None, "local")
    free = [good.index(value) + place for value in (b'"at":"', b'"n":', b'"previous":"sha256:') for place in range(len(value), 90)]
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1
        try:
            local.verify(statement, bytes(changed))
        except WitnessMismatch:
            continue
        assert place in free
    with pytest.raises(WitnessMismatch, match="of something else"):
        local.verify(Statement(bytes(32), 6), good)


STAMP = SelfStamp(1, "sha256:" + "0" * 64, Statement(bytes(32), 5), "2026").to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        STAMP.replace(b'"n":1', b'"n":true'),
        STAMP.replace(b'"n":1', b'"n":0'),
        STAMP.replace(b'"size":5', b'"size":0'),
        STAMP.replace(b'"root":"', b'"root":"x'),
        STAMP.replace(b"sha256", b"sha512"),
        STAMP.replace(b"stamp/1", b"stamp/2"),
        STAMP.replace(b'"2026"', b"2026"),
        STAMP + b" ",
    ],
)
def test_what_is_no_stamp_of_the_local_witness_is_refused(data: bytes) -> None:
    with pytest.raises(WitnessMismatch):
        SelfStamp.from_bytes(data)
