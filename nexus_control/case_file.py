"""The case file: everything about one decision that a stranger needs to judge it, in one JSON document.

    case_version   "1"
    package        the audit package, as `AuditPackage.to_dict` gives it
    log            how its events stand in the log of the store that it comes from, or null
    attestations   signed statements of others about its binding digest
    witness        proofs that its binding digest is in a public ledger
    trust          digest of the trust policy under which it was decided, or null
    extensions     whatever else somebody wants to add; carried, not judged
    critical       names of extensions that a reader must understand, or refuse the file

Reading is strict: an unknown member, a value of the wrong type, or a critical extension is refused by name. Nothing here is judged to be
true; that is the matter of the layers.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self, cast

from nexus_control.errors import MalformedBundle
from nexus_control.json_data import object_field, object_of, optional_object_field, text_field

__all__ = ["CASE_VERSION", "CaseFile", "ConsistencyProof", "LogPart"]

CASE_VERSION = "1"

_HASH = re.compile("[0-9a-f]{64}")
_MOST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """The RFC 6962 consistency proof between the checkpoint of a log part and the checkpoint of another size of the same log."""

    size: int
    proof: tuple[bytes, ...]

    def to_dict(self) -> dict[str, Any]:
        """`size`, and `proof` as raw hex."""
        return {"size": self.size, "proof": [value.hex() for value in self.proof]}


@dataclass(frozen=True, slots=True)
class LogPart:
    """Where the events of the package stand in a store's log, and why.

    The leaf of an event is not given: it is the hash of the chained record (`events.event_record`), made of the event in the package, of
    `generation`, and of the chain hash before it, which is `prev_hash` (raw) for the first event. `positions` (from 1) are those of the
    events in order; `proof` is one joint inclusion proof of all these leaves in the tree of `checkpoint`, a signed note.
    """

    checkpoint: str
    generation: int
    prev_hash: str
    positions: tuple[int, ...]
    proof: tuple[bytes, ...]
    consistency: tuple[ConsistencyProof, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The part as JSON data; hashes as raw hex."""
        return {
            "checkpoint": self.checkpoint,
            "generation": self.generation,
            "prev_hash": self.prev_hash,
            "positions": list(self.positions),
            "proof": [value.hex() for value in self.proof],
            "consistency": [entry.to_dict() for entry in self.consistency],
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`; every member is required, and there is no other. Raises MalformedBundle."""
        names = ("checkpoint", "generation", "prev_hash", "positions", "proof", "consistency")
        fields = _exactly(data, "log", names, names)
        prev_hash = text_field(fields, "prev_hash", "log")
        if not _HASH.fullmatch(prev_hash):
            raise MalformedBundle("log.prev_hash must be 64 lowercase hex digits")
        positions = tuple(_number(value, "log.positions") for value in _array(fields, "positions", "log"))
        if any(later <= earlier for earlier, later in pairwise(positions)):
            raise MalformedBundle("log.positions must ascend")
        consistency = tuple(_consistency(entry) for entry in _array(fields, "consistency", "log"))
        if len({entry.size for entry in consistency}) != len(consistency):
            raise MalformedBundle("log.consistency has two proofs for one size")
        return cls(
            text_field(fields, "checkpoint", "log"),
            _number(fields["generation"], "log.generation"),
            prev_hash,
            positions,
            _hashes(fields, "log"),
            consistency,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFile:
    """A case file. `package`, `attestations` and `witness` are JSON data that belongs to this object alone."""

    package: dict[str, Any]
    log: LogPart | None = None
    attestations: tuple[dict[str, Any], ...] = ()
    witness: tuple[dict[str, Any], ...] = ()
    trust_digest: str | None = None
    extensions: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """The file as JSON data; `extensions` only when there are any."""
        data: dict[str, Any] = {
            "case_version": CASE_VERSION,
            "package": self.package,
            "log": None if self.log is None else self.log.to_dict(),
            "attestations": list(self.attestations),
            "witness": list(self.witness),
            "trust": None if self.trust_digest is None else {"digest": self.trust_digest},
        }
        if self.extensions:
            data["extensions"] = self.extensions
        return data

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Inverse of `to_dict`, sharing what it does not read with `data`. Members but `case_version` and `package` may be absent.

        Raises MalformedBundle for another version, an unknown member, a value of the wrong type, and a critical extension, since this
        release knows none.
        """
        fields = _exactly(
            data,
            "case",
            ("case_version", "package"),
            ("case_version", "package", "log", "attestations", "witness", "trust", "extensions", "critical"),
        )
        if (version := text_field(fields, "case_version", "case")) != CASE_VERSION:
            raise MalformedBundle(f"unknown case_version {version[:50]!r}, this release reads {CASE_VERSION!r}")
        if critical := _array(fields, "critical", "case"):
            raise MalformedBundle(f"the file demands that its reader understands {', '.join(f'{name!r:.100}' for name in critical[:10])}")
        log, trust = optional_object_field(fields, "log", "case"), optional_object_field(fields, "trust", "case")
        return cls(
            package=object_field(fields, "package", "case"),
            log=None if log is None else LogPart.from_dict(log),
            attestations=_objects(fields, "attestations"),
            witness=_objects(fields, "witness"),
            trust_digest=None if trust is None else text_field(_exactly(trust, "trust", ("digest",), ("digest",)), "digest", "trust"),
            extensions=object_field(fields, "extensions", "case", {}),
        )


def _consistency(data: object) -> ConsistencyProof:
    names = ("size", "proof")
    fields = _exactly(data, "log.consistency", names, names)
    size = fields["size"]
    if type(size) is not int or not 0 <= size <= _MOST:
        raise MalformedBundle("log.consistency.size must be the size of a log")
    return ConsistencyProof(size, _hashes(fields, "log.consistency"))


def _exactly(data: object, where: str, required: tuple[str, ...], known: tuple[str, ...]) -> dict[str, Any]:
    """An object with these members and no other: what a reader does not understand could change what the rest means."""
    fields = object_of(data, where)
    for name in required:
        if name not in fields:
            raise MalformedBundle(f"Missing required field: {where}.{name}")
    for name in fields:
        if name not in known:
            raise MalformedBundle(f"unknown member {name!r:.100} in {where}")
    return fields


def _array(fields: dict[str, Any], name: str, where: str) -> list[object]:
    value: object = fields.get(name, [])
    if isinstance(value, list):
        return cast("list[object]", value)
    raise MalformedBundle(f"{where}.{name} must be an array, got {type(value).__name__}")


def _objects(fields: dict[str, Any], name: str) -> tuple[dict[str, Any], ...]:
    return tuple(object_of(value, f"case.{name}") for value in _array(fields, name, "case"))


def _hashes(fields: dict[str, Any], where: str) -> tuple[bytes, ...]:
    hashes = _array(fields, "proof", where)
    for value in hashes:
        if not isinstance(value, str) or not _HASH.fullmatch(value):
            raise MalformedBundle(f"{where}.proof must be an array of hashes of 64 lowercase hex digits")
    return tuple(bytes.fromhex(cast("str", value)) for value in hashes)


def _number(value: object, where: str) -> int:
    if type(value) is int and 1 <= value <= _MOST:
        return value
    raise MalformedBundle(f"{where} must be a positive integer")
