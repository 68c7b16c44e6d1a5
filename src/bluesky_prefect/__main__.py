"""Makes ``python -m bluesky_prefect`` the command."""

from bluesky_prefect.cli import main

if __name__ == "__main__":
    main()
