"""Arrays of a run that are not in its tables, read when they are used."""

import weakref
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import get_settings
from bluesky_prefect.tiled_api._connect import tiled_errors

if TYPE_CHECKING:
    import numpy

    from bluesky_prefect.tiled_api._catalog import Catalog


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
    """

    key: str
    path: str
    shape: tuple[int, ...]
    dtype: str
    files: list[str]

    def read(self) -> "numpy.ndarray":
        """Read all of it from Tiled; shape and dtype are the array's."""
        return self[...]

    def __getitem__(self, part: Any) -> "numpy.ndarray":
        node, server = self._node
        with tiled_errors(server):
            return node[part]

    def __len__(self) -> int:
        return self.shape[0]

    def read_over(self, catalog: "Catalog") -> None:
        """Have it read over a connection that is there, for as long as that is open."""
        self.__dict__["_node"] = catalog.at(self.path), catalog.name

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> "numpy.ndarray":
        return self.read().astype(dtype or self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        # Into another process goes no connection; it is made anew there.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _node(self) -> tuple[Any, str]:
        """The array in Tiled, over a connection that lasts as long as this object, and the server's name."""
        from bluesky_prefect.tiled_api._catalog import Catalog

        catalog = Catalog.connect(get_settings())
        weakref.finalize(self, catalog.close)
        return catalog.at(self.path), catalog.name

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
    return node[(slice(0, 1),) * len(node.shape)]


def external_files(node: Any) -> list[str]:
    """Return the addresses of the files that hold an array, where those are a detector's own."""
    sources = node.data_sources() or []
    return [asset.data_uri for source in sources if source.management == "external" for asset in source.assets]


def family(node: Any) -> str:
    """Return the structure family of a client of Tiled."""
    return str(getattr(node.structure_family, "value", node.structure_family))
