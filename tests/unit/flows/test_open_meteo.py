"""Questions and answers, as Open-Meteo documents them."""

import copy
import datetime

import pytest

from bluesky_prefect.core import FlowInputError, ServiceUnavailable
from bluesky_prefect.flows.weather._open_meteo import checked_date, checked_place, is_archived, known, parse, query
from tests.services.outside import _weather

DAY = datetime.date(2026, 5, 1)
PLACE = checked_place(40.86, -72.87, "America/New_York", "fahrenheit")
SOURCE = "https://archive-api.open-meteo.com/v1/archive"


@pytest.fixture
def answer():
    return copy.deepcopy(_weather("/", {name: str(value) for name, value in query(PLACE, DAY).items()}))


def test_the_question_is_what_the_api_takes():
    assert query(PLACE, DAY) == {
        "latitude": 40.86,
        "longitude": -72.87,
        "start_date": "2026-05-01",
        "end_date": "2026-05-01",
        "hourly": "temperature_2m",
        "daily": "sunrise,sunset",
        "timezone": "America/New_York",
        "temperature_unit": "fahrenheit",
    }


def test_the_answer_becomes_plain_data(answer):
    weather = parse(answer, PLACE, DAY, SOURCE)
    assert weather["hours"][5] == "2026-05-01T05:00"
    assert weather["temperatures"] == [50.0 + hour for hour in range(24)]
    assert (weather["sunrise"], weather["sunset"]) == ("2026-05-01T05:43", "2026-05-01T19:51")
    # The place is the one asked about, not the grid cell's.
    assert (weather["latitude"], weather["longitude"], weather["symbol"]) == (40.86, -72.87, "°F")
    assert weather["source"] == SOURCE


def test_hours_without_a_temperature_are_kept_but_not_counted(answer):
    answer["hourly"]["temperature_2m"][3] = None
    weather = parse(answer, PLACE, DAY, SOURCE)
    assert weather["temperatures"][3] is None
    assert len(known(weather)) == 23


def test_a_day_without_temperatures_has_no_weather(answer):
    answer["hourly"]["temperature_2m"] = [None] * 24
    with pytest.raises(ServiceUnavailable, match="no temperatures for 2026-05-01"):
        parse(answer, PLACE, DAY, SOURCE)


@pytest.mark.parametrize("sunrise", [None, "1970-01-01T00:00", "soon"])
def test_a_day_without_a_sunrise_says_none(answer, sunrise):
    answer["daily"]["sunrise"] = [sunrise]
    assert parse(answer, PLACE, DAY, SOURCE)["sunrise"] is None


@pytest.mark.parametrize("garbage", [None, [], "weather", 5, {}, {"hourly": None}, {"error": True, "reason": "no"}])
def test_anything_else_is_no_answer(garbage):
    with pytest.raises(ServiceUnavailable, match="not understood"):
        parse(garbage, PLACE, DAY, SOURCE)


def test_an_answer_in_another_unit_or_about_another_day_is_refused(answer):
    with pytest.raises(ServiceUnavailable, match="°F, not °C"):
        parse(answer, checked_place(1, 2, "UTC", "celsius"), DAY, SOURCE)
    with pytest.raises(ServiceUnavailable, match="not about the hours of 2026-05-02"):
        parse(answer, PLACE, DAY + datetime.timedelta(days=1), SOURCE)


def test_hours_and_temperatures_must_match(answer):
    answer["hourly"]["temperature_2m"].pop()
    with pytest.raises(ServiceUnavailable, match="not about the hours"):
        parse(answer, PLACE, DAY, SOURCE)


@pytest.mark.parametrize(("days", "archived"), [(-2, False), (0, False), (5, False), (6, True), (4000, True)])
def test_the_archive_is_asked_about_days_more_than_five_days_back(days, archived):
    assert is_archived(DAY - datetime.timedelta(days=days), DAY) is archived


def test_dates_are_read():
    assert checked_date(" 2026-05-01 ") == DAY


@pytest.mark.parametrize("date", ["2026-13-01", "yesterday", "", "01/05/2026", "2026-05-01T00:00", 5, "2026-02-30\n"])
def test_what_is_no_date_is_a_clear_error(date):
    with pytest.raises(FlowInputError, match="is not a date: write it as YYYY-MM-DD"):
        checked_date(date)


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "", "../../etc/passwd", "America", "\0", "x" * 5000])
def test_what_is_no_time_zone_is_a_clear_error(timezone):
    with pytest.raises(FlowInputError, match="There is no time zone"):
        checked_place(0, 0, timezone, "celsius")


@pytest.mark.parametrize(("lat", "lon"), [(91, 0), (0, -181), (float("nan"), 0), ("40", 0), (True, 0)])
def test_what_is_no_place_is_a_clear_error(lat, lon):
    with pytest.raises(FlowInputError, match="must be a number of degrees"):
        checked_place(lat, lon, "UTC", "celsius")


@pytest.mark.parametrize("name", ["", "Garching"])
def test_a_place_has_its_name(name):
    assert checked_place(48.15, 11.58, "Europe/Berlin", "celsius", name).name == name


def test_what_is_no_unit_is_a_clear_error():
    with pytest.raises(FlowInputError, match="temperature_unit must be"):
        checked_place(0, 0, "UTC", "kelvin")
