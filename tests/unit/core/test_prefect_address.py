"""Where Prefect is, without importing it, and in the one form by which servers are told apart."""

import subprocess
import sys

import pytest

from bluesky_prefect.core import _prefect_address as prefect_address
from bluesky_prefect.core import api_address, comparable_url

ADDRESS = "http://127.0.0.1:4200/api"


@pytest.fixture
def prefect_home(tmp_path, monkeypatch):
    """Have neither an environment nor a working directory that names a server."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "prefect").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    prefect_address._profile_address.cache_clear()
    return tmp_path / "prefect"


def in_profile(home, url=ADDRESS):
    (home / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{url}"\n')


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:4200/api/",
        " http://localhost:4200/api",
        "http://LOCALHOST:4200/api?key=s3cret#s3cret",
        "http://user:s3cret@127.0.0.1:4200/api",
    ],
)
def test_addresses_of_one_server_are_one(url):
    assert comparable_url(url) == ADDRESS


def test_addresses_of_several_servers_are_several():
    urls = [
        ADDRESS,
        "http://127.0.0.1:4201/api",
        "https://127.0.0.1:4200/api",
        "https://api.prefect.cloud/api/accounts/1/workspaces/1",
        "https://api.prefect.cloud/api/accounts/1/workspaces/2",
        "http://[::1]:4200/api",
    ]
    assert [comparable_url(url) for url in urls] == urls
    assert comparable_url("https://prefect.example.org:443/api") == "https://prefect.example.org/api"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "http://",
        "http://127.0.0.1:0/api",
        "http://user:s3/cret@127.0.0.1/api",
        "http://user:12/cret@127.0.0.1/api",
        "http://user:12#cret@127.0.0.1/api",
        "http://user:12?cret@127.0.0.1/api",
        "http://[::1/api",
    ],
)
def test_what_cannot_be_taken_apart_safely_is_no_address(url):
    assert comparable_url(url) is None


def test_the_environment_comes_before_the_profile(prefect_home, monkeypatch):
    in_profile(prefect_home)
    assert api_address() == ADDRESS
    monkeypatch.setenv("PREFECT_API_URL", "http://b.example/api/")
    assert api_address() == "http://b.example/api"


@pytest.mark.parametrize("file", [".env", "prefect.toml", "pyproject.toml"])
def test_where_a_file_may_say_otherwise_than_the_profile_it_is_not_known(prefect_home, tmp_path, file):
    in_profile(prefect_home)
    (tmp_path / "work" / file).touch()
    assert api_address() is None


def test_what_nobody_says_is_not_known(prefect_home):
    assert api_address() is None


def test_a_working_directory_that_is_gone_is_no_reason_to_fail(prefect_home, tmp_path):
    (tmp_path / "work").rmdir()
    assert api_address() is None


def test_a_profile_is_read_once(prefect_home):
    in_profile(prefect_home)
    assert api_address() == ADDRESS
    (prefect_home / "profiles.toml").unlink()
    assert api_address() == ADDRESS


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_it_is_what_prefect_itself_uses(prefect_home, where):
    in_profile(prefect_home)
    code = (
        "import os\n"
        f"if {where == 'environment'}: os.environ['PREFECT_API_URL'] = 'http://localhost:4300/api/'\n"
        "from bluesky_prefect.core import api_address; from bluesky_prefect.prefect_api import PrefectApi\n"
        "with PrefectApi(5) as api: print(api_address() == api.api_url != None)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
