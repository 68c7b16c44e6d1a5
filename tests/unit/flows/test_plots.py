"""Every run gets a picture, whatever its metadata says."""

import subprocess
import sys
import threading

import pyarrow
import pytest

from bluesky_prefect.flows.export_parts._plots import run_plot, temperature_plot
from bluesky_prefect.tiled_api import RunData, Stream

PNG = b"\x89PNG\r\n\x1a\n"
COLUMNS = {
    "seq_num": [1, 2, 3],
    "time": [10.0, 11.0, 12.0],
    "det": [1.0, float("nan"), 3.0],
    "motor": [0.0, 1.0, 2.0],
    "motor1": [0, 0, 1],
    "label": ["a", "b", "c"],
    "wave": [[1.0], [2.0], [3.0]],
}


def dimensions(*fields, stream="primary"):
    return {"dimensions": [[[field], stream] for field in fields]}


def run(hints=None, columns=COLUMNS, name="primary", device_hints=None, **start):
    streams = [Stream(name, {"hints": device_hints or {"det": {"fields": ["det"]}}}, pyarrow.table(columns), [])]
    return RunData(
        {"uid": "0123abcd", "scan_id": 1, "plan_name": "scan", "hints": hints, **start}, {}, streams, "raw/x"
    )


@pytest.mark.parametrize(
    ("hints", "motors"),
    [
        (dimensions("motor"), ["motor"]),
        (dimensions("motor", "motor1"), ["motor", "motor1"]),
        (dimensions("time"), []),
        (dimensions("label"), []),
        (dimensions("absent"), []),
        (None, []),
        ("hostile", []),
        ({"dimensions": 5}, []),
        ({"dimensions": [[[], "primary"]]}, []),
        ({"dimensions": [[["motor"], {"a": 1}]]}, ["motor"]),
    ],
)
def test_the_scanned_motors_are_found_and_drawn(hints, motors):
    assert run(hints).scanned()[1] == motors
    assert run_plot(run(hints)).startswith(PNG)


@pytest.mark.parametrize(
    "made",
    [
        RunData({"uid": "u"}, {}, [], "raw/u"),
        run(columns={"seq_num": pyarrow.array([], pyarrow.int64()), "time": pyarrow.array([])}),
        run(columns={"label": ["a"]}),
        run(name="baseline"),
        run(columns={"det": pyarrow.array([None, None], pyarrow.float64())}),
        run(columns={**COLUMNS, **{f"d{number}": [1, 2, 3] for number in range(50)}}, device_hints={"x": {}}),
        run(device_hints={"x": None, "det": {"fields": ["absent"]}}),
    ],
)
def test_a_run_without_much_to_draw_gets_a_picture_all_the_same(made):
    assert run_plot(made).startswith(PNG)


@pytest.mark.parametrize("name", ["$\\frac{", "a\nb", "測定", "\U0001f600", "_hidden", "y" * 10_000, "%s{}", ""])
def test_hostile_names_are_drawn_as_text(name):
    columns = {"time": [1.0, 2.0], name: [1.0, 2.0]}
    made = run(columns=columns, device_hints={"x": {"fields": [name]}}, plan_name=name)
    assert run_plot(made).startswith(PNG)


@pytest.mark.parametrize("name", ["", "Upton, New York", "$x^"])
def test_temperatures_are_drawn_with_holes_and_without_a_sun(name):
    weather = {
        "hours": [f"2026-05-01T{hour:02d}:00" for hour in range(24)],
        "temperatures": [None, *range(23)],
        "sunrise": None,
        "sunset": None,
        "timezone": "UTC",
        "symbol": "°C",
        "date": "2026-05-01",
        "latitude": 80.0,
        "longitude": 0.0,
        "name": name,
    }
    assert temperature_plot(weather).startswith(PNG)


def test_pictures_can_be_drawn_in_several_threads_at_once():
    drawn = []
    threads = [threading.Thread(target=lambda: drawn.append(run_plot(run(dimensions("motor"))))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [picture[:8] for picture in drawn] == [PNG] * 4


def test_importing_the_flows_imports_nothing_heavy_but_prefect():
    heavy = ("tiled", "pandas", "matplotlib", "pyarrow", "bluesky", "numpy")
    code = f"import sys, bluesky_prefect.flows; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
