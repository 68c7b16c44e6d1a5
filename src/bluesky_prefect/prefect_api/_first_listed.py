"""The date since which a workflow is on a list, kept where whoever reconciles finds it: in a variable of Prefect."""

import logging
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING

from bluesky_prefect.core import printable
from bluesky_prefect.prefect_api._api_errors import prefect_errors

if TYPE_CHECKING:
    from bluesky_prefect.prefect_api._client import PrefectApi

logger = logging.getLogger(__name__)

_PREFIX = "bluesky-prefect-since"
_TAG = "bluesky-prefect"
_SLUG_LENGTH = 100


def first_listed(api: "PrefectApi", names: Sequence[str], at: float, *, note: bool) -> float:
    """Return since when a workflow is on a list, under any of its names, in seconds since the epoch.

    The date is Prefect's, under "Variables" in its UI, where people may change it. Beamlines that share the name of a
    workflow on a server share its date.

    Parameters
    ----------
    names : sequence of str
        Its name, and then its former ones.
    at : float
        When it was seen on one, in seconds since the epoch: the answer if Prefect knows of nothing earlier.
    note : bool
        Whether Prefect is to know of this; else nothing is changed.

    Raises
    ------
    PrefectUnavailable
        If Prefect cannot be asked.
    """
    with prefect_errors():
        dates = [_date(api, name) for name in names]
        since = min([at, *(date for date in dates if date is not None)])
        if note and (dates[0] is None or dates[0] > since):
            _write(api, names[0], since, is_new=dates[0] is None)
    return since


def _date(api: "PrefectApi", name: str) -> float | None:
    """Return the date that Prefect has: None if there is no variable, infinity if its value is no date."""
    variable = api.client.read_variable_by_name(_variable(name))
    if variable is None:
        return None
    try:
        return datetime.fromisoformat(str(variable.value)).timestamp()
    except (ValueError, OverflowError):
        logger.warning("The Prefect variable %s holds no date: %r. It is replaced.", variable.name, variable.value)
        return math.inf


def _write(api: "PrefectApi", name: str, since: float, *, is_new: bool) -> None:
    import httpx
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate
    from prefect.exceptions import ObjectAlreadyExists

    value = datetime.fromtimestamp(since, UTC).isoformat(timespec="milliseconds")
    if not is_new:
        api.client.update_variable(VariableUpdate(name=_variable(name), value=value))
        return
    try:
        api.client.create_variable(VariableCreate(name=_variable(name), value=value, tags=[_TAG, printable(name)]))
    except ObjectAlreadyExists:  # another process has noted it at this moment
        pass
    except httpx.HTTPStatusError as error:  # as older clients say so
        if error.response.status_code != HTTPStatus.CONFLICT:
            raise


def _variable(name: str) -> str:
    """Return the name of the variable for a workflow, of the characters that Prefect allows there."""
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:_SLUG_LENGTH]
    return f"{_PREFIX}-{slug}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
