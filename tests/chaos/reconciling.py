"""``bluesky-prefect`` as it is, but that a flow run ends at the very moment at which it is marked as crashed.

Its process goes on then (a machine that was suspended, say) and executes it to its end.
"""

import subprocess
import sys

from bluesky_prefect.cli import main as command
from bluesky_prefect.reconciliation._endings import Endings


def main() -> None:
    mark_crashed = Endings.mark_crashed

    def execute_and_mark(endings: Endings, flow_run_id: str, message: str) -> bool:
        subprocess.run([sys.executable, "-m", "prefect.engine", flow_run_id], check=False)
        return mark_crashed(endings, flow_run_id, message)

    Endings.mark_crashed = execute_and_mark
    command()


if __name__ == "__main__":
    main()
