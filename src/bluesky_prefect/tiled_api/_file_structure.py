"""The structure of detectors' files, as Tiled has it and as it is."""

import copy
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class FileStructure:
    """Element type, shape and chunks of an array that is in files which can be read here.

    Parameters
    ----------
    node : tiled.client.array.ArrayClient
        The array.
    source : tiled.structures.data_source.DataSource
        Its files.
    """

    node: Any
    source: Any

    @classmethod
    def of(cls, node: Any) -> Self | None:
        """Return that of an array; None if it is not one of files of a kind known here."""
        sources = node.data_sources() or []
        if len(sources) != 1 or sources[0].management != "external":
            return None
        try:
            import bluesky_tiled_plugins.writing.validator  # noqa: F401
            from tiled.mimetypes import DEFAULT_ADAPTERS_BY_MIMETYPE

            adapter = DEFAULT_ADAPTERS_BY_MIMETYPE.get(sources[0].mimetype)
        except ImportError:  # a worker need not have what reads such files
            adapter = None
        return None if adapter is None else cls(node, sources[0])

    @property
    def promised(self) -> Any:
        """The structure that Tiled has."""
        return self.node.structure()

    def found(self) -> Any:
        """Return what the files say; raises whatever reading them does."""
        from bluesky_tiled_plugins.writing.validator import validate_data_source

        # A copy: what it mends is not sent to the server.
        source, _ = validate_data_source(copy.deepcopy(self.source), fix_errors=True, metadata=dict(self.node.metadata))
        return source.structure

    def repair(self) -> list[str]:
        """Have Tiled take over what the files say, and return what has changed; raises whatever the server makes it."""
        from bluesky_tiled_plugins.writing.validator import validate_structure

        return validate_structure(self.node, fix_errors=True)
