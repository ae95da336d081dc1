"""Doors to servers: HTTP and WebSocket on ports of this host, a transport for httpx without any port; and ledgers that close by
themselves."""

import json
import queue
import threading
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from nexus_attest.testledger.chain import ClosedLedger, Ledger
from nexus_attest.testledger.clock import since_2000
from nexus_attest.testledger.node import Lost, Node, Reply, Session

__all__ = ["NodeTransport", "Urls", "closing", "http_front", "mock_transport", "serving", "websocket_front"]


@dataclass(frozen=True, slots=True)
class Urls:
    """Where a server is. `http` also answers GET, with the validator list of its network."""

    http: str
    ws: str


class NodeTransport:
    """Carries JSON-RPC to one server in this process, whatever the URL, as clients that take a transport of their own want it.

    Raises ConnectionError for an answer that is lost or has an error status.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    async def post_json(self, url: str, payload: dict[str, Any]) -> dict[str, Any]:
        """The decoded answer."""
        try:
            reply = self._node.post(json.dumps(payload).encode())
        except Lost as lost:
            raise ConnectionError(f"{url}: {lost.how}") from None
        if reply.status != 200:
            raise ConnectionError(f"{url}: {reply.status}")
        return json.loads(reply.body)


def mock_transport(nodes: Node | Mapping[str, Node]) -> httpx.MockTransport:
    """A transport for httpx clients, sync and async, to one server whatever the host, or to several by their host names."""

    def handle(request: httpx.Request) -> httpx.Response:
        node = nodes if isinstance(nodes, Node) else nodes[request.url.host]
        if request.method == "GET":
            return _response(_published(node))
        try:
            return _response(node.post(request.read()))
        except Lost as lost:
            match lost.how:
                case "refused":
                    raise httpx.ConnectError("connection refused", request=request) from None
                case "silent":
                    raise httpx.ReadTimeout("no answer in time", request=request) from None
                case _:
                    raise httpx.ReadError("connection lost", request=request) from None

    return httpx.MockTransport(handle)


@contextmanager
def http_front(node: Node, *, patience: float = 30) -> Generator[str]:
    """Serve JSON-RPC on a port of this host; gives its URL. A request that meets silence is held for `patience` seconds, then dropped."""
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            try:
                self._send(node.post(body))
            except Lost as lost:
                if lost.how == "silent":
                    stopped.wait(patience)
                self.close_connection = True

        def do_GET(self) -> None:
            self._send(_published(node))

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing on standard error."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that left is no event."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            stopped.set()
            server.shutdown()
            thread.join()


@contextmanager
def websocket_front(node: Node) -> Generator[str]:
    """Serve commands and streams on a port of this host; gives its URL."""
    connections: set[_Connection] = set()

    def handle(socket: ServerConnection) -> None:
        connection = _Connection(node, socket)
        connections.add(connection)
        try:
            connection.run()
        finally:
            connections.discard(connection)

    def tell(closed: ClosedLedger) -> None:
        for connection in tuple(connections):
            connection.tell(closed)

    stop = node.ledger.listen(tell)
    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            stop()
            for connection in tuple(connections):
                connection.leave()
            server.shutdown()
            thread.join()


class _Connection:
    """A connection with a thread of its own for what it is told, so that a slow client keeps nobody waiting."""

    def __init__(self, node: Node, socket: ServerConnection) -> None:
        self._session = Session(node)
        self._socket = socket
        self._outgoing: queue.Queue[str | None] = queue.Queue()

    def run(self) -> None:
        sender = threading.Thread(target=self._send)
        sender.start()
        try:
            for message in self._socket:
                try:
                    self._outgoing.put(self._session.command(message))
                except Lost as lost:
                    if lost.how != "silent":
                        return
        except ConnectionClosed:
            return
        finally:
            self._outgoing.put(None)
            sender.join()

    def tell(self, closed: ClosedLedger) -> None:
        try:
            for message in self._session.messages(closed):
                self._outgoing.put(message)
        except Lost:
            self._outgoing.put(None)

    def leave(self) -> None:
        self._outgoing.put(None)

    def _send(self) -> None:
        try:
            while (message := self._outgoing.get()) is not None:
                self._socket.send(message)
        except ConnectionClosed:
            return
        self._socket.close()


@contextmanager
def closing(ledger: Ledger, every: float = 0.2, seconds: float = 4) -> Generator[None]:
    """Close a ledger every so many seconds of real time, each of them `seconds` of its own time later."""
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(every):
            ledger.close(seconds)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def serving(node: Node) -> Generator[Urls]:
    """Both doors of one server."""
    with ExitStack() as stack:
        yield Urls(stack.enter_context(http_front(node)), stack.enter_context(websocket_front(node)))


def _published(node: Node) -> Reply:
    return Reply(json.dumps(node.ledger.validators.published(since_2000(node.ledger.clock()))).encode())


def _response(reply: Reply) -> httpx.Response:
    return httpx.Response(reply.status, content=reply.body, headers={"Content-Type": reply.content_type})
