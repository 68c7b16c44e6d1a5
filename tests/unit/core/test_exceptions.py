"""Errors survive their way between processes."""

import copy
import inspect
import pickle

import pytest

from bluesky_prefect.core import BlueskyPrefectError, FlowFailed, _exceptions

CLASSES = [
    one
    for _, one in inspect.getmembers(_exceptions, inspect.isclass)
    if issubclass(one, BlueskyPrefectError) and one is not FlowFailed
]
ERRORS = [one("what, why") for one in CLASSES] + [FlowFailed("why", run_uid="u", state="Failed", flow_run_id="f")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_pickling_and_copying(error):
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert vars(other) == vars(error)
