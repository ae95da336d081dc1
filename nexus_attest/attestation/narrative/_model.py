"""The parts of a narrative and their dict forms.

A dict form leaves out what is not known; what must be there always is. `from_dict` of a report refuses every member that its own `to_dict`
would not write in the same way, so nothing can stand in a document that the report's digest does not cover.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self, cast

from nexus_attest.attestation.errors import InvalidNarrative
from nexus_attest.attestation.intent import INTENT_VERSION
from nexus_attest.attestation.members import members_of, require_str
from nexus_attest.attestation.receipt import RECEIPT_VERSION
from nexus_attest.attestation.xrpl.memo import MEMO_VERSION
from nexus_control import __version__
from nexus_control.integrity import content_digest, prefixed
from nexus_control.json_data import decode_json

__all__ = [
    "CANONICALIZATION",
    "NARRATIVE_SCHEMA",
    "NARRATIVE_VERSION",
    "AttemptDiff",
    "CheckStatus",
    "ExchangeEvidence",
    "IntegrityCheck",
    "NarrativeReport",
    "ReceiptEntry",
    "XrplWitness",
    "narrative_data",
]

NARRATIVE_VERSION = "0.1"
NARRATIVE_SCHEMA = "nexus.attestation.narrative.v0.1"

CANONICALIZATION: dict[str, Any] = {
    "hash_algorithm": "sha256",
    "serialization": "JCS",
    "serialization_spec": "RFC 8785",
    "encoding": "utf-8",
    "attempt_semantics": "cycle:1-indexed",
    "versions": {
        "nexus_control": __version__,
        "narrative": NARRATIVE_VERSION,
        "intent": INTENT_VERSION,
        "receipt": RECEIPT_VERSION,
        "memo": MEMO_VERSION,
    },
}
"""How the digests of a report are made, so that a stranger can make them too."""


class CheckStatus(StrEnum):
    """The outcome of a check; SKIP when the evidence was not given, which is never a PASS."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True)
class IntegrityCheck:
    """The outcome of one check, why, and the two values that were compared, if two were."""

    name: str
    status: CheckStatus
    reason: str
    expected: str | None = None
    actual: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The members that are not None."""
        known = {"name": self.name, "status": self.status.value, "reason": self.reason, "expected": self.expected, "actual": self.actual}
        return {key: value for key, value in known.items() if value is not None}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of `to_dict`. Raises InvalidNarrative."""
        members = _members(data, "a check", {"name": str, "status": str, "reason": str}, {"expected": str, "actual": str})
        try:
            members["status"] = CheckStatus(members["status"])
        except ValueError:
            raise InvalidNarrative(f"a check cannot have the status {members['status']!r:.100}") from None
        return cls(**members)


@dataclass(frozen=True)
class ExchangeEvidence:
    """One exchange with the ledger that a receipt refers to, and what an exchange store knows of it. Digests are prefixed."""

    key: str
    content_digest: str
    record_found: bool = False
    request_digest: str | None = None
    response_digest: str | None = None
    timestamp: str | None = None
    request_body_available: bool = False
    response_body_available: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The members that are not None."""
        return {key: value for key, value in _fields(self) if value is not None}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of `to_dict`. Raises InvalidNarrative."""
        flags = dict.fromkeys(("record_found", "request_body_available", "response_body_available"), bool)
        required = {"key": str, "content_digest": str, **flags}
        return cls(**_members(data, "an exchange", required, {"request_digest": str, "response_digest": str, "timestamp": str}))


@dataclass(frozen=True)
class ReceiptEntry:
    """One stored receipt. `receipt_digest` is prefixed and the stored one, which a check compares with the content."""

    attempt: int
    status: str
    created_at: str
    backend: str
    receipt_digest: str
    tx_hash: str | None = None
    ledger_index: int | None = None
    ledger_close_time: str | None = None
    engine_result: str | None = None
    error_code: str | None = None
    error_detail: str | None = None
    memo_digest: str | None = None
    exchanges: tuple[ExchangeEvidence, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The first five members, and the others when there is something in them."""
        data = {key: value for number, (key, value) in enumerate(_fields(self)) if number < len(_ENTRY) or value}
        return data if not self.exchanges else {**data, "exchanges": [exchange.to_dict() for exchange in self.exchanges]}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of `to_dict`. Raises InvalidNarrative."""
        texts = ("tx_hash", "ledger_close_time", "engine_result", "error_code", "error_detail", "memo_digest")
        members = _members(data, "a receipt", _ENTRY, {**dict.fromkeys(texts, str), "ledger_index": int, "exchanges": list})
        members["exchanges"] = tuple(map(ExchangeEvidence.from_dict, members.get("exchanges", ())))
        return cls(**members)


_ENTRY: dict[str, type] = {"attempt": int, "status": str, "created_at": str, "backend": str, "receipt_digest": str}


@dataclass(frozen=True)
class XrplWitness:
    """The transaction that the last confirmed receipt names. `memo_payload`: its memo, when the receipt's memo digest is that of it."""

    tx_hash: str
    ledger_index: int
    ledger_close_time: str | None = None
    engine_result: str | None = None
    account: str | None = None
    key_id: str | None = None
    memo_payload: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Hash and ledger index, and the others when there is something in them."""
        data = {key: value for number, (key, value) in enumerate(_fields(self)) if number < 2 or value}
        return data if not self.memo_payload else {**data, "memo_payload": dict(self.memo_payload)}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of `to_dict`. Raises InvalidNarrative."""
        texts = dict.fromkeys(("ledger_close_time", "engine_result", "account", "key_id"), str)
        members = _members(data, "the witness", {"tx_hash": str, "ledger_index": int}, {**texts, "memo_payload": dict})
        for key, value in members.get("memo_payload", {}).items():
            require_str(key, "a member of the memo", InvalidNarrative)
            if type(value) is not int:
                require_str(value, f"memo_payload.{key:.100}", InvalidNarrative)
        return cls(**members)


@dataclass(frozen=True)
class NarrativeReport:
    """What is known of one intent. `intent_digest`, `binding_digest` and `narrative_digest` are prefixed.

    `bodies` are texts of requests and responses by digest, None when they were not asked for. `package_version` is the release that made
    the report when it is another than this one.
    """

    narrative_version: str
    intent_digest: str
    intent_found: bool = False
    subject_type: str | None = None
    binding_digest: str | None = None
    env: str | None = None
    created_at: str | None = None
    current_status: str | None = None
    total_attempts: int = 0
    last_error_code: str | None = None
    receipts: tuple[ReceiptEntry, ...] = ()
    witness: XrplWitness | None = None
    checks: tuple[IntegrityCheck, ...] = ()
    narrative_digest: str | None = None
    bodies: dict[str, str] | None = None
    package_version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data, which shares nothing with it."""
        canonicalization = deepcopy(CANONICALIZATION)
        if self.package_version is not None:
            canonicalization["versions"]["nexus_control"] = self.package_version
        data: dict[str, Any] = {
            "schema": NARRATIVE_SCHEMA,
            "narrative_version": self.narrative_version,
            "canonicalization": canonicalization,
            "intent_digest": self.intent_digest,
            "intent_found": self.intent_found,
        }
        if self.intent_found:
            header = {name: getattr(self, name) for name in ("subject_type", "binding_digest", "env", "created_at")}
            data.update({name: value for name, value in header.items() if value})
            data["current_status"] = self.current_status
            data["total_attempts"] = self.total_attempts
            if self.last_error_code:
                data["last_error_code"] = self.last_error_code
            if self.receipts:
                data["receipts"] = [receipt.to_dict() for receipt in self.receipts]
            if self.witness is not None:
                data["witness"] = self.witness.to_dict()
        if self.checks:
            data["checks"] = [check.to_dict() for check in self.checks]
        if self.bodies is not None:
            data["bodies"] = dict(self.bodies)
        if self.narrative_digest is not None:
            data["narrative_digest"] = self.narrative_digest
        return data

    def _to_dict_for_hash(self) -> dict[str, Any]:
        """What the narrative digest covers: everything but itself."""
        data = self.to_dict()
        data.pop("narrative_digest", None)
        return data

    def computed_digest(self) -> str:
        """The narrative digest of the content as it is, prefixed. Raises ValueError or TypeError for content that is no JSON."""
        return prefixed(content_digest(self._to_dict_for_hash()))

    def to_json(self, indent: int | None = 2) -> str:
        """JSON in ASCII with sorted keys; one line with `indent=None`."""
        return json.dumps(self.to_dict(), sort_keys=True, indent=indent, allow_nan=False)

    def render(self, *, sources: dict[str, str] | None = None) -> str:
        """The report as text for people, as `render_narrative` gives it."""
        from nexus_attest.attestation.narrative._render import render_narrative  # which needs this module

        return render_narrative(self, sources=sources)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The inverse of `to_dict`; absent members that are not about the intent itself take their defaults. Raises InvalidNarrative."""
        given = _object(data, "a narrative")
        # The one member that is written although it may be None.
        told = {key: value for key, value in given.items() if key != "current_status" or value is not None}
        members = _members(told, "a narrative", {"narrative_version": str, "intent_digest": str}, _REPORT)
        if members["narrative_version"] != NARRATIVE_VERSION or members.pop("schema", NARRATIVE_SCHEMA) != NARRATIVE_SCHEMA:
            raise InvalidNarrative(f"the narrative is not one of schema {NARRATIVE_SCHEMA} and version {NARRATIVE_VERSION}")
        members["package_version"] = _maker(members.pop("canonicalization", CANONICALIZATION))
        for name, kind in (("receipts", ReceiptEntry), ("checks", IntegrityCheck)):
            members[name] = tuple(map(kind.from_dict, members.get(name, ())))
        if "witness" in members:
            members["witness"] = XrplWitness.from_dict(members["witness"])
        for key, text in members.get("bodies", {}).items():
            require_str(text, f"the body {key!r:.100}", InvalidNarrative)
            require_str(key, "the digest of a body", InvalidNarrative)
        report = cls(**members)
        written = report.to_dict()
        if changed := [key for key, value in given.items() if written.get(key) != value]:
            raise InvalidNarrative(f"{changed[0]} is not written as in a narrative: empty, or of an intent that was not found")
        return report

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The inverse of `to_json`. Raises InvalidNarrative, for the same key twice in an object too."""
        return cls.from_dict(narrative_data(text))


_REPORT: dict[str, type] = {
    **dict.fromkeys(("schema", "subject_type", "binding_digest", "env", "created_at", "current_status", "last_error_code"), str),
    **{"narrative_digest": str, "intent_found": bool, "total_attempts": int, "receipts": list, "checks": list},
    **{"canonicalization": dict, "witness": dict, "bodies": dict},
}


@dataclass(frozen=True)
class AttemptDiff:
    """What differs between the last receipts of two attempts. Evidence is named by the keys of exchanges, sorted."""

    from_attempt: int
    to_attempt: int
    status_changed: bool
    from_status: str
    to_status: str
    tx_hash_changed: bool = False
    from_tx_hash: str | None = None
    to_tx_hash: str | None = None
    added_evidence: tuple[str, ...] = ()
    removed_evidence: tuple[str, ...] = ()
    from_error: str | None = None
    to_error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The first five members, and of the others those that tell of a difference."""
        data = dict(list(_fields(self))[:5])
        if self.tx_hash_changed:
            hashes = {"from_tx_hash": self.from_tx_hash, "to_tx_hash": self.to_tx_hash}
            data |= {"tx_hash_changed": True, **{key: value for key, value in hashes.items() if value is not None}}
        evidence = {"added_evidence": list(self.added_evidence), "removed_evidence": list(self.removed_evidence)}
        others: dict[str, Any] = {**evidence, "from_error": self.from_error, "to_error": self.to_error}
        return {**data, **{key: value for key, value in others.items() if value}}


def narrative_data(text: str | bytes) -> dict[str, Any]:
    """The object in a JSON text, not yet read as a narrative. Raises InvalidNarrative."""
    try:
        data: object = decode_json(text.decode() if isinstance(text, bytes) else text)
    except ValueError as problem:
        raise InvalidNarrative(f"not readable JSON: {problem!s:.300}") from None
    return _object(data, "a narrative")


def _fields(record: IntegrityCheck | ExchangeEvidence | ReceiptEntry | XrplWitness | AttemptDiff) -> list[tuple[str, Any]]:
    return [(field.name, getattr(record, field.name)) for field in fields(record)]


def _object(data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InvalidNarrative(f"{where} must be an object, got {type(data).__name__}")
    return cast("dict[str, Any]", data)


def _members(data: object, where: str, required: Mapping[str, type], optional: Mapping[str, type]) -> dict[str, Any]:
    """The members of a dict form, each of its type; strings are ones that UTF-8 can express."""
    try:
        members = members_of(data, InvalidNarrative, required=required, optional=optional)
        for name, value in members.items():
            kind = required.get(name) or optional[name]
            if type(value) is not kind:
                raise InvalidNarrative(f"{name} must be of type {kind.__name__}, got {type(value).__name__}")
            if isinstance(value, str):
                require_str(value, name, InvalidNarrative)
    except InvalidNarrative as problem:
        raise InvalidNarrative(f"{where}: {problem}") from None
    return members


def _maker(canonicalization: dict[str, Any]) -> str | None:
    """The release that made a report, None for this one. Everything else about its digests must be as it is here."""
    versions = canonicalization.get("versions")
    maker = _object(versions, "canonicalization.versions").get("nexus_control")
    known = {**CANONICALIZATION, "versions": {**CANONICALIZATION["versions"], "nexus_control": maker}}
    if not isinstance(maker, str) or canonicalization != known:
        raise InvalidNarrative("the canonicalization of the narrative is not one that is known here")
    return None if maker == __version__ else require_str(maker, "canonicalization.versions.nexus_control", InvalidNarrative)
