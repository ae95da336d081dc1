"""What the submission loop asks servers of the ledger, in API version 2, and how it lives with servers that do not answer.

Every answer is either understood completely or tells nothing: a lost connection, an overloaded server and an answer of another shape are
all LedgerUnavailable, and the server is left alone for a while. What a server says is its word; `found` checks what can be checked.
"""

import random
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from nexus_attest.attestation.errors import LedgerUnavailable, NotATransaction, WrongNetwork
from nexus_attest.attestation.xrpl.codec import decode_object, transaction_id
from nexus_attest.attestation.xrpl.transport import HttpxTransport, JsonRpcTransport
from nexus_control.events import Clock, in_utc, utc_now

__all__ = ["AccountState", "Found", "LedgerNode", "LedgerNodes", "Submission", "ValidatedLedger"]

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_HASH = re.compile("[0-9A-F]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_RESULT = re.compile("[A-Za-z_]{3,64}")
_DISABLE_MASTER = 0x00100000

_MOST = 2**32 - 1
"""Of a number in a transaction: Sequence, flags, network, the index of a ledger."""

_MOST_DROPS = 10**17
"""Of which there are no more."""

_MOST_INDEX = 2**31
"""In 270 years, with a ledger every 4 seconds; so there is a number for every ledger that one is waited for to follow."""

_MOST_META_BYTES = 8 * 1024
"""Of the metadata of a transaction that changes one account: some hundred. The codec takes a second over so many, over a megabyte hours."""

_OF_REQUEST = frozenset({"actNotFound", "txnNotFound", "invalidTransaction"})
"""Errors that answer the question; any other tells nothing."""

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_SLOW_SECONDS = 5.0
"""For one answer. Signing takes several, and what was signed must get into one of the next ledgers, of which one closes every 4 seconds."""

_SLOW_FOR = timedelta(minutes=10)
"""So long a server that was slow is asked last: it may be slow in one thing and quick in all others."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValidatedLedger:
    """The newest ledger that a server knows to be final."""

    index: int
    close_time: datetime


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account in the newest validated ledger, which is `ledger_index`: its next Sequence, and whose keys may sign for it."""

    sequence: int
    regular_key: str | None
    master_disabled: bool
    ledger_index: int


@dataclass(frozen=True, slots=True)
class Submission:
    """What a server says at once. `refused`: it could not even be looked at. Neither is a promise."""

    engine_result: str
    applied: bool
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a server knows of a transaction: validated when there is an `engine_result`.

    `searched_all` is only ever true for one that is not there. `unused`, where that was asked: whether a ledger after all that it can be
    in has its Sequence still unused, so that it is in none of them either, although the server has dropped some.
    """

    engine_result: str | None = None
    ledger_index: int = 0
    ledger_hash: str | None = None
    close_time: str | None = None
    searched_all: bool = False
    unused: bool | None = None

    @property
    def absent(self) -> bool:
        """Whether the server says that it is in none of the ledgers that it can be in."""
        return self.searched_all or self.unused is True


class LedgerNode:
    """One server. Every method raises LedgerUnavailable when nothing was learned."""

    def __init__(self, url: str, transport: JsonRpcTransport | None = None) -> None:
        self.url = url
        self._transport = HttpxTransport() if transport is None else transport

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        """The `result` of a request, errors that answer the question included."""
        payload = {"method": method, "params": [{"api_version": 2, **params}], "id": 1}
        try:
            answer: object = await self._transport.post_json(self.url, payload)
        except Exception as problem:  # foreign code: whatever it raises, there is no answer
            raise LedgerUnavailable(f"{self.url}: {method}: {type(problem).__name__}") from None
        result = _object(_object(answer).get("result"))
        error = result.get("error")
        if not result or (error is None) != (result.get("status") == "success") or not isinstance(error, str | None):
            raise LedgerUnavailable(f"{self.url}: {method}: an answer of another shape")
        if error is not None and error not in _OF_REQUEST:
            raise LedgerUnavailable(f"{self.url}: {method}: {error:.100}")
        return result

    async def network_id(self) -> int:
        """The number of its network; 0 (mainnet's) from old servers, which do not say."""
        info = _object((await self.request("server_info")).get("info"))
        return _number(info.get("network_id", 0), "network_id")

    async def validated(self) -> ValidatedLedger:
        """The newest ledger that it knows to be final."""
        result = await self.request("ledger", ledger_index="validated")
        if result.get("validated") is not True:
            raise LedgerUnavailable(f"{self.url}: no validated ledger")
        close_time = _number(_object(result.get("ledger")).get("close_time"), "close_time")
        index = _number(result.get("ledger_index"), "ledger_index", _MOST_INDEX)
        return ValidatedLedger(index, _EPOCH + timedelta(seconds=close_time))

    async def account(self, account: str) -> AccountState | None:
        """The account in the newest validated ledger; None when it does not exist."""
        result = await self.request("account_info", account=account, ledger_index="validated")
        if result.get("error") == "actNotFound":
            return None
        data = _object(result.get("account_data"))
        if result.get("validated") is not True or data.get("Account") != account:
            raise LedgerUnavailable(f"{self.url}: account_info: not what was asked for")
        regular = data.get("RegularKey")
        flags = _number(data.get("Flags", 0), "Flags")
        return AccountState(
            _number(data.get("Sequence"), "Sequence"),
            regular if isinstance(regular, str) else None,
            bool(flags & _DISABLE_MASTER),
            _number(result.get("ledger_index"), "ledger_index"),
        )

    async def fee(self) -> int:
        """Drops that get a transaction into the open ledger."""
        drops = _object((await self.request("fee")).get("drops"))
        return max(_number(drops.get(name), name, _MOST_DROPS) for name in ("base_fee", "open_ledger_fee"))

    async def submit(self, blob: str) -> Submission:
        """Hand over a signed transaction, in hex."""
        result = await self.request("submit", tx_blob=blob)
        if result.get("error") == "invalidTransaction":
            return Submission("invalidTransaction", applied=False, refused=True)
        engine_result = result.get("engine_result")
        if not isinstance(engine_result, str) or not _RESULT.fullmatch(engine_result) or "error" in result:
            raise LedgerUnavailable(f"{self.url}: submit: an answer of another shape")
        return Submission(engine_result, applied=result.get("applied") is True)

    async def find(self, blob: str, first: int, last: int) -> Found:
        """What it knows of a signed transaction (in hex) in the ledgers from `first` to `last`.

        An answer about other bytes, or about a ledger after these, tells nothing. In one before `first`, which is only our guess of where
        they begin, the same bytes are the same transaction.
        """
        wanted = transaction_id(bytes.fromhex(blob))
        result = await self.request("tx", transaction=wanted, binary=True, min_ledger=first, max_ledger=last)
        if result.get("error") == "txnNotFound":
            return Found(searched_all=result.get("searched_all") is True)
        if result.get("validated") is not True:
            return Found()
        told, meta = (_hex(result.get(new, result.get(old))) for new, old in (("tx_blob", "tx"), ("meta_blob", "meta")))
        if told.hex() != blob.lower():
            raise LedgerUnavailable(f"{self.url}: tx: another transaction than the one that was asked for")
        index = _number(result.get("ledger_index"), "ledger_index")
        if len(meta) > _MOST_META_BYTES:
            raise LedgerUnavailable(f"{self.url}: tx: metadata of {len(meta)} bytes")
        try:
            engine_result = decode_object(meta).get("TransactionResult")
        except NotATransaction:
            engine_result = None
        if index > last or not isinstance(engine_result, str):
            raise LedgerUnavailable(f"{self.url}: tx: a transaction where it cannot be")
        ledger_hash, close_time = result.get("ledger_hash"), result.get("close_time_iso")
        return Found(
            engine_result,
            index,
            ledger_hash if isinstance(ledger_hash, str) and _HASH.fullmatch(ledger_hash) else None,
            close_time if isinstance(close_time, str) and _TIME.fullmatch(close_time) else None,
        )


class LedgerNodes:
    """Several servers of one network, best of different operators. One that fails is left alone, longer each time, up to a minute.

    With `network_id` they must be servers of that network: one that says another number is as one that fails, and when most of them do,
    that is WrongNetwork. Without, any two that differ are.
    """

    def __init__(
        self,
        nodes: Sequence[LedgerNode],
        *,
        network_id: int | None = None,
        clock: Clock = utc_now,
        jitter: Callable[[], float] = random.random,
        first_wait: float = _FIRST_WAIT_SECONDS,
    ) -> None:
        if not nodes:
            raise LedgerUnavailable("no server of the ledger is configured")
        self._places = [_Place(node) for node in nodes]
        self._expected = network_id
        self._clock = in_utc(clock)
        self._jitter = jitter
        self._first_wait = first_wait

    def __len__(self) -> int:
        return len(self._places)

    @property
    def strangers(self) -> list[str]:
        """Of each server that says another network than it must, and is therefore not asked: which."""
        return [f"{place.node.url} belongs to network {place.stranger}" for place in self._places if place.stranger is not None]

    async def network_id(self, *, least: int = 1) -> int:
        """The number of their network, which at least so many say. Raises WrongNetwork when they do not agree."""
        await self.ask_for_most(_of_our_network, int, least, least=least)
        (network_id,) = {place.network_id for place in self._places if place.network_id is not None}
        return network_id

    async def ask(self, call: Callable[[LedgerNode], Awaitable[T]], *, turn: int = 0) -> T:
        """The first answer. Raises LedgerUnavailable when no server gives any, at once when all are being left alone.

        With each `turn` the question goes to another server first, quick or slow: the only quick one may be the one that lies.
        """
        last = "every server is being left alone for a while"
        for place in self._ready(turn):
            try:
                return await self._call(place, call)
            except LedgerUnavailable as problem:
                last = str(problem)
        raise LedgerUnavailable(last)

    async def ask_for_most(
        self, call: Callable[[LedgerNode], Awaitable[T]], size: Callable[[T], int], count: int, *, least: int, near: int = 0
    ) -> list[T]:
        """Answers by `size`, the largest first: the one with number `count` is the most that so many servers tell at least.

        Servers are asked until that one is no more than `near` from the largest, so where most are honest a liar moves it by no more
        than that, in either direction. Raises LedgerUnavailable when fewer than `least` answer.
        """
        answers: list[T] = []
        last = "every other server is being left alone for a while"
        for place in self._ready():
            try:
                answers.append(await self._call(place, call))
            except LedgerUnavailable as problem:
                last = str(problem)
                continue
            answers.sort(key=size, reverse=True)
            if len(answers) >= count and size(answers[0]) - size(answers[count - 1]) <= near:
                return answers
        if len(answers) < least:
            raise LedgerUnavailable(f"{len(answers)} of {least} servers answered that must before anything is signed: {last}")
        return answers

    async def ask_each(self, call: Callable[[LedgerNode], Awaitable[T]], enough: Callable[[list[T]], bool], *, turn: int = 0) -> list[T]:
        """The answers of one server after the other, until they are enough; fewer, and none, when servers do not answer."""
        answers: list[T] = []
        for place in self._ready(turn):
            try:
                answers.append(await self._call(place, call))
            except LedgerUnavailable:
                continue
            if enough(answers):
                break
        return answers

    def _ready(self, turn: int = 0) -> list["_Place"]:
        """Those that may be asked: at turn 0 the slow ones last, then beginning with another one at each turn."""
        now = self._clock()
        first = turn % len(self._places)
        ready = [place for place in (*self._places[first:], *self._places[:first]) if place.is_ready(now)]
        return ready if turn else sorted(ready, key=lambda place: place.is_slow(now))

    async def _call(self, place: "_Place", call: Callable[[LedgerNode], Awaitable[T]]) -> T:
        started = self._clock()
        try:
            if place.network_id is None:
                self._note_network(place, await place.node.network_id())
            networks = {other.network_id for other in self._places} - {None}
            if len(networks) > 1:
                raise WrongNetwork(f"the servers belong to different networks: {', '.join(map(str, sorted(cast('set[int]', networks))))}")
            answer = await call(place.node)
        except LedgerUnavailable:
            place.took(started, self._clock())
            wait = min(_LONGEST_WAIT_SECONDS, self._first_wait * 2 ** min(place.failures, 16)) * (0.5 + self._jitter() / 2)
            place.failures += 1
            place.not_before = self._clock() + timedelta(seconds=wait)
            raise
        place.failures, place.not_before = 0, None
        place.took(started, self._clock())
        return answer

    def _note_network(self, place: "_Place", network_id: int) -> None:
        """Remember the network of a server, unless it is another one than it must be."""
        if self._expected in (None, network_id):
            place.network_id, place.stranger = network_id, None
            return
        place.stranger = network_id
        problem = f"{place.node.url} belongs to network {network_id}, not to network {self._expected}"
        if 2 * len(self.strangers) > len(self):
            raise WrongNetwork(problem)
        raise LedgerUnavailable(problem)


class _Place:
    """A server and how it did lately."""

    __slots__ = ("failures", "network_id", "node", "not_before", "slow_until", "stranger")

    def __init__(self, node: LedgerNode) -> None:
        self.node = node
        self.failures = 0
        self.not_before: datetime | None = None
        self.network_id: int | None = None
        self.slow_until: datetime | None = None
        self.stranger: int | None = None  # the number of its network, where that is another one than it must be

    def took(self, started: datetime, now: datetime) -> None:
        """Note how long it took to answer, or not to."""
        if (now - started).total_seconds() > _SLOW_SECONDS:
            self.slow_until = now + _SLOW_FOR

    def is_slow(self, now: datetime) -> bool:
        """Whether it was slow lately."""
        return self.slow_until is not None and now < self.slow_until <= now + _SLOW_FOR

    def is_ready(self, now: datetime) -> bool:
        """Whether it may be asked; also when the clock was set back since it failed."""
        return self.not_before is None or not now < self.not_before <= now + timedelta(seconds=_LONGEST_WAIT_SECONDS)


async def _of_our_network(_: LedgerNode) -> int:
    """Nothing more is asked than every server is before its first question."""
    return 0


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _number(value: object, name: str, most: int = _MOST) -> int:
    """A natural number up to `most`; some servers write some of them as text."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 0 <= value <= most:
        raise LedgerUnavailable(f"{name} is no number from 0 to {most}")
    return value


def _hex(value: object) -> bytes:
    try:
        return bytes.fromhex(cast("str", value))
    except (TypeError, ValueError):
        raise LedgerUnavailable("an answer of another shape") from None
