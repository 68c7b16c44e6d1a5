"""Documents written to Tiled as a run: piece by piece while it goes on, or as a whole."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import REFUSED_STATUSES, BlueskyPrefectError
from bluesky_prefect.tiled_api._fitting import patches

if TYPE_CHECKING:
    from bluesky_tiled_plugins import CatalogOfBlueskyRuns, TiledWriter

Document = tuple[str, dict[str, Any]]

# What TiledWriter itself gathers before it writes.
_WHOLE = 10_000
# TiledWriter says so in the run's metadata where it has repeated a request that may have been carried out.
_MAYBE_DOUBLED = "may be duplicated"
# Tiled's client puts a uid into URLs as it is. Of these, some other entry would be written to, or deleted: that of
# another run, or all of the catalog.
_OTHERS_PATH = re.compile(r"\.{0,2}|.*[/?#%\\\x00-\x20\x7f].*", re.DOTALL)


class UidIsNoKey(BlueskyPrefectError):
    """A run's uid is not the name of one entry in Tiled's catalog, and nothing may be asked of Tiled by it."""


class CannotFollow(BlueskyPrefectError):
    """A run cannot be written to Tiled piece by piece; as a whole, once it is over, it may."""


class RowsMayBeDoubled(BlueskyPrefectError):
    """A run in Tiled may hold rows twice, and has to be written anew."""


class AlreadyInTiled(BlueskyPrefectError):
    """Tiled has a run as a whole; it is not written again."""


class RunWriter:
    """Writes the documents of one run with ``TiledWriter``, which needs them all, in their order.

    What Tiled holds of the run in part is replaced when the start document comes. After an error of any kind the run
    has to be written anew, by another writer.

    Each method raises what ``TiledWriter`` raises, and `AlreadyInTiled`. `is_outage` tells what concerns the server
    and not the run.

    Parameters
    ----------
    raw : CatalogOfBlueskyRuns
        The catalog of runs; one that was told ``include_data_sources()`` spares each run a request.
    whole : callable, optional
        Is called when Tiled has the run as a whole. ``TiledWriter`` then closes each stream for those that listen to
        it, which takes as long again as the stop document.
    goes_on : callable, optional
        Is called before each document that is written.
    begun : callable, optional
        Is called when Tiled has the run's entry, which gives the run its place among the others.
    """

    def __init__(
        self,
        raw: "CatalogOfBlueskyRuns",
        whole: Callable[[], None] = lambda: None,
        goes_on: Callable[[], None] = lambda: None,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        self._raw = _CatalogForOneRun(raw, self._stop_written)
        self._whole = whole
        self._goes_on = goes_on
        self._begun = begun
        self._batch_size = _BatchSize()
        # What notes down that TiledWriter has repeated a request; Tiled gets the notes with the stop document.
        self._noting: list[Any] = []
        self._writer = self._new_writer()
        self._uid = ""
        self._has_resources = False
        self._kinds: dict[tuple[str, str], Any] = {}

    def follow(self, documents: Sequence[Document]) -> None:
        """Write what has come of a run that goes on, so that all of it can be read then.

        Raises
        ------
        CannotFollow
            If another value than before has another type: Tiled's tables, and arrays, take the type of the first. Or
            if Tiled refuses a piece, which it may take as a part of the whole.
        """
        unpacked = _merged(_unpacked(documents))
        self._check_kinds(unpacked)
        last = {doc["descriptor"]: index for index, (name, doc) in enumerate(unpacked) if name == "event"}
        due = set(last.values())
        try:
            for index, (name, doc) in enumerate(unpacked):
                self._has_resources |= name == "resource"
                # Of files, TiledWriter adds to what it has gathered before, so that they must not wait at all.
                at_once = index in due or name == "stream_datum" or self._has_resources
                self._put(name, doc, 1 if at_once else _WHOLE)
        except AlreadyInTiled as error:
            raise CannotFollow("Tiled has it already") from error
        except Exception as error:
            if is_outage(error):
                raise
            raise CannotFollow(f"{type(error).__name__}: {error}") from error

    def write(self, documents: Iterable[Document]) -> None:
        """Write a whole run, the stop document included."""
        for name, doc in documents:
            self._put(name, doc, _WHOLE)

    def write_unfinished(self, pieces: Callable[[], Iterable[Sequence[Document]]]) -> None:
        """Write all there is of a run that has no stop document; `pieces` returns that, each time that it is called."""
        left: Counter[str] = Counter()
        has_resources = False
        for name, doc in _unpacked(chain.from_iterable(pieces())):
            has_resources |= name == "resource"
            if name == "event":
                left[doc["descriptor"]] += 1
        for piece in pieces():
            for name, doc in _merged(_unpacked(piece)):
                at_once = has_resources or name == "stream_datum"
                if name == "event":
                    left[doc["descriptor"]] -= 1
                    at_once |= not left[doc["descriptor"]]
                self._put(name, doc, 1 if at_once else _WHOLE)
        self.check_rows()

    def check_rows(self) -> None:
        """Raise `RowsMayBeDoubled` if something of what was written may be in Tiled twice."""
        if any(_MAYBE_DOUBLED in str(note) for one in self._noting for note in one.notes):
            raise RowsMayBeDoubled(f"Tiled did not say whether it had taken rows of run {self._uid}.")

    def _put(self, name: str, doc: dict[str, Any], batch_size: int) -> None:
        self._goes_on()
        self._batch_size.now = batch_size
        if name == "start":
            self._start(doc)
        else:
            self._writer(name, doc)
        if name == "stop":
            self.check_rows()

    def _start(self, doc: dict[str, Any]) -> None:
        uid = doc["uid"]
        if not isinstance(uid, str) or _OTHERS_PATH.fullmatch(uid):
            raise UidIsNoKey(f"Its uid cannot be a key in Tiled: {uid!r}.")
        self._uid = uid
        self._writer("start", doc)
        self._begun()
        if self._raw.has_run:
            raise AlreadyInTiled(f"Tiled has run {uid} as a whole.")

    def _stop_written(self) -> None:
        self.check_rows()
        self._whole()

    def _new_writer(self) -> "TiledWriter":
        from bluesky_tiled_plugins import TiledWriter
        from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer

        noting = self._noting

        class Normalizer(RunNormalizer):
            def subscribe(self, func: Any, name: str = "all") -> Any:
                noting.append(func)
                return super().subscribe(func, name)

        catalog: Any = self._raw
        return TiledWriter(catalog, patches=patches(), batch_size=self._batch_size, normalizer=Normalizer)

    def _check_kinds(self, documents: Sequence[Document]) -> None:
        for name, doc in documents:
            if name != "event":
                continue
            for key, value in doc["data"].items():
                kind = _kind(value)
                if self._kinds.setdefault((doc["descriptor"], key), kind) != kind:
                    raise CannotFollow(f"the values of {key!r} change their type")


class _CatalogForOneRun:
    """The catalog as ``TiledWriter`` gets it: what is there of the run in part makes way; a stop is noticed.

    Attributes
    ----------
    has_run : bool
        Whether the run was there as a whole. Nothing may be written then.
    """

    def __init__(self, raw: "CatalogOfBlueskyRuns", stop_written: Callable[[], None]) -> None:
        self._raw = raw
        self._stop_written = stop_written
        self.has_run = False

    def include_data_sources(self) -> "_CatalogForOneRun":
        return self

    def create_container(self, key: str, **options: Any) -> Any:
        """Make the entry of the run, or return that which is there as a whole."""
        import httpx

        run = None
        try:
            run = self._raw.create_container(key=key, **options)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != HTTPStatus.CONFLICT:
                raise
        if run is None or _was_there(run):
            # An error would have event-model's router warn of something else.
            if (found := _find(self._raw, key)) is not None and _is_whole(found):
                self.has_run = True
                return found
            self._raw.delete_contents(key, recursive=True, external_only=False)
            run = self._raw.create_container(key=key, **options)
        update_metadata = run.update_metadata

        def update_and_notice(metadata: dict[str, Any], **options: Any) -> None:
            update_metadata(metadata=metadata, **options)
            if "stop" in metadata:
                self._stop_written()

        run.update_metadata = update_and_notice
        return run


def _was_there(run: Any) -> bool:
    """Tell whether Tiled's client took what is there for its own, after a request of whose answer it does not know."""
    return run.item["attributes"]["structure"]["count"] is not None


def _is_whole(run: Any) -> bool:
    """Tell whether a run in Tiled has its stop document, which is written last, and no row twice."""
    notes = run.metadata.get("notes") or ()
    return bool(run.metadata.get("stop")) and not any(_MAYBE_DOUBLED in str(one) for one in notes)


def _find(raw: "CatalogOfBlueskyRuns", run_uid: str) -> Any:
    from tiled.client.container import Container

    try:
        # By its key and nothing else: the catalog itself takes the beginning of a uid too, and searches for it.
        return Container.__getitem__(raw, run_uid)
    except KeyError:
        return None


def is_outage(error: BaseException) -> bool:
    """Tell whether an error tells of the server, or of who asks, and not of what was to be written."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status in REFUSED_STATUSES or status == 429 or status >= 500
    return isinstance(error, httpx.TransportError | RowsMayBeDoubled)


def answers(raw: "CatalogOfBlueskyRuns") -> bool:
    """Tell whether the server answers a small question about the catalog now.

    Where there is no catalog, there may be no Tiled either: some proxies answer 404 to everything then, or with a page.
    """
    from tiled.client.utils import handle_error

    try:
        answer: Any = handle_error(raw.context.http_client.get(raw.uri, headers={"Accept": "application/json"}))
        return answer.json()["data"]["attributes"]["structure_family"] == "container"
    except Exception:  # noqa: BLE001 - whatever it is, no run is to blame
        return False


class _BatchSize(int):
    """A batch size that changes: ``TiledWriter`` compares it, at each document, with what it has gathered."""

    now = _WHOLE

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return self.now == other

    def __lt__(self, other: int) -> bool:
        return self.now < other

    def __le__(self, other: int) -> bool:
        return self.now <= other

    def __gt__(self, other: int) -> bool:
        return self.now > other

    def __ge__(self, other: int) -> bool:
        return self.now >= other


def _unpacked(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield the documents with the events of pages one by one, as TiledWriter reads them."""
    from event_model import unpack_event_page

    for name, doc in documents:
        if name == "event_page":
            yield from (("event", event) for event in unpack_event_page(doc))  # type: ignore[misc]  # typed dictionaries
        else:
            yield name, doc


def _merged(documents: Iterable[Document]) -> list[Document]:
    """Return documents with references to files that follow one another in one, as TiledWriter itself gathers them."""
    from bluesky_tiled_plugins.writing.tiled_writer import concatenate_stream_datums

    merged: list[Document] = []
    place: dict[str, int] = {}
    for name, doc in documents:
        resource = doc["stream_resource"] if name == "stream_datum" else None
        if resource in place:
            index = place[resource]
            try:
                merged[index] = name, concatenate_stream_datums(merged[index][1], doc)  # type: ignore[arg-type]
            except ValueError:  # they do not
                place.pop(resource)
            else:
                continue
        if resource is not None:
            place[resource] = len(merged)
        merged.append((name, doc))
    return merged


_SCALARS: dict[type, str] = {bool: "bool", int: "int64", float: "float64", str: "text"}


def _kind(value: Any) -> Any:
    """Return what must be the same of all values of a data key."""
    import numpy as np

    if (scalar := _SCALARS.get(type(value))) is not None:
        return scalar
    if isinstance(value, np.generic):
        return "text" if value.dtype.kind == "U" else value.dtype.name
    if isinstance(value, list | tuple | np.ndarray):
        try:
            array = np.asarray(value)
        except ValueError:  # of no one shape
            return object()
        return array.dtype.str, array.shape
    return type(value)
