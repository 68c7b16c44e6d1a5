"""The folder that a run is exported to."""

import datetime
import re
import string
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from zoneinfo import ZoneInfo

from bluesky_prefect.core import (
    AS_UMASK,
    PROVENANCE,
    ExportRights,
    FileNote,
    Provenance,
    group_id,
    is_number,
    whole_file,
    write_whole,
)
from bluesky_prefect.flows.export_parts._claimed_folder import claim_folder, folder_of
from bluesky_prefect.flows.export_parts._naming import names_the_run, render

if TYPE_CHECKING:
    from bluesky_prefect.core import Settings
    from bluesky_prefect.tiled_api import RunData


class RunFolder:
    """A folder that belongs to one run, the stem of the names of its files, and those that were written to it.

    All that is made of it has the group and the modes that the settings ask for.
    """

    def __init__(self, path: Path, stem: str, rights: ExportRights = AS_UMASK) -> None:
        self.path = path
        self.stem = stem
        self.files: list[Path] = []
        self._rights = rights
        self._notes: dict[str, FileNote] = {}

    @classmethod
    def of(cls, run: "RunData", zone: ZoneInfo, settings: "Settings") -> Self:
        """Return the folder of a run, made if need be."""
        fields = {**run.start, "date": start_day(run, zone).isoformat(), "short_uid": run.uid[:8]}
        template = settings.folder_template
        if not names_the_run(template):
            template = f"{template.rstrip('/')}_{{short_uid}}"
        rights = _rights(settings, fields)  # before anything is made
        relative = render(template, fields)
        common = _common_folders(template, settings.export_group or "")
        path = cls._claim(settings.exports_path, relative, run.uid, rights, common)
        return cls(path, render(settings.file_template.replace("/", "_"), fields).name, rights)

    @staticmethod
    def _claim(root: Path, relative: PurePosixPath, uid: str, rights: ExportRights, common: int | None) -> Path:
        return claim_folder(root, relative, uid, rights, common=common)

    def file(self, ending: str) -> Path:
        """Return the path of a file, whether it is there or not."""
        return self.path / f"{self.stem}{ending}"

    @contextmanager
    def open(self, ending: str) -> Iterator[BinaryIO]:
        """Open a file for writing, which is there once the block ends without an error."""
        with whole_file(self.file(ending), rights=self._rights) as file:
            yield file
            # Of what was written here: another export of the run may put its own file at the same path.
            note = FileNote.of_stream(file)
        self.files.append(self.file(ending))
        self._notes[self.file(ending).name] = note

    def write(self, ending: str, content: bytes) -> None:
        """Write a file."""
        with self.open(ending) as file:
            file.write(content)

    def write_provenance(self, provenance: Provenance, **last: bytes) -> None:
        """Write what made the files, and those whose content is given by its ending, which are still to be written."""
        notes = self._notes | {self.file(f".{ending}").name: FileNote.of(content) for ending, content in last.items()}
        content = provenance.model_copy(update={"files": notes}).content()
        write_whole(self.path / PROVENANCE, content, rights=self._rights)

    def remove(self, ending: str) -> None:
        """Remove what an earlier export may have left."""
        self.file(ending).unlink(missing_ok=True)


class PlannedFolder(RunFolder):
    """The folder that a run would be exported to: nothing is made, written or removed, only taken note of."""

    @staticmethod
    def _claim(root: Path, relative: PurePosixPath, uid: str, rights: ExportRights, common: int | None) -> Path:
        return folder_of(root, relative, uid)

    @contextmanager
    def open(self, ending: str) -> Iterator[BinaryIO]:
        """Take note of a file; what is written goes nowhere."""
        with tempfile.TemporaryFile() as file:
            yield file
        self.files.append(self.file(ending))

    def remove(self, ending: str) -> None:
        """Leave a file alone."""


def _rights(settings: "Settings", fields: Mapping[str, Any]) -> ExportRights:
    group = settings.export_group
    if group is not None and "{" in group:
        group = render(group, fields).name
    number = None if group is None else group_id(group)
    return ExportRights(number, settings.export_directory_mode, settings.export_file_mode)


def _common_folders(template: str, group: str) -> int | None:
    """Return how many folders of a template are common to runs whose group differs; None if the group is always one.

    They are those above the first folder by which all fields of the group are known that the template names.
    """
    if "{" not in group:
        return None
    parts = [_fields(part) for part in template.split("/") if part.strip(".")]
    missing = _fields(group) & set().union(*parts)
    if missing:
        for number, named in enumerate(parts):
            missing -= named
            if not missing:
                return number
    return max(len(parts) - 1, 0)


def _fields(template: str) -> set[tuple[str, ...]]:
    """Return the fields that a template names; ``{a[b]}`` and ``{a.b}`` are one."""
    named = (field for _, field, _, _ in string.Formatter().parse(template) if field)
    return {tuple(re.split(r"[\[\].]+", field.rstrip("]"))) for field in named}


def start_day(run: "RunData", zone: ZoneInfo) -> datetime.date:
    """Return the local day on which a run started."""
    time_s = run.start.get("time")
    moment = float(time_s) if is_number(time_s) else 0.0  # bluesky's schema requires it; a run without is dated 1970
    return datetime.datetime.fromtimestamp(moment, zone).date()
