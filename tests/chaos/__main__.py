"""Break everything while scans run, and count at the end: each run whole in Tiled, and processed exactly once.

The exit code is 1 otherwise.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

import tests.chaos.faults  # noqa: F401 - fills the list
from tests.chaos.beamline import Beamline
from tests.chaos.campaign import Campaign
from tests.chaos.fault import FAULTS
from tests.chaos.table import table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="how many runs have to stop (default: 2000)")
    parser.add_argument("--most-each", type=int, help="most scans under one injection of a fault")
    parser.add_argument("--seed", type=int, default=1, help="decides the order, the moments, the numbers (default: 1)")
    parser.add_argument("--faults", default="", help="names, with commas between; all of them by default")
    parser.add_argument("--executors", type=int, default=3, help="how many flow runs are executed at once (default: 3)")
    parser.add_argument(
        "--database",
        help="an empty PostgreSQL database for Prefect, such as postgresql+asyncpg://me@127.0.0.1/chaos: faster, and "
        "without the faults that strike the file of a database",
    )
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    parser.add_argument("--keep", action="store_true", help="leave all files and say where they are")
    arguments = parser.parse_args()
    arguments.faults = [name for name in arguments.faults.split(",") if name] or list(FAULTS)
    if unknown := set(arguments.faults) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; --list names them")
    if arguments.database:
        arguments.faults = [name for name in arguments.faults if not FAULTS[name].sqlite]
    return arguments


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        for one in FAULTS.values():
            print(f"{one.name:34} {one.title}")
        return 0
    root = Path(tempfile.mkdtemp(prefix="bluesky-prefect-chaos-"))
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        with Beamline(root, executors=arguments.executors, database=arguments.database, report=report) as beamline:
            campaign = Campaign(beamline, arguments.faults, arguments.seed, report)
            outcome = campaign.run(arguments.runs, arguments.most_each)
    finally:
        if arguments.keep:
            report(f"The files are in {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    Console(width=120).print(table(outcome))
    verdict = outcome.verdict
    for what, runs in (("LOST", verdict.lost), ("DUPLICATED", verdict.duplicated), ("OTHER", verdict.differing)):
        for uid, reason in runs.items():
            print(f"{what}: {uid}: {reason}")
    print(
        f"{verdict.runs} runs to be processed in {time.monotonic() - began:.0f} s, seed {arguments.seed}; "
        f"{verdict.compared} runs of {verdict.events} events compared with Tiled"
    )
    return 0 if outcome.sound else 1


if __name__ == "__main__":
    sys.exit(main())
