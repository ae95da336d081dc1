"""Documents as files or on standard output."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus_attest.cli.files import STANDARD_STREAM, write_file
from nexus_attest.cli.session import Session
from nexus_control.markdown import escape

__all__ = ["document_text", "write_document"]


def document_text(document: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """Indented JSON, for programs and people; numbers keep their spelling when it is read again, which digests depend on."""
    return json.dumps(document, indent=2, ensure_ascii=ascii_only, allow_nan=False) + "\n"


def write_document(session: Session, path: Path, document: Mapping[str, Any], about: Mapping[str, str], *, force: bool) -> None:
    """Write a document to a file and say so, or write it and nothing else to standard output (ASCII: it may be a terminal).

    `about` holds `kind` and `digest` for the result. Raises FileExists, FileRefused or OSError.
    """
    if path == STANDARD_STREAM:
        sys.stdout.write(document_text(document, ascii_only=True))
        return
    content = document_text(document).encode()
    write_file(path, content, force=force)
    size = len(content)
    session.show({"file": str(path), "bytes": size, **about}, f"Wrote {escape(path)} ({size} bytes)\n  digest {about['digest']}")
