"""The command line."""

import sys


def main() -> None:
    """Run the ``bluesky-prefect`` command.

    What went wrong and can be mended by the user is one message on stderr and exit code 1; wrong arguments
    end with 2, an interrupt with 130.
    """
    try:
        from bluesky_prefect.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        print(  # noqa: T201
            f'The command line needs {error.name}. Install it with: pip install "bluesky-prefect[local]"',
            file=sys.stderr,
        )
        sys.exit(1)
    sys.exit(run())
