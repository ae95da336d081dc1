"""A witness for demonstrations and tests. It calls itself `self`, because that is who witnesses: whoever runs it.

Each stamp names the one before by its digest, so a list of stamps that was kept elsewhere shows a change in the middle of it. To anybody
who kept nothing it proves nothing: the whole list can be made anew in a second, with any times. Its level is never more than `self`.
"""

from dataclasses import dataclass
from typing import Any

from nexus_attest.attestation.batch_tree import Statement
from nexus_attest.attestation.errors import WitnessMismatch
from nexus_attest.attestation.members import compact_utc, members_of, require_digest, require_str
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.stamp import Shown, covering, evidence_key
from nexus_attest.attestation.stamp_store import StampStore
from nexus_attest.attestation.witness import Level, Testimony
from nexus_attest.trust import TrustPolicy
from nexus_control.canonical_json import canonical_json_bytes
from nexus_control.errors import InputError
from nexus_control.events import Clock, in_utc, utc_now
from nexus_control.integrity import content_digest, prefixed, sha256_digest
from nexus_control.json_data import decode_json
from nexus_control.layers import Gap
from nexus_control.verification import VerificationCheck

__all__ = ["EVIDENCE_TYPE", "LEVEL", "SELF_BACKEND", "SelfStamp", "SelfWitness", "broken_link", "judge_evidence"]

SELF_BACKEND = "self"

EVIDENCE_TYPE = "nexus.self.stamp/1"
LEVEL = "self"
_NOTHING = prefixed("0" * 64)
"""The digest of the stamp before the first one."""


@dataclass(frozen=True, slots=True)
class SelfStamp:
    """The `n`th stamp. `previous` is the prefixed digest of the one before; `at` is a time that the witness makes up itself."""

    n: int
    previous: str
    statement: Statement
    at: str

    def to_dict(self) -> dict[str, Any]:
        """`type`, `n`, `previous`, `root` (hex) and `size` of the statement, `at`."""
        statement = {"root": self.statement.root.hex(), "size": self.statement.size}
        return {"type": EVIDENCE_TYPE, "n": self.n, "previous": self.previous, **statement, "at": self.at}

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json_bytes(self.to_dict())

    @classmethod
    def from_dict(cls, data: object) -> "SelfStamp":
        """The inverse of `to_dict`. Raises WitnessMismatch for every other form."""
        given = members_of(data, WitnessMismatch, required=("type", "n", "previous", "root", "size", "at"), optional=())
        n = given["n"]
        require_digest(given["previous"], "previous", WitnessMismatch)
        if type(n) is not int or not 1 <= n < 2**53:
            raise WitnessMismatch("n must be a number from 1 on")
        try:
            statement = Statement(bytes.fromhex(given["root"]), given["size"])
        except (ValueError, TypeError) as problem:
            raise WitnessMismatch(f"no statement: {problem!s:.200}") from None
        made = cls(n, given["previous"], statement, require_str(given["at"], "at", WitnessMismatch))
        if made.to_dict() != data:
            raise WitnessMismatch(f"no stamp of type {EVIDENCE_TYPE} in its one form")
        return made

    @classmethod
    def from_bytes(cls, data: bytes) -> "SelfStamp":
        """The inverse of `to_bytes`. Raises WitnessMismatch for every other form."""
        try:
            made = cls.from_dict(decode_json(data.decode()))
        except ValueError as problem:
            raise WitnessMismatch(f"no stamp of the local witness: {problem!s:.200}") from None
        if made.to_bytes() != data:
            raise WitnessMismatch(f"no stamp of type {EVIDENCE_TYPE} in its one form")
        return made


class SelfWitness:
    """The local witness of a queue, which keeps its stamps. A `StampingWitness`."""

    backend = SELF_BACKEND

    def __init__(self, queue: AttestationQueue, *, name: str = "local", clock: Clock = utc_now) -> None:
        self.name = name
        self._stamps = StampStore(queue.storage)
        self._clock = in_utc(clock)

    async def witness(self, statement: Statement) -> bytes:
        """The next stamp of its list."""
        last = self._stamps.last(f"{self.backend}:{self.name}")
        n, previous = (1, _NOTHING) if last is None else (last.n + 1, last.digest)
        return SelfStamp(n, previous, statement, compact_utc(self._clock)).to_bytes()

    def verify(self, statement: Statement, evidence: bytes) -> Shown:
        """Level `self`, and no time: the one in the stamp is anybody's. Raises WitnessMismatch."""
        if SelfStamp.from_bytes(evidence).statement != statement:
            raise WitnessMismatch("statement: the stamp of the local witness is of something else")
        return Shown(LEVEL, None, self.name)


def judge_evidence(evidence: dict[str, Any] | None, trust: TrustPolicy) -> Testimony:  # noqa: ARG001 - nobody needs to believe it
    """Evidence of the backend `self` in a witness proof: level `self`, whoever reads it, and always a gap."""
    if evidence is None:
        return Testimony(level=Level.SELF, gaps=(_GAP,), covers=covering(SELF_BACKEND))
    try:
        stamp = SelfStamp.from_dict(evidence)
    except WitnessMismatch as problem:
        return Testimony(level=None, checks=(VerificationCheck("form", ok=False, detail=str(problem)),))
    return Testimony(
        level=Level.SELF,
        checks=(VerificationCheck("form", ok=True),),
        gaps=(_GAP,),
        about={"n": stamp.n, "at": stamp.at, "batch": {"root": stamp.statement.root.hex(), "size": stamp.statement.size}},
        evidence_digest=prefixed(content_digest(evidence)),
        evidence_key=evidence_key(SELF_BACKEND),
        covers=covering(SELF_BACKEND, statement=stamp.statement, level=LEVEL),
    )


_GAP = Gap("the only witness is whoever made this file, which calls itself `self`", "a proof of a ledger, or of a time-stamp authority")


def broken_link(queue: AttestationQueue, *, name: str = "local") -> int | None:
    """The number of the first stamp that does not follow from the one before it, None when all do. Raises InputError for no such list."""
    stamps = StampStore(queue.storage).of_lane(f"{SELF_BACKEND}:{name}")
    if not stamps:
        raise InputError(f"the queue has no stamps of a local witness called {name!r:.100}")
    previous = _NOTHING
    for n, stored in enumerate(stamps, 1):
        try:
            stamp = SelfStamp.from_bytes(stored.evidence)
        except WitnessMismatch:
            return n
        if (stamp.n, stamp.previous) != (n, previous):
            return n
        previous = prefixed(sha256_digest(stored.evidence))
    return None
