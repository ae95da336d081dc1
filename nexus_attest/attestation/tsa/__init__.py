"""The witness of time-stamp authorities (RFC 3161), the second one beside the ledger: no account, no fee, one signature.

What is believed is one company's clock and key, pinned in the trust policy. Needs the extra `tsa`; nothing of it is imported with this
package.
"""

from nexus_attest.attestation.tsa.authority import TSA_BACKEND, TimestampAuthority
from nexus_attest.attestation.tsa.evidence import EVIDENCE_TYPE, TimestampEvidence, judge_timestamp, require_extra

__all__ = [
    "EVIDENCE_TYPE",
    "TSA_BACKEND",
    "TimestampAuthority",
    "TimestampEvidence",
    "judge_timestamp",
    "require_extra",
]
