"""What receipts refer to of the exchanges with the ledger, and what an exchange store has of it.

Digests of requests and responses are opaque to the store, so that bodies are compared with them only where it was asked for.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexus_attest.attestation.narrative._model import CheckStatus, ExchangeEvidence, IntegrityCheck
from nexus_attest.attestation.receipt import AttestationReceipt
from nexus_attest.redaction import NO_SECRETS
from nexus_control.errors import InputError, StoreUnreadable
from nexus_control.integrity import prefixed, sha256_digest

if TYPE_CHECKING:
    from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
    from nexus_attest.attestation.xrpl.transport import ExchangeRecord

__all__ = ["TX_EXCHANGE", "Exchange", "embedded_bodies", "exchange_checks", "exchanges_of"]

TX_EXCHANGE = "xrpl.tx.exchange"

_KEYS = ("xrpl.submit.exchange", TX_EXCHANGE)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange as it was looked up. `problem`: why its record is not there; None when it is, or when there is no store."""

    evidence: ExchangeEvidence
    store: "ExchangeStore | None"
    problem: str | None

    def bodies(self) -> Iterator[tuple[str, str, bool]]:
        """Which part, its digest, whether bytes are stored under it; nothing without a record."""
        found = self.evidence
        if found.request_digest is not None and found.response_digest is not None:
            yield "request", found.request_digest, found.request_body_available
            yield "response", found.response_digest, found.response_body_available


def exchanges_of(receipt: AttestationReceipt | None, store: "ExchangeStore | None") -> list[Exchange]:
    """The exchanges of a receipt, submission first, looked up in the store if there is one. Raises StoreError, OSError."""
    if receipt is None:
        return []
    digests = receipt.evidence_digests
    return [_find(store, key, digests[key]) for key in _KEYS if key in digests]


def exchange_checks(exchange: Exchange, *, include_bodies: bool, verify_bodies: bool) -> Iterator[IntegrityCheck]:
    """Whether the record is there; of one that is there, whether its bodies are stored, and whether they are the ones of its digests."""
    key, digest = exchange.evidence.key, exchange.evidence.content_digest
    name = f"exchange_exists:{key}"
    if exchange.store is None:
        yield IntegrityCheck(name, CheckStatus.SKIP, "Not checked: no exchange store was given", expected=digest)
        return
    if exchange.problem is not None:
        yield IntegrityCheck(name, CheckStatus.FAIL, exchange.problem, expected=digest)
        return
    yield IntegrityCheck(name, CheckStatus.PASS, "The record is in the exchange store", expected=digest)
    if include_bodies:
        for part, body, there in exchange.bodies():
            outcome, reason = (CheckStatus.PASS, "A body is stored") if there else (CheckStatus.FAIL, "No body is stored")
            yield IntegrityCheck(f"body_exists:{key}:{part}", outcome, f"{reason} under this digest", expected=body)
    if verify_bodies:
        for part, body, there in exchange.bodies():
            yield _body_check(f"body_digest_valid:{key}:{part}", exchange.store, body, there=there)


def embedded_bodies(exchanges: Iterable[Exchange], *, redact: bool) -> dict[str, str]:
    """The stored bodies as texts by digest; bytes that are not UTF-8 are spelled out. Raises OSError."""
    texts: dict[str, str] = {}
    for exchange in exchanges:
        for _, digest, there in exchange.bodies():
            body = exchange.store.get_body(digest) if there and exchange.store is not None and digest not in texts else None
            if body is not None:
                text = body.decode("utf-8", "backslashreplace")
                texts[digest] = NO_SECRETS.text(text) if redact else text
    return texts


def _find(store: "ExchangeStore | None", key: str, digest: str) -> Exchange:
    """Look one up. A record whose content has another digest than the one that it stands under is none."""
    if store is None:
        return Exchange(ExchangeEvidence(key, digest), None, None)
    try:
        record = store.get(digest)
    except StoreUnreadable as problem:
        return Exchange(ExchangeEvidence(key, digest), store, f"the record was not found in store: it cannot be read: {problem!s:.200}")
    if record is None:
        return Exchange(ExchangeEvidence(key, digest), store, "the record was not found in store")
    if record.content_digest() != digest:
        return Exchange(ExchangeEvidence(key, digest), store, "the record was not found in store: the one under this digest has another")
    return Exchange(_evidence(store, key, digest, record), store, None)


def _evidence(store: "ExchangeStore", key: str, digest: str, record: "ExchangeRecord") -> ExchangeEvidence:
    return ExchangeEvidence(
        key,
        digest,
        record_found=True,
        request_digest=record.request_digest,
        response_digest=record.response_digest,
        timestamp=record.timestamp,
        request_body_available=_has_body(store, record.request_digest),
        response_body_available=_has_body(store, record.response_digest),
    )


def _body_check(name: str, store: "ExchangeStore", digest: str, *, there: bool) -> IntegrityCheck:
    if not there:
        return IntegrityCheck(name, CheckStatus.FAIL, "No body is stored under this digest", expected=digest)
    body = store.get_body(digest)
    actual = None if body is None else prefixed(sha256_digest(body))
    if actual == digest:
        return IntegrityCheck(name, CheckStatus.PASS, "The stored body has this digest", digest, actual)
    return IntegrityCheck(name, CheckStatus.FAIL, "The stored body has another digest", digest, actual)


def _has_body(store: "ExchangeStore", digest: str) -> bool:
    try:
        return store.body_exists(digest)
    except InputError:  # a digest under which no body can be stored
        return False
