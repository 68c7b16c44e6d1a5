"""An HTTP server on loopback that messages are sent to, as Slack's is, and that misbehaves on demand."""

from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.services.loopback import Loopback


class Receiver(Loopback):
    """Takes what is posted.

    Attributes
    ----------
    mode : str
        ``well``, ``500``, or ``hang`` (takes the message and does not answer, until it is closed).
    """

    def __init__(self) -> None:
        self.mode = "well"
        self._received: list[tuple[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver._received.append((self.path, body))
                if receiver.mode == "hang":
                    receiver.release.wait(60)
                    return
                self.send_response(500 if receiver.mode == "500" else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(Handler)

    def received(self, text: str, path: str = "") -> list[str]:
        """Return the messages that hold a text, sent to a path that holds another."""
        return [body for where, body in list(self._received) if text in body and path in where]
