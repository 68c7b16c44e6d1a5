"""Names made from metadata stay inside, whatever the metadata says."""

import re
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_prefect.core import ConfigurationError, write_whole
from bluesky_prefect.flows.export_parts._claimed_folder import claim_folder
from bluesky_prefect.flows.export_parts._naming import distinct, names_the_run, render, safe_component

FOLDER = "{date}/scan_{scan_id}_{plan_name}_{short_uid}"


def test_the_issues_file_name_comes_out_as_written():
    assert render("scan_{scan_id}_{plan_name}", {"scan_id": 5, "plan_name": "grid_scan"}).name == "scan_5_grid_scan"


def test_the_layout_by_proposal_is_as_its_page_says():
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "use-proposals-and-access.md").read_text()
    [template] = re.findall("FOLDER_TEMPLATE='(.*)'", page)
    start = {"cycle": "2026-1", "data_session": "pass-123456", "scan_id": 12, "plan_name": "count"}
    rendered = render(template, {**start, "date": "2026-05-01", "short_uid": "0a1b2c3d"})
    assert f"`/data/proposals/{rendered}`" in page
    assert render("{proposal[proposal_id]}/{cycle}", {"proposal": {"proposal_id": 7}}) == PurePosixPath("7/unknown")


def test_slashes_in_the_template_make_folders_those_in_metadata_do_not():
    fields = {"date": "2026-05-01", "scan_id": 5, "plan_name": "../../etc/x", "short_uid": "0123abcd"}
    assert render(FOLDER, fields) == PurePosixPath("2026-05-01/scan_5__etc_x_0123abcd")


@given(st.text(max_size=300))
def test_any_text_becomes_one_harmless_component(text):
    name = safe_component(text)
    assert name
    assert len(name.encode()) <= 151
    assert not set(name) & set('/\\:*?"<>|\0\n\r\t ')
    assert ".." not in name
    assert name[0] not in ".-"
    assert name[-1] != "."
    assert PurePosixPath(name).name == name
    assert safe_component(name) == name


@given(st.dictionaries(st.sampled_from(["scan_id", "plan_name", "date", "short_uid"]), st.text() | st.integers()))
def test_no_metadata_leads_out_of_the_folder(fields):
    path = render(FOLDER, fields)
    assert len(path.parts) == 2
    assert not path.is_absolute()
    assert ".." not in path.parts


climbing = st.sampled_from(
    ["..", "/", "\\", "~", ".", "\x00", "\n", "\ud800", "C:", "%2e%2e", "\uff0e\uff0e\uff0f", "\u2025", "x"]
)
paths = st.lists(climbing, max_size=8).map("".join) | st.text(max_size=300)
scalars = paths | st.integers(-(2**63), 2**63) | st.floats() | st.booleans() | st.none()
metadata = st.dictionaries(
    st.sampled_from(["scan_id", "plan_name", "date", "short_uid", "sample", "uid"]),
    scalars | st.lists(paths, max_size=2) | st.dictionaries(st.sampled_from(["name", ".."]), scalars, max_size=2),
)
templates = st.sampled_from(
    [
        FOLDER,
        "{plan_name}",
        "{sample[name]}/{plan_name}/{uid}",
        "../{sample[..]}/../{plan_name!r}",
        "/{uid:>99}/{scan_id:04d}",
    ]
)


@settings(derandomize=True, deadline=None)
@given(templates, metadata, paths.filter(lambda uid: uid.isprintable()))
def test_no_metadata_makes_a_folder_or_a_file_outside_the_output_directory(template, fields, uid):
    with TemporaryDirectory() as around:
        root = Path(around) / "output"
        folder = claim_folder(root, render(template, fields), uid)
        file = folder / f"{render('scan_{scan_id}_{plan_name}', fields).name}_{distinct([uid])[uid]}.csv"
        write_whole(file, b"")
        assert file.resolve().relative_to(root.resolve()).parts
        assert file.parent == folder
        assert list(Path(around).iterdir()) == [root]
        # Another run of the same name gets another folder.
        assert claim_folder(root, render(template, fields), f"{uid}2") != folder


@pytest.mark.parametrize("name", ["CON", "nul.txt", "COM1", "aux"])
def test_device_names_of_windows_are_not_used(name):
    assert safe_component(name) == f"_{name}"


def test_missing_metadata_reads_unknown():
    assert render("scan_{scan_id}_{plan_name}", {"scan_id": None}).name == "scan_unknown_unknown"


def test_formats_and_nested_metadata_can_be_used():
    fields = {"scan_id": 7, "sample": {"name": "Si 111"}, "uid": "x"}
    assert render("{sample[name]}_{scan_id:04d}_{sample[no]}", fields).name == "Si_111_0007_unknown"


def test_a_format_that_does_not_fit_the_value_is_left_out():
    assert render("scan_{scan_id:04d}", {"scan_id": "twelve"}).name == "scan_twelve"


def test_templates_reach_no_attributes():
    assert render("{uid.__class__.__mro__}", {"uid": "x"}).name == "unknown"


@pytest.mark.parametrize("template", ["scan_{scan_id", "scan_}", "{scan_id:{}{}{}"])
def test_a_broken_template_is_an_error_that_names_the_setting(template):
    with pytest.raises(ConfigurationError, match="BLUESKY_PREFECT_FILE_TEMPLATE"):
        render(template, {"scan_id": 1})


def test_the_uid_is_looked_for_in_the_last_folder_only():
    assert names_the_run(FOLDER)
    assert names_the_run("{uid}/")
    assert not names_the_run("{uid}/{scan_id}")


def test_streams_get_files_of_their_own_also_where_case_does_not_count():
    names = distinct(["primary", "Primary", "pri/mary", "pri:mary", "x" * 500, "x" * 501])
    assert len({name.casefold() for name in names.values()}) == 6
    assert names["primary"] == "primary"
    assert max(len(name) for name in names.values()) < 70
