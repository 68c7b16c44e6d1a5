"""Pages of Prefect's web UI: of the newer one, where a server has two.

The newer one opens a flow run's artifacts at once, shows a plot among them, and shows escaped Markdown as it is meant.
Each function takes the address of the server's UI.
"""

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import quote, urlsplit

from bluesky_prefect.core import api_address, without_secrets

# Servers from this release on have both UIs. A server is never older than its clients.
_WITH_BOTH = (3, 9)
_NEWER = "/v2"
_CLOUD = "prefect.cloud"


def ui_root(ui_url: str) -> str:
    """Return the address of the UI that links lead to; as PREFECT_UI_URL it is that of a client's own links, too."""
    return f"{ui_url}{_NEWER}" if _has_both(ui_url) else ui_url


def runs_url(ui_url: str) -> str:
    """Return the page with all flow runs."""
    return f"{ui_root(ui_url)}/runs"


def search_url(ui_url: str, name: str) -> str:
    """Return the page with the flow runs that have a name, which may not be there yet."""
    page = runs_url(ui_url)
    return f"{page}?flow-run-search={quote(name)}&hide-subflows=true" if _has_both(ui_url) else page


def flow_run_url(ui_url: str, flow_run_id: str, *, failed: bool = False) -> str:
    """Return the page of a flow run: with its artifacts, or its log if it has failed."""
    page = f"{ui_root(ui_url)}/runs/flow-run/{flow_run_id}"
    return page if failed or not _has_both(ui_url) else f"{page}?tab=Artifacts"


def ui_url() -> str:
    """Return where the UI of the Prefect server that this process is set to is; empty if no server is set."""
    from prefect.settings import PREFECT_UI_URL

    url = PREFECT_UI_URL.value()
    return without_secrets(url).rstrip("/").removesuffix(_NEWER) if url else ""


def probable_ui_url() -> str:
    """Return what `ui_url` does as far as it is known without importing Prefect, else an empty string."""
    if ui := os.environ.get("PREFECT_UI_URL"):
        return without_secrets(ui).rstrip("/").removesuffix(_NEWER)
    api_url = api_address() or ""
    return "" if _is_cloud(api_url) else api_url.removesuffix("/api")


def _has_both(ui_url: str) -> bool:
    return not _is_cloud(ui_url) and _client_release() >= _WITH_BOTH


def _is_cloud(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith(_CLOUD)


@cache
def _client_release() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version("prefect").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return ()
