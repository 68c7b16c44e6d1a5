"""'bluesky-prefect listen' in a process that is killed when it is about to say how far it has read a run.

It dies at the first commit after a stop document has been put in the outbox.
"""

import os
import signal
import sys
from typing import Any

import confluent_kafka

from bluesky_prefect import PrefectCallback


class Consumer(confluent_kafka.Consumer):
    """Kills its process in place of the commit of a run."""

    stopped = False

    def commit(self, *args: Any, **options: Any) -> Any:
        """Commit, unless a run has stopped."""
        if Consumer.stopped:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().commit(*args, **options)


class Callback(PrefectCallback):
    """Notes that a stop document is in the outbox."""

    def stop(self, doc: Any) -> None:
        """Handle a stop document."""
        super().stop(doc)
        Consumer.stopped = True


if __name__ == "__main__":
    confluent_kafka.Consumer = Consumer
    import bluesky_prefect.callback

    bluesky_prefect.callback.PrefectCallback = Callback
    from bluesky_prefect.cli import main

    sys.argv[1:1] = ["listen"]
    sys.exit(main())
