"""Kept runs that Tiled fails on: the file's trouble where Tiled answers otherwise, else Tiled's."""

import httpx
import pytest

from bluesky_prefect import Settings
from bluesky_prefect.core import TiledUnavailable
from bluesky_prefect.reconciliation import TimeWindow
from bluesky_prefect.reconciliation._unsaved import reconcile_kept
from bluesky_prefect.tiled_api import unsaved_files
from tests.services.unsaved_runs import write_unsaved_run


class Whole:
    """A run that Tiled holds already."""

    metadata = {"stop": {"uid": "stop"}}  # noqa: RUF012 - never changed


class FailingTiled:
    """Answers with a status to all that concerns one run; as a catalog, it may be down for everything else, too."""

    name = "tiled"

    def __init__(self, *, status, down):
        self.bad, self._status, self._down = "", status, down

    def raw_for_writing(self):
        return self

    def get(self, uid):
        if uid != self.bad:
            return Whole()
        request = httpx.Request("GET", "http://tiled")
        raise httpx.HTTPStatusError("", request=request, response=httpx.Response(self._status, request=request))

    @property
    def raw(self):
        if self._down:
            raise TiledUnavailable("down for everything")
        return self


@pytest.fixture
def settings(tmp_path):
    settings = Settings(state_directory=tmp_path)
    for _ in range(3):
        write_unsaved_run(settings.unsaved_runs_path, "good")
    return settings


def sent(settings, tiled):
    tiled.bad = unsaved_files(settings.unsaved_runs_path)[1].stem
    return list(reconcile_kept(tiled, TimeWindow(0, 2e9), settings, 2e9, submit=True))


@pytest.mark.parametrize("status", [500, 504])
def test_a_file_that_tiled_fails_on_is_told_and_the_others_are_written(settings, status):
    tiled = FailingTiled(status=status, down=False)
    findings = sent(settings, tiled)
    [unsolved] = [finding for finding in findings if not finding.solved]
    assert len(findings) == 3
    assert unsolved.run_uid == tiled.bad
    assert str(status) in unsolved.action
    assert "move the file out" in unsolved.action
    assert [path.stem for path in unsaved_files(settings.unsaved_runs_path)] == [tiled.bad]


def test_a_tiled_that_fails_on_everything_is_an_outage(settings):
    with pytest.raises(TiledUnavailable, match="down for everything"):
        sent(settings, FailingTiled(status=500, down=True))


def test_a_tiled_that_refuses_the_key_is_no_trouble_of_a_file(settings):
    with pytest.raises(TiledUnavailable, match="401"):
        sent(settings, FailingTiled(status=401, down=False))
