"""The open ledger of a network: what was submitted and may become part of the next closed one, and what waits for its turn.

Transactions are applied to a copy of the last closed state. A fee below that of the open ledger puts one into the queue; a Sequence
with a gap before it is held. Both are tried again for the next open ledger.
"""

from dataclasses import dataclass, field

from nexus_attest.testledger.state import AccountRoot, State
from nexus_attest.testledger.transactors import authorized, execute, is_blocker
from nexus_attest.testledger.wire import Transaction

__all__ = ["ACCOUNT_QUEUE_MAX", "QUEUE_MAX", "Fees", "Pool", "check", "fits"]

ACCOUNT_QUEUE_MAX = 10
QUEUE_MAX = 2000

_BASE_LEVEL = 256
_MULTIPLIER = 128_000
"""Fee levels of rippled's TxQ: what the base fee is worth, and what a full ledger multiplies by."""


@dataclass(slots=True)
class Fees:
    """What transactions cost, in drops. `open_fee` fixes the price of the open ledger; without it the price rises once the ledger has
    more than `expected_size` transactions, with the square of their number."""

    base: int = 10
    reserve: int = 1_000_000
    increment: int = 200_000
    expected_size: int = 32
    open_fee: int | None = None

    def level(self, count: int) -> int:
        """The fee level that the next transaction needs after `count` others; 256 is the base fee."""
        if self.open_fee is not None:
            return self.open_fee * _BASE_LEVEL // self.base
        return _MULTIPLIER * count**2 // self.expected_size**2 if count > self.expected_size else _BASE_LEVEL

    def price(self, count: int) -> int:
        """The same in drops, rounded up."""
        return max(self.base, -(-self.level(count) * self.base // _BASE_LEVEL))


def check(transaction: Transaction, state: State, index: int, fees: Fees, expected: int | None = None) -> str | None:
    """Why a transaction cannot be applied to `state` in ledger `index`; None if it can.

    `expected` is the Sequence that comes next when others of the account wait in the queue; the account's own otherwise.
    """
    sender = state.get(transaction.account)
    if sender is None:
        return "terNO_ACCOUNT"
    last = transaction.last_ledger
    return (
        _check_sequence(transaction, sender, sender.sequence if expected is None else expected)
        or ("tefMAX_LEDGER" if last is not None and index > last else None)
        or ("telINSUF_FEE_P" if transaction.fee < fees.base else None)
        or ("terINSUF_FEE_B" if transaction.fee > sender.balance else None)
        or authorized(transaction, sender)
    )


def fits(transaction: Transaction, state: State) -> bool:
    """Whether it is the one that its account has to send next."""
    sender = state.get(transaction.account)
    return sender is not None and sender.sequence == transaction.sequence


@dataclass(slots=True)
class Pool:
    """The open ledger `index` over a closed state. `applied` are its transactions with their provisional results, by id."""

    index: int
    state: dict[str, AccountRoot]
    fees: Fees
    network_id: int
    applied: dict[bytes, tuple[Transaction, str]] = field(default_factory=dict[bytes, tuple[Transaction, str]])
    queue: dict[tuple[str, int], Transaction] = field(default_factory=dict[tuple[str, int], Transaction])
    held: dict[bytes, Transaction] = field(default_factory=dict[bytes, Transaction])

    @property
    def price(self) -> int:
        """The fee that gets the next transaction into this ledger."""
        return self.fees.price(len(self.applied))

    def waiting(self, account: str) -> dict[int, Transaction]:
        """The queued transactions of an account by Sequence."""
        return {seq: transaction for (owner, seq), transaction in sorted(self.queue.items()) if owner == account}

    def next_sequence(self, account: str) -> int:
        """The first number that neither the open ledger nor the queue has used."""
        number = self.state[account].sequence
        while (account, number) in self.queue:
            number += 1
        return number

    def offer(self, transaction: Transaction, *, may_wait: bool = True) -> str:
        """Apply, queue, hold or refuse a transaction that passed `preflight`; `may_wait` False: apply or refuse."""
        account = transaction.account
        expected = self.next_sequence(account) if account in self.state else None
        if transaction.id in self.applied:
            return "tefALREADY"
        refusal = check(transaction, self.state, self.index, self.fees, expected)
        if refusal is not None:
            if refusal == "terPRE_SEQ" and may_wait:
                self.held[transaction.id] = transaction
            return refusal
        if fits(transaction, self.state) and transaction.fee >= self.price:
            return self._apply(transaction)
        return self._enqueue(transaction) if may_wait else "telCAN_NOT_QUEUE"

    def succeed(self, state: State, again: list[Transaction]) -> "Pool":
        """The pool after a ledger closed with `state`; `again` are transactions of this one that the closed ledger does not have."""
        after = Pool(self.index + 1, dict(state), self.fees, self.network_id)
        for transaction in sorted([*again, *self.held.values()], key=lambda item: (item.account, item.sequence)):
            after.offer(transaction)
        for slot, transaction in self.queue.items():
            last = transaction.last_ledger
            if (last is None or last >= after.index) and not _is_past(transaction, after.state):
                after.queue.setdefault(slot, transaction)
        after.drain()
        return after

    def drain(self) -> None:
        """Move what can be paid for from the queue into the ledger, the dearest first."""
        while ready := [transaction for transaction in self.queue.values() if fits(transaction, self.state)]:
            best = max(ready, key=lambda item: (item.fee, item.id))
            if best.fee < self.price:
                return
            del self.queue[best.account, best.sequence]
            if check(best, self.state, self.index, self.fees) is None:
                self._apply(best)

    def _apply(self, transaction: Transaction) -> str:
        outcome = execute(transaction, self.state, self.index, self.fees.reserve)
        self.state.update((root.account, root) for root in outcome.changed)
        self.applied[transaction.id] = (transaction, outcome.result)
        self.queue.pop((transaction.account, transaction.sequence), None)
        self.held.pop(transaction.id, None)
        for held in [item for item in self.held.values() if item.account == transaction.account]:
            if held.sequence == self.next_sequence(held.account) and self.held.pop(held.id, None) is not None:
                self.offer(held)
        return outcome.result

    def _enqueue(self, transaction: Transaction) -> str:
        account, last = transaction.account, transaction.last_ledger
        others = self.waiting(account)
        replaced = others.pop(transaction.sequence, None)
        if last is not None and last < self.index + 2:
            return "telCAN_NOT_QUEUE"
        if replaced is not None and transaction.fee * 4 <= replaced.fee * 5:
            return "telCAN_NOT_QUEUE_FEE"
        if len(others) >= ACCOUNT_QUEUE_MAX or (replaced is None and len(self.queue) >= QUEUE_MAX):
            return "telCAN_NOT_QUEUE_FULL"
        if others and is_blocker(transaction):
            return "telCAN_NOT_QUEUE_BLOCKS"
        if any(map(is_blocker, others.values())):
            return "telCAN_NOT_QUEUE_BLOCKED"
        if others and sum(item.fee for item in others.values()) >= min(self.state[account].balance, self.fees.reserve):
            return "telCAN_NOT_QUEUE_BALANCE"
        self.queue[account, transaction.sequence] = transaction
        self.held.pop(transaction.id, None)
        for held in [item for item in self.held.values() if item.account == account]:
            if held.sequence == self.next_sequence(account) and self.held.pop(held.id, None) is not None:
                self.offer(held)
        return "terQUEUED"


def _check_sequence(transaction: Transaction, sender: AccountRoot, expected: int) -> str | None:
    ticket = transaction.fields.get("TicketSequence")
    if ticket is not None:
        return "tefNO_TICKET" if ticket < sender.sequence else "terPRE_TICKET"  # nobody has tickets here
    if transaction.sequence > expected:
        return "terPRE_SEQ"
    if transaction.sequence < sender.sequence:
        return "tefPAST_SEQ"
    # An account that does not keep its last transaction has none to compare with.
    return "tefWRONG_PRIOR" if transaction.fields.get("AccountTxnID", "").strip("0") else None


def _is_past(transaction: Transaction, state: State) -> bool:
    sender = state.get(transaction.account)
    return sender is None or transaction.sequence < sender.sequence
