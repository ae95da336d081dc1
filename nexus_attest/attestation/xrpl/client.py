"""What a ledger client answers. Any object with these two methods is one."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["SubmitResult", "TxStatusResult", "XRPLClient"]


@dataclass(frozen=True)
class SubmitResult:
    """The node's answer to a submission; `accepted` is preliminary, the ledger decides later."""

    accepted: bool
    tx_hash: str | None = None
    engine_result: str | None = None
    error_code: str | None = None
    detail: str | None = None
    exchange_digest: str | None = None


@dataclass(frozen=True)
class TxStatusResult:
    """What the node knows of a transaction; final only when `validated`. `memos`: MemoData in hex, None when the answer told none."""

    found: bool
    validated: bool = False
    ledger_index: int | None = None
    engine_result: str | None = None
    ledger_close_time: str | None = None
    error_code: str | None = None
    detail: str | None = None
    exchange_digest: str | None = None
    memos: tuple[str, ...] | None = None


@runtime_checkable
class XRPLClient(Protocol):
    """Raises what its transport raises when the node cannot be reached."""

    async def submit(self, signed_tx_blob_hex: str) -> SubmitResult: ...

    async def get_tx(self, tx_hash: str) -> TxStatusResult: ...
