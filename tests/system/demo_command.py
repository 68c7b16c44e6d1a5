"""The demo as a newcomer runs it."""

import os
import subprocess
import sys


def demo(outside_services: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``bluesky-prefect demo`` with services on the internet that are stood in for."""
    environment = {f"BLUESKY_PREFECT_{name.upper()}": value for name, value in outside_services.items()}
    command = [sys.executable, "-c", "from bluesky_prefect.cli import main; main()", "demo", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
