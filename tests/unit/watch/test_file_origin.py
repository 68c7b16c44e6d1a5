"""Files whose notes anybody may have written are looked at with care."""

import os
import socket

import pytest

from bluesky_prefect.core import PROVENANCE, FileNote, Provenance, provenance_in
from bluesky_prefect.watch import UNCHANGED, file_origin

NOTE = FileNote.of(b"text")


def note(folder, *names):
    known = Provenance(run_uid="0123abcd-1", software={}, created="", files=dict.fromkeys(names, NOTE))
    (folder / PROVENANCE).write_bytes(known.content())


def test_files_are_as_they_were_written_or_changed_or_gone(tmp_path):
    note(tmp_path, "same", "other", "gone")
    (tmp_path / "same").write_bytes(b"text")
    (tmp_path / "other").write_bytes(b"Text")
    origin = file_origin(tmp_path)
    assert origin.files == {"same": UNCHANGED, "other": "CHANGED since it was written", "gone": "gone"}
    assert not origin.unchanged
    assert file_origin(tmp_path / "same").unchanged


def test_an_export_without_files_is_unchanged(tmp_path):
    note(tmp_path)
    assert file_origin(tmp_path).unchanged


@pytest.mark.parametrize("name", ["", ".", "..", "../secret", "/dev/zero", "below/secret", "a\0b"])
def test_names_that_lead_elsewhere_are_not_followed(tmp_path, name):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    for secret in (tmp_path / "secret", folder / "below" / "secret"):
        secret.write_bytes(b"text")
    note(folder, name)
    origin = file_origin(folder)
    assert origin.files == {name: "no name of a file in this folder, not looked at"}
    assert not origin.unchanged


def _bind(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    "put",
    [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path.parent), _bind],
    ids=["pipe", "folder", "link to a device", "link to a folder", "socket"],
)
def test_what_is_no_regular_file_is_not_read(tmp_path, monkeypatch, put):
    monkeypatch.chdir(tmp_path)
    note(tmp_path, "x")
    put(tmp_path / "x")
    assert file_origin(tmp_path).files == {"x": "no regular file, not looked at"}
    (tmp_path / PROVENANCE).unlink()
    (tmp_path / "x").rename(tmp_path / PROVENANCE)
    assert provenance_in(tmp_path) is None


def test_notes_longer_than_any_export_writes_are_not_read(tmp_path):
    note(tmp_path, "x")
    assert provenance_in(tmp_path) is not None
    with (tmp_path / PROVENANCE).open("a") as file:
        file.write(" " * 10_000_000)
    assert provenance_in(tmp_path) is None
