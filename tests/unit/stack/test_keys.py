"""The secrets of a stack, on disk."""

import stat
import subprocess
import sys
import time

import pytest

from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._keys import StackKeys

MAKE = """
import sys
from pathlib import Path
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._keys import StackKeys
print("ready", flush=True)
sys.stdin.readline()
print(StackKeys.load_or_make(StackPaths(Path(sys.argv[1]))).prefect.get_secret_value())
"""

MAKE_OFTEN = """
import sys, time
from pathlib import Path
from bluesky_prefect.stack._info import StackPaths
from bluesky_prefect.stack._keys import StackKeys
print("ready", flush=True)
begin = float(sys.stdin.readline())
for number, place in enumerate(sys.argv[1:]):
    while time.monotonic() < begin + 0.03 * number:
        pass
    print(StackKeys.load_or_make(StackPaths(Path(place))).prefect.get_secret_value())
"""


@pytest.fixture
def paths(tmp_path):
    return StackPaths(tmp_path)


def test_keys_are_made_once_and_lie_in_files_of_their_owner_s(paths):
    assert StackKeys.load(paths) is None
    keys = StackKeys.load_or_make(paths)
    assert StackKeys.load(paths) == StackKeys.load_or_make(paths) == keys
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths.root.iterdir()} == {0o600}
    assert {path.name for path in paths.root.iterdir()} == {"tiled-api-key", "prefect-auth-string"}


def test_a_password_is_long_and_of_this_stack_alone(paths, tmp_path):
    (tmp_path / "other").mkdir()
    keys = [StackKeys.load_or_make(one).prefect.get_secret_value() for one in (paths, StackPaths(tmp_path / "other"))]
    assert len(set(keys)) == 2
    for key in keys:
        user, _, password = key.partition(":")
        assert user == "bluesky"
        assert len(password) >= 40


def test_a_stack_of_a_version_without_a_password_keeps_its_tiled_key(paths):
    paths.tiled_api_key.write_text("s3cret\n")
    assert StackKeys.load(paths) is None
    assert StackKeys.load_or_make(paths).tiled.get_secret_value() == "s3cret"


def test_an_empty_file_is_made_anew(paths):
    paths.prefect_auth_string.touch()
    assert StackKeys.load_or_make(paths).prefect.get_secret_value()


def test_all_who_make_keys_at_once_have_the_same(paths):
    command = [sys.executable, "-c", MAKE, str(paths.root)]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        maker.stdin.write("\n")
        maker.stdin.flush()
    made = {maker.communicate()[0].strip() for maker in makers}
    assert made == {paths.prefect_auth_string.read_text().strip()}


def test_all_who_find_an_empty_file_at_once_have_the_same_key_and_it_stays(tmp_path):
    stacks = [StackPaths(tmp_path / f"{number}") for number in range(50)]
    for stack in stacks:
        stack.root.mkdir()
        stack.tiled_api_key.write_text("s3cret")  # making it would take each of them another while
        stack.prefect_auth_string.touch()
    command = [sys.executable, "-c", MAKE_OFTEN, *(str(stack.root) for stack in stacks)]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    begin = time.monotonic() + 0.1
    for maker in makers:
        maker.stdin.write(f"{begin}\n")
        maker.stdin.flush()
    made = [maker.communicate()[0].split() for maker in makers]
    kept = [stack.prefect_auth_string.read_text().strip() for stack in stacks]
    assert made == [kept] * len(makers)


@pytest.mark.parametrize(
    "content", [b"", b" \n", bytes(65), b"\xff\xfe\x00", "bluesky:schlüssel\n".encode(), b"a:b\0c"]
)
def test_a_damaged_key_file_is_no_key_and_is_made_anew(tmp_path, content):
    paths = StackPaths(tmp_path)
    paths.prefect_auth_string.write_bytes(content)
    paths.tiled_api_key.write_text("s3cret\n")
    assert StackKeys.load(paths) is None
    made = StackKeys.load_or_make(paths)
    assert made.prefect.get_secret_value().startswith("bluesky:")
    assert made.tiled.get_secret_value() == "s3cret"
    assert StackKeys.load(paths) == made
