"""One server of the network: requests in, answers out, and whatever faults it was given in between. Knows no sockets.

Several servers can share a ledger: each with its own history, its own lag, its own faults and its own lies.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from nexus_attest.testledger.chain import ClosedLedger, Ledger
from nexus_attest.testledger.faults import Fault, Faults
from nexus_attest.testledger.history import ALL_METHODS, STREAMS, ledger_summary, stream_messages, validated_transaction
from nexus_attest.testledger.results import RpcError
from nexus_attest.testledger.rpc import Sight, submitted
from nexus_attest.testledger.wire import NotATransaction, Transaction, parse_transaction

__all__ = ["Lost", "Node", "Reply", "Session"]

API_VERSIONS = (1, 2)

_NO_EFFECT = {"refuse", "drop_request", "timeout"}


class Lost(Exception):
    """The client gets no answer: `how` is `refused` (no connection), `closed` (the connection ends) or `silent` (until it gives up)."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it goes over the wire."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"


class Node:
    """A server. `faults` are met by what comes over the wire (`post`, `Session.command`), never by `rpc`.

    `available_from`: it has no ledger before this one. `behind`: it is that many ledgers late.
    """

    def __init__(self, ledger: Ledger, faults: Faults | None = None, *, available_from: int = 0, behind: int = 0) -> None:
        self.ledger = ledger
        self.faults = faults or Faults()
        self.available_from = available_from
        self.behind = behind
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._seen: dict[str, Transaction] = {}
        self._started = ledger.clock()

    def rpc(self, method: str, params: dict[str, Any] | None = None, *, behind: int = 0) -> dict[str, Any]:
        """The result of a request, `status` included; errors are results as well. `behind`: as of that many ledgers ago."""
        params = params or {}
        with self.ledger.lock:
            try:
                answer = self._handler(method)(self._sight(params, behind), params)
            except RpcError as problem:
                return {**problem.answer, "request": {"command": method, **params}, "status": "error"}
        return {**answer, "status": "success"}

    def post(self, body: bytes) -> Reply:
        """Answer the body of an HTTP POST. Raises Lost."""
        try:
            request: Any = json.loads(body)
            method, given = request["method"], request.get("params", [{}])
            params: Any = given[0] if given else {}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return Reply(b"Unable to parse request", 400, "text/plain")
        if not isinstance(method, str) or not isinstance(params, dict):
            return Reply(b"params unparseable", 400, "text/plain")
        extra = {"id": request["id"]} if "id" in request else {}
        return self.exchange(method, cast("dict[str, Any]", params), lambda result: {"result": result, **extra})

    def exchange(self, method: str, params: dict[str, Any], wrap: Callable[[dict[str, Any]], dict[str, Any]]) -> Reply:
        """Answer a request, through the fault that it meets. Raises Lost."""
        with self.ledger.lock:
            self.requests.append((method, params))
            self._remember(method, params)
            fault = self.faults.take(method)
            return _garble(fault, wrap(self._answer(method, params, fault or Fault("none"))))

    def _answer(self, method: str, params: dict[str, Any], fault: Fault) -> dict[str, Any]:
        kind = fault.kind
        if kind in _NO_EFFECT:
            raise Lost({"refuse": "refused", "drop_request": "closed", "timeout": "silent"}[kind])
        if kind == "restart":
            self.ledger.forget_pending()
            raise Lost("closed")
        if kind == "late":
            self._send_later(method, params, fault.number)
            raise Lost("silent")
        if kind == "http503":
            return {}
        if kind == "error":
            return {**RpcError(fault.argument).answer, "request": {"command": method, **params}, "status": "error"}
        if kind == "engine" and method == "submit":
            return self._pretend(params, fault.argument)
        if kind.startswith("forge") and method == "tx":
            return self._forge(kind, params)
        if kind == "duplicate":
            self.rpc(method, params)
        answer = self.rpc(method, params, behind=fault.number if kind == "stale" and method != "submit" else 0)
        if kind == "drop_response":
            raise Lost("closed")
        return answer

    def _handler(self, method: str) -> Callable[[Sight, dict[str, Any]], dict[str, Any]]:
        if method not in ALL_METHODS:
            raise RpcError("unknownCmd")
        return ALL_METHODS[method]

    def _sight(self, params: dict[str, Any], behind: int = 0) -> Sight:
        version = params.get("api_version", 1)
        if type(version) is not int or version not in API_VERSIONS:
            raise RpcError("invalid_API_version")
        first = self.ledger.first.index
        newest = max(first, self.ledger.validated.index - self.behind - behind)
        uptime = int((self.ledger.clock() - self._started).total_seconds())
        return Sight(self.ledger, min(max(first, self.available_from), newest), newest, version, uptime)

    def _remember(self, method: str, params: dict[str, Any]) -> None:
        blob = params.get("tx_blob")
        if method == "submit" and isinstance(blob, str):
            try:
                found = parse_transaction(blob)
            except NotATransaction:
                return
            self._seen[found.hash] = found

    def _send_later(self, method: str, params: dict[str, Any], closes: int) -> None:
        blob = params.get("tx_blob")
        if method != "submit" or not isinstance(blob, str):
            return
        try:
            self.ledger.take_later(parse_transaction(blob), closes)
        except NotATransaction:
            return

    def _pretend(self, params: dict[str, Any], result: str) -> dict[str, Any]:
        try:
            found = parse_transaction(params.get("tx_blob", ""))
        except NotATransaction as problem:
            return {"error": "invalidTransaction", "error_exception": str(problem), "status": "error"}
        fields = {**found.fields, "hash": found.hash}
        return {**submitted(self._sight(params), params["tx_blob"], fields, result), "status": "success"}

    def _forge(self, kind: str, params: dict[str, Any]) -> dict[str, Any]:
        """A lie about the transaction that a client asks for."""
        sight, wanted = self._sight(params), str(params.get("transaction", "")).upper()
        if kind == "forge_not_found":
            answer = RpcError("txnNotFound", searched_all=True).answer
            return {**answer, "request": {"command": "tx", **params}, "status": "error"}
        other = next((item for name, item in self._seen.items() if (name == wanted) == (kind == "forge_validated_blob")), None)
        answer = validated_transaction(sight, *self.ledger.invent(other), binary=params.get("binary") is True)
        return {**answer, "hash": wanted, "status": "success"}


class Session:
    """A WebSocket connection to a server: commands one at a time, and messages once something is subscribed to."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.streams: frozenset[str] = frozenset()
        self.version = 1

    def command(self, message: str | bytes) -> str:
        """Answer a command. Raises Lost."""
        try:
            request: Any = json.loads(message)
            name = request["command"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return json.dumps({"type": "error", "error": "jsonInvalid", "status": "error", "value": str(message)[:100]})
        params: dict[str, Any] = {key: value for key, value in request.items() if key not in ("command", "id")}
        extra = {"id": request["id"]} if "id" in request else {}

        def wrap(result: dict[str, Any]) -> dict[str, Any]:
            if result.get("status") == "error":
                return {**result, "type": "response", **extra}
            inner = {key: value for key, value in result.items() if key != "status"}
            return {"result": inner, "status": "success", "type": "response", **extra}

        if name in ("subscribe", "unsubscribe"):
            return json.dumps(wrap(self._subscribe(params, name == "subscribe")))
        return self.node.exchange(name, params, wrap).body.decode()

    def _subscribe(self, params: dict[str, Any], on: bool) -> dict[str, Any]:
        streams = params.get("streams")
        if not isinstance(streams, list) or not set(cast("list[object]", streams)) <= set(STREAMS):
            return {**RpcError("malformedStream").answer, "status": "error"}
        named = frozenset(cast("list[str]", streams))
        self.streams = self.streams | named if on else self.streams - named
        self.version = params.get("api_version", 1)
        ledger = self.node.ledger
        summary = ledger_summary(ledger, ledger.validated) if on and "ledger" in named else {}
        return {**summary, "status": "success"}

    def messages(self, closed: ClosedLedger) -> list[str]:
        """What this connection is told of a ledger that closed, through the faults of `stream`. Raises Lost."""
        told: list[str] = []
        for message in stream_messages(self.node.ledger, closed, self.streams, self.version):
            fault = self.node.faults.take("stream") or Fault("none")
            if fault.kind in ("refuse", "restart", "drop_request"):
                raise Lost("closed")
            if fault.kind == "drop_response":
                continue
            spelled = json.dumps(message)
            told += {"duplicate": [spelled, spelled], "malformed": ["<html>"], "truncated": [spelled[: len(spelled) // 2]]}.get(
                fault.kind, [spelled]
            )
        return told


def _garble(fault: Fault | None, answer: dict[str, Any]) -> Reply:
    body = json.dumps(answer).encode()
    match fault.kind if fault is not None else None:
        case "http503":
            return Reply(b"Server is overloaded", 503, "text/plain")
        case "http500":
            return Reply(b"Internal Server Error", 500, "text/plain")
        case "malformed":
            return Reply(b"<html>Bad gateway</html>", 200, "text/html")
        case "truncated":
            return Reply(body[: len(body) // 2])
        case "empty":
            return Reply(b"")
        case "wrong_shape":
            return Reply(b'{"result": [1, 2, 3]}')
        case "load_warning":
            return Reply(json.dumps({**answer, "warning": "load"}).encode())
        case _:
            return Reply(body)
