"""The methods that answer from closed ledgers: `tx`, `ledger`, `account_tx`; and the messages of the streams."""

from typing import Any

from xrpl.core.addresscodec import is_valid_classic_address

from nexus_attest.testledger.chain import ClosedLedger, Entry, Ledger
from nexus_attest.testledger.clock import iso
from nexus_attest.testledger.results import RpcError, result_code, result_message
from nexus_attest.testledger.rpc import METHODS, Method, Params, Sight, closed_ledger, integer, text
from nexus_attest.testledger.state import leaves
from nexus_attest.testledger.wire import Transaction

__all__ = ["ALL_METHODS", "STREAMS", "stream_messages", "validated_transaction"]

STREAMS = ("ledger", "transactions", "validations")

_RANGE_MAX = 1000
_LIMIT = 200


def _tx(sight: Sight, params: Params) -> dict[str, Any]:
    wanted = text(params, "transaction").upper()
    if len(wanted) != 64 or not set(wanted) <= set("0123456789ABCDEF"):
        raise RpcError("notImpl")
    searched = _searched_all(sight, params)
    found = sight.ledger.find(wanted)
    if found is not None and sight.oldest <= found[0].index <= sight.newest:
        return validated_transaction(sight, *found, binary=params.get("binary") is True)
    pool = sight.ledger.pool
    pending = next((item for item, _ in pool.applied.values() if item.hash == wanted), None) if sight.is_current else None
    if pending is not None:
        return _pending(sight, pending, params.get("binary") is True)
    beside: dict[str, Any] = {} if searched is None else {"searched_all": searched}
    raise RpcError("txnNotFound", None, **beside)


def _searched_all(sight: Sight, params: Params) -> bool | None:
    """Whether the server has every ledger of the range that a request names; None without a range."""
    if "min_ledger" not in params or "max_ledger" not in params:
        return None
    low, high = integer(params, "min_ledger", -1), integer(params, "max_ledger", -1)
    if low < 0 or high < low:
        raise RpcError("invalidLgrRange")
    if high - low > _RANGE_MAX:
        raise RpcError("excessiveLgrRange")
    return sight.oldest <= low and high <= sight.newest


def validated_transaction(sight: Sight, closed: ClosedLedger, entry: Entry, *, binary: bool) -> dict[str, Any]:
    """The answer to `tx` about a validated transaction."""
    answer: dict[str, Any] = {
        "ctid": f"C{closed.index:07X}{entry.position:04X}{sight.ledger.network_id:04X}",
        "hash": entry.transaction.hash,
        "ledger_hash": closed.hash,
        "ledger_index": closed.index,
        "validated": True,
    }
    if sight.ledger.network_id > 0xFFFF:
        del answer["ctid"]
    if sight.version > 1:
        return answer | {"close_time_iso": iso(closed.header.close_time)} | _body(closed, entry, sight.version, binary=binary)
    answer |= {"date": closed.header.close_time, "inLedger": closed.index}
    body = _body(closed, entry, 1, binary=binary)
    return answer | (body if binary else {**body["tx"], "meta": body["meta"]})


def _pending(sight: Sight, pending: Transaction, binary: bool) -> dict[str, Any]:
    blob = pending.blob.hex().upper()
    answer = {"hash": pending.hash, "validated": False}
    if sight.version > 1:
        return answer | ({"tx_blob": blob} if binary else {"tx_json": dict(pending.fields)})
    return answer | ({"tx": blob} if binary else pending.fields)


def _body(closed: ClosedLedger, entry: Entry, version: int, *, binary: bool) -> dict[str, Any]:
    """A transaction and its metadata, under the names of this version."""
    if binary:
        names = ("tx_blob", "meta_blob") if version > 1 else ("tx", "meta")
        return dict(zip(names, (entry.transaction.blob.hex().upper(), entry.meta_blob.hex().upper()), strict=True))
    fields = {**entry.transaction.fields, "date": closed.header.close_time, "ledger_index": closed.index}
    meta = dict(entry.metadata)
    if entry.transaction.kind == "Payment" and entry.result == "tesSUCCESS":
        meta["delivered_amount"] = fields["Amount"]
    if version > 1:
        if entry.transaction.kind == "Payment":
            fields["DeliverMax"] = fields.pop("Amount")
        return {"tx_json": fields, "meta": meta}
    return {"tx": {**fields, "hash": entry.transaction.hash}, "meta": meta}


def _ledger(sight: Sight, params: Params) -> dict[str, Any]:
    found = closed_ledger(sight, params)
    if params.get("accounts") or params.get("full") or params.get("owner_funds") or params.get("queue"):
        raise RpcError("notSupported")
    if found is None:
        index = sight.newest + 1
        opened: dict[str, Any] = {"closed": False, "ledger_index": index if sight.version > 1 else str(index)}
        opened["parent_hash"] = sight.validated.hash
        if params.get("transactions") and sight.is_current:
            opened["transactions"] = [item.hash for item, _ in sight.ledger.pool.applied.values()]
        return {"ledger": opened, "ledger_current_index": index, "validated": False}
    binary = params.get("binary") is True
    body: dict[str, Any] = (
        {"ledger_data": found.header.encode().hex().upper(), "closed": True} if binary else _header_fields(found, sight.version)
    )
    if params.get("transactions"):
        body["transactions"] = [_listed(found, entry, params, sight.version) for entry in found.entries]
    return {"ledger": body, "ledger_hash": found.hash, "ledger_index": found.index, "validated": True}


def _listed(closed: ClosedLedger, entry: Entry, params: Params, version: int) -> str | dict[str, Any]:
    if not params.get("expand"):
        return entry.transaction.hash
    if params.get("binary") is True:
        blobs = {"tx_blob": entry.transaction.blob.hex().upper(), "hash": entry.transaction.hash}
        return {**blobs, "meta_blob" if version > 1 else "meta": entry.meta_blob.hex().upper()}
    body = _body(closed, entry, version, binary=False)
    if version == 1:
        return {**body["tx"], "metaData": body["meta"]}
    place = {"hash": entry.transaction.hash, "ledger_hash": closed.hash, "ledger_index": closed.index, "validated": True}
    return {**body, **place, "close_time_iso": iso(closed.header.close_time)}


def _header_fields(closed: ClosedLedger, version: int) -> dict[str, Any]:
    header = closed.header
    return {
        "account_hash": header.state_root.hex().upper(),
        "close_flags": header.flags,
        "close_time": header.close_time,
        "close_time_human": iso(header.close_time),
        "close_time_iso": iso(header.close_time),
        "close_time_resolution": header.resolution,
        "closed": True,
        "ledger_hash": closed.hash,
        "ledger_index": header.index if version > 1 else str(header.index),
        "parent_close_time": header.parent_close_time,
        "parent_hash": header.parent_hash.hex().upper(),
        "total_coins": str(header.coins),
        "transaction_hash": header.transaction_root.hex().upper(),
    }


def _account_tx(sight: Sight, params: Params) -> dict[str, Any]:
    account = text(params, "account")
    if not is_valid_classic_address(account):
        raise RpcError("actMalformed")
    low, high = integer(params, "ledger_index_min", -1), integer(params, "ledger_index_max", -1)
    low, high = max(low, sight.oldest), sight.newest if high < 0 else min(high, sight.newest)
    if low > high:
        raise RpcError("lgrIdxsInvalid" if sight.version == 1 else "invalidLgrRange")
    limit = min(max(integer(params, "limit", _LIMIT), 1), _LIMIT)
    found = [item for item in sight.ledger.history(account) if low <= item[0].index <= high]
    if params.get("forward") is not True:
        found.reverse()
    marker = params.get("marker")
    if marker is not None:
        places: list[object] = [{"ledger": closed.index, "seq": entry.position} for closed, entry in found]
        if marker not in places:
            raise RpcError("invalidParams", "Invalid field 'marker'.")
        found = found[places.index(marker) :]
    answer: dict[str, Any] = {"account": account, "ledger_index_min": low, "ledger_index_max": high, "limit": limit, "validated": True}
    if len(found) > limit:
        answer["marker"] = {"ledger": found[limit][0].index, "seq": found[limit][1].position}
    binary = params.get("binary") is True
    answer["transactions"] = [_account_entry(closed, entry, sight.version, binary) for closed, entry in found[:limit]]
    return answer


def _account_entry(closed: ClosedLedger, entry: Entry, version: int, binary: bool) -> dict[str, Any]:
    body = _body(closed, entry, version, binary=binary)
    if version == 1:
        place = {"ledger_index": closed.index} if binary else {}
        return {**({"tx_blob": body["tx"], "meta": body["meta"]} if binary else body), **place, "validated": True}
    place = {"hash": entry.transaction.hash, "ledger_hash": closed.hash, "ledger_index": closed.index, "validated": True}
    return {**body, **place, "close_time_iso": iso(closed.header.close_time)}


def stream_messages(ledger: Ledger, closed: ClosedLedger, streams: frozenset[str], version: int) -> list[dict[str, Any]]:
    """What subscribers of these streams are told when a ledger closes, in the order in which a server sends it."""
    messages: list[dict[str, Any]] = []
    if "validations" in streams:
        messages += [validation.message(ledger.network_id) for validation in ledger.validations(closed.index)]
    if "ledger" in streams:
        messages.append({"type": "ledgerClosed", **ledger_summary(ledger, closed)})
    if "transactions" in streams:
        messages += [_transaction_message(closed, entry, version) for entry in closed.entries]
    return messages


def ledger_summary(ledger: Ledger, closed: ClosedLedger) -> dict[str, Any]:
    """A closed ledger as the stream `ledger` and the answer to a subscription to it describe it."""
    return {
        "fee_base": ledger.fees.base,
        "ledger_hash": closed.hash,
        "ledger_index": closed.index,
        "ledger_time": closed.header.close_time,
        "network_id": ledger.network_id,
        "reserve_base": ledger.fees.reserve,
        "reserve_inc": ledger.fees.increment,
        "txn_count": len(closed.entries),
        "validated_ledgers": f"{ledger.first.index}-{closed.index}",
    }


def _transaction_message(closed: ClosedLedger, entry: Entry, version: int) -> dict[str, Any]:
    body = _body(closed, entry, version, binary=False)
    message: dict[str, Any] = {
        "type": "transaction",
        "engine_result": entry.result,
        "engine_result_code": result_code(entry.result),
        "engine_result_message": result_message(entry.result),
        "ledger_hash": closed.hash,
        "ledger_index": closed.index,
        "meta": body["meta"],
        "status": "closed",
        "validated": True,
        "close_time_iso": iso(closed.header.close_time),
    }
    if version > 1:
        return {**message, "tx_json": body["tx_json"], "hash": entry.transaction.hash}
    return {**message, "transaction": body["tx"]}


def _ledger_data(sight: Sight, params: Params) -> dict[str, Any]:
    found = closed_ledger(sight, params, "validated") or sight.validated
    by_index = dict(zip(leaves(found.state), found.state.values(), strict=True))
    state = [{**root.entry(), "index": index.hex().upper()} for index, root in sorted(by_index.items())]
    return {"ledger_hash": found.hash, "ledger_index": found.index, "state": state, "validated": True}


ALL_METHODS: dict[str, Method] = {**METHODS, "account_tx": _account_tx, "ledger": _ledger, "ledger_data": _ledger_data, "tx": _tx}
"""Every method of a server by its name."""
