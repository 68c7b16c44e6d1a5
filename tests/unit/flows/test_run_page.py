"""The page of a run stays small, and holds what people typed as text."""

import random
from base64 import b64decode
from io import BytesIO
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from bluesky_prefect.flows._export import MAX_PICTURES_BYTES, MAX_PLOT_BYTES
from bluesky_prefect.flows.export_parts._data_address import data_address
from bluesky_prefect.flows.export_parts._plots import run_plot
from bluesky_prefect.flows.export_parts._run_page import run_page, run_title
from bluesky_prefect.tiled_api import ExternalArray, RunData, Stream

UTC = ZoneInfo("UTC")
READER = MarkdownIt("gfm-like", {"linkify": False, "html": True})
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["scan_id", "plan_name", "time", "detectors", "motors", "hints"]


def run_of(columns, start=None, arrays=(), name="primary"):
    stream = Stream(name, {}, pyarrow.table(columns), list(arrays))
    return RunData({"uid": "01234567-89ab", "scan_id": 1, "plan_name": "count", **(start or {})}, {}, [stream], "raw/u")


def page_of(run, folder, weather="nobody asked"):
    folder.mkdir(exist_ok=True)
    file = folder / "scan_1_count.txt"
    file.write_bytes(b"x" * 1500)
    return run_page(run, weather=weather, zone=UTC, files=[file], tiled="http://t/ui/browse/raw/u")


def noisy_grid(side, panels):
    noise = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(float(side)), np.arange(float(side)))
    columns = {
        "x": x.ravel(),
        "y": y.ravel(),
        **{f"det{number}": noise.random(side * side) for number in range(panels)},
    }
    return run_of(columns, {"hints": {"dimensions": [[["y"], "primary"], [["x"], "primary"]]}})


@pytest.mark.parametrize(
    "run",
    [
        run_of({f"det{number}": [1.0, 2.0, 0.5] for number in range(200)}, {"detectors": ["d" * 300] * 200}),
        run_of({"det": np.random.default_rng(1).random(20_000)}),
        noisy_grid(100, 6),
        run_of({"det": [1.0]}, arrays=[ExternalArray(f"img{n}", "raw/u/p", (5, 9, 9), "u2", []) for n in range(50)]),
        run_of({}, {"plan_name": "p" * 100_000, "scan_id": "|" * 100_000}, name="s" * 10_000),
    ],
    ids=["many detectors", "many points", "noisy map", "images", "long texts"],
)
def test_the_page_of_the_largest_run_has_its_plot_and_is_smaller_than_100_kb(run, tmp_path):
    address = data_address(run_plot(run), MAX_PICTURES_BYTES)
    header, _, data = address.partition(",")
    assert header == "data:image/png;base64"
    picture = Image.open(BytesIO(b64decode(data)))
    assert picture.width >= 240
    assert len(picture.convert("L").getcolors(256)) > 1
    assert len((run_title(run, {"the run, plotted": address}) + page_of(run, tmp_path)).encode()) < 100_000


def test_a_picture_that_cannot_be_made_small_is_left_out():
    noise = BytesIO()
    Image.frombytes("RGB", (700, 700), random.Random(1).randbytes(700 * 700 * 3)).save(noise, format="png")
    assert data_address(noise.getvalue(), 10_000) == ""
    assert "see its file" in run_title(run_of({"det": [1.0]}), {"the run, plotted": ""})


@pytest.mark.parametrize("height", [400, 2000])
def test_images_and_a_plot_beside_them_fit_whatever_they_show(height):
    noise = BytesIO()
    Image.frombytes("RGB", (800, height), random.Random(1).randbytes(800 * height * 3)).save(noise, format="png")
    plot = data_address(run_plot(noisy_grid(100, 6)), MAX_PLOT_BYTES)
    images = data_address(noise.getvalue(), MAX_PICTURES_BYTES - len(plot), has_images=True)
    assert plot.startswith("data:image/png;base64,")
    assert images.startswith("data:image/jpeg;base64,")
    assert len(plot) + len(images) <= MAX_PICTURES_BYTES


def test_the_title_shows_the_uid_as_it_is_and_the_plot_below():
    run = run_of({"det": [1.0]})
    assert run_title(run, {"the run, plotted": "data:x", "its images": None}).splitlines() == [
        r"scan 1 \(count\)\, run 01234567-89ab", "", "![the run, plotted](data:x)"
    ]  # fmt: skip


def test_the_page_says_what_a_person_asks_first(tmp_path):
    run = run_of({"det": [1.0, 2.0]}, {"time": 1777651200.25, "detectors": ["det"], "motors": ["m_1"]})
    run.stop.update({"time": 1777651326.25, "exit_status": "abort", "reason": "beam | lost"})
    text = page_of(run, tmp_path)
    for line in (
        "# Scan 1: count",
        "[Look at the data in Tiled](http://t/ui/browse/raw/u). A page that stays empty wants your browser signed in; "
        "on the local stack: `bluesky-prefect ui --tiled`",
        r"| exit status | abort |",
        r"| reason | beam \| lost |",
        r"| duration | 2\.1 min |",
        r"| points | primary\: 2 |",
        r"| motors | m\_1 |",
        r"| weather | none: nobody asked |",
        r"| scan\_1\_count\.txt | 1.5 kB |",
    ):
        assert line in text.splitlines()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.dictionaries(st.sampled_from(KEYS), JSON | st.text()), name=st.text(), why=st.text())
def test_whatever_the_metadata_are_the_page_keeps_its_form(tmp_path, start, name, why):
    run = run_of({"det": [1.0]}, start, name=name)
    run.stop.update({"reason": why, "exit_status": why, "time": start.get("time")})
    tokens = READER.parse(page_of(run, tmp_path, weather=why))
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2"]
    assert len([token for token in tokens if token.type == "table_open"]) == 2
    inner = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inner} <= {"text", "text_special", "code_inline", "link_open", "link_close"}
    assert {child.attrs["href"] for child in inner if child.type == "link_open"} == {"http://t/ui/browse/raw/u"}
