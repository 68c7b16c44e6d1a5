"""Arguments of the flows here, checked before one is called: a wrong one leaves no flow run."""

from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import get_settings
from bluesky_prefect.flows.common._prompt_call import bound_arguments
from bluesky_prefect.flows.weather._open_meteo import checked_date
from bluesky_prefect.flows.weather._weather import place_of

if TYPE_CHECKING:
    from prefect import Flow

_PLACE = ("lat", "lon", "timezone", "temperature_unit")


def checked_arguments(flow: "Flow[..., Any]", *arguments: Any, **options: Any) -> dict[str, Any]:
    """Return the arguments of a call by name, defaults included.

    Raises
    ------
    FlowInputError
        If one is missing, unknown, of a wrong type, or cannot be used.
    """
    given = bound_arguments(flow.name, flow.fn, *arguments, **options)
    if given.get("date") is not None:
        checked_date(given["date"])
    if given.keys() >= set(_PLACE):
        place_of(get_settings(), *(given[name] for name in _PLACE))
    return given
