"""Files are whole, and what is held is held once."""

import errno
import fcntl
import os
import stat

import pytest

from bluesky_prefect.core import lock_file, whole_file, write_first, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_fails_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.csv"
    write_whole(path, b"old")

    def write_half():
        with whole_file(path) as file:
            file.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.csv"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "x.csv", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x.csv").stat().st_mode & 0o777 == 0o640


def test_a_private_file_is_0600_whatever_the_umask(tmp_path, any_umask):
    write_whole(tmp_path / "key", b"secret", private=True)
    assert mode(tmp_path / "key") == 0o600
    assert (tmp_path / "key").read_text() == "secret"


def test_replacing_a_file_that_others_may_read_closes_it(tmp_path):
    (tmp_path / "key").write_text("old")
    (tmp_path / "key").chmod(0o644)
    write_whole(tmp_path / "key", b"new", private=True)
    assert mode(tmp_path / "key") == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("private", [False, True])
def test_a_file_that_is_there_is_not_written_again_by_who_wants_to_be_first(tmp_path, private):
    write_first(tmp_path / "x", b"first", private=private)
    with pytest.raises(FileExistsError):
        write_first(tmp_path / "x", b"second", private=private)
    assert (tmp_path / "x").read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_what_is_held_is_held_until_it_is_closed(tmp_path):
    (tmp_path / "x").touch()
    with (tmp_path / "x").open("rb") as first, (tmp_path / "x").open("rb") as second:
        lock_file(first)
        with pytest.raises(BlockingIOError):
            lock_file(second)
        first.close()
        lock_file(second, wait=True)


# On NFS, a file that is open for reading only gives the second.
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF])
def test_where_there_are_no_locks_nobody_is_held_off(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "x").open("wb") as file:
        lock_file(file)
