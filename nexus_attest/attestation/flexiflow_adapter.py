"""The handler for FlexiFlow, or any other loop: one call processes at most one queued intent on the XRP Ledger.

Nothing here imports FlexiFlow; `flexiflow_states` has states that call the handler. The application owns the clock: it calls again.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from nexus_attest.attestation.errors import SignerMissing
from nexus_attest.attestation.queue import AttestationQueue
from nexus_attest.attestation.receipt import AttestationReceipt, ReceiptStatus
from nexus_attest.attestation.worker import ProcessResult, process_one_xrpl
from nexus_attest.attestation.xrpl.client import XRPLClient
from nexus_attest.attestation.xrpl.exchange_store import ExchangeStore
from nexus_attest.attestation.xrpl.jsonrpc_client import JsonRpcClient
from nexus_attest.attestation.xrpl.signer import XRPLSigner
from nexus_attest.attestation.xrpl.transport import DclTransport, HttpxTransport, JsonRpcTransport
from nexus_control.errors import InputError
from nexus_control.events import require_text

__all__ = ["CONTEXT_KEYS", "SignerFactory", "attest_xrpl_process_one", "configure_signer"]

_TEXTS = ("db_path", "xrpl_url", "intent_digest", "account", "exchange_store_path", "exchange_body_path")
_PATHS = ("db_path", "exchange_store_path", "exchange_body_path")
_FLAGS = ("use_dcl", "store_bodies")

CONTEXT_KEYS = frozenset({*_TEXTS, *_FLAGS})
"""The keys of a context that plain data, a message for example, can give."""


@runtime_checkable
class SignerFactory(Protocol):
    """Gives the signer; called once per cycle, so that it may come from a vault that changes keys."""

    def __call__(self) -> XRPLSigner: ...


_signer_factory: SignerFactory | None = None


def configure_signer(factory: SignerFactory) -> None:
    """Say who signs, once at start; a later call replaces it. Any callable without arguments will do, a class for example."""
    global _signer_factory
    _signer_factory = factory


def _get_signer() -> XRPLSigner:
    if _signer_factory is None:
        raise SignerMissing(
            "no signer is configured: call configure_signer(factory) of nexus_attest.attestation.flexiflow_adapter at start"
        )
    return _signer_factory()


def _receipt_summary(receipt: AttestationReceipt) -> dict[str, Any]:
    """What may be shown of a receipt everywhere: neither proof nor error text."""
    return {
        "status": receipt.status.value,
        "attempt": receipt.attempt,
        "created_at": receipt.created_at,
        "backend": receipt.backend,
        "has_proof": bool(receipt.proof),
        "has_error": receipt.error is not None,
        "error_code": None if receipt.error is None else receipt.error.code,
    }


async def attest_xrpl_process_one(ctx: dict[str, Any]) -> dict[str, Any]:
    """Process at most one queued intent.

    All keys of `ctx` are optional, and paths are strings or `Path`s: `db_path` (environment NEXUS_ATTEST_DB, then `attest.db`), `xrpl_url`
    (environment XRPL_URL, then `http://127.0.0.1:5005`), `intent_digest` (only this one), `account`, `use_dcl` with `exchange_store_path`,
    `exchange_body_path` and `store_bodies` (keep a record of the exchanges with the node); `client`, `transport` and `signer` replace
    those that are made here.

    Gives `outcome` (CONFIRMED, FAILED, DEFERRED, or NOOP when there was nothing to do), `processed`, `queue_id`, `intent_digest` and
    `receipts`, a list of summaries; with an `intent_digest` that is not in the queue also `reason`: `unknown`. FAILED is the last
    receipt's word: when the node was not reached, the intent is kept and tried again. Raises SignerMissing, a RuntimeError, InputError for
    a value of the wrong type, and StoreError; then nothing was submitted.
    """
    settings = _settings(ctx)
    signer = ctx["signer"] if ctx.get("signer") is not None else _get_signer()
    with ExitStack() as open_stores:
        queue = open_stores.enter_context(AttestationQueue(settings["db_path"]))
        client = ctx["client"] if ctx.get("client") is not None else _client(settings, ctx.get("transport"), open_stores)
        result = await process_one_xrpl(
            queue=queue,
            client=client,
            signer=signer,
            account=settings["account"],
            intent_digest=settings["intent_digest"],
        )
        wanted = settings["intent_digest"]
        unknown = not result.processed and wanted is not None and queue.get_status(wanted) is None
    return _outcome(result, unknown=unknown)


def _settings(ctx: object) -> dict[str, Any]:
    if not isinstance(ctx, Mapping):
        raise InputError(f"ctx must be an object, got {type(ctx).__name__}")
    given = cast("Mapping[str, Any]", ctx)
    settings: dict[str, Any] = {}
    for key in _TEXTS:
        value = given.get(key)
        value = str(value) if key in _PATHS and isinstance(value, Path) else value
        settings[key] = None if value is None else require_text(value, key)
    for key in _FLAGS:
        settings[key] = given.get(key, False)
        if not isinstance(settings[key], bool):
            raise InputError(f"{key} must be true or false, got {type(settings[key]).__name__}")
    settings["db_path"] = settings["db_path"] or os.environ.get("NEXUS_ATTEST_DB") or "attest.db"
    settings["xrpl_url"] = settings["xrpl_url"] or os.environ.get("XRPL_URL") or "http://127.0.0.1:5005"
    return settings


def _client(settings: dict[str, Any], transport: JsonRpcTransport | None, open_stores: ExitStack) -> XRPLClient:
    if transport is None and settings["use_dcl"]:
        store = None
        if settings["exchange_store_path"] is not None:
            store = open_stores.enter_context(ExchangeStore(settings["exchange_store_path"], settings["exchange_body_path"]))
        transport = DclTransport(store=store, store_bodies=settings["store_bodies"])
    return JsonRpcClient(settings["xrpl_url"], transport or HttpxTransport())


def _outcome(result: ProcessResult, *, unknown: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "outcome": "NOOP",
        "processed": result.processed,
        "queue_id": result.queue_id if result.processed else None,
        "intent_digest": result.intent_digest if result.processed else None,
        "receipts": [_receipt_summary(receipt) for receipt in result.receipts] if result.processed else [],
    }
    if result.processed:
        last = result.receipts[-1].status if result.receipts else ReceiptStatus.SUBMITTED
        told["outcome"] = "DEFERRED" if last is ReceiptStatus.SUBMITTED else last.value
    return {**told, "reason": "unknown"} if unknown else told
