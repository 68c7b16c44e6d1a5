"""The run and the flow run that an exported file came of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bluesky_prefect.core import (
    PROVENANCE,
    FileNote,
    FlowInputError,
    PrefectUnavailable,
    Provenance,
    Settings,
    get_settings,
    provenance_in,
)
from bluesky_prefect.prefect_api import PrefectApi, flow_run_with_id
from bluesky_prefect.watch._workflow_status import WorkflowStatus, from_flow_run

UNCHANGED = "as it was written"


@dataclass(frozen=True)
class FileOrigin:
    """The run and the flow run that exported files came of, and what has become of the files.

    Attributes
    ----------
    provenance : Provenance
        What stands beside the files.
    files : dict
        What has become of each since, by its name: `UNCHANGED`, or a few words.
    flow_run : WorkflowStatus or None
        The flow run, if Prefect still knows it.
    problem : str
        Why Prefect tells nothing; empty if it was asked.
    """

    provenance: Provenance
    files: dict[str, str]
    flow_run: WorkflowStatus | None = None
    problem: str = ""

    @property
    def unchanged(self) -> bool:
        """True if all files are as they were written."""
        return all(state == UNCHANGED for state in self.files.values())


def file_origin(
    path: Path, *, settings: Settings | None = None, explain: Callable[[PrefectUnavailable], str] = str
) -> FileOrigin:
    """Return where an exported file, or all those in a folder, came from; `explain` says why Prefect cannot be asked.

    Raises
    ------
    FlowInputError
        If it is no exported file, or cannot be read.
    """
    settings = settings or get_settings()
    path = path.expanduser().absolute()
    folder = path if path.is_dir() else path.parent
    try:
        provenance = provenance_in(folder)
        if provenance is None:
            raise FlowInputError(
                f"Nothing is known of {path}: beside it is no {PROVENANCE}, which an export leaves in each folder."
            )
        files = dict(_states(provenance, folder, None if path == folder else path.name))
    except OSError as error:
        raise FlowInputError(f"{path} cannot be looked at ({error.strerror}).") from error
    maker, flow_run, problem = provenance.made_by, None, ""
    if maker is not None:
        try:
            with PrefectApi(settings.request_timeout_s) as api:
                past = flow_run_with_id(api, maker.flow_run_id)
            flow_run = from_flow_run(past) if past else None
        except PrefectUnavailable as error:
            problem = explain(error)
    return FileOrigin(provenance, files, flow_run, problem)


def _states(provenance: Provenance, folder: Path, name: str | None) -> Iterator[tuple[str, str]]:
    if name is not None and name not in provenance.files:
        raise FlowInputError(
            f"{name} is none of the files that the last export wrote to {folder}: {', '.join(provenance.files)}."
        )
    for one in provenance.files if name is None else [name]:
        yield one, _state(folder, one, provenance.files[one])


def _state(folder: Path, name: str, written: FileNote) -> str:
    # Whoever can write to the folder may have put any name there.
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        return "no name of a file in this folder, not looked at"
    try:
        now = FileNote.of_file(folder / name)
    except FileNotFoundError:
        return "gone"
    if now is None:
        return "no regular file, not looked at"
    return UNCHANGED if now == written else "CHANGED since it was written"
