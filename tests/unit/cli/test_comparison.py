"""Exported files against what Tiled holds."""

from types import SimpleNamespace

import pandas
import pytest

from bluesky_prefect.cli._comparison import Comparison, compare_run, run_folder
from bluesky_prefect.flows import OWNER

VALUES = [0.1 + 0.2, float("nan"), 1e-300, -0.0]


@pytest.fixture
def run():
    """A run of one stream, in the shape that Tiled's client gives it."""
    table = pandas.DataFrame({"seq_num": [1, 2, 3, 4], "det": VALUES, "state": list("abcd")})
    part = SimpleNamespace(structure_family="table", read=lambda: table)
    image = SimpleNamespace(structure_family="array")
    return {"primary": SimpleNamespace(base={"internal": part, "image": image})}


def compared(run, folder):
    comparison = Comparison()
    compare_run(run, folder, comparison)
    return comparison


def write(folder, **columns):
    content = {"seq_num": [1, 2, 3, 4], "det": VALUES, "state": list("abcd"), **columns}
    pandas.DataFrame(content).to_csv(folder / "scan_1_count_primary.csv", index=False, na_rep="NaN")


def test_the_same_values_are_no_difference(run, tmp_path):
    write(tmp_path)
    assert compared(run, tmp_path) == Comparison(files=1, values=12, differences=[])


def test_one_bit_is_a_difference_that_names_file_and_column(run, tmp_path):
    write(tmp_path, det=[0.3, *VALUES[1:]])
    [difference] = compared(run, tmp_path).differences
    assert "scan_1_count_primary.csv" in difference
    assert "'det'" in difference


def test_a_missing_row_column_or_file_is_a_difference(run, tmp_path):
    assert "has no CSV file" in compared(run, tmp_path).differences[0]
    write(tmp_path)
    path = tmp_path / "scan_1_count_primary.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]))
    assert "has 3 rows, Tiled 4" in compared(run, tmp_path).differences[0]
    path.write_text("\n".join(line.rpartition(",")[0] for line in lines))
    assert "lacks the column 'state'" in compared(run, tmp_path).differences[0]


def test_a_run_s_folder_is_known_by_its_uid(tmp_path):
    for name, uid in (("a", "uid-1"), ("b/c", "uid-2")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / OWNER).write_text(uid)
    assert run_folder(tmp_path, "uid-2") == tmp_path / "b" / "c"
    assert run_folder(tmp_path, "uid-3") is None
