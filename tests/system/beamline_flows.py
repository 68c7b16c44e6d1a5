"""A beamline's own flow, as it stands in the repositories of beamlines: it knows nothing of this package."""

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
