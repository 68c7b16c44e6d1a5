"""Pages of Prefect's web UI."""

from bluesky_prefect.core import without_secrets


def flow_run_url(ui_url: str, flow_run_id: str) -> str:
    """Return the page of a flow run in Prefect's UI."""
    return f"{ui_url}/runs/flow-run/{flow_run_id}"


def artifact_url(ui_url: str, artifact_id: str) -> str:
    """Return the page of an artifact in Prefect's UI."""
    return f"{ui_url}/artifacts/artifact/{artifact_id}"


def ui_url() -> str:
    """Return where the UI of the Prefect server that this process is set to is; empty if no server is set."""
    from prefect.settings import PREFECT_UI_URL

    url = PREFECT_UI_URL.value()
    return without_secrets(url).rstrip("/") if url else ""
