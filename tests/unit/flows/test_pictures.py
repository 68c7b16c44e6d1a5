"""Images and waveforms of a run are shown as they are, from as little as is enough."""

import io

import numpy as np
import pyarrow
import pytest
from PIL import Image

from bluesky_prefect.core import TiledUnavailable
from bluesky_prefect.flows.export_parts import _image_series as image_series
from bluesky_prefect.flows.export_parts._image_series import ImageSeries
from bluesky_prefect.flows.export_parts._pictures import Pictures, _limits, _Map, _Sheet, _smaller, draw_pictures
from bluesky_prefect.flows.export_parts._plots import run_plot
from bluesky_prefect.flows.export_parts._waveforms import waveforms
from bluesky_prefect.tiled_api import ExternalArray, RunData, Stream


class Held(ExternalArray):
    """An array that is read from memory, and remembers how much was."""

    def __new__(cls, *_):
        return object.__new__(cls)

    def __init__(self, key, values, problem="", is_readable=True):
        about = f"raw/u/primary/{key}", values.shape, str(values.dtype), ["file:///a.h5"]
        super().__init__(key, *about, problem, is_readable)
        self.__dict__["values"] = values
        self.__dict__["bytes_read"] = 0

    def __getitem__(self, part):
        found = self.__dict__["values"][part]
        self.__dict__["bytes_read"] += found.nbytes
        return found


class Refused(Held):
    def __getitem__(self, part):
        raise TiledUnavailable("no such file")


def run_of(arrays, columns, motors=(), **metadata):
    hints = {"dimensions": [[[motor], "primary"] for motor in motors]}
    stream = Stream("primary", metadata, pyarrow.table(columns), list(arrays))
    return RunData({"uid": "0123abcd", "scan_id": 1, "plan_name": "scan", "hints": hints}, {}, [stream], "raw/u")


def series_of(values, rows):
    return ImageSeries(Held("img", values), rows)


FRAMES = np.arange(5 * 8 * 6, dtype="uint16").reshape(5, 8, 6)


@pytest.mark.parametrize(
    ("shape", "dtype", "count"),
    [
        ((5, 8, 6), "uint16", 5),
        ((5, 1, 8, 6), "uint16", 5),
        ((5, 3, 8, 6), "float64", 15),
        ((5, 8, 6, 3), "uint8", 5),
        ((5, 8, 6, 4), "uint8", 5),
    ],
)
def test_images_are_found_in_all_shapes(shape, dtype, count):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    [series] = ImageSeries.of_stream(run_of([Held("img", values)], {"seq_num": [1, 2, 3, 4, 5]}).streams[0])
    assert series.count == count
    assert series.image(count - 1).shape[:2] == (8, 6)
    last = values.reshape(count, 8, 6, -1)[-1, ..., : series.image(0).ndim]
    np.testing.assert_array_equal(series.image(count - 1).reshape(8, 6, -1), last)
    assert series.event(count - 1) == 4


@pytest.mark.parametrize(
    "values", [np.zeros((5, 8)), np.zeros((5, 3, 900)), np.zeros((0, 8, 8)), np.full((5, 8, 8), "a")]
)
def test_what_is_no_image_is_none(values):
    assert ImageSeries.of_stream(run_of([Held("x", values)], {"seq_num": [1]}).streams[0]) == []


def test_what_cannot_be_read_is_not_tried():
    assert ImageSeries.of_stream(run_of([Held("x", FRAMES, "outside", False)], {"seq_num": [1]}).streams[0]) == []


def test_the_survey_is_the_mean_and_the_sums_of_all(monkeypatch):
    monkeypatch.setattr(image_series, "_BLOCK_BYTES", 200)
    survey = series_of(FRAMES, 5).survey(with_sums=True)
    assert survey.frames == 5
    np.testing.assert_allclose(survey.mean, FRAMES.mean(axis=0))
    assert survey.sums == FRAMES.sum(axis=(1, 2)).tolist()


def test_of_many_images_the_survey_reads_some(monkeypatch):
    monkeypatch.setattr(image_series, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(image_series, "_MOST_BYTES", 1000)
    values = np.ones((1000, 8, 6), "uint16")
    series = series_of(values, 1000)
    survey = series.survey(with_sums=True)
    assert (survey.frames, survey.sums) == (32, [])
    assert (survey.mean == 1).all()
    assert series.array.__dict__["bytes_read"] == 32 * 8 * 6 * 2


def test_a_huge_image_is_read_in_steps():
    series = series_of(np.zeros((1, 5000, 100), "uint8"), 1)
    assert series.image(0).shape == (1667, 34)


def test_a_small_picture_of_an_image_keeps_its_mean():
    image = np.random.default_rng(1).random((1024, 512))
    assert _smaller(image).shape == (256, 128)
    assert _smaller(image).mean() == pytest.approx(image.mean())


def test_one_hot_pixel_does_not_make_everything_else_dark():
    image = np.random.default_rng(1).random((100, 100))
    image[3, 3] = 1e9
    lowest, highest = _limits([image])
    assert 0 <= lowest < highest <= 1


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.full((4, 4), 7)])
def test_an_image_of_one_value_has_limits(image):
    lowest, highest = _limits([image])
    assert np.isfinite([lowest, highest]).all()


def sheet_of(run):
    stream, motors = run.scanned()
    found = Pictures()
    return _Sheet.of(ImageSeries.of_stream(stream)[0], stream, motors, found), found


def test_a_scan_shows_nine_images_and_where_the_motor_was():
    frames = np.arange(33)[:, None, None] * np.ones((8, 6))
    motor = np.linspace(-1, 1, 33)
    units = {"motor": {"units": "mm"}, "img": {}}
    sheet, _ = sheet_of(run_of([Held("img", frames)], {"motor": motor}, ["motor"], data_keys=units))
    assert sheet.title == "img, 9 of 33"
    assert sheet.labels == [f"motor {motor[index]:.4g} mm" for index in range(0, 33, 4)]
    assert [float(image.mean()) for image in sheet.images] == list(range(0, 33, 4))


def test_a_count_shows_the_first_the_last_and_the_mean():
    sheet, _ = sheet_of(run_of([Held("img", FRAMES)], {"time": [1.0, 2.0, 3.0, 4.0, 5.0]}))
    assert sheet.labels == ["first", "last", "mean of all"]
    for shown, image in zip(sheet.images, [FRAMES[0], FRAMES[-1], FRAMES.mean(axis=0)], strict=True):
        np.testing.assert_allclose(shown, image)


def test_the_sums_of_a_detector_without_numbers_are_plotted():
    _, found = sheet_of(run_of([Held("img", FRAMES)], {"motor": [0.0, 1.0, 2.0, 3.0, 4.0]}, ["motor"]))
    assert found.sums == {"img": FRAMES.sum(axis=(1, 2)).tolist()}


def test_a_detector_that_gives_its_sum_is_not_summed():
    keys = {"img": {"object_name": "img"}, "img_total": {"object_name": "img"}}
    columns = {"motor": [0.0, 1.0, 2.0, 3.0, 4.0], "img_total": [1.0] * 5}
    _, found = sheet_of(run_of([Held("img", FRAMES)], columns, ["motor"], data_keys=keys))
    assert found.sums == {}


def waves(length=7):
    return np.arange(5.0 * length).reshape(5, length)


@pytest.mark.parametrize(
    ("column", "shape"),
    [
        (pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(waves().ravel()), 7), (5, 7)),
        (pyarrow.array(waves().tolist()), (5, 7)),
        (pyarrow.array([[1.0, 2.0], [3.0]]), None),
        (pyarrow.array([1.0, 2.0]), None),
        (pyarrow.array([["a"], ["b"]]), None),
        (pyarrow.array([[], []], pyarrow.list_(pyarrow.float64())), None),
        (pyarrow.array([None, None], pyarrow.list_(pyarrow.float64())), None),
    ],
)
def test_waveforms_are_found_in_the_table(column, shape):
    found = waveforms(run_of([], {"wave": column}).streams[0])
    assert {key: read().shape for key, _, read in found} == ({"wave": shape} if shape else {})


def test_a_long_waveform_is_read_from_its_file():
    values = np.ones((5, 9000))
    [(key, events, read)] = waveforms(run_of([Held("wave", values)], {"seq_num": [1, 2, 3, 4, 5]}).streams[0])
    assert (key, events, read().shape) == ("wave", 5, (5, 1000))


@pytest.mark.parametrize("shape", [(3000, 50), (2, 60_000), (3000, 3000)])
def test_of_a_large_map_no_more_is_read_than_is_shown(shape):
    array = Held("wave", np.ones(shape, "uint8"))
    [(_, events, read)] = waveforms(run_of([array], {"seq_num": list(range(shape[0]))}).streams[0])
    assert events == shape[0]
    assert max(read().shape) <= 1000
    assert array.__dict__["bytes_read"] <= 1_000_000


def test_a_map_spans_the_motor_s_positions():
    run = run_of([], {"motor": [0.0, 1.0, 2.0, 3.0, 4.0]}, ["motor"])
    stream, motors = run.scanned()
    assert _Map("wave", waves(), 5, stream, motors)._scan() == ((-0.5, 4.5), "motor")
    uneven = run_of([], {"motor": [0.0, 1.0, 5.0, 3.0, 4.0]}, ["motor"]).scanned()
    assert _Map("wave", waves(), 5, *uneven)._scan() == ((0.5, 5.5), "point")


@pytest.mark.parametrize(
    ("arrays", "columns"),
    [
        ([Held("img", FRAMES)], {"motor": [0.0, 1.0, 2.0, 3.0, 4.0]}),
        ([Held("rgb", np.random.default_rng(1).integers(0, 255, (5, 8, 6, 3)).astype("uint8"))], {"motor": [0.0] * 5}),
        ([], {"motor": [0.0, 1.0, 2.0, 3.0, 4.0], "wave": waves().tolist()}),
        ([Held("img", np.full((5, 8, 6), np.nan))], {"motor": [0.0, 1.0, 2.0, 3.0, 4.0]}),
    ],
)
@pytest.mark.parametrize("motors", [(), ("motor",)])
def test_what_there_is_is_drawn(arrays, columns, motors):
    drawn = draw_pictures(run_of(arrays, columns, motors))
    assert drawn.problems == []
    assert Image.open(io.BytesIO(drawn.png)).width == 800


def test_a_run_without_images_or_waveforms_has_no_picture():
    assert draw_pictures(run_of([], {"det": [1.0, 2.0]})).png == b""


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).random((5, 8, 6)) > 0.5,
        np.ones((5, 5000, 4)),
        np.ones((5, 4, 4096)),
        np.array([[1.7e308, -1.7e308] * 4] * 5),
        np.zeros((5, 4), [("a", "i4"), ("b", "f4")]),
    ],
    ids=["masks", "tall", "wide", "immense", "structured"],
)
def test_an_odd_array_does_not_fail_the_export(values):
    columns = {"motor": [0.0, 1.0, 2.0, 3.0, 4.0]}
    drawn = draw_pictures(run_of([Held("odd", values), Held("img", FRAMES)], columns, ["motor"]))
    assert drawn.png or drawn.problems


def test_images_that_do_not_belong_to_events_are_numbered():
    frames = np.arange(11)[:, None, None] * np.ones((8, 6))
    array = Held("img", frames, "11 rows of it, and 10 events")
    sheet, _ = sheet_of(run_of([array], {"motor": np.arange(10.0)}, ["motor"]))
    assert sheet.labels[:2] == ["image 1", "image 2"]


def test_frames_of_a_slower_detector_are_labelled_as_its_rows_are():
    stream = run_of([Held("img", FRAMES)], {"frame": list(range(10))}).streams[0]
    assert [ImageSeries.of_stream(stream)[0].event(index) for index in range(5)] == list(range(5))


def test_labels_tell_energies_apart():
    columns = {"energy": np.linspace(12658, 12660, 5)}
    sheet, _ = sheet_of(run_of([Held("img", FRAMES)], columns, ["energy"]))
    assert len(set(sheet.labels)) == 5


def test_images_that_cannot_be_read_are_told_and_the_rest_is_drawn():
    columns = {"motor": [0.0, 1.0, 2.0, 3.0, 4.0], "wave": waves().tolist()}
    drawn = draw_pictures(run_of([Refused("img", FRAMES)], columns, ["motor"]))
    assert drawn.problems == ["primary, img: no picture: TiledUnavailable: no such file"]
    assert drawn.png


def test_a_plot_shows_the_sums_of_images_beside_what_is_asked_for():
    run = run_of([], {"motor": [0.0, 1.0], "det": [1.0, 2.0]}, ["motor"], hints={"det": {"fields": ["det"]}})
    one = Image.open(io.BytesIO(run_plot(run)))
    two = Image.open(io.BytesIO(run_plot(run, {"img": [1.0, 2.0]})))
    assert two.height > one.height
