"""Ask what there is: the commands, an empty machine's status, and a submission that waits."""

import subprocess

from bluesky_prefect import PrefectCallback


def said(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(["bluesky-prefect", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == code, (arguments, done)
    return done.stdout


callback = PrefectCallback("my-workflow/local")
callback("start", {"uid": "a-run", "time": 1.0, "scan_id": 1, "plan_name": "count"})
callback("stop", {"uid": "its-stop", "time": 2.0, "run_start": "a-run", "exit_status": "success"})
callback.close()

assert "reconcile" in said("--help")
print(said("status", code=1))
assert "a-run" in said("outbox", "list")
