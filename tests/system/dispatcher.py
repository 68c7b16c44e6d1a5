"""A process without a RunEngine: documents come over 0MQ, workflows start."""

import sys

from bluesky.callbacks.zmq import RemoteDispatcher

from bluesky_prefect import PrefectCallback

dispatcher = RemoteDispatcher(sys.argv[1])
dispatcher.subscribe(PrefectCallback("my-workflow/local"))
print("ready", flush=True)
dispatcher.start()
