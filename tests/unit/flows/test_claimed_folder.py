"""Folders belong to one run."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from bluesky_prefect.core import ConfigurationError, write_whole
from bluesky_prefect.flows import OWNER
from bluesky_prefect.flows.export_parts._claimed_folder import claim_folder

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
    with pytest.raises(ConfigurationError, match="leads out of the output directory"):
        claim_folder(output, FOLDER, "a")
    assert names(elsewhere) == []


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
