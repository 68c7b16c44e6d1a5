"""Export a run: a summary, its data as CSV and NeXus, plots, and the weather of its day."""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import get_client, get_run_logger, task
from prefect.artifacts import MarkdownArtifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from bluesky_prefect.core import (
    EXPORTED_FILES,
    PROVENANCE,
    MadeBy,
    Provenance,
    Settings,
    counted,
    exported_files_table,
    get_settings,
    one_line,
    run_name,
)
from bluesky_prefect.flows.common._artifacts import publish, publish_artifact, publish_table
from bluesky_prefect.flows.common._made_by import made_by_in_time
from bluesky_prefect.flows.common._plain_flow import gather_all, plain_flow
from bluesky_prefect.flows.common._progress import Progress
from bluesky_prefect.flows.export_parts._data_files import write_csv_files, write_nexus_file
from bluesky_prefect.flows.export_parts._provenance import provenance_lines, provenance_of
from bluesky_prefect.flows.export_parts._run_folder import PlannedFolder, RunFolder, start_day
from bluesky_prefect.flows.export_parts._run_page import run_page, run_title
from bluesky_prefect.flows.export_parts._statistics import column_statistics
from bluesky_prefect.flows.export_parts._summary import summary
from bluesky_prefect.flows.weather import _open_meteo as open_meteo
from bluesky_prefect.flows.weather._weather import (
    Question,
    format_weather,
    place_of,
    temperatures_path,
    write_temperatures,
)
from bluesky_prefect.tiled_api import Catalog, RunData, checked_ref

# With what else is on it, the page of a run in Prefect's UI stays below 100 kB.
MAX_PICTURES_BYTES = 80_000
MAX_PLOT_BYTES = 36_000  # beside images

# See `open_meteo.parse`; or why there is none; or None, if nobody asks.
Weather = dict[str, Any] | str | None


@task(name="get_tiled_data", cache_policy=NO_CACHE)
async def get_tiled_data(ref: int | str, catalog: Catalog, timeout_s: float) -> RunData:
    """Wait until a run is finished, then read it from Tiled."""
    return await catalog.read_run(ref, timeout_s=timeout_s)


@task(name="save_temp_plot", cache_policy=NO_CACHE)
async def save_temp_plot(weather: dict[str, Any], folder: RunFolder) -> None:
    """Draw the temperatures of a day into a file."""
    from bluesky_prefect.flows.export_parts._plots import temperature_plot

    folder.write("_temperature.png", await asyncio.to_thread(temperature_plot, weather))


@task(name="write_data_to_tiled", cache_policy=NO_CACHE)
async def write_data_to_tiled(catalog: Catalog, run: RunData, weather: dict[str, Any], maker: MadeBy | None) -> str:
    """Write the temperatures of a run's day to Tiled, in place of earlier ones; return their path there."""
    return await asyncio.to_thread(write_temperatures, catalog, run, weather, maker)


@plain_flow(name="export", log_prints=True)
async def export(
    ref: int | str,
    lat: float | None = None,
    lon: float | None = None,
    date: str | None = None,
    timezone: str | None = None,
    temperature_unit: open_meteo.TemperatureUnit = "fahrenheit",
    dry_run: bool = False,
) -> State[Any]:
    """Write a run's summary, data and plots to a folder of its own, and the weather of its day to Tiled.

    Doing it again for the same run writes the same files again and replaces what is in Tiled.

    Parameters
    ----------
    ref : int or str
        The run: scan id, negative index (-1 is the newest run), full or partial uid.
    lat, lon : float
        Where to ask for the weather, in degrees; as the settings say (``WEATHER_LATITUDE``) if not given.
    date : str, optional
        The day to ask for, as ``YYYY-MM-DD``; the run's own start day in `timezone` if not given.
    timezone : str
        Name of the time zone of all times and dates, the one in the folder's name included; as the settings say if
        not given.
    temperature_unit : str
        ``fahrenheit`` or ``celsius``.
    dry_run : bool
        Only say what would be written, and where.

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
    settings = get_settings()
    place = place_of(settings, lat, lon, timezone, temperature_unit)
    day = None if date is None else open_meteo.checked_date(date)
    checked_ref(ref)

    async with Progress("export-progress") as progress:
        with await asyncio.to_thread(Catalog.connect, settings) as catalog:
            run = await get_tiled_data(ref, catalog, settings.stop_timeout_s)
            progress.percent = 40.0
            if dry_run:
                return await _plan(run, catalog, place, settings, progress)
            folder = RunFolder.of(run, place.zone, settings)
            # The files are written while the weather service is asked, then more of them while Tiled writes.
            question = Question(place, day or start_day(run, place.zone), settings)
            drawn, weather, maker = await gather_all(
                _write_data(run, catalog, folder, settings, progress, question),
                _weather(run, question, settings),
                _flow_run_of(run),
            )
            warnings = [*run.problems, *drawn.problems]
            for warning in warnings:
                get_run_logger().warning("Run %s: %s", one_line(run.uid), one_line(warning))
            page = catalog.page_of(run.path)
            await gather_all(
                _write_summary(run, folder, place, weather, drawn, page, warnings, provenance_of(run, maker)),
                _write_temperatures(catalog, run, weather, maker),
            )
    print(f"Wrote {counted(len(folder.files), 'file')} to {folder.path}")
    message = f"scan {run.start.get('scan_id', '?')} {run.start.get('plan_name', '?')}: {counted(run.points, 'point')}"
    message = f"{one_line(message, 200)}, {counted(len(folder.files), 'file')}"
    if warnings:
        message = one_line(f"{message}, {counted(len(warnings), 'warning')}: {warnings[0]}", 1000)
    return Completed(message=message, data=str(folder.path))


async def _plan(
    run: RunData, catalog: Catalog, place: open_meteo.Place, settings: Settings, progress: Progress
) -> State[Any]:
    """Say what an export would write."""
    folder = PlannedFolder.of(run, place.zone, settings)
    drawn = await asyncio.to_thread(_write_files, run, catalog, folder, settings, progress)
    paths = [*folder.files, folder.file(".txt"), folder.path / PROVENANCE]
    for path in paths:
        print(f"Would {'replace' if path.exists() else 'write'} {path}")
    if settings.weather:
        print(f"With the weather: {folder.file('_temperature.png')}, and {temperatures_path(settings, run)} in Tiled")
    for warning in [*run.problems, *drawn.problems]:
        get_run_logger().warning("Run %s: %s", one_line(run.uid), one_line(warning))
    message = one_line(f"{run.label}: would write {counted(len(paths), 'file')} to {folder.path}", 1000)
    return Completed(message=message, data=str(folder.path))


@dataclass(frozen=True)
class _Drawn:
    """The pictures of a run, and what could not be drawn."""

    plot: bytes
    images: bytes
    problems: list[str]

    def addresses(self) -> dict[str, str | None]:
        """Return what the page shows of them, see `run_title`."""
        from bluesky_prefect.flows.export_parts._data_address import data_address

        plot_bytes = MAX_PLOT_BYTES if self.images else MAX_PICTURES_BYTES
        left = MAX_PICTURES_BYTES - len(plot := data_address(self.plot, plot_bytes))
        images = data_address(self.images, left, has_images=True) if self.images else None
        return {"the run, plotted": plot, "its images": images}


async def _write_data(
    run: RunData, catalog: Catalog, folder: RunFolder, settings: Settings, progress: Progress, question: Question
) -> _Drawn:
    """Write a run's streams and their pictures; nobody waits for a service that is away after that."""
    try:
        return await asyncio.to_thread(_write_files, run, catalog, folder, settings, progress)
    finally:
        question.hurry()


def _write_files(run: RunData, catalog: Catalog, folder: RunFolder, settings: Settings, progress: Progress) -> _Drawn:
    from bluesky_prefect.flows.export_parts._pictures import draw_pictures
    from bluesky_prefect.flows.export_parts._plots import run_plot

    write_csv_files(run, folder, settings, progress, upto=60.0)
    run.read_over(catalog)
    pictures = draw_pictures(run)
    if pictures.png:
        folder.write("_images.png", pictures.png)
    else:
        folder.remove("_images.png")
    progress.percent = 75.0
    plot = run_plot(run, pictures.sums)
    folder.write("_plot.png", plot)
    # After all else: whatever may be wrong with it costs nothing of that.
    write_nexus_file(run, catalog, folder, settings, progress, upto=90.0)
    progress.percent = 90.0
    return _Drawn(plot, pictures.png, pictures.problems)


async def _weather(run: RunData, question: Question, settings: Settings) -> Weather:
    """Return the weather of a day, or why there is none; None if the settings switch it off."""
    if not settings.weather:
        return None
    weather = await question.answer()
    if isinstance(weather, str):
        get_run_logger().info("No weather for run %s: %s", one_line(run.uid), weather)
    return weather


async def _flow_run_of(run: RunData) -> MadeBy | None:
    """Have people find the flow run by what they know of the run; return what the files are to say of it."""
    await _name_flow_run(run)
    return await made_by_in_time()


async def _name_flow_run(run: RunData) -> None:
    """Have people find the flow run by what they know of the run."""
    name = f"{run_name(run.start.get('scan_id'), run.start.get('plan_name'), run.uid)}-export"
    if flow_run.get_name() == name:
        return
    async with get_client() as client:
        await publish_artifact(client.set_flow_run_name(UUID(flow_run.get_id()), name), "name of the flow run")


async def _write_summary(
    run: RunData,
    folder: RunFolder,
    place: open_meteo.Place,
    weather: Weather,
    drawn: _Drawn,
    page: str,
    warnings: list[str],
    provenance: Provenance,
) -> None:
    """Write what is about all the rest: the summary comes last, so that where it is, all is; then the artifacts."""
    if isinstance(weather, dict):
        block = await format_weather(weather)
        await save_temp_plot(weather, folder)
    else:
        block = f"not available: {weather}" if weather else ""
        # An earlier export may have had weather; its picture must not stand beside a summary that has none.
        folder.remove("_temperature.png")
    names = [path.name for path in folder.files]
    words = summary(run, block, place.zone, names, warnings, provenance_lines(provenance)).encode()
    await asyncio.to_thread(folder.write_provenance, provenance, txt=words)
    folder.write(".txt", words)
    pictures = await asyncio.to_thread(drawn.addresses)
    text = run_page(run, weather=weather, zone=place.zone, files=folder.files, tiled=page, warnings=warnings)
    about = run_title(run)
    columns = await asyncio.to_thread(column_statistics, run)
    files = exported_files_table(folder.files)
    await gather_all(
        publish(MarkdownArtifact(markdown=text, key="run-summary", description=run_title(run, pictures))),
        publish_table(columns, "run-columns", about),
        publish_table(files, EXPORTED_FILES, about),
    )


async def _write_temperatures(catalog: Catalog, run: RunData, weather: Weather, maker: MadeBy | None) -> None:
    if isinstance(weather, dict):
        path = await write_data_to_tiled(catalog, run, weather, maker)
        print(f"Wrote the temperatures to {one_line(path)} in Tiled")
