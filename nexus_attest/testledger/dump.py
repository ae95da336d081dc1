"""A closed ledger as others can check it: everything in it as JSON, and the proof of one transaction in the form of XLS-41 ("XPOP")."""

from collections.abc import Iterable
from typing import Any

from nexus_attest.testledger.chain import ClosedLedger, Ledger
from nexus_attest.testledger.hashing import Header, tree_path
from nexus_attest.testledger.state import index_of
from nexus_attest.testledger.validators import Validation

__all__ = ["dump", "xpop"]


def dump(ledger: Ledger, index: int) -> dict[str, Any]:
    """A closed ledger, its validations and the validator list."""
    found = ledger.closed(index)
    return {
        "header": _header(found.header),
        "ledger_data": found.header.encode().hex().upper(),
        "ledger_hash": found.hash,
        "state": [{**root.entry(), "index": index_of(root.account).hex().upper()} for root in found.state.values()],
        "transactions": [
            {
                "hash": entry.transaction.hash,
                "tx_blob": entry.transaction.blob.hex().upper(),
                "meta_blob": entry.meta_blob.hex().upper(),
                "tx_json": entry.transaction.fields,
                "meta": entry.metadata,
            }
            for entry in found.entries
        ],
        "unl": ledger.validators.published(ledger.first.header.close_time),
        "validations": [validation.data.hex().upper() for validation in ledger.validations(index)],
    }


def xpop(ledger: Ledger, transaction: str, validations: Iterable[Validation] | None = None) -> dict[str, Any]:
    """The proof of a validated transaction, by the validations of its ledger unless others are given. Raises KeyError if there is none."""
    found = ledger.find(transaction)
    if found is None:
        raise KeyError(transaction)
    closed, entry = found
    signed = ledger.validations(closed.index) if validations is None else validations
    return {
        "ledger": {
            "index": closed.header.index,
            "coins": str(closed.header.coins),
            "phash": closed.header.parent_hash.hex().upper(),
            "txroot": closed.header.transaction_root.hex().upper(),
            "acroot": closed.header.state_root.hex().upper(),
            "pclose": closed.header.parent_close_time,
            "close": closed.header.close_time,
            "cres": closed.header.resolution,
            "flags": closed.header.flags,
        },
        "transaction": {
            "blob": entry.transaction.blob.hex().upper(),
            "meta": entry.meta_blob.hex().upper(),
            "proof": _nested(closed, entry.transaction.id),
        },
        "validation": {
            "data": {validation.signing.node: validation.data.hex().upper() for validation in signed},
            "unl": ledger.validators.published(ledger.first.header.close_time),
        },
    }


def _nested(closed: ClosedLedger, key: bytes) -> list[Any]:
    """The path as one list of 16 within the other: hex, or the list of the node below."""
    *above, last = [[child.hex().upper() for child in node] for node in tree_path(closed.leaves, key)]
    nested: list[Any] = last
    for depth in range(len(above) - 1, -1, -1):
        node: list[Any] = above[depth]
        node[int(key.hex()[depth], 16)] = nested
        nested = node
    return nested


def _header(header: Header) -> dict[str, Any]:
    return {
        "ledger_index": header.index,
        "total_coins": str(header.coins),
        "parent_hash": header.parent_hash.hex().upper(),
        "transaction_hash": header.transaction_root.hex().upper(),
        "account_hash": header.state_root.hex().upper(),
        "parent_close_time": header.parent_close_time,
        "close_time": header.close_time,
        "close_time_resolution": header.resolution,
        "close_flags": header.flags,
    }
