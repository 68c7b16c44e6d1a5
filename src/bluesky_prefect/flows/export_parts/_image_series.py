"""The images of a stream, read one at a time or in parts, never all at once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy

    from bluesky_prefect.tiled_api import ExternalArray, Stream

# What has fewer rows or columns is no picture.
_FEWEST_PIXELS = 4
_COLOURS = {3, 4}
_BLOCK_BYTES = 16 * 2**20
# Of more than this, a mean is taken of some frames, and no sums.
_MOST_BYTES = 256 * 2**20
_MOST_FRAMES_FOR_A_MEAN = 32
# A longer side is read in steps.
_LONGEST_SIDE = 2048


@dataclass(frozen=True)
class Survey:
    """Figures of all images together.

    Parameters
    ----------
    mean : numpy.ndarray
        Their mean, of shape (height, width) or (height, width, 3).
    frames : int
        How many it is the mean of.
    sums : list of float
        The sum of each; empty where they are too large to read them all.
    """

    mean: "numpy.ndarray"
    frames: int
    sums: list[float]


@dataclass(frozen=True)
class ImageSeries:
    """The images of a data key.

    Parameters
    ----------
    array : ExternalArray
        Where they are, of shape (events, ..., height, width), in colour with one dimension more.
    rows : int
        Number of events; 0 if there are frames alone.
    """

    array: "ExternalArray"
    rows: int

    @classmethod
    def of_stream(cls, stream: "Stream") -> list[Self]:
        """Return those of a stream that can be read; what is too small for a picture is none."""
        rows = stream.rows if stream.has_events else 0
        made = [cls(array, rows) for array in stream.arrays if array.is_readable]
        return [one for one in made if one.is_pictures]

    @property
    def key(self) -> str:
        """The data key."""
        return self.array.key

    @property
    def count(self) -> int:
        """Number of images."""
        return math.prod(self._leading)

    def event(self, index: int) -> int | None:
        """Return the row of the stream's table that an image belongs to; None if that is not known."""
        length = self.array.shape[0]
        row = index // (self.count // length)
        if not self.rows:
            return row
        return None if length % self.rows else row // (length // self.rows)

    def image(self, index: int) -> "numpy.ndarray":
        """Read one, of shape (height, width), or (height, width, 3) in colour; sides above 2,048 pixels in steps."""
        import numpy

        step = max(math.ceil(max(self._sides) / _LONGEST_SIDE), 1)
        place = tuple(int(i) for i in numpy.unravel_index(index, self._leading))
        return self.array[(*place, slice(None, None, step), slice(None, None, step), *self._colours)]

    def survey(self, *, with_sums: bool) -> Survey:
        """Read all, or as many as are enough for a mean."""
        import numpy

        if not self._reads_all(with_sums):
            chosen = numpy.linspace(0, self.count - 1, min(_MOST_FRAMES_FOR_A_MEAN, self.count)).astype(int)
            mean = sum(self.image(int(index)).astype(float) for index in chosen) / len(chosen)
            return Survey(numpy.asarray(mean), len(chosen), [])
        total, sums = 0.0, []
        for block in self._blocks():
            total = total + block.sum(axis=0, dtype=float)
            sums += block.reshape(len(block), -1).sum(axis=1, dtype=float).tolist()
        return Survey(numpy.asarray(total) / self.count, self.count, sums)

    def _reads_all(self, with_sums: bool) -> bool:
        size = math.prod(self.array.shape) * self._item_bytes
        return max(self._sides) <= _LONGEST_SIDE and size <= (_MOST_BYTES if with_sums else _BLOCK_BYTES)

    def _blocks(self) -> "Iterator[numpy.ndarray]":
        each = math.prod(self.array.shape[1:]) * self._item_bytes
        if each > _BLOCK_BYTES:
            yield from (self.image(index)[None] for index in range(self.count))
            return
        step = max(_BLOCK_BYTES // each, 1)
        for begin in range(0, self.array.shape[0], step):
            block = self.array[(slice(begin, begin + step), ..., *self._colours)]
            yield block.reshape(-1, *block.shape[len(self._leading) :])

    @cached_property
    def _is_colour(self) -> bool:
        shape = self.array.shape
        return self.array.dtype == "uint8" and len(shape) > 3 and shape[-1] in _COLOURS

    @property
    def _colours(self) -> tuple[slice, ...]:
        """The part of the colours to read: not how opaque they are."""
        return (slice(3),) if self._is_colour else ()

    @property
    def _sides(self) -> tuple[int, ...]:
        end = len(self.array.shape) - self._is_colour
        return self.array.shape[end - 2 : end]

    @property
    def _leading(self) -> tuple[int, ...]:
        return self.array.shape[: -3 if self._is_colour else -2]

    @property
    def is_pictures(self) -> bool:
        """True if there is something to be seen."""
        has_shape = len(self.array.shape) > 2 and all(self.array.shape)  # None is a length that is not known
        return has_shape and min(self._sides) >= _FEWEST_PIXELS and bool(self._item_bytes)

    @property
    def _item_bytes(self) -> int:
        """Size of a value; 0 if it is no number."""
        import numpy

        try:
            dtype: Any = numpy.dtype(self.array.dtype)
        except TypeError:
            return 0
        return dtype.itemsize if dtype.kind in "biuf" else 0
