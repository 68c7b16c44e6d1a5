"""How the cost of each thing grows with how much there is: one table for each question, ratios within one run.

The outbox, Tiled's catalog, and Prefect's database are filled in bulk by SQL, with copies of real rows where there are
any, and measured in the ways that the commands and processes of bluesky-prefect take.
"""

import argparse
import os
import signal
import sys
import time

import psutil
from rich.console import Console

from benchmarks.growth import catalog, outbox, prefect_database

QUESTIONS = {
    "outbox": (outbox.measure, outbox.SIZES),
    "catalog": (catalog.measure_stack, catalog.SIZES),
    "catalog-postgresql": (catalog.measure_postgres, catalog.SIZES),
    "prefect": (prefect_database.measure, prefect_database.SIZES),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", choices=QUESTIONS, default=[*QUESTIONS], help="all of them by default")
    parser.add_argument("--most", type=int, default=1_000_000, help="the largest size")
    arguments = parser.parse_args()
    console = Console(width=150)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was measured by then is printed
    for name in arguments.questions:
        measure, sizes = QUESTIONS[name]
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        measure(console, [size for size in sizes if size <= arguments.most])
    load = psutil.getloadavg()[0]
    console.print(f"Load of this machine now: {load:.1f} on {os.cpu_count()} cores; Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
