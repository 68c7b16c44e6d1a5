"""Documents in messages: what they hold is data, and never code."""

import json
import os
import pickle
from collections import ChainMap, OrderedDict
from datetime import UTC, datetime

import msgpack
import msgpack_numpy
import numpy as np
import pytest

from bluesky_prefect.sources._documents import read_document

DOCUMENT = {
    "uid": "a-run",
    "time": 1.5,
    "motors": ("x", "y"),
    "array": np.arange(6.0).reshape(2, 3),
    "number": np.float32(2.5),
    "names": np.array(["a", None], dtype=object),
    "when": datetime(2026, 1, 31, tzinfo=UTC),
    "nested": OrderedDict(a=ChainMap({"b": {1, 2}})),
    "bytes": b"\xff\x00",
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickle_of_data_is_read_whatever_its_protocol(protocol):
    read = read_document(pickle.dumps(DOCUMENT, protocol=protocol), "pickle")
    assert repr(read) == repr(DOCUMENT)


class _Harm:
    def __reduce__(self):
        return os.system, ("false",)


class _Getattr:
    def __reduce__(self):
        return getattr, (dict, "fromkeys")


@pytest.mark.parametrize("harm", [_Harm(), {"uid": [_Getattr()]}, np.load, pickle.loads, eval])
def test_a_pickle_that_names_code_is_refused(harm):
    with pytest.raises(pickle.UnpicklingError, match="not data"):
        read_document(pickle.dumps(harm), "pickle")


def test_a_pickle_within_msgpack_is_not_read():
    packed = msgpack.packb({b"nd": True, b"kind": b"O", b"data": pickle.dumps(_Harm()), b"type": "O", b"shape": [1]})
    assert isinstance(read_document(packed, "msgpack"), dict)


def test_msgpack_and_json_are_read():
    document = {"uid": "a-run", "array": np.arange(3)}
    read = read_document(msgpack.packb(document, default=msgpack_numpy.encode), "msgpack")
    assert (read["uid"], read["array"].tolist()) == ("a-run", [0, 1, 2])
    assert read_document(json.dumps(["start", {"uid": "a"}]).encode(), "json") == ["start", {"uid": "a"}]
