"""The process that flow runs are forked from: it imports what they need, and stays single-threaded.

It is started with a socket to its worker as its only argument, does nothing of a flow run itself, and ends when the
worker does. A child gets its job from the worker directly: whatever happens to this process afterwards is none of the
flow run's concern.
"""

import os
import select
import signal
import socket
import sys
import traceback
from dataclasses import asdict
from typing import NoReturn

from bluesky_prefect.warm import child
from bluesky_prefect.warm.messages import PACKET_BYTES, packet, threads
from bluesky_prefect.warm.preload import Preloaded, Sources, preload


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
        self._poll = select.poll()
        self._poll.register(worker, select.POLLIN)
        # By a descriptor that becomes readable when the child ends.
        self._children: dict[int, tuple[int, int]] = {}
        self._sources = sources

    def serve(self) -> None:
        """Work until the worker closes its side, then until the last child has ended."""
        accepting = True
        while accepting or self._children:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._children:
                    self._reap(descriptor)
                elif not self._answer():
                    accepting = False
                    self._poll.unregister(self._worker)

    def _answer(self) -> bool:
        try:
            request, descriptors, _, _ = socket.recv_fds(self._worker, PACKET_BYTES, 1)
        except ConnectionError:
            return False
        if not request:
            return False
        number = int(request)
        changed, running = self._sources.changed(), threads()
        if changed or running > 1:
            os.close(descriptors[0])
            self._tell(refused=number, changed=changed[:10], threads=running)
        else:
            self._fork(number, descriptors[0])
        return True

    def _fork(self, number: int, channel: int) -> None:
        pid = os.fork()
        if pid == 0:
            _become_child(channel, [self._worker.fileno(), *self._children])
        os.close(channel)
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = pid, number
        self._poll.register(descriptor, select.POLLIN)

    def _reap(self, descriptor: int) -> None:
        pid, number = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._tell(exited=number, code=os.waitstatus_to_exitcode(status))

    def _tell(self, **message: object) -> None:
        try:
            self._worker.send(packet(**message))
        except OSError:
            # The worker is gone; the next poll tells.
            return


def _become_child(channel: int, inherited: list[int]) -> NoReturn:
    """Leave the fork server behind; whatever goes wrong, its loop is not gone on with."""
    code = 1
    try:
        for descriptor in inherited:
            os.close(descriptor)
        code = child.main(socket.socket(fileno=channel))
    except BaseException:  # noqa: BLE001  # nobody above may see it
        traceback.print_exc()
    finally:
        os._exit(code)


def main(descriptor: int) -> None:
    """Import what the worker names, say how that went, and fork."""
    # A terminal's Ctrl-C and a service manager's SIGTERM are the worker's to handle; it closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker = socket.socket(fileno=descriptor)
    worker.set_inheritable(False)
    sources = Sources()
    with sources.followed():
        outcome: Preloaded = preload(worker.recv(PACKET_BYTES).decode().split())
    # Or each child would write again what the modules have.
    child.write_out()
    server = ForkServer(worker, sources)
    worker.send(packet(ready=asdict(outcome), threads=threads()))
    if outcome.threaded is None:
        server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
