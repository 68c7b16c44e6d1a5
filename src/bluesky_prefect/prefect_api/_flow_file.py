"""Flows in files that people write."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_prefect.core import ConfigurationError, one_line, run_file
from bluesky_prefect.prefect_api._parameters import FILLED_NAMES

if TYPE_CHECKING:
    from prefect import Flow


def flow_in_file(where: str) -> "tuple[Flow[..., Any], str]":
    """Return the flow that ``file.py:name`` means, and its entry point with the whole path.

    The name may be left out where the file has one flow.

    Raises
    ------
    ConfigurationError
        If there is no such file, it cannot be run, or has no such flow; says which it has.
    """
    place, _, name = where.partition(":")
    path = Path(place).expanduser().absolute()
    if path.suffix != ".py" or (name and not name.isidentifier()):
        raise ConfigurationError(f"{one_line(where, 200)!r} names no flow: write my_file.py:my_function.")
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}.")
    module = run_file(path)
    from prefect import Flow

    # Not those that it has imported, such as those of this package.
    flows = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, Flow) and value.fn.__module__ == module.__name__
    }
    found = vars(module).get(name) if name else next(iter(flows.values()), None) if len(flows) == 1 else None
    if isinstance(found, Flow):
        return found, f"{path}:{name or next(iter(flows))}"
    has = f"Its flows: {', '.join(flows) or 'none'}."
    if not name:
        which = "has no flow" if not flows else "has several flows"
        raise ConfigurationError(f"{path} {which}; say which: {place}:my_function. {has}")
    if found is None:
        raise ConfigurationError(f"{path} has no {name!r}. {has}")
    raise ConfigurationError(
        f"{name!r} in {path} is a {type(found).__name__} and no flow: put @flow above it (from prefect import flow)."
    )


def unfilled_parameters(flow: "Flow[..., Any]") -> list[str]:
    """Return the parameters that a flow requires and a run does not fill."""
    return [name for name in flow.parameters.required if name not in FILLED_NAMES]
