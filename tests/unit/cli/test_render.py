"""How results look."""

import subprocess

import pytest
from pydantic import SecretStr

from bluesky_prefect.cli import _render as render
from bluesky_prefect.cli import _terminal as terminal
from bluesky_prefect.cli._comparison import Comparison
from bluesky_prefect.cli._demo import DemoResult, DemoRow
from bluesky_prefect.core import Run, Settings
from bluesky_prefect.outbox import OutboxCounts
from bluesky_prefect.stack import StackStatus
from bluesky_prefect.stack._info import stack_info
from bluesky_prefect.stack._keys import StackKeys
from bluesky_prefect.stack._status import FlowRunStatus, PartStatus

KEYS = StackKeys(SecretStr("s3cret"), SecretStr("bluesky:passw0rd"))
LINK = "http://127.0.0.1:4200/runs/flow-run/b7a1d3f0-0000-4000-8000-000000000000"


def test_addresses_are_not_broken_over_lines(tmp_path, capsys):
    directory = tmp_path / ("long-" * 30)
    info = stack_info(Settings(state_directory=directory), {"tiled": 1, "prefect": 2}, KEYS)
    render.stack_info(info, sign_in="http://127.0.0.1:2/bluesky-prefect/sign-in#token")
    out = capsys.readouterr().out
    assert f"Files        {directory}/exports\n" in out
    assert "export PREFECT_API_URL=http://127.0.0.1:2/api\n" in out
    assert "Prefect UI   http://127.0.0.1:2/bluesky-prefect/sign-in#token\n" in out
    assert "s3cret" not in out
    assert "passw0rd" not in out


def test_printed_commands_work_in_a_directory_with_a_space(tmp_path, capsys):
    directory = tmp_path / "Application Support"
    directory.mkdir()
    info = stack_info(Settings(state_directory=directory), {"tiled": 1, "prefect": 2}, KEYS)
    info.tiled_api_key_path.write_text("s3cret\n")
    info.prefect_auth_string_path.write_text("bluesky:passw0rd\n")
    render.stack_info(info, sign_in="")
    exports = [line.strip() for line in capsys.readouterr().out.splitlines() if "export " in line]
    script = "; ".join([*exports, 'printf "%s %s" "$TILED_API_KEY" "$PREFECT_API_AUTH_STRING"'])
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout == "s3cret bluesky:passw0rd"


def test_brackets_are_shown_as_they_are(capsys):
    terminal.error('pip install "bluesky-prefect[local]"')
    assert 'Error: pip install "bluesky-prefect[local]"' in capsys.readouterr().err


def test_progress_goes_to_stderr_line_by_line(capsys):
    with terminal.progress("Starting") as report:
        report("Tiled server: ready (1.0 s)")
    captured = capsys.readouterr()
    assert captured.err == "Tiled server: ready (1.0 s)\n"
    assert captured.out == ""


def test_status_tells_flow_runs_of_one_name_apart_by_their_workflows(capsys):
    made = ("Completed", "2026-01-02T03:04:05Z", 4.25)
    flow_runs = (
        FlowRunStatus("scan-1-count-12345678", *made, f"{LINK}/1", "my-workflow/local"),
        FlowRunStatus("scan-1-count-12345678", *made, f"{LINK}/2", "my-analysis/local"),
        FlowRunStatus("export -1", *made, f"{LINK}/3"),
    )
    render.status(StackStatus((), "", OutboxCounts(), None, flow_runs, None))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if "Completed" in line]
    for row, workflow in zip(rows, ("my-workflow/local", "my-analysis/local", "by hand"), strict=True):
        assert row.startswith(workflow)
    assert lines[-3:] == [
        f"scan-1-count-12345678 (my-workflow/local): {LINK}/1",
        f"scan-1-count-12345678 (my-analysis/local): {LINK}/2",
        f"export -1: {LINK}/3",
    ]


def test_status_shows_parts_outbox_and_flow_runs(capsys):
    render.status(
        StackStatus(
            parts=(
                PartStatus("tiled", "Tiled server", True, 12, "http://127.0.0.1:8000", ""),
                PartStatus("worker", "Prefect worker", False, None, None, "gone, see /logs/worker.log"),
            ),
            prefect_database="PostgreSQL, database prefect at db:5432",
            outbox=OutboxCounts(waiting=3, sent=2, dead=1),
            outbox_problem=None,
            flow_runs=(FlowRunStatus("scan-1-count-12345678", "Completed", "2026-01-02T03:04:05Z", 4.25, LINK),),
            flow_runs_problem=None,
        )
    )
    out = capsys.readouterr().out
    assert "down: gone, see /logs/worker.log" in out
    assert "Prefect's database: PostgreSQL, database prefect at db:5432" in out
    assert "Outbox: 3 waiting, 2 sent, 1 dead" in out
    assert "scan-1-count-12345678" in out
    assert LINK in out


@pytest.mark.parametrize("problems", [[], ["Scan 1 (count): no .csv file"]])
def test_the_demo_says_what_is_missing(capsys, tmp_path, problems):
    row = DemoRow(
        Run("uid", {"scan_id": 1, "plan_name": "count"}),
        flow_run_name="scan-1-count-uid",
        state="Completed",
        running_after_s=2.5,
        done_after_s=9.75,
        url=LINK,
        files=(tmp_path / "scan_1_count.txt",),
    )
    render.demo(DemoResult([row], Comparison(files=1, values=5), problems))
    out = capsys.readouterr().out
    for word in ("scan-1-count-uid", "Completed", "2.5 s", "9.8 s", LINK, str(tmp_path), "scan_1_count.txt"):
        assert word in out
    assert ("Everything is there." in out) is not problems
    assert all(f"Missing: {problem}" in out for problem in problems)
