"""A wrong argument is said in a line before there is a flow run."""

import pytest

from bluesky_prefect.core import FlowInputError
from bluesky_prefect.flows import checked_arguments, export, fun_fact, my_workflow


@pytest.mark.parametrize(
    ("flow", "arguments", "options", "said"),
    [
        (export, [], {}, "missing a required argument: 'ref'. It takes: ref, lat, lon, date"),
        (export, [-1], {"dat": 1}, "unexpected keyword argument 'dat'"),
        (export, [-1], {"lat": "north"}, "lat='north': Input should be a valid number"),
        (export, [-1], {"lat": 91}, "lat must be a number of degrees"),
        (export, [-1], {"timezone": "Mars/Olympus"}, "There is no time zone 'Mars/Olympus'"),
        (export, [-1], {"temperature_unit": "kelvin"}, "temperature_unit='kelvin': Input should be 'fahrenheit'"),
        (export, ["zzz"], {}, "'zzz' is too short for a partial uid"),
        (export, [1.5], {}, "ref=1.5"),
        (export, [-1], {"date": "tomorrow"}, "'tomorrow' is not a date"),
        (my_workflow, [-1], {"date": "tomorrow"}, "'tomorrow' is not a date"),
        (fun_fact, [1], {}, "It takes: no arguments"),
    ],
)
def test_an_argument_that_cannot_be_used_is_one_line(flow, arguments, options, said):
    with pytest.raises(FlowInputError) as caught:
        checked_arguments(flow, *arguments, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_arguments_come_by_name_with_their_defaults():
    given = checked_arguments(my_workflow, "12")
    assert given == {"ref": "12", "date": None, "dry_run": False}
