"""Export a run: a summary, its data as CSV, plots, and the weather of its day."""

import datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from bluesky_prefect.flows import open_meteo
from bluesky_prefect.flows.catalog import Catalog
from bluesky_prefect.flows.exported_files import note_files
from bluesky_prefect.flows.files import claim_folder, remove, whole_file, write_whole
from bluesky_prefect.flows.naming import distinct, names_the_run, render
from bluesky_prefect.flows.references import checked_ref
from bluesky_prefect.flows.streams import Run, read_run
from bluesky_prefect.flows.summary import summary
from bluesky_prefect.flows.tables import write_csv
from bluesky_prefect.flows.weather import format_weather, weather_of
from bluesky_prefect.settings import Settings, get_settings
from bluesky_prefect.texts import is_number, one_line


@task(name="get_tiled_data", cache_policy=NO_CACHE)
def get_tiled_data(ref: int | str) -> Run:
    """Wait until a run is finished, then read it from Tiled."""
    settings = get_settings()
    with Catalog.connect(settings) as catalog:
        return read_run(catalog.finished_run(ref, timeout_s=settings.stop_timeout_s), catalog.name)


@task(name="save_temp_plot", cache_policy=NO_CACHE)
def save_temp_plot(weather: dict[str, Any], path: Path) -> None:
    """Draw the temperatures of a day into a file."""
    from bluesky_prefect.flows.plots import temperature_plot

    write_whole(path, temperature_plot(weather))


@task(name="write_data_to_tiled", cache_policy=NO_CACHE)
def write_data_to_tiled(run: dict[str, Any], weather: dict[str, Any]) -> str:
    """Write the temperatures of a run's day to Tiled, in place of earlier ones; return their path there."""
    from bluesky_prefect.flows.results import metadata_of, write_temperatures

    with Catalog.connect(get_settings()) as catalog:
        return write_temperatures(catalog, metadata_of(run, weather), weather)


@flow(name="export", log_prints=True)
def export(
    ref: int | str,
    lat: float = 40.86,
    lon: float = -72.87,
    date: str | None = None,
    timezone: str = "America/New_York",
    temperature_unit: open_meteo.TemperatureUnit = "fahrenheit",
) -> State[Any]:
    """Write a run's summary, data and plots to a folder of its own, and the weather of its day to Tiled.

    Doing it again for the same run writes the same files again and replaces what is in Tiled.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.
    lat, lon : float
        Where to ask for the weather, in degrees; the default is Upton, New York.
    date : str, optional
        The day to ask for, as ``YYYY-MM-DD``; the run's own start day in `timezone` if not given.
    timezone : str
        Name of the time zone of all times and dates, the one in the folder's name included.
    temperature_unit : str
        ``fahrenheit`` or ``celsius``.

    Returns
    -------
    str
        The folder.

    Raises
    ------
    FlowInputError
        If an argument cannot be used; before any work.
    RunNotFound, RunIncomplete
        If Tiled has no such run, or not its end.
    """
    place = open_meteo.checked_place(lat, lon, timezone, temperature_unit)
    day = None if date is None else open_meteo.checked_date(date)
    checked_ref(ref)
    settings = get_settings()

    run = get_tiled_data(ref)
    weather = weather_of(
        place,
        day or start_day(run, place),
        archive_url=settings.weather_archive_url,
        forecast_url=settings.weather_forecast_url,
        timeout_s=settings.weather_timeout_s,
    )
    if isinstance(weather, str):
        get_run_logger().warning("No weather for run %s: %s", one_line(run.uid), weather)
    folder, files = _write_files(run, place, weather, settings)
    note_files(folder / name for name in files)
    print(f"Wrote {len(files)} files to {folder}")
    message = f"{one_line(f'{run.label}, run {run.uid[:8]}')}: {len(files)} files in {folder}"
    if isinstance(weather, str):
        message += f"; no weather: {weather}"
    else:
        path = write_data_to_tiled(_identity(run), weather)
        print(f"Wrote the temperatures to {one_line(path)} in Tiled")
    return Completed(message=message, data=str(folder))


def start_day(run: Run, place: open_meteo.Place) -> datetime.date:
    """Return the local day on which a run started."""
    time_s = run.start.get("time")
    moment = float(time_s) if is_number(time_s) else 0.0  # bluesky's schema requires it; a run without is dated 1970
    return datetime.datetime.fromtimestamp(moment, place.zone).date()


def _write_files(
    run: Run, place: open_meteo.Place, weather: dict[str, Any] | str, settings: Settings
) -> tuple[Path, list[str]]:
    """Write everything; the summary comes last, so that where it is, all is."""
    from bluesky_prefect.flows.plots import run_plot

    fields = {**run.start, "date": start_day(run, place).isoformat(), "short_uid": run.uid[:8]}
    template = settings.folder_template
    if not names_the_run(template):
        template = f"{template.rstrip('/')}_{{short_uid}}"
    folder = claim_folder(settings.exports_path, render(template, fields), run.uid)
    stem = render(settings.file_template.replace("/", "_"), fields).name

    files: list[str] = []
    for stream, safe in zip(run.streams, distinct([stream.name for stream in run.streams]).values(), strict=True):
        files.append(f"{stem}_{safe}.csv")
        with whole_file(folder / files[-1]) as file:
            write_csv(stream, file)
    files.append(f"{stem}_plot.png")
    write_whole(folder / files[-1], run_plot(run))
    temperatures = f"{stem}_temperature.png"
    if isinstance(weather, str):
        block = f"not available: {weather}"
        # An earlier export may have had weather; its picture must not stand beside a summary that has none.
        remove(folder / temperatures)
    else:
        block = format_weather(weather)
        files.append(temperatures)
        save_temp_plot(weather, folder / temperatures)
    write_whole(folder / f"{stem}.txt", summary(run, block, place.zone, files).encode())
    return folder, [f"{stem}.txt", *files]


def _identity(run: Run) -> dict[str, Any]:
    return {"uid": run.uid, "scan_id": run.start.get("scan_id"), "plan_name": run.start.get("plan_name", "")}
