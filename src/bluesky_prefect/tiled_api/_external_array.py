"""Arrays of a run that are not in its tables, read when they are used."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import TiledUnavailable, get_settings, one_line
from bluesky_prefect.tiled_api._connect import tiled_errors
from bluesky_prefect.tiled_api._readable import readable_storage

if TYPE_CHECKING:
    import httpx
    import numpy

    from bluesky_prefect.tiled_api._catalog import Catalog

# How often a server that fails is asked.
_TRIES = 3


@dataclass(frozen=True)
class ExternalArray:
    """An array that a detector wrote to files of its own (or that is too long for a table).

    It is read when it is used: ``array[3]`` reads one frame, ``array.read()`` and ``numpy.asarray(array)`` all of it.

    Parameters
    ----------
    key : str
        Its data key.
    path : str
        Its path in Tiled.
    shape : tuple of int
        Shape of the whole array, all events together.
    dtype : str
        Its element type.
    files : list of str
        Addresses of the files that hold it; empty where Tiled holds it or does not say.
    problem : str
        Why it cannot be read, or its values do not belong to the events.
    is_readable : bool
        Whether it can be read all the same.
    """

    key: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    files: list[str]
    problem: str = ""
    is_readable: bool = True

    def read(self) -> "numpy.ndarray":
        """Read all of it from Tiled; shape and dtype are the array's."""
        return self[...]

    def __getitem__(self, part: Any) -> "numpy.ndarray":
        settings = get_settings()
        storage = readable_storage(settings)
        if storage and (why := storage.refusal(self.files)):
            raise TiledUnavailable(f"{self.key}: {one_line(why)}")
        with tiled_errors(self._catalog.name):
            return read_part(self._node, part)

    def __len__(self) -> int:
        return self.shape[0]

    def read_over(self, catalog: "Catalog") -> None:
        """Have it read over a connection that is there, for as long as that is open."""
        self.__dict__["_catalog"] = catalog

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "numpy.ndarray":
        return self.read().astype(dtype or self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        # Into another process goes no connection; it is made anew there.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _catalog(self) -> "Catalog":
        """A connection that lasts as long as this object."""
        from bluesky_prefect.tiled_api._catalog import Catalog

        catalog = Catalog.connect(get_settings())
        weakref.finalize(self, catalog.close)
        return catalog

    @cached_property
    def _node(self) -> Any:
        """The array in Tiled."""
        return self._catalog.at(self.path)

    def cells(self, rows: int) -> list[str]:
        """Return for each of so many events the part of the array that belongs to it."""
        frames = self.shape[0] if self.shape else 0
        if not rows or frames % rows or not frames:
            return [self.path] * rows
        each = frames // rows
        if each == 1:
            return [f"{self.path}[{row}]" for row in range(rows)]
        return [f"{self.path}[{row * each}:{(row + 1) * each}]" for row in range(rows)]


def external_array(key: str, node: Any) -> ExternalArray:
    """Return the array of a data key, as a client of Tiled has it."""
    shape = tuple(getattr(node, "shape", ()) or ())
    dtype = str(getattr(node, "dtype", family(node)))
    return ExternalArray(key, "/".join(node.path_parts), shape, dtype, external_files(node))


def read_one_value(node: Any) -> Any:
    """Have Tiled read the first value of an array, however large that is."""
    return read_part(node, (slice(0, 1),) * len(node.shape))


def read_part(node: Any, part: Any) -> Any:
    """Read a part of an array; raises `httpx.HTTPStatusError` if the server answers three times that it failed."""
    with _few_tries(node.context.http_client):
        return node[part]


class _FailedAgain(Exception):
    """A server has failed so often that nobody asks it again."""


@contextmanager
def _few_tries(client: "httpx.Client") -> Iterator[None]:
    """Have a request given up that the server fails to answer (500), and would fail to answer again.

    Tiled's client asks ten times, for 45 s. It does not go on after an exception that it does not know.
    """
    import httpx

    failed: list[httpx.Response] = []

    def count(response: httpx.Response) -> None:
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            failed.append(response)
            if len(failed) >= _TRIES:
                raise _FailedAgain

    client.event_hooks["response"].append(count)
    try:
        yield
    except _FailedAgain:
        response = failed[-1]
        raise httpx.HTTPStatusError("the server failed", request=response.request, response=response) from None
    finally:
        client.event_hooks["response"].remove(count)


def external_files(node: Any) -> list[str]:
    """Return the addresses of the files that hold an array, where those are a detector's own."""
    sources = node.data_sources() or []
    return [asset.data_uri for source in sources if source.management == "external" for asset in source.assets]


def family(node: Any) -> str:
    """Return the structure family of a client of Tiled."""
    return str(getattr(node.structure_family, "value", node.structure_family))
