"""Documents made fit for Tiled and its databases."""

import numpy as np
import pytest

from bluesky_prefect.core import jsonable
from bluesky_prefect.tiled_api._fitting import patches


@pytest.mark.parametrize(
    ("doc", "fit"),
    [
        ({"sample": "Cu\0"}, {"sample": r"Cu\x00"}),
        ({"sa\0mple": 1}, {r"sa\x00mple": 1}),
        ({"a": [{"b": "\\\0"}]}, {"a": [{"b": r"\\x00"}]}),
        ({"half": "\ud800"}, {"half": r"\ud800"}),
    ],
)
@pytest.mark.parametrize("name", ["start", "descriptor", "stop"])
def test_characters_that_databases_refuse_become_escapes(name, doc, fit):
    assert patches()[name](doc) == fit


@pytest.mark.parametrize("doc", [{"sample": "\\u0000"}, {"sample": "Cü"}])
def test_what_only_looks_like_one_is_left_as_it_is(doc):
    assert patches()["start"](doc) is doc


def test_data_keep_the_names_that_their_descriptor_has():
    fit = patches()
    event = {"data": {"a\0b": 1.0, "c": 2.0}, "timestamps": {"a\0b": 1.0, "c": 1.0}, "filled": {"a\0b": False}}
    [name] = fit["descriptor"]({"data_keys": {"a\0b": {}}})["data_keys"]
    assert fit["event"](event) == {
        "data": {name: 1.0, "c": 2.0},
        "timestamps": {name: 1.0, "c": 1.0},
        "filled": {name: False},
    }
    assert fit["stream_resource"]({"data_key": "a\0b", "parameters": {"x": "\0"}}) == {
        "data_key": name,
        "parameters": {"x": "\0"},
    }


@pytest.mark.parametrize("text", ["half a \ud800 character", "a NUL \x00"])
def test_a_text_that_cannot_be_sent_costs_no_array_beside_it(text):
    grid = np.arange(20_000)
    fitted = patches()["start"]({"uid": "a", "grid": grid, "notes": [{text: text}]})
    assert fitted["grid"] is grid
    assert fitted["notes"] == [{jsonable(text): jsonable(text)}]
