"""Arrays made of bytes that a stranger may have written."""

import msgpack
import msgpack_numpy
import numpy as np
import pytest

from bluesky_prefect.journal import unpack


def packed(**array):
    return msgpack.packb({b"nd": True} | {key.encode(): value for key, value in array.items()})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.ones((4, 4))[::2, ::2],
        np.array(2.5),
        np.zeros((0, 3)),
        np.zeros((0, 2048, 2048)),
        np.array(["a", "bc"]),
        np.array([b"a", b"bc"]),
        np.arange(3, dtype=">i2"),
        np.array([(1, 2.0, [3, 4])], dtype=[("a", "i4"), ("b", "f8"), ("c", "u1", (2,))]),
        np.array([((1, 2),)], dtype=[("a", [("b", "i4"), ("c", "i4")])]),
        np.array([(1,)], dtype=[(("title", "name"), "i4")]),
        np.float32(2.5),
        np.int64(3),
        np.True_,
    ],
)
def test_an_array_is_read_as_it_was_written(array):
    read = unpack(msgpack.packb(array, default=msgpack_numpy.encode))
    assert (read.dtype, read.shape, repr(read.tolist())) == (array.dtype, array.shape, repr(array.tolist()))


def test_a_complex_number_is_read():
    assert unpack(msgpack.packb(1 + 2j, default=msgpack_numpy.encode)) == 1 + 2j


# numpy would take eight bytes of the message for the address of an object.
@pytest.mark.parametrize(
    "message",
    [
        packed(type="O", shape=[1], data=b"A" * 8),
        packed(kind=b"V", type=[["f", "O"]], shape=[1], data=b"A" * 8),
        packed(kind=b"V", type=[["f", [["g", "O"]]]], shape=[1], data=b"A" * 8),
        packed(kind=b"V", type=[["f", "O", [1]]], shape=[1], data=b"A" * 8),
        packed(kind=b"", type="i4,O", shape=[1], data=b"A" * 12),
        packed(kind=b"", type="T", shape=[1], data=b"A" * 16),
        msgpack.packb({b"nd": False, b"type": "O", b"data": b"A" * 8}),
    ],
)
def test_bytes_never_become_objects(message):
    assert isinstance(unpack(message), dict)


@pytest.mark.parametrize(
    "message",
    [
        packed(kind=b"", type="V0", shape=[10**9], data=b""),
        packed(kind=b"", type="f8", shape=[10**9, 0], data=b""),
        packed(kind=b"V", type=[["a", "i4"], ["b", "V0", [10**9]]], shape=[1], data=b"A" * 4),
        packed(
            kind=b"V", type={"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 0]}, shape=[1], data=b"AAAA"
        ),
        packed(kind=b"", type="i1", shape=[2], data=b"A"),
        packed(kind=b"", type="i1", shape=[-1], data=b"A"),
    ],
)
def test_an_array_holds_no_more_than_the_bytes_there_are(message):
    assert isinstance(unpack(message), dict)
