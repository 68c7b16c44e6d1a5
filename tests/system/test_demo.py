"""The demo end to end, as a newcomer runs it."""

import re
from pathlib import Path

import pytest

from bluesky_prefect.core import Settings
from bluesky_prefect.stack import LocalStack
from tests.system.demo_command import demo

PLANS = ["count", "scan", "grid_scan", "list_scan", "find_peak", "scan", *["two_runs_interleaved"] * 2, "failing_scan"]


@pytest.mark.timeout(400)
def test_the_demo_brings_every_run_from_a_scan_to_checked_files_and_cleans_up(tmp_path, outside_services):
    done = demo(outside_services, "--state-directory", str(tmp_path), "--tiled-port", "0", "--prefect-port", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    row = r"^(\d+) +(\w+) +[0-9a-f]{8} +(scan-\S+) +Completed +([\d.]+) s +([\d.]+) s +(\d+) *$"
    rows = re.findall(row, done.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(1, 10)), done.stdout
    assert sorted(row[1] for row in rows) == sorted(PLANS)
    assert all(name.startswith(f"scan-{number}-{plan}-") for number, plan, name, *_ in rows)
    assert all(float(running) < float(ended) for *_, running, ended, _ in rows)
    assert len(re.findall(r"http://127\.0\.0\.1:\d+\S*/runs/flow-run/[0-9a-f-]{36}", done.stdout)) == 9
    assert re.search(r"Compared \d{3,} values in 9 CSV files with what Tiled holds: no differences\.", done.stdout)
    assert "Everything is there." in done.stdout
    for kind in ("txt", "csv", "png"):
        assert len(list((tmp_path / "exports").rglob(f"*.{kind}"))) >= 9
    assert "Prefect worker: stopped" in done.stderr
    assert LocalStack(Settings(state_directory=tmp_path)).processes() == {}


def test_the_demo_uses_a_stack_that_runs_and_leaves_it_up(stack, stack_settings, demo_on_stack):
    before, done = demo_on_stack
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The stack is already running." in done.stderr
    assert "The local stack is up." in done.stdout
    assert LocalStack(stack_settings).processes() == before
    listed = [Path(line.strip()) for line in done.stdout.splitlines() if line.startswith(f"    {stack.exports}")]
    assert listed
    assert all(folder.is_dir() for folder in listed)


def test_the_demo_fails_and_says_why_if_files_are_missing(stack, stack_settings, outside_services):
    # The demo looks in another directory than the worker writes to.
    elsewhere = {**outside_services, "output_directory": str(stack.state_directory / "elsewhere")}
    done = demo(elsewhere, "--plans", "1", "--state-directory", str(stack.state_directory))
    assert done.returncode == 1
    assert re.search(r"Missing: Scan \d+ \(count\): no files of it in .*/elsewhere", done.stdout)
    assert "Traceback" not in done.stderr
