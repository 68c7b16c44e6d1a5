"""A flow's parameters, filled by name from what is known of a run."""

from collections.abc import Callable, Mapping
from typing import Any

from bluesky_prefect.core import Submission, SubmissionRefused
from bluesky_prefect.prefect_api._parameter_size import shrink

_FILLS: dict[str, Callable[[Submission], Any]] = {
    "ref": lambda submission: submission.run_uid,
    "uid": lambda submission: submission.run_uid,
    "run_uid": lambda submission: submission.run_uid,
    "scan_uid": lambda submission: submission.run_uid,
    "start_doc": lambda submission: submission.start,
    "start": lambda submission: submission.start,
    "stop_doc": lambda submission: submission.stop,
    "stop": lambda submission: submission.stop,
    "scan_id": lambda submission: submission.run.scan_id,
    "plan_name": lambda submission: submission.run.plan_name,
    "exit_status": lambda submission: submission.run.exit_status,
}
FILLED_NAMES = tuple(_FILLS)
_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", dict: "object", list: "array"}
# Keys that make a dictionary more than data: Prefect's server renders templates and looks variables up, and its flow
# engine loads blocks (with their secrets), wherever in the parameters it finds one.
_PREFECTS_OWN = {"__prefect_kind": r"\x5f_prefect_kind", "$ref": r"\x24ref"}


def parameters_for(submission: Submission, schema: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return the parameters to start a deployment with.

    Those that the submission carries are taken as they are. Without any, each parameter of the flow whose name is in
    `FILLED_NAMES` gets what it is called after, if its declared type takes that. The submission's overrides win.

    All of it is data, wherever it comes from: the keys by which Prefect knows its templates, variables and blocks
    (``__prefect_kind``, ``$ref``) are written as escapes (``\x5f_prefect_kind``, ``\x24ref``). A flow that needs a
    variable or a block gets it from its deployment's own parameters.

    Documents that are filled by name are shortened to what Prefect takes of parameters; see `shrink`.

    The schema (OpenAPI) is the deployment's, as Prefect keeps it, and so are the defaults.

    Raises
    ------
    SubmissionRefused
        If the flow requires a parameter that nothing fills, or an override names one that it does not have.
    """
    properties: Mapping[str, Any] = schema.get("properties", {})
    filled = _fill(submission, properties) if submission.parameters is None else {}
    parameters = {**filled, **(submission.parameters or {}), **submission.overrides}
    unknown = [name for name in submission.overrides if properties and name not in properties]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise SubmissionRefused(f"{submission.deployment} has no parameter {names}; it takes {', '.join(properties)}.")
    missing = [name for name in schema.get("required", ()) if name not in parameters and name not in defaults]
    if missing:
        raise SubmissionRefused(_explain(submission, missing))
    parameters = _as_data(parameters)
    shrink(parameters, filled.keys() - submission.overrides.keys())
    return parameters


def given_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a flow run without those that only its deployment can have set.

    What is given to a flow run is data, see `parameters_for`. So a block in it is its deployment's; given again, that
    would be data, and no block any more.
    """
    return {name: value for name, value in parameters.items() if not _is_more_than_data(value)}


def _is_more_than_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return not _PREFECTS_OWN.keys().isdisjoint(value) or any(map(_is_more_than_data, value.values()))
    return isinstance(value, list) and any(map(_is_more_than_data, value))


def _fill(submission: Submission, properties: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: _FILLS[name](submission) for name in properties if name in _FILLS}
    return {name: value for name, value in values.items() if value is not None and _takes(properties[name], value)}


def _as_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_PREFECTS_OWN.get(key, key): _as_data(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_data(item) for item in value]
    return value


def _takes(declared: Mapping[str, Any], value: Any) -> bool:
    """Tell whether a parameter of the `declared` schema may take `value`; a schema that does not say may."""
    if "anyOf" in declared:
        return any(_takes(choice, value) for choice in declared["anyOf"])
    wanted = declared.get("type")
    if wanted is None:
        return True
    if wanted == "number":
        return isinstance(value, int | float)
    return wanted == _JSON_TYPES.get(type(value))


def _explain(submission: Submission, missing: list[str]) -> str:
    names = ", ".join(missing)
    if submission.parameters is not None:
        return (
            f"{submission.deployment} requires {names}, which the workflow's parameters= does not give. "
            "Add it there, give the flow's parameter a default, or set it on the deployment."
        )
    return (
        f"{submission.deployment} requires {names}, which nothing fills. Known by name are {', '.join(FILLED_NAMES)}. "
        f"Give it with Workflow({submission.deployment!r}, parameters=lambda run: {{...}}), give the flow's parameter "
        "a default, or set it on the deployment."
    )
