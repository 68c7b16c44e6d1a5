"""The folder that a run is exported to."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self
from zoneinfo import ZoneInfo

from bluesky_prefect.core import ExportFailed, error_line, is_number, whole_file, write_whole
from bluesky_prefect.flows.export_parts._claimed_folder import claim_folder
from bluesky_prefect.flows.export_parts._csv import write_csv
from bluesky_prefect.flows.export_parts._naming import distinct, names_the_run, render

if TYPE_CHECKING:
    from bluesky_prefect.core import Settings
    from bluesky_prefect.flows.common._progress import Progress
    from bluesky_prefect.tiled_api import ArraySource, RunData

NEXUS = ".nxs"


class RunFolder:
    """A folder that belongs to one run, the stem of the names of its files, and those that were written to it."""

    def __init__(self, path: Path, stem: str) -> None:
        self.path = path
        self.stem = stem
        self.files: list[Path] = []

    @classmethod
    def of(cls, run: "RunData", zone: ZoneInfo, settings: "Settings") -> Self:
        """Return the folder of a run, made if need be."""
        fields = {**run.start, "date": start_day(run, zone).isoformat(), "short_uid": run.uid[:8]}
        template = settings.folder_template
        if not names_the_run(template):
            template = f"{template.rstrip('/')}_{{short_uid}}"
        path = claim_folder(settings.exports_path, render(template, fields), run.uid)
        return cls(path, render(settings.file_template.replace("/", "_"), fields).name)

    def file(self, ending: str) -> Path:
        """Return the path of a file, whether it is there or not."""
        return self.path / f"{self.stem}{ending}"

    def write(self, ending: str, content: bytes) -> None:
        """Write a file."""
        write_whole(self.file(ending), content)
        self.files.append(self.file(ending))

    def remove(self, ending: str) -> None:
        """Remove what an earlier export may have left."""
        self.file(ending).unlink(missing_ok=True)

    def write_csv_files(self, run: "RunData", progress: "Progress", upto: float) -> None:
        """Write a CSV for each stream of a run, and bring its progress to `upto` percent meanwhile."""
        wrote = _counter(run, progress, upto)
        for stream, ending in zip(run.streams, _csv_endings(run), strict=True):
            with whole_file(self.file(ending)) as file:
                write_csv(stream, file, wrote)
            self.files.append(self.file(ending))

    def write_nexus_file(
        self,
        run: "RunData",
        sources: "Mapping[str, Sequence[ArraySource]]",
        prefixes: Mapping[str, str],
        progress: "Progress",
        upto: float,
    ) -> None:
        """Write all of a run to a NeXus file, and bring its progress to `upto` percent meanwhile; see `write_nexus`.

        Raises
        ------
        ExportFailed
            If it cannot be written, for whatever reason. An earlier one stays as it is.
        """
        from bluesky_prefect.flows.export_parts._nexus import write_nexus

        path = self.file(NEXUS)
        try:
            with whole_file(path) as file:
                write_nexus(run, file, sources, prefixes, _counter(run, progress, upto))
        except Exception as error:
            raise ExportFailed(
                f"The NeXus file {path} cannot be written ({error_line(error)}). What was written before it is whole. "
                "BLUESKY_PREFECT_EXPORT_FORMATS=csv exports without it."
            ) from error
        self.files.append(path)

    def remove_csv_files(self, run: "RunData") -> None:
        """Remove what `write_csv_files` may have left before."""
        for ending in _csv_endings(run):
            self.remove(ending)


def _csv_endings(run: "RunData") -> list[str]:
    return [f"_{safe}.csv" for safe in distinct([stream.name for stream in run.streams]).values()]


def _counter(run: "RunData", progress: "Progress", upto: float) -> Callable[[float], None]:
    """Return what takes the progress on with the rows that have been written, to `upto` percent with the last."""
    rows = max(sum(stream.rows for stream in run.streams), 1)
    share = upto - progress.percent

    def wrote(more: float) -> None:
        progress.percent += share * more / rows

    return wrote


def start_day(run: "RunData", zone: ZoneInfo) -> datetime.date:
    """Return the local day on which a run started."""
    time_s = run.start.get("time")
    moment = float(time_s) if is_number(time_s) else 0.0  # bluesky's schema requires it; a run without is dated 1970
    return datetime.datetime.fromtimestamp(moment, zone).date()
