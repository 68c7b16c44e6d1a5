"""The process that flow runs are forked from: it imports what they need, and stays single-threaded.

It is started with a socket to its worker as its only argument, does nothing of a flow run itself, and ends when the
worker does. A child gets its job from the worker directly: whatever happens to this process afterwards is none of the
flow run's concern.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import traceback
from typing import NoReturn

from bluesky_prefect.worker._outage_log import quiet_outages
from bluesky_prefect.worker.forkserver import _child as child
from bluesky_prefect.worker.forkserver._preload import Sources, preload
from bluesky_prefect.worker.forkserver._protocol import PACKET_BYTES, message, threads


class ForkServer:
    """Fork children as the worker asks for them, and tell it how they end.

    Parameters
    ----------
    worker : socket.socket
        Packets to and from the worker. Each request brings the child's own socket with it.
    sources : Sources
        The files of what was imported.
    """

    def __init__(self, worker: socket.socket, sources: Sources) -> None:
        self._worker = worker
        self._sources = sources
        self._children: set[int] = set()
        # The system writes a byte there whenever a child ends. Descriptors of processes need Linux 5.3, which is newer
        # than what machines of facilities run.
        self._ends, self._written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._written, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(worker, select.POLLIN)
        self._poll.register(self._ends, select.POLLIN)

    def serve(self) -> None:
        """Work until the worker closes its side, then until the last child has ended."""
        accepting = True
        while accepting or self._children:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._ends:
                    self._reap()
                elif not self._answer():
                    accepting = False
                    self._poll.unregister(self._worker)

    def _answer(self) -> bool:
        """Answer a request, and return whether there was one."""
        try:
            request, descriptors, _, _ = socket.recv_fds(self._worker, PACKET_BYTES, 1)
        except ConnectionError:
            return False
        if not request:
            return False
        try:
            answer = self._fork(*descriptors)
        except OSError as error:
            # No memory, process or descriptor is left at this moment: that concerns this request alone.
            answer = {"refused": str(error)}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._tell(**answer)
        return True

    def _fork(self, channel: int | None = None) -> dict[str, object]:
        """Fork a child, unless it would not be as new, and return what to tell the worker."""
        if channel is None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if changed := self._sources.changed():
            return {"outdated": f"changed on disk: {', '.join(changed[:10])}"}
        if (running := threads()) > 1:
            return {"outdated": f"it has {running} threads"}
        pid = os.fork()
        if pid == 0:
            self._become_child(channel)
        self._children.add(pid)
        return {"forked": pid}

    def _become_child(self, channel: int) -> NoReturn:
        """Leave the fork server behind; whatever goes wrong, its loop is not gone on with."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for descriptor in (self._worker.fileno(), self._ends, self._written):
                os.close(descriptor)
            code = child.main(socket.socket(fileno=channel))
        except BaseException:  # noqa: BLE001  # nobody above may see it
            traceback.print_exc()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        """Tell of all children that have ended; one byte may stand for several."""
        os.read(self._ends, PACKET_BYTES)
        for child_pid in tuple(self._children):
            pid, status = os.waitpid(child_pid, os.WNOHANG)
            if pid:
                self._children.remove(pid)
                self._tell(exited=pid, code=os.waitstatus_to_exitcode(status))

    def _tell(self, **content: object) -> None:
        with contextlib.suppress(OSError):  # the worker is gone; the next poll tells
            self._worker.send(message(**content))


def main(descriptor: int) -> None:
    """Import what the worker names, say how that went, and fork."""
    # A terminal's Ctrl-C and a service manager's SIGTERM are the worker's to handle; it closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = socket.socket(fileno=descriptor)
    worker.set_inheritable(False)
    sources = Sources()
    with sources.followed():
        outcome = preload(worker.recv(PACKET_BYTES).decode().split())
    # Or each child would write again what the modules have.
    child.write_out()
    quiet_outages()
    server = ForkServer(worker, sources)
    worker.send(message(ready=outcome))
    if outcome["threaded"] is None:
        server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
