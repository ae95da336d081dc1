"""What the command line prints: results and errors, for people on a terminal or as one JSON document."""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from nexus_attest.cli.errors import exit_code
from nexus_control.errors import NexusError
from nexus_control.markdown import printable

__all__ = ["DEBUG_VARIABLE", "note", "print_json", "refuse", "report"]

DEBUG_VARIABLE = "NEXUS_ATTEST_DEBUG"

_ADVICE = {
    "DECISION_NOT_FOUND": "`nexus-attest list` shows the ids; --db chooses the store.",
    "EXECUTION_FAILED": "If it may run again: --retry.",
    "EXECUTION_IN_PROGRESS": "If that process died: `nexus-attest recover ID`. It records that the outcome is unknown.",
    "FILE_EXISTS": "--force replaces it.",
    "KEY_NOT_FOUND": "`nexus-attest keys list` shows the keys; `nexus-attest keys new NAME` makes one.",
    "PASSPHRASE_MISSING": "Set NEXUS_ATTEST_PASSPHRASE, or call it from a terminal.",
    "POLICY_VALIDATION_FAILED": "`nexus-attest status ID` shows what is missing.",
    "STORE_MOVED_ASIDE": "The same `nexus-attest restore`, once more, brings the backup; renaming that file brings the old store back; "
    "where it is in another folder, a new store may begin.",
    "STORE_NOT_FOUND": "--db chooses the store; `nexus-attest request` creates one.",
    "TEMPLATE_NOT_FOUND": "`nexus-attest template list` shows the names.",
    "WITNESS_MISSING": "`nexus-attest witness init` writes one to start from.",
    "VERIFIER_MISSING": "--trust FILE names the trust policy with the keys; `nexus-attest trust check FILE` checks it.",
}


def note(text: str) -> None:
    """One line for people on standard error, where it is no part of a result."""
    sys.stderr.write(text + "\n")


def print_json(document: Mapping[str, Any]) -> None:
    """The one JSON document of a command, in ASCII: no terminal and no encoding can make anything else of it."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def report(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Print an error, and give the exit code that goes with it."""
    code, text = _explained(error)
    if debug or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    refuse(code, text, as_json=as_json)
    return exit_code(code)


def refuse(code: str, text: str, *, as_json: bool) -> None:
    """Print what went wrong: as the JSON document, or as a line on standard error and what to do next."""
    if as_json:
        print_json({"success": False, "error": text, "code": code})
    else:
        note(f"nexus-attest: {printable(text)}")
        if code in _ADVICE:
            note(_ADVICE[code])


def _explained(error: Exception) -> tuple[str, str]:
    """Code and text of an error."""
    if isinstance(error, NexusError):
        return error.code, error.describe()
    if isinstance(error, FileNotFoundError) and error.filename is None:  # os.getcwd is the one that names no file
        return "IO_ERROR", "IO_ERROR: the folder that this command was started in is gone; start it in one that is there"
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return "IO_ERROR", f"IO_ERROR: {where}{error.strerror or error}"
    return "INTERNAL", (
        f"INTERNAL: unexpected error {_fingerprint(error)} ({type(error).__name__}), which is a bug; "
        f"nothing else is known here. --debug or {DEBUG_VARIABLE}=1 shows where"
    )


def _fingerprint(error: BaseException) -> str:
    """Eight hex digits that are the same whenever the same line fails in the same way, so that two reports can be compared."""
    frames = traceback.extract_tb(error.__traceback__)
    place = "\n".join(f"{frame.filename.rpartition('nexus_')[2]}:{frame.lineno}" for frame in frames)
    return hashlib.sha256(f"{type(error).__name__}\n{place}".encode()).hexdigest()[:8]
