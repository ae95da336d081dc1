"""Signed transactions as bytes: decoding, and the checks that a server makes before a transaction is looked at at all."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xrpl.constants import XRPLException
from xrpl.core.binarycodec import decode, encode, encode_for_signing
from xrpl.core.keypairs import derive_classic_address

from nexus_attest.testledger.hashing import transaction_id
from nexus_attest.testledger.keys import Key, is_public_key, verify

__all__ = ["MEMOS_MAX", "NotATransaction", "Transaction", "parse_transaction", "sign_transaction"]

MEMOS_MAX = 1024
"""Bytes of the memo array, without the two that begin and end it (rippled, `isMemoOkay`)."""

_URL = frozenset("0123456789-._~:/?#[]@!$&'()*+,;=%ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_MEMO_FIELDS = {"MemoType", "MemoData", "MemoFormat"}
_PSEUDO = {"EnableAmendment", "SetFee", "UNLModify"}

_REQUIRED = {"TransactionType", "Account", "Fee", "Sequence", "SigningPubKey"}
_COMMON = {
    "TxnSignature",
    "Flags",
    "LastLedgerSequence",
    "Memos",
    "NetworkID",
    "SourceTag",
    "AccountTxnID",
    "TicketSequence",
    "Signers",
} | {
    "Delegate",
    "OperationLimit",
    "PreviousTxnID",
}
_FIELDS = {
    "Payment": ({"Destination", "Amount"}, {"SendMax", "Paths", "InvoiceID", "DestinationTag", "DeliverMin", "CredentialIDs", "DomainID"}),
    "AccountSet": (
        set[str](),
        {"EmailHash", "WalletLocator", "WalletSize", "MessageKey", "Domain", "TransferRate", "SetFlag", "ClearFlag", "TickSize"}
        | {"NFTokenMinter"},
    ),
    "SetRegularKey": (set[str](), {"RegularKey"}),
}
"""Fields that each type needs, and others that it may have."""


class NotATransaction(Exception):
    """A blob that a server refuses as `invalidTransaction`; the text is its `error_exception`."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed transaction that passed the local checks: its bytes, its id, its fields as the codec decodes them (not to be changed)."""

    blob: bytes
    id: bytes
    fields: dict[str, Any]

    @property
    def hash(self) -> str:
        """The id in capital hex digits."""
        return self.id.hex().upper()

    @property
    def kind(self) -> str:
        """The type."""
        return self.fields["TransactionType"]

    @property
    def account(self) -> str:
        """Who sends it."""
        return self.fields["Account"]

    @property
    def sequence(self) -> int:
        """The account's number that it uses up."""
        return self.fields["Sequence"]

    @property
    def fee(self) -> int:
        """In drops; -1 for a fee that is no amount of XRP."""
        fee = self.fields["Fee"]
        return int(fee) if isinstance(fee, str) else -1

    @property
    def last_ledger(self) -> int | None:
        """The last ledger that it may be part of."""
        return self.fields.get("LastLedgerSequence")

    @property
    def signer(self) -> str | None:
        """The account of the key that signed; None when that key is left to a list of signers."""
        key = self.fields["SigningPubKey"]
        return derive_classic_address(key) if key else None

    def __hash__(self) -> int:
        return hash(self.id)


def sign_transaction(key: Key, fields: dict[str, Any]) -> Transaction:
    """Sign complete fields; nothing is filled in, and nothing is checked."""
    whole = {**fields, "SigningPubKey": key.hex}
    whole["TxnSignature"] = key.sign(bytes.fromhex(encode_for_signing(whole))).hex().upper()
    blob = bytes.fromhex(encode(whole))
    return Transaction(blob, transaction_id(blob), decode(blob.hex()))


@lru_cache(maxsize=4096)
def parse_transaction(text: str) -> Transaction:
    """The transaction of a hex blob. Raises NotATransaction unless encoding, fields, signature and memos are in order."""
    try:
        blob = bytes.fromhex(text)
        fields = decode(text)
        again = bytes.fromhex(encode(fields))
    except (XRPLException, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as problem:
        raise NotATransaction(f"{type(problem).__name__} while decoding") from None
    if again != blob:
        raise NotATransaction("Transaction is not canonically encoded.")
    _check_template(fields)
    found = Transaction(blob, transaction_id(blob), fields)
    _check_signature(found)
    if "Memos" in fields:
        _check_memos(fields["Memos"])
    return found


def _check_template(fields: dict[str, Any]) -> None:
    kind = fields.get("TransactionType")
    if not isinstance(kind, str) or kind == "Invalid":
        raise NotATransaction("Unknown transaction type.")
    if kind in _PSEUDO:
        raise NotATransaction("fails local checks: Cannot submit pseudo transactions.")
    needed, allowed = _FIELDS.get(kind, (set[str](), set(fields)))
    for name in sorted((_REQUIRED | needed) - set(fields)):
        raise NotATransaction(f"Field '{name}' is required but missing.")
    for name in sorted(set(fields) - _REQUIRED - needed - _COMMON - allowed):
        raise NotATransaction(f"Field '{name}' found in disallowed location.")


def _check_signature(transaction: Transaction) -> None:
    fields = transaction.fields
    if fields["SigningPubKey"] == "" and fields.get("Signers"):
        return  # there are no lists of signers here: such a transaction fails later, whoever signed it
    key = bytes.fromhex(fields["SigningPubKey"])
    signature = bytes.fromhex(fields.get("TxnSignature", ""))
    if not is_public_key(key) or not verify(key, bytes.fromhex(encode_for_signing(fields)), signature):
        raise NotATransaction("fails local checks: Invalid signature.")


def _check_memos(memos: list[dict[str, Any]]) -> None:
    if len(encode({"Memos": memos})) // 2 - 2 > MEMOS_MAX:
        raise NotATransaction("fails local checks: The memo exceeds the maximum allowed size.")
    for entry in memos:
        if set(entry) != {"Memo"}:
            raise NotATransaction("fails local checks: A memo array may contain only Memo objects.")
        memo: dict[str, str] = entry["Memo"]
        if not set(memo) <= _MEMO_FIELDS:
            raise NotATransaction("fails local checks: A memo may contain only MemoType, MemoData or MemoFormat fields.")
        if not all(_URL.issuperset(bytes.fromhex(memo.get(name, "")).decode("latin-1")) for name in ("MemoType", "MemoFormat")):
            raise NotATransaction(
                "fails local checks: The MemoType and MemoFormat fields may only contain characters that are allowed in URLs under "
                "RFC 3986."
            )
