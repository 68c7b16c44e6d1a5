"""A beamline among others on one Prefect server: its work pool, and the catalog that its deployments are for."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from bluesky_prefect.core import LOOPBACK_NAMES, ConfigurationError, Settings
from bluesky_prefect.tiled_api import server_name

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

_VARIABLE = "BLUESKY_PREFECT_BEAMLINE"
# In the description of a deployment, where people see it, too.
_SAID = re.compile(r"^Beamline (?P<name>[a-z0-9-]+): (?P<catalog>.+)\.$", re.MULTILINE)
_AT = " of Tiled at "


@dataclass(frozen=True)
class Beamline:
    """A beamline that has a name, and what is called after it.

    Attributes
    ----------
    name : str
        Its name.
    catalog : str
        Its catalog of runs, and the Tiled server that has it if that is known, in words.
    environment : Mapping
        What flow runs of its work pool need in their environment to be the beamline's.
    """

    name: str
    catalog: str
    environment: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the beamline that the settings name; None if they name none."""
        if (name := settings.beamline) is None:
            return None
        containers = {"raw": settings.raw_container, "processed": settings.processed_container}
        given = {what: path for what, path in containers.items() if path != f"{name}/{what}"}
        environment = {f"BLUESKY_PREFECT_{what.upper()}_CONTAINER": path for what, path in given.items()}
        return cls(name, _catalog(settings), {_VARIABLE: name, **environment})

    @property
    def tags(self) -> list[str]:
        """The tags of its deployments, which Prefect gives to all their flow runs."""
        return [f"beamline:{self.name}"]

    def describe(self, what: str, before: str | None) -> str:
        """Return the description of a deployment that does this, and was described in another way before.

        Where no server is known, it is for the catalog that it was for.
        """
        theirs = catalog_of(before)
        catalog = theirs if _AT not in self.catalog and self.may_be_for(theirs) else self.catalog
        return f"{what}\n\nBeamline {self.name}: {catalog}."

    def may_be_for(self, catalog: str) -> bool:
        """Tell whether its catalog may be this one, in words: one of them may not name its server."""
        ours, theirs = self.catalog.partition(_AT), catalog.partition(_AT)
        return ours[0] == theirs[0] and (ours[2] == theirs[2] or "" in (ours[2], theirs[2]))

    async def make_pool(self, client: "PrefectClient", pool: str) -> str:
        """Make the beamline's work pool, if it is not there, and return what was done, in a line.

        Raises
        ------
        ConfigurationError
            If it is there, and another beamline's.
        """
        from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

        start = f"Start a worker where this package is installed: prefect worker start --pool {pool}"
        try:
            found = await client.read_work_pool(pool)
        except ObjectNotFound:
            try:
                await self._make(client, pool)
            except ObjectAlreadyExists:  # somebody else was a moment faster
                return await self.make_pool(client, pool)
            return f"Made the work pool {pool}, whose flow runs are of beamline {self.name}. {start}"
        theirs = _environment(found.base_job_template).get("default") or {}
        if (other := theirs.get(_VARIABLE)) not in (None, self.name):
            raise ConfigurationError(
                f"The work pool {pool!r} belongs to beamline {other!r}: its flow runs use that beamline's catalog. "
                "Nothing was changed. Leave out --work-pool, or name another pool."
            )
        return f"The work pool {pool} was there already."

    async def _make(self, client: "PrefectClient", pool: str) -> None:
        from prefect.client.schemas.actions import WorkPoolCreate

        from bluesky_prefect.worker import WarmProcessWorker

        template = WarmProcessWorker.get_default_base_job_template()
        _environment(template)["default"] = dict(self.environment)
        description = f"Flow runs of beamline {self.name}, which has {self.catalog}."
        made = WorkPoolCreate(
            name=pool, type=WarmProcessWorker.type, base_job_template=template, description=description
        )
        await client.create_work_pool(made)


def catalog_of(description: str | None) -> str:
    """Return the catalog that a deployment is for, by its description; "" if that does not say."""
    said = _SAID.search(description or "")
    return said["catalog"] if said else ""


def _catalog(settings: Settings) -> str:
    catalog = f"the catalog {settings.raw_container}"
    if not (server := server_name(settings)):
        return catalog
    # That is another server on each machine.
    where = f" on {socket.gethostname()}" if urlsplit(server).hostname in LOOPBACK_NAMES else ""
    return f"{catalog}{_AT}{server.rstrip('/')}{where}"


def _environment(template: Mapping[str, Any]) -> dict[str, Any]:
    return template.get("variables", {}).get("properties", {}).get("env", {})
