"""The ledger's JSON-RPC: two requests, and what is made of their answers. An answer of another shape is a server error, never a crash."""

from typing import Any, cast

from nexus_attest.attestation.xrpl.client import SubmitResult, TxStatusResult
from nexus_attest.attestation.xrpl.transport import HttpxTransport, JsonRpcTransport

__all__ = ["JsonRpcClient"]

_ID = 1
"""Constant, so that equal requests have equal digests."""

_MOST_CHARACTERS = 200
"""Of what goes into a receipt: hashes, results, times. A server that says more says nothing."""

_SERVER_ERROR = "SERVER_ERROR"
_NOT_FOUND = "txnNotFound"


class JsonRpcClient:
    """A client for one node. What its transport raises passes through.

    After each call the transport's attribute `last_exchange_digest`, if it has one, becomes the result's `exchange_digest`.
    """

    def __init__(self, url: str, transport: JsonRpcTransport | None = None) -> None:
        self._url = url
        self._transport = HttpxTransport() if transport is None else transport

    @property
    def url(self) -> str:
        """The node's address."""
        return self._url

    @property
    def transport(self) -> JsonRpcTransport:
        """What carries its requests."""
        return self._transport

    async def submit(self, signed_tx_blob_hex: str) -> SubmitResult:
        """Submit a signed transaction. `accepted` is what the node says at once: applied, queued or to be retried."""
        result = await self._ask("submit", {"tx_blob": signed_tx_blob_hex})
        digest = self._exchange_digest()
        engine_result = result.get("engine_result")
        if result.get("status") == "error" or not isinstance(engine_result, str):
            return SubmitResult(False, error_code=_SERVER_ERROR, detail=_error_of(result), exchange_digest=digest)
        return SubmitResult(
            accepted=bool(result.get("accepted")) or engine_result == "tesSUCCESS" or engine_result.startswith("ter"),
            tx_hash=_word(_object(result.get("tx_json")).get("hash")),
            engine_result=_word(engine_result),
            detail=_text(result.get("engine_result_message")),
            exchange_digest=digest,
        )

    async def get_tx(self, tx_hash: str) -> TxStatusResult:
        """What the node knows of a transaction."""
        result = await self._ask("tx", {"transaction": tx_hash, "binary": False})
        digest = self._exchange_digest()
        if result.get("error") == _NOT_FOUND:
            return TxStatusResult(False, exchange_digest=digest)
        if result.get("status") == "error" or "error" in result or not result:
            return TxStatusResult(False, error_code=_SERVER_ERROR, detail=_error_of(result), exchange_digest=digest)
        validated = bool(result.get("validated"))
        return TxStatusResult(
            found=True,
            validated=validated,
            ledger_index=_number(result.get("ledger_index")) if validated else None,
            engine_result=_word(_object(result.get("meta")).get("TransactionResult")),
            ledger_close_time=_word(result.get("close_time_iso")),
            exchange_digest=digest,
            memos=_memos(result),
        )

    async def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The `result` of an answer, `{}` when there is none."""
        answer: object = await self._transport.post_json(self._url, {"method": method, "params": [params], "id": _ID})
        return _object(_object(answer).get("result"))

    def _exchange_digest(self) -> str | None:
        return getattr(self._transport, "last_exchange_digest", None)


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _word(value: object) -> str | None:
    """A short text that a receipt can hold: half of a surrogate pair is no text, and no JSON of a receipt has it."""
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or any("\ud800" <= one <= "\udfff" for one in value):
        return None
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _error_of(result: dict[str, Any]) -> str:
    return _text(result.get("error_message")) or _text(result.get("error")) or "the node's answer has another form"


def _memos(result: dict[str, Any]) -> tuple[str, ...] | None:
    """MemoData of all memos; None when the answer says nothing of memos. API version 2 has the transaction below `tx_json`."""
    listed: object = result.get("Memos", _object(result.get("tx_json")).get("Memos"))
    if not isinstance(listed, list):
        return None
    found = (_object(_object(entry).get("Memo")).get("MemoData") for entry in cast("list[object]", listed))
    return tuple(data for data in found if isinstance(data, str))
