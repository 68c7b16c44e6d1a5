"""The files that flow runs have exported, as their artifacts tell."""

from uuid import UUID

from bluesky_prefect.core import EXPORTED_FILES, exported_paths
from bluesky_prefect.prefect_api._api_errors import prefect_errors
from bluesky_prefect.prefect_api._client import PrefectApi
from bluesky_prefect.prefect_api._flow_runs import child_flow_runs


def exported_files(api: PrefectApi, flow_run_id: str) -> tuple[str, ...]:
    """Return the paths of the files that a flow run, or one within it, has exported; raises `PrefectUnavailable`."""
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter

    asked = ArtifactFilter.model_validate({"key": {"any_": [EXPORTED_FILES]}})
    with prefect_errors():
        ids = [UUID(flow_run_id), *(one.id for one in child_flow_runs(api.client, flow_run_id))]
        runs = FlowRunFilter.model_validate({"id": {"any_": ids}})
        artifacts = api.client.read_artifacts(artifact_filter=asked, flow_run_filter=runs)
    return tuple(dict.fromkeys(path for artifact in artifacts for path in exported_paths(artifact.data)))
