"""Names of folders and files, made from metadata that anybody may have typed."""

import re
import string
import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from bluesky_prefect.core import ConfigurationError

_MISSING = "unknown"
_MAX_FIELD_CHARACTERS = 60
# File systems allow 255 bytes; room is left for a uid, or a stream's name and a suffix.
_MAX_COMPONENT_BYTES = 150
_MAX_STREAM_BYTES = 60
# Names that Windows gives to devices, whatever their extension; shares are often read from there.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def safe_component(text: str, most_bytes: int = _MAX_COMPONENT_BYTES) -> str:
    """Return text as one component of a path: no separators, no dots to climb with, nothing invisible, bounded.

    Letters and digits of any script, ``.``, ``-``, ``_``, ``+``, ``=``, ``,`` stay; every other run of characters
    becomes one ``_``.
    """
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"(?:[^\w.+=,-]|\.{2,})+", "_", text)
    text = _cut(text, most_bytes).lstrip(".-").rstrip(". ")
    if not text.strip("_"):
        return _MISSING
    return f"_{text}" if _DEVICES.match(text) else text


def render(template: str, fields: Mapping[str, Any]) -> PurePosixPath:
    """Fill a template of a path from metadata of whatever type; return a relative path of safe components.

    The template is in Python's format syntax; ``{sample[name]}`` reaches into nested metadata. Its own slashes separate
    folders, those in the metadata do not. A field that is missing reads ``unknown``.

    Raises
    ------
    ConfigurationError
        If the template is not one.
    """
    try:
        components = [
            safe_component(_Formatter().vformat(part, (), fields)) for part in template.split("/") if part.strip(".")
        ]
    except (ValueError, IndexError) as error:
        raise ConfigurationError(
            f"{template!r} is not a template of a path ({error}): check BLUESKY_PREFECT_FOLDER_TEMPLATE and "
            "BLUESKY_PREFECT_FILE_TEMPLATE."
        ) from error
    return PurePosixPath(*(components or [_MISSING]))


def names_the_run(template: str) -> bool:
    """Say whether a template has the run's uid in its last component."""
    last = template.rstrip("/").rpartition("/")[2]
    return "{uid}" in last or "{short_uid}" in last


def distinct(names: list[str]) -> dict[str, str]:
    """Return a safe component for each name, no two alike even where case does not count."""
    taken: set[str] = set()
    result: dict[str, str] = {}
    for name in names:
        safe = candidate = safe_component(name, _MAX_STREAM_BYTES)
        number = 2
        while candidate.casefold() in taken:
            candidate = f"{safe}_{number}"
            number += 1
        taken.add(candidate.casefold())
        result[name] = candidate
    return result


class _Formatter(string.Formatter):
    """Look fields up in metadata only: no attributes, nothing positional; every value becomes harmless text."""

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        first, *nested = re.split(r"[\[\].]+", field_name.rstrip("]"))
        value = kwargs.get(first)
        for key in nested:
            value = value.get(key) if isinstance(value, Mapping) else None
        return (_MISSING if value is None or value == "" else value), first

    def format_field(self, value: Any, format_spec: str) -> str:
        if not isinstance(value, str | int | float):
            value = str(value)
        try:
            text = format(value, format_spec)
        except ValueError:
            text = str(value)  # such as ":04d" for a scan id that is text
        return re.sub(r"(?:[/\\]|\.{2,})+", "_", text[:_MAX_FIELD_CHARACTERS])

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return value


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")
