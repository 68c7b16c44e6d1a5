"""The campaign's clocks: what a process sees of them."""

import os
import subprocess
import sys
import time

from tests.chaos.clocks import MachineClock

LOOKS = """
import datetime, sys, time
for _ in sys.stdin:
    print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)
"""


def test_the_time_of_day_jumps_and_the_monotonic_clock_goes_on(tmp_path):
    clock = MachineClock(tmp_path, "clock")
    process = subprocess.Popen(
        [sys.executable, "-c", LOOKS],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        for off_s in (0, 660, -3600):
            clock.set_off(off_s)
            process.stdin.write("\n")
            process.stdin.flush()
            of_day, other, monotonic = map(float, process.stdout.readline().split())
            assert abs(of_day - time.time() - off_s) < 5
            assert abs(other - time.time() - off_s) < 5
            assert abs(monotonic - time.monotonic()) < 5
