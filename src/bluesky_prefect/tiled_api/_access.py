"""Permissions of this process in Tiled: told by the server, proved without writing anything."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from bluesky_prefect.core import BlueskyPrefectError, get_settings
from bluesky_prefect.tiled_api._connect import tiled_errors

if TYPE_CHECKING:
    from bluesky_prefect.tiled_api._catalog import Catalog

# Tiled's own names for what a request may do: what no flow can do without, and what some need beside it, to replace a
# result, or, as the courier does, to write a run whose detectors write files.
_READ = frozenset({"read:metadata", "read:data"})
_FLOWS_NEED = _READ | {"create:node", "write:metadata", "write:data"}
_NEEDED = _FLOWS_NEED | {"delete:node", "delete:revision", "register"}
# A key that may do what its owner may, and only that.
_INHERIT = "inherit"
# Named as text: rooms above this one, and what they import when they first need it. Mostly imported before it is asked.
_IMPORTS = ("bluesky_prefect.flows", "matplotlib.figure", "pandas", "pyarrow", "PIL.Image", "h5py")


@dataclass(frozen=True)
class TiledAccess:
    """A Tiled server, and what it lets this process do.

    Attributes
    ----------
    server_version : str
        Version of the server.
    has_key : bool
        Whether it is asked with an API key, or as a user who has logged in.
    lacks : frozenset of str
        Tiled's scopes that flows and the courier need, and this process does not have. What a server's access policy
        says of single nodes is not known before it is tried.
    """

    server_version: str
    has_key: bool
    lacks: frozenset[str]

    @classmethod
    def of(cls, catalog: "Catalog") -> Self:
        """Ask the server of a catalog.

        Raises `TiledUnavailable` if it does not answer, or refuses the key.
        """
        context: Any = catalog.context
        with tiled_errors(catalog.name):
            return cls(context.server_info.library_version, context.authenticated, _NEEDED - _scopes(context))

    @property
    def stops_flows(self) -> bool:
        """True if a flow that reads a run and writes a result could only fail."""
        return bool(self.lacks & _FLOWS_NEED)

    def problem(self) -> str:
        """Return what is lacking, and the remedy; "" if nothing is."""
        if not self.lacks:
            return ""
        has = "The API key lacks the scopes" if self.has_key else "No API key is set; without one nobody has the scopes"
        return f"{has} {', '.join(sorted(self.lacks))} of Tiled: set TILED_API_KEY to a key that has them."


def flows_problem() -> str:
    """Return why flows could only fail in this environment, with the remedy; "" if nothing is known against them.

    Where the settings name no Tiled server, flows have nothing to do with one. Otherwise this package's flows can be
    imported here, Tiled answers, and its key may read runs and write results. Nothing is written.
    """
    from bluesky_prefect.tiled_api._catalog import Catalog

    settings = get_settings()
    if settings.tiled_uri is None and settings.tiled_profile is None:
        return ""
    try:
        for module in _IMPORTS:
            import_module(module)
        with Catalog.connect(settings) as catalog:
            _ = catalog.raw  # says what to do if it is not there
            access = TiledAccess.of(catalog)
            return f"Tiled at {catalog.name}: {access.problem()}" if access.stops_flows else ""
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        return f'The flows need {package}, which is not installed here: pip install "bluesky-prefect[flows]".'
    except BlueskyPrefectError as error:
        return str(error)


def _scopes(context: Any) -> frozenset[str]:
    """Return what requests may do."""
    if not context.authenticated:
        return _READ
    if not context.server_info.authentication.links:  # one user, with one key that may do everything
        return _NEEDED
    granted = set(context.which_api_key()["scopes"]) if context.api_key else {_INHERIT}
    if _INHERIT in granted:
        user = context.whoami() or {}
        granted |= {scope for role in user.get("roles", []) for scope in role["scopes"]}
    return frozenset(granted)
