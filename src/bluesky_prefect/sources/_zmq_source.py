"""Documents from Bluesky's 0MQ proxy."""

import asyncio
import logging
import threading
from typing import Any

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.core import error_and_place, error_line
from bluesky_prefect.sources._documents import Format, hand_over, read_document
from bluesky_prefect.sources._refused_messages import RefusedMessages

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0


class ZMQSource:
    """Hands documents to a callback that Bluesky's 0MQ proxy passes on.

    0MQ keeps nothing. Runs that stop while this process is away are left to reconciliation.

    Parameters
    ----------
    callback : PrefectCallback
        Gets the documents.
    address : str
        Where the proxy passes documents on, as ``host:port``.
    refused : RefusedMessages
        Where messages go that hold no document.
    prefix : str, optional
        Only documents of publishers with this prefix.
    form : {'pickle', 'msgpack', 'json'}, optional
        How publishers write documents. A pickle of anything but data is refused.
    """

    def __init__(
        self,
        callback: PrefectCallback,
        address: str,
        refused: RefusedMessages,
        *,
        prefix: str = "",
        form: Format = "pickle",
    ) -> None:
        self._callback = callback
        self._address = address
        self._refused = refused
        self._prefix = prefix
        self._form: Format = form

    def run(self, finish: threading.Event) -> None:
        """Hand over documents until `finish` is set."""
        while not finish.is_set():
            try:
                self._serve(finish)
            except Exception as error:  # noqa: BLE001 - a message of an unknown kind, for example
                if not finish.is_set():
                    logger.error("Listening to %s is begun anew: %s", self._address, error_and_place(error))
                    finish.wait(_AGAIN_S)

    def _serve(self, finish: threading.Event) -> None:
        from bluesky.callbacks.zmq import RemoteDispatcher

        loop = asyncio.new_event_loop()
        dispatcher = RemoteDispatcher(self._address, prefix=self._prefix.encode(), loop=loop, deserializer=self._read)
        dispatcher.subscribe(self._take)
        ended = threading.Event()

        def stop_when_finished() -> None:
            while not ended.is_set():
                if finish.wait(0.1):
                    loop.call_soon_threadsafe(loop.stop)
                    return

        stopper = threading.Thread(target=stop_when_finished, name="listen-zmq-end", daemon=True)
        stopper.start()
        try:
            logger.info("Listening to %s", self._address)
            dispatcher.start()
        finally:
            ended.set()
            stopper.join()

    def _read(self, content: bytes) -> Any:
        """Return a document, or None, for which nothing is done, where there is none in a message."""
        try:
            doc = read_document(content, self._form)
            if not isinstance(doc, dict):
                raise TypeError(f"it holds a {type(doc).__name__}, not a document")
        except Exception as error:  # noqa: BLE001 - a decoder that meets garbage raises anything
            self._refuse(content, error)
            return None
        return doc

    def _take(self, name: str, doc: Any) -> None:
        if doc is None:
            return
        try:
            hand_over(self._callback, name, doc)
        except Exception as error:  # noqa: BLE001 - the next documents are other runs'
            self._refuse(repr((name, doc)).encode("utf-8", "backslashreplace"), error)

    def _refuse(self, content: bytes, error: Exception) -> None:
        try:
            self._refused.put(content, error_line(error), address=self._address)
        except OSError as trouble:
            logger.error("A message cannot be used (%s), and not be set aside: %s", error_line(error), trouble)
