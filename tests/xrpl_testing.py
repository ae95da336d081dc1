"""A ledger, a signer and a node for tests."""

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from nexus_attest.attestation.intent import AttestationIntent
from nexus_attest.attestation.xrpl.client import SubmitResult, TxStatusResult
from nexus_attest.attestation.xrpl.signer import SignResult

NOON = "2025-01-15T12:00:00+00:00"


def intent(digit: str = "a", **members: Any) -> AttestationIntent:
    """An intent whose binding digest is one digit."""
    return AttestationIntent("nexus.audit_package", "sha256:" + digit * 64, **members)


class Signer:
    """Signs by counting; keeps what it signed."""

    account = "rAccount"
    key_id = "k1"

    def __init__(self) -> None:
        self.signed: list[dict[str, Any]] = []

    def sign(self, tx_dict: dict[str, Any]) -> SignResult:
        self.signed.append(tx_dict)
        return SignResult(f"blob{len(self.signed)}", f"HASH{len(self.signed)}", "k1")


class Ledger:
    """Answers as told; an exception is raised."""

    def __init__(self, submitted: SubmitResult | Exception | None = None, found: TxStatusResult | Exception | None = None) -> None:
        self.submitted = SubmitResult(True, "HASH1", "tesSUCCESS") if submitted is None else submitted
        self.found = TxStatusResult(True, True, 7, "tesSUCCESS", NOON) if found is None else found
        self.blobs: list[str] = []
        self.asked: list[str] = []

    async def submit(self, signed_tx_blob_hex: str) -> SubmitResult:
        self.blobs.append(signed_tx_blob_hex)
        if isinstance(self.submitted, Exception):
            raise self.submitted
        return self.submitted

    async def get_tx(self, tx_hash: str) -> TxStatusResult:
        self.asked.append(tx_hash)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@contextmanager
def node(answer: Callable[[dict[str, Any]], tuple[int, object]]) -> Generator[str]:
    """The address of an HTTP server that answers each JSON-RPC request with a status and a result."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, result = answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = json.dumps(result).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def healthy(request: dict[str, Any]) -> tuple[int, object]:
    """A node that takes everything and has validated it at once."""
    if request["method"] == "submit":
        result = {"status": "success", "engine_result": "tesSUCCESS", "accepted": True, "tx_json": {"hash": "ABC"}}
        return 200, {"result": result}
    meta = {"TransactionResult": "tesSUCCESS"}
    return 200, {"result": {"status": "success", "validated": True, "ledger_index": 9, "meta": meta, "close_time_iso": NOON}}
