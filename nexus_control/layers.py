"""The layers of a verification: what was judged, with what outcome, and what could not be judged for want of which evidence.

    integrity       do all digests recompute?
    authorization   replayed at the moment of execution, did valid approvals satisfy the policy? was exactly the approved action run?
    signatures      did keys that I trust sign approvals and attestations?
    execution       does the record of the run recompute, and is it of this run?
    log             was every event in the log under this checkpoint? does it extend the one I had?
    witness         is the digest in a validated ledger transaction?

An outcome is computed from checks and gaps, never written down. What could not be checked is never a PASS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nexus_control.verification import VerificationCheck

__all__ = ["LAYERS", "Gap", "Layer", "LayerName", "Outcome"]


class Outcome(StrEnum):
    """What is known about a layer; INCOMPLETE when nothing failed and something could not be judged."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCOMPLETE = "INCOMPLETE"


class LayerName(StrEnum):
    """The layers, in the order in which they are reported."""

    INTEGRITY = "integrity"
    AUTHORIZATION = "authorization"
    SIGNATURES = "signatures"
    EXECUTION = "execution"
    LOG = "log"
    WITNESS = "witness"


LAYERS = tuple(LayerName)


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that could not be judged, and what would be needed to judge it."""

    what: str
    needed: str

    def to_dict(self) -> dict[str, Any]:
        """Both texts."""
        return {"what": self.what, "needed": self.needed}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a report."""

    name: LayerName
    checks: Sequence[VerificationCheck] = ()
    gaps: Sequence[Gap] = ()

    @property
    def outcome(self) -> Outcome:
        """FAIL when a check failed; PASS when there was one, all passed and nothing is missing."""
        if any(not check.ok for check in self.checks):
            return Outcome.FAIL
        return Outcome.PASS if self.checks and not self.gaps else Outcome.INCOMPLETE

    def to_dict(self) -> dict[str, Any]:
        """`name`, `outcome`, `checks` and `gaps`."""
        return {
            "name": self.name.value,
            "outcome": self.outcome.value,
            "checks": [check.to_dict() for check in self.checks],
            "gaps": [gap.to_dict() for gap in self.gaps],
        }
