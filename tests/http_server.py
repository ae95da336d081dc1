"""A service that answers as a test says, byte by byte; for clients that must survive it."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

Script = Callable[[socket.socket], None]
"""What to do with a connection after its request was read; the connection is closed afterwards."""


@dataclass
class Service:
    """`requests` are the requests so far, each with head and body, as they were received."""

    port: int
    requests: list[bytes] = field(default_factory=list[bytes])

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/v1"

    def head(self) -> dict[str, str]:
        """The headers of the last request, names in lower case."""
        lines = self.requests[-1].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def body(self) -> bytes:
        """The body of the last request."""
        return self.requests[-1].partition(b"\r\n\r\n")[2]


@contextmanager
def service(script: Script) -> Generator[Service]:
    """A service on a port of this host; every connection is one request."""
    stopped = threading.Event()
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Service(listener.getsockname()[1])

        def accept() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                handlers.append(threading.Thread(target=handle, args=(connection,)))
                handlers[-1].start()

        def handle(connection: socket.socket) -> None:
            with connection:
                try:
                    request = read_request(connection)
                    if request:
                        found.requests.append(request)
                        script(connection)
                except OSError:
                    return  # the client left

        handlers: list[threading.Thread] = []
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield found
        finally:
            stopped.set()
            with socket.create_connection(("127.0.0.1", found.port)):
                pass
            for connection in connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # closed already
            thread.join()
            for handler in handlers:
                handler.join()


def read_request(connection: socket.socket) -> bytes:
    """One request with its body; empty when the client sent none."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answer(body: bytes, status: str = "200 OK", *headers: str) -> Script:
    """A whole answer."""
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return raw("\r\n".join(head).encode() + b"\r\n\r\n" + body)


def raw(data: bytes) -> Script:
    """Exactly these bytes."""

    def send(connection: socket.socket) -> None:
        connection.sendall(data)

    return send
