"""The commands that start workflows on the runs of other sources than a RunEngine of this process."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import typer

from bluesky_prefect.cli._options import StateDirectory, Workflows, settings_from
from bluesky_prefect.cli._service_log import log_to_standard_error
from bluesky_prefect.core import ConfigurationError, Settings

if TYPE_CHECKING:
    from bluesky_prefect.callback import PrefectCallback
    from bluesky_prefect.metrics import Signals

app = typer.Typer(
    help="Start workflows on runs that Tiled, Kafka or 0MQ tell of, until the command is stopped.\n\n"
    "For acquisition whose sessions do not subscribe PrefectCallback. Where they do, each workflow still starts once. "
    "Stopped or killed a listener loses nothing, except that 0MQ keeps nothing for one that is away.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_REFUSED = "refused-messages"
_LOOK_EVERY_S = 0.2
_END_S = 5.0


class _Source(Protocol):
    def run(self, finish: threading.Event) -> None: ...


@app.command()
def tiled(
    since: Annotated[
        str | None,
        typer.Option(
            help="Also take the runs that stopped since then: 24h, 7d, or 2026-01-31. Default: those that stop after "
            "the first start.",
            show_default=False,
        ),
    ] = None,
    workflows: Workflows = None,
    state_directory: StateDirectory = None,
) -> None:
    """Listen to the catalog of runs in Tiled.

    The server's stream of updates tells of a stop document within a fraction of a second; it needs a streaming_cache
    in the server's configuration. Runs that stopped while this listener or Tiled was away are found afterwards.
    """
    from bluesky_prefect.reconciliation import parse_moment

    since_s = parse_moment(since, time.time()) if since else None

    def source(callback: "PrefectCallback", settings: Settings, signals: "Signals") -> _Source:
        from bluesky_prefect.sources import TiledSource

        return TiledSource(callback, settings, since_s=since_s, signals=signals)

    _listen(source, workflows, state_directory)


@app.command()
def kafka(
    topics: Annotated[
        list[str], typer.Argument(help="Topics. One that begins with ^ is a regular expression.", metavar="TOPIC...")
    ],
    servers: Annotated[
        str | None,
        typer.Option(help="Addresses of brokers, host:port, separated by commas.", show_default=False),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Consumer group: each run goes to one listener of a group. Default: bluesky-prefect-NAME, by the name "
            "of the beamline.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file with settings of librdkafka, such as those of SASL and TLS.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Have a new group read all that the topics hold.")
    ] = False,
    workflows: Workflows = None,
    state_directory: StateDirectory = None,
) -> None:
    """Listen to documents that bluesky-kafka publishes.

    A message counts as read once what it caused is on disk. One that holds no document is set aside, below the state
    directory, and the others go on.
    """
    given = _librdkafka(config)
    if servers:
        given["bootstrap.servers"] = servers
    if not given.get("bootstrap.servers"):
        raise ConfigurationError("No Kafka broker is named: give --servers host:9092, or a --config file that does.")

    def source(callback: "PrefectCallback", settings: Settings, signals: "Signals") -> _Source:
        from bluesky_prefect.sources import KafkaSource, RefusedMessages

        refused = RefusedMessages(settings.state_directory / _REFUSED)
        whole = given | {"group.id": group or f"bluesky-prefect-{settings.deployment_name}"}
        return KafkaSource(callback, settings, topics, refused, whole, from_beginning=from_beginning, signals=signals)

    _listen(source, workflows, state_directory)


@app.command()
def zmq(
    address: Annotated[str, typer.Argument(help="Where Bluesky's 0MQ proxy passes documents on.", metavar="HOST:PORT")],
    prefix: Annotated[str, typer.Option(help="Only documents of publishers with this prefix.")] = "",
    form: Annotated[
        Literal["pickle", "msgpack", "json"],
        typer.Option("--format", help="How publishers write documents. Pickles of anything but data are refused."),
    ] = "pickle",
    workflows: Workflows = None,
    state_directory: StateDirectory = None,
) -> None:
    """Listen to documents that Bluesky's 0MQ proxy passes on.

    0MQ keeps nothing for a listener that is away: 'bluesky-prefect reconcile' finds those runs.
    """

    def source(callback: "PrefectCallback", settings: Settings, signals: "Signals") -> _Source:
        from bluesky_prefect.sources import RefusedMessages, ZMQSource

        refused = RefusedMessages(settings.state_directory / _REFUSED)
        return ZMQSource(callback, address, refused, prefix=prefix, form=form, signals=signals)

    _listen(source, workflows, state_directory)


def _librdkafka(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} is not a JSON file that can be read: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f'{path} has to hold an object, such as {{"security.protocol": "SASL_SSL"}}.')
    return content


def _listen(
    make: Callable[["PrefectCallback", Settings, "Signals"], _Source],
    workflows: str | None,
    state_directory: Path | None,
) -> None:
    given = settings_from(workflows=workflows, state_directory=state_directory)
    os.environ["BLUESKY_PREFECT_STATE_DIRECTORY"] = str(given.state_directory)
    if workflows:
        os.environ["BLUESKY_PREFECT_WORKFLOWS"] = given.workflows or ""
    from bluesky_prefect.stack import use_services

    settings = use_services()
    log_to_standard_error(settings, others=("httpx", "tiled", "stamina", "prefect", "bluesky", "numexpr"))
    asked = _Asked()
    # Prefect and Tiled read the environment when they are imported.
    from bluesky_prefect.callback import PrefectCallback
    from bluesky_prefect.metrics import Signals, serve_metrics

    logger = logging.getLogger(__name__)
    signals = Signals()
    callback = PrefectCallback(settings=settings, signals=signals, only_ours=True)
    deployments = [workflow.deployment for workflow in callback.workflows]
    logger.info("Runs start %s", ", ".join(workflow.name for workflow in callback.workflows))
    try:
        with serve_metrics(settings, signals, callback.outboxes, process="listener", deployments=deployments):
            _run(make(callback, settings, signals), asked)
    finally:
        callback.close()
    logger.info("The listener ends; what waits is in the outbox, for the next process")


class _Asked:
    """Notes that a signal has asked this process to end; does nothing else, whatever it interrupts."""

    def __init__(self) -> None:
        self.to_end = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self.to_end = True


def _run(source: _Source, asked: _Asked) -> None:
    """Run a source on a thread, which nobody waits for long: it may wait for a server that does not answer.

    What a workflow's code raises to end a process ends none there.
    """
    finish, raised = threading.Event(), list[BaseException]()

    def listen() -> None:
        try:
            source.run(finish)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            raised.append(error)

    thread = threading.Thread(target=listen, name="listen", daemon=True)
    thread.start()
    while thread.is_alive() and not asked.to_end:
        thread.join(_LOOK_EVERY_S)
    finish.set()
    thread.join(_END_S)
    if raised:
        raise raised[0]
