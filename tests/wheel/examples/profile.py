"""Take a scan in a session: its run is in a journal, and its workflow in the outbox."""

import os
from pathlib import Path

os.environ["BLUESKY_PREFECT_START_COURIER"] = "false"

from bluesky.plans import scan

from bluesky_prefect import get_settings
from bluesky_prefect.journal import JournalDirectory
from bluesky_prefect.session import start_session
from bluesky_prefect.sim import make_devices

session = start_session("my-workflow/local")
devices = make_devices(Path())
[uid] = session.run_engine(scan([devices.det], devices.motor, -2, 2, 5))
assert [entry.run_uid for entry in session.prefect_callback.outbox.entries()] == [uid]
assert [one.run_uid for one in JournalDirectory(get_settings().journals_path).waiting()] == [uid]
