"""Narratives from files: read exactly as they were written, or refused."""

from pathlib import Path

from nexus_attest.attestation.errors import InvalidNarrative
from nexus_attest.attestation.narrative._model import NarrativeReport, narrative_data
from nexus_control.files import read_file

__all__ = ["MAX_NARRATIVE_BYTES", "load_narrative", "parse_narrative"]

MAX_NARRATIVE_BYTES = 64 * 1024 * 1024
"""Ten thousand receipts with their checks take a third of it."""


def load_narrative(path: str | Path) -> NarrativeReport:
    """The narrative in a file. Raises FileRefused for what is no regular file of at most 64 MiB, and what `parse_narrative` raises."""
    return parse_narrative(read_file(Path(path), MAX_NARRATIVE_BYTES))


def parse_narrative(content: str | bytes) -> NarrativeReport:
    """The narrative in a JSON text.

    Raises InvalidNarrative for anything but the whole form, members that are always written included: what is missing, added or told in
    another way would not be covered by the digest of the report that is given back.
    """
    data = narrative_data(content)
    report = NarrativeReport.from_dict(data)
    if missing := sorted(report.to_dict().keys() - data.keys()):
        raise InvalidNarrative(f"a narrative has the member {missing[0]}")
    return report
