"""The files that hold a run's data: CSV and NeXus."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from bluesky_prefect.core import ExportFailed, error_line
from bluesky_prefect.flows.export_parts._csv import write_csv
from bluesky_prefect.flows.export_parts._naming import distinct
from bluesky_prefect.tiled_api import array_sources

if TYPE_CHECKING:
    from bluesky_prefect.core import Settings
    from bluesky_prefect.flows.common._progress import Progress
    from bluesky_prefect.flows.export_parts._run_folder import RunFolder
    from bluesky_prefect.tiled_api import Catalog, RunData

_NEXUS = ".nxs"


def write_csv_files(
    run: "RunData", folder: "RunFolder", settings: "Settings", progress: "Progress", upto: float
) -> None:
    """Write a CSV for each stream of a run, and bring its progress to `upto` percent meanwhile.

    Where the settings want none, remove what was left by an earlier export.
    """
    wrote = _counter(run, progress, upto)
    endings = [f"_{safe}.csv" for safe in distinct([stream.name for stream in run.streams]).values()]
    for stream, ending in zip(run.streams, endings, strict=True):
        if "csv" not in settings.export_formats:
            folder.remove(ending)
            continue
        with folder.open(ending) as file:
            write_csv(stream, file, wrote)


def write_nexus_file(
    run: "RunData", catalog: "Catalog", folder: "RunFolder", settings: "Settings", progress: "Progress", upto: float
) -> None:
    """Write all of a run to a NeXus file, see `write_nexus`; else as `write_csv_files`.

    Raises
    ------
    ExportFailed
        If it cannot be written, for whatever reason. An earlier one stays as it is.
    """
    from bluesky_prefect.flows.export_parts._nexus import write_nexus

    if "nexus" not in settings.export_formats:
        folder.remove(_NEXUS)
        return
    sources = array_sources(catalog, run)
    try:
        with folder.open(_NEXUS) as file:
            write_nexus(run, file, sources, settings.export_path_map, _counter(run, progress, upto))
    except Exception as error:
        raise ExportFailed(
            f"The NeXus file {folder.file(_NEXUS)} cannot be written ({error_line(error)}). "
            "What was written before it is whole. BLUESKY_PREFECT_EXPORT_FORMATS=csv exports without it."
        ) from error


def _counter(run: "RunData", progress: "Progress", upto: float) -> Callable[[float], None]:
    """Return what takes the progress on with the rows that have been written, to `upto` percent with the last."""
    rows = max(sum(stream.rows for stream in run.streams), 1)
    share = upto - progress.percent

    def wrote(more: float) -> None:
        progress.percent += share * more / rows

    return wrote
