"""Arguments of a flow, checked before it is called: a wrong one leaves no flow run."""

import inspect
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import FlowInputError, get_settings, one_line
from bluesky_prefect.flows.weather._open_meteo import checked_date
from bluesky_prefect.flows.weather._weather import place_of
from bluesky_prefect.tiled_api import checked_ref

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
    signature = inspect.signature(flow.fn, eval_str=True)
    try:
        bound = signature.bind(*arguments, **options)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise FlowInputError(f"{flow.name}: {error}. It takes: {takes}.") from None
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        _check_type(name, value, signature.parameters[name].annotation)
    _check_values(bound.arguments)
    return bound.arguments


def _check_type(name: str, value: Any, annotation: Any) -> None:
    import pydantic

    if annotation is inspect.Parameter.empty:
        return
    try:
        # As Prefect does, which writes an error into the log and makes a flow run first.
        pydantic.TypeAdapter(annotation, config={"arbitrary_types_allowed": True}).validate_python(value)
    except pydantic.ValidationError as error:
        wrong = dict.fromkeys(one["msg"] for one in error.errors())
        raise FlowInputError(f"{name}={one_line(repr(value), 60)}: {'; '.join(wrong)}.") from None


def _check_values(given: dict[str, Any]) -> None:
    if "ref" in given:
        checked_ref(given["ref"])
    if given.get("date") is not None:
        checked_date(given["date"])
    if given.keys() >= set(_PLACE):
        place_of(get_settings(), *(given[name] for name in _PLACE))
