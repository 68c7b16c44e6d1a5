"""All settings."""

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import platformdirs
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from bluesky_prefect.core._exceptions import ConfigurationError

Port = Annotated[int, Field(ge=0, le=65535)]
# Of these an empty variable is a value.
_MAY_BE_EMPTY = ("export_formats",)


def _whole(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"nobody knows the home directory in it ({error})") from error


def _whole_place(where: str) -> str:
    path, _, attribute = where.rpartition(":")
    return f"{_whole(Path(path))}:{attribute}" if path.endswith(".py") else where


def _octal(owners: int) -> BeforeValidator:
    """Read a mode in octal digits that gives its owner these rights at least."""

    def read(mode: Any) -> Any:
        try:
            number = int(mode, 8) if isinstance(mode, str) else mode
        except ValueError:
            number = 0
        if isinstance(number, int) and number & owners != owners:
            raise ValueError(
                "it has to be octal digits that let the owner in, such as 2770 of folders and 0640 of files"
            )
        return number

    return BeforeValidator(read)


def _separate(names: Any) -> Any:
    return [name for name in names.split(os.pathsep) if name] if isinstance(names, str) else names


def _listed(names: Any) -> Any:
    return [name.strip().lower() for name in names.split(",") if name.strip()] if isinstance(names, str) else names


def _mapping(text: Any) -> Any:
    try:
        return json.loads(text or "{}") if isinstance(text, str) else text
    except ValueError:
        raise ValueError('it has to be written as JSON, such as {"/data/": "/nsls2/data/"}') from None


# Where there is no beamline.
_LOCAL = "local"
# Taken as it is meant where the settings are read: a session that changes its working directory keeps its files.
AbsolutePath = Annotated[Path, AfterValidator(_whole)]


def default_state_directory() -> Path:
    """Return the user's own state directory, where none is set."""
    return platformdirs.user_state_path("bluesky-prefect")


def _not_local(name: str) -> str:
    if name == _LOCAL:
        raise ValueError("deployments of local stacks are called so: choose another name")
    return name


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError("there is no such time zone: write it as Europe/Berlin") from error
    return name


class Settings(BaseSettings):
    """Settings of bluesky-prefect, read from ``BLUESKY_PREFECT_<NAME>`` environment variables.

    An empty variable counts as not set, but for ``export_formats``. Prefect's own settings (``PREFECT_API_URL``,
    ``PREFECT_API_AUTH_STRING``, profiles) stay Prefect's: they are not repeated here.

    Raises
    ------
    pydantic.ValidationError
        If a value cannot be parsed or lies outside its bounds.
    """

    model_config = SettingsConfigDict(env_prefix="BLUESKY_PREFECT_", env_ignore_empty=True, extra="forbid", frozen=True)

    state_directory: AbsolutePath = Field(
        default_factory=default_state_directory,
        validate_default=True,
        description="Where the outbox and the local stack keep their files. A relative path counts from where the "
        "process starts.",
    )

    beamline: Annotated[str, AfterValidator(_not_local)] | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        max_length=40,
        description="Short name of the beamline, such as 'tst', where several use one Prefect and one Tiled: its "
        "deployments, its work pool, its containers and the tag of its flow runs are called after it.",
    )

    # Not set by default: on the runs of a beamline with a list of its own, any other list starts everything again.
    workflows: Annotated[str, AfterValidator(_whole_place)] | None = Field(
        default=None,
        pattern=r"^([\w.]+|.+\.py):\w+$",
        description="Where the beamline's list of workflows is, as 'module:attribute' or '/path/to/file.py:attribute': "
        "what a run should have had. Sessions follow a file that changes.",
    )

    # The forwarder.
    request_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=300,
        description="How long one request to Prefect may take before it counts as an outage.",
    )
    # Short, for a Prefect server on SQLite that answers 503 for a moment; the waits double anyway.
    retry_initial_s: float = Field(
        default=0.25, gt=0, le=60, description="First wait after an outage; doubles each time."
    )
    retry_max_s: float = Field(default=60.0, gt=0, le=3600, description="Longest wait between two tries in an outage.")
    missing_deployment_retry_s: float = Field(
        default=60.0, gt=0, le=3600, description="Wait between two tries while Prefect does not know the deployment."
    )
    # As `settle_s`: by then a run has its flow runs, unless something is away. A server that restarts, or a RunEngine
    # that goes on meanwhile, makes no backlog.
    live_within_s: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="What has waited longer for Tiled or Prefect is sent to the work queue 'backlog', the rest to "
        "'live', which goes first.",
    )
    lease_s: float = Field(
        default=120.0,
        ge=1,
        le=3600,
        description="After this time a submission that another process has taken, and not sent, is free again; at once "
        "if that was a process of this machine and is dead.",
    )
    keep_sent_days: float = Field(
        default=30.0, gt=0, description="Sent submissions are deleted from the outbox after this."
    )

    # The courier, which takes journals to Tiled.
    keep_journals_days: float = Field(
        default=1.0, ge=0, description="Journals of runs that Tiled has are deleted after this."
    )
    start_courier: bool = Field(default=True, description="Whether a session that finds no courier at work starts one.")

    # What Prometheus may ask a courier or a listener.
    metrics_port: Port | None = Field(
        default=None,
        description="Port at which a courier or a listener serves its metrics and its health; 0 takes any free one. "
        "If it is not set, nothing is served.",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address at which metrics are served; 0.0.0.0 for all of this machine's. Whoever reaches it may "
        "read them.",
    )

    log_format: Literal["text", "json"] = Field(
        default="text",
        description="How a courier or a listener writes its log: 'text', or 'json', an object a line.",
    )

    delivery_timeout_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="How long 'raw' and the flows called at the prompt wait until Tiled has the run just taken.",
    )

    tell_of_started_flows: bool = Field(
        default=True, description="Whether IPython says, before the next prompt, which flows a run starts, with a link."
    )

    # Other sources of runs than a RunEngine.
    listen_every_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="How often 'listen tiled' looks for runs that have stopped; a tenth as often while Tiled's stream "
        "tells of them.",
    )

    # Reconciliation: Tiled's runs compared with Prefect's flow runs.
    settle_s: float = Field(
        default=60.0, ge=0, le=3600, description="A run that stopped less than this ago may still be on its way."
    )
    stuck_after_s: float = Field(
        default=600.0, gt=0, description="A flow run that waits longer than this for a worker is told of."
    )
    heartbeat_timeout_s: float = Field(
        default=600.0,
        gt=0,
        description="A flow run that gave no sign of life for this long counts as crashed; "
        "Prefect's own heartbeats come every 180 s.",
    )
    open_after_s: float = Field(
        default=6 * 3600.0, gt=0, description="A run without a stop document counts as lost after this."
    )
    max_reruns: int = Field(
        default=5, ge=0, le=100, description="How often a workflow that crashed or failed is started again by itself."
    )
    rerun_backoff_s: float = Field(
        default=300.0,
        ge=0,
        description="Wait before the second rerun; four times as long before each one after it.",
    )
    rerun_failed: bool = Field(
        default=True, description="Whether flow runs that failed are started again too, not only those that crashed."
    )
    flow_runs_kept_days: float | None = Field(
        default=None,
        gt=0,
        description="After how many days flow runs are deleted in Prefect, if something else does that than its own "
        "vacuum, of which its server tells: reconciliation starts nothing on older runs.",
    )
    reconcile_every_s: float = Field(
        default=300.0, ge=10, le=86400, description="How often the local stack reconciles the last 24 hours."
    )

    # Tiled, as the flows see it.
    tiled_uri: str | None = Field(default=None, description="Address of the Tiled server.")
    tiled_profile: str | None = Field(
        default=None, description="Name of a Tiled client profile; used if no URI is set."
    )
    tiled_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("BLUESKY_PREFECT_TILED_API_KEY", "TILED_API_KEY", "tiled_api_key"),
        description="API key of the Tiled server.",
    )
    tiled_api_key_block: str | None = Field(
        default=None, description="Name of the Prefect Secret block that holds the API key; used if no key is set."
    )
    raw_container: str = Field(
        default="raw",
        description="Path in Tiled of the catalog of Bluesky runs; '<beamline>/raw' if there is a beamline.",
    )
    processed_container: str = Field(
        default="processed",
        description="Path in Tiled that results are written to; '<beamline>/processed' if there is a beamline.",
    )
    stop_timeout_s: float = Field(
        default=30.0, ge=0, le=3600, description="How long a flow waits for the run's stop document to be in Tiled."
    )

    files_timeout_s: float = Field(
        default=10.0, ge=0, le=3600, description="How long a flow waits for files of detectors that are late."
    )

    # What the export flow writes, and where from.
    output_directory: AbsolutePath | None = Field(
        default=None, description="Where exported files go; <state_directory>/exports if not set."
    )
    folder_template: str = Field(
        default="{date}/scan_{scan_id}_{plan_name}_{short_uid}",
        description="Folder of a run below the output directory, over the run's start document and "
        "date, short_uid; always made unique per run uid.",
    )
    file_template: str = Field(
        default="scan_{scan_id}_{plan_name}", description="Stem of a run's file names, over the same fields."
    )
    export_formats: Annotated[tuple[Literal["csv", "nexus"], ...], NoDecode, BeforeValidator(_listed)] = Field(
        default=("csv", "nexus"),
        description="Formats that an export writes a run's data in, separated by commas; none if empty.",
    )
    export_path_map: Annotated[dict[str, str], NoDecode, BeforeValidator(_mapping)] = Field(
        default={},
        description="Beginnings of paths of detectors' files, each with what stands in its place where exported NeXus "
        "files are read, as JSON.",
    )
    export_group: str | None = Field(
        default=None,
        min_length=1,
        description="Group of exported files and folders, by name or number, over the same fields, such as "
        "'{data_session}'; that of the folder or the process if not set.",
    )
    export_directory_mode: Annotated[int, Field(ge=0, le=0o7777), _octal(0o700)] | None = Field(
        default=None,
        description="Mode of folders that an export makes, in octal digits, such as 2770; the umask's if not set.",
    )
    export_file_mode: Annotated[int, Field(ge=0, le=0o777), _octal(0o600)] | None = Field(
        default=None, description="Mode of exported files, in octal digits, such as 0640; the umask's if not set."
    )
    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        default="America/New_York", description="Time zone of all times in exported files and their names."
    )
    weather: bool = Field(
        default=True, description="Whether an export asks for the weather; if not, nothing is said of it."
    )
    weather_latitude: float = Field(
        default=40.86, ge=-90, le=90, description="Where to ask for the weather, in degrees, north is positive."
    )
    weather_longitude: float = Field(
        default=-72.87, ge=-180, le=180, description="Where to ask for the weather, in degrees, east is positive."
    )
    weather_place: str = Field(default="Upton, New York", description="What people call that place.")
    cat_fact: bool = Field(
        default=True, description="Whether my-workflow asks for a fun fact; if not, nothing is said of it."
    )
    weather_archive_url: str = Field(
        default="https://archive-api.open-meteo.com/v1/archive", description="Open-Meteo's archive API."
    )
    weather_forecast_url: str = Field(
        default="https://api.open-meteo.com/v1/forecast", description="Open-Meteo's forecast API."
    )
    cat_fact_url: str = Field(default="https://catfact.ninja/fact", description="Where fun_fact asks.")
    weather_timeout_s: float = Field(
        default=1.8,
        gt=0,
        le=60,
        description="All that the weather service may cost a run, name look-ups and retries included.",
    )
    cat_fact_timeout_s: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="All that the fact service may cost a run, name look-ups and retries included.",
    )

    # The local stack.
    tiled_port: Port = Field(default=8000, description="Port of the local stack's Tiled server; 0 takes any free one.")
    prefect_port: Port = Field(
        default=4200, description="Port of the local stack's Prefect server; 0 takes any free one."
    )
    work_pool: str = Field(
        default="bluesky-local",
        description="Work pool of the local stack, and of 'deploy'; 'bluesky-<beamline>' if there is a beamline.",
    )
    worker_type: Literal["warm-process", "process"] = Field(
        default="warm-process",
        description="Type of the local stack's worker: 'warm-process' forks flow runs from a process that has imported "
        "what they need; 'process' is Prefect's own, which starts an interpreter for each.",
    )
    worker_limit: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Flow runs at once in the local stack.",
    )
    prefect_database_url: SecretStr | None = Field(
        default=None,
        description="Database of the local stack's Prefect server, as postgresql+asyncpg://user@host/database, or "
        "'sqlite'; if not set, the one of the last start, and SQLite at first.",
    )
    readable: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_separate)] = Field(
        default=(),
        description="Directories of detectors' files that the local stack's Tiled server may read, besides its own and "
        "those of earlier starts; whole paths, separated by colons. 'none' stands for forgetting those before it.",
    )

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Any, env_settings: Any, *_: Any, **__: Any
    ) -> tuple[Any, ...]:
        """Return where values come from, first those that win."""

        def empty() -> dict[str, Any]:
            found = EnvSettingsSource(settings_cls, env_ignore_empty=False)()
            return {name: value for name, value in found.items() if name in _MAY_BE_EMPTY}

        return init_settings, env_settings, empty

    @model_validator(mode="before")
    @classmethod
    def _called_after_the_beamline(cls, values: Any) -> Any:
        """Fill in what is called after the beamline, unless it is given."""
        if not isinstance(values, dict) or not (beamline := values.get("beamline")):
            return values
        return {
            "raw_container": f"{beamline}/raw",
            "processed_container": f"{beamline}/processed",
            "work_pool": f"bluesky-{beamline}",
            **values,
        }

    @property
    def deployment_name(self) -> str:
        """Name of this beamline's deployments, such as ``tst`` in ``my-workflow/tst``."""
        return self.beamline or _LOCAL

    @property
    def outbox_path(self) -> Path:
        """Path of the outbox file."""
        return self.state_directory / "outbox.sqlite"

    @property
    def readable_path(self) -> Path:
        """Path of the file that says what the local stack's Tiled server may read."""
        return self.state_directory / "tiled-readable.json"

    @property
    def metadata_path(self) -> Path:
        """Path of the file with a session's metadata, and the scan id that was drawn last."""
        return self.state_directory / "metadata.sqlite"

    @property
    def unsaved_runs_path(self) -> Path:
        """Directory in which earlier versions kept runs that Tiled did not take."""
        return self.state_directory / "unsaved-runs"

    @property
    def journals_path(self) -> Path:
        """Directory of runs that are on their way to Tiled."""
        return self.state_directory / "journals"

    @property
    def exports_path(self) -> Path:
        """Directory that exported files go to."""
        return self.output_directory or self.state_directory / "exports"


def variable_text(name: str, value: Any) -> str:
    """Return a setting's value, as JSON has it, in the words of its environment variable."""
    if name in ("export_directory_mode", "export_file_mode"):
        return f"{value:o}"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def checked_settings(**given: Any) -> Settings:
    """Return the settings, with those that are given in place of the environment's.

    Raises
    ------
    ConfigurationError
        If one cannot be used, in a line.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        # Not the error's own text: it would show the value, which may be a secret.
        causes = "; ".join(f"{name}: {message}" for name, message in setting_problems(error).items())
        raise ConfigurationError(f"A setting cannot be used: {causes}.") from None


def setting_problems(error: ValidationError) -> dict[str, str]:
    """Return what is wrong with which settings, by the names of their environment variables; without their values."""
    return {f"BLUESKY_PREFECT_{one['loc'][0]}".upper(): _explained(one) for one in error.errors() if one["loc"]}


def _explained(problem: Mapping[str, Any]) -> str:
    if problem["loc"][0] == "workflows" and problem["type"] == "string_pattern_mismatch":
        return "it has to be written as module:attribute, such as my_beamline.workflows:workflows"
    if problem["loc"][0] == "beamline" and problem["type"] == "string_pattern_mismatch":
        return "it has to be small letters, digits and hyphens, such as tst, with no hyphen in front"
    return str(problem["msg"])


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, read from the environment on first use.

    Raises
    ------
    ConfigurationError
        If one cannot be used.
    """
    return checked_settings()
