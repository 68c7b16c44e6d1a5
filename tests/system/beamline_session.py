"""A beamline's session as its profile makes it: takes a scan with images and waits until Prefect has it.

Prints the uid, if a scan was asked for: ``scan`` or ``look``.
"""

import logging
import sys
import time

from bluesky_prefect.session import start_session

# All that anybody logs, as a careful beamline keeps it.
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


def main(what: str) -> None:
    session = start_session()
    outbox = session.prefect_callback.outbox
    if what == "scan":
        from bluesky.plans import count

        from bluesky_prefect import get_settings
        from bluesky_prefect.sim import make_devices

        devices = make_devices(get_settings().state_directory / "images")
        [uid] = session.run_engine(count([devices.image_det, devices.det], 2))
        print("UID", uid, flush=True)
        deadline = time.monotonic() + 60
        while outbox.counts().waiting and time.monotonic() < deadline:
            time.sleep(0.1)
        print("SENT" if not outbox.counts().waiting else "WAITS", flush=True)
    print("READY", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
