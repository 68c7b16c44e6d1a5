"""A beamline's own flow, as it stands in the repositories of beamlines: it knows nothing of this package."""

import os
import signal

from prefect import flow, get_run_logger, task


@task
def note(stop_doc, dry_run):
    get_run_logger().info("run %s ended with %s, dry run %s", stop_doc["run_start"], stop_doc["exit_status"], dry_run)


@flow
def end_of_run_workflow(stop_doc, api_key=None, dry_run=False):
    note(stop_doc, dry_run)
    if api_key is not None:
        raise ValueError("nobody gave a key")
    return stop_doc["run_start"]


@flow
def reconstruct(scan_id):
    raise ValueError(f"no rotation axis in scan {scan_id}")


@flow
def tomo_recon(scan_id):
    """Fails on the first scan, is killed on the second (as by a machine without memory), and is well from then on."""
    if scan_id == 1:
        reconstruct(scan_id)
    if scan_id == 2:
        os.kill(os.getpid(), signal.SIGKILL)
