"""A call at a prompt: what is checked before it, and what is shown of its errors."""

import logging
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING

import pydantic
import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.utilities.callables import call_with_parameters

from bluesky_prefect.core import ConfigurationError, FlowInputError, Interrupted
from bluesky_prefect.flows.common._prompt_call import bound_arguments, shown_briefly

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Window(pydantic.BaseModel):
    width: float


def fit(ref: int | str, window: Window | None = None, mask: "NDArray[bool] | None" = None, **options: float):
    """A flow of somebody's, with what Python allows."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "fit: missing a required argument: 'ref'. It takes: ref, window, mask, options."),
        ({"ref": "abc"}, "'abc' is too short for a partial uid"),
        ({"ref": True, "options": 1}, "not by True"),
    ],
)
def test_what_no_flow_run_could_do_is_refused(arguments, said):
    with pytest.raises(FlowInputError) as caught:
        bound_arguments("fit", fit, **arguments)
    assert said in str(caught.value)


def test_types_that_prefect_alone_can_check_are_left_to_it():
    given = bound_arguments("fit", fit, 12, {"width": 2}, mask="none", weight=1.0)
    assert given == {"ref": 12, "window": {"width": 2}, "mask": "none", "options": {"weight": 1.0}}


def frames(error):
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_globals["__name__"]
        trace = trace.tb_next


def test_an_error_keeps_the_frames_of_people_alone():
    divide = partial(call_with_parameters, lambda number: 1 / number, {"number": 0})
    with pytest.raises(ZeroDivisionError) as caught:
        divide()
    assert len(set(frames(caught.value))) > 1
    with pytest.raises(ZeroDivisionError) as caught:
        shown_briefly(divide)
    assert set(frames(caught.value)) == {__name__}


@pytest.mark.parametrize(
    ("raised", "shown"), [(ConfigurationError("no list"), ConfigurationError), (KeyboardInterrupt(), Interrupted)]
)
def test_a_mistake_and_ctrl_c_have_no_chain(raised, shown):
    def call():
        try:
            raise ValueError("before")
        except ValueError as error:
            raise raised from error

    with pytest.raises(shown) as caught:
        shown_briefly(call)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_log_names_errors_of_flow_runs_without_their_traceback(caplog):
    def call():
        for name in ("prefect.flow_runs", "other"):
            try:
                raise ArithmeticError(name)
            except ArithmeticError:
                logging.getLogger(name).exception("in the block")

    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        shown_briefly(call)
        call()
    assert [(one.name, bool(one.exc_info)) for one in caplog.records] == [
        ("prefect.flow_runs", False),
        ("other", True),
        ("prefect.flow_runs", True),
        ("other", True),
    ]


def test_a_handler_after_the_console_has_the_traceback_all_the_same(tmp_path):
    said, root = StringIO(), logging.getLogger()
    handlers = [logging.StreamHandler(said), logging.FileHandler(tmp_path / "log")]

    def block():
        try:
            raise ValueError("no peak")
        except ValueError:
            logging.getLogger("prefect.engine").exception("in the block")

    for one in handlers:
        root.addHandler(one)
    try:
        shown_briefly(block)
    finally:
        for one in handlers:
            root.removeHandler(one)
            one.close()
    assert said.getvalue() == "in the block\n"
    assert "ValueError: no peak" in (tmp_path / "log").read_text()
