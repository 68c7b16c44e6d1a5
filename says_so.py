
from prefect import flow, task
from prefect.states import Failed

from bluesky_prefect import DoNotRerun


class BadSample(DoNotRerun):
    pass


@task
def look(ref):
    raise BadSample(f"no sample in {ref}")


@flow(name="says-so")
def raises(ref: str):
    raise DoNotRerun("files were moved")


@flow(name="says-so")
def derived(ref: str):
    look(ref)


@flow(name="says-so")
def returns(ref: str):
    return Failed(name="DoNotRerun", message="mail was sent")


@flow(name="says-so")
def fails(ref: str):
    raise ValueError("boom")
