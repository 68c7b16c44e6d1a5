"""Subscribe the callback, and the recorder, to a RunEngine."""

import sys

from bluesky import RunEngine
from bluesky.plan_stubs import close_run, open_run

import bluesky_prefect
from bluesky_prefect import PrefectCallback
from bluesky_prefect.journal import JournalDirectory, RunRecorder

assert bluesky_prefect.__file__.startswith(sys.prefix), bluesky_prefect.__file__


def plan():
    yield from open_run()
    yield from close_run()


engine = RunEngine()
callback = PrefectCallback("my-workflow/local")
recorder = RunRecorder()
engine.subscribe(recorder)
engine.subscribe(callback)
[uid] = engine(plan())
assert [entry.run_uid for entry in callback.outbox.entries(state="waiting")] == [uid]

recorder.close()
callback.close()
journals = JournalDirectory(bluesky_prefect.get_settings().journals_path)
assert [one.run_uid for one in journals.waiting()] == [uid]
