"""Links lead to one of Prefect's UIs, to what people look for there."""

import pytest

from bluesky_prefect.prefect_api import _ui_links as ui_links

SERVER = "http://127.0.0.1:4200"
CLOUD = "https://app.prefect.cloud/account/a/workspace/b"


@pytest.fixture(params=[(3, 9), (3, 8)])
def root(request, monkeypatch):
    monkeypatch.setattr(ui_links, "_client_release", lambda: request.param)
    return f"{SERVER}/v2" if request.param == (3, 9) else SERVER


def test_all_links_lead_to_the_newer_ui_of_a_server_that_has_it(root):
    links = [ui_links.runs_url(SERVER), ui_links.search_url(SERVER, "scan-1-count"), ui_links.flow_run_url(SERVER, "x")]
    assert all(link.startswith(f"{root}/runs") for link in links)


def test_the_page_of_a_flow_run_shows_its_artifacts_and_of_a_failed_one_its_log(monkeypatch):
    monkeypatch.setattr(ui_links, "_client_release", lambda: (3, 9))
    assert ui_links.flow_run_url(SERVER, "x") == f"{SERVER}/v2/runs/flow-run/x?tab=Artifacts"
    assert ui_links.flow_run_url(SERVER, "x", failed=True) == f"{SERVER}/v2/runs/flow-run/x"


def test_prefect_s_cloud_has_one_ui(monkeypatch):
    assert ui_links.flow_run_url(CLOUD, "x") == f"{CLOUD}/runs/flow-run/x"
    monkeypatch.setenv("PREFECT_API_URL", "https://api.prefect.cloud/api/accounts/a/workspaces/b")
    assert ui_links.probable_ui_url() == ""


def test_where_the_ui_is_follows_from_the_address_of_the_api(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@localhost:4200/api/")
    assert ui_links.probable_ui_url() == SERVER
