"""Arrays in files of detectors, linked to from a NeXus file and not copied."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import as_json
from bluesky_prefect.flows.export_parts._nexus_values import make_group, storable, write_array, write_value

if TYPE_CHECKING:
    import h5py

    from bluesky_prefect.tiled_api import ArraySource, ExternalArray

_HDF5 = "application/x-hdf5"
# Whoever reads those through a link would get other values than through Tiled.
_ALTERED = ("slice", "squeeze")


def mapped_path(path: str, prefixes: Mapping[str, str]) -> str:
    """Return a path as whoever reads the file sees it: the longest prefix that fits is replaced."""
    fitting = max((prefix for prefix in prefixes if path.startswith(prefix)), key=len, default=None)
    return path if fitting is None else prefixes[fitting] + path[len(fitting) :]


def link_array(
    parent: "h5py.Group",
    name: str,
    array: "ExternalArray",
    sources: "Sequence[ArraySource]",
    prefixes: Mapping[str, str],
) -> tuple[int, ...] | None:
    """Refer to an array from a name in a group; return the shape of the dataset there: () if unknown, None if none is.

    A dataset of one HDF5 file is an external link. One that lies in several, one part after the other, is a virtual
    dataset; if these cannot be opened here, it is a group of links. For other files, a note tells where they are.
    """
    import h5py

    paths = [mapped_path(path, prefixes) for source in sources for path in source.paths]
    dataset = dataset_of(sources)
    if dataset is None or not paths or any(text != storable(text) for text in (dataset, *paths)):
        _write_note(parent, name, array, sources, paths)
        return None
    parts = _parts([path for source in sources for path in source.paths], paths, dataset)
    if len(paths) == 1:
        parent[name] = h5py.ExternalLink(paths[0], dataset)
        return parts[0][0] if parts else ()
    if parts and (layout := _layout(paths, dataset, parts)):
        return parent.create_virtual_dataset(name, layout).shape
    group = make_group(parent, name, "NXcollection")
    for number, path in enumerate(paths):
        group[f"part_{number}"] = h5py.ExternalLink(path, dataset)
    return None


def dataset_of(sources: "Sequence[ArraySource]") -> str | None:
    """Return the path of the dataset that all of an array is, in each of its files; None where there is no such."""
    names = [source.parameters.get("dataset") for source in sources]
    plain = all(source.mimetype == _HDF5 and not any(map(source.parameters.get, _ALTERED)) for source in sources)
    name = names[0] if names and all(one == names[0] for one in names) else None
    return name if plain and isinstance(name, str) and name else None


def _parts(here: list[str], paths: list[str], dataset: str) -> list[tuple[tuple[int, ...], Any]]:
    """Return shape and type of the dataset in each file; nothing if one cannot be opened, by either of its paths."""
    try:
        return [
            _shape_and_type(one if Path(one).is_file() else other, dataset)
            for one, other in zip(here, paths, strict=True)
        ]
    except (OSError, KeyError, AttributeError, ValueError):
        return []


def _shape_and_type(path: str, dataset: str) -> tuple[tuple[int, ...], Any]:
    import h5py

    if not Path(path).is_file():  # whoever opens a named pipe may wait for ever
        raise FileNotFoundError(path)
    with h5py.File(path, "r", locking=False) as file:
        found: Any = file[dataset]
        return found.shape, found.dtype


def _layout(paths: list[str], dataset: str, parts: list[tuple[tuple[int, ...], Any]]) -> "h5py.VirtualLayout | None":
    """Return parts of a dataset one after the other; None if they do not fit together."""
    import h5py

    shape, dtype = parts[0]
    if not shape or any((len(one), one[1:], kind) != (len(shape), shape[1:], dtype) for one, kind in parts):
        return None
    layout = h5py.VirtualLayout((sum(one[0] for one, _ in parts), *shape[1:]), dtype)
    begin = 0
    for path, (one, _) in zip(paths, parts, strict=True):
        if one[0]:
            layout[begin : begin + one[0]] = h5py.VirtualSource(path, dataset, one)
        begin += one[0]
    return layout


def _write_note(
    parent: "h5py.Group", name: str, array: "ExternalArray", sources: "Sequence[ArraySource]", paths: list[str]
) -> None:
    import numpy

    note = make_group(parent, name, "NXnote", tiled_path=array.path, dtype=array.dtype, shape=as_json(array.shape))
    files = "in files of its own" if paths else "in Tiled"
    write_value(note, "description", f"{array.key}: an array that is {files}")
    if sources:
        write_value(note, "type", sources[0].mimetype)
        write_value(note, "parameters", as_json([dict(source.parameters) for source in sources]))
    if paths:
        write_array(note, "file_name", numpy.array(list(map(storable, paths)), dtype=object))
