"""What is to be witnessed: an intent, immutable, identified by the digest of its content.

An intent names a document by its binding digest, and adds what a reader of the witness may need to find it. It holds no secrets and no
document: everything in it may become public.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

from nexus_attest.attestation.errors import InvalidIntent
from nexus_attest.attestation.members import members_of, require_digest, require_str
from nexus_control.integrity import content_digest

__all__ = ["INTENT_VERSION", "AttestationIntent", "ClaimValue"]

INTENT_VERSION = "0.1"

ClaimValue: TypeAlias = str | bool | int | None

_MAX_ENTRIES = 32
_MAX_CHARACTERS = 256
_KEY = re.compile(r"[a-zA-Z0-9._-]{1,64}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_TEXTS = ("package_version", "run_id", "env", "tenant")


@dataclass(frozen=True)
class AttestationIntent:
    """A request to have a digest witnessed.

    `binding_digest` is prefixed. `labels` and `claims` have at most 32 entries each, keys out of `[a-zA-Z0-9._-]{1,64}`, values of at
    most 256 characters without control characters; claims may also be booleans, integers or None. Both are copied.
    Raises InvalidIntent, a ValueError.
    """

    subject_type: str
    binding_digest: str
    package_version: str | None = None
    run_id: str | None = None
    env: str | None = None
    tenant: str | None = None
    labels: dict[str, str] = field(default_factory=dict[str, str])
    claims: dict[str, ClaimValue] = field(default_factory=dict[str, ClaimValue])

    def __post_init__(self) -> None:
        require_str(self.subject_type, "subject_type", InvalidIntent)
        require_digest(self.binding_digest, "binding_digest", InvalidIntent)
        for name in _TEXTS:
            if getattr(self, name) is not None:
                require_str(getattr(self, name), name, InvalidIntent)
        object.__setattr__(self, "labels", _entries(self.labels, "label"))
        object.__setattr__(self, "claims", _entries(self.claims, "claim"))

    def to_canonical_dict(self) -> dict[str, Any]:
        """What the digest covers: absent members are left out, labels and claims when there are any, sorted by key."""
        data = self.to_dict()
        for name in ("labels", "claims"):
            if name in data:
                data[name] = dict(sorted(data[name].items()))
        return data

    def intent_digest(self) -> str:
        """Raw digest of the canonical dict. None and absent are the same; the order of labels does not matter."""
        return content_digest(self.to_canonical_dict())

    def to_dict(self) -> dict[str, Any]:
        """The members of the canonical dict, labels and claims in their own order."""
        data: dict[str, Any] = {"intent_version": INTENT_VERSION, "subject_type": self.subject_type, "binding_digest": self.binding_digest}
        data.update({name: getattr(self, name) for name in _TEXTS if getattr(self, name) is not None})
        data.update({name: dict(getattr(self, name)) for name in ("labels", "claims") if getattr(self, name)})
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "AttestationIntent":
        """The inverse of `to_dict`. Raises InvalidIntent."""
        return cls(
            **members_of(
                data,
                InvalidIntent,
                required=("subject_type", "binding_digest"),
                optional=(*_TEXTS, "labels", "claims"),
                ignored="intent_version",
            )
        )


def _entries(value: object, what: str) -> dict[str, ClaimValue]:
    """A checked copy of labels or claims."""
    if not isinstance(value, Mapping):
        raise InvalidIntent(f"{what}s must be an object, got {type(value).__name__}")
    entries = cast("Mapping[object, object]", value)
    if len(entries) > _MAX_ENTRIES:
        raise InvalidIntent(f"{what}s: max {_MAX_ENTRIES} entries, got {len(entries)}")
    checked: dict[str, ClaimValue] = {}
    for key, entry in entries.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise InvalidIntent(f"{what} key {key!r:.100} must match {_KEY.pattern}")
        if what == "claim" and (entry is None or isinstance(entry, int)):
            if isinstance(entry, int) and abs(entry) >= 10**_MAX_CHARACTERS:
                raise InvalidIntent(f"claim value of {key!r} has more than {_MAX_CHARACTERS} digits")
            checked[key] = entry
            continue
        text = require_str(entry, f"{what} value of {key!r}", InvalidIntent)
        if len(text) > _MAX_CHARACTERS:
            raise InvalidIntent(f"{what} value of {key!r} has more than {_MAX_CHARACTERS} characters")
        if _CONTROL.search(text):
            raise InvalidIntent(f"{what} value of {key!r} must not contain control characters")
        checked[key] = text
    return checked
