"""Documents in messages: what they hold is data, and never code."""

import io
import json
import pickle
from collections.abc import Callable
from typing import Any, Literal

from bluesky_prefect.callback import PrefectCallback
from bluesky_prefect.journal import unpack

Format = Literal["pickle", "msgpack", "json"]

# What documents consist of beside Python's own types: in a pickle each is named. NumPy's are those of its versions 1
# and 2.
_DATA = {
    "numpy": {"dtype", "ndarray"},
    **{f"numpy.{core}.multiarray": {"_reconstruct", "scalar"} for core in ("core", "_core")},
    **{f"numpy.{core}.numeric": {"_frombuffer"} for core in ("core", "_core")},
    "builtins": {"set", "frozenset", "complex", "bytearray", "slice", "range"},
    "collections": {"OrderedDict", "ChainMap"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
}
# The documents that a `PrefectCallback` does something with.
_HANDLED = frozenset({"start", "resource", "stream_resource", "stop"})


class _DataUnpickler(pickle.Unpickler):
    """Reads a pickle of data. Any other one could run what its writer wants."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _DATA.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not data")


def read_document(content: bytes, form: Format) -> Any:
    """Return what a message holds; raises anything if that is no data of this form."""
    return _READERS[form](content)


def hand_over(callback: PrefectCallback, name: Any, doc: Any) -> None:
    """Have a callback take a document; raises anything if it cannot be used."""
    if name in _HANDLED:
        getattr(callback, name)(doc)


def _read_pickle(content: bytes) -> Any:
    return _DataUnpickler(io.BytesIO(content)).load()


_READERS: dict[str, Callable[[bytes], Any]] = {"pickle": _read_pickle, "msgpack": unpack, "json": json.loads}
