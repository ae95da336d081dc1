"""What goes wrong between a client and a server, one fault per request, first in, first out, or at random from a seed.

| kind | effect on the ledger | what the client gets |
|---|---|---|
| `refuse` | none | no connection |
| `drop_request` | none | a connection that ends |
| `drop_response` | as without fault | a connection that ends |
| `timeout` | none | nothing, until it gives up |
| `late:<n>` | of `submit`: just before the n-th close from now; of others none | nothing, until it gives up |
| `duplicate` | twice | the answer to the second one |
| `restart` | everything that is not validated is lost, on all servers | a connection that ends |
| `http503` | none | 503, text "Server is overloaded" |
| `http500`, `malformed`, `empty` | as without fault | an error page; no JSON; nothing |
| `truncated`, `wrong_shape` | as without fault | half an answer; JSON of another shape |
| `load_warning` | as without fault | `"warning": "load"` beside the result |
| `error:<code>` | none | this error |
| `engine:<code>` | none | of `submit`: this engine result, as if the server had looked at it (`engine:tesSUCCESS`: said, and forgotten) |
| `forge_validated` | none | of `tx`: validated, with a transaction that is not the one asked for |
| `forge_validated_blob` | none | of `tx`: validated in a ledger that does not exist, with the right bytes if the server ever saw them |
| `forge_not_found` | none | of `tx`: not found, everything searched |
| `stale:<n>` | none | of questions: what was true n ledgers ago |

A kind that says nothing about a method does nothing to it. Of the messages to subscribers (method `stream`), `drop_response` loses one,
`duplicate` sends it twice, `malformed` and `truncated` spoil it; `refuse`, `drop_request` and `restart` end the connection.
"""

import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from nexus_attest.testledger.results import result_code

__all__ = ["KINDS", "Fault", "Faults", "parse_fault"]

PLAIN = frozenset(
    {"refuse", "drop_request", "drop_response", "timeout", "duplicate", "restart"}
    | {"http503", "http500", "malformed", "truncated", "empty", "wrong_shape", "load_warning"}
    | {"forge_validated", "forge_validated_blob", "forge_not_found"}
)
NUMBERED = {"late", "stale"}

KINDS = (
    *sorted(PLAIN),
    "late:1",
    "late:3",
    "stale:1",
    "stale:3",
    "error:tooBusy",
    "error:noNetwork",
    "engine:telINSUF_FEE_P",
    "engine:tesSUCCESS",
)
"""Every kind, with some arguments; to draw from."""


class Fault(NamedTuple):
    """A kind and what stands behind its colon."""

    kind: str
    argument: str = ""

    @property
    def number(self) -> int:
        return int(self.argument)


def parse_fault(text: str) -> Fault:
    """A fault from its spelling in the table. Raises ValueError for any other."""
    kind, colon, argument = text.partition(":")
    numbered = kind in NUMBERED and argument.isascii() and argument.isdigit() and int(argument) > 0
    if numbered or (kind in PLAIN and not colon) or (kind == "error" and argument):
        return Fault(kind, argument)
    if kind == "engine":
        try:
            result_code(argument)
        except KeyError:
            raise ValueError(f"no engine result is called {argument!r}") from None
        return Fault(kind, argument)
    raise ValueError(f"there is no fault {text!r}")


class Faults:
    """The faults that a server has in store. `met` are those that happened, with their methods."""

    def __init__(self, seed: int | None = None, rate: float = 0.3, kinds: Sequence[str] = KINDS) -> None:
        """With a seed, requests that find no fault in store meet one of `kinds` with probability `rate`."""
        self.met: list[tuple[str, Fault]] = []
        self._stored: dict[str, deque[Fault]] = {}
        self._chance = None if seed is None else random.Random(seed)
        self._rate = rate
        self._kinds = [parse_fault(kind) for kind in kinds]

    def add(self, method: str, *kinds: str) -> None:
        """Keep faults for the next requests of this method; `*`: of any method, `stream`: for messages to subscribers."""
        self._stored.setdefault(method, deque()).extend(map(parse_fault, kinds))

    def calm(self) -> None:
        """From now on nothing goes wrong."""
        self._stored.clear()
        self._chance = None

    def take(self, method: str) -> Fault | None:
        """The fault that this request meets: one stored for its method, else one for `*`, else one by chance."""
        found = None
        if stored := self._stored.get(method) or (self._stored.get("*") if method != "stream" else None):
            found = stored.popleft()
        elif self._chance is not None and method != "stream" and self._chance.random() < self._rate:
            found = self._chance.choice(self._kinds)
        if found is not None:
            self.met.append((method, found))
        return found
