"""Places where a process of a campaign kills itself on demand."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# In the callback, and in the recorder.
IN_SESSION = {
    "before-commit": "inside stop, before the commit",
    "after-commit": "inside stop, after the commit",
    "half-document": "with half a document in the journal",
}
# In the forwarder: of the courier, or of a session that has no courier.
IN_FORWARDER = {
    "before-request": "before Prefect is asked",
    "after-accepted": "when Prefect has accepted, before that is noted",
}
IN_COURIER = {
    **IN_FORWARDER,
    "before-document": "in the middle of a run",
    "before-delivered": "when Tiled has a run, before that is noted",
}


class KillPoints:
    """Places in the callback, the recorder, the forwarder and the courier where this process kills itself."""

    def __init__(self) -> None:
        self._armed: tuple[str, int] | None = None
        self._putting = threading.local()
        self._lock = threading.Lock()

    def arm(self, point: str, passes: int) -> None:
        assert point in IN_SESSION | IN_COURIER, point
        self._armed = (point, passes)

    def install(self) -> None:
        """Wrap what passes the points, in this process only."""
        self._install_in_outbox()
        self._install_in_journal()
        self._install_in_courier()

    def _install_in_outbox(self) -> None:
        from bluesky_prefect.outbox import Outbox
        from bluesky_prefect.outbox._sqlite_file import SQLiteFile

        put, change = Outbox.put_all, SQLiteFile.change

        def put_and_pass(*arguments: Any, **options: Any) -> Any:
            self._putting.now = True
            try:
                present = put(*arguments, **options)
            finally:
                self._putting.now = False
            self._pass("after-commit")
            return present

        @contextmanager
        def change_and_pass(*arguments: Any, **options: Any) -> Iterator[Any]:
            with change(*arguments, **options) as connection:
                yield connection
                if getattr(self._putting, "now", False):
                    self._pass("before-commit")

        Outbox.put_all, SQLiteFile.change = put_and_pass, change_and_pass

    def _install_in_journal(self) -> None:
        from bluesky_prefect.journal._journal import Journal

        write = Journal._write

        def write_or_die(journal: Journal, file: Any, packed: bytes) -> None:
            self._pass("half-document", lambda: file.write(packed[: len(packed) // 2]))
            write(journal, file, packed)

        Journal._write = write_or_die

    def _install_in_courier(self) -> None:
        from bluesky_prefect.journal import JournalDirectory
        from bluesky_prefect.prefect_api import PrefectApi
        from bluesky_prefect.tiled_api import RunWriter

        create, put, deliver = PrefectApi.create_flow_run, RunWriter._put, JournalDirectory.deliver

        def create_and_pass(*arguments: Any, **options: Any) -> Any:
            self._pass("before-request")
            flow_run = create(*arguments, **options)
            self._pass("after-accepted")
            return flow_run

        def pass_and_put(*arguments: Any, **options: Any) -> Any:
            self._pass("before-document")
            return put(*arguments, **options)

        def pass_and_deliver(*arguments: Any, **options: Any) -> Any:
            self._pass("before-delivered")
            return deliver(*arguments, **options)

        PrefectApi.create_flow_run, RunWriter._put = create_and_pass, pass_and_put
        JournalDirectory.deliver = pass_and_deliver

    def _pass(self, point: str, last_words: Callable[[], Any] = lambda: None) -> None:
        with self._lock:
            if self._armed is None or self._armed[0] != point:
                return
            self._armed = (point, self._armed[1] - 1)
            if self._armed[1] <= 0:
                last_words()
                os.kill(os.getpid(), signal.SIGKILL)
