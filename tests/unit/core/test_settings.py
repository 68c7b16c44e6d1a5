"""Settings mean the same wherever the process goes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from bluesky_prefect.core import ConfigurationError, Settings, checked_settings, variable_text

# A session in the way of a beamline's startup file; then %cd, and a scan.
_SESSION = """
import os, sys
from bluesky.plans import count
from bluesky_prefect.session import start_session
from bluesky_prefect.core._settings import get_settings
from ophyd.sim import det

session = start_session("my-workflow/local", tell=lambda _: None)
session.run_engine([])
os.chdir("elsewhere")
session.run_engine(count([det]))
get_settings.cache_clear()
print(get_settings().state_directory, get_settings().output_directory)
sys.stdout.flush()
os._exit(0)  # nothing is waited for
"""


def test_a_session_that_changes_its_directory_keeps_its_outbox(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    relative = {"BLUESKY_PREFECT_STATE_DIRECTORY": "state", "BLUESKY_PREFECT_OUTPUT_DIRECTORY": "exports"}
    environment = {**os.environ, **relative, "PREFECT_API_URL": "http://127.0.0.1:9/api"}

    done = subprocess.run(
        [sys.executable, "-c", _SESSION],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "state").iterdir()} >= {
        "outbox.sqlite",
        "metadata.sqlite",
        "journals",
    }
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert done.stdout.split()[-2:] == [str(tmp_path / "state"), str(tmp_path / "exports")]


@pytest.mark.parametrize("name", ["state_directory", "output_directory"])
def test_a_directory_is_absolute_and_its_home_is_known(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")

    assert getattr(Settings(**{name: "state"}), name) == tmp_path / "state"
    assert getattr(Settings(**{name: "~/state"}), name) == Path("/home/ada/state")


def test_a_home_that_nobody_has_is_refused():
    with pytest.raises(ValidationError, match="nobody knows the home directory"):
        Settings(state_directory=Path("~nobody-of-this-name/state"))


def test_export_formats_are_a_list_with_commas_and_an_unknown_one_is_refused_with_those_known(monkeypatch):
    assert Settings().export_formats == ("csv", "nexus")
    for text, formats in (("csv", ("csv",)), (" NeXus, csv", ("nexus", "csv")), ("", ())):
        monkeypatch.setenv("BLUESKY_PREFECT_EXPORT_FORMATS", text)
        assert Settings().export_formats == formats
    monkeypatch.setenv("BLUESKY_PREFECT_EXPORT_FORMATS", "csv,xlsx")
    with pytest.raises(ConfigurationError, match=r"BLUESKY_PREFECT_EXPORT_FORMATS: .*'csv' or 'nexus'"):
        checked_settings()


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"export_formats"}))
def test_an_empty_variable_counts_as_not_set(name, monkeypatch):
    monkeypatch.delenv(f"BLUESKY_PREFECT_{name.upper()}", raising=False)
    before = getattr(checked_settings(), name)
    monkeypatch.setenv(f"BLUESKY_PREFECT_{name.upper()}", "")
    settings = checked_settings()
    assert getattr(settings, name) == before
    assert name not in settings.model_fields_set


def test_an_empty_variable_hides_no_other_of_its_setting(monkeypatch):
    monkeypatch.setenv("BLUESKY_PREFECT_TILED_API_KEY", "")
    monkeypatch.setenv("TILED_API_KEY", "of-tiled")
    assert checked_settings().tiled_api_key.get_secret_value() == "of-tiled"


def test_what_a_call_gives_wins_over_an_empty_variable(monkeypatch):
    monkeypatch.setenv("BLUESKY_PREFECT_EXPORT_FORMATS", "")
    assert checked_settings().export_formats == ()
    assert checked_settings(export_formats="csv").export_formats == ("csv",)


def test_a_map_of_paths_is_json_and_anything_else_is_refused_with_an_example(monkeypatch):
    monkeypatch.setenv("BLUESKY_PREFECT_EXPORT_PATH_MAP", '{"/data/": "/nsls2/data/"}')
    assert Settings().export_path_map == {"/data/": "/nsls2/data/"}
    for text in ("/data/=/nsls2/", "[1]", '{"a": 1}'):
        monkeypatch.setenv("BLUESKY_PREFECT_EXPORT_PATH_MAP", text)
        with pytest.raises(ConfigurationError, match="BLUESKY_PREFECT_EXPORT_PATH_MAP: "):
            checked_settings()


def test_what_a_beamline_has_is_called_after_it_unless_it_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BLUESKY_PREFECT_BEAMLINE", "tst")
    monkeypatch.setenv("BLUESKY_PREFECT_RAW_CONTAINER", "elsewhere/raw")
    settings = Settings(work_pool="night")
    assert settings.deployment_name == "tst"
    assert (settings.raw_container, settings.processed_container) == ("elsewhere/raw", "tst/processed")
    assert settings.work_pool == "night"
    assert Settings().work_pool == "bluesky-tst"


def test_without_a_beamline_everything_is_called_as_before():
    settings = Settings()
    called = settings.raw_container, settings.processed_container, settings.work_pool, settings.deployment_name
    assert called == ("raw", "processed", "bluesky-local", "local")


@pytest.mark.parametrize("name", ["", "TST", "-tst", "tst/2", "t st", "local", "x" * 41])
def test_a_beamline_s_name_that_would_not_do_everywhere_is_refused(name: str):
    with pytest.raises(ConfigurationError, match="BLUESKY_PREFECT_BEAMLINE"):
        checked_settings(beamline=name)


def test_a_beamline_s_name_that_is_refused_says_of_what_names_are_made():
    with pytest.raises(ConfigurationError, match="BLUESKY_PREFECT_BEAMLINE: it has to be small letters"):
        checked_settings(beamline="TST")


def test_each_setting_is_read_back_from_the_words_of_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given = Settings(
        state_directory=tmp_path,
        export_formats=("csv",),
        export_path_map={"/data/": "/nsls2/data/"},
        export_directory_mode=0o2770,
        export_file_mode=0o640,
        weather=False,
        weather_latitude=-1.5,
        metrics_port=0,
        beamline="tst",
    )
    for name, value in given.model_dump(mode="json", exclude_none=True).items():
        monkeypatch.setenv(f"BLUESKY_PREFECT_{name.upper()}", variable_text(name, value))
    assert Settings().model_dump() == given.model_dump()
    monkeypatch.setenv("BLUESKY_PREFECT_EXPORT_FORMATS", variable_text("export_formats", []))
    assert Settings().export_formats == ()
