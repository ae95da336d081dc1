"""Unsigned transactions that carry one memo. What depends on the account and the ledger (Sequence, Fee and so on) is the signer's."""

from typing import Any

from nexus_attest.attestation.errors import InvalidAnchor
from nexus_attest.attestation.xrpl.memo import MEMO_TYPE_HEX

__all__ = ["plan_account_set_memo", "plan_payment_to_self", "require_amount"]


def plan_payment_to_self(account: str, memo_data_hex: str, amount_drops: str = "1") -> dict[str, Any]:
    """A payment of `amount_drops` (`"0"` or `"1"`) from the account to itself.

    The ledger refuses it (temREDUNDANT). It is kept for readers of its wire form; use `plan_account_set_memo`. Raises InvalidAnchor, a
    ValueError, for another amount, and for an empty account or memo.
    """
    require_amount(amount_drops)
    memos = _memos(account, memo_data_hex)
    return {"TransactionType": "Payment", "Account": account, "Destination": account, "Amount": amount_drops, "Memos": memos}


def plan_account_set_memo(account: str, memo_data_hex: str) -> dict[str, Any]:
    """An AccountSet that changes no setting. Raises InvalidAnchor, a ValueError, for an empty account or memo."""
    return {"TransactionType": "AccountSet", "Account": account, "Memos": _memos(account, memo_data_hex)}


def require_amount(amount_drops: object) -> None:
    """Raises InvalidAnchor unless it is `"0"` or `"1"`."""
    if amount_drops not in ("0", "1"):
        raise InvalidAnchor(f"amount_drops must be '0' or '1', got {amount_drops!r:.100}")


def _memos(account: object, memo_data_hex: object) -> list[dict[str, Any]]:
    if not isinstance(account, str) or not account:
        raise InvalidAnchor("account must be a non-empty string")
    if not isinstance(memo_data_hex, str) or not memo_data_hex:
        raise InvalidAnchor("memo_data_hex must be a non-empty string")
    return [{"Memo": {"MemoType": MEMO_TYPE_HEX, "MemoData": memo_data_hex}}]
