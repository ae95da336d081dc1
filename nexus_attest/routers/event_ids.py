"""Ids of events that lie side by side in an index: UUIDs of version 7 (RFC 9562 section 5.7), which begin with the time.

Random ids would put every event of a commit on another page of the index that keeps them apart, and each page is written to the disk
before the call that waits for it is made (docs/adr/0012). An id still says nothing that the time of its event does not say.
"""

import os
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

__all__ = ["EventIds", "event_ids"]

EventIds: TypeAlias = Callable[[datetime], str]
"""Gives the id of an event that is recorded at a time."""

_COUNTER_BITS = 12
_RANDOM_BITS = 62


def event_ids() -> EventIds:
    """A source of ids for one thread; each is greater than the one before, as a number and as a text.

    The 12 bits after the version count within a millisecond (section 6.2, method 1). Where they do not suffice, and while the clock is
    behind what was given out, the time in the ids runs ahead of it. The last 62 bits are random, so that no two sources, in whatever
    threads and processes, give the same id.
    """
    last = -1  # time and counter of the last id, as one number

    def new_id(moment: datetime) -> str:
        nonlocal last
        last = max(round(moment.timestamp() * 1_000_000) // 1000 << _COUNTER_BITS, last + 1)
        time, counter = divmod(last, 1 << _COUNTER_BITS)
        random = int.from_bytes(os.urandom(8)) >> (64 - _RANDOM_BITS)
        text = f"{time << 80 | 0x7 << 76 | counter << 64 | 0b10 << _RANDOM_BITS | random:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    return new_id
