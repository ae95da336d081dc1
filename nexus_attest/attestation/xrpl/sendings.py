"""What one process has seen of its own sendings: when and how often each transaction was sent, and which servers refused it or its key.

Nothing of it is stored. A process that starts anew sends once more, and waits for so many refusals once more, which does no harm: what is
decided for good is decided by the ledger, when a transaction has expired. Attempts are told apart by their hashes.
"""

from collections import Counter

from nexus_attest.attestation.xrpl.node import Submission
from nexus_attest.attestation.xrpl.submission_store import Attempt, AttemptState

__all__ = ["Sendings"]

_KEY_REFUSED = frozenset({"tefBAD_AUTH", "tefBAD_AUTH_MASTER", "tefMASTER_DISABLED", "tefNOT_MULTI_SIGNING"})


class Sendings:
    """`needed`: so many servers must refuse a transaction, or its key, for one alone may be wrong about it."""

    def __init__(self, needed: int) -> None:
        self._needed = needed
        self._last: dict[str, int] = {}  # the ledger after which it was last sent
        self._times: Counter[str] = Counter()
        self._refusing: dict[str, set[str]] = {}  # the servers that refused it, as long as none took it
        self._key_refusing: dict[str, set[str]] = {}  # by key: the servers that did not take it, since the ledger last did

    def turn(self, attempt: Attempt) -> int:
        """Which server is asked first about an attempt: with each sending, and for each attempt of a batch, another one.

        One that says "queued" and passes nothing on must not be the only one that has it, nor one that refuses it the only one that looked,
        nor one that never answers the one that has all the time.
        """
        return attempt.n - 1 + self._times[attempt.hash]

    def is_due(self, attempt: Attempt, index: int) -> bool:
        """Whether to send it after ledger `index`: once after each, as long as it can get into another one, and nobody knows better."""
        return attempt.state is not AttemptState.REFUSED and index < attempt.lls and self._last.get(attempt.hash) != index

    def sent_after(self, attempt: Attempt, index: int) -> None:
        """Note the ledger after which it was sent."""
        self._last[attempt.hash] = index

    def answered(self, attempt: Attempt, url: str, answer: Submission) -> AttemptState:
        """How an attempt stands after a server's answer to it: REFUSED when that was the last refusal that was needed, or MAYBE."""
        self._times[attempt.hash] += 1
        malformed = answer.engine_result.startswith("tem") and not answer.applied
        unsent = attempt.state is AttemptState.PREPARED or attempt.hash in self._refusing  # by all that is known, nobody took it yet
        if not answer.refused and not (malformed and unsent):
            self._refusing.pop(attempt.hash, None)
            return AttemptState.MAYBE
        refusing = self._refusing.setdefault(attempt.hash, set())
        refusing.add(url)
        return AttemptState.REFUSED if len(refusing) >= self._needed else AttemptState.MAYBE

    def is_key_refused(self, attempt: Attempt, url: str, answer: Submission) -> bool:
        """Whether with this answer so many servers as are needed do not take the key."""
        if answer.engine_result not in _KEY_REFUSED:
            return False
        refusing = self._key_refusing.setdefault(attempt.key_id, set())
        refusing.add(url)
        return len(refusing) >= self._needed

    def forget(self, attempt: Attempt, *, key_taken: bool) -> None:
        """It has ended; with `key_taken` in a ledger, which took its key."""
        self._last.pop(attempt.hash, None)
        self._times.pop(attempt.hash, None)
        self._refusing.pop(attempt.hash, None)
        if key_taken:
            self._key_refusing.pop(attempt.key_id, None)
