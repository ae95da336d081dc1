"""Checks that the records of the attestation side share: whole-string patterns, types, and the members of their dict forms."""

from collections.abc import Collection, Mapping
from typing import Any, cast

from nexus_attest.attestation.errors import InvalidAttestationRecord
from nexus_control.errors import InputError
from nexus_control.events import Clock, utc_now
from nexus_control.integrity import DIGEST_PATTERN

__all__ = ["compact_utc", "intent_key", "members_of", "require_digest", "require_str"]


def compact_utc(clock: Clock = utc_now) -> str:
    """The time as queue, receipts and exchange records write it: UTC, whole seconds, `+00:00`."""
    return clock().strftime("%Y-%m-%dT%H:%M:%S+00:00")


def intent_key(value: object) -> str:
    """What an intent is looked up by: any text, in which a lone surrogate, which no stored digest has, becomes a question mark.

    Raises InputError unless it is a string.
    """
    if not isinstance(value, str):
        raise InputError(f"an intent digest must be a string, got {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()


def members_of(
    data: object, error: type[InvalidAttestationRecord], *, required: Collection[str], optional: Collection[str], ignored: str | None = None
) -> dict[str, Any]:
    """The members of a dict form without the `ignored` one, which names the version of the form.

    An unknown member is refused: it would not be in the digest that is computed from the record.
    """
    if not isinstance(data, Mapping):
        raise error(f"must be an object, got {type(data).__name__}")
    members = {key: value for key, value in cast("Mapping[Any, Any]", data).items() if key != ignored}
    if unknown := [key for key in members if key not in required and key not in optional]:
        raise error(f"unknown member {unknown[0]!r:.100}")
    if missing := [key for key in required if key not in members]:
        raise error(f"missing member {missing[0]}")
    return members


def require_str(value: object, name: str, error: type[InvalidAttestationRecord]) -> str:
    """A string that UTF-8 can express."""
    if not isinstance(value, str):
        raise error(f"{name} must be a string, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise error(f"{name} must not contain lone surrogates") from None
    return value


def require_digest(value: object, name: str, error: type[InvalidAttestationRecord]) -> str:
    """A digest in its prefixed form."""
    if not isinstance(value, str) or not DIGEST_PATTERN.fullmatch(value):
        raise error(f"{name} must be 'sha256:' and 64 lowercase hex digits, got {value!r:.100}")
    return value
