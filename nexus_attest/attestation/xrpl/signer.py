"""Who signs for the ledger. Secrets never leave a signer."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = ["SignResult", "XRPLSigner"]


@dataclass(frozen=True)
class SignResult:
    """A signed transaction, ready to be submitted; `key_id` says which key signed."""

    signed_tx_blob_hex: str
    tx_hash: str
    key_id: str


@runtime_checkable
class XRPLSigner(Protocol):
    """Completes a planned transaction (Sequence, Fee, LastLedgerSequence, SigningPubKey) and signs it."""

    @property
    def account(self) -> str: ...

    @property
    def key_id(self) -> str: ...

    def sign(self, tx_dict: dict[str, Any]) -> SignResult: ...
