"""Import the flows, and find the worker type as Prefect does; write a flow of one's own, and import it."""

import importlib.util
import subprocess

from prefect import Flow
from prefect.plugins import load_prefect_collections
from prefect.workers.base import BaseWorker

from bluesky_prefect.flows import data_validation, export, find_peak, fun_fact, my_workflow

assert all(isinstance(one, Flow) for one in (data_validation, export, find_peak, fun_fact, my_workflow))
load_prefect_collections()
assert BaseWorker.get_worker_class_from_type("warm-process").__name__ == "WarmProcessWorker"

subprocess.run(["bluesky-prefect", "new", "my-analysis"], check=True, stdin=subprocess.DEVNULL)
spec = importlib.util.spec_from_file_location("my_analysis", "my_analysis.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert isinstance(module.my_analysis, Flow)
