"""A server on loopback that answers a byte now and then, or not at all, on bare sockets."""

import re
import socket
import ssl
import threading
from contextlib import suppress

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n"
_WHOLE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"


class DrippingServer:
    """Accepts connections, and answers each request on them as it is told.

    Attributes
    ----------
    mode : str
        ``whole`` (a 404 at once), ``headers`` or ``body`` (these never end, and come byte by byte), ``silent``
        (accepts, and neither says nor reads anything, not even of an encrypted connection).
    pause_s : float
        Between two bytes.
    """

    def __init__(self, mode: str, *, pause_s: float = 0.1, tls: ssl.SSLContext | None = None) -> None:
        self.mode = mode
        self._tls = tls
        self.pause_s = pause_s
        self._release = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._handlers: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def connections(self) -> int:
        """How many are open."""
        return sum(handler.is_alive() for handler in self._handlers)

    def close(self) -> None:
        self._release.set()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                handler = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._handlers.append(handler)
                handler.start()

    def _serve(self, accepted: socket.socket) -> None:
        with (
            suppress(OSError),
            self._tls.wrap_socket(accepted, server_side=True) if self._tls else accepted as connection,
        ):
            while self.mode == "silent" or _request(connection):
                if self.mode == "whole":
                    connection.sendall(_WHOLE)
                    continue
                if self.mode == "body":
                    connection.sendall(_HEAD + b"\r\n")
                if self.mode == "headers":
                    connection.sendall(_HEAD + b"X-Long: ")
                while not self._release.wait(self.pause_s):
                    # A client that has hung up makes the second of these fail.
                    connection.sendall(b"x" if self.mode != "silent" else b"")
                return


def _request(connection: socket.socket) -> bytes:
    """Return a whole request, with its body; nothing if the client has hung up."""
    request = b""
    while b"\r\n\r\n" not in request:
        if not (piece := connection.recv(65536)):
            return b""
        request += piece
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    while length and len(body) < int(length[1]) and (piece := connection.recv(65536)):
        body += piece
    return head + body
