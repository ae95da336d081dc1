"""What came of an attempt to have an intent witnessed: receipts, immutable, identified by the digest of their content.

A receipt says what one backend answered at one time. It is evidence of what was seen here, not proof: the proof is at the backend.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from nexus_attest.attestation.errors import InvalidReceipt
from nexus_attest.attestation.members import members_of, require_digest, require_str
from nexus_control.canonical_json import canonical_json
from nexus_control.integrity import content_digest

__all__ = ["RECEIPT_VERSION", "AttestationReceipt", "ReceiptError", "ReceiptErrorCode", "ReceiptStatus"]

RECEIPT_VERSION = "0.1"

_BACKEND = re.compile(r"[a-z0-9._-]{1,64}")
_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.\d+)?(?:Z|\+00:00)", re.ASCII)
_MAX_ATTEMPT = 2**63 - 1


class ReceiptStatus(StrEnum):
    """Where an attempt stands."""

    SUBMITTED = "SUBMITTED"
    """The backend took it; whether it will last is not known yet."""

    CONFIRMED = "CONFIRMED"
    """It is final at the backend, and the receipt holds the proof."""

    FAILED = "FAILED"
    """This attempt came to nothing."""

    DEFERRED = "DEFERRED"
    """Not known yet; to be asked again."""


class ReceiptErrorCode(StrEnum):
    """The usual codes of a receipt's error; others are allowed."""

    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    TIMEOUT = "TIMEOUT"
    REJECTED = "REJECTED"
    POLICY_BLOCKED = "POLICY_BLOCKED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class ReceiptError:
    """Why an attempt did not succeed. Raises InvalidReceipt for anything but strings."""

    code: str
    detail: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", str(require_str(self.code, "error code", InvalidReceipt)))
        if self.detail is not None:
            require_str(self.detail, "error detail", InvalidReceipt)

    def to_dict(self) -> dict[str, Any]:
        """`code`, and `detail` when there is one."""
        return {"code": self.code} if self.detail is None else {"code": self.code, "detail": self.detail}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ReceiptError":
        """The inverse of `to_dict`. Raises InvalidReceipt."""
        return cls(**members_of(data, InvalidReceipt, required=("code",), optional=("detail",)))


@dataclass(frozen=True)
class AttestationReceipt:
    """One answer of one backend.

    `intent_digest` and the values of `evidence_digests` are prefixed digests; `attempt` counts from 1; `created_at` is UTC with seconds,
    an optional fraction and `Z` or `+00:00`; `proof` is what the backend gave, any JSON, and must be there when CONFIRMED. Dicts are
    copied. Raises InvalidReceipt, a ValueError.
    """

    intent_digest: str
    backend: str
    attempt: int
    status: ReceiptStatus
    created_at: str
    evidence_digests: dict[str, str] = field(default_factory=dict[str, str])
    proof: dict[str, Any] = field(default_factory=dict[str, Any])
    error: ReceiptError | None = None

    def __post_init__(self) -> None:
        require_digest(self.intent_digest, "intent_digest", InvalidReceipt)
        if not isinstance(cast("object", self.backend), str) or not _BACKEND.fullmatch(self.backend):
            raise InvalidReceipt(f"backend must match {_BACKEND.pattern}, got {self.backend!r:.100}")
        if type(self.attempt) is not int or not 1 <= self.attempt <= _MAX_ATTEMPT:
            raise InvalidReceipt(f"attempt must be an integer from 1 on, got {self.attempt!r:.100}")
        try:
            object.__setattr__(self, "status", ReceiptStatus(self.status))
        except ValueError:
            raise InvalidReceipt(f"status must be one of {', '.join(ReceiptStatus)}, got {self.status!r:.100}") from None
        _require_time(self.created_at)
        object.__setattr__(self, "evidence_digests", _evidence(self.evidence_digests))
        object.__setattr__(self, "proof", _proof(self.proof))
        if self.status is ReceiptStatus.CONFIRMED and not self.proof:
            raise InvalidReceipt("proof must be non-empty when the status is CONFIRMED")
        if not isinstance(cast("object", self.error), ReceiptError | None):
            raise InvalidReceipt(f"error must be a ReceiptError or None, got {type(self.error).__name__}")

    def to_canonical_dict(self) -> dict[str, Any]:
        """What the digest covers; empty members are left out."""
        data: dict[str, Any] = {
            "receipt_version": RECEIPT_VERSION,
            "intent_digest": self.intent_digest,
            "backend": self.backend,
            "attempt": self.attempt,
            "status": self.status.value,
            "created_at": self.created_at,
        }
        if self.evidence_digests:
            data["evidence_digests"] = dict(sorted(self.evidence_digests.items()))
        if self.proof:
            data["proof"] = deepcopy(self.proof)
        if self.error is not None:
            data["error"] = self.error.to_dict()
        return data

    def receipt_digest(self) -> str:
        """Raw digest of the canonical dict."""
        return content_digest(self.to_canonical_dict())

    def to_dict(self) -> dict[str, Any]:
        """The same as the canonical dict."""
        return self.to_canonical_dict()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "AttestationReceipt":
        """The inverse of `to_dict`. Raises InvalidReceipt."""
        members = members_of(
            data,
            InvalidReceipt,
            required=("intent_digest", "backend", "attempt", "status", "created_at"),
            optional=("evidence_digests", "proof", "error"),
            ignored="receipt_version",
        )
        if members.get("error") is not None:
            members["error"] = ReceiptError.from_dict(members["error"])
        return cls(**members)


def _require_time(value: object) -> None:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    try:
        if found is None:
            raise ValueError
        datetime.fromisoformat(found[1])
    except ValueError:
        raise InvalidReceipt(f"created_at must be a UTC time like 2025-01-15T12:00:00+00:00, got {value!r:.100}") from None


def _evidence(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidReceipt(f"evidence_digests must be an object, got {type(value).__name__}")
    entries = cast("Mapping[object, object]", value)
    return {
        require_str(key, "evidence_digests: a key", InvalidReceipt): require_digest(
            digest, f"evidence_digests: {key!r:.100}", InvalidReceipt
        )
        for key, digest in entries.items()
    }


def _proof(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidReceipt(f"proof must be an object, got {type(value).__name__}")
    try:
        canonical_json(cast("object", value))
    except (TypeError, ValueError) as problem:
        raise InvalidReceipt(f"proof is no canonical JSON: {problem!s:.200}") from None
    return deepcopy(cast("dict[str, Any]", value))
