"""A ledger with servers that fail as a script says, and workers that witness a queue on it and die as a script says."""

import asyncio
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

from nexus_attest.attestation.errors import LedgerUnavailable
from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.xrpl.batch import BatchSettings, BatchWitness, Progress
from nexus_attest.attestation.xrpl.batch_receipt import WitnessTransaction
from nexus_attest.attestation.xrpl.ledger_keys import key_of_seed
from nexus_attest.attestation.xrpl.node import LedgerNode, LedgerNodes
from nexus_attest.attestation.xrpl.signer import LocalWalletSigner
from nexus_attest.attestation.xrpl.submission import SubmissionSettings
from nexus_attest.attestation.xrpl.submission_store import Attempt, SubmissionStore
from nexus_attest.testledger import Clock, Faults, Ledger, Lost, Node, key_from_seed, seed_of, sign_transaction

SEED = seed_of("witness")
ACCOUNT = key_from_seed(SEED).address


class Crash(BaseException):
    """The process is gone."""


def intent(number: int) -> AttestationIntent:
    """One of many."""
    return AttestationIntent("nexus.audit_package", f"sha256:{number:064x}")


class Script:
    """Events one after the other; when they are used up, nothing happens any more."""

    def __init__(self, events: Iterable[str] = ()) -> None:
        self._events = iter(tuple(events))

    def next(self) -> str:
        return next(self._events, "ok")


class Wire:
    """A transport to servers by the host of their URL. Each request meets the next event of a script.

    `crash` and `crash_after` end the process before the request and after its effect; `close` lets a ledger close before; anything else
    is a fault of the server. `on` has events of its own for the next requests of a method; `alter` may change a result.
    """

    def __init__(self, nodes: Sequence[Node], script: Script) -> None:
        self.nodes = nodes
        self.script = script
        self.on: dict[str, list[str]] = {}
        self.alter: Callable[[str, dict[str, Any]], object] = _unchanged

    async def post_json(self, url: str, payload: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)  # let the other worker in
        node = self.nodes[int(url.removeprefix("http://node"))]
        stored = self.on.get(payload["method"])
        event = stored.pop(0) if stored else self.script.next()
        if event == "crash":
            raise Crash
        if event == "close":
            node.ledger.close()
        elif event not in ("ok", "crash_after"):
            node.faults.add("*", event)
        try:
            reply = node.post(json.dumps(payload).encode())
        except Lost:
            raise ConnectionError from None
        if event == "crash_after":
            raise Crash
        if reply.status != 200:
            raise ConnectionError(reply.status)
        answer = json.loads(reply.body)
        self.alter(payload["method"], answer["result"])
        return answer


class World:
    """Servers of one ledger, a queue, and workers of one account."""

    def __init__(
        self,
        *,
        nodes: int = 1,
        requests: Iterable[str] = (),
        commits: Iterable[str] = (),
        lease: float = 30,
        max_members: int = 4,
        submission: SubmissionSettings | None = None,
        network_id: int = 0,
        path: Any = ":memory:",
        seed: str = SEED,
        drops: int = 100_000_000,
    ) -> None:
        self.clock = Clock()
        self.account, self.seed = key_from_seed(seed).address, seed
        self.ledger = Ledger({self.account: drops}, clock=self.clock, network_id=network_id, first_index=100)
        self.nodes = [Node(self.ledger, Faults()) for _ in range(nodes)]
        self.requests, self.commits = Script(requests), Script(commits)
        self.wire = Wire(self.nodes, self.requests)
        self.queue = AttestationQueue(path, clock=self.clock)
        self.signer = LocalWalletSigner(key_of_seed(seed))
        self.settings = BatchSettings(network="local", max_members=max_members, max_age=0, lease=lease)
        self.submission = submission
        self.progress = Progress()
        self._ids = 0
        self._make_commits_fail()

    def worker(self, **options: Any) -> BatchWitness:
        """Another process."""
        self._ids += 1
        name = f"worker{self._ids}"
        nodes = [LedgerNode(f"http://node{index}", self.wire) for index in range(len(self.nodes))]
        pool = LedgerNodes(nodes, clock=self.clock, jitter=lambda: 0.5)
        signer = options.pop("signer", self.signer)
        given: dict[str, Any] = {"submission": self.submission, "clock": self.clock, "new_id": lambda: name, **options}
        return BatchWitness(self.queue, pool, signer, self.settings, **given)

    def _make_commits_fail(self) -> None:
        database: Any = self.queue.storage.database
        transaction: Callable[[], Any] = database.transaction
        depth = 0

        @contextmanager
        def failing() -> Generator[Any]:
            nonlocal depth
            event = "ok" if depth else self.commits.next()
            depth += 1
            try:
                with transaction() as connection:
                    yield connection
                    if event == "before":
                        raise Crash
            finally:
                depth -= 1
            if event == "after":
                raise Crash

        database.transaction = failing

    # -- running --------------------------------------------------------------------------------------------------------------

    def run(self, workers: int = 1, *, most: int = 400, between: Callable[[int], object] = lambda _: None) -> int:
        """Let workers, restarted when they died, and ledgers go on until every intent is confirmed; gives the number of rounds."""
        return asyncio.run(self._run(workers, most, between))

    async def _run(self, count: int, most: int, between: Callable[[int], object]) -> int:
        workers = [self.worker() for _ in range(count)]
        for turn in range(most):
            ended = await asyncio.gather(*(self._cycle(worker) for worker in workers))
            workers = [worker if alive else self.worker() for worker, alive in zip(workers, ended, strict=True)]
            if all(status == "CONFIRMED" for status in self.statuses()):
                return turn
            self.ledger.close()
            between(turn)
        raise AssertionError(f"after {most} rounds: {self.statuses()}, {workers[0].status()}")

    async def _cycle(self, worker: BatchWitness) -> bool:
        """One cycle; False when the process died, or stopped by itself."""
        try:
            self.progress = await worker.cycle()
        except Crash:
            return False
        except LedgerUnavailable:
            return True
        return self.progress.stopped is None

    def cycle(self, worker: BatchWitness, times: int = 1, *, close: bool = False) -> Progress:
        """Cycles, whose errors are raised; a ledger closes before each."""
        for _ in range(times):
            if close:
                self.ledger.close()
            self.progress = asyncio.run(worker.cycle())
        return self.progress

    # -- what came of it ------------------------------------------------------------------------------------------------------

    def attempts(self, batch_id: int = 1) -> list[Attempt]:
        return SubmissionStore(self.queue.storage).attempts(batch_id)

    def sent(self) -> list[str]:
        """The blobs that reached a server, in order."""
        return [params["tx_blob"] for node in self.nodes for method, params in node.requests if method == "submit"]

    def spend(self) -> None:
        """Somebody else uses the account's next Sequence."""
        fields: dict[str, Any] = {"TransactionType": "AccountSet", "Account": self.account, "Fee": "10"}
        fields["Sequence"] = self.ledger.pool.next_sequence(self.account)
        self.ledger.take(sign_transaction(key_from_seed(self.seed), fields))

    def spent(self) -> int:
        """How many transactions of the account are somebody else's."""
        return sum("Memos" not in entry.transaction.fields for _, entry in self.ledger.history(self.account))

    def statuses(self) -> list[str]:
        with self.queue.storage.database.reading() as connection:
            return [row["status"] for row in connection.execute("SELECT status FROM attestation_intents")]

    def witnesses(self) -> list[WitnessTransaction]:
        """Every transaction of the account in a validated ledger that carries a memo of ours."""
        return [
            WitnessTransaction(entry.transaction.blob, entry.result, account=self.account)
            for _, entry in self.ledger.history(self.account)
            if entry.transaction.account == self.account and "Memos" in entry.transaction.fields and entry.result == "tesSUCCESS"
        ]

    def confirmed(self, item: AttestationIntent) -> list[AttestationReceipt]:
        receipts = self.queue.replay("sha256:" + item.intent_digest())
        return [receipt for receipt in receipts if receipt.status is ReceiptStatus.CONFIRMED]

    def require_exactly_once(self, intents: Sequence[AttestationIntent]) -> None:
        """Each intent has one receipt, which one transaction on the ledger bears out, and no other transaction has it under its root."""
        found = {witness.tx_hash: witness for witness in self.witnesses()}
        with self.queue.storage.database.reading() as connection:
            rows = connection.execute("SELECT b.root, m.intent_digest FROM witness_batches b JOIN witness_members m USING (batch_id)")
            members: dict[str, set[str]] = {}
            for row in rows:
                members.setdefault(row["root"], set()).add(row["intent_digest"])
        witnessed = [digest for witness in found.values() for digest in members[_root(witness)]]
        assert sorted(witnessed) == sorted("sha256:" + item.intent_digest() for item in intents)
        for item in intents:
            (receipt,) = self.confirmed(item)
            found[receipt.proof["tx_hash"]].check(receipt, item)
        state = self.ledger.validated.state[self.account]
        assert state.sequence == 1 + len(found) + self.spent()


def _unchanged(_method: str, _result: dict[str, Any]) -> None:
    """The answer as it is."""


def _root(witness: WitnessTransaction) -> str:
    assert witness.statement is not None
    return witness.statement.root.hex()
