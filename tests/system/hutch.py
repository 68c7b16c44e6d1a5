"""A beamline's hutch for tests of reconciliation: a catalog of its own, and a deployment that nobody works on."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from uuid import UUID

import bluesky.plans as bp
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings
from tiled.client import from_uri
from tiled.structures.core import Spec

from bluesky_prefect import Outbox, Settings, Workflow
from bluesky_prefect.core import Submission, WorkflowList, as_workflows, submission_key
from bluesky_prefect.outbox import Draft, existing_outbox
from bluesky_prefect.prefect_api import PrefectApi, past_flow_runs
from bluesky_prefect.reconciliation import Reconciler, TimeWindow
from bluesky_prefect.stack import StackInfo
from bluesky_prefect.tiled_api import RAW_SPEC, Catalog
from tests.services.forked import run_command
from tests.services.prefect_process import prefect_settings, wait_until
from tests.system.beamline import Beamline

# Nobody works on it: the tests decide what becomes of its flow runs.
DEPLOYMENT = "reconcile-test/idle"
# The runs are taken before anybody compares them with a list.
WORKFLOWS = (Workflow(DEPLOYMENT, since="1970-01-02"),)
RENAMED = (Workflow(DEPLOYMENT, name="new", was="old", since="1970-01-02"),)
STRICT = {"settle_s": 0, "max_reruns": 2, "rerun_backoff_s": 300}


class Hutch:
    """A catalog of its own in the stack's Tiled, and an idle deployment in its Prefect.

    Parameters
    ----------
    stack : StackInfo
        The stack.
    container : str
        Name of the catalog.
    directory : Path
        State directory.
    """

    def __init__(self, stack, container, directory):
        self.environment = {
            **stack.environment(),
            "BLUESKY_PREFECT_RAW_CONTAINER": container,
            "BLUESKY_PREFECT_STATE_DIRECTORY": str(directory),
            "BLUESKY_PREFECT_WORKFLOWS": "tests.system.hutch:WORKFLOWS",
            **{f"BLUESKY_PREFECT_{name.upper()}": str(value) for name, value in STRICT.items()},
        }
        self.settings = Settings(
            tiled_uri=stack.tiled_uri,
            tiled_api_key=stack.tiled_api_key,
            raw_container=container,
            state_directory=directory,
            **STRICT,
        )
        self.catalog = Catalog.connect(self.settings)
        self.root = from_uri(stack.tiled_uri, api_key=stack.tiled_api_key.get_secret_value())
        self.raw = self.root.create_container(container, specs=[Spec(*RAW_SPEC)])
        self.beamline = Beamline(self.raw, stack.images)

    def close(self):
        self.catalog.close()
        self.root.context.close()

    def count(self, **metadata):
        [uid] = self.beamline.run(bp.count([self.beamline.devices.det], 1), **metadata)
        return uid

    def reconcile(
        self, *, workflows=WORKFLOWS, clock=None, sleep=lambda _: None, settings=None, always=True, **options
    ):
        """Compare with a list, which has always been there unless the test says otherwise."""
        window = TimeWindow(options.pop("since", 0.0), **options.pop("only", {}))
        if always:
            listed = as_workflows(workflows)
            workflows = WorkflowList((replace(one, since="1970-01-02") for one in listed), ours=listed.ours)
        settings = settings or self.settings
        with PrefectApi(30, client_retries=True) as api, existing_outbox(settings.outbox_path) as outbox:
            reconciler = Reconciler(self.catalog, api, workflows, settings, outbox=outbox, clock=clock, sleep=sleep)
            return reconciler.run(window, **options)

    def flow_runs(self, uid, workflow=DEPLOYMENT):
        with PrefectApi(30, client_retries=True) as api:
            return past_flow_runs(api, [(uid, workflow)], since_s=0.0)[uid, workflow]

    def end(self, uid, *states, workflow=DEPLOYMENT):
        """Make the last flow run of a run go through states."""
        flow_run_id = UUID(self.flow_runs(uid, workflow)[-1].id)
        with get_client(sync_client=True) as client:
            for state in states:
                client.set_flow_run_state(flow_run_id, state, force=True)
            if states[-1].is_running():
                # Prefect keeps events in batches: one that it keeps later is a sign of life.
                wait_until(lambda: _has_event(client, flow_run_id, "prefect.flow-run.Running"))

    def cli(self, *arguments):
        return run_command(*arguments, env={**os.environ, **self.environment})


def _has_event(client, flow_run_id, name):
    wanted = {"event": {"name": [name]}, "any_resource": {"id": [f"prefect.flow-run.{flow_run_id}"]}}
    return client.request("POST", "/events/filter", json={"filter": wanted}).json()["events"]


@contextmanager
def idle_deployment(stack: StackInfo) -> Iterator[None]:
    """Have the deployment in a Prefect server, and this process talk to that, until the end of the block."""
    with temporary_settings(prefect_settings(stack)), get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name(DEPLOYMENT.partition("/")[0])
        schema = {"type": "object", "properties": {"ref": {"type": "string"}, "date": {}}, "required": ["ref"]}
        client.create_deployment(flow_id, DEPLOYMENT.partition("/")[2], parameter_openapi_schema=schema)
        yield


def decline(path, uid, workflow=DEPLOYMENT):
    """Put what a session's `when=` refused into an outbox."""
    submission = Submission(submission_key(uid, workflow), workflow, DEPLOYMENT, uid)
    with closing(Outbox(path)) as outbox:
        outbox.put_all([Draft(submission, "declined")])
