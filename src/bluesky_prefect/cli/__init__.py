"""The command line."""

import sys

# Where packages that only some commands need come from.
_EXTRAS = {
    **dict.fromkeys(("typer", "click", "rich", "psutil", "packaging"), "cli"),
    **dict.fromkeys(("tiled", "uvicorn", "duckdb", "httpx"), "local"),
    **dict.fromkeys(("pandas", "matplotlib", "h5py"), "local"),
    "bluesky_tiled_plugins": "courier",
    "confluent_kafka": "kafka",
    "zmq": "zmq",
    **dict.fromkeys(("bluesky", "ophyd", "IPython"), "profile"),
}


def main() -> None:
    """Run the ``bluesky-prefect`` command.

    An error that the user can fix is one message on stderr and exit code 1; wrong arguments
    end with 2, an interrupt with 130.
    """
    try:
        from bluesky_prefect.cli._app import run
        from bluesky_prefect.core import decline_telemetry

        decline_telemetry()
        sys.exit(run())
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        print(  # noqa: T201  # what else there is for printing may be what is missing
            f'Error: This needs {package}. Install it with: pip install "bluesky-prefect[{_EXTRAS[package]}]"',
            file=sys.stderr,
        )
        sys.exit(1)
