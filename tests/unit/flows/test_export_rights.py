"""Exported files have the group and the modes that a facility sets, or those of the umask."""

import os
import stat
import subprocess
import sys
from datetime import UTC
from pathlib import Path

import pytest
from pydantic import ValidationError

from bluesky_prefect.core import (
    ConfigurationError,
    ExportRights,
    FileNote,
    Settings,
    provenance_in,
    whole_file,
    write_whole,
)
from bluesky_prefect.flows import OWNER
from bluesky_prefect.flows.export_parts._provenance import provenance_of
from bluesky_prefect.flows.export_parts._run_folder import RunFolder, _common_folders
from bluesky_prefect.tiled_api import RunData
from tests.conftest import missing_service
from tests.services.another_user import reachable

RUN = RunData({"uid": "0123abcd-1", "time": 0, "cycle": "2026-1", "data_session": "4321"}, {}, [], "raw/0123abcd-1")
TEMPLATE = "{cycle}/{data_session}/scan_{short_uid}"
# No group of this machine: root may give it to files all the same.
GROUP = 4321
SHARED = {"export_group": str(GROUP), "export_directory_mode": "2770", "export_file_mode": "0640"}
MODES = {name: value for name, value in SHARED.items() if name != "export_group"}


@pytest.fixture(params=[0o000, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def root():
    if os.geteuid() != 0:
        missing_service("root, to give files to another group")


def folder(output, run=None, **settings):
    data = RunData({**RUN.start, **(run or {}), "uid": RUN.uid}, {}, [], "raw/0123abcd-1")
    return RunFolder.of(data, UTC, Settings(output_directory=output, folder_template=TEMPLATE, **settings))


def rights(path):
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_gid


def written(output, **settings):
    """Return what an export makes: paths below the directory it made first, with modes and groups."""
    made = folder(output, **settings)
    made.write(".txt", b"text")
    made.write_provenance(provenance_of(RUN, None))
    return {str(path.relative_to(output)): rights(path) for path in (output, *output.rglob("*"))}


@pytest.mark.usefixtures("root", "umask")
def test_all_that_an_export_makes_has_the_group_and_the_modes_whatever_the_umask(tmp_path):
    made = written(tmp_path / "exports", **SHARED)
    assert {".", "2026-1", "2026-1/4321", f"2026-1/4321/scan_0123abcd/{OWNER}"} < set(made)
    assert len(made) == 7
    for name, found in made.items():
        is_directory = (tmp_path / "exports" / name).is_dir()
        assert found == (0o2770 if is_directory else 0o640, GROUP), name


def test_without_settings_the_umask_decides(tmp_path, umask):
    for name, (mode, _) in written(tmp_path / "exports").items():
        assert mode == (0o777 if (tmp_path / "exports" / name).is_dir() else 0o666) & ~umask


@pytest.mark.usefixtures("root")
def test_a_group_alone_leaves_the_modes_to_the_umask(tmp_path, umask):
    made = written(tmp_path / "exports", export_group=str(GROUP))
    assert set(made.values()) == {(0o777 & ~umask, GROUP), (0o666 & ~umask, GROUP)}


@pytest.mark.usefixtures("root", "umask")
def test_a_file_is_never_more_open_than_when_it_is_finished(tmp_path):
    made = folder(tmp_path, **SHARED)
    with made.open(".csv"):
        [temporary] = [path for path in made.path.iterdir() if path.name != OWNER]
        assert temporary.name != made.file(".csv").name
        assert rights(temporary) == (0o640, GROUP)
    assert rights(made.file(".csv")) == (0o640, GROUP)


@pytest.mark.usefixtures("root")
def test_folders_that_were_there_keep_their_rights(tmp_path):
    session = tmp_path / "2026-1" / "4321"
    session.mkdir(parents=True)
    session.chmod(0o750)
    os.chown(session, 65534, 65534)
    before = rights(session), rights(session.parent)
    made = folder(tmp_path, **SHARED)
    assert (rights(session), rights(session.parent)) == before
    assert rights(made.path) == (0o2770, GROUP)


@pytest.mark.usefixtures("root")
def test_another_export_gives_its_run_s_folder_the_rights_of_now(tmp_path):
    old = folder(tmp_path)
    old.write(".txt", b"text")
    new = folder(tmp_path, **SHARED)
    new.write(".txt", b"text")
    assert new.path == old.path
    assert rights(new.path) == (0o2770, GROUP)
    assert rights(new.file(".txt")) == (0o640, GROUP)


def test_a_group_that_there_is_not_is_told_before_anything_is_made(tmp_path):
    with pytest.raises(ConfigurationError, match=r"group 'no-such-group'.* check BLUESKY_PREFECT_EXPORT_GROUP"):
        folder(tmp_path / "exports", export_group="no-such-group")
    assert not (tmp_path / "exports").exists()


_AS_A_USER = """
import sys
from datetime import UTC
from pathlib import Path
from tests.unit.flows.test_export_rights import MODES, SHARED, folder, rights
from bluesky_prefect.core import ConfigurationError
try:
    made = folder(Path(sys.argv[1]), **{"shared": SHARED, "modes": MODES, "none": {}}[sys.argv[2]])
    made.write(".txt", b"text")
    print(rights(made.file(".txt")))
except ConfigurationError as error:
    print(error)
"""


def said_by_a_user(output, *, groups="65534", settings="shared"):
    """Return what another user's export says, who is in these groups."""
    account = ["setpriv", "--reuid=61234", "--regid=65534", f"--groups={groups}"]
    account += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # to read root's interpreter
    command = [*account, sys.executable, "-B", "-c", _AS_A_USER, str(output), settings]
    with reachable(output):
        done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.usefixtures("root")
def test_a_group_that_the_user_is_not_in_is_told_and_nothing_is_made(tmp_path):
    os.chown(tmp_path, 61234, 65534)
    said = said_by_a_user(tmp_path / "exports")
    assert "given to the group '4321': user 61234 is not in it" in said
    assert list(tmp_path.iterdir()) == []
    assert said_by_a_user(tmp_path / "exports", groups=f"65534,{GROUP}") == str((0o640, GROUP))


@pytest.mark.usefixtures("root")
def test_a_folder_that_is_closed_to_the_user_is_told_with_its_owner(tmp_path):
    made = folder(tmp_path)
    made.path.chmod(0o755)
    said = said_by_a_user(tmp_path, settings="none")
    assert f"The folder {made.path} cannot be used (Permission denied); it belongs to root" in said


@pytest.mark.usefixtures("root")
def test_a_set_group_id_bit_that_the_kernel_takes_away_is_told_and_nothing_is_left(tmp_path):
    os.chown(tmp_path, 0, GROUP)
    tmp_path.chmod(0o2777)
    said = said_by_a_user(tmp_path / "exports", settings="modes")
    assert f"{tmp_path / 'exports'} should have mode 2770 and group {GROUP}, and got mode 0770" in said
    assert f"add user 61234 to the group {GROUP}" in said
    assert list(tmp_path.iterdir()) == []
    assert said_by_a_user(tmp_path / "exports", groups=f"65534,{GROUP}", settings="modes") == str((0o640, GROUP))


@pytest.mark.usefixtures("root", "umask")
def test_folders_that_several_groups_share_are_given_to_none(tmp_path, umask):
    for session in (4321, 5555):
        folder(tmp_path / "exports", run={"data_session": str(session)}, **{**SHARED, "export_group": "{data_session}"})
        assert rights(tmp_path / "exports" / "2026-1" / str(session)) == (0o2770, session)
        assert rights(tmp_path / "exports" / "2026-1" / str(session) / "scan_0123abcd") == (0o2770, session)
    for common in (tmp_path / "exports", tmp_path / "exports" / "2026-1"):
        assert rights(common) == (0o777 & ~umask, os.getegid())


@pytest.mark.parametrize(
    ("template", "group", "common"),
    [
        (TEMPLATE, None, None),
        (TEMPLATE, "beamline", None),
        (TEMPLATE, "{data_session}", 1),
        (TEMPLATE, "{cycle}", 0),
        (TEMPLATE, "{cycle}-{data_session}", 1),
        (TEMPLATE, "{beamline}-{data_session}", 1),
        (TEMPLATE, "{proposal[id]}", 2),
        ("/./{cycle}//p{proposal.id:>06}/x/{uid}", "pass-{proposal[id]}", 1),
        ("{cycle}/{proposal[title]}/{uid}", "{proposal[id]}", 2),
        ("{uid}", "{data_session}", 0),
    ],
)
def test_folders_above_the_first_that_tells_the_group_are_common(template, group, common):
    assert _common_folders(template, group or "") == common


def test_a_cancelled_export_leaves_no_folder_without_its_rights(tmp_path, monkeypatch):
    def cancelled(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fchmod", cancelled)
    with pytest.raises(KeyboardInterrupt):
        folder(tmp_path, **MODES)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "x", rights=ExportRights(None, None, 0o640)):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "another user's"])
def test_a_directory_that_another_puts_in_place_of_the_new_one_gets_nothing(tmp_path, monkeypatch, kind):
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)

    def make_and_replace(path, mode=0o777):
        make(path, mode)
        path.rmdir()
        if kind == "link":
            path.symlink_to(victim)
        else:
            victim.rename(path)
            monkeypatch.setattr(os, "geteuid", lambda: 61234)

    make = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", make_and_replace)
    with pytest.raises(ConfigurationError, match=r"cannot be given|was replaced by another user's"):
        ExportRights(None, 0o2770, None).make_directory(tmp_path / "new")
    if kind == "link":
        assert stat.S_IMODE(victim.stat().st_mode) == 0o700


def test_a_link_that_another_puts_in_place_of_a_new_file_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("secret")
    victim.chmod(0o600)

    def open_and_replace(path, flags, *others, **more):
        opened = real(path, flags, *others, **more)
        if flags & os.O_CREAT:
            Path(path).unlink()
            Path(path).symlink_to(victim)
        return opened

    real = os.open
    monkeypatch.setattr(os, "open", open_and_replace)
    write_whole(tmp_path / "x", b"data", rights=ExportRights(None, None, 0o664))
    assert (victim.read_text(), stat.S_IMODE(victim.stat().st_mode)) == ("secret", 0o600)


def test_provenance_attests_what_this_export_wrote_and_not_what_another_put_there(tmp_path):
    first, second = folder(tmp_path), folder(tmp_path)
    first.write(".csv", b"of the first")
    second.write(".csv", b"of the second export")
    first.write_provenance(provenance_of(RUN, None), txt=b"words")
    assert provenance_in(first.path).files == {
        first.file(".csv").name: FileNote.of(b"of the first"),
        first.file(".txt").name: FileNote.of(b"words"),
    }


@pytest.mark.parametrize("mode", ["rwxr-x---", "", "0070", "99", "17777", 2770])
def test_a_mode_that_is_none_is_refused(mode):
    with pytest.raises(ValidationError):
        Settings(export_directory_mode=mode)
