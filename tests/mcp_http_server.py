"""An MCP server behind a URL that asks its client without end and takes none of the answers: `python mcp_http_server.py FOLDER [starting]`.

It prints its port, speaks the handshake of 2025-11-25, and writes the method of every request to FOLDER/calls. The tool `question_on` asks
what its argument `asks` names; with `starting` the list of tools does, the first time. Needs the standard library only.
"""

import json
import sys
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

FOLDER = Path(sys.argv[1])
STARTING = sys.argv[2:] == ["starting"]

TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "question_on")]

PARAMS: dict[str, dict[str, Any]] = {
    "ping": {},
    "elicitation/create": {"message": "Really?", "requestedSchema": {"type": "object", "properties": {}}},
    "sampling/createMessage": {"messages": [{"role": "user", "content": {"type": "text", "text": "who?"}}], "maxTokens": 10},
}


SESSIONS = count(1)

DEAF: set[str] = set()
"""The sessions in which nothing is taken any more, also not that they end."""


class Handler(BaseHTTPRequestHandler):
    """Answers what a client needs to get to a call."""

    def do_POST(self) -> None:
        message: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, params = message.get("method"), message.get("params", {})
        if method is None:  # an answer
            DEAF.add(self.headers["Mcp-Session-Id"])
            Event().wait()
        with (FOLDER / "calls").open("a") as file:
            file.write(json.dumps({"name": params.get("name", method)}) + "\n")
        if method == "initialize":
            info = {"name": "asking", "version": "1"}
            result: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
            self.answer(message, result, {"Mcp-Session-Id": f"session-{next(SESSIONS)}"})
        elif method == "tools/list" and STARTING:
            self.ask("ping")
        elif method == "tools/list":
            self.answer(message, {"tools": TOOLS})
        elif method == "tools/call" and params["name"] == "question_on":
            self.ask(params["arguments"]["asks"])
        elif method == "tools/call":
            self.answer(message, {"content": [{"type": "text", "text": "done"}]})
        else:
            self.end(404 if "id" in message else 202)

    def do_GET(self) -> None:
        self.end(405)

    def do_DELETE(self) -> None:
        if self.headers["Mcp-Session-Id"] in DEAF:
            Event().wait()
        self.end(200)

    def end(self, status: int) -> None:
        """An answer without a body."""
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer(self, message: dict[str, Any], result: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
        """The result of a request."""
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        self.send_response(200)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def ask(self, method: str) -> None:
        """Questions for as long as somebody reads them."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number in count():
            question = {"jsonrpc": "2.0", "id": f"q{number}", "method": method, "params": PARAMS[method]}
            self.wfile.write(b"data: " + json.dumps(question).encode() + b"\n\n")

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            return  # the client left

    def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002 - the name of the standard library
        return


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()
