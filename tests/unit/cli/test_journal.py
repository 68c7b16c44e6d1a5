"""The commands about journals."""

import json
import os
from pathlib import Path

from bluesky_prefect.journal import Journal, JournalDirectory
from tests.services.forked import run_command


def test_what_tiled_refuses_is_listed_retried_and_discarded(tmp_path: Path):
    directory = JournalDirectory(tmp_path / "journals")
    for uid in ("abc", "xyz"):
        journal = Journal(directory.path, uid)
        journal.append("start", {"uid": uid})
        journal.close()
        directory.refuse(journal.path, "no such format")

    def journal_command(*arguments: str):
        return run_command("journal", *arguments, "--state-directory", str(tmp_path), env=os.environ)

    listed = journal_command("list")
    assert "On their way to Tiled: 0 runs. No courier is running." in listed.stdout
    assert "Refused by Tiled: 2 runs" in listed.stdout
    assert "no such format" in listed.stdout
    assert "1 run will be tried again." in journal_command("retry", "abc").stderr
    assert "The journal of run xyz is deleted." in journal_command("discard", "xyz", "--yes").stderr
    found = json.loads(journal_command("list", "--json").stdout)
    assert [one["run"] for one in found["waiting"]] == ["abc"]
    assert found["refused"] == []
    missing = journal_command("retry", "nobody")
    assert missing.returncode == 1
    assert "No refused run begins with 'nobody'" in missing.stderr
