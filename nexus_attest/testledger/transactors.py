"""What transactions do: checks before the state is looked at, checks against it, and their effect, in the order of real servers.

Known are XRP `Payment`, `AccountSet` and `SetRegularKey`. What real servers know and this one does not (other types, other fields, amounts
that are not XRP) is `temUNKNOWN`, never a guess.
"""

from dataclasses import dataclass, replace
from typing import Any

from nexus_attest.testledger.state import DEPOSIT_AUTH, DISABLE_MASTER, REQUIRE_DEST_TAG, AccountRoot, State
from nexus_attest.testledger.wire import Transaction

__all__ = ["Outcome", "authorized", "execute", "is_blocker", "preflight"]

MAX_DROPS = 10**17
FULLY_CANONICAL, INNER_BATCH = 0x80000000, 0x40000000

_UNKNOWN_FIELDS = {"CredentialIDs", "Delegate", "DeliverMin", "DomainID", "OperationLimit", "PreviousTxnID"} | {
    "NFTokenMinter",
    "TickSize",
    "TransferRate",
    "WalletSize",
}

_ACCOUNT_FLAGS = {
    1: REQUIRE_DEST_TAG,
    2: 0x00040000,
    3: 0x00080000,
    4: DISABLE_MASTER,
    6: 0x00200000,
    7: 0x00400000,
    8: 0x00800000,
    9: DEPOSIT_AUTH,
}
"""The flags of AccountSet by their numbers (`asf...`), as flags of the account (`lsf...`)."""

_REQUIRE_AUTH, _DISABLE_MASTER, _ACCOUNT_TXN_ID = 2, 4, 5

_OPTIONS = {"Domain": "domain", "EmailHash": "email_hash", "MessageKey": "message_key", "WalletLocator": "wallet_locator"}

_TF_REQUIRE_TAG, _TF_OPTIONAL_TAG, _TF_DISALLOW_XRP, _TF_ALLOW_XRP = 0x00010000, 0x00020000, 0x00100000, 0x00200000
_ACCOUNT_SET_FLAGS = _TF_REQUIRE_TAG | _TF_OPTIONAL_TAG | 0x00040000 | 0x00080000 | _TF_DISALLOW_XRP | _TF_ALLOW_XRP
_NO_DIRECT, _PARTIAL, _LIMIT_QUALITY = 0x00010000, 0x00020000, 0x00040000


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result and the accounts as they are afterwards; a `tec` changes the sender's fee and Sequence only."""

    result: str
    changed: tuple[AccountRoot, ...]


def preflight(transaction: Transaction, network_id: int) -> str | None:
    """The result of a transaction that is wrong whatever the state is; None for one that may go on."""
    return _network(transaction, network_id) or _common(transaction) or _of_kind(transaction)


def authorized(transaction: Transaction, sender: AccountRoot) -> str | None:
    """The result of a transaction that is signed with a key which must not sign for this account; None if it may."""
    signer = transaction.signer
    if signer is None:
        return "tefNOT_MULTI_SIGNING"
    if signer == sender.regular_key:
        return None
    if signer != sender.account:
        return "tefBAD_AUTH"
    return "tefMASTER_DISABLED" if sender.flags & DISABLE_MASTER else None


def is_blocker(transaction: Transaction) -> bool:
    """Whether it can change who may sign, so that nothing may wait behind it in the queue."""
    options = (_REQUIRE_AUTH, _DISABLE_MASTER, _ACCOUNT_TXN_ID)
    return transaction.kind == "SetRegularKey" or any(transaction.fields.get(name) in options for name in ("SetFlag", "ClearFlag"))


def execute(transaction: Transaction, state: State, index: int, reserve: int) -> Outcome:
    """The effect on `state` in ledger `index` of a transaction whose Sequence, fee and signer were found in order."""
    before = state[transaction.account]
    paid = replace(before, balance=before.balance - transaction.fee, sequence=before.sequence + 1)
    match transaction.kind:
        case "Payment":
            found = _pay(transaction, before, paid, state, index, reserve)
        case "AccountSet":
            found = _set_account(transaction, paid)
        case _:
            found = _set_regular_key(transaction, paid)
    return Outcome(found, (paid,)) if isinstance(found, str) else Outcome("tesSUCCESS", found)


def _network(transaction: Transaction, network_id: int) -> str | None:
    named = transaction.fields.get("NetworkID")
    if network_id <= 1024:
        return "telNETWORK_ID_MAKES_TX_NON_CANONICAL" if named is not None else None
    if named is None:
        return "telREQUIRES_NETWORK_ID"
    return None if named == network_id else "telWRONG_NETWORK"


def _common(transaction: Transaction) -> str | None:
    fields = transaction.fields
    if not 0 <= transaction.fee <= MAX_DROPS:
        return "temBAD_FEE"
    if fields.get("Flags", 0) & INNER_BATCH:
        return "temINVALID_FLAG"
    if fields["Sequence"] and "TicketSequence" in fields:
        return "temSEQ_AND_TICKET"
    if transaction.kind not in ("Payment", "AccountSet", "SetRegularKey") or _UNKNOWN_FIELDS & set(fields):
        return "temUNKNOWN"
    return None


def _of_kind(transaction: Transaction) -> str | None:
    fields = transaction.fields
    flags = fields.get("Flags", 0) & ~FULLY_CANONICAL
    match transaction.kind:
        case "Payment":
            return "temINVALID_FLAG" if flags & ~(_NO_DIRECT | _PARTIAL | _LIMIT_QUALITY) else _check_payment(fields, flags)
        case "AccountSet":
            return _check_account_set(fields, flags)
        case _:
            if flags:
                return "temINVALID_FLAG"
            return "temBAD_REGKEY" if fields.get("RegularKey") == fields["Account"] else None


def _check_payment(fields: dict[str, Any], flags: int) -> str | None:
    if not all(isinstance(fields.get(name, ""), str) for name in ("Amount", "SendMax")):
        return "temUNKNOWN"
    if not 0 < int(fields["Amount"]) <= MAX_DROPS:
        return "temBAD_AMOUNT"
    if "SendMax" in fields:
        return "temBAD_SEND_XRP_MAX"
    if "Paths" in fields:
        return "temBAD_SEND_XRP_PATHS"
    if fields["Account"] == fields["Destination"]:
        return "temREDUNDANT"
    refused = {_PARTIAL: "temBAD_SEND_XRP_PARTIAL", _LIMIT_QUALITY: "temBAD_SEND_XRP_LIMIT", _NO_DIRECT: "temBAD_SEND_XRP_NO_DIRECT"}
    return next((result for flag, result in refused.items() if flags & flag), None)


def _check_account_set(fields: dict[str, Any], flags: int) -> str | None:
    on, off = fields.get("SetFlag", 0), fields.get("ClearFlag", 0)
    clash = any(
        flags & with_flag and (flags & without or option in (on, off))
        for with_flag, without, option in ((_TF_REQUIRE_TAG, _TF_OPTIONAL_TAG, 1), (_TF_DISALLOW_XRP, _TF_ALLOW_XRP, 3))
    )
    if flags & ~_ACCOUNT_SET_FLAGS or (on and on == off) or clash:
        return "temINVALID_FLAG"
    if flags & (0x00040000 | 0x00080000) or not {on, off} <= {0, *_ACCOUNT_FLAGS}:
        return "temUNKNOWN"
    return None


def _pay(
    transaction: Transaction, before: AccountRoot, paid: AccountRoot, state: State, index: int, reserve: int
) -> tuple[AccountRoot, ...] | str:
    amount = int(transaction.fields["Amount"])
    target = state.get(transaction.fields["Destination"])
    if target is None and amount < reserve:
        return "tecNO_DST_INSUF_XRP"
    if target is not None and target.flags & REQUIRE_DEST_TAG and "DestinationTag" not in transaction.fields:
        return "tecDST_TAG_NEEDED"
    if before.balance < amount + max(reserve, transaction.fee):
        return "tecUNFUNDED_PAYMENT"
    if target is not None and target.flags & DEPOSIT_AUTH and (amount > reserve or target.balance > reserve):
        return "tecNO_PERMISSION"
    sender = replace(paid, balance=paid.balance - amount)
    if target is None:
        return sender, AccountRoot(account=transaction.fields["Destination"], balance=amount, sequence=index)
    return sender, replace(target, balance=target.balance + amount)


def _set_account(transaction: Transaction, sender: AccountRoot) -> tuple[AccountRoot, ...] | str:
    fields = transaction.fields
    on, off, legacy = fields.get("SetFlag", 0), fields.get("ClearFlag", 0), fields.get("Flags", 0)
    if on == _DISABLE_MASTER:
        if transaction.signer != sender.account:
            return "tecNEED_MASTER_KEY"
        if sender.regular_key is None:
            return "tecNO_ALTERNATIVE_KEY"
    flags = (sender.flags | _ACCOUNT_FLAGS.get(on, 0)) & ~_ACCOUNT_FLAGS.get(off, 0)
    for with_flag, without, option in ((_TF_REQUIRE_TAG, _TF_OPTIONAL_TAG, 1), (_TF_DISALLOW_XRP, _TF_ALLOW_XRP, 3)):
        if legacy & with_flag:
            flags |= _ACCOUNT_FLAGS[option]
        if legacy & without:
            flags &= ~_ACCOUNT_FLAGS[option]
    # Empty and all-zero values remove the option.
    options = {_OPTIONS[name]: fields[name] if fields[name].strip("0") else None for name in _OPTIONS if name in fields}
    return (replace(sender, flags=flags, **options),)


def _set_regular_key(transaction: Transaction, sender: AccountRoot) -> tuple[AccountRoot, ...] | str:
    key = transaction.fields.get("RegularKey")
    if key is None and sender.flags & DISABLE_MASTER:
        return "tecNO_ALTERNATIVE_KEY"
    return (replace(sender, regular_key=key),)
