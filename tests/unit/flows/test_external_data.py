"""Files of arrays are looked at where they can be seen, and read through Tiled in any case."""

import io
import os
import pickle
import struct
from types import SimpleNamespace

import h5py
import httpx
import numpy as np
import pytest

from bluesky_prefect.flows.validation._external_data import array_checks
from bluesky_prefect.tiled_api import ExternalArray


class Node:
    """What Tiled's client gives of an array."""

    dtype = np.dtype("float64")
    context = SimpleNamespace(http_client=SimpleNamespace(event_hooks={"response": []}))

    def __init__(self, shape, status=200):
        self.array = np.zeros(shape)
        self.status = status
        self.read = []

    def data_sources(self):
        return None

    @property
    def shape(self):
        return self.array.shape

    def __getitem__(self, frames):
        if self.status != 200:
            request = httpx.Request("GET", "http://t")
            raise httpx.HTTPStatusError("x", request=request, response=httpx.Response(self.status, request=request))
        self.read.append((frames.start, frames.stop))
        return self.array[frames]


def checked(node, shape, files=()):
    array = ExternalArray("img", "raw/u/primary/img", shape, "float64", [str(file) for file in files])
    return [(check.what, check.result, check.detail) for check in array_checks("primary", array, node)]


def test_all_of_an_array_is_read_in_parts_that_memory_holds():
    node = Node((5, 1000, 2000))
    assert checked(node, (5, 1000, 2000)) == [("img: reading", "passed", "all of it")]
    assert node.read == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize("shape", [(), (0, 3)])
def test_an_array_without_values_is_read(shape):
    assert checked(Node((0, 3)), shape)[-1][1] == "passed"


def test_a_part_of_another_shape_is_broken():
    [(_, result, detail)] = checked(Node((2, 3)), (2, 4))
    assert (result, detail) == ("broken", "from 0 on it has the shape [2, 3]")


def test_what_tiled_cannot_read_is_broken_and_a_server_in_trouble_is_not():
    assert checked(Node((1,), status=500), (2, 3))[0][1] == "broken"
    for status in (401, 403, 502, 503, 504):
        with pytest.raises(httpx.HTTPStatusError):
            checked(Node((1,), status=status), (2, 3))


def test_what_is_compressed_and_broken_is_no_whole_file(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(
            "frames", data=np.arange(4000.0).reshape(4, 1000), chunks=(1, 1000), compression="gzip"
        )
        where = dataset.id.get_chunk_info(3)
    unreadable = Node((1,), status=500)
    assert checked(unreadable, (4, 1000), [path.as_uri()])[-1][:2] == ("img: reading", "warning")
    content = bytearray(path.read_bytes())
    content[where.byte_offset : where.byte_offset + where.size] = bytes(where.size)
    path.write_bytes(content)
    assert checked(unreadable, (4, 1000), [path.as_uri()])[-1][:2] == ("img: reading", "broken")


def test_files_that_are_elsewhere_are_left_to_tiled():
    files = ["file://elsewhere/a.npy", "s3://bucket/a.npy", "file://localhost/no/such/folder/a.npy"]
    assert checked(Node((2, 3)), (2, 3), files)[0] == (
        "img: files",
        "passed",
        "0 files there, 3 out of sight from here",
    )


@pytest.mark.parametrize("name", ["a.npy", "a b%20.tif", "ä.h5"])
def test_a_file_that_is_here_is_looked_at(tmp_path, name):
    path = tmp_path / name
    [(_, result, detail)] = checked(Node((2, 3)), (2, 3), [path.as_uri()])
    assert (result, detail) == ("broken", f"{path} is not there")
    path.touch()
    assert checked(Node((2, 3)), (2, 3), [path.as_uri()])[0][2] == f"{path} is empty"


def array_file(header):
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive():
    file = io.BytesIO()
    np.savez(file, image=np.zeros((2, 3)))
    return file.getvalue()


def objects():
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


DAMAGED = {
    "an archive": archive(),
    "a pickle": pickle.dumps(np.zeros((2, 3))),
    "objects": objects(),
    "text": b"<html>not found</html>",
    "its first bytes": b"\x93NUMPY\x01",
    "half a header": array_file("{'descr': "),
    "a header of brackets": array_file("(" * 9000),
    "a header of another kind": array_file("[1]"),
    "fewer values than it says": array_file("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000,)}"),
    "more values than there can be": array_file(
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 40 + ",)}"
    ),
    "less than no values": array_file("{'descr': '<f8', 'fortran_order': False, 'shape': (-6,)}"),
}


@pytest.mark.parametrize("content", DAMAGED)
def test_an_array_s_file_that_holds_something_else_is_broken_and_named(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(DAMAGED[content])
    [(what, result, detail)] = checked(Node((2, 3)), (2, 3), [path.as_uri()])
    assert (what, result) == ("img: files", "broken")
    assert detail.startswith(f"{path} cannot be opened: ")


@pytest.mark.parametrize("name", ["a.h5", "a.nxs"])
def test_an_hdf5_file_that_is_none_is_broken_and_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(archive())
    [(_, result, detail)] = checked(Node((2, 3)), (2, 3), [path.as_uri()])
    assert (result, detail.startswith(f"{path} cannot be opened: ")) == ("broken", True)


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.tif"])
def test_a_named_pipe_is_broken_and_nobody_waits_for_it(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    [(_, result, detail)] = checked(Node((2, 3)), (2, 3), [path.as_uri()])
    assert (result, detail) == ("broken", f"{path} is no file")


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.zarr"])
def test_a_directory_is_left_to_tiled(tmp_path, name):
    (tmp_path / name).mkdir()
    assert checked(Node((2, 3)), (2, 3), [(tmp_path / name).as_uri()])[-1] == ("img: reading", "passed", "all of it")


@pytest.mark.parametrize("uri", ["file://[", "file:///%00/a.npy", f"file:///{'x' * 5000}/a.npy"])
def test_an_address_that_is_none_is_left_to_tiled(uri):
    assert checked(Node((2, 3)), (2, 3), [uri])[-1] == ("img: reading", "passed", "all of it")


def test_an_image_larger_than_memory_by_its_documents_is_broken_and_named():
    class Lying(Node):
        def __getitem__(self, frames):
            return np.empty((1, 10**9, 10**9))

    [(what, result, detail)] = checked(Lying((1,)), (1, 10**9, 10**9))
    assert (what, result) == ("img: reading", "broken")
    assert "MemoryError" in detail
