"""``bluesky-prefect`` as it is, but that it kills itself where it is told to."""

import os

from bluesky_prefect.cli import main as command
from tests.chaos.kill_points import KillPoints

# A point and how many passes: ``after-accepted 3``.
VARIABLE = "CHAOS_KILL"


def main() -> None:
    point, passes = os.environ[VARIABLE].split()
    points = KillPoints()
    points.install()
    points.arm(point, int(passes))
    command()


if __name__ == "__main__":
    main()
