"""Plans. A beamline adds its own here."""

import bluesky.plan_stubs as bps
import bluesky.plans as bp
from bluesky.plans import count, grid_scan, list_scan, rel_scan, scan

from bluesky_prefect.sim import close_in_on_peak, failing_scan, find_peak, two_runs_interleaved
