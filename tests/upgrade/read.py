"""Print, as JSON, what the version that runs this reads of a state directory: read.py STATE."""

import json
import sys
from pathlib import Path

from bluesky_prefect import Outbox

state = Path(sys.argv[1])
outbox = Outbox(state / "outbox.sqlite")
if hasattr(outbox, "adopt_siblings"):  # there since format 2
    outbox.adopt_siblings()
entries = {
    entry.key: [entry.state, entry.submission.start["sample"]["name"], entry.submission.stop["exit_status"]]
    for entry in outbox.entries()
    if entry.state != "declined"  # of these the run's uid alone is kept
}
outbox.close()

journals = {}
try:
    from bluesky_prefect.journal import JournalDirectory, JournalReader
except ImportError:
    pass
else:
    for waiting in JournalDirectory(state / "journals").waiting():
        reader = JournalReader(waiting.path)
        found = list(reader.documents())
        values = [float(sum(doc["data"]["x"])) for name, doc in found if name == "event"]
        journals[waiting.run_uid] = [[name for name, _ in found], values]
        reader.close()
print(json.dumps({"entries": entries, "journals": journals}))
