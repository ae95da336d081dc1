"""One batch onto the ledger, exactly once, whatever fails: reliable submission of an AccountSet that does nothing but carry a memo.

`step` may be called again at any time, by any process, until it gives a final state; it never waits. What makes it exactly once:

* A transaction is stored before its first byte leaves, and only stored bytes are ever sent.
* All transactions of a batch have one Sequence, so the ledger itself applies at most one of them.
* A new one is signed only when the one before can never apply: it is in no ledger that it could be in, or these left its Sequence unused.
* A batch is confirmed by its own bytes, validated with tesSUCCESS, never by a server's word about a hash.

A server's "there is no such transaction" cannot be checked, therefore most of the servers must say it.
https://xrpl.org/docs/concepts/transactions/reliable-transaction-submission
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from nexus_attest.attestation.batch_tree import STATEMENT_TYPE, Statement
from nexus_attest.attestation.errors import LedgerUnavailable, NotATransaction, WrongNetwork
from nexus_attest.attestation.members import compact_utc
from nexus_attest.attestation.xrpl.codec import (
    address_of,
    decode_transaction,
    require_memos_fit,
    signing_payload,
    transaction_id,
    verify_payload,
)
from nexus_attest.attestation.xrpl.node import AccountState, Found, LedgerNode, LedgerNodes, Submission, ValidatedLedger
from nexus_attest.attestation.xrpl.sendings import Sendings
from nexus_attest.attestation.xrpl.signer import SignResult, XRPLSigner
from nexus_attest.attestation.xrpl.submission_store import Attempt, AttemptState, Batch, Slot, SlotState, SubmissionStore
from nexus_attest.key_errors import SignerFailed
from nexus_control.errors import InputError
from nexus_control.events import Clock, in_utc, utc_now

__all__ = ["SubmissionSettings", "Submitter"]

_FIRST_LISTED_NETWORK = 1025
"""From here on a transaction must name its network; with lower ones it must not (telNETWORK_ID_MAKES_TX_NON_CANONICAL)."""

_LEAST_WINDOW = 3
"""So many ledgers a transaction has, at the least, whichever of the servers that tell where the ledger is are right."""

_USUAL_LAG = 4
"""So many ledgers one server tells later than another, both honest: some 16 seconds."""

_MOST_BACK = 1000
"""More ledgers than a server is ever late: over an hour."""

_Told = TypeVar("_Told", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionSettings:
    """How to submit. `window`: ledgers that an attempt has, 5 to 20; `clock_skew`: seconds that a validated ledger may be off our clock.

    `expiry_answers`: so many servers must know nothing of a transaction before it counts as dead, and so many must tell where the ledger
    and the account are before one is signed; `confirm_answers`: so many must have it validated before it counts as done; never more than
    there are.
    """

    window: int = 15
    max_fee_drops: int = 5000
    clock_skew: float = 300.0
    expiry_answers: int | None = None
    confirm_answers: int | None = None

    def __post_init__(self) -> None:
        if type(self.window) is not int or not 5 <= self.window <= 20:
            raise InputError(f"window must be 5 to 20 ledgers, got {self.window!r:.100}")
        if type(self.max_fee_drops) is not int or not 1 <= self.max_fee_drops <= 2_000_000:
            raise InputError(f"max_fee_drops must be 1 to 2,000,000, got {self.max_fee_drops!r:.100}")
        for name in ("expiry_answers", "confirm_answers"):
            count: object = getattr(self, name)
            if count is not None and (type(count) is not int or count < 1):
                raise InputError(f"{name} must be at least 1, got {count!r:.100}")


class Submitter:
    """Brings batches of one account onto the ledger. Not safe to use from several tasks at once; several processes do no harm.

    `stopped` is why it signs nothing more: its key was refused, or the ledger took a fee for nothing. What was sent before is still
    followed, until it is `stalled`: then it would have to sign. Whoever has dealt with the cause makes a new one; it goes on by itself
    when the transaction is validated for which a server refused the key.
    """

    def __init__(
        self,
        store: SubmissionStore,
        nodes: LedgerNodes,
        signer: XRPLSigner,
        *,
        account: str | None = None,
        settings: SubmissionSettings | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.account = signer.account if account is None else account
        self.stopped: str | None = None
        self.stalled = False
        self._store = store
        self._nodes = nodes
        self._signer = signer
        self._settings = SubmissionSettings() if settings is None else settings
        self._clock = in_utc(clock)
        self._network: int | None = None
        self._sendings = Sendings(self._expiry_answers)
        self._key_refused: str | None = None  # the transaction for which the last of so many servers as must did not take the key
        self._taken: set[str] = set()  # attempts, by hash, whose Sequence looked taken when they were last asked about

    async def step(self, batch: Batch) -> SlotState | None:
        """Do what can be done now; the state of the batch's slot after it, None while it has none.

        Raises LedgerUnavailable when nothing was learned, WrongNetwork, SignerFailed when the signer gives no good signature, and what
        the signer raises; then nothing was decided, and a later call continues.
        """
        slot = self._store.slot(batch.batch_id)
        if slot is not None and slot.state is not SlotState.OPEN:
            return slot.state
        await self.network_id()
        if slot is not None:
            await self._follow(batch, slot, self._store.attempts(batch.batch_id)[-1])
        elif self.stopped is None:
            account = await self._account()
            await self._prepare(batch, self._store.next_free(self.account, account.sequence), account, n=1)
        slot = self._store.slot(batch.batch_id)
        return None if slot is None else slot.state

    async def _follow(self, batch: Batch, slot: Slot, last: Attempt) -> None:
        unsent = last.state is AttemptState.PREPARED  # found nowhere, and to ask for it says nothing before it has expired
        if unsent:
            last = await self._send(last)  # first of all: to ask may take as long as it has, and a copy that comes late does no harm
        told = await self._ledgers(least=1, lls=last.lls)
        index = told[-1] if len(told) < self._expiry_answers else told[self._expiry_answers - 1]
        expired = index > last.lls
        if unsent:
            self._sendings.sent_after(last, index)
        found, lacking = (None, None) if unsent and not expired else await self._find(last, expired=expired)
        if found is None:
            last = await self._maybe_send(last, index)
            if index < last.first - _MOST_BACK:
                lacking = f"the ledger is at {index}, long before those that the transaction is for: begun anew?"
            if lacking is not None and last.note != lacking:
                self._store.note(last.hash, lacking)
        elif found.engine_result is not None:
            self._validated_as(slot, last, found)
        else:
            await self._after_expiry(batch, slot, last)

    # -- what became of it ----------------------------------------------------------------------------------------------------

    async def _find(self, attempt: Attempt, *, expired: bool) -> tuple[Found | None, str | None]:
        """How an attempt ended, None while that is open; and what is lacking where servers say something that decides nothing."""
        dead_at = self._expiry_answers
        done_at = self._answers(self._settings.confirm_answers)

        def verdict(answers: list[Found]) -> Found | None:
            ends = [answer for answer in answers if answer.engine_result is not None]
            if (end := _agreed(((end.engine_result, end.ledger_index) for end in ends), done_at)) is not None:
                same = [answer for answer in ends if (answer.engine_result, answer.ledger_index) == end]
                ledger_hash = _agreed((answer.ledger_hash for answer in same), done_at)
                return replace(same[0], ledger_hash=ledger_hash, close_time=_agreed((answer.close_time for answer in same), done_at))
            # A server that alone says "validated" may lie as well as one that says "unknown": more of those outvote it.
            unknown = sum(answer.absent for answer in answers)
            dead = expired and len(ends) < done_at and unknown >= dead_at and unknown > len(ends)
            return Found(searched_all=True) if dead else None

        def enough(answers: list[Found]) -> bool:
            ends = any(answer.engine_result for answer in answers)
            found = verdict(answers)
            if found is None:
                return not (expired or ends)
            return found.engine_result is not None or not ends  # where somebody says "validated", all are heard before it is dead

        answers = await self._nodes.ask_each(partial(self._look, attempt, expired), enough, turn=self._sendings.turn(attempt))
        found, ends = verdict(answers), [answer for answer in answers if answer.engine_result is not None]
        if found is not None or not (ends or expired):
            return found, None
        if not ends:
            lacking = f"expired; unknown to {sum(answer.absent for answer in answers)} of {dead_at} servers that must say so"
            if any(answer.unused is False for answer in answers):
                lacking += (
                    f"; its Sequence is used, by what only ledgers {attempt.first} to {attempt.lls} show: name servers that keep them"
                )
            return None, lacking
        if len(ends) < done_at:
            return None, f"validated by {len(ends)} of {done_at} servers that must say so"
        return None, f"validated; servers differ in {'the result' if len({end.engine_result for end in ends}) > 1 else 'where'}"

    async def _look(self, attempt: Attempt, expired: bool, node: LedgerNode) -> Found:
        """What a server knows of an attempt.

        One that has dropped ledgers which it can be in is asked for the account after it has expired. Had the attempt been applied, with
        whatever result, its Sequence would be used; and it never comes back, for an account that is deleted and made anew begins at the
        number of a ledger, which is larger. So an unused one in a ledger after the last says as much as a search of all.
        """
        found = await node.find(attempt.blob, attempt.first, attempt.lls)
        if not expired or found.engine_result is not None or found.searched_all:
            return found
        account = await node.account(self.account)
        if account is None or account.ledger_index <= attempt.lls:
            return found
        return replace(found, unused=account.sequence <= attempt.seq)

    def _validated_as(self, slot: Slot, attempt: Attempt, found: Found) -> None:
        good = found.engine_result == "tesSUCCESS"
        self._finish(
            slot,
            attempt,
            AttemptState.VALIDATED,
            SlotState.CONFIRMED if good else SlotState.CLAIMED_FEE,
            result=found.engine_result,
            ledger=found.ledger_index,
            ledger_hash=found.ledger_hash,
            close_time=found.close_time,
        )
        if self._key_refused == attempt.hash:
            self.stopped, self.stalled = None, False  # the servers that did not take the key were wrong
        if not good:
            self.stopped = f"transaction {attempt.hash} cost its fee and witnessed nothing: {found.engine_result}"

    async def _after_expiry(self, batch: Batch, slot: Slot, attempt: Attempt) -> None:
        account = await self._account()
        looked_taken = attempt.hash in self._taken
        self._taken.discard(attempt.hash)
        if account.sequence > slot.seq:
            # Either somebody else used the number, or a server that said "not found" was wrong: look once more before believing it.
            if looked_taken:
                self._finish(slot, attempt, AttemptState.EXPIRED, SlotState.SEQUENCE_TAKEN)
            else:
                self._taken.add(attempt.hash)
        elif attempt.state is AttemptState.REFUSED:
            self._finish(slot, attempt, AttemptState.EXPIRED, SlotState.REJECTED)
            self.stopped = f"the ledger refused transaction {attempt.hash}: {attempt.note}"
        elif account.sequence < slot.seq:
            # A server told too high a Sequence, or what had the one before ended without using it: with this one it would wait for ever.
            self._finish(slot, attempt, AttemptState.EXPIRED, SlotState.REJECTED)
        elif self.stopped is None:
            await self._prepare(batch, slot.seq, account, n=attempt.n + 1)
            self._sendings.forget(attempt, key_taken=False)
        else:
            self.stalled = True

    def _finish(self, slot: Slot, attempt: Attempt, state: AttemptState, slot_state: SlotState, **told: Any) -> None:
        self._store.finish(slot.batch_id, attempt.hash, state, slot_state, compact_utc(self._clock), **told)
        self._sendings.forget(attempt, key_taken=state is AttemptState.VALIDATED)

    # -- sending --------------------------------------------------------------------------------------------------------------

    async def _maybe_send(self, attempt: Attempt, index: int) -> Attempt:
        """Send the stored bytes where that is due; the attempt as it then stands."""
        if not self._sendings.is_due(attempt, index):
            return attempt
        attempt = await self._send(attempt)
        self._sendings.sent_after(attempt, index)
        return attempt

    async def _send(self, attempt: Attempt) -> Attempt:
        """Send the stored bytes; stops once so many servers do not take the key as must know nothing of a dead transaction."""
        if attempt.state is AttemptState.PREPARED:
            # Before the first byte leaves: after a crash, "malformed" must not be taken for the verdict on a first copy.
            self._store.mark(attempt.hash, AttemptState.MAYBE, "sending")
        url, answer = await self._nodes.ask(partial(_hand_over, attempt.blob), turn=self._sendings.turn(attempt))
        state = self._sendings.answered(attempt, url, answer)
        self._store.mark(attempt.hash, state, answer.engine_result)
        if self._sendings.is_key_refused(attempt, url, answer):
            self._key_refused = attempt.hash
            self.stopped = f"the ledger does not take the key {attempt.key_id} for {self.account}: {answer.engine_result}"
        return replace(attempt, state=state, note=answer.engine_result)

    # -- signing --------------------------------------------------------------------------------------------------------------

    async def _prepare(self, batch: Batch, seq: int, account: "_Account", *, n: int) -> None:
        """Sign and store. Nothing leaves this machine."""
        network_id = await self.network_id()
        count = self._expiry_answers
        fees = await self._nodes.ask_for_most(lambda node: node.fee(), int, count, least=count)
        fee = min(fees[count - 1], self._settings.max_fee_drops)
        index = await self._index()  # last, so that slow answers take nothing of the time that the transaction has
        memo = {"MemoType": STATEMENT_TYPE.encode().hex().upper()}
        memo["MemoData"] = Statement(bytes.fromhex(batch.root), batch.size).to_bytes().hex().upper()
        fields: dict[str, Any] = {
            "TransactionType": "AccountSet",
            "Account": self.account,
            "Memos": [{"Memo": memo}],
            "Sequence": seq,
            "Fee": str(fee),
            "LastLedgerSequence": index + self._settings.window,
        }
        if network_id >= _FIRST_LISTED_NETWORK:
            fields["NetworkID"] = network_id
        signed = self._signer.sign(dict(fields))
        key_id = _require_signed(fields, signed, account)
        attempt = Attempt(
            hash=signed.tx_hash.upper(),
            batch_id=batch.batch_id,
            n=n,
            blob=signed.signed_tx_blob_hex.upper(),
            seq=seq,
            lls=fields["LastLedgerSequence"],
            first=index + 1,
            key_id=key_id,
        )
        self._store.prepare(attempt, self.account)

    async def network_id(self) -> int:
        """The network of the servers, asked once. Another than before knows nothing of our transactions, and would call them dead.

        Where none is known, as many servers must say it as must call a transaction dead: it is stored for ever. Raises LedgerUnavailable
        when fewer do, WrongNetwork.
        """
        if self._network is None:
            known = self._store.network_id(self.account)
            network_id = await self._nodes.network_id(least=self._expiry_answers if known is None else 1)
            if known is not None and known != network_id:
                raise WrongNetwork(f"this queue is witnessed on network {known}, the servers belong to network {network_id}")
            self._network = network_id
        return self._network

    async def _index(self) -> int:
        """Where the window of a transaction begins: the largest index that so many servers tell at least as must call it dead.

        From a larger one on they would find nothing where the transaction can be, and call it dead while it is on the ledger. From one
        long past they could not even say that, for want of history. Raises LedgerUnavailable where too few servers are near each other.
        """
        count = self._expiry_answers
        told = await self._ledgers(least=count)
        index = told[count - 1]
        if sum(abs(other - index) <= self._settings.window - _LEAST_WINDOW for other in told) < count:
            raise LedgerUnavailable(f"servers differ in where the ledger is: {', '.join(map(str, told))}")
        return index

    async def _ledgers(self, *, least: int, lls: int | None = None) -> list[int]:
        """The newest final ledgers that servers tell, at least so many of them, the largest first; see `LedgerNodes.ask_for_most`.

        Another server, which may be slow, is asked only when they differ by more than servers do, or in whether that one is past `lls`.
        """

        def size(ledger: ValidatedLedger) -> int:
            return ledger.index + (_MOST_BACK if lls is not None and ledger.index > lls else 0)

        near = min(_USUAL_LAG, self._settings.window - _LEAST_WINDOW)
        told = await self._nodes.ask_for_most(self._fresh, size, self._expiry_answers, least=least, near=near)
        return [ledger.index for ledger in told]

    async def _fresh(self, node: LedgerNode) -> ValidatedLedger:
        """The newest final ledger. One far from our clock is refused: too old a one gives a deadline that has passed, a wrong one none."""
        ledger = await node.validated()
        off = (self._clock() - ledger.close_time).total_seconds()
        if abs(off) > self._settings.clock_skew:
            raise LedgerUnavailable(f"{node.url}: validated ledger {ledger.index} closed {off:.0f} seconds before our clock")
        return ledger

    @property
    def _expiry_answers(self) -> int:
        return self._answers(self._settings.expiry_answers)

    def _answers(self, wanted: int | None) -> int:
        servers = len(self._nodes)
        return servers // 2 + 1 if wanted is None else min(wanted, servers)

    async def _account(self) -> "_Account":
        """The account with the largest Sequence that so many servers tell at least: after a larger one, its transactions wait for ever."""
        count = self._expiry_answers
        told = await self._nodes.ask_for_most(lambda node: node.account(self.account), _sequence, count, least=count)
        known = [account for account in told if account is not None]
        if len(known) < count:
            raise LedgerUnavailable(f"the account {self.account} does not exist on this network; fund it")
        return _Account(known[count - 1].sequence, tuple(known))


@dataclass(frozen=True, slots=True)
class _Account:
    """The account: its next Sequence, and all that servers tell of it."""

    sequence: int
    told: tuple[AccountState, ...]

    def lets_sign(self, signer: str, address: str) -> bool:
        """Whether any server says that this address may sign; where it may not, the ledger refuses what it signed."""
        return any(signer == one.regular_key or (signer == address and not one.master_disabled) for one in self.told)


def _sequence(account: AccountState | None) -> int:
    """By which accounts are compared; one that does not exist is the smallest."""
    return -1 if account is None else account.sequence


async def _hand_over(blob: str, node: LedgerNode) -> tuple[str, Submission]:
    """What a server says of a transaction, and which one said it."""
    return node.url, await node.submit(blob)


def _agreed(told: Iterable[_Told | None], least: int) -> _Told | None:
    """What at least so many tell; None when there is no such thing, or more than one."""
    often = [one for one, times in Counter(told).items() if one is not None and times >= least]
    return often[0] if len(often) == 1 else None


def _require_signed(planned: dict[str, Any], signed: SignResult, account: _Account) -> str:
    """The public key that signed. Raises SignerFailed unless these are the planned fields, signed by a key of the account, in one form."""
    try:
        blob = bytes.fromhex(signed.signed_tx_blob_hex)
        fields = decode_transaction(blob)
        require_memos_fit(fields)
        key, signature = fields.pop("SigningPubKey", ""), fields.pop("TxnSignature", "")
        payload = signing_payload({**fields, "SigningPubKey": key})
        signer = address_of(key)
    except (NotATransaction, ValueError) as problem:
        raise SignerFailed(f"the signer gave no transaction: {problem}") from None
    if fields != planned:
        raise SignerFailed("the signer gave another transaction than the one that it was to sign")
    if transaction_id(blob) != signed.tx_hash.upper():
        raise SignerFailed("the signer gave a hash that is not that of its transaction")
    if not verify_payload(key, payload, bytes.fromhex(signature)):
        raise SignerFailed("the signer gave a signature that is not one of its key")
    if not account.lets_sign(signer, planned["Account"]):
        raise SignerFailed(f"the key {key} may not sign for {planned['Account']}")
    return key
