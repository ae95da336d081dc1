"""Narratives: everything that is known of an intent and of the attempts to have it witnessed, in one report that proves its own content.

    show_intent(queue, intent_digest) -> NarrativeReport        made from what is stored, every digest computed anew
    load_narrative(path) -> NarrativeReport                     read from a file, exactly as it was written
    verify_narrative(report) -> checks                          what the report alone can show
    diff_attempts(report, 1, 2)   render_narrative(report)

The same stored data give the same report, byte for byte. A narrative shows that its parts belong together and to what is stored; whoever
can rewrite the queue can make one that fits, so it is the witness that it names, not the narrative, which proves the time.
"""

from nexus_attest.attestation.narrative._build import build_narrative, show_intent, show_queue
from nexus_attest.attestation.narrative._checks import verify_narrative, verify_narrative_digest
from nexus_attest.attestation.narrative._diff import diff_attempts
from nexus_attest.attestation.narrative._evidence import examine_narrative, is_narrative
from nexus_attest.attestation.narrative._load import MAX_NARRATIVE_BYTES, load_narrative, parse_narrative
from nexus_attest.attestation.narrative._model import (
    CANONICALIZATION,
    NARRATIVE_SCHEMA,
    NARRATIVE_VERSION,
    AttemptDiff,
    CheckStatus,
    ExchangeEvidence,
    IntegrityCheck,
    NarrativeReport,
    ReceiptEntry,
    XrplWitness,
)
from nexus_attest.attestation.narrative._render import RULE, receipt_lines, render_narrative

__all__ = [
    "CANONICALIZATION",
    "MAX_NARRATIVE_BYTES",
    "NARRATIVE_SCHEMA",
    "NARRATIVE_VERSION",
    "RULE",
    "AttemptDiff",
    "CheckStatus",
    "ExchangeEvidence",
    "IntegrityCheck",
    "NarrativeReport",
    "ReceiptEntry",
    "XrplWitness",
    "build_narrative",
    "diff_attempts",
    "examine_narrative",
    "is_narrative",
    "load_narrative",
    "parse_narrative",
    "receipt_lines",
    "render_narrative",
    "show_intent",
    "show_queue",
    "verify_narrative",
    "verify_narrative_digest",
]
