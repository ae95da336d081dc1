"""The methods of a server, one request in, one result out: shapes as real servers give them, for API versions 1 and 2.

Sources: xrpl.org, *Public API Methods*, and rippled's handlers. What is not here is `unknownCmd`, never a guess.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xrpl.core.addresscodec import is_valid_classic_address

from nexus_attest.testledger.chain import ClosedLedger, Ledger
from nexus_attest.testledger.clock import since_2000
from nexus_attest.testledger.pool import QUEUE_MAX
from nexus_attest.testledger.results import RpcError, result_code, result_message
from nexus_attest.testledger.state import AccountRoot, index_of
from nexus_attest.testledger.wire import NotATransaction

__all__ = ["BUILD_VERSION", "METHODS", "Method", "Sight", "closed_ledger", "integer", "submitted", "text"]

BUILD_VERSION = "2.6.1"

_FLAG_NAMES = {
    "defaultRipple": 0x00800000,
    "depositAuth": 0x01000000,
    "disableMasterKey": 0x00100000,
    "disallowIncomingXRP": 0x00080000,
    "globalFreeze": 0x00400000,
    "noFreeze": 0x00200000,
    "passwordSpent": 0x00010000,
    "requireAuthorization": 0x00040000,
    "requireDestinationTag": 0x00020000,
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What one server sees of a ledger while it answers one request: the closed ledgers from `oldest` to `newest`."""

    ledger: Ledger
    oldest: int
    newest: int
    version: int
    uptime: int

    @property
    def validated(self) -> ClosedLedger:
        return self.ledger.closed(self.newest)

    @property
    def is_current(self) -> bool:
        """Whether it is up to date; if not, the open ledger is the one after `newest`, with nothing in it."""
        return self.newest == self.ledger.validated.index

    def closed(self, index: int) -> ClosedLedger:
        """A closed ledger. Raises RpcError for one that it does not have."""
        if not self.oldest <= index <= self.newest:
            raise RpcError("lgrNotFound")
        return self.ledger.closed(index)

    @property
    def open_state(self) -> Mapping[str, AccountRoot]:
        return self.ledger.pool.state if self.is_current else self.validated.state

    @property
    def range(self) -> str:
        """The closed ledgers that it has, as servers spell it."""
        return f"{self.oldest}-{self.newest}"


Params = dict[str, Any]
Method = Callable[[Sight, Params], dict[str, Any]]


def text(params: Params, name: str) -> str:
    """A required string. Raises RpcError."""
    value = params.get(name)
    if not isinstance(value, str):
        raise RpcError("invalidParams", f"Missing field '{name}'." if value is None else f"Invalid field '{name}', not string.")
    return value


def integer(params: Params, name: str, default: int) -> int:
    """An optional integer. Raises RpcError."""
    value = params.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RpcError("invalidParams", f"Invalid field '{name}', not integer.")
    return value


def closed_ledger(sight: Sight, params: Params, default: str = "current") -> ClosedLedger | None:
    """The ledger that a request names by `ledger_index` or `ledger_hash`; None for the open one. Raises RpcError."""
    named = params.get("ledger_hash")
    if named is not None:
        if not isinstance(named, str) or len(named) != 64:
            raise RpcError("invalidParams", "ledgerHashMalformed")
        for index in range(sight.newest, sight.oldest - 1, -1):
            if sight.ledger.closed(index).hash == named.upper():
                return sight.ledger.closed(index)
        raise RpcError("lgrNotFound")
    index = params.get("ledger_index", default)
    if index == "current":
        return None
    if index in ("validated", "closed"):
        return sight.validated
    if isinstance(index, str) and index.isascii() and index.isdigit():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise RpcError("invalidParams", "ledgerIndexMalformed")
    return None if index == sight.newest + 1 else sight.closed(index)


def _server_info(sight: Sight, _: Params) -> dict[str, Any]:
    header, fees = sight.validated.header, sight.ledger.fees
    info = {
        "build_version": BUILD_VERSION,
        "complete_ledgers": sight.range,
        "hostid": "TEST",
        "last_close": {"converge_time_s": 2, "proposers": len(sight.ledger.validators.members)},
        "load_factor": 1,
        "network_id": sight.ledger.network_id,
        "peers": 10,
        "pubkey_node": sight.ledger.validators.publisher.node,
        "server_state": "full",
        "time": sight.ledger.clock().strftime("%Y-%b-%d %H:%M:%S.%f UTC"),
        "uptime": sight.uptime,
        "validated_ledger": {
            "age": max(0, since_2000(sight.ledger.clock()) - header.close_time),
            "base_fee_xrp": fees.base / 1_000_000,
            "hash": sight.validated.hash,
            "reserve_base_xrp": fees.reserve / 1_000_000,
            "reserve_inc_xrp": fees.increment / 1_000_000,
            "seq": header.index,
        },
        "validation_quorum": sight.ledger.validators.quorum,
    }
    return {"info": info}


def _fee(sight: Sight, _: Params) -> dict[str, Any]:
    pool, fees = sight.ledger.pool, sight.ledger.fees
    count = len(pool.applied)
    return {
        "current_ledger_size": str(count),
        "current_queue_size": str(len(pool.queue)),
        "drops": {
            "base_fee": str(fees.base),
            "median_fee": str(fees.base * 500),
            "minimum_fee": str(fees.base),
            "open_ledger_fee": str(pool.price),
        },
        "expected_ledger_size": str(fees.expected_size),
        "ledger_current_index": sight.newest + 1,
        "levels": {
            "median_level": "128000",
            "minimum_level": "256",
            "open_ledger_level": str(max(256, fees.level(count))),
            "reference_level": "256",
        },
        "max_queue_size": str(QUEUE_MAX),
    }


def _account_info(sight: Sight, params: Params) -> dict[str, Any]:
    account = text(params, "account")
    if not is_valid_classic_address(account):
        raise RpcError("actMalformed")
    found = closed_ledger(sight, params)
    where = _place(sight, found)
    root = (sight.open_state if found is None else found.state).get(account)
    if root is None:
        raise RpcError("actNotFound", account=account, **where)
    result = {
        "account_data": {**root.entry(), "index": index_of(account).hex().upper()},
        "account_flags": {name: bool(root.flags & flag) for name, flag in _FLAG_NAMES.items()},
        **where,
    }
    if params.get("queue") is True:
        if found is not None:
            raise RpcError("invalidParams", "Invalid parameters.")
        result["queue_data"] = _queue_data(sight, account)
    return result


def _queue_data(sight: Sight, account: str) -> dict[str, Any]:
    waiting = sight.ledger.pool.waiting(account)
    if not waiting:
        return {"txn_count": 0}
    entries = [
        {
            "LastLedgerSequence": item.last_ledger,
            "auth_change": False,
            "fee": str(item.fee),
            "fee_level": str(item.fee * 256 // sight.ledger.fees.base),
            "max_spend_drops": str(item.fee),
            "seq": seq,
        }
        for seq, item in waiting.items()
    ]
    return {
        "auth_change_queued": False,
        "highest_sequence": max(waiting),
        "lowest_sequence": min(waiting),
        "max_spend_drops_total": str(sum(item.fee for item in waiting.values())),
        "transactions": entries,
        "txn_count": len(waiting),
    }


def _submit(sight: Sight, params: Params) -> dict[str, Any]:
    if "tx_blob" not in params:
        raise RpcError("notSupported", "Signing is not supported by this server.")
    try:
        found = sight.ledger.submit(text(params, "tx_blob"), fail_hard=params.get("fail_hard") is True)
    except NotATransaction as problem:
        raise RpcError("invalidTransaction", error_exception=str(problem)) from None
    return submitted(sight, params["tx_blob"], {**found.transaction.fields, "hash": found.transaction.hash}, found.result)


def submitted(sight: Sight, blob: str, fields: dict[str, Any], result: str) -> dict[str, Any]:
    """The answer to `submit`. `accepted` and `kept` are true whatever the result is: a blob that was submitted here is always kept."""
    applied, queued = result.startswith(("tes", "tec")), result == "terQUEUED"
    answer = {
        "accepted": True,
        "applied": applied,
        "broadcast": applied or queued,
        "engine_result": result,
        "engine_result_code": result_code(result),
        "engine_result_message": result_message(result),
        "kept": True,
        "open_ledger_cost": str(sight.ledger.pool.price),
        "queued": queued,
        "tx_blob": blob,
        "tx_json": fields,
        "validated_ledger_index": sight.newest,
    }
    sender = sight.ledger.pool.state.get(fields["Account"])
    if sender is not None:
        answer["account_sequence_next"] = sender.sequence
        answer["account_sequence_available"] = sight.ledger.pool.next_sequence(sender.account)
    return answer


def _manifest(sight: Sight, params: Params) -> dict[str, Any]:
    key = text(params, "public_key")
    found = sight.ledger.validators.by_key(key)
    if found is None:
        return {"requested": key}
    details = {"ephemeral_key": found.signing.node, "master_key": found.master.node, "seq": found.rotation, "domain": ""}
    return {"details": details, "manifest": b64encode(found.manifest()).decode(), "requested": key}


def _ledger_current(sight: Sight, _: Params) -> dict[str, Any]:
    return {"ledger_current_index": sight.newest + 1}


def _ledger_closed(sight: Sight, _: Params) -> dict[str, Any]:
    return {"ledger_hash": sight.validated.hash, "ledger_index": sight.newest}


def _ledger_accept(sight: Sight, _: Params) -> dict[str, Any]:
    return {"ledger_current_index": sight.ledger.close().index + 1}


def _ping(_: Sight, __: Params) -> dict[str, Any]:
    return {}


def _place(sight: Sight, found: ClosedLedger | None) -> dict[str, Any]:
    if found is None:
        return {"ledger_current_index": sight.newest + 1, "validated": False}
    return {"ledger_hash": found.hash, "ledger_index": found.index, "validated": True}


METHODS: dict[str, Method] = {
    "account_info": _account_info,
    "fee": _fee,
    "ledger_accept": _ledger_accept,
    "ledger_closed": _ledger_closed,
    "ledger_current": _ledger_current,
    "manifest": _manifest,
    "ping": _ping,
    "server_info": _server_info,
    "submit": _submit,
}
