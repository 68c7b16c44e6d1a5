"""CSV reads back exactly and holds no formulas."""

import csv
import io
import json
import math
import unicodedata

import pandas
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_prefect.flows.export_parts._csv import harmless, write_csv
from bluesky_prefect.tiled_api import ExternalArray, Stream


def csv_of(columns, arrays=()):
    file = io.BytesIO()
    write_csv(Stream("primary", {}, pyarrow.table(columns), list(arrays)), file)
    return file.getvalue()


def read(content):
    return pandas.read_csv(io.BytesIO(content))


@given(st.lists(st.floats(), min_size=1))
def test_floats_read_back_to_the_same_bits(values):
    back = read(csv_of({"x": pyarrow.array(values, pyarrow.float64())}))["x"].astype(float).tolist()
    assert [math.copysign(1, b) for b in back if b == 0] == [math.copysign(1, v) for v in values if v == 0]
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(values, back, strict=True))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_numbers_stay_whole(values):
    assert read(csv_of({"n": pyarrow.array(values, pyarrow.int64())}))["n"].tolist() == values


def test_all_rows_are_written_beyond_one_batch():
    rows = 25_000
    array = ExternalArray("img", "raw/u/primary/img", (rows, 4, 4), "float64", [])
    back = read(csv_of({"seq_num": pyarrow.array(range(rows))}, [array]))
    assert back["seq_num"].tolist() == list(range(rows))
    assert back["img"].tolist() == [f"raw/u/primary/img[{row}]" for row in range(rows)]


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+SUM(A1)", "-2+3", "@cmd", "\t=1", "\r=1", " =1", "\n=1", "\uff1d1"],
)
def test_text_that_looks_like_a_formula_gets_an_apostrophe(text):
    assert harmless(text) == f"'{text}"
    header, cell = pandas.read_csv(io.BytesIO(csv_of({text: [text]})), header=None)[0]
    assert header.startswith("'")
    assert cell.startswith("'")


@pytest.mark.parametrize("text", ["\ufeff=1", "\x00=1", "\u200b\n@x", "\ufe661", "\u207a1"])
def test_a_formula_does_not_hide_behind_what_cannot_be_seen_or_looks_alike(text):
    assert harmless(text) == f"'{text}"


def begins_a_formula(cell):
    """Say what a spreadsheet may make of a cell, independently of how it was written."""
    seen = unicodedata.normalize("NFKC", cell.strip().lstrip("\ufeff\u200b\x00").strip())
    if cell[:1] in ("\t", "\r"):
        return True
    try:
        float(cell)
    except ValueError:
        return seen[:1] in ("=", "+", "-", "@")
    return False


openings = st.sampled_from(
    ["=", "+", "-", "@", "\t", "\r", "\n", " ", "\uff1d", "\uff20", "\ufeff", "\x00", '"', ",", "'", ";"]
)
hostile = st.builds("{}{}{}".format, openings, openings, st.text(max_size=5))
values = st.one_of(
    hostile,
    hostile.map(str.encode),
    st.lists(hostile, max_size=2),
    st.fixed_dictionaries({"a": hostile}),
    st.floats(),
    st.integers(-(2**63), 2**63 - 1),
    st.timedeltas(),
    st.datetimes(),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, max_value=10**9, min_value=-(10**9)),
    st.booleans(),
)


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(hostile, values, min_size=1, max_size=3), hostile, hostile)
def test_no_cell_of_a_csv_is_a_formula_whatever_metadata_and_data_are(columns, key, path):
    array = ExternalArray(key, path, (1, 2), "u1", [])
    content = csv_of({name: pyarrow.array([value]) for name, value in columns.items()}, [array]).decode()
    # As a file is read; csv.reader splits lines at carriage returns otherwise.
    header, row = csv.reader(io.StringIO(content, newline=""))
    assert len(header) == len(row) == len(columns) + 1
    assert not [cell for cell in (*header, *row) if begins_a_formula(cell)]


@pytest.mark.parametrize("text", ["-1.5", "+3", "-1e-5", "plain", "a=b", "", "1-2"])
def test_other_text_is_left_alone(text):
    assert harmless(text) == text


def test_numbers_are_never_touched():
    assert csv_of({"x": [-1.5], "n": [-3]}) == b"x,n\n-1.5,-3\n"


def test_text_with_commas_quotes_and_lines_is_one_cell():
    text = 'a, "b"\nc'
    assert read(csv_of({"t": [text, "x"]}))["t"].tolist() == [text, "x"]


def test_nan_is_a_number_and_missing_is_empty():
    lines = csv_of({"x": [math.nan, None, math.inf], "b": [True, False, None]}).decode().splitlines()
    assert lines == ["x,b", "NaN,True", ",False", "inf,"]


def test_short_arrays_are_json_in_their_cell():
    values = [[0.1, 0.2, 0.30000000000000004], [1.0, 2.0, 3.0]]
    assert [json.loads(cell) for cell in read(csv_of({"wave": values}))["wave"]] == values


def test_external_arrays_are_referred_to_frame_by_frame():
    def cells(shape, rows):
        return ExternalArray("img", "p", shape, "uint8", []).cells(rows)

    assert cells((2, 5, 5), 2) == ["p[0]", "p[1]"]
    assert cells((6, 5, 5), 2) == ["p[0:3]", "p[3:6]"]
    assert cells((5, 5, 5), 2) == ["p", "p"]
    assert cells((), 2) == ["p", "p"]
    assert cells((0, 5), 2) == ["p", "p"]


def test_a_stream_without_events_has_a_header():
    assert csv_of({"seq_num": pyarrow.array([], pyarrow.int64()), "=x": pyarrow.array([])}) == b"seq_num,'=x\n"
