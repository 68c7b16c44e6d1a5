"""The name and the tags by which people find a flow run."""

from bluesky_prefect.core import Submission, printable, run_name
from bluesky_prefect.prefect_api._notifications import notification_tags

_TAG_LENGTH = 200


def flow_run_name(submission: Submission) -> str:
    """Return the name that a person finds the flow run by: scan id, plan, start of the uid, and which time it is."""
    run = submission.run
    name = run_name(run.scan_id, run.plan_name, run.uid)
    return f"{name}-again-{submission.generation}" if submission.generation else name


def flow_run_tags(submission: Submission) -> list[str]:
    """Return the tags of the flow run: ``scan_id:12``, ``plan_name:count``, ``uid:...``, as known, and its notices.

    Also ``beamline:tst``, if the beamline has a name.
    """
    run = submission.run
    known = {"scan_id": run.scan_id, "plan_name": run.plan_name, "uid": run.uid, "beamline": submission.beamline}
    tags = [printable(f"{name}:{value}")[:_TAG_LENGTH] for name, value in known.items() if value is not None]
    return tags + notification_tags(submission.notify)
