"""Documents from Bluesky's 0MQ proxy."""

import logging
import threading
import time
from typing import Any

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.core import ConfigurationError, error_and_place, error_line, one_line
from bluesky_prefect.courier import Reminders
from bluesky_prefect.metrics import Signals
from bluesky_prefect.sources._documents import Format, hand_over, is_handled, read_document
from bluesky_prefect.sources._refused_messages import RefusedMessages

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0
_POLL_MS = 100
# A firewall that forgets a connection, or a host that is gone, tells nobody: so long after the last sign of life it is
# closed. Of a host that stands still for less, nothing is lost.
_SIGN_OF_LIFE_MS = 60_000
_ASKED_MEANWHILE = 6
# Larger than any document. 0MQ closes the connection to who sends more, for good.
_MAX_MESSAGE = 1 << 30


class ZMQSource:
    """Hands documents to a callback that Bluesky's 0MQ proxy passes on.

    0MQ keeps nothing. Runs that stop while this process is away are left to reconciliation. Not by Bluesky's
    `RemoteDispatcher`: a message of a name that it does not know ends it, with all that waits to be read.

    Parameters
    ----------
    callback : PrefectCallback
        Gets the documents.
    address : str
        Where the proxy passes documents on, as ``host:port``, or whatever address 0MQ knows.
    refused : RefusedMessages
        Where messages go that hold no document.
    prefix : str, optional
        Only documents of publishers with this prefix.
    form : {'pickle', 'msgpack', 'json'}, optional
        How publishers write documents. A pickle of anything but data is refused.
    signals : Signals, optional
        Where its thread says how it is; see `serve_metrics`.
    """

    def __init__(
        self,
        callback: PrefectCallback,
        address: str,
        refused: RefusedMessages,
        *,
        prefix: str = "",
        form: Format = "pickle",
        signals: Signals | None = None,
    ) -> None:
        self._callback = callback
        self._address = address
        self._refused = refused
        self._prefix = prefix
        self._form: Format = form
        self._signals = signals or Signals()
        self._reminders = Reminders(logger, time.monotonic)

    def run(self, finish: threading.Event) -> None:
        """Hand over documents until `finish` is set.

        Raises
        ------
        ConfigurationError
            If there can be no proxy at its address, or no publisher with its prefix.
        """
        import zmq

        if " " in self._prefix:
            raise ConfigurationError(f"A prefix has no spaces, as {one_line(self._prefix, 50)!r} has: leave them out.")
        while not finish.is_set():
            try:
                self._serve(zmq, finish)
            except zmq.ZMQError as error:
                logger.error("Listening to %s is begun anew: %s", self._address, error_and_place(error))
                finish.wait(_AGAIN_S)

    def _serve(self, zmq: Any, finish: threading.Event) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.SUB)
        monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE)
            socket.setsockopt(zmq.HEARTBEAT_IVL, _SIGN_OF_LIFE_MS // _ASKED_MEANWHILE)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SIGN_OF_LIFE_MS)
            # What follows a prefix is a space.
            socket.setsockopt(zmq.SUBSCRIBE, f"{self._prefix} ".encode() if self._prefix else b"")
            address = self._address if "://" in self._address else f"tcp://{self._address}"
            try:
                socket.connect(address)
            except zmq.ZMQError as error:
                raise ConfigurationError(
                    f"0MQ cannot listen to {one_line(self._address, 100)} ({error}): name a host and a port, as in"
                    " localhost:5578."
                ) from error
            logger.info("Listening to %s", self._address)
            while not finish.is_set():
                self._signals.at_work(_POLL_MS / 1000)
                if socket.poll(_POLL_MS):
                    self._take(socket.recv())
                elif monitor.poll(0):
                    self._reminders.tell(
                        "closed",
                        logging.WARNING,
                        "The connection to %s was closed, and is made anew. 'bluesky-prefect reconcile' finds the runs "
                        "that stop meanwhile.",
                        self._address,
                    )
                    finish.wait(_POLL_MS / 1000)
                    return
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close(linger=0)
            context.term()

    def _take(self, message: bytes) -> None:
        """Hand over the document of a message: a prefix, a name and the document itself, with spaces between them."""
        try:
            prefix, name, content = message.split(b" ", 2)
            document = name.decode()
        except ValueError:
            self._refuse(message, ValueError("it is no prefix, name and document"))
            return
        # A document that nothing is done with need not be read.
        if (self._prefix and prefix != self._prefix.encode()) or not is_handled(document):
            return
        try:
            hand_over(self._callback, document, read_document(content, self._form))
        except Exception as error:  # noqa: BLE001 - garbage raises anything, and the next documents are other runs'
            self._refuse(message, error)

    def _refuse(self, message: bytes, error: Exception) -> None:
        try:
            self._refused.put(message, error_line(error), address=self._address)
        except OSError as trouble:
            logger.error("A message cannot be used (%s), and not be set aside: %s", error_line(error), trouble)
