"""The ledger itself: accounts, closed ledgers and the open one, without sockets, without sleep, on a clock that is told the time.

`submit` takes what a server takes, `close` makes the next validated ledger. Everything is a function of what was submitted, of the seed
and of the clock: the same calls give the same hashes. Safe to use from several threads.

Left out: tickets, signer lists, owner directories, load fees, amendments, the objects FeeSettings and LedgerHashes, every transaction
type but those of `transactors`. Every closed ledger is validated.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from xrpl.core.addresscodec import decode_classic_address
from xrpl.core.binarycodec import encode

from nexus_attest.testledger.clock import Clock, since_2000
from nexus_attest.testledger.hashing import ZERO, Header, transaction_leaf, tree_root
from nexus_attest.testledger.keys import GENESIS_SEED, Key, key_from_seed
from nexus_attest.testledger.pool import Fees, Pool, check
from nexus_attest.testledger.state import AccountRoot, State, affected_node, state_root
from nexus_attest.testledger.transactors import execute, preflight
from nexus_attest.testledger.validators import Validation, Validators
from nexus_attest.testledger.wire import Transaction, parse_transaction, sign_transaction

__all__ = ["ALL_DROPS", "ClosedLedger", "Entry", "Ledger", "Submitted"]

ALL_DROPS = 100_000_000_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A transaction in a closed ledger. `metadata` is decoded, `meta_blob` its bytes."""

    transaction: Transaction
    position: int
    metadata: dict[str, Any]
    meta_blob: bytes
    accounts: frozenset[str]

    @property
    def result(self) -> str:
        """What became of it."""
        return self.metadata["TransactionResult"]

    @property
    def leaf(self) -> bytes:
        """Its leaf in the tree of transactions."""
        return transaction_leaf(self.transaction.blob, self.meta_blob)


@dataclass(frozen=True)
class ClosedLedger:
    """A validated ledger: header, state, transactions in the order in which they were applied. `silent` validators did not sign it."""

    header: Header
    state: State
    entries: tuple[Entry, ...]
    silent: frozenset[int]

    @property
    def index(self) -> int:
        """Its number."""
        return self.header.index

    @cached_property
    def hash(self) -> str:
        """Its hash in capital hex digits."""
        return self.header.hash().hex().upper()

    @property
    def leaves(self) -> dict[bytes, bytes]:
        """The leaves of its tree of transactions, by id."""
        return {entry.transaction.id: entry.leaf for entry in self.entries}


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a server can say at once. `applied` means: to the open ledger, which is no promise."""

    transaction: Transaction
    result: str

    @property
    def applied(self) -> bool:
        """Whether the open ledger has it."""
        return self.result.startswith(("tes", "tec"))

    @property
    def queued(self) -> bool:
        """Whether it waits for the open ledger to become cheaper."""
        return self.result == "terQUEUED"


class Ledger:
    """A network of its own.

    `accounts` begin with that many drops, taken from the genesis account. The first ledger is `first_index`. `network_id` above 1024
    must stand in every transaction, one up to 1024 in none. Knobs to turn at any time: `fees`, and `silent`, the numbers of validators
    that sign nothing.
    """

    def __init__(
        self,
        accounts: Mapping[str, int] | None = None,
        *,
        network_id: int = 0,
        clock: Clock | None = None,
        validators: Validators | None = None,
        fees: Fees | None = None,
        first_index: int = 1,
    ) -> None:
        self.network_id = network_id
        self.clock = clock or Clock()
        self.validators = validators or Validators()
        self.fees = fees or Fees()
        self.silent: set[int] = set()
        self.lock = threading.RLock()
        self.genesis: Key = key_from_seed(GENESIS_SEED)
        self._listeners: list[Callable[[ClosedLedger], None]] = []
        self._bad: set[bytes] = set()
        self._late: list[tuple[int, Transaction]] = []
        self._closed: dict[int, ClosedLedger] = {}
        self._places: dict[bytes, int] = {}
        self._start(dict(accounts or {}), first_index)

    def _start(self, accounts: dict[str, int], index: int) -> None:
        genesis = AccountRoot(account=self.genesis.address, balance=ALL_DROPS - sum(accounts.values()), sequence=1)
        state = {root.account: root for root in (genesis, *(AccountRoot(account=a, balance=n, sequence=1) for a, n in accounts.items()))}
        now = since_2000(self.clock())
        header = Header(
            index=index,
            coins=ALL_DROPS,
            parent_hash=ZERO,
            transaction_root=ZERO,
            state_root=state_root(state),
            parent_close_time=0,
            close_time=now - now % 10,
        )
        self._closed[index] = ClosedLedger(header, state, (), frozenset())
        self._pool = Pool(index + 1, dict(state), self.fees, self.network_id)

    @property
    def pool(self) -> Pool:
        """The open ledger, to look at."""
        return self._pool

    @property
    def first(self) -> ClosedLedger:
        """The ledger that this one began with."""
        return self._closed[min(self._closed)]

    @property
    def validated(self) -> ClosedLedger:
        """The newest closed ledger."""
        return self._closed[self._pool.index - 1]

    def closed(self, index: int) -> ClosedLedger:
        """The closed ledger with this number. Raises KeyError if there is none."""
        return self._closed[index]

    def find(self, identity: bytes | str) -> tuple[ClosedLedger, Entry] | None:
        """Where a transaction (its id, bytes or hex) was validated; None if it was not."""
        key = bytes.fromhex(identity) if isinstance(identity, str) else identity
        with self.lock:
            index = self._places.get(key)
            if index is None:
                return None
            found = self._closed[index]
            return found, next(entry for entry in found.entries if entry.transaction.id == key)

    def history(self, account: str) -> list[tuple[ClosedLedger, Entry]]:
        """All validated transactions that touched an account, the oldest first."""
        with self.lock:
            return [(found, entry) for found in self._closed.values() for entry in found.entries if account in entry.accounts]

    def validations(self, index: int) -> list[Validation]:
        """What the validators that were not silent signed for a closed ledger."""
        found = self._closed[index]
        return self.validators.validate(found.header, sorted(set(range(len(self.validators.members))) - found.silent))

    def listen(self, listener: Callable[[ClosedLedger], None]) -> Callable[[], None]:
        """Call this for every ledger that closes from now on; returns what stops that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def submit(self, blob: str, *, fail_hard: bool = False) -> Submitted:
        """Take a signed transaction as hex. Raises NotATransaction for what is answered as `invalidTransaction`."""
        return self.take(parse_transaction(blob), fail_hard=fail_hard)

    def take(self, transaction: Transaction, *, fail_hard: bool = False) -> Submitted:
        """The same, after the local checks."""
        with self.lock:
            if transaction.id in self._bad:
                return Submitted(transaction, "temBAD_SIGNATURE")
            result = preflight(transaction, self.network_id)
            if result is None:
                result = self._pool.offer(transaction, may_wait=not fail_hard)
            elif result.startswith("tem"):
                self._bad.add(transaction.id)  # a server remembers what can never be right, and repeats another verdict
            return Submitted(transaction, result)

    def take_later(self, transaction: Transaction, closes: int = 1) -> None:
        """As if the transaction had been under way for a while: it arrives just before the n-th close from now."""
        with self.lock:
            self._late.append((self._pool.index + closes - 1, transaction))

    def forget_pending(self) -> None:
        """Lose all that is not validated, as if every server had been restarted: open ledger, queue, held and late transactions."""
        with self.lock:
            self._pool = Pool(self._pool.index, dict(self.validated.state), self.fees, self.network_id)
            self._late.clear()
            self._bad.clear()

    def pay(self, destination: str, drops: int) -> Submitted:
        """Submit a payment from the genesis account, signed like any other; it counts once a ledger closes."""
        with self.lock:
            fields: dict[str, Any] = {
                "TransactionType": "Payment",
                "Account": self.genesis.address,
                "Destination": destination,
                "Amount": str(drops),
                "Fee": str(max(self.fees.base, self._pool.price)),
                "Sequence": self._pool.next_sequence(self.genesis.address),
            }
            if self.network_id > 1024:
                fields["NetworkID"] = self.network_id
            return self.take(sign_transaction(self.genesis, fields))

    def close(self, seconds: float = 4, *, leave_out: Collection[str] = (), agreed_time: bool = True) -> ClosedLedger:
        """Let time pass, then close and validate the open ledger.

        Transactions in `leave_out` (hashes) did not reach enough validators in time: they are tried again in the next ledger. Without
        `agreed_time` the validators could not agree when it closed, which the header says.
        """
        with self.lock:
            self.clock.advance(seconds)
            self._arrive()
            pool, parent = self._pool, self.validated
            agreed = [item for item, _ in pool.applied.values() if item.hash not in leave_out]
            state, entries, again = _build(agreed, parent.state, pool.index, self.fees)
            again += [item for item, _ in pool.applied.values() if item.hash in leave_out]
            header = self._header(parent.header, state, entries, agreed_time)
            closed = ClosedLedger(header, state, tuple(entries), frozenset(self.silent))
            self._closed[header.index] = closed
            self._places.update((entry.transaction.id, header.index) for entry in entries)
            self._pool = pool.succeed(state, again)
        for listener in tuple(self._listeners):
            listener(closed)
        return closed

    def invent(self, transaction: Transaction | None = None) -> tuple[ClosedLedger, Entry]:
        """A ledger that never was, with this transaction in it and all its hashes in order; for servers that lie."""
        with self.lock:
            if transaction is None:
                fields = {"TransactionType": "AccountSet", "Account": self.genesis.address, "Fee": "10", "Sequence": 1}
                transaction = sign_transaction(self.genesis, fields)
            parent = self.validated
            sender = parent.state.get(transaction.account)
            changes: list[tuple[AccountRoot | None, AccountRoot]] = []
            if sender is not None:
                after = replace(sender, sequence=transaction.sequence + 1, previous_txn=transaction.hash, previous_ledger=parent.index)
                changes.append((replace(sender, sequence=transaction.sequence), after))
            entry = _entry(transaction, "tesSUCCESS", 0, changes)
            header = self._header(parent.header, parent.state, [entry], agreed_time=True)
            return ClosedLedger(replace(header, index=parent.index), parent.state, (entry,), frozenset()), entry

    def _arrive(self) -> None:
        due = [item for at, item in self._late if at <= self._pool.index]
        self._late = [(at, item) for at, item in self._late if at > self._pool.index]
        for transaction in due:
            self.take(transaction)

    def _header(self, parent: Header, state: State, entries: list[Entry], agreed_time: bool) -> Header:
        now, resolution = since_2000(self.clock()), parent.resolution
        rounded = (now + resolution // 2) // resolution * resolution
        return Header(
            index=parent.index + 1,
            coins=parent.coins - sum(entry.transaction.fee for entry in entries),
            parent_hash=parent.hash(),
            transaction_root=tree_root({entry.transaction.id: entry.leaf for entry in entries}),
            state_root=state_root(state),
            parent_close_time=parent.close_time,
            close_time=max(rounded, parent.close_time + 1) if agreed_time else parent.close_time + 1,
            resolution=resolution,
            flags=0 if agreed_time else 1,
        )


def _build(
    transactions: Iterable[Transaction], parent: State, index: int, fees: Fees
) -> tuple[dict[str, AccountRoot], list[Entry], list[Transaction]]:
    """Apply a set in canonical order: state, entries, and the transactions that could not be applied yet.

    What waits for another transaction of the set, or would only cost its fee, gets another pass as long as a pass changes something.
    """
    state, entries = dict(parent), list[Entry]()
    pending = _canonical_order(transactions)
    last_pass = False
    while pending:
        waiting: list[Transaction] = []
        for transaction in pending:
            refusal = check(transaction, state, index, fees)
            if refusal is not None:
                waiting += [transaction] if refusal.startswith("ter") else []
                continue
            outcome = execute(transaction, state, index, fees.reserve)
            if outcome.result.startswith("tec") and not last_pass:
                waiting.append(transaction)
                continue
            touched = [replace(root, previous_txn=transaction.hash, previous_ledger=index) for root in outcome.changed]
            entries.append(_entry(transaction, outcome.result, len(entries), [(state.get(root.account), root) for root in touched]))
            state.update((root.account, root) for root in touched)
        if last_pass and len(waiting) == len(pending):
            return state, entries, waiting
        last_pass = len(waiting) == len(pending)
        pending = waiting
    return state, entries, []


def _canonical_order(transactions: Iterable[Transaction]) -> list[Transaction]:
    """By account, mixed with the hash of the set so that nobody can choose to be first; then by Sequence, then by id."""
    items = list(transactions)
    salt = tree_root({item.id: item.id for item in items})

    def place(item: Transaction) -> tuple[bytes, int, bytes]:
        account = decode_classic_address(item.account).ljust(32, b"\0")
        return bytes(a ^ b for a, b in zip(account, salt, strict=True)), item.sequence, item.id

    return sorted(items, key=place)


def _entry(transaction: Transaction, result: str, position: int, changes: list[tuple[AccountRoot | None, AccountRoot]]) -> Entry:
    nodes = [affected_node(before, after) for before, after in changes]
    nodes.sort(key=lambda node: next(iter(node.values()))["LedgerIndex"])
    metadata = {"AffectedNodes": nodes, "TransactionIndex": position, "TransactionResult": result}
    return Entry(transaction, position, metadata, bytes.fromhex(encode(metadata)), frozenset(after.account for _, after in changes))
