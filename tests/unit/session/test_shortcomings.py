"""A session starts whatever is wrong with its settings, its list of workflows or its state directory."""

import sys
from pathlib import Path

import pytest

from bluesky_prefect.core import Settings, WorkflowList, get_settings
from bluesky_prefect.session._metadata import PersistentMetadata
from bluesky_prefect.session._session import _tiled_service, persistent_metadata
from bluesky_prefect.session._shortcomings import drop_unusable_settings, has_usable_directory, subscribed_callback
from bluesky_prefect.session._tiled import TiledConnection
from bluesky_prefect.stack import describe

_MODULES = {
    "raising_list": "1 / 0",
    "unfinished_list": "workflows = [",
    "leaving_list": "raise SystemExit(3)",
    "empty_list": "workflows = []",
    "other_list": "others = ['my-workflow/local']",
}
_RUN = [("start", {"uid": "u", "time": 0.0}), ("stop", {"uid": "s", "run_start": "u", "time": 1.0})]


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in _MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("no_list", "No module named 'no_list'"),
        ("raising_list", "ZeroDivisionError: division by zero"),
        ("unfinished_list", "SyntaxError"),
        ("leaving_list", "SystemExit: 3"),
        ("empty_list", "No workflow given"),
        ("other_list", "has no attribute 'workflows'"),
    ],
)
@pytest.mark.usefixtures("lists")
def test_a_list_that_cannot_be_had_is_a_line_and_starts_nothing(tmp_path: Path, module: str, said: str):
    told: list[str] = []
    settings = Settings(state_directory=tmp_path / "state", workflows=f"{module}:workflows")

    callback = subscribed_callback(None, settings, told.append)
    for name, doc in _RUN:
        callback(name, doc)

    [line] = told
    assert said in line
    assert "\n" not in line
    assert line.endswith("is started with: bluesky-prefect reconcile --submit")
    assert callback.outbox.entries() == []
    callback.close()


def test_a_setting_that_cannot_be_used_is_a_line_and_its_default_holds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BLUESKY_PREFECT_RETRY_MAX_S", "-1")
    told: list[str] = []

    assert drop_unusable_settings(told.append) is None

    [line] = told
    assert line.startswith("BLUESKY_PREFECT_RETRY_MAX_S cannot be used: Input should be greater than 0")
    assert get_settings().retry_max_s == Settings.model_fields["retry_max_s"].default


def test_a_list_that_is_written_wrongly_starts_nothing_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BLUESKY_PREFECT_WORKFLOWS", "nonsense")
    told: list[str] = []

    workflows = drop_unusable_settings(told.append)

    assert workflows == WorkflowList.of_none() == ()
    assert "module:attribute" in told[0]


def test_what_is_right_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("BLUESKY_PREFECT_RETRY_MAX_S", "7")
    told: list[str] = []
    assert drop_unusable_settings(told.append) is None
    assert (told, get_settings().retry_max_s) == ([], 7)


def test_a_state_directory_that_cannot_be_written_is_a_line(tmp_path: Path):
    told: list[str] = []
    assert has_usable_directory(Settings(state_directory=tmp_path / "new"), told.append)
    (tmp_path / "file").touch()
    assert not has_usable_directory(Settings(state_directory=tmp_path / "file" / "state"), told.append)
    [line] = told
    assert "cannot be written (Not a directory)" in line


@pytest.fixture(autouse=True)
def read_anew():
    yield
    get_settings.cache_clear()


def test_an_unknown_profile_of_tiled_is_a_line_as_a_server_that_is_away():
    service = _tiled_service(TiledConnection(Settings(tiled_profile="unheard-of")), print)
    assert service.problem == "There is no Tiled profile 'unheard-of': check BLUESKY_PREFECT_TILED_PROFILE."
    assert "Scans run all the same: runs wait on disk" in describe([service])


_AWAY = {"tiled_uri": "http://127.0.0.1:1"}


def _scan_ids_begin(directory: Path, tiled: bool = True, **where: str) -> tuple[list[str], PersistentMetadata]:
    told: list[str] = []
    settings = Settings(state_directory=directory, **where)
    return told, persistent_metadata(settings, TiledConnection(settings) if tiled else None, told.append)


@pytest.mark.parametrize("tiled", [True, False])
def test_scan_ids_that_begin_at_1_since_tiled_is_away_are_told_once(tmp_path: Path, tiled: bool):
    told, metadata = _scan_ids_begin(tmp_path, tiled, **_AWAY)
    [line] = told
    assert line.startswith("Scan ids begin at 1: ")
    assert "Ids may be taken twice" in line
    assert "\n" not in line

    remedy = line.partition("RE.md")[2]
    assert remedy == "['scan_id'] = 1234"
    metadata["scan_id"] = 1234
    assert metadata.next_scan_id() == 1235
    told, metadata = _scan_ids_begin(tmp_path, tiled, **_AWAY)
    assert told == []
    assert metadata.next_scan_id() == 1236


def test_where_no_tiled_is_named_scan_ids_begin_without_a_word(tmp_path: Path):
    told, metadata = _scan_ids_begin(tmp_path, False)
    assert told == []
    assert metadata.next_scan_id() == 1
