"""Imports what commands need, in the process that they are forked from. Nothing of it starts a thread."""

import gc
import importlib
import os

from bluesky_prefect.stack._discovery import _TILED_RETRIES
from bluesky_prefect.worker._job_variables import PRELOAD
from bluesky_prefect.worker.forkserver._handle import SINGLE_THREADED

_OF_COMMANDS = [
    "httpx",
    "IPython.core.interactiveshell",
    "tiled.profiles",
    "encodings.idna",
    "prefect.client.orchestration",
    "bluesky_prefect.cli._app",
    "bluesky_prefect.prefect_api._deployments",
    "bluesky_prefect.reconciliation._reconciler",
    "bluesky_prefect.stack._discovery",
    "bluesky_prefect.stack._stack",
    "bluesky_prefect.tiled_api._raw_catalog",
]

# Read when numpy and the others, and Tiled's client, are imported; the latter as the commands have it.
os.environ.update(SINGLE_THREADED | _TILED_RETRIES)
for _module in (*PRELOAD, *_OF_COMMANDS):
    importlib.import_module(_module)
# Children share this memory with their parent as long as no collection touches it.
gc.collect()
gc.freeze()
