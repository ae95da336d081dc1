"""Appends of several threads, as one: what arrives while another is being committed is chained and inserted together.

Commands that read and judge share a commit (`writer`), each in its own turn. A plain append judges nothing, so many of them need one look
at where their decisions end, one insertion and one commit, instead of one each. Each is answered for itself: one that is refused,
because its decision is not there or has another end than it expected, writes nothing and keeps no other from being written.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nexus_attest.postgres.database import PostgresDatabase
from nexus_control.backend import Connection
from nexus_control.errors import CommitUnknown, NexusError, StoreBusy, StoreClosed, StoreUnreachable
from nexus_control.event_rows import ChainWriter, Tip
from nexus_control.events import StoredEvent
from nexus_control.sql_store import Append

__all__ = ["AppendQueue"]

_MOST = 128
"""Appends in one transaction."""

_TIPS = """
    WITH wanted (id) AS (VALUES {})
    SELECT id, d.generation, d.tombstone, d.chain, e.seq, e.chain, (SELECT COALESCE(MAX(position), 0) FROM log)
    FROM wanted
    CROSS JOIN LATERAL (SELECT generation, tombstone, chain FROM decisions WHERE decision_id = id ORDER BY generation DESC LIMIT 1) AS d
    LEFT JOIN LATERAL (
        SELECT seq, chain FROM decision_events WHERE decision_id = id AND generation = d.generation ORDER BY seq DESC LIMIT 1
    ) AS e ON true"""


@dataclass(eq=False)
class _Waiting:
    wanted: Append
    woken: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    stored: list[StoredEvent] | None = None
    error: BaseException | None = None


class AppendQueue:
    """The appends of a process. `chain` turns what is wanted into stored events by a writer, or refuses it."""

    def __init__(
        self,
        database: PostgresDatabase,
        chain: Callable[[ChainWriter, Append], list[StoredEvent]],
        alone: Callable[[Append], list[StoredEvent]],
    ) -> None:
        self._database = database
        self._chain = chain
        self._alone = alone
        self._begin()

    def _begin(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._has_leader = False
        self._process = os.getpid()

    def append(self, wanted: Append) -> list[StoredEvent]:
        """Append, alone or together with others. Raises what refuses this one, or what kept all of them from being committed."""
        if self._process != os.getpid():  # forked: the threads that wait or lead are the parent's
            self._begin()
        own = _Waiting(wanted)
        with self._guard:
            self._waiting.append(own)
            own.leads = not self._has_leader
            self._has_leader = True
        if not own.leads:
            try:
                own.woken.wait()
            except BaseException:  # interrupted: nobody waits for its turn any more
                self._withdraw(own)
                raise
        if own.leads:
            self._lead()
        if own.error is not None:
            raise own.error
        return own.stored or []

    def _withdraw(self, own: _Waiting) -> None:
        """Take out what nobody has begun to append, and hand its lead on."""
        with self._guard:
            if own in self._waiting:
                self._waiting.remove(own)
            if own.leads:
                self._hand_on()

    def _hand_on(self) -> None:
        self._has_leader = bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].woken.set()

    def _lead(self) -> None:
        """Do what waits, the caller's own among it, and hand the rest to the next."""
        with self._guard:
            batch = [self._waiting.popleft() for _ in range(min(_MOST, len(self._waiting)))]
        try:
            self._answer(batch)
        finally:
            with self._guard:
                self._hand_on()
            for each in batch:
                each.woken.set()

    def _answer(self, batch: list[_Waiting]) -> None:
        if len(batch) > 1:
            try:
                with self._database.transaction() as connection:
                    self._insert(connection, batch)
                return
            except (StoreUnreachable, StoreBusy, StoreClosed, CommitUnknown) as error:
                for each in batch:
                    each.stored, each.error = None, each.error or type(error)(str(error))
                return
            except NexusError:  # of one of them, an id that is too long for instance: the others are not to suffer
                pass
            except BaseException as error:
                for each in batch:
                    each.stored, each.error = (
                        None,
                        CommitUnknown(f"{self._database.path}: interrupted ({type(error).__name__}); read again"),
                    )
                raise
        for each in batch:
            each.stored, each.error = None, None
            try:
                each.stored = self._alone(each.wanted)
            except BaseException as error:
                each.error = error

    def _insert(self, connection: Connection, batch: list[_Waiting]) -> None:
        tips = _tips(connection, {each.wanted.decision_id for each in batch})
        writers: dict[str, ChainWriter] = {}
        first: ChainWriter | None = None
        for each in batch:
            name = each.wanted.decision_id
            if name not in writers:
                writers[name] = ChainWriter(connection, name, tips.get(name), beside=first)
                first = first or writers[name]
            try:
                each.stored = self._chain(writers[name], each.wanted)
            except NexusError as refusal:
                each.error = refusal
        if first is not None:
            first.flush()


def _tips(connection: Connection, names: set[str]) -> dict[str, Tip]:
    """Where the next row of each decision goes; those that were never stored are left out."""
    tips: dict[str, Tip] = {}
    for name, generation, tombstone, header_hash, seq, event_hash, position in connection.execute(
        _TIPS.format(", ".join(["(?)"] * len(names))), sorted(names)
    ):
        next_seq, chain = (0, header_hash) if seq is None else (seq + 1, event_hash)
        tips[name] = Tip(generation, not tombstone, next_seq, chain.hex(), position)
    return tips
