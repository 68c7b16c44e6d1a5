"""The command line."""


def main() -> None:
    """Run the ``bluesky-prefect`` command."""
    from bluesky_prefect.cli.app import app

    app()
