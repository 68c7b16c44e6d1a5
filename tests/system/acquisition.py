"""An acquisition process: a RunEngine with a PrefectCallback, told on stdin what to do.

Lines: ``count N`` runs N plans and prints a uid each, ``counts`` prints how much is in the outbox, ``end`` ends as a
script does.
"""

import sys

from bluesky import RunEngine
from bluesky import plans as bp
from ophyd.sim import det

from bluesky_prefect import PrefectCallback


def main() -> None:
    RE = RunEngine(context_managers=[])  # noqa: N806 - the name that everybody gives it
    callback = PrefectCallback(sys.argv[1:])
    RE.subscribe(callback)
    print("ready", flush=True)
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "count":
            for _ in range(int(arguments[0])):
                [uid] = RE(bp.count([det], 2))
                print(uid, flush=True)
        elif word == "counts":
            counts = callback.outbox.counts()
            print(counts.waiting, counts.sent, counts.dead, flush=True)
        elif word == "end":
            return


if __name__ == "__main__":
    main()
