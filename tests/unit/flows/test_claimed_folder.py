"""Folders belong to one run."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from bluesky_prefect.core import ConfigurationError, ExportRights, write_whole
from bluesky_prefect.flows import OWNER
from bluesky_prefect.flows.export_parts import _claimed_folder
from bluesky_prefect.flows.export_parts._claimed_folder import claim_folder, folder_of

FOLDER = PurePosixPath("2026-05-01/scan_1_count_0123abcd")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_gets_the_same_folder_every_time(tmp_path):
    first = claim_folder(tmp_path, FOLDER, "0123abcd-1")
    assert first == tmp_path / FOLDER
    assert claim_folder(tmp_path, FOLDER, "0123abcd-1") == first
    assert names(first) == [OWNER]


def test_runs_whose_short_uids_clash_get_folders_of_their_own(tmp_path):
    first = claim_folder(tmp_path, FOLDER, "0123abcd-1")
    second = claim_folder(tmp_path, FOLDER, "0123abcd-2")
    assert second.name == "scan_1_count_0123abcd_0123abcd-2"
    assert claim_folder(tmp_path, FOLDER, "0123abcd-1") == first
    assert claim_folder(tmp_path, FOLDER, "0123abcd-2") == second


def test_of_runs_that_claim_a_folder_at_once_one_gets_it(tmp_path):
    claimed = {}
    barrier = threading.Barrier(8)

    def claim(number):
        barrier.wait()
        claimed[number] = claim_folder(tmp_path, FOLDER, f"0123abcd-{number}")

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(claimed.values())) == 8
    assert tmp_path / FOLDER in claimed.values()


def test_a_folder_without_hard_links_is_claimed_all_the_same(tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")  # what shares without links answer

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert claim_folder(tmp_path, FOLDER, "a") == tmp_path / FOLDER
    assert claim_folder(tmp_path, FOLDER, "a") == tmp_path / FOLDER
    assert claim_folder(tmp_path, FOLDER, "b") != tmp_path / FOLDER


def test_a_link_that_leads_out_is_refused_and_nothing_is_made_there(tmp_path):
    output, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    output.mkdir()
    elsewhere.mkdir()
    (output / "2026-05-01").symlink_to(elsewhere)
    with pytest.raises(ConfigurationError, match=r"2026-05-01 leads elsewhere: .* Remove the link"):
        claim_folder(output, FOLDER, "a")
    assert names(elsewhere) == []


@pytest.mark.parametrize("link", ["a", "a/scan_1"])
@pytest.mark.parametrize("claim", [claim_folder, folder_of])
def test_a_link_to_another_folder_of_the_output_directory_is_refused(tmp_path, link, claim):
    (tmp_path / "b" / "scan_1").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    if link == "a":
        (tmp_path / "a").rmdir()
    (tmp_path / link).symlink_to(tmp_path / link.replace("a", "b", 1))
    with pytest.raises(ConfigurationError, match=f"{tmp_path / link} leads elsewhere"):
        claim(tmp_path, PurePosixPath("a/scan_1"), "uid")
    assert names(tmp_path / "b" / "scan_1") == []


@pytest.mark.parametrize("part", ["a", "a/scan_1"])
def test_a_folder_that_is_replaced_while_it_is_claimed_gets_no_rights(tmp_path, monkeypatch, part):
    victim = claim_folder(tmp_path, PurePosixPath("b/scan_1"), "uid")
    victim.chmod(0o700)

    def claimed_and_replaced(folder, *others):
        is_claimed = claimed(folder, *others)
        (tmp_path / part).rename(tmp_path / "away")
        (tmp_path / part).symlink_to(tmp_path / part.replace("a", "b", 1))
        return is_claimed

    claimed = _claimed_folder._claimed
    monkeypatch.setattr(_claimed_folder, "_claimed", claimed_and_replaced)
    with pytest.raises(ConfigurationError, match="was replaced while it was claimed"):
        claim_folder(tmp_path, PurePosixPath("a/scan_1"), "uid", ExportRights(None, 0o755, 0o640))
    assert victim.stat().st_mode & 0o777 == 0o700


def test_only_a_folder_that_the_run_owns_gets_rights(tmp_path, monkeypatch):
    other = tmp_path / "a"
    other.mkdir(mode=0o700)
    (other / OWNER).write_text("of another run")
    monkeypatch.setattr(_claimed_folder, "_claimed", lambda *_: True)
    with pytest.raises(ConfigurationError, match="was replaced while it was claimed"):
        claim_folder(tmp_path, PurePosixPath("a"), "uid", ExportRights(None, 0o755, 0o640))
    assert other.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_an_owner_s_file_that_is_none_makes_the_folder_another_s(tmp_path, put):
    (tmp_path / "a").mkdir()
    put(tmp_path / "a" / OWNER)
    assert claim_folder(tmp_path, PurePosixPath("a"), "uid") == tmp_path / "a_uid"


def test_an_output_directory_that_is_a_link_itself_is_fine(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk")
    assert claim_folder(tmp_path / "output", FOLDER, "a").is_dir()


def test_an_output_directory_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "output").write_text("a file")
    with pytest.raises(ConfigurationError, match="check BLUESKY_PREFECT_OUTPUT_DIRECTORY"):
        claim_folder(tmp_path / "output", FOLDER, "a")


KILLED = """
import os, signal, sys
from pathlib import Path
from bluesky_prefect.core import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"new, half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_process_killed_while_writing_leaves_the_old_file_or_none(tmp_path, before):
    folder = claim_folder(tmp_path, FOLDER, "a")
    path = folder / "x.csv"
    if before is not None:
        write_whole(path, before)
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
    assert (path.read_bytes() if path.exists() else None) == before
    [left] = [name for name in names(folder) if name not in {OWNER, "x.csv"}]
    # What the killed process left is swept up later, when it is sure that nobody writes to it any more.
    claim_folder(tmp_path, FOLDER, "a")
    assert left in names(folder)
    long_ago = time.time() - 2 * 3600
    os.utime(folder / left, (long_ago, long_ago))
    claim_folder(tmp_path, FOLDER, "a")
    assert left not in names(folder)
