"""Accounts as the ledger keeps them: the AccountRoot object, its place in the state tree, and what a transaction changed in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from xrpl.core.addresscodec import decode_classic_address
from xrpl.core.binarycodec import encode

from nexus_attest.testledger.hashing import account_index, state_leaf, tree_root

__all__ = [
    "DEPOSIT_AUTH",
    "DISABLE_MASTER",
    "REQUIRE_DEST_TAG",
    "AccountRoot",
    "State",
    "affected_node",
    "index_of",
    "leaves",
    "state_root",
]

REQUIRE_DEST_TAG = 0x00020000
DISABLE_MASTER = 0x00100000
DEPOSIT_AUTH = 0x01000000

NO_TRANSACTION = "0" * 64


def _named(name: str) -> Any:
    return field(default=None, metadata={"field": name})


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRoot:
    """One account; `previous_*` name the transaction that changed it last, and hex values are in capital letters."""

    account: str
    balance: int
    sequence: int
    flags: int = 0
    owner_count: int = 0
    previous_txn: str = NO_TRANSACTION
    previous_ledger: int = 0
    regular_key: str | None = _named("RegularKey")
    domain: str | None = _named("Domain")
    email_hash: str | None = _named("EmailHash")
    message_key: str | None = _named("MessageKey")
    wallet_locator: str | None = _named("WalletLocator")

    def content(self) -> dict[str, Any]:
        """The fields that a transaction can change, and the account, by their names on the ledger."""
        options = {item.metadata["field"]: getattr(self, item.name) for item in fields(self) if item.metadata}
        return {
            "Account": self.account,
            "Balance": str(self.balance),
            "Flags": self.flags,
            "OwnerCount": self.owner_count,
            "Sequence": self.sequence,
            **{name: value for name, value in options.items() if value is not None},
        }

    def entry(self) -> dict[str, Any]:
        """The whole object, ready for the codec."""
        links = {"PreviousTxnID": self.previous_txn, "PreviousTxnLgrSeq": self.previous_ledger}
        return {"LedgerEntryType": "AccountRoot", **self.content(), **links}


State = Mapping[str, AccountRoot]
"""All accounts of a ledger by their addresses."""


@lru_cache(maxsize=65536)
def index_of(account: str) -> bytes:
    """The key of an account in the state tree."""
    return account_index(decode_classic_address(account))


@lru_cache(maxsize=65536)
def _leaf(root: AccountRoot) -> bytes:
    return state_leaf(bytes.fromhex(encode(root.entry())), index_of(root.account))


def leaves(state: State) -> dict[bytes, bytes]:
    """The leaves of the state tree by their keys."""
    return {index_of(account): _leaf(root) for account, root in state.items()}


def state_root(state: State) -> bytes:
    """The root of the state tree."""
    return tree_root(leaves(state))


def affected_node(before: AccountRoot | None, after: AccountRoot) -> dict[str, Any]:
    """What metadata says of an account that a transaction created (`before` is None) or changed."""
    node: dict[str, Any] = {"LedgerEntryType": "AccountRoot", "LedgerIndex": index_of(after.account).hex().upper()}
    now = after.content()
    if before is None:
        return {"CreatedNode": {**node, "NewFields": {name: value for name, value in now.items() if value}}}
    was = before.content()
    node |= {"FinalFields": now, "PreviousFields": {name: value for name, value in was.items() if now.get(name) != value}}
    if before.previous_txn != NO_TRANSACTION:
        node |= {"PreviousTxnID": before.previous_txn, "PreviousTxnLgrSeq": before.previous_ledger}
    return {"ModifiedNode": node}
