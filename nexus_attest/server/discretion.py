"""What clients are told of errors whose texts name files, hosts or accounts of this machine: the code and what it means, no more.

The log has the whole text, with the id of the request that it belongs to.
"""

import logging
from collections.abc import Mapping

__all__ = ["FAULTS", "RETRYABLE", "told"]

FAULTS: Mapping[str, str] = {
    "STORE_BUSY": "the store is busy",
    "STORE_CONFLICT": "the store has something else where this belongs",
    "STORE_UNREACHABLE": "the store cannot be reached",
    "STORE_ERROR": "the store cannot do this now",
    "STORE_FULL": "the store has no room left",
    "STORE_READ_ONLY": "the store cannot be written",
    "STORE_UNREADABLE": "the store cannot be read",
    "STORE_CLOSED": "the store was closed",
    "SCHEMA_TOO_NEW": "the store was written by a newer release",
    "SCHEMA_MISSING": "there is no store of this release",
    "COMMIT_UNKNOWN": "the store was lost while it recorded this",
    "IMPORT_ATOMICITY_FAILED": "the store refused a part of it",
    "RUN_NOT_FOUND": "the record of this run is not kept here",
}
"""By code: what to say instead of the text. It is the server's trouble, not the caller's."""

_CUT = {"OUTCOME_NOT_RECORDED"}
"""Codes whose texts say after the first colon why the store refused."""

RETRYABLE = frozenset({"STORE_BUSY", "STORE_CONFLICT", "STORE_UNREACHABLE"})
"""Nothing was done, and the same call can succeed later."""

_log = logging.getLogger("nexus_attest.server")


def told(code: str, text: str) -> str:
    """What a client may read of an error; what is kept from it is logged."""
    if code not in FAULTS and code not in _CUT:
        return text
    _log.warning("the store failed", extra={"facts": {"code": code, "problem": text}})
    return FAULTS.get(code) or text.partition(": ")[0]
