"""Listens to validators: keeps their votes while servers send them, and the lists and manifests that say who they are.

It must run before a transaction is sent, since votes are sent once and kept by nobody. It records; whether enough validators of a believed
list voted is for the verifier. Kept is what is signed by the key that it names, and, once a list is known, only of listed validators. When
a server goes away it is asked again after a while, longer each time, up to a minute; several servers record independently.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, cast

from nexus_attest.attestation.errors import LedgerUnavailable, ProofRefused
from nexus_attest.attestation.xrpl.codec import node_key
from nexus_attest.attestation.xrpl.node import LedgerNodes
from nexus_attest.attestation.xrpl.proof_store import ProofStore
from nexus_attest.attestation.xrpl.transport import fetch
from nexus_attest.attestation.xrpl.validators import (
    MAX_VALIDATORS,
    Manifest,
    Validation,
    ValidatorList,
    base64_bytes,
    hex_bytes,
    published_lists,
)
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.json_data import decode_json

__all__ = ["ValidationRecorder"]

_SUBSCRIBE = json.dumps({"id": 1, "command": "subscribe", "streams": ["validations"], "api_version": 2})
_MAX_MESSAGE_BYTES = 256 * 1024
_MAX_LIST_BYTES = 4 * 1024 * 1024
_MAX_VOTE_BYTES = 4 * 1024
_MOST_VOTES_PER_LEDGER = 1000
"""Of validators of whom nobody knows whether they matter."""

_QUIET_SECONDS = 0.25
"""Votes come in bursts: after so long a silence they are stored."""
_MOST_PENDING = 100
_DEAD_SECONDS = 60.0
"""A ledger closes every few seconds; a stream that is silent for so long is none."""

_MOST_LEDGERS = 1000
_KEEP_UP_SECONDS = 1.0
_MAX_MANIFEST_BYTES = 1024

_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_HOUR = 3600.0


class ValidationRecorder:
    """Records the votes of some servers, by the URLs of their WebSocket doors, until it is stopped.

    `lists`: where publishers serve their lists; with `publisher_keys` only theirs are kept. `nodes` are asked for manifests of validators
    that changed their key. Votes for ledgers without a transaction of ours are dropped after `keep_hours`. `problems` says, by URL, why
    one cannot be heard or read at the moment, `recorded` how many votes were heard.
    """

    def __init__(
        self,
        store: ProofStore,
        streams: Sequence[str],
        *,
        lists: Sequence[str] = (),
        publisher_keys: Sequence[str] = (),
        nodes: LedgerNodes | None = None,
        keep_hours: float = 6.0,
        list_hours: float = 24.0,
        clock: Clock = utc_now,
        jitter: Callable[[], float] = random.random,
        get: Callable[[str, int], Awaitable[bytes]] = fetch,
    ) -> None:
        self.problems: dict[str, str] = {}
        self.recorded: Counter[str] = Counter()
        self._store = store
        self._streams = tuple(streams)
        self._lists = tuple(lists)
        self._publisher_keys = frozenset(publisher_keys)
        self._nodes = nodes
        self._keep_seconds = keep_hours * _HOUR
        self._list_seconds = list_hours * _HOUR
        self._clock = in_utc(clock)
        self._jitter = jitter
        self._get = get
        self._signing: set[str] = set()  # keys of listed validators
        self._masters: dict[str, str] = {}  # by their names in messages
        self._unknown: dict[str, None] = {}  # keys whose manifests are to be asked for
        self._asked: set[str] = set()
        self._seen: Counter[int] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop` is set. Raises StoreError when the database cannot do its work."""
        await self.refresh_lists()
        tasks = [asyncio.create_task(self._listen(url)) for url in self._streams]
        tasks += [asyncio.create_task(self._keep_up()), asyncio.create_task(_stopped(stop))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh_lists(self) -> None:
        """Get the lists of all publishers, keep those that are signed, and learn whose votes matter."""
        for url in self._lists:
            try:
                await self._refresh(url)
            except LedgerUnavailable as problem:
                self.problems[url] = str(problem)
            else:
                self.problems.pop(url, None)
        self._learn()

    async def _refresh(self, url: str) -> None:
        from httpx import HTTPError, InvalidURL  # loaded where it is used

        try:
            content: object = decode_json((await self._get(url, _MAX_LIST_BYTES)).decode())
            for published in published_lists(content):
                checked = ValidatorList.from_published(published)
                if self._publisher_keys and checked.publisher not in self._publisher_keys:
                    raise ProofRefused(f"a list of {checked.publisher}, which is not a pinned publisher")
                self._store.add_list(published, checked, now=self._now())
        except (HTTPError, InvalidURL, OSError, ValueError) as problem:
            raise LedgerUnavailable(f"{type(problem).__name__}: {problem}") from None

    def _learn(self) -> None:
        """Read from the store who is listed, and by which keys they sign."""
        for published in self._store.lists():
            known = ValidatorList.from_published(published)
            for master, data in known.manifests.items():
                self._masters[node_key(master)] = master
                with suppress(ProofRefused):
                    self._signing.add(Manifest.from_bytes(data).signing)
        self._signing.update(Manifest.from_bytes(data).signing for data in self._store.manifests())

    # -- votes ----------------------------------------------------------------------------------------------------------------

    async def _listen(self, url: str) -> None:
        """Stay connected to one server."""
        from websockets.asyncio.client import connect  # loaded where it is used
        from websockets.exceptions import WebSocketException

        failures = 0
        while True:
            before = self.recorded[url]
            try:
                async with connect(url, max_size=_MAX_MESSAGE_BYTES, close_timeout=1) as connection:
                    await connection.send(_SUBSCRIBE)
                    await self.hear(url, connection.recv)
            except (OSError, ValueError, WebSocketException) as problem:  # ValueError: a host or port that cannot exist
                self.problems[url] = f"{type(problem).__name__}: {problem}"
            failures = 0 if self.recorded[url] > before else failures + 1
            wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(failures, 16))
            await asyncio.sleep(wait * (0.5 + self._jitter() / 2))

    async def hear(self, url: str, receive: Callable[[], Awaitable[str | bytes]]) -> None:
        """Keep the votes that one server sends, until it is silent for too long (TimeoutError) or `receive` raises."""
        since, silent, pending = self._now(), 0.0, list[tuple[Validation, bytes]]()
        try:
            while silent < _DEAD_SECONDS:
                try:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        message = await receive()
                except TimeoutError:
                    silent += _QUIET_SECONDS
                    self._keep(url, since, pending)
                    continue
                silent = 0.0
                vote = self.vote_in(message)
                if vote is not None:
                    pending.append(vote)
                if len(pending) >= _MOST_PENDING:
                    self._keep(url, since, pending)
        finally:
            self._keep(url, since, pending)
        raise TimeoutError(f"nothing was heard for {_DEAD_SECONDS:.0f} seconds")

    def _keep(self, url: str, since: float, pending: list[tuple[Validation, bytes]]) -> None:
        if pending:
            self._store.add_votes(pending, url=url, since=since, now=self._now())
            self.recorded[url] += len(pending)
            self.problems.pop(url, None)
            pending.clear()

    def vote_in(self, message: str | bytes) -> tuple[Validation, bytes] | None:
        """The vote in a message with its bytes; None for any other message, for a vote that is none, and for one of nobody who matters."""
        try:
            told: object = json.loads(message)
            if not isinstance(told, dict):
                return None
            members = cast("dict[str, Any]", told)
            if members.get("type") != "validationReceived":
                return None
            data = hex_bytes(members.get("data"), _MAX_VOTE_BYTES, "data")
            vote = Validation.from_bytes(data)
        except (ValueError, RecursionError):
            return None
        if not self._matters(vote, members.get("master_key")) or not vote.is_signed():
            return None
        return vote, data

    def _matters(self, vote: Validation, master: object) -> bool:
        """Whether it is by a listed validator. One that is said to be, with a key of which no list knows, is asked for."""
        if vote.signing in self._signing:
            return True
        if self._masters:
            if not isinstance(master, str) or master not in self._masters or vote.signing in self._asked:
                return False
            if len(self._unknown) < MAX_VALIDATORS:
                self._unknown[vote.signing] = None
        return self._is_few(vote.ledger_index)

    def _is_few(self, ledger_index: int) -> bool:
        """Bounds what is kept of validators of whom nobody knows whether they matter."""
        if ledger_index not in self._seen and len(self._seen) >= _MOST_LEDGERS:
            self._seen.clear()
        self._seen[ledger_index] += 1
        return self._seen[ledger_index] <= _MOST_VOTES_PER_LEDGER

    # -- beside it ------------------------------------------------------------------------------------------------------------

    async def _keep_up(self) -> None:
        """Ask for manifests, look for new lists, forget old votes."""
        refreshed = dropped = self._now()
        while True:
            await asyncio.sleep(_KEEP_UP_SECONDS)
            await self.learn_manifests()
            if self._now() - refreshed >= self._list_seconds:
                refreshed = self._now()
                await self.refresh_lists()
            if self._now() - dropped >= _HOUR:
                dropped = self._now()
                self._store.drop_votes(dropped - self._keep_seconds)

    async def learn_manifests(self) -> None:
        """Ask servers for the manifests of validators that vote with a key that no list knows."""
        while self._unknown and self._nodes is not None:
            signing = next(iter(self._unknown))
            try:
                await self._learn_manifest(self._nodes, signing)
            except LedgerUnavailable:
                return  # later
            except ProofRefused:
                pass  # no server has a manifest for this key: its votes will not count
            del self._unknown[signing]
            self._asked.add(signing)

    async def _learn_manifest(self, nodes: LedgerNodes, signing: str) -> None:
        name = node_key(signing)
        answer = await nodes.ask(lambda node: node.request("manifest", public_key=name))
        data = base64_bytes(answer.get("manifest"), _MAX_MANIFEST_BYTES, "manifest")
        manifest = Manifest.from_bytes(data)
        manifest.require_signed()
        if manifest.signing == signing and manifest.master in self._masters.values():
            self._store.add_manifest(manifest, data, now=self._now())
            self._signing.add(signing)

    def _now(self) -> float:
        return self._clock().timestamp()


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()
