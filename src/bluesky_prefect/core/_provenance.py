"""The file beside exported files that says what made them."""

import hashlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError

PROVENANCE = ".bluesky-provenance.json"
"""Its name: one for each folder."""


class MadeBy(BaseModel):
    """The flow run that made something, the outermost one: what `%flows` lists.

    Attributes
    ----------
    flow_run_id, flow_run_name, flow : str
        As Prefect has them.
    deployment : str or None
        As ``flow-name/deployment-name``; None if it was called by hand.
    parameters : dict
        What it was started with.
    """

    flow_run_id: str
    flow_run_name: str
    flow: str = ""
    deployment: str | None = None
    parameters: dict[str, Any] = {}


class FileNote(BaseModel):
    """A file as it was written: its size, and its SHA-256 in hexadecimal digits."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the note of a file with this content."""
        return cls(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Return the note of a file as it is now; may raise `OSError`."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(size_bytes=file.tell(), sha256=digest)


class Provenance(BaseModel):
    """The makers of the files of a folder: run, flow run and version.

    Attributes
    ----------
    run_uid, scan_id, plan_name : str, int or None, str
        The run.
    made_by : MadeBy or None
        The flow run; None if Prefect did not tell.
    software : dict
        Name and version of the package.
    created : str
        When, as ISO 8601.
    files : dict
        The files by their names.
    """

    format: Literal[1] = 1
    run_uid: str
    scan_id: int | None = None
    plan_name: str = ""
    made_by: MadeBy | None = None
    software: dict[str, str]
    created: str
    files: dict[str, FileNote] = {}

    def content(self) -> bytes:
        """Return the content of the file."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def provenance_in(folder: Path) -> Provenance | None:
    """Return what made the files of a folder; None if nobody has noted it. May raise `OSError`."""
    try:
        return Provenance.model_validate_json((folder / PROVENANCE).read_bytes())
    except (FileNotFoundError, ValidationError):  # or it is of a newer version
        return None
