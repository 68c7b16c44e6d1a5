"""An acquisition process: a RunEngine with a PrefectCallback, told on stdin what to do.

Lines: ``count N`` runs N plans and prints a uid each, ``opt-out`` and ``hostile`` run one with metadata of that kind,
``abort REASON`` aborts one, ``counts`` prints how much is in the outbox, ``end`` ends as a script does. Runs go to
Tiled if one is set. Its arguments are the deployments to start; without any, it starts those that the setting
names.
"""

import sys
from contextlib import redirect_stdout, suppress

import numpy as np
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import plans as bp
from bluesky.utils import RunEngineInterrupted
from ophyd.sim import det

from bluesky_prefect import PrefectCallback, get_settings

METADATA = {
    "count": {},
    "opt-out": {"prefect": False},
    "hostile": {
        "plan_name": "../../etc/x",
        "array": np.arange(12.0).reshape(3, 4),
        "nan": float("nan"),
        "bytes": b"\x00\xff",
        "text": "y" * 1_000_000,
        "note": "</script>\n\x1b[31m=cmd|' /C calc'!A0",
    },
}


def subscribe_tiled(engine: RunEngine) -> None:
    settings = get_settings()
    if settings.tiled_uri:
        from bluesky_tiled_plugins import TiledWriter
        from tiled.client import from_uri

        root = from_uri(settings.tiled_uri, api_key=settings.tiled_api_key.get_secret_value())
        engine.subscribe(TiledWriter(root[settings.raw_container]))


def pausing():
    yield from bps.open_run({"plan_name": "aborted_scan"})
    yield from bps.trigger_and_read([det])
    yield from bps.pause()


def main() -> None:
    RE = RunEngine(context_managers=[])  # noqa: N806 - the name that everybody gives it
    callback = PrefectCallback(sys.argv[1:] or None)
    subscribe_tiled(RE)
    RE.subscribe(callback)
    print("ready", flush=True)
    for line in sys.stdin:
        word, *arguments = line.split()
        if word in METADATA:
            for _ in range(int(arguments[0]) if arguments else 1):
                [uid] = RE(bp.count([det], 2), **METADATA[word])
                print(uid, flush=True)
        elif word == "abort":
            with redirect_stdout(sys.stderr):
                with suppress(RunEngineInterrupted):
                    RE(pausing())
                [uid] = RE.abort(" ".join(arguments))
            print(uid, flush=True)
        elif word == "counts":
            counts = callback.outbox.counts()
            print(counts.waiting, counts.sent, counts.dead, flush=True)
        elif word == "end":
            return


if __name__ == "__main__":
    main()
