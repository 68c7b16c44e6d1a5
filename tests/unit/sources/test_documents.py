"""Documents in messages: what they hold is data, and never code."""

import contextlib
import json
import os
import pickle
import tracemalloc
from collections import ChainMap, OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from types import SimpleNamespace

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from bluesky_prefect.core import jsonable
from bluesky_prefect.sources._documents import hand_over, read_document, read_pair

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


DATA = {
    "plain": {"a": [1, -1, 2**70, 1.5, True, None, "é", b"b", bytearray(b"c"), (), (1,), (1, 2, 3, 4)]},
    "sets": [{1, "a"}, frozenset({(1, "b")}), set()],
    "times": [datetime(2026, 1, 31, 1, 2, 3, 4), datetime(2026, 1, 31, tzinfo=UTC), date(2026, 1, 31), time(1, 2)],
    "spans": [timedelta(1, 2, 3), timezone(timedelta(hours=1), "there"), range(1, 9, 2), slice(1, None), 1 + 2j],
    "same twice": [["a"]] * 2,
    "arrays": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3))), np.ones((4, 4))[::2, ::2]],
    "axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "no dimension": np.array(2.5),
    "no element": [np.zeros((0, 3)), np.zeros((0, 2048, 2048)), np.zeros((3, 0, 2)).transpose(1, 0, 2)],
    "texts": [np.array(["a", "bcd"]), np.array([b"a", b"bcd"]), np.array("a"), np.array([""])],
    "other order": [np.arange(3, dtype=">i4"), np.array(["ab"], dtype=">U2")],
    "dates": [np.array(["2026-01-31", "NaT"], dtype="M8[ns]"), np.array([1, 2], "m8[25s]"), np.array([1], "m8")],
    "fields": np.array([(1, 2.5, [1, 2])], dtype=[("a", "i4"), ("b", ">f8"), ("c", "u1", (2,))]),
    "nested fields": np.array([((1, 2),)], dtype=[("a", [("b", "i4"), ("c", "i4")])]),
    "titles": np.array([(1,)], dtype=[(("title", "name"), "i4")]),
    "gaps": np.zeros(2, dtype=np.dtype([("a", "u1"), ("b", "f8")], align=True)),
    "void": [np.zeros(2, "V3"), np.zeros(2, [("a", "i4")])[0]],
    "objects": [np.array([["a", None], [[1], {}]], dtype=object), np.array(None, dtype=object)],
    "scalars": [np.float32(2.5), np.float64(1), np.int8(-1), np.True_, np.str_("a"), np.str_(""), np.bytes_(b"a")],
    "scalar dates": [np.datetime64("2026-01-31", "ns"), np.timedelta64(3, "s"), np.complex64(1 + 2j)],
    "type": np.dtype("f8"),
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("version", [b"numpy.core.", b"numpy._core."], ids=["numpy 1", "numpy 2"])
@pytest.mark.parametrize("name", DATA)
def test_what_python_reads_is_read_the_same(name, version, protocol):
    value = DATA[name]
    content = pickle.dumps(value, protocol=protocol).replace(b"numpy._core.", version)
    if version == b"numpy.core.":  # names are one shorter, of which protocol 4 and later count the characters
        for module in (b"multiarray", b"numeric"):
            full = version + module
            content = content.replace(bytes([len(full) + 1]) + full, bytes([len(full)]) + full)
    assert described(read_document(content, "pickle")) == described(value)


def described(value):
    """Return a value as text that tells types, too; an array that is read has no strides or padding to compare."""
    match value:
        case np.ndarray() | np.generic():
            items = [described(one) for one in np.atleast_1d(value).flat] if value.dtype == object else value.tolist()
            return f"{type(value)} {value.dtype.descr if value.dtype.names else value.dtype} {value.shape} {items}"
        case dict():
            return str([(key, described(one)) for key, one in value.items()])
        case list() | tuple():
            return str((type(value), [described(one) for one in value]))
    return f"{type(value)} {value!r}"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(PLAIN, st.sampled_from([3, 4, 5]))
def test_whatever_plain_values_a_document_holds_are_read(value, protocol):
    content = pickle.dumps(value, protocol=protocol)
    assert repr(read_document(content, "pickle")) == repr(pickle.loads(content))


@settings(deadline=None)
@given(arrays(scalar_dtypes(), array_shapes(min_dims=0, max_dims=3)), st.sampled_from([3, 4, 5]))
def test_whatever_arrays_a_document_holds_are_read(array, protocol):
    read = read_document(pickle.dumps(array, protocol=protocol), "pickle")
    assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())


@settings(deadline=None)
@given(st.data(), st.sampled_from([3, 4, 5]))
def test_a_damaged_pickle_raises_or_is_data(data, protocol):
    content = bytearray(pickle.dumps([DOCUMENT, DATA], protocol=protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Exception):
        jsonable(read_document(bytes(content), "pickle"))


class _Made:
    """Pickled as a call of something with arguments, and maybe a state."""

    def __init__(self, *made: object) -> None:
        self.made = made

    def __reduce__(self):
        return self.made


def _nested(value, times, width):
    for _ in range(times):
        value = [value] * width
    return value


_FORGED = (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)
HOSTILE = {
    "an array over addresses": lambda: pickle.dumps(_Made(np.ndarray, ((1,), "O", b"A" * 8))),
    "a type with forged flags": lambda: pickle.dumps(
        _Made(
            np.array(0).__reduce__()[0],
            (np.ndarray, (0,), b"b"),
            (1, (1,), _Made(np.dtype, ("V8", False, True), _FORGED), False, b"A" * 8),
        )
    ),
    "an array larger than its data": lambda: pickle.dumps(
        _Made(np.array(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (10**9,), np.dtype("f8"), False, b"A" * 8))
    ),
    "a set of a range": lambda: pickle.dumps(_Made(set, (range(3 * 10**9),))),
    "a long range": lambda: pickle.dumps(range(3 * 10**9)),
    "many bytes": lambda: pickle.dumps(_Made(bytearray, (3 * 10**9,))),
    "lists of lists": lambda: pickle.dumps(_nested(1, 12, 10)),
    "a long text many times": lambda: pickle.dumps(["a" * 100_000] * 100_000),
    "a key of tuples": lambda: b"\x80\x04})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"Ns.",
    "deep": lambda: b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a deep key": lambda: b"\x80\x04})" + b"\x85" * 200_000 + b"Ns.",
    "many copies of bytes": lambda: (
        b"\x80\x04cbuiltins\nbytearray\nq\x00B" + (10**5).to_bytes(4, "little") + b"a" * 10**5 + b"q\x01"
        b"](" + b"h\x00h\x01\x85R" * 10**4 + b"e\x87."
    ),
    "many sets of one list": lambda: (
        b"\x80\x04cbuiltins\nset\nq\x00]q\x01(" + b"N" * 10**5 + b"e](" + b"h\x00h\x01\x85R" * 10**4 + b"e\x87."
    ),
    "many arrays of one list": lambda: (
        b"\x80\x04cnumpy._core.multiarray\n_reconstruct\nq\x00"
        b"cnumpy\ndtype\n\x8c\x01O\x85R(K\x03\x8c\x01|NNNKKKKKKtbq\x02"
        b"]q\x01(" + b"N" * 10**5 + b"e](" + b"h\x00)R(\x4a\xa0\x86\x01\x00\x85h\x02\x89h\x01tb" * 10**4 + b"e\x87."
    ),
    "itself": lambda: b"\x80\x04]\x94h\x00a.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_message_that_would_become_large_is_refused(name):
    reasons = "far larger|too deep|wrong place|in the place of|does not go with its data|as no document|holds itself"
    with pytest.raises((TypeError, ValueError), match=reasons):
        read_document(HOSTILE[name](), "pickle")


def test_a_place_far_away_takes_no_memory():
    content = b"\x80\x04Nr" + (2**31).to_bytes(4, "little") + b"."
    tracemalloc.start()
    try:
        assert read_document(content, "pickle") is None
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_pair_is_a_name_and_its_document():
    assert read_pair(msgpack.packb(["event", {"a": 1}])) == ("event", {"a": 1})


@pytest.mark.parametrize(
    "pair",
    [
        ["stop", 5],
        ["stop", {}],
        {"stop": 1, "x": 2},
        "ab",
        5,
        [5, {}],
        ["start", {"uid": 5}],
        ["start", {"uid": ""}],
        ["stop", {"run_start": ["a"]}],
        ["start", {"uid": "a"}, 1],
    ],
)
def test_what_names_no_run_is_no_pair(pair):
    with pytest.raises((TypeError, ValueError), match="it"):
        read_pair(msgpack.packb(pair))


@pytest.mark.parametrize(("name", "doc"), [("stop", {}), ("stop", 5), ("start", {"uid": None}), (None, {})])
def test_a_document_that_names_no_run_is_not_handed_over(name, doc):
    taken: list[object] = []
    callback = SimpleNamespace(start=taken.append, stop=taken.append)
    with pytest.raises((TypeError, ValueError), match="it"):
        hand_over(callback, name, doc)
    assert not taken


def test_documents_that_a_callback_has_no_use_for_are_passed_over():
    hand_over(SimpleNamespace(), "event", {})
    hand_over(SimpleNamespace(), "hello", {})
