"""SHA-256 digests over canonical JSON, in their two written forms: raw (64 lowercase hex digits) and prefixed (`sha256:` and raw).

The prefix is put on and taken off here and nowhere else. A digest proves that content is unchanged, not who made it.
"""

import re
from hashlib import sha256
from hmac import compare_digest
from typing import Any, NewType

from nexus_control.canonical_json import canonical_json_bytes

__all__ = [
    "DIGEST_PATTERN",
    "PREFIX",
    "Digest",
    "content_digest",
    "digests_equal",
    "prefixed",
    "sha256_digest",
    "unprefixed",
    "verify_digest",
]

PREFIX = "sha256:"

DIGEST_PATTERN = re.compile("sha256:[0-9a-f]{64}")
"""A well-formed prefixed digest; use with `fullmatch`."""

Digest = NewType("Digest", str)
"""The prefixed form."""


def sha256_digest(data: bytes) -> str:
    """Raw digest of the bytes."""
    return sha256(data).hexdigest()


def content_digest(obj: Any) -> str:
    """Raw digest of the canonical bytes of `obj`. Raises what `canonical_json` raises."""
    return sha256(canonical_json_bytes(obj)).hexdigest()


def verify_digest(obj: Any, expected_digest: str) -> bool:
    """Whether `expected_digest`, raw or prefixed, is the content digest of `obj`. Raises what `canonical_json` raises."""
    return digests_equal(content_digest(obj), expected_digest)


def digests_equal(a: object, b: object) -> bool:
    """Whether two digests, each raw or prefixed, are the same; False when one is no ASCII string.

    Takes the same time wherever the first difference is. Does not judge the form: two equal strings that are no digests are equal.
    """
    if not (isinstance(a, str) and isinstance(b, str) and a.isascii() and b.isascii()):
        return False
    return compare_digest(a.removeprefix(PREFIX), b.removeprefix(PREFIX))


def prefixed(raw: str) -> Digest:
    """`sha256:` and the raw digest. Adds the prefix unconditionally."""
    return Digest(PREFIX + raw)


def unprefixed(digest: str) -> str:
    """The raw form of a digest in either form."""
    return digest.removeprefix(PREFIX)
