"""A case file as an in-toto statement in a DSSE envelope, so that existing supply-chain tools can carry, index and check it.

    envelope    https://github.com/secure-systems-lab/dsse/blob/master/envelope.md      payloadType application/vnd.in-toto+json
    statement   https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md    subject: the binding digest; predicate: the case

Signatures are taken apart here, not checked.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from nexus_control.case_file import CaseFile
from nexus_control.errors import MalformedBundle
from nexus_control.identity import pae
from nexus_control.integrity import unprefixed
from nexus_control.json_data import object_field, object_of, parse_json, text_field

__all__ = ["PAYLOAD_TYPE", "PREDICATE_TYPE", "STATEMENT_TYPE", "SealedCase", "read_envelope", "statement_payload"]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:nexus-attest:case-file:1"
"""Names what the predicate is: a case file of version 1."""

_MOST_SIGNATURES = 100


@dataclass(frozen=True, slots=True)
class SealedCase:
    """An envelope taken apart: the case as JSON data, the subject's raw digest, and who signed what, by key id."""

    case: dict[str, Any]
    subject: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @property
    def signed_bytes(self) -> bytes:
        """What each signature is over."""
        return pae(PAYLOAD_TYPE, self.payload)


def statement_payload(case: CaseFile) -> bytes:
    """The statement to sign, whose subject is the binding digest of the case's package: compact JSON with sorted keys, in UTF-8.

    Not canonical JSON: that writes 1.0 as 1, and the digest of an embedded run depends on the spelling.
    """
    package = case.package
    digest = unprefixed(package["integrity"]["binding_digest"])
    name = package["control_bundle"]["decision"]["decision_id"]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": digest}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": case.to_dict(),
    }
    return json.dumps(statement, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def read_envelope(data: Mapping[str, Any]) -> SealedCase:
    """Take an envelope apart. Raises MalformedBundle unless it holds a statement with one subject about a case file."""
    fields = object_of(data, "envelope")
    if (kind := text_field(fields, "payloadType", "envelope")) != PAYLOAD_TYPE:
        raise MalformedBundle(f"the envelope holds {kind!r:.100}, not {PAYLOAD_TYPE}")
    payload = _bytes(text_field(fields, "payload", "envelope"), "envelope.payload")
    statement = object_of(parse_json(payload), "statement")
    for name, wanted in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if (given := text_field(statement, name, "statement")) != wanted:
            raise MalformedBundle(f"statement.{name} is {given!r:.200}, not {wanted}")
    subjects: object = statement.get("subject")
    if not isinstance(subjects, list) or len(cast("list[object]", subjects)) != 1:
        raise MalformedBundle("statement.subject must be an array with one subject")
    subject = object_of(cast("list[object]", subjects)[0], "statement.subject")
    digest = text_field(object_field(subject, "digest", "statement.subject"), "sha256", "statement.subject.digest")
    return SealedCase(object_field(statement, "predicate", "statement"), digest, payload, _signatures(fields))


def _signatures(fields: dict[str, Any]) -> tuple[tuple[str, bytes], ...]:
    given: object = fields.get("signatures")
    if not isinstance(given, list) or not 1 <= len(cast("list[object]", given)) <= _MOST_SIGNATURES:
        raise MalformedBundle(f"envelope.signatures must be an array of 1 to {_MOST_SIGNATURES} signatures")
    found: list[tuple[str, bytes]] = []
    for entry in cast("list[object]", given):
        signature = object_of(entry, "envelope.signatures")
        key_id = text_field(signature, "keyid", "envelope.signatures", "")
        found.append((key_id, _bytes(text_field(signature, "sig", "envelope.signatures"), "envelope.signatures.sig")))
    return tuple(found)


def _bytes(text: str, where: str) -> bytes:
    """Base64 in the standard or the URL-safe alphabet, as DSSE allows both."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedBundle(f"{where} is no base64") from None
